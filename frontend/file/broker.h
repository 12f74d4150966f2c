/* The process of `quire run` makes what the processes of the run may not. */
#ifndef QUIRE_FRONTEND_FILE_BROKER_H
#define QUIRE_FRONTEND_FILE_BROKER_H

#include <stdint.h>

/*
 * The command's side: serve the run whose state is in @directory, by a thread, as long as the
 * process lives. 0 or -errno; broker_end() removes what it left in the directory.
 */
int broker_start(const char *directory);
void broker_end(const char *directory);

/*
 * A process's side: a memfd of @size_bytes that can be sealed, close-on-exec, made under the limits
 * of the command. A descriptor or -errno. @directory: params_directory().
 */
int broker_memfd(const char *directory, const char *name, uint64_t size_bytes);

/*
 * The command keeps what @fd refers to until this process has ended, so that its exit does not wait
 * for the end of that. Where the command cannot, the exit waits.
 */
void broker_hold(const char *directory, int fd);

#endif
