/* AMD's virtualisation instructions: VMRUN and its kin. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/raise.h"
#include "vcpu/svm/svm.h"

#define SAVE_BYTES offsetof(struct vmcb_save, reserved7)

/* #UD unless EFER.SVME and protected mode, #GP for user code, then L1's intercept. */
static enum step svm_check(struct cpu *cpu, enum vmcb_intercept which)
{
	if (!(cpu->s.efer & EFER_SVME) || !cpu_is_protected(cpu))
		return cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return svm_intercept(cpu, which);
}

/* The VMCB's address in rAX: a page that the processor can address. */
static enum step svm_address(struct cpu *cpu, const struct op *op, uint64_t *gpa)
{
	*gpa = reg_get(cpu, GPR_OFFSET(CPU_RAX), op->address_bytes ? op->address_bytes : 8);
	if ((*gpa & PAGE_OFFSET_MASK) || *gpa >> 48)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return STEP_NEXT;
}

/* The VMCB is no memory: the client is asked what to do about the instruction. */
static enum step svm_no_memory(struct cpu *cpu)
{
	cpu->info->insn_size_bytes = 0;
	return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
}

static enum step vmrun(struct cpu *cpu, const struct op *op)
{
	uint64_t gpa;
	enum step step = svm_check(cpu, INTERCEPT_VMRUN);
	int result;

	/* Without a host save area the processor would have nowhere to keep L1. */
	if (!step && !cpu->s.vm_hsave)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	/* KVM keeps L1's state where system management mode keeps what it interrupted. */
	if (!step && cpu->s.smm)
		return cpu_raise(cpu, VECTOR_UD);
	if (!step)
		step = svm_address(cpu, op, &gpa);
	if (step)
		return step;
	cpu_leave_guest(cpu);
	result = svm_enter(cpu, gpa, op_next_rip(cpu, op));
	if (result == SVM_NO_MEMORY_THERE)
		return svm_no_memory(cpu);
	if (result < 0) {
		cpu->info->error = result;
		return cpu_stop_exit(cpu, CPU_EXIT_ERROR);
	}
	return STEP_JUMP_EVENTS;
}

/*
 * Leave guest mode for the VMCB of VMLOAD or VMSAVE; *@gpa becomes L1's address of it when L2 has
 * these instructions to itself.
 */
static enum step svm_reach(struct cpu *cpu, uint64_t *gpa, int is_write)
{
	uint64_t from = *gpa;

	cpu_leave_guest(cpu);
	if (!cpu->svm.nested_paging || !(cpu->svm.control.misc2 & VMCB_VIRTUAL_VMLOAD) ||
	    !svm_nested_gpa(cpu, gpa, is_write))
		return STEP_NEXT;
	return svm_exit(
	    cpu, VMCB_EXIT_NPF,
	    QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER | (is_write ? QUIRE_PFERR_WRITE : 0), from);
}

/* What VMLOAD and VMSAVE look at. */
static int read_save(struct cpu *cpu, const struct quire_map *map, struct vmcb_save *save)
{
	return quire_map_read(cpu->vcpu, map, offsetof(struct vmcb, save), save, SAVE_BYTES);
}

static enum step vmload(struct cpu *cpu, const struct op *op)
{
	struct cpu_state *s = &cpu->s;
	struct vmcb_save save;
	struct quire_map map;
	uint64_t gpa;
	int error;
	enum step step = svm_check(cpu, INTERCEPT_VMLOAD);

	if (!step)
		step = svm_address(cpu, op, &gpa);
	if (!step)
		step = svm_reach(cpu, &gpa, 0);
	if (step)
		return step;
	if (quire_vcpu_map(cpu->vcpu, (gpa_t){gpa}, QUIRE_MAP_READ, &map))
		return svm_no_memory(cpu);
	error = read_save(cpu, &map, &save);
	quire_vcpu_unmap(cpu->vcpu, &map);
	if (error)
		return svm_no_memory(cpu);
	s->seg[CPU_FS] = svm_segment_load(&save.fs);
	s->seg[CPU_GS] = svm_segment_load(&save.gs);
	s->seg[CPU_TR] = svm_segment_load(&save.tr);
	s->seg[CPU_LDTR] = svm_segment_load(&save.ldtr);
	s->kernel_gs_base = mmu_make_canonical_base(save.kernel_gs_base);
	s->star = save.star;
	s->lstar = save.lstar;
	s->cstar = save.cstar;
	s->sfmask = save.sfmask;
	s->sysenter_cs = save.sysenter_cs;
	s->sysenter_esp = save.sysenter_esp;
	s->sysenter_eip = save.sysenter_eip;
	return STEP_END;
}

static enum step vmsave(struct cpu *cpu, const struct op *op)
{
	const struct cpu_state *s = &cpu->s;
	struct vmcb_save save;
	struct quire_map map;
	uint64_t gpa;
	int error;
	enum step step = svm_check(cpu, INTERCEPT_VMSAVE);

	if (!step)
		step = svm_address(cpu, op, &gpa);
	if (!step)
		step = svm_reach(cpu, &gpa, 1);
	if (step)
		return step;
	if (quire_vcpu_map(cpu->vcpu, (gpa_t){gpa}, QUIRE_MAP_WRITE, &map))
		return svm_no_memory(cpu);
	error = read_save(cpu, &map, &save);
	save.fs = svm_segment_store(&s->seg[CPU_FS]);
	save.gs = svm_segment_store(&s->seg[CPU_GS]);
	save.tr = svm_segment_store(&s->seg[CPU_TR]);
	save.ldtr = svm_segment_store(&s->seg[CPU_LDTR]);
	save.kernel_gs_base = s->kernel_gs_base;
	save.star = s->star;
	save.lstar = s->lstar;
	save.cstar = s->cstar;
	save.sfmask = s->sfmask;
	save.sysenter_cs = s->sysenter_cs;
	save.sysenter_esp = s->sysenter_esp;
	save.sysenter_eip = s->sysenter_eip;
	if (!error)
		error = quire_map_write(cpu->vcpu, &map, offsetof(struct vmcb, save), &save,
					SAVE_BYTES);
	quire_vcpu_unmap(cpu->vcpu, &map);
	return error ? svm_no_memory(cpu) : STEP_END;
}

static enum step set_gif(struct cpu *cpu, const struct op *op)
{
	enum step step = svm_check(cpu, op->aux ? INTERCEPT_STGI : INTERCEPT_CLGI);

	if (step)
		return step;
	if (!svm_has_virtual_gif(cpu))
		svm_set_gif(cpu, op->aux);
	else if (op->aux)
		cpu->svm.control.int_ctl |= VMCB_V_GIF;
	else
		cpu->svm.control.int_ctl &= ~VMCB_V_GIF;
	return STEP_EVENTS;
}

/* Translations carry no ASID: whatever it names, they go. */
static enum step invlpga(struct cpu *cpu, const struct op *op)
{
	enum step step = svm_check(cpu, INTERCEPT_INVLPGA);

	if (step)
		return step;
	tlb_flush_all(cpu);
	cpu_leave_guest(cpu);
	quire_vcpu_flush_nested(cpu->vcpu);
	return STEP_END;
}

/* Secure start-up is not offered; a processor that has it may intercept it. */
static enum step skinit(struct cpu *cpu, const struct op *op)
{
	enum step step = svm_check(cpu, INTERCEPT_SKINIT);

	return step ? step : cpu_raise(cpu, VECTOR_UD);
}

const struct insn_desc exec_svm_table[] = {
    {ZYDIS_MNEMONIC_VMRUN, vmrun, NULL, 0},   {ZYDIS_MNEMONIC_VMLOAD, vmload, NULL, 0},
    {ZYDIS_MNEMONIC_VMSAVE, vmsave, NULL, 0}, {ZYDIS_MNEMONIC_STGI, set_gif, NULL, 1},
    {ZYDIS_MNEMONIC_CLGI, set_gif, NULL, 0},  {ZYDIS_MNEMONIC_INVLPGA, invlpga, NULL, 0},
    {ZYDIS_MNEMONIC_SKINIT, skinit, NULL, 0}, {0, NULL, NULL, 0},
};
