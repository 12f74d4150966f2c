/* What the library and the toy need of a machine without a libc. */
#include "tests/kernel/machine.h"

#include <string.h>

#define SERIAL_PORT 0x3f8
#define SERIAL_8_BITS 0x03
#define SERIAL_HAS_ROOM 0x20
#define SERIAL_IS_EMPTY 0x40
/* QEMU's isa-debug-exit, and what Bochs ends at. */
#define EXIT_PORT 0xf4
#define BOCHS_EXIT_PORT 0x8900
#define EXIT_PASSED 0x10
#define EXIT_FAILED 0x11

/* Memory for the library: above the image, below what guests get (tests/kernel/image.c). */
#define HEAP_START (UINT64_C(16) << 20)
#define HEAP_END (UINT64_C(512) << 20)

const uint64_t physical_offset = DIRECT_MAP;

void *memcpy(void *to, const void *from, size_t size_bytes)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size_bytes)::"memory");
	return to;
}

void *memset(void *to, int byte, size_t size_bytes)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(size_bytes) : "a"(byte) : "memory");
	return to;
}

int memcmp(const void *one, const void *other, size_t size_bytes)
{
	const uint8_t *a = one, *b = other;

	for (; size_bytes; a++, b++, size_bytes--)
		if (*a != *b)
			return *a - *b;
	return 0;
}

/* Blocks are powers of two and aligned so; one that is given back waits for the next of its size.
 */
static uint64_t heap_next = HEAP_START;
static void *heap_free[64];

static unsigned int order_of(size_t size_bytes)
{
	return size_bytes <= 64 ? 6 : 64 - (unsigned int)__builtin_clzll(size_bytes - 1);
}

void *zeroed(size_t alignment, size_t size_bytes)
{
	const unsigned int order = order_of(size_bytes > alignment ? size_bytes : alignment);
	const uint64_t size = UINT64_C(1) << order;
	void *block = heap_free[order];

	if (block) {
		memcpy(&heap_free[order], block, sizeof(void *));
		return memset(block, 0, size);
	}
	heap_next = (heap_next + size - 1) & ~(size - 1);
	if (heap_next + size > HEAP_END)
		return NULL;
	heap_next += size;
	return memset(memory_at(heap_next - size), 0, size);
}

/* @memory was asked for with an alignment of at most its size. */
void release(void *memory, size_t size_bytes)
{
	const unsigned int order = order_of(size_bytes);

	if (!memory)
		return;
	memcpy(memory, &heap_free[order], sizeof(void *));
	heap_free[order] = memory;
}

static void port_write(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}

static uint8_t port_read(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
	return value;
}

void machine_start(void)
{
	port_write(SERIAL_PORT + 3, SERIAL_8_BITS);
}

void print(const char *text)
{
	for (; *text; text++) {
		while (!(port_read(SERIAL_PORT + 5) & SERIAL_HAS_ROOM))
			;
		port_write(SERIAL_PORT, (uint8_t)*text);
	}
}

static void print_number(uint64_t number, unsigned int base)
{
	char digits[24];
	char *at = digits + sizeof(digits) - 1;

	*at = '\0';
	do {
		*--at = "0123456789abcdef"[number % base];
		number /= base;
	} while (number);
	print(at);
}

void print_hex(uint64_t number)
{
	print(" 0x");
	print_number(number, 16);
}

void say(const char *text, uint64_t number)
{
	print(text);
	print(": ");
	print_number(number, 10);
	print("\n");
}

void machine_stop(int passed)
{
	const uint32_t status = passed ? EXIT_PASSED : EXIT_FAILED;
	const char *word;

	while (~port_read(SERIAL_PORT + 5) & SERIAL_IS_EMPTY)
		;
	__asm__ volatile("outl %0, %1" ::"a"(status), "d"((uint16_t)EXIT_PORT));
	for (word = "Shutdown"; *word; word++)
		port_write(BOCHS_EXIT_PORT, (uint8_t)*word);
	for (;;)
		__asm__ volatile("hlt");
}
