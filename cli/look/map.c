/* A VM's memory as cells, from what its process said of it. */
#include "cli/look/map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/look/json_read.h"

#define PAGE_KIB 4u
#define COLUMNS_MAX 32
/* Of a guest's physical addresses, and more cells than a process has room to write. */
#define GFN_END (UINT64_C(1) << 52)
#define CELLS_MAX (UINT64_C(1) << 20)

#define NAME(name, text) #name,
const char *const map_names[MAP_COUNT] = {MAP_COUNTS(NAME)};
#undef NAME
#define TEXT(name, text) text,
const char *const map_texts[MAP_COUNT] = {MAP_COUNTS(TEXT)};
#undef TEXT

/* Where each number of a row goes: offsets in struct map_cell, in words. */
struct columns {
	size_t words[COLUMNS_MAX];
	size_t count;
};
#define WORD_OF(field) (offsetof(struct map_cell, field) / sizeof(uint64_t))
#define WORD_NOWHERE (sizeof(struct map_cell) / sizeof(uint64_t))

static size_t word_of(const char *name)
{
	if (!strcmp(name, "gfn"))
		return WORD_OF(gfn);
	if (!strcmp(name, "pages"))
		return WORD_OF(pages);
	for (size_t i = 0; i < MAP_COUNT; i++)
		if (!strcmp(name, map_names[i]))
			return WORD_OF(counts) + i;
	return WORD_NOWHERE;
}

static struct columns read_columns(const struct json_value *list)
{
	struct columns columns = {0};
	const struct json_value *name;

	json_each(name, list) if (columns.count < COLUMNS_MAX && name->kind == JSON_STRING)
	    columns.words[columns.count++] = word_of(name->text);
	return columns;
}

static struct map_cell read_row(const struct columns *columns, const struct json_value *row)
{
	struct map_cell cell = {0};
	const struct json_value *number;
	size_t at = 0;

	json_each(number, row)
	{
		if (at == columns->count)
			break;
		if (columns->words[at] != WORD_NOWHERE)
			((uint64_t *)&cell)[columns->words[at]] = number->number;
		at++;
	}
	return cell;
}

/* A row of @pages from @gfn has so many cells. */
static uint64_t cells_in(const struct map *map, uint64_t gfn, uint64_t pages)
{
	return pages ? (gfn + pages - 1) / map->cell_pages - gfn / map->cell_pages + 1 : 0;
}

static void add_cell(struct map_cell *sum, const struct map_cell *cell)
{
	sum->pages += cell->pages;
	for (size_t i = 0; i < MAP_COUNT; i++)
		sum->counts[i] += cell->counts[i];
}

/* A row of several cells is all of one kind, so each has its share. */
static void cut_row(struct map *map, struct map_slot *slot, const struct map_cell *row)
{
	uint64_t gfn = row->gfn, end = row->gfn + row->pages;

	while (gfn < end) {
		struct map_cell *cell = &slot->cells[slot->cell_count++];
		uint64_t next = (gfn / map->cell_pages + 1) * map->cell_pages;

		if (next > end)
			next = end;
		*cell = *row;
		cell->gfn = gfn;
		cell->pages = next - gfn;
		for (size_t i = 0; i < MAP_COUNT; i++)
			if (cell->pages != row->pages)
				cell->counts[i] = row->counts[i] ? cell->pages : 0;
		map->cell_count++;
		gfn = next;
	}
	slot->pages += row->pages;
}

static bool flag_of(const struct json_value *object, const char *key)
{
	return json_member_number(object, key) != 0;
}

static void read_slot(struct map *map, const struct columns *columns, const struct json_value *from)
{
	struct map_slot *slot = &map->slots[map->slot_count++];
	const struct json_value *row;

	*slot = (struct map_slot){
	    .as_id = json_member_number(from, "as"),
	    .id = json_member_number(from, "id"),
	    .gfn = json_member_number(from, "gfn"),
	    .hva = json_member_number(from, "hva"),
	    .is_logged = flag_of(from, "log"),
	    .is_readonly = flag_of(from, "readonly"),
	    .is_gmem = flag_of(from, "guest_memfd"),
	    .cells = map->cells + map->cell_count,
	};
	json_each(row, json_member(from, "rows"))
	{
		struct map_cell cell = read_row(columns, row);

		cut_row(map, slot, &cell);
		add_cell(&map->total, &cell);
	}
}

/* Room for all slots and cells. False: a file that makes no sense, or no memory. */
static bool make_room(struct map *map, const struct columns *columns,
		      const struct json_value *slots)
{
	const struct json_value *slot, *row;
	size_t slot_count = 0;
	uint64_t cell_count = 0;

	json_each(slot, slots)
	{
		slot_count++;
		json_each(row, json_member(slot, "rows"))
		{
			struct map_cell cell = read_row(columns, row);

			if (cell.gfn > GFN_END || cell.pages > GFN_END - cell.gfn)
				return false;
			cell_count += cells_in(map, cell.gfn, cell.pages);
			if (cell_count > CELLS_MAX)
				return false;
		}
	}
	map->slots = calloc(slot_count + 1, sizeof(*map->slots));
	map->cells = calloc(cell_count + 1, sizeof(*map->cells));
	return map->slots && map->cells;
}

int map_read(struct map *map, const struct json_value *memory)
{
	const struct json_value *slots = json_member(memory, "slots"), *slot;
	const struct json_value *tables = json_member(memory, "tables");
	struct columns columns = read_columns(json_member(memory, "columns"));

	*map = (struct map){.cell_pages = json_member_number(memory, "cell_pages"),
			    .is_cut = flag_of(memory, "is_cut"),
			    .knows_host = flag_of(memory, "knows_host")};
	if (!slots || !map->cell_pages || map->cell_pages > GFN_END ||
	    !make_room(map, &columns, slots)) {
		map_free(map);
		return -1;
	}
	json_each(slot, slots) read_slot(map, &columns, slot);
	map->tables = (struct map_tables){
	    .tdp = {0, json_member_number(tables, "tdp_4k"), json_member_number(tables, "tdp_2m"),
		    json_member_number(tables, "tdp_1g"), json_member_number(tables, "tdp_512g")},
	    .shadow_pages = json_member_number(tables, "shadow_pages"),
	    .used = json_member_number(tables, "used"),
	    .taken_bytes = json_member_number(tables, "taken_bytes"),
	};
	return 0;
}

void map_free(struct map *map)
{
	free(map->slots);
	free(map->cells);
	*map = (struct map){0};
}

enum map_look map_look_of(const struct map_cell *cell)
{
	const uint64_t *counts = cell->counts;
	uint64_t mapped = counts[MAP_mapped_4k] + counts[MAP_mapped_2m] + counts[MAP_mapped_1g];

	/* A few mapped pages show: they are what one looks for. */
	if (!mapped)
		return MAP_LOOK_UNMAPPED;
	if (counts[MAP_mapped_1g] * 2 >= mapped)
		return MAP_LOOK_1G;
	return counts[MAP_mapped_2m] * 2 >= mapped ? MAP_LOOK_2M : MAP_LOOK_4K;
}

enum map_count map_host_of(const struct map *map, const struct map_cell *cell)
{
	enum map_count most = MAP_host_4k;

	if (!map->knows_host)
		return MAP_COUNT;
	for (enum map_count i = MAP_host_4k; i <= MAP_host_hole; i++)
		if (cell->counts[i] > cell->counts[most])
			most = i;
	return most;
}

const char *map_size_text(uint64_t pages, char room[MAP_SIZE_TEXT])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
	double size = (double)pages * PAGE_KIB;
	size_t unit = 0;

	for (; size >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
		size /= 1024;
	snprintf(room, MAP_SIZE_TEXT, size < 10 && unit ? "%.1f %s" : "%.0f %s", size, units[unit]);
	return room;
}
