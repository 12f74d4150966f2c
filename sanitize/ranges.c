/* Lists of private ranges. */
#include "sanitize/ranges.h"

#include "hosts/process/heap.h"

bool ranges_add(struct private_range **list, const struct private_range *wanted)
{
	struct private_range *range = process_heap_alloc(sizeof(*range));

	if (!range)
		return false;
	*range = *wanted;
	range->next = *list;
	*list = range;
	return true;
}

void ranges_cut(struct private_range **list, uint64_t start, uint64_t end)
{
	struct private_range **link = list, *range;

	while ((range = *link)) {
		struct private_range tail = *range;

		link = &range->next;
		if (range->end <= start || end <= range->start)
			continue;
		tail.start = end;
		if (tail.start < tail.end)
			(void)ranges_add(list, &tail);
		if (range->end > start)
			range->end = start;
		if (range->start < range->end)
			continue;
		/* The tail may stand before it by now. */
		for (link = list; *link != range; link = &(*link)->next)
			;
		*link = range->next;
		process_heap_free(range);
	}
}
