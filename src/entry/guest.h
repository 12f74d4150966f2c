/* What the words of a guest's own page tables mean, in each way of paging that x86 has. Pure. */
#ifndef QUIRE_ENTRY_GUEST_H
#define QUIRE_ENTRY_GUEST_H

#include <quire/vcpu.h>

#include "src/entry/format.h"

#define GUEST_P (UINT64_C(1) << 0)
#define GUEST_W (UINT64_C(1) << 1)
#define GUEST_U (UINT64_C(1) << 2)
#define GUEST_A (UINT64_C(1) << 5)
#define GUEST_D (UINT64_C(1) << 6)
#define GUEST_PS (UINT64_C(1) << 7)
#define GUEST_NX (UINT64_C(1) << 63)

/* An entry of 4 bytes that maps 4 MiB: four bits of it are bits of the address from 32 on (PSE-36,
 * as KVM knows it). */
#define GUEST_4M_FRAME UINT64_C(0xffc00000)
#define GUEST_4M_HIGH UINT64_C(0x0001e000)
#define GUEST_4M_HIGH_SHIFT (32 - 13)
#define GUEST_4M_RESERVED UINT64_C(0x003e0000)
_Static_assert(!(GUEST_4M_HIGH & GUEST_4M_RESERVED), "the bits of PSE-36 are not reserved");

struct guest_format {
	u8 top;	       /* the highest level with a table in memory; PAE's is in registers */
	u8 root_level; /* of what shadows it: the library's root */
	u8 index_bits; /* of an address, for each level */
	u8 entry_bytes;
	u8 address_bits;  /* that are translated */
	u8 last_reserved; /* reserved from MAXPHYADDR to here; 0: none is */
};

static inline const struct guest_format *guest_format_of(const struct quire_nested *tables)
{
	static const struct guest_format formats[] = {
	    [2] = {2, 3, 10, 4, 32, 0},
	    [3] = {2, 3, 9, 8, 32, 62},
	    [4] = {4, 4, 9, 8, 48, 51},
	    [5] = {5, 5, 9, 8, 57, 51},
	};

	return &formats[tables->levels];
}

static inline bool guest_entry_is_leaf(const struct quire_nested *tables, u64 entry, u32 level)
{
	if (level == QUIRE_LEVEL_4K)
		return true;
	return (entry & GUEST_PS) && (tables->levels > 2 || tables->pse);
}

/* In its table, of the entry at @level for @gpa. */
static inline u64 guest_entry_offset(const struct guest_format *f, gpa_t gpa, u32 level)
{
	u64 index = gpa.v >> (QUIRE_PAGE_SHIFT + f->index_bits * (level - 1));

	return (index & ((1u << f->index_bits) - 1)) * f->entry_bytes;
}

/* Those from @first to @last, each below 64: none where @last comes first. */
static inline u64 guest_bits(u32 first, u32 last)
{
	return (UINT64_MAX >> (63 - last)) & (UINT64_MAX << first);
}

/* Bits that raise a fault when set in the entry at @level. */
static inline u64 guest_reserved_bits(const struct quire_nested *tables, u32 maxphyaddr, u64 entry,
				      u32 level)
{
	bool large = level > QUIRE_LEVEL_4K && guest_entry_is_leaf(tables, entry, level);
	u64 reserved;

	if (tables->levels == 2)
		return large ? GUEST_4M_RESERVED : 0;
	reserved = guest_bits(maxphyaddr, guest_format_of(tables)->last_reserved);
	if (!tables->nx)
		reserved |= GUEST_NX;
	if (level >= QUIRE_LEVEL_512G)
		return reserved | (tables->paging ? GUEST_PS : guest_bits(7, 8));
	if (large)
		/* Between the address of a huge frame and its PAT bit. */
		reserved |= guest_bits(13, QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS * (level - 1) - 1);
	return reserved;
}

/* Of a table, or of a leaf of 4 KiB. */
static inline gfn_t guest_entry_gfn(u64 entry)
{
	return (gfn_t){(entry & ENTRY_ADDRESS_MASK) >> QUIRE_PAGE_SHIFT};
}

/* The page of @gpa in the leaf @entry at @level. */
static inline gfn_t guest_leaf_gfn(const struct guest_format *f, u64 entry, u32 level, gpa_t gpa)
{
	u64 pages = UINT64_C(1) << f->index_bits * (level - 1);

	if (level > QUIRE_LEVEL_4K && f->entry_bytes == sizeof(u32))
		entry = (entry & GUEST_4M_FRAME) | (entry & GUEST_4M_HIGH) << GUEST_4M_HIGH_SHIFT;
	return (gfn_t){(guest_entry_gfn(entry).v & ~(pages - 1)) | (gfn_of(gpa).v & (pages - 1))};
}

#endif
