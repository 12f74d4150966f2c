/* Intercepts of L2's instructions and what #VMEXIT leaves, where processors have rules of their
 * own. */
#include "tests/unit/vcpu/nest.h"

#define VECTOR_DB 1u
#define VECTOR_UD 6u
#define VECTOR_GP 13u
#define VECTOR_PF 14u

PROGRAM(l2_lmsw, "smsw %eax; lmsw %ax");

/* LMSW that changes nothing is intercepted all the same; the intercept of any write comes first. */
static void test_lmsw(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_lmsw);
	nest_intercept(nest, INTERCEPT_CR0_SELECTIVE);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_CR0_SELECTIVE);
	nest->vmcb->control.cr_writes = 1;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_CR_WRITE);
}

/* mov %dr4, %rax; mov %rax, %dr5; vmmcall */
PROGRAM(l2_aliases, ".byte 0x0f,0x21,0xe0; mov $0x400, %eax; .byte 0x0f,0x23,0xe8; vmmcall");

/* DR4 and DR5 are DR6 and DR7, with intercepts of their own. */
static void test_debug_aliases(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_aliases);
	nest->vmcb->control.dr_reads = 1u << 6;
	nest->vmcb->control.dr_writes = 1u << 7;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	nest->vmcb->control.dr_writes = 1u << 5;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_DR_WRITE + 5);
	nest->vmcb->control.dr_reads = 1u << 4;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_DR_READ + 4);
}

PROGRAM(l2_wait, "mov $1000, %ecx; 1: pause; dec %ecx; jnz 1b; vmmcall");

/* L1 gets the intercept of a PAUSE that L2 ran often before, translated by then. */
static void test_pause(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_wait);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	nest_intercept(nest, INTERCEPT_PAUSE);
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_PAUSE);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 5);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->gpr[CPU_RCX], 1000);
}

PROGRAM(l2_invpcid, "xor %eax, %eax; invpcid 0x30000, %rax; vmmcall");

static void test_invpcid(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_invpcid);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	nest->vmcb->control.intercept_more = INTERCEPT_INVPCID;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INVPCID);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 2);
}

PROGRAM(l2_rsm, "rsm");

static void test_rsm(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_rsm);
	nest->vmcb->control.exceptions = 1u << VECTOR_UD;
	nest_run(nest, VMCB_EXIT_EXCEPTION + VECTOR_UD);
	nest_intercept(nest, INTERCEPT_RSM);
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_RSM);
}

PROGRAM(l2_outs, "mov $0x91, %edx; mov $0x30000, %esi; outsb");

/* The permissions of L2's task come before the intercept. */
static void test_string_ports(void **state)
{
	struct nest *nest = *state;
	uint8_t *ram = nest->vcpu->vm->ram;

	PUT(nest, L2_CODE, l2_outs);
	nest_intercept(nest, INTERCEPT_IOIO);
	ram[MAP_GPA + 0x91 / 8] = 1u << (0x91 % 8);
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_IOIO);
	assert_int_equal(nest->vmcb->control.exit_info1,
			 0x91 << 16 | 3 << 10 | 1 << 9 | 1 << 4 | 4);
	ram[GUEST_TSS + 0x66] = ram[GUEST_TSS + 0x67] = 0xff;
	nest->vmcb->control.exceptions = 1u << VECTOR_GP;
	nest->vmcb->save.cpl = 3;
	nest->vmcb->save.cs.attributes |= 3 << 5;
	nest->vmcb->save.ss.attributes |= 3 << 5;
	nest->vmcb->save.rip = L2_CODE;
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_EXCEPTION + VECTOR_GP);
}

PROGRAM(l2_int3, "int3");
PROGRAM(l2_int, "int $0x14");

/* A fault while INT n or INT3 is delivered tells L1 what was on its way, and leaves RIP at it. */
static void test_software_events(void **state)
{
	struct nest *nest = *state;

	PUT(nest, L2_CODE, l2_int3);
	nest->vmcb->save.idtr.limit = 0;
	nest->vmcb->control.exceptions = 1u << VECTOR_GP;
	nest_run(nest, VMCB_EXIT_EXCEPTION + VECTOR_GP);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE);
	assert_int_equal(nest->vmcb->control.exit_int_info,
			 VMCB_EVENT_VALID | 3 << VMCB_EVENT_TYPE_SHIFT | 3);
	PUT(nest, L2_CODE, l2_int);
	nest_restart(nest);
	nest_run(nest, VMCB_EXIT_EXCEPTION + VECTOR_GP);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE);
	assert_int_equal(nest->vmcb->control.exit_int_info,
			 VMCB_EVENT_VALID | 4 << VMCB_EVENT_TYPE_SHIFT | 0x14);
}

PROGRAM(l1_step,
	"mov $0x40000, %eax; pushfq; orl $0x100, (%rsp); popfq; vmrun; mov $0x11, %ebx; hlt");
PROGRAM(l2_call, "nop; nop; vmmcall");

/* L1 that single-steps its VMRUN traps when L2 is done, and not in L2. */
static void test_stepped_vmrun(void **state)
{
	struct nest *nest = *state;
	const struct cpu_state *s = cpu_state(nest->vcpu->cpu);
	struct cpu_exit_info info;
	uint64_t frame[5];

	PUT(nest, GUEST_CODE, l1_step);
	PUT(nest, L2_CODE, l2_call);
	nest->vmcb->control.exceptions = 1u << VECTOR_DB;
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(nest->vmcb->control.exit_code, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(s->rip, GUEST_HANDLERS + VECTOR_DB * 16 + 1);
	memcpy(frame, nest->vcpu->vm->ram + s->gpr[CPU_RSP], sizeof(frame));
	assert_int_equal(frame[0], GUEST_CODE + (l1_step_end - l1_step_start) - 6);
	assert_int_equal(s->gpr[CPU_RBX], 0);
}

PROGRAM(load_word, "movq 0x30008, %rax; mov $0x11, %ebx; hlt");
PROGRAM(l2_load_word, "movq 0x30008, %rax; vmmcall");

/* A page that the host waits for is left to it where an interrupt could be taken, if asked. */
static void test_page_of_the_host(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = cpu_state(nest->vcpu->cpu);
	struct cpu_exit_info info;

	PUT(nest, GUEST_CODE, load_word);
	nest->vcpu->slow_gpa = GUEST_DATA;
	memcpy(nest->vcpu->vm->ram + GUEST_DATA + 8, &(uint64_t){0x1234}, 8);
	s->rflags |= RFLAGS_IF;
	cpu_state_changed(nest->vcpu->cpu);
	assert_int_equal(cpu_run(nest->vcpu->cpu, CPU_RUN_NOWAIT, &info), CPU_EXIT_WAIT);
	assert_int_equal(info.gpa, GUEST_DATA + 8);
	assert_int_equal(info.error_code & QUIRE_PFERR_WRITE, 0);
	assert_int_equal(info.error_code & QUIRE_PFERR_NOWAIT, 0);
	assert_int_equal(s->rip, GUEST_CODE);
	/* Not asked, and then not where no interrupt could be taken. */
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(s->gpr[CPU_RAX], 0x1234);
	s->rflags &= ~RFLAGS_IF;
	nest_restart(nest);
	nest->vcpu->slow_gpa = GUEST_DATA + 0x1000;
	PUT(nest, GUEST_CODE, load_word);
	nest->vcpu->vm->ram[GUEST_CODE + 5] = 0x10;
	assert_int_equal(cpu_run(nest->vcpu->cpu, CPU_RUN_NOWAIT, &info), CPU_EXIT_HLT);
}

/* KVM_TRANSLATE waits for the guest's tables, whatever the last run was to do. */
static void test_translate_waits(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = cpu_state(nest->vcpu->cpu);
	struct cpu_exit_info info;
	gpa_t gpa;

	PUT(nest, GUEST_CODE, load_word);
	assert_int_equal(cpu_run(nest->vcpu->cpu, CPU_RUN_NOWAIT, &info), CPU_EXIT_HLT);
	s->rflags |= RFLAGS_IF;
	fake_vm_zap(nest->vcpu->vm, nest->vcpu);
	nest->vcpu->slow_gpa = GUEST_PDPT;
	assert_true(cpu_translate(nest->vcpu->cpu, GUEST_DATA, &gpa));
	assert_int_equal(gpa.v, GUEST_DATA);
}

/* L1 hears of such a page by an exit, whatever it intercepts, and CR2 is L2's own. */
static void test_page_of_the_host_nested(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	PUT(nest, L2_CODE, l2_load_word);
	nest->vcpu->slow_gpa = GUEST_DATA;
	nest->vmcb->save.rflags |= RFLAGS_IF;
	nest->vmcb->save.cr2 = 0x77;
	cpu_state(nest->vcpu->cpu)->rflags |= RFLAGS_IF;
	cpu_state_changed(nest->vcpu->cpu);
	assert_int_equal(cpu_run(nest->vcpu->cpu, CPU_RUN_NOWAIT, &info), CPU_EXIT_WAIT);
	assert_int_equal(cpu_nested_active(nest->vcpu->cpu), 1);
	assert_int_equal(cpu_nested_page_fault(nest->vcpu->cpu, 0x5123), 1);
	assert_int_equal(cpu_nested_active(nest->vcpu->cpu), 0);
	nest_run(nest, VMCB_EXIT_EXCEPTION + VECTOR_PF);
	assert_int_equal(nest->vmcb->control.exit_info1, 0);
	assert_int_equal(nest->vmcb->control.exit_info2, 0x5123);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE);
	assert_int_equal(nest->vmcb->save.cr2, 0x77);
}

PROGRAM(l1_vmload, "mov $0x40000, %eax; vmload; hlt");

/* Bases that are not canonical are made so. */
static void test_bases(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	PUT(nest, L2_CODE, l2_int3);
	PUT(nest, GUEST_HANDLERS + 3 * 16, l2_call);
	nest->vmcb->save.idtr.base |= UINT64_C(0x12) << 57;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	PUT(nest, GUEST_CODE, l1_vmload);
	nest->vmcb->save.fs.base = UINT64_C(0x0120000000000000);
	nest_restart(nest);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->seg[CPU_FS].base,
			 UINT64_C(0xff20000000000000));
}

PROGRAM(l2_stop, "vmmcall");

/* An address that needs five levels. */
#define WIDE_BASE UINT64_C(0xff11000000000000)

/* L1 with four levels runs an L2 with five: VMRUN and VMLOAD keep its bases. */
static void test_wide_bases(void **state)
{
	struct nest *nest = *state;
	struct cpu_exit_info info;

	PUT(nest, L2_CODE, l2_stop);
	nest->vmcb->save.gdtr.base = WIDE_BASE;
	nest->vmcb->save.idtr.base = WIDE_BASE + 0x1000;
	nest_run(nest, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.gdtr.base, WIDE_BASE);
	assert_int_equal(nest->vmcb->save.idtr.base, WIDE_BASE + 0x1000);
	PUT(nest, GUEST_CODE, l1_vmload);
	nest->vmcb->save.gs.base = WIDE_BASE;
	nest_restart(nest);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(nest->vcpu->cpu)->seg[CPU_GS].base, WIDE_BASE);
}

PROGRAM(wide_msr, "mov $0xc0000082, %ecx; mov $0xff110000, %edx; xor %eax, %eax; wrmsr; hlt");
PROGRAM(wide_gdt, "lgdt 0x30000; hlt");
PROGRAM(wide_return, "mov $0xff11000000000000, %rcx; sysretq");

/* Does the program reach its HLT, or #GP? */
static int is_taken(struct nest *nest, const uint8_t *start, const uint8_t *end)
{
	struct cpu_exit_info info;
	uint64_t rip;

	nest_put(nest, GUEST_CODE, start, end);
	nest_restart(nest);
	assert_int_equal(cpu_run(nest->vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	rip = cpu_state(nest->vcpu->cpu)->rip;
	if (rip == GUEST_CODE + (uint64_t)(end - start))
		return 1;
	assert_int_equal(rip, GUEST_HANDLERS + VECTOR_GP * 16 + 1);
	return 0;
}

/*
 * What bases and MSRs may hold goes by the processor, also where the guest's CPUID has no LA57;
 * where code goes on, by the tables in use.
 */
static void test_widths(void **state)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) table = {0x37, WIDE_BASE};
	struct nest *nest = *state;

	memcpy(nest->vcpu->vm->ram + 0x30000, &table, sizeof(table));
	assert_false(is_taken(nest, wide_return_start, wide_return_end));
	assert_true(is_taken(nest, wide_msr_start, wide_msr_end));
	assert_true(is_taken(nest, wide_gdt_start, wide_gdt_end));
	assert_int_equal(cpu_state(nest->vcpu->cpu)->gdt.base, WIDE_BASE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_lmsw, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_debug_aliases, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_pause, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_invpcid, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_rsm, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_string_ports, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_software_events, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_stepped_vmrun, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_bases, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_wide_bases, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_widths, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_page_of_the_host, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_translate_waits, nest_setup, nest_teardown),
	    cmocka_unit_test_setup_teardown(test_page_of_the_host_nested, nest_setup,
					    nest_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
