/* Dirty logging: starting, harvesting, arming again, stopping. */
#include <errno.h>

#include <quire/dirty.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/change/nested.h"
#include "src/dirty/bitmap.h"
#include "src/dirty/span.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

/* KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE and _INITIALLY_SET. */
#define MANUAL_ENABLE 1u
#define MANUAL_INITIALLY_SET 2u

/* As in KVM, what shadow pages map is split by the fault that writes it. */
static bool splits_eagerly(const struct quire_vm *vm)
{
	return atomic_load_relaxed_u32(&vm->tunables->eager_page_split) && !vm_is_shadowed(vm);
}

/*
 * How guest mode is while mmu_lock is held for one piece, always exclusively: then no other thread
 * of ours writes entries or marks, and plain stores are several times as fast as atomic ones. While
 * no vCPU is in guest mode it is kept so. A guest that runs goes on, and its faults wait for the
 * piece; a walker may set A and D meanwhile (src/tdp/protect.c).
 */
enum piece_hold { PIECE_GUEST_RUNS, PIECE_CLOSED };

static enum piece_hold piece_take(struct quire_vm *vm) ACQUIRES(&vm->mmu_lock)
{
	biglock_write_lock(&vm->mmu_lock);
	/* Closing disturbs vCPUs that enter just now: only with some hope. */
	if (flush_domain_is_idle(&vm->flush) && flush_domain_close(&vm->flush))
		return PIECE_CLOSED;
	return PIECE_GUEST_RUNS;
}

static void piece_release(struct quire_vm *vm, enum piece_hold hold) RELEASES(&vm->mmu_lock)
{
	CHECK((hold == PIECE_CLOSED) == flush_domain_is_closed(&vm->flush));
	if (hold == PIECE_CLOSED)
		flush_domain_open(&vm->flush);
	change_flush_unlock(vm);
}

void change_log_start(struct quire_vm *vm, const struct memslot *slot)
{
	struct flush_debt debt;
	gfn_t end = memslot_end(slot), next;
	enum piece_hold hold;

	slots_assert(vm);
	CHECK((slot->flags & QUIRE_SLOT_LOG_DIRTY) && (slot->dirty || vm->ring_bytes));
	CHECK(memslot_by_id(vm, slot->as_id, slot->id) == slot);
	if (slot->flags & QUIRE_SLOT_READONLY)
		return;
	/* All pages count as dirty from the start: CLEAR arms them as they are harvested. A ring
	 * has no bits that could be set. */
	if ((vm->manual_protect & MANUAL_INITIALLY_SET) && !vm->ring_bytes)
		return;
	if (splits_eagerly(vm))
		(void)!change_split_range(vm, slot->as_id, slot->base_gfn, end);
	flush_debt_init(&debt, &vm->flush);
	for (gfn_t gfn = slot->base_gfn; gfn.v < end.v; gfn = next) {
		if (MUTANT(log_start_unprotected))
			break;
		hold = piece_take(vm);
		next = tdp_write_protect_range(vm, slot->as_id, gfn, end, &debt);
		piece_release(vm, hold);
	}
	change_nested_protect(vm, slot->as_id, slot->base_gfn, end, &debt);
	/* Also when nothing changed: an entry found without W may owe a flush to another. */
	flush_debt_owe(&debt);
	if (MUTANT(log_start_unflushed))
		flush_debt_forgive(&debt, "mutant");
	tdp_debt_settle(vm, &debt);
}

struct recovery_context {
	const struct quire_vm *vm;
	const struct memslot *slot;
};

static bool huge_allowed(void *ctx, gfn_t gfn, u32 level)
{
	const struct recovery_context *recovery = ctx;
	const struct quire_vm *vm = recovery->vm;
	const struct memslot *slot = recovery->slot;

	CHECK(gfn.v >= slot->base_gfn.v && level > QUIRE_LEVEL_4K);
	/* I-05: a slot of a guest_memfd has no log. */
	CHECK(!(slot->flags & QUIRE_SLOT_GMEM));
	mmu_assert_shared(vm);
	if (gfn_level_max(vm, slot, gfn, (enum quire_level)level) < level)
		return false;
	/* Pages that an invalidation has zapped must not come back before it ends. */
	if (invalidation_touches(&vm->invalidation, gfn,
				 (gfn_t){gfn.v + level_pages((enum quire_level)level)}) &&
	    !MUTANT(recover_unchecked))
		return false;
	return vm->host->page_level(vm->host_ctx, memslot_hva(slot, gfn),
				    (enum quire_level)level) >= level;
}

void change_log_stop(struct quire_vm *vm, const struct memslot *slot)
{
	struct recovery_context ctx = {.vm = vm, .slot = slot};
	gfn_t end = memslot_end(slot), next;
	u64 block = level_pages(QUIRE_LEVEL_1G);
	struct shadow_recovery nested = {
	    .range = shadow_range_of(slot->as_id, slot->base_gfn, end),
	    .allowed = huge_allowed,
	    .ctx = &ctx,
	};

	slots_assert(vm);
	CHECK(!(slot->flags & QUIRE_SLOT_LOG_DIRTY) && !slot->dirty);
	CHECK(memslot_by_id(vm, slot->as_id, slot->id) == slot);
	nested.range.highest = QUIRE_LEVEL_2M;
	change_nested_recover(vm, &nested);
	/* One hold a gigabyte: the largest leaf that may come back. */
	for (gfn_t gfn = slot->base_gfn; gfn.v < end.v; gfn = next) {
		struct tdp_recovery recovery = {
		    .as_id = slot->as_id, .start = gfn, .allowed = huge_allowed, .ctx = &ctx};
		struct flush_debt debt;

		next.v = min_u64(end.v, round_down_u64(gfn.v, block) + block);
		recovery.end = next;
		flush_debt_init(&debt, &vm->flush);
		biglock_read_lock(&vm->mmu_lock, NULL);
		reclaim_enter();
		tdp_recover_range(vm, &recovery, &debt);
		reclaim_leave();
		biglock_read_unlock(&vm->mmu_lock, NULL);
		if (MUTANT(recover_unflushed))
			flush_debt_forgive(&debt, "mutant");
		tdp_debt_settle(vm, &debt);
	}
}

int quire_vm_set_manual_protect(struct quire_vm *vm, uint64_t flags)
{
	if (flags != 0 && flags != MANUAL_ENABLE && flags != (MANUAL_ENABLE | MANUAL_INITIALLY_SET))
		return -EINVAL;
	locks_assert_none();
	mutex_lock(&vm->slots_lock);
	vm->manual_protect = (u32)flags;
	mutex_unlock(&vm->slots_lock);
	return 0;
}

/* The slot of a GET or CLEAR, under slots_lock. */
static int find_logged_slot(const struct quire_vm *vm, u32 slot_id, struct memslot **slot)
{
	u32 as = slot_id >> 16, id = slot_id & 0xffff;

	if (vm->ring_bytes)
		return -ENXIO;
	if (as >= vm->address_spaces || id >= QUIRE_USER_SLOTS)
		return -EINVAL;
	*slot = memslot_by_id(vm, as, id);
	return *slot && (*slot)->dirty ? 0 : -ENOENT;
}

/*
 * Words of the log that are handled in one hold of the lock: so many that are not empty, and so
 * many in all.
 */
#define PIECE_NAMED UINT64_C(128)
#define PIECE_WORDS (8 * PIECE_NAMED)
#define NAMED_AT_ONCE 8u
_Static_assert(PIECE_NAMED % NAMED_AT_ONCE == 0, "a full piece has as many as fit");

/*
 * List the words of @span that are not empty, without a branch on what they hold: it would
 * mispredict. The span ends early when there might be more than PIECE_NAMED.
 */
static void name_words(struct log_span *span)
{
	u64 at = 0, count = 0;

	while (at < span->words && count + NAMED_AT_ONCE <= PIECE_NAMED) {
		u64 end = min_u64(span->words, at + NAMED_AT_ONCE);

		for (; at < end; at++) {
			span->named[count].index = at;
			count += span->masks[at] != 0;
		}
	}
	CHECK(count <= PIECE_NAMED && at <= span->words);
	span->words = at;
	span->nonzero = count;
}

/*
 * No thread marks, so that no word is fenced off from the next, and all of them go by in vectors:
 * an atomic operation for each would take longer than all the rest of a harvest that names little.
 */
static void take_words(const struct log_span *span)
{
	u64 *restrict log = span->log, *restrict masks = span->masks;

	CHECK(lock_rank_is_held(RANK_MMU));
	for (u64 at = 0; at < span->words; at++) {
		u64 old = sole_writer_load_u64(&log[at]);

		/* A mark here would be lost: let the scheduler try. */
		ATOMIC_POINT(&log[at]);
		sole_writer_store_u64(&log[at], MUTANT(clear_takes_words) ? 0 : old & ~masks[at]);
		masks[at] &= old;
		CHECK(!(sole_writer_load_u64(&log[at]) & masks[at]));
	}
}

/*
 * I-64. With mmu_lock exclusive no fault gives W back and sets the bit between the two steps. They
 * are apart so that the entries, asked for first, come while the words are taken.
 */
static void harvest_held(struct quire_vm *vm, struct log_span *span, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock)
{
	mmu_assert_exclusive(vm);
	tdp_find_span(vm, span);
	take_words(span);
	if (!MUTANT(harvest_unarmed))
		tdp_protect_span(vm, span, debt);
}

/*
 * Take the bits of @span out of the log and arm their pages, as far as one hold goes: @span->words
 * says how far.
 */
static void harvest_piece(struct quire_vm *vm, struct log_span *span, struct flush_debt *debt)
    REQUIRES(&vm->slots_lock)
{
	struct log_word named[PIECE_NAMED];
	enum piece_hold hold;

	span->named = named;
	name_words(span);
	if (!span->nonzero)
		return;
	hold = piece_take(vm);
	harvest_held(vm, span, debt);
	piece_release(vm, hold);
	if (shadow_of(vm))
		change_nested_protect_span(vm, span, debt);
}

/* @words words of @span from word @first on. */
static struct log_span span_part(const struct log_span *span, u64 first, u64 words)
{
	return (struct log_span){
	    .as_id = span->as_id,
	    .base = {span->base.v + first * 64},
	    .words = words,
	    .log = span->log + first,
	    .masks = span->masks + first,
	};
}

/* harvest_piece() for any number of words, in pieces, with one flush at the end. */
static void harvest(struct quire_vm *vm, const struct log_span *request) REQUIRES(&vm->slots_lock)
{
	struct log_span piece;
	struct flush_debt debt;

	QUIRE_TIMED(HARVEST, BEGINS, 0);
	flush_debt_init(&debt, &vm->flush);
	for (u64 at = 0; at < request->words; at += piece.words) {
		piece = span_part(request, at, min_u64(request->words - at, PIECE_WORDS));
		harvest_piece(vm, &piece, &debt);
	}
	/* Before the client reads the pages. Partner: the section that lacks_bit() begins after a
	 * write of the library's own. */
	atomic_fence();
	if (MUTANT(harvest_unflushed))
		flush_debt_forgive(&debt, "mutant");
	/* Leaves lose W, and no table is unlinked. */
	flush_debt_pay(&debt);
	CHECK(!debt.tables && !debt.owed);
	QUIRE_TIMED(HARVEST, ENDS, log_span_bits(request));
}

/* @words words of the slot's log from word @first on, whose bits @masks names. */
static struct log_span span_of(const struct memslot *slot, u64 first, u64 words, u64 *masks)
{
	return (struct log_span){
	    .as_id = slot->as_id,
	    .base = {slot->base_gfn.v + first * 64},
	    .words = words,
	    .log = slot->dirty->bits + first,
	    .masks = masks,
	};
}

/*
 * Words for the copy between a log and its client, during which no lock is held: the scratch words,
 * or memory of the loan's own where another call has those. The bitmap stays meanwhile, whatever
 * becomes of its slot.
 */
struct log_loan {
	struct dirty_bitmap *bitmap;
	u64 *words; /* bitmap->words of them */
};

/* 0 or -ENOMEM. */
static int lend(struct quire_vm *vm, struct dirty_bitmap *bitmap, struct log_loan *loan)
    REQUIRES(&vm->slots_lock)
{
	u64 *words = bitmap->scratch;

	slots_assert(vm);
	CHECK(atomic_load_relaxed_u32(&bitmap->refs));
	if (atomic_load_acquire_u32(&bitmap->is_lent))
		words = vm_alloc(vm, bitmap->words * sizeof(u64));
	else
		atomic_store_relaxed_u32(&bitmap->is_lent, 1);
	if (!words)
		return -ENOMEM;
	/* Relaxed: the slot's reference keeps the bitmap. */
	atomic_add_relaxed_u32(&bitmap->refs, 1);
	*loan = (struct log_loan){bitmap, words};
	return 0;
}

/* No lock: the slot may be gone. */
static void give_back(struct quire_vm *vm, const struct log_loan *loan)
{
	struct dirty_bitmap *bitmap = loan->bitmap;

	locks_assert_none();
	CHECK(atomic_load_relaxed_u32(&bitmap->refs));
	CHECK(loan->words != bitmap->scratch || atomic_load_relaxed_u32(&bitmap->is_lent));
	if (loan->words == bitmap->scratch)
		atomic_store_release_u32(&bitmap->is_lent, 0);
	else
		vm_free(vm, loan->words, bitmap->words * sizeof(u64));
	/* The slot gave its own back meanwhile. */
	if (atomic_fetch_sub_u32(&bitmap->refs, 1) == 1)
		dirty_bitmap_free(vm->host, vm->host_ctx, bitmap);
}

/* The log as it is now. A bit that is set later is for the next harvest. */
static void read_log(const struct dirty_bitmap *bitmap, u64 *words)
{
	for (u64 i = 0; i < bitmap->words; i++)
		words[i] = atomic_load_relaxed_u64(&bitmap->bits[i]);
}

/*
 * The client was not told of what the loan's words hold: the next harvest says it. KVM forgets it
 * here, and a live migration that tries again after EFAULT would miss the pages. A slot that was
 * deleted meanwhile has no next harvest.
 */
static void put_back(struct quire_vm *vm, const struct log_loan *loan)
{
	u64 end;

	/* As one that marks: see LOCKING.md. Each piece is one hold, as in a harvest. */
	for (u64 start = 0; start < loan->bitmap->words; start = end) {
		end = min_u64(loan->bitmap->words, start + PIECE_WORDS);
		biglock_read_lock(&vm->mmu_lock, NULL);
		for (u64 i = start; i < end; i++)
			if (loan->words[i])
				atomic_fetch_or_relaxed_u64(&loan->bitmap->bits[i], loan->words[i]);
		biglock_read_unlock(&vm->mmu_lock, NULL);
	}
}

/* The log as the client is told it, in the loan's words. It is taken, or (manual) stays. */
static int take_log_locked(struct quire_vm *vm, uint32_t slot_id, struct log_loan *loan,
			   bool *is_taken) REQUIRES(&vm->slots_lock)
{
	struct memslot *slot;
	struct log_span span;
	int err = find_logged_slot(vm, slot_id, &slot);

	if (!err)
		err = lend(vm, slot->dirty, loan);
	if (err)
		return err;
	read_log(slot->dirty, loan->words);
	*is_taken = !vm->manual_protect;
	if (!*is_taken)
		return 0;
	span = span_of(slot, 0, slot->dirty->words, loan->words);
	harvest(vm, &span);
	return 0;
}

int quire_vm_get_dirty_log(struct quire_vm *vm, uint32_t slot,
			   int (*copy_out)(void *ctx, uint64_t offset_bytes, const void *src,
					   uint64_t size_bytes),
			   void *ctx)
{
	struct log_loan loan;
	bool is_taken;
	int err;

	if (!copy_out)
		return -EINVAL;
	if (vm_is_dead(vm))
		return -EIO;
	mutex_lock(&vm->slots_lock);
	err = take_log_locked(vm, slot, &loan, &is_taken);
	mutex_unlock(&vm->slots_lock);
	if (err)
		return err;
	/* The client may wait for a thread of its own here, which may call anything. */
	err = copy_out(ctx, 0, loan.words, loan.bitmap->words * sizeof(u64));
	if (err && is_taken)
		put_back(vm, &loan);
	give_back(vm, &loan);
	return err;
}

static int clear_check(const struct quire_clear_log *request, const struct memslot *slot)
{
	u64 npages = slot->npages;

	if (request->first_page > npages || request->npages > npages - request->first_page)
		return -EINVAL;
	if (request->npages % 64 && request->npages != npages - request->first_page)
		return -EINVAL;
	return 0;
}

static u64 clear_words(const struct quire_clear_log *request)
{
	return round_up_u64(request->npages, 64) / 64;
}

/* The slot that @request is about, if it is about its log. */
static int clear_find(const struct quire_vm *vm, const struct quire_clear_log *request,
		      struct memslot **slot)
{
	int err;

	/* As KVM: a VM with rings gets ENXIO first. */
	if (!vm->ring_bytes && request->first_page % 64)
		return -EINVAL;
	err = find_logged_slot(vm, request->slot, slot);
	return err ? err : clear_check(request, *slot);
}

/*
 * With all bits set from the start, huge leaves were left alone until a CLEAR names a page of
 * theirs whose bit is set. Words without such a page part the range where they span a huge page.
 */
static void split_before_clear(struct quire_vm *vm, const struct log_span *span)
    REQUIRES(&vm->slots_lock)
{
	u64 start = span->base.v, end = 0;

	if (!(vm->manual_protect & MANUAL_INITIALLY_SET) || !splits_eagerly(vm))
		return;
	for (u64 i = 0; i < span->words; i++) {
		u64 mask = span->masks[i] & atomic_load_relaxed_u64(&span->log[i]);
		u64 first = span->base.v + i * 64, lowest;

		if (!mask)
			continue;
		lowest = first + (u64)__builtin_ctzll(mask);
		if (end && lowest - end >= level_pages(QUIRE_LEVEL_2M)) {
			(void)!change_split_range(vm, span->as_id, (gfn_t){start}, (gfn_t){end});
			end = 0;
		}
		if (!end)
			start = lowest;
		end = first + 64 - (u64)__builtin_clzll(mask);
	}
	if (end)
		(void)!change_split_range(vm, span->as_id, (gfn_t){start}, (gfn_t){end});
}

/*
 * CLEAR, and GET without manual protection from step 3 on:
 *   1. clear_find(); the client's words come in, without a lock; clear_find() again, for the slot
 *      may be another by then.
 *   2. split_before_clear(): what is huge around a named page that is dirty becomes 4K.
 *   3. harvest(), for each piece, in one hold of mmu_lock (harvest_piece()):
 *      a. name_words() lists the words with a bit set;
 *      b. piece_take(): mmu_lock exclusive, and guest mode closed where no vCPU is in it;
 *      c. tdp_find_span() finds the entries, and has the processor fetch them;
 *      d. take_words() takes the bits out of the log;
 *      e. tdp_protect_span() takes W from their pages, and owes a flush;
 *      f. piece_release(); change_nested_protect_span() does step e for shadow pages.
 *   4. flush_debt_pay(): one flush for all pieces.
 */
static int clear_log_locked(struct quire_vm *vm, const struct quire_clear_log *request, u64 *masks)
    REQUIRES(&vm->slots_lock)
{
	struct log_span span;
	struct memslot *slot;
	int err = clear_find(vm, request, &slot);

	if (err)
		return err;
	span = span_of(slot, request->first_page / 64, clear_words(request), masks);
	/* Bits past the end of the range are past that of the slot (clear_check()), whose log has
	 * none there. */
	split_before_clear(vm, &span);
	harvest(vm, &span);
	return 0;
}

int quire_vm_clear_dirty_log(struct quire_vm *vm, const struct quire_clear_log *request)
{
	struct log_loan loan = {0}; /* gcc does not see that lend() writes it */
	struct memslot *slot;
	u64 size_bytes;
	int err;

	if (!request || !request->copy_in)
		return -EINVAL;
	size_bytes = clear_words(request) * sizeof(u64);
	if (vm_is_dead(vm))
		return -EIO;
	mutex_lock(&vm->slots_lock);
	err = clear_find(vm, request, &slot);
	if (!err && size_bytes)
		err = lend(vm, slot->dirty, &loan);
	mutex_unlock(&vm->slots_lock);
	if (err || !size_bytes)
		return err;
	/* As in quire_vm_get_dirty_log(). */
	err = request->copy_in(request->ctx, 0, loan.words, size_bytes);
	if (!err) {
		mutex_lock(&vm->slots_lock);
		err = clear_log_locked(vm, request, loan.words);
		mutex_unlock(&vm->slots_lock);
	}
	give_back(vm, &loan);
	return err;
}
