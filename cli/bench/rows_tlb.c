/* The vCPU's translation on a TLB miss: the guest's tables through the stage-2 tables. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench/machine.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/run.h"

#define PAGES 16384u
#define REPEATS 4u
/* The guest's tables stand behind the pages they map: the top three, then the lowest. */
#define TABLES_GFN UINT64_C(65536)
#define ADDRESS UINT64_C(0x0000fffffffff000)
/* Present, writable, accessed and dirty: nothing is left to be marked. */
#define ENTRY_FLAGS UINT64_C(0x63)

struct translation {
	struct machine machine;
	struct cpu *cpu;
};

static void tlb_destroy(void *state)
{
	struct translation *t = state;

	if (t->cpu)
		cpu_destroy(t->cpu);
	machine_destroy(&t->machine);
	free(t);
}

/* Four levels that map linear page i to guest page i. */
static void make_guest_tables(uint8_t *memory)
{
	u64 *at = (u64 *)(void *)(memory + TABLES_GFN * QUIRE_PAGE_SIZE);
	u64 base = TABLES_GFN << QUIRE_PAGE_SHIFT;

	memset(at, 0, (3 + PAGES / 512) * QUIRE_PAGE_SIZE);
	at[0] = (base + QUIRE_PAGE_SIZE) | ENTRY_FLAGS;
	at[512] = (base + 2 * QUIRE_PAGE_SIZE) | ENTRY_FLAGS;
	for (u64 i = 0; i < PAGES / 512; i++)
		at[1024 + i] = (base + (3 + i) * QUIRE_PAGE_SIZE) | ENTRY_FLAGS;
	for (u64 i = 0; i < PAGES; i++)
		at[1536 + i] = i << QUIRE_PAGE_SHIFT | ENTRY_FLAGS;
}

static int make_cpu(struct translation *t)
{
	static const struct cpu_ops no_ops;
	struct cpu_state *s;

	t->cpu = cpu_create(t->machine.vcpus[0], &no_ops, NULL);
	if (!t->cpu || cpu_prepare(t->cpu))
		return -ENOMEM;
	s = cpu_state(t->cpu);
	s->cr0 = CR0_PE | CR0_WP | CR0_PG;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE;
	s->cr3 = TABLES_GFN << QUIRE_PAGE_SHIFT;
	cpu_state_changed(t->cpu);
	return 0;
}

static int tlb_setup(const struct bench_row *row, void **state)
{
	struct translation *t = calloc(1, sizeof(*t));
	int error;

	if (!t)
		return -ENOMEM;
	error = machine_init_1g(&t->machine, MEMORY_SMALL, 1, LEVEL_REAL);
	if (!error && machine_populate(&t->machine) < 0)
		error = -EIO;
	if (!error) {
		make_guest_tables(t->machine.memory);
		error = make_cpu(t);
	}
	if (error)
		tlb_destroy(t);
	else
		*state = t;
	return error;
}

static double translate_all(struct cpu *cpu)
{
	double start = bench_now();
	u64 good = 0;

	for (u64 i = 0; i < (u64)REPEATS * PAGES; i++) {
		struct mmu_request request = {.linear = i % PAGES << QUIRE_PAGE_SHIFT};
		struct mmu_result result;

		good += mmu_translate(cpu, &request, &result) == STEP_NEXT;
		tlb_fill(cpu, &request, &result);
	}
	return good == (u64)REPEATS * PAGES ? bench_now() - start : -1;
}

static double tlb_miss(void *state)
{
	struct translation *t = state;
	u64 requests;
	double took;

	if (quire_vcpu_enter(t->machine.vcpus[0], &requests, &t->cpu->stage2))
		return -1;
	took = translate_all(t->cpu);
	quire_vcpu_leave(t->machine.vcpus[0]);
	return took;
}

/* Four loads: guest physical to host address. */
static inline u64 bare_stage2(const u64 *table, u64 gpa)
{
	for (u32 shift = 39;; shift -= 9) {
		u64 entry = __atomic_load_n(&table[gpa >> shift & 511], __ATOMIC_RELAXED);

		if (shift == 12)
			return (entry & ADDRESS) | (gpa & 4095);
		table = (const u64 *)(uintptr_t)(entry & ADDRESS);
	}
}

static double bare_walks(const u64 *root)
{
	double start = bench_now();
	u64 sum = 0;

	for (u64 i = 0; i < (u64)REPEATS * PAGES; i++) {
		u64 linear = i % PAGES << QUIRE_PAGE_SHIFT;
		u64 gpa = TABLES_GFN << QUIRE_PAGE_SHIFT;

		for (u32 shift = 39; shift >= 12; shift -= 9) {
			u64 at = bare_stage2(root, gpa | (linear >> shift & 511) * 8);

			gpa = __atomic_load_n((u64 *)(uintptr_t)at, __ATOMIC_RELAXED) & ADDRESS;
		}
		sum += bare_stage2(root, gpa);
	}
	bench_keep(sum);
	return bench_now() - start;
}

static double tlb_floor(void *state)
{
	struct translation *t = state;

	return bare_walks(t->cpu->stage2.root);
}

static const struct bench_row rows[] = {
    {
	.name = "tlb_miss",
	.floor_text = "the 24 loads of a bare two-stage walk",
	.setup = tlb_setup,
	.teardown = tlb_destroy,
	.operation = tlb_miss,
	.floor = tlb_floor,
	.bound = 1.6,
	.operations = (u64)REPEATS * PAGES,
	.memory_bytes = GIB,
    },
};

const struct bench_list bench_tlb = {rows, sizeof(rows) / sizeof(rows[0])};
