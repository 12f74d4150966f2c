/* Operations on a vCPU: its making, guest mode, faults, nested tables. */
#include "tests/rules/lib/nth.h"

#define ABSENT UINT64_C(0x2000000)
/* L1's tables, in pages of slot 1: one of each level, the first entry of each, and 16 leaves. */
#define NESTED_ROOT (GPA + 4 * QUIRE_PAGE_SIZE)
#define NESTED_LEVELS 4u

static int create_vcpu(void)
{
	return nth_make_vcpu(7, &nth.other_vcpu);
}

static void need_other(void)
{
	assert_int_equal(create_vcpu(), 0);
}

static int destroy_vcpu(void)
{
	quire_vcpu_destroy(nth.other_vcpu);
	nth.other_vcpu = NULL;
	return 0;
}

static int vcpu_id(void)
{
	return quire_vcpu_id(nth.vcpu) != 0;
}

static int doorbell(void)
{
	return quire_vcpu_doorbell(nth.vcpu) == NULL;
}

static int request(void)
{
	quire_vcpu_request(nth.vcpu, UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
	return 0;
}

static int take_requests(void)
{
	return quire_vcpu_take_requests(nth.vcpu, UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT) != 0;
}

static int set_second_space(void)
{
	return quire_vcpu_set_address_space(nth.vcpu, 1);
}

static void need_second_space(void)
{
	need_slot();
	assert_int_equal(nth_set_slot(1 | 1u << 16, GPA, 0), 0);
	assert_int_equal(set_second_space(), 0);
}

/* A retry is no success: the guest's access comes again. */
static int fault(uint64_t gpa, uint64_t access)
{
	int result = nth_fault(gpa, access);

	return result == QUIRE_RETRY ? -EINTR : result;
}

static int fault_read(void)
{
	return fault(GPA, 0);
}

static int fault_write(void)
{
	return fault(GPA, QUIRE_PFERR_WRITE);
}

static int fault_nowait(void)
{
	return fault(GPA, QUIRE_PFERR_WRITE | QUIRE_PFERR_NOWAIT);
}

static int fault_private(void)
{
	return fault(GPA + QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE);
}

static int fault_absent(void)
{
	return fault(ABSENT, QUIRE_PFERR_WRITE);
}

static void need_huge_slot(void)
{
	assert_int_equal(nth_set_slot(2, HUGE_GPA, 0), 0);
	assert_int_equal(nth_enter(), 0);
}

static int fault_huge(void)
{
	return fault(HUGE_GPA, QUIRE_PFERR_WRITE);
}

static void need_late_log(void)
{
	need_huge();
	assert_int_equal(nth_set_slot(2, HUGE_GPA, QUIRE_SLOT_LOG_DIRTY), 0);
}

static void need_nx(void)
{
	quire_vm_set_nx_huge_pages(nth.vm, 1);
	need_huge();
}

static int fault_fetch(void)
{
	return fault(HUGE_GPA, QUIRE_PFERR_FETCH);
}

static int page_ready(void)
{
	quire_vcpu_page_ready(nth.vcpu, (gpa_t){GPA}, QUIRE_PFERR_WRITE);
	return 0;
}

static int prefault_at(uint64_t gpa)
{
	uint64_t done = 0;
	int error = quire_vcpu_prefault(nth.vcpu, (gpa_t){gpa}, QUIRE_PAGE_SIZE, &done);

	return error ? error : done == 0;
}

static int prefault(void)
{
	return prefault_at(GPA);
}

static int prefault_private(void)
{
	return prefault_at(GPA + QUIRE_PAGE_SIZE);
}

static int lost_page(void)
{
	return quire_vcpu_lost_page(nth.vcpu).v != 0;
}

static int lose_frame(void)
{
	return quire_vcpu_lose_frame(nth.vcpu, (pfn_t){1});
}

static int vm_lose_frame(void)
{
	return quire_vm_lose_frame(nth.vm, (pfn_t){1});
}

static int vcpu_stat(void)
{
	return quire_vcpu_stat(nth.vcpu, QUIRE_VCPU_STAT_pf_taken) != PAGES;
}

/* --- nested tables --- */

static void put_word(uint64_t gpa, uint64_t word)
{
	assert_int_equal(quire_vm_write(nth.vm, (gpa_t){gpa}, &word, sizeof(word)), 0);
}

/* Tables of L1 for L2, or of a guest that runs without a second stage. */
static struct quire_nested tables;

static uint64_t table_at(uint32_t number)
{
	return NESTED_ROOT + number * QUIRE_PAGE_SIZE;
}

/* Page 0 is the first of the slot; with entries of 8 bytes page 1 is the root. */
static void make_tables(uint32_t levels, uint32_t paging)
{
	const uint64_t present = 1, rights = 7;

	tables = (struct quire_nested){.root = {NESTED_ROOT},
				       .levels = levels,
				       .nx = levels > 2,
				       .wp = 1,
				       .pse = levels == 2,
				       .paging = paging};
	need_slot();
	/* PAE's own entries are the processor's, and have no rights. */
	tables.directories[0] = table_at(1) | present;
	for (uint32_t level = 0; level + 1 < levels; level++)
		put_word(table_at(level),
			 table_at(level + 1) | (levels == 3 && !level ? present : rights));
	put_word(table_at(levels - 1), GPA | rights);
	if (levels > 2)
		put_word(table_at(levels - 1) + 8, NESTED_ROOT | rights);
}

static void make_nested_tables(void)
{
	make_tables(NESTED_LEVELS, 0);
}

static int set_nested(void)
{
	return quire_vcpu_set_nested(nth.vcpu, &tables);
}

static void need_tables(uint32_t levels, uint32_t paging)
{
	make_tables(levels, paging);
	assert_int_equal(set_nested(), 0);
}

static void need_nested(void)
{
	need_tables(NESTED_LEVELS, 0);
}

static void need_nested_root(void)
{
	need_nested();
	assert_int_equal(nth_enter(), 0);
}

#define NEED_TABLES(levels)                         \
	static void need_nested_##levels(void)      \
	{                                           \
		need_tables(levels, 0);             \
	}                                           \
	static void need_nested_root_##levels(void) \
	{                                           \
		need_tables(levels, 0);             \
		assert_int_equal(nth_enter(), 0);   \
	}                                           \
	static void need_paging_##levels(void)      \
	{                                           \
		need_tables(levels, 1);             \
	}                                           \
	static void need_paging_root_##levels(void) \
	{                                           \
		need_tables(levels, 1);             \
		assert_int_equal(nth_enter(), 0);   \
	}

NEED_TABLES(2)
NEED_TABLES(3)
NEED_TABLES(4)
NEED_TABLES(5)

/* Retries until the page is mapped. Where a word of L1's tables cannot be read, L2 faults. */
static int fault_nested_at(uint64_t address)
{
	int result;

	/* As the guest comes again: by a root that is valid. */
	while ((result = nth_fault(address, QUIRE_PFERR_WRITE | QUIRE_PFERR_USER)) == QUIRE_RETRY) {
		result = nth_enter();
		if (result)
			return result;
	}
	return result == QUIRE_NESTED_FAULT ? -EFAULT : result;
}

static int fault_nested(void)
{
	return fault_nested_at(0);
}

/* A write to a page that is one of L1's tables. */
static int fault_nested_table(void)
{
	return fault_nested_at(QUIRE_PAGE_SIZE);
}

static void need_nested_mapped(void)
{
	need_nested_root();
	assert_int_equal(fault_nested(), QUIRE_FIXED);
}

static int flush_nested(void)
{
	quire_vcpu_flush_nested(nth.vcpu);
	return nth_enter();
}

static int walk_nested(void)
{
	gpa_t result;
	int error = quire_vcpu_walk_nested(nth.vcpu, (gpa_t){8}, QUIRE_PFERR_USER, &result);

	return error ? error : result.v != GPA + 8;
}

static int end_nested(void)
{
	return quire_vcpu_set_nested(nth.vcpu, NULL);
}

/* A root, and a fault, by tables of so many levels. */
#define ROWS_OF_TABLES(levels)                                                                \
	{"quire_vcpu_enter", 0, need_nested_##levels, nth_enter},                             \
	    {"quire_vcpu_fault", NTH_KEEPS_PART, need_nested_root_##levels, fault_nested},    \
	    {"quire_vcpu_enter", NTH_SHADOWED, need_paging_##levels, nth_enter},              \
	{                                                                                     \
		"quire_vcpu_fault", NTH_SHADOWED | NTH_KEEPS_PART, need_paging_root_##levels, \
		    fault_nested                                                              \
	}

/* A walk of L1's tables sets A on its way, as a processor's: that stays. */
const struct operation nth_vcpu_operations[] = {
    {"quire_vcpu_create", 0, NULL, create_vcpu},
    {"quire_vcpu_create", NTH_SHADOWED, NULL, create_vcpu},
    {"quire_vcpu_destroy", 0, need_other, destroy_vcpu},
    {"quire_vcpu_id", 0, NULL, vcpu_id},
    {"quire_vcpu_doorbell", 0, NULL, doorbell},
    {"quire_vcpu_request", 0, NULL, request},
    {"quire_vcpu_take_requests", 0, NULL, take_requests},
    {"quire_vcpu_enter", 0, need_slot, nth_enter},
    {"quire_vcpu_enter", NTH_SHADOWED, need_slot, nth_enter},
    {"quire_vcpu_enter", 0, need_second_space, nth_enter},
    {"quire_vcpu_enter", 0, need_nested, nth_enter},
    {"quire_vcpu_leave", 0, need_mapped, nth_enter},
    {"quire_vcpu_set_address_space", 0, need_mapped, set_second_space},
    {"quire_vcpu_fault", 0, need_root, fault_read},
    {"quire_vcpu_fault", 0, need_root, fault_write},
    {"quire_vcpu_fault", NTH_SHADOWED, need_root, fault_read},
    {"quire_vcpu_fault", NTH_SHADOWED, need_root, fault_write},
    {"quire_vcpu_fault", 0, need_root, fault_nowait},
    {"quire_vcpu_fault", 0, need_root, fault_absent},
    {"quire_vcpu_fault", NTH_SHADOWED, need_root, fault_absent},
    {"quire_vcpu_fault", NTH_PRIVATE, need_private, fault_read},
    {"quire_vcpu_fault", NTH_PRIVATE, need_private, fault_private},
    {"quire_vcpu_fault", 0, need_huge_slot, fault_huge},
    {"quire_vcpu_fault", NTH_SPLITS_LATE, need_late_log, fault_huge},
    {"quire_vcpu_fault", 0, need_nx, fault_fetch},
    {"quire_vcpu_fault", NTH_KEEPS_PART, need_nested_root, fault_nested},
    {"quire_vcpu_fault", NTH_KEEPS_PART, need_nested_root, fault_nested_table},
    ROWS_OF_TABLES(2),
    ROWS_OF_TABLES(3),
    ROWS_OF_TABLES(4),
    ROWS_OF_TABLES(5),
    {"quire_vcpu_page_ready", 0, need_root, page_ready},
    {"quire_vcpu_page_ready", NTH_SHADOWED, need_root, page_ready},
    {"quire_vcpu_prefault", 0, need_slot, prefault},
    {"quire_vcpu_prefault", NTH_SHADOWED, need_slot, prefault},
    {"quire_vcpu_prefault", NTH_PRIVATE, need_private, prefault_private},
    {"quire_vcpu_lost_page", 0, need_mapped, lost_page},
    {"quire_vcpu_lose_frame", NTH_PRIVATE, need_private, lose_frame},
    {"quire_vm_lose_frame", NTH_PRIVATE, need_private, vm_lose_frame},
    {"quire_vcpu_set_nested", 0, make_nested_tables, set_nested},
    {"quire_vcpu_set_nested", 0, need_nested_mapped, end_nested},
    {"quire_vcpu_flush_nested", 0, need_nested_mapped, flush_nested},
    {"quire_vcpu_walk_nested", NTH_KEEPS_PART, need_nested_root, walk_nested},
    {"quire_vcpu_stat", 0, need_mapped, vcpu_stat},
    {NULL, 0, NULL, NULL},
};
