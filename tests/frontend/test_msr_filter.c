/* Filters of MSRs: what is taken as one, and what a guest's access comes to. */
#include "flat.h"

#define READ KVM_MSR_FILTER_READ
#define WRITE KVM_MSR_FILTER_WRITE
#define DENY KVM_MSR_FILTER_DEFAULT_DENY
#define ALLOW KVM_MSR_FILTER_DEFAULT_ALLOW
#define STAR 0xc0000081u
#define LSTAR 0xc0000082u
#define KERNEL_GS 0xc0000102u
#define X2APIC_TPR 0x808u

static uint8_t bitmap[KVM_MSR_FILTER_MAX_BITMAP_SIZE + 8];

/* What the call takes. */
static void taken(void)
{
	static const struct {
		uint32_t flags, range_flags, count;
		int has_bitmap, error;
	} rows[] = {
	    {ALLOW, 0, 0, 0, 0},
	    {DENY, 0, 0, 0, EINVAL}, /* nothing would be left */
	    {ALLOW | 2, 0, 0, 0, EINVAL},
	    {ALLOW, READ, 1, 1, 0},
	    {DENY, READ | WRITE, 64, 1, 0},
	    {ALLOW, 0, 1, 1, EINVAL},
	    {ALLOW, 4, 1, 1, EINVAL},
	    {ALLOW, READ, 1, 0, EFAULT},
	    {ALLOW, READ, 8 * KVM_MSR_FILTER_MAX_BITMAP_SIZE, 1, 0},
	    {ALLOW, READ, 8 * KVM_MSR_FILTER_MAX_BITMAP_SIZE + 1, 1, EINVAL},
	};
	struct machine machine;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_msr_filter filter = {.flags = rows[i].flags};

		filter.ranges[KVM_MSR_FILTER_MAX_RANGES - 1] = (struct kvm_msr_filter_range){
		    .flags = rows[i].range_flags,
		    .nmsrs = rows[i].count,
		    .base = STAR,
		    .bitmap = rows[i].has_bitmap ? bitmap : (uint8_t *)8};
		errno = 0;
		(void)!ioctl(machine.vm, KVM_X86_SET_MSR_FILTER, &filter);
		CHECK(errno == rows[i].error, "row %zu: %s", i, strerrorname_np(errno));
	}
	machine_close(&machine);
}

/* How the guest's access of @index ended: 0, or the exit. */
static uint32_t guest_access(struct machine *machine, const char *code, uint32_t index)
{
	struct kvm_run *run = machine->run;
	uint32_t reason;

	(void)flat_run(machine, code, 2, (struct kvm_regs){.rcx = index});
	if (flat_has_reported(machine))
		return 0;
	reason = run->exit_reason;
	if (reason == KVM_EXIT_X86_RDMSR || reason == KVM_EXIT_X86_WRMSR) {
		CHECK(run->msr.reason == KVM_MSR_EXIT_REASON_FILTER && run->msr.index == index,
		      "reason %u, MSR %x", run->msr.reason, run->msr.index);
		/* The client answers in its own way. */
		run->msr.error = 0;
		run->msr.data = 0x4711;
		WORKS(ioctl(machine->vcpu, KVM_RUN, 0));
		CHECK(flat_has_reported(machine), "exit %u after the answer", run->exit_reason);
	}
	return reason;
}

/* STAR may be read, LSTAR written, of KERNEL_GS_BASE nothing is said; the rest goes by the default.
 */
static void set_filter(const struct machine *machine, uint32_t flags)
{
	uint8_t reads = 1, writes = 2;
	struct kvm_msr_filter filter = {.flags = flags};

	filter.ranges[0] = (struct kvm_msr_filter_range){
	    .flags = READ, .base = STAR, .nmsrs = 2, .bitmap = &reads};
	filter.ranges[1] = (struct kvm_msr_filter_range){
	    .flags = WRITE, .base = STAR, .nmsrs = 2, .bitmap = &writes};
	filter.ranges[2] = (struct kvm_msr_filter_range){
	    .flags = READ | WRITE, .base = X2APIC_TPR, .nmsrs = 1, .bitmap = bitmap};
	WORKS(ioctl(machine->vm, KVM_X86_SET_MSR_FILTER, &filter));
}

static void accesses(uint32_t msr_exits)
{
	static const struct {
		uint32_t default_flags, index;
		int may_read, may_write;
	} rows[] = {
	    {ALLOW, STAR, 1, 0}, {ALLOW, LSTAR, 0, 1}, {ALLOW, KERNEL_GS, 1, 1},
	    {DENY, STAR, 1, 0},	 {DENY, LSTAR, 0, 1},  {DENY, KERNEL_GS, 0, 0},
	};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {msr_exits}};
	/* Without the exit the access is a #GP, and there is nothing to take it. */
	uint32_t read_end = msr_exits ? KVM_EXIT_X86_RDMSR : KVM_EXIT_SHUTDOWN;
	uint32_t write_end = msr_exits ? KVM_EXIT_X86_WRMSR : KVM_EXIT_SHUTDOWN;
	struct machine machine;
	uint32_t end;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (int writes = 0; writes < 2; writes++) {
			int may = writes ? rows[i].may_write : rows[i].may_read;

			flat_open(&machine, MACHINE_NO_IRQCHIP);
			WORKS(ioctl(machine.vm, KVM_ENABLE_CAP, &cap));
			set_filter(&machine, rows[i].default_flags);
			end =
			    guest_access(&machine, writes ? "\x0f\x30" : "\x0f\x32", rows[i].index);
			CHECK(end == (may      ? 0
				      : writes ? write_end
					       : read_end),
			      "row %zu, %s: exit %u", i, writes ? "write" : "read", end);
			machine_close(&machine);
		}
	}
}

/* The client's own accesses have no filter, nor have the local APIC's MSRs. */
static void beside_the_filter(void)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = LSTAR}}, base = {{.nmsrs = 1}, {.index = 0x1b}};
	struct machine machine;
	uint64_t value;

	flat_open(&machine, MACHINE_IRQCHIP);
	set_filter(&machine, ALLOW);
	CHECK(ioctl(machine.vcpu, KVM_GET_MSRS, &list) == 1, "the client reads");
	base.entry.data = APIC_PAGE | 0xd00;
	CHECK(ioctl(machine.vcpu, KVM_SET_MSRS, &base) == 1, "x2APIC");
	DOES(&machine, "\x0f\x30", .rcx = X2APIC_TPR, .rax = 0x20);
	value = DOES(&machine, "\x0f\x32", .rcx = X2APIC_TPR).rax;
	CHECK(value == 0x20, "TPR %llx", (unsigned long long)value);
	/* Another filter takes the first one's place. */
	WORKS(ioctl(machine.vm, KVM_X86_SET_MSR_FILTER, &(struct kvm_msr_filter){.flags = ALLOW}));
	DOES(&machine, "\x0f\x32", .rcx = LSTAR);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	taken();
	accesses(0);
	accesses(KVM_MSR_EXIT_REASON_FILTER);
	beside_the_filter();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
