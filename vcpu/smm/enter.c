/* Into system management mode: registers to SMRAM, and those that its handler begins with. */
#include "vcpu/smm/smm.h"

#include <errno.h>

#include "src/base/trace.h"
#include "vcpu/decode/code.h"
#include "vcpu/exec/flags.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/run.h"
#include "vcpu/smm/smram.h"
#include "vcpu/svm/nested.h"
#include "vcpu/svm/svm.h"

#define CPUID_LONG_MODE (UINT32_C(1) << 29) /* leaf 80000001, EDX */

int smm_has_long_mode(struct cpu *cpu)
{
	uint32_t leaf[4];

	cpu->ops->cpuid(cpu->ctx, UINT32_C(0x80000001), 0, leaf);
	return (leaf[3] & CPUID_LONG_MODE) != 0;
}

int smm_due(const struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;

	return s->smi_pending && !s->smm && cpu->svm.gif && !s->exception_pending &&
	       !s->interrupt_injected && !s->nmi_injected;
}

int smm_switch(struct cpu *cpu, int on)
{
	if (quire_vcpu_set_address_space(cpu->vcpu, on ? SMM_SPACE : 0))
		return -EINVAL;
	QUIRE_TRACE(kvm_smm_transition, quire_vcpu_id(cpu->vcpu), cpu->s.smbase, on);
	cpu->s.smm = on != 0;
	tlb_flush_all(cpu);
	if (on)
		return 0;
	cpu->s.smm_inside_nmi = 0;
	/* What the client has loaded as directories does not outlive the mode: memory counts. */
	cpu->s.directories_loaded = 0;
	/* An INIT that waited has its turn when the mode ends. */
	svm_set_gif(cpu, cpu->svm.gif);
	return 0;
}

/* As the high word of a descriptor has them. */
static uint32_t segment_flags(const struct cpu_segment *from)
{
	struct cpu_segment segment = *from;

	segment.present = from->present && !from->unusable;
	return segment_split_attributes(segment_attributes(&segment)) << 8;
}

static struct smram_segment_64 save_segment_64(const struct cpu_segment *from)
{
	return (struct smram_segment_64){
	    .selector = from->selector,
	    .attributes = segment_flags(from) >> 8,
	    .limit = from->limit,
	    .base = from->base,
	};
}

static struct smram_segment_32 save_segment_32(const struct cpu_segment *from)
{
	return (struct smram_segment_32){segment_flags(from), from->limit, (uint32_t)from->base};
}

static void save_64(const struct cpu *cpu, struct smram_64 *to)
{
	const struct cpu_state *s = &cpu->s;

	for (unsigned int i = 0; i < 16; i++)
		to->gpr[15 - i] = s->gpr[i];
	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		to->segments[seg] = save_segment_64(&s->seg[seg]);
	to->tr = save_segment_64(&s->seg[CPU_TR]);
	to->ldtr = save_segment_64(&s->seg[CPU_LDTR]);
	to->gdt.base = s->gdt.base;
	to->gdt.limit = s->gdt.limit;
	to->idt.base = s->idt.base;
	to->idt.limit = s->idt.limit;
	to->rip = s->rip;
	to->rflags = flags_get(cpu);
	to->dr6 = s->dr6;
	to->dr7 = s->dr7;
	to->cr0 = s->cr0;
	to->cr3 = s->cr3;
	to->cr4 = s->cr4;
	to->efer = s->efer;
	to->smbase = (uint32_t)s->smbase;
	to->revision = SMRAM_REVISION_64;
	to->interrupt_shadow = s->interrupt_shadow;
}

static void save_32(const struct cpu *cpu, struct smram_32 *to)
{
	const struct cpu_state *s = &cpu->s;

	for (unsigned int i = 0; i < 8; i++)
		to->gpr[i] = (uint32_t)s->gpr[i];
	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		to->selectors[seg] = s->seg[seg].selector;
	to->selectors[6] = s->seg[CPU_LDTR].selector;
	to->selectors[7] = s->seg[CPU_TR].selector;
	to->es = save_segment_32(&s->seg[CPU_ES]);
	to->cs = save_segment_32(&s->seg[CPU_CS]);
	to->ss = save_segment_32(&s->seg[CPU_SS]);
	to->ds = save_segment_32(&s->seg[CPU_DS]);
	to->fs = save_segment_32(&s->seg[CPU_FS]);
	to->gs = save_segment_32(&s->seg[CPU_GS]);
	to->tr = save_segment_32(&s->seg[CPU_TR]);
	to->ldtr = save_segment_32(&s->seg[CPU_LDTR]);
	to->gdt = (struct smram_segment_32){0, s->gdt.limit, (uint32_t)s->gdt.base};
	to->idt = (struct smram_segment_32){0, s->idt.limit, (uint32_t)s->idt.base};
	to->eip = (uint32_t)s->rip;
	to->eflags = (uint32_t)flags_get(cpu);
	to->dr6 = (uint32_t)s->dr6;
	to->dr7 = (uint32_t)s->dr7;
	to->cr0 = (uint32_t)s->cr0;
	to->cr3 = (uint32_t)s->cr3;
	to->cr4 = (uint32_t)s->cr4;
	to->smbase = (uint32_t)s->smbase;
	to->revision = SMRAM_REVISION_32;
	to->interrupt_shadow = s->interrupt_shadow;
}

/* The smaller layout has no place for L2: the client has to keep the two apart. */
static int leave_l2(struct cpu *cpu, struct smram_64 *to, int is_long)
{
	if (!cpu->svm.in_guest_mode)
		return 0;
	if (!is_long)
		return -1;
	to->nested = 1;
	to->nested_vmcb_gpa = cpu->svm.vmcb_gpa;
	return svm_suspend(cpu);
}

static void mask_nmis(struct cpu_state *s)
{
	if (s->nmi_masked)
		s->smm_inside_nmi = 1;
	s->nmi_masked = 1;
}

/* Real mode with segments of 4 GiB. */
static void set_segments(struct cpu_state *s)
{
	struct cpu_segment flat = {.limit = UINT32_MAX, .type = 3, .s = 1, .present = 1, .g = 1};

	for (unsigned int seg = CPU_ES; seg <= CPU_GS; seg++)
		s->seg[seg] = flat;
	s->seg[CPU_CS].selector = (uint16_t)(s->smbase >> 4);
	s->seg[CPU_CS].base = s->smbase;
}

static void set_registers(struct cpu *cpu, int is_long)
{
	struct cpu_state *s = &cpu->s;

	s->rip = SMRAM_ENTRY;
	s->interrupt_shadow = 0;
	s->halted = 0;
	s->cr0 &= ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
	s->efer &= ~EFER_LMA;
	s->cr4 = 0;
	s->idt = (struct cpu_table){0};
	s->dr7 = DR7_FIXED;
	set_segments(s);
	if (is_long) {
		s->efer = 0;
		svm_set_gif(cpu, 1);
	}
	flags_set(cpu, FLAG_FIXED);
	cpu->debug.blocked = 0;
	tlb_flush_all(cpu);
	cpu_note_paging(cpu);
	cpu_update_mode(cpu);
	mmu_paging_changed(cpu);
}

int smm_enter(struct cpu *cpu)
{
	int is_long = smm_has_long_mode(cpu);
	union smram area;

	memset(&area, 0, sizeof(area));
	if (is_long)
		save_64(cpu, &area.high);
	else
		save_32(cpu, &area.low);
	cpu->s.smi_pending = 0;
	cpu->s.smi_count++;
	if (leave_l2(cpu, &area.high, is_long) || smm_switch(cpu, 1))
		return -1;
	if (quire_vcpu_write(cpu->vcpu, (gpa_t){cpu->s.smbase + SMRAM_STATE}, &area, sizeof(area)))
		return -1;
	mask_nmis(&cpu->s);
	set_registers(cpu, is_long);
	return 0;
}

int cpu_set_smm(struct cpu *cpu, bool on)
{
	if (on == (cpu->s.smm != 0))
		return 0;
	if (cpu->svm.in_guest_mode)
		cpu_nested_leave(cpu);
	return smm_switch(cpu, on);
}
