/* What mappings of the TDP MMU say to a listener, and what goes with them. */
#include "tests/unit/support.h"

#include <quire/trace.h>

static uint64_t requests, request[4];

static void record(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_spte_requested)
		return;
	requests++;
	memcpy(request, args, sizeof(request));
}

static void test_requests_are_traced(void **state)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 5);
	requests = 0;
	quire_trace_install(record);
	store(2, 5);
	quire_trace_install(NULL);
	assert_int_equal(requests, 1);
	assert_int_equal(request[0], 2);
	assert_int_equal(request[1] << QUIRE_PAGE_SHIFT, (uintptr_t)frame_of(2)->bytes);
	assert_int_equal(request[2], QUIRE_LEVEL_4K);
	assert_int_equal(request[3], 0xf); /* read, write, user, execute */
	store(3, 5);
	assert_int_equal(requests, 1);
	vm_end();
}

static uint64_t sets, set[7];

/* In the instant in which the entry is there. */
static void record_set(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_set_spte)
		return;
	sets++;
	memcpy(set, args, sizeof(set));
	assert_int_equal(*(const uint64_t *)(uintptr_t)args[2], args[1]);
}

static void expect_set(uint64_t gfn, uint32_t level, int executable)
{
	assert_int_equal(sets, 1);
	assert_int_equal(set[0], gfn);
	assert_int_equal(set[3], level);
	assert_int_equal(set[4], 1);
	assert_int_equal(set[5], executable);
	assert_int_equal(set[6], 1);
	sets = 0;
}

/* A leaf is told of once, as it is: huge ones cannot be executed while the NX workaround is on. */
static void test_leaves_are_traced(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	sets = 0;
	quire_trace_install(record_set);
	store(3, 5);
	expect_set(3, QUIRE_LEVEL_4K, 1);
	store(SIM_BLOCK + 7, 5);
	expect_set(SIM_BLOCK + 7, QUIRE_LEVEL_2M, 0);
	/* What is there already is not put there again. */
	assert_int_equal(fault_at(3, QUIRE_PFERR_WRITE), QUIRE_SPURIOUS);
	assert_int_equal(sets, 0);
	quire_trace_install(NULL);
	vm_end();
}

static uint64_t gone; /* the gfns of leaves that went, a bit each */

static void record_gone(enum quire_trace_event which, const uint64_t *args)
{
	const struct entry_format *f = &machine.vm->tdp_format;

	if (which != QUIRE_TRACE_kvm_tdp_mmu_spte_changed || args[3] != QUIRE_LEVEL_4K ||
	    !entry_is_present(f, args[1]) || entry_is_present(f, args[2]))
		return;
	assert_in_range(args[0], 0, 63);
	gone |= UINT64_C(1) << args[0];
}

/* Each leaf of tables that go as a whole is told as one that goes alone is. */
static void test_each_leaf_that_goes_is_traced(void **state)
{
	(void)state;
	vm_begin();
	quire_vm_set_slot_zap_all(machine.vm, 1);
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(0, 5);
	store(1, 5);
	store(3, 5);
	gone = 0;
	quire_trace_install(record_gone);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	quire_trace_install(NULL);
	assert_int_equal(gone, 1u << 0 | 1u << 1 | 1u << 3);
	leaves_are(0, 0, 0);
	vm_end();
}

/* The client says whether a slot that goes takes the others' mappings with it. */
static void test_what_goes_with_a_slot(void **state)
{
	const struct quire_region other = {
	    .slot = 1, .gpa = gpa_of((gfn_t){1000}), .size_bytes = PAGES(4), .hva = sim_hva(4)};
	struct quire_region none = {.slot = 1};

	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 4, 0);
	for (int all = 0; all < 2; all++) {
		quire_vm_set_slot_zap_all(machine.vm, all);
		assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
		store(1, 5);
		store(1001, 6);
		assert_int_equal(quire_vm_set_region(machine.vm, &none), 0);
		assert_int_equal(level_at(1), all ? 0 : QUIRE_LEVEL_4K);
		assert_int_equal(level_at(1001), 0);
	}
	vm_end();
}

/* A chunk has 511 tables at most, and each round needs a root, so that a leak shows. */
#define ROUNDS 520u

/* Tables that went are those that come: the VM needs no more memory for it. */
static void test_tables_are_used_again(void **state)
{
	uint64_t chunks = 0;

	(void)state;
	vm_begin();
	quire_vm_set_slot_zap_all(machine.vm, 1);
	map_pages(0, 4, SIM_WRITABLE);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		add_slot(0, 4, 0);
		store(round % 4, 5);
		assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
		chunks = round ? chunks : machine.host.chunks;
		assert_int_equal(machine.host.chunks, chunks);
	}
	vm_end();
}

/* The host lets the guest execute a page later: the leaf gets the right with the next fetch. */
static void test_executable_later(void **state)
{
	const struct entry_format *f;
	uint32_t level;

	(void)state;
	vm_begin();
	f = &machine.vm->tdp_format;
	map_pages(0, 4, SIM_WRITABLE | SIM_NOEXEC);
	add_slot(0, 4, 0);
	store(2, 5);
	assert_false(entry_is_executable(f, leaf_at(2, &level)));
	assert_int_equal(fault_at(2, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRESENT), -EFAULT);
	machine.host.pages[2].flags &= ~(uint32_t)SIM_NOEXEC;
	assert_int_equal(fault_at(2, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRESENT), QUIRE_FIXED);
	assert_true(entry_is_executable(f, leaf_at(2, &level)));
	assert_int_equal(load(2), 5);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_requests_are_traced),
	    cmocka_unit_test(test_leaves_are_traced),
	    cmocka_unit_test(test_each_leaf_that_goes_is_traced),
	    cmocka_unit_test(test_what_goes_with_a_slot),
	    cmocka_unit_test(test_tables_are_used_again),
	    cmocka_unit_test(test_executable_later),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
