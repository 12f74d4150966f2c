/* The texts that processes of a run keep of themselves: asking for fresh ones, reading them. */
#ifndef QUIRE_CLI_LOOK_TEXTS_H
#define QUIRE_CLI_LOOK_TEXTS_H

#include <stddef.h>
#include <stdint.h>

struct report_control;

/* The control file of the run in @directory, mapped; NULL where there is none. */
struct report_control *texts_open(const char *directory);
void texts_close(struct report_control *control);

/* Have each process write its text anew, and wait until it has, or cannot, or this long: on a busy
 * machine a process may have no processor for a second or more. */
#define TEXTS_ANSWER_NS UINT64_C(5000000000)
void texts_ask(const char *directory, struct report_control *control);

/* A file, and its PID. */
typedef void file_fn(const void *file, size_t size_bytes, int pid, void *ctx);
/* Every file PREFIX.PID of the run that has bytes, mapped while @visit looks at it. */
void texts_each_file(const char *directory, const char *prefix, file_fn *visit, void *ctx);

/* The members of a process's object, which @text holds until the next call. No bytes: it said
 * nothing before it was killed, and TEXTS_ALL were wanted. */
typedef void text_fn(const char *text, size_t size_bytes, int pid, void *ctx);
enum texts_of { TEXTS_ALL, TEXTS_OF_THE_LIVING };
void texts_each(const char *directory, enum texts_of which, text_fn *visit, void *ctx);

#endif
