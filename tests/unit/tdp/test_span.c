/*
 * Which pages a span of a log write-protects: those that it names and no others, wherever its words
 * begin and whatever maps them.
 */
#include "tests/unit/support.h"

#include <quire/trace.h>

#include "src/base/reclaim.h"
#include "src/dirty/span.h"
#include "src/tdp/tdp.h"

#define WORDS 4u
#define FIRST 384u /* of the pages that are used; the table after theirs begins at SIM_BLOCK */
#define END (SIM_BLOCK + 192u)

/* Where spans begin: at a table's word, beside it, and so that a word has the end of a table. */
static const uint64_t bases[] = {FIRST, FIRST + 1, FIRST + 10, FIRST + 63};
/* What they name, by offset from there; UINT32_MAX ends a row. */
static const uint32_t names[][6] = {
    {0, UINT32_MAX},
    {63, UINT32_MAX},
    {64, 127, UINT32_MAX},
    {0, 63, 64, 128, 255, UINT32_MAX},
    {117, 118, 119, 127, 128, UINT32_MAX},
    {126, 127, 128, 129, 191, UINT32_MAX},
    {200, 201, 202, 203, 204, UINT32_MAX},
};

static bool is_named(const uint64_t *masks, uint64_t base, uint64_t gfn)
{
	uint64_t bit = gfn - base;

	return gfn >= base && bit < 64u * WORDS && (masks[bit / 64] >> bit % 64 & 1);
}

/* Is any page of the block that one entry maps named? */
static bool is_covered(const uint64_t *masks, uint64_t base, uint64_t gfn)
{
	for (uint64_t page = SIM_BLOCK; gfn >= SIM_BLOCK && page < END; page++)
		if (is_named(masks, base, page))
			return true;
	return gfn < SIM_BLOCK && is_named(masks, base, gfn);
}

/* A word is found where the entries of all its pages are in one table, one after the other. */
static void check_found(const struct log_span *span)
{
	for (uint64_t i = 0; i < span->nonzero; i++) {
		uint64_t gfn = span->base.v + span->named[i].index * 64;
		uint32_t level;
		uint64_t *entry =
		    tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){gfn}, &level);

		if (level == QUIRE_LEVEL_4K && gfn % SIM_BLOCK + 64 <= SIM_BLOCK)
			assert_ptr_equal(span->named[i].entries, entry);
		else
			assert_null(span->named[i].entries);
	}
}

static void protect(uint64_t base, uint64_t *masks)
{
	struct log_word named[WORDS];
	struct log_span span = {.base = {base}, .words = WORDS, .masks = masks, .named = named};
	struct flush_debt debt;

	for (uint64_t word = 0; word < WORDS; word++)
		if (masks[word])
			named[span.nonzero++] = (struct log_word){.index = word};
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	tdp_find_span(machine.vm, &span);
	check_found(&span);
	tdp_protect_span(machine.vm, &span, &debt);
	assert_true(debt.owed);
	flush_debt_pay(&debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
}

static void check_names(bool is_huge, uint64_t base, const uint32_t *bits)
{
	uint64_t masks[WORDS] = {0};

	/* All can be written again. */
	for (uint64_t gfn = FIRST; gfn < END; gfn++)
		if (!writable_at(gfn))
			store(gfn, 5);
	for (; *bits != UINT32_MAX; bits++)
		masks[*bits / 64] |= UINT64_C(1) << *bits % 64;
	protect(base, masks);
	for (uint64_t gfn = FIRST; gfn < END; gfn++)
		assert_int_equal(!writable_at(gfn), is_huge ? is_covered(masks, base, gfn)
							    : is_named(masks, base, gfn));
}

static void check_spans(bool is_huge)
{
	vm_begin();
	/* So few of a block are no huge page of the host's. */
	map_pages(FIRST, SIM_BLOCK - FIRST, SIM_WRITABLE);
	if (is_huge)
		sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	else
		map_pages(SIM_BLOCK, END - SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	store(FIRST, 5);
	store(SIM_BLOCK, 5);
	assert_int_equal(level_at(SIM_BLOCK), is_huge ? QUIRE_LEVEL_2M : QUIRE_LEVEL_4K);
	for (size_t base = 0; base < sizeof(bases) / sizeof(bases[0]); base++)
		for (size_t row = 0; row < sizeof(names) / sizeof(names[0]); row++)
			check_names(is_huge, bases[base], names[row]);
	vm_end();
}

static void test_small(void **state)
{
	(void)state;
	check_spans(false);
}

/* The second table's block is one entry, which loses W with any of its pages. */
static void test_huge(void **state)
{
	(void)state;
	check_spans(true);
}

/* What a prefault and a write of two vCPUs do while a span is protected: see record(). */
static struct table_cache tables;
static unsigned int splits;

static void make_writable(uint64_t gfn)
{
	const struct entry_format *f = &machine.vm->tdp_format;
	uint32_t level;
	uint64_t *entry = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){gfn}, &level);

	assert_int_equal(level, QUIRE_LEVEL_4K);
	*entry |= f->writable | f->dirty;
}

/* Just when the huge leaf has lost W it is split, and two of its pages are written. */
static void record(enum quire_trace_event which, const uint64_t *args)
{
	gfn_t start = {SIM_BLOCK};

	if (which != QUIRE_TRACE_kvm_tdp_mmu_spte_changed || args[3] != QUIRE_LEVEL_2M || splits++)
		return;
	assert_int_equal(tdp_split_range(machine.vm, 0, &start, (gfn_t){SIM_BLOCK + 1}, &tables),
			 0);
	make_writable(SIM_BLOCK + 64 + 5);
	make_writable(SIM_BLOCK + 64 + 6);
}

/* The table that has come is looked into for the pages that are named from there on. */
static void test_split_meanwhile(void **state)
{
	struct log_word named[2] = {{.index = 0}, {.index = 1}};
	uint64_t masks[2] = {1, UINT64_C(1) << 5};
	struct log_span span = {
	    .base = {SIM_BLOCK}, .words = 2, .masks = masks, .nonzero = 2, .named = named};
	struct flush_debt debt;

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	store(SIM_BLOCK, 5);
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 1), 0);
	flush_debt_init(&debt, &machine.vm->flush);
	splits = 0;
	quire_trace_install(record);
	biglock_read_lock(&machine.vm->mmu_lock, NULL);
	reclaim_enter();
	tdp_find_span(machine.vm, &span);
	tdp_protect_span(machine.vm, &span, &debt);
	reclaim_leave();
	flush_debt_pay(&debt);
	biglock_read_unlock(&machine.vm->mmu_lock, NULL);
	quire_trace_install(NULL);
	table_cache_drain(&tables, &machine.vm->arena);
	leaves_are(0, 0, SIM_BLOCK);
	assert_false(writable_at(SIM_BLOCK) || writable_at(SIM_BLOCK + 64 + 5));
	assert_true(writable_at(SIM_BLOCK + 64 + 6));
	vm_end();
}

/* Where there are no tables nothing is found, and nothing is owed but for what was aged. */
static void test_no_tables(void **state)
{
	static const uint64_t bases[] = {0, SIM_BLOCK, SIM_GIGANTIC,
					 3 * (uint64_t)SIM_GIGANTIC + 5};

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	for (uint32_t has_root = 0; has_root < 2; has_root++) {
		for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
			/* So that it has to be said that there are none. */
			struct log_word named = {.index = 1, .entries = &named.index};
			uint64_t masks[2] = {0, 1};
			struct log_span span = {.base = {bases[i]},
						.words = 2,
						.masks = masks,
						.nonzero = 1,
						.named = &named};
			struct flush_debt debt;

			flush_debt_init(&debt, &machine.vm->flush);
			biglock_write_lock(&machine.vm->mmu_lock);
			tdp_find_span(machine.vm, &span);
			/* The page's own table has the first of these. */
			assert_int_equal(named.entries != NULL, has_root && i == 0);
			tdp_protect_span(machine.vm, &span, &debt);
			assert_int_equal(debt.owed, entry_ages_by_rights(&machine.vm->tdp_format));
			flush_debt_pay(&debt);
			biglock_write_unlock(&machine.vm->mmu_lock);
		}
		store(1, 5);
	}
	assert_true(writable_at(1));
	vm_end();
}

/* Of a range of any length each page loses W, and the pages beside it keep theirs. */
static void test_ranges(void **state)
{
	static const uint64_t starts[] = {FIRST, FIRST + 1, FIRST + 63, FIRST + 64},
			      lengths[] = {1, 2, 62, 63, 64, 65, 127, 128};

	(void)state;
	vm_begin();
	map_pages(FIRST, SIM_BLOCK - FIRST, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	for (uint64_t i = 0; i < 4 * 8; i++) {
		uint64_t start = starts[i / 8], end = start + lengths[i % 8];
		struct flush_debt debt;

		/* All can be written again: with W no page is faulted for. */
		for (uint64_t gfn = FIRST; end <= SIM_BLOCK && gfn < SIM_BLOCK; gfn++)
			if (!writable_at(gfn))
				store(gfn, 5);
		for (uint64_t hold = 0; end <= SIM_BLOCK && hold < 2; hold++) {
			flush_debt_init(&debt, &machine.vm->flush);
			biglock_write_lock(&machine.vm->mmu_lock);
			assert_int_equal(tdp_write_protect_range(machine.vm, 0, (gfn_t){start},
								 (gfn_t){end}, &debt)
					     .v,
					 end);
			/* The second time there is no W to take. */
			assert_int_equal(debt.owed,
					 !hold || entry_ages_by_rights(&machine.vm->tdp_format));
			flush_debt_pay(&debt);
			biglock_write_unlock(&machine.vm->mmu_lock);
			for (uint64_t gfn = FIRST; gfn < SIM_BLOCK; gfn++)
				assert_int_equal(writable_at(gfn), gfn < start || gfn >= end);
		}
	}
	vm_end();
}

/* A word with the end of one huge leaf and the beginning of another takes W from those it names. */
static void test_two_huge_leaves(void **state)
{
	static const uint64_t masks[] = {UINT64_C(1) << 0, UINT64_C(1) << 63, UINT64_C(1) << 10,
					 UINT64_C(1) << 9, UINT64_C(1) << 63 | 1};

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		uint64_t mask[WORDS] = {masks[i]};

		store(0, 5);
		store(SIM_BLOCK, 5);
		leaves_are(0, 2, 0);
		/* From bit 10 on the pages are the second leaf's. */
		protect(SIM_BLOCK - 10, mask);
		assert_int_equal(writable_at(0), !(masks[i] & 0x3ff));
		assert_int_equal(writable_at(SIM_BLOCK), !(masks[i] >> 10));
	}
	vm_end();
}

static struct quire_platform racing;
static uint64_t *raced; /* the entry that changes once, NULL: none */
static uint64_t lost_bits, tries[2];
static uint32_t try_count, taken_at;
static const struct table_cache *taken_from;

/* Another thread changes the entry just before this one does. */
static struct quire_thread *self_behind_another(void)
{
	/* The table for it is in hand, so it has read the entry. */
	if (raced && taken_from->count == taken_at) {
		*raced &= ~lost_bits;
		raced = NULL;
	}
	return sched_platform.self();
}

static void record_try(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_split_huge_page)
		return;
	assert_in_range(try_count, 0, 1);
	tries[try_count++] = args[3];
}

/* A split that lost goes on with the leaf that is there then, and with the table that it has. */
static void test_split_loses(void **state)
{
	struct table_cache cache = {0};
	gfn_t start = {SIM_BLOCK};
	uint64_t *entry;
	uint32_t level, count;

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	store(SIM_BLOCK, 5);
	assert_int_equal(table_cache_fill(&cache, &machine.vm->arena, 2), 0);
	count = cache.count;
	biglock_write_lock(&machine.vm->mmu_lock);
	entry = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){SIM_BLOCK}, &level);
	assert_int_equal(level, QUIRE_LEVEL_2M);
	lost_bits = machine.vm->tdp_format.writable | machine.vm->tdp_format.dirty;
	racing = sched_platform;
	racing.self = self_behind_another;
	try_count = 0;
	quire_trace_install(record_try);
	quire_platform_install(&racing);
	taken_from = &cache;
	taken_at = count - 1;
	raced = entry;
	assert_int_equal(tdp_split_range(machine.vm, 0, &start, (gfn_t){2 * SIM_BLOCK}, &cache), 0);
	quire_platform_install(&sched_platform);
	quire_trace_install(NULL);
	biglock_write_unlock(&machine.vm->mmu_lock);
	assert_int_equal(start.v, 2 * SIM_BLOCK);
	assert_int_equal(cache.count, count - 1);
	assert_int_equal(try_count, 2);
	assert_int_equal((int)tries[0], -EBUSY);
	assert_int_equal(tries[1], 0);
	leaves_are(0, 0, SIM_BLOCK);
	for (uint64_t gfn = SIM_BLOCK; gfn < 2 * SIM_BLOCK; gfn++)
		assert_false(writable_at(gfn));
	table_cache_drain(&cache, &machine.vm->arena);
	vm_end();
}

static uint32_t looks;

/* Another thread ages the huge leaf before the library looks for its thread so many times. */
static struct quire_thread *self_behind_aging(void)
{
	if (looks && !--looks)
		*raced &= ~lost_bits;
	return sched_platform.self();
}

/* Whenever a huge leaf is aged while it loses W, it loses W. */
static void test_protection_loses(void **state)
{
	uint32_t when = 0, level;

	(void)state;
	racing = sched_platform;
	racing.self = self_behind_aging;
	do {
		struct flush_debt debt;

		vm_begin();
		sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
		add_slot(0, 2 * SIM_BLOCK, 0);
		store(SIM_BLOCK, 5);
		lost_bits = machine.vm->tdp_format.marks & machine.vm->tdp_format.accessed;
		flush_debt_init(&debt, &machine.vm->flush);
		biglock_write_lock(&machine.vm->mmu_lock);
		raced =
		    tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){SIM_BLOCK}, &level);
		looks = ++when;
		quire_platform_install(&racing);
		(void)tdp_write_protect_range(machine.vm, 0, (gfn_t){SIM_BLOCK},
					      (gfn_t){2 * SIM_BLOCK}, &debt);
		quire_platform_install(&sched_platform);
		assert_false(entry_is_writable(&machine.vm->tdp_format, *raced));
		assert_true(looks || !(*raced & lost_bits));
		assert_true(debt.owed);
		flush_debt_pay(&debt);
		biglock_write_unlock(&machine.vm->mmu_lock);
		vm_end();
	} while (!looks);
	looks = 0;
	raced = NULL;
	/* At least before the range is looked at, and while its leaf is changed. */
	assert_true(when > 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_small),
	    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_split_meanwhile),
	    cmocka_unit_test(test_no_tables),
	    cmocka_unit_test(test_ranges),
	    cmocka_unit_test(test_split_loses),
	    cmocka_unit_test(test_protection_loses),
	    cmocka_unit_test(test_two_huge_leaves),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 0);
}
