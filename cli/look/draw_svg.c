/* A map as SVG. */
#include "cli/look/draw.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_SHIFT 12
/* Sizes in the picture's units. */
#define ROW_CELLS 96u
#define CELL 10u
#define LEFT 120u
#define MARGIN 20u
#define WIDTH (LEFT + ROW_CELLS * CELL + MARGIN)
#define LINE 18u
#define HEAD_LINES 9u
#define HEAD (MARGIN + HEAD_LINES * LINE)
#define SLOT_GAP (2 * LINE)

/*
 * Colours that people with any sight tell apart, on light and on dark. In each cell: above, what
 * shadow pages map; in the middle, the page size of the mapping, hatched where it is private, with
 * a dot where it is logged as dirty; below, the page size of the host.
 */
static const char style[] =
    "<style>\n"
    ":root { color-scheme: light dark; }\n"
    "svg { background: #ffffff; font: 12px sans-serif; }\n"
    "text { fill: #1a1a1a; } .title { font-size: 16px; font-weight: bold; }\n"
    ".u { fill: #e4e4e4; } .k4 { fill: #5b9bd5; } .m2 { fill: #009e73; } .g1 { fill: #e69f00; }\n"
    ".h4 { fill: #1f4e79; } .ht { fill: #00664a; } .hh { fill: #a36b00; } .hs { fill: #7f7f7f; }\n"
    ".sh { fill: #6a3d9a; } .d { fill: #c00000; stroke: #ffffff; stroke-width: 0.7; }\n"
    ".p { fill: url(#hatch); } #hatch path { stroke: #000000; stroke-width: 1.4; }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "svg { background: #16181c; } text { fill: #e8e8e8; }\n"
    ".u { fill: #33363b; } .h4 { fill: #9cc3e6; } .ht { fill: #7fe0c4; } .hh { fill: #ffd27f; }\n"
    ".sh { fill: #c9a3f0; } .k4 { fill: #2f6db0; } .d { fill: #ff5140; } #hatch path { stroke: "
    "#ffffff; }\n"
    "}\n"
    "</style>\n"
    "<defs><pattern id=\"hatch\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\">"
    "<path d=\"M-1 6 L6 -1\"/></pattern></defs>\n";

static const char *const look_classes[] = {"u", "k4", "m2", "g1"};

static const char *host_class(enum map_count host)
{
	switch (host) {
	case MAP_host_4k:
		return "h4";
	case MAP_host_thp:
		return "ht";
	case MAP_host_hugetlb:
		return "hh";
	case MAP_host_swap:
		return "hs";
	default:
		return NULL;
	}
}

/* Text may hold anything: a program's name is its own. */
static void draw_escaped(const char *text, FILE *file)
{
	for (; *text; text++) {
		if ((unsigned char)*text < ' ' || *text == '<' || *text == '&' || *text == '"')
			fprintf(file, "&#%u;", (unsigned char)*text < ' ' ? '?' : *text);
		else
			fputc(*text, file);
	}
}

static void draw_bar(const char *class, unsigned int x, unsigned int y, unsigned int height,
		     FILE *file)
{
	fprintf(file, "<rect class=\"%s\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"/>", class, x,
		y, CELL - 1, height);
}

/* What a cell says when it is pointed at. */
static void draw_title(const struct map_cell *cell, FILE *file)
{
	char size[MAP_SIZE_TEXT];

	fprintf(file, "<title>%#" PRIx64 ", %s", cell->gfn << PAGE_SHIFT,
		map_size_text(cell->pages, size));
	for (size_t i = 0; i < MAP_COUNT; i++)
		if (cell->counts[i])
			fprintf(file, "; %s %s", map_texts[i],
				map_size_text(cell->counts[i], size));
	fputs("</title>", file);
}

static void draw_cell(const struct map *map, const struct map_cell *cell, unsigned int x,
		      unsigned int y, FILE *file)
{
	const char *host = host_class(map_host_of(map, cell));

	fputs("<g>", file);
	draw_title(cell, file);
	draw_bar(look_classes[map_look_of(cell)], x, y, CELL - 1, file);
	if (map_is_mostly(cell, MAP_private))
		draw_bar("p", x, y, CELL - 1, file);
	if (cell->counts[MAP_shadow_4k] || cell->counts[MAP_shadow_2m] ||
	    cell->counts[MAP_shadow_1g])
		draw_bar("sh", x, y, 2, file);
	if (host)
		draw_bar(host, x, y + CELL - 3, 2, file);
	if (cell->counts[MAP_logged])
		fprintf(file, "<circle class=\"d\" cx=\"%u\" cy=\"%u\" r=\"2\"/>", x + CELL / 2,
			y + CELL / 2);
	fputs("</g>\n", file);
}

static unsigned int rows_of(const struct map_slot *slot)
{
	return (unsigned int)((slot->cell_count + ROW_CELLS - 1) / ROW_CELLS);
}

/* Returns where the next one begins. */
static unsigned int draw_slot(const struct map *map, const struct map_slot *slot, unsigned int y,
			      FILE *file)
{
	char size[MAP_SIZE_TEXT];

	fprintf(file, "<text x=\"%u\" y=\"%u\">slot %" PRIu64 "%s, %s%s%s%s</text>\n", MARGIN,
		y + LINE, slot->id, slot->as_id ? " (system management)" : "",
		map_size_text(slot->pages, size), slot->is_readonly ? ", read-only" : "",
		slot->is_logged ? ", logged" : "", slot->is_gmem ? ", with a guest_memfd" : "");
	y += SLOT_GAP - LINE / 2;
	for (size_t at = 0; at < slot->cell_count; at++) {
		unsigned int row = (unsigned int)(at / ROW_CELLS);

		if (at % ROW_CELLS == 0)
			fprintf(
			    file, "<text x=\"%u\" y=\"%u\" font-size=\"9\">0x%" PRIx64 "</text>\n",
			    MARGIN, y + row * CELL + CELL - 2, slot->cells[at].gfn << PAGE_SHIFT);
		draw_cell(map, &slot->cells[at], LEFT + (unsigned int)(at % ROW_CELLS) * CELL,
			  y + row * CELL, file);
	}
	return y + rows_of(slot) * CELL;
}

static unsigned int height_of(const struct map *map)
{
	unsigned int height = HEAD + MARGIN;

	for (size_t i = 0; i < map->slot_count; i++)
		height += SLOT_GAP + rows_of(&map->slots[i]) * CELL;
	return height;
}

/* A patch of each colour, and its meaning. */
static void draw_legend_line(unsigned int y, FILE *file)
{
	static const struct {
		const char *class, *text;
	} entries[] = {
	    {"u", "not mapped"},       {"k4", "mapped by 4K"},	 {"m2", "by 2M"},
	    {"g1", "by 1G"},	       {"p", "private"},	 {"d", "logged as dirty"},
	    {"sh", "in shadow pages"}, {"h4", "host: 4K below"}, {"ht", "THP"},
	    {"hh", "hugetlb"},
	};
	unsigned int x = MARGIN;

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		draw_bar(entries[i].class, x, y, CELL - 1, file);
		fprintf(file, "<text x=\"%u\" y=\"%u\">%s</text>\n", x + CELL + 4, y + CELL - 1,
			entries[i].text);
		/* A letter takes so much of this size, about. */
		x += 2 * CELL + 8 + 7 * (unsigned int)strlen(entries[i].text);
	}
}

/* The totals, as draw_totals() has them, a line each. */
static void draw_head(const struct draw_vm *vm, FILE *file)
{
	char *text = NULL, size[MAP_SIZE_TEXT];
	size_t length = 0;
	unsigned int y = MARGIN + LINE;
	FILE *lines = open_memstream(&text, &length);

	fprintf(file, "<text class=\"title\" x=\"%u\" y=\"%u\">", MARGIN, y);
	draw_escaped(vm->command, file);
	fprintf(file, " (%d), VM %u: a cell is %s</text>\n", vm->pid, vm->index,
		map_size_text(vm->map->cell_pages, size));
	if (!lines)
		return;
	draw_totals(vm->map, "", lines);
	fclose(lines);
	for (char *line = text, *end; line && (end = strchr(line, '\n')); line = end + 1) {
		*end = '\0';
		fprintf(file, "<text x=\"%u\" y=\"%u\">", MARGIN, y += LINE);
		draw_escaped(line, file);
		fputs("</text>\n", file);
	}
	free(text);
}

void draw_svg(const struct draw_vm *vm, FILE *file)
{
	unsigned int y = HEAD, height = height_of(vm->map);

	fprintf(file,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" width=\"%u\" "
		"height=\"%u\">\n",
		WIDTH, height, WIDTH, height);
	fputs(style, file);
	draw_head(vm, file);
	draw_legend_line(HEAD - LINE, file);
	for (size_t i = 0; i < vm->map->slot_count; i++)
		y = draw_slot(vm->map, &vm->map->slots[i], y, file);
	fputs("</svg>\n", file);
}
