/* The local APIC: registers, priorities, delivery, KVM's saved form. */
#include "frontend/lapic.h"

#include <errno.h>
#include <string.h>

#include "frontend/cpuid.h"
#include "frontend/irqchip.h"
#include "frontend/lapic_internal.h"
#include "frontend/vcpu.h"
#include "frontend/vm.h"

#define VERSION_VALUE 0x50014u /* six local vectors */
#define CPUID1_X2APIC (1u << 21)
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

static uint32_t priority_locked(struct lapic *lapic)
{
	uint32_t tpr = *lapic_reg(lapic, LAPIC_TPR) & 0xff;
	int in_service = highest(lapic, LAPIC_ISR);
	uint32_t isr = in_service < 0 ? 0 : (uint32_t)in_service;

	return (tpr & 0xf0) >= (isr & 0xf0) ? tpr : isr & 0xf0;
}

static bool enabled_locked(const struct lapic *lapic)
{
	return (lapic->base & APIC_BASE_ENABLE) && (lapic->regs[LAPIC_SVR / 4] & SVR_ENABLED);
}

/* The vector to deliver next, -1 for none. */
static int deliverable_locked(struct lapic *lapic)
{
	int vector = enabled_locked(lapic) ? highest(lapic, LAPIC_IRR) : -1;

	if (vector < 0 || (uint32_t)(vector & 0xf0) <= (priority_locked(lapic) & 0xf0))
		return -1;
	return vector;
}

bool lapic_has_interrupt(struct vcpu *vcpu)
{
	bool has;

	pthread_mutex_lock(&vcpu->lapic.lock);
	has = deliverable_locked(&vcpu->lapic) >= 0;
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return has;
}

int lapic_take_interrupt(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	int vector;

	pthread_mutex_lock(&lapic->lock);
	vector = deliverable_locked(lapic);
	if (vector >= 0) {
		set_vector(lapic, LAPIC_IRR, (uint8_t)vector, false);
		set_vector(lapic, LAPIC_ISR, (uint8_t)vector, true);
	}
	pthread_mutex_unlock(&lapic->lock);
	return vector;
}

bool lapic_accepts_pic(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	bool accepts;
	uint32_t lvt;

	pthread_mutex_lock(&lapic->lock);
	lvt = *lapic_reg(lapic, LAPIC_LVT_LINT0);
	accepts = !(lapic->base & APIC_BASE_ENABLE) ||
		  (!(lvt & LVT_MASKED) && (lvt >> 8 & 7) == APIC_MODE_EXTINT);
	pthread_mutex_unlock(&lapic->lock);
	return accepts;
}

bool lapic_is_enabled(struct vcpu *vcpu)
{
	bool enabled;

	pthread_mutex_lock(&vcpu->lapic.lock);
	enabled = enabled_locked(&vcpu->lapic);
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return enabled;
}

uint32_t lapic_priority(struct vcpu *vcpu)
{
	uint32_t priority;

	pthread_mutex_lock(&vcpu->lapic.lock);
	priority = priority_locked(&vcpu->lapic);
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return priority;
}

/* The id registers follow the mode. */
static void set_id_locked(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;

	if (lapic_is_x2apic(lapic)) {
		*lapic_reg(lapic, LAPIC_ID) = vcpu->id;
		*lapic_reg(lapic, LAPIC_LDR) = (vcpu->id >> 4) << 16 | 1u << (vcpu->id & 15);
	} else {
		*lapic_reg(lapic, LAPIC_ID) = vcpu->id << 24;
	}
}

void lapic_init(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;

	pthread_mutex_init(&lapic->lock, NULL);
	lapic->present = irqchip_has_lapic(&vcpu->vm->irqchip);
	lapic->pending_extint = -1;
	lapic->cycle_ns = vcpu->vm->settings.apic_cycle_ns;
	lapic->base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE;
	if (vcpu->id == vcpu->vm->settings.boot_vcpu_id)
		lapic->base |= APIC_BASE_BSP;
	if (lapic->present)
		vm_timer_add(&vcpu->vm->timers, &lapic->timer, lapic_timer_fire);
}

void lapic_reset(struct vcpu *vcpu, bool init)
{
	struct lapic *lapic = &vcpu->lapic;

	pthread_mutex_lock(&lapic->lock);
	lapic_timer_stop_locked(vcpu);
	memset(lapic->regs, 0, sizeof(lapic->regs));
	lapic->tsc_deadline = 0;
	lapic->pending_extint = -1;
	if (!init)
		lapic->base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (lapic->base & APIC_BASE_BSP);
	*lapic_reg(lapic, LAPIC_VERSION) = VERSION_VALUE;
	*lapic_reg(lapic, LAPIC_SVR) = 0xff;
	*lapic_reg(lapic, LAPIC_DFR) = UINT32_MAX;
	for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
		*lapic_reg(lapic, lvt) = LVT_MASKED;
	/* The boot processor starts with the PIC's interrupts let through. */
	if (lapic->base & APIC_BASE_BSP)
		*lapic_reg(lapic, LAPIC_LVT_LINT0) = APIC_MODE_EXTINT << 8;
	set_id_locked(vcpu);
	(void)lapic_count_watchdog_locked(vcpu, *lapic_reg(lapic, LAPIC_LVT_LINT0));
	pthread_mutex_unlock(&lapic->lock);
}

uint64_t lapic_get_base(struct vcpu *vcpu)
{
	uint64_t base;

	pthread_mutex_lock(&vcpu->lapic.lock);
	base = vcpu->lapic.base;
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return base;
}

int lapic_set_base(struct vcpu *vcpu, uint64_t base)
{
	struct lapic *lapic = &vcpu->lapic;
	bool was_x2apic;

	/* The register is the processor's: its rules hold where the client plays the APIC, too. */
	if (base != lapic_get_base(vcpu)) {
		if ((base & BASE_RESERVED) || base >> cpuid_phys_bits(vcpu))
			return -EINVAL;
		if ((base & APIC_BASE_X2APIC) &&
		    (!(base & APIC_BASE_ENABLE) ||
		     !(cpuid_register(vcpu, 1, CPUID_ECX) & CPUID1_X2APIC)))
			return -EINVAL;
	}
	pthread_mutex_lock(&lapic->lock);
	was_x2apic = lapic_is_x2apic(lapic);
	lapic->base = base;
	if (lapic->present && lapic_is_x2apic(lapic) != was_x2apic)
		set_id_locked(vcpu);
	pthread_mutex_unlock(&lapic->lock);
	return 0;
}

uint8_t lapic_get_cr8(struct vcpu *vcpu)
{
	uint8_t value;

	pthread_mutex_lock(&vcpu->lapic.lock);
	value = *lapic_reg(&vcpu->lapic, LAPIC_TPR) >> 4 & 15;
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return value;
}

void lapic_set_cr8(struct vcpu *vcpu, uint8_t value)
{
	pthread_mutex_lock(&vcpu->lapic.lock);
	*lapic_reg(&vcpu->lapic, LAPIC_TPR) = (uint32_t)(value & 15) << 4;
	pthread_mutex_unlock(&vcpu->lapic.lock);
}

bool lapic_is_present(struct vcpu *vcpu)
{
	return vcpu->lapic.present && (lapic_get_base(vcpu) & APIC_BASE_ENABLE);
}

bool lapic_owes_eoi(struct vcpu *vcpu, uint8_t vector)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t word = 16 * (vector / 32u), bits;

	pthread_mutex_lock(&lapic->lock);
	bits = *lapic_reg(lapic, LAPIC_ISR + word) | *lapic_reg(lapic, LAPIC_IRR + word);
	pthread_mutex_unlock(&lapic->lock);
	return bits >> vector % 32 & 1;
}

static bool matches_logical(struct lapic *lapic, uint32_t destination)
{
	uint32_t ldr = *lapic_reg(lapic, LAPIC_LDR);

	if (lapic_is_x2apic(lapic))
		return ldr >> 16 == destination >> 16 && (ldr & destination & 0xffff);
	ldr >>= 24;
	switch (*lapic_reg(lapic, LAPIC_DFR)) {
	case DFR_FLAT:
		return (ldr & destination) != 0;
	case DFR_CLUSTER:
		return ldr >> 4 == destination >> 4 && (ldr & destination & 15);
	default:
		return false;
	}
}

/*
 * KVM's two quirks: a device's message to 0xff is to all x2APICs too, unless the client turned that
 * off, and an id above 255 names a vCPU whose APIC is still an xAPIC.
 */
static bool matches_locked(struct vcpu *vcpu, const struct apic_message *message)
{
	bool quirk = !atomic_load(&vcpu->vm->settings.x2apic_no_broadcast_quirk);
	uint32_t destination = message->destination;
	struct lapic *lapic = &vcpu->lapic;
	bool x2apic = lapic_is_x2apic(lapic);

	if (x2apic && quirk && !message->is_ipi && destination == 0xff)
		return true;
	if (destination == (x2apic ? UINT32_MAX : 0xff))
		return true;
	if (message->logical)
		return matches_logical(lapic, destination);
	if (x2apic || destination > 0xff)
		return destination == vcpu->id;
	return destination == *lapic_reg(lapic, LAPIC_ID) >> 24;
}

bool lapic_matches(struct vcpu *vcpu, const struct apic_message *message)
{
	bool matches;

	if (!vcpu->lapic.present)
		return false;
	pthread_mutex_lock(&vcpu->lapic.lock);
	matches = matches_locked(vcpu, message);
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return matches;
}

static bool accept_fixed(struct vcpu *vcpu, uint8_t vector, bool level)
{
	struct lapic *lapic = &vcpu->lapic;
	bool accepted;

	pthread_mutex_lock(&lapic->lock);
	accepted = enabled_locked(lapic);
	if (accepted)
		lapic_set_irr_locked(lapic, vector, level);
	pthread_mutex_unlock(&lapic->lock);
	if (accepted)
		vcpu_wake(vcpu);
	return accepted;
}

bool lapic_accept(struct vcpu *vcpu, const struct apic_message *message)
{
	switch (message->delivery_mode) {
	case APIC_MODE_FIXED:
	case APIC_MODE_LOWEST:
		return accept_fixed(vcpu, message->vector, message->level);
	case APIC_MODE_NMI:
		vcpu_raise(vcpu, VCPU_EVENT_NMI);
		return true;
	case APIC_MODE_INIT:
		vcpu_raise(vcpu, VCPU_EVENT_INIT);
		return true;
	case APIC_MODE_STARTUP:
		atomic_store(&vcpu->sipi_vector, message->vector);
		vcpu_raise(vcpu, VCPU_EVENT_SIPI);
		return true;
	default:
		return false;
	}
}

void lapic_deliver_lint0(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	bool gives;

	if (!lapic->present)
		return;
	pthread_mutex_lock(&lapic->lock);
	gives = (lapic->base & APIC_BASE_ENABLE) && lapic->is_watchdog &&
		!(*lapic_reg(lapic, LAPIC_LVT_LINT0) & LVT_MASKED);
	pthread_mutex_unlock(&lapic->lock);
	if (gives)
		vcpu_raise(vcpu, VCPU_EVENT_NMI);
}

bool lapic_count_watchdog_locked(struct vcpu *vcpu, uint32_t lint0)
{
	struct lapic *lapic = &vcpu->lapic;
	bool is_watchdog = (lint0 & (LVT_MASKED | LVT_MODE)) == APIC_MODE_NMI << 8;

	if (is_watchdog == lapic->is_watchdog)
		return false;
	lapic->is_watchdog = is_watchdog;
	if (is_watchdog)
		atomic_fetch_add(&vcpu->vm->irqchip.watchdogs, 1);
	else
		atomic_fetch_sub(&vcpu->vm->irqchip.watchdogs, 1);
	return is_watchdog;
}

/* KVM's saved form differs from ours in the id of an x2APIC, unless the client wants 32 bits. */
static void convert_id(struct vcpu *vcpu, uint32_t *id, bool save)
{
	if (!lapic_is_x2apic(&vcpu->lapic) || atomic_load(&vcpu->vm->settings.x2apic_32bit_ids))
		return;
	*id = save ? *id << 24 : *id >> 24;
}

long vcpu_get_lapic(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct lapic *lapic = &vcpu->lapic;
	struct kvm_lapic_state *state = call->data;
	uint32_t *regs = (uint32_t *)state->regs;

	if (!lapic->present)
		return -EINVAL;
	pthread_mutex_lock(&lapic->lock);
	memcpy(regs, lapic->regs, sizeof(state->regs));
	regs[LAPIC_TIMER_CURRENT / 4] = lapic_timer_current_locked(lapic);
	regs[LAPIC_PPR / 4] = priority_locked(lapic);
	convert_id(vcpu, &regs[LAPIC_ID / 4], true);
	pthread_mutex_unlock(&lapic->lock);
	return 0;
}

long vcpu_set_lapic(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct lapic *lapic = &vcpu->lapic;
	struct kvm_lapic_state *state = call->data;
	uint32_t *regs = (uint32_t *)state->regs;
	bool watchdog_began;

	if (!lapic->present)
		return -EINVAL;
	pthread_mutex_lock(&lapic->lock);
	convert_id(vcpu, &regs[LAPIC_ID / 4], false);
	/* In the old form the id of an x2APIC is ignored: there is only one it can have. */
	if (lapic_is_x2apic(lapic) && atomic_load(&vcpu->vm->settings.x2apic_32bit_ids) &&
	    regs[LAPIC_ID / 4] != vcpu->id) {
		pthread_mutex_unlock(&lapic->lock);
		return -EINVAL;
	}
	lapic_timer_stop_locked(vcpu);
	memcpy(lapic->regs, regs, sizeof(state->regs));
	*lapic_reg(lapic, LAPIC_VERSION) = VERSION_VALUE;
	if (lapic_is_x2apic(lapic))
		set_id_locked(vcpu);
	watchdog_began = lapic_count_watchdog_locked(vcpu, *lapic_reg(lapic, LAPIC_LVT_LINT0));
	lapic_timer_start_locked(vcpu, regs[LAPIC_TIMER_CURRENT / 4]);
	pthread_mutex_unlock(&lapic->lock);
	if (watchdog_began)
		irqchip_watchdog_began(vcpu->vm);
	irqchip_lapic_restored(vcpu->vm);
	vcpu_wake(vcpu);
	return 0;
}
