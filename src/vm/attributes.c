/* Memory attributes as a persistent map of ranges. */
#include "src/vm/attributes.h"

#include "src/base/reclaim.h"
#include "src/vm/locks.h"
#include "src/vm/vm.h"

static u64 item_value(const struct ptree_item *item)
{
	return (u64)(uintptr_t)item->value;
}

static struct ptree published(const struct quire_vm *vm)
{
	return ptree_of(atomic_load_acquire_ptr(&vm->attributes.ranges.root));
}

void attributes_init(struct quire_vm *vm)
{
	vm->attributes.ranges = (struct ptree){0};
}

void attributes_destroy(struct quire_vm *vm)
{
	ptree_destroy(&vm->attributes.ranges, vm->host, vm->host_ctx);
}

u64 attributes_get(const struct quire_vm *vm, gfn_t gfn)
{
	struct ptree ranges = published(vm);
	struct ptree_item item;

	slots_assert_section(vm);
	if (!ptree_floor(&ranges, gfn.v, &item) || gfn.v >= item.end)
		return 0;
	return item_value(&item);
}

int attributes_uniform(const struct quire_vm *vm, gfn_t start, u64 npages, u64 *value)
{
	struct ptree ranges = published(vm);
	u64 end = start.v + npages;
	struct ptree_cursor cursor;
	struct ptree_item item;

	slots_assert_section(vm);
	/*
	 * Ranges are disjoint and merged, so it takes the first one: it covers everything, or there
	 * is none at all.
	 */
	if (!ptree_overlap_first(&ranges, start.v, end, &cursor, &item)) {
		*value = 0;
		return 1;
	}
	*value = item_value(&item);
	return item.key <= start.v && item.end >= end;
}

int attributes_range_has(const struct quire_vm *vm, gfn_t start, u64 npages, u64 value)
{
	u64 found;

	slots_assert_section(vm);
	return attributes_uniform(vm, start, npages, &found) && found == value;
}

static int range_insert(struct attributes_change *change, u64 start, u64 end, u64 value)
{
	struct ptree_item item = {start, end, (void *)(uintptr_t)value};

	if (value == 0 || start >= end)
		return 0;
	return ptree_insert(&change->after, &item, &change->edit);
}

/* Build @change->after from @before; [start, end) grows over neighbours of the same value. */
static int build(const struct ptree *before, u64 start, u64 end, u64 value,
		 struct attributes_change *change)
{
	/* One frame more on either side, to find the neighbours. */
	u64 from = start ? start - 1 : 0;
	u64 to = end == UINT64_MAX ? end : end + 1;
	struct ptree_item left = {start, start, NULL};
	struct ptree_item right = {end, end, NULL};
	struct ptree_cursor cursor;
	struct ptree_item item;
	int error;

	ptree_for_overlap(before, from, to, &cursor, &item)
	{
		bool same = item_value(&item) == value;

		if (!same && (item.end <= start || item.key >= end))
			continue;
		error = ptree_remove(&change->after, item.key, &change->edit);
		if (error)
			return error;
		if (item.key < start)
			left = (struct ptree_item){item.key, start, item.value};
		if (item.end > end)
			right = (struct ptree_item){end, item.end, item.value};
	}
	/* What remains of a range of the same value becomes part of the new one. */
	if (item_value(&left) == value) {
		start = left.key;
		left.end = left.key;
	}
	if (item_value(&right) == value) {
		end = right.end;
		right.key = right.end;
	}
	error = range_insert(change, left.key, left.end, item_value(&left));
	if (!error)
		error = range_insert(change, start, end, value);
	if (!error)
		error = range_insert(change, right.key, right.end, item_value(&right));
	return error;
}

int attributes_prepare_set(struct quire_vm *vm, gfn_t start, u64 npages, u64 value,
			   struct attributes_change *change)
{
	int error;

	slots_assert(vm);
	CHECK(npages && npages <= UINT64_MAX - start.v);
	change->after = vm->attributes.ranges;
	ptree_edit_init(&change->edit, vm->host, vm->host_ctx);
	error = build(&vm->attributes.ranges, start.v, start.v + npages, value, change);
	if (error) {
		ptree_edit_abort(&change->edit);
		return error;
	}
	ptree_edit_seal(&change->edit);
	return 0;
}

void attributes_commit(struct quire_vm *vm, struct attributes_change *change)
{
	slots_assert(vm);
	vm->attributes.ranges.count = change->after.count;
	CHECK(!change->after.root == !change->after.count);
	atomic_store_release_ptr(&vm->attributes.ranges.root, change->after.root);
}

void attributes_finish(struct quire_vm *vm, struct attributes_change *change)
{
	slots_assert(vm);
	CHECK(vm->attributes.ranges.root == change->after.root);
	reclaim_synchronize();
	ptree_edit_free_replaced(&change->edit);
}

void attributes_abort(struct quire_vm *vm, struct attributes_change *change)
{
	slots_assert(vm);
	(void)vm;
	ptree_edit_abort(&change->edit);
}
