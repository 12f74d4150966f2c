/* Short integer names, bit helpers and the attributes the library's code uses. */
#ifndef QUIRE_BASE_TYPES_H
#define QUIRE_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <quire/types.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define must_check QUIRE_MUST_CHECK
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define always_inline inline __attribute__((always_inline))
#define cache_aligned _Alignas(64)
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline u64 min_u64(u64 a, u64 b)
{
	return a < b ? a : b;
}

static inline u64 max_u64(u64 a, u64 b)
{
	return a > b ? a : b;
}

/* @align is a power of two. */
static inline u64 round_down_u64(u64 value, u64 align)
{
	return value & ~(align - 1);
}

static inline u64 round_up_u64(u64 value, u64 align)
{
	return round_down_u64(value + align - 1, align);
}

/*
 * How many bits of @value are set. Without the compiler's builtin: where the processor may lack an
 * instruction that is a call, of a function that a freestanding program has not.
 */
static inline u64 bits_set(u64 value)
{
	value -= value >> 1 & UINT64_C(0x5555555555555555);
	value =
	    (value & UINT64_C(0x3333333333333333)) + (value >> 2 & UINT64_C(0x3333333333333333));
	value = (value + (value >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	return value * UINT64_C(0x0101010101010101) >> 56;
}

static inline bool is_aligned_u64(u64 value, u64 align)
{
	return !(value & (align - 1));
}

#endif
