/* Pairs: guest writes against everything that reads, arms, starts and stops the dirty log. */
#include <stdlib.h>

#include "tests/sim/pairs.h"

/* What CLEAR and the start with all bits set are called by KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
#define MANUAL 1u
#define MANUAL_INITIALLY_SET 3u

/* Written and harvested before: the entry is there, without W. */
static void harvest_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	if (pair_store(0, PAIR_PAGE, 1) || pair_harvest() || !pair_logged(PAIR_PAGE))
		abort();
}

/* Written and not harvested: the entry has W, and vCPU 0 the translation. */
static void written_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static void harvest_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		pair.results[0] |= pair_store(0, PAIR_PAGE, 3);
		return;
	}
	pair.results[1] = pair_harvest();
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

/* A third vCPU in guest mode: no harvest may take the short way of an idle guest. It leaves when it
 * is asked to, or when no thread is left that would. */
static uint32_t running;

static void busy_setup(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	running = 2;
	if (quire_vcpu_enter(pair.machine.vcpus[1], &requests, &stage2))
		abort();
}

static void busy_harvest_setup(void *ctx)
{
	harvest_setup(ctx);
	busy_setup();
}

static void busy_written_setup(void *ctx)
{
	written_setup(ctx);
	busy_setup();
}

static void busy_harvest_body(uint32_t thread, void *ctx)
{
	const uint64_t *doorbell = quire_vcpu_doorbell(pair.machine.vcpus[1]);

	if (thread < 2) {
		harvest_body(thread, ctx);
		running--;
		return;
	}
	while (!*doorbell && running)
		sched_platform.relax(0);
	quire_vcpu_leave(pair.machine.vcpus[1]);
}

/* The next harvest names the page, if it was written after a copy that the first one led to. */
static bool harvest_check(void *ctx)
{
	bool first = pair_logged(PAIR_PAGE), good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= pair_harvest() == 0;
	good &= pair_logged(PAIR_PAGE) || (first && pair.bytes[1] == 3);
	/* And so on: no write slips through later either. */
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* CLEAR of one page while both of a word are written: the other's bit stays. */
static void clear_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	if (quire_vm_set_manual_protect(pair.machine.vm, MANUAL))
		abort();
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	if (pair_store(0, PAIR_PAGE, 1) || pair_store(0, 2, 1) || pair_harvest())
		abort();
}

static void clear_body(uint32_t thread, void *ctx)
{
	const uint64_t words[] = {UINT64_C(1) << PAIR_PAGE};

	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		return;
	}
	pair.results[1] = pair_clear(0, 4, words);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool clear_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_harvest();

	(void)ctx;
	good &= pair_logged(PAIR_PAGE) || pair.bytes[1] == 2;
	good &= pair_logged(2);
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* GET while CLEAR takes two bits of one word: it names both pages, or neither. */
static void get_body(uint32_t thread, void *ctx)
{
	const uint64_t words[] = {UINT64_C(1) << PAIR_PAGE | UINT64_C(1) << 2};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_harvest();
	else
		pair.results[1] = pair_clear(0, 4, words);
}

static bool get_check(void *ctx)
{
	bool good =
	    !pair.results[0] && !pair.results[1] && pair_logged(PAIR_PAGE) == pair_logged(2);

	(void)ctx;
	good &= !pair_harvest() && !pair_logged(PAIR_PAGE) && !pair_logged(2);
	good &= !pair_store(0, 2, 4) && !pair_harvest() && pair_logged(2);
	return machine_stop(&pair.machine) && good;
}

/* All bits set from the start, a huge writable leaf, and a prefault that splits it under CLEAR. */
static void clear_huge_setup(void *ctx)
{
	(void)ctx;
	pair.machine.tunables.eager_page_split = 0;
	pair_start(QUIRE_VM_DEFAULT);
	if (quire_vm_set_manual_protect(pair.machine.vm, MANUAL_INITIALLY_SET))
		abort();
	pair_map_huge(0);
	if (pair_store(0, 0, 1) || pair_set_flags(SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY))
		abort();
}

static void clear_huge_store_setup(void *ctx)
{
	clear_huge_setup(ctx);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

/* The vCPU has the huge translation with W, and goes on writing while CLEAR takes it away. */
static void clear_huge_store_body(uint32_t thread, void *ctx)
{
	const uint64_t words[] = {UINT64_C(1) << PAIR_PAGE};

	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		return;
	}
	pair.results[1] = pair_clear(0, 64, words);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static void clear_huge_body(uint32_t thread, void *ctx)
{
	const uint64_t words[] = {0, UINT64_C(1) << 6};
	uint64_t done;

	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_clear(0, 128, words);
	else
		pair.results[1] = quire_vcpu_prefault(
		    pair.machine.vcpus[1], (gpa_t){PAIR_GPA_OF(5)}, QUIRE_PAGE_SIZE, &done);
}

static bool clear_huge_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= !pair_harvest() && !pair_logged(70) && pair_logged(71);
	good &= !pair_store(0, 70, 2) && !pair_harvest() && pair_logged(70);
	return machine_stop(&pair.machine) && good;
}

static bool clear_huge_store_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_harvest();

	(void)ctx;
	good &= pair_logged(PAIR_PAGE) || pair.bytes[1] == 2;
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* The huge leaf is split on request, while CLEAR takes W from it. */
static void clear_split_body(uint32_t thread, void *ctx)
{
	uint64_t done = 0;

	if (thread == 1)
		clear_huge_store_body(thread, ctx);
	else
		pair.results[0] =
		    quire_vm_split(pair.machine.vm, 0, (gpa_t){0}, QUIRE_PAGE_SIZE, &done);
}

/* No page of the block may be written without a mark, whichever thread was first. */
static bool clear_split_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_harvest();

	(void)ctx;
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* Logging starts under a vCPU that writes: what is written after the call returned is logged. */
static void start_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static void start_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		return;
	}
	pair.results[1] = pair_set_flags(4, QUIRE_SLOT_LOG_DIRTY);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool start_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_harvest();

	(void)ctx;
	good &= pair_logged(PAIR_PAGE) || pair.bytes[1] == 2;
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

static void start_huge_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static void start_huge_fault_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
}

static void start_huge_lazy_setup(void *ctx)
{
	pair.machine.tunables.eager_page_split = 0;
	start_huge_setup(ctx);
}

static void start_huge_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		return;
	}
	pair.results[1] = pair_set_flags(SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

/* A thread of the client's splits ahead, while the vCPU writes, and a lazy log starts. */
static void split_start_body(uint32_t thread, void *ctx)
{
	uint64_t done = 0;

	if (thread == 1 &&
	    (quire_vm_split(pair.machine.vm, 0, (gpa_t){0}, SIM_BLOCK * QUIRE_PAGE_SIZE, &done) ||
	     done != SIM_BLOCK * QUIRE_PAGE_SIZE))
		abort();
	start_huge_body(thread, ctx);
}

static bool start_huge_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_harvest();

	(void)ctx;
	good &= pair_logged(PAIR_PAGE) || pair.bytes[1] == 2;
	/* One mark stands for one page: the others are not writable with it. */
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_store(1, 9, 4) && !pair_harvest();
	good &= pair_logged(PAIR_PAGE) && pair_logged(9) && !pair_logged(8);
	return machine_stop(&pair.machine) && good;
}

/* Logging stops and huge pages come back, while the host replaces a page of the block. */
static void stop_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(QUIRE_SLOT_LOG_DIRTY);
	if (pair_store(0, 0, 1) || pair_store(0, 5, 1) || pair_store(0, 6, 1))
		abort();
}

static void stop_replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[1] = pair_set_flags(SIM_BLOCK, 0);
	else
		pair.frame = pair_host_replace(5);
}

static bool stop_replace_check(void *ctx)
{
	bool good = !pair.results[1];

	(void)ctx;
	good &= !pair_store(0, 5, 9) && pair_byte(5)[0] == 9 && pair_untouched(pair.frame);
	good &= !pair_store(0, 6, 9) && pair_byte(6)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

static void stop_fault_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, 5, 7) | pair_store(0, 8, 7);
	else
		pair.results[1] = pair_set_flags(SIM_BLOCK, 0);
}

static bool stop_fault_check(void *ctx)
{
	bool good =
	    !pair.results[0] && !pair.results[1] && pair_byte(5)[0] == 7 && pair_byte(8)[0] == 7;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* Rings: entries that were read are armed again under a vCPU that writes the page. */
static void ring_setup(void *ctx)
{
	(void)ctx;
	pair.machine.rings = 1;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	if (pair_store(0, PAIR_PAGE, 1) || pair_store(0, 2, 1))
		abort();
}

static void note_entry(void *ctx, uint32_t slot, uint64_t offset)
{
	(void)ctx;
	(void)slot;
	pair.log[offset / 64] |= UINT64_C(1) << (offset % 64);
}

static void read_rings(void)
{
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++)
		machine_read_ring(&pair.machine, vcpu, note_entry, NULL);
}

/* Its first store takes the fast path. */
static void ring_armed_setup(void *ctx)
{
	ring_setup(ctx);
	read_rings();
	if (quire_vm_reset_dirty_rings(pair.machine.vm, NULL) < 0)
		abort();
	pair.log[0] = 0;
}

static uint32_t asked;

static int interrupted_late(void)
{
	return asked++ > 0;
}

static void ring_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		pair.results[0] |= pair_store(0, PAIR_PAGE, 3);
		return;
	}
	read_rings();
	pair.results[1] = quire_vm_reset_dirty_rings(pair.machine.vm, NULL) < 0;
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
	pair.log[0] = 0;
}

static void ring_interrupted_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 3);
		return;
	}
	read_rings();
	asked = 0;
	pair.results[1] = quire_vm_reset_dirty_rings(pair.machine.vm, interrupted_late) != 1;
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
	pair.log[0] = 0;
}

/* The library writes for vCPU 0, whose newest entry is that page already. */
static void ring_own_setup(void *ctx)
{
	const uint8_t byte = 1;

	(void)ctx;
	pair.machine.rings = 1;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	if (quire_vcpu_write(pair.machine.vcpus[0], (gpa_t){PAIR_GPA}, &byte, 1))
		abort();
}

static int own_write(uint8_t byte)
{
	return quire_vcpu_write(pair.machine.vcpus[0], (gpa_t){PAIR_GPA}, &byte, 1);
}

static void ring_own_body(uint32_t thread, void *ctx)
{
	if (thread == 0)
		pair.results[0] = own_write(2) | own_write(3);
	else
		ring_body(thread, ctx);
}

static bool ring_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	read_rings();
	good &= pair_logged(PAIR_PAGE) || pair.bytes[1] == 3;
	good &= quire_vm_reset_dirty_rings(pair.machine.vm, NULL) >= 0;
	pair.log[0] = 0;
	good &= !pair_store(0, PAIR_PAGE, 4);
	read_rings();
	good &= pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

const struct pair pairs_log[] = {
    {"fast fault and harvest", 2, harvest_setup, harvest_body, harvest_check, 0},
    {"store and harvest", 2, written_setup, harvest_body, harvest_check, 0},
    {"fast fault and harvest, busy guest", 2, busy_harvest_setup, busy_harvest_body, harvest_check,
     3},
    {"store and harvest, busy guest", 2, busy_written_setup, busy_harvest_body, harvest_check, 3},
    {"store and CLEAR", 2, clear_setup, clear_body, clear_check, 0},
    {"GET and CLEAR", 2, clear_setup, get_body, get_check, 0},
    {"huge store and CLEAR", 2, clear_huge_store_setup, clear_huge_store_body,
     clear_huge_store_check, 0},
    {"CLEAR and prefault of a huge page", 2, clear_huge_setup, clear_huge_body, clear_huge_check,
     0},
    {"store and start of logging", 2, start_setup, start_body, start_check, 0},
    {"huge store and start of logging", 2, start_huge_setup, start_huge_body, start_huge_check, 0},
    {"huge fault and start of logging", 2, start_huge_fault_setup, start_huge_body,
     start_huge_check, 0},
    {"huge store and split before a lazy start of logging", 1, start_huge_lazy_setup,
     split_start_body, start_huge_check, 0},
    {"split and CLEAR", 2, clear_huge_store_setup, clear_split_body, clear_split_check, 0},
    {"huge store and lazy start of logging", 2, start_huge_lazy_setup, start_huge_body,
     start_huge_check, 0},
    {"host invalidation and end of logging", 2, stop_setup, stop_replace_body, stop_replace_check,
     0},
    {"fault and end of logging", 2, stop_setup, stop_fault_body, stop_fault_check, 0},
    {"store and reset of rings", 2, ring_setup, ring_body, ring_check, 0},
    {"fast fault and reset of rings", 2, ring_armed_setup, ring_body, ring_check, 0},
    {"own write and reset of rings", 2, ring_own_setup, ring_own_body, ring_check, 0},
    {"store and interrupted reset of rings", 2, ring_setup, ring_interrupted_body, ring_check, 0},
    {.name = NULL},
};
