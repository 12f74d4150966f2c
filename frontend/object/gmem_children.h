/* What a forked child's mappings of a file that is converted show: its kernel's list is its own. */
#ifndef QUIRE_FRONTEND_OBJECT_GMEM_CHILDREN_H
#define QUIRE_FRONTEND_OBJECT_GMEM_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/object/gmem_view.h"

/*
 * The maker of the file writes each change to a board, memory that its children share; a thread of
 * ours in each child makes the same change to what the child has mapped, and answers. A child
 * begins before its fork() returns there, with what was written since its memory was copied.
 */

/* The client is about to map a file that is converted, for the first time: 0 or -errno. */
int gmem_children_begin(void);

/*
 * As gmem_view_show() in every child, and their children. -EAGAIN: one does not answer in time (it
 * may be stopped), or has no memory; others may have made the change. To show never fails.
 */
int gmem_children_show(const struct gmem_view *view, const struct gmem_view_part *part, bool shown);
/* The change has been made in this process, or will not be. After each gmem_children_show(). */
void gmem_children_shown(void);

#endif
