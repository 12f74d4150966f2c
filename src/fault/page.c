/* Phase 2 of a fault: the page behind the gfn. */
#include "src/fault/fault.h"

#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/vm/locks.h"

static int find_gmem_page(const struct quire_vm *vm, const struct fault *fault, struct found *found,
			  struct quire_memory_fault *told)
{
	int ret = gmem_lookup_finish(&found->gmem);

	if (ret == -ESTALE)
		return QUIRE_RETRY;
	found->page = (struct quire_page){.pfn = found->gmem.pfn, .writable = 1};
	if (!ret && !entry_holds_page(&vm->tdp_format, &found->page))
		ret = -EFAULT;
	if (ret) {
		fault_describe(fault, told);
		return ret;
	}
	return FAULT_CONTINUE;
}

static u32 page_flags(const struct fault *fault)
{
	u32 flags = QUIRE_PAGE_GUARDED | QUIRE_PAGE_INTERRUPTIBLE;

	if (unlikely(fault->error_code & QUIRE_PFERR_NOWAIT) && !MUTANT(nowait_waits))
		flags = QUIRE_PAGE_GUARDED | QUIRE_PAGE_NOWAIT;
	return (fault->error_code & QUIRE_PFERR_WRITE) ? flags | QUIRE_PAGE_WRITE : flags;
}

/* Can a leaf map the page, and does the host allow this access? A prefault is none. */
static bool is_usable(const struct quire_vm *vm, const struct fault *fault, struct quire_page *page)
{
	if (likely(entry_page_is_ordinary(page)))
		return entry_holds_frame(&vm->tdp_format, page->pfn);
	if (!entry_holds_page(&vm->tdp_format, page))
		return false;
	if (fault->error_code & QUIRE_PFERR_FETCH)
		return !entry_page_refuses_fetch(&vm->tdp_format, page, fault->error_code);
	return !page->noread || fault->prefault;
}

static int find_host_page(struct quire_vcpu *vcpu, const struct fault *fault, struct found *found)
{
	const struct quire_vm *vm = vcpu->vm;
	int ret;

	/* A write to read-only memory is for the client to emulate. */
	if ((fault->error_code & QUIRE_PFERR_WRITE) && (found->slot_flags & QUIRE_SLOT_READONLY))
		return QUIRE_EMULATE;
	ret = vm->host->page_get(vm->host_ctx, found->hva, page_flags(fault), &found->page);
	if (ret == -EROFS)
		return QUIRE_EMULATE;
	/* A flusher's kick ends the wait too; only what the client raised ends the run. */
	if (ret == -EINTR &&
	    !(atomic_load_relaxed_u64(&vcpu->mode.doorbell) >> QUIRE_REQ_CLIENT_SHIFT))
		return QUIRE_RETRY;
	if (!ret && unlikely(!is_usable(vm, fault, &found->page))) {
		if (found->page.refcounted)
			vm->host->page_put(vm->host_ctx, &found->page, QUIRE_PAGE_UNUSED);
		return -EFAULT;
	}
	if (found->slot_flags & QUIRE_SLOT_READONLY)
		found->page.writable = 0;
	return ret;
}

/* The client frees a slot's memory when the slot is gone: that is no fault of the guest's. */
static bool slots_have_changed(const struct quire_vcpu *vcpu, const struct found *found)
{
	bool changed;

	reclaim_enter();
	changed = memslots_generation(vcpu->vm, vcpu->as_id) != found->generation;
	reclaim_leave();
	return changed;
}

int fault_find_page(struct quire_vcpu *vcpu, const struct fault *fault, struct found *found,
		    struct quire_memory_fault *told)
{
	int ret;

	locks_assert_none();
	if (found->from_gmem)
		return find_gmem_page(vcpu->vm, fault, found, told);
	/* Not worth the lookup: it would be thrown away. */
	if (invalidation_retry_hint(&vcpu->vm->invalidation, found->snapshot, fault->gfn))
		return QUIRE_RETRY;
	ret = find_host_page(vcpu, fault, found);
	if (ret < 0 && ret != -EINTR && slots_have_changed(vcpu, found) &&
	    !MUTANT(gone_slot_believed))
		return QUIRE_RETRY;
	/* No memory fault of the guest's: the client hears of a lost page as if it had touched it,
	 * and of one that is waited for if it asked. */
	if (ret == -EHWPOISON || ret == -EAGAIN)
		told->hva = found->hva;
	if (ret == -EAGAIN)
		told->gpa = gpa_of(fault->gfn);
	return ret;
}
