/* An L2 access against one change at a time, in every interleaving with few preemptions. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/race.h"

#define OLD 70u
#define NEW 71u
#define L2 PAGE(5)

static struct world world;
static struct world_result result;
static uint32_t old_frame;
static int done;
static uint8_t late; /* the byte at L2's address when the change had returned */
static uint64_t log_bits;

static void store(uint8_t *host)
{
	*host = 7;
}

static void start(uint32_t flags)
{
	world.on_access = NULL;
	world_start_vm(&world);
	race_path(&world, NPT_ALL);
	world_put_entry(&world, TABLE_4K, 5, PAGE(OLD) | NPT_ALL);
	world_put_entry(&world, TABLE_4K, 6, PAGE(NEW) | NPT_ALL);
	world_page(&world, OLD)[0] = world_page(&world, NEW)[0] = 0;
	if (flags)
		assert_int_equal(world_slot(&world, 0, flags), 0);
	world_nested(&world, 1);
	/* The tables are shadowed already: half of the runs would be about that. */
	(void)world_access(&world, PAGE(6), WORLD_READ);
	done = late = 0;
	world.on_access = store;
}

static void setup(void *ctx)
{
	(void)ctx;
	start(0);
}

/* L1's tables have not been walked yet, and have no A anywhere. */
static void cold_setup(void *ctx)
{
	setup(ctx);
	race_path(&world, NPT_ALL);
}

static void access_l2(void)
{
	result = world_access(&world, L2, WORLD_WRITE);
	if (done && !result.outcome)
		late = 1;
}

static bool stop(bool good)
{
	world.on_access = NULL;
	world_stop_vm(&world);
	return good;
}

/* The host moves the page: the store came before and was moved, or lands in the new frame. */
static void migrate_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		access_l2();
		return;
	}
	old_frame = world.host.pages[OLD].frame;
	quire_vm_host_invalidate_begin(world.vm, sim_hva(OLD), sim_hva(OLD + 1));
	sim_unmap(&world.host, OLD);
	sim_map(&world.host, OLD, SIM_WRITABLE);
	quire_vm_host_invalidate_end(world.vm, sim_hva(OLD), sim_hva(OLD + 1));
	done = 1;
}

static bool migrate_check(void *ctx)
{
	bool good = result.outcome == 0;
	/* A freed frame shows 0xdb, unless it is in use again, as the new one, with a 0 or our 7.
	 */
	uint8_t freed = world.host.frames[old_frame].bytes[0];

	(void)ctx;
	good &= old_frame == world.host.pages[OLD].frame || freed == 0xdb;
	good &= !late || world_page(&world, OLD)[0] == 7;
	return stop(good);
}

/* The hypervisor changes L1's entry: afterwards nothing reaches the old page. */
static void entry_body(uint32_t thread, void *ctx)
{
	uint64_t entry = PAGE(NEW) | NPT_ALL | NPT_A | NPT_D;

	(void)ctx;
	if (thread == 0) {
		access_l2();
		return;
	}
	done = quire_vm_write(world.vm, (gpa_t){PAGE(TABLE_4K) + 5 * sizeof(entry)}, &entry,
			      sizeof(entry)) == 0;
	late = world_page(&world, OLD)[0];
}

static bool entry_check(void *ctx)
{
	bool good = done && result.outcome == 0;

	(void)ctx;
	/* Stored once, to one of the two; to the old one only before the change had returned. */
	good &= world_page(&world, OLD)[0] + world_page(&world, NEW)[0] == 7;
	world.on_access = NULL;
	good &= world_access(&world, L2, WORLD_READ).host == world_page(&world, NEW);
	return stop(good);
}

/* L1's entry for what L2 accesses, in the client's memory. */
static uint64_t entry_of_l2(void)
{
	uint64_t entry;

	memcpy(&entry, world_page(&world, TABLE_4K) + 5 * sizeof(entry), sizeof(entry));
	return entry;
}

static uint64_t entry_then;

/* The slot goes: the store was done before, or finds no memory. What was the slot's is the client's
 * again: no A or D bit is set in it either. */
static void delete_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		result = world_access(&world, L2, WORLD_WRITE);
		return;
	}
	done = world_slot(&world, 0, UINT32_MAX) == 0;
	entry_then = entry_of_l2();
}

static bool delete_check(void *ctx)
{
	bool stored = world_page(&world, OLD)[0] == 7;

	(void)ctx;
	/* L1's tables were in the slot too. */
	return stop(
	    done && entry_of_l2() == entry_then && stored == !result.outcome &&
	    (stored || result.outcome == QUIRE_NESTED_FAULT || result.outcome == QUIRE_EMULATE));
}

/* A harvest: the store is in it, with its byte, or in the next. */
static int take_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)size_bytes;
	log_bits = ((const uint64_t *)src)[OLD / 64];
	return 0;
}

static void harvest_setup(void *ctx)
{
	(void)ctx;
	start(QUIRE_SLOT_LOG_DIRTY);
	world.on_access = NULL;
	(void)world_access(&world, L2, WORLD_WRITE);
	assert_int_equal(quire_vm_get_dirty_log(world.vm, 0, take_log, NULL), 0);
	world.on_access = store;
}

static void harvest_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		access_l2();
		return;
	}
	assert_int_equal(quire_vm_get_dirty_log(world.vm, 0, take_log, NULL), 0);
	late = world_page(&world, OLD)[0];
}

static bool harvest_check(void *ctx)
{
	uint64_t first = log_bits, bit = UINT64_C(1) << OLD % 64;
	bool good = result.outcome == 0;

	(void)ctx;
	assert_int_equal(quire_vm_get_dirty_log(world.vm, 0, take_log, NULL), 0);
	good &= (log_bits & bit) || ((first & bit) && late == 7);
	return stop(good);
}

/* What a processor has in its TLB, of pages that go in several pieces. */
#define PIECE_PAGES 8u

static void pieces_setup(void *ctx)
{
	(void)ctx;
	start(0);
	world.on_access = NULL;
	for (uint32_t i = 0; i < PIECE_PAGES; i++) {
		world_put_entry(&world, TABLE_4K, 5 + i, PAGE(OLD + i) | NPT_ALL);
		(void)world_access(&world, L2 + PAGE(i), WORLD_WRITE);
	}
	/* Mapping the last one may have flushed the first. */
	(void)world_access(&world, L2, WORLD_WRITE);
}

/* One thread takes all of them away, in pieces. The other moves the first of them meanwhile. */
static void pieces_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		hva_t start = sim_hva(OLD), end = sim_hva(OLD + PIECE_PAGES);

		quire_vm_host_invalidate_begin(world.vm, start, end);
		quire_vm_host_invalidate_end(world.vm, start, end);
		return;
	}
	world_migrate(&world, OLD);
	result = world_access(&world, L2, WORLD_WRITE);
}

/* Whichever thread found the mapping, it was out of the TLB before the page moved. */
static bool pieces_check(void *ctx)
{
	(void)ctx;
	return stop(!result.outcome && result.host == world_page(&world, OLD));
}

static void test_pieces(void **state)
{
	(void)state;
	race_explore(pieces_setup, pieces_body, pieces_check);
}

static void test_migration(void **state)
{
	(void)state;
	race_explore(setup, migrate_body, migrate_check);
}

static void test_entry(void **state)
{
	(void)state;
	race_explore(setup, entry_body, entry_check);
}

static void test_deletion(void **state)
{
	(void)state;
	race_explore(setup, delete_body, delete_check);
	race_explore_once(cold_setup, delete_body, delete_check);
}

static void test_harvest(void **state)
{
	(void)state;
	race_explore(harvest_setup, harvest_body, harvest_check);
}

int race_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_migration), cmocka_unit_test(test_entry),
	    cmocka_unit_test(test_deletion),  cmocka_unit_test(test_harvest),
	    cmocka_unit_test(test_pieces),
	};

	return race_run(&world, "race", tests, sizeof(tests) / sizeof(tests[0]));
}
