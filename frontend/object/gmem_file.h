/* guest_memfd files: a client's descriptor over a struct quire_gmem. */
#ifndef QUIRE_FRONTEND_OBJECT_GMEM_FILE_H
#define QUIRE_FRONTEND_OBJECT_GMEM_FILE_H

#include <quire/gmem.h>

#include "frontend/file/file.h"

struct vm;

extern const struct file_ops gmem_file_ops;

/* Flags that it takes (KVM_CAP_GUEST_MEMFD_FLAGS): those of the library that are switched on. */
uint64_t gmem_file_flags(const struct vm *vm);
/* KVM_CREATE_GUEST_MEMFD: a descriptor without close-on-exec, or -errno. */
long gmem_file_create(struct vm *vm, uint64_t size_bytes, uint64_t flags);
/*
 * KVM_LINK_GUEST_MEMFD: a second file of the guest_memfd at @fd, which is another VM's of this
 * process. A descriptor without close-on-exec, or -errno.
 */
long gmem_file_link(struct vm *vm, int fd);

struct quire_gmem *gmem_file_gmem(const struct file *file);
/* Why @fd is no guest_memfd: -EBADF when nothing is open there, else -EINVAL. */
int gmem_file_lookup_error(int fd);

#endif
