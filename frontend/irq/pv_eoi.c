/*
 * Paravirtual ends of interrupts.
 *
 * A guest may give its APIC a byte of memory. Where the end of an interrupt has no effect but in
 * the APIC itself, bit 0 is set when the interrupt is taken. A guest that finds it set clears it
 * and does nothing else. The bit and pv_eoi.offered together tell:
 *
 *   offered  bit
 *   no       -    the guest has to write to its APIC
 *   yes      1    the guest has not ended the interrupt yet
 *   yes      0    it has
 */
#include "frontend/irq/pv_eoi.h"

#include <errno.h>
#include <linux/kvm_para.h>

#include <quire/place.h>

#include "frontend/irq/irqchip.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"

#define MSR_ENABLED UINT64_C(1)
#define PLACE_ALIGNMENT 4u

int pv_eoi_set(struct vcpu *vcpu, uint64_t value)
{
	gpa_t gpa = {value & ~MSR_ENABLED};
	bool on = value & MSR_ENABLED;
	uint8_t byte;

	if (gpa.v % PLACE_ALIGNMENT)
		return -EINVAL;
	/* KVM looks the memory up here, and the guest's write fails where there is none. */
	if (on && quire_vcpu_read(vcpu->memory, gpa, &byte, sizeof(byte)))
		return -EINVAL;
	pv_eoi_settle(vcpu);
	vcpu->pv_eoi.msr = value;
	return quire_place_set(vcpu->pv_eoi_place, gpa, on ? sizeof(byte) : 0);
}

void pv_eoi_reset(struct vcpu *vcpu)
{
	vcpu->pv_eoi = (struct pv_eoi){0};
	/* Nothing is shown: this cannot fail. */
	(void)!quire_place_set(vcpu->pv_eoi_place, (gpa_t){0}, 0);
}

static int put(struct vcpu *vcpu, uint8_t byte)
{
	return quire_place_write(vcpu->pv_eoi_place, 0, &byte, sizeof(byte));
}

void pv_eoi_offer(struct vcpu *vcpu)
{
	int vector;

	if (!(vcpu->pv_eoi.msr & MSR_ENABLED))
		return;
	vector = lapic_sole_vector(vcpu);
	if (vector < 0 || irqchip_hears_eoi(vcpu->vm, (uint8_t)vector))
		return;
	vcpu->pv_eoi.offered = !put(vcpu, KVM_PV_EOI_ENABLED);
}

void pv_eoi_settle(struct vcpu *vcpu)
{
	uint8_t byte;

	if (!vcpu->pv_eoi.offered)
		return;
	vcpu->pv_eoi.offered = false;
	if (!quire_place_read(vcpu->pv_eoi_place, 0, &byte, sizeof(byte)) &&
	    (byte & KVM_PV_EOI_ENABLED) && !put(vcpu, 0))
		return;
	/* Also where the memory went away, as in KVM: an interrupt without an end stops all others.
	 */
	lapic_end_interrupt(vcpu);
}
