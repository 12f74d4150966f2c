/* What the files of the TDP MMU share. */
#ifndef QUIRE_TDP_STORE_H
#define QUIRE_TDP_STORE_H

#include "src/tdp/tdp.h"
#include "src/walk/range.h"

/* What a walk does at each table, down to the tables of entries at @lowest. */
struct tdp_visit {
	u32 lowest;
	walk_visit visit;
	void *ctx;
	u64 *budget; /* as struct walk's */
};

/*
 * Walk [start, end) below the root of @as_id, if there is one. mmu_lock held, in shared mode in a
 * read section; or a read section alone, when @visit only looks or ages.
 * Returns where it stopped, as walk_range() does.
 */
gfn_t tdp_walk(struct quire_vm *vm, u32 as_id, const struct tdp_visit *visit, gfn_t start,
	       gfn_t end);

/* Tell the trace of a change of *@entry, which is in a table. While tracing is on alone. */
__attribute__((cold)) void tdp_trace_change(const u64 *entry, u64 old, u64 new);

#endif
