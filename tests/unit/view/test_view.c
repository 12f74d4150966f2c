/* The picture of a VM's memory: each page of it against what the tables and slots say of that page.
 */
#include <quire/view.h>

#include "hosts/sim/sched.h"
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/vm/check.h"
#include "src/vm/vm.h"
#include "tests/unit/gmem/support.h"

#define ROM_GFN 4096u
#define FILE_GFN 8192u

/* Sums of all pieces, and whether they came in order. */
struct seen {
	struct quire_view_counts sum;
	uint64_t pieces, pages, longest;
	gfn_t end;
};

static void add(struct quire_view_counts *sum, const struct quire_view_counts *more)
{
	const uint64_t *from = (const uint64_t *)more;
	uint64_t *to = (uint64_t *)sum;

	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += from[i];
}

static int take(void *ctx, const struct quire_view_piece *piece)
{
	struct seen *seen = ctx;

	assert_true(piece->gfn.v >= seen->end.v && piece->npages);
	seen->end.v = piece->gfn.v + piece->npages;
	seen->pieces++;
	seen->pages += piece->npages;
	if (piece->npages > seen->longest)
		seen->longest = piece->npages;
	add(&seen->sum, &piece->counts);
	return 0;
}

static struct seen view_of(uint64_t start, uint64_t end, uint64_t piece_pages)
{
	const struct quire_view_request request = {
	    .start = {start}, .end = {end}, .piece_pages = piece_pages};
	struct seen seen = {0};

	assert_int_equal(quire_vm_view(machine.vm, &request, take, &seen), 0);
	return seen;
}

/* One page by itself: the entry that maps it, and the VM's answer about it. */
static void count_page(struct quire_view_counts *counts, uint64_t gfn)
{
	const struct entry_format *f = &machine.vm->tdp_format;
	uint32_t level;
	uint64_t entry = leaf_at(gfn, &level);

	if (quire_vm_get_attributes(machine.vm, (gfn_t){gfn}) & QUIRE_ATTRIBUTE_PRIVATE)
		counts->private_pages++;
	if (!entry)
		return;
	counts->mapped[level]++;
	counts->writable += entry_is_writable(f, entry);
	counts->executable += entry_is_executable(f, entry);
	counts->young += entry_is_young(f, entry);
	counts->dirty += f->dirty ? (entry & f->dirty) != 0 : entry_is_writable(f, entry);
}

/* Pages [start, end), all of them in slots, however they are cut into pieces. @logged: of those. */
static void is_as_page_by_page(uint64_t start, uint64_t end, uint64_t logged)
{
	static const uint64_t sizes[] = {1, 7, 64, SIM_BLOCK, SIM_GIGANTIC};
	struct quire_view_counts expected = {.logged = logged};

	for (uint64_t gfn = start; gfn < end; gfn++)
		count_page(&expected, gfn);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct seen seen = view_of(start, end, sizes[i]);

		assert_int_equal(seen.pages, end - start);
		assert_in_range(seen.longest, 1, sizes[i]);
		assert_memory_equal(&seen.sum, &expected, sizeof(expected));
	}
}

static struct vm_leaves told;

static void hear(const struct quire_vm *vm, const struct vm_leaves *leaves)
{
	if (vm == machine.vm)
		told = *leaves;
}

/* What the checker of all tables, which shares no walk with the picture, finds now. */
static void ask_checker(void)
{
	struct flush_debt debt;

	vm_check_tells = hear;
	told = (struct vm_leaves){0};
	change_lock(machine.vm, &debt);
	change_settle_unlock(machine.vm, &debt);
	vm_check_tells = NULL;
}

/* Leaves of a whole VM, against its counters, and against what vm_check() says. */
static void totals_are_those_of_the_counters(void)
{
	struct seen seen = view_of(0, UINT64_C(1) << 36, SIM_GIGANTIC);

	ask_checker();
	assert_true(told.tdp[QUIRE_LEVEL_4K] + told.tdp[QUIRE_LEVEL_2M] > 0);
	assert_int_equal(seen.sum.mapped[QUIRE_LEVEL_4K], told.tdp[QUIRE_LEVEL_4K]);
	assert_int_equal(seen.sum.mapped[QUIRE_LEVEL_2M], told.tdp[QUIRE_LEVEL_2M] * SIM_BLOCK);
	assert_int_equal(seen.sum.mapped[QUIRE_LEVEL_1G], told.tdp[QUIRE_LEVEL_1G] * SIM_GIGANTIC);
	assert_int_equal(seen.sum.mapped[QUIRE_LEVEL_4K], stat(QUIRE_VM_STAT_pages_4k));
	assert_int_equal(seen.sum.mapped[QUIRE_LEVEL_2M] / SIM_BLOCK, stat(QUIRE_VM_STAT_pages_2m));
}

static void add_region(uint32_t slot, uint64_t gfn, uint32_t page, uint32_t npages, uint32_t flags)
{
	const struct quire_region region = {
	    .slot = slot,
	    .flags = flags,
	    .gpa = gpa_of((gfn_t){gfn}),
	    .size_bytes = PAGES(npages),
	    .hva = sim_hva(page),
	};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

static void test_holes_and_rom(void **state)
{
	struct seen seen;

	(void)state;
	vm_begin();
	map_pages(0, 200, SIM_WRITABLE);
	add_slot(0, 100, 0);
	add_region(2, ROM_GFN, 100, 50, QUIRE_SLOT_READONLY);
	for (uint32_t page = 0; page < 100; page += 3)
		store(page, 1);
	(void)load(1);
	(void)load(ROM_GFN + 7);
	is_as_page_by_page(0, 100, 0);
	is_as_page_by_page(ROM_GFN, ROM_GFN + 50, 0);
	/* Between the slots there is nothing, and the pieces say whose they are. */
	seen = view_of(0, UINT64_MAX, 64);
	assert_int_equal(seen.pieces, 3);
	assert_int_equal(seen.pages, 150);
	assert_int_equal(view_of(100, ROM_GFN, 64).pieces, 0);
	seen = view_of(ROM_GFN, UINT64_MAX, SIM_GIGANTIC);
	assert_int_equal(seen.sum.mapped[QUIRE_LEVEL_4K], 1);
	assert_int_equal(seen.sum.writable, 0);
	totals_are_those_of_the_counters();
	vm_end();
}

static int take_identity(void *ctx, const struct quire_view_piece *piece)
{
	*(struct quire_view_piece *)ctx = *piece;
	return 7;
}

static void test_identity(void **state)
{
	const struct quire_view_request request = {
	    .start = {ROM_GFN + 10}, .end = {ROM_GFN + 30}, .piece_pages = 512};
	struct quire_view_piece piece = {0};

	(void)state;
	vm_begin();
	map_pages(0, 200, SIM_WRITABLE);
	add_region(3, ROM_GFN, 100, 50, QUIRE_SLOT_READONLY);
	assert_int_equal(quire_vm_view(machine.vm, &request, take_identity, &piece), 7);
	assert_int_equal(piece.slot_id, 3);
	assert_int_equal(piece.as_id, 0);
	assert_int_equal(piece.flags, QUIRE_SLOT_READONLY);
	assert_int_equal(piece.gfn.v, ROM_GFN + 10);
	assert_int_equal(piece.npages, 20);
	assert_int_equal(piece.hva.v, sim_hva(110).v);
	assert_int_equal(quire_vm_view_slots(machine.vm, 0, take_identity, &piece), 7);
	assert_int_equal(piece.gfn.v, ROM_GFN);
	assert_int_equal(piece.npages, 50);
	assert_int_equal(quire_vm_view_slots(machine.vm, QUIRE_AS_MAX, take, NULL), -EINVAL);
	vm_end();
}

static void test_log(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 300, SIM_WRITABLE);
	add_slot(0, 300, QUIRE_SLOT_LOG_DIRTY);
	for (uint32_t page = 0; page < 300; page += 61)
		store(page, 1);
	/* The last page of a word, too. */
	store(63, 1);
	is_as_page_by_page(0, 300, 6);
	assert_int_equal(view_of(61, 123, 1000).sum.logged, 3);
	assert_int_equal(view_of(62, 122, 1000).sum.logged, 1);
	assert_int_equal(view_of(64, 122, 1000).sum.logged, 0);
	assert_int_equal(log_harvest(0), 6);
	is_as_page_by_page(0, 300, 0);
	store(61, 2);
	is_as_page_by_page(0, 300, 1);
	/* The first page of the next word. */
	store(64, 2);
	assert_int_equal(view_of(61, 100, 1000).sum.logged, 2);
	assert_int_equal(view_of(63, 65, 1000).sum.logged, 1);
	/* And its last one. */
	store(127, 2);
	assert_int_equal(view_of(64, 128, 1000).sum.logged, 2);
	assert_int_equal(view_of(127, 129, 1000).sum.logged, 1);
	vm_end();
}

/* What was used before the guest's pages were aged, and not since, is old. */
static void test_young(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, 0);
	for (uint32_t page = 0; page < 5; page++)
		store(page, 1);
	assert_int_equal(view_of(0, 8, 3).sum.young, 5);
	assert_int_equal(quire_vm_age(machine.vm, sim_hva(1), sim_hva(4), QUIRE_AGE_CLEAR), 1);
	is_as_page_by_page(0, 8, 0);
	assert_int_equal(view_of(0, 8, 3).sum.young, 2);
	assert_int_equal(view_of(0, 8, 3).sum.mapped[QUIRE_LEVEL_4K], 5);
	vm_end();
}

static struct quire_platform watching;
static uint32_t sections; /* until the slot is replaced */

/* The thread is about to enter a section: others may change the slots before it does. */
static struct quire_thread *self_after_a_change(void)
{
	struct quire_thread *self = sched_platform.self();
	const struct quire_region gone = {.slot = 0};

	if (!sections || self->nesting || self->held_count || --sections)
		return self;
	assert_int_equal(quire_vm_set_region(machine.vm, &gone), 0);
	add_slot(0, 10, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){10}), PAGES(90),
						 QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	return self;
}

/* A slot that is shorter by the time its pages are counted: what is behind it is in no slot. */
static void test_slot_shrinks_meanwhile(void **state)
{
	uint32_t when = 0;

	(void)state;
	do {
		vm_begin_type(QUIRE_VM_SW_PROTECTED);
		map_pages(0, 100, SIM_WRITABLE);
		add_slot(0, 100, QUIRE_SLOT_LOG_DIRTY);
		store(3, 1);
		watching = sched_platform;
		watching.self = self_after_a_change;
		sections = ++when;
		quire_platform_install(&watching);
		assert_int_equal(view_of(0, 100, 1000).sum.private_pages, 0);
		quire_platform_install(&sched_platform);
		vm_end();
	} while (!sections);
	/* At least before the slot is found, and before its pages are counted. */
	assert_true(when > 2);
	sections = 0;
}

static void test_huge(void **state)
{
	struct quire_view_tables tables;

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	map_pages(SIM_BLOCK, 40, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK + 40, 0);
	store(100, 1);
	store(SIM_BLOCK + 5, 1);
	is_as_page_by_page(0, SIM_BLOCK + 40, 0);
	/* Of a large leaf, what is in the range. */
	assert_int_equal(view_of(500, 520, 1).sum.mapped[QUIRE_LEVEL_2M], 12);
	/* It is no table. */
	assert_int_equal(quire_vm_view_tables(machine.vm, &tables), 0);
	assert_int_equal(tables.tdp[QUIRE_LEVEL_4K], 1);
	assert_int_equal(tables.tdp[QUIRE_LEVEL_2M], 1);
	totals_are_those_of_the_counters();
	vm_end();
}

static void test_private(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, FILE_GFN, 600);
	store(FILE_GFN + 5, 1);
	store(FILE_GFN + 520, 1);
	is_as_page_by_page(FILE_GFN, FILE_GFN + 600, 0);
	assert_int_equal(view_of(0, UINT64_MAX, 1).sum.private_pages, 600);
	convert(FILE_GFN + 100, 77, 0);
	convert(FILE_GFN + 550, 3, 0);
	(void)load(FILE_GFN + 300);
	is_as_page_by_page(FILE_GFN, FILE_GFN + 600, 0);
	assert_int_equal(view_of(0, UINT64_MAX, 1).sum.private_pages, 520);
	totals_are_those_of_the_counters();
	gmem_end();
}

static void test_tables(void **state)
{
	struct quire_view_tables before, after;
	uint64_t root;

	(void)state;
	vm_begin();
	root = machine.vm->tdp_format.root_level;
	map_pages(0, 200, SIM_WRITABLE);
	add_slot(0, 100, 0);
	add_region(2, ROM_GFN, 100, 50, QUIRE_SLOT_READONLY);
	assert_int_equal(quire_vm_view_tables(machine.vm, &before), 0);
	assert_int_equal(before.tdp[QUIRE_LEVEL_4K], 0);
	store(0, 1);
	store(99, 1);
	(void)load(ROM_GFN);
	assert_int_equal(quire_vm_view_tables(machine.vm, &after), 0);
	assert_int_equal(after.tdp[QUIRE_LEVEL_4K], 2);
	assert_int_equal(after.tdp[QUIRE_LEVEL_2M], 1);
	assert_int_equal(after.tdp[root], entry_root_tables(&machine.vm->tdp_format));
	assert_true(after.used >= 3 + after.tdp[root]);
	assert_true(after.taken_bytes >= PAGES(after.used));
	assert_int_equal(after.shadow_pages, 0);
	vm_end();
}

static void test_bad_requests(void **state)
{
	struct quire_view_request request = {.end = {100}, .piece_pages = 1};

	(void)state;
	vm_begin();
	request.as_id = 7;
	assert_int_equal(quire_vm_view(machine.vm, &request, take, NULL), -EINVAL);
	request.as_id = QUIRE_AS_MAX;
	assert_int_equal(quire_vm_view(machine.vm, &request, take, NULL), -EINVAL);
	request = (struct quire_view_request){.end = {100}};
	assert_int_equal(quire_vm_view(machine.vm, &request, take, NULL), -EINVAL);
	request = (struct quire_view_request){.start = {101}, .end = {100}, .piece_pages = 1};
	assert_int_equal(quire_vm_view(machine.vm, &request, take, NULL), -EINVAL);
	/* Of nothing there is nothing to show. */
	request = (struct quire_view_request){.start = {100}, .end = {100}, .piece_pages = 1};
	assert_int_equal(quire_vm_view(machine.vm, &request, take, NULL), 0);
	vm_end();
}

static struct {
	uint64_t gfn, npages;
} borders[8];
static uint32_t border_count, dies_at;

static int note_border(void *ctx, const struct quire_view_piece *piece)
{
	assert_int_equal(piece->as_id, *(const uint32_t *)ctx);
	assert_in_range(border_count, 0, 7);
	borders[border_count].gfn = piece->gfn.v;
	borders[border_count].npages = piece->npages;
	border_count++;
	if (border_count == dies_at)
		vm_poison(machine.vm);
	return 0;
}

/* Pieces end where a multiple of their size does, where a slot does, and where the request does. */
static void test_borders(void **state)
{
	static const uint64_t expected[][2] = {{5, 59}, {64, 64}, {128, 22}, {192, 8}};
	struct quire_view_request request = {.start = {5}, .end = {200}, .piece_pages = 64};

	(void)state;
	for (request.as_id = 0; request.as_id < QUIRE_AS_MAX; request.as_id++) {
		vm_begin();
		map_pages(0, 300, SIM_WRITABLE);
		add_region(request.as_id << 16 | 1, 0, 0, 150, 0);
		add_region(request.as_id << 16 | 2, 192, 150, 100, 0);
		border_count = dies_at = 0;
		assert_int_equal(quire_vm_view(machine.vm, &request, note_border, &request.as_id),
				 0);
		assert_int_equal(border_count, 4);
		for (uint32_t i = 0; i < 4; i++) {
			assert_int_equal(borders[i].gfn, expected[i][0]);
			assert_int_equal(borders[i].npages, expected[i][1]);
		}
		border_count = 0;
		assert_int_equal(
		    quire_vm_view_slots(machine.vm, request.as_id, note_border, &request.as_id), 0);
		assert_int_equal(border_count, 2);
		assert_int_equal(borders[1].gfn, 192);
		assert_int_equal(borders[1].npages, 100);
		vm_end();
	}
}

/* A VM that dies while its picture is taken says so, and shows no more. */
static void test_dies_meanwhile(void **state)
{
	struct quire_view_request request = {.end = {200}, .piece_pages = 64};

	(void)state;
	vm_begin();
	map_pages(0, 200, SIM_WRITABLE);
	add_region(1, 0, 0, 100, 0);
	add_region(2, 100, 100, 100, 0);
	for (dies_at = 1; dies_at < 3; dies_at++) {
		border_count = 0;
		assert_int_equal(quire_vm_view(machine.vm, &request, note_border, &request.as_id),
				 -EIO);
		assert_int_equal(border_count, dies_at);
		/* Nor does it show anything when it is dead. */
		assert_int_equal(quire_vm_view(machine.vm, &request, note_border, &request.as_id),
				 -EIO);
		assert_int_equal(border_count, dies_at);
		machine.vm->dead = 0;
		border_count = 0;
		assert_int_equal(quire_vm_view_slots(machine.vm, 0, note_border, &request.as_id),
				 -EIO);
		assert_int_equal(border_count, dies_at);
		assert_int_equal(quire_vm_view_slots(machine.vm, 0, note_border, &request.as_id),
				 -EIO);
		assert_int_equal(border_count, dies_at);
		machine.vm->dead = 0;
	}
	dies_at = 0;
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_holes_and_rom),
	    cmocka_unit_test(test_identity),
	    cmocka_unit_test(test_log),
	    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_private),
	    cmocka_unit_test(test_tables),
	    cmocka_unit_test(test_bad_requests),
	    cmocka_unit_test(test_young),
	    cmocka_unit_test(test_slot_shrinks_meanwhile),
	    cmocka_unit_test(test_borders),
	    cmocka_unit_test(test_dies_meanwhile),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
