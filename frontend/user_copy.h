/* Copies between us and a client's pointer: a bad one gives -EFAULT, never a crash. */
#ifndef QUIRE_FRONTEND_USER_COPY_H
#define QUIRE_FRONTEND_USER_COPY_H

#include <stddef.h>
#include <stdint.h>

/* 0 or -EFAULT; a failed copy may have moved a prefix. May sleep: hold no lock a vCPU needs. */
int user_copy_in(void *dst, uint64_t src, size_t size_bytes);
int user_copy_out(uint64_t dst, const void *src, size_t size_bytes);

#endif
