/*
 * A guest that goes round as many pages as the TLB of translated code has sets, and round a few far
 * from one another: what each kind of flush drops of them. And the first and the last page of the
 * address space, whose sets have empty entries of their own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/cpu.h"
#include "vcpu/translate/fast.h"

#define PROGRAM(name, code)                                                            \
	__asm__(".pushsection .rodata\n.balign 64\n" #name "_start:\n" code "\n" #name \
		"_end:\n.popsection\n");                                               \
	extern const uint8_t name##_start[], name##_end[]

#define PAGE UINT64_C(4096)
#define ENTRIES 512u
#define PTE_FLAGS UINT64_C(0x67)
#define PTE_GLOBAL UINT64_C(0x100)
#define CR4_PGE UINT64_C(0x80)
/* Each directory entry from this one on leads to the same table, whose frames are of 2 MiB. */
#define WIDE_FIRST 32u
#define WIDE_PAGES FAST_SETS
#define FRAMES PAGED_LINEAR

static int setup(void **state)
{
	struct quire_vcpu *vcpu = fake_vcpu_create(fake_vm_create());

	cpu_state(vcpu->cpu)->cr4 |= CR4_PGE;
	*state = vcpu;
	return 0;
}

static void put64(struct quire_vcpu *vcpu, uint64_t gpa, uint64_t value)
{
	memcpy(vcpu->vm->ram + gpa, &value, sizeof(value));
}

static uint64_t get64(const struct quire_vcpu *vcpu, uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, vcpu->vm->ram + gpa, sizeof(value));
	return value;
}

/* Each page of the table is the frame @turn further on. */
static void map_turned(struct quire_vcpu *vcpu, unsigned int turn, uint64_t flags)
{
	for (unsigned int i = 0; i < ENTRIES; i++)
		put64(vcpu, GUEST_PT + i * 8,
		      (FRAMES + (i + turn) % ENTRIES * PAGE) | PTE_FLAGS | flags);
}

static void build_wide(struct quire_vcpu *vcpu, uint64_t flags)
{
	for (unsigned int i = 0; i < WIDE_PAGES / ENTRIES; i++)
		put64(vcpu, GUEST_PD + (WIDE_FIRST + i) * 8, GUEST_PT | PTE_FLAGS);
	for (unsigned int i = 0; i < ENTRIES; i++) {
		put64(vcpu, FRAMES + i * PAGE, i + 1);
		put64(vcpu, FRAMES + i * PAGE + 8, 0);
	}
	map_turned(vcpu, 0, flags);
}

#define REPEATS 20u

/* Which pages are gone round. */
static const struct way {
	unsigned int count, step;
} ways[] = {
    {WIDE_PAGES, 1},
    {3, 5000}, /* in words far from one another of what tells which sets are in use */
};

/* What going round makes of the frames, in the order of the pages. */
static uint64_t expected_sum(const struct way *way, unsigned int turn)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < way->count; i++)
		sum = sum * 3 + (i * way->step + turn) % ENTRIES + 1;
	return sum;
}

/* R10 pages, R8 bytes from one to the next, R9 times: a sum of what they hold; each is written to
 * as well. */
#define GO_ROUND                                                                                \
	"3: mov $0x4000000, %esi; xor %eax, %eax; mov %r10d, %edi; 1: lea (%rax,%rax,2), %rax;" \
	"add (%rsi), %rax; incq 8(%rsi); add %r8, %rsi; dec %edi; jnz 1b; dec %r9d; jnz 3b; hlt"
PROGRAM(go_round, GO_ROUND);
PROGRAM(after_cr3, "mov %cr3, %rdx; mov %rdx, %cr3;" GO_ROUND);
PROGRAM(after_cr4, "mov %cr4, %rdx; xor $0x80, %rdx; mov %rdx, %cr4; xor $0x80, %rdx;"
		   "mov %rdx, %cr4;" GO_ROUND);
PROGRAM(after_invlpg, "mov %r10d, %ecx; mov $0x4000000, %esi; 2: invlpg (%rsi);"
		      "add %r8, %rsi; dec %ecx; jnz 2b;" GO_ROUND);

static const struct flush_case {
	const uint8_t *start, *end;
	uint64_t flags;
	int zaps; /* the library asks for the flush */
} flush_cases[] = {
    {after_cr3_start, after_cr3_end, 0, 0},
    {after_cr4_start, after_cr4_end, PTE_GLOBAL, 0},
    {after_invlpg_start, after_invlpg_end, 0, 0},
    {after_invlpg_start, after_invlpg_end, PTE_GLOBAL, 0},
    {go_round_start, go_round_end, PTE_GLOBAL, 1},
};

static void expect_sum(struct quire_vcpu *vcpu, const struct flush_case *c, const struct way *way,
		       unsigned int turn)
{
	uint64_t *gpr = cpu_state(vcpu->cpu)->gpr;

	gpr[8] = way->step * PAGE;
	gpr[9] = way->step == 1 ? 2 : REPEATS;
	gpr[10] = way->count;
	assert_int_equal(fake_vcpu_run(vcpu, c->start, c->end), CPU_EXIT_HLT);
	assert_int_equal(gpr[CPU_RAX], expected_sum(way, turn));
}

static void test_flushes(void **state)
{
	static const struct flush_case all = {after_cr4_start, after_cr4_end, 0, 0};
	struct quire_vcpu *vcpu = *state;
	unsigned int turn = 0, dense = 0;

	build_wide(vcpu, 0);
	for (unsigned int i = 0; i < 2 * sizeof(flush_cases) / sizeof(flush_cases[0]); i++) {
		const struct flush_case *c = &flush_cases[i / 2];
		const struct way *way = &ways[i % 2];

		map_turned(vcpu, ++turn, c->flags);
		expect_sum(vcpu, &all, way, turn);
		map_turned(vcpu, ++turn, c->flags);
		if (c->zaps)
			fake_vm_zap(vcpu->vm, vcpu);
		expect_sum(vcpu, c, way, turn);
		dense += way->step == 1 ? 4 : 0;
	}
	/* Each frame was written to as often as it was gone round, and those of few pages more. */
	for (unsigned int i = 0; i < ENTRIES; i++)
		assert_true(get64(vcpu, FRAMES + i * PAGE + 8) >= dense * WIDE_PAGES / ENTRIES);
}

/* What becomes code while many pages can be written to: each later store to it is seen. */
PROGRAM(store_to_code,
	"xor %ebx, %ebx; mov $20, %r9d; 2: mov $0x4000000, %esi; mov $30, %edi;"
	"1: lea (%rdi,%r9), %ecx; mov %ecx, 0x801(%rsi); lea 0x800(%rsi), %rdx; call *%rdx;"
	"add %rax, %rbx; add $0x1fb000, %rsi; dec %edi; jnz 1b; dec %r9d; jnz 2b; hlt");

static void test_becomes_code(void **state)
{
	static const struct flush_case all = {after_cr4_start, after_cr4_end, 0, 0};
	struct quire_vcpu *vcpu = *state;

	build_wide(vcpu, 0);
	for (unsigned int i = 0; i < ENTRIES; i++)
		memcpy(vcpu->vm->ram + FRAMES + i * PAGE + 0x800, "\xb8\0\0\0\0\xc3", 6);
	expect_sum(vcpu, &all, &ways[0], 0);
	assert_int_equal(fake_vcpu_run(vcpu, store_to_code_start, store_to_code_end), CPU_EXIT_HLT);
	/* Of 30 pages, 30 .. 1, with 20 .. 1 in 20 turns. */
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RBX], 20 * 465 + 30 * 210);
}

/* The first page is read, and read again after the tables have changed. */
PROGRAM(first_page, "mov $40, %edi; 1: mov %cr3, %rax; mov %rax, %cr3; mov 0x10, %rcx;"
		    "mov %rcx, %rdx; mov %rdx, %rbx; dec %edi; jnz 1b; hlt");

static void test_first_page(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const uint64_t table = FRAMES;

	/* The first 2 MiB in small pages, so that the first can be another one. */
	for (unsigned int i = 0; i < ENTRIES; i++)
		put64(vcpu, table + i * 8, i * PAGE | PTE_FLAGS);
	put64(vcpu, GUEST_PD, table | PTE_FLAGS);
	put64(vcpu, 0x10, 0x1111);
	put64(vcpu, GUEST_DATA + 0x10, 0x2222);
	assert_int_equal(fake_vcpu_run(vcpu, first_page_start, first_page_end), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], 0x1111);
	put64(vcpu, table, GUEST_DATA | PTE_FLAGS);
	assert_int_equal(fake_vcpu_run(vcpu, first_page_start, first_page_end), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], 0x2222);
}

/*
 * A load of the last four bytes and of the first four. The last page is the highest table itself,
 * by way of its last entry.
 */
PROGRAM(wraps, "mov $40, %edi; 1: mov 0xfffffffffffffff0, %rdx; mov %cr3, %rax; mov %rax, %cr3;"
	       "mov 0xfffffffffffffffc, %rcx; mov %rcx, %rbx; mov %rbx, %rsi; mov %rsi, %rbp;"
	       "dec %edi; jnz 1b; hlt");

static void test_last_page(void **state)
{
	static const uint32_t low = 0x12345678, high = 0x00500000;
	struct quire_vcpu *vcpu = *state;

	put64(vcpu, GUEST_PML4 + 511 * 8, (uint64_t)high << 32 | GUEST_PML4 | PTE_FLAGS);
	put64(vcpu, 0, low);
	assert_int_equal(fake_vcpu_run(vcpu, wraps_start, wraps_end), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RBX], (uint64_t)low << 32 | high);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fake_vcpu_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_flushes),
	    TEST(test_becomes_code),
	    TEST(test_first_page),
	    TEST(test_last_page),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
