/* A guest page in the hypervisor's hands, without the guard of an invalidation. */
#ifndef QUIRE_ACCESS_MAP_H
#define QUIRE_ACCESS_MAP_H

#include "src/vm/vcpu.h"

/*
 * For state that the hypervisor keeps in guest memory while a vCPU runs (a nested guest's control
 * block). The holder does not learn that the host takes the page away, so the page is pinned; a
 * page without a reference count cannot be, and is refused unless the tunable allow_unsafe_mappings
 * says that the host's owner knows better.
 */
enum guest_map_kind { GUEST_MAP_READ, GUEST_MAP_WRITE };

struct guest_map {
	gfn_t gfn;
	u32 as_id;
	enum guest_map_kind kind;
	struct quire_page page;
};

/* --- no lock, no read section --- */

/*
 * Map @gfn as @vcpu sees it. -EFAULT: no slot, or a read-only one for writing; -EINVAL: the page
 * has no reference count; or what page_get() says. May sleep.
 */
must_check int guest_map(struct quire_vcpu *vcpu, gfn_t gfn, enum guest_map_kind kind,
			 struct guest_map *map);
/* Give it back; what was mapped for writing counts as written. */
void guest_unmap(struct quire_vcpu *vcpu, struct guest_map *map);

#endif
