/* Taking write permission away, for dirty logging. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/vm/locks.h"
#include "src/walk/range.h"

/*
 * How write permission is taken. The kernels, of which each is for one case:
 *   mmu_lock shared    protect_shared()   a compare-exchange an entry
 *   exclusive          protect_all()      64 entries, in vectors
 *                      protect_alone()    one or two entries, without a branch that mispredicts
 *                      protect_each()     the rest of what protect_alone() began
 *
 * A plain store may fall between a walker's load and its setting of A or D. The walker's
 * compare-exchange fails then, or came before and its A or D is lost. D goes with W in any case,
 * and a lost A makes a page look older than it is, as an aging at that moment would.
 * An entry with all of @needed keeps @kept alone. For vectors, @lower is the lower one of W and D;
 * @to_needed and @to_upper say how far above it the bits stand.
 */
struct protector {
	const struct entry_format *format;
	u64 needed, kept;
	u64 lower;
	u64 assumed; /* of @lower: it is not asked for */
	u32 to_needed, to_upper;
	bool alone;
	bool closed; /* no vCPU is in guest mode: for mutants */
};

/* May entries be written plainly? Processors may, with A and D. A trace wants to know of each. */
static bool writes_alone(const struct quire_vm *vm)
{
	CHECK(biglock_is_exclusive(&vm->mmu_lock) || !flush_domain_is_closed(&vm->flush));
	return biglock_is_exclusive(&vm->mmu_lock) && !quire_trace_is_on();
}

static struct protector protector_of(const struct quire_vm *vm)
{
	const struct entry_format *f = &vm->tdp_format;
	/* Without D it is W itself. */
	u64 dirty = f->dirty ? f->dirty : f->writable;
	u64 lower = dirty < f->writable ? dirty : f->writable, upper = lower ^ dirty ^ f->writable;
	/* Set in each leaf that has W, and in no other word that has it: W itself where the
	 * format's own words have none. */
	u64 present = f->present > f->writable ? f->present : f->writable;
	u32 at = (u32)__builtin_ctzll(lower);

	return (struct protector){
	    .format = f,
	    .lower = lower,
	    /* W says it all where it stands above D, whatever D is. */
	    .assumed = lower & ~f->writable,
	    .to_needed = (u32)__builtin_ctzll(present) - at,
	    .to_upper = (u32)__builtin_ctzll(upper ? upper : lower) - at,
	    .needed = f->present | f->writable,
	    .kept = ~(f->writable | f->dirty),
	    .alone = writes_alone(vm),
	    .closed = flush_domain_is_closed(&vm->flush),
	};
}

/* What @old may keep; one of few: a comparison costs less than shifts. */
static inline u64 protect_kept(u64 old, const struct protector *by)
{
	return (old & by->needed) == by->needed ? by->kept : UINT64_MAX;
}

#ifdef QUIRE_CHECK
/* For CHECK(): may a processor write through @entry? */
static bool is_writable_leaf(u64 entry, const struct protector *by)
{
	return entry_is_present(by->format, entry) && entry_is_writable(by->format, entry);
}
#endif

/* One of 64: shifting is what vectors can do. */
static inline u64 protect_plainly(u64 *entry, const struct protector *by)
{
	u64 old = sole_writer_load_u64(entry);
	u64 hit = (old | by->assumed) & (old >> by->to_needed) & by->lower;

	CHECK(!hit == (protect_kept(old, by) == UINT64_MAX));
	/* Another thread's store here would be lost: let the scheduler try. */
	ATOMIC_POINT(entry);
	sole_writer_store_u64(entry, old & ~(hit | hit << by->to_upper));
	return hit;
}

/*
 * Mostly all 64 are writable leaves, and what is true of all need not be asked of each. Only an
 * aging or a walker may come between the two loops: what they changed stays, but for A and D.
 */
static u64 protect_all(const struct protector *by, u64 *entries)
{
	u64 any = 0, common = UINT64_MAX, kept = by->kept;

	for (u32 i = 0; i < 64; i++)
		common &= sole_writer_load_u64(&entries[i]);
	if (likely((common & by->needed) == by->needed)) {
		for (u32 i = 0; i < 64; i++) {
			ATOMIC_POINT(&entries[i]);
			sole_writer_store_u64(&entries[i],
					      sole_writer_load_u64(&entries[i]) & kept);
			CHECK(!is_writable_leaf(sole_writer_load_u64(&entries[i]), by));
		}
		return common & by->needed;
	}
	/* The compiler makes vectors of this loop. */
	for (u32 i = 0; i < 64; i++)
		any |= protect_plainly(&entries[i], by);
	return any;
}

static u64 protect_each(const struct protector *by, u64 *entries, u64 mask)
{
	u64 kept = UINT64_MAX;

	CHECK(by->alone);
	for (; mask; mask &= mask - 1) {
		u64 *entry = &entries[__builtin_ctzll(mask)];
		u64 old = sole_writer_load_u64(entry), keep = protect_kept(old, by);

		ATOMIC_POINT(entry);
		sole_writer_store_u64(entry, old & keep);
		CHECK(!is_writable_leaf(sole_writer_load_u64(entry), by));
		kept &= keep;
	}
	return ~kept;
}

/*
 * mmu_lock is exclusive. Mostly the mask names one entry or two, and a branch
 * on which of the two mispredicts: so the lowest and the highest are done without asking whether
 * they are the same, both loaded before the first is stored.
 */
static inline u64 protect_alone(const struct protector *by, u64 *entries, u64 mask)
{
	u64 *lowest, *highest, low, high, low_kept, high_kept, any;

	if (unlikely(mask == UINT64_MAX))
		return protect_all(by, entries);
	if (unlikely(!mask))
		return 0;
	lowest = &entries[__builtin_ctzll(mask)];
	highest = &entries[63 - __builtin_clzll(mask)];
	low = sole_writer_load_u64(lowest);
	high = sole_writer_load_u64(highest);
	low_kept = protect_kept(low, by);
	high_kept = protect_kept(high, by);
	ATOMIC_POINT(lowest);
	sole_writer_store_u64(lowest, low & low_kept);
	sole_writer_store_u64(highest, high & high_kept);
	CHECK(by->alone && !is_writable_leaf(sole_writer_load_u64(lowest), by) &&
	      !is_writable_leaf(sole_writer_load_u64(highest), by));
	any = ~(low_kept & high_kept);
	mask &= mask - 1;
	if (unlikely(mask & (mask - 1)))
		any |= protect_each(by, entries, mask);
	return any;
}

static u64 protect_shared(const struct protector *by, u64 *entries, u64 mask)
{
	const struct entry_format *f = by->format;
	u64 any = 0;

	CHECK(!by->alone);
	for (; mask; mask &= mask - 1) {
		u64 *entry = &entries[__builtin_ctzll(mask)];
		u64 old = atomic_load_relaxed_u64(entry);

		/* A failed compare-exchange is a walker that set A or D, or another change. */
		while (entry_is_present(f, old) && entry_is_writable(f, old)) {
			u64 new = old & ~(f->writable | f->dirty);

			CHECK(entry_same_pfn(f, new, old));
			any = 1;
			if (!atomic_cmpxchg_relaxed_u64(entry, &old, new))
				continue;
			if (quire_trace_is_on())
				tdp_trace_change(entry, old, new);
			break;
		}
	}
	return any;
}

/* Nonzero: a flush is owed. */
static inline u64 protect_some(const struct protector *by, u64 *entries, u64 mask)
{
	u64 any;

	if (by->closed ? MUTANT(alone_unarmed) : MUTANT(shared_unarmed))
		return 0;
	any = by->alone ? protect_alone(by, entries, mask) : protect_shared(by, entries, mask);
	return (by->closed ? MUTANT(alone_unflushed) : MUTANT(shared_unflushed)) ? 0 : any;
}

void tdp_protect_entries(const struct tdp_change *change, u64 *entries, u64 mask)
{
	const struct protector by = protector_of(change->vm);

	mmu_assert_shared(change->vm);
	CHECK(table_of(entries)->level == QUIRE_LEVEL_4K);
	CHECK(table_of(entries) == table_of(&entries[63 - __builtin_clzll(mask | 1)]));
	if (protect_some(&by, entries, mask))
		flush_debt_owe(change->debt);
}

enum huge {
	HUGE_PROTECTED,
	HUGE_NOTHING_TO_DO,
	HUGE_IS_TABLE, /* its leaves may have W */
};

static enum huge protect_huge(const struct tdp_change *change, u64 *entry, u32 level)
{
	const struct entry_format *f = &change->vm->tdp_format;
	u64 old = walk_load(f, entry);

	CHECK(level > QUIRE_LEVEL_4K && table_of(entry)->level == level);
	while (entry_is_present(f, old) && entry_is_leaf(f, old, level) &&
	       entry_is_writable(f, old) && !MUTANT(huge_unarmed)) {
		u64 new = old & ~(f->writable | f->dirty);

		if (!tdp_change_entry(change, entry, level, &old, new)) {
			old = walk_load(f, entry);
			continue;
		}
		CHECK(change->debt->owed);
		if (MUTANT(huge_unflushed))
			flush_debt_forgive(change->debt, "mutant");
		return HUGE_PROTECTED;
	}
	return !entry_is_present(f, old) || entry_is_leaf(f, old, level) ? HUGE_NOTHING_TO_DO
									 : HUGE_IS_TABLE;
}

/*
 * What a hold of mmu_lock that only protects looks at, at most. A huge leaf, changed by itself,
 * takes as long as several of 4K, and counts so as long as the hold gets to a table all the same.
 */
#define PROTECT_ENTRIES UINT64_C(8192)
#define PROTECT_HUGE 8u
#define PROTECT_KEPT (WALK_BUDGET_MIN + PROTECT_HUGE)
_Static_assert(PROTECT_ENTRIES > PROTECT_KEPT, "a hold gets on");

struct protect {
	struct tdp_change change;
	struct protector by;
	u64 budget;
};

static void protect_table(const struct protect *protect, const struct walk_run *run)
{
	u64 any = 0;

	CHECK(run->level == QUIRE_LEVEL_4K && table_of(run->entries)->level == QUIRE_LEVEL_4K);
	for (u32 i = 0; i < run->count; i += 64) {
		u32 count = run->count - i < 64 ? run->count - i : 64;

		any |= protect_some(&protect->by, &run->entries[i], UINT64_MAX >> (64 - count));
	}
	if (any)
		flush_debt_owe(protect->change.debt);
}

static void protect_run(const struct walk_run *run, void *ctx)
{
	struct protect *protect = ctx;

	if (run->level == QUIRE_LEVEL_4K) {
		protect_table(protect, run);
		return;
	}
	/* What is a table, or becomes one, is walked. */
	for (u32 i = 0; i < run->count; i++)
		if (protect_huge(&protect->change, &run->entries[i], run->level) ==
			HUGE_PROTECTED &&
		    protect->budget > PROTECT_KEPT)
			protect->budget -= PROTECT_HUGE;
}

/*
 * Where aging takes W, an entry without W may be one that a vCPU writes through all the same: the
 * flush is owed whatever is found (I-53).
 */
static void owe_for_aged(const struct tdp_change *change)
{
	if (entry_ages_by_rights(&change->vm->tdp_format) && !MUTANT(aged_unflushed))
		flush_debt_owe(change->debt);
}

gfn_t tdp_write_protect_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			      struct flush_debt *debt)
{
	struct protect protect = {
	    .change = {.vm = vm, .leaves = vm->leaves, .debt = debt},
	    .by = protector_of(vm),
	    .budget = PROTECT_ENTRIES,
	};
	const struct tdp_visit visit = {.lowest = QUIRE_LEVEL_4K,
					.visit = protect_run,
					.ctx = &protect,
					.budget = &protect.budget};

	mmu_assert_shared(vm);
	CHECK(start.v < end.v);
	owe_for_aged(&protect.change);
	return tdp_walk(vm, as_id, &visit, start, end);
}

/* Where the last gfn was found: neighbours are mostly in the same table. */
struct leaf_cursor {
	struct table *root;
	u64 *upper; /* the table above, for the 1G block of @upper_gfn; NULL: not known */
	u64 upper_gfn;
	/* What cursor_seek() found. */
	u64 first, count; /* gfns that @entries has, one each; or that the one entry covers */
	u64 *entries;
	u32 level;
};

/* The table that *@entry points to, or NULL. */
static u64 *table_below(const struct entry_format *f, const u64 *entry, u32 level)
{
	u64 value = atomic_load_acquire_u64(entry);

	if (!entry_is_present(f, value) || entry_is_leaf(f, value, level))
		return NULL;
	return entry_table(f, value);
}

/* The lowest table for @gfn, or NULL. Does not load what it maps: that would miss the cache. */
static u64 *cursor_table(struct leaf_cursor *cursor, const struct entry_format *f, gfn_t gfn)
{
	u64 block = walk_block(gfn, QUIRE_LEVEL_1G).v;

	if (!cursor->upper || cursor->upper_gfn != block) {
		u64 *table = entry_root_table(f, table_entries(cursor->root), gfn);

		for (u32 level = f->root_level; table && level > QUIRE_LEVEL_2M; level--)
			table = table_below(f, &table[walk_index(gfn, level)], level);
		cursor->upper = table;
		cursor->upper_gfn = block;
	}
	if (!cursor->upper)
		return NULL;
	return table_below(f, &cursor->upper[walk_index(gfn, QUIRE_LEVEL_2M)], QUIRE_LEVEL_2M);
}

void tdp_find_span(struct quire_vm *vm, const struct log_span *span)
{
	struct leaf_cursor cursor = {.root =
					 atomic_load_acquire_ptr(&vm->roots.valid[span->as_id])};
	struct log_word *words = span->named, *end = words + span->nonzero;
	const struct entry_format *f = &vm->tdp_format;
	const u64 *masks = span->masks;
	u64 base = span->base.v;

	mmu_assert_shared(vm);
	for (struct log_word *word = words; word < end; word++) {
		gfn_t gfn = {base + word->index * 64};
		u32 at = walk_index(gfn, QUIRE_LEVEL_4K);
		u64 mask = masks[word->index];
		/* Always look it up: a branch on where the next table begins mispredicts. */
		u64 *table = likely(cursor.root) ? cursor_table(&cursor, f, gfn) : NULL;
		u64 *entries;

		if (unlikely(!table || at + 64 > QUIRE_TABLE_ENTRIES)) {
			word->entries = NULL;
			continue;
		}
		CHECK(mask);
		CHECK(table_of(table)->level == QUIRE_LEVEL_4K && !table_of(table)->shadowed);
		word->entries = entries = &table[at];
		/* Mostly all there are, and without a branch that depends on how many. */
		__builtin_prefetch(&entries[__builtin_ctzll(mask)], 1);
		__builtin_prefetch(&entries[63 - __builtin_clzll(mask)], 1);
	}
}

static void cursor_seek(struct leaf_cursor *cursor, struct quire_vm *vm, gfn_t gfn)
{
	u64 *table = cursor_table(cursor, &vm->tdp_format, gfn), *entry;

	cursor->level = QUIRE_LEVEL_4K;
	if (likely(table))
		entry = &table[walk_index(gfn, QUIRE_LEVEL_4K)];
	else
		entry = tdp_find(vm, cursor->root, gfn, &cursor->level);
	if (cursor->level == QUIRE_LEVEL_4K) {
		cursor->count = QUIRE_TABLE_ENTRIES;
		cursor->entries = entry - walk_index(gfn, QUIRE_LEVEL_4K);
	} else {
		cursor->count = level_pages((enum quire_level)cursor->level);
		cursor->entries = entry;
	}
	cursor->first = round_down_u64(gfn.v, cursor->count);
}

/* The gfns of @mask from @base on, which may be in two tables or below a huge leaf. */
static void protect_unfound(const struct tdp_change *change, struct leaf_cursor *cursor, gfn_t base,
			    u64 mask)
{
	while (mask) {
		u32 skip = (u32)__builtin_ctzll(mask);
		u64 gfn = base.v + skip, at, bits;

		if (gfn - cursor->first >= cursor->count)
			cursor_seek(cursor, change->vm, (gfn_t){gfn});
		at = gfn - cursor->first;
		bits = UINT64_MAX >> (64 - min_u64(64 - skip, cursor->count - at));
		if (cursor->level == QUIRE_LEVEL_4K) {
			tdp_protect_entries(change, &cursor->entries[at], mask >> skip & bits);
		} else if (protect_huge(change, cursor->entries, cursor->level) == HUGE_IS_TABLE) {
			/* A prefault has split it meanwhile: look again. */
			cursor->count = 0;
			continue;
		}
		mask &= ~(bits << skip);
	}
}

static void protect_all_unfound(const struct tdp_change *change, const struct log_span *span)
{
	struct leaf_cursor cursor = {
	    .root = atomic_load_acquire_ptr(&change->vm->roots.valid[span->as_id]),
	};

	for (u64 i = 0; i < span->nonzero && cursor.root; i++) {
		u64 index = span->named[i].index;

		if (!span->named[i].entries && !MUTANT(unfound_unarmed))
			protect_unfound(change, &cursor, (gfn_t){span->base.v + index * 64},
					span->masks[index]);
	}
}

void tdp_protect_span(struct quire_vm *vm, const struct log_span *span, struct flush_debt *debt)
{
	const struct tdp_change change = {.vm = vm, .leaves = vm->leaves, .debt = debt};
	const struct protector by = protector_of(vm);
	const struct log_word *words = span->named, *end = words + span->nonzero;
	const u64 *masks = span->masks;
	u64 any = 0, unfound = 0;

	mmu_assert_shared(vm);
	CHECK(span->nonzero <= span->words);
	CHECK(debt->domain == &vm->flush);
	owe_for_aged(&change);
	for (const struct log_word *word = words; word < end; word++) {
		u64 *entries = word->entries, mask = masks[word->index];

		if (unlikely(!entries))
			unfound++;
		else
			any |= protect_some(&by, entries, mask);
	}
	if (any)
		flush_debt_owe(debt);
	if (unlikely(unfound))
		protect_all_unfound(&change, span);
}
