/* Resets of a dirty ring: each page that was in it is armed again, whatever batch it came in. */
#include <quire/dirty.h>

#include "tests/unit/support.h"

#define SLOT_PAGES 200u

static uint64_t entries;

static void note_entry(void *ctx, uint32_t slot, uint64_t offset)
{
	(void)ctx;
	(void)slot;
	(void)offset;
	entries++;
}

/* The client takes all entries, @want of them, and resets the ring. */
static void harvest(uint32_t want)
{
	entries = 0;
	machine_read_ring(&machine, 0, note_entry, NULL);
	assert_int_equal(entries, want);
	assert_int_equal(quire_vm_reset_dirty_rings(machine.vm, NULL), want);
}

/* Each page is written, harvested and armed, and its next write is in the ring again. */
static void write_and_reset(const uint64_t *gfns, uint32_t count)
{
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < count; i++)
			store(gfns[i], (uint8_t)(round + 1));
		harvest(count);
		for (uint32_t i = 0; i < count; i++)
			assert_false(writable_at(gfns[i]));
	}
}

static void begin(void)
{
	vm_begin();
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, QUIRE_SLOT_LOG_DIRTY);
}

/* Entries of one word of the slot's log are one batch; those of another begin a new one. */
static void test_words(void **state)
{
	static const uint64_t together[] = {1, 2, 63}, apart[] = {1, 70, 2, 128, 199};

	(void)state;
	machine.rings = 1;
	begin();
	write_and_reset(together, 3);
	write_and_reset(apart, 5);
	vm_end();
	machine.rings = 0;
}

/* The same offset in two slots is two pages. */
static void test_slots(void **state)
{
	static const uint64_t gfns[] = {5, 1005, 6, 1006};
	const struct quire_region other = {.slot = 1,
					   .flags = QUIRE_SLOT_LOG_DIRTY,
					   .gpa = gpa_of((gfn_t){1000}),
					   .size_bytes = PAGES(10),
					   .hva = sim_hva(SLOT_PAGES)};

	(void)state;
	machine.rings = 1;
	begin();
	map_pages(SLOT_PAGES, 10, SIM_WRITABLE);
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	write_and_reset(gfns, 4);
	vm_end();
	machine.rings = 0;
}

/* A slot that became shorter, or went, meanwhile: what is no more is passed over. */
static void test_slot_is_another(void **state)
{
	(void)state;
	machine.rings = 1;
	begin();
	store(3, 1);
	store(70, 1);
	store(80, 1);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, 75, QUIRE_SLOT_LOG_DIRTY);
	harvest(3);
	write_and_reset((const uint64_t[]){3, 70, 74}, 3);
	/* The word that holds the last page is a whole one; or it is the slot's no more. */
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, 128, QUIRE_SLOT_LOG_DIRTY);
	write_and_reset((const uint64_t[]){3, 70, 127}, 3);
	store(70, 1);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, 64, QUIRE_SLOT_LOG_DIRTY);
	harvest(1);
	write_and_reset((const uint64_t[]){3, 63}, 2);
	store(3, 1);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	harvest(1);
	vm_end();
	machine.rings = 0;
}

/* The pages behind a slot that became shorter are another slot's: a reset leaves them alone. */
static void test_slot_behind(void **state)
{
	static const uint32_t lengths[] = {1, 63, 64, 75, 127, 128};

	(void)state;
	machine.rings = 1;
	for (uint32_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		const uint32_t npages = lengths[i], first = (npages - 1) / 64 * 64;
		const struct quire_region behind = {.slot = 1,
						    .gpa = gpa_of((gfn_t){npages}),
						    .size_bytes = PAGES(20),
						    .hva = sim_hva(npages)};

		begin();
		store(npages - 1, 1);
		store(npages, 1);
		assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
		add_slot(0, npages, QUIRE_SLOT_LOG_DIRTY);
		assert_int_equal(quire_vm_set_region(machine.vm, &behind), 0);
		store(npages, 1);
		/* The first page of its last word is its own. */
		store(first, 1);
		harvest(3);
		assert_true(writable_at(npages) && !writable_at(first));
		vm_end();
	}
	machine.rings = 0;
}

/* A client that writes an entry anew names another slot or page, and gets nothing armed. */
static void test_no_such_slot(void **state)
{
	static const struct {
		uint32_t slot;
		uint64_t offset;
	} entries_of[] = {
	    {1, 3},	     {QUIRE_USER_SLOTS - 1, 3}, {QUIRE_USER_SLOTS, 3}, {0xffff, 3},
	    {1u << 16, 3},   {QUIRE_AS_MAX << 16, 3},	{0xffffu << 16, 3},    {UINT32_MAX, 3},
	    {0, SLOT_PAGES}, {0, UINT64_MAX},
	};

	(void)state;
	machine.rings = 1;
	for (uint32_t i = 0; i < sizeof(entries_of) / sizeof(entries_of[0]); i++) {
		begin();
		store(3, 1);
		machine.cpus[0].ring[0].slot = entries_of[i].slot;
		machine.cpus[0].ring[0].offset = entries_of[i].offset;
		harvest(1);
		assert_true(writable_at(3));
		vm_end();
	}
	machine.rings = 0;
}

/* A vCPU that got no ring yet: what it writes is in none, and a reset passes it over. */
static void test_without_ring(void **state)
{
	struct quire_memory_fault told;
	struct quire_vcpu *other;
	struct quire_stage2 stage2;
	uint64_t requests;
	uint8_t byte = 1;

	(void)state;
	machine.rings = 1;
	begin();
	assert_int_equal(quire_vcpu_create(machine.vm, MACHINE_VCPUS_MAX, NULL, &other), 0);
	assert_int_equal(quire_vcpu_enter(other, &requests, &stage2), 0);
	quire_vcpu_leave(other);
	assert_int_equal(quire_vcpu_fault(other, gpa_of((gfn_t){7}), QUIRE_PFERR_WRITE, &told),
			 QUIRE_FIXED);
	assert_true(writable_at(7));
	assert_int_equal(quire_vcpu_write(other, gpa_of((gfn_t){8}), &byte, 1), 0);
	assert_false(quire_vcpu_dirty_ring_is_full(other));
	harvest(0);
	/* Those of the others are reset as ever. */
	write_and_reset((const uint64_t[]){3, 70}, 2);
	quire_vcpu_destroy(other);
	vm_end();
	machine.rings = 0;
}

static int calls_left;

static int interrupted(void)
{
	return calls_left-- == 0;
}

/* A signal ends a reset after the entries that were taken, each of which is armed. */
static void test_interrupted(void **state)
{
	(void)state;
	machine.rings = 1;
	for (int taken = 0; taken < 4; taken++) {
		static const uint64_t gfns[] = {3, 70, 71, 199};

		begin();
		for (int i = 0; i < 4; i++)
			store(gfns[i], 1);
		entries = 0;
		machine_read_ring(&machine, 0, note_entry, NULL);
		assert_int_equal(entries, 4);
		calls_left = taken;
		assert_int_equal(quire_vm_reset_dirty_rings(machine.vm, interrupted), taken);
		for (int i = 0; i < 4; i++)
			assert_int_equal(writable_at(gfns[i]), i >= taken);
		calls_left = -1;
		assert_int_equal(quire_vm_reset_dirty_rings(machine.vm, interrupted), 4 - taken);
		for (int i = 0; i < 4; i++)
			assert_false(writable_at(gfns[i]));
		vm_end();
	}
	machine.rings = 0;
}

/* A reset of entries flushes, also where another change has taken W already; one of none does not.
 */
static void test_flushes(void **state)
{
	uint64_t flushes;

	(void)state;
	machine.rings = 1;
	begin();
	assert_int_equal(quire_vm_dirty_ring_bytes(machine.vm), MACHINE_RING_BYTES);
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	harvest(0);
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes);
	store(3, 1);
	add_slot(0, SLOT_PAGES, 0);
	add_slot(0, SLOT_PAGES, QUIRE_SLOT_LOG_DIRTY);
	assert_false(writable_at(3));
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	harvest(1);
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes + 1);
	vm_end();
	machine.rings = 0;
	vm_begin();
	assert_int_equal(quire_vm_dirty_ring_bytes(machine.vm), 0);
	assert_int_equal(quire_vm_reset_dirty_rings(machine.vm, NULL), -EINVAL);
	vm_end();
}

/* Slots of the other address space are armed in its tables. */
static void test_other_space(void **state)
{
	const struct quire_region other = {.slot = 1u << 16,
					   .flags = QUIRE_SLOT_LOG_DIRTY,
					   .size_bytes = PAGES(10),
					   .hva = sim_hva(SLOT_PAGES)};

	(void)state;
	machine.rings = 1;
	begin();
	map_pages(SLOT_PAGES, 10, SIM_WRITABLE);
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	store(3, 1);
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], 1), 0);
	store(3, 2);
	assert_int_equal(machine.cpus[0].ring[1].slot, 1u << 16);
	harvest(2);
	/* Each is written again, and told again. */
	store(3, 3);
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], 0), 0);
	assert_false(writable_at(3));
	store(3, 4);
	harvest(2);
	vm_end();
	machine.rings = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_words),	    cmocka_unit_test(test_slots),
	    cmocka_unit_test(test_slot_is_another), cmocka_unit_test(test_no_such_slot),
	    cmocka_unit_test(test_without_ring),    cmocka_unit_test(test_slot_behind),
	    cmocka_unit_test(test_interrupted),	    cmocka_unit_test(test_flushes),
	    cmocka_unit_test(test_other_space),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
