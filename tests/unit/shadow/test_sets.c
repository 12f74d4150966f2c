/*
 * What shadow pages are kept with: sets of entries, objects cut from table pages, and walks over a
 * range in pieces. Against models of them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/shadow/internal.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

/* More than two objects' entries, and a number that has no divisor with the order of removal. */
#define MEMBERS 37u
#define PER_PAGE (QUIRE_PAGE_SIZE / OBJECT_BYTES)

static struct world world;
static struct flush_debt debt;
static struct shadow_change change;
static u64 words[MEMBERS];
static bool there[MEMBERS];

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	(void)world_check(&world, PAGE(5), WORLD_READ);
	memset(there, 0, sizeof(there));
	return 0;
}

/* Both ways through the set come to each member once. */
static void check_set(u64 *head)
{
	u32 seen[MEMBERS] = {0}, count = 0, index = 0;
	u64 value = rmap_lock(head);
	struct rmap_iter iter;

	for (u32 i = 0; i < MEMBERS; i++)
		count += there[i];
	assert_int_equal(rmap_count(value), count);
	assert_int_equal(value != 0, count != 0);
	for (u64 *at = value ? rmap_first(&iter, value) : NULL; at; at = rmap_next(&iter)) {
		seen[at - words]++;
		seen[rmap_at(value, index++) - words]++;
	}
	for (u32 i = 0; i < MEMBERS; i++)
		assert_int_equal(seen[i], there[i] ? 2 : 0);
	assert_int_equal(index, count);
	if (value) {
		assert_true(there[rmap_any(value) - words]);
		rmap_unlock(head, value);
	}
	assert_int_equal(*head, value);
}

static void test_set(void **state)
{
	struct object_cache cache = {0};
	u64 head = 0;
	u32 objects;

	(void)state;
	assert_int_equal(object_cache_fill(&cache, &world.vm->shadow->slabs, 4), 0);
	objects = cache.count;
	change = world_change_begin(&world, &debt);
	for (u32 i = 0; i < MEMBERS; i++) {
		check_set(&head);
		assert_int_not_equal(rmap_remove(&head, &words[i], &cache), 0);
		assert_int_equal(rmap_add(&head, &words[i], &cache), i + 1);
		there[i] = true;
	}
	for (u32 i = 0; i < MEMBERS; i++) {
		u32 which = i * 11 % MEMBERS;

		check_set(&head);
		assert_int_equal(rmap_remove(&head, &words[which], &cache), 0);
		there[which] = false;
	}
	check_set(&head);
	assert_int_equal(cache.count, objects);
	object_cache_move(change.headers, &cache);
	world_change_end(&world, &debt);
}

/* The second member, and each for which the first object is full, needs another object. */
static void test_set_without_memory(void **state)
{
	struct object_cache cache = {0}, none = {0};
	u64 head = 0;

	(void)state;
	assert_int_equal(object_cache_fill(&cache, &world.vm->shadow->slabs, 4), 0);
	change = world_change_begin(&world, &debt);
	for (u32 i = 0; i < MEMBERS; i++) {
		bool needs = i && (i == 1 || i % RMAP_OBJECT_ENTRIES == 0);

		if (needs) {
			assert_int_equal(rmap_add(&head, &words[i], &none), 0);
			check_set(&head);
		}
		assert_int_equal(rmap_add(&head, &words[i], needs ? &cache : &none), i + 1);
		there[i] = true;
	}
	while (head)
		assert_int_equal(rmap_remove(&head, rmap_any(head), &cache), 0);
	object_cache_move(change.headers, &cache);
	world_change_end(&world, &debt);
}

/* Objects are distinct and hold zeros, whatever they held before; more pages come when needed. */
static void test_objects(void **state)
{
	struct object_slabs slabs = {.arena = &world.vm->arena};
	struct object_cache cache = {0};
	static u64 *taken[2 * PER_PAGE];
	uint64_t used = arena_used(&world.vm->arena);

	(void)state;
	assert_int_equal(object_cache_fill(&cache, &slabs, 0), 0);
	assert_int_equal(slabs.count, 0);
	for (u32 want = 1; want <= 2 * PER_PAGE; want++) {
		assert_int_equal(object_cache_fill(&cache, &slabs, want), 0);
		assert_int_equal(slabs.count, want <= PER_PAGE ? 1 : 2);
		assert_int_equal(cache.count, slabs.count * PER_PAGE);
	}
	for (u32 round = 0; round < 2; round++) {
		for (u32 i = 0; i < 2 * PER_PAGE; i++) {
			taken[i] = object_take(&cache);
			assert_int_equal(cache.count, 2 * PER_PAGE - i - 1);
			for (u32 word = 0; word < OBJECT_BYTES / sizeof(u64); word++)
				assert_int_equal(taken[i][word], 0);
			memset(taken[i], 0x5a, OBJECT_BYTES);
		}
		assert_null(object_take(&cache));
		for (u32 i = 0; i < 2 * PER_PAGE; i++)
			object_put(&cache, taken[i]);
	}
	object_slabs_free(&slabs);
	assert_int_equal(slabs.count, 0);
	assert_null(slabs.tables);
	assert_int_equal(arena_used(&world.vm->arena), used);
}

/* Where no page can be had the caller hears of it, and keeps what was there. */
static void test_objects_without_memory(void **state)
{
	struct arena *arena = &world.vm->arena;
	struct object_slabs slabs = {.arena = arena};
	struct object_cache cache = {0};
	struct table_cache hog = {0};

	(void)state;
	assert_int_equal(object_cache_fill(&cache, &slabs, 1), 0);
	assert_int_equal(table_cache_fill(&hog, arena, (u32)arena->free_count), 0);
	world.host.fail_at = world.host.allocations + 1;
	assert_int_equal(object_cache_fill(&cache, &slabs, PER_PAGE + 1), -ENOMEM);
	world.host.fail_at = 0;
	assert_int_equal(cache.count, PER_PAGE);
	assert_int_equal(slabs.count, 1);
	table_cache_drain(&hog, arena);
	object_slabs_free(&slabs);
}

/* Blocks of a level with something in them, rising; of several pages of heads. */
static const uint64_t blocks[] = {0, 1, 7, 510, 511, 512, 1023, 5000, 5001};
#define BLOCKS (sizeof(blocks) / sizeof(blocks[0]))

/* All blocks of [start, end) at @level, each once and in order, however short the pieces. */
static void check_range(uint32_t level, uint64_t start, uint64_t end)
{
	const uint64_t pages = level_pages((enum quire_level)level);
	struct shadow_range range =
	    shadow_range_of(0, (gfn_t){start * pages}, (gfn_t){end * pages});
	uint32_t next = 0;

	range.level = range.highest = level;
	while (next < BLOCKS && blocks[next] < start)
		next++;
	for (uint32_t round = 0; !shadow_range_is_done(&range); round++) {
		struct shadow_piece piece;
		uint32_t found = 0;
		u64 *head;

		assert_true(round < 64);
		shadow_piece_begin(change.shadow, &piece);
		for (; (head = shadow_range_next(&piece, &range)); range.at++, found++) {
			assert_int_equal(*head, blocks[next] + 1);
			assert_int_equal(range.at, blocks[next]);
			next++;
		}
		/* So that others get the lock. */
		assert_true(found <= SHADOW_PIECE_CHANGES);
		assert_true(shadow_piece_is_over(&piece) || shadow_range_is_done(&range));
	}
	assert_true(next == BLOCKS || blocks[next] >= end);
}

static void test_pieces(void **state)
{
	const struct shadow_page page = {.role = ROLE_DIRECT};

	(void)state;
	for (uint32_t level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_2M; level++) {
		u64 *heads[BLOCKS], kept[BLOCKS];

		change = world_change_begin(&world, &debt);
		for (uint32_t i = 0; i < BLOCKS; i++) {
			gfn_t gfn = {blocks[i] * level_pages((enum quire_level)level)};

			heads[i] = rmap_head_make(&change, &page, gfn, level);
			assert_non_null(heads[i]);
			kept[i] = *heads[i];
			*heads[i] = blocks[i] + 1;
		}
		for (uint32_t i = 0; i < BLOCKS; i++)
			for (uint32_t j = i; j < BLOCKS; j++) {
				check_range(level, blocks[i], blocks[j] + 1);
				check_range(level, blocks[i] + 1, blocks[j] + 2);
			}
		for (uint32_t i = 0; i < BLOCKS; i++)
			*heads[i] = kept[i];
		world_change_end(&world, &debt);
	}
}

#define SET_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown_l2)

int set_tests(void)
{
	const struct CMUnitTest tests[] = {
	    SET_TEST(test_set),	    SET_TEST(test_set_without_memory),
	    SET_TEST(test_objects), SET_TEST(test_objects_without_memory),
	    SET_TEST(test_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
