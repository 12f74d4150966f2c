/* The common two-stage walk: one compare a load, nothing to set and nothing to refuse. */
#include "hosts/process/guard.h"
#include "src/base/types.h"
#include "vcpu/mem/pte.h"
#include "vcpu/mem/stage2.h"

/* A TLB miss is nearly always this. Whatever is not goes to the complete walk, from the start. */

/* What every entry of one stage-2 walk must have, of the bits that are looked at. */
struct stage2_need {
	uint64_t looked_at;
	uint64_t have;
	uint64_t leaf_have; /* on top of it in the leaf */
};

static always_inline struct stage2_need need_of(const struct quire_format *format,
						enum mmu_access access)
{
	uint64_t have = format->accessed | (access == MMU_FETCH ? 0 : format->readable);
	struct stage2_need need;

	if (access == MMU_WRITE)
		have |= format->writable;
	if (access == MMU_FETCH)
		have |= format->executable | (format->readable & format->present);
	need.have = have;
	need.looked_at = have | format->reserved | (access == MMU_FETCH ? format->noexec : 0);
	need.leaf_have = access == MMU_WRITE ? format->dirty : 0;
	return need;
}

/*
 * Host address of @gpa, or 0. All entries are the library's own memory: plain loads. In a process a
 * table's physical address is its pointer, which quire_walk() does not rely on.
 */
static always_inline uint64_t walk_stage2(const struct cpu *cpu, const struct stage2_need *need,
					  uint64_t gpa)
{
	const uint64_t *table = cpu->stage2.root;
	uint64_t large = cpu->stage2.format->large, entry;

	if (unlikely(gpa >> 48))
		return 0;
	for (unsigned int shift = 39; shift > 12; shift -= 9) {
		entry = __atomic_load_n(&table[gpa >> shift & 511], __ATOMIC_ACQUIRE);
		if (unlikely((entry & (need->looked_at | large)) != need->have))
			return 0;
		table = (const uint64_t *)(uintptr_t)(entry & PTE_ADDRESS);
	}
	entry = __atomic_load_n(&table[gpa >> 12 & 511], __ATOMIC_ACQUIRE);
	if (unlikely((entry & need->looked_at) != need->have || ~entry & need->leaf_have))
		return 0;
	return (entry & PTE_ADDRESS) | (gpa & PAGE_OFFSET_MASK);
}

/* The guest's entry at @host, in *@entry, when it has what every entry of the common case has. */
static always_inline int read_entry(uint64_t host, uint64_t large, uint64_t *entry)
{
	return likely(host) && guard_load_u64((const void *)(uintptr_t)host, entry) == GUARD_OK &&
	       (*entry & (PTE_P | PTE_A | PTE_RESERVED_HIGH | large)) == (PTE_P | PTE_A);
}

/* The three upper levels: where the lowest table is, and what they allow. 0: not the common case.
 */
static int find_table(struct cpu *cpu, uint64_t linear, struct table_entry *found)
{
	struct stage2_need need = need_of(cpu->stage2.format, MMU_READ);
	uint64_t table = cpu->s.cr3 & PTE_ADDRESS, entry = 0;
	uint64_t allowed = PTE_W | PTE_U, forbidden = 0;

	for (int shift = 39; shift > 12; shift -= 9) {
		uint64_t host = walk_stage2(cpu, &need, table | (linear >> shift & 511) * 8);

		if (!read_entry(host, PTE_LARGE, &entry))
			return 0;
		allowed &= entry;
		forbidden |= entry & PTE_NX;
		table = entry & PTE_ADDRESS;
	}
	found->host = walk_stage2(cpu, &need, table);
	found->rights = allowed | forbidden;
	found->tag = linear >> 21;
	return found->host != 0;
}

/* The guest's leaf for @linear, and in *@rights what all levels allow. 0: not the common case. */
static always_inline uint64_t find_leaf(struct cpu *cpu, uint64_t linear, uint64_t *rights)
{
	struct table_entry *cached = &cpu->tlb->table[linear >> 21 & (TABLE_SETS - 1)];
	uint64_t leaf = 0;

	if (unlikely(cached->tag != linear >> 21)) {
		struct table_entry fresh;

		if (!find_table(cpu, linear, &fresh))
			return 0;
		*cached = fresh;
	}
	if (!read_entry(cached->host + (linear >> 12 & 511) * 8, 0, &leaf))
		return 0;
	*rights = (cached->rights & leaf & (PTE_W | PTE_U)) | ((cached->rights | leaf) & PTE_NX);
	return leaf;
}

int mmu_translate_fast(struct cpu *cpu, const struct mmu_request *request,
		       struct mmu_result *result)
{
	struct stage2_need need;
	uint64_t linear = request->linear, leaf, rights;

	if (!(cpu->s.efer & EFER_LMA) || cpu->stage2.root_level != QUIRE_LEVEL_512G ||
	    cpu->replay.emulated_count || (uint64_t)((int64_t)(linear << 16) >> 16) != linear)
		return 0;
	leaf = find_leaf(cpu, linear, &rights);
	if (!leaf || ((rights & PTE_NX) && !(cpu->s.efer & EFER_NXE)) ||
	    !mmu_rights_permit(cpu, request->access, rights))
		return 0;
	if (request->access == MMU_WRITE && !(leaf & PTE_D))
		return 0;
	need = need_of(cpu->stage2.format, request->stage2);
	result->gpa = (leaf & PTE_ADDRESS) | (linear & PAGE_OFFSET_MASK);
	result->host = walk_stage2(cpu, &need, result->gpa);
	result->global = (leaf & PTE_G) && (cpu->s.cr4 & CR4_PGE);
	result->large = 0;
	return result->host != 0;
}
