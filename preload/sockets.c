/*
 * Calls that move bytes between memory and a socket, a pipe, a process or the source of random
 * bytes: a detector hears of them.
 */
#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "boundary/copied.h"
#include "preload/entry.h"

/* None of KVM's files takes these calls as its own: they are libc's in any case. */
#define NOTED(number, real, ...)                                                                   \
	({                                                                                         \
		if (copied_is_wanted() && !is_libc_alone())                                        \
			copied_tell(                                                               \
			    &(const struct boundary_call){.nr = (number), .args = {__VA_ARGS__}}); \
		(real);                                                                            \
	})

INTERPOSED ssize_t send(int fd, const void *src, size_t size_bytes, int flags)
{
	return NOTED(SYS_sendto, REAL(send)(fd, src, size_bytes, flags), ARGUMENT(fd),
		     ARGUMENT(src), size_bytes);
}

INTERPOSED ssize_t sendto(int fd, const void *src, size_t size_bytes, int flags,
			  const struct sockaddr *to, socklen_t to_bytes)
{
	return NOTED(SYS_sendto, REAL(sendto)(fd, src, size_bytes, flags, to, to_bytes),
		     ARGUMENT(fd), ARGUMENT(src), size_bytes);
}

INTERPOSED ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	return NOTED(SYS_sendmsg, REAL(sendmsg)(fd, message, flags), ARGUMENT(fd),
		     ARGUMENT(message));
}

INTERPOSED int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	return NOTED(SYS_sendmmsg, REAL(sendmmsg)(fd, messages, count, flags), ARGUMENT(fd),
		     ARGUMENT(messages), count);
}

INTERPOSED ssize_t recv(int fd, void *dst, size_t size_bytes, int flags)
{
	return NOTED(SYS_recvfrom, REAL(recv)(fd, dst, size_bytes, flags), ARGUMENT(fd),
		     ARGUMENT(dst), size_bytes);
}

INTERPOSED ssize_t recvfrom(int fd, void *dst, size_t size_bytes, int flags, struct sockaddr *from,
			    socklen_t *from_bytes)
{
	return NOTED(SYS_recvfrom, REAL(recvfrom)(fd, dst, size_bytes, flags, from, from_bytes),
		     ARGUMENT(fd), ARGUMENT(dst), size_bytes);
}

/* Fortified programs call these. Too little room is libc's to complain of. */
ssize_t __recv_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes, int flags);
ssize_t __recvfrom_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes, int flags,
		       struct sockaddr *from, socklen_t *from_bytes);

INTERPOSED ssize_t __recv_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes, int flags)
{
	if (size_bytes > room_bytes)
		return REAL(__recv_chk)(fd, dst, size_bytes, room_bytes, flags);
	return recv(fd, dst, size_bytes, flags);
}

INTERPOSED ssize_t __recvfrom_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes,
				  int flags, struct sockaddr *from, socklen_t *from_bytes)
{
	if (size_bytes > room_bytes)
		return REAL(__recvfrom_chk)(fd, dst, size_bytes, room_bytes, flags, from,
					    from_bytes);
	return recvfrom(fd, dst, size_bytes, flags, from, from_bytes);
}

INTERPOSED ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	return NOTED(SYS_recvmsg, REAL(recvmsg)(fd, message, flags), ARGUMENT(fd),
		     ARGUMENT(message));
}

INTERPOSED int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
			struct timespec *timeout)
{
	return NOTED(SYS_recvmmsg, REAL(recvmmsg)(fd, messages, count, flags, timeout),
		     ARGUMENT(fd), ARGUMENT(messages), count);
}

INTERPOSED ssize_t vmsplice(int fd, const struct iovec *parts, size_t count, unsigned int flags)
{
	return NOTED(SYS_vmsplice, REAL(vmsplice)(fd, parts, count, flags), ARGUMENT(fd),
		     ARGUMENT(parts), count);
}

INTERPOSED ssize_t process_vm_readv(pid_t pid, const struct iovec *local, unsigned long local_count,
				    const struct iovec *remote, unsigned long remote_count,
				    unsigned long flags)
{
	return NOTED(SYS_process_vm_readv,
		     REAL(process_vm_readv)(pid, local, local_count, remote, remote_count, flags),
		     ARGUMENT(pid), ARGUMENT(local), local_count, ARGUMENT(remote), remote_count);
}

INTERPOSED ssize_t process_vm_writev(pid_t pid, const struct iovec *local,
				     unsigned long local_count, const struct iovec *remote,
				     unsigned long remote_count, unsigned long flags)
{
	return NOTED(SYS_process_vm_writev,
		     REAL(process_vm_writev)(pid, local, local_count, remote, remote_count, flags),
		     ARGUMENT(pid), ARGUMENT(local), local_count, ARGUMENT(remote), remote_count);
}

INTERPOSED ssize_t getrandom(void *dst, size_t size_bytes, unsigned int flags)
{
	return NOTED(SYS_getrandom, REAL(getrandom)(dst, size_bytes, flags), ARGUMENT(dst),
		     size_bytes, flags);
}
