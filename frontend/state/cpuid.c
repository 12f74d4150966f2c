/* CPUID: the machine's own leaves, masked down to what the software CPU executes. */
#include "frontend/state/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm_para.h>
#include <stddef.h>
#include <string.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/system.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/state/nested_state.h"
#include "hosts/process/heap.h"
#include "vcpu/arch.h"
#include "vcpu/decode/feature.h"
#include "vcpu/exec/fpu_image.h"
#include "vcpu/svm/vmcb.h"

#define BIT(n) (UINT32_C(1) << (n))
#define LEAF_KVM_FEATURES (KVM_CPUID_SIGNATURE + 1)
#define MAX_BASIC_LEAF 0xdu
#define MAX_EXTENDED_LEAF 0x80000008u
#define LEAF_SVM SVM_CPUID_LEAF

/* Leaf 1, ECX. */
#define F1_SSE3 BIT(0)
#define F1_MWAIT BIT(3)
#define F1_SSSE3 BIT(9)
#define F1_FMA BIT(12)
#define F1_CX16 BIT(13)
#define F1_PCID BIT(17)
#define F1_SSE41 BIT(19)
#define F1_SSE42 BIT(20)
#define F1_X2APIC BIT(21)
#define F1_MOVBE BIT(22)
#define F1_POPCNT BIT(23)
#define F1_TSC_DEADLINE BIT(24)
#define F1_XSAVE BIT(26)
#define F1_OSXSAVE BIT(27)
#define F1_AVX BIT(28)
#define F1_F16C BIT(29)
#define F1_HYPERVISOR BIT(31)
#define F1_ECX                                                                                 \
	(F1_SSE3 | F1_SSSE3 | F1_CX16 | F1_PCID | F1_SSE41 | F1_SSE42 | F1_X2APIC | F1_MOVBE | \
	 F1_POPCNT | F1_TSC_DEADLINE | F1_XSAVE | F1_HYPERVISOR)
/* Leaf 1, EDX: FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT CLFLUSH MMX FXSR SSE
 * SSE2. */
#define F1_APIC BIT(9)
#define F1_EDX UINT32_C(0x0789fbfd)
/* The part of it that AMD repeats in leaf 80000001. */
#define F1_EDX_REPEATED UINT32_C(0x0183f3ff)
/* Leaf 7, EBX: FSGSBASE, TSC_ADJUST, BMI1, SMEP, BMI2, ERMS, INVPCID, SMAP. ECX: UMIP, LA57. */
#define F7_EBX (BIT(0) | BIT(1) | BIT(3) | BIT(7) | BIT(8) | BIT(9) | BIT(10) | BIT(20))
#define F7_AVX2 BIT(5)
#define F7_ECX (BIT(2) | BIT(16))
#define F7_PKU BIT(3)
#define F7_OSPKE BIT(4)
#define F7_RDPID BIT(22)
#define F7_EDX BIT(29) /* the MSR that says which errors the processor has not */
/* Leaf d, subleaf 1: XSAVEOPT, XSAVEC, XGETBV with 1 in ECX. */
#define FD_XSAVEC BIT(1)
#define FD_EAX (BIT(0) | FD_XSAVEC | BIT(2))
/* Leaf 80000001. ECX: LAHF, LZCNT, 3DNow prefetch. EDX: SYSCALL, NX, 1G pages, RDTSCP, long mode.
 */
#define FX_ECX (BIT(0) | BIT(5) | BIT(8))
#define FX_EDX (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))
#define FX_SVM BIT(2) /* in ECX */
/* Leaf 8000000a, EDX. */
#define SVM_FEATURES \
	(SVM_CPUID_NPT | SVM_CPUID_NEXT_RIP | SVM_CPUID_VIRTUAL_VMLOAD | SVM_CPUID_V_GIF)
#define SVM_ASIDS 8u
#define KVM_FEATURES                                                                           \
	(BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |                        \
	 BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_ASYNC_PF) | BIT(KVM_FEATURE_PV_EOI) | \
	 BIT(KVM_FEATURE_PV_UNHALT) | BIT(KVM_FEATURE_ASYNC_PF_VMEXIT) |                       \
	 BIT(KVM_FEATURE_PV_SEND_IPI) | BIT(KVM_FEATURE_PV_SCHED_YIELD) |                      \
	 BIT(KVM_FEATURE_ASYNC_PF_INT) | BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))

/* The words that name KVM, where a guest looks for a hypervisor. */
static const char pv_signature[12] = "KVMKVMKVM";

static struct kvm_cpuid_entry2 *append(struct vcpu_cpuid *list, uint32_t leaf, uint32_t index)
{
	struct kvm_cpuid_entry2 *entry = &list->entries[list->count++];

	memset(entry, 0, sizeof(*entry));
	entry->function = leaf;
	entry->index = index;
	return entry;
}

/* The machine's own leaf, as it is. */
static struct kvm_cpuid_entry2 *append_host(struct vcpu_cpuid *list, uint32_t leaf, uint32_t index)
{
	struct kvm_cpuid_entry2 *entry = append(list, leaf, index);

	__get_cpuid_count(leaf, index, &entry->eax, &entry->ebx, &entry->ecx, &entry->edx);
	return entry;
}

bool cpuid_host_is_amd(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	/* "Auth" of AuthenticAMD, "Hygo" of HygonGenuine. */
	return b == 0x68747541 || b == 0x6f677948;
}

static bool has(enum feature feature)
{
	return features_of_machine() >> feature & 1;
}

/*
 * As in KVM, keys need a second stage, as the library shadows no tables with them, and a machine
 * that has them: clients ask its CPUID where PKRU is in an XSAVE image.
 */
uint64_t cpuid_supported_xcr0(void)
{
	bool has_keys = system_has_tdp() && fpu_machine_has_keys();

	return XSTATE_X87 | XSTATE_SSE | (has(FEATURE_AVX) ? XSTATE_AVX : 0) |
	       (has_keys ? XSTATE_PKRU : 0);
}

static uint32_t xsave_bytes(uint64_t xcr0)
{
	if (xcr0 & XSTATE_PKRU)
		return fpu_pkru_offset() + XSAVE_PKRU_BYTES;
	return XSAVE_YMM_OFFSET + (xcr0 & XSTATE_AVX ? XSAVE_YMM_BYTES : 0);
}

static uint32_t compacted_bytes(uint64_t xcr0)
{
	return XSAVE_YMM_OFFSET + (xcr0 & XSTATE_AVX ? XSAVE_YMM_BYTES : 0) +
	       (xcr0 & XSTATE_PKRU ? XSAVE_PKRU_BYTES : 0);
}

/* A component that XCR0 turns on. */
static void append_component(struct vcpu_cpuid *list, uint32_t component, uint32_t size_bytes,
			     uint32_t offset)
{
	struct kvm_cpuid_entry2 *entry = append(list, 0xd, component);

	entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	entry->eax = size_bytes;
	entry->ebx = offset;
}

static void append_xsave(struct vcpu_cpuid *list)
{
	uint64_t xcr0 = cpuid_supported_xcr0();
	struct kvm_cpuid_entry2 *entry = append(list, 0xd, 0);

	entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	entry->eax = (uint32_t)xcr0;
	entry->ebx = entry->ecx = xsave_bytes(xcr0);
	entry = append_host(list, 0xd, 1);
	entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	entry->eax &= FD_EAX;
	entry->ebx = entry->eax & FD_XSAVEC ? compacted_bytes(xcr0) : 0;
	entry->ecx = entry->edx = 0;
	if (xcr0 & XSTATE_AVX)
		append_component(list, XSAVE_YMM_COMPONENT, XSAVE_YMM_BYTES, XSAVE_YMM_OFFSET);
	if (xcr0 & XSTATE_PKRU)
		append_component(list, XSAVE_PKRU_COMPONENT, XSAVE_PKRU_BYTES, fpu_pkru_offset());
}

/* What x86-64-v3 has of YMM registers, as far as the machine has it: the bits of two leaves. */
static void offer_avx(struct kvm_cpuid_entry2 *leaf1, struct kvm_cpuid_entry2 *leaf7)
{
	leaf1->ecx |= (has(FEATURE_AVX) ? F1_AVX : 0) | (has(FEATURE_FMA) ? F1_FMA : 0) |
		      (has(FEATURE_F16C) ? F1_F16C : 0);
	leaf7->ebx |= has(FEATURE_AVX2) ? F7_AVX2 : 0;
}

static void append_basic(struct vcpu_cpuid *list)
{
	struct kvm_cpuid_entry2 *entry = append_host(list, 0, 0), *leaf1;

	entry->eax = MAX_BASIC_LEAF;
	leaf1 = entry = append_host(list, 1, 0);
	entry->ebx = 8 << 8; /* CLFLUSH line */
	entry->ecx = F1_ECX;
	entry->edx = F1_EDX;
	if (!cpuid_host_is_amd()) {
		for (uint32_t i = 0; i < 8; i++) {
			entry = append_host(list, 4, i);
			entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
			if (!(entry->eax & 0x1f))
				break;
		}
	}
	entry = append(list, 6, 0);
	entry->eax = BIT(2); /* the APIC timer never stops */
	entry = append(list, 7, 0);
	entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	entry->ebx = F7_EBX;
	entry->ecx = F7_ECX | (cpuid_supported_xcr0() & XSTATE_PKRU ? F7_PKU : 0);
	entry->edx = F7_EDX;
	offer_avx(leaf1, entry);
	for (uint32_t i = 0; i < 2; i++) {
		entry = append(list, 0xb, i);
		entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		entry->ecx = i;
	}
	append_xsave(list);
}

static void append_kvm(struct vcpu_cpuid *list)
{
	struct kvm_cpuid_entry2 *entry = append(list, KVM_CPUID_SIGNATURE, 0);

	entry->eax = LEAF_KVM_FEATURES;
	memcpy(&entry->ebx, &pv_signature[0], 4);
	memcpy(&entry->ecx, &pv_signature[4], 4);
	memcpy(&entry->edx, &pv_signature[8], 4);
	entry = append(list, LEAF_KVM_FEATURES, 0);
	entry->eax = KVM_FEATURES;
	if (steal_time_is_offered())
		entry->eax |= BIT(KVM_FEATURE_STEAL_TIME);
}

/* AMD's virtualisation, on any vendor's machine: see docs/decisions/0007-svm-on-any-machine.md. */
static void append_svm(struct vcpu_cpuid *list)
{
	struct kvm_cpuid_entry2 *entry = append(list, LEAF_SVM, 0);

	entry->eax = 1; /* revision */
	entry->ebx = SVM_ASIDS;
	entry->edx = system_has_tdp() ? SVM_FEATURES : SVM_FEATURES & ~SVM_CPUID_NPT;
	if (cpuid_host_is_amd() && !params_get_bool("kvm_amd.vgif"))
		entry->edx &= ~SVM_CPUID_V_GIF;
}

/* What CPUID says; no fewer than every 64-bit processor has. */
static uint32_t phys_bits(void)
{
	long bits = params_get_int("kvm.quire_phys_bits");

	return bits < 36 ? 36 : (uint32_t)bits;
}

static void append_extended(struct vcpu_cpuid *list)
{
	struct kvm_cpuid_entry2 *entry = append_host(list, 0x80000000, 0);
	bool nested = nested_is_offered();

	entry->eax = nested ? LEAF_SVM : MAX_EXTENDED_LEAF;
	entry = append_host(list, 0x80000001, 0);
	entry->ebx = 0;
	entry->ecx = FX_ECX | (nested ? FX_SVM : 0);
	entry->edx = FX_EDX;
	if (cpuid_host_is_amd())
		entry->edx |= F1_EDX & F1_EDX_REPEATED;
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		append_host(list, leaf, 0);
	append(list, 0x80000007, 0);
	entry = append(list, 0x80000008, 0);
	/* Linear addresses have 57 bits, as with LA57. A second stage reaches as far as a guest. */
	entry->eax = phys_bits() | 57 << 8 | (system_has_tdp() ? phys_bits() << 16 : 0);
	if (nested)
		append_svm(list);
}

static long copy_list_out(const struct kvm_cpuid_entry2 *entries, uint32_t count,
			  struct ioctl_call *call)
{
	struct kvm_cpuid2 *header = call->data;

	if (header->nent < count)
		return -E2BIG;
	if (user_copy_out(call->argument + sizeof(*header), entries, count * sizeof(*entries)))
		return -EFAULT;
	header->nent = count;
	return 0;
}

void cpuid_supported(struct vcpu_cpuid *list)
{
	list->count = 0;
	append_basic(list);
	append_kvm(list);
	append_extended(list);
}

long system_get_supported_cpuid(struct ioctl_call *call)
{
	struct vcpu_cpuid *list = process_heap_alloc(sizeof(*list));
	long result;

	if (!list)
		return -ENOMEM;
	cpuid_supported(list);
	result = copy_list_out(list->entries, list->count, call);
	process_heap_free(list);
	return result;
}

/* KVM wants room that is clean, of this call alone: the entries may get a meaning one day. */
static bool padding_is_zero(const struct ioctl_call *call, uint32_t count)
{
	uint64_t at = call->argument + sizeof(struct kvm_cpuid2);
	struct kvm_cpuid_entry2 entry;

	for (uint32_t i = 0; i < count; i++, at += sizeof(entry)) {
		if (user_copy_in(&entry, at, sizeof(entry)))
			return false;
		if (entry.padding[0] || entry.padding[1] || entry.padding[2])
			return false;
	}
	return true;
}

/* What KVM's emulator executes on a processor without it: MOVBE, and RDPID where there is RDTSCP.
 */
long system_get_emulated_cpuid(struct ioctl_call *call)
{
	const struct kvm_cpuid2 *header = call->data;
	uint32_t room = header->nent < VCPU_MAX_CPUID ? header->nent : VCPU_MAX_CPUID;
	struct kvm_cpuid_entry2 entries[3] = {
	    {.function = 0, .eax = 7},
	    {.function = 1, .ecx = F1_MOVBE},
	    {.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = F7_RDPID},
	};

	if (room && !padding_is_zero(call, room))
		return -EINVAL;
	return copy_list_out(entries, 3, call);
}

static const struct kvm_cpuid_entry2 *list_find(const struct vcpu_cpuid *list, uint32_t leaf,
						uint32_t subleaf)
{
	for (uint32_t i = 0; i < list->count; i++) {
		const struct kvm_cpuid_entry2 *entry = &list->entries[i];

		if (entry->function == leaf &&
		    (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == subleaf))
			return entry;
	}
	return NULL;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
	return list_find(&vcpu->cpuid, leaf, subleaf);
}

uint32_t cpuid_register(const struct vcpu *vcpu, uint32_t leaf, enum cpuid_register which)
{
	const struct kvm_cpuid_entry2 *entry = cpuid_find(vcpu, leaf, 0);

	if (!entry)
		return 0;
	switch (which) {
	case CPUID_EAX:
		return entry->eax;
	case CPUID_EBX:
		return entry->ebx;
	case CPUID_ECX:
		return entry->ecx;
	default:
		return entry->edx;
	}
}

uint32_t cpuid_phys_bits(const struct vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *entry;

	if (cpuid_register(vcpu, 0x80000000, CPUID_EAX) < 0x80000008)
		return 36;
	entry = cpuid_find(vcpu, 0x80000008, 0);
	return entry && (entry->eax & 0xff) < 64 ? entry->eax & 0xff : 36;
}

uint64_t cpuid_efer_bits(const struct vcpu *vcpu)
{
	uint32_t features = cpuid_register(vcpu, 0x80000001, CPUID_EDX);
	uint64_t bits = EFER_SCE;

	if (features >> 29 & 1)
		bits |= EFER_LME | EFER_LMA;
	if (features >> 20 & 1)
		bits |= EFER_NXE;
	if (cpuid_register(vcpu, 0x80000001, CPUID_ECX) & FX_SVM)
		bits |= EFER_SVME;
	return bits;
}

/* The leaves that may begin a hypervisor's. */
#define PV_BASE_STEP 0x100u
#define PV_BASE_END 0x40010000u
static bool is_pv_base(const struct kvm_cpuid_entry2 *entry)
{
	uint32_t words[3] = {entry->ebx, entry->ecx, entry->edx};

	return entry->function >= KVM_CPUID_SIGNATURE && entry->function < PV_BASE_END &&
	       entry->function % PV_BASE_STEP == 0 && !memcmp(words, pv_signature, sizeof(words));
}

uint32_t cpuid_pv_leaf(const struct vcpu *vcpu)
{
	uint32_t base = 0;

	for (uint32_t i = 0; i < vcpu->cpuid.count; i++) {
		const struct kvm_cpuid_entry2 *entry = &vcpu->cpuid.entries[i];

		if (is_pv_base(entry) && (!base || entry->function < base))
			base = entry->function;
	}
	return base ? base + 1 : 0;
}

/* A guest whose HLT does not exit is woken by no kick. */
static bool loses_unhalt(const struct vcpu *vcpu, uint32_t leaf)
{
	return (atomic_load(&vcpu->vm->settings.disabled_exits) & KVM_X86_DISABLE_EXITS_HLT) &&
	       leaf == cpuid_pv_leaf(vcpu);
}

/* What the vCPU's own state says in place of the client. */
static void patch(struct vcpu *vcpu, struct kvm_cpuid_entry2 *entry)
{
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	bool osxsave = (state->cr4 & CR4_OSXSAVE) != 0;

	if (entry->function == 1) {
		entry->ecx &= ~F1_OSXSAVE;
		if (osxsave && (entry->ecx & F1_XSAVE))
			entry->ecx |= F1_OSXSAVE;
		if (atomic_load(&vcpu->vm->settings.disabled_quirks) &
		    KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) {
			entry->ecx &= ~F1_MWAIT;
			if (vcpu->msrs.misc_enable & MISC_ENABLE_MWAIT)
				entry->ecx |= F1_MWAIT;
		}
		entry->edx &= ~F1_APIC;
		if (lapic_get_base(vcpu) & APIC_BASE_ENABLE)
			entry->edx |= F1_APIC;
	} else if (entry->function == 7 && entry->index == 0) {
		entry->ecx &= ~F7_OSPKE;
		if ((state->cr4 & CR4_PKE) && (entry->ecx & F7_PKU))
			entry->ecx |= F7_OSPKE;
	} else if (entry->function == 0xd && entry->index == 0) {
		entry->ebx = xsave_bytes(state->xcr0);
	} else if (entry->function == 0xd && entry->index == 1) {
		if (entry->eax & FD_XSAVEC)
			entry->ebx = compacted_bytes(state->xcr0);
	} else if (entry->function > KVM_CPUID_SIGNATURE && entry->function < PV_BASE_END &&
		   loses_unhalt(vcpu, entry->function)) {
		entry->eax &= ~BIT(KVM_FEATURE_PV_UNHALT);
	}
}

/*
 * Past the last leaf an Intel processor answers with its highest basic leaf; others with zeros.
 * The vendor is the list's.
 */
static const struct kvm_cpuid_entry2 *find_out_of_range(const struct vcpu_cpuid *list,
							uint32_t leaf, uint32_t subleaf)
{
	const struct kvm_cpuid_entry2 *basic = list_find(list, 0, 0), *class;

	if (!basic || basic->ebx == 0x68747541 || basic->ebx == 0x6f677948)
		return NULL;
	if (leaf >> 28 == 4)
		class = list_find(list, leaf & 0xffffff00, 0);
	else
		class = list_find(list, leaf & 0x80000000, 0);
	if (class && leaf <= class->eax)
		return NULL;
	return list_find(list, basic->eax, subleaf);
}

bool cpuid_list_query(const struct vcpu_cpuid *list, uint32_t leaf, uint32_t subleaf,
		      struct kvm_cpuid_entry2 *entry)
{
	const struct kvm_cpuid_entry2 *found = list_find(list, leaf, subleaf);

	memset(entry, 0, sizeof(*entry));
	if (!found)
		found = find_out_of_range(list, leaf, subleaf);
	if (found) {
		*entry = *found;
		return true;
	}
	if (leaf == 0xb || leaf == 0x1f) {
		/* Past the last level: the level asked for, and the APIC id of level 1. */
		found = list_find(list, leaf, 1);
		if (found) {
			entry->ecx = subleaf & 0xff;
			entry->edx = found->edx;
		}
	}
	return false;
}

void cpuid_query(struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	struct kvm_cpuid_entry2 entry;

	if (cpuid_list_query(&vcpu->cpuid, leaf, subleaf, &entry))
		patch(vcpu, &entry);
	out[0] = entry.eax;
	out[1] = entry.ebx;
	out[2] = entry.ecx;
	out[3] = entry.edx;
}

static bool entries_valid(const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t width = entries[i].eax >> 8 & 0xff;

		if (entries[i].function == 0x80000008 && width && width != 48 && width != 57)
			return false;
	}
	return true;
}

/* Once the guest has run its CPUID is fixed, but for what follows the vCPU's state. */
static bool entries_same(struct vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
	if (count != vcpu->cpuid.count)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		struct kvm_cpuid_entry2 a = entries[i], b = vcpu->cpuid.entries[i];

		patch(vcpu, &a);
		patch(vcpu, &b);
		/* All but the padding: KVM does not read it. */
		if (memcmp(&a, &b, offsetof(struct kvm_cpuid_entry2, padding)))
			return false;
	}
	return true;
}

static long set_entries(struct vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
	if (vcpu->has_run)
		return entries_same(vcpu, entries, count) ? 0 : -EINVAL;
	if (!entries_valid(entries, count))
		return -EINVAL;
	memcpy(vcpu->cpuid.entries, entries, count * sizeof(*entries));
	vcpu->cpuid.count = count;
	lapic_cpuid_changed(vcpu);
	return 0;
}

long vcpu_set_cpuid2(struct ioctl_call *call)
{
	const struct kvm_cpuid2 *header = call->data;
	struct kvm_cpuid_entry2 *entries;
	size_t size_bytes = header->nent * sizeof(*entries);
	long result = -EFAULT;

	if (header->nent > VCPU_MAX_CPUID)
		return -E2BIG;
	entries = process_heap_alloc(size_bytes + 1);
	if (!entries)
		return -ENOMEM;
	if (!user_copy_in(entries, call->argument + sizeof(*header), size_bytes))
		result = set_entries(call->object, entries, header->nent);
	process_heap_free(entries);
	return result;
}

long vcpu_set_cpuid(struct ioctl_call *call)
{
	const struct kvm_cpuid *header = call->data;
	struct vcpu_cpuid *list;
	long result = 0;

	if (header->nent > VCPU_MAX_CPUID)
		return -E2BIG;
	list = process_heap_alloc(sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (uint32_t i = 0; i < header->nent && !result; i++) {
		struct kvm_cpuid_entry old;
		struct kvm_cpuid_entry2 *entry;

		if (user_copy_in(&old, call->argument + sizeof(*header) + i * sizeof(old),
				 sizeof(old))) {
			result = -EFAULT;
			break;
		}
		entry = append(list, old.function, 0);
		entry->eax = old.eax;
		entry->ebx = old.ebx;
		entry->ecx = old.ecx;
		entry->edx = old.edx;
	}
	if (!result)
		result = set_entries(call->object, list->entries, list->count);
	process_heap_free(list);
	return result;
}

long vcpu_get_cpuid2(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct vcpu_cpuid *list = process_heap_alloc(sizeof(*list));
	long result;

	if (!list)
		return -ENOMEM;
	list->count = vcpu->cpuid.count;
	memcpy(list->entries, vcpu->cpuid.entries, list->count * sizeof(list->entries[0]));
	for (uint32_t i = 0; i < list->count; i++)
		patch(vcpu, &list->entries[i]);
	result = copy_list_out(list->entries, list->count, call);
	process_heap_free(list);
	return result;
}
