/* The I/O APIC: redirection entries, edge and level lines. */
#include "frontend/irq/ioapic.h"

#include <string.h>

#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "hosts/process/lock.h"

#define IOAPIC_VERSION 0x170011u /* 24 entries, version 0x11 */
#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14)
#define ENTRY_LEVEL (UINT64_C(1) << 15)
#define ENTRY_MASKED (UINT64_C(1) << 16)
/* Delivery status and remote IRR are the chip's own. */
#define ENTRY_READ_ONLY (UINT64_C(1) << 12 | ENTRY_REMOTE_IRR)
#define CLOCK_LINE 8u
/* A guest that ends a level interrupt this often without serving it gets the next one later. */
#define STORM_COUNT 10000u
#define STORM_DELAY_NS 10000000u

_Static_assert(IOAPIC_MAX_VCPUS >= VM_MAX_VCPUS, "a bit for each vCPU");

void ioapic_reset(struct ioapic *ioapic)
{
	memset(&ioapic->state, 0, sizeof(ioapic->state));
	ioapic->state.base_address = IOAPIC_DEFAULT_BASE;
	for (unsigned int i = 0; i < IOAPIC_LINES; i++)
		ioapic->state.redirtbl[i].bits = ENTRY_MASKED;
}

static struct apic_message message_of(uint64_t entry)
{
	return (struct apic_message){
	    .destination = (uint32_t)(entry >> 56),
	    .logical = entry >> 11 & 1,
	    .level = (entry & ENTRY_LEVEL) != 0,
	    .delivery_mode = entry >> 8 & 7,
	    .vector = (uint8_t)entry,
	};
}

/* The clock's line, for a client that asks whether its ticks are coalesced. */
static bool clock_is_waited_for(const struct ioapic *ioapic)
{
	for (size_t i = 0; i < sizeof(ioapic->clock_waits) / sizeof(ioapic->clock_waits[0]); i++)
		if (ioapic->clock_waits[i])
			return true;
	return false;
}

void ioapic_clock_restore(struct vm *vm)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	struct apic_message message = message_of(ioapic->state.redirtbl[CLOCK_LINE].bits);
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);

	memset(ioapic->clock_waits, 0, sizeof(ioapic->clock_waits));
	ioapic->clock_vector = message.vector;
	for (uint32_t i = 0; i < count; i++)
		if (lapic_matches(vm->vcpus[i], &message) &&
		    lapic_owes_eoi(vm->vcpus[i], message.vector))
			ioapic->clock_waits[i / 64] |= UINT64_C(1) << i % 64;
}

/* Deliver @line unless it is masked or its last interrupt is not ended. */
static int service_line(struct vm *vm, unsigned int line, bool wants_status)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	__u64 *entry = &ioapic->state.redirtbl[line].bits;
	struct apic_message message = message_of(*entry);
	int taken;

	if ((*entry & ENTRY_MASKED) || (message.level && (*entry & ENTRY_REMOTE_IRR)))
		return -1;
	if (!message.level)
		ioapic->delivered |= 1u << line;
	if (line == CLOCK_LINE && wants_status) {
		ioapic->clock_vector = message.vector;
		message.taken_by = ioapic->clock_waits;
	}
	taken = apic_deliver(vm, &message);
	if (taken && message.level)
		*entry |= ENTRY_REMOTE_IRR;
	return taken;
}

int ioapic_set_line(struct vm *vm, const struct ioapic_drive *drive)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	uint8_t source = (uint8_t)(1u << drive->source), *sources = &ioapic->sources[drive->line];
	uint32_t bit = 1u << drive->line, before = ioapic->state.irr;

	*sources = drive->level ? *sources | source : *sources & (uint8_t)~source;
	if (!*sources) {
		ioapic->state.irr &= ~bit;
		return 1;
	}
	if (drive->line == CLOCK_LINE && drive->wants_status && clock_is_waited_for(ioapic))
		return 0;
	ioapic->state.irr |= bit;
	if (!(ioapic->state.redirtbl[drive->line].bits & ENTRY_LEVEL)) {
		ioapic->delivered &= ~bit;
		if (before & bit)
			return 0;
	}
	return service_line(vm, drive->line, drive->wants_status);
}

/* Level lines that are high and not under way. */
static void service_levels(struct vm *vm)
{
	const struct kvm_ioapic_state *state = &vm->irqchip.ioapic.state;

	for (unsigned int line = 0; line < IOAPIC_LINES; line++) {
		uint64_t entry = state->redirtbl[line].bits;

		if ((entry & ENTRY_LEVEL) && !(entry & ENTRY_REMOTE_IRR) &&
		    (state->irr >> line & 1))
			(void)service_line(vm, line, false);
	}
}

static void storm_fire(struct vm_timer *timer)
{
	struct vm *vm =
	    (struct vm *)((char *)timer - offsetof(struct vm, irqchip.ioapic.storm_timer));

	process_lock_acquire(&vm->irqchip.lock);
	service_levels(vm);
	process_lock_release(&vm->irqchip.lock);
}

/* A level-triggered interrupt of @line ended. A line that is still high interrupts once more. */
static void end_level(struct vm *vm, unsigned int line)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	__u64 *entry = &ioapic->state.redirtbl[line].bits;

	*entry &= ~ENTRY_REMOTE_IRR;
	if ((*entry & ENTRY_MASKED) || !(ioapic->state.irr >> line & 1)) {
		ioapic->storm[line] = 0;
		return;
	}
	if (++ioapic->storm[line] < STORM_COUNT) {
		(void)service_line(vm, line, false);
		return;
	}
	ioapic->storm[line] = 0;
	if (!ioapic->storm_timer.fire)
		vm_timer_add(&vm->timers, &ioapic->storm_timer, storm_fire);
	vm_timer_arm(&vm->timers, &ioapic->storm_timer, timers_now_ns() + STORM_DELAY_NS);
}

static void end_clock(struct vcpu *vcpu, uint8_t vector)
{
	struct ioapic *ioapic = &vcpu->vm->irqchip.ioapic;

	if (vector == ioapic->clock_vector)
		ioapic->clock_waits[vcpu->index / 64] &= ~(UINT64_C(1) << vcpu->index % 64);
}

void ioapic_eoi(struct vcpu *vcpu, uint8_t vector, bool level)
{
	struct vm *vm = vcpu->vm;
	struct kvm_ioapic_state *state = &vm->irqchip.ioapic.state;

	end_clock(vcpu, vector);
	for (unsigned int line = 0; line < IOAPIC_LINES; line++) {
		struct apic_message message = message_of(state->redirtbl[line].bits);

		if (message.vector != vector)
			continue;
		/* Another's vector of the same number, say an IPI's, is not this line's. */
		if (!level && !lapic_matches(vcpu, &message))
			continue;
		irqchip_acked_locked(vm, KVM_IRQCHIP_IOAPIC, line);
		if (level)
			end_level(vm, line);
	}
}

/* The clock's line is always among them, with the vector it was last delivered with. */
void ioapic_scan(struct vm *vm)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	uint64_t vectors[4] = {0};

	for (unsigned int line = 0; line < IOAPIC_LINES; line++) {
		uint64_t entry = ioapic->state.redirtbl[line].bits;
		uint8_t vector = (uint8_t)entry;

		if ((entry & ENTRY_LEVEL) || line == CLOCK_LINE ||
		    irqchip_has_listener_locked(vm, KVM_IRQCHIP_IOAPIC, line))
			vectors[vector / 64] |= UINT64_C(1) << vector % 64;
	}
	vectors[ioapic->clock_vector / 64] |= UINT64_C(1) << ioapic->clock_vector % 64;
	for (unsigned int i = 0; i < 4; i++)
		atomic_store_explicit(&ioapic->eoi_vectors[i], vectors[i], memory_order_release);
}

static uint32_t read_selected(const struct kvm_ioapic_state *state)
{
	uint32_t index = state->ioregsel, line = (index - 16) / 2;

	if (index == 0 || index == 2)
		return (state->id & 15) << 24;
	if (index == 1)
		return IOAPIC_VERSION;
	if (index < 16 || line >= IOAPIC_LINES)
		return UINT32_MAX;
	return (uint32_t)(state->redirtbl[line].bits >> (index % 2 * 32));
}

uint32_t ioapic_read(const struct ioapic *ioapic, uint64_t offset)
{
	switch (offset) {
	case 0x00:
		return ioapic->state.ioregsel;
	case 0x10:
		return read_selected(&ioapic->state);
	default:
		return 0;
	}
}

static void write_entry(struct vm *vm, uint32_t index, uint32_t value)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	uint32_t line = (index - 16) / 2, shift = index % 2 * 32;
	__u64 *entry = &ioapic->state.redirtbl[line].bits;
	uint64_t before = *entry, after;

	after = (before & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)value << shift;
	after = (after & ~ENTRY_READ_ONLY) | (before & ENTRY_READ_ONLY);
	/* Guests end a level interrupt so, on chips without a register for it. */
	if (!(after & ENTRY_LEVEL))
		after &= ~ENTRY_REMOTE_IRR;
	*entry = after;
	ioapic_scan(vm);
	if ((before ^ after) & ENTRY_MASKED)
		irqchip_mask_changed_locked(vm, KVM_IRQCHIP_IOAPIC, line,
					    (after & ENTRY_MASKED) != 0);
	if ((after & ENTRY_LEVEL) && (ioapic->state.irr >> line & 1))
		(void)service_line(vm, line, false);
}

void ioapic_write(struct vm *vm, uint64_t offset, uint32_t value)
{
	struct kvm_ioapic_state *state = &vm->irqchip.ioapic.state;
	uint32_t index = state->ioregsel;

	switch (offset) {
	case 0x00:
		state->ioregsel = value & 0xff;
		break;
	case 0x10:
		if (index == 0)
			state->id = value >> 24 & 15;
		else if (index >= 16 && (index - 16) / 2 < IOAPIC_LINES)
			write_entry(vm, index, value);
		break;
	default:
		break;
	}
}

void ioapic_get_state(const struct ioapic *ioapic, struct kvm_ioapic_state *state)
{
	*state = ioapic->state;
	state->irr &= ~ioapic->delivered;
}

/* Lines that the state says are high are raised anew. */
void ioapic_set_state(struct vm *vm, const struct kvm_ioapic_state *state)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	uint32_t high = state->irr;

	ioapic->state = *state;
	ioapic->state.irr = 0;
	ioapic->delivered = 0;
	memset(ioapic->clock_waits, 0, sizeof(ioapic->clock_waits));
	ioapic_scan(vm);
	for (unsigned int line = 0; line < IOAPIC_LINES; line++) {
		if (!(high >> line & 1))
			continue;
		ioapic->state.irr |= 1u << line;
		(void)service_line(vm, line, true);
	}
	ioapic_clock_restore(vm);
}
