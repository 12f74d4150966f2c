/* What translated code looks up itself: the fast TLB and the jump cache, filled and emptied. */
#include "vcpu/mmu.h"
#include "vcpu/translate/unit.h"

static unsigned int fast_set(uint64_t linear)
{
	return linear >> QUIRE_PAGE_SHIFT & (FAST_SETS - 1);
}

static unsigned int jump_set(uint64_t rip)
{
	return rip >> 2 & (FAST_JUMPS - 1);
}

static void tlb_empty(struct fast *fast)
{
	memset(fast->read, FAST_EMPTY_BYTE, sizeof(fast->read));
	memset(fast->write, FAST_EMPTY_BYTE, sizeof(fast->write));
}

/* An empty jump is that of an address of another set. */
static void jumps_empty(struct fast *fast)
{
	memset(fast->jump, 0, sizeof(fast->jump));
	for (unsigned int mode = 0; mode < FAST_MODES; mode++)
		fast->jump[mode][0] = -UINT64_C(4);
}

void translate_flush(struct cpu *cpu)
{
	if (!cpu->translate)
		return;
	tlb_empty(&cpu->fast);
	jumps_empty(&cpu->fast);
}

void translate_flush_page(struct cpu *cpu, uint64_t linear)
{
	struct fast *fast = &cpu->fast;

	if (!cpu->translate)
		return;
	for (unsigned int mode = 0; mode < FAST_MODES; mode++) {
		memset(&fast->read[mode][fast_set(linear)], FAST_EMPTY_BYTE, sizeof(uint64_t));
		memset(&fast->write[mode][fast_set(linear)], FAST_EMPTY_BYTE, sizeof(uint64_t));
	}
	jumps_empty(fast);
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
	jumps_empty(&cpu->fast);
}

int fast_fill(struct cpu *cpu, uint64_t linear, int is_write)
{
	struct fast *fast = &cpu->fast;
	unsigned int mode = cpu->tlb_mode, set = fast_set(linear);
	uint64_t tag = -(linear & PAGE_NUMBER_MASK);
	uint64_t host = (uint64_t)(uintptr_t)tlb_find(cpu, linear, is_write ? MMU_WRITE : MMU_READ);

	/* A miss in spite of the tag: the access crosses the page's end. */
	if (!host || (is_write ? fast->write : fast->read)[mode][set] == tag)
		return -1;
	/* A tag of the other kind that stays must be of the same page. */
	if (fast->read[mode][set] != tag)
		memset(&fast->read[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
	if (fast->write[mode][set] != tag)
		memset(&fast->write[mode][set], FAST_EMPTY_BYTE, sizeof(uint64_t));
	fast->addend[mode][set] = host - linear;
	if (is_write)
		fast->write[mode][set] = tag;
	else
		fast->read[mode][set] = tag;
	return 0;
}

void fast_note_jump(struct cpu *cpu, const struct unit *unit)
{
	struct fast *fast = &cpu->fast;
	unsigned int set = jump_set(cpu->s.rip);

	fast->jump[unit->mode][set] = -cpu->s.rip;
	fast->jump_code[unit->mode][set] = unit->code + unit->entry;
	fast->jump_epoch[unit->mode][set] = &unit->block->page->epoch;
}
