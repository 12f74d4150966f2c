/* Calls that wait with a signal mask of their own. */
#include "engine/masks.h"

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>

#include "boundary/newer_calls.h"
#include "engine/gate.h"
#include "engine/signals.h"
#include "engine/user.h"

#define SET_BYTES sizeof(uint64_t)

/* pselect6 and io_pgetevents take a pointer to these two. */
struct mask_argument {
	uint64_t mask, size_bytes;
};

/* The register of the call's argument, by its index. */
static greg_t *argument_of(ucontext_t *context, unsigned int index)
{
	static const int registers[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};

	return &context->uc_mcontext.gregs[registers[index]];
}

static long mask_copy(const struct engine_thread *thread, uint64_t from, uint64_t room)
{
	uint64_t mask;

	(void)thread;
	if (user_read(&mask, from, SET_BYTES))
		return -EFAULT;
	mask = signals_strip(mask);
	return user_write(room + GATE_MASK, &mask, SET_BYTES);
}

/* The kernel looks at the time to wait before it looks at the mask: what is wrong with the time is
 * the call's error, else @error, the mask's. */
static long refuse(const struct trap *trap, long error)
{
	uint64_t from = trap->number == SYS_ppoll	    ? trap->args[2]
			: trap->number == SYS_epoll_pwait2  ? trap->args[3]
			: trap->number == SYS_pselect6	    ? trap->args[4]
			: trap->number == SYS_io_pgetevents ? trap->args[4]
							    : 0;
	struct timespec time;

	if (!from)
		return error;
	if (user_read(&time, from, sizeof(time)))
		return -EFAULT;
	/* io_pgetevents takes any. */
	if (trap->number != SYS_io_pgetevents &&
	    (time.tv_sec < 0 || (unsigned long)time.tv_nsec >= 1000000000))
		return -EINVAL;
	return error;
}

/* The mask is argument @index, its size the next. */
static long place_plain(struct trap *trap, uint64_t room, unsigned int index)
{
	long error;

	if (trap->args[index + 1] != SET_BYTES)
		return refuse(trap, -EINVAL);
	error = mask_copy(trap->thread, trap->args[index], room);
	if (error)
		return refuse(trap, error);
	*argument_of(trap->context, index) = (greg_t)(room + GATE_MASK);
	return 0;
}

static long place_pair(struct trap *trap, uint64_t room, unsigned int index)
{
	struct mask_argument pair;
	uint64_t own = signals_strip(signals_mask_get(trap->thread, trap->context));
	long error;

	if (user_read(&pair, trap->args[index], sizeof(pair)))
		return -EFAULT;
	if (!pair.mask)
		return user_write(room + GATE_MASK, &own, SET_BYTES);
	if (pair.size_bytes != SET_BYTES)
		return refuse(trap, -EINVAL);
	error = mask_copy(trap->thread, pair.mask, room);
	if (error)
		return refuse(trap, error);
	pair.mask = room + GATE_MASK;
	error = user_write(room + GATE_MASK_ARG, &pair, sizeof(pair));
	if (!error)
		*argument_of(trap->context, index) = (greg_t)(room + GATE_MASK_ARG);
	return error;
}

long masks_place(struct trap *trap, uint64_t room)
{
	switch (trap->number) {
	case SYS_rt_sigsuspend:
		return place_plain(trap, room, 0);
	case SYS_ppoll:
		return place_plain(trap, room, 3);
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
		return place_plain(trap, room, 4);
	case SYS_pselect6:
	case SYS_io_pgetevents:
	default:
		return place_pair(trap, room, 5);
	}
}
