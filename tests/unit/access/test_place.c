/* Shared places: writes show, are logged, follow the memory; what cannot be written says so. */
#include "tests/unit/support.h"

#include <quire/dirty.h>
#include <quire/place.h>

static struct quire_place *place;
static uint64_t log_word;

static int take(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	if (!offset_bytes && size_bytes >= sizeof(log_word))
		memcpy(&log_word, src, sizeof(log_word));
	return 0;
}

static uint64_t get_log(void)
{
	log_word = 0;
	assert_int_equal(quire_vm_get_dirty_log(machine.vm, 0, take, NULL), 0);
	return log_word;
}

static void begin(uint32_t flags)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, flags);
	assert_int_equal(quire_place_create(machine.vcpus[0], &place), 0);
}

static void end(void)
{
	quire_place_destroy(place);
	/* No invalidation looks for it any more. */
	assert_null(machine.vm->pfn_caches.first);
	vm_end();
}

static void test_write(void **state)
{
	uint32_t value = 0x12345678, seen = 0;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_place_write(place, 0, &value, 4), -EINVAL);
	assert_int_equal(quire_place_set(place, (gpa_t){0x1ffc}, 8), -EINVAL);
	assert_int_equal(quire_place_set(place, (gpa_t){0x1ff0}, 16), 0);
	assert_int_equal(quire_place_read(place, 4, &seen, 4), 0);
	assert_int_equal(get_log(), 0);
	assert_int_equal(quire_place_write(place, 4, &value, 4), 0);
	assert_memory_equal(frame_of(1)->bytes + 0xff4, &value, 4);
	assert_int_equal(get_log(), 2);
	assert_int_equal(quire_place_read(place, 4, &seen, 4), 0);
	assert_int_equal(seen, value);
	/* Not a byte beyond what it shows. */
	assert_int_equal(quire_place_write(place, 13, &value, 4), -EINVAL);
	assert_int_equal(quire_place_write(place, UINT64_MAX, &value, 4), -EINVAL);
	assert_int_equal(quire_place_read(place, 0, &seen, 17), -EINVAL);
	assert_int_equal(quire_place_write(place, 16, &value, 0), 0);
	assert_int_equal(get_log(), 0);
	assert_int_equal(quire_place_set(place, (gpa_t){0}, 0), 0);
	assert_int_equal(quire_place_write(place, 0, &value, 4), -EINVAL);
	end();
}

static void test_shows_nothing_at_first(void **state)
{
	uint8_t byte = 1;

	(void)state;
	begin(0);
	assert_int_equal(quire_place_check(place), -EFAULT);
	assert_int_equal(quire_place_read(place, 0, &byte, 1), -EINVAL);
	assert_int_equal(quire_place_write(place, 0, &byte, 1), -EINVAL);
	end();
}

/* A write that no ring has room for is refused, and leaves the page alone. */
static void test_ring_is_full(void **state)
{
	uint8_t one = 1, byte;
	uint32_t count = 0;

	(void)state;
	machine.rings = 1;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_place_set(place, (gpa_t){PAGES(3)}, 16), 0);
	while (count < MACHINE_RING_ENTRIES &&
	       !quire_vcpu_write(machine.vcpus[0], (gpa_t){PAGES(count % 2)}, &one, 1))
		count++;
	assert_int_equal(quire_place_write(place, 0, &one, 1), -ENOSPC);
	assert_int_equal(quire_place_read(place, 0, &byte, 1), 0);
	assert_int_equal(byte, 0);
	end();
	machine.rings = 0;
}

/* Each place hears of its own page, however many there are. */
static void test_several_move(void **state)
{
	struct quire_place *others[3];
	uint8_t byte;

	(void)state;
	begin(0);
	assert_int_equal(quire_place_set(place, (gpa_t){0}, 16), 0);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(quire_place_create(machine.vcpus[0], &others[i]), 0);
		assert_int_equal(quire_place_set(others[i], (gpa_t){PAGES(i + 1)}, 16), 0);
		assert_int_equal(quire_place_read(others[i], 0, &byte, 1), 0);
	}
	assert_int_equal(quire_place_read(place, 0, &byte, 1), 0);
	for (uint32_t page = 0; page < 4; page++) {
		struct quire_place *moved = page ? others[page - 1] : place;

		quire_vm_host_invalidate_begin(machine.vm, sim_hva(page), sim_hva(page + 1));
		sim_unmap(&machine.host, page);
		sim_map(&machine.host, page, SIM_WRITABLE);
		frame_of(page)->bytes[0] = (uint8_t)(page + 5);
		quire_vm_host_invalidate_end(machine.vm, sim_hva(page), sim_hva(page + 1));
		assert_int_equal(quire_place_read(moved, 0, &byte, 1), 0);
		assert_int_equal(byte, page + 5);
	}
	for (uint32_t i = 0; i < 3; i++)
		quire_place_destroy(others[i]);
	end();
}

/* What was shown is so no more after a change, also one that is refused. */
static void test_shows_nothing_again(void **state)
{
	uint8_t byte = 1;

	(void)state;
	begin(0);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(quire_place_set(place, (gpa_t){0x1000}, 16), 0);
		assert_int_equal(quire_place_check(place), 0);
		if (i)
			assert_int_equal(quire_place_set(place, (gpa_t){0x2ff9}, 8), -EINVAL);
		else
			assert_int_equal(quire_place_set(place, (gpa_t){0x2000}, 0), 0);
		assert_int_equal(quire_place_check(place), -EFAULT);
		assert_int_equal(quire_place_read(place, 0, &byte, 1), -EINVAL);
		assert_int_equal(quire_place_write(place, 0, &byte, 1), -EINVAL);
	}
	end();
}

static void test_moves(void **state)
{
	uint8_t one = 1, two = 2;

	(void)state;
	begin(0);
	assert_int_equal(quire_place_set(place, (gpa_t){0x1000}, 16), 0);
	assert_int_equal(quire_place_write(place, 0, &one, 1), 0);
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(2));
	sim_unmap(&machine.host, 1);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(2));
	assert_int_equal(quire_place_write(place, 0, &two, 1), -EFAULT);
	sim_map(&machine.host, 1, SIM_WRITABLE);
	assert_int_equal(quire_place_write(place, 0, &two, 1), 0);
	assert_int_equal(frame_of(1)->bytes[0], 2);
	/* No reference is kept over it. */
	assert_int_equal(frame_of(1)->references, 1);
	end();
}

static void test_no_memory(void **state)
{
	struct quire_region gone = {.slot = 0};
	struct quire_place *none = NULL;
	uint8_t one = 1;

	(void)state;
	begin(QUIRE_SLOT_READONLY);
	machine.host.fail_at = machine.host.allocations + 1;
	assert_int_equal(quire_place_create(machine.vcpus[0], &none), -ENOMEM);
	machine.host.fail_at = 0;
	assert_null(none);
	assert_int_equal(quire_place_set(place, (gpa_t){0x1000}, 16), 0);
	assert_int_equal(quire_place_write(place, 0, &one, 1), -EFAULT);
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	assert_int_equal(quire_place_write(place, 0, &one, 1), -EFAULT);
	/* It comes, and the place shows it. */
	add_slot(0, 4, 0);
	assert_int_equal(quire_place_write(place, 0, &one, 1), 0);
	assert_int_equal(frame_of(1)->bytes[0], 1);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_shows_nothing_at_first),
	    cmocka_unit_test(test_write),
	    cmocka_unit_test(test_ring_is_full),
	    cmocka_unit_test(test_several_move),
	    cmocka_unit_test(test_moves),
	    cmocka_unit_test(test_shows_nothing_again),
	    cmocka_unit_test(test_no_memory),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
