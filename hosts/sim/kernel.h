/* What a kernel does to a client's pages by itself, while they go on showing the same bytes. */
#ifndef QUIRE_HOSTS_SIM_KERNEL_H
#define QUIRE_HOSTS_SIM_KERNEL_H

#include "hosts/sim/sim.h"

/*
 * Each of these tells the notifier before and after, and yields in between, where others may run.
 * False: a page has a holder, or it is not of that kind any more; nothing has changed.
 */

/* Take the frame away; the bytes come back with the next access, in another frame. */
bool sim_swap_out(struct sim_host *host, uint32_t page);
/* Another frame with the same bytes. */
bool sim_migrate(struct sim_host *host, uint32_t page);
/* @twin, which shows the same bytes as @page, shares its frame until one of them is written. */
bool sim_merge(struct sim_host *host, uint32_t page, uint32_t twin);
/* An aligned row of frames for the SIM_BLOCK pages from @page: the host maps them huge then. */
bool sim_collapse(struct sim_host *host, uint32_t page);
/* The host maps the SIM_BLOCK pages from @page by small entries from now on. */
bool sim_split(struct sim_host *host, uint32_t page);

/* Memory of the client's that was never touched: readers see one frame of zeros together. */
void sim_map_empty(struct sim_host *host, uint32_t page, uint32_t flags);

/*
 * Make @page, which is mapped, ready for an access as its fault handler does: with a frame, and
 * for a @write with one of its own. 0, -ENOMEM, or -EFAULT when it was unmapped meanwhile: for a
 * copy the notifier is told, and others may run.
 */
int sim_fault_in(struct sim_host *host, uint32_t page, bool write);

#endif
