/* The client's memory, which may be anywhere: guarded copies. Inside the engine only. */
#ifndef QUIRE_ENGINE_USER_H
#define QUIRE_ENGINE_USER_H

#include <stddef.h>
#include <stdint.h>

/* 0 or -EFAULT; a failed copy may have moved a prefix. */
int user_read(void *dst, uint64_t address, size_t size_bytes);
int user_write(uint64_t address, const void *src, size_t size_bytes);
/* A string with its end: its length, -EFAULT, or -ENAMETOOLONG when it does not fit. */
long user_read_string(char *dst, size_t room_bytes, uint64_t address);

#endif
