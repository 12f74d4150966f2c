/* The threads below the library: how it waits, wakes and finds the running thread. */
#ifndef QUIRE_PLATFORM_H
#define QUIRE_PLATFORM_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A lock of the library that a thread holds: check builds alone. */
struct quire_held_lock {
	const void *lock;
	uint32_t rank;
	uint32_t mode;
};

/*
 * One record a thread, owned by the platform and used by the library for read sections and for
 * the check of lock ranks. Zero-initialised before its first use. The record outlives its thread:
 * the library may look at it at any time, so a platform hands it to another thread later but
 * never frees it.
 */
struct quire_thread {
	QUIRE_CACHE_ALIGNED uint64_t epoch; /* read section: epoch entered with, 0 outside */
	uint32_t nesting;		    /* read sections entered, by the thread itself only */
	uint32_t held_count;		    /* check builds: locks held, in order of acquisition */
	struct quire_held_lock held[16];
	struct quire_thread *next; /* all records, written once when registered */
};

/*
 * The table of the platform. Installed once per process, before any other call of the library;
 * every function may be called from every thread, under any lock, and must not call the library but
 * as said. Only sched_point and report may be NULL.
 */
struct quire_platform {
	/* The record of the running thread; registers it with quire_thread_register() the first
	 * time. Must not fail: a platform reserves the record when the thread starts. */
	struct quire_thread *(*self)(void);
	/* Sleep while *@word == @value, which is compared such that no later wake() is missed; may
	 * wake up for no reason. */
	void (*wait)(const uint32_t *word, uint32_t value);
	/*
	 * Wake up to @count sleepers on @word. Uses the address alone: the memory may have been
	 * freed meanwhile. Never sleeps.
	 */
	void (*wake)(const uint32_t *word, uint32_t count);
	/* One turn of a spin loop: pause, and now and then give the processor away; it must come
	 * back by itself. @turn counts the turns of one loop. */
	void (*relax)(unsigned int turn);
	/* Check builds: called before every atomic operation; NULL elsewhere. */
	void (*sched_point)(const char *what, const void *where);
	/*
	 * One line of diagnosis from an assertion, without a newline; the library goes on after it.
	 */
	void (*report)(const char *text);
};

/*
 * Install @platform, which must live as long as the process. By one thread, before others use the
 * library: it takes no lock and has no barrier.
 */
QUIRE_API void quire_platform_install(const struct quire_platform *platform);

/*
 * In the child of a fork(): the calling thread is the only one. Locks of the library that belong
 * to no VM are made free, and the maps of private frames that were the parent's are forgotten. The
 * parent's VMs, vCPUs and files may not be used here, and not be destroyed. Before any other call
 * of the library in the child; the platform sets epoch, nesting and held_count of the other
 * threads' records to 0 itself, or grace periods would wait for threads that are gone. Takes no
 * lock.
 */
QUIRE_API void quire_platform_forked(void);

/*
 * Make @thread known to every grace period from now on. Called by a platform's self(), once for
 * each record, also if another thread gets it later: with epoch, nesting and held_count 0 then. Any
 * thread, any lock; takes none and never sleeps. A full barrier.
 */
QUIRE_API void quire_thread_register(struct quire_thread *thread);

#ifdef __cplusplus
}
#endif

#endif
