/* General, special and debug registers in KVM's layout. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "frontend/object/system.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/state/cpuid.h"
#include "vcpu/arch.h"
#include "vcpu/svm/nested.h"

/* What the two layouts of special registers share, from their beginning on. */
#define SREGS_COMMON_BYTES offsetof(struct kvm_sregs, interrupt_bitmap)
_Static_assert(SREGS_COMMON_BYTES == offsetof(struct kvm_sregs2, flags), "one layout");

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
    {12, 7, CPUID_ECX, 16}, /* LA57 */
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

/*
 * What @sregs may have set in EFER. KVM looked at no CPUID here for most of its life, and small
 * clients enter long mode without ever setting one; the newest refuses them. A vCPU without any
 * CPUID therefore takes the whole of long mode, as the old ones do, and no single bit, as the new.
 */
static uint64_t efer_allowed(const struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	uint64_t allowed = cpuid_efer_bits(vcpu);

	if (!vcpu->cpuid.count && (sregs->efer & EFER_LMA))
		allowed |= EFER_LME | EFER_LMA | EFER_NXE;
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
	/* What is already on its way stays. */
	state->exception_pending = state->exception_pending && state->exception_injected;
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
	if ((sregs->cr4 & ~cr4_allowed(vcpu)) || (sregs->efer & ~efer_allowed(vcpu, sregs)))
		return false;
	if ((sregs->efer & EFER_LME) && (sregs->cr0 & CR0_PG)) {
		/* Long mode: entered by setting CR0.PG, which sets LMA and needs PAE. */
		if (!(sregs->cr4 & CR4_PAE) || !(sregs->efer & EFER_LMA))
			return false;
		return !(sregs->cr3 >> cpuid_phys_bits(vcpu));
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

/* An old client's reset: it does not know the run state. */
static bool is_reset(const struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	return vcpu->id == vcpu->vm->settings.boot_vcpu_id && cpu_state(vcpu->cpu)->rip == 0xfff0 &&
	       sregs->cs.selector == 0xf000 && sregs->cs.base == 0xffff0000 &&
	       !(sregs->cr0 & CR0_PE);
}

/* All but the interrupt that waits, which KVM_SET_SREGS2 has no place for. */
static int set_common(struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (!sregs_valid(vcpu, sregs) || lapic_set_base(vcpu, MSR_FROM_CLIENT, sregs->apic_base))
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
	/* Of a priority with unknown bits KVM takes nothing, and does not say so. */
	if (sregs->cr8 <= 15)
		lapic_set_cr8(vcpu, (uint8_t)sregs->cr8);
	if (is_reset(vcpu, sregs)) {
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
		state->halted = 0;
	}
	if (system_has_tdp())
		state->directories_loaded = 0;
	cpu_state_changed(vcpu->cpu);
	return 0;
}

int sregs_set(struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	if (set_common(vcpu, sregs))
		return -EINVAL;
	cpu_load_directories(vcpu->cpu);
	inject_bitmap(cpu_state(vcpu->cpu), sregs);
	return 0;
}

static bool is_pae(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/*
 * The four entries that CR3 names: what the client set, until the guest runs; then, as on AMD's
 * processors, what is in memory, or without a second stage what was loaded. All zero where memory
 * has no valid entries.
 */
static void read_pdptrs(struct vcpu *vcpu, uint64_t pdptrs[4])
{
	uint64_t reserved = UINT64_C(0x1e6) | ~((UINT64_C(1) << cpuid_phys_bits(vcpu)) - 1);
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	gpa_t table = {state->cr3 & UINT64_C(0xffffffe0)};

	if (state->directories_loaded) {
		memcpy(pdptrs, state->directories, sizeof(state->directories));
		return;
	}
	if (quire_vcpu_read(vcpu->memory, table, pdptrs, 4 * sizeof(*pdptrs)))
		memset(pdptrs, 0, 4 * sizeof(*pdptrs));
	for (int i = 0; i < 4; i++) {
		if ((pdptrs[i] & 1) && (pdptrs[i] & reserved)) {
			memset(pdptrs, 0, 4 * sizeof(*pdptrs));
			return;
		}
	}
}

long vcpu_get_sregs2(struct ioctl_call *call)
{
	const struct cpu_state *state;
	struct kvm_sregs2 *sregs2 = call->data;
	struct vcpu *vcpu = call->object;
	struct kvm_sregs sregs;

	state = cpu_state(vcpu->cpu);
	sregs_get(vcpu, &sregs);
	memcpy(sregs2, &sregs, SREGS_COMMON_BYTES);
	if (is_pae(state->cr0, state->cr4, state->efer)) {
		read_pdptrs(vcpu, (uint64_t *)sregs2->pdptrs);
		sregs2->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
	return 0;
}

long vcpu_set_sregs2(struct ioctl_call *call)
{
	const struct kvm_sregs2 *sregs2 = call->data;
	struct vcpu *vcpu = call->object;
	struct kvm_sregs sregs = {0};

	if (sregs2->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (sregs2->flags && !is_pae(sregs2->cr0, sregs2->cr4, sregs2->efer))
		return -EINVAL;
	memcpy(&sregs, sregs2, SREGS_COMMON_BYTES);
	if (set_common(vcpu, &sregs))
		return -EINVAL;
	if (sregs2->flags) {
		struct cpu_state *state = cpu_state(vcpu->cpu);

		memcpy(state->directories, sregs2->pdptrs, sizeof(state->directories));
		state->directories_loaded = 1;
	} else {
		cpu_load_directories(vcpu->cpu);
	}
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
