/* Roots, what a fault has in hand, and the library's writes to tables: by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "src/shadow/internal.h"
#include "tests/unit/shadow/by_hand.h"

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

/* Entries of a PAE root that lead to a directory. */
static u32 count_directories(const struct shadow_page *root)
{
	u32 count = 0;

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		count += table_entries(root->table)[i] != SHADOW_BITS->nonpresent;
	return count;
}

/* Each step of a PAE root's load may find no memory: the load says so, and goes no further. */
static void test_pae_root_without_memory(void **state)
{
	/* One directory twice: the second entry that leads to it takes an object. */
	const u64 directory = PAGE(SOME_GFN + 1) | NPT_P;
	const struct quire_nested tables = {.root = {PAGE(SOME_GFN)},
					    .levels = 3,
					    .directories = {directory, directory, directory, 0}};
	struct object_cache none = {0}, one = {0}, *objects;
	struct table_cache no_tables = {0}, *pages;
	struct shadow_path path = {0};

	(void)state;
	begin();
	objects = change.headers;
	pages = change.pages;
	change.headers = &none;
	assert_int_equal(root_get(&tables, &path), -ENOMEM);
	assert_null(world.vcpu->pae_root);
	change.headers = objects;
	change.pages = &no_tables;
	assert_int_equal(root_get(&tables, &path), -ENOMEM);
	assert_null(world.vcpu->pae_root);
	change.pages = pages;
	object_put(&one, object_take(objects));
	change.headers = &one;
	assert_int_equal(root_get(&tables, &path), -ENOMEM);
	assert_non_null(world.vcpu->pae_root);
	assert_int_equal(count_directories(world.vcpu->pae_root), 0);
	change.headers = objects;
	change.descriptors = &none;
	assert_int_equal(root_get(&tables, &path), -ENOMEM);
	assert_int_equal(count_directories(world.vcpu->pae_root), 1);
	change.descriptors = objects;
	assert_int_equal(root_get(&tables, &path), 0);
	assert_int_equal(count_directories(world.vcpu->pae_root), 3);
	end();
}

/* 32-bit tables: a quarter of the directory for each entry, up to the highest gfn there is. */
static void test_root_of_32_bit_tables(void **state)
{
	const uint64_t gfns[] = {SOME_GFN, world.vm->max_gfn.v, world.vm->max_gfn.v + 1};

	(void)state;
	for (size_t i = 0; i < sizeof(gfns) / sizeof(gfns[0]); i++) {
		const struct quire_nested tables = {.root = {PAGE(gfns[i])}, .levels = 2};
		u32 wanted = gfns[i] > world.vm->max_gfn.v ? 0 : 4;
		struct shadow_path path = {0};

		begin();
		assert_int_equal(root_get(&tables, &path), 0);
		assert_int_equal(count_directories(world.vcpu->pae_root), wanted);
		for (u32 quadrant = 0; quadrant < wanted; quadrant++) {
			const struct shadow_page *child = child_of(world.vcpu->pae_root, quadrant);

			assert_int_equal(role_quadrant(child->role), quadrant);
			assert_int_equal(role_access(child->role), ACCESS_ALL);
			assert_int_equal(role_level(child->role), QUIRE_LEVEL_2M);
			assert_int_equal(child->role & ROLE_4_BYTES, ROLE_4_BYTES);
			assert_int_equal(child->gfn.v, gfns[i]);
		}
		end();
	}
}

/* A PAE root is the vCPU's own, and what it knew by it is forgotten when it is loaded again. */
static void test_pae_root_is_its_own(void **state)
{
	const struct quire_nested tables = {.root = {PAGE(SOME_GFN)}, .levels = 3};
	struct quire_vcpu *first = world.cpus[0].vcpu, *second = world.cpus[1].vcpu;
	struct vcpu_previous_root kept[VCPU_PREVIOUS_ROOTS];
	struct shadow_path path = {0};
	struct shadow_page *root;

	(void)state;
	world_nested_on(&world, 1, 1);
	begin();
	assert_int_equal(root_get(&tables, &path), 0);
	root = first->pae_root;
	assert_ptr_equal(shadow->pae_roots, root);
	assert_null(root->hash_next);
	memcpy(kept, first->previous, sizeof(kept));
	for (u32 i = 0; i < VCPU_PREVIOUS_ROOTS; i++) {
		for (u32 j = 0; j < VCPU_PREVIOUS_ROOTS; j++)
			first->previous[j].shadow.page = j == i ? root : &(struct shadow_page){0};
		assert_int_equal(root_get(&tables, &path), 0);
		for (u32 j = 0; j < VCPU_PREVIOUS_ROOTS; j++)
			assert_int_equal(first->previous[j].shadow.page == NULL, j == i);
	}
	memcpy(first->previous, kept, sizeof(kept));
	assert_ptr_equal(first->pae_root, root);
	world.vcpu = second;
	assert_int_equal(root_get(&tables, &path), 0);
	world.vcpu = first;
	assert_ptr_not_equal(second->pae_root, root);
	assert_ptr_equal(path.pages[SHADOW_PAE_LEVEL], second->pae_root);
	assert_ptr_equal(shadow->pae_roots, second->pae_root);
	assert_ptr_equal(second->pae_root->hash_next, root);
	end();
	world_nested_on(&world, 1, 0);
}

/* A load of a PAE root changes four entries, and says of which tables and of when it is. */
static void test_pae_root_follows_the_tables(void **state)
{
	struct quire_nested tables = {.root = {PAGE(SOME_GFN)}, .levels = 3};
	struct shadow_path path = {0};
	const struct shadow_page *root;
	u64 changes;

	(void)state;
	begin();
	assert_int_equal(root_get(&tables, &path), 0);
	root = world.vcpu->pae_root;
	assert_int_equal(root->role & (ROLE_NX | ROLE_PAE), ROLE_PAE);
	assert_int_equal(role_access(root->role), ACCESS_ALL);
	tables.nx = 1;
	changes = shadow->changes;
	world.vm->mmu_valid_gen ^= 1;
	assert_int_equal(root_get(&tables, &path), 0);
	assert_int_equal(shadow->changes, changes + 4);
	assert_int_equal(root->role & (ROLE_NX | ROLE_PAE), ROLE_NX | ROLE_PAE);
	assert_int_equal(root->generation, world.vm->mmu_valid_gen);
	world.vm->mmu_valid_gen ^= 1;
	assert_int_equal(root_get(&tables, &path), 0);
	assert_int_equal(root->generation, world.vm->mmu_valid_gen);
	end();
}

/* A page that was there as another one's child is kept from when it is a root. */
static void test_child_becomes_root(void **state)
{
	const struct quire_nested tables = {.root = {PAGE(SOME_GFN)}, .levels = 4};
	struct shadow_path path = {.count = 7};
	struct shadow_page *root;

	(void)state;
	begin();
	assert_int_equal(root_get(&tables, &path), 0);
	assert_int_equal(path.count, 1);
	assert_int_equal(path.fresh[0].v, SOME_GFN);
	root = path.pages[4];
	root->kept = 0;
	path.count = 7;
	assert_int_equal(root_get(&tables, &path), 0);
	assert_int_equal(path.count, 0);
	assert_ptr_equal(path.pages[4], root);
	assert_int_equal(root->kept, 1);
	shadow_page_zap(&change, root);
	end();
}

/* A fault has 16 objects in hand, and the tables of its longest way. */
#define RESERVE_OBJECTS 16u
#define RESERVE_TABLES (2 * SHADOW_LEVEL_MAX + (SHADOW_LEVEL_MAX + 1) * SPARSE_DEPTH)

static void give_back(void)
{
	object_cache_move(&shadow->pool, &hidden_objects);
	while (hidden_tables.count)
		table_cache_put(&world.vcpu->tables, table_cache_take(&hidden_tables));
}

static void test_reserve(void **state)
{
	(void)state;
	begin();
	keep_objects(&shadow->pool, RESERVE_OBJECTS);
	keep_tables(&world.vcpu->tables, RESERVE_TABLES);
	assert_true(shadow_has_reserve(world.vcpu));
	keep_tables(&world.vcpu->tables, RESERVE_TABLES - 1);
	assert_false(shadow_has_reserve(world.vcpu));
	give_back();
	keep_objects(&shadow->pool, RESERVE_OBJECTS - 1);
	assert_false(shadow_has_reserve(world.vcpu));
	give_back();
	keep_objects(&shadow->pool, RESERVE_OBJECTS);
	end();
	/* Enough is left alone. */
	assert_int_equal(shadow_reserve(world.vcpu), 0);
	assert_int_equal(shadow->pool.count, RESERVE_OBJECTS);
	begin();
	give_back();
	end();
}

/* Objects that cannot be had are said, and what there was stays. */
static void test_reserve_without_memory(void **state)
{
	struct arena *arena = &world.vm->arena;
	struct table_cache hog = {0};

	(void)state;
	begin();
	keep_objects(&shadow->pool, RESERVE_OBJECTS - 1);
	end();
	assert_int_equal(table_cache_fill(&hog, arena, (u32)arena->free_count), 0);
	world.host.fail_at = world.host.allocations + 1;
	assert_int_equal(shadow_reserve(world.vcpu), -ENOMEM);
	world.host.fail_at = 0;
	assert_int_equal(shadow->pool.count, RESERVE_OBJECTS - 1);
	table_cache_drain(&hog, arena);
	begin();
	give_back();
	end();
}

/* The shadow MMU of a VM that is not in use goes without a trace, and is made anew. */
static void test_made_again(void **state)
{
	uint64_t used;

	(void)state;
	world_nested(&world, 0);
	world_stop_vm(&world);
	world_start_vm(&world);
	world_add_cpu(&world);
	used = arena_used(&world.vm->arena);
	for (uint32_t round = 0; round < 2; round++) {
		const struct shadow *made;

		assert_null(world.vm->shadow);
		assert_null(world.vm->track);
		assert_int_equal(shadow_init(world.vm), 0);
		made = world.vm->shadow;
		assert_non_null(made);
		assert_non_null(world.vm->track);
		assert_int_equal(made->root_turn, 1);
		assert_int_equal(shadow_init(world.vm), 0);
		assert_ptr_equal(world.vm->shadow, made);
		shadow_destroy(world.vm);
		assert_int_equal(arena_used(&world.vm->arena), used);
	}
}

#define HAND_TEST(name) cmocka_unit_test_setup_teardown(name, by_hand_setup, world_teardown_l2)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    HAND_TEST(test_writes_are_counted),
	    HAND_TEST(test_root_without_memory),
	    HAND_TEST(test_pae_root),
	    HAND_TEST(test_pae_root_without_memory),
	    HAND_TEST(test_root_of_32_bit_tables),
	    HAND_TEST(test_pae_root_is_its_own),
	    HAND_TEST(test_pae_root_follows_the_tables),
	    HAND_TEST(test_child_becomes_root),
	    HAND_TEST(test_reserve),
	    HAND_TEST(test_reserve_without_memory),
	    HAND_TEST(test_made_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
