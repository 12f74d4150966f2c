/* The invalidation sequence. */
#include "src/vm/invalidate.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/vm/locks.h"
#include "src/vm/vm.h"

void invalidation_init(struct invalidation *invalidation)
{
	mutex_init(&invalidation->lock, RANK_INVALIDATE);
}

void invalidation_begin(struct quire_vm *vm)
{
	struct invalidation *inv = &vm->invalidation;

	mmu_assert_exclusive(vm);
	if (inv->in_progress == 0) {
		atomic_store_relaxed_u64(&inv->start, UINT64_MAX);
		atomic_store_relaxed_u64(&inv->end, 0);
	}
	/* Without an order: what it says is acted on under mmu_lock alone. */
	atomic_store_relaxed_u32(&inv->in_progress, inv->in_progress + 1);
	CHECK(inv->in_progress);
}

void invalidation_add_range(struct quire_vm *vm, gfn_t start, gfn_t end)
{
	struct invalidation *inv = &vm->invalidation;

	mmu_assert_exclusive(vm);
	CHECK(inv->in_progress);
	CHECK(start.v < end.v);
	atomic_store_relaxed_u64(&inv->start, min_u64(inv->start, start.v));
	atomic_store_relaxed_u64(&inv->end, max_u64(inv->end, end.v));
}

void invalidation_end(struct quire_vm *vm)
{
	struct invalidation *inv = &vm->invalidation;

	mmu_assert_exclusive(vm);
	/* I-12. */
	if (BROKEN(inv->in_progress > 0)) {
		vm_poison(vm);
		return;
	}
	CHECK(inv->start < inv->end || !inv->end);
	/* The memory changed before mmu_lock was taken, which is a full fence. Partner: the acquire
	 * load in invalidation_snapshot(). */
	atomic_store_relaxed_u64(&inv->seq, inv->seq + 1);
	atomic_store_relaxed_u32(&inv->in_progress, inv->in_progress - 1);
}

void host_invalidation_enter(struct quire_vm *vm)
{
	mmu_assert_free(vm);
	mutex_lock(&vm->invalidation.lock);
	atomic_store_relaxed_u32(&vm->invalidation.active, vm->invalidation.active + 1);
	CHECK(vm->invalidation.active);
	mutex_unlock(&vm->invalidation.lock);
}

void host_invalidation_leave(struct quire_vm *vm)
{
	struct invalidation *inv = &vm->invalidation;

	mmu_assert_free(vm);
	mutex_lock(&inv->lock);
	CHECK(inv->active);
	atomic_store_relaxed_u32(&inv->active, inv->active - 1);
	mutex_unlock(&inv->lock);
	base_platform->wake(&inv->active, UINT32_MAX);
}

void host_invalidation_block(struct invalidation *inv)
{
	slots_assert(container_of(inv, struct quire_vm, invalidation));
	mutex_lock(&inv->lock);
	while (inv->active && !MUTANT(host_unbalanced)) {
		u32 seen = inv->active;

		mutex_unlock(&inv->lock);
		base_platform->wait(&inv->active, seen);
		mutex_lock(&inv->lock);
	}
}

void host_invalidation_allow(struct invalidation *inv)
{
	slots_assert(container_of(inv, struct quire_vm, invalidation));
	CHECK(!inv->active || MUTANT(host_unbalanced));
	mutex_unlock(&inv->lock);
}
