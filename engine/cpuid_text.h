/* Which bytes of an ELF file are CPUID instructions. */
#ifndef QUIRE_ENGINE_CPUID_TEXT_H
#define QUIRE_ENGINE_CPUID_TEXT_H

#include <elf.h>
#include <stdint.h>

#define CPUID_TEXT_SEGMENTS 64u

/* An ELF file's headers. The descriptor is the caller's. */
struct cpuid_text {
	int fd;
	Elf64_Ehdr header;
	Elf64_Phdr segments[CPUID_TEXT_SEGMENTS];
};

/* 0, -EIO, or -ENOEXEC for a file of another kind. */
int cpuid_text_open(struct cpuid_text *text, int fd);

/*
 * The first CPUID instruction in the bytes from @offset to @end of the file: its offset, or @end.
 * Where the file does not say what is code, none is found. decoder_load() has to come first.
 */
uint64_t cpuid_text_find(const struct cpuid_text *text, uint64_t offset, uint64_t end);

#endif
