/* The object behind a client's descriptor, for as long as one call lasts. */
#include "boundary/object.h"

#include <stddef.h>

#include "frontend/client_call.h"
#include "frontend/signal_actions.h"

struct file *client_object_get(int fd)
{
	struct file *file;

	if (!file_any())
		return NULL;
	client_call_begin();
	file = file_get(fd);
	if (file)
		signal_thread_prepare();
	else
		client_call_end();
	return file;
}

void client_object_put(struct file *file)
{
	file_put(file);
	client_call_end();
}
