/* The guest's memory: areas of the machine's, each of a kind of its own. */
#ifndef KERNEL_IMAGE_H
#define KERNEL_IMAGE_H

#include <quire/host.h>
#include <quire/vm.h>

/* An area is a slot, by its place in the list. */
enum image_area {
	AREA_CODE,	/* what the tiny guest executes, and its page directory */
	AREA_SMALL,	/* pages of 4K */
	AREA_LARGE,	/* pages of 2M */
	AREA_GIGANTIC,	/* one page of 1G */
	AREA_READ_ONLY, /* the slot is */
	AREA_HOST_READ_ONLY,
	AREA_NO_EXECUTE,
	AREA_UNCACHED,
	AREA_COMBINING,
	AREA_EXECUTE_ONLY, /* in QUIRE_FORMAT_EPT_MODES; others refuse it */
	AREA_COUNT,
};

/* Behind these pages there is no memory. */
#define IMAGE_HOLE_GPA UINT64_C(0x2000000)
#define IMAGE_HOLE_PAGES 8u

/* The areas' answers to page_get() and page_level(). */
void image_fill_host(struct quire_host_ops *host);

/* Contents, then a slot each. 0 or -errno. */
int image_make(struct quire_vm *vm);
/* Make the slot of @area anew with @flags, or with @size_bytes 0 delete it. 0 or -errno. */
int image_set_slot(struct quire_vm *vm, enum image_area area, uint32_t flags, uint64_t size_bytes);

uint64_t image_size_bytes(enum image_area area);
/* The area's address in the host. */
hva_t image_hva(enum image_area area);
uint64_t image_gpa(enum image_area area);

/* Pages that a test looks at: each page of an area, or of a gigantic one some of each 2M. */
uint32_t image_pages(enum image_area area);
uint64_t image_page_gpa(enum image_area area, uint32_t index);

#endif
