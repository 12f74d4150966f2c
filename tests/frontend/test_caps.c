/* Capabilities: what is told of them for the system and for a VM, what turning one on takes, and
 * what it changes. */
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "flat.h"

#define APIC_CYCLES 237

static int enable(int fd, uint32_t cap, uint32_t flags, uint64_t value)
{
	struct kvm_enable_cap request = {.cap = cap, .flags = flags, .args = {value}};

	return ioctl(fd, KVM_ENABLE_CAP, &request);
}

/* What either descriptor says of each. */
static void checked(void)
{
	static const struct {
		long cap, system, vm;
	} rows[] = {
	    {KVM_CAP_STEAL_TIME, 1, 1},
	    {KVM_CAP_MULTI_ADDRESS_SPACE, 2, 2},
	    {KVM_CAP_MAX_VCPU_ID, 4096, 4096},
	    {KVM_CAP_HALT_POLL, 1, 1},
	    {KVM_CAP_X86_APIC_BUS_CYCLES_NS, 1, 1},
	    {KVM_CAP_PRE_FAULT_MEMORY, 1, 1},
	    {KVM_CAP_GUEST_MEMFD_FLAGS, 3, 3},
	    {99999, 0, 0},
	    {-1, 0, 0},
	};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int system = ioctl(kvm, KVM_CHECK_EXTENSION, rows[i].cap);
		int own = ioctl(vm, KVM_CHECK_EXTENSION, rows[i].cap);

		CHECK(system == rows[i].system, "%ld of the system: %d", rows[i].cap, system);
		CHECK(own == rows[i].vm, "%ld of the VM: %d", rows[i].cap, own);
	}
	close(vm);
	close(kvm);
}

/* Each call on a VM of its own. */
static void turned_on(void)
{
	enum { NOTHING, APIC = 1, VCPU = 2 };
	static const struct {
		uint32_t cap, flags;
		uint64_t value;
		int has, error;
	} rows[] = {
	    {KVM_CAP_HALT_POLL, 0, 200000, NOTHING, 0},
	    {KVM_CAP_HALT_POLL, 0, UINT32_MAX, VCPU, 0},
	    {KVM_CAP_HALT_POLL, 0, UINT64_C(1) << 32, NOTHING, EINVAL},
	    {KVM_CAP_HALT_POLL, 1, 0, NOTHING, EINVAL},
	    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, 0, 1, NOTHING, 0},
	    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, 1, NOTHING, EINVAL},
	    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, 0, 2, NOTHING, EINVAL},
	    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, 0, 1, NOTHING, 0},
	    {KVM_CAP_MSR_PLATFORM_INFO, 0, 0, NOTHING, 0},
	    {KVM_CAP_MSR_PLATFORM_INFO, 1, 0, NOTHING, EINVAL},
	    {KVM_CAP_X86_USER_SPACE_MSR, 0, 1u << 5, NOTHING, EINVAL},
	    {KVM_CAP_X2APIC_API, 0, 4, NOTHING, EINVAL},
	    {KVM_CAP_X2APIC_API, 0, 3, NOTHING, 0},
	    {KVM_CAP_DISABLE_QUIRKS, 0, UINT64_MAX, NOTHING, 0},
	    {KVM_CAP_DISABLE_QUIRKS2, 0, UINT64_MAX, NOTHING, EINVAL},
	    {KVM_CAP_X86_DISABLE_EXITS, 0, 0xff, NOTHING, EINVAL},
	    {KVM_CAP_X86_DISABLE_EXITS, 0, 2, VCPU, EINVAL},
	    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1, 1, NOTHING, EINVAL},
	    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0, 2, NOTHING, EINVAL},
	    {APIC_CYCLES, 0, 10, NOTHING, ENXIO},
	    {APIC_CYCLES, 0, 10, APIC, 0},
	    {APIC_CYCLES, 0, 10, APIC | VCPU, EINVAL},
	    {APIC_CYCLES, 0, 0, APIC, EINVAL},
	    {APIC_CYCLES, 0, UINT64_C(1) << 26, APIC, EINVAL},
	    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 1, 0, NOTHING, EINVAL},
	    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0, 1, NOTHING, EINVAL},
	    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0, 0, NOTHING, 0},
	    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0, 0, VCPU, EINVAL},
	    {KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0, 1, NOTHING, EINVAL}, /* a vCPU's */
	};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = -1, result;

		if (rows[i].has & APIC)
			WORKS(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
		if (rows[i].has & VCPU)
			vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
		errno = 0;
		result = enable(vm, rows[i].cap, rows[i].flags, rows[i].value);
		CHECK(errno == rows[i].error && result == (rows[i].error ? -1 : 0),
		      "row %zu, cap %u: %s", i, rows[i].cap, strerrorname_np(errno));
		close(vcpu);
		close(vm);
	}
	close(kvm);
}

/* Large pages without NX are the machine's risk: not every user may take it. */
static void without_rights(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	int status;
	pid_t child = fork();

	if (!child) {
		int kvm, vm;

		check_failures = 0;
		syscall(SYS_capget, &header, data);
		data[0].effective &= ~(1u << CAP_SYS_BOOT);
		WORKS(syscall(SYS_capset, &header, data));
		kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		vm = ioctl(kvm, KVM_CREATE_VM, 0);
		FAILS(enable(vm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0, 0), EPERM);
		_exit(check_failures != 0);
	}
	waitpid(child, &status, 0);
	CHECK(!status, "the child's status %x", status);
}

/* The pace of the APIC's timer. */
static void bus_cycles(void)
{
	struct machine machine;
	struct kvm_lapic_state state;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	const uint32_t divide = 0xb, count = UINT32_MAX;
	struct timespec from, to;
	uint32_t gone;

	machine.vm = ioctl(kvm, KVM_CREATE_VM, 0);
	WORKS(ioctl(machine.vm, KVM_CREATE_IRQCHIP, 0));
	WORKS(enable(machine.vm, APIC_CYCLES, 0, 1000));
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, APIC_CYCLES) == 1000, "not told");
	machine.vcpu = ioctl(machine.vm, KVM_CREATE_VCPU, 0);
	flat_cpuid(machine.vcpu);
	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &state));
	memcpy(&state.regs[0x3e0], &divide, sizeof(divide));
	memcpy(&state.regs[0x380], &count, sizeof(count));
	memcpy(&state.regs[0x390], &count, sizeof(count));
	clock_gettime(CLOCK_MONOTONIC, &from);
	WORKS(ioctl(machine.vcpu, KVM_SET_LAPIC, &state));
	usleep(20000);
	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &state));
	clock_gettime(CLOCK_MONOTONIC, &to);
	memcpy(&gone, &state.regs[0x390], sizeof(gone));
	gone = UINT32_MAX - gone;
	/* A cycle takes 1 us; of 1 ns there would be a thousand times as many. */
	CHECK(gone >= 20000 && gone <= (to.tv_sec - from.tv_sec) * 1000000 +
					   (to.tv_nsec - from.tv_nsec) / 1000 + 1,
	      "%u are gone", gone);
	machine_close(&machine);
	close(kvm);
}

/* A triple fault waits as an event where the client asks for it, and can be given. */
static void triple_faults(void)
{
	struct kvm_vcpu_events events;
	struct machine machine;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
	CHECK(!(events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT), "flags %x", events.flags);
	events.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	FAILS(ioctl(machine.vcpu, KVM_SET_VCPU_EVENTS, &events), EINVAL);
	WORKS(enable(machine.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 0, 1));
	WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
	CHECK((events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !events.triple_fault.pending,
	      "flags %x", events.flags);
	events.triple_fault.pending = 1;
	WORKS(ioctl(machine.vcpu, KVM_SET_VCPU_EVENTS, &events));
	WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
	CHECK(events.triple_fault.pending == 1, "it does not wait");
	WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	CHECK(machine.run->exit_reason == KVM_EXIT_SHUTDOWN, "exit %u", machine.run->exit_reason);
	WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
	CHECK(!events.triple_fault.pending, "it waits still");
	machine_close(&machine);
}

/* What KVM's emulator does not know, at a device: its bytes are told, and with the capability no
 * #UD waits.
 */
static void emulation_failures(void)
{
	static const uint8_t unknown[] = {0x0f, 0x58, 0x03}; /* addps xmm0, [rbx] */
	struct kvm_vcpu_events events;
	struct machine machine;

	for (int asked = 0; asked < 2; asked++) {
		const struct kvm_run *run;

		flat_open(&machine, MACHINE_NO_IRQCHIP);
		run = machine.run;
		if (asked)
			WORKS(enable(machine.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 0, 1));
		(void)flat_run(&machine, (const char *)unknown, sizeof(unknown),
			       (struct kvm_regs){.rbx = 0x20000000});
		CHECK(run->exit_reason == KVM_EXIT_INTERNAL_ERROR, "exit %u", run->exit_reason);
		CHECK(run->emulation_failure.suberror == KVM_INTERNAL_ERROR_EMULATION, "suberror");
		CHECK(run->emulation_failure.flags & 1, "no bytes");
		CHECK(run->emulation_failure.insn_size >= sizeof(unknown) &&
			  !memcmp(run->emulation_failure.insn_bytes, unknown, sizeof(unknown)),
		      "%u bytes", run->emulation_failure.insn_size);
		WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
		CHECK(events.exception.injected == !asked, "a #UD: %u", events.exception.injected);
		machine_close(&machine);
	}
}

/* Paravirtual MSRs that CPUID does not name are not there, where the client enforces it. */
static void enforced_features(void)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} clock = {{.nmsrs = 1}, {.index = 0x4b564d01}};
	struct kvm_cpuid2 none = {0};
	struct machine machine;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	FAILS(enable(machine.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, 1), EINVAL);
	FAILS(enable(machine.vcpu, KVM_CAP_HALT_POLL, 0, 1), EINVAL);
	WORKS(ioctl(machine.vcpu, KVM_SET_CPUID2, &none));
	clock.entry.data = 0x2000;
	CHECK(ioctl(machine.vcpu, KVM_SET_MSRS, &clock) == 1, "not enforced");
	WORKS(enable(machine.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0, 1));
	CHECK(ioctl(machine.vcpu, KVM_SET_MSRS, &clock) == 0, "enforced");
	flat_cpuid(machine.vcpu);
	CHECK(ioctl(machine.vcpu, KVM_SET_MSRS, &clock) == 1, "named by CPUID");
	WORKS(enable(machine.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0, 0));
	machine_close(&machine);
}

/* Addresses that Intel's processors want of a client: kept to KVM's limits, and not used. */
static void addresses(void)
{
	uint64_t place = 0xfffbc000;
	struct kvm_tpr_access_ctl control = {.enabled = 1};
	struct machine machine;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	machine.vm = ioctl(kvm, KVM_CREATE_VM, 0);
	WORKS(ioctl(machine.vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	WORKS(ioctl(machine.vm, KVM_SET_TSS_ADDR, 0xffffd000));
	FAILS(ioctl(machine.vm, KVM_SET_TSS_ADDR, 0xffffd001), EINVAL);
	FAILS(ioctl(machine.vm, KVM_SET_TSS_ADDR, UINT64_C(1) << 32), EINVAL);
	WORKS(ioctl(machine.vm, KVM_SET_IDENTITY_MAP_ADDR, &place));
	FAILS(ioctl(machine.vm, KVM_SET_IDENTITY_MAP_ADDR, 8), EFAULT);
	machine.vcpu = ioctl(machine.vm, KVM_CREATE_VCPU, 0);
	FAILS(ioctl(machine.vm, KVM_SET_IDENTITY_MAP_ADDR, &place), EINVAL);
	WORKS(ioctl(machine.vcpu, KVM_TPR_ACCESS_REPORTING, &control));
	control.flags = 1;
	FAILS(ioctl(machine.vcpu, KVM_TPR_ACCESS_REPORTING, &control), EINVAL);
	machine_close(&machine);
	close(kvm);
}

/* Exceptions that a debugger gives the guest; not over one that waits. Of a breakpoint's KVM says
 * nothing: its instruction raises it again.
 */
static void injected_exceptions(void)
{
	static const struct {
		uint32_t control, vector;
	} rows[] = {{KVM_GUESTDBG_INJECT_DB, 1}, {KVM_GUESTDBG_INJECT_BP, 3}};
	struct machine machine;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | rows[i].control};
		struct kvm_vcpu_events events;

		machine_open(&machine, MACHINE_NO_IRQCHIP);
		machine_put_handler(&machine, rows[i].vector, 0x60);
		WORKS(ioctl(machine.vcpu, KVM_SET_GUEST_DEBUG, &debug));
		WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
		CHECK(events.exception.injected == (i == 0) &&
			  events.exception.nr == rows[i].vector,
		      "row %zu: %u, vector %u", i, events.exception.injected, events.exception.nr);
		FAILS(ioctl(machine.vcpu, KVM_SET_GUEST_DEBUG, &debug), EBUSY);
		CHECK(next_report(&machine) == 0x60, "row %zu: exit %u", i,
		      machine.run->exit_reason);
		machine_close(&machine);
	}
}

/* A debugger may keep interrupts and NMIs off while it looks around. */
static void blocked_interrupts(void)
{
	/* mov al, 0x60; out REPORT_PORT, al; jmp to the first */
	static const uint8_t code[] = {0xb0, 0x60, 0xe6, REPORT_PORT, 0xeb, 0xfa};
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ};
	struct machine machine;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	memcpy(machine.memory + CODE, code, sizeof(code));
	WORKS(ioctl(machine.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	WORKS(ioctl(machine.vcpu, KVM_NMI, 0));
	for (int i = 0; i < 3; i++)
		CHECK(next_report(&machine) == 0x60, "exit %u", machine.run->exit_reason);
	debug.control = 0;
	WORKS(ioctl(machine.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	CHECK(next_report(&machine) == SAW_NMI, "exit %u", machine.run->exit_reason);
	CHECK(next_report(&machine) == 0x60, "exit %u", machine.run->exit_reason);
	machine_close(&machine);
}

/* Registers by the run page: those asked for are there after a run, those marked are taken. */
static void registers_by_the_run_page(void)
{
	static const char code[] = "\x83\xc0\x01"; /* add eax, 1 */
	struct machine machine;
	struct kvm_sync_regs *shared;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	shared = &machine.run->s.regs;
	machine.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	DOES(&machine, code, .rax = 6);
	CHECK(shared->regs.rax == 7 && shared->sregs.cr3 == FLAT_ROOT, "rax %llx, cr3 %llx",
	      shared->regs.rax, shared->sregs.cr3);
	CHECK(shared->events.flags && !shared->events.exception.injected, "events");
	shared->regs.rax = 41;
	shared->regs.rip = FLAT_CODE;
	shared->sregs.gs.base = 0x1000;
	shared->events.nmi.masked = 1;
	machine.run->kvm_dirty_regs = machine.run->kvm_valid_regs;
	WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	CHECK(shared->regs.rax == 42 && shared->sregs.gs.base == 0x1000 &&
		  shared->events.nmi.masked == 1 && !machine.run->kvm_dirty_regs,
	      "rax %llx, gs %llx", shared->regs.rax, shared->sregs.gs.base);
	shared->sregs.cr3 = UINT64_MAX;
	machine.run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINVAL);
	shared->events.exception = (__typeof__(shared->events.exception)){.injected = 1, .nr = 32};
	machine.run->kvm_dirty_regs = KVM_SYNC_X86_EVENTS;
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINVAL);
	machine.run->kvm_dirty_regs = 8;
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINVAL);
	machine.run->kvm_dirty_regs = 0;
	machine.run->kvm_valid_regs = 8;
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINVAL);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	checked();
	turned_on();
	without_rights();
	bus_cycles();
	triple_faults();
	emulation_failures();
	enforced_features();
	addresses();
	injected_exceptions();
	blocked_interrupts();
	registers_by_the_run_page();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
