/* Faults of a nested guest: L1's tables, then the slot and the page, then the shadow tables. */
#include <errno.h>

#include "src/fault/fault.h"
#include "src/gfn/log.h"
#include "src/shadow/shadow.h"
#include "src/vm/locks.h"

/* Rounds within one fault: L1's tables are walked, tracked, and walked again. */
#define NESTED_ROUNDS 8u
/* Start over. */
#define NESTED_AGAIN INT32_MIN
/* The same, and the gfn must be unprotected first. */
#define NESTED_PROTECTED (INT32_MIN + 1)

/* A page on the path that must be up to date before it is used there. */
struct lagging {
	bool found;  /* in this round */
	bool synced; /* one has been waited for */
	struct shadow_key key;
};

/* What one round has found. */
struct nested_fault {
	struct fault fault; /* of L1's gfn */
	struct found found;
	struct shadow_walk walk;
	bool protected; /* the gfn was write-tracked */
	struct lagging *lagging;
	struct shadow_group *group; /* around the leaf, when one was put */
};

static bool walk_is_stale(const struct quire_vcpu *vcpu, const struct nested_fault *nested)
{
	const struct quire_vm *vm = vcpu->vm;
	const struct shadow_walk *walk = &nested->walk;

	if (memslots_generation(vm, vcpu->as_id) != nested->found.generation ||
	    invalidation_retry(&vm->invalidation, nested->found.snapshot, nested->fault.gfn))
		return true;
	/* L1's tables are memory too. */
	for (u32 level = walk->top; level >= walk->level; level--)
		if (invalidation_retry(&vm->invalidation, nested->found.snapshot,
				       walk->tables[level]))
			return true;
	return vm->shadow->write_turn != walk->write_turn;
}

/* What both L1 and the slot allow, as large as both allow. */
static struct shadow_mapping compose(const struct quire_vcpu *vcpu,
				     const struct nested_fault *nested, const struct memslot *slot)
    REQUIRES_SHARED(&vcpu->vm->mmu_lock)
{
	const struct shadow_walk *walk = &nested->walk;
	struct tdp_mapping mapping =
	    fault_make_mapping(vcpu->vm, slot, &nested->fault, &nested->found);
	struct entry_leaf leaf = mapping.leaf;

	shadow_limit_leaf(&leaf, walk->leaf_access);
	return (struct shadow_mapping){
	    .walk = walk,
	    .gfn = nested->fault.gfn,
	    .leaf = leaf,
	    .wanted_level = mapping.wanted_level,
	    .write = nested->fault.error_code & QUIRE_PFERR_WRITE,
	    .fetch = nested->fault.error_code & QUIRE_PFERR_FETCH,
	};
}

/* A page is waited for once; one below which tables are written again and again is lost. */
static bool path_lags(const struct shadow_change *change, const struct nested_fault *nested,
		      const struct shadow_path *path)
{
	struct lagging *lagging = nested->lagging;
	struct shadow_page *page =
	    shadow_path_lags(change->shadow, path, &nested->walk, &lagging->key);

	lagging->found = page && !lagging->synced;
	if (page && lagging->synced)
		shadow_page_zap(change, page);
	return page != NULL;
}

static int map_nested(struct quire_vcpu *vcpu, const void *ctx, struct flush_debt *debt)
{
	const struct nested_fault *nested = ctx;
	struct shadow_change change = shadow_change_of(vcpu, debt);
	struct shadow_mapping mapping;
	const struct memslot *slot;
	struct shadow_path path;
	int ret;

	mmu_assert_exclusive(vcpu->vm);
	if (!shadow_has_reserve(vcpu) || walk_is_stale(vcpu, nested))
		return NESTED_AGAIN;
	shadow_make_room(&change, vcpu->shadow.page);
	ret = shadow_path_get(&change, vcpu, &nested->walk, &path);
	fault_protect_fresh(vcpu, &path, debt);
	if (BROKEN(ret >= 0))
		return ret;
	if (ret)
		return NESTED_AGAIN;
	if (path_lags(&change, nested, &path))
		return NESTED_AGAIN;
	slot = memslot_lookup(vcpu->vm, vcpu->as_id, nested->fault.gfn, &vcpu->hint);
	mapping = compose(vcpu, nested, slot);
	mapping.path = &path;
	mapping.group = nested->group;
	ret = shadow_map(&change, &mapping);
	if (ret == QUIRE_FIXED && mapping.leaf.writable)
		dirty_log_mark(vcpu, slot, nested->fault.gfn);
	return ret == QUIRE_WRITE_PROTECTED ? NESTED_PROTECTED : ret;
}

/* Is @gfn one of the tables that map it? Unprotected for the write, the write could not be. */
static bool is_on_path(const struct shadow_walk *walk, gfn_t gfn)
{
	for (u32 level = walk->top; level >= walk->level; level--)
		if (walk->tables[level].v == gfn.v)
			return true;
	return false;
}

/*
 * The write at @gpa is to a table. What shadows the table goes, and the instruction runs again.
 * Where that faults once more, the table may map the instruction itself: fetching it protects the
 * table again, for ever. The hypervisor writes then.
 */
static bool must_write_by_hand(struct quire_vcpu *vcpu, gfn_t gfn, gpa_t gpa)
{
	bool again = vcpu->unprotected_for == gpa.v + 1;

	vcpu->unprotected_for = 0;
	if (!again && fault_unprotect(vcpu, gfn) == UNPROTECTED_ZAPPED)
		vcpu->unprotected_for = gpa.v + 1;
	return again;
}

/* L1 allows the access: find what its gfn is. */
static int find_memory(struct quire_vcpu *vcpu, struct nested_fault *nested,
		       const struct found *before, struct quire_memory_fault *told)
{
	struct fault *fault = &nested->fault;
	int ret;

	fault->gfn = nested->walk.gfn;
	fault->largest = nested->walk.level;
	fault->private = fault_is_private(vcpu, fault->gfn, fault->error_code);
	if ((fault->error_code & QUIRE_PFERR_WRITE) && is_on_path(&nested->walk, fault->gfn))
		return QUIRE_WRITE_PROTECTED;
	/* Writing to one of L1's tables, as a round before has found: what shadows it goes first.
	 */
	if ((fault->error_code & QUIRE_PFERR_WRITE) && nested->protected &&
	    must_write_by_hand(vcpu, fault->gfn, nested->walk.gpa))
		return QUIRE_WRITE_PROTECTED;
	ret = fault_find_slot(vcpu, fault, &nested->found, told);
	if (ret != FAULT_CONTINUE)
		return ret;
	/* The walk came first, and must have seen the same slots and pages. */
	if (nested->found.generation != before->generation)
		return NESTED_AGAIN;
	nested->found.snapshot = before->snapshot;
	if (!nested->found.has_slot)
		return QUIRE_EMULATE;
	if (nested->walk.by_hand && !(nested->found.slot_flags & QUIRE_SLOT_READONLY))
		return QUIRE_WRITE_PROTECTED;
	return fault_find_page(vcpu, fault, &nested->found, told);
}

static int resolve_round(struct quire_vcpu *vcpu, struct nested_fault *nested,
			 struct quire_memory_fault *told)
{
	struct found before = {.snapshot = invalidation_snapshot(&vcpu->vm->invalidation)};
	int ret = shadow_reserve(vcpu);

	before.generation = memslots_generation_of(&vcpu->vm->slots, vcpu->as_id);
	if (ret)
		return ret;
	ret = shadow_walk_guest(vcpu, &nested->walk);
	if (ret == QUIRE_NESTED_FAULT) {
		told->flags = nested->walk.refused;
		told->gpa = nested->walk.gpa;
	}
	if (ret != QUIRE_FIXED)
		return ret;
	ret = find_memory(vcpu, nested, &before, told);
	/* A memory fault names its page already. */
	if (ret == QUIRE_EMULATE || ret == QUIRE_WRITE_PROTECTED || (ret < 0 && !told->size_bytes))
		told->gpa.v = gpa_of(nested->fault.gfn).v + (nested->walk.gpa.v & ~QUIRE_PAGE_MASK);
	return ret == FAULT_CONTINUE ? fault_map_shadow(vcpu, &nested->found, map_nested, nested)
				     : ret;
}

int fault_nested(struct quire_vcpu *vcpu, gpa_t gpa, const struct fault *fault,
		 struct quire_memory_fault *told)
{
	int ret = NESTED_AGAIN;
	struct lagging lagging = {0};
	struct shadow_group group = {0};
	bool protected = false;

	locks_assert_none();
	for (u32 round = 0; round < NESTED_ROUNDS && ret == NESTED_AGAIN; round++) {
		struct nested_fault nested = {
		    .fault = *fault,
		    .walk = {.gpa = gpa, .error_code = fault->error_code & ~QUIRE_PFERR_NOWAIT},
		    .protected = protected,
		    .lagging = &lagging,
		    .group = &group,
		};

		lagging.found = false;
		ret = resolve_round(vcpu, &nested, told);
		if (lagging.found) {
			int err = fault_sync(vcpu, &lagging.key);

			ret = err ? err : ret;
			lagging.synced = true;
		}
		protected = ret == NESTED_PROTECTED;
		if (protected)
			ret = NESTED_AGAIN;
	}
	if (ret == QUIRE_NESTED_FAULT)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_guest);
	if (ret == QUIRE_FIXED)
		fault_neighbours(vcpu, &group);
	return ret == NESTED_AGAIN ? QUIRE_RETRY : ret;
}

int quire_vcpu_walk_nested(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code, gpa_t *result)
{
	struct shadow_walk walk = {.gpa = gpa, .error_code = error_code};
	int ret = QUIRE_RETRY;

	if (!result)
		return -EINVAL;
	for (u32 round = 0; round < NESTED_ROUNDS && ret == QUIRE_RETRY; round++)
		ret = shadow_walk_guest(vcpu, &walk);
	result->v = gpa_of(walk.gfn).v | (gpa.v & ~QUIRE_PAGE_MASK);
	if (ret < 0)
		return ret;
	return ret == QUIRE_FIXED ? 0 : -EFAULT;
}
