/* The local APIC: its modes, its reset, priorities, and the vector to take next. */
#include "frontend/irq/lapic.h"

#include <errno.h>
#include <string.h>

#include "frontend/irq/irqchip.h"
#include "frontend/irq/lapic_internal.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/state/cpuid.h"
#include "hosts/process/lock.h"

#define VERSION_VALUE 0x50014u /* six local vectors */
#define CPUID1_X2APIC (1u << 21)
#define CPUID1_TSC_DEADLINE (1u << 24)
#define BASE_RESERVED (~((UINT64_C(1) << CPUID_MAXPHYADDR) - 1) | 0x2ff)

/* The highest vector set in a row of eight 32-bit registers, -1 for none. */
static int highest(struct lapic *lapic, uint32_t row)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t bits = *lapic_reg(lapic, row + 16 * (uint32_t)i);

		if (bits)
			return 32 * i + 31 - __builtin_clz(bits);
	}
	return -1;
}

static void set_vector(struct lapic *lapic, uint32_t row, uint8_t vector, bool on)
{
	uint32_t *word = lapic_reg(lapic, row + 16 * (vector / 32u));
	uint32_t bit = 1u << (vector % 32);

	*word = on ? *word | bit : *word & ~bit;
}

void lapic_set_irr_locked(struct lapic *lapic, uint8_t vector, bool level)
{
	set_vector(lapic, LAPIC_TMR, vector, level);
	set_vector(lapic, LAPIC_IRR, vector, true);
}

uint32_t lapic_priority_locked(struct lapic *lapic)
{
	uint32_t tpr = *lapic_reg(lapic, LAPIC_TPR) & 0xff;
	int in_service = highest(lapic, LAPIC_ISR);
	uint32_t isr = in_service < 0 ? 0 : (uint32_t)in_service;

	return (tpr & 0xf0) >= (isr & 0xf0) ? tpr : isr & 0xf0;
}

bool lapic_enabled_locked(const struct lapic *lapic)
{
	return (lapic->base & APIC_BASE_ENABLE) && (lapic->regs[LAPIC_SVR / 4] & SVR_ENABLED);
}

/* The vector to deliver next, -1 for none. What is pending stays so when the guest turns it off. */
static int deliverable_locked(struct lapic *lapic)
{
	int vector = lapic->base & APIC_BASE_ENABLE ? highest(lapic, LAPIC_IRR) : -1;

	if (vector < 0 || (uint32_t)(vector & 0xf0) <= (lapic_priority_locked(lapic) & 0xf0))
		return -1;
	return vector;
}

bool lapic_has_interrupt(struct vcpu *vcpu)
{
	bool has;

	process_lock_acquire(&vcpu->lapic.lock);
	has = deliverable_locked(&vcpu->lapic) >= 0;
	process_lock_release(&vcpu->lapic.lock);
	return has;
}

int lapic_take_interrupt(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	int vector;

	process_lock_acquire(&lapic->lock);
	vector = deliverable_locked(lapic);
	if (vector >= 0) {
		set_vector(lapic, LAPIC_IRR, (uint8_t)vector, false);
		set_vector(lapic, LAPIC_ISR, (uint8_t)vector, true);
		lapic->newest = vector;
	}
	process_lock_release(&lapic->lock);
	return vector;
}

int lapic_sole_vector(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	int vector;

	process_lock_acquire(&lapic->lock);
	vector = highest(lapic, LAPIC_IRR) < 0 ? lapic->newest : -1;
	process_lock_release(&lapic->lock);
	return vector;
}

bool lapic_accepts_pic(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	bool accepts;
	uint32_t lvt;

	process_lock_acquire(&lapic->lock);
	lvt = *lapic_reg(lapic, LAPIC_LVT_LINT0);
	accepts = !(lapic->base & APIC_BASE_ENABLE) ||
		  (!(lvt & LVT_MASKED) && (lvt >> 8 & 7) == APIC_MODE_EXTINT);
	process_lock_release(&lapic->lock);
	return accepts;
}

bool lapic_is_enabled(struct vcpu *vcpu)
{
	bool enabled;

	process_lock_acquire(&vcpu->lapic.lock);
	enabled = lapic_enabled_locked(&vcpu->lapic);
	process_lock_release(&vcpu->lapic.lock);
	return enabled;
}

uint32_t lapic_priority(struct vcpu *vcpu)
{
	uint32_t priority;

	process_lock_acquire(&vcpu->lapic.lock);
	priority = lapic_priority_locked(&vcpu->lapic);
	process_lock_release(&vcpu->lapic.lock);
	return priority;
}

void lapic_set_x2apic_id_locked(struct vcpu *vcpu)
{
	*lapic_reg(&vcpu->lapic, LAPIC_ID) = vcpu->id;
	*lapic_reg(&vcpu->lapic, LAPIC_LDR) = (vcpu->id >> 4) << 16 | 1u << (vcpu->id & 15);
}

/* An I/O APIC inside has no register for directed ends of interrupt. */
void lapic_set_version_locked(struct vcpu *vcpu)
{
	uint32_t version = VERSION_VALUE;

	if (!irqchip_has_pic(&vcpu->vm->irqchip) &&
	    (cpuid_register(vcpu, 1, CPUID_ECX) & CPUID1_X2APIC))
		version |= VERSION_DIRECTED_EOI;
	*lapic_reg(&vcpu->lapic, LAPIC_VERSION) = version;
}

void lapic_cpuid_changed(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	bool has_deadline = cpuid_register(vcpu, 1, CPUID_ECX) & CPUID1_TSC_DEADLINE;

	if (!lapic->present)
		return;
	process_lock_acquire(&lapic->lock);
	lapic->mode_mask = has_deadline ? LVT_TIMER_MODES : LVT_TIMER_PERIODIC;
	lapic_set_version_locked(vcpu);
	process_lock_release(&lapic->lock);
}

void lapic_init(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;

	lapic->lock = (struct process_lock){0};
	lapic->present = irqchip_has_lapic(&vcpu->vm->irqchip);
	lapic->pending_extint = -1;
	lapic->cycle_ns = vcpu->vm->settings.apic_cycle_ns;
	lapic->base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE;
	if (vcpu->id == vcpu->vm->settings.boot_vcpu_id)
		lapic->base |= APIC_BASE_BSP;
	if (!lapic->present)
		return;
	vm_timer_add(&vcpu->vm->timers, &lapic->timer, lapic_timer_fire);
}

/* LINT0 of the boot processor lets the PIC's interrupts through, unless the client has that off. */
static uint32_t lint0_at_reset(const struct vcpu *vcpu)
{
	uint64_t off = atomic_load(&vcpu->vm->settings.disabled_quirks);

	if (!(vcpu->lapic.base & APIC_BASE_BSP) || (off & KVM_X86_QUIRK_LINT0_REENABLED))
		return LVT_MASKED;
	return APIC_MODE_EXTINT << 8;
}

static void reset_registers(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t id = *lapic_reg(lapic, LAPIC_ID), ldr = *lapic_reg(lapic, LAPIC_LDR);

	memset(lapic->regs, 0, sizeof(lapic->regs));
	lapic->newest = -1;
	*lapic_reg(lapic, LAPIC_ID) = id;
	if (lapic_is_x2apic(lapic))
		*lapic_reg(lapic, LAPIC_LDR) = ldr;
	lapic_set_version_locked(vcpu);
	*lapic_reg(lapic, LAPIC_SVR) = 0xff;
	*lapic_reg(lapic, LAPIC_DFR) = DFR_FLAT;
	for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
		*lapic_reg(lapic, lvt) = LVT_MASKED;
	*lapic_reg(lapic, LAPIC_LVT_LINT0) = lint0_at_reset(vcpu);
}

void lapic_reset(struct vcpu *vcpu, bool init)
{
	struct lapic *lapic = &vcpu->lapic;

	process_lock_acquire(&lapic->lock);
	if (!init) {
		lapic->base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (lapic->base & APIC_BASE_BSP);
		*lapic_reg(lapic, LAPIC_ID) = vcpu->id << 24;
	}
	reset_registers(vcpu);
	lapic_timer_reset_locked(vcpu);
	(void)lapic_count_watchdog_locked(vcpu, *lapic_reg(lapic, LAPIC_LVT_LINT0));
	process_lock_release(&lapic->lock);
}

uint64_t lapic_get_base(struct vcpu *vcpu)
{
	uint64_t base;

	process_lock_acquire(&vcpu->lapic.lock);
	base = vcpu->lapic.base;
	process_lock_release(&vcpu->lapic.lock);
	return base;
}

enum apic_base_mode { BASE_DISABLED, BASE_INVALID, BASE_XAPIC, BASE_X2APIC };

static enum apic_base_mode mode_of(uint64_t base)
{
	if (base & APIC_BASE_ENABLE)
		return base & APIC_BASE_X2APIC ? BASE_X2APIC : BASE_XAPIC;
	return base & APIC_BASE_X2APIC ? BASE_INVALID : BASE_DISABLED;
}

/* The register is the processor's: its rules hold where the client plays the APIC, too. */
static bool base_valid(struct vcpu *vcpu, enum msr_origin origin, uint64_t base)
{
	enum apic_base_mode before = mode_of(lapic_get_base(vcpu)), after = mode_of(base);

	if ((base & BASE_RESERVED) || base >> cpuid_phys_bits(vcpu) || after == BASE_INVALID)
		return false;
	if (after == BASE_X2APIC && !(cpuid_register(vcpu, 1, CPUID_ECX) & CPUID1_X2APIC))
		return false;
	/* The client restores any mode; a guest has to go by way of the disabled one, and back. */
	if (origin == MSR_FROM_CLIENT)
		return true;
	return !(before == BASE_X2APIC && after == BASE_XAPIC) &&
	       !(before == BASE_DISABLED && after == BASE_X2APIC);
}

static bool change_base_locked(struct vcpu *vcpu, uint64_t base)
{
	struct lapic *lapic = &vcpu->lapic;
	uint64_t changed = lapic->base ^ base;

	lapic->base = base;
	if (!lapic->present)
		return false;
	if ((changed & base & APIC_BASE_ENABLE) ||
	    ((changed & APIC_BASE_X2APIC) && mode_of(base) == BASE_XAPIC))
		*lapic_reg(lapic, LAPIC_ID) = vcpu->id << 24;
	if (changed & base & APIC_BASE_X2APIC)
		lapic_set_x2apic_id_locked(vcpu);
	return lapic_timer_inject_locked(vcpu);
}

int lapic_set_base(struct vcpu *vcpu, enum msr_origin origin, uint64_t base)
{
	bool wake;

	if (base == lapic_get_base(vcpu))
		return 0;
	if (!base_valid(vcpu, origin, base))
		return -EINVAL;
	process_lock_acquire(&vcpu->lapic.lock);
	wake = change_base_locked(vcpu, base);
	process_lock_release(&vcpu->lapic.lock);
	if (wake)
		vcpu_wake(vcpu);
	return 0;
}

uint8_t lapic_get_cr8(struct vcpu *vcpu)
{
	uint8_t value;

	process_lock_acquire(&vcpu->lapic.lock);
	value = *lapic_reg(&vcpu->lapic, LAPIC_TPR) >> 4 & 15;
	process_lock_release(&vcpu->lapic.lock);
	return value;
}

void lapic_set_cr8(struct vcpu *vcpu, uint8_t value)
{
	process_lock_acquire(&vcpu->lapic.lock);
	*lapic_reg(&vcpu->lapic, LAPIC_TPR) = (uint32_t)(value & 15) << 4;
	process_lock_release(&vcpu->lapic.lock);
}
