/* Pairs: shadow pages that serve the guest, against the client's limit on them. */
#include <errno.h>
#include <stdlib.h>

#include <quire/stats.h>

#include "src/change/change.h"
#include "tests/sim/pairs.h"

/*
 * Slots of one page, in blocks of 512 GiB of their own: each takes three shadow pages, as the page
 * does that is fought for, and there is a root. LIMIT leaves room for two of the three, and is less
 * than a client may set: more pages would only be more of the same.
 */
#define LIMIT 9u
#define ROOMY 64u
#define FAR_SLOTS 2u
#define FAR_USED 1u
#define FAR_BLOCK (UINT64_C(1) << 27) /* in pages */

static uint64_t far_page(uint32_t slot)
{
	return slot * FAR_BLOCK;
}

static int far_load(uint32_t vcpu, uint32_t slot)
{
	uint8_t byte;

	return pair_load(vcpu, far_page(slot), &byte);
}

static uint64_t shadow_pages(void)
{
	return quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_mmu_shadow_pages);
}

static void setup(void *ctx)
{
	(void)ctx;
	pair.machine.mmu = QUIRE_MMU_SHADOW;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
	if (quire_vm_set_nr_mmu_pages(pair.machine.vm, ROOMY) || pair_store(0, PAIR_PAGE, 1))
		abort();
	for (uint32_t slot = 1; slot <= FAR_SLOTS; slot++) {
		struct quire_region region = {.slot = slot,
					      .gpa = {PAIR_GPA_OF(far_page(slot))},
					      .size_bytes = QUIRE_PAGE_SIZE,
					      .hva = sim_hva(3)};

		if (quire_vm_set_region(pair.machine.vm, &region) ||
		    (slot <= FAR_USED && far_load(0, slot)))
			abort();
	}
	if (shadow_pages() != 1 + 3 * (1 + FAR_USED))
		abort();
}

/* A fault that needs pages while the limit falls: room is made, for it or after it. */
static void fault_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = far_load(0, FAR_SLOTS);
		return;
	}
	change_set_quota(pair.machine.vm, LIMIT);
	pair.results[1] = 0;
}

static bool is_whole(void)
{
	bool good = shadow_pages() <= LIMIT && pair_byte(PAIR_PAGE)[0] == 1;

	good &= !pair_load(1, PAIR_PAGE, &pair.bytes[1]) && pair.bytes[1] == 1;
	for (uint32_t slot = 1; slot <= FAR_SLOTS; slot++)
		good &= !far_load(slot % 2, slot) && shadow_pages() <= LIMIT;
	return good;
}

static bool fault_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && is_whole();

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* Two faults that need pages, and there is room for neither: each may take the other's away. */
static void full_setup(void *ctx)
{
	setup(ctx);
	change_set_quota(pair.machine.vm, LIMIT);
}

static void two_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = far_load(0, FAR_SLOTS);
	else
		pair.results[1] = pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

/*
 * A vCPU has the page in its TLB, and the limit takes what maps it. A change that takes the page
 * itself finds no mapping afterwards, owes no flush, and must not find the vCPU with it either.
 */
static void replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] = far_load(1, FAR_SLOTS);
	change_set_quota(pair.machine.vm, LIMIT);
	pair.frame = pair_host_replace(PAIR_PAGE);
}

static bool replace_check(void *ctx)
{
	/* Between begin and end there is no page: the store may be refused. */
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && !pair.results[1] &&
		    pair_untouched(pair.frame) && shadow_pages() <= LIMIT;

	(void)ctx;
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

const struct pair pairs_quota[] = {
    {"shadow fault and limit on shadow pages", 2, setup, fault_body, fault_check, 0},
    {"two shadow faults without room", 1, full_setup, two_body, fault_check, 0},
    {"store, limit on shadow pages and host invalidation", 2, setup, replace_body, replace_check,
     0},
    {.name = NULL},
};
