/*
 * Shadows of 32-bit, PAE and 5-level tables of a guest: quadrants, entries of 4 bytes, directories
 * that were loaded, roots of PAE's kind; and accesses and stores at random against the definition.
 */
#include "tests/unit/shadow/groups.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/world.h"

#define ADDRESS UINT64_C(0x000ffffffffff000)
#define ENTRY_4M NPT_PS
/* The guest's tables; random ones are from here on as well. */
#define DIRECTORY WORLD_ROOT
#define OTHER_DIRECTORY 2u
#define TABLE 3u
#define OTHER_TABLE 4u
#define TABLES_END 8u

/* The first processor runs by the tables, the second stores to them by physical addresses. */
#define RUNNER 0u
#define WRITER 1u

static struct world world;
static struct quire_nested now; /* the runner's */

static int setup(void **state)
{
	*state = &world;
	world_mmu = QUIRE_MMU_SHADOW;
	world_start(&world);
	world_add_cpu(&world);
	now = (struct quire_nested){.root = {PAGE(DIRECTORY)}, .paging = 1, .wp = 1};
	return 0;
}

/* The runner is L2, and its tables are L1's nested ones. */
static int setup_nested(void **state)
{
	*state = &world;
	world_start(&world);
	world_add_cpu(&world);
	now = (struct quire_nested){.root = {PAGE(DIRECTORY)}};
	return 0;
}

static int teardown(void **state)
{
	(void)world_teardown(state);
	world_mmu = QUIRE_MMU_TDP;
	return 0;
}

static void use(uint32_t levels)
{
	now.levels = levels;
	now.nx = levels > 2;
	now.pse = levels == 2;
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &now), 0);
}

static void flush(void)
{
	quire_vcpu_flush_nested(world.vcpu);
}

static uint32_t entry_bytes(void)
{
	return now.levels == 2 ? 4 : 8;
}

/* The guest stores an entry by another processor. */
static void store(uint64_t table, uint32_t index, uint64_t entry)
{
	uint64_t gpa = PAGE(table) + index * entry_bytes();
	struct world_result result = world_access_on(&world, WRITER, gpa, WORLD_WRITE);

	assert_int_equal(result.outcome, 0);
	memcpy(result.host, &entry, entry_bytes());
}

/* The hypervisor does. */
static void hypervisor_stores(uint64_t gpa, uint64_t value, uint32_t size_bytes)
{
	assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){gpa}, &value, size_bytes), 0);
}

static uint64_t read_entry(uint64_t table, uint32_t index)
{
	uint64_t entry = 0;

	memcpy(&entry, world_page(&world, table) + index * entry_bytes(), entry_bytes());
	return entry;
}

/* A supervisor's processor, on the tables that it is handed. */
static uint8_t *processor_walk(const struct quire_stage2 *stage2, uint64_t linear,
			       enum world_access access)
{
	uint64_t *table = stage2->root, rights = NPT_W;

	for (uint32_t level = stage2->root_level;; level--) {
		uint32_t shift = 12 + 9 * (level - 1);
		uint64_t *entry = &table[linear >> shift & 511], span = (UINT64_C(1) << shift) - 1;

		if (!(*entry & NPT_P) || (access == WORLD_FETCH && (*entry & NPT_NX)))
			return NULL;
		rights &= *entry;
		if (level > 1 && !(*entry & NPT_PS)) {
			table = (uint64_t *)(uintptr_t)(*entry & ADDRESS);
			continue;
		}
		if (access == WORLD_WRITE && !rights)
			return NULL;
		return (uint8_t *)(uintptr_t)((*entry & ADDRESS & ~span) + (linear & span));
	}
}

/* Faults until the access is done; of the last one, the page it told of is in *@told. */
static struct world_result access_to(uint64_t linear, enum world_access access, uint64_t *told)
{
	struct world_result result = {.outcome = QUIRE_RETRY};
	uint64_t error = access == WORLD_WRITE ? QUIRE_PFERR_WRITE : 0;

	if (access == WORLD_FETCH)
		error |= QUIRE_PFERR_FETCH;
	if (!now.paging)
		error |= QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL;
	for (uint32_t tries = 0; tries < 16; tries++) {
		struct quire_memory_fault fault = {0};
		struct quire_stage2 stage2;
		uint64_t requests;

		assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
		result.host = processor_walk(&stage2, linear, access);
		quire_vcpu_leave(world.vcpu);
		result.outcome = 0;
		if (result.host)
			return result;
		world.cpus[RUNNER].faults++;
		result.outcome = quire_vcpu_fault(world.vcpu, (gpa_t){linear}, error, &fault);
		result.error = fault.flags;
		*told = fault.gpa.v;
		if (result.outcome != QUIRE_FIXED && result.outcome != QUIRE_RETRY &&
		    result.outcome != QUIRE_SPURIOUS)
			return result;
	}
	return result;
}

/* The access leads to the byte of page @gfn. */
static void leads_to(uint64_t linear, uint64_t gfn)
{
	uint64_t told;
	struct world_result result = access_to(linear, WORLD_READ, &told);

	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(&world, gfn) + (linear & 0xfff));
}

static void is_refused(uint64_t linear, uint64_t error)
{
	uint64_t told;
	struct world_result result = access_to(linear, WORLD_READ, &told);

	assert_int_equal(result.outcome, QUIRE_NESTED_FAULT);
	assert_int_equal(result.error, error);
	assert_int_equal(told, linear);
}

#define LINEAR_32(directory, index) ((uint64_t)(directory) << 22 | (uint64_t)(index) << 12)

/* One directory has four shadow pages, one table two, whatever leads to it. */
static void test_quadrants(void **state)
{
	(void)state;
	use(2);
	store(DIRECTORY, 0, PAGE(TABLE) | NPT_ALL);
	store(DIRECTORY, 300, PAGE(TABLE) | NPT_ALL);
	store(DIRECTORY, 1023, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_ALL);
	store(TABLE, 1023, PAGE(71) | NPT_ALL);
	leads_to(LINEAR_32(0, 3) + 9, 70);
	/* The page that the writer's processor has for itself, and its tables: the direct root. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	uint64_t made = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss);

	leads_to(LINEAR_32(0, 1023), 71);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss), made + 1);
	leads_to(LINEAR_32(300, 3), 70);
	leads_to(LINEAR_32(300, 1023), 71);
	leads_to(LINEAR_32(1023, 3), 70);
	leads_to(LINEAR_32(1023, 1023), 71);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss), made + 1);
	is_refused(LINEAR_32(1023, 1022), 0);
	is_refused(LINEAR_32(301, 3), 0);
}

/* The four pages of the directory are there as soon as its root is loaded, as KVM's are. */
static void test_directory_pages(void **state)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	use(2);
	assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(world.vcpu);
	assert_int_equal(stage2.root_level, QUIRE_LEVEL_1G);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages), 4);
	now.directories[2] = PAGE(OTHER_DIRECTORY) | NPT_P;
	use(3);
	assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(world.vcpu);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages), 5);
}

/* What was written of a table of 4-byte entries goes alone; of a directory, both halves. */
static void test_written_entries(void **state)
{
	uint64_t faults, zapped;

	(void)state;
	use(2);
	store(DIRECTORY, 5, PAGE(TABLE) | NPT_ALL);
	for (uint32_t i = 0; i < 1024; i += 64)
		store(TABLE, i, PAGE(70 + i / 64) | NPT_USED);
	for (uint32_t i = 0; i < 1024; i += 64)
		leads_to(LINEAR_32(5, i), 70 + i / 64);
	faults = world.cpus[RUNNER].faults;
	hypervisor_stores(PAGE(TABLE) + 640 * 4, PAGE(100) | NPT_USED, 4);
	for (uint32_t i = 0; i < 1024; i += 64)
		if (i != 640)
			leads_to(LINEAR_32(5, i), 70 + i / 64);
	assert_int_equal(world.cpus[RUNNER].faults, faults);
	leads_to(LINEAR_32(5, 640), 100);
	assert_int_equal(world.cpus[RUNNER].faults, faults + 1);
	/* The bits of use, as a byte. */
	hypervisor_stores(PAGE(TABLE) + 64 * 4, NPT_USED, 1);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 0);
	/* Two entries at once are no entry: both pages of the table go. */
	hypervisor_stores(PAGE(TABLE) + 64 * 4, 0, 8);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded), 2);
	is_refused(LINEAR_32(5, 64), 0);
	leads_to(LINEAR_32(5, 0), 70);
	leads_to(LINEAR_32(5, 960), 85);
	zapped = world_stat(&world, QUIRE_VM_STAT_mmu_pde_zapped);
	hypervisor_stores(PAGE(DIRECTORY) + 5 * 4, PAGE(OTHER_TABLE) | NPT_ALL, 4);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_pde_zapped), zapped + 2);
	is_refused(LINEAR_32(5, 0), 0);
}

static uint32_t beside_changes, beside = 7;

/* Another processor changes what stands beside the entry, in the same word of the host's. */
static int cmpxchg_beside(void *ctx, hva_t hva, uint64_t *expected, uint64_t new)
{
	if (beside_changes) {
		uint32_t *words = (uint32_t *)(void *)world_page(&world, TABLE);

		beside_changes--;
		words[beside]++;
	}
	return sim_host_ops.cmpxchg_u64(ctx, hva, expected, new);
}

static void test_marks_of_4_bytes(void **state)
{
	uint64_t told;

	(void)state;
	world_stop_vm(&world);
	world.ops.cmpxchg_u64 = cmpxchg_beside;
	world_start_vm(&world);
	world_add_cpu(&world);
	use(2);
	store(DIRECTORY, 0, PAGE(TABLE) | NPT_ALL | NPT_A);
	store(TABLE, 6, PAGE(70) | NPT_ALL);
	store(TABLE, 7, 0x1000);
	beside_changes = 3;
	leads_to(LINEAR_32(0, 6), 70);
	assert_int_equal(beside_changes, 0);
	assert_int_equal(read_entry(TABLE, 6), PAGE(70) | NPT_ALL | NPT_A);
	assert_int_equal(read_entry(TABLE, 7), 0x1003);
	assert_int_equal(access_to(LINEAR_32(0, 6), WORLD_WRITE, &told).outcome, 0);
	assert_int_equal(read_entry(TABLE, 6), PAGE(70) | NPT_ALL | NPT_A | NPT_D);
	assert_int_equal(read_entry(TABLE, 7), 0x1003);
	assert_int_equal(read_entry(TABLE, 5), 0);
	/* One that does nothing else keeps no thread in its section: the guest runs again. */
	store(TABLE, 10, PAGE(71) | NPT_ALL);
	beside_changes = 5000;
	beside = 11;
	assert_int_equal(access_to(LINEAR_32(0, 10), WORLD_READ, &told).outcome, QUIRE_RETRY);
	assert_true(beside_changes > 1000);
	beside_changes = 0;
	leads_to(LINEAR_32(0, 10), 71);
}

static void test_4m(void **state)
{
	uint64_t told = 0;

	(void)state;
	use(2);
	store(DIRECTORY, 900, ENTRY_4M | NPT_ALL);
	leads_to(LINEAR_32(900, 70), 70);
	leads_to(LINEAR_32(900, 600) + 5, 600);
	assert_true(read_entry(DIRECTORY, 900) & NPT_A);
	/* Its second half is one page of the host's. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	for (uint32_t bit = 17; bit < 22; bit++) {
		store(DIRECTORY, 901, ENTRY_4M | NPT_ALL | 1u << bit);
		is_refused(LINEAR_32(901, 70), QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD);
	}
	/* PSE-36: four bits of the address from 4 GiB on. */
	store(DIRECTORY, 901, ENTRY_4M | NPT_ALL | 9u << 13);
	assert_int_equal(access_to(LINEAR_32(901, 70), WORLD_READ, &told).outcome, QUIRE_EMULATE);
	assert_int_equal(told, (UINT64_C(9) << 32) + PAGE(70));
	/* Without CR4.PSE the bit says nothing. */
	store(DIRECTORY, 902, PAGE(TABLE) | ENTRY_4M | NPT_ALL);
	store(TABLE, 70, PAGE(80) | NPT_ALL);
	assert_int_equal(access_to(LINEAR_32(902, 70), WORLD_READ, &told).outcome, QUIRE_EMULATE);
	now.pse = 0;
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &now), 0);
	leads_to(LINEAR_32(902, 70), 80);
	use(2);
}

#define LINEAR_PAE(directory, middle, index) \
	((uint64_t)(directory) << 30 | (uint64_t)(middle) << 21 | (uint64_t)(index) << 12)

/* Directories are what was loaded, whatever memory says since. */
static void test_directories(void **state)
{
	(void)state;
	now.levels = 3;
	store(OTHER_DIRECTORY, 7, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_ALL);
	now.directories[3] = PAGE(OTHER_DIRECTORY) | NPT_P;
	/* Where an address stands but no P, nothing is looked at there. */
	now.directories[0] = PAGE(OTHER_DIRECTORY);
	use(3);
	leads_to(LINEAR_PAE(3, 7, 3), 70);
	is_refused(LINEAR_PAE(2, 7, 3), 0);
	is_refused(LINEAR_PAE(0, 7, 3), 0);
	store(DIRECTORY, 2, PAGE(OTHER_DIRECTORY) | NPT_P);
	store(DIRECTORY, 3, 0);
	flush();
	leads_to(LINEAR_PAE(3, 7, 3), 70);
	is_refused(LINEAR_PAE(2, 7, 3), 0);
	/* The same CR3, loaded again. */
	now.directories[2] = now.directories[3];
	now.directories[3] = 0;
	use(3);
	leads_to(LINEAR_PAE(2, 7, 3), 70);
	is_refused(LINEAR_PAE(3, 7, 3), 0);
	/* A bit from the highest of the address on is reserved in entries. */
	store(OTHER_DIRECTORY, 8, PAGE(TABLE) | NPT_ALL | UINT64_C(1) << 55);
	is_refused(LINEAR_PAE(2, 8, 3), QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD);
	is_refused(UINT64_C(1) << 32 | LINEAR_PAE(2, 7, 3), 0);
}

/* Each of the four counts: a root that was loaded before serves the same four alone. */
static void test_each_directory(void **state)
{
	(void)state;
	now.levels = 3;
	store(OTHER_DIRECTORY, 7, PAGE(TABLE) | NPT_ALL);
	store(5, 7, PAGE(OTHER_TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_ALL);
	store(OTHER_TABLE, 3, PAGE(71) | NPT_ALL);
	for (uint32_t i = 0; i < 4; i++)
		now.directories[i] = PAGE(OTHER_DIRECTORY) | NPT_P;
	for (uint32_t i = 0; i < 4; i++) {
		use(3);
		leads_to(LINEAR_PAE(i, 7, 3), 70);
		now.directories[i] = PAGE(5) | NPT_P;
		use(3);
		leads_to(LINEAR_PAE(i, 7, 3), 71);
		now.directories[i] = PAGE(OTHER_DIRECTORY) | NPT_P;
		use(3);
		leads_to(LINEAR_PAE(i, 7, 3), 70);
	}
}

/* The processors load other directories from one CR3, and neither sees the other's. */
static void test_two_pae_roots(void **state)
{
	struct quire_nested others = {
	    .root = {PAGE(DIRECTORY)}, .levels = 3, .paging = 1, .wp = 1, .nx = 1};
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	now.levels = 3;
	store(OTHER_DIRECTORY, 7, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_ALL);
	now.directories[1] = others.directories[2] = PAGE(OTHER_DIRECTORY) | NPT_P;
	use(3);
	leads_to(LINEAR_PAE(1, 7, 3), 70);
	assert_int_equal(quire_vcpu_set_nested(world.cpus[WRITER].vcpu, &others), 0);
	assert_int_equal(quire_vcpu_enter(world.cpus[WRITER].vcpu, &requests, &stage2), 0);
	assert_null(processor_walk(&stage2, LINEAR_PAE(1, 7, 3), WORLD_READ));
	assert_non_null(processor_walk(&stage2, LINEAR_PAE(2, 7, 3), WORLD_READ));
	quire_vcpu_leave(world.cpus[WRITER].vcpu);
	leads_to(LINEAR_PAE(1, 7, 3), 70);
	is_refused(LINEAR_PAE(2, 7, 3), 0);
	assert_int_equal(quire_vcpu_set_nested(world.cpus[WRITER].vcpu, NULL), 0);
}

/* A directory is shadowed on while no root leads to it, and is looked at when one does again. */
static void test_directory_without_root(void **state)
{
	uint64_t made, directory = PAGE(OTHER_DIRECTORY) | NPT_P;

	(void)state;
	now.levels = 3;
	store(OTHER_DIRECTORY, 7, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_USED);
	now.directories[1] = directory;
	use(3);
	leads_to(LINEAR_PAE(1, 7, 3), 70);
	now.directories[1] = 0;
	use(3);
	is_refused(LINEAR_PAE(1, 7, 3), 0);
	store(TABLE, 3, PAGE(71) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	made = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss);
	now.directories[1] = directory;
	use(3);
	leads_to(LINEAR_PAE(1, 7, 3), 71);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss), made);
	/* Written, it goes, and the root leads on to what is there now. */
	store(OTHER_DIRECTORY, 7, PAGE(OTHER_TABLE) | NPT_ALL);
	flush();
	is_refused(LINEAR_PAE(1, 7, 3), 0);
	store(OTHER_TABLE, 3, PAGE(72) | NPT_ALL);
	leads_to(LINEAR_PAE(1, 7, 3), 72);
}

/* Both pages of a table lag together, and catch up together. */
static void test_unsync(void **state)
{
	(void)state;
	use(2);
	store(DIRECTORY, 1, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_USED);
	store(TABLE, 600, PAGE(71) | NPT_USED);
	leads_to(LINEAR_32(1, 3), 70);
	leads_to(LINEAR_32(1, 600), 71);
	store(TABLE, 3, PAGE(72) | NPT_USED);
	store(TABLE, 600, 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 2);
	leads_to(LINEAR_32(1, 600), 71);
	flush();
	leads_to(LINEAR_32(1, 3), 72);
	is_refused(LINEAR_32(1, 600), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
}

/* A table of level 4 is below one processor's root, and the root of another. */
static void test_5_levels(void **state)
{
	uint64_t linear = UINT64_C(1) << 56 | UINT64_C(0x1000);

	(void)state;
	use(5);
	store(DIRECTORY, 256, PAGE(OTHER_DIRECTORY) | NPT_ALL);
	store(OTHER_DIRECTORY, 0, PAGE(5) | NPT_ALL);
	store(5, 0, PAGE(6) | NPT_ALL);
	store(6, 0, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 1, PAGE(70) | NPT_ALL);
	leads_to(linear, 70);
	is_refused(0x1000, 0);
	is_refused(UINT64_C(1) << 57, 0);
	now.root.v = PAGE(OTHER_DIRECTORY);
	use(4);
	leads_to(0x1000, 70);
	now.root.v = PAGE(DIRECTORY);
	use(5);
	store(DIRECTORY, 256, 0);
	flush();
	is_refused(linear, 0);
	now.root.v = PAGE(OTHER_DIRECTORY);
	use(4);
	leads_to(0x1000, 70);
	store(DIRECTORY, 256, PAGE(OTHER_DIRECTORY) | NPT_ALL | NPT_PS);
	now.root.v = PAGE(DIRECTORY);
	use(5);
	is_refused(linear, QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD);
}

/* The library walks L1's five levels for the vCPU: A and D are set, and rights count. */
static void test_walk_of_5_levels(void **state)
{
	const uint64_t tables[] = {DIRECTORY, OTHER_DIRECTORY, 5, 6, TABLE};
	const uint64_t write = QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER | QUIRE_PFERR_WRITE;
	const gpa_t gpa = {UINT64_C(1) << 56 | UINT64_C(0x1234)};
	const uint32_t index[] = {256, 0, 0, 0, 1};
	gpa_t found;

	(void)state;
	use(5);
	for (unsigned int i = 0; i < 5; i++)
		store(tables[i], index[i], PAGE(i < 4 ? tables[i + 1] : 70) | NPT_ALL);
	store(TABLE, 1, PAGE(70) | (NPT_ALL & ~NPT_W));
	assert_int_equal(quire_vcpu_walk_nested(world.vcpu, gpa, write, &found), -EFAULT);
	assert_int_equal(read_entry(TABLE, 1) & NPT_D, 0);
	assert_int_equal(
	    quire_vcpu_walk_nested(world.vcpu, gpa, write & ~QUIRE_PFERR_WRITE, &found), 0);
	assert_int_equal(found.v, PAGE(70) + 0x234);
	assert_int_equal(read_entry(TABLE, 1) & (NPT_A | NPT_D), NPT_A);
	store(TABLE, 1, PAGE(70) | NPT_ALL);
	assert_int_equal(quire_vcpu_walk_nested(world.vcpu, gpa, write, &found), 0);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(read_entry(tables[i], index[i]) & (NPT_A | NPT_D),
				 i < 4 ? NPT_A : NPT_A | NPT_D);
	store(DIRECTORY, 256, PAGE(OTHER_DIRECTORY) | (NPT_ALL & ~NPT_U));
	assert_int_equal(quire_vcpu_walk_nested(world.vcpu, gpa, write, &found), -EFAULT);
}

/*
 * A root or a directory where no slot can be: the guest has no tables there, and hears so. KVM does
 * not shadow such a root either.
 */
static void test_no_such_table(void **state)
{
	const uint64_t beyond = UINT64_C(1) << 51;

	(void)state;
	store(DIRECTORY, 0, PAGE(OTHER_DIRECTORY) | NPT_ALL);
	for (uint32_t levels = 4; levels <= 5; levels++) {
		now.root.v = beyond;
		use(levels);
		is_refused(0x1000, 0);
		is_refused(0x1000, 0);
	}
	now.levels = 3;
	store(OTHER_DIRECTORY, 7, PAGE(TABLE) | NPT_ALL);
	store(TABLE, 3, PAGE(70) | NPT_ALL);
	now.directories[0] = beyond | NPT_P;
	now.directories[1] = PAGE(OTHER_DIRECTORY) | NPT_P;
	use(3);
	is_refused(LINEAR_PAE(0, 7, 3), 0);
	leads_to(LINEAR_PAE(1, 7, 3), 70);
	now.directories[0] = PAGE(OTHER_DIRECTORY) | NPT_P;
	use(3);
	leads_to(LINEAR_PAE(0, 7, 3), 70);
}

/* With room for few pages the tables of the way that runs take those of the ways before. */
#define LEAST_PAGES 64u
static void test_few_pages(void **state)
{
	(void)state;
	use(2);
	for (uint32_t i = 0; i < 60; i++) {
		store(DIRECTORY, i * 17, PAGE(100 + i) | NPT_ALL);
		store(100 + i, 3, PAGE(70) | NPT_ALL);
		store(100 + i, 900, PAGE(71) | NPT_ALL);
	}
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, LEAST_PAGES), 0);
	for (uint32_t i = 0; i < 60; i++) {
		now.wp = i & 1;
		use(2);
		leads_to(LINEAR_32(i * 17, 3), 70);
		leads_to(LINEAR_32(i * 17, 900), 71);
		assert_true(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages) <= LEAST_PAGES);
	}
	assert_true(world_stat(&world, QUIRE_VM_STAT_mmu_recycled) > 0);
}

/* What the tables say, by definition: 0 and the page in *@gfn; or 1 + the error code. */
static uint64_t defined(uint64_t linear, enum world_access access, uint64_t *gfn)
{
	uint32_t bits = now.levels == 2 ? 10 : 9, level = now.levels == 3 ? 2 : now.levels;
	uint64_t table = now.root.v >> 12, rights = NPT_W, nx = 0, error = 0;

	if (access == WORLD_WRITE)
		error = QUIRE_PFERR_WRITE;
	if (access == WORLD_FETCH && (now.nx || now.smep))
		error = QUIRE_PFERR_FETCH;
	if (!now.paging)
		error |= QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL;
	if (now.levels == 3) {
		table = now.directories[linear >> 30] >> 12;
		if (!(now.directories[linear >> 30] & NPT_P))
			return 1 + error;
	}
	for (;; level--) {
		uint32_t index = linear >> (12 + bits * (level - 1)) & ((1u << bits) - 1);
		uint64_t entry = read_entry(table, index);

		if (!(entry & NPT_P))
			return 1 + error;
		rights &= entry;
		nx |= entry & NPT_NX;
		table = (entry & ADDRESS) >> 12;
		if (level == 1)
			break;
	}
	*gfn = table;
	if ((access == WORLD_WRITE && !rights) || (access == WORLD_FETCH && nx))
		return 1 + (error | QUIRE_PFERR_PRESENT);
	return 0;
}

static uint64_t random_state;

static uint32_t random_below(uint32_t end)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 33) % end;
}

/* Tables 1 to 7 lead to each other and to data, through few entries, so that much is shared. */
static void random_store(void)
{
	static const uint32_t indexes[] = {0, 1, 511, 512, 1023};
	uint32_t table = 1 + random_below(TABLES_END - 1);
	uint32_t index = indexes[random_below(now.levels == 2 ? 5 : 3)];
	uint64_t target =
	    random_below(3) ? 1 + random_below(TABLES_END - 1) : WORLD_DATA + random_below(8);
	uint64_t entry = PAGE(target) | NPT_U | (random_below(8) ? NPT_P : 0) |
			 (random_below(4) ? NPT_W : 0) | (random_below(2) ? NPT_A | NPT_D : 0);

	if (now.nx && !random_below(4))
		entry |= NPT_NX;
	if (random_below(2))
		store(table, index, entry);
	else
		hypervisor_stores(PAGE(table) + index * entry_bytes(), entry, entry_bytes());
}

/* An address that goes through those entries alone. */
static uint64_t random_linear(void)
{
	uint64_t linear = 0;

	if (now.levels == 2)
		return LINEAR_32(random_below(2) ? random_below(2) : 1023 - random_below(2) * 512,
				 random_below(2) ? random_below(2) : 1023 - random_below(2) * 512);
	for (uint32_t level = 1; level <= (now.levels == 3 ? 2 : now.levels); level++)
		linear |= (uint64_t)(random_below(3) ? random_below(2) : 511)
			  << (12 + 9 * (level - 1));
	return now.levels == 3 ? linear | (uint64_t)random_below(4) << 30 : linear;
}

/* Entries of another size would be what no guest makes. */
static void clear_tables(void)
{
	static const uint8_t zeroes[QUIRE_PAGE_SIZE];

	for (uint64_t table = 1; table < TABLES_END; table++)
		assert_int_equal(
		    quire_vcpu_write(world.vcpu, (gpa_t){PAGE(table)}, zeroes, sizeof(zeroes)), 0);
}

static void random_load(void)
{
	now.root.v = PAGE(1 + random_below(2));
	for (uint32_t i = 0; i < 4; i++)
		now.directories[i] =
		    now.levels == 3 && random_below(4) ? PAGE(1 + random_below(3)) | NPT_P : 0;
	now.smep = random_below(4) == 0;
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &now), 0);
}

static void check_random(void)
{
	enum world_access access = (enum world_access)random_below(3);
	uint64_t linear = random_linear(), gfn = 0, told, error;
	struct world_result result;

	flush();
	error = defined(linear, access, &gfn);
	result = access_to(linear, access, &told);
	/* SMEP keeps a supervisor from pages of the user's, which these all are. */
	if (access == WORLD_FETCH && now.smep && now.paging && !error)
		return;
	if (result.outcome == QUIRE_WRITE_PROTECTED) {
		/* A table that maps itself. */
		assert_int_equal(error, 0);
		assert_int_equal(told >> 12, gfn);
		return;
	}
	if (error) {
		assert_int_equal(result.outcome, QUIRE_NESTED_FAULT);
		assert_int_equal(result.error, error - 1);
		return;
	}
	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(&world, gfn));
}

static void test_random(void **state)
{
	(void)state;
	random_state = 1;
	for (uint32_t round = 0; round < 160; round++) {
		static const uint32_t ways[] = {2, 3, 5, 4};

		clear_tables();
		use(ways[round % 4]);
		random_load();
		for (uint32_t i = 0; i < 60; i++) {
			if (!random_below(8))
				random_load();
			if (!random_below(20))
				assert_int_equal(quire_vm_set_nr_mmu_pages(
						     world.vm, LEAST_PAGES + random_below(60)),
						 0);
			random_store();
			check_random();
		}
	}
}

#define WAY_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int way_tests(void)
{
	const struct CMUnitTest tests[] = {
	    WAY_TEST(test_quadrants),
	    WAY_TEST(test_directory_pages),
	    WAY_TEST(test_written_entries),
	    WAY_TEST(test_marks_of_4_bytes),
	    WAY_TEST(test_4m),
	    WAY_TEST(test_directories),
	    WAY_TEST(test_each_directory),
	    WAY_TEST(test_two_pae_roots),
	    WAY_TEST(test_directory_without_root),
	    WAY_TEST(test_unsync),
	    WAY_TEST(test_5_levels),
	    WAY_TEST(test_no_such_table),
	    WAY_TEST(test_few_pages),
	    WAY_TEST(test_random),
	    cmocka_unit_test_setup_teardown(test_random, setup_nested, teardown),
	    cmocka_unit_test_setup_teardown(test_walk_of_5_levels, setup_nested, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
