/* Where pages are: those of a guest_memfd stay when a client asks for another node. */
#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boundary/rows.h"
#include "frontend/file/client_call.h"
#include "frontend/file/file.h"
#include "frontend/file/user_copy.h"

#define PAGE_MASK (~(uint64_t)4095)
#define MOVES (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)

static bool is_gmem(uint64_t start, uint64_t end)
{
	bool is;

	if (!file_any())
		return false;
	client_call_begin();
	is = file_is_gmem(start, end);
	client_call_end();
	return is;
}

/* The policy counts for pages that are made from now on. With STRICT, pages elsewhere are an error.
 */
long placement_bind(const struct boundary_call *call)
{
	struct boundary_call alone = *call;
	unsigned long flags = call->args[5];
	uint64_t start = call->args[0] & PAGE_MASK;
	long result;

	if (!(flags & MOVES) || !is_gmem(start, call->args[0] + call->args[1]))
		return OBJECT_FORWARD;
	/* An empty range: may the client ask for this, and with such a policy? */
	alone.args[1] = 0;
	result = boundary_kernel(&alone);
	alone.args[1] = call->args[1];
	alone.args[5] = flags & ~(unsigned long)(MOVES | MPOL_MF_STRICT);
	if (!result)
		result = boundary_kernel(&alone);
	alone.args[5] = MPOL_MF_STRICT;
	if (!result && (flags & MPOL_MF_STRICT))
		result = boundary_kernel(&alone);
	return result;
}

/* One page that may move. */
struct move {
	uint64_t page;
	int node;
	unsigned long status; /* the client's, for this page */
};

static long move_by_kernel(const struct move *move, unsigned long flags)
{
	return BOUNDARY_KERNEL(SYS_move_pages, 0, 1, (unsigned long)&move->page,
			       (unsigned long)&move->node, move->status, flags);
}

static long where_is(const struct move *move, unsigned long status)
{
	return BOUNDARY_KERNEL(SYS_move_pages, 0, 1, (unsigned long)&move->page, 0, status, 0);
}

/* 0, and what became of it is told; 1: it stays elsewhere, and nothing is told; or -errno. */
static long move_one(const struct move *move, unsigned long flags)
{
	int status = 0;
	const struct move nowhere = {.node = move->node, .status = (unsigned long)&status};
	long result;

	if (!is_gmem(move->page, move->page + 1))
		return move_by_kernel(move, flags);
	/* May pages go to that node? */
	result = move_by_kernel(&nowhere, flags);
	if (!result)
		result = where_is(move, (unsigned long)&status);
	if (result)
		return result;
	return status < 0 || status == move->node ? where_is(move, move->status) : 1;
}

/* Pages that follow each other and go to one node are tried together; then the rest is not. */
static long move_all(const struct boundary_call *call, unsigned long count)
{
	struct move move;
	int node = -1;
	long stay = 0, result;

	for (unsigned long i = 0; i < count; i++) {
		if (user_peek(&move.page, call->args[2] + 8 * i, 8) ||
		    user_peek(&move.node, call->args[3] + 4 * i, 4))
			return -EFAULT;
		if (stay && move.node != node)
			return stay + (long)(count - i);
		node = move.node;
		move.status = call->args[4] + 4 * i;
		result = move_one(&move, call->args[5]);
		if (result < 0)
			return result;
		stay += result;
	}
	return stay;
}

long placement_move(const struct boundary_call *call)
{
	unsigned long count = call->args[1];
	uint64_t page;
	bool any = false;

	if (!call->args[3] || (call->args[0] && (pid_t)call->args[0] != getpid()) || !file_any())
		return OBJECT_FORWARD;
	for (unsigned long i = 0; i < count && !any; i++) {
		if (user_peek(&page, call->args[2] + 8 * i, 8))
			return OBJECT_FORWARD;
		any = is_gmem(page, page + 1);
	}
	return any ? move_all(call, count) : OBJECT_FORWARD;
}
