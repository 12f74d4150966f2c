/* Which mappings of shadow tables were used since the last look? Without mmu_lock. */
#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

struct age {
	enum quire_age kind;
	u64 at, pages; /* the block of the set */
};

/* One attempt: another change at the same moment uses the entry or takes it away. */
static int age_entry(const struct age *age, u64 *entry)
{
	const struct entry_format *f = SHADOW_BITS;
	u64 old = atomic_load_relaxed_u64(entry);

	if (!entry_is_present(f, old) || !(old & f->accessed))
		return 0;
	CHECK(entry_is_leaf(f, old, role_level(shadow_page_of(entry)->role)));
	CHECK(shadow_leaf_gfn(shadow_page_of(entry), shadow_index_of(entry)).v / age->pages ==
	      age->at);
	if (age->kind == QUIRE_AGE_CLEAR)
		(void)!atomic_cmpxchg_relaxed_u64(entry, &old, old & ~f->accessed);
	return 1;
}

static int age_head(const struct age *age, u64 *head)
{
	u64 value = rmap_lock(head);
	struct rmap_iter iter;
	int young = 0;

	if (!value)
		return 0;
	if (MUTANT(rmap_unlocked))
		rmap_unlock(head, value);
	for (u64 *entry = rmap_first(&iter, value); entry; entry = rmap_next(&iter))
		young |= age_entry(age, entry);
	if (!MUTANT(rmap_unlocked))
		rmap_unlock(head, value);
	return young;
}

int shadow_age(struct quire_vm *vm, const struct shadow_age_range *range)
{
	struct shadow *shadow = shadow_of(vm);
	int young = 0;

	mmu_assert_section(vm);
	for (u32 level = QUIRE_LEVEL_4K; shadow && level <= QUIRE_LEVEL_1G; level++) {
		const struct sparse *heads = &shadow->rmaps[range->as_id][level - 1];
		u64 pages = level_pages((enum quire_level)level);
		u64 end = (range->end.v + pages - 1) / pages;
		struct age age = {
		    .kind = range->kind, .at = range->start.v / pages, .pages = pages};
		u64 *head;

		for (; (head = sparse_next(heads, &age.at, end)); age.at++)
			young |= age_head(&age, head);
	}
	return young;
}
