/* The dispatcher: find the row of a call and the cell of its object, perform. */
#include "boundary/call.h"

#include <errno.h>
#include <stddef.h>

#include "boundary/rows.h"

#define ARGUMENTS 6

static const struct boundary_row *row_of(long nr)
{
	return nr < 0 || nr >= BOUNDARY_NR_MAX ? NULL : boundary_rows[nr];
}

bool boundary_knows(long nr)
{
	return row_of(nr) != NULL;
}

/* The first descriptor of the call that is an object of ours. */
static bool find_object(const struct boundary_row *row, struct object_call *found)
{
	for (unsigned int i = 0; i < ARGUMENTS; i++) {
		if (!(row->fd_arguments >> i & 1))
			continue;
		found->fd = (int)found->call->args[i];
		found->file = client_object_for(found->call, found->fd);
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

enum boundary_answer boundary_try(const struct boundary_call *call, long *result)
{
	const struct boundary_row *row = row_of(call->nr);
	int saved_errno = errno;
	long answer;

	if (!row)
		return BOUNDARY_FORWARD;
	answer = perform(row, call);
	errno = saved_errno;
	if (answer == OBJECT_FORWARD)
		return BOUNDARY_FORWARD;
	*result = answer;
	return BOUNDARY_ANSWERED;
}

long boundary_settle(const struct boundary_call *call, long result)
{
	const struct boundary_row *row = row_of(call->nr);
	int saved_errno = errno;

	if (!row || !row->settle)
		return result;
	result = row->settle(call, result);
	errno = saved_errno;
	return result;
}

long boundary_call(const struct boundary_call *call)
{
	long result;

	if (boundary_try(call, &result) == BOUNDARY_ANSWERED)
		return result;
	return boundary_settle(call, boundary_kernel(call));
}
