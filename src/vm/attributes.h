/* Memory attributes: which guest frames are private, as ranges. */
#ifndef QUIRE_VM_ATTRIBUTES_H
#define QUIRE_VM_ATTRIBUTES_H

#include <quire/vm.h>

#include "src/base/atomic.h"
#include "src/tree/ptree.h"

/*
 * A persistent map of disjoint ranges, none touching another of the same value; frames in no range
 * have attributes 0. A change of any size costs a few nodes beside the ranges it swallows.
 * Attributes belong to address space 0 of the guest and outlive slots. Readers need a read section
 * and no lock, writers slots_lock.
 */
struct quire_vm;

struct attributes {
	struct ptree ranges; /* root: written under slots_lock, read in a read section */
};

void attributes_init(struct quire_vm *vm);
/* No readers. */
void attributes_destroy(struct quire_vm *vm);

/* Has every gfn attributes 0? No read section: nothing is looked at but the root's being there. */
static inline bool attributes_none(const struct attributes *attributes)
{
	return !atomic_load_acquire_ptr(&attributes->ranges.root);
}

/* --- slots_lock, or a read section --- */

/* Attributes of @gfn. O(log n). */
u64 attributes_get(const struct quire_vm *vm, gfn_t gfn);

/*
 * Nonzero, with *@value, when all of [start, start + npages) have the same attributes.
 * O(log n).
 */
int attributes_uniform(const struct quire_vm *vm, gfn_t start, u64 npages, u64 *value);

/* Nonzero when all of the range has exactly the attributes @value (U-092). */
int attributes_range_has(const struct quire_vm *vm, gfn_t start, u64 npages, u64 value);

/* --- slots_lock --- */

/* A change that is built but not visible. */
struct attributes_change {
	struct ptree after;
	struct ptree_edit edit;
};

/*
 * Build the map with [start, start + npages) set to @value. -ENOMEM: nothing changed, nothing to
 * clean up (U-093). slots_lock is kept until commit or abort.
 */
must_check int attributes_prepare_set(struct quire_vm *vm, gfn_t start, u64 npages, u64 value,
				      struct attributes_change *change);
/* Make it visible at once; call it between invalidation begin and end. Never sleeps. */
void attributes_commit(struct quire_vm *vm, struct attributes_change *change);
/* After a commit: wait for a grace period and free what it replaced. Sleeps: no read section, and
 * neither mmu_lock nor a lock of a higher rank. */
void attributes_finish(struct quire_vm *vm, struct attributes_change *change);
/* Instead of a commit. */
void attributes_abort(struct quire_vm *vm, struct attributes_change *change);

#endif
