/* RSM: the registers that were interrupted come back from SMRAM, as far as they are possible. */
#include "vcpu/smm/smm.h"

#include "vcpu/exec/control.h"
#include "vcpu/exec/flags.h"
#include "vcpu/mem/directories.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/run.h"
#include "vcpu/smm/smram.h"
#include "vcpu/svm/svm.h"

/* @flags as the high word of a descriptor has them. */
static struct cpu_segment load_segment(uint16_t selector, uint32_t flags, uint32_t limit,
				       uint64_t base)
{
	struct cpu_segment segment = {.selector = selector, .base = base, .limit = limit};

	segment_set_attributes(&segment, segment_join_attributes(flags >> 8));
	segment.unusable = !segment.present;
	return segment;
}

static struct cpu_segment load_64(const struct smram_segment_64 *from)
{
	return load_segment(from->selector, (uint32_t)from->attributes << 8, from->limit,
			    from->base);
}

static struct cpu_segment load_32(const struct smram_segment_32 *from, uint32_t selector)
{
	return load_segment((uint16_t)selector, from->flags, from->limit, from->base);
}

/* As MOV to the register: nonzero where that would be #GP. */
static int set_control(struct cpu *cpu, unsigned int number, uint64_t value)
{
	if (!(control_write(cpu, number, value) & STEP_F_ABORT))
		return 0;
	cpu->stop = STOP_NONE;
	return -1;
}

struct paging {
	uint64_t cr0, cr3, cr4;
};

/*
 * In the order in which MOV may set them one by one. CR4.PCIDE comes last, when long mode is on,
 * and the PCID after it.
 */
static int set_paging(struct cpu *cpu, const struct paging *paging)
{
	uint64_t pcid = paging->cr4 & CR4_PCIDE ? paging->cr3 & CR3_PCID : 0;

	if (paging->cr3 >> directories_phys_bits(cpu))
		return -1;
	if (set_control(cpu, 3, paging->cr3 - pcid) ||
	    set_control(cpu, 4, paging->cr4 & ~CR4_PCIDE) || set_control(cpu, 0, paging->cr0))
		return -1;
	if (!(paging->cr4 & CR4_PCIDE))
		return 0;
	return set_control(cpu, 4, paging->cr4) || set_control(cpu, 3, paging->cr3);
}

static int restore_64(struct cpu *cpu, const struct smram_64 *from)
{
	const struct paging paging = {from->cr0, from->cr3, from->cr4};
	struct cpu_state *s = &cpu->s;

	for (unsigned int i = 0; i < 16; i++)
		s->gpr[i] = from->gpr[15 - i];
	s->rip = from->rip;
	flags_set(cpu, from->rflags);
	if (control_write_debug(cpu, 6, from->dr6) || control_write_debug(cpu, 7, from->dr7))
		return -1;
	s->smbase = from->smbase;
	if (!control_efer_is_valid(cpu, from->efer & ~EFER_LMA))
		return -1;
	/* LMA follows paging, which L2 has by now. */
	s->efer = (from->efer & ~EFER_LMA) | (s->efer & EFER_LMA);
	s->seg[CPU_TR] = load_64(&from->tr);
	s->seg[CPU_LDTR] = load_64(&from->ldtr);
	s->idt = (struct cpu_table){from->idt.base, (uint16_t)from->idt.limit};
	s->gdt = (struct cpu_table){from->gdt.base, (uint16_t)from->gdt.limit};
	if (set_paging(cpu, &paging))
		return -1;
	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		s->seg[seg] = load_64(&from->segments[seg]);
	s->interrupt_shadow = from->interrupt_shadow;
	return 0;
}

static int restore_32(struct cpu *cpu, const struct smram_32 *from)
{
	const struct smram_segment_32 *const segments[] = {&from->es, &from->cs, &from->ss,
							   &from->ds, &from->fs, &from->gs};
	const struct paging paging = {from->cr0, from->cr3, from->cr4};
	struct cpu_state *s = &cpu->s;

	for (unsigned int i = 0; i < 8; i++)
		s->gpr[i] = from->gpr[i];
	s->rip = from->eip;
	flags_set(cpu, from->eflags);
	if (control_write_debug(cpu, 6, from->dr6) || control_write_debug(cpu, 7, from->dr7))
		return -1;
	s->seg[CPU_TR] = load_32(&from->tr, from->selectors[7]);
	s->seg[CPU_LDTR] = load_32(&from->ldtr, from->selectors[6]);
	s->idt = (struct cpu_table){from->idt.base, (uint16_t)from->idt.limit};
	s->gdt = (struct cpu_table){from->gdt.base, (uint16_t)from->gdt.limit};
	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		s->seg[seg] = load_32(segments[seg], from->selectors[seg]);
	s->smbase = from->smbase;
	if (set_paging(cpu, &paging))
		return -1;
	s->interrupt_shadow = from->interrupt_shadow;
	return 0;
}

/* Whatever the handler left, each register can be set from here. */
static void back_to_real_mode(struct cpu *cpu, int is_long)
{
	struct cpu_state *s = &cpu->s;

	if (s->cr0 & CR0_PE)
		s->cr0 &= ~(CR0_PG | CR0_PE);
	if (is_long) {
		s->seg[CPU_CS] = (struct cpu_segment){.type = 0xb, .s = 1, .g = 1, .present = 1};
		s->cr4 &= ~(CR4_PCIDE | CR4_PAE);
		s->efer = 0;
		svm_set_gif(cpu, 1);
	} else {
		s->efer &= ~EFER_LMA;
	}
	cpu_update_mode(cpu);
}

/* L2 was interrupted: into it first, for SMRAM has its registers. */
static int return_to_l2(struct cpu *cpu, const struct smram_64 *from)
{
	if (!from->nested)
		return 0;
	if (!(from->efer & EFER_SVME) || !control_efer_is_valid(cpu, EFER_SVME))
		return -1;
	return svm_resume(cpu, from->nested_vmcb_gpa);
}

static int restore(struct cpu *cpu, const union smram *from)
{
	int is_long = smm_has_long_mode(cpu);
	int error;

	back_to_real_mode(cpu, is_long);
	error = is_long ? return_to_l2(cpu, &from->high) : 0;
	if (!error)
		error = is_long ? restore_64(cpu, &from->high) : restore_32(cpu, &from->low);
	/* It is L1 that shuts down. */
	if (error && cpu->svm.in_guest_mode)
		svm_restore_host(cpu);
	return error;
}

int smm_leave(struct cpu *cpu)
{
	union smram area;
	int error;

	if (quire_vcpu_read(cpu->vcpu, (gpa_t){cpu->s.smbase + SMRAM_STATE}, &area, sizeof(area)))
		return -1;
	if (!cpu->s.smm_inside_nmi)
		cpu->s.nmi_masked = 0;
	/* Space 0 is always there. */
	(void)smm_switch(cpu, 0);
	error = restore(cpu, &area);
	cpu->debug.blocked = 0;
	tlb_flush_all(cpu);
	cpu_note_paging(cpu);
	cpu_update_mode(cpu);
	mmu_paging_changed(cpu);
	return error;
}
