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
	if (error == EFBIG)
		return "; a higher limit on files (ulimit -f) is needed";
	return error == ENOSPC ? "; more room on that file system is needed" : "";
}
