/* Descriptors of ours in the client's table, numbered where the client does not look. */
#include "frontend/file/hidden_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hosts/process/fork.h"
#include "hosts/process/lock.h"
#include "hosts/process/proc_files.h"
#include "hosts/process/sys.h"

/*
 * The kernel's table grows to the highest number in use, so a client with an enormous limit gets
 * our descriptors from here on instead of past its limit.
 */
#define HIDDEN_BASE_MAX 65536u
/* Room above the base while one descriptor is made. */
#define HIDDEN_SPAN 131072u
#define HIDDEN_LIMIT (HIDDEN_BASE_MAX + HIDDEN_SPAN)
#define WORD_BITS 64
/* Of fewer we take none that we could do without. */
#define SPARE_NUMBERS 256u

/* One bit a number. Set and cleared under limit_lock, read without. */
static uint64_t hidden_bits[HIDDEN_LIMIT / WORD_BITS];
/* No number at or past this one was ever hidden. */
static int hidden_top;
/* The process's limit is changed and put back under this lock. */
static struct process_lock limit_lock;

/* An O_PATH descriptor of /proc, or -1. [A] */
static int proc_fd = -1;
static uint32_t proc_is_kept;

struct limit_change {
	struct rlimit before;
	int changed;
};

/* The change that is being made, for the child of a fork, which gets its limit back. */
static struct limit_change limit_change;

/* Calls at the gate: hidden descriptors are made in KVM_RUN, too. 0 or -errno, or a number. */
static long limit_get(struct rlimit *limit)
{
	return sys_call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, sys_address(limit));
}

static long limit_set(const struct rlimit *limit)
{
	return sys_call(SYS_prlimit64, 0, RLIMIT_NOFILE, sys_address(limit), 0);
}

static int duplicate(int fd, int from)
{
	return (int)sys_call(SYS_fcntl, (uint64_t)fd, F_DUPFD_CLOEXEC, (uint64_t)from);
}

static void close_one(int fd)
{
	sys_call(SYS_close, (uint64_t)fd);
}

static void limit_restore(void)
{
	if (limit_change.changed)
		(void)limit_set(&limit_change.before);
	__atomic_store_n(&limit_change.changed, 0, __ATOMIC_RELEASE);
}

static void fork_child(void)
{
	limit_restore();
	(void)process_lock_start_anew(&limit_lock);
}
FORK_CHILD(FORK_LIMITS, limit_lock, fork_child);

static rlim_t lesser(rlim_t a, rlim_t b)
{
	return a < b ? a : b;
}

/*
 * Let descriptors be made past the client's limit until limit_restore(). The result is where to
 * make them: below the limit, in its last eighth, when it cannot be passed.
 */
static int limit_raise(void)
{
	struct limit_change *change = &limit_change;
	struct rlimit raised;
	rlim_t base;

	if (limit_get(&change->before))
		return 1;
	base = lesser(change->before.rlim_cur, HIDDEN_BASE_MAX);
	if (change->before.rlim_cur >= HIDDEN_LIMIT)
		return (int)base;
	raised = change->before;
	raised.rlim_cur = HIDDEN_LIMIT;
	if (raised.rlim_max < HIDDEN_LIMIT)
		raised.rlim_max = HIDDEN_LIMIT; /* only a privileged process may */
	/* Before the limit moves: a child of this moment puts it back. */
	__atomic_store_n(&change->changed, 1, __ATOMIC_RELEASE);
	if (limit_set(&raised)) {
		raised.rlim_max = change->before.rlim_max;
		raised.rlim_cur = raised.rlim_max;
		if (raised.rlim_cur == change->before.rlim_cur || limit_set(&raised)) {
			change->changed = 0;
			return (int)(base - base / 8);
		}
	}
	return (int)base;
}

static void hidden_mark(int fd)
{
	__atomic_fetch_or(&hidden_bits[fd / WORD_BITS], UINT64_C(1) << (fd % WORD_BITS),
			  __ATOMIC_RELAXED);
	if (fd >= hidden_top)
		__atomic_store_n(&hidden_top, fd + 1, __ATOMIC_RELAXED);
}

static void hidden_unmark(int fd)
{
	__atomic_fetch_and(&hidden_bits[fd / WORD_BITS], ~(UINT64_C(1) << (fd % WORD_BITS)),
			   __ATOMIC_RELAXED);
}

/* Duplicates @fd to a good number: past the client's limit, else as high as it goes. Or -errno. */
static int duplicate_high(int fd, int base)
{
	int high = -1;

	for (int from = base; high < 0 && from > 0; from -= from / 8 + 1)
		high = duplicate(fd, from);
	if (high < 0)
		high = duplicate(fd, 0);
	if (high >= (int)HIDDEN_LIMIT) {
		close_one(high);
		return -EMFILE;
	}
	return high;
}

int hidden_fd_open_again(int fd, int flags)
{
	char path[32];
	int again, kept = __atomic_load_n(&proc_fd, __ATOMIC_ACQUIRE);

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	again = open(path, flags);
	if (again < 0 && kept >= 0)
		again = openat(kept, path + sizeof("/proc/") - 1, flags);
	return again < 0 ? -errno : again;
}

int hidden_fd_hide(int fd)
{
	int hidden;

	if (fd < 0)
		return -errno;
	hidden = hidden_fd_move(fd);
	close_one(fd);
	return hidden;
}

/* Is @fd one of the few numbers of a client whose limit cannot be passed? */
static bool is_dear(int fd)
{
	struct rlimit limit;

	return !limit_get(&limit) && (rlim_t)fd < limit.rlim_cur && limit.rlim_cur < SPARE_NUMBERS;
}

static void keep_root(void)
{
	int fd, none = -1;

	if (__atomic_load_n(&proc_fd, __ATOMIC_ACQUIRE) >= 0)
		return;
	fd = hidden_fd_hide(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (fd >= 0 && !__atomic_compare_exchange_n(&proc_fd, &none, fd, 0, __ATOMIC_RELEASE,
						    __ATOMIC_RELAXED))
		hidden_fd_close(fd);
}

static void keep_file(enum proc_file which)
{
	const char *path = proc_file_path(which);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && proc_fd >= 0)
		fd = openat(proc_fd, path + sizeof("/proc/") - 1, O_RDONLY | O_CLOEXEC);
	fd = hidden_fd_hide(fd);
	if (fd >= 0 && is_dear(fd))
		hidden_fd_close(fd);
	else if (fd >= 0)
		proc_file_keep(which, fd);
}

void hidden_fd_keep_proc(void)
{
	/* Once; another thread that comes meanwhile goes without. */
	if (__atomic_load_n(&proc_is_kept, __ATOMIC_RELAXED) ||
	    __atomic_exchange_n(&proc_is_kept, 1, __ATOMIC_RELAXED))
		return;
	keep_root();
	if (proc_fd < 0)
		__atomic_store_n(&proc_is_kept, 0, __ATOMIC_RELAXED);
	else
		for (enum proc_file which = 0; which < PROC_FILES; which++)
			keep_file(which);
}

int hidden_fd_kept_proc(void)
{
	return __atomic_load_n(&proc_fd, __ATOMIC_ACQUIRE);
}

long hidden_fd_leave_table(void)
{
	int proc = hidden_fd_kept_proc();
	long error;

	if (proc < 0)
		return sys_call(SYS_close_range, 0, UINT32_MAX, CLOSE_RANGE_UNSHARE);
	error = proc ? sys_call(SYS_close_range, 0, (uint64_t)proc - 1, CLOSE_RANGE_UNSHARE)
		     : sys_call(SYS_unshare, CLONE_FILES);
	return error ? error : sys_call(SYS_close_range, (uint64_t)proc + 1, UINT32_MAX, 0);
}

void hidden_fd_move_proc(int fd)
{
	if (fd == __atomic_load_n(&proc_fd, __ATOMIC_ACQUIRE))
		__atomic_store_n(&proc_fd, hidden_fd_move(fd), __ATOMIC_RELEASE);
	for (enum proc_file which = 0; which < PROC_FILES; which++) {
		int moved;

		if (fd != proc_file_kept(which))
			continue;
		moved = hidden_fd_move(fd);
		proc_file_keep(which, moved < 0 ? -1 : moved);
	}
}

void hidden_fd_forget_proc(void)
{
	proc_is_kept = 0;
	for (enum proc_file which = 0; which < PROC_FILES; which++) {
		int fd = proc_file_kept(which);

		proc_file_keep(which, -1);
		if (fd >= 0)
			hidden_fd_close(fd);
	}
}

int hidden_fd_move(int fd)
{
	int base, high;

	process_lock_acquire(&limit_lock);
	base = limit_raise();
	high = duplicate_high(fd, base);
	if (high >= 0) {
		hidden_mark(high);
		hidden_unmark(fd);
	}
	limit_restore();
	process_lock_release(&limit_lock);
	return high;
}

void hidden_fd_close(int fd)
{
	/* It is the parent's, and stays hidden from a client that has it, too. */
	if (process_fork_shares_descriptors())
		return;
	process_lock_acquire(&limit_lock);
	hidden_unmark(fd);
	close_one(fd);
	process_lock_release(&limit_lock);
}

bool hidden_fd_any(void)
{
	return __atomic_load_n(&hidden_top, __ATOMIC_RELAXED) != 0;
}

bool hidden_fd_is(int fd)
{
	if (fd < 0 || fd >= __atomic_load_n(&hidden_top, __ATOMIC_RELAXED))
		return false;
	return (__atomic_load_n(&hidden_bits[fd / WORD_BITS], __ATOMIC_RELAXED) >>
		(fd % WORD_BITS)) &
	       1;
}

int hidden_fd_next(int from)
{
	int top = __atomic_load_n(&hidden_top, __ATOMIC_RELAXED);

	for (int fd = from < 0 ? 0 : from; fd < top; fd++)
		if (hidden_fd_is(fd))
			return fd;
	return -1;
}
