/* The local APIC's page as a guest reads and writes it, the messages that APICs send, EOIs that a
 * client hears. */
#include <linux/kvm_para.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "flat.h"

enum {
	REG_ID = 0x20,
	REG_VERSION = 0x30,
	REG_TPR = 0x80,
	REG_EOI = 0xb0,
	REG_LDR = 0xd0,
	REG_DFR = 0xe0,
	REG_SPURIOUS = 0xf0,
	REG_ISR = 0x100,
	REG_IRR = 0x200,
	REG_ESR = 0x280,
	REG_ICR = 0x300,
	REG_ICR2 = 0x310,
	REG_TIMER = 0x320,
	REG_LINT0 = 0x350,
	REG_INITIAL = 0x380,
	REG_CURRENT = 0x390,
	REG_DIVIDE = 0x3e0,
};

#define MASKED 0x10000u
#define MSR_APIC_BASE 0x1bu
#define BSP_BASE (APIC_PAGE | 0x100u)

static void put(struct machine *machine, unsigned int reg, uint32_t value)
{
	guest_store(machine, APIC_PAGE + reg, value);
}

static uint32_t get(struct machine *machine, unsigned int reg)
{
	return guest_load(machine, APIC_PAGE + reg);
}

static void set_base(int vcpu, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = MSR_APIC_BASE, .data = value}};

	CHECK(ioctl(vcpu, KVM_SET_MSRS, &list) == 1, "base %llx", (unsigned long long)value);
}

/* Register @reg of a vCPU's APIC as the client has it. */
static uint32_t saved(int vcpu, unsigned int reg)
{
	struct kvm_lapic_state state;
	uint32_t value;

	WORKS(ioctl(vcpu, KVM_GET_LAPIC, &state));
	memcpy(&value, &state.regs[reg], sizeof(value));
	return value;
}

static int waits(int vcpu, unsigned int vector)
{
	return saved(vcpu, REG_IRR + vector / 32 * 16) >> vector % 32 & 1;
}

/* What is left of a value that the guest writes. */
static void registers(void)
{
	static const struct {
		unsigned int reg;
		uint32_t written, read;
	} rows[] = {
	    {REG_SPURIOUS, 0xffffffff, 0x3ff},
	    {REG_ID, 0x5a123456, 0x5a000000},
	    {REG_TPR, 0x1234, 0x34},
	    {REG_LDR, 0x81ffffff, 0x81000000},
	    {REG_DFR, 0x00000000, 0x0fffffff},
	    {REG_DFR, 0xf0000000, 0xffffffff},
	    {REG_ICR2, 0xabcdef01, 0xab000000},
	    {REG_ESR, 0xff, 0},
	    {REG_TIMER, 0xffffffff, 0x710ff},
	    {REG_LINT0, 0xffffffff, 0x1f7ff},
	    {REG_DIVIDE, 0xff, 0xb},
	    {REG_VERSION, 0, 0},
	    /* Switched off, each entry of the vector table is masked, and stays so. */
	    {REG_SPURIOUS, 0xff, 0xff},
	    {REG_LINT0, 0x700, MASKED | 0x700},
	};
	struct machine machine;
	uint32_t version;

	flat_open(&machine, MACHINE_IRQCHIP);
	version = get(&machine, REG_VERSION);
	CHECK((version & 0xff) == 0x14, "version %x", version);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t wanted = rows[i].reg == REG_VERSION ? version : rows[i].read, got;

		put(&machine, rows[i].reg, rows[i].written);
		got = get(&machine, rows[i].reg);
		CHECK(got == wanted, "row %zu, register %x: %x, not %x", i, rows[i].reg, got,
		      wanted);
	}
	machine_close(&machine);
}

/* Reads of a part, of what crosses a register's end; writes that are not of a whole register. */
static void parts_of_registers(void)
{
	struct machine machine;
	uint64_t value;

	flat_open(&machine, MACHINE_IRQCHIP);
	put(&machine, REG_LDR, 0x5a000000);
	value = DOES(&machine, "\x8a\x03", .rbx = APIC_PAGE + REG_LDR + 3).rax;
	CHECK(value == 0x5a, "the last byte is %llx", (unsigned long long)value);
	value = DOES(&machine, "\x66\x8b\x03", .rbx = APIC_PAGE + REG_LDR + 2).rax;
	CHECK(value == 0x5a00, "the last two are %llx", (unsigned long long)value);
	/* mov ax, [rbx] over the end of the four bytes */
	value = DOES(&machine, "\x66\x8b\x03", .rbx = APIC_PAGE + REG_LDR + 3).rax;
	CHECK(value == 0, "over the end: %llx", (unsigned long long)value);
	DOES(&machine, "\x88\x03", .rbx = APIC_PAGE + REG_LDR + 3, .rax = 0x11);
	CHECK(get(&machine, REG_LDR) == 0x5a000000, "a byte was written");
	machine_close(&machine);
}

/* The page of an APIC that is off, or in x2APIC mode, is a hole; without the quirk the client's. */
static void hole(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DISABLE_QUIRKS,
				     .args = {KVM_X86_QUIRK_LAPIC_MMIO_HOLE}};
	static const uint64_t bases[] = {BSP_BASE, BSP_BASE | 0xc00};
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
		set_base(machine.vcpu, bases[i]);
		put(&machine, REG_TPR, 0x20);
		CHECK(get(&machine, REG_VERSION) == UINT32_MAX, "base %zu: no hole", i);
		CHECK(saved(machine.vcpu, REG_TPR) == 0, "base %zu: written", i);
	}
	WORKS(ioctl(machine.vm, KVM_ENABLE_CAP, &cap));
	for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
		set_base(machine.vcpu, APIC_PAGE | 0x900);
		set_base(machine.vcpu, bases[i]);
		(void)flat_run(&machine, "\x89\x03", 2,
			       (struct kvm_regs){.rbx = APIC_PAGE + REG_TPR, .rax = 0x20});
		CHECK(machine.run->exit_reason == KVM_EXIT_MMIO &&
			  machine.run->mmio.phys_addr == APIC_PAGE + REG_TPR,
		      "base %zu: exit %u", i, machine.run->exit_reason);
		WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	}
	machine_close(&machine);
}

static int add_vcpu(struct machine *machine, unsigned long id)
{
	int vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, id);

	CHECK(vcpu >= 0, "vCPU %lu", id);
	flat_cpuid(vcpu);
	return vcpu;
}

static void set_logical(int vcpu, uint32_t ldr, uint32_t dfr)
{
	struct kvm_lapic_state state;
	const uint32_t spurious = 0x1ff;

	WORKS(ioctl(vcpu, KVM_GET_LAPIC, &state));
	memcpy(&state.regs[REG_LDR], &ldr, sizeof(ldr));
	memcpy(&state.regs[REG_DFR], &dfr, sizeof(dfr));
	memcpy(&state.regs[REG_SPURIOUS], &spurious, sizeof(spurious));
	WORKS(ioctl(vcpu, KVM_SET_LAPIC, &state));
}

#define FLAT UINT32_MAX
#define CLUSTERS 0x0fffffffu
#define LOGICAL 4u
#define LOWEST 0x100u

/* Which of two vCPUs take a message to a logical destination. */
static void logical_destinations(void)
{
	static const struct {
		uint32_t model, ldr[2];
		uint8_t destination;
		uint32_t data;
		int taken[2];
	} rows[] = {
	    {FLAT, {0x01000000, 0x02000000}, 0x01, 0x51, {1, 0}},
	    {FLAT, {0x01000000, 0x02000000}, 0x03, 0x52, {1, 1}},
	    {FLAT, {0x01000000, 0x02000000}, 0x04, 0x53, {0, 0}},
	    {FLAT, {0x01000000, 0x02000000}, 0xff, 0x54, {1, 1}},
	    {CLUSTERS, {0x11000000, 0x21000000}, 0x11, 0x55, {1, 0}},
	    {CLUSTERS, {0x11000000, 0x12000000}, 0x13, 0x56, {1, 1}},
	    {CLUSTERS, {0x11000000, 0x22000000}, 0x12, 0x57, {0, 0}},
	    {CLUSTERS, {0x11000000, 0x22000000}, 0xff, 0x58, {1, 1}},
	    /* One of the two: which one goes by the vector. */
	    {FLAT, {0x01000000, 0x02000000}, 0x03, LOWEST | 0x60, {1, 0}},
	    {FLAT, {0x01000000, 0x02000000}, 0x03, LOWEST | 0x61, {0, 1}},
	    {FLAT, {0x01000000, 0x02000000}, 0x02, LOWEST | 0x62, {0, 1}},
	    {FLAT, {0x01000000, 0x02000000}, 0x04, LOWEST | 0x63, {0, 0}},
	};
	struct machine machine;
	int vcpus[2];

	flat_open(&machine, MACHINE_IRQCHIP);
	vcpus[0] = machine.vcpu;
	vcpus[1] = add_vcpu(&machine, 1);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_msi msi = {.address_lo = APIC_PAGE | rows[i].destination << 12 | LOGICAL,
				      .data = rows[i].data};
		int result, wanted = rows[i].taken[0] + rows[i].taken[1];

		for (int v = 0; v < 2; v++)
			set_logical(vcpus[v], rows[i].ldr[v], rows[i].model);
		result = ioctl(machine.vm, KVM_SIGNAL_MSI, &msi);
		CHECK(!result == !wanted, "row %zu: result %d", i, result);
		for (int v = 0; v < 2; v++)
			CHECK(waits(vcpus[v], rows[i].data & 0xff) == rows[i].taken[v],
			      "row %zu: vCPU %d", i, v);
	}
	/* An APIC that is switched off is not one to choose. */
	put(&machine, REG_SPURIOUS, 0xff);
	WORKS(ioctl(
	    machine.vm, KVM_SIGNAL_MSI,
	    &(struct kvm_msi){.address_lo = APIC_PAGE | 3 << 12 | LOGICAL, .data = LOWEST | 0x70}));
	CHECK(waits(vcpus[1], 0x70), "the other one");
	close(vcpus[1]);
	machine_close(&machine);
}

/* Returns a second vCPU, to which the first has sent an INIT. */
static int open_with_init(struct machine *machine)
{
	int other;

	flat_open(machine, MACHINE_IRQCHIP);
	other = add_vcpu(machine, 1);
	put(machine, REG_SPURIOUS, 0x1ff);
	put(machine, REG_ICR2, 1u << 24);
	put(machine, REG_ICR, 0x4500);
	return other;
}

/* INIT and the start-up message bring another processor to a page. */
static void start_up(void)
{
	struct kvm_mp_state state;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct machine machine;
	int other;

	other = open_with_init(&machine);
	WORKS(ioctl(other, KVM_GET_MP_STATE, &state));
	CHECK(state.mp_state == KVM_MP_STATE_INIT_RECEIVED, "after INIT: %u", state.mp_state);
	put(&machine, REG_ICR, 0x4600 | 0x12);
	WORKS(ioctl(other, KVM_GET_MP_STATE, &state));
	CHECK(state.mp_state == KVM_MP_STATE_RUNNABLE, "after start-up: %u", state.mp_state);
	WORKS(ioctl(other, KVM_GET_SREGS, &sregs));
	WORKS(ioctl(other, KVM_GET_REGS, &regs));
	CHECK(sregs.cs.base == 0x12000 && sregs.cs.selector == 0x1200 && !regs.rip,
	      "starts at %llx", (unsigned long long)(sregs.cs.base + regs.rip));
	close(other);
	machine_close(&machine);
}

/* What KVM_RUN of the other vCPU came to, in a thread of its own. */
struct waiting {
	int vcpu, error;
};

static void *run_waiting(void *argument)
{
	struct waiting *waiting = argument;

	waiting->error = ioctl(waiting->vcpu, KVM_RUN, 0) ? errno : 0;
	return NULL;
}

/* KVM_RUN of @other waits, and ends when the message @icr has come. */
static int run_until(struct machine *machine, int other, uint32_t icr)
{
	struct waiting waiting = {.vcpu = other};
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, run_waiting, &waiting), "thread");
	usleep(20000);
	put(machine, REG_ICR2, 1u << 24);
	put(machine, REG_ICR, icr);
	pthread_join(thread, NULL);
	return waiting.error;
}

/*
 * KVM_RUN of a vCPU that waits for its INIT asks the client to try again once it has come; one that
 * waits for its start-up message goes on into the guest.
 */
static void start_up_while_it_runs(void)
{
	static const uint8_t code[] = {0xe6, REPORT_PORT};
	struct machine machine;
	struct kvm_run *run;
	int other;

	flat_open(&machine, MACHINE_IRQCHIP);
	other = add_vcpu(&machine, 1);
	run = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
	put(&machine, REG_SPURIOUS, 0x1ff);
	memcpy(machine.memory + 0x5000, code, sizeof(code));
	CHECK(run_until(&machine, other, 0x4500) == EAGAIN, "INIT while it waits");
	/* The next wait is for the start-up message alone. */
	run->immediate_exit = 1;
	FAILS(ioctl(other, KVM_RUN, 0), EINTR);
	run->immediate_exit = 0;
	CHECK(!run_until(&machine, other, 0x4605), "start-up while it waits");
	CHECK(run->exit_reason == KVM_EXIT_IO && run->io.port == REPORT_PORT, "exit %u",
	      run->exit_reason);
	munmap(run, 0x1000);
	close(other);
	machine_close(&machine);
}

/* An INIT that came before KVM_RUN asks the client to try again, too. */
static void start_up_before_it_runs(void)
{
	struct machine machine;
	int other;

	other = open_with_init(&machine);
	FAILS(ioctl(other, KVM_RUN, 0), EAGAIN);
	close(other);
	machine_close(&machine);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A count that runs goes on from where it is when the divisor changes. A count takes 1 ns. */
static void timer_divisor_changes(void)
{
	struct machine machine;
	uint64_t start, before, after;
	uint32_t first, second;

	flat_open(&machine, MACHINE_IRQCHIP);
	put(&machine, REG_SPURIOUS, 0x1ff);
	put(&machine, REG_TIMER, MASKED | 0x40);
	put(&machine, REG_DIVIDE, 0xb);
	start = now_ns();
	put(&machine, REG_INITIAL, UINT32_MAX);
	usleep(20000);
	put(&machine, REG_DIVIDE, 0xa); /* by 128 */
	before = now_ns();
	first = get(&machine, REG_CURRENT);
	CHECK(UINT32_MAX - first >= 20000000u && UINT32_MAX - first <= now_ns() - start,
	      "%x is left", first);
	usleep(20000);
	second = get(&machine, REG_CURRENT);
	after = now_ns();
	CHECK(first - second >= 20000000u / 128 - 1 && first - second <= (after - before) / 128 + 1,
	      "%u counts of 128 ns in %llu ns", first - second,
	      (unsigned long long)(after - before));
	/* Ended: a divisor does not bring it back. */
	put(&machine, REG_DIVIDE, 0xb);
	put(&machine, REG_INITIAL, 1000);
	usleep(1000);
	CHECK(!get(&machine, REG_CURRENT), "the end");
	put(&machine, REG_DIVIDE, 0);
	CHECK(!get(&machine, REG_CURRENT), "an ended count goes on");
	machine_close(&machine);
}

/* A periodic timer ticks at most each 200 us, whatever is asked for, and however. */
static void timer_period_has_a_floor(void)
{
	struct machine machine;
	uint32_t current;

	flat_open(&machine, MACHINE_IRQCHIP);
	put(&machine, REG_SPURIOUS, 0x1ff);
	put(&machine, REG_DIVIDE, 0xb);
	put(&machine, REG_TIMER, MASKED | 0x20040);
	put(&machine, REG_INITIAL, 10);
	current = get(&machine, REG_CURRENT);
	CHECK(current <= 200000, "count %u", current);
	/* One-shot at first. */
	put(&machine, REG_TIMER, MASKED | 0x40);
	put(&machine, REG_INITIAL, 1000);
	put(&machine, REG_TIMER, 0x20040);
	COMES(waits(machine.vcpu, 0x40), "no tick");
	machine_close(&machine);
}

/* The TPR as CR8: the guest's, with APIC and without. */
static void task_priority(void)
{
	struct machine machine;
	uint64_t value;

	flat_open(&machine, MACHINE_IRQCHIP);
	DOES(&machine, "\x44\x0f\x22\xc0", .rax = 5); /* mov cr8, rax */
	CHECK(get(&machine, REG_TPR) == 0x50, "TPR %x", get(&machine, REG_TPR));
	put(&machine, REG_TPR, 0x7f);
	value = DOES(&machine, "\x44\x0f\x20\xc0", .rax = 0).rax;
	CHECK(value == 7, "CR8 %llx", (unsigned long long)value);
	machine_close(&machine);
	flat_open(&machine, MACHINE_NO_IRQCHIP);
	DOES(&machine, "\x44\x0f\x22\xc0", .rax = 5);
	CHECK(machine.run->cr8 == 5, "CR8 of the run page %llx",
	      (unsigned long long)machine.run->cr8);
	value = DOES(&machine, "\x44\x0f\x20\xc0", .rax = 0).rax;
	CHECK(value == 5, "CR8 %llx", (unsigned long long)value);
	machine.run->cr8 = 16;
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINVAL);
	machine_close(&machine);
}

#define EOI_VECTOR 0x71u

struct one_route {
	struct kvm_irq_routing header;
	struct kvm_irq_routing_entry entry;
};

static void route_level(const struct machine *machine, uint32_t data)
{
	struct one_route table = {{.nr = 1}, {.gsi = 3, .type = KVM_IRQ_ROUTING_MSI}};

	table.entry.u.msi.address_lo = APIC_PAGE;
	table.entry.u.msi.data = data;
	WORKS(ioctl(machine->vm, KVM_SET_GSI_ROUTING, &table));
}

/* mov dword es:[REG_EOI], 0; iret, of real mode; and with a report before the iret */
static const uint8_t end_code[] = {0x66, 0x26, 0xc7, 0x06, REG_EOI, 0, 0, 0, 0, 0, 0xcf};
static const uint8_t tell_code[] = {0x66, 0x26, 0xc7, 0x06, REG_EOI,	 0,   0,
				    0,	  0,	0,    0xe6, REPORT_PORT, 0xcf};
/* sti; hlt; jmp back to it */
static const uint8_t wait_code[] = {0xfb, 0xf4, 0xeb, 0xfd};

/* A real-mode guest that waits, and ends each interrupt of @vector. */
static void set_ender(struct machine *machine, unsigned int vector)
{
	uint16_t entry[2] = {0x1f00, 0};
	struct kvm_sregs sregs;

	memcpy(machine->memory + 4 * vector, entry, sizeof(entry));
	memcpy(machine->memory + entry[0], end_code, sizeof(end_code));
	memcpy(machine->memory + CODE, wait_code, sizeof(wait_code));
	machine_set_registers(machine);
	WORKS(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs));
	sregs.es.base = APIC_PAGE;
	WORKS(ioctl(machine->vcpu, KVM_SET_SREGS, &sregs));
	set_logical(machine->vcpu, 0x01000000, FLAT);
}

/* The client has the I/O APIC: it hears of the end of what its level lines raised, alone. */
static void client_hears_ends(void)
{
	struct kvm_irq_level line = {.irq = 3, .level = 1};
	struct machine machine;

	machine_open(&machine, MACHINE_SPLIT);
	set_ender(&machine, EOI_VECTOR);
	route_level(&machine, 0x8000 | EOI_VECTOR);
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE, &line));
	WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	CHECK(machine.run->exit_reason == KVM_EXIT_IOAPIC_EOI &&
		  machine.run->eoi.vector == EOI_VECTOR,
	      "exit %u", machine.run->exit_reason);
	/* The same vector by a message of an edge counts, too: the line names it. */
	WORKS(ioctl(machine.vm, KVM_SIGNAL_MSI,
		    &(struct kvm_msi){.address_lo = APIC_PAGE, .data = EOI_VECTOR}));
	WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	CHECK(machine.run->exit_reason == KVM_EXIT_IOAPIC_EOI, "exit %u", machine.run->exit_reason);
	/* Routes that change while one is under way: its end is still heard. */
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE, &line));
	route_level(&machine, EOI_VECTOR + 1);
	WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	CHECK(machine.run->exit_reason == KVM_EXIT_IOAPIC_EOI, "exit %u", machine.run->exit_reason);
	machine_close(&machine);
}

static void set_ioapic_line(const struct machine *machine, unsigned int line, uint64_t entry)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[line].bits = entry;
	WORKS(ioctl(machine->vm, KVM_SET_IRQCHIP, &chip));
}

/* The PICs' lines masked, so that a line's status is the I/O APIC's. */
static void mask_pics(const struct machine *machine)
{
	for (uint32_t which = 0; which < 2; which++) {
		struct kvm_irqchip chip = {.chip_id = which};

		WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &chip));
		chip.chip.pic.imr = 0xff;
		WORKS(ioctl(machine->vm, KVM_SET_IRQCHIP, &chip));
	}
}

static int line_status(const struct machine *machine, uint32_t line, uint32_t level)
{
	struct kvm_irq_level request = {.irq = line, .level = level};

	WORKS(ioctl(machine->vm, KVM_IRQ_LINE_STATUS, &request));
	return request.status;
}

static void on_alarm(int number)
{
	(void)number;
}

static int is_under_way(const struct machine *machine, unsigned int vector)
{
	return waits(machine->vcpu, vector) ||
	       saved(machine->vcpu, REG_ISR + vector / 32 * 16) >> vector % 32 & 1;
}

/*
 * The guest runs until it has ended @vector, and alarms wake it: more than one, for on a busy
 * machine the first may come before the guest sleeps.
 */
static void run_to_the_end(struct machine *machine, unsigned int vector)
{
	const struct itimerval soon = {{.tv_usec = 20000}, {.tv_usec = 20000}}, never = {0};
	struct sigaction action = {.sa_handler = on_alarm};
	int tries = 0;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	do
		FAILS(ioctl(machine->vcpu, KVM_RUN, 0), EINTR);
	while (is_under_way(machine, vector) && tries++ < 100);
	setitimer(ITIMER_REAL, &never, NULL);
	CHECK(tries < 100, "vector %x is not ended", vector);
}

#define CLOCK_LINE 8u

/* The clock's ticks: a client that asks is told of those that the guest has not ended. */
static void clock_line(void)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct machine machine;

	machine_open(&machine, MACHINE_IRQCHIP);
	set_ender(&machine, EOI_VECTOR);
	mask_pics(&machine);
	set_ioapic_line(&machine, CLOCK_LINE, EOI_VECTOR);
	CHECK(line_status(&machine, CLOCK_LINE, 1) == 1, "the first tick");
	(void)line_status(&machine, CLOCK_LINE, 0);
	CHECK(line_status(&machine, CLOCK_LINE, 1) == 0, "the second one is coalesced");
	(void)line_status(&machine, CLOCK_LINE, 0);
	/* A client that restores the state, here of the same VM, is told the same. */
	WORKS(ioctl(machine.vm, KVM_GET_IRQCHIP, &chip));
	WORKS(ioctl(machine.vm, KVM_SET_IRQCHIP, &chip));
	CHECK(line_status(&machine, CLOCK_LINE, 1) == 0, "coalesced after a restore");
	(void)line_status(&machine, CLOCK_LINE, 0);
	run_to_the_end(&machine, EOI_VECTOR);
	CHECK(line_status(&machine, CLOCK_LINE, 1) == 1, "ended: the next one");
	machine_close(&machine);
}

/* A level that was high when the state was saved interrupts where it is restored. */
static void restored_level(void)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	set_logical(machine.vcpu, 0x01000000, FLAT);
	WORKS(ioctl(machine.vm, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[11].bits = 0x8000 | 0x66;
	chip.chip.ioapic.irr = 1u << 11;
	chip.chip.ioapic.ioregsel = 0x26;
	WORKS(ioctl(machine.vm, KVM_SET_IRQCHIP, &chip));
	CHECK(waits(machine.vcpu, 0x66), "no interrupt");
	CHECK(guest_load(&machine, IOAPIC_PAGE) == 0x26, "the index");
	CHECK(guest_load(&machine, IOAPIC_PAGE + 0x10) == (0xc000 | 0x66), "under way: %x",
	      guest_load(&machine, IOAPIC_PAGE + 0x10));
	CHECK(guest_load(&machine, IOAPIC_PAGE + 0x20) == 0, "no register");
	guest_store(&machine, IOAPIC_PAGE + 0x20, 1);
	machine_close(&machine);
}

#define STORM 10000u

/* A level that stays high: after 10,000 interrupts in a row the next one waits for 10 ms. */
static void storm(void)
{
	struct machine machine;
	uint64_t before = 0, after;

	machine_open(&machine, MACHINE_IRQCHIP);
	set_ender(&machine, EOI_VECTOR);
	memcpy(machine.memory + 0x1f00, tell_code, sizeof(tell_code));
	mask_pics(&machine);
	set_ioapic_line(&machine, 11, 0x8000 | EOI_VECTOR);
	(void)line_status(&machine, 11, 1);
	/* Each is reported behind its end. */
	for (unsigned int i = 0; i < STORM; i++) {
		before = now_ns();
		if (next_report(&machine) < 0)
			CHECK(0, "interrupt %u: exit %u", i, machine.run->exit_reason);
	}
	CHECK(next_report(&machine) >= 0, "exit %u", machine.run->exit_reason);
	after = now_ns();
	CHECK(after - before >= 9000000, "%llu ns later", (unsigned long long)(after - before));
	machine_close(&machine);
}

/* Hypercalls about other processors, of 64-bit guests: which of 128 in two words. */
static void hypercalls(void)
{
	static const struct {
		uint64_t number, low, high, first, icr, answer;
		int taken;
	} rows[] = {
	    {KVM_HC_SEND_IPI, 0, 1, 0, 0x81, 1, 1},
	    {KVM_HC_SEND_IPI, 2, 0, 63, 0x82, 1, 1},
	    {KVM_HC_SEND_IPI, 1, 0, 65, 0x83, 0, 0},
	    {KVM_HC_SEND_IPI, 1, 0, 64, 0x84 | 0x800, -KVM_EINVAL, 0},
	    {KVM_HC_SEND_IPI, 1, 0, 64, 0x85 | 0x8000, 0, 0}, /* the end of a level */
	    {KVM_HC_SCHED_YIELD, 64, 0, 0, 0, 0, 0},
	    {KVM_HC_VAPIC_POLL_IRQ, 0, 0, 0, 0, 0, 0},
	    {99, 0, 0, 0, 0, -KVM_ENOSYS, 0},
	};
	struct machine machine;
	int other;

	flat_open(&machine, MACHINE_IRQCHIP);
	other = add_vcpu(&machine, 64);
	set_logical(other, 0x01000000, FLAT);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t answer =
		    DOES(&machine, "\x0f\x01\xd9", .rax = rows[i].number, .rbx = rows[i].low,
			 .rcx = rows[i].high, .rdx = rows[i].first, .rsi = rows[i].icr)
			.rax;

		CHECK(answer == rows[i].answer, "row %zu: %lld", i, (long long)answer);
		CHECK(waits(other, rows[i].icr & 0xff) == rows[i].taken, "row %zu: taken", i);
	}
	close(other);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	registers();
	parts_of_registers();
	hole();
	logical_destinations();
	start_up();
	start_up_while_it_runs();
	start_up_before_it_runs();
	timer_divisor_changes();
	timer_period_has_a_floor();
	task_priority();
	client_hears_ends();
	clock_line();
	restored_level();
	storm();
	hypercalls();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
