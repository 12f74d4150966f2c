/* What the tests of guest_memfd share: a file that a slot shows. */
#include "tests/unit/gmem/support.h"

struct quire_gmem *gmem;

void gmem_begin(enum quire_vm_type type, uint64_t flags, uint64_t gfn, uint64_t npages)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){gfn}),
	    .size_bytes = PAGES(npages),
	    /* As far off an alignment as the gfn is. */
	    .hva = {SIM_HVA_BASE + PAGES(gfn % SIM_GIGANTIC)},
	};

	machine.tunables.gmem_huge_pages = 1;
	vm_begin_type(type);
	assert_int_equal(quire_gmem_create(machine.vm, PAGES(npages), flags, NULL, &gmem), 0);
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	if (quire_vm_attributes(machine.vm))
		convert(gfn, npages, QUIRE_ATTRIBUTE_PRIVATE);
}

void gmem_end(void)
{
	quire_gmem_release(gmem);
	vm_end();
	machine.tunables.gmem_huge_pages = 0;
}

void convert(uint64_t gfn, uint64_t npages, uint64_t attributes)
{
	assert_int_equal(
	    quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){gfn}), PAGES(npages), attributes),
	    0);
}

void punch(uint64_t index, uint64_t npages)
{
	assert_int_equal(quire_gmem_punch(gmem, PAGES(index), PAGES(npages)), 0);
}

void fail_frame(pfn_t pfn)
{
	uint64_t frame = pfn.v - ((uintptr_t)machine.host.memory >> QUIRE_PAGE_SHIFT);

	assert_true(frame < machine.host.frame_count);
	machine.host.frames[frame].poisoned = true;
}
