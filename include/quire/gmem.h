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
};

/* Flags that quire_gmem_create() takes in this VM (KVM_CAP_GUEST_MEMFD_FLAGS). */
QUIRE_API uint64_t quire_gmem_supported_flags(const struct quire_vm *vm);

/*
 * A new, empty file of @size_bytes. -EINVAL: unknown flags, size not a positive multiple of the
 * page size (as a signed number); -ENOMEM; or what the host's store_create() answers, which gets
 * @cookie. The file holds a reference on the VM. No memory is reserved. No lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_create(struct quire_vm *vm, uint64_t size_bytes,
						 uint64_t flags, void *cookie,
						 struct quire_gmem **gmem);

/*
 * The last reference to the file went away: guest mappings of it are gone when this returns. Pages,
 * store and the VM's reference go, too, at the latest when faults that were on their way to a page
 * have ended: the host's store_destroy() says when. Takes slots_lock. @gmem is not to be used
 * afterwards.
 */
QUIRE_API void quire_gmem_release(struct quire_gmem *gmem);

/* What it was created with. */
QUIRE_API uint64_t quire_gmem_size_bytes(const struct quire_gmem *gmem);
QUIRE_API uint64_t quire_gmem_flags(const struct quire_gmem *gmem);
/* What the host's store_create() made for it. */
QUIRE_API void *quire_gmem_store(const struct quire_gmem *gmem);

/*
 * fallocate(FALLOC_FL_KEEP_SIZE): make the pages of [offset, offset + size) exist. -EINVAL:
 * unaligned or beyond the end; -ENOMEM and -EINTR (@interrupted answers nonzero between two
 * pages; may be NULL) keep the pages made so far. No lock held; excludes punches.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_allocate(struct quire_gmem *gmem, uint64_t offset_bytes,
						   uint64_t size_bytes, int (*interrupted)(void));

/*
 * fallocate(PUNCH_HOLE | KEEP_SIZE): take the pages away from every guest and from the host, then
 * free them. -EINVAL: unaligned. 0 also where there was nothing, or beyond the end. No lock held;
 * may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_gmem_punch(struct quire_gmem *gmem, uint64_t offset_bytes,
						uint64_t size_bytes);

/* Private pages to be filled before the guest runs: what a launch measures, for example. */
struct quire_gmem_fill {
	gfn_t gfn;
	uint64_t npages;
	hva_t source;	  /* page aligned, one page for each; 0: there is none */
	int write_source; /* @fill writes to the source, too */
	/*
	 * Fill the private page @pfn from @source (NULL: none). Under the page's lock: a guest that
	 * touches the page waits. It must not call the library. 0, or -errno to the caller.
	 */
	int (*fill)(void *ctx, gfn_t gfn, pfn_t pfn, const struct quire_page *source);
	void *ctx;
	int (*interrupted)(void); /* nonzero between two pages: -EINTR; may be NULL */
};

/*
 * Make private pages and fill them, one after the other, up to the end of the slot; those that are
 * filled count as up to date. The number of pages done if there is one, else: -EINVAL: no pages, an
 * unaligned source, no slot with a guest_memfd there, a page that is not private; -EFAULT: the
 * slot's file is gone; -EINTR, -ENOMEM, -EHWPOISON; or what the source's host, the arch or @fill
 * said. Takes slots_lock for each page; excludes punches of the page, not guest accesses before.
 */
QUIRE_API QUIRE_MUST_CHECK int64_t quire_gmem_populate(struct quire_vm *vm,
						       const struct quire_gmem_fill *request);

/*
 * Mark page @index as lost: guest mappings go, and faults on it are -EHWPOISON until it is punched.
 * Beyond the end: nothing. No lock held; may sleep.
 */
QUIRE_API void quire_gmem_poison(struct quire_gmem *gmem, uint64_t index);

/*
 * The host lost frame @pfn, as a vCPU's access found out: if a guest_memfd that a slot of the VM
 * shows has its page there, that is quire_gmem_poison() of it. Nonzero if so. Out of guest mode;
 * takes slots_lock.
 */
QUIRE_API int quire_vcpu_lose_frame(struct quire_vcpu *vcpu, pfn_t pfn);

#ifdef __cplusplus
}
#endif

#endif
