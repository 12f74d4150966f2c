/* For --sanitize=tlb: L1's nested tables, which lead from L2's guest addresses to L1's. */
#include "vcpu/mem/pte.h"
#include "vcpu/mem/watch.h"

#define INDEX_BITS 9u

static int is_reserved(const struct cpu *cpu, uint64_t entry, unsigned int level)
{
	return (entry & PTE_RESERVED_HIGH) ||
	       ((entry & PTE_NX) && !(cpu->svm.host.efer & EFER_NXE)) ||
	       pte_large_is_reserved(entry, level);
}

int tlb_watch_nested_permits(enum mmu_access access, uint64_t rights)
{
	if (!(rights & PTE_U))
		return 0;
	return access == MMU_WRITE ? (rights & PTE_W) != 0
				   : access == MMU_READ || !(rights & PTE_NX);
}

/* What was read, by level. */
struct entries {
	uint64_t entry[WATCH_LEVELS], gpa_of[WATCH_LEVELS], host_of[WATCH_LEVELS];
};

/* The entry of @walk's level, in the table at @table; 0: it cannot be read. */
static int load(const struct cpu *cpu, const struct watch_walk *walk, uint64_t table,
		struct entries *read)
{
	unsigned int level = walk->level, shift = QUIRE_PAGE_SHIFT + INDEX_BITS * (level - 1);
	uint64_t index = walk->linear >> shift & ((1u << INDEX_BITS) - 1), host;

	read->gpa_of[level] = table + index * sizeof(uint64_t);
	read->host_of[level] = host = tlb_watch_host(cpu, read->gpa_of[level]);
	return host &&
	       guard_load_u64((const void *)(uintptr_t)host, &read->entry[level]) == GUARD_OK;
}

static void take_leaf(struct watch_walk *walk, uint64_t entry)
{
	uint64_t span;

	walk->shift = (uint8_t)(QUIRE_PAGE_SHIFT + INDEX_BITS * (walk->level - 1));
	span = (UINT64_C(1) << walk->shift) - 1;
	walk->gpa = (entry & PTE_ADDRESS & ~span) | (walk->linear & span);
	walk->is_dirty = (entry & PTE_D) != 0;
	walk->is_found = tlb_watch_nested_permits(walk->access, walk->rights) != 0;
}

/* The library has walked these tables for its own, which may lag: this walk reads them again. */
void tlb_watch_nested_tables(struct cpu *cpu, uint64_t gpa, enum mmu_access access)
{
	uint8_t top = cpu->svm.host.cr4 & CR4_LA57 ? 5 : 4;
	uint64_t entry = cpu->svm.control.nested_cr3;
	struct entries read;
	struct watch_walk walk = {
	    .linear = gpa,
	    .access = access,
	    .rights = PTE_W | PTE_U,
	    .is_of_l1 = 1,
	    .top = top,
	    .index_bits = INDEX_BITS,
	    .entry = read.entry,
	    .gpa_of = read.gpa_of,
	    .host_of = read.host_of,
	};

	if (!(cpu->svm.host.efer & EFER_LMA))
		return;
	for (walk.level = top;; walk.level--) {
		if (!load(cpu, &walk, entry & PTE_ADDRESS, &read))
			return;
		entry = read.entry[walk.level];
		if (!(entry & PTE_P) || is_reserved(cpu, entry, walk.level))
			break;
		walk.rights = (walk.rights & (entry | ~(PTE_W | PTE_U))) | (entry & PTE_NX);
		if (walk.level == 1 || (entry & PTE_LARGE)) {
			take_leaf(&walk, entry);
			break;
		}
	}
	tlb_watch_walked(cpu, &walk);
}
