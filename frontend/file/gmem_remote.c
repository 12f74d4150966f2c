/*
 * fallocate of a guest_memfd by a child of the process that made it: the maker does it.
 *
 * The memory is a mapping of the maker's alone, and so are the VM's tables. From its first fork
 * with a guest_memfd on, a process has a socket with an address that its children know by their
 * copy of its memory, and a thread that serves it. A child asks with a key that no other process
 * can know.
 */
#include "frontend/file/gmem_remote.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frontend/file/client_call.h"
#include "frontend/file/hidden_fd.h"
#include "hosts/process/fork.h"
#include "hosts/process/helper.h"

#define KEY_WORDS 2
/* How often a waiting child tests whether the maker's socket is still open. */
#define LOOK_MS 200

struct request {
	uint64_t key[KEY_WORDS];
	dev_t device;
	ino_t inode;
	int64_t offset_bytes, size_bytes;
	int32_t mode;
	int32_t is_look; /* no answer is wanted */
};

/* Where a process is asked. A child has its parent's copy, and makes one of its own when it forks.
 */
struct server {
	struct sockaddr_un address;
	socklen_t address_bytes; /* 0: none */
	uint64_t key[KEY_WORDS];
	int fd; /* hidden: the process's own, and not its children's */
};

/* By generation: the process itself is the last, its ancestors before it. */
#define GENERATIONS 16
static struct server servers[GENERATIONS];
static uint32_t generation;
static uint32_t live; /* [A] guest_memfds of this process */

void gmem_remote_count(int change)
{
	__atomic_fetch_add(&live, (uint32_t)change, __ATOMIC_RELAXED);
}

uint32_t gmem_remote_generation(void)
{
	return generation;
}

static int perform(const struct request *request)
{
	struct file *file = file_find(request->device, request->inode);
	int result;

	if (!file)
		return -EIO;
	result = file_is_own(file) && file_ops_of(file)->allocate
		     ? file_ops_of(file)->allocate(file, request->mode, request->offset_bytes,
						   request->size_bytes)
		     : -EIO;
	file_put(file);
	return result;
}

static void *serve(void *argument)
{
	const struct server *server = &servers[generation];
	int fd = (int)(intptr_t)argument;

	client_call_begin();
	for (;;) {
		struct sockaddr_un from;
		socklen_t from_bytes = sizeof(from);
		struct request request;
		ssize_t got = recvfrom(fd, &request, sizeof(request), 0, (struct sockaddr *)&from,
				       &from_bytes);
		int result;

		if (got < 0 && errno != EINTR)
			return NULL;
		if (got != sizeof(request) || request.is_look ||
		    memcmp(request.key, server->key, sizeof(request.key)))
			continue;
		result = perform(&request);
		(void)sendto(fd, &result, sizeof(result), MSG_DONTWAIT, (struct sockaddr *)&from,
			     from_bytes);
	}
}

/* A socket at an address that the kernel chooses; its number, hidden, or -1. */
static int open_socket(struct server *server)
{
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	int low = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), high;

	if (low < 0)
		return -1;
	server->address_bytes = sizeof(server->address);
	if (bind(low, (struct sockaddr *)&any, sizeof(any.sun_family)) ||
	    getsockname(low, (struct sockaddr *)&server->address, &server->address_bytes) ||
	    getrandom(server->key, sizeof(server->key), GRND_NONBLOCK) != sizeof(server->key)) {
		server->address_bytes = 0;
		close(low);
		return -1;
	}
	high = hidden_fd_move(low);
	close(low);
	return high;
}

/* Before a fork: a child of ours may ask. */
static void before_fork(void)
{
	struct server *server = &servers[generation];
	int fd;

	if (server->address_bytes || !__atomic_load_n(&live, __ATOMIC_RELAXED))
		return;
	client_call_begin();
	fd = open_socket(server);
	if (fd >= 0 && helper_start(NULL, serve, (void *)(intptr_t)fd)) {
		hidden_fd_close(fd);
		fd = -1;
	}
	server->fd = fd;
	/* Without one that answers a child gets its error at once. */
	if (fd < 0)
		server->address_bytes = 0;
	client_call_end();
}

/*
 * The child's own files are of the next generation. What came before stays as it was, but for the
 * parent's socket: while a copy of it is open, one that asks a dead parent hears no error.
 */
static void in_child(void)
{
	if (servers[generation].address_bytes)
		hidden_fd_close(servers[generation].fd);
	if (generation + 1 < GENERATIONS)
		generation++;
	servers[generation].address_bytes = 0;
	live = 0;
}

static const struct fork_entry remote_entry __attribute__((section("quire_fork"), used)) = {
    .rank = FORK_FILES, .before = before_fork, .child = in_child};

static long ask(int fd, const struct request *request)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};
	struct request look = *request;
	int result;

	look.is_look = 1;
	if (send(fd, request, sizeof(*request), 0) != sizeof(*request))
		return -EIO;
	while (poll(&one, 1, LOOK_MS) <= 0)
		if (send(fd, &look, sizeof(look), MSG_DONTWAIT) < 0 && errno != EAGAIN)
			return -EIO;
	return recv(fd, &result, sizeof(result), 0) == sizeof(result) ? result : -EIO;
}

int gmem_remote_allocate(const struct file *file, int mode, off_t offset_bytes, off_t size_bytes)
{
	const struct server *server = &servers[file_generation(file)];
	struct request request = {
	    .offset_bytes = offset_bytes, .size_bytes = size_bytes, .mode = mode};
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	long result = -EIO;
	int fd;

	if (!server->address_bytes)
		return -EIO;
	memcpy(request.key, server->key, sizeof(request.key));
	file_inode(file, &request.device, &request.inode);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -EIO;
	if (!bind(fd, (struct sockaddr *)&any, sizeof(any.sun_family)) &&
	    !connect(fd, (const struct sockaddr *)&server->address, server->address_bytes))
		result = ask(fd, &request);
	close(fd);
	return (int)result;
}
