/* quire/view.h: how much of a VM's memory is mapped, and how. */
#include <quire/view.h>

#include "example.h"

static int add_piece(void *ctx, const struct quire_view_piece *piece)
{
	struct quire_view_counts *sum = ctx;

	sum->mapped[QUIRE_LEVEL_4K] += piece->counts.mapped[QUIRE_LEVEL_4K];
	sum->writable += piece->counts.writable;
	return 0;
}

void example_view(void)
{
	const struct quire_view_request request = {
	    .start = {0}, .end = {UINT64_MAX}, .piece_pages = 512};
	struct quire_view_counts sum = {0};
	struct quire_view_tables tables;
	struct example example;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);
	for (unsigned int page = 0; page < 3; page++)
		EXAMPLE_CHECK(example_guest_writes(
				  &example, EXAMPLE_GPA + page * QUIRE_PAGE_SIZE) == QUIRE_FIXED);
	EXAMPLE_CHECK(quire_vm_view(example.vm, &request, add_piece, &sum) == 0);
	EXAMPLE_CHECK(sum.mapped[QUIRE_LEVEL_4K] == 3 && sum.writable == 3);
	/* They are neighbours: one table has all three. */
	EXAMPLE_CHECK(quire_vm_view_tables(example.vm, &tables) == 0);
	EXAMPLE_CHECK(tables.tdp[QUIRE_LEVEL_4K] == 1);
	example_destroy(&example);
}
