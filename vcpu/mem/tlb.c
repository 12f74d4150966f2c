/* The software TLB: what a vCPU remembers of both walks until it is flushed. */
#include "vcpu/decode/code.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/debug.h"
#include "vcpu/translate/translate.h"

/* Low bits of a tag: the privilege. */
#define TAG_PAGE(tag) ((tag)&PAGE_NUMBER_MASK)

static void entry_drop(struct tlb_entry *entry)
{
	entry->read = TLB_EMPTY;
	entry->write = TLB_EMPTY;
}

const struct tlb_entry *tlb_entry_of(const struct cpu *cpu, uint64_t linear, enum mmu_access access)
{
	uint64_t tag = tlb_tag(cpu, linear);

	for (unsigned int way = 0; way < TLB_WAYS; way++) {
		const struct tlb_entry *entry = &cpu->tlb->data[way][tlb_set(linear)];

		if ((access == MMU_WRITE ? entry->write : entry->read) == tag)
			return entry;
	}
	return NULL;
}

void *tlb_find(const struct cpu *cpu, uint64_t linear, enum mmu_access access)
{
	const struct tlb_entry *entry = tlb_entry_of(cpu, linear, access);

	return entry ? (void *)(uintptr_t)(linear + entry->addend) : NULL;
}

static struct fetch_entry *fetch_entry_of(const struct cpu *cpu, uint64_t linear)
{
	return &cpu->tlb->fetch[linear >> QUIRE_PAGE_SHIFT & (FETCH_SETS - 1)];
}

int tlb_fetches_global(const struct cpu *cpu, uint64_t linear)
{
	const struct fetch_entry *entry = fetch_entry_of(cpu, linear);

	return entry->tag == tlb_tag(cpu, linear) && entry->global;
}

static unsigned int large_index(uint64_t linear)
{
	return linear >> LARGE_SHIFT & (LARGE_BITS - 1);
}

/* Kernels map all memory by such pages, and user programs are often as far into their half. */
static unsigned int gigantic_index(uint64_t linear)
{
	uint64_t region = linear >> GIGANTIC_SHIFT;

	return (region ^ region / LARGE_BITS) & (LARGE_BITS - 1);
}

static int may_be_gigantic(const struct cpu *cpu, uint64_t linear)
{
	unsigned int index = gigantic_index(linear);

	return cpu->tlb->gigantic[index / 64] >> index % 64 & 1;
}

int tlb_may_be_large(const struct cpu *cpu, uint64_t linear)
{
	unsigned int index = large_index(linear);

	return may_be_gigantic(cpu, linear) || (cpu->tlb->large[index / 64] >> index % 64 & 1);
}

static void note_large(struct cpu *cpu, uint64_t linear, const struct mmu_result *result)
{
	unsigned int index = result->large > 1 ? gigantic_index(linear) : large_index(linear);
	uint64_t *bits = result->large > 1 ? cpu->tlb->gigantic : cpu->tlb->large;

	if (unlikely(result->large))
		bits[index / 64] |= UINT64_C(1) << index % 64;
}

static void note_local(uint64_t *bits, unsigned int index, int is_local)
{
	bits[index / 64] |= (uint64_t)(is_local != 0) << index % 64;
}

/*
 * The newest goes to way 0, the one there moves to way 1: two pages of one set live side by side,
 * so an instruction that needs both always gets on.
 */
void tlb_fill(struct cpu *cpu, const struct mmu_request *request, const struct mmu_result *result)
{
	unsigned int set = tlb_set(request->linear);
	struct tlb_entry *first = &cpu->tlb->data[0][set];
	uint64_t tag = tlb_tag(cpu, request->linear);
	struct tlb_entry fresh = {
	    .read = tag,
	    .write = TLB_EMPTY,
	    .addend = result->host - request->linear,
	    .global = result->global,
	};

	if (unlikely(cpu->tlb_mode == TLB_ALIGNED) || unlikely(cpu->watch) ||
	    (unlikely(cpu->debug.watched) && debug_watches_page(cpu, request->linear)))
		return;
	if (request->access == MMU_WRITE && request->stage2 == MMU_WRITE &&
	    !code_is_on_page(cpu, result->host))
		fresh.write = tag;
	if (first->read != tag) {
		cpu->tlb->data[1][set] = *first;
		note_local(cpu->tlb->local[1], set, !first->global);
	}
	note_large(cpu, request->linear, result);
	note_local(cpu->tlb->local[0], set, !fresh.global);
	*first = fresh;
}

static void tables_drop(struct tlb *tlb)
{
	memset(tlb->table, 0xff, sizeof(tlb->table));
}

/* What code was found by may lead elsewhere now, and memory may be new where it was. */
static void translations_changed(struct cpu *cpu)
{
	cpu->jump_generation++;
	code_serialise(cpu);
}

void tlb_drop_all(struct cpu *cpu)
{
	tlb_watch_forget_hosts(cpu);
	if (cpu->tlb) {
		memset(cpu->tlb, 0xff, offsetof(struct tlb, jump));
		memset(cpu->tlb->large, 0,
		       offsetof(struct tlb, space_cr3) - offsetof(struct tlb, large));
		tlb_drop_spaces(cpu);
	}
	translations_changed(cpu);
	cpu_count(&cpu->counts.flushes);
	translate_flush(cpu);
}

void tlb_forget_all(struct cpu *cpu)
{
	tlb_watch_flush_hosts(cpu);
	tlb_drop_all(cpu);
}

void tlb_flush_all(struct cpu *cpu)
{
	tlb_watch_flush_all(cpu);
	tlb_forget_all(cpu);
}

/* Drop what the bits of @way say, but for what has become global since. */
static void data_drop_local(struct tlb *tlb, unsigned int way, struct tlb_space *into)
{
	for (unsigned int word = 0; word < TLB_SETS / 64; word++) {
		uint64_t bits = tlb->local[way][word];

		tlb->local[way][word] = 0;
		for (; bits; bits &= bits - 1) {
			unsigned int set = word * 64 + (unsigned int)__builtin_ctzll(bits);
			struct tlb_entry *entry = &tlb->data[way][set];

			if (entry->global || entry->read == TLB_EMPTY)
				continue;
			if (into && into->data_count < SPACE_DATA)
				into->data[into->data_count++] = *entry;
			entry_drop(entry);
		}
	}
}

static void fetch_drop_local(struct tlb *tlb, struct tlb_space *into)
{
	for (unsigned int word = 0; word < FETCH_SETS / 64; word++) {
		uint64_t bits = tlb->local_fetch[word];

		tlb->local_fetch[word] = 0;
		for (; bits; bits &= bits - 1) {
			unsigned int set = word * 64 + (unsigned int)__builtin_ctzll(bits);
			struct fetch_entry *entry = &tlb->fetch[set];

			if (entry->global || entry->tag == TLB_EMPTY)
				continue;
			if (into && into->fetch_count < SPACE_FETCHES)
				into->fetch[into->fetch_count++] = *entry;
			entry->tag = TLB_EMPTY;
		}
	}
}

void tlb_drop_local(struct cpu *cpu, struct tlb_space *into)
{
	struct tlb *tlb = cpu->tlb;

	translations_changed(cpu);
	translate_flush_non_global(cpu);
	if (!tlb)
		return;
	tables_drop(tlb);
	for (unsigned int way = 0; way < TLB_WAYS; way++)
		data_drop_local(tlb, way, into);
	fetch_drop_local(tlb, into);
}

void tlb_flush_non_global(struct cpu *cpu)
{
	cpu_count(&cpu->counts.flushes);
	tlb_watch_flush_pcid(cpu, cpu->s.cr4 & CR4_PCIDE ? cpu->s.cr3 & CR3_PCID : 0);
	tlb_drop_local(cpu, NULL);
}

static int is_free(const struct tlb_entry *entry)
{
	return entry->read == TLB_EMPTY;
}

void tlb_take_back(struct cpu *cpu, const struct tlb_space *from)
{
	struct tlb *tlb = cpu->tlb;

	for (unsigned int i = from->data_count; i-- > 0;) {
		struct tlb_entry entry = from->data[i];
		unsigned int set = tlb_set(entry.read), way = !is_free(&tlb->data[0][set]);

		/* Code may have been decoded there meanwhile. */
		if (entry.write != TLB_EMPTY &&
		    code_is_on_page(cpu, TAG_PAGE(entry.write) + entry.addend))
			entry.write = TLB_EMPTY;
		tlb->data[way][set] = entry;
		note_local(tlb->local[way], set, 1);
		translate_take(cpu, &entry);
	}
	for (unsigned int i = 0; i < from->fetch_count; i++) {
		struct fetch_entry *entry = fetch_entry_of(cpu, from->fetch[i].tag);

		if (entry->tag != TLB_EMPTY)
			continue;
		*entry = from->fetch[i];
		entry->page = NULL; /* all decoded code may have gone meanwhile */
		note_local(tlb->local_fetch, (unsigned int)(entry - tlb->fetch), 1);
	}
}

void tlb_flush_page(struct cpu *cpu, uint64_t linear)
{
	uint64_t page = linear & PAGE_NUMBER_MASK;
	struct fetch_entry *fetch = fetch_entry_of(cpu, linear);

	tlb_watch_forget_hosts(cpu);
	translations_changed(cpu);
	cpu_count(&cpu->counts.flushes);
	translate_flush_page(cpu, linear);
	tables_drop(cpu->tlb);
	for (unsigned int way = 0; way < TLB_WAYS; way++) {
		struct tlb_entry *entry = &cpu->tlb->data[way][tlb_set(linear)];

		if (TAG_PAGE(entry->read) == page)
			entry_drop(entry);
	}
	if (TAG_PAGE(fetch->tag) == page)
		fetch->tag = TLB_EMPTY;
}

/* All that may be of one large page, which lies in a region of 1 << @shift bytes. */
static void flush_large(struct cpu *cpu, uint64_t linear, unsigned int shift)
{
	struct tlb *tlb = cpu->tlb;
	uint64_t region = linear >> shift;

	translations_changed(cpu);
	cpu_count(&cpu->counts.flushes);
	translate_flush_region(cpu, linear, shift);
	tables_drop(tlb);
	for (unsigned int i = 0; i < TLB_WAYS * TLB_SETS; i++) {
		struct tlb_entry *entry = &tlb->data[i / TLB_SETS][i % TLB_SETS];

		if (entry->read >> shift == region)
			entry_drop(entry);
	}
	for (unsigned int i = 0; i < FETCH_SETS; i++)
		if (tlb->fetch[i].tag >> shift == region)
			tlb->fetch[i].tag = TLB_EMPTY;
}

void tlb_invlpg(struct cpu *cpu, uint64_t linear)
{
	tlb_watch_flush_page(cpu, linear);
	if (unlikely(may_be_gigantic(cpu, linear)))
		flush_large(cpu, linear, GIGANTIC_SHIFT);
	else if (tlb_may_be_large(cpu, linear))
		flush_large(cpu, linear, LARGE_SHIFT);
	else
		tlb_flush_page(cpu, linear);
}

void tlb_protect_host_page(struct cpu *cpu, uint64_t host_page)
{
	translate_protect(cpu, host_page);
	for (unsigned int i = 0; i < TLB_WAYS * TLB_SETS; i++) {
		struct tlb_entry *entry = &cpu->tlb->data[i / TLB_SETS][i % TLB_SETS];

		if (entry->write != TLB_EMPTY &&
		    TAG_PAGE(entry->write) + (entry->addend & PAGE_NUMBER_MASK) == host_page)
			entry->write = TLB_EMPTY;
	}
}

enum step mmu_fetch_page(struct cpu *cpu, uint64_t linear, struct fetch_entry **found)
{
	struct fetch_entry *entry = fetch_entry_of(cpu, linear);
	struct mmu_request request = {.linear = linear, .access = MMU_FETCH, .stage2 = MMU_FETCH};
	struct mmu_result result;
	enum step step;

	*found = entry;
	if (likely(entry->tag == tlb_tag(cpu, linear)))
		return STEP_NEXT;
	step = mmu_translate(cpu, &request, &result);
	if (step)
		return step;
	if (!result.host) {
		*found = NULL;
		return STEP_NEXT;
	}
	note_large(cpu, linear, &result);
	note_local(cpu->tlb->local_fetch, linear >> QUIRE_PAGE_SHIFT & (FETCH_SETS - 1),
		   !result.global);
	*entry = (struct fetch_entry){
	    .tag = likely(!cpu->watch) ? tlb_tag(cpu, linear) : TLB_EMPTY,
	    .host_page = result.host & PAGE_NUMBER_MASK,
	    .global = result.global,
	};
	return STEP_NEXT;
}
