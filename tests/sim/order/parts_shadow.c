/*
 * The shadow MMU under the memory model: sets of entries against aging, which takes no mmu_lock; a
 * huge mapping of a nested guest that is split meanwhile; and L1's tables, which are read without a
 * lock. The nested guest's page 0 is behind four of L1's tables.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/reclaim.h"
#include "src/shadow/internal.h"
#include "src/tdp/tdp.h"
#include "tests/sim/order/primitives.h"

#define L1_LEVELS 4u
#define L1_OLD UINT64_C(8) /* what L1 maps at the nested guest's page 0, first and then */
#define L1_NEW UINT64_C(9)
#define L1_ENTRY UINT64_C(0x67) /* present, writable, user, accessed, dirty */
#define L1_HUGE UINT64_C(0x80)
/* gfns of L1's highest table, which the others follow: in the slot of what it maps, so that a vCPU
 * finds all by one hint; and apart, for a block with a table of L1's is mapped by 4K. */
#define L1_NEAR UINT64_C(1)
#define L1_APART UINT64_C(512)
#define ENTRIES (RMAP_OBJECT_ENTRIES + 1)

static struct {
	u64 head; /* a set of entries */
	u64 entries[ENTRIES];
	struct object_cache objects;
	_Alignas(OBJECT_BYTES) struct rmap_object memory[2];
	struct biglock lock;
	struct biglock_line line;
	u64 root_gfn;
	u64 l1[L1_LEVELS]; /* entry 0 of each of L1's tables, from the root on */
	u64 installed;	   /* the gfn that a fault took from L1's tables; 0: none */
	struct quire_host_ops ops;
} shadows;

static bool is_good(void *ctx)
{
	(void)ctx;
	return true;
}

static bool is_sound(void *ctx)
{
	(void)ctx;
	return machine_stop(&pair.machine);
}

/* --- sets of entries --- */

static void rmap_setup(void *ctx)
{
	(void)ctx;
	memset(&shadows, 0, sizeof(shadows));
	biglock_init(&shadows.lock, RANK_MMU);
	for (u32 i = 0; i < 2; i++)
		object_put(&shadows.objects, &shadows.memory[i]);
	biglock_write_lock(&shadows.lock);
	for (u32 i = 0; i < 2; i++)
		if (!rmap_add(&shadows.head, &shadows.entries[i], &shadows.objects))
			abort();
	biglock_write_unlock(&shadows.lock);
}

/* Aging goes through the set; mmu_lock's owner adds to it, and takes from it. */
static void rmap_body(uint32_t thread, void *ctx)
{
	struct rmap_iter iter;
	u64 value;

	(void)ctx;
	if (thread) {
		biglock_write_lock(&shadows.lock);
		(void)!rmap_add(&shadows.head, &shadows.entries[2], &shadows.objects);
		(void)!rmap_remove(&shadows.head, &shadows.entries[0], &shadows.objects);
		biglock_write_unlock(&shadows.lock);
		return;
	}
	reclaim_enter();
	value = rmap_lock(&shadows.head);
	for (u64 *entry = rmap_first(&iter, value); entry; entry = rmap_next(&iter))
		(void)atomic_load_relaxed_u64(entry);
	rmap_unlock(&shadows.head, value);
	reclaim_leave();
}

/* --- the shadow MMU itself --- */

/* The host's memory comes as another thread has left it, and is cleared with plain stores. */
static void *alloc(void *ctx, size_t size_bytes)
{
	u64 *words = sim_host_ops.alloc(ctx, size_bytes);

	for (size_t i = 0; words && i < size_bytes / sizeof(u64); i++)
		*(volatile u64 *)&words[i] = 0;
	return words;
}

/* L1's entries are words that the model knows. */
static int load_u64(void *ctx, hva_t src, uint64_t *value)
{
	u64 page = (src.v - sim_hva(0).v) / QUIRE_PAGE_SIZE;

	(void)ctx;
	*value = atomic_load_relaxed_u64(&shadows.l1[page - shadows.root_gfn]);
	return 0;
}

/* It has A and D, so no walk sets them. */
static int cmpxchg_u64(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	(void)ctx;
	(void)dst;
	(void)expected;
	(void)desired;
	abort();
}

static void start(void)
{
	memset(&shadows, 0, sizeof(shadows));
	pair_start(QUIRE_VM_DEFAULT);
	shadows.ops = *pair.machine.vm->host;
	shadows.ops.alloc = alloc;
	shadows.ops.load_u64 = load_u64;
	shadows.ops.cmpxchg_u64 = cmpxchg_u64;
	shadows.ops.pages_there = NULL;
	pair.machine.vm->host = &shadows.ops;
}

/* vCPU 0 is a nested guest, whose page 0 L1 maps with @last in its table at @levels from above. */
static void start_nested(u64 root_gfn, u32 levels, u64 last)
{
	const struct quire_nested tables = {
	    .root = {root_gfn << QUIRE_PAGE_SHIFT}, .levels = L1_LEVELS, .nx = 1, .wp = 1};
	const struct quire_region region = {.slot = 1,
					    .gpa = {L1_APART << QUIRE_PAGE_SHIFT},
					    .size_bytes = L1_LEVELS << QUIRE_PAGE_SHIFT,
					    .hva = sim_hva((uint32_t)L1_APART)};
	struct quire_memory_fault told;
	struct quire_stage2 stage2;
	struct quire_vcpu *vcpu;
	uint64_t requests;
	int ret = QUIRE_RETRY;

	start();
	shadows.root_gfn = root_gfn;
	vcpu = pair.machine.vcpus[0];
	pair_map_huge(0);
	if (quire_vm_set_region(pair.machine.vm, &region))
		abort();
	for (u32 i = 0; i + 1 < levels; i++)
		shadows.l1[i] = (root_gfn + 1 + i) << QUIRE_PAGE_SHIFT | L1_ENTRY;
	shadows.l1[levels - 1] = last;
	if (quire_vcpu_set_nested(vcpu, &tables))
		abort();
	while (ret == QUIRE_RETRY) {
		if (quire_vcpu_enter(vcpu, &requests, &stage2))
			abort();
		quire_vcpu_leave(vcpu);
		ret =
		    quire_vcpu_fault(vcpu, (gpa_t){0}, QUIRE_PFERR_WRITE | QUIRE_PFERR_USER, &told);
	}
	if (ret != QUIRE_FIXED)
		abort();
}

/* --- splitting --- */

static void split_setup(void *ctx)
{
	(void)ctx;
	start_nested(L1_APART, L1_LEVELS - 1, L1_ENTRY | L1_HUGE);
	mutex_lock(&pair.machine.vm->slots_lock);
	if (shadow_split_topup(pair.machine.vm))
		abort();
	mutex_unlock(&pair.machine.vm->slots_lock);
}

static void split(void)
{
	struct quire_vm *vm = pair.machine.vm;
	struct shadow_split split = {.end = {1}, .level = QUIRE_LEVEL_2M};
	struct flush_debt debt;

	flush_debt_init(&debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
	(void)!shadow_split_next(vm, &split, &debt);
	shadow_commit(vm, &debt);
	biglock_write_unlock(&vm->mmu_lock);
}

/* Entries are filled before the set of their gfn leads to them. */
static void split_age_body(uint32_t thread, void *ctx)
{
	const struct shadow_age_range range = {.end = {1}, .kind = QUIRE_AGE_CLEAR};

	(void)ctx;
	if (!thread) {
		split();
		return;
	}
	reclaim_enter();
	(void)!shadow_age(pair.machine.vm, &range);
	reclaim_leave();
}

/* The nested guest's processor goes through the entry that the split changes. */
static void split_walk_body(uint32_t thread, void *ctx)
{
	uint8_t value;

	(void)ctx;
	if (thread)
		(void)!machine_load(&pair.machine, 0, 0, &value);
	else
		split();
}

/* --- L1's tables --- */

static void write_setup(void *ctx)
{
	(void)ctx;
	start_nested(L1_NEAR, L1_LEVELS, L1_OLD << QUIRE_PAGE_SHIFT | L1_ENTRY);
}

/* The hypervisor writes to L1's lowest table, and what was made of the entry goes. */
static void write_entry(void)
{
	struct quire_vm *vm = pair.machine.vm;
	const struct shadow_write write = {
	    0, {(L1_NEAR + L1_LEVELS - 1) << QUIRE_PAGE_SHIFT}, sizeof(u64)};
	struct flush_debt debt;

	atomic_store_relaxed_u64(&shadows.l1[L1_LEVELS - 1], L1_NEW << QUIRE_PAGE_SHIFT | L1_ENTRY);
	flush_debt_init(&debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
	shadow_written(vm, &write, &debt);
	shadow_commit(vm, &debt);
	shadows.installed = 0;
	biglock_write_unlock(&vm->mmu_lock);
	tdp_debt_settle(vm, &debt);
}

/* The fault walks without a lock. */
static void write_body(uint32_t thread, void *ctx)
{
	struct quire_vm *vm = pair.machine.vm;
	struct shadow_walk walked = {.error_code = QUIRE_PFERR_USER};

	(void)ctx;
	if (thread) {
		write_entry();
		return;
	}
	if (shadow_walk_guest(pair.machine.vcpus[0], &walked) != QUIRE_FIXED)
		abort();
	biglock_write_lock(&vm->mmu_lock);
	if (vm->shadow->write_turn == walked.write_turn)
		shadows.installed = walked.gfn.v;
	biglock_write_unlock(&vm->mmu_lock);
}

static bool shows_no_old_gfn(void *ctx)
{
	return is_sound(ctx) && shadows.installed != L1_OLD;
}

const struct pair pairs_shadow[] = {
    {"set of entries and aging", 2, rmap_setup, rmap_body, is_good, 0},
    {"nested huge page split, aging", 1, split_setup, split_age_body, is_sound, 0},
    {"nested huge page split, walked", 1, split_setup, split_walk_body, is_sound, 0},
    {"table of L1 written, walked", 2, write_setup, write_body, shows_no_old_gfn, 0},
    {.name = NULL},
};
