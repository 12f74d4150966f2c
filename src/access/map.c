/* A guest page in the hypervisor's hands, without the guard of an invalidation. */
#include "src/access/map.h"

#include <errno.h>

#include "src/base/reclaim.h"
#include "src/dirty/log.h"

static int find_hva(const struct quire_vcpu *vcpu, gfn_t gfn, enum guest_map_kind kind, hva_t *hva)
{
	const struct memslot *slot;
	int ret = -EFAULT;

	reclaim_enter();
	slot = memslot_lookup(vcpu->vm, vcpu->as_id, gfn, NULL);
	if (slot && !(slot->flags & MEMSLOT_INVALID) &&
	    !(kind == GUEST_MAP_WRITE && (slot->flags & QUIRE_SLOT_READONLY))) {
		*hva = memslot_hva(slot, gfn);
		ret = 0;
	}
	reclaim_exit();
	return ret;
}

int guest_map(struct quire_vcpu *vcpu, gfn_t gfn, enum guest_map_kind kind, struct guest_map *map)
{
	const struct quire_vm *vm = vcpu->vm;
	u32 flags = QUIRE_PAGE_PIN | (kind == GUEST_MAP_WRITE ? QUIRE_PAGE_WRITE : 0);
	hva_t hva;
	int err = find_hva(vcpu, gfn, kind, &hva);

	/* Such a page is only asked for by those who may keep it. */
	if (atomic_load_relaxed_u32(&vm->tunables->allow_unsafe_mappings))
		flags |= QUIRE_PAGE_GUARDED;
	if (!err && kind == GUEST_MAP_WRITE && !dirty_ring_takes_own(vcpu))
		err = -ENOSPC;
	if (!err)
		err = vm->host->page_get(vm->host_ctx, hva, flags, &map->page);
	if (err)
		return err;
	map->gfn = gfn;
	map->as_id = vcpu->as_id;
	map->kind = kind;
	return 0;
}

void guest_unmap(struct quire_vcpu *vcpu, struct guest_map *map)
{
	const struct quire_vm *vm = vcpu->vm;
	const struct memslot *slot;

	if (map->kind == GUEST_MAP_WRITE) {
		reclaim_enter();
		slot = memslot_lookup(vm, map->as_id, map->gfn, NULL);
		if (slot)
			dirty_log_mark_own(vcpu, slot, map->gfn);
		reclaim_exit();
	}
	if (map->page.refcounted)
		vm->host->page_put(vm->host_ctx, &map->page,
				   map->kind == GUEST_MAP_WRITE ? QUIRE_PAGE_DIRTY
								: QUIRE_PAGE_ACCESSED);
	map->page.refcounted = 0;
}
