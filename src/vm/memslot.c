/* Memslots: lookups by gfn, hva and id, and their tables. */
#include "src/vm/memslot.h"

#include "src/vm/locks.h"
#include "src/vm/memslot_internal.h"
#include "src/vm/vm.h"

void memslots_init(struct quire_vm *vm, u32 nr_as)
{
	struct memslots *slots = &vm->slots;

	CHECK(nr_as && nr_as <= QUIRE_AS_MAX);
	slots->nr_as = nr_as;
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		/* Low bits of a generation tell the address spaces apart (I-04). */
		slots->sets[as][0].generation = as;
		slots->active[as] = &slots->sets[as][0];
		CHECK(as >= nr_as || memslots_generation_of(slots, as) % nr_as == as);
	}
}

static void id_tables_free(struct quire_vm *vm, u32 as)
{
	CHECK(!vm->refs && !vm->vcpus);
	for (u32 i = 0; i < MEMSLOT_ID_BLOCKS; i++)
		vm_free(vm, vm->slots.ids[as][i], MEMSLOT_ID_BLOCK * sizeof(struct memslot *));
}

void memslots_destroy(struct quire_vm *vm, void (*free_slot)(struct quire_vm *, struct memslot *))
{
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		struct memslot_set *set = vm->slots.active[as];
		struct ptree_cursor cursor;
		struct ptree_item item;

		ptree_for_overlap(&set->by_gfn, 0, UINT64_MAX, &cursor, &item)
		    free_slot(vm, item.value);
		ptree_destroy(&set->by_gfn, vm->host, vm->host_ctx);
		ptree_destroy(&set->by_hva, vm->host, vm->host_ctx);
		id_tables_free(vm, as);
	}
}

u64 memslots_generation(const struct quire_vm *vm, u32 as)
{
	return memslots_generation_of(&vm->slots, as);
}

const struct memslot *memslot_lookup(const struct quire_vm *vm, u32 as, gfn_t gfn,
				     struct memslot_hint *hint)
{
	const struct memslot_set *set = memslots_published(&vm->slots, as);
	u64 generation = atomic_load_relaxed_u64(&set->generation);
	const struct memslot *slot;

	slots_assert_section(vm);
	if (hint && memslot_hint_holds(&vm->slots, as, hint, gfn))
		return hint->slot;
	/* The tree knows where the slot ends: the slot itself is not looked at. */
	slot = ptree_find(&set->by_gfn, gfn.v);
	if (hint && slot)
		*hint = (struct memslot_hint){.generation = generation,
					      .slot = slot,
					      .base_gfn = slot->base_gfn,
					      .npages = slot->npages,
					      .hva = slot->hva,
					      .flags = slot->flags};
	return slot;
}

struct memslot *memslot_by_id(const struct quire_vm *vm, u32 as, u32 id)
{
	struct memslot *const *block;

	slots_assert(vm);
	if (as >= QUIRE_AS_MAX || id >= MEMSLOT_ID_BLOCK * MEMSLOT_ID_BLOCKS)
		return NULL;
	block = vm->slots.ids[as][id / MEMSLOT_ID_BLOCK];
	return block ? block[id % MEMSLOT_ID_BLOCK] : NULL;
}

const struct memslot *memslot_first_gfn(const struct quire_vm *vm, u32 as, gfn_t start, gfn_t end,
					struct memslot_iter *iter)
{
	struct ptree_item item;

	slots_assert_section(vm);
	if (!ptree_overlap_first(&memslots_published(&vm->slots, as)->by_gfn, start.v, end.v,
				 &iter->cursor, &item))
		return NULL;
	return item.value;
}

const struct memslot *memslot_first_hva(const struct quire_vm *vm, u32 as, hva_t start, hva_t end,
					struct memslot_iter *iter)
{
	u64 first = memslot_hva_key(start, 0);
	u64 last = memslot_hva_key((hva_t){round_up_u64(end.v, QUIRE_PAGE_SIZE)}, 0);
	struct ptree_item item;

	slots_assert_section(vm);
	/* No slot lies above: a range to the end of the address space may wrap in rounding. */
	if (end.v > MEMSLOT_HVA_LIMIT)
		last = memslot_hva_key((hva_t){MEMSLOT_HVA_LIMIT}, 0);
	if (start.v > MEMSLOT_HVA_LIMIT)
		first = last;
	if (!ptree_overlap_first(&memslots_published(&vm->slots, as)->by_hva, first, last,
				 &iter->cursor, &item))
		return NULL;
	return item.value;
}

const struct memslot *memslot_next(struct memslot_iter *iter)
{
	struct ptree_item item;

	return ptree_overlap_next(&iter->cursor, &item) ? item.value : NULL;
}

struct memslot *memslot_alloc(struct quire_vm *vm, const struct quire_region *region)
{
	struct memslot *slot = vm_alloc(vm, sizeof(*slot));

	if (!slot)
		return NULL;
	slot->base_gfn = gfn_of(region->gpa);
	slot->npages = region->size_bytes >> QUIRE_PAGE_SHIFT;
	slot->hva = region->hva;
	slot->flags = region->flags;
	slot->id = (u16)region->slot;
	slot->as_id = (u16)(region->slot >> 16);
	CHECK(slot->npages && memslot_end(slot).v > slot->base_gfn.v);
	CHECK(slot->as_id < vm->slots.nr_as);
	return slot;
}

void memslot_free(struct quire_vm *vm, struct memslot *slot)
{
	vm_free(vm, slot, sizeof(*slot));
}
