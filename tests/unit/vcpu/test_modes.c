/* The CPU in 16-bit, 32-bit and 64-bit code: the stack, RF, address sizes, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"

/* A program of 16-, 32- or 64-bit code, run at START. */
#define PROGRAM(bits, name, code)                                                          \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name "_start:\n" code "\n" #name \
		"_end:\n.code64\n.popsection\n");                                          \
	extern const uint8_t name##_start[], name##_end[]

#define START 0x6000u
#define STACK 0x7000u
#define REAL_HANDLERS 0x7800u /* HLT, 16 bytes a vector */
#define VECTORS 32u
#define FLAG_TF 0x100u
#define FLAG_RF 0x10000u

static int setup(void **state)
{
	*state = fake_vcpu_create(fake_vm_create());
	return 0;
}

/* Real mode with every base 0, and a handler for each vector that halts. */
static void enter_real_mode(struct quire_vcpu *vcpu)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] = (struct cpu_segment){
		    .limit = 0xffff, .type = i == CPU_CS ? 11 : 3, .s = 1, .present = 1};
	s->cr0 = 0x30;
	s->cr4 = s->efer = 0;
	s->idt = (struct cpu_table){0, 0x3ff};
	memset(vcpu->vm->ram + REAL_HANDLERS, 0xf4, VECTORS * 16);
	for (uint32_t vector = 0; vector < VECTORS; vector++) {
		uint32_t entry = REAL_HANDLERS + vector * 16;

		memcpy(vcpu->vm->ram + vector * 4ul, &entry, sizeof(entry));
	}
}

/* 32-bit protected mode without paging, flat segments. */
static void enter_protected_mode(struct quire_vcpu *vcpu)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	fake_flat_segments(s);
	memcpy(vcpu->vm->ram + GUEST_GDT + 0x30, &(uint64_t){UINT64_C(0x00cf9b000000ffff)}, 8);
	for (uint64_t vector = 0; vector < VECTORS; vector++) {
		uint64_t at = GUEST_HANDLERS + vector * 16;
		uint64_t gate = (at & 0xffff) | 0x30 << 16 | UINT64_C(0xee00) << 32;

		memcpy(vcpu->vm->ram + GUEST_IDT + vector * 8, &gate, 8);
	}
	s->cr0 = 0x33;
	s->cr4 = s->efer = 0;
	s->idt = (struct cpu_table){GUEST_IDT, VECTORS * 8 - 1};
}

static enum cpu_exit run_bytes(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + START, start, (size_t)(end - start));
	s->halted = 0;
	s->rip = START;
	s->gpr[CPU_RSP] = STACK;
	cpu_state_changed(vcpu->cpu);
	return cpu_run(vcpu->cpu, 0, &info);
}

#define RUN(vcpu, name) assert_int_equal(run_bytes(vcpu, name##_start, name##_end), CPU_EXIT_HLT)
/* Where the HLT stands that ended it. */
#define ENDED_AT(vcpu) (cpu_state((vcpu)->cpu)->rip - 1)
#define RAN_THROUGH(vcpu, name) \
	assert_int_equal(ENDED_AT(vcpu), START + (name##_end - name##_start) - 1)

static uint64_t word_at(struct quire_vcpu *vcpu, uint64_t gpa, unsigned int size_bytes)
{
	uint64_t value = 0;

	memcpy(&value, vcpu->vm->ram + gpa, size_bytes);
	return value;
}

static void fill_registers(struct quire_vcpu *vcpu)
{
	for (uint64_t i = 0; i < 8; i++)
		cpu_state(vcpu->cpu)->gpr[i] = 0x11111111u * (i + 1);
}

/* AX is pushed first and DI last; SP as it was before. */
static void check_pushed(struct quire_vcpu *vcpu, unsigned int size)
{
	for (unsigned int i = 0; i < 8; i++) {
		uint64_t want = i == CPU_RSP ? STACK : 0x11111111u * (i + 1);

		assert_int_equal(word_at(vcpu, STACK - size * (i + 1), size),
				 want & (UINT64_MAX >> (64 - 8 * size)));
	}
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], STACK - size * 8);
}

PROGRAM(16, pusha16, "pushaw; hlt");
PROGRAM(16, pusha16_wide, "pushal; hlt");
PROGRAM(32, pusha32, "pushal; hlt");
PROGRAM(32, pusha32_narrow, "pushaw; hlt");

static void test_pusha(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_real_mode(vcpu);
	fill_registers(vcpu);
	RUN(vcpu, pusha16);
	check_pushed(vcpu, 2);
	RUN(vcpu, pusha16_wide);
	check_pushed(vcpu, 4);
	enter_protected_mode(vcpu);
	RUN(vcpu, pusha32);
	check_pushed(vcpu, 4);
	RUN(vcpu, pusha32_narrow);
	check_pushed(vcpu, 2);
}

PROGRAM(16, popa16,
	"pushaw; movw $0, %ax; movw %ax, %bx; movw %ax, %cx; movw %ax, %dx;"
	"movw %ax, %si; movw %ax, %di; movw %ax, %bp; popaw; hlt");
PROGRAM(32, popa32,
	"pushal; movl $0, %eax; movl %eax, %ebx; movl %eax, %ecx; movl %eax, %edx;"
	"movl %eax, %esi; movl %eax, %edi; movl %eax, %ebp; popal; hlt");

/* POPA gives back what PUSHA stored, but for SP, which it skips. */
static void test_popa(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_real_mode(vcpu);
	for (unsigned int mode = 0; mode < 2; mode++) {
		fill_registers(vcpu);
		if (mode) {
			enter_protected_mode(vcpu);
			RUN(vcpu, popa32);
		} else {
			RUN(vcpu, popa16);
		}
		for (unsigned int i = 0; i < 8; i++)
			assert_int_equal(cpu_state(vcpu->cpu)->gpr[i],
					 i == CPU_RSP ? STACK : 0x11111111u * (i + 1));
	}
}

/* The breakpoint is at the NOP; IRET goes there with the RF of its frame. */
static void break_at(struct quire_vcpu *vcpu, uint64_t address)
{
	cpu_state(vcpu->cpu)->dr[0] = address;
	cpu_state(vcpu->cpu)->dr7 = 0x402;
}

PROGRAM(16, iret16_wide,
	"pushl $0x10002; pushl $0; pushl $0x6000 + 2f - iret16_wide_start; iretl;"
	"2: nop; hlt");
PROGRAM(32, iret32,
	"pushl $0x10002; pushl $0x30; pushl $0x6000 + 2f - iret32_start; iretl;"
	"2: nop; hlt");
PROGRAM(64, iret64,
	"mov %rsp, %rax; pushq $0x10; pushq %rax; pushq $0x10002; pushq $8;"
	"pushq $0x6000 + 2f - iret64_start; iretq; 2: nop; hlt");

/* An IRET with RF set gets past the breakpoint, and RF ends with the instruction it goes to. */
static void test_iret_resumes(void **state)
{
	struct quire_vcpu *vcpu = *state;

	break_at(vcpu, START + (iret64_end - iret64_start) - 2);
	RUN(vcpu, iret64);
	RAN_THROUGH(vcpu, iret64);
	assert_int_equal(cpu_state(vcpu->cpu)->rflags & FLAG_RF, 0);
	enter_real_mode(vcpu);
	break_at(vcpu, START + (iret16_wide_end - iret16_wide_start) - 2);
	RUN(vcpu, iret16_wide);
	RAN_THROUGH(vcpu, iret16_wide);
	enter_protected_mode(vcpu);
	break_at(vcpu, START + (iret32_end - iret32_start) - 2);
	RUN(vcpu, iret32);
	RAN_THROUGH(vcpu, iret32);
	assert_int_equal(cpu_state(vcpu->cpu)->rflags & FLAG_RF, 0);
}

PROGRAM(16, iret16, "pushw $2; pushw $0; pushw $0x6000 + 2f - iret16_start; iretw; 2: nop; hlt");

/* 16 bits have no RF: the breakpoint is hit. */
static void test_iret_narrow(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_real_mode(vcpu);
	break_at(vcpu, START + (iret16_end - iret16_start) - 2);
	RUN(vcpu, iret16);
	assert_int_equal(ENDED_AT(vcpu), REAL_HANDLERS + 16);
}

PROGRAM(64, rf_popf, "pushfq; pop %rax; or $0x10000, %rax; push %rax; popfq; 2: nop; hlt");

/* POPF does not set RF. */
static void test_popf(void **state)
{
	struct quire_vcpu *vcpu = *state;

	break_at(vcpu, START + (rf_popf_end - rf_popf_start) - 2);
	RUN(vcpu, rf_popf);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 16);
}

PROGRAM(64, int_rf, "int3; hlt");
PROGRAM(64, nop_trap, "nop; nop; hlt");

/* RF of the frame: clear after INT3 and after a trap, though the instruction ran with RF. */
static void test_pushed_rf(void **state)
{
	struct quire_vcpu *vcpu = *state;

	cpu_state(vcpu->cpu)->rflags |= FLAG_RF;
	RUN(vcpu, int_rf);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 3 * 16);
	assert_int_equal(word_at(vcpu, cpu_state(vcpu->cpu)->gpr[CPU_RSP] + 16, 8) & FLAG_RF, 0);
	cpu_state(vcpu->cpu)->rflags |= FLAG_RF | FLAG_TF;
	RUN(vcpu, nop_trap);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 16);
	assert_int_equal(word_at(vcpu, cpu_state(vcpu->cpu)->gpr[CPU_RSP] + 16, 8) & FLAG_RF, 0);
}

PROGRAM(16, loop_narrow, "movl $0x10002, %ecx; xorw %ax, %ax; 1: incw %ax; loop 1b; hlt");
PROGRAM(16, loop_wide, "movl $2, %ecx; xorw %ax, %ax; 1: incw %ax; .byte 0x67; loop 1b; hlt");
PROGRAM(16, jcxz,
	"movl $0x10000, %ecx; xorw %ax, %ax; jcxz 1f; hlt; 1: incw %ax;"
	"jecxz 2f; incw %ax; 2: hlt");

/* The address size says whether CX or ECX counts. */
static void test_counters(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const uint64_t *gpr = cpu_state(vcpu->cpu)->gpr;

	enter_real_mode(vcpu);
	RUN(vcpu, loop_narrow);
	assert_int_equal(gpr[CPU_RAX] & 0xffff, 2);
	assert_int_equal(gpr[CPU_RCX], 0x10000);
	RUN(vcpu, loop_wide);
	assert_int_equal(gpr[CPU_RAX] & 0xffff, 2);
	RUN(vcpu, jcxz);
	assert_int_equal(gpr[CPU_RAX] & 0xffff, 2);
}

PROGRAM(16, enter_leave,
	"movw $0x6ffe, %bp; movw $0x1234, 0x6ffc; enter $8, $2; movw %sp, %ax;"
	"movw %bp, %bx; leave; hlt");

static void test_enter(void **state)
{
	struct quire_vcpu *vcpu = *state;
	const uint64_t *gpr = cpu_state(vcpu->cpu)->gpr;

	enter_real_mode(vcpu);
	RUN(vcpu, enter_leave);
	assert_int_equal(gpr[CPU_RBX] & 0xffff, STACK - 2);
	assert_int_equal(gpr[CPU_RAX] & 0xffff, STACK - 2 - 4 - 8);
	assert_int_equal(word_at(vcpu, STACK - 2, 2), 0x6ffe);
	assert_int_equal(word_at(vcpu, STACK - 6, 2), STACK - 2);
	assert_int_equal(gpr[CPU_RSP] & 0xffff, STACK);
	assert_int_equal(gpr[CPU_RBP] & 0xffff, 0x6ffe);
}

PROGRAM(32, jump_beyond, "jmp . + 0x10000; hlt");
PROGRAM(16, loop_beyond, "movw $3, %cx; .byte 0x66, 0xe9; .long 0x20000; hlt");

/* A near branch past the limit of CS faults itself. */
static void test_branch_limit(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_protected_mode(vcpu);
	cpu_state(vcpu->cpu)->seg[CPU_CS].limit = 0xffff;
	RUN(vcpu, jump_beyond);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	assert_int_equal(word_at(vcpu, cpu_state(vcpu->cpu)->gpr[CPU_RSP] + 4, 4), START);
	enter_real_mode(vcpu);
	RUN(vcpu, loop_beyond);
	assert_int_equal(ENDED_AT(vcpu), REAL_HANDLERS + 13 * 16);
	assert_int_equal(word_at(vcpu, cpu_state(vcpu->cpu)->gpr[CPU_RSP], 2), START + 3);
}

PROGRAM(32, int_narrow, "int $0x10; hlt");
PROGRAM(32, iret_narrow, "iretw");

/* A 16-bit gate pushes halves of words, and IRET takes them back. */
static void test_narrow_gate(void **state)
{
	struct quire_vcpu *vcpu = *state;
	uint64_t gate = GUEST_HANDLERS | 0x30 << 16 | UINT64_C(0xe600) << 32;

	enter_protected_mode(vcpu);
	memcpy(vcpu->vm->ram + GUEST_IDT + 0x10 * 8, &gate, sizeof(gate));
	RUN(vcpu, int_narrow);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], STACK - 6);
	assert_int_equal(word_at(vcpu, STACK - 6, 6), UINT64_C(2) << 32 | 0x30 << 16 | (START + 2));
	memcpy(vcpu->vm->ram + GUEST_HANDLERS, iret_narrow_start, 2);
	RUN(vcpu, int_narrow);
	RAN_THROUGH(vcpu, int_narrow);
}

/* Of the stack alone, where the other helpers use STACK. */
static enum cpu_exit run_with_stack(struct quire_vcpu *vcpu, const uint8_t *start,
				    const uint8_t *end, uint64_t rsp)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + START, start, (size_t)(end - start));
	s->halted = 0;
	s->rip = START;
	s->gpr[CPU_RSP] = rsp;
	cpu_state_changed(vcpu->cpu);
	return cpu_run(vcpu->cpu, 0, &info);
}

#define RUN_WITH_STACK(vcpu, name, rsp) run_with_stack(vcpu, name##_start, name##_end, rsp)

PROGRAM(16, int16, "int $0x10; hlt");

/* The stack pointer of 16 bits wraps between two words of a frame, and keeps its upper half. */
static void test_frame_wraps(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_real_mode(vcpu);
	vcpu->vm->ram[0x10000] = vcpu->vm->ram[0x10001] = 0xaa;
	cpu_state(vcpu->cpu)->seg[CPU_SS].base = 0x100;
	assert_int_equal(RUN_WITH_STACK(vcpu, int16, UINT64_C(0x50002)), CPU_EXIT_HLT);
	assert_int_equal(ENDED_AT(vcpu), REAL_HANDLERS + 16 * 16);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], 0x5fffc);
	assert_int_equal(word_at(vcpu, 0x100fc, 2), START + 2);
	assert_int_equal(word_at(vcpu, 0x100fe, 2), 0);
	assert_int_equal(word_at(vcpu, 0x100, 2), 2);
	/* A word that lies across the limit has no place: nor has the frame of #SS. */
	assert_int_equal(RUN_WITH_STACK(vcpu, int16, 3), CPU_EXIT_SHUTDOWN);
}

PROGRAM(32, int32, "int $0x10; hlt");

/* A frame must be inside the limit of its stack. */
static void test_frame_limit(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_segment *stack = &cpu_state(vcpu->cpu)->seg[CPU_SS];

	enter_protected_mode(vcpu);
	stack->type = 7;
	stack->limit = STACK - 13;
	assert_int_equal(RUN_WITH_STACK(vcpu, int32, STACK), CPU_EXIT_HLT);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 16 * 16);
	stack->limit = STACK - 12;
	assert_int_equal(RUN_WITH_STACK(vcpu, int32, STACK), CPU_EXIT_SHUTDOWN);
}

PROGRAM(16, far_jump_beyond, "ljmpl $0, $0x10000; hlt");
PROGRAM(16, far_call_beyond, "lcalll $0, $0x10000; hlt");
PROGRAM(16, far_ret_beyond, "pushl $0; pushl $0x10000; lretl; hlt");
PROGRAM(16, iret_beyond, "pushl $2; pushl $0; pushl $0x10000; iretl; hlt");

static void check_real_gp(struct quire_vcpu *vcpu, uint64_t rip)
{
	assert_int_equal(ENDED_AT(vcpu), REAL_HANDLERS + 13 * 16);
	assert_int_equal(word_at(vcpu, cpu_state(vcpu->cpu)->gpr[CPU_RSP] & 0xffff, 2), rip);
}

/* In real mode, too, a far transfer past the limit of CS faults itself, and moves nothing. */
static void test_far_limit(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_real_mode(vcpu);
	RUN(vcpu, far_jump_beyond);
	check_real_gp(vcpu, START);
	RUN(vcpu, far_call_beyond);
	check_real_gp(vcpu, START);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], STACK - 6);
	RUN(vcpu, far_ret_beyond);
	check_real_gp(vcpu, START + (far_ret_beyond_end - far_ret_beyond_start) - 3);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], STACK - 8 - 6);
	RUN(vcpu, iret_beyond);
	check_real_gp(vcpu, START + (iret_beyond_end - iret_beyond_start) - 3);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], STACK - 12 - 6);
}

PROGRAM(32, store_data, "movl $1, 0x2000; hlt");
PROGRAM(32, store_code, "movl $1, %cs:0x2000; hlt");
PROGRAM(32, store_string, "movl $0x2000, %edi; stosb; hlt");
PROGRAM(32, store_bit, "movl $1, %eax; btsl %eax, 0x2000; hlt");
PROGRAM(32, store_bytes, "movl $0x2000, %edi; pcmpeqb %mm1, %mm1; maskmovq %mm1, %mm0; hlt");
PROGRAM(32, load_data, "movl 0x2000, %eax; hlt");
PROGRAM(32, load_code, "movl %cs:0x2000, %eax; hlt");
PROGRAM(32, test_bit, "movl $1, %eax; btl %eax, 0x2000; hlt");

/* A segment's type says what may be done with it, once it is loaded, too. */
static void test_segment_rights(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_segment *seg = cpu_state(vcpu->cpu)->seg;

	enter_protected_mode(vcpu);
	seg[CPU_DS].type = seg[CPU_ES].type = 1;
	RUN(vcpu, load_data);
	RAN_THROUGH(vcpu, load_data);
	RUN(vcpu, test_bit);
	RAN_THROUGH(vcpu, test_bit);
	RUN(vcpu, store_data);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	seg[CPU_CS].selector = 0x30;
	RUN(vcpu, store_string);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	RUN(vcpu, store_bit);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	RUN(vcpu, store_bytes);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	RUN(vcpu, store_code);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	RUN(vcpu, load_code);
	RAN_THROUGH(vcpu, load_code);
	seg[CPU_CS].type = 9;
	RUN(vcpu, load_code);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
}

PROGRAM(32, far_jump, "ljmp $0x38, $0x6000 + 1f - far_jump_start; 1: hlt");

/* The table's entry shows that a transfer has loaded it. */
static void test_far_accessed(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_protected_mode(vcpu);
	memcpy(vcpu->vm->ram + GUEST_GDT + 0x38, &(uint64_t){UINT64_C(0x00cf9a000000ffff)}, 8);
	cpu_state(vcpu->cpu)->gdt.limit = 0x3f;
	RUN(vcpu, far_jump);
	RAN_THROUGH(vcpu, far_jump);
	assert_int_equal(word_at(vcpu, GUEST_GDT + 0x38, 8), UINT64_C(0x00cf9b000000ffff));
}

PROGRAM(32, iret_to_vm86,
	"pushl $0; pushl $0; pushl $0; pushl $0; pushl $0; pushl $0x800; pushl $0x20002; pushl $0;"
	"pushl $0; iretl; hlt");

/* Virtual-8086 mode and tasks are not executed: the client hears of it. */
static void test_not_executed(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_protected_mode(vcpu);
	assert_int_equal(RUN_WITH_STACK(vcpu, iret_to_vm86, STACK), CPU_EXIT_EMULATION);
	vcpu->vm->ram[GUEST_IDT + 16 * 8 + 5] = 0xe5;
	assert_int_equal(RUN_WITH_STACK(vcpu, int32, STACK), CPU_EXIT_EMULATION);
}

/* A TSS of 16 bits has a stack of 16 bits for each level. */
static void test_narrow_tss(void **state)
{
	static const uint16_t tss[3] = {0, STACK - 0x100, SELECTOR_DATA};
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	enter_protected_mode(vcpu);
	memcpy(vcpu->vm->ram + 0x2800, tss, sizeof(tss));
	s->seg[CPU_TR] = (struct cpu_segment){
	    .base = 0x2800, .limit = 0x2b, .selector = 0x40, .type = 3, .present = 1};
	s->seg[CPU_CS].selector = 0x33;
	s->seg[CPU_SS].selector = SELECTOR_DATA | 3;
	s->seg[CPU_CS].dpl = s->seg[CPU_SS].dpl = 3;
	assert_int_equal(RUN_WITH_STACK(vcpu, int32, STACK), CPU_EXIT_HLT);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 16 * 16);
	assert_int_equal(s->gpr[CPU_RSP], STACK - 0x100 - 5 * 4);
	assert_int_equal(word_at(vcpu, STACK - 0x100 - 8, 4), STACK);
	assert_int_equal(word_at(vcpu, STACK - 0x100 - 4, 4), SELECTOR_DATA | 3);
}

PROGRAM(16, les_wrap, "movw $0xfffe, %bx; lesw (%bx), %ax; hlt");
PROGRAM(16, bound_wrap, "movw $0xfffe, %bx; movw $5, %ax; .byte 0x62, 0x07; hlt");
PROGRAM(16, call_wrap, "movw $0xfffe, %bx; ljmpw *(%bx); hlt");

/* The two parts of a pointer or of bounds are read by themselves: the offset wraps between them. */
static void test_parts_wrap(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	enter_real_mode(vcpu);
	s->seg[CPU_DS].base = 0x10000;
	memcpy(vcpu->vm->ram + 0x1fffe, &(uint16_t){3}, 2);
	memcpy(vcpu->vm->ram + 0x10000, &(uint16_t){0x1234}, 2);
	RUN(vcpu, les_wrap);
	RAN_THROUGH(vcpu, les_wrap);
	assert_int_equal(s->gpr[CPU_RAX] & 0xffff, 3);
	assert_int_equal(s->seg[CPU_ES].selector, 0x1234);
	RUN(vcpu, bound_wrap);
	RAN_THROUGH(vcpu, bound_wrap);
	memcpy(vcpu->vm->ram + 0x1fffe, &(uint16_t){REAL_HANDLERS}, 2);
	memcpy(vcpu->vm->ram + 0x10000, &(uint16_t){0}, 2);
	RUN(vcpu, call_wrap);
	assert_int_equal(ENDED_AT(vcpu), REAL_HANDLERS);
}

PROGRAM(32, move_string, "movl $0x400000, %esi; movsl; hlt");
PROGRAM(32, compare_string, "movl $0x400000, %esi; cmpsl; hlt");
PROGRAM(32, out_string, "movl $0x400000, %esi; movl $0x80, %edx; outsb; hlt");
PROGRAM(32, push_all, "pushal; hlt");

/* 32-bit code of long mode, whose pages at PAGED_LINEAR are not there, at privilege level @cpl. */
static void enter_compatibility(struct quire_vcpu *vcpu, unsigned int cpl)
{
	struct cpu_segment *seg = cpu_state(vcpu->cpu)->seg;

	memset(vcpu->vm->ram + GUEST_PT, 0, 64);
	seg[CPU_CS].l = 0;
	seg[CPU_CS].db = seg[CPU_SS].db = 1;
	seg[CPU_CS].dpl = seg[CPU_SS].dpl = (uint8_t)cpl;
	seg[CPU_ES] = (struct cpu_segment){.unusable = 1};
}

/* Of two faults the first access has its own: the source's before the target's, AX's before DI's.
 */
static void test_fault_order(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	enter_compatibility(vcpu, 0);
	RUN(vcpu, move_string);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 14 * 16);
	enter_compatibility(vcpu, 0);
	RUN(vcpu, compare_string);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
	/* A handler's stack in a TSS, for both faults of a push. */
	memset(vcpu->vm->ram + 0x2800, 0, 0x68);
	memcpy(vcpu->vm->ram + 0x2804, &(uint64_t){STACK}, 8);
	memcpy(vcpu->vm->ram + 0x2866, &(uint16_t){0x68}, 2);
	s->seg[CPU_TR] = (struct cpu_segment){
	    .base = 0x2800, .limit = 0x67, .selector = 0x28, .type = 11, .present = 1};
	enter_compatibility(vcpu, 3);
	assert_int_equal(RUN_WITH_STACK(vcpu, push_all, 0x401010), CPU_EXIT_HLT);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 14 * 16);
	assert_int_equal(s->cr2, 0x40100c);
	/* The right to a port comes first of all. */
	enter_compatibility(vcpu, 3);
	RUN(vcpu, out_string);
	assert_int_equal(ENDED_AT(vcpu), GUEST_HANDLERS + 13 * 16);
}

PROGRAM(16, enter_wide, "movl $0x1234, %ebp; .byte 0x66; enter $0, $0; movl %ebp, %eax; hlt");

/* A frame of 32 bits on a stack of 16 is the whole of ESP. */
static void test_enter_wide(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_real_mode(vcpu);
	assert_int_equal(RUN_WITH_STACK(vcpu, enter_wide, 0x50000 | STACK), CPU_EXIT_HLT);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], 0x50000 | (STACK - 4));
}

PROGRAM(16, andn16, ".byte 0xc4, 0xe2, 0x70, 0xf2, 0xc2; hlt");
PROGRAM(32, andn32, ".byte 0xc4, 0xe2, 0x70, 0xf2, 0xc2; hlt");

/* In real mode a VEX prefix is an LES of a register, which there is not. */
static void test_vex_prefix(void **state)
{
	struct quire_vcpu *vcpu = *state;
	uint64_t *gpr = cpu_state(vcpu->cpu)->gpr;

	enter_real_mode(vcpu);
	RUN(vcpu, andn16);
	assert_int_equal(ENDED_AT(vcpu), REAL_HANDLERS + 6 * 16);
	enter_protected_mode(vcpu);
	gpr[CPU_RCX] = 0x0f0f;
	gpr[CPU_RDX] = 0x1234;
	RUN(vcpu, andn32);
	RAN_THROUGH(vcpu, andn32);
	assert_int_equal(gpr[CPU_RAX], 0x1030);
}

PROGRAM(32, paging_on, "movl %cr0, %eax; orl $0x80000000, %eax; movl %eax, %cr0");

/* The surroundings are told that the guest changed CR0.PG, though it may come to nothing. */
static void test_paging_turns(void **state)
{
	struct quire_vcpu *vcpu = *state;

	enter_protected_mode(vcpu);
	assert_int_equal(cpu_counts(vcpu->cpu)->paging_turns, 0);
	/* Without tables it cannot go on. */
	assert_int_equal(run_bytes(vcpu, paging_on_start, paging_on_end), CPU_EXIT_SHUTDOWN);
	assert_int_equal(cpu_counts(vcpu->cpu)->paging_turns, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_pusha, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_popa, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_iret_resumes, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_iret_narrow, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_popf, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_pushed_rf, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_counters, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_enter, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_branch_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_narrow_gate, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_frame_wraps, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_frame_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_far_limit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_segment_rights, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_far_accessed, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_not_executed, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_narrow_tss, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_parts_wrap, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_fault_order, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_enter_wide, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_vex_prefix, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_paging_turns, setup, fake_vcpu_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
