/* One guest access becomes one mapping: the question, what was found, and the phases. */
#ifndef QUIRE_FAULT_FAULT_H
#define QUIRE_FAULT_FAULT_H

#include "src/gmem/gmem.h"
#include "src/tdp/tdp.h"
#include "src/vm/vcpu.h"

/* The question. Constant from the start to the end of a fault. */
struct fault {
	gfn_t gfn;
	u64 error_code; /* QUIRE_PFERR_*: what kind of access, and whether it may wait */
	bool private;	/* the guest meant the private page */
	bool prefault;	/* no guest access behind it */
	u32 largest;	/* level above which a mapping is of no use; 0: any level is */
};

/*
 * What was found for it. The slot's facts are copied: the slot itself may be gone while the page
 * is looked up, and is used again only when the generation says that it is still there.
 */
struct found {
	u64 snapshot;	/* of the invalidation sequence */
	u64 generation; /* of the slots */
	bool has_slot;
	u32 slot_flags;
	bool from_gmem; /* the page comes from guest_memfd, not from the hva */
	hva_t hva;	/* of the gfn */
	struct gmem_lookup gmem;
	struct quire_page page;
};

/* Outcome of a phase: QUIRE_* outcomes, -errno, or: go on with the next phase. */
#define FAULT_CONTINUE 0

/* Describe the access for KVM_EXIT_MEMORY_FAULT. */
void fault_describe(const struct fault *fault, struct quire_memory_fault *told);

/* --- no lock, no read section --- */

/* Phase 1: the slot, and whether the access is what the attributes say. */
must_check int fault_find_slot(struct quire_vcpu *vcpu, const struct fault *fault,
			       struct found *found, struct quire_memory_fault *told);
/* Phase 2: the page behind the gfn. May sleep. */
must_check int fault_find_page(struct quire_vcpu *vcpu, const struct fault *fault,
			       struct found *found, struct quire_memory_fault *told);
/* Phase 3: under mmu_lock, if all of it still holds, the mapping. */
must_check int fault_install(struct quire_vcpu *vcpu, const struct fault *fault,
			     const struct found *found);

/* Phases 1 to 3, with the gfn's attribute deciding whether the access is private. */
must_check int fault_resolve(struct quire_vcpu *vcpu, const struct fault *fault,
			     struct quire_memory_fault *told);

/* Does the access mean the private page? */
int fault_is_private(struct quire_vcpu *vcpu, gfn_t gfn, u64 error_code);

/* The fault of a nested guest at L2's @gpa; .gfn and .private of @fault are not set. */
must_check int fault_nested(struct quire_vcpu *vcpu, gpa_t gpa, const struct fault *fault,
			    struct quire_memory_fault *told);
/*
 * Load the shadow root, with the pages below it up to date: -ENOMEM. Takes mmu_lock
 * exclusive; reads guest memory.
 */
must_check int fault_load_shadow_root(struct quire_vcpu *vcpu);
struct shadow_key;
/*
 * Compare the pages that lag now, below the loaded root or below @only, with the guest's tables.
 * -ENOMEM. Takes mmu_lock exclusive; reads guest memory.
 */
must_check int fault_sync(struct quire_vcpu *vcpu, const struct shadow_key *only);
/* Phase 3 for a VM that shadow pages serve. */
must_check int fault_install_direct(struct quire_vcpu *vcpu, const struct fault *fault,
				    const struct found *found);
/*
 * Run @map under mmu_lock exclusive, then give the page of @found back and commit what the shadow
 * tables owe. Returns what @map did.
 */
typedef int fault_map_fn(struct quire_vcpu *vcpu, const void *ctx, struct flush_debt *debt);
must_check int fault_map_shadow(struct quire_vcpu *vcpu, const struct found *found,
				fault_map_fn *map, const void *ctx);
struct shadow_group;
/*
 * A leaf was put into the shadow tables: fill the empty entries beside it whose pages are there, as
 * KVM's prefetch does. Takes mmu_lock exclusive; reads guest memory.
 */
void fault_neighbours(struct quire_vcpu *vcpu, const struct shadow_group *group);
/* @gfn is about to be written: nothing may follow what it holds. Takes mmu_lock. */
enum fault_unprotected {
	UNPROTECTED_KEPT,   /* its shadow pages stay and lag, or it had none */
	UNPROTECTED_ZAPPED, /* they went: the next walk through the gfn protects it again */
};
enum fault_unprotected fault_unprotect(struct quire_vcpu *vcpu, gfn_t gfn);

/*
 * Give a right back without a lookup: W taken for dirty logging, where the entry is present, or all
 * that aging took where there are no A bits. FAULT_CONTINUE: not possible.
 */
must_check int fault_fast(struct quire_vcpu *vcpu, const struct fault *fault);

/* A reserved bit: is it an MMIO entry, and of this generation? FAULT_CONTINUE: look again. */
must_check int fault_mmio_entry(struct quire_vcpu *vcpu, gfn_t gfn);
/* There is no memory at @fault->gfn: remember it. */
must_check int fault_no_slot(struct quire_vcpu *vcpu, const struct fault *fault,
			     const struct found *found);

/* --- mmu_lock in either mode, in shared mode in a read section --- */

/* What @found allows for @fault. */
struct tdp_mapping fault_make_mapping(const struct quire_vm *vm, const struct memslot *slot,
				      const struct fault *fault, const struct found *found)
    REQUIRES_SHARED(&vm->mmu_lock);

/* --- mmu_lock exclusive --- */

struct shadow_path;
/* L1's tables that are tracked from now on must not be written through the TDP tables. */
void fault_protect_fresh(struct quire_vcpu *vcpu, const struct shadow_path *path,
			 struct flush_debt *debt);

#endif
