/* Control and debug registers, MSRs, XCR0, CPUID, time stamp, caches. */
#include <x86intrin.h>

#include "vcpu/decode/code.h"
#include "vcpu/exec/control.h"
#include "vcpu/exec/exec.h"
#include "vcpu/exec/fpu.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/directories.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/debug.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/replay.h"
#include "vcpu/run/run.h"
#include "vcpu/svm/nested.h"
#include "vcpu/svm/svm.h"

#define CR3_NO_FLUSH (UINT64_C(1) << 63)

static enum step general_protection(struct cpu *cpu)
{
	return cpu_raise_error(cpu, VECTOR_GP, 0);
}

/* One register of one CPUID leaf. Leaves guest mode. */
static void cpuid_query(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	cpu_leave_guest(cpu);
	cpu->ops->cpuid(cpu->ctx, leaf, subleaf, out);
}

/* What was translated or decoded under the old registers is gone. */
static enum step paging_changed(struct cpu *cpu)
{
	tlb_flush_all(cpu);
	cpu_note_paging(cpu);
	cpu_update_mode(cpu);
	mmu_paging_changed(cpu);
	return STEP_EVENTS;
}

static int cr0_is_valid(const struct cpu *cpu, uint64_t value)
{
	const struct cpu_state *s = &cpu->s;

	if (value >> 32)
		return 0;
	if ((value & CR0_PG) && !(value & CR0_PE))
		return 0;
	if ((value & CR0_NW) && !(value & CR0_CD))
		return 0;
	if ((value & CR0_PG) && !(s->cr0 & CR0_PG) && (s->efer & EFER_LME))
		return (s->cr4 & CR4_PAE) && !s->seg[CPU_CS].l;
	if (!(value & CR0_PG) && (s->cr0 & CR0_PG))
		return !(s->cr4 & CR4_PCIDE) && cpu->code_bytes != 8;
	return 1;
}

#define CR0_LOADS_DIRECTORIES (CR0_CD | CR0_NW | CR0_PG)
#define CR4_LOADS_DIRECTORIES (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP)

/*
 * May a MOV give CR0 and CR4 these values, as far as PAE's directories go? @changed: the changed
 * bits on whose change KVM checks the directories. KVM intercepts a MOV to CR3 only without a
 * second stage: see cr3_write().
 */
static int directories_permit(struct cpu *cpu, uint64_t cr0, uint64_t cr4, uint64_t changed)
{
	if (!changed || !(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || (cpu->s.efer & EFER_LME))
		return 1;
	/* L1's tables would be on the way: the walk finds what is reserved. */
	if (cpu->svm.in_guest_mode && (cpu->svm.control.misc & VMCB_NESTED_PAGING))
		return 1;
	return directories_load(cpu, cpu->s.cr3);
}

static enum step cr0_write(struct cpu *cpu, uint64_t value)
{
	struct cpu_state *s = &cpu->s;
	uint64_t known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
			 CR0_NW | CR0_CD | CR0_PG;

	if (!cr0_is_valid(cpu, value) ||
	    !directories_permit(cpu, value, s->cr4, (value ^ s->cr0) & CR0_LOADS_DIRECTORIES))
		return general_protection(cpu);
	value = (value & known) | CR0_ET;
	if ((value ^ s->cr0) & CR0_PG) {
		cpu_count(&cpu->counts.paging_turns);
		s->efer &= ~EFER_LMA;
		if ((value & CR0_PG) && (s->efer & EFER_LME))
			s->efer |= EFER_LMA;
	}
	if (!((value ^ s->cr0) & (CR0_PG | CR0_PE | CR0_WP))) {
		s->cr0 = value;
		cpu_note_paging(cpu);
		code_serialise(cpu);
		return STEP_END;
	}
	s->cr0 = value;
	return paging_changed(cpu);
}

/*
 * What a MOV of @value to CR3 drops: of its PCID all but what is global, unless bit 63 asks to
 * @keep it; of other PCIDs nothing. Other tables under the same PCID have translations of their
 * own, though a processor may go on using the old ones.
 */
static void cr3_switch(struct cpu *cpu, uint64_t value, int keep)
{
	if (keep && value == cpu->s.cr3) {
		code_serialise(cpu);
		return;
	}
	if (!(cpu->s.cr4 & CR4_PCIDE) || !((value ^ cpu->s.cr3) & CR3_PCID)) {
		tlb_flush_non_global(cpu);
		return;
	}
	if (!keep)
		tlb_drop_space(cpu, value & CR3_PCID);
	tlb_switch_space(cpu, value);
}

static enum step cr3_write(struct cpu *cpu, uint64_t value)
{
	int keep = (cpu->s.cr4 & CR4_PCIDE) && (value & CR3_NO_FLUSH);

	if (cpu->s.cr4 & CR4_PCIDE)
		value &= ~CR3_NO_FLUSH;
	if (cpu_is_long(cpu) && value >> 48)
		return general_protection(cpu);
	if (cpu->single_stage && cpu_is_pae(cpu) && !directories_load(cpu, value))
		return general_protection(cpu);
	cr3_switch(cpu, value, keep);
	cpu->s.cr3 = value;
	cpu_note_paging(cpu);
	mmu_paging_changed(cpu);
	return STEP_END;
}

/* CR4 bits that CPUID makes known. */
static uint64_t cr4_known(struct cpu *cpu)
{
	uint64_t known = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE |
			 CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	uint32_t leaf1[4], leaf7[4];

	cpuid_query(cpu, 1, 0, leaf1);
	cpuid_query(cpu, 7, 0, leaf7);
	known |= leaf1[2] >> 17 & 1 ? CR4_PCIDE : 0;
	known |= leaf1[2] >> 26 & 1 ? CR4_OSXSAVE : 0;
	known |= leaf7[1] & 1 ? CR4_FSGSBASE : 0;
	known |= leaf7[1] >> 7 & 1 ? CR4_SMEP : 0;
	known |= leaf7[1] >> 20 & 1 ? CR4_SMAP : 0;
	known |= leaf7[2] >> 2 & 1 ? CR4_UMIP : 0;
	known |= leaf7[2] >> 3 & 1 ? CR4_PKE : 0;
	known |= leaf7[2] >> 16 & 1 ? CR4_LA57 : 0;
	return known;
}

static enum step cr4_write(struct cpu *cpu, uint64_t value)
{
	struct cpu_state *s = &cpu->s;

	if (value & ~cr4_known(cpu))
		return general_protection(cpu);
	if (cpu_is_long(cpu) && (!(value & CR4_PAE) || ((value ^ s->cr4) & CR4_LA57)))
		return general_protection(cpu);
	if ((value & ~s->cr4 & CR4_PCIDE) && (!cpu_is_long(cpu) || (s->cr3 & CR3_PCID)))
		return general_protection(cpu);
	if (!directories_permit(cpu, s->cr0, value, (value ^ s->cr4) & CR4_LOADS_DIRECTORIES))
		return general_protection(cpu);
	s->cr4 = value;
	return paging_changed(cpu);
}

/* L1 may give L2 a priority register of its own. */
static int tpr_is_virtual(const struct cpu *cpu)
{
	return cpu->svm.in_guest_mode && (cpu->svm.control.int_ctl & VMCB_V_INTR_MASKING);
}

static enum step cr8_write(struct cpu *cpu, uint64_t value)
{
	if (value > 15)
		return general_protection(cpu);
	if (tpr_is_virtual(cpu)) {
		cpu->svm.control.int_ctl = (cpu->svm.control.int_ctl & ~VMCB_V_TPR) | value;
		return STEP_EVENTS;
	}
	cpu_leave_guest(cpu);
	cpu->ops->cr8_write(cpu->ctx, value);
	return STEP_EVENTS;
}

static uint64_t cr8_read(struct cpu *cpu)
{
	if (tpr_is_virtual(cpu))
		return cpu->svm.control.int_ctl & 15;
	cpu_leave_guest(cpu);
	return cpu->ops->cr8_read(cpu->ctx);
}

enum step control_write(struct cpu *cpu, unsigned int number, uint64_t value)
{
	switch (number) {
	case 0:
		return cr0_write(cpu, value);
	case 2:
		cpu->s.cr2 = value;
		code_serialise(cpu);
		return STEP_END;
	case 3:
		return cr3_write(cpu, value);
	case 4:
		return cr4_write(cpu, value);
	case 8:
		return cr8_write(cpu, value);
	default:
		return cpu_raise(cpu, VECTOR_UD);
	}
}

static enum step mov_to_control(struct cpu *cpu, const struct op *op)
{
	uint64_t value = reg_get(cpu, op->src, op->size);
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = op->dst ? svm_intercept_cr(cpu, op->dst, 1) : svm_intercept_cr0(cpu, value);
	if (step)
		return step;
	return control_write(cpu, op->dst, value);
}

static enum step mov_from_control(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept_cr(cpu, op->src, 0);
	if (step)
		return step;
	switch (op->src) {
	case 0:
		value = cpu->s.cr0;
		break;
	case 2:
		value = cpu->s.cr2;
		break;
	case 3:
		value = cpu->s.cr3;
		break;
	case 4:
		value = cpu->s.cr4;
		break;
	case 8:
		value = cr8_read(cpu);
		step = STEP_END;
		break;
	default:
		return cpu_raise(cpu, VECTOR_UD);
	}
	reg_set(cpu, op->dst, op->size, value);
	return step;
}

/* DR4 and DR5 are other names of DR6 and DR7, unless CR4.DE. */
static enum step debug_check(struct cpu *cpu, unsigned int *number)
{
	if (*number == 4 || *number == 5) {
		if (cpu->s.cr4 & CR4_DE)
			return cpu_raise(cpu, VECTOR_UD);
		*number += 2;
	}
	if (*number > 7)
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl)
		return general_protection(cpu);
	if (cpu->debug.client.hardware && (cpu->debug.client.dr7 & DR7_GD))
		return debug_exit(cpu, VECTOR_DB, DR6_FIXED | DR6_BD);
	if (cpu->s.dr7 & DR7_GD) {
		cpu->s.dr6 = (cpu->s.dr6 & ~DR6_HITS) | DR6_BD;
		return cpu_raise(cpu, VECTOR_DB);
	}
	return STEP_NEXT;
}

int control_write_debug(struct cpu *cpu, unsigned int number, uint64_t value)
{
	if (value >> 32)
		return -1;
	if (number == 6)
		cpu->s.dr6 = (value & UINT64_C(0x1e00f)) | DR6_FIXED;
	else
		cpu->s.dr7 = (value & UINT64_C(0xffff2bff)) | DR7_FIXED;
	return 0;
}

static enum step mov_to_debug(struct cpu *cpu, const struct op *op)
{
	uint64_t value = reg_get(cpu, op->src, op->size);
	unsigned int number = op->dst;
	enum step step = debug_check(cpu, &number);

	/* DR4 and DR5 have intercepts of their own. */
	if (!step)
		step = svm_intercept_dr(cpu, op->dst, 1);
	if (step)
		return step;
	if (number < 4)
		cpu->s.dr[number] = value;
	else if (control_write_debug(cpu, number, value))
		return general_protection(cpu);
	debug_update(cpu);
	code_serialise(cpu);
	return STEP_END;
}

static enum step mov_from_debug(struct cpu *cpu, const struct op *op)
{
	unsigned int number = op->src;
	enum step step = debug_check(cpu, &number);
	uint64_t value;

	if (!step)
		step = svm_intercept_dr(cpu, op->src, 0);
	if (step)
		return step;
	if (number < 4)
		value = cpu->s.dr[number];
	else
		value = number == 6 ? cpu->s.dr6 : cpu->s.dr7;
	reg_set(cpu, op->dst, op->size, value);
	return STEP_NEXT;
}

static op_fn bind_mov(struct op *op, const struct decoded *decoded)
{
	for (unsigned int i = 0; i < 2; i++) {
		ZydisRegisterClass class;

		if (decoded->operand[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		class = ZydisRegisterGetClass(decoded->operand[i].reg.value);
		op->size = decoded->code_bytes == 8 ? 8 : 4;
		if (class == ZYDIS_REGCLASS_CONTROL)
			return i ? mov_from_control : mov_to_control;
		if (class == ZYDIS_REGCLASS_DEBUG)
			return i ? mov_from_debug : mov_to_debug;
	}
	return NULL;
}

static enum step clts(struct cpu *cpu, const struct op *op)
{
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept_cr(cpu, 0, 1);
	if (step)
		return step;
	cpu->s.cr0 &= ~CR0_TS;
	cpu_note_paging(cpu);
	return STEP_END;
}

/* LMSW sets PE but does not clear it. */
static enum step lmsw(struct cpu *cpu, const struct op *op)
{
	uint64_t value, low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = op_read(cpu, op, 0, 2, &value);
	if (step)
		return step;
	value = (cpu->s.cr0 & ~(low & ~CR0_PE)) | (value & low);
	step = svm_intercept_lmsw(cpu);
	return step ? step : cr0_write(cpu, value);
}

static enum step smsw(struct cpu *cpu, const struct op *op)
{
	enum step step;

	if (cpu->cpl && (cpu->s.cr4 & CR4_UMIP))
		return general_protection(cpu);
	step = svm_intercept_cr(cpu, 0, 0);
	if (step)
		return step;
	if (op->kind[0] == OPERAND_MEM)
		return op_store(cpu, op, 2, cpu->s.cr0);
	reg_set(cpu, op->dst, op->size, cpu->s.cr0);
	return STEP_NEXT;
}

/* Where the CPU's own MSRs live, for those that are plain storage. */
static uint64_t *msr_slot(struct cpu *cpu, uint32_t index)
{
	struct cpu_state *s = &cpu->s;

	switch (index) {
	case MSR_SYSENTER_CS:
		return &s->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &s->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &s->sysenter_eip;
	case MSR_PAT:
		return &s->pat;
	case MSR_EFER:
		return &s->efer;
	case MSR_STAR:
		return &s->star;
	case MSR_LSTAR:
		return &s->lstar;
	case MSR_CSTAR:
		return &s->cstar;
	case MSR_SFMASK:
		return &s->sfmask;
	case MSR_FS_BASE:
		return &s->seg[CPU_FS].base;
	case MSR_GS_BASE:
		return &s->seg[CPU_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &s->kernel_gs_base;
	case MSR_TSC_AUX:
		return &s->tsc_aux;
	default:
		return NULL;
	}
}

int cpu_pat_is_valid(uint64_t value)
{
	for (unsigned int i = 0; i < 8; i++) {
		unsigned int type = value >> (i * 8) & 0xff;

		if (type > 7 || type == 2 || type == 3)
			return 0;
	}
	return 1;
}

/* Does CPUID offer SVM? */
static int has_svm(struct cpu *cpu)
{
	uint32_t leaf[4];

	cpuid_query(cpu, 0x80000001, 0, leaf);
	return leaf[2] >> 2 & 1;
}

int control_efer_is_valid(struct cpu *cpu, uint64_t value)
{
	uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

	if ((value & EFER_SVME) && has_svm(cpu))
		known |= EFER_SVME;
	if (value & ~known)
		return 0;
	return !(((value ^ cpu->s.efer) & EFER_LME) && (cpu->s.cr0 & CR0_PG));
}

static int msr_value_is_valid(struct cpu *cpu, uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_EFER:
		return control_efer_is_valid(cpu, value);
	case MSR_PAT:
		return cpu_pat_is_valid(value);
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
		return mmu_is_canonical_base(value);
	default:
		return 1;
	}
}

/* Without EFER.SVME there is no L2: taking it away from under one is the end of L1, too. */
static enum step efer_write(struct cpu *cpu, uint64_t value)
{
	if (!(value & EFER_SVME) && (cpu->s.efer & EFER_SVME)) {
		int was_active = cpu_nested_active(cpu);

		cpu_leave_guest(cpu);
		cpu_nested_leave(cpu);
		if (was_active)
			return cpu_stop_exit(cpu, CPU_EXIT_SHUTDOWN);
	}
	cpu->s.efer = (value & ~EFER_LMA) | (cpu->s.efer & EFER_LMA);
	return paging_changed(cpu);
}

static enum step msr_write_own(struct cpu *cpu, uint32_t index, uint64_t value)
{
	if (!msr_value_is_valid(cpu, index, value))
		return general_protection(cpu);
	if (index == MSR_EFER)
		return efer_write(cpu, value);
	if (index == MSR_SFMASK || index == MSR_TSC_AUX || index == MSR_SYSENTER_CS)
		value = (uint32_t)value;
	*msr_slot(cpu, index) = value;
	code_serialise(cpu);
	return STEP_END;
}

static enum step msr_ask(struct cpu *cpu, enum replay_kind kind, uint64_t *value)
{
	struct cpu_io io = {.address = (uint32_t)cpu->s.gpr[CPU_RCX],
			    .size_bytes = 8,
			    .is_write = kind == REPLAY_MSR_WRITE};
	const struct replay_entry *entry;
	enum step step;

	memcpy(io.data, value, sizeof(*value));
	step = replay_ask(cpu, kind, &io, &entry);
	if (step)
		return step;
	if (entry->failed)
		return general_protection(cpu);
	memcpy(value, entry->io.data, sizeof(*value));
	return STEP_NEXT;
}

/*
 * Is this MSR the surroundings' business? One that was asked for once stays so to its end. Whether
 * there is a TSC_AUX, and how wide some are, depends on the processor that is shown.
 */
static int msr_is_asked(const struct cpu *cpu, uint32_t index)
{
	return (cpu->run_flags & CPU_RUN_ASK_MSRS) || cpu->replay.unfinished ||
	       index == MSR_TSC_AUX || index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP;
}

static void set_edx_eax(struct cpu *cpu, uint64_t value)
{
	reg_set(cpu, GPR_OFFSET(CPU_RAX), 4, value);
	reg_set(cpu, GPR_OFFSET(CPU_RDX), 4, value >> 32);
}

static uint64_t get_edx_eax(const struct cpu *cpu)
{
	return (uint32_t)cpu->s.gpr[CPU_RAX] | cpu->s.gpr[CPU_RDX] << 32;
}

static enum step rdmsr(struct cpu *cpu, const struct op *op)
{
	uint32_t index = cpu->s.gpr[CPU_RCX];
	uint64_t value = 0, *slot = msr_slot(cpu, index);
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept_msr(cpu, index, 0);
	if (step)
		return step;
	if (index == MSR_TSC && !msr_is_asked(cpu, index))
		value = __rdtsc() + cpu->s.tsc_offset + cpu->svm.tsc_offset;
	else if (slot && !msr_is_asked(cpu, index))
		value = *slot;
	else
		step = msr_ask(cpu, REPLAY_MSR_READ, &value);
	if (step)
		return step;
	set_edx_eax(cpu, value);
	return STEP_END;
}

static enum step wrmsr(struct cpu *cpu, const struct op *op)
{
	uint32_t index = cpu->s.gpr[CPU_RCX];
	uint64_t value = get_edx_eax(cpu);
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept_msr(cpu, index, 1);
	if (step)
		return step;
	if (index == MSR_TSC && !msr_is_asked(cpu, index)) {
		cpu->s.tsc_offset = value - __rdtsc();
		return STEP_END;
	}
	if (msr_slot(cpu, index) && !msr_is_asked(cpu, index))
		return msr_write_own(cpu, index, value);
	step = msr_ask(cpu, REPLAY_MSR_WRITE, &value);
	if (step)
		return step;
	if (index == MSR_EFER)
		return paging_changed(cpu);
	code_serialise(cpu);
	return STEP_EVENTS;
}

static enum step rdtsc(struct cpu *cpu, const struct op *op)
{
	int has_aux = op->mnemonic == ZYDIS_MNEMONIC_RDTSCP;
	enum step step;

	if (cpu->cpl && (cpu->s.cr4 & CR4_TSD))
		return general_protection(cpu);
	step = svm_intercept(cpu, has_aux ? INTERCEPT_RDTSCP : INTERCEPT_RDTSC);
	if (step)
		return step;
	set_edx_eax(cpu, __rdtsc() + cpu->s.tsc_offset + cpu->svm.tsc_offset);
	if (has_aux)
		reg_set(cpu, GPR_OFFSET(CPU_RCX), 4, cpu->s.tsc_aux);
	return STEP_NEXT;
}

static enum step rdpid(struct cpu *cpu, const struct op *op)
{
	reg_set(cpu, op->dst, op->size, cpu->s.tsc_aux);
	return STEP_NEXT;
}

/* There are no performance counters. */
static enum step rdpmc(struct cpu *cpu, const struct op *op)
{
	enum step step = svm_intercept(cpu, INTERCEPT_RDPMC);

	return step ? step : general_protection(cpu);
}

static enum step cpuid(struct cpu *cpu, const struct op *op)
{
	uint32_t out[4];
	enum step step = svm_intercept(cpu, INTERCEPT_CPUID);

	if (step)
		return step;
	if (cpu->cpl && cpu->s.cpuid_faults)
		return general_protection(cpu);
	cpuid_query(cpu, cpu->s.gpr[CPU_RAX], cpu->s.gpr[CPU_RCX], out);
	reg_set(cpu, GPR_OFFSET(CPU_RAX), 4, out[0]);
	reg_set(cpu, GPR_OFFSET(CPU_RBX), 4, out[1]);
	reg_set(cpu, GPR_OFFSET(CPU_RCX), 4, out[2]);
	reg_set(cpu, GPR_OFFSET(CPU_RDX), 4, out[3]);
	code_serialise(cpu);
	return STEP_END;
}

#define XGETBV1 (UINT32_C(1) << 2) /* leaf d, subleaf 1, EAX */

/* Index 1: the components of XCR0 that are not in their initial state. */
static enum step xgetbv_in_use(struct cpu *cpu)
{
	uint32_t leaf[4];

	cpuid_query(cpu, 0xd, 1, leaf);
	if (!(leaf[0] & XGETBV1))
		return general_protection(cpu);
	set_edx_eax(cpu, cpu->s.xcr0 & xsave_in_use(cpu));
	return STEP_END;
}

static enum step xgetbv(struct cpu *cpu, const struct op *op)
{
	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		return cpu_raise(cpu, VECTOR_UD);
	switch ((uint32_t)cpu->s.gpr[CPU_RCX]) {
	case 0:
		set_edx_eax(cpu, cpu->s.xcr0);
		return STEP_NEXT;
	case 1:
		return xgetbv_in_use(cpu);
	default:
		return general_protection(cpu);
	}
}

static enum step xsetbv(struct cpu *cpu, const struct op *op)
{
	uint64_t value = get_edx_eax(cpu);
	uint32_t leaf[4];
	enum step step;

	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept(cpu, INTERCEPT_XSETBV);
	if (step)
		return step;
	if ((uint32_t)cpu->s.gpr[CPU_RCX] || !(value & XSTATE_X87))
		return general_protection(cpu);
	cpuid_query(cpu, 0xd, 0, leaf);
	if (value & ~((leaf[0] | (uint64_t)leaf[3] << 32) & XSTATE_KNOWN))
		return general_protection(cpu);
	if ((value & XSTATE_AVX) && !(value & XSTATE_SSE))
		return general_protection(cpu);
	cpu->s.xcr0 = value;
	return STEP_END;
}

static enum step cache_privileged(struct cpu *cpu, const struct op *op)
{
	enum step step;

	if (cpu->cpl)
		return general_protection(cpu);
	step = svm_intercept(cpu, op->aux);
	if (step)
		return step;
	code_serialise(cpu);
	return STEP_END;
}

/* CLFLUSH and its kin fault as a load does. */
static enum step cache_line(struct cpu *cpu, const struct op *op)
{
	uint64_t value;

	return op_load(cpu, op, 1, &value);
}

static enum step fence(struct cpu *cpu, const struct op *op)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return STEP_NEXT;
}

static enum step serialize(struct cpu *cpu, const struct op *op)
{
	code_serialise(cpu);
	return STEP_END;
}

const struct insn_desc exec_control_table[] = {
    {ZYDIS_MNEMONIC_MOV, NULL, bind_mov, 0},
    {ZYDIS_MNEMONIC_CLTS, clts, NULL, 0},
    {ZYDIS_MNEMONIC_LMSW, lmsw, NULL, 0},
    {ZYDIS_MNEMONIC_SMSW, smsw, NULL, 0},
    {ZYDIS_MNEMONIC_RDMSR, rdmsr, NULL, 0},
    {ZYDIS_MNEMONIC_WRMSR, wrmsr, NULL, 0},
    {ZYDIS_MNEMONIC_RDTSC, rdtsc, NULL, 0},
    {ZYDIS_MNEMONIC_RDTSCP, rdtsc, NULL, 0},
    {ZYDIS_MNEMONIC_RDPID, rdpid, NULL, 0},
    {ZYDIS_MNEMONIC_RDPMC, rdpmc, NULL, 0},
    {ZYDIS_MNEMONIC_CPUID, cpuid, NULL, 0},
    {ZYDIS_MNEMONIC_XGETBV, xgetbv, NULL, 0},
    {ZYDIS_MNEMONIC_XSETBV, xsetbv, NULL, 0},
    {ZYDIS_MNEMONIC_WBINVD, cache_privileged, NULL, INTERCEPT_WBINVD},
    {ZYDIS_MNEMONIC_INVD, cache_privileged, NULL, INTERCEPT_INVD},
    {ZYDIS_MNEMONIC_CLFLUSH, cache_line, NULL, 0},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, cache_line, NULL, 0},
    {ZYDIS_MNEMONIC_CLWB, cache_line, NULL, 0},
    {ZYDIS_MNEMONIC_MFENCE, fence, NULL, 0},
    {ZYDIS_MNEMONIC_LFENCE, fence, NULL, 0},
    {ZYDIS_MNEMONIC_SFENCE, fence, NULL, 0},
    {ZYDIS_MNEMONIC_SERIALIZE, serialize, NULL, 0},
    {0, NULL, NULL, 0},
};
