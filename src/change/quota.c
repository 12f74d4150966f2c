/* The client's limit on shadow pages. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/change/change.h"
#include "src/vm/locks.h"

#define MIN_ALLOC_MMU_PAGES 64u

void change_set_quota(struct quire_vm *vm, u64 pages)
{
	struct flush_debt debt;
	int more;

	locks_assert_none();
	mutex_lock(&vm->slots_lock);
	atomic_store_relaxed_u64(&vm->nr_mmu_pages, pages);
	do {
		change_lock(vm, &debt);
		more = !MUTANT(quota_unchecked) && shadow_shrink(vm, &debt);
		change_settle_unlock(vm, &debt);
		CHECK(!debt.owed && !debt.tables);
	} while (more);
	mutex_unlock(&vm->slots_lock);
}

/* TDP tables are neither counted nor reclaimed (U-200): the limit is shadow pages'. */
int quire_vm_set_nr_mmu_pages(struct quire_vm *vm, uint64_t pages)
{
	if (pages < MIN_ALLOC_MMU_PAGES)
		return -EINVAL;
	change_set_quota(vm, pages);
	return 0;
}
