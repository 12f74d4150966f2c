/* What a local APIC takes: messages that name it, and its local lines. */
#include "frontend/irq/lapic_internal.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "hosts/process/lock.h"

bool lapic_is_present(struct vcpu *vcpu)
{
	return vcpu->lapic.present && (lapic_get_base(vcpu) & APIC_BASE_ENABLE);
}

uint32_t lapic_physical_id(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t id;

	process_lock_acquire(&lapic->lock);
	id = lapic_is_x2apic(lapic) ? vcpu->id : *lapic_reg(lapic, LAPIC_ID) >> 24;
	process_lock_release(&lapic->lock);
	return id;
}

bool lapic_owes_eoi(struct vcpu *vcpu, uint8_t vector)
{
	struct lapic *lapic = &vcpu->lapic;
	bool owes;

	process_lock_acquire(&lapic->lock);
	owes = lapic_has_bit(lapic, LAPIC_ISR, vector) || lapic_has_bit(lapic, LAPIC_IRR, vector);
	process_lock_release(&lapic->lock);
	return owes;
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
	process_lock_acquire(&vcpu->lapic.lock);
	matches = matches_locked(vcpu, message);
	process_lock_release(&vcpu->lapic.lock);
	return matches;
}

static bool accept_fixed(struct vcpu *vcpu, uint8_t vector, bool level)
{
	struct lapic *lapic = &vcpu->lapic;
	bool accepted;

	process_lock_acquire(&lapic->lock);
	accepted = lapic_enabled_locked(lapic);
	if (accepted)
		lapic_set_irr_locked(lapic, vector, level);
	process_lock_release(&lapic->lock);
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
	case APIC_MODE_REMOTE: /* as hypercalls use it */
		vcpu_raise(vcpu, VCPU_EVENT_KICK);
		return true;
	case APIC_MODE_NMI:
		vcpu_raise(vcpu, VCPU_EVENT_NMI);
		return true;
	case APIC_MODE_SMI:
		vcpu_raise(vcpu, VCPU_EVENT_SMI);
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
	process_lock_acquire(&lapic->lock);
	gives = (lapic->base & APIC_BASE_ENABLE) && lapic->is_watchdog &&
		!(*lapic_reg(lapic, LAPIC_LVT_LINT0) & LVT_MASKED);
	process_lock_release(&lapic->lock);
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
