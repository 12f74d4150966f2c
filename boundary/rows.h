/* The table of calls that take a descriptor: one row a system call, one cell a kind of object. */
#ifndef QUIRE_BOUNDARY_ROWS_H
#define QUIRE_BOUNDARY_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "boundary/object.h"

/* What one kind of object answers to one call. */
struct boundary_cell {
	/* Decode and perform: a result, -errno, or OBJECT_FORWARD. NULL: @error is the answer. */
	long (*perform)(const struct object_call *call);
	int error; /* 0 without @perform: the kernel answers as KVM's file would */
};

/* A perform function's word for "the kernel's answer on the inert descriptor is KVM's own". */
#define OBJECT_FORWARD INT64_MIN

struct boundary_row {
	/* Which of the six arguments are descriptors, a bit each; the first of ours decides. */
	uint8_t fd_arguments;
	/* Does the call work on a descriptor of O_PATH, too? The kernel refuses the others. */
	bool takes_path;
	struct boundary_cell cells[FILE_KINDS];
	/* On descriptors that are none of ours: a result or OBJECT_FORWARD. NULL: the kernel's. */
	long (*other)(const struct boundary_call *call);
	/* What the kernel's result of a call that was forwarded means. NULL: itself. */
	long (*settle)(const struct boundary_call *call, long result);
};

#define BOUNDARY_NR_MAX 512

/* Indexed by system call number; NULL where a call has no row. */
extern const struct boundary_row *const boundary_rows[BOUNDARY_NR_MAX];

/*
 * Does a call on a descriptor and a path mean the descriptor itself? @path and @flags are the
 * indices of those arguments.
 */
bool path_is_itself(const struct boundary_call *call, unsigned int path, unsigned int flags);

long contents_read(const struct object_call *call);
long contents_pread(const struct object_call *call);
long contents_write(const struct object_call *call);
long contents_writev(const struct object_call *call);
long contents_pwrite(const struct object_call *call);
long contents_pwritev(const struct object_call *call);
long contents_file_seek(const struct object_call *call);
long contents_readv(const struct object_call *call);
long contents_preadv(const struct object_call *call);
long contents_no_position(const struct object_call *call);
long contents_seek(const struct object_call *call);
long contents_no_seek(const struct object_call *call);
long contents_sync_range(const struct object_call *call);

/* A write to a descriptor that is none of ours. */
long parameter_write(const struct boundary_call *call);

long device_ioctl(const struct object_call *call);
long device_other_ioctl(const struct boundary_call *call);
long device_allocate(const struct object_call *call);

long transfer_sendfile(const struct object_call *call);
long transfer_splice(const struct object_call *call);
long transfer_copy(const struct object_call *call);
/* Does the ioctl share blocks of one file with another? */
bool transfer_is_clone(unsigned int command);
long transfer_clone(const struct object_call *call);
/* On a descriptor that is none of ours. */
long transfer_clone_from(const struct boundary_call *call);

/* On addresses: no descriptor is among their arguments. */
long placement_bind(const struct boundary_call *call);
long placement_move(const struct boundary_call *call);

long status_fstat(const struct object_call *call);
long status_fstatat(const struct object_call *call);
long status_statx(const struct object_call *call);
long status_fstatfs(const struct object_call *call);

long attributes_change(const struct object_call *call);
long attributes_chownat(const struct object_call *call);
long attributes_chmodat(const struct object_call *call);
long attributes_times(const struct object_call *call);
long attributes_old_times(const struct object_call *call);
long attributes_extended_at(const struct object_call *call);
long attributes_file_at(const struct object_call *call);
long attributes_extended(const struct object_call *call);
long attributes_none(const struct object_call *call);
long attributes_handle(const struct object_call *call);

long path_open(const struct boundary_call *call);
long path_open_settle(const struct boundary_call *call, long result);
long path_look(const struct boundary_call *call);
long path_look_settle(const struct boundary_call *call, long result);

long link_change(const struct boundary_call *call);
long link_read(const struct boundary_call *call);
long link_read_settle(const struct boundary_call *call, long result);

long flags_fcntl(const struct object_call *call);
long flags_flock(const struct object_call *call);

#endif
