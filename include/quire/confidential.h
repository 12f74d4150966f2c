/* A confidential architecture: hardware that must be told which pages are a guest's alone. */
#ifndef QUIRE_CONFIDENTIAL_H
#define QUIRE_CONFIDENTIAL_H

#include <quire/gmem.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The hooks of KVM's guest_memfd (kvm_arch_gmem_prepare and its kin), and what a launch does to a
 * page (the callback of kvm_gmem_populate). The library's reverse map comes first, whatever the
 * architecture: a frame that another VM owns, or that is private at another gfn, never gets here.
 *
 *             make_private, prepare                       invalidate
 *   (free) -------------------------------> private at --------------> private, gfn undecided
 *     ^    ---- make_private, post_populate -> a gfn   <-- make_private --          |
 *     |                                          |                                 |
 *     `-------------- make_shared, reclaim ------'---------------------------------'
 *
 * Every function may be NULL. Pages are units of 2^order, aligned alike in guest and host: order 0
 * or 9. None of the functions may call the library. Two pages may be worked on at once, one page
 * never, but for invalidate(), which may come at any time.
 */
struct quire_confidential_ops {
	/*
	 * The frames become the VM's from @gfn on (RMPUPDATE on SEV-SNP): new ones before they are
	 * prepared or filled, and those of a gfn that lost them when another one shows them. Under
	 * locks of the pages, in a populate under slots_lock, too; may sleep. -errno: to the fault
	 * or the populate, and the frames are as before.
	 */
	int (*make_private)(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order);
	/*
	 * A guest is about to use frames that have just been made private, and that hold zeroes, or
	 * what they held when they were shared. As make_private(); after an error make_shared() of
	 * them follows.
	 */
	int (*prepare)(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order);
	/*
	 * A populate without a fill(): bring unit->source (NULL: none) into frames that have just
	 * been made private, whatever they hold, and measure it. @request_ctx is the request's.
	 * Returns what fill() of struct quire_gmem_fill returns, under the same locks;
	 * make_shared() of the pages that are not filled follows.
	 */
	int64_t (*post_populate)(void *ctx, const struct quire_gmem_unit *unit, void *request_ctx);
	/*
	 * The gfns of these frames no longer show them; some of the frames may never have been made
	 * private. The frames and what they hold stay the VM's. Under mmu_lock exclusive, or under
	 * slots_lock and locks of the pages; never sleeps, never fails.
	 */
	void (*invalidate)(void *ctx, pfn_t pfn, uint64_t npages);
	/*
	 * Frames that were made private are not any more, and stay in their file: their gfns were
	 * converted, or making them private ended in an error. Under locks of the pages, and
	 * slots_lock in a populate and a conversion that is not in place; never sleeps, never
	 * fails. Before the host writes them or the client sees them. NULL: reclaim().
	 */
	void (*make_shared)(void *ctx, pfn_t pfn, uint64_t npages);
	/*
	 * Frames that were made private are punched, or their file is gone. The host still has
	 * them: store_punch() follows. Under locks of the pages; may sleep, never fails.
	 */
	void (*reclaim)(void *ctx, pfn_t pfn, uint64_t npages);
};

#ifdef __cplusplus
}
#endif

#endif
