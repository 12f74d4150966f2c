/* The level that the machine itself maps an address with. */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define BLOCK_SHIFT (QUIRE_PAGE_SHIFT + QUIRE_TABLE_BITS)
#define BLOCK_BYTES (UINT64_C(1) << BLOCK_SHIFT)

/*
 * What was found out about 2 MiB blocks, in one word each, so that threads share it without a
 * lock: block number in bits 0-26, generation in bits 27-58, huge in bit 59, valid in bit 60. A
 * block of the same slot pushes the old one out. A generation that comes round again after 2^32
 * changes could only show a level that was right once, which is harmless: any level the slot
 * allows is correct.
 */
#define CACHE_SLOTS 8192u
#define CACHE_GENERATION_SHIFT 27u
#define CACHE_HUGE (UINT64_C(1) << 59)
#define CACHE_VALID (UINT64_C(1) << 60)

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
	fd =
	    sys_call(SYS_openat, AT_FDCWD, sys_address("/proc/self/pagemap"), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	found = sys_call(SYS_ioctl, (uint64_t)fd, SCAN_ASK, sys_address(&question));
	sys_call(SYS_close, (uint64_t)fd);
	if (found == -ENOTTY)
		__atomic_store_n(&kernel_lacks_scan, 1, __ATOMIC_RELAXED);
	return found == 1 && region.start == start && region.end == start + BLOCK_BYTES;
}

static bool block_is_huge(uint64_t start)
{
	uint64_t block = start >> BLOCK_SHIFT;
	uint64_t now = (uint32_t)process_mapping_generation();
	uint64_t key = block | now << CACHE_GENERATION_SHIFT | CACHE_VALID;
	uint64_t *slot = &block_cache[block % CACHE_SLOTS];
	uint64_t seen = __atomic_load_n(slot, __ATOMIC_RELAXED);
	bool huge;

	if ((seen & ~CACHE_HUGE) == key)
		return seen & CACHE_HUGE;
	huge = scan_block(start);
	__atomic_store_n(slot, key | (huge ? CACHE_HUGE : 0), __ATOMIC_RELAXED);
	return huge;
}

enum quire_level process_page_level(void *ctx, hva_t hva, enum quire_level max)
{
	uint64_t start = hva.v & ~(BLOCK_BYTES - 1);
	enum quire_level level = QUIRE_LEVEL_4K;
	struct process_mapping mapping;

	if (max == QUIRE_LEVEL_4K || !process_mapping_find(hva.v, &mapping))
		return QUIRE_LEVEL_4K;
	if (mapping.page_size_bytes >= level_pages(QUIRE_LEVEL_1G) * QUIRE_PAGE_SIZE)
		level = QUIRE_LEVEL_1G;
	else if (mapping.page_size_bytes >= BLOCK_BYTES)
		level = QUIRE_LEVEL_2M;
	else if (start >= mapping.start && start + BLOCK_BYTES <= mapping.end &&
		 block_is_huge(start))
		level = QUIRE_LEVEL_2M;
	return level < max ? level : max;
}
