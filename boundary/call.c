/* The dispatcher: find the row of a call and the cell of its object, perform. */
#include "boundary/call.h"

#include <errno.h>
#include <stddef.h>

#include "boundary/copied.h"
#include "boundary/rows.h"
#include "frontend/file/client_call.h"
#include "frontend/run/signal_state.h"
#include "hosts/process/room.h"

#define ARGUMENTS 6

static const struct boundary_row *row_of(long nr)
{
	return nr < 0 || nr >= BOUNDARY_NR_MAX ? NULL : boundary_rows[nr];
}

bool boundary_knows(long nr)
{
	return row_of(nr) || (copied_is_wanted() && copied_knows(nr));
}

/* The first descriptor of the call that is an object of ours. */
static bool find_object(const struct boundary_row *row, struct object_call *found)
{
	for (unsigned int i = 0; i < ARGUMENTS; i++) {
		if (!(row->fd_arguments >> i & 1))
			continue;
		found->fd = (int)found->call->args[i];
		found->file = row->takes_path ? client_object_get_path(found->fd)
					      : client_object_for(found->call, found->fd);
		if (found->file)
			return true;
	}
	return false;
}

static long perform(const struct boundary_row *row, const struct boundary_call *call)
{
	struct object_call object = {.call = call};
	const struct boundary_cell *cell;
	long answer;

	if (!find_object(row, &object))
		return row->other ? row->other(call) : OBJECT_FORWARD;
	cell = &row->cells[file_ops_of(object.file)->kind];
	if (cell->perform)
		answer = cell->perform(&object);
	else
		answer = cell->error ? -(long)cell->error : OBJECT_FORWARD;
	client_object_put(object.file);
	return answer;
}

/* A call of a handler that has little stack left. */
struct work {
	const struct boundary_row *row;
	const struct boundary_call *call;
	long result; /* of the call that was forwarded, where @is_settling; then the answer */
	bool is_settling;
};

static void run_work(void *opaque)
{
	struct work *work = opaque;

	if (work->is_settling)
		work->result = work->row->settle(work->call, work->result);
	else
		work->result = perform(work->row, work->call);
}

/* No handler of the client's may run on the other stack. */
NOT_INLINE static void work_elsewhere(struct work *work)
{
	client_call_begin();
	process_with_room(run_work, work);
	client_call_end();
}

enum boundary_answer boundary_try(const struct boundary_call *call, long *result)
{
	struct work work = {.row = row_of(call->nr), .call = call};
	int saved_errno = errno;

	copied_note(call);
	if (!work.row)
		return BOUNDARY_FORWARD;
	if (process_is_cramped())
		work_elsewhere(&work);
	else
		run_work(&work);
	errno = saved_errno;
	if (work.result == OBJECT_FORWARD)
		return BOUNDARY_FORWARD;
	*result = work.result;
	return BOUNDARY_ANSWERED;
}

long boundary_settle(const struct boundary_call *call, long result)
{
	struct work work = {row_of(call->nr), call, result, true};
	int saved_errno = errno;

	if (!work.row || !work.row->settle)
		return result;
	if (process_is_cramped())
		work_elsewhere(&work);
	else
		run_work(&work);
	errno = saved_errno;
	return work.result;
}

long boundary_call(const struct boundary_call *call)
{
	long result;

	if (boundary_try(call, &result) == BOUNDARY_ANSWERED)
		return result;
	return boundary_settle(call, boundary_kernel(call));
}
