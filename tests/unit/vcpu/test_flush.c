/*
 * What a write to CR3, INVLPG and INVPCID drop of what the CPU remembers of page tables, and what
 * they keep, of the PCID in CR3 and of others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/mem/tlb.h"

#define PROGRAM(name, code)                                                            \
	__asm__(".pushsection .rodata\n.balign 64\n" #name "_start:\n" code "\n" #name \
		"_end:\n.popsection\n");                                               \
	extern const uint8_t name##_start[], name##_end[]

#define PAGE UINT64_C(4096)
#define GLOBAL_LINEAR (PAGED_LINEAR + 8 * PAGE)
#define LOCAL_LINEAR (PAGED_LINEAR + 9 * PAGE)
#define PTE_FLAGS UINT64_C(0x67)
#define PTE_DIRTY UINT64_C(0x40)
#define PTE_GLOBAL UINT64_C(0x100)
#define PDE_LARGE UINT64_C(0x80)
#define CR4_PGE UINT64_C(0x80)
#define CR4_PCIDE (UINT64_C(1) << 17)
/* What the pages hold, and those that come in their place. */
#define FIRST(n) (0x100u + (n))
#define SECOND(n) (0x200u + (n))
#define LARGE_LINEAR UINT64_C(0x200000)
#define LARGE_OTHER UINT64_C(0x600000)
#define IN_LARGE UINT64_C(0x123000)
/* An empty table. */
#define GUEST_DIRECTORY 0x40000u

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

static void map(struct quire_vcpu *vcpu, uint64_t linear, uint64_t gpa, uint64_t flags)
{
	put64(vcpu, GUEST_PT + (linear - PAGED_LINEAR) / PAGE * 8, gpa | PTE_FLAGS | flags);
}

static void run_program(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + GUEST_CODE, start, (size_t)(end - start));
	s->rip = GUEST_CODE;
	s->halted = 0;
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_HLT);
}

static void expect(struct quire_vcpu *vcpu, uint64_t rcx, uint64_t rdx)
{
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], rcx);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RDX], rdx);
}

/* Twice over, so that each table that remembers has it: what is at 0x408000 and at 0x409000. */
PROGRAM(reload, "mov $2, %edi; mov %cr3, %rax; mov %rax, %cr3;"
		"1: mov 0x408000, %ecx; mov 0x409000, %edx; dec %edi; jnz 1b; hlt");

/* Data: a global translation outlasts CR3, though the table says something else by then. */
static void test_cr3_keeps_global_data(void **state)
{
	struct quire_vcpu *vcpu = *state;

	for (uint32_t n = 0; n < 2; n++) {
		put64(vcpu, GLOBAL_LINEAR + n * PAGE, FIRST(n));
		put64(vcpu, GLOBAL_LINEAR + (n + 2) * PAGE, SECOND(n));
	}
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR, PTE_GLOBAL);
	run_program(vcpu, reload_start, reload_end);
	run_program(vcpu, reload_start, reload_end);
	expect(vcpu, FIRST(0), FIRST(1));
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR + 2 * PAGE, PTE_GLOBAL);
	map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR + 2 * PAGE, 0);
	run_program(vcpu, reload_start, reload_end);
	expect(vcpu, FIRST(0), SECOND(1));
}

/* The same of code: what is called at 0x408000 and at 0x409000. */
PROGRAM(recall, "mov $2, %edi; mov %cr3, %rax; mov %rax, %cr3; 1: mov $0x408000, %esi; call *%rsi;"
		"mov %eax, %ecx; mov $0x409000, %esi; call *%rsi; mov %eax, %edx;"
		"dec %edi; jnz 1b; hlt");

/* mov $@value, %eax; ret */
static void put_function(struct quire_vcpu *vcpu, uint64_t gpa, uint32_t value)
{
	uint8_t code[6] = {0xb8, 0, 0, 0, 0, 0xc3};

	memcpy(code + 1, &value, sizeof(value));
	memcpy(vcpu->vm->ram + gpa, code, sizeof(code));
}

static void test_cr3_keeps_global_code(void **state)
{
	struct quire_vcpu *vcpu = *state;

	for (uint32_t n = 0; n < 2; n++) {
		put_function(vcpu, GLOBAL_LINEAR + n * PAGE, FIRST(n));
		put_function(vcpu, GLOBAL_LINEAR + (n + 2) * PAGE, SECOND(n));
	}
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR, PTE_GLOBAL);
	run_program(vcpu, recall_start, recall_end);
	run_program(vcpu, recall_start, recall_end);
	expect(vcpu, FIRST(0), FIRST(1));
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR + 2 * PAGE, PTE_GLOBAL);
	map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR + 2 * PAGE, 0);
	run_program(vcpu, recall_start, recall_end);
	expect(vcpu, FIRST(0), SECOND(1));
}

/* INVLPG of one address of 2 MiB drops what is remembered of another one, of data and of code. */
PROGRAM(large,
	"mov $2, %edi; invlpg 0x200000; 1: mov 0x323000, %ecx; mov $0x323010, %esi; call *%rsi;"
	"mov %eax, %edx; dec %edi; jnz 1b; hlt");

static void test_invlpg_drops_large_page(void **state)
{
	struct quire_vcpu *vcpu = *state;

	put64(vcpu, LARGE_LINEAR + IN_LARGE, FIRST(0));
	put_function(vcpu, LARGE_LINEAR + IN_LARGE + 16, FIRST(1));
	put64(vcpu, LARGE_OTHER + IN_LARGE, SECOND(0));
	put_function(vcpu, LARGE_OTHER + IN_LARGE + 16, SECOND(1));
	run_program(vcpu, large_start, large_end);
	run_program(vcpu, large_start, large_end);
	expect(vcpu, FIRST(0), FIRST(1));
	put64(vcpu, GUEST_PD + 8, LARGE_OTHER | PTE_FLAGS | PDE_LARGE);
	run_program(vcpu, large_start, large_end);
	expect(vcpu, SECOND(0), SECOND(1));
}

/* The same of 4 KiB, between large pages; and of 1 GiB, by an address far from what is remembered.
 */
PROGRAM(small,
	"mov $2, %edi; invlpg 0x408000; 1: mov 0x408000, %ecx; mov $0x408010, %esi; call *%rsi;"
	"mov %eax, %edx; dec %edi; jnz 1b; hlt");
PROGRAM(gigantic, "mov $2, %edi; invlpg 0x40000000; 1: mov 0x40723000, %ecx;"
		  "mov $0x40723010, %esi; call *%rsi; mov %eax, %edx; dec %edi; jnz 1b; hlt");

static void put_both(struct quire_vcpu *vcpu, uint64_t gpa, uint32_t data, uint32_t code)
{
	put64(vcpu, gpa, data);
	put_function(vcpu, gpa + 16, code);
}

static void test_invlpg_drops_small_page(void **state)
{
	struct quire_vcpu *vcpu = *state;

	put_both(vcpu, GLOBAL_LINEAR, FIRST(0), FIRST(1));
	put_both(vcpu, LOCAL_LINEAR, SECOND(0), SECOND(1));
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR, PTE_GLOBAL);
	run_program(vcpu, small_start, small_end);
	run_program(vcpu, small_start, small_end);
	expect(vcpu, FIRST(0), FIRST(1));
	map(vcpu, GLOBAL_LINEAR, LOCAL_LINEAR, PTE_GLOBAL);
	run_program(vcpu, small_start, small_end);
	expect(vcpu, SECOND(0), SECOND(1));
}

static void test_invlpg_drops_gigantic_page(void **state)
{
	struct quire_vcpu *vcpu = *state;

	put_both(vcpu, 0x723000, FIRST(0), FIRST(1));
	put_both(vcpu, 0x323000, SECOND(0), SECOND(1));
	put64(vcpu, GUEST_PDPT + 8, PTE_FLAGS | PDE_LARGE);
	run_program(vcpu, gigantic_start, gigantic_end);
	run_program(vcpu, gigantic_start, gigantic_end);
	expect(vcpu, FIRST(0), FIRST(1));
	/* 1 GiB becomes pages of 2 MiB, and the fourth one leads elsewhere. */
	put64(vcpu, GUEST_DIRECTORY + 24, LARGE_LINEAR | PTE_FLAGS | PDE_LARGE);
	put64(vcpu, GUEST_PDPT + 8, GUEST_DIRECTORY | PTE_FLAGS);
	run_program(vcpu, gigantic_start, gigantic_end);
	expect(vcpu, SECOND(0), SECOND(1));
}

/* Of 4 KiB, while 1 GiB elsewhere is cached: the page beside it stays. */
PROGRAM(read_gigantic, "mov $2, %edi; 1: mov 0x40723000, %eax; mov 0x408000, %ecx;"
		       "mov 0x409000, %edx; dec %edi; jnz 1b; hlt");
PROGRAM(small_alone, "invlpg 0x408000; mov 0x408000, %ecx; mov 0x409000, %edx; hlt");

static void test_invlpg_keeps_beside_gigantic(void **state)
{
	struct quire_vcpu *vcpu = *state;

	for (uint32_t n = 0; n < 2; n++) {
		put64(vcpu, GLOBAL_LINEAR + n * PAGE, FIRST(n));
		put64(vcpu, GLOBAL_LINEAR + (n + 2) * PAGE, SECOND(n));
	}
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR, 0);
	map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR, 0);
	put64(vcpu, GUEST_PDPT + 8, PTE_FLAGS | PDE_LARGE);
	run_program(vcpu, read_gigantic_start, read_gigantic_end);
	expect(vcpu, FIRST(0), FIRST(1));
	map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR + 2 * PAGE, 0);
	map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR + 2 * PAGE, 0);
	run_program(vcpu, small_alone_start, small_alone_end);
	expect(vcpu, SECOND(0), FIRST(1));
}

/* Pieces of a large page that were read say nothing of its D bit, which the first write sets. */
PROGRAM(written, "mov 0x200000, %ecx; mov 0x201000, %ecx; movl $7, 0x202000; mov 0x203000, %edx;"
		 "movl $8, 0x204000; hlt");

static void test_write_marks_large_page(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const uint64_t clean = LARGE_LINEAR | (PTE_FLAGS & ~PTE_DIRTY) | PDE_LARGE;
	uint64_t entry;

	for (int i = 0; i < 2; i++) {
		put64(vcpu, GUEST_PD + 8, clean);
		run_program(vcpu, reload_start, reload_end);
		run_program(vcpu, written_start, written_end);
		memcpy(&entry, vcpu->vm->ram + GUEST_PD + 8, sizeof(entry));
		assert_int_equal(entry, clean | PTE_DIRTY);
	}
}

/* A write to CR3 drops what is remembered of a large page that is not global. */
PROGRAM(reload_large, "mov $2, %edi; mov %cr3, %rax; mov %rax, %cr3;"
		      "1: mov 0x323000, %ecx; mov 0x40723000, %edx; dec %edi; jnz 1b; hlt");

static void test_cr3_drops_large_pages(void **state)
{
	struct quire_vcpu *vcpu = *state;

	put64(vcpu, LARGE_LINEAR + IN_LARGE, FIRST(0));
	put64(vcpu, LARGE_OTHER + IN_LARGE, SECOND(0));
	put64(vcpu, GUEST_PDPT + 8, PTE_FLAGS | PDE_LARGE);
	run_program(vcpu, reload_large_start, reload_large_end);
	expect(vcpu, FIRST(0), SECOND(0));
	put64(vcpu, GUEST_PD + 8, LARGE_OTHER | PTE_FLAGS | PDE_LARGE);
	put64(vcpu, GUEST_PDPT + 8, GUEST_DIRECTORY | PTE_FLAGS);
	put64(vcpu, GUEST_DIRECTORY + 24, LARGE_LINEAR | PTE_FLAGS | PDE_LARGE);
	run_program(vcpu, reload_large_start, reload_large_end);
	expect(vcpu, SECOND(0), FIRST(0));
	put64(vcpu, GUEST_DIRECTORY + 24, PTE_FLAGS | PDE_LARGE | LARGE_LINEAR << 1);
	put64(vcpu, LARGE_LINEAR * 2 + IN_LARGE, FIRST(1));
	run_program(vcpu, reload_large_start, reload_large_end);
	expect(vcpu, SECOND(0), FIRST(1));
}

/* In 32-bit code the sum of base and offset has 32 bits, for INVLPG as for a load. */
__asm__(".pushsection .rodata\n.code32\nwrapped_start: invlpg 0x409000; mov 0x409000, %ecx; hlt\n"
	"wrapped_end:\n.code64\n.popsection\n");
extern const uint8_t wrapped_start[], wrapped_end[];

static void test_invlpg_wraps(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_segment *seg = cpu_state(vcpu->cpu)->seg;

	seg[CPU_CS].l = 0;
	seg[CPU_CS].db = 1;
	seg[CPU_CS].limit = UINT32_MAX;
	seg[CPU_DS] = (struct cpu_segment){
	    .base = 0xfffff000, .limit = UINT32_MAX, .type = 3, .s = 1, .present = 1, .db = 1};
	put64(vcpu, GLOBAL_LINEAR, FIRST(0));
	put64(vcpu, LOCAL_LINEAR, SECOND(0));
	run_program(vcpu, wrapped_start, wrapped_end);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], FIRST(0));
	map(vcpu, GLOBAL_LINEAR, LOCAL_LINEAR, 0);
	run_program(vcpu, wrapped_start, wrapped_end);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], SECOND(0));
}

PROGRAM(drop, "mov $2, %edi; mov 0x30000, %rax; invpcid 0x30010, %rax;"
	      "1: mov 0x408000, %ecx; mov 0x409000, %edx; dec %edi; jnz 1b; hlt");

static const struct invpcid_case {
	uint64_t type, pcid, linear;
	uint8_t drops_global, drops_local;
} invpcid_cases[] = {
    {0, 5, LOCAL_LINEAR, 0, 1},
    {0, 6, LOCAL_LINEAR, 0, 0},
    {1, 5, 0, 0, 1},
    {1, 6, 0, 0, 0},
    {2, 6, 0, 1, 1},
    {3, 6, 0, 0, 1},
};

static void run_invpcid(struct quire_vcpu *vcpu, const struct invpcid_case *c)
{
	put64(vcpu, GUEST_DATA, c->type);
	put64(vcpu, GUEST_DATA + 16, c->pcid);
	put64(vcpu, GUEST_DATA + 24, c->linear);
	run_program(vcpu, drop_start, drop_end);
}

/* INVPCID drops what it names of the PCID in CR3, and keeps the rest. */
static void test_invpcid(void **state)
{
	static const struct invpcid_case all = {.type = 2};
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->cr3 |= 5;
	s->cr4 |= CR4_PCIDE;
	for (uint32_t n = 0; n < 2; n++) {
		put64(vcpu, GLOBAL_LINEAR + n * PAGE, FIRST(n));
		put64(vcpu, GLOBAL_LINEAR + (n + 2) * PAGE, SECOND(n));
	}
	for (size_t i = 0; i < sizeof(invpcid_cases) / sizeof(invpcid_cases[0]); i++) {
		const struct invpcid_case *c = &invpcid_cases[i];

		map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR, PTE_GLOBAL);
		map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR, 0);
		run_invpcid(vcpu, &all);
		run_invpcid(vcpu, &all);
		expect(vcpu, FIRST(0), FIRST(1));
		map(vcpu, GLOBAL_LINEAR, GLOBAL_LINEAR + 2 * PAGE, PTE_GLOBAL);
		map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR + 2 * PAGE, 0);
		run_invpcid(vcpu, c);
		expect(vcpu, c->drops_global ? SECOND(0) : FIRST(0),
		       c->drops_local ? SECOND(1) : FIRST(1));
	}
}

/* What it refuses. Without PCIDs there is the one with the number 0. */
static void test_invpcid_refuses(void **state)
{
	static const struct invpcid_case refused[] = {
	    {.type = 4},
	    {.type = 2, .pcid = 0x1000},
	    {.linear = UINT64_C(1) << 56},
	    {.type = 0, .pcid = 1},
	    {.type = 1, .pcid = 1},
	};
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		run_invpcid(vcpu, &refused[i]);
		assert_int_equal(s->rip, GUEST_HANDLERS + 13 * 16 + 1);
	}
	run_invpcid(vcpu, &(struct invpcid_case){.type = 3, .pcid = 1});
	assert_int_equal(s->rip, GUEST_CODE + (uint64_t)(drop_end - drop_start));
}

/* What each instruction counts, besides what a run of nothing does. */
PROGRAM(none, "nop; hlt");
PROGRAM(to_cr0, "mov %cr0, %rax; mov %rax, %cr0; hlt");
PROGRAM(to_cr2, "mov %rax, %cr2; hlt");
PROGRAM(to_cr3, "mov %cr3, %rax; mov %rax, %cr3; hlt");
PROGRAM(to_cr4, "mov %cr4, %rax; mov %rax, %cr4; hlt");
PROGRAM(to_dr3, "mov %rax, %dr3; hlt");
PROGRAM(one_page, "invlpg 0x408000; hlt");
PROGRAM(to_gdt, "sgdt 0x30000; lgdt 0x30000; hlt");
PROGRAM(to_ldt, "xor %eax, %eax; lldt %ax; hlt");
PROGRAM(caches, "wbinvd; hlt");
PROGRAM(identity, "xor %eax, %eax; cpuid; hlt");
PROGRAM(exception, "ud2");
PROGRAM(interrupt, "int $0x1f");
PROGRAM(returned, "mov %rsp, %rax; mov %ss, %ecx; push %rcx; push %rax; pushf; mov %cs, %ecx;"
		  "push %rcx; lea 1f(%rip), %rcx; push %rcx; iretq; 1: hlt");

static void test_events_are_counted_once(void **state)
{
	static const struct {
		const uint8_t *start, *end;
		uint64_t serialisations, flushes;
	} rows[] = {
#define ROW(name, serialisations, flushes) {name##_start, name##_end, serialisations, flushes}
	    ROW(none, 0, 0),	  ROW(to_cr0, 1, 0),   ROW(to_cr2, 1, 0),   ROW(to_cr3, 1, 1),
	    ROW(to_cr4, 1, 1),	  ROW(to_dr3, 1, 0),   ROW(one_page, 1, 1), ROW(to_gdt, 1, 0),
	    ROW(to_ldt, 1, 0),	  ROW(caches, 1, 0),   ROW(identity, 1, 0), ROW(exception, 0, 0),
	    ROW(interrupt, 1, 0), ROW(returned, 1, 0),
#undef ROW
	};
	struct quire_vcpu *vcpu = *state;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);
	struct cpu_counts before, none;

	run_program(vcpu, none_start, none_end);
	before = *counts;
	run_program(vcpu, none_start, none_end);
	none = *counts;
	none.serialisations -= before.serialisations;
	none.flushes -= before.flushes;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		before = *counts;
		run_program(vcpu, rows[i].start, rows[i].end);
		assert_int_equal(counts->serialisations - before.serialisations,
				 none.serialisations + rows[i].serialisations);
		assert_int_equal(counts->flushes - before.flushes, none.flushes + rows[i].flushes);
	}
}

/*
 * Two address spaces with tables of their own: what 0x409000 is in the first one, what it becomes
 * there, and what it is in the second one.
 */
#define CR3_KEEP (UINT64_C(1) << 63)
#define OTHER_PML4 UINT64_C(0x51000)
#define OTHER_PDPT UINT64_C(0x52000)
#define OTHER_PD UINT64_C(0x53000)
#define OTHER_PT UINT64_C(0x54000)
#define FIRST_CR3 ((uint64_t)GUEST_PML4 | 1)
#define SECOND_CR3 (OTHER_PML4 | 2)
#define CHANGED_GPA (LOCAL_LINEAR + 2 * PAGE)
#define OTHER_GPA (LOCAL_LINEAR + 4 * PAGE)
#define OTHER(n) (0x300u + (n))

static int setup_spaces(void **state)
{
	int result = setup(state);
	struct quire_vcpu *vcpu = *state;

	vcpu->cpuid = fake_cpuid_with_pcid;
	cpu_state(vcpu->cpu)->cr4 |= CR4_PCIDE;
	put64(vcpu, OTHER_PML4, OTHER_PDPT | PTE_FLAGS);
	put64(vcpu, OTHER_PDPT, OTHER_PD | PTE_FLAGS);
	memcpy(vcpu->vm->ram + OTHER_PD, vcpu->vm->ram + GUEST_PD, 32);
	put64(vcpu, OTHER_PD + 16, OTHER_PT | PTE_FLAGS);
	memcpy(vcpu->vm->ram + OTHER_PT, vcpu->vm->ram + GUEST_PT, PAGE);
	put64(vcpu, OTHER_PT + (LOCAL_LINEAR - PAGED_LINEAR) / PAGE * 8, OTHER_GPA | PTE_FLAGS);
	put_both(vcpu, LOCAL_LINEAR, FIRST(0), FIRST(1));
	put_both(vcpu, CHANGED_GPA, SECOND(0), SECOND(1));
	put_both(vcpu, OTHER_GPA, OTHER(0), OTHER(1));
	return result;
}

/* CR3 becomes what is at 0x30000; then data and code of 0x409000. */
PROGRAM(look, "mov 0x30000, %rax; mov %rax, %cr3; mov $2, %edi; 1: mov 0x409000, %ecx;"
	      "mov $0x409010, %esi; call *%rsi; mov %eax, %edx; dec %edi; jnz 1b; hlt");

static void look(struct quire_vcpu *vcpu, uint64_t cr3)
{
	put64(vcpu, GUEST_DATA, cr3);
	run_program(vcpu, look_start, look_end);
	assert_int_equal(cpu_state(vcpu->cpu)->cr3, cr3 & ~CR3_KEEP);
}

/* The first space is in use, then the second one, and 0x409000 of the first one changes. */
static void leave_space(struct quire_vcpu *vcpu)
{
	map(vcpu, LOCAL_LINEAR, LOCAL_LINEAR, 0);
	look(vcpu, FIRST_CR3);
	expect(vcpu, FIRST(0), FIRST(1));
	look(vcpu, SECOND_CR3 | CR3_KEEP);
	expect(vcpu, OTHER(0), OTHER(1));
	map(vcpu, LOCAL_LINEAR, CHANGED_GPA, 0);
}

/* What happens in the second space, and what it leaves of the first one. */
PROGRAM(invalidate, "mov 0x30008, %rax; invpcid 0x30010, %rax; hlt");
PROGRAM(drop_page, "invlpg 0x409000; hlt");
PROGRAM(drop_own, "mov %cr3, %rax; mov %rax, %cr3; hlt");
PROGRAM(turn_pge, "mov %cr4, %rax; xor $0x80, %al; mov %rax, %cr4; xor $0x80, %al;"
		  "mov %rax, %cr4; hlt");
PROGRAM(turn_pcide, "mov $0x51000, %eax; mov %rax, %cr3; mov %cr4, %rax; btc $17, %rax;"
		    "mov %rax, %cr4; btc $17, %rax; mov %rax, %cr4; hlt");
PROGRAM(turn_wp, "mov %cr0, %rax; btc $16, %rax; mov %rax, %cr0; btc $16, %rax;"
		 "mov %rax, %cr0; hlt");
PROGRAM(turn_nxe, "mov $0xc0000080, %ecx; rdmsr; btc $11, %eax; wrmsr; btc $11, %eax; wrmsr; hlt");

static void test_pcid_survives(void **state)
{
	static const struct {
		const uint8_t *start, *end;
		int survives;
		uint64_t words[3]; /* of INVPCID: type, PCID, linear address */
	} rows[] = {
#define ROW(name, survives, ...)                    \
	{                                           \
		name##_start, name##_end, survives, \
		{                                   \
			__VA_ARGS__                 \
		}                                   \
	}
	    ROW(none, 1, 0),
	    ROW(drop_page, 1, 0),
	    ROW(drop_own, 1, 0),
	    ROW(invalidate, 1, 0, 2, LOCAL_LINEAR),
	    ROW(invalidate, 1, 0, 3, LOCAL_LINEAR),
	    ROW(invalidate, 1, 0, 1, GLOBAL_LINEAR),
	    ROW(invalidate, 0, 0, 1, LOCAL_LINEAR),
	    ROW(invalidate, 1, 1, 2),
	    ROW(invalidate, 1, 1, 3),
	    ROW(invalidate, 0, 1, 1),
	    ROW(invalidate, 0, 2),
	    ROW(invalidate, 0, 3),
	    ROW(turn_pge, 0, 0),
	    ROW(turn_pcide, 0, 0),
	    ROW(turn_wp, 0, 0),
	    ROW(turn_nxe, 0, 0),
#undef ROW
	};
	struct quire_vcpu *vcpu = *state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int survives = rows[i].survives;

		leave_space(vcpu);
		memcpy(vcpu->vm->ram + GUEST_DATA + 8, rows[i].words, sizeof(rows[i].words));
		run_program(vcpu, rows[i].start, rows[i].end);
		assert_int_equal(cpu_state(vcpu->cpu)->rip,
				 GUEST_CODE + (uint64_t)(rows[i].end - rows[i].start));
		look(vcpu, FIRST_CR3 | CR3_KEEP);
		expect(vcpu, survives ? FIRST(0) : SECOND(0), survives ? FIRST(1) : SECOND(1));
	}
}

/* The write to CR3 that returns decides: without bit 63 its PCID begins anew. */
static void test_pcid_begins_anew(void **state)
{
	struct quire_vcpu *vcpu = *state;

	leave_space(vcpu);
	look(vcpu, FIRST_CR3);
	expect(vcpu, SECOND(0), SECOND(1));
	/* What the second space had is still there, though its table has changed. */
	put64(vcpu, OTHER_PT + (LOCAL_LINEAR - PAGED_LINEAR) / PAGE * 8, CHANGED_GPA | PTE_FLAGS);
	look(vcpu, SECOND_CR3 | CR3_KEEP);
	expect(vcpu, OTHER(0), OTHER(1));
}

/* Other tables under the same PCID, from another one and from itself; and new ones by the client.
 */
static void test_pcid_with_other_tables(void **state)
{
	struct quire_vcpu *vcpu = *state;

	leave_space(vcpu);
	look(vcpu, OTHER_PML4 | 1 | CR3_KEEP);
	expect(vcpu, OTHER(0), OTHER(1));
	look(vcpu, FIRST_CR3 | CR3_KEEP);
	expect(vcpu, SECOND(0), SECOND(1));
	leave_space(vcpu);
	cpu_state(vcpu->cpu)->cr3 = OTHER_PML4 | 3;
	look(vcpu, FIRST_CR3 | CR3_KEEP);
	expect(vcpu, SECOND(0), SECOND(1));
}

/* Without PCIDs nothing but global pages is kept. */
static void test_no_pcid(void **state)
{
	struct quire_vcpu *vcpu = *state;

	cpu_state(vcpu->cpu)->cr4 &= ~CR4_PCIDE;
	look(vcpu, GUEST_PML4);
	look(vcpu, OTHER_PML4);
	map(vcpu, LOCAL_LINEAR, CHANGED_GPA, 0);
	look(vcpu, GUEST_PML4);
	expect(vcpu, SECOND(0), SECOND(1));
}

/*
 * As many PCIDs as are kept, and one more: each sees its own tables. Where CR3 returns to one that
 * is kept, what has to go is another one.
 */
static void test_many_pcids(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const uint64_t count = TLB_SPACES + 1;

	for (uint64_t i = 0; i < 3 * count; i++) {
		uint64_t pcid = 1 + i % count;

		look(vcpu, (pcid % 2 ? (uint64_t)GUEST_PML4 : OTHER_PML4) | pcid | CR3_KEEP);
		expect(vcpu, pcid % 2 ? FIRST(0) : OTHER(0), pcid % 2 ? FIRST(1) : OTHER(1));
	}
}

static void test_as_many_pcids_as_are_kept(void **state)
{
	struct quire_vcpu *vcpu = *state;

	for (uint64_t pcid = 1; pcid <= TLB_SPACES + 1; pcid++)
		look(vcpu, (uint64_t)GUEST_PML4 | pcid | CR3_KEEP);
	map(vcpu, LOCAL_LINEAR, CHANGED_GPA, 0);
	look(vcpu, (uint64_t)GUEST_PML4 | 1 | CR3_KEEP);
	expect(vcpu, FIRST(0), FIRST(1));
	look(vcpu, (uint64_t)GUEST_PML4 | 2 | CR3_KEEP);
	expect(vcpu, SECOND(0), SECOND(1));
	look(vcpu, (uint64_t)GUEST_PML4 | 4 | CR3_KEEP);
	expect(vcpu, FIRST(0), FIRST(1));
}

/* INVPCID of one address of 2 MiB, of another PCID, drops what is put aside of any other. */
PROGRAM(look_large, "mov 0x30000, %rax; mov %rax, %cr3; mov $2, %edi; 1: mov 0x323000, %ecx;"
		    "mov $0x323010, %esi; call *%rsi; mov %eax, %edx; dec %edi; jnz 1b; hlt");

static void look_at_large(struct quire_vcpu *vcpu, uint64_t cr3)
{
	put64(vcpu, GUEST_DATA, cr3);
	run_program(vcpu, look_large_start, look_large_end);
}

static void test_invpcid_drops_large_page(void **state)
{
	struct quire_vcpu *vcpu = *state;

	put_both(vcpu, LARGE_LINEAR + IN_LARGE, FIRST(0), FIRST(1));
	put_both(vcpu, LARGE_OTHER + IN_LARGE, SECOND(0), SECOND(1));
	for (int drops = 0; drops < 2; drops++) {
		put64(vcpu, GUEST_PD + 8, LARGE_LINEAR | PTE_FLAGS | PDE_LARGE);
		look_at_large(vcpu, FIRST_CR3);
		look(vcpu, SECOND_CR3 | CR3_KEEP);
		put64(vcpu, GUEST_PD + 8, LARGE_OTHER | PTE_FLAGS | PDE_LARGE);
		put64(vcpu, GUEST_DATA + 8, 0);
		put64(vcpu, GUEST_DATA + 16, drops ? 1 : 3);
		put64(vcpu, GUEST_DATA + 24, LARGE_LINEAR);
		run_program(vcpu, invalidate_start, invalidate_end);
		look_at_large(vcpu, FIRST_CR3 | CR3_KEEP);
		expect(vcpu, drops ? SECOND(0) : FIRST(0), drops ? SECOND(1) : FIRST(1));
	}
}

/*
 * A page that was written in one space, and became code in the other one: back in the first, where
 * 0x40a000 shows it, too, a store to it is seen by what runs there next.
 */
PROGRAM(becomes_code,
	"mov 0x30000, %rax; mov %rax, %cr3; mov $2, %edi; 1: movl $1, 0x409800; dec %edi; jnz 1b;"
	"mov 0x30008, %rax; mov %rax, %cr3; mov $0x409010, %esi; call *%rsi;"
	"mov 0x30000, %rax; bts $63, %rax; mov %rax, %cr3; mov $0x40a010, %esi;"
	"call *%rsi; mov %eax, %ecx; movl $0x201, 0x409011; call *%rsi; mov %eax, %edx; hlt");

static void test_pcid_page_becomes_code(void **state)
{
	struct quire_vcpu *vcpu = *state;

	put64(vcpu, OTHER_PT + (LOCAL_LINEAR - PAGED_LINEAR) / PAGE * 8, LOCAL_LINEAR | PTE_FLAGS);
	map(vcpu, LOCAL_LINEAR + PAGE, LOCAL_LINEAR, 0);
	put64(vcpu, GUEST_DATA, FIRST_CR3);
	put64(vcpu, GUEST_DATA + 8, SECOND_CR3 | CR3_KEEP);
	run_program(vcpu, becomes_code_start, becomes_code_end);
	expect(vcpu, FIRST(1), SECOND(1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fake_vcpu_teardown)
#define TEST_SPACES(name) cmocka_unit_test_setup_teardown(name, setup_spaces, fake_vcpu_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_cr3_keeps_global_data),
	    TEST(test_cr3_keeps_global_code),
	    TEST(test_invlpg_drops_large_page),
	    TEST(test_invlpg_drops_small_page),
	    TEST(test_invlpg_drops_gigantic_page),
	    TEST(test_invlpg_keeps_beside_gigantic),
	    TEST(test_write_marks_large_page),
	    TEST(test_cr3_drops_large_pages),
	    TEST(test_events_are_counted_once),
	    TEST(test_invlpg_wraps),
	    TEST(test_invpcid),
	    TEST(test_invpcid_refuses),
	    TEST_SPACES(test_pcid_survives),
	    TEST_SPACES(test_pcid_begins_anew),
	    TEST_SPACES(test_pcid_with_other_tables),
	    TEST_SPACES(test_no_pcid),
	    TEST_SPACES(test_many_pcids),
	    TEST_SPACES(test_as_many_pcids_as_are_kept),
	    TEST_SPACES(test_invpcid_drops_large_page),
	    TEST_SPACES(test_pcid_page_becomes_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
