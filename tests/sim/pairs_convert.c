/* Pairs: conversion in place against faults, punches, pages in a vCPU's hands, other VMs. */
#include <errno.h>
#include <stdlib.h>

#include <quire/place.h>

#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
#include "tests/sim/pairs.h"

#define MAPPABLE (QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED)

static struct machine second; /* beside pair.machine, on its host */
static struct quire_gmem *linked;

static void start(uint32_t npages, uint64_t flags)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = npages * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	pair.machine.in_place = 1;
	pair.machine.tunables.gmem_huge_pages = npages == SIM_BLOCK;
	pair_start(QUIRE_VM_SW_PROTECTED);
	for (uint32_t page = 0; page < 8; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE);
	if (quire_gmem_create(pair.machine.vm, region.size_bytes, flags, NULL, &pair.gmem))
		abort();
	region.gmem = pair.gmem;
	if (quire_vm_set_region(pair.machine.vm, &region))
		abort();
}

static bool stop(bool good)
{
	quire_gmem_release(pair.gmem);
	return machine_stop(&pair.machine) && good;
}

static int convert(uint64_t page, uint64_t attributes)
{
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = PAIR_GPA_OF(page),
	    .size_bytes = QUIRE_PAGE_SIZE,
	    .attributes = attributes,
	};

	return quire_gmem_set_attributes(pair.gmem, &conversion);
}

static enum sim_view view(uint64_t page)
{
	return sim_store_view(quire_gmem_store(pair.gmem), page);
}

/* Does the reverse map give the page to a VM? */
static bool is_owned(uint64_t page)
{
	uint32_t frame = sim_store_frame(quire_gmem_store(pair.gmem), page);
	uintptr_t address;

	if (frame == SIM_NO_FRAME)
		return false;
	address = (uintptr_t)pair.machine.host.frames[frame].bytes;
	return !rmp_is_free(pair.machine.vm->rmp, (pfn_t){address >> QUIRE_PAGE_SHIFT});
}

/* The page turns private under a vCPU that stores: it is the same page, and the client's no more.
 */
static void shared_setup(void *ctx)
{
	(void)ctx;
	start(4, MAPPABLE);
}

static void shared_warm_setup(void *ctx)
{
	shared_setup(ctx);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static void to_private_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.results[1] = convert(PAIR_PAGE, QUIRE_ATTRIBUTE_PRIVATE);
}

static bool to_private_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && view(PAIR_PAGE) == SIM_VIEW_HIDDEN;

	(void)ctx;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 7;
	/* A mapping from before the conversion would not have asked for the frame. */
	return stop(good && is_owned(PAIR_PAGE));
}

/* And shared: no VM owns it, and the client sees it. */
static void private_setup(void *ctx)
{
	(void)ctx;
	start(4, 0);
}

static void private_warm_setup(void *ctx)
{
	private_setup(ctx);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static void to_shared_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.results[1] = convert(PAIR_PAGE, 0);
}

static bool to_shared_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && view(PAIR_PAGE) == SIM_VIEW_SHOWN;

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &pair.bytes[1]) && pair.bytes[1] == 7;
	return stop(good && !is_owned(PAIR_PAGE));
}

/* A page of a private block turns shared under a store beside it: no leaf spans both (I-25). */
static void huge_setup(void *ctx)
{
	(void)ctx;
	start(SIM_BLOCK, 0);
}

static void huge_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, 6, 7);
	else
		pair.results[1] = convert(5, 0);
}

static bool huge_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= !pair_load(0, 5, &pair.bytes[0]) && !is_owned(5) && is_owned(6);
	good &= pair.bytes[0] == 0 && !convert(5, QUIRE_ATTRIBUTE_PRIVATE);
	good &= !pair_load(1, 5, &pair.bytes[0]) && !pair_load(1, 6, &pair.bytes[1]);
	return stop(good && pair.bytes[0] == 0 && pair.bytes[1] == 7 && is_owned(5));
}

/* A huge page of the pool becomes small pages, and one again: its frames change, also those of
 * pages that are not converted. */
static void pool_setup(void *ctx)
{
	(void)ctx;
	pair.machine.host.pool[0] = 1;
	start(SIM_BLOCK,
	      QUIRE_GMEM_MMAP | QUIRE_GMEM_HUGETLB | UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT);
	if (pair_store(0, 6, 1))
		abort();
}

static void pool_split_setup(void *ctx)
{
	pool_setup(ctx);
	if (convert(5, 0) || pair_store(0, 6, 1))
		abort();
}

static void pool_join_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, 6, 7);
	else
		pair.results[1] = convert(5, QUIRE_ATTRIBUTE_PRIVATE);
}

static bool pool_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= !pair_load(1, 6, &pair.bytes[1]) && pair.bytes[1] == 7 && is_owned(6);
	good &= !pair_load(0, 5, &pair.bytes[0]) && pair.bytes[0] == 0;
	good &= is_owned(5) == (view(5) == SIM_VIEW_HIDDEN);
	return stop(good) && !pair.machine.host.pool_reserved[0];
}

/* Two conversions of one page: one follows the other. */
static void both_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	pair.results[thread] = convert(PAIR_PAGE, thread ? QUIRE_ATTRIBUTE_PRIVATE : 0);
}

static bool both_check(void *ctx)
{
	bool private = quire_vm_get_attributes(pair.machine.vm, (gfn_t){PAIR_PAGE}) != 0;
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= view(PAIR_PAGE) == (private ? SIM_VIEW_HIDDEN : SIM_VIEW_SHOWN);
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 1;
	return stop(good && is_owned(PAIR_PAGE) == private);
}

/* The page goes under a conversion: what comes afterwards is zeros, of the new kind. */
static void punch_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
	else
		pair.results[1] = convert(PAIR_PAGE, 0);
}

static bool punch_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !is_owned(PAIR_PAGE);

	(void)ctx;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 0;
	return stop(good && !is_owned(PAIR_PAGE));
}

/* A vCPU takes the page into its hands: it has it, or it is refused, and so is the conversion. */
static void map_body(uint32_t thread, void *ctx)
{
	struct quire_vcpu *vcpu = pair.machine.vcpus[0];
	struct quire_map map;

	(void)ctx;
	if (thread) {
		pair.results[1] = convert(PAIR_PAGE, QUIRE_ATTRIBUTE_PRIVATE);
		return;
	}
	pair.results[0] = quire_vcpu_map(vcpu, (gpa_t){PAIR_GPA}, QUIRE_MAP_READ, &map);
	if (pair.results[0])
		return;
	sched_yield_point();
	pair.bytes[0] = quire_vm_get_attributes(pair.machine.vm, (gfn_t){PAIR_PAGE}) == 0 &&
			view(PAIR_PAGE) != SIM_VIEW_HIDDEN;
	quire_vcpu_unmap(vcpu, &map);
}

static bool map_check(void *ctx)
{
	bool mapped = pair.results[0] == 0, converted = pair.results[1] == 0;

	(void)ctx;
	return stop((mapped ? pair.bytes[0] == 1 : pair.results[0] == -EFAULT && converted) &&
		    (converted || (mapped && pair.results[1] == -EAGAIN)));
}

/* Its slot goes meanwhile, which waits for the vCPU: the page is in hand all the same. */
static void map_deleted_body(uint32_t thread, void *ctx)
{
	const struct quire_region nothing = {0};
	struct quire_vcpu *vcpu = pair.machine.vcpus[0];
	struct quire_map map;

	(void)ctx;
	if (thread) {
		pair.results[1] = quire_vm_set_region(pair.machine.vm, &nothing);
		return;
	}
	pair.results[0] = quire_vcpu_map(vcpu, (gpa_t){PAIR_GPA}, QUIRE_MAP_READ, &map);
	if (pair.results[0])
		return;
	pair.bytes[0] = convert(PAIR_PAGE, QUIRE_ATTRIBUTE_PRIVATE) == -EAGAIN;
	quire_vcpu_unmap(vcpu, &map);
}

static bool map_deleted_check(void *ctx)
{
	(void)ctx;
	return stop((pair.results[0] == 0 ? pair.bytes[0] == 1 : pair.results[0] == -EFAULT) &&
		    pair.results[1] == 0 && convert(PAIR_PAGE, QUIRE_ATTRIBUTE_PRIVATE) == 0);
}

/* Another VM shows the page, too. */
static void linked_setup(void *ctx)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};
	uint8_t byte;

	private_warm_setup(ctx);
	machine_start_second(&second, &pair.machine);
	if (quire_gmem_link(pair.gmem, second.vm, &linked))
		abort();
	region.gmem = linked;
	if (quire_vm_set_region(second.vm, &region) || machine_load(&second, 1, PAIR_GPA, &byte) ||
	    byte != 1)
		abort();
}

static void linked_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = machine_store(&second, 0, PAIR_GPA, 7);
	else
		pair.results[1] = convert(PAIR_PAGE, 0);
}

static bool linked_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && view(PAIR_PAGE) == SIM_VIEW_SHOWN;

	(void)ctx;
	good &= quire_vm_get_attributes(second.vm, (gfn_t){PAIR_PAGE}) == 0;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 7;
	quire_gmem_release(linked);
	good &= machine_is_sound(&second);
	machine_end_vm(&second);
	return stop(good);
}

const struct pair pairs_convert[] = {
    {"fault and conversion to private", 2, shared_setup, to_private_body, to_private_check, 0},
    {"store and conversion to private", 2, shared_warm_setup, to_private_body, to_private_check, 0},
    {"fault and conversion to shared", 2, private_setup, to_shared_body, to_shared_check, 0},
    {"store and conversion to shared", 2, private_warm_setup, to_shared_body, to_shared_check, 0},
    {"fault beside a conversion in a block", 1, huge_setup, huge_body, huge_check, 0},
    {"store beside the split of a huge page", 2, pool_setup, huge_body, pool_check, 0},
    {"store and the reunion of a huge page", 2, pool_split_setup, pool_join_body, pool_check, 0},
    {"two conversions in place", 2, private_warm_setup, both_body, both_check, 0},
    {"punch and conversion in place", 2, private_warm_setup, punch_body, punch_check, 0},
    {"a page in hand and conversion to private", 2, shared_warm_setup, map_body, map_check, 0},
    {"a page in hand and the end of its slot", 2, shared_warm_setup, map_deleted_body,
     map_deleted_check, 0},
    {"store and another VM's conversion", 2, linked_setup, linked_body, linked_check, 0},
    {.name = NULL},
};
