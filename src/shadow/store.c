/* The store gateway of the shadow tables: every change of an entry, and what it owes. */
#include "src/base/assert.h"
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

/* Anything that was there and is not, or allows less. Adding rights or entries owes nothing. */
static bool owes_flush(u64 old, u64 new, u32 level)
{
	const struct entry_format *f = SHADOW_FORMAT;

	if (!entry_is_present(f, old))
		return false;
	if (!entry_is_present(f, new) ||
	    entry_is_leaf(f, old, level) != entry_is_leaf(f, new, level))
		return true;
	return (old & ~new &SHADOW_USER) ||
	       (entry_is_writable(f, old) && !entry_is_writable(f, new)) ||
	       (entry_is_executable(f, old) && !entry_is_executable(f, new));
}

static bool maps(u64 entry, u32 level)
{
	return entry_is_present(SHADOW_FORMAT, entry) && entry_is_leaf(SHADOW_FORMAT, entry, level);
}

u64 shadow_store(const struct shadow_change *change, u64 *entry, u32 level, u64 new)
{
	struct quire_vm *vm = change->vm;
	u64 old = atomic_load_relaxed_u64(entry);

	mmu_assert_exclusive(change->vm);
	/* I-73. Processors and aging change it meanwhile, but only A and D of what is present. */
	if (!entry_is_present(SHADOW_FORMAT, old))
		atomic_store_release_u64(entry, new);
	else
		while (!atomic_cmpxchg_u64(entry, &old, new))
			;
	if (maps(old, level) && maps(new, level) && BROKEN(entry_pfn(old).v == entry_pfn(new).v))
		vm_poison(vm);
	if (maps(old, level) != maps(new, level))
		atomic_add_relaxed_u64(&vm->leaves[level], maps(new, level) ? 1 : -UINT64_C(1));
	if (owes_flush(old, new, level))
		flush_debt_owe(change->debt);
	return old;
}
