/* The vCPU's speed: loops in a guest against the same code run natively, and the cost of an exit.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench/loops.h"
#include "cli/bench/machine.h"
#include "vcpu/arch.h"
#include "vcpu/cpu.h"

/* What KVM_CREATE_VCPU asks for. */
#define TRANSLATE_AFTER 16u
#define EXITS 300000u
/* A slowdown of 1, as the runner prints times. */
#define SCALE_UNIT 1e6

/* Guest physical addresses; the loops' memory is at MEMORY, the stack below it. */
#define TABLES UINT64_C(0x100000)
#define CODE UINT64_C(0x800000)
#define MEMORY UINT64_C(0x1000000)
#define STACK_BYTES UINT64_C(0x100000)
/* Memory and stack of a vCPU, from those of the one before. */
#define VCPU_BYTES UINT64_C(0x8000000)
#define ENTRY UINT64_C(0x67) /* present, writable, user, A, D */
#define LEVELS 4u

struct guest {
	struct machine machine;
	struct cpu *cpus[BENCH_THREADS_MAX];
	unsigned int vcpus;
	double (*now)(void); /* several wait for one another, if at all, without computing */
	u64 tables_end;	     /* where the next one goes */
	enum loop loop;
};

static void guest_destroy(void *state)
{
	struct guest *guest = state;

	for (unsigned int i = 0; i < guest->vcpus; i++)
		if (guest->cpus[i])
			cpu_destroy(guest->cpus[i]);
	machine_destroy(&guest->machine);
	free(guest);
}

static u64 *entry_at(const struct guest *guest, u64 table, u64 linear, u32 level)
{
	u64 index = linear >> (QUIRE_PAGE_SHIFT + 9 * (level - 1)) & 511;

	return (u64 *)(void *)(guest->machine.memory + table) + index;
}

/* A page of the guest at the address that it has in this program. */
static void map_page(struct guest *guest, const u8 *page, u64 gpa)
{
	u64 linear = (u64)(uintptr_t)page, table = TABLES;

	for (u32 level = LEVELS; level > 1; level--) {
		u64 *entry = entry_at(guest, table, linear, level);

		if (!*entry) {
			*entry = guest->tables_end | ENTRY;
			memset(guest->machine.memory + guest->tables_end, 0, QUIRE_PAGE_SIZE);
			guest->tables_end += QUIRE_PAGE_SIZE;
		}
		table = *entry & ~(u64)0xfff;
	}
	*entry_at(guest, table, linear, 1) = gpa | ENTRY;
}

static u8 *memory_of(const struct guest *guest, unsigned int vcpu)
{
	return guest->machine.memory + MEMORY + vcpu * VCPU_BYTES;
}

static void load_vcpu(struct guest *guest, unsigned int vcpu)
{
	u8 *memory = memory_of(guest, vcpu);

	for (u8 *at = memory - STACK_BYTES; at < memory + LOOP_MEMORY_BYTES; at += QUIRE_PAGE_SIZE)
		map_page(guest, at, (u64)(at - guest->machine.memory));
	memset(memory, 0, LOOP_MEMORY_BYTES);
}

static void load_guest(struct guest *guest)
{
	u8 *memory = guest->machine.memory;
	u64 first = (u64)(uintptr_t)__start_bench_loops & ~(u64)0xfff, gpa = CODE;

	memset(memory + TABLES, 0, QUIRE_PAGE_SIZE);
	guest->tables_end = TABLES + QUIRE_PAGE_SIZE;
	for (u64 at = first; at < (u64)(uintptr_t)__stop_bench_loops; at += QUIRE_PAGE_SIZE) {
		memcpy(memory + gpa, (const u8 *)(uintptr_t)at, QUIRE_PAGE_SIZE);
		map_page(guest, (const u8 *)(uintptr_t)at, gpa);
		gpa += QUIRE_PAGE_SIZE;
	}
	for (unsigned int i = 0; i < guest->vcpus; i++)
		load_vcpu(guest, i);
}

static void no_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	(void)ctx;
	(void)leaf;
	(void)subleaf;
	memset(out, 0, 4 * sizeof(*out));
}

static enum cpu_io_result to_client(void *ctx, struct cpu_io *io)
{
	(void)ctx;
	(void)io;
	return CPU_IO_USER;
}

static int make_cpu(struct guest *guest, unsigned int vcpu)
{
	static const struct cpu_ops ops = {.cpuid = no_cpuid, .pio = to_client};
	struct cpu *cpu = cpu_create(guest->machine.vcpus[vcpu], &ops, NULL);

	if (!cpu)
		return -ENOMEM;
	guest->cpus[vcpu] = cpu;
	(void)cpu_translate_after(cpu, TRANSLATE_AFTER);
	machine_long_mode(cpu_state(cpu), TABLES);
	return 0;
}

/* How many vCPUs a row has, above its loop in .param. */
#define VCPUS(count) ((u64)(count) << 8)

static int guest_setup(const struct bench_row *row, void **state)
{
	struct guest *guest = calloc(1, sizeof(*guest));
	int error;

	if (!guest)
		return -ENOMEM;
	guest->loop = (enum loop)(row->param & 0xff);
	guest->vcpus = row->param >> 8 ? (unsigned int)(row->param >> 8) : 1;
	guest->now = guest->vcpus > 1 ? bench_awake_now : bench_now;
	error = machine_init_1g(&guest->machine, MEMORY_SMALL, guest->vcpus, LEVEL_REAL);
	for (unsigned int i = 0; i < guest->vcpus && !error; i++)
		error = make_cpu(guest, i);
	if (error) {
		guest_destroy(guest);
		return error;
	}
	load_guest(guest);
	*state = guest;
	return 0;
}

/* Registers for a call of loop_run() that returns to HLT. */
static void set_call(struct guest *guest, unsigned int vcpu, enum loop loop)
{
	struct cpu_state *s = cpu_state(guest->cpus[vcpu]);
	u8 *memory = memory_of(guest, vcpu);
	u64 back = (u64)(uintptr_t)loop_halt;

	memcpy(memory - sizeof(back), &back, sizeof(back));
	s->rip = (u64)(uintptr_t)loop_run;
	s->rflags = FLAG_FIXED;
	s->halted = 0;
	s->gpr[CPU_RDI] = loop;
	s->gpr[CPU_RSI] = (u64)(uintptr_t)memory;
	s->gpr[CPU_RSP] = (u64)(uintptr_t)memory - sizeof(back);
	cpu_state_changed(guest->cpus[vcpu]);
}

/* What the loop natively is: its checksum, and the time. */
static double run_natively(struct guest *guest, unsigned int vcpu, enum loop loop, u64 *sum)
{
	double start;

	memset(memory_of(guest, vcpu), 0, LOOP_MEMORY_BYTES);
	start = guest->now();
	*sum = loop_run(loop, memory_of(guest, vcpu));
	return guest->now() - start;
}

static double run_in_guest(struct guest *guest, unsigned int vcpu, enum loop loop, u64 *sum)
{
	struct cpu *cpu = guest->cpus[vcpu];
	struct cpu_exit_info info;
	enum cpu_exit reason;
	double start;

	memset(memory_of(guest, vcpu), 0, LOOP_MEMORY_BYTES);
	set_call(guest, vcpu, loop);
	start = guest->now();
	reason = cpu_run(cpu, 0, &info);
	start = guest->now() - start;
	*sum = cpu_state(cpu)->gpr[CPU_RAX];
	return reason == CPU_EXIT_HLT ? start : -1;
}

/* Negative: the guest computed something else. */
static double loop_in_guest(struct guest *guest, unsigned int vcpu, enum loop loop)
{
	u64 sum, expected;
	double took = run_in_guest(guest, vcpu, loop, &sum);

	(void)run_natively(guest, vcpu, loop, &expected);
	return sum == expected ? took : -1;
}

static double guest_operation(void *state)
{
	struct guest *guest = state;

	return loop_in_guest(guest, 0, guest->loop);
}

static double guest_floor(void *state)
{
	struct guest *guest = state;
	u64 sum;

	return run_natively(guest, 0, guest->loop, &sum);
}

/* The sixth root, without libm. */
static double sixth_root(double value)
{
	double root = 1;

	for (u32 i = 0; i < 200; i++)
		root = (5 * root + value / (root * root * root * root * root)) / 6;
	return root;
}

static double mean_operation(void *state)
{
	double product = 1;

	for (u32 loop = 0; loop < LOOPS_MEAN; loop++) {
		double took = loop_in_guest(state, 0, loop);

		if (took < 0)
			return -1;
		product *= took / 1e6;
	}
	return sixth_root(product) * 1e6;
}

static double mean_floor(void *state)
{
	double product = 1;
	u64 sum;

	for (u32 loop = 0; loop < LOOPS_MEAN; loop++)
		product *= run_natively(state, 0, loop, &sum) / 1e6;
	return sixth_root(product) * 1e6;
}

/* Out of guest mode and into it again, for a byte to a port. */
static double exits_operation(void *state)
{
	struct guest *guest = state;
	struct cpu *cpu = guest->cpus[0];
	struct cpu_exit_info info;
	double start;

	cpu_cancel_pending(cpu);
	set_call(guest, 0, LOOP_OUT);
	start = bench_now();
	for (u32 i = 0; i < EXITS; i++) {
		if (cpu_run(cpu, 0, &info) != CPU_EXIT_IO)
			return -1;
		cpu_answer(cpu, NULL, 0, false);
	}
	return bench_now() - start;
}

static double exits_floor(void *state)
{
	struct guest *guest = state;
	struct quire_vcpu *vcpu = guest->machine.vcpus[0];
	struct quire_stage2 stage2;
	double start = bench_now();
	u64 requests;

	for (u32 i = 0; i < EXITS; i++) {
		if (quire_vcpu_enter(vcpu, &requests, &stage2))
			return -1;
		quire_vcpu_leave(vcpu);
	}
	return bench_now() - start;
}

static double scale_in_guest(void *ctx, unsigned int vcpu)
{
	struct guest *guest = ctx;
	u64 sum;

	return run_in_guest(guest, vcpu, guest->loop, &sum);
}

static double scale_natively(void *ctx, unsigned int vcpu)
{
	struct guest *guest = ctx;
	u64 sum;

	return run_natively(guest, vcpu, guest->loop, &sum);
}

/* A vCPU's time for the loop while all vCPUs run it, divided by its time alone. */
static double slowdown(struct guest *guest, double (*work)(void *ctx, unsigned int vcpu))
{
	double alone = work(guest, 0);
	double all = bench_parallel(guest->vcpus, work, guest) / guest->vcpus;

	return alone <= 0 || all < 0 ? -1 : all / alone * SCALE_UNIT;
}

static double scale_operation(void *state)
{
	return slowdown(state, scale_in_guest);
}

static double scale_floor(void *state)
{
	return slowdown(state, scale_natively);
}

#define ROW(title, which, most)                                                                \
	{                                                                                      \
		.name = "vcpu/" title, .floor_text = "the same code, natively",                \
		.setup = guest_setup, .teardown = guest_destroy, .operation = guest_operation, \
		.floor = guest_floor, .bound = (most), .operations = 1, .param = (which),      \
		.memory_bytes = GIB, .rounds = 5,                                              \
	}

#define SCALE_ROW(title, which, count, most)                                                   \
	{                                                                                      \
		.name = "vcpu/scale/" title, .floor_text = "the same code in as many threads", \
		.setup = guest_setup, .teardown = guest_destroy, .operation = scale_operation, \
		.floor = scale_floor, .bound = (most), .operations = 1,                        \
		.param = (which) | VCPUS(count), .memory_bytes = GIB, .rounds = 5,             \
	}

static const struct bench_row rows[] = {
    {
	.name = "vcpu/loops",
	.floor_text = "geometric mean of alu .. big, natively",
	.setup = guest_setup,
	.teardown = guest_destroy,
	.operation = mean_operation,
	.floor = mean_floor,
	.bound = 4,
	.operations = 1,
	.memory_bytes = GIB,
	.rounds = 5,
    },
    ROW("alu", LOOP_ALU, 0),
    ROW("sieve", LOOP_SIEVE, 0),
    ROW("qsort", LOOP_QSORT, 0),
    ROW("copy", LOOP_COPY, 0),
    ROW("fib", LOOP_FIB, 0),
    ROW("big", LOOP_BIG, 5),
    ROW("touch", LOOP_TOUCH, 1.5),
    ROW("chase", LOOP_CHASE, 1.3),
    ROW("rep", LOOP_REP, 2),
    ROW("vector", LOOP_VECTOR, 5),
    SCALE_ROW("2", LOOP_QSORT, 2, 1.15),
    SCALE_ROW("4", LOOP_QSORT, 4, 1.15),
    SCALE_ROW("touch/2", LOOP_TOUCH, 2, 0),
    {
	.name = "exit_cost",
	.floor_text = "enter guest mode and leave it",
	.setup = guest_setup,
	.teardown = guest_destroy,
	.operation = exits_operation,
	.floor = exits_floor,
	.bound = 30,
	.operations = EXITS,
	.memory_bytes = GIB,
    },
};

const struct bench_list bench_loops = {rows, sizeof(rows) / sizeof(rows[0])};
