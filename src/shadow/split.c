/* Eager splitting of nested huge mappings: to 4K, ahead of the writes that dirty logging counts. */
#include "src/shadow/internal.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/vm/locks.h"

/*
 * What one split may take: a descriptor for each child, whose gfn may be mapped elsewhere too, and
 * one for the parent's list; mostly it takes none or one of them, so a refill lasts for long. One
 * header and page, as the child is direct. Pages of the heads of 512 gfns in one block.
 */
#define DESCRIPTORS_MIN (QUIRE_TABLE_ENTRIES + 1)
#define CACHE_SPARE 40u
#define DESCRIPTORS_CAPACITY (DESCRIPTORS_MIN + CACHE_SPARE)
/* The arena moves a batch of 16 tables besides. */
#define PAGES_WANTED (CACHE_SPARE - 16u)
#define MIN_FREE_PAGES 5u
/* In one hold of mmu_lock: each fills a table, and the heads of its gfns. */
#define SPLITS_AT_ONCE 32u

static bool is_short(const struct shadow *shadow)
{
	return shadow->split_descriptors.count < DESCRIPTORS_MIN || !shadow->split_headers.count ||
	       !shadow->split_pages.count || shadow->split_rmaps.count < SPARSE_DEPTH;
}

int shadow_split_topup(struct quire_vm *vm)
{
	struct shadow *shadow = shadow_of(vm);

	slots_assert(vm);
	/* Below capacity is fine if one split fits. */
	(void)!object_cache_fill(&shadow->split_descriptors, &shadow->slabs, DESCRIPTORS_CAPACITY);
	(void)!object_cache_fill(&shadow->split_headers, &shadow->slabs, CACHE_SPARE);
	(void)!table_cache_fill(&shadow->split_pages, &vm->arena, PAGES_WANTED);
	(void)!table_cache_fill(&shadow->split_rmaps, &vm->arena, PAGES_WANTED);
	return is_short(shadow) ? -ENOMEM : 0;
}

/* One huge leaf on its way to a table of smaller ones. */
struct huge_leaf {
	u64 *entry;
	u64 value;
	u32 level;
	u32 access;
	gfn_t gfn;
};

/* What the child @index of @huge maps. While the workaround for huge pages is all that takes
 * execution away, 4K has it again. */
static u64 child_value(const struct huge_leaf *huge, u32 index)
{
	const struct entry_format *f = SHADOW_BITS;
	u64 value = entry_make_child(f, huge->value, huge->level, index);

	if (MUTANT(nested_split_writable))
		value |= f->writable;
	if (huge->level == QUIRE_LEVEL_2M && (huge->access & ACCESS_EXEC))
		value &= ~f->noexec;
	return value;
}

/* Complete @child. Nonzero: it already held tables, which may map less than the huge leaf. */
static int fill_child(const struct shadow_change *change, struct shadow_page *child,
		      const struct huge_leaf *huge)
{
	const struct entry_format *f = SHADOW_BITS;
	u64 *entries = table_entries(child->table);
	int lossy = 0;

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		u64 old = atomic_load_relaxed_u64(&entries[i]);
		struct shadow_leaf leaf = {
		    .gfn = shadow_leaf_gfn(child, i),
		    .access = huge->access,
		    .value = child_value(huge, i),
		};

		if (entry_is_present(f, old))
			lossy |= !entry_is_leaf(f, old, huge->level - 1);
		else if (BROKEN(!shadow_add_leaf(change, &entries[i], &leaf)))
			vm_poison(change->vm);
	}
	return lossy;
}

/*
 * No other thread sees a child that was just made: plain stores, in one pass over it and over the
 * heads of its gfns, which are neighbours too. Each entry before its head, where aging finds it.
 * Leaves are counted once.
 */
static void fill_fresh(const struct shadow_change *change, const struct shadow_page *child,
		       const struct huge_leaf *huge)
{
	u64 *entries = table_entries(child->table);
	u64 *heads = rmap_head_make(change, child, huge->gfn, huge->level - 1);
	u64 value = child_value(huge, 0), step = child_value(huge, 1) - value;
	u32 done = 0, longest = 1, length;

	mmu_assert_exclusive(change->vm);
	CHECK(role_level(child->role) == huge->level - 1 && !child->parents);
	CHECK(is_aligned_u64(huge->gfn.v, level_pages((enum quire_level)huge->level)));
	if (BROKEN(heads)) {
		vm_poison(change->vm);
		return;
	}
	for (; done < QUIRE_TABLE_ENTRIES; done++) {
		u64 *entry = &entries[done];

		*entry = value + done * step;
		if (likely(!rmap_read(&heads[done]))) {
			atomic_store_release_u64(&heads[done], (u64)(uintptr_t)entry);
			continue;
		}
		length = rmap_add(&heads[done], entry, change->descriptors);
		if (BROKEN(length))
			vm_poison(change->vm);
		longest = length > longest ? length : longest;
	}
	rmap_note_length(change->vm, longest);
	atomic_add_relaxed_u64(&change->vm->leaves[huge->level - 1], done);
}

/*
 * The child is complete before it takes the leaf's place, so that no vCPU finds less than before;
 * the two map the same, which owes no flush, unless the child was there and held tables. Memory for
 * all of it is at hand, as is_short() has said no.
 */
static int split_one(const struct shadow_change *change, const struct huge_leaf *huge)
{
	struct shadow_page *page = shadow_page_of(huge->entry);
	struct shadow_key key = {
	    .gfn = huge->gfn,
	    .role = (page->role & ~(ROLE_LEVEL_MASK | ROLE_ACCESS_MASK)) | ROLE_DIRECT |
		    (huge->level - 1) | huge->access << ROLE_ACCESS_SHIFT,
	};
	struct flush_debt own;
	struct shadow_change swap = *change;
	struct shadow_page *child;
	int made, lossy = 0;
	u64 *head;

	child = shadow_page_get(change, &key, &made);
	if (BROKEN(child)) {
		vm_poison(change->vm);
		return -EIO;
	}
	if (made)
		fill_fresh(change, child, huge);
	else
		lossy = fill_child(change, child, huge);
	head = rmap_head(change->shadow, page, huge->gfn, huge->level);
	if (BROKEN(head && !rmap_remove(head, huge->entry, &change->shadow->pool)))
		vm_poison(change->vm);
	flush_debt_init(&own, change->debt->domain);
	swap.debt = &own;
	if (BROKEN(!shadow_link(&swap, huge->entry, child)))
		vm_poison(change->vm);
	if (lossy)
		flush_debt_pay(&own);
	flush_debt_forgive(&own, "the children map what the huge leaf mapped");
	return 0;
}

/* The first of the entries of @head that may be split. */
static u64 *find_huge(const struct shadow *shadow, u64 head, u32 level)
{
	u32 count = rmap_count(head);

	for (u32 i = 0; i < count; i++) {
		u64 *entry = rmap_at(head, i);
		const struct shadow_page *page = shadow_page_of(entry);

		CHECK(entry_is_leaf(SHADOW_BITS, atomic_load_relaxed_u64(entry), level));
		/* What serves the guest itself is split when it is written. */
		if ((page->role & ROLE_GUEST_MODE) && !shadow_page_is_obsolete(shadow, page))
			return entry;
	}
	return NULL;
}

static bool is_wanted(const struct quire_vm *vm)
{
	return atomic_load_relaxed_u32(&vm->mmu_lock.writer) == GATE_SLEEPERS;
}

/* Split what maps one block, from the head again after each. -EAGAIN: refill first. */
static int split_head(const struct shadow_change *change, const u64 *head,
		      struct shadow_split *split)
{
	u64 *entry;

	mmu_assert_exclusive(change->vm);
	while ((entry = find_huge(change->shadow, rmap_read(head), split->level))) {
		const struct shadow_page *page = shadow_page_of(entry);
		u32 index = shadow_index_of(entry);
		struct huge_leaf huge = {
		    .entry = entry,
		    .value = atomic_load_relaxed_u64(entry),
		    .level = split->level,
		    .access = shadow_leaf_access(page, index),
		    .gfn = shadow_leaf_gfn(page, index),
		};
		int err;

		if (shadow_available(change->vm) <= MIN_FREE_PAGES)
			err = -ENOSPC;
		else if (is_short(change->shadow) || split->progress >= SPLITS_AT_ONCE ||
			 (split->progress && is_wanted(change->vm)))
			err = -EAGAIN;
		else
			err = split_one(change, &huge);
		QUIRE_TRACE(kvm_mmu_split_huge_page, huge.gfn.v, huge.value, huge.level,
			    (u64)(s64)err);
		if (err)
			return err;
		split->progress++;
	}
	return 0;
}

int shadow_split_next(struct quire_vm *vm, struct shadow_split *split, struct flush_debt *debt)
{
	struct shadow *shadow = shadow_of(vm);
	const struct shadow_change change = {
	    .vm = vm,
	    .shadow = shadow,
	    .debt = debt,
	    .headers = &shadow->split_headers,
	    .descriptors = &shadow->split_descriptors,
	    .pages = &shadow->split_pages,
	    .rmaps = &shadow->split_rmaps,
	};

	mmu_assert_exclusive(vm);
	CHECK(split->start.v < split->end.v && split->as_id < vm->address_spaces);
	split->progress = 0;
	for (; split->level > QUIRE_LEVEL_4K; split->level--, split->at = 0) {
		const struct sparse *heads = &shadow->rmaps[split->as_id][split->level - 1];
		u64 pages = level_pages((enum quire_level)split->level);
		u64 end = (split->end.v + pages - 1) / pages;
		const u64 *head;

		split->at = max_u64(split->at, split->start.v / pages);
		for (; (head = sparse_next(heads, &split->at, end)); split->at++)
			/* Whatever else stops it: that block stays huge. */
			if (split_head(&change, head, split) == -EAGAIN)
				return -EAGAIN;
	}
	return 0;
}
