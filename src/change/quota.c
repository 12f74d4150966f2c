/* The client's limit on shadow pages. */
#include <errno.h>

#include "src/change/change.h"

#define MIN_ALLOC_MMU_PAGES 64u

/* TDP tables are neither counted nor reclaimed (contract U-200): the limit is only kept. */
int quire_vm_set_nr_mmu_pages(struct quire_vm *vm, uint64_t pages)
{
	if (pages < MIN_ALLOC_MMU_PAGES)
		return -EINVAL;
	mutex_lock(&vm->slots_lock);
	vm->nr_mmu_pages = pages;
	mutex_unlock(&vm->slots_lock);
	return 0;
}
