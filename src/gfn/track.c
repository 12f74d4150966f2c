/* Write-track counts. */
#include "src/gfn/track.h"

#include <errno.h>

#include "src/base/assert.h"

int gfn_track_add(struct quire_vm *vm, u32 as_id, gfn_t gfn, struct table_cache *tables)
{
	struct gfn_track *track = vm->track;
	u64 *count = sparse_make(&track->counts[as_id], gfn.v, tables);

	if (!count)
		return -ENOMEM;
	if ((*count)++)
		return 0;
	/* A full fence, partner of the one in gfn_track_written(). */
	(void)atomic_fetch_add_u64(&track->pages, 1);
	return 1;
}

void gfn_track_remove(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	struct gfn_track *track = vm->track;
	u64 *count = sparse_find(&track->counts[as_id], gfn.v);

	if (BROKEN(count && *count)) {
		vm_poison(vm);
		return;
	}
	if (--*count == 0)
		(void)atomic_fetch_sub_u64(&track->pages, 1);
}

int gfn_track_next(const struct quire_vm *vm, u32 as_id, gfn_t *gfn, gfn_t end)
{
	const struct gfn_track *track = atomic_load_acquire_ptr(&vm->track);

	if (!track || !atomic_load_relaxed_u64(&track->pages))
		return 0;
	return sparse_next(&track->counts[as_id], &gfn->v, end.v) != NULL;
}

int gfn_track_block(const struct quire_vm *vm, u32 as_id, gfn_t gfn, u64 pages)
{
	return gfn_track_next(vm, as_id, &gfn, (gfn_t){gfn.v + pages});
}

void gfn_track_written(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	struct gfn_track *track = atomic_load_acquire_ptr(&vm->track);

	if (!track)
		return;
	atomic_fence();
	if (atomic_load_relaxed_u64(&track->pages))
		track->written(vm, as_id, gfn);
}
