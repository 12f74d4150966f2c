/* What the library asks of the machine below it: threads and memory. */
#include <string.h>

#include "port.h"

/* This program has one thread: it never waits, and one record is enough. */

static struct quire_thread *this_thread(void)
{
	static struct quire_thread thread;
	static int is_known;

	if (!is_known++)
		quire_thread_register(&thread);
	return &thread;
}

static void never_wait(const uint32_t *word, uint32_t value)
{
	(void)word, (void)value;
}

static void relax(unsigned int turn)
{
	(void)turn;
}

static void report(const char *text)
{
	say(text, 0);
}

/* The host: what it calls the address of a page (hva_t) is the physical one. */

static void *host_alloc(void *ctx, size_t size_bytes)
{
	(void)ctx;
	return zeroed(64, size_bytes);
}

static void host_free(void *ctx, void *memory, size_t size_bytes)
{
	(void)ctx;
	release(memory, size_bytes);
}

static void *chunk_alloc(void *ctx)
{
	(void)ctx;
	return zeroed(2u << 20, 2u << 20);
}

static void chunk_free(void *ctx, void *chunk)
{
	(void)ctx;
	release(chunk, 2u << 20);
}

static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	(void)ctx, (void)flags;
	memset(page, 0, sizeof(*page));
	page->pfn.v = hva.v >> QUIRE_PAGE_SHIFT;
	page->writable = 1;
	return 0;
}

static void page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	(void)ctx, (void)page, (void)use;
}

static enum quire_level page_level(void *ctx, hva_t hva, enum quire_level max)
{
	(void)ctx, (void)hva, (void)max;
	return QUIRE_LEVEL_4K;
}

static void kick(void *ctx, void *cookie)
{
	(void)ctx, (void)cookie;
}

void fill_tables(struct quire_platform *platform, struct quire_host_ops *host)
{
	platform->self = this_thread;
	platform->wait = never_wait;
	platform->wake = never_wait;
	platform->relax = relax;
	platform->report = report;
	host->alloc = host_alloc;
	host->free = host_free;
	host->chunk_alloc = chunk_alloc;
	host->chunk_free = chunk_free;
	host->page_get = page_get;
	host->page_put = page_put;
	host->page_level = page_level;
	host->kick = kick;
}
