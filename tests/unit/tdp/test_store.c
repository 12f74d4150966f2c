/* The store gateway: every transition of an entry, and what it counts, unlinks and owes. */
#include "tests/unit/support.h"

#include <quire/trace.h>

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

/* What an entry can hold. Leaves of frame A or B, with rights of W and X and the bits A and D. */
enum kind { EMPTY, FROZEN, MMIO, TABLE, LEAF };

struct word {
	enum kind kind;
	bool other_frame, writable, executable, accessed;
};

#define LEAVES 16u
#define WORDS (LEAF + LEAVES)

static struct table_cache tables;
static struct table *holder, *below;
static uint64_t leaves[5];
static unsigned int reports;

static void note_report(const char *text)
{
	(void)text;
	reports++;
}

/* A table of the lowest level is there; returns its entries. */
static uint64_t *holder_take(void)
{
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 1), 0);
	holder = table_cache_take(&tables);
	*holder = (struct table){.level = 1};
	return table_entries(holder);
}

static struct word word_of(unsigned int which)
{
	unsigned int bits = which - LEAF;

	if (which < LEAF)
		return (struct word){.kind = (enum kind)which};
	return (struct word){LEAF, bits & 1, bits & 2, bits & 4, bits & 8};
}

static uint64_t make(const struct word *word, uint32_t level)
{
	const struct entry_format *f = &machine.vm->tdp_format;
	struct entry_leaf leaf = {
	    .pfn = {level_pages((enum quire_level)level) * (word->other_frame ? 2 : 1)},
	    .level = level,
	    .writable = word->writable,
	    .mmu_writable = true,
	    .host_writable = true,
	    .executable = word->executable,
	    .accessed = word->accessed,
	};

	switch (word->kind) {
	case EMPTY:
		return f->nonpresent;
	case FROZEN:
		return f->frozen;
	case MMIO:
		return entry_make_mmio(f, (gfn_t){5}, 3);
	case TABLE:
		return entry_make_table(f, table_entries(below));
	case LEAF:
		break;
	}
	return entry_make_leaf(f, &leaf);
}

/* Without A bits what was aged has no W. */
static bool has_w(const struct word *word)
{
	return word->writable && (word->accessed || machine.format != QUIRE_FORMAT_EPT_NO_AD);
}

/* The flush rules, one line each. */
static bool must_flush(const struct word *old, const struct word *new)
{
	if (old->kind < TABLE)
		return false; /* nothing was present */
	if (new->kind < TABLE)
		return true; /* a leaf or a table went */
	if (old->kind == TABLE)
		return true; /* a table became a leaf */
	if (new->kind == TABLE)
		return false; /* split: the children map the same */
	/* A right was lost; A and D are no rights, and X that waits is X. */
	return (has_w(old) && !has_w(new)) || (old->executable && !new->executable);
}

/* What must never happen: a present entry that turns into another page, and a store of nothing
 * over nothing. */
static bool is_forbidden(const struct word *old, const struct word *new)
{
	if (old->kind == LEAF && new->kind == LEAF)
		return old->other_frame != new->other_frame;
	return old->kind == EMPTY && new->kind == EMPTY;
}

/* What no operation does: one table for another, and MMIO above the lowest level. */
static bool is_possible(const struct word *old, const struct word *new, uint32_t level)
{
	if (level == QUIRE_LEVEL_4K && (old->kind == TABLE || new->kind == TABLE))
		return false;
	if (level > QUIRE_LEVEL_4K && (old->kind == MMIO || new->kind == MMIO))
		return false;
	return old->kind != TABLE || new->kind != TABLE;
}

static uint64_t events, event[5];

static void record(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_tdp_mmu_spte_changed)
		return;
	events++;
	memcpy(event, args, sizeof(event));
}

static void check_accounts(const struct flush_debt *debt, const struct word *old,
			   const struct word *new, uint32_t level)
{
	bool forbidden = is_forbidden(old, new), unlinked = old->kind == TABLE;

	assert_int_equal(reports, forbidden);
	assert_int_equal(quire_vm_is_dead(machine.vm), forbidden);
	assert_int_equal(debt->owed, must_flush(old, new));
	assert_int_equal(debt->table_count, unlinked);
	assert_ptr_equal(debt->tables, unlinked ? below : NULL);
	for (uint32_t i = 1; i <= 3; i++)
		assert_int_equal((int64_t)leaves[i],
				 i == level ? (new->kind == LEAF) - (old->kind == LEAF) : 0);
}

static void check_change(const struct word *old, const struct word *new, uint32_t level)
{
	struct flush_debt debt;
	struct tdp_change change = {.vm = machine.vm, .leaves = leaves, .debt = &debt};
	uint64_t from = make(old, level), to = make(new, level), seen = from ^ 1 << 8;
	uint64_t *entry = &table_entries(holder)[7];

	holder->level = (uint8_t)level;
	*entry = from;
	memset(leaves, 0, sizeof(leaves));
	reports = 0;
	events = 0;
	flush_debt_init(&debt, &machine.vm->flush);
	/* Another thread was faster: nothing has happened, and what is there is said. */
	assert_int_equal(tdp_change_entry(&change, entry, level, &seen, to), TDP_LOST);
	assert_int_equal(seen, from);
	assert_int_equal(*entry, from);
	assert_false(debt.owed || debt.tables || leaves[level] || events);

	assert_int_equal(tdp_change_entry(&change, entry, level, &seen, to), TDP_TRACED);
	assert_int_equal(*entry, to);
	check_accounts(&debt, old, new, level);
	assert_int_equal(events, 1);
	assert_int_equal(event[0], 7 * level_pages((enum quire_level)level));
	assert_int_equal(event[1], from);
	assert_int_equal(event[2], to);
	assert_int_equal(event[3], level);
	assert_int_equal(event[4], 1);
	machine.vm->dead = 0;
}

static void test_transitions(void **state)
{
	unsigned int done = 0;

	(void)state;
	vm_begin();
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 2), 0);
	holder = table_cache_take(&tables);
	below = table_cache_take(&tables);
	*holder = *below = (struct table){.level = 0, .as_id = 1};
	quire_trace_install(record);
	sched_on_report(note_report);
	for (uint32_t level = 1; level <= 3; level++)
		for (unsigned int which = 0; which < WORDS * WORDS; which++) {
			struct word old = word_of(which / WORDS), new = word_of(which % WORDS);

			if (!is_possible(&old, &new, level))
				continue;
			biglock_write_lock(&machine.vm->mmu_lock);
			check_change(&old, &new, level);
			biglock_write_unlock(&machine.vm->mmu_lock);
			done++;
		}
	sched_on_report(NULL);
	quire_trace_install(NULL);
	assert_int_equal(done, (19 * 19) + 2 * (19 * 19 - 1));
	table_cache_put(&tables, holder);
	table_cache_put(&tables, below);
	table_cache_drain(&tables, &machine.vm->arena);
	vm_end();
}

/* The guest's kernel and its programs have a bit each to execute: a flush is owed for either. */
static void test_either_execute_bit(void **state)
{
	const struct word leaf = {.kind = LEAF, .executable = true};
	uint64_t bits[2];

	(void)state;
	vm_begin();
	bits[0] = machine.vm->tdp_format.executable;
	bits[1] = machine.vm->tdp_format.executable_user;
	(void)holder_take();
	for (unsigned int i = 0; i < 2 && bits[1]; i++) {
		struct flush_debt debt;
		const struct tdp_change change = {
		    .vm = machine.vm, .leaves = leaves, .debt = &debt};
		uint64_t *entry = table_entries(holder), was = make(&leaf, 1);

		*entry = was;
		flush_debt_init(&debt, &machine.vm->flush);
		biglock_write_lock(&machine.vm->mmu_lock);
		assert_int_equal(tdp_change_entry(&change, entry, 1, &was, was & ~bits[i]),
				 TDP_DONE);
		assert_true(debt.owed);
		flush_debt_init(&debt, &machine.vm->flush);
		was = *entry;
		assert_int_equal(tdp_change_entry(&change, entry, 1, &was, was | bits[i]),
				 TDP_DONE);
		assert_false(debt.owed);
		biglock_write_unlock(&machine.vm->mmu_lock);
	}
	table_cache_put(&tables, holder);
	table_cache_drain(&tables, &machine.vm->arena);
	vm_end();
}

/* A leaf that allows reading alone has no right to lose, and its page is used again all the same.
 */
static void test_read_only_leaf_goes(void **state)
{
	struct flush_debt debt;
	struct tdp_change change = {.leaves = leaves, .debt = &debt};
	const struct entry_leaf leaf = {.pfn = {1}, .level = 1, .accessed = true};
	uint64_t *entry, was;

	(void)state;
	vm_begin();
	change.vm = machine.vm;
	entry = holder_take();
	*entry = was = entry_make_leaf(&machine.vm->tdp_format, &leaf);
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	assert_int_equal(
	    tdp_change_entry(&change, entry, 1, &was, machine.vm->tdp_format.nonpresent), TDP_DONE);
	biglock_write_unlock(&machine.vm->mmu_lock);
	assert_true(debt.owed);
	table_cache_put(&tables, holder);
	table_cache_drain(&tables, &machine.vm->arena);
	vm_end();
}

/* Where aging takes W, a TLB may have W of any entry: the flush is owed whatever is found. */
static void test_protect_owes_for_aged(void **state)
{
	struct flush_debt debt;

	(void)state;
	vm_begin();
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	(void)tdp_write_protect_range(machine.vm, 0, (gfn_t){0}, (gfn_t){64}, &debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
	assert_int_equal(debt.owed, entry_ages_by_rights(&machine.vm->tdp_format));
	if (machine.format == QUIRE_FORMAT_EPT_NO_AD)
		assert_true(debt.owed);
	vm_end();
}

static void protect(int exclusive, const struct tdp_change *change, uint64_t *entries,
		    uint64_t mask)
{
	if (exclusive) {
		biglock_write_lock(&machine.vm->mmu_lock);
		tdp_protect_entries(change, entries, mask);
		biglock_write_unlock(&machine.vm->mmu_lock);
		return;
	}
	biglock_read_lock(&machine.vm->mmu_lock, NULL);
	reclaim_enter();
	tdp_protect_entries(change, entries, mask);
	reclaim_leave();
	biglock_read_unlock(&machine.vm->mmu_lock, NULL);
}

/* A processor, or a program that counts writes by itself, decides of D: W goes without it, too. */
static void check_without_dirty(int exclusive, const struct tdp_change *change, uint64_t *entries,
				uint64_t leaf)
{
	const struct entry_format *f = &machine.vm->tdp_format;

	for (unsigned int others = 0; others < 2; others++) {
		flush_debt_init(change->debt, &machine.vm->flush);
		for (unsigned int i = 0; i < 64; i++)
			entries[i] = i == 9 ? leaf & ~f->dirty : others ? leaf : f->nonpresent;
		protect(exclusive, change, entries, UINT64_MAX);
		for (unsigned int i = 0; i < 64; i++)
			assert_false(entry_is_writable(f, entries[i]) || (entries[i] & f->dirty));
		assert_true(change->debt->owed);
	}
}

/* W and D go together, mmu_writable stays, and nothing is owed where there was nothing to take. */
static void test_protect(void **state)
{
	struct flush_debt debt;
	struct tdp_change change = {.vm = machine.vm, .leaves = leaves, .debt = &debt};
	/* The first and the last entry of a mask are done apart: entry 9 is neither in the last. */
	const uint64_t nine = UINT64_C(1) << 9,
		       masks[] = {UINT64_MAX, nine, nine | UINT64_C(1) << 3 | UINT64_C(1) << 20};
	uint64_t *entries;

	(void)state;
	vm_begin();
	change.vm = machine.vm;
	entries = holder_take();
	for (int exclusive = 0; exclusive < 2; exclusive++)
		for (unsigned int which = 0; which < WORDS * 3; which++) {
			struct word word = word_of(which / 3);
			uint64_t mask = masks[which % 3], was;

			if (word.kind == TABLE)
				continue;
			for (unsigned int i = 0; i < 64; i++)
				entries[i] = machine.vm->tdp_format.nonpresent;
			entries[9] = was = make(&word, 1);
			flush_debt_init(&debt, &machine.vm->flush);
			protect(exclusive, &change, entries, mask);
			assert_int_equal(debt.owed, word.kind == LEAF && has_w(&word));
			word.writable = false;
			assert_int_equal(entries[9], make(&word, 1));
			/* What is not named keeps its W. */
			entries[9] = was;
			flush_debt_init(&debt, &machine.vm->flush);
			protect(exclusive, &change, entries, mask & ~nine);
			assert_int_equal(entries[9], was);
			assert_false(debt.owed);
			if (word.kind == LEAF && entry_is_writable(&machine.vm->tdp_format, was))
				check_without_dirty(exclusive, &change, entries, was);
		}
	table_cache_put(&tables, holder);
	table_cache_drain(&tables, &machine.vm->arena);
	vm_end();
}

/* A word of writable leaves, but for one place that may hold MMIO's bits, and the word behind it:
 * what was not asked for stays. */
static void test_protect_whole_word(void **state)
{
	struct flush_debt debt;
	struct tdp_change change = {.leaves = leaves, .debt = &debt};
	const struct word writable = {.kind = LEAF, .writable = true, .accessed = true};
	uint64_t *entries, leaf, mmio;

	(void)state;
	vm_begin();
	change.vm = machine.vm;
	entries = holder_take();
	leaf = make(&writable, 1);
	mmio = entry_make_mmio(&machine.vm->tdp_format, (gfn_t){5}, UINT32_MAX);
	/* The last time it is in the other word. */
	for (unsigned int place = 0; place < 65; place++) {
		for (unsigned int i = 0; i < 128; i++)
			entries[i] = i == place ? mmio : leaf;
		flush_debt_init(&debt, &machine.vm->flush);
		protect(1, &change, entries, UINT64_MAX);
		assert_true(debt.owed);
		for (unsigned int i = 0; i < 64; i++)
			if (i != place)
				assert_false(
				    entry_is_writable(&machine.vm->tdp_format, entries[i]));
		assert_int_equal(entries[place], mmio);
		assert_int_equal(entries[place == 64 ? 65 : 64], leaf);
	}
	table_cache_put(&tables, holder);
	table_cache_drain(&tables, &machine.vm->arena);
	vm_end();
}

static uint64_t told[4][3];

static void record_each(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_tdp_mmu_spte_changed)
		return;
	assert_in_range(events, 0, 3);
	memcpy(told[events++], args, sizeof(told[0]));
}

/* A listener is told of each leaf that loses W, once, however mmu_lock is held. */
static void test_protect_is_traced(void **state)
{
	const struct word writable = {.kind = LEAF, .writable = true, .accessed = true};
	static const uint64_t which[] = {3, 9, 40};
	struct flush_debt debt;
	struct tdp_change change = {.leaves = leaves, .debt = &debt};
	uint64_t *entries, was, mask = 0;

	(void)state;
	vm_begin();
	change.vm = machine.vm;
	entries = holder_take();
	was = make(&writable, 1);
	for (size_t i = 0; i < 3; i++)
		mask |= UINT64_C(1) << which[i];
	for (int exclusive = 0; exclusive < 2; exclusive++) {
		for (unsigned int i = 0; i < 64; i++)
			entries[i] = i % 2 || i == 40 ? was : machine.vm->tdp_format.nonpresent;
		flush_debt_init(&debt, &machine.vm->flush);
		events = 0;
		quire_trace_install(record_each);
		/* What is not present has no W to lose. */
		protect(exclusive, &change, entries, mask | 1);
		quire_trace_install(NULL);
		assert_true(debt.owed);
		assert_int_equal(events, 3);
		for (size_t i = 0; i < 3; i++) {
			assert_int_equal(told[i][0], which[i]);
			assert_int_equal(told[i][1], was);
			assert_int_equal(told[i][2], entries[which[i]]);
			assert_false(entry_is_writable(&machine.vm->tdp_format, told[i][2]));
		}
		assert_int_equal(entries[5], was);
	}
	table_cache_put(&tables, holder);
	table_cache_drain(&tables, &machine.vm->arena);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_transitions),
	    cmocka_unit_test(test_either_execute_bit),
	    cmocka_unit_test(test_read_only_leaf_goes),
	    cmocka_unit_test(test_protect),
	    cmocka_unit_test(test_protect_whole_word),
	    cmocka_unit_test(test_protect_owes_for_aged),
	    cmocka_unit_test(test_protect_is_traced),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
