/* The process of `quire run` makes what the processes of the run may not. */
#include "frontend/file/broker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
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

/*
 * The broker has two addresses: a path in the run's directory, and a name that has no place in any
 * root and needs no right to a directory, but is of one network namespace.
 */
enum address_kind { ADDRESS_PATH, ADDRESS_NAME, ADDRESSES };

struct address {
	struct sockaddr_un socket;
	socklen_t bytes;
};

static int address_of(const char *directory, enum address_kind kind, struct address *address)
{
	char *text = address->socket.sun_path;
	size_t skipped = kind == ADDRESS_NAME, room = sizeof(address->socket.sun_path) - skipped;
	int length;

	memset(address, 0, sizeof(*address));
	address->socket.sun_family = AF_UNIX;
	length = snprintf(text + skipped, room, "%s/broker", directory);
	address->bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + skipped +
				     (size_t)length + (kind == ADDRESS_PATH));
	return length < (int)room ? 0 : -ENAMETOOLONG;
}

/* A connection to one of them, or -errno. At the gate: a client's filter may know none of these. */
static int reach(const char *directory)
{
	struct address address;
	long fd, error = -ENOENT;

	if (!directory)
		return -ENOENT;
	fd = sys_call(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC);
	for (int kind = 0; fd >= 0 && error && kind < ADDRESSES; kind++) {
		error = address_of(directory, (enum address_kind)kind, &address);
		if (!error)
			error = sys_call(SYS_connect, (uint64_t)fd, sys_address(&address.socket),
					 address.bytes);
	}
	if (fd < 0 || !error)
		return (int)fd;
	sys_call(SYS_close, (uint64_t)fd);
	return (int)error;
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

static int held_poll = -1; /* epoll of all processes */
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

static void start_closers(void)
{
	pthread_t thread;

	held_poll = epoll_create1(EPOLL_CLOEXEC);
	for (unsigned int i = 0; i < CLOSERS && held_poll >= 0; i++)
		if (!pthread_create(&thread, NULL, close_held, NULL))
			pthread_detach(thread);
}

/* Keep @fd while the process at the other end of @connection lives. Takes @fd in any case. */
static void hold(int connection, int fd)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
	struct held *held = malloc(sizeof(*held));
	struct ucred peer = {.pid = 0};
	socklen_t length = sizeof(peer);

	pthread_once(&once, start_closers);
	event.data.ptr = held;
	if (!held || held_poll < 0 || __atomic_load_n(&held_count, __ATOMIC_RELAXED) >= HELD_MAX ||
	    getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length))
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
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int fd = -1, error = -EINVAL;

	if (request->size_bytes <= SIZE_MAX_BYTES) {
		request->name[sizeof(request->name) - 1] = '\0';
		fd = memfd_create(request->name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
		error = fd < 0 || ftruncate(fd, (off_t)request->size_bytes) ? -errno : 0;
	}
	/* Another user's since it started: a descriptor is opened again and sealed by its owner. */
	if (!error && !getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length))
		(void)!fchown(fd, peer.uid, peer.gid);
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

static int listen_at(const struct address *address)
{
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), error;
	sigset_t all, old;
	pthread_t thread;

	if (listener < 0)
		return -errno;
	if (bind(listener, (const struct sockaddr *)&address->socket, address->bytes) ||
	    listen(listener, 64)) {
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

int broker_start(const char *directory)
{
	struct address address;
	int first = 0;

	for (int kind = 0; kind < ADDRESSES; kind++) {
		int error = address_of(directory, (enum address_kind)kind, &address);

		if (!error)
			error = listen_at(&address);
		if (!first)
			first = error;
	}
	return first;
}

void broker_end(const char *directory)
{
	struct address address;

	if (!address_of(directory, ADDRESS_PATH, &address))
		unlink(address.socket.sun_path);
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
	int connection = reach(directory), result;

	if (connection < 0)
		return connection;
	snprintf(request.name, sizeof(request.name), "%s", name);
	if (send(connection, &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
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
	int connection = reach(directory);

	if (connection < 0)
		return;
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	sys_call(SYS_sendmsg, (uint64_t)connection, sys_address(&message), MSG_NOSIGNAL);
	sys_call(SYS_close, (uint64_t)connection);
}
