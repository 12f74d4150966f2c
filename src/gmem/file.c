/* guest_memfd: files of an inode, from their creation or link to their release. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/gmem/block.h"
#include "src/gmem/gmem.h"
#include "src/vm/locks.h"
#include "src/vm/vm.h"

uint64_t quire_gmem_supported_flags(const struct quire_vm *vm)
{
	uint64_t flags = QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED | QUIRE_GMEM_WRITE;

	/* Where huge pages are to be reshaped, the host copies them, which confidential hardware
	 * does not allow. */
	if (vm->host->store_create_huge &&
	    !(vm->config.confidential && vm->config.gmem_in_place_conversion))
		flags |= QUIRE_GMEM_HUGETLB;

	/* Where memory can be private, the host must not see it before it is made shared; nor write
	 * it by a call that does not ask what it is. */
	if (vm_has_private_mem(vm))
		flags &= ~(uint64_t)QUIRE_GMEM_WRITE;
	if (vm_has_private_mem(vm) && !vm->config.gmem_in_place_conversion)
		flags &= ~(uint64_t)QUIRE_GMEM_INIT_SHARED;
	return flags;
}

/* The order of the file's huge pages; 0: it has none. */
static unsigned int huge_order(uint64_t flags)
{
	return flags & QUIRE_GMEM_HUGETLB
		   ? (unsigned int)(flags >> QUIRE_GMEM_HUGE_SHIFT) - QUIRE_PAGE_SHIFT
		   : 0;
}

/* Are they flags that the VM takes? */
static bool flags_are_known(const struct quire_vm *vm, uint64_t flags)
{
	uint64_t plain = flags & ((UINT64_C(1) << QUIRE_GMEM_HUGE_SHIFT) - 1);
	unsigned int order = huge_order(flags);

	if (!(flags & QUIRE_GMEM_HUGETLB))
		plain = flags;
	else if (flags & QUIRE_GMEM_INIT_SHARED)
		return false; /* its pages would all be small */
	else if (order != GMEM_BLOCK_ORDER && order != GMEM_GIGANTIC_ORDER)
		return false;
	return !(plain & ~quire_gmem_supported_flags(vm));
}

uint64_t quire_gmem_size_bytes(const struct quire_gmem *gmem)
{
	return gmem->inode->size_bytes;
}

uint64_t quire_gmem_flags(const struct quire_gmem *gmem)
{
	return gmem->inode->flags;
}

void *quire_gmem_store(const struct quire_gmem *gmem)
{
	return gmem->inode->pages.store;
}

static bool huge_pages_wanted(const struct quire_vm *vm)
{
	return atomic_load_relaxed_u32(&vm->tunables->gmem_huge_pages);
}

/* What the pages are at first. */
static int attributes_begin(struct quire_vm *vm, struct gmem_inode *inode)
{
	const struct ptree_item all = {0, inode->pages.npages,
				       (void *)(uintptr_t)QUIRE_ATTRIBUTE_PRIVATE};
	struct range_map_change change;
	int error;

	if (!inode->owns_attributes || gmem_init_shared(inode))
		return 0;
	error = range_map_prepare(&inode->attributes, vm->host, vm->host_ctx, &all, &change);
	if (error)
		return error;
	range_map_commit(&inode->attributes, &change);
	range_map_finish(&change);
	return 0;
}

static void inode_free(struct gmem_inode *inode)
{
	const struct quire_host_ops *host = inode->pages.host;
	void *host_ctx = inode->pages.host_ctx;

	gmem_pages_destroy(&inode->pages);
	range_map_destroy(&inode->attributes, host, host_ctx);
	host->free(host_ctx, inode, sizeof(*inode));
}

static struct gmem_inode *inode_create(struct quire_vm *vm, uint64_t size_bytes, uint64_t flags)
{
	struct gmem_inode *inode = vm_alloc(vm, sizeof(*inode));

	CHECK(size_bytes && is_aligned_u64(size_bytes, QUIRE_PAGE_SIZE));
	if (!inode)
		return NULL;
	inode->size_bytes = size_bytes;
	inode->flags = flags;
	inode->arch = vm->gmem_arch;
	inode->owns_attributes = vm->config.gmem_in_place_conversion;
	inode->refs = 1;
	rwlock_init(&inode->invalidate_lock, RANK_GMEM_INVALIDATE);
	mutex_init(&inode->pins_lock, RANK_GMEM_PINS);
	gmem_pages_init(&inode->pages, vm->host, vm->host_ctx, size_bytes >> QUIRE_PAGE_SHIFT);
	inode->pages.huge_order = huge_order(flags);
	inode->pages.max_order = inode->pages.huge_order;
	if (!inode->pages.huge_order && huge_pages_wanted(vm))
		inode->pages.max_order = GMEM_GIGANTIC_ORDER;
	CHECK(!inode->arch || inode->arch->ops);
	if (attributes_begin(vm, inode)) {
		inode_free(inode);
		return NULL;
	}
	return inode;
}

static struct quire_gmem *file_create(struct quire_vm *vm, struct gmem_inode *inode)
{
	struct quire_gmem *file = vm_alloc(vm, sizeof(*file));

	locks_assert_none();
	CHECK(atomic_load_relaxed_u32(&inode->refs));
	if (!file)
		return NULL;
	if (!MUTANT(file_unheld))
		quire_vm_get(vm);
	file->vm = vm;
	file->inode = inode;
	file->active = 1;
	return file;
}

static void file_free(struct quire_gmem *file)
{
	struct quire_vm *vm = file->vm;

	vm_free(vm, file, sizeof(*file));
	if (!MUTANT(file_unheld))
		quire_vm_put(vm);
}

static int store_begin(const struct quire_vm *vm, struct gmem_inode *inode, void *cookie)
{
	struct gmem_pages *pages = &inode->pages;

	if (pages->huge_order)
		return vm->host->store_create_huge(vm->host_ctx, cookie, inode->size_bytes,
						   pages->huge_order, &pages->store);
	return vm->host->store_create(vm->host_ctx, cookie, inode->size_bytes, &pages->store);
}

int quire_gmem_create(struct quire_vm *vm, uint64_t size_bytes, uint64_t flags, void *cookie,
		      struct quire_gmem **gmem)
{
	struct gmem_inode *inode;
	struct quire_gmem *file;
	int error;

	if (!gmem)
		return -EINVAL;
	if (!flags_are_known(vm, flags))
		return -EINVAL;
	if ((int64_t)size_bytes <= 0 ||
	    !is_aligned_u64(size_bytes, QUIRE_PAGE_SIZE << huge_order(flags)))
		return -EINVAL;
	inode = inode_create(vm, size_bytes, flags);
	if (!inode)
		return -ENOMEM;
	file = file_create(vm, inode);
	error = file ? store_begin(vm, inode, cookie) : -ENOMEM;
	if (error)
		goto free_inode;
	inode->files = file;
	CHECK(inode->refs == 1 && file->active == 1);
	CHECK(file->inode == inode && !file->next);
	*gmem = file;
	return 0;

free_inode:
	if (file)
		file_free(file);
	inode_free(inode);
	return error;
}

/*
 * From the second file on the pages are no VM's. Lookups on their way ask gmem_arch() under
 * punch_lock shared: what they did before it was taken here is undone, and later ones do nothing.
 */
static void inode_give_up(struct gmem_inode *inode)
{
	const struct gmem_arch *arch = inode->arch;

	gmem_assert_exclusive(inode);
	if (atomic_load_relaxed_u32(&inode->linked))
		return;
	CHECK(inode->files && !inode->files->next);
	atomic_store_relaxed_u32(&inode->linked, 1);
	if (arch && arch->ops->make_shared && !MUTANT(link_unfreed))
		gmem_pages_make_shared(&inode->pages, 0, inode->pages.npages,
				       &(struct gmem_frames){arch->ops->make_shared, arch->ctx});
}

static bool is_linkable(const struct quire_gmem *gmem, const struct quire_vm *vm)
{
	const struct quire_vm_config *own = &gmem->vm->config, *other = &vm->config;

	return gmem->vm != vm && own->host == other->host && !own->confidential &&
	       !other->confidential &&
	       !own->gmem_in_place_conversion == !other->gmem_in_place_conversion &&
	       flags_are_known(vm, gmem->inode->flags);
}

int quire_gmem_link(struct quire_gmem *gmem, struct quire_vm *vm, struct quire_gmem **linked)
{
	struct gmem_inode *inode = gmem->inode;
	struct quire_gmem *file;

	if (!linked)
		return -EINVAL;
	if (!is_linkable(gmem, vm))
		return -EINVAL;
	file = file_create(vm, inode);
	if (!file)
		return -ENOMEM;
	/* Relaxed: @gmem keeps the inode. */
	atomic_add_relaxed_u32(&inode->refs, 1);
	rwlock_write_lock(&inode->invalidate_lock);
	CHECK(inode->files && inode->files->inode == inode);
	inode_give_up(inode);
	CHECK(!gmem_arch(inode));
	file->next = inode->files;
	inode->files = file;
	rwlock_write_unlock(&inode->invalidate_lock);
	*linked = file;
	return 0;
}

int gmem_file_get(struct quire_gmem *file)
{
	u32 seen = atomic_load_relaxed_u32(&file->active);

	CHECK(base_self()->nesting);
	CHECK(seen);
	while (!(seen & GMEM_RELEASED)) {
		if (atomic_cmpxchg_relaxed_u32(&file->active, &seen, seen + 1))
			return 1;
	}
	return 0;
}

/* The last file is gone, and with it the pages. */
static void inode_put(struct gmem_inode *inode)
{
	const struct gmem_pages *pages = &inode->pages;

	CHECK(atomic_load_relaxed_u32(&inode->refs));
	if (atomic_fetch_sub_u32(&inode->refs, 1) != 1)
		return;
	CHECK(!inode->files);
	gmem_punch_pages(inode, 0, pages->npages);
	pages->host->store_destroy(pages->host_ctx, pages->store);
	inode_free(inode);
}

/* The last reference, of the release or of a lookup that outlived it, frees the file. */
void gmem_file_put(struct quire_gmem *file)
{
	CHECK(atomic_load_relaxed_u32(&file->active) & ~GMEM_RELEASED);
	CHECK(!base_self()->held_count && !base_self()->nesting);
	if (atomic_fetch_sub_u32(&file->active, 1) != (GMEM_RELEASED | 1))
		return;
	inode_put(file->inode);
	file_free(file);
}

void gmem_release_begin(struct quire_gmem *gmem)
{
	struct ptree_cursor cursor;
	struct ptree_item item;

	CHECK(lock_is_held(&gmem->vm->slots_lock, LOCK_EXCLUSIVE));
	CHECK(lock_is_held(&gmem->inode->invalidate_lock, LOCK_EXCLUSIVE));
	CHECK(!(atomic_load_relaxed_u32(&gmem->active) & GMEM_RELEASED));
	atomic_fetch_or_relaxed_u32(&gmem->active, GMEM_RELEASED);
	ptree_for_overlap(&gmem->bindings, 0, UINT64_MAX, &cursor, &item)
	{
		struct memslot *slot = item.value;

		CHECK(slot->gmem.file == gmem && slot->gmem.pgoff == item.key);
		atomic_store_relaxed_ptr(&slot->gmem.file, NULL);
	}
}

void gmem_release_end(struct quire_gmem *gmem)
{
	struct quire_gmem **link = &gmem->inode->files;

	CHECK(lock_is_held(&gmem->vm->slots_lock, LOCK_EXCLUSIVE));
	CHECK(lock_is_held(&gmem->inode->invalidate_lock, LOCK_EXCLUSIVE));
	CHECK(atomic_load_relaxed_u32(&gmem->active) & GMEM_RELEASED);
	while (*link != gmem)
		link = &(*link)->next;
	*link = gmem->next;
	/* A late lookup may look for its slot, which can be freed from now on. */
	gmem->dying = gmem->bindings;
	atomic_store_release_ptr(&gmem->bindings.root, NULL);
}

void gmem_release_free(struct quire_gmem *gmem)
{
	CHECK(!base_self()->nesting && !base_self()->held_count);
	CHECK(!gmem->bindings.root);
	/* A reader may have found the file through a slot just before it was cleared. */
	reclaim_synchronize();
	ptree_destroy(&gmem->dying, gmem->vm->host, gmem->vm->host_ctx);
	gmem_file_put(gmem);
}
