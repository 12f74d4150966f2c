/* The frame behind one gpa or hva, kept until the host takes it away. */
#ifndef QUIRE_ACCESS_PFN_CACHE_H
#define QUIRE_ACCESS_PFN_CACHE_H

#include "src/vm/vm.h"

/*
 * For a place in guest memory that the hypervisor touches again and again. No reference to the page
 * is kept: a host invalidation that covers it makes the cache invalid before the host goes on, and
 * waits for its users.
 *
 *   user                                  invalidation
 *   read lock, check                      invalidation.lock: active ranges: ours, too
 *   use the frame                         list lock; each cache that shows the range:
 *   read unlock                             write lock, valid = 0
 *
 *   refresh                               end
 *   snapshot = seq                        invalidation.lock: out of the active ranges, and into
 *   look the page up, no lock but refresh   those that ended; seq++
 *   write lock, invalidation.lock: the page in an active range, or in one that ended: again
 *   publish
 *
 * What changes elsewhere keeps no refresh from coming to an end.
 *
 * The list has the cache before its first lookup, so no invalidation misses it. The caches have a
 * sequence of their own since they are not under mmu_lock. Attributes and guest_memfd do not
 * matter here: the cache shows what the client's address shows.
 *
 * The refresh lock is held over the lookup of the page, which may wait for the client: nothing but
 * another refresh and the end of the cache waits for it.
 */
struct pfn_cache {
	struct quire_vm *vm;	/* constant */
	struct pfn_cache *next; /* under vm->pfn_caches.lock */
	struct mutex refresh;	/* one refresh at a time */
	struct rwlock lock;	/* the rest: read by users, written by refresh and invalidation */
	u32 active;		/* on the list */
	u32 valid;
	u32 by_hva; /* the key is @hva; else @gpa, and the slots of @generation */
	u32 offset; /* in the page */
	gpa_t gpa;
	u64 generation;
	hva_t hva; /* of the page */
	pfn_t pfn;
};

void pfn_cache_init(struct pfn_cache *cache, struct quire_vm *vm);
/* Give the read lock of pfn_cache_lock() back. */
void pfn_cache_unlock(struct pfn_cache *cache) RELEASES_SHARED(&cache->lock);

/* --- no lock, no read section --- */

/*
 * Show @size_bytes at @gpa (in address space 0), or at @hva. -EINVAL: not inside one page, or an
 * hva that is no address of a client; -EFAULT, or what page_get() says: the cache is active and
 * invalid then, and must be deactivated. May sleep.
 */
must_check int pfn_cache_activate_gpa(struct pfn_cache *cache, gpa_t gpa, u64 size_bytes);
must_check int pfn_cache_activate_hva(struct pfn_cache *cache, hva_t hva, u64 size_bytes);

/*
 * Take the read lock. Nonzero: @size_bytes may be used at *@pfn and *@offset until
 * pfn_cache_unlock(); the user marks the page dirty. 0: not locked, refresh and try again.
 */
must_check int pfn_cache_lock(struct pfn_cache *cache, u64 size_bytes, pfn_t *pfn, u32 *offset)
    TRY_ACQUIRES_SHARED(true, &cache->lock);

/* Make it valid again. -EINVAL: not active, or not inside the page; -EFAULT, or as page_get(). */
must_check int pfn_cache_refresh(struct pfn_cache *cache, u64 size_bytes);

/* Done; may be called again. None may be active when the VM ends. */
void pfn_cache_deactivate(struct pfn_cache *cache);

/* --- no mmu_lock, no read section --- */

/* A host invalidation of [start, end) begins (after host_invalidation_enter()), and ends (before
 * host_invalidation_leave()). */
void pfn_caches_invalidate(struct quire_vm *vm, hva_t start, hva_t end);
void pfn_caches_invalidate_end(struct quire_vm *vm, hva_t start, hva_t end);

#endif
