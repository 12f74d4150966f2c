/* From an address of this process to the file, its own address and the function there. */
#include "sanitize/symbol.h"

#include <elf.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "hosts/process/maps.h"
#include "hosts/process/sys.h"

#define SEGMENTS_MAX 64u
#define SECTIONS_MAX 128u
#define SYMBOLS_AT_ONCE 512u

/* Of the one file that is being read; the caller holds off other threads. */
static struct {
	long fd;
	Elf64_Ehdr header;
	Elf64_Phdr segments[SEGMENTS_MAX];
	Elf64_Shdr sections[SECTIONS_MAX];
	Elf64_Sym symbols[SYMBOLS_AT_ONCE];
} file;

/* A read, not a mapping: a file that is cut short meanwhile ends no process. */
static bool read_at(void *dst, uint64_t size_bytes, uint64_t offset)
{
	return sys_call(SYS_pread64, (uint64_t)file.fd, sys_address(dst), size_bytes, offset) ==
	       (long)size_bytes;
}

static bool read_headers(void)
{
	const Elf64_Ehdr *header = &file.header;

	return read_at(&file.header, sizeof(file.header), 0) &&
	       !memcmp(header->e_ident, ELFMAG, SELFMAG) &&
	       header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_phnum &&
	       header->e_phnum <= SEGMENTS_MAX && header->e_phentsize == sizeof(Elf64_Phdr) &&
	       read_at(file.segments, header->e_phnum * sizeof(Elf64_Phdr), header->e_phoff);
}

/* What the file calls the byte at @offset of itself. False: no segment has it. */
static bool to_file_address(uint64_t offset, uint64_t *address)
{
	for (unsigned int i = 0; i < file.header.e_phnum; i++) {
		const Elf64_Phdr *segment = &file.segments[i];

		if (segment->p_type != PT_LOAD || offset < segment->p_offset ||
		    offset - segment->p_offset >= segment->p_filesz)
			continue;
		*address = segment->p_vaddr + (offset - segment->p_offset);
		return true;
	}
	return false;
}

static bool covers(const Elf64_Sym *symbol, uint64_t address)
{
	return ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && symbol->st_shndx != SHN_UNDEF &&
	       address - symbol->st_value < symbol->st_size;
}

/* The function at @address by one table of symbols. */
static bool search(const Elf64_Shdr *table, const Elf64_Shdr *strings, struct sanitize_place *place)
{
	uint64_t count = table->sh_size / sizeof(Elf64_Sym);

	for (uint64_t done = 0; done < count; done += SYMBOLS_AT_ONCE) {
		uint64_t now = count - done < SYMBOLS_AT_ONCE ? count - done : SYMBOLS_AT_ONCE;

		if (!read_at(file.symbols, now * sizeof(Elf64_Sym),
			     table->sh_offset + done * sizeof(Elf64_Sym)))
			return false;
		for (uint64_t i = 0; i < now; i++) {
			const Elf64_Sym *symbol = &file.symbols[i];
			uint64_t room = sizeof(place->function) - 1;

			if (!covers(symbol, place->offset) || symbol->st_name >= strings->sh_size)
				continue;
			if (room > strings->sh_size - symbol->st_name)
				room = strings->sh_size - symbol->st_name;
			if (!read_at(place->function, room, strings->sh_offset + symbol->st_name))
				room = 0;
			place->function[room] = '\0';
			return true;
		}
	}
	return false;
}

/* The full table names static functions; a stripped file has that of the dynamic linker. */
static void find_function(struct sanitize_place *place)
{
	static const uint32_t kinds[] = {SHT_SYMTAB, SHT_DYNSYM};
	unsigned int count = file.header.e_shnum;

	if (!count || count > SECTIONS_MAX || file.header.e_shentsize != sizeof(Elf64_Shdr) ||
	    !read_at(file.sections, count * sizeof(Elf64_Shdr), file.header.e_shoff))
		return;
	for (unsigned int k = 0; k < 2; k++)
		for (unsigned int i = 0; i < count; i++) {
			const Elf64_Shdr *table = &file.sections[i];

			if (table->sh_type == kinds[k] && table->sh_link < count &&
			    search(table, &file.sections[table->sh_link], place))
				return;
		}
}

void symbol_find(struct sanitize_place *place)
{
	struct process_mapping mapping;
	struct maps_name name;
	uint64_t offset;

	place->offset = place->address;
	place->module[0] = place->function[0] = '\0';
	if (maps_find(place->address, &mapping, &name))
		return;
	memccpy(place->module, name.text, '\0', sizeof(place->module));
	place->module[sizeof(place->module) - 1] = '\0';
	place->offset = place->address - mapping.start;
	if (name.text[0] != '/')
		return;
	offset = name.offset_bytes + place->offset;
	place->offset = offset;
	file.fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(name.text),
			   O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (file.fd < 0)
		return;
	if (read_headers() && to_file_address(offset, &place->offset))
		find_function(place);
	sys_call(SYS_close, (uint64_t)file.fd);
}
