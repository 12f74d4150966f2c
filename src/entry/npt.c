/* AMD's nested page tables: the long-mode format, every access a user access. */
#include "src/entry/format.h"

#define P (UINT64_C(1) << 0)
#define W (UINT64_C(1) << 1)
#define U (UINT64_C(1) << 2)
#define PWT (UINT64_C(1) << 3)
#define PCD (UINT64_C(1) << 4)
#define A (UINT64_C(1) << 5)
#define D (UINT64_C(1) << 6)
#define PS (UINT64_C(1) << 7)
#define HOST_WRITABLE (UINT64_C(1) << 9)
#define MMU_WRITABLE (UINT64_C(1) << 10)
#define PRESENT (UINT64_C(1) << 11)
/* Reserved while MAXPHYADDR is below 52: an entry with it raises a fault that says "reserved". */
#define RESERVED_ADDRESS (UINT64_C(1) << 51)
#define NX (UINT64_C(1) << 63)
#define NONPRESENT (UINT64_C(1) << 63)
#define FROZEN (NONPRESENT | UINT64_C(0x1a0))

_Static_assert(!((P | W | U | PWT | PCD | A | D | PS) & (HOST_WRITABLE | MMU_WRITABLE | PRESENT)),
	       "software bits must be ones the processor ignores");
_Static_assert(!((HOST_WRITABLE | MMU_WRITABLE | PRESENT | NX) & ENTRY_ADDRESS_MASK),
	       "flags must leave the address alone");
_Static_assert(W < PRESENT && W < D, "what depends on W stands above it (tdp/protect.c)");
_Static_assert(!(FROZEN & (P | PRESENT)), "a frozen entry is not present");

const struct entry_format entry_npt = {
    .name = "npt",
    .root_level = QUIRE_LEVEL_512G,
    .gpa_bits = 48,
    .pfn_shift = QUIRE_PAGE_SHIFT,
    .table_mask = PRESENT | PS,
    .table_value = PRESENT,
    .table = PRESENT | P | U | W | A,
    .leaf = PRESENT | P | U,
    .address = ENTRY_ADDRESS_MASK,
    .readable = P | U,
    .writable = W,
    .executable = 0,
    .noexec = NX,
    .accessed = A,
    .dirty = D,
    .marks = A | D,
    .large = PS,
    .memtype = PWT | PCD,
    .memtypes = {0, PWT | PCD, PWT}, /* of Linux's PAT: entries 0, 3 and 1 */
    .hw_present = P,
    .checks_width = true,
    .frames = ENTRY_FRAMES,
    .table_rights = true,
    .present = PRESENT,
    .host_writable = HOST_WRITABLE,
    .mmu_writable = MMU_WRITABLE,
    .nonpresent = NONPRESENT,
    .frozen = FROZEN,
    .young = A,
    .aged = A,
    .mmio_mask = P | PRESENT | RESERVED_ADDRESS,
    .mmio_value = P | RESERVED_ADDRESS,
    .mmio_access = W | U,
    .mmio_gfn = ENTRY_ADDRESS_MASK & ~RESERVED_ADDRESS,
    .mmio_low_shift = 3,
    .mmio_low_bits = 7,
    .mmio_high_shift = 52,
    .mmio_high_bits = 11,
};
