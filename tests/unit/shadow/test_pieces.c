/*
 * Huge mappings of L2 that are split by hand, in one hold of mmu_lock: what the pieces are, what a
 * split needs and where it stops. And roots, and the library's writes to tables, by themselves.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/base/lock.h"
#include "src/entry/guest.h"
#include "src/shadow/internal.h"
#include "tests/unit/shadow/world.h"

#define RIGHTS (ACCESS_ALL << ROLE_ACCESS_SHIFT)
#define OF_L2 (ROLE_GUEST_MODE | ROLE_WP)
/* A gfn that holds no table of L1's. */
#define SOME_GFN 900u
#define FIRST_FRAME (UINT64_C(1) << 18)
#define IN_HAND 128u
/* What one split needs, at most. */
#define NEEDS_OBJECTS (QUIRE_TABLE_ENTRIES + 1u)

static struct world world;
static struct flush_debt debt;
static struct shadow_change change;
static struct shadow *shadow;
/* What the lock's holder keeps from the split. */
static struct object_cache hidden_objects;
static struct table_cache hidden_tables;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	world_nested(&world, 1);
	assert_int_equal(world_access(&world, PAGE(5), WORLD_READ).outcome, QUIRE_NESTED_FAULT);
	shadow = world.vm->shadow;
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, 4096), 0);
	hidden_objects = (struct object_cache){0};
	hidden_tables = (struct table_cache){0};
	return 0;
}

/* With enough in hand for many splits, and for the pages that are to be split. */
static void begin(void)
{
	struct arena *arena = &world.vm->arena;
	struct object_cache more = {0};

	assert_int_equal(object_cache_fill(&shadow->split_descriptors, &shadow->slabs, 1024), 0);
	assert_int_equal(object_cache_fill(&shadow->split_headers, &shadow->slabs, IN_HAND), 0);
	assert_int_equal(table_cache_fill(&shadow->split_pages, arena, IN_HAND), 0);
	assert_int_equal(table_cache_fill(&shadow->split_rmaps, arena, IN_HAND), 0);
	assert_int_equal(table_cache_fill(&world.vcpu->tables, arena, IN_HAND), 0);
	assert_int_equal(object_cache_fill(&more, &shadow->slabs, 32), 0);
	change = world_change_begin(&world, &debt);
	object_cache_move(change.headers, &more);
}

static void end(void)
{
	world_change_end(&world, &debt);
}

static void keep_objects(struct object_cache *cache, u32 count)
{
	while (cache->count > count)
		object_put(&hidden_objects, object_take(cache));
}

static void keep_tables(struct table_cache *cache, u32 count)
{
	while (cache->count > count)
		table_cache_put(&hidden_tables, table_cache_take(cache));
}

static struct shadow_page *page_get(u32 role, uint64_t gfn)
{
	const struct shadow_key key = {.gfn = {gfn}, .role = role | RIGHTS};
	struct shadow_page *page;
	int made;

	page = shadow_page_get(&change, &key, &made);
	assert_non_null(page);
	assert_int_equal(made, 1);
	return page;
}

static u64 leaf_word(u32 level, uint64_t frame, bool executable)
{
	return entry_make_leaf(SHADOW_BITS, &(struct entry_leaf){.pfn = {frame},
								 .level = level,
								 .writable = true,
								 .host_writable = true,
								 .mmu_writable = true,
								 .executable = executable,
								 .accessed = true});
}

/* Entry @index of @page maps @gfn, to the frame that is as far from FIRST_FRAME. */
static void put(struct shadow_page *page, u32 index, uint64_t gfn, u32 access, bool executable)
{
	const struct shadow_leaf leaf = {
	    .gfn = {gfn},
	    .access = access,
	    .value = leaf_word(role_level(page->role), FIRST_FRAME + gfn, executable),
	};

	assert_int_equal(shadow_add_leaf(&change, &table_entries(page->table)[index], &leaf), 0);
}

/* A page of L2's with @count huge leaves for blocks from gfn 0 on. */
static struct shadow_page *huge_page(u32 level, u32 count)
{
	struct shadow_page *page = page_get(OF_L2 | level, SOME_GFN);

	for (u32 i = 0; i < count; i++)
		put(page, i, i * level_pages((enum quire_level)level), ACCESS_ALL, true);
	return page;
}

static struct shadow_page *child_of(const struct shadow_page *page, u32 index)
{
	u64 entry = table_entries(page->table)[index];

	if (entry_is_leaf(SHADOW_BITS, entry, role_level(page->role)))
		return NULL;
	assert_true(entry_is_present(SHADOW_BITS, entry));
	return shadow_page_of(entry_table(&world.vm->shadow_format, entry));
}

/* @page with what its first @count entries lead to. */
static void zap_tree(struct shadow_page *page, u32 count)
{
	for (u32 i = 0; i < count; i++)
		if (child_of(page, i))
			shadow_page_zap(&change, child_of(page, i));
	shadow_page_zap(&change, page);
}

static struct shadow_split split_of(u32 level, uint64_t start, uint64_t end_gfn)
{
	return (struct shadow_split){.start = {start}, .end = {end_gfn}, .level = level};
}

static int split_next(struct shadow_split *split)
{
	return shadow_split_next(world.vm, split, &debt);
}

/* Split one huge leaf with so much at hand: it goes, or stays and waits for more. */
static void check_needs(u32 descriptors, u32 headers, u32 pages, u32 rmaps, int wanted)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
	struct shadow_page *page;

	begin();
	page = huge_page(QUIRE_LEVEL_2M, 1);
	keep_objects(&shadow->split_descriptors, descriptors);
	keep_objects(&shadow->split_headers, headers);
	keep_tables(&shadow->split_pages, pages);
	keep_tables(&shadow->split_rmaps, rmaps);
	assert_int_equal(split_next(&split), wanted);
	assert_int_equal(split.progress, !wanted);
	assert_int_equal(child_of(page, 0) != NULL, !wanted);
	object_cache_move(&shadow->split_descriptors, &hidden_objects);
	while (hidden_tables.count)
		table_cache_put(&shadow->split_rmaps, table_cache_take(&hidden_tables));
	zap_tree(page, 1);
	end();
}

static void test_what_a_split_needs(void **state)
{
	(void)state;
	check_needs(NEEDS_OBJECTS, 1, 1, SPARSE_DEPTH, 0);
	check_needs(NEEDS_OBJECTS - 1, 1, 1, SPARSE_DEPTH, -EAGAIN);
	check_needs(NEEDS_OBJECTS, 0, 1, SPARSE_DEPTH, -EAGAIN);
	check_needs(NEEDS_OBJECTS, 1, 0, SPARSE_DEPTH, -EAGAIN);
	check_needs(NEEDS_OBJECTS, 1, 1, SPARSE_DEPTH - 1, -EAGAIN);
}

/* Five shadow pages that may still be made are for faults: the block stays huge. */
static void test_split_leaves_pages_for_faults(void **state)
{
	(void)state;
	for (u32 available = 5; available <= 6; available++) {
		struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
		struct shadow_page *page;

		begin();
		page = huge_page(QUIRE_LEVEL_2M, 1);
		world.vm->nr_mmu_pages = shadow->pages + available;
		assert_int_equal(split_next(&split), 0);
		assert_int_equal(split.progress, available == 6);
		assert_int_equal(child_of(page, 0) != NULL, available == 6);
		world.vm->nr_mmu_pages = 4096;
		zap_tree(page, 1);
		end();
	}
}

/* A hold of the lock splits 32, and the next one goes on behind them. */
static void test_splits_of_one_hold(void **state)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 40 * 512);
	struct shadow_page *page;

	(void)state;
	begin();
	page = huge_page(QUIRE_LEVEL_2M, 40);
	assert_int_equal(split_next(&split), -EAGAIN);
	assert_int_equal(split.progress, 32);
	for (u32 i = 0; i < 40; i++)
		assert_int_equal(child_of(page, i) != NULL, i < 32);
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, 8);
	for (u32 i = 0; i < 40; i++)
		assert_non_null(child_of(page, i));
	assert_false(debt.owed);
	zap_tree(page, 40);
	end();
}

/* Where a thread waits for the lock a hold splits one, and no fewer; another waiting word is none.
 */
static void test_waiter_gets_the_lock(void **state)
{
	u32 *writer = &world.vm->mmu_lock.writer, held;
	struct shadow_page *page;

	(void)state;
	for (u32 word = GATE_CLOSED; word <= GATE_SLEEPERS; word++) {
		struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 3 * 512);
		u32 most = word == GATE_SLEEPERS ? 1 : 3;

		begin();
		page = huge_page(QUIRE_LEVEL_2M, 3);
		held = *writer;
		*writer = word;
		for (u32 done = most; done < 3; done++) {
			assert_int_equal(split_next(&split), -EAGAIN);
			assert_int_equal(split.progress, most);
		}
		assert_int_equal(split_next(&split), 0);
		assert_int_equal(split.progress, most);
		*writer = held;
		zap_tree(page, 3);
		end();
	}
}

/* Blocks that the range touches are split, and no other. */
static void check_borders(uint64_t start, uint64_t end_gfn, u32 first, u32 last)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_1G, start, end_gfn);
	struct shadow_page *page;

	begin();
	page = huge_page(QUIRE_LEVEL_2M, 6);
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, last - first + 1);
	for (u32 i = 0; i < 6; i++)
		assert_int_equal(child_of(page, i) != NULL, i >= first && i <= last);
	zap_tree(page, 6);
	end();
}

static void test_split_ends_with_the_range(void **state)
{
	(void)state;
	check_borders(2 * 512, 3 * 512, 2, 2);
	check_borders(2 * 512 + 511, 3 * 512 + 1, 2, 3);
	check_borders(2 * 512 - 1, 3 * 512, 1, 2);
	check_borders(0, 1, 0, 0);
	check_borders(512, 4 * 512 - 1, 1, 3);
}

/* Nothing of the guest's own is split, and nothing that is obsolete. */
static void test_what_is_not_split(void **state)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
	struct shadow_page *own, *page;

	(void)state;
	begin();
	own = page_get(ROLE_DIRECT | QUIRE_LEVEL_2M, 0);
	put(own, 0, 0, ACCESS_ALL, true);
	page = huge_page(QUIRE_LEVEL_2M, 1);
	page->generation--;
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, 0);
	page->generation++;
	split = split_of(QUIRE_LEVEL_2M, 0, 512);
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, 1);
	assert_null(child_of(own, 0));
	zap_tree(page, 1);
	shadow_page_zap(&change, own);
	end();
}

/*
 * Pieces map the frames behind the first one; 4K pieces may be executed where L1 allows it, larger
 * ones not where the huge leaf was not.
 */
static void check_pieces(u32 level, u32 access, bool executable, bool pieces_executable)
{
	/* Of a larger piece the first one is looked at, before it is split itself. */
	struct shadow_split split = split_of(level, 0, 1);
	const u64 *leaves = world.vm->leaves;
	u64 small = leaves[level - 1], large = leaves[level];
	u64 *longest = &world.vm->stats[QUIRE_VM_STAT_max_mmu_rmap_size];
	u64 step = level_pages((enum quire_level)(level - 1));
	struct shadow_page *page, *child;

	begin();
	page = page_get(OF_L2 | level, SOME_GFN);
	put(page, 9, 0, access, executable);
	*longest = 0;
	if (level == QUIRE_LEVEL_1G)
		keep_objects(&shadow->split_headers, 1);
	assert_int_equal(split_next(&split), level == QUIRE_LEVEL_1G ? -EAGAIN : 0);
	assert_int_equal(split.progress, 1);
	child = child_of(page, 9);
	assert_int_equal(child->role,
			 OF_L2 | ROLE_DIRECT | (level - 1) | access << ROLE_ACCESS_SHIFT);
	assert_int_equal(child->gfn.v, 0);
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		u64 *entry = &table_entries(child->table)[i];

		assert_int_equal(*entry,
				 leaf_word(level - 1, FIRST_FRAME + i * step, pieces_executable));
		assert_int_equal(*rmap_head(shadow, child, (gfn_t){i * step}, level - 1),
				 (uintptr_t)entry);
	}
	assert_int_equal(*rmap_head(shadow, page, (gfn_t){0}, level), 0);
	assert_int_equal(leaves[level - 1], small + QUIRE_TABLE_ENTRIES);
	assert_int_equal(leaves[level], large);
	assert_int_equal(*longest, 1);
	assert_false(debt.owed);
	object_cache_move(&shadow->split_headers, &hidden_objects);
	shadow_page_zap(&change, child);
	shadow_page_zap(&change, page);
	end();
}

static void test_pieces(void **state)
{
	const u32 no_exec = ACCESS_ALL & ~ACCESS_EXEC;

	(void)state;
	check_pieces(QUIRE_LEVEL_2M, ACCESS_ALL, true, true);
	check_pieces(QUIRE_LEVEL_2M, ACCESS_ALL, false, true);
	check_pieces(QUIRE_LEVEL_2M, no_exec, false, false);
	check_pieces(QUIRE_LEVEL_1G, ACCESS_ALL, true, true);
	check_pieces(QUIRE_LEVEL_1G, ACCESS_ALL, false, false);
	check_pieces(QUIRE_LEVEL_1G, no_exec, false, false);
}

/* A gfn that another page maps as well: its set has two, and takes an object. */
static void test_piece_with_another_name(void **state)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
	u64 *longest = &world.vm->stats[QUIRE_VM_STAT_max_mmu_rmap_size], head;
	struct shadow_page *page, *other, *child;
	u32 objects;

	(void)state;
	begin();
	page = huge_page(QUIRE_LEVEL_2M, 1);
	other = page_get(ROLE_DIRECT | ROLE_NX | QUIRE_LEVEL_4K, 0);
	put(other, 7, 7, ACCESS_ALL, true);
	*longest = 0;
	objects = shadow->split_descriptors.count;
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(shadow->split_descriptors.count, objects - 1);
	assert_int_equal(*longest, 2);
	child = child_of(page, 0);
	head = *rmap_head(shadow, child, (gfn_t){7}, QUIRE_LEVEL_4K);
	assert_int_equal(rmap_count(head), 2);
	assert_ptr_equal(rmap_at(head, 0), &table_entries(other->table)[7]);
	assert_ptr_equal(rmap_at(head, 1), &table_entries(child->table)[7]);
	zap_tree(page, 1);
	shadow_page_zap(&change, other);
	end();
}

/* A child that is there already is completed; where it leads to a table, which may map less, the
 * split flushes.
 */
static void check_child_there(bool leads_on)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_1G, 0, 1);
	uint64_t flushes = world.vm->flush.flushes;
	u64 leaves = world.vm->leaves[QUIRE_LEVEL_2M];
	struct shadow_page *page, *child, *below;

	begin();
	page = huge_page(QUIRE_LEVEL_1G, 1);
	child = page_get(OF_L2 | ROLE_DIRECT | QUIRE_LEVEL_2M, 0);
	below = page_get(OF_L2 | ROLE_DIRECT | QUIRE_LEVEL_4K, 3 * 512);
	put(child, 4, 4 * 512, ACCESS_ALL, false);
	if (leads_on)
		assert_int_equal(shadow_link(&change, &table_entries(child->table)[3], below), 0);
	assert_int_equal(split_next(&split), 0);
	assert_ptr_equal(child_of(page, 0), child);
	for (u32 i = 1; i < QUIRE_TABLE_ENTRIES; i++)
		if (i != 3 || !leads_on)
			assert_int_equal(table_entries(child->table)[i],
					 leaf_word(QUIRE_LEVEL_2M, FIRST_FRAME + i * 512, i != 4));
	if (leads_on)
		assert_ptr_equal(child_of(child, 3), below);
	/* Its first piece was split, too. */
	assert_int_equal(split.progress, 2);
	assert_int_equal(world.vm->leaves[QUIRE_LEVEL_2M],
			 leaves + QUIRE_TABLE_ENTRIES - 1 - leads_on);
	assert_int_equal(world.vm->flush.flushes, flushes + leads_on);
	assert_false(debt.owed);
	shadow_page_zap(&change, below);
	shadow_page_zap(&change, child_of(child, 0));
	shadow_page_zap(&change, child);
	shadow_page_zap(&change, page);
	end();
}

static void test_child_that_is_there(void **state)
{
	(void)state;
	check_child_there(false);
	check_child_there(true);
}

/* The library's write is counted where the page holds a table, and nowhere else. */
static void test_writes_are_counted(void **state)
{
	const struct {
		u32 as_id;
		uint64_t gpa, counted;
	} writes[] = {
	    {0, PAGE(WORLD_ROOT), 1},	  {0, PAGE(WORLD_ROOT) + 4088, 1},
	    {0, PAGE(WORLD_ROOT - 1), 0}, {0, PAGE(TABLE_4K + 1), 0},
	    {0, PAGE(SOME_GFN), 0},	  {1, PAGE(WORLD_ROOT), 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
		uint64_t before, turn = shadow->write_turn;

		before = world_stat(&world, QUIRE_VM_STAT_mmu_pte_write);
		world.vm->track->written(world.vm, writes[i].as_id, (gpa_t){writes[i].gpa}, 8);
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_pte_write),
				 before + writes[i].counted);
		assert_int_equal(shadow->write_turn, turn + writes[i].counted);
	}
}

/* The root of L1's tables at @root, for vCPU 0, with @tables of them. */
static int root_get(const struct quire_nested *tables, struct shadow_path *path)
{
	struct quire_nested kept = world.vcpu->nested.tables;
	int ret;

	world.vcpu->nested.tables = *tables;
	ret = shadow_root_get(&change, world.vcpu, path);
	world.vcpu->nested.tables = kept;
	return ret;
}

/* A root that finds no memory says so, where a table is and where none can be. */
static void test_root_without_memory(void **state)
{
	const uint64_t gfns[] = {SOME_GFN, world.vm->max_gfn.v, world.vm->max_gfn.v + 1};
	struct object_cache none = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(gfns) / sizeof(gfns[0]); i++) {
		const struct quire_nested tables = {
		    .root = {PAGE(gfns[i])}, .levels = 4, .nx = 1, .wp = 1};
		bool empty = gfns[i] > world.vm->max_gfn.v;
		struct shadow_path path = {0};
		struct object_cache *objects;

		begin();
		objects = change.headers;
		change.headers = &none;
		assert_int_equal(root_get(&tables, &path), -ENOMEM);
		change.headers = objects;
		assert_int_equal(root_get(&tables, &path), 0);
		assert_int_equal(path.root_level, 4);
		assert_int_equal(path.pages[4]->gfn.v, gfns[i]);
		assert_int_equal(path.pages[4]->kept, 1);
		assert_int_equal(path.pages[4]->tracked, !empty);
		assert_int_equal(path.pages[4]->role & ROLE_DIRECT, empty ? ROLE_DIRECT : 0);
		shadow_page_zap(&change, path.pages[4]);
		end();
	}
}

/* A PAE root leads to the directories that are present, and where memory can be. */
static void test_pae_root(void **state)
{
	const uint64_t beyond = world.vm->max_gfn.v + 1;
	const struct quire_nested tables = {
	    .root = {PAGE(SOME_GFN)},
	    .levels = 3,
	    .nx = 1,
	    .wp = 1,
	    .directories = {PAGE(SOME_GFN + 1) | NPT_P, PAGE(SOME_GFN + 2), PAGE(beyond) | NPT_P,
			    PAGE(SOME_GFN + 3) | NPT_P}};
	struct shadow_page *directories[4] = {0};

	(void)state;
	for (u32 round = 0; round < 3; round++) {
		struct shadow_path path = {0};
		const struct shadow_page *root;

		begin();
		for (uint32_t i = 0; i < WORLD_CPUS; i++)
			world.cpus[i].vcpu->mode.doorbell = 0;
		assert_int_equal(root_get(&tables, &path), 0);
		root = path.pages[SHADOW_PAE_LEVEL];
		assert_ptr_equal(root, world.vcpu->pae_root);
		assert_int_equal(world.cpus[0].vcpu->mode.doorbell, QUIRE_REQ_TLB_FLUSH);
		assert_int_equal(world.cpus[1].vcpu->mode.doorbell, 0);
		assert_false(debt.owed);
		for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
			const struct shadow_page *child;

			if (i != 0 && i != 3) {
				assert_int_equal(table_entries(root->table)[i],
						 SHADOW_BITS->nonpresent);
				continue;
			}
			child = child_of(root, i);
			assert_int_equal(child->gfn.v, i ? SOME_GFN + 3 : SOME_GFN + 1);
			assert_int_equal(role_level(child->role), QUIRE_LEVEL_2M);
			assert_int_equal(child->kept, 1);
			assert_int_equal(rmap_count(child->parents), 1);
			/* What only the root leads to stays when it is loaded again. */
			assert_true(!round || child == directories[i]);
			directories[i] = child_of(root, i);
		}
		end();
	}
}

#define PIECE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown_l2)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    PIECE_TEST(test_what_a_split_needs),
	    PIECE_TEST(test_split_leaves_pages_for_faults),
	    PIECE_TEST(test_splits_of_one_hold),
	    PIECE_TEST(test_waiter_gets_the_lock),
	    PIECE_TEST(test_split_ends_with_the_range),
	    PIECE_TEST(test_what_is_not_split),
	    PIECE_TEST(test_pieces),
	    PIECE_TEST(test_piece_with_another_name),
	    PIECE_TEST(test_child_that_is_there),
	    PIECE_TEST(test_writes_are_counted),
	    PIECE_TEST(test_root_without_memory),
	    PIECE_TEST(test_pae_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
