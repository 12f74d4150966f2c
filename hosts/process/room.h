/* Room on the stack, for work of ours in signal handlers and threads that have little. */
#ifndef QUIRE_HOSTS_PROCESS_ROOM_H
#define QUIRE_HOSTS_PROCESS_ROOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The thread's alternate signal stack is [start, start + size_bytes) from now on; 0: none. A client
 * makes it as small as the kernel takes, for its calls cost it none.
 */
void process_room_note(uint64_t start, size_t size_bytes);

/* The running thread has just begun, on a stack of @size_bytes of its own. */
void process_room_note_thread(size_t size_bytes);

/* Does it stand on one of these, with little left? */
bool process_is_cramped(void);

/*
 * Call @run(@argument), on a stack of ours where process_is_cramped(). Signals that come meanwhile
 * find the thread on no alternate stack, so
 * @run must return and no handler of the client's may run in it: call it inside a client call.
 * errno is kept over all but @run.
 */
void process_with_room(void (*run)(void *argument), void *argument);

#endif
