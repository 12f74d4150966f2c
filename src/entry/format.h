/* What one word of a stage-2 table means: NPT, and EPT with and without A and D, as descriptors. */
#ifndef QUIRE_ENTRY_FORMAT_H
#define QUIRE_ENTRY_FORMAT_H

#include <quire/format.h>
#include <quire/host.h>

#include "src/base/types.h"

/*
 * Entries hold physical addresses, the library goes by pointers: how a table's are turned into each
 * other. Each VM has a copy of its format's descriptor with these filled in (struct quire_host_ops,
 * table_phys; struct quire_vm_config, table_offset).
 */
struct entry_tables {
	u64 offset; /* a pointer less its physical address; where the functions are NULL */
	u64 (*phys)(void *ctx, const u64 *table);
	u64 *(*virt)(void *ctx, u64 phys);
	void *ctx;
};

/*
 * One descriptor a format. Every mask holds bits of a 64-bit entry. Hardware bits are those of the
 * processor manuals; software bits are free for us because the processor ignores them in a present
 * entry. entry/npt.c and entry/ept.c assert that the masks of a format do not overlap.
 */
struct entry_format {
	const char *name;
	/* The hardware's. */
	u64 readable;	/* all of these set: reads are allowed (NPT: P and U) */
	u64 writable;	/* W */
	u64 executable; /* EPT: X; NPT: none */
	u64 noexec;	/* NPT: NX; EPT: none */
	u64 accessed;	/* A, set by the walker; 0: there is no A */
	u64 dirty;	/* D, set by the walker in a leaf on a write; 0: there is no D */
	u64 large;	/* leaf at level 2 and above */
	u64 memtype;	/* the bits of a leaf that say how accesses are cached */
	u64 memtypes[QUIRE_MEMTYPE_WC + 1]; /* by enum quire_memtype: what they are */
	u64 hw_present; /* any of these set: the walker takes the entry as present */
	/* Ours. */
	u64 present;	   /* software present */
	u64 host_writable; /* the host page may be written */
	u64 mmu_writable;  /* W is off at most for dirty logging */
	u64 nonpresent;	   /* what an empty entry holds */
	u64 frozen;	   /* an entry owned by one writer */
	/*
	 * The age of a leaf. With A: it is young while A is set. Without: while it has its rights.
	 * To age it takes them all away, and the next access faults; R and X are kept aside, and W
	 * comes back by mmu_writable (KVM's access tracking).
	 */
	u64 young; /* set in a young leaf */
	u64 aged;  /* what aging takes away */
	u64 aside; /* of that, what is kept, aside_shift bits above its place; 0: nothing */
	u8 aside_shift;
	/* MMIO entries: (entry & mmio_mask) == mmio_value; 0 when the format has none. The
	 * generation is split over two fields, low bits first. */
	u64 mmio_mask;
	u64 mmio_value;
	u64 mmio_access;   /* bits that are set besides and mean nothing here */
	u8 mmio_low_shift; /* of generation bits 0 .. mmio_low_bits - 1 */
	u8 mmio_low_bits;
	u8 mmio_high_shift;
	u8 mmio_high_bits;
	struct entry_tables tables;
};

/* Bits 12..51 hold the address of a frame or of a lower table. */
#define ENTRY_ADDRESS_MASK UINT64_C(0x000ffffffffff000)

/* Frames and tables have addresses of 48 bits: the formats reserve what is above. */
#define ENTRY_ADDRESS_LIMIT (UINT64_C(1) << 48)

/* Bits of an MMIO generation: both formats have as many. */
#define ENTRY_MMIO_GENERATION_BITS 18

extern const struct entry_format entry_npt;
extern const struct entry_format entry_ept;
/* EPT of a processor without A and D. */
extern const struct entry_format entry_ept_no_ad;

static inline bool entry_is_present(const struct entry_format *f, u64 entry)
{
	return entry & f->present;
}

static inline bool entry_is_frozen(const struct entry_format *f, u64 entry)
{
	return entry == f->frozen;
}

/* Of a present entry at @level: does it map memory (or point to a lower table)? */
static inline bool entry_is_leaf(const struct entry_format *f, u64 entry, u32 level)
{
	return level == QUIRE_LEVEL_4K || (entry & f->large);
}

static inline bool entry_is_writable(const struct entry_format *f, u64 entry)
{
	return entry & f->writable;
}

static inline bool entry_is_executable(const struct entry_format *f, u64 entry)
{
	return (entry & (f->executable | f->noexec)) == f->executable;
}

/*
 * Does aging take rights away? It owes no flush for them (a vCPU may go on for a while with what
 * its TLB has), so here an entry without W does not mean that no TLB has W.
 */
static inline bool entry_ages_by_rights(const struct entry_format *f)
{
	return f->aside;
}

/* Of a present leaf: was it used since it was aged? */
static inline bool entry_is_young(const struct entry_format *f, u64 entry)
{
	return entry & f->young;
}

/* The present leaf @entry, aged. */
static inline u64 entry_make_old(const struct entry_format *f, u64 entry)
{
	return (entry | (entry & f->aside) << f->aside_shift) & ~f->aged;
}

/* The present leaf @entry as a use makes it: with A, or with R and X again as they were. */
static inline u64 entry_make_young(const struct entry_format *f, u64 entry)
{
	u64 kept = entry >> f->aside_shift & f->aside;

	return (entry & ~(f->aside << f->aside_shift)) | kept | f->accessed;
}

/* entry_is_executable(), or it will be with the next use. */
static inline bool entry_may_execute(const struct entry_format *f, u64 entry)
{
	return entry_is_executable(f, entry_make_young(f, entry));
}

/* Can a leaf map @page? */
static inline bool entry_holds_page(const struct quire_page *page)
{
	return page->pfn.v < ENTRY_ADDRESS_LIMIT >> QUIRE_PAGE_SHIFT &&
	       page->memtype <= QUIRE_MEMTYPE_WC;
}

static inline pfn_t entry_pfn(u64 entry)
{
	return (pfn_t){(entry & ENTRY_ADDRESS_MASK) >> QUIRE_PAGE_SHIFT};
}

/* What an entry holds for @table. */
static inline u64 entry_table_address(const struct entry_tables *tables, const u64 *table)
{
	if (unlikely(tables->phys))
		return tables->phys(tables->ctx, table);
	return (u64)(uintptr_t)table - tables->offset;
}

/* The lower table a present non-leaf entry points to. */
static inline u64 *entry_table(const struct entry_format *f, u64 entry)
{
	u64 address = entry & ENTRY_ADDRESS_MASK;

	if (unlikely(f->tables.virt))
		return f->tables.virt(f->tables.ctx, address);
	return (u64 *)(uintptr_t)(address + f->tables.offset);
}

/* An entry that points to @table with all rights: the leaf decides. */
static inline u64 entry_make_table(const struct entry_format *f, const u64 *table)
{
	return entry_table_address(&f->tables, table) | f->present | f->readable | f->writable |
	       f->executable | f->accessed;
}

/* What a leaf shall allow. */
struct entry_leaf {
	pfn_t pfn;
	u32 level;
	bool writable;	    /* W now */
	bool host_writable; /* the host permits writing at all */
	bool mmu_writable;  /* nothing of ours but dirty logging may keep W off */
	bool executable;
	bool accessed; /* false: a prefault, so that aging tells the truth */
	u8 memtype;    /* enum quire_memtype */
};

static inline u8 entry_memtype(const struct entry_format *f, u64 leaf)
{
	u8 type = QUIRE_MEMTYPE_WB;

	while (type < QUIRE_MEMTYPE_WC && (leaf & f->memtype) != f->memtypes[type])
		type++;
	return type;
}

/*
 * W implies D: a page mapped writable counts as written from the start (F-104). What
 * was never used is old: without A and D it has no rights, and W comes with the first write.
 */
static inline u64 entry_make_leaf(const struct entry_format *f, const struct entry_leaf *leaf)
{
	u64 entry = (leaf->pfn.v << QUIRE_PAGE_SHIFT) | f->present | f->readable;

	entry |= f->memtypes[leaf->memtype];
	if (leaf->level > QUIRE_LEVEL_4K)
		entry |= f->large;
	if (leaf->host_writable)
		entry |= f->host_writable;
	if (leaf->mmu_writable)
		entry |= f->mmu_writable;
	if (leaf->writable)
		entry |= f->writable | f->dirty;
	entry |= leaf->executable ? f->executable : f->noexec;
	return leaf->accessed ? entry | f->accessed : entry_make_old(f, entry);
}

/* The entry for child @index, one level down, of the huge leaf @huge at @level. */
static inline u64 entry_make_child(const struct entry_format *f, u64 huge, u32 level, u32 index)
{
	u64 child = huge + ((u64)index << (QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS * (level - 2)));

	return level == QUIRE_LEVEL_2M ? child & ~f->large : child;
}

/* The leaf @entry with the right to execute: an old one gets it with the next use. */
static inline u64 entry_make_executable(const struct entry_format *f, u64 entry)
{
	u64 used = (entry_make_young(f, entry) & ~f->noexec) | f->executable;

	return entry_is_young(f, entry) ? used : entry_make_old(f, used);
}

/* Does @entry mean "no memory here", with the generation it was found in? */
static inline bool entry_is_mmio(const struct entry_format *f, u64 entry)
{
	return f->mmio_mask && (entry & f->mmio_mask) == f->mmio_value;
}

u64 entry_make_mmio(const struct entry_format *f, gfn_t gfn, u64 generation);
u64 entry_mmio_generation(const struct entry_format *f, u64 entry);

/* What a walker is told of @f, in a VM of so many physical address bits. */
struct quire_format entry_describe(const struct entry_format *f, u32 maxphyaddr);

/* May a table of the TDP MMU hold @entry at @level? What is not legal was not made here. */
int entry_is_legal(const struct entry_format *f, u64 entry, u32 level);

#endif
