/* What a client's mappings of a guest_memfd show. */
#include "frontend/object/gmem_view.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <quire/types.h>

#include "frontend/file/file.h"
#include "frontend/object/mm_events.h"
#include "frontend/object/replacing.h"
#include "hosts/process/heap.h"
#include "hosts/process/maps.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/* A piece of a mapping, and of the file. */
struct piece {
	uint64_t address, size_bytes, offset_bytes;
	bool shown;
	struct piece *next; /* done before */
};

static bool is_of(const struct maps_file *mapping, const struct gmem_view *view)
{
	return mapping->inode == view->inode &&
	       (mapping->start >= view->own_end || mapping->end <= view->own_start) &&
	       mapping->device == ((uint64_t)major(view->device) << 20 | minor(view->device));
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What of @mapping is in the part; false: nothing. */
static bool cut(const struct maps_file *mapping, const struct gmem_view_part *part,
		struct piece *piece)
{
	uint64_t first = mapping->offset, start, end;

	piece->shown = first < FILE_SIGBUS_OFFSET;
	if (!piece->shown)
		first -= FILE_SIGBUS_OFFSET;
	start = later(mapping->start, part->start);
	end = earlier(mapping->end, part->end);
	/* Now as bytes of the file. */
	start = later(first + (start - mapping->start), part->offset_bytes);
	end = end > mapping->start ? first + (end - mapping->start) : 0;
	end = earlier(end, part->offset_bytes + part->size_bytes);
	if (start >= end)
		return false;
	piece->offset_bytes = start;
	piece->size_bytes = end - start;
	piece->address = mapping->start + (start - first);
	return true;
}

/* The next piece from the address *@from on: 1, 0 when there is none, or -errno. */
static int next_piece(const struct gmem_view *view, const struct gmem_view_part *part,
		      uint64_t *from, struct piece *piece)
{
	struct maps_file mapping;
	int error;

	while (*from < part->end) {
		error = maps_next_file(*from, &mapping);
		if (error)
			return error == -ENOENT ? 0 : error;
		*from = mapping.end;
		if (mapping.start < part->end && is_of(&mapping, view) &&
		    cut(&mapping, part, piece))
			return 1;
	}
	return 0;
}

/* The kernel maps the same file at another offset in the place of the piece, in one step. */
static int move(const struct piece *piece, bool shown)
{
	uint64_t offset = piece->offset_bytes + (shown ? 0 : FILE_SIGBUS_OFFSET);

	return (int)sys_call(SYS_remap_file_pages, piece->address, piece->size_bytes, 0,
			     offset >> QUIRE_PAGE_SHIFT, MAP_NONBLOCK);
}

/* Is the piece mapped as it was found? */
static bool is_still(const struct gmem_view *view, const struct gmem_view_part *part,
		     const struct piece *piece)
{
	uint64_t from = piece->address;
	struct piece now;

	return next_piece(view, part, &from, &now) > 0 && now.address == piece->address &&
	       now.size_bytes == piece->size_bytes && now.offset_bytes == piece->offset_bytes &&
	       now.shown == piece->shown;
}

/* move() where the piece is still what it was; -ESTALE: the client has changed it meanwhile. */
static int move_found(const struct gmem_view *view, const struct gmem_view_part *part,
		      const struct piece *piece, bool shown)
{
	int error = replacing_hold(piece->address, piece->address + piece->size_bytes);

	if (error)
		return error;
	error = is_still(view, part, piece) ? move(piece, shown) : -ESTALE;
	/* mprotect() takes nothing away, and may have made two mappings of one. */
	if (error == -EINVAL && !is_still(view, part, piece))
		error = -ESTALE;
	replacing_release();
	return error;
}

static int move_noted(const struct gmem_view *view, const struct gmem_view_part *part,
		      const struct piece *piece, struct piece **done)
{
	struct piece *note = process_heap_alloc(sizeof(*note));
	int error = note ? move_found(view, part, piece, !piece->shown) : -ENOMEM;

	if (error) {
		process_heap_free(note);
		return error;
	}
	*note = *piece;
	note->shown = !piece->shown;
	note->next = *done;
	*done = note;
	return 0;
}

/* Whatever call is in progress there: it must not stay half done. */
static void move_back(const struct gmem_view *view, const struct gmem_view_part *part,
		      const struct piece *piece)
{
	replacing_hold_anyway();
	if (is_still(view, part, piece))
		(void)move(piece, !piece->shown);
	replacing_release();
}

int gmem_view_show(const struct gmem_view *view, const struct gmem_view_part *part, bool shown)
{
	struct piece piece, *done = NULL, *next;
	uint64_t from = part->start;
	int got, error = 0;

	while (!error && (got = next_piece(view, part, &from, &piece)) != 0) {
		if (got < 0)
			error = got;
		else if (piece.shown != shown)
			error = move_noted(view, part, &piece, &done);
		if (error == -ESTALE) {
			error = 0;
			from = piece.address;
		}
	}
	for (; done; done = next) {
		next = done->next;
		if (error)
			move_back(view, part, done);
		process_heap_free(done);
	}
	process_mappings_changed();
	return error;
}

/* In a child they are the client's, whose own files may have that name, too. */
static bool is_gmem(const struct maps_file *mapping)
{
	struct maps_name name;

	return !process_mapping_name(mapping->start, &name) && strstr(name.text, GMEM_NAME);
}

void gmem_view_hide_all(void)
{
	struct maps_file mapping;
	uint64_t from = 0;

	while (!maps_next_file(from, &mapping)) {
		const struct piece piece = {.address = mapping.start,
					    .size_bytes = mapping.end - mapping.start,
					    .offset_bytes = mapping.offset};

		from = mapping.end;
		if (mapping.offset < FILE_SIGBUS_OFFSET && is_gmem(&mapping) && move(&piece, false))
			sys_call(SYS_munmap, piece.address, piece.size_bytes);
	}
}

void gmem_view_changed(const struct gmem_view *view, const struct gmem_view_part *part)
{
	uint64_t from = part->start;
	struct piece piece;

	while (next_piece(view, part, &from, &piece) > 0)
		mm_changed(piece.address, piece.address + piece.size_bytes);
}
