/*
 * Trapped calls that name paths, descriptors or memory: brought to boundary/, or to what preload/
 * makes of them. Nothing here decides what a call means.
 */
#include "engine/calls.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "boundary/call.h"
#include "engine/client_cpuid.h"
#include "engine/gate.h"
#include "engine/image.h"
#include "engine/signals.h"
#include "engine/user.h"
#include "frontend/file/client_call.h"
#include "hosts/process/sys.h"
#include "preload/client_filter.h"
#include "preload/numbered.h"

/* ---- Paths ---- */

/* The index of the argument that is the path; the boundary judges the result of such a call. */
static int path_index(long number)
{
	switch (number) {
	case SYS_open:
	case SYS_creat:
	case SYS_stat:
	case SYS_lstat:
	case SYS_access:
	case SYS_chdir:
	case SYS_readlink:
	case SYS_truncate:
	case SYS_chmod:
	case SYS_chown:
	case SYS_utime:
	case SYS_utimes:
	case SYS_setxattr:
	case SYS_getxattr:
	case SYS_removexattr:
		return 0;
	case SYS_openat:
	case SYS_openat2:
	case SYS_newfstatat:
	case SYS_statx:
	case SYS_faccessat:
	case SYS_faccessat2:
	case SYS_readlinkat:
	case SYS_fchmodat:
		return 1;
	default:
		return -1;
	}
}

/* readlink of /proc/self/exe: the program, where the kernel would say the engine. */
static long read_own_link(uint64_t to, uint64_t room_bytes)
{
	size_t length = strlen(image.program);
	long error;

	if ((int)room_bytes <= 0)
		return -EINVAL;
	if (length > room_bytes)
		length = room_bytes;
	error = user_write(to, image.program, length);
	return error ? error : (long)length;
}

/* A call by /proc/self/exe. */
static bool serve_own(const struct trap *trap, int index, long *result)
{
	char path[64];
	uint64_t args[6];

	if (user_read_string(path, sizeof(path), trap->args[index]) < 0 || !image_is_own(path))
		return false;
	memcpy(args, trap->args, sizeof(args));
	args[index] = sys_address(image.program);
	switch (trap->number) {
	case SYS_readlink:
	case SYS_readlinkat:
		*result = read_own_link(args[index + 1], args[index + 2]);
		return true;
	case SYS_lstat:
		return false;
	default:
		*result = sys_call_six(trap->number, args);
		return true;
	}
}

/*
 * What the boundary knows of the call. One that names a path is made here, for the boundary to
 * judge its result: an open may wait (a FIFO), so signals are let in, and end it.
 */
static enum trap_outcome serve_object(const struct trap *trap, long *result)
{
	struct boundary_call call = {.nr = trap->number};
	int index = path_index(trap->number);

	if (index >= 0 && serve_own(trap, index, result))
		return TRAP_ANSWERED;
	memcpy(call.args, trap->args, sizeof(call.args));
	if (boundary_try(&call, result) == BOUNDARY_ANSWERED)
		return TRAP_ANSWERED;
	if (index < 0)
		return TRAP_FORWARD;
	client_call_begin();
	signals_let_in(trap->context);
	*result = boundary_kernel(&call);
	signals_hold_off();
	client_call_end();
	*result = boundary_settle(&call, *result);
	return TRAP_ANSWERED;
}

/* Text of a file that is the process's own from here on. */
static void note_text(const uint64_t args[6], long mapped)
{
	const struct cpuid_mapping mapping = {
	    .fd = (int)args[4],
	    .protection = (int)args[2],
	    .offset = args[5],
	    .start = (uint64_t)mapped,
	    .bytes = args[1],
	};

	if (!sys_failed(mapped) && (args[2] & PROT_EXEC) &&
	    (args[3] & (MAP_TYPE | MAP_ANONYMOUS)) == MAP_PRIVATE)
		cpuid_mapped(&mapping);
}

enum trap_outcome calls_serve(struct trap *trap, long *result)
{
	static const struct client_filter_gates gates = {{{ENGINE_BASE, ENGINE_BYTES}}};
	struct boundary_call call = {.nr = trap->number};

	memcpy(call.args, trap->args, sizeof(call.args));
	if (client_filter_install(&call, &gates, result))
		return TRAP_ANSWERED;
	/* Memory always here: the client's own stack may be what goes. */
	if (!numbered_perform(&call, result))
		return serve_object(trap, result);
	if (trap->number == SYS_mmap)
		note_text(trap->args, *result);
	return TRAP_ANSWERED;
}
