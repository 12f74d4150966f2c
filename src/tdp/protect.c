/* Taking write permission away, for dirty logging. */
#include "src/tdp/tdp.h"

#include "src/base/assert.h"
#include "src/walk/range.h"

/* A huge leaf; or nothing to do. False: a table is there, whose leaves may have W. */
static bool protect_huge(const struct tdp_change *change, u64 *entry, u32 level)
{
	const struct entry_format *f = change->vm->format;
	u64 old = atomic_load_relaxed_u64(entry);

	while (entry_is_present(f, old) && entry_is_leaf(f, old, level) &&
	       entry_is_writable(f, old)) {
		u64 new = old & ~(f->writable | f->dirty);

		if (tdp_change_entry(change, entry, level, &old, new))
			return true;
	}
	return !entry_is_present(f, old) || entry_is_leaf(f, old, level);
}

static void protect_table(const struct tdp_change *change, const struct walk_run *run)
{
	for (u32 i = 0; i < run->count; i += 64) {
		u32 count = run->count - i < 64 ? run->count - i : 64;

		tdp_protect_entries(change, &run->entries[i], UINT64_MAX >> (64 - count));
	}
}

static void protect_run(const struct walk_run *run, void *ctx)
{
	if (run->level == QUIRE_LEVEL_4K) {
		protect_table(ctx, run);
		return;
	}
	/* What is a table, or becomes one, is walked. */
	for (u32 i = 0; i < run->count; i++)
		(void)protect_huge(ctx, &run->entries[i], run->level);
}

void tdp_write_protect_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			     struct flush_debt *debt)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as_id]);
	struct tdp_change change = {.vm = vm, .leaves = vm->leaves, .debt = debt};
	struct walk walk = {
	    .format = vm->format,
	    .root_level = TDP_ROOT_LEVEL,
	    .lowest = QUIRE_LEVEL_4K,
	    .visit = protect_run,
	    .ctx = &change,
	};

	if (!root)
		return;
	walk.root = table_entries(root);
	walk_range(&walk, start, end);
}

/* Where the last gfn was found: neighbours are mostly in the same table. */
struct place {
	struct tdp_change change;
	struct table *root;
	u64 first, count; /* gfns that @entries has, one each; or that the one entry covers */
	u64 *entries;
	u32 level;
};

static void place_find(struct place *place, gfn_t gfn)
{
	u64 *entry = tdp_find(place->change.vm, place->root, gfn, &place->level);
	bool table = place->level == QUIRE_LEVEL_4K;

	place->count = level_pages(table ? QUIRE_LEVEL_2M : (enum quire_level)place->level);
	place->first = round_down_u64(gfn.v, place->count);
	place->entries = table ? entry - (gfn.v - place->first) : entry;
}

static void protect_word(struct place *place, gfn_t base, u64 mask)
{
	while (mask) {
		u32 skip = (u32)__builtin_ctzll(mask);
		u64 gfn = base.v + skip, at, bits;

		if (gfn - place->first >= place->count)
			place_find(place, (gfn_t){gfn});
		at = gfn - place->first;
		bits = UINT64_MAX >> (64 - min_u64(64 - skip, place->count - at));
		if (place->level == QUIRE_LEVEL_4K) {
			tdp_protect_entries(&place->change, &place->entries[at],
					    mask >> skip & bits);
		} else if (!protect_huge(&place->change, place->entries, place->level)) {
			/* A prefault has split it meanwhile: look again. */
			place->count = 0;
			continue;
		}
		mask &= ~(bits << skip);
	}
}

void tdp_write_protect_bits(struct quire_vm *vm, const struct tdp_bits *bits,
			    struct flush_debt *debt)
{
	struct place place = {
	    .change = {.vm = vm, .leaves = vm->leaves, .debt = debt},
	    .root = atomic_load_acquire_ptr(&vm->roots.valid[bits->as_id]),
	};

	for (u64 i = 0; i < bits->count && place.root; i++)
		protect_word(&place, (gfn_t){bits->base.v + bits->words[i].offset},
			     bits->words[i].mask);
}
