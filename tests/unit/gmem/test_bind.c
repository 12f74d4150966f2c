/* A file with many bindings: what an allocation that fails leaves; and what is to be pinned. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/gmem.h>

#include "src/base/reclaim.h"
#include "src/gmem/gmem.h"
#include "src/gmem/pin.h"
#include "src/gmem/privacy.h"
#include "src/gmem/rmp.h"
#include "src/vm/locks.h"
#include "tests/unit/fake_host.h"

/* More than one node of a tree has. */
#define BINDINGS 600u
#define PAGES(n) ((u64)(n) << QUIRE_PAGE_SHIFT)

static struct quire_vm *vm;
static struct quire_gmem *gmem;
static struct memslot slots[BINDINGS];

static void begin(void)
{
	memset(slots, 0, sizeof(slots));
	vm = fake_vm_make(QUIRE_VM_DEFAULT);
	assert_int_equal(quire_gmem_create(vm, PAGES(2 * BINDINGS), 0, NULL, &gmem), 0);
}

static void end(void)
{
	quire_gmem_release(gmem);
	fake_vm_end(vm);
}

/* With the allocation @fails failing; 0: with none. */
static int bind(u32 i, u64 fails)
{
	struct gmem_binding_change change;
	int error;

	slots[i] = (struct memslot){.base_gfn = {i}, .npages = 1, .flags = QUIRE_SLOT_GMEM};
	assert_int_equal(gmem_bind_prepare(&slots[i], vm, gmem, PAGES(2 * i)), 0);
	fake_fail_in(fails);
	error = gmem_bind_commit(&slots[i], &change);
	fake_fail_in(0);
	if (error)
		slots[i].gmem.file = NULL;
	else
		gmem_binding_finish(&change);
	return error;
}

static int unbind(u32 i, u64 fails)
{
	struct gmem_binding_change change;
	int error;

	fake_fail_in(fails);
	error = gmem_unbind_prepare(&slots[i], &change);
	fake_fail_in(0);
	if (error)
		return error;
	gmem_unbind_commit(&change);
	gmem_binding_finish(&change);
	return 0;
}

/* Fails at each allocation before it succeeds; what was allocated until then is freed. */
static u64 fails_everywhere(int (*change)(u32 i, u64 fails), u32 i)
{
	u64 live = fake.live_allocs, fails = 1, allocs = fake.allocs;
	int error;

	while ((error = change(i, fails)) == -ENOMEM) {
		assert_int_equal(fake.live_allocs, live);
		allocs = fake.allocs;
		fails++;
	}
	assert_int_equal(error, 0);
	/* Nothing was passed over: the failure was still to come. */
	assert_true(fake.allocs - allocs < fails);
	return fails - 1;
}

static void test_without_memory(void **state)
{
	u64 most = 0;

	begin();
	mutex_lock(&vm->slots_lock);
	for (u32 i = 0; i < BINDINGS; i++) {
		u64 failed = fails_everywhere(bind, i);

		most = failed > most ? failed : most;
	}
	assert_true(most >= 2);
	assert_int_equal(gmem->bindings.count, BINDINGS);
	most = 0;
	for (u32 i = 0; i < BINDINGS; i++) {
		u64 failed = fails_everywhere(unbind, (i * 7) % BINDINGS);

		most = failed > most ? failed : most;
	}
	assert_true(most >= 2);
	assert_int_equal(gmem->bindings.count, 0);
	mutex_unlock(&vm->slots_lock);
	end();
}

/* A reader may look at the bindings that are undone until its section ends. */
static void test_undo_waits_for_readers(void **state)
{
	struct gmem_binding_change change;

	(void)state;
	begin();
	mutex_lock(&vm->slots_lock);
	assert_int_equal(bind(0, 0), 0);
	slots[1] = (struct memslot){.base_gfn = {1}, .npages = 1, .flags = QUIRE_SLOT_GMEM};
	assert_int_equal(gmem_bind_prepare(&slots[1], vm, gmem, PAGES(2)), 0);
	assert_int_equal(gmem_bind_commit(&slots[1], &change), 0);
	fake_reader_begin();
	gmem_binding_undo(&change);
	assert_false(fake_reader_is_inside());
	assert_null(slots[1].gmem.file);
	assert_int_equal(gmem->bindings.count, 1);
	assert_int_equal(unbind(0, 0), 0);
	mutex_unlock(&vm->slots_lock);
	fake_reader_end();
	end();
}

/* What was only prepared is undone, too: the binding stays, and nothing is left of the change. */
static void test_undo_of_what_was_prepared(void **state)
{
	struct gmem_binding_change change;
	u64 live;

	(void)state;
	begin();
	mutex_lock(&vm->slots_lock);
	assert_int_equal(bind(0, 0), 0);
	assert_int_equal(bind(1, 0), 0);
	live = fake.live_allocs;
	assert_int_equal(gmem_unbind_prepare(&slots[0], &change), 0);
	gmem_binding_undo(&change);
	assert_int_equal(fake.live_allocs, live);
	assert_ptr_equal(slots[0].gmem.file, gmem);
	assert_int_equal(gmem->bindings.count, 2);
	assert_int_equal(unbind(0, 0), 0);
	assert_int_equal(unbind(1, 0), 0);
	mutex_unlock(&vm->slots_lock);
	end();
}

/* More pages than there are numbers behind the first: all that comes. */
static void test_range_without_end(void **state)
{
	struct gmem_binding_iter iter;
	struct gmem_binding binding;

	(void)state;
	begin();
	mutex_lock(&vm->slots_lock);
	for (u32 i = 0; i < 3; i++)
		assert_int_equal(bind(i, 0), 0);
	assert_int_equal(gmem_binding_first(gmem->inode, 1, UINT64_MAX, &iter, &binding), 1);
	for (u32 i = 1; i < 3; i++) {
		assert_ptr_equal(binding.slot, &slots[i]);
		assert_int_equal(binding.gfn.v, i);
		assert_int_equal(binding.npages, 1);
		assert_int_equal(gmem_binding_next(&iter, &binding), i < 2);
	}
	for (u32 i = 0; i < 3; i++)
		assert_int_equal(unbind(i, 0), 0);
	mutex_unlock(&vm->slots_lock);
	end();
}

/* Pages that cannot be made without memory are said to be, and are there at the next try. */
static void test_pages_without_memory(void **state)
{
	u64 fails = 0;
	int error;

	(void)state;
	begin();
	do {
		fake_fail_in(++fails);
		error = quire_gmem_allocate(gmem, 0, PAGES(3), NULL);
		fake_fail_in(0);
		assert_true(error == 0 || error == -ENOMEM);
		assert_int_equal(gmem_unit_any(&gmem->inode->pages, 0, 0, GMEM_PAGE_EXISTS),
				 error == 0);
	} while (error);
	assert_true(fails > 1);
	end();
}

/* A file that has been released is not had again, though a lookup keeps its memory. */
static void test_released_file(void **state)
{
	struct gmem_lookup lookup;

	(void)state;
	begin();
	mutex_lock(&vm->slots_lock);
	assert_int_equal(bind(0, 0), 0);
	mutex_unlock(&vm->slots_lock);
	reclaim_enter();
	assert_int_equal(gmem_lookup_begin(&slots[0], (gfn_t){0}, GMEM_SHARED, &lookup), 0);
	assert_true(gmem_file_get(lookup.file));
	reclaim_leave();
	gmem_file_put(lookup.file);
	quire_gmem_release(gmem);
	reclaim_enter();
	assert_int_equal(gmem_file_get(lookup.file), 0);
	reclaim_leave();
	assert_int_equal(gmem_lookup_finish(&lookup), 0);
	fake_vm_end(vm);
}

static int assign(u64 gfn, u64 pfn)
{
	return vm->rmp->arch.ops->make_private(vm->rmp, (gfn_t){gfn}, (pfn_t){pfn}, 0);
}

static void assign_beside(void)
{
	assert_int_equal(assign(7, 1025), 0);
}

/* Two threads make the same block of the reverse map: one is kept, and has what both assign. */
static void test_map_made_twice(void **state)
{
	const struct gmem_arch_ops *ops;

	(void)state;
	vm = fake_vm_make(QUIRE_VM_SW_PROTECTED);
	ops = vm->rmp->arch.ops;
	/* The way to the blocks is there. */
	assert_int_equal(assign(5, 512), 0);
	fake.meanwhile = assign_beside;
	assert_int_equal(assign(6, 1024), 0);
	assert_null(fake.meanwhile);
	assert_true(rmp_allows(vm->rmp, (gfn_t){6}, (pfn_t){1024}));
	assert_true(rmp_allows(vm->rmp, (gfn_t){7}, (pfn_t){1025}));
	ops->reclaim(vm->rmp, (pfn_t){512}, 1);
	ops->reclaim(vm->rmp, (pfn_t){1024}, 2);
	fake_vm_end(vm);
}

/* A block that comes with the next 512 frames: where they do not follow, they are listed. */
static void test_unit_without_memory(void **state)
{
	struct gmem_page page;

	(void)state;
	begin();
	gmem->inode->pages.max_order = QUIRE_TABLE_BITS;
	fake.huge = 1;
	assert_int_equal(gmem_page_create(&gmem->inode->pages, 5, &page), 0);
	assert_int_equal(page.order, QUIRE_TABLE_BITS);
	assert_int_equal(quire_gmem_punch(gmem, 0, PAGES(512)), 0);
	fake_fail_in(1);
	assert_int_equal(gmem_page_create(&gmem->inode->pages, 5, &page), -ENOMEM);
	fake_fail_in(0);
	assert_int_equal(page.state, 0);
	assert_int_equal(gmem_page_create(&gmem->inode->pages, 5, &page), 0);
	assert_true(page.state & GMEM_PAGE_EXISTS);
	end();
}

/* A slot without a file has nothing to pin, and nothing that says what its pages are. */
static void test_nothing_to_pin(void **state)
{
	struct memslot slot = {.base_gfn = {5}, .npages = 10};
	struct quire_map_pin pin;
	u64 value = 77;

	begin();
	memset(&pin, 0x5a, sizeof(pin));
	mutex_lock(&vm->slots_lock);
	gmem_pin_choose(&pin, vm, &slot, slot.base_gfn);
	assert_null(pin.gmem);
	vm->config.gmem_in_place_conversion = 1;
	assert_int_equal(privacy_run(vm, &slot, (gfn_t){6}, (gfn_t){12}, &value).v, 12);
	assert_int_equal(value, 0);
	value = 77;
	assert_int_equal(privacy_uniform(vm, &slot, (gfn_t){6}, 6, &value), 1);
	assert_int_equal(value, 0);
	assert_int_equal(privacy_get(vm, &slot, (gfn_t){6}), 0);
	vm->config.gmem_in_place_conversion = 0;
	/* Nor where the file has no say in what its pages are. */
	assert_int_equal(bind(0, 0), 0);
	memset(&pin, 0x5a, sizeof(pin));
	gmem_pin_choose(&pin, vm, &slots[0], slots[0].base_gfn);
	assert_null(pin.gmem);
	assert_int_equal(unbind(0, 0), 0);
	mutex_unlock(&vm->slots_lock);
	assert_int_equal(gmem_pin_take(&pin), 0);
	end();
}

/* What is to be undone or filled where no file is: nothing, and -EFAULT. */
static void test_no_file(void **state)
{
	struct memslot slot = {.base_gfn = {5}, .npages = 10};
	struct gmem_binding_change change;
	const struct gmem_filler filler = {0};

	(void)state;
	begin();
	mutex_lock(&vm->slots_lock);
	assert_int_equal(gmem_unbind_prepare(&slot, &change), 0);
	gmem_binding_undo(&change);
	gmem_unbind_commit(&change);
	gmem_binding_finish(&change);
	assert_int_equal(gmem_fill_unit(&slot, slot.base_gfn, &filler), -EFAULT);
	mutex_unlock(&vm->slots_lock);
	end();
}

/* Hardware in which the frames of all units are, but for one that it refuses; or all are refused by
 * a link that came meanwhile. */
static struct {
	u64 refused;
	u32 made;
	bool links;
} hardware;

static int make_private(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)pfn;
	hardware.made++;
	return hardware.refused - gfn.v < UINT64_C(1) << order ? -EIO : 0;
}

static const struct gmem_arch_ops hardware_ops = {.make_private = make_private};
static const struct gmem_arch hardware_arch = {.ops = &hardware_ops};

static int any_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	(void)ctx;
	(void)store;
	(void)order;
	/* From here on the file is linked: its pages are no VM's. */
	if (hardware.links)
		gmem->inode->linked = 1;
	pfn->v = (UINT64_C(1) << 30) + index;
	return 0;
}

static int zero_none(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	(void)index;
	(void)npages;
	return 0;
}

/* A slot over a file of @npages, of units of @order; the first page is looked up: its order, or an
 * error. */
static int lookup_in_unit(u64 npages, unsigned int order, u64 refused, bool links)
{
	struct gmem_binding_change change;
	struct quire_host_ops ops = fake_ops;
	struct memslot slot = {.npages = npages, .flags = QUIRE_SLOT_GMEM};
	struct gmem_lookup lookup;
	int error;

	ops.store_get = any_get;
	ops.store_zero = zero_none;
	vm = fake_vm_make(QUIRE_VM_DEFAULT);
	vm->host = &ops;
	vm->gmem_arch = &hardware_arch;
	hardware.made = 0;
	hardware.refused = refused;
	hardware.links = links;
	assert_int_equal(quire_gmem_create(vm, PAGES(npages), 0, NULL, &gmem), 0);
	gmem->inode->pages.max_order = order;
	mutex_lock(&vm->slots_lock);
	assert_int_equal(gmem_bind_prepare(&slot, vm, gmem, 0), 0);
	assert_int_equal(gmem_bind_commit(&slot, &change), 0);
	gmem_binding_finish(&change);
	mutex_unlock(&vm->slots_lock);
	reclaim_enter();
	error = gmem_lookup_begin(&slot, (gfn_t){0}, GMEM_PRIVATE, &lookup);
	reclaim_leave();
	assert_int_equal(error, 0);
	assert_false(lookup.found);
	error = gmem_lookup_finish(&lookup);
	gmem->inode->linked = 0;
	mutex_lock(&vm->slots_lock);
	assert_int_equal(gmem_unbind_prepare(&slot, &change), 0);
	gmem_unbind_commit(&change);
	gmem_binding_finish(&change);
	mutex_unlock(&vm->slots_lock);
	end();
	return error ? error : (int)lookup.order;
}

/* A block that is refused: the page's own block is found, unless it is that one. */
static void test_gigantic_in_part(void **state)
{
	const u64 pages = UINT64_C(1) << GMEM_GIGANTIC_ORDER;

	(void)state;
	assert_int_equal(lookup_in_unit(pages, GMEM_GIGANTIC_ORDER, UINT64_MAX, false),
			 GMEM_GIGANTIC_ORDER);
	assert_int_equal(hardware.made, pages / QUIRE_TABLE_ENTRIES);
	assert_int_equal(lookup_in_unit(pages, GMEM_GIGANTIC_ORDER, 3 * 512 + 7, false),
			 QUIRE_TABLE_BITS);
	/* What comes behind it is left alone. */
	assert_int_equal(hardware.made, 4);
	assert_int_equal(lookup_in_unit(pages, GMEM_GIGANTIC_ORDER, 7, false), -EIO);
}

/* The file is linked between a lookup's look at the hardware and its preparation of the page. */
static void test_linked_meanwhile(void **state)
{
	(void)state;
	assert_int_equal(lookup_in_unit(8, 0, UINT64_MAX, false), 0);
	assert_int_equal(hardware.made, 1);
	assert_int_equal(lookup_in_unit(8, 0, 0, true), 0);
	assert_int_equal(hardware.made, 0);
}

static s64 note_order(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	(void)index;
	(void)pfn;
	*(unsigned int *)ctx = order;
	return 1;
}

/* A block is filled at once where all of it is the slot's, and all of that private. */
static void test_fill_in_part(void **state)
{
	static const struct {
		u64 slot_pages, private_pages;
		unsigned int order;
	} rows[] = {{512, 512, QUIRE_TABLE_BITS}, {512, 511, 0}, {511, 512, 0}, {1024, 512, 9}};

	(void)state;
	for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct memslot slot = {.npages = rows[i].slot_pages, .flags = QUIRE_SLOT_GMEM};
		struct gmem_binding_change change;
		unsigned int order = 77;
		const struct gmem_filler filler = {note_order, &order, QUIRE_TABLE_BITS};

		vm = fake_vm_make(QUIRE_VM_SW_PROTECTED);
		hardware.refused = UINT64_MAX;
		vm->gmem_arch = &hardware_arch;
		fake.huge = 1;
		assert_int_equal(quire_gmem_create(vm, PAGES(1024), 0, NULL, &gmem), 0);
		gmem->inode->pages.max_order = QUIRE_TABLE_BITS;
		assert_int_equal(quire_vm_set_attributes(vm, (gpa_t){0},
							 PAGES(rows[i].private_pages),
							 QUIRE_ATTRIBUTE_PRIVATE),
				 0);
		mutex_lock(&vm->slots_lock);
		assert_int_equal(gmem_bind_prepare(&slot, vm, gmem, 0), 0);
		assert_int_equal(gmem_bind_commit(&slot, &change), 0);
		gmem_binding_finish(&change);
		assert_int_equal(gmem_fill_unit(&slot, (gfn_t){0}, &filler), 1);
		assert_int_equal(order, rows[i].order);
		assert_int_equal(gmem_unbind_prepare(&slot, &change), 0);
		gmem_unbind_commit(&change);
		gmem_binding_finish(&change);
		mutex_unlock(&vm->slots_lock);
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_memory),
	    cmocka_unit_test(test_nothing_to_pin),
	    cmocka_unit_test(test_undo_waits_for_readers),
	    cmocka_unit_test(test_undo_of_what_was_prepared),
	    cmocka_unit_test(test_range_without_end),
	    cmocka_unit_test(test_pages_without_memory),
	    cmocka_unit_test(test_released_file),
	    cmocka_unit_test(test_map_made_twice),
	    cmocka_unit_test(test_unit_without_memory),
	    cmocka_unit_test(test_no_file),
	    cmocka_unit_test(test_gigantic_in_part),
	    cmocka_unit_test(test_linked_meanwhile),
	    cmocka_unit_test(test_fill_in_part),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
