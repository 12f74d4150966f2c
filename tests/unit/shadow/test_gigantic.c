/* Nested mappings of 1 GiB: L1 maps them, the host backs them, and the log splits them. */
#include <quire/dirty.h>
#include <quire/trace.h>

#include "tests/unit/support.h"

/* L1's tables are in slot 0, in small pages behind the rows; slot 1 is a block of 1 GiB. */
#define TABLES 16u
#define TABLES_PAGE (2 * SIM_GIGANTIC)
#define ROOT 1u
#define TABLE_1G 2u
#define TABLE_2M 3u
#define DATA SIM_GIGANTIC /* gfn, and client page */

/* L1's entries. */
#define ALL UINT64_C(7)
#define LEAF UINT64_C(0xe0) /* PS, and A and D, which no walk need set then */
/* What L2 sees: the block, the block again, and 2 MiB of its middle. */
#define FIRST SIM_GIGANTIC
#define AGAIN (2 * SIM_GIGANTIC)
#define PIECE (3 * SIM_GIGANTIC)
/* Small pages that one fault maps, where the host has them. */
#define GROUP 8u

static uint64_t splits[QUIRE_LEVEL_512G];

static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event == QUIRE_TRACE_kvm_mmu_split_huge_page && !args[3])
		splits[args[2]]++;
}

static void set_entry(uint32_t table, uint32_t index, uint64_t entry)
{
	memcpy(frame_of(TABLES_PAGE + table)->bytes + index * sizeof(entry), &entry, sizeof(entry));
}

static int set_data_slot(uint32_t flags)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = flags,
	    .gpa = {PAGES(DATA)},
	    .size_bytes = PAGES(SIM_GIGANTIC),
	    .hva = sim_hva(DATA),
	};

	return quire_vm_set_region(machine.vm, &region);
}

static void make_tables(void)
{
	struct quire_region region = {.size_bytes = PAGES(TABLES), .hva = sim_hva(TABLES_PAGE)};

	map_pages(TABLES_PAGE, TABLES, SIM_WRITABLE);
	for (uint32_t i = 0; i < TABLES; i++)
		memset(frame_of(TABLES_PAGE + i)->bytes, 0, QUIRE_PAGE_SIZE);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	set_entry(ROOT, 0, PAGES(TABLE_1G) | ALL | 0x20);
	set_entry(TABLE_1G, 1, PAGES(DATA) | ALL | LEAF);
	set_entry(TABLE_1G, 2, PAGES(DATA) | ALL | LEAF);
	set_entry(TABLE_1G, 3, PAGES(TABLE_2M) | ALL | 0x20);
	set_entry(TABLE_2M, 0, PAGES(DATA + SIM_GIGANTIC / 2) | ALL | LEAF);
}

static void begin(void)
{
	const struct quire_nested tables = {.root = {PAGES(ROOT)}, .levels = 4, .nx = 1, .wp = 1};

	vm_begin();
	memset(splits, 0, sizeof(splits));
	quire_trace_install(record);
	make_tables();
	sim_map_gigantic(&machine.host, DATA, SIM_WRITABLE);
	assert_int_equal(set_data_slot(0), 0);
	assert_int_equal(quire_vcpu_set_nested(machine.vcpus[0], &tables), 0);
}

static void end(void)
{
	const struct quire_region gone = {.slot = 1};

	quire_trace_install(NULL);
	machine.tunables.eager_page_split = 1;
	assert_int_equal(quire_vcpu_set_nested(machine.vcpus[0], NULL), 0);
	/* With the slot go the leaves, which machine_stop() would look for in L1's tables. */
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	leaves_are(0, 0, 0);
	vm_end();
}

/* L2 stores at page @page of what it sees from @base on. */
static void l2_store(uint64_t base, uint64_t page, uint8_t byte)
{
	uint32_t at = DATA + (uint32_t)(base == PIECE ? SIM_GIGANTIC / 2 + page : page);

	store(base + page, byte);
	assert_int_equal(frame_of(at)->bytes[0], byte);
}

static uint8_t l2_load(uint64_t base, uint64_t page)
{
	return load(base + page);
}

/* As large as L1 says and the host has: 1 GiB twice, 2 MiB once. */
static void test_levels(void **state)
{
	(void)state;
	begin();
	l2_store(FIRST, MIDDLE, 1);
	leaves_are(1, 0, 0);
	l2_store(AGAIN, 5, 2);
	leaves_are(2, 0, 0);
	assert_int_equal(l2_load(AGAIN, MIDDLE), 1);
	l2_store(PIECE, 77, 3);
	leaves_are(2, 1, 0);
	assert_int_equal(l2_load(FIRST, MIDDLE), 3);
	l2_store(FIRST, SIM_GIGANTIC - 1, 4);
	leaves_are(2, 1, 0);
	end();
}

/* The host has smaller ones: pieces of L1's leaf, each as large as can be. */
static void test_host_replaces_a_part(void **state)
{
	hva_t start = sim_hva(DATA + MIDDLE), stop = sim_hva(DATA + MIDDLE + 1);

	(void)state;
	begin();
	l2_store(FIRST, 5, 1);
	l2_store(AGAIN, 5, 1);
	l2_store(PIECE, 5, 1);
	quire_vm_host_invalidate_begin(machine.vm, start, stop);
	leaves_are(0, 0, 0);
	sim_unmap(&machine.host, DATA + MIDDLE);
	sim_map(&machine.host, DATA + MIDDLE, SIM_WRITABLE);
	quire_vm_host_invalidate_end(machine.vm, start, stop);
	l2_store(FIRST, 5, 2);
	leaves_are(0, 1, 0);
	/* The same piece by another name. */
	assert_int_equal(l2_load(AGAIN, 5), 2);
	leaves_are(0, 1, 0);
	l2_store(FIRST, MIDDLE, 3);
	/* And a piece of it that L1 maps by itself. */
	assert_int_equal(l2_load(PIECE, 77), 3);
	leaves_are(0, 1, GROUP);
	end();
}

/* Both levels go when logging starts, shared by the names; no write slips through; and back. */
static void test_log(void **state)
{
	(void)state;
	begin();
	for (int round = 0; round < 2; round++) {
		l2_store(FIRST, MIDDLE, 1);
		l2_store(AGAIN, 5, 2);
		leaves_are(2, 0, 0);
		memset(splits, 0, sizeof(splits));
		assert_int_equal(set_data_slot(QUIRE_SLOT_LOG_DIRTY), 0);
		assert_int_equal(splits[QUIRE_LEVEL_1G], 2);
		assert_int_equal(splits[QUIRE_LEVEL_2M], BLOCKS);
		leaves_are(0, 0, SIM_GIGANTIC);
		l2_store(FIRST, MIDDLE, 3);
		l2_store(AGAIN, 5, 4);
		assert_int_equal(log_harvest(1), 2);
		assert_true(log_has(MIDDLE) && log_has(5));
		l2_store(AGAIN, MIDDLE, 5);
		assert_int_equal(log_harvest(1), 1);
		leaves_are(0, 0, SIM_GIGANTIC);
		assert_int_equal(set_data_slot(0), 0);
	}
	end();
}

/* Without eager splitting a write leaves small pages around it, and large ones elsewhere. */
static void test_lazy_log(void **state)
{
	(void)state;
	machine.tunables.eager_page_split = 0;
	begin();
	l2_store(FIRST, MIDDLE, 1);
	assert_int_equal(set_data_slot(QUIRE_SLOT_LOG_DIRTY), 0);
	leaves_are(1, 0, 0);
	assert_int_equal(l2_load(FIRST, 5), 0);
	leaves_are(1, 0, 0);
	l2_store(FIRST, MIDDLE, 2);
	leaves_are(0, 0, 1);
	l2_store(FIRST, 5, 3);
	assert_int_equal(log_harvest(1), 2);
	assert_true(log_has(MIDDLE) && log_has(5));
	assert_int_equal(set_data_slot(0), 0);
	l2_store(FIRST, 5, 4);
	leaves_are(1, 0, 0);
	end();
}

/* No memory for tables of 4K: what is left at 2 MiB comes back at 1 GiB as well. */
static void test_half_split(void **state)
{
	(void)state;
	begin();
	l2_store(FIRST, MIDDLE, 1);
	/* A quota that lets some blocks be split, and not all. */
	assert_int_equal(quire_vm_set_nr_mmu_pages(machine.vm, 80), 0);
	assert_int_equal(set_data_slot(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_1g), 0);
	assert_true(stat(QUIRE_VM_STAT_pages_2m) > 0);
	assert_true(stat(QUIRE_VM_STAT_pages_4k) > 0);
	l2_store(FIRST, MIDDLE, 2);
	l2_store(FIRST, SIM_GIGANTIC - 9, 2);
	assert_int_equal(log_harvest(1), 2);
	assert_int_equal(set_data_slot(0), 0);
	leaves_are(0, 0, 0);
	l2_store(FIRST, 5, 3);
	l2_store(FIRST, SIM_GIGANTIC - 9, 3);
	leaves_are(1, 0, 0);
	end();
}

/* The workaround: read at 1 GiB, executed at 4 KiB, and what is executed may be executed. */
static void test_nx(void **state)
{
	uint64_t fetch = QUIRE_PFERR_FETCH;

	(void)state;
	begin();
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	assert_int_equal(l2_load(FIRST, 5), 0);
	leaves_are(1, 0, 0);
	assert_int_equal(fault_at(FIRST + MIDDLE, fetch), QUIRE_FIXED);
	leaves_are(0, 0, GROUP);
	end();
}

/*
 * Where one page of the host's keeps L1's leaf from being one, its pieces are as large as can be:
 * those of 2 MiB stay when logging stops, those that were split come back, the small ones stay.
 */
static void test_pieces_recover(void **state)
{
	uint64_t faults;

	(void)state;
	begin();
	machine.tunables.eager_page_split = 0;
	sim_unmap(&machine.host, DATA + MIDDLE);
	sim_map(&machine.host, DATA + MIDDLE, SIM_WRITABLE);
	l2_store(FIRST, MIDDLE, 1);
	leaves_are(0, 0, GROUP);
	l2_store(FIRST, 5, 1);
	l2_store(FIRST, SIM_GIGANTIC - 9, 1);
	leaves_are(0, 2, GROUP);
	assert_int_equal(set_data_slot(QUIRE_SLOT_LOG_DIRTY), 0);
	leaves_are(0, 2, GROUP);
	/* One of the pieces is written, the other is not. */
	l2_store(FIRST, 5, 2);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 1);
	assert_int_equal(log_harvest(1), 1);
	assert_int_equal(set_data_slot(0), 0);
	leaves_are(0, 1, GROUP);
	faults = quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken);
	assert_int_equal(l2_load(FIRST, SIM_GIGANTIC - 9), 1);
	assert_int_equal(l2_load(FIRST, MIDDLE), 1);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken), faults);
	l2_store(FIRST, 5, 3);
	leaves_are(0, 2, GROUP);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_levels),
	    cmocka_unit_test(test_host_replaces_a_part),
	    cmocka_unit_test(test_log),
	    cmocka_unit_test(test_lazy_log),
	    cmocka_unit_test(test_half_split),
	    cmocka_unit_test(test_nx),
	    cmocka_unit_test(test_pieces_recover),
	};

	return run_formats_x86(tests, sizeof(tests) / sizeof(tests[0]), 2);
}
