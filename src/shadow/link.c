/*
 * Putting entries in and taking them out, with what hangs on them. shadow_store() is the store
 * gateway of the shadow tables: every change of an entry, and what it owes.
 */
#include "src/shadow/internal.h"

#include "src/base/assert.h"
#include "src/vm/locks.h"

/* Chains that are longer make every operation on the gfn slow: they go whole. */
#define CHAIN_MAX 1000u

/* Anything that was there and is not, or allows less. Adding rights or entries owes nothing. */
static bool owes_flush(u64 old, u64 new, u32 level)
{
	const struct entry_format *f = SHADOW_BITS;

	if (!entry_is_present(f, old))
		return false;
	if (!entry_is_present(f, new) ||
	    entry_is_leaf(f, old, level) != entry_is_leaf(f, new, level))
		return true;
	return (old & ~new &SHADOW_USER) ||
	       (entry_is_writable(f, old) && !entry_is_writable(f, new)) ||
	       (entry_is_executable(f, old) && !entry_is_executable(f, new));
}

static bool maps(u64 entry, u32 level)
{
	return entry_is_present(SHADOW_BITS, entry) && entry_is_leaf(SHADOW_BITS, entry, level);
}

u64 shadow_store(const struct shadow_change *change, u64 *entry, u32 level, u64 new)
{
	struct quire_vm *vm = change->vm;
	u64 old = atomic_load_relaxed_u64(entry);

	mmu_assert_exclusive(change->vm);
	CHECK(role_level(shadow_page_of(entry)->role) == level);
	CHECK(entry_is_present(SHADOW_BITS, new) || new == SHADOW_BITS->nonpresent);
	change->shadow->changes++;
	/* I-73. Processors and aging change it meanwhile, but only A and D of what is present. */
	if (!entry_is_present(SHADOW_BITS, old))
		atomic_store_release_u64(entry, new);
	else
		while (!atomic_cmpxchg_u64(entry, &old, new))
			;
	if (maps(old, level) && maps(new, level) &&
	    BROKEN(entry_pfn(SHADOW_BITS, old).v == entry_pfn(SHADOW_BITS, new).v))
		vm_poison(vm);
	if (maps(old, level) != maps(new, level))
		atomic_add_relaxed_u64(&vm->leaves[level], maps(new, level) ? 1 : -UINT64_C(1));
	if (owes_flush(old, new, level))
		flush_debt_owe(change->debt);
	return old;
}

static void drop_child(const struct shadow_change *change, const u64 *entry, u64 old)
{
	struct shadow_page *child = shadow_page_of(entry_table(&change->vm->shadow_format, old));

	CHECK(child->table->level + 1u == role_level(shadow_page_of(entry)->role));
	if (BROKEN(!rmap_remove(&child->parents, entry, &change->shadow->pool)))
		vm_poison(change->vm);
	/*
	 * A page without parents is of no use to a nested guest, and would fill the quota. But the
	 * tree below it may be large: it goes page by page, once the lock can be dropped.
	 */
	if (!child->parents && !child->kept)
		shadow_page_orphan(change, child);
}

static void drop_leaf(const struct shadow_change *change, const u64 *entry)
{
	const struct shadow_page *page = shadow_page_of(entry);
	gfn_t gfn = shadow_leaf_gfn(page, shadow_index_of(entry));
	u64 *head = rmap_head(change->shadow, page, gfn, role_level(page->role));

	if (BROKEN(head && !rmap_remove(head, entry, &change->shadow->pool)))
		vm_poison(change->vm);
}

void shadow_drop(const struct shadow_change *change, u64 *entry)
{
	const struct entry_format *f = SHADOW_BITS;
	u32 level = role_level(shadow_page_of(entry)->role);
	u64 old = shadow_store(change, entry, level, f->nonpresent);

	mmu_assert_exclusive(change->vm);
	CHECK(*entry == f->nonpresent);
	if (!entry_is_present(f, old))
		return;
	if (entry_is_leaf(f, old, level))
		drop_leaf(change, entry);
	else
		drop_child(change, entry, old);
}

int shadow_link(const struct shadow_change *change, u64 *entry, struct shadow_page *child)
{
	u32 level = role_level(shadow_page_of(entry)->role);

	mmu_assert_exclusive(change->vm);
	CHECK(role_level(child->role) == level - 1);
	CHECK(!child->orphan && child->generation == change->vm->mmu_valid_gen);
	if (!rmap_add(&child->parents, entry, change->descriptors))
		return 1;
	(void)shadow_store(
	    change, entry, level,
	    entry_make_table(&change->vm->shadow_format, table_entries(child->table)));
	CHECK(entry_table(&change->vm->shadow_format, *entry) == table_entries(child->table));
	return 0;
}

void rmap_note_length(struct quire_vm *vm, u32 length)
{
	u64 *longest = &vm->stats[QUIRE_VM_STAT_max_mmu_rmap_size];

	mmu_assert_exclusive(vm);
	if (length > *longest)
		atomic_store_relaxed_u64(longest, length);
}

int shadow_add_leaf(const struct shadow_change *change, u64 *entry, const struct shadow_leaf *leaf)
{
	const struct shadow_page *page = shadow_page_of(entry);
	u32 level = role_level(page->role), length;
	u64 *head = rmap_head_make(change, page, leaf->gfn, level);

	mmu_assert_exclusive(change->vm);
	CHECK(!entry_is_present(SHADOW_BITS, atomic_load_relaxed_u64(entry)));
	CHECK(is_aligned_u64(leaf->gfn.v, level_pages((enum quire_level)level)));
	if (!head)
		return 1;
	if (rmap_count(rmap_read(head)) >= CHAIN_MAX)
		while (rmap_read(head))
			shadow_drop(change, rmap_any(rmap_read(head)));
	length = rmap_add(head, entry, change->descriptors);
	if (!length)
		return 1;
	rmap_note_length(change->vm, length);
	if (page->gfns)
		table_entries(page->gfns)[shadow_index_of(entry)] =
		    leaf->gfn.v << QUIRE_PAGE_SHIFT | leaf->access;
	(void)shadow_store(change, entry, level, leaf->value);
	CHECK(shadow_leaf_gfn(page, shadow_index_of(entry)).v == leaf->gfn.v);
	return 0;
}
