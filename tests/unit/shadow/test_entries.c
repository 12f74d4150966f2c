/*
 * One entry of a shadow table: what each change of it counts and owes, which page a table of L1's
 * gets, and what a mapping leaves in place. By definition, for all combinations.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/shadow/internal.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

/* What an entry can hold: nothing, a table, or a leaf with rights of U, W and X, used or not. */
enum kind { EMPTY, TABLE, LEAF };
struct word {
	enum kind kind;
	bool user, writable, executable, accessed;
};
#define WORDS (LEAF + 16u)

static struct world world;
static struct flush_debt debt;
static struct shadow_change change;
static unsigned int reports;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_USED);
	(void)world_check(&world, PAGE(5), WORLD_READ);
	return 0;
}

static struct word word_of(unsigned int which)
{
	unsigned int bits = which - LEAF;

	if (which < LEAF)
		return (struct word){.kind = (enum kind)which};
	return (struct word){LEAF, bits & 1, bits & 2, bits & 4, bits & 8};
}

static u64 leaf_value(const struct word *word, u32 level, u64 frame)
{
	const struct entry_leaf leaf = {
	    .pfn = {frame * level_pages((enum quire_level)level)},
	    .level = level,
	    .writable = word->writable,
	    .host_writable = true,
	    .mmu_writable = word->writable,
	    .executable = word->executable,
	    .accessed = word->accessed,
	};

	return entry_make_leaf(SHADOW_BITS, &leaf) & (word->user ? UINT64_MAX : ~SHADOW_USER);
}

static u64 make(const struct word *word, u32 level, const struct shadow_page *below)
{
	if (word->kind == EMPTY)
		return SHADOW_BITS->nonpresent;
	if (word->kind == TABLE)
		return entry_make_table(&world.vm->shadow_format, table_entries(below->table));
	return leaf_value(word, level, 1);
}

/* What was there and is not, or allows less, may be in a TLB. That it was used is no right. */
static bool must_flush(const struct word *old, const struct word *new)
{
	if (old->kind != new->kind)
		return old->kind != EMPTY;
	return (old->user && !new->user) || (old->writable && !new->writable) ||
	       (old->executable && !new->executable);
}

static struct shadow_page *direct_page(u32 level)
{
	const struct shadow_key key = {.role =
					   ROLE_DIRECT | level | ACCESS_ALL << ROLE_ACCESS_SHIFT};
	int made;

	return shadow_page_get(&change, &key, &made);
}

static void check_store(struct shadow_page *page, const struct shadow_page *below,
			const struct word *old, const struct word *new)
{
	u32 level = role_level(page->role);
	u64 from = make(old, level, below), to = make(new, level, below);
	u64 *entry = &table_entries(page->table)[7], leaves = world.vm->leaves[level];
	u64 changes = change.shadow->changes;

	*entry = from;
	debt.owed = false;
	assert_int_equal(shadow_store(&change, entry, level, to), from);
	assert_int_equal(*entry, to);
	assert_int_equal(debt.owed, must_flush(old, new));
	/* The length of a hold of mmu_lock is told by it. */
	assert_int_equal(change.shadow->changes, changes + 1);
	assert_int_equal((int64_t)(world.vm->leaves[level] - leaves),
			 (new->kind == LEAF) - (old->kind == LEAF));
	world.vm->leaves[level] = leaves;
	*entry = SHADOW_BITS->nonpresent;
}

static void test_transitions(void **state)
{
	struct shadow_page *below = NULL;

	(void)state;
	for (u32 level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_1G; level++) {
		struct shadow_page *page;

		change = world_change_begin(&world, &debt);
		page = direct_page(level);
		for (unsigned int which = 0; which < WORDS * WORDS; which++) {
			struct word old = word_of(which / WORDS), new = word_of(which % WORDS);

			if (below || (old.kind != TABLE && new.kind != TABLE))
				check_store(page, below, &old, &new);
		}
		debt.owed = true;
		world_change_end(&world, &debt);
		below = page;
	}
}

static void note_report(const char *text)
{
	(void)text;
	reports++;
}

/* No entry turns from one page into another: what the old one wrote would be lost. */
static void test_another_page_in_place(void **state)
{
	const struct word leaf = {.kind = LEAF, .user = true};
	u64 *entry;

	(void)state;
	change = world_change_begin(&world, &debt);
	entry = &table_entries(direct_page(QUIRE_LEVEL_4K)->table)[7];
	*entry = leaf_value(&leaf, QUIRE_LEVEL_4K, 1);
	reports = 0;
	sched_on_report(note_report);
	(void)shadow_store(&change, entry, QUIRE_LEVEL_4K, leaf_value(&leaf, QUIRE_LEVEL_4K, 2));
	sched_on_report(NULL);
	assert_true(reports && quire_vm_is_dead(world.vm));
	world.vm->dead = 0;
	*entry = SHADOW_BITS->nonpresent;
	debt.owed = true;
	world_change_end(&world, &debt);
}

/* L1's settings, and the role that KVM shows for them. */
static const struct setting {
	struct quire_nested tables;
	u32 as_id, role;
} settings[] = {
    {{.levels = 4}, 0, ROLE_GUEST_MODE | ROLE_WP},
    {{.levels = 5}, 1, ROLE_GUEST_MODE | ROLE_WP | 1u << ROLE_SMM_SHIFT},
    {{.levels = 3}, 0, ROLE_GUEST_MODE | ROLE_WP | ROLE_PAE},
    {{.levels = 2}, 0, ROLE_GUEST_MODE | ROLE_WP | ROLE_4_BYTES | ROLE_4_BYTES_NO_PSE},
    {{.levels = 2, .pse = 1}, 0, ROLE_GUEST_MODE | ROLE_WP | ROLE_4_BYTES},
    {{.levels = 4, .pse = 1, .nx = 1}, 0, ROLE_GUEST_MODE | ROLE_WP | ROLE_NX},
    /* Of what a hypervisor's tables say neither SMEP nor SMAP takes anything away. */
    {{.levels = 4, .smep = 1, .smap = 1}, 0, ROLE_GUEST_MODE | ROLE_WP},
    {{.levels = 4, .paging = 1}, 0, 0},
    {{.levels = 4, .paging = 1, .smep = 1}, 0, ROLE_SMEP_NOT_WP},
    {{.levels = 4, .paging = 1, .smap = 1}, 0, ROLE_SMAP_NOT_WP},
    {{.levels = 4, .paging = 1, .wp = 1, .smep = 1, .smap = 1}, 0, ROLE_WP},
    {{.levels = 3, .paging = 1, .nx = 1, .wp = 1}, 0, ROLE_WP | ROLE_NX | ROLE_PAE},
};

/* Which of the pages for one table of 4-byte entries serves an address. */
static u32 quadrant_of(uint64_t gpa, u32 level)
{
	return (u32)(level == QUIRE_LEVEL_4K ? gpa >> 21 & 1 : gpa >> 30 & 3);
}

static void check_keys(const struct setting *setting)
{
	for (u32 i = 0; i < 16; i++) {
		u32 level = i & 1 ? QUIRE_LEVEL_2M : QUIRE_LEVEL_4K, access = ACCESS_READ | i;
		uint64_t gpa = (uint64_t)(i >> 1) << (i & 1 ? 29 : 20);
		struct shadow_walk walk = {.gpa = {gpa}};
		struct shadow_key key;
		u32 role = setting->role | level | access << ROLE_ACCESS_SHIFT;

		if (setting->role & ROLE_4_BYTES)
			role |= quadrant_of(gpa, level) << ROLE_QUADRANT_SHIFT;
		walk.tables[level] = (gfn_t){77};
		walk.access[level] = access;
		key = shadow_key_of(world.vcpu, &walk, level);
		assert_int_equal(key.gfn.v, 77);
		assert_int_equal(key.role, role);
	}
}

static void test_roles(void **state)
{
	const struct quire_nested tables = world.vcpu->nested.tables;

	(void)state;
	change = world_change_begin(&world, &debt);
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		world.vcpu->nested.tables = settings[i].tables;
		world.vcpu->as_id = settings[i].as_id;
		check_keys(&settings[i]);
	}
	world.vcpu->nested.tables = tables;
	world.vcpu->as_id = 0;
	world_change_end(&world, &debt);
}

/* The walk to PAGE(5) of L1's tables as setup() laid them out. */
static struct shadow_walk walk_of_setup(void)
{
	struct shadow_walk walk = {
	    .gpa = {PAGE(5)}, .top = 4, .level = 1, .leaf_access = ACCESS_ALL};
	const uint64_t path[] = {0, TABLE_4K, TABLE_2M, TABLE_1G, WORLD_ROOT};

	for (u32 level = 1; level <= 4; level++) {
		walk.tables[level] = (gfn_t){path[level]};
		walk.access[level] = ACCESS_ALL;
	}
	return walk;
}

/* The path says which tables are followed only now, and no others: they lose their mappings. */
static void test_fresh_tables(void **state)
{
	struct shadow_walk walk = walk_of_setup();
	struct shadow_path path;

	(void)state;
	for (u32 fresh = 0; fresh < 3; fresh++) {
		change = world_change_begin(&world, &debt);
		/* Tables that no access has gone through yet. */
		for (u32 level = 1; level <= fresh; level++)
			walk.tables[level] = (gfn_t){10 * fresh + level};
		memset(&path, 0xff, sizeof(path));
		assert_int_equal(shadow_path_get(&change, world.vcpu, &walk, &path), fresh != 0);
		assert_int_equal(path.root_level, 4);
		assert_int_equal(path.count, fresh);
		for (u32 i = 0; i < fresh; i++)
			assert_int_equal(path.fresh[i].v, walk.tables[fresh - i].v);
		/* The second time all are there. */
		assert_int_equal(shadow_path_get(&change, world.vcpu, &walk, &path), 0);
		assert_int_equal(path.count, 0);
		memset(&path, 0xff, sizeof(path));
		assert_int_equal(shadow_path_direct(&change, 0, &walk, &path), 0);
		assert_int_equal(path.count, 0);
		shadow_page_zap(&change, path.pages[SHADOW_DIRECT_LEVEL]);
		walk = walk_of_setup();
		world_change_end(&world, &debt);
	}
}

/* A table that cannot be followed, for want of memory to count it in, is not shadowed either. */
static void test_table_without_count(void **state)
{
	struct table_cache none = {0};
	struct shadow_path path = {0};
	struct shadow_key key = {.gfn = {UINT64_C(1) << 30},
				 .role = ROLE_GUEST_MODE | ROLE_WP | 1 |
					 ACCESS_ALL << ROLE_ACCESS_SHIFT};
	u64 pages;

	(void)state;
	change = world_change_begin(&world, &debt);
	change.rmaps = &none;
	pages = change.shadow->pages;
	assert_int_equal(shadow_page_follow(&change, &key, &path, 1), -ENOMEM);
	assert_int_equal(change.shadow->pages, pages);
	assert_null(shadow_page_find(change.shadow, &key));
	assert_int_equal(path.count, 0);
	world_change_end(&world, &debt);
}

/* A page takes a table and, with leaves of L1's, another for their gfns; or nothing at all. */
static void test_memory_of_a_page(void **state)
{
	struct table_cache few = {0};
	struct object_cache none = {0};
	int made;

	(void)state;
	for (u32 have = 0; have < 3; have++)
		for (u32 level = 1; level <= 4; level++) {
			const struct shadow_key key = {.gfn = {900 + level},
						       .role = ROLE_GUEST_MODE | ROLE_WP | level};
			u32 wants = level < 4 ? 2 : 1;
			struct shadow_page *page;

			assert_int_equal(table_cache_fill(&few, &world.vm->arena, have), 0);
			change = world_change_begin(&world, &debt);
			while (few.count > have)
				table_cache_put(change.pages, table_cache_take(&few));
			change.pages = &few;
			change.headers = &none;
			assert_null(shadow_page_get(&change, &key, &made));
			assert_int_equal(few.count, have);
			change.headers = &change.shadow->pool;
			page = shadow_page_get(&change, &key, &made);
			assert_int_equal(page != NULL, have >= wants);
			assert_int_equal(made, page != NULL);
			assert_int_equal(few.count, page ? have - wants : have);
			if (page)
				shadow_page_zap(&change, page);
			world_change_end(&world, &debt);
			table_cache_drain(&few, &world.vm->arena);
		}
}

/* Two mappings one after the other at one place. */
struct pair {
	struct word old, new;
	bool direct, same_frame, same_gfn, write;
};

static enum quire_outcome map(const struct pair *pair, const struct shadow_path *path,
			      const struct word *word, bool is_old)
{
	u32 user = word->user ? ACCESS_USER : 0;
	struct shadow_walk walk = walk_of_setup();
	struct shadow_mapping mapping = {
	    .walk = &walk,
	    .path = path,
	    .gfn = {pair->direct	       ? 5
		    : is_old || pair->same_gfn ? 70
					       : 71},
	    .wanted_level = QUIRE_LEVEL_4K,
	    .write = !is_old && pair->write,
	    .leaf = {.pfn = {is_old || pair->same_frame ? 1 : 2},
		     .level = QUIRE_LEVEL_4K,
		     .host_writable = true,
		     .writable = word->writable,
		     .mmu_writable = word->writable,
		     .executable = word->executable},
	};

	if (pair->direct)
		walk.level = SHADOW_DIRECT_LEVEL;
	walk.leaf_access = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC | user;
	return shadow_map(&change, &mapping);
}

/* The entry for PAGE(5) at the end of @path. */
static u64 *entry_of(const struct shadow_path *path)
{
	const struct shadow_page *page = path->pages[path->root_level];

	for (u32 level = path->root_level; level > 1; level--) {
		u64 entry = table_entries(page->table)[walk_index((gfn_t){5}, level)];

		page = shadow_page_of(entry_table(&world.vm->shadow_format, entry));
	}
	return &table_entries(page->table)[5];
}

/* @entry is what maps @gfn. */
static bool is_found_by(const u64 *entry, uint64_t gfn)
{
	u64 *head = rmap_head(change.shadow, shadow_page_of(entry), (gfn_t){gfn}, 1);

	return head && rmap_count(rmap_read(head)) == 1 && rmap_any(rmap_read(head)) == entry;
}

static void check_pair(const struct pair *pair, const struct shadow_path *path)
{
	const struct word *old = &pair->old, *new = &pair->new;
	bool same = pair->same_frame && (pair->direct || pair->same_gfn);
	bool lost = (old->writable && !new->writable) || (old->executable && !new->executable);
	bool enough = same && old->user == new->user && (!pair->write || old->writable) &&
		      (!new->executable || old->executable);
	bool in_place = same && pair->direct && !lost;
	bool is_protected = pair->write && !new->writable;
	u64 flushes, *entry, wanted = leaf_value(new, QUIRE_LEVEL_4K, pair->same_frame ? 1 : 2);
	enum quire_outcome outcome;

	assert_int_equal(map(pair, path, old, true), QUIRE_FIXED);
	entry = entry_of(path);
	*entry |= SHADOW_BITS->accessed;
	flushes = world.vm->flush.flushes;
	outcome = map(pair, path, new, false);
	assert_int_equal(outcome, enough	 ? QUIRE_SPURIOUS
				  : is_protected ? QUIRE_WRITE_PROTECTED
						 : QUIRE_FIXED);
	if (enough)
		wanted = leaf_value(old, QUIRE_LEVEL_4K, 1);
	/* What stays in place was used, and no processor has to forget it. */
	if (enough || in_place)
		wanted |= SHADOW_BITS->accessed;
	assert_int_equal(*entry & ~SHADOW_BITS->dirty, wanted & ~SHADOW_BITS->dirty);
	assert_int_equal(world.vm->flush.flushes - flushes, enough || in_place ? 0 : 1);
	assert_true(is_found_by(entry, pair->direct ? 5 : pair->same_gfn ? 70 : 71));
	shadow_drop(&change, entry);
}

/* All pairs of leaves, in a page of a table of L1's, and in a piece of a larger mapping. */
static void test_mapping_again(void **state)
{
	struct shadow_walk walk = walk_of_setup();
	struct shadow_path path;

	(void)state;
	change = world_change_begin(&world, &debt);
	assert_int_equal(shadow_path_get(&change, world.vcpu, &walk, &path), 0);
	shadow_drop(&change, entry_of(&path));
	for (int direct = 0; direct < 2; direct++) {
		if (direct)
			assert_int_equal(shadow_path_direct(&change, 0, &walk, &path), 0);
		for (unsigned int i = 0; i < 8 * 8 * 8; i++) {
			struct pair pair = {.old = word_of(LEAF + i % 8),
					    .new = word_of(LEAF + i / 8 % 8),
					    .direct = direct,
					    .same_frame = i & 64,
					    .same_gfn = i & 128,
					    .write = i & 256};

			/* The pieces of a mapping without the user's right are in other pages. */
			if (!direct || (pair.old.user && pair.new.user))
				check_pair(&pair, &path);
		}
	}
	shadow_page_zap(&change, path.pages[SHADOW_DIRECT_LEVEL]);
	world_change_end(&world, &debt);
}

#define ENTRY_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown_l2)

int entry_tests(void)
{
	const struct CMUnitTest tests[] = {
	    ENTRY_TEST(test_transitions),
	    ENTRY_TEST(test_another_page_in_place),
	    ENTRY_TEST(test_roles),
	    ENTRY_TEST(test_fresh_tables),
	    ENTRY_TEST(test_table_without_count),
	    ENTRY_TEST(test_memory_of_a_page),
	    ENTRY_TEST(test_mapping_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
