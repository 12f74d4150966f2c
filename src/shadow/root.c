/* The VM's shadow MMU: its making and its end; roots, and memory in hand for a fault. */
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

#include <errno.h>

/* What one path and one leaf may take: a header and a parent's descriptor a page, a leaf's. */
#define FAULT_OBJECTS 16u
/* A page and its gfns for each level; rmap and track pages for each table and the leaf. */
#define FAULT_TABLES (2 * SHADOW_ROOT_LEVEL + (SHADOW_ROOT_LEVEL + 1) * SPARSE_DEPTH)

/* The library wrote to guest memory, which may hold L1's tables. */
static void written(struct quire_vm *vm, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	struct flush_debt debt;
	int tracked;

	biglock_read_lock(&vm->mmu_lock, NULL);
	tracked = gfn_track_block(vm, as_id, gfn_of(gpa), 1);
	biglock_read_unlock(&vm->mmu_lock, NULL);
	if (!tracked)
		return;
	flush_debt_init(&debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
	shadow_written(vm, &(struct shadow_write){as_id, gpa, size_bytes}, &debt);
	vm_count(vm, QUIRE_VM_STAT_mmu_pte_write);
	shadow_commit(vm, &debt);
	shadow_unlock(vm);
}

static int make_locked(struct quire_vm *vm)
{
	struct shadow *shadow;
	struct gfn_track *track;

	slots_assert(vm);
	CHECK(!vm->shadow == !vm->track);
	if (vm->shadow)
		return 0;
	shadow = vm_alloc(vm, sizeof(*shadow));
	track = vm_alloc(vm, sizeof(*track));
	if (!shadow || !track) {
		vm_free(vm, shadow, sizeof(*shadow));
		vm_free(vm, track, sizeof(*track));
		return -ENOMEM;
	}
	shadow->vm = vm;
	shadow->slabs.arena = &vm->arena;
	shadow->root_turn = 1;
	track->written = written;
	atomic_store_release_ptr(&vm->track, track);
	atomic_store_release_ptr(&vm->shadow, shadow);
	return 0;
}

int shadow_init(struct quire_vm *vm)
{
	int err;

	locks_assert_none();
	if (shadow_of(vm))
		return 0;
	mutex_lock(&vm->slots_lock);
	err = make_locked(vm);
	mutex_unlock(&vm->slots_lock);
	return err;
}

void shadow_destroy(struct quire_vm *vm)
{
	struct shadow *shadow = vm->shadow;

	locks_assert_none();
	if (!shadow)
		return;
	CHECK(!shadow->pages && !shadow->newest && !shadow->zapped);
	CHECK(!shadow->unsync_pages && !shadow->orphans && !vm->track->pages);
	table_cache_drain(&shadow->split_pages, &vm->arena);
	table_cache_drain(&shadow->split_rmaps, &vm->arena);
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		for (u32 level = 0; level < ARRAY_LEN(shadow->rmaps[as]); level++)
			sparse_free(&shadow->rmaps[as][level], &vm->arena);
		sparse_free(&vm->track->counts[as], &vm->arena);
	}
	object_slabs_free(&shadow->slabs);
	vm_free(vm, vm->track, sizeof(*vm->track));
	vm_free(vm, shadow, sizeof(*shadow));
	vm->track = NULL;
	vm->shadow = NULL;
}

int shadow_reserve_apart(struct quire_vcpu *vcpu, struct object_cache *objects)
{
	int err = table_cache_fill(&vcpu->tables, &vcpu->vm->arena, FAULT_TABLES);

	locks_assert_none();
	CHECK(err || vcpu->tables.count >= FAULT_TABLES);
	return err ? err : object_cache_fill(objects, &shadow_of(vcpu->vm)->slabs, FAULT_OBJECTS);
}

int shadow_reserve(struct quire_vcpu *vcpu)
{
	struct quire_vm *vm = vcpu->vm;
	struct shadow *shadow = shadow_of(vm);
	struct object_cache more = {0};
	int err;

	locks_assert_none();
	if (atomic_load_relaxed_u32(&shadow->pool.count) >= FAULT_OBJECTS)
		return table_cache_fill(&vcpu->tables, &vm->arena, FAULT_TABLES);
	err = shadow_reserve_apart(vcpu, &more);
	biglock_write_lock(&vm->mmu_lock);
	object_cache_move(&shadow->pool, &more);
	shadow_unlock(vm);
	return err;
}

struct shadow_change shadow_change_of(struct quire_vcpu *vcpu, struct flush_debt *debt)
{
	struct shadow *shadow = shadow_of(vcpu->vm);

	return (struct shadow_change){
	    .vm = vcpu->vm,
	    .shadow = shadow,
	    .debt = debt,
	    .headers = &shadow->pool,
	    .descriptors = &shadow->pool,
	    .pages = &vcpu->tables,
	    .rmaps = &vcpu->tables,
	};
}

int shadow_has_reserve(const struct quire_vcpu *vcpu)
{
	mmu_assert_exclusive(vcpu->vm);
	return shadow_of(vcpu->vm)->pool.count >= FAULT_OBJECTS &&
	       vcpu->tables.count >= FAULT_TABLES;
}
