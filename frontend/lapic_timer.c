/* The local APIC's timer: one-shot, periodic, TSC deadline. */
#include "frontend/clock.h"
#include "frontend/lapic_internal.h"
#include "frontend/vcpu.h"
#include "frontend/vm.h"

#define TIMER_MODE(lvt) ((lvt) >> 17 & 3)
enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE };
/* KVM's floor for periodic timers, which keeps a guest from starving its host. */
#define PERIOD_MIN_NS 200000u

/* Nanoseconds a count: cycles of the bus, divided. */
static uint64_t count_ns(struct lapic *lapic)
{
	uint32_t value = *lapic_reg(lapic, LAPIC_TIMER_DIVIDE);

	return (uint64_t)lapic->cycle_ns << ((((value & 3) | (value >> 1 & 4)) + 1) & 7);
}

static void arm_locked(struct vcpu *vcpu, uint64_t due_ns)
{
	vcpu->lapic.timer_due_ns = due_ns;
	vm_timer_arm(&vcpu->vm->timers, &vcpu->lapic.timer, due_ns);
}

void lapic_timer_stop_locked(struct vcpu *vcpu)
{
	vcpu->lapic.timer_start_ns = 0;
	if (vcpu->lapic.timer_due_ns)
		arm_locked(vcpu, 0);
}

void lapic_timer_start_locked(struct vcpu *vcpu, uint64_t count)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t mode = TIMER_MODE(*lapic_reg(lapic, LAPIC_LVT_TIMER));
	uint64_t initial = *lapic_reg(lapic, LAPIC_TIMER_INITIAL);

	lapic_timer_stop_locked(vcpu);
	if (!initial || !count || mode == TIMER_DEADLINE)
		return;
	lapic->timer_period_ns = initial * count_ns(lapic);
	if (mode == TIMER_PERIODIC && lapic->timer_period_ns < PERIOD_MIN_NS)
		lapic->timer_period_ns = PERIOD_MIN_NS;
	/* As if it had started when the count was the initial one. */
	lapic->timer_start_ns =
	    timers_now_ns() + count * count_ns(lapic) - initial * count_ns(lapic);
	arm_locked(vcpu, lapic->timer_start_ns + lapic->timer_period_ns);
}

uint32_t lapic_timer_current_locked(struct lapic *lapic)
{
	uint64_t passed_ns, left_ns;

	if (!lapic->timer_start_ns)
		return 0;
	passed_ns = timers_now_ns() - lapic->timer_start_ns;
	if (passed_ns >= lapic->timer_period_ns) {
		if (TIMER_MODE(*lapic_reg(lapic, LAPIC_LVT_TIMER)) != TIMER_PERIODIC)
			return 0;
		passed_ns %= lapic->timer_period_ns;
	}
	left_ns = lapic->timer_period_ns - passed_ns;
	return (uint32_t)(left_ns / count_ns(lapic));
}

void lapic_timer_fire(struct vm_timer *timer)
{
	struct vcpu *vcpu = (struct vcpu *)((char *)timer - offsetof(struct vcpu, lapic.timer));
	struct lapic *lapic = &vcpu->lapic;
	uint32_t lvt;
	bool due;

	pthread_mutex_lock(&lapic->lock);
	lvt = *lapic_reg(lapic, LAPIC_LVT_TIMER);
	/* It may have been stopped or moved while it was about to fire. */
	due = lapic->timer_due_ns && lapic->timer_due_ns <= timers_now_ns();
	if (due) {
		lapic->timer_due_ns = 0;
		if (TIMER_MODE(lvt) == TIMER_PERIODIC && lapic->timer_start_ns) {
			lapic->timer_start_ns += lapic->timer_period_ns;
			arm_locked(vcpu, lapic->timer_start_ns + lapic->timer_period_ns);
		} else {
			lapic->timer_start_ns = 0;
			lapic->tsc_deadline = 0;
		}
		if (!(lvt & LVT_MASKED) && (lvt & 0xff) > 15)
			lapic_set_irr_locked(lapic, lvt & 0xff, false);
	}
	pthread_mutex_unlock(&lapic->lock);
	if (due)
		vcpu_wake(vcpu);
}

void lapic_timer_mode_changed_locked(struct vcpu *vcpu, uint32_t old_lvt)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t lvt = *lapic_reg(lapic, LAPIC_LVT_TIMER);

	if (TIMER_MODE(lvt) == TIMER_MODE(old_lvt))
		return;
	/* Between counting modes and deadlines the timer is disarmed. */
	if (TIMER_MODE(lvt) == TIMER_DEADLINE || TIMER_MODE(old_lvt) == TIMER_DEADLINE) {
		*lapic_reg(lapic, LAPIC_TIMER_INITIAL) = 0;
		lapic->tsc_deadline = 0;
		lapic_timer_stop_locked(vcpu);
	}
}

uint64_t lapic_get_tsc_deadline(struct vcpu *vcpu)
{
	uint64_t deadline;

	pthread_mutex_lock(&vcpu->lapic.lock);
	deadline = vcpu->lapic.tsc_deadline;
	pthread_mutex_unlock(&vcpu->lapic.lock);
	return deadline;
}

void lapic_set_tsc_deadline(struct vcpu *vcpu, uint64_t deadline)
{
	struct lapic *lapic = &vcpu->lapic;
	uint64_t now_tsc = clock_tsc() + cpu_state(vcpu->cpu)->tsc_offset;
	uint64_t ahead = deadline > now_tsc ? deadline - now_tsc : 0;

	if (!lapic->present)
		return;
	pthread_mutex_lock(&lapic->lock);
	if (TIMER_MODE(*lapic_reg(lapic, LAPIC_LVT_TIMER)) == TIMER_DEADLINE) {
		lapic_timer_stop_locked(vcpu);
		lapic->tsc_deadline = deadline;
		if (deadline)
			arm_locked(vcpu, timers_now_ns() + clock_ticks_to_ns(ahead));
	}
	pthread_mutex_unlock(&lapic->lock);
}
