/* Faults of a nested guest and of a guest without the TDP MMU: what each counts, tells and asks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/shadow/shadow.h"
#include "src/vm/vcpu.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

/* The counters that grow by one; all others stay. */
#define COUNTS(name) (1u << QUIRE_VCPU_STAT_##name)
#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
/* What a fault tries by itself before it gives the processor back. */
#define ROUNDS 8u
#define OFFSET 0x123u
#define NO_SLOT 5000u

static struct world world;
static struct quire_memory_fault told;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	return 0;
}

/* Guest mode is where the root is loaded; then one fault, which loses what it found if @error
 * says so. */
static int fault_once(uint64_t gpa, uint64_t error)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(world.vcpu);
	memset(&told, 0, sizeof(told));
	return quire_vcpu_fault(world.vcpu, (gpa_t){gpa}, QUIRE_PFERR_USER | error, &told);
}

/* One fault, its outcome, and all of the vCPU's counters. */
static void check_fault(uint64_t gpa, uint64_t error, int outcome, uint32_t counts)
{
	uint64_t before[QUIRE_VCPU_STAT_COUNT];

	for (int i = 0; i < QUIRE_VCPU_STAT_COUNT; i++)
		before[i] = quire_vcpu_stat(world.vcpu, (enum quire_vcpu_stat)i);
	assert_int_equal(fault_once(gpa, error), outcome);
	for (int i = 0; i < QUIRE_VCPU_STAT_COUNT; i++)
		if (i != QUIRE_VCPU_STAT_tlb_flush)
			assert_int_equal(quire_vcpu_stat(world.vcpu, (enum quire_vcpu_stat)i),
					 before[i] + (counts >> i & 1));
}

static void map_l1(uint32_t index, uint64_t gfn)
{
	world_set_entry(&world, TABLE_4K, index, PAGE(gfn) | NPT_ALL);
}

static void invalidate(uint32_t page)
{
	quire_vm_host_invalidate_begin(world.vm, sim_hva(page), sim_hva(page + 1));
}

static void validate(uint32_t page)
{
	quire_vm_host_invalidate_end(world.vm, sim_hva(page), sim_hva(page + 1));
}

static struct sim_frame *frame_of(uint32_t page)
{
	return &world.host.frames[world.host.pages[page].frame];
}

/* Of L2's faults L1's own are counted apart; and what is told is an address of L1's. */
static void test_counts_of_l2(void **state)
{
	(void)state;
	map_l1(1, 70);
	map_l1(2, NO_SLOT);
	map_l1(3, TABLE_4K);
	map_l1(4, 72);
	map_l1(5, 73);
	world_nested(&world, 1);
	(void)world_check(&world, PAGE(1), WORLD_READ);

	check_fault(PAGE(1) + OFFSET, WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	check_fault(PAGE(1) + OFFSET, WRITE, QUIRE_SPURIOUS,
		    COUNTS(pf_taken) | COUNTS(pf_spurious));
	assert_int_equal(told.size_bytes, 0);
	check_fault(PAGE(2) + OFFSET, 0, QUIRE_EMULATE, COUNTS(pf_taken) | COUNTS(pf_emulate));
	assert_int_equal(told.gpa.v, PAGE(NO_SLOT) + OFFSET);
	assert_int_equal(told.size_bytes, 0);
	check_fault(PAGE(3) + OFFSET, WRITE, QUIRE_WRITE_PROTECTED, COUNTS(pf_taken));
	assert_int_equal(told.gpa.v, PAGE(TABLE_4K) + OFFSET);
	check_fault(PAGE(9) + OFFSET, 0, QUIRE_NESTED_FAULT, COUNTS(pf_taken) | COUNTS(pf_guest));
	assert_int_equal(told.gpa.v, PAGE(9) + OFFSET);
	assert_int_equal(told.flags & 0xff, QUIRE_PFERR_USER);

	/* This VM has no private pages: the page of L1's is told, not the byte. */
	check_fault(PAGE(1) + OFFSET, QUIRE_PFERR_PRIVATE, -EFAULT, COUNTS(pf_taken));
	assert_int_equal(told.gpa.v, PAGE(70));
	assert_int_equal(told.size_bytes, QUIRE_PAGE_SIZE);
	assert_int_equal(told.flags, QUIRE_ATTRIBUTE_PRIVATE);

	invalidate(72);
	check_fault(PAGE(4), WRITE, QUIRE_RETRY, COUNTS(pf_taken));
	validate(72);
	frame_of(73)->poisoned = true;
	check_fault(PAGE(5) + OFFSET, WRITE, -EHWPOISON, COUNTS(pf_taken));
	assert_int_equal(told.hva.v, sim_hva(73).v);
	assert_int_equal(told.gpa.v, PAGE(73) + OFFSET);
	frame_of(73)->poisoned = false;
	check_fault(PAGE(5), WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	world_nested(&world, 0);
}

/* A page that the host waits for: L2 has something else to do, and L1's address is told. */
static void test_not_now(void **state)
{
	(void)state;
	map_l1(1, 70);
	sim_unmap(&world.host, 70);
	sim_map(&world.host, 70, SIM_WRITABLE | SIM_SLOW);
	world_nested(&world, 1);
	(void)fault_once(PAGE(9), 0);
	while (fault_once(PAGE(1) + OFFSET, WRITE | QUIRE_PFERR_NOWAIT) == QUIRE_RETRY)
		;
	check_fault(PAGE(1) + OFFSET, WRITE | QUIRE_PFERR_NOWAIT, -EAGAIN, COUNTS(pf_taken));
	assert_int_equal(told.hva.v, sim_hva(70).v);
	assert_int_equal(told.gpa.v, PAGE(70) + OFFSET);
	check_fault(PAGE(1), WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	world_nested(&world, 0);
}

/* A guest without the TDP MMU has no entries for what is no memory. */
static void test_counts_without_tdp(void **state)
{
	(void)state;
	world_stop_vm(&world);
	world_mmu = QUIRE_MMU_SHADOW;
	world_start_vm(&world);
	check_fault(PAGE(70), WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	check_fault(PAGE(70), WRITE, QUIRE_SPURIOUS, COUNTS(pf_taken) | COUNTS(pf_spurious));
	check_fault(PAGE(NO_SLOT), 0, QUIRE_EMULATE, COUNTS(pf_taken) | COUNTS(pf_emulate));
	check_fault(PAGE(NO_SLOT), QUIRE_PFERR_RSVD | QUIRE_PFERR_PRESENT, QUIRE_EMULATE,
		    COUNTS(pf_taken) | COUNTS(pf_emulate));
	invalidate(72);
	check_fault(PAGE(72), WRITE, QUIRE_RETRY, COUNTS(pf_taken));
	validate(72);
	check_fault(PAGE(71) | OFFSET, QUIRE_PFERR_PRIVATE, -EFAULT, COUNTS(pf_taken));
	assert_int_equal(told.gpa.v, PAGE(71));
	assert_int_equal(told.size_bytes, QUIRE_PAGE_SIZE);
	assert_int_equal(told.flags, QUIRE_ATTRIBUTE_PRIVATE);
	world_mmu = QUIRE_MMU_TDP;
}

/* The first entry makes the shadow MMU, and says so when there is no memory for it. */
static void test_first_entry_without_memory(void **state)
{
	uint32_t failed = 0;

	(void)state;
	world_mmu = QUIRE_MMU_SHADOW;
	for (uint64_t fails = 1; fails < 8; fails++) {
		struct quire_stage2 stage2;
		uint64_t requests;
		int ret;

		world_stop_vm(&world);
		world_start_vm(&world);
		world.host.fail_at = world.host.allocations + fails;
		ret = quire_vcpu_enter(world.vcpu, &requests, &stage2);
		world.host.fail_at = 0;
		if (!ret)
			quire_vcpu_leave(world.vcpu);
		else
			assert_int_equal(ret, -ENOMEM);
		failed += ret != 0;
		assert_ptr_equal(world_access(&world, PAGE(70), WORLD_WRITE).host,
				 world_page(&world, 70));
	}
	assert_true(failed >= 2);
	world_mmu = QUIRE_MMU_TDP;
}

/* A prefault without the TDP MMU covers a huge page to its end; without memory it says so. */
static void test_prefault_without_tdp(void **state)
{
	uint64_t done = 0;

	(void)state;
	world_stop_vm(&world);
	world_mmu = QUIRE_MMU_SHADOW;
	world_start_vm(&world);
	world.host.fail_at = world.host.allocations + 1;
	assert_int_equal(quire_vcpu_prefault(world.vcpu, (gpa_t){0}, PAGE(1), &done), -ENOMEM);
	world.host.fail_at = 0;
	assert_int_equal(done, 0);
	/* No row of frames any more, so that the mappings of slot 0 are small. */
	world_migrate(&world, 100);
	assert_int_equal(
	    quire_vcpu_prefault(world.vcpu, (gpa_t){BLOCK(1) + PAGE(3) + OFFSET}, BLOCK(2), &done),
	    0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	assert_int_equal(done, BLOCK(1) - PAGE(3) - OFFSET);
	assert_int_equal(quire_vcpu_prefault(world.vcpu, (gpa_t){PAGE(70)}, BLOCK(1), &done), 0);
	assert_int_equal(done, QUIRE_PAGE_SIZE);
	world_mmu = QUIRE_MMU_TDP;
}

static uint32_t lookups, puts, puts_unlocked;
static enum quire_page_use last_use;
static void (*meanwhile)(void);

static int watched_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int ret = sim_host_ops.page_get(ctx, hva, flags, page);

	lookups++;
	if (meanwhile)
		meanwhile();
	return ret;
}

static void watched_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	puts++;
	puts_unlocked += !world.vm->mmu_lock.writer;
	last_use = use;
	sim_host_ops.page_put(ctx, page, use);
}

static void watch(void)
{
	world.ops.page_get = watched_get;
	world.ops.page_put = watched_put;
	lookups = puts = puts_unlocked = 0;
}

static void unwatch(void)
{
	meanwhile = NULL;
	world.ops = sim_host_ops;
}

/* A fault that maps nothing gives its page back as it was; one that maps it says how. */
static void check_put(int outcome, enum quire_page_use use)
{
	assert_int_equal(outcome == QUIRE_FIXED || outcome == QUIRE_SPURIOUS,
			 use != QUIRE_PAGE_UNUSED);
	assert_int_equal(puts, lookups);
	assert_int_equal(puts_unlocked, 0);
	assert_int_equal(last_use, use);
}

static void invalidate_other(void)
{
	invalidate(200);
	validate(200);
}

/* Pages that a fault of L2's looked up are given back under the lock, with what they were for. */
static void test_pages_of_l2_are_put(void **state)
{
	(void)state;
	map_l1(1, 70);
	map_l1(2, 71);
	frame_of(71)->dirty = false;
	world_nested(&world, 1);
	(void)world_check(&world, PAGE(1), WORLD_READ);
	watch();
	check_fault(PAGE(2), WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	check_put(QUIRE_FIXED, QUIRE_PAGE_DIRTY);
	check_fault(PAGE(2), WRITE, QUIRE_SPURIOUS, COUNTS(pf_taken) | COUNTS(pf_spurious));
	check_put(QUIRE_SPURIOUS, QUIRE_PAGE_DIRTY);
	assert_int_equal(frame_of(71)->references, 1);
	unwatch();
	world_nested(&world, 0);
}

/* What it found is old each time: so many rounds, and the guest goes on. */
static void test_rounds_of_l2(void **state)
{
	(void)state;
	map_l1(1, 70);
	map_l1(2, 71);
	world_nested(&world, 1);
	(void)world_check(&world, PAGE(1), WORLD_READ);
	watch();
	meanwhile = invalidate_other;
	check_fault(PAGE(2), WRITE, QUIRE_RETRY, COUNTS(pf_taken));
	assert_int_equal(lookups, ROUNDS);
	check_put(QUIRE_RETRY, QUIRE_PAGE_UNUSED);
	assert_int_equal(frame_of(71)->references, 1);
	unwatch();
	check_fault(PAGE(2), WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
	world_nested(&world, 0);
}

static void replace_roots(void)
{
	quire_vm_set_nx_huge_pages(world.vm, 1);
	quire_vm_set_nx_huge_pages(world.vm, 0);
}

static void invalidate_this(void)
{
	invalidate(71);
	validate(71);
}

static void delete_slot(void)
{
	assert_int_equal(world_slot(&world, 0, UINT32_MAX), 0);
}

static void begin_this(void)
{
	invalidate(71);
}

static void end_this(void)
{
	validate(71);
}

static void begin_other(void)
{
	invalidate(200);
}

static void end_other(void)
{
	validate(200);
}

static void steal_tables(void)
{
	table_cache_drain(&world.vcpu->tables, &world.vm->arena);
}

/* What happens between the lookup and the lock, and what comes of the fault. */
static const struct {
	void (*happens)(void), (*afterwards)(void);
	int outcome;
} changes[] = {
    {invalidate_this, NULL, QUIRE_RETRY}, {invalidate_other, NULL, QUIRE_RETRY},
    {begin_this, end_this, QUIRE_RETRY},  {begin_other, end_other, QUIRE_FIXED},
    {replace_roots, NULL, QUIRE_RETRY},	  {delete_slot, NULL, QUIRE_RETRY},
    {steal_tables, NULL, QUIRE_RETRY},
};

/* A guest without the TDP MMU: nothing that is old is mapped. */
static void test_changes_without_tdp(void **state)
{
	(void)state;
	world_mmu = QUIRE_MMU_SHADOW;
	for (uint32_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		uint64_t leaves;

		world_stop_vm(&world);
		world_start_vm(&world);
		check_fault(PAGE(100), WRITE, QUIRE_FIXED, COUNTS(pf_taken) | COUNTS(pf_fixed));
		leaves = world_stat(&world, QUIRE_VM_STAT_pages_4k);
		watch();
		meanwhile = changes[i].happens;
		check_fault(PAGE(71), WRITE, changes[i].outcome,
			    COUNTS(pf_taken) |
				(changes[i].outcome == QUIRE_FIXED ? COUNTS(pf_fixed) : 0));
		assert_int_equal(lookups, 1);
		if (changes[i].outcome == QUIRE_FIXED)
			assert_true(world_stat(&world, QUIRE_VM_STAT_pages_4k) > leaves);
		else
			assert_true(world_stat(&world, QUIRE_VM_STAT_pages_4k) <= leaves);
		unwatch();
		if (changes[i].afterwards)
			changes[i].afterwards();
		assert_int_equal(frame_of(71)->references, 1);
		if (world.slot_there[0])
			assert_ptr_equal(world_access(&world, PAGE(71), WORLD_WRITE).host,
					 world_page(&world, 71));
	}
	world_mmu = QUIRE_MMU_TDP;
}

static int walk_to(const struct quire_nested *tables, uint64_t gpa, uint64_t *result)
{
	gpa_t found = {~UINT64_C(0)};
	int ret = quire_vcpu_set_nested(world.vcpu, tables);

	assert_int_equal(ret, 0);
	ret = quire_vcpu_walk_nested(world.vcpu, (gpa_t){gpa}, QUIRE_PFERR_USER, &found);
	*result = found.v;
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
	return ret;
}

static uint32_t exchanges;

static int interrupted_cmpxchg(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	exchanges++;
	return -EINTR;
}

/* Another processor always changes the entry first. */
static int lost_cmpxchg(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	exchanges++;
	*expected ^= NPT_NX;
	return 0;
}

/* Where L1's tables lead, without a mapping. */
static void test_walk_alone(void **state)
{
	const struct quire_nested tables = {.root = {PAGE(WORLD_ROOT)}, .levels = 4, .nx = 1};
	uint64_t result;

	(void)state;
	map_l1(1, 70);
	assert_int_equal(walk_to(&tables, PAGE(1) + OFFSET, &result), 0);
	assert_int_equal(result, PAGE(70) + OFFSET);
	assert_int_equal(walk_to(&tables, PAGE(2), &result), -EFAULT);
	world_put_entry(&world, TABLE_4K, 3, PAGE(71) | NPT_ALL);
	world.ops.cmpxchg_u64 = interrupted_cmpxchg;
	exchanges = 0;
	assert_int_equal(walk_to(&tables, PAGE(3), &result), -EINTR);
	assert_int_equal(exchanges, 1);
	world.ops.cmpxchg_u64 = lost_cmpxchg;
	exchanges = 0;
	assert_int_equal(walk_to(&tables, PAGE(3), &result), -EFAULT);
	assert_int_equal(exchanges, ROUNDS);
	world.ops = sim_host_ops;
	assert_int_equal(walk_to(&tables, PAGE(3), &result), 0);
	assert_int_equal(result, PAGE(71));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages), 0);
}

#define FAULT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int fault_tests(void)
{
	const struct CMUnitTest tests[] = {
	    FAULT_TEST(test_counts_of_l2),	   FAULT_TEST(test_not_now),
	    FAULT_TEST(test_counts_without_tdp),   FAULT_TEST(test_first_entry_without_memory),
	    FAULT_TEST(test_prefault_without_tdp), FAULT_TEST(test_pages_of_l2_are_put),
	    FAULT_TEST(test_rounds_of_l2),	   FAULT_TEST(test_changes_without_tdp),
	    FAULT_TEST(test_walk_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
