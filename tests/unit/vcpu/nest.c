/* The hypervisor of a few instructions. */
#include "tests/unit/vcpu/nest.h"

/* L1: run L2, then stop; RBX tells that it came back. */
PROGRAM(l1_run, "mov $0x40000, %eax; vmrun; mov $0x11, %ebx; hlt");

static struct vmcb_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vmcb_segment){
	    .selector = selector, .attributes = attributes, .limit = UINT32_MAX};
}

void nest_put(struct nest *nest, uint64_t gpa, const uint8_t *start, const uint8_t *end)
{
	memcpy(nest->vcpu->vm->ram + gpa, start, end - start);
}

int nest_setup(void **state)
{
	static struct nest nest;
	struct vmcb_save *save;

	nest.vcpu = fake_vcpu_create(fake_vm_create());
	nest.vmcb = (struct vmcb *)(nest.vcpu->vm->ram + VMCB_GPA);
	cpu_state(nest.vcpu->cpu)->efer |= EFER_SVME;
	cpu_state(nest.vcpu->cpu)->vm_hsave = HSAVE_GPA;
	cpu_state_changed(nest.vcpu->cpu);
	PUT(&nest, GUEST_CODE, l1_run);
	nest.vmcb->control.intercept = UINT64_C(1) << INTERCEPT_VMRUN | UINT64_C(1)
									    << INTERCEPT_VMMCALL;
	nest.vmcb->control.asid = 1;
	nest.vmcb->control.iopm_gpa = MAP_GPA;
	nest.vmcb->control.msrpm_gpa = MAP_GPA;
	save = &nest.vmcb->save;
	save->cs = flat(SELECTOR_CODE, 0xa9b);
	save->ss = save->ds = save->es = flat(SELECTOR_DATA, 0xc93);
	save->gdtr = (struct vmcb_segment){.limit = 0x37, .base = GUEST_GDT};
	save->idtr = (struct vmcb_segment){.limit = 32 * 16 - 1, .base = GUEST_IDT};
	save->efer = cpu_state(nest.vcpu->cpu)->efer;
	save->cr0 = cpu_state(nest.vcpu->cpu)->cr0;
	save->cr3 = cpu_state(nest.vcpu->cpu)->cr3;
	save->cr4 = cpu_state(nest.vcpu->cpu)->cr4;
	save->dr6 = 0xffff0ff0;
	save->dr7 = 0x400;
	save->rflags = 2;
	save->rip = L2_CODE;
	save->rsp = L2_STACK;
	*state = &nest;
	return 0;
}

int nest_teardown(void **state)
{
	struct nest *nest = *state;
	struct fake_vm *vm = nest->vcpu->vm;

	fake_vcpu_destroy(nest->vcpu);
	fake_vm_destroy(vm);
	return 0;
}

/* Run until L1 halts behind its VMRUN, and check why L2 was left. */
void nest_run(struct nest *nest, uint64_t code)
{
	struct cpu_exit_info info;

	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->gpr[CPU_RBX], 0x11);
	assert_int_equal(cpu_nested_active(nest->vcpu->cpu), 0);
	assert_int_equal(cpu_nested_gif(nest->vcpu->cpu), 0);
	assert_int_equal(nest->vmcb->control.exit_code, code);
}

/* L1 does it all again. */
void nest_restart(struct nest *nest)
{
	struct cpu_state *s = cpu_state(nest->vcpu->cpu);

	s->rip = GUEST_CODE;
	s->gpr[CPU_RBX] = 0;
	s->halted = 0;
	cpu_state_changed(nest->vcpu->cpu);
}

void nest_intercept(struct nest *nest, enum vmcb_intercept which)
{
	nest->vmcb->control.intercept |= UINT64_C(1) << which;
}
