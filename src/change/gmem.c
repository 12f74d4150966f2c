/* Pages of a guest_memfd go away: punched, poisoned, or released with the last descriptor. */
#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/change/change.h"
#include "src/vm/locks.h"
#include "src/vm/vcpu.h"

static bool file_shows(const struct gmem_invalidation *inv, const struct quire_gmem *file)
{
	struct gmem_binding_iter iter;
	struct gmem_binding binding;

	if (inv->only && file != inv->only)
		return false;
	gmem_for_binding(inv->inode, inv->first, inv->npages, &iter, &binding)
	{
		if (binding.file == file)
			return true;
	}
	return false;
}

/* Under the mmu_lock of the file's VM. */
static void zap_file(const struct gmem_invalidation *inv, const struct quire_gmem *file,
		     struct flush_debt *debt)
{
	struct gmem_binding_iter iter;
	struct gmem_binding binding;

	mmu_assert_exclusive(file->vm);
	gmem_for_binding(inv->inode, inv->first, inv->npages, &iter, &binding)
	{
		gfn_t end = {binding.gfn.v + binding.npages};

		if (binding.file != file)
			continue;
		CHECK(binding.npages && end.v <= memslot_end(binding.slot).v);
		invalidation_add_range(file->vm, binding.gfn, end);
		change_zap_range(file->vm, 1u << binding.slot->as_id, binding.gfn, end, debt);
	}
}

/* A file has one VM, whose lock and sequence cover all its bindings. */
static void begin_file(const struct gmem_invalidation *inv, const struct quire_gmem *file)
{
	struct quire_vm *vm = file->vm;
	struct flush_debt debt;

	if (!file_shows(inv, file))
		return;
	gmem_assert_invalidate(inv->inode);
	change_lock(vm, &debt);
	invalidation_begin(vm);
	zap_file(inv, file, &debt);
	gmem_invalidate_private(inv->inode, inv->first, inv->npages);
	change_pay_unlock(vm, &debt, MUTANT(punch_unflushed), MUTANT(punch_late));
	tdp_debt_settle(vm, &debt);
}

void change_gmem_begin(const struct gmem_invalidation *inv)
{
	gmem_assert_invalidate(inv->inode);
	for (struct quire_gmem *file = inv->inode->files; file; file = file->next) {
		if (!MUTANT(punch_one_file) || file == inv->inode->files)
			begin_file(inv, file);
	}
}

void change_gmem_end(const struct gmem_invalidation *inv)
{
	gmem_assert_invalidate(inv->inode);
	for (struct quire_gmem *file = inv->inode->files; file; file = file->next) {
		if (file_shows(inv, file) && !MUTANT(punch_unended) &&
		    (!MUTANT(punch_one_file) || file == inv->inode->files))
			change_end_invalidation(file->vm);
	}
}

int quire_gmem_punch(struct quire_gmem *gmem, uint64_t offset_bytes, uint64_t size_bytes)
{
	struct gmem_inode *inode = gmem->inode;
	struct gmem_invalidation inv = {
	    .inode = inode,
	    .first = offset_bytes >> QUIRE_PAGE_SHIFT,
	};

	if (!is_aligned_u64(offset_bytes | size_bytes, QUIRE_PAGE_SIZE))
		return -EINVAL;
	if (offset_bytes >= inode->size_bytes)
		return 0;
	size_bytes = min_u64(size_bytes, inode->size_bytes - offset_bytes);
	inv.npages = size_bytes >> QUIRE_PAGE_SHIFT;
	if (!inv.npages)
		return 0;
	rwlock_write_lock(&inode->invalidate_lock);
	change_gmem_begin(&inv);
	gmem_punch_pages(inode, inv.first, inv.npages);
	change_gmem_end(&inv);
	rwlock_write_unlock(&inode->invalidate_lock);
	return 0;
}

static void poison_locked(struct gmem_inode *inode, u64 index)
{
	struct gmem_invalidation inv = {.inode = inode, .first = index, .npages = 1};

	change_gmem_begin(&inv);
	gmem_poison_page(inode, index);
	change_gmem_end(&inv);
}

void quire_gmem_poison(struct quire_gmem *gmem, uint64_t index)
{
	struct gmem_inode *inode = gmem->inode;

	if (index >= inode->size_bytes >> QUIRE_PAGE_SHIFT)
		return;
	rwlock_read_lock(&inode->invalidate_lock);
	poison_locked(inode, index);
	rwlock_read_unlock(&inode->invalidate_lock);
}

static bool host_lost(const struct gmem_pages *pages, pfn_t pfn)
{
	return !pages->host->frame_lost || pages->host->frame_lost(pages->host_ctx, pfn);
}

/*
 * News of a failure travel, and the page may be punched and made again meanwhile, at the same
 * frame. So the host is asked where no punch can come in between.
 */
static int lose_frame_of(struct quire_gmem *gmem, pfn_t pfn)
{
	struct gmem_inode *inode = gmem->inode;
	const struct gmem_pages *pages = &inode->pages;
	bool early = MUTANT(loss_asked_early) && host_lost(pages, pfn);
	int lost;
	u64 index;

	rwlock_read_lock(&inode->invalidate_lock);
	lost = gmem_pages_find(pages, pfn, &index) && (early || host_lost(pages, pfn));
	if (lost)
		poison_locked(inode, index);
	rwlock_read_unlock(&inode->invalidate_lock);
	return lost;
}

/* The slot's file cannot be released: that takes slots_lock. */
static int lose_frame_in_slots(struct quire_vm *vm, u32 as_id, pfn_t pfn)
{
	const struct memslot *slot;
	struct memslot_iter iter;

	memslot_for_gfn(slot, vm, as_id, (gfn_t){0}, (gfn_t){UINT64_MAX}, &iter)
	{
		struct quire_gmem *file = slot->gmem.file;

		if (file && lose_frame_of(file, pfn))
			return 1;
	}
	return 0;
}

int quire_vm_lose_frame(struct quire_vm *vm, pfn_t pfn)
{
	int found = 0;

	mutex_lock(&vm->slots_lock);
	for (u32 as_id = 0; as_id < vm->address_spaces && !found; as_id++)
		found = lose_frame_in_slots(vm, as_id, pfn);
	mutex_unlock(&vm->slots_lock);
	return found;
}

int quire_vcpu_lose_frame(struct quire_vcpu *vcpu, pfn_t pfn)
{
	return quire_vm_lose_frame(vcpu->vm, pfn);
}

void quire_gmem_release(struct quire_gmem *gmem)
{
	struct quire_vm *vm = gmem->vm;
	struct gmem_inode *inode = gmem->inode;
	struct gmem_invalidation inv = {
	    .inode = inode,
	    .only = gmem,
	    .npages = inode->size_bytes >> QUIRE_PAGE_SHIFT,
	};

	mutex_lock(&vm->slots_lock);
	rwlock_write_lock(&inode->invalidate_lock);
	gmem_release_begin(gmem);
	change_gmem_begin(&inv);
	change_gmem_end(&inv);
	gmem_release_end(gmem);
	rwlock_write_unlock(&inode->invalidate_lock);
	mutex_unlock(&vm->slots_lock);
	gmem_release_free(gmem);
}
