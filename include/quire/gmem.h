/* guest_memfd: guest pages that a file owns and that user space need not be able to reach. */
#ifndef QUIRE_GMEM_H
#define QUIRE_GMEM_H

#include <quire/host.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;
struct quire_vcpu;
struct quire_gmem; /* one file: a VM's view of an inode's pages */

enum quire_gmem_flags {
	QUIRE_GMEM_MMAP = 1u << 0,	  /* the client may map it; all guest faults use it */
	QUIRE_GMEM_INIT_SHARED = 1u << 1, /* the client may touch what it mapped */
	QUIRE_GMEM_WRITE = 1u << 2,	  /* quire_gmem_write() */
	QUIRE_GMEM_HUGETLB = 1u << 3,	  /* huge pages, reserved in the host's pool of them */
};
/* From this bit of the flags on: the binary logarithm of a huge page's bytes, 21 or 30. With
 * QUIRE_GMEM_HUGETLB it must be there, without it must be 0; else -EINVAL. */
#define QUIRE_GMEM_HUGE_SHIFT 58

/*
 * Flags that quire_gmem_create() takes in this VM (KVM_CAP_GUEST_MEMFD_FLAGS). Any thread, any
 * lock.
 */
QUIRE_API uint64_t quire_gmem_supported_flags(const struct quire_vm *vm);

/*
 * A new, empty file of @size_bytes. -EINVAL: flags that the VM does not take, size not a positive
 * multiple of the page size (as a signed number); -ENOMEM; or what the host's store_create() said,
 * which is given @cookie. *@gmem is set on success alone; the caller ends it with
 * quire_gmem_release(). The file holds a reference on the VM. No memory is reserved. No lock held;
 * may sleep.
 *
 * With QUIRE_GMEM_HUGETLB the host reserves all pages (store_create_huge()); -ENOMEM where its pool
 * has not enough. -EINVAL: @size_bytes is no multiple of the huge pages, or QUIRE_GMEM_INIT_SHARED
 * is set, too. Guests map such pages as large as slots and attributes allow. Where the file owns
 * the attributes, guests map a huge page small, all of it, unless all of it is private. (As posted
 * for Linux: docs/decisions/0017-hugetlb.md.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_create(struct quire_vm *vm, uint64_t size_bytes,
						 uint64_t flags, void *cookie,
						 struct quire_gmem **gmem);

/*
 * One more file of the same pages, for @vm: it has bindings of its own, and flags, size and store
 * of the inode. A punch, a lost page and an allocation are the inode's, by whichever file; the
 * pages live until the last file has gone, in the memory of the host and host_ctx of the VM that
 * made the first: these must stay until store_destroy(). From here on the pages are no VM's in the
 * reverse map: each VM may use them. -EINVAL: @vm is the file's own, has another host, does not
 * take the inode's flags, owns attributes where the file's VM does not (or the reverse), or one of
 * the two has a confidential architecture, to which a page has one owner; -ENOMEM. *@linked is set
 * on success alone; the caller ends it with quire_gmem_release(). The new file holds a reference on
 * @vm. No lock held; takes the inode's invalidate lock; may sleep. (KVM_LINK_GUEST_MEMFD as posted;
 * docs/decisions/0012-linked-files.md.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_link(struct quire_gmem *gmem, struct quire_vm *vm,
					       struct quire_gmem **linked);

/*
 * The last reference to the file went away: guest mappings of it are gone when this returns. Its
 * slots stay, and their faults are -EFAULT from then on. The VM's reference goes, too, and with the
 * inode's last file pages and store, at the latest when faults that were on their way to a page
 * have ended: the host's store_destroy() says when. Call it once all other calls with @gmem have
 * returned; @gmem is not to be used afterwards. Out of guest mode, no lock held; takes slots_lock,
 * the inode's invalidate lock and mmu_lock, waits for vCPUs in guest mode and for a grace period.
 */
QUIRE_API void quire_gmem_release(struct quire_gmem *gmem);

/* What it was created with. Any thread, any lock. */
QUIRE_API uint64_t quire_gmem_size_bytes(const struct quire_gmem *gmem);
QUIRE_API uint64_t quire_gmem_flags(const struct quire_gmem *gmem);
/* What the host's store_create() made for it. Any thread, any lock. */
QUIRE_API void *quire_gmem_store(const struct quire_gmem *gmem);

/*
 * fallocate(FALLOC_FL_KEEP_SIZE): make the pages of [offset, offset + size) exist. Lost pages stay
 * lost, and are no error. -EINVAL: unaligned or beyond the end. These keep the pages made so far:
 * -ENOMEM; -EINTR (@interrupted, which may be NULL, answered nonzero before a page); what the
 * host's store_get() said. No lock held; takes the inode's invalidate lock, under which
 * @interrupted is called: it must not call the library. Excludes punches; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_allocate(struct quire_gmem *gmem, uint64_t offset_bytes,
						   uint64_t size_bytes, int (*interrupted)(void));

/*
 * fallocate(PUNCH_HOLE | KEEP_SIZE): take the pages away from every guest and from the host, then
 * free them; lost pages are as new afterwards. -EINVAL: unaligned. 0 also where there was nothing,
 * or beyond the end. Of a huge page (QUIRE_GMEM_HUGETLB) a part is zeroed, and stays; a lost page
 * in that part stays lost. Faults on the pages retry meanwhile. Out of guest mode, no lock held;
 * takes the inode's invalidate lock and mmu_lock, waits for vCPUs in guest mode; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_punch(struct quire_gmem *gmem, uint64_t offset_bytes,
						uint64_t size_bytes);

/*
 * Write the page at @offset_bytes of a file that has QUIRE_GMEM_WRITE: @copy puts 4 KiB into @pfn,
 * under the inode's invalidate lock shared and the lock of the page; it must not call the library,
 * or wait for the client. A page that was never used counts as up to date afterwards, and guests
 * that have mapped it see what is written. -ENODEV: a file without the flag; -EINVAL: unaligned, or
 * beyond the end; -ENOMEM, -EHWPOISON, what the host's store_get() or @copy said. No lock held; may
 * sleep. Excludes punches.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_write(struct quire_gmem *gmem, uint64_t offset_bytes,
						int (*copy)(void *ctx, pfn_t pfn), void *ctx);

/* What becomes of the bytes of a page that is converted; none of them: that is not said. */
enum quire_gmem_contents {
	QUIRE_GMEM_ZERO = 1u << 0,     /* zeros, for every reader; to shared only */
	QUIRE_GMEM_PRESERVE = 1u << 1, /* what was written last */
};

struct quire_gmem_conversion {
	uint64_t offset_bytes, size_bytes;
	uint64_t attributes;	     /* of all pages of the range: QUIRE_ATTRIBUTE_PRIVATE, or 0 */
	uint64_t contents;	     /* enum quire_gmem_contents: of the whole range */
	uint64_t error_offset_bytes; /* result, with each error but -EINVAL and -EIO */
};

/*
 * Attributes that quire_gmem_set_attributes() knows for files of this VM: QUIRE_ATTRIBUTE_PRIVATE
 * where gmem_in_place_conversion is set and memory can be private, else 0. Any thread, any lock.
 */
QUIRE_API uint64_t quire_gmem_attributes(const struct quire_vm *vm);

/*
 * Convert pages in place: the same pages are private, or shared, from here on, by whichever file
 * and VM they are shown. Guests' mappings of them go, and to private the client's, too: it gets
 * SIGBUS there until the pages are shared again. Nothing to do where all of the range has the
 * attributes already, but for QUIRE_GMEM_ZERO. -EINVAL: the VM's files own no attributes, unknown
 * bits, both contents, empty, wrapping, unaligned, or beyond the end; -EOPNOTSUPP: QUIRE_GMEM_ZERO
 * to private or of a host that cannot, QUIRE_GMEM_PRESERVE with confidential hardware; -EIO: the
 * VM is dead. These change no attribute, and say where: -EAGAIN: a page to become private is in the
 * hands of a vCPU (quire_vcpu_map()), try again once it was given back; -ENOMEM, -EHWPOISON: zeroed
 * pages may be so already, and confidential hardware may have given them up. Out of guest mode, no
 * lock held; takes the inode's invalidate lock and the mmu_lock of each VM, waits for vCPUs in
 * guest mode and for a grace period; may sleep. (KVM_SET_MEMORY_ATTRIBUTES2 as posted;
 * docs/decisions/0015-in-place-conversion.md.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_set_attributes(struct quire_gmem *gmem,
							 struct quire_gmem_conversion *conversion);

/*
 * Call @each for every run of shared pages in the range, while none of it is converted: what the
 * client maps now may show these. Ends with the first nonzero answer, and returns it; 0 else.
 * -EINVAL: unaligned. What is beyond the end is in no run. No lock held; takes the inode's
 * invalidate lock shared, under which @each is called: it must not call the library.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_each_shared(
    struct quire_gmem *gmem, uint64_t offset_bytes, uint64_t size_bytes,
    int (*each)(void *ctx, uint64_t offset_bytes, uint64_t size_bytes), void *ctx);

/* Private pages that are filled together: 2^@order of them, aligned alike in guest, file and host.
 */
struct quire_gmem_unit {
	gfn_t gfn;
	pfn_t pfn;
	unsigned int order;		 /* 0, or 9 */
	const struct quire_page *source; /* 2^@order pages, any frames; NULL: there is none */
};

/* Private pages to be filled before the guest runs: what a launch measures, for example. */
struct quire_gmem_fill {
	gfn_t gfn;
	uint64_t npages;
	hva_t source;		/* page aligned, one page for each; 0: there is none */
	int write_source;	/* @fill writes to the source, too */
	unsigned int max_order; /* of the units that @fill takes: 0, or 9 and more */
	/*
	 * NULL: post_populate() of the VM's confidential architecture (<quire/confidential.h>).
	 * Fill the private pages from their sources, whatever they held before. Under slots_lock,
	 * the inode's invalidate lock and the lock of the pages: a guest that touches them waits.
	 * May sleep; must not call the library. How many pages are filled, from the first on: all,
	 * or fewer, with which the request ends; or -errno: none. What is not filled is no VM's
	 * again, and is zeroed before its first use if it was never used.
	 */
	int64_t (*fill)(void *ctx, const struct quire_gmem_unit *unit);
	void *ctx;
	int (*interrupted)(void); /* nonzero before a unit: -EINTR; no lock held; may be NULL */
};

/*
 * Make private pages and fill them, one unit after the other, up to the end of the slot; those that
 * are filled count as up to date. A unit is a page, or 2 MiB where the request takes that, all of
 * it is asked for, private, in one slot, and the host gave the file's pages so. The number of pages
 * done if there is one, else: -EEXIST: the page is private already, for it was filled before, or
 * the guest has used it (punch or convert it first); -EIO: a dead VM, a frame that another VM
 * owns, or @fill filled none; -EINVAL: no pages, nothing that fills them, an unaligned source, no
 * slot with a guest_memfd there, a page that is not private, a source page that the host does not
 * count; -EFAULT: the slot's file is gone, or no source there; -EINTR, -ENOMEM, -EHWPOISON; or what
 * page_get() or store_get() of the host, or @fill, said. No lock held; asks for the source without
 * a lock, then takes slots_lock and the inode's invalidate lock, for each unit anew; may sleep.
 * Excludes punches of the unit.
 */
QUIRE_API QUIRE_MUST_CHECK int64_t quire_gmem_populate(struct quire_vm *vm,
						       const struct quire_gmem_fill *request);

/*
 * Mark page @index, which need not exist, as lost: guest mappings go, and faults on it are
 * -EHWPOISON until it is punched. Beyond the end: nothing. Out of guest mode, no lock held; takes
 * the inode's invalidate lock and mmu_lock, waits for vCPUs in guest mode; may sleep.
 */
QUIRE_API void quire_gmem_poison(struct quire_gmem *gmem, uint64_t index);

/*
 * The host lost frame @pfn: if a guest_memfd that a slot of the VM shows has its page there, and
 * the host's frame_lost() does not deny it, that is quire_gmem_poison() of it. Nonzero if so. Out
 * of guest mode, no lock held; takes slots_lock, and what quire_gmem_poison() takes; may sleep. The
 * second one: as a vCPU's access found out.
 */
QUIRE_API int quire_vm_lose_frame(struct quire_vm *vm, pfn_t pfn);
QUIRE_API int quire_vcpu_lose_frame(struct quire_vcpu *vcpu, pfn_t pfn);

#ifdef __cplusplus
}
#endif

#endif
