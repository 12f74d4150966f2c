/* MMIO entries: cached by generation, and never believed again after a wrap-around. */
#include "tests/unit/support.h"

#include <quire/trace.h>

#include "src/base/reclaim.h"
#include "src/fault/fault.h"
#include "src/tdp/tdp.h"

#define MMIO_GFN 100u

static void test_cached(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_mmio_spte_created),
			 1);
	/* The second access is answered from the entry, without a fault of the slow path. */
	assert_int_equal(fault_at(MMIO_GFN, QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD), QUIRE_EMULATE);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken), 1);
	vm_end();
}

/* The generation of address space 0, as if so many updates had gone by. */
static void set_generation(u64 generation)
{
	machine.vm->slots.active[0]->generation = generation;
}

/* The generations when the tables went. */
static u64 generations_at_zap[2];

static void record_zap(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	if (event != QUIRE_TRACE_kvm_mmu_zap_all_fast)
		return;
	for (u32 as = 0; as < 2; as++)
		generations_at_zap[as] = machine.vm->slots.active[as]->generation;
}

static void test_wrap_around(void **state)
{
	u64 last = (UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS) - 2;
	uint32_t level;

	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 4, 0);
	quire_vm_set_slot_zap_all(machine.vm, 0);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	/* A write of flags keeps the tables and makes a new generation, here the first of a round.
	 */
	set_generation(last);
	quire_trace_install(record_zap);
	add_slot(0, 4, QUIRE_SLOT_LOG_DIRTY);
	quire_trace_install(NULL);
	/* Before a number of the new round was there to be seen. */
	assert_int_equal(generations_at_zap[0], last);
	assert_true(machine.vm->slots.active[0]->generation > last);
	assert_int_equal(leaf_at(MMIO_GFN, &level), 0);
	assert_int_equal(machine.vm->roots.valid[0] == NULL, 1);
	vm_end();
}

/* The round of the second address space counts as well. */
static void test_wrap_around_elsewhere(void **state)
{
	u64 last = (UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS) - 2;
	struct quire_region region = {
	    .slot = 1u << 16, .size_bytes = QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 4, 0);
	quire_vm_set_slot_zap_all(machine.vm, 0);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	region.flags = QUIRE_SLOT_LOG_DIRTY;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_non_null(machine.vm->roots.valid[0]);
	machine.vm->slots.active[1]->generation = last | 1;
	region.flags = 0;
	quire_trace_install(record_zap);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	quire_trace_install(NULL);
	assert_int_equal(generations_at_zap[1], last | 1);
	assert_null(machine.vm->roots.valid[0]);
	vm_end();
}

/* One attempt, without what fault_at() does around it. */
static int fault_once(uint64_t gfn, uint64_t error)
{
	struct quire_memory_fault fault;

	return quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){gfn}), error, &fault);
}

static uint64_t created(void)
{
	return quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_mmio_spte_created);
}

static uint64_t slow_faults(void)
{
	return quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken);
}

#define RSVD ((uint64_t)QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD)

static uint64_t *entry_of(uint64_t gfn)
{
	uint64_t *entry;
	uint32_t level;

	reclaim_enter();
	entry = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){gfn}, &level);
	reclaim_leave();
	return entry;
}

static void add_other_slot(uint64_t gfn)
{
	struct quire_region region = {.slot = 1,
				      .gpa = gpa_of((gfn_t){gfn}),
				      .size_bytes = QUIRE_PAGE_SIZE,
				      .hva = sim_hva(3)};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

static void begin(void)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 2, 0);
}

/* A new slot elsewhere leaves the entry where it is: its generation says that it is old. */
static void test_stale(void **state)
{
	uint64_t old;

	(void)state;
	begin();
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	old = *entry_of(MMIO_GFN);
	assert_true(entry_is_mmio(&machine.vm->tdp_format, old));
	add_other_slot(MMIO_GFN + 1);
	assert_int_equal(*entry_of(MMIO_GFN), old);
	assert_int_equal(slow_faults(), 1);
	/* The slow path finds out again, and writes the new generation over the old one. */
	assert_int_equal(fault_at(MMIO_GFN, RSVD), QUIRE_EMULATE);
	assert_int_equal(slow_faults(), 2);
	assert_int_equal(created(), 2);
	assert_int_not_equal(*entry_of(MMIO_GFN), old);
	assert_int_equal(fault_at(MMIO_GFN, RSVD), QUIRE_EMULATE);
	assert_int_equal(slow_faults(), 2);
	vm_end();
}

/* The gfn gets memory: neither the entry nor the vCPU's own note is believed. */
static void test_memory_comes(void **state)
{
	(void)state;
	begin();
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	add_other_slot(MMIO_GFN);
	assert_true(entry_is_mmio(&machine.vm->tdp_format, *entry_of(MMIO_GFN)));
	assert_int_equal(fault_at(MMIO_GFN, RSVD), QUIRE_FIXED);
	assert_true(entry_is_present(&machine.vm->tdp_format, *entry_of(MMIO_GFN)));
	/* The place has changed since the vCPU looked: it looks again. */
	assert_int_equal(fault_once(MMIO_GFN, RSVD), QUIRE_RETRY);
	vm_end();
}

/* The vCPU's note answers for the last address without a look at the tables. */
static void test_note(void **state)
{
	(void)state;
	begin();
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(fault_at(MMIO_GFN + 1, 0), QUIRE_EMULATE);
	*entry_of(MMIO_GFN + 1) = machine.vm->tdp_format.nonpresent;
	assert_int_equal(fault_once(MMIO_GFN + 1, RSVD), QUIRE_EMULATE);
	/* Of the other address there is the entry, which makes the note. */
	assert_int_equal(fault_once(MMIO_GFN, RSVD), QUIRE_EMULATE);
	assert_int_equal(fault_once(MMIO_GFN + 1, RSVD), QUIRE_RETRY);
	assert_int_equal(slow_faults(), 2);
	vm_end();
}

/* Where no entry can be: emulated each time, by the slow path. */
static void test_no_entry(void **state)
{
	uint64_t beyond;

	(void)state;
	begin();
	beyond = machine.vm->max_gfn.v + 1;
	assert_int_equal(fault_at(beyond, 0), QUIRE_EMULATE);
	assert_int_equal(created(), 0);
	machine.vm->mmio_entries = 0;
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(created(), 0);
	assert_int_equal(slow_faults(), 3);
	machine.vm->mmio_entries = 1;
	vm_end();
}

/* What was found in slots that have been replaced meanwhile makes no entry. */
static void test_slots_change_meanwhile(void **state)
{
	const struct fault fault = {.gfn = {MMIO_GFN}};
	struct found found = {.generation = 0};

	(void)state;
	begin();
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	found.snapshot = invalidation_snapshot(&machine.vm->invalidation);
	found.generation = memslots_generation(machine.vm, 0) - machine.vm->address_spaces;
	assert_int_equal(fault_no_slot(machine.vcpus[0], &fault, &found), QUIRE_EMULATE);
	assert_int_equal(created(), 0);
	found.generation += machine.vm->address_spaces;
	assert_int_equal(fault_no_slot(machine.vcpus[0], &fault, &found), QUIRE_EMULATE);
	assert_int_equal(created(), 1);
	/* Nor, what may have turned private. */
	found.snapshot--;
	assert_int_equal(fault_no_slot(machine.vcpus[0], &fault, &found), QUIRE_EMULATE);
	assert_int_equal(created(), 1);
	vm_end();
}

/* An address without memory turns private: the entry stays, and is believed while the slots do. */
static void test_turns_private(void **state)
{
	uint8_t byte;

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	map_pages(0, 4, SIM_WRITABLE);
	for (int i = 0; i < 2; i++)
		assert_int_equal(machine_load(&machine, 0, MMIO_GFN << QUIRE_PAGE_SHIFT, &byte),
				 QUIRE_EMULATE);
	assert_int_equal(created(), 1);
	assert_int_equal(quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){MMIO_GFN}),
						 QUIRE_PAGE_SIZE, QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	assert_int_equal(machine_load(&machine, 0, MMIO_GFN << QUIRE_PAGE_SHIFT, &byte),
			 QUIRE_EMULATE);
	add_other_slot(MMIO_GFN + 1);
	assert_int_equal(machine_load(&machine, 0, MMIO_GFN << QUIRE_PAGE_SHIFT, &byte), -EFAULT);
	vm_end();
}

/* Whatever the width of physical addresses, what the tables cannot name is no place for a slot. */
static void test_beyond_the_tables(void **state)
{
	struct quire_region region = {.size_bytes = QUIRE_PAGE_SIZE, .hva = sim_hva(1)};
	struct quire_vm_config config;
	struct quire_vm *vm;

	(void)state;
	begin();
	config = machine.vm->config;
	config.maxphyaddr = 52;
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	region.gpa.v = UINT64_C(1) << machine.vm->tdp_format.gpa_bits;
	assert_int_equal(quire_vm_set_region(vm, &region), -EINVAL);
	region.gpa.v -= QUIRE_PAGE_SIZE;
	assert_int_equal(quire_vm_set_region(vm, &region), 0);
	quire_vm_put(vm);
	vm_end();
}

/* What is found while the slots change is not remembered. */
static void test_update_runs(void **state)
{
	u64 *generation;

	(void)state;
	begin();
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	generation = &machine.vm->slots.active[0]->generation;
	*generation |= MEMSLOTS_UPDATING;
	assert_int_equal(fault_once(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(created(), 0);
	assert_int_equal(fault_once(MMIO_GFN, RSVD), QUIRE_RETRY);
	*generation &= ~MEMSLOTS_UPDATING;
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(created(), 1);
	vm_end();
}

/* A write to a read-only slot is emulated, and its gfn is not remembered as one without memory. */
static void test_read_only(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, QUIRE_SLOT_READONLY);
	assert_int_equal(fault_at(1, QUIRE_PFERR_WRITE), QUIRE_EMULATE);
	assert_int_equal(created(), 0);
	assert_false(machine.vcpus[0]->mmio_valid);
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	vm_end();
}

/* Memory that is there meanwhile is left alone: an MMIO entry takes the place of nothing only. */
static void test_never_over_memory(void **state)
{
	struct flush_debt debt;
	uint64_t leaf;

	(void)state;
	begin();
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	leaf = *entry_of(1);
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_read_lock(&machine.vm->mmu_lock, NULL);
	reclaim_enter();
	assert_int_equal(
	    tdp_map_mmio(machine.vcpus[0], machine.vcpus[0]->root, (gfn_t){1}, 3, &debt), TDP_LOST);
	assert_int_equal(*entry_of(1), leaf);
	assert_int_equal(
	    tdp_map_mmio(machine.vcpus[0], machine.vcpus[0]->root, (gfn_t){9}, 3, &debt), TDP_DONE);
	reclaim_leave();
	biglock_read_unlock(&machine.vm->mmu_lock, NULL);
	assert_int_equal(entry_mmio_generation(&machine.vm->tdp_format, *entry_of(9)), 3);
	vm_end();
}

static uint32_t traced[QUIRE_TRACE_COUNT];

static void count_event(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	traced[event]++;
}

/* An access through an entry is told of: which one, and that it is emulated. */
static void test_traced(void **state)
{
	(void)state;
	begin();
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(fault_at(MMIO_GFN + 1, 0), QUIRE_EMULATE);
	memset(traced, 0, sizeof(traced));
	quire_trace_install(count_event);
	assert_int_equal(fault_at(MMIO_GFN, RSVD), QUIRE_EMULATE);
	quire_trace_install(NULL);
	assert_int_equal(traced[QUIRE_TRACE_check_mmio_spte], 1);
	assert_int_equal(traced[QUIRE_TRACE_handle_mmio_page_fault], 1);
	assert_int_equal(slow_faults(), 2);
	vm_end();
}

/* No entry can be where no table reaches, whatever the fault says: the slow path answers. */
static void test_beyond_all_entries(void **state)
{
	uint64_t beyond;

	(void)state;
	begin();
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	beyond = machine.vm->max_gfn.v + 1;
	assert_int_equal(fault_once(beyond, RSVD), QUIRE_EMULATE);
	assert_int_equal(slow_faults(), 2);
	vm_end();
}

static void enter_once(struct quire_vcpu *vcpu)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(vcpu);
}

/* Another vCPU has made the new tables: what they say is for vCPUs that have entered with them. */
static void test_tables_of_before(void **state)
{
	struct quire_memory_fault told;
	struct quire_vcpu *other;

	(void)state;
	begin();
	/* Memory for a root that is not the old one's. One of several tables would be the same. */
	assert_int_equal(quire_vcpu_create(machine.vm, MACHINE_VCPUS_MAX, NULL, &other), 0);
	enter_once(other);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	assert_null(machine.vm->roots.valid[0]);
	add_slot(0, 2, 0);
	enter_once(other);
	assert_int_equal(quire_vcpu_fault(other, gpa_of((gfn_t){MMIO_GFN}), 0, &told),
			 QUIRE_EMULATE);
	if (entry_root_tables(&machine.vm->tdp_format) == 1)
		assert_int_equal(fault_once(MMIO_GFN, RSVD), QUIRE_RETRY);
	enter_once(machine.vcpus[0]);
	assert_int_equal(fault_once(MMIO_GFN, RSVD), QUIRE_EMULATE);
	quire_vcpu_destroy(other);
	vm_end();
}

static uint64_t counted(enum quire_vcpu_stat which)
{
	return quire_vcpu_stat(machine.vcpus[0], which);
}

/* Each outcome has its counter; one that is the library's own says nothing to the client. */
static void test_outcomes(void **state)
{
	struct quire_memory_fault told = {.size_bytes = 77};
	uint64_t fixed, emulated, spurious;

	(void)state;
	begin();
	fixed = counted(QUIRE_VCPU_STAT_pf_fixed);
	emulated = counted(QUIRE_VCPU_STAT_pf_emulate);
	spurious = counted(QUIRE_VCPU_STAT_pf_spurious);
	assert_int_equal(fault_at(1, QUIRE_PFERR_WRITE), QUIRE_FIXED);
	assert_int_equal(counted(QUIRE_VCPU_STAT_pf_fixed), fixed + 1);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(counted(QUIRE_VCPU_STAT_pf_emulate), emulated + 1);
	assert_int_equal(counted(QUIRE_VCPU_STAT_pf_spurious), spurious);
	assert_int_equal(
	    quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){1}), QUIRE_PFERR_WRITE, &told),
	    QUIRE_SPURIOUS);
	assert_int_equal(told.size_bytes, 0);
	assert_int_equal(counted(QUIRE_VCPU_STAT_pf_spurious), spurious + 1);
	assert_int_equal(counted(QUIRE_VCPU_STAT_pf_fixed), fixed + 1);
	assert_int_equal(counted(QUIRE_VCPU_STAT_pf_emulate), emulated + 1);
	vm_end();
}

static unsigned int reports;

static void note_report(const char *text)
{
	(void)text;
	reports++;
}

/* A reserved bit that the library never sets: said to be an error, and reported. */
static void test_broken_entry(void **state)
{
	uint64_t good, reserved;

	(void)state;
	begin();
	reserved = machine.vm->tdp_format.reserved;
	/* POWER's processors know no reserved bits. */
	if (!reserved) {
		vm_end();
		return;
	}
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	good = *entry_of(1);
	reports = 0;
	sched_on_report(note_report);
	*entry_of(1) = good | (reserved & -reserved);
	assert_int_equal(fault_once(1, RSVD), -EINVAL);
	*entry_of(1) = good;
	sched_on_report(NULL);
	assert_int_equal(reports, 1);
	assert_int_equal(fault_once(1, RSVD), QUIRE_RETRY);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_cached),
	    cmocka_unit_test(test_wrap_around),
	    cmocka_unit_test(test_wrap_around_elsewhere),
	    cmocka_unit_test(test_stale),
	    cmocka_unit_test(test_memory_comes),
	    cmocka_unit_test(test_note),
	    cmocka_unit_test(test_outcomes),
	    cmocka_unit_test(test_no_entry),
	    cmocka_unit_test(test_slots_change_meanwhile),
	    cmocka_unit_test(test_turns_private),
	    cmocka_unit_test(test_beyond_the_tables),
	    cmocka_unit_test(test_update_runs),
	    cmocka_unit_test(test_read_only),
	    cmocka_unit_test(test_traced),
	    cmocka_unit_test(test_beyond_all_entries),
	    cmocka_unit_test(test_tables_of_before),
	    cmocka_unit_test(test_broken_entry),
	    cmocka_unit_test(test_never_over_memory),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
