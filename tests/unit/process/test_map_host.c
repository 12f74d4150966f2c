/* How `quire view` counts the pages of the host where PAGEMAP_SCAN works, and where it stops to. */
#include "tests/unit/process/support.h"

#include <errno.h>
#include <stdarg.h>

#include "cli/look/map.h"

#define PAGES 8u

/* As in cli/look/map_host.c, by position. */
enum { SCAN_START = 2, SCAN_END, SCAN_WALK_END, SCAN_VEC, SCAN_CATEGORY_PRESENT = 1 << 3 };

/* How many calls work, each for half of what was asked; the kernel's own is not called. */
static unsigned int works;

int scan_ioctl(int fd, unsigned long request, ...);
int scan_ioctl(int fd, unsigned long request, ...)
{
	uint64_t *scan, *region, half;
	va_list arguments;

	(void)fd;
	(void)request;
	va_start(arguments, request);
	scan = va_arg(arguments, uint64_t *);
	va_end(arguments);
	if (!works--) {
		errno = ENOTTY;
		return -1;
	}
	half = (scan[SCAN_END] - scan[SCAN_START]) / 2 / PAGE * PAGE;
	if (!half)
		half = PAGE;
	region = (uint64_t *)(uintptr_t)scan[SCAN_VEC];
	region[0] = scan[SCAN_START];
	region[1] = scan[SCAN_WALK_END] = scan[SCAN_START] + half;
	region[2] = SCAN_CATEGORY_PRESENT;
	return 1;
}

/* A slot of one cell, whose pages are all there. */
static void check_counts(unsigned int calls)
{
	uint8_t *memory = map_anonymous(PAGES * PAGE, PROT_READ | PROT_WRITE);
	struct map_cell cell = {.pages = PAGES};
	struct map_slot slot = {
	    .hva = address_of(memory), .pages = PAGES, .cells = &cell, .cell_count = 1};
	struct map map = {.slots = &slot, .slot_count = 1};

	madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(memory, 1, PAGES * PAGE);
	map.total.pages = PAGES;
	works = calls;
	map_ask_host(&map, getpid());
	assert_true(map.knows_host);
	assert_int_equal(cell.counts[MAP_host_4k], PAGES);
	assert_int_equal(map.total.counts[MAP_host_4k], PAGES);
	assert_int_equal(cell.counts[MAP_host_hole], 0);
	unmap(memory, PAGES * PAGE);
}

static void each_page_counts_once(void **state)
{
	(void)state;
	check_counts(PAGES); /* it works */
	check_counts(0);     /* it does not */
	check_counts(1);     /* it stops to in the middle */
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(each_page_counts_once)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
