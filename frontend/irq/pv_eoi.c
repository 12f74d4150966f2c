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

static int show(struct vcpu *vcpu, uint64_t value)
{
	gpa_t gpa = {value & ~MSR_ENABLED};

	return quire_place_set(vcpu->pv_eoi_place, gpa, value & MSR_ENABLED ? 1 : 0);
}

int pv_eoi_set(struct vcpu *vcpu, uint64_t value)
{
	int error;

	if ((value & ~MSR_ENABLED) % PLACE_ALIGNMENT)
		return -EINVAL;
	pv_eoi_settle(vcpu);
	error = show(vcpu, value);
	/* KVM looks the slot up here, and no further: what memory is behind it shows later. */
	if (!error && (value & MSR_ENABLED) && quire_place_check(vcpu->pv_eoi_place)) {
		(void)show(vcpu, vcpu->pv_eoi.msr);
		error = -EINVAL;
	}
	if (error)
		return error;
	/* An offer that could not be taken back is one at the new place. */
	if (!(value & MSR_ENABLED))
		vcpu->pv_eoi.offered = false;
	vcpu->pv_eoi.msr = value;
	return 0;
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
	if (!put(vcpu, KVM_PV_EOI_ENABLED))
		vcpu->pv_eoi.offered = true;
}

/* Is the end still the guest's to make? Takes the offer back, which out of reach stays, as in KVM.
 */
static bool take_back(struct vcpu *vcpu)
{
	uint8_t byte;

	if (quire_place_read(vcpu->pv_eoi_place, 0, &byte, sizeof(byte)))
		return false;
	if ((byte & KVM_PV_EOI_ENABLED) && put(vcpu, 0))
		return false;
	vcpu->pv_eoi.offered = false;
	return byte & KVM_PV_EOI_ENABLED;
}

void pv_eoi_settle(struct vcpu *vcpu)
{
	/* Also where the memory went away: an interrupt without an end stops all others. */
	if (vcpu->pv_eoi.offered && !take_back(vcpu))
		lapic_end_interrupt(vcpu);
}
