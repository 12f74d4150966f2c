/* The interrupt controllers' registers as a guest reads and writes them, and what lines make of it.
 */
#include "machine.h"

#define IOAPIC 0xfec00000u
#define RESULT 0x2000u
#define SAW_ACCESS 0x5a
#define LEVEL 0x8000u
#define REMOTE_IRR 0x4000u
#define MASKED 0x10000u

/* Runs @code, which is to end by a report. ES is at the IOAPIC. */
static void guest_does(struct machine *machine, const uint8_t *code, size_t bytes)
{
	const uint8_t end[] = {0xb0, SAW_ACCESS, 0xe6, REPORT_PORT};
	struct kvm_sregs sregs;

	memcpy(machine->memory + CODE, code, bytes);
	memcpy(machine->memory + CODE + bytes, end, sizeof(end));
	machine_set_registers(machine);
	WORKS(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs));
	sregs.es.base = IOAPIC;
	sregs.es.limit = 0xffff;
	WORKS(ioctl(machine->vcpu, KVM_SET_SREGS, &sregs));
	CHECK(next_report(machine) == SAW_ACCESS, "the guest's code");
}

static void write_ioapic(struct machine *machine, uint8_t index, uint32_t value)
{
	/* mov dword es:[0], index; mov dword es:[0x10], value */
	uint8_t code[] = {0x66, 0x26, 0xc7, 0x06, 0,	0, index, 0, 0, 0,
			  0x66, 0x26, 0xc7, 0x06, 0x10, 0, 0,	  0, 0, 0};

	memcpy(code + 16, &value, sizeof(value));
	guest_does(machine, code, sizeof(code));
}

static uint32_t read_ioapic(struct machine *machine, uint8_t index)
{
	/* mov dword es:[0], index; mov eax, es:[0x10]; mov [RESULT], eax */
	const uint8_t code[] = {0x66, 0x26, 0xc7, 0x06,		 0,	     0,	   index,
				0,    0,    0,	  0x66,		 0x26,	     0xa1, 0x10,
				0,    0x66, 0xa3, RESULT & 0xff, RESULT >> 8};
	uint32_t value;

	guest_does(machine, code, sizeof(code));
	memcpy(&value, machine->memory + RESULT, sizeof(value));
	return value;
}

static void write_line(struct machine *machine, unsigned int line, uint32_t low)
{
	write_ioapic(machine, (uint8_t)(0x11 + 2 * line), 0);
	write_ioapic(machine, (uint8_t)(0x10 + 2 * line), low);
}

static void set_line(struct machine *machine, uint32_t line, uint32_t level)
{
	struct kvm_irq_level request = {.irq = line, .level = level};

	WORKS(ioctl(machine->vm, KVM_IRQ_LINE, &request));
}

/* Is @vector in the local APIC's register at @offset (IRR, ISR, TMR)? */
static int has_vector(const struct machine *machine, unsigned int offset, unsigned int vector)
{
	struct kvm_lapic_state state;
	uint32_t word;

	WORKS(ioctl(machine->vcpu, KVM_GET_LAPIC, &state));
	memcpy(&word, &state.regs[offset + vector / 32 * 16], sizeof(word));
	return word >> vector % 32 & 1;
}

/* The local APIC takes interrupts; the guest does not, for its flag is off. */
static void open_machine(struct machine *machine)
{
	struct kvm_lapic_state state;
	uint32_t spurious = 0x1ff;

	machine_open(machine, MACHINE_IRQCHIP);
	WORKS(ioctl(machine->vcpu, KVM_GET_LAPIC, &state));
	memcpy(&state.regs[0xf0], &spurious, sizeof(spurious));
	WORKS(ioctl(machine->vcpu, KVM_SET_LAPIC, &state));
}

static void registers(void)
{
	struct machine machine;

	open_machine(&machine);
	CHECK(read_ioapic(&machine, 1) == 0x170011, "version %x", read_ioapic(&machine, 1));
	write_ioapic(&machine, 1, 0);
	CHECK(read_ioapic(&machine, 1) == 0x170011, "the version stays");
	write_ioapic(&machine, 0, 0xf5000000);
	CHECK(read_ioapic(&machine, 0) == 0x05000000, "the id has four bits");
	CHECK(read_ioapic(&machine, 2) == 0x05000000, "arbitration");
	CHECK(read_ioapic(&machine, 0x10) & MASKED, "masked at the start");
	write_ioapic(&machine, 0x3f, 0xab123456);
	CHECK(read_ioapic(&machine, 0x3f) == 0xab123456, "the upper half of the last line");
	write_ioapic(&machine, 0x3e, MASKED | REMOTE_IRR | 0x1000 | 0x61);
	CHECK(read_ioapic(&machine, 0x3e) == (MASKED | 0x61), "status is not for writing: %x",
	      read_ioapic(&machine, 0x3e));
	CHECK(read_ioapic(&machine, 0x40) == UINT32_MAX, "past the last");
	machine_close(&machine);
}

static void edges_and_levels(void)
{
	struct machine machine;

	open_machine(&machine);
	write_line(&machine, 11, 0x62);
	set_line(&machine, 11, 1);
	CHECK(has_vector(&machine, 0x200, 0x62), "an edge is taken");
	CHECK(!has_vector(&machine, 0x180, 0x62), "and is none of a level");
	set_line(&machine, 11, 0);
	write_line(&machine, 10, LEVEL | 0x63);
	set_line(&machine, 10, 1);
	CHECK(has_vector(&machine, 0x200, 0x63) && has_vector(&machine, 0x180, 0x63), "a level");
	CHECK(read_ioapic(&machine, 0x24) == (LEVEL | REMOTE_IRR | 0x63), "under way: %x",
	      read_ioapic(&machine, 0x24));
	set_line(&machine, 10, 0);
	/* Held back by the mask, and delivered when that goes, while the line is high. */
	write_line(&machine, 12, LEVEL | MASKED | 0x64);
	set_line(&machine, 12, 1);
	CHECK(!has_vector(&machine, 0x200, 0x64), "masked");
	write_ioapic(&machine, 0x28, LEVEL | 0x64);
	CHECK(has_vector(&machine, 0x200, 0x64), "unmasked");
	set_line(&machine, 12, 0);
	write_line(&machine, 13, MASKED | 0x65);
	set_line(&machine, 13, 1);
	set_line(&machine, 13, 0);
	CHECK(!has_vector(&machine, 0x200, 0x65), "an edge under the mask");
	machine_close(&machine);
}

/* The PIC by its ports: masks, what is asked for, what is in service, polling. */
static void ports_of_the_pic(void)
{
	/* mask all but line 1; OCW3: read IRR; in al, 0x20; mov [RESULT], al; in al, 0x21; ... */
	const uint8_t ask[] = {
	    0xb0, 0xfd, 0xe6, 0x21, 0xb0, 0x0a, 0xe6, 0x20, 0xe4, 0x20, 0xa2, RESULT & 0xff,
	    RESULT >> 8, 0xe4, 0x21, 0xa2, (RESULT & 0xff) + 1, RESULT >> 8,
	    /* OCW3: poll; the answer is the line */
	    0xb0, 0x0c, 0xe6, 0x20, 0xe4, 0x20, 0xa2, (RESULT & 0xff) + 2, RESULT >> 8,
	    /* OCW3: read ISR */
	    0xb0, 0x0b, 0xe6, 0x20, 0xe4, 0x20, 0xa2, (RESULT & 0xff) + 3, RESULT >> 8,
	    /* a specific end of line 1; read ISR again */
	    0xb0, 0x61, 0xe6, 0x20, 0xe4, 0x20, 0xa2, (RESULT & 0xff) + 4, RESULT >> 8};
	const uint8_t set_up[] = {0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04,
				  0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xff, 0xe6, 0x21};
	struct machine machine;
	const uint8_t *seen;

	machine_open(&machine, MACHINE_IRQCHIP);
	seen = machine.memory + RESULT;
	guest_does(&machine, set_up, sizeof(set_up));
	set_line(&machine, 1, 1);
	guest_does(&machine, ask, sizeof(ask));
	CHECK(seen[0] == 0x02, "IRR %x", seen[0]);
	CHECK(seen[1] == 0xfd, "the mask %x", seen[1]);
	CHECK(seen[2] == 0x81, "polled %x", seen[2]);
	/* On the chip it is in service then; KVM ends it with the poll. */
	CHECK(seen[3] == 0x00, "ISR %x", seen[3]);
	CHECK(seen[4] == 0x00, "ended %x", seen[4]);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	registers();
	edges_and_levels();
	ports_of_the_pic();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
