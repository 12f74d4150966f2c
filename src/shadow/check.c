/* Check builds: shadow pages, rmaps and parents against each other, at every lock release. */
#include "src/shadow/internal.h"

#ifdef QUIRE_CHECK

#include "src/base/assert.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

/* Numbers are those of docs/INVARIANTS.md. */
struct checker {
	struct quire_vm *vm;
	struct shadow *shadow;
	u64 leaves, links, pages, unsync, orphans;
	u64 listed; /* entries in rmaps */
	u64 *by_level;
};

/* In a long chain only the total is compared, at the end. */
#define SEARCH_MAX 100u

static bool is_once_in(u64 head, const u64 *entry)
{
	u32 count = rmap_count(head), times = 0;

	for (u32 i = 0; i < count && count <= SEARCH_MAX; i++)
		times += rmap_at(head, i) == entry;
	return times == 1 || count > SEARCH_MAX;
}

/* I-20, I-21: the slot behind a leaf, and what it lets L2 do. */
static void check_slot(const struct checker *check, const struct shadow_page *page, u64 entry,
		       gfn_t gfn)
{
	u64 pages = level_pages((enum quire_level)role_level(page->role));
	u32 as = role_as(page->role);
	const struct memslot *slot = memslot_lookup(check->vm, as, gfn, NULL);
	bool writable = entry_is_writable(SHADOW_BITS, entry);

	mmu_assert_exclusive(check->vm);
	if (slot && (slot->flags & MEMSLOT_INVALID))
		return;
	if (shadow_page_is_obsolete(check->shadow, page))
		return;
	CHECK(slot != NULL);
	if (!slot)
		return;
	CHECK(gfn.v + pages <= memslot_end(slot).v);
	CHECK(!(writable && (slot->flags & QUIRE_SLOT_READONLY)));
	/* I-26. */
	CHECK(pages == 1 || !entry_is_executable(SHADOW_BITS, entry) || !nx_is_on(check->vm));
	/* No entry may write a tracked gfn; what once was one is not huge. */
	CHECK(!(writable && gfn_is_tracked(check->vm, as, gfn)));
	CHECK(!(writable && pages > 1 && gfn_track_block(check->vm, as, gfn, pages)));
}

/* What the path to @page allows at most. */
static u32 path_access(const struct shadow_page *page)
{
	return role_access(page->role) | (role_ignores_wp(page->role) ? ACCESS_WRITE : 0);
}

/* I-36, I-42 as far as it can be told without reading guest memory. */
static void check_leaf(struct checker *check, const struct shadow_page *page, u64 *entry)
{
	const struct entry_format *f = SHADOW_BITS;
	u32 level = role_level(page->role), index = shadow_index_of(entry);
	gfn_t gfn = shadow_leaf_gfn(page, index);
	u32 access = shadow_leaf_access(page, index) & path_access(page);
	u64 pages = level_pages((enum quire_level)level);
	u64 *head = rmap_head(check->shadow, page, gfn, level);

	check->leaves++;
	check->by_level[level]++;
	CHECK(head != NULL && is_once_in(rmap_read(head), entry));
	CHECK(is_aligned_u64(gfn.v, pages) &&
	      is_aligned_u64(entry_pfn(SHADOW_BITS, *entry).v, pages));
	CHECK(level <= QUIRE_LEVEL_1G);
	CHECK(!entry_is_writable(f, *entry) || (access & ACCESS_WRITE));
	CHECK(!entry_is_executable(f, *entry) || (access & ACCESS_EXEC));
	CHECK(!(*entry & SHADOW_USER) || (access & ACCESS_USER));
	check_slot(check, page, *entry, gfn);
}

/* I-35, I-37, I-38, I-43: the child is alive, one level below, knows its parent, allows no more. */
static void check_link(struct checker *check, const struct shadow_page *page, const u64 *entry)
{
	const struct shadow_page *child =
	    shadow_page_of(entry_table(&check->vm->shadow_format, *entry));
	struct shadow_key key = {.gfn = child->gfn, .role = child->role};

	check->links++;
	CHECK(role_level(child->role) + 1 == role_level(page->role));
	CHECK(child->generation == page->generation);
	CHECK(shadow_page_is_obsolete(check->shadow, child) ||
	      shadow_page_find(check->shadow, &key) == child);
	CHECK(is_once_in(child->parents, entry));
	CHECK(!(role_access(child->role) & ~path_access(page)));
	if (page->role & ROLE_DIRECT) {
		CHECK(child->role & ROLE_DIRECT);
		CHECK(child->gfn.v == shadow_leaf_gfn(page, shadow_index_of(entry)).v);
	}
}

/* I-44: only pages of the lowest level lag, with none of a higher one for the same table. */
static void check_unsync(struct checker *check, const struct shadow_page *page)
{
	u32 as = role_as(page->role);
	const struct shadow_page *other = check->shadow->buckets[shadow_bucket(page->gfn)];

	check->unsync++;
	CHECK(role_level(page->role) == QUIRE_LEVEL_4K && !(page->role & ROLE_DIRECT));
	CHECK(page->unsync_newer ? page->unsync_newer->unsync_older == page
				 : check->shadow->unsync_newest == page);
	CHECK(page->unsync_older ? page->unsync_older->unsync_newer == page
				 : check->shadow->unsync_oldest == page);
	for (; other; other = other->hash_next)
		CHECK(!shadow_page_follows(other, as, page->gfn) ||
		      role_level(other->role) == QUIRE_LEVEL_4K ||
		      shadow_page_is_obsolete(check->shadow, other));
}

static void check_page(struct checker *check, const struct shadow_page *page)
{
	u64 *entries = table_entries(page->table);

	mmu_assert_exclusive(check->vm);
	check->pages++;
	check->orphans += page->orphan;
	CHECK(shadow_page_of(entries) == page);
	/* I-38: what no entry leads to is used by none, and waits to be zapped. */
	CHECK(!page->orphan || !page->parents);
	/* I-09: what is followed is tracked, or the page is known to lag. */
	CHECK((page->tracked || page->unsync) == !(page->role & ROLE_DIRECT));
	CHECK(!page->tracked || gfn_is_tracked(check->vm, role_as(page->role), page->gfn));
	CHECK(page->tracked || !page->unsync ||
	      gfn_track_block(check->vm, role_as(page->role), page->gfn, 1));
	if (page->unsync)
		check_unsync(check, page);
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		if (!entry_is_present(SHADOW_BITS, entries[i]))
			CHECK(entries[i] == SHADOW_BITS->nonpresent);
		else if (entry_is_leaf(SHADOW_BITS, entries[i], role_level(page->role)))
			check_leaf(check, page, &entries[i]);
		else
			check_link(check, page, &entries[i]);
	}
}

/* I-45: leads to directories alone, and is found by no gfn. */
static void check_pae_root(struct checker *check, const struct shadow_page *page)
{
	const u64 *entries = table_entries(page->table);

	mmu_assert_exclusive(check->vm);
	CHECK(!page->parents && !page->gfns && !page->tracked && !page->unsync);
	CHECK(shadow_page_of(entries) == page && role_level(page->role) == SHADOW_PAE_LEVEL);
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		if (!entry_is_present(SHADOW_BITS, entries[i])) {
			CHECK(entries[i] == SHADOW_BITS->nonpresent);
			continue;
		}
		CHECK(i < 4 && !entry_is_leaf(SHADOW_BITS, entries[i], SHADOW_PAE_LEVEL));
		check_link(check, page, &entries[i]);
	}
}

static u64 count_rmaps(const struct checker *check)
{
	u64 count = 0;

	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		for (u32 i = 0; i < ARRAY_LEN(check->shadow->rmaps[as]); i++) {
			u64 at = 0;
			const u64 *head;

			for (; (head = sparse_next(&check->shadow->rmaps[as][i], &at, UINT64_MAX));
			     at++)
				count += rmap_count(rmap_read(head));
		}
	}
	return count;
}

static u64 count_parents(const struct shadow *shadow)
{
	u64 count = 0;

	for (const struct shadow_page *page = shadow->newest; page; page = page->older)
		count += rmap_count(page->parents);
	return count;
}

void shadow_check(struct quire_vm *vm, u64 by_level[5])
{
	struct checker check = {.vm = vm, .shadow = shadow_of(vm), .by_level = by_level};

	mmu_assert_exclusive(vm);
	if (!check.shadow)
		return;
	for (const struct shadow_page *page = check.shadow->newest; page; page = page->older)
		check_page(&check, page);
	for (const struct shadow_page *page = check.shadow->pae_roots; page; page = page->hash_next)
		check_pae_root(&check, page);
	/* The totals match as well, so no set has a stale entry. */
	CHECK(count_rmaps(&check) == check.leaves);
	CHECK(count_parents(check.shadow) == check.links);
	/* I-40, I-44. */
	CHECK(check.unsync == check.shadow->unsync_pages);
	CHECK(vm->stats[QUIRE_VM_STAT_mmu_unsync] == check.unsync);
	CHECK(check.orphans == check.shadow->orphans);
	/* I-40, I-41 but for the depth of one walk. */
	CHECK(check.pages == check.shadow->pages);
	CHECK(vm->stats[QUIRE_VM_STAT_mmu_shadow_pages] == check.pages);
	CHECK(check.shadow->zapped == NULL && !check.shadow->root_gone);
}

#endif
