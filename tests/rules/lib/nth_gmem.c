/* Operations on a guest_memfd. */
#include "tests/rules/lib/nth.h"

static int create_gmem(void)
{
	return nth_create_gmem(0);
}

/* Of the pool, which the simulated machine has. */
static int create_huge_gmem(void)
{
	return quire_gmem_create(nth.vm, HUGE_BYTES,
				 QUIRE_GMEM_HUGETLB | UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT, NULL,
				 &nth.gmem);
}

static void need_second_vm(void)
{
	need_bound();
	assert_int_equal(nth_make_vm(&nth.second), 0);
}

static int link_gmem(void)
{
	return quire_gmem_link(nth.gmem, nth.second, &nth.linked);
}

static void need_link(void)
{
	need_second_vm();
	assert_int_equal(link_gmem(), 0);
}

static int release_linked(void)
{
	quire_gmem_release(nth.linked);
	nth.linked = NULL;
	return 0;
}

static int release_gmem(void)
{
	quire_gmem_release(nth.gmem);
	nth.gmem = NULL;
	return 0;
}

static int allocate(void)
{
	return quire_gmem_allocate(nth.gmem, 0, BYTES, NULL);
}

static void need_all_pages(void)
{
	need_private();
	assert_int_equal(allocate(), 0);
	assert_int_equal(nth_fault(GPA + QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

static int punch(void)
{
	return quire_gmem_punch(nth.gmem, 0, BYTES / 2);
}

static int poison(void)
{
	quire_gmem_poison(nth.gmem, 1);
	return 0;
}

static void need_writable_gmem(void)
{
	assert_int_equal(
	    nth_create_gmem(QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED | QUIRE_GMEM_WRITE), 0);
	assert_int_equal(nth_set_slot(1, GPA, QUIRE_SLOT_GMEM), 0);
}

static int copy_page(void *ctx, pfn_t pfn)
{
	(void)ctx;
	memset((void *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT), 0x57, SIM_FRAME_BYTES);
	return 0;
}

static int write_gmem(void)
{
	return quire_gmem_write(nth.gmem, 2 * QUIRE_PAGE_SIZE, copy_page, NULL);
}

static int64_t fill_unit(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	memcpy((void *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT),
	       (const void *)(uintptr_t)(unit->source->pfn.v << QUIRE_PAGE_SHIFT), SIM_FRAME_BYTES);
	return 1;
}

static int populate(void)
{
	const struct quire_gmem_fill request = {
	    .gfn = {(GPA >> QUIRE_PAGE_SHIFT) + 1},
	    .npages = 1,
	    .source = nth.machine->hva(3),
	    .fill = fill_unit,
	};
	int64_t done = quire_gmem_populate(nth.vm, &request);

	return done < 0 ? (int)done : done != 1;
}

/* The hardware brings them in. */
static int populate_measured(void)
{
	const struct quire_gmem_fill request = {
	    .gfn = {(GPA >> QUIRE_PAGE_SHIFT) + 1}, .npages = 1, .source = nth.machine->hva(3)};
	int64_t done = quire_gmem_populate(nth.vm, &request);

	return done < 0 ? (int)done : done != 1;
}

static int64_t fill_block(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	memset((void *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT), 0x29, SIM_FRAME_BYTES);
	return INT64_C(1) << unit->order;
}

static int populate_block(void)
{
	const struct quire_gmem_fill request = {.gfn = {HUGE_GPA >> QUIRE_PAGE_SHIFT},
						.npages = SIM_BLOCK,
						.max_order = 9,
						.fill = fill_block};
	int64_t done = quire_gmem_populate(nth.vm, &request);

	return done < 0 ? (int)done : done != SIM_BLOCK;
}

static int fault_block(void)
{
	int result = nth_fault(HUGE_GPA + QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE);

	return result == QUIRE_RETRY ? -EINTR : result;
}

static int fault_private(void)
{
	int result = nth_fault(GPA + QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE);

	return result == QUIRE_RETRY ? -EINTR : result;
}

static int share_pages(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){GPA}, BYTES, 0);
}

static void need_used_block(void)
{
	need_block();
	assert_int_equal(nth_fault(HUGE_GPA, QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

static int punch_in_block(void)
{
	return quire_gmem_punch(nth.gmem, 5 * QUIRE_PAGE_SIZE, QUIRE_PAGE_SIZE);
}

static int share_in_block(void)
{
	return quire_vm_set_attributes(nth.vm, (gpa_t){HUGE_GPA}, QUIRE_PAGE_SIZE, 0);
}

/* --- conversion in place --- */

/* A file that owns its pages' attributes: all are private, and all are there. */
static void need_owner(void)
{
	need_bound();
	assert_int_equal(allocate(), 0);
	assert_int_equal(nth_enter(), 0);
	assert_int_equal(nth_fault(GPA + QUIRE_PAGE_SIZE, QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

static int convert(uint64_t attributes, uint64_t contents)
{
	struct quire_gmem_conversion conversion = {.size_bytes = BYTES / 2,
						   .offset_bytes = QUIRE_PAGE_SIZE,
						   .attributes = attributes,
						   .contents = contents};

	return quire_gmem_set_attributes(nth.gmem, &conversion);
}

static int convert_to_shared(void)
{
	return convert(0, QUIRE_GMEM_PRESERVE);
}

static int convert_to_zeroes(void)
{
	return convert(0, QUIRE_GMEM_ZERO);
}

static int convert_to_private(void)
{
	return convert(QUIRE_ATTRIBUTE_PRIVATE, QUIRE_GMEM_PRESERVE);
}

static int convert_to_private_anew(void)
{
	return convert(QUIRE_ATTRIBUTE_PRIVATE, 0);
}

static void need_zeroes(void)
{
	need_owner();
	assert_int_equal(convert_to_zeroes(), 0);
}

static void need_shared(void)
{
	need_owner();
	assert_int_equal(convert_to_shared(), 0);
}

/* Files of huge pages that own the attributes: a part that becomes shared splits one. */
static void need_huge_owner(void)
{
	assert_int_equal(quire_gmem_create(nth.vm, HUGE_BYTES,
					   QUIRE_GMEM_MMAP | QUIRE_GMEM_HUGETLB |
					       UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT,
					   NULL, &nth.gmem),
			 0);
	assert_int_equal(nth_set_slot(2, HUGE_GPA, QUIRE_SLOT_GMEM), 0);
	assert_int_equal(nth_enter(), 0);
	assert_int_equal(nth_fault(HUGE_GPA, QUIRE_PFERR_WRITE), QUIRE_FIXED);
}

static void need_huge_shared(void)
{
	need_huge_owner();
	assert_int_equal(convert_to_shared(), 0);
}

static int each_run(void *ctx, uint64_t offset_bytes, uint64_t size_bytes)
{
	(void)ctx;
	return offset_bytes != QUIRE_PAGE_SIZE || size_bytes != BYTES / 2;
}

static int each_shared(void)
{
	return quire_gmem_each_shared(nth.gmem, 0, BYTES, each_run, NULL);
}

static int own_attributes(void)
{
	return quire_gmem_attributes(nth.vm) != QUIRE_ATTRIBUTE_PRIVATE;
}

static int gmem_flags(void)
{
	return quire_gmem_flags(nth.gmem) != 0;
}

static int gmem_size(void)
{
	return quire_gmem_size_bytes(nth.gmem) != BYTES;
}

static int gmem_store(void)
{
	return quire_gmem_store(nth.gmem) == NULL;
}

static int supported_flags(void)
{
	return !(quire_gmem_supported_flags(nth.vm) & QUIRE_GMEM_MMAP);
}

const struct operation nth_gmem_operations[] = {
    {"quire_gmem_create", NTH_PRIVATE, NULL, create_gmem},
    {"quire_gmem_create", NTH_PRIVATE | NTH_IN_PLACE, NULL, create_gmem},
    {"quire_gmem_create", NTH_PRIVATE | NTH_SIM_ONLY, NULL, create_huge_gmem},
    {"quire_gmem_link", NTH_PRIVATE, need_second_vm, link_gmem},
    {"quire_gmem_release", NTH_PRIVATE, need_all_pages, release_gmem},
    {"quire_gmem_release", NTH_PRIVATE, need_link, release_linked},
    {"quire_gmem_allocate", NTH_PRIVATE, need_private, allocate},
    {"quire_gmem_punch", NTH_PRIVATE, need_all_pages, punch},
    {"quire_gmem_poison", NTH_PRIVATE, need_all_pages, poison},
    {"quire_gmem_write", 0, need_writable_gmem, write_gmem},
    {"quire_gmem_populate", NTH_PRIVATE, need_private, populate},
    {"quire_gmem_populate", NTH_PRIVATE | NTH_CONFIDENTIAL, need_private, populate_measured},
    {"quire_gmem_populate", NTH_PRIVATE | NTH_CONFIDENTIAL | NTH_HUGE_GMEM, need_block,
     populate_block},
    {"quire_gmem_populate", NTH_PRIVATE | NTH_HUGE_GMEM, need_block, populate_block},
    {"quire_vcpu_fault", NTH_PRIVATE | NTH_CONFIDENTIAL, need_private, fault_private},
    {"quire_vcpu_fault", NTH_PRIVATE | NTH_HUGE_GMEM, need_block, fault_block},
    {"quire_vcpu_fault", NTH_PRIVATE | NTH_CONFIDENTIAL | NTH_HUGE_GMEM, need_block, fault_block},
    {"quire_vm_set_attributes", NTH_PRIVATE | NTH_CONFIDENTIAL, need_all_pages, share_pages},
    {"quire_vm_set_attributes", NTH_PRIVATE | NTH_HUGE_GMEM, need_used_block, share_in_block},
    {"quire_gmem_punch", NTH_PRIVATE | NTH_CONFIDENTIAL, need_all_pages, punch},
    {"quire_gmem_punch", NTH_PRIVATE | NTH_HUGE_GMEM, need_used_block, punch_in_block},
    {"quire_gmem_release", NTH_PRIVATE | NTH_CONFIDENTIAL, need_all_pages, release_gmem},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE | NTH_CONFIDENTIAL, need_owner,
     convert_to_zeroes},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE | NTH_CONFIDENTIAL, need_zeroes,
     convert_to_private_anew},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_owner, convert_to_shared},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_owner, convert_to_zeroes},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE, need_shared, convert_to_private},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE | NTH_SIM_ONLY, need_huge_owner,
     convert_to_shared},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE | NTH_SIM_ONLY, need_huge_owner,
     convert_to_zeroes},
    {"quire_gmem_set_attributes", NTH_PRIVATE | NTH_IN_PLACE | NTH_SIM_ONLY, need_huge_shared,
     convert_to_private},
    {"quire_gmem_each_shared", NTH_PRIVATE | NTH_IN_PLACE, need_shared, each_shared},
    {"quire_gmem_attributes", NTH_PRIVATE | NTH_IN_PLACE, NULL, own_attributes},
    {"quire_gmem_flags", NTH_PRIVATE, need_gmem, gmem_flags},
    {"quire_gmem_size_bytes", NTH_PRIVATE, need_gmem, gmem_size},
    {"quire_gmem_store", NTH_PRIVATE, need_gmem, gmem_store},
    {"quire_gmem_supported_flags", 0, NULL, supported_flags},
    {NULL, 0, NULL, NULL},
};
