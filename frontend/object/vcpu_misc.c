/* vCPU ioctls that touch no register. */
#include "frontend/object/vcpu_misc.h"

#include <errno.h>
#include <string.h>

#include <quire/place.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/system.h"
#include "frontend/object/vcpu.h"
#include "frontend/param/params.h"
#include "frontend/run/exit.h"
#include "frontend/run/signals.h"
#include "vcpu/arch.h"

/* The kernel's sigset is 8 bytes; libc's sigset_t is longer and starts with it. */
#define KERNEL_SIGSET_BYTES 8u

long vcpu_set_signal_mask(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct kvm_signal_mask header;
	sigset_t mask;

	if (!call->argument) {
		vcpu->has_sigmask = false;
		return 0;
	}
	if (user_copy_in(&header, call->argument, sizeof(header)))
		return -EFAULT;
	if (header.len != KERNEL_SIGSET_BYTES)
		return -EINVAL;
	sigemptyset(&mask);
	if (user_copy_in(&mask, call->argument + sizeof(header), KERNEL_SIGSET_BYTES))
		return -EFAULT;
	sigdelset(&mask, SIGKILL);
	sigdelset(&mask, SIGSTOP);
	vcpu->sigmask = mask;
	vcpu->has_sigmask = true;
	return 0;
}

/* An exception that the client gives the guest; -EBUSY while one waits to be delivered. */
static int inject(struct vcpu *vcpu, uint8_t vector)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (state->exception_pending)
		return -EBUSY;
	state->exception_pending = 1;
	state->exception_injected = 0;
	state->exception_vector = vector;
	state->exception_has_error = 0;
	state->exception_has_payload = 0;
	cpu_state_changed(vcpu->cpu);
	return 0;
}

long vcpu_set_guest_debug(struct ioctl_call *call)
{
	const struct kvm_guest_debug *debug = call->data;
	struct vcpu *vcpu = call->object;
	uint32_t control = debug->control & KVM_GUESTDBG_ENABLE ? debug->control : 0;
	struct cpu_debug wanted = {
	    .dr7 = debug->arch.debugreg[7],
	    .hardware = (control & KVM_GUESTDBG_USE_HW_BP) != 0,
	    .int3 = (control & KVM_GUESTDBG_USE_SW_BP) != 0,
	};
	int error = 0;

	if (debug->control & KVM_GUESTDBG_INJECT_DB)
		error = inject(vcpu, VECTOR_DB);
	else if (debug->control & KVM_GUESTDBG_INJECT_BP)
		error = inject(vcpu, VECTOR_BP);
	if (error)
		return error;
	memcpy(wanted.dr, debug->arch.debugreg, sizeof(wanted.dr));
	vcpu->debug_control = control;
	cpu_set_debug(vcpu->cpu, &wanted);
	return 0;
}

static int check_range(const struct kvm_pre_fault_memory *range)
{
	if (range->flags)
		return -EINVAL;
	if (range->gpa % 4096 || range->size % 4096)
		return -EINVAL;
	if (range->gpa + range->size <= range->gpa)
		return -EINVAL;
	return 0;
}

long vcpu_pre_fault(struct ioctl_call *call)
{
	struct kvm_pre_fault_memory *range = call->data;
	struct vcpu *vcpu = call->object;
	uint64_t whole = range->size;
	int result = check_range(range);

	if (result)
		return result;
	/* Without a second stage a gpa alone names no mapping. */
	if (!system_has_tdp())
		return -EOPNOTSUPP;
	while (range->size) {
		uint64_t done = 0;

		result = run_signals_pending()
			     ? -EINTR
			     : quire_vcpu_prefault(vcpu->memory, (gpa_t){range->gpa}, range->size,
						   &done);
		if (result == -EHWPOISON && quire_vcpu_lost_page(vcpu->memory).v) {
			exit_send_lost(quire_vcpu_lost_page(vcpu->memory));
			result = -EINTR;
		}
		if (result < 0)
			break;
		range->gpa += done;
		range->size -= done;
	}
	return range->size == whole ? result : 0;
}

/* Reports are for processors that cannot make the TPR fast; ours need none. */
long vcpu_tpr_access_reporting(struct ioctl_call *call)
{
	struct kvm_tpr_access_ctl *control = call->data;

	return control->flags ? -EINVAL : 0;
}

long vcpu_smi(struct ioctl_call *call)
{
	/* As of a KVM without it. */
	if (params_hides_cap(KVM_CAP_X86_SMM))
		return -ENOTTY;
	vcpu_raise(call->object, VCPU_EVENT_SMI);
	return 0;
}

/* Is there a slot with rights to write? */
static long check_place(struct vcpu *vcpu, gpa_t gpa)
{
	struct quire_place *place;
	long error = quire_place_create(vcpu->memory, &place);

	if (error)
		return error;
	error = quire_place_set(place, gpa, 1);
	if (!error && quire_place_check(place))
		error = -EINVAL;
	quire_place_destroy(place);
	return error;
}

/* The page would shadow the TPR for KVM's own speed: nothing here needs it. 0: none. */
long vcpu_set_vapic_addr(struct ioctl_call *call)
{
	const struct kvm_vapic_addr *address = call->data;
	struct vcpu *vcpu = call->object;

	if (!vcpu->lapic.present)
		return -EINVAL;
	return address->vapic_addr ? check_place(vcpu, (gpa_t){address->vapic_addr}) : 0;
}
