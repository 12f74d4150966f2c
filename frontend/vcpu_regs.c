/* General, special and debug registers in KVM's layout. */
#include <errno.h>
#include <string.h>

#include "frontend/cpuid.h"
#include "frontend/vcpu.h"
#include "frontend/vm.h"
#include "vcpu/arch.h"
#include "vcpu/nested.h"

/* CR4 bits that every guest may set: VME..OSXMMEXCPT. */
#define CR4_ALWAYS UINT64_C(0x7ff)

/* CR4 bits that come with a CPUID feature: leaf, register, bit. */
static const struct {
	uint8_t cr4_bit;
	uint32_t leaf;
	enum cpuid_register which;
	uint8_t bit;
} cr4_features[] = {
    {11, 7, CPUID_ECX, 2},  /* UMIP */
    {16, 7, CPUID_EBX, 0},  /* FSGSBASE */
    {17, 1, CPUID_ECX, 17}, /* PCIDE */
    {18, 1, CPUID_ECX, 26}, /* OSXSAVE */
    {20, 7, CPUID_EBX, 7},  /* SMEP */
    {21, 7, CPUID_EBX, 20}, /* SMAP */
    {22, 7, CPUID_ECX, 3},  /* PKE */
};

static uint64_t cr4_allowed(const struct vcpu *vcpu)
{
	uint64_t allowed = CR4_ALWAYS;

	for (size_t i = 0; i < sizeof(cr4_features) / sizeof(cr4_features[0]); i++) {
		uint32_t value = cpuid_register(vcpu, cr4_features[i].leaf, cr4_features[i].which);

		if (value >> cr4_features[i].bit & 1)
			allowed |= UINT64_C(1) << cr4_features[i].cr4_bit;
	}
	return allowed;
}

static uint64_t efer_allowed(const struct vcpu *vcpu)
{
	uint32_t features = cpuid_register(vcpu, 0x80000001, CPUID_EDX);
	uint64_t allowed = EFER_SCE;

	if (features >> 29 & 1)
		allowed |= EFER_LME | EFER_LMA;
	if (features >> 20 & 1)
		allowed |= EFER_NXE;
	if (cpuid_register(vcpu, 0x80000001, CPUID_ECX) >> 2 & 1)
		allowed |= EFER_SVME;
	return allowed;
}

void regs_get(struct vcpu *vcpu, struct kvm_regs *regs)
{
	const struct cpu_state *state = cpu_state(vcpu->cpu);

	*regs = (struct kvm_regs){
	    .rax = state->gpr[CPU_RAX],
	    .rbx = state->gpr[CPU_RBX],
	    .rcx = state->gpr[CPU_RCX],
	    .rdx = state->gpr[CPU_RDX],
	    .rsi = state->gpr[CPU_RSI],
	    .rdi = state->gpr[CPU_RDI],
	    .rsp = state->gpr[CPU_RSP],
	    .rbp = state->gpr[CPU_RBP],
	    .r8 = state->gpr[8],
	    .r9 = state->gpr[9],
	    .r10 = state->gpr[10],
	    .r11 = state->gpr[11],
	    .r12 = state->gpr[12],
	    .r13 = state->gpr[13],
	    .r14 = state->gpr[14],
	    .r15 = state->gpr[15],
	    .rip = state->rip,
	    .rflags = state->rflags,
	};
}

void regs_set(struct vcpu *vcpu, const struct kvm_regs *regs)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);
	const uint64_t values[16] = {
	    regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp, regs->rsi, regs->rdi,
	    regs->r8,  regs->r9,  regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15,
	};

	memcpy(state->gpr, values, sizeof(values));
	state->rip = regs->rip;
	state->rflags = regs->rflags | FLAG_FIXED;
	state->exception_pending = 0;
	cpu_state_changed(vcpu->cpu);
}

long vcpu_get_regs(struct ioctl_call *call)
{
	regs_get(call->object, call->data);
	return 0;
}

long vcpu_set_regs(struct ioctl_call *call)
{
	regs_set(call->object, call->data);
	return 0;
}

static struct kvm_segment segment_get(const struct cpu_segment *segment)
{
	return (struct kvm_segment){
	    .base = segment->base,
	    .limit = segment->limit,
	    .selector = segment->selector,
	    .type = segment->type,
	    .present = segment->present,
	    .dpl = segment->dpl,
	    .db = segment->db,
	    .s = segment->s,
	    .l = segment->l,
	    .g = segment->g,
	    .avl = segment->avl,
	    .unusable = segment->unusable,
	};
}

static struct cpu_segment segment_set(const struct kvm_segment *segment)
{
	return (struct cpu_segment){
	    .base = segment->base,
	    .limit = segment->limit,
	    .selector = segment->selector,
	    .type = segment->type & 15,
	    .present = segment->present & 1,
	    .dpl = segment->dpl & 3,
	    .db = segment->db & 1,
	    .s = segment->s & 1,
	    .l = segment->l & 1,
	    .g = segment->g & 1,
	    .avl = segment->avl & 1,
	    .unusable = segment->unusable & 1,
	};
}

void sregs_get(struct vcpu *vcpu, struct kvm_sregs *sregs)
{
	const struct cpu_state *state = cpu_state(vcpu->cpu);

	*sregs = (struct kvm_sregs){
	    .cs = segment_get(&state->seg[CPU_CS]),
	    .ds = segment_get(&state->seg[CPU_DS]),
	    .es = segment_get(&state->seg[CPU_ES]),
	    .fs = segment_get(&state->seg[CPU_FS]),
	    .gs = segment_get(&state->seg[CPU_GS]),
	    .ss = segment_get(&state->seg[CPU_SS]),
	    .tr = segment_get(&state->seg[CPU_TR]),
	    .ldt = segment_get(&state->seg[CPU_LDTR]),
	    .gdt = {.base = state->gdt.base, .limit = state->gdt.limit},
	    .idt = {.base = state->idt.base, .limit = state->idt.limit},
	    .cr0 = state->cr0,
	    .cr2 = state->cr2,
	    .cr3 = state->cr3,
	    .cr4 = state->cr4,
	    .cr8 = lapic_get_cr8(vcpu),
	    .efer = state->efer,
	    .apic_base = lapic_get_base(vcpu),
	};
	if (state->interrupt_injected && !state->interrupt_soft)
		sregs->interrupt_bitmap[state->interrupt_vector / 64] |=
		    UINT64_C(1) << (state->interrupt_vector % 64);
}

static bool sregs_valid(const struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	if (sregs->cr0 >> 32 || ((sregs->cr0 & CR0_NW) && !(sregs->cr0 & CR0_CD)) ||
	    ((sregs->cr0 & CR0_PG) && !(sregs->cr0 & CR0_PE)))
		return false;
	if ((sregs->cr4 & ~cr4_allowed(vcpu)) || (sregs->efer & ~efer_allowed(vcpu)))
		return false;
	if ((sregs->efer & EFER_LME) && (sregs->cr0 & CR0_PG)) {
		/* Long mode: entered by setting CR0.PG, which sets LMA and needs PAE. */
		if (!(sregs->cr4 & CR4_PAE) || !(sregs->efer & EFER_LMA))
			return false;
		return !(sregs->cr3 >> CPUID_MAXPHYADDR & ~(UINT64_C(1) << 15));
	}
	return !(sregs->efer & EFER_LMA) && !sregs->cs.l;
}

static void inject_bitmap(struct cpu_state *state, const struct kvm_sregs *sregs)
{
	for (unsigned int vector = 0; vector < 256; vector++) {
		if (!(sregs->interrupt_bitmap[vector / 64] >> (vector % 64) & 1))
			continue;
		state->interrupt_injected = 1;
		state->interrupt_vector = (uint8_t)vector;
		state->interrupt_soft = 0;
		return;
	}
}

int sregs_set(struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (!sregs_valid(vcpu, sregs) || lapic_set_base(vcpu, sregs->apic_base))
		return -EINVAL;
	if (!(sregs->efer & EFER_SVME))
		cpu_nested_leave(vcpu->cpu);
	state->seg[CPU_CS] = segment_set(&sregs->cs);
	state->seg[CPU_DS] = segment_set(&sregs->ds);
	state->seg[CPU_ES] = segment_set(&sregs->es);
	state->seg[CPU_FS] = segment_set(&sregs->fs);
	state->seg[CPU_GS] = segment_set(&sregs->gs);
	state->seg[CPU_SS] = segment_set(&sregs->ss);
	state->seg[CPU_TR] = segment_set(&sregs->tr);
	state->seg[CPU_LDTR] = segment_set(&sregs->ldt);
	state->gdt = (struct cpu_table){sregs->gdt.base, sregs->gdt.limit};
	state->idt = (struct cpu_table){sregs->idt.base, sregs->idt.limit};
	state->cr0 = sregs->cr0;
	state->cr2 = sregs->cr2;
	state->cr3 = sregs->cr3;
	state->cr4 = sregs->cr4;
	state->efer = sregs->efer;
	lapic_set_cr8(vcpu, (uint8_t)sregs->cr8);
	inject_bitmap(state, sregs);
	/* An old client's reset: it does not know the run state. */
	if (vcpu->id == vcpu->vm->settings.boot_vcpu_id && state->rip == 0xfff0 &&
	    sregs->cs.selector == 0xf000 && !(sregs->cr0 & CR0_PE)) {
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
		state->halted = 0;
	}
	cpu_state_changed(vcpu->cpu);
	return 0;
}

long vcpu_get_sregs(struct ioctl_call *call)
{
	sregs_get(call->object, call->data);
	return 0;
}

long vcpu_set_sregs(struct ioctl_call *call)
{
	return sregs_set(call->object, call->data);
}

long vcpu_get_debugregs(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	struct kvm_debugregs *regs = call->data;

	for (int i = 0; i < 4; i++)
		regs->db[i] = state->dr[i];
	regs->dr6 = state->dr6;
	regs->dr7 = state->dr7;
	return 0;
}

long vcpu_set_debugregs(struct ioctl_call *call)
{
	const struct kvm_debugregs *regs = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (regs->flags || regs->dr6 >> 32 || regs->dr7 >> 32)
		return -EINVAL;
	for (int i = 0; i < 4; i++)
		state->dr[i] = regs->db[i];
	state->dr6 = regs->dr6;
	state->dr7 = regs->dr7;
	cpu_state_changed(vcpu->cpu);
	return 0;
}

long vcpu_translate(struct ioctl_call *call)
{
	struct kvm_translation *translation = call->data;
	struct vcpu *vcpu = call->object;
	gpa_t gpa;

	translation->valid = cpu_translate(vcpu->cpu, translation->linear_address, &gpa);
	translation->physical_address = translation->valid ? gpa.v : UINT64_MAX;
	translation->writeable = 1;
	translation->usermode = 0;
	return 0;
}
