/* The dispatcher: look a command up, copy its argument in, perform it, copy the answer out. */
#include "frontend/object/dispatch.h"

#include <assert.h>
#include <errno.h>
#include <linux/ioctl.h>
#include <string.h>

#include "frontend/file/user_copy.h"

static const struct ioctl_entry *find(const struct ioctl_table *table, uint32_t command)
{
	for (size_t i = 0; i < table->count; i++)
		if (table->entries[i].command == command)
			return &table->entries[i];
	return NULL;
}

static long perform_with_copy(const struct ioctl_entry *entry, struct ioctl_call *call)
{
	_Alignas(64) uint8_t data[DISPATCH_MAX_BYTES];
	size_t size_bytes = _IOC_SIZE(entry->command);
	long result;

	assert(size_bytes <= sizeof(data));
	if (entry->copy == IOCTL_OUT)
		memset(data, 0, size_bytes);
	else if (user_copy_in(data, call->argument, size_bytes))
		return -EFAULT;
	call->data = data;
	result = entry->handler(call);
	if (entry->copy == IOCTL_IN || (result < 0 && entry->copy != IOCTL_IN_OUT_ALWAYS))
		return result;
	if (user_copy_out(call->argument, data, size_bytes))
		return -EFAULT;
	return result;
}

long ioctl_dispatch(const struct ioctl_table *table, struct ioctl_call *call)
{
	const struct ioctl_entry *entry = find(table, call->command);

	if (!entry)
		return table->unknown;
	if (entry->copy == IOCTL_VALUE)
		return entry->handler(call);
	return perform_with_copy(entry, call);
}
