/* Threads of Quire's own, and the end of a process in which they are the last. */
#include "hosts/process/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#include "hosts/process/fork.h"
#include "hosts/process/internal.h"
#include "hosts/process/map.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define LOOK_NS 200000000 /* between two looks at a first thread whose word is not known */
#define LAST_NS 10000000  /* the same at the threads that are left */

/* The client's thread-local variables are on it, too: where those are large, the next power. */
#define STACK_BYTES_MIN (UINT64_C(512) << 10)
#define STACK_BYTES_MAX (UINT64_C(64) << 20)

struct birth {
	void *(*function)(void *);
	void *argument;
};

/*
 * Whose helpers are counted, and below COUNT_MASK how many run. The child of a fork finds a count
 * of its parent's, by whichever call it was made, and begins anew.
 */
static uint64_t helpers;
#define COUNT_MASK UINT64_C(0xfffff)

/*
 * The process that last ran the constructor, or a child's fork handlers: libc is taken to know its
 * threads. A child made by clone() that ran neither finds another process here.
 */
static pid_t libc_process;

/* The first thread ended by a system call of its own, not by a function of libc's. */
static uint32_t has_left;

/* The word of a first thread that libc gave none. */
static uint32_t own_word;

static pid_t process_number(void)
{
	return (pid_t)sys_call(SYS_getpid, 0);
}

__attribute__((constructor)) static void note_process(void)
{
	libc_process = process_number();
	__atomic_store_n(&has_left, 0, __ATOMIC_RELAXED);
}

void helper_leader_leaves(void)
{
	__atomic_store_n(&has_left, 1, __ATOMIC_RELEASE);
}

static const struct fork_entry helper_entry
    __attribute__((section("quire_fork"), used)) = {.rank = FORK_MEMORY, .child = note_process};

/* The client's SIGSYS is none of this thread's, and no call of it is trapped. */
static void block_traps(void)
{
	const uint64_t trap = UINT64_C(1) << (SIGSYS - 1);

	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, sys_address(&trap), 0, sizeof(trap));
}

static void *helper_main(void *argument)
{
	struct birth birth = *(struct birth *)argument;
	void *result;

	process_free(NULL, argument, sizeof(birth));
	block_traps();
	__atomic_fetch_add(&helpers, 1, __ATOMIC_RELAXED);
	result = birth.function(birth.argument);
	__atomic_fetch_sub(&helpers, 1, __ATOMIC_RELAXED);
	return result;
}

static void nap(long ns)
{
	struct timespec time = {.tv_nsec = ns};

	sys_call(SYS_nanosleep, sys_address(&time), 0);
}

/* Reads a file of /proc as a string. */
static bool read_text(const char *path, char *text, size_t size_bytes)
{
	long fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(path), O_RDONLY | O_CLOEXEC);
	long got;

	if (fd < 0)
		return false;
	got = sys_call(SYS_read, (uint64_t)fd, sys_address(text), size_bytes - 1);
	sys_call(SYS_close, (uint64_t)fd);
	text[got > 0 ? got : 0] = 0;
	return got > 0;
}

/* Has the first thread ended? @code receives what it ended with. */
static bool leader_is_gone(int *code)
{
	char text[1024], *state, *last;

	if (!read_text("/proc/self/stat", text, sizeof(text)))
		return false;
	state = strrchr(text, ')');
	last = strrchr(text, ' ');
	if (!state || state[1] != ' ' || state[2] != 'Z')
		return false;
	*code = atoi(last + 1) >> 8 & 0xff;
	return true;
}

/* Threads of this process, the first one not counted, which has ended. */
static uint64_t threads_left(void)
{
	struct {
		uint64_t inode, offset;
		uint16_t bytes;
		uint8_t type;
		char name[];
	} * entry;
	char buffer[4096] __attribute__((aligned(8)));
	long fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address("/proc/self/task"),
			   O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t count = 0;
	long bytes;

	while (fd >= 0 && (bytes = sys_call(SYS_getdents64, (uint64_t)fd, sys_address(buffer),
					    sizeof(buffer))) > 0)
		for (long at = 0; at < bytes; at += entry->bytes) {
			entry = (void *)(buffer + at);
			count += entry->name[0] != '.';
		}
	if (fd >= 0)
		sys_call(SYS_close, (uint64_t)fd);
	return count ? count - 1 : UINT64_MAX;
}

/* Others wait for the same word: pthread_join() of the first thread. They are woken again. */
static void wait_for_word(uint32_t *word)
{
	uint32_t number = (uint32_t)process_number();

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == number)
		sys_call(SYS_futex, sys_address(word), FUTEX_WAIT, number, 0);
	sys_call(SYS_futex, sys_address(word), FUTEX_WAKE, INT_MAX);
}

/* @word is cleared and woken when the first thread ends; NULL: unknown. */
static void *watch_leader(void *word)
{
	int code = 0;

	if (word)
		wait_for_word(word);
	while (!leader_is_gone(&code))
		nap(LOOK_NS);
	while (threads_left() > (__atomic_load_n(&helpers, __ATOMIC_RELAXED) & COUNT_MASK))
		nap(LAST_NS);
	/* libc calls exit(0) for the last of its threads, and counts the helpers as such. */
	if (!code && libc_process == process_number() &&
	    !__atomic_load_n(&has_left, __ATOMIC_ACQUIRE))
		exit(0);
	sys_call(SYS_exit_group, (uint64_t)code);
	return NULL;
}

/* The word that the kernel clears for the first thread, asked for by that thread itself. */
static uint32_t *find_leader_word(void)
{
	uint32_t *word = NULL;

	if (sys_call(SYS_gettid, 0) != process_number() ||
	    sys_call(SYS_prctl, PR_GET_TID_ADDRESS, sys_address(&word)))
		return NULL;
	if (word)
		return *word == (uint32_t)process_number() ? word : NULL;
	own_word = (uint32_t)process_number();
	sys_call(SYS_set_tid_address, sys_address(&own_word));
	return &own_word;
}

static void stack_free(const struct helper *helper)
{
	sys_call(SYS_munmap, sys_address(helper->stack), helper->stack_bytes);
}

/* libc would map a stack wherever the kernel has a hole, under a slot of the client's, too. */
static int attributes_make(pthread_attr_t *attributes, struct helper *helper)
{
	long mapped = process_map(helper->stack_bytes, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	int error;

	if (sys_failed(mapped))
		return (int)mapped;
	helper->stack = (void *)mapped;
	error = pthread_attr_init(attributes);
	if (!error)
		error = pthread_attr_setstack(attributes, helper->stack, helper->stack_bytes);
	if (error)
		stack_free(helper);
	return -error;
}

/* With a stack of helper->stack_bytes. -EINVAL: libc wants a larger one. */
static int create(struct helper *helper, struct birth *birth)
{
	pthread_attr_t attributes;
	sigset_t all, old;
	int error = attributes_make(&attributes, helper);

	if (error)
		return error;
	sigfillset(&all);
	/* libc may be a sanitizer's, whose own calls raise it: the helper blocks it for itself. */
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = -pthread_create(&helper->thread, &attributes, helper_main, birth);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attributes);
	if (error)
		stack_free(helper);
	return error;
}

static int start(struct helper *helper, void *(*function)(void *), void *argument)
{
	struct birth *birth = process_alloc(NULL, sizeof(*birth));
	int error = -EINVAL;

	if (!birth)
		return -ENOMEM;
	*birth = (struct birth){function, argument};
	helper->stack_bytes = STACK_BYTES_MIN;
	for (; error == -EINVAL && helper->stack_bytes <= STACK_BYTES_MAX; helper->stack_bytes *= 2)
		error = create(helper, birth);
	helper->stack_bytes /= 2; /* of the last one */
	if (error)
		process_free(NULL, birth, sizeof(*birth));
	return error;
}

/* Its stack stays: such a thread ends with the process. */
static int start_detached(void *(*function)(void *), void *argument)
{
	struct helper helper;
	int error = start(&helper, function, argument);

	if (!error)
		(void)thrd_detach(helper.thread);
	return error;
}

/*
 * A sanitizer stands before the functions of POSIX, not before those of C, and has not seen our
 * threads begin. To libc they are the same.
 */
void helper_join(const struct helper *helper)
{
	(void)thrd_join(helper->thread, NULL);
	stack_free(helper);
}

/* Before the first helper of a process. */
static void begin(void)
{
	uint64_t key = process_identity() * UINT64_C(0x9e3779b97f4a7c15) & ~COUNT_MASK;
	uint64_t seen = __atomic_load_n(&helpers, __ATOMIC_RELAXED);

	if ((seen & ~COUNT_MASK) == key ||
	    !__atomic_compare_exchange_n(&helpers, &seen, key, false, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return;
	/* Without it a process without threads of the client's stays; the caller can do nothing. */
	(void)start_detached(watch_leader, find_leader_word());
}

int helper_start(struct helper *helper, void *(*function)(void *), void *argument)
{
	begin();
	return helper ? start(helper, function, argument) : start_detached(function, argument);
}

enum once_state { ONCE_NEVER, ONCE_STARTING, ONCE_RUNS };

int helper_try_once(struct helper_once *once, struct helper *helper, void *(*function)(void *),
		    void *argument)
{
	uint32_t state = ONCE_NEVER;
	int error;

	if (!__atomic_compare_exchange_n(&once->state, &state, ONCE_STARTING, false,
					 __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE))
		return state == ONCE_RUNS ? 0 : -EAGAIN;
	error = helper_start(helper, function, argument);
	__atomic_store_n(&once->state, error ? ONCE_NEVER : ONCE_RUNS, __ATOMIC_RELEASE);
	process_event_happen(&once->changed);
	/* That libc has no thread to give is no reason to wait. */
	return error == -EAGAIN ? -ENOMEM : error;
}

int helper_start_once(struct helper_once *once, struct helper *helper, void *(*function)(void *),
		      void *argument)
{
	for (;;) {
		uint32_t seen = process_event_count(&once->changed);
		int error = helper_try_once(once, helper, function, argument);

		if (error != -EAGAIN)
			return error;
		process_event_wait(&once->changed, seen, PROCESS_EVENT_FOREVER);
	}
}

bool helper_runs(const struct helper_once *once)
{
	return __atomic_load_n(&once->state, __ATOMIC_ACQUIRE) == ONCE_RUNS;
}

void helper_once_forget(struct helper_once *once)
{
	__atomic_store_n(&once->state, ONCE_NEVER, __ATOMIC_RELAXED);
}

struct errand {
	void (*function)(void *argument);
	void *argument;
};

static void *run_errand(void *argument)
{
	const struct errand *errand = argument;

	sys_call(SYS_close_range, 0, UINT32_MAX, CLOSE_RANGE_UNSHARE);
	errand->function(errand->argument);
	return NULL;
}

void helper_apart(void (*function)(void *argument), void *argument)
{
	struct errand errand = {function, argument};
	struct helper helper;

	if (helper_start(&helper, run_errand, &errand))
		function(argument);
	else
		helper_join(&helper);
}
