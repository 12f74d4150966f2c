/*
 * Page tables of a guest without a second stage: every combination of rights in two levels, of
 * CR0.WP, CR4.SMEP, CR4.SMAP and EFER.NXE, and of accesses, against their definition.
 */
#include "tests/unit/shadow/groups.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/shadow/world.h"

#define ADDRESS UINT64_C(0x000ffffffffff000)
/* The tables below the root, and what they map. */
#define UPPER 2u
#define MIDDLE 3u
#define LEAVES 5u
#define DATA 70u
#define LINEAR (PAGE(3) + 8)

static struct world world;
static uint64_t linear; /* what is accessed */

enum kind { KIND_READ, KIND_WRITE, KIND_FETCH };

struct access {
	enum kind kind;
	int user;
	int smap; /* a supervisor that EFLAGS.AC does not free from CR4.SMAP */
};

static int setup(void **state)
{
	*state = &world;
	linear = LINEAR;
	world_mmu = QUIRE_MMU_SHADOW;
	world_start(&world);
	world_set_entry(&world, WORLD_ROOT, 0, PAGE(UPPER) | NPT_ALL);
	world_set_entry(&world, UPPER, 0, PAGE(MIDDLE) | NPT_ALL);
	return 0;
}

static int teardown(void **state)
{
	(void)world_teardown(state);
	world_mmu = QUIRE_MMU_TDP;
	return 0;
}

static uint64_t error_of(const struct access *access)
{
	uint64_t error = access->user ? QUIRE_PFERR_USER : 0;

	if (access->kind == KIND_WRITE)
		error |= QUIRE_PFERR_WRITE;
	return access->kind == KIND_FETCH ? error | QUIRE_PFERR_FETCH : error;
}

/* A processor with CR0.WP set, and the guest's SMEP and SMAP, on the tables it was handed. */
static int processor_allows(const struct access *access, const struct quire_nested *control,
			    uint64_t both, uint64_t nx)
{
	if (access->user && !(both & NPT_U))
		return 0;
	if (access->kind == KIND_FETCH)
		return !nx && (access->user || !(both & NPT_U) || !control->smep);
	if (!access->user && access->smap && (both & NPT_U))
		return 0;
	return access->kind != KIND_WRITE || (both & NPT_W);
}

static uint8_t *processor_walk(const struct quire_stage2 *stage2, const struct access *access,
			       const struct quire_nested *control)
{
	uint64_t *table = stage2->root, both = NPT_W | NPT_U, nx = 0;

	for (uint32_t level = 4;; level--) {
		uint32_t shift = 12 + 9 * (level - 1);
		uint64_t *entry = &table[linear >> shift & 511], span = (UINT64_C(1) << shift) - 1;

		if (!(*entry & NPT_P))
			return NULL;
		both &= *entry;
		nx |= *entry & NPT_NX;
		if (level > 1 && !(*entry & NPT_PS)) {
			table = (uint64_t *)(uintptr_t)(*entry & ADDRESS);
			continue;
		}
		if (!processor_allows(access, control, both, nx))
			return NULL;
		*entry |= access->kind == KIND_WRITE ? NPT_A | NPT_D : NPT_A;
		return (uint8_t *)(uintptr_t)((*entry & ADDRESS & ~span) + (linear & span));
	}
}

static struct world_result try_access(const struct access *access,
				      const struct quire_nested *control)
{
	struct world_result result = {.outcome = QUIRE_RETRY};

	for (uint32_t tries = 0; tries < 16; tries++) {
		struct quire_memory_fault fault = {0};
		struct quire_stage2 stage2;
		uint64_t requests;

		assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
		result.host = processor_walk(&stage2, access, control);
		quire_vcpu_leave(world.vcpu);
		result.outcome = 0;
		if (result.host)
			return result;
		result.outcome = quire_vcpu_fault(
		    world.vcpu, (gpa_t){linear},
		    error_of(access) | (access->smap ? QUIRE_PFERR_SMAP : 0), &fault);
		result.error = fault.flags;
		if (result.outcome == QUIRE_NESTED_FAULT || result.outcome == QUIRE_WRITE_PROTECTED)
			return result;
	}
	return result;
}

/* By definition. */
static struct world_result wanted(const struct access *access, const struct quire_nested *control,
				  uint64_t upper, uint64_t leaf)
{
	struct world_result result = {.outcome = QUIRE_NESTED_FAULT, .error = error_of(access)};
	int user_page = (upper & leaf & NPT_U) != 0, allowed;

	if (!control->nx && !control->smep)
		result.error &= ~(uint64_t)QUIRE_PFERR_FETCH;
	if ((upper & NPT_NX) && !control->nx) {
		result.error |= QUIRE_PFERR_RSVD | QUIRE_PFERR_PRESENT;
		return result;
	}
	if (!(leaf & NPT_P))
		return result;
	result.error |= QUIRE_PFERR_PRESENT;
	if ((leaf & NPT_NX) && !control->nx) {
		result.error |= QUIRE_PFERR_RSVD;
		return result;
	}
	allowed = !access->user || user_page;
	if (access->kind == KIND_FETCH)
		allowed &=
		    !((upper | leaf) & NPT_NX) && (access->user || !user_page || !control->smep);
	if (access->kind != KIND_FETCH && access->smap && user_page)
		allowed = 0;
	if (access->kind == KIND_WRITE && !(upper & leaf & NPT_W)) {
		allowed &= !access->user && !control->wp;
		/* No entry says "the supervisor may write here, but only with AC". */
		if (allowed && control->smap && user_page) {
			result.outcome = QUIRE_WRITE_PROTECTED;
			return result;
		}
	}
	if (allowed)
		result = (struct world_result){.host = world_page(&world, DATA) + (linear & 0xfff)};
	return result;
}

static uint64_t entry_at(uint32_t table, uint32_t index)
{
	return ((const uint64_t *)(const void *)world_page(&world, table))[index];
}

static void check_one(const struct access *access, const struct quire_nested *control,
		      uint64_t upper, uint64_t leaf)
{
	struct world_result expected = wanted(access, control, upper, leaf), result;

	result = try_access(access, control);
	if (result.outcome != expected.outcome || result.host != expected.host ||
	    (expected.outcome == QUIRE_NESTED_FAULT && result.error != expected.error))
		print_error("upper %llx leaf %llx nx %u wp %u smep %u smap %u, %s %d, smap %d\n",
			    (unsigned long long)upper, (unsigned long long)leaf, control->nx,
			    control->wp, control->smep, control->smap,
			    access->user ? "user" : "supervisor", access->kind, access->smap);
	assert_int_equal(result.outcome, expected.outcome);
	assert_ptr_equal(result.host, expected.host);
	if (expected.outcome == QUIRE_NESTED_FAULT)
		assert_int_equal(result.error, expected.error);
	if (expected.outcome)
		return;
	assert_true(entry_at(MIDDLE, 0) & NPT_A);
	assert_true(entry_at(LEAVES, 3) & NPT_A);
	assert_true(access->kind != KIND_WRITE || (entry_at(LEAVES, 3) & NPT_D));
}

/* All accesses twice, so that each follows each right that an earlier one may have left. */
static void check_accesses(const struct quire_nested *control, uint64_t upper, uint64_t leaf)
{
	for (uint32_t i = 0; i < 18; i++) {
		struct access access = {.kind = (enum kind)(i % 3),
					.user = i / 3 % 3 == 1,
					.smap = i / 3 % 3 == 2 && control->smap};

		check_one(&access, control, upper, leaf);
	}
}

static uint64_t rights(uint32_t bits)
{
	return (bits & 1 ? NPT_W : 0) | (bits & 2 ? NPT_U : 0) | (bits & 4 ? NPT_NX : 0) |
	       (bits & 8 ? 0 : NPT_P) | (bits & 16 ? NPT_D : 0);
}

static void check_tables(uint64_t upper, uint64_t leaf)
{
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
	world_set_entry(&world, MIDDLE, 0, PAGE(LEAVES) | upper);
	world_set_entry(&world, LEAVES, 3, PAGE(DATA) | leaf);
	for (uint32_t mode = 0; mode < 16; mode++) {
		struct quire_nested control = {.root = {PAGE(WORLD_ROOT)},
					       .levels = 4,
					       .paging = 1,
					       .nx = mode & 1,
					       .wp = mode >> 1 & 1,
					       .smep = mode >> 2 & 1,
					       .smap = mode >> 3 & 1};

		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &control), 0);
		check_accesses(&control, upper, leaf);
	}
}

static void test_all_rights(void **state)
{
	(void)state;
	for (uint32_t upper = 0; upper < 8; upper++)
		for (uint32_t leaf = 0; leaf < 32; leaf++)
			check_tables(rights(upper), rights(leaf));
}

/* A write that no entry can allow, to a slot that may only be read: the client's to emulate. */
static void test_by_hand_to_a_read_only_slot(void **state)
{
	const struct quire_nested control = {
	    .root = {PAGE(WORLD_ROOT)}, .levels = 4, .paging = 1, .smap = 1};
	const struct access write = {.kind = KIND_WRITE};

	(void)state;
	assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_READONLY), 0);
	world_set_entry(&world, MIDDLE, 0, PAGE(LEAVES) | NPT_ALL);
	world_set_entry(&world, LEAVES, 3, PAGE(WORLD_SLOT_PAGES) | NPT_P | NPT_U);
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &control), 0);
	assert_int_equal(try_access(&write, &control).outcome, QUIRE_EMULATE);
}

/*
 * A huge page of the guest over small ones of the host: what one access may is not what the one
 * before might, and the entry that maps both changes in place, or goes first.
 */
static void test_rights_of_a_huge_page(void **state)
{
	(void)state;
	linear = PAGE(DATA) + 8;
	for (uint32_t which = 0; which < 8 * 16; which++) {
		uint64_t leaf = rights(which / 16);
		struct quire_nested control = {.root = {PAGE(WORLD_ROOT)},
					       .levels = 4,
					       .paging = 1,
					       .nx = which & 1,
					       .wp = which >> 1 & 1,
					       .smep = which >> 2 & 1,
					       .smap = which >> 3 & 1};

		assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
		world_set_entry(&world, MIDDLE, 0, leaf | NPT_PS);
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &control), 0);
		for (uint32_t i = 0; i < 18; i++) {
			struct access access = {.kind = (enum kind)(i % 3),
						.user = i / 3 % 3 == 1,
						.smap = i / 3 % 3 == 2 && control.smap};
			struct world_result expected = wanted(&access, &control, NPT_ALL, leaf);
			struct world_result result = try_access(&access, &control);

			assert_int_equal(result.outcome, expected.outcome);
			assert_ptr_equal(result.host, expected.host);
		}
	}
}

/* The guest takes turns between two settings that differ in one thing: each has its own rights. */
static void check_turns(const struct quire_nested *one, const struct quire_nested *other)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	for (uint32_t turn = 0; turn < 4; turn++) {
		const struct quire_nested *control = turn % 2 ? other : one;

		assert_int_equal(quire_vcpu_set_nested(world.vcpu, control), 0);
		if (control->paging) {
			check_accesses(control, NPT_ALL, NPT_P | NPT_U);
			continue;
		}
		/* Another kind of tables at the same place. */
		assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(world.vcpu);
	}
}

static void test_turns(void **state)
{
	const struct quire_nested one = {.root = {PAGE(WORLD_ROOT)}, .levels = 4, .paging = 1};
	struct quire_nested others[5] = {one, one, one, one, one};

	(void)state;
	world_set_entry(&world, MIDDLE, 0, PAGE(LEAVES) | NPT_ALL);
	world_set_entry(&world, LEAVES, 3, PAGE(DATA) | NPT_P | NPT_U);
	others[0].nx = others[1].wp = others[2].smep = others[3].smap = 1;
	others[4].paging = 0;
	for (uint32_t i = 0; i < 5; i++)
		check_turns(&one, &others[i]);
}

static void test_refused_without_shadow_pages(void **state)
{
	struct quire_nested control = {.root = {PAGE(WORLD_ROOT)}, .levels = 4, .paging = 1};

	(void)state;
	world_stop_vm(&world);
	world_mmu = QUIRE_MMU_TDP;
	world_start_vm(&world);
	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &control), -EOPNOTSUPP);
}

/* Of a guest without a second stage there is nothing to split ahead of a log. */
static void test_split_is_refused(void **state)
{
	uint64_t done = 77;

	(void)state;
	assert_int_equal(quire_vm_split(world.vm, 0, (gpa_t){0}, PAGE(1), &done), -EOPNOTSUPP);
	assert_int_equal(done, 77);
}

int paging_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_all_rights, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_rights_of_a_huge_page, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_turns, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_by_hand_to_a_read_only_slot, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_refused_without_shadow_pages, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_split_is_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
