/* What the processor checks of an access and makes atomic: limits, locked operands. */
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
#define PTE_FLAGS UINT64_C(0x67)

static int setup(void **state)
{
	*state = fake_vcpu_create(fake_vm_create());
	return 0;
}

static enum cpu_exit run_bytes(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + GUEST_CODE, start, (size_t)(end - start));
	s->rip = GUEST_CODE;
	s->halted = 0;
	cpu_state_changed(vcpu->cpu);
	return cpu_run(vcpu->cpu, 0, &info);
}

#define RUN(vcpu, name) assert_int_equal(run_bytes(vcpu, name##_start, name##_end), CPU_EXIT_HLT)
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

/* 32-bit code whose data segment ends at @limit. */
static void limited_mode(struct quire_vcpu *vcpu, uint32_t limit)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] = (struct cpu_segment){.limit = UINT32_MAX,
						 .selector = i == CPU_CS ? 0x30 : SELECTOR_DATA,
						 .type = i == CPU_CS ? 11 : 3,
						 .s = 1,
						 .present = 1,
						 .db = 1,
						 .g = 1};
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

PROGRAM(64, load_segments, "mov $0x10, %edx; mov $400000, %ecx; 1: movb $0xf2, 0x9015; mov %edx, %ds;"
			   "dec %ecx; jnz 1b; hlt");

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

PROGRAM(64, add_crossing,
	"mov $0x400ffe, %ebx; mov $400000, %ecx; 1: lock addl $1, (%rbx); dec %ecx; jnz 1b; hlt");

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
	memset(ram + first + PAGE - 2, 0, 2);
	memset(ram + second, 0, 2);
	/* Its carries go out of the upper half: the sum of both is what was added to it. */
	neighbour_start(&neighbour, ram + second);
	RUN(vcpu, add_crossing);
	neighbour_stop(&neighbour);
	memcpy(&low, ram + first + PAGE - 2, 2);
	memcpy(&high, ram + second, 2);
	assert_int_equal(low, 400000 & 0xffff);
	assert_int_equal(high, (uint16_t)((400000 >> 16) + neighbour.count));
	assert_int_equal(ram[first + PAGE - 3], 0x55);
	assert_int_equal(ram[second + 2], 0xaa);
}

static void test_crossing(void **state)
{
	check_crossing(*state, 0x40000, 0x41000);
	cpu_state(((struct quire_vcpu *)*state)->cpu)->cr3 ^= 8; /* another, to the TLB */
	check_crossing(*state, 0x42000, 0x40000);
}

PROGRAM(64, exchange_crossing, "mov $0x400ffc, %ebx; mov $0x1122334455667788, %rcx;"
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
	    cmocka_unit_test_setup_teardown(test_image_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_code_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_descriptor, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_crossing, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_crossing_exchange, setup, fake_vcpu_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
