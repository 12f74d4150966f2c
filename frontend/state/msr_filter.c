/* Which MSRs a guest may touch, and which of its accesses the client answers. */
#include "frontend/state/msr_filter.h"

#include <errno.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/state/msr.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"

#define X2APIC_FIRST 0x800u
#define X2APIC_LAST 0x8ffu
#define ACCESSES ((uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE))

struct msr_range {
	uint32_t flags; /* enum msr_access */
	uint32_t first, count;
	uint64_t *allowed; /* a bit each */
};

struct msr_rules {
	uint32_t count;
	int is_default_deny;
	struct msr_range range[KVM_MSR_FILTER_MAX_RANGES];
};

static void rules_free(struct msr_rules *rules)
{
	if (!rules)
		return;
	for (uint32_t i = 0; i < rules->count; i++)
		process_heap_free(rules->range[i].allowed);
	process_heap_free(rules);
}

void msr_filter_init(struct msr_filter *filter)
{
	filter->lock = (struct process_lock){0};
	filter->rules = NULL;
}

void msr_filter_destroy(struct msr_filter *filter)
{
	rules_free(filter->rules);
}

static int range_add(struct msr_rules *rules, const struct kvm_msr_filter_range *request)
{
	struct msr_range *range = &rules->range[rules->count];
	uint64_t size_bytes = ((uint64_t)request->nmsrs + 63) / 64 * 8;

	if (!request->nmsrs)
		return 0;
	if (!request->flags || (request->flags & ~ACCESSES))
		return -EINVAL;
	if (size_bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
		return -EINVAL;
	*range = (struct msr_range){request->flags, request->base, request->nmsrs, NULL};
	range->allowed = process_heap_alloc(size_bytes);
	if (!range->allowed)
		return -ENOMEM;
	rules->count++;
	return user_copy_in(range->allowed, (uintptr_t)request->bitmap, size_bytes) ? -EFAULT : 0;
}

static int rules_fill(struct msr_rules *rules, const struct kvm_msr_filter *request)
{
	rules->is_default_deny = (request->flags & KVM_MSR_FILTER_DEFAULT_DENY) != 0;
	for (uint32_t i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		int error = range_add(rules, &request->ranges[i]);

		if (error)
			return error;
	}
	/* Nothing at all would be left. */
	return rules->is_default_deny && !rules->count ? -EINVAL : 0;
}

long vm_set_msr_filter(struct ioctl_call *call)
{
	const struct kvm_msr_filter *request = call->data;
	struct vm *vm = call->object;
	struct msr_rules *rules, *old;
	int error;

	if (request->flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	rules = process_heap_alloc(sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	error = rules_fill(rules, request);
	if (error) {
		rules_free(rules);
		return error;
	}
	process_lock_acquire(&vm->msr_filter.lock);
	old = vm->msr_filter.rules;
	__atomic_store_n(&vm->msr_filter.rules, rules, __ATOMIC_RELEASE);
	process_lock_release(&vm->msr_filter.lock);
	rules_free(old);
	/* Those that run keep some MSRs to themselves until they enter again. */
	for (uint32_t i = 0; i < atomic_load(&vm->vcpu_count); i++)
		vcpu_wake(vm->vcpus[i]);
	return 0;
}

static int rules_allow(const struct msr_rules *rules, enum msr_access access, uint32_t index)
{
	for (uint32_t i = 0; i < rules->count; i++) {
		const struct msr_range *range = &rules->range[i];
		uint32_t bit = index - range->first;

		if (bit < range->count && (range->flags & access))
			return range->allowed[bit / 64] >> bit % 64 & 1;
	}
	return !rules->is_default_deny;
}

static int is_allowed(struct vm *vm, enum msr_access access, uint32_t index)
{
	struct msr_filter *filter = &vm->msr_filter;
	int allowed = 1;

	/* The local APIC's have no filter. */
	if (index >= X2APIC_FIRST && index <= X2APIC_LAST)
		return 1;
	if (!__atomic_load_n(&filter->rules, __ATOMIC_ACQUIRE))
		return 1;
	process_lock_acquire(&filter->lock);
	allowed = rules_allow(filter->rules, access, index);
	process_lock_release(&filter->lock);
	return allowed;
}

int msr_guest_access(struct vcpu *vcpu, enum msr_access access, uint32_t index, uint64_t *value)
{
	if (!is_allowed(vcpu->vm, access, index))
		return -EPERM;
	if (access == MSR_ACCESS_READ)
		return msr_read(vcpu, MSR_FROM_GUEST, index, value);
	return msr_write(vcpu, MSR_FROM_GUEST, index, *value);
}

int msr_filter_sees_all(const struct vm *vm)
{
	return __atomic_load_n(&vm->msr_filter.rules, __ATOMIC_ACQUIRE) != NULL ||
	       (atomic_load(&vm->settings.msr_exits) & KVM_MSR_EXIT_REASON_INVAL);
}
