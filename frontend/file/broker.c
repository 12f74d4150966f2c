/* The process of `quire run` makes what the processes of the run may not. */
#include "frontend/file/broker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "hosts/process/sys.h"

/* A vCPU with the longest ring is less. */
#define SIZE_MAX_BYTES (UINT64_C(64) << 20)

enum request_kind {
	REQUEST_MEMFD,
	REQUEST_HOLD, /* the descriptor that comes with it */
};

struct request {
	uint64_t kind;
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

/* Room for one descriptor beside a message. */
union control {
	struct cmsghdr header;
	char room[CMSG_SPACE(sizeof(int))];
};

/* Send @error, and with 0 the descriptor @fd. */
static void answer(int connection, int error, int fd)
{
	union control control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec part = {&error, sizeof(error)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (!error) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control.room);
	}
	(void)sendmsg(connection, &message, MSG_NOSIGNAL);
}

/* A message of @size_bytes, and the descriptor that came with it in *@fd, or -1. 0 or -EIO. */
static int receive(int connection, void *message, size_t size_bytes, int *fd)
{
	union control control;
	struct iovec part = {message, size_bytes};
	struct msghdr header = {.msg_iov = &part,
				.msg_iovlen = 1,
				.msg_control = &control,
				.msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(connection, &header, MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (got >= 0 && CMSG_FIRSTHDR(&header))
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(*fd));
	return got == (ssize_t)size_bytes ? 0 : -EIO;
}

/* ---- Descriptors that are held while their process lives ---- */

/*
 * The kernel takes 15 ms to end an inotify instance, and makes the process wait that closes it
 * last: of a client's process that would be its exit. Closers wait together, so there are some.
 */
#define HELD_MAX 48u
#define CLOSERS 8u

struct held {
	int fd, process; /* a pidfd */
};

static int held_poll = -1; /* epoll of all processes. Written by the serving thread. */
static uint32_t held_count;

static void *close_held(void *unused)
{
	for (;;) {
		struct epoll_event event;
		struct held *held;

		if (epoll_wait(held_poll, &event, 1, -1) != 1)
			continue;
		/* One shot: no other closer has it. */
		held = event.data.ptr;
		close(held->process);
		close(held->fd);
		free(held);
		__atomic_fetch_sub(&held_count, 1, __ATOMIC_RELAXED);
	}
	return unused;
}

/* 0, or -1: then nothing can be held. */
static int start_closers(void)
{
	pthread_t thread;

	if (held_poll >= 0)
		return 0;
	held_poll = epoll_create1(EPOLL_CLOEXEC);
	if (held_poll < 0)
		return -1;
	for (unsigned int i = 0; i < CLOSERS; i++)
		if (!pthread_create(&thread, NULL, close_held, NULL))
			pthread_detach(thread);
	return 0;
}

/* Keep @fd while the process at the other end of @connection lives. Takes @fd in any case. */
static void hold(int connection, int fd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
	struct held *held = malloc(sizeof(*held));
	struct ucred peer = {.pid = 0};
	socklen_t length = sizeof(peer);

	event.data.ptr = held;
	if (!held || __atomic_load_n(&held_count, __ATOMIC_RELAXED) >= HELD_MAX ||
	    start_closers() || getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length))
		goto close_fd;
	*held = (struct held){fd, (int)syscall(SYS_pidfd_open, peer.pid, 0)};
	if (held->process < 0)
		goto close_fd;
	__atomic_fetch_add(&held_count, 1, __ATOMIC_RELAXED);
	if (!epoll_ctl(held_poll, EPOLL_CTL_ADD, held->process, &event))
		return;
	__atomic_fetch_sub(&held_count, 1, __ATOMIC_RELAXED);
	close(held->process);
close_fd:
	free(held);
	close(fd);
}

/* ---- Requests ---- */

static void serve_memfd(int connection, struct request *request)
{
	int fd = -1, error = -EINVAL;

	if (request->size_bytes <= SIZE_MAX_BYTES) {
		request->name[sizeof(request->name) - 1] = '\0';
		fd = memfd_create(request->name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
		error = fd < 0 || ftruncate(fd, (off_t)request->size_bytes) ? -errno : 0;
	}
	answer(connection, error, fd);
	if (fd >= 0)
		close(fd);
}

static void serve_one(int connection)
{
	struct request request;
	int fd, error = receive(connection, &request, sizeof(request), &fd);

	if (!error && request.kind == REQUEST_HOLD && fd >= 0) {
		hold(connection, fd);
		return;
	}
	if (fd >= 0)
		close(fd);
	if (!error)
		serve_memfd(connection, &request);
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
static int receive_answer(int connection)
{
	int error, fd;

	if (receive(connection, &error, sizeof(error), &fd))
		return -EIO;
	if (error)
		return error;
	return fd < 0 ? -EMFILE : fd;
}

int broker_memfd(const char *directory, const char *name, uint64_t size_bytes)
{
	struct request request = {.kind = REQUEST_MEMFD, .size_bytes = size_bytes};
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
		result = receive_answer(connection);
	close(connection);
	return result;
}

void broker_hold(const char *directory, int fd)
{
	union control control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct request request = {.kind = REQUEST_HOLD};
	struct iovec part = {&request, sizeof(request)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control.room)};
	struct sockaddr_un address;
	long connection;

	if (!directory || address_of(directory, &address))
		return;
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	/* At the gate, for a filter of the client's may know none of these calls. */
	connection = sys_call(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (connection < 0)
		return;
	if (!sys_call(SYS_connect, (uint64_t)connection, sys_address(&address), sizeof(address)))
		sys_call(SYS_sendmsg, (uint64_t)connection, sys_address(&message), MSG_NOSIGNAL);
	sys_call(SYS_close, (uint64_t)connection);
}
