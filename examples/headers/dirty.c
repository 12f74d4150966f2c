/* quire/dirty.h: which pages the guest wrote since the last look. */
#include <quire/dirty.h>

#include <string.h>

#include "example.h"

static int copy_out(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

void example_dirty(void)
{
	struct example example;
	uint64_t log = 0;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, QUIRE_SLOT_LOG_DIRTY) == 0);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA + 5 * QUIRE_PAGE_SIZE) ==
		      QUIRE_FIXED);
	EXAMPLE_CHECK(quire_vm_get_dirty_log(example.vm, 0, copy_out, &log) == 0);
	EXAMPLE_CHECK(log == 1u << 5);

	/* Fetching the log cleared it and armed the page again. */
	EXAMPLE_CHECK(quire_vm_get_dirty_log(example.vm, 0, copy_out, &log) == 0);
	EXAMPLE_CHECK(log == 0);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA + 5 * QUIRE_PAGE_SIZE) ==
		      QUIRE_FIXED);
	EXAMPLE_CHECK(quire_vm_get_dirty_log(example.vm, 0, copy_out, &log) == 0);
	EXAMPLE_CHECK(log == 1u << 5);
	example_destroy(&example);
}
