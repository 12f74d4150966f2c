/* The system calls of the library, of which the Nth fails, with each error that the kernel may give
 * there; and then once more with all that come after it. */
#include "tests/rules/lib/nth_kernel.h"

#include <sys/syscall.h>

#include "tests/rules/lib/nth_host.h"

struct call {
	long number;
	const char *name;
	int errors[NTH_ERRORS_MAX];
};

static const struct call calls[] = {
    {SYS_mmap, "mmap", {-ENOMEM, -EAGAIN, -EPERM, NTH_ALL_LATER}},
    {SYS_madvise, "madvise", {-ENOMEM, -EINVAL, -EAGAIN, -EINTR, -EFAULT, NTH_ALL_LATER}},
    {SYS_mincore, "mincore", {-ENOMEM, -EAGAIN, NTH_ALL_LATER}},
    {SYS_openat, "openat", {-ENOMEM, -EMFILE, -EACCES, NTH_ALL_LATER}},
    {SYS_pread64, "pread64", {-ENOMEM, -EINTR, -EIO, NTH_ALL_LATER}},
    /* No -ENOTTY: a kernel that has the call has it for good. */
    {SYS_ioctl, "ioctl", {-ENOMEM, -EINTR, -EINVAL, NTH_ALL_LATER}},
};

static const struct call any_other = {
    -1, "a system call", {-ENOMEM, -EINVAL, -EPERM, NTH_ALL_LATER}};

static const struct call *find(long number)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].number == number)
			return &calls[i];
	return &any_other;
}

long nth_kernel_error(long number)
{
	const struct call *call = find(number);
	int error;

	if (!nth.machine || !nth.machine->fails_below || !nth.is_armed)
		return 0;
	if (nth.has_ended)
		return -ENOMEM;
	error = nth_fails(call->name, call->errors);
	if (error != NTH_ALL_LATER)
		return error;
	nth.has_ended = 1;
	nth.error = -ENOMEM;
	return -ENOMEM;
}
