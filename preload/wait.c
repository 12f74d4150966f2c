/* Calls that wait for children: the end of one may have been that of a file's last reference. */
#include "preload/wait.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "frontend/file/file.h"
#include "hosts/process/room.h"
#include "preload/real.h"

static void run_reaped(void *ending)
{
	file_closed_other(ending);
}

/* A child gives up its descriptors before its parent hears of it, and a thread of ours may have
 * noticed that before the parent began to wait. errno is kept. */
void wait_is_over(void)
{
	struct file_ending ending = file_ending_heard();
	int error = errno;

	if (client_call_active() || !file_may_have_ended())
		return;
	client_call_begin();
	process_with_room(run_reaped, &ending);
	client_call_end();
	errno = error;
}

static pid_t wait_for(pid_t pid, int *status, int options, struct rusage *usage)
{
	pid_t child = REAL(wait4)(pid, status, options, usage);

	/* Where SIGCHLD is ignored, a wait is over when no child is left. */
	if (child > 0 || (child < 0 && errno == ECHILD))
		wait_is_over();
	return child;
}

INTERPOSED pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
	return wait_for(pid, status, options, usage);
}

INTERPOSED pid_t wait3(int *status, int options, struct rusage *usage)
{
	return wait_for(-1, status, options, usage);
}

INTERPOSED pid_t waitpid(pid_t pid, int *status, int options)
{
	return wait_for(pid, status, options, NULL);
}

INTERPOSED pid_t wait(int *status)
{
	return wait_for(-1, status, 0, NULL);
}

INTERPOSED int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
	int result = REAL(waitid)(type, id, info, options);

	if (!result || errno == ECHILD)
		wait_is_over();
	return result;
}
