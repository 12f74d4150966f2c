/*
 * Decoded code: building blocks, finding them again, and noticing that the bytes have changed.
 *
 * A block may run when its page was compared with memory in this epoch. An epoch ends at each entry
 * into cpu_run(), at interrupts and serialising instructions (a fault is neither) and when
 * translations are flushed. In a new epoch a page is compared once, when code of it is about to
 * run, and loses the blocks of lines that differ. A store of this CPU to decoded lines drops their
 * blocks at once. So a CPU sees its own stores at once, and those of other CPUs, of the client and
 * of devices after it serialises, as the architecture asks of code that modifies code elsewhere.
 */
#include "vcpu/decode/code.h"

#include <errno.h>
#include <sys/mman.h>

#include "hosts/process/guard.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"
#include "vcpu/decode/decode.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/raise.h"
#include "vcpu/translate/translate.h"

#define ARENA_BYTES (UINT64_C(32) << 20)
#define PAGE_HASH 1024u

struct code_cache {
	struct code_page *pages[PAGE_HASH];
	uint64_t used_bytes;
	struct op ops[BLOCK_OPS_MAX]; /* being decoded: too large for a client's stack */
	_Alignas(64) char arena[];
};

/* Epochs of CPUs begin at 1: what stands on this page is out of date for ever. */
static struct code_page no_page;

/* Code about to be decoded: the page that RIP leads to. */
struct code_text {
	struct code_page *page;
	uint64_t linear;
	unsigned int offset; /* in the page */
};

int code_create(struct cpu *cpu)
{
	long mapped = process_map(ARENA_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	if (sys_failed(mapped))
		return -ENOMEM;
	cpu->code = (void *)mapped;
	return 0;
}

void code_destroy(struct cpu *cpu)
{
	if (cpu->code)
		munmap(cpu->code, ARENA_BYTES);
	cpu->code = NULL;
}

/*
 * Room for one block and its pages, at the price of everything decoded so far: no CPU holds a
 * block while one is built.
 */
static void arena_reserve(struct cpu *cpu)
{
	struct code_cache *cache = cpu->code;
	uint64_t need = 2 * sizeof(struct code_page) + sizeof(struct block) +
			BLOCK_OPS_MAX * sizeof(struct op) + 256;

	if (sizeof(*cache) + cache->used_bytes + need > ARENA_BYTES) {
		memset(cache, 0, offsetof(struct code_cache, arena));
		memset(cpu->tlb->jump, 0, sizeof(cpu->tlb->jump));
		memset(cpu->tlb->fetch, 0xff, sizeof(cpu->tlb->fetch));
		translate_reset(cpu);
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

static uint64_t block_lines(const struct block *block)
{
	return code_lines_of(block->host & PAGE_OFFSET_MASK, block->size_bytes);
}

/* Jump entries that lead to dropped blocks see a page that is out of date. */
static void page_drop_lines(struct cpu *cpu, struct code_page *page, uint64_t lines)
{
	page->lines &= ~lines;
	translate_drop_page(cpu, page);
	for (unsigned int line = 0; line < QUIRE_PAGE_SIZE / CODE_LINE_BYTES; line++) {
		struct block **link = &page->blocks[line];

		while (*link) {
			struct block *block = *link;

			if (!(block_lines(block) & lines)) {
				link = &block->next;
				continue;
			}
			*link = block->next;
			block->page = &no_page;
			cpu_count(&cpu->counts.drops);
		}
	}
}

void code_note_write(struct cpu *cpu, uint64_t host, unsigned int size_bytes)
{
	struct code_page *page = page_find(cpu->code, host);
	uint64_t lines = code_lines_of(host & PAGE_OFFSET_MASK, size_bytes);

	if (!page || !(page->lines & lines))
		return;
	page_drop_lines(cpu, page, lines);
	cpu->block_end = NULL;
}

static enum step text_unreadable(struct cpu *cpu, uint64_t linear)
{
	struct mmu_request request = {.linear = linear, .access = MMU_FETCH, .stage2 = MMU_FETCH};

	return mmu_guard_failed(cpu, &request);
}

/* Compare @page with memory unless that was done in this epoch. @linear leads to it. */
static enum step page_verify(struct cpu *cpu, struct code_page *page, uint64_t linear)
{
	uint64_t changed;

	if (page->epoch == cpu->code_epoch)
		return STEP_NEXT;
	cpu_count(&cpu->counts.compares);
	if (code_page_compare(page, &changed) != GUARD_OK)
		return text_unreadable(cpu, linear);
	if (unlikely(changed))
		page_drop_lines(cpu, page, changed);
	page->epoch = cpu->code_epoch;
	return STEP_NEXT;
}

int code_page_confirm(struct cpu *cpu, struct code_page *page)
{
	uint64_t changed;

	if (page->epoch == cpu->code_epoch)
		return 0;
	cpu_count(&cpu->counts.compares);
	if (code_page_compare(page, &changed) != GUARD_OK || changed)
		return 0;
	page->epoch = cpu->code_epoch;
	return 1;
}

static struct code_page *page_make(struct cpu *cpu, uint64_t host_page)
{
	struct code_page **first = &cpu->code->pages[page_hash(host_page)];
	struct code_page *page = arena_alloc(cpu->code, sizeof(*page));

	memset(page, 0, offsetof(struct code_page, bytes));
	page->host_page = host_page;
	page->epoch = cpu->code_epoch;
	page->generation = 1;
	page->next = *first;
	*first = page;
	tlb_protect_host_page(cpu, host_page);
	return page;
}

/* The page of code at @linear, equal to memory: made when there is none. */
static enum step page_get(struct cpu *cpu, uint64_t linear, struct code_page **found)
{
	struct fetch_entry *fetch;
	enum step step = mmu_fetch_page(cpu, linear, &fetch);

	if (unlikely(step))
		return step;
	if (unlikely(!fetch)) {
		cpu->info->insn_size_bytes = 0;
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	}
	if (unlikely(!fetch->page))
		fetch->page = page_find(cpu->code, fetch->host_page);
	if (unlikely(!fetch->page))
		fetch->page = page_make(cpu, fetch->host_page);
	*found = fetch->page;
	return page_verify(cpu, *found, linear);
}
/* How many bytes from @offset on the copy holds. */
static unsigned int text_available(const struct code_page *page, unsigned int offset)
{
	uint64_t missing = ~page->lines & (~UINT64_C(0) << offset / CODE_LINE_BYTES);

	if (!missing)
		return QUIRE_PAGE_SIZE - offset;
	if ((unsigned int)__builtin_ctzll(missing) * CODE_LINE_BYTES <= offset)
		return 0;
	return (unsigned int)__builtin_ctzll(missing) * CODE_LINE_BYTES - offset;
}

/* The instruction at @offset of the page; lines are read as it turns out to need them. */
static enum decode_result text_decode_one(const struct cpu *cpu, struct code_page *page,
					  unsigned int offset, struct op *op)
{
	enum decode_result result = DECODE_SHORT;

	while (result == DECODE_SHORT) {
		struct decode_input input = {
		    .bytes = page->bytes + offset,
		    .size_bytes = text_available(page, offset),
		    .code_bytes = cpu->code_bytes,
		    .features = cpu->features,
		};
		unsigned int end = offset + input.size_bytes;

		if (input.size_bytes)
			result = decode_one(&input, op);
		if (result == DECODE_SHORT &&
		    (end == QUIRE_PAGE_SIZE ||
		     code_page_load(page, code_lines_of(end, 1)) != GUARD_OK))
			break;
	}
	return result;
}

/* Decode as much of @text as makes a block. Returns the number of operations; 0: too few bytes. */
static unsigned int text_decode(struct cpu *cpu, const struct code_text *text, struct op *ops,
				unsigned int *size_bytes)
{
	unsigned int count = 0, at = text->offset;

	while (count < BLOCK_OPS_MAX && at < QUIRE_PAGE_SIZE) {
		enum decode_result result = text_decode_one(cpu, text->page, at, &ops[count]);

		if (result == DECODE_SHORT || (result == DECODE_INVALID && count))
			break;
		at += ops[count].length;
		if (ops[count++].flags & OP_ENDS_BLOCK)
			break;
	}
	*size_bytes = at - text->offset;
	return count;
}

static struct block *block_make(struct cpu *cpu, const struct code_text *text, const struct op *ops,
				unsigned int count)
{
	uint64_t ops_bytes = count * sizeof(struct op), host = text->page->host_page | text->offset;
	struct block *block = arena_alloc(cpu->code, sizeof(*block) + ops_bytes);
	struct block **first = &text->page->blocks[text->offset / CODE_LINE_BYTES];

	memset(block, 0, sizeof(*block));
	block->host = host;
	block->op_count = count;
	block->code_bytes = cpu->code_bytes;
	memcpy(block->ops, ops, ops_bytes);
	block->page = text->page;
	block->next = *first;
	*first = block;
	return block;
}

/*
 * The 15 bytes from the end of @text's page on into the next one, *@found. The copies of both
 * pages hold them then.
 */
static enum step text_cross(struct cpu *cpu, const struct code_text *text, uint8_t bytes[INSN_MAX],
			    struct code_page **found)
{
	unsigned int first = QUIRE_PAGE_SIZE - text->offset;
	uint64_t next = text->linear + first;
	struct code_page *second;
	enum step step = page_get(cpu, next, &second);

	if (step)
		return step;
	*found = second;
	if (code_page_load(text->page, code_lines_of(text->offset, first)) != GUARD_OK)
		return text_unreadable(cpu, text->linear);
	if (code_page_load(second, 1) != GUARD_OK)
		return text_unreadable(cpu, next);
	memcpy(bytes, text->page->bytes + text->offset, first);
	memcpy(bytes + first, second->bytes, INSN_MAX - first);
	return STEP_NEXT;
}

/* The first instruction goes on into the next page: a block of its own. */
static enum step block_build_crossing(struct cpu *cpu, const struct code_text *text,
				      struct block **found)
{
	uint8_t bytes[INSN_MAX];
	struct decode_input input = {
	    .bytes = bytes,
	    .size_bytes = INSN_MAX,
	    .code_bytes = cpu->code_bytes,
	    .features = cpu->features,
	};
	struct code_page *second;
	struct op op;
	enum step step = text_cross(cpu, text, bytes, &second);

	if (step)
		return step;
	if (decode_one(&input, &op) == DECODE_SHORT)
		return cpu_raise_error(cpu, VECTOR_GP, 0); /* longer than 15 bytes */
	*found = block_make(cpu, text, &op, 1);
	(*found)->size_bytes = op.length;
	(*found)->second = second;
	(*found)->crosses = op.length > QUIRE_PAGE_SIZE - text->offset;
	memcpy((*found)->crossing, bytes, op.length);
	return STEP_NEXT;
}

static enum step block_build(struct cpu *cpu, const struct code_text *text, struct block **found)
{
	struct op *ops = cpu->code->ops;
	unsigned int used, count = text_decode(cpu, text, ops, &used);

	if (count) {
		*found = block_make(cpu, text, ops, count);
		(*found)->size_bytes = used;
		return STEP_NEXT;
	}
	if (text->offset + INSN_MAX <= QUIRE_PAGE_SIZE)
		return text_unreadable(cpu, text->linear);
	return block_build_crossing(cpu, text, found);
}

/* Are the bytes in both pages, as the translations are now, still those that were decoded? */
static enum step crossing_compare(struct cpu *cpu, const struct code_text *text,
				  struct block *block)
{
	uint8_t bytes[INSN_MAX];
	struct code_page *second;
	enum step step = text_cross(cpu, text, bytes, &second);

	if (step)
		return step;
	if (memcmp(bytes, block->crossing, block->size_bytes))
		page_drop_lines(cpu, text->page, block_lines(block));
	/* Its units look at the epoch of the page that was second when they were made. */
	if (second != block->second)
		memset(block->unit, 0, sizeof(block->unit));
	block->second = second;
	return STEP_NEXT;
}

static struct block *block_find(const struct cpu *cpu, const struct code_text *text)
{
	struct block *block = text->page->blocks[text->offset / CODE_LINE_BYTES];
	uint64_t host = text->page->host_page | text->offset;

	while (block && !(block->host == host && block->code_bytes == cpu->code_bytes))
		block = block->next;
	return block;
}

/* By the translation of RIP. */
static enum step find_translated(struct cpu *cpu, struct block **found)
{
	struct code_text text = {.linear = code_linear(cpu)};
	struct block *block;
	enum step step;

	arena_reserve(cpu);
	step = page_get(cpu, text.linear, &text.page);
	if (unlikely(step))
		return step;
	text.offset = text.linear & PAGE_OFFSET_MASK;
	block = block_find(cpu, &text);
	if (block && unlikely(block->crosses)) {
		step = crossing_compare(cpu, &text, block);
		if (step)
			return step;
		if (block->page == &no_page)
			block = NULL;
	}
	if (unlikely(!block))
		return block_build(cpu, &text, found);
	*found = block;
	return STEP_NEXT;
}

/*
 * The block that @entry remembers, when it is that of RIP by the translation as it is now: else
 * *@found is NULL.
 */
static enum step find_remembered(struct cpu *cpu, const struct jump_entry *entry,
				 struct block **found)
{
	uint64_t linear = code_linear(cpu);
	struct block *block = entry->block;
	struct fetch_entry *fetch;
	enum step step;

	*found = NULL;
	if (!block || entry->tag != jump_tag(cpu, linear) || block->page == &no_page)
		return STEP_NEXT;
	if (entry->generation != cpu->jump_generation) {
		step = mmu_fetch_page(cpu, linear, &fetch);
		if (step || !fetch || block->page->host_page != fetch->host_page)
			return step;
	}
	step = page_verify(cpu, block->page, linear);
	if (!step && block->page != &no_page)
		*found = block;
	return step;
}

enum step code_find_slow(struct cpu *cpu, struct block **found)
{
	uint64_t linear = code_linear(cpu);
	struct jump_entry *entry = jump_entry_of(cpu, linear);
	enum step step;

	if (unlikely(cpu->code_bytes != 8 && cpu->s.rip > cpu->s.seg[CPU_CS].limit))
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = find_remembered(cpu, entry, found);
	if (!step && !*found)
		step = find_translated(cpu, found);
	if (!step && !(*found)->crosses && likely(!cpu->watch))
		*entry = (struct jump_entry){jump_tag(cpu, linear), *found, cpu->jump_generation};
	return step;
}

unsigned int code_bytes_at_rip(struct cpu *cpu, uint8_t bytes[15])
{
	uint64_t linear = code_linear(cpu);
	enum stop stop = cpu->stop;
	unsigned int size = 0;

	while (size < INSN_MAX) {
		unsigned int room = QUIRE_PAGE_SIZE - (linear & PAGE_OFFSET_MASK);
		struct fetch_entry *fetch;
		size_t done;

		if (room > INSN_MAX - size)
			room = INSN_MAX - size;
		if (mmu_fetch_page(cpu, linear, &fetch) || !fetch)
			break;
		guard_copy(bytes + size, (void *)(uintptr_t)(fetch->host_page | (linear & 0xfff)),
			   room, &done);
		size += done;
		if (done < room)
			break;
		linear += room;
	}
	cpu->stop = stop;
	return size;
}
