/* CPUID: what the software CPU can do, and what the client told the guest. */
#ifndef QUIRE_FRONTEND_STATE_CPUID_H
#define QUIRE_FRONTEND_STATE_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/uapi.h"

struct ioctl_call;
struct vcpu;
struct vcpu_cpuid;

#define CPUID_MAXPHYADDR 48u

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* What KVM_GET_SUPPORTED_CPUID says. */
void cpuid_supported(struct vcpu_cpuid *list);
/* The components of XCR0 that some guest may have. */
uint64_t cpuid_supported_xcr0(void);
/*
 * What a processor that @list describes answers. False: no entry does, as past the last leaf of
 * AMD's; @entry is then zeros, but for the levels of a topology.
 */
bool cpuid_list_query(const struct vcpu_cpuid *list, uint32_t leaf, uint32_t subleaf,
		      struct kvm_cpuid_entry2 *entry);
/* The CPUID instruction of @vcpu. */
void cpuid_query(struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* The entry that answers, NULL when there is none. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf);
/* A register of leaf @leaf, subleaf 0, of what the client set; 0 without such a leaf. */
uint32_t cpuid_register(const struct vcpu *vcpu, uint32_t leaf, enum cpuid_register which);

/* Is the machine's own processor AMD's, or one of its kin? */
bool cpuid_host_is_amd(void);
/* The leaf of KVM's paravirtual features, by the signature before it; 0: the guest sees no KVM. */
uint32_t cpuid_pv_leaf(const struct vcpu *vcpu);
/* How wide the guest's physical addresses are. */
uint32_t cpuid_phys_bits(const struct vcpu *vcpu);
/* The bits of EFER that come with the guest's features. */
uint64_t cpuid_efer_bits(const struct vcpu *vcpu);

long system_get_supported_cpuid(struct ioctl_call *call);
long system_get_emulated_cpuid(struct ioctl_call *call);
long vcpu_set_cpuid(struct ioctl_call *call);
long vcpu_set_cpuid2(struct ioctl_call *call);
long vcpu_get_cpuid2(struct ioctl_call *call);

#endif
