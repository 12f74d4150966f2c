/*
 * Decoded code: building blocks, finding them again, and noticing that the bytes have changed.
 *
 * A block may run when its stamp is not older than two others: that of the fetch translation
 * that leads to it, and cpu->stamp_floor, which rises at each entry into cpu_run(), at serialising
 * instructions and when this CPU writes to bytes it has decoded. An older block is compared with
 * memory first. So a CPU sees its own stores at once, and those of other CPUs, of the client and of
 * devices after it serialises, as the architecture asks of code that modifies code elsewhere.
 */
#include "vcpu/code.h"

#include <errno.h>
#include <sys/mman.h>

#include "vcpu/decode.h"
#include "vcpu/mmu.h"

#define ARENA_BYTES (UINT64_C(16) << 20)
#define BLOCK_HASH 4096u
#define PAGE_HASH 1024u
#define BLOCK_BYTES_MAX 1024u
#define INSN_MAX 15u

/* A host page with decoded bytes. */
struct code_page {
	struct code_page *next;
	uint64_t host_page;
	uint64_t lines; /* bit n: line n of 64 bytes holds decoded code */
};

struct code_cache {
	struct block *blocks[BLOCK_HASH];
	struct code_page *pages[PAGE_HASH];
	uint64_t used_bytes;
	_Alignas(64) char arena[];
};

/* The bytes of code from RIP on. */
struct code_text {
	uint64_t linear;
	struct fetch_entry page;
	uint64_t host;
	unsigned int size_bytes;
	uint8_t bytes[BLOCK_BYTES_MAX];
};

int code_create(struct cpu *cpu)
{
	void *mem = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return -ENOMEM;
	cpu->code = mem;
	return 0;
}

void code_destroy(struct cpu *cpu)
{
	if (cpu->code)
		munmap(cpu->code, ARENA_BYTES);
	cpu->code = NULL;
}

void code_serialise(struct cpu *cpu)
{
	cpu->stamp_floor = ++cpu->stamp;
	cpu->jump_generation++;
}

/*
 * Room for one block and its pages, at the price of everything decoded so far: nobody holds a
 * block while one is built.
 */
static void arena_reserve(struct cpu *cpu)
{
	struct code_cache *cache = cpu->code;

	if (sizeof(*cache) + cache->used_bytes + 4 * BLOCK_OPS_MAX * sizeof(struct op) >
	    ARENA_BYTES) {
		memset(cache, 0, offsetof(struct code_cache, arena));
		cpu->jump_generation++;
	}
}

static void *arena_alloc(struct code_cache *cache, uint64_t size_bytes)
{
	void *mem;

	size_bytes = (size_bytes + 63) & ~UINT64_C(63);
	mem = cache->arena + cache->used_bytes;
	cache->used_bytes += size_bytes;
	return mem;
}

static unsigned int page_hash(uint64_t host)
{
	return (host >> QUIRE_PAGE_SHIFT ^ host >> 22) & (PAGE_HASH - 1);
}

static unsigned int block_hash(uint64_t host)
{
	return (host ^ host >> 12) & (BLOCK_HASH - 1);
}

static struct code_page *page_find(const struct code_cache *cache, uint64_t host)
{
	struct code_page *page = cache->pages[page_hash(host)];

	while (page && page->host_page != (host & PAGE_NUMBER_MASK))
		page = page->next;
	return page;
}

int code_is_on_page(const struct cpu *cpu, uint64_t host)
{
	return page_find(cpu->code, host) != NULL;
}

static uint64_t lines_of(uint64_t host, unsigned int size_bytes)
{
	unsigned int first = (host & PAGE_OFFSET_MASK) >> 6;
	unsigned int last = ((host & PAGE_OFFSET_MASK) + size_bytes - 1) >> 6;

	if (last > 63)
		last = 63;
	return (~UINT64_C(0) >> (63 - last)) & (~UINT64_C(0) << first);
}

void code_note_write(struct cpu *cpu, uint64_t host, unsigned int size_bytes)
{
	struct code_page *page = page_find(cpu->code, host);

	if (!page || !(page->lines & lines_of(host, size_bytes)))
		return;
	code_serialise(cpu);
	cpu->block_end = NULL;
}

static void page_note_code(struct cpu *cpu, uint64_t host, unsigned int size_bytes)
{
	struct code_page *page = page_find(cpu->code, host);

	if (!page) {
		unsigned int hash = page_hash(host);

		page = arena_alloc(cpu->code, sizeof(*page));
		page->host_page = host & PAGE_NUMBER_MASK;
		page->lines = 0;
		page->next = cpu->code->pages[hash];
		cpu->code->pages[hash] = page;
		tlb_protect_host_page(cpu, page->host_page);
	}
	page->lines |= lines_of(host, size_bytes);
}

static struct mmu_request fetch_request(uint64_t linear)
{
	return (struct mmu_request){.linear = linear, .access = MMU_FETCH, .stage2 = MMU_FETCH};
}

/* Fill @text with up to @want bytes of the page of its linear address. */
static enum step text_read_page(struct cpu *cpu, struct code_text *text, unsigned int want)
{
	uint64_t linear = text->linear + text->size_bytes;
	struct mmu_request request = fetch_request(linear);
	unsigned int room = QUIRE_PAGE_SIZE - (linear & PAGE_OFFSET_MASK);
	struct fetch_entry page;
	size_t done;
	enum step step = mmu_fetch_page(cpu, linear, &page);

	if (step)
		return step;
	if (!page.host_page) {
		cpu->info->insn_size_bytes = 0;
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	}
	if (want > room)
		want = room;
	if (guard_copy(text->bytes + text->size_bytes,
		       (const void *)(uintptr_t)(page.host_page | (linear & PAGE_OFFSET_MASK)),
		       want, &done) != GUARD_OK)
		return mmu_guard_failed(cpu, &request);
	if (!text->size_bytes) {
		text->page = page;
		text->host = page.host_page | (linear & PAGE_OFFSET_MASK);
	}
	text->size_bytes += want;
	return STEP_NEXT;
}

/* Bytes from RIP, over the page's end when the first page alone does not hold @want. */
static enum step text_read_crossing(struct cpu *cpu, struct code_text *text, unsigned int want)
{
	enum step step;

	text->size_bytes = 0;
	step = text_read_page(cpu, text, want);
	if (!step && text->size_bytes < want)
		step = text_read_page(cpu, text, want - text->size_bytes);
	return step;
}

static uint64_t code_linear(const struct cpu *cpu)
{
	if (cpu->code_bytes == 8)
		return cpu->s.rip;
	return (uint32_t)(cpu->s.seg[CPU_CS].base + cpu->s.rip);
}

/* Decode as much of @text as makes a block. Returns the number of operations; 0: too few bytes. */
static unsigned int text_decode(struct cpu *cpu, struct code_text *text, struct op *ops,
				unsigned int *size_bytes)
{
	unsigned int count = 0, at = 0;

	while (count < BLOCK_OPS_MAX && at < text->size_bytes) {
		struct decode_input input = {
		    .bytes = text->bytes + at,
		    .size_bytes = text->size_bytes - at,
		    .code_bytes = cpu->code_bytes,
		    .features = cpu->features,
		};
		enum decode_result result = decode_one(&input, &ops[count]);

		if (result == DECODE_SHORT)
			break;
		if (result == DECODE_INVALID && count)
			break;
		at += ops[count].length;
		if (ops[count++].flags & OP_ENDS_BLOCK)
			break;
	}
	*size_bytes = at;
	return count;
}

static void block_unlink(struct code_cache *cache, struct block *block)
{
	struct block **link = &cache->blocks[block_hash(block->host)];

	while (*link && *link != block)
		link = &(*link)->next;
	if (*link)
		*link = block->next;
}

static struct block *block_make(struct cpu *cpu, const struct code_text *text, const struct op *ops,
				unsigned int count)
{
	uint64_t ops_bytes = count * sizeof(struct op);
	struct block *block = arena_alloc(cpu->code, sizeof(*block) + ops_bytes + text->size_bytes);
	unsigned int hash = block_hash(text->host);
	unsigned int room = QUIRE_PAGE_SIZE - (text->host & PAGE_OFFSET_MASK);

	block->host = text->host;
	block->stamp = cpu->stamp;
	block->op_count = count;
	block->size_bytes = text->size_bytes;
	block->code_bytes = cpu->code_bytes;
	block->crosses = text->size_bytes > room;
	memcpy(block->ops, ops, ops_bytes);
	memcpy((char *)block->ops + ops_bytes, text->bytes, text->size_bytes);
	block->next = cpu->code->blocks[hash];
	cpu->code->blocks[hash] = block;
	return block;
}

static enum step block_build(struct cpu *cpu, uint64_t linear, struct block **found)
{
	struct code_text text = {.linear = linear};
	struct op ops[BLOCK_OPS_MAX];
	unsigned int count, used;
	enum step step = text_read_page(cpu, &text, BLOCK_BYTES_MAX);

	if (step)
		return step;
	arena_reserve(cpu);
	count = text_decode(cpu, &text, ops, &used);
	if (!count) {
		/* The first instruction goes on into the next page: a block of its own. */
		step = text_read_crossing(cpu, &text, INSN_MAX);
		if (step)
			return step;
		count = text_decode(cpu, &text, ops, &used);
		if (!count)
			return cpu_raise_error(cpu, VECTOR_GP, 0); /* longer than 15 bytes */
		count = 1;
		used = ops[0].length;
	}
	text.size_bytes = used;
	page_note_code(cpu, text.host, used);
	if ((text.host & PAGE_OFFSET_MASK) + used > QUIRE_PAGE_SIZE) {
		struct fetch_entry second;

		step = mmu_fetch_page(cpu, (linear | PAGE_OFFSET_MASK) + 1, &second);
		if (step)
			return step;
		page_note_code(cpu, second.host_page, INSN_MAX);
	}
	*found = block_make(cpu, &text, ops, count);
	return STEP_NEXT;
}

/* Are the bytes still those that were decoded? */
static enum step block_compare(struct cpu *cpu, struct block *block, uint64_t linear, int *same)
{
	struct code_text text = {.linear = linear};
	enum step step = text_read_crossing(cpu, &text, block->size_bytes);

	if (step)
		return step;
	*same = text.size_bytes == block->size_bytes &&
		!memcmp(text.bytes, &block->ops[block->op_count], block->size_bytes);
	return STEP_NEXT;
}

static struct block *block_find(const struct cpu *cpu, uint64_t host)
{
	struct block *block = cpu->code->blocks[block_hash(host)];

	while (block && !(block->host == host && block->code_bytes == cpu->code_bytes))
		block = block->next;
	return block;
}

static enum step code_find_slow(struct cpu *cpu, struct block **found)
{
	uint64_t linear = code_linear(cpu);
	struct fetch_entry page;
	struct block *block;
	enum step step;
	int same;

	if (unlikely(cpu->code_bytes != 8 && cpu->s.rip > cpu->s.seg[CPU_CS].limit))
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = mmu_fetch_page(cpu, linear, &page);
	if (unlikely(step))
		return step;
	block = block_find(cpu, page.host_page | (linear & PAGE_OFFSET_MASK));
	if (unlikely(!block || !page.host_page))
		return block_build(cpu, linear, found);
	if (unlikely(block->stamp < page.stamp || block->stamp < cpu->stamp_floor ||
		     block->crosses)) {
		step = block_compare(cpu, block, linear, &same);
		if (step)
			return step;
		if (!same) {
			block_unlink(cpu->code, block);
			cpu->jump_generation++;
			return block_build(cpu, linear, found);
		}
		block->stamp = cpu->stamp;
	}
	*found = block;
	return STEP_NEXT;
}

/* A linear address is canonical, so the privilege in bit 48 and 49 makes no two tags equal. */
static uint64_t jump_tag(const struct cpu *cpu)
{
	return cpu->s.rip ^ (uint64_t)cpu->tlb_mode << 48;
}

enum step code_find(struct cpu *cpu, struct block **found)
{
	struct jump_entry *entry = &cpu->tlb->jump[(cpu->s.rip ^ cpu->s.rip >> 10) % JUMP_SETS];
	enum step step;

	if (cpu->code_bytes != 8)
		return code_find_slow(cpu, found);
	if (likely(entry->tag == jump_tag(cpu) && entry->generation == cpu->jump_generation)) {
		*found = entry->block;
		return STEP_NEXT;
	}
	step = code_find_slow(cpu, found);
	if (!step && !(*found)->crosses)
		*entry = (struct jump_entry){jump_tag(cpu), *found, cpu->jump_generation};
	return step;
}

unsigned int code_bytes_at_rip(struct cpu *cpu, uint8_t bytes[15])
{
	struct code_text text = {.linear = code_linear(cpu)};
	enum stop stop = cpu->stop;
	unsigned int size;

	text_read_crossing(cpu, &text, INSN_MAX);
	cpu->stop = stop;
	size = text.size_bytes < INSN_MAX ? text.size_bytes : INSN_MAX;
	memcpy(bytes, text.bytes, size);
	return size;
}
