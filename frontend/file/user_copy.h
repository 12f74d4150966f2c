/* Copies between us and a client's pointer: a bad one gives -EFAULT, never a crash. */
#ifndef QUIRE_FRONTEND_FILE_USER_COPY_H
#define QUIRE_FRONTEND_FILE_USER_COPY_H

#include <stddef.h>
#include <stdint.h>

/*
 * 0 or -EFAULT; a failed copy may have moved a prefix. May sleep: hold no lock a vCPU needs. For
 * calls on KVM's descriptors, whose thread has its signals prepared.
 */
int user_copy_in(void *dst, uint64_t src, size_t size_bytes);
int user_copy_out(uint64_t dst, const void *src, size_t size_bytes);

/*
 * The same for calls that a client may make before it opens /dev/kvm, on any thread, with any
 * signal blocked: the kernel judges the pointer first. A system call a page more.
 */
int user_peek(void *dst, uint64_t src, size_t size_bytes);
/* At least 8 bytes. */
int user_poke(uint64_t dst, const void *src, size_t size_bytes);
/*
 * Copy the string at @src, cut off after @room_bytes - 1 characters; @dst is terminated. Its
 * length, or -EFAULT when a character before the end of the string or of the room cannot be read.
 */
long user_peek_string(char *dst, size_t room_bytes, uint64_t src);

#endif
