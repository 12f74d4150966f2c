/* Statistics files: KVM_GET_STATS_FD of VMs and vCPUs. */
#ifndef QUIRE_FRONTEND_REPORT_STATS_FILE_H
#define QUIRE_FRONTEND_REPORT_STATS_FILE_H

#include <stdint.h>

struct ioctl_call;
struct vcpu;
struct vm;

/* A descriptor to read, or -errno. */
long vm_get_stats_fd(struct ioctl_call *call);
long vcpu_get_stats_fd(struct ioctl_call *call);

/* Each counter as the files name it, sampled. */
typedef void (*stats_visit_fn)(void *ctx, const char *name, uint64_t value);
void stats_visit_vm(const struct vm *vm, stats_visit_fn visit, void *ctx);
void stats_visit_vcpu(struct vcpu *vcpu, stats_visit_fn visit, void *ctx);

#endif
