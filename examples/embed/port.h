/* The machine below the library. */
#ifndef EMBED_PORT_H
#define EMBED_PORT_H

#include <quire/host.h>
#include <quire/platform.h>

void fill_tables(struct quire_platform *platform, struct quire_host_ops *host);

/* Memory with that alignment; NULL: there is none. free() takes it back. */
void *zeroed(size_t alignment, size_t size_bytes);

#endif
