/*
 * The instruction decoder, which distributions have as a shared library alone.
 *
 * It is brought into memory by us, at the first use of KVM: most programs of a run never come so
 * far, and the dynamic linker's loading of it is a quarter of what their start would cost more.
 * And the engine is static, so that libc's dlopen() would bring a second libc along. libZydis asks
 * for five functions of libc and for no thread-local storage: so it is mapped like a program, its
 * relocations are done here, and its functions are called through a table.
 */
#include "vcpu/decode/decoder.h"

#ifndef DECODER_FILE
/* A static Zydis: linked with what calls it. */
void decoder_look_beside(const char *file)
{
	(void)file;
}

int decoder_load(void)
{
	return 0;
}
#else

#include <Zydis/Zydis.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/process/load.h"

/* What vcpu/ may call once there is a decoder. A name that is missing here fails to link. */
#define FUNCTIONS(X)                        \
	X(ZydisDecoderDecodeFull)           \
	X(ZydisDecoderDecodeInstruction)    \
	X(ZydisDecoderDecodeOperands)       \
	X(ZydisMnemonicGetString)           \
	X(ZydisRegisterEncode)              \
	X(ZydisRegisterGetClass)            \
	X(ZydisRegisterGetId)               \
	X(ZydisRegisterGetLargestEnclosing) \
	X(ZydisRegisterGetString)           \
	X(ZydisRegisterGetWidth)

/* Each is a jump to where the library has it. */
#define STUB(name)                                                                            \
	uint64_t place_of_##name __attribute__((visibility("hidden")));                       \
	__asm__(".pushsection .text\n\t.globl " #name "\n\t.hidden " #name "\n\t.type " #name \
		", @function\n" #name ":\tjmp *place_of_" #name "(%rip)\n\t.popsection");
#define PLACE(name) {#name, &place_of_##name},
FUNCTIONS(STUB)

typedef ZyanStatus (*decoder_init_fn)(ZydisDecoder *, ZydisMachineMode, ZydisStackWidth);
static decoder_init_fn decoder_init;

/* Tables of the library, at their addresses. */
struct library {
	uint64_t bias;
	const Elf64_Sym *symbols;
	size_t symbol_count;
	const char *strings;
	const Elf64_Rela *relocations[2];
	size_t relocation_bytes[2];
};

__attribute__((noreturn)) static void library_failed(void)
{
	abort();
}

/* What a library built with _FORTIFY_SOURCE calls in the place of memcpy() and its kin. */
static void *copy_checked(void *to, const void *from, size_t size_bytes, size_t room_bytes)
{
	if (size_bytes > room_bytes)
		library_failed();
	return memcpy(to, from, size_bytes);
}

static void *move_checked(void *to, const void *from, size_t size_bytes, size_t room_bytes)
{
	if (size_bytes > room_bytes)
		library_failed();
	return memmove(to, from, size_bytes);
}

static void *fill_checked(void *to, int byte, size_t size_bytes, size_t room_bytes)
{
	if (size_bytes > room_bytes)
		library_failed();
	return memset(to, byte, size_bytes);
}

static uint64_t ours(const char *name)
{
	static const struct {
		const char *name;
		void *function;
	} known[] = {
	    {"memcpy", (void *)(uintptr_t)memcpy},
	    {"memmove", (void *)(uintptr_t)memmove},
	    {"memset", (void *)(uintptr_t)memset},
	    {"__memcpy_chk", (void *)(uintptr_t)copy_checked},
	    {"__memmove_chk", (void *)(uintptr_t)move_checked},
	    {"__memset_chk", (void *)(uintptr_t)fill_checked},
	    {"strlen", (void *)(uintptr_t)strlen},
	    {"__assert_fail", (void *)(uintptr_t)library_failed},
	    {"__stack_chk_fail", (void *)(uintptr_t)library_failed},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(known[i].name, name))
			return (uint64_t)(uintptr_t)known[i].function;
	return 0;
}

static uint64_t library_find(const struct library *library, const char *name)
{
	for (size_t i = 0; i < library->symbol_count; i++) {
		const Elf64_Sym *symbol = &library->symbols[i];

		if (symbol->st_shndx != SHN_UNDEF &&
		    !strcmp(library->strings + symbol->st_name, name))
			return library->bias + symbol->st_value;
	}
	return 0;
}

static void library_read(struct library *library, const Elf64_Dyn *dynamic)
{
	for (; dynamic->d_tag != DT_NULL; dynamic++) {
		const void *there = (const void *)(library->bias + dynamic->d_un.d_ptr);

		switch (dynamic->d_tag) {
		case DT_SYMTAB:
			library->symbols = there;
			break;
		case DT_STRTAB:
			library->strings = there;
			break;
		case DT_RELA:
			library->relocations[0] = there;
			break;
		case DT_RELASZ:
			library->relocation_bytes[0] = dynamic->d_un.d_val;
			break;
		case DT_JMPREL:
			library->relocations[1] = there;
			break;
		case DT_PLTRELSZ:
			library->relocation_bytes[1] = dynamic->d_un.d_val;
			break;
		default:
			break;
		}
	}
	/* Every linker puts the strings after the symbols. */
	library->symbol_count =
	    (size_t)((const char *)library->strings - (const char *)library->symbols) /
	    sizeof(*library->symbols);
}

static int relocate_one(const struct library *library, const Elf64_Rela *entry)
{
	void *at = (void *)(library->bias + entry->r_offset);
	uint64_t value;
	const Elf64_Sym *symbol = &library->symbols[ELF64_R_SYM(entry->r_info)];
	const char *name = library->strings + symbol->st_name;

	switch (ELF64_R_TYPE(entry->r_info)) {
	case R_X86_64_RELATIVE:
		value = library->bias + (uint64_t)entry->r_addend;
		break;
	case R_X86_64_64:
	case R_X86_64_GLOB_DAT:
	case R_X86_64_JUMP_SLOT:
		value =
		    symbol->st_shndx != SHN_UNDEF ? library->bias + symbol->st_value : ours(name);
		if (!value && ELF64_ST_BIND(symbol->st_info) != STB_WEAK)
			return -ENOEXEC;
		value = value ? value + (uint64_t)entry->r_addend : 0;
		break;
	default:
		return -ENOEXEC;
	}
	/* The linker packs tables of structures: a word may lie anywhere. */
	memcpy(at, &value, sizeof(value));
	return 0;
}

static int relocate(const struct library *library)
{
	int error = 0;

	for (int table = 0; table < 2; table++) {
		size_t count = library->relocation_bytes[table] / sizeof(Elf64_Rela);

		for (size_t i = 0; i < count && !error; i++)
			error = relocate_one(library, &library->relocations[table][i]);
	}
	return error;
}

/* The file that the library is beside; empty: not told. Written before the first load. */
static char neighbour[PATH_MAX];

void decoder_look_beside(const char *file)
{
	if (strlen(file) < sizeof(neighbour))
		memcpy(neighbour, file, strlen(file) + 1);
}

static int open_in(const char *folder, const char *below)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s%s/" DECODER_FILE, folder, below);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int open_library(void)
{
	static const char *const folders[] = {"/usr/lib/x86_64-linux-gnu",
					      "/lib/x86_64-linux-gnu",
					      "/usr/lib64",
					      "/lib64",
					      "/usr/lib",
					      "/usr/local/lib"};
	/* Installed, all of ours is in one folder; in a build, the preload has the copy. */
	static const char *const beside[] = {"", "/../preload"};
	char own[PATH_MAX], *slash;
	int fd = -1;

	memcpy(own, neighbour, sizeof(own));
	slash = strrchr(own, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]) && slash && fd < 0; i++)
		fd = open_in(own, beside[i]);
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]) && fd < 0; i++)
		fd = open_in(folders[i], "");
	return fd < 0 ? -errno : fd;
}

static int find_functions(const struct library *library)
{
	static const struct {
		const char *name;
		uint64_t *place;
	} wanted[] = {FUNCTIONS(PLACE)};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		*wanted[i].place = library_find(library, wanted[i].name);
		if (!*wanted[i].place)
			return -ENOEXEC;
	}
	decoder_init = (decoder_init_fn)library_find(library, "ZydisDecoderInit");
	return decoder_init ? 0 : -ENOEXEC;
}

static int load_error;

static void load_once(void)
{
	struct library library = {.bias = 0};
	struct load load;
	int fd = open_library();

	load_error = fd < 0 ? fd : load_file(&load, fd, LOAD_OURS);
	if (fd >= 0)
		close(fd);
	if (load_error || !load.dynamic) {
		load_error = load_error ? load_error : -ENOEXEC;
		return;
	}
	library.bias = load.bias;
	library_read(&library, (const Elf64_Dyn *)load.dynamic);
	load_error = relocate(&library);
	if (!load_error)
		load_error = find_functions(&library);
}

int decoder_load(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load_once);
	return load_error;
}

/* The other functions need a decoder. */
ZyanStatus ZydisDecoderInit(ZydisDecoder *decoder, ZydisMachineMode mode, ZydisStackWidth width)
{
	return decoder_load() ? ZYAN_STATUS_FAILED : decoder_init(decoder, mode, width);
}
#endif
