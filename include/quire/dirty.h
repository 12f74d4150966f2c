/* Dirty logging: which pages the guest wrote, as a bitmap a slot or as a ring a vCPU. */
#ifndef QUIRE_DIRTY_H
#define QUIRE_DIRTY_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;
struct quire_vcpu;

/*
 * Split the huge leaves that map [gpa, gpa + size) of address space @as_id into 4K, for the guest
 * and for nested guests, ahead of a log. One step, of at most 1 GiB and of one slot: the caller
 * goes on behind *@done_bytes, which is above 0 on success, and where there is nothing that can
 * log. Guests run meanwhile and lose no right, so a thread of the client's may do it in the
 * background. A log that starts with eager_page_split off then leaves no split to a vCPU's first
 * write. What is mapped afterwards, or comes back when a log ends, may be huge. 0, or -EIO (dead
 * VM); -EINVAL: an empty, unaligned or wrapping range, or no such address space; -EOPNOTSUPP: the
 * VM is without a TDP MMU (*@done_bytes stays), or the slot has a guest_memfd, which cannot log,
 * for *@done_bytes; -ENOENT: no slot for so many; -ENOMEM: some is still huge. Any thread, out of
 * guest mode, no lock held; takes slots_lock and mmu_lock; may sleep. KVM has no such call: it
 * splits when the log starts.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_split(struct quire_vm *vm, uint32_t as_id, gpa_t gpa,
					      uint64_t size_bytes, uint64_t *done_bytes);

/*
 * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: 0, 1 (ENABLE) or 3 (and INITIALLY_SET); else -EINVAL. It is
 * looked at when a slot begins to log, and at each harvest. No lock held; takes slots_lock, may
 * sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_set_manual_protect(struct quire_vm *vm, uint64_t flags);

/*
 * KVM_GET_DIRTY_LOG. Copies round_up(npages, 64) / 8 bytes with @copy_out (0 or -EFAULT; offset
 * and size in bytes, multiples of 8). Errors in order: -EIO (dead VM), -ENXIO (ring in use),
 * -EINVAL (slot), -ENOENT (no slot or no log), -ENOMEM, -EFAULT: the next call says all of it
 * again. No lock held; takes slots_lock and mmu_lock; @copy_out is called with none; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_get_dirty_log(
    struct quire_vm *vm, uint32_t slot,
    int (*copy_out)(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes),
    void *ctx);

/*
 * A request of KVM_CLEAR_DIRTY_LOG. @copy_in gives bits as quire_vm_get_dirty_log() hands them out;
 * 0 or -EFAULT.
 */
struct quire_clear_log {
	uint32_t slot;
	uint32_t npages;     /* a multiple of 64, or up to the slot's end */
	uint64_t first_page; /* in the slot; a multiple of 64 */
	int (*copy_in)(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes);
	void *ctx;
};

/*
 * Clear the bits given and arm their pages again. Errors in order, with nothing changed: -EIO (dead
 * VM), -ENXIO (ring in use), -EINVAL (slot, first page), -ENOENT (no slot or no log), -EINVAL
 * (range), -ENOMEM, -EFAULT; once more those about ring, slot and range, when the slot has changed
 * during copy_in(). No lock held; takes slots_lock and mmu_lock; copy_in() is called with none; may
 * sleep; returns when no vCPU has an old right to write. (U-135.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_clear_dirty_log(struct quire_vm *vm,
							const struct quire_clear_log *request);

/* An entry of a dirty ring, as the client sees it (struct kvm_dirty_gfn). */
struct quire_ring_entry {
	uint32_t flags;
	uint32_t slot;	 /* address space << 16 | id */
	uint64_t offset; /* gfn - base_gfn of the slot */
};
#define QUIRE_RING_BYTES_MAX (UINT64_C(1) << 20)

/*
 * KVM_CAP_DIRTY_LOG_RING: log into rings of @size_bytes instead of bitmaps. -EINVAL: not a power of
 * two, too small, already set, or vCPUs exist; -E2BIG: above QUIRE_RING_BYTES_MAX. Takes
 * slots_lock and vcpus_lock, before the first vCPU is made. No lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_enable_dirty_ring(struct quire_vm *vm, uint64_t size_bytes);
/* Bytes of each vCPU's ring, 0 when logging into bitmaps. Takes vcpus_lock. */
QUIRE_API uint32_t quire_vm_dirty_ring_bytes(struct quire_vm *vm);
/*
 * Give the new @vcpu, which has not run yet, its ring: zeroed memory of the VM's ring size, which
 * stays the caller's, is mapped by the client, too, and lives as long as the vCPU. -EINVAL when the
 * VM has no rings. Takes vcpus_lock.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vcpu_set_dirty_ring(struct quire_vcpu *vcpu,
							 struct quire_ring_entry *entries);
/*
 * Nonzero: the ring is at its soft limit, and the vCPU must not run (KVM_EXIT_DIRTY_RING_FULL). By
 * the vCPU's thread.
 */
QUIRE_API int quire_vcpu_dirty_ring_is_full(const struct quire_vcpu *vcpu);

/*
 * KVM_RESET_DIRTY_RINGS: take back the entries that the client marked and arm their pages again.
 * Returns how many; -EIO: a dead VM; -EINVAL: without rings. @interrupted (may be NULL) answers
 * nonzero when the caller wants an early return: what was taken until then is armed, and counted.
 * No lock held; takes slots_lock, vcpus_lock and mmu_lock, may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_reset_dirty_rings(struct quire_vm *vm,
							  int (*interrupted)(void));

#ifdef __cplusplus
}
#endif

#endif
