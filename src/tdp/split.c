/* Splitting huge leaves into tables of smaller ones that map the same. */
#include "src/tdp/store.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

/* Where the addresses of neighbours do not differ by one number. */
static void fill_one_by_one(const struct entry_format *f, u64 *entries, u64 first, u32 level)
{
	CHECK(f->odd && entry_is_present(f, first));
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		entries[i] = entry_make_child(f, first, level, i);
}

/*
 * The compiler makes vectors of it where the machine has such, and words elsewhere. An access of
 * more than 16 bytes is one that ThreadSanitizer does not look at.
 */
#ifdef ATOMIC_SOLE_WRITER_TSAN
#define LINE_ENTRIES 2u
#else
#define LINE_ENTRIES 8u
#endif
typedef u64 entry_line __attribute__((vector_size(LINE_ENTRIES * sizeof(u64)), may_alias));

/* @first, and @step more each, a cache line at a time. */
static void fill_by_steps(u64 *entries, u64 first, u64 step)
{
	entry_line *line = (entry_line *)(void *)entries, value;

	CHECK(is_aligned_u64((u64)(uintptr_t)entries, QUIRE_PAGE_SIZE));
	for (u32 i = 0; i < LINE_ENTRIES; i++)
		value[i] = first + i * step;
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES / LINE_ENTRIES; i++) {
		line[i] = value;
		value += LINE_ENTRIES * step;
	}
	CHECK(entries[QUIRE_TABLE_ENTRIES - 1] == first + (QUIRE_TABLE_ENTRIES - 1) * step);
}

/*
 * No other thread sees the table before it is linked, so it is filled with plain stores. The
 * children allow what the huge leaf allowed, and carry its A and D: no flush is owed, a cached huge
 * translation is as good as the children (E-013).
 */
static void fill_children(const struct quire_vm *vm, u64 *entries, u64 huge, u32 level)
{
	const struct entry_format *f = &vm->tdp_format;
	u64 child = entry_make_child(f, huge, level, 0);
	u64 step = entry_child_step(level);

	CHECK(level > QUIRE_LEVEL_4K && entry_is_leaf(f, huge, level));
	CHECK(is_aligned_u64(entry_pfn(f, huge).v, level_pages((enum quire_level)level)));
	if (MUTANT(split_writable))
		child |= f->writable;
	/* The workaround forbids executing only where it is huge. */
	if (level == QUIRE_LEVEL_2M && nx_is_on(vm))
		child = entry_make_executable(f, child);
	if (unlikely(f->odd)) {
		fill_one_by_one(f, entries, child, level);
		return;
	}
	fill_by_steps(entries, child, step);
}

enum tdp_result tdp_split_entry(const struct tdp_change *change, u64 *entry, u32 level, u64 huge,
				struct table *table)
{
	const struct entry_format *f = &change->vm->tdp_format;
	u64 *entries = table_entries(table);

	mmu_assert_shared(change->vm);
	CHECK(!table->nx_listed && !table->has_mmio);
	CHECK(table->gfn.v % level_pages((enum quire_level)level) == 0);
	table->level = (u8)(level - 1);
	table->parent = entry;
	fill_children(change->vm, entries, huge, level);
	CHECK(entry_is_legal(f, entries[QUIRE_TABLE_ENTRIES - 1], level - 1));
	if (!tdp_change_entry(change, entry, level, &huge, entry_make_table(f, entries)))
		return TDP_LOST;
	atomic_add_relaxed_u64(&change->leaves[level - 1], QUIRE_TABLE_ENTRIES);
	return TDP_DONE;
}

/* What a hold of mmu_lock looks at, at most. */
#define SPLIT_ENTRIES UINT64_C(8192)
_Static_assert(SPLIT_ENTRIES >= WALK_BUDGET_MIN, "a hold gets on");

struct split {
	struct tdp_change change;
	struct table_cache *tables;
	u64 budget;
	gfn_t again; /* starved: everything before it is split */
	u32 as_id;
	bool starved;
};

/*
 * No table is left for entry @index of the run. What is below the entries before it has not been
 * walked yet, except at the lowest level, where nothing is.
 */
static void starve(struct split *split, const struct walk_run *run, u32 index)
{
	u64 pages = level_pages((enum quire_level)run->level);
	u64 at = run->gfn.v + (run->level == QUIRE_LEVEL_2M ? index * pages : 0);

	split->starved = true;
	split->budget = 0;
	split->again.v = max_u64(at, run->start.v);
}

/* Every attempt, also those that failed (E-050). */
static inline void trace_split(u64 gfn, u64 huge, u32 level, int err)
{
	QUIRE_TRACE(kvm_mmu_split_huge_page, gfn, huge, level, (u64)(s64)err);
}

static void split_run(const struct walk_run *run, void *ctx)
{
	struct split *split = ctx;
	const struct entry_format *f = &split->change.vm->tdp_format;
	u64 pages = level_pages((enum quire_level)run->level);

	for (u32 i = 0; i < run->count && !split->starved; i++) {
		u64 *entry = &run->entries[i];
		u64 old = walk_load(f, entry);

		/* A failed compare-exchange is the walker setting A or D: once more. */
		while (entry_is_present(f, old) && entry_is_leaf(f, old, run->level)) {
			struct table *table = table_cache_take(split->tables);
			u64 gfn = run->gfn.v + i * pages, huge = old;
			int err = 0;

			if (!table) {
				starve(split, run, i);
				if (split->tables->exhausted)
					trace_split(gfn, huge, run->level, -ENOMEM);
				break;
			}
			nx_table_init(table, (gfn_t){gfn}, split->as_id);
			if (!tdp_split_entry(&split->change, entry, run->level, old, table))
				err = -EBUSY;
			trace_split(gfn, huge, run->level, err);
			if (!err)
				break;
			table_cache_put(split->tables, table);
			old = walk_load(f, entry);
		}
	}
}

int tdp_split_range(struct quire_vm *vm, u32 as_id, gfn_t *start, gfn_t end,
		    struct table_cache *tables)
{
	struct split split = {
	    .change = {.vm = vm, .leaves = vm->leaves},
	    .tables = tables,
	    .budget = SPLIT_ENTRIES,
	    .as_id = as_id,
	};
	const struct tdp_visit visit = {
	    .lowest = QUIRE_LEVEL_2M, .visit = split_run, .ctx = &split, .budget = &split.budget};
	gfn_t stopped;

	mmu_assert_shared(vm);
	CHECK(start->v < end.v && as_id < vm->address_spaces);
	stopped = tdp_walk(vm, as_id, &visit, *start, end);
	CHECK(split.starved || stopped.v > start->v);
	CHECK(!split.starved || (!tables->count && split.again.v >= start->v));
	*start = split.starved ? split.again : stopped;
	return split.starved ? -ENOMEM : 0;
}
