/* Store history: before each atomic step of an operation, every lookup gives the old mapping or the
 * new one, and never the old one again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/vm/vm.h"
#include "tests/sim/pairs.h"

static const uint64_t gfns[] = {0, 1, 5, 6, 300, 511, 512, 1000};
#define GFN_COUNT (sizeof(gfns) / sizeof(gfns[0]))

/* What a walker finds for each gfn: the address it leads to, and whether it may be written. */
struct view {
	uint64_t found[GFN_COUNT];
};

static struct view history[SCHED_STEPS_MAX];
static uint32_t steps;
static int (*operation)(void);
static int result;

/* From the definition of the formats alone. 0: nothing is mapped. */
static uint64_t look_up(uint64_t gfn)
{
	const struct quire_vm *vm = pair.machine.vm;
	const struct entry_format *f = vm->format;
	uint64_t *table, entry;

	if (!vm->roots.valid[0])
		return 0;
	table = table_entries(vm->roots.valid[0]);
	for (unsigned int level = 4;; level--) {
		uint64_t below = (UINT64_C(1) << (9 * (level - 1))) - 1;

		entry = table[gfn >> (9 * (level - 1)) & 511];
		if (!(entry & f->present))
			return 0;
		if (level == 1 || (entry & f->large)) {
			uint64_t page = (entry & ENTRY_ADDRESS_MASK) >> 12;

			return ((page & ~below) + (gfn & below)) << 12 | f->present |
			       (entry & f->writable);
		}
		table = (uint64_t *)(uintptr_t)(entry & ENTRY_ADDRESS_MASK);
	}
}

static void see(struct view *view)
{
	for (size_t i = 0; i < GFN_COUNT; i++)
		view->found[i] = look_up(gfns[i]);
}

static int watch(void *ctx, uint32_t step, uint32_t *thread)
{
	(void)ctx;
	(void)thread;
	see(&history[step - 1]);
	steps = step;
	return 0;
}

static void body(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	result = operation();
}

/* Run @run, and rewind: each gfn changes at most once, from what it was to what it is. */
static void check_history(int (*run)(void), uint32_t changes_min)
{
	struct sched_run one = {.threads = 1, .body = body, .preempt = watch};
	struct view before, after;
	uint32_t changes = 0;

	operation = run;
	see(&before);
	sched_execute(&one);
	see(&after);
	assert_int_equal(one.result, SCHED_DONE);
	assert_int_equal(result, 0);
	for (size_t i = 0; i < GFN_COUNT; i++) {
		int changed = 0;

		for (uint32_t step = 0; step < steps; step++) {
			uint64_t found = history[step].found[i];

			changed |= found != before.found[i];
			assert_int_equal(found, changed ? after.found[i] : before.found[i]);
		}
		changes += before.found[i] != after.found[i];
	}
	/* An operation without effect would prove nothing. */
	assert_true(changes >= changes_min);
}

static int store_one(void)
{
	return pair_store(0, 5, 1);
}

static int store_beyond(void)
{
	return pair_store(0, 512, 1);
}

static int log_on(void)
{
	return pair_set_flags(SIM_BLOCK + 64, QUIRE_SLOT_LOG_DIRTY);
}

static int log_off(void)
{
	return pair_set_flags(SIM_BLOCK + 64, 0);
}

static int replace(void)
{
	(void)pair_host_replace(5);
	return 0;
}

static int invalidate_all(void)
{
	quire_vm_host_invalidate_begin(pair.machine.vm, sim_hva(0), sim_hva(SIM_BLOCK + 64));
	quire_vm_host_invalidate_end(pair.machine.vm, sim_hva(0), sim_hva(SIM_BLOCK + 64));
	return 0;
}

static int delete (void)
{
	return machine_add_slot(&pair.machine, 0, 0, 0);
}

static void start(enum quire_format_id format, int eager)
{
	pair.machine.format = format;
	pair.machine.tunables.eager_page_split = (uint32_t)eager;
	pair_start(QUIRE_VM_DEFAULT);
	sim_map_huge(&pair.machine.host, 0, SIM_WRITABLE);
	for (uint32_t page = SIM_BLOCK; page < SIM_BLOCK + 64; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE);
	assert_int_equal(pair_set_flags(SIM_BLOCK + 64, 0), 0);
}

static void check_all(enum quire_format_id format, int eager)
{
	start(format, eager);
	check_history(store_one, 6);	/* map: huge, all of the block at once */
	check_history(store_beyond, 1); /* map: a small one */
	check_history(log_on, 7);	/* split if eager, protect */
	check_history(store_one, 1);	/* W back; a split if it was not eager */
	check_history(pair_harvest, 1); /* W off again */
	check_history(store_one, 1);
	check_history(log_off, 1); /* recover: W for the whole block */
	check_history(replace, 6); /* zap of the huge leaf */
	check_history(store_one, 1);
	check_history(store_beyond, 0);
	check_history(invalidate_all, 2);
	check_history(store_one, 1);
	check_history(delete, 1);
	assert_true(machine_stop(&pair.machine));
}

static void test_history(void **state)
{
	(void)state;
	for (int eager = 0; eager < 2; eager++) {
		check_all(QUIRE_FORMAT_NPT, eager);
		check_all(QUIRE_FORMAT_EPT, eager);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_history)};
	int failed;

	pairs_init();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	pairs_destroy();
	return failed;
}
