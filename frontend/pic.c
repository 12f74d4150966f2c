/* The pair of 8259 interrupt controllers: registers, priorities, the cascade. */
#include "frontend/pic.h"

#include <string.h>

#define CASCADE_LINE 2u

void pic_reset(struct pic *pic)
{
	memset(pic, 0, sizeof(*pic));
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

/* The line to signal, -1 for none. */
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
	if (chip->special_mask)
		serving &= (uint8_t)~chip->imr;
	if (priority >= best_priority(chip, serving))
		return -1;
	return (int)((priority + chip->priority_add) & 7);
}

static void set_chip_line(struct kvm_pic_state *chip, unsigned int line, bool level)
{
	uint8_t bit = (uint8_t)(1u << line);

	if (chip->elcr & bit) {
		chip->irr = level ? chip->irr | bit : chip->irr & (uint8_t)~bit;
	} else if (level && !(chip->last_irr & bit)) {
		chip->irr |= bit;
	}
	chip->last_irr = level ? chip->last_irr | bit : chip->last_irr & (uint8_t)~bit;
}

/* The second chip's output is the first one's line 2. */
static void update_cascade(struct pic *pic)
{
	if (pending_line(pic, 1) < 0) {
		set_chip_line(&pic->chip[0], CASCADE_LINE, false);
		return;
	}
	set_chip_line(&pic->chip[0], CASCADE_LINE, true);
	set_chip_line(&pic->chip[0], CASCADE_LINE, false);
}

void pic_set_line(struct pic *pic, unsigned int line, bool level)
{
	set_chip_line(&pic->chip[line >> 3], line & 7, level);
	update_cascade(pic);
}

bool pic_output(const struct pic *pic)
{
	return pending_line(pic, 0) >= 0;
}

/* Take @line into service. */
static void take_line(struct kvm_pic_state *chip, unsigned int line)
{
	uint8_t bit = (uint8_t)(1u << line);

	if (!chip->auto_eoi)
		chip->isr |= bit;
	else if (chip->rotate_on_auto_eoi)
		chip->priority_add = (uint8_t)((line + 1) & 7);
	if (!(chip->elcr & bit))
		chip->irr &= (uint8_t)~bit;
}

uint8_t pic_acknowledge(struct pic *pic)
{
	int line = pending_line(pic, 0), second;

	if (line < 0)
		return pic->chip[0].irq_base + 7;
	take_line(&pic->chip[0], (unsigned int)line);
	if (line != (int)CASCADE_LINE)
		return (uint8_t)(pic->chip[0].irq_base + line);
	second = pending_line(pic, 1);
	if (second >= 0)
		take_line(&pic->chip[1], (unsigned int)second);
	else
		second = 7;
	update_cascade(pic);
	return (uint8_t)(pic->chip[1].irq_base + second);
}

static void initialise(struct kvm_pic_state *chip, uint8_t value)
{
	chip->init4 = value & 1;
	chip->last_irr = 0;
	chip->irr &= chip->elcr;
	chip->imr = 0;
	chip->isr = 0;
	chip->priority_add = 0;
	chip->special_mask = 0;
	chip->read_reg_select = 0;
	chip->poll = 0;
	chip->auto_eoi = 0;
	chip->rotate_on_auto_eoi = 0;
	chip->special_fully_nested_mode = 0;
	chip->init_state = 1;
}

/* OCW2: end of interrupt and rotation. */
static void write_ocw2(struct kvm_pic_state *chip, uint8_t value)
{
	unsigned int priority = best_priority(chip, chip->isr);
	unsigned int line = (priority + chip->priority_add) & 7;

	switch (value >> 5) {
	case 0:
	case 4:
		chip->rotate_on_auto_eoi = value >> 7;
		break;
	case 1: /* non-specific, without and with rotation */
	case 5:
		if (priority == 8)
			break;
		chip->isr &= (uint8_t) ~(1u << line);
		if (value >> 5 == 5)
			chip->priority_add = (uint8_t)((line + 1) & 7);
		break;
	case 3: /* specific, without and with rotation */
	case 7:
		chip->isr &= (uint8_t) ~(1u << (value & 7));
		if (value >> 5 == 7)
			chip->priority_add = (uint8_t)((value + 1) & 7);
		break;
	case 6:
		chip->priority_add = (uint8_t)((value + 1) & 7);
		break;
	default:
		break;
	}
}

static void write_command(struct kvm_pic_state *chip, uint8_t value)
{
	if (value & 0x10) {
		initialise(chip, value);
	} else if (value & 0x08) {
		if (value & 0x04)
			chip->poll = 1;
		if (value & 0x02)
			chip->read_reg_select = value & 1;
		if (value & 0x40)
			chip->special_mask = value >> 5 & 1;
	} else {
		write_ocw2(chip, value);
	}
}

static void write_data(struct kvm_pic_state *chip, uint8_t value)
{
	switch (chip->init_state) {
	case 0:
		chip->imr = value;
		break;
	case 1:
		chip->irq_base = value & 0xf8;
		chip->init_state = 2;
		break;
	case 2:
		chip->init_state = chip->init4 ? 3 : 0;
		break;
	default:
		chip->special_fully_nested_mode = value >> 4 & 1;
		chip->auto_eoi = value >> 1 & 1;
		chip->init_state = 0;
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
		write_data(&pic->chip[which], value);
	else
		write_command(&pic->chip[which], value);
	update_cascade(pic);
	return true;
}

static uint8_t read_poll(struct pic *pic, unsigned int which)
{
	struct kvm_pic_state *chip = &pic->chip[which];
	int line = pending_line(pic, which);

	chip->poll = 0;
	if (line < 0)
		return 7;
	take_line(chip, (unsigned int)line);
	update_cascade(pic);
	return (uint8_t)(0x80 | line);
}

bool pic_read(struct pic *pic, uint16_t port, uint8_t *value)
{
	int which = chip_of(port);
	const struct kvm_pic_state *chip;

	if (port == 0x4d0 || port == 0x4d1) {
		*value = pic->chip[port & 1].elcr;
		return true;
	}
	if (which < 0)
		return false;
	chip = &pic->chip[which];
	if (chip->poll)
		*value = read_poll(pic, (unsigned int)which);
	else if (port & 1)
		*value = chip->imr;
	else
		*value = chip->read_reg_select ? chip->isr : chip->irr;
	return true;
}
