/* Dirty logging of nested guests. */
#include "src/change/nested.h"

#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/vm/locks.h"

void change_nested_split(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end)
{
	struct shadow_split split = {
	    .as_id = as_id, .start = start, .end = end, .level = QUIRE_LEVEL_1G};
	struct flush_debt debt;
	int err = 0;

	slots_assert(vm);
	if (!shadow_of(vm))
		return;
	change_lock(vm, &debt);
	while (!err && shadow_split_next(vm, &split, &debt) == -EAGAIN) {
		flush_debt_pay(&debt);
		change_flush_unlock(vm);
		err = shadow_split_topup(vm);
		biglock_write_lock(&vm->mmu_lock);
	}
	flush_debt_pay(&debt);
	change_flush_unlock(vm);
}

/* Let others have the lock. What was protected so far owes its flush to the whole operation. */
static void protect_yield(struct quire_vm *vm) REQUIRES(&vm->mmu_lock)
{
	change_flush_unlock(vm);
	biglock_write_lock(&vm->mmu_lock);
}

static void protect_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			  struct flush_debt *debt) REQUIRES(&vm->mmu_lock)
{
	struct shadow_range range = shadow_range_of(as_id, start, end);

	mmu_assert_exclusive(vm);
	CHECK(start.v < end.v && as_id < vm->address_spaces);
	while (shadow_write_protect(vm, &range, debt))
		protect_yield(vm);
}

void change_nested_protect(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			   struct flush_debt *debt)
{
	slots_assert(vm);
	if (!shadow_of(vm) || MUTANT(nested_start_unprotected))
		return;
	biglock_write_lock(&vm->mmu_lock);
	protect_range(vm, as_id, start, end, debt);
	change_flush_unlock(vm);
}

/* The set bits of @mask in runs, each one call. */
static void protect_runs(struct quire_vm *vm, u32 as_id, gfn_t base, u64 mask,
			 struct flush_debt *debt) REQUIRES(&vm->mmu_lock)
{
	mmu_assert_exclusive(vm);
	while (mask) {
		u32 skip = (u32)__builtin_ctzll(mask);
		u64 rest = ~(mask >> skip);
		u32 count = rest ? (u32)__builtin_ctzll(rest) : 64;
		gfn_t start = {base.v + skip};

		protect_range(vm, as_id, start, (gfn_t){start.v + count}, debt);
		mask &= ~((count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << skip);
	}
}

/*
 * Words of a log whose gfns are looked at in one hold of the lock: 64 heads each. Of those that are
 * mapped so many change that the hold is over before.
 */
#define WORDS_AT_ONCE (SHADOW_PIECE_CHANGES / 8 + 1)

void change_nested_protect_span(struct quire_vm *vm, const struct log_span *span,
				struct flush_debt *debt)
{
	u64 changes, words = 0; /* in this hold */

	slots_assert(vm);
	if (!shadow_of(vm) || MUTANT(nested_unarmed))
		return;
	CHECK(!flush_domain_is_closed(&vm->flush));
	biglock_write_lock(&vm->mmu_lock);
	changes = shadow_of(vm)->changes;
	for (u64 i = 0; i < span->nonzero; i++, words++) {
		u64 index = span->named[i].index;

		if (words == WORDS_AT_ONCE ||
		    shadow_of(vm)->changes - changes >= SHADOW_PIECE_CHANGES) {
			protect_yield(vm);
			changes = shadow_of(vm)->changes;
			words = 0;
		}
		protect_runs(vm, span->as_id, (gfn_t){span->base.v + index * 64},
			     span->masks[index], debt);
	}
	change_flush_unlock(vm);
}

void change_nested_recover(struct quire_vm *vm, struct shadow_recovery *recovery)
{
	struct flush_debt debt;
	int more = 1;

	slots_assert(vm);
	if (!shadow_of(vm))
		return;
	while (more) {
		change_lock(vm, &debt);
		reclaim_enter();
		more = shadow_recover(vm, recovery, &debt);
		reclaim_leave();
		if (MUTANT(nested_recover_unflushed))
			flush_debt_forgive(&debt, "mutant");
		change_settle_unlock(vm, &debt);
	}
}
