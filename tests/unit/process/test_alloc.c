/* The allocator: alignment, zeroes, nothing shared, nothing lost, several threads. */
#include "tests/unit/process/support.h"

#include <pthread.h>

static const size_t sizes[] = {1,    64,    65,	   100,	  1000,	  4096,	   4097,
			       9000, 32768, 32769, 70000, 200000, 3 << 20, 64};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static void *take(size_t size_bytes)
{
	return process_host_ops.alloc(NULL, size_bytes);
}

static void give(void *mem, size_t size_bytes)
{
	process_host_ops.free(NULL, mem, size_bytes);
}

static int is_zero(const uint8_t *mem, size_t size_bytes)
{
	return !mem[0] && !memcmp(mem, mem + 1, size_bytes - 1);
}

static void blocks_are_zero_and_apart(void **state)
{
	uint64_t before = process_bytes_allocated(), total = 0;
	uint8_t *blocks[SIZES];

	for (int round = 0; round < 50; round++) {
		total = 0;
		for (size_t i = 0; i < SIZES; i++) {
			blocks[i] = take(sizes[i]);
			assert_non_null(blocks[i]);
			assert_int_equal(address_of(blocks[i]) % 64, 0);
			assert_true(is_zero(blocks[i], sizes[i]));
			memset(blocks[i], (int)i + 1, sizes[i]);
			total += sizes[i];
		}
		assert_int_equal(process_bytes_allocated() - before, total);
		for (size_t i = 0; i < SIZES; i++) {
			assert_int_equal(blocks[i][0], i + 1);
			assert_memory_equal(blocks[i], blocks[i] + 1, sizes[i] - 1);
			give(blocks[i], sizes[i]);
		}
		assert_int_equal(process_bytes_allocated(), before);
	}
	give(NULL, 64);
	assert_int_equal(process_bytes_allocated(), before);
}

/* Many blocks of every small size: arenas are used to their last byte, none is given out twice. */
static void arenas_are_cut_up(void **state)
{
	enum { COUNT = 3000 };
	static uint8_t *blocks[COUNT];
	uint64_t before = process_bytes_allocated();

	for (uint32_t i = 0; i < COUNT; i++) {
		size_t size = (size_t)64 << (i * 7 % 10);

		blocks[i] = take(size);
		assert_non_null(blocks[i]);
		assert_true(is_zero(blocks[i], size));
		memset(blocks[i], (int)(i % 251) + 1, size);
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		size_t size = (size_t)64 << (i * 7 % 10);

		assert_int_equal(blocks[i][0], i % 251 + 1);
		assert_memory_equal(blocks[i], blocks[i] + 1, size - 1);
		give(blocks[i], size);
	}
	assert_int_equal(process_bytes_allocated(), before);
}

static void too_large_is_refused(void **state)
{
	uint64_t before = process_bytes_allocated();

	assert_null(take((size_t)1 << 60));
	assert_null(take(SIZE_MAX));
	assert_null(take(SIZE_MAX - 100));
	assert_int_equal(process_bytes_allocated(), before);
}

static void large_ones_go_back(void **state)
{
	struct process_mapping mapping;
	void *mem = take(1 << 20);

	assert_true(process_mapping_find(address_of(mem), &mapping));
	give(mem, 1 << 20);
	process_mappings_changed();
	assert_false(process_mapping_find(address_of(mem), &mapping));
}

static void chunks_are_aligned_and_resident(void **state)
{
	uint64_t before = process_bytes_allocated();
	unsigned char resident[512];
	uint8_t *chunks[3];

	for (int i = 0; i < 3; i++) {
		chunks[i] = process_host_ops.chunk_alloc(NULL);
		assert_non_null(chunks[i]);
		assert_int_equal(address_of(chunks[i]) % (2 << 20), 0);
		assert_int_equal(mincore(chunks[i], 2 << 20, resident), 0);
		for (int page = 0; page < 512; page++)
			assert_true(resident[page] & 1);
		assert_true(is_zero(chunks[i], 2 << 20));
		memset(chunks[i], 0xff, 2 << 20);
	}
	assert_int_equal(process_bytes_allocated() - before, 6 << 20);
	for (int i = 0; i < 3; i++)
		process_host_ops.chunk_free(NULL, chunks[i]);
	process_host_ops.chunk_free(NULL, NULL);
	assert_int_equal(process_bytes_allocated(), before);
}

/* Each thread marks its blocks; a block given to two shows another's mark. */
static void *churn(void *argument)
{
	uint64_t mark = (uint64_t)(uintptr_t)argument;
	uint64_t *blocks[32] = {0};
	uint64_t broken = 0;

	for (uint32_t turn = 0; turn < 40000; turn++) {
		uint32_t slot = turn * 2654435761u >> 27;
		size_t size = (size_t)64 << (slot % 4);

		if (blocks[slot]) {
			broken += blocks[slot][0] != mark || blocks[slot][size / 8 - 1] != mark;
			give(blocks[slot], size);
			blocks[slot] = NULL;
			continue;
		}
		blocks[slot] = take(size);
		broken += blocks[slot][0] || blocks[slot][size / 8 - 1];
		blocks[slot][0] = blocks[slot][size / 8 - 1] = mark;
	}
	for (uint32_t slot = 0; slot < 32; slot++)
		give(blocks[slot], (size_t)64 << (slot % 4));
	return (void *)(uintptr_t)broken;
}

static void threads_do_not_share_blocks(void **state)
{
	uint64_t before = process_bytes_allocated();
	pthread_t threads[4];
	void *broken;

	for (uintptr_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &broken), 0);
		assert_null(broken);
	}
	assert_int_equal(process_bytes_allocated(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(blocks_are_zero_and_apart),
	    cmocka_unit_test(arenas_are_cut_up),
	    cmocka_unit_test(too_large_is_refused),
	    cmocka_unit_test(large_ones_go_back),
	    cmocka_unit_test(chunks_are_aligned_and_resident),
	    cmocka_unit_test(threads_do_not_share_blocks),
	};

	return cmocka_run_group_tests(tests, install_platform, NULL);
}
