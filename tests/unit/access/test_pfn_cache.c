/* The pfn cache: valid until the host or the slots say otherwise, without a reference. */
#include "tests/unit/support.h"

#include <quire/gmem.h>

#include "src/access/pfn_cache.h"

static struct pfn_cache cache;

static int begin(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	pfn_cache_init(&cache, machine.vm);
	return 0;
}

static int end(void **state)
{
	(void)state;
	pfn_cache_deactivate(&cache);
	pfn_cache_deactivate(&cache);
	vm_end();
	return 0;
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
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1ff9}, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1ff8}, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes + 0xff8);
	/* What is refused leaves the cache as it was. */
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x2ff9}, 8), -EINVAL);
	assert_ptr_equal(look(8), frame_of(1)->bytes + 0xff8);
	assert_null(look(9));
	assert_int_equal(pfn_cache_refresh(&cache, 9), -EINVAL);
	/* No reference is kept. */
	assert_int_equal(frame_of(1)->references, 1);
	assert_true(frame_of(1)->dirty);
}

/* The host may say that nothing goes: no cache is stale for it, and other invalidations stay. */
static void test_empty_invalidation(void **state)
{
	(void)state;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(1));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(1));
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(2));
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(1));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(1));
	assert_null(look(8));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(2));
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

static void test_host(void **state)
{
	(void)state;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	/* The pages on both sides are not this one's. */
	host_moves(0);
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
}

static void test_slots(void **state)
{
	struct quire_region other = {
	    .slot = 1, .gpa = {UINT64_C(1) << 30}, .size_bytes = 4096, .hva = sim_hva(3)};
	struct quire_region gone = {.slot = 0};

	(void)state;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	/* Any change of the slots asks for a refresh, which finds the same page. */
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), -EFAULT);
}

/* Other memory at the same gpa, without a look in between. */
static void test_slot_replaced(void **state)
{
	struct quire_region gone = {.slot = 0};

	(void)state;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	add_slot(2, 2, 0);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_ptr_equal(look(8), frame_of(3)->bytes);
}

static void test_hva(void **state)
{
	struct quire_region gone = {.slot = 0};

	(void)state;
	assert_int_equal(pfn_cache_activate_hva(&cache, (hva_t){~UINT64_C(0) & ~7}, 8), -EINVAL);
	/* The first that no processor gives to a client, with 57 bits of addresses. */
	assert_int_equal(pfn_cache_activate_hva(&cache, (hva_t){UINT64_C(1) << 56}, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_hva(&cache, (hva_t){0}, 8), -EINVAL);
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(2), 0), -EINVAL);
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(2), QUIRE_PAGE_SIZE + 1), -EINVAL);
	assert_int_equal(pfn_cache_activate_hva(&cache, (hva_t){sim_hva(2).v + 16}, 8), 0);
	assert_ptr_equal(look(8), frame_of(2)->bytes + 16);
	/* The slots do not matter to it. */
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	assert_ptr_equal(look(8), frame_of(2)->bytes + 16);
	host_moves(2);
	assert_null(look(8));
	/* Another key, another page, whether or not it was valid. */
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(3), 8), 0);
	assert_ptr_equal(look(8), frame_of(3)->bytes);
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(1), 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	/* The same key once more. */
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(1), 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

static void test_read_only(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, QUIRE_SLOT_READONLY);
	pfn_cache_init(&cache, machine.vm);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0}, 8), -EFAULT);
}

/* A cache that could not be filled is active all the same: the next refresh finds the page. */
static void test_activation_fails(void **state)
{
	(void)state;
	sim_unmap(&machine.host, 1);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), -EFAULT);
	assert_null(look(8));
	assert_ptr_equal(machine.vm->pfn_caches.first, &cache);
	sim_map(&machine.host, 1, SIM_WRITABLE);
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	pfn_cache_deactivate(&cache);
	assert_null(machine.vm->pfn_caches.first);
	assert_null(look(8));
	assert_int_equal(pfn_cache_refresh(&cache, 8), -EINVAL);
}

/* The same page under another offset: no new lookup. */
static void test_offset(void **state)
{
	(void)state;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	/* A lookup would find it lost. */
	frame_of(1)->poisoned = true;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1020}, 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes + 0x20);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x2020}, 8), 0);
	frame_of(1)->poisoned = false;
	assert_ptr_equal(look(8), frame_of(2)->bytes + 0x20);
}

/* What the host does to a page while no cache is active for it is not heard of, and not shown. */
static void test_deactivated(void **state)
{
	(void)state;
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(1), 8), 0);
	pfn_cache_deactivate(&cache);
	host_moves(1);
	assert_int_equal(pfn_cache_activate_hva(&cache, sim_hva(1), 8), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

/* The host replaces the page between lookup and publication: what was found is dropped. */
static struct quire_host_ops ops;
static unsigned int lookups;

static int moving_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int ret = sim_host_ops.page_get(ctx, hva, flags, page);

	/* Nothing but its own lock is held while the client is waited for. */
	assert_true(lock_rank_is_held(RANK_PFN_REFRESH));
	assert_false(lock_rank_is_held(RANK_PFN_CACHE));
	if (!lookups++)
		host_moves(1);
	return ret;
}

/* A kick that was meant for another wait, or came late, ends the first wait. */
static int kicked_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	return lookups++ ? sim_host_ops.page_get(ctx, hva, flags, page) : -EINTR;
}

static void test_kicked(void **state)
{
	(void)state;
	ops = sim_host_ops;
	ops.page_get = kicked_get;
	machine.vm->host = &ops;
	lookups = 0;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(lookups, 2);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

/* An invalidation that is still on its way: nothing is published before its end. */
static int slow_host_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int ret = sim_host_ops.page_get(ctx, hva, flags, page);

	lookups++;
	if (lookups == 1)
		quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(2));
	if (lookups == 3)
		quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(2));
	return ret;
}

static void test_moving_meanwhile(void **state)
{
	(void)state;
	ops = sim_host_ops;
	ops.page_get = slow_host_get;
	machine.vm->host = &ops;
	lookups = 0;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(lookups, 4);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

/* Other memory changes all the time: that is nothing to this page. */
static int busy_host_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	lookups++;
	host_moves(3);
	return sim_host_ops.page_get(ctx, hva, flags, page);
}

static void test_moving_elsewhere(void **state)
{
	(void)state;
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(2), sim_hva(3));
	ops = sim_host_ops;
	ops.page_get = busy_host_get;
	machine.vm->host = &ops;
	lookups = 0;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(lookups, 1);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(2), sim_hva(3));
}

/* So many invalidations of page 3 end during the first lookup. */
static uint32_t moves_left;

static int moving_much_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	lookups++;
	for (; moves_left; moves_left--)
		host_moves(3);
	return sim_host_ops.page_get(ctx, hva, flags, page);
}

/* More changes than are kept: one that is forgotten counts as this page's. Older ones do not. */
static void test_moving_often(void **state)
{
	(void)state;
	ops = sim_host_ops;
	ops.page_get = moving_much_get;
	machine.vm->host = &ops;
	for (uint32_t moves = PFN_CACHE_RANGES - 1; moves <= PFN_CACHE_RANGES + 1; moves++) {
		for (uint32_t i = 0; i < 2 * PFN_CACHE_RANGES; i++)
			host_moves(1);
		lookups = 0;
		moves_left = moves;
		assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
		assert_int_equal(lookups, moves > PFN_CACHE_RANGES ? 2 : 1);
		assert_ptr_equal(look(8), frame_of(1)->bytes);
		pfn_cache_deactivate(&cache);
	}
}

/* More ranges than are told apart: one that is not known by itself counts as this page's. */
static void test_moving_everywhere(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < PFN_CACHE_RANGES; i++)
		quire_vm_host_invalidate_begin(machine.vm, sim_hva(2), sim_hva(3));
	ops = sim_host_ops;
	ops.page_get = slow_host_get;
	machine.vm->host = &ops;
	lookups = 0;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(lookups, 4);
	for (uint32_t i = 0; i < PFN_CACHE_RANGES; i++)
		quire_vm_host_invalidate_end(machine.vm, sim_hva(2), sim_hva(3));
	assert_int_equal(machine.vm->pfn_caches.active_elsewhere, 0);
}

static void test_moved_meanwhile(void **state)
{
	(void)state;
	ops = sim_host_ops;
	ops.page_get = moving_get;
	lookups = 0;
	machine.vm->host = &ops;
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(lookups, 2);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

/* It shows what the client's address shows: attributes and files do not matter. */
static void test_private(void **state)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};
	struct quire_gmem *gmem;

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	map_pages(0, 4, SIM_WRITABLE);
	assert_int_equal(quire_gmem_create(machine.vm, region.size_bytes, 0, NULL, &gmem), 0);
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	pfn_cache_init(&cache, machine.vm);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){0x1000}, 8), 0);
	assert_int_equal(quire_vm_set_attributes(machine.vm, (gpa_t){0}, region.size_bytes,
						 QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	assert_int_equal(machine_store(&machine, 0, 0x1000, 7), 0);
	assert_int_equal(quire_gmem_punch(gmem, 0, region.size_bytes), 0);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
	quire_gmem_release(gmem);
	assert_ptr_equal(look(8), frame_of(1)->bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_gpa, begin, end),
	    cmocka_unit_test_setup_teardown(test_empty_invalidation, begin, end),
	    cmocka_unit_test_setup_teardown(test_host, begin, end),
	    cmocka_unit_test_setup_teardown(test_slots, begin, end),
	    cmocka_unit_test_setup_teardown(test_slot_replaced, begin, end),
	    cmocka_unit_test_setup_teardown(test_hva, begin, end),
	    cmocka_unit_test_teardown(test_read_only, end),
	    cmocka_unit_test_setup_teardown(test_activation_fails, begin, end),
	    cmocka_unit_test_setup_teardown(test_offset, begin, end),
	    cmocka_unit_test_setup_teardown(test_moved_meanwhile, begin, end),
	    cmocka_unit_test_setup_teardown(test_moving_meanwhile, begin, end),
	    cmocka_unit_test_setup_teardown(test_moving_elsewhere, begin, end),
	    cmocka_unit_test_setup_teardown(test_moving_everywhere, begin, end),
	    cmocka_unit_test_setup_teardown(test_moving_often, begin, end),
	    cmocka_unit_test_setup_teardown(test_deactivated, begin, end),
	    cmocka_unit_test_setup_teardown(test_kicked, begin, end),
	    cmocka_unit_test_teardown(test_private, end),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
