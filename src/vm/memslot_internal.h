/* What the memslot files share: the order of slots by client address. */
#ifndef QUIRE_VM_MEMSLOT_INTERNAL_H
#define QUIRE_VM_MEMSLOT_INTERNAL_H

#include "src/vm/memslot.h"

/* First address that is no user-space address: x86-64 keeps the last page below 2^47 empty. */
#if defined(__x86_64__)
#define MEMSLOT_HVA_LIMIT ((UINT64_C(1) << 47) - QUIRE_PAGE_SIZE)
#else
#define MEMSLOT_HVA_LIMIT (UINT64_C(1) << 48)
#endif

#define MEMSLOT_ID_BITS 15u
_Static_assert(MEMSLOT_ID_BLOCK *MEMSLOT_ID_BLOCKS == 1u << MEMSLOT_ID_BITS, "ids fit the table");
_Static_assert(QUIRE_USER_SLOTS <= 1u << MEMSLOT_ID_BITS, "ids fit the key");

/*
 * Key in by_hva: pages first, then the id, so that slots with the same hva have different keys.
 * Two ranges of whole pages overlap exactly when their keys with id 0 do.
 */
static inline u64 memslot_hva_key(hva_t hva, u32 id)
{
	return (hva.v >> QUIRE_PAGE_SHIFT) << MEMSLOT_ID_BITS | id;
}

#endif
