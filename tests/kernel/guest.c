/* The tiny guest: 32-bit code, with a page directory of its own where its walker needs one. */
#include "tests/kernel/guest.h"

#include <string.h>

/* Present, writable, user's, accessed, dirty, of 4 MiB. */
#define DIRECTORY_ENTRY 0xe7u

void guest_fill_page(struct guest_page *page, uint32_t tag)
{
	page->tag = tag;
	page->stored = 0;
	page->code[0] = 0xb8; /* mov $tag, %eax */
	memcpy(&page->code[1], &tag, sizeof(tag));
	page->code[5] = 0xf4; /* hlt */
}

void guest_fill_code(void *page)
{
	static const uint8_t load[] = {0x8b, 0x03, 0xf4};	 /* mov (%ebx), %eax; hlt */
	static const uint8_t store[] = {0x89, 0x43, 0x08, 0xf4}; /* mov %eax, 8(%ebx); hlt */

	memcpy((uint8_t *)page + GUEST_RIP_LOAD, load, sizeof(load));
	memcpy((uint8_t *)page + GUEST_RIP_STORE, store, sizeof(store));
}

void guest_fill_directory(void *page)
{
	uint32_t i, entry;

	for (i = 0; i < 1024; i++) {
		entry = i << 22 | DIRECTORY_ENTRY;
		memcpy((uint8_t *)page + i * sizeof(entry), &entry, sizeof(entry));
	}
}

uint64_t guest_rip(const struct guest_access *access)
{
	if (access->access & QUIRE_PFERR_FETCH)
		return access->gpa + offsetof(struct guest_page, code);
	return GUEST_CODE_GPA +
	       (access->access & QUIRE_PFERR_WRITE ? GUEST_RIP_STORE : GUEST_RIP_LOAD);
}

void guest_cpuid(uint32_t leaf, uint32_t registers[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]),
			   "=d"(registers[3])
			 : "a"(leaf), "c"(0));
}
