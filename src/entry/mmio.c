/* MMIO entries: an address without memory, remembered with the generation it was found in. */
#include "src/entry/format.h"

static u64 field_mask(u32 bits)
{
	return (UINT64_C(1) << bits) - 1;
}

/*
 * The low field overlaps nothing the format's mmio_mask looks at: NPT and EPT keep bits 3..9 and
 * 52..62 free in an entry that is not present to software. Bit 11 stays clear.
 */
u64 entry_make_mmio(const struct entry_format *f, gfn_t gfn, u64 generation)
{
	u64 entry = f->mmio_value | f->mmio_access;

	entry |= (gfn.v << QUIRE_PAGE_SHIFT) & ENTRY_ADDRESS_MASK;
	entry |= (generation & field_mask(f->mmio_low_bits)) << f->mmio_low_shift;
	generation >>= f->mmio_low_bits;
	return entry | (generation & field_mask(f->mmio_high_bits)) << f->mmio_high_shift;
}

u64 entry_mmio_generation(const struct entry_format *f, u64 entry)
{
	u64 low = (entry >> f->mmio_low_shift) & field_mask(f->mmio_low_bits);
	u64 high = (entry >> f->mmio_high_shift) & field_mask(f->mmio_high_bits);

	return low | high << f->mmio_low_bits;
}
