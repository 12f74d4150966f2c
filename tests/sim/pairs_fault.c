/* Pairs: faults against faults, prefaults and the host's invalidations. */
#include <errno.h>

#include <quire/stats.h>

#include "tests/sim/pairs.h"

static void small_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
}

static void huge_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
}

/* vCPU 0 has the translation in its TLB. */
static void warm_setup(void *ctx)
{
	small_setup(ctx);
	pair.results[0] = pair_store(0, PAIR_PAGE, 1);
}

static void huge_warm_setup(void *ctx)
{
	huge_setup(ctx);
	pair.results[0] = pair_store(0, 5, 1) | pair_store(0, 6, 1);
}

/* Two vCPUs fault the same page: one leaf, counted once, both accesses done. */
static void two_faults_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	pair.results[thread] =
	    machine_store(&pair.machine, thread, PAIR_GPA + thread, (uint8_t)(thread + 1));
}

static bool two_stored(void)
{
	const uint8_t *bytes = pair_byte(PAIR_PAGE);

	return !pair.results[0] && !pair.results[1] && bytes[0] == 1 && bytes[1] == 2;
}

static bool two_faults_check(void *ctx)
{
	bool good = two_stored() && quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_4k) == 1;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

static bool two_huge_check(void *ctx)
{
	bool good = two_stored() && quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_2m) == 1 &&
		    quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_4k) == 0;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* The host replaces the page under a vCPU that stores: after begin no store reaches the old frame,
 * and after end every access is to the new one. */
static void replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.frame = pair_host_replace(PAIR_PAGE);
	pair.results[1] = pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

static bool replace_check(void *ctx)
{
	uint8_t now = pair_byte(PAIR_PAGE)[0];
	/* Between begin and end there is no page: the store may be refused. */
	bool good = (pair.results[0] == 0 || pair.results[0] == -EFAULT) && !pair.results[1] &&
		    (now == 0 || now == 7) && (pair.bytes[1] == 0 || pair.bytes[1] == 7);

	(void)ctx;
	good &= pair_untouched(pair.frame);
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* The host replaces page 5 of a huge page while a vCPU uses page 6 beside it. */
static void neighbour_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, 6, 7);
		return;
	}
	pair.frame = pair_host_replace(5);
	pair.results[1] = pair_load(1, 5, &pair.bytes[1]);
}

static bool neighbour_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair.bytes[1] == 0 &&
		    pair_byte(6)[0] == 7 && pair_untouched(pair.frame);

	(void)ctx;
	good &= !pair_store(0, 5, 9) && pair_byte(5)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* Two invalidations at a time, of neighbouring pages, with a vCPU's store in each thread. */
static void two_replaces_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	(void)pair_host_replace(thread + 1);
	pair.results[thread] = pair_store(thread, thread + 1, (uint8_t)(thread + 1));
}

static bool two_replaces_check(void *ctx)
{
	bool good =
	    !pair.results[0] && !pair.results[1] && pair_byte(1)[0] == 1 && pair_byte(2)[0] == 2;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* A prefault while the slot is deleted: an answer, not a deadlock, and nothing mapped after. */
static void prefault_body(uint32_t thread, void *ctx)
{
	uint64_t done;

	(void)ctx;
	if (thread == 0)
		pair.results[0] = quire_vcpu_prefault(pair.machine.vcpus[0], (gpa_t){PAIR_GPA},
						      QUIRE_PAGE_SIZE, &done);
	else
		pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
}

static bool prefault_check(void *ctx)
{
	int result = pair.results[0];
	bool good = (!result || result == -ENOENT || result == -EAGAIN) && !pair.results[1] &&
		    pair_store(0, PAIR_PAGE, 9) == QUIRE_EMULATE;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* A prefault, while a slot of 2 MiB in small pages goes with the table that maps them: it reports
 * what it mapped, and not the hole after. */
static void prefault_hole_setup(void *ctx)
{
	huge_setup(ctx);
	sim_unmap(&pair.machine.host, SIM_BLOCK - 1);
	sim_map(&pair.machine.host, SIM_BLOCK - 1, SIM_WRITABLE);
	quire_vm_set_slot_zap_all(pair.machine.vm, 0);
}

static void prefault_hole_body(uint32_t thread, void *ctx)
{
	uint64_t done = 0;

	(void)ctx;
	if (thread == 1) {
		(void)machine_add_slot(&pair.machine, 0, 0, 0);
		return;
	}
	pair.results[0] = quire_vcpu_prefault(pair.machine.vcpus[0], (gpa_t){PAIR_GPA},
					      3 * QUIRE_PAGE_SIZE, &done);
	pair.results[1] = (int)done;
}

static bool prefault_hole_check(void *ctx)
{
	int result = pair.results[0];

	(void)ctx;
	return machine_stop(&pair.machine) && (result ? result == -ENOENT || result == -EAGAIN
						      : pair.results[1] == (int)QUIRE_PAGE_SIZE);
}

const struct pair pairs_fault[] = {
    {"fault and fault", 2, small_setup, two_faults_body, two_faults_check, 0},
    {"huge fault and huge fault", 2, huge_setup, two_faults_body, two_huge_check, 0},
    {"fault and host invalidation", 2, small_setup, replace_body, replace_check, 0},
    {"store and host invalidation", 2, warm_setup, replace_body, replace_check, 0},
    {"huge fault and invalidation of a neighbour", 2, huge_setup, neighbour_body, neighbour_check,
     0},
    {"huge page and invalidation of a part", 2, huge_warm_setup, neighbour_body, neighbour_check,
     0},
    {"two host invalidations", 2, small_setup, two_replaces_body, two_replaces_check, 0},
    {"prefault and slot deletion", 2, warm_setup, prefault_body, prefault_check, 0},
    {"prefault and a table that goes", 2, prefault_hole_setup, prefault_hole_body,
     prefault_hole_check, 0},
    {.name = NULL},
};
