/* Lists of model-specific registers: which there are, which tell features, and many at once. */
#ifndef QUIRE_FRONTEND_STATE_MSR_LISTS_H
#define QUIRE_FRONTEND_STATE_MSR_LISTS_H

#include <stdint.h>

struct ioctl_call;

/* Does KVM_GET_MSR_INDEX_LIST name it? */
int msr_is_saved(uint32_t index);
/* Is it a feature that a vCPU cannot change once it has run? */
int msr_is_fixed_feature(uint32_t index);
/* What there is of a feature's MSR; -ENOENT for another, and *@value is 0. */
int msr_feature(uint32_t index, uint64_t *value);

long system_get_msr_list(struct ioctl_call *call);
long system_get_msr_feature_list(struct ioctl_call *call);
long system_get_msrs(struct ioctl_call *call);
long vcpu_get_msrs(struct ioctl_call *call);
long vcpu_set_msrs(struct ioctl_call *call);

#endif
