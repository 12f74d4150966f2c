/* Partners: a thread pointer and a stack of the engine's for each thread of the client. */
#include "engine/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "engine/gate.h"
#include "engine/libc.h"
#include "engine/signals.h"
#include "frontend/file/client_call.h"
#include "frontend/run/signal_state.h"
#include "hosts/process/internal.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

/*
 * One mapping a thread: its record and actions, a page without access, and the stack, at whose top
 * libc keeps its own. What is not touched costs nothing.
 */
#define ROOM_BYTES (UINT64_C(256) << 10)
#define PAGE_BYTES UINT64_C(4096)
#define RECORD_BYTES PAGE_BYTES
#define GUARD_END (RECORD_BYTES + PAGE_BYTES)
#define HWCAP2_FSGSBASE 2u

struct record {
	struct engine_thread thread;
	struct engine_actions actions;
};
_Static_assert(sizeof(struct record) <= RECORD_BYTES, "a record fits");

/* Records of threads that are gone or have not started, oldest first. Under pool_lock. */
static struct process_lock pool_lock;
static struct engine_thread *pool_first, **pool_last = &pool_first;
static int has_instruction;

_Thread_local struct engine_thread *thread_self __attribute__((tls_model("initial-exec")));

uint64_t thread_fs_read(void)
{
	uint64_t base = 0;

	if (has_instruction) {
		__asm__ volatile("rdfsbase %0" : "=r"(base) : : "memory");
		return base;
	}
	sys_call(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, sys_address(&base));
	return base;
}

void thread_fs_write(uint64_t base)
{
	if (has_instruction)
		__asm__ volatile("wrfsbase %0" : : "r"(base) : "memory");
	else
		sys_call(SYS_arch_prctl, 0x1002 /* ARCH_SET_FS */, base);
}

/* Without the instruction only arch_prctl changes it, which is trapped: client_fs is true. */
void thread_enter(struct engine_thread *thread)
{
	if (has_instruction)
		thread->client_fs = thread_fs_read();
	thread_fs_write(thread->engine_fs);
	thread->depth = 1;
}

void thread_leave(struct engine_thread *thread)
{
	thread->depth = 0;
	thread_fs_write(thread->client_fs);
}

struct engine_thread *thread_of(const ucontext_t *context)
{
	const stack_t *stack = &context->uc_stack;

	if ((stack->ss_flags & SS_DISABLE) || !stack->ss_size)
		return NULL;
	return (struct engine_thread *)((uint64_t)stack->ss_sp - GUARD_END);
}

/* A record without a partner. */
static struct engine_thread *room_make(void)
{
	long room = process_map(ROOM_BYTES, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	struct record *record = (struct record *)room;

	if (sys_failed(room))
		return NULL;
	if (sys_call(SYS_mprotect, (uint64_t)room + RECORD_BYTES, PAGE_BYTES, PROT_NONE)) {
		sys_call(SYS_munmap, (uint64_t)room, ROOM_BYTES);
		return NULL;
	}
	record->thread.own_actions = &record->actions;
	record->thread.actions = &record->actions;
	record->thread.stack_base = (uint64_t)room + GUARD_END;
	record->thread.alt_flags = SS_DISABLE;
	return &record->thread;
}

static void set_numbers(struct engine_thread *thread)
{
	thread->pid = (int)sys_call(SYS_getpid, 0);
	thread->tid = (int)sys_call(SYS_gettid, 0);
}

struct engine_thread *thread_make_first(void)
{
	struct engine_thread *thread;

	has_instruction = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0;
	thread = room_make();
	if (!thread)
		return NULL;
	thread->stack_bytes = ROOM_BYTES - GUARD_END;
	/* An exec leaves no stack, and none that was asked to be so. */
	thread->alt_flags = 0;
	thread->engine_fs = thread_fs_read();
	set_numbers(thread);
	thread_self = thread;
	return thread;
}

/*
 * A partner is made by libc as a thread that ends at once without libc's knowledge: what it leaves
 * behind is a thread pointer, and a stack without a user. The last store frees the stack.
 */
struct birth {
	struct engine_thread *thread;
	uint32_t done;
};

static void *partner_main(void *argument)
{
	struct birth *birth = argument;
	struct engine_thread *thread = birth->thread;
	static int no_thread;

	thread->engine_fs = thread_fs_read();
	thread->stack_bytes =
	    ((uint64_t)__builtin_frame_address(0) & ~UINT64_C(63)) - thread->stack_base;
	/* The kernel is not to clear libc's number of this thread. */
	sys_call(SYS_set_tid_address, sys_address(&no_thread));
	__asm__ volatile("movl $1, (%0)\n\t"
			 "movl $202, %%eax\n\t" /* futex */
			 "movq %0, %%rdi\n\t"
			 "movl $129, %%esi\n\t" /* FUTEX_WAKE_PRIVATE */
			 "movl $1, %%edx\n\t"
			 "syscall\n\t"
			 "movl $60, %%eax\n\t" /* exit */
			 "xorl %%edi, %%edi\n\t"
			 "syscall\n\t"
			 "hlt"
			 :
			 : "r"(&birth->done)
			 : "memory", "rax", "rcx", "rdx", "rsi", "rdi", "r11");
	__builtin_unreachable();
}

/* All signals are blocked here, so the new thread has them blocked, too. */
static int partner_make(struct engine_thread *thread)
{
	struct birth birth = {.thread = thread};
	pthread_attr_t attributes;
	pthread_t made;
	int error = pthread_attr_init(&attributes);

	if (error)
		return -error;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	error =
	    pthread_attr_setstack(&attributes, (void *)thread->stack_base, ROOM_BYTES - GUARD_END);
	if (!error)
		error = pthread_create(&made, &attributes, partner_main, &birth);
	pthread_attr_destroy(&attributes);
	if (error)
		return -error;
	while (!__atomic_load_n(&birth.done, __ATOMIC_ACQUIRE))
		sys_call(SYS_futex, sys_address(&birth.done), 128 /* FUTEX_WAIT_PRIVATE */, 0);
	return 0;
}

static bool is_gone(const struct engine_thread *thread)
{
	return !thread->tid ||
	       sys_call(SYS_tgkill, (uint64_t)thread->pid, (uint64_t)thread->tid, 0) == -ESRCH;
}

static struct engine_thread *pool_take(void)
{
	struct engine_thread *thread;

	process_lock_acquire(&pool_lock);
	thread = pool_first;
	if (thread && is_gone(thread)) {
		pool_first = thread->next;
		if (!pool_first)
			pool_last = &pool_first;
	} else {
		thread = NULL;
	}
	process_lock_release(&pool_lock);
	return thread;
}

static void pool_put(struct engine_thread *thread)
{
	process_lock_acquire(&pool_lock);
	thread->next = NULL;
	*pool_last = thread;
	pool_last = &thread->next;
	process_lock_release(&pool_lock);
}

struct engine_thread *thread_take(void)
{
	struct engine_thread *thread = pool_take();

	if (!thread) {
		thread = room_make();
		if (thread && partner_make(thread)) {
			sys_call(SYS_munmap, thread->stack_base - GUARD_END, ROOM_BYTES);
			thread = NULL;
		}
	}
	if (!thread)
		return NULL;
	thread->tid = 0;
	thread->actions = thread->own_actions;
	thread->depth = 0;
	thread->hidden_mask = 0;
	thread->alt_base = thread->alt_bytes = 0;
	thread->alt_flags = SS_DISABLE;
	return thread;
}

void thread_put(struct engine_thread *thread)
{
	if (thread->exec_room)
		sys_call(SYS_munmap, sys_address(thread->exec_room), thread->exec_room_bytes);
	thread->exec_room = NULL;
	thread->tid = 0;
	pool_put(thread);
}

void thread_adopt(struct engine_thread *thread)
{
	set_numbers(thread);
	thread_self = thread;
	libc_set_tid(thread->tid);
	process_runner_forked();
	memset(&signal_state, 0, sizeof(signal_state));
	client_call_depth = 0;
}

/*
 * The stack under this function is used again only when the kernel says that the thread is gone,
 * so nothing is done after pool_put() that another thread could disturb: no signal comes.
 */
void thread_end(struct engine_thread *thread, uint64_t status)
{
	uint64_t all = ~UINT64_C(0);

	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&all), 0, sizeof(all));
	pool_put(thread);
	sys_call(SYS_exit, status);
	__builtin_unreachable();
}

/* Partners of the parent's other threads are not known to the child's libc: they are left. */
void thread_forked(struct engine_thread *thread)
{
	memset(&pool_lock, 0, sizeof(pool_lock));
	memset(&thread->actions->lock, 0, sizeof(thread->actions->lock));
	pool_first = NULL;
	pool_last = &pool_first;
	set_numbers(thread);
}

long thread_arm(const struct engine_thread *thread)
{
	const stack_t stack = {.ss_sp = (void *)thread->stack_base, .ss_size = thread->stack_bytes};

	return sys_call(SYS_sigaltstack, sys_address(&stack), 0);
}
