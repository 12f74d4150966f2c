/* Creating, deleting, moving a memslot, and changing its flags. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/change/change.h"
#include "src/dirty/bitmap.h"
#include "src/vm/locks.h"

/*
 * A region update in hand: what is being replaced by what. Everything that can fail happens
 * before the first publication; after it there are no errors (I-80).
 */
struct region_update {
	struct quire_vm *vm;
	const struct quire_region *region;
	struct memslot_update slots;
	struct gmem_binding_change binding;
};

static void slot_destroy(struct quire_vm *vm, struct memslot *slot)
{
	dirty_bitmap_put(vm->host, vm->host_ctx, slot->dirty);
	memslot_free(vm, slot);
}

static int alloc_bitmap(struct quire_vm *vm, struct memslot *slot)
{
	if (!(slot->flags & QUIRE_SLOT_LOG_DIRTY) || vm->ring_bytes)
		return 0;
	slots_assert(vm);
	CHECK(!slot->dirty);
	CHECK(!(vm->manual_protect & 2) || (vm->manual_protect & 1));
	slot->dirty =
	    dirty_bitmap_alloc(vm->host, vm->host_ctx, slot->npages, vm->manual_protect & 2);
	return slot->dirty ? 0 : -ENOMEM;
}

static int prepare_gmem(struct region_update *update)
{
	const struct quire_region *region = update->region;

	if (!(region->flags & QUIRE_SLOT_GMEM))
		return 0;
	if (region->gmem_error)
		return region->gmem_error;
	if (!region->gmem)
		return -EBADF;
	return gmem_bind_prepare(update->slots.new_slot, update->vm, region->gmem,
				 region->gmem_offset_bytes);
}

static int bind_gmem(struct region_update *update)
{
	if (!(update->region->flags & QUIRE_SLOT_GMEM))
		return 0;
	return gmem_bind_commit(update->slots.new_slot, &update->binding);
}

/* The steps up to the publication, in the order in which KVM finds their errors. */
static int prepare_create(struct region_update *update)
{
	struct quire_vm *vm = update->vm;
	int err = prepare_gmem(update);

	if (!err)
		err = memslot_check_max_gfn(update->region, vm->max_gfn);
	if (!err)
		err = alloc_bitmap(vm, update->slots.new_slot);
	if (!err)
		err = memslot_update_prepare(vm, &update->slots);
	if (err)
		return err;
	err = bind_gmem(update);
	if (err)
		memslot_update_abort(vm, &update->slots);
	return err;
}

static int region_create(struct region_update *update)
{
	struct quire_vm *vm = update->vm;
	int err;

	slots_assert(vm);
	update->slots.new_slot = memslot_alloc(vm, update->region);
	if (!update->slots.new_slot)
		return -ENOMEM;
	err = prepare_create(update);
	if (err) {
		slot_destroy(vm, update->slots.new_slot);
		return err;
	}
	memslot_update_commit(vm, &update->slots);
	gmem_binding_finish(&update->binding);
	return 0;
}

/* Mappings through @slot go. KVM's quirk drops all of the VM's; guests came to rely on it. */
static void zap_slot(struct quire_vm *vm, const struct memslot *slot)
{
	struct flush_debt debt;

	if (vm->config.type == QUIRE_VM_DEFAULT && atomic_load_relaxed_u32(&vm->slot_zap_all)) {
		change_zap_all(vm);
		return;
	}
	/* No fault maps it again: it is published as a placeholder. */
	CHECK(memslot_lookup(vm, slot->as_id, slot->base_gfn, NULL)->flags & MEMSLOT_INVALID);
	change_lock(vm, &debt);
	change_zap_range(vm, 1u << slot->as_id, slot->base_gfn, memslot_end(slot), &debt);
	change_pay_unlock(vm, &debt, MUTANT(slot_unflushed), MUTANT(slot_late));
	tdp_debt_settle(vm, &debt);
}

static int region_delete(struct region_update *update)
{
	struct quire_vm *vm = update->vm;
	struct memslot *old = update->slots.old_slot;
	int err = memslot_update_prepare(vm, &update->slots);

	slots_assert(vm);
	if (err)
		return err;
	err = gmem_unbind_prepare(old, &update->binding);
	if (err) {
		memslot_update_abort(vm, &update->slots);
		return err;
	}
	memslot_update_begin(vm, &update->slots);
	zap_slot(vm, old);
	memslot_update_commit(vm, &update->slots);
	gmem_unbind_commit(&update->binding);
	gmem_binding_finish(&update->binding);
	slot_destroy(vm, old);
	return 0;
}

/*
 * The new version of a slot that moves or changes flags takes over the log when both log; the one
 * that is left without gets none, and the old one's is freed with it.
 */
static int make_successor(struct region_update *update)
{
	struct quire_vm *vm = update->vm;
	struct memslot *old = update->slots.old_slot, *new;

	slots_assert(vm);
	CHECK(old && !update->slots.new_slot);
	new = memslot_alloc(vm, update->region);
	if (!new)
		return -ENOMEM;
	update->slots.new_slot = new;
	if (!(new->flags &QUIRE_SLOT_LOG_DIRTY))
		return 0;
	if (old->dirty) {
		new->dirty = old->dirty;
		return 0;
	}
	return alloc_bitmap(vm, new);
}

/* The new version is published: what they share is its. */
static void retire(struct quire_vm *vm, struct memslot *old, const struct memslot *new)
{
	slots_assert(vm);
	CHECK(memslot_by_id(vm, new->as_id, new->id) == new &&old != new);
	if (old->dirty == new->dirty)
		old->dirty = NULL;
	slot_destroy(vm, old);
}

static void drop_successor(struct region_update *update)
{
	struct memslot *new = update->slots.new_slot;

	if (!new)
		return;
	slots_assert(update->vm);
	CHECK(memslot_by_id(update->vm, new->as_id, new->id) == update->slots.old_slot);
	if (new->dirty == update->slots.old_slot->dirty)
		new->dirty = NULL;
	slot_destroy(update->vm, new);
}

/* What can fail of a move or a change of flags, in KVM's order; nothing is left of it then. */
static int prepare_successor(struct region_update *update)
{
	int err = make_successor(update);

	if (!err && update->slots.change == MEMSLOT_MOVE)
		err = memslot_check_max_gfn(update->region, update->vm->max_gfn);
	if (!err)
		err = memslot_update_prepare(update->vm, &update->slots);
	if (err)
		drop_successor(update);
	return err;
}

static int region_move(struct region_update *update)
{
	struct quire_vm *vm = update->vm;
	struct memslot *old = update->slots.old_slot;
	int err = prepare_successor(update);

	slots_assert(vm);
	if (err)
		return err;
	memslot_update_begin(vm, &update->slots);
	zap_slot(vm, old);
	memslot_update_commit(vm, &update->slots);
	retire(vm, old, update->slots.new_slot);
	return 0;
}

static int region_set_flags(struct region_update *update)
{
	struct quire_vm *vm = update->vm;
	struct memslot *old = update->slots.old_slot, *new;
	int err = prepare_successor(update);

	slots_assert(vm);
	if (err)
		return err;
	memslot_update_commit(vm, &update->slots);
	new = update->slots.new_slot;
	retire(vm, old, new);
	/* Faults see the new flags from here on: nothing huge or writable is made unseen. */
	if (new->flags & QUIRE_SLOT_LOG_DIRTY)
		change_log_start(vm, new);
	else
		change_log_stop(vm, new);
	return 0;
}

static int apply_region(struct quire_vm *vm, const struct quire_region *region)
    REQUIRES(&vm->slots_lock)
{
	struct region_update update = {.vm = vm, .region = region};
	struct memslot_decision decision = {0};
	int err = memslot_check(vm, region, &decision);

	if (err)
		return err;
	update.slots.change = decision.change;
	update.slots.old_slot = decision.old;
	switch (decision.change) {
	case MEMSLOT_CREATE:
		return region_create(&update);
	case MEMSLOT_DELETE:
		return region_delete(&update);
	case MEMSLOT_MOVE:
		return region_move(&update);
	case MEMSLOT_FLAGS_ONLY:
		return region_set_flags(&update);
	case MEMSLOT_NONE:
		break;
	}
	return 0;
}

/* Generations that one change of a slot may use up in an address space. */
#define GENERATIONS_AHEAD 4u

/*
 * MMIO entries hold the low bits of the generation they were found in. When these wrap around, an
 * entry that was not looked at since would be believed again. Every MMIO entry goes before a number
 * that may wrap is published. What is made after that has one of the last numbers, which do not
 * come again before the next wrap.
 */
static bool may_wrap(const struct quire_vm *vm)
{
	u64 mask = (UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS) - 1;
	bool wraps = false;

	slots_assert(vm);
	for (u32 as = 0; as < vm->address_spaces; as++) {
		u64 now = memslots_generation(vm, as) & mask;

		wraps |= now + (u64)GENERATIONS_AHEAD * vm->slots.nr_as > mask;
	}
	return wraps;
}

static int set_region_locked(struct quire_vm *vm, const struct quire_region *region)
    REQUIRES(&vm->slots_lock)
{
	if (unlikely(may_wrap(vm)))
		change_zap_all(vm);
	return apply_region(vm, region);
}

int quire_vm_set_region(struct quire_vm *vm, const struct quire_region *region)
{
	int err;

	if (!region)
		return -EINVAL;
	if (vm_is_dead(vm))
		return -EIO;
	mutex_lock(&vm->slots_lock);
	err = set_region_locked(vm, region);
	mutex_unlock(&vm->slots_lock);
	return err;
}
