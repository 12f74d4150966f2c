/* Blocks that know their size, over memory from the kernel. */
#include "hosts/process/heap.h"

#include <stdint.h>
#include <stdlib.h>

#include "hosts/process/internal.h"

#ifndef __has_feature
#define __has_feature(name) 0
#endif

/* A sanitizer is to see each block. */
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define IS_CHECKED 1
#else
#define IS_CHECKED 0
#endif

/* Before the block, which stays aligned as the whole is. */
union head {
	size_t size_bytes; /* of the whole */
	uint8_t room[64];
};

void *process_heap_alloc(size_t size_bytes)
{
	union head *head;
	size_t whole;

	if (__builtin_add_overflow(size_bytes, sizeof(*head), &whole))
		return NULL;
	head = IS_CHECKED ? calloc(1, whole) : process_alloc(NULL, whole);
	if (!head)
		return NULL;
	head->size_bytes = whole;
	return head + 1;
}

void *process_heap_array(size_t count, size_t size_bytes)
{
	size_t bytes;

	return __builtin_mul_overflow(count, size_bytes, &bytes) ? NULL : process_heap_alloc(bytes);
}

void process_heap_free(void *memory)
{
	union head *head = memory;

	if (!memory)
		return;
	head--;
	if (IS_CHECKED)
		free(head);
	else
		process_free(NULL, head, head->size_bytes);
}
