/* The I/O APIC: redirection entries, edge and level lines. */
#include "frontend/ioapic.h"

#include <string.h>

#include "frontend/vm.h"

#define IOAPIC_VERSION 0x170011u /* 24 entries, version 0x11 */
#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14)
#define ENTRY_LEVEL (UINT64_C(1) << 15)
#define ENTRY_MASKED (UINT64_C(1) << 16)
/* Delivery status and remote IRR are the chip's own. */
#define ENTRY_READ_ONLY (UINT64_C(1) << 12 | ENTRY_REMOTE_IRR)

void ioapic_reset(struct ioapic *ioapic)
{
	memset(ioapic, 0, sizeof(*ioapic));
	ioapic->state.base_address = IOAPIC_DEFAULT_BASE;
	for (unsigned int i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		ioapic->state.redirtbl[i].bits = ENTRY_MASKED;
}

/* Deliver @line if it is pending and may be. */
static void service_line(struct vm *vm, unsigned int line)
{
	struct kvm_ioapic_state *state = &vm->irqchip.ioapic.state;
	__u64 *entry = &state->redirtbl[line].bits;
	struct apic_message message = {
	    .destination = (uint32_t)(*entry >> 56),
	    .logical = *entry >> 11 & 1,
	    .level = (*entry & ENTRY_LEVEL) != 0,
	    .delivery_mode = *entry >> 8 & 7,
	    .vector = (uint8_t)*entry,
	};

	if (!(state->irr >> line & 1) || (*entry & ENTRY_MASKED))
		return;
	if (message.level && (*entry & ENTRY_REMOTE_IRR))
		return;
	if (message.level)
		*entry |= ENTRY_REMOTE_IRR;
	else
		state->irr &= ~(1u << line);
	if (apic_deliver(vm, &message) <= 0 && message.level)
		*entry &= ~ENTRY_REMOTE_IRR;
}

void ioapic_service(struct vm *vm)
{
	for (unsigned int line = 0; line < KVM_IOAPIC_NUM_PINS; line++)
		service_line(vm, line);
}

void ioapic_set_line(struct vm *vm, unsigned int line, bool level)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	uint32_t bit = 1u << line;
	bool was_high = ioapic->line_level & bit;
	bool is_level = ioapic->state.redirtbl[line].bits & ENTRY_LEVEL;

	if (!level) {
		ioapic->line_level &= ~bit;
		if (is_level)
			ioapic->state.irr &= ~bit;
		return;
	}
	ioapic->line_level |= bit;
	if (is_level || !was_high) {
		ioapic->state.irr |= bit;
		service_line(vm, line);
	}
}

void ioapic_eoi(struct vm *vm, uint8_t vector)
{
	struct kvm_ioapic_state *state = &vm->irqchip.ioapic.state;

	for (unsigned int line = 0; line < KVM_IOAPIC_NUM_PINS; line++) {
		__u64 *entry = &state->redirtbl[line].bits;

		if ((uint8_t)*entry != vector || !(*entry & ENTRY_LEVEL))
			continue;
		*entry &= ~ENTRY_REMOTE_IRR;
		service_line(vm, line);
	}
}

static uint32_t read_selected(const struct kvm_ioapic_state *state)
{
	unsigned int index = state->ioregsel;

	if (index == 0 || index == 2)
		return (state->id & 15) << 24;
	if (index == 1)
		return IOAPIC_VERSION;
	if (index < 16 || index >= 16 + 2 * KVM_IOAPIC_NUM_PINS)
		return 0;
	return (uint32_t)(state->redirtbl[(index - 16) / 2].bits >> (index % 2 * 32));
}

uint32_t ioapic_read(struct ioapic *ioapic, uint64_t offset)
{
	switch (offset & ~UINT64_C(15)) {
	case 0x00:
		return ioapic->state.ioregsel;
	case 0x10:
		return read_selected(&ioapic->state);
	default:
		return 0;
	}
}

static void write_entry(struct vm *vm, unsigned int index, uint32_t value)
{
	struct ioapic *ioapic = &vm->irqchip.ioapic;
	unsigned int line = (index - 16) / 2;
	__u64 *entry = &ioapic->state.redirtbl[line].bits;
	unsigned int shift = index % 2 * 32;
	uint64_t kept = *entry & ENTRY_READ_ONLY;

	*entry = (*entry & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)value << shift;
	*entry = (*entry & ~ENTRY_READ_ONLY) | kept;
	if (!(*entry & ENTRY_LEVEL))
		*entry &= ~ENTRY_REMOTE_IRR;
	else if (ioapic->line_level >> line & 1)
		ioapic->state.irr |= 1u << line;
	service_line(vm, line);
}

void ioapic_write(struct vm *vm, uint64_t offset, uint32_t value)
{
	struct kvm_ioapic_state *state = &vm->irqchip.ioapic.state;
	unsigned int index = state->ioregsel;

	switch (offset & ~UINT64_C(15)) {
	case 0x00:
		state->ioregsel = value & 0xff;
		break;
	case 0x10:
		if (index == 0)
			state->id = value >> 24 & 15;
		else if (index >= 16 && index < 16 + 2 * KVM_IOAPIC_NUM_PINS)
			write_entry(vm, index, value);
		break;
	default:
		break;
	}
}
