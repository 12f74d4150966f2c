/* The store gateway of the TDP tables: every visible change of an entry, and what it owes. */
#include "src/tdp/tdp.h"

#include <quire/trace.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/gfn/nx.h"
#include "src/vm/locks.h"

static inline bool loses_x(const struct entry_format *f, u64 old, u64 new)
{
	u64 told_by = f->executable | f->noexec | f->aside << f->aside_shift;

	return unlikely((old ^ new) & told_by) && entry_may_execute(f, old) &&
	       !entry_may_execute(f, new);
}

/*
 * What a transition owes:
 *   nothing present -> anything        nothing
 *   leaf -> not present                a flush, before the page is reused
 *   table -> not present, or a leaf    a flush, before the table is freed
 *   huge leaf -> table                 nothing: the children map the same
 *   leaf -> leaf, W or X lost          a flush, before the change is relied upon
 *   leaf -> leaf, mmu_writable lost    the same: aging may have taken W without a flush
 *   A or D cleared                     nothing; D is never cleared here without W
 *   rights added                       nothing
 */
static bool change_owes_flush(const struct entry_format *f, u32 level, u64 old, u64 new)
{
	u64 lost;

	if (!entry_is_present(f, old))
		return false;
	if (!entry_is_present(f, new))
		return true;
	if (!entry_is_leaf(f, old, level))
		return entry_is_leaf(f, new, level);
	if (!entry_is_leaf(f, new, level))
		return false;
	lost = old & ~new;
	return (lost & (f->writable | f->mmu_writable)) || loses_x(f, old, new);
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
	struct table *table = table_of(entry_table(old));

	if (BROKEN(change->debt))
		return;
	nx_list_remove(change->vm, table);
	table->next = change->debt->tables;
	change->debt->tables = table;
	change->debt->table_count++;
}

static void account(const struct tdp_change *change, u32 level, u64 old, u64 new)
{
	const struct entry_format *f = change->vm->format;
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
	if (was_leaf && is_leaf && BROKEN(entry_pfn(old).v == entry_pfn(new).v))
		vm_poison(change->vm);
	if (was_leaf != is_leaf)
		count_leaf(change, level, is_leaf ? 1 : -UINT64_C(1));
	if (change_owes_flush(f, level, old, new) && !BROKEN(change->debt))
		flush_debt_owe(change->debt);
	if (!was_leaf)
		unlink_table(change, old);
}

static __attribute__((noinline, cold)) void trace_change(const u64 *entry, u64 old, u64 new)
{
	const struct table *table = table_of(entry);
	u64 index = (u64)(entry - table_entries(table));
	u64 gfn = table->gfn.v + index * level_pages((enum quire_level)table->level);

	QUIRE_TRACE(kvm_tdp_mmu_spte_changed, table->as_id, gfn, table->level, old, new);
}

enum tdp_result tdp_change_entry(const struct tdp_change *change, u64 *entry, u32 level, u64 *old,
				 u64 new)
{
	mmu_assert_shared(change->vm);
	if (!atomic_cmpxchg_u64(entry, old, new))
		return TDP_LOST;
	account(change, level, *old, new);
	if (quire_trace_is_on()) {
		trace_change(entry, *old, new);
		return TDP_TRACED;
	}
	return TDP_DONE;
}

/* An entry with all of @needed keeps @kept alone; and how far above W the bits stand. */
struct protect_bits {
	u64 needed, kept;
	u64 writable;
	u32 to_present, to_dirty;
};

/* One of 64: shifting is what vectors can do. */
static inline u64 protect_plainly(u64 *entry, const struct protect_bits *bits)
{
	u64 old = sole_writer_load_u64(entry);
	u64 hit = old & (old >> bits->to_present) & bits->writable;

	/* Another thread's store here would be lost: let the scheduler try. */
	ATOMIC_POINT(entry);
	sole_writer_store_u64(entry, old & ~(hit | hit << bits->to_dirty));
	return hit;
}

/* What @old may keep; one of few: a comparison costs less than shifts. */
static inline u64 protect_kept(u64 old, const struct protect_bits *bits)
{
	return (old & bits->needed) == bits->needed ? bits->kept : UINT64_MAX;
}

static struct protect_bits protect_bits(const struct entry_format *f)
{
	u32 writable = (u32)__builtin_ctzll(f->writable);

	return (struct protect_bits){
	    .writable = f->writable,
	    .to_present = (u32)__builtin_ctzll(f->present) - writable,
	    /* Without D it is W itself. */
	    .to_dirty = f->dirty ? (u32)__builtin_ctzll(f->dirty) - writable : 0,
	    .needed = f->present | f->writable,
	    .kept = ~(f->writable | f->dirty),
	};
}

static u64 protect_all(const struct protect_bits *bits, u64 *entries)
{
	u64 any = 0;

	/* The compiler makes vectors of this loop. */
	for (u32 i = 0; i < 64; i++)
		any |= protect_plainly(&entries[i], bits);
	return any;
}

static u64 protect_each(const struct protect_bits *bits, u64 *entries, u64 mask)
{
	u64 kept = UINT64_MAX;

	for (; mask; mask &= mask - 1) {
		u64 *entry = &entries[__builtin_ctzll(mask)];
		u64 old = sole_writer_load_u64(entry), keep = protect_kept(old, bits);

		ATOMIC_POINT(entry);
		sole_writer_store_u64(entry, old & keep);
		kept &= keep;
	}
	return ~kept;
}

/*
 * Guest mode is closed and mmu_lock exclusive. Mostly the mask names one entry or two, and which of
 * the two cannot be foreseen: so the lowest and the highest are done without asking whether they
 * are the same, both loaded before the first is stored.
 */
static inline u64 protect_alone(const struct protect_bits *bits, u64 *entries, u64 mask)
{
	u64 *lowest, *highest, low, high, low_kept, high_kept, any;

	if (unlikely(mask == UINT64_MAX))
		return protect_all(bits, entries);
	if (unlikely(!mask))
		return 0;
	lowest = &entries[__builtin_ctzll(mask)];
	highest = &entries[63 - __builtin_clzll(mask)];
	low = sole_writer_load_u64(lowest);
	high = sole_writer_load_u64(highest);
	low_kept = protect_kept(low, bits);
	high_kept = protect_kept(high, bits);
	ATOMIC_POINT(lowest);
	sole_writer_store_u64(lowest, low & low_kept);
	sole_writer_store_u64(highest, high & high_kept);
	any = ~(low_kept & high_kept);
	mask &= mask - 1;
	if (unlikely(mask & (mask - 1)))
		any |= protect_each(bits, entries, mask);
	return any;
}

static u64 protect_shared(const struct entry_format *f, u64 *entries, u64 mask)
{
	u64 any = 0;

	for (; mask; mask &= mask - 1) {
		u64 *entry = &entries[__builtin_ctzll(mask)];
		u64 old = atomic_load_relaxed_u64(entry);

		/* A failed compare-exchange is a walker that set A or D, or another change. */
		while (entry_is_present(f, old) && entry_is_writable(f, old)) {
			u64 new = old & ~(f->writable | f->dirty);

			any = 1;
			if (!atomic_cmpxchg_u64(entry, &old, new))
				continue;
			if (quire_trace_is_on())
				trace_change(entry, old, new);
			break;
		}
	}
	return any;
}

/* How a run of words is armed. */
struct protector {
	const struct entry_format *format;
	struct protect_bits bits;
	bool alone;
};

/* May entries be written plainly? A trace wants to know of each. */
static bool writes_alone(const struct tdp_change *change)
{
	return flush_domain_is_closed(&change->vm->flush) && !quire_trace_is_on();
}

/* Nonzero: a flush is owed. */
static inline u64 protect_some(const struct protector *by, u64 *entries, u64 mask)
{
	u64 any;

	if (by->alone ? MUTANT(alone_unarmed) : MUTANT(shared_unarmed))
		return 0;
	any = by->alone ? protect_alone(&by->bits, entries, mask)
			: protect_shared(by->format, entries, mask);
	return (by->alone ? MUTANT(alone_unflushed) : MUTANT(shared_unflushed)) ? 0 : any;
}

static struct protector protector_of(const struct tdp_change *change)
{
	const struct entry_format *f = change->vm->format;

	return (struct protector){f, protect_bits(f), writes_alone(change)};
}

void tdp_protect_entries(const struct tdp_change *change, u64 *entries, u64 mask)
{
	const struct protector by = protector_of(change);

	mmu_assert_shared(change->vm);
	if (protect_some(&by, entries, mask))
		flush_debt_owe(change->debt);
}

u64 tdp_protect_words(const struct tdp_change *change, const struct tdp_bits *bits)
{
	const struct protector by = protector_of(change);
	const struct tdp_word *words = bits->words, *end = words + bits->count;
	const u64 *masks = bits->masks;
	u64 any = 0, unknown = 0;

	mmu_assert_shared(change->vm);
	for (const struct tdp_word *word = words; word < end; word++) {
		u64 *entries = word->entries, mask = masks[word->index];

		if (unlikely(!entries))
			unknown++;
		else
			any |= protect_some(&by, entries, mask);
	}
	if (any)
		flush_debt_owe(change->debt);
	return unknown;
}

/* Of the lowest level; unlinked, so that the compiler may make vectors of plain loads. */
static u64 count_present(const struct entry_format *f, const u64 *entries)
{
	u32 present = (u32)__builtin_ctzll(f->present);
	u64 count = 0;

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		count += entries[i] >> present & 1;
	return count;
}

static void trace_sweep(const struct entry_format *f, const u64 *entries)
{
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		if (entry_is_present(f, entries[i]))
			trace_change(&entries[i], entries[i], f->nonpresent);
}

/* Count what the unlinked tables mapped, and collect the tables below them. */
static struct table *sweep_one(struct quire_vm *vm, struct table *table, u64 leaves[5])
{
	const struct entry_format *f = vm->format;
	u64 *entries = table_entries(table);
	struct table *below = NULL;

	if (quire_trace_is_on())
		trace_sweep(f, entries);
	if (table->level == QUIRE_LEVEL_4K) {
		leaves[QUIRE_LEVEL_4K] += count_present(f, entries);
		return NULL;
	}
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		u64 entry = entries[i];

		if (!entry_is_present(f, entry))
			continue;
		if (entry_is_leaf(f, entry, table->level)) {
			leaves[table->level]++;
		} else {
			struct table *child = table_of(entry_table(entry));

			child->next = below;
			below = child;
		}
	}
	return below;
}

static struct table *list_join(struct table *first, struct table *second)
{
	struct table *last = first;

	if (!first)
		return second;
	while (last->next)
		last = last->next;
	last->next = second;
	return first;
}

void tdp_debt_settle(struct quire_vm *vm, struct flush_debt *debt)
{
	struct table *todo = debt->tables, *done = NULL;
	u64 leaves[5] = {0}, count = 0;

	mmu_assert_free(vm);
	flush_debt_pay(debt);
	if (!todo)
		return;
	/* I-52. After this no thread walks the unlinked tables: plain loads from here on. */
	if (!MUTANT(grace_skipped))
		reclaim_synchronize();
	while (todo) {
		struct table *table = todo;
		struct table *below;

		todo = table->next;
		nx_list_remove(vm, table);
		below = sweep_one(vm, table, leaves);
		table->next = done;
		done = table;
		count++;
		todo = list_join(below, todo);
	}
	for (u32 level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_1G; level++)
		atomic_add_relaxed_u64(&vm->leaves[level], -leaves[level]);
	arena_free_list(&vm->arena, done, count);
	debt->tables = NULL;
	debt->table_count = 0;
}
