/* Random steps. */
#include "tests/unit/shadow/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* L1's tables: one of level 3, two of level 2, four of level 1, shared freely. */
#define LEVEL3 2u
#define LEVEL2 3u
#define LEVEL1 5u
#define LEVEL2_COUNT 2u
#define LEVEL1_COUNT 4u
/* Entries in use of each table. */
#define WIDTH 6u

static uint64_t random_state;

static uint32_t pick(uint32_t below)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(random_state >> 33) % below;
}

static uint64_t rights(void)
{
	uint64_t entry = NPT_P | NPT_U;

	if (pick(12) == 0)
		entry &= ~(pick(2) ? NPT_P : NPT_U);
	if (pick(4))
		entry |= NPT_W;
	if (pick(4) == 0)
		entry |= NPT_NX;
	if (pick(3) == 0)
		entry |= NPT_D | NPT_A;
	if (pick(40) == 0)
		entry |= UINT64_C(1) << (48 + pick(4));
	return entry;
}

static uint64_t data_page(void)
{
	/* Sometimes one of L1's tables, sometimes no memory. */
	if (pick(30) == 0)
		return pick(12);
	if (pick(30) == 0)
		return WORLD_PAGES + pick(4);
	return pick(2) ? WORLD_DATA + pick(8) : WORLD_SLOT_PAGES + pick(8);
}

static void change_table(struct world *world)
{
	uint32_t index = pick(WIDTH);

	switch (pick(8)) {
	case 0:
		world_set_entry(world, WORLD_ROOT, pick(2), LEVEL3 * QUIRE_PAGE_SIZE | rights());
		break;
	case 1:
		world_set_entry(world, LEVEL3, index % 2,
				(LEVEL2 + pick(LEVEL2_COUNT)) * QUIRE_PAGE_SIZE | rights());
		break;
	case 2:
		world_set_entry(world, LEVEL2 + pick(LEVEL2_COUNT), index,
				(pick(2) * WORLD_SLOT_PAGES) * QUIRE_PAGE_SIZE | NPT_PS | rights());
		break;
	case 3:
	case 4:
		world_set_entry(world, LEVEL2 + pick(LEVEL2_COUNT), index,
				(LEVEL1 + pick(LEVEL1_COUNT)) * QUIRE_PAGE_SIZE | rights());
		break;
	default:
		world_set_entry(world, LEVEL1 + pick(LEVEL1_COUNT), index,
				data_page() * QUIRE_PAGE_SIZE | rights());
	}
}

static uint64_t address(void)
{
	return (uint64_t)pick(2) << 39 | (uint64_t)pick(2) << 30 | (uint64_t)pick(WIDTH) << 21 |
	       (uint64_t)pick(WIDTH) << 12 | 0xff8;
}

/* A write through L2 may hit one of L1's tables: only an unused entry then. */
static void access_l2(struct world *world)
{
	(void)world_check(world, address(), (enum world_access)pick(3));
}

/* L1's own access: what the slots say. */
static void access_l1(struct world *world)
{
	uint64_t gfn = pick(2) ? pick(12) : data_page();
	enum world_access access = (enum world_access)pick(3);
	struct world_result result;

	world_nested(world, 0);
	result = world_access(world, gfn * QUIRE_PAGE_SIZE + 8, access);
	if (gfn >= WORLD_PAGES || !world->slot_there[gfn / WORLD_SLOT_PAGES]) {
		assert_int_equal(result.outcome, QUIRE_EMULATE);
		return;
	}
	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(world, gfn) + 8);
	if (access == WORLD_WRITE)
		world->written[gfn] = 1;
}

static void change_slot(struct world *world)
{
	uint32_t id = 1;

	if (pick(3) == 0) {
		quire_vm_set_slot_zap_all(world->vm, (int)pick(2));
		assert_int_equal(world_slot(world, id, UINT32_MAX), 0);
		for (uint32_t i = 0; i < 10; i++) {
			access_l1(world);
			access_l2(world);
		}
		assert_int_equal(world_slot(world, id, 0), 0);
		return;
	}
	id = pick(2);
	assert_int_equal(world_slot(world, id, world->slot_flags[id] ^ QUIRE_SLOT_LOG_DIRTY), 0);
}

static void step(struct world *world)
{
	uint32_t id;

	switch (pick(100)) {
	case 0:
		change_slot(world);
		break;
	case 1:
		world_migrate(world, pick(2) ? pick(12) : WORLD_DATA + pick(8));
		break;
	case 2:
		assert_int_equal(quire_vm_set_nr_mmu_pages(world->vm, 64), 0);
		break;
	case 3:
	case 4:
		id = pick(2);
		if (world->slot_flags[id] & QUIRE_SLOT_LOG_DIRTY)
			assert_int_equal(world_harvest(world, id), 0);
		break;
	case 5:
		quire_vcpu_flush_nested(world->vcpu);
		break;
	default:
		if (pick(5) == 0)
			access_l1(world);
		else if (pick(4) == 0)
			change_table(world);
		else
			access_l2(world);
	}
}

void world_random(struct world *world, uint64_t seed, uint32_t steps)
{
	random_state = seed;
	for (uint32_t i = 0; i < steps; i++)
		step(world);
}
