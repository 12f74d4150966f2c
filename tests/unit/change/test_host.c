/* What only a kernel does to the client's pages: the guest sees the same bytes before and after. */
#include <quire/dirty.h>
#include <quire/place.h>

#include "hosts/sim/kernel.h"
#include "src/access/pfn_cache.h"
#include "tests/unit/support.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)

static void begin(uint32_t npages, uint32_t slot_flags)
{
	vm_begin();
	map_pages(0, npages, SIM_WRITABLE);
	add_slot(0, npages, slot_flags);
}

/* A block that the host maps by small entries. */
static void begin_small(uint32_t slot_flags)
{
	vm_begin();
	map_pages(0, SIM_BLOCK, SIM_WRITABLE | SIM_SMALL);
	add_slot(0, SIM_BLOCK, slot_flags);
}

static void begin_huge(uint32_t slot_flags)
{
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, slot_flags);
}

static uint32_t frame_number(uint32_t page)
{
	return machine.host.pages[page].frame;
}

/* Its frame was given back, and was not written since. */
static void is_untouched(uint32_t frame)
{
	assert_int_equal(machine.host.frames[frame].references, 0);
	assert_int_equal(machine.host.frames[frame].bytes[0], SIM_POISON);
}

static void test_swap(void **state)
{
	uint32_t before;

	(void)state;
	begin(2, 0);
	store_backed(0, 7);
	store_backed(1, 8);
	before = frame_number(0);
	assert_true(sim_swap_out(&machine.host, 0));
	leaves_are(0, 0, 1);
	is_untouched(before);
	/* Read: back in another frame, and writable as the memory is. */
	assert_int_equal(load(0), 7);
	assert_int_not_equal(frame_number(0), before);
	assert_true(writable_at(0));
	assert_int_equal(frame_of(0)->references, 1);
	/* Write: the rest of the page is what it was. */
	frame_of(0)->bytes[9] = 99;
	assert_true(sim_swap_out(&machine.host, 0));
	store_backed(0, 9);
	assert_int_equal(frame_of(0)->bytes[9], 99);
	leaves_are(0, 0, 2);
	vm_end();
}

/* The library's own access brings it in too, and its caches notice that it went. */
static void test_swap_and_the_library(void **state)
{
	struct pfn_cache cache;
	struct quire_map map;
	uint32_t offset;
	uint8_t byte;
	pfn_t pfn;

	(void)state;
	begin(2, 0);
	store_backed(1, 7);
	assert_true(sim_swap_out(&machine.host, 1));
	assert_int_equal(quire_vm_read(machine.vm, (gpa_t){PAGES(1)}, &byte, 1), 0);
	assert_int_equal(byte, 7);
	pfn_cache_init(&cache, machine.vm);
	assert_int_equal(pfn_cache_activate_gpa(&cache, (gpa_t){PAGES(1)}, 8), 0);
	assert_true(pfn_cache_lock(&cache, 8, &pfn, &offset));
	pfn_cache_unlock(&cache);
	assert_true(sim_swap_out(&machine.host, 1));
	assert_false(pfn_cache_lock(&cache, 8, &pfn, &offset));
	assert_int_equal(pfn_cache_refresh(&cache, 8), 0);
	assert_true(pfn_cache_lock(&cache, 8, &pfn, &offset));
	assert_int_equal(*(uint8_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT), 7);
	pfn_cache_unlock(&cache);
	pfn_cache_deactivate(&cache);
	/* What the library holds stays where it is. */
	assert_int_equal(
	    quire_vcpu_map(machine.vcpus[0], (gpa_t){QUIRE_PAGE_SIZE}, QUIRE_MAP_READ, &map), 0);
	assert_false(sim_swap_out(&machine.host, 1));
	assert_false(sim_migrate(&machine.host, 1));
	quire_vcpu_unmap(machine.vcpus[0], &map);
	assert_true(sim_migrate(&machine.host, 1));
	vm_end();
}

/* A page of a huge one goes: the others are mapped small from then on. */
static void test_swap_of_a_part(void **state)
{
	(void)state;
	begin_huge(0);
	store_backed(5, 5);
	store_backed(6, 6);
	leaves_are(0, 1, 0);
	assert_true(sim_swap_out(&machine.host, 5));
	leaves_are(0, 0, 0);
	assert_int_equal(load(6), 6);
	leaves_are(0, 0, 1);
	assert_int_equal(load(5), 5);
	leaves_are(0, 0, 2);
	vm_end();
}

/* A signal ends the wait for the disk; without memory for the page nothing changes. */
static void test_swap_in_fails(void **state)
{
	(void)state;
	begin(1, 0);
	store_backed(0, 7);
	assert_true(sim_swap_out(&machine.host, 0));
	machine.host.interrupted = true;
	quire_vcpu_request(machine.vcpus[0], UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
	assert_int_equal(fault_at(0, 0), -EINTR);
	machine.host.interrupted = false;
	machine.host.fail_at = machine.host.allocations + 1;
	assert_int_equal(fault_at(0, 0), -ENOMEM);
	machine.host.fail_at = 0;
	leaves_are(0, 0, 0);
	assert_int_equal(load(0), 7);
	vm_end();
}

/* A caller that must not sleep is told so, and comes again later. */
static void test_not_now(void **state)
{
	const uint32_t flags = QUIRE_PAGE_NOWAIT | QUIRE_PAGE_GUARDED;
	struct quire_page page;

	(void)state;
	begin(1, 0);
	store_backed(0, 7);
	assert_true(sim_swap_out(&machine.host, 0));
	assert_int_equal(sim_host_ops.page_get(&machine.host, sim_hva(0), flags, &page), -EAGAIN);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	assert_int_equal(sim_host_ops.page_get(&machine.host, sim_hva(0), flags, &page), 0);
	sim_host_ops.page_put(&machine.host, &page, QUIRE_PAGE_UNUSED);
	vm_end();
}

static void test_migration(void **state)
{
	uint32_t before;

	(void)state;
	begin(1, 0);
	store_backed(0, 7);
	before = frame_number(0);
	assert_true(sim_migrate(&machine.host, 0));
	leaves_are(0, 0, 0);
	assert_int_equal(load(0), 7);
	store_backed(0, 8);
	is_untouched(before);
	vm_end();
}

/* Small pages become a huge one: the leaves go, and one comes back. */
static void test_collapse(void **state)
{
	(void)state;
	begin_small(0);
	for (uint32_t i = 0; i < SIM_BLOCK; i += 7)
		store_backed(i, (uint8_t)i);
	leaves_are(0, 0, 74);
	assert_true(sim_collapse(&machine.host, 0));
	leaves_are(0, 0, 0);
	for (uint32_t i = 0; i < SIM_BLOCK; i++)
		assert_int_equal(load(i), i % 7 ? 0 : (uint8_t)i);
	leaves_are(0, 1, 0);
	store_backed(3, 1);
	vm_end();
}

/* Not while the slot logs; when it stops, it can be. */
static void test_collapse_while_logging(void **state)
{
	(void)state;
	begin_small(QUIRE_SLOT_LOG_DIRTY);
	store_backed(5, 5);
	assert_true(sim_collapse(&machine.host, 0));
	store_backed(5, 6);
	leaves_are(0, 0, 1);
	add_slot(0, SIM_BLOCK, 0);
	leaves_are(0, 1, 0);
	assert_int_equal(load(5), 6);
	vm_end();
}

/* The host's own mapping becomes small, of the same frames; and huge again. */
static void test_split(void **state)
{
	uint32_t before;

	(void)state;
	begin_huge(0);
	store_backed(5, 5);
	before = frame_number(5);
	assert_true(sim_split(&machine.host, 0));
	leaves_are(0, 0, 0);
	assert_int_equal(load(5), 5);
	assert_int_equal(frame_number(5), before);
	leaves_are(0, 0, 1);
	assert_true(sim_collapse(&machine.host, 0));
	assert_int_equal(load(5), 5);
	leaves_are(0, 1, 0);
	vm_end();
}

/* Two pages alike share a frame, read-only, until one of them is written. */
static void test_merge(void **state)
{
	uint32_t twin;

	(void)state;
	begin(2, 0);
	store_backed(0, 7);
	store_backed(1, 7);
	twin = frame_number(1);
	assert_true(sim_merge(&machine.host, 0, 1));
	leaves_are(0, 0, 0);
	is_untouched(twin);
	assert_int_equal(load(0), 7);
	assert_int_equal(load(1), 7);
	assert_false(writable_at(0) || writable_at(1));
	assert_int_equal(frame_of(0)->references, 2);
	/* The copy takes the entry of the shared frame away, and only that. */
	store_backed(1, 8);
	assert_int_equal(load(0), 7);
	assert_int_not_equal(frame_number(0), frame_number(1));
	leaves_are(0, 0, 2);
	assert_true(writable_at(1));
	/* The last one needs no copy, nor a notice: its entry gets W in place. */
	assert_false(writable_at(0));
	store_backed(0, 9);
	assert_true(writable_at(0));
	assert_int_equal(load(1), 8);
	vm_end();
}

static void test_merge_of_a_part(void **state)
{
	(void)state;
	begin_huge(0);
	store_backed(5, 7);
	store_backed(6, 7);
	assert_true(sim_merge(&machine.host, 5, 6));
	leaves_are(0, 0, 0);
	store_backed(6, 8);
	assert_int_equal(load(5), 7);
	assert_int_equal(load(7), 0);
	leaves_are(0, 0, 3);
	vm_end();
}

/* A copy that cannot be made: the write fails, the reader keeps its entry. */
static void test_copy_fails(void **state)
{
	(void)state;
	begin(2, 0);
	store_backed(0, 7);
	store_backed(1, 7);
	assert_true(sim_merge(&machine.host, 0, 1));
	assert_int_equal(load(0), 7);
	machine.host.fail_at = machine.host.allocations + 1;
	assert_int_equal(fault_at(0, WRITE | QUIRE_PFERR_PRESENT), -ENOMEM);
	machine.host.fail_at = 0;
	assert_int_equal(frame_number(0), frame_number(1));
	leaves_are(0, 0, 1);
	store_backed(0, 8);
	assert_int_equal(load(1), 7);
	vm_end();
}

/* Memory that was never touched: one page of zeros for all readers, one of its own for a writer. */
static void test_zero_page(void **state)
{
	(void)state;
	vm_begin();
	for (uint32_t i = 0; i < 3; i++)
		sim_map_empty(&machine.host, i, SIM_WRITABLE);
	add_slot(0, 3, 0);
	assert_int_equal(load(0), 0);
	assert_int_equal(load(1), 0);
	assert_int_equal(frame_number(0), frame_number(1));
	assert_false(writable_at(0) || writable_at(1));
	/* The machine's and the two pages': none is the library's. */
	assert_int_equal(frame_of(0)->references, 3);
	store_backed(1, 7);
	assert_true(writable_at(1));
	assert_int_equal(load(0), 0);
	store_backed(2, 8);
	assert_int_equal(load(0), 0);
	assert_int_equal(frame_of(0)->references, 2);
	vm_end();
}

static uint64_t harvest(void)
{
	(void)log_harvest(0);
	return log_bits[0];
}

/* What was written before a page went away is in the log; what is written after it came, too. */
static void test_log(void **state)
{
	(void)state;
	begin(4, QUIRE_SLOT_LOG_DIRTY);
	for (uint32_t i = 0; i < 4; i++)
		store_backed(i, 7);
	assert_int_equal(harvest(), 0xf);
	store_backed(0, 8);
	assert_true(sim_swap_out(&machine.host, 0));
	assert_true(sim_migrate(&machine.host, 1));
	assert_true(sim_merge(&machine.host, 2, 3));
	assert_int_equal(harvest(), 1);
	store_backed(1, 8);
	store_backed(3, 8);
	assert_int_equal(load(2), 7);
	assert_int_equal(harvest(), 0xa);
	vm_end();
}

/* An invalidation may reach to the end of the address space. */
static void test_all_that_follows(void **state)
{
	(void)state;
	begin(4, 0);
	for (uint32_t page = 0; page < 4; page++)
		store_backed(page, 7);
	for (uint64_t end = UINT64_MAX; end; end = end == UINT64_MAX ? UINT64_MAX - 4095 : 0) {
		store_backed(2, 8);
		store_backed(3, 8);
		quire_vm_host_invalidate_begin(machine.vm, sim_hva(2), (hva_t){end});
		quire_vm_host_invalidate_end(machine.vm, sim_hva(2), (hva_t){end});
		leaves_are(0, 0, 2);
		assert_int_equal(level_at(1), QUIRE_LEVEL_4K);
		assert_int_equal(level_at(2), 0);
	}
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_swap),
	    cmocka_unit_test(test_swap_and_the_library),
	    cmocka_unit_test(test_swap_of_a_part),
	    cmocka_unit_test(test_swap_in_fails),
	    cmocka_unit_test(test_not_now),
	    cmocka_unit_test(test_migration),
	    cmocka_unit_test(test_collapse),
	    cmocka_unit_test(test_collapse_while_logging),
	    cmocka_unit_test(test_split),
	    cmocka_unit_test(test_merge),
	    cmocka_unit_test(test_merge_of_a_part),
	    cmocka_unit_test(test_copy_fails),
	    cmocka_unit_test(test_zero_page),
	    cmocka_unit_test(test_log),
	    cmocka_unit_test(test_all_that_follows),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
