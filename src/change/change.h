/* VM-wide changes: the pieces they share. */
#ifndef QUIRE_CHANGE_CHANGE_H
#define QUIRE_CHANGE_CHANGE_H

#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/gmem/gmem.h"
#include "src/shadow/shadow.h"
#include "src/tdp/tdp.h"
#include "src/vm/vm.h"

/*
 * A change that takes memory away has one shape: begin the invalidation, zap, pay the flush, change
 * what the memory is, end the invalidation, settle the debt.
 */

/* mmu_lock exclusive, and @debt is made: nothing is owed yet. */
static inline void change_lock(struct quire_vm *vm, struct flush_debt *debt) ACQUIRES(&vm->mmu_lock)
{
	flush_debt_init(debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
}

/*
 * Release it. Zapped shadow pages are flushed and freed first: until then vCPUs may walk them.
 * Those that lost their last parent go afterwards.
 */
static inline void change_flush_unlock(struct quire_vm *vm) RELEASES(&vm->mmu_lock)
{
	if (unlikely(shadow_owes(vm))) {
		struct flush_debt debt;

		flush_debt_init(&debt, &vm->flush);
		shadow_commit(vm, &debt);
	}
	shadow_unlock(vm);
}

/*
 * Pay @debt and release mmu_lock: from here on no vCPU reaches what was taken away. The tables wait
 * for tdp_debt_settle(). With a mutant on, the flush is forgotten (@unflushed) or comes after the
 * release (@late).
 */
static inline void change_pay_unlock(struct quire_vm *vm, struct flush_debt *debt, int unflushed,
				     int late) RELEASES(&vm->mmu_lock)
{
	if (unflushed)
		flush_debt_forgive(debt, "mutant");
	if (!late)
		flush_debt_pay(debt);
	change_flush_unlock(vm);
}

/* The last step of an invalidation: faults in its range may install again. */
static inline void change_end_invalidation(struct quire_vm *vm)
{
	biglock_write_lock(&vm->mmu_lock);
	invalidation_end(vm);
	change_flush_unlock(vm);
}

/* Pay @debt, release mmu_lock, and free what was unlinked under it. */
static inline void change_settle_unlock(struct quire_vm *vm, struct flush_debt *debt)
    RELEASES(&vm->mmu_lock)
{
	shadow_commit(vm, debt);
	change_flush_unlock(vm);
	tdp_debt_settle(vm, debt);
}

/*
 * Others may have mmu_lock between two pieces of a change. What they find gone owes no flush to
 * them, so @debt is paid first.
 */
static inline void change_yield(struct quire_vm *vm, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock)
{
	if (MUTANT(piece_unflushed))
		flush_debt_forgive(debt, "mutant");
	shadow_commit(vm, debt);
	flush_debt_pay(debt);
	change_flush_unlock(vm);
	biglock_write_lock(&vm->mmu_lock);
}

/* --- mmu_lock exclusive --- */

/*
 * Take [start, end) away from the address spaces in @as_mask. Nested mappings go in pieces, and
 * mmu_lock is dropped between them: from before the call to the end of the change something else
 * must keep faults from mapping the range again (an invalidation in progress, or an invalid slot).
 */
void change_zap_range(struct quire_vm *vm, u32 as_mask, gfn_t start, gfn_t end,
		      struct flush_debt *debt) REQUIRES(&vm->mmu_lock);

/*
 * change_zap_all() in two steps. Begin: when the lock is dropped no vCPU walks the old tables any
 * more. End, with no lock held: they are freed. @debt is made by begin and spent by end.
 */
void change_zap_all_begin(struct quire_vm *vm, struct flush_debt *debt) REQUIRES(&vm->mmu_lock);

/* --- no mmu_lock, no read section --- */

/* Every mapping of the VM goes, by making its roots invalid. */
void change_zap_all(struct quire_vm *vm);
void change_zap_all_end(struct quire_vm *vm, struct flush_debt *debt);

/* --- no lock, no read section --- */

/* At most @pages shadow pages from now on; some go if there are more. Takes slots_lock and
 * mmu_lock. */
void change_set_quota(struct quire_vm *vm, u64 pages);

/* --- the inode's invalidate lock --- */

/*
 * Pages of an inode are about to go away: begin the invalidation of all gfns that show them, zap
 * and flush. End balances it: both find the same bindings, since the invalidate lock is held over
 * the two.
 */
struct gmem_invalidation {
	struct gmem_inode *inode;
	struct quire_gmem *only; /* one file's view goes, not the pages; NULL: of every file */
	u64 first, npages;
};
void change_gmem_begin(const struct gmem_invalidation *invalidation);
void change_gmem_end(const struct gmem_invalidation *invalidation);

/* --- slots_lock --- */

/*
 * Split what maps the range huge, for the guest and for nested guests. -ENOMEM: a huge leaf stays;
 * a log has it write-protected, and it splits at the first write. Takes mmu_lock, in holds that do
 * not grow with the range.
 */
must_check int change_split_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end)
    REQUIRES(&vm->slots_lock);
/* @slot has just started to log, and is published: split, protect, flush. */
void change_log_start(struct quire_vm *vm, const struct memslot *slot) REQUIRES(&vm->slots_lock);
/* The slot has stopped to log: huge pages come back. */
void change_log_stop(struct quire_vm *vm, const struct memslot *slot) REQUIRES(&vm->slots_lock);

#endif
