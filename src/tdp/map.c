/* Installing a mapping, in parallel with other faults. */
#include "src/tdp/tdp.h"

#include "src/base/assert.h"
#include "src/base/trace.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"
#include "src/walk/range.h"

u64 *tdp_find(struct quire_vm *vm, struct table *root, gfn_t gfn, u32 *level)
{
	const struct entry_format *f = &vm->tdp_format;
	u64 *entry = entry_of_root(f, table_entries(root), gfn);

	mmu_assert_section(vm);
	for (*level = f->root_level;;) {
		u64 value = atomic_load_acquire_u64(entry);

		if (!entry_is_present(f, value) || entry_is_leaf(f, value, *level))
			return entry;
		--*level;
		entry = &entry_table(f, value)[walk_index(gfn, *level)];
	}
}

/* Where a fault finds no table: the entry that shall lead to its mapping. */
struct step {
	const struct tdp_change *change;
	struct quire_vcpu *vcpu;
	const struct tdp_mapping *mapping; /* NULL: no leaf is wanted */
	gfn_t gfn;
	u64 *entry;
	u32 level;
	u64 old;
};

/* Put an empty @table under the entry. False when another thread was there first. */
static bool link_empty(const struct step *step, struct table *table)
{
	const struct entry_format *f = &step->change->vm->tdp_format;
	u64 old = step->old;

	CHECK(table->gfn.v == walk_block(step->gfn, step->level).v);
	CHECK(!table->nx_listed && !table->has_mmio);
	table->level = (u8)(step->level - 1);
	table->parent = step->entry;
	table_fill(table, f->nonpresent);
	/* The compare-exchange publishes the filled table. */
	return tdp_change_entry(step->change, step->entry, step->level, &old,
				entry_make_table(f, table_entries(table)));
}

/* Would the mapping be a huge leaf here, were it not for the NX workaround? */
static bool is_for_fetch(const struct step *step)
{
	const struct tdp_mapping *mapping = step->mapping;

	return mapping && (mapping->error_code & QUIRE_PFERR_FETCH) &&
	       mapping->wanted_level >= step->level;
}

/*
 * Put a table where there is none: an empty one, or one that maps what the huge leaf did. Returns
 * the entry as it is then; it is a table's unless another thread was faster.
 */
static __attribute__((noinline)) u64 link_table(const struct step *step)
{
	struct quire_vm *vm = step->change->vm;
	bool for_fetch = is_for_fetch(step), linked;
	struct table *table;

	mmu_assert_shared(vm);
	CHECK(step->level > QUIRE_LEVEL_4K);
	CHECK(!step->mapping || step->level >= step->mapping->leaf.level);
	/* Nothing else makes a fault want more than it gets. */
	CHECK(!for_fetch || nx_is_on(vm));
	if (entry_is_frozen(&vm->tdp_format, step->old))
		return step->old;
	table = table_cache_take(&step->vcpu->tables);
	if (BROKEN(table))
		return step->old;
	nx_table_init(table, walk_block(step->gfn, step->level), step->vcpu->as_id);
	table->nx_disallowed = for_fetch;
	if (entry_is_present(&vm->tdp_format, step->old))
		linked = tdp_split_entry(step->change, step->entry, step->level, step->old, table);
	else
		linked = link_empty(step, table);
	if (!linked) {
		table_cache_put(&step->vcpu->tables, table);
		return step->old;
	}
	if (for_fetch)
		nx_list_add(vm, table);
	return atomic_load_acquire_u64(step->entry);
}

/* Does the leaf @old already allow what the mapping is for? */
static bool leaf_suffices(const struct entry_format *f, u64 old, const struct tdp_mapping *mapping)
{
	if (mapping->prefault)
		return true;
	/* Aging took its rights. */
	if (!entry_is_readable(f, old) &&
	    !((mapping->error_code & QUIRE_PFERR_FETCH) && f->unreadable))
		return false;
	if ((mapping->error_code & QUIRE_PFERR_FETCH) &&
	    !entry_allows_fetch(f, old, mapping->error_code))
		return false;
	return !(mapping->error_code & QUIRE_PFERR_WRITE) || entry_is_writable(f, old);
}

static __attribute__((noinline, cold)) void trace_request(const struct tdp_mapping *mapping)
{
	QUIRE_TRACE_SEEN(kvm_mmu_spte_requested, mapping->gfn.v, mapping->leaf.pfn.v,
			 mapping->leaf.level, TRACE_ACCESS_ALL);
}

static __attribute__((noinline, cold)) void trace_leaf(const struct tdp_change *change,
						       const u64 *entry, u64 value,
						       const struct tdp_mapping *mapping)
{
	const struct entry_format *f = &change->vm->tdp_format;

	QUIRE_TRACE_SEEN(kvm_mmu_set_spte, mapping->gfn.v, value, (u64)(uintptr_t)entry,
			 mapping->leaf.level, entry_is_present(f, value),
			 entry_is_executable(f, value), 1);
}

static enum quire_outcome install_leaf(const struct tdp_change *change, u64 *entry, u64 old,
				       const struct tdp_mapping *mapping)
{
	const struct entry_format *f = &change->vm->tdp_format;
	u32 level = mapping->leaf.level;
	u64 new = entry_make_leaf(f, &mapping->leaf);
	enum tdp_result result;

	CHECK(is_aligned_u64(mapping->leaf.pfn.v, level_pages((enum quire_level)level)));
	CHECK(!mapping->leaf.writable || mapping->leaf.host_writable);
	if (entry_is_frozen(f, old))
		return QUIRE_RETRY;
	if (entry_is_present(f, old) && entry_is_leaf(f, old, level)) {
		if (BROKEN(entry_pfn(f, old).v == mapping->leaf.pfn.v)) {
			vm_poison(change->vm);
			return QUIRE_RETRY;
		}
		if (leaf_suffices(f, old, mapping) || old == new)
			return QUIRE_SPURIOUS;
		/* The walker's A stays; D comes with W. */
		new |= old & f->accessed;
	}
	result = tdp_change_entry(change, entry, level, &old, new);
	if (unlikely(result != TDP_DONE)) {
		if (result == TDP_LOST)
			return QUIRE_RETRY;
		trace_leaf(change, entry, new, mapping);
	}
	if ((mapping->error_code & QUIRE_PFERR_WRITE) && !mapping->leaf.writable)
		return QUIRE_WRITE_PROTECTED;
	return QUIRE_FIXED;
}

/* One level down, to the part of the block that holds the gfn. */
static struct tdp_mapping shrunk(const struct tdp_mapping *mapping)
{
	struct tdp_mapping lower = *mapping;
	u64 offset = mapping->gfn.v & (level_pages((enum quire_level)mapping->leaf.level) - 1);

	lower.leaf.level--;
	lower.leaf.pfn.v += round_down_u64(offset, level_pages((enum quire_level)lower.leaf.level));
	/* Only what is huge must not be executed. */
	lower.leaf.executable |= lower.leaf.level == QUIRE_LEVEL_4K;
	return lower;
}

/* The guest executes below the table at this place: no huge leaf instead of it. */
static bool table_must_stay(const struct entry_format *f, u64 old, u32 level)
{
	return level > QUIRE_LEVEL_4K && entry_is_table(f, old) &&
	       atomic_load_relaxed_u8(&table_of(entry_table(f, old))->nx_disallowed);
}

/*
 * 1. Go down from the root to the level of the mapping.
 * 2. On the way, a missing table is linked in; a huge leaf above the level is split, so that no
 *    other vCPU ever sees a hole.
 * 3. At the level the leaf is installed, in place of smaller mappings if there are any: they map
 *    the same memory. Where the guest executes, smaller ones stay, and the leaf is cut instead.
 * Every store is a compare-exchange; losing one means that another vCPU was faster: retry.
 */
enum quire_outcome tdp_map(struct quire_vcpu *vcpu, struct table *root,
			   const struct tdp_mapping *mapping, struct flush_debt *debt)
{
	const struct entry_format *f = &vcpu->vm->tdp_format;
	struct tdp_change change = {.vm = vcpu->vm, .leaves = vcpu->leaves, .debt = debt};
	struct tdp_mapping cut;
	u64 *entry = entry_of_root(f, table_entries(root), mapping->gfn);

	mmu_assert_shared(vcpu->vm);
	CHECK(root->level == f->root_level && root->as_id == vcpu->as_id);
	CHECK(mapping->leaf.level <= mapping->wanted_level);
	if (quire_trace_is_on())
		trace_request(mapping);
	for (u32 level = f->root_level;;) {
		u64 old = atomic_load_acquire_u64(entry);

		if (level == mapping->leaf.level) {
			if (likely(!table_must_stay(f, old, level)))
				return install_leaf(&change, entry, old, mapping);
			cut = shrunk(mapping);
			mapping = &cut;
		}
		if (unlikely(!entry_is_table(f, old))) {
			struct step step = {&change, vcpu,  mapping, mapping->gfn,
					    entry,   level, old};

			old = link_table(&step);
			if (!entry_is_table(f, old))
				return QUIRE_RETRY;
		}
		level--;
		entry = &entry_table(f, old)[walk_index(mapping->gfn, level)];
	}
}

enum tdp_result tdp_map_mmio(struct quire_vcpu *vcpu, struct table *root, gfn_t gfn, u64 generation,
			     struct flush_debt *debt)
{
	const struct entry_format *f = &vcpu->vm->tdp_format;
	struct tdp_change change = {.vm = vcpu->vm, .leaves = vcpu->leaves, .debt = debt};
	u64 *entry = entry_of_root(f, table_entries(root), gfn);
	u64 new = entry_make_mmio(f, gfn, generation);

	mmu_assert_shared(vcpu->vm);
	CHECK(vcpu->vm->mmio_entries);
	CHECK(root->level == f->root_level && root->as_id == vcpu->as_id);
	for (u32 level = f->root_level;;) {
		u64 old = atomic_load_acquire_u64(entry);

		/* Before the entry is there: a zap reads it with mmu_lock exclusive. */
		atomic_store_relaxed_u8(&table_of(entry)->has_mmio, 1);
		if (level == QUIRE_LEVEL_4K) {
			/* Memory was mapped there meanwhile: leave it alone. */
			if (entry_is_present(f, old) || entry_is_frozen(f, old))
				return TDP_LOST;
			QUIRE_TRACE(mark_mmio_spte, (u64)(uintptr_t)entry, gfn.v, 0, generation);
			return tdp_change_entry(&change, entry, level, &old, new);
		}
		if (!entry_is_present(f, old)) {
			struct step step = {&change, vcpu, NULL, gfn, entry, level, old};

			old = link_table(&step);
		}
		if (!entry_is_table(f, old))
			return TDP_LOST;
		level--;
		entry = &entry_table(f, old)[walk_index(gfn, level)];
	}
}
