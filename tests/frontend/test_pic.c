/* The pair of PICs by their ports: what a write does to the state, polls, rotation, the cascade. */
#include "flat.h"

#define FIRST 0x20u
#define SECOND 0xa0u
#define EDGES 0x4d0u
#define SAW_SECOND 0x54
#define SECOND_VECTOR 0x29u

static struct kvm_pic_state chip(const struct machine *machine, unsigned int which)
{
	struct kvm_irqchip state = {.chip_id = which};

	WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &state));
	return state.chip.pic;
}

static void set_chip(const struct machine *machine, unsigned int which, struct kvm_pic_state pic)
{
	struct kvm_irqchip state = {.chip_id = which, .chip.pic = pic};

	WORKS(ioctl(machine->vm, KVM_SET_IRQCHIP, &state));
}

static void set_line(const struct machine *machine, uint32_t line, uint32_t level)
{
	struct kvm_irq_level request = {.irq = line, .level = level};

	WORKS(ioctl(machine->vm, KVM_IRQ_LINE, &request));
}

static void pulse(const struct machine *machine, uint32_t line)
{
	set_line(machine, line, 1);
	set_line(machine, line, 0);
}

/* Both chips: vectors from 0x20 and 0x28 on, nothing masked; ICW4 is @mode. */
static void set_up(struct machine *machine, uint8_t mode)
{
	for (uint16_t port = FIRST; port <= SECOND; port += SECOND - FIRST) {
		guest_out(machine, port, 0x11);
		guest_out(machine, port + 1, port == FIRST ? 0x20 : 0x28);
		guest_out(machine, port + 1, port == FIRST ? 4 : 2);
		guest_out(machine, port + 1, mode);
		guest_out(machine, port + 1, 0);
	}
}

/* One write of a command, on a state in which lines 2 and 5 are in service. */
static void commands(void)
{
	static const struct {
		uint8_t value, isr, priority, rotates, special_mask;
	} rows[] = {
	    {0x80, 0x24, 0, 1, 0}, /* rotate at automatic ends: on */
	    {0x00, 0x24, 0, 0, 0}, /* and off */
	    {0x20, 0x20, 0, 0, 0}, /* the best line ends */
	    {0xa0, 0x20, 3, 0, 0}, /* and becomes the last */
	    {0x65, 0x04, 0, 0, 0}, /* line 5 ends */
	    {0xe5, 0x04, 6, 0, 0}, /* and becomes the last */
	    {0xc5, 0x24, 6, 0, 0}, /* line 5 becomes the last */
	    {0x40, 0x24, 0, 0, 0}, /* nothing */
	    {0x68, 0x24, 0, 0, 1}, /* special mask */
	    {0x48, 0x24, 0, 0, 0},
	};
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	set_up(&machine, 1);
	for (unsigned int which = 0; which < 2; which++) {
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			struct kvm_pic_state pic = chip(&machine, which);

			pic.isr = 0x24;
			pic.priority_add = pic.rotate_on_auto_eoi = pic.special_mask = 0;
			set_chip(&machine, which, pic);
			guest_out(&machine, which ? SECOND : FIRST, rows[i].value);
			pic = chip(&machine, which);
			CHECK(pic.isr == rows[i].isr && pic.priority_add == rows[i].priority &&
				  pic.rotate_on_auto_eoi == rows[i].rotates &&
				  pic.special_mask == rows[i].special_mask,
			      "chip %u, command %x: %x %x %x %x", which, rows[i].value, pic.isr,
			      pic.priority_add, pic.rotate_on_auto_eoi, pic.special_mask);
		}
	}
	machine_close(&machine);
}

/* An end that names no line, with none in service. */
static void ends_of_nothing(void)
{
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	set_up(&machine, 1);
	guest_out(&machine, FIRST, 0xa0);
	CHECK(chip(&machine, 0).priority_add == 0, "rotated without a line");
	machine_close(&machine);
}

/* ICW1 without ICW4: the modes of ICW4 go, and two words are enough. */
static void initialisation(void)
{
	struct kvm_pic_state pic;
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	set_up(&machine, 0x13);
	pic = chip(&machine, 0);
	CHECK(pic.special_fully_nested_mode == 1 && pic.auto_eoi == 1 && !pic.init_state,
	      "ICW4: %x %x, state %u", pic.special_fully_nested_mode, pic.auto_eoi, pic.init_state);
	guest_out(&machine, FIRST, 0x10);
	pic = chip(&machine, 0);
	CHECK(!pic.special_fully_nested_mode && !pic.auto_eoi && pic.init_state == 1,
	      "ICW1 alone: %x %x, state %u", pic.special_fully_nested_mode, pic.auto_eoi,
	      pic.init_state);
	guest_out(&machine, FIRST + 1, 0x47);
	guest_out(&machine, FIRST + 1, 4);
	pic = chip(&machine, 0);
	CHECK(pic.irq_base == 0x40 && !pic.init_state, "base %x, state %u", pic.irq_base,
	      pic.init_state);
	/* A state that there is not takes no word. */
	pic.init_state = 7;
	set_chip(&machine, 0, pic);
	guest_out(&machine, FIRST + 1, 0xff);
	pic = chip(&machine, 0);
	CHECK(!pic.imr && pic.irq_base == 0x40 && pic.init_state == 7, "mask %x", pic.imr);
	machine_close(&machine);
}

/* Which lines may be level-triggered: all but 0, 1, 2, 8 and 13. */
static void edge_or_level(void)
{
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	for (uint16_t which = 0; which < 2; which++) {
		guest_out(&machine, EDGES + which, 0xff);
		CHECK(guest_in(&machine, EDGES + which) == (which ? 0xde : 0xf8), "chip %u: %x",
		      which, guest_in(&machine, EDGES + which));
	}
	set_up(&machine, 1);
	set_line(&machine, 5, 1);
	CHECK(chip(&machine, 0).irr == 0x20, "a level");
	set_line(&machine, 5, 0);
	CHECK(!chip(&machine, 0).irr, "and its end");
	machine_close(&machine);
}

/* Polls of either chip: the line, or 7 for none. What is polled is ended. */
static void polls(void)
{
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	set_up(&machine, 1);
	guest_out(&machine, FIRST, 0x0c);
	CHECK(guest_in(&machine, FIRST) == 7, "nothing waits");
	CHECK(guest_in(&machine, FIRST) == 0, "a poll is one read");
	pulse(&machine, 11);
	CHECK(chip(&machine, 0).irr == 0x04 && chip(&machine, 1).irr == 0x08, "the cascade");
	guest_out(&machine, SECOND, 0x0c);
	CHECK(guest_in(&machine, SECOND) == 0x83, "line 3 of the second chip");
	CHECK(!chip(&machine, 0).irr && !chip(&machine, 1).irr && !chip(&machine, 1).isr, "ended");
	machine_close(&machine);
}

/* sti; nop; hlt; jmp back to it */
static const uint8_t listen_code[] = {0xfb, 0x90, 0xf4, 0xeb, 0xfd};

/* Real mode, with the PICs as @mode has them, without the set-up of the guest's own. */
static void open_listener(struct machine *machine, uint8_t mode)
{
	struct kvm_pic_state pic = {.init4 = 1};

	machine_open(machine, MACHINE_IRQCHIP);
	pic.auto_eoi = mode >> 1 & 1;
	pic.special_fully_nested_mode = mode >> 4 & 1;
	for (unsigned int which = 0; which < 2; which++) {
		pic.elcr_mask = which ? 0xde : 0xf8;
		pic.irq_base = which ? 0x28 : 0x20;
		set_chip(machine, which, pic);
	}
	machine_put_handler(machine, SECOND_VECTOR, SAW_SECOND);
	memcpy(machine->memory + CODE, listen_code, sizeof(listen_code));
}

/* The second chip's vector comes by the first one's line 2. */
static void second_chip(void)
{
	struct machine machine;

	open_listener(&machine, 1);
	pulse(&machine, 9);
	CHECK(next_report(&machine) == SAW_SECOND, "exit %u", machine.run->exit_reason);
	/* The handler has ended the first chip's line alone: the second one's holds up the next. */
	CHECK(chip(&machine, 1).isr == 0x02 && !chip(&machine, 0).isr, "in service: %x %x",
	      chip(&machine, 0).isr, chip(&machine, 1).isr);
	pulse(&machine, 10);
	CHECK(!chip(&machine, 0).irr, "line 10 goes before line 9: %x", chip(&machine, 0).irr);
	machine_close(&machine);
}

/* Automatic ends: nothing stays in service, and with rotation the line becomes the last. */
static void automatic_ends(void)
{
	struct kvm_pic_state pic;
	struct machine machine;

	open_listener(&machine, 3);
	pic = chip(&machine, 0);
	pic.rotate_on_auto_eoi = 1;
	set_chip(&machine, 0, pic);
	pulse(&machine, 0);
	CHECK(next_report(&machine) == SAW_PIC, "exit %u", machine.run->exit_reason);
	pic = chip(&machine, 0);
	CHECK(!pic.isr && pic.priority_add == 1, "in service %x, priority %u", pic.isr,
	      pic.priority_add);
	machine_close(&machine);
}

/* Special fully nested: the second chip may interrupt itself. */
static void special_nesting(void)
{
	struct kvm_pic_state pic;
	struct machine machine;

	for (int special = 0; special < 2; special++) {
		open_listener(&machine, special ? 0x11 : 1);
		pic = chip(&machine, 0);
		pic.isr = 0x04; /* the cascade is in service, of line 11, say */
		set_chip(&machine, 0, pic);
		pulse(&machine, 9);
		if (special) {
			CHECK(next_report(&machine) == SAW_SECOND, "exit %u",
			      machine.run->exit_reason);
		} else {
			machine.run->immediate_exit = 1;
			FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINTR);
			CHECK(chip(&machine, 0).irr == 0x04, "not held back");
		}
		machine_close(&machine);
	}
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	commands();
	ends_of_nothing();
	initialisation();
	edge_or_level();
	polls();
	second_chip();
	automatic_ends();
	special_nesting();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
