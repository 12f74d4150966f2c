/* The entry formats: every legal leaf, table and MMIO entry, and nothing that is two of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/entry/format.h"
#include "src/entry/guest.h"

#define formats entry_formats
#define FORMAT_COUNT ENTRY_FORMATS

/* Frame numbers with every single bit of the address field, and with all of them. */
static u64 frame(const struct entry_format *f, unsigned int which, u32 level)
{
	u64 mask = entry_pfn(f, f->address).v & ~(level_pages(level) - 1);

	return which < 40 ? (UINT64_C(1) << which & mask) : which == 40 ? mask : 0;
}

/* Exactly one of: present, MMIO, frozen, empty. */
static void assert_one_kind(const struct entry_format *f, u64 entry, int present, int mmio)
{
	/* Without A bits an old leaf is present to us alone. */
	int asleep = f == &entry_ept_no_ad && present && !(entry & 7);
	/* An MMIO entry is a fault with RSVD, or to RISC-V nothing. */
	int shows = present || (mmio && (f->mmio_value & f->hw_present));

	assert_int_equal(entry_is_present(f, entry), present);
	assert_int_equal(entry_is_mmio(f, entry), mmio);
	assert_false((present || mmio) && entry_is_frozen(f, entry));
	assert_false((present || mmio) && entry == f->nonpresent);
	/* What the processor takes as present is present to us, or is an MMIO entry. */
	assert_int_equal((entry & f->hw_present) != 0, shows && !asleep);
}

static void check_leaf(const struct entry_format *f, const struct entry_leaf *leaf)
{
	u64 entry = entry_make_leaf(f, leaf);
	int awake = leaf->accessed || !entry_ages_by_rights(f);

	assert_one_kind(f, entry, 1, 0);
	assert_true(entry_is_leaf(f, entry, leaf->level));
	assert_int_equal(entry_pfn(f, entry).v, leaf->pfn.v);
	assert_int_equal(entry_is_young(f, entry), leaf->accessed);
	assert_int_equal(entry_is_writable(f, entry), leaf->writable && awake);
	assert_int_equal(entry_is_executable(f, entry), leaf->executable && awake);
	assert_int_equal(entry_may_execute(f, entry), leaf->executable);
	assert_int_equal((entry & f->host_writable) != 0, leaf->host_writable);
	assert_int_equal((entry & f->mmu_writable) != 0, leaf->mmu_writable);
	assert_int_equal((entry & f->accessed) != 0, leaf->accessed && f->accessed);
	/* W has D with it, from the start; no W, no D. */
	assert_int_equal((entry & f->dirty) != 0, leaf->writable && f->dirty);
	assert_int_equal(entry_is_readable(f, entry), leaf->accessed || !entry_ages_by_faults(f));
	assert_int_equal(entry & f->memtype, f->memtypes[leaf->memtype]);
}

/* What the processor sees of a child is what it saw of that part of the huge leaf. */
static void check_children(const struct entry_format *f, const struct entry_leaf *huge)
{
	u64 entry = entry_make_leaf(f, huge), step = level_pages(huge->level - 1);

	for (u32 index = 0; index < QUIRE_TABLE_ENTRIES; index++) {
		struct entry_leaf child = *huge;

		child.level--;
		child.pfn.v += index * step;
		assert_int_equal(entry_make_child(f, entry, huge->level, index),
				 entry_make_leaf(f, &child));
	}
}

/* What was aged has lost A, or all rights but those that come back; and a use undoes that. */
static void check_ages(const struct entry_format *f, const struct entry_leaf *leaf)
{
	struct entry_leaf old = *leaf, again = *leaf;
	u64 entry = entry_make_leaf(f, leaf);

	old.accessed = false;
	again.accessed = true;
	assert_int_equal(entry_make_old(f, entry), entry_make_leaf(f, &old));
	assert_int_equal(entry_make_old(f, entry_make_old(f, entry)), entry_make_old(f, entry));
	/* W is what dirty logging wants to hear of: it waits for a write. */
	if (entry_ages_by_rights(f) && !leaf->accessed)
		again.writable = false;
	assert_int_equal(entry_make_young(f, entry), entry_make_leaf(f, &again));
	again.executable = true;
	again.accessed = leaf->accessed;
	assert_int_equal(entry_make_executable(f, entry), entry_make_leaf(f, &again));
}

/* W implies that the MMU permits it, which implies that the host does. */
static int is_legal(unsigned int bits)
{
	int writable = bits & 1, mmu = bits >> 1 & 1, host = bits >> 2 & 1;

	return (!writable || mmu) && (!mmu || host);
}

static void test_leaves(void **state)
{
	(void)state;
	for (unsigned int which = 0; which < FORMAT_COUNT * 3 * 32 * 42; which++) {
		const struct entry_format *f = formats[which % FORMAT_COUNT];
		unsigned int bits = which / FORMAT_COUNT % 32;
		u32 level = 1 + which / FORMAT_COUNT / 32 % 3;
		struct entry_leaf leaf = {
		    .pfn = {frame(f, which / FORMAT_COUNT / 32 / 3, level)},
		    .level = level,
		    .writable = bits & 1,
		    .mmu_writable = bits >> 1 & 1,
		    .host_writable = bits >> 2 & 1,
		    .executable = bits >> 3 & 1,
		    .accessed = bits >> 4 & 1,
		};

		if (!is_legal(bits))
			continue;
		check_leaf(f, &leaf);
		check_ages(f, &leaf);
		if (level > QUIRE_LEVEL_4K)
			check_children(f, &leaf);
	}
}

static void test_tables(void **state)
{
	(void)state;
	for (unsigned int which = 0; which < FORMAT_COUNT * 48; which++) {
		const struct entry_format *f = formats[which % FORMAT_COUNT];
		u64 *table =
		    (u64 *)(uintptr_t)(UINT64_C(1) << which / FORMAT_COUNT & ~UINT64_C(0xfff));
		u64 entry = entry_make_table(f, table);

		assert_one_kind(f, entry, 1, 0);
		assert_ptr_equal(entry_table(f, entry), table);
		/* All rights, or none that count: the leaf decides. */
		assert_int_equal(entry_is_writable(f, entry), f->table_rights);
		assert_true(!f->table_rights || entry_is_executable(f, entry));
		for (u32 level = 2; level <= 4; level++)
			assert_false(entry_is_leaf(f, entry, level));
	}
}

static void test_empty(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		const struct entry_format *f = formats[i];

		assert_one_kind(f, f->nonpresent, 0, 0);
		assert_one_kind(f, f->frozen, 0, 0);
		assert_true(entry_is_frozen(f, f->frozen));
		assert_int_equal(f->leaf, f->present | f->readable);
		assert_int_not_equal(f->frozen, f->nonpresent);
	}
}

/* Every generation comes back; it is not mistaken for another; the rest is the format's own. */
static void test_mmio(void **state)
{
	u64 last = UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS;

	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		const struct entry_format *f = formats[i];

		const u64 gfns = (UINT64_C(1) << (f->gpa_bits - QUIRE_PAGE_SHIFT)) - 1;

		assert_int_equal(f->mmio_low_bits + f->mmio_high_bits, ENTRY_MMIO_GENERATION_BITS);
		for (u64 generation = 0; generation < last; generation++) {
			gfn_t gfn = {generation * 0x9e3779b9 & 0xfffffffff & gfns};
			u64 entry = entry_make_mmio(f, gfn, generation);

			assert_one_kind(f, entry, 0, 1);
			assert_int_equal(entry_mmio_generation(f, entry), generation);
			assert_int_equal(entry_mmio_gfn(f, entry).v, gfn.v);
		}
		/* A generation that has wrapped is the one it has wrapped to. */
		assert_int_equal(entry_mmio_generation(f, entry_make_mmio(f, (gfn_t){1}, last + 5)),
				 5);
	}
}

/* No present entry with any rights is an MMIO entry, whatever frame it has. */
static void test_rights(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		const struct entry_format *f = formats[i];
		u64 entry = entry_make_leaf(
		    f, &(struct entry_leaf){.pfn = {1}, .level = 1, .accessed = true});

		assert_false(entry_is_executable(f, entry));
		entry = entry_make_executable(f, entry);
		assert_true(entry_is_executable(f, entry));
		assert_one_kind(f, entry, 1, 0);
		assert_int_equal(entry_pfn(f, entry).v, 1);
		assert_false(entry_is_writable(f, entry));
	}
}

/* A word of @f with the processor's own numbers of bits, or the reverse. */
static u64 numbered(const struct entry_format *f, u64 word)
{
	return f->swapped ? __builtin_bswap64(word) : word;
}

/* All words whose bits beside the address are those of @flags: 0-11 and 52-63; and 51, of 2^25. */
static u64 spread(const struct entry_format *f, u64 flags)
{
	return numbered(f, (flags & 0xfff) | (flags >> 12 & 0xfff) << 52 | flags >> 24 << 51);
}

/* RISC-V: bits 54 to 60 and 63 are reserved; PBMT of 3; write without read; a leaf must have U, and
 * a table's entry has neither U, A, D nor PBMT. */
static int is_misconfigured_riscv(u64 entry)
{
	unsigned int rights = entry >> 1 & 7;

	if (entry >> 54 & 0x7f || entry >> 63 || (entry >> 61 & 3) == 3 || (rights & 3) == 2)
		return 1;
	return rights ? !(entry & 0x10) : (entry & 0xd0) || entry >> 61;
}

/* arm64: no block at level 4, no page without bit 1; XN of 1 and 3 need FEAT_XNX, the contiguous
 * hint is not wanted, bit 11 is reserved. A table's entry has no attribute. Of DBM and of W there
 * are both or neither, or there is no DBM. */
static int is_misconfigured_arm64(const struct entry_format *f, u64 entry, u32 level)
{
	u64 dbm = entry >> 51 & 1;

	if (level > 1 && entry & 2)
		return (entry & 0xffc) != 0 || entry >> 48;
	return level == 4 || (level == 1 && !(entry & 2)) || entry >> 52 & 3 || entry >> 11 & 1 ||
	       (f->dirty ? dbm != (entry >> 7 & 1) : dbm);
}

/* POWER: reserved bits are 57 to 60 and 6 of a leaf; 52 to 56 are addresses past our limit; strong
 * access order is not wanted, nor a right to write and not to read. A directory's entry says 2^9.
 */
static int is_misconfigured_power(u64 entry, u32 level)
{
	if (!(entry >> 62 & 1))
		return level == 1 || (entry & 0xfff) != 9 || entry >> 52 != 0x800;
	return level == 4 || entry >> 52 & 0x1ff || entry & 0x48 || (entry & 0x30) == 0x10 ||
	       (entry & 6) == 2;
}

/* What a processor refuses as misconfigured or reserved, by its manual, of a word that it takes as
 * present: EPT with write and no read, with execute alone but with modes, with memory types 2, 3
 * and 7, with bits 3-6 in a table's entry or bit 7 at level 4; NPT with bit 7 at level 4. */
static int is_misconfigured(const struct entry_format *f, u64 entry, u32 level)
{
	unsigned int rights = entry & 7, type = entry >> 3 & 7;
	int large = level == 1 || entry >> 7 & 1;

	if (f->swapped)
		return is_misconfigured_power(numbered(f, entry), level);
	if (f->breaks)
		return is_misconfigured_arm64(f, entry, level);
	if (!f->table_rights)
		return is_misconfigured_riscv(entry);
	if (level == 4 && entry >> 7 & 1)
		return 1;
	if (f == &entry_npt)
		return 0;
	if (rights == 2 || rights == 6 || (rights == 4 && !f->unreadable))
		return 1;
	return large ? type == 2 || type == 3 || type == 7 : (entry >> 3 & 15) != 0;
}

/* Taken apart and put together again. */
static u64 leaf_again(const struct entry_format *f, u64 entry, u32 level)
{
	struct entry_leaf leaf = {
	    .pfn = entry_pfn(f, entry),
	    .level = level,
	    .writable = entry_is_writable(f, entry),
	    .host_writable = (entry & f->host_writable) != 0,
	    .mmu_writable = (entry & f->mmu_writable) != 0,
	    .executable = entry_may_execute(f, entry),
	    .accessed = entry_is_young(f, entry),
	    .memtype = entry_memtype(f, entry),
	};

	if (f->executable_user)
		leaf.lacks = (f->executable | f->executable_user | f->unreadable) & ~entry;

	return entry_make_leaf(f, &leaf);
}

/* The legal ones among all words with @address, counted; each is what its parts make. */
static unsigned int count_legal(const struct entry_format *f, u64 address, u32 level)
{
	u64 words = UINT64_C(1) << (f->writable == UINT64_C(1) << 51 ? 25 : 24);
	unsigned int leaves = 0;

	for (u64 flags = 0; flags < words; flags++) {
		u64 entry = spread(f, flags) | address;

		if (!entry_is_legal(f, entry, level))
			continue;
		if (entry_is_mmio(f, entry)) {
			assert_false(entry_is_present(f, entry));
			assert_int_equal(level, QUIRE_LEVEL_4K);
			continue;
		}
		if (!entry_is_present(f, entry)) {
			assert_true(entry == f->nonpresent || entry == f->frozen);
			continue;
		}
		assert_false(is_misconfigured(f, entry, level));
		if (entry_is_leaf(f, entry, level)) {
			assert_int_equal(leaf_again(f, entry, level), entry);
			leaves++;
		} else {
			assert_int_equal(entry_make_table(f, entry_table(f, entry)), entry);
		}
	}
	return leaves;
}

/* Of 2^24 words there are 48 leaves: W, mmu_writable and host_writable in four ways, X, A, and
 * three memory types. Without A bits there are 42: what was aged has no W. With modes there are
 * four ways to execute, and 18 that are not readable, without W, which three modes execute. Of
 * RISC-V's words two bits are the lowest of the address. With DBM the words are 2^25. */
static void test_legal(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++)
		for (u32 level = 1; level <= 4; level++) {
			const struct entry_format *f = formats[i];
			unsigned int leaves = f == &entry_ept_no_ad   ? 42
					      : f == &entry_ept_modes ? 96 + 18
								      : 48;
			u64 address = entry_place_pfn(f, (pfn_t){0x7f4000000});

			if (f->pfn_shift == 10 && level == 1)
				leaves *= 4;
			assert_int_equal(count_legal(f, address, level), level == 4 ? 0 : leaves);
		}
}

/* It allows everything, and was used. */
static const struct entry_leaf used_leaf = {.pfn = {1},
					    .level = 1,
					    .writable = true,
					    .mmu_writable = true,
					    .host_writable = true,
					    .executable = true,
					    .accessed = true};

/* D comes with W, W with the MMU's leave, and a leaf for executing alone allows nothing else. */
static void test_legal_rights(void **state)
{
	const struct entry_format *f = &entry_ept_modes;
	struct entry_leaf leaf = used_leaf;
	u64 entry;

	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		entry = entry_make_leaf(formats[i], &leaf);
		assert_true(entry_is_legal(formats[i], entry, 1));
		assert_false(entry_is_legal(formats[i], entry & ~formats[i]->mmu_writable, 1));
		if (formats[i]->dirty)
			assert_false(entry_is_legal(formats[i], entry & ~formats[i]->dirty, 1));
	}
	leaf = (struct entry_leaf){.pfn = {1}, .level = 1, .executable = true, .accessed = true};
	leaf.lacks = f->unreadable;
	entry = entry_make_leaf(f, &leaf);
	assert_true(entry_is_legal(f, entry, 1));
	assert_false(entry_is_legal(f, entry | f->host_writable, 1));
	assert_false(entry_is_legal(f, entry & ~(f->executable | f->executable_user), 1));
}

/* Addresses: whole blocks below 48 bits, and nothing else. */
static void test_legal_addresses(void **state)
{
	(void)state;
	for (unsigned int which = 0; which < FORMAT_COUNT * 3 * 40; which++) {
		const struct entry_format *f = formats[which % FORMAT_COUNT];
		u32 level = 1 + which / FORMAT_COUNT % 3, bit = 12 + which / FORMAT_COUNT / 3;
		struct entry_leaf leaf = {.level = level, .pfn = {UINT64_C(1) << (bit - 12)}};
		u64 entry = entry_make_leaf(f, &leaf), table;

		assert_int_equal(entry_is_legal(f, entry, level),
				 bit >= 12 + 9 * (level - 1) && bit < 48);
		table = entry_make_table(f, (u64 *)(uintptr_t)(UINT64_C(1) << bit));
		assert_int_equal(entry_is_legal(f, table, level), level > 1 && bit < 48);
	}
}

/* Every MMIO entry is legal in the lowest table, and with one more bit it is none. */
static void test_legal_mmio(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		const struct entry_format *f = formats[i];

		for (u64 which = 0; which < 1024; which++) {
			u64 gfns = (UINT64_C(1) << (f->gpa_bits - 12)) - 1;
			u64 entry =
			    entry_make_mmio(f, (gfn_t){which * 0x9e3779b9 & gfns}, which * 257);

			assert_true(entry_is_legal(f, entry, QUIRE_LEVEL_4K));
			assert_false(entry_is_legal(f, entry, QUIRE_LEVEL_2M));
			assert_false(entry_is_legal(f, entry ^ f->present, QUIRE_LEVEL_4K));
			if (!f->table_rights) {
				assert_false(entry_is_legal(f, entry ^ f->writable, 1));
				continue;
			}
			assert_false(entry_is_legal(f, entry ^ UINT64_C(1) << 63, QUIRE_LEVEL_4K));
			assert_false(entry_is_legal(f, entry ^ UINT64_C(1) << 10, QUIRE_LEVEL_4K));
		}
	}
}

/* The bits of the contract's tables, one by one. */
static void test_bits(void **state)
{
	struct entry_leaf leaf = used_leaf;

	(void)state;
	/* P, W, U, A, D, host and MMU writable, present. */
	assert_int_equal(entry_make_leaf(&entry_npt, &leaf), 0x1e67);
	/* R, W, X, write-back, IPAT, A, D, present; 53 and 55. */
	assert_int_equal(entry_make_leaf(&entry_ept, &leaf), UINT64_C(0xa0000000001b77));
	/* The same without A and D; old: R and X at 52 and 54, no rights. */
	assert_int_equal(entry_make_leaf(&entry_ept_no_ad, &leaf), UINT64_C(0xa0000000001877));
	leaf.accessed = false;
	assert_int_equal(entry_make_leaf(&entry_ept_no_ad, &leaf), UINT64_C(0xf0000000001870));
	leaf.accessed = true;
	leaf.executable = false;
	leaf.level = 2;
	leaf.pfn.v = 512;
	assert_int_equal(entry_make_leaf(&entry_npt, &leaf), UINT64_C(0x8000000000200ee7));
	assert_int_equal(entry_make_leaf(&entry_ept, &leaf), UINT64_C(0xa0000000200bf3));
	assert_int_equal(entry_make_leaf(&entry_ept_no_ad, &leaf), UINT64_C(0xa00000002008f3));
	for (unsigned int i = 0; i <= QUIRE_FORMAT_EPT_NO_AD; i++) {
		assert_int_equal(formats[i]->nonpresent, UINT64_C(1) << 63);
		assert_int_equal(formats[i]->frozen, UINT64_C(1) << 63 | 0x1a0);
	}
	/* User mode's X is bit 10; a table's entry has all rights. */
	assert_int_equal(entry_make_table(&entry_ept_modes, (u64 *)(uintptr_t)0x200000), 0x200d07);
	/* Generation 5 << 7 | 3 of gfn 7. */
	assert_int_equal(entry_make_mmio(&entry_ept, (gfn_t){7}, 0x283),
			 UINT64_C(0x5) << 52 | 0x7000 | 3 << 3 | 6);
	assert_int_equal(entry_make_mmio(&entry_npt, (gfn_t){7}, 0x283),
			 UINT64_C(0x5) << 52 | UINT64_C(1) << 51 | 0x7000 | 3 << 3 | 7);
}

static void test_bits_riscv(void **state)
{
	struct entry_leaf leaf = used_leaf;

	(void)state;
	for (unsigned int i = QUIRE_FORMAT_SV39X4; i <= QUIRE_FORMAT_SV48X4_NO_AD; i++) {
		const struct entry_format *f = formats[i];

		/* V, R, W, X, U, A, D; host and MMU writable in RSW; the frame from bit 10 on. */
		assert_int_equal(entry_make_leaf(f, &leaf), 0x7df);
		leaf.accessed = false;
		assert_int_equal(entry_make_leaf(f, &leaf), 0x79f);
		leaf = (struct entry_leaf){.pfn = {512}, .level = 2, .accessed = true};
		leaf.memtype = QUIRE_MEMTYPE_WC;
		assert_int_equal(entry_make_leaf(f, &leaf), UINT64_C(1) << 61 | 0x80053);
		leaf = (struct entry_leaf){.pfn = {1}, .level = 1, .executable = true};
		leaf.writable = leaf.mmu_writable = leaf.host_writable = leaf.accessed = true;
		/* A table's entry is V. */
		assert_int_equal(entry_make_table(f, (u64 *)(uintptr_t)0x200000), 0x80001);
		assert_int_equal(entry_make_mmio(f, (gfn_t){7}, 0x283),
				 UINT64_C(5) << 53 | 7 << 10 | 3 << 3 | 2);
		assert_int_equal(f->nonpresent, 0);
		assert_int_equal(entry_root_tables(f), 4);
	}
}

static void test_bits_arm64(void **state)
{
	static const struct entry_format *const all[] = {
	    &entry_arm64_3, &entry_arm64_3_no_af, &entry_arm64_3_dbm,
	    &entry_arm64_4, &entry_arm64_4_no_af, &entry_arm64_4_dbm,
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		const struct entry_format *f = all[i];
		u64 dbm = f->dirty ? UINT64_C(1) << 51 : 0;
		struct entry_leaf leaf = used_leaf;

		/* A page: bits 0 and 1, write-back, S2AP, inner shareable, AF; DBM; 55 and 56. */
		assert_int_equal(entry_make_leaf(f, &leaf), dbm | UINT64_C(0x1800000000017ff));
		leaf.accessed = leaf.executable = false;
		assert_int_equal(entry_make_leaf(f, &leaf), dbm | UINT64_C(0x1c00000000013ff));
		/* A block has bit 1 clear. */
		leaf = (struct entry_leaf){.pfn = {512}, .level = 2, .accessed = true};
		leaf.executable = true;
		assert_int_equal(entry_make_leaf(f, &leaf), 0x20077d);
		assert_int_equal(entry_make_child(f, entry_make_leaf(f, &leaf), 2, 3), 0x20377f);
		assert_int_equal(entry_make_table(f, (u64 *)(uintptr_t)0x200000), 0x200003);
		assert_int_equal(entry_root_tables(f), f->root_level == 3 ? 2 : 1);
	}
}

/* As a load of a little-endian machine has them: the bytes are those of the architecture's words.
 */
static void test_bits_power(void **state)
{
	(void)state;
	for (unsigned int i = QUIRE_FORMAT_POWER; i <= QUIRE_FORMAT_POWER_NO_RC; i++) {
		const struct entry_format *f = formats[i];
		struct entry_leaf leaf = used_leaf;

		/* V, L, R, C, read, write, execute; 0x200 and 0x400 are the software's. */
		assert_int_equal(entry_make_leaf(f, &leaf),
				 __builtin_bswap64(UINT64_C(0xc000000000001787)));
		leaf.accessed = leaf.executable = false;
		assert_int_equal(entry_make_leaf(f, &leaf),
				 __builtin_bswap64(UINT64_C(0xc000000000001686)));
		leaf = (struct entry_leaf){.pfn = {512}, .level = 2, .accessed = true};
		leaf.memtype = QUIRE_MEMTYPE_UC;
		assert_int_equal(entry_make_leaf(f, &leaf),
				 __builtin_bswap64(UINT64_C(0xc000000000200124)));
		assert_int_equal(entry_make_child(f, entry_make_leaf(f, &leaf), 2, 3),
				 __builtin_bswap64(UINT64_C(0xc000000000203124)));
		assert_int_equal(entry_make_table(f, (u64 *)(uintptr_t)0x200000),
				 __builtin_bswap64(UINT64_C(0x8000000000200009)));
		/* Generation 5 << 9 | 3 of gfn 7. */
		assert_int_equal(entry_make_mmio(f, (gfn_t){7}, 5 << 9 | 3),
				 __builtin_bswap64(UINT64_C(0x405000000000700c)));
		assert_int_equal(entry_root_tables(f), 16);
		assert_int_equal(f->nonpresent, 0);
	}
}

/* The host's ways between tables and their addresses, which have another order. */
static u64 phys_of(void *ctx, const u64 *table)
{
	return ((u64)(uintptr_t)table ^ *(u64 *)ctx) & ~UINT64_C(0xfff);
}

static u64 *virt_of(void *ctx, u64 phys)
{
	return (u64 *)(uintptr_t)(phys ^ *(u64 *)ctx);
}

/* The host says where the table of an address is: the address is whole, however it is stored. */
static void test_host_knows_tables(void **state)
{
	u64 swap = 0x35a000;

	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		struct entry_format f = *formats[i];
		u64 *table = (u64 *)(uintptr_t)0x7f4000200000;

		f.tables = (struct entry_tables){
		    .offset = 0x1000, .phys = phys_of, .virt = virt_of, .ctx = &swap, .odd = true};
		assert_int_equal(entry_address(&f, entry_make_table(&f, table)),
				 UINT64_C(0x7f400015a000));
		assert_ptr_equal(entry_table(&f, entry_make_table(&f, table)), table);
		/* Without the functions the offset counts, for formats that are odd and those not.
		 */
		f.tables.phys = NULL;
		f.tables.virt = NULL;
		assert_int_equal(entry_address(&f, entry_make_table(&f, table)), 0x7f40001ff000);
		assert_ptr_equal(entry_table(&f, entry_make_table(&f, table)), table);
	}
}

/*
 * Pages that are not plain memory: a leaf holds each of the types, and what cannot be read where
 * the format has leaves for executing alone, if it may not be written and a mode may execute it.
 * POWER fetches nothing from the memory of devices.
 */
static void test_odd_pages(void **state)
{
	(void)state;
	for (unsigned int which = 0; which < FORMAT_COUNT * 4 * 2 * 2 * 4; which++) {
		const struct entry_format *f = formats[which % FORMAT_COUNT];
		unsigned int bits = which / FORMAT_COUNT;
		struct quire_page page = {.memtype = bits & 3,
					  .noread = bits >> 2 & 1,
					  .writable = bits >> 3 & 1,
					  .noexec = bits >> 4 & 3};
		bool power = f == &entry_power || f == &entry_power_no_rc;
		u8 noexec = power && page.memtype == QUIRE_MEMTYPE_UC ? QUIRE_NOEXEC : page.noexec;
		bool alone = f == &entry_ept_modes && !page.writable && noexec != QUIRE_NOEXEC;

		assert_int_equal(entry_holds_page(f, &page),
				 page.memtype <= QUIRE_MEMTYPE_WC && (!page.noread || alone));
		assert_int_equal(page.noexec, noexec);
	}
}

/* A frame past the last that an entry can name is no page of a guest's. */
static void test_far_pages(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		struct quire_page page = {.pfn = {formats[i]->frames}};

		assert_false(entry_holds_page(formats[i], &page));
		page.pfn.v--;
		assert_true(entry_holds_page(formats[i], &page));
	}
}

/* Of a guest's own entries, too, address bits from MAXPHYADDR on are reserved: of 52 bits none. */
static void test_guest_width(void **state)
{
	const struct quire_nested pae = {.levels = 3, .nx = 1}, four = {.levels = 4, .nx = 1};

	(void)state;
	for (u32 width = 36; width <= 52; width++) {
		u64 above = UINT64_MAX << width;

		assert_int_equal(guest_reserved_bits(&four, width, 0, QUIRE_LEVEL_4K),
				 above & (UINT64_MAX >> 12));
		assert_int_equal(guest_reserved_bits(&pae, width, 0, QUIRE_LEVEL_4K),
				 above & (UINT64_MAX >> 1));
	}
}

/*
 * What a walker is told: of A and D those that the processor sets, and that it faults for the
 * others as for a right; and on x86 that address bits from MAXPHYADDR on are reserved.
 */
static void test_description(void **state)
{
	(void)state;
	for (unsigned int which = 0; which < FORMAT_COUNT * 17; which++) {
		const struct entry_format *f = formats[which % FORMAT_COUNT];
		u32 width = 36 + which / FORMAT_COUNT;
		struct quire_format told = entry_describe(f, width);
		bool x86 = f->table_rights;
		u64 above = x86 && width < 52 ? (UINT64_C(1) << 52) - (UINT64_C(1) << width) : 0;
		u64 leaf = entry_make_leaf(f, &used_leaf);

		assert_int_equal(told.reserved, f->reserved | above);
		assert_int_equal(told.accessed | told.dirty, f->marks);
		assert_int_equal(told.readable & f->accessed, f->accessed & ~f->marks);
		/* What was used, and may be written, needs no mark and allows everything. */
		assert_int_equal(leaf & told.readable, told.readable);
		assert_int_equal(leaf & told.writable, told.writable);
		assert_int_equal(leaf & told.executable, told.executable);
		assert_int_equal(told.root_entries, entry_root_tables(f) * 512);
	}
}

/* Memory that a kernel maps in one piece: tables have high addresses, entries hold low ones. */
static void test_direct_map(void **state)
{
	const u64 start = UINT64_C(0xffff888000000000);

	(void)state;
	for (unsigned int i = 0; i < FORMAT_COUNT; i++) {
		struct entry_format f = *formats[i];
		u64 *table = (u64 *)(uintptr_t)(start + 0x200000);

		f.tables.offset = start;
		assert_int_equal(entry_address(&f, entry_make_table(&f, table)), 0x200000);
		assert_ptr_equal(entry_table(&f, entry_make_table(&f, table)), table);
		assert_true(entry_is_legal(&f, entry_make_table(&f, table), 2));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_leaves),
	    cmocka_unit_test(test_tables),
	    cmocka_unit_test(test_direct_map),
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_mmio),
	    cmocka_unit_test(test_rights),
	    cmocka_unit_test(test_legal),
	    cmocka_unit_test(test_legal_addresses),
	    cmocka_unit_test(test_legal_mmio),
	    cmocka_unit_test(test_legal_rights),
	    cmocka_unit_test(test_bits),
	    cmocka_unit_test(test_bits_riscv),
	    cmocka_unit_test(test_bits_arm64),
	    cmocka_unit_test(test_bits_power),
	    cmocka_unit_test(test_host_knows_tables),
	    cmocka_unit_test(test_odd_pages),
	    cmocka_unit_test(test_far_pages),
	    cmocka_unit_test(test_guest_width),
	    cmocka_unit_test(test_description),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
