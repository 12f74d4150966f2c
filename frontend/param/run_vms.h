/* Which processes of a run have VMs: a file in the run's directory for each, named by its pid. */
#ifndef QUIRE_FRONTEND_PARAM_RUN_VMS_H
#define QUIRE_FRONTEND_PARAM_RUN_VMS_H

#include <stdbool.h>

/* Room for the name of such a file. */
#define RUN_VMS_PATH_MAX 4200

/* As in params.h: ordinary file calls, so inside a client call where the library is preloaded. */

/* This process has one VM more (1) or less (-1). Takes a lock of its own; any thread. */
void run_vms_count(const char *directory, int change);
/* Has any process of the run, this one too, a VM? Files of processes that died are removed. */
bool run_vms_any(const char *directory);
/* Remove every such file. */
void run_vms_remove(const char *directory);

#endif
