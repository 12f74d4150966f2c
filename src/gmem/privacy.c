/* Is a page private? The one place that answers. */
#include "src/gmem/privacy.h"

#include "src/base/reclaim.h"
#include "src/vm/locks.h"

/* The map that says what @gfn is, and where in it; NULL: nothing does, and it is shared. */
static const struct range_map *map_at(const struct quire_vm *vm, const struct memslot *slot,
				      gfn_t gfn, u64 *at)
{
	const struct quire_gmem *file;

	*at = gfn.v;
	if (likely(!vm->config.gmem_in_place_conversion))
		return &vm->attributes;
	file = slot ? atomic_load_relaxed_ptr(&slot->gmem.file) : NULL;
	if (!file)
		return NULL;
	*at = memslot_gmem_index(slot, gfn);
	return &file->inode->attributes;
}

/*
 * A read section of its own: the map of an inode changes without slots_lock. The file is freed
 * after its slots have forgotten it, and a grace period.
 */
u64 privacy_get(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn)
{
	const struct range_map *map;
	u64 at, value = 0;

	slots_assert_section(vm);
	reclaim_enter();
	map = map_at(vm, slot, gfn, &at);
	if (map)
		value = range_map_get(map, at);
	reclaim_leave();
	return value;
}

int privacy_uniform(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn, u64 npages,
		    u64 *value)
{
	const struct range_map *map;
	int uniform = 1;
	u64 at;

	slots_assert_section(vm);
	*value = 0;
	reclaim_enter();
	map = map_at(vm, slot, gfn, &at);
	if (map)
		uniform = range_map_uniform(map, at, at + npages, value);
	reclaim_leave();
	return uniform;
}

gfn_t privacy_run(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn, gfn_t end,
		  u64 *value)
{
	const struct range_map *map;
	u64 at;

	slots_assert_section(vm);
	CHECK(gfn.v < end.v && memslot_has(slot, gfn) && end.v <= memslot_end(slot).v);
	*value = 0;
	reclaim_enter();
	map = map_at(vm, slot, gfn, &at);
	if (map)
		end.v = gfn.v + (range_map_run(map, at, at + (end.v - gfn.v), value) - at);
	reclaim_leave();
	return end;
}

u64 privacy_of_gfn(const struct quire_vm *vm, u32 as, gfn_t gfn)
{
	const struct memslot *slot = NULL;

	slots_assert_section(vm);
	if (vm->config.gmem_in_place_conversion)
		slot = memslot_lookup(vm, as, gfn, NULL);
	return privacy_get(vm, slot, gfn);
}
