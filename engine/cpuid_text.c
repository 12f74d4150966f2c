/*
 * Which bytes of an ELF file are CPUID instructions.
 *
 * The two bytes of the instruction also occur inside of others, and in data that lies in text. So
 * the function that has them is decoded from its start, by the table of frames (stripped files have
 * it, too) or by a symbol. In a file with neither, the section is decoded from some way before,
 * which falls into step after a few instructions. Bytes of which the file does not say that they
 * are code are no instruction: a missed one shows the machine's own processor, a false one would
 * change data.
 */
#include "engine/cpuid_text.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "hosts/process/sys.h"

#define OPCODE_FIRST 0x0f
#define OPCODE_LAST 0xa2
#define OPCODE_BYTES 2u
#define WINDOW_BYTES 4096u
#define STEP_BYTES 512u /* enough to fall into step */
/* The one form that linkers write: see frame_table(). */
#define FRAME_HEADER 0x3b031b01u
#define FRAME_HEADER_BYTES 12u
#define FRAME_WORDS 4u

/* Addresses in the file's own terms. */
struct extent {
	uint64_t start, end;
};

/* Two words of the table of frames. */
struct frame {
	int32_t start, description; /* both count from the table's own address */
};

static int read_at(const struct cpuid_text *text, uint64_t offset, void *to, uint64_t bytes)
{
	long got = sys_call(SYS_pread64, (uint64_t)text->fd, sys_address(to), bytes, offset);

	return got == (long)bytes ? 0 : -EIO;
}

int cpuid_text_open(struct cpuid_text *text, int fd)
{
	const Elf64_Ehdr *header = &text->header;

	text->fd = fd;
	if (read_at(text, 0, &text->header, sizeof(text->header)))
		return -EIO;
	if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != EM_X86_64 ||
	    header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum > CPUID_TEXT_SEGMENTS)
		return -ENOEXEC;
	return read_at(text, header->e_phoff, text->segments,
		       header->e_phnum * sizeof(text->segments[0]));
}

/* ---- What the file says of its code ---- */

static bool has(const struct extent *extent, uint64_t address)
{
	return address >= extent->start && address < extent->end;
}

/* The executable segment with the byte at @offset of the file. */
static const Elf64_Phdr *segment_at(const struct cpuid_text *text, uint64_t offset)
{
	for (unsigned int i = 0; i < text->header.e_phnum; i++) {
		const Elf64_Phdr *segment = &text->segments[i];

		if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) &&
		    offset >= segment->p_offset && offset - segment->p_offset < segment->p_filesz)
			return segment;
	}
	return NULL;
}

static int section_read(const struct cpuid_text *text, unsigned int index, Elf64_Shdr *section)
{
	return read_at(text, text->header.e_shoff + index * sizeof(*section), section,
		       sizeof(*section));
}

/* The section of code with @address. */
static bool section_of(const struct cpuid_text *text, uint64_t address, struct extent *found)
{
	Elf64_Shdr section;

	for (unsigned int i = 0; i < text->header.e_shnum; i++) {
		if (section_read(text, i, &section))
			return false;
		*found = (struct extent){section.sh_addr, section.sh_addr + section.sh_size};
		if (section.sh_type == SHT_PROGBITS && (section.sh_flags & SHF_EXECINSTR) &&
		    has(found, address))
			return true;
	}
	return false;
}

/* The table of frames, sorted by address: how many it has, and where in the file they begin. */
static uint32_t frame_table(const struct cpuid_text *text, uint64_t *offset, uint64_t *address)
{
	uint32_t words[FRAME_HEADER_BYTES / sizeof(uint32_t)];

	for (unsigned int i = 0; i < text->header.e_phnum; i++) {
		const Elf64_Phdr *segment = &text->segments[i];

		if (segment->p_type != PT_GNU_EH_FRAME)
			continue;
		/* Version 1; a pointer, a count, and pairs of offsets from the table: 32 bits each.
		 */
		if (read_at(text, segment->p_offset, words, sizeof(words)) ||
		    words[0] != FRAME_HEADER)
			return 0;
		*offset = segment->p_offset + sizeof(words);
		*address = segment->p_vaddr;
		return words[2];
	}
	return 0;
}

/* Its description at @address: how long the function at @start is; 0 where that is not known. */
static uint64_t frame_bytes(const struct cpuid_text *text, uint64_t address, uint64_t start)
{
	/* Length, common part, and the function's place and size: as linkers write them, 32 bits
	 * each, the place counted from where it stands. */
	uint32_t words[FRAME_WORDS];

	for (unsigned int i = 0; i < text->header.e_phnum; i++) {
		const Elf64_Phdr *segment = &text->segments[i];

		if (segment->p_type != PT_LOAD || address < segment->p_vaddr ||
		    address - segment->p_vaddr >= segment->p_filesz)
			continue;
		if (read_at(text, address - segment->p_vaddr + segment->p_offset, words,
			    sizeof(words)) ||
		    address + 2 * sizeof(words[0]) + (uint64_t)(int32_t)words[2] != start)
			return 0;
		return words[3];
	}
	return 0;
}

/* The function with @address. */
static bool frame_of(const struct cpuid_text *text, uint64_t address, struct extent *found)
{
	uint64_t offset = 0, base = 0, start = 0, description = 0;
	uint32_t low = 0, high = frame_table(text, &offset, &base);
	struct frame frame;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (read_at(text, offset + middle * sizeof(frame), &frame, sizeof(frame)))
			return false;
		if (base + (uint64_t)(int64_t)frame.start <= address) {
			start = base + (uint64_t)(int64_t)frame.start;
			description = base + (uint64_t)(int64_t)frame.description;
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	*found = (struct extent){start, start + frame_bytes(text, description, start)};
	return has(found, address);
}

/* A function by the symbols of one table. */
static bool symbol_in(const struct cpuid_text *text, const Elf64_Shdr *table, uint64_t address,
		      struct extent *found)
{
	Elf64_Sym symbols[64];
	uint64_t count = table->sh_size / sizeof(symbols[0]);

	for (uint64_t first = 0; first < count; first += 64) {
		uint64_t some = count - first < 64 ? count - first : 64;

		if (read_at(text, table->sh_offset + first * sizeof(symbols[0]), symbols,
			    some * sizeof(symbols[0])))
			return false;
		for (uint64_t i = 0; i < some; i++) {
			unsigned int type = ELF64_ST_TYPE(symbols[i].st_info);

			*found = (struct extent){symbols[i].st_value,
						 symbols[i].st_value + symbols[i].st_size};
			if ((type == STT_FUNC || type == STT_GNU_IFUNC) && has(found, address))
				return true;
		}
	}
	return false;
}

/* A function by the symbols. @has_any: there are some. */
static bool symbol_of(const struct cpuid_text *text, uint64_t address, struct extent *found,
		      bool *has_any)
{
	Elf64_Shdr section;

	for (unsigned int i = 0; i < text->header.e_shnum; i++) {
		if (section_read(text, i, &section))
			return false;
		if (section.sh_type != SHT_SYMTAB && section.sh_type != SHT_DYNSYM)
			continue;
		*has_any |= section.sh_type == SHT_SYMTAB;
		if (symbol_in(text, &section, address, found))
			return true;
	}
	return false;
}

/* Where to begin decoding so that @address is met if an instruction begins there. */
static bool start_for(const struct cpuid_text *text, uint64_t address, uint64_t *start)
{
	struct extent section = {0, 0}, function;
	bool is_code = section_of(text, address, &section), has_symbols = false;
	uint64_t ignored;

	if (!is_code && text->header.e_shnum)
		return false;
	if (frame_of(text, address, &function) ||
	    symbol_of(text, address, &function, &has_symbols)) {
		*start = function.start;
		return true;
	}
	if (has_symbols || frame_table(text, &ignored, &ignored))
		return false;
	*start = address - section.start > STEP_BYTES ? address - STEP_BYTES : section.start;
	return is_code;
}

/* ---- Decoding ---- */

/* Part of a segment in memory. */
struct window {
	uint8_t bytes[WINDOW_BYTES];
	uint64_t offset; /* in the file */
	uint64_t filled;
};

/* Bytes from @offset on, as many as an instruction may have, unless the segment ends before. */
static const uint8_t *window_at(const struct cpuid_text *text, struct window *window,
				uint64_t offset, uint64_t end, uint64_t *left)
{
	uint64_t wanted = end - offset < WINDOW_BYTES ? end - offset : WINDOW_BYTES;
	bool is_inside = offset >= window->offset && offset < window->offset + window->filled;

	*left = is_inside ? window->offset + window->filled - offset : 0;
	if (*left < ZYDIS_MAX_INSTRUCTION_LENGTH && *left < wanted) {
		if (read_at(text, offset, window->bytes, wanted))
			return NULL;
		window->offset = offset;
		window->filled = wanted;
		*left = wanted;
	}
	return window->bytes + (offset - window->offset);
}

/* Decoded from @at on, does a CPUID instruction begin at @offset? Offsets in the file. */
static bool is_met(const struct cpuid_text *text, const Elf64_Phdr *segment, uint64_t at,
		   uint64_t offset)
{
	uint64_t end = segment->p_offset + segment->p_filesz, left;
	struct window window = {.filled = 0};
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;

	if (!ZYAN_SUCCESS(
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		return false;
	while (at <= offset) {
		const uint8_t *bytes = window_at(text, &window, at, end, &left);
		bool is_known;

		if (!bytes)
			return false;
		is_known = ZYAN_SUCCESS(
		    ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, left, &instruction));
		if (at == offset)
			return is_known && instruction.mnemonic == ZYDIS_MNEMONIC_CPUID;
		at += is_known ? instruction.length : 1;
	}
	return false;
}

static bool is_instruction(const struct cpuid_text *text, uint64_t offset)
{
	const Elf64_Phdr *segment = segment_at(text, offset);
	uint64_t start, address;

	if (!segment)
		return false;
	address = offset - segment->p_offset + segment->p_vaddr;
	if (!start_for(text, address, &start) || start < segment->p_vaddr)
		return false;
	return is_met(text, segment, start - segment->p_vaddr + segment->p_offset, offset);
}

/* The first pair of the instruction's bytes. The next look begins at the last byte of this one. */
static uint64_t find_pair(const struct cpuid_text *text, uint64_t offset, uint64_t end)
{
	uint8_t bytes[WINDOW_BYTES];

	while (end - offset >= OPCODE_BYTES) {
		uint64_t wanted = end - offset < WINDOW_BYTES ? end - offset : WINDOW_BYTES;
		long got =
		    sys_call(SYS_pread64, (uint64_t)text->fd, sys_address(bytes), wanted, offset);
		const uint8_t *at = bytes + 1, *limit = bytes + got;

		if (got < (long)OPCODE_BYTES)
			break;
		while (at < limit && (at = memchr(at, OPCODE_LAST, (size_t)(limit - at)))) {
			if (at[-1] == OPCODE_FIRST)
				return offset + (uint64_t)(at - 1 - bytes);
			at++;
		}
		offset += (uint64_t)got - 1;
	}
	return end;
}

uint64_t cpuid_text_find(const struct cpuid_text *text, uint64_t offset, uint64_t end)
{
	for (; offset < end; offset++) {
		offset = find_pair(text, offset, end);
		if (offset < end && is_instruction(text, offset))
			break;
	}
	return offset < end ? offset : end;
}
