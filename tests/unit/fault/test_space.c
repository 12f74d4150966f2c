/* A vCPU that changes its address space: which memory it sees, and what it keeps. */
#include "tests/unit/support.h"

#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/place.h>

#define OTHER_PAGE 8u /* of the client's, at gfn 0 of space 1 */
#define SLOT_PAGES 4u

static uint64_t log_word;

/* Space 0 shows pages 0 to 3, space 1 pages 8 to 11. */
static void begin(uint32_t flags)
{
	struct quire_region other = {.slot = 1u << 16,
				     .flags = flags,
				     .size_bytes = PAGES(SLOT_PAGES),
				     .hva = sim_hva(OTHER_PAGE)};

	vm_begin();
	map_pages(0, OTHER_PAGE + SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, flags);
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
}

static void go_to(uint32_t space)
{
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], space), 0);
}

static uint64_t requests_of_entry(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(machine.vcpus[0], &requests, &stage2), 0);
	quire_vcpu_leave(machine.vcpus[0]);
	return requests;
}

static int take(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	if (!offset_bytes && size_bytes >= sizeof(log_word))
		memcpy(&log_word, src, sizeof(log_word));
	return 0;
}

static uint64_t get_log(uint32_t slot)
{
	log_word = 0;
	assert_int_equal(quire_vm_get_dirty_log(machine.vm, slot, take, NULL), 0);
	return log_word;
}

/* The machine keeps translations until it is told to flush: it is, both ways. */
static void test_accesses(void **state)
{
	(void)state;
	begin(0);
	store(1, 5);
	go_to(1);
	assert_int_equal(load(1), 0);
	store(1, 6);
	go_to(0);
	assert_int_equal(load(1), 5);
	assert_int_equal(frame_of(1)->bytes[0], 5);
	assert_int_equal(frame_of(OTHER_PAGE + 1)->bytes[0], 6);
	vm_end();
}

/* Each space keeps its root: back in it, what was mapped is mapped. */
static void test_roots_stay(void **state)
{
	uint64_t taken;

	(void)state;
	begin(0);
	store(1, 5);
	go_to(1);
	store(1, 6);
	taken = quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken);
	for (int turn = 0; turn < 3; turn++) {
		go_to(0);
		assert_int_equal(load(1), 5);
		go_to(1);
		assert_int_equal(load(1), 6);
	}
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken), taken);
	leaves_are(0, 0, 2);
	vm_end();
}

/* The one that it has is no change; there and back without an entry is one. */
static void test_flushes(void **state)
{
	(void)state;
	begin(0);
	store(1, 5);
	requests_of_entry();
	go_to(0);
	assert_false(requests_of_entry() & QUIRE_REQ_TLB_FLUSH);
	go_to(1);
	assert_true(requests_of_entry() & QUIRE_REQ_TLB_FLUSH);
	assert_false(requests_of_entry() & QUIRE_REQ_TLB_FLUSH);
	go_to(0);
	go_to(1);
	assert_true(requests_of_entry() & QUIRE_REQ_TLB_FLUSH);
	vm_end();
}

/* A change of one space's slots while the vCPU is in the other. */
static void test_slot_goes(void **state)
{
	uint8_t byte;

	(void)state;
	begin(0);
	store(1, 5);
	go_to(1);
	store(1, 6);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	assert_int_equal(load(1), 6);
	go_to(0);
	assert_int_equal(machine_load(&machine, 0, PAGES(1), &byte), QUIRE_EMULATE);
	go_to(1);
	assert_int_equal(load(1), 6);
	vm_end();
}

/* The hypervisor's accesses go with the vCPU; a page in its hands does not. */
static void test_own_accesses(void **state)
{
	struct quire_place *place;
	struct quire_map map;
	uint8_t byte = 7;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_place_create(machine.vcpus[0], &place), 0);
	assert_int_equal(quire_place_set(place, (gpa_t){PAGES(3)}, 1), 0);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){PAGES(2)}, QUIRE_MAP_WRITE, &map),
			 0);
	go_to(1);
	assert_int_equal(quire_vcpu_write(machine.vcpus[0], (gpa_t){PAGES(1)}, &byte, 1), 0);
	assert_int_equal(quire_map_write(machine.vcpus[0], &map, 0, &byte, 1), 0);
	quire_vcpu_unmap(machine.vcpus[0], &map);
	assert_int_equal(quire_place_write(place, 0, &byte, 1), 0);
	assert_int_equal(frame_of(OTHER_PAGE + 1)->bytes[0], 7);
	assert_int_equal(frame_of(1)->bytes[0], 0);
	assert_int_equal(frame_of(2)->bytes[0], 7);
	assert_int_equal(frame_of(3)->bytes[0], 7);
	assert_int_equal(get_log(0), 1u << 2 | 1u << 3);
	assert_int_equal(get_log(1u << 16), 1u << 1);
	quire_place_destroy(place);
	vm_end();
}

/* Writes of the guest are in the log of the slot that it sees. */
static void test_logs(void **state)
{
	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	go_to(1);
	store(2, 1);
	assert_int_equal(get_log(0), 0);
	assert_int_equal(get_log(1u << 16), 1u << 2);
	go_to(0);
	store(3, 1);
	assert_int_equal(get_log(0), 1u << 3);
	assert_int_equal(get_log(1u << 16), 0);
	vm_end();
}

static void note_entry(void *ctx, uint32_t slot, uint64_t offset)
{
	uint64_t *seen = ctx;

	*seen = (uint64_t)slot << 32 | offset;
}

/* In a ring, the space is in the upper half of the slot's number. */
static void test_ring(void **state)
{
	uint64_t seen = 0;

	(void)state;
	machine.rings = 1;
	begin(QUIRE_SLOT_LOG_DIRTY);
	go_to(1);
	store(2, 1);
	machine_read_ring(&machine, 0, note_entry, &seen);
	assert_int_equal(seen, UINT64_C(0x10000) << 32 | 2);
	machine.rings = 0;
	vm_end();
}

static void test_prefault(void **state)
{
	uint64_t done;

	(void)state;
	begin(0);
	go_to(1);
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){PAGES(1)}, PAGES(1), &done),
			 0);
	leaves_are(0, 0, 1);
	store(1, 6);
	leaves_are(0, 0, 1);
	assert_int_equal(frame_of(OTHER_PAGE + 1)->bytes[0], 6);
	vm_end();
}

/* A VM with private memory has one space. */
static void test_no_such_space(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], QUIRE_AS_MAX), -EINVAL);
	assert_int_equal(machine.vcpus[0]->as_id, 0);
	vm_end();
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], 1), -EINVAL);
	assert_int_equal(machine.vcpus[0]->as_id, 0);
	vm_end();
}

/* Where shadow pages serve the guest, the roots of both spaces are kept as well. */
static void test_shadowed(void **state)
{
	uint64_t pages;

	(void)state;
	machine.mmu = QUIRE_MMU_SHADOW;
	begin(0);
	store(1, 5);
	go_to(1);
	store(1, 6);
	pages = stat(QUIRE_VM_STAT_mmu_shadow_pages);
	for (int turn = 0; turn < 3; turn++) {
		go_to(0);
		assert_int_equal(load(1), 5);
		go_to(1);
		assert_int_equal(load(1), 6);
	}
	assert_int_equal(stat(QUIRE_VM_STAT_mmu_shadow_pages), pages);
	machine.mmu = QUIRE_MMU_TDP;
	vm_end();
}

/* A VM that the client gave up: nothing of it goes on, and it can be given back. */
static void test_dead(void **state)
{
	struct quire_stage2 stage2;
	uint64_t requests;
	uint8_t byte;

	(void)state;
	begin(0);
	store(1, 5);
	quire_vm_set_dead(machine.vm);
	assert_true(quire_vm_is_dead(machine.vm));
	assert_int_equal(quire_vcpu_enter(machine.vcpus[0], &requests, &stage2), -EIO);
	assert_int_equal(machine_load(&machine, 1, PAGES(1), &byte), -EIO);
	machine_end_vm(&machine);
	assert_true(machine_is_empty(&machine));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_accesses),	  cmocka_unit_test(test_roots_stay),
	    cmocka_unit_test(test_flushes),	  cmocka_unit_test(test_slot_goes),
	    cmocka_unit_test(test_own_accesses),  cmocka_unit_test(test_logs),
	    cmocka_unit_test(test_ring),	  cmocka_unit_test(test_prefault),
	    cmocka_unit_test(test_no_such_space), cmocka_unit_test(test_dead),
	};
	const struct CMUnitTest shadowed[] = {cmocka_unit_test(test_shadowed)};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0])) +
	       run_formats_x86(shadowed, sizeof(shadowed) / sizeof(shadowed[0]), 0);
}
