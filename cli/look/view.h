/* `quire view`: what its forms share. */
#ifndef QUIRE_CLI_LOOK_VIEW_H
#define QUIRE_CLI_LOOK_VIEW_H

#include "cli/look/draw.h"

struct process;

/*
 * The map of VM @index of what a process said, and of the host if it lives. 0, or -1: there is no
 * such VM, or it had no room for its map. map_free().
 */
enum view_of { VIEW_LIVING, VIEW_DUMP };
int view_read(const struct process *process, unsigned int index, enum view_of of, struct map *map,
	      struct draw_vm *vm);

#endif
