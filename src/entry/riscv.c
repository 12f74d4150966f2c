/* RISC-V's guest tables: Sv39x4 and Sv48x4, with A and D set by the processor or by us. */
#include "src/entry/format.h"

#define V (UINT64_C(1) << 0)
#define R (UINT64_C(1) << 1)
#define W (UINT64_C(1) << 2)
#define X (UINT64_C(1) << 3)
#define U (UINT64_C(1) << 4) /* of a leaf: each access counts as a user's */
#define G (UINT64_C(1) << 5)
#define A (UINT64_C(1) << 6)
#define D (UINT64_C(1) << 7)
/* The two bits for software. A third is not needed: V is present to the processor and to us. */
#define HOST_WRITABLE (UINT64_C(1) << 8)
#define MMU_WRITABLE (UINT64_C(1) << 9)
#define PFN_SHIFT 10
#define ADDRESS (((UINT64_C(1) << 44) - 1) << PFN_SHIFT)
#define PBMT(number) (UINT64_C(number) << 61)
#define RESERVED ((UINT64_C(1) << 63) | (UINT64_C(0x7f) << 54))
/* Without V all bits are ours. MMIO entries are told by R, and W is never set. */
#define NONPRESENT UINT64_C(0)
#define FROZEN G
#define MMIO_GFN (((UINT64_C(1) << 43) - 1) << PFN_SHIFT)

_Static_assert(!((V | R | W | X | U | G | A | D) & (HOST_WRITABLE | MMU_WRITABLE)),
	       "software bits must be ones the processor ignores");
_Static_assert(!((HOST_WRITABLE | MMU_WRITABLE | D | PBMT(3) | RESERVED) & ADDRESS),
	       "flags must leave the address alone");
_Static_assert(W < D, "what depends on W stands above it (tdp/protect.c)");
_Static_assert(!(V & W), "W alone says that a word is a leaf (tdp/protect.c)");
_Static_assert(!(FROZEN & (V | R)), "a frozen entry is neither present nor MMIO");

/*
 * The entry of a table has V alone: U, A and D are reserved there, and R, W or X would make it a
 * leaf. Memory types are Svpbmt's: without that extension all pages must be write-back.
 */
#define RISCV_BITS                                                                                 \
	.pfn_shift = PFN_SHIFT, .address = ADDRESS, .table_mask = V | R | W | X, .table_value = V, \
	.table = V, .writable = W, .executable = X | U, .accessed = A, .dirty = D,                 \
	.memtype = PBMT(3), .memtypes = {PBMT(0), PBMT(2), PBMT(1)}, .hw_present = V,              \
	.reserved = RESERVED, .misfit_mask = R | W, .misfit = W, .present = V,                     \
	.host_writable = HOST_WRITABLE, .mmu_writable = MMU_WRITABLE, .nonpresent = NONPRESENT,    \
	.frozen = FROZEN, .young = A, .aged = A, .mmio_mask = V | R | W, .mmio_value = R,          \
	.mmio_gfn = MMIO_GFN, .mmio_low_shift = 3, .mmio_low_bits = 7, .mmio_high_shift = 53,      \
	.mmio_high_bits = 11, .frames = ENTRY_FRAMES, .odd = true, .tables = {.odd = true}

#define SV39X4 .root_level = QUIRE_LEVEL_1G, .gpa_bits = 41
#define SV48X4 .root_level = QUIRE_LEVEL_512G, .gpa_bits = 50

#define SETS_AD .readable = R | U, .leaf = V | R | U, .marks = A | D
#define FAULTS_FOR_AD .readable = R | U | A, .leaf = V | R | U | A, .marks = 0

const struct entry_format entry_sv39x4 = {RISCV_BITS, SV39X4, SETS_AD, .name = "sv39x4"};
const struct entry_format entry_sv48x4 = {RISCV_BITS, SV48X4, SETS_AD, .name = "sv48x4"};
const struct entry_format entry_sv39x4_no_ad = {RISCV_BITS, SV39X4, FAULTS_FOR_AD,
						.name = "sv39x4 without a and d"};
const struct entry_format entry_sv48x4_no_ad = {RISCV_BITS, SV48X4, FAULTS_FOR_AD,
						.name = "sv48x4 without a and d"};
