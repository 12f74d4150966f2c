/* A VM's memory: memslots, attributes, and what the host and the client change under it. */
#ifndef QUIRE_VM_H
#define QUIRE_VM_H

#include <quire/host.h>
#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;
struct quire_gmem;
struct quire_confidential_ops; /* quire/confidential.h */

/* VM types, with KVM's numbers. */
enum quire_vm_type { QUIRE_VM_DEFAULT = 0, QUIRE_VM_SW_PROTECTED = 1 };

/*
 * AMD's tables, Intel's, and Intel's of a processor that sets no A and D in them. RISC-V's of the
 * hypervisor extension, whose guest addresses have 41 or 50 bits and whose root is 16 KiB: of a
 * processor that sets A and D (Svadu), and of one that faults where they are clear (Svade). arm64's
 * stage 2 with pages of 4 KiB: three levels, 40 address bits and a root of two tables, or four
 * levels and 48 bits; the access flag set by the processor (VTCR_EL2.HA) or by faults; _DBM with
 * the dirty state, too, for a processor that sets both (VTCR_EL2.HA and HD).
 *
 * QUIRE_FORMAT_EPT_MODES is Intel's with A and D where pages may be executable and not readable,
 * and user and supervisor execute by bits of their own: for a processor that has execute-only
 * translations, with mode-based execute control on.
 *
 * POWER's is the partition-scoped radix tree of 4 KiB pages, 52 address bits and a root of 64 KiB,
 * whose words are big-endian: of a processor that sets R and C, and of one that faults for them.
 */
enum quire_format_id {
	QUIRE_FORMAT_NPT,
	QUIRE_FORMAT_EPT,
	QUIRE_FORMAT_EPT_NO_AD,
	QUIRE_FORMAT_SV39X4,
	QUIRE_FORMAT_SV39X4_NO_AD,
	QUIRE_FORMAT_SV48X4,
	QUIRE_FORMAT_SV48X4_NO_AD,
	QUIRE_FORMAT_ARM64_3,
	QUIRE_FORMAT_ARM64_3_NO_AF,
	QUIRE_FORMAT_ARM64_4,
	QUIRE_FORMAT_ARM64_4_NO_AF,
	QUIRE_FORMAT_EPT_MODES,
	QUIRE_FORMAT_POWER,
	QUIRE_FORMAT_POWER_NO_RC,
	QUIRE_FORMAT_ARM64_3_DBM,
	QUIRE_FORMAT_ARM64_4_DBM,
};

/* Which tables serve a guest: the TDP MMU's, made of its physical addresses alone and changed in
 * parallel; or shadow pages, changed under one lock (kvm.tdp_mmu=N, or no second stage). */
enum quire_mmu { QUIRE_MMU_TDP, QUIRE_MMU_SHADOW };

/* What maxphyaddr may be: the fewest that a processor with a second stage has, and the most. */
#define QUIRE_MAXPHYADDR_MIN 36u
#define QUIRE_MAXPHYADDR_MAX 52u

/* Fixed at creation. Module parameters that can change at run time are in struct quire_tunables. */
struct quire_vm_config {
	enum quire_vm_type type;
	enum quire_format_id format; /* of QUIRE_MMU_TDP; shadow pages have NPT's */
	enum quire_mmu mmu;
	/*
	 * The machine's physical address bits, from QUIRE_MAXPHYADDR_MIN to _MAX. Guests' addresses
	 * have as many, or those of the format where they are fewer (Sv39x4: 41, arm64: 40 or 48,
	 * x86: 48, Sv48x4: 50, POWER: 52); a slot above is -EINVAL. Frames have as many, or 48:
	 * what is above is -EFAULT for a page, -ENOMEM for a table. Where x86's tables are walked,
	 * bits above are reserved. With 52 NPT has no MMIO entries.
	 */
	unsigned int maxphyaddr;
	int mmio_caching; /* KVM's parameter of that name: 0 or 1 */
	const struct quire_host_ops *host;
	void *host_ctx;
	/* A pointer to a table less its physical address: where a kernel maps all memory. 0 in a
	 * process. A multiple of the page size. */
	uint64_t table_offset;
	const struct quire_tunables *tunables; /* may be shared by VMs; NULL: the defaults */
	/* With QUIRE_VM_SW_PROTECTED: hardware that is told of private pages, as long as a file of
	 * the VM has a store. NULL: there is none. */
	const struct quire_confidential_ops *confidential;
	void *confidential_ctx; /* of its functions */
	/*
	 * Nonzero: which pages are private is a fact of each guest_memfd, which
	 * quire_gmem_set_attributes() changes, and no attribute of this VM; all guest faults of a
	 * slot with a guest_memfd use it. (kvm.gmem_in_place_conversion as posted;
	 * docs/decisions/0015-in-place-conversion.md.)
	 */
	int gmem_in_place_conversion;
};

/* Read at each use, written by the code that serves the module parameters. */
struct quire_tunables {
	uint32_t eager_page_split; /* 1 */
	uint32_t gmem_huge_pages;  /* 0: guest_memfd's order is 0, as in Linux */
	/* 0: the hypervisor keeps no page at hand that the host does not count */
	uint32_t allow_unsafe_mappings;
};

/* KVM_MEM_* */
enum quire_slot_flags {
	QUIRE_SLOT_LOG_DIRTY = 1u << 0,
	QUIRE_SLOT_READONLY = 1u << 1,
	QUIRE_SLOT_GMEM = 1u << 2,
};

/* One memory region, as KVM_SET_USER_MEMORY_REGION2 gives it; version 1 leaves the rest zero. */
struct quire_region {
	uint32_t slot; /* id in bits 0-15, address space in bits 16-31 */
	uint32_t flags;
	gpa_t gpa;
	uint64_t size_bytes;
	/* A name for the memory, which the host's functions are given: below 2^47 - 4096 (2^48 on
	 * other machines than x86-64), else -EINVAL. A kernel may take the physical address. */
	hva_t hva;
	uint64_t gmem_offset_bytes;
	struct quire_gmem *gmem; /* with QUIRE_SLOT_GMEM, when it is created; NULL: -EBADF */
	int gmem_error;		 /* what looking the descriptor up gave: -EBADF, -EINVAL, or 0 */
};

#define QUIRE_USER_SLOTS 32764u
#define QUIRE_ATTRIBUTE_PRIVATE (UINT64_C(1) << 3)

/*
 * Create a VM with one reference. -EINVAL for a type, format or width we do not have, private
 * memory without the TDP MMU, confidential hardware without private memory, one of the host's
 * table_phys() and table_virt() without the other, or memory of the host's that tables cannot name
 * (its pointer less table_offset is not below 2^48); -ENOMEM; -ENXIO before
 * quire_platform_install(); -ENOSPC: the reverse map tells 2^24 - 1 VMs with private memory apart,
 * counted from when it had none. No lock held; may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_create(const struct quire_vm_config *config,
					       struct quire_vm **vm);
/*
 * The VM's memory goes away with the last reference; vCPUs and guest_memfd files hold one. Any
 * thread. get(): any lock, by a caller that has a reference. put(): no lock held; the last one
 * sleeps.
 */
QUIRE_API void quire_vm_get(struct quire_vm *vm);
QUIRE_API void quire_vm_put(struct quire_vm *vm);

/*
 * Nonzero once an invariant broke, or after quire_vm_set_dead(): the calls of this VM whose
 * contract names -EIO answer it from then on, and its vCPUs stop. The others go on, so that all can
 * be given back. Any thread, any lock.
 */
QUIRE_API int quire_vm_is_dead(const struct quire_vm *vm);

/*
 * The client lost what a vCPU cannot go on without (its state, written to memory that is not
 * there): the VM is dead from now on (KVM_REQ_VM_DEAD), and vCPUs in guest mode leave it. A second
 * call changes nothing. Any thread, out of guest mode, no lock held; waits for the vCPUs.
 */
QUIRE_API void quire_vm_set_dead(struct quire_vm *vm);

/* Number of address spaces: 2, or 1 for a VM with private memory. */
QUIRE_API unsigned int quire_vm_address_spaces(const struct quire_vm *vm);
/*
 * Attributes that quire_vm_set_attributes() knows: QUIRE_ATTRIBUTE_PRIVATE or 0. Any thread, any
 * lock.
 */
QUIRE_API uint64_t quire_vm_attributes(const struct quire_vm *vm);

/*
 * Create, move, change the flags of, or (size 0) delete a memslot. -EINVAL: the region by itself,
 * or a change that a slot does not allow; -EEXIST: another slot or binding is there; -EBADF: no
 * guest_memfd; -ENOMEM; -EIO. On failure nothing has changed. No lock held; takes slots_lock and
 * mmu_lock, waits for grace periods and for vCPUs in guest mode; returns after no
 * vCPU can reach memory through the old slot any more. (KVM_SET_USER_MEMORY_REGION2; checks and
 * their order are U-020 to U-038 of tests/rules.tsv.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_set_region(struct quire_vm *vm,
						   const struct quire_region *region);

/*
 * Set the attributes of [gpa, gpa + size). -EINVAL: unknown bits, empty, wrapping or unaligned
 * range; -ENOMEM with nothing changed; -EIO. No lock held; takes slots_lock and mmu_lock, may
 * sleep. (KVM_SET_MEMORY_ATTRIBUTES.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_set_attributes(struct quire_vm *vm, gpa_t gpa,
						       uint64_t size_bytes, uint64_t attributes);
/* The attributes of one page, which may change at once. Any thread, any lock; never sleeps. */
QUIRE_API uint64_t quire_vm_get_attributes(struct quire_vm *vm, gfn_t gfn);

/*
 * Quirk KVM_X86_QUIRK_SLOT_ZAP_ALL: on (1, the default) or off (0), for slots that go from now on.
 * Any thread, no lock.
 */
QUIRE_API void quire_vm_set_slot_zap_all(struct quire_vm *vm, int on);

/*
 * KVM_SET_NR_MMU_PAGES: at most so many shadow pages, from now on; tables of the TDP MMU are not
 * counted. -EINVAL below 64. No lock held; takes slots_lock and mmu_lock, may sleep.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_set_nr_mmu_pages(struct quire_vm *vm, uint64_t pages);

/*
 * The workaround for processors that stop when a page is executed through translations of two
 * sizes (kvm.nx_huge_pages): on, no huge leaf is executable, and the guest executes from 4K leaves.
 * Off in a new VM. A change takes every mapping of the VM away. No lock held; takes slots_lock and
 * mmu_lock, may sleep.
 */
QUIRE_API void quire_vm_set_nx_huge_pages(struct quire_vm *vm, int on);
/*
 * Give huge pages back a chance: zap the oldest of the tables that were made for executing guests,
 * one in @ratio of them, rounded up (0: none). Returns how many. Called now and then by a thread of
 * the client's, no lock held; takes mmu_lock, may sleep. QUIRE_VM_STAT_nx_lpage_splits counts the
 * tables.
 */
QUIRE_API uint64_t quire_vm_recover_nx_pages(struct quire_vm *vm, uint32_t ratio);

/*
 * The host is about to change what [start, end) of the client's address space means. Begin
 * returns when no vCPU can reach the old memory through it; until end() faults there wait. Calls
 * nest and may come from any thread that holds no lock of the library. End must be given the
 * same range; the caller holds a reference to the VM until it has returned. An empty range changes
 * nothing. (KVM's MMU notifier, U-220 to U-229.)
 */
QUIRE_API void quire_vm_host_invalidate_begin(struct quire_vm *vm, hva_t start, hva_t end);
QUIRE_API void quire_vm_host_invalidate_end(struct quire_vm *vm, hva_t start, hva_t end);

/* What the host wants to know about the age of pages. */
enum quire_age {
	QUIRE_AGE_TEST,	 /* were they used? */
	QUIRE_AGE_CLEAR, /* the same, and forget it */
};

/*
 * Did the guest use any page of [start, end) of the client's address space since that was last
 * cleared? 1 or 0; 0 for an empty range. A page may look unused although a vCPU still uses a cached
 * translation of it: nothing is flushed. Takes no lock, never sleeps; any thread. (The test_young,
 * clear_young and clear_flush_young of KVM's MMU notifier, U-226.)
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_age(struct quire_vm *vm, hva_t start, hva_t end,
					    enum quire_age kind);

/*
 * The hypervisor's own access, as quire_vcpu_read() and _write() with their errors but -ENOSPC, in
 * address space 0. With dirty rings a slot that logs cannot be written this way, for there is no
 * vCPU whose ring would tell: -ENXIO. Any thread out of guest mode.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_read(struct quire_vm *vm, gpa_t gpa, void *dst,
					     size_t size_bytes);
QUIRE_API QUIRE_MUST_CHECK int quire_vm_write(struct quire_vm *vm, gpa_t gpa, const void *src,
					      size_t size_bytes);

#ifdef __cplusplus
}
#endif

#endif
