/* When instructions with a VEX prefix may run, and which registers they leave alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"
#include "vcpu/arch.h"

#define PROGRAM(bits, name, code)                                                          \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name "_start:\n" code "\n" #name \
		"_end:\n.code64\n.popsection\n");                                          \
	extern const uint8_t name##_start[], name##_end[]

PROGRAM(64, add, "vpaddd %ymm1, %ymm2, %ymm3; hlt");
PROGRAM(64, add_legacy, "paddd %xmm1, %xmm3; hlt");
PROGRAM(64, zero_upper, "vzeroupper; hlt");
PROGRAM(32, zero_upper32, "vzeroupper; hlt");
PROGRAM(32, zero_all32, "vzeroall; hlt");
PROGRAM(64, divide, "vdivps %ymm1, %ymm2, %ymm3; hlt");
PROGRAM(64, load_crossing, "vmaskmovps (%rbx), %ymm1, %ymm3; hlt");
PROGRAM(64, store_crossing, "vmaskmovps %ymm2, %ymm1, (%rbx); hlt");
PROGRAM(64, gather, "vgatherdps %ymm1, (%rbx, %ymm2, 4), %ymm3; hlt");
/* None of these is an instruction. */
PROGRAM(64, locked, ".byte 0xf0, 0xc5, 0xed, 0xfe, 0xd9; hlt");
PROGRAM(64, with_66, ".byte 0x66, 0xc5, 0xed, 0xfe, 0xd9; hlt");
PROGRAM(64, with_f2, ".byte 0xf2, 0xc5, 0xed, 0xfe, 0xd9; hlt");
PROGRAM(64, with_f3, ".byte 0xf3, 0xc5, 0xed, 0xfe, 0xd9; hlt");
PROGRAM(64, with_rex, ".byte 0x48, 0xc5, 0xed, 0xfe, 0xd9; hlt");
PROGRAM(64, third_operand, ".byte 0xc5, 0xec, 0x28, 0xd9; hlt"); /* VMOVAPS has two */
PROGRAM(64, too_wide, ".byte 0xc5, 0xed, 0x6e, 0xd9; hlt");	 /* VMOVD has 128 bits */
/* The length in the prefix is 256 bits, which an instruction on one element ignores. */
PROGRAM(64, add_one, ".byte 0xc5, 0xee, 0x58, 0xd9; hlt");
PROGRAM(64, root_of_one, ".byte 0xc5, 0xef, 0x51, 0xd9; hlt");
PROGRAM(64, round_one, ".byte 0xc4, 0xe3, 0x6d, 0x0a, 0xd9, 0x00; hlt");
PROGRAM(64, compare_one, ".byte 0xc5, 0xee, 0xc2, 0xd9, 0x01; hlt");
PROGRAM(64, convert_one, ".byte 0xc5, 0xee, 0x5a, 0xd9; hlt");
PROGRAM(64, multiply_one, ".byte 0xc4, 0xe2, 0x6d, 0xb9, 0xd9; hlt");
PROGRAM(64, gather_four, "vgatherqps %xmm1, (%rbx, %ymm2, 4), %xmm3; hlt");
PROGRAM(16, add16, ".byte 0xc5, 0xe9, 0xfe, 0xd9; hlt");
PROGRAM(64, mask_is_index, ".byte 0xc4, 0xe2, 0x6d, 0x92, 0x1c, 0x93; hlt");

static int setup(void **state)
{
	struct quire_vcpu *vcpu = fake_vcpu_create(fake_vm_create());
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->cr4 |= CR4_OSXSAVE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->xcr0 = 7;
	*state = vcpu;
	return 0;
}

#define RUN(vcpu, name) \
	assert_int_equal(fake_vcpu_run(vcpu, name##_start, name##_end), CPU_EXIT_HLT)
#define RAISED(vcpu, vector) \
	assert_int_equal(cpu_state((vcpu)->cpu)->rip, GUEST_HANDLERS + (vector)*16 + 1)
#define RETIRED(vcpu, name) \
	assert_int_equal(cpu_state((vcpu)->cpu)->rip, GUEST_CODE + (name##_end - name##_start))

static void fill(struct cpu_state *s)
{
	memset(s->xmm, 0x11, sizeof(s->xmm));
	memset(s->ymm_high, 0x22, sizeof(s->ymm_high));
}

static void test_turned_off(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	fill(s);
	RUN(vcpu, add);
	RETIRED(vcpu, add);
	assert_int_equal(s->ymm_high[3][5], 0x44);
	/* CR0.EM and CR4.OSFXSR are SSE's alone. */
	s->cr0 |= CR0_EM;
	s->cr4 &= ~CR4_OSFXSR;
	RUN(vcpu, add);
	RETIRED(vcpu, add);
	s->cr0 &= ~CR0_EM;
	/* #UD comes before #NM. */
	s->cr0 |= CR0_TS;
	RUN(vcpu, add);
	RAISED(vcpu, VECTOR_NM);
	for (uint64_t xcr0 = 1; xcr0 < 7; xcr0 += 2) {
		s->xcr0 = xcr0;
		RUN(vcpu, add);
		RAISED(vcpu, VECTOR_UD);
	}
	s->xcr0 = 7;
	s->cr4 &= ~CR4_OSXSAVE;
	RUN(vcpu, add);
	RAISED(vcpu, VECTOR_UD);
}

static void test_no_instructions(void **state)
{
	struct quire_vcpu *vcpu = *state;

	RUN(vcpu, locked);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, with_66);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, with_f2);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, with_f3);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, with_rex);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, third_operand);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, too_wide);
	RAISED(vcpu, VECTOR_UD);
	RUN(vcpu, mask_is_index);
	RAISED(vcpu, VECTOR_UD);
}

/* Legacy instructions keep the upper halves; outside 64-bit mode eight registers are out of reach.
 */
static void test_one_element(void **state)
{
	static const struct {
		const uint8_t *start, *end;
	} programs[] = {
	    {add_one_start, add_one_end},	  {root_of_one_start, root_of_one_end},
	    {round_one_start, round_one_end},	  {compare_one_start, compare_one_end},
	    {convert_one_start, convert_one_end}, {multiply_one_start, multiply_one_end},
	};
	struct cpu_state *s = cpu_state(((struct quire_vcpu *)*state)->cpu);
	static const uint8_t zero[16];

	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		fill(s);
		assert_int_equal(fake_vcpu_run(*state, programs[i].start, programs[i].end),
				 CPU_EXIT_HLT);
		assert_int_equal(s->rip, GUEST_CODE + (programs[i].end - programs[i].start));
		assert_memory_equal(s->ymm_high[3], zero, sizeof(zero));
	}
}

/* The index alone has 256 bits. */
static void test_gather_of_four(void **state)
{
	static const uint64_t index[4] = {0, 1, 2, 3};
	static const uint32_t data[4] = {5, 6, 7, 8};
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	fill(s);
	memset(s->xmm[1], 0xff, sizeof(s->xmm[1]));
	memcpy(s->xmm[2], index, 16);
	memcpy(s->ymm_high[2], index + 2, 16);
	memcpy(vcpu->vm->ram + GUEST_DATA, data, sizeof(data));
	s->gpr[CPU_RBX] = GUEST_DATA;
	RUN(vcpu, gather_four);
	RETIRED(vcpu, gather_four);
	assert_memory_equal(s->xmm[3], data, sizeof(data));
}

/* Real mode has no VEX prefix, and neither has virtual 8086 mode: #UD, and no gate for it. */
static void test_modes_of_8086(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + GUEST_CODE, add16_start, (size_t)(add16_end - add16_start));
	for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
		struct cpu_segment segment = {
		    .limit = 0xffff, .type = 3, .s = 1, .present = 1, .dpl = is_virtual ? 3 : 0};

		fill(s);
		s->efer = 0;
		s->cr0 = CR0_ET | (is_virtual ? CR0_PE : 0);
		s->rflags = 2 | (is_virtual ? FLAG_VM : 0);
		s->idt.limit = 0;
		for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
			s->seg[seg] = segment;
		s->seg[CPU_CS].base = GUEST_CODE;
		s->rip = 0;
		cpu_state_changed(vcpu->cpu);
		assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_SHUTDOWN);
		assert_int_equal(s->rip, 0);
		assert_int_equal(s->ymm_high[3][0], 0x22);
	}
}

static void test_upper_halves(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	fill(s);
	RUN(vcpu, add_legacy);
	assert_int_equal(s->xmm[3][0], 0x22);
	assert_int_equal(s->ymm_high[3][0], 0x22);
	RUN(vcpu, zero_upper);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(s->ymm_high[i][15], 0);
		assert_int_not_equal(s->xmm[i][15], 0);
	}
	fill(s);
	fake_flat_segments(s);
	RUN(vcpu, zero_upper32);
	RUN(vcpu, zero_all32);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(s->ymm_high[i][0], i < 8 ? 0 : 0x22);
		assert_int_equal(s->xmm[i][0], i < 8 ? 0 : 0x11);
	}
}

/* An exception in the upper lane alone; none of the result is written then. */
static void test_numeric_exception(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	const float one = 1;

	fill(s);
	for (int i = 0; i < 4; i++) {
		memcpy(&s->xmm[1][4 * i], &one, 4);
		memcpy(&s->ymm_high[1][4 * i], &one, 4);
	}
	memset(&s->ymm_high[1][8], 0, 4);
	s->mxcsr = 0x1d80; /* division by zero is told */
	RUN(vcpu, divide);
	RAISED(vcpu, VECTOR_XM);
	assert_int_equal(s->mxcsr & 0x3f, 4);
	assert_int_equal(s->xmm[3][0], 0x11);
	assert_int_equal(s->ymm_high[3][0], 0x22);
	s->cr4 &= ~CR4_OSXMMEXCPT;
	RUN(vcpu, divide);
	RAISED(vcpu, VECTOR_UD);
	s->mxcsr = 0x1f80;
	RUN(vcpu, divide);
	RETIRED(vcpu, divide);
}

/* The page at PAGED_LINEAR is there, the next one is not: elements may be masked out of it. */
static void map_one(struct quire_vcpu *vcpu)
{
	uint64_t entry = 0x40067, absent = 0;

	memcpy(vcpu->vm->ram + GUEST_PT, &entry, sizeof(entry));
	memcpy(vcpu->vm->ram + GUEST_PT + 8, &absent, sizeof(absent));
	cpu_state(vcpu->cpu)->cr3 ^= 8;
	cpu_state(vcpu->cpu)->gpr[CPU_RBX] = PAGED_LINEAR + 0xff0;
}

static void test_masked(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint8_t *data = vcpu->vm->ram + 0x40ff0;

	map_one(vcpu);
	memset(data, 0x55, 16);
	fill(s);
	memset(s->xmm[1], 0x80, 8); /* elements 0 and 1 */
	memset(s->ymm_high[1], 0, 16);
	RUN(vcpu, load_crossing);
	RETIRED(vcpu, load_crossing);
	assert_int_equal(s->xmm[3][7], 0x55);
	assert_int_equal(s->xmm[3][8], 0);
	RUN(vcpu, store_crossing);
	RETIRED(vcpu, store_crossing);
	assert_memory_equal(data, "\x11\x11\x11\x11\x11\x11\x11\x11\x55\x55", 10);
	/* One in the page that is absent: nothing is written to the other. */
	memset(data, 0x55, 16);
	s->ymm_high[1][3] = 0x80;
	RUN(vcpu, store_crossing);
	RAISED(vcpu, VECTOR_PF);
	assert_int_equal(s->cr2, PAGED_LINEAR + 0x1000);
	assert_memory_equal(data, "\x55\x55\x55\x55", 4);
	RUN(vcpu, load_crossing);
	RAISED(vcpu, VECTOR_PF);
	assert_int_equal(s->xmm[3][8], 0);
}

/* A fault shows how far a gather came; when the page is there it goes on from that. */
static void test_gather_goes_on(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint64_t entry = 0x41067;

	map_one(vcpu);
	fill(s);
	memset(s->xmm[1], 0xff, 16);
	memset(s->ymm_high[1], 0xff, 16);
	for (int i = 0; i < 4; i++) {
		memcpy(&s->xmm[2][4 * i], &(int){i}, 4);
		memcpy(&s->ymm_high[2][4 * i], &(int){4 + i}, 4);
	}
	memset(vcpu->vm->ram + 0x40ff0, 0x66, 32);
	RUN(vcpu, gather);
	RAISED(vcpu, VECTOR_PF);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(s->xmm[3][i], 0x66);
		assert_int_equal(s->xmm[1][i], 0);
		assert_int_equal(s->ymm_high[3][i], 0x22);
		assert_int_equal(s->ymm_high[1][i], 0xff);
	}
	/* What was read already is not read again. */
	memset(vcpu->vm->ram + 0x40ff0, 0x77, 32);
	memcpy(vcpu->vm->ram + GUEST_PT + 8, &entry, sizeof(entry));
	RUN(vcpu, gather);
	RETIRED(vcpu, gather);
	assert_int_equal(s->xmm[3][15], 0x66);
	assert_int_equal(s->ymm_high[3][0], 0x77);
	assert_int_equal(s->ymm_high[1][0], 0);
}

PROGRAM(32, save_image, "xsave %es:0x30000; hlt");
PROGRAM(32, restore_image, "xrstor %es:0x30000; hlt");

/* The upper halves of eight registers are inside the segment, or nothing is. */
static void test_image_limit(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint8_t *image = vcpu->vm->ram + GUEST_DATA;

	fake_flat_segments(s);
	s->gpr[CPU_RAX] = 7;
	s->gpr[CPU_RDX] = 0;
	s->seg[CPU_ES].limit = GUEST_DATA + 576 + 127;
	fill(s);
	RUN(vcpu, save_image);
	RETIRED(vcpu, save_image);
	assert_int_equal(image[576 + 127], 0x22);
	assert_int_equal(image[576 + 128], 0);
	memset(s->ymm_high, 0, sizeof(s->ymm_high));
	RUN(vcpu, restore_image);
	RETIRED(vcpu, restore_image);
	assert_int_equal(s->ymm_high[7][15], 0x22);
	assert_int_equal(s->ymm_high[8][0], 0);
	s->seg[CPU_ES].limit--;
	memset(image, 0, 16);
	RUN(vcpu, save_image);
	RAISED(vcpu, VECTOR_GP);
	assert_int_equal(image[0], 0);
	fake_flat_segments(s);
	s->seg[CPU_ES].limit = GUEST_DATA + 576 + 126;
	RUN(vcpu, restore_image);
	RAISED(vcpu, VECTOR_GP);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_turned_off, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_no_instructions, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_one_element, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_gather_of_four, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_modes_of_8086, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_upper_halves, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_numeric_exception, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_masked, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_gather_goes_on, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_image_limit, setup, fake_vcpu_teardown),
	};

	if (!__builtin_cpu_supports("avx2")) {
		print_message("this machine has no AVX2\n");
		return 77;
	}
	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
