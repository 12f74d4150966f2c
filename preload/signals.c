/* Signal calls: the client's handlers and masks go through frontend/run/signal_actions.h. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "frontend/file/user_copy.h"
#include "frontend/run/signal_actions.h"
#include "frontend/run/signal_state.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "preload/real.h"
#include "preload/signals.h"

int __sigaction(int signal, const struct sigaction *act, struct sigaction *old);
sighandler_t __sysv_signal(int signal, sighandler_t handler);
sighandler_t sysv_signal(int signal, sighandler_t handler);
sighandler_t bsd_signal(int signal, sighandler_t handler);
sighandler_t ssignal(int signal, sighandler_t handler);

INTERPOSED int sigaction(int signal, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction wanted, previous;
	int error;

	if (client_call_active())
		return REAL(sigaction)(signal, act, old);
	if (act && user_peek(&wanted, (uintptr_t)act, sizeof(wanted)))
		return (int)real_result(-EFAULT);
	error = signal_action_change(signal, act ? &wanted : NULL, old ? &previous : NULL);
	/* As in the kernel, the action has changed all the same. */
	if (!error && old)
		error = user_poke((uintptr_t)old, &previous, sizeof(previous));
	return (int)real_result(error);
}
INTERPOSED_ALIAS("sigaction")
int __sigaction(int signal, const struct sigaction *act, struct sigaction *old);

/* What the kernel took: our own work in a handler may need more than is there. */
void signals_note_stack(void)
{
	stack_t now;

	if (sys_call(SYS_sigaltstack, 0, sys_address(&now)))
		return;
	process_room_note(sys_address(now.ss_sp), now.ss_flags & SS_DISABLE ? 0 : now.ss_size);
}

INTERPOSED int sigaltstack(const stack_t *stack, stack_t *old)
{
	int result = REAL(sigaltstack)(stack, old);

	/* It has taken effect, too, where the old one could not be written. */
	if (stack && (!result || errno == EFAULT))
		signals_note_stack();
	return result;
}

static sighandler_t set_handler(int signal, sighandler_t handler, int flags, int blocks_itself)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = flags}, old;
	int error;

	sigemptyset(&act.sa_mask);
	if (blocks_itself)
		sigaddset(&act.sa_mask, signal);
	error = handler == SIG_ERR ? -EINVAL : signal_action_change(signal, &act, &old);
	if (error) {
		errno = -error;
		return SIG_ERR;
	}
	return old.sa_handler;
}

INTERPOSED sighandler_t signal(int signal_number, sighandler_t handler)
{
	return set_handler(signal_number, handler, SA_RESTART, 1);
}
INTERPOSED_ALIAS("signal") sighandler_t bsd_signal(int signal_number, sighandler_t handler);
INTERPOSED_ALIAS("signal") sighandler_t ssignal(int signal_number, sighandler_t handler);

INTERPOSED sighandler_t __sysv_signal(int signal_number, sighandler_t handler)
{
	return set_handler(signal_number, handler, SA_RESETHAND | SA_NODEFER, 0);
}
INTERPOSED_ALIAS("__sysv_signal")
sighandler_t sysv_signal(int signal_number, sighandler_t handler);

/* The kernel's sets, which may be all that a client has room for, are shorter than libc's. */
#define KERNEL_SET_BYTES 8

int signals_change_mask(int how, const sigset_t *set, sigset_t *old)
{
	sigset_t wanted, previous;
	int error;

	sigemptyset(&wanted);
	if (set && user_peek(&wanted, (uintptr_t)set, KERNEL_SET_BYTES))
		return -EFAULT;
	error = signal_mask_change(how, set ? &wanted : NULL, old ? &previous : NULL);
	if (!error && old)
		error = user_poke((uintptr_t)old, &previous, KERNEL_SET_BYTES);
	return error;
}

INTERPOSED int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	if (client_call_active())
		return REAL(pthread_sigmask)(how, set, old);
	return -signals_change_mask(how, set, old);
}

INTERPOSED int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	if (client_call_active())
		return REAL(sigprocmask)(how, set, old);
	return (int)real_result(signals_change_mask(how, set, old));
}

INTERPOSED int pthread_cancel(pthread_t thread)
{
	int error = REAL(pthread_cancel)(thread);

	if (!error)
		signal_thread_cancel(thread);
	return error;
}

INTERPOSED sighandler_t sigset(int signal_number, sighandler_t disposition)
{
	sighandler_t previous;
	sigset_t one, before;
	struct sigaction current;

	sigemptyset(&one);
	if (sigaddset(&one, signal_number))
		return SIG_ERR;
	if (disposition == SIG_HOLD) {
		if (sigprocmask(SIG_BLOCK, &one, &before) ||
		    sigaction(signal_number, NULL, &current))
			return SIG_ERR;
		previous = current.sa_handler;
	} else {
		previous = set_handler(signal_number, disposition, 0, 0);
		if (previous == SIG_ERR || sigprocmask(SIG_UNBLOCK, &one, &before))
			return SIG_ERR;
	}
	return sigismember(&before, signal_number) == 1 ? SIG_HOLD : previous;
}

INTERPOSED int sigignore(int signal_number)
{
	return set_handler(signal_number, SIG_IGN, 0, 0) == SIG_ERR ? -1 : 0;
}

/* The mask of a call that waits: SIGSYS stays open for the handlers that run meanwhile. */
static const sigset_t *open_trap(const sigset_t *mask, sigset_t *copy)
{
	sigemptyset(copy);
	if (!mask || client_call_active() || !signal_trap_is_taken() ||
	    user_peek(copy, (uintptr_t)mask, KERNEL_SET_BYTES))
		return mask;
	signal_trap_strip(copy);
	return copy;
}

INTERPOSED int sigsuspend(const sigset_t *mask)
{
	sigset_t copy;

	return REAL(sigsuspend)(open_trap(mask, &copy));
}

INTERPOSED int ppoll(struct pollfd *polled, nfds_t count, const struct timespec *timeout,
		     const sigset_t *mask)
{
	sigset_t copy;

	return REAL(ppoll)(polled, count, timeout, open_trap(mask, &copy));
}

INTERPOSED int pselect(int count, fd_set *readable, fd_set *writable, fd_set *exceptional,
		       const struct timespec *timeout, const sigset_t *mask)
{
	sigset_t copy;

	return REAL(pselect)(count, readable, writable, exceptional, timeout,
			     open_trap(mask, &copy));
}

INTERPOSED int epoll_pwait(int epoll, struct epoll_event *events, int room, int timeout_ms,
			   const sigset_t *mask)
{
	sigset_t copy;

	return REAL(epoll_pwait)(epoll, events, room, timeout_ms, open_trap(mask, &copy));
}

INTERPOSED int epoll_pwait2(int epoll, struct epoll_event *events, int room,
			    const struct timespec *timeout, const sigset_t *mask)
{
	sigset_t copy;

	return REAL(epoll_pwait2)(epoll, events, room, timeout, open_trap(mask, &copy));
}
