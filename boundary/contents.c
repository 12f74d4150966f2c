/* Reading, writing and seeking. Statistics are the only file of ours that has contents. */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "boundary/rows.h"
#include "frontend/file/user_copy.h"
#include "frontend/param/params.h"

/* Of sync_file_range(): SYNC_FILE_RANGE_* */
#define SYNC_FLAGS 7ul

/* The offset of the client's open file description is kept by the kernel, in the descriptor. */
static off_t offset_of(int fd)
{
	return BOUNDARY_KERNEL(SYS_lseek, (unsigned long)fd, 0, SEEK_CUR);
}

static void offset_set(int fd, off_t offset)
{
	(void)BOUNDARY_KERNEL(SYS_lseek, (unsigned long)fd, (unsigned long)offset, SEEK_SET);
}

static long read_at(const struct object_call *call, unsigned long dst, size_t size_bytes,
		    off_t offset)
{
	if (!size_bytes)
		return 0;
	return file_ops_of(call->file)->read_at(call->file, (void *)dst, size_bytes, offset);
}

long contents_read(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	off_t offset = offset_of(call->fd);
	long got = read_at(call, args[1], args[2], offset);

	if (got > 0)
		offset_set(call->fd, offset + got);
	return got;
}

long contents_pread(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	off_t offset = (off_t)args[3];

	return offset < 0 ? -EINVAL : read_at(call, args[1], args[2], offset);
}

/* No address of a client's is above, however many levels its tables have. */
#define USER_END UINT64_C(0x100000000000000)

/* The vector as the kernel takes it in, before it reads anything: 0 or -errno. */
static long check_parts(const unsigned long *args)
{
	unsigned long count = args[2];

	if (count > IOV_MAX)
		return -EINVAL;
	for (unsigned long i = 0; i < count; i++) {
		struct iovec part;

		if (user_copy_in(&part, args[1] + i * sizeof(part), sizeof(part)))
			return -EFAULT;
		if ((ssize_t)part.iov_len < 0)
			return -EINVAL;
		if ((uintptr_t)part.iov_base + part.iov_len > USER_END)
			return -EFAULT;
	}
	return 0;
}

/* What read_at() and write_at() are. */
typedef long (*transfer)(const struct object_call *call, unsigned long address, size_t size_bytes,
			 off_t offset);

/*
 * The parts of a vector one after the other, as the kernel goes through them where a file has no
 * iterator: what was done before an error counts, and a page that two parts hold is none of either.
 */
static long each_part(const struct object_call *call, off_t offset, transfer at)
{
	const unsigned long *args = call->call->args;
	unsigned long count = args[2];
	/* A file that takes no writes says so before the kernel takes in the vector. */
	long total = at(call, 0, 0, offset);

	if (!total)
		total = check_parts(args);
	if (total)
		return total;
	for (unsigned long i = 0; i < count; i++) {
		struct iovec part;
		long done;

		if (user_copy_in(&part, args[1] + i * sizeof(part), sizeof(part)))
			return total ? total : -EFAULT;
		done = at(call, (uintptr_t)part.iov_base, part.iov_len, offset + total);
		if (done < 0)
			return total ? total : done;
		total += done;
		if ((size_t)done < part.iov_len)
			break;
	}
	return total;
}

long contents_readv(const struct object_call *call)
{
	off_t offset = offset_of(call->fd);
	long got = each_part(call, offset, read_at);

	if (got > 0)
		offset_set(call->fd, offset + got);
	return got;
}

/* An offset of -1 means the description's own in the calls that take flags. */
static bool is_sequential(const struct boundary_call *call)
{
	return (call->nr == SYS_preadv2 || call->nr == SYS_pwritev2) && (off_t)call->args[3] == -1;
}

/* preadv and preadv2: the offset's high half is for machines of 32 bits. */
long contents_preadv(const struct object_call *call)
{
	off_t offset = (off_t)call->call->args[3];

	if (offset < 0 && !is_sequential(call->call))
		return -EINVAL;
	/* A file that is read without an iterator takes no other flag. */
	if (call->call->nr == SYS_preadv2 && (call->call->args[5] & ~(unsigned long)RWF_HIPRI))
		return -EOPNOTSUPP;
	return is_sequential(call->call) ? contents_readv(call) : each_part(call, offset, read_at);
}

/* A file of KVM's without positions: no description of it was opened by a path. */
long contents_no_position(const struct object_call *call)
{
	if (is_sequential(call->call))
		return file_ops_of(call->file)->kind == FILE_STATS ? -EBADF : -EINVAL;
	return (off_t)call->call->args[3] < 0 ? -EINVAL : -ESPIPE;
}

static long write_at(const struct object_call *call, unsigned long src, size_t size_bytes,
		     off_t offset)
{
	const struct file_ops *ops = file_ops_of(call->file);

	if (!ops->write_at)
		return FILE_NO_WRITES;
	return ops->write_at(call->file, (const void *)src, size_bytes, offset);
}

static long write_sequential(const struct object_call *call, long put, off_t offset)
{
	if (put > 0)
		offset_set(call->fd, offset + put);
	return put == FILE_NO_WRITES ? -EINVAL : put;
}

long contents_write(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	off_t offset = offset_of(call->fd);

	return write_sequential(call, write_at(call, args[1], args[2], offset), offset);
}

long contents_pwrite(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	off_t offset = (off_t)args[3];
	long put = offset < 0 ? -EINVAL : write_at(call, args[1], args[2], offset);

	return put == FILE_NO_WRITES ? contents_no_position(call) : put;
}

long contents_writev(const struct object_call *call)
{
	off_t offset = offset_of(call->fd);

	return write_sequential(call, each_part(call, offset, write_at), offset);
}

long contents_pwritev(const struct object_call *call)
{
	off_t offset = (off_t)call->call->args[3];
	long put;

	if (is_sequential(call->call))
		return contents_writev(call);
	put = offset < 0 ? -EINVAL : each_part(call, offset, write_at);
	return put == FILE_NO_WRITES ? contents_no_position(call) : put;
}

static bool is_whence(const struct object_call *call)
{
	return (unsigned int)call->call->args[2] <= SEEK_HOLE;
}

/* Seeking is accepted and moves nothing. */
long contents_seek(const struct object_call *call)
{
	return is_whence(call) ? offset_of(call->fd) : -EINVAL;
}

long contents_no_seek(const struct object_call *call)
{
	return is_whence(call) ? -ESPIPE : -EINVAL;
}

/* A guest_memfd that may be written has positions: any, and no hole before its end. */
long contents_file_seek(const struct object_call *call)
{
	uint64_t offset = call->call->args[1], size = file_size_bytes(call->file);

	if (!is_whence(call) || !params_get_bool("kvm.quire_gmem_write"))
		return contents_no_seek(call);
	switch (call->call->args[2]) {
	case SEEK_CUR:
		offset += (uint64_t)offset_of(call->fd);
		break;
	case SEEK_END:
		offset += size;
		break;
	case SEEK_DATA:
	case SEEK_HOLE:
		/* A negative one is past every end to the kernel. */
		if (offset >= size)
			return -ENXIO;
		if (call->call->args[2] == SEEK_HOLE)
			offset = size;
		break;
	default:
		break;
	}
	if ((off_t)offset < 0)
		return -EINVAL;
	offset_set(call->fd, (off_t)offset);
	return (off_t)offset;
}

/* sync_file_range(fd, offset, size, flags) of a file that is not regular. */
long contents_sync_range(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	off_t offset = (off_t)args[1], end;

	if (args[3] & ~SYNC_FLAGS || __builtin_add_overflow(offset, (off_t)args[2], &end))
		return -EINVAL;
	return offset < 0 || end < offset ? -EINVAL : -ESPIPE;
}
