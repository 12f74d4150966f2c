/* What brought us into this process, to be passed on to the programs it starts. */
#ifndef QUIRE_PRELOAD_ENVIRONMENT_H
#define QUIRE_PRELOAD_ENVIRONMENT_H

#include <stdbool.h>

/* LD_PRELOAD and the directory of the run. */
#define ENVIRONMENT_VARIABLES 2

/* Remembered by the constructor. Not set: we were loaded by other means than `quire run`. */
bool environment_is_set(void);
/* "LD_PRELOAD=...libquire_preload.so", that file's path, and "QUIRE_RUN_DIR=...". */
char *environment_preload(void);
const char *environment_library(void);
char *environment_run_directory(void);

#endif
