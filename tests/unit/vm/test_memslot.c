/* Memslots against a table of ids; the order of checks; failing allocations; readers. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "src/base/reclaim.h"
#include "src/vm/vm.h"
#include "tests/unit/fake_host.h"

#define IDS 64u
#define FRAMES 512u
#define HVA_BASE UINT64_C(0x100000000)
#define PAGES(n) ((u64)(n) << QUIRE_PAGE_SHIFT)

/* What slots there should be; npages 0: unused. */
struct model {
	struct quire_region slots[QUIRE_AS_MAX][IDS];
};

static struct quire_region region_of(u32 as, u32 id, u64 gfn, u64 npages)
{
	return (struct quire_region){
	    .slot = as << 16 | id,
	    .gpa = {PAGES(gfn)},
	    .size_bytes = PAGES(npages),
	    .hva = {HVA_BASE},
	};
}

/* How far an update goes before it is given up. */
enum stop { FINISH, STOP_PREPARED, STOP_BEGUN };

static int update_slot(struct quire_vm *vm, const struct quire_region *region, enum stop stop)
{
	struct memslot_update update = {0};
	struct memslot_decision decision;
	int error = memslot_check(vm, region, &decision);

	if (error || decision.change == MEMSLOT_NONE)
		return error;
	update.change = decision.change;
	update.old_slot = decision.old;
	if (decision.change != MEMSLOT_DELETE) {
		update.new_slot = memslot_alloc(vm, region);
		if (!update.new_slot)
			return -ENOMEM;
	}
	error = memslot_update_prepare(vm, &update);
	if (error) {
		memslot_free(vm, update.new_slot);
		return error;
	}
	if (stop != STOP_PREPARED)
		memslot_update_begin(vm, &update);
	if (stop != FINISH) {
		memslot_update_abort(vm, &update);
		memslot_free(vm, update.new_slot);
		return -ECANCELED;
	}
	memslot_update_commit(vm, &update);
	memslot_free(vm, update.old_slot);
	return 0;
}

static bool covers(const struct quire_region *slot, u64 gfn)
{
	return gfn - (slot->gpa.v >> QUIRE_PAGE_SHIFT) < slot->size_bytes >> QUIRE_PAGE_SHIFT;
}

static void check_gfns(struct quire_vm *vm, const struct model *model, u32 as)
{
	struct memslot_hint hint = {0};

	for (u64 gfn = 0; gfn < FRAMES; gfn++) {
		const struct memslot *slot = memslot_lookup(vm, as, (gfn_t){gfn}, NULL);
		u32 id = 0;

		/* I-01: one slot at most. */
		while (id < IDS && !covers(&model->slots[as][id], gfn))
			id++;
		assert_ptr_equal(slot, id < IDS ? memslot_by_id(vm, as, id) : NULL);
		assert_ptr_equal(slot, memslot_lookup(vm, as, (gfn_t){gfn}, &hint));
		/* I-03 */
		assert_false(slot && (slot->flags & MEMSLOT_INVALID));
	}
}

static void check_ids(struct quire_vm *vm, const struct model *model)
{
	u64 pages = 0;
	u32 logging = 0;

	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		u32 count = 0;

		for (u32 id = 0; id < IDS; id++) {
			const struct quire_region *want = &model->slots[as][id];
			const struct memslot *slot = memslot_by_id(vm, as, id);

			assert_int_equal(slot != NULL, want->size_bytes != 0);
			if (!slot)
				continue;
			assert_int_equal(slot->base_gfn.v, want->gpa.v >> QUIRE_PAGE_SHIFT);
			assert_int_equal(PAGES(slot->npages), want->size_bytes);
			assert_int_equal(slot->hva.v, want->hva.v);
			assert_int_equal(slot->flags, want->flags);
			assert_int_equal(slot->id, id);
			assert_int_equal(slot->as_id, as);
			pages += slot->npages;
			logging += !!(slot->flags & QUIRE_SLOT_LOG_DIRTY);
			count++;
		}
		assert_int_equal(vm->slots.count[as], count);
	}
	assert_int_equal(vm->slots.total_pages, pages);
	assert_int_equal(vm->slots.nr_dirty_logging, logging); /* I-06 */
}

/* Slots found by a range of client addresses: those that overlap, each once. */
static void check_hvas(struct quire_vm *vm, const struct model *model, u32 as)
{
	u64 start = HVA_BASE + (u64)rand() % PAGES(80);
	u64 end = start + 1 + (u64)rand() % PAGES(8);
	const struct memslot *slot;
	struct memslot_iter iter;
	u8 seen[IDS] = {0};

	memslot_for_hva(slot, vm, as, (hva_t){start}, (hva_t){end}, &iter) seen[slot->id]++;
	for (u32 id = 0; id < IDS; id++) {
		const struct quire_region *want = &model->slots[as][id];
		u64 hva_end = want->hva.v + want->size_bytes;

		assert_int_equal(seen[id],
				 want->size_bytes && want->hva.v < end && hva_end > start);
	}
}

static void check_all(struct quire_vm *vm, const struct model *model)
{
	check_ids(vm, model);
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		u64 generation = memslots_generation(vm, as);

		check_gfns(vm, model, as);
		check_hvas(vm, model, as);
		/* I-04 */
		assert_false(generation & MEMSLOTS_UPDATING);
		assert_int_equal(generation % vm->slots.nr_as, as);
	}
}

/* What the contract says about a region that passed the checks of its own shape. */
static int model_verdict(const struct model *model, const struct quire_region *region)
{
	u32 as = region->slot >> 16;
	u32 id = region->slot & 0xffff;
	const struct quire_region *old = &model->slots[as][id];

	if (region->size_bytes == 0)
		return old->size_bytes ? 0 : -EINVAL;
	if (old->size_bytes) {
		if (old->hva.v != region->hva.v || old->size_bytes != region->size_bytes ||
		    ((old->flags ^ region->flags) & QUIRE_SLOT_READONLY))
			return -EINVAL;
		if (old->gpa.v == region->gpa.v)
			return 0;
	}
	for (u32 other = 0; other < IDS; other++) {
		const struct quire_region *slot = &model->slots[as][other];

		if (other != id && slot->size_bytes &&
		    slot->gpa.v < region->gpa.v + region->size_bytes &&
		    region->gpa.v < slot->gpa.v + slot->size_bytes)
			return -EEXIST;
	}
	return 0;
}

static struct quire_region random_region(const struct model *model)
{
	u32 as = (u32)rand() % QUIRE_AS_MAX;
	u32 id = (u32)rand() % IDS;
	const struct quire_region *old = &model->slots[as][id];
	struct quire_region region = region_of(as, id, (u64)rand() % (FRAMES - 16), 0);

	if (old->size_bytes && rand() % 4) {
		u64 gpa = region.gpa.v;

		region = *old;
		if (rand() % 2)
			region.flags ^= QUIRE_SLOT_LOG_DIRTY;
		if (rand() % 2)
			region.gpa.v = gpa;
		if (rand() % 8 == 0)
			region.flags ^= QUIRE_SLOT_READONLY;
		if (rand() % 4 == 0)
			region.size_bytes = 0;
		return region;
	}
	region.size_bytes = PAGES(rand() % 16);
	region.hva.v = HVA_BASE + PAGES(rand() % 64);
	region.flags = (u32)rand() % 4;
	return region;
}

static void model_apply(struct model *model, const struct quire_region *region)
{
	model->slots[region->slot >> 16][region->slot & 0xffff] =
	    region->size_bytes ? *region : (struct quire_region){0};
}

static void test_model(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	static struct model model;
	u32 done = 0;

	memset(&model, 0, sizeof(model));
	srand(7);
	for (unsigned int round = 0; round < 3000; round++) {
		struct quire_region region = random_region(&model);
		int want = model_verdict(&model, &region);

		assert_int_equal(update_slot(vm, &region, FINISH), want);
		if (!want) {
			model_apply(&model, &region);
			done++;
		}
		if (round % 10 == 0)
			check_all(vm, &model);
	}
	assert_true(done > 500);
	check_all(vm, &model);
	fake_vm_end_locked(vm);
}

/* At whichever allocation memory ends, and wherever an update is given up: nothing has changed. */
static void test_no_memory_and_abort(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	static struct model model;
	u32 failed = 0;

	memset(&model, 0, sizeof(model));
	srand(8);
	for (unsigned int round = 0; round < 600; round++) {
		struct quire_region region = random_region(&model);
		u32 as = region.slot >> 16;
		u64 generation = memslots_generation(vm, as);
		u64 live = fake.live_bytes;
		int error;

		for (u64 fail = 1;; fail++) {
			fake_fail_in(fail);
			error = update_slot(vm, &region, STOP_PREPARED);
			fake_fail_in(0);
			if (error != -ENOMEM)
				break;
			failed++;
			/* A block of the id table may stay: it is no part of the slots. */
			assert_in_range(fake.live_bytes, live, live + 8 * MEMSLOT_ID_BLOCK);
			assert_int_equal(memslots_generation(vm, as), generation);
		}
		if (error != -ECANCELED)
			continue;
		assert_int_equal(memslots_generation(vm, as), generation);
		assert_int_equal(update_slot(vm, &region, STOP_BEGUN), -ECANCELED);
		check_all(vm, &model);
		assert_int_equal(update_slot(vm, &region, FINISH), 0);
		model_apply(&model, &region);
	}
	assert_true(failed > 500);
	check_all(vm, &model);
	fake_vm_end_locked(vm);
}

/* Numbers that no slot can have are no slot's. */
static void test_ids_beyond(void **state)
{
	const u32 ids = MEMSLOT_ID_BLOCK * MEMSLOT_ID_BLOCKS;
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);

	(void)state;
	for (u32 as = 0; as < QUIRE_AS_MAX; as++) {
		struct quire_region region = region_of(as, 0, 16, 16);

		assert_int_equal(update_slot(vm, &region, FINISH), 0);
		assert_non_null(memslot_by_id(vm, as, 0));
		assert_null(memslot_by_id(vm, as, ids - 1));
		assert_null(memslot_by_id(vm, as, ids));
		assert_null(memslot_by_id(vm, as, UINT32_MAX));
	}
	assert_null(memslot_by_id(vm, QUIRE_AS_MAX, 0));
	assert_null(memslot_by_id(vm, UINT32_MAX, 0));
	fake_vm_end_locked(vm);
}

/* U-022 to U-030: one thing wrong at a time, in requests that are right otherwise. */
static void test_shape(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	struct memslot_decision decision;
	const struct quire_region good = region_of(0, 1, 16, 16);
	struct quire_region r;

#define REFUSED(spoil)                                                       \
	do {                                                                 \
		r = good;                                                    \
		spoil;                                                       \
		decision.change = MEMSLOT_MOVE;                              \
		assert_int_equal(memslot_check(vm, &r, &decision), -EINVAL); \
		/* What is refused asks for no change. */                    \
		assert_int_equal(decision.change, MEMSLOT_NONE);             \
	} while (0)
#define ACCEPTED(spoil)                                                \
	do {                                                           \
		r = good;                                              \
		spoil;                                                 \
		assert_int_equal(memslot_check(vm, &r, &decision), 0); \
		assert_int_equal(decision.change, MEMSLOT_CREATE);     \
	} while (0)

	ACCEPTED(r.slot = QUIRE_USER_SLOTS - 1);
	REFUSED(r.slot = QUIRE_USER_SLOTS);
	REFUSED(r.slot = 0xffff);
	ACCEPTED(r.flags = QUIRE_SLOT_LOG_DIRTY | QUIRE_SLOT_READONLY);
	ACCEPTED(r.flags = QUIRE_SLOT_GMEM);
	for (u32 bit = 3; bit < 32; bit++)
		REFUSED(r.flags = 1u << bit);
	REFUSED(r.flags = QUIRE_SLOT_GMEM | QUIRE_SLOT_LOG_DIRTY);
	REFUSED(r.flags = QUIRE_SLOT_GMEM | QUIRE_SLOT_READONLY);
	REFUSED(r.size_bytes++);
	REFUSED(r.gpa.v += 0x800);
	REFUSED(r.hva.v++);
	REFUSED(r.hva.v = 1ull << 63);
	ACCEPTED(r.hva.v = (1ull << 47) - PAGES(17));
	REFUSED(r.hva.v = (1ull << 48) - PAGES(8));
	/* Larger than all of a client's addresses. */
	REFUSED(r.size_bytes = 1ull << 49);
	REFUSED(r.flags = QUIRE_SLOT_GMEM; r.gmem_offset_bytes = 1);
	REFUSED(r.flags = QUIRE_SLOT_GMEM; r.gmem_offset_bytes = -PAGES(8));
	ACCEPTED(r.gmem_offset_bytes = 1);
	ACCEPTED(r.slot |= 1u << 16);
	REFUSED(r.slot |= 2u << 16);
	REFUSED(r.gpa.v = -PAGES(8));
	ACCEPTED(r.size_bytes = PAGES((1ull << 31) - 1));
	REFUSED(r.size_bytes = PAGES(1ull << 31));
	/* A delete is checked like the rest, then for its slot. */
	REFUSED(r.size_bytes = 0);
#undef REFUSED
#undef ACCEPTED
	fake_vm_end_locked(vm);
}

static enum memslot_change decide(struct quire_vm *vm, const struct quire_region *region)
{
	struct memslot_decision decision;

	assert_int_equal(memslot_check(vm, region, &decision), 0);
	return decision.change;
}

/* U-031 to U-034 and U-037. */
static void test_decisions(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	struct quire_region region = region_of(0, 5, 100, 10);
	struct quire_region other = region_of(0, 6, 200, 10);
	struct memslot_decision decision;
	u64 generation;

	assert_int_equal(decide(vm, &region), MEMSLOT_CREATE);
	assert_int_equal(update_slot(vm, &region, FINISH), 0);
	assert_int_equal(update_slot(vm, &other, FINISH), 0);
	generation = memslots_generation(vm, 0);
	assert_int_equal(decide(vm, &region), MEMSLOT_NONE);
	assert_int_equal(memslots_generation(vm, 0), generation);

	region.flags = QUIRE_SLOT_LOG_DIRTY;
	assert_int_equal(decide(vm, &region), MEMSLOT_FLAGS_ONLY);
	region.gpa.v = PAGES(101); /* over its own old range, with new flags */
	assert_int_equal(decide(vm, &region), MEMSLOT_MOVE);
	region.gpa.v = PAGES(195);
	assert_int_equal(memslot_check(vm, &region, &decision), -EEXIST);
	region.size_bytes += PAGES(1); /* comes before the overlap */
	assert_int_equal(memslot_check(vm, &region, &decision), -EINVAL);
	region = region_of(0, 5, 100, 10);
	region.flags = QUIRE_SLOT_GMEM;
	assert_int_equal(memslot_check(vm, &region, &decision), -EINVAL);
	region.size_bytes = 0;
	assert_int_equal(decide(vm, &region), MEMSLOT_DELETE);
	vm->slots.total_pages = 3;
	assert_int_equal(memslot_check(vm, &region, &decision), -EIO);
	vm->slots.total_pages = UINT64_MAX - 3;
	region = region_of(0, 7, 300, 10);
	assert_int_equal(memslot_check(vm, &region, &decision), -EINVAL);
	vm->slots.total_pages = 20;

	assert_int_equal(memslot_check_max_gfn(&region, (gfn_t){309}), 0);
	assert_int_equal(memslot_check_max_gfn(&region, (gfn_t){308}), -EINVAL);
	fake_vm_end_locked(vm);
}

/* Between begin and commit the slot is there, INVALID; generations move twice, upwards. */
static void test_placeholder(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	struct quire_region region = region_of(1, 5, 100, 10);
	struct memslot_update update = {.change = MEMSLOT_DELETE};
	struct memslot_hint hint = {0};
	const struct memslot *slot;
	struct memslot_iter iter;
	u64 generation;

	assert_int_equal(update_slot(vm, &region, FINISH), 0);
	generation = memslots_generation(vm, 1);
	slot = memslot_lookup(vm, 1, (gfn_t){105}, &hint);
	update.old_slot = memslot_by_id(vm, 1, 5);
	assert_ptr_equal(slot, update.old_slot);
	assert_int_equal(memslot_update_prepare(vm, &update), 0);
	assert_ptr_equal(memslot_lookup(vm, 1, (gfn_t){105}, &hint), slot);

	memslot_update_begin(vm, &update);
	assert_int_equal(memslots_generation(vm, 1), generation + 2);
	slot = memslot_lookup(vm, 1, (gfn_t){105}, &hint);
	assert_true(slot->flags & MEMSLOT_INVALID);
	slot = memslot_first_hva(vm, 1, (hva_t){HVA_BASE}, (hva_t){HVA_BASE + 1}, &iter);
	assert_true(slot && (slot->flags & MEMSLOT_INVALID));
	assert_ptr_equal(memslot_by_id(vm, 1, 5), update.old_slot);

	memslot_update_commit(vm, &update);
	/* It is free: nothing leads there. */
	assert_null(update.placeholder);
	assert_int_equal(memslots_generation(vm, 1), generation + 4);
	assert_null(memslot_lookup(vm, 1, (gfn_t){105}, &hint));
	assert_null(memslot_by_id(vm, 1, 5));
	memslot_free(vm, update.old_slot);
	fake_vm_end_locked(vm);
}

/* The memory of an update may be anything before, and one that failed has nothing in hand. */
static void test_update_of_any_memory(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	struct quire_region region = region_of(1, 5, 100, 10);
	struct memslot_update update;
	u64 live;

	memset(&update, 0x5a, sizeof(update));
	update.change = MEMSLOT_CREATE;
	update.old_slot = NULL;
	update.new_slot = memslot_alloc(vm, &region);
	assert_int_equal(memslot_update_prepare(vm, &update), 0);
	assert_null(update.placeholder);
	memslot_update_abort(vm, &update);
	memslot_free(vm, update.new_slot);

	assert_int_equal(update_slot(vm, &region, FINISH), 0);
	memset(&update, 0x5a, sizeof(update));
	update.change = MEMSLOT_DELETE;
	update.old_slot = memslot_by_id(vm, 1, 5);
	update.new_slot = NULL;
	live = fake.live_allocs;
	for (u64 fails = 1;; fails++) {
		u64 allocs = fake.allocs;
		int error;

		fake_fail_in(fails);
		error = memslot_update_prepare(vm, &update);
		fake_fail_in(0);
		if (!error) {
			/* Nothing was passed over: the failure is still to come. */
			assert_in_range(fake.allocs - allocs, 1, fails - 1);
			break;
		}
		assert_int_equal(error, -ENOMEM);
		assert_null(update.placeholder);
		assert_int_equal(fake.live_allocs, live);
	}
	assert_non_null(update.placeholder);
	memslot_update_abort(vm, &update);
	assert_int_equal(fake.live_allocs, live);
	fake_vm_end_locked(vm);
}

struct slow_access {
	struct quire_vm *vm;
	u32 has_entered, has_left; /* neither is ever taken back */
};

static void *access_slowly(void *arg)
{
	const struct timespec rest = {.tv_nsec = 30000000};
	struct slow_access *slow = arg;
	u32 section = long_section_enter(&slow->vm->accesses);

	__atomic_store_n(&slow->has_entered, 1, __ATOMIC_SEQ_CST);
	nanosleep(&rest, NULL);
	__atomic_store_n(&slow->has_left, 1, __ATOMIC_SEQ_CST);
	long_section_leave(&slow->vm->accesses, section);
	return NULL;
}

/* An access that has found a slot goes on using it: a change that deletes the slot waits. */
static void test_waits_for_accesses(void **state)
{
	struct slow_access slow = {.vm = fake_vm_make_locked(QUIRE_VM_DEFAULT)};
	struct quire_region region = region_of(0, 5, 100, 10);
	pthread_t thread;

	assert_int_equal(update_slot(slow.vm, &region, FINISH), 0);
	assert_int_equal(pthread_create(&thread, NULL, access_slowly, &slow), 0);
	while (!__atomic_load_n(&slow.has_entered, __ATOMIC_SEQ_CST))
		sched_yield();
	region.size_bytes = 0;
	assert_int_equal(update_slot(slow.vm, &region, FINISH), 0);
	assert_true(__atomic_load_n(&slow.has_left, __ATOMIC_SEQ_CST));
	pthread_join(thread, NULL);
	fake_vm_end_locked(slow.vm);
}

/* As many slots as there are, then one more; all gone again. */
static void test_all_slots(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	u64 empty = fake.live_bytes;

	for (u32 id = 0; id < QUIRE_USER_SLOTS; id++) {
		struct quire_region region = region_of(0, id, 1 + id * 2ull, 1);

		assert_int_equal(update_slot(vm, &region, FINISH), 0);
	}
	for (u32 id = 0; id < QUIRE_USER_SLOTS; id += 7) {
		assert_int_equal(memslot_lookup(vm, 0, (gfn_t){1 + id * 2ull}, NULL)->id, id);
		assert_null(memslot_lookup(vm, 0, (gfn_t){id * 2ull}, NULL));
	}
	for (u32 id = QUIRE_USER_SLOTS; id-- > 0;) {
		struct quire_region region = region_of(0, id, 0, 0);

		assert_int_equal(update_slot(vm, &region, FINISH), 0);
	}
	assert_int_equal(fake.live_bytes - empty, MEMSLOT_ID_BLOCKS * MEMSLOT_ID_BLOCK * 8);
	fake_vm_end_locked(vm);
}

#define LOOKUPS_A_ROUND 200u

struct race {
	struct quire_vm *vm;
	u32 stop;
	u64 wrong;
	u64 lookups;
	u64 rounds; /* of changes: so many lookups of a reader go with one, however slow it is */
};

/* U-046: old, INVALID or new, and never memory that was freed. */
static void *reader(void *arg)
{
	struct race *race = arg;
	struct memslot_hint hint = {0};
	u64 last = 0, lookups = 0, wrong = 0;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		const struct memslot *slot;
		u64 generation;

		if (lookups / LOOKUPS_A_ROUND > __atomic_load_n(&race->rounds, __ATOMIC_RELAXED)) {
			sched_yield();
			continue;
		}
		reclaim_enter();
		generation = memslots_generation(race->vm, 0) & ~MEMSLOTS_UPDATING;
		wrong += generation < last;
		last = generation;
		/* Slot 1 never changes; slot 2 moves, slot 3 comes and goes. */
		slot = memslot_lookup(race->vm, 0, (gfn_t){10 + lookups % 8}, &hint);
		wrong += !slot || slot->id != 1 || slot->npages != 8;
		slot = memslot_lookup(race->vm, 0, (gfn_t){100 + lookups % 64}, &hint);
		wrong += slot && (slot->id != 2 || slot->npages != 8 ||
				  !memslot_has(slot, (gfn_t){100 + lookups % 64}));
		slot = memslot_lookup(race->vm, 0, (gfn_t){300}, &hint);
		wrong += slot && (slot->id != 3 || slot->base_gfn.v != 300);
		reclaim_leave();
		lookups++;
		__atomic_fetch_add(&race->lookups, 1, __ATOMIC_RELAXED);
	}
	__atomic_fetch_add(&race->wrong, wrong, __ATOMIC_RELAXED);
	return NULL;
}

static void test_readers(void **state)
{
	struct race race = {.vm = fake_vm_make_locked(QUIRE_VM_DEFAULT)};
	struct quire_region fixed = region_of(0, 1, 10, 8);
	struct quire_region moving = region_of(0, 2, 100, 8);
	struct quire_region coming = region_of(0, 3, 300, 4);
	pthread_t threads[2];

	assert_int_equal(update_slot(race.vm, &fixed, FINISH), 0);
	assert_int_equal(update_slot(race.vm, &moving, FINISH), 0);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &race), 0);
	/* However busy the machine is, some lookups shall meet some updates. */
	for (unsigned int round = 0;
	     round < 400 || __atomic_load_n(&race.lookups, __ATOMIC_RELAXED) < 100; round++) {
		moving.gpa.v = PAGES(101 + round % 50);
		assert_int_equal(update_slot(race.vm, &moving, round % 3 ? FINISH : STOP_BEGUN),
				 round % 3 ? 0 : -ECANCELED);
		coming.size_bytes = round & 1 ? 0 : PAGES(4);
		assert_int_equal(update_slot(race.vm, &coming, FINISH), 0);
		__atomic_store_n(&race.rounds, round, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(race.wrong, 0);
	assert_true(race.lookups > 0);
	fake_vm_end_locked(race.vm);
}

/* Ids and addresses that no slot can have. */
static void test_out_of_range(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	struct memslot_iter iter;

	assert_null(memslot_by_id(vm, QUIRE_AS_MAX, 0));
	assert_null(memslot_by_id(vm, 0, UINT32_MAX));
	for (uint64_t start = UINT64_MAX; start; start >>= 1)
		assert_null(memslot_first_hva(vm, 0, (hva_t){start}, (hva_t){UINT64_MAX}, &iter));
	assert_int_equal(
	    memslot_check_max_gfn(&(struct quire_region){.gpa = {UINT64_MAX}}, (gfn_t){1}), 0);
	fake_vm_end_locked(vm);
}

static struct {
	struct quire_vm *vm;
	const struct memslot_set *before;
	struct quire_thread reader; /* another thread's section, which began before the change */
	u64 generation;
	u32 waits, turns;
	bool slot_is_invalid; /* for readers of what is published */
} publishing;

/* The host's invalidation ends: only then may the set change. */
static void invalidation_ends(const u32 *word, u32 value)
{
	struct invalidation *inv = &publishing.vm->invalidation;

	assert_ptr_equal(word, &inv->active);
	assert_int_equal(value, 2);
	assert_ptr_equal(publishing.vm->slots.active[0], publishing.before);
	assert_false(lock_is_held(&inv->lock, LOCK_EXCLUSIVE));
	inv->active = 0;
	publishing.waits++;
}

/* The set has changed, and what is cached of it now holds no longer than the change lasts. */
static void section_ends(unsigned int turn)
{
	struct quire_vm *vm = publishing.vm;
	struct memslot_hint hint = {0};
	const struct memslot *slot;

	(void)turn;
	assert_ptr_not_equal(vm->slots.active[0], publishing.before);
	assert_int_equal(memslots_generation(vm, 0), publishing.generation | MEMSLOTS_UPDATING);
	assert_false(lock_is_held(&vm->invalidation.lock, LOCK_EXCLUSIVE));
	slot = memslot_lookup(vm, 0, (gfn_t){105}, &hint);
	assert_int_equal(slot && (slot->flags & MEMSLOT_INVALID), publishing.slot_is_invalid);
	publishing.before = vm->slots.active[0];
	publishing.generation += vm->slots.nr_as;
	publishing.reader.epoch = 0;
	publishing.turns++;
}

static void change_under_readers(const struct quire_region *region)
{
	static struct quire_platform platform;
	const struct quire_platform *usual = base_platform;

	platform = *base_platform;
	platform.wait = invalidation_ends;
	platform.relax = section_ends;
	publishing.before = publishing.vm->slots.active[0];
	publishing.generation = memslots_generation(publishing.vm, 0);
	publishing.reader.epoch = reclaim_epoch;
	publishing.vm->invalidation.active = 2;
	publishing.waits = publishing.turns = 0;
	quire_platform_install(&platform);
	assert_int_equal(update_slot(publishing.vm, region, FINISH), 0);
	quire_platform_install(usual);
	assert_int_equal(publishing.waits, 1);
	assert_int_equal(publishing.turns, 1);
}

/* A set is published between two invalidations of the host's; then its readers are waited for. */
static void test_publishing(void **state)
{
	struct quire_region region = region_of(0, 5, 100, 10);

	(void)state;
	publishing.vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	quire_thread_register(&publishing.reader);
	publishing.slot_is_invalid = false;
	change_under_readers(&region);
	/* The slot changes its flags in one step. */
	region.flags = QUIRE_SLOT_LOG_DIRTY;
	change_under_readers(&region);
	/* Of the two steps of a deletion readers are waited for in each: in the first one here. */
	publishing.slot_is_invalid = true;
	region.size_bytes = 0;
	change_under_readers(&region);
	fake_vm_end_locked(publishing.vm);
}

/* What stands in for a slot has no file: the file's part of the slot is gone by then. */
static void test_placeholder_has_no_file(void **state)
{
	struct quire_vm *vm = fake_vm_make_locked(QUIRE_VM_DEFAULT);
	struct quire_region region = region_of(0, 5, 100, 10);
	struct memslot_update update = {.change = MEMSLOT_DELETE};
	void *file = vm;

	(void)state;
	assert_int_equal(update_slot(vm, &region, FINISH), 0);
	update.old_slot = memslot_by_id(vm, 0, 5);
	update.old_slot->gmem.file = file;
	assert_int_equal(memslot_update_prepare(vm, &update), 0);
	assert_null(update.placeholder->gmem.file);
	assert_int_equal(update.placeholder->npages, 10);
	assert_ptr_equal(update.old_slot->gmem.file, file);
	assert_false(update.old_slot->flags & MEMSLOT_INVALID);
	memslot_update_abort(vm, &update);
	update.old_slot->gmem.file = NULL;
	fake_vm_end_locked(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_model),
	    cmocka_unit_test(test_no_memory_and_abort),
	    cmocka_unit_test(test_ids_beyond),
	    cmocka_unit_test(test_shape),
	    cmocka_unit_test(test_decisions),
	    cmocka_unit_test(test_placeholder),
	    cmocka_unit_test(test_all_slots),
	    cmocka_unit_test(test_readers),
	    cmocka_unit_test(test_out_of_range),
	    cmocka_unit_test(test_update_of_any_memory),
	    cmocka_unit_test(test_waits_for_accesses),
	    cmocka_unit_test(test_publishing),
	    cmocka_unit_test(test_placeholder_has_no_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
