/* Phase 3 of a fault: under mmu_lock, the mapping, if nothing has changed since the lookup. */
#include "src/fault/fault.h"

#include "src/base/mutant.h"
#include "src/gfn/level.h"
#include "src/gfn/log.h"
#include "src/gfn/track.h"
#include "src/vm/locks.h"

/* Has anything that phases 1 and 2 relied on changed? After a no, the slot is still published. */
static bool is_stale(const struct quire_vcpu *vcpu, const struct fault *fault,
		     const struct found *found)
{
	const struct quire_vm *vm = vcpu->vm;

	if (!vcpu->root || (vcpu->root != atomic_load_acquire_ptr(&vm->roots.valid[vcpu->as_id]) &&
			    !MUTANT(root_unchecked)))
		return true;
	if (memslots_generation_of(&vm->slots, vcpu->as_id) != found->generation &&
	    !MUTANT(generation_unchecked))
		return true;
	return invalidation_retry(&vm->invalidation, found->snapshot, fault->gfn);
}

static enum quire_level backing_level(const struct quire_vm *vm, const struct found *found,
				      enum quire_level max)
{
	if (max == QUIRE_LEVEL_4K)
		return max;
	if (found->from_gmem) {
		enum quire_level level = level_of_order(found->gmem.order);

		return level < max ? level : max;
	}
	return vm->host->page_level(vm->host_ctx, found->hva, max);
}

/* Smaller until no page of the mapping is being changed. */
static enum quire_level settled_level(const struct quire_vm *vm, gfn_t gfn, enum quire_level level)
{
	for (; level > QUIRE_LEVEL_4K && !MUTANT(block_unchecked); level--) {
		u64 pages = level_pages(level), block = round_down_u64(gfn.v, pages);

		if (!invalidation_touches(&vm->invalidation, (gfn_t){block},
					  (gfn_t){block + pages}))
			break;
	}
	return level;
}

/*
 * As large as is of use, and as the backing, slot, attributes and invalidations in progress allow.
 * The backing first: it knows more often than the others that the answer is 4K.
 */
static enum quire_level mapping_level(const struct quire_vm *vm, const struct memslot *slot,
				      const struct fault *fault, const struct found *found)
    REQUIRES_SHARED(&vm->mmu_lock)
{
	enum quire_level level = gfn_level_of_flags(slot);

	if (fault->largest && level > fault->largest)
		level = (enum quire_level)fault->largest;
	level = backing_level(vm, found, level);
	if (likely(level == QUIRE_LEVEL_4K))
		return level;
	level = gfn_level_max(vm, slot, fault->gfn, level);
	return settled_level(vm, fault->gfn, level);
}

/* A leaf of a page that is not ordinary allows less. */
static __attribute__((noinline)) void limit_leaf(const struct entry_format *f,
						 const struct quire_page *page,
						 struct entry_leaf *leaf)
{
	CHECK(page->pfn.v >= leaf->pfn.v);
	leaf->executable =
	    leaf->executable && (entry_page_is_executable(f, page) || MUTANT(noexec_unseen));
	leaf->lacks = MUTANT(noread_unseen) ? 0 : entry_page_lacks(f, page);
	leaf->memtype = page->memtype;
}

struct tdp_mapping fault_make_mapping(const struct quire_vm *vm, const struct memslot *slot,
				      const struct fault *fault, const struct found *found)
{
	enum quire_level wanted = mapping_level(vm, slot, fault, found), level;
	u64 offset = fault->gfn.v & (level_pages(wanted) - 1);
	bool writable = found->page.writable, nx = nx_is_on(vm);
	/* The guest has not written it: a logged page gets W with the first write. */
	bool withhold = fault->prefault && (slot->flags & QUIRE_SLOT_LOG_DIRTY);
	bool tracked = gfn_track_is_used(vm) && gfn_is_tracked(vm, slot->as_id, fault->gfn);
	struct tdp_mapping mapping;

	mmu_assert_shared(vm);
	/* Frame and gfn must be co-aligned; a host that says huge and is not gets 4K. */
	if ((found->page.pfn.v & (level_pages(wanted) - 1)) != offset)
		wanted = QUIRE_LEVEL_4K;
	/* The workaround gives execution to what it cuts: what may not have it is never huge, nor
	 * what has nothing else. */
	if (nx && (found->page.noexec || found->page.noread))
		wanted = QUIRE_LEVEL_4K;
	/* What is huge is not executable while the workaround is on, so a fetch gets 4K. */
	level = nx && (fault->error_code & QUIRE_PFERR_FETCH) ? QUIRE_LEVEL_4K : wanted;
	offset = fault->gfn.v & (level_pages(level) - 1);
	mapping = (struct tdp_mapping){
	    .gfn = fault->gfn,
	    .leaf = {.pfn = {found->page.pfn.v - offset},
		     .level = level,
		     .writable = writable && !withhold && !tracked,
		     .host_writable = writable,
		     .mmu_writable = writable && !tracked,
		     .executable = level == QUIRE_LEVEL_4K || !nx,
		     .memtype = QUIRE_MEMTYPE_WB,
		     .accessed = !fault->prefault},
	    .wanted_level = wanted,
	    .error_code = fault->error_code,
	    .prefault = fault->prefault,
	};
	if (unlikely(!entry_page_is_ordinary(&found->page)))
		limit_leaf(&vm->tdp_format, &found->page, &mapping.leaf);
	return mapping;
}

/* Of a generation that was just compared with the published one. */
static const struct memslot *published_slot(struct quire_vcpu *vcpu, gfn_t gfn)
{
	const struct quire_vm *vm = vcpu->vm;

	if (likely(memslot_hint_holds(&vm->slots, vcpu->as_id, &vcpu->hint, gfn)))
		return vcpu->hint.slot;
	return memslot_lookup(vm, vcpu->as_id, gfn, &vcpu->hint);
}

static int install_locked(struct quire_vcpu *vcpu, const struct fault *fault,
			  const struct found *found, struct flush_debt *debt)
{
	struct quire_vm *vm = vcpu->vm;
	const struct memslot *slot;
	struct tdp_mapping mapping;
	int ret;

	mmu_assert_shared(vm);
	if (is_stale(vcpu, fault, found))
		return QUIRE_RETRY;
	slot = published_slot(vcpu, fault->gfn);
	CHECK(fault->gfn.v >= slot->base_gfn.v && fault->gfn.v < memslot_end(slot).v);
	mapping = fault_make_mapping(vm, slot, fault, found);
	ret = tdp_map(vcpu, vcpu->root, &mapping, debt);
	/* The mark comes with the right to write, not with the write (U-139b). */
	if (ret == QUIRE_FIXED && mapping.leaf.writable)
		dirty_log_mark(vcpu, slot, fault->gfn);
	return ret;
}

int fault_install(struct quire_vcpu *vcpu, const struct fault *fault, const struct found *found)
{
	struct quire_vm *vm = vcpu->vm;
	enum quire_page_use use = QUIRE_PAGE_UNUSED;
	struct quire_thread *self;
	struct flush_debt debt;
	int ret;

	locks_assert_none();
	flush_debt_init(&debt, &vm->flush);
	self = biglock_read_enter(&vm->mmu_lock, &vcpu->line);
	ret = install_locked(vcpu, fault, found, &debt);
	if (ret != QUIRE_RETRY)
		use = found->page.writable ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_ACCESSED;
	if (found->page.refcounted)
		vm->host->page_put(vm->host_ctx, &found->page, use);
	biglock_read_exit(&vm->mmu_lock, &vcpu->line, self);
	CHECK(debt.owed || !debt.tables);
	if (unlikely(debt.owed))
		tdp_debt_settle(vm, &debt);
	return ret;
}
