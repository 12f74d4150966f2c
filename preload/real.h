/* The functions behind the interposed ones: libc's, or those of another preloaded library. */
#ifndef QUIRE_PRELOAD_REAL_H
#define QUIRE_PRELOAD_REAL_H

#include "frontend/file/client_call.h"

#ifndef QUIRE_ENGINE
#define INTERPOSED __attribute__((visibility("default"), used))
/*
 * An entry with arguments that it takes from a list: without the room for those in vector
 * registers, which a handler's stack may not have.
 */
#define SMALL_FRAME __attribute__((target("general-regs-only")))
/* A second name of an interposed function: the types are the same on x86-64. */
#define INTERPOSED_ALIAS(target) __attribute__((visibility("default"), alias(target)))
#else
/* In the engine nothing is interposed: traps call these functions (engine/client_names.h). */
#define INTERPOSED
#define INTERPOSED_ALIAS(target)
#endif
#ifndef __clang__
/* libc declares some names of one function with fewer attributes than others. */
#pragma GCC diagnostic ignored "-Wmissing-attributes"
#endif

/*
 * Looked up at the first call, which may come before our constructor. Two threads that race find
 * the same address.
 */
void *real_lookup(void **slot, const char *name);

#define REAL(name)                                                           \
	({                                                                   \
		static void *slot;                                           \
		(__typeof__(&name))(__atomic_load_n(&slot, __ATOMIC_RELAXED) \
					? slot                               \
					: real_lookup(&slot, #name));        \
	})

/* A kernel-style result as libc gives it. */
long real_result(long result);

#endif
