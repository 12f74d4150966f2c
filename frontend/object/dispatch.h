/* The shape of every ioctl: one table a kind of file, one dispatcher for all. */
#ifndef QUIRE_FRONTEND_OBJECT_DISPATCH_H
#define QUIRE_FRONTEND_OBJECT_DISPATCH_H

#include <stddef.h>
#include <stdint.h>

#include "frontend/file/file.h"

/* Largest argument that the dispatcher copies itself. */
#define DISPATCH_MAX_BYTES 4096u

/* One call under way. */
struct ioctl_call {
	struct file *file;
	void *object;	   /* file_object(file) */
	uint64_t argument; /* as passed: a value, or the client's pointer */
	uint32_t command;
	void *data; /* the argument's copy, 64-byte aligned; size from the command */
};

/* Which way the argument's fixed part is copied. The command's own direction bits lie for some. */
enum ioctl_copy {
	IOCTL_VALUE, /* the argument is a number, or the handler copies */
	IOCTL_IN,
	IOCTL_OUT,
	IOCTL_IN_OUT,	     /* out on success only */
	IOCTL_IN_OUT_ALWAYS, /* out on failure too */
};

/* One row. @handler returns the call's result or -errno, and has changed nothing when it fails. */
struct ioctl_entry {
	uint32_t command;
	enum ioctl_copy copy;
	long (*handler)(struct ioctl_call *call);
};

struct ioctl_table {
	const struct ioctl_entry *entries;
	size_t count;
	int unknown; /* -errno for a command that is not in the table */
};

/* Find, copy in, perform, copy out. */
long ioctl_dispatch(const struct ioctl_table *table, struct ioctl_call *call);

#endif
