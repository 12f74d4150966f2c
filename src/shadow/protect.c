/* Taking W away for dirty logging, and giving huge mappings a chance after it. */
#include "src/shadow/internal.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/vm/locks.h"

static void protect_head(const struct shadow_change *change, u64 head, u32 level)
{
	const struct entry_format *f = SHADOW_BITS;
	u32 count = rmap_count(head);

	for (u32 i = 0; i < count; i++) {
		u64 *entry = rmap_at(head, i);
		u64 old = atomic_load_relaxed_u64(entry);

		CHECK(role_level(shadow_page_of(entry)->role) == level);
		CHECK(entry_is_present(f, old) && entry_is_leaf(f, old, level));
		/* The processor sets D only with W: clearing both loses nothing. */
		if (entry_is_writable(f, old) &&
		    !(MUTANT(nested_huge_unprotected) && level > QUIRE_LEVEL_4K))
			(void)shadow_store(change, entry, level, old & ~(f->writable | f->dirty));
	}
}

int shadow_write_protect(struct quire_vm *vm, struct shadow_range *range, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	struct shadow_piece piece;
	u64 *head;

	mmu_assert_exclusive(vm);
	if (!change.shadow)
		return 0;
	shadow_piece_begin(change.shadow, &piece);
	for (; (head = shadow_range_next(&piece, range)); range->at++)
		protect_head(&change, rmap_read(head), range->level);
	return !shadow_range_is_done(range);
}

/* Only parts of L1's own huge mappings can become larger again. */
static u64 *find_part(u64 head)
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
	const struct shadow_range *range = &recovery->range;
	u64 block = range->at / QUIRE_TABLE_ENTRIES;
	gfn_t gfn = {block * level_pages((enum quire_level)(range->level + 1))};

	if (recovery->block != block + 1 || recovery->asked_level != range->level + 1) {
		recovery->block = block + 1;
		recovery->asked_level = range->level + 1;
		recovery->block_allowed = gfn.v >= range->start.v &&
					  recovery->allowed(recovery->ctx, gfn, range->level + 1);
	}
	return recovery->block_allowed;
}

int shadow_recover(struct quire_vm *vm, struct shadow_recovery *recovery, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	struct shadow_range *range = &recovery->range;
	struct shadow_piece piece;
	u64 *head, *part;

	mmu_assert_exclusive(vm);
	if (!change.shadow)
		return 0;
	/* What was allowed may not be after the lock was dropped. */
	recovery->block = 0;
	shadow_piece_begin(change.shadow, &piece);
	for (; (head = shadow_range_next(&piece, range)); range->at++)
		while ((part = find_part(rmap_read(head))) && may_grow(recovery))
			shadow_drop(&change, part);
	return !shadow_range_is_done(range);
}
