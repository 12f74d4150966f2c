/* What the files of this folder share with each other only. */
#ifndef QUIRE_HOSTS_PROCESS_INTERNAL_H
#define QUIRE_HOSTS_PROCESS_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include <quire/host.h>
#include <quire/types.h>

#include "hosts/process/lock.h"

/* Register the atfork triple of hosts/process/fork.h, once. */
void process_fork_install(void);

/* In the child of a fork: this thread has a new number. */
void process_runner_forked(void);

/* Functions of process_host_ops that live in files of their own. */
void *process_alloc(void *ctx, size_t size_bytes);
void process_free(void *ctx, void *mem, size_t size_bytes);
void *process_chunk_alloc(void *ctx);
void process_chunk_free(void *ctx, void *chunk);
uint64_t process_pages_there(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages);
enum quire_level process_page_level(void *ctx, hva_t hva, enum quire_level max);
int process_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store);
void process_store_destroy(void *ctx, void *store);
int process_store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn);
int process_store_zero(void *ctx, void *store, uint64_t index, uint64_t npages);
void process_store_punch(void *ctx, void *store, uint64_t index, uint64_t npages);
int process_store_show(void *ctx, void *store, uint64_t index, uint64_t npages, int shown);
int process_store_create_huge(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
			      void **store);
int process_store_reshape(void *ctx, void *store, uint64_t index, int whole);
int process_store_clear(void *ctx, void *store, uint64_t index, uint64_t npages);
int process_frame_lost(void *ctx, pfn_t pfn);
void process_kick(void *ctx, void *cookie);

/* Parts of a store's memory, where it is ours: fault a page in, give pages back. -ENOMEM,
 * -EHWPOISON. */
int process_memory_touch(uint64_t address);
void process_memory_punch(uint64_t address, uint64_t size_bytes);
int process_memory_zero(uint64_t address, uint64_t size_bytes);

struct process_store;

/* The same calls of a store of huge pages. */
int process_huge_get(struct process_store *store, uint64_t index, unsigned int *order, pfn_t *pfn);
void process_huge_punch(struct process_store *store, uint64_t index, uint64_t npages);

/* Counts process_mappings_changed(); never 0. A fact found under one generation holds for it. */
extern uint64_t process_generation __attribute__((visibility("hidden")));

static inline uint64_t process_mapping_generation(void)
{
	return __atomic_load_n(&process_generation, __ATOMIC_ACQUIRE);
}

#endif
