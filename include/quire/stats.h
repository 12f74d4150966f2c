/* Counters of the memory subsystem, with KVM's names. */
#ifndef QUIRE_STATS_H
#define QUIRE_STATS_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;
struct quire_vcpu;

/* KVM's kinds of statistics, with the numbers of its UAPI. */
enum quire_stat_kind { QUIRE_STAT_CUMULATIVE = 0, QUIRE_STAT_INSTANT = 1, QUIRE_STAT_PEAK = 2 };

/* name, kind: counters of a VM, in KVM's order. */
#define QUIRE_VM_STATS(X)                                   \
	X(remote_tlb_flush, QUIRE_STAT_CUMULATIVE)          \
	X(remote_tlb_flush_requests, QUIRE_STAT_CUMULATIVE) \
	X(mmu_shadow_zapped, QUIRE_STAT_CUMULATIVE)         \
	X(mmu_pte_write, QUIRE_STAT_CUMULATIVE)             \
	X(mmu_pde_zapped, QUIRE_STAT_CUMULATIVE)            \
	X(mmu_flooded, QUIRE_STAT_CUMULATIVE)               \
	X(mmu_recycled, QUIRE_STAT_CUMULATIVE)              \
	X(mmu_cache_miss, QUIRE_STAT_CUMULATIVE)            \
	X(mmu_unsync, QUIRE_STAT_INSTANT)                   \
	X(mmu_shadow_pages, QUIRE_STAT_INSTANT)             \
	X(pages_4k, QUIRE_STAT_INSTANT)                     \
	X(pages_2m, QUIRE_STAT_INSTANT)                     \
	X(pages_1g, QUIRE_STAT_INSTANT)                     \
	X(nx_lpage_splits, QUIRE_STAT_INSTANT)              \
	X(max_mmu_rmap_size, QUIRE_STAT_PEAK)               \
	X(max_mmu_page_hash_collisions, QUIRE_STAT_PEAK)

/* Counters of a vCPU that the library keeps; the frontend adds those of its own. */
#define QUIRE_VCPU_STATS(X)                            \
	X(pf_taken, QUIRE_STAT_CUMULATIVE)             \
	X(pf_fixed, QUIRE_STAT_CUMULATIVE)             \
	X(pf_emulate, QUIRE_STAT_CUMULATIVE)           \
	X(pf_spurious, QUIRE_STAT_CUMULATIVE)          \
	X(pf_fast, QUIRE_STAT_CUMULATIVE)              \
	X(pf_mmio_spte_created, QUIRE_STAT_CUMULATIVE) \
	X(pf_guest, QUIRE_STAT_CUMULATIVE)             \
	X(tlb_flush, QUIRE_STAT_CUMULATIVE)            \
	X(invlpg, QUIRE_STAT_CUMULATIVE)

#define QUIRE_STAT_ID(name, kind) QUIRE_VM_STAT_##name,
enum quire_vm_stat { QUIRE_VM_STATS(QUIRE_STAT_ID) QUIRE_VM_STAT_COUNT };
#undef QUIRE_STAT_ID
#define QUIRE_STAT_ID(name, kind) QUIRE_VCPU_STAT_##name,
enum quire_vcpu_stat { QUIRE_VCPU_STATS(QUIRE_STAT_ID) QUIRE_VCPU_STAT_COUNT };
#undef QUIRE_STAT_ID

/*
 * One counter, sampled: two calls need not fit together. Any thread, any lock; never sleeps. A sum
 * of several words may be off by what runs meanwhile, and is right and never negative when nothing
 * runs.
 */
QUIRE_API uint64_t quire_vm_stat(const struct quire_vm *vm, enum quire_vm_stat which);
QUIRE_API uint64_t quire_vcpu_stat(const struct quire_vcpu *vcpu, enum quire_vcpu_stat which);

#ifdef __cplusplus
}
#endif

#endif
