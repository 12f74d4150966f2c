/* The calls of a host, of which the Nth fails, with each error that its contract names. */
#include "tests/rules/lib/nth_host.h"

int nth_fails(const char *name, const int errors[NTH_ERRORS_MAX])
{
	uint32_t count = 0;

	if (!nth.is_armed || ++nth.calls != nth.fail_at)
		return 0;
	while (count < NTH_ERRORS_MAX && errors[count])
		count++;
	nth.variants = count;
	nth.failing = name;
	nth.error = errors[nth.variant];
	return nth.error;
}

static int fails(const char *name, const int errors[NTH_ERRORS_MAX])
{
	if (nth.machine->fails_below)
		return 0;
	if (nth.meanwhile) {
		if (!nth.is_armed || ++nth.calls != nth.fail_at)
			return 0;
		/* Under no lock of the library: another thread may do what it likes. A change of
		 * slots waits for a load before a store to one of L1's tables. */
		if (!strcmp(name, "page_get") ||
		    (!strcmp(name, "load_u64") && nth.meanwhile != nth_replace_slots &&
		     nth.meanwhile != nth_move_memory && nth.meanwhile != nth_change_other_slot)) {
			nth.is_armed = 0;
			nth.has_happened = 1;
			nth.meanwhile();
			nth.is_armed = 1;
		}
		return 0;
	}
	return nth_fails(name, errors);
}

#define FAILS(...) fails(__func__, (const int[NTH_ERRORS_MAX]){__VA_ARGS__})

static void *alloc(void *ctx, size_t size_bytes)
{
	void *mem = FAILS(-ENOMEM) ? NULL : nth.machine->ops->alloc(ctx, size_bytes);

	nth.bytes += mem ? (int64_t)size_bytes : 0;
	return mem;
}

static void free_alloc(void *ctx, void *mem, size_t size_bytes)
{
	nth.bytes -= (int64_t)size_bytes;
	nth.machine->ops->free(ctx, mem, size_bytes);
}

static void *chunk_alloc(void *ctx)
{
	void *chunk = FAILS(-ENOMEM) ? NULL : nth.machine->ops->chunk_alloc(ctx);

	nth.chunks += chunk != NULL;
	return chunk;
}

static void chunk_free(void *ctx, void *chunk)
{
	nth.chunks--;
	nth.machine->ops->chunk_free(ctx, chunk);
}

static int page_error(uint32_t flags)
{
	int errors[NTH_ERRORS_MAX] = {-ENOMEM, -EFAULT, -EHWPOISON};
	uint32_t count = 3;

	if (flags & QUIRE_PAGE_NOWAIT)
		errors[count++] = -EAGAIN;
	if (flags & QUIRE_PAGE_INTERRUPTIBLE)
		errors[count++] = -EINTR;
	if (!(flags & QUIRE_PAGE_GUARDED))
		errors[count++] = -EINVAL;
	return fails("page_get", errors);
}

static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int error = page_error(flags);

	if (error)
		return error;
	error = nth.machine->ops->page_get(ctx, hva, flags, page);
	nth.pages += !error && page->refcounted;
	return error;
}

static uint64_t pages_there(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages)
{
	uint64_t there;

	/* No error of the call: it names no page. */
	if (FAILS(-EAGAIN))
		return 0;
	there = nth.machine->ops->pages_there(ctx, hva, npages, pages);
	for (uint32_t i = 0; i < npages; i++)
		nth.pages += (there >> i & 1) && pages[i].refcounted;
	return there;
}

static void page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	nth.pages--;
	nth.machine->ops->page_put(ctx, page, use);
}

static int copy_from(void *ctx, void *dst, hva_t src, size_t size_bytes)
{
	int error = FAILS(-EFAULT);

	return error ? error : nth.machine->ops->copy_from(ctx, dst, src, size_bytes);
}

static int copy_to(void *ctx, hva_t dst, const void *src, size_t size_bytes)
{
	int error = FAILS(-EFAULT);

	return error ? error : nth.machine->ops->copy_to(ctx, dst, src, size_bytes);
}

static int load_u64(void *ctx, hva_t src, uint64_t *value)
{
	int error = FAILS(-EFAULT, -EINTR);

	return error ? error : nth.machine->ops->load_u64(ctx, src, value);
}

static int cmpxchg_u64(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	int error = FAILS(-EFAULT, -EINTR);

	return error ? error : nth.machine->ops->cmpxchg_u64(ctx, dst, expected, desired);
}

static int store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	int error = FAILS(-ENOMEM, -EINVAL);

	if (!error)
		error = nth.machine->ops->store_create(ctx, cookie, size_bytes, store);
	nth.stores += !error;
	return error;
}

static int store_create_huge(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
			     void **store)
{
	int error = FAILS(-ENOMEM, -EINVAL);

	if (!error)
		error = nth.machine->ops->store_create_huge(ctx, cookie, size_bytes, order, store);
	nth.stores += !error;
	return error;
}

static void store_destroy(void *ctx, void *store)
{
	nth.stores--;
	nth.machine->ops->store_destroy(ctx, store);
}

static int store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	int error = FAILS(-ENOMEM, -EHWPOISON);

	return error ? error : nth.machine->ops->store_get(ctx, store, index, order, pfn);
}

static int store_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	int error = FAILS(-ENOMEM, -EHWPOISON);

	return error ? error : nth.machine->ops->store_zero(ctx, store, index, npages);
}

static int store_clear(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	int error = FAILS(-ENOMEM, -EHWPOISON);

	return error ? error : nth.machine->ops->store_clear(ctx, store, index, npages);
}

static int store_show(void *ctx, void *store, uint64_t index, uint64_t npages, int shown)
{
	int error = FAILS(-ENOMEM);

	return error ? error : nth.machine->ops->store_show(ctx, store, index, npages, shown);
}

static int store_reshape(void *ctx, void *store, uint64_t index, int whole)
{
	int error = FAILS(-ENOMEM, -EHWPOISON);

	return error ? error : nth.machine->ops->store_reshape(ctx, store, index, whole);
}

/* --- hardware that is told of private pages --- */

static int make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)gfn;
	(void)pfn;
	(void)order;
	return FAILS(-EIO);
}

static int prepare(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)gfn;
	(void)pfn;
	(void)order;
	return FAILS(-EIO);
}

static int64_t post_populate(void *ctx, const struct quire_gmem_unit *unit, void *request_ctx)
{
	int error = FAILS(-EIO);

	(void)ctx;
	(void)request_ctx;
	if (error)
		return error;
	memset((void *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT), 0x41, SIM_FRAME_BYTES);
	return INT64_C(1) << unit->order;
}

const struct quire_confidential_ops nth_confidential = {
    .make_private = make_private, .prepare = prepare, .post_populate = post_populate};

/* What a host may lack stays away. */
#define STAND_BEFORE(call) (ops.call = ops.call ? (call) : NULL)

struct quire_host_ops nth_failing_ops(const struct quire_host_ops *real)
{
	struct quire_host_ops ops = *real;

	ops.free = free_alloc;
	STAND_BEFORE(alloc);
	STAND_BEFORE(chunk_alloc);
	STAND_BEFORE(chunk_free);
	STAND_BEFORE(page_get);
	STAND_BEFORE(pages_there);
	STAND_BEFORE(page_put);
	STAND_BEFORE(copy_from);
	STAND_BEFORE(copy_to);
	STAND_BEFORE(load_u64);
	STAND_BEFORE(cmpxchg_u64);
	STAND_BEFORE(store_create);
	STAND_BEFORE(store_create_huge);
	STAND_BEFORE(store_destroy);
	STAND_BEFORE(store_get);
	STAND_BEFORE(store_zero);
	STAND_BEFORE(store_clear);
	STAND_BEFORE(store_show);
	STAND_BEFORE(store_reshape);
	return ops;
}
