/* A thread inside our own code on behalf of a client's call. */
#ifndef QUIRE_FRONTEND_FILE_CLIENT_CALL_H
#define QUIRE_FRONTEND_FILE_CLIENT_CALL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * From begin to end the thread stands where the client expects the kernel to be. Two rules follow:
 * interposed functions called by our own code go straight to libc, and a client's signal handler
 * waits: the signal is delivered when the outermost call ends. Thread cancellation is held off
 * too. Calls nest. errno is kept by client_call_end().
 */
extern _Thread_local uint32_t client_call_depth
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

void client_call_begin(void);
void client_call_end(void);

static inline bool client_call_active(void)
{
	return client_call_depth != 0;
}

#endif
