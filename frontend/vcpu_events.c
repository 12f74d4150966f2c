/* Exceptions, interrupts, NMIs and the run state, as KVM saves and restores them. */
#include <errno.h>

#include "frontend/clock.h"
#include "frontend/vcpu.h"
#include "frontend/vm.h"
#include "vcpu/arch.h"
#include "vcpu/nested.h"

#define EVENTS_BASE_FLAGS (KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW)
#define EVENTS_SETTABLE (EVENTS_BASE_FLAGS | KVM_VCPUEVENT_VALID_SIPI_VECTOR)

static void start_at_sipi(struct vcpu *vcpu)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);
	uint32_t vector = atomic_load(&vcpu->sipi_vector);

	state->seg[CPU_CS].selector = (uint16_t)(vector << 8);
	state->seg[CPU_CS].base = (uint64_t)vector << 12;
	state->rip = 0;
	cpu_state_changed(vcpu->cpu);
	vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
}

/* INIT waits for the global interrupt flag, and L1 may have it instead of L2. */
static bool init_must_wait(struct vcpu *vcpu)
{
	if (cpu_nested_gif(vcpu->cpu) && !cpu_nested_init(vcpu->cpu))
		return false;
	cpu_nested_await_gif(vcpu->cpu);
	return true;
}

void events_fold(struct vcpu *vcpu)
{
	uint32_t events = atomic_exchange_explicit(&vcpu->events, 0, memory_order_acquire);

	if (events & VCPU_EVENT_NMI)
		cpu_state(vcpu->cpu)->nmi_pending = 1;
	if ((events & VCPU_EVENT_INIT) && init_must_wait(vcpu)) {
		atomic_fetch_or(&vcpu->events, VCPU_EVENT_INIT);
	} else if (events & VCPU_EVENT_INIT) {
		vcpu_reset(vcpu, true);
		vcpu->mp_state = vcpu->id == vcpu->vm->settings.boot_vcpu_id
				     ? KVM_MP_STATE_RUNNABLE
				     : KVM_MP_STATE_INIT_RECEIVED;
	}
	if ((events & VCPU_EVENT_SIPI) && vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		start_at_sipi(vcpu);
	if (events & VCPU_EVENT_CLOCK)
		clock_update_page(vcpu);
}

void events_get(struct vcpu *vcpu, struct kvm_vcpu_events *events)
{
	const struct vm_settings *settings = &vcpu->vm->settings;
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	bool payload = atomic_load(&settings->exception_payload);

	*events = (struct kvm_vcpu_events){
	    .exception =
		{
		    /* Without the payload capability a client knows only "injected". */
		    .injected = state->exception_pending && (!payload || state->exception_injected),
		    .pending = state->exception_pending && payload && !state->exception_injected,
		    .nr = state->exception_vector,
		    .has_error_code = state->exception_has_error,
		    .error_code = state->exception_error,
		},
	    .interrupt =
		{
		    .injected = state->interrupt_injected,
		    .nr = state->interrupt_vector,
		    .soft = state->interrupt_soft,
		    .shadow = state->interrupt_shadow,
		},
	    .nmi = {.injected = state->nmi_injected,
		    .pending = state->nmi_pending,
		    .masked = state->nmi_masked},
	    .sipi_vector = atomic_load(&vcpu->sipi_vector),
	    .flags = EVENTS_BASE_FLAGS,
	};
	if (payload) {
		events->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
		events->exception_has_payload = state->exception_has_payload;
		events->exception_payload = state->exception_payload;
	}
	if (atomic_load(&settings->triple_fault_event)) {
		events->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		events->triple_fault.pending = vcpu->triple_fault;
	}
}

static bool events_valid(const struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	const struct vm_settings *settings = &vcpu->vm->settings;
	uint32_t allowed = EVENTS_SETTABLE;

	if (atomic_load(&settings->exception_payload))
		allowed |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (atomic_load(&settings->triple_fault_event))
		allowed |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	if (events->flags & ~allowed)
		return false;
	if ((events->exception.injected || events->exception.pending) &&
	    (events->exception.nr > 31 || events->exception.nr == VECTOR_NMI))
		return false;
	if ((events->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && events->exception.pending &&
	    events->exception.injected)
		return false;
	return true;
}

static void set_exception(struct cpu_state *state, const struct kvm_vcpu_events *events)
{
	bool payload = (events->flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0;

	state->exception_pending =
	    events->exception.injected || (payload && events->exception.pending);
	state->exception_injected = events->exception.injected;
	state->exception_vector = events->exception.nr;
	state->exception_has_error = events->exception.has_error_code;
	state->exception_error = events->exception.error_code;
	state->exception_has_payload = payload && events->exception_has_payload;
	state->exception_payload = events->exception_payload;
}

int events_set(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (!events_valid(vcpu, events))
		return -EINVAL;
	set_exception(state, events);
	state->interrupt_injected = events->interrupt.injected;
	state->interrupt_vector = events->interrupt.nr;
	state->interrupt_soft = events->interrupt.soft;
	if (events->flags & KVM_VCPUEVENT_VALID_SHADOW)
		state->interrupt_shadow = events->interrupt.shadow;
	if (events->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		state->nmi_pending = events->nmi.pending;
	state->nmi_injected = events->nmi.injected;
	state->nmi_masked = events->nmi.masked;
	if (events->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		atomic_store(&vcpu->sipi_vector, events->sipi_vector & 0xff);
	if (events->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
		vcpu->triple_fault = events->triple_fault.pending != 0;
	cpu_state_changed(vcpu->cpu);
	return 0;
}

long vcpu_get_events(struct ioctl_call *call)
{
	events_fold(call->object);
	events_get(call->object, call->data);
	return 0;
}

long vcpu_set_events(struct ioctl_call *call)
{
	return events_set(call->object, call->data);
}

long vcpu_get_mp_state(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct kvm_mp_state *state = call->data;

	events_fold(vcpu);
	state->mp_state = vcpu->mp_state;
	if (vcpu->mp_state == KVM_MP_STATE_RUNNABLE && cpu_state(vcpu->cpu)->halted)
		state->mp_state = KVM_MP_STATE_HALTED;
	return 0;
}

long vcpu_set_mp_state(struct ioctl_call *call)
{
	const struct kvm_mp_state *wanted = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (wanted->mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return -EINVAL;
	if (!vcpu->lapic.present && wanted->mp_state != KVM_MP_STATE_RUNNABLE)
		return -EINVAL;
	state->halted = wanted->mp_state == KVM_MP_STATE_HALTED;
	if (wanted->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		vcpu->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		vcpu_raise(vcpu, VCPU_EVENT_SIPI);
	} else {
		vcpu->mp_state = state->halted ? KVM_MP_STATE_RUNNABLE : wanted->mp_state;
	}
	return 0;
}

long vcpu_interrupt(struct ioctl_call *call)
{
	const struct kvm_interrupt *interrupt = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (interrupt->irq > 255)
		return -EINVAL;
	if (irqchip_has_pic(&vcpu->vm->irqchip))
		return -ENXIO;
	if (vcpu->lapic.present) {
		/* Split: the client plays the PIC. One vector at a time. */
		if (vcpu->lapic.pending_extint >= 0)
			return -EEXIST;
		vcpu->lapic.pending_extint = (int)interrupt->irq;
	} else {
		state->interrupt_injected = 1;
		state->interrupt_vector = (uint8_t)interrupt->irq;
		state->interrupt_soft = 0;
	}
	vcpu_wake(vcpu);
	return 0;
}

long vcpu_nmi(struct ioctl_call *call)
{
	vcpu_raise(call->object, VCPU_EVENT_NMI);
	return 0;
}
