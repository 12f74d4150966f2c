/* guest_memfd: which slot shows which pages of which file. */
#include <errno.h>

#include "src/base/reclaim.h"
#include "src/gmem/gmem.h"
#include "src/vm/locks.h"
#include "src/vm/vm.h"

int gmem_bind_prepare(struct memslot *slot, struct quire_vm *vm, struct quire_gmem *gmem,
		      u64 offset_bytes)
{
	u64 size_bytes = slot->npages << QUIRE_PAGE_SHIFT;
	u64 limit = gmem->inode->size_bytes;

	if (gmem->vm != vm)
		return -EINVAL;
	if (size_bytes > limit || offset_bytes > limit - size_bytes)
		return -EINVAL;
	CHECK(lock_is_held(&vm->slots_lock, LOCK_EXCLUSIVE));
	CHECK(!slot->gmem.file && is_aligned_u64(offset_bytes, QUIRE_PAGE_SIZE));
	slot->gmem.file = gmem;
	slot->gmem.pgoff = offset_bytes >> QUIRE_PAGE_SHIFT;
	if ((gmem->inode->flags & QUIRE_GMEM_MMAP) || vm->config.gmem_in_place_conversion)
		slot->flags |= MEMSLOT_GMEM_ONLY;
	return 0;
}

static void change_init(struct gmem_binding_change *change, struct memslot *slot)
{
	struct quire_gmem *file = slot->gmem.file;

	*change = (struct gmem_binding_change){.file = file, .slot = slot};
	if (!file)
		return;
	change->before = file->bindings;
	change->after = file->bindings;
	ptree_edit_init(&change->edit, file->vm->host, file->vm->host_ctx);
}

/* Show @bindings. The slot points at the file as long as there is something to find there. */
static void publish_bindings(const struct gmem_binding_change *change, const struct ptree *bindings,
			     struct quire_gmem *pointer)
{
	struct quire_gmem *file = change->file;

	slots_assert(file->vm);
	CHECK(!pointer || pointer == file);
	CHECK(!bindings->root == !bindings->count);
	rwlock_write_lock(&file->inode->invalidate_lock);
	/* check_binding() loads the root and the pointer in turns: the pointer is cleared first,
	 * and set last. */
	if (!pointer)
		atomic_store_relaxed_ptr(&change->slot->gmem.file, NULL);
	file->bindings.count = bindings->count;
	atomic_store_release_ptr(&file->bindings.root, bindings->root);
	atomic_store_release_ptr(&change->slot->gmem.file, pointer);
	rwlock_write_unlock(&file->inode->invalidate_lock);
}

int gmem_bind_commit(struct memslot *slot, struct gmem_binding_change *change)
{
	struct ptree_item item = {slot->gmem.pgoff, slot->gmem.pgoff + slot->npages, slot};
	struct ptree_cursor cursor;
	struct ptree_item there;
	int error;

	change_init(change, slot);
	CHECK(change->file && slot->npages);
	change->bind = 1;
	/* slots_lock keeps the bindings as they are; the invalidate lock is for punches. */
	if (ptree_overlap_first(&change->before, item.key, item.end, &cursor, &there))
		return -EEXIST;
	error = ptree_insert(&change->after, &item, &change->edit);
	if (error) {
		ptree_edit_abort(&change->edit);
		return error;
	}
	ptree_edit_seal(&change->edit);
	CHECK(change->after.count == change->before.count + 1);
	publish_bindings(change, &change->after, change->file);
	change->published = 1;
	return 0;
}

int gmem_unbind_prepare(struct memslot *slot, struct gmem_binding_change *change)
{
	int error;

	change_init(change, slot);
	if (!change->file)
		return 0;
	error = ptree_remove(&change->after, slot->gmem.pgoff, &change->edit);
	if (error) {
		ptree_edit_abort(&change->edit);
		return error;
	}
	ptree_edit_seal(&change->edit);
	return 0;
}

void gmem_unbind_commit(struct gmem_binding_change *change)
{
	if (!change->file)
		return;
	CHECK(!change->bind && !change->published);
	publish_bindings(change, &change->after, NULL);
	change->published = 1;
	CHECK(!change->slot->gmem.file);
	gmem_unbind_private(change->file->inode, change->slot->gmem.pgoff, change->slot->npages);
}

void gmem_binding_undo(struct gmem_binding_change *change)
{
	if (!change->file)
		return;
	if (change->published) {
		publish_bindings(change, &change->before, change->bind ? NULL : change->file);
		reclaim_synchronize();
	}
	ptree_edit_abort(&change->edit);
	change->file = NULL;
}

void gmem_binding_finish(struct gmem_binding_change *change)
{
	if (!change->file)
		return;
	CHECK(change->published);
	reclaim_synchronize();
	ptree_edit_free_replaced(&change->edit);
	change->file = NULL;
}

/* From file to file, until one has a binding in the range. */
static int binding_in_files(struct gmem_binding_iter *iter, struct ptree_item *item)
{
	for (; iter->file; iter->file = iter->file->next) {
		if (ptree_overlap_first(&iter->file->bindings, iter->first, iter->end,
					&iter->cursor, item))
			return 1;
	}
	return 0;
}

static void binding_fill(const struct gmem_binding_iter *iter, const struct ptree_item *item,
			 struct gmem_binding *binding)
{
	u64 first = max_u64(iter->first, item->key);
	u64 end = min_u64(iter->end, item->end);

	binding->file = iter->file;
	binding->slot = item->value;
	binding->gfn.v = binding->slot->base_gfn.v + (first - item->key);
	binding->npages = end - first;
}

int gmem_binding_first(const struct gmem_inode *inode, u64 first, u64 npages,
		       struct gmem_binding_iter *iter, struct gmem_binding *binding)
{
	struct ptree_item item;

	iter->file = inode->files;
	iter->first = first;
	iter->end = npages > UINT64_MAX - first ? UINT64_MAX : first + npages;
	if (!binding_in_files(iter, &item))
		return 0;
	binding_fill(iter, &item, binding);
	return 1;
}

int gmem_binding_next(struct gmem_binding_iter *iter, struct gmem_binding *binding)
{
	struct ptree_item item;

	if (!ptree_overlap_next(&iter->cursor, &item)) {
		if (!iter->file)
			return 0;
		iter->file = iter->file->next;
		if (!binding_in_files(iter, &item))
			return 0;
	}
	binding_fill(iter, &item, binding);
	return 1;
}
