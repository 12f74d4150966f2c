/* The frame behind one gpa or hva, kept until the host takes it away. */
#include "src/access/pfn_cache.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/vm/locks.h"

/* Client addresses end here, on every machine this runs on. */
#define CLIENT_ADDRESS_END (UINT64_C(1) << 56)

void pfn_cache_init(struct pfn_cache *cache, struct quire_vm *vm)
{
	*cache = (struct pfn_cache){.vm = vm};
	mutex_init(&cache->refresh, RANK_PFN_REFRESH);
	rwlock_init(&cache->lock, RANK_PFN_CACHE);
}

static bool inside_page(u32 offset, u64 size_bytes)
{
	return size_bytes && size_bytes <= QUIRE_PAGE_SIZE - offset;
}

/* Where the key points now: the page's hva. The cache keeps the generation that said so. */
static int locate(struct pfn_cache *cache, hva_t *hva)
{
	const struct memslot *slot;
	int err = -EFAULT;

	if (cache->by_hva) {
		*hva = cache->hva;
		return 0;
	}
	reclaim_enter();
	cache->generation = memslots_generation(cache->vm, 0);
	slot = memslot_lookup(cache->vm, 0, gfn_of(cache->gpa), NULL);
	if (slot && !(slot->flags & (MEMSLOT_INVALID | QUIRE_SLOT_READONLY))) {
		*hva = memslot_hva(slot, gfn_of(cache->gpa));
		err = 0;
	}
	reclaim_leave();
	return err;
}

static bool is_current(const struct pfn_cache *cache)
{
	bool current;

	if (!cache->valid || cache->by_hva)
		return cache->valid;
	reclaim_enter();
	current = memslots_generation(cache->vm, 0) == cache->generation;
	reclaim_leave();
	return current;
}

int pfn_cache_lock(struct pfn_cache *cache, u64 size_bytes, pfn_t *pfn, u32 *offset)
{
	locks_assert_none();
	rwlock_read_lock(&cache->lock);
	if (cache->active && inside_page(cache->offset, size_bytes) && is_current(cache)) {
		*pfn = cache->pfn;
		*offset = cache->offset;
		return 1;
	}
	rwlock_read_unlock(&cache->lock);
	return 0;
}

void pfn_cache_unlock(struct pfn_cache *cache)
{
	rwlock_read_unlock(&cache->lock);
}

static bool is_in(const struct hva_range *range, hva_t hva)
{
	return hva.v + QUIRE_PAGE_SIZE > range->start.v && hva.v < range->end.v;
}

/* Is the page at @hva being changed, or has a change of it ended since @snapshot? */
static bool is_changing(const struct pfn_caches *caches, hva_t hva, u64 snapshot)
{
	if (caches->active_elsewhere || caches->seq - snapshot > PFN_CACHE_RANGES)
		return true;
	for (u32 i = 0; i < PFN_CACHE_RANGES; i++)
		if (is_in(&caches->active[i], hva))
			return true;
	for (u64 at = snapshot; at < caches->seq; at++)
		if (is_in(&caches->ended[at % PFN_CACHE_RANGES], hva))
			return true;
	return false;
}

/*
 * Publish @page, unless its place has been changing since @snapshot. An invalidation that begins
 * after this look finds the cache, by its address, and waits for its lock.
 */
static bool publish_frame(struct pfn_cache *cache, const struct quire_page *page, u64 snapshot)
{
	struct quire_vm *vm = cache->vm;
	bool changing;

	CHECK(lock_is_held(&cache->lock, LOCK_EXCLUSIVE));
	CHECK(!cache->valid);
	CHECK(lock_is_held(&cache->refresh, LOCK_EXCLUSIVE) && cache->active);
	mutex_lock(&vm->invalidation.lock);
	changing = is_changing(&vm->pfn_caches, cache->hva, snapshot);
	mutex_unlock(&vm->invalidation.lock);
	if (changing && !MUTANT(cache_unchecked))
		return false;
	cache->pfn = page->pfn;
	cache->valid = 1;
	return true;
}

static u64 take_snapshot(struct quire_vm *vm)
{
	u64 seq;

	mutex_lock(&vm->invalidation.lock);
	seq = vm->pfn_caches.seq;
	mutex_unlock(&vm->invalidation.lock);
	return seq;
}

static int lookup_once(struct pfn_cache *cache, hva_t hva, bool *published)
{
	struct quire_vm *vm = cache->vm;
	u64 snapshot = take_snapshot(vm);
	struct quire_page page;
	int err =
	    vm->host->page_get(vm->host_ctx, hva, QUIRE_PAGE_WRITE | QUIRE_PAGE_GUARDED, &page);

	/* No signal is waited for here; one that came all the same was not for us. */
	if (err == -EINTR)
		return 0;
	if (err)
		return err;
	rwlock_write_lock(&cache->lock);
	*published = publish_frame(cache, &page, snapshot);
	rwlock_write_unlock(&cache->lock);
	if (page.refcounted)
		vm->host->page_put(vm->host_ctx, &page,
				   *published ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_UNUSED);
	return 0;
}

static int refresh_locked(struct pfn_cache *cache, u64 size_bytes) REQUIRES(&cache->refresh)
{
	bool published = false;
	hva_t hva = {0};
	int err;

	CHECK(lock_is_held(&cache->refresh, LOCK_EXCLUSIVE));
	mmu_assert_free(cache->vm);
	rwlock_write_lock(&cache->lock);
	if (!cache->active || !inside_page(cache->offset, size_bytes)) {
		rwlock_write_unlock(&cache->lock);
		return -EINVAL;
	}
	err = locate(cache, &hva);
	if (!err && cache->valid && cache->hva.v == hva.v) {
		rwlock_write_unlock(&cache->lock);
		return 0;
	}
	cache->valid = 0;
	atomic_store_relaxed_u64(&cache->hva.v, hva.v);
	rwlock_write_unlock(&cache->lock);
	for (unsigned int turn = 0; !err && !published; turn++) {
		if (turn)
			base_platform->relax(turn);
		err = lookup_once(cache, hva, &published);
	}
	return err;
}

int pfn_cache_refresh(struct pfn_cache *cache, u64 size_bytes)
{
	int err;

	locks_assert_none();
	mutex_lock(&cache->refresh);
	err = refresh_locked(cache, size_bytes);
	mutex_unlock(&cache->refresh);
	return err;
}

static void link_cache(struct pfn_cache *cache)
{
	struct pfn_caches *caches = &cache->vm->pfn_caches;

	CHECK(lock_is_held(&cache->refresh, LOCK_EXCLUSIVE) && !cache->active);
	mutex_lock(&caches->lock);
	CHECK(caches->first != cache);
	cache->next = caches->first;
	caches->first = cache;
	mutex_unlock(&caches->lock);
}

static int activate(struct pfn_cache *cache, const struct pfn_cache *key, u64 size_bytes)
{
	int err;

	if (!inside_page(key->offset, size_bytes))
		return -EINVAL;
	locks_assert_none();
	mutex_lock(&cache->refresh);
	if (!cache->active)
		link_cache(cache);
	rwlock_write_lock(&cache->lock);
	CHECK(cache->active || !cache->valid);
	/* Another place, or another way to it. */
	if (cache->by_hva != key->by_hva || cache->gpa.v != key->gpa.v ||
	    (key->by_hva && cache->hva.v != key->hva.v))
		cache->valid = 0;
	cache->by_hva = key->by_hva;
	cache->gpa = key->gpa;
	cache->offset = key->offset;
	if (key->by_hva)
		atomic_store_relaxed_u64(&cache->hva.v, key->hva.v);
	cache->active = 1;
	rwlock_write_unlock(&cache->lock);
	err = refresh_locked(cache, size_bytes);
	mutex_unlock(&cache->refresh);
	return err;
}

int pfn_cache_activate_gpa(struct pfn_cache *cache, gpa_t gpa, u64 size_bytes)
{
	struct pfn_cache key = {.offset = (u32)(gpa.v & ~QUIRE_PAGE_MASK),
				.gpa = {gpa.v & QUIRE_PAGE_MASK}};

	locks_assert_none();
	return activate(cache, &key, size_bytes);
}

int pfn_cache_activate_hva(struct pfn_cache *cache, hva_t hva, u64 size_bytes)
{
	struct pfn_cache key = {.by_hva = 1,
				.offset = (u32)(hva.v & ~QUIRE_PAGE_MASK),
				.hva = {hva.v & QUIRE_PAGE_MASK}};

	locks_assert_none();
	if (!hva.v || hva.v >= CLIENT_ADDRESS_END)
		return -EINVAL;
	return activate(cache, &key, size_bytes);
}

void pfn_cache_deactivate(struct pfn_cache *cache)
{
	struct pfn_caches *caches = &cache->vm->pfn_caches;
	struct pfn_cache **link;

	locks_assert_none();
	mutex_lock(&cache->refresh);
	mutex_lock(&caches->lock);
	for (link = &caches->first; *link && *link != cache; link = &(*link)->next)
		;
	CHECK(!*link == !cache->active);
	if (*link)
		*link = cache->next;
	mutex_unlock(&caches->lock);
	rwlock_write_lock(&cache->lock);
	cache->active = 0;
	cache->valid = 0;
	rwlock_write_unlock(&cache->lock);
	mutex_unlock(&cache->refresh);
}

static bool is_free(const struct hva_range *range)
{
	return range->start.v >= range->end.v;
}

static void range_add(struct pfn_caches *caches, hva_t start, hva_t end)
{
	CHECK(lock_rank_is_held(RANK_INVALIDATE));
	CHECK(start.v < end.v);
	for (u32 i = 0; i < PFN_CACHE_RANGES; i++) {
		if (!is_free(&caches->active[i]))
			continue;
		caches->active[i] = (struct hva_range){start, end};
		return;
	}
	caches->active_elsewhere++;
}

static void range_remove(struct pfn_caches *caches, hva_t start, hva_t end)
{
	CHECK(lock_rank_is_held(RANK_INVALIDATE));
	for (u32 i = 0; i < PFN_CACHE_RANGES; i++) {
		struct hva_range *range = &caches->active[i];

		if (range->start.v != start.v || range->end.v != end.v)
			continue;
		*range = (struct hva_range){{0}, {0}};
		return;
	}
	CHECK(caches->active_elsewhere);
	caches->active_elsewhere--;
}

void pfn_caches_invalidate(struct quire_vm *vm, hva_t start, hva_t end)
{
	struct pfn_caches *caches = &vm->pfn_caches;

	mmu_assert_free(vm);
	if (start.v >= end.v)
		return;
	/* Our range, then the caches' addresses; in publish_frame(): the address, then the range.
	 */
	mutex_lock(&vm->invalidation.lock);
	range_add(caches, start, end);
	mutex_unlock(&vm->invalidation.lock);
	mutex_lock(&caches->lock);
	for (struct pfn_cache *cache = caches->first; cache; cache = cache->next) {
		u64 hva = atomic_load_relaxed_u64(&cache->hva.v);

		CHECK(cache->vm == vm);
		/* Its user may sleep in the page: only an invalidation of that page waits. */
		if (hva + QUIRE_PAGE_SIZE <= start.v || hva >= end.v)
			continue;
		rwlock_write_lock(&cache->lock);
		cache->valid = 0;
		rwlock_write_unlock(&cache->lock);
	}
	mutex_unlock(&caches->lock);
}

void pfn_caches_invalidate_end(struct quire_vm *vm, hva_t start, hva_t end)
{
	struct pfn_caches *caches = &vm->pfn_caches;

	mmu_assert_free(vm);
	if (start.v >= end.v)
		return;
	mutex_lock(&vm->invalidation.lock);
	CHECK(vm->invalidation.active);
	range_remove(caches, start, end);
	if (MUTANT(cache_end_first)) {
		mutex_unlock(&vm->invalidation.lock);
		mutex_lock(&vm->invalidation.lock);
	}
	caches->ended[caches->seq % PFN_CACHE_RANGES] = (struct hva_range){start, end};
	caches->seq++;
	mutex_unlock(&vm->invalidation.lock);
}
