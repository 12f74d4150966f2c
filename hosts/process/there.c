/* Which of the client's pages are in memory: asked before an access, and nothing is touched. */
#include <sys/mman.h>

#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define BLOCK_PAGES 512u
#define BLOCK_BYTES (BLOCK_PAGES * QUIRE_PAGE_SIZE)

/*
 * A call of the kernel costs several faults, so a thread that asks about a block of 2 MiB for the
 * second time is told about all of it, and keeps that. A page that has gone since does no harm: a
 * pfn is an address here, and the guest's access waits for the page as the client's own would. A
 * page that has come since is not named before the block is asked about again.
 */
#define ANSWERS_WITH_HOLES 64u

struct block {
	uint64_t start; /* address; 0: none */
	uint64_t generation;
	uint32_t left; /* answers with holes before the kernel is asked again; 0: not asked */
	uint64_t there[BLOCK_PAGES / 64];
};

static _Thread_local struct block own_block __attribute__((tls_model("initial-exec")));

/* Bit i of @there: page i from @start is in memory. */
static bool ask_kernel(uint64_t start, uint64_t npages, uint64_t *there)
{
	uint8_t resident[BLOCK_PAGES];

	if (sys_call(SYS_mincore, start, npages * QUIRE_PAGE_SIZE, sys_address(resident)))
		return false;
	for (uint64_t i = 0; i < npages; i++)
		there[i / 64] |= (uint64_t)(resident[i] & 1) << i % 64;
	return true;
}

/* The part of the block that @mapping has. */
static bool ask_about_block(struct block *block, const struct process_mapping *mapping)
{
	uint64_t start = mapping->start > block->start ? mapping->start : block->start;
	uint64_t end = block->start + BLOCK_BYTES;
	uint64_t there[BLOCK_PAGES / 64] = {0};
	uint64_t skipped = (start - block->start) / QUIRE_PAGE_SIZE;

	if (mapping->end < end)
		end = mapping->end;
	if (!ask_kernel(start, (end - start) / QUIRE_PAGE_SIZE, there))
		return false;
	for (uint64_t i = 0; i < BLOCK_PAGES / 64; i++)
		block->there[i] = 0;
	for (uint64_t i = 0; i + skipped < BLOCK_PAGES; i++)
		block->there[(i + skipped) / 64] |= (there[i / 64] >> i % 64 & 1)
						    << (i + skipped) % 64;
	block->left = ANSWERS_WITH_HOLES;
	return true;
}

/* Of @npages pages from @hva, all in one block and one mapping. */
static uint64_t pages_in_memory(uint64_t hva, uint32_t npages,
				const struct process_mapping *mapping, uint64_t generation)
{
	struct block *block = &own_block;
	uint64_t first = hva % BLOCK_BYTES / QUIRE_PAGE_SIZE, all = UINT64_MAX >> (64 - npages);
	uint64_t there = 0;

	if (block->start != hva - hva % BLOCK_BYTES || block->generation != generation) {
		block->start = hva - hva % BLOCK_BYTES;
		block->generation = generation;
		block->left = 0;
		return ask_kernel(hva, npages, &there) ? there : 0;
	}
	if (!block->left && !ask_about_block(block, mapping))
		return 0;
	for (uint32_t i = 0; i < npages; i++)
		there |= (block->there[(first + i) / 64] >> (first + i) % 64 & 1) << i;
	if (there != all)
		block->left--;
	return there;
}

uint64_t process_pages_there(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages)
{
	/* Before the mapping is looked up: what is found out is filed under it. */
	uint64_t generation = process_mapping_generation(), there;
	uint64_t room = (BLOCK_BYTES - hva.v % BLOCK_BYTES) / QUIRE_PAGE_SIZE;
	struct process_mapping mapping;

	/* The library asks about aligned groups. What is beyond the block, or the mapping, is not
	 * named. */
	if (!process_mapping_find(hva.v, &mapping) || !(mapping.prot & PROT_WRITE) ||
	    mapping.pfnmap)
		return 0;
	if (room > (mapping.end - hva.v) / QUIRE_PAGE_SIZE)
		room = (mapping.end - hva.v) / QUIRE_PAGE_SIZE;
	if (npages > room)
		npages = (uint32_t)room;
	there = pages_in_memory(hva.v, npages, &mapping, generation);
	for (uint32_t i = 0; i < npages; i++)
		pages[i] =
		    (struct quire_page){.pfn = {(hva.v >> QUIRE_PAGE_SHIFT) + i}, .writable = 1};
	return there;
}
