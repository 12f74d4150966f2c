/* Walking a gfn range: one call of the visitor for each run of entries in one table. */
#ifndef QUIRE_WALK_RANGE_H
#define QUIRE_WALK_RANGE_H

#include "src/base/atomic.h"
#include "src/entry/format.h"
#include "src/walk/table.h"

/*
 * A run: entries [first, first + count) of one table, which cover the part of the range that
 * this table maps. Operations loop over a run themselves, so that the loop is theirs to make
 * tight; the walk only finds the tables.
 */
struct walk_run {
	u64 *entries; /* the first entry of the run */
	u32 count;
	u32 level;   /* of the entries */
	gfn_t gfn;   /* of the first entry */
	gfn_t start; /* the range asked for, so that a visitor knows a block that it only partly */
	gfn_t end;   /* covers: both cut to what this table maps */
};

typedef void (*walk_visit)(const struct walk_run *run, void *ctx);

/*
 * The walk, in rising gfn order:
 *   1. visit the run of the top table;
 *   2. for each entry of the run that now points to a table, and whose level is above
 *      @lowest: walk the part of the range below it in the same way;
 *   3. with @budget, stop in front of the first run that has more entries than are left of it.
 *      Above the lowest level a table is then several runs, of which each is walked before the
 *      next is shown.
 * A visitor may change the entries it is shown: a table it unlinked is not walked. Must be called
 * under mmu_lock, and in shared mode within a read section, so that a table read from an entry
 * stays a table while the walk is in it; or in a read section alone by a visitor that only looks,
 * or ages.
 */
struct walk {
	const struct entry_format *format;
	u64 *root;  /* of the format's level, and as many tables as it says */
	u32 lowest; /* do not go below this level */
	walk_visit visit;
	void *ctx;
	u64 *budget; /* entries that may still be visited; NULL: any number */
};

/*
 * Returns where it stopped: @end, or before it the start of the first run for which the budget was
 * too small. A budget of WALK_BUDGET_MIN reaches at least one lowest table.
 */
gfn_t walk_range(const struct walk *walk, gfn_t start, gfn_t end);
#define WALK_BUDGET_MIN (5u * QUIRE_TABLE_ENTRIES)

/*
 * The entry, once no thread owns it: another one, which holds mmu_lock shared, may be changing what
 * it is (struct entry_format, .breaks). Under mmu_lock, or in a read section. An acquire.
 */
u64 walk_wait_thawed(const struct entry_format *f, const u64 *entry);
static inline u64 walk_load(const struct entry_format *f, const u64 *entry)
{
	u64 value = atomic_load_acquire_u64(entry);

	return likely(!entry_is_frozen(f, value)) ? value : walk_wait_thawed(f, entry);
}

/* Does the range asked for cover the whole block of entry @index of the run? */
static inline bool walk_covers(const struct walk_run *run, u32 index)
{
	u64 pages = level_pages((enum quire_level)run->level);
	u64 block = run->gfn.v + index * pages;

	return run->start.v <= block && block + pages <= run->end.v;
}

#endif
