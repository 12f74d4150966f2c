/* The dirty ring of one vCPU: what is appended comes back in order, once the client has read it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/base/lock.h"
#include "src/dirty/ring.h"
#include "tests/unit/fake_host.h"

#define SIZE 128u
#define DIRTY 1u
#define RESET 2u

static struct quire_ring_entry entries[SIZE];
static struct dirty_ring ring;
static struct mutex slots_lock;

static int setup(void **state)
{
	fake_reset();
	mutex_init(&slots_lock, RANK_SLOTS);
	for (uint32_t i = 0; i < SIZE; i++)
		entries[i] = (struct quire_ring_entry){0};
	ring = (struct dirty_ring){
	    .entries = entries, .size = SIZE, .soft_limit = SIZE - DIRTY_RING_RESERVED};
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(fake_reports, 0);
	return 0;
}

static int take(uint32_t *slot, uint64_t *offset)
{
	int error;

	mutex_lock(&slots_lock);
	error = dirty_ring_take_reset(&ring, slot, offset);
	mutex_unlock(&slots_lock);
	return error;
}

static void assert_taken(uint64_t want)
{
	uint32_t slot;
	uint64_t offset;

	assert_int_equal(take(&slot, &offset), 0);
	assert_int_equal(slot, (uint32_t)(want % 7));
	assert_int_equal(offset, want);
}

/* Round and round, so that the indices pass the end of the entries. */
static void test_in_order(void **state)
{
	uint64_t appended = 0, taken = 0;

	srand(1);
	while (taken < 20 * SIZE) {
		uint32_t more = (uint32_t)rand() % SIZE, read = (uint32_t)rand() % SIZE;

		for (; more && dirty_ring_used(&ring) < SIZE; more--, appended++)
			assert_int_equal(
			    dirty_ring_append(&ring, (uint32_t)(appended % 7), appended), 1);
		assert_int_equal(dirty_ring_used(&ring), appended - taken);
		for (; read && taken < appended; read--, taken++) {
			assert_int_equal(entries[taken % SIZE].flags, DIRTY);
			entries[taken % SIZE].flags = RESET;
			assert_taken(taken);
			assert_int_equal(entries[taken % SIZE].flags, 0);
		}
	}
}

/* An entry that the client has not given back stands in the way of those behind it. */
static void test_only_what_was_read(void **state)
{
	uint32_t slot;
	uint64_t offset;

	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(dirty_ring_append(&ring, (uint32_t)i, i), 1);
	entries[1].flags = RESET;
	assert_int_equal(take(&slot, &offset), -ENOENT);
	entries[0].flags = RESET;
	assert_taken(0);
	assert_taken(1);
	assert_int_equal(take(&slot, &offset), -ENOENT);
	assert_int_equal(dirty_ring_used(&ring), 1);
}

/* The client may write anything: an entry that was never appended is not taken. */
static void test_never_appended(void **state)
{
	uint32_t slot;
	uint64_t offset;

	for (uint32_t i = 0; i < SIZE; i++)
		entries[i].flags = RESET;
	assert_int_equal(take(&slot, &offset), -ENOENT);
	assert_int_equal(dirty_ring_used(&ring), 0);
}

static void test_full(void **state)
{
	for (uint64_t i = 0; i < SIZE; i++) {
		assert_int_equal(dirty_ring_is_soft_full(&ring), i >= SIZE - DIRTY_RING_RESERVED);
		assert_int_equal(dirty_ring_append(&ring, 0, i), 1);
	}
	assert_int_equal(dirty_ring_append(&ring, 5, SIZE), 0);
	assert_int_equal(ring.last_offset, SIZE - 1);
	assert_int_equal(ring.last_slot, 0);
	entries[0].flags = RESET;
	assert_taken(0);
	assert_int_equal(dirty_ring_append(&ring, 3, SIZE), 1);
	assert_int_equal(entries[0].offset, SIZE);
	/* What was appended last is known, so that the same page is not appended again. */
	assert_int_equal(ring.last_offset, SIZE);
	assert_int_equal(ring.last_slot, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_in_order, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_only_what_was_read, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_never_appended, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_full, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
