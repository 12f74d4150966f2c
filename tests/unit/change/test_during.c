/* What others see while a change lasts: the gfns whose faults wait, and what the host is told. */
#include "tests/unit/gmem/support.h"

#include <quire/confidential.h>

#include "src/gmem/gmem.h"
#include "src/vm/vm.h"

#define GFN 1024u
#define FILE_PAGES (2 * SIM_BLOCK)
#define PRIVATE QUIRE_ATTRIBUTE_PRIVATE
#define OPEN (QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED)

/* What a call of the host's got, and the gfns whose faults wait meanwhile, of which there is one
 * run. */
struct told {
	uint32_t calls;
	uint64_t index, npages;
	int flag;
	uint64_t waiting, first;
};

static struct told shown, punched, reshaped, given_up;
static int show_error;
static struct quire_host_ops ops;

static void note(struct told *told, uint64_t index, uint64_t npages, int flag)
{
	told->calls++;
	told->index = index;
	told->npages = npages;
	told->flag = flag;
	told->waiting = 0;
	for (uint64_t gfn = GFN - 2; gfn < GFN + FILE_PAGES + 2; gfn++)
		if (invalidation_touches(&machine.vm->invalidation, (gfn_t){gfn},
					 (gfn_t){gfn + 1})) {
			told->first = told->waiting++ ? told->first : gfn - GFN;
			assert_int_equal(gfn - GFN, told->first + told->waiting - 1);
		}
}

static int note_show(void *ctx, void *store, uint64_t index, uint64_t npages, int flag)
{
	note(&shown, index, npages, flag);
	return show_error ? show_error : sim_host_ops.store_show(ctx, store, index, npages, flag);
}

static void note_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	note(&punched, index, npages, 0);
	sim_host_ops.store_punch(ctx, store, index, npages);
}

static int note_reshape(void *ctx, void *store, uint64_t index, int whole)
{
	note(&reshaped, index, SIM_BLOCK, whole);
	return sim_host_ops.store_reshape(ctx, store, index, whole);
}

static void note_given_up(void *ctx, pfn_t pfn, uint64_t npages)
{
	(void)ctx;
	(void)pfn;
	note(&given_up, given_up.index, given_up.npages + npages, 0);
}

static const struct quire_confidential_ops hardware = {.make_shared = note_given_up};

static void forget(void)
{
	memset(&shown, 0, sizeof(shown));
	memset(&punched, 0, sizeof(punched));
	memset(&reshaped, 0, sizeof(reshaped));
	memset(&given_up, 0, sizeof(given_up));
	show_error = 0;
}

/* The call came once: pages [index, index + npages) of the file, with @flag, while faults at
 * @waiting pages from page @first on waited. */
static void was_told(const struct told *told, uint64_t index, uint64_t npages, int flag)
{
	assert_int_equal(told->calls, 1);
	assert_int_equal(told->index, index);
	assert_int_equal(told->npages, npages);
	assert_int_equal(told->flag, flag);
}

static void waited(const struct told *told, uint64_t first, uint64_t npages)
{
	assert_int_equal(told->waiting, npages);
	assert_int_equal(told->first, first);
}

static void begin_file(uint64_t flags)
{
	gmem_begin(QUIRE_VM_SW_PROTECTED, flags, GFN, FILE_PAGES);
	ops = sim_host_ops;
	ops.store_show = note_show;
	ops.store_punch = note_punch;
	ops.store_reshape = note_reshape;
	gmem->inode->pages.host = &ops;
	forget();
}

static void end_file(void)
{
	gmem->inode->pages.host = &sim_host_ops;
	gmem_end();
	machine.in_place = 0;
	machine.confidential = NULL;
	machine.host.pool[0] = 0;
}

static void begin_in_place(uint64_t flags)
{
	machine.in_place = 1;
	begin_file(flags);
}

static void begin_pool(void)
{
	machine.host.pool[0] = FILE_PAGES / SIM_BLOCK;
	begin_in_place(QUIRE_GMEM_MMAP | QUIRE_GMEM_HUGETLB |
		       UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT);
}

static int make(uint64_t index, uint64_t npages, uint64_t attributes, uint64_t *where)
{
	struct quire_gmem_conversion conversion = {.offset_bytes = PAGES(index),
						   .size_bytes = PAGES(npages),
						   .attributes = attributes,
						   .error_offset_bytes = 1};
	int error = quire_gmem_set_attributes(gmem, &conversion);

	*where = conversion.error_offset_bytes;
	return error;
}

static void made(uint64_t index, uint64_t npages, uint64_t attributes)
{
	uint64_t where;

	assert_int_equal(make(index, npages, attributes, &where), 0);
	assert_int_equal(where, 1);
	assert_int_equal(machine.vm->invalidation.in_progress, 0);
}

static bool is_private(uint64_t index)
{
	return quire_vm_get_attributes(machine.vm, (gfn_t){GFN + index}) == PRIVATE;
}

/* The client's view goes before anything else does, and comes as the last step. */
static void test_view(void **state)
{
	(void)state;
	begin_in_place(OPEN);
	made(5, 3, PRIVATE);
	was_told(&shown, 5, 3, 0);
	waited(&shown, 0, 0);
	forget();
	made(6, 2, 0);
	was_told(&shown, 6, 2, 1);
	waited(&shown, 6, 2);
	/* What is so already is no change: nothing goes, and no one is told. */
	store(GFN + 6, 1);
	forget();
	made(6, 2, 0);
	made(5, 1, PRIVATE);
	assert_int_equal(shown.calls, 0);
	assert_true(writable_at(GFN + 6));
	end_file();
}

/* A view that stays refuses the conversion, before a guest has lost anything. */
static void test_view_stays(void **state)
{
	uint64_t where;

	(void)state;
	begin_in_place(OPEN);
	store(GFN + 6, 1);
	show_error = -ENOSPC;
	assert_int_equal(make(5, 3, PRIVATE, &where), -ENOSPC);
	assert_int_equal(where, PAGES(5));
	assert_true(writable_at(GFN + 6));
	assert_false(is_private(5) || is_private(6) || is_private(7));
	show_error = 0;
	made(5, 3, PRIVATE);
	/* Nor does one that cannot come let the pages be shared. */
	show_error = -ENOSPC;
	assert_int_equal(make(6, 2, 0, &where), -ENOSPC);
	assert_int_equal(where, PAGES(6));
	assert_true(is_private(5) && is_private(6) && is_private(7));
	assert_int_equal(machine.vm->invalidation.in_progress, 0);
	end_file();
}

/* A host without mappings of the client's has nothing to be told. */
static void test_no_view(void **state)
{
	(void)state;
	begin_in_place(OPEN);
	ops.store_show = NULL;
	made(5, 3, PRIVATE);
	assert_true(is_private(5) && is_private(7) && !is_private(4) && !is_private(8));
	made(6, 1, 0);
	assert_true(is_private(5) && is_private(7) && !is_private(6));
	end_file();
}

/* Faults wait at the whole of each huge page that changes its shape, and no other changes it. */
static void test_huge_pages(void **state)
{
	(void)state;
	begin_pool();
	store(GFN + 5, 1);
	store(GFN + SIM_BLOCK + 5, 1);
	made(3, 2, 0);
	was_told(&reshaped, 0, SIM_BLOCK, 0);
	waited(&reshaped, 0, SIM_BLOCK);
	was_told(&shown, 3, 2, 1);
	waited(&shown, 0, SIM_BLOCK);
	forget();
	made(3, 2, PRIVATE);
	was_told(&reshaped, 0, SIM_BLOCK, 1);
	waited(&reshaped, 0, SIM_BLOCK);
	forget();
	made(0, SIM_BLOCK, 0);
	was_told(&reshaped, 0, SIM_BLOCK, 0);
	assert_int_equal(level_at(GFN + SIM_BLOCK + 5), QUIRE_LEVEL_2M);
	forget();
	made(0, SIM_BLOCK, PRIVATE);
	was_told(&reshaped, 0, SIM_BLOCK, 1);
	assert_int_equal(level_at(GFN + SIM_BLOCK + 5), QUIRE_LEVEL_2M);
	forget();
	made(SIM_BLOCK, SIM_BLOCK, 0);
	was_told(&reshaped, SIM_BLOCK, SIM_BLOCK, 0);
	waited(&reshaped, SIM_BLOCK, SIM_BLOCK);
	end_file();
}

/* The VM's own attributes: the frames are given up while the faults of the range wait. */
static void test_attributes(void **state)
{
	const struct invalidation *inv;
	uint64_t turns, flushes;

	(void)state;
	machine.confidential = &hardware;
	begin_file(0);
	inv = &machine.vm->invalidation;
	for (uint64_t page = 3; page < 9; page++)
		store(GFN + page, 1);
	convert(GFN + 5, 3, 0);
	assert_int_equal(given_up.npages, 3);
	waited(&given_up, 5, 3);
	assert_int_equal(inv->in_progress, 0);
	for (uint64_t page = 3; page < 9; page++)
		assert_int_equal(is_private(page), page < 5 || page > 7);
	/* Pages that have the attributes lose nothing. */
	store(GFN + 8, 2);
	turns = inv->seq;
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	convert(GFN + 8, 2, PRIVATE);
	convert(GFN + 5, 3, 0);
	assert_int_equal(inv->seq, turns);
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes);
	assert_int_not_equal(level_at(GFN + 8), 0);
	convert(GFN + 7, 2, PRIVATE);
	assert_true(inv->seq != turns);
	end_file();
}

/* A punch takes pages of the file alone from the host, while faults at them wait. */
static void test_punch(void **state)
{
	(void)state;
	begin_file(0);
	punch(5, 3);
	was_told(&punched, 5, 3, 0);
	waited(&punched, 5, 3);
	forget();
	punch(FILE_PAGES - 2, 1000);
	was_told(&punched, FILE_PAGES - 2, 2, 0);
	waited(&punched, FILE_PAGES - 2, 2);
	forget();
	punch(0, FILE_PAGES);
	was_told(&punched, 0, FILE_PAGES, 0);
	waited(&punched, 0, FILE_PAGES);
	forget();
	punch(FILE_PAGES, 1);
	punch(FILE_PAGES + 1, 1);
	punch(UINT64_C(1) << 40, 1000);
	punch(7, 0);
	assert_int_equal(punched.calls, 0);
	assert_int_equal(machine.vm->invalidation.in_progress, 0);
	end_file();
}

static void host_waits(uint64_t from, uint64_t until, uint64_t first, uint64_t npages)
{
	const hva_t start = {SIM_HVA_BASE + from}, end = {SIM_HVA_BASE + until};
	uint32_t waiting = 0;

	quire_vm_host_invalidate_begin(machine.vm, start, end);
	for (uint64_t gfn = 0; gfn < 10; gfn++)
		if (invalidation_touches(&machine.vm->invalidation, (gfn_t){gfn},
					 (gfn_t){gfn + 1})) {
			assert_in_range(gfn, first, first + npages - 1);
			waiting++;
		}
	assert_int_equal(waiting, npages);
	assert_int_equal(machine.vm->invalidation.in_progress, npages != 0);
	quire_vm_host_invalidate_end(machine.vm, start, end);
	assert_int_equal(machine.vm->invalidation.in_progress, 0);
}

/* The host's invalidations: faults at each page that has a byte of the range wait. */
static void test_host(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, 0);
	host_waits(PAGES(2), PAGES(5), 2, 3);
	host_waits(PAGES(2) + 100, PAGES(3) + 1, 2, 2);
	host_waits(PAGES(7), PAGES(100), 7, 1);
	host_waits(0, UINT64_MAX - SIM_HVA_BASE, 0, 8);
	host_waits(PAGES(8), PAGES(9), 0, 0);
	host_waits(PAGES(3), PAGES(3), 0, 0);
	host_waits(PAGES(3) + 5, PAGES(3) + 5, 0, 0);
	vm_end();
}

/* What a file serves is not the client's to take away: faults wait, and its leaves stay. */
static void test_host_and_a_file(void **state)
{
	const hva_t start = {SIM_HVA_BASE + PAGES(16)}, end = {SIM_HVA_BASE + PAGES(24)};

	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, OPEN, 16, 8);
	store(19, 1);
	quire_vm_host_invalidate_begin(machine.vm, start, end);
	assert_true(invalidation_touches(&machine.vm->invalidation, (gfn_t){19}, (gfn_t){20}));
	assert_true(writable_at(19));
	leaves_are(0, 0, 1);
	quire_vm_host_invalidate_end(machine.vm, start, end);
	assert_true(writable_at(19));
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_view),       cmocka_unit_test(test_view_stays),
	    cmocka_unit_test(test_no_view),    cmocka_unit_test(test_huge_pages),
	    cmocka_unit_test(test_attributes), cmocka_unit_test(test_punch),
	    cmocka_unit_test(test_host),       cmocka_unit_test(test_host_and_a_file),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 0);
}
