/*
 * Model-specific registers as the guest and the client see them.
 *
 * The guest's accesses that KVM refuses end in exits here, so that the reason is seen: unknown, or
 * not this value. Run with an argument, the test expects that unknown MSRs are ignored.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "frontend/uapi.h"

#define CPUID_LA57 (UINT32_C(1) << 16) /* leaf 7, ECX */
#define TAKEN 0u
#define INVALID KVM_MSR_EXIT_REASON_INVAL
#define UNKNOWN KVM_MSR_EXIT_REASON_UNKNOWN
#define ALL_ONES UINT64_MAX
#define MCG_CTL_PRESENT 0x100u
#define VALID (UINT64_C(1) << 63)
#define OVERFLOWED (UINT64_C(1) << 62)
#define UNCORRECTED (UINT64_C(1) << 61)
#define ACTION (UINT64_C(3) << 55)

static int kvm, vm, vcpu;
static struct kvm_run *run;
static uint8_t *memory;
static int vendor_is_amd;

/* What is offered, without the bits @hidden of leaf 7, ECX. */
static void cpuid_set(uint32_t hidden)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 room[100];
	} cpuid = {.header.nent = 100};

	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	for (uint32_t i = 0; i < cpuid.header.nent; i++)
		if (cpuid.room[i].function == 7 && !cpuid.room[i].index)
			cpuid.room[i].ecx &= ~hidden;
	WORKS(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	vendor_is_amd = cpuid.room[0].ebx != 0x756e6547;
}

static void machine_open(void)
{
	struct kvm_userspace_memory_region region = {.memory_size = 0x2000};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				     .args = {INVALID | UNKNOWN}};
	struct kvm_sregs sregs;

	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, 0x3000, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	memory = mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)memory;
	WORKS(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
}

static void machine_close(void)
{
	munmap(run, 0x3000);
	close(vcpu);
	close(vm);
	munmap(memory, 0x2000);
}

/* One RDMSR or WRMSR: TAKEN, or the reason of the exit. */
static uint32_t guest_access(const char *code, uint32_t index, uint64_t *value)
{
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2, .rcx = index};

	regs.rax = (uint32_t)*value;
	regs.rdx = *value >> 32;
	memcpy(memory + 0x1000, code, 3);
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_RUN, 0));
	if (run->exit_reason == KVM_EXIT_HLT) {
		WORKS(ioctl(vcpu, KVM_GET_REGS, &regs));
		*value = (uint32_t)regs.rax | regs.rdx << 32;
		return TAKEN;
	}
	CHECK(run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR,
	      "exit %u", run->exit_reason);
	return (uint32_t)run->msr.reason;
}

/* The instruction that ended in an exit is done: the run page says that all is well. */
static void guest_complete(void)
{
	run->msr.error = 0;
	run->immediate_exit = 1;
	CHECK(ioctl(vcpu, KVM_RUN, 0) == -1 && errno == EINTR, "not completed");
	run->immediate_exit = 0;
}

static uint32_t guest_read(uint32_t index, uint64_t *value)
{
	uint32_t reason;

	*value = 0;
	reason = guest_access("\x0f\x32\xf4", index, value);
	if (reason)
		guest_complete();
	return reason;
}

static uint32_t guest_write(uint32_t index, uint64_t value)
{
	uint32_t reason = guest_access("\x0f\x30\xf4", index, &value);

	if (reason)
		guest_complete();
	return reason;
}

union one_msr {
	struct kvm_msrs header;
	uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

/* 1 when it was done, as the call counts. */
static int client_call(int fd, unsigned long command, uint32_t index, uint64_t *value)
{
	struct kvm_msr_entry entry = {.index = index, .data = *value};
	union one_msr one = {.header.nmsrs = 1};
	int done;

	memcpy(one.room + sizeof(one.header), &entry, sizeof(entry));
	done = ioctl(fd, command, &one);
	memcpy(&entry, one.room + sizeof(one.header), sizeof(entry));
	*value = entry.data;
	return done;
}

static int client_write(uint32_t index, uint64_t value)
{
	return client_call(vcpu, KVM_SET_MSRS, index, &value);
}

static uint64_t client_read(uint32_t index)
{
	uint64_t value = 0x5a5a;

	CHECK(client_call(vcpu, KVM_GET_MSRS, index, &value) == 1, "MSR %x is not there", index);
	return value;
}

#define GUEST_WRITES(index, value, reason)                                         \
	do {                                                                       \
		uint32_t got_ = guest_write(index, value);                         \
		CHECK(got_ == (reason), "guest writes %llx to MSR %x: %u, not %u", \
		      (unsigned long long)(value), index, got_, reason);           \
	} while (0)
#define GUEST_READS(index, wanted, reason)                                                        \
	do {                                                                                      \
		uint64_t value_;                                                                  \
		uint32_t got_ = guest_read(index, &value_);                                       \
		CHECK(got_ == (reason), "guest reads MSR %x: %u, not %u", index, got_, reason);   \
		CHECK(got_ || value_ == (uint64_t)(wanted), "MSR %x is %llx to the guest", index, \
		      (unsigned long long)value_);                                                \
	} while (0)
#define CLIENT_WRITES(index, value, done)                                           \
	CHECK(client_write(index, value) == (done), "client writes %llx to MSR %x", \
	      (unsigned long long)(value), index)
#define CLIENT_READS(index, wanted)                                                        \
	do {                                                                               \
		uint64_t value_ = client_read(index);                                      \
		CHECK(value_ == (uint64_t)(wanted), "MSR %x is %llx to the client", index, \
		      (unsigned long long)value_);                                         \
	} while (0)

/* Registers of old processors, which guests touch and do not rely on. */
static void fixed_values(void)
{
	static const uint32_t dropped[] = {0xc1,       0xc2,	   0x186,      0x187,
					   0xc0010000, 0xc0010003, 0xc0010004, 0xc0010007,
					   0xc001001f, 0xc0011022, 0xc001102a};
	static const uint32_t zero[] = {0x0,   0x17,  0x2a,	  0x199,
					0x1db, 0x611, 0xc0010010, 0xc0010112};

	for (size_t i = 0; i < sizeof(dropped) / sizeof(dropped[0]); i++) {
		GUEST_WRITES(dropped[i], ALL_ONES, TAKEN);
		GUEST_READS(dropped[i], 0, TAKEN);
		CLIENT_WRITES(dropped[i], 7, 1);
		CLIENT_READS(dropped[i], 0);
	}
	for (size_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++) {
		GUEST_READS(zero[i], 0, TAKEN);
		GUEST_WRITES(zero[i], 1, UNKNOWN);
		CLIENT_WRITES(zero[i], 1, 0);
	}
	GUEST_READS(0x2c, 1u << 24, TAKEN);
	GUEST_READS(0xcd, 3, TAKEN);
	GUEST_READS(0x198, UINT64_C(4) << 40 | 1000, TAKEN);
	GUEST_READS(0xc001001b, 0x20000000, TAKEN);
	GUEST_READS(0x79, 0, UNKNOWN);
	GUEST_WRITES(0x79, 1, TAKEN);
	GUEST_WRITES(0xc0010058, 1, INVALID);
	GUEST_WRITES(0xc0010058, 0, TAKEN);
	GUEST_READS(0xc0010140, 0, INVALID);
	GUEST_READS(0x12345678, 0, UNKNOWN);
	GUEST_WRITES(0x12345678, 0, UNKNOWN);
}

static void machine_checks(void)
{
	uint64_t cap = 4 | MCG_CTL_PRESENT | UINT64_C(0x30000);

	CLIENT_READS(0x179, 32);
	CLIENT_READS(0x400, 0);
	GUEST_WRITES(0x179, 0, UNKNOWN);
	GUEST_READS(0x17b, 0, INVALID);
	CLIENT_WRITES(0x17b, 0, 1);
	CLIENT_WRITES(0x17b, ALL_ONES, 0);
	WORKS(ioctl(vcpu, KVM_X86_SETUP_MCE, &cap));
	CLIENT_READS(0x17b, ALL_ONES);
	CLIENT_READS(0x400, ALL_ONES);
	GUEST_WRITES(0x17b, 5, INVALID);
	GUEST_WRITES(0x17b, 0, TAKEN);
	GUEST_WRITES(0x17b, ALL_ONES, TAKEN);
	GUEST_WRITES(0x17a, ALL_ONES, TAKEN);
	/* CTL: all or nothing, but for two bits. STATUS: cleared by guests. ADDR, MISC: anything.
	 */
	GUEST_WRITES(0x400, 1, INVALID);
	CLIENT_WRITES(0x400, 2, 0);
	GUEST_WRITES(0x404, ALL_ONES & ~UINT64_C(0x401), TAKEN);
	GUEST_WRITES(0x401, 1, INVALID);
	CLIENT_WRITES(0x401, 1, 1);
	GUEST_WRITES(0x401, 0, TAKEN);
	GUEST_WRITES(0x402, 0x1234, TAKEN);
	GUEST_READS(0x402, 0x1234, TAKEN);
	if (vendor_is_amd) {
		GUEST_WRITES(0xc0010015, 1u << 18, TAKEN);
		GUEST_WRITES(0x401, 1, TAKEN);
		GUEST_WRITES(0xc0010015, 0, TAKEN);
		GUEST_WRITES(0x401, 0, TAKEN);
	}
	/* Banks that there are not, and the registers of corrected errors. */
	GUEST_READS(0x410, 0, INVALID);
	CLIENT_WRITES(0x410, 0, 0);
	GUEST_READS(0x280, 0, INVALID);
	CLIENT_READS(0x280, 0);
	CLIENT_WRITES(0x280, 1, 0);
	cap = 33;
	FAILS(ioctl(vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
	cap = 4 | 1u << 11;
	FAILS(ioctl(vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
	cap = 0;
	FAILS(ioctl(vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
}

static uint32_t pending_exception(void)
{
	struct kvm_vcpu_events events;

	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events));
	return events.exception.injected ? events.exception.nr : 0;
}

static void machine_check_reports(void)
{
	struct kvm_x86_mce mce = {.bank = 4,
				  .status = VALID | UNCORRECTED | ACTION,
				  .addr = 0x1000,
				  .misc = 0x8c,
				  .mcg_status = 5};
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;

	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cr4 |= 1u << 6;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	CLIENT_WRITES(0x17a, 0, 1);
	FAILS(ioctl(vcpu, KVM_X86_SET_MCE, &mce), EINVAL);
	mce.bank = 0;
	mce.status = UNCORRECTED;
	FAILS(ioctl(vcpu, KVM_X86_SET_MCE, &mce), EINVAL);
	/* Bank 1 has its reports switched off in part: none comes. */
	mce.bank = 1;
	mce.status = VALID | UNCORRECTED | ACTION;
	WORKS(ioctl(vcpu, KVM_X86_SET_MCE, &mce));
	CLIENT_READS(0x405, 0);
	/* A corrected error is noted, and a second one says that there were more. */
	mce.bank = 2;
	mce.status = VALID | 1;
	WORKS(ioctl(vcpu, KVM_X86_SET_MCE, &mce));
	WORKS(ioctl(vcpu, KVM_X86_SET_MCE, &mce));
	CLIENT_READS(0x409, VALID | OVERFLOWED | 1);
	CHECK(!pending_exception(), "an exception for a corrected error");
	/* KVM notes an uncorrected error that needs no action, too. */
	mce.status = VALID | UNCORRECTED | 2;
	mce.mcg_status = 0;
	WORKS(ioctl(vcpu, KVM_X86_SET_MCE, &mce));
	CLIENT_READS(0x409, VALID | UNCORRECTED | 2);
	CHECK(!pending_exception(), "an exception for a deferred error");
	mce.bank = 0;
	mce.status = VALID | UNCORRECTED | ACTION;
	mce.mcg_status = 5;
	WORKS(ioctl(vcpu, KVM_X86_SET_MCE, &mce));
	CLIENT_READS(0x401, mce.status);
	CLIENT_READS(0x402, 0x1000);
	CLIENT_READS(0x403, 0x8c);
	CLIENT_READS(0x17a, 5);
	CHECK(pending_exception() == 18, "no machine check");
	/* Another while it is handled shuts the processor down. */
	WORKS(ioctl(vcpu, KVM_X86_SET_MCE, &mce));
	memset(&events, 0, sizeof(events));
	WORKS(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events));
	WORKS(ioctl(vcpu, KVM_RUN, 0));
	CHECK(run->exit_reason == KVM_EXIT_SHUTDOWN, "exit %u", run->exit_reason);
}

/*
 * How wide an MSR's address may be goes by the processor, which has LA57: the guest's tables have
 * four levels here, and its CPUID shows no more.
 */
static void wide_addresses(void)
{
	uint64_t wide = UINT64_C(0xff11000000000000);

	machine_close();
	machine_open();
	cpuid_set(CPUID_LA57);
	GUEST_WRITES(0xc0000082, wide, TAKEN);
	GUEST_WRITES(0xc0000082, wide | UINT64_C(1) << 57, TAKEN);
	GUEST_WRITES(0xc0000082, UINT64_C(1) << 57, INVALID);
	CLIENT_WRITES(0xc0000102, wide, 1);
	CLIENT_WRITES(0xc0000102, UINT64_C(1) << 57, 0);
	GUEST_WRITES(0x175, UINT64_C(0x800000000000), TAKEN);
	CLIENT_READS(0x175, vendor_is_amd ? 0 : UINT64_C(0x800000000000));
	machine_close();
	machine_open();
	cpuid_set(0);
}

static void addresses(void)
{
	uint64_t odd = UINT64_C(0x8000000000001234);

	GUEST_WRITES(0xc0000082, odd, INVALID);
	CLIENT_WRITES(0xc0000082, odd, 0);
	CLIENT_WRITES(0xc0000102, odd, 0);
	/* SYSENTER's are made canonical, or cut: no value is refused. */
	GUEST_WRITES(0x175, odd, TAKEN);
	CLIENT_READS(0x175, vendor_is_amd ? 0x1234 : 0x1234);
	GUEST_WRITES(0x176, UINT64_C(1) << 56, TAKEN);
	CLIENT_READS(0x176, vendor_is_amd ? 0 : UINT64_C(0xff00000000000000));
	GUEST_WRITES(0x174, UINT64_C(0x100000008), TAKEN);
	CLIENT_READS(0x174, 8);
	CLIENT_WRITES(0x174, UINT64_C(0x200000010), 1);
	CLIENT_READS(0x174, 0x10);
	CLIENT_WRITES(0xc0000103, UINT64_C(1) << 32, vendor_is_amd);
	GUEST_WRITES(0xc0010117, 0x1001, INVALID);
	CLIENT_WRITES(0xc0010117, 0x1001, 1);
	CLIENT_READS(0xc0010117, 0x1000);
}

static void memory_types(void)
{
	GUEST_WRITES(0x200, 0x2, INVALID);
	CLIENT_WRITES(0x200, 0x2, 0);
	GUEST_WRITES(0x200, 0x106, INVALID);
	GUEST_WRITES(0x200, 0x1006, TAKEN);
	GUEST_WRITES(0x201, 0x801, INVALID);
	GUEST_WRITES(0x201, UINT64_C(1) << 60, INVALID);
	GUEST_WRITES(0x201, 0x1800, TAKEN);
	CLIENT_WRITES(0x250, UINT64_C(0x0700000000000000), 0);
	CLIENT_WRITES(0x2ff, 0xc02, 0);
	GUEST_WRITES(0x2ff, 0x1c06, INVALID);
	CLIENT_WRITES(0x2ff, 0xc06, 1);
	CLIENT_READS(0x2ff, 0xc06);
	GUEST_WRITES(0xfe, 0, INVALID);
	GUEST_WRITES(0x277, 2, INVALID);
}

static void switches(void)
{
	/* Two bits the guest may not change, one it thinks it can. */
	GUEST_WRITES(0x1a0, 0, INVALID);
	GUEST_WRITES(0x1a0, 0x1880, TAKEN);
	GUEST_READS(0x1a0, 0x1800, TAKEN);
	CLIENT_WRITES(0x1a0, 0x80, 1);
	GUEST_WRITES(0x1d9, 3, TAKEN);
	GUEST_READS(0x1d9, 0, TAKEN);
	GUEST_WRITES(0x1d9, 4, vendor_is_amd ? TAKEN : INVALID);
	GUEST_WRITES(0x8b, 7, TAKEN);
	CLIENT_READS(0x8b, vendor_is_amd ? 0x01000065 : UINT64_C(1) << 32);
	GUEST_WRITES(0xce, 0, INVALID);
	GUEST_WRITES(0x10a, 0, UNKNOWN);
	GUEST_WRITES(0x34, 1, INVALID);
	GUEST_READS(0x34, 0, TAKEN);
	CLIENT_WRITES(0x34, 3, 1);
	GUEST_READS(0x34, 3, TAKEN);
	GUEST_READS(0x9e, 0, INVALID);
	GUEST_WRITES(0x49, 0, INVALID);
	CLIENT_READS(0xc0000104, UINT64_C(1) << 32);
	GUEST_READS(0xc0000104, 0, INVALID);
	/* SVM switched off stays off. */
	GUEST_WRITES(0xc0010114, 0x20, INVALID);
	GUEST_WRITES(0xc0010114, 0x18, TAKEN);
	GUEST_WRITES(0xc0010114, 0x2, TAKEN);
	GUEST_READS(0xc0010114, 0x1a, TAKEN);
	GUEST_WRITES(0xc0010115, 5, TAKEN);
	GUEST_READS(0xc0010115, 0, UNKNOWN);
	/* EFER: the client is ahead of CPUID, the guest is not. */
	GUEST_WRITES(0xc0000080, 0x200, INVALID);
	CLIENT_WRITES(0xc0000080, 0x200, 0);
	GUEST_WRITES(0x4b564d02, 0x30, INVALID);
	GUEST_WRITES(0x4b564d02, 0, TAKEN);
	GUEST_WRITES(0x4b564d06, 0x30, INVALID); /* no APIC to raise it */
}

/* Each kind of register that holds memory types, and others that a guest only reads. */
static void read_back(void)
{
	static const struct {
		uint32_t index;
		uint64_t value;
	} rows[] = {
	    {0x250, UINT64_C(0x0606060606060606)},
	    {0x258, UINT64_C(0x0001040506000104)},
	    {0x259, UINT64_C(0x0505050505050505)},
	    {0x268, UINT64_C(0x0401000506040100)},
	    {0x26f, UINT64_C(0x0606060606060605)},
	    {0x277, UINT64_C(0x0007010600070106)},
	    {0xc0000080, 1},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		GUEST_WRITES(rows[i].index, rows[i].value, TAKEN);
		GUEST_READS(rows[i].index, rows[i].value, TAKEN);
		CLIENT_READS(rows[i].index, rows[i].value);
	}
	GUEST_WRITES(0x258, 2, INVALID);
	GUEST_READS(0xfe, 0x508, TAKEN);
	CLIENT_READS(0xda0, 0);
	GUEST_READS(0xda0, 0, INVALID);
	/* AMD's way to hold instructions together: what the processor offers, of AMD's alone. */
	if (vendor_is_amd) {
		uint64_t offered = 0;

		CHECK(client_call(kvm, KVM_GET_MSRS, 0xc0011029, &offered) == 1, "not offered");
		GUEST_READS(0xc0011029, 0, TAKEN);
		GUEST_WRITES(0xc0011029, offered, TAKEN);
		GUEST_READS(0xc0011029, offered, TAKEN);
		GUEST_WRITES(0xc0011029, 0, TAKEN);
		GUEST_WRITES(0xc0011029, offered | 1, INVALID);
	} else {
		GUEST_READS(0xc0011029, 0, UNKNOWN);
	}
}

/* The client hides what the platform is. */
static void hidden_platform(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MSR_PLATFORM_INFO, .args = {0}};

	GUEST_READS(0xce, client_read(0xce), TAKEN);
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	GUEST_READS(0xce, 0, INVALID);
	cap.args[0] = 1;
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	GUEST_READS(0xce, client_read(0xce), TAKEN);
}

/* CPUID in ring 3, then OUT: how does KVM_RUN end? */
static uint32_t user_cpuid(void)
{
	static const char code[] = "\x0f\xa2\xe6\x80";
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 0x3002, .rsp = 0x800};
	struct kvm_sregs sregs, before;

	memcpy(memory + 0x1000, code, sizeof(code));
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &before));
	sregs = before;
	sregs.cr0 |= 1;
	sregs.cs = (struct kvm_segment){.limit = UINT32_MAX,
					.selector = 11,
					.type = 11,
					.present = 1,
					.dpl = 3,
					.db = 1,
					.s = 1,
					.g = 1};
	sregs.ss = sregs.cs;
	sregs.ss.type = 3;
	sregs.ss.selector = 19;
	sregs.idt.limit = 0;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_RUN, 0));
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &before));
	return run->exit_reason;
}

/* CPUID faults above ring 0 once the guest's kernel says so. */
static void cpuid_faulting(void)
{
	CHECK(user_cpuid() == KVM_EXIT_IO, "exit %u", run->exit_reason);
	GUEST_WRITES(0x140, 1, TAKEN);
	CHECK(user_cpuid() == KVM_EXIT_SHUTDOWN, "exit %u", run->exit_reason);
	GUEST_WRITES(0x140, 2, INVALID);
	GUEST_WRITES(0x140, 1, TAKEN);
	GUEST_READS(0x140, 1, TAKEN);
	GUEST_WRITES(0x140, 0, TAKEN);
	CLIENT_WRITES(0xce, 0, 0); /* fixed, for the guest has run */
	CLIENT_WRITES(0xce, UINT64_C(1) << 31, 1);
	CLIENT_WRITES(0x8b, 1, 1);
}

/* Each MSR of the list can be saved, and given back what was saved. */
static void saved_list(void)
{
	struct {
		struct kvm_msr_list header;
		uint32_t room[100];
	} list = {.header.nmsrs = 100};

	WORKS(ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &list));
	for (uint32_t i = 0; i < list.header.nmsrs; i++) {
		uint64_t value = client_read(list.room[i]);

		/* This one takes nothing where there is no APIC to raise the vector. */
		if (list.room[i] == 0x4b564d06)
			continue;
		CLIENT_WRITES(list.room[i], value, 1);
	}
	list.header.nmsrs = 100;
	WORKS(ioctl(kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, &list));
	CHECK(list.header.nmsrs == (vendor_is_amd ? 5 : 4), "%u features", list.header.nmsrs);
	for (uint32_t i = 0; i < list.header.nmsrs; i++) {
		uint64_t value = 0;

		CHECK(client_call(kvm, KVM_GET_MSRS, list.room[i], &value) == 1, "feature %x",
		      list.room[i]);
	}
}

/* The system's descriptor knows features; what else can be saved reads as 0, the rest not at all.
 */
static void system_scope(void)
{
	uint64_t value = 1;

	CHECK(client_call(kvm, KVM_GET_MSRS, 0xce, &value) == 1 && value == UINT64_C(1) << 31,
	      "platform info");
	CHECK(client_call(kvm, KVM_GET_MSRS, 0x10a, &value) == 1 && (value & 1), "capabilities");
	value = 1;
	CHECK(client_call(kvm, KVM_GET_MSRS, 0x174, &value) == 1 && !value, "SYSENTER_CS");
	value = 1;
	CHECK(!client_call(kvm, KVM_GET_MSRS, 0x12345678, &value) && !value, "an unknown MSR");
}

static void without_stuffing(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DISABLE_QUIRKS2, .args = {1u << 8}};

	close(vcpu);
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 1);
	cpuid_set(0);
	CLIENT_READS(0x8b, 0);
	CLIENT_READS(0xce, 0);
	CLIENT_READS(0x10a, 0);
}

static void ignored(void)
{
	uint64_t value = 1;

	GUEST_READS(0x12345678, 0, TAKEN);
	GUEST_WRITES(0x12345678, 7, TAKEN);
	CLIENT_READS(0x12345678, 0);
	CLIENT_WRITES(0x12345678, 7, 1);
	CHECK(client_call(kvm, KVM_GET_MSRS, 0x12345678, &value) == 1 && !value, "system");
	/* What is known and refused is not ignored. */
	GUEST_WRITES(0x17b, 5, INVALID);
	CLIENT_WRITES(0x200, 2, 0);
}

int main(int argc, char **argv)
{
	(void)argv;
	setvbuf(stdout, NULL, _IOLBF, 0);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0, "no /dev/kvm");
	machine_open();
	/* Without CPUID: no TSC_AUX, no capabilities. */
	GUEST_READS(0xc0000103, 0, INVALID);
	GUEST_READS(0x10a, 0, argc > 1 ? TAKEN : UNKNOWN);
	CLIENT_READS(0x10a, 0);
	machine_close();
	machine_open();
	cpuid_set(0);
	if (argc > 1) {
		ignored();
	} else {
		saved_list();
		fixed_values();
		machine_checks();
		addresses();
		memory_types();
		switches();
		read_back();
		hidden_platform();
		cpuid_faulting();
		saved_list();
		system_scope();
		machine_check_reports();
		wide_addresses();
		without_stuffing();
	}
	machine_close();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
