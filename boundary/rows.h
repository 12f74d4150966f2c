/* The table of calls that take a descriptor: one row a system call, one cell a kind of object. */
#ifndef QUIRE_BOUNDARY_ROWS_H
#define QUIRE_BOUNDARY_ROWS_H

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
	struct boundary_cell cells[FILE_KINDS];
	/* On descriptors that are none of ours: a result or OBJECT_FORWARD. NULL: the kernel's. */
	long (*other)(const struct boundary_call *call);
};

#define BOUNDARY_NR_MAX 512

/* Indexed by system call number; fd_arguments is 0 where a call is no row. */
extern const struct boundary_row boundary_rows[BOUNDARY_NR_MAX];

/* Statistics are the only contents that are read. */
long contents_read(const struct object_call *call);
long contents_pread(const struct object_call *call);
long contents_readv(const struct object_call *call);
long contents_preadv(const struct object_call *call);
long contents_seek(const struct object_call *call);

/* What fails anyway, but with EFAULT if the kernel had met a bad pointer before it asked. */
long argument_times(const struct object_call *call);
long argument_send_offset(const struct object_call *call);
long argument_splice_offset(const struct object_call *call);

long device_ioctl(const struct object_call *call);
long device_other_ioctl(const struct boundary_call *call);
long device_allocate(const struct object_call *call);

#endif
