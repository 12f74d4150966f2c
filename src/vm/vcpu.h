/* The vCPU object: guest mode, the tables in hand, and what it remembers between faults. */
#ifndef QUIRE_VM_VCPU_H
#define QUIRE_VM_VCPU_H

#include <quire/stats.h>
#include <quire/vcpu.h>

#include "src/dirty/ring.h"
#include "src/vm/vm.h"

struct shadow_page;

/* A nested guest, while the vCPU runs one. */
struct vcpu_nested {
	u32 on;
	struct quire_nested tables;
};

/* The shadow root that is loaded, of the guest or its nested guest. */
struct vcpu_shadow_root {
	struct shadow_page *page; /* valid while @turn is shadow->root_turn */
	u64 *entries;		  /* its table */
	u64 turn;
	u32 level;
	u32 lags; /* L1 flushed, or the root is new: pages below it may have to be synced */
};

/* A root that was loaded before, and what it is the root of. */
struct vcpu_previous_root {
	struct vcpu_nested nested;
	u32 as_id;
	struct vcpu_shadow_root shadow;
};
#define VCPU_PREVIOUS_ROOTS 3u

/* Fields without a letter belong to the thread that runs the vCPU. */
struct quire_vcpu {
	struct guest_mode mode;
	struct biglock_line line; /* mmu_lock shared, without a shared cache line */
	struct quire_vm *vm;
	struct quire_vcpu *next; /* in vm->vcpus, under its lock */
	u32 id;
	u32 as_id;
	struct table *root; /* loaded; compared with the VM's under mmu_lock */
	u64 *entered;	    /* the table guest mode was last entered with */
	struct vcpu_nested nested;
	struct vcpu_shadow_root shadow;
	struct shadow_page *pae_root; /* once it had PAE's or 32-bit tables; the VM frees it */
	struct vcpu_previous_root previous[VCPU_PREVIOUS_ROOTS];
	u32 previous_next; /* the next to be replaced */
	/* The last write for which shadow pages were zapped: gpa + 1, or 0. */
	u64 unprotected_for;
	struct table_cache tables;
	struct memslot_hint hint;
	/* The last address found to hold no memory, and the generation of that finding. */
	gfn_t mmio_gfn;
	u64 mmio_generation;
	bool mmio_valid;
	hva_t lost_page; /* of the client's, that the last prefault met */

	struct dirty_ring ring;
	u64 leaves[5]; /* (a) entries mapped minus unmapped by this vCPU, by level */
	u64 stats[QUIRE_VCPU_STAT_COUNT]; /* (a), written by the running thread */
};

static inline void vcpu_count(struct quire_vcpu *vcpu, enum quire_vcpu_stat stat)
{
	u64 *counter = &vcpu->stats[stat];

	atomic_store_relaxed_u64(counter, *counter + 1);
}

#endif
