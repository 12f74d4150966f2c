/* The device node of KVM: what it is, opening it, and its ioctls on a descriptor of the machine's.
 */
#include "boundary/node.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <quire/platform.h>

#include "boundary/rows.h"
#include "frontend/file/client_call.h"
#include "frontend/file/file.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/file/user_copy.h"
#include "frontend/param/params.h"
#include "frontend/run/signal_actions.h"
#include "hosts/process/process.h"
#include "vcpu/decode/decoder.h"

/* What an open says of its description and F_GETFL shows. */
#define KEPT_FLAGS (O_APPEND | O_NONBLOCK | O_NOATIME)

/* The client's first use of KVM: until here the process is as it would be without us. */
static void start(void)
{
	client_call_begin();
	quire_platform_install(&process_platform);
	/* Now, for its file may be out of reach later, in a chroot. */
	(void)decoder_load();
	signal_actions_init();
	client_call_end();
}

static void start_once(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, start);
}

/* What /proc says that @fd is; empty where it says nothing, or more than @bytes. */
static void link_text(int fd, char *text, size_t bytes)
{
	char path[32];
	long got;

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	got = BOUNDARY_KERNEL(SYS_readlink, (unsigned long)path, (unsigned long)text, bytes);
	text[got > 0 && (size_t)got < bytes ? got : 0] = '\0';
}

/* Another program of the run opened it where the machine has no node, and handed it on. */
static bool is_stand_in(int fd)
{
	static const char name[] = "/memfd:" SYSTEM_FILE_NAME " (deleted)";
	char text[sizeof(name) + 1];

	link_text(fd, text, sizeof(text));
	return !strcmp(text, name);
}

bool node_is_strangers(int fd)
{
	static const char vcpu[] = "/memfd:kvm-vcpu:";
	char text[48];
	/* A file of the client's may have such a name; it has other seals. */
	long seals = BOUNDARY_KERNEL(SYS_fcntl, (unsigned long)fd, F_GET_SEALS);

	if (seals < 0 || (seals & FILE_SEALS) != FILE_SEALS)
		return false;
	link_text(fd, text, sizeof(text));
	return !strcmp(text, "/memfd:kvm-vm (deleted)") || !strncmp(text, vcpu, sizeof(vcpu) - 1);
}

bool node_is_kvm(int fd)
{
	struct stat status;

	if (BOUNDARY_KERNEL(SYS_fstat, (unsigned long)fd, (unsigned long)&status))
		return false;
	if (S_ISCHR(status.st_mode))
		return status.st_rdev == makedev(NODE_MAJOR, NODE_MINOR);
	return S_ISREG(status.st_mode) && !status.st_nlink && is_stand_in(fd);
}

long node_open(int flags)
{
	long fd;

	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return -EEXIST;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	if (flags & O_DIRECT)
		return -EINVAL;
	start_once();
	client_call_begin();
	fd = system_open(flags & O_CLOEXEC);
	client_call_end();
	if (fd >= 0 && (flags & KEPT_FLAGS))
		(void)BOUNDARY_KERNEL(SYS_fcntl, (unsigned long)fd, F_SETFL,
				      (unsigned long)(flags & KEPT_FLAGS));
	return fd;
}

long node_leave_root(const struct boundary_call *call)
{
	(void)call;
	client_call_begin();
	hidden_fd_keep_proc();
	params_keep();
	(void)decoder_load();
	client_call_end();
	return OBJECT_FORWARD;
}

/* Can what is at @path be /proc, or a folder that it is in? By its last component, if it has one.
 */
static bool may_be_proc(unsigned long path)
{
	char text[PATH_MAX], *last;
	long length = user_peek_string(text, sizeof(text), path);

	while (length > 0 && text[length - 1] == '/')
		text[--length] = '\0';
	if (length < 0)
		return false;
	last = strrchr(text, '/');
	last = last ? last + 1 : text;
	return !*last || last[0] == '.' || !strcmp(last, "proc");
}

long node_mount(const struct boundary_call *call)
{
	return may_be_proc(call->args[1]) ? node_leave_root(call) : OBJECT_FORWARD;
}

long node_unmount(const struct boundary_call *call)
{
	return may_be_proc(call->args[0]) ? node_leave_root(call) : OBJECT_FORWARD;
}

long node_ioctl(const struct boundary_call *call)
{
	long result;

	start_once();
	client_call_begin();
	signal_thread_prepare();
	params_refresh();
	result = system_use((unsigned int)call->args[1], call->args[2]);
	client_call_end();
	return result;
}
