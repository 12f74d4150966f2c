/* A VM's memory as cells, from what its process said of it. */
#ifndef QUIRE_CLI_LOOK_MAP_H
#define QUIRE_CLI_LOOK_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_value;

/* What of a cell's pages is counted: X(name of the column, what people read). */
#define MAP_COUNTS(X)                    \
	X(private, "private")            \
	X(logged, "logged as dirty")     \
	X(mapped_4k, "mapped 4K")        \
	X(mapped_2m, "mapped 2M")        \
	X(mapped_1g, "mapped 1G")        \
	X(writable, "writable")          \
	X(executable, "executable")      \
	X(dirty, "written")              \
	X(shadow_4k, "shadow 4K")        \
	X(shadow_2m, "shadow 2M")        \
	X(shadow_1g, "shadow 1G")        \
	X(host_4k, "host 4K")            \
	X(host_thp, "host THP")          \
	X(host_hugetlb, "host hugetlb")  \
	X(host_swap, "host swapped out") \
	X(host_hole, "host hole")

#define MAP_COUNT_ID(name, text) MAP_##name,
enum map_count { MAP_COUNTS(MAP_COUNT_ID) MAP_COUNT };
#undef MAP_COUNT_ID
extern const char *const map_names[MAP_COUNT], *const map_texts[MAP_COUNT];

struct map_cell {
	uint64_t gfn, pages;
	uint64_t counts[MAP_COUNT];
};

struct map_slot {
	uint64_t as_id, id, gfn, pages, hva;
	bool is_logged, is_readonly, is_gmem;
	struct map_cell *cells; /* in the map's */
	size_t cell_count;
};

struct map_tables {
	uint64_t tdp[5]; /* by level */
	uint64_t shadow_pages, used, taken_bytes;
};

struct map {
	uint64_t cell_pages;
	struct map_slot *slots;
	size_t slot_count;
	struct map_cell *cells, total;
	size_t cell_count;
	struct map_tables tables;
	bool is_cut;	 /* the process had something to do */
	bool knows_host; /* the counts of the host are there */
};

/* From the member "memory" of a VM. 0, or -1: it is none, or there is no memory. */
int map_read(struct map *map, const struct json_value *memory);
void map_free(struct map *map);
/* Ask the kernel how process @pid has what the slots show. Without the right to, nothing. */
void map_ask_host(struct map *map, int pid);

/* What a cell looks like: what most of its pages are. */
enum map_look {
	MAP_LOOK_UNMAPPED,
	MAP_LOOK_4K,
	MAP_LOOK_2M,
	MAP_LOOK_1G,
};
enum map_look map_look_of(const struct map_cell *cell);
static inline bool map_is_mostly(const struct map_cell *cell, enum map_count count)
{
	return cell->counts[count] * 2 > cell->pages;
}
/* The host's page size of most of a cell's pages: one of MAP_host_*; MAP_COUNT: unknown. */
enum map_count map_host_of(const struct map *map, const struct map_cell *cell);

/* "12.5 MiB". */
#define MAP_SIZE_TEXT 24
const char *map_size_text(uint64_t pages, char room[MAP_SIZE_TEXT]);

#endif
