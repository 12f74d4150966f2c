/* Shadow pages: found by gfn and role, made, zapped, freed after the flush. */

#include "src/shadow/internal.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

struct shadow_page *shadow_page_find(const struct shadow *shadow, const struct shadow_key *key)
{
	struct shadow_page *page = shadow->buckets[shadow_bucket(key->gfn)];

	mmu_assert_exclusive(shadow->vm);
	for (; page; page = page->hash_next)
		if (page->gfn.v == key->gfn.v && page->role == key->role &&
		    !shadow_page_is_obsolete(shadow, page))
			return page;
	return NULL;
}

static void hash_add(const struct shadow_change *change, struct shadow_page *page)
{
	struct shadow_page **bucket = &change->shadow->buckets[shadow_bucket(page->gfn)];
	u64 *most = &change->vm->stats[QUIRE_VM_STAT_max_mmu_page_hash_collisions];
	u64 others = 0;

	for (const struct shadow_page *other = *bucket; other; other = other->hash_next)
		others += other->gfn.v != page->gfn.v;
	if (others > *most)
		atomic_store_relaxed_u64(most, others);
	CHECK(!shadow_page_find(change->shadow, &(struct shadow_key){page->gfn, page->role}));
	CHECK(!page->hash_next && page->table->shadowed);
	page->hash_next = *bucket;
	*bucket = page;
}

static void hash_remove(struct shadow *shadow, const struct shadow_page *page)
{
	struct shadow_page **link = &shadow->buckets[shadow_bucket(page->gfn)];

	while (*link != page)
		link = &(*link)->hash_next;
	*link = page->hash_next;
}

static void list_add(struct shadow *shadow, struct shadow_page *page)
{
	CHECK(!shadow->newest == !shadow->oldest);
	CHECK(!shadow->newest == !shadow->pages);
	CHECK(!page->older && !page->newer);
	page->older = shadow->newest;
	if (shadow->newest)
		shadow->newest->newer = page;
	else
		shadow->oldest = page;
	shadow->newest = page;
}

static void list_remove(struct shadow *shadow, const struct shadow_page *page)
{
	CHECK(page->newer ? page->newer->older == page : shadow->newest == page);
	CHECK(page->older ? page->older->newer == page : shadow->oldest == page);
	*(page->newer ? &page->newer->older : &shadow->newest) = page->older;
	*(page->older ? &page->older->newer : &shadow->oldest) = page->newer;
}

/* The page's memory, or NULL with nothing taken. */
static struct shadow_page *page_alloc(const struct shadow_change *change, u32 role)
{
	/* Only leaves have gfns, and the highest levels have no leaves. */
	bool gfns = !(role & ROLE_DIRECT) && role_level(role) <= QUIRE_LEVEL_1G;
	struct shadow_page *page;

	CHECK(role_level(role) >= QUIRE_LEVEL_4K && role_level(role) <= SHADOW_LEVEL_MAX);
	if (change->pages->count < 1u + gfns)
		return NULL;
	page = object_take(change->headers);
	if (!page)
		return NULL;
	page->table = table_cache_take(change->pages);
	if (gfns)
		page->gfns = table_cache_take(change->pages);
	CHECK(page->table && !page->gfns == !gfns);
	return page;
}

void shadow_page_init(const struct shadow_change *change, struct shadow_page *page,
		      const struct shadow_key *key)
{
	struct table *table = page->table;

	mmu_assert_exclusive(change->vm);
	CHECK(!page->gfns || role_level(key->role) <= QUIRE_LEVEL_1G);
	CHECK(role_as(key->role) < change->vm->address_spaces);
	page->gfn = key->gfn;
	page->role = key->role;
	page->generation = change->vm->mmu_valid_gen;
	table->level = (u8)role_level(key->role);
	nx_table_init(table, key->gfn, role_as(key->role));
	table->shadowed = 1;
	table->reserved_words[0] = (u64)(uintptr_t)page;
	table_fill(table, SHADOW_BITS->nonpresent);
}

struct shadow_page *shadow_page_get(const struct shadow_change *change,
				    const struct shadow_key *key, int *made)
{
	struct shadow *shadow = change->shadow;
	struct shadow_page *page = shadow_page_find(shadow, key);

	mmu_assert_exclusive(change->vm);
	*made = 0;
	if (page) {
		CHECK(page->table->level == role_level(key->role) && page->table->shadowed);
		page->writes = 0;
		QUIRE_TRACE(kvm_mmu_get_page, page->generation, page->gfn.v, page->role, 0,
			    page->unsync, 0);
		return page;
	}
	page = page_alloc(change, key->role);
	if (!page)
		return NULL;
	shadow_page_init(change, page, key);
	hash_add(change, page);
	list_add(shadow, page);
	shadow->pages++;
	CHECK(shadow->newest == page && shadow_page_find(shadow, key) == page);
	atomic_add_relaxed_u64(&change->vm->stats[QUIRE_VM_STAT_mmu_shadow_pages], 1);
	vm_count(change->vm, QUIRE_VM_STAT_mmu_cache_miss);
	*made = 1;
	QUIRE_TRACE(kvm_mmu_get_page, page->generation, page->gfn.v, page->role, 0, 0, 1);
	return page;
}

gfn_t shadow_leaf_gfn(const struct shadow_page *page, u32 index)
{
	if (page->gfns)
		return (gfn_t){table_entries(page->gfns)[index] >> QUIRE_PAGE_SHIFT};
	return (gfn_t){page->gfn.v + index * level_pages((enum quire_level)role_level(page->role))};
}

u32 shadow_leaf_access(const struct shadow_page *page, u32 index)
{
	if (page->gfns)
		return table_entries(page->gfns)[index] & ACCESS_ALL;
	return role_access(page->role);
}

/* At the old end, with the other obsolete pages. */
void shadow_page_orphan(const struct shadow_change *change, struct shadow_page *page)
{
	struct shadow *shadow = change->shadow;

	mmu_assert_exclusive(change->vm);
	if (shadow_page_is_obsolete(shadow, page))
		return;
	CHECK(!page->parents && !page->kept);
	page->orphan = 1;
	list_remove(shadow, page);
	page->newer = shadow->oldest;
	page->older = NULL;
	*(page->newer ? &page->newer->older : &shadow->newest) = page;
	shadow->oldest = page;
	atomic_store_relaxed_u64(&shadow->orphans, shadow->orphans + 1);
	CHECK(shadow->orphans <= shadow->pages);
}

/* What zapping an empty page costs, in changes of entries. */
#define ZAP_CHANGES 32u

void shadow_page_zap(const struct shadow_change *change, struct shadow_page *page)
{
	struct shadow *shadow = change->shadow;
	u64 *entries = table_entries(page->table);

	mmu_assert_exclusive(change->vm);
	QUIRE_TRACE(kvm_mmu_prepare_zap_page, page->generation, page->gfn.v, page->role, 0,
		    page->unsync);
	CHECK(shadow->pages && (!page->orphan || !page->parents));
	CHECK(!page->orphan || shadow->orphans);
	shadow->changes += ZAP_CHANGES;
	hash_remove(shadow, page);
	list_remove(shadow, page);
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		if (entry_is_present(SHADOW_BITS, atomic_load_relaxed_u64(&entries[i])))
			shadow_drop(change, &entries[i]);
	while (page->parents) {
		u64 *parent = rmap_any(page->parents);

		(void)shadow_store(change, parent, role_level(shadow_page_of(parent)->role),
				   SHADOW_BITS->nonpresent);
		if (BROKEN(!rmap_remove(&page->parents, parent, &shadow->pool)))
			break;
	}
	if (page->orphan)
		atomic_store_relaxed_u64(&shadow->orphans, shadow->orphans - 1);
	nx_list_remove(change->vm, page->table);
	if (page->tracked)
		gfn_track_remove(change->vm, role_as(page->role), page->gfn);
	if (page->unsync)
		shadow_unsync_forget(change, page);
	if (shadow_page_is_root(page))
		shadow->root_gone = 1;
	CHECK(!page->parents && !page->unsync);
	CHECK(!page->table->nx_listed);
	page->hash_next = shadow->zapped;
	shadow->zapped = page;
	shadow->pages--;
	atomic_add_relaxed_u64(&change->vm->stats[QUIRE_VM_STAT_mmu_shadow_pages], -UINT64_C(1));
	vm_count(change->vm, QUIRE_VM_STAT_mmu_shadow_zapped);
}

/* First the turn, then the request, whose full fence keeps the two in order. */
static void tell_vcpus(struct quire_vm *vm, struct shadow *shadow)
{
	if (!shadow->root_gone)
		return;
	CHECK(shadow == vm->shadow && shadow->root_turn);
	shadow->root_gone = 0;
	atomic_store_relaxed_u64(&shadow->root_turn, shadow->root_turn + 1);
	flush_domain_request(&vm->flush, QUIRE_REQ_RELOAD);
}

void shadow_commit(struct quire_vm *vm, struct flush_debt *debt)
{
	struct shadow *shadow = shadow_of(vm);
	struct table_cache freed = {0};

	mmu_assert_exclusive(vm);
	if (!shadow)
		return;
	tell_vcpus(vm, shadow);
	/* A processor may still walk what was zapped. */
	if (shadow->zapped)
		flush_debt_owe(debt);
	if (MUTANT(shadow_unflushed))
		flush_debt_forgive(debt, "mutant");
	flush_debt_pay(debt);
	CHECK(!debt->owed && !shadow->root_gone);
	while (shadow->zapped) {
		struct shadow_page *page = shadow->zapped;

		CHECK(!page->parents && page->table->shadowed);
		shadow->zapped = page->hash_next;
		table_cache_put(&freed, page->table);
		if (page->gfns)
			table_cache_put(&freed, page->gfns);
		object_put(&shadow->pool, page);
	}
	table_cache_drain(&freed, &vm->arena);
}
