/* quire/trace.h: what happens inside, event by event, with KVM's names. */
#include <quire/trace.h>

#include "example.h"

static unsigned int mapped;
static uint64_t last_gfn;

static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event != QUIRE_TRACE_kvm_mmu_set_spte)
		return;
	mapped++;
	last_gfn = args[0];
}

static unsigned int faults, fixed;

static void count_faults(enum quire_timed what, enum quire_timed_edge edge, uint64_t value)
{
	if (what != QUIRE_TIMED_FAULT)
		return;
	faults += edge == QUIRE_TIMED_BEGINS;
	fixed += edge == QUIRE_TIMED_ENDS && value == QUIRE_FIXED;
}

void example_trace(void)
{
	struct example example;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);
	quire_trace_install(record);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA) == QUIRE_FIXED);
	EXAMPLE_CHECK(mapped == 1 && last_gfn == EXAMPLE_GPA / QUIRE_PAGE_SIZE);
	quire_trace_install(NULL);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA + QUIRE_PAGE_SIZE) == QUIRE_FIXED);
	EXAMPLE_CHECK(mapped == 1);
	/* What takes time: a clock of yours tells how long. */
	quire_trace_install_timed(count_faults);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA + 2 * QUIRE_PAGE_SIZE) ==
		      QUIRE_FIXED);
	EXAMPLE_CHECK(faults == 1 && fixed == 1);
	quire_trace_install_timed(NULL);
	example_destroy(&example);
}
