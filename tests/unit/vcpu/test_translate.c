/*
 * Translated code against the interpreter: random blocks run both ways, with each page that they
 * touch taken away in turn, with a kick at each instruction of the host's, with code that changes.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/process/guard.h"
#include "tests/unit/vcpu/fake_vcpu.h"
#include "tests/unit/vcpu/random_code.h"

#define STACK_LINEAR (PAGED_LINEAR + 200 * PAGE)
#define BLOCK_INSNS 24u
#define FLAGS UINT64_C(0x8d5)
#define BLOCKS 120
#define TRAP_FLAG UINT64_C(0x100)

/* Two machines in the same state. */
struct pair {
	struct quire_vcpu *translated, *interpreted;
};

static int setup(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	pair->interpreted = fake_vcpu_create(fake_vm_create());
	pair->translated = fake_vcpu_create(fake_vm_create());
	*state = pair;
	if (cpu_translate_after(pair->translated->cpu, 0))
		return -1;
	return getenv("TEST_LOCKSTEP") ? cpu_translate_lockstep(pair->translated->cpu) : 0;
}

static void destroy(struct quire_vcpu *vcpu)
{
	struct fake_vm *vm = vcpu->vm;

	fake_vcpu_destroy(vcpu);
	fake_vm_destroy(vm);
}

static int teardown(void **state)
{
	struct pair *pair = *state;

	destroy(pair->translated);
	destroy(pair->interpreted);
	free(pair);
	return 0;
}

static void state_make(struct cpu_state *s)
{
	for (unsigned int i = 0; i < 16; i++)
		s->gpr[i] = rnd(4) ? rnd(UINT64_MAX) : rnd(256);
	for (unsigned int i = 0; i < sizeof(s->xmm); i++)
		s->xmm[i / 16][i % 16] = (uint8_t)rnd(256);
	s->gpr[CPU_RBX] = DATA_LINEAR;
	s->gpr[12] = rnd(16);
	s->gpr[CPU_RSP] = STACK_LINEAR + 0x800;
	s->rflags = 2 | (rnd(UINT64_MAX) & FLAGS);
}

static void begin(struct quire_vcpu *vcpu, const struct code *code, const struct cpu_state *state)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);

	memcpy(vcpu->vm->ram + GUEST_CODE, code->bytes, code->size);
	memcpy(s->gpr, state->gpr, sizeof(s->gpr));
	memcpy(s->xmm, state->xmm, sizeof(s->xmm));
	s->rflags = state->rflags;
	s->rip = GUEST_CODE;
	s->halted = 0;
	s->seg[CPU_GS].base = 1;
	s->kernel_gs_base = 2;
}

static void data_make(struct pair *pair)
{
	uint8_t *one = pair->translated->vm->ram, *two = pair->interpreted->vm->ram;

	for (unsigned int i = 0; i <= ACCESSES_MAX + 2; i++) {
		uint64_t *page = (uint64_t *)(one + DATA_LINEAR + i * PAGE);

		for (unsigned int j = 0; j < PAGE / 8; j++)
			page[j] = rnd(UINT64_MAX);
	}
	memcpy(two + PAGED_LINEAR, one + PAGED_LINEAR, 256 * PAGE);
}

static enum cpu_exit run_one(struct quire_vcpu *vcpu)
{
	struct cpu_exit_info info;

	return cpu_run(vcpu->cpu, 0, &info);
}

static uint64_t retired(const struct quire_vcpu *vcpu)
{
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);

	return counts->interpreted + counts->translated;
}

static void expect_same(const struct pair *pair)
{
	const struct cpu_state *one = cpu_state(pair->translated->cpu);
	const struct cpu_state *two = cpu_state(pair->interpreted->cpu);

	assert_int_equal(one->rip, two->rip);
	assert_memory_equal(one->gpr, two->gpr, sizeof(one->gpr));
	assert_memory_equal(one->xmm, two->xmm, sizeof(one->xmm));
	assert_memory_equal(one->ymm_high, two->ymm_high, sizeof(one->ymm_high));
	assert_memory_equal(one->st, two->st, sizeof(one->st));
	assert_int_equal(one->rflags, two->rflags);
	assert_int_equal(one->cr2, two->cr2);
	assert_int_equal(one->seg[CPU_GS].base, two->seg[CPU_GS].base);
	assert_int_equal(one->kernel_gs_base, two->kernel_gs_base);
	assert_int_equal(retired(pair->translated), retired(pair->interpreted));
	assert_memory_equal(pair->translated->vm->ram + PAGED_LINEAR,
			    pair->interpreted->vm->ram + PAGED_LINEAR, 256 * PAGE);
	/* The frames of page faults, with RFLAGS. */
	assert_memory_equal(pair->translated->vm->ram + GUEST_STACK - 64,
			    pair->interpreted->vm->ram + GUEST_STACK - 64, 64);
}

static void run_both(struct pair *pair)
{
	assert_int_equal(run_one(pair->translated), CPU_EXIT_HLT);
	assert_int_equal(run_one(pair->interpreted), CPU_EXIT_HLT);
	expect_same(pair);
}

static void begin_both(struct pair *pair, const struct code *code, const struct cpu_state *state)
{
	begin(pair->translated, code, state);
	begin(pair->interpreted, code, state);
}

/* Four times: the first fills the TLBs by way of the interpreter. */
static void test_random_blocks(void **state)
{
	struct pair *pair = *state;
	struct cpu_state start;
	struct code code;

	for (unsigned int block = 0; block < BLOCKS; block++) {
		code_make(&code, BLOCK_INSNS);
		data_make(pair);
		for (unsigned int i = 0; i < 4; i++) {
			state_make(&start);
			begin_both(pair, &code, &start);
			run_both(pair);
		}
	}
}

#define CR0_TASK_SWITCHED UINT64_C(8)
#define CR0_EMULATED UINT64_C(4)
#define CR4_SSE UINT64_C(0x200)
#define ADD "\x66\x0f\xd4\xca\xf4" /* paddq %xmm2, %xmm1; hlt */

static void set_controls(struct pair *pair, uint64_t cr0, uint64_t cr4)
{
	struct quire_vcpu *both[] = {pair->translated, pair->interpreted};

	for (unsigned int i = 0; i < 2; i++) {
		cpu_state(both[i]->cpu)->cr0 = cr0;
		cpu_state(both[i]->cpu)->cr4 = cr4;
	}
}

/* Translated vector code asks CR0 and CR4, which the client or the code itself has changed. */
static void test_refused_vectors(void **state)
{
	static const struct {
		struct code code;
		uint64_t cr0, cr4; /* bits that change before the last run */
		unsigned int vector;
	} rows[] = {
	    {{ADD, 5, 0}, CR0_TASK_SWITCHED, 0, 7},
	    {{ADD, 5, 0}, CR0_EMULATED, 0, 6},
	    {{ADD, 5, 0}, 0, CR4_SSE, 6},
	    /* clts; mov %cr0, %rax; or $8, %al; mov %rax, %cr0 behind an addition */
	    {{"\x0f\x06\x66\x0f\xd4\xca" ADD, 11, 0}, CR0_TASK_SWITCHED, 0, 0},
	    {{"\x66\x0f\xd4\xca\x0f\x20\xc0\x0c\x08\x0f\x22\xc0" ADD, 17, 0}, 0, 0, 7},
	    /* smsw %eax; or $8, %al; lmsw %ax */
	    {{"\x66\x0f\xd4\xca\x0f\x01\xe0\x0c\x08\x0f\x01\xf0" ADD, 17, 0}, 0, 0, 7},
	};
	struct pair *pair = *state;
	struct quire_vcpu *vcpu = pair->translated;
	const uint64_t *translated = &cpu_counts(vcpu->cpu)->translated;
	const uint64_t cr0 = cpu_state(vcpu->cpu)->cr0, cr4 = cpu_state(vcpu->cpu)->cr4;
	struct cpu_state start = {0};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t end = GUEST_CODE + rows[i].code.size;

		for (unsigned int run = 0; run < 5; run++) {
			uint64_t before = *translated;

			set_controls(pair, run == 4 ? cr0 ^ rows[i].cr0 : cr0,
				     run == 4 ? cr4 ^ rows[i].cr4 : cr4);
			state_make(&start);
			begin_both(pair, &rows[i].code, &start);
			run_both(pair);
			assert_true(run == 4 || *translated > before);
		}
		if (rows[i].vector)
			end = GUEST_HANDLERS + rows[i].vector * 16 + 1;
		assert_int_equal(cpu_state(vcpu->cpu)->rip, end);
		set_controls(pair, cr0, cr4);
	}
}

/* 66 @rex 0F @opcode between two vector registers, with a number behind it where it takes one; HLT.
 */
static void vector_make(struct code *code, unsigned int rex, unsigned int opcode, unsigned int reg)
{
	*code = (struct code){
	    .bytes = {0x66, (uint8_t)rex, 0x0f, (uint8_t)opcode, (uint8_t)(0xc2 | reg << 3)}};
	code->size = 5;
	if (opcode >= 0x70 && opcode <= 0x73)
		code->bytes[code->size++] = (uint8_t)rnd(20);
	code->bytes[code->size++] = 0xf4;
}

/* How many instructions of @code were translated code. */
static uint64_t run_vector(struct pair *pair, const struct code *code)
{
	const uint64_t *translated = &cpu_counts(pair->translated->cpu)->translated;
	uint64_t before = *translated;
	struct cpu_state start;

	for (unsigned int run = 0; run < 2; run++) {
		state_make(&start);
		begin_both(pair, code, &start);
		run_both(pair);
	}
	return *translated - before;
}

/* Each instruction of the rows that SSE2 fills. 71, 72 and 73 are eight each. */
static unsigned int run_all_vectors(struct pair *pair, unsigned int rex)
{
	unsigned int made = 0;
	struct code code;

	for (unsigned int opcode = 0x50; opcode < 0x100; opcode++) {
		unsigned int is_shift = opcode >= 0x71 && opcode <= 0x73;

		if (opcode >= 0x80 && opcode < 0xd0)
			continue;
		for (unsigned int reg = is_shift ? 0 : 1; reg < (is_shift ? 8 : 2); reg++) {
			vector_make(&code, rex, opcode, reg);
			made += run_vector(pair, &code) != 0;
		}
	}
	return made;
}

/* Of registers that the host's have while translated code runs, and of others: XMM9 and XMM10. */
static void test_all_vector_arithmetic(void **state)
{
	/* 45 of arithmetic and logic, a shuffle, ten shifts, a mask and five moves. */
	for (unsigned int rex = 0x40; rex < 0x48; rex += rex & 1 ? 3 : 1)
		assert_int_equal(run_all_vectors(*state, rex), 62);
}

static void set_pte(struct pair *pair, unsigned int page, uint64_t flags)
{
	uint64_t linear = DATA_LINEAR + page * PAGE;
	uint64_t entry = linear | flags, at = GUEST_PT + (linear - PAGED_LINEAR) / PAGE * 8;

	memcpy(pair->translated->vm->ram + at, &entry, sizeof(entry));
	memcpy(pair->interpreted->vm->ram + at, &entry, sizeof(entry));
	/* A new CR3 flushes. */
	cpu_state(pair->translated->cpu)->cr3 ^= 8;
	cpu_state(pair->interpreted->cpu)->cr3 ^= 8;
}

/* Each page that the block touches is not there, then read-only; CR0.WP is set. */
static void test_page_faults(void **state)
{
	struct pair *pair = *state;
	struct cpu_state start;
	struct code code;

	cpu_state(pair->translated->cpu)->cr0 |= UINT64_C(1) << 16;
	cpu_state(pair->interpreted->cpu)->cr0 |= UINT64_C(1) << 16;
	for (unsigned int block = 0; block < BLOCKS / 8; block++) {
		code_make(&code, BLOCK_INSNS);
		data_make(pair);
		for (unsigned int page = 0; page < code.accesses; page++) {
			for (uint64_t flags = 0; flags < 8; flags += 5) {
				state_make(&start);
				set_pte(pair, page, 7);
				begin_both(pair, &code, &start);
				run_both(pair);
				set_pte(pair, page, flags);
				begin_both(pair, &code, &start);
				run_both(pair);
				begin_both(pair, &code, &start);
				run_both(pair);
			}
			set_pte(pair, page, 7);
		}
	}
}

static void protect_both(struct pair *pair, unsigned int page, int protection)
{
	uint64_t at = DATA_LINEAR + page * PAGE;

	mprotect(pair->translated->vm->ram + at, PAGE, protection);
	mprotect(pair->interpreted->vm->ram + at, PAGE, protection);
}

/*
 * The host takes each page away, although all tables and TLBs lead there: the run ends with an
 * error, and goes on from there when the page is back.
 */
static void test_host_faults(void **state)
{
	struct pair *pair = *state;
	struct cpu_state start;
	struct code code;

	fake_signals_install();
	for (unsigned int block = 0; block < BLOCKS / 8; block++) {
		code_make(&code, BLOCK_INSNS);
		data_make(pair);
		state_make(&start);
		begin_both(pair, &code, &start);
		run_both(pair);
		for (unsigned int page = 0; page < code.accesses; page++) {
			int protection = rnd(2) ? PROT_NONE : PROT_READ;
			enum cpu_exit exit;

			begin_both(pair, &code, &start);
			protect_both(pair, page, protection);
			exit = run_one(pair->translated);
			assert_int_equal(exit, run_one(pair->interpreted));
			protect_both(pair, page, PROT_READ | PROT_WRITE);
			expect_same(pair);
			if (exit == CPU_EXIT_ERROR)
				run_both(pair);
		}
	}
}

/* Single steps through the host's instructions, and a kick at one of them. */
static volatile uint64_t steps, kick_at;
static volatile uint64_t kicked_in;
static uint64_t *kick_doorbell;
static uint64_t code_start, code_end;

/* Where this process runs translated code. */
static void code_locate(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], rights[8];
	unsigned long start, end;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "quire code") &&
		    sscanf(line, "%lx-%lx %7s", &start, &end, rights) == 3 && rights[2] == 'x') {
			/* Never both. */
			assert_int_equal(rights[1], '-');
			code_start = start;
			code_end = end;
		}
	}
	fclose(maps);
	assert_true(code_start < code_end);
}

static void on_trap(int signal_number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];

	(void)signal_number;
	if (rip < code_start || rip >= code_end || ++steps != kick_at)
		return;
	__atomic_fetch_or(kick_doorbell, UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT, __ATOMIC_SEQ_CST);
	kicked_in += guard_handle_signal(SIGUSR1, info, uc);
	uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static void trap_from_here(void)
{
	__asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq" ::: "cc", "memory");
}

static void trap_no_more(void)
{
	__asm__ volatile("pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" ::: "cc", "memory");
}

/* A kick wherever it comes: the run ends or goes on, and the sum is the same. */
static void test_kicks(void **state)
{
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
	struct pair *pair = *state;
	struct cpu_state start;
	struct code code;
	uint64_t end;

	sigaction(SIGTRAP, &action, NULL);
	code_locate();
	kick_doorbell = &pair->translated->doorbell;
	kicked_in = 0;
	do {
		code_make(&code, BLOCK_INSNS / 3);
	} while (code.accesses < 6);
	data_make(pair);
	state_make(&start);
	begin_both(pair, &code, &start);
	run_both(pair);
	begin_both(pair, &code, &start);
	run_both(pair);
	for (kick_at = 1, end = 2; kick_at < end; kick_at++) {
		enum cpu_exit exit;

		begin_both(pair, &code, &start);
		assert_int_equal(run_one(pair->interpreted), CPU_EXIT_HLT);
		steps = 0;
		pair->translated->doorbell = 0;
		trap_from_here();
		exit = run_one(pair->translated);
		trap_no_more();
		if (steps >= kick_at)
			end = kick_at + 2;
		while (exit == CPU_EXIT_INTR)
			exit = run_one(pair->translated);
		assert_int_equal(exit, CPU_EXIT_HLT);
		expect_same(pair);
	}
	assert_true(kicked_in > 0);
}

/* A page of calls: each has a line of its own, and they end one after the other. */
#define CHAIN_LINES 60u
#define CHAIN_PAGES 1200u
#define CHAIN_GPA UINT64_C(0x200000)

/* inc %rax, many times; jmp to the next line, at last ret. */
static void chain_make(struct quire_vcpu *vcpu, unsigned int page)
{
	uint8_t *at = vcpu->vm->ram + CHAIN_GPA + page * PAGE;

	for (unsigned int line = 0; line < CHAIN_LINES; line++, at += 64) {
		for (unsigned int i = 0; i < 19; i++)
			memcpy(at + i * 3, "\x48\xff\xc0", 3);
		memcpy(at + 57, "\xeb\x05", 2);
	}
	*at = 0xc3;
}

/* mov $CHAIN_GPA, %rbx; 1: call *%rbx; add $4096, %rbx; dec %ecx; jnz 1b; hlt */
static const uint8_t chain_loop[] = {0x48, 0xc7, 0xc3, 0, 0, 0x20, 0,	 0xff, 0xd3, 0x48, 0x81,
				     0xc3, 0,	 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3, 0xf4};

/* More code than there is room for, over and over: what goes is made again. */
static void test_eviction(void **state)
{
	struct quire_vcpu *vcpu = ((struct pair *)*state)->translated;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);
	struct cpu_state *s = cpu_state(vcpu->cpu);

	for (unsigned int page = 0; page < CHAIN_PAGES; page++)
		chain_make(vcpu, page);
	memcpy(vcpu->vm->ram + GUEST_CODE, chain_loop, sizeof(chain_loop));
	for (unsigned int turn = 0; turn < 3; turn++) {
		s->gpr[CPU_RAX] = 0;
		s->gpr[CPU_RCX] = CHAIN_PAGES;
		s->rip = GUEST_CODE;
		s->halted = 0;
		assert_int_equal(run_one(vcpu), CPU_EXIT_HLT);
		assert_int_equal(s->gpr[CPU_RAX], CHAIN_PAGES * CHAIN_LINES * 19);
	}
	assert_true(counts->units > CHAIN_PAGES * CHAIN_LINES);
	assert_true(counts->evictions > 8);
}

#define LONG_PAGES 600u
#define LONG_LOADS 510u

/* add $page, %rax; loads of GUEST_DATA up to the page's end; ret: seven blocks and a bit. */
static void long_make(struct quire_vcpu *vcpu, unsigned int page)
{
	uint8_t *at = vcpu->vm->ram + CHAIN_GPA + page * PAGE;

	memcpy(at, "\x48\x05", 2);
	memcpy(at + 2, &page, sizeof(page));
	for (unsigned int i = 0; i < LONG_LOADS; i++)
		memcpy(at + 6 + i * 8, "\x48\x8b\x0c\x25\0\0\x03\0", 8); /* mov 0x30000, %rcx */
	at[6 + LONG_LOADS * 8] = 0xc3;
}

/* mov $CHAIN_GPA, %rbx; 1: call *%rbx; add $4096, %rbx; dec %edx; jnz 1b; hlt */
static const uint8_t long_loop[] = {0x48, 0xc7, 0xc3, 0, 0, 0x20, 0,	0xff, 0xd3, 0x48, 0x81,
				    0xc3, 0,	0x10, 0, 0, 0xff, 0xca, 0x75, 0xf3, 0xf4};

/*
 * Blocks that live longer than their code: the room of a block's old code holds another block's
 * by the time it runs again.
 */
static void test_blocks_outlive_their_code(void **state)
{
	struct quire_vcpu *vcpu = ((struct pair *)*state)->translated;
	const struct cpu_counts *counts = cpu_counts(vcpu->cpu);
	struct cpu_state *s = cpu_state(vcpu->cpu);

	for (unsigned int page = 0; page < LONG_PAGES; page++)
		long_make(vcpu, page);
	memcpy(vcpu->vm->ram + GUEST_CODE, long_loop, sizeof(long_loop));
	for (unsigned int turn = 0; turn < 3; turn++) {
		s->gpr[CPU_RAX] = 0;
		s->gpr[CPU_RDX] = LONG_PAGES;
		s->rip = GUEST_CODE;
		s->halted = 0;
		assert_int_equal(run_one(vcpu), CPU_EXIT_HLT);
		assert_int_equal(s->gpr[CPU_RAX], LONG_PAGES * (LONG_PAGES - 1) / 2);
	}
	assert_true(counts->evictions > 8);
}

#define TURNS 200u
#define SECOND_LINEAR (PAGED_LINEAR + PAGE)
#define ONE_LINEAR (PAGED_LINEAR + 3 * PAGE)
#define OTHER_LINEAR (PAGED_LINEAR + 4 * PAGE)
#define HELPER 0x100u

/*
 * 1: xorq $0x7000, the entry of SECOND_LINEAR; invlpg SECOND_LINEAR; call *%rsi; call *%rdi;
 * jmp 2f; 2: mov $1, %eax: its first half
 */
static const uint8_t crossing[] = {0x48, 0x81, 0x34, 0x25, 0x08, 0x40, 0,    0,	   0,	 0x70,
				   0,	 0,    0x0f, 0x01, 0x3c, 0x25, 0,    0x10, 0x40, 0,
				   0xff, 0xd6, 0xff, 0xd7, 0xeb, 0,    0xb8, 1};
/* add %rax, %rdx; dec %ecx; jnz 1b; hlt */
static const uint8_t crossed[] = {0,	0,    0,    0x48, 0x01, 0xc2, 0xff, 0xc9,
				  0x0f, 0x85, 0xd6, 0xff, 0xff, 0xff, 0xf4};

/*
 * An instruction over two pages, the second of which is another one in every turn of the loop. Both
 * are known to be as they were decoded: other code in them has just run at their own addresses.
 */
static void test_crossing_changes(void **state)
{
	struct quire_vcpu *vcpu = ((struct pair *)*state)->translated;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	uint64_t start = SECOND_LINEAR - sizeof(crossing), entry = ONE_LINEAR | 0x67;
	uint8_t *ram = vcpu->vm->ram;

	memcpy(ram + start, crossing, sizeof(crossing));
	memcpy(ram + ONE_LINEAR, crossed, sizeof(crossed));
	memcpy(ram + OTHER_LINEAR, crossed, sizeof(crossed));
	ram[OTHER_LINEAR] = 1;
	ram[ONE_LINEAR + HELPER] = ram[OTHER_LINEAR + HELPER] = 0xc3;
	memcpy(ram + GUEST_PT + 8, &entry, sizeof(entry));
	s->gpr[CPU_RSI] = ONE_LINEAR + HELPER;
	s->gpr[CPU_RDI] = OTHER_LINEAR + HELPER;
	s->gpr[CPU_RCX] = TURNS;
	s->gpr[CPU_RDX] = 0;
	s->rip = start;
	assert_int_equal(run_one(vcpu), CPU_EXIT_HLT);
	assert_int_equal(s->gpr[CPU_RDX], TURNS / 2 * 1 + TURNS / 2 * 0x101);
}

/*
 * 1: mov $imm32, %eax; mov %eax, 0x30000; cpuid; cmp $1000, %dword 0x30004; jne 1b; hlt: what a
 * thread stores into the page that runs arrives, as CPUID serialises.
 */
static const uint8_t watched[] = {0xb8, 0, 0,	 0,    0,    0x89, 0x04, 0x25, 0,    0,
				  3,	0, 0x31, 0xc0, 0x0f, 0xa2, 0x81, 0x3c, 0x25, 4,
				  0,	3, 0,	 0xe8, 3,    0,	   0,	 0x75, 0xe3, 0xf4};
#define WATCHED_ROUNDS 200u

static void *client_writes(void *argument)
{
	struct quire_vcpu *vcpu = argument;
	uint32_t *code = (uint32_t *)(vcpu->vm->ram + GUEST_CODE + 1);
	uint32_t *seen = (uint32_t *)(vcpu->vm->ram + GUEST_DATA);

	for (uint32_t round = 1; round <= WATCHED_ROUNDS; round++) {
		__atomic_store_n(code, round, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(seen, __ATOMIC_SEQ_CST) != round)
			sched_yield();
	}
	__atomic_store_n(seen + 1, 1000, __ATOMIC_SEQ_CST);
	return NULL;
}

static void test_client_stores_to_code(void **state)
{
	struct quire_vcpu *vcpu = ((struct pair *)*state)->translated;
	struct cpu_state *s = cpu_state(vcpu->cpu);
	pthread_t client;

	memcpy(vcpu->vm->ram + GUEST_CODE, watched, sizeof(watched));
	s->rip = GUEST_CODE;
	assert_int_equal(pthread_create(&client, NULL, client_writes, vcpu), 0);
	assert_int_equal(run_one(vcpu), CPU_EXIT_HLT);
	pthread_join(client, NULL);
	assert_true(cpu_counts(vcpu->cpu)->drops > 0);
}

/* Another vCPU of the machine does the same from its own code, which is translated too. */
static const uint8_t writer[] = {
    0xb9, 1,	0,    0,    0,		     /* mov $1, %ecx */
    0x89, 0x0c, 0x25, 1,    0,	 1, 0,	     /* 1: mov %ecx, GUEST_CODE + 1 */
    0x3b, 0x0c, 0x25, 0,    0,	 3, 0,	     /* 2: cmp GUEST_DATA, %ecx */
    0x75, 0xf7,				     /* jne 2b */
    0xff, 0xc1, 0x81, 0xf9, 200, 0, 0, 0,    /* inc %ecx; cmp $200, %ecx */
    0x75, 0xe6,				     /* jne 1b */
    0xc7, 0x04, 0x25, 4,    0,	 3, 0, 0xe8, /* movl $1000, GUEST_DATA + 4 */
    3,	  0,	0,    0xf4};

static void *other_vcpu_runs(void *argument)
{
	(void)run_one(argument);
	return NULL;
}

static void test_other_vcpu_stores_to_code(void **state)
{
	struct quire_vcpu *vcpu = ((struct pair *)*state)->translated;
	struct quire_vcpu *other = fake_vcpu_create(vcpu->vm);
	pthread_t thread;

	assert_int_equal(cpu_translate_after(other->cpu, 0), 0);
	memcpy(vcpu->vm->ram + GUEST_CODE, watched, sizeof(watched));
	memcpy(vcpu->vm->ram + GUEST_CODE + PAGE, writer, sizeof(writer));
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state(other->cpu)->rip = GUEST_CODE + PAGE;
	cpu_state(other->cpu)->gpr[CPU_RSP] = GUEST_STACK - 1024;
	assert_int_equal(pthread_create(&thread, NULL, other_vcpu_runs, other), 0);
	assert_int_equal(run_one(vcpu), CPU_EXIT_HLT);
	pthread_join(thread, NULL);
	assert_int_equal(cpu_state(other->cpu)->gpr[CPU_RCX], 200);
	fake_vcpu_destroy(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	/* In lockstep, which takes long, what has one thread and is about instructions. */
	static const struct CMUnitTest lockstep[] = {
	    TEST(test_random_blocks), TEST(test_refused_vectors),	TEST(test_page_faults),
	    TEST(test_host_faults),   TEST(test_all_vector_arithmetic),
	};
	static const struct CMUnitTest tests[] = {
	    TEST(test_random_blocks),
	    TEST(test_refused_vectors),
	    TEST(test_page_faults),
	    TEST(test_host_faults),
	    TEST(test_kicks),
	    TEST(test_eviction),
	    TEST(test_blocks_outlive_their_code),
	    TEST(test_crossing_changes),
	    TEST(test_client_stores_to_code),
	    TEST(test_other_vcpu_stores_to_code),
	    TEST(test_all_vector_arithmetic),
	};
	struct pair *pair;
	void *state;

	if (setup(&state)) {
		printf("this machine does not translate\n");
		return 77;
	}
	pair = state;
	teardown((void **)&pair);
	if (getenv("TEST_LOCKSTEP"))
		return cmocka_run_group_tests(lockstep, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
