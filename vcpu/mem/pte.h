/* Entries of the guest's own page tables. */
#ifndef QUIRE_VCPU_MEM_PTE_H
#define QUIRE_VCPU_MEM_PTE_H

#include <stdint.h>

#define PTE_P (UINT64_C(1) << 0)
#define PTE_W (UINT64_C(1) << 1)
#define PTE_U (UINT64_C(1) << 2)
#define PTE_A (UINT64_C(1) << 5)
#define PTE_D (UINT64_C(1) << 6)
#define PTE_LARGE (UINT64_C(1) << 7)
#define PTE_G (UINT64_C(1) << 8)
/* The protection key of a user's page in long mode. */
#define PTE_KEY_SHIFT 59
#define PTE_KEY (UINT64_C(0xf) << PTE_KEY_SHIFT)
#define PTE_NX (UINT64_C(1) << 63)
#define PTE_ADDRESS UINT64_C(0x0000fffffffff000)
/* Address bits from MAXPHYADDR (48) up. */
#define PTE_RESERVED_HIGH (UINT64_C(0xf) << 48)

/* Has an entry of eight bytes bits that its level does not allow a large page? */
static inline int pte_large_is_reserved(uint64_t entry, unsigned int level)
{
	unsigned int shift = 12 + 9 * (level - 1);

	if (!(entry & PTE_LARGE) || level == 1)
		return 0;
	if (level >= 4)
		return 1;
	/* Bits 13 .. shift - 1 of a large leaf; 12 is PAT. */
	return (entry & ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff)) != 0;
}

#endif
