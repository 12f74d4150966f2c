/* The guest's memory, and what the host says of its pages: their addresses are physical. */
#include "tests/kernel/image.h"

#include <errno.h>
#include <string.h>

#include "tests/kernel/machine.h"
#include "tests/kernel/guest.h"

#define MIB(n) (UINT64_C(n) << 20)
/* A page in every 2M of a gigantic area, each time another one. */
#define GIGANTIC_STEP (513 * QUIRE_PAGE_SIZE)

struct area {
	uint64_t gpa, size_bytes, physical;
	enum quire_level level; /* the host's own mapping */
	uint32_t flags;
	uint8_t is_read_only; /* to the host */
	uint8_t noexec, memtype, noread;
};

static const struct area areas[AREA_COUNT] = {
    [AREA_CODE] = {GUEST_CODE_GPA, 8192, MIB(512), QUIRE_LEVEL_4K, 0, 0, 0, 0, 0},
    [AREA_SMALL] = {0, MIB(1), MIB(515), QUIRE_LEVEL_4K, 0, 0, 0, 0, 0},
    [AREA_LARGE] = {MIB(2), MIB(4), MIB(518), QUIRE_LEVEL_2M, 0, 0, 0, 0, 0},
    [AREA_GIGANTIC] = {MIB(1024), MIB(1024), MIB(1024), QUIRE_LEVEL_1G, 0, 0, 0, 0, 0},
    [AREA_READ_ONLY] = {MIB(16), 0x20000, MIB(530), QUIRE_LEVEL_4K, QUIRE_SLOT_READONLY, 0, 0, 0,
			0},
    [AREA_HOST_READ_ONLY] = {MIB(17), 0x20000, MIB(531), QUIRE_LEVEL_4K, 0, 1, 0, 0, 0},
    [AREA_NO_EXECUTE] = {MIB(18), 0x20000, MIB(532), QUIRE_LEVEL_4K, 0, 0, 1, 0, 0},
    [AREA_UNCACHED] = {MIB(19), 0x8000, MIB(533), QUIRE_LEVEL_4K, 0, 0, 1, QUIRE_MEMTYPE_UC, 0},
    [AREA_COMBINING] = {MIB(20), 0x8000, MIB(534), QUIRE_LEVEL_4K, 0, 0, 0, QUIRE_MEMTYPE_WC, 0},
    [AREA_EXECUTE_ONLY] = {.gpa = MIB(21),
			   .size_bytes = 0x8000,
			   .physical = MIB(535),
			   .level = QUIRE_LEVEL_4K,
			   .is_read_only = 1,
			   .noread = 1},
};

uint64_t image_size_bytes(enum image_area area)
{
	return areas[area].size_bytes;
}

hva_t image_hva(enum image_area area)
{
	return (hva_t){areas[area].physical};
}

uint64_t image_gpa(enum image_area area)
{
	return areas[area].gpa;
}

static uint64_t step_of(enum image_area area)
{
	return area == AREA_GIGANTIC ? GIGANTIC_STEP : QUIRE_PAGE_SIZE;
}

uint32_t image_pages(enum image_area area)
{
	return (uint32_t)(areas[area].size_bytes / step_of(area));
}

uint64_t image_page_gpa(enum image_area area, uint32_t index)
{
	return areas[area].gpa + index * step_of(area);
}

static const struct area *area_of(hva_t hva)
{
	unsigned int i;

	for (i = 0; i < AREA_COUNT; i++)
		if (hva.v - areas[i].physical < areas[i].size_bytes)
			return &areas[i];
	return NULL;
}

static int image_page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	const struct area *area = area_of(hva);

	(void)ctx;
	if (!area || ((flags & QUIRE_PAGE_WRITE) && area->is_read_only))
		return -EFAULT;
	memset(page, 0, sizeof(*page));
	page->pfn.v = hva.v >> QUIRE_PAGE_SHIFT;
	page->writable = !area->is_read_only;
	page->noexec = area->noexec;
	page->memtype = area->memtype;
	page->noread = area->noread;
	return 0;
}

static enum quire_level image_page_level(void *ctx, hva_t hva, enum quire_level max)
{
	const struct area *area = area_of(hva);

	(void)ctx;
	if (!area)
		return QUIRE_LEVEL_4K;
	return area->level < max ? area->level : max;
}

void image_fill_host(struct quire_host_ops *host)
{
	host->page_get = image_page_get;
	host->page_level = image_page_level;
}

int image_set_slot(struct quire_vm *vm, enum image_area area, uint32_t flags, uint64_t size_bytes)
{
	const struct quire_region region = {
	    .slot = area,
	    .flags = areas[area].flags | flags,
	    .gpa = {areas[area].gpa},
	    .size_bytes = size_bytes,
	    .hva = image_hva(area),
	};

	return quire_vm_set_region(vm, &region);
}

int image_make(struct quire_vm *vm)
{
	uint64_t physical;
	uint32_t i, area;
	int result = 0;

	for (area = 0; area < AREA_COUNT && !result; area++) {
		for (i = 0; i < image_pages(area); i++) {
			physical = areas[area].physical + i * step_of(area);
			guest_fill_page(memory_at(physical),
					(uint32_t)(physical >> 12) | 0x5a000000);
		}
		result = image_set_slot(vm, area, 0, areas[area].size_bytes);
	}
	guest_fill_code(memory_at(areas[AREA_CODE].physical));
	guest_fill_directory(memory_at(areas[AREA_CODE].physical + QUIRE_PAGE_SIZE));
	return result;
}
