/* What translated code looks up itself: the fast TLB and the jump cache, filled and emptied. */
#include "vcpu/mem/mmu.h"
#include "vcpu/translate/unit.h"

static unsigned int fast_set(uint64_t linear)
{
	return linear >> QUIRE_PAGE_SHIFT & (FAST_SETS - 1);
}

/* The number of the page is mixed in, as pages begin and end with code more often than not. */
static unsigned int jump_set(uint64_t rip)
{
	return (rip + (rip >> QUIRE_PAGE_SHIFT) * 4) >> 2 & (FAST_JUMPS - 1);
}

/* The tag of an empty entry. */
static uint64_t empty_tag(unsigned int set)
{
	return set == 0 || set == FAST_SETS - 1 ? FAST_EMPTY_AT_ENDS : 0;
}

static void set_empty(struct fast *fast, unsigned int mode, unsigned int set)
{
	fast->read[mode][set] = empty_tag(set);
	fast->write[mode][set] = empty_tag(set);
}

static void sets_add(struct fast_sets *sets, unsigned int set)
{
	sets->sets[set / 64] |= UINT64_C(1) << set % 64;
	sets->words[set / 64 / 64] |= UINT64_C(1) << set / 64 % 64;
}

/* The first of @sets from @set on; FAST_SETS: there is none. */
static unsigned int sets_next(const struct fast_sets *sets, unsigned int set)
{
	unsigned int word = set / 64;
	uint64_t bits;

	if (set >= FAST_SETS)
		return FAST_SETS;
	bits = sets->sets[word] >> set % 64;
	if (bits)
		return set + (unsigned int)__builtin_ctzll(bits);
	for (word++; word < FAST_SETS / 64; word = (word / 64 + 1) * 64) {
		bits = sets->words[word / 64] >> word % 64;
		if (!bits)
			continue;
		word += (unsigned int)__builtin_ctzll(bits);
		return word * 64 + (unsigned int)__builtin_ctzll(sets->sets[word]);
	}
	return FAST_SETS;
}

static void sets_remove(struct fast_sets *sets, unsigned int set)
{
	sets->sets[set / 64] &= ~(UINT64_C(1) << set % 64);
	if (!sets->sets[set / 64])
		sets->words[set / 64 / 64] &= ~(UINT64_C(1) << set / 64 % 64);
}

/* An empty jump is that of an address of another set. */
static void jump_empty(struct fast *fast, unsigned int mode, unsigned int set)
{
	fast->jump[mode][set] = set ? 0 : -UINT64_C(4);
}

static void note_bit(uint64_t *bits, unsigned int bit, int value)
{
	uint64_t mask = UINT64_C(1) << bit % 64;

	bits[bit / 64] = value ? bits[bit / 64] | mask : bits[bit / 64] & ~mask;
}

/* Empty all of @sets, and @sets. */
static void sets_empty(struct fast *fast, unsigned int mode, struct fast_sets *sets)
{
	for (unsigned int set = sets_next(sets, 0); set < FAST_SETS; set = sets_next(sets, set)) {
		sets_remove(sets, set);
		set_empty(fast, mode, set);
	}
}

static void tlb_empty(struct fast *fast)
{
	for (unsigned int mode = 0; mode < FAST_MODES; mode++) {
		sets_empty(fast, mode, &fast->used[mode]);
		set_empty(fast, mode, 0);
		set_empty(fast, mode, FAST_SETS - 1);
	}
}

static void jumps_empty(struct fast *fast)
{
	memset(fast->jump, 0, sizeof(fast->jump));
	memset(fast->jump_pages, 0, sizeof(fast->jump_pages));
	for (unsigned int mode = 0; mode < FAST_MODES; mode++)
		jump_empty(fast, mode, 0);
}

static unsigned int jump_page_index(uint64_t linear)
{
	return linear >> QUIRE_PAGE_SHIFT & (FAST_JUMP_PAGES - 1);
}

static int may_jump_to(const struct fast *fast, uint64_t linear)
{
	unsigned int index = jump_page_index(linear);

	return fast->jump_pages[index / 64] >> index % 64 & 1;
}

void translate_flush(struct cpu *cpu)
{
	if (!cpu->translate)
		return;
	tlb_empty(&cpu->fast);
	jumps_empty(&cpu->fast);
}

/* Empty the jumps whose bits are set, and clear these. */
static void local_jumps_empty(struct fast *fast, unsigned int mode)
{
	uint64_t *bits = fast->jump_local[mode];

	for (unsigned int word = 0; word < FAST_JUMPS / 64; word++) {
		for (; bits[word]; bits[word] &= bits[word] - 1)
			jump_empty(fast, mode,
				   word * 64 + (unsigned int)__builtin_ctzll(bits[word]));
	}
}

void translate_flush_non_global(struct cpu *cpu)
{
	struct fast *fast = &cpu->fast;

	if (!cpu->translate)
		return;
	for (unsigned int mode = 0; mode < FAST_MODES; mode++) {
		sets_empty(fast, mode, &fast->local[mode]);
		local_jumps_empty(fast, mode);
	}
}

/* What begins in the region, or before it and ends there: an instruction may. */
static int jump_is_in(uint64_t rip, uint64_t region, unsigned int shift)
{
	return rip >> shift == region || (rip + INSN_MAX - 1) >> shift == region;
}

static void jumps_drop_region(struct fast *fast, uint64_t linear, unsigned int shift)
{
	for (unsigned int mode = 0; mode < FAST_MODES; mode++)
		for (unsigned int set = 0; set < FAST_JUMPS; set++)
			if (jump_is_in(-fast->jump[mode][set], linear >> shift, shift))
				jump_empty(fast, mode, set);
}

void translate_flush_page(struct cpu *cpu, uint64_t linear)
{
	struct fast *fast = &cpu->fast;
	uint64_t page = linear & PAGE_NUMBER_MASK;
	unsigned int set = fast_set(linear);

	if (!cpu->translate)
		return;
	for (unsigned int mode = 0; mode < FAST_MODES; mode++)
		if (fast->read[mode][set] == -page || fast->write[mode][set] == -page)
			set_empty(fast, mode, set);
	if (may_jump_to(fast, linear))
		jumps_drop_region(fast, linear, QUIRE_PAGE_SHIFT);
}

void translate_flush_region(struct cpu *cpu, uint64_t linear, unsigned int shift)
{
	struct fast *fast = &cpu->fast;
	uint64_t region = linear >> shift, pages = UINT64_C(1) << (shift - QUIRE_PAGE_SHIFT);
	unsigned int first = 0, end = FAST_SETS;

	if (!cpu->translate)
		return;
	if (pages < FAST_SETS) {
		first = fast_set(region << shift);
		end = first + (unsigned int)pages;
	}
	for (unsigned int mode = 0; mode < FAST_MODES; mode++) {
		const struct fast_sets *used = &fast->used[mode];

		for (unsigned int set = sets_next(used, first); set < end;
		     set = sets_next(used, set + 1)) {
			if (-fast->read[mode][set] >> shift == region ||
			    -fast->write[mode][set] >> shift == region)
				set_empty(fast, mode, set);
		}
	}
	jumps_drop_region(fast, linear, shift);
}

/*
 * Of the 64 sets of @word. A guest that uses them all has each new page of code searched for in
 * them: so ask first whether any has it, which the compiler makes a few vectors of.
 */
static void protect_word(struct fast *fast, unsigned int mode, unsigned int word,
			 uint64_t host_page)
{
	const uint64_t *addend = &fast->addend[mode][word * 64];
	uint64_t *write = &fast->write[mode][word * 64], is_there = 0;

	for (unsigned int i = 0; i < 64; i++)
		is_there |= addend[i] - write[i] == host_page;
	for (unsigned int i = 0; i < 64 && unlikely(is_there); i++)
		if (addend[i] - write[i] == host_page)
			write[i] = empty_tag(word * 64 + i);
}

void translate_protect(struct cpu *cpu, uint64_t host_page)
{
	struct fast *fast = &cpu->fast;

	if (!cpu->translate)
		return;
	for (unsigned int mode = 0; mode < FAST_MODES; mode++)
		for (unsigned int set = sets_next(&fast->used[mode], 0); set < FAST_SETS;
		     set = sets_next(&fast->used[mode], (set / 64 + 1) * 64))
			protect_word(fast, mode, set / 64, host_page);
}

void translate_drop_page(struct cpu *cpu, struct code_page *page)
{
	if (!cpu->translate)
		return;
	page->generation++;
	cpu_count(&cpu->counts.unlinks);
	jumps_empty(&cpu->fast);
}

void translate_take(struct cpu *cpu, const struct tlb_entry *entry)
{
	struct fast *fast = &cpu->fast;
	uint64_t page = entry->read & PAGE_NUMBER_MASK;
	unsigned int mode = entry->read & PAGE_OFFSET_MASK, set = fast_set(page);

	if (!cpu->translate)
		return;
	set_empty(fast, mode, set);
	fast->read[mode][set] = -page;
	if (entry->write != TLB_EMPTY)
		fast->write[mode][set] = -page;
	fast->addend[mode][set] = entry->addend;
	sets_add(&fast->used[mode], set);
	sets_add(&fast->local[mode], set);
}

int fast_fill(struct cpu *cpu, uint64_t linear, int is_write)
{
	struct fast *fast = &cpu->fast;
	unsigned int mode = cpu->tlb_mode, set = fast_set(linear);
	uint64_t tag = -(linear & PAGE_NUMBER_MASK);
	const struct tlb_entry *entry = tlb_entry_of(cpu, linear, is_write ? MMU_WRITE : MMU_READ);

	/* A miss in spite of the tag: the access crosses the page's end. */
	if (!entry || (is_write ? fast->write : fast->read)[mode][set] == tag)
		return -1;
	/* A tag of the other kind that stays must be of the same page. */
	if (fast->read[mode][set] != tag)
		fast->read[mode][set] = empty_tag(set);
	if (fast->write[mode][set] != tag)
		fast->write[mode][set] = empty_tag(set);
	fast->addend[mode][set] = entry->addend;
	sets_add(&fast->used[mode], set);
	if (!entry->global)
		sets_add(&fast->local[mode], set);
	if (is_write)
		fast->write[mode][set] = tag;
	else
		fast->read[mode][set] = tag;
	return 0;
}

int fast_walk(struct cpu *cpu, uint64_t linear, int is_write)
{
	enum mmu_access access = is_write ? MMU_WRITE : MMU_READ;
	struct mmu_request request = {.linear = linear, .access = access, .stage2 = access};
	struct mmu_result result;

	/* In lockstep the interpreter's own access drops what the host refuses: it would be walked
	 * for again and again. */
	if (cpu->linear_root || cpu->translate->lockstep)
		return -1;
	if (mmu_translate_fast(cpu, &request, &result) != MMU_FAST_FOUND)
		return -1;
	tlb_fill(cpu, &request, &result);
	return fast_fill(cpu, linear, is_write);
}

void fast_note_jump(struct cpu *cpu, const struct unit *unit)
{
	struct fast *fast = &cpu->fast;
	unsigned int set = jump_set(cpu->s.rip);
	int is_global = tlb_fetches_global(cpu, cpu->s.rip) && !unit->block->crosses;

	note_bit(fast->jump_local[unit->mode], set, !is_global);
	note_bit(fast->jump_pages, jump_page_index(cpu->s.rip), 1);
	note_bit(fast->jump_pages, jump_page_index(cpu->s.rip + INSN_MAX - 1), 1);
	fast->jump[unit->mode][set] = -cpu->s.rip;
	fast->jump_code[unit->mode][set] = unit->code + unit->entry;
	fast->jump_epoch[unit->mode][set] = &unit->block->page->epoch;
}

uint64_t fast_confirm_jump(struct cpu *cpu)
{
	struct fast *fast = &cpu->fast;
	unsigned int mode = cpu->tlb_mode, set = jump_set(cpu->s.rip);
	char *epoch = (char *)fast->jump_epoch[mode][set];

	if (fast->jump[mode][set] != -cpu->s.rip)
		return 0;
	if (!code_page_confirm(cpu, (void *)(epoch - offsetof(struct code_page, epoch))))
		return 0;
	return fast->jump_code[mode][set];
}

uint64_t fast_find_jump(struct cpu *cpu)
{
	const struct fast *fast = &cpu->fast;
	unsigned int mode = cpu->tlb_mode, set = jump_set(cpu->s.rip);

	if (unlikely(mode >= FAST_MODES || cpu->code_bytes != 8) ||
	    fast->jump[mode][set] != -cpu->s.rip)
		return 0;
	if (*fast->jump_epoch[mode][set] == cpu->code_epoch)
		return fast->jump_code[mode][set];
	return fast_confirm_jump(cpu);
}
