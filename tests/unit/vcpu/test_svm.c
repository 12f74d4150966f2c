/* Nested virtualisation: a hypervisor of a few instructions runs a guest of a few more. */
#include "tests/unit/vcpu/nest.h"

PROGRAM(l1_run_masked, "mov $0x40000, %eax; cli; clgi; vmrun; mov $0x11, %ebx; hlt");

PROGRAM(l2_call, "mov $0x1234, %eax; mov $0x77, %ecx; 1: vmmcall");

static void test_call(void **state)
{
	struct nest *nest = *state;
	const struct cpu_state *s = cpu_state(nest->vcpu->cpu);

	PUT(nest, L2_CODE, l2_call);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 10);
	assert_int_equal(nest->vmcb->control.next_rip, L2_CODE + 13);
	assert_int_equal(nest->vmcb->save.rax, 0x1234);
	assert_int_equal(nest->vmcb->save.rsp, L2_STACK);
	/* RAX and RSP are L1's own again, RCX is what L2 left. */
	assert_int_equal(s->gpr[CPU_RAX], VMCB_GPA);
	assert_int_equal(s->gpr[CPU_RSP], GUEST_STACK);
	assert_int_equal(s->gpr[CPU_RCX], 0x77);
}

PROGRAM(l2_cpuid, "xor %eax, %eax; cpuid");

static void test_cpuid(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_cpuid);
	nest_intercept(nest, INTERCEPT_CPUID);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_CPUID);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 2);
}

PROGRAM(l2_out, "mov $0x90, %edx; out %al, %dx; mov $0x91, %edx; out %ax, %dx");

/* One port is L2's own, the next one is not. */
static void test_ports(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_out);
	nest->vcpu->device_in_kernel = 1;
	nest_intercept(nest, INTERCEPT_IOIO);
	nest->vcpu->vm->ram[MAP_GPA + 0x92 / 8] = 1u << (0x92 % 8);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_IOIO);
	assert_int_equal(nest->vcpu->device_calls, 1);
	assert_int_equal(nest->vmcb->control.exit_info1, 0x91 << 16 | 1 << 9 | 2 << 4);
	assert_int_equal(nest->vmcb->control.exit_info2, nest->vmcb->control.next_rip);
}

PROGRAM(l2_closes, "movb $0xff, 0x50012; in $0x90, %al");

/* The map counts as it is at the access, as KVM reads it, and not as it was at VMRUN. */
static void test_ports_closed_later(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_closes);
	nest_intercept(nest, INTERCEPT_IOIO);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_IOIO);
	assert_int_equal(nest->vmcb->control.exit_info1 >> 16, 0x90);
}

PROGRAM(l2_in_four, "in %dx, %eax; vmmcall");

/* L2 reads four ports from @port on, and L1's map has a bit for @closed. Is that L1's to see? */
static void check_edge(struct nest *nest, uint32_t port, uint32_t closed, int is_seen)
{
	uint8_t *byte = nest->vcpu->vm->ram + MAP_GPA + closed / 8;

	*byte = (uint8_t)(1u << closed % 8);
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	cpu_state(nest->vcpu->cpu)->gpr[CPU_RDX] = port;
	nest_run(nest, VMCB_EXIT_INTR + (is_seen ? INTERCEPT_IOIO : INTERCEPT_VMMCALL));
	if (is_seen)
		assert_int_equal(nest->vmcb->control.exit_info1 >> 16, port);
	*byte = 0;
}

/* Bits in the next byte of the map, and in the next page; and a map where there is no memory. */
static void test_ports_at_edges(void **state)
{
	static const struct {
		uint32_t port, closed;
		int is_seen;
	} edges[] = {{0x95, 0x98, 1}, {0x94, 0x98, 0},	   {0x97, 0x9a, 1},	{0x97, 0x9b, 0},
		     {0x97, 0x96, 0}, {0x7fff, 0x8000, 1}, {0xffff, 0x10002, 1}};
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_in_four);
	nest->vcpu->device_in_kernel = 1;
	nest_intercept(nest, INTERCEPT_IOIO);
	for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
		check_edge(nest, edges[i].port, edges[i].closed, edges[i].is_seen);
	nest->vmcb->control.iopm_gpa = 1u << 30;
	check_edge(nest, 0x90, 0xff, 1);
}

PROGRAM(l2_rdmsr, "mov $0xc0000082, %ecx; rdmsr; inc %ecx; wrmsr");

static void test_msrs(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_rdmsr);
	nest_intercept(nest, INTERCEPT_MSR);
	/* Two bits each: the write of the second. */
	nest->vcpu->vm->ram[MAP_GPA + 0x800 + 0x83 / 4] = 2u << (0x83 % 4 * 2);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_MSR);
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
	nest_intercept(nest, INTERCEPT_CR0_SELECTIVE);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_CR0_SELECTIVE);
	assert_int_equal(nest->vmcb->save.cr0 & 8, 8);
	nest->vmcb->control.cr_writes = 1u << 3;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_CR_WRITE + 3);
}

PROGRAM(l2_fault, "mov $0xdead000, %eax; mov %al, (%rax)");

/* An intercepted page fault tells the address and leaves CR2 alone. */
static void test_page_fault(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_fault);
	nest->vmcb->control.exceptions = 1u << 14;
	nest->vmcb->save.cr2 = 0x55;
	nest_run(nest, VMCB_EXIT_EXCEPTION + 14);
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
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
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
	nest_run(nest, VMCB_EXIT_EXCEPTION + 13);
	assert_int_equal(nest->vmcb->control.exit_info1, 0x20 * 8 + 2 + 1);
	assert_int_equal(nest->vmcb->control.exit_int_info, VMCB_EVENT_VALID | 0x20);
}

static void test_shutdown(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	nest->vmcb->save.idtr.limit = 0;
	nest->vmcb->control.event_inj = VMCB_EVENT_VALID | 0x20;
	nest_intercept(nest, INTERCEPT_SHUTDOWN);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_SHUTDOWN);
	/* Not intercepted it is the end of L1 as well. */
	nest->vmcb->control.intercept &= ~(UINT64_C(1) << INTERCEPT_SHUTDOWN);
	nest->vmcb->control.event_inj = VMCB_EVENT_VALID | 0x20;
	nest_restart(nest);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_SHUTDOWN);
}

PROGRAM(l2_sti, "sti; nop; nop; 1: jmp 1b");

static void test_interrupt(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_sti);
	nest_intercept(nest, INTERCEPT_INTR);
	nest->vcpu->interrupt = 0x22;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_INTR);
	/* It has not been taken. */
	assert_int_equal(nest->vcpu->interrupt, 0x22);
	assert_in_range(nest->vmcb->save.rip, L2_CODE + 1, L2_CODE + 3);
}

/* One that comes behind the look whether one waits is L1's, too. */
static void test_late_interrupt(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	PUT(nest, L2_CODE, l2_sti);
	PUT(nest, GUEST_HANDLERS + 0x22 * 16, l2_stop);
	nest_intercept(nest, INTERCEPT_INTR);
	nest->vcpu->late_interrupt = 0x22;
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_INTR);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_INTR);
	assert_int_equal(nest->vcpu->interrupt, 0x22);
}

/* With V_INTR_MASKING L1's own IF counts: it keeps the interrupt from coming through. */
static void test_interrupt_masking(void **state)
{
	struct nest *nest = *state;

	PUT(nest, GUEST_CODE, l1_run_masked);
	PUT(nest, L2_CODE, l2_call);
	nest_intercept(nest, INTERCEPT_INTR);
	nest->vmcb->save.rflags |= RFLAGS_IF;
	nest->vmcb->control.int_ctl = VMCB_V_INTR_MASKING;
	nest->vcpu->interrupt = 0x22;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
}

/* A virtual interrupt waits for L2's IF and its priority, and is gone once it was taken. */
static void test_virtual_interrupt(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_sti);
	PUT(nest, GUEST_HANDLERS + 0x1e * 16, l2_stop);
	nest->vmcb->control.int_ctl = VMCB_V_IRQ | 1u << VMCB_V_PRIORITY_SHIFT;
	nest->vmcb->control.int_vector = 0x1e;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
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
	nest->vmcb->save.kernel_gs_base = 0xaa00000000000abc; /* made canonical, as FS is */
	nest->vmcb->save.lstar = 0xdef;
	nest->vmcb->save.fs = (struct vmcb_segment){.attributes = 0xc93, .base = 0x123};
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->kernel_gs_base, 0xabc);
	assert_int_equal(copy->save.kernel_gs_base, 0xabc);
	assert_int_equal(copy->save.lstar, 0xdef);
	assert_memory_equal(&copy->save.fs, &nest->vmcb->save.fs, sizeof(copy->save.fs));
}

PROGRAM(l2_vmload, "mov $0x40000, %eax; vmload; mov $0x43000, %eax; vmsave; vmmcall");
PROGRAM(l2_vmsave, "mov $0x43000, %eax; vmsave; vmmcall");

/* L2 has VMLOAD and VMSAVE to itself. What they address is L2's: L1's tables say where it is. */
static void virtual_vmload(struct nest *nest)
{
	PUT(nest, L2_CODE, l2_vmload);
	nest->vmcb->control.misc |= VMCB_NESTED_PAGING;
	nest->vmcb->control.misc2 |= VMCB_VIRTUAL_VMLOAD;
}

static void test_virtual_vmload(void **state)
{
	struct nest *nest = *state;
	struct vmcb *found = (struct vmcb *)(nest->vcpu->vm->ram + 0x42000);
	const struct vmcb *left = (const struct vmcb *)(nest->vcpu->vm->ram + 0x45000);

	virtual_vmload(nest);
	nest->vcpu->nested_offset = 0x2000;
	found->save.kernel_gs_base = 0xabc;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->kernel_gs_base, 0xabc);
	assert_int_equal(left->save.kernel_gs_base, 0xabc);
	assert_int_equal(nest->vcpu->nested_error,
			 QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER | QUIRE_PFERR_WRITE);
}

/* They lead nowhere: L1 gets its page fault, with the address that L2 gave. */
static void test_virtual_vmload_faults(void **state)
{
	struct nest *nest = *state;

	virtual_vmload(nest);
	nest_run(nest, VMCB_EXIT_NPF);
	assert_int_equal(nest->vmcb->control.exit_info1,
			 QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER);
	assert_int_equal(nest->vmcb->control.exit_info2, VMCB_GPA);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 5);
	PUT(nest, L2_CODE, l2_vmsave);
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_NPF);
	assert_int_equal(nest->vmcb->control.exit_info1,
			 QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER | QUIRE_PFERR_WRITE);
	assert_int_equal(nest->vmcb->control.exit_info2, 0x43000);
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
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
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
	nest_run(nest, VMCB_EXIT_NPF);
	assert_int_equal(nest->vmcb->control.exit_info2, L2_CODE);
	assert_int_equal(nest->vmcb->control.exit_info1,
			 QUIRE_PFERR_USER | QUIRE_PFERR_FETCH | QUIRE_PFERR_GUEST_FINAL);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE);
	assert_int_equal(nest->vcpu->nested_root, 0);
	assert_int_equal(nest->vcpu->nested_roots, 1);
}

PROGRAM(l2_gif, "clgi; sti; nop; mov $0x22, %ecx; nop; stgi; nop; 1: jmp 1b");

/* L2 has a GIF of its own: virtual interrupts wait for it, and it goes back to L1's VMCB. */
static void test_virtual_gif(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_gif);
	PUT(nest, GUEST_HANDLERS + 0x1e * 16, l2_stop);
	nest->vmcb->control.int_ctl =
	    VMCB_V_IRQ | 1u << VMCB_V_PRIORITY_SHIFT | VMCB_V_GIF_ENABLE | VMCB_V_GIF;
	nest->vmcb->control.int_vector = 0x1e;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->gpr[CPU_RCX], 0x22);
	assert_int_equal(nest->vmcb->control.int_ctl & VMCB_V_GIF, VMCB_V_GIF);
	/* Intercepted it is L1's to clear. */
	nest_intercept(nest, INTERCEPT_CLGI);
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_CLGI);
}

PROGRAM(l2_clgi, "clgi; vmmcall");

/* What L2 leaves clear, L1 finds clear; without the feature it is the processor's flag. */
static void test_virtual_gif_stays(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_clgi);
	nest->vmcb->control.int_ctl = VMCB_V_GIF_ENABLE | VMCB_V_GIF;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->control.int_ctl, VMCB_V_GIF_ENABLE);
	nest->vcpu->svm_features &= ~SVM_CPUID_V_GIF;
	nest->vmcb->control.int_ctl = VMCB_V_GIF_ENABLE | VMCB_V_GIF;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->control.int_ctl & VMCB_V_GIF, VMCB_V_GIF);
}

/* The next instruction is told where CPUID says so. */
static void test_next_rip(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_call);
	nest->vcpu->svm_features &= ~SVM_CPUID_NEXT_RIP;
	nest->vmcb->control.next_rip = 0x99;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->control.next_rip, 0x99);
}

/* CPUID without nested paging: the bit is none, and L2 runs on L1's addresses. */
static void test_no_nested_paging(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_call);
	nest->vcpu->svm_features &= ~SVM_CPUID_NPT;
	nest->vmcb->control.misc = VMCB_NESTED_PAGING;
	nest->vmcb->control.nested_cr3 = UINT64_C(1) << 50;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vcpu->nested_roots, 0);
	nest->vcpu->svm_features |= SVM_CPUID_NPT;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INVALID);
}

PROGRAM(l1_stgi, "clgi; nop; nop; stgi; nop; 1: jmp 1b");

/* What waits for GIF gets a turn right behind STGI, and not before. */
static void test_awaited_gif(void **state)
{
	struct nest *nest = *state;
	struct cpu *cpu = nest->vcpu->cpu;
	struct cpu_exit_info info;

	PUT(nest, GUEST_CODE, l1_stgi);
	cpu_nested_await_gif(cpu);
	assert_int_equal(cpu_run(cpu, 0, &info), CPU_EXIT_INTR);
	assert_int_equal(cpu_state(cpu)->rip, GUEST_CODE + 8);
	assert_int_equal(cpu_nested_gif(cpu), 1);
}

/* VMRUN sets it too; L2 has not run a thing then, and the state says so. */
static void test_run_pending(void **state)
{
	struct nest *nest = *state;
	struct cpu *cpu = nest->vcpu->cpu;
	struct cpu_exit_info info;
	struct cpu_nested nested;

	PUT(nest, L2_CODE, l2_call);
	cpu_nested_await_gif(cpu);
	assert_int_equal(cpu_run(cpu, 0, &info), CPU_EXIT_INTR);
	cpu_nested_get(cpu, &nested);
	assert_int_equal(nested.in_guest_mode, 1);
	assert_int_equal(nested.run_pending, 1);
	assert_int_equal(cpu_state(cpu)->rip, L2_CODE);
	assert_int_equal(cpu_nested_set(cpu, &nested), 0);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	cpu_nested_get(cpu, &nested);
	assert_int_equal(nested.run_pending, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_call, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_cpuid, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_ports, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_ports_closed_later, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_ports_at_edges, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_msrs, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_control_registers, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_page_fault, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_injection, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_injection_fails, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_shutdown, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_interrupt, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_late_interrupt, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_interrupt_masking, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_virtual_interrupt, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_load_and_save, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_virtual_vmload, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_virtual_vmload_faults, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_vmcb_is_no_memory, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_off, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_save_and_restore, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_nested_paging, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_virtual_gif, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_virtual_gif_stays, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_next_rip, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_no_nested_paging, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_awaited_gif, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_run_pending, nest_setup, nest_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
