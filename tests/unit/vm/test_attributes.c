/* Attributes against one byte a page; failing allocations; the cost of huge ranges. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/base/reclaim.h"
#include "src/vm/vm.h"
#include "tests/unit/fake_host.h"

#define PAGES 1024u
#define PRIVATE QUIRE_ATTRIBUTE_PRIVATE

static u64 attributes_get(const struct quire_vm *vm, gfn_t gfn)
{
	return range_map_get(&vm->attributes, gfn.v);
}

static int attributes_uniform(const struct quire_vm *vm, gfn_t start, u64 npages, u64 *value)
{
	return range_map_uniform(&vm->attributes, start.v, start.v + npages, value);
}

static int attributes_range_has(const struct quire_vm *vm, gfn_t start, u64 npages, u64 value)
{
	u64 found;

	return attributes_uniform(vm, start, npages, &found) && found == value;
}

static int attributes_prepare_set(struct quire_vm *vm, gfn_t start, u64 npages, u64 value,
				  struct range_map_change *change)
{
	const struct ptree_item range = {start.v, start.v + npages, (void *)(uintptr_t)value};

	return range_map_prepare(&vm->attributes, vm->host, vm->host_ctx, &range, change);
}

static void attributes_commit(struct quire_vm *vm, struct range_map_change *change)
{
	range_map_commit(&vm->attributes, change);
}

static void attributes_finish(struct range_map_change *change)
{
	reclaim_synchronize();
	range_map_finish(change);
}

static void set(struct quire_vm *vm, u64 start, u64 npages, u64 value)
{
	struct range_map_change change;

	assert_int_equal(attributes_prepare_set(vm, (gfn_t){start}, npages, value, &change), 0);
	attributes_commit(vm, &change);
	attributes_finish(&change);
}

static void check_block(struct quire_vm *vm, const u8 *model, u64 start, u64 npages)
{
	u64 want = model[start] ? PRIVATE : 0;
	int uniform = 1;
	u64 value = ~0ull;

	for (u64 i = 0; i < npages; i++)
		uniform &= model[start + i] == model[start];
	assert_int_equal(attributes_uniform(vm, (gfn_t){start}, npages, &value), uniform);
	if (uniform)
		assert_int_equal(value, want);
	assert_int_equal(attributes_range_has(vm, (gfn_t){start}, npages, want), uniform);
	assert_int_equal(attributes_range_has(vm, (gfn_t){start}, npages, want ^ PRIVATE), 0);
}

/* Every page, every aligned block, and that ranges are merged: as many as the model has runs. */
static void check_all(struct quire_vm *vm, const u8 *model)
{
	u64 runs = 0;

	for (u64 i = 0; i < PAGES; i++) {
		assert_int_equal(attributes_get(vm, (gfn_t){i}), model[i] ? PRIVATE : 0);
		runs += model[i] && (i == 0 || !model[i - 1]);
	}
	assert_int_equal(vm->attributes.ranges.count, runs);
	for (u64 block = 1; block <= PAGES; block *= 4)
		for (u64 start = 0; start < PAGES; start += block)
			check_block(vm, model, start, block);
}

static void random_range(u64 *start, u64 *npages)
{
	u64 longest = rand() % 4 ? 8 : 300;

	*start = (u64)rand() % PAGES;
	*npages = 1 + (u64)rand() % longest;
	if (*npages > PAGES - *start)
		*npages = PAGES - *start;
}

static void test_model(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_SW_PROTECTED);
	static u8 model[PAGES];

	memset(model, 0, sizeof(model));
	srand(4);
	for (unsigned int round = 0; round < 2000; round++) {
		u64 start, npages;
		u8 private = (u8)(rand() & 1);

		random_range(&start, &npages);
		set(vm, start, npages, private ? PRIVATE : 0);
		memset(model + start, private, npages);
		if (round % 8 == 0)
			check_all(vm, model);
	}
	check_all(vm, model);
	fake_vm_end_locked(vm);
}

/* U-093: without memory, at whichever allocation, nothing has changed and nothing is lost. */
static void test_no_memory(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_SW_PROTECTED);
	static u8 model[PAGES];
	u64 failed = 0;

	memset(model, 0, sizeof(model));
	srand(5);
	for (unsigned int round = 0; round < 300; round++) {
		struct range_map_change change;
		u8 private = (u8)(rand() & 1);
		u64 value = private ? PRIVATE : 0;
		u64 live = fake.live_allocs;
		u64 start, npages;
		int error = -ENOMEM;

		random_range(&start, &npages);
		for (u64 fail = 1; error; fail++) {
			fake_fail_in(fail);
			error = attributes_prepare_set(vm, (gfn_t){start}, npages, value, &change);
			fake_fail_in(0);
			if (!error)
				break;
			failed++;
			assert_int_equal(error, -ENOMEM);
			assert_int_equal(fake.live_allocs, live);
			assert_int_equal(attributes_get(vm, (gfn_t){start}),
					 model[start] ? PRIVATE : 0);
		}
		if (round % 5 == 0) {
			range_map_abort(&change);
			assert_int_equal(fake.live_allocs, live);
		} else {
			attributes_commit(vm, &change);
			attributes_finish(&change);
			memset(model + start, private, npages);
		}
		if (round % 16 == 0)
			check_all(vm, model);
	}
	assert_true(failed > 100);
	check_all(vm, model);
	fake_vm_end_locked(vm);
}

/* A terabyte costs a few nodes, split or not. */
static void test_terabyte(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_SW_PROTECTED);
	u64 before = fake.live_bytes;
	u64 pages = 1ull << 28;
	u64 value;

	set(vm, 512, pages, PRIVATE);
	assert_in_range(fake.live_bytes - before, 1, 8192);
	assert_true(attributes_range_has(vm, (gfn_t){512}, pages, PRIVATE));
	assert_false(attributes_uniform(vm, (gfn_t){0}, 1024, &value));
	assert_int_equal(attributes_get(vm, (gfn_t){511 + pages}), PRIVATE);
	assert_int_equal(attributes_get(vm, (gfn_t){512 + pages}), 0);

	set(vm, 512 + pages / 2, 1, 0);
	assert_in_range(fake.live_bytes - before, 1, 8192);
	assert_true(attributes_range_has(vm, (gfn_t){512}, pages / 2, PRIVATE));
	assert_false(attributes_uniform(vm, (gfn_t){pages / 2 + 512}, 512, &value));
	set(vm, 512, pages, 0);
	assert_int_equal(fake.live_bytes, before);
	assert_true(attributes_range_has(vm, (gfn_t){0}, 1ull << 52, 0));
	fake_vm_end_locked(vm);
}

/* The end of guest physical memory is no special place. */
static void test_ends(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_SW_PROTECTED);
	u64 last = (1ull << 52) - 1;

	set(vm, last, 1, PRIVATE);
	set(vm, 0, 1, PRIVATE);
	assert_int_equal(attributes_get(vm, (gfn_t){last}), PRIVATE);
	assert_int_equal(attributes_get(vm, (gfn_t){last - 1}), 0);
	set(vm, 0, last + 1, PRIVATE);
	assert_int_equal(vm->attributes.ranges.count, 1);
	assert_true(attributes_range_has(vm, (gfn_t){0}, last + 1, PRIVATE));
	fake_vm_end_locked(vm);
}

#define LOOKS_A_ROUND 200u

struct race {
	struct quire_vm *vm;
	u32 stop;
	u64 wrong;
	u64 rounds; /* of changes: so many looks of a reader go with one, however slow it is */
};

/* What lies outside every change is the same in every version. */
static void *reader(void *arg)
{
	struct race *race = arg;
	u64 looks = 0;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		u64 value;

		if (looks / LOOKS_A_ROUND > __atomic_load_n(&race->rounds, __ATOMIC_RELAXED)) {
			sched_yield();
			continue;
		}
		looks++;
		reclaim_enter();
		/* 300..700 is always private, 0..99 never. */
		if (attributes_get(race->vm, (gfn_t){50}) ||
		    attributes_get(race->vm, (gfn_t){500}) != PRIVATE ||
		    !attributes_uniform(race->vm, (gfn_t){300}, 400, &value))
			__atomic_fetch_add(&race->wrong, 1, __ATOMIC_RELAXED);
		reclaim_leave();
	}
	return NULL;
}

static void test_readers(void **state)
{
	struct race race = {.vm = fake_vm_make_locked(QUIRE_VM_SW_PROTECTED)};
	pthread_t threads[2];

	set(race.vm, 300, 400, PRIVATE);
	srand(6);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &race), 0);
	for (unsigned int round = 0; round < 600; round++) {
		u64 start = 100 + (u64)rand() % 200;
		u64 length = 1 + (u64)rand() % (300 - start);

		set(race.vm, start, length, rand() & 1 ? PRIVATE : 0);
		set(race.vm, 400 + start, 1, PRIVATE);
		__atomic_store_n(&race.rounds, round, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(race.wrong, 0);
	fake_vm_end_locked(race.vm);
}

/* A reader may look at the old ranges until its section ends: they are not freed before. */
static void test_waits_for_readers(void **state)
{
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_SW_PROTECTED);

	(void)state;
	assert_int_equal(
	    quire_vm_set_attributes(vm, gpa_of((gfn_t){5}), 7 * QUIRE_PAGE_SIZE, PRIVATE), 0);
	fake_reader_begin();
	assert_int_equal(
	    quire_vm_set_attributes(vm, gpa_of((gfn_t){8}), 9 * QUIRE_PAGE_SIZE, PRIVATE), 0);
	assert_false(fake_reader_is_inside());
	fake_reader_end();
	fake_vm_end(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_model),    cmocka_unit_test(test_no_memory),
	    cmocka_unit_test(test_terabyte), cmocka_unit_test(test_ends),
	    cmocka_unit_test(test_readers),  cmocka_unit_test(test_waits_for_readers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
