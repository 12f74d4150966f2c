/* Trapped calls about signals: the frame that the handler returns by says what is in force then. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "frontend/file/client_call.h"
#include "frontend/file/user_copy.h"
#include "frontend/run/signal_actions.h"
#include "frontend/run/signal_state.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"
#include "preload/signals.h"
#include "preload/trap.h"

#define SET_BYTES 8u
#define SYS_EPOLL_PWAIT2 441

/* struct sigaction as the kernel has it. */
struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

static long kernel_call(const struct trap *trap)
{
	return sys_call_six(trap->call.nr, trap->call.args);
}

/* ---- Masks ---- */

static long change_mask(struct trap *trap)
{
	const unsigned long *args = trap->call.args;
	long error;

	if (args[3] != SET_BYTES)
		return -EINVAL;
	if (client_call_active()) {
		error = kernel_call(trap);
		signal_trap_begin(signal_trap_is_hidden());
	} else {
		error = signals_change_mask((int)args[0], (const sigset_t *)args[1],
					    (sigset_t *)args[2]);
	}
	/* In force when the handler returns, too. */
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, sys_address(&trap->context->uc_sigmask),
		 SET_BYTES);
	return error;
}

/* Calls that wait with a mask: which argument it is, and whether that is a pair of it and its size.
 */
struct masked {
	int nr;
	unsigned int argument;
	bool is_pair;
};

static const struct masked masked_calls[] = {
    {SYS_rt_sigsuspend, 0, false}, {SYS_ppoll, 3, false},   {SYS_epoll_pwait, 4, false},
    {SYS_EPOLL_PWAIT2, 4, false},  {SYS_pselect6, 5, true}, {SYS_io_pgetevents, 5, true},
};

/* SIGSYS stays open, for the handlers that run meanwhile. */
static long call_masked(const struct boundary_call *asked, const struct masked *masked)
{
	struct boundary_call call = *asked;
	uint64_t pair[2], mask;
	unsigned long *argument = &call.args[masked->argument];

	if (masked->is_pair && *argument) {
		if (user_peek(pair, *argument, sizeof(pair)))
			return -EFAULT;
		*argument = sys_address(pair);
		argument = (unsigned long *)&pair[0];
	}
	if (*argument && !user_peek(&mask, *argument, sizeof(mask))) {
		mask &= ~(UINT64_C(1) << (SIGSYS - 1));
		*argument = sys_address(&mask);
	}
	return sys_call_six(call.nr, call.args);
}

/* ---- Actions ---- */

/* A signal that libc keeps to itself, or a thread inside a call of ours: the kernel's. */
static long change_kernels(const struct boundary_call *asked, struct kernel_action *action)
{
	struct boundary_call call = *asked;

	if (call.args[1]) {
		action->mask &= ~(UINT64_C(1) << (SIGSYS - 1));
		call.args[1] = sys_address(action);
	}
	return sys_call_six(call.nr, call.args);
}

static long change_action(const struct boundary_call *call)
{
	const unsigned long *args = call->args;
	int signal = (int)args[0];
	struct kernel_action action = {0, 0, 0, 0};
	struct sigaction wanted, old;
	long error;

	if (args[3] != SET_BYTES)
		return -EINVAL;
	if (args[1] && user_peek(&action, args[1], sizeof(action)))
		return -EFAULT;
	if (client_call_active() || signal == SIGRTMIN - 1 || signal == SIGRTMIN - 2 ||
	    (!signal_actions_active() && signal != SIGSYS))
		return change_kernels(call, &action);
	memset(&wanted, 0, sizeof(wanted));
	wanted.sa_handler = (sighandler_t)action.handler;
	wanted.sa_flags = (int)action.flags;
	wanted.sa_restorer = (void (*)(void))action.restorer;
	memcpy(&wanted.sa_mask, &action.mask, SET_BYTES);
	error = signal_action_change(signal, args[1] ? &wanted : NULL, args[2] ? &old : NULL);
	if (error || !args[2])
		return error;
	action.handler = (uint64_t)(uintptr_t)old.sa_handler;
	action.flags = (unsigned int)old.sa_flags;
	action.restorer = (uint64_t)(uintptr_t)old.sa_restorer;
	memcpy(&action.mask, &old.sa_mask, SET_BYTES);
	return user_poke(args[2], &action, sizeof(action));
}

bool trap_serve_actions(const struct boundary_call *call, long *result)
{
	if (call->nr == SYS_rt_sigaction) {
		*result = change_action(call);
		return true;
	}
	for (size_t i = 0; i < sizeof(masked_calls) / sizeof(masked_calls[0]); i++) {
		if (masked_calls[i].nr != call->nr)
			continue;
		*result = call_masked(call, &masked_calls[i]);
		return true;
	}
	return false;
}

/* ---- Stacks and frames ---- */

static long change_stack(const struct trap *trap)
{
	long error = kernel_call(trap);

	/* A place for the old one that cannot be written is found when the new one is in force. */
	if (!trap->call.args[0] || (error && error != -EFAULT))
		return error;
	/* The return from the handler sets the frame's again. */
	sys_call(SYS_sigaltstack, 0, sys_address(&trap->context->uc_stack));
	signals_note_stack();
	return error;
}

uint64_t trap_restorer(void)
{
	struct kernel_action action;

	/* Ours was installed by libc. */
	if (sys_call(SYS_rt_sigaction, SIGSYS, 0, sys_address(&action), SET_BYTES))
		return 0;
	return action.restorer;
}

/* libc's own, where the kernel lets it pass: the client's frame stays. */
static long return_from_signal(struct trap *trap)
{
	trap->context->uc_mcontext.gregs[REG_RIP] = (greg_t)trap_restorer();
	return TRAP_GOES_ON;
}

bool trap_serve_signals(struct trap *trap, long *result)
{
	switch (trap->call.nr) {
	case SYS_rt_sigprocmask:
		*result = change_mask(trap);
		return true;
	case SYS_sigaltstack:
		*result = change_stack(trap);
		return true;
	case SYS_rt_sigreturn:
		*result = return_from_signal(trap);
		return true;
	default:
		return trap_serve_actions(&trap->call, result);
	}
}
