/* The client's signal actions and masks, which we stand in front of. */
#ifndef QUIRE_FRONTEND_RUN_SIGNAL_ACTIONS_H
#define QUIRE_FRONTEND_RUN_SIGNAL_ACTIONS_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

/*
 * From here on we stand in front of the client's handlers; those set before stay in force. Called
 * when the client first opens /dev/kvm: a program that never does is left alone. Idempotent.
 */
void signal_actions_init(void);

/*
 * The running thread is about to make guarded accesses: let the signals through that they need,
 * whatever it inherited. Cheap after the first time.
 */
void signal_thread_prepare(void);

/*
 * A signal of @set without a function of the client ends KVM_RUN too: from here on such a signal
 * comes to us first. Called by a thread that blocks them outside of KVM_RUN and not inside.
 */
void signal_defaults_take(const sigset_t *set);

/*
 * The process is about to execute another program, which inherits what is ignored and blocked: let
 * the kernel know what the client believes. Failed: the old program goes on.
 */
void signal_exec_begin(void);
void signal_exec_failed(void);

/*
 * From here on SIGSYS is ours, whether KVM is opened or not, and really blocked in no thread that
 * asks us. @trap says of one whether it was a trapped system call, and has served it then; others
 * are the client's. 0 or -errno.
 */
typedef bool (*signal_trap_fn)(const siginfo_t *info, void *context);
int signal_trap_take(signal_trap_fn trap);
/* The running thread begins with what its creator believed to be blocked, and SIGSYS open. */
bool signal_trap_is_hidden(void);
void signal_trap_begin(bool is_hidden);

/* From here on SIGCONT comes to us, too: KVM_RUN ends when the process was stopped. */
void signal_continue_take(void);

/* sigaction(2) as the client means it: 0 or -errno. @act and @old may be NULL. */
int signal_action_change(int signal, const struct sigaction *act, struct sigaction *old);

/*
 * pthread_cancel(3) was called for @thread. libc sends no signal to a thread that holds
 * cancellation off, as ours do inside a call: so tell it, and let its KVM_RUN end.
 */
void signal_thread_cancel(pthread_t thread);

/*
 * sigprocmask(2) for the running thread: 0 or -errno. SIGSEGV, SIGBUS and the kick are never
 * really blocked (our guarded accesses need them); @old reports what the client asked for.
 */
int signal_mask_change(int how, const sigset_t *set, sigset_t *old);

#endif
