/* Check builds: the whole-VM checker, of change/check.c, which sees all that a VM has. */
#ifndef QUIRE_VM_CHECK_H
#define QUIRE_VM_CHECK_H

#include "src/vm/vm.h"

#ifdef QUIRE_CHECK
/* A simulated host's own judge, asked before the checker; NULL: none. */
extern void (*vm_check_also)(const struct quire_vm *vm);

/* What the checker counted in all tables: leaves by level. */
struct vm_leaves {
	u64 tdp[5], shadow[5];
};
/* A test's own look at it; NULL: none. */
extern void (*vm_check_tells)(const struct quire_vm *vm, const struct vm_leaves *leaves);

/* Told of each entry of a table before the checker looks at it, to say which one broke; NULL:
 * none. */
extern void (*vm_check_visits)(const struct quire_vm *vm, u32 as_id, gfn_t gfn);

/* --- mmu_lock exclusive --- */

/* Compare every table with the slots, the attributes and guest_memfd. Between begin and end of an
 * invalidation no table is looked at. */
void vm_check(struct quire_vm *vm) REQUIRES(&vm->mmu_lock);
#else
#define vm_check(vm) ((void)(vm))
#endif

#endif
