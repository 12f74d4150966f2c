/* Filling private pages before the guest runs. */
#include <errno.h>

#include "src/change/change.h"

/* One page of a request, with its source in hand. */
struct fill_one {
	const struct quire_gmem_fill *request;
	gfn_t gfn;
	const struct quire_page *source;
};

static int fill_page(void *ctx, u64 index, pfn_t pfn)
{
	const struct fill_one *one = ctx;

	return one->request->fill(one->request->ctx, one->gfn, pfn, one->source);
}

/* Under slots_lock. */
static const struct memslot *gmem_slot_at(const struct quire_vm *vm, gfn_t gfn)
{
	const struct memslot *slot = memslot_lookup(vm, 0, gfn, NULL);

	return slot && (slot->flags & QUIRE_SLOT_GMEM) ? slot : NULL;
}

static int request_check(struct quire_vm *vm, const struct quire_gmem_fill *request, u64 *npages)
{
	const struct memslot *slot;
	int err = -EINVAL;

	if (!request->npages || !is_aligned_u64(request->source.v, QUIRE_PAGE_SIZE))
		return -EINVAL;
	mutex_lock(&vm->slots_lock);
	slot = gmem_slot_at(vm, request->gfn);
	if (slot) {
		*npages = min_u64(request->npages, memslot_end(slot).v - request->gfn.v);
		err = slot->gmem.file ? 0 : -EFAULT;
	}
	mutex_unlock(&vm->slots_lock);
	return err;
}

/* Slot and attribute may have changed since the last page: both are asked again. */
static int fill_locked(struct quire_vm *vm, struct fill_one *one)
{
	const struct gmem_filler filler = {fill_page, one};
	const struct memslot *slot = gmem_slot_at(vm, one->gfn);

	if (!slot)
		return -EINVAL;
	if (!slot->gmem.file)
		return -EFAULT;
	if (!(attributes_get(vm, one->gfn) & QUIRE_ATTRIBUTE_PRIVATE))
		return -EINVAL;
	return gmem_fill_page(slot, one->gfn, &filler);
}

/* The source comes before any lock: the client may have to be waited for. */
static int populate_one(struct quire_vm *vm, const struct quire_gmem_fill *request, u64 done)
{
	u32 flags = QUIRE_PAGE_PIN | (request->write_source ? QUIRE_PAGE_WRITE : 0);
	struct fill_one one = {.request = request, .gfn = {request->gfn.v + done}};
	hva_t source = {request->source.v + (done << QUIRE_PAGE_SHIFT)};
	struct quire_page page;
	int err;

	if (request->source.v) {
		err = vm->host->page_get(vm->host_ctx, source, flags, &page);
		if (err)
			return err;
		one.source = &page;
	}
	mutex_lock(&vm->slots_lock);
	err = fill_locked(vm, &one);
	mutex_unlock(&vm->slots_lock);
	if (one.source && page.refcounted)
		vm->host->page_put(vm->host_ctx, &page,
				   request->write_source ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_ACCESSED);
	return err;
}

int64_t quire_gmem_populate(struct quire_vm *vm, const struct quire_gmem_fill *request)
{
	u64 npages = 0, done = 0;
	int err;

	if (quire_vm_is_dead(vm))
		return -EIO;
	err = request_check(vm, request, &npages);
	while (!err && done < npages) {
		err = request->interrupted && request->interrupted() ? -EINTR : 0;
		if (!err)
			err = populate_one(vm, request, done);
		if (!err)
			done++;
	}
	return done ? (int64_t)done : err;
}
