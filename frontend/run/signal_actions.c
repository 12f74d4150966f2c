/*
 * The client's signal actions, and the one handler that stands in front of all of them.
 *
 * Every handler of the client is installed in the kernel as on_signal() with the client's flags
 * and mask. on_signal() runs the client's function at once, unless the thread is inside one of our
 * calls: then the signal waits for the end of the call (client_call_end()). Actions without a
 * function (default, ignore) are the kernel's own, but for SIGSEGV and SIGBUS, which our guarded
 * accesses need first, and for those that KVM_SET_SIGNAL_MASK lets into KVM_RUN.
 */
#include "frontend/run/signal_actions.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <quire/vcpu.h>

#include "frontend/file/client_call.h"
#include "frontend/object/failure.h"
#include "frontend/run/signal_state.h"
#include "frontend/run/signals.h"
#include "hosts/process/fork.h"
#include "hosts/process/guard.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "sanitize/private.h"

#define SIGNALS 65
#define KERNEL_SET_BYTES 8
#define NUDGE_NS 1000000

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/*
 * What the client asked for. Written under actions_lock with all signals blocked; read by
 * handlers, which must not lock. The sequence counts the writes, and its lowest bit names the copy
 * that is whole: the child of a fork finds one even where a writer was interrupted.
 */
struct client_action {
	atomic_uint sequence;
	struct sigaction copies[2];
};

static struct client_action client_actions[SIGNALS];
static struct process_lock actions_lock;

_Thread_local struct signal_state signal_state __attribute__((tls_model("initial-exec")));
_Thread_local uint32_t client_call_depth __attribute__((tls_model("initial-exec")));

/* Grows with every change of an action in the kernel. */
static atomic_uint actions_turn;

/* Set once we stand in front; before, every call is libc's. */
static atomic_int active;

/* Not NULL: SIGSYS is ours, from before that on (signal_trap_take()). Written once. */
static signal_trap_fn trap_taken;

static void on_signal(int signal, siginfo_t *info, void *context);

static void fork_child(void)
{
	(void)process_lock_start_anew(&actions_lock);
}
FORK_CHILD(FORK_ACTIONS, actions_lock, fork_child);

bool signal_actions_active(void)
{
	return atomic_load_explicit(&active, memory_order_acquire);
}

static struct sigaction action_read(int signal)
{
	struct client_action *slot = &client_actions[signal];
	struct sigaction copy;
	unsigned int before;

	do {
		before = atomic_load_explicit(&slot->sequence, memory_order_acquire);
		copy = slot->copies[before & 1];
		atomic_thread_fence(memory_order_acquire);
	} while (atomic_load_explicit(&slot->sequence, memory_order_relaxed) != before);
	return copy;
}

/* What a handler's call needs of its action: a copy of the whole has no room on a small stack. */
struct calling {
	void *function;
	int flags;
};

static struct calling action_peek(int signal)
{
	struct client_action *slot = &client_actions[signal];
	struct calling calling;
	unsigned int before;

	do {
		const struct sigaction *copy;

		before = atomic_load_explicit(&slot->sequence, memory_order_acquire);
		copy = &slot->copies[before & 1];
		calling = (struct calling){(void *)(uintptr_t)copy->sa_handler, copy->sa_flags};
		atomic_thread_fence(memory_order_acquire);
	} while (atomic_load_explicit(&slot->sequence, memory_order_relaxed) != before);
	return calling;
}

static bool calls_function(const struct calling *calling)
{
	return calling->function != (void *)(uintptr_t)SIG_DFL &&
	       calling->function != (void *)(uintptr_t)SIG_IGN;
}

static void action_write(int signal, const struct sigaction *action)
{
	struct client_action *slot = &client_actions[signal];
	unsigned int sequence = atomic_load_explicit(&slot->sequence, memory_order_relaxed);

	/* Pairs with the fence of action_read(): the last sequence is seen before this copy. */
	atomic_thread_fence(memory_order_release);
	slot->copies[(sequence + 1) & 1] = *action;
	atomic_store_explicit(&slot->sequence, sequence + 1, memory_order_release);
}

static bool is_always_ours(int signal)
{
	return signal == SIGSEGV || signal == SIGBUS;
}

/* Set with the first vCPU: SIGCONT ends KVM_RUN. */
static atomic_int wants_continue;

bool signal_trap_is_taken(void)
{
	return trap_taken != NULL;
}

/* Is this the signal of a trapped system call, which must reach us at any moment? */
static bool is_trap(int signal)
{
	return signal == SIGSYS && trap_taken;
}

/* Does this signal come to us where the client has no function for it? */
static bool is_taken(int signal)
{
	return is_always_ours(signal) || is_trap(signal) ||
	       (signal == SIGCONT && atomic_load(&wants_continue));
}

static bool has_function(const struct sigaction *action)
{
	return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

/* Faults of the running instruction cannot wait: the instruction would only raise them again. */
static bool is_synchronous(int signal, const siginfo_t *info)
{
	switch (signal) {
	case SIGBUS:
		return signal_bus_is_fault(info);
	case SIGSEGV:
	case SIGILL:
	case SIGFPE:
	case SIGTRAP:
	case SIGSYS:
		return info->si_code > 0;
	default:
		return false;
	}
}

/*
 * A signal that finds the thread a moment before a guarded access would let it block there for
 * ever; so kick it again and again until its call ends.
 */
static void nudge_start(struct signal_state *state)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID};
	struct itimerspec often = {.it_value.tv_nsec = NUDGE_NS, .it_interval.tv_nsec = NUDGE_NS};

	event.sigev_signo = process_kick_signal();
	event.sigev_notify_thread_id = (int)sys_call(SYS_gettid, 0);
	if (sys_call(SYS_timer_create, CLOCK_MONOTONIC, sys_address(&event),
		     sys_address(&state->nudge_timer)))
		return;
	state->has_nudge_timer = 1;
	sys_call(SYS_timer_settime, (uint64_t)state->nudge_timer, 0, sys_address(&often));
}

/* The mask until the end of a call that a signal has found. What is let through may come in it. */
static uint64_t closed_mask(void)
{
	const int let_through[] = {SIGILL, SIGFPE, SIGTRAP, SIGSYS};
	uint64_t open = signal_shadow_word(SHADOW_SEGV | SHADOW_BUS | SHADOW_KICK);

	for (unsigned int i = 0; i < sizeof(let_through) / sizeof(let_through[0]); i++)
		open |= UINT64_C(1) << (let_through[i] - 1);
	return ~open;
}

/*
 * Keep the signal for the end of the call, and everything after it in the kernel.
 *
 * The kernel begins the handlers of several signals that wait before the first of them runs, one on
 * top of the other, and a fault's handler that a signal has interrupted lets signals in again. So
 * each signal closes the mask that its own frame puts back. The last one to get here is the
 * outermost, whose mask is the client's, and those that find one recorded wait in the kernel.
 */
NOT_INLINE static void signal_record(int signal, const siginfo_t *info, ucontext_t *context)
{
	struct signal_state *state = &signal_state;
	uint64_t *mask = (uint64_t *)(void *)&context->uc_sigmask, closed = closed_mask();

	/* From here on none comes in between, and one that is sent again waits. */
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&closed), 0, KERNEL_SET_BYTES);
	if (!state->recorded || *mask != closed)
		state->resume_mask = context->uc_sigmask;
	*mask = closed;
	if (!state->recorded)
		state->info = *info;
	else if (closed >> (signal - 1) & 1)
		signal_send_again(info);
	state->recorded = 1;
	__atomic_fetch_add(&state->wake_word, 1, __ATOMIC_SEQ_CST);
	if (state->vcpu)
		quire_vcpu_request(state->vcpu, RUN_REQ_SIGNAL);
	if (signal == SIGCONT)
		run_signals_continued_inside();
	guard_handle_signal(process_kick_signal(), info, context);
	if (state->vcpu && !state->has_nudge_timer)
		nudge_start(state);
}

/* No function of the client: let the kernel do what it would have done without us. */
NOT_INLINE static void signal_default(int signal, siginfo_t *info, const struct calling *calling)
{
	struct sigaction kernel_default = {.sa_handler = SIG_DFL};

	if (calling->function == (void *)(uintptr_t)SIG_IGN && !is_synchronous(signal, info))
		return;
	/* Straight to the kernel: the client's action has not changed. */
	client_call_depth++;
	sigaction(signal, &kernel_default, NULL);
	atomic_fetch_add(&actions_turn, 1);
	client_call_depth--;
	/* A fault happens again on return; a signal that was sent, or that a filter of system calls
	 * raised, must be sent again. */
	if (!is_synchronous(signal, info) || signal == SIGSYS)
		signal_send_again(info);
}

static void call_function(const struct calling *calling, int signal, siginfo_t *info, void *context)
{
	if (calling->flags & SA_SIGINFO)
		((void (*)(int, siginfo_t *, void *))(uintptr_t)calling->function)(signal, info,
										   context);
	else
		((void (*)(int))(uintptr_t)calling->function)(signal);
}

/*
 * The mask that the handler finds in its context, and may change, is the one that the client
 * believes in.
 */
NOT_INLINE static void call_with_mask(const struct calling *calling, int signal, siginfo_t *info,
				      ucontext_t *context)
{
	struct signal_state *state = &signal_state;
	uint64_t *mask = (uint64_t *)(void *)&context->uc_sigmask;
	uint32_t hidden = state->hidden_blocked;
	uint32_t added = hidden & ~signal_shadow_of(&context->uc_sigmask);
	uint32_t in_doubt = state->in_doubt;
	uintptr_t stack = state->handler_stack;

	*mask |= signal_shadow_word(added);
	state->in_doubt = 1;
	state->handler_stack = (uintptr_t)__builtin_frame_address(0);
	call_function(calling, signal, info, context);
	/* What the handler let through in its context is let through; the rest is as it was. */
	state->hidden_blocked = hidden & ~(added & ~signal_shadow_of(&context->uc_sigmask));
	*mask &= ~signal_shadow_word(added);
	/* A call inside may have found the doubt unfounded; of what it interrupted, it knows
	 * nothing. */
	state->handler_stack = stack;
	if (in_doubt)
		state->in_doubt = 1;
}

/* The client's function; by its own end back to what was interrupted, for the client's stack may
 * be as small as the kernel takes. */
static void call_handler(const struct calling *calling, int signal, siginfo_t *info, void *context)
{
	struct signal_state *state = &signal_state;

	if (state->hidden_blocked || state->in_doubt) {
		call_with_mask(calling, signal, info, context);
		return;
	}
	state->in_doubt = 1;
	state->handler_stack = (uintptr_t)__builtin_frame_address(0);
	call_function(calling, signal, info, context);
}

static void run_reset(void *opaque)
{
	struct sigaction reset = action_read(*(const int *)opaque);

	/* As in the kernel, what else was asked for stays. */
	reset.sa_handler = SIG_DFL;
	signal_action_change(*(const int *)opaque, &reset, NULL);
}

NOT_INLINE static void reset_action(int signal)
{
	client_call_begin();
	process_with_room(run_reset, &signal);
	client_call_end();
}

/* Does the client believe to block @signal, where the kernel does not? */
static bool is_hidden(int signal)
{
	uint32_t hidden = signal_state.hidden_blocked;

	return hidden && (signal_shadow_word(hidden) >> (signal - 1) & 1);
}

static void signal_deliver(int signal, siginfo_t *info, void *context)
{
	struct calling calling = action_peek(signal);

	if (signal == SIGCONT) {
		run_signals_continued();
		if (!calls_function(&calling))
			return;
	}
	/* A fault whose signal is blocked ends the process, whatever the action. */
	if (!calls_function(&calling) || (is_synchronous(signal, info) && is_hidden(signal))) {
		signal_default(signal, info, &calling);
		return;
	}
	if (calling.flags & SA_RESETHAND)
		reset_action(signal);
	if (info->si_errno == SIGNAL_SENT)
		info->si_errno = 0;
	call_handler(&calling, signal, info, context);
}

/*
 * SIGSEGV or SIGBUS was sent to a thread that the client believes to block it. Inside a call it
 * waits for the end; outside it is really blocked from here on, and pending.
 */
NOT_INLINE static bool hold(int signal, const siginfo_t *info, ucontext_t *context)
{
	struct signal_state *state = &signal_state;
	uint32_t shadow = signal == SIGSEGV ? SHADOW_SEGV : SHADOW_BUS;

	if (!(state->hidden_blocked & shadow))
		return false;
	if (client_call_active()) {
		state->held_info[signal == SIGBUS] = *info;
		state->held |= shadow;
		return true;
	}
	sigaddset(&context->uc_sigmask, signal);
	state->in_doubt = 1;
	signal_send_again(info);
	return true;
}

__attribute__((noinline)) static void on_client_signal(int signal, siginfo_t *info, void *context)
{
	int saved_errno = errno;
	bool is_ours = false;

	if (signal == SIGBUS && info->si_code == BUS_MCEERR_AO)
		failure_pass_on(info);
	if (!is_synchronous(signal, info)) {
		is_ours = is_always_ours(signal) && hold(signal, info, context);
		if (!is_ours && client_call_active()) {
			signal_record(signal, info, context);
			is_ours = true;
		}
	}
	errno = saved_errno;
	if (!is_ours)
		signal_deliver(signal, info, context);
}

/* The guest's faults go no further than this: the frame is small. */
static void on_signal(int signal, siginfo_t *info, void *context)
{
	if (sanitize_is_on(SANITIZE_PRIVATE) && sanitize_private_fault(info, context))
		return;
	if (is_always_ours(signal) && guard_handle_signal(signal, info, context))
		return;
	if (is_trap(signal) && trap_taken(info, context))
		return;
	on_client_signal(signal, info, context);
}

/* Deferred cancellation acts at cancellation points only, and ioctl() is none. */
bool signal_state_cancel_is_due(const struct signal_state *state)
{
	int type;

	if (!state->cancel_asked || state->cancel_state != PTHREAD_CANCEL_ENABLE)
		return false;
	/* There is no call that only asks; cancellation is off, so neither of these acts. */
	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
	pthread_setcanceltype(type, NULL);
	return type == PTHREAD_CANCEL_ASYNCHRONOUS;
}

bool signal_state_pending(const struct signal_state *state)
{
	return state->recorded || signal_state_cancel_is_due(state);
}

/* The kick that says so, told from the others by its value. */
static char cancel_mark;

void signal_thread_cancel(pthread_t thread)
{
	union sigval value = {.sival_ptr = &cancel_mark};

	if (signal_actions_active())
		(void)!pthread_sigqueue(thread, process_kick_signal(), value);
}

static void note_cancel(void)
{
	struct signal_state *state = &signal_state;

	state->cancel_asked = 1;
	__atomic_fetch_add(&state->wake_word, 1, __ATOMIC_SEQ_CST);
	if (!state->vcpu || !signal_state_cancel_is_due(state))
		return;
	quire_vcpu_request(state->vcpu, RUN_REQ_SIGNAL);
	if (!state->has_nudge_timer)
		nudge_start(state);
}

static void on_kick(int signal, siginfo_t *info, void *context)
{
	int saved_errno = errno;

	if (info->si_code == SI_QUEUE && info->si_value.sival_ptr == &cancel_mark)
		note_cancel();
	if (failure_forwarded(info))
		signal_send_again(failure_forwarded(info));
	guard_handle_signal(signal, info, context);
	errno = saved_errno;
}

/* A sanitizer explains faults of the client's in its handlers, too. */
static void keep_faults(int signal, struct sigaction *kernel_action)
{
	if (!sanitize_is_on(SANITIZE_PRIVATE))
		return;
	sigdelset(&kernel_action->sa_mask, SIGSEGV);
	if (signal == SIGSEGV)
		kernel_action->sa_flags |= SA_NODEFER;
}

/*
 * What the kernel is told for the client's @action. Called inside a client call. While the client's
 * function runs, the kernel blocks what the client asked for: so a fault in a handler of faults
 * ends the process, and siglongjmp() finds the mask that it knows.
 */
static int action_install(int signal, const struct sigaction *action)
{
	struct sigaction kernel_action = *action;

	if (is_trap(signal)) {
		/* On the stack of the call: a client's alternate stack may be too small. */
		kernel_action.sa_sigaction = on_signal;
		kernel_action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
		sigemptyset(&kernel_action.sa_mask);
	} else if (has_function(action)) {
		kernel_action.sa_sigaction = on_signal;
		kernel_action.sa_flags = (action->sa_flags | SA_SIGINFO) & ~SA_RESETHAND;
		signal_trap_strip(&kernel_action.sa_mask);
		keep_faults(signal, &kernel_action);
	} else if (is_taken(signal)) {
		kernel_action.sa_sigaction = on_signal;
		kernel_action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART;
		sigemptyset(&kernel_action.sa_mask);
	}
	if (sigaction(signal, &kernel_action, NULL))
		return -errno;
	atomic_fetch_add(&actions_turn, 1);
	return 0;
}

/* The client's present action: the kernel's when it was set behind our back or before us. */
static int action_current(int signal, struct sigaction *current)
{
	struct sigaction kernel_action;

	if (sigaction(signal, NULL, &kernel_action))
		return -errno;
	*current = kernel_action.sa_sigaction == on_signal ? action_read(signal) : kernel_action;
	return 0;
}

static int change_active(int signal, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction current;
	sigset_t all, before;
	int error;

	sigfillset(&all);
	signal_set_strip(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	process_lock_acquire(&actions_lock);
	error = action_current(signal, &current);
	if (!error && act) {
		struct sigaction wanted = *act;

		action_write(signal, &wanted);
		error = action_install(signal, &wanted);
		if (error)
			action_write(signal, &current);
	}
	process_lock_release(&actions_lock);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (!error && old)
		*old = current;
	return error;
}

/* Not ours yet: the kernel's, but for what a trap needs while the handler runs. */
static int change_inactive(int signal, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction wanted;

	if (!act)
		return sigaction(signal, NULL, old) ? -errno : 0;
	wanted = *act;
	signal_trap_strip(&wanted.sa_mask);
	return sigaction(signal, &wanted, old) ? -errno : 0;
}

int signal_action_change(int signal, const struct sigaction *act, struct sigaction *old)
{
	int error;

	if (signal <= 0 || signal >= SIGNALS)
		return -EINVAL;
	client_call_begin();
	if (!signal_actions_active() && !is_trap(signal))
		error = change_inactive(signal, act, old);
	else if (signal == process_kick_signal())
		error = -EINVAL;
	else
		error = change_active(signal, act, old);
	client_call_end();
	return error;
}

/* A parent that ignores SIGCHLD has no zombies: that is the kernel's to do. */
static bool stays_in_kernel(int signal, const struct sigaction *current)
{
	return has_function(current) || (signal == SIGCHLD && current->sa_handler == SIG_IGN);
}

static void default_take_locked(int signal)
{
	struct sigaction ours = {.sa_sigaction = on_signal,
				 .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
	struct sigaction current;

	/* libc refuses those it keeps to itself. */
	if (sigaction(signal, NULL, &current) || stays_in_kernel(signal, &current))
		return;
	action_write(signal, &current);
	(void)!sigaction(signal, &ours, NULL);
}

void signal_defaults_take(const sigset_t *set)
{
	struct signal_state *state = &signal_state;
	uint32_t turn = atomic_load(&actions_turn);
	sigset_t all, before;

	if (state->has_taken && state->taken_turn == turn &&
	    !memcmp(&state->taken, set, KERNEL_SET_BYTES))
		return;
	sigfillset(&all);
	signal_set_strip(&all);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&all), sys_address(&before),
		 KERNEL_SET_BYTES);
	process_lock_acquire(&actions_lock);
	for (int signal = 1; signal < SIGNALS; signal++)
		if (sigismember(set, signal) == 1 && !is_always_ours(signal) &&
		    signal != process_kick_signal())
			default_take_locked(signal);
	process_lock_release(&actions_lock);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&before), 0, KERNEL_SET_BYTES);
	memcpy(&state->taken, set, KERNEL_SET_BYTES);
	state->taken_turn = turn;
	state->has_taken = 1;
}

void signal_continue_take(void)
{
	struct sigaction current;
	sigset_t all, before;

	if (!signal_actions_active() || atomic_exchange(&wants_continue, 1))
		return;
	client_call_begin();
	sigfillset(&all);
	signal_set_strip(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	process_lock_acquire(&actions_lock);
	if (!action_current(SIGCONT, &current)) {
		action_write(SIGCONT, &current);
		(void)!action_install(SIGCONT, &current);
	}
	process_lock_release(&actions_lock);
	sigprocmask(SIG_SETMASK, &before, NULL);
	client_call_end();
}

/* In a vfork() child memory is the parent's: only what the kernel keeps changes here. */
static void exec_change(bool is_begin)
{
	struct sigaction kernel_action, ignore = {.sa_handler = SIG_IGN}, action;

	for (int signal = 1; signal < SIGNALS; signal++) {
		action = action_read(signal);
		if (action.sa_handler != SIG_IGN || sigaction(signal, NULL, &kernel_action))
			continue;
		if (is_begin && kernel_action.sa_sigaction == on_signal)
			sigaction(signal, &ignore, NULL);
		else if (!is_begin && is_taken(signal))
			(void)!action_install(signal, &action);
	}
	signal_mask_show(is_begin ? SIG_BLOCK : SIG_UNBLOCK);
}

void signal_exec_begin(void)
{
	signal_trap_show(SIG_BLOCK);
	if (!signal_actions_active())
		return;
	client_call_begin();
	exec_change(true);
	client_call_end();
}

void signal_exec_failed(void)
{
	signal_trap_show(SIG_UNBLOCK);
	if (!signal_actions_active())
		return;
	client_call_begin();
	exec_change(false);
	client_call_end();
}

/* An action set before we were needed. */
static void take_over(int signal)
{
	struct sigaction inherited;

	if (sigaction(signal, NULL, &inherited))
		return;
	if (!is_always_ours(signal) && !is_trap(signal) && !has_function(&inherited))
		return;
	action_write(signal, &inherited);
	(void)!action_install(signal, &inherited);
}

static void init_once(void)
{
	struct sigaction kick = {.sa_sigaction = on_kick,
				 .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};

	client_call_begin();
	sigfillset(&kick.sa_mask);
	signal_set_strip(&kick.sa_mask);
	sigaction(process_kick_signal(), &kick, NULL);
	atomic_store(&active, 1);
	/* SIGKILL and SIGSTOP refuse, and so do the two that libc keeps. */
	for (int signal = 1; signal < SIGNALS; signal++)
		if (signal != process_kick_signal() && !is_trap(signal))
			take_over(signal);
	client_call_end();
}

int signal_trap_take(signal_trap_fn trap)
{
	struct sigaction now;

	client_call_begin();
	trap_taken = trap;
	take_over(SIGSYS);
	if (sigaction(SIGSYS, NULL, &now) || now.sa_sigaction != on_signal)
		trap_taken = NULL;
	client_call_end();
	return trap_taken ? 0 : -EINVAL;
}

void signal_actions_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_once);
}
