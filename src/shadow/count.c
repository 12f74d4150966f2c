/* How much of a range shadow pages map. Without mmu_lock. */
#include "src/base/assert.h"
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

static u32 count_head(u64 *head)
{
	u64 value = rmap_lock(head);
	u32 count = rmap_count(value);

	if (value)
		rmap_unlock(head, value);
	return count;
}

void shadow_count_leaves(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end, u64 counts[4])
{
	struct shadow *shadow = shadow_of(vm);

	mmu_assert_section(vm);
	CHECK(as_id < vm->address_spaces && start.v <= end.v);
	for (u32 level = QUIRE_LEVEL_4K; shadow && level <= QUIRE_LEVEL_1G; level++) {
		const struct sparse *heads = &shadow->rmaps[as_id][level - 1];
		u64 pages = level_pages((enum quire_level)level);
		u64 at = start.v / pages, *head;

		for (; (head = sparse_next(heads, &at, (end.v + pages - 1) / pages)); at++)
			counts[level] += count_head(head) * (min_u64((at + 1) * pages, end.v) -
							     max_u64(at * pages, start.v));
	}
}
