/* Changes of slots and attributes for which memory is short: each is refused as a whole, and works
 * afterwards. */
#include <quire/gmem.h>
#include <quire/trace.h>

#include "tests/unit/support.h"

#define SLOT_PAGES 16u
/* No change allocates as often. */
#define FAILS_MAX 40u

static struct quire_region region_at(uint32_t slot, uint64_t gfn, uint32_t flags)
{
	return (struct quire_region){.slot = slot,
				     .flags = flags,
				     .gpa = gpa_of((gfn_t){gfn}),
				     .size_bytes = PAGES(SLOT_PAGES),
				     .hva = sim_hva(slot * SLOT_PAGES)};
}

/* Each allocation of the change fails once; after each failure @unchanged() looks. */
static void each_fails(const struct quire_region *to, void (*unchanged)(void))
{
	for (uint64_t fails = 1; fails < FAILS_MAX; fails++) {
		uint64_t at = machine.host.allocations + fails;
		int err;

		machine.host.fail_at = at;
		err = quire_vm_set_region(machine.vm, to);
		machine.host.fail_at = 0;
		if (!err) {
			assert_true(fails > 1);
			/* Nothing was passed over: the failure was still to come. */
			assert_true(machine.host.allocations < at);
			return;
		}
		assert_int_equal(err, -ENOMEM);
		unchanged();
	}
	fail();
}

static void only_slot_0(void)
{
	store_backed(1, 3);
	assert_int_equal(machine_store(&machine, 0, PAGES(100), 1), QUIRE_EMULATE);
	assert_int_equal(machine_store(&machine, 0, PAGES(200), 1), QUIRE_EMULATE);
}

static void slot_1_is_at_100(void)
{
	store_backed(1, 3);
	store(100, 4);
	assert_int_equal(frame_of(SLOT_PAGES)->bytes[0], 4);
	assert_int_equal(machine_store(&machine, 0, PAGES(200), 1), QUIRE_EMULATE);
}

static void slot_1_is_at_200(void)
{
	store_backed(1, 3);
	store(200, 5);
	assert_int_equal(frame_of(SLOT_PAGES)->bytes[0], 5);
	assert_int_equal(machine_store(&machine, 0, PAGES(100), 1), QUIRE_EMULATE);
}

/* A slot comes, moves, is logged, and goes. */
static void test_without_memory(void **state)
{
	struct quire_region to;

	(void)state;
	vm_begin();
	map_pages(0, 2 * SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, 0);
	to = region_at(1, 100, 0);
	each_fails(&to, only_slot_0);
	slot_1_is_at_100();
	to = region_at(1, 200, 0);
	each_fails(&to, slot_1_is_at_100);
	slot_1_is_at_200();
	to.flags = QUIRE_SLOT_LOG_DIRTY;
	each_fails(&to, slot_1_is_at_200);
	store(203, 1);
	assert_int_equal(log_harvest(1), 1);
	assert_true(log_has(3));
	to.size_bytes = 0;
	each_fails(&to, slot_1_is_at_200);
	only_slot_0();
	vm_end();
}

/* Pages turn private as a whole, or none does. */
static void test_attributes_without_memory(void **state)
{
	uint64_t fails = 0;
	int err;

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, 0);
	do {
		for (uint64_t gfn = 0; gfn < 8; gfn++)
			assert_int_equal(quire_vm_get_attributes(machine.vm, (gfn_t){gfn}), 0);
		store_backed(5, 1);
		machine.host.fail_at = machine.host.allocations + ++fails;
		err = quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){3}), PAGES(4),
					      QUIRE_ATTRIBUTE_PRIVATE);
		machine.host.fail_at = 0;
		assert_true(!err || err == -ENOMEM);
	} while (err);
	assert_true(fails > 1);
	for (uint64_t gfn = 0; gfn < 8; gfn++)
		assert_int_equal(quire_vm_get_attributes(machine.vm, (gfn_t){gfn}),
				 gfn >= 3 && gfn < 7 ? QUIRE_ATTRIBUTE_PRIVATE : 0);
	vm_end();
}

/* What the client has as a file, or why it has none, is said as it is. */
static void test_no_file(void **state)
{
	struct quire_region region = region_at(1, 100, QUIRE_SLOT_GMEM);

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EBADF);
	region.gmem_error = -EPERM;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EPERM);
	assert_int_equal(machine_store(&machine, 0, PAGES(100), 1), QUIRE_EMULATE);
	vm_end();
}

/* A slot's own mappings go in one hold of mmu_lock; all go by their roots in one, and a second
 * one finds no nested guest's. Either way no page is mapped, and one of another slot only where
 * nothing but the slot's own goes. */
static void test_holds_of_a_slot_that_goes(void **state)
{
	struct quire_region gone = {.slot = 1};
	uint64_t flushes;

	(void)state;
	for (int all = 0; all < 2; all++) {
		struct quire_region to = region_at(1, 100, 0);

		vm_begin();
		quire_vm_set_slot_zap_all(machine.vm, all);
		map_pages(0, 2 * SLOT_PAGES, SIM_WRITABLE);
		add_slot(0, SLOT_PAGES, 0);
		assert_int_equal(quire_vm_set_region(machine.vm, &to), 0);
		slot_1_is_at_100();
		flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
		holds_begin();
		assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
		assert_int_equal(holds_end(), all ? 2 : 1);
		/* A vCPU that loads another root flushes by that. */
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes + !all);
		assert_int_equal(level_at(1), all ? 0 : QUIRE_LEVEL_4K);
		vm_end();
	}
}

static uint32_t zaps;

static void count_zap(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	zaps += event == QUIRE_TRACE_kvm_mmu_zap_all_fast;
}

/* Everything is zapped before MMIO entries could take a generation for another one: where an
 * update may reach the last number, and not before. */
static void test_last_generations(void **state)
{
	const uint64_t last = (UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS) - 1;

	(void)state;
	for (uint32_t as = 0; as < 2; as++)
		for (uint64_t ahead = 0; ahead < 12; ahead++) {
			const struct quire_region to = region_at(1, 100, 0);
			uint64_t now = last - ahead;

			/* Those of a space differ by the number of spaces. */
			if (now % 2 != as)
				continue;
			vm_begin();
			zaps = 0;
			machine.vm->slots.active[as]->generation = now;
			quire_trace_install(count_zap);
			assert_int_equal(quire_vm_set_region(machine.vm, &to), 0);
			quire_trace_install(NULL);
			/* Four steps of two. */
			assert_int_equal(zaps, ahead < 8);
			vm_end();
		}
}

/* Two slots show one file: what the second one's binding replaces is given back, as vm_end() sees.
 */
static void test_two_slots_of_a_file(void **state)
{
	struct quire_region region = region_at(1, 100, QUIRE_SLOT_GMEM);
	struct quire_gmem *file;

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(quire_gmem_create(machine.vm, PAGES(2 * SLOT_PAGES), 0, NULL, &file), 0);
	region.gmem = file;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	region.slot = 2;
	region.gpa = gpa_of((gfn_t){200});
	region.hva = sim_hva(2 * SLOT_PAGES);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EEXIST);
	region.gmem_offset_bytes = PAGES(SLOT_PAGES);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	region.size_bytes = 0;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	quire_gmem_release(file);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_memory),
	    cmocka_unit_test(test_attributes_without_memory),
	    cmocka_unit_test(test_no_file),
	    cmocka_unit_test(test_last_generations),
	    cmocka_unit_test(test_two_slots_of_a_file),
	    cmocka_unit_test(test_holds_of_a_slot_that_goes),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
