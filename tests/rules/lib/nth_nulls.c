/* What is refused because a pointer is NULL (<quire/types.h>): nothing changes. */
#include "tests/rules/lib/nth.h"

static const gpa_t page = {GPA};
static struct quire_stage2 stage2;
static uint64_t word;

static int see(void *ctx, const struct quire_view_piece *piece)
{
	(void)ctx;
	(void)piece;
	return 0;
}

static void need_other_vm(void)
{
	need_gmem();
	assert_int_equal(nth_make_vm(&nth.second), 0);
}

static void need_writable(void)
{
	assert_int_equal(
	    nth_create_gmem(QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED | QUIRE_GMEM_WRITE), 0);
}

static void need_set(void)
{
	need_root();
	assert_int_equal(quire_place_create(nth.vcpu, &nth.place), 0);
	assert_int_equal(quire_place_set(nth.place, page, sizeof(word)), 0);
}

static void need_map_to_write(void)
{
	need_root();
	assert_int_equal(quire_vcpu_map(nth.vcpu, page, QUIRE_MAP_WRITE, &nth.map), 0);
	nth.is_mapped = 1;
}

/* No bytes are nowhere, too. */
static int beside_no_bytes(int without, int with)
{
	assert_int_equal(without, 0);
	return with;
}

static int create_without_config(void)
{
	return quire_vm_create(NULL, &nth.second);
}

static int create_to_nowhere(void)
{
	return quire_vm_create(&(const struct quire_vm_config){.maxphyaddr = 48, .host = &nth.ops},
			       NULL);
}

static int create_without_host(void)
{
	return quire_vm_create(&(const struct quire_vm_config){.maxphyaddr = 48}, &nth.second);
}

static int no_region(void)
{
	return quire_vm_set_region(nth.vm, NULL);
}

static int vm_read_to_nowhere(void)
{
	return beside_no_bytes(quire_vm_read(nth.vm, page, NULL, 0),
			       quire_vm_read(nth.vm, page, NULL, 8));
}

static int vm_write_of_nothing(void)
{
	return beside_no_bytes(quire_vm_write(nth.vm, page, NULL, 0),
			       quire_vm_write(nth.vm, page, NULL, 8));
}

static int vcpu_to_nowhere(void)
{
	return quire_vcpu_create(nth.vm, 1, nth.machine->vcpu_cookie(), NULL);
}

static int enter_without_requests(void)
{
	return quire_vcpu_enter(nth.vcpu, NULL, &stage2);
}

static int enter_without_stage2(void)
{
	return quire_vcpu_enter(nth.vcpu, &word, NULL);
}

static int fault_untold(void)
{
	return quire_vcpu_fault(nth.vcpu, page, QUIRE_PFERR_WRITE, NULL);
}

static int walk_to_nowhere(void)
{
	return quire_vcpu_walk_nested(nth.vcpu, page, 0, NULL);
}

static int prefault_untold(void)
{
	return quire_vcpu_prefault(nth.vcpu, page, QUIRE_PAGE_SIZE, NULL);
}

static int vcpu_read_to_nowhere(void)
{
	return beside_no_bytes(quire_vcpu_read(nth.vcpu, page, NULL, 0),
			       quire_vcpu_read(nth.vcpu, page, NULL, 8));
}

static int vcpu_write_of_nothing(void)
{
	return beside_no_bytes(quire_vcpu_write(nth.vcpu, page, NULL, 0),
			       quire_vcpu_write(nth.vcpu, page, NULL, 8));
}

static int gmem_to_nowhere(void)
{
	return quire_gmem_create(nth.vm, BYTES, 0, NULL, NULL);
}

static int link_to_nowhere(void)
{
	return quire_gmem_link(nth.gmem, nth.second, NULL);
}

static int gmem_write_of_nothing(void)
{
	return quire_gmem_write(nth.gmem, 0, NULL, NULL);
}

static int no_conversion(void)
{
	return quire_gmem_set_attributes(nth.gmem, NULL);
}

static int each_shared_untold(void)
{
	return quire_gmem_each_shared(nth.gmem, 0, BYTES, NULL, NULL);
}

static int populate_nothing(void)
{
	return (int)quire_gmem_populate(nth.vm, NULL);
}

static int split_untold(void)
{
	return quire_vm_split(nth.vm, 0, (gpa_t){HUGE_GPA}, HUGE_BYTES, NULL);
}

static int log_to_nowhere(void)
{
	return quire_vm_get_dirty_log(nth.vm, 1, NULL, NULL);
}

static int clear_nothing(void)
{
	return quire_vm_clear_dirty_log(nth.vm, NULL);
}

static int clear_from_nowhere(void)
{
	return quire_vm_clear_dirty_log(
	    nth.vm, &(const struct quire_clear_log){.slot = 1, .npages = PAGES});
}

static int no_ring(void)
{
	return quire_vcpu_set_dirty_ring(nth.vcpu, NULL);
}

static int place_to_nowhere(void)
{
	return quire_place_create(nth.vcpu, NULL);
}

static int place_read_to_nowhere(void)
{
	return beside_no_bytes(quire_place_read(nth.place, 0, NULL, 0),
			       quire_place_read(nth.place, 0, NULL, 8));
}

static int place_write_of_nothing(void)
{
	return beside_no_bytes(quire_place_write(nth.place, 0, NULL, 0),
			       quire_place_write(nth.place, 0, NULL, 8));
}

static int map_to_nowhere(void)
{
	return quire_vcpu_map(nth.vcpu, page, QUIRE_MAP_READ, NULL);
}

static int map_read_of_none(void)
{
	return quire_map_read(nth.vcpu, NULL, 0, &word, 8);
}

static int map_read_to_nowhere(void)
{
	return beside_no_bytes(quire_map_read(nth.vcpu, &nth.map, 0, NULL, 0),
			       quire_map_read(nth.vcpu, &nth.map, 0, NULL, 8));
}

static int map_write_of_none(void)
{
	return quire_map_write(nth.vcpu, NULL, 0, &word, 8);
}

static int map_write_of_nothing(void)
{
	return beside_no_bytes(quire_map_write(nth.vcpu, &nth.map, 0, NULL, 0),
			       quire_map_write(nth.vcpu, &nth.map, 0, NULL, 8));
}

static int view_of_nothing(void)
{
	return quire_vm_view(nth.vm, NULL, see, NULL);
}

static int view_untold(void)
{
	return quire_vm_view(
	    nth.vm, &(const struct quire_view_request){.end = {UINT64_MAX}, .piece_pages = 1}, NULL,
	    NULL);
}

static int view_slots_untold(void)
{
	return quire_vm_view_slots(nth.vm, 0, NULL, NULL);
}

static int view_tables_untold(void)
{
	return quire_vm_view_tables(nth.vm, NULL);
}

const struct refusal nth_nulls[] = {
    {{"quire_vm_create", 0, NULL, create_without_config}, -EINVAL},
    {{"quire_vm_create", 0, NULL, create_to_nowhere}, -EINVAL},
    {{"quire_vm_create", 0, NULL, create_without_host}, -EINVAL},
    {{"quire_vm_set_region", 0, need_slot, no_region}, -EINVAL},
    {{"quire_vm_read", 0, need_slot, vm_read_to_nowhere}, -EINVAL},
    {{"quire_vm_write", 0, need_slot, vm_write_of_nothing}, -EINVAL},
    {{"quire_vcpu_create", 0, NULL, vcpu_to_nowhere}, -EINVAL},
    {{"quire_vcpu_enter", 0, need_slot, enter_without_requests}, -EINVAL},
    {{"quire_vcpu_enter", 0, need_slot, enter_without_stage2}, -EINVAL},
    {{"quire_vcpu_fault", 0, need_root, fault_untold}, -EINVAL},
    {{"quire_vcpu_walk_nested", 0, need_root, walk_to_nowhere}, -EINVAL},
    {{"quire_vcpu_prefault", 0, need_root, prefault_untold}, -EINVAL},
    {{"quire_vcpu_read", 0, need_slot, vcpu_read_to_nowhere}, -EINVAL},
    {{"quire_vcpu_write", 0, need_slot, vcpu_write_of_nothing}, -EINVAL},
    {{"quire_gmem_create", NTH_PRIVATE, NULL, gmem_to_nowhere}, -EINVAL},
    {{"quire_gmem_link", NTH_PRIVATE, need_other_vm, link_to_nowhere}, -EINVAL},
    {{"quire_gmem_write", 0, need_writable, gmem_write_of_nothing}, -EINVAL},
    {{"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_bound, no_conversion}, -EINVAL},
    {{"quire_gmem_each_shared", NTH_PRIVATE | NTH_IN_PLACE, need_bound, each_shared_untold},
     -EINVAL},
    {{"quire_gmem_populate", NTH_PRIVATE, need_private, populate_nothing}, -EINVAL},
    {{"quire_vm_split", NTH_SPLITS_LATE, need_huge, split_untold}, -EINVAL},
    {{"quire_vm_get_dirty_log", 0, need_log, log_to_nowhere}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_nothing}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_from_nowhere}, -EINVAL},
    {{"quire_vcpu_set_dirty_ring", NTH_RINGS, NULL, no_ring}, -EINVAL},
    {{"quire_place_create", 0, need_root, place_to_nowhere}, -EINVAL},
    {{"quire_place_read", 0, need_set, place_read_to_nowhere}, -EINVAL},
    {{"quire_place_write", 0, need_set, place_write_of_nothing}, -EINVAL},
    {{"quire_vcpu_map", 0, need_root, map_to_nowhere}, -EINVAL},
    {{"quire_map_read", 0, need_root, map_read_of_none}, -EINVAL},
    {{"quire_map_read", 0, need_map_to_write, map_read_to_nowhere}, -EINVAL},
    {{"quire_map_write", 0, need_root, map_write_of_none}, -EINVAL},
    {{"quire_map_write", 0, need_map_to_write, map_write_of_nothing}, -EINVAL},
    {{"quire_vm_view", 0, need_mapped, view_of_nothing}, -EINVAL},
    {{"quire_vm_view", 0, need_mapped, view_untold}, -EINVAL},
    {{"quire_vm_view_slots", 0, need_slot, view_slots_untold}, -EINVAL},
    {{"quire_vm_view_tables", 0, need_mapped, view_tables_untold}, -EINVAL},
    {{NULL, 0, NULL, NULL}, 0},
};
