/* A VM's memory as JSON: what `quire view` draws. */
#ifndef QUIRE_FRONTEND_REPORT_VIEW_H
#define QUIRE_FRONTEND_REPORT_VIEW_H

#include <stdint.h>

struct json;
struct quire_vm;

/* What to show: pages of 4 KiB. */
struct view_wish {
	uint64_t start, end; /* gfns */
	uint32_t cells;	     /* at most so many for all slots, and one more for each slot */
	/* Not 0: a thread waits, and the rest is left out. Read between parts of 1 GiB. */
	const uint32_t *hurry;
};

/*
 * The member "memory": slots with rows of cells, and tables. A cell has as many pages as a power of
 * two says, fewer at the ends of its slot; neighbours that are all of one kind are one row. Takes
 * no lock, and stops no guest.
 */
void view_print(struct json *json, struct quire_vm *vm, const struct view_wish *wish);

#endif
