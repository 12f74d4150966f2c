/* The client's limit on shadow pages. */
#include <errno.h>

#include "src/change/change.h"

#define MIN_ALLOC_MMU_PAGES 64u

/* TDP tables are neither counted nor reclaimed (contract U-200): the limit is shadow pages'. */
int quire_vm_set_nr_mmu_pages(struct quire_vm *vm, uint64_t pages)
{
	struct flush_debt debt;

	if (pages < MIN_ALLOC_MMU_PAGES)
		return -EINVAL;
	flush_debt_init(&debt, &vm->flush);
	mutex_lock(&vm->slots_lock);
	atomic_store_relaxed_u64(&vm->nr_mmu_pages, pages);
	change_lock(vm);
	shadow_shrink(vm, &debt);
	shadow_commit(vm, &debt);
	change_unlock(vm);
	mutex_unlock(&vm->slots_lock);
	return 0;
}
