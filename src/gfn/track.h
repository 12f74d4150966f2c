/* Which gfns must not be written unnoticed: the guest's tables that are shadowed. */
#ifndef QUIRE_GFN_TRACK_H
#define QUIRE_GFN_TRACK_H

#include "src/tree/sparse.h"
#include "src/vm/vm.h"

/*
 * Two counts a gfn: how many shadow pages follow what it holds, and how many may lag behind it.
 * While the first is not 0, every MMU maps the gfn without W and without mmu_writable, so that each
 * write of a vCPU is a fault that says so; while either is not 0, with 4K leaves. The library's own
 * writes ask gfn_track_written(). Made with the first nested root and kept until the VM ends.
 *
 *   tracker (mmu_lock exclusive)              the library's own writer
 *   count++, full fence, unlock               store the data
 *   walk the guest's table                    full fence, read the count
 *
 * Either the walk reads the data, or the writer finds the count and drops what was walked.
 *
 * vm->track itself is read before that fence, so that VMs without a nested root pay for none. The
 * writer has issued one by then: dirty_log_mark_own(), called after each store, begins a section.
 */
struct gfn_track {
	struct sparse counts[QUIRE_AS_MAX]; /* (m) followers, and above bit 32 those that lag */
	u64 pages;			    /* (a) gfns with a count: written under mmu_lock */
	/* Drop what was made of the bytes that were written, all of one page. No lock held. */
	void (*written)(struct quire_vm *vm, u32 as_id, gpa_t gpa, u64 size_bytes);
};

/* Tables that one gfn_track_add() may take. */
#define TRACK_TABLES SPARSE_DEPTH

/* Was a gfn ever tracked? False is what most VMs answer, at the cost of a load. Without an order:
 * the functions below load the counts themselves. */
static inline bool gfn_track_is_used(const struct quire_vm *vm)
{
	return unlikely(atomic_load_relaxed_ptr(&vm->track) != NULL);
}

/* --- mmu_lock exclusive --- */

/* The caller takes the mappings of @gfn away, from every MMU, when the count was 0: returned. With
 * fewer than TRACK_TABLES in @tables it may fail: negative. */
must_check int gfn_track_add(struct quire_vm *vm, u32 as_id, gfn_t gfn, struct table_cache *tables)
    REQUIRES(&vm->mmu_lock);
void gfn_track_remove(struct quire_vm *vm, u32 as_id, gfn_t gfn) REQUIRES(&vm->mmu_lock);
/* One that follows @gfn lags from now on: it no longer stands in the way of a write. */
void gfn_track_let_lag(struct quire_vm *vm, u32 as_id, gfn_t gfn) REQUIRES(&vm->mmu_lock);
/* It follows again. Nonzero: the first one, so the caller takes the mappings away as above. */
must_check int gfn_track_resume(struct quire_vm *vm, u32 as_id, gfn_t gfn) REQUIRES(&vm->mmu_lock);
/* One that lags is gone. */
void gfn_track_forget(struct quire_vm *vm, u32 as_id, gfn_t gfn) REQUIRES(&vm->mmu_lock);

/* --- mmu_lock in either mode --- */

/* Nonzero when a gfn of the block of @pages at @gfn is followed, or was by one that lags. */
int gfn_track_block(const struct quire_vm *vm, u32 as_id, gfn_t gfn, u64 pages)
    REQUIRES_SHARED(&vm->mmu_lock);
/* Nonzero when @gfn is followed: each write of it faults. */
int gfn_is_tracked(const struct quire_vm *vm, u32 as_id, gfn_t gfn) REQUIRES_SHARED(&vm->mmu_lock);
/* The first such gfn of [*@gfn, @end) in *@gfn: nonzero; 0 when there is none. */
int gfn_track_next(const struct quire_vm *vm, u32 as_id, gfn_t *gfn, gfn_t end)
    REQUIRES_SHARED(&vm->mmu_lock);

/* --- no lock, no read section --- */

/* The library wrote there, within one page, and dirty_log_mark_own() came after it. Issues a full
 * fence before it reads the count. */
void gfn_track_written(struct quire_vm *vm, u32 as_id, gpa_t gpa, u64 size_bytes);

#endif
