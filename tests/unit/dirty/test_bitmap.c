/* The dirty bitmap of one slot: its bits at first, marks, references and the scratch words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/dirty/bitmap.h"
#include "tests/unit/fake_host.h"

static int setup(void **state)
{
	fake_reset();
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(fake.live_allocs, 0);
	assert_int_equal(fake_reports, 0);
	return 0;
}

static uint64_t count(const struct dirty_bitmap *bitmap)
{
	uint64_t bits = 0;

	for (uint64_t i = 0; i < bitmap->words; i++)
		bits += (uint64_t)__builtin_popcountll(bitmap->bits[i]);
	return bits;
}

/* All clear or all set, and never a bit past the last page. */
static void test_sizes(void **state)
{
	static const uint64_t sizes[] = {1, 63, 64, 65, 129, 512, 1000};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (uint32_t set = 0; set < 2; set++) {
			struct dirty_bitmap *bitmap =
			    dirty_bitmap_alloc(&fake_ops, NULL, sizes[i], set);

			assert_non_null(bitmap);
			assert_int_equal(bitmap->words, (sizes[i] + 63) / 64);
			assert_int_equal(count(bitmap), set ? sizes[i] : 0);
			assert_int_equal(!!dirty_bitmap_has(bitmap, sizes[i] - 1), set);
			/* As many words again, behind the bits. */
			for (uint64_t word = 0; word < bitmap->words; word++)
				bitmap->scratch[word] = UINT64_MAX;
			assert_int_equal(count(bitmap), set ? sizes[i] : 0);
			dirty_bitmap_put(&fake_ops, NULL, bitmap);
			assert_int_equal(fake.live_allocs, 0);
		}
	}
}

static void test_marks(void **state)
{
	struct dirty_bitmap *bitmap = dirty_bitmap_alloc(&fake_ops, NULL, 200, 0);
	struct biglock mmu_lock = {0};

	biglock_init(&mmu_lock, RANK_MMU);
	biglock_read_lock(&mmu_lock, NULL);
	for (uint64_t index = 0; index < 200; index += 7) {
		assert_false(dirty_bitmap_has(bitmap, index));
		dirty_bitmap_mark(bitmap, index);
		dirty_bitmap_mark(bitmap, index);
		assert_true(dirty_bitmap_has(bitmap, index));
		assert_int_equal(count(bitmap), index / 7 + 1);
	}
	biglock_read_unlock(&mmu_lock, NULL);
	dirty_bitmap_put(&fake_ops, NULL, bitmap);
}

/* A mark without mmu_lock could be lost between two harvests (I-65): it is reported. */
static void test_mark_without_lock(void **state)
{
	struct dirty_bitmap *bitmap = dirty_bitmap_alloc(&fake_ops, NULL, 64, 0);

	dirty_bitmap_mark(bitmap, 3);
	assert_int_equal(fake_reports, 1);
	fake_reports = 0;
	dirty_bitmap_put(&fake_ops, NULL, bitmap);
}

/* A call that copies keeps the words, although the slot has gone. */
static void test_references(void **state)
{
	struct dirty_bitmap *bitmap = dirty_bitmap_alloc(&fake_ops, NULL, 64, 1);

	(void)atomic_fetch_add_u32(&bitmap->refs, 1);
	dirty_bitmap_put(&fake_ops, NULL, bitmap);
	assert_int_equal(fake.live_allocs, 1);
	assert_int_equal(count(bitmap), 64);
	dirty_bitmap_put(&fake_ops, NULL, bitmap);
	assert_int_equal(fake.live_allocs, 0);
	dirty_bitmap_put(&fake_ops, NULL, NULL);
}

static void test_without_memory(void **state)
{
	fake_fail_in(1);
	assert_null(dirty_bitmap_alloc(&fake_ops, NULL, 64, 1));
	fake_fail_in(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_marks, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_mark_without_lock, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_references, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_without_memory, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
