/* The reverse map: which private page of which VM a host frame holds, in software. */
#include "src/gmem/rmp.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/tree/radix.h"
#include "src/vm/vm.h"

#define BLOCK_PAGES 512u
#define BLOCK_WORDS (BLOCK_PAGES / 64)
#define TREE_HEIGHT 4u
#define PFN_BITS (9u + TREE_HEIGHT * RADIX_BITS)

/* A claim is the VM's id and a gfn in one word. */
#define CLAIM_GFN_BITS 40u
#define CLAIM_GFN_MASK ((UINT64_C(1) << CLAIM_GFN_BITS) - 1)
#define CLAIM_IDS (UINT64_C(1) << (64 - CLAIM_GFN_BITS))

/*
 * 512 frames. Their claims are as a rule consecutive: then @base, the claim of the first frame,
 * says them all, and the block costs a byte for 20 KiB of guest memory. The others are LISTED.
 */
struct rmp_block {
	struct mutex lock;
	u64 base;		   /* (a) written under @lock while nothing is assigned by it */
	u64 assigned[BLOCK_WORDS]; /* (a) a bit a frame, as the two below; written under @lock */
	u64 valid[BLOCK_WORDS];
	u64 listed[BLOCK_WORDS];
	u64 *list; /* (a) claims of listed frames, or NULL */
};

struct rmp {
	const struct quire_host_ops *host;
	void *host_ctx;
	struct rmp *next; /* under the registry's lock, as the two below */
	u64 refs;
	u64 last_id;
	u64 root; /* (a) of a radix tree of blocks */
};

/* Maps there are: one for each host and host_ctx. */
static struct {
	struct mutex lock;
	struct rmp *maps;
} registry = {.lock = {.rank = RANK_RMP}};

void rmp_start_anew(void)
{
	registry.maps = NULL;
	mutex_init(&registry.lock, RANK_RMP);
}

static u64 claim_make(u64 id, u64 gfn)
{
	return id << CLAIM_GFN_BITS | (gfn & CLAIM_GFN_MASK);
}

static u64 claim_id(u64 claim)
{
	return claim >> CLAIM_GFN_BITS;
}

/* The claim that @base implies @off frames on: the gfn wraps, the id stays. */
static u64 claim_add(u64 base, u64 off)
{
	return claim_make(claim_id(base), base + off);
}

static bool bit_get(const u64 *words, u32 off)
{
	return atomic_load_acquire_u64(&words[off / 64]) >> off % 64 & 1;
}

/*
 * Under the block's lock, as all that writes the words. A bit that is cleared releases, too: a look
 * without the lock that finds a frame unlisted goes on to the base, which was written before.
 * Partner: bit_get() without the lock.
 */
static void bits_put(u64 *words, u32 off, u64 mask, bool set)
{
	u64 *word = &words[off / 64];
	u64 there = atomic_load_relaxed_u64(word);

	atomic_store_release_u64(word, set ? there | mask : there & ~mask);
}

static struct rmp_block *block_find(const struct rmp *map, pfn_t pfn)
{
	const u64 *word = radix_find(&map->root, TREE_HEIGHT, pfn.v / BLOCK_PAGES);

	return word ? (struct rmp_block *)(uintptr_t)atomic_load_acquire_u64(word) : NULL;
}

/* Publish @made, which may be NULL, at @link, unless something is there: that then. */
static void *link_set(const struct rmp *map, void **link, void *made, size_t size_bytes)
{
	void *there = NULL;

	if (!made || atomic_cmpxchg_ptr(link, &there, made))
		return made;
	CHECK(there && there != made);
	map->host->free(map->host_ctx, made, size_bytes);
	return there;
}

/* What @link points to, made when it is missing; NULL without memory. To be loaded again, with an
 * acquire load, before it is used. */
static void *link_make(const struct rmp *map, void **link, size_t size_bytes)
{
	void *there = atomic_load_relaxed_ptr(link);

	if (there)
		return there;
	return link_set(map, link, map->host->alloc(map->host_ctx, size_bytes), size_bytes);
}

static struct rmp_block *block_make(struct rmp *map, pfn_t pfn)
{
	struct radix_host host = {map->host, map->host_ctx};
	const struct radix_memory memory = {radix_host_make, radix_host_free, &host};
	struct rmp_block *block = block_find(map, pfn);
	u64 *word;

	if (block)
		return block;
	word = radix_make(&map->root, TREE_HEIGHT, pfn.v / BLOCK_PAGES, &memory);
	if (!word)
		return NULL;
	block = map->host->alloc(map->host_ctx, sizeof(*block));
	if (block)
		mutex_init(&block->lock, RANK_RMP);
	return link_set(map, (void **)word, block, sizeof(*block));
}

static u64 frame_claim(const struct rmp_block *block, u32 off)
{
	/* There is one list, and the thread that sets the bit knows it. */
	const u64 *list = atomic_load_relaxed_ptr(&block->list);

	if (list && bit_get(block->listed, off))
		return atomic_load_relaxed_u64(&list[off]);
	return claim_add(atomic_load_relaxed_u64(&block->base), off);
}

/* What a VM wants of the frames [off, end) of a block: consecutive claims from @claim on. */
struct rmp_change {
	u64 claim;
	u32 off, end;
	bool anew;    /* -EEXIST where it owns one of them already */
	bool pending; /* the hardware has not agreed yet: none is valid */
	bool fresh;   /* result: it did not own them all */
};

/* May the frame become @claim's? Under the block's lock. */
static int frame_check(const struct rmp_block *block, u32 off, u64 claim, bool anew)
{
	u64 there;

	if (!bit_get(block->assigned, off))
		return 0;
	there = frame_claim(block, off);
	if (claim_id(there) != claim_id(claim))
		return -EIO;
	if (anew)
		return -EEXIST;
	return there == claim || !bit_get(block->valid, off) ? 0 : -EIO;
}

static bool block_is_empty(const struct rmp_block *block)
{
	u64 seen = 0;

	for (u32 i = 0; i < BLOCK_WORDS; i++)
		seen |= atomic_load_relaxed_u64(&block->assigned[i]);
	return !seen;
}

/* Under the block's lock; the frame is free for @claim, and there is a list if one is needed. */
static void frame_assign(struct rmp_block *block, u32 off, u64 claim, bool pending)
{
	u64 *list = atomic_load_relaxed_ptr(&block->list), bit = UINT64_C(1) << off % 64;
	bool listed = claim_add(atomic_load_relaxed_u64(&block->base), off) != claim;

	CHECK(lock_is_held(&block->lock, LOCK_EXCLUSIVE));
	CHECK(!frame_check(block, off, claim, false));
	if (listed)
		atomic_store_relaxed_u64(&list[off], claim);
	bits_put(block->listed, off, bit, listed);
	bits_put(block->assigned, off, bit, true);
	CHECK(frame_claim(block, off) == claim);
	if (!pending)
		bits_put(block->valid, off, bit, true);
}

/* All of the frames or none: -EIO, -EEXIST, or -EAGAIN without a list that is needed. */
static int block_assign(struct rmp_block *block, struct rmp_change *change)
{
	u64 first = claim_add(change->claim, -(u64)change->off);
	bool listed;
	int error = 0;

	CHECK(change->off < change->end && change->end <= BLOCK_PAGES);
	change->fresh = false;
	mutex_lock(&block->lock);
	listed = atomic_load_acquire_ptr(&block->list) != NULL; /* made without the lock */
	if (block_is_empty(block))
		atomic_store_relaxed_u64(&block->base, first);
	for (u32 i = change->off; i < change->end && (!error || error == -EAGAIN); i++) {
		u64 own = claim_add(first, i);
		int refused = frame_check(block, i, own, change->anew);

		if (refused)
			error = refused;
		else if (claim_add(block->base, i) != own && !listed)
			error = -EAGAIN;
	}
	for (u32 i = change->off; i < change->end && !error; i++) {
		change->fresh |= !bit_get(block->assigned, i);
		frame_assign(block, i, claim_add(first, i), change->pending);
	}
	CHECK(error || bit_get(block->assigned, change->off));
	CHECK(!error || !change->fresh);
	mutex_unlock(&block->lock);
	return error;
}

static int rmp_assign(const struct rmp_vm *rmp, pfn_t pfn, struct rmp_change *change)
{
	struct rmp_block *block;
	int error;

	if (pfn.v >> PFN_BITS || change->end > BLOCK_PAGES)
		return -EINVAL;
	block = block_make(rmp->map, pfn);
	if (!block)
		return -ENOMEM;
	error = block_assign(block, change);
	if (error != -EAGAIN)
		return error;
	/* A list is made without the lock, and then stays. */
	if (!link_make(rmp->map, (void **)&block->list, BLOCK_PAGES * sizeof(u64)))
		return -ENOMEM;
	return block_assign(block, change);
}

/*
 * Every frame valid, and all by *@base, whose gfn is aligned. The base is read last: one that was
 * listed until it went over to another base was valid by no base before.
 */
static bool block_is_huge(const struct rmp_block *block, u64 *base)
{
	for (u32 i = 0; i < BLOCK_WORDS; i++)
		if (~atomic_load_acquire_u64(&block->valid[i]))
			return false;
	for (u32 i = 0; i < BLOCK_WORDS; i++)
		if (atomic_load_acquire_u64(&block->listed[i]))
			return false;
	*base = atomic_load_relaxed_u64(&block->base);
	return is_aligned_u64(*base, BLOCK_PAGES);
}

/* Pages from @pfn on that are found private at @gfn on together, at most @max: 0 for none. */
static u64 private_run(const struct rmp_vm *rmp, gfn_t gfn, pfn_t pfn, u64 max)
{
	const struct rmp_block *block = NULL;
	u64 base;

	if (max >= BLOCK_PAGES && is_aligned_u64(pfn.v, BLOCK_PAGES) && !(pfn.v >> PFN_BITS))
		block = block_find(rmp->map, pfn);
	if (block && block_is_huge(block, &base) && base == claim_make(rmp->id, gfn.v))
		return BLOCK_PAGES;
	return rmp_allows(rmp, gfn, pfn) ? 1 : 0;
}

static int rmp_is_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	u64 pages = UINT64_C(1) << order;

	for (u64 at = 0, run; at < pages; at += run) {
		run = private_run(ctx, (gfn_t){gfn.v + at}, (pfn_t){pfn.v + at}, pages - at);
		if (!run)
			return 0;
	}
	return 1;
}

enum frame_end { FRAME_INVALIDATED, FRAME_FREED };

/* Under the block's lock: frames [@off, @end) of a word, all of one guest or free, none listed. */
static void word_end(struct rmp_block *block, u32 off, u32 end, enum frame_end how)
{
	u64 mask = ~UINT64_C(0) >> (64 - (end - off)) << off % 64;

	CHECK(lock_is_held(&block->lock, LOCK_EXCLUSIVE));
	CHECK(off < end && off / 64 == (end - 1) / 64);
	bits_put(block->valid, off, mask, false);
	if (how == FRAME_FREED)
		bits_put(block->assigned, off, mask, false);
}

/* Under the block's lock. */
static void frame_end_one(struct rmp_block *block, u32 off, u64 id, enum frame_end how)
{
	if (claim_id(frame_claim(block, off)) == id)
		word_end(block, off, off + 1, how);
}

static void block_end(const struct rmp_vm *rmp, struct rmp_block *block, u32 off, u32 end,
		      enum frame_end how)
{
	mutex_lock(&block->lock);
	while (off < end) {
		u32 stop = (u32)min_u64(end, round_down_u64(off, 64) + 64);

		/* The base's id is the id of all that are not listed. */
		if (!atomic_load_relaxed_u64(&block->listed[off / 64])) {
			if (claim_id(block->base) == rmp->id)
				word_end(block, off, stop, how);
			off = stop;
			continue;
		}
		for (; off < stop; off++)
			frame_end_one(block, off, rmp->id, how);
	}
	mutex_unlock(&block->lock);
}

/* Frames that are not this VM's (a make_private() that was refused) stay as they are. */
static void frames_end(const struct rmp_vm *rmp, pfn_t pfn, u64 npages, enum frame_end how)
{
	u64 end = pfn.v + npages;

	while (pfn.v < end) {
		struct rmp_block *block = block_find(rmp->map, pfn);
		u64 first = round_down_u64(pfn.v, BLOCK_PAGES);
		u64 stop = min_u64(end, first + BLOCK_PAGES);

		if (block)
			block_end(rmp, block, (u32)(pfn.v - first), (u32)(stop - first), how);
		pfn.v = stop;
	}
}

static void rmp_invalidate(void *ctx, pfn_t pfn, u64 npages)
{
	const struct rmp_vm *rmp = ctx;

	if (rmp->hardware && rmp->hardware->invalidate)
		rmp->hardware->invalidate(rmp->hardware_ctx, pfn, npages);
	frames_end(rmp, pfn, npages, FRAME_INVALIDATED);
}

static void rmp_reclaim(void *ctx, pfn_t pfn, u64 npages)
{
	const struct rmp_vm *rmp = ctx;

	if (rmp->hardware && rmp->hardware->reclaim)
		rmp->hardware->reclaim(rmp->hardware_ctx, pfn, npages);
	frames_end(rmp, pfn, npages, FRAME_FREED);
}

static void rmp_make_shared(void *ctx, pfn_t pfn, u64 npages)
{
	const struct rmp_vm *rmp = ctx;
	const struct quire_confidential_ops *ops = rmp->hardware;

	if (ops && ops->make_shared)
		ops->make_shared(rmp->hardware_ctx, pfn, npages);
	else if (ops && ops->reclaim)
		ops->reclaim(rmp->hardware_ctx, pfn, npages);
	frames_end(rmp, pfn, npages, FRAME_FREED);
}

/* The hardware has agreed: the frames are valid, unless the host gave them to another meanwhile. */
static int rmp_validate(const struct rmp_vm *rmp, pfn_t pfn, const struct rmp_change *change)
{
	u64 first = claim_add(change->claim, -(u64)change->off);
	struct rmp_block *block = block_find(rmp->map, pfn);
	int error = 0;

	mutex_lock(&block->lock);
	for (u32 i = change->off; i < change->end; i++) {
		if (bit_get(block->assigned, i) && frame_claim(block, i) == claim_add(first, i))
			bits_put(block->valid, i, UINT64_C(1) << i % 64, true);
		else
			error = -EIO;
	}
	mutex_unlock(&block->lock);
	return error;
}

/* The frames are assigned. What the hardware refuses is as before. */
static int hardware_take(struct rmp_vm *rmp, gfn_t gfn, pfn_t pfn, const struct rmp_change *change)
{
	const struct quire_confidential_ops *ops = rmp->hardware;
	u64 npages = change->end - change->off;
	unsigned int order = npages == 1 ? 0 : QUIRE_TABLE_BITS;
	int error = ops->make_private ? ops->make_private(rmp->hardware_ctx, gfn, pfn, order) : 0;

	if (error) {
		frames_end(rmp, pfn, npages, change->fresh ? FRAME_FREED : FRAME_INVALIDATED);
		return error;
	}
	if (change->fresh && !change->anew && ops->prepare)
		error = ops->prepare(rmp->hardware_ctx, gfn, pfn, order);
	if (error) {
		rmp_make_shared(rmp, pfn, npages);
		return error;
	}
	return rmp_validate(rmp, pfn, change);
}

static int rmp_take(struct rmp_vm *rmp, gfn_t gfn, pfn_t pfn, struct rmp_change *change)
{
	int error;

	change->claim = claim_make(rmp->id, gfn.v);
	change->pending = rmp->hardware != NULL;
	error = rmp_assign(rmp, pfn, change);
	return error || !rmp->hardware ? error : hardware_take(rmp, gfn, pfn, change);
}

static int rmp_make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	u32 off = pfn.v % BLOCK_PAGES;
	struct rmp_change change = {.off = off, .end = off + (1u << order)};

	return rmp_take(ctx, gfn, pfn, &change);
}

static int rmp_claim(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	u32 off = pfn.v % BLOCK_PAGES;
	struct rmp_change change = {.off = off, .end = off + (1u << order), .anew = true};

	return rmp_take(ctx, gfn, pfn, &change);
}

static const struct gmem_arch_ops rmp_ops = {
    .make_private = rmp_make_private,
    .claim = rmp_claim,
    .is_private = rmp_is_private,
    .invalidate = rmp_invalidate,
    .make_shared = rmp_make_shared,
    .reclaim = rmp_reclaim,
};

int rmp_allows(const struct rmp_vm *rmp, gfn_t gfn, pfn_t pfn)
{
	const struct rmp_block *block = pfn.v >> PFN_BITS ? NULL : block_find(rmp->map, pfn);
	u32 off = pfn.v % BLOCK_PAGES;

	return block && bit_get(block->valid, off) &&
	       frame_claim(block, off) == claim_make(rmp->id, gfn.v);
}

int rmp_is_free(const struct rmp_vm *rmp, pfn_t pfn)
{
	const struct rmp_block *block = pfn.v >> PFN_BITS ? NULL : block_find(rmp->map, pfn);

	return !block || !bit_get(block->assigned, pfn.v % BLOCK_PAGES);
}

void rmp_read(const struct rmp_vm *rmp, pfn_t pfn, struct rmp_entry *entry)
{
	const struct rmp_block *block = pfn.v >> PFN_BITS ? NULL : block_find(rmp->map, pfn);
	u32 off = pfn.v % BLOCK_PAGES;
	u64 base;

	*entry = (struct rmp_entry){.level = QUIRE_LEVEL_4K};
	if (!block || !bit_get(block->assigned, off))
		return;
	entry->vm_id = claim_id(frame_claim(block, off));
	entry->gfn.v = frame_claim(block, off) & CLAIM_GFN_MASK;
	entry->valid = bit_get(block->valid, off);
	if (block_is_huge(block, &base))
		entry->level = QUIRE_LEVEL_2M;
}

static void free_block(void *ctx, u64 word)
{
	struct rmp_block *block = (struct rmp_block *)(uintptr_t)word;
	const struct radix_host *host = ctx;

	CHECK(block_is_empty(block));
	if (block->list)
		host->ops->free(host->ctx, block->list, BLOCK_PAGES * sizeof(u64));
	host->ops->free(host->ctx, block, sizeof(*block));
}

static void tree_free(struct rmp *map)
{
	struct radix_host host = {map->host, map->host_ctx};
	const struct radix_memory memory = {radix_host_make, radix_host_free, &host};

	radix_free(&map->root, TREE_HEIGHT, &memory, free_block);
}

/* Under the registry's lock. @made is used when there is none yet. */
static struct rmp *map_get(const struct quire_vm *vm, struct rmp *made)
{
	struct rmp *map = registry.maps;

	CHECK(lock_is_held(&registry.lock, LOCK_EXCLUSIVE));
	while (map && (map->host != vm->host || map->host_ctx != vm->host_ctx))
		map = map->next;
	if (!map) {
		map = made;
		map->host = vm->host;
		map->host_ctx = vm->host_ctx;
		map->next = registry.maps;
		registry.maps = map;
	}
	map->refs++;
	return map;
}

static void map_put(struct quire_vm *vm, struct rmp *map)
{
	struct rmp **link = &registry.maps;

	mutex_lock(&registry.lock);
	CHECK(map->refs);
	if (--map->refs) {
		mutex_unlock(&registry.lock);
		return;
	}
	while (*link != map)
		link = &(*link)->next;
	*link = map->next;
	mutex_unlock(&registry.lock);
	tree_free(map);
	vm_free(vm, map, sizeof(*map));
}

int rmp_join(struct quire_vm *vm, struct rmp_vm **result)
{
	struct rmp *made = vm_alloc(vm, sizeof(*made));
	struct rmp_vm *rmp = vm_alloc(vm, sizeof(*rmp));

	CHECK(!base_self()->held_count && !base_self()->nesting);
	if (!made || !rmp) {
		vm_free(vm, made, sizeof(*made));
		vm_free(vm, rmp, sizeof(*rmp));
		return -ENOMEM;
	}
	mutex_lock(&registry.lock);
	rmp->map = map_get(vm, made);
	rmp->id = ++rmp->map->last_id;
	CHECK(rmp->map->refs && rmp->id);
	mutex_unlock(&registry.lock);
	if (rmp->map != made)
		vm_free(vm, made, sizeof(*made));
	rmp->arch = (struct gmem_arch){.ops = &rmp_ops, .ctx = rmp};
	rmp->hardware = vm->config.confidential;
	rmp->hardware_ctx = vm->config.confidential_ctx;
	*result = rmp;
	if (rmp->id < CLAIM_IDS)
		return 0;
	rmp_leave(vm, rmp);
	return -ENOSPC;
}

void rmp_leave(struct quire_vm *vm, struct rmp_vm *rmp)
{
	if (!rmp)
		return;
	map_put(vm, rmp->map);
	vm_free(vm, rmp, sizeof(*rmp));
}
