/* Files that the command writes: whether all of it came to be there. */
#include "cli/output.h"

#include <errno.h>

FILE *output_begin(const char *path)
{
	FILE *file = fopen(path, "we");

	/* Only a write that fails changes it until the end. */
	if (file)
		errno = 0;
	return file;
}

int output_end(FILE *file)
{
	int failed = ferror(file), error = errno;

	if (fclose(file) && !failed)
		return -1;
	errno = failed && !error ? EIO : error;
	return failed ? -1 : 0;
}

const char *output_advice(int error)
{
	switch (error) {
	case EFBIG:
		return "; a higher limit on files (ulimit -f) is needed";
	case ENOSPC:
		return "; more room on that file system is needed";
	case ENOENT:
	case ENOTDIR:
		return "; its folder must be there";
	case EACCES:
	case EPERM:
	case EROFS:
	case EISDIR:
		return "; name a file that you may write";
	default:
		return "";
	}
}
