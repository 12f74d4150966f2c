/* Pages of a guest_memfd in the hands of vCPUs: they stay shared. */
#include "src/gmem/pin.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/vm/locks.h"

void gmem_pin_choose(struct quire_map_pin *pin, const struct quire_vm *vm,
		     const struct memslot *slot, gfn_t gfn)
{
	struct quire_gmem *file = atomic_load_relaxed_ptr(&slot->gmem.file);

	slots_assert_section(vm);
	*pin = (struct quire_map_pin){0};
	if (!vm->config.gmem_in_place_conversion || !file || !gmem_file_get(file))
		return;
	pin->gmem = file;
	pin->index = memslot_gmem_index(slot, gfn);
}

/* A conversion holds the invalidate lock exclusive: it sees the pin, or this sees what it made. */
int gmem_pin_take(struct quire_map_pin *pin)
{
	struct quire_gmem *file = pin->gmem;
	struct gmem_inode *inode;
	u64 value;

	locks_assert_none();
	if (!file)
		return 0;
	inode = file->inode;
	rwlock_read_lock(&inode->invalidate_lock);
	value = range_map_get(&inode->attributes, pin->index);
	if (!(value & QUIRE_ATTRIBUTE_PRIVATE)) {
		mutex_lock(&inode->pins_lock);
		pin->next = inode->pins;
		pin->link = &inode->pins;
		if (pin->next)
			pin->next->link = &pin->next;
		inode->pins = pin;
		mutex_unlock(&inode->pins_lock);
	}
	rwlock_read_unlock(&inode->invalidate_lock);
	if (!(value & QUIRE_ATTRIBUTE_PRIVATE))
		return 0;
	gmem_file_put(file);
	pin->gmem = NULL;
	return -EFAULT;
}

void gmem_unpin(struct quire_map_pin *pin)
{
	struct gmem_inode *inode;

	locks_assert_none();
	if (!pin->gmem)
		return;
	inode = pin->gmem->inode;
	mutex_lock(&inode->pins_lock);
	CHECK(*pin->link == pin);
	*pin->link = pin->next;
	if (pin->next)
		pin->next->link = pin->link;
	mutex_unlock(&inode->pins_lock);
	gmem_file_put(pin->gmem);
	pin->gmem = NULL;
}

u64 gmem_pin_first(struct gmem_inode *inode, u64 first, u64 npages)
{
	u64 found = first + npages;

	gmem_assert_exclusive(inode);
	mutex_lock(&inode->pins_lock);
	for (const struct quire_map_pin *pin = inode->pins; pin; pin = pin->next)
		if (pin->index >= first && !MUTANT(pins_unseen))
			found = min_u64(found, pin->index);
	mutex_unlock(&inode->pins_lock);
	return found;
}
