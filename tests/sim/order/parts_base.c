/*
 * What src/base and src/tree publish, where the pairs of primitives.c and parts.c do not come: a
 * mutex that sleeps, a section that joins late, ranges, thread records. As there a plain word
 * stands for what must not be touched too early.
 */
#include <string.h>

#include "src/base/lock.h"
#include "src/base/reclaim.h"
#include "src/base/section.h"
#include "src/tree/ptree_node.h"
#include "src/tree/range_map.h"
#include "tests/sim/order/part_host.h"

#define AT 5u	      /* the number that is looked for */
#define RECORDS 4096u /* two a run */

static struct {
	struct mutex mutex;
	struct long_sections sections;
	struct range_map map;
	u32 value, *shown;
	u32 guarded;
	bool good[3]; /* by thread */
} base;

static struct quire_thread records[RECORDS];
static u32 record_count;

static void setup(void *ctx)
{
	(void)ctx;
	part_host_start();
	memset(&base, 0, sizeof(base));
	mutex_init(&base.mutex, RANK_MMU);
	base.shown = &base.value;
	memset(base.good, true, sizeof(base.good));
}

static bool is_good(void *ctx)
{
	(void)ctx;
	return base.good[0] && base.good[1] && base.good[2];
}

static bool counted_two(void *ctx)
{
	(void)ctx;
	return base.guarded == 2;
}

/* The first owner finds a sleeper that has given up; the second need not spin, and sleeps. */
static void owners_that_sleep(uint32_t thread, void *ctx)
{
	(void)ctx;
	mutex_lock(&base.mutex);
	if (!thread)
		atomic_store_relaxed_u32(&base.mutex.word, 2);
	base.guarded++;
	mutex_unlock(&base.mutex);
}

/* The first wait has nothing to wait for, but its turns may be what the section joins. */
static void late_section(uint32_t thread, void *ctx)
{
	u32 turn, *found;

	(void)ctx;
	if (thread) {
		long_sections_wait(&base.sections);
		atomic_store_relaxed_ptr(&base.shown, NULL);
		long_sections_wait(&base.sections);
		base.value = 1;
		return;
	}
	turn = long_section_enter(&base.sections);
	found = atomic_load_relaxed_ptr(&base.shown);
	if (found)
		(void)*(volatile u32 *)found;
	long_section_leave(&base.sections, turn);
}

static void set_range(u64 value)
{
	const struct ptree_item range = {AT, AT + 1, (void *)(uintptr_t)value};
	struct range_map_change change;

	if (range_map_prepare(&base.map, &part_host, NULL, &range, &change)) {
		base.good[1] = false;
		return;
	}
	range_map_commit(&base.map, &change);
	reclaim_synchronize();
	range_map_finish(&change);
}

static void reads_value(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		set_range(1);
		set_range(2);
		return;
	}
	reclaim_enter();
	base.good[0] &= range_map_get(&base.map, AT) <= 2;
	reclaim_leave();
}

static void reads_run(uint32_t thread, void *ctx)
{
	u64 value;

	if (thread) {
		reads_value(thread, ctx);
		return;
	}
	reclaim_enter();
	base.good[0] &= range_map_run(&base.map, AT, AT + 1, &value) == AT + 1 && value <= 2;
	reclaim_leave();
}

/* No record ever goes, so each run has two of its own. */
static void records_setup(void *ctx)
{
	setup(ctx);
	base.good[2] = record_count + 2 <= RECORDS;
	record_count += 2;
}

static void two_records(uint32_t thread, void *ctx)
{
	struct quire_thread *mine = &records[record_count - 2], *found;

	(void)ctx;
	if (record_count > RECORDS)
		return;
	if (thread < 2) {
		mine[thread].held_count = 0;
		quire_thread_register(&mine[thread]);
		return;
	}
	found = base_threads();
	for (u32 i = 0; i < 2 && (found == mine || found == mine + 1); i++) {
		base.good[2] &= !*(volatile uint32_t *)&found->held_count;
		found = found->next;
	}
}

/* The last leaves its records in the list: it comes after all other pairs. */
const struct pair pairs_base[] = {
    {"mutex that sleeps", 3, setup, owners_that_sleep, counted_two, 0},
    {"long section, joined late", 3, setup, late_section, is_good, 0},
    {"range map, one number", 3, setup, reads_value, is_good, 0},
    {"range map, run", 3, setup, reads_run, is_good, 0},
    {"thread records", 2, records_setup, two_records, is_good, 3},
    {.name = NULL},
};
