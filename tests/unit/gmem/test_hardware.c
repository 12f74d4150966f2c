/* The reverse map and hardware that is told of it: what it refuses, and what it is told. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/confidential.h>

#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
#include "tests/unit/fake_host.h"

#define PFN (UINT64_C(1) << 25)
#define GFN 512u

/* Calls of each hook; where frames went, how many; what two of them answer. */
static struct {
	u32 made, prepared, invalidated, shared, reclaimed;
	u64 pfn, npages;
	int make_error, prepare_error;
	u64 stolen; /* the frame that another VM gets while the hardware is asked; 0: none */
} told;

static struct quire_vm *vm;
static struct rmp_vm *other;
static struct quire_confidential_ops ops;

static int make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	assert_ptr_equal(ctx, &told);
	assert_int_equal(gfn.v, GFN + (pfn.v - PFN));
	told.made++;
	told.pfn = pfn.v;
	told.npages = UINT64_C(1) << order;
	if (told.stolen) {
		vm->rmp->hardware = NULL;
		vm->rmp->arch.ops->reclaim(vm->rmp, (pfn_t){told.stolen}, 1);
		vm->rmp->hardware = &ops;
		assert_int_equal(
		    other->arch.ops->make_private(other, (gfn_t){9}, (pfn_t){told.stolen}, 0), 0);
	}
	return told.make_error;
}

static int prepare(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)gfn;
	(void)pfn;
	assert_int_equal(UINT64_C(1) << order, told.npages);
	told.prepared++;
	return told.prepare_error;
}

static void frames_told(void *ctx, pfn_t pfn, uint64_t npages)
{
	assert_ptr_equal(ctx, &told);
	told.pfn = pfn.v;
	told.npages = npages;
}

static void invalidate(void *ctx, pfn_t pfn, uint64_t npages)
{
	frames_told(ctx, pfn, npages);
	told.invalidated++;
}

static void make_shared(void *ctx, pfn_t pfn, uint64_t npages)
{
	frames_told(ctx, pfn, npages);
	told.shared++;
}

static void reclaim(void *ctx, pfn_t pfn, uint64_t npages)
{
	frames_told(ctx, pfn, npages);
	told.reclaimed++;
}

static void begin(void)
{
	vm = fake_vm_make(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(rmp_join(vm, &other), 0);
	memset(&told, 0, sizeof(told));
	ops = (struct quire_confidential_ops){.make_private = make_private,
					      .prepare = prepare,
					      .invalidate = invalidate,
					      .make_shared = make_shared,
					      .reclaim = reclaim};
	vm->rmp->hardware = &ops;
	vm->rmp->hardware_ctx = &told;
}

static void end(void)
{
	other->arch.ops->reclaim(other, (pfn_t){PFN}, 512);
	vm->rmp->arch.ops->reclaim(vm->rmp, (pfn_t){PFN}, 512);
	rmp_leave(vm, other);
	fake_vm_end(vm);
}

enum owner { FREE, ASSIGNED, VALID };

/* What frames [@first, @first + @npages) are, all alike. */
static void frames_are(u64 first, u64 npages, enum owner owner)
{
	for (u64 pfn = first; pfn < first + npages; pfn++) {
		struct rmp_entry entry;

		rmp_read(vm->rmp, (pfn_t){pfn}, &entry);
		assert_int_equal(entry.vm_id, owner == FREE ? 0 : vm->rmp->id);
		assert_int_equal(entry.valid, owner == VALID);
		assert_int_equal(rmp_allows(vm->rmp, (gfn_t){GFN + (pfn - PFN)}, (pfn_t){pfn}),
				 owner == VALID);
		assert_int_equal(rmp_is_free(vm->rmp, (pfn_t){pfn}), owner == FREE);
	}
}

static int take(u64 pfn, unsigned int order, bool claim)
{
	const struct gmem_arch_ops *arch = vm->rmp->arch.ops;
	gfn_t gfn = {GFN + (pfn - PFN)};

	told.made = told.prepared = told.shared = told.reclaimed = told.invalidated = 0;
	return claim ? arch->claim(vm->rmp, gfn, (pfn_t){pfn}, order)
		     : arch->make_private(vm->rmp, gfn, (pfn_t){pfn}, order);
}

/* A frame in the middle of a word, at its end, at the block's, and a whole block. */
static const struct unit {
	u64 pfn;
	unsigned int order;
} units[] = {{PFN + 5, 0}, {PFN + 63, 0}, {PFN + 64, 0}, {PFN + 511, 0}, {PFN, 9}};

#define UNITS (sizeof(units) / sizeof(units[0]))

/* Told once of each; prepared only where they are new, and no client brings what they hold. */
static void test_taken(void **state)
{
	(void)state;
	for (u32 i = 0; i < 2 * UNITS; i++) {
		u64 pfn = units[i / 2].pfn, npages = UINT64_C(1) << units[i / 2].order;
		bool claim = i % 2;

		begin();
		assert_int_equal(take(pfn, units[i / 2].order, claim), 0);
		assert_int_equal(told.made, 1);
		assert_int_equal(told.prepared, claim ? 0 : 1);
		assert_int_equal(told.npages, npages);
		frames_are(pfn, npages, VALID);
		assert_true(vm->rmp->arch.ops->is_private(vm->rmp, (gfn_t){GFN + (pfn - PFN)},
							  (pfn_t){pfn}, units[i / 2].order));
		/* Once more: they are no news, and none of them is taken anew. */
		assert_int_equal(take(pfn, units[i / 2].order, true), -EEXIST);
		assert_int_equal(told.made, 0);
		assert_int_equal(take(pfn, units[i / 2].order, false), 0);
		assert_int_equal(told.made, 1);
		assert_int_equal(told.prepared, 0);
		vm->rmp->arch.ops->invalidate(vm->rmp, (pfn_t){pfn}, npages);
		assert_int_equal(told.invalidated, 1);
		frames_are(pfn, npages, ASSIGNED);
		/* What it refuses now is assigned as before. */
		told.make_error = -EIO;
		assert_int_equal(take(pfn, units[i / 2].order, false), -EIO);
		frames_are(pfn, npages, ASSIGNED);
		vm->rmp->arch.ops->make_shared(vm->rmp, (pfn_t){pfn}, npages);
		assert_int_equal(told.shared, 1);
		assert_int_equal(told.reclaimed, 0);
		frames_are(PFN, 512, FREE);
		end();
	}
}

/* What the hardware refuses at once, or when it is prepared, or what another VM has: no one's. */
static void test_refused(void **state)
{
	(void)state;
	for (u32 i = 0; i < UNITS; i++) {
		u64 pfn = units[i].pfn, npages = UINT64_C(1) << units[i].order;

		begin();
		told.make_error = -EBUSY;
		assert_int_equal(take(pfn, units[i].order, false), -EBUSY);
		assert_int_equal(told.prepared, 0);
		assert_int_equal(told.shared, 0);
		frames_are(PFN, 512, FREE);
		told.make_error = 0;
		told.prepare_error = -EIO;
		assert_int_equal(take(pfn, units[i].order, false), -EIO);
		assert_int_equal(told.shared, 1);
		assert_int_equal(told.pfn, pfn);
		assert_int_equal(told.npages, npages);
		frames_are(PFN, 512, FREE);
		/* Hardware without make_shared() is told that they go. */
		ops.make_shared = NULL;
		assert_int_equal(take(pfn, units[i].order, false), -EIO);
		assert_int_equal(told.reclaimed, 1);
		frames_are(PFN, 512, FREE);
		told.prepare_error = 0;
		told.stolen = pfn + npages - 1;
		assert_int_equal(take(pfn, units[i].order, false), -EIO);
		frames_are(pfn, npages - 1, VALID);
		assert_true(rmp_allows(other, (gfn_t){9}, (pfn_t){told.stolen}));
		assert_false(
		    rmp_allows(vm->rmp, (gfn_t){GFN + (told.stolen - PFN)}, (pfn_t){told.stolen}));
		end();
	}
}

/* Hardware that wants to hear of nothing refuses nothing. */
static void test_silent(void **state)
{
	(void)state;
	begin();
	ops = (struct quire_confidential_ops){0};
	assert_int_equal(take(PFN, 9, false), 0);
	frames_are(PFN, 512, VALID);
	vm->rmp->arch.ops->invalidate(vm->rmp, (pfn_t){PFN + 60}, 10);
	frames_are(PFN + 59, 1, VALID);
	frames_are(PFN + 60, 10, ASSIGNED);
	frames_are(PFN + 70, 1, VALID);
	vm->rmp->arch.ops->make_shared(vm->rmp, (pfn_t){PFN + 62}, 3);
	vm->rmp->arch.ops->reclaim(vm->rmp, (pfn_t){PFN + 100}, 412);
	frames_are(PFN + 60, 2, ASSIGNED);
	frames_are(PFN + 62, 3, FREE);
	frames_are(PFN + 65, 5, ASSIGNED);
	frames_are(PFN + 70, 30, VALID);
	frames_are(PFN + 100, 412, FREE);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_taken),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_silent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
