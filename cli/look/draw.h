/* A map as text, as SVG, as JSON. */
#ifndef QUIRE_CLI_LOOK_DRAW_H
#define QUIRE_CLI_LOOK_DRAW_H

#include <stdio.h>

#include "cli/look/map.h"

struct json;

struct draw_vm {
	const struct map *map;
	int pid;
	const char *command;
	unsigned int index; /* of the VM in its process, from 0 on */
};

/* Totals, then a line for each so many cells. */
void draw_text(const struct draw_vm *vm, FILE *file);
/* One picture, legible on light and on dark. */
void draw_svg(const struct draw_vm *vm, FILE *file);
/* Members of the VM's object. */
void draw_json(const struct map *map, struct json *json);

/* The character of a cell, and what each means. */
char draw_char(const struct map_cell *cell);
extern const char *const draw_legend;

/* Totals, some lines. @prefix stands before each. */
void draw_totals(const struct map *map, const char *prefix, FILE *file);

#endif
