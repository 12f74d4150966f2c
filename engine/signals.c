/* The client's signal actions, masks and alternate stacks: what it asked for, and what we do. */
#include "engine/signals.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "engine/client_cpuid.h"
#include "engine/filter.h"
#include "engine/gate.h"
#include "engine/user.h"
#include "frontend/file/client_call.h"
#include "frontend/object/failure.h"
#include "frontend/run/signal_actions.h"
#include "frontend/run/signal_state.h"
#include "frontend/run/signals.h"
#include "hosts/process/guard.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"
#include "sanitize/private.h"

#include <quire/vcpu.h>

#define SET_BYTES sizeof(uint64_t)
#define BIT(signal) (UINT64_C(1) << ((signal)-1))
#define HANDLER_DEFAULT 0u
#define HANDLER_IGNORE 1u
#define FLAG_RESTORER UINT64_C(0x04000000)
/* Faults of the running instruction cannot wait, so the engine's handlers leave them open. */
#define SYNCHRONOUS \
	(BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGILL) | BIT(SIGFPE) | BIT(SIGTRAP) | BIT(SIGSYS))
#define UNMASKABLE (BIT(SIGKILL) | BIT(SIGSTOP))
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif
#define MINIMUM_STACK_BYTES 2048u

_Thread_local struct signal_state signal_state __attribute__((tls_model("initial-exec")));
_Thread_local uint32_t client_call_depth __attribute__((tls_model("initial-exec")));

static signals_trap_fn trap_taken;

/* Signals that come to us although the client has no function for them; never taken back. */
static uint64_t taken;

void signals_set_trap(signals_trap_fn trap)
{
	trap_taken = trap;
}

static uint64_t never_blocked(void)
{
	return BIT(SIGSYS) | BIT(SIGSEGV) | BIT(SIGBUS) | BIT(process_kick_signal());
}

static bool is_ours(int signal)
{
	return (never_blocked() & BIT(signal)) != 0;
}

static bool has_function(const struct kernel_action *action)
{
	return action->handler > HANDLER_IGNORE;
}

uint64_t signals_strip(uint64_t mask)
{
	return mask & ~never_blocked();
}

static uint64_t *frame_mask(ucontext_t *context)
{
	return (uint64_t *)(void *)&context->uc_sigmask;
}

uint64_t signals_mask_get(const struct engine_thread *thread, const ucontext_t *context)
{
	return *frame_mask((ucontext_t *)(uintptr_t)context) | thread->hidden_mask;
}

void signals_mask_set(struct engine_thread *thread, ucontext_t *context, uint64_t mask)
{
	mask &= ~UNMASKABLE;
	thread->hidden_mask = mask & never_blocked();
	*frame_mask(context) = signals_strip(mask);
}

static void mask_install(uint64_t mask)
{
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&mask), 0, SET_BYTES);
}

void signals_let_in(const ucontext_t *context)
{
	mask_install(*frame_mask((ucontext_t *)(uintptr_t)context));
}

void signals_hold_off(void)
{
	mask_install(~SYNCHRONOUS);
}

/* ---- Actions ---- */

static void on_signal(int signal, siginfo_t *info, void *context);

/* What the kernel is told for the client's @action. */
static long action_install(int signal, const struct kernel_action *action)
{
	struct kernel_action ours = {
	    .handler = (uint64_t)(uintptr_t)on_signal,
	    .flags = SA_SIGINFO | SA_ONSTACK | FLAG_RESTORER,
	    .restorer = (uint64_t)(uintptr_t)gate_signal_return,
	    .mask = ~SYNCHRONOUS,
	};

	if (has_function(action))
		ours.flags |= action->flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT);
	else if (!is_ours(signal) && !(__atomic_load_n(&taken, __ATOMIC_RELAXED) & BIT(signal)))
		ours = *action;
	if (SYNCHRONOUS & BIT(signal))
		ours.flags |= SA_NODEFER;
	if (signal == SIGSEGV || signal == SIGBUS || signal == process_kick_signal())
		ours.flags |= SA_RESTART;
	return sys_call(SYS_rt_sigaction, (uint64_t)signal, sys_address(&ours), 0, SET_BYTES);
}

static struct kernel_action action_read(struct engine_thread *thread, int signal)
{
	struct engine_actions *actions = thread->actions;
	struct kernel_action action;

	process_lock_acquire(&actions->lock);
	action = actions->table[signal];
	process_lock_release(&actions->lock);
	return action;
}

static long action_change(struct engine_thread *thread, int signal,
			  const struct kernel_action *action, struct kernel_action *old)
{
	struct engine_actions *actions = thread->actions;
	long error = 0;

	process_lock_acquire(&actions->lock);
	*old = actions->table[signal];
	if (action) {
		struct kernel_action wanted = *action;

		wanted.mask &= ~UNMASKABLE;
		error = action_install(signal, &wanted);
		if (!error)
			actions->table[signal] = wanted;
	}
	process_lock_release(&actions->lock);
	return error;
}

long signals_action(struct engine_thread *thread, const uint64_t args[6])
{
	int signal = (int)args[0];
	struct kernel_action action, old;
	long error;

	if (args[3] != SET_BYTES)
		return -EINVAL;
	if (args[1] && user_read(&action, args[1], sizeof(action)))
		return -EFAULT;
	if (signal < 1 || signal >= ENGINE_SIGNALS ||
	    (args[1] && (signal == SIGKILL || signal == SIGSTOP)))
		return -EINVAL;
	error = action_change(thread, signal, args[1] ? &action : NULL, &old);
	if (!error && args[2] && user_write(args[2], &old, sizeof(old)))
		return -EFAULT;
	return error;
}

void signals_copy_actions(struct engine_thread *child, const struct engine_thread *parent)
{
	process_lock_acquire(&parent->actions->lock);
	memcpy(child->own_actions->table, parent->actions->table,
	       sizeof(child->own_actions->table));
	process_lock_release(&parent->actions->lock);
	memset(&child->own_actions->lock, 0, sizeof(child->own_actions->lock));
	child->actions = child->own_actions;
}

void signals_clear_actions(struct engine_thread *thread)
{
	for (int signal = 1; signal < ENGINE_SIGNALS; signal++) {
		struct kernel_action none = {.handler = HANDLER_DEFAULT}, old;

		if (has_function(&thread->actions->table[signal]))
			action_change(thread, signal, &none, &old);
	}
}

long signals_start(struct engine_thread *thread)
{
	uint64_t inherited = 0;

	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, 0, sys_address(&inherited), SET_BYTES);
	thread->hidden_mask = inherited & never_blocked();
	for (int signal = 1; signal < ENGINE_SIGNALS; signal++) {
		struct kernel_action *action = &thread->actions->table[signal];

		sys_call(SYS_rt_sigaction, (uint64_t)signal, 0, sys_address(action), SET_BYTES);
		if (is_ours(signal) && action_install(signal, action))
			return -EINVAL;
	}
	mask_install(signals_strip(inherited));
	return thread_arm(thread);
}

/* ---- Masks and alternate stacks ---- */

long signals_procmask(struct engine_thread *thread, ucontext_t *context, const uint64_t args[6])
{
	uint64_t before = signals_mask_get(thread, context), set;

	if (args[3] != SET_BYTES)
		return -EINVAL;
	if (args[1]) {
		if (user_read(&set, args[1], SET_BYTES))
			return -EFAULT;
		switch ((int)args[0]) {
		case SIG_BLOCK:
			set = before | set;
			break;
		case SIG_UNBLOCK:
			set = before & ~set;
			break;
		case SIG_SETMASK:
			break;
		default:
			return -EINVAL;
		}
		signals_mask_set(thread, context, set);
	}
	if (args[2] && user_write(args[2], &before, SET_BYTES))
		return -EFAULT;
	return 0;
}

static bool is_on_stack(const struct engine_thread *thread, uint64_t sp)
{
	if ((thread->alt_flags & SS_AUTODISARM) || !thread->alt_bytes)
		return false;
	return sp > thread->alt_base && sp - thread->alt_base <= thread->alt_bytes;
}

static void altstack_get(const struct engine_thread *thread, uint64_t sp, stack_t *stack)
{
	*stack = (stack_t){
	    .ss_sp = (void *)thread->alt_base,
	    .ss_size = thread->alt_bytes,
	    .ss_flags =
		(thread->alt_flags & (int)SS_AUTODISARM) | (!thread->alt_bytes	      ? SS_DISABLE
							    : is_on_stack(thread, sp) ? SS_ONSTACK
										      : 0),
	};
}

static long altstack_set(struct engine_thread *thread, const stack_t *stack)
{
	int mode = stack->ss_flags & ~(int)SS_AUTODISARM;

	if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0)
		return -EINVAL;
	/* What is so already is, even one of no size, which a program begins with. */
	if (thread->alt_base == (uint64_t)stack->ss_sp && thread->alt_bytes == stack->ss_size &&
	    thread->alt_flags == stack->ss_flags)
		return 0;
	if (mode == SS_DISABLE) {
		thread->alt_base = thread->alt_bytes = 0;
	} else {
		if (stack->ss_size < MINIMUM_STACK_BYTES)
			return -ENOMEM;
		thread->alt_base = (uint64_t)stack->ss_sp;
		thread->alt_bytes = stack->ss_size;
	}
	thread->alt_flags = stack->ss_flags & ~(int)SS_ONSTACK;
	return 0;
}

long signals_altstack(struct engine_thread *thread, const ucontext_t *context,
		      const uint64_t args[6])
{
	uint64_t sp = (uint64_t)context->uc_mcontext.gregs[REG_RSP];
	stack_t old, wanted;
	long error = 0;

	if (args[0] && user_read(&wanted, args[0], sizeof(wanted)))
		return -EFAULT;
	altstack_get(thread, sp, &old);
	if (args[0])
		error = is_on_stack(thread, sp) ? -EPERM : altstack_set(thread, &wanted);
	if (!error && args[1] && user_write(args[1], &old, sizeof(old)))
		return -EFAULT;
	return error;
}

/* ---- Frames ---- */

/* What the kernel writes: no longer than this part of glibc's ucontext_t. */
#define CONTEXT_BYTES (offsetof(ucontext_t, uc_sigmask) + SET_BYTES)

struct client_frame {
	uint64_t restorer;
	uint8_t context[CONTEXT_BYTES];
	siginfo_t info;
};

/* Bytes of the floating point state at @state, by what the kernel says in it. */
static size_t state_bytes(const void *state)
{
	uint32_t words[2];

	memcpy(words, (const uint8_t *)state + 464, sizeof(words));
	return words[0] == 0x46505853u ? words[1] : 512;
}

/* The mask that a handler adds to: of the call, where the signal ended a call with its own. */
static uint64_t mask_before(const struct engine_thread *thread, const ucontext_t *context)
{
	const greg_t *registers = context->uc_mcontext.gregs;

	if (registers[REG_RIP] == (greg_t)(uintptr_t)gate_masked_return)
		return *(const uint64_t *)(registers[REG_RSP] + GATE_MASK) | thread->hidden_mask;
	return signals_mask_get(thread, context);
}

static uint64_t frame_place(const struct engine_thread *thread, const struct kernel_action *action,
			    uint64_t sp)
{
	if ((action->flags & SA_ONSTACK) && !(thread->alt_flags & SS_DISABLE) &&
	    thread->alt_bytes && !is_on_stack(thread, sp))
		return thread->alt_base + thread->alt_bytes;
	return sp - 128;
}

/* The client's frame, as the kernel would write it. No stack for it: the process ends by SIGSEGV.
 */
static struct client_frame *frame_write(struct engine_thread *thread,
					const struct kernel_action *action, const siginfo_t *info,
					const ucontext_t *context)
{
	uint64_t sp = (uint64_t)context->uc_mcontext.gregs[REG_RSP];
	uint64_t at = frame_place(thread, action, sp), state = 0;
	size_t bytes = context->uc_mcontext.fpregs ? state_bytes(context->uc_mcontext.fpregs) : 0;
	struct client_frame *frame;
	ucontext_t *copy;
	stack_t stack;

	if (bytes) {
		at = (at - bytes) & ~UINT64_C(63);
		state = at;
		memcpy((void *)state, context->uc_mcontext.fpregs, bytes);
	}
	at = ((at - sizeof(*frame)) & ~UINT64_C(15)) - 8;
	frame = (struct client_frame *)at;
	frame->restorer = action->restorer;
	frame->info = *info;
	if (info->si_errno == SIGNAL_SENT)
		frame->info.si_errno = 0;
	copy = (ucontext_t *)(void *)frame->context;
	memcpy(copy, context, CONTEXT_BYTES);
	copy->uc_mcontext.fpregs = (fpregset_t)state;
	*frame_mask(copy) = signals_mask_get(thread, context);
	altstack_get(thread, sp, &stack);
	/* What was asked for, which the return from the handler asks for again. */
	stack.ss_flags = thread->alt_flags;
	copy->uc_stack = stack;
	return frame;
}

/* @context goes on in the client's handler. */
static void enter_handler(struct engine_thread *thread, int signal,
			  const struct kernel_action *action, ucontext_t *context,
			  struct client_frame *frame)
{
	greg_t *registers = context->uc_mcontext.gregs;
	uint64_t mask = mask_before(thread, context) | action->mask;

	if (!(action->flags & SA_NODEFER))
		mask |= BIT(signal);
	signals_mask_set(thread, context, mask);
	if (thread->alt_flags & SS_AUTODISARM) {
		thread->alt_base = thread->alt_bytes = 0;
		thread->alt_flags = SS_DISABLE;
	}
	registers[REG_RDI] = signal;
	registers[REG_RSI] = (greg_t)&frame->info;
	registers[REG_RDX] = (greg_t)frame->context;
	registers[REG_RAX] = 0;
	registers[REG_RSP] = (greg_t)frame;
	registers[REG_RIP] = (greg_t)action->handler;
	/* Direction, trap and resume flags, as the kernel does; and a fresh floating point unit. */
	registers[REG_EFL] &= ~(greg_t)0x10500;
	context->uc_mcontext.fpregs = NULL;
}

static bool is_fault_of_now(int signal, const siginfo_t *info)
{
	if (signal == SIGBUS)
		return signal_bus_is_fault(info);
	return (SYNCHRONOUS & BIT(signal)) && info->si_code > 0;
}

/* The kernel's default for @signal, once this handler has returned. */
static void take_default(struct engine_thread *thread, int signal, const siginfo_t *info)
{
	struct kernel_action none = {.handler = HANDLER_DEFAULT};
	sys_call(SYS_rt_sigaction, (uint64_t)signal, sys_address(&none), 0, SET_BYTES);
	/* A fault happens again on return; a signal that was sent must be sent again. */
	if (!is_fault_of_now(signal, info))
		sys_call(SYS_rt_tgsigqueueinfo, (uint64_t)sys_call(SYS_getpid, 0),
			 (uint64_t)sys_call(SYS_gettid, 0), (uint64_t)signal, sys_address(info));
	(void)thread;
}

/* Outside of the engine: TLS is the client's, so nothing here may use ours. */
static void deliver(struct engine_thread *thread, int signal, const siginfo_t *info,
		    ucontext_t *context)
{
	struct kernel_action action = action_read(thread, signal);
	bool is_fault = is_fault_of_now(signal, info);
	struct client_frame *frame;

	if (!has_function(&action) || (is_fault && (thread->hidden_mask & BIT(signal)))) {
		if ((action.handler != HANDLER_IGNORE && signal != SIGCONT) || is_fault)
			take_default(thread, signal, info);
		return;
	}
	if (action.flags & SA_RESETHAND) {
		struct kernel_action none = action, old;

		/* As in the kernel, what else was asked for stays. */
		none.handler = HANDLER_DEFAULT;
		action_change(thread, signal, &none, &old);
	}
	thread->depth = 1;
	frame = frame_write(thread, &action, info, context);
	thread->depth = 0;
	enter_handler(thread, signal, &action, context, frame);
}

void signals_return(struct engine_thread *thread, ucontext_t *context)
{
	/*
	 * A bad frame raises SIGSEGV here and ends the process. The kernel sends SIGSEGV, too, but
	 * lets a handler of the client's take it.
	 */
	const void *from = (const void *)context->uc_mcontext.gregs[REG_RSP];
	stack_t ours = context->uc_stack;

	memcpy(context, from, CONTEXT_BYTES);
	altstack_set(thread, &context->uc_stack);
	context->uc_stack = ours;
	signals_mask_set(thread, context, *frame_mask(context));
}

/* ---- Arrival ---- */

/* Keep the signal for the end of the call, and everything after it in the kernel. */
static void record(const siginfo_t *info, ucontext_t *context)
{
	struct signal_state *state = &signal_state;

	if (state->recorded)
		return;
	if (!client_call_active()) {
		/* On the way out, sent again: it waits in the kernel for the return of the trap. */
		*frame_mask(context) = ~SYNCHRONOUS | BIT(info->si_signo);
		mask_install(*frame_mask(context));
		signal_send_again(info);
		return;
	}
	state->info = *info;
	memcpy(&state->resume_mask, &context->uc_sigmask, SET_BYTES);
	state->recorded = 1;
	*frame_mask(context) = ~SYNCHRONOUS;
	__atomic_fetch_add(&state->wake_word, 1, __ATOMIC_SEQ_CST);
	if (state->vcpu)
		quire_vcpu_request(state->vcpu, RUN_REQ_SIGNAL);
	guard_handle_signal(process_kick_signal(), info, context);
}

/* Inside the engine, or on a thread of the engine's own: TLS is ours. */
static void arrive_inside(struct engine_thread *thread, int signal, const siginfo_t *info,
			  ucontext_t *context)
{
	struct kernel_action none = {.handler = HANDLER_DEFAULT};

	if (signal == SIGSEGV || signal == SIGBUS || signal == process_kick_signal()) {
		if (guard_handle_signal(signal, info, context) || signal == process_kick_signal() ||
		    cpuid_answer_inside(info, context))
			return;
	}
	if (is_fault_of_now(signal, info)) {
		/* A fault of the engine's: it happens again, and ends the process. */
		sys_call(SYS_rt_sigaction, (uint64_t)signal, sys_address(&none), 0, SET_BYTES);
		return;
	}
	if (thread)
		record(info, context);
}

/* A fault of the client's that a detector explains: its access is made again. */
static bool is_explained(struct engine_thread *thread, const siginfo_t *info, ucontext_t *context)
{
	const greg_t *registers = context->uc_mcontext.gregs;
	const struct sanitize_registers client = {
	    .ip = (uint64_t)registers[REG_RIP],
	    .sp = (uint64_t)registers[REG_RSP],
	    .fp = (uint64_t)registers[REG_RBP],
	    .place_frames = 1,
	};
	bool answer;

	if (!sanitize_is_on(SANITIZE_PRIVATE))
		return false;
	if (!thread || thread->depth)
		return sanitize_private_fault(info, context);
	thread_enter(thread);
	sanitize_stack_begin_at(&client);
	answer = sanitize_private_fault(info, context);
	sanitize_stack_begin_at(NULL);
	thread_leave(thread);
	return answer;
}

static void on_signal(int signal, siginfo_t *info, void *frame)
{
	ucontext_t *context = frame;
	struct engine_thread *thread = thread_of(context);
	const siginfo_t *news = signal == process_kick_signal() ? failure_forwarded(info) : NULL;

	if (news) {
		signal = SIGBUS;
		info = (siginfo_t *)(uintptr_t)news;
	}
	if (signal == SIGBUS && info->si_code == BUS_MCEERR_AO)
		failure_pass_on(info);
	if ((signal == SIGSEGV || signal == SIGBUS) && is_explained(thread, info, context))
		return;
	if (!thread || thread->depth)
		arrive_inside(thread, signal, info, context);
	else if (signal == SIGSYS && info->si_code == 1 /* SYS_SECCOMP */)
		trap_taken(thread, info, context);
	else if (signal != process_kick_signal() && !cpuid_answer(thread, info, context))
		deliver(thread, signal, info, context);
}

/* ---- What frontend/ asks (frontend/run/signal_actions.h, frontend/run/signal_state.h) ---- */

void signal_set_strip(sigset_t *set)
{
	*(uint64_t *)(void *)set = signals_strip(*(uint64_t *)(void *)set);
}

/* No signal is sent on to a handler from inside a call: none is opened for it (see record()). */
sigset_t signal_shadow_set(uint32_t shadow)
{
	sigset_t none;

	(void)shadow;
	sigemptyset(&none);
	return none;
}

void signal_call_open(void)
{
}

void signal_call_close(void)
{
}

/* All signals are held off: it comes when the trap returns, by the client's own mask. */
void signal_send_again(const siginfo_t *info)
{
	sys_call(SYS_rt_tgsigqueueinfo, (uint64_t)sys_call(SYS_getpid, 0),
		 (uint64_t)sys_call(SYS_gettid, 0), (uint64_t)info->si_signo, sys_address(info));
}

bool signal_state_cancel_is_due(const struct signal_state *state)
{
	(void)state;
	return false;
}

bool signal_state_pending(const struct signal_state *state)
{
	return state->recorded != 0;
}

/*
 * The client opens /dev/kvm. The engine stands in front of its signals from the first instruction
 * on; what is left is what costs too much before.
 */
void signal_actions_init(void)
{
	filter_trap_contents();
}

void signal_thread_prepare(void)
{
}

static void take_one(struct engine_actions *actions, int signal)
{
	const struct kernel_action *action = &actions->table[signal];

	process_lock_acquire(&actions->lock);
	/* A parent that ignores SIGCHLD has no zombies: that is the kernel's to do. */
	if (!has_function(action) && !(signal == SIGCHLD && action->handler == HANDLER_IGNORE)) {
		__atomic_fetch_or(&taken, BIT(signal), __ATOMIC_RELAXED);
		action_install(signal, action);
	}
	process_lock_release(&actions->lock);
}

void signal_defaults_take(const sigset_t *set)
{
	uint64_t wanted = *(const uint64_t *)(const void *)set & ~never_blocked() & ~UNMASKABLE;

	wanted &= ~__atomic_load_n(&taken, __ATOMIC_RELAXED);
	for (int signal = 1; signal < ENGINE_SIGNALS && thread_self; signal++)
		if (wanted & BIT(signal))
			take_one(thread_self->actions, signal);
}

void signal_continue_take(void)
{
	if (thread_self && !(__atomic_load_n(&taken, __ATOMIC_RELAXED) & BIT(SIGCONT)))
		take_one(thread_self->actions, SIGCONT);
}
