/* Changes of what nested guests map hold mmu_lock in pieces, however much they change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "src/change/change.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

/* The 512 pages of slot 1 under several names, each of 512 leaves in a table of its own. */
#define NAMES 6u
/* What one hold may change here: the leaves of one shadow page, and a bit more. */
#define LONGEST 520u

static struct world world;

/* What is there at a release of the lock, and how much it differs from the one before, at most. */
static struct {
	uint64_t leaves, writable;
	uint64_t longest;
} seen;

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static void count_leaves(const struct quire_vm *vm, uint64_t *leaves, uint64_t *writable)
{
	const struct shadow_page *page = vm->shadow ? vm->shadow->newest : NULL;

	*leaves = *writable = 0;
	for (; page; page = page->older)
		for (uint32_t i = 0; i < 512 && role_level(page->role) == QUIRE_LEVEL_4K; i++) {
			uint64_t entry = table_entries(page->table)[i];

			*leaves += (entry & NPT_P) != 0;
			*writable += (entry & NPT_P) && (entry & NPT_W);
		}
}

static void at_release(const struct quire_vm *vm)
{
	uint64_t leaves, writable, changed;

	count_leaves(vm, &leaves, &writable);
	changed = distance(leaves, seen.leaves);
	if (distance(writable, seen.writable) > changed)
		changed = distance(writable, seen.writable);
	seen.leaves = leaves;
	seen.writable = writable;
	seen.longest = changed > seen.longest ? changed : seen.longest;
}

static void map_all(void)
{
	for (uint32_t name = 1; name <= NAMES; name++)
		for (uint32_t page = 0; page < WORLD_SLOT_PAGES; page++)
			(void)world_check(&world, BLOCK(name) + PAGE(page), WORLD_WRITE);
	count_leaves(world.vm, &seen.leaves, &seen.writable);
	assert_true(seen.writable > LONGEST);
	seen.longest = 0;
	vm_check_also = at_release;
}

/* Never much changed in one hold; @leaves and @writable ones are left, at most. */
static void check_holds(uint64_t leaves, uint64_t writable)
{
	vm_check_also = NULL;
	assert_in_range(seen.longest, 0, LONGEST);
	count_leaves(world.vm, &seen.leaves, &seen.writable);
	assert_in_range(seen.leaves, 0, leaves);
	assert_in_range(seen.writable, 0, writable);
}

static void set_entries(uint64_t entry_bits)
{
	world_set_entry(&world, WORLD_ROOT, 0, PAGE(TABLE_1G) | NPT_ALL);
	world_set_entry(&world, TABLE_1G, 0, PAGE(TABLE_2M) | NPT_ALL);
	for (uint32_t name = 1; name <= NAMES; name++) {
		uint32_t table = TABLE_4K + name;

		if (entry_bits & NPT_PS) {
			/* With the same rights two names share the leaves. */
			world_set_entry(&world, TABLE_2M, name,
					PAGE(WORLD_SLOT_PAGES) | entry_bits |
					    (name & 1 ? NPT_NX : 0));
			continue;
		}
		world_set_entry(&world, TABLE_2M, name, PAGE(table) | entry_bits);
		for (uint32_t page = 0; page < WORLD_SLOT_PAGES; page++)
			world_put_entry(&world, table, page,
					PAGE(WORLD_SLOT_PAGES + page) | entry_bits);
	}
}

static int setup(void **state)
{
	*state = &world;
	world_start(&world);
	set_entries(NPT_ALL);
	return 0;
}

static int teardown(void **state)
{
	vm_check_also = NULL;
	(void)world_teardown(state);
	return 0;
}

static void test_log_starts(void **state)
{
	(void)state;
	map_all();
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	check_holds(UINT64_MAX, 0);
}

static void test_log_is_harvested(void **state)
{
	(void)state;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	map_all();
	assert_int_equal(world_harvest(&world, 1), 0);
	check_holds(UINT64_MAX, 0);
}

static uint32_t releases;

static void count_release(const struct quire_vm *vm)
{
	(void)vm;
	releases++;
}

/* However little they change: each word of the log is a hold of its own here, and one is the
 * harvest's. */
static void test_words_of_a_log(void **state)
{
	const uint32_t words = WORLD_SLOT_PAGES / 64;

	(void)state;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	for (uint32_t word = 0; word < words; word++)
		(void)world_check(&world, BLOCK(1) + PAGE(64 * word + 5), WORLD_WRITE);
	releases = 0;
	vm_check_also = count_release;
	assert_int_equal(world_harvest(&world, 1), 0);
	vm_check_also = NULL;
	assert_int_equal(releases, 1 + words);
	count_leaves(world.vm, &seen.leaves, &seen.writable);
	assert_int_equal(seen.leaves, words);
	assert_int_equal(seen.writable, 0);
}

static int give_word(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	assert_int_equal(offset_bytes, 0);
	assert_int_equal(size_bytes, sizeof(uint64_t));
	memcpy(dst, ctx, size_bytes);
	return 0;
}

/* Of the pages that a clear names each loses W, and no neighbour does: in runs of any length. */
static void test_runs_of_a_word(void **state)
{
	static const uint64_t masks[] = {UINT64_MAX,
					 1,
					 UINT64_C(1) << 63,
					 UINT64_MAX >> 1,
					 UINT64_MAX << 1,
					 UINT64_C(0x8000000180000001),
					 UINT64_C(0xf0ff00000f)};
	uint64_t mask = 0, left = WORLD_SLOT_PAGES;
	struct quire_clear_log clear = {
	    .slot = 1, .npages = 64, .copy_in = give_word, .ctx = &mask};

	(void)state;
	assert_int_equal(quire_vm_set_manual_protect(world.vm, 1), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	for (uint32_t page = 0; page < WORLD_SLOT_PAGES; page++)
		(void)world_check(&world, BLOCK(1) + PAGE(page), WORLD_WRITE);
	for (uint32_t word = 0; word < sizeof(masks) / sizeof(masks[0]); word++) {
		mask = masks[word];
		clear.first_page = 64 * word;
		left -= (uint64_t)__builtin_popcountll(mask);
		assert_int_equal(quire_vm_clear_dirty_log(world.vm, &clear), 0);
		count_leaves(world.vm, &seen.leaves, &seen.writable);
		assert_int_equal(seen.leaves, WORLD_SLOT_PAGES);
		assert_int_equal(seen.writable, left);
	}
}

static struct quire_ring_entry ring[QUIRE_PAGE_SIZE / sizeof(struct quire_ring_entry)];

/* What a nested guest has written is in a ring, and a reset takes W from it, too. */
static void test_ring_is_reset(void **state)
{
	static const uint32_t pages[] = {3, 5, 70, 511};
	const uint32_t count = sizeof(pages) / sizeof(pages[0]);

	(void)state;
	memset(ring, 0, sizeof(ring));
	/* As if it had been switched on before the vCPU came. */
	world.vm->ring_bytes = sizeof(ring);
	assert_int_equal(quire_vcpu_set_dirty_ring(world.vcpu, ring), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	for (uint32_t round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < count; i++) {
			struct quire_ring_entry *entry = &ring[round * count + i];

			(void)world_check(&world, BLOCK(1) + PAGE(pages[i]), WORLD_WRITE);
			assert_int_equal(entry->slot, 1);
			assert_int_equal(entry->offset, pages[i]);
			entry->flags = 2; /* RESET: the client has read it */
		}
		count_leaves(world.vm, &seen.leaves, &seen.writable);
		assert_int_equal(seen.writable, count);
		assert_int_equal(quire_vm_reset_dirty_rings(world.vm, NULL), count);
		count_leaves(world.vm, &seen.leaves, &seen.writable);
		assert_int_equal(seen.leaves, count);
		assert_int_equal(seen.writable, 0);
	}
}

/* L1 maps the block by huge entries, which the log has split: they come back. */
static void test_log_stops(void **state)
{
	(void)state;
	set_entries(NPT_ALL | NPT_PS);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	map_all();
	assert_int_equal(world_slot(&world, 1, 0), 0);
	check_holds(0, 0);
}

static void test_slot_goes(void **state)
{
	(void)state;
	map_all();
	assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
	check_holds(0, 0);
}

static void test_slot_goes_alone(void **state)
{
	(void)state;
	quire_vm_set_slot_zap_all(world.vm, 0);
	test_slot_goes(state);
}

static void test_host_takes_memory_away(void **state)
{
	hva_t start = sim_hva(WORLD_SLOT_PAGES), end = sim_hva(WORLD_PAGES);

	(void)state;
	map_all();
	quire_vm_host_invalidate_begin(world.vm, start, end);
	quire_vm_host_invalidate_end(world.vm, start, end);
	check_holds(0, 0);
}

/* The host takes L1's tables away, the root among them: the tree does not go in one hold. */
static void test_host_takes_tables_away(void **state)
{
	(void)state;
	map_all();
	quire_vm_host_invalidate_begin(world.vm, sim_hva(0), sim_hva(WORLD_DATA));
	quire_vm_host_invalidate_end(world.vm, sim_hva(0), sim_hva(WORLD_DATA));
	check_holds(0, 0);
}

/* L1 unmaps everything by one store to its root. */
static void test_tree_goes(void **state)
{
	(void)state;
	map_all();
	world_set_entry(&world, WORLD_ROOT, 0, 0);
	check_holds(0, 0);
}

static void test_limit_is_lowered(void **state)
{
	(void)state;
	map_all();
	/* Fewer than a client may ask for: the tables of this guest are few. */
	change_set_quota(world.vm, 2);
	check_holds(WORLD_SLOT_PAGES, WORLD_SLOT_PAGES);
}

#define HOLD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int hold_tests(void)
{
	const struct CMUnitTest tests[] = {
	    HOLD_TEST(test_log_starts),
	    HOLD_TEST(test_log_is_harvested),
	    HOLD_TEST(test_words_of_a_log),
	    HOLD_TEST(test_runs_of_a_word),
	    HOLD_TEST(test_ring_is_reset),
	    HOLD_TEST(test_log_stops),
	    HOLD_TEST(test_slot_goes),
	    HOLD_TEST(test_slot_goes_alone),
	    HOLD_TEST(test_host_takes_memory_away),
	    HOLD_TEST(test_host_takes_tables_away),
	    HOLD_TEST(test_tree_goes),
	    HOLD_TEST(test_limit_is_lowered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
