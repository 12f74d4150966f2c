/* Nested virtualisation: a hypervisor of a few instructions runs a guest of a few more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/nested.h"

#define PROGRAM(name, code)                                                          \
	__asm__(".pushsection .rodata\n" #name "_start:\n" code "\n" #name "_end:\n" \
		".popsection\n");                                                    \
	extern const uint8_t name##_start[], name##_end[]

#define VMCB_GPA 0x40000u
#define MAP_GPA 0x50000u
#define L2_CODE 0x60000u
#define L2_STACK 0x70000u
#define EFER_SVME (UINT64_C(1) << 12)
#define RFLAGS_IF UINT64_C(0x200)

/* L1: run L2, then stop; RBX tells that it came back. */
PROGRAM(l1_run, "mov $0x40000, %eax; vmrun; mov $0x11, %ebx; hlt");
PROGRAM(l1_run_masked, "mov $0x40000, %eax; cli; clgi; vmrun; mov $0x11, %ebx; hlt");

struct nest {
	struct quire_vcpu *vcpu;
	struct vmcb *vmcb;
};

static struct vmcb_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vmcb_segment){
	    .selector = selector, .attributes = attributes, .limit = UINT32_MAX};
}

static void put(struct nest *nest, uint64_t gpa, const uint8_t *start, const uint8_t *end)
{
	memcpy(nest->vcpu->vm->ram + gpa, start, end - start);
}
#define PUT(nest, gpa, name) put(nest, gpa, name##_start, name##_end)

static int setup(void **state)
{
	static struct nest nest;
	struct vmcb_save *save;

	nest.vcpu = fake_vcpu_create(fake_vm_create());
	nest.vmcb = (struct vmcb *)(nest.vcpu->vm->ram + VMCB_GPA);
	cpu_state(nest.vcpu->cpu)->efer |= EFER_SVME;
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

static int teardown(void **state)
{
	struct nest *nest = *state;
	struct fake_vm *vm = nest->vcpu->vm;

	fake_vcpu_destroy(nest->vcpu);
	fake_vm_destroy(vm);
	return 0;
}

/* Run until L1 halts behind its VMRUN, and check why L2 was left. */
static void run_l2(struct nest *nest, uint64_t code)
{
	struct cpu_exit_info info;

	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->gpr[CPU_RBX], 0x11);
	assert_int_equal(cpu_nested_active(nest->vcpu->cpu), 0);
	assert_int_equal(cpu_nested_gif(nest->vcpu->cpu), 0);
	assert_int_equal(nest->vmcb->control.exit_code, code);
}

/* L1 does it all again. */
static void restart(struct nest *nest)
{
	struct cpu_state *s = cpu_state(nest->vcpu->cpu);

	s->rip = GUEST_CODE;
	s->gpr[CPU_RBX] = 0;
	s->halted = 0;
	cpu_state_changed(nest->vcpu->cpu);
}

static void intercept(struct nest *nest, enum vmcb_intercept which)
{
	nest->vmcb->control.intercept |= UINT64_C(1) << which;
}

PROGRAM(l2_call, "mov $0x1234, %eax; mov $0x77, %ecx; 1: vmmcall");

static void test_call(void **state)
{
	struct nest *nest = *state;
	const struct cpu_state *s = cpu_state(nest->vcpu->cpu);

	PUT(nest, L2_CODE, l2_call);
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 10);
	assert_int_equal(nest->vmcb->control.next_rip, L2_CODE + 13);
	assert_int_equal(nest->vmcb->save.rax, 0x1234);
	assert_int_equal(nest->vmcb->save.rsp, L2_STACK);
	/* RAX and RSP are L1's own again, RCX is what L2 left. */
	assert_int_equal(s->gpr[CPU_RAX], VMCB_GPA);
	assert_int_equal(s->gpr[CPU_RSP], GUEST_STACK);
	assert_int_equal(s->gpr[CPU_RCX], 0x77);
}

static void test_invalid(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_call);
	nest->vmcb->control.asid = 0;
	run_l2(nest, VMCB_EXIT_INVALID);
	assert_int_equal(nest->vmcb->save.rax, 0);
}

static void test_invalid_cr0(void **state)
{
	struct nest *nest = *state;

	nest->vmcb->save.cr0 |= UINT64_C(1) << 32;
	run_l2(nest, VMCB_EXIT_INVALID);
}

PROGRAM(l2_cpuid, "xor %eax, %eax; cpuid");

static void test_cpuid(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_cpuid);
	intercept(nest, INTERCEPT_CPUID);
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_CPUID);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 2);
}

PROGRAM(l2_out, "mov $0x90, %edx; out %al, %dx; mov $0x91, %edx; out %ax, %dx");

/* One port is L2's own, the next one is not. */
static void test_ports(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_out);
	nest->vcpu->device_in_kernel = 1;
	intercept(nest, INTERCEPT_IOIO);
	nest->vcpu->vm->ram[MAP_GPA + 0x92 / 8] = 1u << (0x92 % 8);
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_IOIO);
	assert_int_equal(nest->vcpu->device_calls, 1);
	assert_int_equal(nest->vmcb->control.exit_info1, 0x91 << 16 | 1 << 9 | 2 << 4);
	assert_int_equal(nest->vmcb->control.exit_info2, nest->vmcb->control.next_rip);
}

PROGRAM(l2_rdmsr, "mov $0xc0000082, %ecx; rdmsr; inc %ecx; wrmsr");

static void test_msrs(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_rdmsr);
	intercept(nest, INTERCEPT_MSR);
	/* Two bits each: the write of the second. */
	nest->vcpu->vm->ram[MAP_GPA + 0x800 + 0x83 / 4] = 2u << (0x83 % 4 * 2);
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_MSR);
	assert_int_equal(nest->vmcb->control.exit_info1, 1);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 9);
}

PROGRAM(l2_cr, "mov %cr3, %rcx; mov %rcx, %cr3; mov %cr0, %rcx; or $8, %ecx; mov %rcx, %cr0;"
	       "xor $0x10000, %ecx; mov %rcx, %cr0");

/* TS may change, WP may not. */
static void test_control_registers(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_cr);
	intercept(nest, INTERCEPT_CR0_SELECTIVE);
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_CR0_SELECTIVE);
	assert_int_equal(nest->vmcb->save.cr0 & 8, 8);
	nest->vmcb->control.cr_writes = 1u << 3;
	nest->vmcb->save.rip = L2_CODE;
	restart(nest);
	run_l2(nest, VMCB_EXIT_CR_WRITE + 3);
}

PROGRAM(l2_fault, "mov $0xdead000, %eax; mov %al, (%rax)");

/* An intercepted page fault tells the address and leaves CR2 alone. */
static void test_page_fault(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_fault);
	nest->vmcb->control.exceptions = 1u << 14;
	nest->vmcb->save.cr2 = 0x55;
	run_l2(nest, VMCB_EXIT_EXCEPTION + 14);
	assert_int_equal(nest->vmcb->control.exit_info1, 2);
	assert_int_equal(nest->vmcb->control.exit_info2, 0xdead000);
	assert_int_equal(nest->vmcb->save.cr2, 0x55);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 5);
}

PROGRAM(l2_stop, "vmmcall");

/* The injected event is delivered by L2's table, whatever L1 intercepts. */
static void test_injection(void **state)
{
	struct nest *nest = *state;
	uint64_t frame[6];

	PUT(nest, GUEST_HANDLERS + 13 * 16, l2_stop);
	nest->vmcb->control.exceptions = 1u << 13;
	nest->vmcb->control.event_inj = VMCB_EVENT_VALID | VMCB_EVENT_HAS_ERROR |
					UINT64_C(3) << VMCB_EVENT_TYPE_SHIFT | 13 |
					UINT64_C(0x70) << 32;
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.rip, GUEST_HANDLERS + 13 * 16);
	assert_int_equal(nest->vmcb->control.event_inj, 0);
	assert_int_equal(nest->vmcb->control.exit_int_info, 0);
	memcpy(frame, nest->vcpu->vm->ram + nest->vmcb->save.rsp, sizeof(frame));
	assert_int_equal(frame[0], 0x70);
	assert_int_equal(frame[1], L2_CODE);
}

/* A fault in its delivery is L1's, with the event that was on its way. */
static void test_injection_fails(void **state)
{
	struct nest *nest = *state;

	nest->vmcb->control.exceptions = 1u << 13;
	nest->vmcb->save.idtr.limit = 0;
	nest->vmcb->control.event_inj = VMCB_EVENT_VALID | 0x20;
	run_l2(nest, VMCB_EXIT_EXCEPTION + 13);
	assert_int_equal(nest->vmcb->control.exit_info1, 0x20 * 8 + 2 + 1);
	assert_int_equal(nest->vmcb->control.exit_int_info, VMCB_EVENT_VALID | 0x20);
}

static void test_shutdown(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	nest->vmcb->save.idtr.limit = 0;
	nest->vmcb->control.event_inj = VMCB_EVENT_VALID | 0x20;
	intercept(nest, INTERCEPT_SHUTDOWN);
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_SHUTDOWN);
	/* Not intercepted it is the end of L1 as well. */
	nest->vmcb->control.intercept &= ~(UINT64_C(1) << INTERCEPT_SHUTDOWN);
	nest->vmcb->control.event_inj = VMCB_EVENT_VALID | 0x20;
	restart(nest);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_SHUTDOWN);
}

PROGRAM(l2_sti, "sti; nop; nop; 1: jmp 1b");

static void test_interrupt(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_sti);
	intercept(nest, INTERCEPT_INTR);
	nest->vcpu->interrupt = 0x22;
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_INTR);
	/* Nobody has taken it. */
	assert_int_equal(nest->vcpu->interrupt, 0x22);
	assert_in_range(nest->vmcb->save.rip, L2_CODE + 1, L2_CODE + 3);
}

/* With V_INTR_MASKING L1's own IF counts: it keeps the interrupt from coming through. */
static void test_interrupt_masking(void **state)
{
	struct nest *nest = *state;

	PUT(nest, GUEST_CODE, l1_run_masked);
	PUT(nest, L2_CODE, l2_call);
	intercept(nest, INTERCEPT_INTR);
	nest->vmcb->save.rflags |= RFLAGS_IF;
	nest->vmcb->control.int_ctl = VMCB_V_INTR_MASKING;
	nest->vcpu->interrupt = 0x22;
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
}

/* A virtual interrupt waits for L2's IF and its priority, and is gone once it was taken. */
static void test_virtual_interrupt(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_sti);
	PUT(nest, GUEST_HANDLERS + 0x1e * 16, l2_stop);
	nest->vmcb->control.int_ctl = VMCB_V_IRQ | 1u << VMCB_V_PRIORITY_SHIFT;
	nest->vmcb->control.int_vector = 0x1e;
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.rip, GUEST_HANDLERS + 0x1e * 16);
	assert_int_equal(nest->vmcb->control.int_ctl & VMCB_V_IRQ, 0);
}

PROGRAM(l1_vmload, "mov $0x40000, %eax; vmload; mov $0x41000, %eax; vmsave; hlt");

static void test_load_and_save(void **state)
{
	struct nest *nest = *state;
	const struct vmcb *copy = (const struct vmcb *)(nest->vcpu->vm->ram + 0x41000);
	struct cpu_exit_info info;

	PUT(nest, GUEST_CODE, l1_vmload);
	nest->vmcb->save.kernel_gs_base = 0xabc;
	nest->vmcb->save.lstar = 0xdef;
	nest->vmcb->save.fs = (struct vmcb_segment){.attributes = 0xc93, .base = 0x123};
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->kernel_gs_base, 0xabc);
	assert_int_equal(copy->save.kernel_gs_base, 0xabc);
	assert_int_equal(copy->save.lstar, 0xdef);
	assert_memory_equal(&copy->save.fs, &nest->vmcb->save.fs, sizeof(copy->save.fs));
}

static void test_vmcb_is_no_memory(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;
	uint32_t gpa = RAM_BYTES;

	memcpy(nest->vcpu->vm->ram + GUEST_CODE + 1, &gpa, sizeof(gpa));
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_EMULATION);
}

/* Without EFER.SVME there is no such instruction. */
static void test_off(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	cpu_state(nest->vcpu->cpu)->efer &= ~EFER_SVME;
	cpu_state_changed(nest->vcpu->cpu);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->rip, GUEST_HANDLERS + 6 * 16 + 1);
}

PROGRAM(l2_in, "mov $0x90, %edx; in %dx, %al; vmmcall");

/* Saved while L2 waits for the client, and restored into another CPU. */
static void test_save_and_restore(void **state)
{
	struct nest *nest = *state;
	struct quire_vcpu *vcpu = nest->vcpu, *other = fake_vcpu_create(vcpu->vm);
	struct cpu_nested nested;
	struct cpu_exit_info info;
	uint8_t answer = 0x5a;

	PUT(nest, L2_CODE, l2_in);
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_IO);
	cpu_answer(vcpu->cpu, &answer, 1, false);
	assert_int_equal(cpu_run(vcpu->cpu, CPU_RUN_COMPLETE, &info), CPU_EXIT_STEPPED);
	cpu_nested_get(vcpu->cpu, &nested);
	assert_int_equal(nested.in_guest_mode, 1);
	assert_int_equal(nested.vmcb_gpa, VMCB_GPA);
	assert_int_equal(nested.vmcb.control.next_rip, cpu_state(vcpu->cpu)->rip);
	*cpu_state(other->cpu) = *cpu_state(vcpu->cpu);
	cpu_state_changed(other->cpu);
	assert_int_equal(cpu_nested_set(other->cpu, &nested), 0);
	nest->vcpu = other;
	run_l2(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.rax & 0xff, answer);
	fake_vcpu_destroy(vcpu);
}

/* L1's nested tables refuse: the exit says what the library said. */
static void test_nested_paging(void **state)
{
	struct nest *nest = *state;

	nest->vmcb->control.misc = VMCB_NESTED_PAGING;
	nest->vmcb->control.nested_cr3 = 0x7000;
	nest->vcpu->nested_fault_gpa = L2_CODE;
	PUT(nest, L2_CODE, l2_call);
	run_l2(nest, VMCB_EXIT_NPF);
	assert_int_equal(nest->vmcb->control.exit_info2, L2_CODE);
	assert_int_equal(nest->vmcb->control.exit_info1,
			 QUIRE_PFERR_USER | QUIRE_PFERR_FETCH | QUIRE_PFERR_GUEST_FINAL);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE);
	assert_int_equal(nest->vcpu->nested_root, 0);
	assert_int_equal(nest->vcpu->nested_roots, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_call, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_invalid, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_invalid_cr0, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_cpuid, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_msrs, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_control_registers, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_page_fault, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_injection, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_injection_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_shutdown, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_interrupt_masking, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_virtual_interrupt, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_load_and_save, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_vmcb_is_no_memory, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_off, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_save_and_restore, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_nested_paging, setup, teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
