/*
 * A processor without a second stage: the library's tables lead from linear addresses to the host.
 * They are the shadow of the guest's own (src/shadow), which the library walks when they do not
 * lead on; what those refuse comes back as the guest's page fault.
 */
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/pte.h"
#include "vcpu/mem/stage2.h"
#include "vcpu/run/raise.h"

#define LINEAR_BITS 48
#define LINEAR_MASK ((UINT64_C(1) << LINEAR_BITS) - 1)

int mmu_take_paging(struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;
	struct quire_nested paging = {
	    .root = {s->cr3 & PTE_ADDRESS},
	    .levels = 4,
	    .nx = (s->efer & EFER_NXE) != 0,
	    .paging = 1,
	    .wp = (s->cr0 & CR0_WP) != 0,
	    .smep = (s->cr4 & CR4_SMEP) != 0,
	    .smap = (s->cr4 & CR4_SMAP) != 0,
	};
	/* The other modes are walked here, above direct tables. */
	int wanted = cpu->single_stage && (s->efer & EFER_LMA) && !(s->cr4 & CR4_LA57);
	int error;

	if (wanted == cpu->linear_root &&
	    (!wanted || !memcmp(&paging, &cpu->paging, sizeof(paging))))
		return 0;
	error = quire_vcpu_set_nested(cpu->vcpu, wanted ? &paging : NULL);
	if (error)
		return error;
	cpu->linear_root = wanted;
	cpu->paging = paging;
	tlb_flush_all(cpu);
	return 0;
}

void mmu_paging_changed(struct cpu *cpu)
{
	if (!cpu->single_stage)
		return;
	cpu_leave_guest(cpu);
	if (cpu->linear_root)
		quire_vcpu_flush_nested(cpu->vcpu);
}

uint64_t mmu_linear_error(const struct cpu *cpu, enum mmu_access access)
{
	uint64_t error = mmu_is_user(cpu) ? QUIRE_PFERR_USER : 0;

	if (cpu->tlb_mode == TLB_SMAP)
		error |= QUIRE_PFERR_SMAP;
	if (access == MMU_WRITE)
		error |= QUIRE_PFERR_WRITE;
	return access == MMU_FETCH ? error | QUIRE_PFERR_FETCH : error;
}

/* The shadow keeps from writing what the library must see, so CR0.WP counts as set. */
static int rights_permit(const struct cpu *cpu, enum mmu_access access, uint64_t rights)
{
	return (access != MMU_WRITE || (rights & PTE_W)) && mmu_rights_permit(cpu, access, rights);
}

enum entry_answer { ENTRY_TABLE, ENTRY_LEAF, ENTRY_ABSENT, ENTRY_REFUSES };

struct linear_walk {
	uint64_t linear;
	enum mmu_access access;
	uint64_t rights; /* PTE_W, PTE_U: all levels have it; PTE_NX: one has */
	uint64_t host;	 /* of the lower table, or of the byte */
};

/* One entry: its rights counted, A and D set. */
static enum entry_answer visit(const struct cpu *cpu, struct linear_walk *walk, uint64_t *slot,
			       unsigned int level)
{
	uint64_t span = (UINT64_C(1) << (3 + 9 * level)) - 1, entry, rights, marks;
	int is_leaf;

	do {
		entry = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
		if (!(entry & PTE_P))
			return ENTRY_ABSENT;
		is_leaf = level == 1 || (entry & PTE_LARGE);
		rights = (walk->rights & (entry | ~(PTE_W | PTE_U))) | (entry & PTE_NX);
		if (is_leaf && !rights_permit(cpu, walk->access, rights))
			return ENTRY_REFUSES;
		marks = is_leaf && walk->access == MMU_WRITE ? PTE_A | PTE_D : PTE_A;
	} while (!quire_entry_set(slot, entry, marks));
	walk->rights = rights;
	walk->host = entry & cpu->stage2.format->address;
	if (!is_leaf)
		return ENTRY_TABLE;
	walk->host = (walk->host & ~span) | (walk->linear & span);
	return ENTRY_LEAF;
}

static enum entry_answer walk_down(const struct cpu *cpu, struct linear_walk *walk)
{
	enum entry_answer answer = ENTRY_TABLE;

	walk->host = (uint64_t)(uintptr_t)cpu->stage2.root;
	for (unsigned int level = cpu->stage2.root_level; answer == ENTRY_TABLE; level--) {
		uint64_t *table = (uint64_t *)(uintptr_t)walk->host;
		unsigned int index = walk->linear >> (3 + 9 * level) & (QUIRE_TABLE_ENTRIES - 1);

		answer = visit(cpu, walk, &table[index], level);
	}
	return answer;
}

enum step mmu_translate_linear(struct cpu *cpu, const struct mmu_request *request,
			       struct mmu_result *result)
{
	struct linear_walk walk = {.linear = request->linear & LINEAR_MASK,
				   .access = request->stage2,
				   .rights = PTE_W | PTE_U};
	enum entry_answer answer;

	*result = (struct mmu_result){.gpa = walk.linear};
	if (unlikely(cpu->replay.emulated_count) &&
	    stage2_is_marked_device(cpu, walk.linear, walk.access))
		return STEP_NEXT;
	answer = walk_down(cpu, &walk);
	if (likely(answer == ENTRY_LEAF)) {
		result->host = walk.host;
		return STEP_NEXT;
	}
	cpu->stop = STOP_FAULT;
	cpu->fault_gpa = walk.linear;
	cpu->fault_error = mmu_linear_error(cpu, walk.access);
	if (answer == ENTRY_REFUSES)
		cpu->fault_error |= QUIRE_PFERR_PRESENT;
	cpu->fault_was_guard = 0;
	return STEP_ABORT;
}

int mmu_probe_linear(struct cpu *cpu, uint64_t linear, gpa_t *gpa)
{
	return quire_vcpu_walk_nested(cpu->vcpu, (gpa_t){linear & LINEAR_MASK}, 0, gpa);
}
