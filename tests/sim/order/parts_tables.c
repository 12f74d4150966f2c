/*
 * The tables of the TDP MMU under the memory model: a table that one thread fills and links, and a
 * root that it makes, against each function that finds them without a lock that keeps the two
 * apart. A table is filled with plain stores, so a reader with one order too few races. Then what a
 * vCPU is told on its way into guest mode, and the last reference of a log.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/reclaim.h"
#include "src/dirty/bitmap.h"
#include "src/fault/fault.h"
#include "src/tdp/store.h"
#include "tests/sim/order/primitives.h"

#define FRAMES UINT64_C(0x40000) /* pfns of the leaves, which no walker uses */
#define HUGE_PAGES 512u
#define GIGANTIC_PAGES (HUGE_PAGES * HUGE_PAGES)

static struct {
	struct table *root;   /* made before the threads begin, if it is */
	void (*reader)(void); /* what the second thread does */
} tables;

static struct quire_vcpu *vcpu_at(u32 index)
{
	return pair.machine.vcpus[index];
}

/* Each thread is a vCPU's; a setup has the first one's. */
static struct quire_vcpu *vcpu_of_thread(void)
{
	return vcpu_at(sched_current() == SCHED_THREADS_MAX ? 0 : sched_current());
}

/* A VM, whose vCPUs have all the tables in hand that they will need. */
static void start(void (*reader)(void))
{
	pair_start(QUIRE_VM_DEFAULT);
	for (u32 i = 0; i < 2; i++)
		if (table_cache_fill(&vcpu_at(i)->tables, &pair.machine.vm->arena,
				     2 * (TDP_WALK_TABLES + 1)))
			abort();
	tables.root = NULL;
	tables.reader = reader;
}

static void start_with_root(void (*reader)(void))
{
	start(reader);
	tables.root = tdp_root_get(pair.machine.vm, &vcpu_at(0)->tables, 0);
	for (u32 i = 0; i < 2; i++)
		vcpu_at(i)->root = tables.root;
}

static bool is_sound(void *ctx)
{
	(void)ctx;
	return machine_stop(&pair.machine);
}

/* A holder of mmu_lock shared: a fault, a reset of rings, a split, or recovery. */
static struct quire_thread *hold(struct flush_debt *debt)
{
	flush_debt_init(debt, &pair.machine.vm->flush);
	return biglock_read_enter(&pair.machine.vm->mmu_lock, &vcpu_of_thread()->line);
}

static void let_go(struct flush_debt *debt, struct quire_thread *self)
{
	flush_debt_pay(debt);
	biglock_read_exit(&pair.machine.vm->mmu_lock, &vcpu_of_thread()->line, self);
	tdp_debt_settle(pair.machine.vm, debt);
}

/* As a fault does it: the vCPU maps the block of @gfn, for the guest to write. */
static void map_held(u64 gfn, u32 level, struct flush_debt *debt)
{
	u64 pages = level_pages((enum quire_level)level);
	const struct tdp_mapping mapping = {
	    .gfn = {gfn},
	    .leaf = {.pfn = {FRAMES + round_down_u64(gfn, pages)},
		     .level = level,
		     .writable = true,
		     .host_writable = true,
		     .mmu_writable = true,
		     .executable = true,
		     .memtype = QUIRE_MEMTYPE_WB,
		     .accessed = true},
	    .wanted_level = level,
	    .error_code = QUIRE_PFERR_WRITE,
	};

	(void)!tdp_map(vcpu_of_thread(), tables.root, &mapping, debt);
}

static void map(u64 gfn, u32 level)
{
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	map_held(gfn, level, &debt);
	let_go(&debt, self);
}

static void link_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		tables.reader();
	else
		map(0, QUIRE_LEVEL_4K);
}

static void look(struct table *root)
{
	u32 level;

	reclaim_enter();
	(void)atomic_load_relaxed_u64(tdp_find(pair.machine.vm, root, (gfn_t){0}, &level));
	reclaim_leave();
}

static void look_at_it(void)
{
	look(tables.root);
}

static void find_setup(void *ctx)
{
	(void)ctx;
	start_with_root(look_at_it);
}

static void protect_range(void)
{
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	(void)tdp_write_protect_range(pair.machine.vm, 0, (gfn_t){0}, (gfn_t){1}, &debt);
	let_go(&debt, self);
}

static void walk_setup(void *ctx)
{
	(void)ctx;
	start_with_root(protect_range);
}

static void protect_span(void)
{
	u64 mask = 1;
	struct log_word named = {0};
	const struct log_span span = {.words = 1, .masks = &mask, .nonzero = 1, .named = &named};
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	tdp_find_span(pair.machine.vm, &span);
	tdp_protect_span(pair.machine.vm, &span, &debt);
	let_go(&debt, self);
}

static void span_setup(void *ctx)
{
	(void)ctx;
	start_with_root(protect_span);
}

static void map_mmio(void)
{
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	(void)tdp_map_mmio(vcpu_at(1), tables.root, (gfn_t){1}, 0, &debt);
	let_go(&debt, self);
}

static void mmio_setup(void *ctx)
{
	(void)ctx;
	start_with_root(map_mmio);
}

static bool allow(void *ctx, gfn_t gfn, u32 level)
{
	(void)ctx;
	(void)gfn;
	(void)level;
	return true;
}

static void recover_held(u64 pages, struct flush_debt *debt)
{
	const struct tdp_recovery recovery = {.end = {pages}, .allowed = allow};

	tdp_recover_range(pair.machine.vm, &recovery, debt);
}

static void recover_gigantic(void)
{
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	recover_held(GIGANTIC_PAGES, &debt);
	let_go(&debt, self);
}

static void recover_setup(void *ctx)
{
	(void)ctx;
	start_with_root(recover_gigantic);
}

/* The table that the first thread has put in a huge leaf's place is another when it looks. */
static void recover_and_split(void)
{
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	recover_held(HUGE_PAGES, &debt);
	map_held(1, QUIRE_LEVEL_4K, &debt);
	let_go(&debt, self);
}

static void split_setup(void *ctx)
{
	(void)ctx;
	start_with_root(recover_and_split);
	map(0, QUIRE_LEVEL_2M);
}

static void look_at_run(const struct walk_run *run, void *ctx)
{
	(void)ctx;
	if (run->level == QUIRE_LEVEL_4K)
		(void)atomic_load_relaxed_u64(run->entries);
}

/* By the tables alone: no visitor has seen the entry that leads to the lowest one. */
static void walk_down(void)
{
	const struct tdp_visit visit = {.lowest = QUIRE_LEVEL_4K, .visit = look_at_run};
	struct flush_debt debt;
	struct quire_thread *self = hold(&debt);

	(void)tdp_walk(pair.machine.vm, 0, &visit, (gfn_t){0}, (gfn_t){1});
	let_go(&debt, self);
}

/*
 * The entry is frozen while TLBs have the huge page, and a walker waits for what it becomes: when
 * it looks again, another table than the one that was filled before it froze.
 */
static void break_body(uint32_t thread, void *ctx)
{
	struct quire_thread *self;
	struct flush_debt debt;

	(void)ctx;
	if (thread) {
		tables.reader();
		return;
	}
	self = hold(&debt);
	map_held(0, QUIRE_LEVEL_4K, &debt);
	recover_held(HUGE_PAGES, &debt);
	map_held(1, QUIRE_LEVEL_4K, &debt);
	let_go(&debt, self);
}

static void break_setup(void *ctx)
{
	(void)ctx;
	pair.machine.format = QUIRE_FORMAT_ARM64_4;
	start_with_root(walk_down);
	map(0, QUIRE_LEVEL_2M);
}

static bool is_sound_broken(void *ctx)
{
	pair.machine.format = QUIRE_FORMAT_NPT;
	return is_sound(ctx);
}

/* --- roots --- */

static void root_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		tables.reader();
	else
		(void)tdp_root_get(pair.machine.vm, &vcpu_at(0)->tables, 0);
}

/* What it is handed may be looked at, without a fence. */
static void load_root(void)
{
	const struct table *root = tdp_root_get(pair.machine.vm, &vcpu_at(1)->tables, 0);

	if (root->level != pair.machine.vm->tdp_format.root_level)
		abort();
}

static void root_load_setup(void *ctx)
{
	(void)ctx;
	start(load_root);
}

static void root_walk_setup(void *ctx)
{
	(void)ctx;
	start(walk_down);
}

static void root_span_setup(void *ctx)
{
	(void)ctx;
	start(protect_span);
}

/*
 * The root goes, and another comes in the same page: a vCPU that compares the two takes it for the
 * one that it has loaded, whose contents it knows.
 */
static void remake(void)
{
	struct quire_vm *vm = pair.machine.vm;
	struct flush_debt debt;

	flush_debt_init(&debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
	/* Too late: the root has tables, which would have to go with it. */
	if (entry_is_present(&vm->tdp_format, table_entries(tables.root)[0])) {
		biglock_write_unlock(&vm->mmu_lock);
		return;
	}
	tdp_roots_invalidate(vm, &debt);
	flush_domain_request(&vm->flush, QUIRE_REQ_RELOAD);
	biglock_write_unlock(&vm->mmu_lock);
	reclaim_synchronize();
	table_cache_put(&vcpu_at(1)->tables, debt.tables);
	(void)tdp_root_make(vm, &vcpu_at(1)->tables, 0);
}

/* Another root, with whatever hung on the one that goes. */
static void replace(void)
{
	struct quire_vm *vm = pair.machine.vm;
	struct flush_debt debt;

	flush_debt_init(&debt, &vm->flush);
	biglock_write_lock(&vm->mmu_lock);
	tdp_roots_invalidate(vm, &debt);
	flush_domain_request(&vm->flush, QUIRE_REQ_RELOAD);
	biglock_write_unlock(&vm->mmu_lock);
	tdp_debt_settle(vm, &debt);
	(void)tdp_root_make(vm, &vcpu_at(1)->tables, 0);
}

static void replaced_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		replace();
	else
		tables.reader();
}

static void remade_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		remake();
	else
		tables.reader();
}

#define ERROR_WRITE (QUIRE_PFERR_WRITE | QUIRE_PFERR_USER)

static void fault_quickly(void)
{
	const struct fault fault = {.gfn = {0}, .error_code = ERROR_WRITE | QUIRE_PFERR_PRESENT};

	(void)!fault_fast(vcpu_at(0), &fault);
}

static void fast_setup(void *ctx)
{
	(void)ctx;
	start_with_root(fault_quickly);
	pair_map(0);
}

static void fault_wholly(void)
{
	const struct fault fault = {.gfn = {0}, .error_code = ERROR_WRITE};
	struct quire_memory_fault told;

	(void)!fault_resolve(vcpu_at(0), &fault, &told);
}

static void install_setup(void *ctx)
{
	(void)ctx;
	start_with_root(fault_wholly);
	pair_map(0);
}

/* Without a slot there. */
static void no_slot_setup(void *ctx)
{
	(void)ctx;
	start_with_root(fault_wholly);
}

static void fault_reserved(void)
{
	(void)!fault_mmio_entry(vcpu_at(0), (gfn_t){0});
}

static void reserved_setup(void *ctx)
{
	(void)ctx;
	start_with_root(fault_reserved);
}

static void prefault(void)
{
	uint64_t done_bytes;

	(void)!quire_vcpu_prefault(vcpu_at(0), (gpa_t){0}, QUIRE_PAGE_SIZE, &done_bytes);
}

static void prefault_setup(void *ctx)
{
	(void)ctx;
	start_with_root(prefault);
	pair_map(0);
}

/* --- guest mode, and what a log leaves --- */

static u32 guarded;

static void enter_setup(void *ctx)
{
	(void)ctx;
	start_with_root(NULL);
	guarded = 0;
}

/* While guest mode is closed, the closer alone is at what guests use. */
static void enter_body(uint32_t thread, void *ctx)
{
	struct quire_vm *vm = pair.machine.vm;
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)ctx;
	if (!thread) {
		if (quire_vcpu_enter(vcpu_at(0), &requests, &stage2))
			abort();
		(void)*(volatile u32 *)&guarded;
		quire_vcpu_leave(vcpu_at(0));
		return;
	}
	biglock_write_lock(&vm->mmu_lock);
	if (flush_domain_close(&vm->flush)) {
		guarded++;
		flush_domain_open(&vm->flush);
	}
	biglock_write_unlock(&vm->mmu_lock);
}

/* A vCPU that takes a request knows what it was raised for. */
static void request_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		guarded++;
		guest_mode_request(&pair.machine.vm->flush, &vcpu_at(0)->mode, QUIRE_REQ_TLB_FLUSH);
		return;
	}
	if (guest_mode_enter(&vcpu_at(0)->mode) & QUIRE_REQ_TLB_FLUSH)
		(void)*(volatile u32 *)&guarded;
	guest_mode_leave(&vcpu_at(0)->mode);
}

static struct dirty_bitmap bitmap;
static u64 bits; /* of the bitmap */

/* Memory that is given back is another thread's, to write. */
static void free_bits(void *ctx, void *mem, size_t size_bytes)
{
	(void)ctx;
	(void)mem;
	(void)size_bytes;
	*(volatile u64 *)&bits = 1;
}

static void bits_setup(void *ctx)
{
	(void)ctx;
	memset(&bitmap, 0, sizeof(bitmap));
	bitmap.refs = 2;
}

/* The slot's reference, and that of a call which copies the log. */
static void bits_body(uint32_t thread, void *ctx)
{
	static const struct quire_host_ops ops = {.free = free_bits};

	(void)ctx;
	if (thread)
		(void)*(volatile u64 *)&bits;
	dirty_bitmap_put(&ops, NULL, &bitmap);
}

static bool is_good(void *ctx)
{
	(void)ctx;
	return true;
}

const struct pair pairs_tables[] = {
    {"table linked, looked at", 1, find_setup, link_body, is_sound, 0},
    {"table linked, walked", 1, walk_setup, link_body, is_sound, 0},
    {"table linked, a span protected", 1, span_setup, link_body, is_sound, 0},
    {"table linked, MMIO mapped", 1, mmio_setup, link_body, is_sound, 0},
    {"table linked, recovery", 1, recover_setup, link_body, is_sound, 0},
    {"table linked, another by now", 1, split_setup, link_body, is_sound, 0},
    {"table linked, entry thawed", 1, break_setup, break_body, is_sound_broken, 0},
    {"root made, loaded", 1, root_load_setup, root_body, is_sound, 0},
    {"root made, walked", 1, root_walk_setup, root_body, is_sound, 0},
    {"root made, a span protected", 2, root_span_setup, root_body, is_sound, 0},
    {"root made anew, fast fault", 1, fast_setup, remade_body, is_sound, 0},
    {"root made anew, mapping", 1, install_setup, remade_body, is_sound, 0},
    {"root made anew, no slot", 1, no_slot_setup, remade_body, is_sound, 0},
    {"root made anew, MMIO entry", 1, reserved_setup, remade_body, is_sound, 0},
    {"root made anew, prefault", 1, prefault_setup, replaced_body, is_sound, 0},
    {"guest mode, entered, and a closer", 3, enter_setup, enter_body, is_sound, 0},
    {"guest mode, entered, and a request", 2, enter_setup, request_body, is_sound, 0},
    {"bitmap given back twice", 1, bits_setup, bits_body, is_good, 0},
    {.name = NULL},
};
