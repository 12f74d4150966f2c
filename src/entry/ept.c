/* Intel's extended page tables, with A and D and without. */
#include "src/entry/format.h"

#define R (UINT64_C(1) << 0)
#define W (UINT64_C(1) << 1)
#define X (UINT64_C(1) << 2)
#define TYPE(number) (UINT64_C(number) << 3)
#define IPAT (UINT64_C(1) << 6)
#define PS (UINT64_C(1) << 7)
#define A (UINT64_C(1) << 8)
#define D (UINT64_C(1) << 9)
#define XU (UINT64_C(1) << 10) /* with mode-based execute control: X is the supervisor's */
#define PRESENT (UINT64_C(1) << 11)
#define HOST_WRITABLE (UINT64_C(1) << 53)
#define MMU_WRITABLE (UINT64_C(1) << 55)
#define SUPPRESS_VE (UINT64_C(1) << 63)
#define NONPRESENT SUPPRESS_VE
/* Of an old entry without A: where R and X wait, in bits 52 and 54. */
#define ASIDE (R | X)
#define ASIDE_SHIFT 52
#define FROZEN (NONPRESENT | UINT64_C(0x1a0))

_Static_assert(!((R | W | X | XU | TYPE(7) | IPAT | PS | A | D) &
		 (HOST_WRITABLE | MMU_WRITABLE | PRESENT)),
	       "software bits must be ones the processor ignores");
_Static_assert(!((HOST_WRITABLE | MMU_WRITABLE | PRESENT | SUPPRESS_VE) & ENTRY_ADDRESS_MASK),
	       "flags must leave the address alone");
_Static_assert(!(ASIDE << ASIDE_SHIFT &
		 (HOST_WRITABLE | MMU_WRITABLE | SUPPRESS_VE | ENTRY_ADDRESS_MASK)),
	       "what waits has bits of its own");
_Static_assert(W < PRESENT && W < D, "what depends on W stands above it (tdp/protect.c)");
_Static_assert(!(FROZEN & (R | W | X | XU | PRESENT)), "a frozen entry is not present");

/* What both have; write and execute without read is a combination the processor refuses. */
#define EPT_BITS                                                                                  \
	.root_level = QUIRE_LEVEL_512G, .gpa_bits = 48, .pfn_shift = QUIRE_PAGE_SHIFT,            \
	.address = ENTRY_ADDRESS_MASK, .table_mask = PRESENT | PS, .table_value = PRESENT,        \
	.table_rights = true, .checks_width = true, .frames = ENTRY_FRAMES, .misfit_mask = R | W, \
	.misfit = W, .mmio_gfn = ENTRY_ADDRESS_MASK, .readable = R, .leaf = PRESENT | R,          \
	.writable = W, .executable = X, .noexec = 0, .large = PS, .memtype = TYPE(7) | IPAT,      \
	.memtypes = {TYPE(6) | IPAT, TYPE(0) | IPAT, TYPE(1) | IPAT}, .present = PRESENT,         \
	.host_writable = HOST_WRITABLE, .mmu_writable = MMU_WRITABLE, .nonpresent = NONPRESENT,   \
	.frozen = FROZEN, .mmio_mask = R | W | X | PRESENT | SUPPRESS_VE, .mmio_value = W | X,    \
	.mmio_access = 0, .mmio_low_shift = 3, .mmio_low_bits = 7, .mmio_high_shift = 52,         \
	.mmio_high_bits = 11

const struct entry_format entry_ept = {
    EPT_BITS,
    .hw_present = R | W | X,
    .name = "ept",
    .accessed = A,
    .dirty = D,
    .marks = A | D,
    .young = A,
    .aged = A,
    .table = PRESENT | R | W | X | A,
};

const struct entry_format entry_ept_no_ad = {
    EPT_BITS,
    .hw_present = R | W | X,
    .name = "ept without a and d",
    .accessed = 0,
    .dirty = 0,
    .table = PRESENT | R | W | X,
    .young = R,
    .aged = R | W | X,
    .aside = ASIDE,
    .aside_shift = ASIDE_SHIFT,
};

const struct entry_format entry_ept_modes = {
    EPT_BITS,
    .hw_present = R | W | X | XU,
    .name = "ept with modes",
    .executable_user = XU,
    .unreadable = R,
    .accessed = A,
    .dirty = D,
    .marks = A | D,
    .young = A,
    .aged = A,
    .table = PRESENT | R | W | X | XU | A,
};
