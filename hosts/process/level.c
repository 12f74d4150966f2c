/* The level that the machine itself maps an address with. */
#include <errno.h>
#include <sys/ioctl.h>

#include "hosts/process/internal.h"
#include "hosts/process/proc_files.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define BLOCK_SHIFT (QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS)
#define BLOCK_BYTES (UINT64_C(1) << BLOCK_SHIFT)

/*
 * What was found out about 2 MiB blocks, in one word each, so that threads share it without a
 * lock: block number in bits 0-26, generation in bits 27-58, the level in bits 59-60, 0 for an
 * empty word. A page has the level of its block: huge pages fill whole blocks, and a block that
 * several mappings share, or one fills in part, has small ones. A block of the same slot pushes the
 * old one out. A generation that comes round again after 2^32 changes could only show a level
 * that was right once, which is harmless: any level the slot allows is correct.
 */
#define CACHE_SLOTS 8192u
#define CACHE_GENERATION_SHIFT 27u
#define CACHE_LEVEL_SHIFT 59u

static uint64_t block_cache[CACHE_SLOTS];

/* The kernel's question about ranges of pages (Linux 6.7), as its interface lays it out. */
struct scan_question {
	uint64_t size;
	uint64_t flags;
	uint64_t start, end;
	uint64_t walk_end;
	uint64_t vec, vec_len;
	uint64_t max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask;
	uint64_t return_mask;
};
struct scan_region {
	uint64_t start, end, categories;
};
_Static_assert(sizeof(struct scan_question) == 96, "layout of PAGEMAP_SCAN");

#define SCAN_ASK _IOWR('f', 16, struct scan_question)
#define SCAN_IS_HUGE (UINT64_C(1) << 6)

static uint32_t kernel_lacks_scan;

/* Is the block at @start one huge page? Kernels that cannot tell give no. */
static bool scan_block(uint64_t start)
{
	struct scan_region region = {0};
	struct scan_question question = {
	    .size = sizeof(question),
	    .start = start,
	    .end = start + BLOCK_BYTES,
	    .vec = sys_address(&region),
	    .vec_len = 1,
	    .category_mask = SCAN_IS_HUGE,
	    .return_mask = SCAN_IS_HUGE,
	};
	long fd, found;

	if (__atomic_load_n(&kernel_lacks_scan, __ATOMIC_RELAXED))
		return false;
	do {
		fd = proc_file_open(PROC_PAGEMAP);
		if (fd < 0)
			return false;
		found = sys_call(SYS_ioctl, (uint64_t)fd, SCAN_ASK, sys_address(&question));
	} while (found < 0 && proc_file_is_lost(PROC_PAGEMAP, fd));
	proc_file_close(PROC_PAGEMAP, fd);
	if (found == -ENOTTY)
		__atomic_store_n(&kernel_lacks_scan, 1, __ATOMIC_RELAXED);
	return found == 1 && region.start == start && region.end == start + BLOCK_BYTES;
}

static enum quire_level mapping_level(const struct process_mapping *mapping, uint64_t start)
{
	if (mapping->page_size_bytes >= level_pages(QUIRE_LEVEL_1G) * QUIRE_PAGE_SIZE)
		return QUIRE_LEVEL_1G;
	if (mapping->page_size_bytes >= BLOCK_BYTES)
		return QUIRE_LEVEL_2M;
	if (start >= mapping->start && start + BLOCK_BYTES <= mapping->end && scan_block(start))
		return QUIRE_LEVEL_2M;
	return QUIRE_LEVEL_4K;
}

/* Ask the kernel, and file the answer in @slot under @key. */
static __attribute__((noinline)) enum quire_level find_level(hva_t hva, uint64_t *slot,
							     uint64_t key)
{
	struct process_mapping mapping;
	enum quire_level level;

	if (!process_mapping_find(hva.v, &mapping))
		return QUIRE_LEVEL_4K;
	level = mapping_level(&mapping, hva.v & ~(BLOCK_BYTES - 1));
	__atomic_store_n(slot, key | (uint64_t)level << CACHE_LEVEL_SHIFT, __ATOMIC_RELAXED);
	return level;
}

enum quire_level process_page_level(void *ctx, hva_t hva, enum quire_level max)
{
	uint64_t block = hva.v >> BLOCK_SHIFT;
	uint64_t now = (uint32_t)process_mapping_generation();
	uint64_t key = block | now << CACHE_GENERATION_SHIFT;
	uint64_t *slot = &block_cache[block % CACHE_SLOTS];
	uint64_t seen = __atomic_load_n(slot, __ATOMIC_RELAXED);
	enum quire_level level = (enum quire_level)(seen >> CACHE_LEVEL_SHIFT);

	if (!level || seen != (key | (uint64_t)level << CACHE_LEVEL_SHIFT))
		level = find_level(hva, slot, key);
	return level < max ? level : max;
}
