/* Roots: the top table of an address space. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

/* One table of the root, of which @index tables stand before it. */
static void prepare_table(struct quire_vm *vm, struct table *table, u32 index, u32 as_id)
{
	const struct entry_format *f = &vm->tdp_format;
	u64 pages = level_pages((enum quire_level)f->root_level) * QUIRE_TABLE_ENTRIES;

	CHECK(as_id < vm->address_spaces);
	CHECK(index < entry_root_tables(f));
	nx_table_init(table, (gfn_t){index * pages}, as_id);
	table->level = f->root_level;
	table->parent = NULL;
	table->has_mmio = 0;
	table->root_index = entry_root_tables(f) > 1 ? (u8)(index + 1) : 0;
	table_fill(table, f->nonpresent);
}

static struct table *take_root(struct quire_vm *vm, struct table_cache *tables, u32 as_id)
{
	u32 count = entry_root_tables(&vm->tdp_format);
	struct table *root = count > 1 ? arena_take_root(&vm->arena) : table_cache_take(tables);

	for (u32 i = 0; root && i < count; i++)
		prepare_table(vm, &root[i], i, as_id);
	return root;
}

static void give_root_back(struct quire_vm *vm, struct table_cache *tables, struct table *root)
{
	if (root->root_index)
		arena_free_root(&vm->arena, root);
	else
		table_cache_put(tables, root);
}

struct table *tdp_root_make(struct quire_vm *vm, struct table_cache *tables, u32 as_id)
{
	struct table **slot = &vm->roots.valid[as_id];
	struct table *root, *made;

	mmu_assert_free(vm);
	CHECK(as_id < vm->address_spaces);
	if (table_cache_fill(tables, &vm->arena, TDP_WALK_TABLES + 1))
		return NULL;
	made = take_root(vm, tables, as_id);
	if (!made)
		return NULL;
	mutex_lock(&vm->roots.pages_lock);
	root = atomic_load_relaxed_ptr(slot);
	if (!root)
		atomic_store_release_ptr(slot, made);
	mutex_unlock(&vm->roots.pages_lock);
	if (root)
		give_root_back(vm, tables, made);
	else
		root = made;
	CHECK(root->level == vm->tdp_format.root_level && root->as_id == as_id);
	return root;
}

static void unlink_table(struct flush_debt *debt, struct table *table)
{
	CHECK(!debt->tables == !debt->table_count);
	table->next = debt->tables;
	debt->tables = table;
	debt->table_count++;
}

/*
 * A vCPU uses a root only in guest mode, where QUIRE_REQ_RELOAD reaches it, or in a fault, which
 * compares its root with the valid one under mmu_lock. So an invalid root has no users once
 * every vCPU took the request, and needs no reference count.
 */
void tdp_roots_invalidate(struct quire_vm *vm, struct flush_debt *debt)
{
	mmu_assert_exclusive(vm);
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		struct table *root;

		mutex_lock(&vm->roots.pages_lock);
		root = atomic_load_relaxed_ptr(&vm->roots.valid[as]);
		/* Before the request to reload, which is a full fence: see quire_vcpu_enter(). */
		atomic_store_relaxed_ptr(&vm->roots.valid[as], NULL);
		mutex_unlock(&vm->roots.pages_lock);
		if (!root)
			continue;
		CHECK(root->level == vm->tdp_format.root_level && root->as_id == as);
		for (u32 i = 0; i < entry_root_tables(&vm->tdp_format); i++)
			unlink_table(debt, &root[i]);
	}
}

gfn_t tdp_walk(struct quire_vm *vm, u32 as_id, const struct tdp_visit *visit, gfn_t start,
	       gfn_t end)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as_id]);
	struct walk walk = {
	    .format = &vm->tdp_format,
	    .lowest = visit->lowest,
	    .visit = visit->visit,
	    .ctx = visit->ctx,
	    .budget = visit->budget,
	};

	if (!root)
		return end;
	walk.root = table_entries(root);
	return walk_range(&walk, start, end);
}
