/*
 * How the kernel prints its events (Linux 7.3): P(name, format, values) for each.
 *
 * trace_event.c takes each twice: as text, which is what tracefs says behind "print fmt:", and as
 * code, which prints the same. So __print_symbolic() and __print_flags() stay words in the text.
 */
#ifndef QUIRE_CLI_TRACE_PRINT_H
#define QUIRE_CLI_TRACE_PRINT_H

#include "frontend/report/svm_exits.h"

#define S(value, name)      \
	{                   \
		value, name \
	}

#define FAULT_FLAGS                                                                            \
	S(0x1, "P"), S(0x2, "W"), S(0x4, "U"), S(0x20, "PK"), S(0x40, "SS"), S(0x8000, "SGX"), \
	    S(0x8, "RSVD"), S(0x10, "F")

/* The role of a shadow page: the kernel reads it by a union, which readers of a trace have not. */
#define PAGE "sp gen %u gfn %llx l%u %u-byte q%u%s %s%s %snxe %sad root %u %s"
#define PAGE_VALUES                                                                                \
	REC->mmu_valid_gen, REC->gfn, REC->role & 0xf, REC->role & 0x10 ? 4 : 8,                   \
	    REC->role >> 5 & 3, REC->role & 0x80 ? " direct" : "",                                 \
	    __print_symbolic(REC->role >> 8 & 0xf, S(0, "----"), S(1, "r---"), S(2, "-w--"),       \
			     S(3, "rw--"), S(4, "--u-"), S(5, "r-u-"), S(6, "-wu-"), S(7, "rwu-"), \
			     S(8, "---x"), S(9, "r--x"), S(10, "-w-x"), S(11, "rw-x"),             \
			     S(12, "--ux"), S(13, "r-ux"), S(14, "-wux"), S(15, "rwux")),          \
	    REC->role & 0x1000 ? " invalid" : "", REC->role & 0x2000 ? "" : "!",                   \
	    REC->role & 0x10000 ? "!" : "", REC->root_count, REC->unsync ? "unsync" : "sync"

#define E(value, name) S(value, "KVM_EXIT_" name)
#define USER_EXITS                                                                              \
	E(0, "UNKNOWN"), E(1, "EXCEPTION"), E(2, "IO"), E(3, "HYPERCALL"), E(4, "DEBUG"),       \
	    E(5, "HLT"), E(6, "MMIO"), E(7, "IRQ_WINDOW_OPEN"), E(8, "SHUTDOWN"),               \
	    E(9, "FAIL_ENTRY"), E(10, "INTR"), E(11, "SET_TPR"), E(12, "TPR_ACCESS"),           \
	    E(13, "S390_SIEIC"), E(14, "S390_RESET"), E(15, "DCR"), E(16, "NMI"),               \
	    E(17, "INTERNAL_ERROR"), E(18, "OSI"), E(19, "PAPR_HCALL"), E(20, "S390_UCONTROL"), \
	    E(21, "WATCHDOG"), E(22, "S390_TSCH"), E(23, "EPR"), E(24, "SYSTEM_EVENT"),         \
	    E(25, "S390_STSI"), E(26, "IOAPIC_EOI"), E(27, "HYPERV"), E(28, "ARM_NISV"),        \
	    E(29, "X86_RDMSR"), E(30, "X86_WRMSR")

#define TRACE_PRINTS(P)                                                                            \
	P(kvm_mmu_split_huge_page, "gfn %llx spte %llx level %d errno %d", REC->gfn, REC->spte,    \
	  REC->level, REC->errno)                                                                  \
	P(kvm_tdp_mmu_spte_changed, "as id %d gfn %llx level %d old_spte %llx new_spte %llx",      \
	  REC->as_id, REC->gfn, REC->level, REC->old_spte, REC->new_spte)                          \
	P(fast_page_fault,                                                                         \
	  "vcpu %d gva %llx error_code %s sptep %p old %#llx new %llx spurious %d fixed %d",       \
	  REC->vcpu_id, REC->cr2_or_gpa, __print_flags(REC->error_code, "|", FAULT_FLAGS),         \
	  REC->sptep, REC->old_spte, REC->new_spte, REC->ret == 6, REC->ret == 5)                  \
	P(kvm_mmu_set_spte, "gfn %llx spte %llx (%s%s%s%s) level %d at %llx", REC->gfn, REC->spte, \
	  REC->r ? "r" : "-", REC->spte & 0x2 ? "w" : "-", REC->x ? "x" : "-", REC->u ? "u" : "-", \
	  REC->level, REC->sptep)                                                                  \
	P(kvm_mmu_spte_requested, "gfn %llx pfn %llx level %d access %x", REC->gfn, REC->pfn,      \
	  REC->level, REC->access)                                                                 \
	P(mark_mmio_spte, "sptep:%p gfn %llx access %x gen %x", REC->sptep, REC->gfn, REC->access, \
	  REC->gen)                                                                                \
	P(handle_mmio_page_fault, "addr:%llx gfn %llx access %x", REC->addr, REC->gfn,             \
	  REC->access)                                                                             \
	P(check_mmio_spte, "spte %llx kvm_gen %x spte-gen %x valid %d", REC->spte, REC->kvm_gen,   \
	  REC->spte_gen, REC->kvm_gen == REC->spte_gen)                                            \
	P(kvm_mmu_pagetable_walk, "addr %llx pferr %x %s", REC->addr, REC->pferr,                  \
	  __print_flags(REC->pferr, "|", FAULT_FLAGS))                                             \
	P(kvm_mmu_paging_element, "pte %llx level %u", REC->pte, REC->level)                       \
	P(kvm_mmu_set_accessed_bit, "gpa %llx", REC->gpa)                                          \
	P(kvm_mmu_set_dirty_bit, "gpa %llx", REC->gpa)                                             \
	P(kvm_mmu_walker_error, "pferr %x %s", REC->pferr,                                         \
	  __print_flags(REC->pferr, "|", FAULT_FLAGS))                                             \
	P(kvm_mmu_get_page, PAGE " %s", PAGE_VALUES, REC->created ? "new" : "existing")            \
	P(kvm_mmu_sync_page, PAGE, PAGE_VALUES)                                                    \
	P(kvm_mmu_unsync_page, PAGE, PAGE_VALUES)                                                  \
	P(kvm_mmu_prepare_zap_page, PAGE, PAGE_VALUES)                                             \
	P(kvm_mmu_zap_all_fast, "kvm-mmu-valid-gen %u used_pages %x", REC->mmu_valid_gen,          \
	  REC->mmu_used_pages)                                                                     \
	P(kvm_page_fault, "vcpu %u rip 0x%lx address 0x%016llx error_code 0x%llx", REC->vcpu_id,   \
	  REC->guest_rip, REC->fault_address, REC->error_code)                                     \
	P(kvm_try_async_get_page, "gva = %#llx, gfn = %#llx", REC->gva, REC->gfn)                  \
	P(kvm_async_pf_repeated_fault, "gva = %#llx, gfn = %#llx", REC->gva, REC->gfn)             \
	P(kvm_async_pf_not_present, "token %#llx gva %#llx", REC->token, REC->gva)                 \
	P(kvm_async_pf_ready, "token %#llx gva %#llx", REC->token, REC->gva)                       \
	P(kvm_async_pf_completed, "gva %#llx address %#lx", REC->gva, REC->address)                \
	P(kvm_unmap_hva_range, "mmu notifier unmap range: %#016lx -- %#016lx", REC->start,         \
	  REC->end)                                                                                \
	P(kvm_age_hva, "mmu notifier age hva: %#016lx -- %#016lx", REC->start, REC->end)           \
	P(kvm_test_age_hva, "mmu notifier test age hva: %#016lx", REC->hva)                        \
	P(kvm_vm_set_mem_attributes, "%#016llx -- %#016llx [0x%lx]", REC->start, REC->end,         \
	  REC->attr)                                                                               \
	P(kvm_dirty_ring_push, "ring %d: dirty 0x%x reset 0x%x slot %u offset 0x%llx (used %u)",   \
	  REC->index, REC->dirty_index, REC->reset_index, REC->slot, REC->offset,                  \
	  REC->dirty_index - REC->reset_index)                                                     \
	P(kvm_dirty_ring_reset, "ring %d: dirty 0x%x reset 0x%x (used %u)", REC->index,            \
	  REC->dirty_index, REC->reset_index, REC->dirty_index - REC->reset_index)                 \
	P(kvm_dirty_ring_exit, "vcpu %d", REC->vcpu_id)                                            \
	P(kvm_userspace_exit, "reason %s (%d)",                                                    \
	  REC->errno < 0 ? (REC->errno == -4 ? "restart" : "error")                                \
			 : __print_symbolic(REC->reason, USER_EXITS),                              \
	  REC->errno < 0 ? -REC->errno : (int)REC->reason)                                         \
	P(kvm_smm_transition, "vcpu %u: %s SMM, smbase 0x%llx", REC->vcpu_id,                      \
	  REC->entering ? "entering" : "leaving", REC->smbase)                                     \
	P(kvm_mmio, "mmio %s len %u gpa 0x%llx val 0x%llx",                                        \
	  __print_symbolic(REC->type, S(0, "unsatisfied-read"), S(1, "read"), S(2, "write")),      \
	  REC->len, REC->gpa, REC->val)                                                            \
	P(kvm_pio, "pio_%s at 0x%x size %d count %d val 0x%x %s", REC->rw ? "write" : "read",      \
	  REC->port, REC->size, REC->count, REC->val, REC->count > 1 ? "(...)" : "")               \
	P(kvm_entry, "vcpu %u, rip 0x%lx intr_info 0x%08x error_code 0x%08x%s", REC->vcpu_id,      \
	  REC->rip, REC->intr_info, REC->error_code,                                               \
	  REC->immediate_exit ? "[immediate exit]" : "")                                           \
	P(kvm_exit,                                                                                \
	  "vcpu %u reason %s%s%s rip 0x%lx info1 0x%016llx info2 0x%016llx intr_info 0x%08x "      \
	  "error_code 0x%08x requests 0x%016llx",                                                  \
	  REC->vcpu_id, __print_symbolic(REC->exit_reason, SVM_EXITS), "", "", REC->guest_rip,     \
	  REC->info1, REC->info2, REC->intr_info, REC->error_code, REC->requests)

#endif
