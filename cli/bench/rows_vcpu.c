/* The vCPU running a program: in a nested guest against the same in the guest itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench/machine.h"
#include "vcpu/decode/code.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/run.h"

/* 256 KiB: what the TLB holds many times over. */
#define WORDS 32768u
#define STACK_MAX 64u

/* Where things are, in L1 and in L2, linear and physical alike. */
#define CODE UINT64_C(0x10000)
#define L1_CODE UINT64_C(0x20000)
#define VMCB UINT64_C(0x21000)
#define STACK UINT64_C(0x40000)
#define ARRAY UINT64_C(0x100000)
/* Four levels of tables that map the first 2 MiB, for L1's linear addresses and for L2's gpas. */
#define LINEAR_TABLES UINT64_C(0x50000)
#define NESTED_TABLES UINT64_C(0x60000)
#define ENTRY UINT64_C(0x67) /* present, writable, user, A, D */

#define GUEST_CODE __attribute__((section("bench_guest"), noinline, target("general-regs-only")))

/* Fills the array with noise and sorts it. Copied into the guest: it may call nothing. */
static GUEST_CODE void guest_qsort(u64 *words)
{
	struct {
		u64 *first, *last;
	} todo[STACK_MAX];
	u64 noise = 88172645463325252;
	u32 depth = 0;

	for (u32 i = 0; i < WORDS; i++) {
		noise = noise * 6364136223846793005u + 1442695040888963407u;
		words[i] = noise >> 16;
	}
	todo[depth].first = words;
	todo[depth++].last = words + WORDS - 1;
	while (depth) {
		u64 *first = todo[--depth].first, *last = todo[depth].last;
		u64 *low = first, *high = last, pivot = first[(last - first) / 2];

		while (low <= high) {
			while (*low < pivot)
				low++;
			while (*high > pivot)
				high--;
			if (low <= high) {
				u64 other = *low;

				*low++ = *high;
				*high-- = other;
			}
		}
		/* The longer part first: it waits below the shorter one. */
		for (u32 part = 0; part < 2; part++) {
			bool left = (high - first > last - low) == !part;

			if (left ? first < high : low < last) {
				todo[depth].first = left ? first : low;
				todo[depth++].last = left ? high : last;
			}
		}
	}
	__asm__ volatile("hlt");
}

extern const uint8_t __start_bench_guest[], __stop_bench_guest[];

struct program {
	struct machine machine;
	struct cpu *cpu;
};

static void program_destroy(void *state)
{
	struct program *program = state;

	if (program->cpu)
		cpu_destroy(program->cpu);
	machine_destroy(&program->machine);
	free(program);
}

static void build_tables(uint8_t *memory, u64 at)
{
	u64 *words = (u64 *)(void *)(memory + at);

	memset(words, 0, 4 * QUIRE_PAGE_SIZE);
	for (u64 level = 0; level < 3; level++)
		words[level * 512] = (at + (level + 1) * QUIRE_PAGE_SIZE) | ENTRY;
	for (u64 i = 0; i < 512; i++)
		words[3 * 512 + i] = i << QUIRE_PAGE_SHIFT | ENTRY;
}

static struct vmcb_segment flat(uint16_t attributes)
{
	return (struct vmcb_segment){.selector = 8, .attributes = attributes, .limit = UINT32_MAX};
}

static void build_vmcb(uint8_t *memory, const struct cpu_state *s)
{
	struct vmcb *vmcb = (struct vmcb *)(void *)(memory + VMCB);

	memset(vmcb, 0, sizeof(*vmcb));
	vmcb->control.intercept = UINT64_C(1) << INTERCEPT_VMRUN | UINT64_C(1) << INTERCEPT_HLT;
	vmcb->control.asid = 1;
	vmcb->control.misc = VMCB_NESTED_PAGING;
	vmcb->control.nested_cr3 = NESTED_TABLES;
	vmcb->save.cs = flat(0xa9b);
	vmcb->save.ss = vmcb->save.ds = vmcb->save.es = flat(0xc93);
	vmcb->save.efer = s->efer;
	vmcb->save.cr0 = s->cr0;
	vmcb->save.cr3 = s->cr3;
	vmcb->save.cr4 = s->cr4;
	vmcb->save.rflags = FLAG_FIXED;
}

static void answer_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	(void)ctx;
	(void)subleaf;
	memset(out, 0, 4 * sizeof(*out));
	if (leaf == SVM_CPUID_LEAF)
		out[3] = SVM_CPUID_NPT;
}

static int make_cpu(struct program *program)
{
	static const struct cpu_ops ops = {.cpuid = answer_cpuid};

	program->cpu = cpu_create(program->machine.vcpus[0], &ops, NULL);
	if (!program->cpu)
		return -ENOMEM;
	machine_long_mode(cpu_state(program->cpu), LINEAR_TABLES);
	cpu_state(program->cpu)->efer |= EFER_SVME;
	cpu_state(program->cpu)->vm_hsave = 0x1000;
	return 0;
}

static void load_guest(uint8_t *memory, const struct cpu_state *s)
{
	static const uint8_t l1[] = {0x0f, 0x01, 0xd8, 0xf4}; /* vmrun; hlt */

	build_tables(memory, LINEAR_TABLES);
	build_tables(memory, NESTED_TABLES);
	memcpy(memory + CODE, __start_bench_guest,
	       (size_t)(__stop_bench_guest - __start_bench_guest));
	memcpy(memory + L1_CODE, l1, sizeof(l1));
	build_vmcb(memory, s);
}

static int program_setup(const struct bench_row *row, void **state)
{
	struct program *program = calloc(1, sizeof(*program));
	int error;

	(void)row;
	if (!program)
		return -ENOMEM;
	error = machine_init_1g(&program->machine, MEMORY_SMALL, 1, LEVEL_REAL);
	if (!error)
		error = make_cpu(program);
	if (!error)
		load_guest(program->machine.memory, cpu_state(program->cpu));
	if (error)
		program_destroy(program);
	else
		*state = program;
	return error;
}

static bool is_sorted(const uint8_t *memory)
{
	const u64 *words = (const u64 *)(const void *)(memory + ARRAY);

	for (u32 i = 1; i < WORDS; i++)
		if (words[i - 1] > words[i])
			return false;
	return true;
}

/* From @rip to HLT. */
static double run_at(struct program *program, u64 rip)
{
	struct cpu_state *s = cpu_state(program->cpu);
	struct cpu_exit_info info;
	enum cpu_exit reason;
	double start;

	memset(program->machine.memory + ARRAY, 0xff, sizeof(u64));
	s->rip = rip;
	s->rflags = FLAG_FIXED;
	s->halted = 0;
	s->gpr[CPU_RAX] = VMCB;
	s->gpr[CPU_RDI] = ARRAY;
	s->gpr[CPU_RSP] = STACK;
	cpu_state_changed(program->cpu);
	start = bench_now();
	reason = cpu_run(program->cpu, 0, &info);
	start = bench_now() - start;
	return reason == CPU_EXIT_HLT && is_sorted(program->machine.memory) ? start : -1;
}

static u64 entry_of_program(void)
{
	return CODE + (u64)((const uint8_t *)(uintptr_t)guest_qsort - __start_bench_guest);
}

/* Once for the faults, then for the time. */
static double sort_in_l1(void *state)
{
	return run_at(state, entry_of_program()) < 0 ? -1 : run_at(state, entry_of_program());
}

static double sort_in_l2(void *state)
{
	struct program *program = state;
	struct vmcb *vmcb = (struct vmcb *)(void *)(program->machine.memory + VMCB);
	double took = -1;

	for (int i = 0; i < 2; i++) {
		vmcb->save.rip = entry_of_program();
		vmcb->save.rsp = STACK;
		took = run_at(program, L1_CODE);
		if (took < 0 || vmcb->control.exit_code != VMCB_EXIT_INTR + INTERCEPT_HLT)
			return -1;
	}
	return took;
}

static const struct bench_row rows[] = {
    {
	.name = "nested_vcpu/qsort",
	.floor_text = "the same program in L1",
	.setup = program_setup,
	.teardown = program_destroy,
	.operation = sort_in_l2,
	.floor = sort_in_l1,
	.bound = 1.1,
	.operations = 1,
	.memory_bytes = GIB,
    },
};

const struct bench_list bench_vcpu = {rows, sizeof(rows) / sizeof(rows[0])};
