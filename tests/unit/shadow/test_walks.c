/* One walk of L1's tables: all that it finds, marks, refuses and asks the host for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "src/base/reclaim.h"
#include "src/shadow/internal.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define LEAF_PAGE 70u
#define INDEX 5u
#define FINAL (QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL)
/* Not an address of a slot. */
#define NOWHERE (UINT64_C(1) << 30)

static struct world world;
static uint32_t loads, stores;
static hva_t unreadable;       /* load_u64() of it fails */
static int store_fails;	       /* what cmpxchg_u64() answers, unless it is 0 */
static void (*at_store)(void); /* before each cmpxchg_u64() */

static const uint64_t path[] = {0, TABLE_4K, TABLE_2M, TABLE_1G, WORLD_ROOT};

static int load(void *ctx, hva_t src, uint64_t *value)
{
	loads++;
	if (src.v == unreadable.v)
		return -EFAULT;
	return sim_host_ops.load_u64(ctx, src, value);
}

static int compare_and_store(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	stores++;
	if (at_store)
		at_store();
	if (store_fails)
		return store_fails;
	return sim_host_ops.cmpxchg_u64(ctx, dst, expected, desired);
}

static uint32_t index_at(uint32_t level)
{
	return level == 1 ? INDEX : 0;
}

static uint64_t read_entry(uint32_t level)
{
	uint64_t entry;

	memcpy(&entry, world_page(&world, path[level]) + index_at(level) * 8, sizeof(entry));
	return entry;
}

/* The entry of @level on the way, with the bits @bits. */
static void put(uint32_t level, uint64_t bits)
{
	uint64_t target = level == 1 ? LEAF_PAGE : path[level - 1];

	world_put_entry(&world, path[level], index_at(level), PAGE(target) | bits);
}

static void put_all(uint64_t bits)
{
	for (uint32_t level = 1; level <= 4; level++)
		put(level, bits);
}

static int setup(void **state)
{
	*state = &world;
	world_start(&world);
	world.ops.load_u64 = load;
	world.ops.cmpxchg_u64 = compare_and_store;
	unreadable.v = 0;
	store_fails = 0;
	at_store = NULL;
	put_all(NPT_ALL);
	world_nested(&world, 1);
	return 0;
}

static int walk(struct shadow_walk *found, uint64_t gpa, uint64_t error)
{
	memset(found, 0xa5, sizeof(*found));
	found->gpa.v = gpa;
	found->error_code = error;
	found->by_hand = 0;
	loads = stores = 0;
	return shadow_walk_guest(world.vcpu, found);
}

static u32 access_of(uint64_t bits)
{
	u32 access = ACCESS_READ | (bits & NPT_NX ? 0 : ACCESS_EXEC);

	return access | (bits & NPT_W ? ACCESS_WRITE : 0) | (bits & NPT_U ? ACCESS_USER : 0);
}

/* The rights of all four entries but @level's, which has @bits: what the walk says of each table.
 */
static void check_found(uint32_t level, uint64_t bits)
{
	u32 access = ACCESS_ALL;
	struct shadow_walk found;

	put_all(NPT_USED);
	put(level, bits);
	world.vm->shadow->write_turn++;
	assert_int_equal(walk(&found, PAGE(INDEX) + 24, FINAL), QUIRE_FIXED);
	assert_int_equal(loads, 4);
	assert_int_equal(found.write_turn, world.vm->shadow->write_turn);
	assert_int_equal(found.top, 4);
	assert_int_equal(found.level, 1);
	assert_int_equal(found.gfn.v, LEAF_PAGE);
	assert_int_equal(found.by_hand, 0);
	for (uint32_t at = 4; at >= 1; at--) {
		assert_int_equal(found.tables[at].v, path[at]);
		assert_int_equal(found.access[at], access);
		access &= at == level ? access_of(bits) : ACCESS_ALL;
	}
	/* A leaf that was not written through is not writable yet. */
	if (level == 1 && !(bits & NPT_D))
		access &= ~ACCESS_WRITE;
	assert_int_equal(found.leaf_access, access);
	/* The processor marks what it used, and nothing else. */
	assert_int_equal(read_entry(level) & 0xfff, (bits | NPT_A) & 0xfff);
	assert_int_equal(stores, bits & NPT_A ? 0 : 1);
}

static void test_path(void **state)
{
	static const uint64_t takes[] = {0,	NPT_W,	       NPT_NX,	      NPT_A,
					 NPT_D, NPT_A | NPT_D, NPT_W | NPT_NX};

	(void)state;
	for (uint32_t level = 1; level <= 4; level++)
		for (uint32_t i = 0; i < ARRAY_LEN(takes); i++)
			check_found(level, NPT_USED ^ takes[i]);
}

/* L1's leaf of 2 MiB: the page in it, and no table below. */
static void test_large_leaf(void **state)
{
	struct shadow_walk found;

	(void)state;
	world_put_entry(&world, TABLE_2M, 3, BLOCK(1) | NPT_USED | NPT_PS);
	assert_int_equal(walk(&found, BLOCK(3) + PAGE(77), FINAL | QUIRE_PFERR_WRITE), QUIRE_FIXED);
	assert_int_equal(found.level, QUIRE_LEVEL_2M);
	assert_int_equal(found.gfn.v, 512 + 77);
	assert_int_equal(found.leaf_access, ACCESS_ALL);
	assert_int_equal(loads, 3);
	assert_int_equal(stores, 2);
}

static uint64_t accessed[8], dirtied[8];
static uint32_t accessed_count, dirtied_count, elements;

static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event == QUIRE_TRACE_kvm_mmu_set_accessed_bit && accessed_count < 8)
		accessed[accessed_count++] = args[0];
	if (event == QUIRE_TRACE_kvm_mmu_set_dirty_bit && dirtied_count < 8)
		dirtied[dirtied_count++] = args[0];
	elements += event == QUIRE_TRACE_kvm_mmu_paging_element;
}

/* A of each entry, from the root on, and D of the leaf alone: each told, and written once. */
static void test_marks_are_told(void **state)
{
	struct shadow_walk found;

	(void)state;
	quire_trace_install(record);
	for (uint32_t round = 0; round < 3; round++) {
		accessed_count = dirtied_count = elements = 0;
		assert_int_equal(walk(&found, PAGE(INDEX), FINAL | (round ? QUIRE_PFERR_WRITE : 0)),
				 QUIRE_FIXED);
		assert_int_equal(elements, 4);
		assert_int_equal(accessed_count, round ? 0 : 4);
		for (uint32_t i = 0; i < accessed_count; i++)
			assert_int_equal(accessed[i], PAGE(path[4 - i]) + index_at(4 - i) * 8);
		assert_int_equal(dirtied_count, round == 1);
		assert_true(!dirtied_count || dirtied[0] == PAGE(TABLE_4K) + INDEX * 8);
		assert_int_equal(stores, (round ? 0 : 4) + (round == 1));
		assert_int_equal(found.leaf_access & ACCESS_WRITE, round ? ACCESS_WRITE : 0);
	}
	for (uint32_t level = 1; level <= 4; level++)
		assert_int_equal(read_entry(level) & (NPT_A | NPT_D),
				 level == 1 ? NPT_A | NPT_D : NPT_A);
}

/* The walk is refused, with @why beside what the access was. */
static void refused(uint64_t gpa, uint64_t why)
{
	const uint64_t all = FINAL | QUIRE_PFERR_GUEST_PAGE | QUIRE_PFERR_WRITE |
			     QUIRE_PFERR_FETCH | QUIRE_PFERR_SMAP | QUIRE_PFERR_PRIVATE;
	const uint64_t kept = all & ~(QUIRE_PFERR_SMAP | QUIRE_PFERR_PRIVATE);
	struct shadow_walk found;

	/* Whether an entry was there the walk says by itself. */
	assert_int_equal(walk(&found, gpa, all | QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD),
			 QUIRE_NESTED_FAULT);
	assert_int_equal(found.refused, kept | why);
	assert_int_equal(stores, 0);
}

static void test_refusals(void **state)
{
	const uint64_t gpa = PAGE(INDEX);

	(void)state;
	refused(UINT64_C(1) << 48, 0);
	assert_int_equal(loads, 0);
	for (uint32_t level = 1; level <= 4; level++) {
		put_all(NPT_ALL);
		put(level, NPT_ALL & ~NPT_P);
		refused(gpa, 0);
		assert_int_equal(loads, 5 - level);
		put(level, NPT_ALL | UINT64_C(1) << 50);
		refused(gpa, QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD);
		assert_int_equal(loads, 5 - level);
		put(level, NPT_ALL);
		unreadable.v = sim_hva((uint32_t)path[level]).v + index_at(level) * 8;
		refused(gpa, 0);
		unreadable.v = 0;
		/* Rights count once the leaf is known. */
		put(level, NPT_ALL & ~NPT_U);
		refused(gpa, QUIRE_PFERR_PRESENT);
		assert_int_equal(loads, 4);
		put(level, NPT_ALL & ~NPT_W);
		refused(gpa, QUIRE_PFERR_PRESENT);
		put(level, NPT_ALL | NPT_NX);
		refused(gpa, QUIRE_PFERR_PRESENT);
		if (level == 1)
			continue;
		world_put_entry(&world, path[level], 0, NOWHERE | NPT_ALL);
		refused(gpa, 0);
	}
}

/* Each access of a nested guest is a user's, whatever it says of itself. */
static void test_refused_as_a_users(void **state)
{
	struct shadow_walk found;

	(void)state;
	put(1, NPT_ALL & ~NPT_U);
	assert_int_equal(walk(&found, PAGE(INDEX), 0), QUIRE_NESTED_FAULT);
	assert_int_equal(found.refused, QUIRE_PFERR_USER | QUIRE_PFERR_PRESENT);
	put(1, NPT_ALL & ~NPT_W);
	assert_int_equal(walk(&found, PAGE(INDEX), QUIRE_PFERR_WRITE), QUIRE_NESTED_FAULT);
	assert_int_equal(walk(&found, PAGE(INDEX), 0), QUIRE_FIXED);
	put(1, NPT_ALL | NPT_NX);
	assert_int_equal(walk(&found, PAGE(INDEX), QUIRE_PFERR_FETCH), QUIRE_NESTED_FAULT);
	assert_int_equal(walk(&found, PAGE(INDEX), QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

static struct memslot *slot_of_tables(void)
{
	struct memslot *slot;

	reclaim_enter();
	slot = (struct memslot *)(uintptr_t)memslot_lookup(world.vm, 0, (gfn_t){WORLD_ROOT}, NULL);
	reclaim_leave();
	assert_non_null(slot);
	return slot;
}

/* While the slot of the tables goes the walk is tried again, and with what the vCPU has noted. */
static void test_slot_is_going(void **state)
{
	struct memslot *slot = slot_of_tables();
	struct shadow_walk found;

	(void)state;
	for (uint32_t noted = 0; noted < 2; noted++) {
		memset(&world.vcpu->hint, 0, sizeof(world.vcpu->hint));
		if (noted) {
			reclaim_enter();
			(void)memslot_lookup(world.vm, 0, (gfn_t){WORLD_ROOT}, &world.vcpu->hint);
			reclaim_leave();
			assert_int_equal(world.vcpu->hint.npages, WORLD_SLOT_PAGES);
		}
		assert_int_equal(walk(&found, PAGE(INDEX), FINAL), QUIRE_FIXED);
		slot->flags |= MEMSLOT_INVALID;
		world.vcpu->hint.flags |= MEMSLOT_INVALID;
		assert_int_equal(walk(&found, PAGE(INDEX), FINAL), QUIRE_RETRY);
		assert_int_equal(loads, 0);
		slot->flags &= ~MEMSLOT_INVALID;
		world.vcpu->hint.flags &= ~MEMSLOT_INVALID;
	}
}

/* Tables in ROM are walked, and not marked. */
static void test_tables_in_rom(void **state)
{
	struct memslot *slot = slot_of_tables();
	struct shadow_walk found;

	(void)state;
	for (uint32_t noted = 0; noted < 2; noted++) {
		memset(&world.vcpu->hint, 0, sizeof(world.vcpu->hint));
		slot->flags |= QUIRE_SLOT_READONLY;
		if (noted) {
			reclaim_enter();
			(void)memslot_lookup(world.vm, 0, (gfn_t){WORLD_ROOT}, &world.vcpu->hint);
			reclaim_leave();
		}
		assert_int_equal(walk(&found, PAGE(INDEX), FINAL | QUIRE_PFERR_WRITE), QUIRE_FIXED);
		assert_int_equal(stores, 0);
		assert_int_equal(read_entry(1), PAGE(LEAF_PAGE) | NPT_ALL);
		slot->flags &= ~QUIRE_SLOT_READONLY;
	}
	memset(&world.vcpu->hint, 0, sizeof(world.vcpu->hint));
}

static void change_leaf(void)
{
	put(1, NPT_ALL & ~NPT_W);
}

/* A mark that finds another entry is no mark: the walk is tried again. An error ends the walk. */
static void test_mark_fails(void **state)
{
	struct shadow_walk found;

	(void)state;
	put_all(NPT_USED);
	put(1, NPT_ALL);
	at_store = change_leaf;
	assert_int_equal(walk(&found, PAGE(INDEX), FINAL | QUIRE_PFERR_WRITE), QUIRE_RETRY);
	assert_int_equal(stores, 1);
	assert_int_equal(read_entry(1), PAGE(LEAF_PAGE) | (NPT_ALL & ~NPT_W));
	at_store = NULL;
	for (uint32_t level = 1; level <= 4; level++) {
		put_all(NPT_USED);
		put(level, NPT_ALL);
		store_fails = -EFAULT;
		assert_int_equal(walk(&found, PAGE(INDEX), FINAL), -EFAULT);
		assert_int_equal(stores, 1);
		store_fails = 0;
	}
}

static uint64_t log_bits[WORLD_SLOT_PAGES / 64];

static int keep_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

/* The table that is marked was written, and nothing else was; nor is it when a mark fails. */
static void test_marks_are_logged(void **state)
{
	struct shadow_walk found;

	(void)state;
	assert_int_equal(world_slot(&world, 0, QUIRE_SLOT_LOG_DIRTY), 0);
	for (uint32_t fails = 0; fails < 2; fails++) {
		memset(log_bits, 0, sizeof(log_bits));
		put_all(NPT_USED);
		put(2, NPT_ALL);
		store_fails = fails ? -EFAULT : 0;
		assert_int_equal(walk(&found, PAGE(INDEX), FINAL), fails ? -EFAULT : QUIRE_FIXED);
		store_fails = 0;
		assert_int_equal(quire_vm_get_dirty_log(world.vm, 0, keep_log, log_bits), 0);
		assert_int_equal(log_bits[0], fails ? 0 : UINT64_C(1) << TABLE_2M);
	}
}

/* Entries of the table at TABLE_4K: only those that are wanted are read, from where they are. */
static void test_read_table(void **state)
{
	static const uint32_t wanted[] = {0, 1, 62, 63, 64, 65, 127, 300, 510, 511};
	const struct shadow_key key = {.gfn = {TABLE_4K}, .role = 1};
	const struct shadow_key nowhere = {.gfn = {NOWHERE >> 12}, .role = 1};
	uint64_t bits[QUIRE_TABLE_ENTRIES / 64 + 1] = {0}, entries[QUIRE_TABLE_ENTRIES + 1];

	(void)state;
	memset(entries, 0xff, sizeof(entries));
	for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		world_put_entry(&world, TABLE_4K, i, 1000 + i);
	for (uint32_t i = 0; i < ARRAY_LEN(wanted); i++)
		bits[wanted[i] / 64] |= UINT64_C(1) << wanted[i] % 64;
	bits[QUIRE_TABLE_ENTRIES / 64] = 1;
	loads = 0;
	assert_int_equal(shadow_read_table(world.vcpu, &key, bits, entries), 0);
	assert_int_equal(loads, ARRAY_LEN(wanted));
	for (uint32_t i = 0; i <= QUIRE_TABLE_ENTRIES; i++)
		assert_true(entries[i] == (i < QUIRE_TABLE_ENTRIES && bits[i / 64] >> i % 64 & 1
					       ? 1000 + i
					       : UINT64_MAX));
	for (uint32_t i = 0; i < ARRAY_LEN(wanted); i++) {
		unreadable.v = sim_hva(TABLE_4K).v + wanted[i] * 8;
		assert_int_equal(shadow_read_table(world.vcpu, &key, bits, entries), 1);
	}
	unreadable.v = sim_hva(TABLE_4K).v + 2 * 8;
	assert_int_equal(shadow_read_table(world.vcpu, &key, bits, entries), 0);
	assert_int_equal(shadow_read_table(world.vcpu, &nowhere, bits, entries), 1);
}

/* Every entry that a lowest table can have, against what it says. */
static void test_guest_leaf(void **state)
{
	static const uint64_t flags[] = {
	    NPT_P, NPT_W, NPT_U, NPT_A, NPT_D, NPT_NX, UINT64_C(1) << 50};

	(void)state;
	for (uint32_t which = 0; which < 128; which++) {
		uint64_t entry = PAGE(LEAF_PAGE);
		struct shadow_guest_leaf leaf;
		u32 access = 0;

		for (uint32_t i = 0; i < ARRAY_LEN(flags); i++)
			entry |= which >> i & 1 ? flags[i] : 0;
		if ((entry & NPT_P) && (entry & NPT_A) && !(entry >> 50 & 1))
			access = access_of(entry) & (entry & NPT_D ? ACCESS_ALL : ~ACCESS_WRITE);
		leaf = shadow_guest_leaf_of(world.vcpu, entry);
		assert_int_equal(leaf.access, access);
		assert_true(!access || leaf.gfn.v == LEAF_PAGE);
	}
}

/* Eight entries of TABLE_4K from @first on, of which @empty are empty in the shadow's. */
static u32 read_group(u32 role, u32 first, u32 empty, struct shadow_neighbour *neighbours)
{
	const struct shadow_group group = {
	    .key = {.gfn = {TABLE_4K}, .role = role | 1}, .first = first, .empty = empty};

	memset(neighbours, 0xff, (SHADOW_GROUP_PAGES + 1) * sizeof(*neighbours));
	loads = 0;
	return shadow_group_read(world.vcpu, &group, neighbours);
}

static void test_group_of_a_table(void **state)
{
	const u32 all = ACCESS_ALL << ROLE_ACCESS_SHIFT;
	const u32 no_write = (ACCESS_ALL & ~ACCESS_WRITE) << ROLE_ACCESS_SHIFT;
	struct shadow_neighbour found[SHADOW_GROUP_PAGES + 1];
	struct shadow_group nowhere = {.key = {.gfn = {NOWHERE >> 12}, .role = all | 1},
				       .empty = 0xff};

	(void)state;
	for (uint32_t i = 0; i < 32; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(100 + i) | NPT_USED);
	assert_int_equal(read_group(all, 8, 0xff, found), 0xff);
	assert_int_equal(loads, 8);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(found[i].gfn.v, 108 + i);
		assert_int_equal(found[i].access, ACCESS_ALL);
	}
	assert_int_equal(found[8].access, UINT32_MAX);
	/* No more than the path allows; and of the empty ones alone. */
	assert_int_equal(read_group(no_write, 16, 0xa5, found), 0xa5);
	assert_int_equal(loads, 4);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(found[i].access,
				 0xa5 >> i & 1 ? ACCESS_ALL & ~ACCESS_WRITE : UINT32_MAX);
	/* What no access of L2's may use is passed over; what was not used yet ends the group. */
	world_put_entry(&world, TABLE_4K, 10, PAGE(110) | (NPT_USED & ~NPT_U));
	assert_int_equal(read_group(all, 8, 0xff, found), 0xfb);
	world_put_entry(&world, TABLE_4K, 13, PAGE(113) | NPT_ALL);
	assert_int_equal(read_group(all, 8, 0xff, found), 0x1b);
	unreadable.v = sim_hva(TABLE_4K).v + 9 * 8;
	assert_int_equal(read_group(all, 8, 0xff, found), 0x01);
	assert_int_equal(shadow_group_read(world.vcpu, &nowhere, found), 0);
}

/* The pieces of a larger mapping follow each other, and L1's memory is not looked at. */
static void test_group_of_pieces(void **state)
{
	const u32 access = ACCESS_READ | ACCESS_USER;
	struct shadow_neighbour found[SHADOW_GROUP_PAGES + 1];

	(void)state;
	assert_int_equal(read_group(ROLE_DIRECT | access << ROLE_ACCESS_SHIFT, 16, 0x5a, found),
			 0x5a);
	assert_int_equal(loads, 0);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(found[i].gfn.v, TABLE_4K + 16 + i);
		assert_int_equal(found[i].access, access);
	}
	assert_int_equal(found[8].access, UINT32_MAX);
}

/* Tables of 4-byte entries, of which one stands beside another in each word of the host's. */
static void use_4_bytes(void)
{
	const struct quire_nested tables = {.root = {PAGE(WORLD_ROOT)}, .levels = 2, .pse = 1};

	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), 0);
}

static uint32_t *words_of(uint64_t table)
{
	return (uint32_t *)(void *)world_page(&world, table);
}

static uint32_t at_word, more; /* what changes, and in how many calls */

static void change_word(void)
{
	if (more) {
		more--;
		words_of(TABLE_4K)[at_word] ^= 0x1000;
	}
}

/* The one beside it changes: sixteen attempts, and then the guest runs first. */
static void test_attempts_of_4_bytes(void **state)
{
	struct shadow_walk found;

	(void)state;
	use_4_bytes();
	for (uint32_t index = 6; index < 8; index++)
		for (uint32_t changes = 0; changes < 20; changes++) {
			memset(world_page(&world, TABLE_4K), 0, QUIRE_PAGE_SIZE);
			words_of(WORLD_ROOT)[0] = PAGE(TABLE_4K) | NPT_USED;
			words_of(TABLE_4K)[index] = PAGE(LEAF_PAGE) | NPT_ALL;
			at_word = index ^ 1;
			more = changes;
			at_store = change_word;
			assert_int_equal(walk(&found, PAGE(index), FINAL),
					 changes < 16 ? QUIRE_FIXED : QUIRE_RETRY);
			assert_int_equal(stores, changes < 16 ? changes + 1 : 16);
			assert_int_equal(words_of(TABLE_4K)[index],
					 (PAGE(LEAF_PAGE) | NPT_ALL) | (changes < 16 ? NPT_A : 0));
			/* Nothing is lost of what is written beside it. */
			assert_int_equal(words_of(TABLE_4K)[index ^ 1],
					 (changes < 16 ? changes : 16) % 2 ? 0x1000 : 0);
			/* The entry itself changes: it is walked again. */
			words_of(TABLE_4K)[index] = PAGE(LEAF_PAGE) | NPT_ALL;
			at_word = index;
			more = 1;
			assert_int_equal(walk(&found, PAGE(index), FINAL), QUIRE_RETRY);
			assert_int_equal(stores, 1);
		}
	store_fails = -EFAULT;
	words_of(TABLE_4K)[6] = PAGE(LEAF_PAGE) | NPT_ALL;
	assert_int_equal(walk(&found, PAGE(6), FINAL), -EFAULT);
	assert_int_equal(stores, 1);
}

static void test_read_table_of_4_bytes(void **state)
{
	uint64_t bits[QUIRE_TABLE_ENTRIES / 64], entries[QUIRE_TABLE_ENTRIES];

	(void)state;
	use_4_bytes();
	memset(bits, 0xff, sizeof(bits));
	for (uint32_t i = 0; i < 1024; i++)
		words_of(TABLE_4K)[i] = UINT32_MAX - i;
	for (u32 quadrant = 0; quadrant < 2; quadrant++) {
		const struct shadow_key key = {
		    .gfn = {TABLE_4K}, .role = ROLE_4_BYTES | quadrant << ROLE_QUADRANT_SHIFT | 1};

		assert_int_equal(shadow_read_table(world.vcpu, &key, bits, entries), 0);
		for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++)
			assert_int_equal(entries[i], UINT32_MAX - (quadrant * 512 + i));
	}
}

#define WALK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int walk_tests(void)
{
	const struct CMUnitTest tests[] = {
	    WALK_TEST(test_path),
	    WALK_TEST(test_large_leaf),
	    WALK_TEST(test_marks_are_told),
	    WALK_TEST(test_refusals),
	    WALK_TEST(test_refused_as_a_users),
	    WALK_TEST(test_slot_is_going),
	    WALK_TEST(test_tables_in_rom),
	    WALK_TEST(test_mark_fails),
	    WALK_TEST(test_marks_are_logged),
	    WALK_TEST(test_read_table),
	    WALK_TEST(test_guest_leaf),
	    WALK_TEST(test_group_of_a_table),
	    WALK_TEST(test_group_of_pieces),
	    WALK_TEST(test_attempts_of_4_bytes),
	    WALK_TEST(test_read_table_of_4_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
