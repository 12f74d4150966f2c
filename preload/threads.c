/* Threads of the client's: the kernel's dispatch of system calls is of a thread (preload/trap.h),
 * and so is a small stack.
 */
#include <errno.h>
#include <pthread.h>
#include <threads.h>

#include "frontend/run/signal_actions.h"
#include "hosts/process/heap.h"
#include "hosts/process/room.h"
#include "preload/real.h"
#include "preload/trap.h"

/* What a new thread begins with, freed by it: not by free(), whose lock fork() may hold. */
struct start {
	void *(*function)(void *argument);
	thrd_start_t c_function; /* instead of @function */
	void *argument;
	size_t stack_bytes; /* 0: the usual */
	bool is_hidden;
};

static struct start begin(void *opaque)
{
	struct start start = *(struct start *)opaque;

	process_heap_free(opaque);
	if (trap_is_started()) {
		signal_trap_begin(start.is_hidden);
		trap_arm();
	}
	if (start.stack_bytes)
		process_room_note_thread(start.stack_bytes);
	return start;
}

static void *run(void *opaque)
{
	struct start start = begin(opaque);

	return start.function(start.argument);
}

static int run_c(void *opaque)
{
	struct start start = begin(opaque);

	return start.c_function(start.argument);
}

static struct start *start_make(const struct start *wanted)
{
	struct start *start = process_heap_alloc(sizeof(*start));

	if (!start)
		return NULL;
	*start = *wanted;
	start->is_hidden = signal_trap_is_hidden();
	return start;
}

INTERPOSED int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			      void *(*function)(void *argument), void *argument)
{
	struct start *start;
	int error;

	if (client_call_active())
		return REAL(pthread_create)(thread, attributes, function, argument);
	start = start_make(&(struct start){.function = function, .argument = argument});
	if (start && attributes && pthread_attr_getstacksize(attributes, &start->stack_bytes))
		start->stack_bytes = 0;
	if (!start)
		return EAGAIN;
	error = REAL(pthread_create)(thread, attributes, run, start);
	if (error)
		process_heap_free(start);
	return error;
}

INTERPOSED int thrd_create(thrd_t *thread, thrd_start_t function, void *argument)
{
	struct start *start;
	int error;

	if (client_call_active() || !trap_is_started())
		return REAL(thrd_create)(thread, function, argument);
	start = start_make(&(struct start){.c_function = function, .argument = argument});
	if (!start)
		return thrd_nomem;
	error = REAL(thrd_create)(thread, run_c, start);
	if (error != thrd_success)
		process_heap_free(start);
	return error;
}
