/* An architecture with any of the hooks of struct gmem_arch_ops: each may be NULL. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 8u
#define GFN 16u

enum hook { MAKE_PRIVATE, CLAIM, IS_PRIVATE, INVALIDATE, MAKE_SHARED, RECLAIM, HOOKS };

/* How often each hook was called; and what is_private() answers. */
static struct {
	uint32_t calls[HOOKS];
	int is_private;
} told;

static int hook_make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	assert_ptr_equal(ctx, &told);
	assert_int_equal(order, 0);
	assert_in_range(gfn.v, GFN, GFN + FILE_PAGES - 1);
	assert_int_not_equal(pfn.v, 0);
	told.calls[MAKE_PRIVATE]++;
	return 0;
}

static int hook_claim(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	assert_int_equal(hook_make_private(ctx, gfn, pfn, order), 0);
	told.calls[MAKE_PRIVATE]--;
	told.calls[CLAIM]++;
	return 0;
}

static int hook_is_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)gfn;
	(void)pfn;
	(void)order;
	told.calls[IS_PRIVATE]++;
	return told.is_private;
}

static void hook_invalidate(void *ctx, pfn_t pfn, u64 npages)
{
	(void)ctx;
	(void)pfn;
	told.calls[INVALIDATE] += (uint32_t)npages;
}

static void hook_make_shared(void *ctx, pfn_t pfn, u64 npages)
{
	(void)ctx;
	(void)pfn;
	told.calls[MAKE_SHARED] += (uint32_t)npages;
}

static void hook_reclaim(void *ctx, pfn_t pfn, u64 npages)
{
	(void)ctx;
	(void)pfn;
	told.calls[RECLAIM] += (uint32_t)npages;
}

/* The hook was called @times since the last time, if @set has it: never, if not. */
static void called(uint32_t set, enum hook hook, uint32_t times)
{
	assert_int_equal(told.calls[hook], set >> hook & 1 ? times : 0);
	told.calls[hook] = 0;
}

static void slot_shows(struct quire_gmem *file)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = file ? QUIRE_SLOT_GMEM : 0,
	    .gpa = gpa_of((gfn_t){GFN}),
	    .size_bytes = file ? PAGES(FILE_PAGES) : 0,
	    .hva = sim_hva(0),
	    .gmem = file,
	};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

/* A fill that brings nothing, or the page. */
static int64_t fill(void *ctx, const struct quire_gmem_unit *unit)
{
	const int *error = ctx;

	memset((void *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT), 7, SIM_FRAME_BYTES);
	return *error ? *error : 1;
}

static int64_t populate(uint64_t gfn, int error)
{
	struct quire_gmem_fill request = {.gfn = {gfn}, .npages = 1, .fill = fill, .ctx = &error};

	return quire_gmem_populate(machine.vm, &request);
}

/* What is private loses that: a claim that came to nothing, and a conversion. */
static void taken_back(uint32_t set)
{
	uint32_t private = set >> MAKE_PRIVATE & 1;

	assert_int_equal(populate(GFN + 5, -EIO), -EIO);
	called(set, CLAIM, private);
	called(set, MAKE_PRIVATE, set >> CLAIM & 1 ? 0 : 1);
	called(set, MAKE_SHARED, private);
	called(set, RECLAIM, set >> MAKE_SHARED & 1 ? 0 : private);
	assert_int_equal(populate(GFN + 5, 0), 1);
	called(set, CLAIM, private);
	called(set, MAKE_PRIVATE, set >> CLAIM & 1 ? 0 : 1);
	assert_int_equal(load(GFN + 5), 7);
	told.calls[IS_PRIVATE] = 0;
	convert(GFN + 5, 1, 0);
	called(set, MAKE_SHARED, private);
	called(set, INVALIDATE, 0);
	convert(GFN + 5, 1, QUIRE_ATTRIBUTE_PRIVATE);
}

/* From the first use of a page to the end of its file. */
static void page_lives(uint32_t set)
{
	uint32_t private = set >> MAKE_PRIVATE & 1;

	slot_shows(gmem);
	convert(GFN, FILE_PAGES, QUIRE_ATTRIBUTE_PRIVATE);
	store(GFN + 3, 9);
	called(set, MAKE_PRIVATE, 1);
	told.calls[IS_PRIVATE] = 0;
	/* The lookup asks once without locks, and where the answer is no, again under the page's.
	 */
	for (told.is_private = 1; told.is_private >= 0; told.is_private--) {
		slot_shows(NULL);
		called(set, INVALIDATE, 1);
		slot_shows(gmem);
		assert_int_equal(load(GFN + 3), 9);
		if (!told.is_private && private && told.calls[IS_PRIVATE] > 1)
			told.calls[IS_PRIVATE] = 1;
		called(set, IS_PRIVATE, private);
		called(set, MAKE_PRIVATE, told.is_private || !(set >> IS_PRIVATE & 1) ? 0 : 1);
	}
	told.is_private = 1;
	taken_back(set);
	punch(3, 1);
	called(set, INVALIDATE, 1);
	called(set, RECLAIM, private);
	assert_int_equal(load(GFN + 3), 0);
	called(set, MAKE_PRIVATE, 1);
}

static void test_hooks(void **state)
{
	(void)state;
	for (uint32_t set = 0; set < 1u << HOOKS; set++) {
		const struct gmem_arch_ops ops = {
		    .make_private = set >> MAKE_PRIVATE & 1 ? hook_make_private : NULL,
		    .claim = set >> CLAIM & 1 ? hook_claim : NULL,
		    .is_private = set >> IS_PRIVATE & 1 ? hook_is_private : NULL,
		    .invalidate = set >> INVALIDATE & 1 ? hook_invalidate : NULL,
		    .make_shared = set >> MAKE_SHARED & 1 ? hook_make_shared : NULL,
		    .reclaim = set >> RECLAIM & 1 ? hook_reclaim : NULL,
		};
		const struct gmem_arch arch = {.ops = &ops, .ctx = &told};

		memset(&told, 0, sizeof(told));
		vm_begin_type(QUIRE_VM_SW_PROTECTED);
		machine.vm->gmem_arch = &arch;
		assert_int_equal(quire_gmem_create(machine.vm, PAGES(FILE_PAGES), 0, NULL, &gmem),
				 0);
		page_lives(set);
		quire_gmem_release(gmem);
		vm_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hooks),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
