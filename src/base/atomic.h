/* Atomic words with the order in the name; in check builds each is a scheduling point. */
#ifndef QUIRE_BASE_ATOMIC_H
#define QUIRE_BASE_ATOMIC_H

#include "src/base/types.h"

/*
 * Operations work on plain u32/u64/pointer fields, so that a table entry needs no wrapper. The
 * name says the order: relaxed, acquire, release. A read-modify-write whose name says none is
 * sequentially consistent and a full fence as well. atomic_fence() is a full fence; its comment
 * names its partner.
 */
#ifdef QUIRE_SCHED
void base_sched_point(const char *what, const void *where);
#define ATOMIC_POINT(p) base_sched_point(__func__, (p))
/* Between the two no atomic operation is a point: for checks that the guest never waits for. */
void base_sched_pause(void);
void base_sched_resume(void);
#else
#define ATOMIC_POINT(p) ((void)0)
static inline void base_sched_pause(void)
{
}
static inline void base_sched_resume(void)
{
}
#endif

/*
 * A locked instruction of x86 is a full fence. C11 promises less: after its read-modify-write a
 * load of another word may be done before the store is seen, and on arm64 without LSE, RISC-V and
 * POWER it is. So the fence follows. The simulation's memory model takes the two for one.
 */
#if defined(__x86_64__) || defined(QUIRE_SCHED)
#define ATOMIC_FULL() ((void)0)
#else
#define ATOMIC_FULL() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

/* The memory model of the simulation knows a site by its return address: each use has one of its
 * own. */
#define ATOMIC_INLINE static always_inline

/* @old, and the fence of the read-modify-write that it comes from. */
#define ATOMIC_FENCED(T, suffix)                      \
	ATOMIC_INLINE T atomic_fenced_##suffix(T old) \
	{                                             \
		ATOMIC_FULL();                        \
		return old;                           \
	}

#define ATOMIC_WORD(T, suffix)                                                                    \
	ATOMIC_INLINE T atomic_load_relaxed_##suffix(T const *p)                                  \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return __atomic_load_n(p, __ATOMIC_RELAXED);                                      \
	}                                                                                         \
	ATOMIC_INLINE T atomic_load_acquire_##suffix(T const *p)                                  \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                      \
	}                                                                                         \
	ATOMIC_INLINE void atomic_store_relaxed_##suffix(T *p, T v)                               \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		__atomic_store_n(p, v, __ATOMIC_RELAXED);                                         \
	}                                                                                         \
	ATOMIC_INLINE void atomic_store_release_##suffix(T *p, T v)                               \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		__atomic_store_n(p, v, __ATOMIC_RELEASE);                                         \
	}                                                                                         \
	ATOMIC_INLINE T atomic_exchange_##suffix(T *p, T v)                                       \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return atomic_fenced_##suffix(__atomic_exchange_n(p, v, __ATOMIC_SEQ_CST));       \
	}                                                                                         \
	/* True when *@p was *@expected and is @desired now; else *@expected is what it was. */   \
	ATOMIC_INLINE bool atomic_cmpxchg_##suffix(T *p, T *expected, T desired)                  \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return atomic_fenced_bool(__atomic_compare_exchange_n(                            \
		    p, expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));            \
	}                                                                                         \
	/* For locks: to take one, and to give it back. */                                        \
	ATOMIC_INLINE T atomic_exchange_acquire_##suffix(T *p, T v)                               \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return __atomic_exchange_n(p, v, __ATOMIC_ACQUIRE);                               \
	}                                                                                         \
	ATOMIC_INLINE T atomic_exchange_release_##suffix(T *p, T v)                               \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return __atomic_exchange_n(p, v, __ATOMIC_RELEASE);                               \
	}                                                                                         \
	ATOMIC_INLINE bool atomic_cmpxchg_acquire_##suffix(T *p, T *expected, T desired)          \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_ACQUIRE, \
						   __ATOMIC_ACQUIRE);                             \
	}                                                                                         \
	/* The same in one step and no more: nothing is handed over with it. */                   \
	ATOMIC_INLINE bool atomic_cmpxchg_relaxed_##suffix(T *p, T *expected, T desired)          \
	{                                                                                         \
		ATOMIC_POINT(p);                                                                  \
		return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_RELAXED, \
						   __ATOMIC_RELAXED);                             \
	}

#define ATOMIC_ARITHMETIC(T, suffix)                                                       \
	/* Each returns the value before. */                                               \
	ATOMIC_INLINE T atomic_fetch_add_##suffix(T *p, T v)                               \
	{                                                                                  \
		ATOMIC_POINT(p);                                                           \
		return atomic_fenced_##suffix(__atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)); \
	}                                                                                  \
	ATOMIC_INLINE T atomic_fetch_sub_##suffix(T *p, T v)                               \
	{                                                                                  \
		ATOMIC_POINT(p);                                                           \
		return atomic_fenced_##suffix(__atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST)); \
	}                                                                                  \
	ATOMIC_INLINE T atomic_fetch_sub_release_##suffix(T *p, T v)                       \
	{                                                                                  \
		ATOMIC_POINT(p);                                                           \
		return __atomic_fetch_sub(p, v, __ATOMIC_RELEASE);                         \
	}                                                                                  \
	ATOMIC_INLINE T atomic_fetch_or_##suffix(T *p, T v)                                \
	{                                                                                  \
		ATOMIC_POINT(p);                                                           \
		return atomic_fenced_##suffix(__atomic_fetch_or(p, v, __ATOMIC_SEQ_CST));  \
	}                                                                                  \
	ATOMIC_INLINE T atomic_fetch_and_##suffix(T *p, T v)                               \
	{                                                                                  \
		ATOMIC_POINT(p);                                                           \
		return atomic_fenced_##suffix(__atomic_fetch_and(p, v, __ATOMIC_SEQ_CST)); \
	}                                                                                  \
	/* The same in one step and no more: nothing is handed over with it. */            \
	ATOMIC_INLINE T atomic_fetch_or_relaxed_##suffix(T *p, T v)                        \
	{                                                                                  \
		ATOMIC_POINT(p);                                                           \
		return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);                          \
	}                                                                                  \
	/* For statistics: no order at all. */                                             \
	ATOMIC_INLINE void atomic_add_relaxed_##suffix(T *p, T v)                          \
	{                                                                                  \
		__atomic_fetch_add(p, v, __ATOMIC_RELAXED);                                \
	}

ATOMIC_FENCED(bool, bool)
ATOMIC_FENCED(void *, ptr)
ATOMIC_FENCED(u8, u8)
ATOMIC_FENCED(u32, u32)
ATOMIC_FENCED(u64, u64)
ATOMIC_WORD(u8, u8)
ATOMIC_WORD(u32, u32)
ATOMIC_WORD(u64, u64)
ATOMIC_ARITHMETIC(u32, u32)
ATOMIC_ARITHMETIC(u64, u64)

/*
 * A word that no other thread writes now, while readers without a lock may look: it must go and
 * come whole, which every aligned word does on our machines, a lane of a vector too. A plain
 * access, for the compiler makes no vectors of atomic ones; ThreadSanitizer gets to see what it
 * amounts to.
 */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define ATOMIC_SOLE_WRITER_TSAN 1
#endif
#endif
static inline u64 sole_writer_load_u64(const u64 *p)
{
#ifdef ATOMIC_SOLE_WRITER_TSAN
	return __atomic_load_n(p, __ATOMIC_RELAXED);
#else
	return *p;
#endif
}

static inline void sole_writer_store_u64(u64 *p, u64 v)
{
#ifdef ATOMIC_SOLE_WRITER_TSAN
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
#else
	*p = v;
#endif
}

/* Pointers of any type: @p points at a pointer field. */
#define atomic_load_relaxed_ptr(p) (ATOMIC_POINT(p), __atomic_load_n((p), __ATOMIC_RELAXED))
#define atomic_load_acquire_ptr(p) (ATOMIC_POINT(p), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define atomic_store_relaxed_ptr(p, v) \
	(ATOMIC_POINT(p), __atomic_store_n((p), (v), __ATOMIC_RELAXED))
#define atomic_store_release_ptr(p, v) \
	(ATOMIC_POINT(p), __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#define atomic_exchange_ptr(p, v) \
	(ATOMIC_POINT(p), atomic_fenced_ptr(__atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)))
#define atomic_cmpxchg_ptr(p, expected, desired)                                           \
	(ATOMIC_POINT(p),                                                                  \
	 atomic_fenced_bool(__atomic_compare_exchange_n((p), (expected), (desired), false, \
							__ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)))
#define atomic_cmpxchg_relaxed_ptr(p, expected, desired)                                 \
	(ATOMIC_POINT(p), __atomic_compare_exchange_n((p), (expected), (desired), false, \
						      __ATOMIC_RELAXED, __ATOMIC_RELAXED))

/* A full fence. */
ATOMIC_INLINE void atomic_fence(void)
{
	ATOMIC_POINT(NULL);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif
