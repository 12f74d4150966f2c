/* The pair of 8259 interrupt controllers: registers, priorities, the cascade, as KVM has them. */
#include "frontend/irq/pic.h"

#include <string.h>

#define CASCADE_LINE 2u

void pic_reset(struct pic *pic, const struct pic_ops *ops)
{
	memset(pic->chip, 0, sizeof(pic->chip));
	memset(pic->sources, 0, sizeof(pic->sources));
	pic->ops = ops;
	atomic_init(&pic->output, false);
	/* Lines that a PC may make level-triggered: all but 0, 1, 2, 8 and 13. */
	pic->chip[0].elcr_mask = 0xf8;
	pic->chip[1].elcr_mask = 0xde;
}

/* Priority 0 (highest) to 7 of the best line in @lines, 8 when there is none. */
static unsigned int best_priority(const struct kvm_pic_state *chip, uint8_t lines)
{
	for (unsigned int i = 0; i < 8; i++)
		if (lines >> ((i + chip->priority_add) & 7) & 1)
			return i;
	return 8;
}

/* The line to signal, -1 for none. KVM keeps the special mask mode and ignores it, and so does
 * this.
 */
static int pending_line(const struct pic *pic, unsigned int which)
{
	const struct kvm_pic_state *chip = &pic->chip[which];
	uint8_t waiting = chip->irr & (uint8_t)~chip->imr, serving = chip->isr;
	unsigned int priority = best_priority(chip, waiting);

	if (priority == 8)
		return -1;
	/* In special fully nested mode the second chip may interrupt itself. */
	if (chip->special_fully_nested_mode && which == 0)
		serving &= (uint8_t) ~(1u << CASCADE_LINE);
	if (priority >= best_priority(chip, serving))
		return -1;
	return (int)((priority + chip->priority_add) & 7);
}

static int set_chip_line(struct kvm_pic_state *chip, unsigned int line, bool level)
{
	uint8_t bit = (uint8_t)(1u << line);
	int seen = 1;

	if (level && ((chip->elcr & bit) || !(chip->last_irr & bit))) {
		seen = !(chip->irr & bit);
		chip->irr |= bit;
	}
	if (!level && (chip->elcr & bit))
		chip->irr &= (uint8_t)~bit;
	chip->last_irr = level ? chip->last_irr | bit : chip->last_irr & (uint8_t)~bit;
	return chip->imr & bit ? -1 : seen;
}

void pic_update(struct pic *pic)
{
	bool output;

	/* The second chip's output is an edge on the first one's line 2. */
	if (pending_line(pic, 1) >= 0) {
		(void)set_chip_line(&pic->chip[0], CASCADE_LINE, true);
		(void)set_chip_line(&pic->chip[0], CASCADE_LINE, false);
	}
	output = pending_line(pic, 0) >= 0;
	if (!atomic_exchange_explicit(&pic->output, output, memory_order_acq_rel) && output)
		pic->ops->raised(pic);
}

int pic_set_line(struct pic *pic, unsigned int line, unsigned int source, bool level)
{
	uint8_t bit = (uint8_t)(1u << source), *sources = &pic->sources[line];
	int seen;

	*sources = level ? *sources | bit : *sources & (uint8_t)~bit;
	seen = set_chip_line(&pic->chip[line >> 3], line & 7, *sources != 0);
	pic_update(pic);
	return seen;
}

/* @line of chip @which is served. */
static void end_line(struct pic *pic, unsigned int which, unsigned int line)
{
	pic->chip[which].isr &= (uint8_t) ~(1u << line);
	pic->ops->acked(pic, 8 * which + line);
}

/* Take @line into service. */
static void take_line(struct pic *pic, unsigned int which, unsigned int line)
{
	struct kvm_pic_state *chip = &pic->chip[which];
	uint8_t bit = (uint8_t)(1u << line);

	chip->isr |= bit;
	if (!(chip->elcr & bit))
		chip->irr &= (uint8_t)~bit;
	if (!chip->auto_eoi)
		return;
	if (chip->rotate_on_auto_eoi)
		chip->priority_add = (uint8_t)((line + 1) & 7);
	end_line(pic, which, line);
}

uint8_t pic_acknowledge(struct pic *pic)
{
	int line = pending_line(pic, 0), second;
	uint8_t vector;

	atomic_store_explicit(&pic->output, false, memory_order_release);
	if (line >= 0)
		take_line(pic, 0, (unsigned int)line);
	if (line == (int)CASCADE_LINE) {
		second = pending_line(pic, 1);
		if (second >= 0)
			take_line(pic, 1, (unsigned int)second);
		vector = (uint8_t)(pic->chip[1].irq_base + (second >= 0 ? second : 7));
	} else {
		vector = (uint8_t)(pic->chip[0].irq_base + (line >= 0 ? line : 7));
	}
	pic_update(pic);
	return vector;
}

/* ICW1. What an edge had brought is forgotten, and its line is free again. */
static void initialise(struct pic *pic, unsigned int which, uint8_t value)
{
	struct kvm_pic_state *chip = &pic->chip[which];
	uint8_t edges = chip->irr & (uint8_t)~chip->elcr;

	chip->init4 = value & 1;
	chip->last_irr = 0;
	chip->irr &= chip->elcr;
	chip->imr = 0;
	chip->priority_add = 0;
	chip->special_mask = 0;
	chip->read_reg_select = 0;
	if (!chip->init4) {
		chip->special_fully_nested_mode = 0;
		chip->auto_eoi = 0;
	}
	chip->init_state = 1;
	if (!pic->ops->has_listener(pic))
		return;
	for (unsigned int line = 0; line < 8; line++)
		if (edges >> line & 1)
			end_line(pic, which, line);
}

/* OCW2: end of interrupt and rotation. */
static void write_ocw2(struct pic *pic, unsigned int which, uint8_t value)
{
	struct kvm_pic_state *chip = &pic->chip[which];
	unsigned int priority, line = value & 7;

	switch (value >> 5) {
	case 0:
	case 4:
		chip->rotate_on_auto_eoi = value >> 7;
		return;
	case 1: /* non-specific, without and with rotation */
	case 5:
		priority = best_priority(chip, chip->isr);
		if (priority == 8)
			return;
		line = (priority + chip->priority_add) & 7;
		break;
	case 3: /* specific, without and with rotation */
	case 7:
		break;
	case 6:
		chip->priority_add = (uint8_t)((line + 1) & 7);
		pic_update(pic);
		return;
	default:
		return;
	}
	if (value >> 7)
		chip->priority_add = (uint8_t)((line + 1) & 7);
	end_line(pic, which, line);
	pic_update(pic);
}

static void write_command(struct pic *pic, unsigned int which, uint8_t value)
{
	struct kvm_pic_state *chip = &pic->chip[which];

	if (value & 0x10) {
		initialise(pic, which, value);
	} else if (value & 0x08) {
		if (value & 0x04)
			chip->poll = 1;
		if (value & 0x02)
			chip->read_reg_select = value & 1;
		if (value & 0x40)
			chip->special_mask = value >> 5 & 1;
	} else {
		write_ocw2(pic, which, value);
	}
}

static void write_mask(struct pic *pic, unsigned int which, uint8_t value)
{
	uint8_t changed = pic->chip[which].imr ^ value;

	pic->chip[which].imr = value;
	for (unsigned int line = 0; line < 8; line++)
		if (changed >> line & 1)
			pic->ops->mask_changed(pic, 8 * which + line, value >> line & 1);
	pic_update(pic);
}

static void write_data(struct pic *pic, unsigned int which, uint8_t value)
{
	struct kvm_pic_state *chip = &pic->chip[which];

	switch (chip->init_state) {
	case 0:
		write_mask(pic, which, value);
		break;
	case 1:
		chip->irq_base = value & 0xf8;
		chip->init_state = 2;
		break;
	case 2:
		chip->init_state = chip->init4 ? 3 : 0;
		break;
	case 3:
		chip->special_fully_nested_mode = value >> 4 & 1;
		chip->auto_eoi = value >> 1 & 1;
		chip->init_state = 0;
		break;
	default: /* a state that only a client can set */
		break;
	}
}

/* Which chip a port belongs to: 0, 1, or -1. */
static int chip_of(uint16_t port)
{
	if ((port & ~1) == 0x20)
		return 0;
	return (port & ~1) == 0xa0 ? 1 : -1;
}

bool pic_write(struct pic *pic, uint16_t port, uint8_t value)
{
	int which = chip_of(port);

	if (port == 0x4d0 || port == 0x4d1) {
		pic->chip[port & 1].elcr = value & pic->chip[port & 1].elcr_mask;
		return true;
	}
	if (which < 0)
		return false;
	if (port & 1)
		write_data(pic, (unsigned int)which, value);
	else
		write_command(pic, (unsigned int)which, value);
	return true;
}

/* A poll takes the line and ends it at once. */
static uint8_t read_poll(struct pic *pic, unsigned int which)
{
	int line = pending_line(pic, which);

	if (line < 0) {
		pic_update(pic);
		return 7;
	}
	if (which == 1) {
		pic->chip[0].isr &= (uint8_t) ~(1u << CASCADE_LINE);
		pic->chip[0].irr &= (uint8_t) ~(1u << CASCADE_LINE);
	}
	pic->chip[which].irr &= (uint8_t) ~(1u << line);
	end_line(pic, which, (unsigned int)line);
	if (which == 1 || line != (int)CASCADE_LINE)
		pic_update(pic);
	return (uint8_t)(0x80 | line);
}

bool pic_read(struct pic *pic, uint16_t port, uint8_t *value)
{
	int which = chip_of(port);
	struct kvm_pic_state *chip;

	if (port == 0x4d0 || port == 0x4d1) {
		*value = pic->chip[port & 1].elcr;
		return true;
	}
	if (which < 0)
		return false;
	chip = &pic->chip[which];
	if (chip->poll) {
		*value = read_poll(pic, (unsigned int)which);
		chip->poll = 0;
	} else if (port & 1) {
		*value = chip->imr;
	} else {
		*value = chip->read_reg_select ? chip->isr : chip->irr;
	}
	return true;
}
