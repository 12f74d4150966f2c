/* A split irqchip: local APICs inside, PIC and I/O APIC with the client. */
#include "machine.h"

#define LINT0_MASKED 0x10000u
#define LINT0_EXTINT 0x700u
#define GSI 5u

/* out REPORT_PORT, 0x60; sti; nop; out REPORT_PORT, 0x61; sti; hlt; out REPORT_PORT, 0x62; hlt */
static const uint8_t window_code[] = {
    0xb0,	 0x60, 0xe6, REPORT_PORT, 0xfb, 0x90, 0xb0,	   0x61, 0xe6,
    REPORT_PORT, 0xfb, 0xf4, 0xb0,	  0x62, 0xe6, REPORT_PORT, 0xf4,
};

static void set_lint0(struct machine *machine, uint32_t value)
{
	struct kvm_lapic_state lapic;
	uint32_t spurious = 0x1ff;

	WORKS(ioctl(machine->vcpu, KVM_GET_LAPIC, &lapic));
	memcpy(&lapic.regs[0xf0], &spurious, sizeof(spurious));
	memcpy(&lapic.regs[0x350], &value, sizeof(value));
	WORKS(ioctl(machine->vcpu, KVM_SET_LAPIC, &lapic));
}

static void open_window_machine(struct machine *machine, uint32_t lint0)
{
	machine_open(machine, MACHINE_SPLIT);
	memcpy(machine->memory + CODE, window_code, sizeof(window_code));
	set_lint0(machine, lint0);
	machine->run->request_interrupt_window = 1;
}

/* The next exit. */
static uint32_t next_exit(struct machine *machine)
{
	WORKS(ioctl(machine->vcpu, KVM_RUN, 0));
	return machine->run->exit_reason;
}

/* What LINT0 does not let through is not asked for: a client would ask for ever. */
static void no_window_behind_a_masked_lint0(void)
{
	struct machine machine;

	open_window_machine(&machine, LINT0_MASKED);
	CHECK(next_report(&machine) == 0x60, "before STI");
	CHECK(next_report(&machine) == 0x61, "after STI: exit %u", machine.run->exit_reason);
	CHECK(!machine.run->ready_for_interrupt_injection && machine.run->if_flag, "ready");
	machine_close(&machine);
	open_window_machine(&machine, 0x400); /* NMI's mode lets no vector through either */
	CHECK(next_report(&machine) == 0x60 && next_report(&machine) == 0x61, "LINT0 for NMIs");
	machine_close(&machine);
}

static void window_opens_with_lint0(void)
{
	struct kvm_interrupt interrupt = {.irq = PIC_VECTOR};
	struct machine machine;

	open_window_machine(&machine, LINT0_EXTINT);
	CHECK(next_report(&machine) == 0x60, "before STI");
	CHECK(!machine.run->ready_for_interrupt_injection, "ready before STI");
	CHECK(next_exit(&machine) == KVM_EXIT_IRQ_WINDOW_OPEN, "exit %u", machine.run->exit_reason);
	CHECK(machine.run->ready_for_interrupt_injection && machine.run->if_flag, "not ready");
	WORKS(ioctl(machine.vcpu, KVM_INTERRUPT, &interrupt));
	FAILS(ioctl(machine.vcpu, KVM_INTERRUPT, &interrupt), EEXIST);
	machine.run->request_interrupt_window = 0;
	CHECK(next_report(&machine) == SAW_PIC, "injected");
	CHECK(next_report(&machine) == 0x61, "and on");
	machine_close(&machine);
}

/* A vector that was injected waits while LINT0 is masked. */
static void masked_lint0_holds_the_vector(void)
{
	struct kvm_interrupt interrupt = {.irq = PIC_VECTOR};
	struct machine machine;

	open_window_machine(&machine, LINT0_MASKED);
	machine.run->request_interrupt_window = 0;
	WORKS(ioctl(machine.vcpu, KVM_INTERRUPT, &interrupt));
	CHECK(next_report(&machine) == 0x60, "before STI");
	CHECK(next_report(&machine) == 0x61, "after STI");
	set_lint0(&machine, LINT0_EXTINT);
	CHECK(next_report(&machine) == SAW_PIC, "let through");
	machine_close(&machine);
}

/* HLT with interrupts on is a window, too. */
static void window_opens_at_hlt(void)
{
	static const uint8_t sti_hlt[] = {0xfb, 0xf4};
	struct machine machine;

	open_window_machine(&machine, LINT0_EXTINT);
	memcpy(machine.memory + CODE, sti_hlt, sizeof(sti_hlt));
	CHECK(next_exit(&machine) == KVM_EXIT_IRQ_WINDOW_OPEN, "exit %u", machine.run->exit_reason);
	CHECK(machine.run->ready_for_interrupt_injection, "not ready");
	machine_close(&machine);
}

struct one_route {
	struct kvm_irq_routing header;
	struct kvm_irq_routing_entry entry;
};

static struct one_route message_route(void)
{
	struct one_route table = {{.nr = 1}, {.gsi = GSI, .type = KVM_IRQ_ROUTING_MSI}};

	table.entry.u.msi.address_lo = 0xfee00000;
	table.entry.u.msi.data = MESSAGE_VECTOR;
	return table;
}

/* KVM_IRQ_LINE follows the routes, of which only messages exist here. */
static void lines_raise_messages(void)
{
	struct kvm_irq_level line = {.irq = GSI, .level = 1};
	struct one_route table = message_route();
	struct kvm_irqchip chip = {.chip_id = 0};
	struct machine machine;

	machine_open(&machine, MACHINE_SPLIT);
	set_lint0(&machine, LINT0_MASKED);
	WORKS(ioctl(machine.vm, KVM_SET_GSI_ROUTING, &table));
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE, &line));
	CHECK(next_report(&machine) == SAW_MESSAGE, "exit %u", machine.run->exit_reason);
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE_STATUS, &line));
	CHECK(line.status == 1, "status %d", line.status);
	line.level = 0;
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE_STATUS, &line));
	CHECK(line.status == -1, "status of a falling line %d", line.status);
	line.irq = GSI + 1;
	line.level = 1;
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE_STATUS, &line));
	CHECK(line.status == -1, "status without a route %d", line.status);
	table.entry.type = KVM_IRQ_ROUTING_IRQCHIP;
	table.entry.u.irqchip.irqchip = 0;
	table.entry.u.irqchip.pin = 0;
	FAILS(ioctl(machine.vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
	FAILS(ioctl(machine.vm, KVM_GET_IRQCHIP, &chip), ENXIO);
	machine_close(&machine);
	machine_open(&machine, MACHINE_NO_IRQCHIP);
	FAILS(ioctl(machine.vm, KVM_IRQ_LINE, &line), ENXIO);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	no_window_behind_a_masked_lint0();
	window_opens_with_lint0();
	masked_lint0_holds_the_vector();
	window_opens_at_hlt();
	lines_raise_messages();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
