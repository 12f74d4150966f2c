/* Memory of the library's own, from the kernel: the client's malloc() may be what called us. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "hosts/process/fork.h"
#include "hosts/process/internal.h"
#include "hosts/process/map.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/*
 * Small sizes are rounded up to a power of two and carved from arenas that stay; a free block
 * links to the next of its size. Larger ones are mappings of their own. free() is told the size,
 * so no block has a header. Lists and arena are under alloc_lock.
 *
 * The child of a fork finds them after some prefix of a holder's stores: so a block is linked by
 * one store, which releases, and leaves the arena before it enters a list.
 */
#define SMALL_BITS_MIN 6u
#define SMALL_BITS_MAX 15u
#define SMALL_BYTES_MAX (UINT64_C(1) << SMALL_BITS_MAX)
#define ARENA_BYTES (UINT64_C(512) << 10)
#define CHUNK_BYTES (UINT64_C(2) << 20)

struct free_block {
	struct free_block *next;
};

static struct process_lock alloc_lock;
static struct free_block *free_blocks[SMALL_BITS_MAX + 1];
static uint8_t *arena, *arena_end;
static uint64_t bytes_allocated;

static void list_push_locked(unsigned int bits, struct free_block *block)
{
	block->next = free_blocks[bits];
	__atomic_store_n(&free_blocks[bits], block, __ATOMIC_RELEASE);
}

/* The two ends of an arena are two stores: one that was being replaced is left alone. */
static void fork_child(void)
{
	if (process_lock_start_anew(&alloc_lock))
		arena = arena_end = NULL;
}
FORK_CHILD(FORK_MEMORY, alloc_lock, fork_child);

uint64_t process_bytes_allocated(void)
{
	return __atomic_load_n(&bytes_allocated, __ATOMIC_RELAXED);
}

static void count_bytes(int64_t bytes)
{
	__atomic_fetch_add(&bytes_allocated, (uint64_t)bytes, __ATOMIC_RELAXED);
}

static void *map_memory(uint64_t size_bytes)
{
	long mapped =
	    process_map(size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	return sys_failed(mapped) ? NULL : (void *)mapped;
}

static void unmap_memory(void *mem, uint64_t size_bytes)
{
	if (size_bytes)
		sys_call(SYS_munmap, sys_address(mem), size_bytes);
}

static unsigned int small_bits(size_t size_bytes)
{
	unsigned int bits = SMALL_BITS_MIN;

	while ((UINT64_C(1) << bits) < size_bytes)
		bits++;
	return bits;
}

static uint64_t whole_pages(size_t size_bytes)
{
	return (size_bytes + QUIRE_PAGE_SIZE - 1) & QUIRE_PAGE_MASK;
}

/* 2 MiB on its own boundary; newer kernels align so large a mapping by themselves. */
static uint8_t *map_chunk(void)
{
	uint8_t *mem = map_memory(CHUNK_BYTES);
	uint64_t before;

	if (!mem || !(sys_address(mem) % CHUNK_BYTES))
		return mem;
	unmap_memory(mem, CHUNK_BYTES);
	mem = map_memory(2 * CHUNK_BYTES);
	if (!mem)
		return NULL;
	before = -sys_address(mem) % CHUNK_BYTES;
	unmap_memory(mem, before);
	unmap_memory(mem + before + CHUNK_BYTES, CHUNK_BYTES - before);
	return mem + before;
}

/* A new arena. The first of a process is small; one that needs more gets a huge page each time,
 * which keeps lookups in large VMs off the processor's page tables. */
static uint8_t *map_arena(uint64_t *size_bytes)
{
	uint8_t *mem;

	*size_bytes = arena ? CHUNK_BYTES : ARENA_BYTES;
	if (!arena)
		return map_memory(*size_bytes);
	mem = map_chunk();
	if (mem)
		sys_call(SYS_madvise, sys_address(mem), CHUNK_BYTES, MADV_HUGEPAGE);
	return mem;
}

/*
 * A block never given out before, hence zero. What is left of the old arena is split over the free
 * lists: it is a multiple of 64 bytes, its largest power of two first. alloc_lock held.
 */
static void *carve_block_locked(uint64_t size_bytes)
{
	void *block;

	while ((uint64_t)(arena_end - arena) < size_bytes) {
		uint64_t left = (uint64_t)(arena_end - arena);

		if (left) {
			unsigned int bits = 63u - (unsigned int)__builtin_clzll(left);
			struct free_block *rest = (struct free_block *)(void *)arena;

			__atomic_store_n(&arena, arena + (UINT64_C(1) << bits), __ATOMIC_RELEASE);
			list_push_locked(bits, rest);
			continue;
		}
		block = map_arena(&left);
		if (!block)
			return NULL;
		arena = block;
		arena_end = arena + left;
	}
	block = arena;
	arena += size_bytes;
	return block;
}

static void *alloc_small(size_t size_bytes)
{
	unsigned int bits = small_bits(size_bytes);
	struct free_block *block;
	void *mem;

	process_lock_acquire(&alloc_lock);
	block = free_blocks[bits];
	if (block)
		free_blocks[bits] = block->next;
	mem = block ? block : carve_block_locked(UINT64_C(1) << bits);
	process_lock_release(&alloc_lock);
	if (block)
		memset(mem, 0, size_bytes);
	return mem;
}

void *process_alloc(void *ctx, size_t size_bytes)
{
	void *mem;

	if (size_bytes > (SIZE_MAX >> 1))
		return NULL;
	if (size_bytes <= SMALL_BYTES_MAX)
		mem = alloc_small(size_bytes);
	else
		mem = map_memory(whole_pages(size_bytes));
	if (mem)
		count_bytes((int64_t)size_bytes);
	return mem;
}

void process_free(void *ctx, void *mem, size_t size_bytes)
{
	struct free_block *block = mem;
	unsigned int bits;

	if (!mem)
		return;
	count_bytes(-(int64_t)size_bytes);
	if (size_bytes > SMALL_BYTES_MAX) {
		unmap_memory(mem, whole_pages(size_bytes));
		return;
	}
	bits = small_bits(size_bytes);
	process_lock_acquire(&alloc_lock);
	list_push_locked(bits, block);
	process_lock_release(&alloc_lock);
}

/* Fault all of @chunk in. Kernels before 5.14 lack the call; there a store a page does it. */
static int populate_chunk(uint8_t *chunk)
{
	long error;

	do
		error = sys_call(SYS_madvise, sys_address(chunk), CHUNK_BYTES, MADV_POPULATE_WRITE);
	while (error == -EAGAIN || error == -EINTR);
	if (error == -EINVAL) {
		for (uint64_t at = 0; at < CHUNK_BYTES; at += QUIRE_PAGE_SIZE)
			((volatile uint8_t *)chunk)[at] = 0;
		error = 0;
	}
	return (int)error;
}

void *process_chunk_alloc(void *ctx)
{
	uint8_t *chunk = map_chunk();

	if (!chunk)
		return NULL;
	/* Both are wishes: a kernel without huge pages, or one that has forked already. */
	sys_call(SYS_madvise, sys_address(chunk), CHUNK_BYTES, MADV_HUGEPAGE);
	sys_call(SYS_madvise, sys_address(chunk), CHUNK_BYTES, MADV_DONTFORK);
	if (populate_chunk(chunk)) {
		unmap_memory(chunk, CHUNK_BYTES);
		return NULL;
	}
	count_bytes((int64_t)CHUNK_BYTES);
	return chunk;
}

void process_chunk_free(void *ctx, void *chunk)
{
	if (!chunk)
		return;
	unmap_memory(chunk, CHUNK_BYTES);
	count_bytes(-(int64_t)CHUNK_BYTES);
}
