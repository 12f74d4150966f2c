/* Shared places of hypervisor and guest: a pfn cache, and the log that hears of each write. */
#include <quire/place.h>

#include <errno.h>

#include "src/access/access.h"
#include "src/access/pfn_cache.h"
#include "src/gfn/log.h"
#include "src/vm/vcpu.h"

/* By the vCPU's thread; the cache has locks of its own. */
struct quire_place {
	struct pfn_cache cache;
	struct quire_vcpu *vcpu;
	gpa_t gpa;
	u64 size_bytes; /* 0: shows nothing */
};

int quire_place_create(struct quire_vcpu *vcpu, struct quire_place **result)
{
	struct quire_place *place;

	if (!result)
		return -EINVAL;
	place = vm_alloc(vcpu->vm, sizeof(*place));
	if (!place)
		return -ENOMEM;
	pfn_cache_init(&place->cache, vcpu->vm);
	place->vcpu = vcpu;
	place->size_bytes = 0;
	*result = place;
	return 0;
}

void quire_place_destroy(struct quire_place *place)
{
	pfn_cache_deactivate(&place->cache);
	vm_free(place->vcpu->vm, place, sizeof(*place));
}

int quire_place_set(struct quire_place *place, gpa_t gpa, uint64_t size_bytes)
{
	int err;

	pfn_cache_deactivate(&place->cache);
	place->size_bytes = 0;
	if (!size_bytes)
		return 0;
	err = pfn_cache_activate_gpa(&place->cache, gpa, size_bytes);
	if (err == -EINVAL)
		return err;
	place->gpa = gpa;
	place->size_bytes = size_bytes;
	return 0;
}

int quire_place_check(const struct quire_place *place)
{
	const struct accessor by = {.vm = place->vcpu->vm, .vcpu = place->vcpu, .as_id = 0};
	hva_t hva;

	return place->size_bytes ? access_hva(&by, place->gpa, ACCESS_STORE, &hva) : -EFAULT;
}

/* The read lock of a cache that is valid, and where the byte at @offset_bytes is. */
static int place_lock(struct quire_place *place, u64 offset_bytes, hva_t *hva)
    TRY_ACQUIRES_SHARED(false, &place->cache.lock)
{
	u32 offset;
	pfn_t pfn;

	while (!pfn_cache_lock(&place->cache, place->size_bytes, &pfn, &offset)) {
		int err = pfn_cache_refresh(&place->cache, place->size_bytes);

		if (err)
			return err;
	}
	hva->v = place->cache.hva.v + offset + offset_bytes;
	return 0;
}

static int check_part(const struct quire_place *place, u64 offset_bytes, u64 size_bytes)
{
	if (size_bytes > place->size_bytes || offset_bytes > place->size_bytes - size_bytes)
		return -EINVAL;
	return 0;
}

/*
 * While the read lock is held, an invalidation of the page waits, and the page was there when the
 * cache became valid. So the host's guarded copy, which could sleep elsewhere, does not here.
 */
int quire_place_read(struct quire_place *place, uint64_t offset_bytes, void *data,
		     uint64_t size_bytes)
{
	struct quire_vm *vm = place->vcpu->vm;
	int err = check_part(place, offset_bytes, size_bytes);
	u32 section;
	hva_t hva;

	if (!data && size_bytes)
		return -EINVAL;
	if (err)
		return err;
	section = long_section_enter(&vm->accesses);
	err = place_lock(place, offset_bytes, &hva);
	if (!err) {
		err = vm->host->copy_from(vm->host_ctx, data, hva, size_bytes);
		pfn_cache_unlock(&place->cache);
	}
	long_section_leave(&vm->accesses, section);
	return err;
}

int quire_place_write(struct quire_place *place, uint64_t offset_bytes, const void *data,
		      uint64_t size_bytes)
{
	struct quire_vm *vm = place->vcpu->vm;
	int err = check_part(place, offset_bytes, size_bytes);
	u32 section;
	hva_t hva;

	if (!data && size_bytes)
		return -EINVAL;
	if (!err && !dirty_log_takes_own(place->vcpu))
		err = -ENOSPC;
	if (err)
		return err;
	section = long_section_enter(&vm->accesses);
	err = place_lock(place, offset_bytes, &hva);
	if (!err) {
		err = vm->host->copy_to(vm->host_ctx, hva, data, size_bytes);
		pfn_cache_unlock(&place->cache);
	}
	if (!err)
		access_written(place->vcpu, 0, (gpa_t){place->gpa.v + offset_bytes}, size_bytes);
	long_section_leave(&vm->accesses, section);
	return err;
}
