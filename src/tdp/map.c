/* Installing a mapping, in parallel with other faults. */
#include "src/tdp/tdp.h"

#include "src/base/assert.h"
#include "src/base/reclaim.h"
#include "src/walk/range.h"

u64 *tdp_find(struct quire_vm *vm, struct table *root, gfn_t gfn, u32 *level)
{
	const struct entry_format *f = vm->format;
	u64 *table = table_entries(root);

	for (*level = TDP_ROOT_LEVEL;; --*level) {
		u64 *entry = &table[walk_index(gfn, *level)];
		u64 value = atomic_load_acquire_u64(entry);

		if (!entry_is_present(f, value) || entry_is_leaf(f, value, *level))
			return entry;
		table = entry_table(value);
	}
}

/* Put an empty table under *@entry. False when somebody else was there first. */
static bool link_table(const struct tdp_change *change, struct quire_vcpu *vcpu, u64 *entry,
		       u32 level, u64 old)
{
	const struct entry_format *f = change->vm->format;
	struct table *table = table_cache_take(&vcpu->tables);

	if (BROKEN(table))
		return false;
	table->level = (u8)(level - 1);
	table->parent = entry;
	table->nx_disallowed = 0;
	table_fill(table, f->nonpresent);
	/* The compare-exchange publishes the filled table. */
	if (tdp_change_entry(change, entry, level, &old, entry_make_table(f, table_entries(table))))
		return true;
	table_cache_put(&vcpu->tables, table);
	return false;
}

static bool split_for_fault(const struct tdp_change *change, struct quire_vcpu *vcpu, u64 *entry,
			    u32 level, u64 old)
{
	struct table *table = table_cache_take(&vcpu->tables);

	if (BROKEN(table))
		return false;
	if (tdp_split_entry(change, entry, level, old, table))
		return true;
	table_cache_put(&vcpu->tables, table);
	return false;
}

/* Does the leaf @old already allow what the mapping is for? */
static bool leaf_suffices(const struct entry_format *f, u64 old, const struct tdp_mapping *mapping)
{
	if (mapping->prefault)
		return true;
	return !mapping->write || entry_is_writable(f, old);
}

static enum quire_outcome install_leaf(const struct tdp_change *change, u64 *entry, u64 old,
				       const struct tdp_mapping *mapping)
{
	const struct entry_format *f = change->vm->format;
	u32 level = mapping->leaf.level;
	u64 new = entry_make_leaf(f, &mapping->leaf);

	if (entry_is_present(f, old) && entry_is_leaf(f, old, level)) {
		if (BROKEN(entry_pfn(old).v == mapping->leaf.pfn.v)) {
			vm_poison(change->vm);
			return QUIRE_RETRY;
		}
		if (leaf_suffices(f, old, mapping) || old == new)
			return QUIRE_SPURIOUS;
		/* The walker's A and D stay. */
		new |= old &(f->accessed | f->dirty);
	}
	if (!tdp_change_entry(change, entry, level, &old, new))
		return QUIRE_RETRY;
	if (mapping->write && !mapping->leaf.writable)
		return QUIRE_WRITE_PROTECTED;
	return QUIRE_FIXED;
}

/* Make *@entry, which holds @old, point to a table. False: somebody else changed it. */
static bool descend(const struct tdp_change *change, struct quire_vcpu *vcpu, u64 *entry, u32 level,
		    u64 old)
{
	const struct entry_format *f = change->vm->format;

	if (!entry_is_present(f, old))
		return link_table(change, vcpu, entry, level, old);
	if (entry_is_leaf(f, old, level))
		return split_for_fault(change, vcpu, entry, level, old);
	return true;
}

/*
 * 1. Go down from the root to the level of the mapping.
 * 2. On the way, a missing table is linked in; a huge leaf above the level is split, so that no
 *    other vCPU ever sees a hole.
 * 3. At the level the leaf is installed, in place of smaller mappings if there are any: they map
 *    the same memory.
 * Every store is a compare-exchange; losing one means that another vCPU was faster: retry.
 */
enum quire_outcome tdp_map(struct quire_vcpu *vcpu, struct table *root,
			   const struct tdp_mapping *mapping, struct flush_debt *debt)
{
	struct tdp_change change = {.vm = vcpu->vm, .leaves = vcpu->leaves, .debt = debt};
	const struct entry_format *f = vcpu->vm->format;
	u64 *table = table_entries(root);
	u32 level = TDP_ROOT_LEVEL;

	for (;;) {
		u64 *entry = &table[walk_index(mapping->gfn, level)];
		u64 old = atomic_load_acquire_u64(entry);

		if (entry_is_frozen(f, old))
			return QUIRE_RETRY;
		if (level == mapping->leaf.level)
			return install_leaf(&change, entry, old, mapping);
		if (!descend(&change, vcpu, entry, level, old))
			return QUIRE_RETRY;
		old = atomic_load_acquire_u64(entry);
		if (!entry_is_present(f, old) || entry_is_leaf(f, old, level))
			return QUIRE_RETRY;
		table = entry_table(old);
		level--;
	}
}

bool tdp_map_mmio(struct quire_vcpu *vcpu, struct table *root, gfn_t gfn, u64 generation,
		  struct flush_debt *debt)
{
	struct tdp_change change = {.vm = vcpu->vm, .leaves = vcpu->leaves, .debt = debt};
	const struct entry_format *f = vcpu->vm->format;
	u64 *table = table_entries(root);
	u64 new = entry_make_mmio(f, gfn, generation);

	for (u32 level = TDP_ROOT_LEVEL;; level--) {
		u64 *entry = &table[walk_index(gfn, level)];
		u64 old = atomic_load_acquire_u64(entry);

		/* Memory was mapped there meanwhile: leave it alone. */
		if (level == QUIRE_LEVEL_4K)
			return !entry_is_present(f, old) && !entry_is_frozen(f, old) &&
			       tdp_change_entry(&change, entry, level, &old, new);
		if (entry_is_frozen(f, old))
			return false;
		if (!entry_is_present(f, old) && !link_table(&change, vcpu, entry, level, old))
			return false;
		old = atomic_load_acquire_u64(entry);
		if (!entry_is_present(f, old) || entry_is_leaf(f, old, level))
			return false;
		table = entry_table(old);
	}
}
