/* Every ioctl with what a careless or hostile client passes: KVM's errno, and nothing changed. */
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "frontend/uapi.h"

/* Pointers that lead nowhere: low, unmapped, the kernel's half, not even an address. */
static const uintptr_t bad_pointers[] = {8, 0x7ffffffff000, 0xffff800000000000, 0x1234567890abcdef};
#define BAD_POINTERS (sizeof(bad_pointers) / sizeof(bad_pointers[0]))

static int kvm, vm, vcpu;

static void open_all(void)
{
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0, "no /dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	CHECK(vm >= 0, "no VM");
	WORKS(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	CHECK(vcpu >= 0, "no vCPU");
}

static void unknown_commands(void)
{
	unsigned long unknown = _IO(KVMIO, 0xff), wrong_size = _IOW(KVMIO, 0x82, char);
	int stats = ioctl(vm, KVM_GET_STATS_FD, NULL);

	FAILS(ioctl(kvm, unknown, 0), EINVAL);
	FAILS(ioctl(vm, unknown, 0), ENOTTY);
	FAILS(ioctl(vcpu, unknown, 0), EINVAL);
	FAILS(ioctl(vcpu, _IO('x', 0x80), 0), EINVAL);
	FAILS(ioctl(vcpu, wrong_size, 0), EINVAL);
	FAILS(ioctl(vm, KVM_RUN, 0), ENOTTY);
	FAILS(ioctl(vm, KVM_GET_NR_MMU_PAGES, 0), ENOTTY);
	FAILS(ioctl(kvm, KVM_CREATE_VCPU, 0), EINVAL);
	FAILS(ioctl(vcpu, KVM_CREATE_VCPU, 1), EINVAL);
	FAILS(ioctl(stats, KVM_GET_STATS_FD, 0), ENOTTY);
	close(stats);
	FAILS(ioctl(stats, KVM_GET_STATS_FD, 0), EBADF);
}

static void bad_pointer_each(void)
{
	static const unsigned long vm_commands[] = {
	    KVM_SET_USER_MEMORY_REGION,
	    KVM_SET_USER_MEMORY_REGION2,
	    KVM_SET_MEMORY_ATTRIBUTES,
	    KVM_CREATE_GUEST_MEMFD,
	    KVM_GET_DIRTY_LOG,
	    KVM_CLEAR_DIRTY_LOG,
	    KVM_ENABLE_CAP,
	    KVM_GET_CLOCK,
	    KVM_SET_CLOCK,
	    KVM_IRQ_LINE,
	    KVM_GET_IRQCHIP,
	    KVM_SET_IRQCHIP,
	    KVM_IOEVENTFD,
	    KVM_REGISTER_COALESCED_MMIO,
	    KVM_SIGNAL_MSI,
	    KVM_SET_GSI_ROUTING,
	};
	static const unsigned long vcpu_commands[] = {
	    KVM_GET_REGS,  KVM_SET_REGS,	KVM_GET_SREGS,	     KVM_SET_SREGS,
	    KVM_GET_FPU,   KVM_SET_FPU,		KVM_GET_XSAVE,	     KVM_SET_XSAVE,
	    KVM_GET_XCRS,  KVM_SET_XCRS,	KVM_GET_DEBUGREGS,   KVM_SET_DEBUGREGS,
	    KVM_GET_MSRS,  KVM_SET_MSRS,	KVM_SET_CPUID2,	     KVM_GET_CPUID2,
	    KVM_GET_LAPIC, KVM_SET_LAPIC,	KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
	    KVM_SET_CPUID, KVM_GET_MP_STATE,	KVM_SET_MP_STATE,    KVM_INTERRUPT,
	    KVM_TRANSLATE, KVM_SET_SIGNAL_MASK, KVM_SET_GUEST_DEBUG, KVM_PRE_FAULT_MEMORY,
	};
	static const unsigned long kvm_commands[] = {
	    KVM_GET_SUPPORTED_CPUID,	    KVM_GET_EMULATED_CPUID, KVM_GET_MSR_INDEX_LIST,
	    KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_GET_MSRS,	    KVM_X86_GET_MCE_CAP_SUPPORTED,
	};

	for (size_t p = 0; p < BAD_POINTERS; p++) {
		for (size_t i = 0; i < sizeof(vm_commands) / sizeof(vm_commands[0]); i++)
			FAILS(ioctl(vm, vm_commands[i], bad_pointers[p]), EFAULT);
		for (size_t i = 0; i < sizeof(vcpu_commands) / sizeof(vcpu_commands[0]); i++)
			FAILS(ioctl(vcpu, vcpu_commands[i], bad_pointers[p]), EFAULT);
		for (size_t i = 0; i < sizeof(kvm_commands) / sizeof(kvm_commands[0]); i++)
			FAILS(ioctl(kvm, kvm_commands[i], bad_pointers[p]), EFAULT);
	}
}

static void creation(void)
{
	int types = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);

	for (unsigned long type = 0; type < 70; type++) {
		if (type < 32 && (types & 1 << type))
			WORKS(close(ioctl(kvm, KVM_CREATE_VM, type)));
		else
			FAILS(ioctl(kvm, KVM_CREATE_VM, type), EINVAL);
	}
	FAILS(ioctl(kvm, KVM_GET_API_VERSION, 1), EINVAL);
	FAILS(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 1), EINVAL);
	FAILS(ioctl(vm, KVM_CREATE_VCPU, 4096), EINVAL);
	FAILS(ioctl(vm, KVM_CREATE_VCPU, -1L), EINVAL);
	FAILS(ioctl(vm, KVM_CREATE_VCPU, 0), EEXIST);
	FAILS(ioctl(vm, KVM_CREATE_IRQCHIP, 0), EEXIST);
	FAILS(ioctl(vm, KVM_SET_BOOT_CPU_ID, 0), EBUSY);
	FAILS(ioctl(vcpu, KVM_RUN, 1), EINVAL);
}

/* A header of KVM's and what follows it. */
union cpuid_list {
	struct kvm_cpuid2 header;
	uint8_t room[sizeof(struct kvm_cpuid2) + 100 * sizeof(struct kvm_cpuid_entry2)];
};

union msr_list {
	struct kvm_msrs header;
	uint8_t room[sizeof(struct kvm_msrs) + 3 * sizeof(struct kvm_msr_entry)];
};

union signal_list {
	struct kvm_signal_mask header;
	uint8_t room[32];
};

/* More entries than there is room for, entries that do not exist, counts that say how far. */
static void lists(void)
{
	static const struct kvm_msr_entry wanted[3] = {
	    {.index = 0x174}, {.index = 0x12345678}, {.index = 0x175}};
	union cpuid_list cpuid = {.header.nent = 1};
	union msr_list msrs = {.header.nmsrs = 3};
	struct kvm_msr_list none = {.nmsrs = 0};

	memcpy(msrs.room + sizeof(msrs.header), wanted, sizeof(wanted));
	FAILS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), E2BIG);
	cpuid.header.nent = 100;
	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	CHECK(cpuid.header.nent > 10 && cpuid.header.nent < 100, "%u entries", cpuid.header.nent);
	WORKS(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	cpuid.header.nent = 1;
	FAILS(ioctl(vcpu, KVM_GET_CPUID2, &cpuid), E2BIG);
	cpuid.header.nent = 257;
	FAILS(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), E2BIG);
	CHECK(ioctl(vcpu, KVM_GET_MSRS, &msrs) == 1, "one MSR before the unknown one");
	CHECK(ioctl(vcpu, KVM_SET_MSRS, &msrs) == 1, "one MSR before the unknown one");
	FAILS(ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &none), E2BIG);
	CHECK(none.nmsrs > 10, "%u MSRs", none.nmsrs);
	msrs.header.nmsrs = 256;
	FAILS(ioctl(vcpu, KVM_GET_MSRS, &msrs), E2BIG);
}

static void round_trips(void)
{
	struct kvm_regs regs = {.rax = 1, .rsp = 2, .r15 = 3, .rip = 4, .rflags = 0x202}, regs2;
	struct kvm_sregs sregs, sregs2;
	struct kvm_fpu fpu = {.fcw = 0x37f}, fpu2;
	struct kvm_lapic_state lapic, lapic2;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug = {.db = {1, 2, 3, 4}, .dr6 = 0xffff0ff0, .dr7 = 0x400}, debug2;
	struct kvm_mp_state state;

	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_GET_REGS, &regs2));
	CHECK(!memcmp(&regs, &regs2, sizeof(regs)), "registers");
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.gs.base = 0x1234000;
	sregs.cr8 = 5;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs2));
	CHECK(!memcmp(&sregs, &sregs2, sizeof(sregs)), "special registers");
	sregs2.cr0 |= UINT64_C(1) << 31;
	FAILS(ioctl(vcpu, KVM_SET_SREGS, &sregs2), EINVAL);
	sregs2 = sregs;
	sregs2.apic_base = 1;
	FAILS(ioctl(vcpu, KVM_SET_SREGS, &sregs2), EINVAL);
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs2));
	CHECK(!memcmp(&sregs, &sregs2, sizeof(sregs)), "a refused call changed something");
	memset(fpu.xmm, 0x5a, sizeof(fpu.xmm));
	WORKS(ioctl(vcpu, KVM_SET_FPU, &fpu));
	WORKS(ioctl(vcpu, KVM_GET_FPU, &fpu2));
	CHECK(!memcmp(&fpu, &fpu2, sizeof(fpu)), "floating point");
	WORKS(ioctl(vcpu, KVM_SET_DEBUGREGS, &debug));
	WORKS(ioctl(vcpu, KVM_GET_DEBUGREGS, &debug2));
	CHECK(!memcmp(&debug, &debug2, sizeof(debug)), "debug registers");
	debug.dr7 = UINT64_C(1) << 32;
	FAILS(ioctl(vcpu, KVM_SET_DEBUGREGS, &debug), EINVAL);
	WORKS(ioctl(vcpu, KVM_GET_LAPIC, &lapic));
	WORKS(ioctl(vcpu, KVM_SET_LAPIC, &lapic));
	WORKS(ioctl(vcpu, KVM_GET_LAPIC, &lapic2));
	CHECK(!memcmp(&lapic, &lapic2, sizeof(lapic)), "local APIC");
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events));
	WORKS(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events));
	events.flags = 1u << 31;
	FAILS(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events), EINVAL);
	state.mp_state = 77;
	FAILS(ioctl(vcpu, KVM_SET_MP_STATE, &state), EINVAL);
	state.mp_state = KVM_MP_STATE_HALTED;
	WORKS(ioctl(vcpu, KVM_SET_MP_STATE, &state));
	state.mp_state = KVM_MP_STATE_RUNNABLE;
	WORKS(ioctl(vcpu, KVM_SET_MP_STATE, &state));
}

static void irqchips(void)
{
	for (uint32_t id = 0; id < 3; id++) {
		struct kvm_irqchip chip = {.chip_id = id}, again = {.chip_id = id};

		WORKS(ioctl(vm, KVM_GET_IRQCHIP, &chip));
		WORKS(ioctl(vm, KVM_SET_IRQCHIP, &chip));
		WORKS(ioctl(vm, KVM_GET_IRQCHIP, &again));
		CHECK(!memcmp(&chip, &again, sizeof(chip)), "interrupt controller %u", id);
	}
	FAILS(ioctl(vm, KVM_GET_IRQCHIP, &(struct kvm_irqchip){.chip_id = 3}), EINVAL);
}

static long eventfd_call(int fd, uint64_t address, uint32_t length, uint32_t flags)
{
	struct kvm_ioeventfd call = {.addr = address, .len = length, .fd = fd, .flags = flags};

	return ioctl(vm, KVM_IOEVENTFD, &call);
}

static void eventfds(void)
{
	int fd = eventfd(0, EFD_CLOEXEC), copy = dup(fd), other = eventfd(0, EFD_CLOEXEC);

	FAILS(eventfd_call(fd, 0x1000, 3, 0), EINVAL);
	FAILS(eventfd_call(fd, UINT64_MAX, 4, 0), EINVAL);
	FAILS(eventfd_call(fd, 0x1000, 4, 1u << 20), EINVAL);
	FAILS(eventfd_call(fd, 0x1000, 0, KVM_IOEVENTFD_FLAG_DATAMATCH), EINVAL);
	FAILS(eventfd_call(12345, 0x1000, 4, 0), EBADF);
	FAILS(eventfd_call(vm, 0x1000, 4, 0), EINVAL);
	WORKS(eventfd_call(fd, 0x1000, 4, KVM_IOEVENTFD_FLAG_DATAMATCH));
	FAILS(eventfd_call(other, 0x1000, 4, KVM_IOEVENTFD_FLAG_DATAMATCH), EEXIST);
	FAILS(eventfd_call(other, 0x1000, 4, 0), EEXIST);
	FAILS(eventfd_call(other, 0x1000, 0, 0), EEXIST);
	WORKS(eventfd_call(other, 0x1000, 2, 0));
	WORKS(eventfd_call(other, 0x1000, 4, KVM_IOEVENTFD_FLAG_PIO));
	FAILS(eventfd_call(other, 0x1000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN), ENOENT);
	/* The eventfd is what counts, not the number that names it. */
	WORKS(eventfd_call(copy, 0x1000, 4,
			   KVM_IOEVENTFD_FLAG_DEASSIGN | KVM_IOEVENTFD_FLAG_DATAMATCH));
	FAILS(
	    eventfd_call(fd, 0x1000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN | KVM_IOEVENTFD_FLAG_DATAMATCH),
	    ENOENT);
	close(fd);
	close(copy);
	close(other);
}

static void coalesced_zones(void)
{
	struct kvm_coalesced_mmio_zone zone = {.addr = 0x1000, .size = 8, .pio = 2};

	FAILS(ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone), EINVAL);
	FAILS(ioctl(vm, KVM_UNREGISTER_COALESCED_MMIO, &zone), EINVAL);
	zone.pio = 0;
	for (int i = 0; i < 2000; i++) {
		zone.addr = 0x1000 + 8 * (uint64_t)i;
		if (!ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone))
			continue;
		/* The bus holds 1,000 devices; one is the eventfd of before. */
		CHECK(errno == ENOSPC && i == 999, "zone %d: %s", i, strerror(errno));
		break;
	}
	/* Zones that hold all of the range go: none holds so much, one holds its own. */
	WORKS(ioctl(vm, KVM_UNREGISTER_COALESCED_MMIO,
		    &(struct kvm_coalesced_mmio_zone){.size = UINT32_MAX}));
	FAILS(ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone), ENOSPC);
	for (int i = 0; i < 999; i++) {
		zone.addr = 0x1000 + 8 * (uint64_t)i;
		WORKS(ioctl(vm, KVM_UNREGISTER_COALESCED_MMIO, &zone));
	}
	WORKS(ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone));
	WORKS(ioctl(vm, KVM_UNREGISTER_COALESCED_MMIO, &zone));
}

static void small_calls(void)
{
	struct kvm_enable_cap cap = {.cap = 99999};
	struct kvm_pre_fault_memory range = {.size = 0};
	union signal_list mask = {.header.len = 16};

	FAILS(ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.cap = KVM_CAP_EXIT_HYPERCALL;
	cap.args[0] = 1;
	FAILS(ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 1 << 12;
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	FAILS(ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask), EINVAL);
	WORKS(ioctl(vcpu, KVM_SET_SIGNAL_MASK, NULL));
	FAILS(ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range), EINVAL);
	range.size = 4096;
	range.gpa = 1;
	FAILS(ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range), EINVAL);
	range.gpa = 0;
	FAILS(ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range), ENOENT);
	CHECK(range.size == 4096, "a failed prefault moved");
	FAILS(ioctl(vm, KVM_SET_NR_MMU_PAGES, 63), EINVAL);
	FAILS(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), EINVAL);
	CHECK(ioctl(vm, KVM_GET_TSC_KHZ, 0) > 100000, "TSC frequency");
	CHECK(ioctl(vcpu, KVM_GET_TSC_KHZ, 0) == ioctl(vm, KVM_GET_TSC_KHZ, 0), "TSC frequencies");
	FAILS(ioctl(vcpu, KVM_SET_TSC_KHZ, 1), EINVAL);
}

/* The number of ids: set once, by the first vCPU if by no call; 0 is no number. */
static void numbers_of_ids(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MAX_VCPU_ID};
	int other = ioctl(kvm, KVM_CREATE_VM, 0), made;

	WORKS(ioctl(other, KVM_ENABLE_CAP, &cap));
	WORKS(ioctl(other, KVM_SET_BOOT_CPU_ID, 4096));
	FAILS(ioctl(other, KVM_SET_BOOT_CPU_ID, 4097), EINVAL);
	WORKS(ioctl(other, KVM_SET_BOOT_CPU_ID, 8));
	cap.args[0] = 7;
	FAILS(ioctl(other, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 4097;
	FAILS(ioctl(other, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 10;
	WORKS(ioctl(other, KVM_ENABLE_CAP, &cap));
	WORKS(ioctl(other, KVM_ENABLE_CAP, &cap));
	cap.args[0] = 4096;
	FAILS(ioctl(other, KVM_ENABLE_CAP, &cap), EINVAL);
	WORKS(ioctl(other, KVM_SET_BOOT_CPU_ID, 10));
	FAILS(ioctl(other, KVM_SET_BOOT_CPU_ID, 11), EINVAL);
	FAILS(ioctl(other, KVM_CREATE_VCPU, 10), EINVAL);
	close(other);
	other = ioctl(kvm, KVM_CREATE_VM, 0);
	cap.args[0] = 0;
	WORKS(ioctl(other, KVM_ENABLE_CAP, &cap));
	made = ioctl(other, KVM_CREATE_VCPU, 4095);
	CHECK(made >= 0, "no vCPU");
	cap.args[0] = 4096;
	WORKS(ioctl(other, KVM_ENABLE_CAP, &cap));
	cap.args[0] = 4000;
	FAILS(ioctl(other, KVM_ENABLE_CAP, &cap), EINVAL);
	close(made);
	close(other);
}

/* What shadows the TPR is a place with a slot, or none. */
static void places_of_tpr(void)
{
	struct kvm_vapic_addr address = {0};

	WORKS(ioctl(vcpu, KVM_SMI, 0));
	WORKS(ioctl(vcpu, KVM_SET_VAPIC_ADDR, &address));
	address.vapic_addr = UINT64_C(1) << 40;
	FAILS(ioctl(vcpu, KVM_SET_VAPIC_ADDR, &address), EINVAL);
}

/* A statistics file outlives the descriptors of what it tells about. */
static void statistics(void)
{
	int own_vm = ioctl(kvm, KVM_CREATE_VM, 0), own_vcpu = ioctl(own_vm, KVM_CREATE_VCPU, 7);
	int fd = ioctl(own_vcpu, KVM_GET_STATS_FD, NULL);
	void *volatile nowhere = (void *)8;
	struct kvm_stats_header header;
	char id[48], expected[48];

	close(own_vcpu);
	close(own_vm);
	CHECK(pread(fd, &header, sizeof(header), 0) == sizeof(header), "header");
	CHECK(header.name_size == 48 && header.num_desc > 10, "header's contents");
	CHECK(pread(fd, id, sizeof(id), header.id_offset) == sizeof(id), "id");
	snprintf(expected, sizeof(expected), "kvm-%d/vcpu-7", getpid());
	CHECK(!strcmp(id, expected), "id is %s", id);
	FAILS(pread(fd, nowhere, 16, 0), EFAULT);
	CHECK(pread(fd, id, sizeof(id), 1 << 20) == 0, "past the end");
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "not close-on-exec");
	close(fd);
}

static void forked_child(void)
{
	pid_t pid = fork();
	int status = 0;

	if (!pid) {
		struct kvm_regs regs;

		check_failures = 0;
		FAILS(ioctl(vm, KVM_CHECK_EXTENSION, 0), EIO);
		FAILS(ioctl(vcpu, KVM_GET_REGS, &regs), EIO);
		FAILS(ioctl(vm, _IO(KVMIO, 0xff), 0), EIO);
		CHECK(ioctl(kvm, KVM_GET_API_VERSION, 0) == 12, "the system's own are for all");
		fflush(stdout);
		_exit(check_failures != 0);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "the child failed");
}

/* Closing in any order; the VM lives on in what it made. */
static void lifetimes(void)
{
	struct kvm_create_guest_memfd create = {.size = 4096};

	for (int order = 0; order < 6; order++) {
		int fds[3], first = order % 3, second = (first + 1 + order / 3) % 3;

		fds[0] = ioctl(kvm, KVM_CREATE_VM, 0);
		fds[1] = ioctl(fds[0], KVM_CREATE_VCPU, 0);
		fds[2] = ioctl(fds[0], KVM_CREATE_GUEST_MEMFD, &create);
		CHECK(fds[2] >= 0, "guest_memfd: %s", strerror(errno));
		WORKS(close(fds[first]));
		WORKS(close(fds[second]));
		WORKS(close(fds[3 - first - second]));
	}
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	open_all();
	unknown_commands();
	bad_pointer_each();
	creation();
	lists();
	round_trips();
	irqchips();
	eventfds();
	coalesced_zones();
	small_calls();
	numbers_of_ids();
	places_of_tpr();
	statistics();
	forked_child();
	lifetimes();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
