/* Ways in which a page of a guest's memory gets other bytes than its guest's. */
#include "ways.h"

#include <err.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boundary/userfault.h"

struct device device = {.memory_fd = -1};

/* What the pipe has. */
static ssize_t take(void *bytes, size_t size_bytes)
{
	return read(device.pipe[0], bytes, size_bytes);
}

static ssize_t by_read(const struct iovec *to)
{
	return read(device.pipe[0], to->iov_base, to->iov_len);
}

static ssize_t by_readv(const struct iovec *to)
{
	return readv(device.pipe[0], to, 1);
}

static ssize_t by_vmsplice(const struct iovec *to)
{
	return vmsplice(device.pipe[0], to, 1, 0);
}

/* The call's buffers are at its other side. */
static ssize_t by_process_vm(const struct iovec *to)
{
	char bytes[64];
	struct iovec from = {bytes, sizeof(bytes)};

	if (take(bytes, sizeof(bytes)) != sizeof(bytes))
		return -1;
	return process_vm_writev(getpid(), &from, 1, to, 1, 0);
}

static ssize_t by_getrandom(const struct iovec *to)
{
	char bytes[64];

	if (take(bytes, sizeof(bytes)) != sizeof(bytes))
		return -1;
	return getrandom(to->iov_base, to->iov_len, 0);
}

/* A disk's file that has what the pipe had. */
static int make_disk(void)
{
	char path[] = "/tmp/quire-disk-XXXXXX", bytes[64];
	int file = mkstemp(path);

	unlink(path);
	if (take(bytes, sizeof(bytes)) != sizeof(bytes) ||
	    pwrite(file, bytes, sizeof(bytes), 0) != sizeof(bytes))
		err(1, "a disk");
	return file;
}

static ssize_t by_preadv(const struct iovec *to)
{
	int disk = make_disk();
	ssize_t done = preadv(disk, to, 1, 0);

	close(disk);
	return done;
}

static ssize_t submit(const struct iovec *to, int has_parts)
{
	static aio_context_t context;
	struct iocb block = {
	    .aio_lio_opcode = has_parts ? IOCB_CMD_PREADV : IOCB_CMD_PREAD,
	    .aio_buf = has_parts ? (uintptr_t)to : (uintptr_t)to->iov_base,
	    .aio_nbytes = has_parts ? 1 : to->iov_len,
	    .aio_fildes = (uint32_t)make_disk(),
	};
	struct iocb *blocks = &block;
	struct io_event event;

	if ((!context && syscall(SYS_io_setup, 8, &context)) ||
	    syscall(SYS_io_submit, context, 1, &blocks) != 1 ||
	    syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		return -1;
	close((int)block.aio_fildes);
	return (ssize_t)event.res;
}

static ssize_t by_io_submit(const struct iovec *to)
{
	return submit(to, 0);
}

static ssize_t by_io_submit_parts(const struct iovec *to)
{
	return submit(to, 1);
}

/* A network's device: the pair's other end, with what the pipe had. */
static int make_network(int pair[2])
{
	char bytes[64];

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) ||
	    take(bytes, sizeof(bytes)) != sizeof(bytes) ||
	    send(pair[1], bytes, sizeof(bytes), 0) != sizeof(bytes))
		err(1, "a network");
	return pair[0];
}

static ssize_t end_network(const int pair[2], ssize_t done)
{
	close(pair[0]);
	close(pair[1]);
	return done;
}

static ssize_t by_recv(const struct iovec *to)
{
	int pair[2], network = make_network(pair);

	return end_network(pair, recv(network, to->iov_base, to->iov_len, 0));
}

static ssize_t by_recvmsg(const struct iovec *to)
{
	struct iovec part = *to;
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	int pair[2], network = make_network(pair);

	return end_network(pair, recvmsg(network, &message, 0));
}

/* The second message of two, other bytes each time. */
static ssize_t by_recvmmsg(const struct iovec *to)
{
	static int round;
	char other[64];
	struct iovec parts[2] = {{other, sizeof(other)}, *to};
	struct mmsghdr messages[2] = {{{.msg_iov = &parts[0], .msg_iovlen = 1}, 0},
				      {{.msg_iov = &parts[1], .msg_iovlen = 1}, 0}};
	int pair[2], network = make_network(pair);

	memset(other, ++round, sizeof(other));
	if (send(pair[1], other, sizeof(other), 0) != sizeof(other) ||
	    recvmmsg(network, messages, 2, 0, NULL) != 2)
		return -1;
	return end_network(pair, (ssize_t)messages[1].msg_len);
}

/* The page of @to, which a userfaultfd brings in from now on, is missing. */
static int make_missing(const struct iovec *to)
{
	static int fd = -1;
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register watch = {
	    .range = {(uintptr_t)to->iov_base & ~(PAGE - 1), PAGE},
	    .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (fd < 0) {
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
		if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &watch))
			exit(SKIPPED);
	}
	if (madvise((void *)(uintptr_t)watch.range.start, PAGE, MADV_DONTNEED))
		err(1, "a page that is missing");
	return fd;
}

/* A page of the device's own, with what the pipe had. */
static uint8_t *make_page(const struct iovec *to)
{
	uint8_t *page =
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED || take(page, to->iov_len) != (ssize_t)to->iov_len)
		err(1, "a page");
	return page;
}

static ssize_t by_uffd_copy(const struct iovec *to)
{
	struct uffdio_copy copy = {
	    .dst = (uintptr_t)to->iov_base, .src = (uintptr_t)make_page(to), .len = PAGE};

	return ioctl(make_missing(to), UFFDIO_COPY, &copy) ? -1 : (ssize_t)to->iov_len;
}

static ssize_t by_uffd_move(const struct iovec *to)
{
	struct uffdio_move move = {
	    .dst = (uintptr_t)to->iov_base, .src = (uintptr_t)make_page(to), .len = PAGE};

	if (ioctl(make_missing(to), UFFDIO_MOVE, &move))
		exit(SKIPPED); /* before Linux 6.8 */
	return (ssize_t)to->iov_len;
}

/* ---- What none of the program's calls shows ---- */

/* The same bytes in the alias; their offset. */
static ssize_t to_alias(const struct iovec *to, struct iovec *there)
{
	ssize_t offset = (uint8_t *)to->iov_base - device.memory;

	*there = (struct iovec){device.alias + offset, to->iov_len};
	return offset;
}

static ssize_t by_alias(const struct iovec *to)
{
	struct iovec there;
	char bytes[64];

	to_alias(to, &there);
	if (take(bytes, sizeof(bytes)) != sizeof(bytes))
		return -1;
	memcpy(there.iov_base, bytes, sizeof(bytes));
	return sizeof(bytes);
}

static ssize_t by_alias_read(const struct iovec *to)
{
	struct iovec there;

	to_alias(to, &there);
	return by_read(&there);
}

static ssize_t by_file(const struct iovec *to)
{
	struct iovec there;
	char bytes[64];

	if (take(bytes, sizeof(bytes)) != sizeof(bytes))
		return -1;
	return pwrite(device.memory_fd, bytes, sizeof(bytes), to_alias(to, &there));
}

/* Another process writes. */
static ssize_t by_child(const struct iovec *to)
{
	char bytes[64];
	struct iovec from = {bytes, sizeof(bytes)};
	int status;
	pid_t child, parent = getpid();

	if (take(bytes, sizeof(bytes)) != sizeof(bytes))
		return -1;
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	child = fork();
	if (!child)
		_exit(process_vm_writev(parent, &from, 1, to, 1, 0) == sizeof(bytes) ? 0 : SKIPPED);
	if (waitpid(child, &status, 0) != child || status)
		exit(SKIPPED);
	return sizeof(bytes);
}

/* One request of io_uring's. */
static ssize_t by_io_uring(const struct iovec *to)
{
	struct io_uring_params params = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params), disk = make_disk();
	const int rights = PROT_READ | PROT_WRITE;
	struct io_uring_sqe *request;
	uint8_t *sq, *cq;
	int32_t result;

	if (ring < 0)
		exit(SKIPPED);
	sq = mmap(NULL, PAGE, rights, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, PAGE, rights, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	request = mmap(NULL, PAGE, rights, MAP_SHARED, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)request == MAP_FAILED)
		err(1, "io_uring");
	*request = (struct io_uring_sqe){.opcode = IORING_OP_READ,
					 .fd = disk,
					 .addr = (uintptr_t)to->iov_base,
					 .len = (uint32_t)to->iov_len};
	*(uint32_t *)(void *)(sq + params.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(void *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		err(1, "io_uring_enter");
	result = ((struct io_uring_cqe *)(void *)(cq + params.cq_off.cqes))->res;
	close(disk);
	close(ring);
	return result;
}

static const struct way ways[] = {
    {"read", by_read, 0},
    {"readv", by_readv, 0},
    {"preadv", by_preadv, 0},
    {"vmsplice", by_vmsplice, 0},
    {"process_vm_writev", by_process_vm, 0},
    {"getrandom", by_getrandom, 0},
    {"io_submit", by_io_submit, 0},
    {"io_submit parts", by_io_submit_parts, 0},
    {"recv", by_recv, 0},
    {"recvmsg", by_recvmsg, 0},
    {"recvmmsg", by_recvmmsg, 0},
    {"UFFDIO_COPY", by_uffd_copy, 0},
    {"UFFDIO_MOVE", by_uffd_move, 0},
    {"alias", by_alias, 1},
    {"alias read", by_alias_read, 1},
    {"file", by_file, 1},
    {"process", by_child, 0},
    {"io_uring", by_io_uring, 0},
    {"other VM", by_other_vm, 0},
    {"other VM, logged", by_other_vm_logged, 0},
};

const struct way *find_way(const char *name)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (!strcmp(ways[i].name, name))
			return &ways[i];
	errx(1, "no way %s", name);
}

uint8_t *device_memory(const struct way *way, uint64_t size_bytes)
{
	int flags = way->is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	if (way->is_shared) {
		device.memory_fd = memfd_create("guest", MFD_CLOEXEC);
		if (device.memory_fd < 0 || ftruncate(device.memory_fd, (off_t)size_bytes))
			err(1, "a file");
		device.alias =
		    mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device.memory_fd, 0);
	}
	device.memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, flags, device.memory_fd, 0);
	if (device.memory == MAP_FAILED || (void *)device.alias == MAP_FAILED)
		err(1, "memory");
	return device.memory;
}
