/* The guest's page tables, walked through stage 2. */
#include "vcpu/mem/mmu.h"

#include "vcpu/mem/mem.h"
#include "vcpu/mem/pte.h"
#include "vcpu/mem/stage2.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/run.h"

#define ERROR_P 1u
#define ERROR_W 2u
#define ERROR_U 4u
#define ERROR_RSVD 8u
#define ERROR_I 16u
#define ERROR_PK 32u

#define WALK_TRIES 64

/* The shape of one paging mode. */
struct paging {
	uint8_t levels;
	uint8_t index_bits;
	uint8_t entry_bytes;
};

static const struct paging paging_long = {4, 9, 8};
static const struct paging paging_long5 = {5, 9, 8};
static const struct paging paging_pae = {3, 9, 8};
static const struct paging paging_legacy = {2, 10, 4};

/* One walk: what was asked, what was found at each level. */
struct guest_walk {
	const struct paging *paging;
	uint64_t linear;
	enum mmu_access access;
	unsigned int level; /* of the leaf */
	uint64_t entry[6];  /* by level */
	uint64_t gpa_of[6]; /* where each stands */
	uint64_t host_of[6];
	uint64_t rights; /* PTE_W, PTE_U, PTE_NX: the weakest of all levels; PTE_KEY */
	uint64_t gpa;
};

enum walk_result {
	WALK_DONE,
	WALK_PAGE_FAULT, /* error code in cpu->exception.error */
	WALK_STOP,	 /* cpu->stop */
	WALK_AGAIN,	 /* an entry changed under the walk */
};

static const struct paging *paging_mode(const struct cpu *cpu)
{
	if (cpu->s.efer & EFER_LMA)
		return cpu->s.cr4 & CR4_LA57 ? &paging_long5 : &paging_long;
	return cpu->s.cr4 & CR4_PAE ? &paging_pae : &paging_legacy;
}

/* Which page was lost is known here alone; the library hears of it before the fault. */
static void note_poison(struct cpu *cpu)
{
	if (guard_last_reason == GUARD_POISON)
		cpu->lost_address = guard_poison_address;
}

static enum walk_result guest_guard_failed(struct cpu *cpu, uint64_t gpa, uint64_t error)
{
	if (guard_last_reason == GUARD_ABORT) {
		cpu->stop = STOP_RESTART;
		return WALK_STOP;
	}
	note_poison(cpu);
	cpu->stop = STOP_FAULT;
	cpu->fault_gpa = gpa;
	cpu->fault_error = error | QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_PAGE;
	cpu->fault_was_guard = 1;
	return WALK_STOP;
}

/* For the watch alone: the library walks where there is no second stage. */
static enum walk_result entry_load_linear(struct cpu *cpu, struct guest_walk *walk,
					  unsigned int level)
{
	if (walk->paging == &paging_pae && level == 3) {
		walk->entry[level] = cpu->s.directories[walk->linear >> 30 & 3];
		return WALK_DONE;
	}
	walk->host_of[level] = tlb_watch_host(cpu, walk->gpa_of[level]);
	if (!walk->host_of[level] ||
	    guard_load((const void *)(uintptr_t)walk->host_of[level], walk->paging->entry_bytes,
		       &walk->entry[level]) != GUARD_OK)
		return WALK_STOP;
	return WALK_DONE;
}

static enum stage2_result second_stage(struct cpu *cpu, const struct stage2_request *request,
				       uint64_t *host)
{
	if (unlikely(cpu->watch) && cpu->svm.nested_paging)
		tlb_watch_nested_tables(cpu, request->gpa, request->access);
	return stage2_translate(cpu, request, host);
}

static enum walk_result entry_load(struct cpu *cpu, struct guest_walk *walk, unsigned int level)
{
	struct stage2_request request = {
	    .gpa = walk->gpa_of[level], .access = MMU_READ, .origin = QUIRE_PFERR_GUEST_PAGE};
	enum stage2_result result;
	uint64_t host;

	if (cpu->linear_root)
		return entry_load_linear(cpu, walk, level);
	/* Nested paging takes a walk for a write, as A and D bits may be set; ROM is read even so.
	 */
	if (cpu->svm.nested_paging)
		request.access = MMU_WRITE;
	result = second_stage(cpu, &request, &host);
	if (result == STAGE2_DEVICE && cpu->svm.nested_paging) {
		request.access = MMU_READ;
		result = second_stage(cpu, &request, &host);
	}
	switch (result) {
	case STAGE2_FAULT:
		return WALK_STOP;
	case STAGE2_DEVICE: /* tables are not read from devices: no translation */
		cpu->exception.error = 0;
		return WALK_PAGE_FAULT;
	default:
		break;
	}
	walk->host_of[level] = host;
	if (guard_load((const void *)(uintptr_t)host, walk->paging->entry_bytes,
		       &walk->entry[level]) != GUARD_OK)
		return guest_guard_failed(cpu, request.gpa, 0);
	return WALK_DONE;
}

/* Set accessed or dirty in the guest's entry, if it still is what the walk saw. */
static enum walk_result entry_mark(struct cpu *cpu, struct guest_walk *walk, unsigned int level,
				   uint64_t bits)
{
	struct stage2_request request = {
	    .gpa = walk->gpa_of[level], .access = MMU_WRITE, .origin = QUIRE_PFERR_GUEST_PAGE};
	uint64_t host, old = walk->entry[level];
	uint32_t old32 = old;
	enum guard_reason reason;
	bool swapped = false;

	if ((old & bits) == bits)
		return WALK_DONE;
	switch (stage2_translate(cpu, &request, &host)) {
	case STAGE2_FAULT:
		return WALK_STOP;
	case STAGE2_DEVICE: /* tables in read-only memory keep their bits */
		return WALK_DONE;
	default:
		break;
	}
	if (walk->paging->entry_bytes == 8)
		reason = guard_cmpxchg_u64((void *)(uintptr_t)host, &old, old | bits, &swapped);
	else
		reason = guard_cmpxchg_u32((void *)(uintptr_t)host, &old32, old32 | bits, &swapped);
	if (reason != GUARD_OK)
		return guest_guard_failed(cpu, request.gpa, QUIRE_PFERR_WRITE);
	if (!swapped)
		return WALK_AGAIN;
	walk->entry[level] |= bits;
	return WALK_DONE;
}

static int entry_is_leaf(const struct cpu *cpu, const struct guest_walk *walk, unsigned int level)
{
	uint64_t entry = walk->entry[level];

	if (level == 1)
		return 1;
	if (!(entry & PTE_LARGE))
		return 0;
	if (walk->paging == &paging_legacy)
		return (cpu->s.cr4 & CR4_PSE) != 0;
	return walk->paging->levels >= 4 ? level <= 3 : level == 2;
}

#define LEGACY_RESERVED (UINT64_C(1) << 21)
#define PAE_RESERVED (UINT64_C(0x7ff) << 52) /* what long mode ignores */

static int entry_has_reserved(const struct cpu *cpu, const struct guest_walk *walk,
			      unsigned int level)
{
	uint64_t entry = walk->entry[level];

	/* Of a leaf of 4 MiB, between the address and its bits above 32. */
	if (walk->paging == &paging_legacy)
		return level > 1 && entry_is_leaf(cpu, walk, level) && (entry & LEGACY_RESERVED);
	if (entry & PTE_RESERVED_HIGH)
		return 1;
	if ((entry & PTE_NX) && !(cpu->s.efer & EFER_NXE))
		return 1;
	if (walk->paging == &paging_pae && (entry & PAE_RESERVED))
		return 1;
	if (walk->paging == &paging_pae && level == 3)
		return (entry & UINT64_C(0x1e6)) != 0;
	return pte_large_is_reserved(entry, level);
}

static uint32_t error_of(const struct cpu *cpu, enum mmu_access access)
{
	uint32_t error = mmu_is_user(cpu) ? ERROR_U : 0;
	int has_nx = (cpu->s.efer & EFER_NXE) && (cpu->s.cr4 & CR4_PAE);

	if (access == MMU_WRITE)
		error |= ERROR_W;
	if (access == MMU_FETCH && (has_nx || (cpu->s.cr4 & CR4_SMEP)))
		error |= ERROR_I;
	return error;
}

/* Two bits a key: no access at all, no writes. The second one binds the supervisor by CR0.WP. */
#define KEY_NO_ACCESS 1u
#define KEY_NO_WRITE 2u

/* A shadow has no keys, and CPUID offers none with it. */
int mmu_key_denies(const struct cpu *cpu, enum mmu_access access, uint64_t rights)
{
	unsigned int key = (rights & PTE_KEY) >> PTE_KEY_SHIFT;
	unsigned int denied = cpu->s.pkru >> (2 * key) & 3;

	if (likely(!denied) || access == MMU_FETCH || !(rights & PTE_U) ||
	    !(cpu->s.cr4 & CR4_PKE) || !(cpu->s.efer & EFER_LMA) || cpu->linear_root)
		return 0;
	if (denied & KEY_NO_ACCESS)
		return 1;
	return access == MMU_WRITE && (mmu_is_user(cpu) || (cpu->s.cr0 & CR0_WP));
}

void mmu_set_pkru(struct cpu *cpu, uint32_t value)
{
	if (value == cpu->s.pkru)
		return;
	cpu->s.pkru = value;
	cpu_note_paging(cpu);
	if (cpu->s.cr4 & CR4_PKE)
		tlb_forget_all(cpu);
}

int mmu_rights_permit(const struct cpu *cpu, enum mmu_access access, uint64_t rights)
{
	int user_page = (rights & PTE_U) != 0;

	if (mmu_is_user(cpu) && !user_page)
		return 0;
	if (access == MMU_FETCH) {
		if (rights & PTE_NX)
			return 0;
		return !(!mmu_is_user(cpu) && user_page && (cpu->s.cr4 & CR4_SMEP));
	}
	if (cpu->tlb_mode == TLB_SMAP && user_page)
		return 0;
	if (unlikely(mmu_key_denies(cpu, access, rights)))
		return 0;
	if (access == MMU_WRITE && !(rights & PTE_W))
		return !mmu_is_user(cpu) && !(cpu->s.cr0 & CR0_WP);
	return 1;
}

static uint64_t leaf_address(const struct guest_walk *walk)
{
	const struct paging *paging = walk->paging;
	unsigned int shift = 12 + paging->index_bits * (walk->level - 1);
	uint64_t span = (UINT64_C(1) << shift) - 1;
	uint64_t entry = walk->entry[walk->level];
	uint64_t frame = entry & PTE_ADDRESS & ~span;

	if (paging == &paging_legacy) {
		frame = (uint32_t)entry & ~span & ~PAGE_OFFSET_MASK;
		if (walk->level == 2) /* PSE-36 */
			frame |= (entry >> 13 & 0xff) << 32;
	}
	return frame | (walk->linear & span);
}

/* Down to the leaf; no bit is set yet. */
static enum walk_result walk_down(struct cpu *cpu, struct guest_walk *walk)
{
	const struct paging *paging = walk->paging;
	uint64_t table = cpu->s.cr3 & PTE_ADDRESS;
	unsigned int level = paging->levels;
	uint32_t error = error_of(cpu, walk->access);
	enum walk_result result;

	if (paging == &paging_pae)
		table = cpu->s.cr3 & UINT64_C(0xffffffe0);
	for (;; level--) {
		unsigned int shift = 12 + paging->index_bits * (level - 1);
		unsigned int index = walk->linear >> shift & ((1u << paging->index_bits) - 1);
		uint64_t entry;

		walk->level = level;
		if (paging == &paging_pae && level == 3)
			index &= 3;
		walk->gpa_of[level] = table + (uint64_t)index * paging->entry_bytes;
		result = entry_load(cpu, walk, level);
		if (result == WALK_PAGE_FAULT)
			cpu->exception.error = error;
		if (result != WALK_DONE)
			return result;
		entry = walk->entry[level];
		cpu->exception.error = error;
		if (!(entry & PTE_P))
			return WALK_PAGE_FAULT;
		cpu->exception.error = error | ERROR_P | ERROR_RSVD;
		if (entry_has_reserved(cpu, walk, level))
			return WALK_PAGE_FAULT;
		if (!(paging == &paging_pae && level == 3)) {
			walk->rights &= entry | ~(PTE_W | PTE_U);
			if (paging != &paging_legacy)
				walk->rights |= entry & PTE_NX;
		}
		if (entry_is_leaf(cpu, walk, level))
			break;
		table =
		    paging == &paging_legacy ? entry & UINT64_C(0xfffff000) : entry & PTE_ADDRESS;
	}
	if (paging->levels >= 4)
		walk->rights |= walk->entry[level] & PTE_KEY;
	cpu->exception.error = error | ERROR_P;
	if (unlikely(mmu_key_denies(cpu, walk->access, walk->rights)))
		cpu->exception.error |= ERROR_PK;
	return mmu_rights_permit(cpu, walk->access, walk->rights) ? WALK_DONE : WALK_PAGE_FAULT;
}

static enum walk_result walk_mark(struct cpu *cpu, struct guest_walk *walk)
{
	for (unsigned int level = walk->paging->levels; level >= walk->level; level--) {
		uint64_t bits = PTE_A;
		enum walk_result result;

		if (walk->paging == &paging_pae && level == 3)
			continue;
		if (level == walk->level && walk->access == MMU_WRITE)
			bits |= PTE_D;
		result = entry_mark(cpu, walk, level, bits);
		if (result != WALK_DONE)
			return result;
	}
	walk->gpa = leaf_address(walk);
	return WALK_DONE;
}

static enum walk_result walk_guest(struct cpu *cpu, struct guest_walk *walk)
{
	enum walk_result result = WALK_AGAIN;

	if (!(cpu->s.cr0 & CR0_PG)) {
		walk->gpa = (uint32_t)walk->linear;
		walk->entry[0] = 0;
		walk->level = 0;
		return WALK_DONE;
	}
	walk->paging = paging_mode(cpu);
	for (int tries = 0; tries < WALK_TRIES && result == WALK_AGAIN; tries++) {
		walk->rights = PTE_W | PTE_U;
		result = walk_down(cpu, walk);
		if (result == WALK_DONE)
			result = walk_mark(cpu, walk);
	}
	if (result == WALK_AGAIN) {
		cpu->stop = STOP_RESTART;
		result = WALK_STOP;
	}
	return result;
}

enum step mmu_raise_non_canonical(struct cpu *cpu)
{
	int is_stack = cpu->delivering || (cpu->op && cpu->op->seg == CPU_SS);

	return cpu_raise_error(cpu, is_stack ? VECTOR_SS : VECTOR_GP, 0);
}

static int leaf_is_global(const struct cpu *cpu, const struct guest_walk *walk)
{
	return (walk->entry[walk->level] & PTE_G) && (cpu->s.cr4 & CR4_PGE);
}

/* PAE's directory entries are registers: no flush is about them. */
static struct watch_walk watch_walk_of(const struct cpu *cpu, const struct guest_walk *walk,
				       enum walk_result result)
{
	const struct paging *paging = walk->paging;

	return (struct watch_walk){
	    .linear = walk->linear,
	    .access = walk->access,
	    .gpa = walk->gpa,
	    .rights = walk->rights,
	    .is_found = result == WALK_DONE,
	    .is_global = leaf_is_global(cpu, walk) != 0,
	    .is_dirty = (walk->entry[walk->level] & PTE_D) != 0,
	    .shift = (uint8_t)(QUIRE_PAGE_SHIFT + paging->index_bits * (walk->level - 1)),
	    .index_bits = paging->index_bits,
	    .top = paging == &paging_pae ? 2 : paging->levels,
	    .level = (uint8_t)walk->level,
	    .entry = walk->entry,
	    .gpa_of = walk->gpa_of,
	    .host_of = walk->host_of,
	};
}

static void tell_watch(struct cpu *cpu, const struct guest_walk *walk, enum walk_result result)
{
	struct watch_walk watched;

	if (!(cpu->s.cr0 & CR0_PG) || (result != WALK_DONE && result != WALK_PAGE_FAULT))
		return;
	watched = watch_walk_of(cpu, walk, result);
	tlb_watch_walked(cpu, &watched);
}

/* The second stage served it, too. */
static void tell_watch_served(struct cpu *cpu, const struct mmu_request *request,
			      const struct guest_walk *walk, const struct mmu_result *result)
{
	struct watch_walk watched;

	if (!(cpu->s.efer & EFER_LMA) || !result->host)
		return;
	watched = watch_walk_of(cpu, walk, WALK_DONE);
	tlb_watch_served(cpu, request, &watched, result);
}

/* Whatever the common walk leaves: bits to set, large pages, other modes, faults, devices. */
static enum step translate_fully(struct cpu *cpu, const struct mmu_request *request,
				 struct mmu_result *result)
{
	struct guest_walk walk = {.linear = request->linear, .access = request->access};
	struct stage2_request stage2 = {.access = request->stage2,
					.origin = QUIRE_PFERR_GUEST_FINAL};
	enum walk_result walked;

	if (!(cpu->s.efer & EFER_LMA))
		walk.linear = (uint32_t)walk.linear;
	else if (unlikely(!mmu_is_canonical(cpu, walk.linear)))
		return mmu_raise_non_canonical(cpu);
	walked = walk_guest(cpu, &walk);
	if (unlikely(cpu->watch))
		tell_watch(cpu, &walk, walked);
	switch (walked) {
	case WALK_PAGE_FAULT:
		return cpu_raise_page_fault(cpu, walk.linear, cpu->exception.error);
	case WALK_DONE:
		break;
	default:
		return STEP_ABORT;
	}
	stage2.gpa = walk.gpa;
	result->gpa = walk.gpa;
	result->host = 0;
	result->global = leaf_is_global(cpu, &walk) != 0;
	result->large = walk.level > 1 ? (uint8_t)(walk.level - 1) : 0;
	if (second_stage(cpu, &stage2, &result->host) == STAGE2_FAULT)
		return STEP_ABORT;
	if (unlikely(cpu->watch))
		tell_watch_served(cpu, request, &walk, result);
	return STEP_NEXT;
}

/*
 * For --sanitize=tlb: nothing is cached but what a walk would find again. Of L1's nested tables no
 * entry was kept to compare: L2 always walks.
 */
static enum step translate_watched(struct cpu *cpu, const struct mmu_request *request,
				   struct mmu_result *result)
{
	enum step step = STEP_NEXT;

	if (cpu->svm.nested_paging || !tlb_watch_again(cpu, request, result))
		step = translate_fully(cpu, request, result);
	if (!step && request->stage2 == MMU_WRITE && result->host)
		tlb_watch_store(cpu, result->host);
	return step;
}

/*
 * The library's shadow has led to @result, or has refused. What the guest's own tables say is
 * compared with what was held. Where they lead on and the shadow does not yet, the library marks
 * entries first, and the access comes again.
 */
static void watch_linear(struct cpu *cpu, const struct mmu_request *request,
			 const struct mmu_result *result)
{
	struct guest_walk walk = {.linear = request->linear, .access = request->stage2};
	uint64_t error = cpu->exception.error;
	enum walk_result walked;

	if (!(cpu->s.efer & EFER_LMA))
		walk.linear = (uint32_t)walk.linear;
	walk.paging = paging_mode(cpu);
	walk.rights = PTE_W | PTE_U;
	walked = walk_down(cpu, &walk);
	cpu->exception.error = error;
	if (walked == WALK_DONE && !result)
		return;
	if (walked == WALK_DONE)
		walk.gpa = leaf_address(&walk);
	tell_watch(cpu, &walk, walked);
	if (walked == WALK_DONE)
		tell_watch_served(cpu, request, &walk, result);
}

static enum step translate_linear(struct cpu *cpu, const struct mmu_request *request,
				  struct mmu_result *result)
{
	enum step step;

	if (unlikely(!mmu_is_canonical(cpu, request->linear)))
		return mmu_raise_non_canonical(cpu);
	if (likely(!cpu->watch))
		return mmu_translate_linear(cpu, request, result);
	if (tlb_watch_again(cpu, request, result))
		step = STEP_NEXT;
	else {
		step = mmu_translate_linear(cpu, request, result);
		watch_linear(cpu, request, step ? NULL : result);
	}
	if (!step && request->stage2 == MMU_WRITE && result->host)
		tlb_watch_store(cpu, result->host);
	return step;
}

enum step mmu_translate(struct cpu *cpu, const struct mmu_request *request,
			struct mmu_result *result)
{
	if (unlikely(cpu->linear_root))
		return translate_linear(cpu, request, result);
	if (unlikely(cpu->watch))
		return translate_watched(cpu, request, result);
	switch (mmu_translate_fast(cpu, request, result)) {
	case MMU_FAST_FOUND:
		return STEP_NEXT;
	case MMU_FAST_ABSENT:
		return cpu_raise_page_fault(cpu, request->linear, error_of(cpu, request->access));
	default:
		return translate_fully(cpu, request, result);
	}
}

int mmu_probe(struct cpu *cpu, uint64_t linear, uint64_t *gpa)
{
	struct guest_walk walk = {.linear = linear, .access = MMU_READ};
	enum walk_result result;

	if (!mmu_is_canonical(cpu, linear))
		return -1;
	result = walk_guest(cpu, &walk);
	if (result == WALK_DONE) {
		*gpa = walk.gpa;
		return 0;
	}
	return result == WALK_PAGE_FAULT ? -1 : 1;
}

enum step mmu_guard_failed(struct cpu *cpu, const struct mmu_request *request)
{
	enum guard_reason reason = guard_last_reason;
	struct mmu_result result;
	enum step step;

	note_poison(cpu);
	tlb_flush_page(cpu, request->linear);
	if (reason == GUARD_ABORT) {
		cpu->stop = STOP_RESTART;
		return STEP_ABORT;
	}
	step = mmu_translate(cpu, request, &result);
	if (step)
		return step;
	cpu->stop = STOP_FAULT;
	cpu->fault_gpa = result.gpa;
	cpu->fault_error = QUIRE_PFERR_GUEST_FINAL | QUIRE_PFERR_USER;
	if (request->stage2 == MMU_WRITE)
		cpu->fault_error |= QUIRE_PFERR_WRITE;
	if (request->stage2 == MMU_FETCH)
		cpu->fault_error |= QUIRE_PFERR_FETCH;
	if (cpu->linear_root)
		cpu->fault_error = mmu_linear_error(cpu, request->stage2);
	cpu->fault_was_guard = 1;
	return STEP_ABORT;
}

void mmu_update_mode(struct cpu *cpu)
{
	if (cpu->cpl == 3)
		cpu->tlb_mode =
		    (cpu->s.cr0 & CR0_AM) && (cpu->s.rflags & FLAG_AC) ? TLB_ALIGNED : TLB_USER;
	else if ((cpu->s.cr4 & CR4_SMAP) && !(cpu->s.rflags & FLAG_AC))
		cpu->tlb_mode = TLB_SMAP;
	else
		cpu->tlb_mode = TLB_SUPERVISOR;
}

unsigned int mmu_system_begin(struct cpu *cpu)
{
	unsigned int saved = cpu->tlb_mode;

	/* EFLAGS.AC frees the accesses of instructions alone. */
	cpu->tlb_mode = cpu->s.cr4 & CR4_SMAP ? TLB_SMAP : TLB_SUPERVISOR;
	return saved;
}

void mmu_system_end(struct cpu *cpu, unsigned int saved)
{
	cpu->tlb_mode = saved;
}
