/*
 * The local APIC's timer: one shot, periodic, TSC deadline.
 *
 * As in KVM an expiry is remembered until it is an interrupt: while the timer is masked, or its
 * APIC off, one waits and more are not counted. A periodic timer with one that waits is not armed.
 */
#include "frontend/irq/lapic_internal.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/state/clock.h"
#include "hosts/process/lock.h"

static uint64_t counts_to_ns(const struct lapic *lapic, uint32_t count)
{
	return (uint64_t)count * lapic->cycle_ns * lapic->divide;
}

static uint32_t divide_of(uint32_t value)
{
	return 1u << ((((value & 3) | (value >> 1 & 4)) + 1) & 7);
}

static void arm(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	bool useless = lapic->mode == LVT_TIMER_PERIODIC && lapic->expired;

	vm_timer_arm(&vcpu->vm->timers, &lapic->timer,
		     lapic->counting && !useless ? lapic->target_ns : 0);
}

/* What expired becomes an interrupt, if the timer's LVT lets it. */
static bool inject(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t lvt = *lapic_reg(lapic, LAPIC_LVT_TIMER);

	if (!lapic->expired || (lvt & LVT_MASKED) || !lapic_enabled_locked(lapic))
		return false;
	lapic->expired = false;
	if (lapic->mode != LVT_TIMER_PERIODIC)
		lapic->tsc_deadline = 0;
	if (!lapic->mode)
		lapic->target_ns = 0;
	lapic_set_irr_locked(lapic, (uint8_t)lvt, false);
	return true;
}

/* Look at the clock: what is due expires. */
static bool advance(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint64_t now_ns = timers_now_ns();

	if (!lapic->counting || now_ns < lapic->target_ns)
		return false;
	lapic->expired = true;
	if (lapic->mode == LVT_TIMER_PERIODIC && lapic->period_ns)
		lapic->target_ns +=
		    (1 + (now_ns - lapic->target_ns) / lapic->period_ns) * lapic->period_ns;
	else
		lapic->counting = false;
	return inject(vcpu);
}

/* Count towards @target_ns. */
static bool start(struct vcpu *vcpu, uint64_t target_ns)
{
	bool wake;

	vcpu->lapic.expired = false;
	vcpu->lapic.target_ns = target_ns;
	vcpu->lapic.counting = true;
	wake = advance(vcpu);
	arm(vcpu);
	return wake;
}

static void stop(struct vcpu *vcpu)
{
	bool was_counting = vcpu->lapic.counting;

	vcpu->lapic.counting = false;
	vcpu->lapic.expired = false;
	if (was_counting)
		arm(vcpu);
}

/* Too short a period is lengthened; the count as it is read follows. */
static void lengthen_period(struct lapic *lapic)
{
	uint64_t shortest_ns = timers_shortest_period_ns();

	if (lapic->mode == LVT_TIMER_PERIODIC && lapic->period_ns && lapic->period_ns < shortest_ns)
		lapic->period_ns = shortest_ns;
}

static void set_period(struct lapic *lapic)
{
	lapic->period_ns = counts_to_ns(lapic, *lapic_reg(lapic, LAPIC_TIMER_INITIAL));
	lengthen_period(lapic);
}

bool lapic_timer_set_count_locked(struct vcpu *vcpu, uint32_t count)
{
	struct lapic *lapic = &vcpu->lapic;

	if (lapic->mode == LVT_TIMER_DEADLINE)
		return false;
	stop(vcpu);
	*lapic_reg(lapic, LAPIC_TIMER_INITIAL) = count;
	set_period(lapic);
	return lapic->period_ns ? start(vcpu, timers_now_ns() + lapic->period_ns) : false;
}

/* What is left of the count goes on at the new pace. */
bool lapic_timer_set_divide_locked(struct vcpu *vcpu, uint32_t value)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t before = lapic->divide;
	uint64_t now_ns = timers_now_ns(), left_ns;

	*lapic_reg(lapic, LAPIC_TIMER_DIVIDE) = value;
	lapic->divide = divide_of(value);
	if (lapic->divide == before || !lapic->period_ns)
		return false;
	set_period(lapic);
	left_ns = lapic->target_ns > now_ns ? lapic->target_ns - now_ns : 0;
	lapic->target_ns = now_ns + (uint64_t)((unsigned __int128)left_ns * lapic->divide / before);
	if (lapic->mode != LVT_TIMER_PERIODIC && lapic->expired)
		return false;
	lapic->counting = true;
	if (advance(vcpu))
		return true;
	arm(vcpu);
	return false;
}

static bool start_deadline(struct vcpu *vcpu)
{
	uint64_t now_tsc = clock_tsc() + cpu_state(vcpu->cpu)->tsc_offset;
	uint64_t deadline = vcpu->lapic.tsc_deadline;
	uint64_t ahead = deadline > now_tsc ? deadline - now_tsc : 0;

	return deadline && start(vcpu, timers_now_ns() + clock_ticks_to_ns(ahead));
}

static void update_mode(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t mode = *lapic_reg(lapic, LAPIC_LVT_TIMER) & lapic->mode_mask;

	if (mode == lapic->mode)
		return;
	/* Between counting modes and deadlines the timer is disarmed. */
	if ((mode == LVT_TIMER_DEADLINE) != (lapic->mode == LVT_TIMER_DEADLINE)) {
		stop(vcpu);
		*lapic_reg(lapic, LAPIC_TIMER_INITIAL) = 0;
		lapic->period_ns = 0;
		lapic->tsc_deadline = 0;
	}
	lapic->mode = mode;
	lengthen_period(lapic);
}

bool lapic_timer_lvt_changed_locked(struct vcpu *vcpu)
{
	/* What is due has expired in the old mode: the thread that tells of it may be late. */
	bool due = advance(vcpu), wake;

	update_mode(vcpu);
	wake = lapic_timer_inject_locked(vcpu);
	if (!wake)
		arm(vcpu);
	return wake || due;
}

bool lapic_timer_inject_locked(struct vcpu *vcpu)
{
	if (!inject(vcpu))
		return false;
	/* A periodic timer slept; ticks that it slept through are one, which this was. */
	(void)advance(vcpu);
	arm(vcpu);
	return true;
}

/* Where to count to, from a saved current count; 0 is at the end of it, even if that is long ago.
 */
static uint64_t restored_ns(const struct lapic *lapic, uint32_t current)
{
	uint64_t left_ns = counts_to_ns(lapic, current);

	if (!left_ns)
		return lapic->mode == LVT_TIMER_PERIODIC ? lapic->period_ns : 0;
	return left_ns < lapic->period_ns ? left_ns : lapic->period_ns;
}

bool lapic_timer_restore_locked(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t current = *lapic_reg(lapic, LAPIC_TIMER_CURRENT);

	*lapic_reg(lapic, LAPIC_TIMER_CURRENT) = 0;
	stop(vcpu);
	update_mode(vcpu);
	lapic->divide = divide_of(*lapic_reg(lapic, LAPIC_TIMER_DIVIDE));
	if (lapic->mode == LVT_TIMER_DEADLINE)
		return start_deadline(vcpu);
	set_period(lapic);
	if (!lapic->period_ns)
		return false;
	return start(vcpu, timers_now_ns() + restored_ns(lapic, current));
}

void lapic_timer_reset_locked(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;

	stop(vcpu);
	update_mode(vcpu);
	lapic->divide = divide_of(0);
	lapic->period_ns = 0;
	lapic->target_ns = 0;
	lapic->tsc_deadline = 0;
}

uint32_t lapic_timer_current_locked(struct lapic *lapic)
{
	uint64_t now_ns = timers_now_ns(), left_ns;

	if (lapic->mode == LVT_TIMER_DEADLINE || !lapic->period_ns)
		return 0;
	if (lapic->target_ns > now_ns)
		left_ns = (lapic->target_ns - now_ns) % lapic->period_ns;
	else if (lapic->mode == LVT_TIMER_PERIODIC && lapic->counting)
		left_ns = lapic->period_ns - 1 - (now_ns - lapic->target_ns) % lapic->period_ns;
	else
		left_ns = 0;
	return (uint32_t)(left_ns / ((uint64_t)lapic->cycle_ns * lapic->divide));
}

void lapic_timer_fire(struct vm_timer *timer)
{
	struct vcpu *vcpu = (struct vcpu *)((char *)timer - offsetof(struct vcpu, lapic.timer));
	bool wake;

	process_lock_acquire(&vcpu->lapic.lock);
	/* It may have been stopped or moved while it was about to fire. */
	wake = advance(vcpu);
	arm(vcpu);
	process_lock_release(&vcpu->lapic.lock);
	if (wake)
		vcpu_wake(vcpu);
}

uint64_t lapic_get_tsc_deadline(struct vcpu *vcpu)
{
	struct lapic *lapic = &vcpu->lapic;
	uint64_t deadline = 0;

	process_lock_acquire(&lapic->lock);
	if ((lapic->base & APIC_BASE_ENABLE) && lapic->mode == LVT_TIMER_DEADLINE)
		deadline = lapic->tsc_deadline;
	process_lock_release(&lapic->lock);
	return deadline;
}

void lapic_set_tsc_deadline(struct vcpu *vcpu, uint64_t deadline)
{
	struct lapic *lapic = &vcpu->lapic;
	bool wake = false;

	if (!lapic->present)
		return;
	process_lock_acquire(&lapic->lock);
	if ((lapic->base & APIC_BASE_ENABLE) && lapic->mode == LVT_TIMER_DEADLINE) {
		lapic->tsc_deadline = deadline;
		if (deadline)
			wake = start_deadline(vcpu);
		else
			stop(vcpu);
	}
	process_lock_release(&lapic->lock);
	if (wake)
		vcpu_wake(vcpu);
}
