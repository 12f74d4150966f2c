/* Trace events, with KVM's names and fields. */
#ifndef QUIRE_TRACE_H
#define QUIRE_TRACE_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * X(group, name, fields) for each event; F(type, name) for each field, with the type and in the
 * order that the kernel's tracefs says for the event (Linux 7.3). A field's value is one word,
 * sign-extended. An entry of a table is a word of the format in use; the software CPU's
 * kvm_exit has the exit codes of AMD's SVM (isa 2). Shadow pages are not counted as roots: their
 * root_count is 0.
 */
#define QUIRE_TRACE_EVENTS(X, F)                                                                   \
	X(kvmmmu, kvm_mmu_split_huge_page, F(u64, gfn) F(u64, spte) F(int, level) F(int, errno))   \
	X(kvmmmu, kvm_tdp_mmu_spte_changed,                                                        \
	  F(u64, gfn) F(u64, old_spte) F(u64, new_spte) F(u8, level) F(u8, as_id))                 \
	X(kvmmmu, fast_page_fault,                                                                 \
	  F(int, vcpu_id) F(gpa_t, cr2_or_gpa) F(u64, error_code) F(u64 *, sptep) F(u64, old_spte) \
	      F(u64, new_spte) F(int, ret))                                                        \
	X(kvmmmu, kvm_mmu_set_spte,                                                                \
	  F(u64, gfn) F(u64, spte) F(u64, sptep) F(u8, level) F(bool, r) F(bool, x)                \
	      F(signed char, u))                                                                   \
	X(kvmmmu, kvm_mmu_spte_requested, F(u64, gfn) F(u64, pfn) F(u8, level) F(u8, access))      \
	X(kvmmmu, mark_mmio_spte,                                                                  \
	  F(void *, sptep) F(gfn_t, gfn) F(unsigned, access) F(unsigned int, gen))                 \
	X(kvmmmu, handle_mmio_page_fault, F(u64, addr) F(gfn_t, gfn) F(unsigned, access))          \
	X(kvmmmu, check_mmio_spte,                                                                 \
	  F(unsigned int, kvm_gen) F(unsigned int, spte_gen) F(u64, spte))                         \
	X(kvmmmu, kvm_mmu_pagetable_walk, F(__u64, addr) F(__u32, pferr))                          \
	X(kvmmmu, kvm_mmu_paging_element, F(__u64, pte) F(__u32, level))                           \
	X(kvmmmu, kvm_mmu_set_accessed_bit, F(__u64, gpa))                                         \
	X(kvmmmu, kvm_mmu_set_dirty_bit, F(__u64, gpa))                                            \
	X(kvmmmu, kvm_mmu_walker_error, F(__u32, pferr))                                           \
	X(kvmmmu, kvm_mmu_get_page,                                                                \
	  F(__u8, mmu_valid_gen) F(__u64, gfn) F(__u32, role) F(__u32, root_count) F(bool, unsync) \
	      F(bool, created))                                                                    \
	X(kvmmmu, kvm_mmu_sync_page,                                                               \
	  F(__u8, mmu_valid_gen) F(__u64, gfn) F(__u32, role) F(__u32, root_count)                 \
	      F(bool, unsync))                                                                     \
	X(kvmmmu, kvm_mmu_unsync_page,                                                             \
	  F(__u8, mmu_valid_gen) F(__u64, gfn) F(__u32, role) F(__u32, root_count)                 \
	      F(bool, unsync))                                                                     \
	X(kvmmmu, kvm_mmu_prepare_zap_page,                                                        \
	  F(__u8, mmu_valid_gen) F(__u64, gfn) F(__u32, role) F(__u32, root_count)                 \
	      F(bool, unsync))                                                                     \
	X(kvmmmu, kvm_mmu_zap_all_fast, F(__u8, mmu_valid_gen) F(unsigned int, mmu_used_pages))    \
	X(kvm, kvm_page_fault,                                                                     \
	  F(unsigned int, vcpu_id) F(unsigned long, guest_rip) F(u64, fault_address)               \
	      F(u64, error_code))                                                                  \
	X(kvm, kvm_try_async_get_page, F(__u64, gva) F(u64, gfn))                                  \
	X(kvm, kvm_async_pf_repeated_fault, F(__u64, gva) F(u64, gfn))                             \
	X(kvm, kvm_async_pf_not_present, F(__u64, token) F(__u64, gva))                            \
	X(kvm, kvm_async_pf_ready, F(__u64, token) F(__u64, gva))                                  \
	X(kvm, kvm_async_pf_completed, F(unsigned long, address) F(u64, gva))                      \
	X(kvm, kvm_unmap_hva_range, F(unsigned long, start) F(unsigned long, end))                 \
	X(kvm, kvm_age_hva, F(unsigned long, start) F(unsigned long, end))                         \
	X(kvm, kvm_test_age_hva, F(unsigned long, hva))                                            \
	X(kvm, kvm_vm_set_mem_attributes, F(gfn_t, start) F(gfn_t, end) F(unsigned long, attr))    \
	X(kvm, kvm_dirty_ring_push,                                                                \
	  F(int, index) F(u32, dirty_index) F(u32, reset_index) F(u32, slot) F(u64, offset))       \
	X(kvm, kvm_dirty_ring_reset, F(int, index) F(u32, dirty_index) F(u32, reset_index))        \
	X(kvm, kvm_dirty_ring_exit, F(int, vcpu_id))                                               \
	X(kvm, kvm_userspace_exit, F(__u32, reason) F(int, errno))                                 \
	X(kvm, kvm_mmio, F(u32, type) F(u32, len) F(u64, gpa) F(u64, val))                         \
	X(kvm, kvm_pio,                                                                            \
	  F(unsigned int, rw) F(unsigned int, port) F(unsigned int, size) F(unsigned int, count)   \
	      F(unsigned int, val))                                                                \
	X(kvm, kvm_entry,                                                                          \
	  F(unsigned int, vcpu_id) F(unsigned long, rip) F(bool, immediate_exit) F(u32, intr_info) \
	      F(u32, error_code))                                                                  \
	X(kvm, kvm_exit,                                                                           \
	  F(unsigned int, exit_reason) F(unsigned long, guest_rip) F(u32, isa) F(u64, info1)       \
	      F(u64, info2) F(u32, intr_info) F(u32, error_code) F(unsigned int, vcpu_id)          \
		  F(u64, requests))                                                                \
	X(kvm, kvm_smm_transition, F(unsigned int, vcpu_id) F(u64, smbase) F(bool, entering))

/* As F it counts the fields: an event has (0 fields). */
#define QUIRE_TRACE_FIELD(type, name) +1

#define QUIRE_TRACE_ID(group, name, fields) QUIRE_TRACE_##name,
enum quire_trace_event { QUIRE_TRACE_EVENTS(QUIRE_TRACE_ID, QUIRE_TRACE_FIELD) QUIRE_TRACE_COUNT };
#undef QUIRE_TRACE_ID

#define QUIRE_TRACE_FIELDS_MAX 9

/*
 * Called on the thread of the event, with any lock held and in any section: it must not wait, nor
 * call the library. @args are the event's fields in order.
 */
typedef void (*quire_trace_fn)(enum quire_trace_event event, const uint64_t *args);

/* Record events with @record from now on; NULL: no more. Any thread; @record stays callable. */
QUIRE_API void quire_trace_install(quire_trace_fn record);

/* What takes time inside the library. Behind it: the value that comes with its end. */
enum quire_timed {
	QUIRE_TIMED_FAULT,    /* quire_vcpu_fault(): what it returns, sign-extended */
	QUIRE_TIMED_MMU_LOCK, /* a VM's mmu_lock, from when it is held exclusively: 0 */
	QUIRE_TIMED_HARVEST,  /* a harvest of a slot's log: how many pages it found */
	QUIRE_TIMED_COUNT
};
enum quire_timed_edge { QUIRE_TIMED_BEGINS, QUIRE_TIMED_ENDS };

/*
 * Called like a quire_trace_fn: any lock may be held, so it must not wait, nor call the library.
 * @value is 0 where something begins. The library reads no clock. A thread ends what it began; one
 * kind may be nested in another.
 */
typedef void (*quire_timed_fn)(enum quire_timed what, enum quire_timed_edge edge, uint64_t value);

/*
 * Tell @record of these from now on; NULL: no more. @record hears the end of what began before it
 * was installed. Any thread, any lock; never sleeps. @record must stay callable, since a thread may
 * be on its way to it.
 */
QUIRE_API void quire_trace_install_timed(quire_timed_fn record);

#ifdef __cplusplus
}
#endif

#endif
