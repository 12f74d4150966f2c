/* POWER's radix tables, partition-scoped: 4 KiB pages, four levels, and words in big-endian order.
 */
#include "src/entry/format.h"

/* The architecture's word as a load of this machine gives it: the descriptor has words so, and all
 * but frame numbers and MMIO entries go by single bits. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WORD(word) __builtin_bswap64(UINT64_C(word))
#define SWAPPED true
#else
#define WORD(word) UINT64_C(word)
#define SWAPPED false
#endif

#define VALID WORD(0x8000000000000000)
#define LEAF WORD(0x4000000000000000) /* a leaf */
#define REFERENCED WORD(0x100)	      /* referenced: A */
#define CHANGED WORD(0x80)	      /* changed: D */
#define ATT WORD(0x30)
#define IDEMPOTENT_NOT WORD(0x20)
#define TOLERANT WORD(0x30)
#define READ WORD(0x4)
#define WRITE WORD(0x2)
#define EXECUTE WORD(0x1)
#define NLS WORD(0x9) /* of a directory's entry: the table has 2^9 entries */
/* Of the four bits for software. A third is not needed: VALID is present to the processor and to
 * us. */
#define HOST_WRITABLE WORD(0x200)
#define MMU_WRITABLE WORD(0x400)
#define ADDRESS WORD(0x000ffffffffff000)
/* Without VALID all bits are ours. MMIO entries are told by LEAF, and W is never set. */
#define NONPRESENT UINT64_C(0)
#define FROZEN WORD(0x2000000000000000)

_Static_assert(!((VALID | LEAF | REFERENCED | CHANGED | ATT | READ | WRITE | EXECUTE | ADDRESS) &
		 (HOST_WRITABLE | MMU_WRITABLE)),
	       "software bits must be ones the processor ignores");
_Static_assert(!((VALID | LEAF | REFERENCED | CHANGED | ATT | READ | WRITE | EXECUTE | NLS) &
		 ADDRESS),
	       "flags must leave the address alone");
_Static_assert(WRITE < CHANGED, "what depends on W stands above it (tdp/protect.c)");
_Static_assert(!(NLS & WRITE), "W alone says that a word is a leaf (tdp/protect.c)");
_Static_assert(!(FROZEN & (VALID | LEAF)), "a frozen entry is neither present nor MMIO");

/*
 * The privileged bit means nothing here, where no access is the problem state's. Memory types are
 * those of Linux: normal, non-idempotent I/O, from which nothing is fetched, and tolerant I/O. An
 * entry in use that changes its kind, a leaf or a directory's, goes through an invalid one and a
 * flush, as the architecture wants it of each change of a translation's size.
 */
#define POWER_BITS                                                                               \
	.root_level = QUIRE_LEVEL_512G, .gpa_bits = 52, .pfn_shift = QUIRE_PAGE_SHIFT,           \
	.frames = ENTRY_FRAMES, .odd = SWAPPED, .swapped = SWAPPED, .tables = {.odd = SWAPPED},  \
	.address = ADDRESS, .table_mask = VALID | LEAF, .table_value = VALID,                    \
	.table = VALID | NLS, .large = LEAF, .page = LEAF, .writable = WRITE,                    \
	.executable = EXECUTE, .accessed = REFERENCED, .dirty = CHANGED, .memtype = ATT,         \
	.memtypes = {0, IDEMPOTENT_NOT, TOLERANT}, .uncached_noexec = true, .hw_present = VALID, \
	.present = VALID, .host_writable = HOST_WRITABLE, .mmu_writable = MMU_WRITABLE,          \
	.nonpresent = NONPRESENT, .frozen = FROZEN, .young = REFERENCED, .aged = REFERENCED,     \
	.breaks = true, .mmio_mask = VALID | LEAF | WRITE, .mmio_value = LEAF,                   \
	.mmio_gfn = UINT64_C(0x000ffffffffff000), .mmio_low_shift = 2, .mmio_low_bits = 9,       \
	.mmio_high_shift = 52, .mmio_high_bits = 9

const struct entry_format entry_power = {
    POWER_BITS,
    .name = "power",
    .readable = READ,
    .leaf = VALID | READ,
    .marks = REFERENCED | CHANGED,
};

const struct entry_format entry_power_no_rc = {
    POWER_BITS,
    .name = "power without r and c",
    .readable = READ | REFERENCED,
    .leaf = VALID | READ | REFERENCED,
    .marks = 0,
};
