/*
 * The gate: system calls that the trapping filter lets pass, since they are made by the engine's
 * own code, at its fixed address. All of them are in one place, engine/gate.c.
 */
#ifndef QUIRE_ENGINE_GATE_H
#define QUIRE_ENGINE_GATE_H

#include <stdint.h>

/*
 * The engine is linked here (engine/meson.build), where no program is: above the allocators and
 * shadows of the sanitizers, below everything that the kernel places by itself.
 */
#define ENGINE_BASE UINT64_C(0x7e9000000000)
/* Code within these bytes of the base is the engine's. */
#define ENGINE_BYTES UINT64_C(0x1000000)

/* Room that a forwarded call takes on the client's stack, the red zone included. */
#define GATE_ROOM_BYTES 192
/* In the room, from its start. */
#define GATE_RETURN 0	 /* where the client goes on */
#define GATE_MASK 16	 /* a mask that the call uses */
#define GATE_MASK_ARG 24 /* pselect6's pointer and size */

/*
 * Make a call of the client's in the client's own context, so that signals, restarts and waits are
 * the kernel's: registers as at the client's instruction, RSP at the room. gate_masked() is the
 * same code for calls whose mask stands in the room.
 */
void gate_forward(void);
void gate_masked(void);
/* The address after the system call of gate_masked(). */
extern const char gate_masked_return[];

/* The restorer of the engine's handlers. */
void gate_signal_return(void);
/* rt_sigreturn from the frame whose ucontext is at @context. */
__attribute__((noreturn)) void gate_resume(const void *context);

/*
 * clone or clone3 whose child starts on a stack of the engine's: the child calls
 * engine_child_start() with the word at the top of it.
 */
long gate_clone(long number, const uint64_t args[6]);

/* The client's first instruction. */
__attribute__((noreturn)) void gate_enter_client(uint64_t stack, uint64_t entry);

#endif
