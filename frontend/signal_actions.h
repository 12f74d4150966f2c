/* The client's signal actions and masks, which we stand in front of. */
#ifndef QUIRE_FRONTEND_SIGNAL_ACTIONS_H
#define QUIRE_FRONTEND_SIGNAL_ACTIONS_H

#include <signal.h>

/*
 * Take over SIGSEGV and SIGBUS and install the handler of the kick. Once, before the client's
 * first call into us; the client's inherited actions stay in force.
 */
void signal_actions_init(void);

/* sigaction(2) as the client means it: 0 or -errno. @act and @old may be NULL. */
int signal_action_change(int signal, const struct sigaction *act, struct sigaction *old);

/*
 * sigprocmask(2) for the running thread: 0 or -errno. SIGSEGV, SIGBUS and the kick are never
 * really blocked (our guarded accesses need them); @old reports what the client asked for.
 */
int signal_mask_change(int how, const sigset_t *set, sigset_t *old);

#endif
