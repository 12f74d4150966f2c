/* Which leaves has the guest used since the last look? */
#include "src/tdp/age.h"

#include "src/walk/range.h"

struct age {
	const struct entry_format *f;
	enum quire_age kind;
	bool young;
};

/*
 * The walker may set A at the same moment, or somebody take the leaf away: one attempt is enough,
 * since either way the page was used, and an A that stays is found the next time.
 */
static void age_run(const struct walk_run *run, void *ctx)
{
	struct age *age = ctx;
	const struct entry_format *f = age->f;

	for (u32 i = 0; i < run->count; i++) {
		u64 old = atomic_load_relaxed_u64(&run->entries[i]);

		if (!entry_is_present(f, old) || !entry_is_leaf(f, old, run->level) ||
		    !(old & f->accessed))
			continue;
		age->young = true;
		if (age->kind == QUIRE_AGE_CLEAR)
			(void)!atomic_cmpxchg_u64(&run->entries[i], &old, old & ~f->accessed);
	}
}

int tdp_age_range(struct quire_vm *vm, const struct tdp_age_range *range)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[range->as_id]);
	struct age age = {.f = vm->format, .kind = range->kind};
	struct walk walk = {
	    .format = vm->format,
	    .root_level = TDP_ROOT_LEVEL,
	    .lowest = QUIRE_LEVEL_4K,
	    .visit = age_run,
	    .ctx = &age,
	};

	if (!root)
		return 0;
	walk.root = table_entries(root);
	walk_range(&walk, range->start, range->end);
	return age.young;
}
