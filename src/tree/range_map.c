/* A persistent map from 64-bit numbers to values, as ranges. */
#include "src/tree/range_map.h"

#include "src/base/assert.h"

static u64 item_value(const struct ptree_item *item)
{
	return (u64)(uintptr_t)item->value;
}

u64 range_map_get(const struct range_map *map, u64 at)
{
	struct ptree ranges = ptree_of(atomic_load_acquire_ptr(&map->ranges.root));
	struct ptree_item item;

	if (!ptree_floor(&ranges, at, &item) || at >= item.end)
		return 0;
	return item_value(&item);
}

u64 range_map_run(const struct range_map *map, u64 start, u64 end, u64 *value)
{
	struct ptree ranges = ptree_of(atomic_load_acquire_ptr(&map->ranges.root));
	struct ptree_cursor cursor;
	struct ptree_item item;

	*value = 0;
	if (!ptree_overlap_first(&ranges, start, end, &cursor, &item))
		return end;
	if (item.key > start)
		return item.key;
	*value = item_value(&item);
	return min_u64(item.end, end);
}

/* Ranges are merged, so it takes the first run. */
int range_map_uniform(const struct range_map *map, u64 start, u64 end, u64 *value)
{
	return range_map_run(map, start, end, value) == end;
}

static int range_insert(struct range_map_change *change, u64 start, u64 end, u64 value)
{
	struct ptree_item item = {start, end, (void *)(uintptr_t)value};

	if (value == 0 || start >= end)
		return 0;
	return ptree_insert(&change->after, &item, &change->edit);
}

/* Build @change->after from @before; [start, end) grows over neighbours of the same value. */
static int build(const struct ptree *before, u64 start, u64 end, u64 value,
		 struct range_map_change *change)
{
	/* One number more on either side, to find the neighbours. */
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

int range_map_prepare(const struct range_map *map, const struct quire_host_ops *host,
		      void *host_ctx, const struct ptree_item *range,
		      struct range_map_change *change)
{
	int error;

	CHECK(range->key < range->end);
	change->before = map->ranges;
	change->after = map->ranges;
	ptree_edit_init(&change->edit, host, host_ctx);
	error = build(&map->ranges, range->key, range->end, item_value(range), change);
	if (error) {
		ptree_edit_abort(&change->edit);
		return error;
	}
	ptree_edit_seal(&change->edit);
	return 0;
}

static void publish(struct range_map *map, const struct ptree *ranges)
{
	map->ranges.count = ranges->count;
	CHECK(!ranges->root == !ranges->count);
	atomic_store_release_ptr(&map->ranges.root, ranges->root);
}

void range_map_commit(struct range_map *map, struct range_map_change *change)
{
	publish(map, &change->after);
}

void range_map_undo(struct range_map *map, const struct range_map_change *change)
{
	CHECK(map->ranges.root == change->after.root);
	publish(map, &change->before);
}

void range_map_finish(struct range_map_change *change)
{
	ptree_edit_free_replaced(&change->edit);
}

void range_map_abort(struct range_map_change *change)
{
	ptree_edit_abort(&change->edit);
}

void range_map_destroy(struct range_map *map, const struct quire_host_ops *host, void *host_ctx)
{
	ptree_destroy(&map->ranges, host, host_ctx);
}
