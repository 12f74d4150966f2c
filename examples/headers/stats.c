/* quire/stats.h: the counters that KVM's statistics files show, by name. */
#include <quire/stats.h>

#include "example.h"

void example_stats(void)
{
	struct example example;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);
	for (unsigned int page = 0; page < 3; page++)
		EXAMPLE_CHECK(example_guest_writes(
				  &example, EXAMPLE_GPA + page * QUIRE_PAGE_SIZE) == QUIRE_FIXED);
	EXAMPLE_CHECK(quire_vcpu_stat(example.vcpu, QUIRE_VCPU_STAT_pf_fixed) == 3);
	EXAMPLE_CHECK(quire_vm_stat(example.vm, QUIRE_VM_STAT_pages_4k) == 3);
	example_destroy(&example);
}
