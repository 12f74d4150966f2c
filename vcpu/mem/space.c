/*
 * Address spaces that are not in CR3. Their translations are put aside when CR3 goes on to another
 * PCID, and taken back when a write to CR3 returns to the same tables and PCID and asks for that.
 *
 * Global translations never are here. What drops the whole TLB drops these, too: entries into L1
 * and L2, changes of CR0, CR4, EFER and PKRU, and what the library takes away.
 */
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/watch.h"

/* The space of @pcid, or TLB_SPACES. */
static unsigned int space_find(const struct tlb *tlb, uint64_t pcid)
{
	unsigned int index = 0;

	while (index < TLB_SPACES &&
	       (tlb->space_cr3[index] == TLB_EMPTY || (tlb->space_cr3[index] & CR3_PCID) != pcid))
		index++;
	return index;
}

/* An empty space for @cr3, but not @except; the one that is used longest goes when none is free. */
static struct tlb_space *space_take(struct tlb *tlb, uint64_t cr3, unsigned int except)
{
	struct tlb_space *space;
	unsigned int index = 0;

	while (index < TLB_SPACES && tlb->space_cr3[index] != TLB_EMPTY)
		index++;
	if (index == TLB_SPACES) {
		tlb->next_space += tlb->next_space % TLB_SPACES == except;
		index = tlb->next_space++ % TLB_SPACES;
	}
	space = &tlb->space[index];
	space->data_count = space->fetch_count = 0;
	tlb->space_cr3[index] = cr3;
	return space;
}

void tlb_switch_space(struct cpu *cpu, uint64_t cr3)
{
	struct tlb *tlb = cpu->tlb;
	unsigned int found = space_find(tlb, cr3 & CR3_PCID);

	tlb_drop_local(cpu, space_take(tlb, cpu->s.cr3, found));
	if (found == TLB_SPACES)
		return;
	if (tlb->space_cr3[found] == cr3)
		tlb_take_back(cpu, &tlb->space[found]);
	tlb->space_cr3[found] = TLB_EMPTY;
}

void tlb_drop_space(struct cpu *cpu, uint64_t pcid)
{
	unsigned int found = space_find(cpu->tlb, pcid);

	tlb_watch_flush_pcid(cpu, pcid);
	if (found < TLB_SPACES)
		cpu->tlb->space_cr3[found] = TLB_EMPTY;
}

void tlb_drop_spaces(struct cpu *cpu)
{
	memset(cpu->tlb->space_cr3, 0xff, sizeof(cpu->tlb->space_cr3));
}

void tlb_drop_space_page(struct cpu *cpu, uint64_t pcid, uint64_t linear)
{
	struct tlb *tlb = cpu->tlb;
	unsigned int found = space_find(tlb, pcid);
	uint64_t page = linear & PAGE_NUMBER_MASK;
	struct tlb_space *space;

	tlb_watch_flush_page_of(cpu, pcid, linear);
	if (found == TLB_SPACES)
		return;
	if (tlb_may_be_large(cpu, linear)) {
		tlb->space_cr3[found] = TLB_EMPTY;
		return;
	}
	space = &tlb->space[found];
	for (unsigned int i = 0; i < space->data_count; i++)
		if ((space->data[i].read & PAGE_NUMBER_MASK) == page)
			space->data[i--] = space->data[--space->data_count];
	for (unsigned int i = 0; i < space->fetch_count; i++)
		if ((space->fetch[i].tag & PAGE_NUMBER_MASK) == page)
			space->fetch[i--] = space->fetch[--space->fetch_count];
}
