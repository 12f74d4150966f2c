/* The object behind a client's descriptor, for as long as one call lasts. */
#include "boundary/object.h"

#include <linux/kvm.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "frontend/file/client_call.h"
#include "frontend/file/numbers.h"
#include "frontend/run/signal_actions.h"

static bool reads_or_writes(long nr)
{
	switch (nr) {
	case SYS_read:
	case SYS_readv:
	case SYS_pread64:
	case SYS_preadv:
	case SYS_preadv2:
	case SYS_write:
	case SYS_writev:
	case SYS_pwrite64:
	case SYS_pwritev:
	case SYS_pwritev2:
	case SYS_lseek:
		return true;
	default:
		return false;
	}
}

static bool is_kvms_ioctl(const struct boundary_call *call)
{
	return call->nr == SYS_ioctl && _IOC_TYPE((unsigned int)call->args[1]) == KVMIO;
}

static struct file *get(int fd, struct file *(*find)(int fd))
{
	struct file *file;

	if (!file_any())
		return NULL;
	client_call_begin();
	file = find(fd);
	if (file)
		signal_thread_prepare();
	else
		client_call_end();
	return file;
}

struct file *client_object_get(int fd)
{
	return get(fd, file_get);
}

struct file *client_object_get_path(int fd)
{
	return get(fd, file_get_path);
}

struct file *client_object_for(const struct boundary_call *call, int fd)
{
	if (reads_or_writes(call->nr) && numbers_lack(fd, NUMBER_NO_FILE))
		return NULL;
	return get(fd, is_kvms_ioctl(call) ? file_get_for_ioctl : file_get);
}

void client_object_put(struct file *file)
{
	file_put(file);
	client_call_end();
}
