/* The walk over a gfn range. */
#include "src/walk/range.h"

#include "src/base/assert.h"
#include "src/base/platform.h"

u64 walk_wait_thawed(const struct entry_format *f, const u64 *entry)
{
	u64 value = f->frozen;

	for (unsigned int turn = 1; entry_is_frozen(f, value); turn++) {
		base_platform->relax(turn);
		value = atomic_load_acquire_u64(entry);
	}
	return value;
}

/*
 * Entries above the lowest level that are shown at once where there is a budget: those behind the
 * place where it ends would be looked at in vain, and again in the next hold.
 */
#define GROUP 16u

/* Returns where it stopped. */
static gfn_t walk_table(const struct walk *walk, u64 *table, u32 level,
			const struct walk_run *range)
{
	const struct entry_format *f = walk->format;
	u64 pages = level_pages((enum quire_level)level);
	u64 shown = pages * (walk->budget && level > QUIRE_LEVEL_4K ? GROUP : QUIRE_TABLE_ENTRIES);
	struct walk_run run = {.level = level, .start = range->start};

	CHECK(range->start.v < range->end.v);
	for (; run.start.v < range->end.v; run.start = run.end) {
		u32 first = walk_index(run.start, level);

		run.end.v = min_u64(range->end.v, round_down_u64(run.start.v, shown) + shown);
		run.entries = &table[first];
		run.count = walk_index((gfn_t){run.end.v - 1}, level) - first + 1;
		run.gfn.v = round_down_u64(run.start.v, pages);
		if (walk->budget) {
			if (*walk->budget < run.count)
				return run.start;
			*walk->budget -= run.count;
		}
		walk->visit(&run, walk->ctx);
		for (u32 i = 0; i < run.count && level > walk->lowest; i++) {
			u64 entry = walk_load(f, &run.entries[i]);
			u64 block = run.gfn.v + i * pages;
			struct walk_run below;
			gfn_t stopped;

			if (!entry_is_present(f, entry) || entry_is_leaf(f, entry, level))
				continue;
			below.start.v = max_u64(run.start.v, block);
			below.end.v = min_u64(run.end.v, block + pages);
			stopped = walk_table(walk, entry_table(f, entry), level - 1, &below);
			if (stopped.v < below.end.v)
				return stopped;
		}
	}
	return range->end;
}

gfn_t walk_range(const struct walk *walk, gfn_t start, gfn_t end)
{
	const struct entry_format *f = walk->format;
	u64 pages = level_pages((enum quire_level)f->root_level) * QUIRE_TABLE_ENTRIES;
	u64 limit = min_u64(end.v, pages * entry_root_tables(f));

	/* One table of the root after the other. */
	while (start.v < limit) {
		u64 *table = entry_root_table(f, walk->root, start);
		struct walk_run range = {
		    .start = start,
		    .end = {min_u64(limit, round_down_u64(start.v, pages) + pages)},
		};
		gfn_t stopped = walk_table(walk, table, f->root_level, &range);

		if (stopped.v < range.end.v)
			return stopped;
		start = range.end;
	}
	/* Nothing is mapped beyond the limit. */
	return end;
}
