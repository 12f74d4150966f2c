/* arm64's stage 2: the 4 KiB granule, in three levels below a root of two tables, or in four. */
#include "src/entry/format.h"

#define VALID (UINT64_C(1) << 0)
#define TABLE (UINT64_C(1) << 1) /* leads to a table; at the lowest level: is a page */
#define MEMATTR(number) (UINT64_C(number) << 2)
#define R (UINT64_C(1) << 6)
#define W (UINT64_C(1) << 7)
#define SH_INNER (UINT64_C(3) << 8)
#define AF (UINT64_C(1) << 10)
#define ADDRESS UINT64_C(0x0000fffffffff000)
#define DBM (UINT64_C(1) << 51)
#define XN (UINT64_C(2) << 53)
/* Bits 55 to 58 are the software's. Neither needs a third: VALID is present to us, too. */
#define HOST_WRITABLE (UINT64_C(1) << 55)
#define MMU_WRITABLE (UINT64_C(1) << 56)
/* Without VALID all bits are ours. MMIO entries are told by bit 1, and W is never set. */
#define NONPRESENT UINT64_C(0)
#define FROZEN (UINT64_C(1) << 60)

_Static_assert(!((VALID | TABLE | MEMATTR(15) | R | W | SH_INNER | AF | DBM | XN) &
		 (HOST_WRITABLE | MMU_WRITABLE | ADDRESS)),
	       "software bits must be ones the processor ignores");
_Static_assert(!((VALID | TABLE | ADDRESS) & (W | DBM)),
	       "W alone says that a word is a leaf (tdp/protect.c)");
_Static_assert(!(FROZEN & (VALID | TABLE | ADDRESS)), "a frozen entry is neither present nor MMIO");

/*
 * Memory types are those without FEAT_S2FWB: write-back, Device-nGnRE, and Normal that is not
 * cacheable. An entry in use that changes its kind, a block or a table, goes through an invalid one
 * and a flush.
 */
#define ARM64_BITS                                                                             \
	.pfn_shift = QUIRE_PAGE_SHIFT, .address = ADDRESS, .table_mask = VALID | TABLE,        \
	.table_value = VALID | TABLE, .table = VALID | TABLE, .page = TABLE, .noexec = XN,     \
	.accessed = AF, .memtype = MEMATTR(15) | SH_INNER,                                     \
	.memtypes = {MEMATTR(15) | SH_INNER, MEMATTR(1) | SH_INNER, MEMATTR(5) | SH_INNER},    \
	.hw_present = VALID, .present = VALID, .host_writable = HOST_WRITABLE,                 \
	.mmu_writable = MMU_WRITABLE, .nonpresent = NONPRESENT, .frozen = FROZEN, .young = AF, \
	.aged = AF, .breaks = true, .frames = ENTRY_FRAMES, .mmio_value = TABLE,               \
	.mmio_gfn = ADDRESS

/*
 * Without DBM a leaf that may be written has W from the start, and the processor has nothing to
 * mark. With it, DBM is the right to write, and W is D: the processor sets it before the first
 * write (VTCR_EL2.HD). W without DBM would be a right, too; both come and go in one store.
 */
#define W_IS_RIGHT                                                                              \
	.writable = W, .mmio_mask = VALID | TABLE | W, .mmio_low_shift = 2, .mmio_low_bits = 5, \
	.mmio_high_shift = 48, .mmio_high_bits = 13
#define W_IS_DIRTY                                                                          \
	.writable = DBM, .dirty = W, .mmio_mask = VALID | TABLE | DBM, .mmio_low_shift = 2, \
	.mmio_low_bits = 10, .mmio_high_shift = 52, .mmio_high_bits = 8

#define LEVELS_3 .root_level = QUIRE_LEVEL_1G, .gpa_bits = 40
#define LEVELS_4 .root_level = QUIRE_LEVEL_512G, .gpa_bits = 48

#define SETS_AF .readable = R, .leaf = VALID | R, .marks = AF
#define SETS_AF_AND_W .readable = R, .leaf = VALID | R, .marks = AF | W
#define FAULTS_FOR_AF .readable = R | AF, .leaf = VALID | R | AF, .marks = 0

const struct entry_format entry_arm64_3 = {ARM64_BITS, LEVELS_3, W_IS_RIGHT, SETS_AF,
					   .name = "arm64 40"};
const struct entry_format entry_arm64_3_no_af = {ARM64_BITS, LEVELS_3, W_IS_RIGHT, FAULTS_FOR_AF,
						 .name = "arm64 40 without af"};
const struct entry_format entry_arm64_3_dbm = {ARM64_BITS, LEVELS_3, W_IS_DIRTY, SETS_AF_AND_W,
					       .name = "arm64 40 with dbm"};
const struct entry_format entry_arm64_4 = {ARM64_BITS, LEVELS_4, W_IS_RIGHT, SETS_AF,
					   .name = "arm64 48"};
const struct entry_format entry_arm64_4_no_af = {ARM64_BITS, LEVELS_4, W_IS_RIGHT, FAULTS_FOR_AF,
						 .name = "arm64 48 without af"};
const struct entry_format entry_arm64_4_dbm = {ARM64_BITS, LEVELS_4, W_IS_DIRTY, SETS_AF_AND_W,
					       .name = "arm64 48 with dbm"};
