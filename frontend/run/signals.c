/* KVM_RUN and signals: what waits until the call ends, and the sleep of a halted vCPU. */
#include "frontend/run/signals.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <quire/vcpu.h>

#include "frontend/file/client_call.h"
#include "frontend/run/signal_actions.h"
#include "frontend/run/signal_state.h"
#include "hosts/process/fork.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"

/* A sleeping vCPU. On the sleeper's stack, linked while it sleeps, under waiters_lock. */
struct waiter {
	struct quire_vcpu *vcpu;
	volatile uint32_t *word;
	struct waiter *next;
};

static struct process_lock waiters_lock;
static struct waiter *waiters;

/* The sleepers are the parent's threads. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&waiters_lock);
	waiters = NULL;
}
FORK_CHILD(FORK_WAITERS, waiters_lock, fork_child);

static struct process_lock stops_lock;
static struct run_stop *stops;

static void fork_child_stops(void)
{
	(void)process_lock_start_anew(&stops_lock);
	stops = NULL;
}
FORK_CHILD(FORK_STOPS, stops_lock, fork_child_stops);

void run_stop_add(struct run_stop *stop)
{
	process_lock_acquire(&stops_lock);
	stop->next = stops;
	stops = stop;
	process_lock_release(&stops_lock);
}

void run_stop_remove(struct run_stop *stop)
{
	struct run_stop **link = &stops;

	process_lock_acquire(&stops_lock);
	while (*link && *link != stop)
		link = &(*link)->next;
	if (*link)
		*link = stop->next;
	process_lock_release(&stops_lock);
}

static void wake_locked(const struct quire_vcpu *vcpu)
{
	for (struct waiter *waiter = waiters; waiter; waiter = waiter->next) {
		if (waiter->vcpu != vcpu)
			continue;
		__atomic_fetch_add(waiter->word, 1, __ATOMIC_SEQ_CST);
		sys_call(SYS_futex, sys_address(waiter->word), FUTEX_WAKE_PRIVATE, 1);
	}
}

/* With both locks held. */
static void end_runs_locked(void)
{
	for (struct run_stop *stop = stops; stop; stop = stop->next) {
		if (!__atomic_load_n(&stop->runner->tid, __ATOMIC_SEQ_CST))
			continue;
		__atomic_store_n(&stop->due, 1, __ATOMIC_SEQ_CST);
		quire_vcpu_request(stop->vcpu, RUN_REQ_SIGNAL);
		wake_locked(stop->vcpu);
	}
}

void run_signals_continued(void)
{
	if (signal_state.has_continued) {
		signal_state.has_continued = 0;
		return;
	}
	/* The client's handlers wait: one that destroys a vCPU would wait for us. */
	client_call_begin();
	process_lock_acquire(&stops_lock);
	process_lock_acquire(&waiters_lock);
	end_runs_locked();
	process_lock_release(&waiters_lock);
	process_lock_release(&stops_lock);
	client_call_end();
}

/* The call that was interrupted may hold either lock. */
void run_signals_continued_inside(void)
{
	if (!process_lock_try(&stops_lock))
		return;
	if (process_lock_try(&waiters_lock)) {
		end_runs_locked();
		signal_state.has_continued = 1;
		process_lock_release(&waiters_lock);
	}
	process_lock_release(&stops_lock);
}

NOT_INLINE static void nudge_stop(struct signal_state *state)
{
	if (!state->has_nudge_timer)
		return;
	state->has_nudge_timer = 0;
	sys_call(SYS_timer_delete, (uint64_t)state->nudge_timer);
}

/* Send the recorded signal once more, now that the client's handler may run. */
NOT_INLINE static void deliver_recorded(void)
{
	struct signal_state *state = &signal_state;
	siginfo_t info = state->info;
	sigset_t mask = state->resume_mask;

	sigset_t opened = signal_shadow_set(state->opened);

	sigorset(&mask, &mask, &opened);
	state->recorded = 0;
	signal_send_again(&info);
	/* The raw call: pthread_sigmask() is interposed and has its own view of the mask. */
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&mask), 0, 8);
}

static void run_set_cancel(void *state)
{
	pthread_setcancelstate(*(const int *)state, (int *)state);
}

/* libc's function may be a sanitizer's, which takes kilobytes. */
static void set_cancel(int *state)
{
	process_with_room(run_set_cancel, state);
}

void client_call_begin(void)
{
	if (client_call_depth++ == 0) {
		int cancel_state = PTHREAD_CANCEL_DISABLE;

		set_cancel(&cancel_state);
		signal_state.cancel_state = cancel_state;
		if (signal_state.in_doubt)
			signal_call_open();
	}
}

void client_call_end(void)
{
	struct signal_state *state = &signal_state;
	int saved_errno = errno, cancel_state;

	if (client_call_depth > 1) {
		client_call_depth--;
		return;
	}
	/* A handler that runs below may make calls, too, and those find cancellation off. */
	cancel_state = state->cancel_state;
	/* From the next line on a signal finds its handler by itself. */
	*(volatile uint32_t *)&client_call_depth = 0;
	nudge_stop(state);
	if (state->recorded) {
		deliver_recorded();
		/* One that the client blocks now is heard again when it comes. */
		state->has_continued = 0;
	}
	if (state->opened | state->held)
		signal_call_close();
	state->cancel_state = cancel_state;
	/* libc up to 2.36 forgets the thread's result when it acts on a late cancellation. */
	if (signal_state_cancel_is_due(state))
		pthread_exit(PTHREAD_CANCELED);
	set_cancel(&cancel_state);
	errno = saved_errno;
}

/*
 * A fork is a call of the client's: its handlers wait until the parent is back, and the forking
 * thread holds no lock meanwhile. What arrived is the parent's to handle, and so is the timer.
 */
static void fork_signals_child(void)
{
	struct signal_state *state = &signal_state;

	state->has_nudge_timer = 0;
	if (state->recorded)
		sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&state->resume_mask), 0, 8);
	state->recorded = 0;
	client_call_end();
}

static const struct fork_entry fork_signals
    __attribute__((section("quire_fork"), used)) = {.rank = FORK_SIGNALS,
						    .before = client_call_begin,
						    .parent = client_call_end,
						    .child = fork_signals_child};

/* What is blocked outside and not inside ends KVM_RUN, and stays pending, whatever its action. */
static void take_defaults(const sigset_t *outer, const sigset_t *inner)
{
	sigset_t let_in;

	sigemptyset(&let_in);
	for (int signal = 1; signal < NSIG; signal++)
		if (sigismember(outer, signal) == 1 && sigismember(inner, signal) == 0)
			sigaddset(&let_in, signal);
	if (!sigisemptyset(&let_in))
		signal_defaults_take(&let_in);
}

void run_signals_enter(struct run_stop *stop, const sigset_t *mask)
{
	struct signal_state *state = &signal_state;
	sigset_t inner, outer;

	client_call_begin();
	state->vcpu = stop->vcpu;
	state->stop = stop;
	state->has_outer_mask = 0;
	if (!mask)
		return;
	inner = *mask;
	signal_set_strip(&inner);
	if (state->recorded) {
		/* Already on the way out; everything stays blocked until the end. */
		return;
	}
	sigemptyset(&outer);
	/* The mask outside is known before a signal can arrive under the new one. */
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, sys_address(&outer), 8);
	if (state->recorded)
		return;
	take_defaults(&outer, &inner);
	if (state->recorded)
		return;
	state->outer_mask = outer;
	state->has_outer_mask = 1;
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&inner), 0, 8);
}

bool run_signals_pending(void)
{
	const struct run_stop *stop = signal_state.stop;

	return signal_state_pending(&signal_state) ||
	       (stop && __atomic_load_n(&stop->due, __ATOMIC_SEQ_CST));
}

void run_signals_leave(void)
{
	struct signal_state *state = &signal_state;

	if (state->has_outer_mask) {
		sigset_t all, before;

		/* With everything blocked no signal can be recorded between look and act. */
		sigfillset(&all);
		signal_set_strip(&all);
		sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&all), sys_address(&before),
			 8);
		if (state->recorded)
			state->resume_mask = state->outer_mask;
		else
			sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&state->outer_mask),
				 0, 8);
		state->has_outer_mask = 0;
	}
	if (__atomic_load_n(&state->stop->due, __ATOMIC_RELAXED))
		__atomic_store_n(&state->stop->due, 0, __ATOMIC_RELAXED);
	state->vcpu = NULL;
	state->stop = NULL;
	client_call_end();
}

static void waiter_remove(struct waiter *waiter)
{
	struct waiter **link = &waiters;

	process_lock_acquire(&waiters_lock);
	while (*link != waiter)
		link = &(*link)->next;
	*link = waiter->next;
	process_lock_release(&waiters_lock);
}

/*
 * The sleeper is listed before it looks, and what rings or records something changes the word after
 * that: so the kernel refuses the sleep, or ends it.
 */
void run_signals_wait(struct quire_vcpu *vcpu)
{
	struct signal_state *state = &signal_state;
	const uint64_t *doorbell = quire_vcpu_doorbell(vcpu);
	struct waiter self = {.vcpu = vcpu, .word = &state->wake_word};

	process_lock_acquire(&waiters_lock);
	self.next = waiters;
	waiters = &self;
	process_lock_release(&waiters_lock);
	for (;;) {
		uint32_t word = __atomic_load_n(&state->wake_word, __ATOMIC_SEQ_CST);

		if (__atomic_load_n(doorbell, __ATOMIC_SEQ_CST) || run_signals_pending())
			break;
		sys_call(SYS_futex, sys_address(&state->wake_word), FUTEX_WAIT_PRIVATE, word, 0);
	}
	waiter_remove(&self);
}

void run_signals_wake(struct quire_vcpu *vcpu)
{
	process_lock_acquire(&waiters_lock);
	wake_locked(vcpu);
	process_lock_release(&waiters_lock);
}
