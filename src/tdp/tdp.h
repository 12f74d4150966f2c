/* The TDP MMU: stage-2 tables made of gfns only. One operation a file, grouped here by lock. */
#ifndef QUIRE_TDP_TDP_H
#define QUIRE_TDP_TDP_H

#include "src/dirty/span.h"
#include "src/vm/locks.h"
#include "src/vm/vcpu.h"
#include "src/vm/vm.h"

/*
 * A change of the tables: its VM, its counts, and what it leaves behind. A store to a table entry
 * that other threads can see goes through tdp_change_entry() with one of these. Two files store by
 * themselves: protect.c, which takes W and D from 4K leaves, and age.c, which makes leaves old.
 */
struct tdp_change {
	struct quire_vm *vm;
	u64 *leaves;		 /* where to count mappings: the vCPU's or the VM's */
	struct flush_debt *debt; /* NULL: the caller knows that nothing can be owed */
};

/*
 * How an attempt to change one entry ended. TDP_LOST: another thread was faster; nothing changed.
 * TDP_TRACED: done, and tracing is on, so that the caller need not ask once more.
 */
enum tdp_result { TDP_LOST, TDP_DONE, TDP_TRACED };

/* A mapping to install, as the fault path found it. */
struct tdp_mapping {
	gfn_t gfn;
	struct entry_leaf leaf; /* pfn and level already cut to the block of @gfn */
	u32 wanted_level;	/* the leaf's without the NX workaround */
	u64 error_code;		/* QUIRE_PFERR_*: of the fault */
	bool prefault;		/* no access stands behind it */
};

/* --- mmu_lock in either mode, in shared mode in a read section --- */

/*
 * Change *@entry from *@old to @new. False when it was something else, which *@old then holds.
 * Accounts the transition and records in the debt what it owes. A table that @old pointed to is
 * unlinked into the debt. Full fence.
 */
must_check enum tdp_result tdp_change_entry(const struct tdp_change *change, u64 *entry, u32 level,
					    u64 *old, u64 new);

/*
 * Remove W and D from the leaves among the 4K entries of @mask, and owe the flush if there was one.
 * W goes and mmu_writable stays, so that the fast path gives W back and marks the page. D goes with
 * W: the walker sets it again with the next write, and never needs to before. With mmu_lock
 * exclusive no other thread of ours writes entries, but for aging, and plain stores do it.
 */
void tdp_protect_entries(const struct tdp_change *change, u64 *entries, u64 mask);

/*
 * Look for the entries that @span names, and have the processor fetch them. To be done some time
 * before tdp_protect_span(), in the same hold of mmu_lock and read section.
 */
void tdp_find_span(struct quire_vm *vm, const struct log_span *span) REQUIRES_SHARED(&vm->mmu_lock);
/* Remove write permission from the leaves that @span names, whether they were found or not. */
void tdp_protect_span(struct quire_vm *vm, const struct log_span *span, struct flush_debt *debt)
    REQUIRES_SHARED(&vm->mmu_lock);

/* Install @mapping below @root. Returns an enum quire_outcome; QUIRE_RETRY when another thread
 * changed the same place. Takes tables from @vcpu's cache, which holds enough for one walk. */
must_check enum quire_outcome tdp_map(struct quire_vcpu *vcpu, struct table *root,
				      const struct tdp_mapping *mapping, struct flush_debt *debt);
/* Remember that @gfn has no memory in @generation. False when the place changed. */
enum tdp_result tdp_map_mmio(struct quire_vcpu *vcpu, struct table *root, gfn_t gfn, u64 generation,
			     struct flush_debt *debt);

/* Tables one walk may need below the root. */
#define TDP_WALK_TABLES 3u

/* Split the huge leaf *@entry, seen as @huge at @level, into @table, which nx_table_init() has
 * prepared. TDP_LOST: the leaf changed, and @table is still the caller's. */
must_check enum tdp_result tdp_split_entry(const struct tdp_change *change, u64 *entry, u32 level,
					   u64 huge, struct table *table);

/*
 * Remove write permission from all leaves of [start, end), as far as one hold of mmu_lock should
 * go: so many entries, however much each maps. Returns where the next hold begins; @end: it is
 * done.
 */
gfn_t tdp_write_protect_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			      struct flush_debt *debt) REQUIRES_SHARED(&vm->mmu_lock);

/*
 * Split huge leaves of [*@start, end) to 4K with tables from @tables, as far as one hold of
 * mmu_lock should go. *@start is where the next hold begins; @end: it is done. -ENOMEM: the tables
 * ran out there, so call again with more.
 */
must_check int tdp_split_range(struct quire_vm *vm, u32 as_id, gfn_t *start, gfn_t end,
			       struct table_cache *tables) REQUIRES_SHARED(&vm->mmu_lock);

/* May @gfn be mapped by a huge leaf at @level? */
typedef bool (*tdp_huge_allowed)(void *ctx, gfn_t gfn, u32 level);

struct tdp_recovery {
	u32 as_id;
	gfn_t start, end;
	tdp_huge_allowed allowed;
	void *ctx;
};

/* Replace tables by huge leaves where @recovery allows. */
void tdp_recover_range(struct quire_vm *vm, const struct tdp_recovery *recovery,
		       struct flush_debt *debt) REQUIRES_SHARED(&vm->mmu_lock);

/* --- mmu_lock exclusive, or a read section --- */

/* The entry that maps or would map @gfn: the lowest one there is. */
u64 *tdp_find(struct quire_vm *vm, struct table *root, gfn_t gfn, u32 *level);

/* --- mmu_lock exclusive --- */

/* Take away all leaves of [start, end) in every address space of the mask @as_mask. */
void tdp_zap_range(struct quire_vm *vm, u32 as_mask, gfn_t start, gfn_t end,
		   struct flush_debt *debt) REQUIRES(&vm->mmu_lock);

/* Make every root of the VM invalid and unlink it into @debt. The caller raises
 * QUIRE_REQ_RELOAD, which makes vCPUs load another root, before it settles. */
void tdp_roots_invalidate(struct quire_vm *vm, struct flush_debt *debt) REQUIRES(&vm->mmu_lock);

/* --- no mmu_lock, no read section --- */

/* The root of @as_id, made if there is none: NULL when there is no memory. Takes pages_lock. */
struct table *tdp_root_make(struct quire_vm *vm, struct table_cache *tables, u32 as_id);
static inline struct table *tdp_root_get(struct quire_vm *vm, struct table_cache *tables, u32 as_id)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as_id]);

	mmu_assert_free(vm);
	return likely(root != NULL) ? root : tdp_root_make(vm, tables, as_id);
}

/*
 * Pay the flush, wait for a grace period, then sweep and free the unlinked tables. To flush with
 * mmu_lock held, call flush_debt_pay().
 */
void tdp_debt_settle(struct quire_vm *vm, struct flush_debt *debt);

#endif
