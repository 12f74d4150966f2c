/* Dirty rings: switching them on, and arming again what the client has read. */
#include <errno.h>

#include <quire/dirty.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/change/change.h"
#include "src/change/nested.h"
#include "src/dirty/ring.h"
#include "src/vm/locks.h"
#include "src/vm/vcpu.h"

_Static_assert(DIRTY_RING_RESERVED * sizeof(struct quire_ring_entry) <= QUIRE_PAGE_SIZE,
	       "a page has room for what is kept free");

int quire_vm_enable_dirty_ring(struct quire_vm *vm, uint64_t size_bytes)
{
	int err = 0;

	/* KVM looks at the low 32 bits of the argument. */
	size_bytes = (u32)size_bytes;
	if (!size_bytes || (size_bytes & (size_bytes - 1)))
		return -EINVAL;
	if (size_bytes < QUIRE_PAGE_SIZE)
		return -EINVAL;
	if (size_bytes > QUIRE_RING_BYTES_MAX)
		return -E2BIG;
	locks_assert_none();
	mutex_lock(&vm->slots_lock);
	mutex_lock(&vm->vcpus_lock);
	if (vm->ring_bytes || vm->vcpus)
		err = -EINVAL;
	else
		vm->ring_bytes = (u32)size_bytes;
	mutex_unlock(&vm->vcpus_lock);
	mutex_unlock(&vm->slots_lock);
	return err;
}

uint32_t quire_vm_dirty_ring_bytes(struct quire_vm *vm)
{
	u32 ring_bytes;

	mutex_lock(&vm->vcpus_lock);
	ring_bytes = vm->ring_bytes;
	mutex_unlock(&vm->vcpus_lock);
	return ring_bytes;
}

/* Entries of one slot within 64 pages, to be armed by one masked operation. */
struct reset_batch {
	u32 slot;
	u64 base;
	u64 mask;
};

/* The client may have written nonsense: what names no page of a slot is passed over. */
static void arm_batch(struct quire_vm *vm, const struct reset_batch *batch, struct flush_debt *debt)
    REQUIRES(&vm->slots_lock)
{
	u32 as = batch->slot >> 16, id = batch->slot & 0xffff;
	const struct memslot *slot;
	u64 mask = batch->mask;
	struct log_word word = {0};
	struct log_span span = {
	    .as_id = as, .words = 1, .masks = &mask, .nonzero = 1, .named = &word};

	if (!mask || MUTANT(ring_unarmed))
		return;
	slot = memslot_by_id(vm, as, id);
	if (!slot || batch->base >= slot->npages)
		return;
	if (slot->npages - batch->base < 64)
		mask &= (UINT64_C(1) << (slot->npages - batch->base)) - 1;
	span.base.v = slot->base_gfn.v + batch->base;
	biglock_read_lock(&vm->mmu_lock, NULL);
	reclaim_enter();
	tdp_protect_span(vm, &span, debt);
	reclaim_leave();
	biglock_read_unlock(&vm->mmu_lock, NULL);
	change_nested_protect_span(vm, &span, debt);
}

/*
 * Entries are taken one by one and armed in batches. The batch in hand is armed before every
 * return: an entry that was taken and not armed would be a lost write.
 */
static u32 reset_one(struct quire_vm *vm, struct dirty_ring *ring, int (*interrupted)(void),
		     struct flush_debt *debt) REQUIRES(&vm->slots_lock)
{
	struct reset_batch batch = {0};
	u32 count = 0, slot;
	u64 offset;

	while (!(interrupted && interrupted()) && !dirty_ring_take_reset(ring, &slot, &offset)) {
		u64 base = round_down_u64(offset, 64);

		count++;
		if (slot != batch.slot || base != batch.base) {
			arm_batch(vm, &batch, debt);
			batch = (struct reset_batch){.slot = slot, .base = base};
		}
		batch.mask |= UINT64_C(1) << (offset - base);
	}
	if (!(MUTANT(ring_drops_batch) && interrupted && interrupted()))
		arm_batch(vm, &batch, debt);
	return count;
}

/* A reset ends with the ring that got it so far: the count that it returns is an int. */
#define RESET_ENTRIES_MAX (INT32_MAX / 2)

int quire_vm_reset_dirty_rings(struct quire_vm *vm, int (*interrupted)(void))
{
	struct flush_debt debt;
	u64 count = 0;

	if (vm_is_dead(vm))
		return -EIO;
	flush_debt_init(&debt, &vm->flush);
	mutex_lock(&vm->slots_lock);
	if (!vm->ring_bytes) {
		mutex_unlock(&vm->slots_lock);
		return -EINVAL;
	}
	mutex_lock(&vm->vcpus_lock);
	for (struct quire_vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
		if (vcpu->ring.entries && count < RESET_ENTRIES_MAX) {
			count += reset_one(vm, &vcpu->ring, interrupted, &debt);
			QUIRE_TRACE(kvm_dirty_ring_reset, vcpu->id, vcpu->ring.dirty_index,
				    vcpu->ring.reset_index);
		}
	mutex_unlock(&vm->vcpus_lock);
	mutex_unlock(&vm->slots_lock);
	/* An entry found without W already may owe the flush of another change. */
	if (count)
		flush_debt_owe(&debt);
	if (MUTANT(ring_unflushed))
		flush_debt_forgive(&debt, "mutant");
	tdp_debt_settle(vm, &debt);
	return (int)count;
}

int quire_vcpu_set_dirty_ring(struct quire_vcpu *vcpu, struct quire_ring_entry *entries)
{
	u32 ring_bytes;

	if (!entries)
		return -EINVAL;
	CHECK(!guest_mode_is_on(&vcpu->mode));
	mutex_lock(&vcpu->vm->vcpus_lock);
	ring_bytes = vcpu->vm->ring_bytes;
	CHECK(!ring_bytes || ring_bytes / sizeof(*entries) >= DIRTY_RING_RESERVED);
	if (ring_bytes) {
		vcpu->ring.size = ring_bytes / sizeof(*entries);
		vcpu->ring.soft_limit = vcpu->ring.size - DIRTY_RING_RESERVED;
		vcpu->ring.entries = entries;
	}
	mutex_unlock(&vcpu->vm->vcpus_lock);
	return ring_bytes ? 0 : -EINVAL;
}

int quire_vcpu_dirty_ring_is_full(const struct quire_vcpu *vcpu)
{
	return vcpu->ring.entries && dirty_ring_is_soft_full(&vcpu->ring);
}
