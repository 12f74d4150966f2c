/* A VM's memory as JSON: what `quire view` draws. */
#include "frontend/report/view.h"

#include <stdbool.h>

#include <quire/view.h>
#include <quire/vm.h>

#include "frontend/report/json.h"

/* The library looks at so much in one call of visit(): a fraction of a millisecond. */
#define PART_PAGES (UINT64_C(1) << 18)

/* A row is the gfn, the pages, and these counts, in this order. */
#define COLUMNS(X)                \
	X(private, private_pages) \
	X(logged, logged)         \
	X(mapped_4k, mapped[1])   \
	X(mapped_2m, mapped[2])   \
	X(mapped_1g, mapped[3])   \
	X(writable, writable)     \
	X(executable, executable) \
	X(dirty, dirty)           \
	X(shadow_4k, shadow[1])   \
	X(shadow_2m, shadow[2])   \
	X(shadow_1g, shadow[3])

struct printer {
	struct json *json;
	const struct view_wish *wish;
	uint64_t cell_pages;
	uint64_t slot_pages;	      /* printed of the slot that is open */
	struct quire_view_piece slot; /* npages 0: none is open */
	struct quire_view_piece cell; /* being added up; npages 0: nothing yet */
	struct quire_view_piece row;  /* of equal cells, not printed yet; likewise */
	bool is_cut;
};

static void add_counts(struct quire_view_counts *sum, const struct quire_view_counts *more)
{
#define ADD(name, field) sum->field += more->field;
	COLUMNS(ADD)
#undef ADD
}

/* Which counts are those of all pages, if each is of all or of none. */
static bool is_uniform(const struct quire_view_piece *piece, uint32_t *kinds)
{
	bool uniform = true;

	*kinds = 0;
#define LOOK(name, field)                                  \
	*kinds = *kinds << 1 | (piece->counts.field != 0); \
	uniform &= !piece->counts.field || piece->counts.field == piece->npages;
	COLUMNS(LOOK)
#undef LOOK
	return uniform;
}

static void print_row(struct printer *printer)
{
	const struct quire_view_piece *row = &printer->row;

	if (!row->npages)
		return;
	json_array(printer->json, NULL);
	json_unsigned(printer->json, NULL, row->gfn.v);
	json_unsigned(printer->json, NULL, row->npages);
#define PRINT(name, field) json_unsigned(printer->json, NULL, row->counts.field);
	COLUMNS(PRINT)
#undef PRINT
	json_end(printer->json);
	printer->slot_pages += row->npages;
	printer->row.npages = 0;
}

/* The cell is complete: it goes into the row before it, or begins one. */
static void end_cell(struct printer *printer)
{
	struct quire_view_piece *row = &printer->row, *cell = &printer->cell;
	uint32_t cell_kinds, row_kinds;
	bool joins = row->npages && is_uniform(cell, &cell_kinds) && is_uniform(row, &row_kinds) &&
		     cell_kinds == row_kinds && row->gfn.v + row->npages == cell->gfn.v;

	if (joins) {
		row->npages += cell->npages;
		add_counts(&row->counts, &cell->counts);
	} else if (cell->npages) {
		print_row(printer);
		*row = *cell;
	}
	cell->npages = 0;
}

static void end_slot(struct printer *printer)
{
	end_cell(printer);
	print_row(printer);
	if (!printer->slot.npages)
		return;
	json_end(printer->json);
	json_unsigned(printer->json, "pages", printer->slot_pages);
	json_end(printer->json);
	printer->slot.npages = 0;
}

static void begin_slot(struct printer *printer, const struct quire_view_piece *piece)
{
	struct json *json = printer->json;

	printer->slot = *piece;
	printer->slot_pages = 0;
	json_object(json, NULL);
	json_unsigned(json, "as", piece->as_id);
	json_unsigned(json, "id", piece->slot_id);
	json_unsigned(json, "gfn", piece->gfn.v);
	json_unsigned(json, "hva", piece->hva.v);
	json_bool(json, "log", piece->flags & QUIRE_SLOT_LOG_DIRTY);
	json_bool(json, "readonly", piece->flags & QUIRE_SLOT_READONLY);
	json_bool(json, "guest_memfd", piece->flags & QUIRE_SLOT_GMEM);
	json_array(json, "rows");
}

static bool is_of_slot(const struct quire_view_piece *slot, const struct quire_view_piece *piece)
{
	return slot->npages && slot->as_id == piece->as_id && slot->slot_id == piece->slot_id &&
	       slot->hva.v - (slot->gfn.v << QUIRE_PAGE_SHIFT) ==
		   piece->hva.v - (piece->gfn.v << QUIRE_PAGE_SHIFT);
}

static int print_piece(void *ctx, const struct quire_view_piece *piece)
{
	struct printer *printer = ctx;
	struct quire_view_piece *cell = &printer->cell;

	if (!is_of_slot(&printer->slot, piece)) {
		end_slot(printer);
		begin_slot(printer, piece);
	}
	if (cell->npages && cell->gfn.v / printer->cell_pages != piece->gfn.v / printer->cell_pages)
		end_cell(printer);
	if (!cell->npages) {
		*cell = *piece;
	} else {
		cell->npages += piece->npages;
		add_counts(&cell->counts, &piece->counts);
	}
	printer->is_cut = __atomic_load_n(printer->wish->hurry, __ATOMIC_RELAXED);
	return printer->is_cut || printer->json->is_full;
}

struct sum {
	const struct view_wish *wish;
	uint64_t pages;
};

static int add_slot(void *ctx, const struct quire_view_piece *slot)
{
	struct sum *sum = ctx;
	uint64_t start = slot->gfn.v, end = slot->gfn.v + slot->npages;

	if (start < sum->wish->start)
		start = sum->wish->start;
	if (end > sum->wish->end)
		end = sum->wish->end;
	if (start < end)
		sum->pages += end - start;
	return 0;
}

/* The smallest power of two with which there are not too many. */
static uint64_t choose_cell_pages(struct quire_vm *vm, const struct view_wish *wish)
{
	struct sum sum = {.wish = wish};
	uint64_t pages = 1;

	for (uint32_t as_id = 0; as_id < quire_vm_address_spaces(vm); as_id++)
		if (quire_vm_view_slots(vm, as_id, add_slot, &sum))
			break;
	while (wish->cells && sum.pages / pages > wish->cells)
		pages *= 2;
	return pages;
}

static void print_tables(struct json *json, struct quire_vm *vm)
{
	static const char *const names[] = {NULL, "tdp_4k", "tdp_2m", "tdp_1g", "tdp_512g"};
	struct quire_view_tables tables;

	if (quire_vm_view_tables(vm, &tables))
		return;
	json_object(json, "tables");
	for (unsigned int level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_512G; level++)
		json_unsigned(json, names[level], tables.tdp[level]);
	json_unsigned(json, "shadow_pages", tables.shadow_pages);
	json_unsigned(json, "used", tables.used);
	json_unsigned(json, "taken_bytes", tables.taken_bytes);
	json_end(json);
}

static void print_columns(struct json *json)
{
	json_array(json, "columns");
	json_string(json, NULL, "gfn");
	json_string(json, NULL, "pages");
#define NAME(name, field) json_string(json, NULL, #name);
	COLUMNS(NAME)
#undef NAME
	json_end(json);
}

void view_print(struct json *json, struct quire_vm *vm, const struct view_wish *wish)
{
	struct printer printer = {
	    .json = json, .wish = wish, .cell_pages = choose_cell_pages(vm, wish)};
	struct quire_view_request request = {
	    .start = {wish->start}, .end = {wish->end}, .piece_pages = printer.cell_pages};

	if (request.piece_pages > PART_PAGES)
		request.piece_pages = PART_PAGES;
	json_object(json, "memory");
	json_unsigned(json, "cell_pages", printer.cell_pages);
	print_columns(json);
	json_array(json, "slots");
	for (uint32_t as_id = 0; as_id < quire_vm_address_spaces(vm) && !printer.is_cut; as_id++) {
		request.as_id = as_id;
		if (quire_vm_view(vm, &request, print_piece, &printer))
			break;
	}
	end_slot(&printer);
	json_end(json);
	json_bool(json, "is_cut", printer.is_cut);
	print_tables(json, vm);
	json_end(json);
}
