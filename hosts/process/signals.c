/* Which thread runs a vCPU, how it is kicked, and handlers for programs without the preload. */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "hosts/process/guard.h"
#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

static _Thread_local uint32_t own_tid __attribute__((tls_model("initial-exec")));
static _Thread_local uint64_t own_process __attribute__((tls_model("initial-exec")));
/* The process whose threads' numbers libc knows: of a raw fork it has not heard. */
static uint64_t known_process;

int process_kick_signal(void)
{
	return SIGRTMAX - 1;
}

__attribute__((constructor(101))) static void note_process(void)
{
	known_process = process_identity();
}

/*
 * libc tells the number in the name of the thread's clock: its complement, above three bits. A
 * client that has locked itself in by a filter may be killed for asking the kernel.
 */
static uint32_t number_by_libc(void)
{
	clockid_t clock;

	if (pthread_getcpuclockid(pthread_self(), &clock))
		return (uint32_t)sys_call(SYS_gettid, 0);
	return ~(uint32_t)(clock >> 3);
}

uint32_t process_thread_number(void)
{
	uint64_t process = process_identity();

	if (own_tid && own_process == process)
		return own_tid;
	own_process = process;
	own_tid = process == known_process ? number_by_libc() : (uint32_t)sys_call(SYS_gettid, 0);
	return own_tid;
}

void process_runner_enter(struct process_runner *runner)
{
	__atomic_store_n(&runner->tid, process_thread_number(), __ATOMIC_SEQ_CST);
}

void process_runner_leave(struct process_runner *runner)
{
	__atomic_store_n(&runner->tid, 0, __ATOMIC_RELEASE);
}

void process_runner_forked(void)
{
	own_tid = (uint32_t)sys_call(SYS_gettid, 0);
	own_process = process_identity();
	known_process = own_tid == number_by_libc() ? own_process : 0;
}

/*
 * The handler aborts the access only when the thread stands on a guarded instruction. A kick that
 * comes a moment before the thread blocks in one is lost on it, so a thread that waits for a vCPU
 * to leave guest mode kicks again and again until it has. A thread that left meanwhile, or a number
 * that a new thread got, sees a signal that does nothing.
 */
void process_kick(void *ctx, void *cookie)
{
	struct process_runner *runner = cookie;
	uint32_t tid = __atomic_load_n(&runner->tid, __ATOMIC_SEQ_CST);

	if (tid)
		sys_call(SYS_tgkill, (uint64_t)sys_call(SYS_getpid, 0), tid,
			 (uint64_t)process_kick_signal());
}

/* The kernel's own idea of a handler: libc's sigaction() is the client's. */
struct kernel_action {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

#define KERNEL_SA_RESTORER 0x04000000ul

void process_signal_return(void);
__asm__(".pushsection .text\n\t"
	".type process_signal_return, @function\n"
	".hidden process_signal_return\n"
	"process_signal_return:\n\t"
	"movl $15, %eax\n\t" /* rt_sigreturn */
	"syscall\n\t"
	".size process_signal_return, . - process_signal_return\n\t"
	".popsection");

static struct kernel_action client_actions[65];

static long action_set(int signal, const struct kernel_action *action, struct kernel_action *old)
{
	return sys_call(SYS_rt_sigaction, (uint64_t)signal, sys_address(action), sys_address(old),
			sizeof(action->mask));
}

static void handle_kick(int signal, siginfo_t *info, void *ucontext)
{
	guard_handle_signal(signal, info, ucontext);
}

/* No fault of the running instruction: it does not happen again. */
static bool was_sent(int signal, const siginfo_t *info)
{
	return info->si_code <= 0 || (signal == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

/*
 * A fault that is none of ours goes to the handler that was there before. With none, the default
 * action is put back: the instruction faults again and the process ends as it would have without
 * us; a signal that was sent, as news of a failed page are, is sent again, to the same end.
 */
static void handle_fault(int signal, siginfo_t *info, void *ucontext)
{
	const struct kernel_action *old = &client_actions[signal];
	const struct kernel_action fallback = {
	    .flags = KERNEL_SA_RESTORER,
	    .restorer = process_signal_return,
	};
	uintptr_t handler = (uintptr_t)old->handler;

	if (guard_handle_signal(signal, info, ucontext))
		return;
	if (handler == (uintptr_t)SIG_IGN && was_sent(signal, info))
		return;
	if (handler != (uintptr_t)SIG_DFL && handler != (uintptr_t)SIG_IGN) {
		old->handler(signal, info, ucontext);
		return;
	}
	action_set(signal, &fallback, NULL);
	if (was_sent(signal, info))
		sys_call(SYS_tgkill, (uint64_t)sys_call(SYS_getpid, 0),
			 (uint64_t)sys_call(SYS_gettid, 0), (uint64_t)signal);
}

/* Those that are installed, a kick's among them, and what was there before. */
#define HANDLERS 3u

static void handlers_take_back(const int *signals, const struct kernel_action *old,
			       unsigned int count)
{
	while (count--)
		action_set(signals[count], &old[count], NULL);
}

int process_signals_install(void)
{
	const int signals[HANDLERS] = {process_kick_signal(), SIGSEGV, SIGBUS};
	struct kernel_action old[HANDLERS];
	struct kernel_action action = {
	    .flags = SA_RESTART | SA_SIGINFO | SA_ONSTACK | KERNEL_SA_RESTORER,
	    .restorer = process_signal_return,
	};

	for (unsigned int i = 0; i < HANDLERS; i++) {
		long error;

		action.handler = i ? handle_fault : handle_kick;
		error = action_set(signals[i], &action, &old[i]);
		if (error) {
			handlers_take_back(signals, old, i);
			return (int)error;
		}
		if (i && old[i].handler != handle_fault)
			client_actions[signals[i]] = old[i];
	}
	return 0;
}
