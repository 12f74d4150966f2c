/* A guest page in the hypervisor's hands, without the guard of an invalidation. */
#include "src/access/map.h"

#include <errno.h>

#include "src/access/access.h"
#include "src/gfn/log.h"
#include "src/vm/locks.h"

int guest_map(struct quire_vcpu *vcpu, gfn_t gfn, enum guest_map_kind kind, struct guest_map *map)
{
	const struct quire_vm *vm = vcpu->vm;
	u32 flags = QUIRE_PAGE_PIN | (kind == GUEST_MAP_WRITE ? QUIRE_PAGE_WRITE : 0);
	enum access_kind access = kind == GUEST_MAP_WRITE ? ACCESS_STORE : ACCESS_LOAD;
	hva_t hva;
	int err =
	    access_hva(&(struct accessor){vcpu->vm, vcpu, vcpu->as_id}, gpa_of(gfn), access, &hva);

	locks_assert_none();
	/* Only callers that may keep a page ask for one like this. */
	if (atomic_load_relaxed_u32(&vm->tunables->allow_unsafe_mappings))
		flags |= QUIRE_PAGE_GUARDED;
	if (!err && kind == GUEST_MAP_WRITE && !dirty_log_takes_own(vcpu))
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

	locks_assert_none();
	if (map->kind == GUEST_MAP_WRITE)
		dirty_log_mark_own(vcpu->vm, vcpu, map->as_id, map->gfn);
	if (map->page.refcounted)
		vm->host->page_put(vm->host_ctx, &map->page,
				   map->kind == GUEST_MAP_WRITE ? QUIRE_PAGE_DIRTY
								: QUIRE_PAGE_ACCESSED);
	map->page.refcounted = 0;
}
