/* For sanitizers: which of the client's memory a system call reads or writes. */
#include "boundary/copied.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "frontend/file/client_call.h"
#include "frontend/file/user_copy.h"
#include "hosts/process/room.h"
#include "sanitize/dirty.h"
#include "sanitize/private.h"

/* How the arguments name memory: by a pointer to what, which an argument counts. */
enum shape { SHAPE_NONE, SHAPE_BYTES, SHAPE_PARTS, SHAPE_MESSAGE, SHAPE_MESSAGES };

struct transfer {
	enum shape shape;
	bool is_write; /* the call writes to memory */
};

/* The pointer is the second argument and the count, if any, the third, in all of them. */
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
	case SYS_process_vm_readv:
		return (struct transfer){SHAPE_PARTS, true};
	case SYS_writev:
	case SYS_pwritev:
	case SYS_pwritev2:
	case SYS_vmsplice:
	case SYS_process_vm_writev:
		return (struct transfer){SHAPE_PARTS, false};
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

static void run_tell(void *opaque)
{
	const struct boundary_call *call = opaque;
	struct transfer transfer = transfer_of(call->nr);

	switch (transfer.shape) {
	case SHAPE_BYTES:
		tell_bytes(&transfer, call->args[1], call->args[2]);
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
