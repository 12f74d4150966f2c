/* The walk over a gfn range. */
#include "src/walk/range.h"

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

/* Returns where it stopped. */
static gfn_t walk_table(const struct walk *walk, u64 *table, u32 level,
			const struct walk_run *range)
{
	const struct entry_format *f = walk->format;
	u64 pages = level_pages((enum quire_level)level);
	u32 first = walk_index(range->start, level);
	u32 last = walk_index((gfn_t){range->end.v - 1}, level);
	struct walk_run run = {
	    .entries = &table[first],
	    .count = last - first + 1,
	    .level = level,
	    .gfn = {round_down_u64(range->start.v, pages)},
	    .start = range->start,
	    .end = range->end,
	};

	if (walk->budget) {
		if (*walk->budget < run.count)
			return range->start;
		*walk->budget -= run.count;
	}
	walk->visit(&run, walk->ctx);
	if (level <= walk->lowest)
		return range->end;
	for (u32 i = 0; i < run.count; i++) {
		u64 entry = walk_load(f, &run.entries[i]);
		u64 block = run.gfn.v + i * pages;
		struct walk_run below;
		gfn_t stopped;

		if (!entry_is_present(f, entry) || entry_is_leaf(f, entry, level))
			continue;
		below.start.v = max_u64(range->start.v, block);
		below.end.v = min_u64(range->end.v, block + pages);
		stopped = walk_table(walk, entry_table(f, entry), level - 1, &below);
		if (stopped.v < below.end.v)
			return stopped;
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
