/* quire/vcpu.h: guest mode, and how an access that the tables refuse becomes a mapping. */
#include <quire/vcpu.h>

#include "example.h"

/* Enters guest mode, where the CPU would find no mapping, and leaves it with the fault. */
int example_guest_writes(struct example *example, uint64_t gpa)
{
	struct quire_memory_fault fault = {0};
	struct quire_stage2 stage2;
	uint64_t requests;
	int result = quire_vcpu_enter(example->vcpu, &requests, &stage2);

	if (result)
		return result;
	quire_vcpu_leave(example->vcpu);
	return quire_vcpu_fault(example->vcpu, (gpa_t){gpa}, QUIRE_PFERR_WRITE, &fault);
}

void example_vcpu(void)
{
	struct quire_stage2 stage2;
	struct example example;
	uint64_t requests = 0;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);

	/* In guest mode the CPU walks these tables; they are empty, so it leaves with a fault. */
	EXAMPLE_CHECK(quire_vcpu_enter(example.vcpu, &requests, &stage2) == 0);
	EXAMPLE_CHECK(stage2.root != NULL && stage2.root_level == QUIRE_LEVEL_512G);
	quire_vcpu_leave(example.vcpu);

	/* The first access maps the page, the second finds it mapped; no slot means MMIO. */
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA) == QUIRE_FIXED);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA) == QUIRE_SPURIOUS);
	EXAMPLE_CHECK(example_guest_writes(&example, 0) == QUIRE_EMULATE);
	example_destroy(&example);
}
