/* The host port: everything the library asks of the machine that holds the guest's memory. */
#ifndef QUIRE_HOST_H
#define QUIRE_HOST_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a page_get() may do, and what the caller promises. */
enum quire_page_flags {
	QUIRE_PAGE_WRITE = 1u << 0,  /* the guest is about to write: break copy-on-write */
	QUIRE_PAGE_NOWAIT = 1u << 1, /* never sleep for the page: -EAGAIN instead */
	/* A kick of the vCPU ends the wait: -EINTR. With neither this nor NOWAIT the host goes on
	 * waiting. */
	QUIRE_PAGE_INTERRUPTIBLE = 1u << 2,
	/* Keep a reference until page_put(); without it the caller is guarded by invalidation. */
	QUIRE_PAGE_PIN = 1u << 3,
	/* The caller is guarded by invalidation: pages without a reference count are welcome. */
	QUIRE_PAGE_GUARDED = 1u << 4,
};

/*
 * How the guest's accesses are cached, whatever its own tables say: all pages that page_level()
 * puts into one block have one type. In NPT it is an entry of the PAT as Linux sets that up.
 */
enum quire_memtype {
	QUIRE_MEMTYPE_WB, /* memory */
	QUIRE_MEMTYPE_UC, /* registers of a device */
	QUIRE_MEMTYPE_WC, /* a frame buffer */
};

/*
 * Which fetches a page refuses, with -EFAULT. A format that does not tell the modes apart refuses
 * all fetches of a page that one mode may not execute (all but QUIRE_FORMAT_EPT_MODES).
 */
enum quire_noexec {
	QUIRE_EXEC_ALL, /* none */
	QUIRE_NOEXEC,	/* all */
	QUIRE_NOEXEC_USER,
	QUIRE_NOEXEC_SUPERVISOR,
};

/* A host page, as page_get() found it. */
struct quire_page {
	pfn_t pfn;	    /* the host's own number, which entries hold; maxphyaddr limits it */
	uint8_t writable;   /* a writable mapping is permitted */
	uint8_t refcounted; /* the host counts references to it, and gave one to the caller */
	uint8_t noexec;	    /* enum quire_noexec */
	uint8_t memtype;    /* enum quire_memtype */
	/* The guest executes from it and does nothing else: other accesses are -EFAULT, and in a
	 * format other than QUIRE_FORMAT_EPT_MODES all are. It is not writable then. */
	uint8_t noread;
};

/* How a page was used: said once, before mmu_lock drops. */
enum quire_page_use {
	QUIRE_PAGE_UNUSED,   /* looked up for nothing */
	QUIRE_PAGE_ACCESSED, /* mapped for reading */
	QUIRE_PAGE_DIRTY,    /* mapped writable */
};

/*
 * Functions may sleep unless they say otherwise, and are called with no lock and no read section
 * of the library held unless they say otherwise. They may run in several threads at once. @ctx is
 * what quire_vm_create() was given. An error that a function does not list is handed on as it is.
 *
 * quire_vm_set_region() waits for the calls of copy_from(), copy_to(), load_u64() and cmpxchg_u64()
 * that are under way, and for the page_get() of a quire_place_read() or _write(), or of a
 * quire_vcpu_map(): none of these may wait for a change of slots.
 */
struct quire_host_ops {
	/*
	 * Memory of the library's own: zeroed, 64-byte aligned. NULL when there is none. Called
	 * under slots_lock and the locks of a guest_memfd's inode and pages at most: it must not
	 * call the library. free() gets the size that alloc() was asked for.
	 */
	void *(*alloc)(void *ctx, size_t size_bytes);
	void (*free)(void *ctx, void *mem, size_t size_bytes);
	/*
	 * 2 MiB of table memory: zeroed, 2 MiB aligned and resident. NULL when there is none.
	 * Called under slots_lock and the lock of the VM's arena at most. Chunks are freed with the
	 * VM.
	 */
	void *(*chunk_alloc)(void *ctx);
	void (*chunk_free)(void *ctx, void *chunk);
	/*
	 * The physical address of the table page @table, 4 KiB in a chunk, and the way back: any
	 * thread, any lock, never sleep. Both NULL: it is the pointer less table_offset of the
	 * VM's configuration, as in a kernel that maps all memory in one piece, or in a process.
	 * Below 2^48: a chunk with a page elsewhere is freed again and counts as none; so does a
	 * chunk for a root of several tables (struct quire_format, root_entries) where no such run
	 * of pages is in one piece, aligned to its size.
	 */
	uint64_t (*table_phys)(void *ctx, const uint64_t *table);
	uint64_t *(*table_virt)(void *ctx, uint64_t physical);

	/*
	 * The page behind @hva, faulted in as the guest's access would. 0, or -EFAULT (nothing
	 * there, or not with this access), -EHWPOISON, -EINTR, -EAGAIN (NOWAIT), -EROFS (a
	 * device's read-only entry: the write is to be emulated), -EINVAL (the page has no
	 * reference count, and the caller did not say GUARDED), -ENOMEM. *@page counts on success
	 * alone. A place (<quire/place.h>) asks under its own refresh lock, for which nothing else
	 * waits.
	 */
	int (*page_get)(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page);
	/*
	 * Which of the @npages (at most 64) pages from @hva are there and may be mapped writable as
	 * they are: bit i for page i, with pages[i] as page_get() with WRITE and GUARDED fills it
	 * in. Brings nothing in and never sleeps: a page that is not named gets a fault of its own.
	 * May be NULL: then a fault of a shadow MMU maps no neighbours.
	 */
	uint64_t (*pages_there)(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages);
	/* Give back the reference that page_get() or pages_there() gave; not called for a page that
	 * is not refcounted. Called under mmu_lock, also in a read section, under a place's refresh
	 * lock, or without a lock; never sleeps. */
	void (*page_put)(void *ctx, const struct quire_page *page, enum quire_page_use use);
	/*
	 * Largest level the host itself maps @hva with, at most @max. Called under mmu_lock, also
	 * in a read section; valid as long as no invalidation of @hva starts; never sleeps.
	 */
	enum quire_level (*page_level)(void *ctx, hva_t hva, enum quire_level max);

	/*
	 * Copy from @src, or to @dst, in the client; -EFAULT when any byte is out of reach. For a
	 * place (<quire/place.h>) it is called under a lock that quire_vm_host_invalidate_begin()
	 * of that page waits for: it must not wait for such an invalidation.
	 */
	int (*copy_from)(void *ctx, void *dst, hva_t src, size_t size_bytes);
	int (*copy_to)(void *ctx, hva_t dst, const void *src, size_t size_bytes);

	/*
	 * One word of guest memory, aligned: read at once, or changed if it is *@expected, which
	 * receives what was there. 0 (also when it was another word), -EFAULT, -EINTR; any error of
	 * load_u64() counts as memory that is not there. Both may be NULL: then there are no nested
	 * guests.
	 */
	int (*load_u64)(void *ctx, hva_t src, uint64_t *value);
	int (*cmpxchg_u64)(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired);

	/*
	 * Storage of guest_memfd pages. A store is @size_bytes of memory, empty at first.
	 * store_get() makes page @index exist, with up to 2^@order pages around it naturally
	 * aligned, and says where it is and which order it got; what it holds is unspecified
	 * unless the page was there before. Errors: -ENOMEM, -EHWPOISON. A store is used until
	 * store_destroy(), which may come after quire_gmem_release(), from a thread in a fault.
	 * store_create() and store_destroy() are called without a lock. The others are called under
	 * locks of the inode, and of its pages, and in quire_gmem_populate() under slots_lock: they
	 * may sleep, but must not call the library. store_get() is asked for a page that is not
	 * there, by one thread at a time for each.
	 */
	int (*store_create)(void *ctx, void *cookie, uint64_t size_bytes, void **store);
	void (*store_destroy)(void *ctx, void *store);
	int (*store_get)(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn);
	/* Clear @npages pages from @index: they exist. -ENOMEM, -EHWPOISON. */
	int (*store_zero)(void *ctx, void *store, uint64_t index, uint64_t npages);
	/*
	 * Take the pages away from the host's own mappings and from the store; some may not exist.
	 * The guest's mappings are gone already. All pages go before store_destroy(). Never fails.
	 */
	void (*store_punch)(void *ctx, void *store, uint64_t index, uint64_t npages);
	/*
	 * For files that own the attributes of their pages (quire_gmem_set_attributes()). Show the
	 * pages through the client's mappings of the file, or take them away: an access raises
	 * SIGBUS then. Slots may show these mappings, too: the host invalidates them as for any
	 * change of its mappings, outside this call. -errno: it is as before. Under the inode's
	 * invalidate lock exclusive; may sleep. NULL: there are no such mappings.
	 */
	int (*store_show)(void *ctx, void *store, uint64_t index, uint64_t npages, int shown);
	/*
	 * The pages read as zeros from here on, those that the client alone has used, too; none is
	 * moved. -ENOMEM, -EHWPOISON. Under the inode's locks; no guest has them mapped, but the
	 * client those that were shared before. NULL: contents cannot be zeroed.
	 */
	int (*store_clear)(void *ctx, void *store, uint64_t index, uint64_t npages);

	/*
	 * A store of pages of 2^@order (9 or 18), which are reserved in the machine's pool of huge
	 * pages: store_get() with that order gives the whole of one then, unless it was punched
	 * meanwhile and the pool is empty (-ENOMEM). store_punch() gives whole ones back, and
	 * zeroes a part of one. -ENOMEM: the pool has not enough; -EINVAL: no pages of that size.
	 * No lock held. NULL: there is no pool.
	 */
	int (*store_create_huge)(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
				 void **store);
	/*
	 * Of such a store, for files that own the attributes and may be mapped: the pages of the
	 * huge page that begins at @index become small ones, which the client's mappings may show
	 * one by one, or one huge page again (@whole). They keep what they hold, and store_get() is
	 * asked for their frames anew. 0 also where it is so already. -ENOMEM, -EHWPOISON: as
	 * before. Under the inode's locks; no guest and no mapping of the client's has the pages.
	 * NULL: small pages are shown of a huge one.
	 */
	int (*store_reshape)(void *ctx, void *store, uint64_t index, int whole);
	/*
	 * Is frame @pfn, which a store has, lost to a memory failure now? Asked when the library
	 * was told so, under the inode's invalidate lock: a page that was punched since then is
	 * another, and no punch comes until the answer is used. Nonzero also where the host cannot
	 * say. Makes no page and raises no signal; may sleep. NULL: what was told is so.
	 */
	int (*frame_lost)(void *ctx, pfn_t pfn);

	/* Get the thread that runs this vCPU out of guest mode or out of page_get(). Called again
	 * and again until the vCPU reacts, and also when no thread runs it: nothing to do then. By
	 * any thread, under any lock; never sleeps. @cookie is from the vCPU's creation. */
	void (*kick)(void *ctx, void *cookie);
};

#ifdef __cplusplus
}
#endif

#endif
