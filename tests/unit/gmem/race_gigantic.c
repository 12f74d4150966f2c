/* Pages of one guest_memfd under real threads, where the host has units of 1 GiB: made, used,
 * punched and lost all at once. The memory is a byte a page: what would be its first. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "hosts/process/process.h"
#include "src/gmem/pages.h"

#define PAGES (UINT64_C(1) << GMEM_GIGANTIC_ORDER)
#define FILE_PAGES (PAGES + 3 * GMEM_BLOCK_PAGES) /* and some that are no unit of 1 GiB */
#define FRAME (UINT64_C(1) << 20)		  /* of page 0: aligned to 1 GiB */
#define USERS 3u
#define GARBAGE 0xa5u
#define LOOKS 64u
#define STEP 16u
#define PATIENCE_MS 30000

static struct {
	struct gmem_pages pages;
	/* Held for writing while pages go: what is seen under it is not stale. As a fault's own
	 * check. */
	pthread_rwlock_t stale;
	uint32_t content[FILE_PAGES / STEP]; /* GARBAGE, or 0 */
	uint32_t exists[FILE_PAGES / STEP];
	uint32_t stop, failures;
	uint64_t uses, wholes, punches;
} race = {.stale = PTHREAD_RWLOCK_INITIALIZER};

static int stopped(void)
{
	return (int)atomic_load_relaxed_u32(&race.stop);
}

static void check(int good, const char *what, uint64_t index)
{
	if (good)
		return;
	fprintf(stderr, "race_gigantic: %s: page %lu\n", what, (unsigned long)index);
	(void)atomic_fetch_add_u32(&race.failures, 1);
	atomic_store_relaxed_u32(&race.stop, 1);
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 33;
}

static uint32_t content_of(uint64_t index)
{
	return index % STEP ? 0 : atomic_load_relaxed_u32(&race.content[index / STEP]);
}

/* Set the words of the pages in the range. */
static void fill(uint32_t *words, uint64_t first, uint64_t npages, uint32_t value)
{
	uint64_t end = (first + npages + STEP - 1) / STEP;

	for (uint64_t i = (first + STEP - 1) / STEP; i < end; i++)
		atomic_store_relaxed_u32(&words[i], value);
}

static void *race_alloc(void *ctx, size_t size_bytes)
{
	void *mem = aligned_alloc(64, (size_bytes + 63) & ~(size_t)63);

	(void)ctx;
	if (mem)
		__builtin_memset(mem, 0, (size_bytes + 63) & ~(size_t)63);
	return mem;
}

static void race_free(void *ctx, void *mem, size_t size_bytes)
{
	(void)ctx;
	(void)size_bytes;
	free(mem);
}

/* Frames follow pages, as with a mapping: any block that is inside is one unit. */
static int race_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	(void)ctx;
	(void)store;
	while (*order && ((index >> *order) + 1) << *order > FILE_PAGES)
		*order -= 9;
	fill(race.exists, index >> *order << *order, UINT64_C(1) << *order, 1);
	pfn->v = FRAME + index;
	return 0;
}

static int race_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	for (uint64_t i = (index + STEP - 1) / STEP * STEP; i < index + npages; i += STEP)
		check(atomic_load_relaxed_u32(&race.exists[i / STEP]), "zeroed, not there", i);
	fill(race.content, index, npages, 0);
	return 0;
}

static void race_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	fill(race.exists, index, npages, 0);
	fill(race.content, index, npages, GARBAGE);
}

static const struct quire_host_ops host = {
    .alloc = race_alloc,
    .free = race_free,
    .store_get = race_get,
    .store_zero = race_zero,
    .store_punch = race_punch,
};

/* While nothing goes: a page, or all of a unit, that says it may be used may be. */
static void look(uint64_t index, uint64_t *random)
{
	struct gmem_page page;

	gmem_page_read(&race.pages, index, &page);
	if (!(page.state & GMEM_PAGE_UP_TO_DATE) || (page.state & GMEM_PAGE_POISONED))
		return;
	check(page.pfn.v == FRAME + index, "another page's frame", index);
	check(content_of(index) == 0, "used, and never zeroed", index);
	if (page.order != GMEM_GIGANTIC_ORDER ||
	    !gmem_unit_has(&race.pages, index, page.order, GMEM_PAGE_UP_TO_DATE))
		return;
	(void)atomic_fetch_add_u64(&race.wholes, 1);
	check(!gmem_unit_any(&race.pages, index, page.order, GMEM_PAGE_POISONED),
	      "in a unit with a lost page", index);
	for (uint32_t i = 0; i < LOOKS; i++) {
		uint64_t other = next_random(random) % PAGES / STEP * STEP;

		check(content_of(other) == 0, "in a unit, and never zeroed", other);
	}
}

static void *user_main(void *ctx)
{
	uint64_t random = (uintptr_t)ctx + 1;

	while (!stopped()) {
		uint64_t index = next_random(&random) % FILE_PAGES, at = 0;
		struct gmem_page page;

		if (gmem_page_use(&race.pages, index, NULL, &page))
			continue;
		/* As a fault does that wants all of the unit. */
		for (; page.order == GMEM_GIGANTIC_ORDER && at < PAGES; at += GMEM_BLOCK_PAGES)
			if (gmem_page_use(&race.pages, at, NULL, &page))
				break;
		pthread_rwlock_rdlock(&race.stale);
		look(index, &random);
		pthread_rwlock_unlock(&race.stale);
		(void)atomic_fetch_add_u64(&race.uses, 1);
	}
	return NULL;
}

static void punch(uint64_t first, uint64_t npages)
{
	pthread_rwlock_wrlock(&race.stale);
	gmem_pages_punch(&race.pages, first, npages, NULL);
	pthread_rwlock_unlock(&race.stale);
	(void)atomic_fetch_add_u64(&race.punches, 1);
}

/* A page, a block, the unit, all of it; and lost pages, which only a punch brings back. */
static void *puncher_main(void *ctx)
{
	uint64_t random = (uintptr_t)ctx + 1000;

	while (!stopped()) {
		static const uint64_t sizes[] = {1, 1, GMEM_BLOCK_PAGES, PAGES, FILE_PAGES};
		uint64_t size = sizes[next_random(&random) % 5];
		uint64_t first = next_random(&random) % FILE_PAGES / size * size;

		if (next_random(&random) % 4 == 0) {
			pthread_rwlock_wrlock(&race.stale);
			gmem_page_poison(&race.pages, first);
			pthread_rwlock_unlock(&race.stale);
			usleep(200);
		}
		punch(first, first + size > FILE_PAGES ? FILE_PAGES - first : size);
		/* Now and then long enough for a unit to become whole, on slow machines too. */
		usleep(next_random(&random) % 8 ? next_random(&random) % 2000 : 100000);
	}
	return NULL;
}

static bool is_enough(void)
{
	return atomic_load_relaxed_u64(&race.uses) && atomic_load_relaxed_u64(&race.wholes) &&
	       atomic_load_relaxed_u64(&race.punches) > 10;
}

int main(int argc, char **argv)
{
	void *(*const mains[])(void *) = {user_main, user_main, user_main, puncher_main};
	pthread_t threads[USERS + 1];
	int milliseconds = argc > 1 ? atoi(argv[1]) : 2000;

	quire_platform_install(&process_platform);
	fill(race.content, 0, FILE_PAGES, GARBAGE);
	gmem_pages_init(&race.pages, &host, NULL, FILE_PAGES);
	race.pages.max_order = GMEM_GIGANTIC_ORDER;
	for (uint64_t i = 0; i <= USERS; i++)
		if (pthread_create(&threads[i], NULL, mains[i], (void *)(uintptr_t)i))
			abort();
	/* A slow machine gets longer. */
	for (int i = 0; (i < milliseconds || (i < PATIENCE_MS && !is_enough())) && !stopped();
	     i += 10)
		usleep(10000);
	atomic_store_relaxed_u32(&race.stop, 1);
	for (uint64_t i = 0; i <= USERS; i++)
		pthread_join(threads[i], NULL);
	punch(0, FILE_PAGES);
	gmem_pages_destroy(&race.pages);
	printf("%lu uses, %lu of them whole, %lu punches\n", (unsigned long)race.uses,
	       (unsigned long)race.wholes, (unsigned long)race.punches);
	check(is_enough(), "a thread did nothing", 0);
	return race.failures != 0;
}
