/*
 * The parts of the shadow MMU by themselves, at the edges of what they take: the last entry before
 * a range ends, the last object in hand, the write that is no entry's, the page that is one too
 * many; and what another thread does between two steps of one.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/shadow/internal.h"
#include "tests/unit/shadow/by_hand.h"

#define RIGHTS (ACCESS_ALL << ROLE_ACCESS_SHIFT)
#define OF_L2 (ROLE_GUEST_MODE | ROLE_WP)

static u64 *entry_at(const struct shadow_page *page, u32 index)
{
	return &table_entries(page->table)[index];
}

static bool is_there(const struct shadow_page *page, u32 index)
{
	return *entry_at(page, index) != SHADOW_BITS->nonpresent;
}

static u64 leaf_word(u32 level, uint64_t frame)
{
	const struct entry_leaf leaf = {
	    .pfn = {frame},
	    .level = level,
	    .writable = true,
	    .host_writable = true,
	    .mmu_writable = true,
	    .executable = true,
	    .accessed = true,
	};

	return entry_make_leaf(SHADOW_BITS, &leaf);
}

/* A leaf for @gfn, whose frame has that number, too. */
static int put_at(struct shadow_page *page, u32 index, uint64_t gfn)
{
	const struct shadow_leaf leaf = {
	    .gfn = {gfn}, .access = ACCESS_ALL, .value = leaf_word(role_level(page->role), gfn)};

	return shadow_add_leaf(&change, entry_at(page, index), &leaf);
}

/* Of a direct page, for the gfn that the index says. */
static void put(struct shadow_page *page, u32 index)
{
	assert_int_equal(put_at(page, index, shadow_leaf_gfn(page, index).v), 0);
}

/* Another thread's store just before access number @at of this one to @where. */
static struct {
	const void *where;
	uint32_t count, at;
	void (*store)(void);
} meanwhile;
static struct quire_platform meddling;

static void meddle(const char *what, const void *where)
{
	(void)what;
	if (where == meanwhile.where && ++meanwhile.count == meanwhile.at)
		meanwhile.store();
}

static void meddle_begin(const void *where, uint32_t at, void (*store)(void))
{
	meanwhile.where = where;
	meanwhile.count = 0;
	meanwhile.at = at;
	meanwhile.store = store;
	meddling = sched_platform;
	meddling.sched_point = meddle;
	quire_platform_install(&meddling);
}

static void meddle_end(void)
{
	quire_platform_install(&sched_platform);
}

static int age(uint64_t start, uint64_t end_gfn, enum quire_age kind)
{
	const struct shadow_age_range range = {.start = {start}, .end = {end_gfn}, .kind = kind};

	return shadow_age(world.vm, &range);
}

/* At each level: blocks that the range touches, and no other. */
static void test_age_ends_with_the_range(void **state)
{
	(void)state;
	for (u32 level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_1G; level++) {
		const uint64_t pages = level_pages((enum quire_level)level);
		struct shadow_page *page;

		begin();
		page = page_get(ROLE_DIRECT | level, 0);
		put(page, 0);
		put(page, 1);
		assert_int_equal(age(0, pages, QUIRE_AGE_CLEAR), 1);
		assert_int_equal(*entry_at(page, 0), leaf_word(level, 0) & ~SHADOW_BITS->accessed);
		assert_int_equal(*entry_at(page, 1), leaf_word(level, pages));
		assert_int_equal(age(0, pages, QUIRE_AGE_CLEAR), 0);
		assert_int_equal(age(0, pages + 1, QUIRE_AGE_TEST), 1);
		assert_int_equal(age(2 * pages - 1, 2 * pages, QUIRE_AGE_TEST), 1);
		assert_int_equal(age(2 * pages, 3 * pages, QUIRE_AGE_TEST), 0);
		assert_int_equal(*entry_at(page, 1), leaf_word(level, pages));
		shadow_page_zap(&change, page);
		end();
	}
}

static u64 *raced;

static void store_empty(void)
{
	*raced = 0;
}

/* Another thread takes the only entry away: aging finds nothing, and leaves the head alone. */
static void test_head_empties_while_aged(void **state)
{
	struct shadow_page *page;
	u64 value;

	(void)state;
	begin();
	page = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, 0);
	put(page, 7);
	raced = rmap_head(change.shadow, page, (gfn_t){7}, QUIRE_LEVEL_4K);
	value = *raced;
	/* The first access looks for heads with entries, the second one locks this one. */
	meddle_begin(raced, 2, store_empty);
	assert_int_equal(age(7, 8, QUIRE_AGE_TEST), 0);
	meddle_end();
	assert_int_equal(meanwhile.count, 2);
	*raced = value;
	assert_int_equal(age(7, 8, QUIRE_AGE_TEST), 1);
	shadow_page_zap(&change, page);
	end();
}

static void unlock_raced(unsigned int turn)
{
	assert_int_equal(turn, 0);
	*raced &= ~RMAP_LOCKED;
}

/* A head that is locked is waited for. */
static void test_locked_head_is_waited_for(void **state)
{
	struct quire_platform waiting = sched_platform;
	u64 word = 0, head = (u64)(uintptr_t)&word;

	(void)state;
	begin();
	raced = &head;
	head |= RMAP_LOCKED;
	waiting.relax = unlock_raced;
	quire_platform_install(&waiting);
	assert_int_equal(rmap_lock(&head), (u64)(uintptr_t)&word);
	quire_platform_install(&sched_platform);
	assert_int_equal(head, (u64)(uintptr_t)&word | RMAP_LOCKED);
	rmap_unlock(&head, 0);
	assert_int_equal(head, 0);
	end();
}

static void mark_raced(void)
{
	*raced |= SHADOW_BITS->accessed;
}

/* The processor marks the entry between its reading and the store: what was there has the mark. */
static void test_mark_is_not_lost(void **state)
{
	struct shadow_page *page;
	u64 old, new, seen;

	(void)state;
	begin();
	page = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, 0);
	old = leaf_word(QUIRE_LEVEL_4K, 3) & ~SHADOW_BITS->accessed;
	new = old & ~(SHADOW_BITS->writable | SHADOW_BITS->dirty);
	raced = entry_at(page, 3);
	*raced = old;
	meddle_begin(raced, 2, mark_raced);
	seen = shadow_store(&change, raced, QUIRE_LEVEL_4K, new);
	meddle_end();
	assert_int_equal(seen, old | SHADOW_BITS->accessed);
	assert_int_equal(*raced, new);
	/* It was refused once. */
	assert_int_equal(meanwhile.count, 3);
	*raced = SHADOW_BITS->nonpresent;
	shadow_page_zap(&change, page);
	end();
}

/* What finds no memory says so, and changes nothing. */
static void test_sets_without_memory(void **state)
{
	struct object_cache no_objects = {0}, *objects;
	struct table_cache no_tables = {0}, *tables;
	struct shadow_page *page, *other, *child, *above;
	u64 leaves, huge;

	(void)state;
	begin();
	objects = change.descriptors;
	tables = change.rmaps;
	page = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, 0);
	other = page_get(ROLE_DIRECT | ROLE_NX | QUIRE_LEVEL_4K, 0);
	above = page_get(ROLE_DIRECT | QUIRE_LEVEL_2M, 0);
	child = page_get(ROLE_DIRECT | ROLE_WP | QUIRE_LEVEL_4K, 512);
	put(page, 3);
	leaves = world.vm->leaves[QUIRE_LEVEL_4K];
	huge = world.vm->leaves[QUIRE_LEVEL_2M];
	change.descriptors = &no_objects;
	/* The second leaf of a gfn takes an object, and so does the second parent. */
	assert_int_equal(put_at(other, 3, 3), 1);
	assert_false(is_there(other, 3));
	assert_int_equal(shadow_link(&change, entry_at(above, 1), child), 0);
	assert_int_equal(shadow_link(&change, entry_at(above, 2), child), 1);
	assert_false(is_there(above, 2));
	assert_int_equal(rmap_count(child->parents), 1);
	change.rmaps = &no_tables;
	/* Heads of so high gfns were never there. */
	assert_int_equal(put_at(above, 5, UINT64_C(1) << 32), 1);
	assert_false(is_there(above, 5));
	assert_int_equal(world.vm->leaves[QUIRE_LEVEL_4K], leaves);
	assert_int_equal(world.vm->leaves[QUIRE_LEVEL_2M], huge);
	change.descriptors = objects;
	change.rmaps = tables;
	shadow_page_zap(&change, page);
	shadow_page_zap(&change, other);
	shadow_page_zap(&change, above);
	end();
}

static struct object_slabs slabs;
static struct table *pushed;

static void push_another(void)
{
	pushed->next = slabs.tables;
	slabs.tables = pushed;
	slabs.count++;
}

/* Two threads carve pages at once: both pages are on the list, and go back with it. */
static void test_slabs_of_two_threads(void **state)
{
	struct table_cache tables = {0};
	struct object_cache cache = {0};
	uint64_t used = arena_used(&world.vm->arena);
	uint32_t listed = 0;

	(void)state;
	slabs = (struct object_slabs){.arena = &world.vm->arena};
	assert_int_equal(object_cache_fill(&cache, &slabs, 1), 0);
	assert_int_equal(table_cache_fill(&tables, slabs.arena, 1), 0);
	pushed = table_cache_take(&tables);
	meddle_begin(&slabs.tables, 2, push_another);
	assert_int_equal(object_cache_fill(&cache, &slabs, cache.count + 1), 0);
	meddle_end();
	for (const struct table *table = slabs.tables; table; table = table->next)
		listed++;
	assert_int_equal(listed, 3);
	assert_int_equal(slabs.count, 3);
	table_cache_drain(&tables, slabs.arena);
	object_slabs_free(&slabs);
	assert_int_equal(arena_used(&world.vm->arena), used);
}

/* A page of L1's that is looked up again was written no time since. */
static void test_found_again(void **state)
{
	struct shadow_key key = {.gfn = {SOME_GFN}, .role = OF_L2 | QUIRE_LEVEL_2M | RIGHTS};
	struct shadow_page *page;
	int made = 7;

	(void)state;
	begin();
	page = shadow_page_get(&change, &key, &made);
	assert_int_equal(made, 1);
	page->writes = 2;
	assert_ptr_equal(shadow_page_get(&change, &key, &made), page);
	assert_int_equal(made, 0);
	assert_int_equal(page->writes, 0);
	shadow_page_zap(&change, page);
	end();
}

/* Of three pages the one that loses its parent is the next to go; an obsolete one stays where it
 * is.
 */
static void test_orphans(void **state)
{
	struct shadow_page *pages[3];
	struct shadow *shadow = world.vm->shadow;

	(void)state;
	for (uint32_t which = 0; which < 3; which++) {
		begin();
		for (uint32_t i = 0; i < 3; i++)
			pages[i] = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, UINT64_C(512) * i);
		pages[which]->generation--;
		shadow_page_orphan(&change, pages[which]);
		assert_int_equal(pages[which]->orphan, 0);
		assert_ptr_not_equal(shadow->oldest, pages[which]);
		pages[which]->generation++;
		shadow_page_orphan(&change, pages[which]);
		assert_int_equal(pages[which]->orphan, 1);
		assert_int_equal(shadow->orphans, 1);
		assert_ptr_equal(shadow->oldest, pages[which]);
		assert_ptr_equal(shadow->newest, pages[which == 2 ? 1 : 2]);
		/* The second time it is obsolete. */
		shadow_page_orphan(&change, pages[which]);
		assert_int_equal(shadow->orphans, 1);
		for (uint32_t i = 0; i < 3; i++)
			shadow_page_zap(&change, pages[i]);
		assert_int_equal(shadow->orphans, 0);
		end();
	}
}

/* Zap one page of @role: it gives @tables tables back, and asks vCPUs for new roots, or not. */
static void check_zap(u32 role, u32 kept, u32 tables, u32 is_root)
{
	struct shadow *shadow = world.vm->shadow;
	uint64_t turn = shadow->root_turn, flushes = world.vm->flush.flushes;
	struct shadow_page *page;
	uint64_t used, changes, pages, zapped = world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped);
	u32 objects;

	begin();
	pages = shadow->pages;
	page = page_get(role, SOME_GFN);
	page->kept = (u16)kept;
	used = arena_used(&world.vm->arena);
	objects = shadow->pool.count;
	changes = shadow->changes;
	for (uint32_t i = 0; i < WORLD_CPUS; i++)
		world.cpus[i].vcpu->mode.doorbell = 0;
	shadow_page_zap(&change, page);
	assert_int_equal(shadow->changes, changes + 32);
	assert_int_equal(shadow->pages, pages);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped), zapped + 1);
	assert_int_equal(shadow->root_gone, is_root);
	assert_ptr_equal(shadow->zapped, page);
	assert_false(debt.owed);
	shadow_commit(world.vm, &debt);
	assert_null(shadow->zapped);
	assert_int_equal(shadow->root_gone, 0);
	assert_int_equal(shadow->root_turn, turn + is_root);
	assert_int_equal(world.vm->flush.flushes, flushes + 1);
	assert_int_equal(arena_used(&world.vm->arena), used - tables);
	assert_int_equal(shadow->pool.count, objects + 1);
	for (uint32_t i = 0; i < WORLD_CPUS; i++)
		assert_int_equal(world.cpus[i].vcpu->mode.doorbell,
				 QUIRE_REQ_TLB_FLUSH | (is_root ? QUIRE_REQ_RELOAD : 0));
	end();
	/* Nothing is left to do. */
	assert_int_equal(world.vm->flush.flushes, flushes + 1);
	assert_int_equal(shadow->root_turn, turn + is_root);
}

static void test_zap_of_a_page(void **state)
{
	(void)state;
	check_zap(ROLE_DIRECT | QUIRE_LEVEL_4K, 0, 1, 0);
	check_zap(OF_L2 | QUIRE_LEVEL_4K, 0, 2, 0);
	check_zap(OF_L2 | QUIRE_LEVEL_1G, 1, 2, 0);
	check_zap(OF_L2 | QUIRE_LEVEL_512G, 0, 1, 0);
	check_zap(OF_L2 | QUIRE_LEVEL_512G, 1, 1, 1);
}

/* The mappings of one gfn go, and its neighbours' stay. */
static void test_zap_of_one_gfn(void **state)
{
	struct shadow_page *page;

	(void)state;
	begin();
	page = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, 0);
	for (u32 i = 5; i < 8; i++)
		put(page, i);
	shadow_zap_gfn_leaves(&change, 0, (gfn_t){6});
	for (u32 i = 5; i < 8; i++)
		assert_int_equal(is_there(page, i), i != 6);
	shadow_page_zap(&change, page);
	end();
}

/* The library writes within a table: is an entry dropped, or the page? */
struct written {
	u32 role;
	u64 offset, size_bytes;
	u32 first, count; /* of the entries that go; 0: the page goes, UINT32_MAX: none */
};
#define GOES 0
#define NONE UINT32_MAX
static const struct written writes[] = {
    {QUIRE_LEVEL_4K, 8, 8, 1, 1},
    {QUIRE_LEVEL_4K, 8, 4, 1, 1},
    {QUIRE_LEVEL_4K, 12, 4, 1, 1},
    {QUIRE_LEVEL_4K, 11, 5, 1, 1},
    {QUIRE_LEVEL_4K, 8, 1, 1, 1},
    {QUIRE_LEVEL_4K, 9, 1, 0, GOES},
    {QUIRE_LEVEL_4K, 8, 2, 0, GOES},
    {QUIRE_LEVEL_4K, 8, 3, 0, GOES},
    {QUIRE_LEVEL_4K, 12, 8, 0, GOES},
    {QUIRE_LEVEL_4K, 13, 4, 0, GOES},
    {QUIRE_LEVEL_4K, 8, 16, 0, GOES},
    {QUIRE_LEVEL_2M, 24, 8, 3, 1},
    /* 4 bytes an entry: two pages for the halves of a table, and four for a directory's quarters.
     */
    {QUIRE_LEVEL_4K | ROLE_4_BYTES, 12, 4, 3, 1},
    {QUIRE_LEVEL_4K | ROLE_4_BYTES, 4, 1, 1, 1},
    {QUIRE_LEVEL_4K | ROLE_4_BYTES, 6, 1, 0, GOES},
    {QUIRE_LEVEL_4K | ROLE_4_BYTES, 8, 8, 0, GOES},
    {QUIRE_LEVEL_4K | ROLE_4_BYTES, 2048 + 12, 4, 0, NONE},
    {QUIRE_LEVEL_4K | ROLE_4_BYTES | 1u << ROLE_QUADRANT_SHIFT, 2048 + 12, 4, 3, 1},
    {QUIRE_LEVEL_2M | ROLE_4_BYTES, 4, 4, 2, 2},
    {QUIRE_LEVEL_2M | ROLE_4_BYTES, 1024 + 4, 4, 0, NONE},
    {QUIRE_LEVEL_2M | ROLE_4_BYTES | 1u << ROLE_QUADRANT_SHIFT, 1024 + 4, 4, 2, 2},
};

static struct shadow_page *found(u32 role)
{
	const struct shadow_key key = {.gfn = {SOME_GFN}, .role = role | RIGHTS};

	return shadow_page_find(change.shadow, &key);
}

static void check_written(const struct written *written)
{
	const struct shadow_write write = {.gpa = {PAGE(SOME_GFN) + written->offset},
					   .size_bytes = written->size_bytes};
	u32 role = written->role | OF_L2, level = role_level(role);
	uint64_t flooded = world_stat(&world, QUIRE_VM_STAT_mmu_flooded);
	uint64_t zapped = world_stat(&world, QUIRE_VM_STAT_mmu_pde_zapped), turn;
	struct shadow_page *page;

	begin();
	page = page_get(role, SOME_GFN);
	for (u32 i = 0; i < 8; i++)
		assert_int_equal(put_at(page, i, i * level_pages((enum quire_level)level)), 0);
	turn = change.shadow->write_turn;
	shadow_written(world.vm, &write, &debt);
	assert_int_equal(change.shadow->write_turn, turn + 1);
	assert_int_equal(found(role) == NULL, written->count == GOES);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_flooded) - flooded,
			 written->count == GOES);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_pde_zapped) - zapped,
			 level > 1 && written->count != NONE ? written->count : 0);
	for (u32 i = 0; i < 8 && found(role); i++)
		assert_int_equal(is_there(page, i),
				 written->count == NONE || i - written->first >= written->count);
	if (found(role))
		shadow_page_zap(&change, page);
	end();
}

static void test_writes_to_tables(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++)
		check_written(&writes[i]);
}

/* A table above the lowest level that is written three times while no walk uses it is none. */
static void test_flood(void **state)
{
	const struct shadow_write write = {.gpa = {PAGE(SOME_GFN) + 16}, .size_bytes = 8};
	const struct shadow_write elsewhere = {
	    .gpa = {PAGE(SOME_GFN) + 16}, .size_bytes = 8, .as_id = 1};

	(void)state;
	for (u32 level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_2M; level++) {
		u32 role = OF_L2 | level;

		begin();
		(void)page_get(role, SOME_GFN);
		for (uint32_t i = 1; i <= 5; i++) {
			shadow_written(world.vm, &elsewhere, &debt);
			shadow_written(world.vm, &write, &debt);
			assert_int_equal(found(role) == NULL, level > QUIRE_LEVEL_4K && i >= 3);
		}
		if (found(role))
			shadow_page_zap(&change, found(role));
		end();
	}
}

/* Two pages of one gfn in one bucket: a write drops what both made of it, and each once. */
static void test_write_to_two_pages(void **state)
{
	const struct shadow_write write = {.gpa = {PAGE(SOME_GFN) + 16}, .size_bytes = 8};
	struct shadow_page *pages[2];

	(void)state;
	begin();
	for (u32 i = 0; i < 2; i++) {
		pages[i] = page_get(OF_L2 | QUIRE_LEVEL_2M | (i ? ROLE_NX : 0), SOME_GFN);
		assert_int_equal(put_at(pages[i], 2, 512), 0);
	}
	shadow_written(world.vm, &write, &debt);
	for (u32 i = 0; i < 2; i++) {
		assert_false(is_there(pages[i], 2));
		assert_int_equal(pages[i]->writes, 1);
		shadow_page_zap(&change, pages[i]);
	}
	end();
}

/* Leaves of the address spaces that were asked for go, of the range and of no gfn beside it. */
static void test_zap_of_a_range(void **state)
{
	(void)state;
	assert_int_equal(world.vm->address_spaces, 2);
	for (u32 mask = 0; mask < 4; mask++) {
		struct shadow_zap zap = {.as_mask = mask,
					 .range = shadow_range_of(0, (gfn_t){6}, (gfn_t){8}),
					 .tracked = {6}};
		struct shadow_page *pages[2];
		uint32_t rounds = 0;

		begin();
		for (u32 as = 0; as < 2; as++) {
			pages[as] =
			    page_get(ROLE_DIRECT | QUIRE_LEVEL_4K | as << ROLE_SMM_SHIFT, 0);
			for (u32 i = 5; i < 9; i++)
				put(pages[as], i);
		}
		while (shadow_zap_range(world.vm, &zap, &debt))
			assert_true(++rounds < 16);
		for (u32 as = 0; as < 2; as++)
			for (u32 i = 5; i < 9; i++)
				assert_int_equal(is_there(pages[as], i),
						 !(mask >> as & 1) || i == 5 || i == 8);
		for (u32 as = 0; as < 2; as++)
			shadow_page_zap(&change, pages[as]);
		end();
	}
}

/* Each of L1's tables in the range goes, one in a hold of the lock; those beside it stay. */
static void test_zap_of_tables(void **state)
{
	struct shadow_zap zap = {
	    .as_mask = 1,
	    .range = shadow_range_of(0, (gfn_t){SOME_GFN + 1}, (gfn_t){SOME_GFN + 4}),
	    .tracked = {SOME_GFN + 1}};
	struct shadow_path path = {.count = 0};
	uint32_t rounds = 0;
	struct shadow_page *pages[5];

	(void)state;
	begin();
	for (u32 i = 0; i < 5; i++) {
		const struct shadow_key key = {.gfn = {SOME_GFN + i},
					       .role = OF_L2 | QUIRE_LEVEL_4K | RIGHTS};

		path.count = 0;
		assert_int_equal(shadow_page_follow(&change, &key, &path, QUIRE_LEVEL_4K), 1);
		pages[i] = path.pages[QUIRE_LEVEL_4K];
		assert_int_equal(gfn_is_tracked(world.vm, 0, key.gfn), 1);
	}
	while (shadow_zap_range(world.vm, &zap, &debt))
		rounds++;
	assert_int_equal(rounds, 2);
	for (u32 i = 0; i < 5; i++) {
		const struct shadow_key key = {.gfn = {SOME_GFN + i},
					       .role = OF_L2 | QUIRE_LEVEL_4K | RIGHTS};
		bool stays = i == 0 || i == 4;

		assert_ptr_equal(shadow_page_find(change.shadow, &key), stays ? pages[i] : NULL);
		assert_int_equal(gfn_is_tracked(world.vm, 0, key.gfn), stays);
		if (stays)
			shadow_page_zap(&change, pages[i]);
	}
	end();
}

/* No page of before is used again, and each hold of the lock takes one, as they are not small. */
static void test_obsolete_pages(void **state)
{
	struct shadow *shadow = world.vm->shadow;
	uint64_t turn, root_turn, pages;

	(void)state;
	begin();
	for (u32 i = 0; i < 4; i++)
		(void)page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, UINT64_C(512) * i);
	turn = shadow->write_turn;
	root_turn = shadow->root_turn;
	world.vm->mmu_valid_gen ^= 1;
	shadow_make_obsolete(world.vm);
	assert_int_equal(shadow->root_gone, 1);
	assert_int_equal(shadow->write_turn, turn + 1);
	for (pages = shadow->pages; pages > 1; pages--) {
		assert_int_equal(shadow_zap_obsolete(world.vm, &debt), 1);
		assert_int_equal(shadow->pages, pages - 1);
	}
	assert_int_equal(shadow_zap_obsolete(world.vm, &debt), 0);
	assert_int_equal(shadow->pages, 0);
	shadow_commit(world.vm, &debt);
	assert_int_equal(shadow->root_turn, root_turn + 1);
	world.vm->mmu_valid_gen ^= 1;
	end();
}

/* A VM without a shadow MMU has nothing to take away. */
static void test_without_shadow_mmu(void **state)
{
	struct shadow_zap zap = {.as_mask = 3, .range = shadow_range_of(0, (gfn_t){0}, (gfn_t){8})};
	struct shadow_range range = shadow_range_of(0, (gfn_t){0}, (gfn_t){8});
	struct shadow_recovery recovery = {.range = range};

	(void)state;
	world_nested(&world, 0);
	world_stop_vm(&world);
	world_start_vm(&world);
	world_add_cpu(&world);
	assert_null(world.vm->shadow);
	flush_debt_init(&debt, &world.vm->flush);
	biglock_write_lock(&world.vm->mmu_lock);
	assert_int_equal(shadow_zap_gfn(world.vm, 0, (gfn_t){5}, &debt), 0);
	assert_int_equal(shadow_zap_range(world.vm, &zap, &debt), 0);
	assert_int_equal(shadow_zap_obsolete(world.vm, &debt), 0);
	assert_int_equal(shadow_shrink(world.vm, &debt), 0);
	assert_int_equal(shadow_write_protect(world.vm, &range, &debt), 0);
	assert_int_equal(shadow_recover(world.vm, &recovery, &debt), 0);
	assert_int_equal(age(0, 8, QUIRE_AGE_CLEAR), 0);
	shadow_make_obsolete(world.vm);
	shadow_commit(world.vm, &debt);
	biglock_write_unlock(&world.vm->mmu_lock);
}

#define EDGE_TEST(name) cmocka_unit_test_setup_teardown(name, by_hand_setup, world_teardown_l2)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    EDGE_TEST(test_age_ends_with_the_range),
	    EDGE_TEST(test_head_empties_while_aged),
	    EDGE_TEST(test_locked_head_is_waited_for),
	    EDGE_TEST(test_mark_is_not_lost),
	    EDGE_TEST(test_sets_without_memory),
	    EDGE_TEST(test_slabs_of_two_threads),
	    EDGE_TEST(test_found_again),
	    EDGE_TEST(test_orphans),
	    EDGE_TEST(test_zap_of_a_page),
	    EDGE_TEST(test_zap_of_one_gfn),
	    EDGE_TEST(test_writes_to_tables),
	    EDGE_TEST(test_flood),
	    EDGE_TEST(test_write_to_two_pages),
	    EDGE_TEST(test_zap_of_a_range),
	    EDGE_TEST(test_zap_of_tables),
	    EDGE_TEST(test_obsolete_pages),
	    EDGE_TEST(test_without_shadow_mmu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
