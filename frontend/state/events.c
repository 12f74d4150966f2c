/* Exceptions, interrupts, NMIs and the run state, as KVM saves and restores them. */
#include <errno.h>

#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/state/clock.h"
#include "vcpu/arch.h"
#include "vcpu/svm/nested.h"

#define EVENTS_BASE_FLAGS \
	(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM)
#define EVENTS_SETTABLE (EVENTS_BASE_FLAGS | KVM_VCPUEVENT_VALID_SIPI_VECTOR)
#define SHADOW_ANY (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI)

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

/*
 * INIT waits for the end of system management mode and for the global interrupt flag, and L1 may
 * have it instead of L2.
 */
static bool init_must_wait(struct vcpu *vcpu)
{
	if (!cpu_state(vcpu->cpu)->smm && cpu_nested_gif(vcpu->cpu) && !cpu_nested_init(vcpu->cpu))
		return false;
	cpu_nested_await_gif(vcpu->cpu);
	return true;
}

/* A processor keeps one NMI besides that which it handles; one that handles none takes two. */
static void add_nmis(struct vcpu *vcpu, uint32_t more)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);
	uint32_t limit = state->nmi_masked || state->nmi_injected ? 1 : 2;
	uint32_t pending = more < limit ? state->nmi_pending + more : limit;

	state->nmi_pending = (uint8_t)(pending < limit ? pending : limit);
}

static void fold_nmis(struct vcpu *vcpu)
{
	atomic_fetch_and(&vcpu->events, ~(unsigned int)VCPU_EVENT_NMI);
	add_nmis(vcpu, atomic_exchange(&vcpu->nmis, 0));
}

void events_fold(struct vcpu *vcpu)
{
	uint32_t events = atomic_exchange_explicit(&vcpu->events, 0, memory_order_acquire);

	if (events & VCPU_EVENT_NMI)
		fold_nmis(vcpu);
	if (events & VCPU_EVENT_SMI)
		cpu_state(vcpu->cpu)->smi_pending = 1;
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
	if (events & VCPU_EVENT_KICK)
		vcpu->kicked = true;
	if (events & VCPU_EVENT_CLOCK)
		clock_update_page(vcpu);
}

/* INT3 and INTO come again by themselves, for RIP has not moved: KVM does not tell of them. */
static bool is_soft_exception(const struct cpu_state *state)
{
	return state->exception_vector == VECTOR_BP || state->exception_vector == VECTOR_OF;
}

static void get_exception(const struct vcpu *vcpu, struct kvm_vcpu_events *events)
{
	bool payload = atomic_load(&vcpu->vm->settings.exception_payload);
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	bool pending = state->exception_pending && !state->exception_injected;

	if (state->exception_pending && !is_soft_exception(state)) {
		/* Without the payload capability a client knows only "injected". */
		events->exception.injected = !pending || !payload;
		events->exception.pending = pending;
	}
	events->exception.nr = state->exception_vector;
	events->exception.has_error_code = state->exception_has_error;
	events->exception.error_code = state->exception_error;
	events->exception_has_payload = state->exception_has_payload;
	events->exception_payload = state->exception_payload;
	if (payload)
		events->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
}

void events_get(struct vcpu *vcpu, struct kvm_vcpu_events *events)
{
	const struct cpu_state *state = cpu_state(vcpu->cpu);

	/* A software interrupt comes again by itself, too; of the SIPI's vector KVM says nothing.
	 */
	*events = (struct kvm_vcpu_events){
	    .interrupt =
		{
		    .injected = state->interrupt_injected && !state->interrupt_soft,
		    .nr = state->interrupt_vector,
		    .shadow = state->interrupt_shadow,
		},
	    .nmi = {.injected = state->nmi_injected,
		    .pending = state->nmi_pending,
		    .masked = state->nmi_masked},
	    .smi = {.smm = state->smm,
		    .pending = state->smi_pending,
		    .smm_inside_nmi = state->smm_inside_nmi,
		    .latched_init = (atomic_load(&vcpu->events) & VCPU_EVENT_INIT) != 0},
	    .flags = EVENTS_BASE_FLAGS,
	};
	get_exception(vcpu, events);
	if (atomic_load(&vcpu->vm->settings.triple_fault_event)) {
		events->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		events->triple_fault.pending = vcpu->triple_fault;
	}
}

/* A KVM without system management mode, and a VM without an address space for it. */
static bool smi_valid(const struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	if (!(events->flags & KVM_VCPUEVENT_VALID_SMM))
		return true;
	if (params_hides_cap(KVM_CAP_X86_SMM))
		return !(events->smi.smm || events->smi.pending || events->smi.smm_inside_nmi);
	return !events->smi.smm || quire_vm_address_spaces(vcpu->vm->memory) > 1;
}

static bool events_valid(const struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	const struct vm_settings *settings = &vcpu->vm->settings;
	bool payload = (events->flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0;
	uint32_t allowed = EVENTS_SETTABLE;

	if (atomic_load(&settings->exception_payload))
		allowed |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (atomic_load(&settings->triple_fault_event))
		allowed |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	if (events->flags & ~allowed)
		return false;
	if ((events->exception.injected || (payload && events->exception.pending)) &&
	    (events->exception.nr > 31 || events->exception.nr == VECTOR_NMI))
		return false;
	return smi_valid(vcpu, events);
}

/* Without the payload's flag "pending" is not looked at; with it, it goes before "injected". */
static void set_exception(struct cpu_state *state, const struct kvm_vcpu_events *events)
{
	bool payload = (events->flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0;
	bool pending = payload && events->exception.pending;

	state->exception_pending = events->exception.injected || pending;
	state->exception_injected = events->exception.injected && !pending;
	state->exception_vector = events->exception.nr;
	state->exception_has_error = events->exception.has_error_code;
	state->exception_error = events->exception.error_code;
	state->exception_has_payload = pending && events->exception_has_payload;
	state->exception_payload = events->exception_payload;
}

static void set_smi(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (!(events->flags & KVM_VCPUEVENT_VALID_SMM))
		return;
	if (cpu_set_smm(vcpu->cpu, events->smi.smm != 0))
		return;
	/* What a thread has raised and the vCPU has not looked at comes after it. */
	state->smi_pending = events->smi.pending != 0;
	if (state->smm)
		state->smm_inside_nmi = events->smi.smm_inside_nmi != 0;
	if (!vcpu->lapic.present)
		return;
	if (events->smi.latched_init)
		vcpu_raise(vcpu, VCPU_EVENT_INIT);
	else
		atomic_fetch_and(&vcpu->events, ~(unsigned int)VCPU_EVENT_INIT);
}

int events_set(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (!events_valid(vcpu, events))
		return -EINVAL;
	fold_nmis(vcpu);
	set_exception(state, events);
	state->interrupt_injected = events->interrupt.injected;
	state->interrupt_vector = events->interrupt.nr;
	state->interrupt_soft = events->interrupt.soft;
	if (events->flags & KVM_VCPUEVENT_VALID_SHADOW)
		state->interrupt_shadow = events->interrupt.shadow & SHADOW_ANY;
	state->nmi_injected = events->nmi.injected;
	state->nmi_masked = events->nmi.masked;
	if (events->flags & KVM_VCPUEVENT_VALID_NMI_PENDING) {
		state->nmi_pending = 0;
		add_nmis(vcpu, events->nmi.pending);
	}
	if ((events->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && vcpu->lapic.present)
		atomic_store(&vcpu->sipi_vector, events->sipi_vector & 0xff);
	set_smi(vcpu, events);
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
	if (vcpu->mp_state == KVM_MP_STATE_RUNNABLE && cpu_state(vcpu->cpu)->halted &&
	    !vcpu->sleeps_inside)
		state->mp_state =
		    vcpu->reset_hold ? KVM_MP_STATE_AP_RESET_HOLD : KVM_MP_STATE_HALTED;
	return 0;
}

long vcpu_set_mp_state(struct ioctl_call *call)
{
	const struct kvm_mp_state *wanted = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (wanted->mp_state > KVM_MP_STATE_SIPI_RECEIVED &&
	    wanted->mp_state != KVM_MP_STATE_AP_RESET_HOLD)
		return -EINVAL;
	if (!vcpu->lapic.present && wanted->mp_state != KVM_MP_STATE_RUNNABLE)
		return -EINVAL;
	/* An AP that holds sleeps and wakes as one that halts; only its name is another. */
	vcpu->reset_hold = wanted->mp_state == KVM_MP_STATE_AP_RESET_HOLD;
	state->halted = wanted->mp_state == KVM_MP_STATE_HALTED || vcpu->reset_hold;
	vcpu->sleeps_inside = false;
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
