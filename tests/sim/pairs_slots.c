/* Pairs: faults and host invalidations against changes of the slots. */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/pairs.h"

static void delete_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
}

static void delete_warm_setup(void *ctx)
{
	delete_setup(ctx);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

/* The root is there, the page is not mapped. */
static void delete_cold_setup(void *ctx)
{
	delete_setup(ctx);
	if (pair_store(0, 2, 1))
		abort();
	quire_vm_set_slot_zap_all(pair.machine.vm, 0);
}

static void delete_range_setup(void *ctx)
{
	delete_warm_setup(ctx);
	quire_vm_set_slot_zap_all(pair.machine.vm, 0);
}

/* Deleting the slot under a vCPU: the store lands in the page, or the guest sees MMIO; once the
 * call has returned, nothing lands any more. */
static void delete_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool delete_check(void *ctx)
{
	uint8_t byte = pair_byte(PAIR_PAGE)[0];
	bool good = !pair.results[1] && ((!pair.results[0] && byte == 7) ||
					 (pair.results[0] == QUIRE_EMULATE && byte != 7));

	(void)ctx;
	good &= byte == pair.bytes[1];
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++)
		good &= pair_store(vcpu, PAIR_PAGE, 9) == QUIRE_EMULATE;
	good &= pair_byte(PAIR_PAGE)[0] == byte;
	return machine_stop(&pair.machine) && good;
}

/* The client deletes the slot and unmaps its memory. The guest finds the page, or no slot; that
 * there is no memory any more is nothing to it. */
static void free_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
	sim_unmap(&pair.machine.host, PAIR_PAGE);
}

static bool free_check(void *ctx)
{
	(void)ctx;
	return machine_stop(&pair.machine) && !pair.results[1] &&
	       (!pair.results[0] || pair.results[0] == QUIRE_EMULATE);
}

/* A slot appears where the guest found none, and has an MMIO entry that says so. */
static void create_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	for (uint32_t page = 0; page < 4; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE);
	if (pair_load(0, PAIR_PAGE, &pair.bytes[0]) != QUIRE_EMULATE)
		abort();
}

static void create_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.results[1] = pair_set_flags(4, 0);
}

static bool create_check(void *ctx)
{
	uint8_t byte = pair_byte(PAIR_PAGE)[0];
	bool good = !pair.results[1] && ((!pair.results[0] && byte == 7) ||
					 (pair.results[0] == QUIRE_EMULATE && byte == 0));

	(void)ctx;
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++)
		good &= !pair_store(vcpu, PAIR_PAGE, 9);
	good &= pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* Another slot at the same gfn: the first memory is out of reach when the second is there. */
static void replace_slot_body(uint32_t thread, void *ctx)
{
	struct quire_region other = {
	    .slot = 1, .size_bytes = 2 * QUIRE_PAGE_SIZE, .hva = sim_hva(2)};

	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] =
	    machine_add_slot(&pair.machine, 0, 0, 0) | quire_vm_set_region(pair.machine.vm, &other);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool replace_slot_check(void *ctx)
{
	bool good = !pair.results[1] && (!pair.results[0] || pair.results[0] == QUIRE_EMULATE);

	(void)ctx;
	good &= pair_byte(PAIR_PAGE)[0] == pair.bytes[1];
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(3)[0] == 9;
	good &= pair_byte(PAIR_PAGE)[0] == pair.bytes[1];
	return machine_stop(&pair.machine) && good;
}

/* A moving slot: the guest finds it at the old place, at the new one, or for a moment nowhere. */
static void move_body(uint32_t thread, void *ctx)
{
	struct quire_region there = {
	    .gpa = {PAIR_GPA_OF(16)}, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.results[1] = quire_vm_set_region(pair.machine.vm, &there);
}

static bool move_check(void *ctx)
{
	uint8_t byte = pair_byte(PAIR_PAGE)[0];
	bool good = !pair.results[1] && ((!pair.results[0] && byte == 7) ||
					 (pair.results[0] == QUIRE_EMULATE && byte != 7));

	(void)ctx;
	good &= pair_store(0, PAIR_PAGE, 8) == QUIRE_EMULATE;
	good &= !pair_store(0, 16 + PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* A host invalidation while slots come or go: it ends as it began. */
static void invalidate_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		(void)pair_host_replace(PAIR_PAGE);
	else
		pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
}

static bool invalidate_check(void *ctx)
{
	bool good = !pair.results[1] && machine_is_sound(&pair.machine);

	(void)ctx;
	good &= !pair_set_flags(4, 0) && !pair_store(0, PAIR_PAGE, 9);
	good &= pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* A vCPU reads an MMIO entry in the tables that go away with the slot. */
static void mmio_setup(void *ctx)
{
	delete_warm_setup(ctx);
	if (pair_load(0, 100, &pair.bytes[0]) != QUIRE_EMULATE)
		abort();
}

static void mmio_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = machine_add_slot(&pair.machine, 0, 0, 0);
	else
		pair.results[1] = pair_load(1, 100, &pair.bytes[1]);
}

static bool mmio_check(void *ctx)
{
	bool good = !pair.results[0] && pair.results[1] == QUIRE_EMULATE;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* All roots go, for a slot that no vCPU uses, while the host replaces a page of another: a
 * vCPU that is still below the old root must not reach the old frame either. */
static void roots_setup(void *ctx)
{
	struct quire_region other = {
	    .slot = 1, .gpa = {PAIR_GPA_OF(16)}, .size_bytes = QUIRE_PAGE_SIZE, .hva = sim_hva(3)};

	delete_warm_setup(ctx);
	if (quire_vm_set_region(pair.machine.vm, &other))
		abort();
}

static void roots_body(uint32_t thread, void *ctx)
{
	struct quire_region gone = {.slot = 1};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else if (thread == 1)
		pair.results[1] = quire_vm_set_region(pair.machine.vm, &gone);
	else
		pair.frame = pair_host_replace(PAIR_PAGE);
}

static bool roots_check(void *ctx)
{
	/* Between begin and end there is no page: the store may be refused. */
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && !pair.results[1] &&
		    pair_untouched(pair.frame);

	(void)ctx;
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* The page is in both address spaces, and the vCPU goes from one to the other. */
static void spaces_setup(void *ctx)
{
	struct quire_region other = {
	    .slot = 1u << 16, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	delete_range_setup(ctx);
	if (quire_vm_set_region(pair.machine.vm, &other))
		abort();
}

static int store_in(uint32_t space, uint8_t value)
{
	if (quire_vcpu_set_address_space(pair.machine.vcpus[0], space))
		abort();
	return pair_store(0, PAIR_PAGE, value);
}

static void space_delete_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 1) {
		pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
		pair.bytes[1] = 1;
		return;
	}
	pair.bytes[0] = (uint8_t)store_in(1, 7);
	pair.results[0] = store_in(0, 8);
}

static bool space_delete_check(void *ctx)
{
	bool good = !pair.results[1] && !pair.bytes[0] &&
		    (!pair.results[0] || pair.results[0] == QUIRE_EMULATE);

	(void)ctx;
	good &= pair_byte(PAIR_PAGE)[0] == (pair.results[0] ? 7 : 8);
	good &= store_in(0, 9) == QUIRE_EMULATE && pair_byte(PAIR_PAGE)[0] != 9;
	good &= !store_in(1, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

static void space_replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 1) {
		pair.frame = pair_host_replace(PAIR_PAGE);
		return;
	}
	pair.results[0] = store_in(1, 7);
	pair.results[1] = store_in(0, 7);
}

static bool space_replace_check(void *ctx)
{
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) &&
		    (!pair.results[1] || pair.results[1] == -EFAULT) && pair_untouched(pair.frame);

	(void)ctx;
	for (uint32_t space = 0; space < 2; space++)
		good &= !store_in(space, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

const struct pair pairs_slots[] = {
    {"change of the address space and slot deletion", 2, spaces_setup, space_delete_body,
     space_delete_check, 0},
    {"change of the address space and host invalidation", 2, spaces_setup, space_replace_body,
     space_replace_check, 0},
    {"fault and slot deletion", 2, delete_setup, delete_body, delete_check, 0},
    {"slot deletion and MMIO", 2, mmio_setup, mmio_body, mmio_check, 0},
    {"fault and slot deletion by range", 2, delete_cold_setup, delete_body, delete_check, 0},
    {"store and slot deletion", 2, delete_warm_setup, delete_body, delete_check, 0},
    {"store and slot deletion by range", 2, delete_range_setup, delete_body, delete_check, 0},
    {"fault and end of the slot with its memory", 2, delete_cold_setup, free_body, free_check, 0},
    {"MMIO and slot creation", 2, create_setup, create_body, create_check, 0},
    {"store and replacement of the slot", 2, delete_range_setup, replace_slot_body,
     replace_slot_check, 0},
    {"fault and replacement of the slot", 2, delete_setup, replace_slot_body, replace_slot_check,
     0},
    {"store and slot move", 2, delete_warm_setup, move_body, move_check, 0},
    {"host invalidation and slot deletion", 2, delete_warm_setup, invalidate_body, invalidate_check,
     0},
    {"store and host invalidation at the end of all roots", 2, roots_setup, roots_body, roots_check,
     3},
    {.name = NULL},
};
