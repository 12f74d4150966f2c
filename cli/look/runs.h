/* The runs of this user that the machine has now: their directories. */
#ifndef QUIRE_CLI_LOOK_RUNS_H
#define QUIRE_CLI_LOOK_RUNS_H

#include <sys/types.h>

/* A directory's name, from the process of its command on; mkdtemp(3) makes the rest. */
#define RUNS_NAME "quire-run.%d."

/* Where a new one is made. */
const char *runs_parent(void);

/* Each directory of this user, and the process of its command, which may have ended. */
typedef void run_fn(const char *directory, pid_t pid, void *ctx);
void runs_each_in(const char *parent, run_fn *visit, void *ctx);
/* Wherever a run of this user may have made it. */
void runs_each(run_fn *visit, void *ctx);

#endif
