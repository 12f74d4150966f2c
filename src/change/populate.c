/* Filling private pages before the guest runs. */
#include <errno.h>

#include <quire/confidential.h>

#include "src/change/change.h"

#define UNIT_PAGES QUIRE_TABLE_ENTRIES

/* One unit of a request on its way. */
struct fill_work {
	struct quire_vm *vm;
	const struct quire_gmem_fill *request;
	gfn_t gfn;
	struct quire_page *sources; /* room for those of a unit, or NULL */
	u64 npages;		    /* of the unit at most; so many sources are in hand */
	bool ended;		    /* a unit was filled in part: no other follows */
};

static s64 fill_pages(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	struct fill_work *work = ctx;
	const struct quire_vm_config *config = &work->vm->config;
	const struct quire_gmem_fill *request = work->request;
	const struct quire_gmem_unit unit = {
	    .gfn = work->gfn,
	    .pfn = pfn,
	    .order = order,
	    .source = work->sources,
	};
	s64 done;

	(void)index;
	done = request->fill ? request->fill(request->ctx, &unit)
			     : config->confidential->post_populate(config->confidential_ctx, &unit,
								   request->ctx);
	work->ended = done < (s64)1 << order;
	return done ? done : -EIO;
}

/* Under slots_lock. */
static const struct memslot *gmem_slot_at(const struct quire_vm *vm, gfn_t gfn)
{
	const struct memslot *slot = memslot_lookup(vm, 0, gfn, NULL);

	return slot && (slot->flags & QUIRE_SLOT_GMEM) ? slot : NULL;
}

static int request_check(struct quire_vm *vm, const struct quire_gmem_fill *request, u64 *npages)
{
	const struct quire_confidential_ops *hardware = vm->config.confidential;
	const struct memslot *slot;
	int err = -EINVAL;

	if (!request->fill && !(hardware && hardware->post_populate))
		return -EINVAL;
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

/* The slot may have changed since the last unit: it is looked up again. */
static s64 fill_locked(struct fill_work *work)
{
	const struct memslot *slot = gmem_slot_at(work->vm, work->gfn);
	struct gmem_filler filler = {.fill = fill_pages, .ctx = work};

	if (!slot)
		return -EINVAL;
	if (work->npages == UNIT_PAGES)
		filler.max_order = QUIRE_TABLE_BITS;
	return gmem_fill_unit(slot, work->gfn, &filler);
}

static u32 source_flags(const struct quire_gmem_fill *request)
{
	return QUIRE_PAGE_PIN | (request->write_source ? QUIRE_PAGE_WRITE : 0);
}

/* The sources of the unit, or the first of them: then one page is all that is filled. */
static int sources_get(struct fill_work *work, hva_t from)
{
	const struct quire_vm *vm = work->vm;
	u64 got = 0;
	int err = 0;

	if (!work->sources)
		return 0;
	for (; got < work->npages && !err; got += !err, from.v += QUIRE_PAGE_SIZE)
		err = vm->host->page_get(vm->host_ctx, from, source_flags(work->request),
					 &work->sources[got]);
	if (!err || !got)
		return err;
	work->npages = got;
	return 0;
}

static void sources_put(const struct fill_work *work)
{
	const struct quire_vm *vm = work->vm;
	enum quire_page_use use =
	    work->request->write_source ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_ACCESSED;

	for (u64 i = 0; work->sources && i < work->npages; i++)
		if (work->sources[i].refcounted)
			vm->host->page_put(vm->host_ctx, &work->sources[i], use);
}

/* Pages of the unit that may begin at page @done of the request. */
static u64 unit_pages(const struct fill_work *work, u64 done, u64 npages)
{
	bool whole = work->request->max_order >= QUIRE_TABLE_BITS &&
		     is_aligned_u64(work->gfn.v, UNIT_PAGES) && npages - done >= UNIT_PAGES;

	return whole ? UNIT_PAGES : 1;
}

/* The sources come before any lock: the client may have to be waited for. */
static s64 populate_unit(struct fill_work *work, u64 done, u64 npages)
{
	const struct quire_gmem_fill *request = work->request;
	s64 filled;

	if (request->interrupted && request->interrupted())
		return -EINTR;
	work->gfn.v = request->gfn.v + done;
	work->npages = unit_pages(work, done, npages);
	filled = sources_get(work, (hva_t){request->source.v + (done << QUIRE_PAGE_SHIFT)});
	if (filled)
		return filled;
	mutex_lock(&work->vm->slots_lock);
	filled = fill_locked(work);
	mutex_unlock(&work->vm->slots_lock);
	sources_put(work);
	return filled;
}

static s64 populate_all(struct fill_work *work, u64 npages)
{
	u64 done = 0;

	while (done < npages && !work->ended) {
		s64 filled = populate_unit(work, done, npages);

		if (filled < 0)
			return done ? (s64)done : filled;
		done += (u64)filled;
	}
	return (s64)done;
}

int64_t quire_gmem_populate(struct quire_vm *vm, const struct quire_gmem_fill *request)
{
	size_t room_bytes = UNIT_PAGES * sizeof(struct quire_page);
	struct fill_work work = {.vm = vm, .request = request};
	struct quire_page one;
	u64 npages = 0;
	s64 done;

	if (!request)
		return -EINVAL;
	if (vm_is_dead(vm))
		return -EIO;
	done = request_check(vm, request, &npages);
	if (done)
		return done;
	if (request->source.v && request->max_order < QUIRE_TABLE_BITS) {
		work.sources = &one;
	} else if (request->source.v) {
		work.sources = vm_alloc(vm, room_bytes);
		if (!work.sources)
			return -ENOMEM;
	}
	done = populate_all(&work, npages);
	if (work.sources && work.sources != &one)
		vm_free(vm, work.sources, room_bytes);
	return done;
}
