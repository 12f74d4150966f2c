/*
 * Failures of memory, heard of as the kernel finds them.
 *
 * KVM's tables lose a failed page by its MMU notifier. Here a thread of ours asks the kernel for
 * SIGBUS with BUS_MCEERR_AO (PR_MCE_KILL_EARLY), which is sent to the first thread of a process
 * that asked: a thread of the client's passes it on to ours, and ours to a thread of the client's.
 *
 * Our thread blocks SIGBUS and never waits for it by sigtimedwait(), since a signal that was sent
 * to the process is the client's to take. A signalfd wakes it; it takes what was sent to the
 * thread.
 */
#include "frontend/object/failure.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <quire/types.h>

#include "frontend/file/client_call.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/file/lines.h"
#include "frontend/object/mm_events.h"
#include "hosts/process/fork.h"
#include "hosts/process/helper.h"
#include "hosts/process/maps.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/* Between two looks while a SIGBUS of the process's waits for the client. */
#define LOOK_NS 100000000
#define SHIFT_MAX 30
/* A kernel that finds failures of memory has this; a test takes another file for it. */
#ifndef HAS_FAILURES
#define HAS_FAILURES "/proc/sys/vm/memory_failure_early_kill"
#endif
/* Flags of a thread in its "stat": it has a policy of its own, and that is the early news. */
#define HAS_POLICY 0x80u
#define WANTS_NEWS 0x08000000u

static const uint64_t bus_set = UINT64_C(1) << (SIGBUS - 1);

static struct helper_once watcher;
static uint32_t watcher_number; /* [A] the thread; 0: none listens */

/* The thread is the parent's. */
static void fork_child(void)
{
	helper_once_forget(&watcher);
	__atomic_store_n(&watcher_number, 0, __ATOMIC_RELAXED);
}
static const struct fork_entry failure_entry
    __attribute__((section("quire_fork"), used)) = {.rank = FORK_VMS, .child = fork_child};

/* What the kernel told our thread in a client's place. Only our thread writes it. */
static siginfo_t forwarded;

static void send(int signal, const siginfo_t *info, uint32_t thread)
{
	sys_call(SYS_rt_tgsigqueueinfo, (uint64_t)sys_call(SYS_getpid, 0), thread, (uint64_t)signal,
		 sys_address(info));
}

/* A thread may send the kernel's codes to itself alone, so ours gets a word of our own. */
void failure_pass_on(const siginfo_t *info)
{
	uint32_t thread = __atomic_load_n(&watcher_number, __ATOMIC_RELAXED);
	siginfo_t copy;

	if (!thread)
		return;
	memset(&copy, 0, sizeof(copy));
	copy.si_signo = SIGBUS;
	copy.si_code = SI_QUEUE;
	copy.si_pid = (pid_t)sys_call(SYS_getpid, 0);
	copy.si_errno = info->si_addr_lsb;
	copy.si_value.sival_ptr = info->si_addr;
	send(SIGBUS, &copy, thread);
}

const siginfo_t *failure_forwarded(const siginfo_t *kick)
{
	return kick->si_code == SI_QUEUE && kick->si_value.sival_ptr == &forwarded ? &forwarded
										   : NULL;
}

static bool status_line(void *context, const char *text)
{
	return sscanf(text, "SigPnd: %lx", (uint64_t *)context) != 1;
}

/* Was a SIGBUS sent to this thread, and not to the process? */
static bool is_sent_here(void)
{
	uint64_t pending = 0;

	(void)lines_read("/proc/thread-self/status", status_line, &pending);
	return pending & bus_set;
}

/* Pages that are lost, by an address of theirs, and of a file also by their place in it. */
struct lost {
	uint64_t address, size_bytes;
	struct maps_file mapping; /* .inode is 0 where there is no file */
	uint64_t offset;
};

static bool place_line(void *context, const char *text)
{
	struct lost *lost = context;
	struct maps_file mapping;

	if (!maps_parse_file(text, &mapping) || lost->address < mapping.start ||
	    lost->address >= mapping.end)
		return true;
	lost->mapping = mapping;
	lost->offset = (mapping.offset + (lost->address - mapping.start)) & ~(lost->size_bytes - 1);
	return false;
}

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

/*
 * Does a page table of the process have a page at @address? The kernel takes a page that failed out
 * of all of them, so this is another page: the client punched the file and touched it before our
 * thread heard the news. For a larger range its first page stands for all. The page may come right
 * after the answer: of a guest_memfd's the library asks again where none can (frame_lost()).
 */
static bool is_another(uint64_t address)
{
	uint64_t word = 0;
	long fd = lines_open("/proc/self/pagemap"), got;

	if (fd < 0)
		return false;
	got = sys_call(SYS_pread64, (uint64_t)fd, sys_address(&word), sizeof(word),
		       (address >> QUIRE_PAGE_SHIFT) * sizeof(word));
	sys_call(SYS_close, (uint64_t)fd);
	return got == sizeof(word) && (word & PAGEMAP_PRESENT);
}

static void lose_at(uint64_t start, uint64_t end)
{
	if (!is_another(start))
		mm_lost(start, end);
}

/* Another mapping of the file, or the same. */
static bool other_line(void *context, const char *text)
{
	const struct lost *lost = context;
	struct maps_file mapping;
	uint64_t first, last;

	if (!maps_parse_file(text, &mapping) || mapping.inode != lost->mapping.inode ||
	    mapping.device != lost->mapping.device)
		return true;
	first = lost->offset > mapping.offset ? lost->offset : mapping.offset;
	last = mapping.offset + (mapping.end - mapping.start);
	if (lost->offset + lost->size_bytes < last)
		last = lost->offset + lost->size_bytes;
	if (first < last)
		lose_at(mapping.start + (first - mapping.offset),
			mapping.start + (last - mapping.offset));
	return true;
}

/*
 * The kernel names each mapping of the page, but a second SIGBUS is dropped while the first waits:
 * so all of them are found by the first. In the text, for our thread has a table of descriptors of
 * its own, without those that are kept.
 */
static void lose(uint64_t address, int shift)
{
	bool is_shift = shift >= QUIRE_PAGE_SHIFT && shift <= SHIFT_MAX;
	uint64_t size_bytes = UINT64_C(1) << (is_shift ? shift : QUIRE_PAGE_SHIFT);
	uint64_t start = address & ~(size_bytes - 1);
	struct lost lost = {.address = address, .size_bytes = size_bytes};

	(void)lines_read("/proc/self/maps", place_line, &lost);
	if (lost.mapping.inode)
		(void)lines_read("/proc/self/maps", other_line, &lost);
	else
		lose_at(start, start + size_bytes);
}

static bool stat_line(void *context, const char *text)
{
	const char *at = strrchr(text, ')');

	if (at)
		(void)sscanf(at, ") %*c %*d %*d %*d %*d %*d %u", (unsigned int *)context);
	return false;
}

static bool wants_news(uint32_t thread)
{
	const unsigned int both = HAS_POLICY | WANTS_NEWS;
	unsigned int flags = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%u/stat", thread);
	(void)lines_read(path, stat_line, &flags);
	return (flags & both) == both;
}

/* What of an entry of a directory we read. */
struct entry {
	uint64_t inode, offset;
	uint16_t bytes;
	uint8_t type;
	char name[];
};

/* Of the threads in a part of the folder, the first of the client's that asked; 0: none. */
static uint32_t wanting_in(const char *buffer, long bytes)
{
	const struct entry *entry;
	uint32_t thread;

	for (long at = 0; at < bytes; at += entry->bytes) {
		entry = (const void *)(buffer + at);
		if (sscanf(entry->name, "%u", &thread) == 1 && thread != watcher_number &&
		    wants_news(thread))
			return thread;
	}
	return 0;
}

static uint32_t find_wanting(void)
{
	char buffer[1024] __attribute__((aligned(8)));
	uint32_t thread = 0;
	long bytes, fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address("/proc/self/task"),
				  O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (fd >= 0 && !thread &&
	       (bytes = sys_call(SYS_getdents64, (uint64_t)fd, sys_address(buffer),
				 sizeof(buffer))) > 0)
		thread = wanting_in(buffer, bytes);
	if (fd >= 0)
		sys_call(SYS_close, (uint64_t)fd);
	return thread;
}

/* A thread of the client's that asked and began after ours sends the news to itself. */
static void forward(const siginfo_t *info)
{
	const siginfo_t kick = {.si_signo = process_kick_signal(),
				.si_code = SI_QUEUE,
				._sifields._rt.si_sigval.sival_ptr = &forwarded};
	uint32_t thread = find_wanting();

	if (!thread)
		return;
	memcpy(&forwarded, info, sizeof(forwarded));
	send(kick.si_signo, &kick, thread);
}

static void hear(void)
{
	struct timespec now = {0};
	siginfo_t info;

	if (sys_call(SYS_rt_sigtimedwait, sys_address(&bus_set), sys_address(&info),
		     sys_address(&now), sizeof(bus_set)) != SIGBUS)
		return;
	if (info.si_code == BUS_MCEERR_AO) {
		/* First, for the client may answer the news with another page there. */
		lose((uintptr_t)info.si_addr, info.si_addr_lsb);
		forward(&info);
	} else if (info.si_code == SI_QUEUE && info.si_pid == (pid_t)sys_call(SYS_getpid, 0)) {
		lose((uintptr_t)info.si_value.sival_ptr, info.si_errno);
	}
}

/* Until the process ends. */
static void *watch(void *unused)
{
	struct timespec look = {.tv_nsec = LOOK_NS};
	struct pollfd news = {.events = POLLIN};
	long error = hidden_fd_leave_table();

	(void)unused;
	client_call_begin();
	if (!error)
		error = sys_call(SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	if (!error)
		error = sys_call(SYS_signalfd4, UINT64_MAX, sys_address(&bus_set), sizeof(bus_set),
				 O_CLOEXEC);
	if (error < 0)
		return NULL;
	news.fd = (int)error;
	__atomic_store_n(&watcher_number, (uint32_t)sys_call(SYS_gettid, 0), __ATOMIC_RELAXED);
	for (;;) {
		error = sys_call(SYS_poll, sys_address(&news), 1, UINT64_MAX);
		if (error > 0 && is_sent_here())
			hear();
		else
			sys_call(SYS_nanosleep, sys_address(&look), 0);
	}
	return NULL;
}

void failure_watch_start(void)
{
	if (!helper_runs(&watcher) &&
	    !sys_call(SYS_faccessat, (uint64_t)AT_FDCWD, sys_address(HAS_FAILURES), F_OK))
		(void)helper_start_once(&watcher, NULL, watch, NULL);
}
