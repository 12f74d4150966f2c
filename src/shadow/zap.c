/* Taking shadow mappings and shadow pages away. */
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

/* As far as @piece goes. */
static void zap_leaves(const struct shadow_change *change, struct shadow_piece *piece,
		       struct shadow_range *range)
{
	u64 *head;

	while ((head = shadow_range_next(piece, range)))
		while (rmap_read(head))
			shadow_drop(change, rmap_any(rmap_read(head)));
}

void shadow_zap_gfn_leaves(const struct shadow_change *change, u32 as_id, gfn_t gfn)
{
	struct shadow_range range = shadow_range_of(as_id, gfn, (gfn_t){gfn.v + 1});
	struct shadow_piece piece;

	mmu_assert_exclusive(change->vm);
	while (!shadow_range_is_done(&range)) {
		shadow_piece_begin(change->shadow, &piece);
		zap_leaves(change, &piece, &range);
	}
}

/* The pages that shadow @gfn, and are not pieces of a huge mapping. */
static int zap_shadows(const struct shadow_change *change, u32 as_id, gfn_t gfn)
{
	struct shadow *shadow = change->shadow;
	u32 bucket = shadow_bucket(gfn);
	struct shadow_page *page = shadow->buckets[bucket];
	int any = 0;

	mmu_assert_exclusive(change->vm);
	while (page) {
		if (!shadow_page_follows(page, as_id, gfn)) {
			page = page->hash_next;
			continue;
		}
		shadow_page_zap(change, page);
		any = 1;
		page = shadow->buckets[bucket];
	}
	CHECK(!any || shadow->zapped);
	CHECK(!gfn_is_tracked(change->vm, as_id, gfn));
	if (any)
		shadow_end_turn(shadow);
	return any;
}

void shadow_zap_table(struct quire_vm *vm, const struct table *table, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);

	mmu_assert_exclusive(vm);
	shadow_page_zap(&change, shadow_page_of(table_entries(table)));
}

int shadow_zap_gfn(struct quire_vm *vm, u32 as_id, gfn_t gfn, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);

	mmu_assert_exclusive(vm);
	return change.shadow ? zap_shadows(&change, as_id, gfn) : 0;
}

/* A write that is no store of an entry, or one of many while no walk uses the table. */
#define FLOOD_WRITES 3u
#define WRITE_BYTES_MIN 4u

static bool is_no_table(struct shadow_page *page, const struct shadow_write *write)
{
	u64 last = write->gpa.v + write->size_bytes - 1;
	u64 entry_bytes = page->role & ROLE_4_BYTES ? sizeof(u32) : sizeof(u64);

	CHECK(write->size_bytes && gfn_of(write->gpa).v == page->gfn.v);
	CHECK(page->write_turn && !(page->role & ROLE_DIRECT));
	/* The bits that say how an entry was used are in its first byte. */
	if ((write->size_bytes < WRITE_BYTES_MIN &&
	     !(write->size_bytes == 1 && is_aligned_u64(write->gpa.v, entry_bytes))) ||
	    write->gpa.v / entry_bytes != last / entry_bytes)
		return true;
	/* The lowest level is written entry by entry. */
	return role_level(page->role) > QUIRE_LEVEL_4K && ++page->writes >= FLOOD_WRITES;
}

struct written_entries {
	u32 first, end;
};

/* The entries of @page that were made of the entry of L1's which was written. */
static struct written_entries entries_of(const struct shadow_page *page,
					 const struct shadow_write *write)
{
	u32 offset = write->gpa.v & ~QUIRE_PAGE_MASK, index = offset / (u32)sizeof(u64), count = 1;

	if (page->role & ROLE_4_BYTES) {
		/* An entry of a directory maps 4 MiB, and two of the shadow's 2 MiB each. */
		count = role_level(page->role);
		CHECK(count <= QUIRE_LEVEL_2M);
		index = offset / (u32)sizeof(u32) * count;
		if (index / QUIRE_TABLE_ENTRIES != role_quadrant(page->role))
			return (struct written_entries){0};
		index %= QUIRE_TABLE_ENTRIES;
	}
	return (struct written_entries){index, index + count};
}

static void drop_written(const struct shadow_change *change, struct shadow_page *page,
			 const struct shadow_write *write)
{
	u64 *entries = table_entries(page->table);
	struct written_entries written;

	if (is_no_table(page, write)) {
		shadow_page_zap(change, page);
		vm_count(change->vm, QUIRE_VM_STAT_mmu_flooded);
		return;
	}
	written = entries_of(page, write);
	for (u32 i = written.first; i < written.end; i++) {
		if (!entry_is_present(SHADOW_BITS, atomic_load_relaxed_u64(&entries[i])))
			continue;
		if (role_level(page->role) > QUIRE_LEVEL_4K)
			vm_count(change->vm, QUIRE_VM_STAT_mmu_pde_zapped);
		shadow_drop(change, &entries[i]);
	}
}

void shadow_written(struct quire_vm *vm, const struct shadow_write *write, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	u32 bucket = shadow_bucket(gfn_of(write->gpa));
	struct shadow_page *page = change.shadow->buckets[bucket];
	u64 turn;

	mmu_assert_exclusive(vm);
	CHECK((write->gpa.v & ~QUIRE_PAGE_MASK) + write->size_bytes <= QUIRE_PAGE_SIZE);
	shadow_end_turn(change.shadow);
	turn = change.shadow->write_turn;
	while (page) {
		if (!shadow_page_follows(page, write->as_id, gfn_of(write->gpa)) ||
		    page->write_turn == turn) {
			page = page->hash_next;
			continue;
		}
		page->write_turn = turn;
		drop_written(&change, page, write);
		/* It may have gone. */
		page = change.shadow->buckets[bucket];
	}
}

/* Memory that changes what it is may hold other tables afterwards. Nonzero: the piece is over. */
static int zap_tables(const struct shadow_change *change, const struct shadow_piece *piece,
		      struct shadow_zap *zap)
{
	const struct shadow_range *range = &zap->range;

	mmu_assert_exclusive(change->vm);
	while (gfn_track_next(change->vm, range->as_id, &zap->tracked, range->end)) {
		if (shadow_piece_is_over(piece))
			return 1;
		(void)zap_shadows(change, range->as_id, zap->tracked);
		zap->tracked.v++;
	}
	return 0;
}

int shadow_zap_range(struct quire_vm *vm, struct shadow_zap *zap, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	struct shadow_range *range = &zap->range;
	struct shadow_piece piece;

	mmu_assert_exclusive(vm);
	if (!change.shadow)
		return 0;
	CHECK(range->start.v <= range->end.v);
	shadow_piece_begin(change.shadow, &piece);
	while (range->as_id < vm->address_spaces) {
		if (zap->as_mask & (1u << range->as_id)) {
			zap_leaves(&change, &piece, range);
			if (!shadow_range_is_done(range) || zap_tables(&change, &piece, zap))
				return 1;
		}
		*zap = (struct shadow_zap){
		    .as_mask = zap->as_mask,
		    .range = shadow_range_of(range->as_id + 1, range->start, range->end),
		    .tracked = range->start,
		};
	}
	return 0;
}

void shadow_make_obsolete(struct quire_vm *vm)
{
	struct shadow *shadow = shadow_of(vm);

	mmu_assert_exclusive(vm);
	if (!shadow)
		return;
	shadow->root_gone = 1;
	CHECK(!shadow->newest || shadow_page_is_obsolete(shadow, shadow->newest));
	shadow_end_turn(shadow);
}

int shadow_zap_obsolete(struct quire_vm *vm, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	struct shadow *shadow = change.shadow;
	struct shadow_page *page;
	struct shadow_piece piece;

	mmu_assert_exclusive(vm);
	if (!shadow)
		return 0;
	shadow_piece_begin(shadow, &piece);
	/* New pages come in front: the first that is not obsolete ends the row. */
	while ((page = shadow->oldest) && shadow_page_is_obsolete(shadow, page)) {
		if (shadow_piece_is_over(&piece))
			return 1;
		shadow_page_zap(&change, page);
	}
	return 0;
}

void shadow_zap_orphans(struct quire_vm *vm)
{
	const struct shadow *shadow = shadow_of(vm);

	mmu_assert_free(vm);
	while (atomic_load_relaxed_u64(&shadow->orphans)) {
		struct flush_debt debt;

		flush_debt_init(&debt, &vm->flush);
		biglock_write_lock(&vm->mmu_lock);
		(void)!shadow_zap_obsolete(vm, &debt);
		shadow_commit(vm, &debt);
		vm_check(vm);
		biglock_write_unlock(&vm->mmu_lock);
	}
}

/* KVM's: what one mapping may need, and how many to free once there are fewer. */
#define MIN_FREE_PAGES 5u
#define REFILL_PAGES 25u
#define MIN_ALLOC_PAGES 64u
#define MEMORY_SHARE 50u

static u64 page_limit(const struct quire_vm *vm)
{
	u64 limit = atomic_load_relaxed_u64(&vm->nr_mmu_pages);

	if (limit)
		return limit;
	limit = atomic_load_relaxed_u64(&vm->slots.total_pages) / MEMORY_SHARE;
	return max_u64(limit, MIN_ALLOC_PAGES);
}

u64 shadow_available(const struct quire_vm *vm)
{
	u64 limit = page_limit(vm), used = shadow_of(vm)->pages;

	mmu_assert_exclusive(vm);
	return used < limit ? limit - used : 0;
}

/*
 * Oldest first, until @want are free. Roots cost their vCPUs a new start: they stay. Nonzero: the
 * piece, which may be NULL, is over.
 */
static int recycle(const struct shadow_change *change, u64 want, const struct shadow_piece *piece)
{
	struct shadow_page *page = change->shadow->oldest;

	mmu_assert_exclusive(change->vm);
	while (page && shadow_available(change->vm) < want) {
		if (shadow_page_is_root(page)) {
			page = page->newer;
			continue;
		}
		if (piece && shadow_piece_is_over(piece))
			return 1;
		shadow_page_zap(change, page);
		vm_count(change->vm, QUIRE_VM_STAT_mmu_recycled);
		/* Its children are the oldest now. */
		page = change->shadow->oldest;
	}
	return 0;
}

/* Likewise, where roots alone fill what is allowed: of those the oldest. */
static void recycle_roots(const struct shadow_change *change, u64 want,
			  const struct shadow_page *keep)
{
	struct shadow_page *page = change->shadow->oldest;

	mmu_assert_exclusive(change->vm);
	while (page && shadow_available(change->vm) < want) {
		struct shadow_page *newer = page->newer;

		if (page != keep) {
			shadow_page_zap(change, page);
			newer = change->shadow->oldest;
		}
		page = newer;
	}
}

/*
 * All but @keep may go, and no limit is below MIN_ALLOC_PAGES: there is always room. REFILL_PAGES
 * of it, since the fault walks L1's tables again once it has made their pages: were there less than
 * MIN_FREE_PAGES by then, they would be the ones to go, again and again.
 */
void shadow_make_room(const struct shadow_change *change, const struct shadow_page *keep)
{
	mmu_assert_exclusive(change->vm);
	if (shadow_available(change->vm) >= MIN_FREE_PAGES)
		return;
	(void)recycle(change, REFILL_PAGES, NULL);
	recycle_roots(change, REFILL_PAGES, keep);
	CHECK(shadow_available(change->vm));
}

int shadow_shrink(struct quire_vm *vm, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	struct shadow_piece piece;

	mmu_assert_exclusive(vm);
	if (!change.shadow || change.shadow->pages <= page_limit(vm))
		return 0;
	shadow_piece_begin(change.shadow, &piece);
	return recycle(&change, 1, &piece);
}
