/* The local APIC's registers, shared by the files that make it. */
#ifndef QUIRE_FRONTEND_IRQ_LAPIC_INTERNAL_H
#define QUIRE_FRONTEND_IRQ_LAPIC_INTERNAL_H

#include "frontend/irq/lapic.h"

enum lapic_register {
	LAPIC_ID = 0x20,
	LAPIC_VERSION = 0x30,
	LAPIC_TPR = 0x80,
	LAPIC_PPR = 0xa0,
	LAPIC_EOI = 0xb0,
	LAPIC_LDR = 0xd0,
	LAPIC_DFR = 0xe0,
	LAPIC_SVR = 0xf0,
	LAPIC_ISR = 0x100,
	LAPIC_TMR = 0x180,
	LAPIC_IRR = 0x200,
	LAPIC_ESR = 0x280,
	LAPIC_ICR = 0x300,
	LAPIC_ICR_HIGH = 0x310,
	LAPIC_LVT_TIMER = 0x320,
	LAPIC_LVT_THERMAL = 0x330,
	LAPIC_LVT_COUNTER = 0x340,
	LAPIC_LVT_LINT0 = 0x350,
	LAPIC_LVT_LINT1 = 0x360,
	LAPIC_LVT_ERROR = 0x370,
	LAPIC_TIMER_INITIAL = 0x380,
	LAPIC_TIMER_CURRENT = 0x390,
	LAPIC_TIMER_DIVIDE = 0x3e0,
	LAPIC_SELF_IPI = 0x3f0,
};

#define LVT_MASKED (1u << 16)
#define LVT_VECTOR 0xffu
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)
#define LVT_TIMER_MODES (3u << 17)
#define SVR_ENABLED (1u << 8)
#define SVR_DIRECTED_EOI (1u << 12)
#define VERSION_DIRECTED_EOI (1u << 24)
#define ICR_BUSY (1u << 12)
#define ICR_ASSERT (1u << 14)
#define ICR_SELF (1u << 18)
#define LVT_MODE 0x700u
#define DFR_FLAT UINT32_MAX
#define DFR_CLUSTER 0x0fffffffu

static inline uint32_t *lapic_reg(struct lapic *lapic, uint32_t offset)
{
	return &lapic->regs[offset / 4];
}

static inline bool lapic_is_x2apic(const struct lapic *lapic)
{
	return (lapic->base & (APIC_BASE_X2APIC | APIC_BASE_ENABLE)) ==
	       (APIC_BASE_X2APIC | APIC_BASE_ENABLE);
}

static inline bool lapic_has_bit(struct lapic *lapic, uint32_t row, uint8_t vector)
{
	return *lapic_reg(lapic, row + 16 * (vector / 32u)) >> vector % 32 & 1;
}

/* All of these with lapic.lock held. */
/* Enabled in IA32_APIC_BASE and in the spurious vector register. */
bool lapic_enabled_locked(const struct lapic *lapic);
void lapic_set_irr_locked(struct lapic *lapic, uint8_t vector, bool level);
uint32_t lapic_priority_locked(struct lapic *lapic);
/* The id registers of the mode it is in. */
void lapic_set_x2apic_id_locked(struct vcpu *vcpu);
void lapic_set_version_locked(struct vcpu *vcpu);
/* LINT0 is written: true when it now gives NMIs and did not before. */
bool lapic_count_watchdog_locked(struct vcpu *vcpu, uint32_t lint0);

/* Timer (lapic_timer.c), with lapic.lock held. True: there is an interrupt, wake the vCPU. */
void lapic_timer_fire(struct vm_timer *timer);
bool lapic_timer_set_count_locked(struct vcpu *vcpu, uint32_t count);
bool lapic_timer_set_divide_locked(struct vcpu *vcpu, uint32_t value);
bool lapic_timer_restore_locked(struct vcpu *vcpu);
void lapic_timer_reset_locked(struct vcpu *vcpu);
/* The timer's LVT was written. */
bool lapic_timer_lvt_changed_locked(struct vcpu *vcpu);
/* The APIC was turned on: what expired meanwhile is an interrupt now. */
bool lapic_timer_inject_locked(struct vcpu *vcpu);
uint32_t lapic_timer_current_locked(struct lapic *lapic);

#endif
