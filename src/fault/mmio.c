/* Addresses without memory: MMIO entries and the vCPU's own note of the last one. */
#include "src/fault/fault.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/tdp/tdp.h"
#include "src/vm/locks.h"

#define GENERATION_MASK ((UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS) - 1)

static bool noted(const struct quire_vcpu *vcpu, gfn_t gfn, u64 generation)
{
	return vcpu->mmio_valid && vcpu->mmio_gfn.v == gfn.v && vcpu->mmio_generation == generation;
}

static void note(struct quire_vcpu *vcpu, gfn_t gfn, u64 generation)
{
	CHECK((generation & ~MEMSLOTS_UPDATING) % vcpu->vm->slots.nr_as == vcpu->as_id);
	CHECK(!guest_mode_is_on(&vcpu->mode));
	vcpu->mmio_gfn = gfn;
	vcpu->mmio_generation = generation;
	/* A finding made during an update is never true later. */
	vcpu->mmio_valid = !(generation & MEMSLOTS_UPDATING);
}

/* The place has changed since; or a bit is set that must not be, which is a bug of ours. */
static int look_at_other(const struct entry_format *f, u64 entry, u32 level)
{
	return BROKEN(entry_is_legal(f, entry, level)) ? -EINVAL : QUIRE_RETRY;
}

static int look_at_entry(struct quire_vcpu *vcpu, gfn_t gfn, u64 generation)
{
	const struct entry_format *f = &vcpu->vm->tdp_format;
	struct table *root = atomic_load_acquire_ptr(&vcpu->vm->roots.valid[vcpu->as_id]);
	u32 level;
	u64 entry;

	if (gfn.v > vcpu->vm->max_gfn.v)
		return FAULT_CONTINUE;
	if (!root || root != vcpu->root)
		return QUIRE_RETRY;
	entry = atomic_load_relaxed_u64(tdp_find(vcpu->vm, root, gfn, &level));
	if (!entry_is_mmio(f, entry))
		return look_at_other(f, entry, level);
	QUIRE_TRACE(check_mmio_spte, generation, entry_mmio_generation(f, entry), entry);
	if (((generation & MEMSLOTS_UPDATING) ||
	     entry_mmio_generation(f, entry) != (generation & GENERATION_MASK)) &&
	    !MUTANT(mmio_generation_unchecked))
		return FAULT_CONTINUE;
	QUIRE_TRACE(handle_mmio_page_fault, gpa_of(gfn).v, gfn.v, 0);
	note(vcpu, gfn, generation);
	return QUIRE_EMULATE;
}

int fault_mmio_entry(struct quire_vcpu *vcpu, gfn_t gfn)
{
	u64 generation;
	int ret;

	locks_assert_none();
	reclaim_enter();
	generation = memslots_generation(vcpu->vm, vcpu->as_id);
	if (noted(vcpu, gfn, generation))
		ret = QUIRE_EMULATE;
	else
		ret = look_at_entry(vcpu, gfn, generation);
	reclaim_leave();
	return ret;
}

int fault_no_slot(struct quire_vcpu *vcpu, const struct fault *fault, const struct found *found)
{
	struct quire_vm *vm = vcpu->vm;
	struct flush_debt debt;

	locks_assert_none();
	note(vcpu, fault->gfn, found->generation);
	if (!vm->mmio_entries || fault->gfn.v > vm->max_gfn.v ||
	    (found->generation & MEMSLOTS_UPDATING))
		return QUIRE_EMULATE;
	flush_debt_init(&debt, &vm->flush);
	biglock_read_lock(&vm->mmu_lock, &vcpu->line);
	reclaim_enter();
	if (vcpu->root == atomic_load_acquire_ptr(&vm->roots.valid[vcpu->as_id]) && vcpu->root &&
	    memslots_generation(vm, vcpu->as_id) == found->generation &&
	    /* The page may have turned private, where nothing is to be emulated. */
	    !invalidation_retry(&vm->invalidation, found->snapshot, fault->gfn) &&
	    tdp_map_mmio(vcpu, vcpu->root, fault->gfn, found->generation & GENERATION_MASK, &debt))
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_mmio_spte_created);
	reclaim_leave();
	biglock_read_unlock(&vm->mmu_lock, &vcpu->line);
	return QUIRE_EMULATE;
}
