/* The host port over this process's mappings: a pfn is a client address >> 12. */
#include <errno.h>
#include <sys/mman.h>

#include "hosts/process/guard.h"
#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/* The modelled machine's physical addresses have 48 bits. */
#define HVA_END (UINT64_C(1) << 48)

/*
 * A touch ends with any kick. Without INTERRUPTIBLE, keep waiting for the page: no flusher waits
 * for a thread out of guest mode, and what is half written (a clock page) would stay so.
 */
static enum guard_reason touch(uint64_t hva, uint32_t flags)
{
	enum guard_reason reason;

	do
		reason = guard_touch(hva, flags & QUIRE_PAGE_WRITE);
	while (reason == GUARD_ABORT && !(flags & (QUIRE_PAGE_INTERRUPTIBLE | QUIRE_PAGE_NOWAIT)));
	return reason;
}

/*
 * A write that a device's read-only entry refused is the guest's business, not an error: the
 * page is there to be read. The mapping itself may allow writing; then the device's driver refused
 * it, by SIGBUS.
 */
static int fault_error(uint64_t hva, uint32_t flags)
{
	struct process_mapping mapping;
	int error;

	if (!(flags & QUIRE_PAGE_WRITE) || !process_mapping_find(hva, &mapping) || !mapping.pfnmap)
		return -EFAULT;
	error = guard_error(touch(hva, flags & ~(uint32_t)QUIRE_PAGE_WRITE));
	return error ? error : -EROFS;
}

/*
 * A guest that reads may write soon: let it, where the client could. A device's entry may refuse
 * what its mapping allows, and only a write would tell.
 */
static uint8_t reader_may_write(uint64_t hva)
{
	struct process_mapping mapping;

	return process_mapping_find(hva, &mapping) && (mapping.prot & PROT_WRITE) &&
	       !mapping.pfnmap;
}

/* Where this thread touched pages last. */
struct touches {
	uint64_t last, stride;
};

static _Thread_local struct touches own_touches __attribute__((tls_model("initial-exec")));

/*
 * A guest that fills its memory faults on one page after the other, and each touch waits for the
 * memory. The processor foresees them only while no other instruction takes its place in the table
 * that it keeps by their addresses, so have it fetch the fourth page from here. A prefetch does not
 * fault, and nothing comes of one where nothing is.
 */
static void foresee(uint64_t hva)
{
	struct touches *touches = &own_touches;
	uint64_t stride = hva - touches->last;

	if (stride == touches->stride)
		__builtin_prefetch((void *)(uintptr_t)(hva + 4 * stride), 1);
	touches->stride = stride;
	touches->last = hva;
}

/* Is the page to be kept for the caller? A driver's frames have no page objects to count at. */
static bool is_pinned(uint64_t hva, uint32_t flags)
{
	struct process_mapping mapping;

	return (flags & QUIRE_PAGE_PIN) && !(process_mapping_find(hva, &mapping) && mapping.pfnmap);
}

static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	struct process_host *host = ctx;
	bool write = flags & QUIRE_PAGE_WRITE;
	int error;

	if (hva.v >= HVA_END)
		return -EFAULT;
	if ((flags & QUIRE_PAGE_NOWAIT) && process_touch_may_sleep(hva.v, write))
		return -EAGAIN;
	foresee(hva.v);
	error = guard_error(touch(hva.v, flags));
	if (error)
		return error == -EFAULT ? fault_error(hva.v, flags) : error;
	*page = (struct quire_page){
	    .pfn = {hva.v >> QUIRE_PAGE_SHIFT},
	    .writable = write || reader_may_write(hva.v),
	    .refcounted = is_pinned(hva.v, flags),
	};
	/* Neither kept nor guarded: it may be gone at once. */
	if (!page->refcounted && !(flags & QUIRE_PAGE_GUARDED))
		return -EINVAL;
	if (page->refcounted)
		__atomic_fetch_add(&host->pinned, 1, __ATOMIC_RELAXED);
	return 0;
}

/* The processor marks the client's own tables, and a page stays where its address is: only counted,
 * so that one that is kept by mistake is noticed. */
static void page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	struct process_host *host = ctx;

	__atomic_fetch_sub(&host->pinned, 1, __ATOMIC_RELAXED);
}

/* A signal in the middle is no reason to stop: go on where the copy was. */
static int copy(uint8_t *dst, const uint8_t *src, size_t size_bytes)
{
	enum guard_reason reason;
	size_t total = 0, done;

	do {
		reason = guard_copy(dst + total, src + total, size_bytes - total, &done);
		total += done;
	} while (reason == GUARD_ABORT);
	return reason == GUARD_OK ? 0 : -EFAULT;
}

static int copy_from(void *ctx, void *dst, hva_t src, size_t size_bytes)
{
	return copy(dst, (const uint8_t *)(uintptr_t)src.v, size_bytes);
}

static int copy_to(void *ctx, hva_t dst, const void *src, size_t size_bytes)
{
	return copy((uint8_t *)(uintptr_t)dst.v, src, size_bytes);
}

static int load_u64(void *ctx, hva_t src, uint64_t *value)
{
	enum guard_reason reason;

	do {
		reason = guard_load_u64((const void *)(uintptr_t)src.v, value);
	} while (reason == GUARD_ABORT);
	return reason == GUARD_OK ? 0 : -EFAULT;
}

static int cmpxchg_u64(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	enum guard_reason reason;
	bool swapped;

	do {
		reason = guard_cmpxchg_u64((void *)(uintptr_t)dst.v, expected, desired, &swapped);
	} while (reason == GUARD_ABORT);
	return reason == GUARD_OK ? 0 : -EFAULT;
}

const struct quire_host_ops process_host_ops = {
    .alloc = process_alloc,
    .free = process_free,
    .chunk_alloc = process_chunk_alloc,
    .chunk_free = process_chunk_free,
    .page_get = page_get,
    .pages_there = process_pages_there,
    .page_put = page_put,
    .page_level = process_page_level,
    .copy_from = copy_from,
    .copy_to = copy_to,
    .load_u64 = load_u64,
    .cmpxchg_u64 = cmpxchg_u64,
    .store_create = process_store_create,
    .store_destroy = process_store_destroy,
    .store_get = process_store_get,
    .store_zero = process_store_zero,
    .store_punch = process_store_punch,
    .store_show = process_store_show,
    .store_clear = process_store_clear,
    .store_create_huge = process_store_create_huge,
    .store_reshape = process_store_reshape,
    .frame_lost = process_frame_lost,
    .kick = process_kick,
};
