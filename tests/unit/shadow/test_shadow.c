/* The shadow MMU: each behaviour by itself. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "src/shadow/shadow.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/random.h"
#include "tests/unit/shadow/world.h"

static struct world world;

/* More tables of L1's. */
#define OTHER_2M 5u
#define OTHER_4K 6u

static int setup(void **state)
{
	*state = &world;
	world_start(&world);
	world_set_path(&world);
	return 0;
}

static void test_maps_and_reflects(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	world_set_entry(&world, TABLE_4K, 6, PAGE(71) | NPT_P | NPT_U);
	world_set_entry(&world, TABLE_4K, 7, PAGE(72) | NPT_ALL | NPT_NX);
	world_set_entry(&world, TABLE_4K, 8, PAGE(WORLD_PAGES + 5) | NPT_ALL);
	world_set_entry(&world, TABLE_4K, 9, PAGE(73) | NPT_ALL | UINT64_C(1) << 50);
	world_set_entry(&world, TABLE_4K, 10, PAGE(74) | NPT_P | NPT_W);
	for (uint32_t page = 4; page <= 11; page++)
		for (int access = WORLD_READ; access <= WORLD_FETCH; access++)
			(void)world_check(&world, PAGE(page), (enum world_access)access);
	/* L1's own: what mapped the tables huge has gone, the three pages above it stay. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages),
			 world_mmu == QUIRE_MMU_SHADOW ? 4 + 3 : 4);
}

/*
 * A device writes L1's tables, of which the library is not told: an upper entry leads to another
 * table now, and both tables lead to the same third one. It goes with the one that is left, and
 * stays for the other.
 */
static void test_shared_below_a_table_that_goes(void **state)
{
	uint64_t *upper = (uint64_t *)(void *)world_page(&world, TABLE_1G);
	uint64_t *other = (uint64_t *)(void *)world_page(&world, OTHER_2M);

	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL | NPT_A);
	world_set_entry(&world, TABLE_4K, 6, PAGE(71) | NPT_ALL | NPT_A);
	world_set_entry(&world, TABLE_1G, 7, PAGE(OTHER_2M) | NPT_ALL);
	world_set_entry(&world, OTHER_2M, 1, PAGE(OTHER_4K) | NPT_ALL);
	world_set_entry(&world, OTHER_4K, 0, PAGE(72) | NPT_ALL);
	(void)world_check(&world, PAGE(5), WORLD_READ);
	(void)world_check(&world, BLOCK(7 * 512 + 1), WORLD_READ);
	other[0] = PAGE(TABLE_4K) | NPT_ALL | NPT_A;
	upper[0] = PAGE(OTHER_2M) | NPT_ALL | NPT_A;
	(void)world_check(&world, PAGE(6), WORLD_READ);
	(void)world_check(&world, BLOCK(7 * 512) + PAGE(5), WORLD_READ);
	(void)world_check(&world, BLOCK(7 * 512 + 1), WORLD_READ);
	/* So few tables share no bucket. */
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_max_mmu_page_hash_collisions), 0);
}

/* The root that L2's first access loads. */
static const struct shadow_page *root_of_l2(void)
{
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	assert_non_null(world.vcpu->shadow.page);
	return world.vcpu->shadow.page;
}

/* Going to L1 and back finds the root that was loaded, unless it has gone since. */
static void test_previous_roots(void **state)
{
	const struct shadow_page *root;

	(void)state;
	root = root_of_l2();
	world_nested(&world, 0);
	(void)world_access(&world, PAGE(70), WORLD_READ);
	assert_ptr_not_equal(world.vcpu->shadow.page, root);
	world_nested(&world, 1);
	assert_ptr_equal(world.vcpu->shadow.page, root);
	assert_true(shadow_root_is_valid(world.vcpu));
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	/* L1 writes its root table, whose shadow goes. */
	world_set_entry(&world, WORLD_ROOT, 0, 0);
	world_nested(&world, 1);
	assert_ptr_equal(world.vcpu->shadow.page, root);
	assert_false(shadow_root_is_valid(world.vcpu));
	(void)world_check(&world, PAGE(5), WORLD_READ);
}

/* A root that was loaded is kept for tables that are the same in everything. */
static void test_previous_roots_of_other_tables(void **state)
{
	const struct quire_nested base = {
	    .root = {PAGE(WORLD_ROOT)}, .levels = 4, .nx = 1, .wp = 1};
	struct quire_nested other = base;
	uint32_t *const words[] = {&other.levels, &other.nx,  &other.wp,  &other.smap,
				   &other.smep,	  &other.pse, &other.zero};
	const struct shadow_page *root;

	(void)state;
	root = root_of_l2();
	/* The words, the directories, the address, and .paging where it may be. */
	for (uint32_t i = 0; i < 12u + (world_mmu == QUIRE_MMU_SHADOW); i++) {
		other = base;
		if (i < 7)
			*words[i] ^= 1;
		else if (i < 11)
			other.directories[i - 7] = PAGE(TABLE_4K) | NPT_P;
		else if (i == 11)
			other.root.v = PAGE(TABLE_1G);
		else
			other.paging = 1;
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &other), 0);
		assert_null(world.vcpu->shadow.page);
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &base), 0);
		assert_ptr_equal(world.vcpu->shadow.page, root);
	}
	(void)world_check(&world, PAGE(5), WORLD_READ);
}

static void test_follows_writes_of_its_tables(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	*world_check(&world, PAGE(5), WORLD_WRITE).host = 1;
	/* No flush: the write of the table itself is noticed. */
	world_set_entry(&world, TABLE_4K, 5, PAGE(71) | NPT_ALL);
	*world_check(&world, PAGE(5), WORLD_WRITE).host = 2;
	assert_int_equal(world_page(&world, 70)[0], 1);
	assert_int_equal(world_page(&world, 71)[0], 2);
	world_set_entry(&world, TABLE_2M, 0, 0);
	(void)world_check(&world, PAGE(5), WORLD_READ);
}

static void test_follows_writes_of_the_hypervisor(void **state)
{
	uint64_t entry = PAGE(71) | NPT_ALL;

	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	assert_int_equal(
	    quire_vcpu_write(world.vcpu, (gpa_t){PAGE(TABLE_4K) + 5 * 8}, &entry, sizeof(entry)),
	    0);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	assert_true(world_stat(&world, QUIRE_VM_STAT_mmu_pte_write) > 0);
}

static void hypervisor_stores(uint64_t table, uint32_t index, uint64_t entry)
{
	gpa_t gpa = {PAGE(table) + index * sizeof(entry)};

	assert_int_equal(quire_vcpu_write(world.vcpu, gpa, &entry, sizeof(entry)), 0);
}

/* Of a table of the lowest level only what was written goes. */
static void test_written_entries_go_alone(void **state)
{
	uint64_t faults;

	(void)state;
	for (uint32_t i = 0; i < 16; i++) {
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_ALL);
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
	}
	for (uint32_t i = 0; i < 16; i++)
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
	faults = world.cpus[0].faults;
	for (uint32_t i = 8; i < 16; i++)
		hypervisor_stores(TABLE_4K, i, PAGE(90 + i) | NPT_ALL);
	for (uint32_t i = 0; i < 8; i++)
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
	assert_int_equal(world.cpus[0].faults, faults);
	for (uint32_t i = 8; i < 16; i++)
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_pte_write), 8);
	/* The bits of use, as a byte, are of an entry. */
	assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(TABLE_4K)}, "", 1), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 0);
	/* No store of an entry: it may be no table any more. */
	assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(TABLE_4K) + 1}, "", 1), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 1);
}

/* A table of a higher level that is written again and again, and not used, is none. */
static void test_flooding(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	world_set_entry(&world, 9, 0, PAGE(TABLE_4K) | NPT_ALL);
	for (uint32_t round = 0; round < 5; round++) {
		(void)world_check(&world, PAGE(5), WORLD_WRITE);
		hypervisor_stores(TABLE_2M, 7, PAGE(9) | NPT_ALL);
		hypervisor_stores(TABLE_2M, 0, PAGE(TABLE_4K) | NPT_ALL);
	}
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_pde_zapped), 5);
	hypervisor_stores(TABLE_2M, 8, 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 1);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
}

/* Every other time all that is mapped has the same generation. */
static uint64_t generations;

static void record_generation(enum quire_trace_event event, const uint64_t *args)
{
	if (event == QUIRE_TRACE_kvm_mmu_zap_all_fast)
		generations = generations << 1 | args[0];
}

static void test_generations(void **state)
{
	(void)state;
	generations = 1;
	quire_trace_install(record_generation);
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages), 0);
		(void)world_check(&world, PAGE(5), WORLD_WRITE);
		assert_int_equal(world_slot(&world, 1, 0), 0);
	}
	quire_trace_install(NULL);
	assert_int_equal(generations, 0x1a);
}

/* What the walk of L1's tables says: how often each event came, and the last one's first field. */
static struct {
	uint32_t count;
	uint64_t first;
} walks[QUIRE_TRACE_COUNT];

static void record_walk(enum quire_trace_event event, const uint64_t *args)
{
	walks[event].count++;
	walks[event].first = args[0];
}

static void test_walks_are_traced(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	world_nested(&world, 1);
	memset(walks, 0, sizeof(walks));
	quire_trace_install(record_walk);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	/* Before and after the tables are tracked. */
	assert_true(walks[QUIRE_TRACE_kvm_mmu_pagetable_walk].count >= 1);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_pagetable_walk].first, PAGE(5));
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_paging_element].count,
			 4 * walks[QUIRE_TRACE_kvm_mmu_pagetable_walk].count);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_set_accessed_bit].count, 4);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_set_dirty_bit].count, 1);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_set_dirty_bit].first,
			 PAGE(TABLE_4K) + 5 * sizeof(uint64_t));
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_walker_error].count, 0);
	/* One fault asks for L1's page, and puts it where L2's tables lead. */
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_spte_requested].count, 1);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_spte_requested].first, 70);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_set_spte].count, 1);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_set_spte].first, 70);
	assert_int_equal(world_check(&world, PAGE(4), WORLD_READ).outcome, QUIRE_NESTED_FAULT);
	assert_int_equal(walks[QUIRE_TRACE_kvm_mmu_walker_error].count, 1);
	assert_int_equal(quire_vm_age(world.vm, sim_hva(70), sim_hva(71), QUIRE_AGE_TEST), 1);
	assert_int_equal(walks[QUIRE_TRACE_kvm_test_age_hva].first, sim_hva(70).v);
	assert_int_equal(quire_vm_age(world.vm, sim_hva(70), sim_hva(71), QUIRE_AGE_CLEAR), 1);
	assert_int_equal(walks[QUIRE_TRACE_kvm_age_hva].first, sim_hva(70).v);
	quire_trace_install(NULL);
}

/* The same table below entries with different rights: each path has its own. */
static void test_rights_of_the_path_count(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL | NPT_D);
	world_set_entry(&world, TABLE_2M, 1, PAGE(TABLE_4K) | NPT_P | NPT_U);
	world_set_entry(&world, TABLE_2M, 2, PAGE(TABLE_4K) | NPT_ALL | NPT_NX);
	for (uint32_t round = 0; round < 2; round++)
		for (uint32_t block = 0; block < 3; block++)
			for (int access = WORLD_READ; access <= WORLD_FETCH; access++)
				(void)world_check(&world, BLOCK(block) + PAGE(5),
						  (enum world_access)access);
}

static void test_huge_mappings(void **state)
{
	(void)state;
	/* Huge on both sides; huge for L1 only; small for L1 of what is huge at the host. */
	world_set_entry(&world, TABLE_2M, 1, PAGE(512) | NPT_ALL | NPT_PS);
	world_set_entry(&world, TABLE_2M, 2, PAGE(0) | NPT_ALL | NPT_PS);
	world_set_entry(&world, TABLE_4K, 9, PAGE(600) | NPT_ALL);
	(void)world_check(&world, BLOCK(1) + PAGE(9), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	(void)world_check(&world, BLOCK(2) + PAGE(90), WORLD_WRITE);
	(void)world_check(&world, PAGE(9), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	/* The host's page is broken up: the huge mapping goes, small ones come. */
	world_migrate(&world, 521);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	for (uint32_t page = 0; page < 512; page += 3)
		(void)world_check(&world, BLOCK(1) + PAGE(page), WORLD_READ);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
}

/* L2 maps L1's own tables: a write through it is a write of the table. */
static void test_tables_mapped_in_l2(void **state)
{
	uint64_t entry = PAGE(71) | NPT_ALL;
	uint8_t *host;

	(void)state;
	world_set_entry(&world, TABLE_2M, 1, PAGE(10) | NPT_ALL);
	world_set_entry(&world, 10, 4, PAGE(TABLE_4K) | NPT_ALL);
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	(void)world_check(&world, BLOCK(1) + PAGE(4), WORLD_WRITE);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	host = world_check(&world, BLOCK(1) + PAGE(4) + 5 * 8, WORLD_WRITE).host;
	memcpy(host, &entry, sizeof(entry));
	/* The library does not know until the next flush. */
	quire_vcpu_flush_nested(world.vcpu);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
}

/* A write of L2's at @gpa, once. */
static int write_once(uint64_t gpa)
{
	struct quire_memory_fault told = {0};

	return quire_vcpu_fault(world.vcpu, (gpa_t){gpa}, QUIRE_PFERR_WRITE, &told);
}

/*
 * A table that is used again as soon as a write has freed it, as where it maps the instruction that
 * writes: the second such write is the hypervisor's, and then it begins again.
 */
static void test_table_used_between_writes(void **state)
{
	const uint64_t gpa = PAGE(4), elsewhere = UINT64_C(1) << 39;

	(void)state;
	world_set_entry(&world, WORLD_ROOT, 1, PAGE(10) | NPT_ALL);
	world_set_entry(&world, 10, 0, PAGE(OTHER_2M) | NPT_ALL);
	world_set_entry(&world, OTHER_2M, 0, PAGE(OTHER_4K) | NPT_ALL);
	world_set_entry(&world, OTHER_4K, 0, PAGE(71) | NPT_USED);
	world_set_entry(&world, TABLE_4K, 4, PAGE(OTHER_2M) | NPT_USED);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(world_check(&world, elsewhere, WORLD_READ).outcome, 0);
		assert_int_equal(write_once(gpa), QUIRE_FIXED);
		assert_int_equal(world_check(&world, elsewhere, WORLD_READ).outcome, 0);
		assert_int_equal(write_once(gpa), QUIRE_WRITE_PROTECTED);
	}
	/* Without a use between them no write is by hand. */
	assert_int_equal(write_once(gpa), QUIRE_FIXED);
	assert_int_equal(write_once(gpa), QUIRE_SPURIOUS);
}

static void test_dirty_log(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_2M, 1, PAGE(512) | NPT_ALL | NPT_PS);
	for (uint32_t page = 0; page < 8; page++)
		world_set_entry(&world, TABLE_4K, page, PAGE(80 + page % 4) | NPT_ALL);
	(void)world_check(&world, BLOCK(1), WORLD_WRITE);
	(void)world_check(&world, PAGE(2), WORLD_WRITE);
	assert_int_equal(world_slot(&world, 0, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), world_mmu == QUIRE_MMU_SHADOW);
	for (uint32_t round = 0; round < 3; round++) {
		(void)world_check(&world, BLOCK(1) + PAGE(round), WORLD_WRITE);
		/* Aliases of one gfn. */
		(void)world_check(&world, PAGE(2), WORLD_WRITE);
		(void)world_check(&world, PAGE(6), WORLD_WRITE);
		assert_int_equal(world_harvest(&world, 0), 0);
		assert_int_equal(world_harvest(&world, 1), 0);
	}
	assert_int_equal(world_slot(&world, 1, 0), 0);
	(void)world_check(&world, BLOCK(1), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
}

static void test_slot_deletion(void **state)
{
	(void)state;
	for (int all = 1; all >= 0; all--) {
		quire_vm_set_slot_zap_all(world.vm, all);
		world_set_entry(&world, TABLE_4K, 5, PAGE(700) | NPT_ALL);
		(void)world_check(&world, PAGE(5), WORLD_WRITE);
		assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
		assert_int_equal(world_check(&world, PAGE(5), WORLD_WRITE).outcome, QUIRE_EMULATE);
		assert_int_equal(world_slot(&world, 1, 0), 0);
		(void)world_check(&world, PAGE(5), WORLD_WRITE);
	}
}

/* Far more of L1's tables than the client allows shadow pages. */
static void test_quota(void **state)
{
	(void)state;
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, 64), 0);
	for (uint32_t i = 0; i < 200; i++)
		world_set_entry(&world, TABLE_2M, i, PAGE(200 + i) | NPT_ALL);
	for (uint32_t i = 0; i < 200; i++)
		world_set_entry(&world, 200 + i, 0, PAGE(512 + i) | NPT_ALL);
	for (uint32_t round = 0; round < 2; round++)
		for (uint32_t i = 0; i < 200; i++) {
			(void)world_check(&world, BLOCK(i), WORLD_WRITE);
			assert_true(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages) <= 64);
		}
	assert_true(world_stat(&world, QUIRE_VM_STAT_mmu_recycled) > 10);
}

/* More aliases of one gfn than a descriptor holds, and than a chain may have. */
static void test_aliases(void **state)
{
	(void)state;
	for (uint32_t table = 0; table < 3; table++) {
		world_set_entry(&world, TABLE_2M, table, PAGE(20 + table) | NPT_ALL);
		for (uint32_t i = 0; i < 512; i++)
			world_set_entry(&world, 20 + table, i, PAGE(99) | NPT_ALL);
	}
	for (uint32_t page = 0; page < 3 * 512; page++)
		(void)world_check(&world, PAGE(page), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_max_mmu_rmap_size), 1000);
	world_migrate(&world, 99);
	assert_int_equal(*world_check(&world, PAGE(7), WORLD_READ).host, 0);
}

static void test_random(void **state)
{
	const char *seed = getenv("QUIRE_SEED");
	uint64_t first = seed ? strtoull(seed, NULL, 0) : 1;

	(void)state;
	world_random(&world, first, seed ? 100000 : 5000);
}

static void test_refusals(void **state)
{
	struct quire_nested tables = {.root = {0x1000}};
	uint64_t done;

	(void)state;
	for (tables.levels = 0; tables.levels < 8; tables.levels++)
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables),
				 tables.levels < 2 || tables.levels > 5 ? -EOPNOTSUPP : 0);
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
	world_nested(&world, 1);
	assert_int_equal(quire_vcpu_prefault(world.vcpu, (gpa_t){0}, QUIRE_PAGE_SIZE, &done),
			 -EOPNOTSUPP);
	/* A root without memory: every access is L1's fault. */
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	assert_int_equal(world_slot(&world, 0, UINT32_MAX), 0);
	assert_int_equal(world_check(&world, PAGE(5), WORLD_READ).outcome, QUIRE_NESTED_FAULT);
}

/* Error codes tell fetches apart where L1's EFER.NXE or its CR4.SMEP is set. */
static void test_fetch_bit(void **state)
{
	struct quire_nested tables = {.root = {WORLD_ROOT * QUIRE_PAGE_SIZE}, .levels = 4};
	uint64_t error = QUIRE_PFERR_USER | QUIRE_PFERR_FETCH | QUIRE_PFERR_GUEST_FINAL;
	uint64_t no_exec = UINT64_C(1) << 63; /* reserved without NXE */

	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL | no_exec);
	for (uint32_t smep = 0; smep < 2; smep++) {
		struct quire_memory_fault fault = {0};

		tables.smep = smep;
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), 0);
		assert_int_equal(quire_vcpu_fault(world.vcpu, (gpa_t){PAGE(5)}, error, &fault),
				 QUIRE_NESTED_FAULT);
		assert_int_equal(fault.flags & 0xff, smep ? 0x1d : 0xd);
	}
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
}

#define SHADOW_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    SHADOW_TEST(test_maps_and_reflects),
	    SHADOW_TEST(test_fetch_bit),
	    SHADOW_TEST(test_shared_below_a_table_that_goes),
	    SHADOW_TEST(test_previous_roots),
	    SHADOW_TEST(test_previous_roots_of_other_tables),
	    SHADOW_TEST(test_follows_writes_of_its_tables),
	    SHADOW_TEST(test_follows_writes_of_the_hypervisor),
	    SHADOW_TEST(test_written_entries_go_alone),
	    SHADOW_TEST(test_flooding),
	    SHADOW_TEST(test_generations),
	    SHADOW_TEST(test_rights_of_the_path_count),
	    SHADOW_TEST(test_huge_mappings),
	    SHADOW_TEST(test_tables_mapped_in_l2),
	    SHADOW_TEST(test_table_used_between_writes),
	    SHADOW_TEST(test_dirty_log),
	    SHADOW_TEST(test_walks_are_traced),
	    SHADOW_TEST(test_slot_deletion),
	    SHADOW_TEST(test_quota),
	    SHADOW_TEST(test_aliases),
	    SHADOW_TEST(test_refusals),
	    SHADOW_TEST(test_random),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL) | split_tests() | limit_tests() |
		     hold_tests() | unsync_tests() | unsync_others_tests() | age_tests() |
		     race_tests() | paging_tests() | nx_tests() | neighbour_tests() |
		     neighbour_race_tests() | view_tests() | count_tests() | meanwhile_tests() |
		     entry_tests() | way_tests() | no_memory_tests() | set_tests() | turn_tests() |
		     walk_tests() | path_tests() | fault_tests();

	/* Where shadow pages serve L1, too, from here on: the groups above choose for themselves.
	 * Nothing is split ahead of the write there. */
	world_mmu = QUIRE_MMU_SHADOW;
	return failed | cmocka_run_group_tests(tests, NULL, NULL) | unsync_tests() | age_tests() |
	       race_tests() | neighbour_tests();
}
