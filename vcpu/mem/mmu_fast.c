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
	uint64_t large = cpu->stage2.format->table_mask, entry, span;
	unsigned int shift = 39;

	if (unlikely(gpa >> 48))
		return 0;
	for (;;) {
		entry = __atomic_load_n(&table[gpa >> shift & 511], __ATOMIC_ACQUIRE);
		if (unlikely((entry & need->looked_at) != need->have))
			return 0;
		if (shift == 12 || (entry & large))
			break;
		table = (const uint64_t *)(uintptr_t)(entry & PTE_ADDRESS);
		shift -= 9;
	}
	if (unlikely(~entry & need->leaf_have))
		return 0;
	span = (UINT64_C(1) << shift) - 1;
	return (entry & PTE_ADDRESS & ~span) | (gpa & span);
}

/* The guest's entry at @host, in *@entry, when it has what every entry of the common case has. */
static always_inline int read_entry(uint64_t host, uint64_t large, uint64_t *entry)
{
	return likely(host) && guard_load_u64((const void *)(uintptr_t)host, entry) == GUARD_OK &&
	       (*entry & (PTE_P | PTE_A | PTE_RESERVED_HIGH | large)) == (PTE_P | PTE_A);
}

/* Bits 13 .. @shift - 1 of a large leaf are reserved; 12 is PAT. */
static int is_reserved(uint64_t leaf, unsigned int shift)
{
	return (leaf & ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff)) != 0;
}

/* The three upper levels: where the lowest table is, or the large page, and what they allow. 0: not
 * the common case. Nested paging takes a walk for a write, though no bit is to be set. */
static int find_table(struct cpu *cpu, uint64_t linear, struct table_entry *found)
{
	struct stage2_need need =
	    need_of(cpu->stage2.format, cpu->svm.nested_paging ? MMU_WRITE : MMU_READ);
	uint64_t table = cpu->s.cr3 & PTE_ADDRESS, entry = 0;

	*found = (struct table_entry){
	    .tag = linear >> 21, .rights = PTE_W | PTE_U, .shift = QUIRE_PAGE_SHIFT};
	for (unsigned int shift = cpu->s.cr4 & CR4_LA57 ? 48 : 39; shift > 12; shift -= 9) {
		uint64_t host = walk_stage2(cpu, &need, table | (linear >> shift & 511) * 8);

		if (!read_entry(host, shift >= 39 ? PTE_LARGE : 0, &entry))
			return 0;
		if (entry & PTE_LARGE) {
			found->leaf = entry;
			found->shift = shift;
			return !is_reserved(entry, shift);
		}
		found->rights &= entry | ~(PTE_W | PTE_U);
		found->rights |= entry & PTE_NX;
		table = entry & PTE_ADDRESS;
	}
	found->gpa = table;
	found->host = walk_stage2(cpu, &need, table);
	return found->host != 0;
}

/* @entry has NX while that bit is reserved. */
static always_inline int has_reserved_nx(const struct cpu *cpu, uint64_t entry)
{
	return (entry & PTE_NX) && !(cpu->s.efer & EFER_NXE);
}

/* Do @leaf and the levels above it permit the access? */
static always_inline int leaf_permits(const struct cpu *cpu, const struct table_entry *table,
				      uint64_t leaf, enum mmu_access access)
{
	uint64_t rights = (table->rights & leaf & (PTE_W | PTE_U)) |
			  ((table->rights | leaf) & PTE_NX) | (leaf & PTE_KEY);

	return !has_reserved_nx(cpu, rights) && mmu_rights_permit(cpu, access, rights);
}

/* Set @bits in the leaf of @linear, of 4 KiB, which held @leaf. 0: not the common case. */
static int mark_leaf(const struct cpu *cpu, const struct table_entry *table, uint64_t linear,
		     uint64_t leaf, uint64_t bits)
{
	struct stage2_need need = need_of(cpu->stage2.format, MMU_WRITE);
	uint64_t host = walk_stage2(cpu, &need, table->gpa | (linear >> 12 & 511) * 8);
	bool swapped = false;

	return host &&
	       guard_cmpxchg_u64((void *)(uintptr_t)host, &leaf, leaf | bits, &swapped) ==
		   GUARD_OK &&
	       swapped;
}

/*
 * The guest's leaf for @linear, in *@leaf, with A and for a write D set. A large one has them, or
 * it is not the common case.
 */
static always_inline enum mmu_fast find_leaf(struct cpu *cpu, const struct mmu_request *request,
					     const struct table_entry *table, uint64_t *leaf)
{
	uint64_t linear = request->linear, bits = PTE_A;

	if (request->access == MMU_WRITE)
		bits |= PTE_D;
	*leaf = table->leaf;
	if (!*leaf) {
		const uint64_t *at = (const uint64_t *)(uintptr_t)table->host;

		if (guard_load_u64(&at[linear >> 12 & 511], leaf) != GUARD_OK)
			return MMU_FAST_OTHER;
		if (!(*leaf & PTE_P))
			return has_reserved_nx(cpu, table->rights) ? MMU_FAST_OTHER
								   : MMU_FAST_ABSENT;
	}
	if ((*leaf & PTE_RESERVED_HIGH) || !leaf_permits(cpu, table, *leaf, request->access))
		return MMU_FAST_OTHER;
	if (likely((*leaf & bits) == bits))
		return MMU_FAST_FOUND;
	if (table->leaf || !mark_leaf(cpu, table, linear, *leaf, bits))
		return MMU_FAST_OTHER;
	return MMU_FAST_FOUND;
}

/* find_leaf() by what is remembered of the upper levels; all but a leaf is found there anew. */
static enum mmu_fast find_remembered(struct cpu *cpu, const struct mmu_request *request,
				     struct table_entry *table, uint64_t *leaf)
{
	enum mmu_fast found;

	for (int is_fresh = table->tag != request->linear >> 21;; is_fresh = 1) {
		if (is_fresh && !find_table(cpu, request->linear, table)) {
			table->tag = TLB_EMPTY;
			return MMU_FAST_OTHER;
		}
		found = find_leaf(cpu, request, table, leaf);
		if (is_fresh || likely(found == MMU_FAST_FOUND))
			return found;
	}
}

enum mmu_fast mmu_translate_fast(struct cpu *cpu, const struct mmu_request *request,
				 struct mmu_result *result)
{
	struct stage2_need need;
	uint64_t linear = request->linear, leaf, span;
	struct table_entry *table = &cpu->tlb->table[linear >> 21 & (TABLE_SETS - 1)];
	enum mmu_fast found;

	if (!(cpu->s.efer & EFER_LMA) || cpu->stage2.root_level != QUIRE_LEVEL_512G ||
	    cpu->replay.emulated_count || !mmu_is_canonical_now(cpu, linear))
		return MMU_FAST_OTHER;
	found = find_remembered(cpu, request, table, &leaf);
	if (found != MMU_FAST_FOUND)
		return found;
	span = (UINT64_C(1) << table->shift) - 1;
	need = need_of(cpu->stage2.format, request->stage2);
	result->gpa = (leaf & PTE_ADDRESS & ~span) | (linear & span);
	result->host = walk_stage2(cpu, &need, result->gpa);
	result->global = (leaf & PTE_G) && (cpu->s.cr4 & CR4_PGE);
	result->large = (uint8_t)((table->shift - QUIRE_PAGE_SHIFT) / 9);
	return result->host ? MMU_FAST_FOUND : MMU_FAST_OTHER;
}
