/* Statistics files: KVM_GET_STATS_FD of VMs and vCPUs. */
#ifndef QUIRE_FRONTEND_STATS_FILE_H
#define QUIRE_FRONTEND_STATS_FILE_H

struct ioctl_call;

/* A descriptor to read, or -errno. */
long vm_get_stats_fd(struct ioctl_call *call);
long vcpu_get_stats_fd(struct ioctl_call *call);

#endif
