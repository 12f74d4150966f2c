/* The local APIC as a client sets and reads it: modes, ids, registers of x2APIC, the timer. */
#include <stdbool.h>
#include <time.h>

#include "machine.h"

#define APIC_BASE 0xfee00000u
#define BSP 0x100u
#define X2APIC 0x400u
#define ENABLE 0x800u
#define MSR_APIC_BASE 0x1bu
#define MSR_TSC 0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define TIMER_VECTOR 0x41
#define SAW_TIMER 0x53

/* Offsets in the APIC's page. */
enum {
	REG_ID = 0x20,
	REG_VERSION = 0x30,
	REG_LDR = 0xd0,
	REG_SPURIOUS = 0xf0,
	REG_IRR = 0x200,
	REG_TIMER = 0x320,
	REG_LINT0 = 0x350,
	REG_INITIAL = 0x380,
	REG_CURRENT = 0x390,
	REG_DIVIDE = 0x3e0,
};

#define ONE_SHOT 0u
#define PERIODIC 0x20000u
#define DEADLINE 0x40000u
#define MASKED 0x10000u

static uint32_t get(const struct kvm_lapic_state *state, unsigned int offset)
{
	uint32_t value;

	memcpy(&value, &state->regs[offset], sizeof(value));
	return value;
}

static void put(struct kvm_lapic_state *state, unsigned int offset, uint32_t value)
{
	memcpy(&state->regs[offset], &value, sizeof(value));
}

static struct kvm_lapic_state lapic_of(const struct machine *machine)
{
	struct kvm_lapic_state state;

	WORKS(ioctl(machine->vcpu, KVM_GET_LAPIC, &state));
	return state;
}

static void give_cpuid(const struct machine *machine)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[128];
	} list = {{.nent = 128}, {{0}}};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &list));
	WORKS(ioctl(machine->vcpu, KVM_SET_CPUID2, &list));
	close(kvm);
}

static void open_apic(struct machine *machine, enum machine_irqchip irqchip)
{
	machine_open(machine, irqchip);
	give_cpuid(machine);
	machine_put_handler(machine, TIMER_VECTOR, SAW_TIMER);
}

/* 1 or -1 with errno, as KVM_SET_MSRS and KVM_GET_MSRS count. */
static long set_msr(const struct machine *machine, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index, .data = value}};

	return ioctl(machine->vcpu, KVM_SET_MSRS, &list);
}

static uint64_t get_msr(const struct machine *machine, uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index}};

	CHECK(ioctl(machine->vcpu, KVM_GET_MSRS, &list) == 1, "no MSR %x", index);
	return list.entry.data;
}

static long set_base(const struct machine *machine, uint64_t flags)
{
	return set_msr(machine, MSR_APIC_BASE, APIC_BASE | BSP | flags);
}

/* The id registers follow the mode, and the client may set any mode. */
static void modes_and_ids(void)
{
	struct kvm_lapic_state state;
	struct machine machine;

	open_apic(&machine, MACHINE_IRQCHIP);
	state = lapic_of(&machine);
	put(&state, REG_ID, 0x5a000000);
	put(&state, REG_LDR, 0x81000000);
	WORKS(ioctl(machine.vcpu, KVM_SET_LAPIC, &state));
	state = lapic_of(&machine);
	CHECK(get(&state, REG_ID) == 0x5a000000, "id %x", get(&state, REG_ID));
	CHECK(set_base(&machine, ENABLE | X2APIC) == 1, "to x2APIC");
	state = lapic_of(&machine);
	CHECK(get(&state, REG_ID) == 0 && get(&state, REG_LDR) == 1, "x2APIC: id %x, LDR %x",
	      get(&state, REG_ID), get(&state, REG_LDR));
	CHECK(set_base(&machine, X2APIC) == 0, "x2APIC without enable");
	CHECK(set_base(&machine, ENABLE | 1) == 0, "a reserved bit");
	CHECK(get_msr(&machine, MSR_APIC_BASE) == (APIC_BASE | BSP | ENABLE | X2APIC), "changed");
	CHECK(set_base(&machine, ENABLE) == 1, "back to xAPIC");
	CHECK(set_base(&machine, 0) == 1, "disabled");
	state = lapic_of(&machine);
	put(&state, REG_ID, 0x5a000000);
	WORKS(ioctl(machine.vcpu, KVM_SET_LAPIC, &state));
	CHECK(set_base(&machine, ENABLE) == 1, "enabled");
	state = lapic_of(&machine);
	CHECK(get(&state, REG_ID) == 0, "enabling sets the id: %x", get(&state, REG_ID));
	machine_close(&machine);
}

/* What a client, or RDMSR and WRMSR, may do with the register at 0x800 + @index. */
static bool reads(uint32_t index)
{
	switch (index) {
	case 0x02: /* id, version, TPR, PPR, LDR, SVR */
	case 0x03:
	case 0x08:
	case 0x0a:
	case 0x0d:
	case 0x0f:
	case 0x28: /* ESR, ICR */
	case 0x30:
	case 0x38: /* the timer's counts and divisor */
	case 0x39:
	case 0x3e:
		return true;
	default: /* ISR, TMR, IRR; the local vector table */
		return (index >= 0x10 && index < 0x28) || (index >= 0x32 && index <= 0x37);
	}
}

static bool writes(uint32_t index)
{
	switch (index) {
	case 0x08:
	case 0x0b: /* the end of an interrupt */
	case 0x0f:
	case 0x28:
	case 0x30:
	case 0x38:
	case 0x3e:
	case 0x3f: /* an interrupt for itself */
		return true;
	default:
		return index >= 0x32 && index <= 0x37;
	}
}

static bool can_read(const struct machine *machine, uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index}};

	return ioctl(machine->vcpu, KVM_GET_MSRS, &list) == 1;
}

static void registers_of_x2apic(void)
{
	struct machine machine;

	open_apic(&machine, MACHINE_IRQCHIP);
	for (uint32_t index = 0x800; index < 0x840; index++)
		CHECK(!can_read(&machine, index) && set_msr(&machine, index, 0) == 0,
		      "%x outside of x2APIC", index);
	CHECK(set_base(&machine, ENABLE | X2APIC) == 1, "to x2APIC");
	for (uint32_t index = 0; index < 0x40; index++) {
		CHECK(can_read(&machine, 0x800 + index) == reads(index), "reading %x", index);
		CHECK((set_msr(&machine, 0x800 + index, 0) == 1) == writes(index), "writing %x",
		      index);
		CHECK(index == 0x30 || set_msr(&machine, 0x800 + index, UINT64_C(1) << 32) == 0,
		      "the upper half of %x", index);
	}
	CHECK(set_msr(&machine, 0x80f, 0x1ff) == 1, "SVR");
	CHECK(set_msr(&machine, 0x808, 0x1a5) == 1 && get_msr(&machine, 0x808) == 0xa5, "TPR");
	CHECK(get_msr(&machine, 0x80a) == 0xa5, "PPR is the larger of TPR and what is in service");
	CHECK(set_msr(&machine, 0x837, 0x10041) == 1 && get_msr(&machine, 0x837) == 0x10041,
	      "LVT of errors");
	CHECK(set_msr(&machine, 0x832, 0xfffff) == 1, "LVT of the timer");
	CHECK((get_msr(&machine, 0x832) & ~UINT64_C(0x600ff)) == 0x11000, "its reserved bits");
	CHECK(set_msr(&machine, 0x83e, 0xff) == 1 && get_msr(&machine, 0x83e) == 0xb, "divisor");
	CHECK(set_msr(&machine, 0x828, 1) == 0, "ESR takes zero alone");
	CHECK(set_msr(&machine, 0x83f, 0x100) == 0, "a vector has eight bits");
	CHECK(set_msr(&machine, 0x83f, 0x41) == 1, "to itself");
	CHECK(get_msr(&machine, 0x822) == 1u << 1, "vector 0x41 in IRR");
	/* Fixed, to logical 2: nothing is there, and what was written is read. */
	CHECK(set_msr(&machine, 0x830, UINT64_C(0x200000842)) == 1 &&
		  get_msr(&machine, 0x830) == UINT64_C(0x200000842),
	      "ICR");
	/* All including itself. */
	CHECK(set_msr(&machine, 0x830, 0x80042) == 1, "ICR with a shorthand");
	CHECK(get_msr(&machine, 0x822) == (1u << 1 | 1u << 2), "vector 0x42 in IRR");
	/* All but itself; and the end of an INIT, which is none. */
	CHECK(set_msr(&machine, 0x830, 0xc0043) == 1 && set_msr(&machine, 0x830, 0x88500) == 1,
	      "ICR for others");
	CHECK(get_msr(&machine, 0x822) == (1u << 1 | 1u << 2), "nothing for itself");
	CHECK(set_msr(&machine, 0x80b, 0) == 1, "an end without a beginning");
	CHECK(set_msr(&machine, 0x80f, 0) == 1 && (get_msr(&machine, 0x837) & 0x10000),
	      "switched off, its table is masked");
	machine_close(&machine);
}

/* mov ecx, 0x1b; mov eax, value; xor edx, edx; wrmsr; out; the #GP handler reports 0x5f */
static int guest_sets_base(struct machine *machine, uint32_t value)
{
	uint8_t code[] = {0x66, 0xb9, 0x1b, 0,	  0,	0,    0x66, 0xb8, 0,	0,	    0,
			  0,	0x66, 0x31, 0xd2, 0x0f, 0x30, 0xb0, 0x11, 0xe6, REPORT_PORT};

	memcpy(&code[8], &value, sizeof(value));
	memcpy(machine->memory + CODE, code, sizeof(code));
	machine_set_registers(machine);
	return next_report(machine);
}

/* A guest goes from mode to mode by way of the disabled one. */
static void guest_changes_modes(void)
{
	uint32_t base = APIC_BASE | BSP;
	struct machine machine;

	open_apic(&machine, MACHINE_IRQCHIP);
	machine_put_handler(&machine, 13, 0x5f);
	CHECK(guest_sets_base(&machine, base | ENABLE | X2APIC) == 0x11, "xAPIC to x2APIC");
	CHECK(guest_sets_base(&machine, base | ENABLE) == 0x5f, "x2APIC to xAPIC");
	CHECK(guest_sets_base(&machine, base | X2APIC) == 0x5f, "x2APIC without enable");
	CHECK(guest_sets_base(&machine, base) == 0x11, "x2APIC to disabled");
	CHECK(guest_sets_base(&machine, base | ENABLE | X2APIC) == 0x5f, "disabled to x2APIC");
	CHECK(guest_sets_base(&machine, base | ENABLE) == 0x11, "disabled to xAPIC");
	machine_close(&machine);
}

/* With 32-bit ids a state of another x2APIC is refused, and nothing changes. */
static void wide_ids(void)
{
	struct kvm_enable_cap api = {.cap = KVM_CAP_X2APIC_API, .args = {3}};
	struct kvm_lapic_state state, before;
	struct machine machine;

	open_apic(&machine, MACHINE_SPLIT);
	WORKS(ioctl(machine.vm, KVM_ENABLE_CAP, &api));
	CHECK(set_base(&machine, ENABLE | X2APIC) == 1, "to x2APIC");
	before = lapic_of(&machine);
	state = before;
	put(&state, REG_ID, 7);
	put(&state, REG_SPURIOUS, 0x155);
	FAILS(ioctl(machine.vcpu, KVM_SET_LAPIC, &state), EINVAL);
	state = lapic_of(&machine);
	CHECK(!memcmp(&state, &before, sizeof(state)), "the refused state left something");
	CHECK(get(&state, REG_VERSION) & 1u << 24, "no directed EOI with a split chip: %x",
	      get(&state, REG_VERSION));
	machine_close(&machine);
	open_apic(&machine, MACHINE_IRQCHIP);
	state = lapic_of(&machine);
	CHECK(get(&state, REG_VERSION) == 0x50014, "version %x", get(&state, REG_VERSION));
	machine_close(&machine);
}

static void set_timer(const struct machine *machine, uint32_t lvt, uint32_t count, uint32_t divide)
{
	struct kvm_lapic_state state = lapic_of(machine);

	put(&state, REG_SPURIOUS, 0x1ff);
	put(&state, REG_LINT0, MASKED);
	put(&state, REG_TIMER, lvt);
	put(&state, REG_DIVIDE, divide);
	put(&state, REG_INITIAL, count);
	put(&state, REG_CURRENT, count);
	WORKS(ioctl(machine->vcpu, KVM_SET_LAPIC, &state));
}

static bool is_pending(const struct machine *machine)
{
	struct kvm_lapic_state state = lapic_of(machine);

	return get(&state, REG_IRR + TIMER_VECTOR / 32 * 16) >> TIMER_VECTOR % 32 & 1;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A cycle takes 1 ns: the divided count runs down as the clock does. */
static void counts_run_down(void)
{
	struct kvm_lapic_state state;
	struct machine machine;
	uint32_t first, second;
	uint64_t start;

	open_apic(&machine, MACHINE_IRQCHIP);
	start = now_ns();
	set_timer(&machine, TIMER_VECTOR | MASKED, 100000000, 0xa); /* divided by 128: 12.8 s */
	state = lapic_of(&machine);
	first = get(&state, REG_CURRENT);
	CHECK(first <= 100000000 && 100000000 - first <= (now_ns() - start) / 128 + 1,
	      "at first %u", first);
	usleep(20000);
	state = lapic_of(&machine);
	second = get(&state, REG_CURRENT);
	CHECK(second < first - 20000000 / 128, "%u, 20 ms after %u", second, first);
	set_timer(&machine, TIMER_VECTOR | MASKED | PERIODIC, 5000000, 0xb); /* 5 ms */
	usleep(12000);
	state = lapic_of(&machine);
	CHECK(get(&state, REG_CURRENT) && get(&state, REG_CURRENT) < 5000000, "periodic: %u",
	      get(&state, REG_CURRENT));
	set_timer(&machine, TIMER_VECTOR | MASKED | DEADLINE, 5000000, 0xb);
	state = lapic_of(&machine);
	CHECK(!get(&state, REG_CURRENT) && !get(&state, REG_INITIAL), "a count with deadlines");
	machine_close(&machine);
}

/* A masked timer gives no interrupt. */
static void masked_or_not(void)
{
	struct machine machine;

	open_apic(&machine, MACHINE_IRQCHIP);
	set_timer(&machine, TIMER_VECTOR, 1000000, 0xb);
	COMES(is_pending(&machine), "one shot");
	machine_close(&machine);
	open_apic(&machine, MACHINE_IRQCHIP);
	set_timer(&machine, TIMER_VECTOR | MASKED | PERIODIC, 1000000, 0xb);
	usleep(20000);
	CHECK(!is_pending(&machine), "masked");
	machine_close(&machine);
}

static void deadlines(void)
{
	struct machine machine;
	uint64_t deadline;

	open_apic(&machine, MACHINE_IRQCHIP);
	CHECK(set_msr(&machine, MSR_TSC_DEADLINE, 5) == 1, "a deadline in another mode");
	CHECK(get_msr(&machine, MSR_TSC_DEADLINE) == 0, "it is kept");
	set_timer(&machine, TIMER_VECTOR | DEADLINE, 0, 0);
	deadline = get_msr(&machine, MSR_TSC) + UINT64_C(1000000000000);
	CHECK(set_msr(&machine, MSR_TSC_DEADLINE, deadline) == 1, "a far deadline");
	CHECK(get_msr(&machine, MSR_TSC_DEADLINE) == deadline, "it is not kept");
	/* A restored state keeps it. */
	set_timer(&machine, TIMER_VECTOR | DEADLINE, 0, 0);
	CHECK(get_msr(&machine, MSR_TSC_DEADLINE) == deadline, "lost with the state");
	CHECK(!is_pending(&machine), "too early");
	CHECK(set_msr(&machine, MSR_TSC_DEADLINE, 1) == 1, "a deadline in the past");
	CHECK(is_pending(&machine), "no interrupt at once");
	CHECK(get_msr(&machine, MSR_TSC_DEADLINE) == 0, "it stays set");
	machine_close(&machine);
}

/* Periodic interrupts reach a guest that sleeps. */
static void periodic_interrupts(void)
{
	static const uint8_t code[] = {0xfb, 0xf4, 0xeb, 0xfc}; /* sti; hlt; again */
	/* The usual handler ends the PIC's interrupt; this one ends the APIC's, in x2APIC mode:
	 * push eax, ecx, edx; mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr; pop; report */
	static const uint8_t handler[] = {
	    0x66, 0x60, 0x66, 0xb9, 0x0b, 0x08,	     0,	   0,		0x66, 0x31, 0xc0, 0x66,
	    0x31, 0xd2, 0x0f, 0x30, 0xb0, SAW_TIMER, 0xe6, REPORT_PORT, 0x66, 0x61, 0xcf};
	uint16_t entry[2] = {0x6000, 0};
	struct timespec start, end;
	struct machine machine;
	double took;

	open_apic(&machine, MACHINE_IRQCHIP);
	memcpy(machine.memory + CODE, code, sizeof(code));
	memcpy(machine.memory + 0x6000, handler, sizeof(handler));
	memcpy(machine.memory + 4 * TIMER_VECTOR, entry, sizeof(entry));
	CHECK(set_base(&machine, ENABLE | X2APIC) == 1, "to x2APIC");
	clock_gettime(CLOCK_MONOTONIC, &start);
	set_timer(&machine, TIMER_VECTOR | PERIODIC, 2000000, 0xb);
	for (int i = 0; i < 50; i++)
		CHECK(next_report(&machine) == SAW_TIMER, "tick %d: exit %u", i,
		      machine.run->exit_reason);
	clock_gettime(CLOCK_MONOTONIC, &end);
	took = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
	CHECK(took > 0.098, "50 ticks of 2 ms took %f s", took);
	machine_close(&machine);
}

/*
 * One shot of 0.2 ms that has ended stays at 0 in periodic mode, also before a thread tells of its
 * end. 200 times; reports how often it still was to be tried.
 */
static void ended_shots_stay(void)
{
	static const uint8_t code[] = {0xbb, 200,  0, /* bx */
				       0x66, 0xb9, 0x32, 0x08, 0,    0,		 0x66,
				       0xb8, 0x41, 0,	 1,    0,    /* one shot */
				       0x66, 0x31, 0xd2, 0x0f, 0x30, /* wrmsr */
				       0x66, 0xb9, 0x38, 0x08, 0,    0,		 0x66,
				       0xb8, 0x40, 0x0d, 3,    0,    0x0f,	 0x30,
				       0x66, 0xb9, 0x39, 0x08, 0,    0,		 0x0f,
				       0x32, 0x66, 0x85, 0xc0, 0x75, 0xf9, /* 0? */
				       0x66, 0xb9, 0x32, 0x08, 0,    0,		 0x66,
				       0xb8, 0x41, 0,	 3,    0,    0x0f,	 0x30,
				       0x66, 0xb9, 0x39, 0x08, 0,    0,		 0x0f,
				       0x32, 0x66, 0x85, 0xc0, 0x75, 0x03,	 0x4b,
				       0x75, 0xb6, 0x88, 0xd8, 0xe6, REPORT_PORT};
	struct machine machine;
	uint32_t left;

	open_apic(&machine, MACHINE_IRQCHIP);
	CHECK(set_base(&machine, ENABLE | X2APIC) == 1, "to x2APIC");
	set_timer(&machine, TIMER_VECTOR | MASKED, 0, 0xb);
	memcpy(machine.memory + CODE, code, sizeof(code));
	machine_set_registers(&machine);
	left = next_report(&machine);
	CHECK(!left, "it counted again, %u before the end", left);
	machine_close(&machine);
}

#define SEND_IPI 10
#define KICK_CPU 5

/* mov eax, number; ebx, chosen; ecx, of; xor edx, edx; mov esi, icr; vmcall; report AL */
static int hypercall(struct machine *machine, uint8_t number, uint8_t chosen, uint32_t icr)
{
	uint8_t code[] = {0x66, 0xb8, number, 0,    0,	  0,	0x66, 0xbb, chosen,	0,
			  0,	0,    0x66,   0x31, 0xc9, 0x66, 0x31, 0xd2, 0x66,	0xbe,
			  0,	0,    0,      0,    0x0f, 0x01, 0xc1, 0xe6, REPORT_PORT};

	memcpy(&code[20], &icr, sizeof(icr));
	memcpy(machine->memory + CODE, code, sizeof(code));
	machine_set_registers(machine);
	return next_report(machine);
}

/* Many processors at once by hypercall: here the guest's only one, id 0. */
static void hypercalls_send(void)
{
	/* cli; hlt; mov al, 0x66; report; cli; hlt */
	static const uint8_t sleep[] = {0xfa, 0xf4, 0xb0, 0x66, 0xe6, REPORT_PORT, 0xf4};
	struct machine machine;

	open_apic(&machine, MACHINE_IRQCHIP);
	set_timer(&machine, TIMER_VECTOR | MASKED, 0, 0);
	CHECK(hypercall(&machine, SEND_IPI, 2, TIMER_VECTOR) == 0, "to none");
	CHECK(!is_pending(&machine), "it came");
	CHECK(hypercall(&machine, SEND_IPI, 1, TIMER_VECTOR | 0x40000) == 0xea, "a shorthand");
	CHECK(hypercall(&machine, SEND_IPI, 3, TIMER_VECTOR) == 1, "to one");
	CHECK(is_pending(&machine), "it did not come");
	/* A kick ends the HLT after it, even with interrupts off. */
	CHECK(hypercall(&machine, KICK_CPU, 0, 0) == 0, "kick");
	memcpy(machine.memory + CODE, sleep, sizeof(sleep));
	machine_set_registers(&machine);
	CHECK(next_report(&machine) == 0x66, "exit %u", machine.run->exit_reason);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	modes_and_ids();
	registers_of_x2apic();
	guest_changes_modes();
	wide_ids();
	counts_run_down();
	masked_or_not();
	deadlines();
	periodic_interrupts();
	ended_shots_stay();
	hypercalls_send();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
