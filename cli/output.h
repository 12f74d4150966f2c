/* Files that the command writes: whether all of it came to be there. */
#ifndef QUIRE_CLI_OUTPUT_H
#define QUIRE_CLI_OUTPUT_H

#include <stdio.h>

/* The file, made or emptied; NULL with errno. */
FILE *output_begin(const char *path);
/* Close it. 0, or -1 with the errno of what first could not be written. */
int output_end(FILE *file);

/* What to do about an errno of writing, as words behind those of the error; "": nothing is known.
 */
const char *output_advice(int error);

#endif
