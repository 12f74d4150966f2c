/* What the files of the TDP MMU share with its store gateway. */
#ifndef QUIRE_TDP_STORE_H
#define QUIRE_TDP_STORE_H

#include "src/tdp/tdp.h"

/* Tell the trace of a change of *@entry, which is in a table. While tracing is on alone. */
__attribute__((cold)) void tdp_trace_change(const u64 *entry, u64 old, u64 new);

#endif
