/* Which gfns must not be written unnoticed: the guest's tables that are shadowed. */
#ifndef QUIRE_GFN_TRACK_H
#define QUIRE_GFN_TRACK_H

#include "src/vm/vm.h"
#include "src/walk/sparse.h"

/*
 * A count a gfn: how many shadow pages follow what it holds. While it is not 0, every MMU maps the
 * gfn with 4K leaves without W and without mmu_writable, so that each write of a vCPU is a fault
 * that says so; the library's own writes ask gfn_track_written(). Made with the first nested root
 * and kept until the VM ends.
 *
 *   whoever tracks (mmu_lock exclusive)       the library's own writer
 *   count++, then walk the guest's table      store the data
 *                                             full fence, read the count
 *
 * Either the walk reads the data, or the writer finds the count and drops what was walked.
 */
struct gfn_track {
	struct sparse counts[QUIRE_AS_MAX]; /* (m) */
	u64 pages;			    /* (a) gfns with a count: written under mmu_lock */
	/* Drop what was made of @gfn's contents. No lock held. */
	void (*written)(struct quire_vm *vm, u32 as_id, gfn_t gfn);
};

/* Tables that one gfn_track_add() may take. */
#define TRACK_TABLES SPARSE_DEPTH

/* --- mmu_lock exclusive --- */

/* The caller takes the mappings of @gfn away, from every MMU, when the count was 0: returned. With
 * fewer than TRACK_TABLES in @tables it may fail: negative. */
must_check int gfn_track_add(struct quire_vm *vm, u32 as_id, gfn_t gfn, struct table_cache *tables);
void gfn_track_remove(struct quire_vm *vm, u32 as_id, gfn_t gfn);

/* --- mmu_lock in either mode --- */

/* Nonzero when a gfn of the block of @pages at @gfn is tracked. */
int gfn_track_block(const struct quire_vm *vm, u32 as_id, gfn_t gfn, u64 pages);
/* The first tracked gfn of [*@gfn, @end) in *@gfn: nonzero; 0 when there is none. */
int gfn_track_next(const struct quire_vm *vm, u32 as_id, gfn_t *gfn, gfn_t end);

/* --- no lock --- */

/* The library wrote to @gfn. Issues a full fence before it looks. */
void gfn_track_written(struct quire_vm *vm, u32 as_id, gfn_t gfn);

#endif
