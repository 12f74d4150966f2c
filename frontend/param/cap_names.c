/* Capabilities by name, for those that name them in words. */
#include "frontend/param/cap_names.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "frontend/uapi.h"

#define PREFIX "KVM_CAP_"
#define SEPARATORS ", "

/* Those of x86 that Quire has or may come to have. */
#define NAME(name)                    \
	{                             \
#name, KVM_CAP_##name \
	}

static const struct {
	const char *name;
	uint32_t number;
} names[] = {
    NAME(IRQCHIP),
    NAME(HLT),
    NAME(MMU_SHADOW_CACHE_CONTROL),
    NAME(USER_MEMORY),
    NAME(SET_TSS_ADDR),
    NAME(VAPIC),
    NAME(EXT_CPUID),
    NAME(CLOCKSOURCE),
    NAME(NR_VCPUS),
    NAME(NR_MEMSLOTS),
    NAME(PIT),
    NAME(NOP_IO_DELAY),
    NAME(MP_STATE),
    NAME(COALESCED_MMIO),
    NAME(SYNC_MMU),
    NAME(DESTROY_MEMORY_REGION_WORKS),
    NAME(USER_NMI),
    NAME(SET_GUEST_DEBUG),
    NAME(REINJECT_CONTROL),
    NAME(IRQ_ROUTING),
    NAME(IRQ_INJECT_STATUS),
    NAME(JOIN_MEMORY_REGIONS_WORKS),
    NAME(MCE),
    NAME(IRQFD),
    NAME(PIT2),
    NAME(SET_BOOT_CPU_ID),
    NAME(PIT_STATE2),
    NAME(IOEVENTFD),
    NAME(SET_IDENTITY_MAP_ADDR),
    NAME(ADJUST_CLOCK),
    NAME(INTERNAL_ERROR_DATA),
    NAME(VCPU_EVENTS),
    NAME(PCI_SEGMENT),
    NAME(DEBUGREGS),
    NAME(X86_ROBUST_SINGLESTEP),
    NAME(ENABLE_CAP),
    NAME(XSAVE),
    NAME(XCRS),
    NAME(ASYNC_PF),
    NAME(TSC_CONTROL),
    NAME(GET_TSC_KHZ),
    NAME(MAX_VCPUS),
    NAME(TSC_DEADLINE_TIMER),
    NAME(SYNC_REGS),
    NAME(KVMCLOCK_CTRL),
    NAME(SIGNAL_MSI),
    NAME(READONLY_MEM),
    NAME(IRQFD_RESAMPLE),
    NAME(DEVICE_CTRL),
    NAME(EXT_EMUL_CPUID),
    NAME(IOAPIC_POLARITY_IGNORED),
    NAME(ENABLE_CAP_VM),
    NAME(IOEVENTFD_NO_LENGTH),
    NAME(CHECK_EXTENSION_VM),
    NAME(DISABLE_QUIRKS),
    NAME(X86_SMM),
    NAME(MULTI_ADDRESS_SPACE),
    NAME(SPLIT_IRQCHIP),
    NAME(IOEVENTFD_ANY_LENGTH),
    NAME(VCPU_ATTRIBUTES),
    NAME(MAX_VCPU_ID),
    NAME(X2APIC_API),
    NAME(IMMEDIATE_EXIT),
    NAME(X86_DISABLE_EXITS),
    NAME(GET_MSR_FEATURES),
    NAME(NESTED_STATE),
    NAME(MSR_PLATFORM_INFO),
    NAME(COALESCED_PIO),
    NAME(EXCEPTION_PAYLOAD),
    NAME(MANUAL_DIRTY_LOG_PROTECT2),
    NAME(HALT_POLL),
    NAME(ASYNC_PF_INT),
    NAME(LAST_CPU),
    NAME(SMALLER_MAXPHYADDR),
    NAME(STEAL_TIME),
    NAME(X86_USER_SPACE_MSR),
    NAME(X86_MSR_FILTER),
    NAME(ENFORCE_PV_FEATURE_CPUID),
    NAME(DIRTY_LOG_RING),
    NAME(X86_BUS_LOCK_EXIT),
    NAME(SET_GUEST_DEBUG2),
    NAME(SREGS2),
    NAME(EXIT_HYPERCALL),
    NAME(BINARY_STATS_FD),
    NAME(EXIT_ON_EMULATION_FAILURE),
    NAME(XSAVE2),
    NAME(SYS_ATTRIBUTES),
    NAME(DISABLE_QUIRKS2),
    NAME(VM_TSC_CONTROL),
    NAME(X86_TRIPLE_FAULT_EVENT),
    NAME(X86_NOTIFY_VMEXIT),
    NAME(VM_DISABLE_NX_HUGE_PAGES),
    NAME(DIRTY_LOG_RING_ACQ_REL),
    NAME(USER_MEMORY2),
    NAME(MEMORY_FAULT_INFO),
    NAME(MEMORY_ATTRIBUTES),
    NAME(GUEST_MEMFD),
    NAME(VM_TYPES),
    NAME(PRE_FAULT_MEMORY),
    NAME(X86_APIC_BUS_CYCLES_NS),
    NAME(X86_GUEST_MODE),
    NAME(GUEST_MEMFD_FLAGS),
    NAME(GUEST_MEMFD_MEMORY_ATTRIBUTES),
};
#undef NAME

/* @word of @length bytes as a number; -EINVAL when it is neither number nor name. */
static long parse_word(const char *word, size_t length)
{
	char text[64], *end;
	const char *name = text;
	unsigned long number;

	if (length >= sizeof(text))
		return -EINVAL;
	memcpy(text, word, length);
	text[length] = '\0';
	number = strtoul(text, &end, 0);
	if (text[0] >= '0' && text[0] <= '9')
		return *end || number >= CAP_NAMES_MAX ? -EINVAL : (long)number;
	if (!strncasecmp(text, PREFIX, strlen(PREFIX)))
		name += strlen(PREFIX);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcasecmp(name, names[i].name))
			return names[i].number;
	return -EINVAL;
}

int cap_names_parse(const char *list, uint64_t *bits)
{
	for (;;) {
		size_t length;
		long number;

		list += strspn(list, SEPARATORS);
		length = strcspn(list, SEPARATORS);
		if (!length)
			return 0;
		number = parse_word(list, length);
		if (number < 0)
			return -EINVAL;
		if (bits)
			bits[number / 64] |= UINT64_C(1) << number % 64;
		list += length;
	}
}
