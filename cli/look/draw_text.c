/* A map as text. */
#include "cli/look/draw.h"

#include <inttypes.h>
#include <string.h>

#define LINE_CELLS 64u
#define PAGE_SHIFT 12

const char *const draw_legend =
    ". not mapped  s 4K  M 2M  G 1G; upper case S: private 4K, W and H: "
    "private 2M and 1G; * logged as dirty";

char draw_char(const struct map_cell *cell)
{
	static const char shared[] = ".sMG", private[] = ":SWH";

	if (cell->counts[MAP_logged])
		return '*';
	return (map_is_mostly(cell, MAP_private) ? private : shared)[map_look_of(cell)];
}

/* "name 12 MiB" for each count between the two @ends that is not 0; @label is not said again. */
static void draw_counts(const struct map *map, const char *label, const enum map_count ends[2],
			FILE *file)
{
	const char *separator = "";
	char size[MAP_SIZE_TEXT];

	for (enum map_count i = ends[0]; i <= ends[1]; i++) {
		if (!map->total.counts[i])
			continue;
		fprintf(file, "%s%s %s", separator,
			map_texts[i] +
			    (strncmp(map_texts[i], label, strlen(label)) ? 0 : strlen(label)),
			map_size_text(map->total.counts[i], size));
		separator = ", ";
	}
	fputs(*separator ? "\n" : "none\n", file);
}

static void draw_tables(const struct map_tables *tables, FILE *file)
{
	static const char *const names[] = {"", "4K", "2M", "1G", "512G"};
	char size[MAP_SIZE_TEXT];

	fputs("of the TDP MMU", file);
	for (size_t level = 4; level; level--)
		if (tables->tdp[level])
			fprintf(file, " %" PRIu64 " x %s", tables->tdp[level], names[level]);
	fprintf(file, "; shadow pages %" PRIu64 "; pages in use %" PRIu64 " of %s\n",
		tables->shadow_pages, tables->used,
		map_size_text(tables->taken_bytes >> PAGE_SHIFT, size));
}

void draw_totals(const struct map *map, const char *prefix, FILE *file)
{
	char size[MAP_SIZE_TEXT];

	fprintf(file, "%smemory   %s in %zu slots; ", prefix, map_size_text(map->total.pages, size),
		map->slot_count);
	draw_counts(map, "memory ", (enum map_count[]){MAP_private, MAP_logged}, file);
	fprintf(file, "%smapped   ", prefix);
	draw_counts(map, "mapped ", (enum map_count[]){MAP_mapped_4k, MAP_dirty}, file);
	fprintf(file, "%sshadow   ", prefix);
	draw_counts(map, "shadow ", (enum map_count[]){MAP_shadow_4k, MAP_shadow_1g}, file);
	fprintf(file, "%shost     ", prefix);
	if (map->knows_host)
		draw_counts(map, "host ", (enum map_count[]){MAP_host_4k, MAP_host_hole}, file);
	else
		fputs("not known\n", file);
	fprintf(file, "%stables   ", prefix);
	draw_tables(&map->tables, file);
	if (map->is_cut)
		fprintf(file, "%sThe process had something to do: the rest is missing.\n", prefix);
}

static void draw_slot(const struct map *map, const struct map_slot *slot, FILE *file)
{
	char size[MAP_SIZE_TEXT];

	fprintf(file, "\n  slot %" PRIu64 "%s: %#" PRIx64 "-%#" PRIx64 ", %s%s%s%s\n", slot->id,
		slot->as_id ? " (system management)" : "", slot->gfn << PAGE_SHIFT,
		(slot->gfn + slot->pages) << PAGE_SHIFT, map_size_text(slot->pages, size),
		slot->is_readonly ? ", read-only" : "", slot->is_logged ? ", logged" : "",
		slot->is_gmem ? ", with a guest_memfd" : "");
	for (size_t at = 0; at < slot->cell_count; at++) {
		if (at % LINE_CELLS == 0)
			fprintf(file, "%s  %#14" PRIx64 " ", at ? "\n" : "",
				slot->cells[at].gfn << PAGE_SHIFT);
		fputc(draw_char(&slot->cells[at]), file);
	}
	fputc('\n', file);
	(void)map;
}

void draw_text(const struct draw_vm *vm, FILE *file)
{
	char size[MAP_SIZE_TEXT];

	fprintf(file, "process %d (%s), VM %u\n", vm->pid, vm->command, vm->index);
	draw_totals(vm->map, "  ", file);
	for (size_t i = 0; i < vm->map->slot_count; i++)
		draw_slot(vm->map, &vm->map->slots[i], file);
	fprintf(file, "\n  a cell is %s: %s\n", map_size_text(vm->map->cell_pages, size),
		draw_legend);
}
