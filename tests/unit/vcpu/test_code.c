/* Decoded code that is compared by page: how often, and that no change of its bytes is missed. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/translate/fast.h"

#define PROGRAM(name, code)                                                            \
	__asm__(".pushsection .rodata\n.balign 64\n" #name "_start:\n" code "\n" #name \
		"_end:\n.popsection\n");                                               \
	extern const uint8_t name##_start[], name##_end[]

#define PAGE 4096u
/* Two linear addresses that lead to one page of RAM. */
#define ALIAS_ONE (PAGED_LINEAR + 0x10000)
#define ALIAS_TWO (PAGED_LINEAR + 0x20000)
#define ALIAS_GPA UINT64_C(0x410000)

static int setup(void **state)
{
	*state = fake_vcpu_create(fake_vm_create());
	return 0;
}

static void load_at(struct quire_vcpu *vcpu, uint64_t gpa, const uint8_t *start, const uint8_t *end)
{
	memcpy(vcpu->vm->ram + gpa, start, end - start);
}

/* Run from @rip to a HLT; RAX says what the program found. */
static uint64_t run_from(struct quire_vcpu *vcpu, uint64_t rip)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	s->rip = rip;
	s->halted = 0;
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	return s->gpr[CPU_RAX];
}

/* Ten blocks on the page of the loop and two pages that are called, 1000 serialisations. */
PROGRAM(pages, "mov $1000, %edi; 1: xor %eax, %eax; cpuid;"
	       "mov $0x11000, %esi; call *%rsi; mov $0x12000, %esi; call *%rsi;"
	       "jmp 2f; 2: jmp 3f; 3: jmp 4f; 4: jmp 5f; 5: dec %edi; jnz 1b; mov %r8, %rax; hlt");
PROGRAM(callee, "jmp 1f; 1: jmp 2f; 2: inc %r8; ret");

static void test_compares_by_page(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);

	cpu_state(vcpu->cpu)->gpr[CPU_RAX + 8] = 0;
	load_at(vcpu, GUEST_CODE, pages_start, pages_end);
	load_at(vcpu, GUEST_CODE + PAGE, callee_start, callee_end);
	load_at(vcpu, GUEST_CODE + 2 * PAGE, callee_start, callee_end);
	assert_int_equal(run_from(vcpu, GUEST_CODE), 2000);
	assert_in_range(counts->compares, 2990, 3010);
	assert_int_equal(counts->drops, 0);
}

PROGRAM(two_lines, "mov $1, %ecx; jmp 1f; .balign 64; 1: mov $2, %edx; jmp 2f;"
		   ".balign 64; 2: lea (%rcx,%rdx), %eax; hlt");

/* The client changes one line: its block goes, those of other lines stay. */
static void test_client_changes_a_line(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);

	load_at(vcpu, ALIAS_GPA, two_lines_start, two_lines_end);
	assert_int_equal(run_from(vcpu, ALIAS_GPA), 3);
	vcpu->vm->ram[ALIAS_GPA + 65] = 7;
	assert_int_equal(run_from(vcpu, ALIAS_GPA), 8);
	assert_int_equal(counts->drops, 1);
	/* There and back between two runs is no change. */
	vcpu->vm->ram[ALIAS_GPA + 65] = 9;
	vcpu->vm->ram[ALIAS_GPA + 65] = 7;
	assert_int_equal(run_from(vcpu, ALIAS_GPA), 8);
	assert_int_equal(counts->drops, 1);
}

/*
 * A page that is jumped to from another one, and known there: what the client changed in it is seen
 * at the next jump after a serialisation.
 */
PROGRAM(caller, "mov $0x11000, %esi; call *%rsi; hlt");
PROGRAM(called, "mov $5, %eax; ret");

static void test_client_changes_a_called_page(void **state)
{
	struct quire_vcpu *vcpu = *state;

	load_at(vcpu, GUEST_CODE, caller_start, caller_end);
	load_at(vcpu, GUEST_CODE + PAGE, called_start, called_end);
	for (int i = 0; i < 3; i++)
		assert_int_equal(run_from(vcpu, GUEST_CODE), 5);
	vcpu->vm->ram[GUEST_CODE + PAGE + 1] = 6;
	assert_int_equal(run_from(vcpu, GUEST_CODE), 6);
	assert_int_equal(cpu_counts(vcpu->cpu)->drops, 1);
}

/* Data in a line that was never run is no code's. */
static void test_client_changes_data(void **state)
{
	struct quire_vcpu *vcpu = *state;

	load_at(vcpu, ALIAS_GPA, two_lines_start, two_lines_end);
	assert_int_equal(run_from(vcpu, ALIAS_GPA), 3);
	vcpu->vm->ram[ALIAS_GPA + 1024] ^= 1;
	assert_int_equal(run_from(vcpu, ALIAS_GPA), 3);
	assert_int_equal(cpu_counts(vcpu->cpu)->drops, 0);
}

/* Stores through another linear address, at once: by turns to the running block and to another. */
PROGRAM(alias, "xor %eax, %eax; mov $3, %ecx;"
	       "1: incb 1f-alias_start+1+0x420000; 1: mov $0x10, %dl; movzx %dl, %edx;"
	       "add %edx, %eax; incb 3f-alias_start+1+0x420000; jmp 3f;"
	       ".balign 64; 3: mov $0x20, %dl; movzx %dl, %edx; add %edx, %eax;"
	       "dec %ecx; jnz 4f; hlt; 4: jmp 1b-7");

static void test_alias_is_seen_at_once(void **state)
{
	struct quire_vcpu *vcpu = *state;
	uint64_t pte = ALIAS_GPA | 7;

	memcpy(vcpu->vm->ram + GUEST_PT + (ALIAS_TWO - PAGED_LINEAR) / PAGE * 8, &pte, sizeof(pte));
	load_at(vcpu, ALIAS_GPA, alias_start, alias_end);
	assert_int_equal(run_from(vcpu, ALIAS_ONE), 0x11 + 0x12 + 0x13 + 0x21 + 0x22 + 0x23);
}

/* An instruction over two pages whose second half the client, then the guest changes. */
static void test_crossing_instruction(void **state)
{
	static const uint8_t code[] = {0xb8, 1, 0, 0, 0, 0xf4}; /* mov $1, %eax; hlt */
	struct quire_vcpu *vcpu = *state;
	uint8_t *at = vcpu->vm->ram + ALIAS_GPA + PAGE - 2;

	memcpy(at, code, sizeof(code));
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 1);
	at[2] = 1;
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 0x101);
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 0x101);
	at[1] = 2;
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 0x102);
}

/* What CPUID shows counts over two pages too: POPCNT. */
static void test_crossing_feature(void **state)
{
	static const uint8_t code[] = {0xf3, 0x0f, 0xb8, 0xc1, 0xf4}; /* popcnt %ecx, %eax; hlt */
	struct quire_vcpu *vcpu = *state;

	memcpy(vcpu->vm->ram + ALIAS_GPA + PAGE - 2, code, sizeof(code));
	cpu_state(vcpu->cpu)->gpr[CPU_RCX] = 0xff;
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 8);
}

/* The second page of a crossing instruction is another page after a remap of the guest's. */
static void test_crossing_remapped(void **state)
{
	static const uint8_t code[] = {0xb8, 1, 0, 0, 0, 0xf4};
	static const uint8_t other[] = {5, 0, 0, 0xf4};
	struct quire_vcpu *vcpu = *state;
	uint64_t pte = (ALIAS_GPA + 8 * PAGE) | 7;

	memcpy(vcpu->vm->ram + ALIAS_GPA + PAGE - 2, code, sizeof(code));
	memcpy(vcpu->vm->ram + ALIAS_GPA + 8 * PAGE, other, sizeof(other));
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 1);
	memcpy(vcpu->vm->ram + GUEST_PT + 0x11 * 8, &pte, sizeof(pte));
	cpu_state(vcpu->cpu)->cr3 ^= UINT64_C(1) << 3; /* a new value flushes */
	assert_int_equal(run_from(vcpu, ALIAS_ONE + PAGE - 2), 0x501);
}

#define CALLS 100000

PROGRAM(loop, "mov $100000, %ecx; 1: call 2f; dec %ecx; jnz 1b; hlt; 2: push %rax; pop %rdx; ret");

/* Instructions are counted exactly, and nearly all of a loop run translated where that is on. */
static void test_counts_of_a_loop(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);

	load_at(vcpu, GUEST_CODE, loop_start, loop_end);
	(void)run_from(vcpu, GUEST_CODE);
	assert_int_equal(counts->interpreted + counts->translated, 1 + 6 * CALLS + 1);
	assert_int_equal(counts->unlinks, 0);
	if (!counts->units)
		assert_int_equal(counts->translated, 0);
	else
		assert_true(counts->translated > 6 * CALLS * 99 / 100);
}

PROGRAM(wait_loop, "mov $100000, %ecx; 1: pause; dec %ecx; jnz 1b; hlt");

/* A vCPU that waits in a loop stays in translated code. */
static void test_counts_of_a_wait(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);

	load_at(vcpu, GUEST_CODE, wait_loop_start, wait_loop_end);
	(void)run_from(vcpu, GUEST_CODE);
	assert_int_equal(counts->interpreted + counts->translated, 1 + 3 * CALLS + 1);
	if (counts->units)
		assert_true(counts->translated > 3 * CALLS * 99 / 100);
}

/*
 * What is read and the stack are in pages of one set of the fast TLB, which can hold either: an
 * instruction that touches both gets on all the same.
 */
PROGRAM(call_loop, "mov $1000, %ecx; xor %eax, %eax; 1: call *0x30000; dec %ecx; jnz 1b; hlt");
PROGRAM(increment, "inc %rax; ret");
PROGRAM(push_loop, "mov $1000, %ecx; xor %eax, %eax; 1: push 0x30000; pop %rdx; add %rdx, %rax;"
		   "dec %ecx; jnz 1b; hlt");

static void test_two_pages_of_one_set(void **state)
{
	const uint64_t target = GUEST_CODE + PAGE, value = 3;
	struct quire_vcpu *vcpu = *state;

	/* So far up, the second 2 MiB of RAM once more. */
	memcpy(vcpu->vm->ram + GUEST_PD + FAST_SETS / 512 * 8, vcpu->vm->ram + GUEST_PD + 8, 8);
	cpu_state(vcpu->cpu)->gpr[CPU_RSP] = GUEST_DATA + FAST_SETS * PAGE + 0x800;
	alarm(60);
	load_at(vcpu, GUEST_CODE, call_loop_start, call_loop_end);
	load_at(vcpu, target, increment_start, increment_end);
	memcpy(vcpu->vm->ram + GUEST_DATA, &target, sizeof(target));
	assert_int_equal(run_from(vcpu, GUEST_CODE), 1000);
	load_at(vcpu, GUEST_CODE, push_loop_start, push_loop_end);
	memcpy(vcpu->vm->ram + GUEST_DATA, &value, sizeof(value));
	assert_int_equal(run_from(vcpu, GUEST_CODE), 1000 * value);
	alarm(0);
}

/*
 * What 64-bit code has called by its address, 32-bit code comes to by a far return: the same bytes
 * are other instructions there, and a far return goes on in translated code where it can.
 */
PROGRAM(narrow, "xor %eax, %eax; mov $3, %edi; 1: mov $0x11000, %esi; call *%rsi; dec %edi; jnz 1b;"
		"mov $0x12000, %ecx; push %rcx; mov $0x30, %ecx; push %rcx; push %rsi; lretq");
PROGRAM(inc_or_nothing, ".byte 0x48, 0xff, 0xc0; ret"); /* inc %rax; or dec %eax, inc %eax */
PROGRAM(halt, "hlt");

static void test_code_of_another_mode(void **state)
{
	static const uint64_t descriptor = UINT64_C(0x00cf9b000000ffff);
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	const struct cpu_segment wide = s->seg[CPU_CS];

	memcpy(vcpu->vm->ram + GUEST_GDT + SELECTOR_CODE32, &descriptor, sizeof(descriptor));
	load_at(vcpu, GUEST_CODE, narrow_start, narrow_end);
	load_at(vcpu, GUEST_CODE + PAGE, inc_or_nothing_start, inc_or_nothing_end);
	load_at(vcpu, GUEST_CODE + 2 * PAGE, halt_start, halt_end);
	/* The first time the descriptor's page is not mapped, and the return begins anew. */
	for (unsigned int i = 0; i < 2; i++) {
		s->seg[CPU_CS] = wide;
		assert_int_equal(run_from(vcpu, GUEST_CODE), 3);
		assert_int_equal(s->rip, GUEST_CODE + 2 * PAGE + 1);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fake_vcpu_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_compares_by_page),     TEST(test_client_changes_a_line),
	    TEST(test_client_changes_data),  TEST(test_alias_is_seen_at_once),
	    TEST(test_crossing_instruction), TEST(test_crossing_remapped),
	    TEST(test_crossing_feature),     TEST(test_counts_of_a_loop),
	    TEST(test_counts_of_a_wait),     TEST(test_client_changes_a_called_page),
	    TEST(test_two_pages_of_one_set), TEST(test_code_of_another_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
