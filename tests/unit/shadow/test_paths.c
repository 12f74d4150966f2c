/*
 * Paths of shadow pages and the leaves at their end, made by hand in one hold of mmu_lock: which
 * pages stand where, what they hold, and what the caller is told; and how tables catch up.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "src/gfn/level.h"
#include "src/shadow/internal.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define INDEX 5u
/* L1's huge leaf, entry 3 of TABLE_2M, which maps the block of 512. */
#define HUGE_AT (BLOCK(3) + PAGE(77))
#define HUGE_GFN (512u + 77u)
#define OTHER_2M 6u

static struct world world;
static struct flush_debt debt;
static struct shadow_change change;
static struct shadow_path path;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	world_set_entry(&world, TABLE_4K, INDEX, PAGE(70) | NPT_USED);
	world_nested(&world, 1);
	(void)world_access(&world, PAGE(INDEX), WORLD_READ);
	return 0;
}

/* A walk that found a leaf of @level for @gpa in the tables that setup() laid out. */
static struct shadow_walk walk_to(uint64_t gpa, u32 level)
{
	const uint64_t tables[] = {0, TABLE_4K, TABLE_2M, TABLE_1G, WORLD_ROOT};
	struct shadow_walk walk = {
	    .gpa = {gpa}, .top = 4, .level = level, .leaf_access = ACCESS_ALL};

	for (u32 at = level; at <= 4; at++) {
		walk.tables[at] = (gfn_t){tables[at]};
		walk.access[at] = ACCESS_ALL;
	}
	return walk;
}

static void begin(const struct shadow_walk *walk)
{
	change = world_change_begin(&world, &debt);
	assert_true(shadow_path_get(&change, world.vcpu, walk, &path) >= 0);
}

static void end(void)
{
	debt.owed = true;
	world_change_end(&world, &debt);
}

static u64 *entry_at(uint64_t gpa, u32 level)
{
	const struct shadow_page *page = path.pages[path.root_level];

	for (u32 at = path.root_level; at > level; at--) {
		u64 entry = table_entries(page->table)[walk_index(gfn_of((gpa_t){gpa}), at)];

		assert_true(entry_is_present(SHADOW_BITS, entry));
		page = shadow_page_of(entry_table(&world.vm->shadow_format, entry));
	}
	return &table_entries(page->table)[walk_index(gfn_of((gpa_t){gpa}), level)];
}

static struct shadow_mapping mapping_of(const struct shadow_walk *walk, uint64_t gfn, u32 level)
{
	return (struct shadow_mapping){.walk = walk,
				       .path = &path,
				       .gfn = {gfn},
				       .wanted_level = level,
				       .leaf = {.pfn = {2048 + (gfn & 511)},
						.level = level,
						.host_writable = true,
						.writable = true,
						.mmu_writable = true,
						.executable = true}};
}

/* Only the highest page stays without parents; a root that is direct does, too. */
static void test_what_is_kept(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(INDEX), 1);

	(void)state;
	for (u32 level = 1; level <= 4; level++)
		walk.tables[level].v = 20 + level;
	begin(&walk);
	for (u32 level = 1; level <= 4; level++) {
		assert_int_equal(path.pages[level]->kept, level == 4);
		assert_int_equal(path.pages[level]->gfn.v, 20 + level);
		assert_int_equal(path.pages[level]->tracked, 1);
	}
	for (u32 level = 1; level <= 4; level++)
		shadow_page_zap(&change, path.pages[level]);
	assert_int_equal(shadow_path_direct(&change, 0, &walk, &path), 0);
	assert_int_equal(path.pages[SHADOW_DIRECT_LEVEL]->kept, 1);
	assert_int_equal(path.root_level, SHADOW_DIRECT_LEVEL);
	assert_int_equal(walk.top, SHADOW_DIRECT_LEVEL);
	assert_int_equal(walk.level, SHADOW_DIRECT_LEVEL);
	assert_int_equal(walk.leaf_access, ACCESS_ALL);
	shadow_page_zap(&change, path.pages[SHADOW_DIRECT_LEVEL]);
	end();
}

/* Pieces of a huge mapping are pages of their own for each kind of rights: one takes turns. */
static void test_pieces_of_other_rights(void **state)
{
	struct shadow_walk walk = walk_to(HUGE_AT, 2);
	struct shadow_mapping mapping = mapping_of(&walk, HUGE_GFN, 1);
	const struct shadow_page *page;
	u32 role;

	(void)state;
	for (uint32_t turn = 0; turn < 4; turn++) {
		uint64_t flushes, changes;

		begin(&walk);
		walk.leaf_access = turn % 2 ? ACCESS_ALL & ~ACCESS_WRITE : ACCESS_ALL;
		mapping.leaf.writable = mapping.leaf.mmu_writable = turn % 2 == 0;
		flushes = world.vm->flush.flushes;
		/* The table that is there is another one: it goes, and the walk starts over. */
		if (turn) {
			assert_int_equal(shadow_map(&change, &mapping), QUIRE_RETRY);
			assert_int_equal(world.vm->flush.flushes, flushes + 1);
			assert_false(entry_is_present(SHADOW_BITS, *entry_at(HUGE_AT, 2)));
		}
		assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
		assert_int_equal(world.vm->flush.flushes, flushes + (turn ? 1 : 0));
		page = shadow_page_of(entry_at(HUGE_AT, 1));
		role = (path.pages[2]->role & ~ROLE_OF_PAGE) | ROLE_DIRECT | 1 |
		       walk.leaf_access << ROLE_ACCESS_SHIFT;
		assert_int_equal(page->role, role);
		assert_int_equal(page->gfn.v, 512);
		assert_null(page->gfns);
		assert_int_equal(entry_pfn(SHADOW_BITS, *entry_at(HUGE_AT, 1)).v, 2048 + 77);
		/* The same once more has nothing to change. */
		changes = change.shadow->changes;
		assert_int_equal(shadow_map(&change, &mapping), QUIRE_SPURIOUS);
		assert_int_equal(change.shadow->changes, changes);
		end();
	}
}

/* Of a leaf of L1's of 1 GiB two levels of pieces are made, each from the first page it maps. */
static void test_pieces_of_pieces(void **state)
{
	const uint64_t gpa = (UINT64_C(2) << 30) + BLOCK(1) + PAGE(77);
	struct shadow_walk walk = walk_to(gpa, 3);
	struct shadow_mapping mapping = mapping_of(&walk, HUGE_GFN, 1);

	(void)state;
	begin(&walk);
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
	assert_int_equal(shadow_page_of(entry_at(gpa, 2))->gfn.v, 0);
	assert_int_equal(role_level(shadow_page_of(entry_at(gpa, 2))->role), 2);
	assert_int_equal(shadow_page_of(entry_at(gpa, 1))->gfn.v, 512);
	assert_int_equal(shadow_level_at(world.vm, path.pages[4], gfn_of((gpa_t){gpa})), 1);
	/* A leaf that is larger takes the place of the table. */
	mapping.leaf.level = mapping.wanted_level = QUIRE_LEVEL_2M;
	mapping.leaf.pfn.v = 2048;
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
	assert_int_equal(shadow_level_at(world.vm, path.pages[4], gfn_of((gpa_t){gpa})), 2);
	assert_int_equal(entry_pfn(SHADOW_BITS, *entry_at(gpa, 2)).v, 2048);
	/* And the other way about. */
	mapping = mapping_of(&walk, HUGE_GFN, 1);
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
	assert_int_equal(shadow_level_at(world.vm, path.pages[4], gfn_of((gpa_t){gpa})), 1);
	end();
}

/* Without a page for the piece the fault comes again, and nothing is linked. */
static void test_no_page_for_a_piece(void **state)
{
	struct shadow_walk walk = walk_to(HUGE_AT, 2);
	struct shadow_mapping mapping = mapping_of(&walk, HUGE_GFN, 1);
	struct table_cache none = {0}, *pages;

	(void)state;
	begin(&walk);
	pages = change.pages;
	change.pages = &none;
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_RETRY);
	assert_false(entry_is_present(SHADOW_BITS, *entry_at(HUGE_AT, 2)));
	change.pages = pages;
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
	end();
}

/* Without a page for one of its tables there is no path, and no direct root without a page. */
static void test_no_page_for_a_path(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(INDEX), 1);
	struct table_cache none = {0}, *pages;

	(void)state;
	begin(&walk);
	pages = change.pages;
	change.pages = &none;
	assert_int_equal(shadow_path_get(&change, world.vcpu, &walk, &path), 0);
	for (u32 level = 1; level <= 4; level++) {
		walk = walk_to(PAGE(INDEX), 1);
		walk.tables[level].v = 30;
		assert_int_equal(shadow_path_get(&change, world.vcpu, &walk, &path), -ENOMEM);
	}
	assert_int_equal(shadow_path_direct(&change, 0, &walk, &path), -ENOMEM);
	change.pages = pages;
	end();
}

/* Without memory to find a leaf by it is not put, and the fault comes again. */
static void test_no_memory_for_a_leaf(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(13), 1);
	struct shadow_mapping mapping = mapping_of(&walk, UINT64_C(1) << 30, 1);
	struct table_cache none = {0}, *rmaps;

	(void)state;
	begin(&walk);
	rmaps = change.rmaps;
	change.rmaps = &none;
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_RETRY);
	assert_false(entry_is_present(SHADOW_BITS, *entry_at(PAGE(13), 1)));
	change.rmaps = rmaps;
	end();
}

/* What was executed in pieces stays so: a huge leaf shrinks to the page that is asked for. */
static void test_executed_table_stays(void **state)
{
	(void)state;
	for (uint32_t on = 0; on < 2; on++)
		for (uint32_t fetch = 0; fetch < 2; fetch++) {
			struct shadow_walk walk = walk_to(HUGE_AT, 2);
			struct shadow_mapping mapping = mapping_of(&walk, HUGE_GFN, 1);
			bool stays = on && fetch;

			quire_vm_set_nx_huge_pages(world.vm, (int)on);
			begin(&walk);
			mapping.wanted_level = QUIRE_LEVEL_2M;
			mapping.fetch = fetch;
			assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
			assert_int_equal(shadow_page_of(entry_at(HUGE_AT, 1))->table->nx_disallowed,
					 stays);
			assert_int_equal(path.pages[2]->table->nx_disallowed, 0);
			assert_int_equal(path.pages[3]->table->nx_disallowed, 0);
			/* Another page of the block, which the host has in one piece. */
			walk.gpa.v += PAGE(4);
			mapping = mapping_of(&walk, HUGE_GFN + 4, 2);
			mapping.leaf.pfn.v = 4096;
			mapping.leaf.executable = false;
			assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
			assert_int_equal(shadow_level_at(world.vm, path.pages[4], gfn_of(walk.gpa)),
					 stays ? QUIRE_LEVEL_4K : QUIRE_LEVEL_2M);
			if (stays)
				assert_int_equal(entry_pfn(SHADOW_BITS, *entry_at(walk.gpa.v, 1)).v,
						 4096 + 81);
			end();
		}
}

static uint64_t requested[4], put[7];
static uint32_t requests, puts;

static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event == QUIRE_TRACE_kvm_mmu_spte_requested && ++requests)
		memcpy(requested, args, sizeof(requested));
	if (event == QUIRE_TRACE_kvm_mmu_set_spte && ++puts)
		memcpy(put, args, sizeof(put));
}

/* What is asked for and what is put is told, each once; nothing is put where all is as it was. */
static void test_leaves_are_told(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(13), 1);
	struct shadow_mapping mapping = mapping_of(&walk, 100, 1);

	(void)state;
	quire_trace_install(record);
	begin(&walk);
	for (uint32_t user = 0; user < 2; user++) {
		requests = puts = 0;
		walk.leaf_access = user ? ACCESS_ALL : ACCESS_ALL & ~ACCESS_USER;
		mapping.leaf.executable = user;
		assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
		assert_int_equal(requests, 1);
		assert_int_equal(requested[0], 100);
		assert_int_equal(requested[1], 2048 + 100);
		assert_int_equal(requested[2], 1);
		assert_int_equal(requested[3], walk.leaf_access);
		assert_int_equal(puts, 1);
		assert_int_equal(put[0], 100);
		assert_int_equal(put[1], *entry_at(PAGE(13), 1));
		assert_int_equal(put[2], (uintptr_t)entry_at(PAGE(13), 1));
		assert_int_equal(put[3], 1);
		assert_int_equal(put[4], 1);
		assert_int_equal(put[5], user);
		assert_int_equal(put[6], user);
		assert_int_equal(shadow_map(&change, &mapping), QUIRE_SPURIOUS);
		assert_int_equal(requests, 2);
		assert_int_equal(puts, 1);
	}
	end();
}

static struct shadow_group group;

static void note(const struct shadow_walk *walk, u32 leaf_level)
{
	struct shadow_mapping mapping = mapping_of(walk, HUGE_GFN, leaf_level);

	memset(&group, 0xa5, sizeof(group));
	mapping.group = &group;
	if (leaf_level == QUIRE_LEVEL_2M)
		mapping.leaf.pfn.v = 2048;
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
}

/* The eight entries around the leaf, and which of them are empty; of a huge leaf nothing. */
static void test_group_is_noted(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(13), 1);

	(void)state;
	begin(&walk);
	note(&walk, 1);
	assert_int_equal(group.key.gfn.v, TABLE_4K);
	assert_int_equal(group.key.role, path.pages[1]->role);
	assert_int_equal(group.write_turn, change.shadow->write_turn);
	assert_int_equal(group.first, 8);
	assert_int_equal(group.empty, 0xff & ~(1u << 5));
	walk.gpa.v = PAGE(8);
	note(&walk, 1);
	assert_int_equal(group.first, 8);
	assert_int_equal(group.empty, 0xff & ~(1u << 5 | 1u));
	walk.gpa.v = PAGE(511);
	note(&walk, 1);
	assert_int_equal(group.first, 504);
	assert_int_equal(group.empty, 0x7f);
	walk = walk_to(HUGE_AT, 2);
	note(&walk, 2);
	assert_int_equal(group.first, 0xa5a5a5a5);
	end();
}

/* The group is found while no table of L1's has changed; what is put fills empty entries alone. */
static void test_group_is_put(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(13), 1);
	struct shadow_neighbour neighbour = {{100}, ACCESS_ALL};
	struct entry_leaf leaf = {.pfn = {2000},
				  .level = 1,
				  .host_writable = true,
				  .writable = true,
				  .mmu_writable = true,
				  .executable = true};
	struct table_cache none = {0}, *rmaps;
	struct shadow_page *page;
	u64 *entries, kept;

	(void)state;
	quire_trace_install(record);
	begin(&walk);
	note(&walk, 1);
	page = shadow_group_find(change.shadow, &group);
	assert_ptr_equal(page, path.pages[1]);
	entries = table_entries(page->table);
	requests = puts = 0;
	assert_int_equal(shadow_group_put(&change, page, 9, &neighbour, &leaf), 0);
	assert_int_equal(puts, 1);
	assert_int_equal(put[0], 100);
	assert_int_equal(entries[9], entry_make_leaf(SHADOW_BITS, &leaf));
	assert_int_equal(shadow_leaf_gfn(page, 9).v, 100);
	assert_int_equal(shadow_leaf_access(page, 9), ACCESS_ALL);
	neighbour.access &= ~ACCESS_USER;
	assert_int_equal(shadow_group_put(&change, page, 10, &neighbour, &leaf), 0);
	assert_int_equal(entries[10], entry_make_leaf(SHADOW_BITS, &leaf) & ~SHADOW_USER);
	/* What is there stays. */
	kept = entries[13];
	assert_int_equal(shadow_group_put(&change, page, 13, &neighbour, &leaf), 1);
	assert_int_equal(entries[13], kept);
	/* No memory to find it by. */
	rmaps = change.rmaps;
	change.rmaps = &none;
	neighbour.gfn.v = UINT64_C(1) << 30;
	assert_int_equal(shadow_group_put(&change, page, 11, &neighbour, &leaf), 1);
	assert_false(entry_is_present(SHADOW_BITS, entries[11]));
	change.rmaps = rmaps;
	assert_int_equal(puts, 2);
	shadow_end_turn(change.shadow);
	assert_null(shadow_group_find(change.shadow, &group));
	end();
}

static uint64_t lagging(void)
{
	return world_stat(&world, QUIRE_VM_STAT_mmu_unsync);
}

static void let_lag(uint64_t table)
{
	biglock_write_lock(&world.vm->mmu_lock);
	assert_int_equal(shadow_unsync(world.vm, 0, (gfn_t){table}), 1);
	shadow_unlock(world.vm);
}

/* A page that is obsolete is no reason to let its table lag. */
static void test_obsolete_page_does_not_lag(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(INDEX), 1);

	(void)state;
	begin(&walk);
	path.pages[1]->generation ^= 1;
	assert_int_equal(shadow_unsync(world.vm, 0, (gfn_t){TABLE_4K}), 0);
	path.pages[1]->generation ^= 1;
	assert_int_equal(path.pages[1]->tracked, 1);
	end();
	assert_int_equal(lagging(), 0);
}

/* Through an entry that leads to it already a page may lag; through a new one it must be synced. */
static void test_new_entry_to_what_lags(void **state)
{
	struct shadow_walk known = walk_to(PAGE(INDEX), 1), other = known;
	struct shadow_key key = {0};

	(void)state;
	other.gpa.v += UINT64_C(1) << 30;
	other.tables[2].v = OTHER_2M;
	begin(&other);
	assert_null(shadow_path_lags(change.shadow, &path, &other, &key));
	end();
	let_lag(TABLE_4K);
	assert_int_equal(lagging(), 1);
	begin(&known);
	assert_null(shadow_path_lags(change.shadow, &path, &known, &key));
	assert_int_equal(shadow_path_get(&change, world.vcpu, &other, &path), 0);
	assert_ptr_equal(shadow_path_lags(change.shadow, &path, &other, &key), path.pages[1]);
	assert_int_equal(key.gfn.v, TABLE_4K);
	assert_int_equal(key.role, path.pages[1]->role);
	/* The directory above it, from another entry of TABLE_1G. */
	other.tables[2].v = TABLE_2M;
	assert_int_equal(shadow_path_get(&change, world.vcpu, &other, &path), 0);
	assert_ptr_equal(shadow_path_lags(change.shadow, &path, &other, &key), path.pages[2]);
	assert_int_equal(key.gfn.v, TABLE_2M);
	/* And that one's, from another entry of the root. */
	other.gpa.v = UINT64_C(1) << 39;
	assert_int_equal(shadow_path_get(&change, world.vcpu, &other, &path), 0);
	assert_ptr_equal(shadow_path_lags(change.shadow, &path, &other, &key), path.pages[3]);
	assert_int_equal(key.gfn.v, TABLE_1G);
	/* Each level says whether what lags is below it. */
	for (u32 level = 1; level <= 4; level++)
		assert_int_equal(shadow_lags_below(change.shadow, path.pages[level]), 1);
	end();
}

/* Another page of a table that lags is made: the first one goes on lagging. */
static void test_second_page_of_what_lags(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(INDEX), 1);
	const struct shadow_page *first;

	(void)state;
	let_lag(TABLE_4K);
	begin(&walk);
	first = path.pages[1];
	walk.access[1] = ACCESS_READ | ACCESS_USER;
	assert_int_equal(shadow_path_get(&change, world.vcpu, &walk, &path), 1);
	assert_ptr_not_equal(path.pages[1], first);
	assert_int_equal(first->unsync, 1);
	assert_int_equal(path.pages[1]->unsync, 0);
	end();
	assert_int_equal(lagging(), 1);
}

static struct shadow_sync sync;

static u32 sync_begin(u32 wanted)
{
	u32 have;

	change = world_change_begin(&world, &debt);
	have = change.pages->count;
	memset(&sync, 0xa5, sizeof(sync));
	sync.root = world.vcpu->shadow.page;
	sync.only = NULL;
	assert_int_equal(shadow_sync_begin(&change, &sync), wanted);
	assert_int_equal(sync.count, wanted);
	assert_int_equal(change.pages->count, have - wanted);
	return have;
}

/* Of more tables than one batch the oldest come first; the tables that are read go back. */
static void test_batch(void **state)
{
	const u32 tables = SHADOW_SYNC_BATCH + 2;

	(void)state;
	for (u32 i = 0; i < tables; i++) {
		world_set_entry(&world, 20 + i, 1, PAGE(70 + i) | NPT_USED);
		world_set_entry(&world, TABLE_2M, 10 + i, PAGE(20 + i) | NPT_ALL);
	}
	for (u32 i = 0; i < tables; i++)
		(void)world_check(&world, BLOCK(10 + i) + PAGE(1), WORLD_READ);
	for (u32 i = 0; i < tables; i++)
		let_lag(20 + i);
	for (u32 done = 0; done < tables;) {
		u32 batch = tables - done < SHADOW_SYNC_BATCH ? tables - done : SHADOW_SYNC_BATCH;
		uint64_t turn = world.vm->shadow->write_turn, flushes = world.vm->flush.flushes;
		u32 have = sync_begin(batch);

		assert_int_equal(world.vm->shadow->write_turn, turn + 1);
		for (u32 i = 0; i < batch; i++) {
			assert_int_equal(sync.pages[i].key.gfn.v, 20 + done + i);
			/* Entry 1 alone is mapped. */
			for (u32 word = 0; word < QUIRE_TABLE_ENTRIES / 64; word++)
				assert_int_equal(sync.pages[i].present[word], word ? 0 : 2);
		}
		world_change_end(&world, &debt);
		shadow_sync_read(world.vcpu, &sync);
		for (u32 i = 0; i < batch; i++) {
			assert_int_equal(sync.pages[i].unreadable, 0);
			assert_int_equal(table_entries(sync.pages[i].guest)[1],
					 PAGE(70 + done + i) | NPT_USED);
		}
		biglock_write_lock(&world.vm->mmu_lock);
		change = shadow_change_of(world.vcpu, &debt);
		shadow_sync_end(&change, world.vcpu, &sync);
		assert_int_equal(sync.count, 0);
		assert_int_equal(change.pages->count, have);
		/* L1 changed nothing, so no processor has to forget anything. */
		world_change_end(&world, &debt);
		assert_int_equal(world.vm->flush.flushes, flushes);
		done += batch;
		assert_int_equal(lagging(), tables - done);
		assert_int_equal(world.vm->shadow->unsync_pages, tables - done);
	}
	/* None is left: the turn goes on. */
	{
		uint64_t turn = world.vm->shadow->write_turn;

		(void)sync_begin(0);
		assert_int_equal(world.vm->shadow->write_turn, turn);
		world_change_end(&world, &debt);
	}
}

/* A right that L1 takes back goes from the entry and from what is known of it; the next stays. */
static void test_rights_that_are_known(void **state)
{
	const struct shadow_page *page;
	u64 before;

	(void)state;
	world_set_entry(&world, TABLE_4K, INDEX + 1, PAGE(71) | NPT_USED);
	(void)world_check(&world, PAGE(INDEX), WORLD_WRITE);
	(void)world_check(&world, PAGE(INDEX + 1), WORLD_WRITE);
	let_lag(TABLE_4K);
	world_put_entry(&world, TABLE_4K, INDEX, PAGE(70) | (NPT_USED & ~NPT_W) | NPT_NX);
	(void)sync_begin(1);
	page = shadow_page_find(change.shadow, &sync.pages[0].key);
	assert_int_equal(page->tracked, 1);
	assert_int_equal(page->unsync, 1);
	before = table_entries(page->table)[INDEX + 1];
	world_change_end(&world, &debt);
	shadow_sync_read(world.vcpu, &sync);
	biglock_write_lock(&world.vm->mmu_lock);
	change = shadow_change_of(world.vcpu, &debt);
	shadow_sync_end(&change, world.vcpu, &sync);
	assert_true(debt.owed);
	assert_int_equal(shadow_leaf_access(page, INDEX), ACCESS_READ | ACCESS_USER);
	assert_int_equal(shadow_leaf_gfn(page, INDEX).v, 70);
	assert_int_equal(table_entries(page->table)[INDEX] & (NPT_ALL | NPT_NX | NPT_D),
			 NPT_P | NPT_U | NPT_NX);
	assert_int_equal(shadow_leaf_access(page, INDEX + 1), ACCESS_ALL);
	assert_int_equal(table_entries(page->table)[INDEX + 1], before);
	assert_int_equal(page->unsync, 0);
	world_change_end(&world, &debt);
	assert_int_equal(lagging(), 0);
}

static void sync_end(u32 have)
{
	biglock_write_lock(&world.vm->mmu_lock);
	change = shadow_change_of(world.vcpu, &debt);
	shadow_sync_end(&change, world.vcpu, &sync);
	assert_int_equal(sync.count, 0);
	assert_int_equal(change.pages->count, have);
	world_change_end(&world, &debt);
}

/* L1 writes while its table is read: the page goes on lagging, however often it is begun. */
static void test_written_meanwhile(void **state)
{
	u32 have;

	(void)state;
	let_lag(TABLE_4K);
	for (uint32_t again = 0; again < 2; again++) {
		(void)sync_begin(1);
		table_cache_put(change.pages, sync.pages[0].guest);
		world_change_end(&world, &debt);
	}
	have = sync_begin(1);
	world_change_end(&world, &debt);
	shadow_sync_read(world.vcpu, &sync);
	let_lag(TABLE_4K);
	sync_end(have);
	assert_int_equal(lagging(), 1);
}

/* What cannot be read is not shadowed; what has gone meanwhile stays so. */
static void test_unreadable_table(void **state)
{
	(void)state;
	for (uint32_t gone = 0; gone < 2; gone++) {
		u32 have;

		(void)world_check(&world, PAGE(INDEX), WORLD_READ);
		let_lag(TABLE_4K);
		have = sync_begin(1);
		if (gone)
			shadow_page_zap(&change,
					shadow_page_find(change.shadow, &sync.pages[0].key));
		world_change_end(&world, &debt);
		sync.pages[0].unreadable = 1;
		sync_end(have);
		assert_int_equal(lagging(), 0);
		biglock_write_lock(&world.vm->mmu_lock);
		assert_null(shadow_page_find(world.vm->shadow, &sync.pages[0].key));
		shadow_unlock(world.vm);
	}
}

/* How many pages of [start, end) leaves of each level map. */
static void counts(uint64_t start, uint64_t end_gfn, u64 small, u64 large, u64 largest)
{
	u64 found[4] = {7, 0, 0, 0};

	shadow_count_leaves(world.vm, 0, (gfn_t){start}, (gfn_t){end_gfn}, found);
	/* Once more adds as many. */
	shadow_count_leaves(world.vm, 0, (gfn_t){start}, (gfn_t){end_gfn}, found);
	assert_int_equal(found[0], 7);
	assert_int_equal(found[1], 2 * small);
	assert_int_equal(found[2], 2 * large);
	assert_int_equal(found[3], 2 * largest);
}

/* Puts a leaf of @level for @gfn at @gpa. */
static u64 *put_leaf_of(uint64_t gpa, uint64_t gfn, u32 level)
{
	struct shadow_walk walk = walk_to(gpa, level);
	struct shadow_mapping mapping = mapping_of(&walk, gfn, level);

	mapping.leaf.pfn.v = level == 1 ? gfn : 1u << 18;
	assert_true(shadow_path_get(&change, world.vcpu, &walk, &path) >= 0);
	assert_int_equal(shadow_map(&change, &mapping), QUIRE_FIXED);
	return entry_at(gpa, level);
}

/* Of one page two leaves, behind them one of 2 MiB, and all of it in one of 1 GiB. */
static void test_counts_of_leaves(void **state)
{
	struct shadow_walk walk = walk_to(PAGE(100), 1);
	u64 *entries[4];

	(void)state;
	begin(&walk);
	entries[0] = put_leaf_of(PAGE(100), 1536, 1);
	entries[1] = put_leaf_of(PAGE(101), 1536, 1);
	entries[2] = put_leaf_of(HUGE_AT, 2048 + 77, 2);
	counts(1536, 1536, 0, 0, 0);
	counts(1536, 1537, 2, 0, 0);
	counts(1535, 1536, 0, 0, 0);
	counts(1537, 2048, 0, 0, 0);
	counts(1537, 2049, 0, 1, 0);
	counts(1536, 4096, 2, 512, 0);
	counts(2100, 2110, 0, 10, 0);
	counts(2559, 3000, 0, 1, 0);
	counts(2560, 3000, 0, 0, 0);
	entries[3] = put_leaf_of(UINT64_C(2) << 30, 3, 3);
	counts(1530, 1540, 2, 0, 10);
	counts(2040, 2050, 0, 2, 10);
	counts((1u << 18) - 1, (1u << 18) + 9, 0, 0, 1);
	counts(1u << 18, (1u << 18) + 9, 0, 0, 0);
	/* No slot has these pages, so that they must not stay. */
	for (uint32_t i = 0; i < 4; i++)
		shadow_drop(&change, entries[i]);
	counts(1530, 4096, 0, 0, 0);
	end();
}

#define PATH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown_l2)

int path_tests(void)
{
	const struct CMUnitTest tests[] = {
	    PATH_TEST(test_what_is_kept),
	    PATH_TEST(test_pieces_of_other_rights),
	    PATH_TEST(test_pieces_of_pieces),
	    PATH_TEST(test_no_page_for_a_piece),
	    PATH_TEST(test_no_page_for_a_path),
	    PATH_TEST(test_no_memory_for_a_leaf),
	    PATH_TEST(test_executed_table_stays),
	    PATH_TEST(test_leaves_are_told),
	    PATH_TEST(test_group_is_noted),
	    PATH_TEST(test_group_is_put),
	    PATH_TEST(test_obsolete_page_does_not_lag),
	    PATH_TEST(test_new_entry_to_what_lags),
	    PATH_TEST(test_second_page_of_what_lags),
	    PATH_TEST(test_batch),
	    PATH_TEST(test_rights_that_are_known),
	    PATH_TEST(test_written_meanwhile),
	    PATH_TEST(test_unreadable_table),
	    PATH_TEST(test_counts_of_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
