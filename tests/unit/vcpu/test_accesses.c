/* What the processor checks of an access and makes atomic: alignment, limits, locked operands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"

#define PROGRAM(bits, name, code)                                                          \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name "_start:\n" code "\n" #name \
		"_end:\n.code64\n.popsection\n");                                          \
	extern const uint8_t name##_start[], name##_end[]

#define PAGE UINT64_C(4096)
#define VECTOR_GP 13u
#define VECTOR_PF 14u
#define VECTOR_AC 17u
#define FLAG_AC (UINT64_C(1) << 18)
#define CR0_AM (UINT64_C(1) << 18)
#define PTE_FLAGS UINT64_C(0x67)

static int setup(void **state)
{
	*state = fake_vcpu_create(fake_vm_create());
	return 0;
}

#define RUN(vcpu, name) \
	assert_int_equal(fake_vcpu_run(vcpu, name##_start, name##_end), CPU_EXIT_HLT)
#define SIZE(name) ((uint64_t)(name##_end - name##_start))

static uint64_t frame_word(struct quire_vcpu *vcpu, unsigned int index)
{
	uint64_t value;

	memcpy(&value, vcpu->vm->ram + cpu_state(vcpu->cpu)->gpr[CPU_RSP] + index * 8, 8);
	return value;
}

/* The handler of @vector, which has an error code of 0, halted; its frame says where from. */
static void check_fault(struct quire_vcpu *vcpu, unsigned int vector, uint64_t offset)
{
	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_HANDLERS + vector * 16 + 1);
	assert_int_equal(frame_word(vcpu, 0), 0);
	assert_int_equal(frame_word(vcpu, 1), GUEST_CODE + offset);
}

static void user_mode(struct quire_vcpu *vcpu)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->seg[CPU_CS].selector = SELECTOR_USER_CODE;
	s->seg[CPU_SS].selector = SELECTOR_USER_DATA;
	s->seg[CPU_CS].dpl = s->seg[CPU_SS].dpl = 3;
	s->gpr[CPU_RSP] = GUEST_STACK - 0x1000;
	s->gpr[CPU_RBX] = GUEST_DATA;
}

/* Ends of user programs: HLT, which is #GP there. */
PROGRAM(64, load_aligned, "mov 4(%rbx), %eax; mov (%rbx), %rax; mov 1(%rbx), %al; hlt");
PROGRAM(64, load_odd, "mov 2(%rbx), %eax; hlt");
PROGRAM(64, store_odd, "mov %rax, 4(%rbx); hlt");
PROGRAM(64, locked_odd, "lock addl $1, 1(%rbx); hlt");
PROGRAM(64, vector_odd, "movups 8(%rbx), %xmm0; hlt");
PROGRAM(64, mask_odd, "lea 4(%rbx), %rdi; pxor %xmm0, %xmm0; maskmovdqu %xmm0, %xmm0; hlt");
PROGRAM(64, x87_odd, "fldt 4(%rbx); hlt");
PROGRAM(64, push_odd, "dec %rsp; push %rax; hlt");
PROGRAM(64, string_odd, "lea 1(%rbx), %rdi; mov $2, %ecx; rep stosl; hlt");
PROGRAM(64, absent_odd, "mov $0x400ffe, %rbx; mov (%rbx), %eax; hlt");
PROGRAM(64, nowhere_odd, "mov $0x800000000001, %rbx; mov (%rbx), %eax; hlt");

static const struct misaligned {
	const uint8_t *start, *end;
	unsigned int vector;
	uint64_t offset; /* of what faults */
} misaligned[] = {
    {load_aligned_start, load_aligned_end, VECTOR_GP, 9},
    {load_odd_start, load_odd_end, VECTOR_AC, 0},
    {store_odd_start, store_odd_end, VECTOR_AC, 0},
    {locked_odd_start, locked_odd_end, VECTOR_AC, 0},
    {vector_odd_start, vector_odd_end, VECTOR_AC, 0},
    {mask_odd_start, mask_odd_end, VECTOR_AC, 8},
    {x87_odd_start, x87_odd_end, VECTOR_AC, 0},
    {push_odd_start, push_odd_end, VECTOR_AC, 3},
    {string_odd_start, string_odd_end, VECTOR_AC, 9},
    /* Before a page fault, but not before what is wrong with the address. */
    {absent_odd_start, absent_odd_end, VECTOR_AC, 7},
    {nowhere_odd_start, nowhere_odd_end, VECTOR_GP, 10},
};

static void test_alignment(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	memset(vcpu->vm->ram + GUEST_PT, 0, 2 * 8);
	for (size_t i = 0; i < sizeof(misaligned) / sizeof(misaligned[0]); i++) {
		const struct misaligned *m = &misaligned[i];

		user_mode(vcpu);
		s->cr0 |= CR0_AM;
		s->rflags |= FLAG_AC;
		assert_int_equal(fake_vcpu_run(vcpu, m->start, m->end), CPU_EXIT_HLT);
		check_fault(vcpu, m->vector, m->offset);
	}
}

/* Three things must come together: AM, AC and user mode. */
static void test_alignment_off(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	user_mode(vcpu);
	s->rflags |= FLAG_AC;
	RUN(vcpu, load_odd);
	check_fault(vcpu, VECTOR_GP, SIZE(load_odd) - 1);
	user_mode(vcpu);
	s->cr0 |= CR0_AM;
	s->rflags &= ~FLAG_AC;
	RUN(vcpu, load_odd);
	check_fault(vcpu, VECTOR_GP, SIZE(load_odd) - 1);
	s->rflags |= FLAG_AC;
	s->gpr[CPU_RSP] = GUEST_STACK;
	RUN(vcpu, load_odd);
	assert_int_equal(s->rip, GUEST_CODE + SIZE(load_odd));
}

PROGRAM(64, set_ac, "pushfq; orl $0x40000, (%rsp); popfq; mov 2(%rbx), %eax; hlt");

/* A program that turns the check on itself, in code that ran without it. */
static void test_alignment_by_popf(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	for (unsigned int turn = 0; turn < 40; turn++) {
		user_mode(vcpu);
		s->cr0 |= CR0_AM;
		s->rflags &= ~FLAG_AC;
		RUN(vcpu, set_ac);
		check_fault(vcpu, VECTOR_AC, SIZE(set_ac) - 4);
	}
}

/* 32-bit code whose data segment ends at @limit. */
static void limited_mode(struct quire_vcpu *vcpu, uint32_t limit)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	fake_flat_segments(s);
	s->seg[CPU_ES].limit = limit;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->gpr[CPU_RAX] = s->gpr[CPU_RDX] = 0;
	s->cr4 |= UINT64_C(1) << 18;
	s->xcr0 = 3;
}

PROGRAM(32, save_image, "fxsave %es:0x30000; hlt");
PROGRAM(32, restore_image, "fxrstor %es:0x30000; hlt");
PROGRAM(32, xsave_image, "xsave %es:0x30000; hlt");

/* The whole image must be inside the segment. */
static void test_image_limit(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	limited_mode(vcpu, GUEST_DATA + 511);
	RUN(vcpu, save_image);
	assert_int_equal(s->rip, GUEST_CODE + SIZE(save_image));
	limited_mode(vcpu, GUEST_DATA + 510);
	RUN(vcpu, save_image);
	check_fault(vcpu, VECTOR_GP, 0);
	limited_mode(vcpu, GUEST_DATA + 510);
	RUN(vcpu, restore_image);
	check_fault(vcpu, VECTOR_GP, 0);
	limited_mode(vcpu, GUEST_DATA + 575);
	RUN(vcpu, xsave_image);
	assert_int_equal(s->rip, GUEST_CODE + SIZE(xsave_image));
	limited_mode(vcpu, GUEST_DATA + 574);
	RUN(vcpu, xsave_image);
	check_fault(vcpu, VECTOR_GP, 0);
}

PROGRAM(32, input, "mov $0x2000, %ecx; mov $0x30f00, %edi; mov $0x80, %edx; rep insb; hlt");

/* How many elements a client gives at once goes by EDI, wherever its segment begins. */
static void test_input_count(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	limited_mode(vcpu, UINT32_MAX);
	cpu_state(vcpu->cpu)->seg[CPU_ES].base = 0x800;
	assert_int_equal(fake_vcpu_run(vcpu, input_start, input_end), CPU_EXIT_IO);
	cpu_cancel_pending(vcpu->cpu);
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state_changed(vcpu->cpu);
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_IO);
	assert_int_equal(info.io.count, 0x100);
}

PROGRAM(32, run_off, "nop; nop; nop; nop; hlt");
PROGRAM(32, straddle, "nop; nop; mov $1, %eax; hlt");

/* Code ends where CS does, in the middle of a block and of an instruction, too. */
static void test_code_limit(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	limited_mode(vcpu, UINT32_MAX);
	s->seg[CPU_CS].limit = GUEST_CODE + 2;
	RUN(vcpu, run_off);
	check_fault(vcpu, VECTOR_GP, 3);
	limited_mode(vcpu, UINT32_MAX);
	s->seg[CPU_CS].limit = GUEST_CODE + 5;
	RUN(vcpu, straddle);
	check_fault(vcpu, VECTOR_GP, 2);
	limited_mode(vcpu, UINT32_MAX);
	s->seg[CPU_CS].limit = GUEST_CODE + 7;
	RUN(vcpu, straddle);
	assert_int_equal(s->rip, GUEST_CODE + SIZE(straddle));
}

PROGRAM(64, to_five_levels, "mov %cr4, %rax; or $0x1000, %rax; mov %rax, %cr4; hlt");

/* The number of levels does not change under a running guest's feet. */
static void test_levels_stay(void **state)
{
	struct quire_vcpu *vcpu = *state;

	RUN(vcpu, to_five_levels);
	check_fault(vcpu, VECTOR_GP, SIZE(to_five_levels) - 4);
}

/* What another thread does while the guest runs. */
struct neighbour {
	pthread_t thread;
	uint16_t *counter;
	uint32_t count;
	int stop;
};

static void *count_up(void *arg)
{
	struct neighbour *neighbour = arg;

	while (!__atomic_load_n(&neighbour->stop, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(neighbour->counter, 1, __ATOMIC_SEQ_CST);
		neighbour->count++;
	}
	return NULL;
}

static void neighbour_start(struct neighbour *neighbour, void *counter)
{
	*neighbour = (struct neighbour){.counter = counter};
	assert_int_equal(pthread_create(&neighbour->thread, NULL, count_up, neighbour), 0);
}

static void neighbour_stop(struct neighbour *neighbour)
{
	__atomic_store_n(&neighbour->stop, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(neighbour->thread, NULL), 0);
}

PROGRAM(64, load_segments,
	"mov $0x10, %edx; mov $140000, %ecx; 1: movb $0xf2, 0x9015;"
	"mov %edx, %ds; dec %ecx; jnz 1b; hlt");

/* The accessed bit is set by an OR: stores to the rest of a descriptor are not taken back. */
static void test_descriptor(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct neighbour neighbour;

	/* The counter is the low half of the base, which means nothing in 64-bit code. */
	memset(vcpu->vm->ram + GUEST_GDT + SELECTOR_DATA + 2, 0, 2);
	neighbour_start(&neighbour, vcpu->vm->ram + GUEST_GDT + SELECTOR_DATA + 2);
	RUN(vcpu, load_segments);
	neighbour_stop(&neighbour);
	assert_int_equal(vcpu->vm->ram[GUEST_GDT + SELECTOR_DATA + 5], 0xf3);
	assert_int_equal(*neighbour.counter, (uint16_t)neighbour.count);
}

/* So few, for each may stop every processor of the machine; so that one carry comes early. */
#define CROSSING_ADDS 1000
#define CROSSING_LOW 0xff00
PROGRAM(64, add_crossing,
	"mov $0x400ffe, %ebx; mov $1000, %ecx; 1: lock addl $1, (%rbx); dec %ecx; jnz 1b; hlt");

static void map(struct quire_vcpu *vcpu, unsigned int index, uint64_t gpa)
{
	uint64_t entry = gpa | PTE_FLAGS;

	memcpy(vcpu->vm->ram + GUEST_PT + index * 8, &entry, sizeof(entry));
}

/* A locked access over two pages, and a locked access to a part of it. */
static void check_crossing(struct quire_vcpu *vcpu, uint64_t first, uint64_t second)
{
	struct neighbour neighbour;
	uint8_t *ram = vcpu->vm->ram;
	uint16_t low, high;

	map(vcpu, 0, first);
	map(vcpu, 1, second);
	memset(ram + first, 0x55, PAGE);
	memset(ram + second, 0xaa, PAGE);
	low = CROSSING_LOW;
	memcpy(ram + first + PAGE - 2, &low, 2);
	memset(ram + second, 0, 2);
	/* Its carries go out of the upper half: the sum of both is what was added to it. */
	neighbour_start(&neighbour, ram + second);
	RUN(vcpu, add_crossing);
	neighbour_stop(&neighbour);
	memcpy(&low, ram + first + PAGE - 2, 2);
	memcpy(&high, ram + second, 2);
	assert_int_equal(low, (CROSSING_LOW + CROSSING_ADDS) & 0xffff);
	assert_int_equal(high,
			 (uint16_t)((CROSSING_LOW + CROSSING_ADDS) / 65536 + neighbour.count));
	assert_int_equal(ram[first + PAGE - 3], 0x55);
	assert_int_equal(ram[second + 2], 0xaa);
}

static void test_crossing(void **state)
{
	check_crossing(*state, 0x40000, 0x41000);
	cpu_state(((struct quire_vcpu *)*state)->cpu)->cr3 ^= 8; /* another, to the TLB */
	check_crossing(*state, 0x42000, 0x40000);
}

PROGRAM(64, exchange_crossing,
	"mov $0x400ffc, %ebx; mov $0x1122334455667788, %rcx;"
	"mov (%rbx), %rax; lock cmpxchg %rcx, (%rbx); hlt");
PROGRAM(64, exchange_failing, "mov $0x400ffd, %ebx; lock cmpxchg %rcx, (%rbx); hlt");

static void test_crossing_exchange(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint8_t *ram = vcpu->vm->ram;
	uint64_t absent = 0;

	map(vcpu, 0, 0x42000);
	map(vcpu, 1, 0x40000);
	memcpy(ram + 0x42ff8, "abcdefgh", 8);
	memcpy(ram + 0x40000, "ijklmnop", 8);
	RUN(vcpu, exchange_crossing);
	assert_memory_equal(ram + 0x42ff8, "abcd\x88\x77\x66\x55", 8);
	assert_memory_equal(ram + 0x40000, "\x44\x33\x22\x11mnop", 8);
	s->gpr[CPU_RAX] = 1;
	RUN(vcpu, exchange_failing);
	assert_int_equal(s->gpr[CPU_RAX], UINT64_C(0x6d11223344556677));
	/* Nothing is written where the second page is absent. */
	memcpy(ram + GUEST_PT + 8, &absent, 8);
	s->cr3 ^= 8;
	RUN(vcpu, exchange_crossing);
	assert_int_equal(s->cr2, 0x401000);
	assert_memory_equal(ram + 0x42ff8, "abcd\x88\x77\x66\x55", 8);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_alignment, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_alignment_off, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_alignment_by_popf, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_image_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_input_count, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_code_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_levels_stay, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_descriptor, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_crossing, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_crossing_exchange, setup, fake_vcpu_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
