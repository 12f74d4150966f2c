/* The thread that holds second descriptions, and the questions to it. */
#include "frontend/file/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/file.h>

#include "frontend/file/client_call.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/file/memory.h"
#include "hosts/process/fork.h"
#include "hosts/process/helper.h"
#include "hosts/process/lock.h"
#include "hosts/process/sys.h"

/* Room for "PID/task/TID/fd/N", by which the kernel names a descriptor of a thread. */
#define NAME_BYTES 64
#define PROC_BYTES (sizeof("/proc/") - 1)

enum question { QUESTION_OPEN, QUESTION_MAP, QUESTION_LOCK, QUESTION_CLOSE };

/* One question at a time: written and read in turn, by the asking thread first. */
static struct {
	enum question question;
	int held;
	char path[PROC_BYTES + NAME_BYTES]; /* to open */
	uint64_t size_bytes;		    /* to map */
	void *memory;
	int answer;
	uint32_t asked, answered; /* [A] how many, each; asked is ahead: the thread is at work */
} talk;

/* Guards what is asked. The thread is started before it is taken. */
static struct process_lock holder_lock;
static struct helper_once holder;
static struct process_event question_event, answer_event;

/* The thread and what it holds are the parent's. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&holder_lock);
	helper_once_forget(&holder);
	talk.asked = talk.answered = 0;
}
FORK_CHILD(FORK_HOLDER, holder_lock, fork_child);

static int answer(int proc)
{
	const uint64_t how = O_RDWR | O_CLOEXEC;
	long fd;

	switch (talk.question) {
	case QUESTION_LOCK:
		return (int)sys_call(SYS_flock, (uint64_t)talk.held, LOCK_EX | LOCK_NB);
	case QUESTION_CLOSE:
		return (int)sys_call(SYS_close, (uint64_t)talk.held);
	case QUESTION_MAP:
		return file_memory_map(talk.held, talk.size_bytes, &talk.memory);
	case QUESTION_OPEN:
		break;
	}
	fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(talk.path), how);
	if (fd < 0 && proc >= 0)
		fd = sys_call(SYS_openat, (uint64_t)proc, sys_address(talk.path + PROC_BYTES), how);
	return (int)fd;
}

/* Until the process ends. */
static void *holder_thread(void *unused)
{
	int proc = hidden_fd_kept_proc();
	long error = hidden_fd_leave_table();

	(void)unused;
	client_call_begin();
	for (;;) {
		uint32_t seen = process_event_count(&question_event);

		if (__atomic_load_n(&talk.asked, __ATOMIC_ACQUIRE) == talk.answered) {
			process_event_wait(&question_event, seen, PROCESS_EVENT_FOREVER);
			continue;
		}
		talk.answer = error ? (int)error : answer(proc);
		__atomic_store_n(&talk.answered, talk.answered + 1, __ATOMIC_RELEASE);
		process_event_happen(&answer_event);
	}
	return NULL;
}

static int ask_locked(enum question question, int held)
{
	talk.question = question;
	talk.held = held;
	__atomic_store_n(&talk.asked, talk.asked + 1, __ATOMIC_RELEASE);
	process_event_happen(&question_event);
	for (;;) {
		uint32_t seen = process_event_count(&answer_event);

		if (__atomic_load_n(&talk.answered, __ATOMIC_ACQUIRE) == talk.asked)
			return talk.answer;
		process_event_wait(&answer_event, seen, PROCESS_EVENT_FOREVER);
	}
}

static int ask(enum question question, int held)
{
	int result;

	process_lock_acquire(&holder_lock);
	result = ask_locked(question, held);
	process_lock_release(&holder_lock);
	return result;
}

/* The name of @fd of this thread's, as this /proc counts processes. */
static int name_descriptor(int fd)
{
	char self[NAME_BYTES / 2];
	int proc = hidden_fd_kept_proc();
	long length = sys_call(SYS_readlinkat, (uint64_t)AT_FDCWD, sys_address("/proc/thread-self"),
			       sys_address(self), sizeof(self) - 1);

	if (length < 0 && proc >= 0)
		length = sys_call(SYS_readlinkat, (uint64_t)proc, sys_address("thread-self"),
				  sys_address(self), sizeof(self) - 1);
	if (length < 0)
		return (int)length;
	self[length] = '\0';
	snprintf(talk.path, sizeof(talk.path), "/proc/%s/fd/%d", self, fd);
	return 0;
}

int holder_open(int fd)
{
	int result = helper_start_once(&holder, NULL, holder_thread, NULL);

	if (result)
		return result;
	process_lock_acquire(&holder_lock);
	result = name_descriptor(fd);
	if (!result)
		result = ask_locked(QUESTION_OPEN, -1);
	process_lock_release(&holder_lock);
	return result;
}

int holder_map(int held, uint64_t size_bytes, void **memory)
{
	int result;

	process_lock_acquire(&holder_lock);
	talk.size_bytes = size_bytes;
	result = ask_locked(QUESTION_MAP, held);
	*memory = result ? NULL : talk.memory;
	process_lock_release(&holder_lock);
	return result;
}

bool holder_takes_lock(int held)
{
	return ask(QUESTION_LOCK, held) == 0;
}

void holder_close(int held)
{
	(void)ask(QUESTION_CLOSE, held);
}
