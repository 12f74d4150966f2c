/* Lock contracts: what a function needs held, said at its head and looked at in check builds. */
#ifndef QUIRE_VM_LOCKS_H
#define QUIRE_VM_LOCKS_H

#include "src/base/assert.h"
#include "src/vm/vm.h"

/*
 * A header groups its functions under headings, and each function asserts the heading's contract;
 * ./dev tidy compares the two.
 *
 *   heading                                                   contract
 *   mmu_lock exclusive                                        mmu_assert_exclusive()
 *   mmu_lock in either mode                                   mmu_assert_held()
 *   mmu_lock in either mode, in shared mode in a read section mmu_assert_shared()
 *   mmu_lock exclusive, or a read section                     mmu_assert_section()
 *   no mmu_lock, no read section                              mmu_assert_free()
 *   slots_lock                                                slots_assert()
 *   slots_lock, or a read section                             slots_assert_section()
 *   no lock, no read section                                  locks_assert_none()
 *   the inode's invalidate lock                               gmem_assert_invalidate()
 *   the inode's invalidate lock, exclusive                    gmem_assert_exclusive()
 *
 * In check builds a thread knows which locks it holds and how (base/lock.c). Elsewhere a contract
 * costs nothing.
 */

/* mmu_lock exclusive: of all others, only processors read or change tables. */
static inline void mmu_assert_exclusive(const struct quire_vm *vm) ASSERTS_HELD(&vm->mmu_lock)
{
	CHECK(lock_is_held(&vm->mmu_lock, LOCK_EXCLUSIVE));
}

/* mmu_lock in either mode: no zap and no invalidation begins or ends. */
static inline void mmu_assert_held(const struct quire_vm *vm) ASSERTS_HELD_SHARED(&vm->mmu_lock)
{
	CHECK(lock_is_held(&vm->mmu_lock, LOCK_SHARED));
}

/* The same; in shared mode a read section besides, so that an unlinked table stays readable. */
static inline void mmu_assert_shared(const struct quire_vm *vm) ASSERTS_HELD_SHARED(&vm->mmu_lock)
{
	CHECK(lock_is_held(&vm->mmu_lock, LOCK_EXCLUSIVE) ||
	      (lock_is_held(&vm->mmu_lock, LOCK_SHARED) && base_self()->nesting));
}

/* Tables may be read: they stay until mmu_lock, held exclusive, or the read section ends. */
static inline void mmu_assert_section(const struct quire_vm *vm)
{
	CHECK(base_self()->nesting || lock_is_held(&vm->mmu_lock, LOCK_EXCLUSIVE));
}

/* The function may sleep, wait for a grace period, or take mmu_lock. */
static inline void mmu_assert_free(const struct quire_vm *vm)
{
	CHECK(!base_self()->nesting && !lock_is_held(&vm->mmu_lock, LOCK_SHARED));
}

/* slots_lock: slots, attributes and log settings are the caller's to change. */
static inline void slots_assert(const struct quire_vm *vm) ASSERTS_HELD(&vm->slots_lock)
{
	CHECK(lock_is_held(&vm->slots_lock, LOCK_EXCLUSIVE));
}

/* A slot or attribute that is found stays until slots_lock or the read section ends. */
static inline void slots_assert_section(const struct quire_vm *vm)
{
	CHECK(base_self()->nesting || lock_is_held(&vm->slots_lock, LOCK_EXCLUSIVE));
}

/* The function waits for the client or the host's kernel, and these for anything. */
static inline void locks_assert_none(void)
{
	CHECK(!base_self()->nesting && !base_self()->held_count);
}

#endif
