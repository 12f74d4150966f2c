/* Making a vCPU, and its doorbell. */
#include "src/vm/vcpu.h"

#include <errno.h>

#include "src/vm/locks.h"

#define VCPU_IDS 4096u

/* Put @vcpu at the end of the VM's list, unless its id is there. */
static int list_add(struct quire_vm *vm, struct quire_vcpu *vcpu) REQUIRES(&vm->vcpus_lock)
{
	struct quire_vcpu **link = &vm->vcpus;

	CHECK(lock_is_held(&vm->vcpus_lock, LOCK_EXCLUSIVE));
	for (; *link; link = &(*link)->next)
		if ((*link)->id == vcpu->id)
			return -EEXIST;
	CHECK(!vcpu->next);
	*link = vcpu;
	return 0;
}

int quire_vcpu_create(struct quire_vm *vm, uint32_t id, void *cookie, struct quire_vcpu **result)
{
	struct quire_vcpu *vcpu;
	int err;

	if (!result)
		return -EINVAL;
	if (id >= VCPU_IDS)
		return -EINVAL;
	locks_assert_none();
	vcpu = vm_alloc(vm, sizeof(*vcpu));
	if (!vcpu)
		return -ENOMEM;
	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->mode.cookie = cookie;
	mutex_lock(&vm->vcpus_lock);
	err = list_add(vm, vcpu);
	mutex_unlock(&vm->vcpus_lock);
	if (err) {
		vm_free(vm, vcpu, sizeof(*vcpu));
		return err;
	}
	quire_vm_get(vm);
	biglock_line_add(&vm->mmu_lock, &vcpu->line);
	flush_domain_add(&vm->flush, &vcpu->mode);
	CHECK(atomic_load_relaxed_u32(&vm->refs) > 1);
	*result = vcpu;
	return 0;
}

void quire_vcpu_destroy(struct quire_vcpu *vcpu)
{
	struct quire_vm *vm = vcpu->vm;
	struct quire_vcpu **link;

	CHECK(!guest_mode_is_on(&vcpu->mode));
	CHECK(atomic_load_relaxed_u32(&vm->refs));
	locks_assert_none();
	mutex_lock(&vm->vcpus_lock);
	for (link = &vm->vcpus; *link != vcpu; link = &(*link)->next)
		;
	*link = vcpu->next;
	mutex_unlock(&vm->vcpus_lock);
	/* Its mappings stay, so its counts go to the VM. */
	for (u32 level = 0; level < ARRAY_LEN(vcpu->leaves); level++) {
		u64 leaves = atomic_load_relaxed_u64(&vcpu->leaves[level]);

		atomic_store_relaxed_u64(&vcpu->leaves[level], 0);
		atomic_add_relaxed_u64(&vm->leaves[level], leaves);
	}
	flush_domain_remove(&vm->flush, &vcpu->mode);
	biglock_line_remove(&vm->mmu_lock, &vcpu->line);
	table_cache_drain(&vcpu->tables, &vm->arena);
	vm_free(vm, vcpu, sizeof(*vcpu));
	quire_vm_put(vm);
}

uint32_t quire_vcpu_id(const struct quire_vcpu *vcpu)
{
	return vcpu->id;
}

const uint64_t *quire_vcpu_doorbell(const struct quire_vcpu *vcpu)
{
	return &vcpu->mode.doorbell;
}

void quire_vcpu_request(struct quire_vcpu *vcpu, uint64_t request)
{
	guest_mode_request(&vcpu->vm->flush, &vcpu->mode, request);
}

uint64_t quire_vcpu_take_requests(struct quire_vcpu *vcpu, uint64_t requests)
{
	if (!(atomic_load_relaxed_u64(&vcpu->mode.doorbell) & requests))
		return 0;
	return atomic_fetch_and_u64(&vcpu->mode.doorbell, ~requests) & requests;
}

uint64_t quire_vcpu_stat(const struct quire_vcpu *vcpu, enum quire_vcpu_stat which)
{
	return atomic_load_relaxed_u64(&vcpu->stats[which]);
}

/* Leaves of all vCPUs and the VM. The lock keeps the vCPUs alive. */
static u64 leaves_at(struct quire_vm *vm, u32 level)
{
	u64 sum = 0;

	mutex_lock(&vm->flush.lock);
	for (struct guest_mode *mode = vm->flush.members; mode; mode = mode->next) {
		struct quire_vcpu *vcpu = container_of(mode, struct quire_vcpu, mode);

		sum += atomic_load_relaxed_u64(&vcpu->leaves[level]);
	}
	sum += atomic_load_relaxed_u64(&vm->leaves[level]);
	mutex_unlock(&vm->flush.lock);
	return (s64)sum < 0 ? 0 : sum;
}

uint64_t quire_vm_stat(const struct quire_vm *vm, enum quire_vm_stat which)
{
	struct quire_vm *live = (struct quire_vm *)vm;

	switch (which) {
	case QUIRE_VM_STAT_remote_tlb_flush:
		return atomic_load_relaxed_u64(&vm->flush.flushes);
	case QUIRE_VM_STAT_remote_tlb_flush_requests:
		return atomic_load_relaxed_u64(&vm->flush.requests);
	case QUIRE_VM_STAT_pages_4k:
		return leaves_at(live, QUIRE_LEVEL_4K);
	case QUIRE_VM_STAT_pages_2m:
		return leaves_at(live, QUIRE_LEVEL_2M);
	case QUIRE_VM_STAT_pages_1g:
		return leaves_at(live, QUIRE_LEVEL_1G);
	default:
		return atomic_load_relaxed_u64(&vm->stats[which]);
	}
}
