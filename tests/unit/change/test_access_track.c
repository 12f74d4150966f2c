/* Without A bits: aging takes a leaf's rights, and the next access gets them back. */
#include "tests/unit/support.h"

#include <quire/dirty.h>
#include <quire/gmem.h>

#define INITIALLY_SET 3u
#define GFN UINT64_C(3)

static void begin(uint32_t slot_flags)
{
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, slot_flags);
}

static void begin_huge(void)
{
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
}

static uint64_t fast_faults(void)
{
	return quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast);
}

static uint64_t faults(void)
{
	return quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken);
}

/* The vCPU forgets its translations and looks at the tables again. */
static void flush(void)
{
	quire_vcpu_request(machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
}

static void fetch(uint64_t gfn)
{
	uint8_t value;

	assert_int_equal(machine_fetch(&machine, 0, gfn << QUIRE_PAGE_SHIFT, &value), 0);
}

static int is_young(uint64_t gfn)
{
	return quire_vm_age(machine.vm, sim_hva((uint32_t)gfn), sim_hva((uint32_t)gfn + 1),
			    QUIRE_AGE_TEST);
}

/* Age it; it was young. */
static void age(uint64_t gfn)
{
	assert_true(quire_vm_age(machine.vm, sim_hva((uint32_t)gfn), sim_hva((uint32_t)gfn + 1),
				 QUIRE_AGE_CLEAR));
	assert_false(is_young(gfn));
}

static uint64_t leaf(uint64_t gfn)
{
	uint32_t level;

	return leaf_at(gfn, &level);
}

/* Bits 0 to 2 of the leaf: R, W and X; and those that wait at 52 and 54. */
static unsigned int rights(uint64_t gfn)
{
	return leaf(gfn) & 7;
}

static unsigned int waiting(uint64_t gfn)
{
	return leaf(gfn) >> 52 & 5;
}

#define R 1u
#define W 2u
#define X 4u

/* Each access brings back what it needs: R and X, and W with a write alone. */
static void test_use_gives_back(void **state)
{
	uint64_t before;
	uint32_t references;

	(void)state;
	begin(0);
	store(GFN, 1);
	before = leaf(GFN);
	assert_int_equal(rights(GFN), R | W | X);
	references = frame_of((uint32_t)GFN)->references;
	/* From here on a lookup would find that the page is gone. */
	frame_of((uint32_t)GFN)->poisoned = true;
	age(GFN);
	assert_int_equal(rights(GFN), 0);
	assert_int_equal(waiting(GFN), R | X);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 1);
	/* No flush: the vCPU goes on with what it has, without a fault. */
	store(GFN, 1);
	assert_int_equal(faults(), 1);
	assert_false(is_young(GFN));
	flush();
	(void)load(GFN);
	assert_true(is_young(GFN));
	assert_int_equal(rights(GFN), R | X);
	assert_int_equal(waiting(GFN), 0);
	store(GFN, 1);
	assert_int_equal(leaf(GFN), before);
	assert_int_equal(fast_faults(), 2);
	age(GFN);
	flush();
	store(GFN, 1);
	assert_int_equal(leaf(GFN), before);
	assert_int_equal(fast_faults(), 3);
	age(GFN);
	flush();
	fetch(GFN);
	assert_int_equal(rights(GFN), R | X);
	assert_int_equal(fast_faults(), 4);
	assert_int_equal(frame_of((uint32_t)GFN)->references, references);
	frame_of((uint32_t)GFN)->poisoned = false;
	vm_end();
}

/* A right that never was does not come back: the slot's W, the workaround's X. */
static void test_gives_no_more(void **state)
{
	(void)state;
	begin(QUIRE_SLOT_READONLY);
	(void)load(GFN);
	age(GFN);
	flush();
	assert_int_equal(fault_at(GFN, QUIRE_PFERR_WRITE), QUIRE_EMULATE);
	assert_int_equal(rights(GFN) & W, 0);
	(void)load(GFN);
	assert_int_equal(rights(GFN), R | X);
	vm_end();

	begin_huge();
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	store(GFN, 1);
	age(GFN);
	assert_int_equal(waiting(GFN), R);
	flush();
	(void)load(GFN);
	assert_int_equal(rights(GFN), R);
	age(GFN);
	flush();
	/* A fetch splits the old huge leaf: its children are old and may execute. */
	fetch(GFN);
	assert_int_equal(level_at(GFN), QUIRE_LEVEL_4K);
	assert_int_equal(rights(GFN) & (R | X), R | X);
	assert_int_equal(rights(GFN + 1), 0);
	assert_int_equal(waiting(GFN + 1), R | X);
	assert_false(is_young(GFN + 1));
	fetch(GFN + 1);
	assert_int_equal(rights(GFN + 1), R | X);
	store(GFN + 2, 1);
	assert_int_equal(rights(GFN + 2), R | W | X);
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), 1);
	vm_end();
}

/* What was populated before any access is old from the start, and clean. */
static void test_prefault(void **state)
{
	uint64_t done;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	for (uint64_t gfn = 0; gfn < 2; gfn++)
		assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], gpa_of((gfn_t){gfn}),
						     QUIRE_PAGE_SIZE, &done),
				 0);
	assert_int_equal(rights(0), 0);
	assert_int_equal(waiting(0), R | X);
	assert_false(is_young(0));
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 0);
	(void)load(0);
	store(1, 1);
	assert_int_equal(rights(0), R | X);
	assert_int_equal(rights(1), R | W | X);
	assert_int_equal(fast_faults(), 2);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 2);
	/* Of a leaf that is old nothing more is wanted. */
	age(0);
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){0}, QUIRE_PAGE_SIZE, &done),
			 0);
	assert_int_equal(rights(0), 0);
	vm_end();
}

/* The vCPU keeps a W that the entry has lost: a harvest must not let it. */
static void test_log_sees_every_write(void **state)
{
	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	store(GFN, 1);
	age(GFN);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 1u << GFN);
	store(GFN, 1);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 1u << GFN);
	/* The same when a use has given R back meanwhile: W is as far away. */
	store(GFN, 1);
	age(GFN);
	assert_int_equal(fault_at(GFN, 0), QUIRE_FIXED);
	assert_int_equal(rights(GFN), R | X);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 1u << GFN);
	store(GFN, 1);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 1u << GFN);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 0);
	vm_end();
}

/* An old huge leaf, and a log in which all is dirty from the start. */
static void test_clear_on_huge(void **state)
{
	(void)state;
	machine.tunables.eager_page_split = 0;
	begin_huge();
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, INITIALLY_SET), 0);
	store(GFN, 1);
	age(GFN);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	log_clear(0, 64, UINT64_C(1) << GFN);
	assert_int_equal(level_at(GFN), QUIRE_LEVEL_2M);
	store(GFN, 1);
	assert_int_equal(level_at(GFN), QUIRE_LEVEL_4K);
	assert_int_equal(rights(GFN), R | W | X);
	assert_int_equal(waiting(GFN + 1), R | X);
	(void)log_harvest(0);
	assert_true(log_bits[0] >> GFN & 1);
	machine.tunables.eager_page_split = 1;
	vm_end();
}

/* Logging splits an old leaf into old ones; its end makes one young leaf of them. */
static void test_split_and_recover(void **state)
{
	(void)state;
	begin_huge();
	store(GFN, 1);
	age(GFN);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), SIM_BLOCK);
	for (uint64_t gfn = 0; gfn < SIM_BLOCK; gfn++) {
		assert_int_equal(rights(gfn), 0);
		assert_int_equal(waiting(gfn), R | X);
	}
	flush();
	(void)load(1);
	store(2, 1);
	assert_int_equal(fast_faults(), 2);
	assert_int_equal(rights(1), R | X);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 4);
	assert_int_equal(rights(2), R | X);
	add_slot(0, SIM_BLOCK, 0);
	assert_int_equal(level_at(0), QUIRE_LEVEL_2M);
	assert_int_equal(rights(0), R | W | X);
	assert_int_equal(waiting(0), 0);
	vm_end();
}

/* A private leaf may be aged by the address of its slot: the slow path gives its rights back. */
static void test_private(void **state)
{
	struct quire_gmem *gmem;
	struct quire_region region = {.slot = 1,
				      .flags = QUIRE_SLOT_GMEM,
				      .gpa = gpa_of((gfn_t){0}),
				      .size_bytes = 8 * QUIRE_PAGE_SIZE,
				      .hva = sim_hva(0)};

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(quire_gmem_create(machine.vm, 8 * QUIRE_PAGE_SIZE, 0, NULL, &gmem), 0);
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_int_equal(quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){0}),
						 8 * QUIRE_PAGE_SIZE, QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	store(GFN, 1);
	age(GFN);
	flush();
	(void)load(GFN);
	assert_int_equal(rights(GFN) & (R | X), R | X);
	store(GFN, 1);
	assert_int_equal(rights(GFN), R | W | X);
	assert_int_equal(fast_faults(), 0);
	quire_gmem_release(gmem);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_use_gives_back), cmocka_unit_test(test_gives_no_more),
	    cmocka_unit_test(test_prefault),	   cmocka_unit_test(test_log_sees_every_write),
	    cmocka_unit_test(test_clear_on_huge),  cmocka_unit_test(test_split_and_recover),
	    cmocka_unit_test(test_private),
	};
	int failed;

	machine_init(&machine);
	machine.format = QUIRE_FORMAT_EPT_NO_AD;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	machine_destroy(&machine);
	return failed;
}
