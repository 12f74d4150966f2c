/* MMIO entries: an address without memory, remembered with the generation it was found in. */
#include "src/entry/format.h"

static u64 field_mask(u32 bits)
{
	return (UINT64_C(1) << bits) - 1;
}

/*
 * The generation's fields overlap nothing that the format's mmio_mask looks at. W stays clear where
 * the format has no software present bit (tdp/protect.c).
 */
u64 entry_make_mmio(const struct entry_format *f, gfn_t gfn, u64 generation)
{
	u64 entry = (gfn.v << f->pfn_shift) & f->mmio_gfn;

	entry |= (generation & field_mask(f->mmio_low_bits)) << f->mmio_low_shift;
	generation >>= f->mmio_low_bits;
	entry |= (generation & field_mask(f->mmio_high_bits)) << f->mmio_high_shift;
	return entry_turn(f, entry) | f->mmio_value | f->mmio_access;
}

u64 entry_mmio_generation(const struct entry_format *f, u64 entry)
{
	u64 low, high;

	entry = entry_turn(f, entry);
	low = (entry >> f->mmio_low_shift) & field_mask(f->mmio_low_bits);
	high = (entry >> f->mmio_high_shift) & field_mask(f->mmio_high_bits);
	return low | high << f->mmio_low_bits;
}

gfn_t entry_mmio_gfn(const struct entry_format *f, u64 entry)
{
	return (gfn_t){(entry_turn(f, entry) & f->mmio_gfn) >> f->pfn_shift};
}
