/* What a thread of the client remembers of a signal that arrived inside one of our calls. */
#ifndef QUIRE_FRONTEND_RUN_SIGNAL_STATE_H
#define QUIRE_FRONTEND_RUN_SIGNAL_STATE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct quire_vcpu;
struct run_stop;

/*
 * One signal a call is enough: its arrival blocks all others until the call ends, so they wait in
 * the kernel, in the kernel's order; one that was on its way already is sent again. Written by the
 * thread and by its own signal handler only.
 */
struct signal_state {
	volatile uint32_t recorded;  /* @info waits for the end of the call */
	volatile uint32_t wake_word; /* futex of run_signals_wait(); changes with every wake */
	siginfo_t info;
	sigset_t resume_mask;		 /* the mask to go back to when @info is delivered */
	struct quire_vcpu *vcpu;	 /* inside KVM_RUN: whose doorbell a signal rings */
	struct run_stop *stop;		 /* inside KVM_RUN */
	uint32_t has_outer_mask;	 /* KVM_SET_SIGNAL_MASK is in force */
	sigset_t outer_mask;		 /* the mask outside KVM_RUN */
	volatile uint32_t has_continued; /* the SIGCONT in @info was heard */
	uint32_t has_taken; /* signal_defaults_take() was here with @taken, in @taken_turn */
	uint32_t taken_turn;
	sigset_t taken;
	uint32_t is_prepared;	 /* signal_thread_prepare() was here */
	uint32_t hidden_blocked; /* signals the client believes to be blocked: SHADOW_* */
	uint32_t hides_trap;	 /* the client believes SIGSYS to be blocked */
	/* A handler of the client's may be running, with what our accesses need really blocked. */
	volatile uint32_t in_doubt;
	uintptr_t handler_stack;	/* where that handler began */
	uint32_t opened;		/* SHADOW_*: blocked, but for the call that is running */
	volatile uint32_t held;		/* SHADOW_*: sent while hidden_blocked, inside a call */
	siginfo_t held_info[2];		/* of SIGSEGV and SIGBUS */
	int cancel_state;		/* the client's own, put back when its call ends */
	volatile uint32_t cancel_asked; /* pthread_cancel() of this thread; never taken back */
	int nudge_timer; /* kicks the thread while @recorded, so that no wait outlives it */
	uint32_t has_nudge_timer;
};

/*
 * Work that is seldom done has its frame to itself: a client's handler may have a stack that is as
 * small as the kernel takes, and below it are ours.
 */
#define NOT_INLINE __attribute__((noinline))

enum signal_shadow { SHADOW_SEGV = 1u << 0, SHADOW_BUS = 1u << 1, SHADOW_KICK = 1u << 2 };

extern _Thread_local struct signal_state signal_state
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Was the thread cancelled, and would libc act on that at once but for our holding it off? */
bool signal_state_cancel_is_due(const struct signal_state *state);

/* Does KVM_RUN have to end for a signal or for a cancellation that acts at once? */
bool signal_state_pending(const struct signal_state *state);

/* Which of the signals that our guarded accesses need are in @set. */
uint32_t signal_shadow_of(const sigset_t *set);
/* The set of @shadow; as the kernel has sets, where the stack is short. */
sigset_t signal_shadow_set(uint32_t shadow);
uint64_t signal_shadow_word(uint32_t shadow);

/*
 * At the begin and the end of the outermost client call, when a handler of the client's may be
 * what makes it: let through what the handler blocks and our guarded accesses need.
 */
void signal_call_open(void);
void signal_call_close(void);

/* A signal for the running thread: once more as it came, or as the kernel would have sent it. */
void signal_send_again(const siginfo_t *info);

/* SIG_BLOCK: block what the client believes to block, really. SIG_UNBLOCK: no more. */
void signal_mask_show(int how);

/*
 * In si_errno of a signal that we send as KVM does, until the client's handler gets it. Its code is
 * that of a fault of the running instruction, and it is none.
 */
#define SIGNAL_SENT 0x51554952

/* Is SIGBUS a fault of the running instruction? */
static inline bool signal_bus_is_fault(const siginfo_t *info)
{
	return info->si_code > 0 && info->si_code != BUS_MCEERR_AO && info->si_errno != SIGNAL_SENT;
}

/* Do we stand in front of the client's handlers? */
bool signal_actions_active(void);

/* Is SIGSYS ours (signal_trap_take())? Then it leaves @set: a trap with SIGSYS blocked kills. */
bool signal_trap_is_taken(void);
void signal_trap_strip(sigset_t *set);
/* SIG_BLOCK: block SIGSYS really where the client believes it is. SIG_UNBLOCK: no more. */
void signal_trap_show(int how);

/* Take the signals out of @set that must reach us whatever the client says. */
void signal_set_strip(sigset_t *set);

#endif
