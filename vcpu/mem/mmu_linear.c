/*
 * A processor without a second stage: the library's tables lead from linear addresses to the host.
 * They are the shadow of the guest's own (src/shadow), which the library walks when they do not
 * lead on; what those refuse comes back as the guest's page fault.
 */
#include "vcpu/mem/directories.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/pte.h"
#include "vcpu/mem/segment.h"
#include "vcpu/mem/stage2.h"
#include "vcpu/run/raise.h"

/* Which bits of a linear address the guest's tables translate. */
static uint64_t translated(const struct cpu *cpu, uint64_t linear)
{
	if (!(cpu->s.efer & EFER_LMA))
		return (uint32_t)linear;
	return linear & ((UINT64_C(1) << (cpu->s.cr4 & CR4_LA57 ? 57 : 48)) - 1);
}

uint64_t mmu_linear_of(const struct cpu *cpu, uint64_t translated_bits)
{
	return cpu->s.efer & EFER_LMA ? mmu_make_canonical(cpu, translated_bits) : translated_bits;
}

/* As the MMU of KVM sees control registers: only what the mode heeds makes other tables of them. */
static struct quire_nested paging_of(const struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;
	struct quire_nested paging = {
	    .root = {s->cr3 & PTE_ADDRESS},
	    .levels = 2,
	    .paging = 1,
	    .wp = (s->cr0 & CR0_WP) != 0,
	    .smep = (s->cr4 & CR4_SMEP) != 0,
	    .smap = (s->cr4 & CR4_SMAP) != 0,
	};

	if (s->efer & EFER_LMA) {
		paging.levels = s->cr4 & CR4_LA57 ? 5 : 4;
	} else {
		paging.root.v = (uint32_t)paging.root.v;
		paging.levels = s->cr4 & CR4_PAE ? 3 : 2;
	}
	if (paging.levels == 2)
		paging.pse = (s->cr4 & CR4_PSE) != 0;
	else
		paging.nx = (s->efer & EFER_NXE) != 0;
	if (paging.levels == 3)
		memcpy(paging.directories, s->directories, sizeof(s->directories));
	return paging;
}

int mmu_take_paging(struct cpu *cpu)
{
	/* Without tables of the guest's the library's are direct ones. */
	int wanted = (cpu->s.cr0 & CR0_PG) != 0, error;
	struct quire_nested paging;

	if (!cpu->single_stage)
		return 0;
	if (!cpu_is_pae(cpu)) {
		cpu->s.directories_loaded = 0;
	} else if (!cpu->s.directories_loaded) {
		(void)directories_load(cpu, cpu->s.cr3);
		cpu->s.directories_loaded = 1;
	}
	paging = paging_of(cpu);

	if (wanted == cpu->linear_root &&
	    (!wanted || !memcmp(&paging, &cpu->paging, sizeof(paging))))
		return 0;
	error = quire_vcpu_set_nested(cpu->vcpu, wanted ? &paging : NULL);
	if (error)
		return error;
	cpu->linear_root = wanted;
	cpu->paging = paging;
	/* The guest's flushes come from what it wrote to the registers. */
	tlb_drop_all(cpu);
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
	struct linear_walk walk = {.linear = translated(cpu, request->linear),
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
	return quire_vcpu_walk_nested(cpu->vcpu, (gpa_t){translated(cpu, linear)}, 0, gpa);
}
