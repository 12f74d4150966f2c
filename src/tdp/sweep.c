/* Sweeping unlinked tables: what they mapped is counted off, and they are freed. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

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
			tdp_trace_change(&entries[i], entries[i], f->nonpresent);
}

/* Count what the unlinked tables mapped, and collect the tables below them. */
static struct table *sweep_one(struct quire_vm *vm, struct table *table, u64 leaves[5])
{
	const struct entry_format *f = &vm->tdp_format;
	u64 *entries = table_entries(table);
	struct table *below = NULL;

	CHECK(!table->nx_listed && !table->shadowed);
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
			struct table *child = table_of(entry_table(f, entry));

			CHECK(child->level == table->level - 1);
			CHECK(child->parent == &entries[i]);
			child->next = below;
			below = child;
		}
	}
	return below;
}

static struct table *list_join(struct table *first, struct table *second)
{
	struct table *last = first;

	CHECK(!first || first != second);
	if (!first)
		return second;
	while (last->next)
		last = last->next;
	last->next = second;
	return first;
}

static void free_roots(struct quire_vm *vm, struct table *roots)
{
	while (roots) {
		struct table *root = roots;

		roots = root->next;
		arena_free_root(&vm->arena, root);
	}
}

void tdp_debt_settle(struct quire_vm *vm, struct flush_debt *debt)
{
	struct table *todo = debt->tables, *done = NULL;
	struct table *roots = NULL;
	u64 leaves[5] = {0}, count = 0, in_roots = 0;

	mmu_assert_free(vm);
	flush_debt_pay(debt);
	CHECK(!todo == !debt->table_count);
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
		count++;
		todo = list_join(below, todo);
		/* A root of several tables goes with its first. */
		in_roots += table->root_index != 0;
		if (table->root_index > 1)
			continue;
		table->next = table->root_index ? roots : done;
		*(table->root_index ? &roots : &done) = table;
	}
	CHECK(!debt->owed && count >= debt->table_count);
	for (u32 level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_1G; level++)
		atomic_add_relaxed_u64(&vm->leaves[level], -leaves[level]);
	arena_free_list(&vm->arena, done, count - in_roots);
	free_roots(vm, roots);
	debt->tables = NULL;
	debt->table_count = 0;
}
