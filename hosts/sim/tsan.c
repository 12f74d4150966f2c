/*
 * What a compiler calls for each access with -fsanitize=thread, in the place of ThreadSanitizer's
 * runtime. The names and what they take are the compiler's (clang's; gcc has some others).
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "hosts/sim/order_model.h"

/* Everything in this file is called by code, and known by no header. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-declarations"

#define SITE ((uintptr_t)__builtin_return_address(0))

void __tsan_init(void)
{
}

static inline void plain(const void *to, uint32_t size_bytes, bool is_write, uintptr_t site)
{
	if (order_is_on())
		order_race_check_plain(to, size_bytes, is_write, site);
}

#define PLAIN(size)                                 \
	void __tsan_read##size(void *to)            \
	{                                           \
		plain(to, size, false, SITE);       \
	}                                           \
	void __tsan_write##size(void *to)           \
	{                                           \
		plain(to, size, true, SITE);        \
	}                                           \
	void __tsan_unaligned_read##size(void *to)  \
	{                                           \
		plain(to, size, false, SITE);       \
	}                                           \
	void __tsan_unaligned_write##size(void *to) \
	{                                           \
		plain(to, size, true, SITE);        \
	}

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

/* For a copy that clang makes of an assignment. An older one (14) calls memcpy() and memset()
 * themselves, so the model does not look at copies with any compiler. */
void *__tsan_memcpy(void *to, const void *from, size_t size_bytes)
{
	return memcpy(to, from, size_bytes);
}

void *__tsan_memmove(void *to, const void *from, size_t size_bytes)
{
	return memmove(to, from, size_bytes);
}

void *__tsan_memset(void *to, int byte, size_t size_bytes)
{
	return memset(to, byte, size_bytes);
}

static bool acquires(int order)
{
	return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME ||
	       order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static bool releases(int order)
{
	return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

/* @kind: a compare-exchange that fails is a load, at the site of a read-modify-write. */
static struct order_access load_of(const volatile void *to, uint32_t size_bytes, int order,
				   enum order_kind kind, uintptr_t site)
{
	const struct order_access access = {.to = (void *)(uintptr_t)to,
					    .size_bytes = size_bytes,
					    .site = site,
					    .acquires = acquires(order)};

	return order_noted(access, kind);
}

static struct order_access store_to(volatile void *to, uint32_t size_bytes, int order,
				    uintptr_t site)
{
	const struct order_access access = {.to = (void *)(uintptr_t)to,
					    .size_bytes = size_bytes,
					    .site = site,
					    .releases = releases(order),
					    .is_write = true};

	return order_noted(access, ORDER_RELEASE);
}

static struct order_access change_of(volatile void *to, uint32_t size_bytes, int order,
				     uintptr_t site)
{
	const struct order_access access = {.to = (void *)(uintptr_t)to,
					    .size_bytes = size_bytes,
					    .site = site,
					    .acquires = acquires(order),
					    .releases = releases(order),
					    .is_full = order == __ATOMIC_SEQ_CST,
					    .is_write = true};

	return order_noted(access, ORDER_RMW);
}

static uint64_t load(struct order_access access)
{
	return order_load(&access);
}

static void store(struct order_access access, uint64_t value)
{
	order_store(&access, value);
}

static void change(struct order_access access, uint64_t value)
{
	order_rmw(&access, value);
}

static void change_failed(struct order_access access)
{
	order_rmw_failed(&access);
}

/*
 * One that adds, takes away, ...: @new is made of @old and @v. Where the model is off, as in a
 * check of what no thread changes, there is no site either.
 */
#define CHANGE(T, bits, name, new)                                               \
	T __tsan_atomic##bits##_##name(volatile T *to, T v, int order)           \
	{                                                                        \
		T old = *to;                                                     \
                                                                                 \
		if (order_is_on())                                               \
			change(change_of(to, sizeof(T), order, SITE), (T)(new)); \
		*to = (T)(new);                                                  \
		return old;                                                      \
	}

#define ATOMIC(T, bits)                                                                            \
	T __tsan_atomic##bits##_load(const volatile T *to, int order)                              \
	{                                                                                          \
		return order_is_on() ? (T)load(load_of(to, sizeof(T), order, ORDER_ACQUIRE, SITE)) \
				     : *to;                                                        \
	}                                                                                          \
	void __tsan_atomic##bits##_store(volatile T *to, T v, int order)                           \
	{                                                                                          \
		if (order_is_on())                                                                 \
			store(store_to(to, sizeof(T), order, SITE), v);                            \
		*to = v;                                                                           \
	}                                                                                          \
	CHANGE(T, bits, exchange, v)                                                               \
	CHANGE(T, bits, fetch_add, old + v)                                                        \
	CHANGE(T, bits, fetch_sub, old - v)                                                        \
	CHANGE(T, bits, fetch_or, old | v)                                                         \
	CHANGE(T, bits, fetch_and, old &v)                                                         \
	/* Returns what was there. */                                                              \
	T __tsan_atomic##bits##_compare_exchange_val(volatile T *to, T expected, T v, int order,   \
						     int failed)                                   \
	{                                                                                          \
		T old = *to;                                                                       \
                                                                                                   \
		if (order_is_on() && old == expected)                                              \
			change(change_of(to, sizeof(T), order, SITE), v);                          \
		else if (order_is_on())                                                            \
			change_failed(load_of(to, sizeof(T), failed, ORDER_RMW, SITE));            \
		if (old == expected)                                                               \
			*to = v;                                                                   \
		return old;                                                                        \
	}

ATOMIC(uint8_t, 8)
ATOMIC(uint16_t, 16)
ATOMIC(uint32_t, 32)
ATOMIC(uint64_t, 64)

void __tsan_atomic_thread_fence(int order)
{
	(void)order;
	if (order_is_on())
		order_fence(SITE);
}
