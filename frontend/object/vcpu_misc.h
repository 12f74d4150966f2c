/* vCPU ioctls that touch no register: signal mask, debugging, prefault, the TPR's accesses. */
#ifndef QUIRE_FRONTEND_OBJECT_VCPU_MISC_H
#define QUIRE_FRONTEND_OBJECT_VCPU_MISC_H

struct ioctl_call;

long vcpu_set_signal_mask(struct ioctl_call *call);
long vcpu_set_guest_debug(struct ioctl_call *call);
long vcpu_pre_fault(struct ioctl_call *call);
long vcpu_tpr_access_reporting(struct ioctl_call *call);
long vcpu_smi(struct ioctl_call *call);
long vcpu_set_vapic_addr(struct ioctl_call *call);

#endif
