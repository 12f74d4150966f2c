/* For sanitizers: which of the client's memory a system call reads or writes. */
#include "boundary/copied.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "boundary/userfault.h"
#include "frontend/file/client_call.h"
#include "frontend/file/user_copy.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "sanitize/dirty.h"
#include "sanitize/private.h"

/* How the arguments name memory: by a pointer to what, which an argument counts. */
enum shape {
	SHAPE_NONE,
	SHAPE_BYTES,
	SHAPE_RANDOM, /* the pointer is the first argument */
	SHAPE_PARTS,
	SHAPE_PIPED,  /* parts, which the read end of a pipe writes to */
	SHAPE_REMOTE, /* parts here, and parts in a process that may be this one */
	SHAPE_MESSAGE,
	SHAPE_MESSAGES,
	SHAPE_BLOCKS, /* pointers to control blocks */
};

struct transfer {
	enum shape shape;
	bool is_write; /* the call writes to memory */
};

/* But where its shape says so the pointer is the second argument and the count the third. */
static struct transfer transfer_of(long nr)
{
	switch (nr) {
	case SYS_read:
	case SYS_pread64:
	case SYS_recvfrom:
		return (struct transfer){SHAPE_BYTES, true};
	case SYS_write:
	case SYS_pwrite64:
	case SYS_sendto:
		return (struct transfer){SHAPE_BYTES, false};
	case SYS_readv:
	case SYS_preadv:
	case SYS_preadv2:
		return (struct transfer){SHAPE_PARTS, true};
	case SYS_writev:
	case SYS_pwritev:
	case SYS_pwritev2:
		return (struct transfer){SHAPE_PARTS, false};
	case SYS_process_vm_readv:
		return (struct transfer){SHAPE_REMOTE, true};
	case SYS_process_vm_writev:
		return (struct transfer){SHAPE_REMOTE, false};
	case SYS_vmsplice:
		return (struct transfer){SHAPE_PIPED, false};
	case SYS_getrandom:
		return (struct transfer){SHAPE_RANDOM, true};
	case SYS_io_submit:
		return (struct transfer){SHAPE_BLOCKS, false};
	case SYS_recvmsg:
		return (struct transfer){SHAPE_MESSAGE, true};
	case SYS_sendmsg:
		return (struct transfer){SHAPE_MESSAGE, false};
	case SYS_recvmmsg:
		return (struct transfer){SHAPE_MESSAGES, true};
	case SYS_sendmmsg:
		return (struct transfer){SHAPE_MESSAGES, false};
	default:
		return (struct transfer){SHAPE_NONE, false};
	}
}

bool copied_knows(long nr)
{
	return transfer_of(nr).shape != SHAPE_NONE;
}

static void tell_bytes(const struct transfer *transfer, uint64_t address, uint64_t size_bytes)
{
	if (sanitize_is_on(SANITIZE_PRIVATE))
		sanitize_private_touch(address, size_bytes);
	if (!sanitize_is_on(SANITIZE_DIRTY))
		return;
	if (transfer->is_write)
		sanitize_log_write(address, size_bytes);
	else
		sanitize_log_read(address, size_bytes);
}

/* What cannot be read here the kernel refuses. */
static void tell_parts(const struct transfer *transfer, uint64_t address, uint64_t count)
{
	struct iovec part;

	for (uint64_t i = 0; i < count && i < IOV_MAX; i++) {
		if (user_peek(&part, address + i * sizeof(part), sizeof(part)))
			return;
		tell_bytes(transfer, (uintptr_t)part.iov_base, part.iov_len);
	}
}

static void tell_message(const struct transfer *transfer, uint64_t address)
{
	struct msghdr message;

	if (!user_peek(&message, address, sizeof(message)))
		tell_parts(transfer, (uintptr_t)message.msg_iov, message.msg_iovlen);
}

/* The control block that the pointer at @address leads to. */
static void tell_block(uint64_t address)
{
	struct transfer transfer = {.shape = SHAPE_BYTES};
	struct iocb block;
	uint64_t pointer;

	if (user_peek(&pointer, address, sizeof(pointer)) ||
	    user_peek(&block, pointer, sizeof(block)))
		return;
	transfer.is_write =
	    block.aio_lio_opcode == IOCB_CMD_PREAD || block.aio_lio_opcode == IOCB_CMD_PREADV;
	if (transfer.is_write ? block.aio_lio_opcode == IOCB_CMD_PREAD
			      : block.aio_lio_opcode == IOCB_CMD_PWRITE)
		tell_bytes(&transfer, block.aio_buf, block.aio_nbytes);
	else if (transfer.is_write || block.aio_lio_opcode == IOCB_CMD_PWRITEV)
		tell_parts(&transfer, block.aio_buf, block.aio_nbytes);
}

/* The other process's side, where that is this one: it is written where this one is read. */
static void tell_remote(const struct transfer *transfer, const struct boundary_call *call)
{
	struct transfer other = {.shape = transfer->shape, .is_write = !transfer->is_write};

	if ((pid_t)call->args[0] == (pid_t)sys_call(SYS_getpid, 0))
		tell_parts(&other, call->args[3], call->args[4]);
}

static bool is_read_end(int fd)
{
	long flags = sys_call(SYS_fcntl, (uint64_t)fd, F_GETFL);

	return flags >= 0 && (flags & O_ACCMODE) == O_RDONLY;
}

static void run_tell(void *opaque)
{
	const struct boundary_call *call = opaque;
	struct transfer transfer = transfer_of(call->nr);

	switch (transfer.shape) {
	case SHAPE_BYTES:
		tell_bytes(&transfer, call->args[1], call->args[2]);
		break;
	case SHAPE_RANDOM:
		tell_bytes(&transfer, call->args[0], call->args[1]);
		break;
	case SHAPE_PIPED:
		transfer.is_write = is_read_end((int)call->args[0]);
		tell_parts(&transfer, call->args[1], call->args[2]);
		break;
	case SHAPE_REMOTE:
		tell_parts(&transfer, call->args[1], call->args[2]);
		tell_remote(&transfer, call);
		break;
	case SHAPE_BLOCKS:
		for (uint64_t i = 0; i < call->args[1] && i < IOV_MAX; i++)
			tell_block(call->args[2] + i * sizeof(uint64_t));
		break;
	case SHAPE_PARTS:
		tell_parts(&transfer, call->args[1], call->args[2]);
		break;
	case SHAPE_MESSAGE:
		tell_message(&transfer, call->args[1]);
		break;
	case SHAPE_MESSAGES:
		for (uint64_t i = 0; i < call->args[2] && i < IOV_MAX; i++)
			tell_message(&transfer, call->args[1] + i * sizeof(struct mmsghdr));
		break;
	case SHAPE_NONE:
		break;
	}
}

void copied_tell(const struct boundary_call *call)
{
	int saved_errno = errno;
	struct boundary_call copy = *call;

	if (!copied_knows(call->nr))
		return;
	client_call_begin();
	process_with_room(run_tell, &copy);
	client_call_end();
	errno = saved_errno;
}

/* ---- Userfaultfds ---- */

bool copied_knows_userfault(unsigned long command)
{
	unsigned int number = _IOC_NR(command);

	return _IOC_TYPE(command) == UFFDIO &&
	       (number == _UFFDIO_COPY || number == _UFFDIO_ZEROPAGE || number == _UFFDIO_MOVE);
}

struct userfault {
	unsigned long command, argument;
};

/* A copy and a move have {destination, source, length}, zeros have {destination, length}. */
static void run_tell_userfault(void *opaque)
{
	const struct userfault *call = opaque;
	const struct transfer reads = {SHAPE_BYTES, false}, writes = {SHAPE_BYTES, true};
	bool is_zeros = _IOC_NR(call->command) == _UFFDIO_ZEROPAGE;
	uint64_t words[3] = {0, 0, 0};

	if (user_peek(words, call->argument, is_zeros ? 16 : 24))
		return;
	if (!is_zeros)
		tell_bytes(&reads, words[1], words[2]);
	tell_bytes(&writes, words[0], words[is_zeros ? 1 : 2]);
}

void copied_tell_userfault(unsigned long command, unsigned long argument)
{
	struct userfault call = {command, argument};
	int saved_errno = errno;

	if (copied_knows_userfault(command))
		process_with_room(run_tell_userfault, &call);
	errno = saved_errno;
}
