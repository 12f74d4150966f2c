/* Trace events, with KVM's names and fields. */
#ifndef QUIRE_TRACE_H
#define QUIRE_TRACE_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * group, name, number of fields, fields. A field is NAME/KIND: x hexadecimal, u unsigned, d signed.
 * A kvm_exit's reason is the software CPU's enum cpu_exit; an entry of a table is a word of the
 * format in use. Shadow pages are not counted as roots: their root_count is 0.
 */
#define QUIRE_TRACE_EVENTS(X)                                                                   \
	X(kvmmmu, kvm_mmu_split_huge_page, 4, "gfn/x spte/x level/d errno/d")                   \
	X(kvmmmu, kvm_tdp_mmu_spte_changed, 5, "as_id/d gfn/x level/d old_spte/x new_spte/x")   \
	X(kvmmmu, fast_page_fault, 7,                                                           \
	  "vcpu_id/d cr2_or_gpa/x error_code/x sptep/x old_spte/x new_spte/x ret/d")            \
	X(kvmmmu, kvm_mmu_set_spte, 7, "gfn/x spte/x sptep/x level/d r/d x/d u/d")              \
	X(kvmmmu, kvm_mmu_spte_requested, 3, "gfn/x pfn/x level/d")                             \
	X(kvmmmu, mark_mmio_spte, 4, "sptep/x gfn/x access/x gen/x")                            \
	X(kvmmmu, handle_mmio_page_fault, 3, "addr/x gfn/x access/x")                           \
	X(kvmmmu, check_mmio_spte, 3, "kvm_gen/x spte_gen/x spte/x")                            \
	X(kvmmmu, kvm_mmu_pagetable_walk, 2, "addr/x pferr/x")                                  \
	X(kvmmmu, kvm_mmu_paging_element, 2, "pte/x level/d")                                   \
	X(kvmmmu, kvm_mmu_set_accessed_bit, 1, "gpa/x")                                         \
	X(kvmmmu, kvm_mmu_set_dirty_bit, 1, "gpa/x")                                            \
	X(kvmmmu, kvm_mmu_walker_error, 1, "pferr/x")                                           \
	X(kvmmmu, kvm_mmu_get_page, 6,                                                          \
	  "mmu_valid_gen/u gfn/x role/x root_count/u unsync/u created/u")                       \
	X(kvmmmu, kvm_mmu_sync_page, 5, "mmu_valid_gen/u gfn/x role/x root_count/u unsync/u")   \
	X(kvmmmu, kvm_mmu_unsync_page, 5, "mmu_valid_gen/u gfn/x role/x root_count/u unsync/u") \
	X(kvmmmu, kvm_mmu_prepare_zap_page, 5,                                                  \
	  "mmu_valid_gen/u gfn/x role/x root_count/u unsync/u")                                 \
	X(kvmmmu, kvm_mmu_zap_all_fast, 2, "mmu_valid_gen/u mmu_used_pages/u")                  \
	X(kvm, kvm_page_fault, 4, "vcpu_id/u rip/x address/x error_code/x")                     \
	X(kvm, kvm_try_async_get_page, 2, "gva/x gfn/x")                                        \
	X(kvm, kvm_async_pf_repeated_fault, 2, "gva/x gfn/x")                                   \
	X(kvm, kvm_async_pf_not_present, 2, "token/x gva/x")                                    \
	X(kvm, kvm_async_pf_ready, 2, "token/x gva/x")                                          \
	X(kvm, kvm_async_pf_completed, 2, "gva/x address/x")                                    \
	X(kvm, kvm_unmap_hva_range, 2, "start/x end/x")                                         \
	X(kvm, kvm_age_hva, 2, "start/x end/x")                                                 \
	X(kvm, kvm_test_age_hva, 1, "hva/x")                                                    \
	X(kvm, kvm_vm_set_mem_attributes, 3, "start/x end/x attr/x")                            \
	X(kvm, kvm_dirty_ring_push, 5, "index/u dirty_index/u reset_index/u slot/u offset/x")   \
	X(kvm, kvm_dirty_ring_reset, 3, "index/u dirty_index/u reset_index/u")                  \
	X(kvm, kvm_dirty_ring_exit, 1, "vcpu_id/u")                                             \
	X(kvm, kvm_userspace_exit, 2, "reason/u errno/d")                                       \
	X(kvm, kvm_mmio, 4, "type/u len/u gpa/x val/x")                                         \
	X(kvm, kvm_pio, 5, "rw/u port/x size/u count/u val/x")                                  \
	X(kvm, kvm_entry, 2, "vcpu_id/u rip/x")                                                 \
	X(kvm, kvm_exit, 3, "vcpu_id/u reason/u rip/x")

#define QUIRE_TRACE_ID(group, name, count, fields) QUIRE_TRACE_##name,
enum quire_trace_event { QUIRE_TRACE_EVENTS(QUIRE_TRACE_ID) QUIRE_TRACE_COUNT };
#undef QUIRE_TRACE_ID

#define QUIRE_TRACE_FIELDS_MAX 7

/*
 * Called on the thread of the event, with any lock held and in any section: it must not wait, nor
 * call the library. @args are the event's fields in order.
 */
typedef void (*quire_trace_fn)(enum quire_trace_event event, const uint64_t *args);

/* Record events with @record from now on; NULL: no more. Any thread; @record stays callable. */
QUIRE_API void quire_trace_install(quire_trace_fn record);

#ifdef __cplusplus
}
#endif

#endif
