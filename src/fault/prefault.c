/* Populating mappings on the client's request, without a guest access. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/fault/fault.h"
#include "src/gmem/privacy.h"
#include "src/shadow/shadow.h"
#include "src/tdp/tdp.h"
#include "src/vm/locks.h"

/* The level of the leaf for @gfn in the TDP tables. It may have gone by now: 4K then, since a hole
 * says nothing about what was mapped. */
static u32 mapped_level_tdp(struct quire_vcpu *vcpu, gfn_t gfn)
{
	const struct entry_format *f = &vcpu->vm->tdp_format;
	u64 entry = f->nonpresent;
	u32 level = QUIRE_LEVEL_4K;
	struct table *root;

	reclaim_enter();
	root = atomic_load_acquire_ptr(&vcpu->vm->roots.valid[vcpu->as_id]);
	if (root)
		entry = atomic_load_relaxed_u64(tdp_find(vcpu->vm, root, gfn, &level));
	if (!entry_is_present(f, entry) && !MUTANT(hole_counted))
		level = QUIRE_LEVEL_4K;
	reclaim_leave();
	return level;
}

/* And in the direct shadow pages. */
static u32 mapped_level_shadow(struct quire_vcpu *vcpu, gfn_t gfn)
{
	u32 level = QUIRE_LEVEL_4K;

	biglock_read_lock(&vcpu->vm->mmu_lock, &vcpu->line);
	if (shadow_root_is_valid(vcpu))
		level = shadow_level_at(vcpu->vm, vcpu->shadow.page, gfn);
	biglock_read_unlock(&vcpu->vm->mmu_lock, &vcpu->line);
	return level;
}

/* Bytes from @gpa to the end of the mapping that now covers it. */
static u64 mapped_bytes(struct quire_vcpu *vcpu, gpa_t gpa)
{
	u32 level = vm_is_shadowed(vcpu->vm) ? mapped_level_shadow(vcpu, gfn_of(gpa))
					     : mapped_level_tdp(vcpu, gfn_of(gpa));
	u64 bytes = QUIRE_PAGE_SIZE;

	if (level <= QUIRE_LEVEL_1G)
		bytes = level_pages((enum quire_level)level) << QUIRE_PAGE_SHIFT;
	return bytes - (gpa.v & (bytes - 1));
}

/* The root may be replaced at any time while the vCPU is not in guest mode. */
static int load_prefault_root(struct quire_vcpu *vcpu)
{
	locks_assert_none();
	CHECK(!guest_mode_is_on(&vcpu->mode));
	if (vm_is_shadowed(vcpu->vm))
		return shadow_root_is_valid(vcpu) ? 0 : fault_load_shadow_root(vcpu);
	vcpu->root = tdp_root_get(vcpu->vm, &vcpu->tables, vcpu->as_id);
	return vcpu->root ? 0 : -ENOMEM;
}

static bool gfn_is_private(struct quire_vcpu *vcpu, gfn_t gfn)
{
	u64 attributes;

	reclaim_enter();
	attributes = privacy_of_gfn(vcpu->vm, vcpu->as_id, gfn);
	reclaim_leave();
	return attributes & QUIRE_ATTRIBUTE_PRIVATE;
}

/* One attempt: what fault_resolve() says, or -errno. */
static int prefault_once(struct quire_vcpu *vcpu, struct fault *fault)
{
	struct quire_memory_fault told = {0};
	int ret;

	vcpu->lost_page = (hva_t){0};
	if (vm_is_dead(vcpu->vm))
		return -EIO;
	/* A gpa means L2's then, and its tables are L1's to fill. */
	if (vcpu->nested.on)
		return -EOPNOTSUPP;
	ret = load_prefault_root(vcpu);
	if (ret)
		return ret;
	fault->private = gfn_is_private(vcpu, fault->gfn);
	ret = fault_resolve(vcpu, fault, &told);
	vcpu->lost_page = told.hva;
	return ret;
}

hva_t quire_vcpu_lost_page(const struct quire_vcpu *vcpu)
{
	return vcpu->lost_page;
}

void quire_vcpu_page_ready(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code)
{
	struct fault fault = {
	    .gfn = gfn_of(gpa),
	    /* USER: which mode's, of a fetch. */
	    .error_code = error_code & (QUIRE_PFERR_WRITE | QUIRE_PFERR_FETCH | QUIRE_PFERR_USER),
	    .prefault = true,
	};

	/* A private page is never waited for: the gfn was converted meanwhile. */
	if (gfn_is_private(vcpu, fault.gfn))
		return;
	if (prefault_once(vcpu, &fault) == QUIRE_FIXED)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_fixed);
}

int quire_vcpu_prefault(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t size_bytes,
			uint64_t *done_bytes)
{
	struct fault fault = {.gfn = gfn_of(gpa), .prefault = true};
	int ret;

	if (!done_bytes)
		return -EINVAL;
	ret = prefault_once(vcpu, &fault);
	for (unsigned int turn = 0; ret == QUIRE_RETRY; turn++) {
		if (atomic_load_relaxed_u64(&vcpu->mode.doorbell) >> QUIRE_REQ_CLIENT_SHIFT)
			return -EINTR;
		/* The thread that is in the way may need the processor. */
		base_platform->relax(turn);
		ret = prefault_once(vcpu, &fault);
	}
	if (ret < 0)
		return ret;
	if (ret == QUIRE_EMULATE)
		return -ENOENT;
	*done_bytes = min_u64(size_bytes, mapped_bytes(vcpu, gpa));
	return 0;
}
