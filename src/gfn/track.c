/* Write-track counts. */
#include "src/gfn/track.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/vm/locks.h"

/* The low half of a word counts those that follow. */
#define FOLLOWS UINT64_C(1)
#define LAGS (UINT64_C(1) << 32)

/* The counts, once the first nested root has been made: without a lock. */
static struct gfn_track *track_there(const struct quire_vm *vm)
{
	return atomic_load_acquire_ptr(&vm->track);
}

static u64 followers(u64 word)
{
	return word & (LAGS - 1);
}

int gfn_track_add(struct quire_vm *vm, u32 as_id, gfn_t gfn, struct table_cache *tables)
{
	struct gfn_track *track = vm->track;
	u64 *count = sparse_make(&track->counts[as_id], gfn.v, tables);

	mmu_assert_exclusive(vm);
	CHECK(gfn.v <= vm->max_gfn.v);
	if (!count)
		return -ENOMEM;
	if (!*count)
		atomic_store_relaxed_u64(&track->pages, track->pages + 1);
	*count += FOLLOWS;
	/* Partner: the one in gfn_track_written(). */
	atomic_fence();
	CHECK(followers(*count) && atomic_load_relaxed_u64(&track->pages));
	return followers(*count) == 1;
}

/* Take @what, one of a kind, off the counts of @gfn, and put @instead there. */
static u64 change_counts(struct quire_vm *vm, struct sparse *counts, gfn_t gfn, u64 what,
			 u64 instead)
{
	u64 *count = sparse_find(counts, gfn.v);

	if (BROKEN(count && (what == LAGS ? *count >= LAGS : followers(*count) > 0))) {
		vm_poison(vm);
		return 0;
	}
	mmu_assert_exclusive(vm);
	CHECK(vm->track->pages);
	*count += instead - what;
	if (!*count)
		atomic_store_relaxed_u64(&vm->track->pages, vm->track->pages - 1);
	return *count;
}

void gfn_track_remove(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	mmu_assert_exclusive(vm);
	(void)change_counts(vm, &vm->track->counts[as_id], gfn, FOLLOWS, 0);
}

void gfn_track_let_lag(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	mmu_assert_exclusive(vm);
	(void)change_counts(vm, &vm->track->counts[as_id], gfn, FOLLOWS, LAGS);
}

int gfn_track_resume(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	u64 counts = change_counts(vm, &vm->track->counts[as_id], gfn, LAGS, FOLLOWS);

	mmu_assert_exclusive(vm);
	return followers(counts) == 1;
}

void gfn_track_forget(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	mmu_assert_exclusive(vm);
	(void)change_counts(vm, &vm->track->counts[as_id], gfn, LAGS, 0);
}

int gfn_track_next(const struct quire_vm *vm, u32 as_id, gfn_t *gfn, gfn_t end)
{
	const struct gfn_track *track = track_there(vm);

	mmu_assert_held(vm);
	if (!track || !atomic_load_relaxed_u64(&track->pages))
		return 0;
	return sparse_next(&track->counts[as_id], &gfn->v, end.v) != NULL;
}

int gfn_track_block(const struct quire_vm *vm, u32 as_id, gfn_t gfn, u64 pages)
{
	mmu_assert_held(vm);
	return gfn_track_next(vm, as_id, &gfn, (gfn_t){gfn.v + pages});
}

int gfn_is_tracked(const struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	const struct gfn_track *track = atomic_load_acquire_ptr(&vm->track);
	const u64 *counts;

	mmu_assert_held(vm);
	if (!track || !atomic_load_relaxed_u64(&track->pages))
		return 0;
	counts = sparse_find(&track->counts[as_id], gfn.v);
	return counts && followers(*counts);
}

void gfn_track_written(struct quire_vm *vm, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	struct gfn_track *track = track_there(vm);

	locks_assert_none();
	/* Behind the fence of dirty_log_mark_own(). */
	if (!track)
		return;
	/* Partner: the one in gfn_track_add(). */
	atomic_fence();
	CHECK(size_bytes && (gpa.v & ~QUIRE_PAGE_MASK) + size_bytes <= QUIRE_PAGE_SIZE);
	if (atomic_load_relaxed_u64(&track->pages))
		track->written(vm, as_id, gpa, size_bytes);
}
