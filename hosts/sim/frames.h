/* What the parts of the simulated machine share: its frames, its memory, its guest_memfds. */
#ifndef QUIRE_HOSTS_SIM_FRAMES_H
#define QUIRE_HOSTS_SIM_FRAMES_H

#include "hosts/sim/sim.h"

/* Does this allocation fail, as the test asked? */
bool sim_alloc_fails(struct sim_host *host);
/* Memory for the library, zeroed. */
void *sim_alloc(void *ctx, size_t size_bytes);
void sim_free(void *ctx, void *mem, size_t size_bytes);
void sim_frames_fill(struct sim_host *host, uint32_t first, uint32_t count, uint8_t value);
/* Frames are handed out, with one reference each. */
void sim_frames_take(struct sim_host *host, uint32_t first, uint32_t count, uint8_t fill);
/* Take the first aligned free row of @count frames, SIM_BLOCK or SIM_GIGANTIC; or SIM_NO_FRAME. */
uint32_t sim_frames_row(struct sim_host *host, uint32_t count, uint8_t fill);

/* Frames to be put together while they follow each other. */
struct frame_run {
	uint32_t first, count;
};

void sim_run_add(struct sim_host *host, struct frame_run *run, uint32_t frame);

/* A guest_memfd's pages (store.c): operations of struct quire_host_ops. */
int sim_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store);
int sim_store_create_huge(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
			  void **store);
void sim_store_punch(void *ctx, void *store, uint64_t index, uint64_t npages);
void sim_store_destroy(void *ctx, void *store);
int sim_store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn);
int sim_store_zero(void *ctx, void *store, uint64_t index, uint64_t npages);
int sim_store_show(void *ctx, void *store, uint64_t index, uint64_t npages, int shown);
int sim_store_clear(void *ctx, void *store, uint64_t index, uint64_t npages);
int sim_store_reshape(void *ctx, void *store, uint64_t index, int whole);
int sim_frame_lost(void *ctx, pfn_t pfn);

#endif
