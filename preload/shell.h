/* Shells that libc starts. */
#ifndef QUIRE_PRELOAD_SHELL_H
#define QUIRE_PRELOAD_SHELL_H

#include <stdbool.h>
#include <stdio.h>

/* Has popen(3) made @stream? Its close waits for the shell. */
bool shell_has_stream(FILE *stream);

#endif
