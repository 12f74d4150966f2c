/* Walks over the entries that map a gfn range, in pieces short enough for one hold of mmu_lock. */
#include "src/shadow/internal.h"

#include "src/vm/locks.h"

/*
 * A piece ends after so many changed entries, each of which may miss the cache three times (entry,
 * head, page), or after so many heads; one with entries counts for several.
 */
#define HEAD_LOOKED_AT 16u
#define PIECE_HEADS (HEAD_LOOKED_AT * SHADOW_PIECE_CHANGES)

void shadow_piece_begin(const struct shadow *shadow, struct shadow_piece *piece)
{
	mmu_assert_exclusive(shadow->vm);
	*piece = (struct shadow_piece){.shadow = shadow,
				       .changes = shadow->changes + SHADOW_PIECE_CHANGES,
				       .heads = PIECE_HEADS};
}

int shadow_piece_is_over(const struct shadow_piece *piece)
{
	mmu_assert_exclusive(piece->shadow->vm);
	return piece->shadow->changes >= piece->changes || !piece->heads;
}

/* One page of heads; an empty one, and what is above it, is passed over as one. */
static u64 *next_in_page(struct shadow_piece *piece, const struct sparse *heads,
			 struct shadow_range *range, u64 end)
{
	u64 from = range->at;
	u64 limit = min_u64(end, round_down_u64(from, QUIRE_TABLE_ENTRIES) + QUIRE_TABLE_ENTRIES);
	u64 *head = sparse_next(heads, &range->at, limit);
	u64 passed = range->at > limit ? 1 : range->at - from;

	/* The caller will look at each of its entries. */
	if (head)
		passed += HEAD_LOOKED_AT;
	piece->heads -= min_u64(passed, piece->heads);
	if (!head)
		range->at = max_u64(range->at, limit);
	return head;
}

u64 *shadow_range_next(struct shadow_piece *piece, struct shadow_range *range)
{
	const struct shadow *shadow = piece->shadow;

	mmu_assert_exclusive(shadow->vm);
	for (; range->level <= range->highest; range->level++, range->at = 0) {
		const struct sparse *heads = &shadow->rmaps[range->as_id][range->level - 1];
		u64 pages = level_pages((enum quire_level)range->level);
		u64 end = (range->end.v + pages - 1) / pages, *head;

		range->at = max_u64(range->at, range->start.v / pages);
		while (range->at < end) {
			if (shadow_piece_is_over(piece))
				return NULL;
			head = next_in_page(piece, heads, range, end);
			if (head)
				return head;
		}
	}
	return NULL;
}
