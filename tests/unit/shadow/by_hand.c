/* Holds of mmu_lock in which a test changes shadow tables itself. */
#include "tests/unit/shadow/by_hand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "src/shadow/internal.h"

#define RIGHTS (ACCESS_ALL << ROLE_ACCESS_SHIFT)
#define IN_HAND 128u

struct world world;
struct flush_debt debt;
struct shadow_change change;
struct shadow *shadow;
struct object_cache hidden_objects;
struct table_cache hidden_tables;

int by_hand_setup(void **state)
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

void begin(void)
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

void end(void)
{
	world_change_end(&world, &debt);
}

void keep_objects(struct object_cache *cache, u32 count)
{
	while (cache->count > count)
		object_put(&hidden_objects, object_take(cache));
}

void keep_tables(struct table_cache *cache, u32 count)
{
	while (cache->count > count)
		table_cache_put(&hidden_tables, table_cache_take(cache));
}

struct shadow_page *page_get(u32 role, uint64_t gfn)
{
	const struct shadow_key key = {.gfn = {gfn}, .role = role | RIGHTS};
	struct shadow_page *page;
	int made;

	page = shadow_page_get(&change, &key, &made);
	assert_non_null(page);
	assert_int_equal(made, 1);
	return page;
}

struct shadow_page *child_of(const struct shadow_page *page, u32 index)
{
	u64 entry = table_entries(page->table)[index];

	if (entry_is_leaf(SHADOW_BITS, entry, role_level(page->role)))
		return NULL;
	assert_true(entry_is_present(SHADOW_BITS, entry));
	return shadow_page_of(entry_table(&world.vm->shadow_format, entry));
}
