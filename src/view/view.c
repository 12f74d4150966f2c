/* A picture of a VM's memory, taken in read sections while its guests run. */
#include <quire/view.h>

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/reclaim.h"
#include "src/dirty/bitmap.h"
#include "src/gmem/privacy.h"
#include "src/shadow/shadow.h"
#include "src/tdp/store.h"
#include "src/vm/locks.h"

/*
 * What one read section looks at: 64 lowest tables and 512 words of a log. A grace period waits for
 * that long at most.
 */
#define STEP_PAGES (UINT64_C(1) << 15)
/* The same of tables that lead to tables: 64 GiB have as many of the lowest of these. */
#define TABLES_STEP_PAGES (UINT64_C(1) << 24)
/* Of a slot's flags, what its maker said. */
#define SLOT_FLAGS (MEMSLOT_INVALID - 1)

/* Part of a piece: what one section looks at. */
struct step {
	const struct entry_format *f;
	gfn_t start, end;
	struct quire_view_counts *counts;
};

static void count_leaf(const struct step *step, u64 entry, u32 level, u64 pages)
{
	const struct entry_format *f = step->f;
	struct quire_view_counts *counts = step->counts;

	CHECK(level >= QUIRE_LEVEL_4K && level <= QUIRE_LEVEL_1G);
	CHECK(pages && pages <= level_pages((enum quire_level)level));
	counts->mapped[level] += pages;
	if (entry_is_writable(f, entry))
		counts->writable += pages;
	if (entry_is_executable(f, entry))
		counts->executable += pages;
	if (entry_is_young(f, entry))
		counts->young += pages;
	if (f->dirty ? entry & f->dirty : entry_is_writable(f, entry))
		counts->dirty += pages;
}

static void count_run(const struct walk_run *run, void *ctx)
{
	u64 pages = level_pages((enum quire_level)run->level);
	const struct step *step = ctx;

	for (u32 i = 0; i < run->count; i++) {
		u64 entry = walk_load(step->f, &run->entries[i]);
		u64 block = run->gfn.v + i * pages;

		if (!entry_is_present(step->f, entry) || !entry_is_leaf(step->f, entry, run->level))
			continue;
		count_leaf(step, entry, run->level,
			   min_u64(block + pages, run->end.v) - max_u64(block, run->start.v));
	}
}

static u64 count_private(const struct quire_vm *vm, const struct memslot *slot,
			 const struct step *step)
{
	u64 sum = 0, value;

	for (gfn_t at = step->start; at.v < step->end.v;) {
		gfn_t end = privacy_run(vm, slot, at, step->end, &value);

		CHECK(at.v < end.v && end.v <= step->end.v);
		if (value & QUIRE_ATTRIBUTE_PRIVATE)
			sum += end.v - at.v;
		at = end;
	}
	return sum;
}

static u64 count_logged(const struct memslot *slot, const struct step *step)
{
	u64 first = step->start.v - slot->base_gfn.v, end = step->end.v - slot->base_gfn.v;
	u64 sum = 0;

	if (!slot->dirty)
		return 0;
	CHECK(slot->flags & QUIRE_SLOT_LOG_DIRTY);
	CHECK(first < end && end <= slot->dirty->npages);
	for (u64 at = first; at < end; at = round_down_u64(at, 64) + 64) {
		u64 word = atomic_load_relaxed_u64(&slot->dirty->bits[at / 64]) >> at % 64;
		u64 bits = min_u64(end - at, 64 - at % 64);

		sum += bits_set(bits == 64 ? word : word & ((UINT64_C(1) << bits) - 1));
	}
	return sum;
}

/* The valid slot that holds @gfn or is the next before @end; NULL: there is none. */
static const struct memslot *find_slot(const struct quire_vm *vm, u32 as_id, gfn_t gfn, gfn_t end)
{
	const struct memslot *slot;
	struct memslot_iter iter;

	memslot_for_gfn(slot, vm, as_id, gfn, end, &iter)
	{
		if (!(slot->flags & MEMSLOT_INVALID))
			break;
	}
	return slot;
}

/* Nonzero: the piece that holds @from or is the next. */
static int piece_begin(const struct quire_vm *vm, const struct quire_view_request *request,
		       gfn_t from, struct quire_view_piece *piece)
{
	const struct memslot *slot;
	u64 end;

	reclaim_enter();
	slot = find_slot(vm, request->as_id, from, request->end);
	if (slot) {
		from.v = max_u64(from.v, slot->base_gfn.v);
		end = min_u64(memslot_end(slot).v, request->end.v);
		if (end - from.v > request->piece_pages - from.v % request->piece_pages)
			end = from.v + request->piece_pages - from.v % request->piece_pages;
		CHECK(from.v < end && memslot_has(slot, from));
		*piece = (struct quire_view_piece){
		    .as_id = request->as_id,
		    .slot_id = slot->id,
		    .flags = slot->flags & SLOT_FLAGS,
		    .gfn = from,
		    .npages = end - from.v,
		    .hva = memslot_hva(slot, from),
		};
	}
	reclaim_leave();
	return slot != NULL;
}

/* Counts one step of the piece from @at on; where the next one begins. */
static gfn_t piece_step(struct quire_vm *vm, struct quire_view_piece *piece, gfn_t at)
{
	gfn_t end = {piece->gfn.v + piece->npages};
	struct step step = {.f = &vm->tdp_format, .start = at, .counts = &piece->counts};
	const struct tdp_visit visit = {.lowest = QUIRE_LEVEL_4K, .visit = count_run, .ctx = &step};
	const struct memslot *slot;

	step.end.v = min_u64(end.v, round_down_u64(at.v, STEP_PAGES) + STEP_PAGES);
	CHECK(at.v < step.end.v);
	reclaim_enter();
	slot = memslot_lookup(vm, piece->as_id, at, NULL);
	if (slot && !(slot->flags & MEMSLOT_INVALID)) {
		step.end.v = min_u64(step.end.v, memslot_end(slot).v);
		piece->counts.private_pages += count_private(vm, slot, &step);
		piece->counts.logged += count_logged(slot, &step);
		(void)tdp_walk(vm, piece->as_id, &visit, step.start, step.end);
		shadow_count_leaves(vm, piece->as_id, step.start, step.end, piece->counts.shadow);
	}
	reclaim_leave();
	return step.end;
}

int quire_vm_view(struct quire_vm *vm, const struct quire_view_request *request,
		  quire_view_fn visit, void *ctx)
{
	struct quire_view_piece piece;
	int answer = 0;
	gfn_t at;

	if (!request || !visit)
		return -EINVAL;
	at = request->start;
	mmu_assert_free(vm);
	if (request->as_id >= vm->address_spaces || !request->piece_pages ||
	    request->start.v > request->end.v)
		return -EINVAL;
	while (!answer && !vm_is_dead(vm) && at.v < request->end.v &&
	       piece_begin(vm, request, at, &piece)) {
		gfn_t end = {piece.gfn.v + piece.npages};

		for (at = piece.gfn; at.v < end.v;)
			at = piece_step(vm, &piece, at);
		answer = visit(ctx, &piece);
	}
	return vm_is_dead(vm) ? -EIO : answer;
}

int quire_vm_view_slots(struct quire_vm *vm, uint32_t as_id, quire_view_fn visit, void *ctx)
{
	const struct quire_view_request request = {
	    .as_id = as_id, .end = {UINT64_MAX}, .piece_pages = UINT64_MAX};
	struct quire_view_piece piece = {0};
	int answer = 0;

	if (!visit)
		return -EINVAL;
	mmu_assert_free(vm);
	if (as_id >= vm->address_spaces)
		return -EINVAL;
	while (!answer && !vm_is_dead(vm) &&
	       piece_begin(vm, &request, (gfn_t){piece.gfn.v + piece.npages}, &piece))
		answer = visit(ctx, &piece);
	return vm_is_dead(vm) ? -EIO : answer;
}

/* Counts each table in the step with its first gfn. */
struct tables_step {
	const struct entry_format *f;
	struct quire_view_tables *tables;
};

static void count_tables(const struct walk_run *run, void *ctx)
{
	u64 pages = level_pages((enum quire_level)run->level);
	const struct tables_step *step = ctx;

	CHECK(run->level > QUIRE_LEVEL_4K && run->level <= QUIRE_LEVEL_512G);
	for (u32 i = 0; i < run->count; i++) {
		u64 entry = walk_load(step->f, &run->entries[i]);

		if (run->gfn.v + i * pages >= run->start.v && entry_is_present(step->f, entry) &&
		    !entry_is_leaf(step->f, entry, run->level))
			step->tables->tdp[run->level - 1]++;
	}
}

static void count_space(struct quire_vm *vm, u32 as_id, struct quire_view_tables *tables)
{
	const struct entry_format *f = &vm->tdp_format;
	struct tables_step step = {.f = f, .tables = tables};
	const struct tdp_visit visit = {
	    .lowest = QUIRE_LEVEL_2M, .visit = count_tables, .ctx = &step};
	u64 limit = level_pages((enum quire_level)f->root_level) * QUIRE_TABLE_ENTRIES *
		    entry_root_tables(f);

	CHECK(as_id < vm->address_spaces);
	if (!atomic_load_relaxed_ptr(&vm->roots.valid[as_id]))
		return;
	tables->tdp[f->root_level] += entry_root_tables(f);
	for (u64 at = 0; at < limit; at += TABLES_STEP_PAGES) {
		reclaim_enter();
		(void)tdp_walk(vm, as_id, &visit, (gfn_t){at}, (gfn_t){at + TABLES_STEP_PAGES});
		reclaim_leave();
	}
}

int quire_vm_view_tables(struct quire_vm *vm, struct quire_view_tables *tables)
{
	if (!tables)
		return -EINVAL;
	mmu_assert_free(vm);
	if (vm_is_dead(vm))
		return -EIO;
	*tables = (struct quire_view_tables){
	    .shadow_pages = quire_vm_stat(vm, QUIRE_VM_STAT_mmu_shadow_pages),
	    .used = arena_used(&vm->arena),
	    .taken_bytes = arena_taken_bytes(&vm->arena),
	};
	for (u32 as_id = 0; as_id < vm->address_spaces; as_id++)
		count_space(vm, as_id, tables);
	return 0;
}
