/* KVM_GET_LAPIC and KVM_SET_LAPIC: the local APIC's page as clients save and restore it. */
#include <errno.h>
#include <string.h>

#include "frontend/irq/lapic_internal.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "hosts/process/lock.h"

static bool has_wide_ids(const struct vcpu *vcpu)
{
	return atomic_load(&vcpu->vm->settings.x2apic_32bit_ids);
}

long vcpu_get_lapic(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct lapic *lapic = &vcpu->lapic;
	struct kvm_lapic_state *state = call->data;
	uint32_t *regs = (uint32_t *)state->regs;

	if (!lapic->present)
		return -EINVAL;
	process_lock_acquire(&lapic->lock);
	memcpy(regs, lapic->regs, sizeof(state->regs));
	regs[LAPIC_TIMER_CURRENT / 4] = lapic_timer_current_locked(lapic);
	regs[LAPIC_PPR / 4] = lapic_priority_locked(lapic);
	/* The id of an x2APIC is saved as an xAPIC's is, unless the client wants 32 bits. */
	if (lapic_is_x2apic(lapic) && !has_wide_ids(vcpu))
		regs[LAPIC_ID / 4] <<= 24;
	process_lock_release(&lapic->lock);
	return 0;
}

/* In the old form the id of an x2APIC is ignored: there is only one it can have. */
static bool state_valid(struct vcpu *vcpu, const uint32_t *regs)
{
	return !lapic_is_x2apic(&vcpu->lapic) || !has_wide_ids(vcpu) ||
	       regs[LAPIC_ID / 4] == vcpu->id;
}

static void restore_locked(struct vcpu *vcpu, const uint32_t *regs)
{
	struct lapic *lapic = &vcpu->lapic;

	memcpy(lapic->regs, regs, sizeof(lapic->regs));
	lapic->newest = -1;
	if (lapic_is_x2apic(lapic))
		lapic_set_x2apic_id_locked(vcpu);
	lapic_set_version_locked(vcpu);
	*lapic_reg(lapic, LAPIC_PPR) = lapic_priority_locked(lapic);
	(void)lapic_timer_restore_locked(vcpu);
}

long vcpu_set_lapic(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct lapic *lapic = &vcpu->lapic;
	const struct kvm_lapic_state *state = call->data;
	const uint32_t *regs = (const uint32_t *)state->regs;
	bool valid, watchdog_began = false;

	if (!lapic->present)
		return -EINVAL;
	process_lock_acquire(&lapic->lock);
	valid = state_valid(vcpu, regs);
	if (valid) {
		restore_locked(vcpu, regs);
		watchdog_began = lapic_count_watchdog_locked(vcpu, regs[LAPIC_LVT_LINT0 / 4]);
	}
	process_lock_release(&lapic->lock);
	if (!valid)
		return -EINVAL;
	if (watchdog_began)
		irqchip_watchdog_began(vcpu->vm);
	irqchip_lapic_restored(vcpu->vm);
	vcpu_wake(vcpu);
	return 0;
}
