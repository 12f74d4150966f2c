/* The guest's accesses to its local APIC: the xAPIC page and the x2APIC MSRs. */
#include <string.h>

#include "frontend/irq/irqchip.h"
#include "frontend/irq/lapic_internal.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "hosts/process/lock.h"

#define LVT_PENDING (1u << 12)
#define LVT_BASIC (LVT_MASKED | LVT_PENDING | LVT_VECTOR)
/* Of LINT0 and LINT1: polarity, remote IRR and trigger mode, too. */
#define LVT_LINE (LVT_BASIC | LVT_MODE | 0xe000u)
#define ICR_RESERVED 0xfff32000u /* of an x2APIC */

/* Work that must wait until the lock is dropped. */
struct lapic_after {
	bool send;	     /* the ICR was written */
	bool level;	     /* what ended was level-triggered */
	bool watchdog_began; /* LINT0 gives NMIs now */
	bool wake;	     /* the timer has an interrupt */
	int eoi;	     /* the vector that ended, or -1 */
};

static bool is_readable(uint32_t reg)
{
	if (reg >= LAPIC_ISR && reg < LAPIC_ESR)
		return true;
	switch (reg) {
	case LAPIC_ID:
	case LAPIC_VERSION:
	case LAPIC_TPR:
	case LAPIC_PPR:
	case LAPIC_LDR:
	case LAPIC_DFR:
	case LAPIC_SVR:
	case LAPIC_ESR:
	case LAPIC_ICR:
	case LAPIC_ICR_HIGH:
	case LAPIC_TIMER_INITIAL:
	case LAPIC_TIMER_CURRENT:
	case LAPIC_TIMER_DIVIDE:
		return true;
	default:
		return reg >= LAPIC_LVT_TIMER && reg <= LAPIC_LVT_ERROR;
	}
}

static uint32_t read_reg(struct vcpu *vcpu, uint32_t reg)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t value;

	if (reg == LAPIC_PPR)
		return lapic_priority(vcpu);
	process_lock_acquire(&lapic->lock);
	if (reg == LAPIC_TIMER_CURRENT)
		value = lapic_timer_current_locked(lapic);
	else
		value = is_readable(reg) ? *lapic_reg(lapic, reg) : 0;
	process_lock_release(&lapic->lock);
	return value;
}

static void end_interrupt_locked(struct lapic *lapic, struct lapic_after *after)
{
	lapic->newest = -1;
	for (int i = 7; i >= 0; i--) {
		uint32_t *isr = lapic_reg(lapic, LAPIC_ISR + 16 * (uint32_t)i);
		uint32_t bit;

		if (!*isr)
			continue;
		bit = 31 - (uint32_t)__builtin_clz(*isr);
		*isr &= ~(1u << bit);
		after->eoi = 32 * i + (int)bit;
		after->level = *lapic_reg(lapic, LAPIC_TMR + 16 * (uint32_t)i) >> bit & 1;
		return;
	}
}

static uint32_t lvt_writable(const struct lapic *lapic, uint32_t reg)
{
	switch (reg) {
	case LAPIC_LVT_TIMER:
		return LVT_BASIC | lapic->mode_mask;
	case LAPIC_LVT_THERMAL:
	case LAPIC_LVT_COUNTER:
		return LVT_BASIC | LVT_MODE;
	case LAPIC_LVT_ERROR:
		return LVT_BASIC;
	default:
		return LVT_LINE;
	}
}

static void write_lvt_locked(struct vcpu *vcpu, uint32_t reg, uint32_t value,
			     struct lapic_after *after)
{
	struct lapic *lapic = &vcpu->lapic;

	if (reg == LAPIC_LVT_LINT0)
		after->watchdog_began = lapic_count_watchdog_locked(vcpu, value);
	if (!(*lapic_reg(lapic, LAPIC_SVR) & SVR_ENABLED))
		value |= LVT_MASKED;
	*lapic_reg(lapic, reg) = value & lvt_writable(lapic, reg);
	if (reg == LAPIC_LVT_TIMER)
		after->wake = lapic_timer_lvt_changed_locked(vcpu);
}

static void write_svr_locked(struct vcpu *vcpu, uint32_t value, struct lapic_after *after)
{
	struct lapic *lapic = &vcpu->lapic;
	uint32_t writable = 0x3ff;

	if (*lapic_reg(lapic, LAPIC_VERSION) & VERSION_DIRECTED_EOI)
		writable |= SVR_DIRECTED_EOI;
	*lapic_reg(lapic, LAPIC_SVR) = value & writable;
	if (value & SVR_ENABLED) {
		after->wake = lapic_timer_inject_locked(vcpu);
		return;
	}
	for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
		*lapic_reg(lapic, lvt) |= LVT_MASKED;
	lapic->expired = false;
	(void)lapic_timer_lvt_changed_locked(vcpu);
}

static void write_reg_locked(struct vcpu *vcpu, uint32_t reg, uint32_t value,
			     struct lapic_after *after)
{
	struct lapic *lapic = &vcpu->lapic;

	switch (reg) {
	case LAPIC_ID:
		if (!lapic_is_x2apic(lapic))
			*lapic_reg(lapic, reg) = value & 0xff000000;
		break;
	case LAPIC_TPR:
		*lapic_reg(lapic, reg) = value & 0xff;
		break;
	case LAPIC_EOI:
		end_interrupt_locked(lapic, after);
		break;
	case LAPIC_LDR:
		if (!lapic_is_x2apic(lapic))
			*lapic_reg(lapic, reg) = value & 0xff000000;
		break;
	case LAPIC_DFR:
		if (!lapic_is_x2apic(lapic))
			*lapic_reg(lapic, reg) = value | 0x0fffffff;
		break;
	case LAPIC_SVR:
		write_svr_locked(vcpu, value, after);
		break;
	case LAPIC_ICR:
		*lapic_reg(lapic, reg) = value & ~ICR_BUSY;
		after->send = true;
		break;
	case LAPIC_ICR_HIGH:
		*lapic_reg(lapic, reg) = value & 0xff000000;
		break;
	case LAPIC_TIMER_INITIAL:
		after->wake = lapic_timer_set_count_locked(vcpu, value);
		break;
	case LAPIC_TIMER_DIVIDE:
		after->wake = lapic_timer_set_divide_locked(vcpu, value & 0xb);
		break;
	default:
		if (reg >= LAPIC_LVT_TIMER && reg <= LAPIC_LVT_ERROR)
			write_lvt_locked(vcpu, reg, value, after);
		break;
	}
}

/* Send what the ICR says. */
static void send_ipi(struct vcpu *vcpu, uint32_t low, uint32_t high, bool x2apic)
{
	uint32_t shorthand = low >> 18 & 3;
	struct apic_message message = {
	    .destination = x2apic ? high : high >> 24,
	    .is_ipi = true,
	    .level = low >> 15 & 1,
	    .logical = low >> 11 & 1,
	    .delivery_mode = low >> 8 & 7,
	    .vector = (uint8_t)low,
	};

	/* A level-triggered IPI that is not asserted does nothing. */
	if (message.level && !(low & ICR_ASSERT) &&
	    (message.delivery_mode <= APIC_MODE_LOWEST || message.delivery_mode == APIC_MODE_INIT))
		return;
	if (shorthand == 1) {
		(void)lapic_accept(vcpu, &message);
		return;
	}
	message.to_all = shorthand != 0;
	message.excluded = shorthand == 3 ? vcpu : NULL;
	(void)apic_deliver(vcpu->vm, &message);
}

static void write_reg(struct vcpu *vcpu, uint32_t reg, uint64_t value)
{
	struct lapic *lapic = &vcpu->lapic;
	struct lapic_after after = {.eoi = -1};
	uint32_t low, high;
	bool x2apic;

	process_lock_acquire(&lapic->lock);
	x2apic = lapic_is_x2apic(lapic);
	if (x2apic && reg == LAPIC_ICR)
		*lapic_reg(lapic, LAPIC_ICR_HIGH) = (uint32_t)(value >> 32);
	write_reg_locked(vcpu, reg, (uint32_t)value, &after);
	low = *lapic_reg(lapic, LAPIC_ICR);
	high = *lapic_reg(lapic, LAPIC_ICR_HIGH);
	process_lock_release(&lapic->lock);
	if (after.eoi >= 0 && irqchip_eoi(vcpu, (uint8_t)after.eoi, after.level))
		vcpu_report_eoi(vcpu, (uint8_t)after.eoi);
	if (after.wake)
		vcpu_wake(vcpu);
	if (after.watchdog_began)
		irqchip_watchdog_began(vcpu->vm);
	if (after.send)
		send_ipi(vcpu, low, high, x2apic);
}

void lapic_end_interrupt(struct vcpu *vcpu)
{
	write_reg(vcpu, LAPIC_EOI, 0);
}

static bool has_hole(const struct vcpu *vcpu)
{
	return !(atomic_load(&vcpu->vm->settings.disabled_quirks) & KVM_X86_QUIRK_LAPIC_MMIO_HOLE);
}

enum cpu_io_result lapic_mmio(struct vcpu *vcpu, struct cpu_io *io)
{
	uint64_t base = lapic_get_base(vcpu);
	uint64_t offset = io->address - (base & APIC_BASE_ADDRESS);
	uint32_t value;

	if (offset >= 4096)
		return CPU_IO_USER;
	if (!(base & APIC_BASE_ENABLE) || (base & APIC_BASE_X2APIC)) {
		/* No APIC is mapped: KVM's default answers as an empty bus does. */
		if (!has_hole(vcpu))
			return CPU_IO_USER;
		memset(io->data, 0xff, io->is_write ? 0 : sizeof(io->data));
		return CPU_IO_DONE;
	}
	if (io->is_write) {
		memcpy(&value, io->data, sizeof(value));
		if (io->size_bytes == 4 && offset % 16 == 0)
			write_reg(vcpu, (uint32_t)offset, value);
		return CPU_IO_DONE;
	}
	memset(io->data, 0, sizeof(io->data));
	if ((offset & 15) + io->size_bytes <= 4) {
		value = read_reg(vcpu, offset & 0xff0) >> 8 * (offset & 3);
		memcpy(io->data, &value, sizeof(value));
	}
	return CPU_IO_DONE;
}

static bool in_x2apic(struct vcpu *vcpu)
{
	uint64_t base = lapic_get_base(vcpu);

	return (base & APIC_BASE_ENABLE) && (base & APIC_BASE_X2APIC);
}

enum cpu_msr_result lapic_msr_read(struct vcpu *vcpu, uint32_t index, uint64_t *value)
{
	uint32_t reg = (index - 0x800) << 4;

	if (!in_x2apic(vcpu) || !is_readable(reg) || reg == LAPIC_DFR || reg == LAPIC_ICR_HIGH)
		return CPU_MSR_GP;
	*value = read_reg(vcpu, reg);
	if (reg == LAPIC_ICR)
		*value |= (uint64_t)read_reg(vcpu, LAPIC_ICR_HIGH) << 32;
	return CPU_MSR_OK;
}

enum cpu_msr_result lapic_msr_write(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	uint32_t reg = (index - 0x800) << 4;

	if (!in_x2apic(vcpu) || (value >> 32 && reg != LAPIC_ICR))
		return CPU_MSR_GP;
	switch (reg) {
	case LAPIC_SELF_IPI:
		if (value >> 8)
			return CPU_MSR_GP;
		send_ipi(vcpu, ICR_SELF | (uint32_t)value, 0, true);
		return CPU_MSR_OK;
	case LAPIC_ESR:
		if (value)
			return CPU_MSR_GP;
		break;
	case LAPIC_ICR:
		if (value & ICR_RESERVED)
			return CPU_MSR_GP;
		break;
	case LAPIC_EOI:
	case LAPIC_TPR:
	case LAPIC_SVR:
	case LAPIC_TIMER_INITIAL:
	case LAPIC_TIMER_DIVIDE:
		break;
	default:
		if (reg < LAPIC_LVT_TIMER || reg > LAPIC_LVT_ERROR)
			return CPU_MSR_GP;
	}
	write_reg(vcpu, reg, value);
	return CPU_MSR_OK;
}
