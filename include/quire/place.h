/* A place in guest memory that the hypervisor and the guest share: a clock, steal time. */
#ifndef QUIRE_PLACE_H
#define QUIRE_PLACE_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vcpu;
struct quire_place;

/* A place of @vcpu, which shows nothing yet; the caller destroys it before the vCPU. -ENOMEM. */
QUIRE_API QUIRE_MUST_CHECK int quire_place_create(struct quire_vcpu *vcpu,
						  struct quire_place **place);
QUIRE_API void quire_place_destroy(struct quire_place *place);

/*
 * Show @size_bytes at @gpa of address space 0; 0 bytes: nothing again. -EINVAL: not inside one
 * page. Memory that is not there yet is no error here, but one of each access until it is. No lock
 * held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_set(struct quire_place *place, gpa_t gpa,
					       uint64_t size_bytes);

/*
 * Does a slot with rights to write cover the first byte? 0 or -EFAULT; stale at once. The client's
 * memory is not looked at. No lock held.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_check(const struct quire_place *place);

/*
 * Copy between the place and @data. -EINVAL: beyond what it shows; -EFAULT, or what the host says:
 * no memory there, or read-only. What was written is logged as the vCPU's; -ENOSPC as of
 * quire_vcpu_write(). By one thread at a time (the vCPU's), out of guest mode, no lock held; may
 * sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_place_read(struct quire_place *place, uint64_t offset_bytes,
						void *data, uint64_t size_bytes);
QUIRE_API QUIRE_MUST_CHECK int quire_place_write(struct quire_place *place, uint64_t offset_bytes,
						 const void *data, uint64_t size_bytes);

#ifdef __cplusplus
}
#endif

#endif
