/* The VM object: what the parts of the library share, and which lock guards it. */
#ifndef QUIRE_VM_VM_H
#define QUIRE_VM_VM_H

#include <quire/stats.h>
#include <quire/vm.h>

#include "src/base/section.h"
#include "src/entry/format.h"
#include "src/tlb/flush.h"
#include "src/tree/range_map.h"
#include "src/vm/invalidate.h"
#include "src/vm/memslot.h"
#include "src/walk/table.h"

/*
 * What a reader / a writer of a field needs:
 *   (c) constant after creation        (a) atomic, at any time
 *   (s) slots_lock                     (m) mmu_lock, either mode / exclusive
 *   (v) vcpus_lock; ring_bytes: or slots_lock / both
 *   (p) written under pages_lock, read with acquire at any time
 */
struct roots {
	struct mutex pages_lock;
	struct table *valid[QUIRE_AS_MAX]; /* (p) top tables; NULL until first used */
};

struct gmem_arch;
struct rmp_vm;
struct gfn_track;
struct shadow;

/* NX huge pages: tables made for executing guests, oldest first. */
struct nx_tables {
	u32 on;			       /* written under mmu_lock exclusive */
	struct table *oldest, *newest; /* under pages_lock */
};

struct pfn_cache;

/* Host invalidations that pfn caches tell apart. */
#define PFN_CACHE_RANGES 16u

/* Frames that the hypervisor keeps in hand (src/access/pfn_cache.h). */
struct pfn_caches {
	struct mutex lock;
	struct pfn_cache *first; /* under @lock */
	/*
	 * Under vm->invalidation.lock: the ranges that host invalidations now change, and those
	 * that ended last. What there was no room for counts as everywhere.
	 */
	struct hva_range {
		hva_t start, end; /* empty: free */
	} active[PFN_CACHE_RANGES], ended[PFN_CACHE_RANGES];
	u32 active_elsewhere;
	u64 seq; /* invalidations that have ended; the last is ended[(seq - 1) % ...] */
};

struct quire_vm {
	struct quire_vm_config config;	   /* (c) */
	const struct quire_host_ops *host; /* (c) */
	void *host_ctx;			   /* (c) */
	struct entry_format
	    tdp_format; /* (c) of the TDP MMU, with the way from entries to tables */
	struct entry_format shadow_format;     /* (c) the same of shadow pages */
	struct quire_format tdp_walk;	       /* (c) what walkers are told of them */
	struct quire_format shadow_walk;       /* (c) */
	const struct quire_tunables *tunables; /* (c) pointer; fields (a) */
	const struct gmem_arch *gmem_arch;     /* (c) src/gmem/gmem.h; NULL: none */
	struct rmp_vm *rmp;		       /* (c) src/gmem/rmp.h; NULL: no private memory */
	u32 address_spaces;		       /* (c) */
	u32 mmio_entries;		       /* (c) the tables can hold MMIO entries */
	gfn_t max_gfn;			       /* (c) highest gfn a slot may hold */
	u32 refs;			       /* (a) */
	u32 dead;			       /* (a) an invariant broke, see vm_poison() */

	struct mutex slots_lock;
	struct memslots slots; /* (s) / read sections */
	/* The library's own accesses to client memory: a change of slots waits for them. */
	struct long_sections accesses;
	/*
	 * (s) / read sections: gfn -> QUIRE_ATTRIBUTE_*, in address space 0; they outlive slots.
	 * All 0 where files own them: src/gmem/privacy.h asks the right one.
	 */
	struct range_map attributes;
	u32 slot_zap_all;   /* (a) quirk */
	u32 manual_protect; /* (s) KVM_DIRTY_LOG_* */
	u64 nr_mmu_pages;   /* (s) the client's limit, 0: none */
	u32 ring_bytes;	    /* (v) of each vCPU's dirty ring; 0: bitmaps */

	/* Apart from slots_lock, whose holder may wait for the client: vCPUs can be made then. */
	struct mutex vcpus_lock;
	struct quire_vcpu *vcpus; /* (v) in order of creation */

	struct biglock mmu_lock;
	struct invalidation invalidation; /* (m) */
	struct pfn_caches pfn_caches;
	struct roots roots;
	struct nx_tables nx;
	u32 mmu_valid_gen;	 /* (m) 0 or 1: changes when all that is mapped becomes obsolete */
	struct gfn_track *track; /* gfn/track.h; NULL until the first shadow root */
	struct shadow *shadow;	 /* shadow/shadow.h; made with it */
	struct flush_domain flush;
	struct arena arena;

	u64 leaves[5];			/* (a) by level: changes made by no vCPU */
	u64 stats[QUIRE_VM_STAT_COUNT]; /* (a) */
};

/* Make a VM but for its reverse map, which quire_vm_create() adds where memory can be private.
 * -EINVAL, -ENOMEM. */
must_check int vm_make(const struct quire_vm_config *config, struct quire_vm **result);

/* Memory of the library's own: zeroed, or NULL. Not under mmu_lock. */
static inline void *vm_alloc(struct quire_vm *vm, size_t size_bytes)
{
	return vm->host->alloc(vm->host_ctx, size_bytes);
}

static inline void vm_free(struct quire_vm *vm, void *mem, size_t size_bytes)
{
	if (mem)
		vm->host->free(vm->host_ctx, mem, size_bytes);
}

/* A broken invariant: every later call of this VM answers -EIO, and its vCPUs stop. */
void vm_poison(struct quire_vm *vm);

static inline int vm_is_dead(const struct quire_vm *vm)
{
	return unlikely(atomic_load_relaxed_u32(&vm->dead));
}

static inline bool vm_has_private_mem(const struct quire_vm *vm)
{
	return vm->config.type == QUIRE_VM_SW_PROTECTED;
}

/* Do shadow pages serve the guest itself, and not only a guest of its own? */
static inline bool vm_is_shadowed(const struct quire_vm *vm)
{
	return vm->config.mmu == QUIRE_MMU_SHADOW;
}

static inline void vm_count(struct quire_vm *vm, enum quire_vm_stat stat)
{
	CHECK((u32)stat < QUIRE_VM_STAT_COUNT);
	atomic_add_relaxed_u64(&vm->stats[stat], 1);
}

#endif
