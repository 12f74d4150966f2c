/*
 * The client's signal mask. SIGSEGV, SIGBUS and the kick serve our guarded accesses, so they are
 * let through while the client believes to block them (hidden_blocked).
 *
 * In a handler of the client's the kernel really blocks what the client asked for, these three
 * included: a fault in a handler of faults ends the process, and siglongjmp(), which restores the
 * mask without our knowing, restores the right one. in_doubt says that such a handler may be
 * running; the next client call looks, and opens what it needs for as long as it lasts.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "frontend/file/client_call.h"
#include "frontend/run/signal_actions.h"
#include "frontend/run/signal_state.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define KERNEL_SET_BYTES 8
/* How far below its start a handler may have come; farther down it is taken to have ended. */
#define HANDLER_STACK_BYTES (64u << 10)

static const struct {
	uint32_t shadow;
	int signal; /* 0: the kick */
} shadows[] = {{SHADOW_SEGV, SIGSEGV}, {SHADOW_BUS, SIGBUS}, {SHADOW_KICK, 0}};
#define SHADOWS (sizeof(shadows) / sizeof(shadows[0]))

static int shadow_signal(unsigned int at)
{
	return shadows[at].signal ? shadows[at].signal : process_kick_signal();
}

uint32_t signal_shadow_of(const sigset_t *set)
{
	uint32_t shadow = 0;

	for (unsigned int i = 0; i < SHADOWS; i++)
		if (sigismember(set, shadow_signal(i)) == 1)
			shadow |= shadows[i].shadow;
	return shadow;
}

uint64_t signal_shadow_word(uint32_t shadow)
{
	uint64_t word = 0;

	for (unsigned int i = 0; i < SHADOWS; i++)
		if (shadow & shadows[i].shadow)
			word |= UINT64_C(1) << (shadow_signal(i) - 1);
	return word;
}

sigset_t signal_shadow_set(uint32_t shadow)
{
	sigset_t set;

	sigemptyset(&set);
	*(uint64_t *)(void *)&set = signal_shadow_word(shadow);
	return set;
}

void signal_trap_strip(sigset_t *set)
{
	if (signal_trap_is_taken())
		sigdelset(set, SIGSYS);
}

/* A sanitizer's libc makes calls of its own, which are trapped, inside calls of ours too. */
void signal_set_strip(sigset_t *set)
{
	for (unsigned int i = 0; i < SHADOWS; i++)
		sigdelset(set, shadow_signal(i));
	signal_trap_strip(set);
}

/* The raw call: pthread_sigmask() is interposed, and libc keeps signals out of a set. */
static long kernel_mask(int how, const sigset_t *set, sigset_t *old)
{
	if (old)
		sigemptyset(old);
	return sys_call(SYS_rt_sigprocmask, (uint64_t)how, sys_address(set), sys_address(old),
			KERNEL_SET_BYTES);
}

static void block_trap(int how)
{
	sigset_t trap;

	sigemptyset(&trap);
	sigaddset(&trap, SIGSYS);
	kernel_mask(how, &trap, NULL);
}

void signal_trap_show(int how)
{
	if (signal_state.hides_trap)
		block_trap(how);
}

bool signal_trap_is_hidden(void)
{
	return signal_state.hides_trap != 0;
}

void signal_trap_begin(bool is_hidden)
{
	sigset_t now;

	kernel_mask(SIG_BLOCK, NULL, &now);
	signal_state.hides_trap = is_hidden || sigismember(&now, SIGSYS) == 1;
	if (sigismember(&now, SIGSYS) == 1)
		block_trap(SIG_UNBLOCK);
}

/* SIGSYS in @wanted, the set of a change: remembered, and kept from the kernel. */
static void hide_trap(int how, sigset_t *wanted)
{
	bool asked = sigismember(wanted, SIGSYS) == 1;

	if (!signal_trap_is_taken())
		return;
	if (how == SIG_SETMASK)
		signal_state.hides_trap = asked;
	else if (asked)
		signal_state.hides_trap = how == SIG_BLOCK;
	if (how != SIG_UNBLOCK)
		sigdelset(wanted, SIGSYS);
}

static uint32_t really_blocked(void)
{
	uint64_t now = 0;
	uint32_t shadow = 0;

	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, sys_address(&now), KERNEL_SET_BYTES);
	for (unsigned int i = 0; i < SHADOWS; i++)
		if (now & signal_shadow_word(shadows[i].shadow))
			shadow |= shadows[i].shadow;
	return shadow;
}

static void block_really(int how, uint32_t shadow)
{
	uint64_t set = signal_shadow_word(shadow);

	sys_call(SYS_rt_sigprocmask, (uint64_t)how, sys_address(&set), 0, KERNEL_SET_BYTES);
}

void signal_call_open(void)
{
	struct signal_state *state = &signal_state;

	state->opened = really_blocked();
	if (state->opened)
		block_really(SIG_UNBLOCK, state->opened);
	else
		state->in_doubt = 0;
}

void signal_call_close(void)
{
	struct signal_state *state = &signal_state;
	uint32_t held = state->held;

	if (state->opened | held)
		block_really(SIG_BLOCK, state->opened | held);
	state->opened = 0;
	if (!held)
		return;
	state->held = 0;
	state->in_doubt = 1;
	if (held & SHADOW_SEGV)
		signal_send_again(&state->held_info[0]);
	if (held & SHADOW_BUS)
		signal_send_again(&state->held_info[1]);
}

void signal_send_again(const siginfo_t *info)
{
	sys_call(SYS_rt_tgsigqueueinfo, (uint64_t)sys_call(SYS_getpid, 0),
		 (uint64_t)sys_call(SYS_gettid, 0), (uint64_t)info->si_signo, sys_address(info));
}

/* May a handler of the client's be what calls us? Then masks are the kernel's, and its end ends
 * them. */
static int may_be_in_handler(void)
{
	struct signal_state *state = &signal_state;
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	if (!state->in_doubt)
		return 0;
	if (here < state->handler_stack && state->handler_stack - here < HANDLER_STACK_BYTES)
		return 1;
	if (really_blocked())
		return 1;
	state->in_doubt = 0;
	return 0;
}

/* What the client believes to block once the call is made. */
static uint32_t shadow_after(int how, uint32_t shadow, uint32_t asked)
{
	switch (how) {
	case SIG_BLOCK:
		return shadow | asked;
	case SIG_UNBLOCK:
		return shadow & ~asked;
	default:
		return asked;
	}
}

int signal_mask_change(int how, const sigset_t *set, sigset_t *old)
{
	struct signal_state *state = &signal_state;
	uint32_t shadow = state->hidden_blocked, hides_trap = state->hides_trap;
	sigset_t wanted, before, hidden = signal_shadow_set(shadow);
	long error;

	if (set) {
		wanted = *set;
		hide_trap(how, &wanted);
		if (may_be_in_handler())
			/* What is let through is let through; the rest the kernel blocks. */
			state->hidden_blocked &= shadow_after(how, shadow, signal_shadow_of(set));
		else if (signal_actions_active())
			state->hidden_blocked = shadow_after(how, shadow, signal_shadow_of(set));
		if (signal_actions_active() && !state->in_doubt && how != SIG_UNBLOCK)
			signal_set_strip(&wanted);
	}
	/* Outside of any call of ours: handlers that are let in run now, as the client expects, and
	 * one that was sent while it was hidden finds that it no longer is. */
	error = kernel_mask(how, set ? &wanted : NULL, &before);
	if (error) {
		state->hidden_blocked = shadow;
		state->hides_trap = hides_trap;
		return (int)error;
	}
	if (old)
		sigorset(old, &before, &hidden);
	if (old && hides_trap)
		sigaddset(old, SIGSYS);
	return 0;
}

void signal_mask_show(int how)
{
	block_really(how, signal_state.hidden_blocked);
}

void signal_thread_prepare(void)
{
	struct signal_state *state = &signal_state;

	/* What a handler blocks is opened by the call. */
	if (state->is_prepared || !signal_actions_active() || state->in_doubt)
		return;
	state->hidden_blocked |= really_blocked();
	block_really(SIG_UNBLOCK, SHADOW_SEGV | SHADOW_BUS | SHADOW_KICK);
	state->is_prepared = 1;
}
