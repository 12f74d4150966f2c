/*
 * Parts of the library that publish something without a lock, each by itself: tree nodes, dirty
 * rings, the invalidation sequence, guest mode and its flushes. As in primitives.c a plain word
 * stands for what must not be touched too early.
 */
#include <string.h>

#include "hosts/sim/order.h"
#include "src/dirty/ring.h"
#include "src/tlb/flush.h"
#include "src/tree/radix.h"
#include "src/vm/vm.h"
#include "tests/sim/order/primitives.h"

#define NODES 4u
#define INDEX 5u /* of the word that is looked for */
#define HEIGHT 2u
#define RING_ENTRIES 4u

static struct {
	u64 root, nodes[NODES][RADIX_WORDS];
	u32 node_count;
	struct dirty_ring ring;
	struct quire_ring_entry entries[RING_ENTRIES];
	struct mutex slots_lock;
	struct quire_vm vm;
	u64 host, mapped; /* the page that the host shows, and the one that is installed; 0: none */
	struct flush_domain domain;
	struct guest_mode guest;
	u32 value, *shown; /* what a table leads to, and the table */
	u32 *cached;	   /* by the guest's TLB */
	u32 guarded;
	bool good;
} parts;

static void setup(void *ctx)
{
	(void)ctx;
	memset(&parts, 0, sizeof(parts));
	parts.good = true;
}

static bool is_good(void *ctx)
{
	(void)ctx;
	return parts.good;
}

/* Memory that another thread used before is cleared, with plain stores, as a host's may be. */
static u64 *node_make(void *ctx)
{
	u64 *node = parts.nodes[__atomic_fetch_add(&parts.node_count, 1, __ATOMIC_RELAXED)];

	(void)ctx;
	for (u32 i = 0; i <= INDEX; i++)
		*(volatile u64 *)&node[i] = 0;
	return node;
}

/* Another thread was first. */
static void node_free(void *ctx, u64 *node)
{
	(void)ctx;
	(void)node;
}

static const struct radix_memory nodes = {node_make, node_free, NULL};

static void radix_maker(void)
{
	u64 *word = radix_make(&parts.root, HEIGHT, INDEX, &nodes);

	atomic_store_relaxed_u64(word, 7);
}

static void radix_reader(uint32_t thread, void *ctx)
{
	u64 *word;

	(void)ctx;
	if (thread) {
		radix_maker();
		return;
	}
	word = radix_find(&parts.root, HEIGHT, INDEX);
	if (word)
		(void)atomic_load_relaxed_u64(word);
}

static void radix_walker(uint32_t thread, void *ctx)
{
	u64 index = 0;

	(void)ctx;
	if (thread)
		radix_maker();
	else
		(void)!radix_next(&parts.root, HEIGHT, &index, INDEX + 1);
}

static void radix_makers(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	radix_maker();
}

static void ring_setup(void *ctx)
{
	setup(ctx);
	mutex_init(&parts.slots_lock, RANK_SLOTS);
	parts.ring = (struct dirty_ring){
	    .entries = parts.entries, .size = RING_ENTRIES, .soft_limit = RING_ENTRIES};
}

/* A vCPU, the client, and a reset: what is taken back is what was appended. */
static void ring_body(uint32_t thread, void *ctx)
{
	u32 slot = 0;
	u64 offset = 0;

	(void)ctx;
	if (thread == 0) {
		(void)!dirty_ring_append(&parts.ring, 1, INDEX);
	} else if (thread == 1) {
		if (atomic_load_acquire_u32(&parts.entries[0].flags) == 1)
			atomic_store_release_u32(&parts.entries[0].flags, 2);
	} else {
		mutex_lock(&parts.slots_lock);
		if (!dirty_ring_take_reset(&parts.ring, &slot, &offset))
			parts.good &= slot == 1 && offset == INDEX;
		mutex_unlock(&parts.slots_lock);
	}
}

/* A ring of one entry, which the client has given back. */
static void full_ring_setup(void *ctx)
{
	ring_setup(ctx);
	parts.ring.size = parts.ring.soft_limit = 1;
	parts.good = dirty_ring_append(&parts.ring, 1, INDEX);
	parts.entries[0].flags |= 2;
	/* The client may write there at any time, so they are atomic; reset_index orders them. */
	order_guard(&parts.entries[0].slot,
		    sizeof(parts.entries[0]) - offsetof(struct quire_ring_entry, slot));
}

/* The vCPU writes no entry that a reset is still reading, as a machine that loads late would. */
static void full_ring_body(uint32_t thread, void *ctx)
{
	u32 slot;
	u64 offset;

	(void)ctx;
	if (thread) {
		(void)!dirty_ring_append(&parts.ring, 2, INDEX);
		return;
	}
	mutex_lock(&parts.slots_lock);
	parts.good &= !dirty_ring_take_reset(&parts.ring, &slot, &offset);
	mutex_unlock(&parts.slots_lock);
}

static void invalidation_setup(void *ctx)
{
	setup(ctx);
	biglock_init(&parts.vm.mmu_lock, RANK_MMU);
	invalidation_init(&parts.vm.invalidation);
	parts.host = 1;
}

/* The host shows another page: begin and zap, change, end. */
static void invalidate(void)
{
	biglock_write_lock(&parts.vm.mmu_lock);
	invalidation_begin(&parts.vm);
	invalidation_add_range(&parts.vm, (gfn_t){INDEX}, (gfn_t){INDEX + 1});
	atomic_store_relaxed_u64(&parts.mapped, 0);
	biglock_write_unlock(&parts.vm.mmu_lock);
	atomic_store_relaxed_u64(&parts.host, 2);
	biglock_write_lock(&parts.vm.mmu_lock);
	invalidation_end(&parts.vm);
	biglock_write_unlock(&parts.vm.mmu_lock);
}

/* A fault installs no page that the host has taken away: its look comes after its snapshot. */
static void invalidation_body(uint32_t thread, void *ctx)
{
	const struct invalidation *inv = &parts.vm.invalidation;
	u64 snapshot, page;

	(void)ctx;
	if (thread) {
		invalidate();
		return;
	}
	snapshot = invalidation_snapshot(inv);
	page = atomic_load_relaxed_u64(&parts.host);
	biglock_write_lock(&parts.vm.mmu_lock);
	if (!invalidation_retry(inv, snapshot, (gfn_t){INDEX}))
		atomic_store_relaxed_u64(&parts.mapped, page);
	biglock_write_unlock(&parts.vm.mmu_lock);
}

static bool shows_no_old_page(void *ctx)
{
	(void)ctx;
	return parts.mapped != 1;
}

static void kick(void *ctx, void *cookie)
{
	(void)ctx;
	(void)cookie;
}

static void guest_setup(void *ctx)
{
	static const struct quire_host_ops host = {.kick = kick};

	setup(ctx);
	flush_domain_init(&parts.domain, &host, NULL);
	flush_domain_add(&parts.domain, &parts.guest);
	parts.value = 1;
	parts.shown = &parts.value;
}

/* In guest mode once: the walk leads to what may be read, and nothing is kept of it. */
static void run_guest(void)
{
	u32 *found;

	(void)guest_mode_enter(&parts.guest);
	found = atomic_load_acquire_ptr(&parts.shown);
	if (found)
		(void)*(volatile u32 *)found;
	guest_mode_leave(&parts.guest);
}

/* After the flush the guest reaches nothing that was unmapped before it, however often it ran. */
static void flush_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		atomic_store_relaxed_ptr(&parts.shown, NULL);
		flush_domain_request(&parts.domain, QUIRE_REQ_TLB_FLUSH);
		parts.value = 0;
		return;
	}
	run_guest();
	run_guest();
}

/* The same with a TLB: what it has is used without a walk, until the guest is told to drop it. */
static void run_guest_with_tlb(void)
{
	if (guest_mode_enter(&parts.guest) & QUIRE_REQ_TLB_FLUSH)
		parts.cached = NULL;
	if (!parts.cached)
		parts.cached = atomic_load_acquire_ptr(&parts.shown);
	if (parts.cached)
		(void)*(volatile u32 *)parts.cached;
	guest_mode_leave(&parts.guest);
}

static void tlb_body(uint32_t thread, void *ctx)
{
	if (thread) {
		flush_body(thread, ctx);
		return;
	}
	run_guest_with_tlb();
	run_guest_with_tlb();
}

static void close_setup(void *ctx)
{
	guest_setup(ctx);
	biglock_init(&parts.vm.mmu_lock, RANK_MMU);
}

/* While guest mode is closed, the closer alone is at what guests use. */
static void close_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		biglock_write_lock(&parts.vm.mmu_lock);
		if (flush_domain_close(&parts.domain)) {
			parts.guarded++;
			flush_domain_open(&parts.domain);
		}
		biglock_write_unlock(&parts.vm.mmu_lock);
		return;
	}
	for (;;) {
		(void)guest_mode_enter(&parts.guest);
		if (!atomic_load_acquire_u32(&parts.domain.closed))
			break;
		guest_mode_leave(&parts.guest);
		flush_domain_wait_open(&parts.domain);
	}
	(void)*(volatile u32 *)&parts.guarded;
	guest_mode_leave(&parts.guest);
}

const struct pair pairs_part[] = {
    {"radix tree, reader", 3, setup, radix_reader, is_good, 0},
    {"radix tree, walker", 3, setup, radix_walker, is_good, 0},
    {"radix tree, two makers", 3, setup, radix_makers, is_good, 0},
    {"dirty ring", 3, ring_setup, ring_body, is_good, 3},
    {"dirty ring, an entry used again", 3, full_ring_setup, full_ring_body, is_good, 0},
    {"invalidation and a look", 3, invalidation_setup, invalidation_body, shows_no_old_page, 0},
    {"guest mode and a flush", 3, guest_setup, flush_body, is_good, 0},
    {"guest mode with a TLB and a flush", 3, guest_setup, tlb_body, is_good, 0},
    {"guest mode and a closer", 3, close_setup, close_body, is_good, 0},
    {.name = NULL},
};
