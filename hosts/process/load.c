/* A program is brought into memory as the kernel's execve would have done it. */
#include "hosts/process/load.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <unistd.h>

#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#define PAGE_BYTES UINT64_C(4096)
#define SEGMENTS_MAX 512u
/* Two thirds of the address space, as the kernel has it for programs with an interpreter. */
#define PROGRAM_BASE UINT64_C(0x555555554000)
#define PROGRAM_SPREAD_PAGES ((UINT64_C(1) << 28) - 1)
#define NO_REPLACE_FLAG 0x100000 /* MAP_FIXED_NOREPLACE */

static uint64_t page_down(uint64_t address)
{
	return address & ~(PAGE_BYTES - 1);
}

static uint64_t page_up(uint64_t address)
{
	return page_down(address + PAGE_BYTES - 1);
}

static int protection_of(const Elf64_Phdr *segment)
{
	return (segment->p_flags & PF_R ? PROT_READ : 0) |
	       (segment->p_flags & PF_W ? PROT_WRITE : 0) |
	       (segment->p_flags & PF_X ? PROT_EXEC : 0);
}

static int read_headers(int fd, Elf64_Ehdr *header, Elf64_Phdr *segments)
{
	ssize_t bytes;

	if (pread(fd, header, sizeof(*header), 0) != (ssize_t)sizeof(*header) ||
	    memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_phentsize != sizeof(Elf64_Phdr) ||
	    !header->e_phnum || header->e_phnum > SEGMENTS_MAX ||
	    (header->e_type != ET_EXEC && header->e_type != ET_DYN))
		return -ENOEXEC;
	bytes = (ssize_t)(header->e_phnum * sizeof(*segments));
	return pread(fd, segments, (size_t)bytes, (off_t)header->e_phoff) == bytes ? 0 : -ENOEXEC;
}

/* The addresses that the file's segments span. */
static int span_of(const Elf64_Ehdr *header, const Elf64_Phdr *segments, uint64_t span[2],
		   uint64_t *align)
{
	span[0] = UINT64_MAX;
	span[1] = 0;
	*align = PAGE_BYTES;
	for (unsigned int i = 0; i < header->e_phnum; i++) {
		uint64_t end;

		if (segments[i].p_type != PT_LOAD)
			continue;
		if (segments[i].p_filesz > segments[i].p_memsz ||
		    __builtin_add_overflow(segments[i].p_vaddr, segments[i].p_memsz, &end) ||
		    end >= UINT64_C(1) << 47)
			return -ENOEXEC;
		if (page_down(segments[i].p_vaddr) < span[0])
			span[0] = page_down(segments[i].p_vaddr);
		if (page_up(end) > span[1])
			span[1] = page_up(end);
		if (segments[i].p_align > *align &&
		    !(segments[i].p_align & (segments[i].p_align - 1)))
			*align = segments[i].p_align;
	}
	return span[1] > span[0] ? 0 : -ENOEXEC;
}

static uint64_t random_pages(void)
{
	uint64_t value = 0;

	if (personality(0xffffffff) & ADDR_NO_RANDOMIZE)
		return 0;
	sys_call(SYS_getrandom, sys_address(&value), sizeof(value), 1 /* GRND_NONBLOCK */);
	return value & PROGRAM_SPREAD_PAGES;
}

/* Reserve @bytes for a file that may stand anywhere. */
static int reserve(uint64_t bytes, uint64_t align, enum load_place place, uint64_t *base)
{
	uint64_t hint = place == LOAD_PROGRAM ? PROGRAM_BASE + random_pages() * PAGE_BYTES : 0;
	uint64_t room = bytes + align - PAGE_BYTES, start;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	long mapped;

	hint &= ~(align - 1);
	if (place == LOAD_OURS)
		mapped = process_map(room, PROT_NONE, flags, -1);
	else
		mapped = sys_call(SYS_mmap, hint, room, PROT_NONE, (uint64_t)flags, -1ul);
	if (sys_failed(mapped))
		return (int)mapped;
	start = ((uint64_t)mapped + align - 1) & ~(align - 1);
	if (start > (uint64_t)mapped)
		sys_call(SYS_munmap, (uint64_t)mapped, start - (uint64_t)mapped);
	if (start + bytes < (uint64_t)mapped + room)
		sys_call(SYS_munmap, start + bytes, (uint64_t)mapped + room - start - bytes);
	*base = start;
	return 0;
}

static int map_zeros(uint64_t start, uint64_t end, int protection)
{
	long mapped;

	if (end <= start)
		return 0;
	mapped = sys_call(SYS_mmap, start, end - start, (uint64_t)protection,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1ul);
	return sys_failed(mapped) ? (int)mapped : 0;
}

/* A segment to write of a file of ours, in memory that RLIMIT_DATA does not count (map.h). */
static int copy_segment(int fd, const Elf64_Phdr *segment, uint64_t bias)
{
	uint64_t start = page_down(segment->p_vaddr + bias);
	uint64_t end = page_up(segment->p_vaddr + bias + segment->p_memsz);
	size_t bytes = segment->p_vaddr + bias + segment->p_filesz - start;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN;
	long mapped = sys_call(SYS_mmap, start, end - start, (uint64_t)protection_of(segment),
			       (uint64_t)flags, -1ul);

	if (sys_failed(mapped))
		return (int)mapped;
	return pread(fd, (void *)start, bytes, (off_t)page_down(segment->p_offset)) ==
		       (ssize_t)bytes
		   ? 0
		   : -EIO;
}

/* One segment: the file's part, zeros to the end of its last page, and pages of zeros. */
static int map_segment(int fd, const Elf64_Phdr *segment, uint64_t bias)
{
	uint64_t start = page_down(segment->p_vaddr + bias);
	uint64_t file_end = segment->p_vaddr + bias + segment->p_filesz;
	uint64_t end = segment->p_vaddr + bias + segment->p_memsz;
	int protection = protection_of(segment);
	long mapped;

	if (!segment->p_filesz)
		return map_zeros(start, page_up(end), protection);
	mapped = sys_call(SYS_mmap, start, file_end - start, (uint64_t)protection,
			  MAP_PRIVATE | MAP_FIXED, (uint64_t)fd, page_down(segment->p_offset));
	if (sys_failed(mapped))
		return (int)mapped;
	if (end > file_end && (segment->p_flags & PF_W))
		memset((void *)file_end, 0, page_up(file_end) - file_end);
	return map_zeros(page_up(file_end), page_up(end), protection);
}

static void note_segment(struct load *load, const Elf64_Phdr *segment)
{
	uint64_t start = segment->p_vaddr + load->bias;
	uint64_t file_end = start + segment->p_filesz, end = start + segment->p_memsz;

	if ((segment->p_flags & PF_X) && start < load->code_start)
		load->code_start = start;
	if ((segment->p_flags & PF_X) && file_end > load->code_end)
		load->code_end = file_end;
	if (start > load->data_start)
		load->data_start = start;
	if (file_end > load->data_end)
		load->data_end = file_end;
	if (end > load->end)
		load->end = end;
}

static int read_interpreter(struct load *load, int fd, const Elf64_Phdr *segment)
{
	size_t bytes = segment->p_filesz;

	if (bytes < 2 || bytes > sizeof(load->interpreter) ||
	    pread(fd, load->interpreter, bytes, (off_t)segment->p_offset) != (ssize_t)bytes ||
	    load->interpreter[bytes - 1])
		return -ENOEXEC;
	return 0;
}

static int map_all(struct load *load, int fd, const Elf64_Ehdr *header, const Elf64_Phdr *segments,
		   enum load_place place)
{
	int error = 0;

	for (unsigned int i = 0; i < header->e_phnum && !error; i++) {
		const Elf64_Phdr *segment = &segments[i];

		if (segment->p_type == PT_GNU_STACK)
			load->has_executable_stack = (segment->p_flags & PF_X) != 0;
		if (segment->p_type == PT_DYNAMIC)
			load->dynamic = segment->p_vaddr + load->bias;
		if (segment->p_type == PT_INTERP)
			error = read_interpreter(load, fd, segment);
		if (segment->p_type != PT_LOAD)
			continue;
		error = place == LOAD_OURS && (segment->p_flags & PF_W)
			    ? copy_segment(fd, segment, load->bias)
			    : map_segment(fd, segment, load->bias);
		note_segment(load, segment);
		if (header->e_phoff >= segment->p_offset &&
		    header->e_phoff < segment->p_offset + segment->p_filesz)
			load->headers =
			    header->e_phoff - segment->p_offset + segment->p_vaddr + load->bias;
	}
	return error;
}

int load_file(struct load *load, int fd, enum load_place place)
{
	static Elf64_Phdr segments[SEGMENTS_MAX];
	uint64_t span[2], align, base = 0;
	Elf64_Ehdr header;
	int error = read_headers(fd, &header, segments);

	memset(load, 0, sizeof(*load));
	load->code_start = UINT64_MAX;
	if (!error)
		error = span_of(&header, segments, span, &align);
	if (error)
		return error;
	if (header.e_type == ET_EXEC) {
		long mapped =
		    sys_call(SYS_mmap, span[0], span[1] - span[0], PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | NO_REPLACE_FLAG, -1ul);

		if (sys_failed(mapped) || (uint64_t)mapped != span[0])
			return -ENOMEM;
	} else {
		error = reserve(span[1] - span[0], align, place, &base);
		if (error)
			return error;
		load->bias = base - span[0];
	}
	load->entry = header.e_entry + load->bias;
	load->header_bytes = header.e_phentsize;
	load->header_count = header.e_phnum;
	return map_all(load, fd, &header, segments, place);
}
