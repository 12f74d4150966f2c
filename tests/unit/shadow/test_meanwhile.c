/* What changes between a fault's walk of L1's tables and its mapping: by L1, a vCPU or the host. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define OTHER_4K 5u
/* No neighbour of the pages that are mapped before. */
#define FAR 12u

/* The first processor is L1's, the second runs L2. */
#define L1 0u
#define L2 1u

static struct world world;
static void (*meanwhile)(void); /* once, when the walk is over; or NULL */
static hva_t watched;		/* an entry of L1's: once, when the walk has read it */
static void (*after_entry)(void);

static void once(void (**what)(void))
{
	void (*now)(void) = *what;

	*what = NULL;
	if (now)
		now();
}

/* A fault asks for the page when it has walked L1's tables, and before it takes a lock. */
static int get_page(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	once(&meanwhile);
	return sim_host_ops.page_get(ctx, hva, flags, page);
}

static int load(void *ctx, hva_t src, uint64_t *value)
{
	int err = sim_host_ops.load_u64(ctx, src, value);

	if (src.v == watched.v)
		once(&after_entry);
	return err;
}

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	world.ops.page_get = get_page;
	world.ops.load_u64 = load;
	for (uint32_t i = 0; i < 16; i++) {
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_USED);
		world_set_entry(&world, OTHER_4K, i, PAGE(90 + i) | NPT_USED);
	}
	world_nested_on(&world, L2, 1);
	return 0;
}

static int teardown(void **state)
{
	assert_null(meanwhile);
	assert_null(after_entry);
	return world_teardown(state);
}

static uint8_t *l2_host(uint64_t gpa)
{
	struct world_result result = world_access_on(&world, L2, gpa, WORLD_WRITE);

	return result.outcome ? NULL : result.host;
}

/* L2 writes at @gpa while @what happens. From its next flush on it sees page @page there. */
static void check_after(uint64_t gpa, void (*what)(void), uint64_t page)
{
	meanwhile = what;
	assert_non_null(l2_host(gpa));
	quire_vcpu_flush_nested(world.cpus[L2].vcpu);
	assert_ptr_equal(l2_host(gpa), world_page(&world, page));
}

static void replace_table(void)
{
	world_set_entry(&world, TABLE_2M, 0, PAGE(OTHER_4K) | NPT_USED);
}

/* L1 replaces a table: what the walk found below the old one is not installed below the new. */
static void test_table_is_replaced(void **state)
{
	(void)state;
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	check_after(PAGE(FAR), replace_table, 90 + FAR);
}

static void replace_leaf(void)
{
	world_set_entry(&world, TABLE_4K, FAR, PAGE(110) | NPT_USED);
}

static void test_leaf_is_replaced(void **state)
{
	(void)state;
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	check_after(PAGE(FAR), replace_leaf, 110);
}

static void replace_and_flush(void)
{
	uint64_t faults = world.cpus[L1].faults;

	replace_leaf();
	/* L1's table lags: its write is not noticed. */
	assert_int_equal(world.cpus[L1].faults, faults);
	quire_vcpu_flush_nested(world.cpus[L2].vcpu);
	world_nested_on(&world, L1, 1);
	assert_int_equal(world_access_on(&world, L1, PAGE(1), WORLD_READ).outcome, 0);
	world_nested_on(&world, L1, 0);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_mmu_unsync), 0);
}

/* L1 writes a table that lags and runs L2 on its own vCPU: what the first walk found is old. */
static void test_table_is_synced(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		assert_ptr_equal(l2_host(PAGE(i)), world_page(&world, 70 + i));
	world_set_entry(&world, TABLE_4K, 1, PAGE(101) | NPT_USED);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_mmu_unsync), 1);
	check_after(PAGE(FAR), replace_and_flush, 110);
}

/* The page of the table goes, and another with other entries comes, as a client may have it. */
static void replace_page_of_table(void)
{
	hva_t start = sim_hva(TABLE_4K), end = sim_hva(TABLE_4K + 1);
	uint8_t bytes[QUIRE_PAGE_SIZE];

	memcpy(bytes, world_page(&world, OTHER_4K), sizeof(bytes));
	quire_vm_host_invalidate_begin(world.vm, start, end);
	sim_unmap(&world.host, TABLE_4K);
	sim_map(&world.host, TABLE_4K, SIM_WRITABLE);
	memcpy(world_page(&world, TABLE_4K), bytes, sizeof(bytes));
	quire_vm_host_invalidate_end(world.vm, start, end);
}

static void test_host_replaces_the_table(void **state)
{
	(void)state;
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	check_after(PAGE(FAR), replace_page_of_table, 90 + FAR);
}

/* The same while the walk goes on: the fault asks for nothing before that is over. */
static void test_host_replaces_what_was_read(void **state)
{
	(void)state;
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	watched.v = sim_hva(TABLE_4K).v + FAR * sizeof(uint64_t);
	after_entry = replace_page_of_table;
	check_after(PAGE(FAR), NULL, 90 + FAR);
}

static void move_slot(void)
{
	const struct quire_region gone = {.slot = 0};
	const struct quire_region shifted = {
	    .slot = 0, .size_bytes = PAGE(WORLD_SLOT_PAGES - 1), .hva = sim_hva(1)};

	assert_int_equal(quire_vm_set_region(world.vm, &gone), 0);
	assert_int_equal(quire_vm_set_region(world.vm, &shifted), 0);
}

/* Each gfn shows the next page from then on, L1's root among them: L2 has no tables any more. */
static void test_slot_is_another(void **state)
{
	(void)state;
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	meanwhile = move_slot;
	assert_null(l2_host(PAGE(FAR)));
	assert_null(l2_host(PAGE(0)));
}

/* L2 begins to use the table, so it is tracked; and its page is mapped again, for reading. */
static void use_and_read_table(void)
{
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	world_nested_on(&world, L2, 0);
	assert_int_equal(world_access_on(&world, L2, PAGE(TABLE_4K), WORLD_READ).outcome, 0);
	world_nested_on(&world, L2, 1);
}

/* L1 is about to write what becomes a table: it gets no right to, and the write is noticed. */
static void test_page_becomes_a_table(void **state)
{
	hva_t start = sim_hva(TABLE_4K), end = sim_hva(TABLE_4K + 1);

	(void)state;
	quire_vm_host_invalidate_begin(world.vm, start, end);
	quire_vm_host_invalidate_end(world.vm, start, end);
	meanwhile = use_and_read_table;
	world_set_entry(&world, TABLE_4K, FAR, PAGE(110) | NPT_USED);
	assert_null(meanwhile);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_mmu_unsync), 1);
	quire_vcpu_flush_nested(world.cpus[L2].vcpu);
	assert_ptr_equal(l2_host(PAGE(FAR)), world_page(&world, 110));
}

#define MEANWHILE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int meanwhile_tests(void)
{
	const struct CMUnitTest tests[] = {
	    MEANWHILE_TEST(test_table_is_replaced),
	    MEANWHILE_TEST(test_leaf_is_replaced),
	    MEANWHILE_TEST(test_table_is_synced),
	    MEANWHILE_TEST(test_host_replaces_the_table),
	    MEANWHILE_TEST(test_host_replaces_what_was_read),
	    MEANWHILE_TEST(test_slot_is_another),
	    MEANWHILE_TEST(test_page_becomes_a_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
