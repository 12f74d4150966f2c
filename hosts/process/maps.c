/* Reading /proc/self/maps and smaps a line at a time, without memory of its own. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "hosts/process/internal.h"
#include "hosts/process/maps.h"
#include "hosts/process/proc_files.h"
#include "hosts/process/sys.h"

/* Not on the stack, which is the client's and may be small. */
struct line_reader {
	enum proc_file which;
	long fd;
	uint64_t offset; /* in the file, of what is read next */
	uint32_t at, filled;
	char buffer[4096];
	char line[512]; /* the current line, without its end; a longer one is cut */
};

/* 1: a line; 0: the end; -errno. */
static int read_line(struct line_reader *reader)
{
	uint32_t length = 0;

	for (;;) {
		if (reader->at == reader->filled) {
			long got =
			    sys_call(SYS_pread64, (uint64_t)reader->fd, sys_address(reader->buffer),
				     sizeof(reader->buffer), reader->offset);

			if (got == -EINTR)
				continue;
			if (got <= 0)
				return (int)got;
			reader->offset += (uint64_t)got;
			reader->at = 0;
			reader->filled = (uint32_t)got;
		}
		char c = reader->buffer[reader->at++];

		if (c == '\n')
			break;
		if (length < sizeof(reader->line) - 1)
			reader->line[length++] = c;
	}
	reader->line[length] = '\0';
	return 1;
}

static const char *parse_hex(const char *text, uint64_t *value)
{
	const char *at = text;

	*value = 0;
	for (;; at++) {
		if (*at >= '0' && *at <= '9')
			*value = *value << 4 | (uint64_t)(*at - '0');
		else if (*at >= 'a' && *at <= 'f')
			*value = *value << 4 | (uint64_t)(*at - 'a' + 10);
		else
			return at == text ? NULL : at;
	}
}

static const char *skip_word(const char *at)
{
	while (*at && *at != ' ')
		at++;
	while (*at == ' ')
		at++;
	return at;
}

/* A header, still to be read: the text points into the line. */
struct header_rest {
	const char *offset, *device, *inode, *name;
};

/* "start-end rwxp offset device inode   name": false when the line is none of these. */
static bool parse_header(const char *line, struct process_mapping *mapping,
			 struct header_rest *rest)
{
	const char *at = parse_hex(line, &mapping->start);

	if (!at || *at != '-')
		return false;
	at = parse_hex(at + 1, &mapping->end);
	if (!at || *at != ' ' || strlen(at) < 6)
		return false;
	mapping->prot = (at[1] == 'r' ? PROT_READ : 0) | (at[2] == 'w' ? PROT_WRITE : 0) |
			(at[3] == 'x' ? PROT_EXEC : 0);
	mapping->shared = at[4] == 's';
	mapping->pfnmap = false;
	mapping->page_size_bytes = QUIRE_PAGE_SIZE;
	at = skip_word(at + 1); /* permissions */
	rest->offset = at;
	at = skip_word(at);
	rest->device = at;
	at = skip_word(at);
	rest->inode = at;
	rest->name = skip_word(at);
	return true;
}

/* Read on until the mapping that covers @address. */
static int find_header(struct line_reader *reader, uint64_t address,
		       struct process_mapping *mapping, struct header_rest *rest)
{
	int got;

	while ((got = read_line(reader)) > 0) {
		if (!parse_header(reader->line, mapping, rest))
			continue;
		if (mapping->start > address)
			break;
		if (address < mapping->end)
			return 0;
	}
	return got < 0 ? got : -ENOENT;
}

static int reader_open(struct line_reader **made, enum proc_file which)
{
	struct line_reader *reader = process_alloc(NULL, sizeof(*reader));
	int error;

	if (!reader)
		return -ENOMEM;
	reader->at = reader->filled = 0;
	reader->offset = 0;
	reader->which = which;
	reader->fd = proc_file_open(which);
	/* Text is read where the kernel takes no question: each time, look what the number is. */
	if (proc_file_is_lost(which, reader->fd))
		reader->fd = proc_file_open(which);
	if (reader->fd < 0) {
		error = (int)reader->fd;
		process_free(NULL, reader, sizeof(*reader));
		return error;
	}
	*made = reader;
	return 0;
}

static void reader_close(struct line_reader *reader)
{
	proc_file_close(reader->which, reader->fd);
	process_free(NULL, reader, sizeof(*reader));
}

static uint64_t parse_device(const char *text)
{
	uint64_t major, minor;
	const char *at = parse_hex(text, &major);

	if (!at || *at != ':' || !parse_hex(at + 1, &minor))
		return 0;
	return major << 20 | minor;
}

int maps_find(uint64_t address, struct process_mapping *mapping, struct maps_name *name)
{
	struct line_reader *reader = NULL;
	struct header_rest rest;
	int error = reader_open(&reader, PROC_MAPS);

	if (error)
		return error;
	error = find_header(reader, address, mapping, &rest);
	if (!error) {
		size_t length = strnlen(rest.name, sizeof(name->text) - 1);

		name->device = parse_device(rest.device);
		if (!parse_hex(rest.offset, &name->offset_bytes))
			name->offset_bytes = 0;
		memcpy(name->text, rest.name, length);
		name->text[length] = '\0';
	}
	reader_close(reader);
	return error;
}

static uint64_t parse_decimal(const char *at)
{
	uint64_t value = 0;

	for (; *at >= '0' && *at <= '9'; at++)
		value = value * 10 + (uint64_t)(*at - '0');
	return value;
}

bool maps_parse_file(const char *line, struct maps_file *found)
{
	struct process_mapping mapping;
	struct header_rest rest;

	if (!parse_header(line, &mapping, &rest) || *rest.inode == '0')
		return false;
	*found = (struct maps_file){
	    .start = mapping.start,
	    .end = mapping.end,
	    .device = parse_device(rest.device),
	    .inode = parse_decimal(rest.inode),
	    .shared = mapping.shared,
	};
	return parse_hex(rest.offset, &found->offset) != NULL;
}

int maps_next_file_in_text(uint64_t address, struct maps_file *found)
{
	struct line_reader *reader = NULL;
	int error = reader_open(&reader, PROC_MAPS), got;

	if (error)
		return error;
	error = -ENOENT;
	while (error && (got = read_line(reader)) > 0)
		if (maps_parse_file(reader->line, found) && found->shared && found->end > address)
			error = 0;
	reader_close(reader);
	return error == -ENOENT && got < 0 ? got : error;
}

static uint64_t parse_kilobytes(const char *at)
{
	while (*at == ' ' || *at == '\t')
		at++;
	return parse_decimal(at) << 10;
}

/* The lines that follow a header, up to the flags, which stand last. */
static int parse_details(struct line_reader *reader, struct process_mapping *mapping)
{
	static const char page_size[] = "KernelPageSize:", flags[] = "VmFlags:";
	int got;

	while ((got = read_line(reader)) > 0) {
		if (!strncmp(reader->line, page_size, strlen(page_size)))
			mapping->page_size_bytes =
			    parse_kilobytes(reader->line + strlen(page_size));
		if (strncmp(reader->line, flags, strlen(flags)))
			continue;
		/* Both kinds of memory without pages: bare frames, and registers. */
		mapping->pfnmap = strstr(reader->line, " pf") || strstr(reader->line, " io");
		return 0;
	}
	return got < 0 ? got : -ENOENT;
}

int smaps_find(uint64_t address, struct process_mapping *mapping)
{
	struct line_reader *reader = NULL;
	struct header_rest rest;
	int error = reader_open(&reader, PROC_SMAPS);

	if (error)
		return error;
	error = find_header(reader, address, mapping, &rest);
	if (!error)
		error = parse_details(reader, mapping);
	reader_close(reader);
	return error;
}
