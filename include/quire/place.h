/* Guest memory that the hypervisor shares: a place (a clock, steal time), or a page in its hands.
 */
#ifndef QUIRE_PLACE_H
#define QUIRE_PLACE_H

#include <quire/host.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vcpu;
struct quire_place;
struct quire_gmem;

/*
 * A place of @vcpu, which shows nothing yet; the caller destroys it before the vCPU. -ENOMEM. No
 * lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_create(struct quire_vcpu *vcpu,
						  struct quire_place **place);
/* Once no other thread uses it. No lock held; may sleep. */
QUIRE_API void quire_place_destroy(struct quire_place *place);

/*
 * Show @size_bytes at @gpa of address space 0; 0 bytes: nothing again. -EINVAL: not inside one
 * page; the place shows nothing then. Memory that is not there yet is no error here, but one of
 * each access until it is. By the thread that reads and writes the place, or while it does not. No
 * lock held; may sleep as quire_place_read() does.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_set(struct quire_place *place, gpa_t gpa,
					       uint64_t size_bytes);

/*
 * Does a slot with rights to write cover the first byte? 0; -EFAULT, also when the place shows
 * nothing. Stale at once. The client's memory is not looked at. By the thread that sets the place,
 * no lock held; never sleeps.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_check(const struct quire_place *place);

/*
 * Copy between the place and @data. -EINVAL: beyond what it shows, or it shows nothing; -EFAULT,
 * or what the host's page_get() says: no memory there, or read-only, for reads as well. What was
 * written is logged as the vCPU's, which may take mmu_lock; -ENOSPC as of quire_vcpu_write(). By
 * one thread at a time (the vCPU's), out of guest mode, no lock held; may sleep. Waits while the
 * host changes the page: not for a thread between quire_vm_host_invalidate_begin() and _end(). An
 * invalidation of the page waits for the copy, and a change of slots for the whole call.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_read(struct quire_place *place, uint64_t offset_bytes,
						void *data, uint64_t size_bytes);
QUIRE_API QUIRE_MUST_CHECK int quire_place_write(struct quire_place *place, uint64_t offset_bytes,
						 const void *data, uint64_t size_bytes);

/*
 * A page in the hands of a vCPU, for what the hypervisor keeps in guest memory (a nested guest's
 * control block). The holder is not told when the host takes the page away, so it is pinned. A page
 * without a reference count cannot be, and is refused unless the tunable allow_unsafe_mappings says
 * that the host's owner knows better. The fields are the library's.
 */
enum quire_map_kind { QUIRE_MAP_READ, QUIRE_MAP_WRITE };
/* In a list of those of its guest_memfd, if that owns the attributes of its pages. */
struct quire_map_pin {
	struct quire_gmem *gmem;
	uint64_t index;
	struct quire_map_pin *next, **link;
};
struct quire_map {
	gfn_t gfn;
	hva_t hva;
	struct quire_page page;
	uint32_t as_id;
	uint32_t section;
	enum quire_map_kind kind;
	struct quire_map_pin pin;
};

/*
 * Map the page of @gpa as @vcpu sees it. -EFAULT: no slot, or a read-only one for QUIRE_MAP_WRITE;
 * -EINVAL: the page has no reference count; -ENOSPC as of quire_vcpu_write(); or what page_get()
 * says. By the vCPU's thread, out of guest mode, no lock held; may sleep. A change of slots waits
 * for quire_vcpu_unmap(), so between the two the caller must not wait for one. Where a guest_memfd
 * owns the attributes of its pages, -EFAULT: a private page; and a shared one does not become
 * private before quire_vcpu_unmap(). *@map must stay where it is until then.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_map(struct quire_vcpu *vcpu, gpa_t gpa,
					      enum quire_map_kind kind, struct quire_map *map);
/*
 * Copy between the page and @data; the write wants QUIRE_MAP_WRITE. -EINVAL: beyond the page, or
 * mapped for reading; -EFAULT. By the thread that mapped it, out of guest mode, no lock held; may
 * sleep. What was written is logged as the vCPU's, and what shadows the page goes, which may take
 * mmu_lock.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_map_read(struct quire_vcpu *vcpu, const struct quire_map *map,
					      uint64_t offset_bytes, void *data,
					      uint64_t size_bytes);
QUIRE_API QUIRE_MUST_CHECK int quire_map_write(struct quire_vcpu *vcpu, const struct quire_map *map,
					       uint64_t offset_bytes, const void *data,
					       uint64_t size_bytes);
/*
 * Give it back; what was mapped for writing counts as written, and is logged. By the thread that
 * mapped it, out of guest mode, no lock held; may take mmu_lock.
 */
QUIRE_API void quire_vcpu_unmap(struct quire_vcpu *vcpu, struct quire_map *map);

#ifdef __cplusplus
}
#endif

#endif
