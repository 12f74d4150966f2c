/* The pfn cache: valid until the host or the slots say otherwise, without a reference. */
#include "tests/unit/fault/support.h"

#include "src/access/pfn_cache.h"

static struct pfn_cache cache;

static void begin(void)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	pfn_cache_init(&cache, machine.vm);
}

static void end(void)
{
	pfn_cache_deactivate(&cache);
	pfn_cache_deactivate(&cache);
	vm_end();
}

/* The frame's byte that the cache shows, NULL when it is not valid. */
static uint8_t *look(uint64_t size_bytes)
{
	uint32_t offset;
	pfn_t pfn;

	if (!pfn_cache_lock(&cache, size_bytes, &pfn, &offset))
		return NULL;
	pfn_cache_unlock(&cache);
	return (uint8_t *)(uintptr_t)((pfn.v << QUIRE_PAGE_SHIFT) + offset);
}

static void host_moves(uint32_t page)
{
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(page), sim_hva(page + 1));
	sim_unmap(&machine.host, page);
	sim_map(&machine.host, page, SIM_WRITABLE);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(page), sim_hva(page + 1));
}

static void test_gpa(void **state)
{
	(void)state;
	begin();
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1ff9}, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1ff8}, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes + 0xff8);
	assert_null(look(9));
	assert_int_equal(pfn_cache_refresh(&cache, 9), -EINVAL);
	/* No reference is kept. */
	assert_int_equal(frame_of(1)->references, 1);
	assert_true(frame_of(1)->dirty);
	end();
}

static void test_host(void **state)
{
	(void)state;
	begin();
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	host_moves(2);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	host_moves(1);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	/* Gone for good: invalid, and still to be deactivated. */
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(2));
	sim_unmap(&machine.host, 1);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(2));
	assert_int_equal(pfn_cache_refresh(&cache, 8), -EFAULT);
	assert_null(look(8));
	end();
}

static void test_slots(void **state)
{
	struct quire_region other = {
	    .slot = 1, .gpa = {UINT64_C(1) << 30}, .size_bytes = 4096, .hva = sim_hva(3)};
	struct quire_region gone = {.slot = 0};

	(void)state;
	begin();
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	/* Any change of the slots asks for a refresh, which finds the same page. */
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), -EFAULT);
	end();
}

static void test_hva(void **state)
{
	struct quire_region gone = {.slot = 0};

	(void)state;
	begin();
	assert_int_equal(pfn_cache_activate_hva(&cache, (hva_t){~UINT64_C(0) & ~7}, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_hva(&cache, (hva_t){sim_hva(2).v + 16}, 8), 0);
	assert_ptr_equal(look(8), frame_of(2)->bytes + 16);
	/* The slots do not matter to it. */
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	assert_ptr_equal(look(8), frame_of(2)->bytes + 16);
	host_moves(2);
	assert_null(look(8));
	/* Another key, another page. */
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(3), 8), 0);
	assert_ptr_equal(look(8), frame_of(3)->bytes);
	end();
}

static void test_read_only(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, QUIRE_SLOT_READONLY);
	pfn_cache_init(&cache, machine.vm);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0}, 8), -EFAULT);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_gpa),	      cmocka_unit_test(test_host),
	    cmocka_unit_test(test_slots),     cmocka_unit_test(test_hva),
	    cmocka_unit_test(test_read_only),
	};

	return run_both_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
