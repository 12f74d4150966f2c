/* Taking shadow mappings and shadow pages away. */
#include "src/shadow/internal.h"
#include "src/vm/locks.h"

#include <errno.h>

/* Obsolete pages zapped in one hold of mmu_lock. */
#define ZAP_BATCH 10u

/* Heads of the blocks that [start, end) touches. */
static u64 first_block(gfn_t start, u32 level)
{
	return start.v / level_pages((enum quire_level)level);
}

static u64 end_block(gfn_t end, u32 level)
{
	u64 pages = level_pages((enum quire_level)level);

	return (end.v + pages - 1) / pages;
}

void shadow_zap_range_leaves(const struct shadow_change *change, u32 as_mask, gfn_t start,
			     gfn_t end)
{
	mmu_assert_exclusive(change->vm);
	for (u32 as = 0; as < change->vm->address_spaces; as++) {
		if (!(as_mask & (1u << as)))
			continue;
		for (u32 level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_1G; level++) {
			struct sparse *heads = &change->shadow->rmaps[as][level - 1];
			u64 *head, at = first_block(start, level);

			while ((head = sparse_next(heads, &at, end_block(end, level))))
				while (rmap_read(head))
					shadow_drop(change, rmap_any(rmap_read(head)));
		}
	}
}

/* The pages that shadow @gfn, and are not pieces of a huge mapping. */
static int zap_shadows(const struct shadow_change *change, u32 as_id, gfn_t gfn)
{
	struct shadow *shadow = change->shadow;
	u32 bucket = shadow_bucket(gfn);
	struct shadow_page *page = shadow->buckets[bucket];
	int any = 0;

	while (page) {
		if (!shadow_page_follows(page, as_id, gfn)) {
			page = page->hash_next;
			continue;
		}
		shadow_page_zap(change, page);
		any = 1;
		/* Its children may have stood in the same row. */
		page = shadow->buckets[bucket];
	}
	if (any)
		atomic_store_release_u64(&shadow->write_turn, shadow->write_turn + 1);
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
#define ENTRY_BYTES_MIN 4u

static bool is_no_table(struct shadow_page *page, const struct shadow_write *write)
{
	u64 last = write->gpa.v + write->size_bytes - 1;

	if (write->size_bytes < ENTRY_BYTES_MIN || write->gpa.v / sizeof(u64) != last / sizeof(u64))
		return true;
	/* The lowest level is written entry by entry. */
	return role_level(page->role) > QUIRE_LEVEL_4K && ++page->writes >= FLOOD_WRITES;
}

static void drop_written(const struct shadow_change *change, struct shadow_page *page,
			 const struct shadow_write *write)
{
	u64 *entry = &table_entries(page->table)[(write->gpa.v & ~QUIRE_PAGE_MASK) / sizeof(u64)];

	if (is_no_table(page, write)) {
		shadow_page_zap(change, page);
		vm_count(change->vm, QUIRE_VM_STAT_mmu_flooded);
		return;
	}
	if (!entry_is_present(SHADOW_FORMAT, atomic_load_relaxed_u64(entry)))
		return;
	if (role_level(page->role) > QUIRE_LEVEL_4K)
		vm_count(change->vm, QUIRE_VM_STAT_mmu_pde_zapped);
	shadow_drop(change, entry);
}

void shadow_written(struct quire_vm *vm, const struct shadow_write *write, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	u32 bucket = shadow_bucket(gfn_of(write->gpa));
	struct shadow_page *page = change.shadow->buckets[bucket];
	u64 turn = change.shadow->write_turn + 1;

	mmu_assert_exclusive(vm);
	atomic_store_release_u64(&change.shadow->write_turn, turn);
	while (page) {
		if (!shadow_page_follows(page, write->as_id, gfn_of(write->gpa)) ||
		    page->write_turn == turn) {
			page = page->hash_next;
			continue;
		}
		page->write_turn = turn;
		drop_written(&change, page, write);
		/* It may have gone, and children of it that stood in the same row. */
		page = change.shadow->buckets[bucket];
	}
}

void shadow_zap_range(struct quire_vm *vm, u32 as_mask, gfn_t start, gfn_t end,
		      struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);

	mmu_assert_exclusive(vm);
	if (!change.shadow)
		return;
	shadow_zap_range_leaves(&change, as_mask, start, end);
	for (u32 as = 0; as < vm->address_spaces; as++) {
		gfn_t gfn = start;

		/* Memory that changes what it is may hold other tables afterwards. */
		while ((as_mask & (1u << as)) && gfn_track_next(vm, as, &gfn, end)) {
			(void)zap_shadows(&change, as, gfn);
			gfn.v++;
		}
	}
}

void shadow_make_obsolete(struct quire_vm *vm)
{
	struct shadow *shadow = shadow_of(vm);

	mmu_assert_exclusive(vm);
	if (!shadow)
		return;
	shadow->root_gone = 1;
	atomic_store_release_u64(&shadow->write_turn, shadow->write_turn + 1);
}

int shadow_zap_obsolete(struct quire_vm *vm, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);
	struct shadow *shadow = change.shadow;

	mmu_assert_exclusive(vm);
	for (u32 count = 0; shadow && count < ZAP_BATCH; count++) {
		struct shadow_page *page = shadow->oldest;

		/* New pages come in front: the first that is not obsolete ends the row. */
		if (!page || !shadow_page_is_obsolete(shadow, page))
			return 0;
		shadow_page_zap(&change, page);
	}
	return shadow != NULL;
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

/* Oldest first, until @want are free. Roots cost their vCPUs a new start: they stay. */
static void recycle(const struct shadow_change *change, u64 want)
{
	struct shadow_page *page = change->shadow->oldest;

	mmu_assert_exclusive(change->vm);
	while (page && shadow_available(change->vm) < want) {
		if (role_level(page->role) == SHADOW_ROOT_LEVEL) {
			page = page->newer;
			continue;
		}
		shadow_page_zap(change, page);
		vm_count(change->vm, QUIRE_VM_STAT_mmu_recycled);
		/* Children went with it, anywhere in the row. */
		page = change->shadow->oldest;
	}
}

static void recycle_roots(const struct shadow_change *change, const struct shadow_page *keep)
{
	struct shadow_page *page = change->shadow->oldest;

	mmu_assert_exclusive(change->vm);
	while (page && shadow_available(change->vm) < MIN_FREE_PAGES) {
		struct shadow_page *newer = page->newer;

		if (page != keep) {
			shadow_page_zap(change, page);
			newer = change->shadow->oldest;
		}
		page = newer;
	}
}

int shadow_make_room(const struct shadow_change *change, const struct shadow_page *keep)
{
	mmu_assert_exclusive(change->vm);
	if (shadow_available(change->vm) >= MIN_FREE_PAGES)
		return 0;
	recycle(change, REFILL_PAGES);
	if (shadow_available(change->vm) < MIN_FREE_PAGES)
		recycle_roots(change, keep);
	return shadow_available(change->vm) ? 0 : -ENOSPC;
}

void shadow_shrink(struct quire_vm *vm, struct flush_debt *debt)
{
	struct shadow_change change = shadow_taking(vm, debt);

	mmu_assert_exclusive(vm);
	if (change.shadow && change.shadow->pages > page_limit(vm))
		recycle(&change, 1);
}
