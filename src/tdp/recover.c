/* Huge pages come back: replacing tables by the huge leaf that could be there. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

struct recover {
	struct tdp_change change;
	tdp_huge_allowed allowed;
	void *ctx;
};

/* A leaf, and the gfn it maps. */
struct found_leaf {
	u64 entry;
	gfn_t gfn;
};

/* The first present leaf among @entries, which are at @level and start at @gfn, and below them. */
static bool find_leaf(const struct entry_format *f, const u64 *entries, u32 level,
		      struct found_leaf *found)
{
	gfn_t first = found->gfn;

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		u64 entry = atomic_load_acquire_u64(&entries[i]);

		found->gfn.v = first.v + i * level_pages((enum quire_level)level);
		found->entry = entry;
		if (!entry_is_present(f, entry))
			continue;
		if (entry_is_leaf(f, entry, level) ||
		    find_leaf(f, entry_table(f, entry), level - 1, found))
			return true;
	}
	return false;
}

/* The huge leaf that maps what is mapped below the table @entries: made of the first leaf there,
 * which a table that is not empty has. 0 when there is none, or when the frames are not in one
 * aligned row. */
static u64 huge_of(const struct recover *recover, const u64 *entries, gfn_t gfn, u32 level)
{
	const struct entry_format *f = &recover->change.vm->tdp_format;
	u64 pages = level_pages((enum quire_level)level);
	struct entry_leaf leaf = {.level = level, .accessed = true};
	struct found_leaf found = {.gfn = gfn};
	u64 used;

	if (!find_leaf(f, entries, level - 1, &found))
		return 0;
	leaf.pfn.v = entry_pfn(f, found.entry).v - (found.gfn.v - gfn.v);
	if (!is_aligned_u64(leaf.pfn.v, pages) || !recover->allowed(recover->ctx, gfn, level))
		return 0;
	/* The workaround lets 4K leaves execute: the host forbids it, which a huge leaf cannot
	 * tell. */
	used = entry_make_young(f, found.entry);
	leaf.lacks =
	    (f->unreadable | (f->executable_user ? f->executable | f->executable_user : 0)) & ~used;
	if (nx_is_on(recover->change.vm) && (!entry_is_executable(f, used) || leaf.lacks))
		return 0;
	leaf.memtype = entry_memtype(f, found.entry);
	leaf.host_writable = found.entry & f->host_writable;
	leaf.mmu_writable = found.entry & f->mmu_writable;
	leaf.writable = leaf.mmu_writable;
	leaf.executable = entry_is_executable(f, used) && !nx_is_on(recover->change.vm);
	return entry_make_leaf(f, &leaf);
}

static void recover_run(const struct walk_run *run, void *ctx)
{
	struct recover *recover = ctx;
	const struct entry_format *f = &recover->change.vm->tdp_format;
	u64 pages = level_pages((enum quire_level)run->level);

	mmu_assert_shared(recover->change.vm);
	CHECK(run->level >= QUIRE_LEVEL_2M);
	if (run->level > QUIRE_LEVEL_1G)
		return;
	for (u32 i = 0; i < run->count; i++) {
		u64 *entry = &run->entries[i];
		/* A fault may just have linked the table whose entries are read below. */
		u64 old = atomic_load_acquire_u64(entry), huge;

		if (!entry_is_present(f, old) || entry_is_leaf(f, old, run->level) ||
		    !walk_covers(run, i))
			continue;
		huge = huge_of(recover, entry_table(f, old), (gfn_t){run->gfn.v + i * pages},
			       run->level);
		CHECK(!huge || is_aligned_u64(entry_pfn(f, huge).v, pages));
		if (huge)
			(void)!tdp_change_entry(&recover->change, entry, run->level, &old, huge);
	}
}

void tdp_recover_range(struct quire_vm *vm, const struct tdp_recovery *recovery,
		       struct flush_debt *debt)
{
	struct recover recover = {
	    .change = {.vm = vm, .leaves = vm->leaves, .debt = debt},
	    .allowed = recovery->allowed,
	    .ctx = recovery->ctx,
	};
	const struct tdp_visit visit = {
	    .lowest = QUIRE_LEVEL_2M, .visit = recover_run, .ctx = &recover};

	mmu_assert_shared(vm);
	CHECK(recovery->start.v < recovery->end.v);
	CHECK(debt->domain == &vm->flush);
	tdp_walk(vm, recovery->as_id, &visit, recovery->start, recovery->end);
}
