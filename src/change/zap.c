/* Zapping through every MMU of the VM. */

#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/change/change.h"
#include "src/vm/locks.h"

void change_zap_range(struct quire_vm *vm, u32 as_mask, gfn_t start, gfn_t end,
		      struct flush_debt *debt)
{
	struct shadow_zap nested = {
	    .as_mask = as_mask, .range = shadow_range_of(0, start, end), .tracked = start};

	mmu_assert_exclusive(vm);
	tdp_zap_range(vm, as_mask, start, end, debt);
	while (shadow_zap_range(vm, &nested, debt) || shadow_zap_obsolete(vm, debt))
		change_yield(vm, debt);
}

/* A few shadow pages in one hold of the lock. No vCPU loads them as roots any more. */
static int zap_obsolete(struct quire_vm *vm)
{
	struct flush_debt debt;
	int more;

	change_lock(vm, &debt);
	more = shadow_zap_obsolete(vm, &debt);
	change_settle_unlock(vm, &debt);
	return more;
}

void change_zap_all_begin(struct quire_vm *vm, struct flush_debt *debt)
{
	mmu_assert_exclusive(vm);
	CHECK(vm->mmu_valid_gen <= 1);
	flush_debt_init(debt, &vm->flush);
	/* Shadow pages carry it; of the TDP MMU an invalid root is out of reach at once. */
	vm->mmu_valid_gen ^= 1;
	QUIRE_TRACE(kvm_mmu_zap_all_fast, vm->mmu_valid_gen,
		    atomic_load_relaxed_u64(&vm->arena.used));
	tdp_roots_invalidate(vm, debt);
	shadow_make_obsolete(vm);
	/*
	 * A vCPU that loads another root drops its translations: that is the flush. While the lock
	 * is held, for the next change that takes memory away finds no leaf of it any more, and
	 * must not find a vCPU that still walks the old root either.
	 */
	if (!MUTANT(roots_left_late))
		flush_domain_request(&vm->flush, QUIRE_REQ_RELOAD);
}

void change_zap_all_end(struct quire_vm *vm, struct flush_debt *debt)
{
	mmu_assert_free(vm);
	if (MUTANT(roots_left_late))
		flush_domain_request(&vm->flush, QUIRE_REQ_RELOAD);
	while (zap_obsolete(vm))
		;
	flush_debt_forgive(debt, "loading a root flushes");
	tdp_debt_settle(vm, debt);
}

void change_zap_all(struct quire_vm *vm)
{
	struct flush_debt debt;

	mmu_assert_free(vm);
	biglock_write_lock(&vm->mmu_lock);
	change_zap_all_begin(vm, &debt);
	change_flush_unlock(vm);
	change_zap_all_end(vm, &debt);
}
