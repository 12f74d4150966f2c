/* Paravirtual ends of interrupts: the guest need not write to its APIC. */
#ifndef QUIRE_FRONTEND_IRQ_PV_EOI_H
#define QUIRE_FRONTEND_IRQ_PV_EOI_H

#include <stdbool.h>
#include <stdint.h>

struct vcpu;

/* By the vCPU mutex. */
struct pv_eoi {
	uint64_t msr; /* MSR_KVM_PV_EOI_EN: address, bit 0 on */
	bool offered; /* the guest's byte says that it may skip the end */
};

/* The MSR: 0, or -EINVAL for a value it does not take. */
int pv_eoi_set(struct vcpu *vcpu, uint64_t value);
/* By RESET and INIT. */
void pv_eoi_reset(struct vcpu *vcpu);

/* By the thread in KVM_RUN, out of guest mode, no lock held. */
/* An interrupt of the APIC's was taken: let the guest skip its end, where that is possible. */
void pv_eoi_offer(struct vcpu *vcpu);
/*
 * Take the offer back, or end the interrupt that the guest skipped. Before the APIC's state is
 * used, and before KVM_RUN returns.
 */
void pv_eoi_settle(struct vcpu *vcpu);

#endif
