/* A guest page in the hypervisor's hands, without the guard of an invalidation. */
#include <quire/place.h>

#include <errno.h>

#include "src/access/access.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/section.h"
#include "src/gfn/log.h"
#include "src/gmem/pin.h"
#include "src/vm/locks.h"

/* Pinned: without PIN nothing would keep the page, for no invalidation is heard of. */
static u32 page_flags(const struct quire_vm *vm, enum quire_map_kind kind)
{
	u32 flags = QUIRE_PAGE_PIN;

	if (kind == QUIRE_MAP_WRITE)
		flags |= QUIRE_PAGE_WRITE;
	/* Only callers that hear of invalidations ask for a page without a count. */
	if (atomic_load_relaxed_u32(&vm->tunables->allow_unsafe_mappings))
		flags |= QUIRE_PAGE_GUARDED;
	return flags;
}

/*
 * Within the access's section the slot that access_hva() found stays. It may be on its way out, and
 * then what stands in for it says nothing of the file: that is as if we had asked a moment later.
 */
static int pin(const struct quire_vm *vm, struct quire_map *map)
{
	const struct memslot *slot;
	int err = -EFAULT;

	reclaim_enter();
	slot = memslot_lookup(vm, map->as_id, map->gfn, NULL);
	if (slot && !(slot->flags & MEMSLOT_INVALID)) {
		gmem_pin_choose(&map->pin, vm, slot, map->gfn);
		err = 0;
	}
	reclaim_leave();
	return err ? err : gmem_pin_take(&map->pin);
}

int quire_vcpu_map(struct quire_vcpu *vcpu, gpa_t gpa, enum quire_map_kind kind,
		   struct quire_map *map)
{
	struct quire_vm *vm = vcpu->vm;
	enum access_kind access = kind == QUIRE_MAP_WRITE ? ACCESS_STORE : ACCESS_LOAD;
	int err;

	if (!map)
		return -EINVAL;
	locks_assert_none();
	*map = (struct quire_map){.gfn = gfn_of(gpa), .as_id = vcpu->as_id, .kind = kind};
	map->section = long_section_enter(&vm->accesses);
	err = access_hva(&(struct accessor){vm, vcpu, vcpu->as_id}, gpa_of(map->gfn), access,
			 &map->hva);
	if (!err && kind == QUIRE_MAP_WRITE && !dirty_log_takes_own(vcpu))
		err = -ENOSPC;
	if (!err)
		err = pin(vm, map);
	if (!err) {
		err = vm->host->page_get(vm->host_ctx, map->hva, page_flags(vm, kind), &map->page);
		if (err)
			gmem_unpin(&map->pin);
		else if (MUTANT(map_unkept) && map->page.refcounted)
			vm->host->page_put(vm->host_ctx, &map->page, QUIRE_PAGE_UNUSED);
	}
	if (err)
		long_section_leave(&vm->accesses, map->section);
	return err;
}

static bool is_inside(uint64_t offset_bytes, uint64_t size_bytes)
{
	return size_bytes <= QUIRE_PAGE_SIZE && offset_bytes <= QUIRE_PAGE_SIZE - size_bytes;
}

int quire_map_read(struct quire_vcpu *vcpu, const struct quire_map *map, uint64_t offset_bytes,
		   void *data, uint64_t size_bytes)
{
	const struct quire_vm *vm = vcpu->vm;

	if (!map || (!data && size_bytes))
		return -EINVAL;
	locks_assert_none();
	if (!is_inside(offset_bytes, size_bytes))
		return -EINVAL;
	return vm->host->copy_from(vm->host_ctx, data, (hva_t){map->hva.v + offset_bytes},
				   size_bytes);
}

int quire_map_write(struct quire_vcpu *vcpu, const struct quire_map *map, uint64_t offset_bytes,
		    const void *data, uint64_t size_bytes)
{
	const struct quire_vm *vm = vcpu->vm;
	int err;

	if (!map || (!data && size_bytes))
		return -EINVAL;
	locks_assert_none();
	if (map->kind != QUIRE_MAP_WRITE || !is_inside(offset_bytes, size_bytes))
		return -EINVAL;
	err = vm->host->copy_to(vm->host_ctx, (hva_t){map->hva.v + offset_bytes}, data, size_bytes);
	if (!err && !MUTANT(map_unmarked))
		access_written(vcpu, map->as_id, (gpa_t){gpa_of(map->gfn).v + offset_bytes},
			       size_bytes);
	return err;
}

void quire_vcpu_unmap(struct quire_vcpu *vcpu, struct quire_map *map)
{
	struct quire_vm *vm = vcpu->vm;
	bool written = map->kind == QUIRE_MAP_WRITE;

	locks_assert_none();
	if (written && !MUTANT(map_unmarked))
		dirty_log_mark_own(vm, vcpu, map->as_id, map->gfn);
	if (map->page.refcounted && !MUTANT(map_unkept))
		vm->host->page_put(vm->host_ctx, &map->page,
				   written ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_ACCESSED);
	map->page.refcounted = 0;
	gmem_unpin(&map->pin);
	long_section_leave(&vm->accesses, map->section);
}
