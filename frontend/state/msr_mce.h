/* Machine checks: the banks' registers, and errors that the client reports to the guest. */
#ifndef QUIRE_FRONTEND_STATE_MSR_MCE_H
#define QUIRE_FRONTEND_STATE_MSR_MCE_H

#include "frontend/state/msr.h"

/* Is @index one of these registers? The other two are called for such alone; results as in msr.h.
 */
int mce_covers(uint32_t index);
int mce_read(const struct vcpu_msrs *msrs, enum msr_origin origin, uint32_t index, uint64_t *value);
int mce_write(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value);

long system_get_mce_cap(struct ioctl_call *call);
long vcpu_setup_mce(struct ioctl_call *call);
long vcpu_set_mce(struct ioctl_call *call);

#endif
