/* Delivery of interrupt messages to the local APICs that they name. */
#include "frontend/irq/apic_message.h"

#include <errno.h>
#include <linux/kvm_para.h>

#include "frontend/irq/lapic.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"

static bool names(const struct apic_message *message, struct vcpu *vcpu)
{
	if (vcpu == message->excluded || !lapic_is_present(vcpu))
		return false;
	return message->to_all || lapic_matches(vcpu, message);
}

static int deliver_to(struct vcpu *vcpu, const struct apic_message *message)
{
	if (!lapic_accept(vcpu, message))
		return 0;
	if (message->taken_by)
		message->taken_by[vcpu->index / 64] |= UINT64_C(1) << vcpu->index % 64;
	return 1;
}

/* To one of those named: which one depends on the vector alone, as in KVM. */
static int deliver_balanced(struct vm *vm, const struct apic_message *message, uint32_t count)
{
	uint32_t named = 0, chosen;

	for (uint32_t i = 0; i < count; i++)
		named += names(message, vm->vcpus[i]) && lapic_is_enabled(vm->vcpus[i]);
	if (!named)
		return 0;
	chosen = message->vector % named;
	for (uint32_t i = 0; i < count; i++) {
		if (!names(message, vm->vcpus[i]) || !lapic_is_enabled(vm->vcpus[i]))
			continue;
		if (!chosen--)
			return deliver_to(vm->vcpus[i], message);
	}
	return 0;
}

int apic_deliver(struct vm *vm, const struct apic_message *message)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);
	int taken = 0;

	if (!count)
		return -1;
	if (message->balance || message->delivery_mode == APIC_MODE_LOWEST)
		return deliver_balanced(vm, message, count);
	for (uint32_t i = 0; i < count; i++)
		if (names(message, vm->vcpus[i]))
			taken += deliver_to(vm->vcpus[i], message);
	return taken;
}

struct apic_message apic_message_of_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	struct apic_message message = {
	    .destination = (uint32_t)(address >> 12 & 0xff),
	    .logical = address >> 2 & 1,
	    .balance = address >> 3 & 1,
	    .level = data >> 15 & 1,
	    .delivery_mode = data >> 8 & 7,
	    .vector = (uint8_t)data,
	};

	if (atomic_load(&vm->settings.x2apic_32bit_ids))
		message.destination |= (uint32_t)(address >> 32) & 0xffffff00;
	return message;
}

#define ICR_LOGICAL 0x800u
#define ICR_SHORTHAND 0xc0000u
#define ICR_ASSERT 0x4000u
#define ICR_LEVEL 0x8000u

static bool is_chosen(const struct apic_multicast *multicast, uint32_t id)
{
	uint64_t at = (uint64_t)id - multicast->first;

	if (id < multicast->first)
		return false;
	if (at < multicast->word_bits)
		return multicast->low >> at & 1;
	at -= multicast->word_bits;
	return at < multicast->word_bits && (multicast->high >> at & 1);
}

int apic_multicast(struct vm *vm, const struct apic_multicast *multicast)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);
	struct apic_message message = {
	    .level = (multicast->icr & ICR_LEVEL) != 0,
	    .is_ipi = true,
	    .delivery_mode = multicast->icr >> 8 & 7,
	    .vector = (uint8_t)multicast->icr,
	};
	int taken = 0;

	if (!irqchip_has_lapic(&vm->irqchip))
		return -EOPNOTSUPP;
	if (multicast->icr & (ICR_LOGICAL | ICR_SHORTHAND))
		return -KVM_EINVAL;
	if (message.level && !(multicast->icr & ICR_ASSERT))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (lapic_is_present(vm->vcpus[i]) &&
		    is_chosen(multicast, lapic_physical_id(vm->vcpus[i])))
			taken += deliver_to(vm->vcpus[i], &message);
	return taken;
}

void apic_kick(struct vm *vm, uint32_t id)
{
	struct apic_message message = {
	    .destination = id,
	    .delivery_mode = APIC_MODE_REMOTE,
	};

	(void)apic_deliver(vm, &message);
}
