/* What a client's mappings of a guest_memfd show: shared pages, and SIGBUS where one is private. */
#ifndef QUIRE_FRONTEND_OBJECT_GMEM_VIEW_H
#define QUIRE_FRONTEND_OBJECT_GMEM_VIEW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The descriptor's, in /proc/PID/maps too. */
#define GMEM_NAME "[kvm-gmem]"

/*
 * A mapping says by its offset what it shows: a page of the file, or, FILE_SIGBUS_OFFSET further,
 * nothing, where that page is private. So the kernel's list of mappings is all that is kept, and
 * what the client unmaps, moves or protects needs no note here. A mapping changes from one to the
 * other in one step, with its rights.
 */
struct gmem_view {
	dev_t device;
	ino_t inode;
	uint64_t own_start, own_end; /* where the pages are mapped for us, and stay */
};

/* Of the mappings in [start, end), what shows these bytes of the file. */
struct gmem_view_part {
	uint64_t offset_bytes, size_bytes;
	uint64_t start, end;
};

/* Show the part, or take it away. -errno: it is as before. Takes no lock. */
int gmem_view_show(const struct gmem_view *view, const struct gmem_view_part *part, bool shown);
/*
 * In a child of a fork, which has no mapping of ours: nothing of any guest_memfd is shown from now
 * on. What cannot be hidden is unmapped.
 */
void gmem_view_hide_all(void);
/* Every VM forgets what it knew of the part's addresses. Inside a client call, no lock held. */
void gmem_view_changed(const struct gmem_view *view, const struct gmem_view_part *part);

#endif
