/* guest_memfd: a fault's way to a page, and what becomes of pages together. */
#include "src/gmem/gmem.h"

#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/gmem/privacy.h"
#include "src/vm/vm.h"

void gmem_punch_pages(struct gmem_inode *inode, u64 first, u64 npages)
{
	const struct gmem_arch *arch = gmem_arch(inode);
	struct gmem_frames reclaim = {0};

	CHECK(lock_is_held(&inode->invalidate_lock, LOCK_EXCLUSIVE) || !inode->files);
	if (arch)
		reclaim = (struct gmem_frames){arch->ops->reclaim, arch->ctx};
	gmem_pages_punch(&inode->pages, first, npages, reclaim.tell ? &reclaim : NULL);
}

void gmem_invalidate_private(const struct gmem_inode *inode, u64 first, u64 npages)
{
	const struct gmem_arch *arch = gmem_arch(inode);

	if (arch && arch->ops->invalidate)
		gmem_pages_tell(&inode->pages, first, npages,
				&(struct gmem_frames){arch->ops->invalidate, arch->ctx});
}

void gmem_unbind_private(struct gmem_inode *inode, u64 first, u64 npages)
{
	const struct gmem_arch *arch = gmem_arch(inode);

	if (arch && arch->ops->invalidate)
		gmem_pages_tell_settled(&inode->pages, first, npages,
					&(struct gmem_frames){arch->ops->invalidate, arch->ctx});
}

void gmem_make_range_shared(struct gmem_inode *inode, u64 first, u64 npages)
{
	const struct gmem_arch *arch = gmem_arch(inode);

	if (arch && arch->ops->make_shared)
		gmem_pages_make_shared(&inode->pages, first, npages,
				       &(struct gmem_frames){arch->ops->make_shared, arch->ctx});
}

void gmem_make_shared(const struct memslot *slot, gfn_t gfn, u64 npages)
{
	struct quire_gmem *file = slot->gmem.file;

	CHECK(gfn.v >= slot->base_gfn.v && gfn.v + npages <= memslot_end(slot).v);
	if (file)
		gmem_make_range_shared(file->inode, memslot_gmem_index(slot, gfn), npages);
}

void gmem_poison_page(struct gmem_inode *inode, u64 index)
{
	CHECK(lock_is_held(&inode->invalidate_lock, LOCK_SHARED));
	gmem_page_poison(&inode->pages, index);
}

int quire_gmem_allocate(struct quire_gmem *gmem, uint64_t offset_bytes, uint64_t size_bytes,
			int (*interrupted)(void))
{
	struct gmem_inode *inode = gmem->inode;
	u64 index = offset_bytes >> QUIRE_PAGE_SHIFT;
	u64 end = index + (size_bytes >> QUIRE_PAGE_SHIFT);
	struct gmem_page page;
	int error = 0;

	if (!is_aligned_u64(offset_bytes | size_bytes, QUIRE_PAGE_SIZE))
		return -EINVAL;
	if (size_bytes > inode->size_bytes || offset_bytes > inode->size_bytes - size_bytes)
		return -EINVAL;
	rwlock_read_lock(&inode->invalidate_lock);
	for (; index < end && !error; index++) {
		gmem_page_read(&inode->pages, index, &page);
		if (interrupted && interrupted())
			error = -EINTR;
		else if (!(page.state & (GMEM_PAGE_EXISTS | GMEM_PAGE_POISONED)))
			error = gmem_page_create(&inode->pages, index, &page);
		/* A lost page is there, and stays as it is. */
		if (error == -EHWPOISON)
			error = 0;
	}
	rwlock_read_unlock(&inode->invalidate_lock);
	return error;
}

/* Must the page be made private, or shared, before it is used so? */
static bool needs_preparing(const struct gmem_inode *inode, enum gmem_access access)
{
	const struct gmem_arch *arch = gmem_arch(inode);

	if (!arch)
		return false;
	return access == GMEM_PRIVATE ? arch->ops->make_private != NULL
				      : arch->ops->make_shared != NULL;
}

/*
 * Are all of [gfn, gfn + npages), which @slot shows, private, or all shared, as @access has it? In
 * a read section.
 */
static bool attributes_agree(const struct quire_gmem *file, const struct memslot *slot,
			     enum gmem_access access, gfn_t gfn, u64 npages)
{
	const struct gmem_arch *arch = gmem_arch(file->inode);
	u64 value;

	/* Without the hook, conversions mean nothing to what is private. */
	if (!vm_has_private_mem(file->vm) || !arch || !arch->ops->make_shared)
		return true;
	return privacy_uniform(file->vm, slot, gfn, npages, &value) &&
	       (access == GMEM_PRIVATE) == ((value & QUIRE_ATTRIBUTE_PRIVATE) != 0);
}

static bool order_fits(const struct memslot *slot, const struct quire_gmem *file,
		       const struct gmem_lookup *lookup, unsigned int order)
{
	u64 unit = UINT64_C(1) << order;
	u64 first = round_down_u64(lookup->index, unit), pgoff = slot->gmem.pgoff;

	if (!is_aligned_u64(lookup->gfn.v - lookup->index, unit))
		return false;
	if (first < pgoff || first + unit > pgoff + slot->npages)
		return false;
	return attributes_agree(file, slot, lookup->access,
				(gfn_t){round_down_u64(lookup->gfn.v, unit)}, unit);
}

int gmem_is_split(const struct gmem_inode *inode, u64 index)
{
	u64 unit = UINT64_C(1) << inode->pages.huge_order, first = round_down_u64(index, unit);
	u64 value;

	if (!inode->pages.huge_order || !inode->owns_attributes)
		return 0;
	return !range_map_uniform(&inode->attributes, first, first + unit, &value) ||
	       !(value & QUIRE_ATTRIBUTE_PRIVATE);
}

/*
 * Largest order at which file and guest agree: aligned alike, all of it in the slot, and used
 * alike.
 */
static unsigned int slot_order(const struct memslot *slot, const struct quire_gmem *file,
			       const struct gmem_lookup *lookup)
{
	unsigned int order = GMEM_GIGANTIC_ORDER;

	if (gmem_is_split(file->inode, lookup->index))
		return 0;
	while (order && !order_fits(slot, file, lookup, order))
		order -= QUIRE_TABLE_BITS;
	return order;
}

/* I-10 for one page, as far as a reader can tell. */
static int check_binding(const struct memslot *slot, const struct quire_gmem *file, u64 index)
{
	struct ptree_item item;
	struct ptree bindings;

	for (;;) {
		bindings = ptree_of(atomic_load_acquire_ptr(&file->bindings.root));
		if (ptree_floor(&bindings, index, &item) && item.value == slot) {
			CHECK(index < item.end);
			return 0;
		}
		/* Unbind and release clear the pointer first: then it is no contradiction. The
		 * acquire load: before the next look at the root. */
		if (atomic_load_acquire_ptr(&slot->gmem.file) != file)
			return -EFAULT;
		/* Nor is it one where an unbinding was undone meanwhile, which sets it last. */
		if (atomic_load_relaxed_ptr(&file->bindings.root) == bindings.root)
			return -EIO;
	}
}

static void lookup_result(struct gmem_lookup *lookup, const struct gmem_page *page)
{
	lookup->pfn = page->pfn;
	lookup->order = page->order < lookup->max_order ? page->order : lookup->max_order;
	lookup->found = 1;
}

/* Has the unit of @page been made private, and is it still, at the lookup's gfn; or shared? */
static bool found_prepared(const struct gmem_lookup *lookup, const struct gmem_inode *inode,
			   const struct gmem_page *page)
{
	const struct gmem_arch *arch = gmem_arch(inode);
	u64 inside = lookup->index & ((UINT64_C(1) << page->order) - 1);

	if (lookup->access == GMEM_SHARED)
		return !gmem_unit_any(&inode->pages, lookup->index, page->order,
				      GMEM_PAGE_PREPARED);
	if (!gmem_unit_has(&inode->pages, lookup->index, page->order, GMEM_PAGE_PREPARED))
		return false;
	return !arch || !arch->ops->is_private ||
	       arch->ops->is_private(arch->ctx, (gfn_t){lookup->gfn.v - inside},
				     (pfn_t){page->pfn.v - inside}, page->order);
}

/* The page may be in use already: a few loads tell. */
static int lookup_fast(struct gmem_lookup *lookup, const struct gmem_inode *inode)
{
	/* A page that was reshaped is up to date, and has no frame yet. */
	const u32 usable = GMEM_PAGE_EXISTS | GMEM_PAGE_UP_TO_DATE;
	struct gmem_page page;

	gmem_page_read(&inode->pages, lookup->index, &page);
	if (page.state & GMEM_PAGE_POISONED)
		return -EHWPOISON;
	if (page.order > lookup->max_order)
		page.order = lookup->max_order;
	/* Its place was read after this state: a page that is made meanwhile has another. */
	if ((page.state & usable) != usable)
		return 0;
	/* The neighbours may be new, though the page is not. */
	if (!gmem_unit_has(&inode->pages, lookup->index, page.order, usable))
		return 0;
	if (needs_preparing(inode, lookup->access) && !found_prepared(lookup, inode, &page))
		return 0;
	lookup_result(lookup, &page);
	return 0;
}

int gmem_lookup_begin(const struct memslot *slot, gfn_t gfn, enum gmem_access access,
		      struct gmem_lookup *lookup)
{
	struct quire_gmem *file = atomic_load_relaxed_ptr(&slot->gmem.file);
	u64 index = memslot_gmem_index(slot, gfn);
	int error;

	*lookup = (struct gmem_lookup){.access = access, .gfn = gfn, .index = index};
	if (!file || gmem_file_is_released(file))
		return -EFAULT;
	error = check_binding(slot, file, index);
	if (error)
		return error;
	lookup->max_order = slot_order(slot, file, lookup);
	error = lookup_fast(lookup, file->inode);
	if (error || lookup->found)
		return error;
	if (!gmem_file_get(file))
		return -EFAULT;
	lookup->file = file;
	return 0;
}

/* Gfn of page @index for the lookup. */
static gfn_t gfn_of_index(const struct gmem_lookup *lookup, u64 index)
{
	return (gfn_t){lookup->gfn.v - lookup->index + index};
}

/*
 * Under punch_lock shared: does the file still show the @npages from page @index where the lookup
 * saw them, and private or shared as it saw them? It may have waited while its slot went and the
 * page was bound elsewhere, or while it was converted: then it changes nothing, least of all a page
 * that is private at its new gfn. As long as the answer is yes, gmem_unbind_commit() and
 * gmem_make_shared() come after this and find what it did.
 */
static bool still_shown(const struct gmem_lookup *lookup, u64 index, u64 npages)
{
	const struct quire_gmem *file = lookup->file;
	gfn_t gfn = gfn_of_index(lookup, index);
	struct ptree_item item;
	struct ptree bindings;
	bool shown;

	reclaim_enter();
	bindings = ptree_of(atomic_load_acquire_ptr(&file->bindings.root));
	shown = ptree_floor(&bindings, index, &item) && index + npages <= item.end &&
		((const struct memslot *)item.value)->base_gfn.v + (index - item.key) == gfn.v &&
		attributes_agree(file, item.value, lookup->access, gfn, npages);
	reclaim_leave();
	return shown;
}

static int make_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	const struct gmem_lookup *lookup = ctx;
	const struct gmem_arch *arch = gmem_arch(lookup->file->inode);

	if (!still_shown(lookup, index, UINT64_C(1) << order) && !MUTANT(claim_unchecked))
		return -ESTALE;
	if (!arch)
		return 0;
	return arch->ops->make_private(arch->ctx, gfn_of_index(lookup, index), pfn, order);
}

static int make_shared(void *ctx, u64 index, pfn_t pfn)
{
	const struct gmem_lookup *lookup = ctx;
	const struct gmem_arch *arch = gmem_arch(lookup->file->inode);

	if (!still_shown(lookup, index, 1))
		return -ESTALE;
	if (arch)
		arch->ops->make_shared(arch->ctx, pfn, 1);
	return 0;
}

static int is_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	const struct gmem_lookup *lookup = ctx;
	const struct gmem_arch *arch = gmem_arch(lookup->file->inode);

	return !arch || arch->ops->is_private(arch->ctx, gfn_of_index(lookup, index), pfn, order);
}

static struct gmem_prepare prepare_for(struct gmem_lookup *lookup)
{
	const struct gmem_arch *arch = gmem_arch(lookup->file->inode);
	unsigned int order = lookup->max_order ? QUIRE_TABLE_BITS : 0;

	if (lookup->access == GMEM_SHARED)
		return (struct gmem_prepare){
		    .make_shared = make_shared, .ctx = lookup, .order = order};
	return (struct gmem_prepare){
	    .make_private = make_private,
	    .is_private = arch && arch->ops->is_private ? is_private : NULL,
	    .ctx = lookup,
	    .order = order,
	};
}

/* A copy() on its way to gmem_page_fill(). */
struct page_write {
	int (*copy)(void *ctx, pfn_t pfn);
	void *ctx;
};

static s64 write_page(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	const struct page_write *write = ctx;
	int error = write->copy(write->ctx, pfn);

	(void)index;
	(void)order;
	return error ? error : 1;
}

int quire_gmem_write(struct quire_gmem *gmem, uint64_t offset_bytes,
		     int (*copy)(void *ctx, pfn_t pfn), void *ctx)
{
	struct page_write write = {copy, ctx};
	const struct gmem_filler filler = {.fill = write_page, .ctx = &write};
	struct gmem_inode *inode = gmem->inode;
	s64 done;

	if (!copy)
		return -EINVAL;
	if (!(inode->flags & QUIRE_GMEM_WRITE))
		return -ENODEV;
	if (!is_aligned_u64(offset_bytes, QUIRE_PAGE_SIZE) || offset_bytes >= inode->size_bytes)
		return -EINVAL;
	rwlock_read_lock(&inode->invalidate_lock);
	done = gmem_page_fill(&inode->pages, offset_bytes >> QUIRE_PAGE_SHIFT, NULL, &filler);
	rwlock_read_unlock(&inode->invalidate_lock);
	return done < 0 ? (int)done : 0;
}

/* Filling takes frames that no VM owns yet. */
static int claim_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	const struct gmem_lookup *lookup = ctx;
	const struct gmem_arch *arch = gmem_arch(lookup->file->inode);

	/* The invalidate lock is held since needs_preparing() found it. */
	CHECK(arch && arch->ops->make_private);
	if (!arch->ops->claim)
		return make_private(ctx, index, pfn, order);
	return arch->ops->claim(arch->ctx, gfn_of_index(lookup, index), pfn, order);
}

static int unclaim_private(void *ctx, u64 index, pfn_t pfn)
{
	const struct gmem_lookup *lookup = ctx;
	const struct gmem_arch *arch = gmem_arch(lookup->file->inode);

	(void)index;
	CHECK(arch && arch->ops->make_private);
	if (arch->ops->make_shared)
		arch->ops->make_shared(arch->ctx, pfn, 1);
	else if (arch->ops->reclaim)
		arch->ops->reclaim(arch->ctx, pfn, 1);
	return 0;
}

/* Of a unit that is all of one kind. */
static unsigned int fill_order(const struct memslot *slot, const struct quire_gmem *file,
			       const struct gmem_lookup *lookup)
{
	u64 value;

	if (slot_order(slot, file, lookup) < QUIRE_TABLE_BITS)
		return 0;
	return privacy_uniform(file->vm, slot, lookup->gfn, QUIRE_TABLE_ENTRIES, &value)
		   ? QUIRE_TABLE_BITS
		   : 0;
}

s64 gmem_fill_unit(const struct memslot *slot, gfn_t gfn, const struct gmem_filler *filler)
{
	struct quire_gmem *file = slot->gmem.file;
	struct gmem_lookup lookup = {
	    .access = GMEM_PRIVATE,
	    .file = file,
	    .gfn = gfn,
	    .index = memslot_gmem_index(slot, gfn),
	};
	const struct gmem_prepare claim = {
	    .make_private = claim_private, .make_shared = unclaim_private, .ctx = &lookup};
	struct gmem_filler fitting = *filler;
	s64 done = -EINVAL;

	/* The slot forgets its file under slots_lock: until then the file stays. */
	if (!file)
		return -EFAULT;
	rwlock_write_lock(&file->inode->invalidate_lock);
	if (fitting.max_order)
		fitting.max_order = fill_order(slot, file, &lookup);
	if (privacy_get(file->vm, slot, gfn) & QUIRE_ATTRIBUTE_PRIVATE)
		done = gmem_page_fill(&file->inode->pages, lookup.index,
				      needs_preparing(file->inode, GMEM_PRIVATE) ? &claim : NULL,
				      &fitting);
	rwlock_write_unlock(&file->inode->invalidate_lock);
	return done;
}

/* Can all of the unit of 1 GiB around @page be mapped at once? Its other blocks are brought into
 * use for that; where one refuses, the page's own block will do. */
static void finish_gigantic(struct gmem_lookup *lookup, const struct gmem_prepare *prepare,
			    struct gmem_page *page)
{
	u64 pages = UINT64_C(1) << GMEM_GIGANTIC_ORDER;
	u64 first = round_down_u64(lookup->index, pages);
	struct gmem_inode *inode = lookup->file->inode;
	struct gmem_page other = *page;

	for (u64 at = first; at < first + pages && other.order == GMEM_GIGANTIC_ORDER;
	     at += GMEM_BLOCK_PAGES)
		if (gmem_page_use(&inode->pages, at, prepare, &other))
			other.order = 0;
	if (other.order != GMEM_GIGANTIC_ORDER)
		page->order = QUIRE_TABLE_BITS;
}

int gmem_lookup_finish(struct gmem_lookup *lookup)
{
	const struct gmem_prepare *needed = NULL;
	struct gmem_prepare prepare;
	struct gmem_inode *inode;
	struct gmem_page page;
	int error;

	if (lookup->found)
		return 0;
	inode = lookup->file->inode;
	prepare = prepare_for(lookup);
	if (needs_preparing(inode, lookup->access))
		needed = &prepare;
	error = gmem_page_use(&inode->pages, lookup->index, needed, &page);
	if (!error && page.order > QUIRE_TABLE_BITS && lookup->max_order > QUIRE_TABLE_BITS)
		finish_gigantic(lookup, needed, &page);
	if (!error)
		lookup_result(lookup, &page);
	gmem_file_put(lookup->file);
	lookup->file = NULL;
	return error;
}
