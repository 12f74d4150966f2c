/* Conversion in place: pages of a guest_memfd become private, or shared, where they are. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/gmem/pin.h"
#include "src/vm/locks.h"

/*
 * As an attribute change of a VM, but for every file of the inode, and for the client's view:
 *
 *   to private: no vCPU has a page in its hands; the client's view goes; begin the invalidations;
 *               the attributes; end
 *   to shared:  begin the invalidations; the attributes; the frames leave the reverse map; zeros;
 *               the client's view comes; end
 *
 * Huge pages of the host's pool (QUIRE_GMEM_HUGETLB) of which the client may see a part are
 * reshaped on the way: made small before the first of their pages is shared, and whole once the
 * last is private. Then no guest may have any page of them, so the invalidations are of whole ones.
 *
 * The host writes a frame, and the client sees it, only when confidential hardware has given it up,
 * and no lookup makes it private again once the attributes say shared. If zeros or the view fail,
 * the attributes change back before the end, so that no fault has used the others.
 */
struct conversion {
	struct gmem_inode *inode;
	u64 first, npages;
	u64 attributes, contents;
	u64 failed; /* index, with an error */
	bool built; /* @change is; it ends after a grace period */
	struct range_map_change change;
};

uint64_t quire_gmem_attributes(const struct quire_vm *vm)
{
	return vm_has_private_mem(vm) && vm->config.gmem_in_place_conversion
		   ? QUIRE_ATTRIBUTE_PRIVATE
		   : 0;
}

static int contents_check(const struct quire_vm *vm, const struct quire_gmem_conversion *request)
{
	u64 contents = request->contents;

	if ((contents & QUIRE_GMEM_ZERO) &&
	    ((request->attributes & QUIRE_ATTRIBUTE_PRIVATE) || !vm->host->store_clear))
		return -EOPNOTSUPP;
	if ((contents & QUIRE_GMEM_PRESERVE) && vm->config.confidential)
		return -EOPNOTSUPP;
	return 0;
}

static int request_check(const struct quire_gmem *gmem, const struct quire_gmem_conversion *request)
{
	const u64 known = QUIRE_GMEM_ZERO | QUIRE_GMEM_PRESERVE;
	u64 limit = gmem->inode->size_bytes;

	if (!quire_gmem_attributes(gmem->vm) ||
	    (request->attributes & ~quire_gmem_attributes(gmem->vm)))
		return -EINVAL;
	if ((request->contents & ~known) || request->contents == known)
		return -EINVAL;
	if (!request->size_bytes ||
	    !is_aligned_u64(request->offset_bytes | request->size_bytes, QUIRE_PAGE_SIZE))
		return -EINVAL;
	if (request->size_bytes > limit || request->offset_bytes > limit - request->size_bytes)
		return -EINVAL;
	return contents_check(gmem->vm, request);
}

static int show(const struct conversion *conversion, int shown)
{
	const struct gmem_pages *pages = &conversion->inode->pages;

	if (!pages->host->store_show || MUTANT(convert_unhidden))
		return 0;
	return pages->host->store_show(pages->host_ctx, pages->store, conversion->first,
				       conversion->npages, shown);
}

/* Between begin and end. No guest has the pages mapped; the client has those that were shared. */
static int let_client_in(const struct conversion *conversion)
{
	struct gmem_pages *pages = &conversion->inode->pages;
	int error = 0;

	gmem_assert_exclusive(conversion->inode);
	if (((conversion->contents & QUIRE_GMEM_ZERO) && !MUTANT(convert_unzeroed)) ||
	    MUTANT(convert_zeroes))
		error = gmem_pages_clear(pages, conversion->first, conversion->npages);
	return error ? error : show(conversion, 1);
}

static void commit(struct conversion *conversion)
{
	struct gmem_inode *inode = conversion->inode;

	gmem_assert_exclusive(inode);
	range_map_commit(&inode->attributes, &conversion->change);
	if (!(conversion->attributes & QUIRE_ATTRIBUTE_PRIVATE))
		gmem_make_range_shared(inode, conversion->first, conversion->npages);
}

/* The huge page that begins at @first; its pages are private to no frame from here on. */
static int reshape_one(struct gmem_inode *inode, u64 first, int whole)
{
	const struct gmem_arch *arch = gmem_arch(inode);
	struct gmem_frames frames = {0};

	if (arch)
		frames = (struct gmem_frames){arch->ops->make_shared, arch->ctx};
	return gmem_pages_reshape(&inode->pages, first, whole, frames.tell ? &frames : NULL);
}

/* All of the huge pages that the range has a part of. */
static void widen(struct gmem_invalidation *inv)
{
	u64 unit = UINT64_C(1) << inv->inode->pages.huge_order;
	u64 end = round_up_u64(inv->first + inv->npages, unit);

	if (MUTANT(reshape_narrow))
		return;
	inv->first = round_down_u64(inv->first, unit);
	inv->npages = end - inv->first;
}

/* Those of the range that are private as a whole become small. */
static int split_whole(const struct conversion *conversion)
{
	struct gmem_inode *inode = conversion->inode;
	u64 unit = UINT64_C(1) << inode->pages.huge_order;
	u64 at = round_down_u64(conversion->first, unit);
	int error = 0;

	for (; at < conversion->first + conversion->npages && !error; at += unit)
		if (!gmem_is_split(inode, at))
			error = reshape_one(inode, at, 0);
	return error;
}

/* They are huge again. What fails stays small, which costs users time and nothing else. */
static void join_whole(const struct conversion *conversion)
{
	struct gmem_inode *inode = conversion->inode;
	u64 unit = UINT64_C(1) << inode->pages.huge_order;
	u64 at = round_down_u64(conversion->first, unit);

	for (; at < conversion->first + conversion->npages; at += unit)
		if (!gmem_is_split(inode, at))
			(void)reshape_one(inode, at, 1);
}

static int change(struct conversion *conversion)
{
	struct gmem_inode *inode = conversion->inode;
	struct gmem_invalidation inv = {
	    .inode = inode,
	    .first = conversion->first,
	    .npages = conversion->npages,
	};
	bool to_private = conversion->attributes & QUIRE_ATTRIBUTE_PRIVATE;
	bool is_reshaped = inode->pages.huge_order && (inode->flags & QUIRE_GMEM_MMAP);
	int error = to_private ? show(conversion, 0) : 0;

	if (error)
		return error;
	if (MUTANT(convert_zeroes_first) && (conversion->contents & QUIRE_GMEM_ZERO))
		error = gmem_pages_clear(&conversion->inode->pages, conversion->first,
					 conversion->npages);
	if (inode->pages.huge_order)
		widen(&inv);
	change_gmem_begin(&inv);
	if (MUTANT(convert_end_first))
		change_gmem_end(&inv);
	if (is_reshaped && !to_private)
		error = split_whole(conversion);
	if (!error) {
		commit(conversion);
		if (!to_private)
			error = let_client_in(conversion);
		if (error)
			range_map_undo(&inode->attributes, &conversion->change);
	}
	if (is_reshaped)
		join_whole(conversion);
	if (!MUTANT(convert_end_first))
		change_gmem_end(&inv);
	return error;
}

static bool is_done(const struct conversion *conversion)
{
	const struct range_map *map = &conversion->inode->attributes;
	u64 end = conversion->first + conversion->npages, value;

	return range_map_uniform(map, conversion->first, end, &value) &&
	       value == conversion->attributes && !(conversion->contents & QUIRE_GMEM_ZERO);
}

static int convert_locked(struct conversion *conversion)
{
	struct gmem_inode *inode = conversion->inode;
	u64 end = conversion->first + conversion->npages;
	const struct ptree_item range = {conversion->first, end,
					 (void *)(uintptr_t)conversion->attributes};
	int error;

	gmem_assert_exclusive(inode);
	if (is_done(conversion))
		return 0;
	if (conversion->attributes & QUIRE_ATTRIBUTE_PRIVATE) {
		conversion->failed = gmem_pin_first(inode, conversion->first, conversion->npages);
		if (conversion->failed < end)
			return -EAGAIN;
	}
	conversion->failed = conversion->first;
	error = range_map_prepare(&inode->attributes, inode->pages.host, inode->pages.host_ctx,
				  &range, &conversion->change);
	if (error)
		return error;
	conversion->built = true;
	return change(conversion);
}

/* Readers may have seen either map. */
static void finish(struct conversion *conversion, int error)
{
	if (!conversion->built)
		return;
	reclaim_synchronize();
	if (error)
		range_map_abort(&conversion->change);
	else
		range_map_finish(&conversion->change);
}

int quire_gmem_set_attributes(struct quire_gmem *gmem, struct quire_gmem_conversion *request)
{
	struct gmem_inode *inode = gmem->inode;
	struct conversion conversion = {.inode = inode};
	int error;

	if (!request)
		return -EINVAL;
	conversion.first = request->offset_bytes >> QUIRE_PAGE_SHIFT;
	conversion.npages = request->size_bytes >> QUIRE_PAGE_SHIFT;
	conversion.attributes = request->attributes;
	conversion.contents = request->contents;
	error = vm_is_dead(gmem->vm) ? -EIO : request_check(gmem, request);
	locks_assert_none();
	if (error == -EOPNOTSUPP)
		request->error_offset_bytes = request->offset_bytes;
	if (error)
		return error;
	rwlock_write_lock(&inode->invalidate_lock);
	error = convert_locked(&conversion);
	rwlock_write_unlock(&inode->invalidate_lock);
	finish(&conversion, error);
	if (error)
		request->error_offset_bytes = conversion.failed << QUIRE_PAGE_SHIFT;
	return error;
}

int quire_gmem_each_shared(struct quire_gmem *gmem, uint64_t offset_bytes, uint64_t size_bytes,
			   int (*each)(void *ctx, uint64_t offset_bytes, uint64_t size_bytes),
			   void *ctx)
{
	struct gmem_inode *inode = gmem->inode;
	u64 at = offset_bytes >> QUIRE_PAGE_SHIFT, stop, value;
	u64 end = inode->pages.npages;
	int answer = 0;

	if (!each)
		return -EINVAL;
	if (!is_aligned_u64(offset_bytes | size_bytes, QUIRE_PAGE_SIZE))
		return -EINVAL;
	if (at < end)
		end = at + min_u64(size_bytes >> QUIRE_PAGE_SHIFT, end - at);
	rwlock_read_lock(&inode->invalidate_lock);
	for (; at < end && !answer; at = stop) {
		stop = range_map_run(&inode->attributes, at, end, &value);
		if (!(value & QUIRE_ATTRIBUTE_PRIVATE))
			answer = each(ctx, at << QUIRE_PAGE_SHIFT, (stop - at) << QUIRE_PAGE_SHIFT);
	}
	rwlock_read_unlock(&inode->invalidate_lock);
	return answer;
}
