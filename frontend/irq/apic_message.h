/* Interrupt messages: from devices, the I/O APIC and other processors to local APICs. */
#ifndef QUIRE_FRONTEND_IRQ_APIC_MESSAGE_H
#define QUIRE_FRONTEND_IRQ_APIC_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

struct vcpu;
struct vm;

/* One interrupt message, as it travels to local APICs. */
struct apic_message {
	uint32_t destination; /* APIC id or logical set; all ones of the APIC's mode: all */
	bool logical;
	bool level;
	bool is_ipi;	       /* from a local APIC: the quirk of device messages is not for it */
	bool to_all;	       /* a shorthand: @destination says nothing */
	bool balance;	       /* to one of those named, as in lowest-priority mode */
	uint8_t delivery_mode; /* APIC_MODE_* in lapic.h */
	uint8_t vector;
	const struct vcpu *excluded; /* not to this one */
	uint64_t *taken_by; /* a bit for each vCPU's index, set where it was taken; or NULL */
};

/*
 * Deliver @message to every local APIC it names. Returns how many took it, -1 when there is no
 * such APIC. Callers may hold irqchip.lock, never a local APIC's lock.
 */
int apic_deliver(struct vm *vm, const struct apic_message *message);
/* KVM_HC_SEND_IPI: the ids from @first on that a bit is set for, of a first word and a second. */
struct apic_multicast {
	uint64_t low, high;
	uint32_t first;
	uint32_t word_bits; /* of the guest's mode: 64 or 32 */
	uint32_t icr;	    /* vector, delivery mode, trigger */
};
/*
 * How many took it; -EOPNOTSUPP without local APICs, -KVM_EINVAL for an ICR with a logical
 * destination or a shorthand. No lock held.
 */
int apic_multicast(struct vm *vm, const struct apic_multicast *multicast);
/* KVM_HC_KICK_CPU: the vCPU with this id gets up from HLT, or does not lie down the next time. */
void apic_kick(struct vm *vm, uint32_t id);
/* A device's message (MSI) as its address and data say. */
struct apic_message apic_message_of_msi(struct vm *vm, uint64_t address, uint32_t data);

#endif
