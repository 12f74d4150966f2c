/* What the words of second-stage tables mean, and the walk that a processor makes of them. */
#ifndef QUIRE_FORMAT_H
#define QUIRE_FORMAT_H

#include <quire/vcpu.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One format (enum quire_format_id). Tables are 4 KiB, hold 512 entries of 64 bits, and are read
 * with one load an entry; a root may be several of them in a row. Each mask holds bits of an entry
 * as it is loaded; 0: the format has no such bit. What no mask names is ignored by a walker.
 */
struct quire_format {
	const char *name;    /* "npt", "ept", "ept with modes", "sv39x4" ... */
	uint64_t present;    /* any of these: the entry counts as present */
	uint64_t readable;   /* all of these: reads are allowed, and writes need it, too */
	uint64_t writable;   /* all of these: writes are */
	uint64_t executable; /* all of these, and none of noexec: instruction fetches are */
	uint64_t noexec;
	/* Any of these: fetches of user mode are, and executable is supervisor mode's. 0: the modes
	 * are one. */
	uint64_t executable_user;
	uint64_t
	    accessed;	/* to be set by a walker in the leaf (and, with table_rights, on its way) */
	uint64_t dirty; /* to be set in the leaf before a write */
	uint64_t memtype; /* of a leaf: how accesses are cached */
	/* Above QUIRE_LEVEL_4K a present entry leads to a table where (entry & table_mask) ==
	 * table. Anything else is a leaf. */
	uint64_t table_mask;
	uint64_t table;
	/* Of a frame or a table: the physical address, shifted right by address_shift; where
	 * swapped, its bytes are in the other order than this machine's, as those of all words. */
	uint64_t address;
	unsigned int address_shift;
	int swapped;
	int odd;		   /* nonzero where address_shift is not 0, or swapped is not */
	unsigned int root_entries; /* 512, or more */
	int table_rights;     /* entries that lead to tables have rights and A, as leaves have */
	uint64_t reserved;    /* any of these in a present entry: a fault that says RSVD */
	uint64_t misfit_mask; /* so does (entry & misfit_mask) == misfit; 0: nothing does */
	uint64_t misfit;
	/* (entry & mmio_mask) == mmio: no memory there, as a fault found out; to a processor it is
	 * a reserved bit, a misfit, or nothing present. 0: this VM's tables have none. */
	uint64_t mmio_mask;
	uint64_t mmio;
	/* From a table's physical address to the pointer: as the host says (<quire/host.h>), or,
	 * where it says nothing, the address and this offset. */
	uint64_t table_offset;
	uint64_t *(*table_virt)(void *ctx, uint64_t physical);
	void *table_ctx;
};

typedef uint64_t *quire_table; /* 512 entries */

/* One source for C and for C++, whose compilers may dislike the other's way to write it. */
#ifdef __cplusplus
#define QUIRE_CAST(type, value) type(value)
#else
#define QUIRE_CAST(type, value) ((type)(value))
#endif

/* Accessors of an entry: pure, no lock. Levels are those of enum quire_level. */

static inline int quire_entry_is_present(const struct quire_format *f, uint64_t entry)
{
	return (entry & f->present) != 0;
}

/* Of a present entry. Otherwise it leads to a table. */
static inline int quire_entry_is_leaf(const struct quire_format *f, uint64_t entry,
				      unsigned int level)
{
	return level == QUIRE_LEVEL_4K || (entry & f->table_mask) != f->table;
}

static inline int quire_entry_is_mmio(const struct quire_format *f, uint64_t entry)
{
	return f->mmio_mask != 0 && (entry & f->mmio_mask) == f->mmio;
}

/* A processor refuses such an entry whatever the access. */
static inline int quire_entry_is_reserved(const struct quire_format *f, uint64_t entry)
{
	return (entry & f->reserved) != 0 ||
	       (f->misfit_mask != 0 && (entry & f->misfit_mask) == f->misfit);
}

/*
 * What an entry by itself adds to a fault's error code: PRESENT and RSVD where it is reserved, or
 * says that no memory is there. Some processors cannot tell the latter from nothing present: then
 * the caller of quire_vcpu_fault() looks, so that the answer comes from the entry.
 */
static inline uint64_t quire_entry_error(const struct quire_format *f, uint64_t entry)
{
	if (quire_entry_is_mmio(f, entry) ||
	    (quire_entry_is_present(f, entry) && quire_entry_is_reserved(f, entry)))
		return QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD;
	return 0;
}

/* The rights of a present leaf; with table_rights, every entry on the way must have them, too. */
static inline int quire_entry_is_readable(const struct quire_format *f, uint64_t entry)
{
	return (entry & f->readable) == f->readable;
}

static inline int quire_entry_is_writable(const struct quire_format *f, uint64_t entry)
{
	return (entry & f->writable) == f->writable;
}

static inline int quire_entry_is_executable(const struct quire_format *f, uint64_t entry)
{
	return (entry & (f->executable | f->noexec)) == f->executable;
}

/* By user mode: quire_entry_is_executable() is about supervisor mode where the modes are two. */
static inline int quire_entry_is_executable_by_user(const struct quire_format *f, uint64_t entry)
{
	return f->executable_user ? (entry & f->executable_user) != 0
				  : quire_entry_is_executable(f, entry);
}

/* Without such bits a page counts as used and written from the start. */
static inline int quire_entry_is_accessed(const struct quire_format *f, uint64_t entry)
{
	return (entry & f->accessed) == f->accessed;
}

static inline int quire_entry_is_dirty(const struct quire_format *f, uint64_t entry)
{
	return (entry & f->dirty) == f->dirty;
}

/* @word with its bytes in the other order. Written out: some compilers call a library for the
 * builtin. */
static inline uint64_t quire_word_turned(uint64_t word)
{
	const uint64_t bytes = UINT64_C(0x00ff00ff00ff00ff), pairs = UINT64_C(0x0000ffff0000ffff);

	word = (word & bytes) << 8 | (word >> 8 & bytes);
	word = (word & pairs) << 16 | (word >> 16 & pairs);
	return word << 32 | word >> 32;
}

/* Physical address of the frame that a leaf maps, or of the table that another entry leads to. */
static inline uint64_t quire_entry_address(const struct quire_format *f, uint64_t entry)
{
	uint64_t address = entry & f->address;

	if (!f->odd)
		return address;
	return (f->swapped ? quire_word_turned(address) : address) << f->address_shift;
}

/* The table that a present entry leads to. Valid inside guest mode alone. */
static inline uint64_t *quire_entry_table(const struct quire_format *f, uint64_t entry)
{
	uint64_t address = quire_entry_address(f, entry);

	if (f->table_virt)
		return f->table_virt(f->table_ctx, address);
	return QUIRE_CAST(quire_table, address + f->table_offset);
}

/* Bytes that an entry at @level covers. */
static inline uint64_t quire_level_bytes(unsigned int level)
{
	return QUIRE_PAGE_SIZE << (QUIRE_TABLE_BITS * (level - 1));
}

/*
 * The entry for @gpa in a table of entries at @level; address bits above the table's are ignored.
 */
static inline uint64_t *quire_table_entry(uint64_t *table, gpa_t gpa, unsigned int level)
{
	return &table[gpa.v / quire_level_bytes(level) % QUIRE_TABLE_ENTRIES];
}

/* The entry for @gpa in the root, which must reach so far. */
static inline uint64_t *quire_root_entry(const struct quire_stage2 *stage2, gpa_t gpa)
{
	return &stage2->root[gpa.v / quire_level_bytes(stage2->root_level)];
}

/* Where a walk ended. */
struct quire_translation {
	uint64_t address;    /* physical, of the very byte: with a translation */
	uint64_t error_code; /* for quire_vcpu_fault(): without; @access with one */
	uint64_t entry;	     /* the one that decided, with what the walk has set; 0: no @slot */
	uint64_t *slot;	     /* its place; NULL: the tables do not reach so far */
	unsigned int level;  /* of that entry */
};

/*
 * Does a present @entry allow @access? A fetch needs no right to read. With
 * QUIRE_PFERR_USER a fetch is user mode's where the modes are two. Else every access counts as a
 * user's, whatever that says: a supervisor's access by the tables of .paging (struct
 * quire_nested) needs a walk of the caller's.
 */
static inline int quire_entry_allows(const struct quire_format *f, uint64_t entry, uint64_t access)
{
	if (access & QUIRE_PFERR_FETCH)
		return access & QUIRE_PFERR_USER ? quire_entry_is_executable_by_user(f, entry)
						 : quire_entry_is_executable(f, entry);
	return quire_entry_is_readable(f, entry) &&
	       (!(access & QUIRE_PFERR_WRITE) || quire_entry_is_writable(f, entry));
}

/*
 * Set @bits in *@slot, which held @entry, as a processor does: nonzero when they are set. Zero: the
 * entry has changed meanwhile and is to be read again. A store is a full barrier, after which the
 * access comes. Bits that @entry has already are not stored: no barrier then.
 */
static inline int quire_entry_set(uint64_t *slot, uint64_t entry, uint64_t bits)
{
	if ((entry & bits) == bits)
		return 1;
	return __atomic_compare_exchange_n(slot, &entry, entry | bits, 0, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

/*
 * The walk of a processor that keeps no translations. @access: QUIRE_PFERR_WRITE or _FETCH or
 * neither, and what the error code shall say besides (QUIRE_PFERR_USER ...). Nonzero: translated, A
 * and D are set. Zero: found->error_code is @access, with PRESENT where an entry refuses it, and
 * with PRESENT and RSVD where an entry is reserved; A may be set on the way. By the vCPU's thread
 * between quire_vcpu_enter() and quire_vcpu_leave(): the translation ends with guest mode, and one
 * that is kept longer goes with QUIRE_REQ_TLB_FLUSH. Takes no lock, never sleeps. Rights are judged
 * as in quire_entry_allows().
 */
static inline int quire_walk(const struct quire_stage2 *stage2, gpa_t gpa, uint64_t access,
			     struct quire_translation *found)
{
	const struct quire_format *f = stage2->format;
	uint64_t marks, inside, error;
	int leaf;

	found->level = stage2->root_level;
	found->slot = NULL;
	found->entry = 0;
	found->address = 0;
	found->error_code = access;
	if (gpa.v / quire_level_bytes(found->level) >= f->root_entries)
		return 0;
	found->slot = quire_root_entry(stage2, gpa);
	for (;;) {
		found->entry = __atomic_load_n(found->slot, __ATOMIC_ACQUIRE);
		error = quire_entry_error(f, found->entry);
		found->error_code |= error;
		if (error || !quire_entry_is_present(f, found->entry))
			return 0;
		leaf = quire_entry_is_leaf(f, found->entry, found->level);
		if ((leaf || f->table_rights) && !quire_entry_allows(f, found->entry, access)) {
			found->error_code |= QUIRE_PFERR_PRESENT;
			return 0;
		}
		marks = leaf || f->table_rights ? f->accessed : 0;
		if (leaf && (access & QUIRE_PFERR_WRITE))
			marks |= f->dirty;
		if (!quire_entry_set(found->slot, found->entry, marks))
			continue;
		found->entry |= marks;
		if (leaf)
			break;
		found->level--;
		found->slot =
		    quire_table_entry(quire_entry_table(f, found->entry), gpa, found->level);
	}
	inside = quire_level_bytes(found->level) - 1;
	found->address = (quire_entry_address(f, found->entry) & ~inside) | (gpa.v & inside);
	return 1;
}

#ifdef __cplusplus
}
#endif

#endif
