/* The simulated machine. */
#include "hosts/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hosts/sim/frames.h"
#include "hosts/sim/kernel.h"
#include "hosts/sim/sched.h"

#define CHUNK_BYTES (UINT64_C(2) << 20)
#define CHUNK_CLEARED_BYTES 32768u

/* Address space for frames: aligned, and backed page by page as it is touched. */
static uint8_t *reserve(uint64_t size_bytes, uint64_t align)
{
	uint64_t head;
	uint8_t *at = mmap(NULL, size_bytes + align, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	head = -(uint64_t)(uintptr_t)at & (align - 1);
	if (head)
		munmap(at, head);
	munmap(at + head + size_bytes, align - head);
	madvise(at + head, size_bytes, MADV_NOHUGEPAGE);
	return at + head;
}

bool sim_host_init_rows(struct sim_host *host, uint32_t rows)
{
	uint64_t align = (rows ? SIM_GIGANTIC : SIM_BLOCK) * QUIRE_PAGE_SIZE;

	memset(host, 0, sizeof(*host));
	host->rows_end = rows * SIM_GIGANTIC;
	host->frame_count = host->rows_end + SIM_FRAMES;
	host->page_count = host->rows_end + SIM_PAGES;
	host->memory = reserve(host->frame_count * QUIRE_PAGE_SIZE, align);
	host->frames = calloc(host->frame_count, sizeof(*host->frames));
	host->pages = calloc(host->page_count, sizeof(*host->pages));
	host->swap = calloc(host->page_count, sizeof(*host->swap));
	if (!host->memory || !host->frames || !host->pages || !host->swap) {
		sim_host_destroy(host);
		return false;
	}
	sim_host_reset(host);
	return true;
}

bool sim_host_init(struct sim_host *host)
{
	return sim_host_init_rows(host, 0);
}

void sim_host_destroy(struct sim_host *host)
{
	while (host->spare_chunks) {
		void *next = *(void **)host->spare_chunks;

		free(host->spare_chunks);
		host->spare_chunks = next;
	}
	free(host->frames);
	free(host->pages);
	free(host->swap);
	if (host->memory)
		munmap(host->memory, host->frame_count * QUIRE_PAGE_SIZE);
}

void sim_host_reset(struct sim_host *host)
{
	for (uint32_t i = 0; i < host->frame_count; i++) {
		host->frames[i] = (struct sim_frame){.bytes = host->memory + i * QUIRE_PAGE_SIZE,
						     .counted = true};
	}
	if (host->rows_end)
		madvise(host->memory, host->rows_end * QUIRE_PAGE_SIZE, MADV_DONTNEED);
	memset(host->pages, 0, host->page_count * sizeof(*host->pages));
	host->next_frame = 0;
	host->zero_frame = SIM_NO_FRAME;
}

bool sim_alloc_fails(struct sim_host *host)
{
	return ++host->allocations == host->fail_at;
}

/* Let frames show @value: see sim.h for those of a row of 1 GiB. */
void sim_frames_fill(struct sim_host *host, uint32_t first, uint32_t count, uint8_t value)
{
	uint32_t step = 1;

	if (first < host->rows_end && count >= SIM_BLOCK) {
		madvise(host->frames[first].bytes, count * QUIRE_PAGE_SIZE, MADV_DONTNEED);
		step = value ? SIM_BLOCK : count;
	}
	for (uint32_t i = 0; i < count; i += step)
		memset(host->frames[first + i].bytes, value, SIM_FRAME_BYTES);
}

void sim_frames_take(struct sim_host *host, uint32_t first, uint32_t count, uint8_t fill)
{
	for (uint32_t i = first; i < first + count; i++) {
		struct sim_frame *frame = &host->frames[i];

		frame->references = 1;
		frame->generation++;
		frame->poisoned = false;
		frame->accessed = frame->dirty = false;
	}
	sim_frames_fill(host, first, count, fill);
}

/* Frames are handed out in turn: the same run takes the same frames, and one that was freed stays
 * free for long, so that a late access to it is seen. */
uint32_t sim_frame_alloc(struct sim_host *host, uint8_t fill)
{
	for (uint32_t tries = 0; tries < SIM_FRAMES; tries++) {
		uint32_t i = host->rows_end + host->next_frame++ % SIM_FRAMES;

		if (host->frames[i].references)
			continue;
		sim_frames_take(host, i, 1, fill);
		return i;
	}
	return SIM_NO_FRAME;
}

/* A free frame shows foreign bytes, so that a stale mapping is seen. */
void sim_frames_put(struct sim_host *host, uint32_t first, uint32_t count)
{
	uint32_t freed = 0;

	for (uint32_t i = first; i < first + count; i++) {
		if (--host->frames[i].references == 0) {
			freed++;
			continue;
		}
		sim_frames_fill(host, i - freed, freed, SIM_POISON);
		freed = 0;
	}
	sim_frames_fill(host, first + count - freed, freed, SIM_POISON);
}

void sim_run_add(struct sim_host *host, struct frame_run *run, uint32_t frame)
{
	if (run->count && frame == run->first + run->count) {
		run->count++;
		return;
	}
	sim_frames_put(host, run->first, run->count);
	*run = (struct frame_run){.first = frame, .count = 1};
}

uint32_t sim_map(struct sim_host *host, uint32_t page, uint32_t flags)
{
	uint32_t frame = sim_frame_alloc(host, 0);

	host->pages[page] = (struct sim_page){.frame = frame, .flags = SIM_MAPPED | flags};
	return frame;
}

static bool frames_are_free(const struct sim_host *host, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (host->frames[first + i].references)
			return false;
	return true;
}

uint32_t sim_frames_row(struct sim_host *host, uint32_t count, uint8_t fill)
{
	bool small = count < SIM_GIGANTIC;
	uint32_t first = small ? host->rows_end : 0;
	uint32_t end = small ? host->frame_count : host->rows_end;

	while (first < end && !frames_are_free(host, first, count))
		first += count;
	if (first >= end)
		return SIM_NO_FRAME;
	if (small && host->next_frame < first - host->rows_end + count)
		host->next_frame = first - host->rows_end + count;
	sim_frames_take(host, first, count, fill);
	return first;
}

uint32_t sim_row_alloc(struct sim_host *host, uint8_t fill)
{
	return sim_frames_row(host, SIM_BLOCK, fill);
}

static void map_row(struct sim_host *host, uint32_t page, uint32_t count, uint32_t flags)
{
	uint32_t first = sim_frames_row(host, count, 0);

	if (first == SIM_NO_FRAME)
		abort();
	for (uint32_t i = 0; i < count; i++)
		host->pages[page + i] =
		    (struct sim_page){.frame = first + i, .flags = SIM_MAPPED | flags};
}

void sim_map_huge(struct sim_host *host, uint32_t page, uint32_t flags)
{
	map_row(host, page, SIM_BLOCK, flags);
}

void sim_map_gigantic(struct sim_host *host, uint32_t page, uint32_t flags)
{
	map_row(host, page, SIM_GIGANTIC, flags);
}

void sim_unmap_range(struct sim_host *host, uint32_t page, uint32_t npages)
{
	struct frame_run run = {0};

	for (struct sim_page *at = &host->pages[page]; at < &host->pages[page + npages]; at++) {
		if (sim_has_frame(at->flags))
			sim_run_add(host, &run, at->frame);
		at->flags = 0;
	}
	sim_frames_put(host, run.first, run.count);
}

void sim_unmap(struct sim_host *host, uint32_t page)
{
	sim_unmap_range(host, page, 1);
}

/* The page at @hva, whatever stands behind it; NULL where nothing is mapped. */
static struct sim_page *page_at(struct sim_host *host, uint64_t hva)
{
	uint64_t page = (hva - SIM_HVA_BASE) / QUIRE_PAGE_SIZE;

	if (hva < SIM_HVA_BASE || page >= host->page_count ||
	    !(host->pages[page].flags & SIM_MAPPED))
		return NULL;
	return &host->pages[page];
}

/* The bytes at @hva for the library's own access; NULL where it cannot be. */
static uint8_t *bytes_at(struct sim_host *host, hva_t hva, bool write)
{
	struct sim_page *page = page_at(host, hva.v);

	if (!page || (write && !(page->flags & SIM_WRITABLE)) ||
	    sim_fault_in(host, (uint32_t)(page - host->pages), write))
		return NULL;
	return host->frames[page->frame].bytes + (hva.v & ~QUIRE_PAGE_MASK);
}

void *sim_alloc(void *ctx, size_t size_bytes)
{
	struct sim_host *host = ctx;
	size_t rounded = (size_bytes + 63) & ~(size_t)63;
	void *mem;

	if (sim_alloc_fails(host))
		return NULL;
	mem = aligned_alloc(64, rounded);
	if (mem) {
		memset(mem, 0, rounded);
		host->allocated_bytes += size_bytes;
		sched_fresh_memory(mem, size_bytes);
	}
	return mem;
}

void sim_free(void *ctx, void *mem, size_t size_bytes)
{
	struct sim_host *host = ctx;

	sched_operation_done();
	host->allocated_bytes -= size_bytes;
	/* A late reader sees nothing that makes sense; the compiler knows of no reader. */
	memset(mem, SIM_POISON, size_bytes);
	__asm__ volatile("" : : "r"(mem) : "memory");
	free(mem);
}

static void *sim_chunk_alloc(void *ctx)
{
	struct sim_host *host = ctx;
	void *chunk = host->spare_chunks;

	if (sim_alloc_fails(host))
		return NULL;
	if (chunk)
		host->spare_chunks = *(void **)chunk;
	else
		chunk = aligned_alloc(CHUNK_BYTES, CHUNK_BYTES);
	if (!chunk)
		return NULL;
	/* What lies behind the descriptors is filled before it is used. */
	memset(chunk, 0, CHUNK_CLEARED_BYTES);
	sched_fresh_memory(chunk, CHUNK_CLEARED_BYTES);
	host->chunks++;
	return chunk;
}

static void sim_chunk_free(void *ctx, void *chunk)
{
	struct sim_host *host = ctx;

	*(void **)chunk = host->spare_chunks;
	host->spare_chunks = chunk;
	host->chunks--;
}

static bool is_counted(const struct sim_page *mapped, const struct sim_frame *frame)
{
	return frame->counted && !frame->reserved && !(mapped->flags & SIM_DEVICE);
}

static int sim_page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	struct sim_host *host = ctx;
	struct sim_page *mapped = page_at(host, hva.v);
	struct sim_frame *frame;
	bool slow;
	int err;

	if (!mapped)
		return -EFAULT;
	slow = mapped->flags & (SIM_SLOW | SIM_SWAPPED);
	if (slow && (flags & QUIRE_PAGE_NOWAIT))
		return -EAGAIN;
	if (slow && (flags & QUIRE_PAGE_INTERRUPTIBLE) && host->interrupted)
		return -EINTR;
	if ((flags & QUIRE_PAGE_WRITE) &&
	    (mapped->flags & (SIM_WRITABLE | SIM_NOREAD)) != SIM_WRITABLE)
		return mapped->flags & SIM_DEVICE ? -EROFS : -EFAULT;
	if (slow && host->watcher.waits)
		host->watcher.waits(host->watcher.ctx);
	err = sim_fault_in(host, (uint32_t)(mapped - host->pages), flags & QUIRE_PAGE_WRITE);
	if (err)
		return err;
	frame = &host->frames[mapped->frame];
	if (frame->poisoned)
		return -EHWPOISON;
	page->refcounted = is_counted(mapped, frame);
	/* It may go at any time: only for callers that hear of that. */
	if (!page->refcounted && !(flags & QUIRE_PAGE_GUARDED))
		return -EINVAL;
	page->pfn.v = (uint64_t)(uintptr_t)frame->bytes >> QUIRE_PAGE_SHIFT;
	page->writable = (mapped->flags & (SIM_WRITABLE | SIM_SHARED | SIM_NOREAD)) == SIM_WRITABLE;
	page->noexec = mapped->flags & SIM_NOEXEC ? QUIRE_NOEXEC : QUIRE_EXEC_ALL;
	page->noread = (mapped->flags & SIM_NOREAD) != 0;
	if (page->refcounted)
		frame->references++;
	return 0;
}

/* As the kernel's fast lookup: what a page table of the client shows, and lets be written. */
static bool is_there(const struct sim_host *host, const struct sim_page *page)
{
	const uint32_t away =
	    SIM_SLOW | SIM_SWAPPED | SIM_EMPTY | SIM_SHARED | SIM_DEVICE | SIM_NOREAD;

	return page && (page->flags & SIM_WRITABLE) && !(page->flags & away) &&
	       !host->frames[page->frame].poisoned;
}

static uint64_t sim_pages_there(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages)
{
	struct sim_host *host = ctx;
	uint64_t there = 0;

	for (uint32_t i = 0; i < npages; i++) {
		const struct sim_page *page = page_at(host, hva.v + i * QUIRE_PAGE_SIZE);
		const uint32_t flags = QUIRE_PAGE_WRITE | QUIRE_PAGE_NOWAIT | QUIRE_PAGE_GUARDED;
		hva_t at = {hva.v + i * QUIRE_PAGE_SIZE};

		if (is_there(host, page) && !sim_page_get(host, at, flags, &pages[i]))
			there |= UINT64_C(1) << i;
	}
	return there;
}

static void sim_page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	struct sim_host *host = ctx;
	uint64_t address = page->pfn.v << QUIRE_PAGE_SHIFT;
	uint64_t index = (address - (uint64_t)(uintptr_t)host->memory) / QUIRE_PAGE_SIZE;
	struct sim_frame *frame = &host->frames[index];

	if (!page->refcounted || !frame->counted || frame->reserved || !frame->references) {
		host->violations++;
		return;
	}
	frame->accessed |= use != QUIRE_PAGE_UNUSED;
	frame->dirty |= use == QUIRE_PAGE_DIRTY;
	sim_frames_put(host, (uint32_t)index, 1);
}

/* Do the @count pages around @page show one aligned row of frames, all with the same rights? */
static bool shows_row(const struct sim_host *host, uint32_t page, uint32_t count)
{
	uint32_t first = page & ~(count - 1);
	const struct sim_page *pages = &host->pages[first];

	if (first + count > host->page_count || pages[0].frame % count ||
	    !sim_has_frame(pages[0].flags) || (pages[0].flags & SIM_SMALL))
		return false;
	for (uint32_t i = 1; i < count; i++)
		if (pages[i].frame != pages[0].frame + i || pages[i].flags != pages[0].flags)
			return false;
	return true;
}

static enum quire_level sim_page_level(void *ctx, hva_t hva, enum quire_level max)
{
	const struct sim_host *host = ctx;
	uint32_t page = (uint32_t)((hva.v - SIM_HVA_BASE) / QUIRE_PAGE_SIZE);

	if (max >= QUIRE_LEVEL_1G && shows_row(host, page, SIM_GIGANTIC))
		return QUIRE_LEVEL_1G;
	return max >= QUIRE_LEVEL_2M && shows_row(host, page, SIM_BLOCK) ? QUIRE_LEVEL_2M
									 : QUIRE_LEVEL_4K;
}

static void tell_own_copy(struct sim_host *host, const uint8_t *bytes, struct sim_copy copy)
{
	uint64_t at = (uint64_t)(bytes - host->memory);

	copy.offset_bytes = at % QUIRE_PAGE_SIZE;
	if (host->watcher.own_copy)
		host->watcher.own_copy(host->watcher.ctx, (uint32_t)(at / QUIRE_PAGE_SIZE), &copy);
}

static int sim_copy_from(void *ctx, void *dst, hva_t src, size_t size_bytes)
{
	const uint8_t *bytes;

	sched_yield_point();
	bytes = bytes_at(ctx, src, false);
	if (!bytes)
		return -EFAULT;
	memcpy(dst, bytes, size_bytes);
	tell_own_copy(ctx, bytes, (struct sim_copy){.data = dst, .size_bytes = size_bytes});
	return 0;
}

static int sim_copy_to(void *ctx, hva_t dst, const void *src, size_t size_bytes)
{
	uint8_t *bytes;

	/* Others run before the bytes are there, as with a copy that faults. */
	sched_yield_point();
	bytes = bytes_at(ctx, dst, true);
	if (!bytes)
		return -EFAULT;
	memcpy(bytes, src, size_bytes);
	tell_own_copy(ctx, bytes,
		      (struct sim_copy){.data = src, .size_bytes = size_bytes, .write = true});
	return 0;
}

static int sim_load_u64(void *ctx, hva_t src, uint64_t *value)
{
	const void *word = bytes_at(ctx, src, false);

	if (!word)
		return -EFAULT;
	*value = *(const uint64_t *)word;
	return 0;
}

static int sim_cmpxchg_u64(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	uint64_t *word = (void *)bytes_at(ctx, dst, true), wanted = *expected;

	if (!word)
		return -EFAULT;
	*expected = *word;
	if (*word == wanted)
		*word = desired;
	return 0;
}

static void sim_kick(void *ctx, void *cookie)
{
	struct sim_host *host = ctx;

	(void)cookie;
	host->kicks++;
}

const struct quire_host_ops sim_host_ops = {
    .alloc = sim_alloc,
    .free = sim_free,
    .chunk_alloc = sim_chunk_alloc,
    .chunk_free = sim_chunk_free,
    .page_get = sim_page_get,
    .pages_there = sim_pages_there,
    .page_put = sim_page_put,
    .page_level = sim_page_level,
    .copy_from = sim_copy_from,
    .copy_to = sim_copy_to,
    .load_u64 = sim_load_u64,
    .cmpxchg_u64 = sim_cmpxchg_u64,
    .store_create = sim_store_create,
    .store_destroy = sim_store_destroy,
    .store_get = sim_store_get,
    .store_zero = sim_store_zero,
    .store_punch = sim_store_punch,
    .store_show = sim_store_show,
    .store_clear = sim_store_clear,
    .store_create_huge = sim_store_create_huge,
    .store_reshape = sim_store_reshape,
    .frame_lost = sim_frame_lost,
    .kick = sim_kick,
};
