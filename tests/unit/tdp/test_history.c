/* Store history: before each atomic step of an operation, every lookup gives the old mapping or the
 * new one, and never the old one again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/dirty.h>
#include <quire/stats.h>

#include "src/tdp/tdp.h"
#include "src/vm/vm.h"
#include "tests/sim/pairs.h"

#define GFN_COUNT 8u

static const uint64_t huge_gfns[GFN_COUNT] = {0, 1, 5, 6, 300, 511, 512, 1000};
static const uint64_t gigantic_gfns[GFN_COUNT] = {
    0,		 5, 6, SIM_BLOCK, SIM_GIGANTIC / 2, SIM_GIGANTIC - SIM_BLOCK - 1, SIM_GIGANTIC - 1,
    SIM_GIGANTIC};
static const uint64_t *gfns; /* those that are watched */
static uint32_t slot_pages;

/* What a walker finds for each gfn: the address it leads to, and what may be done there. */
struct view {
	uint64_t found[GFN_COUNT];
	uint8_t level[GFN_COUNT]; /* of the leaf */
};

static struct view history[SCHED_STEPS_MAX];
static uint32_t steps;
static int (*operation)(void);
static int result;

/* From the definition of the formats alone. 0: nothing is mapped. */
static uint64_t look_up(uint64_t gfn, uint8_t *at)
{
	const struct quire_vm *vm = pair.machine.vm;
	const struct entry_format *f = &vm->tdp_format;
	uint64_t *table, entry, page;

	*at = 0;
	if (!vm->roots.valid[0])
		return 0;
	/* The gfns are below what one table of a root translates. */
	table = table_entries(vm->roots.valid[0]);
	for (unsigned int level = f->root_level;; level--) {
		uint64_t below = (UINT64_C(1) << (9 * (level - 1))) - 1;

		entry = table[gfn >> (9 * (level - 1)) & 511];
		if (!(entry & f->present))
			return 0;
		page = entry_pfn(f, entry).v;
		if (level == 1 || (entry & f->table_mask) != f->table_value) {
			*at = (uint8_t)level;

			return ((page & ~below) + (gfn & below)) << 12 | f->present |
			       (entry & f->hw_present) | (entry & f->writable);
		}
		table = (uint64_t *)(uintptr_t)((page << 12) + f->tables.offset);
	}
}

static void see(struct view *view)
{
	for (size_t i = 0; i < GFN_COUNT; i++)
		view->found[i] = look_up(gfns[i], &view->level[i]);
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

/* Where a format wants it, no page is seen at one size at one instant and at another at the next.
 */
static void check_breaks(size_t i)
{
	for (uint32_t step = 1; pair.machine.vm->tdp_format.breaks && step < steps; step++) {
		uint8_t was = history[step - 1].level[i], is = history[step].level[i];

		assert_true(!was || !is || was == is);
	}
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

			/* Break before make: for a moment nothing is there. */
			if (pair.machine.vm->tdp_format.breaks && !found && before.found[i] &&
			    after.found[i])
				continue;
			changed |= found != before.found[i];
			assert_int_equal(found, changed ? after.found[i] : before.found[i]);
		}
		check_breaks(i);
		changes += before.found[i] != after.found[i];
	}
	/* An operation without effect would prove nothing. */
	assert_true(changes >= changes_min);
}

static int store_one(void)
{
	return pair_store(0, 5, 1);
}

/* The same by a vCPU that has forgotten where the page is. */
static int store_anew(void)
{
	quire_vcpu_request(pair.machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
	return store_one();
}

static int load_anew(void)
{
	uint8_t value;

	quire_vcpu_request(pair.machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
	return pair_load(0, 5, &value);
}

static int age(void)
{
	return !quire_vm_age(pair.machine.vm, sim_hva(0), sim_hva(slot_pages), QUIRE_AGE_CLEAR);
}

static int load_far(void)
{
	uint8_t value;

	return pair_load(0, SIM_GIGANTIC - 1, &value);
}

static int store_beyond(void)
{
	return pair_store(0, 512, 1);
}

static int log_on(void)
{
	return pair_set_flags(slot_pages, QUIRE_SLOT_LOG_DIRTY);
}

static int log_off(void)
{
	return pair_set_flags(slot_pages, 0);
}

static int take_nothing(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)src;
	(void)size_bytes;
	return 0;
}

static int harvest(void)
{
	return quire_vm_get_dirty_log(pair.machine.vm, 0, take_nothing, NULL);
}

static int replace(void)
{
	(void)pair_host_replace(5);
	return 0;
}

static int invalidate_all(void)
{
	quire_vm_host_invalidate_begin(pair.machine.vm, sim_hva(0), sim_hva(slot_pages));
	quire_vm_host_invalidate_end(pair.machine.vm, sim_hva(0), sim_hva(slot_pages));
	return 0;
}

static int delete (void)
{
	return machine_add_slot(&pair.machine, 0, 0, 0);
}

/* Both levels, as logging does it before it protects. */
static int split(void)
{
	struct table_cache tables = {0};
	struct quire_vm *vm = pair.machine.vm;
	gfn_t from = {0};
	int split;
	int err = table_cache_fill(&tables, &vm->arena, SIM_BLOCK + 1);

	biglock_write_lock(&vm->mmu_lock);
	split = tdp_split_range(vm, 0, &from, (gfn_t){slot_pages}, &tables);
	biglock_write_unlock(&vm->mmu_lock);
	table_cache_drain(&tables, &vm->arena);
	return err || split;
}

static void start(enum quire_format_id format, int eager)
{
	gfns = huge_gfns;
	slot_pages = SIM_BLOCK + 64;
	pair.machine.format = format;
	pair.machine.tunables.eager_page_split = (uint32_t)eager;
	pair_start(QUIRE_VM_DEFAULT);
	sim_map_huge(&pair.machine.host, 0, SIM_WRITABLE);
	for (uint32_t page = SIM_BLOCK; page < slot_pages; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE);
	assert_int_equal(pair_set_flags(slot_pages, 0), 0);
}

static void check_all(enum quire_format_id format, int eager)
{
	start(format, eager);
	check_history(store_one, 6);	/* map: huge, all of the block at once */
	check_history(store_beyond, 1); /* map: a small one */
	check_history(log_on, 7);	/* split if eager, protect */
	check_history(store_one, 1);	/* W back; a split if it was not eager */
	check_history(harvest, 1);	/* W off again */
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

/* Without A bits each operation finds leaves that were aged, and whose rights come and go. */
static void check_aged(int eager)
{
	start(QUIRE_FORMAT_EPT_NO_AD, eager);
	check_history(store_one, 6);
	check_history(store_beyond, 1);
	check_history(age, 7);	      /* all rights go */
	check_history(load_anew, 6);  /* R and X for the whole block */
	check_history(store_anew, 6); /* and W */
	check_history(age, 6);
	check_history(log_on, 0);     /* split if eager: old as before */
	check_history(store_anew, 1); /* all back for one; a split if it was not eager */
	check_history(age, 1);
	check_history(load_anew, 1);
	check_history(harvest, 0); /* there is no W to be taken */
	check_history(store_anew, 1);
	check_history(age, 1);
	check_history(log_off, 6); /* recover: one leaf with all rights */
	check_history(age, 6);
	check_history(replace, 6); /* zap */
	check_history(store_anew, 1);
	check_history(age, 1);
	check_history(invalidate_all, 1);
	check_history(store_anew, 1);
	check_history(age, 1);
	check_history(delete, 1);
	assert_true(machine_stop(&pair.machine));
}

static void test_history(void **state)
{
	(void)state;
	for (int eager = 0; eager < 2; eager++) {
		for (int format = 0; format < ENTRY_FORMATS; format++)
			check_all((enum quire_format_id)format, eager);
		check_aged(eager);
	}
}

static void check_gigantic(enum quire_format_id format)
{
	gfns = gigantic_gfns;
	slot_pages = SIM_GIGANTIC;
	pair.machine.format = format;
	pair.machine.tunables.eager_page_split = 0;
	pair_start(QUIRE_VM_DEFAULT);
	sim_map_gigantic(&pair.machine.host, 0, SIM_WRITABLE);
	assert_int_equal(pair_set_flags(slot_pages, 0), 0);
	check_history(store_one, 7); /* map: all of the block at once */
	check_history(log_on, 7);    /* protect: one store */
	check_history(store_one, 1); /* split of both levels, W for the page alone */
	check_history(harvest, 1);   /* W off again */
	check_history(log_off, 7);   /* recover: one leaf for tables of two levels */
	check_history(split, 0);     /* 513 tables, and no lookup sees a difference */
	assert_int_equal(quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_4k), SIM_GIGANTIC);
	/* Arming each page would be too many steps to be watched. */
	assert_int_equal(log_on(), 0);
	check_history(log_off, 7);
	assert_int_equal(quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_1g), 1);
	check_history(replace, 7);   /* zap: a page of it is replaced */
	check_history(load_far, 1);  /* map: what is left of it at 2 MiB */
	check_history(store_one, 1); /* and at 4 KiB, next to it */
	check_history(delete, 2);
	assert_true(machine_stop(&pair.machine));
}

static void test_gigantic(void **state)
{
	(void)state;
	for (int format = 0; format < ENTRY_FORMATS; format++)
		if (format != QUIRE_FORMAT_EPT_NO_AD)
			check_gigantic((enum quire_format_id)format);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_history)};
	const struct CMUnitTest gigantic[] = {cmocka_unit_test(test_gigantic)};
	int failed;

	pairs_init();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	pairs_destroy();
	machine_init_rows(&pair.machine, 1);
	failed += cmocka_run_group_tests(gigantic, NULL, NULL);
	pairs_destroy();
	return failed;
}
