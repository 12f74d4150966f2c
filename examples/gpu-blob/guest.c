/* A processor that knows one instruction: load or store one byte of guest memory. */
#include "examples/gpu-blob/guest.h"

#include <string.h>

#include <quire/format.h>

#include "hosts/sim/sched.h"

struct access {
	uint64_t gpa;
	int is_store;
	uint8_t value;
};

/* The page that @access reaches, as nested paging finds it; NULL and an error code without. */
static uint8_t *walk(const struct quire_stage2 *stage2, const struct access *access,
		     uint64_t *error)
{
	struct quire_translation found;
	uint8_t *page = NULL;

	if (quire_walk(stage2, (gpa_t){access->gpa & QUIRE_PAGE_MASK},
		       access->is_store ? QUIRE_PFERR_WRITE : 0, &found))
		page = (uint8_t *)(uintptr_t)found.address;
	*error = found.error_code;
	return page;
}

/* In guest mode. Zero, or the fault's error code in *@error. */
static int perform(struct guest *guest, const struct quire_stage2 *stage2, struct access *access,
		   uint64_t *error)
{
	uint64_t gfn = access->gpa >> QUIRE_PAGE_SHIFT;
	uint8_t *byte, *page = guest->tlb[gfn % GUEST_TLB_PAGES].page;

	if (!page || guest->tlb[gfn % GUEST_TLB_PAGES].gfn != gfn ||
	    (access->is_store && !guest->tlb[gfn % GUEST_TLB_PAGES].writable)) {
		page = walk(stage2, access, error);
		if (!page)
			return -1;
		guest->tlb[gfn % GUEST_TLB_PAGES].gfn = gfn;
		guest->tlb[gfn % GUEST_TLB_PAGES].page = page;
		guest->tlb[gfn % GUEST_TLB_PAGES].writable = access->is_store;
	}
	/* A change that takes the page away now must wait for this access. */
	sched_yield_point();
	byte = &page[access->gpa & ~QUIRE_PAGE_MASK];
	if (access->is_store)
		*byte = access->value;
	else
		access->value = *byte;
	return 0;
}

static int run(struct guest *guest, struct access *access)
{
	for (;;) {
		struct quire_memory_fault fault;
		struct quire_stage2 stage2;
		uint64_t requests, error = 0;
		int ret = quire_vcpu_enter(guest->vcpu, &requests, &stage2);

		if (ret)
			return ret;
		if (requests & QUIRE_REQ_TLB_FLUSH)
			memset(guest->tlb, 0, sizeof(guest->tlb));
		ret = perform(guest, &stage2, access, &error);
		quire_vcpu_leave(guest->vcpu);
		if (!ret)
			return 0;
		ret = quire_vcpu_fault(guest->vcpu, (gpa_t){access->gpa}, error, &fault);
		if (ret < 0 || ret == QUIRE_EMULATE)
			return ret;
		if (ret == QUIRE_RETRY)
			sched_platform.relax(0);
	}
}

int guest_load(struct guest *guest, uint64_t gpa, uint8_t *value)
{
	struct access access = {.gpa = gpa};
	int ret = run(guest, &access);

	*value = access.value;
	return ret;
}

int guest_store(struct guest *guest, uint64_t gpa, uint8_t value)
{
	struct access access = {.gpa = gpa, .is_store = 1, .value = value};

	return run(guest, &access);
}
