/*
 * Trapped system calls of the client's.
 *
 * A trap is a SIGSYS of the thread itself, on the engine's stack. FS is swapped, the call is
 * served, FS is swapped back, and the return from the signal brings the client to the instruction
 * after its own. A call that is the kernel's is made by the client through the gate, after the
 * return: there signals, restarts and waits are what they are without us.
 */
#include "engine/trap.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "boundary/copied.h"
#include "boundary/newer_calls.h"
#include "engine/calls.h"
#include "engine/clone.h"
#include "engine/exec.h"
#include "engine/gate.h"
#include "engine/masks.h"
#include "engine/signals.h"
#include "engine/user.h"
#include "frontend/file/numbers.h"
#include "frontend/report/report.h"
#include "hosts/process/sys.h"

#define KVM_TYPE 0xae00u

static enum trap_outcome answered(struct trap *trap, long result)
{
	trap->context->uc_mcontext.gregs[REG_RAX] = result;
	return TRAP_ANSWERED;
}

/* Signals end an ioctl of KVM's; they wait for the end of every other call. */
static enum trap_outcome serve_ioctl(struct trap *trap)
{
	enum trap_outcome outcome;
	bool is_kvm = (trap->args[1] & 0xff00) == KVM_TYPE;
	long result;

	if (is_kvm)
		signals_let_in(trap->context);
	outcome = calls_serve(trap, &result);
	if (is_kvm)
		signals_hold_off();
	return outcome == TRAP_ANSWERED ? answered(trap, result) : outcome;
}

/* The thread pointer is the engine's now; the client's is set on the way out. */
static long serve_arch_prctl(struct trap *trap)
{
	uint64_t *client_fs = &trap->thread->client_fs;

	switch (trap->args[0]) {
	case ARCH_SET_FS:
		if (trap->args[1] >= UINT64_C(1) << 47)
			return -EPERM;
		*client_fs = trap->args[1];
		return 0;
	case ARCH_GET_FS:
		return user_write(trap->args[1], client_fs, sizeof(*client_fs));
	default:
		return sys_call_six(trap->number, trap->args);
	}
}

static enum trap_outcome serve_process(struct trap *trap)
{
	switch (trap->number) {
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork:
		return answered(trap, clone_serve(trap));
	case SYS_execve:
	case SYS_execveat:
		return answered(trap, exec_serve(trap));
	case SYS_exit:
		thread_end(trap->thread, trap->args[0]);
	case SYS_exit_group:
	default:
		report_last(REPORT_PROCESS_ENDS);
		sys_call(SYS_exit_group, trap->args[0]);
		__builtin_unreachable();
	}
}

static enum trap_outcome serve(struct trap *trap)
{
	enum trap_outcome outcome;
	long result;

	switch (trap->number) {
	case SYS_rt_sigaction:
		return answered(trap, signals_action(trap->thread, trap->args));
	case SYS_rt_sigprocmask:
		return answered(trap, signals_procmask(trap->thread, trap->context, trap->args));
	case SYS_sigaltstack:
		return answered(trap, signals_altstack(trap->thread, trap->context, trap->args));
	case SYS_rt_sigsuspend:
	case SYS_ppoll:
	case SYS_pselect6:
	case SYS_epoll_pwait:
	case SYS_io_pgetevents:
	case SYS_epoll_pwait2:
		return TRAP_MASKED;
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork:
	case SYS_execve:
	case SYS_execveat:
	case SYS_exit:
	case SYS_exit_group:
		return serve_process(trap);
	case SYS_arch_prctl:
		return answered(trap, serve_arch_prctl(trap));
	case SYS_ioctl:
		return serve_ioctl(trap);
	default:
		outcome = calls_serve(trap, &result);
		return outcome == TRAP_ANSWERED ? answered(trap, result) : outcome;
	}
}

/* The client makes the call from the room on its stack; without room, the engine makes it. */
static void forward(struct trap *trap, enum trap_outcome outcome)
{
	greg_t *registers = trap->context->uc_mcontext.gregs;
	uint64_t room = (uint64_t)registers[REG_RSP] - GATE_ROOM_BYTES;
	uint64_t back = (uint64_t)registers[REG_RIP];

	if (user_write(room + GATE_RETURN, &back, sizeof(back))) {
		answered(trap, sys_call_six(trap->number, trap->args));
		return;
	}
	if (outcome == TRAP_MASKED) {
		long error = masks_place(trap, room);

		if (error) {
			answered(trap, error);
			return;
		}
	}
	registers[REG_RAX] = trap->number;
	registers[REG_RSP] = (greg_t)room;
	registers[REG_RIP] =
	    (greg_t)(uintptr_t)(outcome == TRAP_MASKED ? gate_masked : gate_forward);
}

/* FS is the engine's: not inlined, since the address of thread-local storage may be kept. */
__attribute__((noinline)) static void serve_inside(struct engine_thread *thread,
						   ucontext_t *context)
{
	const greg_t *registers = context->uc_mcontext.gregs;
	struct trap trap = {
	    .thread = thread,
	    .context = context,
	    .number = (long)registers[REG_RAX],
	    .args = {(uint64_t)registers[REG_RDI], (uint64_t)registers[REG_RSI],
		     (uint64_t)registers[REG_RDX], (uint64_t)registers[REG_R10],
		     (uint64_t)registers[REG_R8], (uint64_t)registers[REG_R9]},
	};
	const struct sanitize_registers client = {
	    .ip = (uint64_t)registers[REG_RIP] - 1,
	    .sp = (uint64_t)registers[REG_RSP],
	    .fp = (uint64_t)registers[REG_RBP],
	    .place_frames = 2,
	};
	enum trap_outcome outcome;

	sanitize_stack_begin_at(&client);
	outcome = serve(&trap);
	sanitize_stack_begin_at(NULL);
	if (outcome == TRAP_FORWARD || outcome == TRAP_MASKED)
		forward(&trap, outcome);
}

#define PAGE_MASK UINT64_C(4095)

/*
 * Reading and writing what is known to be no object: without the engine's thread-local storage,
 * whose swap costs more than all else. Only where the room is in the page that the client's stack
 * pointer is in.
 */
static bool forward_contents(const siginfo_t *info, ucontext_t *context)
{
	greg_t *registers = context->uc_mcontext.gregs;
	uint64_t stack = (uint64_t)registers[REG_RSP], room = stack - GATE_ROOM_BYTES;
	unsigned int lacking = NUMBER_NO_FILE;

	if (copied_is_wanted())
		return false;
	switch (info->si_syscall) {
	case SYS_read:
	case SYS_readv:
	case SYS_lseek:
		break;
	case SYS_write:
	case SYS_writev:
		lacking |= NUMBER_NO_PARAMETER;
		break;
	default:
		return false;
	}
	if (!numbers_lack((int)registers[REG_RDI], lacking) || (room ^ stack) & ~PAGE_MASK)
		return false;
	*(uint64_t *)(room + GATE_RETURN) = (uint64_t)registers[REG_RIP];
	registers[REG_RSP] = (greg_t)room;
	registers[REG_RIP] = (greg_t)(uintptr_t)gate_forward;
	return true;
}

static void take(struct engine_thread *thread, const siginfo_t *info, ucontext_t *context)
{
	if (forward_contents(info, context))
		return;
	if (info->si_syscall == SYS_rt_sigreturn) {
		/* Nothing here needs the engine's thread-local storage. */
		thread->depth = 1;
		signals_return(thread, context);
		thread->depth = 0;
		return;
	}
	thread_enter(thread);
	serve_inside(thread, context);
	thread_leave(thread);
}

void trap_start(void)
{
	signals_set_trap(take);
}
