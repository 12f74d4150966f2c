/* System management mode: what an SMI saves and begins with, and what RSM takes back. */
#include "tests/unit/vcpu/nest.h"

#include <errno.h>

#include "vcpu/arch.h"
#include "vcpu/mem/segment.h"
#include "vcpu/smm/smram.h"
#include "vcpu/svm/svm.h"

#define SMBASE 0x200000u
/* Where space 1 has it. */
#define HANDLER SPACE_1(SMBASE + SMRAM_ENTRY)
#define SAVED SPACE_1(SMBASE + SMRAM_STATE)
#define PUT_AT(vcpu, gpa, name) \
	memcpy((vcpu)->vm->ram + (gpa), name##_start, (size_t)(name##_end - name##_start))
#define HALT_BYTES 1

PROGRAM(guest_halts, "inc %rbx; hlt; inc %rbx; hlt");
PROGRAM(handler_halts, ".code16; hlt; rsm; .code64");
PROGRAM(handler_returns, ".code16; rsm; .code64");
PROGRAM(guest_rsm, "rsm");

static int setup(void **state)
{
	struct quire_vcpu *vcpu;
	struct nest *nest;

	nest_setup(state);
	nest = *state;
	vcpu = nest->vcpu;
	cpu_state(vcpu->cpu)->smbase = SMBASE;
	PUT_AT(vcpu, GUEST_CODE, guest_halts);
	PUT_AT(vcpu, HANDLER, handler_halts);
	return 0;
}

static struct cpu_state *state_of(void **state)
{
	return cpu_state(((struct nest *)*state)->vcpu->cpu);
}

static struct smram_64 *saved_of(void **state)
{
	return (struct smram_64 *)(((struct nest *)*state)->vcpu->vm->ram + SAVED);
}

/* Run on until the next exit, out of a HLT. */
static enum cpu_exit run_on(void **state)
{
	struct cpu *cpu = ((struct nest *)*state)->vcpu->cpu;
	struct cpu_exit_info info;

	cpu_state(cpu)->halted = 0;
	cpu_state_changed(cpu);
	return cpu_run(cpu, 0, &info);
}

static void smi(void **state)
{
	state_of(state)->smi_pending = 1;
}

static void test_entry(void **state)
{
	struct cpu_state *s = state_of(state);

	s->cr0 |= CR0_TS | CR0_EM;
	s->rflags |= FLAG_CF;
	s->interrupt_shadow = 1;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(s->smm && !s->smi_pending && s->nmi_masked && !s->smm_inside_nmi);
	assert_int_equal(s->smi_count, 1);
	assert_int_equal(s->rip, SMRAM_ENTRY + HALT_BYTES);
	assert_int_equal(s->rflags, FLAG_FIXED);
	assert_int_equal(s->interrupt_shadow, 0);
	assert_int_equal(s->cr0 & (CR0_PE | CR0_EM | CR0_TS | CR0_PG), 0);
	assert_true(s->cr0 & CR0_NE);
	assert_int_equal(s->cr3, GUEST_PML4);
	assert_int_equal(s->cr4, 0);
	assert_int_equal(s->efer, 0);
	assert_int_equal(s->dr7, DR7_FIXED);
	assert_int_equal(s->idt.limit, 0);
	assert_int_equal(s->seg[CPU_CS].base, SMBASE);
	assert_int_equal(s->seg[CPU_CS].selector, SMBASE >> 4 & 0xffff);
	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		assert_int_equal(s->seg[seg].limit, UINT32_MAX);
	assert_int_equal(s->seg[CPU_SS].base, 0);
}

static void test_saved(void **state)
{
	const struct cpu_state *s = state_of(state);
	const struct smram_64 *saved = saved_of(state);
	struct cpu_state before;

	for (unsigned int i = 0; i < 16; i++)
		state_of(state)->gpr[i] = UINT64_C(0x1100000000) + i;
	state_of(state)->rflags |= FLAG_CF;
	state_of(state)->interrupt_shadow = 1;
	before = *s;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	for (unsigned int i = 0; i < 16; i++)
		assert_int_equal(saved->gpr[15 - i], before.gpr[i]);
	assert_int_equal(saved->rip, GUEST_CODE);
	assert_int_equal(saved->rflags, before.rflags);
	assert_int_equal(saved->cr0, before.cr0);
	assert_int_equal(saved->cr3, before.cr3);
	assert_int_equal(saved->cr4, before.cr4);
	assert_int_equal(saved->efer, before.efer);
	assert_int_equal(saved->dr6, before.dr6);
	assert_int_equal(saved->dr7, before.dr7);
	assert_int_equal(saved->smbase, SMBASE);
	assert_int_equal(saved->revision, 0x20064);
	assert_int_equal(saved->interrupt_shadow, 1);
	assert_int_equal(saved->nested, 0);
	assert_int_equal(saved->segments[CPU_CS].selector, SELECTOR_CODE);
	assert_int_equal(saved->segments[CPU_CS].attributes, 0xa09b);
	assert_int_equal(saved->tr.base, GUEST_TSS);
	assert_int_equal(saved->gdt.base, GUEST_GDT);
	assert_int_equal(saved->idt.limit, before.idt.limit);
}

/* Field by field: what lies between fields is anything. */
static void check_segment(const struct cpu_segment *got, const struct cpu_segment *wanted)
{
	assert_int_equal(got->base, wanted->base);
	assert_int_equal(got->limit, wanted->limit);
	assert_int_equal(got->selector, wanted->selector);
	assert_int_equal(segment_attributes(got), segment_attributes(wanted));
	assert_int_equal(got->unusable, wanted->unusable);
}

/* Everything comes back, and the guest has not seen a thing. */
static void test_return(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = state_of(state);
	struct cpu_state before;

	PUT_AT(nest->vcpu, HANDLER, handler_returns);
	s->rflags |= FLAG_CF;
	s->dr7 = 0x401;
	s->dr[0] = 0x123;
	s->gpr[8] = 8;
	cpu_state_changed(nest->vcpu->cpu);
	before = *s;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_false(s->smm || s->nmi_masked);
	assert_int_equal(s->smi_count, 1);
	assert_int_equal(nest->vcpu->space, 0);
	assert_int_equal(s->gpr[CPU_RBX], before.gpr[CPU_RBX] + 1);
	for (unsigned int seg = 0; seg < sizeof(s->seg) / sizeof(s->seg[0]); seg++)
		check_segment(&s->seg[seg], &before.seg[seg]);
	assert_int_equal(s->gdt.base, before.gdt.base);
	assert_int_equal(s->gdt.limit, before.gdt.limit);
	assert_int_equal(s->idt.base, before.idt.base);
	assert_int_equal(s->idt.limit, before.idt.limit);
	assert_int_equal(s->cr0, before.cr0);
	assert_int_equal(s->cr3, before.cr3);
	assert_int_equal(s->cr4, before.cr4);
	assert_int_equal(s->efer, before.efer);
	assert_int_equal(s->dr7, before.dr7);
	assert_int_equal(s->dr[0], before.dr[0]);
	assert_int_equal(s->gpr[8], 8);
}

/* The handler moves SMRAM by what it leaves there. */
static void test_moved_smbase(void **state)
{
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	saved_of(state)->smbase = SMBASE + 0x10000;
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_false(state_of(state)->smm);
	assert_int_equal(state_of(state)->smbase, SMBASE + 0x10000);
}

/* One waits while the other is handled, and while GIF is clear. */
static void test_held_back(void **state)
{
	struct cpu_state *s = state_of(state);

	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	/* RSM, and at once the next. */
	assert_true(s->smm && !s->smi_pending);
	assert_int_equal(s->smi_count, 2);
	assert_int_equal(saved_of(state)->rip, GUEST_CODE);
}

PROGRAM(guest_clears_gif, "clgi; inc %rbx; hlt; stgi; inc %rbx; hlt");

static void test_gif(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = state_of(state);

	PUT_AT(nest->vcpu, GUEST_CODE, guest_clears_gif);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	smi(state);
	assert_false(cpu_would_wake(nest->vcpu->cpu));
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(s->smm);
	assert_int_equal(saved_of(state)->rip, GUEST_CODE + 3 + 3 + 1 + 3);
}

/* An NMI waits for RSM; one that is being handled keeps the others masked behind it. */
static void test_nmis(void **state)
{
	struct cpu_state *s = state_of(state);

	s->nmi_masked = 1;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(s->nmi_masked && s->smm_inside_nmi);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(s->nmi_masked && !s->smm_inside_nmi && !s->smm);
}

static void test_wakes(void **state)
{
	struct nest *nest = *state;

	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_false(cpu_would_wake(nest->vcpu->cpu));
	smi(state);
	assert_true(cpu_would_wake(nest->vcpu->cpu));
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(state_of(state)->smm);
	assert_int_equal(saved_of(state)->rip, GUEST_CODE + 4);
}

static void test_rsm_elsewhere(void **state)
{
	struct nest *nest = *state;

	PUT_AT(nest->vcpu, GUEST_CODE, guest_rsm);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_int_equal(state_of(state)->rip, GUEST_HANDLERS + VECTOR_UD * 16 + HALT_BYTES);
}

/* What no processor can have: it shuts down, out of the mode. */
static void test_impossible_state(void **state)
{
	static const struct {
		size_t offset;
		uint64_t value;
	} bad[] = {
	    {offsetof(struct smram_64, cr0), UINT64_C(1) << 32},
	    {offsetof(struct smram_64, cr0), CR0_PG},
	    {offsetof(struct smram_64, cr0), CR0_NW},
	    {offsetof(struct smram_64, cr3), UINT64_C(1) << 48},
	    {offsetof(struct smram_64, cr4), UINT64_C(1) << 63},
	    {offsetof(struct smram_64, cr4), 0}, /* no PAE for long mode */
	    {offsetof(struct smram_64, efer), UINT64_C(1) << 40},
	    {offsetof(struct smram_64, dr6), UINT64_C(1) << 32},
	    {offsetof(struct smram_64, dr7), UINT64_C(1) << 32},
	};
	struct cpu_state *s = state_of(state);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct cpu_state before = *s;

		smi(state);
		assert_int_equal(run_on(state), CPU_EXIT_HLT);
		assert_true(s->smm);
		memcpy((char *)saved_of(state) + bad[i].offset, &bad[i].value, 8);
		assert_int_equal(run_on(state), CPU_EXIT_SHUTDOWN);
		assert_false(s->smm);
		*s = before;
	}
}

/* A processor without long mode has the other layout, and its EFER is not touched. */
static void test_layout_32(void **state)
{
	const struct smram_32 *saved = (const struct smram_32 *)saved_of(state);
	struct nest *nest = *state;
	struct cpu_state *s = state_of(state);

	nest->vcpu->no_long_mode = 1;
	fake_flat_segments(s);
	s->cr0 = CR0_PE | CR0_ET;
	s->efer = 0;
	s->cr4 = 0;
	for (unsigned int i = 0; i < 8; i++)
		s->gpr[i] = 0x100 + i;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_int_equal(saved->revision, 0x20000);
	assert_int_equal(saved->smbase, SMBASE);
	assert_int_equal(saved->eip, GUEST_CODE);
	assert_int_equal(saved->cr0, CR0_PE | CR0_ET);
	assert_int_equal(saved->selectors[1], SELECTOR_CODE32);
	assert_int_equal(saved->cs.flags, 0xc09b00);
	assert_int_equal(saved->gdt.base, GUEST_GDT);
	for (unsigned int i = 0; i < 8; i++)
		assert_int_equal(saved->gpr[i], 0x100 + i);
	PUT_AT(nest->vcpu, GUEST_CODE, guest_rsm);
	PUT_AT(nest->vcpu, GUEST_CODE, handler_halts);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_false(s->smm);
	assert_int_equal(s->rip, GUEST_CODE + HALT_BYTES);
	assert_int_equal(s->seg[CPU_CS].selector, SELECTOR_CODE32);
	assert_int_equal(s->seg[CPU_SS].db, 1);
	assert_int_equal(s->cr0, CR0_PE | CR0_ET);
}

/* It turns paging off, and long mode goes with it, though such a processor's EFER stays. */
static void test_long_mode_that_cpuid_hides(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = state_of(state);

	nest->vcpu->no_long_mode = 1;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(s->smm);
	assert_int_equal(s->rip, SMRAM_ENTRY + HALT_BYTES);
	assert_int_equal(s->efer & (EFER_LME | EFER_LMA), EFER_LME);
}

/* Nowhere to save to: the client is told that the VM is lost. */
static void test_no_smram(void **state)
{
	state_of(state)->smbase = RAM_BYTES;
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_DEAD);
}

static void test_one_space(void **state)
{
	struct nest *nest = *state;

	nest->vcpu->one_space = 1;
	assert_int_equal(cpu_set_smm(nest->vcpu->cpu, true), -EINVAL);
	assert_false(state_of(state)->smm);
	smi(state);
	assert_int_equal(run_on(state), CPU_EXIT_DEAD);
}

/* The client changes the mode, and nothing else. */
static void test_client_sets(void **state)
{
	struct nest *nest = *state;
	struct cpu_state before = *state_of(state);

	assert_int_equal(cpu_set_smm(nest->vcpu->cpu, true), 0);
	assert_int_equal(nest->vcpu->space, 1);
	assert_true(state_of(state)->smm);
	assert_int_equal(cpu_set_smm(nest->vcpu->cpu, false), 0);
	assert_int_equal(nest->vcpu->space, 0);
	assert_memory_equal(state_of(state), &before, sizeof(before));
}

/* Directories that the client has loaded count until the mode ends. */
static void test_directories(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = state_of(state);

	assert_int_equal(cpu_set_smm(nest->vcpu->cpu, true), 0);
	s->directories_loaded = 1;
	assert_int_equal(cpu_set_smm(nest->vcpu->cpu, true), 0);
	assert_int_equal(s->directories_loaded, 1);
	assert_int_equal(cpu_set_smm(nest->vcpu->cpu, false), 0);
	assert_int_equal(s->directories_loaded, 0);
}

/*
 * The same physical page has other code in SMRAM, and both are hot: the guest counts in RBX, the
 * handler in its own memory.
 */
PROGRAM(guest_counts, "mov $40, %ecx; 1: inc %rbx; dec %ecx; jnz 1b; hlt");
PROGRAM(handler_counts, ".code16; mov $40, %ecx; 1: incl 0x9000; dec %ecx; jnz 1b; rsm; .code64");

static void test_code_of_both(void **state)
{
	struct nest *nest = *state;
	struct cpu_state *s = state_of(state);
	uint32_t *count = (uint32_t *)(nest->vcpu->vm->ram + SPACE_1(0x9000));

	s->smbase = GUEST_CODE - SMRAM_ENTRY;
	PUT_AT(nest->vcpu, GUEST_CODE, guest_counts);
	PUT_AT(nest->vcpu, SPACE_1(GUEST_CODE), handler_counts);
	s->gpr[CPU_RBX] = *count = 0;
	for (unsigned int turn = 1; turn <= 40; turn++) {
		s->rip = GUEST_CODE;
		smi(state);
		assert_int_equal(run_on(state), CPU_EXIT_HLT);
		assert_int_equal(s->gpr[CPU_RBX], turn * 40);
		assert_int_equal(*count, turn * 40);
	}
}

PROGRAM(l2_waits, "in $0x80, %al; inc %rcx; vmmcall");
PROGRAM(l1_runs, "mov $0x40000, %eax; vmrun; mov $0x11, %ebx; hlt");

/* L2 stops at a port, and an SMI comes. */
static void stop_in_l2(void **state)
{
	struct nest *nest = *state;
	struct cpu *cpu = nest->vcpu->cpu;
	struct cpu_exit_info info;

	PUT_AT(nest->vcpu, GUEST_CODE, l1_runs);
	PUT(nest, L2_CODE, l2_waits);
	memset(nest->vcpu->vm->ram + MAP_GPA, 0, 0x3000);
	assert_int_equal(cpu_run(cpu, 0, &info), CPU_EXIT_IO);
	assert_true(cpu_nested_active(cpu));
	cpu_answer(cpu, "\x5", 1, false);
	assert_int_equal(cpu_run(cpu, CPU_RUN_COMPLETE, &info), CPU_EXIT_STEPPED);
	smi(state);
}

static void test_l2(void **state)
{
	struct nest *nest = *state;
	const struct vmcb_save *host =
	    (const struct vmcb_save *)(nest->vcpu->vm->ram + HSAVE_GPA + 0x400);
	struct cpu_state *s = state_of(state);

	stop_in_l2(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_true(s->smm && !cpu_nested_active(nest->vcpu->cpu));
	assert_true(cpu_nested_gif(nest->vcpu->cpu));
	assert_int_equal(nest->vmcb->control.exit_code, VMCB_EXIT_SW);
	assert_int_equal(nest->vmcb->save.rip, L2_CODE + 2);
	assert_int_equal(saved_of(state)->nested, 1);
	assert_int_equal(saved_of(state)->nested_vmcb_gpa, VMCB_GPA);
	assert_int_equal(saved_of(state)->rip, L2_CODE + 2);
	assert_int_equal(saved_of(state)->gpr[15] & 0xff, 5);
	/* L1's registers are in its host save area. */
	assert_int_equal(host->rax, VMCB_GPA);
	assert_int_equal(host->cr3, GUEST_PML4);
	assert_true(host->efer & EFER_SVME);
	/* RSM, and L2 goes on to its end. */
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_false(s->smm);
	assert_int_equal(s->gpr[CPU_RBX], 0x11);
	assert_int_equal(s->gpr[CPU_RAX], VMCB_GPA);
	assert_int_equal(nest->vmcb->control.exit_code, VMCB_EXIT_INTR + INTERCEPT_VMMCALL);
	assert_int_equal(nest->vmcb->save.rax & 0xff, 5);
}

/* L1 wants it: L2 ends, and the SMI comes once GIF is set. */
static void test_l1_intercepts(void **state)
{
	struct nest *nest = *state;

	nest_intercept(nest, INTERCEPT_SMI);
	stop_in_l2(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	assert_int_equal(nest->vmcb->control.exit_code, VMCB_EXIT_INTR + INTERCEPT_SMI);
	assert_int_equal(state_of(state)->gpr[CPU_RBX], 0x11);
	assert_true(state_of(state)->smi_pending && !state_of(state)->smm);
}

/* SMRAM names a VMCB that VMRUN would refuse, or none: L1 shuts down. */
static void test_l2_is_gone(void **state)
{
	struct nest *nest = *state;

	stop_in_l2(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	nest->vmcb->control.asid = 0;
	assert_int_equal(run_on(state), CPU_EXIT_SHUTDOWN);
	assert_false(cpu_nested_active(nest->vcpu->cpu));
}

static void test_l2_registers_are_impossible(void **state)
{
	struct nest *nest = *state;

	stop_in_l2(state);
	assert_int_equal(run_on(state), CPU_EXIT_HLT);
	saved_of(state)->dr7 = UINT64_C(1) << 40;
	assert_int_equal(run_on(state), CPU_EXIT_SHUTDOWN);
	assert_false(cpu_nested_active(nest->vcpu->cpu));
	assert_int_equal(nest->vcpu->nested_root, 0);
}

/* The client takes L2 away with the mode: L1 goes on, and takes events again. */
static void test_client_sets_in_l2(void **state)
{
	struct nest *nest = *state;
	struct cpu *cpu = nest->vcpu->cpu;

	stop_in_l2(state);
	svm_set_gif(cpu, 0);
	assert_int_equal(cpu_set_smm(cpu, true), 0);
	assert_false(cpu_nested_active(cpu));
	assert_true(cpu_nested_gif(cpu));
	assert_int_equal(nest->vcpu->space, 1);
	assert_int_equal(state_of(state)->gpr[CPU_RAX], VMCB_GPA);
}

#define SMM_TEST(test) cmocka_unit_test_setup_teardown(test, setup, nest_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    SMM_TEST(test_entry),
	    SMM_TEST(test_saved),
	    SMM_TEST(test_return),
	    SMM_TEST(test_moved_smbase),
	    SMM_TEST(test_held_back),
	    SMM_TEST(test_gif),
	    SMM_TEST(test_nmis),
	    SMM_TEST(test_wakes),
	    SMM_TEST(test_rsm_elsewhere),
	    SMM_TEST(test_impossible_state),
	    SMM_TEST(test_layout_32),
	    SMM_TEST(test_long_mode_that_cpuid_hides),
	    SMM_TEST(test_no_smram),
	    SMM_TEST(test_one_space),
	    SMM_TEST(test_client_sets),
	    SMM_TEST(test_client_sets_in_l2),
	    SMM_TEST(test_directories),
	    SMM_TEST(test_code_of_both),
	    SMM_TEST(test_l2),
	    SMM_TEST(test_l1_intercepts),
	    SMM_TEST(test_l2_is_gone),
	    SMM_TEST(test_l2_registers_are_impossible),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
