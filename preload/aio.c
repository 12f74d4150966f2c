/*
 * POSIX AIO on objects of ours: libc's threads would read and write the inert descriptor. Such a
 * request is performed here, at once, as libc's threads would: at its position, and where a file
 * has none, without.
 */
#include <aio.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boundary/object.h"
#include "frontend/file/user_copy.h"
#include "hosts/process/heap.h"
#include "hosts/process/sys.h"
#include "preload/entry.h"

static bool is_object(const struct aiocb *request)
{
	struct aiocb copy;
	struct file *file;

	if (is_libc_alone() || user_peek(&copy, (uintptr_t)request, sizeof(copy)))
		return false;
	file = client_object_get(copy.aio_fildes);
	if (file)
		client_object_put(file);
	return file != NULL;
}

struct notice {
	void (*function)(union sigval value);
	union sigval value;
};

static void *notify_main(void *opaque)
{
	struct notice notice = *(struct notice *)opaque;

	process_heap_free(opaque);
	notice.function(notice.value);
	return NULL;
}

static void notify_by_thread(const struct sigevent *event)
{
	struct notice *notice = process_heap_alloc(sizeof(*notice));
	pthread_attr_t attributes;
	pthread_t thread;

	if (!notice)
		return;
	*notice = (struct notice){event->sigev_notify_function, event->sigev_value};
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread,
			   event->sigev_notify_attributes
			       ? (const pthread_attr_t *)event->sigev_notify_attributes
			       : &attributes,
			   notify_main, notice))
		process_heap_free(notice);
	pthread_attr_destroy(&attributes);
}

static void notify(const struct sigevent *event)
{
	siginfo_t info;

	if (event->sigev_notify == SIGEV_THREAD)
		notify_by_thread(event);
	if (event->sigev_notify != SIGEV_SIGNAL)
		return;
	memset(&info, 0, sizeof(info));
	info.si_code = SI_ASYNCIO;
	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value = event->sigev_value;
	sys_call(SYS_rt_sigqueueinfo, (uint64_t)getpid(), (uint64_t)event->sigev_signo,
		 sys_address(&info));
}

static ssize_t perform_read(const struct aiocb *request)
{
	void *to = (void *)(uintptr_t)request->aio_buf;
	ssize_t got = pread(request->aio_fildes, to, request->aio_nbytes, request->aio_offset);

	return got < 0 && errno == ESPIPE ? read(request->aio_fildes, to, request->aio_nbytes)
					  : got;
}

static ssize_t perform_write(const struct aiocb *request)
{
	const void *from = (const void *)(uintptr_t)request->aio_buf;
	ssize_t put = pwrite(request->aio_fildes, from, request->aio_nbytes, request->aio_offset);

	return put < 0 && errno == ESPIPE ? write(request->aio_fildes, from, request->aio_nbytes)
					  : put;
}

/* @result is of the call that was made, with errno. */
static void finish(struct aiocb *request, ssize_t result)
{
	request->__return_value = result;
	request->__error_code = result < 0 ? errno : 0;
	notify(&request->aio_sigevent);
}

INTERPOSED int aio_read(struct aiocb *request)
{
	if (!is_object(request))
		return REAL(aio_read)(request);
	finish(request, perform_read(request));
	return 0;
}
INTERPOSED_ALIAS("aio_read") int aio_read64(struct aiocb64 *request);

INTERPOSED int aio_write(struct aiocb *request)
{
	if (!is_object(request))
		return REAL(aio_write)(request);
	finish(request, perform_write(request));
	return 0;
}
INTERPOSED_ALIAS("aio_write") int aio_write64(struct aiocb64 *request);

INTERPOSED int aio_fsync(int operation, struct aiocb *request)
{
	if (!is_object(request))
		return REAL(aio_fsync)(operation, request);
	finish(request, fsync(request->aio_fildes));
	return 0;
}
INTERPOSED_ALIAS("aio_fsync") int aio_fsync64(int operation, struct aiocb64 *request);

/* Ours are done when libc gets the others: it leaves NULL out. The result: did one fail? */
static bool perform_ours(struct aiocb *const list[], struct aiocb **others, int count)
{
	bool failed = false;

	for (int i = 0; i < count; i++) {
		struct aiocb *request = list[i];

		others[i] = request;
		if (!request || !is_object(request))
			continue;
		others[i] = NULL;
		if (request->aio_lio_opcode == LIO_NOP)
			continue;
		finish(request, request->aio_lio_opcode == LIO_READ ? perform_read(request)
								    : perform_write(request));
		failed |= request->__error_code != 0;
	}
	return failed;
}

INTERPOSED int lio_listio(int mode, struct aiocb *const list[], int count, struct sigevent *event)
{
	struct aiocb **others;
	bool failed;
	int result;

	if (is_libc_alone() || count <= 0 || (mode != LIO_WAIT && mode != LIO_NOWAIT))
		return REAL(lio_listio)(mode, list, count, event);
	others = process_heap_array((size_t)count, sizeof(struct aiocb *));
	if (!others) {
		errno = EAGAIN;
		return -1;
	}
	failed = perform_ours(list, others, count);
	result = REAL(lio_listio)(mode, others, count, event);
	process_heap_free(others);
	if (result || !failed || mode == LIO_NOWAIT)
		return result;
	errno = EIO;
	return -1;
}
INTERPOSED_ALIAS("lio_listio")
int lio_listio64(int mode, struct aiocb64 *const list[], int count, struct sigevent *event);
