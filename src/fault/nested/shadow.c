/* Shadow tables in the fault path: loading a root, mapping under the lock, direct mappings. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/fault/fault.h"
#include "src/gfn/log.h"
#include "src/shadow/shadow.h"
#include "src/vm/locks.h"

void fault_protect_fresh(struct quire_vcpu *vcpu, const struct shadow_path *path,
			 struct flush_debt *debt)
{
	mmu_assert_exclusive(vcpu->vm);
	for (u32 i = 0; i < path->count; i++)
		tdp_zap_range(vcpu->vm, 1u << vcpu->as_id, path->fresh[i],
			      (gfn_t){path->fresh[i].v + 1}, debt);
}

static int load_shadow_root_locked(struct quire_vcpu *vcpu, struct flush_debt *debt)
{
	struct shadow_change change = shadow_change_of(vcpu, debt);
	struct shadow_path path;
	int ret;

	mmu_assert_exclusive(vcpu->vm);
	/* What was loaded is not valid, and must not look so if this fails. */
	vcpu->shadow.page = NULL;
	shadow_make_room(&change, NULL);
	ret = shadow_root_get(&change, vcpu, &path);
	fault_protect_fresh(vcpu, &path, debt);
	/* The reserve was there in this hold of the lock, and is enough. */
	if (BROKEN(ret >= 0))
		return ret;
	vcpu->shadow.page = path.pages[path.root_level];
	vcpu->shadow.entries = table_entries(vcpu->shadow.page->table);
	vcpu->shadow.level = path.root_level;
	CHECK(vcpu->shadow.page->table->level == path.root_level);
	CHECK(role_as(vcpu->shadow.page->role) == vcpu->as_id);
	/* Another vCPU may have let pages below it lag. */
	vcpu->shadow.lags = 1;
	return 0;
}

static int load_shadow_root(struct quire_vcpu *vcpu)
{
	struct quire_vm *vm = vcpu->vm;
	struct flush_debt debt;
	struct object_cache objects = {0};
	int ret = shadow_init(vm);

	if (ret)
		return ret;
	change_lock(vm, &debt);
	if (!shadow_has_reserve(vcpu)) {
		change_flush_unlock(vm);
		/* Used in the hold that they come in: no other vCPU can take them, again and again.
		 * Where the pool has enough, more would make it longer with each root. */
		ret = shadow_reserve_apart(vcpu, &objects);
		biglock_write_lock(&vm->mmu_lock);
		object_cache_move(&vm->shadow->pool, &objects);
	}
	if (!ret)
		ret = load_shadow_root_locked(vcpu, &debt);
	shadow_commit(vm, &debt);
	CHECK(!vm->shadow->root_gone);
	CHECK(ret || vcpu->shadow.page->generation == vm->mmu_valid_gen);
	vcpu->shadow.turn = atomic_load_relaxed_u64(&vm->shadow->root_turn);
	change_settle_unlock(vm, &debt);
	return ret;
}

int fault_load_shadow_root(struct quire_vcpu *vcpu)
{
	int err = shadow_root_is_valid(vcpu) ? 0 : load_shadow_root(vcpu);

	locks_assert_none();
	/* One that was just loaded lags, and for a valid one nothing else brings the caller here.
	 */
	CHECK(err || vcpu->shadow.lags);
	if (!err && shadow_any_unsync(vcpu->vm) && !MUTANT(root_unsynced))
		err = fault_sync(vcpu, NULL);
	if (!err)
		vcpu->shadow.lags = 0;
	CHECK(err || vcpu->shadow.page);
	return err;
}

int fault_map_shadow(struct quire_vcpu *vcpu, const struct found *found, fault_map_fn *map,
		     const void *ctx)
{
	struct quire_vm *vm = vcpu->vm;
	const struct quire_page *page = &found->page;
	enum quire_page_use use = QUIRE_PAGE_UNUSED;
	struct flush_debt debt;
	int ret;

	locks_assert_none();
	change_lock(vm, &debt);
	reclaim_enter();
	ret = map(vcpu, ctx, &debt);
	if (ret > 0 && ret != QUIRE_RETRY)
		use = page->writable ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_ACCESSED;
	if (page->refcounted)
		vm->host->page_put(vm->host_ctx, page, use);
	reclaim_leave();
	change_settle_unlock(vm, &debt);
	return ret;
}

struct direct_fault {
	const struct fault *fault;
	const struct found *found;
	struct shadow_group *group;
};

static int map_direct(struct quire_vcpu *vcpu, const void *ctx, struct flush_debt *debt)
{
	const struct direct_fault *direct = ctx;
	const struct fault *fault = direct->fault;
	struct shadow_change change = shadow_change_of(vcpu, debt);
	struct shadow_walk walk = {.gpa = gpa_of(fault->gfn)};
	struct shadow_mapping mapping = {.walk = &walk,
					 .gfn = fault->gfn,
					 .write = fault->error_code & QUIRE_PFERR_WRITE,
					 .fetch = fault->error_code & QUIRE_PFERR_FETCH};
	struct tdp_mapping found;
	const struct memslot *slot;
	struct shadow_path path;
	int ret;

	mmu_assert_exclusive(vcpu->vm);
	if (!shadow_has_reserve(vcpu) || !shadow_root_is_valid(vcpu) ||
	    memslots_generation(vcpu->vm, vcpu->as_id) != direct->found->generation ||
	    invalidation_retry(&vcpu->vm->invalidation, direct->found->snapshot, fault->gfn))
		return QUIRE_RETRY;
	shadow_make_room(&change, vcpu->shadow.page);
	ret = shadow_path_direct(&change, vcpu->as_id, &walk, &path);
	if (BROKEN(!ret))
		return ret;
	slot = memslot_lookup(vcpu->vm, vcpu->as_id, fault->gfn, &vcpu->hint);
	found = fault_make_mapping(vcpu->vm, slot, fault, direct->found);
	mapping.leaf = found.leaf;
	mapping.wanted_level = found.wanted_level;
	mapping.path = &path;
	mapping.group = direct->group;
	ret = shadow_map(&change, &mapping);
	if (ret == QUIRE_FIXED && mapping.leaf.writable)
		dirty_log_mark(vcpu, slot, fault->gfn);
	return ret;
}

int fault_install_direct(struct quire_vcpu *vcpu, const struct fault *fault,
			 const struct found *found)
{
	struct shadow_group group = {0};
	struct direct_fault direct = {.fault = fault, .found = found, .group = &group};
	int ret = fault_map_shadow(vcpu, found, map_direct, &direct);

	locks_assert_none();
	if (ret == QUIRE_FIXED)
		fault_neighbours(vcpu, &group);
	return ret;
}
