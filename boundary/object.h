/* The object behind a client's descriptor, for as long as one call lasts. */
#ifndef QUIRE_BOUNDARY_OBJECT_H
#define QUIRE_BOUNDARY_OBJECT_H

#include "boundary/call.h"
#include "frontend/file/file.h"

/* One call on one object: what a row's function gets. */
struct object_call {
	const struct boundary_call *call;
	struct file *file;
	int fd; /* the client's descriptor of @file */
};

/*
 * The file behind @fd, inside a client call that client_object_put() ends; NULL, outside of one,
 * when the descriptor is none of ours.
 */
struct file *client_object_get(int fd);
/* The same, and a descriptor of O_PATH leads to the file, too. */
struct file *client_object_get_path(int fd);
/*
 * As client_object_get() for a descriptor that @call names. No system call where the number tells
 * enough: KVM's ioctls on our files, reading and writing others.
 */
struct file *client_object_for(const struct boundary_call *call, int fd);
void client_object_put(struct file *file);

#endif
