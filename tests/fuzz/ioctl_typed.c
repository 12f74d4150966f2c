/* Calls that KVM takes, but for a word or two; and what holds of a vCPU whatever was called. */
#include "tests/fuzz/ioctl_typed.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "frontend/uapi.h"
#include "tests/fuzz/target.h"

#define IS_EVENTFD 0xe0e0e0e0u
#define IS_MEMORY 0xadadadadu /* and the word behind */
#define LIST_BYTES 16384u
#define BEHIND 0xa5

struct form {
	unsigned long number;
	int on_vcpu;
	uint32_t words[26];
};

static const struct form forms[] = {
    /* Line 3 is pin 5 of the I/O APIC, line 30 a message. */
    {KVM_SET_GSI_ROUTING, 0, {2, 0, 3, 1,  0, 0, 2, 5,		0, 0,	  0,
			      0, 0, 0, 30, 2, 0, 0, 0xfee00000, 0, 0x4030}},
    {KVM_SET_GSI_ROUTING, 0, {1, 0, 7, 1, 0, 0, 2, 7}},
    {KVM_IOEVENTFD, 0, {5, 0, 0x80, 0, 1, IS_EVENTFD, 3}},
    {KVM_IOEVENTFD, 0, {5, 0, 0x80, 0, 1, IS_EVENTFD, 7}},
    {KVM_IOEVENTFD, 0, {0, 0, 0x100000, 0, 4, IS_EVENTFD, 0}},
    {KVM_IRQFD, 0, {IS_EVENTFD, 3}},
    {KVM_IRQFD, 0, {IS_EVENTFD, 3, 1}},
    {KVM_IRQ_LINE, 0, {3, 1}},
    {KVM_IRQ_LINE, 0, {3, 0}},
    {KVM_SIGNAL_MSI, 0, {0xfee00000, 0, 0x4030}},
    {KVM_REGISTER_COALESCED_MMIO, 0, {0x100000, 0, 0x1000}},
    {KVM_UNREGISTER_COALESCED_MMIO, 0, {0x100000, 0, 0x1000}},
    {KVM_SET_IRQCHIP, 0, {2}},
    {KVM_SET_IRQCHIP, 0, {0}},
    {KVM_GET_IRQCHIP, 0, {1}},
    {KVM_X86_SET_MSR_FILTER, 0, {0, 0, 1, 64, 0x10, 0, IS_MEMORY}},
    {KVM_SET_MEMORY_ATTRIBUTES, 0, {0x3000, 0, 0x1000, 0, 8}},
    {KVM_GET_DIRTY_LOG, 0, {0, 0, IS_MEMORY}},
    {KVM_CREATE_PIT2, 0, {0}},
    {KVM_SET_VCPU_EVENTS, 1, {0, 0, 0, 1u << 16, 0, 5}},
    {KVM_SET_VCPU_EVENTS, 1, {0, 0, 0x01002101, 0, 0, 4}},
    {KVM_SET_DEBUGREGS, 1, {0x1000, 0, 0, 0, 0, 0, 0, 0, 0xffff0ff0, 0, 0x400}},
    {KVM_SET_XCRS, 1, {1, 0, 0, 0, 1}},
    {KVM_SET_MSRS, 1, {1, 0, 0x277, 0, 0x00070406, 0x00070406}},
    {KVM_GET_MSRS, 1, {2, 0, 0x277, 0, 0, 0, 0x10}},
    {KVM_SET_CPUID2, 1, {1, 0, 1, 0, 0, 0x663, 0x800, 0x80202001, 0x178bfbff}},
    {KVM_SET_LAPIC, 1, {0}},
    {KVM_INTERRUPT, 1, {0x20}},
    {KVM_NMI, 1, {0}},
    {KVM_PRE_FAULT_MEMORY, 1, {0, 0, 0x4000}},
    {KVM_TRANSLATE, 1, {0x1000}},
};

void typed_draw(struct fuzz_random *random, int eventfd, void *memory, struct typed_call *call)
{
	const struct form *form = &forms[random_below(random, ARRAY_SIZE(forms))];
	uint64_t address = (uintptr_t)memory;

	*call = (struct typed_call){.number = form->number, .on_vcpu = form->on_vcpu};
	for (uint32_t i = 0; i < ARRAY_SIZE(form->words); i++) {
		call->words[i] = form->words[i] == IS_EVENTFD ? (uint32_t)eventfd : form->words[i];
		if (form->words[i])
			call->used = i + 1;
		if (form->words[i] != IS_MEMORY)
			continue;
		memcpy(&call->words[i++], &address, sizeof(address));
		call->used = i + 1;
	}
}

struct list {
	unsigned long number;
	int on_vcpu;
	uint32_t head_bytes, entry_bytes;
};

void typed_list(struct fuzz_random *random, int kvm, int vcpu)
{
	static const struct list lists[] = {
	    {KVM_GET_MSR_INDEX_LIST, 0, 4, 4},
	    {KVM_GET_MSR_FEATURE_INDEX_LIST, 0, 4, 4},
	    {KVM_GET_SUPPORTED_CPUID, 0, 8, sizeof(struct kvm_cpuid_entry2)},
	    {KVM_GET_EMULATED_CPUID, 0, 8, sizeof(struct kvm_cpuid_entry2)},
	    {KVM_GET_CPUID2, 1, 8, sizeof(struct kvm_cpuid_entry2)},
	};
	const struct list *list = &lists[random_below(random, ARRAY_SIZE(lists))];
	/* Of the thread that runs these steps. */
	static uint8_t answer[LIST_BYTES];
	uint32_t room = (uint32_t)random_below(random, 64);
	uint32_t end = list->head_bytes + room * list->entry_bytes;

	memset(answer, BEHIND, sizeof(answer));
	memset(answer, 0, list->head_bytes);
	memcpy(answer, &room, sizeof(room));
	(void)ioctl(list->on_vcpu ? vcpu : kvm, list->number, answer);
	for (uint32_t i = end; i < sizeof(answer); i++)
		if (answer[i] != BEHIND)
			fuzz_fail("request %#lx with room for %u entries wrote byte %u",
				  list->number, room, i);
}

union saved {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
};

struct saved_kind {
	const char *name;
	unsigned long get, set;
	size_t bytes;
	void (*change)(union saved *saved);
};

static void change_regs(union saved *saved)
{
	saved->regs.rax ^= 1;
	saved->regs.r15 ^= 1;
	saved->regs.rip ^= 1;
	saved->regs.rflags ^= 1;
}

static void change_sregs(union saved *saved)
{
	saved->sregs.cr2 ^= 0x10;
	saved->sregs.ds.base ^= 0x1000;
	saved->sregs.gdt.base ^= 0x10;
	saved->sregs.idt.limit ^= 1;
}

static void change_debugregs(union saved *saved)
{
	saved->debugregs.db[0] ^= 0x10;
	saved->debugregs.db[3] ^= 0x10;
	saved->debugregs.dr6 ^= 1;
	saved->debugregs.dr7 ^= 0x30000;
}

static void change_events(union saved *saved)
{
	saved->events.nmi.masked ^= 1;
	saved->events.nmi.pending = 0;
	saved->events.interrupt.shadow ^= 1;
}

/* @wanted is set, and read. */
static int check_set(int vcpu, const struct saved_kind *kind, const union saved *wanted)
{
	union saved found = {0};

	if (ioctl(vcpu, kind->set, wanted))
		return -1;
	if (ioctl(vcpu, kind->get, &found))
		fuzz_fail("%s cannot be read: %s", kind->name, strerror(errno));
	for (size_t i = 0; i < kind->bytes; i++)
		if (((const uint8_t *)wanted)[i] != ((const uint8_t *)&found)[i])
			fuzz_fail("byte %zu of the %s was set to %#x and is %#x", i, kind->name,
				  ((const uint8_t *)wanted)[i], ((const uint8_t *)&found)[i]);
	return 0;
}

void typed_check_saved(int vcpu)
{
	static const struct saved_kind kinds[] = {
	    {"registers", KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs), change_regs},
	    {"system registers", KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs),
	     change_sregs},
	    {"debug registers", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs),
	     change_debugregs},
	    {"events", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events),
	     change_events},
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		union saved before = {0}, other;

		if (ioctl(vcpu, kinds[i].get, &before))
			continue;
		other = before;
		kinds[i].change(&other);
		if (!check_set(vcpu, &kinds[i], &other))
			(void)check_set(vcpu, &kinds[i], &before);
	}
}
