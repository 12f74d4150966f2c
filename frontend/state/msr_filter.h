/* Which MSRs a guest may touch, and which of its accesses the client answers. */
#ifndef QUIRE_FRONTEND_STATE_MSR_FILTER_H
#define QUIRE_FRONTEND_STATE_MSR_FILTER_H

#include <stdint.h>

#include "frontend/uapi.h"
#include "hosts/process/lock.h"

struct ioctl_call;
struct vcpu;
struct vm;

enum msr_access { MSR_ACCESS_READ = KVM_MSR_FILTER_READ, MSR_ACCESS_WRITE = KVM_MSR_FILTER_WRITE };

struct msr_rules; /* the client's ranges; never changed once in force */

struct msr_filter {
	struct process_lock lock; /* innermost */
	struct msr_rules *rules;  /* NULL: everything is allowed */
};

void msr_filter_init(struct msr_filter *filter);
void msr_filter_destroy(struct msr_filter *filter);
/* KVM_X86_SET_MSR_FILTER. Running vCPUs heed it at their next MSR access. */
long vm_set_msr_filter(struct ioctl_call *call);

/*
 * A guest's RDMSR or WRMSR. 0, -EPERM when it is filtered, -ENOENT when there is no such MSR, or
 * -EINVAL when it does not take @value.
 */
int msr_guest_access(struct vcpu *vcpu, enum msr_access access, uint32_t index, uint64_t *value);
/* Must every MSR of the VM pass through msr_guest_access()? Else the CPUs keep their own. */
int msr_filter_sees_all(const struct vm *vm);

#endif
