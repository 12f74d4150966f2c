/* The fast path: W comes back without a lookup, where nothing but the log has taken it. */
#include "tests/unit/support.h"

#include <quire/dirty.h>

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)
#define SLOT_PAGES 8u

static uint64_t fast_faults(void)
{
	return quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast);
}

static void begin(uint32_t slot_flags)
{
	vm_begin();
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, slot_flags);
}

static uint64_t entry_at(uint64_t gfn)
{
	uint32_t level;

	return leaf_at(gfn, &level);
}

static void test_log_takes_and_gives(void **state)
{
	const struct entry_format *f;
	uint64_t before, frozen;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	f = &machine.vm->tdp_format;
	assert_int_equal(fault_at(1, WRITE), QUIRE_FIXED);
	before = entry_at(1);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 2);
	assert_int_equal(entry_at(1), before & ~(f->writable | f->dirty));
	/* The frame's count would tell of a lookup, and so would a frame that is gone. */
	frozen = frame_of(1)->references;
	frame_of(1)->poisoned = true;
	assert_int_equal(fault_at(1, WRITE | PRESENT), QUIRE_FIXED);
	frame_of(1)->poisoned = false;
	assert_int_equal(frame_of(1)->references, frozen);
	assert_int_equal(entry_at(1), before);
	assert_int_equal(fast_faults(), 1);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 2);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 0);
	vm_end();
}

/* Another vCPU was there first; and what is not a write to a present entry is not for it. */
static void test_who_comes(void **state)
{
	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(fault_at(1, WRITE), QUIRE_FIXED);
	assert_int_equal(fault_at(1, WRITE | PRESENT), QUIRE_SPURIOUS);
	(void)log_harvest(0);
	/* It is said to be absent: the slow path decides, unless aging makes leaves look so. */
	assert_int_equal(fault_at(1, WRITE), QUIRE_FIXED);
	assert_int_equal(fault_at(2, WRITE | PRESENT), QUIRE_FIXED);
	assert_int_equal(fast_faults(), entry_ages_by_faults(&machine.vm->tdp_format));
	vm_end();
}

/* Where the host or the slot keeps W away, only the slow path may say more. */
static void test_not_ours_to_give(void **state)
{
	const struct entry_format *f;

	(void)state;
	begin(QUIRE_SLOT_READONLY);
	f = &machine.vm->tdp_format;
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	assert_int_equal(entry_at(1) & (f->mmu_writable | f->host_writable), 0);
	assert_int_equal(fault_at(1, WRITE | PRESENT), QUIRE_EMULATE);
	assert_int_equal(fast_faults(), 0);
	vm_end();

	vm_begin();
	f = &machine.vm->tdp_format;
	map_pages(0, SLOT_PAGES, SIM_DEVICE);
	add_slot(0, SLOT_PAGES, 0);
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	assert_int_equal(entry_at(1) & (f->mmu_writable | f->host_writable), 0);
	assert_int_equal(fault_at(1, WRITE | PRESENT), QUIRE_EMULATE);
	assert_int_equal(fast_faults(), 0);
	vm_end();
}

/* W and the MMU's own permission are off, as for what a nested guest's tables follow: the host's
 * permission alone is not enough. */
static void test_kept_by_the_mmu(void **state)
{
	const struct entry_format *f;
	uint32_t level;
	uint64_t *entry;

	(void)state;
	begin(0);
	f = &machine.vm->tdp_format;
	assert_int_equal(fault_at(1, WRITE), QUIRE_FIXED);
	reclaim_enter();
	entry = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){1}, &level);
	reclaim_leave();
	*entry &= ~(f->writable | f->dirty | f->mmu_writable);
	assert_int_equal(fault_at(1, WRITE | PRESENT), QUIRE_FIXED);
	assert_int_equal(fast_faults(), 0);
	assert_true(entry_at(1) & f->mmu_writable);
	vm_end();
}

/* A slot on its way out gives nothing back: the page is about to go. */
static void test_placeholder(void **state)
{
	struct memslot_update update = {.change = MEMSLOT_DELETE};
	struct quire_memory_fault told;
	uint64_t before;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(fault_at(1, WRITE), QUIRE_FIXED);
	(void)log_harvest(0);
	before = entry_at(1);
	mutex_lock(&machine.vm->slots_lock);
	update.old_slot = memslot_by_id(machine.vm, 0, 0);
	assert_int_equal(memslot_update_prepare(machine.vm, &update), 0);
	memslot_update_begin(machine.vm, &update);
	mutex_unlock(&machine.vm->slots_lock);
	assert_int_equal(
	    quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){1}), WRITE | PRESENT, &told),
	    QUIRE_RETRY);
	assert_int_equal(entry_at(1), before);
	assert_int_equal(fast_faults(), 0);
	mutex_lock(&machine.vm->slots_lock);
	memslot_update_abort(machine.vm, &update);
	mutex_unlock(&machine.vm->slots_lock);
	assert_int_equal(fault_at(1, WRITE | PRESENT), QUIRE_FIXED);
	assert_int_equal(fast_faults(), 1);
	vm_end();
}

/* A huge leaf of a logged slot is split by the slow path: one mark cannot stand for all. */
static void test_huge_and_logged(void **state)
{
	uint32_t level;

	(void)state;
	vm_begin();
	machine.tunables.eager_page_split = 0;
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	assert_int_equal(fault_at(5, WRITE), QUIRE_FIXED);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	assert_true(leaf_at(5, &level) && level == QUIRE_LEVEL_2M);
	assert_int_equal(fault_at(5, WRITE | PRESENT), QUIRE_FIXED);
	assert_int_equal(fast_faults(), 0);
	assert_true(leaf_at(5, &level) && level == QUIRE_LEVEL_4K);
	assert_false(entry_at(6) & machine.vm->tdp_format.writable);
	(void)log_harvest(0);
	assert_int_equal(log_bits[0], 1u << 5);
	/* The children are its own. */
	assert_int_equal(fault_at(6, WRITE | PRESENT), QUIRE_FIXED);
	assert_int_equal(fast_faults(), 1);
	machine.tunables.eager_page_split = 1;
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_log_takes_and_gives), cmocka_unit_test(test_who_comes),
	    cmocka_unit_test(test_not_ours_to_give),	cmocka_unit_test(test_kept_by_the_mmu),
	    cmocka_unit_test(test_placeholder),		cmocka_unit_test(test_huge_and_logged),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
