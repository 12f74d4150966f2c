/* What a mapping of the TDP MMU says to a listener. */
#include "tests/unit/support.h"

#include <quire/trace.h>

static uint64_t requests, request[4];

static void record(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_spte_requested)
		return;
	requests++;
	memcpy(request, args, sizeof(request));
}

static void test_requests_are_traced(void **state)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 5);
	requests = 0;
	quire_trace_install(record);
	store(2, 5);
	quire_trace_install(NULL);
	assert_int_equal(requests, 1);
	assert_int_equal(request[0], 2);
	assert_int_equal(request[2], QUIRE_LEVEL_4K);
	store(3, 5);
	assert_int_equal(requests, 1);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_requests_are_traced),
	};

	return run_formats(tests, 1);
}
