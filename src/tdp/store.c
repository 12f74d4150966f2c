/* The store gateway of the TDP tables: every visible change of an entry, and what it owes. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

static inline bool loses_x(const struct entry_format *f, u64 old, u64 new)
{
	u64 told_by = f->executable | f->executable_user | f->noexec | f->aside << f->aside_shift;

	if (likely(!((old ^ new) & told_by)))
		return false;
	if (f->executable_user)
		return (old & ~new) & (f->executable | f->executable_user);
	return entry_may_execute(f, old) && !entry_may_execute(f, new);
}

/*
 * What a transition owes:
 *   nothing present -> anything        nothing: account() does not ask
 *   leaf -> not present                a flush, before the page is reused
 *   table -> not present, or a leaf    a flush, before the table is freed
 *   huge leaf -> table                 nothing: the children map the same
 *   leaf -> leaf, W, X or R lost         a flush, before the change is relied upon
 *   leaf -> leaf, mmu_writable lost    the same: aging may have taken W without a flush
 *   A or D cleared                     nothing; D is never cleared here without W
 *   rights added                       nothing
 */
static bool change_owes_flush(const struct entry_format *f, u32 level, u64 old, u64 new)
{
	u64 lost;

	CHECK(entry_is_present(f, old));
	if (!entry_is_present(f, new))
		return true;
	if (!entry_is_leaf(f, old, level))
		return entry_is_leaf(f, new, level);
	if (!entry_is_leaf(f, new, level))
		return false;
	lost = old & ~new;
	return (lost & (f->writable | f->mmu_writable | f->unreadable)) || loses_x(f, old, new);
}

/* A vCPU's counts are written by the thread that runs it alone. */
static void count_leaf(const struct tdp_change *change, u32 level, u64 delta)
{
	u64 *count = &change->leaves[level];

	if (change->leaves == change->vm->leaves)
		atomic_add_relaxed_u64(count, delta);
	else
		atomic_store_relaxed_u64(count, *count + delta);
}

/* Sweep the table that @old pointed to when the debt is settled. */
static void unlink_table(const struct tdp_change *change, u64 old)
{
	struct table *table = table_of(entry_table(&change->vm->tdp_format, old));

	if (BROKEN(change->debt))
		return;
	CHECK(!table->shadowed && table->level < change->vm->tdp_format.root_level);
	CHECK(!change->debt->tables == !change->debt->table_count);
	nx_list_remove(change->vm, table);
	table->next = change->debt->tables;
	change->debt->tables = table;
	change->debt->table_count++;
}

static void account(const struct tdp_change *change, u32 level, u64 old, u64 new)
{
	const struct entry_format *f = &change->vm->tdp_format;
	bool is_present = entry_is_present(f, new);
	bool is_leaf = is_present && entry_is_leaf(f, new, level);
	bool was_leaf;

	if (!entry_is_present(f, old)) {
		if (is_leaf)
			count_leaf(change, level, 1);
		/* Nothing over nothing is a mistake, but for MMIO entries and their end. */
		if (!is_present && BROKEN(old != f->nonpresent || new != old))
			vm_poison(change->vm);
		return;
	}
	was_leaf = entry_is_leaf(f, old, level);
	/* A vCPU may still use the old page: it must not turn into another without a flush. */
	if (was_leaf && is_leaf && BROKEN(entry_same_pfn(f, old, new)))
		vm_poison(change->vm);
	if (was_leaf != is_leaf)
		count_leaf(change, level, is_leaf ? 1 : -UINT64_C(1));
	if (change_owes_flush(f, level, old, new) && !BROKEN(change->debt))
		flush_debt_owe(change->debt);
	if (!was_leaf)
		unlink_table(change, old);
}

void tdp_trace_change(const u64 *entry, u64 old, u64 new)
{
	const struct table *table = table_of(entry);
	u64 index = (u64)(entry - table_entries(table));
	u64 gfn = table->gfn.v + index * level_pages((enum quire_level)table->level);

	QUIRE_TRACE_SEEN(kvm_tdp_mmu_spte_changed, gfn, old, new, table->level, table->as_id);
}

/* May some processor take the old and the new entry for two sizes of one page? */
static bool must_break(const struct entry_format *f, u32 level, u64 old, u64 new)
{
	return entry_is_present(f, old) && entry_is_present(f, new) &&
	       entry_is_leaf(f, old, level) != entry_is_leaf(f, new, level);
}

/*
 * The entry is frozen, so no other thread changes it: once no vCPU can have the old one in its TLB,
 * the new one may come. A vCPU in guest mode needs no lock to get out of it.
 */
static void break_and_make(const struct tdp_change *change, u64 *entry, u64 new)
{
	struct flush_debt debt;

	CHECK(entry_is_frozen(&change->vm->tdp_format, atomic_load_relaxed_u64(entry)));
	CHECK(!flush_domain_is_closed(&change->vm->flush));
	flush_debt_init(&debt, &change->vm->flush);
	flush_debt_owe(&debt);
	if (MUTANT(break_unflushed))
		flush_debt_forgive(&debt, "mutant");
	flush_debt_pay(&debt);
	/* What @new leads to was filled before the entry froze, by a compare-exchange that is a
	 * full fence. Partner: the acquire load in walk_wait_thawed(). */
	atomic_store_relaxed_u64(entry, new);
}

enum tdp_result tdp_change_entry(const struct tdp_change *change, u64 *entry, u32 level, u64 *old,
				 u64 new)
{
	bool breaks;

	mmu_assert_shared(change->vm);
	CHECK(table_of(entry)->level == level);
	CHECK(entry_is_legal(&change->vm->tdp_format, new, level));
	breaks =
	    change->vm->tdp_format.breaks && must_break(&change->vm->tdp_format, level, *old, new);
	if (!atomic_cmpxchg_u64(entry, old, breaks ? change->vm->tdp_format.frozen : new))
		return TDP_LOST;
	if (unlikely(breaks))
		break_and_make(change, entry, new);
	account(change, level, *old, new);
	if (quire_trace_is_on()) {
		tdp_trace_change(entry, *old, new);
		return TDP_TRACED;
	}
	return TDP_DONE;
}
