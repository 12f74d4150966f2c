/* KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE: what is refused, and a nested guest that goes on.
 */
#include <stddef.h>

#include "flat.h"
#include "vcpu/svm/vmcb.h"

#define VMCB_AT 0x3000u
#define L1_CODE 0x9000u
#define SVME 0x1000u
#define HEADER_BYTES 128u
#define WHOLE_BYTES (HEADER_BYTES + 4096u)
#define GUEST_MODE 1u
#define RUN_PENDING 2u
#define GIF 0x100u

struct state {
	uint16_t flags, format;
	uint32_t size;
	uint64_t vmcb_gpa, pat;
	uint8_t reserved[104];
	struct vmcb vmcb;
};

static void set_efer(const struct machine *machine, uint64_t bit, int on)
{
	struct kvm_sregs sregs;

	WORKS(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs));
	sregs.efer = on ? sregs.efer | bit : sregs.efer & ~bit;
	WORKS(ioctl(machine->vcpu, KVM_SET_SREGS, &sregs));
}

static void open_nested(struct machine *machine)
{
	flat_open(machine, MACHINE_NO_IRQCHIP);
	set_efer(machine, SVME, 1);
}

/* L1 as it will be when L2 has left, and what it asked for: HLT ends L2. */
static void fill(const struct machine *machine, struct state *state)
{
	struct vmcb_save *save = &state->vmcb.save;
	struct kvm_sregs sregs;

	WORKS(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs));
	memset(state, 0, sizeof(*state));
	state->flags = GUEST_MODE | GIF;
	state->format = KVM_STATE_NESTED_FORMAT_SVM;
	state->size = WHOLE_BYTES;
	state->vmcb_gpa = VMCB_AT;
	state->vmcb.control.intercept = UINT64_C(1) << INTERCEPT_VMRUN | UINT64_C(1)
									     << INTERCEPT_HLT;
	state->vmcb.control.asid = 1;
	save->efer = sregs.efer;
	save->cr0 = sregs.cr0;
	save->cr3 = sregs.cr3;
	save->cr4 = sregs.cr4;
	save->dr6 = 0xffff0ff0;
	save->dr7 = 0x400;
	save->rflags = 2;
	save->rip = L1_CODE;
	save->rsp = 0xb000;
	save->cs = (struct vmcb_segment){8, 0xa9b, UINT32_MAX, 0};
	save->ss = save->ds = save->es = (struct vmcb_segment){16, 0xc93, UINT32_MAX, 0};
	state->pat = save->pat = UINT64_C(0x0007040600070406);
}

/* Outside of a nested guest there is a header, and GIF in it. */
static void outside(void)
{
	struct machine machine;
	struct state state;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE) == (int)WHOLE_BYTES,
	      "the size that is told");
	memset(&state, 0xff, sizeof(state));
	state.size = WHOLE_BYTES;
	WORKS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, &state));
	CHECK(state.flags == GIF && state.format == KVM_STATE_NESTED_FORMAT_SVM &&
		  state.size == HEADER_BYTES,
	      "flags %x, format %u, size %u", state.flags, state.format, state.size);
	for (uint32_t room = 0; room < 2; room++) {
		state.size = room * (HEADER_BYTES - 1);
		FAILS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, &state), E2BIG);
		CHECK(state.size == HEADER_BYTES, "size %u", state.size);
	}
	FAILS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, 8), EFAULT);
	FAILS(ioctl(machine.vcpu, KVM_SET_NESTED_STATE, 8), EFAULT);
	machine_close(&machine);
}

static void headers(void)
{
	static const struct {
		int svme;
		uint16_t flags, format;
		uint32_t size;
		uint64_t vmcb_gpa;
		int error;
	} rows[] = {
	    {1, GIF, 1, HEADER_BYTES, 0, 0},
	    {1, 0, 1, HEADER_BYTES, 0, 0},
	    {1, GIF, 1, HEADER_BYTES - 1, 0, EINVAL},
	    {1, GIF, 0, HEADER_BYTES, 0, EINVAL},
	    {1, GIF | 0x200, 1, HEADER_BYTES, 0, EINVAL},
	    {1, GIF | 4, 1, HEADER_BYTES, 0, EINVAL}, /* another format's */
	    {1, GIF | RUN_PENDING, 1, HEADER_BYTES, 0, EINVAL},
	    {1, GIF | GUEST_MODE, 1, WHOLE_BYTES, VMCB_AT, 0},
	    {1, GIF | GUEST_MODE | RUN_PENDING, 1, WHOLE_BYTES, VMCB_AT, 0},
	    {1, GIF | GUEST_MODE, 1, WHOLE_BYTES - 1, VMCB_AT, EINVAL},
	    {1, GIF | GUEST_MODE, 1, WHOLE_BYTES, VMCB_AT + 8, EINVAL},
	    {1, GIF | GUEST_MODE, 1, WHOLE_BYTES, UINT64_C(1) << 48, EINVAL},
	    /* Without SVM there may be GIF and nothing else. */
	    {0, GIF, 1, HEADER_BYTES, 0, 0},
	    {0, 0, 1, HEADER_BYTES, 0, 0},
	    {0, GIF | GUEST_MODE, 1, WHOLE_BYTES, VMCB_AT, EINVAL},
	};
	struct machine machine;
	struct state state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		open_nested(&machine);
		fill(&machine, &state);
		if (!rows[i].svme)
			set_efer(&machine, SVME, 0);
		state.flags = rows[i].flags;
		state.format = rows[i].format;
		state.size = rows[i].size;
		state.vmcb_gpa = rows[i].vmcb_gpa;
		errno = 0;
		(void)!ioctl(machine.vcpu, KVM_SET_NESTED_STATE, &state);
		CHECK(errno == rows[i].error, "row %zu: %s", i, strerrorname_np(errno));
		state.size = WHOLE_BYTES;
		WORKS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, &state));
		CHECK(rows[i].error || (state.flags == rows[i].flags && state.size == rows[i].size),
		      "row %zu: flags %x, size %u", i, state.flags, state.size);
		CHECK(!rows[i].error || state.flags == GIF, "row %zu: changed", i);
		machine_close(&machine);
	}
}

/* Where the VMCB may be goes by the width of addresses that CPUID tells. */
static void widths(void)
{
	static const struct {
		uint64_t gpa;
		int error;
	} rows[] = {{(UINT64_C(1) << 40) - 4096, 0}, {UINT64_C(1) << 40, EINVAL}};
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[100];
	} list = {{.nent = 100}, {{0}}};
	struct machine machine;
	struct state state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		open_nested(&machine);
		WORKS(ioctl(machine.vcpu, KVM_GET_CPUID2, &list));
		for (uint32_t e = 0; e < list.header.nent; e++)
			if (list.entries[e].function == 0x80000008)
				list.entries[e].eax = 48 << 8 | 40;
		WORKS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list));
		fill(&machine, &state);
		state.vmcb_gpa = rows[i].gpa;
		errno = 0;
		(void)!ioctl(machine.vcpu, KVM_SET_NESTED_STATE, &state);
		CHECK(errno == rows[i].error, "row %zu: %s", i, strerrorname_np(errno));
		machine_close(&machine);
	}
}

/* L1's state and what it asked for are checked as VMRUN would. */
static void blocks(void)
{
	struct machine machine;
	struct state state;

	for (int i = 0; i < 6; i++) {
		open_nested(&machine);
		fill(&machine, &state);
		state.vmcb.control.asid = i == 0 ? 0 : 1;
		state.vmcb.control.intercept &= i == 1 ? ~(UINT64_C(1) << INTERCEPT_VMRUN) : ~0u;
		state.vmcb.save.cr0 &= i == 2 ? ~UINT64_C(0x80000000) : UINT64_MAX;
		state.vmcb.save.efer &= i == 3 ? ~(uint64_t)SVME : UINT64_MAX;
		state.vmcb.save.rflags |= i == 4 ? 1u << 17 : 0;
		state.vmcb.save.dr7 |= i == 5 ? UINT64_C(1) << 32 : 0;
		FAILS(ioctl(machine.vcpu, KVM_SET_NESTED_STATE, &state), EINVAL);
		machine_close(&machine);
	}
}

/* A nested guest is put into a new vCPU, saved again, and leaves by HLT. */
static void goes_on(void)
{
	static const uint8_t report[] = {0xe6, REPORT_PORT};
	struct kvm_regs regs = {.rip = FLAT_CODE, .rflags = 2, .rax = 0x55, .rsp = 0xa000};
	const struct vmcb *vmcb;
	struct machine machine;
	struct state state, back;

	open_nested(&machine);
	vmcb = (const void *)(machine.memory + VMCB_AT);
	machine.memory[FLAT_CODE] = 0xf4;
	memcpy(machine.memory + L1_CODE, report, sizeof(report));
	WORKS(ioctl(machine.vcpu, KVM_SET_REGS, &regs));
	fill(&machine, &state);
	WORKS(ioctl(machine.vcpu, KVM_SET_NESTED_STATE, &state));
	memset(&back, 0, sizeof(back));
	back.size = HEADER_BYTES;
	FAILS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, &back), E2BIG);
	CHECK(back.size == WHOLE_BYTES, "size %u", back.size);
	WORKS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, &back));
	CHECK(back.flags == (GUEST_MODE | GIF) && back.vmcb_gpa == VMCB_AT, "flags %x, at %llx",
	      back.flags, (unsigned long long)back.vmcb_gpa);
	CHECK(back.vmcb.control.intercept == state.vmcb.control.intercept &&
		  back.vmcb.save.rip == L1_CODE && back.vmcb.save.cr3 == FLAT_ROOT,
	      "intercepts %llx, rip %llx", (unsigned long long)back.vmcb.control.intercept,
	      (unsigned long long)back.vmcb.save.rip);
	WORKS(ioctl(machine.vcpu, KVM_RUN, 0));
	CHECK(flat_has_reported(&machine), "exit %u", machine.run->exit_reason);
	CHECK(vmcb->control.exit_code == VMCB_EXIT_INTR + INTERCEPT_HLT &&
		  vmcb->save.rip == FLAT_CODE && vmcb->save.rax == 0x55,
	      "L2 left for %llx at %llx", (unsigned long long)vmcb->control.exit_code,
	      (unsigned long long)vmcb->save.rip);
	back.size = WHOLE_BYTES;
	WORKS(ioctl(machine.vcpu, KVM_GET_NESTED_STATE, &back));
	CHECK(!(back.flags & GUEST_MODE), "still in L2");
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	outside();
	headers();
	widths();
	blocks();
	goes_on();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
