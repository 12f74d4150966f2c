/* Instructions for paging: INVLPG, INVPCID, protection keys. */
#include "vcpu/decode/code.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/raise.h"
#include "vcpu/svm/svm.h"

static enum step general_protection(struct cpu *cpu)
{
	return cpu_raise_error(cpu, VECTOR_GP, 0);
}

#define RAX_OFFSET offsetof(struct cpu, s.gpr[CPU_RAX])
#define RDX_OFFSET offsetof(struct cpu, s.gpr[CPU_RDX])

static enum step rdpkru(struct cpu *cpu, const struct op *op)
{
	if (!(cpu->s.cr4 & CR4_PKE))
		return cpu_raise(cpu, VECTOR_UD);
	if ((uint32_t)cpu->s.gpr[CPU_RCX])
		return general_protection(cpu);
	reg_set(cpu, RAX_OFFSET, 4, cpu->s.pkru);
	reg_set(cpu, RDX_OFFSET, 4, 0);
	return STEP_NEXT;
}

static enum step wrpkru(struct cpu *cpu, const struct op *op)
{
	if (!(cpu->s.cr4 & CR4_PKE))
		return cpu_raise(cpu, VECTOR_UD);
	if ((uint32_t)cpu->s.gpr[CPU_RCX] || (uint32_t)cpu->s.gpr[CPU_RDX])
		return general_protection(cpu);
	mmu_set_pkru(cpu, (uint32_t)cpu->s.gpr[CPU_RAX]);
	return STEP_END;
}

static enum step invlpg(struct cpu *cpu, const struct op *op)
{
	uint64_t linear =
	    op_effective(cpu, op) + *(const uint64_t *)((const char *)cpu + op->seg_base);
	enum step step;

	if (cpu->code_bytes != 8)
		linear = (uint32_t)linear;
	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept(cpu, INTERCEPT_INVLPG);
	if (step)
		return step;
	tlb_invlpg(cpu, linear);
	mmu_paging_changed(cpu);
	return STEP_END;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_ONE, INVPCID_ALL, INVPCID_ALL_LOCAL };

/* Of the PCID in CR3 in the TLB, of others where they were put aside. */
static void invpcid_flush(struct cpu *cpu, enum invpcid_type type, const uint64_t descriptor[2])
{
	uint64_t now = cpu->s.cr4 & CR4_PCIDE ? cpu->s.cr3 & CR3_PCID : 0;
	int is_now = descriptor[0] == now;

	switch (type) {
	case INVPCID_ADDRESS:
		if (is_now) {
			tlb_invlpg(cpu, descriptor[1]);
			return;
		}
		tlb_drop_space_page(cpu, descriptor[0], descriptor[1]);
		break;
	case INVPCID_ONE:
		if (is_now) {
			tlb_flush_non_global(cpu);
			return;
		}
		tlb_drop_space(cpu, descriptor[0]);
		break;
	case INVPCID_ALL:
		tlb_flush_all(cpu);
		return;
	default:
		tlb_watch_flush_local(cpu);
		tlb_drop_spaces(cpu);
		tlb_flush_non_global(cpu);
		return;
	}
	code_serialise(cpu);
}

static enum step invpcid(struct cpu *cpu, const struct op *op)
{
	uint64_t type = reg_get(cpu, op->dst, cpu->code_bytes == 8 ? 8 : 4), linear;
	uint64_t descriptor[2];
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	if (cpu->svm.in_guest_mode && (cpu->svm.control.intercept_more & INTERCEPT_INVPCID))
		return svm_exit(cpu, VMCB_EXIT_INVPCID, 0, 0);
	if (type > INVPCID_ALL_LOCAL)
		return general_protection(cpu);
	step = op_linear(cpu, op, &linear);
	if (!step)
		step = mem_read(cpu, linear, descriptor, sizeof(descriptor));
	if (step)
		return step;
	if ((descriptor[0] & ~CR3_PCID) ||
	    (type == INVPCID_ADDRESS && !mmu_is_canonical_base(descriptor[1])) ||
	    (type <= INVPCID_ONE && descriptor[0] && !(cpu->s.cr4 & CR4_PCIDE)))
		return general_protection(cpu);
	invpcid_flush(cpu, (enum invpcid_type)type, descriptor);
	mmu_paging_changed(cpu);
	return STEP_END;
}

const struct insn_desc exec_paging_table[] = {
    {ZYDIS_MNEMONIC_RDPKRU, rdpkru, NULL, 0},
    {ZYDIS_MNEMONIC_WRPKRU, wrpkru, NULL, 0},
    {ZYDIS_MNEMONIC_INVLPG, invlpg, NULL, 0},
    {ZYDIS_MNEMONIC_INVPCID, invpcid, NULL, 0},
    {0, NULL, NULL, 0},
};
