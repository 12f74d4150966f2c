/* What comes while a fault asks the host: it must notice, and come to the same end. */
#include "tests/rules/lib/nth.h"

/* The client's memory changes, and is as before. */
static void invalidate(void)
{
	const hva_t start = nth.machine->hva(0), end = nth.machine->hva(2 * HUGE_PAGE);

	quire_vm_host_invalidate_begin(nth.vm, start, end);
	quire_vm_host_invalidate_end(nth.vm, start, end);
}

static int see_slot(void *ctx, const struct quire_view_piece *piece)
{
	struct quire_region *region = ctx;

	if (piece->slot_id != region->slot)
		return 0;
	region->flags = piece->flags;
	region->gpa = gpa_of(piece->gfn);
	region->size_bytes = piece->npages * QUIRE_PAGE_SIZE;
	region->hva = piece->hva;
	return 1;
}

/* A slot goes, with all that was mapped through it, and comes again. */
static void replace(uint32_t slot)
{
	struct quire_region region = {.slot = slot}, none = {.slot = slot};

	if (quire_vm_view_slots(nth.vm, 0, see_slot, &region) != 1)
		return;
	region.gmem = region.flags & QUIRE_SLOT_GMEM ? nth.gmem : NULL;
	assert_int_equal(quire_vm_set_region(nth.vm, &none), 0);
	assert_int_equal(quire_vm_set_region(nth.vm, &region), 0);
}

void nth_replace_slots(void)
{
	replace(1);
	replace(2);
}

/* Slot 1 shows other memory from here on. */
void nth_move_memory(void)
{
	struct quire_region region = {.slot = 1}, none = {.slot = 1};

	if (quire_vm_view_slots(nth.vm, 0, see_slot, &region) != 1 ||
	    (region.flags & QUIRE_SLOT_GMEM))
		return;
	region.hva = nth.machine->hva(HUGE_PAGE);
	assert_int_equal(quire_vm_set_region(nth.vm, &none), 0);
	assert_int_equal(quire_vm_set_region(nth.vm, &region), 0);
}

/* What is private is shared from here on. */
static void share(void)
{
	if ((nth.vm_kind & NTH_PRIVATE) && quire_vm_set_attributes(nth.vm, (gpa_t){GPA}, BYTES, 0))
		fail();
}

/* Another slot comes and goes: whatever was looked up is of an old generation. */
void nth_change_other_slot(void)
{
	struct quire_region region = {.slot = 9,
				      .gpa = {UINT64_C(1) << 36},
				      .size_bytes = QUIRE_PAGE_SIZE,
				      .hva = nth.machine->hva(0)};

	assert_int_equal(quire_vm_set_region(nth.vm, &region), 0);
	region.size_bytes = 0;
	assert_int_equal(quire_vm_set_region(nth.vm, &region), 0);
}

/* Every table goes. */
static void zap_all(void)
{
	quire_vm_set_nx_huge_pages(nth.vm, 1);
	quire_vm_set_nx_huge_pages(nth.vm, 0);
}

/* The hypervisor writes what is there already: what shadows the page cannot know that. */
static void write_tables(void)
{
	uint64_t word;

	for (uint32_t page = 0; page < PAGES; page++) {
		const gpa_t at = {GPA + page * QUIRE_PAGE_SIZE};

		if (!quire_vm_read(nth.vm, at, &word, sizeof(word)) &&
		    quire_vm_write(nth.vm, at, &word, sizeof(word)))
			fail();
	}
}

/* A punch of nothing that is there, and a conversion to what is so. */
static void change_gmem(void)
{
	if (!nth.gmem)
		return;
	assert_int_equal(quire_gmem_punch(nth.gmem, BYTES - QUIRE_PAGE_SIZE, QUIRE_PAGE_SIZE), 0);
	if (nth.vm_kind & NTH_PRIVATE && !(nth.vm_kind & NTH_IN_PLACE)) {
		const gpa_t at = {GPA + QUIRE_PAGE_SIZE};
		uint64_t before = quire_vm_get_attributes(nth.vm, gfn_of(at));

		if (quire_vm_set_attributes(nth.vm, at, QUIRE_PAGE_SIZE,
					    before ^ QUIRE_ATTRIBUTE_PRIVATE) ||
		    quire_vm_set_attributes(nth.vm, at, QUIRE_PAGE_SIZE, before))
			fail();
	}
}

void (*const nth_meanwhile[])(void) = {
    invalidate,	  nth_replace_slots, nth_change_other_slot, zap_all,
    write_tables, change_gmem,	     nth_move_memory,	    share,
    NULL};
