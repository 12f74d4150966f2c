/* Failures of memory, heard of as the kernel finds them. */
#ifndef QUIRE_FRONTEND_OBJECT_FAILURE_H
#define QUIRE_FRONTEND_OBJECT_FAILURE_H

#include <signal.h>

/*
 * From here on a page of this process that fails leaves the guests' tables at once, if the kernel
 * says so: it does of dirty pages, to one thread. Idempotent; without a thread, or in a kernel that
 * finds no failures, a lost page is noticed when it is touched. Inside a client call, no lock held.
 */
void failure_watch_start(void);

/*
 * The news came to a thread of the client's, which asked for them: SIGBUS with BUS_MCEERR_AO. They
 * are the client's as well. In a signal handler.
 */
void failure_pass_on(const siginfo_t *info);
/* The SIGBUS that @kick stands for, which came to a thread of the client's; NULL: none. */
const siginfo_t *failure_forwarded(const siginfo_t *kick);

#endif
