/* A confidential architecture: which hook is called when, in which order, and what an error leaves.
 */
#include "tests/unit/gmem/support.h"

#include <quire/confidential.h>

#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 600u
#define GFN 1024u
#define CALLS_MAX 16u

enum hook { MAKE_PRIVATE = 1, PREPARE, POST_POPULATE, INVALIDATE, MAKE_SHARED, RECLAIM };

/* What the hardware heard, and what it answers. */
static struct {
	struct call {
		enum hook hook;
		uint64_t gfn, pfn, npages;
		uint8_t byte; /* of the first page, as the hook found it */
	} calls[CALLS_MAX];
	uint32_t count;
	enum hook refuses; /* this one answers @error, once */
	int error;
	int64_t most; /* pages of a unit that are populated; 0: all */
} hardware;

static uint8_t *bytes_of(pfn_t pfn)
{
	return (uint8_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT);
}

static int heard(void *ctx, struct call call)
{
	assert_ptr_equal(ctx, &hardware);
	call.byte = *bytes_of((pfn_t){call.pfn});
	if (hardware.count < CALLS_MAX)
		hardware.calls[hardware.count] = call;
	hardware.count++;
	if (hardware.refuses != call.hook)
		return 0;
	hardware.refuses = 0;
	return hardware.error;
}

static int make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	/* No lookup finds it before the hardware has agreed. */
	assert_false(rmp_allows(machine.vm->rmp, gfn, pfn));
	return heard(ctx, (struct call){MAKE_PRIVATE, gfn.v, pfn.v, UINT64_C(1) << order, 0});
}

static int prepare(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	return heard(ctx, (struct call){PREPARE, gfn.v, pfn.v, UINT64_C(1) << order, 0});
}

static int64_t post_populate(void *ctx, const struct quire_gmem_unit *unit, void *request_ctx)
{
	int64_t npages = INT64_C(1) << unit->order;
	int error =
	    heard(ctx, (struct call){POST_POPULATE, unit->gfn.v, unit->pfn.v, (uint64_t)npages, 0});

	assert_ptr_equal(request_ctx, &machine);
	if (error)
		return error;
	*bytes_of(unit->pfn) = 77;
	return hardware.most && hardware.most < npages ? hardware.most : npages;
}

static void invalidate(void *ctx, pfn_t pfn, uint64_t npages)
{
	(void)heard(ctx, (struct call){INVALIDATE, 0, pfn.v, npages, 0});
}

static void make_shared(void *ctx, pfn_t pfn, uint64_t npages)
{
	(void)heard(ctx, (struct call){MAKE_SHARED, 0, pfn.v, npages, 0});
}

static void reclaim(void *ctx, pfn_t pfn, uint64_t npages)
{
	(void)heard(ctx, (struct call){RECLAIM, 0, pfn.v, npages, 0});
}

static const struct quire_confidential_ops ops = {
    make_private, prepare, post_populate, invalidate, make_shared, reclaim,
};

/* These and no others were called since the last time, each of @npages pages. */
static void heard_all(uint64_t npages, const enum hook *hooks, uint32_t count)
{
	assert_int_equal(hardware.count, count);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(hardware.calls[i].hook, hooks[i]);
		assert_int_equal(hardware.calls[i].npages, npages);
	}
	hardware.count = 0;
}

#define HEARD(npages, ...)                                  \
	heard_all(npages, (const enum hook[]){__VA_ARGS__}, \
		  (uint32_t)(sizeof((const enum hook[]){__VA_ARGS__}) / sizeof(enum hook)))

static void nothing_heard(void)
{
	assert_int_equal(hardware.count, 0);
}

static void slot_goes(void)
{
	assert_int_equal(quire_vm_set_region(machine.vm, &(struct quire_region){.slot = 1}), 0);
}

/* The slot again: of @npages from the file's first on. */
static void slot_appears(uint64_t gfn, uint64_t npages)
{
	assert_int_equal(
	    quire_vm_set_region(machine.vm, &(struct quire_region){.slot = 1,
								   .flags = QUIRE_SLOT_GMEM,
								   .gpa = gpa_of((gfn_t){gfn}),
								   .size_bytes = PAGES(npages),
								   .hva = {SIM_HVA_BASE},
								   .gmem = gmem}),
	    0);
}

static void confidential_begin(uint64_t flags, uint32_t huge)
{
	memset(&hardware, 0, sizeof(hardware));
	machine.confidential = &ops;
	machine.confidential_ctx = &hardware;
	gmem_begin(QUIRE_VM_SW_PROTECTED, flags, GFN, FILE_PAGES);
	machine.tunables.gmem_huge_pages = huge;
	if (huge)
		return;
	/* The file was made for units: another, of pages, takes its place. */
	quire_gmem_release(gmem);
	assert_int_equal(quire_gmem_create(machine.vm, PAGES(FILE_PAGES), flags, NULL, &gmem), 0);
	slot_goes();
	slot_appears(GFN, FILE_PAGES);
	hardware.count = 0;
}

static void confidential_end(void)
{
	gmem_end();
	machine.confidential = NULL;
}

static bool is_free(pfn_t pfn)
{
	return rmp_is_free(machine.vm->rmp, pfn);
}

static pfn_t pfn_of(uint64_t index)
{
	struct gmem_page page;

	gmem_page_read(&gmem->inode->pages, index, &page);
	return page.pfn;
}

static int64_t populate(uint64_t gfn, uint64_t npages, unsigned int max_order)
{
	return quire_gmem_populate(machine.vm, &(struct quire_gmem_fill){
						   .gfn = {gfn},
						   .npages = npages,
						   .max_order = max_order,
						   .ctx = &machine,
					       });
}

/* A page from its first use to its end. */
static void test_life(void **state)
{
	pfn_t pfn;

	(void)state;
	confidential_begin(0, 0);
	store(GFN + 3, 5);
	assert_int_equal(hardware.calls[0].gfn, GFN + 3);
	assert_int_equal(hardware.calls[1].byte, 0);
	HEARD(1, MAKE_PRIVATE, PREPARE);
	pfn = pfn_of(3);
	assert_int_equal(load(GFN + 3), 5);
	nothing_heard();
	/* Another slot shows it: what it holds stays. */
	slot_goes();
	HEARD(1, INVALIDATE);
	assert_false(is_free(pfn));
	slot_appears(GFN + 1, 8);
	assert_int_equal(load(GFN + 4), 5);
	assert_int_equal(hardware.calls[0].gfn, GFN + 4);
	HEARD(1, MAKE_PRIVATE);
	/* Punched: told while the host still has what it held. */
	punch(3, 1);
	assert_int_equal(hardware.calls[1].byte, 5);
	HEARD(1, INVALIDATE, RECLAIM);
	assert_true(is_free(pfn));
	confidential_end();
}

/* Converted and back, in place: shared in between, prepared again. */
static void test_converted(void **state)
{
	(void)state;
	confidential_begin(QUIRE_GMEM_MMAP, 0);
	store(GFN, 5);
	HEARD(1, MAKE_PRIVATE, PREPARE);
	convert(GFN, 1, 0);
	HEARD(1, MAKE_SHARED);
	assert_int_equal(load(GFN), 5);
	nothing_heard();
	convert(GFN, 1, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(load(GFN), 5);
	assert_int_equal(hardware.calls[1].byte, 5);
	HEARD(1, MAKE_PRIVATE, PREPARE);
	confidential_end();
}

/* An error is the fault's, and leaves the frame as it was. */
static void test_refused(void **state)
{
	(void)state;
	confidential_begin(0, 0);
	hardware.refuses = MAKE_PRIVATE;
	hardware.error = -EBUSY;
	assert_int_equal(fault_at(GFN, QUIRE_PFERR_WRITE), -EBUSY);
	HEARD(1, MAKE_PRIVATE);
	assert_true(is_free(pfn_of(0)));
	hardware.refuses = PREPARE;
	assert_int_equal(fault_at(GFN, QUIRE_PFERR_WRITE), -EBUSY);
	HEARD(1, MAKE_PRIVATE, PREPARE, MAKE_SHARED);
	assert_true(is_free(pfn_of(0)));
	store(GFN, 5);
	HEARD(1, MAKE_PRIVATE, PREPARE);
	/* A gfn that lost it: the frame stays the VM's. */
	slot_goes();
	slot_appears(GFN + 1, 8);
	hardware.count = 0;
	hardware.refuses = MAKE_PRIVATE;
	assert_int_equal(fault_at(GFN + 1, QUIRE_PFERR_WRITE), -EBUSY);
	assert_false(is_free(pfn_of(0)));
	assert_int_equal(load(GFN + 1), 5);
	HEARD(1, MAKE_PRIVATE, MAKE_PRIVATE);
	confidential_end();
}

/* Populated by the architecture itself: not prepared, once, and as far as it came. */
static void test_populated(void **state)
{
	(void)state;
	confidential_begin(0, 0);
	assert_int_equal(populate(GFN, 1, 0), 1);
	HEARD(1, MAKE_PRIVATE, POST_POPULATE);
	assert_int_equal(load(GFN), 77);
	nothing_heard();
	assert_int_equal(populate(GFN, 1, 0), -EEXIST);
	nothing_heard();
	hardware.refuses = POST_POPULATE;
	hardware.error = -EACCES;
	assert_int_equal(populate(GFN + 1, 1, 0), -EACCES);
	HEARD(1, MAKE_PRIVATE, POST_POPULATE, MAKE_SHARED);
	assert_true(is_free(pfn_of(1)));
	hardware.refuses = MAKE_PRIVATE;
	assert_int_equal(populate(GFN + 1, 1, 0), -EACCES);
	HEARD(1, MAKE_PRIVATE);
	assert_int_equal(populate(GFN + 1, 1, 0), 1);
	confidential_end();
}

/* 2 MiB at once, and a part of it. */
static void test_units(void **state)
{
	(void)state;
	confidential_begin(0, 1);
	store(GFN, 5);
	HEARD(512, MAKE_PRIVATE, PREPARE);
	punch(0, 512);
	HEARD(512, INVALIDATE, RECLAIM);
	assert_int_equal(populate(GFN, 512, 9), 512);
	HEARD(512, MAKE_PRIVATE, POST_POPULATE);
	punch(0, 512);
	HEARD(512, INVALIDATE, RECLAIM);
	hardware.most = 508;
	assert_int_equal(populate(GFN, 512, 9), 508);
	assert_int_equal(hardware.count, 6);
	for (uint32_t i = 2; i < 6; i++) {
		assert_int_equal(hardware.calls[i].hook, MAKE_SHARED);
		assert_int_equal(hardware.calls[i].pfn, pfn_of(506 + i).v);
	}
	confidential_end();
}

/* Where nothing populates, or no page can be private. */
static void test_needed(void **state)
{
	static const struct quire_confidential_ops none;
	struct quire_vm_config config;
	struct quire_vm *vm;

	(void)state;
	confidential_begin(0, 0);
	config = machine.vm->config;
	config.type = QUIRE_VM_DEFAULT;
	assert_int_equal(quire_vm_create(&config, &vm), -EINVAL);
	confidential_end();

	machine.confidential = &none;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	assert_int_equal(populate(GFN, 1, 0), -EINVAL);
	store(GFN, 5);
	convert(GFN, 1, 0);
	gmem_end();
	machine.confidential = NULL;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	assert_int_equal(populate(GFN, 1, 0), -EINVAL);
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_life),    cmocka_unit_test(test_converted),
	    cmocka_unit_test(test_refused), cmocka_unit_test(test_populated),
	    cmocka_unit_test(test_units),   cmocka_unit_test(test_needed),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
