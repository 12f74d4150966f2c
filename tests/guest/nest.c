/* L1s in a VM. */
#include "nest.h"

#include <string.h>

#define STACK_TOP 0x1fff8ul
#define EFER_SVME (1ul << 12)

static struct vmcb_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vmcb_segment){
	    .selector = selector, .attributes = attributes, .limit = UINT32_MAX};
}

void nest_reset(struct nest *nest, uint64_t rip)
{
	struct vmcb *vmcb = nest->vmcb;

	memset(nest->box, 0, sizeof(*nest->box));
	memset(vmcb, 0, sizeof(*vmcb));
	vmcb->control.intercept =
	    1ul << INTERCEPT_VMRUN | 1ul << INTERCEPT_VMMCALL | 1ul << INTERCEPT_SHUTDOWN;
	vmcb->control.asid = 1;
	vmcb->control.iopm_gpa = vmcb->control.msrpm_gpa = nest->gpa + NEST_MAPS;
	vmcb->control.exceptions = UINT32_MAX;
	vmcb->save.cs = flat(8, 0xa9b);
	vmcb->save.ss = vmcb->save.ds = vmcb->save.es = flat(16, 0xc93);
	vmcb->save.efer = 1u << 12 | 1u << 11 | 1u << 10 | 1u << 8; /* SVME NXE LMA LME */
	vmcb->save.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u;
	vmcb->save.cr4 = 1u << 5;
	vmcb->save.dr6 = 0xffff0ff0;
	vmcb->save.dr7 = 0x400;
	vmcb->save.rflags = 2;
	vmcb->save.rip = rip;
}

static void start_l1(struct nest *nest)
{
	struct kvm_regs regs = {
	    .rip = nest->gpa + l1_copy(nest->memory),
	    .rsp = nest->gpa + STACK_TOP,
	    .rflags = 2,
	    .rdi = nest->gpa + NEST_BOX,
	};
	struct kvm_sregs sregs;

	CHECK_OK(ioctl(nest->vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.efer |= EFER_SVME | 1ul << 11;
	CHECK_OK(ioctl(nest->vcpu.fd, KVM_SET_SREGS, &sregs));
	vcpu_set_host_save_area(nest->vcpu.fd);
	CHECK_OK(ioctl(nest->vcpu.fd, KVM_SET_REGS, &regs));
	CHECK_EQ(nest_turn(nest), NEST_DONE);
}

void nest_open(struct nest *nest, struct vm *vm, unsigned int index)
{
	if (!vm_cap(vm, KVM_CAP_NESTED_STATE))
		check_skip("this KVM has no nested guests");
	*nest = (struct nest){.vm = vm, .gpa = NEST_GPA(index)};
	nest->memory = memory_alloc(NEST_BYTES);
	nest->box = (struct box *)(void *)(nest->memory + NEST_BOX);
	nest->vmcb = (struct vmcb *)(void *)(nest->memory + NEST_VMCB);
	CHECK_ZERO(REGION(vm, .slot = NEST_SLOT(index), .guest_phys_addr = nest->gpa,
			  .memory_size = NEST_BYTES, .userspace_addr = (uintptr_t)nest->memory));
	vcpu_open(vm, &nest->vcpu, index);
	start_l1(nest);
}

enum nest_end nest_turn(struct nest *nest)
{
	struct kvm_run *run = nest->vcpu.run;
	int result;

	do
		result = ioctl(nest->vcpu.fd, KVM_RUN, 0);
	while (result && errno == EINTR);
	if (result)
		FAIL("KVM_RUN: errno %d, exit %u", errno, run->exit_reason);
	if (run->exit_reason == KVM_EXIT_MMIO)
		return NEST_MMIO;
	if (run->exit_reason != KVM_EXIT_IO || run->io.port != BOX_PORT)
		FAIL("L1 ended in exit %u (%u)", run->exit_reason,
		     run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0);
	return NEST_DONE;
}
