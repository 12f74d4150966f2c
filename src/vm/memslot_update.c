/* One memslot update: build, publish, wait for readers, free. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/vm/locks.h"
#include "src/vm/memslot_internal.h"
#include "src/vm/vm.h"

/* Trees of an update, in the order they are published. */
enum { BEFORE, HELD, AFTER };

static int slot_insert(struct memslot_update *update, u32 stage, struct memslot *slot,
		       struct ptree_edit *edit)
{
	struct ptree_item by_gfn = {slot->base_gfn.v, memslot_end(slot).v, slot};
	struct ptree_item by_hva = {memslot_hva_key(slot->hva, slot->id),
				    memslot_hva_key(memslot_hva_end(slot), 0), slot};
	int error = ptree_insert(&update->by_gfn[stage], &by_gfn, edit);

	return error ? error : ptree_insert(&update->by_hva[stage], &by_hva, edit);
}

static int slot_remove(struct memslot_update *update, u32 stage, const struct memslot *slot,
		       struct ptree_edit *edit)
{
	u64 hva_key = memslot_hva_key(slot->hva, slot->id);
	int error = ptree_remove(&update->by_gfn[stage], slot->base_gfn.v, edit);

	return error ? error : ptree_remove(&update->by_hva[stage], hva_key, edit);
}

static void stage_copy(struct memslot_update *update, u32 to, u32 from)
{
	update->by_gfn[to] = update->by_gfn[from];
	update->by_hva[to] = update->by_hva[from];
}

/* The trees with a placeholder in place of the old slot. */
static int build_held(struct quire_vm *vm, struct memslot_update *update)
{
	struct ptree_edit *edit = &update->edits[0];
	int error;

	stage_copy(update, HELD, BEFORE);
	if (update->change != MEMSLOT_DELETE && update->change != MEMSLOT_MOVE)
		return 0;
	update->placeholder = vm_alloc(vm, sizeof(*update->placeholder));
	if (!update->placeholder)
		return -ENOMEM;
	CHECK(update->old_slot);
	*update->placeholder = *update->old_slot;
	update->placeholder->flags |= MEMSLOT_INVALID;
	update->placeholder->gmem.file = NULL;
	error = slot_remove(update, HELD, update->old_slot, edit);
	if (!error)
		error = slot_insert(update, HELD, update->placeholder, edit);
	ptree_edit_seal(edit);
	return error;
}

/* The trees with the new slot, if any, and nothing of the old. */
static int build_after(struct memslot_update *update)
{
	const struct memslot *old = update->placeholder ? update->placeholder : update->old_slot;
	struct ptree_edit *edit = &update->edits[1];
	int error = 0;

	CHECK(update->new_slot || update->change == MEMSLOT_DELETE);
	CHECK(!update->old_slot == (update->change == MEMSLOT_CREATE));
	stage_copy(update, AFTER, HELD);
	if (old)
		error = slot_remove(update, AFTER, old, edit);
	if (!error && update->new_slot)
		error = slot_insert(update, AFTER, update->new_slot, edit);
	ptree_edit_seal(edit);
	return error;
}

static int id_block_make(struct quire_vm *vm, u32 as, u32 id)
{
	struct memslot ***block = &vm->slots.ids[as][id / MEMSLOT_ID_BLOCK];

	if (!*block)
		*block = vm_alloc(vm, MEMSLOT_ID_BLOCK * sizeof(**block));
	return *block ? 0 : -ENOMEM;
}

static const struct memslot *update_subject(const struct memslot_update *update)
{
	return update->new_slot ? update->new_slot : update->old_slot;
}

static void update_discard(struct quire_vm *vm, struct memslot_update *update)
{
	ptree_edit_abort(&update->edits[0]);
	ptree_edit_abort(&update->edits[1]);
	memslot_free(vm, update->placeholder);
	update->placeholder = NULL;
}

int memslot_update_prepare(struct quire_vm *vm, struct memslot_update *update)
{
	const struct memslot *subject = update_subject(update);
	const struct memslot_set *set = vm->slots.active[subject->as_id];
	int error;

	slots_assert(vm);
	update->placeholder = NULL;
	update->begun = 0;
	update->by_gfn[BEFORE] = set->by_gfn;
	update->by_hva[BEFORE] = set->by_hva;
	ptree_edit_init(&update->edits[0], vm->host, vm->host_ctx);
	ptree_edit_init(&update->edits[1], vm->host, vm->host_ctx);
	error = id_block_make(vm, subject->as_id, subject->id);
	if (!error)
		error = build_held(vm, update);
	if (!error)
		error = build_after(update);
	if (error)
		update_discard(vm, update);
	return error;
}

/*
 * Make the trees of @stage the published set, and wait until no reader sees the one before. The
 * generation has bit 63 meanwhile: what a reader caches in between matches no later generation.
 */
static void publish_stage(struct quire_vm *vm, const struct memslot_update *update, u32 stage)
{
	u32 as = update_subject(update)->as_id;
	struct memslots *slots = &vm->slots;
	struct memslot_set *old = slots->active[as];
	struct memslot_set *next = &slots->sets[as][old == &slots->sets[as][0]];
	u64 generation = old->generation;

	slots_assert(vm);
	CHECK(!(generation & MEMSLOTS_UPDATING));
	CHECK(generation % slots->nr_as == as);
	CHECK(update->by_gfn[stage].count == update->by_hva[stage].count);
	next->by_gfn = update->by_gfn[stage];
	next->by_hva = update->by_hva[stage];
	atomic_store_relaxed_u64(&next->generation, generation | MEMSLOTS_UPDATING);

	/* Begin and end of a host invalidation must see the same slots. */
	host_invalidation_block(&vm->invalidation);
	atomic_store_release_ptr(&slots->active[as], next);
	host_invalidation_allow(&vm->invalidation);

	if (!MUTANT(slots_unsynced))
		reclaim_synchronize();
	/* Accesses that found memory through the set before end: it is the client's again. */
	if (!MUTANT(access_unwaited))
		long_sections_wait(&vm->accesses);
	/* Without an order: a reader asks whether it is the one that it has seen, no more. */
	atomic_store_relaxed_u64(&next->generation, generation + slots->nr_as);
}

void memslot_update_begin(struct quire_vm *vm, struct memslot_update *update)
{
	slots_assert(vm);
	CHECK(!update->begun);
	if (!update->placeholder)
		return;
	CHECK(update->placeholder->flags & MEMSLOT_INVALID);
	CHECK(update->by_gfn[HELD].count == update->by_gfn[BEFORE].count);
	publish_stage(vm, update, HELD);
	update->begun = 1;
}

/* Page and slot counts, ids and I-06. */
static void count_change(struct memslots *slots, const struct memslot_update *update)
{
	const struct memslot *subject = update_subject(update);
	struct memslot *old = update->old_slot;
	struct memslot *new = update->new_slot;
	u32 logging = slots->nr_dirty_logging;
	u64 pages = slots->total_pages;

	if (old) {
		CHECK(pages >= old->npages && slots->count[old->as_id]);
		CHECK(logging || !(old->flags & QUIRE_SLOT_LOG_DIRTY));
		pages -= old->npages;
		slots->count[old->as_id]--;
		logging -= !!(old->flags & QUIRE_SLOT_LOG_DIRTY);
	}
	if (new) {
		pages += new->npages;
		slots->count[new->as_id]++;
		logging += !!(new->flags &QUIRE_SLOT_LOG_DIRTY);
	}
	CHECK(slots->count[subject->as_id] == update->by_gfn[AFTER].count);
	atomic_store_relaxed_u32(&slots->nr_dirty_logging, logging);
	atomic_store_relaxed_u64(&slots->total_pages, pages);
	slots->ids[subject->as_id][subject->id / MEMSLOT_ID_BLOCK][subject->id % MEMSLOT_ID_BLOCK] =
	    new;
}

void memslot_update_commit(struct quire_vm *vm, struct memslot_update *update)
{
	slots_assert(vm);
	CHECK(memslot_by_id(vm, update_subject(update)->as_id, update_subject(update)->id) ==
	      update->old_slot);
	CHECK(update->begun == (update->placeholder != NULL));
	/* A new slot that logs must be counted by the time a reader finds it. */
	count_change(&vm->slots, update);
	publish_stage(vm, update, AFTER);
	ptree_edit_free_replaced(&update->edits[0]);
	ptree_edit_free_replaced(&update->edits[1]);
	memslot_free(vm, update->placeholder);
	update->placeholder = NULL;
}

void memslot_update_abort(struct quire_vm *vm, struct memslot_update *update)
{
	slots_assert(vm);
	CHECK(!update->begun || update->placeholder);
	if (update->begun)
		publish_stage(vm, update, BEFORE);
	update_discard(vm, update);
}
