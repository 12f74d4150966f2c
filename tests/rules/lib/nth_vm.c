/* Operations on a VM: its making, slots, attributes, what the host changes. */
#include "tests/rules/lib/nth.h"

/* --- making and ending --- */

static void no_vm(void)
{
	quire_vcpu_destroy(nth.vcpu);
	quire_vm_put(nth.vm);
	nth.vcpu = NULL;
	nth.vm = NULL;
}

static int create_vm(void)
{
	int error = nth_make_vm(&nth.vm);

	if (!error)
		error = quire_vm_is_dead(nth.vm);
	return error;
}

static void vm_alone(void)
{
	need_log();
	quire_vcpu_destroy(nth.vcpu);
	nth.vcpu = NULL;
}

static int put_vm(void)
{
	quire_vm_put(nth.vm);
	nth.vm = NULL;
	return 0;
}

static int get_vm(void)
{
	quire_vm_get(nth.vm);
	quire_vm_put(nth.vm);
	return 0;
}

static int set_dead(void)
{
	quire_vm_set_dead(nth.vm);
	return !quire_vm_is_dead(nth.vm);
}

/* --- slots --- */

static int create_slot(void)
{
	return nth_set_slot(1, GPA, 0);
}

static int create_readonly_slot(void)
{
	return nth_set_slot(1, GPA, QUIRE_SLOT_READONLY);
}

static int create_logging_slot(void)
{
	return nth_set_slot(1, GPA, QUIRE_SLOT_LOG_DIRTY);
}

static int move_slot(void)
{
	return nth_set_slot(1, ELSEWHERE, 0);
}

static int delete_slot(void)
{
	struct quire_region region = {.slot = 1};

	return quire_vm_set_region(nth.vm, &region);
}

static int log_slot(void)
{
	return nth_set_slot(1, GPA, QUIRE_SLOT_LOG_DIRTY);
}

static int log_huge_slot(void)
{
	return nth_set_slot(2, HUGE_GPA, QUIRE_SLOT_LOG_DIRTY);
}

static int end_log(void)
{
	return nth_set_slot(1, GPA, 0);
}

static void need_huge_log(void)
{
	need_huge();
	assert_int_equal(log_huge_slot(), 0);
}

static int end_huge_log(void)
{
	return nth_set_slot(2, HUGE_GPA, 0);
}

static int create_second_space(void)
{
	return nth_set_slot(1 | 1u << 16, GPA, 0);
}

static int bind_gmem(void)
{
	return nth_set_slot(1, GPA, QUIRE_SLOT_GMEM);
}

static int set_slot_zap_all(void)
{
	quire_vm_set_slot_zap_all(nth.vm, 0);
	return 0;
}

static void need_zap_of_one(void)
{
	need_mapped();
	quire_vm_set_slot_zap_all(nth.vm, 0);
}

/* --- attributes --- */

static void need_some_private(void)
{
	need_slot();
	assert_int_equal(nth_set_private(), 0);
}

static int set_shared(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){GPA + 2 * QUIRE_PAGE_SIZE},
				       2 * QUIRE_PAGE_SIZE, 0);
}

/* What the guest has mapped becomes private. */
static void need_mapped_private(void)
{
	need_private();
	for (uint32_t page = 0; page < PAGES; page++)
		assert_int_equal(nth_fault(GPA + page * QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE),
				 QUIRE_FIXED);
}

static int set_far_private(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){ELSEWHERE}, BYTES, QUIRE_ATTRIBUTE_PRIVATE);
}

static int get_attributes(void)
{
	return quire_vm_get_attributes(nth.vm, gfn_of((gpa_t){GPA})) != 0;
}

/* --- what is set, and what the host changes --- */

static int set_nr_mmu_pages(void)
{
	return quire_vm_set_nr_mmu_pages(nth.vm, 64);
}

static int set_nx_huge_pages(void)
{
	quire_vm_set_nx_huge_pages(nth.vm, 1);
	return 0;
}

static void need_nx_pages(void)
{
	quire_vm_set_nx_huge_pages(nth.vm, 1);
	need_huge();
	/* The huge leaf makes room for the table of the page that is executed. */
	while (nth_fault(HUGE_GPA + BYTES, QUIRE_PFERR_FETCH) == QUIRE_RETRY)
		;
	assert_int_equal(quire_vm_stat(nth.vm, QUIRE_VM_STAT_nx_lpage_splits), 1);
}

static int recover_nx_pages(void)
{
	(void)quire_vm_recover_nx_pages(nth.vm, 1);
	return 0;
}

static int invalidate(void)
{
	const hva_t start = nth.machine->hva(2), end = nth.machine->hva(5);

	quire_vm_host_invalidate_begin(nth.vm, start, end);
	quire_vm_host_invalidate_end(nth.vm, start, end);
	return 0;
}

static int age(void)
{
	return quire_vm_age(nth.vm, nth.machine->hva(0), nth.machine->hva(PAGES), QUIRE_AGE_CLEAR);
}

static int address_spaces(void)
{
	return quire_vm_address_spaces(nth.vm) != 2;
}

static int attributes(void)
{
	return quire_vm_attributes(nth.vm) != 0;
}

static int is_dead(void)
{
	return quire_vm_is_dead(nth.vm);
}

static int see_piece(void *ctx, const struct quire_view_piece *piece)
{
	(void)ctx;
	return piece->slot_id != 1;
}

static int view(void)
{
	const struct quire_view_request request = {.end = {UINT64_C(1) << 30}, .piece_pages = 4};

	return quire_vm_view(nth.vm, &request, see_piece, NULL);
}

static int view_slots(void)
{
	return quire_vm_view_slots(nth.vm, 0, see_piece, NULL);
}

static int view_tables(void)
{
	struct quire_view_tables tables;

	return quire_vm_view_tables(nth.vm, &tables);
}

static int vm_stat(void)
{
	return quire_vm_stat(nth.vm, QUIRE_VM_STAT_pages_4k) != PAGES;
}

const struct operation nth_vm_operations[] = {
    {"quire_vm_create", 0, no_vm, create_vm},
    {"quire_vm_create", NTH_SHADOWED, no_vm, create_vm},
    {"quire_vm_create", NTH_PRIVATE, no_vm, create_vm},
    {"quire_vm_get", 0, NULL, get_vm},
    {"quire_vm_put", 0, vm_alone, put_vm},
    {"quire_vm_set_dead", 0, need_mapped, set_dead},
    {"quire_vm_is_dead", 0, NULL, is_dead},
    {"quire_vm_set_region", 0, NULL, create_slot},
    {"quire_vm_set_region", 0, NULL, create_readonly_slot},
    {"quire_vm_set_region", 0, NULL, create_logging_slot},
    {"quire_vm_set_region", 0, NULL, create_second_space},
    {"quire_vm_set_region", 0, need_slot, move_slot},
    {"quire_vm_set_region", 0, need_mapped, move_slot},
    {"quire_vm_set_region", 0, need_zap_of_one, move_slot},
    {"quire_vm_set_region", 0, need_slot, delete_slot},
    {"quire_vm_set_region", 0, need_mapped, delete_slot},
    {"quire_vm_set_region", NTH_SHADOWED, need_mapped, delete_slot},
    {"quire_vm_set_region", 0, need_zap_of_one, delete_slot},
    {"quire_vm_set_region", 0, need_mapped, log_slot},
    {"quire_vm_set_region", NTH_RINGS, need_mapped, log_slot},
    {"quire_vm_set_region", NTH_SHADOWED, need_mapped, log_slot},
    {"quire_vm_set_region", 0, need_huge, log_huge_slot},
    {"quire_vm_set_region", NTH_SPLITS_LATE, need_huge, log_huge_slot},
    {"quire_vm_set_region", 0, need_log, end_log},
    {"quire_vm_set_region", 0, need_huge_log, end_huge_log},
    {"quire_vm_set_region", NTH_PRIVATE, need_gmem, bind_gmem},
    {"quire_vm_set_region", NTH_PRIVATE, need_mapped_private, delete_slot},
    {"quire_vm_set_slot_zap_all", 0, need_mapped, set_slot_zap_all},
    {"quire_vm_set_attributes", NTH_PRIVATE, need_slot, nth_set_private},
    {"quire_vm_set_attributes", NTH_PRIVATE, need_some_private, set_shared},
    {"quire_vm_set_attributes", NTH_PRIVATE, need_mapped_private, set_shared},
    {"quire_vm_set_attributes", NTH_PRIVATE, need_some_private, set_far_private},
    {"quire_vm_get_attributes", 0, NULL, get_attributes},
    {"quire_vm_attributes", 0, NULL, attributes},
    {"quire_vm_set_nr_mmu_pages", 0, need_mapped, set_nr_mmu_pages},
    {"quire_vm_set_nr_mmu_pages", NTH_SHADOWED, need_mapped, set_nr_mmu_pages},
    {"quire_vm_set_nx_huge_pages", 0, need_huge, set_nx_huge_pages},
    {"quire_vm_recover_nx_pages", NTH_SIM_ONLY, need_nx_pages, recover_nx_pages},
    {"quire_vm_host_invalidate_begin", 0, need_mapped, invalidate},
    {"quire_vm_host_invalidate_end", NTH_SHADOWED, need_mapped, invalidate},
    {"quire_vm_age", 0, need_mapped, age},
    {"quire_vm_age", NTH_SHADOWED, need_mapped, age},
    {"quire_vm_address_spaces", 0, NULL, address_spaces},
    {"quire_vm_view", 0, need_mapped, view},
    {"quire_vm_view_slots", 0, need_slot, view_slots},
    {"quire_vm_view_tables", 0, need_mapped, view_tables},
    {"quire_vm_stat", 0, need_mapped, vm_stat},
    {NULL, 0, NULL, NULL},
};
