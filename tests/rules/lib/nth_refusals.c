/* What is refused for the request itself, whatever the host does: nothing changes. */
#include "tests/rules/lib/nth.h"

#define PAGE QUIRE_PAGE_SIZE
#define FAR_GPA (UINT64_C(1) << 46)

static uint8_t bytes[8];

/* --- the VM and its slots --- */

static int make_with(struct quire_vm_config config)
{
	struct quire_vm *vm = NULL;

	config.host = &nth.ops;
	config.host_ctx = nth.machine->context();
	if (!config.maxphyaddr)
		config.maxphyaddr = 48;
	return quire_vm_create(&config, &vm);
}

static int vm_of_no_type(void)
{
	return make_with((struct quire_vm_config){.type = (enum quire_vm_type)7});
}

static int vm_of_modes_without_tdp(void)
{
	return make_with(
	    (struct quire_vm_config){.format = QUIRE_FORMAT_EPT_MODES, .mmu = QUIRE_MMU_SHADOW});
}

static int private_vm_without_tdp(void)
{
	return make_with(
	    (struct quire_vm_config){.type = QUIRE_VM_SW_PROTECTED, .mmu = QUIRE_MMU_SHADOW});
}

static int slot_of_gmem_without_file(void)
{
	return nth_set_slot(1, GPA, QUIRE_SLOT_GMEM);
}

/* A caller that says nothing of why there is no file. */
static int slot_of_gmem_from_nowhere(void)
{
	const struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = {GPA},
	    .size_bytes = BYTES,
	    .hva = nth.machine->hva(0),
	};

	return quire_vm_set_region(nth.vm, &region);
}

static int slot_above_all(void)
{
	return nth_set_slot(1, UINT64_C(1) << 52, 0);
}

static int slot_over_the_end(void)
{
	return nth_set_slot(1, (UINT64_C(1) << 48) - PAGE, 0);
}

static int few_pages(void)
{
	return quire_vm_set_nr_mmu_pages(nth.vm, 63);
}

/* --- attributes --- */

static int no_range(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){GPA}, 0, QUIRE_ATTRIBUTE_PRIVATE);
}

static int wrapping_range(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){UINT64_MAX & QUIRE_PAGE_MASK}, 2 * PAGE,
				       QUIRE_ATTRIBUTE_PRIVATE);
}

static int unaligned_range(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){GPA + 1}, PAGE, QUIRE_ATTRIBUTE_PRIVATE);
}

static int unknown_attribute(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){GPA}, PAGE, 1);
}

/* --- logs --- */

static int no_bits(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	memset(dst, 0, size_bytes);
	return 0;
}

static int clear(uint32_t slot, uint64_t first_page, uint32_t npages)
{
	const struct quire_clear_log request = {
	    .slot = slot, .first_page = first_page, .npages = npages, .copy_in = no_bits};

	return quire_vm_clear_dirty_log(nth.vm, &request);
}

static int clear_in_no_space(void)
{
	return clear(1 | 5u << 16, 0, PAGES);
}

static int clear_of_no_slot(void)
{
	return clear(QUIRE_USER_SLOTS, 0, PAGES);
}

static int clear_behind_the_slot(void)
{
	return clear(1, 64, 64);
}

static int clear_a_part(void)
{
	return clear(1, 0, 5);
}

static int clear_from_within(void)
{
	return clear(1, 3, PAGES);
}

static int drop_bits(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)src;
	(void)size_bytes;
	return -EFAULT;
}

static int get_log_of_ring(void)
{
	return quire_vm_get_dirty_log(nth.vm, 1, drop_bits, NULL);
}

static int get_log_in_no_space(void)
{
	return quire_vm_get_dirty_log(nth.vm, 1 | 5u << 16, drop_bits, NULL);
}

static int no_manual_mode(void)
{
	return quire_vm_set_manual_protect(nth.vm, 2);
}

static int no_ring_to_set(void)
{
	return quire_vcpu_set_dirty_ring(nth.vcpu, nth.ring);
}

static int no_ring_to_reset(void)
{
	return quire_vm_reset_dirty_rings(nth.vm, NULL);
}

static int second_ring_size(void)
{
	return quire_vm_enable_dirty_ring(nth.vm, 2 * NTH_RING_BYTES);
}

static int split_in_no_space(void)
{
	uint64_t done;

	return quire_vm_split(nth.vm, 9, (gpa_t){GPA}, BYTES, &done);
}

/* --- guest_memfd --- */

static int no_pages_of_gmem(void)
{
	return quire_gmem_allocate(nth.gmem, 0, 2 * BYTES, NULL);
}

static int punch_of_bytes(void)
{
	return quire_gmem_punch(nth.gmem, 0, 100);
}

static int link_to_its_own_vm(void)
{
	return quire_gmem_link(nth.gmem, nth.vm, &nth.linked);
}

static void need_vm_in_place(void)
{
	need_gmem();
	nth.vm_kind |= NTH_IN_PLACE;
	assert_int_equal(nth_make_vm(&nth.second), 0);
}

static int link_elsewhere(void)
{
	return quire_gmem_link(nth.gmem, nth.second, &nth.linked);
}

static int64_t fill_nothing(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	(void)unit;
	return 0;
}

static int populate(uint64_t gfn, uint64_t source)
{
	const struct quire_gmem_fill request = {
	    .gfn = {gfn}, .npages = 1, .source = {source}, .write_source = 1, .fill = fill_nothing};

	return (int)quire_gmem_populate(nth.vm, &request);
}

static int populate_nowhere(void)
{
	return populate(gfn_of((gpa_t){FAR_GPA}).v, 0);
}

static int populate_shared(void)
{
	return populate(gfn_of((gpa_t){GPA}).v, 0);
}

static int populate_nothing(void)
{
	return populate(gfn_of((gpa_t){GPA}).v + 1, nth.machine->hva(3).v);
}

static int populate_from_within(void)
{
	return populate(gfn_of((gpa_t){GPA}).v + 1, nth.machine->hva(3).v + 8);
}

static void need_gone_file(void)
{
	need_private();
	quire_gmem_release(nth.gmem);
	nth.gmem = NULL;
}

static int see_run(void *ctx, uint64_t offset_bytes, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)size_bytes;
	return -EBUSY;
}

static int shared_of_bytes(void)
{
	return quire_gmem_each_shared(nth.gmem, 0, 5, see_run, NULL);
}

static int convert_at(uint64_t offset_bytes, uint64_t attributes, uint64_t contents)
{
	struct quire_gmem_conversion conversion = {.offset_bytes = offset_bytes,
						   .size_bytes = PAGE,
						   .attributes = attributes,
						   .contents = contents};

	return quire_gmem_set_attributes(nth.gmem, &conversion);
}

static int convert_behind_the_end(void)
{
	return convert_at(BYTES, 0, 0);
}

static int convert_both_ways(void)
{
	return convert_at(0, 0, QUIRE_GMEM_ZERO | QUIRE_GMEM_PRESERVE);
}

static int convert_zeroes_to_private(void)
{
	return convert_at(0, QUIRE_ATTRIBUTE_PRIVATE, QUIRE_GMEM_ZERO);
}

/* The hardware's key changes. */
static int convert_kept(void)
{
	return convert_at(0, 0, QUIRE_GMEM_PRESERVE);
}

/* --- accesses --- */

static int read_nowhere(void)
{
	return quire_vcpu_read(nth.vcpu, (gpa_t){FAR_GPA}, bytes, sizeof(bytes));
}

static void need_empty_place(void)
{
	need_root();
	assert_int_equal(quire_place_create(nth.vcpu, &nth.place), 0);
}

static int check_empty_place(void)
{
	return quire_place_check(nth.place);
}

static int read_empty_place(void)
{
	return quire_place_read(nth.place, 0, bytes, sizeof(bytes));
}

static int set_place_across(void)
{
	return quire_place_set(nth.place, (gpa_t){GPA + PAGE - 4}, sizeof(bytes));
}

static void need_read_map(void)
{
	need_root();
	assert_int_equal(quire_vcpu_map(nth.vcpu, (gpa_t){GPA}, QUIRE_MAP_READ, &nth.map), 0);
	nth.is_mapped = 1;
}

static int write_read_map(void)
{
	return quire_map_write(nth.vcpu, &nth.map, 0, bytes, sizeof(bytes));
}

static int read_behind_map(void)
{
	return quire_map_read(nth.vcpu, &nth.map, PAGE - 4, bytes, sizeof(bytes));
}

static int read_more_than_map(void)
{
	return quire_map_read(nth.vcpu, &nth.map, 0, bytes, PAGE + 1);
}

static int map_nowhere(void)
{
	return quire_vcpu_map(nth.vcpu, (gpa_t){FAR_GPA}, QUIRE_MAP_READ, &nth.map);
}

static int no_space(void)
{
	return quire_vcpu_set_address_space(nth.vcpu, 2);
}

static int prefault_nowhere(void)
{
	uint64_t done;

	return quire_vcpu_prefault(nth.vcpu, (gpa_t){FAR_GPA}, PAGE, &done);
}

static int nested(uint32_t levels, uint32_t paging)
{
	const struct quire_nested tables = {.root = {GPA}, .levels = levels, .paging = paging};

	return quire_vcpu_set_nested(nth.vcpu, &tables);
}

static int nested_of_one_level(void)
{
	return nested(1, 0);
}

static int paging_beside_tdp(void)
{
	return nested(4, 1);
}

static int nested_without_load(void)
{
	int error;

	nth.ops.load_u64 = NULL;
	error = nested(4, 0);
	nth.ops.load_u64 = nth.machine->ops->load_u64;
	return error;
}

static int nested_without_cmpxchg(void)
{
	int error;

	nth.ops.cmpxchg_u64 = NULL;
	error = nested(4, 0);
	nth.ops.cmpxchg_u64 = nth.machine->ops->cmpxchg_u64;
	return error;
}

static int view_in_no_space(void)
{
	return quire_vm_view_slots(nth.vm, 7, NULL, NULL);
}

const struct refusal nth_refusals[] = {
    {{"quire_vm_create", 0, NULL, vm_of_no_type}, -EINVAL},
    {{"quire_vm_create", 0, NULL, vm_of_modes_without_tdp}, -EINVAL},
    {{"quire_vm_create", 0, NULL, private_vm_without_tdp}, -EINVAL},
    {{"quire_vm_set_region", NTH_PRIVATE, NULL, slot_of_gmem_without_file}, -EBADF},
    {{"quire_vm_set_region", NTH_PRIVATE, NULL, slot_of_gmem_from_nowhere}, -EBADF},
    {{"quire_vm_set_region", 0, NULL, slot_above_all}, -EINVAL},
    {{"quire_vm_set_region", 0, NULL, slot_over_the_end}, -EINVAL},
    {{"quire_vm_set_nr_mmu_pages", 0, NULL, few_pages}, -EINVAL},
    {{"quire_vm_set_attributes", NTH_PRIVATE, need_private, no_range}, -EINVAL},
    {{"quire_vm_set_attributes", NTH_PRIVATE, need_private, wrapping_range}, -EINVAL},
    {{"quire_vm_set_attributes", NTH_PRIVATE, need_private, unaligned_range}, -EINVAL},
    {{"quire_vm_set_attributes", NTH_PRIVATE, need_private, unknown_attribute}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_in_no_space}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_of_no_slot}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_behind_the_slot}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_a_part}, -EINVAL},
    {{"quire_vm_clear_dirty_log", 0, need_log, clear_from_within}, -EINVAL},
    {{"quire_vm_clear_dirty_log", NTH_RINGS, need_log, clear_a_part}, -ENXIO},
    {{"quire_vm_get_dirty_log", NTH_RINGS, need_log, get_log_of_ring}, -ENXIO},
    {{"quire_vm_get_dirty_log", 0, need_log, get_log_in_no_space}, -EINVAL},
    {{"quire_vm_get_dirty_log", 0, need_slot, get_log_of_ring}, -ENOENT},
    {{"quire_vm_set_manual_protect", 0, need_log, no_manual_mode}, -EINVAL},
    {{"quire_vcpu_set_dirty_ring", 0, need_log, no_ring_to_set}, -EINVAL},
    {{"quire_vm_reset_dirty_rings", 0, need_log, no_ring_to_reset}, -EINVAL},
    {{"quire_vm_enable_dirty_ring", NTH_RINGS, need_log, second_ring_size}, -EINVAL},
    {{"quire_vm_split", 0, need_log, split_in_no_space}, -EINVAL},
    {{"quire_gmem_allocate", NTH_PRIVATE, need_private, no_pages_of_gmem}, -EINVAL},
    {{"quire_gmem_punch", NTH_PRIVATE, need_private, punch_of_bytes}, -EINVAL},
    {{"quire_gmem_link", NTH_PRIVATE, need_private, link_to_its_own_vm}, -EINVAL},
    {{"quire_gmem_link", NTH_PRIVATE, need_vm_in_place, link_elsewhere}, -EINVAL},
    {{"quire_gmem_populate", NTH_PRIVATE, need_private, populate_nowhere}, -EINVAL},
    {{"quire_gmem_populate", NTH_PRIVATE, need_private, populate_shared}, -EINVAL},
    {{"quire_gmem_populate", NTH_PRIVATE, need_private, populate_nothing}, -EIO},
    {{"quire_gmem_populate", NTH_PRIVATE, need_private, populate_from_within}, -EINVAL},
    {{"quire_gmem_populate", NTH_PRIVATE, need_gone_file, populate_shared}, -EFAULT},
    {{"quire_gmem_each_shared", NTH_PRIVATE | NTH_IN_PLACE, need_bound, shared_of_bytes}, -EINVAL},
    {{"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_bound, convert_behind_the_end},
     -EINVAL},
    {{"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_bound, convert_both_ways},
     -EINVAL},
    {{"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_bound,
      convert_zeroes_to_private},
     -EOPNOTSUPP},
    {{"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE | NTH_CONFIDENTIAL, need_bound,
      convert_kept},
     -EOPNOTSUPP},
    {{"quire_gmem_set_attributes", NTH_PRIVATE, need_bound, convert_kept}, -EINVAL},
    {{"quire_vcpu_read", 0, need_slot, read_nowhere}, -EFAULT},
    {{"quire_place_check", 0, need_empty_place, check_empty_place}, -EFAULT},
    {{"quire_place_read", 0, need_empty_place, read_empty_place}, -EINVAL},
    {{"quire_place_set", 0, need_empty_place, set_place_across}, -EINVAL},
    {{"quire_map_write", 0, need_read_map, write_read_map}, -EINVAL},
    {{"quire_map_read", 0, need_read_map, read_behind_map}, -EINVAL},
    {{"quire_map_read", 0, need_read_map, read_more_than_map}, -EINVAL},
    {{"quire_vcpu_map", 0, need_root, map_nowhere}, -EFAULT},
    {{"quire_vcpu_set_address_space", 0, need_root, no_space}, -EINVAL},
    {{"quire_vcpu_prefault", 0, need_root, prefault_nowhere}, -ENOENT},
    {{"quire_vcpu_set_nested", 0, need_root, nested_of_one_level}, -EOPNOTSUPP},
    {{"quire_vcpu_set_nested", 0, need_root, paging_beside_tdp}, -EOPNOTSUPP},
    {{"quire_vcpu_set_nested", 0, need_root, nested_without_load}, -EOPNOTSUPP},
    {{"quire_vcpu_set_nested", 0, need_root, nested_without_cmpxchg}, -EOPNOTSUPP},
    {{"quire_vm_view_slots", 0, need_slot, view_in_no_space}, -EINVAL},
    {{NULL, 0, NULL, NULL}, 0},
};
