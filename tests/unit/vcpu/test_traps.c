/* Traps and the instructions that hold them back; branches that lead nowhere; ports and strings. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"

#define PROGRAM(name, code)                                                          \
	__asm__(".pushsection .rodata\n" #name "_start:\n" code "\n" #name "_end:\n" \
		".popsection\n");                                                    \
	extern const uint8_t name##_start[], name##_end[]

#define LANDING 0x11000u /* HLTs */
#define VECTOR_DB 1u
#define VECTOR_UD 6u
#define VECTOR_GP 13u
#define VECTOR_PF 14u
#define FLAG_TF 0x100u
#define SET_TF "pushfq; orl $0x100, (%rsp); popfq;"
#define DR6_BD (1u << 13)
#define DR6_BS (1u << 14)
#define DR7_GD (1u << 13)
/* DR7 for breakpoint 0: an access to a port, one byte; a read or write of 4 bytes. */
#define DR7_PORT 0x20402u
#define DR7_DATA 0xf0402u

static int setup(void **state)
{
	struct quire_vcpu *vcpu = fake_vcpu_create(fake_vm_create());

	memset(vcpu->vm->ram + LANDING, 0xf4, 64);
	vcpu->device_in_kernel = 1;
	*state = vcpu;
	return 0;
}

static enum cpu_exit run_program(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end)
{
	struct cpu_exit_info info;

	memcpy(vcpu->vm->ram + GUEST_CODE, start, (size_t)(end - start));
	cpu_state_changed(vcpu->cpu);
	return cpu_run(vcpu->cpu, 0, &info);
}

#define RUN(vcpu, name) assert_int_equal(run_program(vcpu, name##_start, name##_end), CPU_EXIT_HLT)
#define SIZE(name) ((uint64_t)(name##_end - name##_start))

static uint64_t frame_word(struct quire_vcpu *vcpu, unsigned int index)
{
	uint64_t value;

	memcpy(&value, vcpu->vm->ram + cpu_state(vcpu->cpu)->gpr[CPU_RSP] + index * 8, 8);
	return value;
}

/* The handler of @vector halted; its frame says where from. */
static void check_vector(struct quire_vcpu *vcpu, unsigned int vector, uint64_t rip)
{
	unsigned int rip_index = vector == VECTOR_GP;

	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_HANDLERS + vector * 16 + 1);
	assert_int_equal(frame_word(vcpu, rip_index), rip);
}

PROGRAM(step_syscall, SET_TF "syscall");

/* A system call is stepped when TF is still set behind it. */
static void test_syscall(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->star = UINT64_C(8) << 32;
	s->lstar = LANDING;
	s->sfmask = FLAG_TF;
	RUN(vcpu, step_syscall);
	assert_int_equal(s->rip, LANDING + 1);
	s->sfmask = 0;
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, step_syscall);
	check_vector(vcpu, VECTOR_DB, LANDING);
	assert_true(s->dr6 & DR6_BS);
}

PROGRAM(return_stepping, "mov $0x11000, %ecx; mov $0x102, %r11d; sysretq");

/* TF that SYSRET loads traps before an instruction of the program. */
static void test_sysret(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->star = UINT64_C(0x10) << 48;
	RUN(vcpu, return_stepping);
	check_vector(vcpu, VECTOR_DB, LANDING);
	assert_true(s->dr6 & DR6_BS);
}

/*
 * A user's loop calls the kernel with each set of the six flags. The kernel notes R11 and the flags
 * that it has, and returns with the set from the other end of the table, which the user notes.
 */
PROGRAM(calls, "mov $1f-calls_start+0x10000, %ecx; mov $2, %r11d; xor %ebx, %ebx; sysretq;"
	       "1: xor %edi, %edi; 2: push 0x30000(,%rdi,8); popfq; syscall;"
	       "pushfq; pop 0x30600(,%rdi,8); inc %edi; cmp $64, %edi; jb 2b;"
	       "mov $1, %ebx; syscall");
PROGRAM(serve, "pushfq; pop %rdx; test %ebx, %ebx; jnz 1f; mov %rdx, 0x30200(,%rdi,8);"
	       "mov %r11, 0x30400(,%rdi,8); mov %edi, %eax; xor $63, %eax;"
	       "mov 0x30000(,%rax,8), %r11; sysretq; 1: hlt");

#define CALLS 64u

/* The six flags, as the bits of @index say. */
static uint64_t flags_of(unsigned int index)
{
	static const uint64_t flag[] = {1, 4, 0x10, 0x40, 0x80, 0x800};
	uint64_t flags = 2;

	for (unsigned int i = 0; i < 6; i++)
		flags |= index >> i & 1 ? flag[i] : 0;
	return flags;
}

static void test_flags_of_calls(void **state)
{
	static const uint64_t masks[] = {0, 0x8d5, 0x41, 0x894, 0x247fd5};
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint64_t *table = (uint64_t *)(vcpu->vm->ram + GUEST_DATA);

	s->star = UINT64_C(0x10) << 48 | UINT64_C(8) << 32;
	s->lstar = LANDING;
	memcpy(vcpu->vm->ram + LANDING, serve_start, SIZE(serve));
	for (unsigned int i = 0; i < CALLS; i++)
		table[i] = flags_of(i);
	for (unsigned int mask = 0; mask < sizeof(masks) / sizeof(masks[0]); mask++) {
		s->sfmask = masks[mask];
		s->rip = GUEST_CODE;
		s->halted = 0;
		RUN(vcpu, calls);
		for (unsigned int i = 0; i < CALLS; i++) {
			assert_int_equal(table[CALLS * 1 + i], (flags_of(i) & ~masks[mask]) | 2);
			assert_int_equal(table[CALLS * 2 + i], flags_of(i));
			assert_int_equal(table[CALLS * 3 + i], flags_of(CALLS - 1 - i));
		}
	}
}

PROGRAM(call_once, "nop; syscall");
PROGRAM(return_of_user, "mov $1f-return_of_user_start+0x10000, %ecx; mov $2, %r11d; sysretq;"
			"1: sysretq");

/* Without EFER.SCE there is no SYSCALL, and a user has no SYSRET. */
static void test_calls_refused(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->star = UINT64_C(0x10) << 48 | UINT64_C(8) << 32;
	s->lstar = LANDING;
	RUN(vcpu, return_of_user);
	check_vector(vcpu, VECTOR_GP, GUEST_CODE + SIZE(return_of_user) - 3);
	s->efer &= ~UINT64_C(1);
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, call_once);
	check_vector(vcpu, VECTOR_UD, GUEST_CODE + 1);
}

PROGRAM(step_mov_ss, "mov $0x10, %eax;" SET_TF "mov %eax, %ss; nop; nop; hlt");

static void test_mov_ss_step(void **state)
{
	struct quire_vcpu *vcpu = *state;

	RUN(vcpu, step_mov_ss);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + SIZE(step_mov_ss) - 2);
}

PROGRAM(watch_mov_ss, "movl $0x10, 0x30000; mov $0x30000, %eax; mov %dr7, %rbx; or $0xf0002, %ebx;"
		      "mov %rbx, %dr7; mov (%rax), %ss; nop; nop; hlt");
PROGRAM(break_mov_ss, "mov $0x10, %eax; mov %eax, %ss; nop; nop; hlt");

/* What MOV SS hit is told behind the next instruction, whose own breakpoint is lost. */
static void test_mov_ss_breakpoints(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->dr[0] = 0x30000;
	RUN(vcpu, watch_mov_ss);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + SIZE(watch_mov_ss) - 2);
	assert_int_equal(s->dr6 & 15, 1);
	s->dr[0] = GUEST_CODE + SIZE(break_mov_ss) - 3;
	s->dr7 = 0x402;
	s->rip = GUEST_CODE;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->halted = 0;
	RUN(vcpu, break_mov_ss);
	assert_int_equal(s->rip, GUEST_CODE + SIZE(break_mov_ss));
}

PROGRAM(step_int, SET_TF "int $0x11; hlt");
PROGRAM(step_icebp, SET_TF "nop; .byte 0xf1; hlt");

/* No handler of an instruction's own event is stepped into. */
static void test_step_into_handler(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	/* The first #DB is that of INT itself: its handler halts. */
	RUN(vcpu, step_int);
	check_vector(vcpu, 0x11, GUEST_CODE + SIZE(step_int) - 1);
	s->rip = GUEST_CODE + SIZE(step_icebp) - 2;
	s->rflags |= FLAG_TF;
	s->dr6 = 0xffff0ff0;
	s->halted = 0;
	s->gpr[CPU_RSP] = GUEST_STACK;
	RUN(vcpu, step_icebp);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + SIZE(step_icebp) - 1);
	assert_int_equal(s->dr6, 0xffff0ff0);
	assert_int_equal(s->gpr[CPU_RSP], GUEST_STACK - 40);
}

#define WATCH_SS                                                                                 \
	"movl $0x10, 0x30000; mov $0x30000, %eax; mov %dr7, %rbx; or $0xf0002, %ebx; mov %rbx, " \
	"%dr7; mov (%rax), %ss;"
PROGRAM(watch_icebp, WATCH_SS ".byte 0xf1; hlt");
PROGRAM(watch_int1, WATCH_SS "int $1; hlt");

/* INT1 tells what MOV SS hit by its own #DB, INT n is interrupted by another one. */
static void test_mov_ss_events(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->dr[0] = 0x30000;
	RUN(vcpu, watch_icebp);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + SIZE(watch_icebp) - 1);
	assert_int_equal(s->gpr[CPU_RSP], GUEST_STACK - 40);
	assert_int_equal(s->dr6 & 15, 1);
	s->dr7 = 0x400;
	s->rip = GUEST_CODE;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->halted = 0;
	RUN(vcpu, watch_int1);
	check_vector(vcpu, VECTOR_DB, GUEST_HANDLERS + VECTOR_DB * 16);
	assert_int_equal(s->gpr[CPU_RSP], GUEST_STACK - 80 - 8);
}

PROGRAM(read_debug, "mov %dr3, %rax; hlt");
PROGRAM(step_once, SET_TF "nop; hlt");

/* An access to a debug register faults while GD is set, which any #DB clears. */
static void test_general_detect(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->dr7 = 0x400 | DR7_GD;
	s->dr6 = 0xffff0ff5;
	RUN(vcpu, read_debug);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE);
	assert_int_equal(s->dr6, 0xffff0ff0 | DR6_BD);
	assert_int_equal(s->dr7, 0x400);
	s->dr7 = 0x400 | DR7_GD;
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, step_once);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + SIZE(step_once) - 1);
	assert_int_equal(s->dr7, 0x400);
}

PROGRAM(out_watched, "out %al, $0x81; out %al, $0x80; nop; hlt");
PROGRAM(in_watched, "in $0x7f, %ax; nop; hlt");

/* A breakpoint of a port traps behind the access, where CR4.DE is set. */
static void test_port_breakpoints(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->dr[0] = 0x80;
	s->dr7 = DR7_PORT;
	RUN(vcpu, out_watched);
	assert_int_equal(s->rip, GUEST_CODE + SIZE(out_watched));
	s->cr4 |= 8;
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, out_watched);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + 4);
	assert_int_equal(s->dr6 & 15, 1);
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, in_watched);
	check_vector(vcpu, VECTOR_DB, GUEST_CODE + 3);
}

PROGRAM(call_nowhere, "mov $0x800000000000, %rax; call *%rax");
PROGRAM(jump_nowhere, "mov $0x800000000000, %rax; jmp *%rax");
PROGRAM(return_nowhere, "mov $0x800000000000, %rax; push %rax; ret $8");
/* Where the call writes its return address is where its target was read. */
PROGRAM(call_by_stack, "mov $0x800000000000, %rax; mov %rax, -8(%rsp); call *-8(%rsp)");

/* The branch faults, not its target, and moves no register. */
static void test_branches_nowhere(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	RUN(vcpu, call_nowhere);
	check_vector(vcpu, VECTOR_GP, GUEST_CODE + 10);
	assert_int_equal(frame_word(vcpu, 4), GUEST_STACK);
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, jump_nowhere);
	check_vector(vcpu, VECTOR_GP, GUEST_CODE + 10);
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, return_nowhere);
	check_vector(vcpu, VECTOR_GP, GUEST_CODE + 11);
	assert_int_equal(frame_word(vcpu, 4), GUEST_STACK - 8);
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->rip = GUEST_CODE;
	s->halted = 0;
	RUN(vcpu, call_by_stack);
	check_vector(vcpu, VECTOR_GP, GUEST_CODE + 15);
	assert_int_equal(frame_word(vcpu, 4), GUEST_STACK);
}

PROGRAM(ins_down, "std; mov $6, %ecx; mov $0x30003, %edi; mov $0x80, %edx; rep insb; hlt");

/* Downwards as upwards the client is asked for what the page takes. */
static void test_string_input_down(void **state)
{
	static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6};
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;
	uint8_t *data = vcpu->vm->ram + GUEST_DATA;

	vcpu->device_in_kernel = 0;
	assert_int_equal(run_program(vcpu, ins_down_start, ins_down_end), CPU_EXIT_IO);
	cpu_cancel_pending(vcpu->cpu);
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state_changed(vcpu->cpu);
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_IO);
	assert_int_equal(info.io.count, 3);
	cpu_answer(vcpu->cpu, bytes, 3, false);
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_IO);
	assert_memory_equal(data + 1, "\3\2\1", 3);
	/* One is left above the page's end. */
	assert_true(info.io.count <= 1);
	cpu_answer(vcpu->cpu, bytes + 3, 1, false);
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_IO);
	assert_int_equal(info.io.count, 2);
	cpu_answer(vcpu->cpu, bytes + 4, 2, false);
	assert_int_equal(cpu_run(vcpu->cpu, 0, &info), CPU_EXIT_HLT);
	assert_memory_equal(data - 2, "\6\5\4", 3);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RDI], GUEST_DATA - 3);
}

PROGRAM(load_local, "mov $4, %eax; mov %eax, %ds; hlt");

/* EFLAGS.AC frees the accesses of instructions from SMAP, and none to a descriptor table. */
static void test_smap_implicit(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint64_t descriptor = UINT64_C(0x00cf92000000ffff);

	memcpy(vcpu->vm->ram + PAGED_LINEAR, &descriptor, sizeof(descriptor));
	/* Of the tables' pages of 2 MiB, the one with the local table alone is the user's. */
	for (unsigned int i = 0; i < 4; i++)
		if (i != 2)
			vcpu->vm->ram[GUEST_PD + i * 8] &= (uint8_t)~4u;
	s->cr4 |= UINT64_C(1) << 21;
	s->rflags |= UINT64_C(1) << 18;
	s->seg[CPU_LDTR] = (struct cpu_segment){.base = 0x400000, .limit = 7, .present = 1};
	RUN(vcpu, load_local);
	assert_int_equal(s->rip, GUEST_HANDLERS + VECTOR_PF * 16 + 1);
	assert_int_equal(s->cr2, 0x400000);
	assert_int_equal(frame_word(vcpu, 0), 1);
}

/* Interrupts come while IF is clear; each way to set it again finds them. RBX counts them. */
#define ARRIVALS 12u
#define ARRIVING_VECTOR 20u
PROGRAM(by_sti, "1: cli; mov $2000, %edx; 2: dec %edx; jnz 2b; sti; nop;"
		"cmp $12, %rbx; jb 1b; hlt");
PROGRAM(by_popf, "1: sti; nop; pushfq; cli; mov $2000, %edx; 2: dec %edx; jnz 2b; popfq;"
		 "cmp $12, %rbx; jb 1b; hlt");
PROGRAM(by_iret, "mov %ss, %esi; mov %cs, %edi; 1: sti; nop; mov %rsp, %rax; push %rsi;"
		 "push %rax; pushfq; push %rdi; lea 3f(%rip), %rax; push %rax; cli;"
		 "mov $2000, %edx; 2: dec %edx; jnz 2b; iretq;"
		 "3: cmp $12, %rbx; jb 1b; hlt");

static struct quire_vcpu *arriving;

static void on_timer(int signal_number)
{
	(void)signal_number;
	if (arriving->interrupt >= 0)
		return;
	arriving->interrupt = ARRIVING_VECTOR;
	__atomic_fetch_or(&arriving->doorbell, QUIRE_REQ_RELOAD, __ATOMIC_SEQ_CST);
}

static void begin_way(struct quire_vcpu *vcpu)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	s->gpr[CPU_RBX] = 0;
	s->gpr[CPU_RSP] = GUEST_STACK;
	s->rip = GUEST_CODE;
	s->halted = 0;
}

static void test_interrupts_while_held_back(void **state)
{
	static const uint8_t handler[] = {0x48, 0xff, 0xc3, 0x48, 0xcf}; /* inc %rbx; iretq */
	const struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
	struct quire_vcpu *vcpu = *state;
	const uint64_t *arrived = &cpu_state(vcpu->cpu)->gpr[CPU_RBX];

	memcpy(vcpu->vm->ram + GUEST_HANDLERS + ARRIVING_VECTOR * 16, handler, sizeof(handler));
	arriving = vcpu;
	signal(SIGVTALRM, on_timer);
	setitimer(ITIMER_VIRTUAL, &often, NULL);
	alarm(60);
	begin_way(vcpu);
	RUN(vcpu, by_sti);
	assert_true(*arrived >= ARRIVALS);
	begin_way(vcpu);
	RUN(vcpu, by_popf);
	assert_true(*arrived >= ARRIVALS);
	begin_way(vcpu);
	RUN(vcpu, by_iret);
	assert_true(*arrived >= ARRIVALS);
	alarm(0);
	setitimer(ITIMER_VIRTUAL, &never, NULL);
}

PROGRAM(end_interrupt, "sti; nop; mov $0x40000000, %edi; mov %eax, (%rdi)");
PROGRAM(then_loop, "mov $1000, %ecx; 1: dec %ecx; jnz 1b; hlt");

/* What is written to an APIC frees an interrupt, and no doorbell rings: it comes at once. */
static void test_interrupt_freed_by_device(void **state)
{
	struct quire_vcpu *vcpu = *state;

	vcpu->freed_interrupt = ARRIVING_VECTOR;
	memcpy(vcpu->vm->ram + GUEST_CODE + SIZE(end_interrupt), then_loop_start, SIZE(then_loop));
	RUN(vcpu, end_interrupt);
	check_vector(vcpu, ARRIVING_VECTOR, GUEST_CODE + SIZE(end_interrupt));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_syscall, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_sysret, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_flags_of_calls, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_calls_refused, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_mov_ss_step, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_mov_ss_breakpoints, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_step_into_handler, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_mov_ss_events, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_general_detect, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_port_breakpoints, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_branches_nowhere, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_string_input_down, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_smap_implicit, setup, fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_interrupt_freed_by_device, setup,
					    fake_vcpu_teardown),
	    cmocka_unit_test_setup_teardown(test_interrupts_while_held_back, setup,
					    fake_vcpu_teardown),
	};

	fake_signals_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
