/* Roots: the top table of an address space. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

static void root_prepare(struct quire_vm *vm, struct table *table, u32 as_id)
{
	CHECK(lock_is_held(&vm->roots.pages_lock, LOCK_EXCLUSIVE));
	CHECK(as_id < vm->address_spaces);
	CHECK(!vm->roots.valid[as_id]);
	nx_table_init(table, (gfn_t){0}, as_id);
	table->level = TDP_ROOT_LEVEL;
	table->parent = NULL;
	table_fill(table, vm->tdp_format.nonpresent);
}

struct table *tdp_root_make(struct quire_vm *vm, struct table_cache *tables, u32 as_id)
{
	struct table **slot = &vm->roots.valid[as_id];
	struct table *root;

	mmu_assert_free(vm);
	CHECK(as_id < vm->address_spaces);
	if (table_cache_fill(tables, &vm->arena, TDP_WALK_TABLES + 1))
		return NULL;
	mutex_lock(&vm->roots.pages_lock);
	root = atomic_load_relaxed_ptr(slot);
	if (!root) {
		root = table_cache_take(tables);
		root_prepare(vm, root, as_id);
		atomic_store_release_ptr(slot, root);
	}
	CHECK(root->level == TDP_ROOT_LEVEL && root->as_id == as_id);
	mutex_unlock(&vm->roots.pages_lock);
	return root;
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
		root = atomic_exchange_ptr(&vm->roots.valid[as], NULL);
		mutex_unlock(&vm->roots.pages_lock);
		if (!root)
			continue;
		CHECK(root->level == TDP_ROOT_LEVEL && root->as_id == as);
		CHECK(!debt->tables == !debt->table_count);
		root->next = debt->tables;
		debt->tables = root;
		debt->table_count++;
	}
}

gfn_t tdp_walk(struct quire_vm *vm, u32 as_id, const struct tdp_visit *visit, gfn_t start,
	       gfn_t end)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as_id]);
	struct walk walk = {
	    .format = &vm->tdp_format,
	    .root_level = TDP_ROOT_LEVEL,
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
