/* Filling private pages: its checks in their order, and what the guest sees afterwards. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 8u
#define GFN 16u

static int fill_error, fills, fail_after, stop_after;

static int64_t copy_byte(void *ctx, const struct quire_gmem_unit *unit)
{
	uint8_t *page = (uint8_t *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT);

	fills++;
	assert_ptr_equal(ctx, &machine);
	assert_int_equal(unit->order, 0);
	if (fill_error && fills > fail_after)
		return fill_error;
	memset(page, 0, SIM_FRAME_BYTES);
	page[0] = unit->source ? *(uint8_t *)(uintptr_t)(unit->source->pfn.v << QUIRE_PAGE_SHIFT)
			       : (uint8_t)(unit->gfn.v + 100);
	return 1;
}

static int interrupted(void)
{
	return stop_after-- == 0;
}

static int64_t populate(uint64_t gfn, uint64_t npages, uint64_t source)
{
	return quire_gmem_populate(machine.vm, &(struct quire_gmem_fill){
						   .gfn = {gfn},
						   .npages = npages,
						   .source = {source},
						   .fill = copy_byte,
						   .ctx = &machine,
						   .interrupted = interrupted,
					       });
}

static void populate_begin(void)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){GFN}),
	    .size_bytes = PAGES(FILE_PAGES),
	    .hva = sim_hva(64),
	};

	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	fill_error = 0;
	fills = 0;
	fail_after = 0;
	stop_after = -1;
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	assert_int_equal(quire_gmem_create(machine.vm, region.size_bytes, 0, NULL, &gmem), 0);
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	convert(GFN, FILE_PAGES, QUIRE_ATTRIBUTE_PRIVATE);
}

static void populate_end(void)
{
	if (gmem)
		quire_gmem_release(gmem);
	gmem = NULL;
	vm_end();
}

/* G-040, G-041, G-042. */
static void test_refused(void **state)
{
	(void)state;
	populate_begin();
	assert_int_equal(populate(GFN, 0, 0), -EINVAL);
	assert_int_equal(populate(GFN, 1, sim_hva(0).v + 8), -EINVAL);
	assert_int_equal(populate(500, 1, 0), -EINVAL); /* no slot */
	assert_int_equal(populate(0, 1, 0), -EINVAL);	/* no file */
	convert(GFN + 2, 1, 0);
	assert_int_equal(populate(GFN + 2, 1, 0), -EINVAL);
	assert_int_equal(populate(GFN + 3, 1, sim_hva(40).v), -EFAULT);
	stop_after = 0;
	assert_int_equal(populate(GFN, 1, 0), -EINTR);
	stop_after = -1;
	assert_int_equal(fills, 0);
	/* What was done before an error is said instead of the error. */
	assert_int_equal(populate(GFN, 8, 0), 2);
	stop_after = 3;
	assert_int_equal(populate(GFN + 3, 5, 0), 3);
	stop_after = -1;
	punch(3, 5);
	/* The source ends after four pages; the slot ends before the request does. */
	assert_int_equal(populate(GFN + 3, 5, sim_hva(0).v), 4);
	punch(6, 2);
	assert_int_equal(populate(GFN + 6, 100, 0), 2);
	punch(7, 1);
	quire_gmem_poison(gmem, 7);
	assert_int_equal(populate(GFN + 7, 1, 0), -EHWPOISON);
	quire_gmem_release(gmem);
	gmem = NULL;
	assert_int_equal(populate(GFN, 1, 0), -EFAULT);
	populate_end();
}

/* The guest finds what was filled in; the other pages are zero. */
static void test_filled(void **state)
{
	(void)state;
	populate_begin();
	frame_of(0)->bytes[0] = 11;
	frame_of(1)->bytes[0] = 12;
	assert_int_equal(populate(GFN + 1, 2, sim_hva(0).v), 2);
	assert_int_equal(load(GFN + 1), 11);
	assert_int_equal(load(GFN + 2), 12);
	assert_int_equal(load(GFN), 0);
	assert_int_equal(populate(GFN + 5, 1, 0), 1);
	assert_int_equal(load(GFN + 5), (GFN + 105) & 0xff);
	/* The source's references are back: vm_end() counts. */
	populate_end();
}

/* The source is kept while it is read: a page without a reference count cannot be. */
static void test_kept_source(void **state)
{
	(void)state;
	populate_begin();
	frame_of(1)->counted = false;
	assert_int_equal(populate(GFN, 1, sim_hva(1).v), -EINVAL);
	assert_int_equal(populate(GFN, 2, sim_hva(0).v), 1);
	assert_int_equal(fills, 1);
	frame_of(1)->counted = true;
	assert_int_equal(populate(GFN + 1, 1, sim_hva(1).v), 1);
	populate_end();
}

/* What the fill only reads may be read-only, and stays clean; what it writes may not, and does not.
 */
static void test_written_source(void **state)
{
	struct quire_gmem_fill request = {
	    .gfn = {GFN}, .npages = 1, .fill = copy_byte, .ctx = &machine};

	(void)state;
	populate_begin();
	map_pages(4, 1, 0);
	request.source = sim_hva(4);
	request.write_source = 1;
	assert_int_equal(quire_gmem_populate(machine.vm, &request), -EFAULT);
	assert_int_equal(fills, 0);
	request.write_source = 0;
	assert_int_equal(quire_gmem_populate(machine.vm, &request), 1);
	assert_true(frame_of(4)->accessed && !frame_of(4)->dirty);
	request.gfn.v++;
	request.source = sim_hva(0);
	request.write_source = 1;
	assert_int_equal(quire_gmem_populate(machine.vm, &request), 1);
	assert_true(frame_of(0)->dirty);
	populate_end();
}

/* What is private already is refused: filled before, or used by the guest; until it is no more. */
static void test_claimed(void **state)
{
	(void)state;
	populate_begin();
	assert_int_equal(populate(GFN, 2, 0), 2);
	assert_int_equal(populate(GFN, 1, 0), -EEXIST);
	assert_int_equal(populate(GFN + 1, 3, 0), -EEXIST);
	assert_int_equal(load(GFN + 3), 0);
	assert_int_equal(populate(GFN + 3, 1, 0), -EEXIST);
	assert_int_equal(load(GFN + 3), 0);
	/* Those before it are done. */
	assert_int_equal(populate(GFN + 2, 4, 0), 1);
	assert_int_equal(fills, 3);
	punch(0, 1);
	assert_int_equal(populate(GFN, 1, 0), 1);
	convert(GFN + 3, 1, 0);
	convert(GFN + 3, 1, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(populate(GFN + 3, 1, 0), 1);
	assert_int_equal(load(GFN + 3), (GFN + 103) & 0xff);
	populate_end();
}

/* A page whose filling failed is new to its next user: zeroed, never half filled. */
static void test_failed_fill(void **state)
{
	struct gmem_page page;

	(void)state;
	populate_begin();
	fill_error = -ENOENT;
	assert_int_equal(populate(GFN, 2, 0), -ENOENT);
	assert_int_equal(fills, 1);
	gmem_page_read(&gmem->inode->pages, 0, &page);
	assert_int_equal(page.state, GMEM_PAGE_EXISTS);
	assert_true(rmp_is_free(machine.vm->rmp, page.pfn));
	fill_error = 0;
	assert_int_equal(populate(GFN, 2, 0), 2);
	assert_int_equal(load(GFN), (GFN + 100) & 0xff);
	fill_error = -ENOENT;
	assert_int_equal(populate(GFN + 2, 1, 0), -ENOENT);
	assert_int_equal(load(GFN + 2), 0);
	/* The pages before it count, also before an error that is -1. */
	fill_error = -EPERM;
	fail_after = fills + 2;
	assert_int_equal(populate(GFN + 4, 4, 0), 2);
	populate_end();
}

/* Every allocation fails once: the error is said, nothing is lost. */
static void test_no_memory(void **state)
{
	uint32_t failed = 0;

	(void)state;
	populate_begin();
	for (uint64_t fail = 1;; fail++) {
		int64_t ret;

		machine.host.fail_at = machine.host.allocations + fail;
		ret = populate(GFN + 4, 1, 0);
		machine.host.fail_at = 0;
		if (ret == 1)
			break;
		assert_int_equal(ret, -ENOMEM);
		punch(4, 1);
		failed++;
	}
	assert_true(failed >= 2);
	assert_int_equal(load(GFN + 4), (GFN + 104) & 0xff);
	populate_end();
}

/* Room for the sources of a huge page comes first, and its lack changes nothing. */
static void test_no_room_for_sources(void **state)
{
	struct quire_gmem_fill request = {.gfn = {GFN},
					  .npages = 1,
					  .source = {sim_hva(0).v},
					  .max_order = 9,
					  .fill = copy_byte,
					  .ctx = &machine};

	(void)state;
	populate_begin();
	store(0, 9);
	machine.host.fail_at = machine.host.allocations + 1;
	assert_int_equal(quire_gmem_populate(machine.vm, &request), -ENOMEM);
	machine.host.fail_at = 0;
	assert_int_equal(fills, 0);
	assert_int_equal(quire_gmem_populate(machine.vm, &request), 1);
	assert_int_equal(load(GFN), 9);
	populate_end();
}

static void take_slot_away(void)
{
	const struct quire_region gone = {.slot = 1};

	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
}

/* No lock is held between two units, and the slot may go there: what was filled is said. */
static int slot_goes(void)
{
	if (stop_after-- == 0)
		take_slot_away();
	return 0;
}

static void test_slot_goes(void **state)
{
	struct quire_gmem_fill request = {.gfn = {GFN},
					  .npages = 4,
					  .fill = copy_byte,
					  .ctx = &machine,
					  .interrupted = slot_goes};

	(void)state;
	for (int filled = 0; filled < 3; filled++) {
		populate_begin();
		stop_after = filled;
		assert_int_equal(quire_gmem_populate(machine.vm, &request),
				 filled ? filled : -EINVAL);
		assert_int_equal(fills, filled);
		populate_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refused),	cmocka_unit_test(test_filled),
	    cmocka_unit_test(test_kept_source), cmocka_unit_test(test_written_source),
	    cmocka_unit_test(test_claimed),	cmocka_unit_test(test_failed_fill),
	    cmocka_unit_test(test_no_memory),	cmocka_unit_test(test_no_room_for_sources),
	    cmocka_unit_test(test_slot_goes),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
