/* quire/gmem.h: pages that belong to a file and that only the guest reaches. */
#include <quire/gmem.h>

#include <errno.h>
#include <quire/stats.h>
#include <string.h>

#include "example.h"

#define PRIVATE_GPA UINT64_C(0x40000000)
#define PRIVATE_BYTES (4 * QUIRE_PAGE_SIZE)

static int guest_writes(struct example *example, uint64_t gpa, struct quire_memory_fault *fault)
{
	return quire_vcpu_fault(example->vcpu, (gpa_t){gpa}, QUIRE_PFERR_WRITE, fault);
}

/* The example's frame numbers are addresses. */
static int64_t fill_page(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	memset((void *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT), (int)(unit->gfn.v & 0xff),
	       QUIRE_PAGE_SIZE);
	return 1;
}

static int copy_hello(void *ctx, pfn_t pfn)
{
	strcpy((char *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT), ctx);
	return 0;
}

/* Shared pages can be written page by page, without a mapping. */
static void example_written(void)
{
	struct quire_gmem *gmem;
	struct example example;
	char hello[] = "hello";

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);
	EXAMPLE_CHECK(quire_gmem_create(example.vm, PRIVATE_BYTES, QUIRE_GMEM_WRITE, NULL, &gmem) ==
		      0);
	EXAMPLE_CHECK(quire_gmem_write(gmem, QUIRE_PAGE_SIZE, copy_hello, hello) == 0);
	EXAMPLE_CHECK(quire_gmem_write(gmem, PRIVATE_BYTES, copy_hello, hello) == -EINVAL);
	EXAMPLE_CHECK(strcmp((char *)quire_gmem_store(gmem) + QUIRE_PAGE_SIZE, hello) == 0);
	quire_gmem_release(gmem);
	example_destroy(&example);
}

static int count_bytes(void *ctx, uint64_t offset_bytes, uint64_t size_bytes)
{
	(void)offset_bytes;
	*(uint64_t *)ctx += size_bytes;
	return 0;
}

/* Where files own the attributes, a page is converted where it is. */
static void example_converted(void)
{
	const struct quire_vm_config config = {
	    .type = QUIRE_VM_SW_PROTECTED,
	    .format = QUIRE_FORMAT_NPT,
	    .maxphyaddr = 48,
	    .host = &example_host,
	    .gmem_in_place_conversion = 1,
	};
	struct quire_gmem_conversion conversion = {.size_bytes = QUIRE_PAGE_SIZE};
	struct quire_gmem *gmem;
	struct quire_vm *vm;
	uint64_t shared = 0;

	EXAMPLE_CHECK(quire_vm_create(&config, &vm) == 0);
	EXAMPLE_CHECK(quire_gmem_attributes(vm) == QUIRE_ATTRIBUTE_PRIVATE);
	EXAMPLE_CHECK(quire_vm_attributes(vm) == 0);
	EXAMPLE_CHECK(quire_gmem_create(vm, PRIVATE_BYTES, 0, NULL, &gmem) == 0);
	EXAMPLE_CHECK(quire_gmem_set_attributes(gmem, &conversion) == 0);
	EXAMPLE_CHECK(quire_gmem_each_shared(gmem, 0, PRIVATE_BYTES, count_bytes, &shared) == 0);
	EXAMPLE_CHECK(shared == QUIRE_PAGE_SIZE);
	conversion.size_bytes = PRIVATE_BYTES + QUIRE_PAGE_SIZE;
	EXAMPLE_CHECK(quire_gmem_set_attributes(gmem, &conversion) == -EINVAL);
	quire_gmem_release(gmem);
	quire_vm_put(vm);
}

void example_gmem(void)
{
	struct quire_memory_fault fault = {0};
	struct quire_gmem *gmem, *linked;
	struct example example, other;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_SW_PROTECTED, 0) == 0);
	EXAMPLE_CHECK(quire_gmem_create(example.vm, PRIVATE_BYTES, 0, NULL, &gmem) == 0);

	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = {PRIVATE_GPA},
	    .size_bytes = PRIVATE_BYTES,
	    .hva = {(uintptr_t)example.memory},
	    .gmem = gmem,
	};

	EXAMPLE_CHECK(quire_vm_set_region(example.vm, &region) == 0);
	EXAMPLE_CHECK(quire_vm_set_attributes(example.vm, region.gpa, PRIVATE_BYTES,
					      QUIRE_ATTRIBUTE_PRIVATE) == 0);

	/* A private page that is filled before the guest first uses it. */
	struct quire_gmem_fill fill = {.gfn = gfn_of(region.gpa), .npages = 1, .fill = fill_page};

	EXAMPLE_CHECK(quire_gmem_populate(example.vm, &fill) == 1);
	EXAMPLE_CHECK(quire_gmem_populate(example.vm, &fill) == -EEXIST);
	fill.npages = 0;
	EXAMPLE_CHECK(quire_gmem_populate(example.vm, &fill) == -EINVAL);

	/* Shared and private pages are mapped alike; punching takes the private one away. */
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA) == QUIRE_FIXED);
	EXAMPLE_CHECK(guest_writes(&example, PRIVATE_GPA, &fault) == QUIRE_FIXED);
	EXAMPLE_CHECK(quire_vm_stat(example.vm, QUIRE_VM_STAT_pages_4k) == 2);
	EXAMPLE_CHECK(quire_gmem_punch(gmem, 0, PRIVATE_BYTES) == 0);
	EXAMPLE_CHECK(quire_vm_stat(example.vm, QUIRE_VM_STAT_pages_4k) == 1);

	/* A private page of a slot without a file: the fault says where, and as what, it failed. */
	EXAMPLE_CHECK(quire_vm_set_attributes(example.vm, (gpa_t){EXAMPLE_GPA}, QUIRE_PAGE_SIZE,
					      QUIRE_ATTRIBUTE_PRIVATE) == 0);
	EXAMPLE_CHECK(guest_writes(&example, EXAMPLE_GPA, &fault) == -EFAULT);
	EXAMPLE_CHECK(fault.gpa.v == EXAMPLE_GPA && fault.flags == QUIRE_ATTRIBUTE_PRIVATE);

	/* Another VM gets the pages, too: they live until the last file of them has gone. */
	EXAMPLE_CHECK(quire_gmem_link(gmem, example.vm, &linked) == -EINVAL);
	EXAMPLE_CHECK(example_create(&other, QUIRE_VM_SW_PROTECTED, 0) == 0);
	EXAMPLE_CHECK(quire_gmem_link(gmem, other.vm, &linked) == 0);
	quire_gmem_release(gmem);
	example_destroy(&example);
	EXAMPLE_CHECK(quire_gmem_allocate(linked, 0, PRIVATE_BYTES, NULL) == 0);
	quire_gmem_release(linked);
	example_destroy(&other);
	example_written();
	example_converted();
}
