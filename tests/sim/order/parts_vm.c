/*
 * Parts of a VM that are used without a lock, each by itself: its slots, the words between a dirty
 * log and its client, a client's requests, write-track counts. As in parts.c a plain word stands
 * for what must not be touched too early.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/reclaim.h"
#include "src/gfn/log.h"
#include "src/gfn/track.h"
#include "src/shadow/shadow.h"
#include "src/vm/vcpu.h"
#include "src/vm/vm.h"
#include "tests/sim/order/part_host.h"

#define PAGES 64u
#define PAGE 5u
#define GPA ((gpa_t){PAGE << QUIRE_PAGE_SHIFT})
#define RING_ENTRIES 4u
#define REQUEST (UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT)

static struct {
	struct quire_vm *vm;
	struct quire_vcpu vcpu;
	struct gfn_track track;
	struct quire_ring_entry entries[RING_ENTRIES];
	u32 value;    /* a plain word */
	u32 page;     /* of the guest's, that the library writes */
	u32 seen;     /* of it, by the client, once its entry was taken */
	u32 table;    /* of the guest's: its page is written */
	u32 followed; /* what was made of it */
	u32 noticed;
} part;

static void setup(void *ctx)
{
	(void)ctx;
	memset(&part, 0, sizeof(part));
	part.vm = part_vm_start(QUIRE_VM_DEFAULT, NULL);
}

static int set_region(u32 slot, u32 npages, u32 flags)
{
	const struct quire_region region = {
	    .slot = slot,
	    .flags = flags,
	    .gpa = {(u64)slot << 32},
	    .size_bytes = npages * QUIRE_PAGE_SIZE,
	    .hva = {(u64)(slot + 1) << 32},
	};

	return quire_vm_set_region(part.vm, &region);
}

static void slot_setup(void *ctx)
{
	setup(ctx);
	if (set_region(0, PAGES, QUIRE_SLOT_LOG_DIRTY))
		abort();
}

/* A slot is found by those that look, or it is not; the other stays. */
static void slots_body(uint32_t thread, void *ctx)
{
	const struct memslot *slot;

	(void)ctx;
	if (thread) {
		part_expect(!set_region(1, PAGES, 0));
		return;
	}
	reclaim_enter();
	slot = memslot_lookup(part.vm, 0, (gfn_t){UINT64_C(1) << 20}, NULL);
	part_expect(!slot || slot->npages == PAGES);
	slot = memslot_lookup(part.vm, 0, (gfn_t){PAGE}, NULL);
	part_expect(slot && slot->npages == PAGES);
	reclaim_leave();
}

static int copy_out(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	for (uint64_t i = 0; i < size_bytes / sizeof(u32); i++)
		(void)part_look((const u32 *)src + i);
	return 0;
}

static void get_log(void)
{
	(void)!quire_vm_get_dirty_log(part.vm, 0, copy_out, NULL);
}

/* The words of one copy are not written before it is over. */
static void logs_body(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	get_log();
}

/* Nor are they freed. */
static void log_end_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		part_expect(!set_region(0, 0, 0));
	else
		get_log();
}

static void request_setup(void *ctx)
{
	setup(ctx);
	part.vcpu.vm = part.vm;
	flush_domain_add(&part.vm->flush, &part.vcpu.mode);
}

/* A vCPU that is asked sees what was done before it. */
static void request_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		part_touch(&part.value);
		quire_vcpu_request(&part.vcpu, REQUEST);
	} else if (quire_vcpu_take_requests(&part.vcpu, REQUEST)) {
		(void)part_look(&part.value);
	}
}

/* A page that the log names already is written by the library, while the client is told of it. */
static void harvest_setup(void *ctx)
{
	slot_setup(ctx);
	dirty_log_mark_own(part.vm, NULL, 0, (gfn_t){PAGE});
}

/* Another thread of the client's may read the page as soon as the client has the word. */
static int copy_word(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)size_bytes;
	part_expect(*(const u64 *)src == 1u << PAGE);
	part.seen = atomic_load_relaxed_u32(&part.page);
	return 0;
}

static void harvest_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		atomic_store_relaxed_u32(&part.page, 1);
		dirty_log_mark_own(part.vm, NULL, 0, (gfn_t){PAGE});
		return;
	}
	part_expect(!quire_vm_get_dirty_log(part.vm, 0, copy_word, NULL));
}

/* The client has read what was written, or the next harvest names the page. */
static bool is_seen_or_named(void *ctx)
{
	bool is_named;

	reclaim_enter();
	is_named = dirty_bitmap_has(memslot_lookup(part.vm, 0, (gfn_t){PAGE}, NULL)->dirty, PAGE);
	reclaim_leave();
	return part_is_good(ctx) && (part.seen || is_named);
}

/* A slot with a ring, in which the page stands, read by the client. */
static void ring_setup(void *ctx)
{
	request_setup(ctx);
	part.vm->ring_bytes = sizeof(part.entries);
	part.vcpu.ring = (struct dirty_ring){
	    .entries = part.entries, .size = RING_ENTRIES, .soft_limit = RING_ENTRIES};
	if (set_region(0, PAGES, QUIRE_SLOT_LOG_DIRTY) ||
	    !dirty_ring_append(&part.vcpu.ring, 0, PAGE))
		abort();
	part.entries[0].flags |= 2;
}

static void take_entry(void)
{
	u64 offset;
	u32 slot;

	mutex_lock(&part.vm->slots_lock);
	part_expect(!dirty_ring_take_reset(&part.vcpu.ring, &slot, &offset));
	mutex_unlock(&part.vm->slots_lock);
	flush_domain_request(&part.vm->flush, QUIRE_REQ_TLB_FLUSH);
	part.seen = atomic_load_relaxed_u32(&part.page);
}

static void own_write_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		take_entry();
		return;
	}
	atomic_store_relaxed_u32(&part.page, 1);
	dirty_log_mark_own(part.vm, &part.vcpu, 0, (gfn_t){PAGE});
}

static bool is_seen_or_told(void *ctx)
{
	return part_is_good(ctx) && (part.seen || part.vcpu.ring.dirty_index == 2);
}

/* The first nested root comes while the library writes, or a fault asks. */
static void track_made_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		part_expect(!shadow_init(part.vm));
	else
		gfn_track_written(part.vm, 0, GPA, sizeof(u64));
}

static void shadow_found_body(uint32_t thread, void *ctx)
{
	const struct shadow *found;

	if (thread) {
		track_made_body(thread, ctx);
		return;
	}
	found = shadow_of(part.vm);
	part_expect(!found || found->vm == part.vm);
}

static void track_asked_body(uint32_t thread, void *ctx)
{
	if (thread) {
		track_made_body(thread, ctx);
		return;
	}
	biglock_read_lock(&part.vm->mmu_lock, NULL);
	part_expect(!gfn_is_tracked(part.vm, 0, (gfn_t){PAGE}));
	biglock_read_unlock(&part.vm->mmu_lock, NULL);
}

static void track_searched_body(uint32_t thread, void *ctx)
{
	if (thread) {
		track_made_body(thread, ctx);
		return;
	}
	biglock_read_lock(&part.vm->mmu_lock, NULL);
	part_expect(!gfn_track_block(part.vm, 0, (gfn_t){0}, PAGES));
	biglock_read_unlock(&part.vm->mmu_lock, NULL);
}

static void track_next_body(uint32_t thread, void *ctx)
{
	gfn_t gfn = {0};

	if (thread) {
		track_made_body(thread, ctx);
		return;
	}
	biglock_read_lock(&part.vm->mmu_lock, NULL);
	part_expect(!gfn_track_next(part.vm, 0, &gfn, (gfn_t){PAGES}));
	biglock_read_unlock(&part.vm->mmu_lock, NULL);
}

static void notice(struct quire_vm *vm, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	(void)vm;
	(void)as_id;
	(void)gpa;
	(void)size_bytes;
	part.noticed = 1;
}

static void track(void)
{
	struct table_cache none = {0};

	biglock_write_lock(&part.vm->mmu_lock);
	if (gfn_track_add(part.vm, 0, (gfn_t){PAGE}, &none) != 1)
		abort();
	biglock_write_unlock(&part.vm->mmu_lock);
}

static void track_setup(void *ctx)
{
	struct table_cache tables = {0};

	setup(ctx);
	part.track.written = notice;
	part.vm->track = &part.track;
	if (table_cache_fill(&tables, &part.vm->arena, TRACK_TABLES))
		abort();
	if (!sparse_make(&part.track.counts[0], PAGE, &tables))
		abort();
}

/* A table is shadowed as it was written, or the writer has its shadow dropped. */
static void track_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		track();
		part.followed = atomic_load_relaxed_u32(&part.table);
	} else {
		atomic_store_relaxed_u32(&part.table, 1);
		gfn_track_written(part.vm, 0, GPA, sizeof(u64));
	}
}

static bool follows_or_noticed(void *ctx)
{
	(void)ctx;
	return part.followed || part.noticed;
}

const struct pair pairs_vm_part[] = {
    {"slots, a lookup and a new one", 2, slot_setup, slots_body, part_is_good, 0},
    {"log, two copies", 2, slot_setup, logs_body, part_is_good, 0},
    {"log, a copy and the end of its slot", 2, slot_setup, log_end_body, part_is_good, 0},
    {"own write and a harvest", 2, harvest_setup, harvest_body, is_seen_or_named, 0},
    {"request of the client's", 3, request_setup, request_body, part_is_good, 0},
    {"own write and a reset of its ring", 2, ring_setup, own_write_body, is_seen_or_told, 0},
    {"shadow MMU, made and found", 2, setup, shadow_found_body, part_is_good, 0},
    {"write-track counts, made and written", 2, setup, track_made_body, part_is_good, 0},
    {"write-track counts, made and asked", 2, setup, track_asked_body, part_is_good, 0},
    {"write-track counts, made and searched", 2, setup, track_searched_body, part_is_good, 0},
    {"write-track counts, made and looked through", 2, setup, track_next_body, part_is_good, 0},
    {"write-track counts and an own write", 2, track_setup, track_body, follows_or_noticed, 0},
    {.name = NULL},
};
