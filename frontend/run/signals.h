/* Signals and KVM_RUN: a client's handler runs after the call, never inside it. */
#ifndef QUIRE_FRONTEND_RUN_SIGNALS_H
#define QUIRE_FRONTEND_RUN_SIGNALS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct process_runner;
struct quire_vcpu;

/* The doorbell bit that a signal for the running client raises. */
#define RUN_REQ_SIGNAL (UINT64_C(1) << 16)
/* Interrupts, INIT, SIPI, NMI or a changed immediate_exit: look at the frontend's own state. */
#define RUN_REQ_EVENT (UINT64_C(1) << 17)

/*
 * The process was stopped and goes on: KVM_RUN ends with -EINTR then, in every thread. No signal
 * reaches the others, so each vCPU is listed from its creation to its end.
 */
struct run_stop {
	struct quire_vcpu *vcpu;
	const struct process_runner *runner;
	uint32_t due;	       /* atomic: KVM_RUN is to end; set while it runs */
	struct run_stop *next; /* under stops_lock */
};

/*
 * The thread enters KVM_RUN of @stop's vCPU. From here on a signal with a client's handler is
 * recorded, raises RUN_REQ_SIGNAL, and aborts a guarded access; @mask (KVM_SET_SIGNAL_MASK), if not
 * NULL, is the signal mask inside. Thread cancellation is held off.
 */
void run_signals_enter(struct run_stop *stop, const sigset_t *mask);
/* Did a signal arrive that KVM_RUN must return -EINTR for? (Also one that was blocked outside
 * but is let in by the mask, and pthread_cancel() with asynchronous cancellation.) */
bool run_signals_pending(void);
/* The thread leaves KVM_RUN: the old mask is back, recorded signals are delivered now, a held
 * cancellation acts if it is asynchronous, or else at the next cancellation point. */
void run_signals_leave(void);
/*
 * Sleep until run_signals_wake() or a signal: HLT, and waiting for SIPI. Returns at once when the
 * doorbell of @vcpu rings already or a signal is pending.
 */
void run_signals_wait(struct quire_vcpu *vcpu);
/*
 * After quire_vcpu_request() for a vCPU that may sleep in run_signals_wait(): end the sleep. A
 * request without it, as the library's for a flush, is seen when the vCPU runs again. Any thread.
 */
void run_signals_wake(struct quire_vcpu *vcpu);

void run_stop_add(struct run_stop *stop);
void run_stop_remove(struct run_stop *stop);
/*
 * SIGCONT arrived: each KVM_RUN ends. In a signal handler, outside of any client call; inside of
 * one it is heard at once where no lock is in the way, and else at the end of the call.
 */
void run_signals_continued(void);
void run_signals_continued_inside(void);

#endif
