/* For --sanitize=tlb: what a processor could still hold of the guest's tables. */
#ifndef QUIRE_VCPU_MEM_WATCH_H
#define QUIRE_VCPU_MEM_WATCH_H

#include "vcpu/mem/mmu.h"

/*
 * A vCPU that is watched caches no translation: each access and each block of code walks the tables
 * anew. Beside that a struct tlb_watch remembers what a processor may remember: translations, and
 * where tables are, from the walk that found them until the guest flushes them. An access that one
 * of these would have permitted, and that the tables as they are now send elsewhere or refuse, is a
 * use of a stale translation.
 *
 * No report: rights that grew, bits A and D, an entry that was absent (no processor remembers
 * those). For a second no report either of a use by another vCPU than the one that changed the
 * entry: the flush may be on its way. The second begins anew when the client has stopped that other
 * vCPU meanwhile.
 *
 * Of L2 its own tables are watched, or those that L1 made for it. VMRUN keeps what is remembered of
 * L2 where L1 goes on with the same ASID, and asks for no flush; other control registers or nested
 * tables than at #VMEXIT count as one. #VMEXIT keeps what is remembered of L1.
 *
 * L1's nested tables, of long mode, are watched beside L2's: each guest address that L2's access
 * leads to is looked up in them, also L2's tables. L2 cannot flush them. L1 does by a VMRUN with
 * TLB_CONTROL, another ASID or other nested tables, by INVLPGA, and by a flush of all its own.
 *
 * Not watched: guests that do not page. Without a second stage (kvm_amd.npt=N) the library
 * walks the guest's tables, and its shadow of them may lag as a TLB does. There the watch walks
 * them, too, by where the client has the slots: it marks nothing accessed, and what it finds
 * decides nothing for the guest. When the library takes memory away (a slot, a page of the host's),
 * what the guest holds stays remembered, since no flush of the guest's is due. But the library's
 * flush drops what the client changed: a change that no vCPU made is not reported after it.
 */
struct tlb_watch;

#define WATCH_LEVELS 6u /* 0 is unused */

/* A walk as far as it went. */
struct watch_walk {
	uint64_t linear;
	enum mmu_access access;
	uint64_t gpa;	       /* while @is_found */
	uint64_t rights;       /* of the walk */
	uint8_t shift;	       /* of the leaf */
	uint8_t is_found;      /* or it ended in a page fault */
	uint8_t is_global;     /* the leaf is */
	uint8_t is_dirty;      /* the leaf's D is set */
	uint8_t is_of_l1;      /* of L1's nested tables; @linear is L2's guest address */
	uint8_t top, level;    /* where it began, and the last level whose entry was read */
	uint8_t index_bits;    /* of one level */
	const uint64_t *entry; /* by level */
	const uint64_t *gpa_of, *host_of; /* where each stands: for the guest, in this process */
};

/* The vCPU has walked for an access: compare, and remember. In guest mode. */
void tlb_watch_walked(struct cpu *cpu, const struct watch_walk *walk);
/* L2 is about to access its guest address @gpa: the same for L1's nested tables. In guest mode. */
void tlb_watch_nested_tables(struct cpu *cpu, uint64_t gpa, enum mmu_access access);
/* An access under nested paging is a user's. */
int tlb_watch_nested_permits(enum mmu_access access, uint64_t rights);
/*
 * Most walks read the same entries as the last one of the page. tlb_watch_served() keeps a walk's
 * entries and its result. tlb_watch_again() gives that result if the entries are still the same,
 * and else answers 0. For tables of eight bytes an entry, in long mode.
 */
void tlb_watch_served(struct cpu *cpu, const struct mmu_request *request,
		      const struct watch_walk *walk, const struct mmu_result *result);
int tlb_watch_again(struct cpu *cpu, const struct mmu_request *request, struct mmu_result *result);
/* What the second stage translates may be elsewhere now. Nothing without a watch. */
void tlb_watch_forget_hosts(struct cpu *cpu);
/* The same for a flush that KVM makes: what the client changed before it is not held any more. */
void tlb_watch_flush_hosts(struct cpu *cpu);
/* It is about to write at @host: remembered, if that is an entry of a table. */
void tlb_watch_store(const struct cpu *cpu, uint64_t host);
/* The same for a write that the library is to make, as to a table that it shadows. */
void tlb_watch_wrote(const struct cpu *cpu, uint64_t gpa);
/* Where guest memory is, for a vCPU without a second stage; 0: nowhere. */
uint64_t tlb_watch_host(const struct cpu *cpu, uint64_t gpa);
/* Tell what was found, out of guest mode. */
void tlb_watch_tell(struct cpu *cpu);
void tlb_watch_destroy(struct cpu *cpu);

/* What the guest, or the client by changing registers, flushes. Nothing without a watch. */
void tlb_watch_flush_all(struct cpu *cpu);
/* What is not global: of one PCID, of all. */
void tlb_watch_flush_pcid(struct cpu *cpu, uint64_t pcid);
void tlb_watch_flush_local(struct cpu *cpu);
/* The page of @linear: of the PCID in CR3 and global ones; of @pcid alone. */
void tlb_watch_flush_page(struct cpu *cpu, uint64_t linear);
void tlb_watch_flush_page_of(struct cpu *cpu, uint64_t pcid, uint64_t linear);

/* L2's registers are about to go; they have come, with @flushes of VMRUN; L1's have come. */
void tlb_watch_leave_nested(struct cpu *cpu);
void tlb_watch_enter_nested(struct cpu *cpu, uint32_t asid, int flushes);
void tlb_watch_enter_host(struct cpu *cpu);

#endif
