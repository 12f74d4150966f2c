/* Taking W away for dirty logging, and giving huge mappings a chance after it. */
#include "src/shadow/internal.h"

#include "src/base/mutant.h"
#include "src/vm/locks.h"

static void protect_head(const struct shadow_change *change, u64 head, u32 level)
{
	const struct entry_format *f = SHADOW_FORMAT;
	u32 count = rmap_count(head);

	for (u32 i = 0; i < count; i++) {
		u64 *entry = rmap_at(head, i);
		u64 old = atomic_load_relaxed_u64(entry);

		/* The processor sets D only with W: clearing both loses nothing. */
		if (entry_is_writable(f, old) &&
		    !(MUTANT(nested_huge_unprotected) && level > QUIRE_LEVEL_4K))
			(void)shadow_store(change, entry, level, old & ~(f->writable | f->dirty));
	}
}

void shadow_write_protect(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			  struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);

	mmu_assert_exclusive(vm);
	for (u32 level = QUIRE_LEVEL_4K; change.shadow && level <= QUIRE_LEVEL_1G; level++) {
		struct sparse *heads = &change.shadow->rmaps[as_id][level - 1];
		u64 pages = level_pages((enum quire_level)level);
		u64 at = start.v / pages, last = (end.v - 1) / pages;
		u64 *head;

		for (; (head = sparse_next(heads, &at, last + 1)); at++)
			protect_head(&change, rmap_read(head), level);
	}
}

/* Only pieces of L1's own huge mappings can become larger again. */
static u64 *find_piece(u64 head)
{
	u32 count = rmap_count(head);

	for (u32 i = 0; i < count; i++)
		if (shadow_page_of(rmap_at(head, i))->role & ROLE_DIRECT)
			return rmap_at(head, i);
	return NULL;
}

/* May what @recovery has reached be part of a leaf one level up? */
static int may_grow(struct shadow_recovery *recovery)
{
	u64 pages = level_pages((enum quire_level)recovery->level);
	u64 block = recovery->at * pages / (pages * QUIRE_TABLE_ENTRIES);
	gfn_t gfn = {block * pages * QUIRE_TABLE_ENTRIES};

	if (recovery->block != block + 1) {
		recovery->block = block + 1;
		recovery->block_allowed =
		    gfn.v >= recovery->start.v &&
		    recovery->allowed(recovery->ctx, gfn, recovery->level + 1);
	}
	return recovery->block_allowed;
}

int shadow_recover(struct quire_vm *vm, struct shadow_recovery *recovery, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	u32 left = SHADOW_RECOVER_BATCH;

	mmu_assert_exclusive(vm);
	for (; change.shadow && recovery->level < QUIRE_LEVEL_1G;
	     recovery->level++, recovery->at = recovery->block = 0) {
		struct sparse *heads = &change.shadow->rmaps[recovery->as_id][recovery->level - 1];
		u64 pages = level_pages((enum quire_level)recovery->level);
		u64 end = (recovery->end.v + pages - 1) / pages, *head, *piece;

		recovery->at = max_u64(recovery->at, recovery->start.v / pages);
		for (; (head = sparse_next(heads, &recovery->at, end)); recovery->at++) {
			if (!left--)
				return 1;
			while ((piece = find_piece(rmap_read(head))) && may_grow(recovery))
				shadow_drop(&change, piece);
		}
	}
	return 0;
}
