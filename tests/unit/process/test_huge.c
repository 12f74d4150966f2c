/*
 * Huge pages that are taken apart and put together again, by the host port itself. The machine need
 * not have any: ordinary memory stands for the pool.
 */
#include "tests/unit/process/support.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_BYTES (UINT64_C(1) << 30)
#define HUGE_PAGES 2u
#define PAGES_OF(bytes) ((bytes) / PAGE)

static struct process_store store;
static uint8_t units[HUGE_PAGES];
static int small_fd;

/* What is read there takes no memory, which a file's pages would. */
static void *memory_of_the_pool(void)
{
	void *memory = mmap(NULL, HUGE_PAGES * HUGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

static void *memory_of_the_file(void)
{
	void *memory;

	small_fd = memfd_create("small", MFD_CLOEXEC);
	assert_true(small_fd >= 0);
	assert_int_equal(ftruncate(small_fd, HUGE_PAGES * HUGE_BYTES), 0);
	memory =
	    mmap(NULL, HUGE_PAGES * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, small_fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

static int store_open(void **state)
{
	(void)state;
	memset(units, 0, sizeof(units));
	store = (struct process_store){
	    .base = memory_of_the_pool(),
	    .small = memory_of_the_file(),
	    .size_bytes = HUGE_PAGES * HUGE_BYTES,
	    .huge_bytes = HUGE_BYTES,
	    .units = units,
	};
	return 0;
}

static int store_close(void **state)
{
	(void)state;
	munmap(store.base, store.size_bytes);
	munmap(store.small, store.size_bytes);
	close(small_fd);
	return 0;
}

static uint64_t small_bytes(void)
{
	struct stat status;

	assert_int_equal(fstat(small_fd, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

static int reshape(uint64_t index, int whole)
{
	return process_host_ops.store_reshape(NULL, &store, PAGES_OF(index * HUGE_BYTES), whole);
}

/* The page of the store as the library finds it. */
static uint64_t *word(uint64_t index)
{
	unsigned int order = 18;
	pfn_t pfn;

	assert_int_equal(process_host_ops.store_get(NULL, &store, index, &order, &pfn), 0);
	return (uint64_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT);
}

/* The second of them, so that an index counts from the store's start. */
static void bytes_move(void **state)
{
	const uint64_t first = PAGES_OF(HUGE_BYTES), last = 2 * first - 1;
	uint64_t *whole = word(first), *small;

	(void)state;
	handle_signals();
	*whole = 1;
	*word(last) = 2;
	assert_int_equal(reshape(1, 0), 0);
	small = word(first);
	assert_ptr_not_equal(small, whole);
	assert_int_equal(*small, 1);
	assert_int_equal(*word(last), 2);
	*word(first + 5) = 3;
	*word(last) = 0;
	/* Of a huge page of which two were written, two became small ones. */
	assert_true(small_bytes() <= 4 * PAGE);
	assert_int_equal(reshape(1, 1), 0);
	assert_ptr_equal(word(first), whole);
	assert_int_equal(*word(first), 1);
	assert_int_equal(*word(first + 5), 3);
	assert_int_equal(*word(last), 0);
	assert_int_equal(small_bytes(), 0);
}

/*
 * Looking at holes keeps no memory: where the last page cannot be read the others stay small, and
 * the holes among them are holes. 64 MiB of them are read here.
 */
static void holes_stay_holes(void **state)
{
	uint8_t *small = store.small;

	(void)state;
	handle_signals();
	store.huge_bytes = UINT64_C(64) << 20;
	assert_int_equal(reshape(0, 0), 0);
	*word(3) = 7;
	*word(1000) = 8;
	assert_int_equal(mprotect(small + store.huge_bytes - PAGE, PAGE, PROT_NONE), 0);
	assert_int_not_equal(process_host_ops.store_reshape(NULL, &store, 0, 1), 0);
	assert_true(small_bytes() <= 2 * PAGE);
	assert_int_equal(*word(3), 7);
	assert_int_equal(*word(1000), 8);
	assert_int_equal(mprotect(small + store.huge_bytes - PAGE, PAGE, PROT_READ | PROT_WRITE),
			 0);
	assert_int_equal(process_host_ops.store_reshape(NULL, &store, 0, 1), 0);
	assert_int_equal(*word(3), 7);
	assert_int_equal(*word(1000), 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(bytes_move, store_open, store_close),
	    cmocka_unit_test_setup_teardown(holes_stay_holes, store_open, store_close),
	};

	return cmocka_run_group_tests(tests, install_platform, NULL);
}
