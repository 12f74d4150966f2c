/* Which nested tables and which address space a vCPU has, and the roots that it loaded. */
#include <errno.h>

#include "src/shadow/shadow.h"
#include "src/vm/locks.h"

/* same_tables() compares each field. Not memcmp(), of which compilers make bcmp(), which a
 * freestanding program has not. */
_Static_assert(sizeof(struct quire_nested) == sizeof(gpa_t) + 8 * sizeof(u32) + 4 * sizeof(u64),
	       "a field more is to be compared");

static bool same_tables(const struct vcpu_nested *a, const struct vcpu_nested *b)
{
	const struct quire_nested *x = &a->tables, *y = &b->tables;

	return a->on == b->on && x->root.v == y->root.v && x->levels == y->levels &&
	       x->nx == y->nx && x->paging == y->paging && x->wp == y->wp && x->smap == y->smap &&
	       x->smep == y->smep && x->pse == y->pse && x->zero == y->zero &&
	       x->directories[0] == y->directories[0] && x->directories[1] == y->directories[1] &&
	       x->directories[2] == y->directories[2] && x->directories[3] == y->directories[3];
}

/* Keep the loaded root: VMRUN and #VMEXIT take turns, and come back to the same tables. */
static void keep_root(struct quire_vcpu *vcpu)
{
	struct vcpu_previous_root *kept;

	if (!vcpu->shadow.page)
		return;
	CHECK(vcpu->nested.on || vm_is_shadowed(vcpu->vm));
	CHECK(vcpu->shadow.entries && vcpu->shadow.turn);
	kept = &vcpu->previous[vcpu->previous_next++ % VCPU_PREVIOUS_ROOTS];
	*kept = (struct vcpu_previous_root){
	    .nested = vcpu->nested, .as_id = vcpu->as_id, .shadow = vcpu->shadow};
}

/*
 * The root of vcpu->nested, when it was loaded before. Whether it is valid still is asked at each
 * entry, as of any that is loaded; pages below it may lag.
 */
static void recall_root(struct quire_vcpu *vcpu)
{
	CHECK(!vcpu->shadow.page);
	for (u32 i = 0; i < VCPU_PREVIOUS_ROOTS; i++) {
		struct vcpu_previous_root *kept = &vcpu->previous[i];

		if (!kept->shadow.page || kept->as_id != vcpu->as_id ||
		    !same_tables(&kept->nested, &vcpu->nested))
			continue;
		CHECK(kept->shadow.entries && kept->shadow.turn);
		vcpu->shadow = kept->shadow;
		vcpu->shadow.lags = 1;
		kept->shadow.page = NULL;
		return;
	}
}

int quire_vcpu_set_nested(struct quire_vcpu *vcpu, const struct quire_nested *nested)
{
	const struct quire_host_ops *host = vcpu->vm->host;
	int err;

	locks_assert_none();
	CHECK(!guest_mode_is_on(&vcpu->mode));
	keep_root(vcpu);
	vcpu->nested = (struct vcpu_nested){0};
	vcpu->shadow = (struct vcpu_shadow_root){0};
	if (!nested) {
		recall_root(vcpu);
		return 0;
	}
	/* The TDP tables know nothing of linear addresses. */
	if (nested->paging && !vm_is_shadowed(vcpu->vm))
		return -EOPNOTSUPP;
	/* L1 is a guest of x86; shadow pages know one mode that executes. */
	if (!vm_is_shadowed(vcpu->vm) &&
	    (!vcpu->vm->tdp_format.table_rights || vcpu->vm->tdp_format.executable_user))
		return -EOPNOTSUPP;
	if (nested->levels < 2 || nested->levels > SHADOW_LEVEL_MAX || !host->load_u64 ||
	    !host->cmpxchg_u64)
		return -EOPNOTSUPP;
	err = shadow_init(vcpu->vm);
	if (err)
		return err;
	vcpu->nested.tables = *nested;
	vcpu->nested.tables.root.v &= ENTRY_ADDRESS_MASK;
	vcpu->nested.on = 1;
	recall_root(vcpu);
	return 0;
}

/*
 * Each space has a root of its own, so the one that is loaded is kept and the new space's looked
 * for. No fault is under way: the thread that faults is this one.
 */
int quire_vcpu_set_address_space(struct quire_vcpu *vcpu, uint32_t address_space)
{
	locks_assert_none();
	CHECK(!guest_mode_is_on(&vcpu->mode));
	if (address_space >= vcpu->vm->address_spaces)
		return -EINVAL;
	if (address_space == vcpu->as_id)
		return 0;
	/* This thread takes it, on the way into guest mode. First: a check that comes meanwhile
	 * finds the old space, or this. */
	atomic_fetch_or_relaxed_u64(&vcpu->mode.doorbell, QUIRE_REQ_TLB_FLUSH);
	keep_root(vcpu);
	vcpu->shadow = (struct vcpu_shadow_root){0};
	vcpu->as_id = address_space;
	vcpu->root = NULL;
	recall_root(vcpu);
	return 0;
}

/* The next entry brings the shadow pages that lag up to date, before it drops the TLB. */
void quire_vcpu_flush_nested(struct quire_vcpu *vcpu)
{
	CHECK(!guest_mode_is_on(&vcpu->mode));
	vcpu->shadow.lags = 1;
	atomic_fetch_or_relaxed_u64(&vcpu->mode.doorbell, QUIRE_REQ_TLB_FLUSH);
}
