/* Shadow pages of the lowest level that lag behind L1's tables, and their catching up. */
#include "src/shadow/internal.h"

#include <string.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/vm/locks.h"

/* Parents looked at to learn whether a page is below a root; after that it counts as below. */
#define PARENTS_MAX 64u

static void unsync_list_add(struct shadow *shadow, struct shadow_page *page)
{
	CHECK(!shadow->unsync_newest == !shadow->unsync_oldest);
	CHECK(page->unsync && shadow->unsync_pages);
	page->unsync_older = shadow->unsync_newest;
	page->unsync_newer = NULL;
	if (shadow->unsync_newest)
		shadow->unsync_newest->unsync_newer = page;
	else
		shadow->unsync_oldest = page;
	shadow->unsync_newest = page;
}

static void unsync_list_remove(struct shadow *shadow, const struct shadow_page *page)
{
	CHECK(page->unsync_newer ? page->unsync_newer->unsync_older == page
				 : shadow->unsync_newest == page);
	CHECK(page->unsync_older ? page->unsync_older->unsync_newer == page
				 : shadow->unsync_oldest == page);
	*(page->unsync_newer ? &page->unsync_newer->unsync_older : &shadow->unsync_newest) =
	    page->unsync_older;
	*(page->unsync_older ? &page->unsync_older->unsync_newer : &shadow->unsync_oldest) =
	    page->unsync_newer;
}

static void count_unsync(const struct shadow_change *change, u64 more)
{
	/* Fewer: after the entries that lagged were changed by compare-exchange, a full fence. */
	atomic_store_relaxed_u64(&change->shadow->unsync_pages,
				 change->shadow->unsync_pages + more);
	atomic_add_relaxed_u64(&change->vm->stats[QUIRE_VM_STAT_mmu_unsync], more);
}

/* Last on the list, for what was written before comes first. */
static void mark_unsync(const struct shadow_change *change, struct shadow_page *page)
{
	CHECK(role_level(page->role) == QUIRE_LEVEL_4K && !(page->role & ROLE_DIRECT));
	CHECK(!page->tracked);
	if (page->unsync)
		unsync_list_remove(change->shadow, page);
	else
		count_unsync(change, 1);
	QUIRE_TRACE(kvm_mmu_unsync_page, page->generation, page->gfn.v, page->role, 0,
		    page->unsync);
	page->unsync = 1;
	page->turn++;
	unsync_list_add(change->shadow, page);
	CHECK(change->shadow->unsync_newest == page);
}

static void clear_unsync(const struct shadow_change *change, struct shadow_page *page)
{
	CHECK(page->unsync && change->shadow->unsync_pages);
	page->unsync = 0;
	unsync_list_remove(change->shadow, page);
	count_unsync(change, -UINT64_C(1));
	CHECK(!change->shadow->unsync_pages == !change->shadow->unsync_oldest);
}

void shadow_unsync_forget(const struct shadow_change *change, struct shadow_page *page)
{
	mmu_assert_exclusive(change->vm);
	clear_unsync(change, page);
	if (!page->tracked)
		gfn_track_forget(change->vm, role_as(page->role), page->gfn);
}

static bool may_lag(const struct shadow *shadow, u32 as_id, gfn_t gfn)
{
	const struct shadow_page *page = shadow->buckets[shadow_bucket(gfn)];
	bool any = false;

	for (; page; page = page->hash_next) {
		if (!shadow_page_follows(page, as_id, gfn))
			continue;
		if (role_level(page->role) != QUIRE_LEVEL_4K ||
		    shadow_page_is_obsolete(shadow, page))
			return false;
		any = true;
	}
	return any;
}

int shadow_unsync(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	struct shadow_change change = shadow_taking(vm, NULL);
	struct shadow_page *page;

	mmu_assert_exclusive(vm);
	if (!change.shadow || !may_lag(change.shadow, as_id, gfn))
		return 0;
	for (page = change.shadow->buckets[shadow_bucket(gfn)]; page; page = page->hash_next) {
		if (!shadow_page_follows(page, as_id, gfn) || !page->tracked)
			continue;
		CHECK(gfn_is_tracked(vm, as_id, gfn));
		page->tracked = 0;
		gfn_track_let_lag(vm, as_id, gfn);
		if (!MUTANT(unsync_unmarked))
			mark_unsync(&change, page);
	}
	return 1;
}

void shadow_zap_unsync(const struct shadow_change *change, u32 as_id, gfn_t gfn)
{
	struct shadow_page *page = change->shadow->buckets[shadow_bucket(gfn)];

	mmu_assert_exclusive(change->vm);
	while (change->shadow->unsync_pages && page) {
		struct shadow_page *next = page->hash_next;

		/* It has no children, so nothing else leaves the row. */
		if (shadow_page_follows(page, as_id, gfn) && page->unsync)
			shadow_page_zap(change, page);
		page = next;
	}
}

/* Is @page reached from @root? Yes, too, when that would take long to tell. */
static bool is_below(const struct shadow_page *page, const struct shadow_page *root, u32 *looked)
{
	u32 count = rmap_count(page->parents);

	if (page == root)
		return true;
	for (u32 i = 0; i < count; i++)
		if (++*looked > PARENTS_MAX ||
		    is_below(shadow_page_of(rmap_at(page->parents, i)), root, looked))
			return true;
	return false;
}

int shadow_lags_below(const struct shadow *shadow, const struct shadow_page *page)
{
	mmu_assert_exclusive(shadow->vm);
	if (role_level(page->role) == QUIRE_LEVEL_4K)
		return page->unsync;
	/* A page without parents has nothing below it, but for one that stays without. */
	if (!page->parents && !page->kept)
		return 0;
	for (const struct shadow_page *at = shadow->unsync_oldest; at; at = at->unsync_newer) {
		u32 looked = 0;

		if (is_below(at, page, &looked))
			return 1;
	}
	return 0;
}

static bool is_chosen(const struct shadow *shadow, const struct shadow_page *root,
		      const struct shadow_page *page)
{
	u32 looked = 0;

	/* Tables of another kind are not below it, however many parents say that they may be. */
	return !shadow_page_is_obsolete(shadow, page) &&
	       !((page->role ^ root->role) & ~ROLE_OF_PAGE) && is_below(page, root, &looked);
}

static void note_present(const struct shadow_page *page, u64 *present)
{
	u64 *entries = table_entries(page->table);

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		if (entry_is_present(SHADOW_BITS, atomic_load_relaxed_u64(&entries[i])))
			present[i / 64] |= UINT64_C(1) << i % 64;
}

/* What L2 maps of the table itself goes here; what L1 maps is the caller's. */
static void follow_again(const struct shadow_change *change, struct shadow_page *page)
{
	u32 as_id = role_as(page->role);

	mmu_assert_exclusive(change->vm);
	CHECK(page->unsync);
	if (page->tracked)
		return;
	page->tracked = 1;
	if (gfn_track_resume(change->vm, as_id, page->gfn))
		shadow_zap_gfn_leaves(change, as_id, page->gfn);
}

u32 shadow_sync_begin(const struct shadow_change *change, struct shadow_sync *sync)
{
	struct shadow *shadow = change->shadow;
	const struct shadow_page *root =
	    sync->only ? shadow_page_find(shadow, sync->only) : sync->root;
	struct shadow_page *page = root ? shadow->unsync_oldest : NULL;

	mmu_assert_exclusive(change->vm);
	sync->count = 0;
	for (; page && sync->count < SHADOW_SYNC_BATCH; page = page->unsync_newer) {
		struct table *guest;

		if (!is_chosen(shadow, root, page))
			continue;
		guest = table_cache_take(change->pages);
		if (BROKEN(guest != NULL))
			break;
		sync->pages[sync->count].key =
		    (struct shadow_key){.gfn = page->gfn, .role = page->role};
		sync->pages[sync->count].turn = page->turn;
		sync->pages[sync->count++].guest = guest;
	}
	/* A fault that walked before does not install: L1 may have changed its table and flushed.
	 */
	if (sync->count && !MUTANT(sync_keeps_turn))
		shadow_end_turn(shadow);
	for (u32 i = 0; i < sync->count; i++) {
		page = shadow_page_find(shadow, &sync->pages[i].key);
		CHECK(page && page->turn == sync->pages[i].turn);
		follow_again(change, page);
	}
	for (u32 i = 0; i < sync->count; i++) {
		memset(sync->pages[i].present, 0, sizeof(sync->pages[i].present));
		page = shadow_page_find(shadow, &sync->pages[i].key);
		note_present(page, sync->pages[i].present);
	}
	return sync->count;
}

void shadow_sync_read(const struct quire_vcpu *vcpu, struct shadow_sync *sync)
{
	locks_assert_none();
	for (u32 i = 0; i < sync->count; i++)
		sync->pages[i].unreadable =
		    shadow_read_table(vcpu, &sync->pages[i].key, sync->pages[i].present,
				      table_entries(sync->pages[i].guest)) != 0;
}

/*
 * What L1's entry allows now is kept, and no more. Rights are never added, since what was read may
 * be old by now: that is left to the next fault.
 */
static void sync_entry(const struct shadow_change *change, u64 *entry,
		       const struct shadow_guest_leaf *now)
{
	const struct entry_format *f = SHADOW_BITS;
	struct shadow_page *page = shadow_page_of(entry);
	u32 index = shadow_index_of(entry), access = now->access & role_access(page->role);
	u64 old = atomic_load_relaxed_u64(entry), new = old;

	CHECK(page->gfns && role_level(page->role) == QUIRE_LEVEL_4K);
	if (!entry_is_present(f, old))
		return;
	/* Whether it is the user's does not change in place. */
	if (!access || !(access & ACCESS_USER) != !(old & SHADOW_USER) ||
	    shadow_leaf_gfn(page, index).v != now->gfn.v) {
		shadow_drop(change, entry);
		return;
	}
	if (!(access & ACCESS_WRITE) && entry_is_writable(f, old))
		new &= ~(f->writable | f->mmu_writable | f->dirty);
	if (!(access & ACCESS_EXEC))
		new |= f->noexec;
	CHECK(entry_is_writable(f, old) || !entry_is_writable(f, new));
	CHECK(entry_pfn(SHADOW_BITS, new).v == entry_pfn(SHADOW_BITS, old).v);
	table_entries(page->gfns)[index] = now->gfn.v << QUIRE_PAGE_SHIFT | access;
	if (new != old)
		(void)shadow_store(change, entry, QUIRE_LEVEL_4K, new);
}

static void sync_page(const struct shadow_change *change, const struct quire_vcpu *vcpu,
		      struct shadow_page *page, const struct shadow_sync *sync, u32 at)
{
	const u64 *guest = table_entries(sync->pages[at].guest);
	u64 *entries = table_entries(page->table);

	QUIRE_TRACE(kvm_mmu_sync_page, page->generation, page->gfn.v, page->role, 0, page->unsync);
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		struct shadow_guest_leaf now;

		if (!(sync->pages[at].present[i / 64] >> i % 64 & 1))
			continue;
		now = shadow_guest_leaf_of(vcpu, guest[i]);
		sync_entry(change, &entries[i], &now);
	}
	/* Written again since it was tracked: it goes on lagging. */
	if (page->unsync && page->tracked && page->turn == sync->pages[at].turn)
		clear_unsync(change, page);
}

void shadow_sync_end(const struct shadow_change *change, const struct quire_vcpu *vcpu,
		     struct shadow_sync *sync)
{
	mmu_assert_exclusive(change->vm);
	for (u32 i = 0; i < sync->count; i++) {
		struct shadow_page *page = shadow_page_find(change->shadow, &sync->pages[i].key);

		if (page && sync->pages[i].unreadable)
			shadow_page_zap(change, page);
		else if (page)
			sync_page(change, vcpu, page, sync, i);
		table_cache_put(change->pages, sync->pages[i].guest);
	}
	CHECK(change->pages->count >= sync->count);
	sync->count = 0;
}
