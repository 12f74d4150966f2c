/* All of a vCPU's counters after each kind of fault, entry and prefault: none is left out. */
#include "tests/unit/support.h"

#include <quire/gmem.h>

#include "src/base/lock.h"
#include "src/tdp/tdp.h"
#include "src/tlb/flush.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)
#define RSVD (PRESENT | QUIRE_PFERR_RSVD)
#define SLOT_PAGES 8u
#define MMIO_GFN 100u

/* The counters that grow by one; all others stay. */
#define COUNTS(name) (1u << QUIRE_VCPU_STAT_##name)
#define NOTHING 0u

static uint64_t before[QUIRE_VCPU_STAT_COUNT];
static struct quire_memory_fault told;

static void counts_begin(void)
{
	for (int i = 0; i < QUIRE_VCPU_STAT_COUNT; i++)
		before[i] = quire_vcpu_stat(machine.vcpus[0], (enum quire_vcpu_stat)i);
}

static void counts_are(uint32_t wanted)
{
	for (int i = 0; i < QUIRE_VCPU_STAT_COUNT; i++)
		assert_int_equal(quire_vcpu_stat(machine.vcpus[0], (enum quire_vcpu_stat)i),
				 before[i] + (wanted >> i & 1));
}

static int enter(uint64_t *requests)
{
	struct quire_stage2 stage2;
	int ret = quire_vcpu_enter(machine.vcpus[0], requests, &stage2);

	if (!ret)
		quire_vcpu_leave(machine.vcpus[0]);
	return ret;
}

static void begin(uint32_t slot_flags)
{
	uint64_t requests;

	vm_begin();
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, slot_flags);
	assert_int_equal(enter(&requests), 0);
}

/* One attempt, what it says, and what it counts. */
static void check_fault(uint64_t gfn, uint64_t error, int outcome, uint32_t counts)
{
	counts_begin();
	memset(&told, 0xff, sizeof(told));
	assert_int_equal(quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){gfn}), error, &told),
			 outcome);
	counts_are(counts);
}

static void test_memory(void **state)
{
	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	check_fault(1, WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	check_fault(1, WRITE, QUIRE_SPURIOUS, COUNTS(pf_taken) | COUNTS(pf_spurious));
	check_fault(1, WRITE | PRESENT, QUIRE_SPURIOUS, COUNTS(pf_taken) | COUNTS(pf_spurious));
	(void)log_harvest(0);
	check_fault(1, WRITE | PRESENT, QUIRE_FIXED,
		    COUNTS(pf_taken) | COUNTS(pf_fixed) | COUNTS(pf_fast));
	vm_end();
}

/* What is no memory is emulated: at first by the tables' way, then by what was found before. */
static void test_no_memory(void **state)
{
	uint32_t created;

	(void)state;
	begin(0);
	created = machine.vm->mmio_entries ? COUNTS(pf_mmio_spte_created) : NOTHING;
	for (uint64_t gfn = MMIO_GFN; gfn < MMIO_GFN + 2; gfn++)
		check_fault(gfn, 0, QUIRE_EMULATE, COUNTS(pf_taken) | COUNTS(pf_emulate) | created);
	check_fault(MMIO_GFN + 1, RSVD, QUIRE_EMULATE, NOTHING);
	if (created) {
		check_fault(MMIO_GFN, RSVD, QUIRE_EMULATE, NOTHING);
		/* As KVM counts: the same entry is made once more. */
		check_fault(MMIO_GFN, 0, QUIRE_EMULATE,
			    COUNTS(pf_taken) | COUNTS(pf_emulate) | created);
	}
	/* The last page that an entry reaches, and the first behind it. */
	check_fault(machine.vm->max_gfn.v, 0, QUIRE_EMULATE,
		    COUNTS(pf_taken) | COUNTS(pf_emulate) | created);
	check_fault(MMIO_GFN, 0, QUIRE_EMULATE, COUNTS(pf_taken) | COUNTS(pf_emulate) | created);
	if (created)
		check_fault(machine.vm->max_gfn.v, RSVD, QUIRE_EMULATE, NOTHING);
	check_fault(machine.vm->max_gfn.v + 1, 0, QUIRE_EMULATE,
		    COUNTS(pf_taken) | COUNTS(pf_emulate));
	vm_end();

	begin(QUIRE_SLOT_READONLY);
	check_fault(1, WRITE, QUIRE_EMULATE, COUNTS(pf_taken) | COUNTS(pf_emulate));
	vm_end();
}

static void test_errors(void **state)
{
	(void)state;
	begin(0);
	check_fault(1, WRITE | QUIRE_PFERR_PRIVATE, -EFAULT, COUNTS(pf_taken));
	assert_int_equal(told.size_bytes, QUIRE_PAGE_SIZE);
	frame_of(1)->poisoned = true;
	check_fault(1, 0, -EHWPOISON, COUNTS(pf_taken));
	assert_int_equal(told.size_bytes, 0);
	frame_of(1)->poisoned = false;
	machine.host.pages[3].flags |= SIM_SLOW;
	check_fault(3, QUIRE_PFERR_NOWAIT, -EAGAIN, COUNTS(pf_taken));
	assert_int_equal(told.hva.v, sim_hva(3).v);
	assert_int_equal(told.gpa.v, PAGES(3));
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(2));
	check_fault(1, 0, QUIRE_RETRY, COUNTS(pf_taken));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(2));
	machine.vm->dead = 1;
	check_fault(1, 0, -EIO, NOTHING);
	machine.vm->dead = 0;
	vm_end();
}

/* Without an access of the guest's: a page that came counts as fixed, a prefault not at all. */
static void test_without_an_access(void **state)
{
	uint64_t done = 0;

	(void)state;
	begin(0);
	counts_begin();
	quire_vcpu_page_ready(machine.vcpus[0], gpa_of((gfn_t){1}), WRITE);
	counts_are(COUNTS(pf_fixed));
	counts_begin();
	quire_vcpu_page_ready(machine.vcpus[0], gpa_of((gfn_t){1}), WRITE);
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], gpa_of((gfn_t){2}), 1, &done), 0);
	assert_int_equal(done, 1);
	counts_are(NOTHING);
	assert_true(level_at(2));
	counts_begin();
	quire_vcpu_page_ready(machine.vcpus[0], gpa_of((gfn_t){SLOT_PAGES}), WRITE);
	counts_are(machine.vm->mmio_entries ? COUNTS(pf_mmio_spte_created) : NOTHING);
	vm_end();
}

/* A prefault covers what is left of the mapping; a page that is lost is told, until the next. */
static void test_prefault(void **state)
{
	struct quire_vcpu *vcpu;
	uint64_t done = 0;

	(void)state;
	begin(0);
	vcpu = machine.vcpus[0];
	assert_int_equal(quire_vcpu_prefault(vcpu, (gpa_t){PAGES(1) + 0x123}, PAGES(4), &done), 0);
	assert_int_equal(done, QUIRE_PAGE_SIZE - 0x123);
	frame_of(2)->poisoned = true;
	assert_int_equal(quire_vcpu_prefault(vcpu, (gpa_t){PAGES(2)}, PAGES(1), &done), -EHWPOISON);
	assert_int_equal(quire_vcpu_lost_page(vcpu).v, sim_hva(2).v);
	frame_of(2)->poisoned = false;
	machine.vm->dead = 1;
	assert_int_equal(quire_vcpu_prefault(vcpu, (gpa_t){PAGES(2)}, PAGES(1), &done), -EIO);
	assert_int_equal(quire_vcpu_lost_page(vcpu).v, 0);
	machine.vm->dead = 0;
	vm_end();
}

/* An entry that drops the TLB counts as one flush, for whatever reason it does. */
static void test_entries(void **state)
{
	static const uint64_t raised[] = {QUIRE_REQ_TLB_FLUSH, QUIRE_REQ_RELOAD};
	uint64_t requests;

	(void)state;
	begin(0);
	counts_begin();
	assert_int_equal(enter(&requests), 0);
	assert_int_equal(requests, 0);
	counts_are(NOTHING);
	for (uint32_t i = 0; i < 2; i++) {
		counts_begin();
		quire_vcpu_request(machine.vcpus[0], raised[i]);
		assert_int_equal(enter(&requests), 0);
		assert_true(requests & QUIRE_REQ_TLB_FLUSH);
		counts_are(COUNTS(tlb_flush));
		assert_int_equal(*quire_vcpu_doorbell(machine.vcpus[0]), 0);
	}
	counts_begin();
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], 1), 0);
	assert_int_equal(enter(&requests), 0);
	counts_are(COUNTS(tlb_flush));
	vm_end();
}

static struct quire_platform waiting;
static struct table_cache hog;

/* Guest mode opens again, and meanwhile the root went and there is no memory for another. */
static void open_without_memory(const uint32_t *word, uint32_t value)
{
	struct arena *arena = &machine.vm->arena;

	(void)word;
	(void)value;
	flush_domain_open(&machine.vm->flush);
	quire_platform_install(&sched_platform);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	table_cache_drain(&machine.vcpus[0]->tables, arena);
	while (arena->free_count)
		assert_int_equal(table_cache_fill(&hog, arena, hog.count + 1), 0);
	machine.host.fail_at = machine.host.allocations + 1;
}

/* An entry that took requests and fails gives them back: the next one that succeeds flushes. */
static void test_entry_fails(void **state)
{
	uint64_t requests = 0;

	(void)state;
	begin(0);
	check_fault(1, WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	biglock_write_lock(&machine.vm->mmu_lock);
	assert_true(flush_domain_close(&machine.vm->flush));
	biglock_write_unlock(&machine.vm->mmu_lock);
	quire_vcpu_request(machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
	waiting = sched_platform;
	waiting.wait = open_without_memory;
	quire_platform_install(&waiting);
	hog = (struct table_cache){0};
	counts_begin();
	assert_int_equal(enter(&requests), -ENOMEM);
	counts_are(NOTHING);
	assert_true(*quire_vcpu_doorbell(machine.vcpus[0]) & QUIRE_REQ_TLB_FLUSH);
	machine.host.fail_at = 0;
	table_cache_drain(&hog, &machine.vm->arena);
	assert_int_equal(enter(&requests), 0);
	assert_true(requests & QUIRE_REQ_TLB_FLUSH);
	counts_are(COUNTS(tlb_flush));
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_memory),	cmocka_unit_test(test_no_memory),
	    cmocka_unit_test(test_errors),	cmocka_unit_test(test_without_an_access),
	    cmocka_unit_test(test_prefault),	cmocka_unit_test(test_entries),
	    cmocka_unit_test(test_entry_fails),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
