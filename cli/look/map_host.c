/* How the host has the memory that a map shows: small pages, large ones, or none. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/look/map.h"

#define PAGE_BYTES 4096u
#define REGIONS 512u
/* Without PAGEMAP_SCAN each page has a word to be read: of so many at most. */
#define WORDS_MAX (UINT64_C(1) << 24)
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

/* PAGEMAP_SCAN (Linux 6.7), newer than the headers of older distributions. */
struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct region {
	uint64_t start, end, categories;
};
#define SCAN_PAGEMAP _IOWR('f', 16, struct scan)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)
#define SCAN_HUGE (UINT64_C(1) << 6)

/* A mapping of huge pages that the system keeps apart (hugetlbfs). */
struct range {
	uint64_t start, end;
};

struct host {
	int pagemap;
	bool has_scan;
	struct range *hugetlb;
	size_t hugetlb_count;
};

/* Paths below these are on hugetlbfs; what mmap() alone made has a name of the kernel's. */
static bool is_hugetlb_name(const char *name)
{
	char line[PATH_MAX + 256], place[PATH_MAX];
	bool found = !strncmp(name, "/anon_hugepage", 14);
	FILE *mounts = found ? NULL : fopen("/proc/self/mounts", "re");

	while (mounts && !found && fgets(line, sizeof(line), mounts))
		if (sscanf(line, "%*s %4095s hugetlbfs", place) == 1 && strstr(line, " hugetlbfs "))
			found = !strncmp(name, place, strlen(place));
	if (mounts)
		fclose(mounts);
	return found;
}

static void find_hugetlb(struct host *host, int pid)
{
	char path[64], line[PATH_MAX + 128], name[PATH_MAX];
	struct range range, *list;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %4095s", &range.start, &range.end,
			   name) != 3 ||
		    name[0] != '/' || !is_hugetlb_name(name))
			continue;
		list = reallocarray(host->hugetlb, host->hugetlb_count + 1, sizeof(*list));
		if (!list)
			break;
		host->hugetlb = list;
		list[host->hugetlb_count++] = range;
	}
	if (maps)
		fclose(maps);
}

static bool is_hugetlb(const struct host *host, uint64_t address)
{
	for (size_t i = 0; i < host->hugetlb_count; i++)
		if (address >= host->hugetlb[i].start && address < host->hugetlb[i].end)
			return true;
	return false;
}

static void add_region(const struct host *host, const struct region *region, uint64_t *counts)
{
	uint64_t pages = (region->end - region->start) / PAGE_BYTES;

	if (region->categories & SCAN_SWAPPED)
		counts[MAP_host_swap] += pages;
	else if (is_hugetlb(host, region->start))
		counts[MAP_host_hugetlb] += pages;
	else if (region->categories & SCAN_HUGE)
		counts[MAP_host_thp] += pages;
	else
		counts[MAP_host_4k] += pages;
}

/* False: the kernel cannot. */
static bool scan_cell(const struct host *host, uint64_t start, uint64_t end, uint64_t *counts)
{
	static struct region regions[REGIONS];
	struct scan scan = {
	    .size = sizeof(scan),
	    .start = start,
	    .end = end,
	    .vec = (uintptr_t)regions,
	    .vec_len = REGIONS,
	    .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
	    .return_mask = SCAN_PRESENT | SCAN_SWAPPED | SCAN_HUGE,
	};

	while (scan.start < end) {
		int got = ioctl(host->pagemap, SCAN_PAGEMAP, &scan);

		if (got < 0)
			return false;
		for (int i = 0; i < got; i++)
			add_region(host, &regions[i], counts);
		if (scan.walk_end <= scan.start)
			break;
		scan.start = scan.walk_end;
	}
	return true;
}

static bool read_cell(const struct host *host, uint64_t start, uint64_t end, uint64_t *counts)
{
	static uint64_t words[REGIONS];

	while (start < end) {
		uint64_t want = (end - start) / PAGE_BYTES;
		ssize_t got;

		if (want > REGIONS)
			want = REGIONS;
		got = pread(host->pagemap, words, want * sizeof(words[0]),
			    (off_t)(start / PAGE_BYTES * sizeof(words[0])));
		if (got < (ssize_t)sizeof(words[0]))
			return false;
		for (uint64_t i = 0; i < (uint64_t)got / sizeof(words[0]); i++) {
			struct region page = {.start = start, .end = start + PAGE_BYTES};

			page.categories = words[i] & PAGEMAP_SWAPPED ? SCAN_SWAPPED : SCAN_PRESENT;
			if (words[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
				add_region(host, &page, counts);
			start += PAGE_BYTES;
		}
	}
	return true;
}

static void forget_cell(struct map_cell *cell)
{
	memset(&cell->counts[MAP_host_4k], 0,
	       (MAP_host_hole - MAP_host_4k + 1) * sizeof(cell->counts[0]));
}

static bool ask_cell(struct host *host, const struct map_slot *slot, struct map_cell *cell)
{
	uint64_t start = slot->hva + (cell->gfn - slot->gfn) * PAGE_BYTES;
	uint64_t end = start + cell->pages * PAGE_BYTES, there = 0;

	forget_cell(cell);
	if (host->has_scan)
		host->has_scan = scan_cell(host, start, end, cell->counts);
	if (!host->has_scan) {
		/* What the kernel told before it could no more is told once more. */
		forget_cell(cell);
		if (!read_cell(host, start, end, cell->counts))
			return false;
	}
	for (enum map_count i = MAP_host_4k; i < MAP_host_hole; i++)
		there += cell->counts[i];
	cell->counts[MAP_host_hole] = there < cell->pages ? cell->pages - there : 0;
	return true;
}

void map_ask_host(struct map *map, int pid)
{
	struct host host = {.has_scan = true};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	host.pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (host.pagemap < 0)
		return;
	find_hugetlb(&host, pid);
	map->knows_host = true;
	for (size_t i = 0; i < map->slot_count && map->knows_host; i++) {
		struct map_slot *slot = &map->slots[i];

		for (size_t at = 0; at < slot->cell_count && map->knows_host; at++) {
			map->knows_host = (host.has_scan || map->total.pages < WORDS_MAX) &&
					  ask_cell(&host, slot, &slot->cells[at]);
			for (enum map_count j = MAP_host_4k; j <= MAP_host_hole; j++)
				map->total.counts[j] += slot->cells[at].counts[j];
		}
	}
	free(host.hugetlb);
	close(host.pagemap);
}
