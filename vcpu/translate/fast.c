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

static void set_empty(struct fast *fast, unsigned int mode, unsigned int set)
{
	memset(&fast->read[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
	memset(&fast->write[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
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

static void tlb_empty(struct fast *fast)
{
	memset(fast->read, FAST_EMPTY_BYTE, sizeof(fast->read));
	memset(fast->write, FAST_EMPTY_BYTE, sizeof(fast->write));
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

/* Empty the sets whose bits are set, and clear these. */
static void local_empty(struct fast *fast, unsigned int mode, uint64_t *bits, unsigned int words,
			void (*empty)(struct fast *fast, unsigned int mode, unsigned int set))
{
	for (unsigned int word = 0; word < words; word++) {
		for (; bits[word]; bits[word] &= bits[word] - 1)
			empty(fast, mode, word * 64 + (unsigned int)__builtin_ctzll(bits[word]));
	}
}

void translate_flush_non_global(struct cpu *cpu)
{
	struct fast *fast = &cpu->fast;

	if (!cpu->translate)
		return;
	for (unsigned int mode = 0; mode < FAST_MODES; mode++) {
		local_empty(fast, mode, fast->local[mode], FAST_SETS / 64, set_empty);
		local_empty(fast, mode, fast->jump_local[mode], FAST_JUMPS / 64, jump_empty);
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
	uint64_t region = linear >> shift;

	if (!cpu->translate)
		return;
	for (unsigned int mode = 0; mode < FAST_MODES; mode++) {
		for (unsigned int set = 0; set < FAST_SETS; set++) {
			if (-fast->read[mode][set] >> shift == region ||
			    -fast->write[mode][set] >> shift == region)
				set_empty(fast, mode, set);
		}
	}
	jumps_drop_region(fast, linear, shift);
}

void translate_protect(struct cpu *cpu, uint64_t host_page)
{
	struct fast *fast = &cpu->fast;

	if (!cpu->translate)
		return;
	for (unsigned int i = 0; i < FAST_MODES * FAST_SETS; i++) {
		unsigned int mode = i / FAST_SETS, set = i % FAST_SETS;

		if (fast->addend[mode][set] - fast->write[mode][set] == host_page)
			memset(&fast->write[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
	}
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
	note_bit(fast->local[mode], set, 1);
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
		memset(&fast->read[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
	if (fast->write[mode][set] != tag)
		memset(&fast->write[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
	fast->addend[mode][set] = entry->addend;
	note_bit(fast->local[mode], set, !entry->global);
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
