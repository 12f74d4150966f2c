/* The process of `quire run` makes what the processes of the run may not. */
#include "frontend/file/broker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A vCPU with the longest ring is less. */
#define SIZE_MAX_BYTES (UINT64_C(64) << 20)

struct request {
	uint64_t size_bytes;
	char name[64];
};

static int address_of(const char *directory, struct sockaddr_un *address)
{
	int length;

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	length = snprintf(address->sun_path, sizeof(address->sun_path), "%s/broker", directory);
	return length < (int)sizeof(address->sun_path) ? 0 : -ENAMETOOLONG;
}

/* Send @error, and with 0 the descriptor @fd. */
static void answer(int connection, int error, int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec part = {&error, sizeof(error)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (!error) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control.room);
	}
	(void)sendmsg(connection, &message, MSG_NOSIGNAL);
}

static void serve_one(int connection)
{
	struct request request;
	int fd = -1, error = -EINVAL;

	if (recv(connection, &request, sizeof(request), 0) == sizeof(request) &&
	    request.size_bytes <= SIZE_MAX_BYTES) {
		request.name[sizeof(request.name) - 1] = '\0';
		fd = memfd_create(request.name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
		error = fd < 0 || ftruncate(fd, (off_t)request.size_bytes) ? -errno : 0;
	}
	answer(connection, error, fd);
	if (fd >= 0)
		close(fd);
}

static void *serve(void *argument)
{
	int listener = (int)(intptr_t)argument;

	for (;;) {
		const struct timeval patience = {.tv_sec = 1};
		int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (connection < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			return NULL;
		}
		setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		serve_one(connection);
		close(connection);
	}
}

int broker_start(const char *directory)
{
	struct sockaddr_un address;
	int error = address_of(directory, &address), listener;
	sigset_t all, old;
	pthread_t thread;

	if (error)
		return error;
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (listener < 0)
		return -errno;
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 64)) {
		error = -errno;
		close(listener);
		return error;
	}
	/* Signals are the command's, whose handlers and waits are in its first thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = -pthread_create(&thread, NULL, serve, (void *)(intptr_t)listener);
	if (!error)
		pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return error;
}

void broker_end(const char *directory)
{
	struct sockaddr_un address;

	if (!address_of(directory, &address))
		unlink(address.sun_path);
}

/* The descriptor in the broker's answer, or -errno. */
static int receive(int connection)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	int error = -EIO, fd;
	struct iovec part = {&error, sizeof(error)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};

	if (recvmsg(connection, &message, MSG_CMSG_CLOEXEC) != sizeof(error))
		return -EIO;
	if (error)
		return error;
	if (!CMSG_FIRSTHDR(&message))
		return -EMFILE;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

int broker_memfd(const char *directory, const char *name, uint64_t size_bytes)
{
	struct request request = {.size_bytes = size_bytes};
	struct sockaddr_un address;
	int connection, result;

	if (!directory || address_of(directory, &address))
		return -ENOENT;
	connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (connection < 0)
		return -errno;
	snprintf(request.name, sizeof(request.name), "%s", name);
	if (connect(connection, (struct sockaddr *)&address, sizeof(address)) ||
	    send(connection, &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
		result = -errno;
	else
		result = receive(connection);
	close(connection);
	return result;
}
