/* Dirty logging: which pages the guest wrote, as a bitmap a slot or as a ring a vCPU. */
#ifndef QUIRE_DIRTY_H
#define QUIRE_DIRTY_H

#include <quire/types.h>

struct quire_vm;
struct quire_vcpu;

/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: 0, 1 (ENABLE) or 3 (and INITIALLY_SET); else -EINVAL. */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_set_manual_protect(struct quire_vm *vm, uint64_t flags);

/*
 * KVM_GET_DIRTY_LOG. Copies round_up(npages, 64) / 8 bytes with @copy_out (0 or -EFAULT; offset
 * and size in bytes, multiples of 8). Errors in order: -ENXIO (ring in use), -EINVAL (slot),
 * -ENOENT (no slot or no log), -EFAULT. Takes slots_lock.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_get_dirty_log(
    struct quire_vm *vm, uint32_t slot,
    int (*copy_out)(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes),
    void *ctx);

/* A request of KVM_CLEAR_DIRTY_LOG. */
struct quire_clear_log {
	uint32_t slot;
	uint32_t npages;
	uint64_t first_page;
	int (*copy_in)(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes);
	void *ctx;
};

/* Clear the bits given and arm their pages again. Errors as in contract U-135. */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_clear_dirty_log(struct quire_vm *vm,
							const struct quire_clear_log *request);

#endif
