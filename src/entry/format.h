/* What one word of a stage-2 table means: each format of <quire/vm.h> as a descriptor. */
#ifndef QUIRE_ENTRY_FORMAT_H
#define QUIRE_ENTRY_FORMAT_H

#include <quire/format.h>
#include <quire/host.h>
#include <quire/vm.h>

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
	bool odd; /* the way is longer than an addition: entry_table_odd() */
};

/*
 * One descriptor a format. Every mask holds bits of a 64-bit entry. Hardware bits are those of the
 * processor manuals; software bits are free for us because the processor ignores them in a present
 * entry. The file of each format asserts that its masks do not overlap.
 */
struct entry_format {
	const char *name;
	/* The tables' shape: 512 entries each, but the root, which is several tables in a row where
	 * the guest's addresses have more bits than the levels translate. */
	u8 root_level;
	u8 gpa_bits;
	u8 pfn_shift; /* where a frame number stands in an entry */
	/* Words are of the other byte order than the machine's. All masks are of words as they are
	 * loaded, so that frame numbers and MMIO entries alone are turned around. */
	bool swapped;
	bool odd; /* frame numbers are not simply what is from QUIRE_PAGE_SHIFT on: pfn_shift or
		   * swapped says so */
	/* Of a present entry above the lowest level: (entry & table_mask) == table_value, which
	 * includes @present, leads to a table; anything else is a leaf. */
	u64 table_mask;
	u64 table_value;
	u64 table; /* what the entry of a table holds beside the address */
	u64 leaf;  /* what every leaf holds: @present and @readable */
	u64 address;
	/* The hardware's. */
	u64 readable;	     /* all of these set: reads are allowed (NPT: P and U) */
	u64 writable;	     /* W */
	u64 executable;	     /* EPT: X; NPT: none */
	u64 noexec;	     /* NPT: NX; EPT: none */
	u64 executable_user; /* executable is the supervisor's; 0: the modes are one */
	u64 unreadable;	     /* what an execute-only leaf lacks; 0: there are none */
	u64 accessed;	     /* A; 0: there is no A */
	u64 dirty;	     /* D of a leaf, which comes with W; 0: there is no D */
	u64 large;	     /* set in a leaf at level 2 and above */
	u64 page;	     /* set in a leaf at level 1 */
	u64 marks;   /* of A and D, those that the processor sets; it faults for the others */
	u64 memtype; /* the bits of a leaf that say how accesses are cached */
	u64 memtypes[QUIRE_MEMTYPE_WC + 1]; /* by enum quire_memtype: what they are */
	bool uncached_noexec; /* the processor fetches nothing from QUIRE_MEMTYPE_UC */
	u64 hw_present;	      /* any of these set: the walker takes the entry as present */
	u64 reserved;	      /* these fault in a present entry, and so does the misfit */
	u64 misfit_mask;
	u64 misfit;
	bool checks_width; /* address bits above MAXPHYADDR are reserved, too */
	u64 frames;	   /* of the machine: numbers of frames and tables are below */
	bool table_rights; /* entries of tables have rights, A and D as leaves do */
	/* What leads to a table becomes a leaf, or the reverse, by way of an invalid entry and a
	 * flush (break-before-make). */
	bool breaks;
	/* Ours. */
	u64 present;	   /* software present */
	u64 host_writable; /* the host page may be written */
	u64 mmu_writable;  /* W is off at most for dirty logging */
	u64 nonpresent;	   /* what an empty entry holds */
	u64 frozen;	   /* an entry owned by one writer */
	/*
	 * The age of a leaf. With A: it is young while A is set; where the processor does not set
	 * A, it faults then, so that A counts as a right (@readable has it). Without A: while it
	 * has its rights. To age it takes them all away, and the next access faults; R and X are
	 * kept aside, and W comes back by mmu_writable (KVM's access tracking).
	 */
	u64 young; /* set in a young leaf */
	u64 aged;  /* what aging takes away */
	u64 aside; /* of that, what is kept, aside_shift bits above its place; 0: nothing */
	u8 aside_shift;
	/* MMIO entries: (entry & mmio_mask) == mmio_value; every format has some. The
	 * generation is split over two fields, low bits first. Its fields and the gfn's are those
	 * of the word turned around where it is @swapped. */
	u64 mmio_mask;
	u64 mmio_value;
	u64 mmio_access;   /* bits that are set besides and mean nothing here */
	u64 mmio_gfn;	   /* where the gfn is, from pfn_shift on */
	u8 mmio_low_shift; /* of generation bits 0 .. mmio_low_bits - 1 */
	u8 mmio_low_bits;
	u8 mmio_high_shift;
	u8 mmio_high_bits;
	struct entry_tables tables;
};

/* x86: bits 12..51 hold the address of a frame or of a lower table. */
#define ENTRY_ADDRESS_MASK UINT64_C(0x000ffffffffff000)

/* Frames and tables have addresses of 48 bits at most, or of those that the machine has. */
#define ENTRY_ADDRESS_BITS 48u
#define ENTRY_FRAMES (UINT64_C(1) << (ENTRY_ADDRESS_BITS - QUIRE_PAGE_SHIFT))

/* Bits of an MMIO generation: both formats have as many. */
#define ENTRY_MMIO_GENERATION_BITS 18

extern const struct entry_format entry_npt;
extern const struct entry_format entry_ept;
/* EPT of a processor without A and D. */
extern const struct entry_format entry_ept_no_ad;
/* EPT with execute-only translations and mode-based execute control. */
extern const struct entry_format entry_ept_modes;
/* RISC-V, of a processor that sets A and D (Svadu), and of one that faults for them (Svade). */
extern const struct entry_format entry_sv39x4;
extern const struct entry_format entry_sv39x4_no_ad;
extern const struct entry_format entry_sv48x4;
extern const struct entry_format entry_sv48x4_no_ad;

/* arm64's stage 2, of three and of four levels; without the AF that hardware sets; and with the
 * dirty state that it sets. */
extern const struct entry_format entry_arm64_3;
extern const struct entry_format entry_arm64_3_no_af;
extern const struct entry_format entry_arm64_3_dbm;
extern const struct entry_format entry_arm64_4;
extern const struct entry_format entry_arm64_4_no_af;
extern const struct entry_format entry_arm64_4_dbm;

/* POWER's partition-scoped radix tables, with R and C set by the processor, and by us. */
extern const struct entry_format entry_power;
extern const struct entry_format entry_power_no_rc;

#define ENTRY_FORMATS (QUIRE_FORMAT_ARM64_4_DBM + 1)
extern const struct entry_format *const entry_formats[ENTRY_FORMATS]; /* by enum quire_format_id */

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
	return level == QUIRE_LEVEL_4K || (entry & f->table_mask) != f->table_value;
}

/* Of any entry above the lowest level: does it lead to a table? */
static inline bool entry_is_table(const struct entry_format *f, u64 entry)
{
	return (entry & f->table_mask) == f->table_value;
}

/* Of a present leaf: may it be used at all? What was aged may not where entry_ages_by_faults(). */
static inline bool entry_is_readable(const struct entry_format *f, u64 entry)
{
	return (entry & f->readable) == f->readable;
}

static inline bool entry_is_writable(const struct entry_format *f, u64 entry)
{
	return entry & f->writable;
}

/* By one mode or the other. */
static inline bool entry_is_executable(const struct entry_format *f, u64 entry)
{
	return (entry & (f->executable | f->noexec)) == f->executable ||
	       (entry & f->executable_user);
}

/* By the mode of the access with that error code. */
static inline bool entry_allows_fetch(const struct entry_format *f, u64 entry, u64 error_code)
{
	if (f->executable_user)
		return entry & (error_code & QUIRE_PFERR_USER ? f->executable_user : f->executable);
	return entry_is_executable(f, entry);
}

/* Does a use of what was aged fault? Elsewhere the processor sets A. */
static inline bool entry_ages_by_faults(const struct entry_format *f)
{
	return f->aged & f->readable;
}

/*
 * Does aging take W away? It owes no flush for it (a vCPU may go on for a while with what its TLB
 * has), so here an entry without W does not mean that no TLB has W.
 */
static inline bool entry_ages_by_rights(const struct entry_format *f)
{
	return f->aged & f->writable;
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

/* Does the host refuse a fetch with that error code? */
static inline bool entry_page_refuses_fetch(const struct entry_format *f,
					    const struct quire_page *page, u64 error_code)
{
	if (likely(!page->noexec) || !f->executable_user)
		return page->noexec;
	return page->noexec == QUIRE_NOEXEC ||
	       (page->noexec == QUIRE_NOEXEC_USER) == !!(error_code & QUIRE_PFERR_USER);
}

/* May the guest execute from @page, in one mode or the other? */
static inline bool entry_page_is_executable(const struct entry_format *f,
					    const struct quire_page *page)
{
	return !page->noexec || (f->executable_user && page->noexec != QUIRE_NOEXEC);
}

/* May the guest do with @page what it likes, and is it cached as memory? Every format has those. */
static inline bool entry_page_is_ordinary(const struct quire_page *page)
{
	return !(page->noexec | page->noread | page->memtype);
}

static inline bool entry_holds_frame(const struct entry_format *f, pfn_t pfn)
{
	return pfn.v < f->frames;
}

/* entry_holds_page(), where it is not plain memory. */
int entry_holds_odd_page(const struct entry_format *f, struct quire_page *page);

/*
 * Can a leaf map @page? One that may not be used in any way is none. Takes from @page what the
 * processor refuses by itself.
 */
static inline bool entry_holds_page(const struct entry_format *f, struct quire_page *page)
{
	return entry_holds_frame(f, page->pfn) &&
	       (likely(!(page->memtype | page->noread)) || entry_holds_odd_page(f, page));
}

/* What leaves of @page lack of what others have, beside writing. */
static inline u64 entry_page_lacks(const struct entry_format *f, const struct quire_page *page)
{
	u64 lacks = page->noread ? f->unreadable : 0;

	if (!f->executable_user)
		return lacks;
	if (page->noexec == QUIRE_NOEXEC_USER)
		return lacks | f->executable_user;
	return page->noexec == QUIRE_NOEXEC_SUPERVISOR ? lacks | f->executable : lacks;
}

/* A word of the format as the processor numbers its bits, or the reverse. */
static inline u64 entry_turn(const struct entry_format *f, u64 entry)
{
	return unlikely(f->swapped) ? quire_word_turned(entry) : entry;
}

static inline pfn_t entry_pfn(const struct entry_format *f, u64 entry)
{
	u64 address = entry & f->address;

	if (unlikely(f->odd))
		return (pfn_t){entry_turn(f, address) >> f->pfn_shift};
	return (pfn_t){address >> QUIRE_PAGE_SHIFT};
}

/* What an entry with the frame number @pfn holds of it. Without a call: it is on every fault's way.
 */
static inline u64 entry_place_pfn(const struct entry_format *f, pfn_t pfn)
{
	if (unlikely(f->odd))
		return entry_turn(f, pfn.v << f->pfn_shift);
	return pfn.v << QUIRE_PAGE_SHIFT;
}

/* Do both entries lead to one frame? */
static inline bool entry_same_pfn(const struct entry_format *f, u64 entry, u64 other)
{
	return !((entry ^ other) & f->address);
}

/* Of the frame that a leaf maps, or of the table that another entry leads to. */
static inline u64 entry_address(const struct entry_format *f, u64 entry)
{
	return entry_pfn(f, entry).v << QUIRE_PAGE_SHIFT;
}

/* Tables in a row that make a root. */
static inline u32 entry_root_tables(const struct entry_format *f)
{
	u32 translated = QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS * f->root_level;

	return f->gpa_bits > translated ? 1u << (f->gpa_bits - translated) : 1;
}

/* Of those of @root, the one with the entry for @gfn, which has at most gpa_bits. */
static inline u64 *entry_root_table(const struct entry_format *f, u64 *root, gfn_t gfn)
{
	return &root[gfn.v >> (QUIRE_TABLE_BITS * f->root_level) << QUIRE_TABLE_BITS];
}

/* The entry of @root for @gfn: the first step of a walk. */
static inline u64 *entry_of_root(const struct entry_format *f, u64 *root, gfn_t gfn)
{
	return &root[gfn.v >> (QUIRE_TABLE_BITS * (f->root_level - 1))];
}

/* What an entry holds for @table. */
static inline u64 entry_table_address(const struct entry_tables *tables, const u64 *table)
{
	if (unlikely(tables->phys))
		return tables->phys(tables->ctx, table);
	return (u64)(uintptr_t)table - tables->offset;
}

/* Where the address is shifted, or the host's function knows the table. */
u64 *entry_table_odd(const struct entry_format *f, u64 entry);

/* The lower table a present non-leaf entry points to. */
static inline u64 *entry_table(const struct entry_format *f, u64 entry)
{
	if (unlikely(f->tables.odd))
		return entry_table_odd(f, entry);
	return (u64 *)(uintptr_t)((entry & f->address) + f->tables.offset);
}

/* An entry that points to @table, with all rights where it has any: the leaf decides. */
static inline u64 entry_make_table(const struct entry_format *f, const u64 *table)
{
	u64 address = entry_table_address(&f->tables, table);

	if (unlikely(f->odd))
		address = entry_place_pfn(f, (pfn_t){address >> QUIRE_PAGE_SHIFT});
	return address | f->table;
}

/* What a leaf shall allow. */
struct entry_leaf {
	pfn_t pfn;
	u32 level;
	bool writable;	    /* W now */
	bool host_writable; /* the host permits writing at all */
	bool mmu_writable;  /* nothing of ours but dirty logging may keep W off */
	bool executable;    /* a mode may fetch, unless lacks has its bit */
	bool accessed;	    /* false: a prefault, so that aging tells the truth */
	u8 memtype;	    /* enum quire_memtype */
	u64 lacks;	    /* entry_page_lacks() */
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
	u64 entry = entry_place_pfn(f, leaf->pfn) | f->leaf;

	entry |= f->memtypes[leaf->memtype];
	entry |= leaf->level > QUIRE_LEVEL_4K ? f->large : f->page;
	if (leaf->host_writable)
		entry |= f->host_writable;
	if (leaf->mmu_writable)
		entry |= f->mmu_writable;
	if (leaf->writable)
		entry |= f->writable | f->dirty;
	entry |= leaf->executable ? f->executable | f->executable_user : f->noexec;
	entry &= ~leaf->lacks;
	return leaf->accessed ? entry | f->accessed : entry_make_old(f, entry);
}

/* What the addresses of neighbours below a huge leaf at @level differ by; not where
 * entry_format.odd. */
static inline u64 entry_child_step(u32 level)
{
	return QUIRE_PAGE_SIZE << (QUIRE_TABLE_BITS * (level - 2));
}

/* The entry for child @index, one level down, of the huge leaf @huge at @level. */
static inline u64 entry_make_child(const struct entry_format *f, u64 huge, u32 level, u32 index)
{
	u64 child = level == QUIRE_LEVEL_2M ? (huge & ~f->large) | f->page : huge;
	u64 step = UINT64_C(1) << (QUIRE_TABLE_BITS * (level - 2));

	/* The address of a huge leaf is aligned: nothing carries. */
	return child | entry_place_pfn(f, (pfn_t){index * step});
}

/* The leaf @entry with the right to execute: an old one gets it with the next use. */
static inline u64 entry_make_executable(const struct entry_format *f, u64 entry)
{
	u64 used = (entry_make_young(f, entry) & ~f->noexec) | f->executable | f->executable_user;

	return entry_is_young(f, entry) ? used : entry_make_old(f, used);
}

/* Does @entry mean "no memory here", with the generation it was found in? */
static inline bool entry_is_mmio(const struct entry_format *f, u64 entry)
{
	return (entry & f->mmio_mask) == f->mmio_value;
}

u64 entry_make_mmio(const struct entry_format *f, gfn_t gfn, u64 generation);
u64 entry_mmio_generation(const struct entry_format *f, u64 entry);
gfn_t entry_mmio_gfn(const struct entry_format *f, u64 entry);

/* What a walker is told of @f, in a VM of so many physical address bits. */
struct quire_format entry_describe(const struct entry_format *f, u32 maxphyaddr);

/* May a table of the TDP MMU hold @entry at @level? What is not legal was not made here. */
int entry_is_legal(const struct entry_format *f, u64 entry, u32 level);

#endif
