/* Pairs of operations under every interleaving with a bounded number of preemptions. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/stats.h>
#include <quire/vcpu.h>

#include "tests/sim/machine.h"

/* Beyond three, runs grow from tens of thousands to millions: that is ./dev soak's. */
#define PREEMPTIONS 2u
#define GPA UINT64_C(0x1000)

static struct machine machine;
static int results[2];
static uint8_t loaded[2];
static struct quire_gmem *gmem;
static uint64_t log_bits;

static void start(enum quire_vm_type type)
{
	machine_start(&machine, type);
	results[0] = results[1] = 1000;
	loaded[0] = loaded[1] = 0xee;
}

static void map_slot(uint32_t flags)
{
	for (uint32_t page = 0; page < 4; page++)
		sim_map(&machine.host, page, SIM_WRITABLE);
	if (machine_add_slot(&machine, 0, 4, flags))
		fail();
}

static void explore(const struct sched_test *test, const char *name)
{
	struct sched_verdict verdict = sched_explore(test);

	print_message("%s: %llu runs\n", name, (unsigned long long)verdict.runs);
	if (verdict.failed) {
		print_message("%s failed, result %d; plan:", name, (int)verdict.result);
		for (uint32_t i = 0; i < verdict.plan.count; i++)
			print_message(" %u->%u", verdict.plan.at[i].step,
				      verdict.plan.at[i].thread);
		print_message("\n");
	}
	assert_false(verdict.failed);
	/* A test that has nothing to interleave proves nothing. */
	assert_true(verdict.runs > 100);
}

/* Two vCPUs fault the same page: one leaf, counted once, both accesses done. */
static void two_faults_setup(void *ctx)
{
	(void)ctx;
	start(QUIRE_VM_DEFAULT);
	map_slot(0);
}

static void two_faults_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	results[thread] = machine_store(&machine, thread, GPA + thread, (uint8_t)(thread + 1));
}

static bool two_faults_check(void *ctx)
{
	const uint8_t *bytes = machine.host.frames[machine.host.pages[1].frame].bytes;
	bool good = results[0] == 0 && results[1] == 0 && bytes[0] == 1 && bytes[1] == 2 &&
		    quire_vm_stat(machine.vm, QUIRE_VM_STAT_pages_4k) == 1;

	(void)ctx;
	return machine_stop(&machine) && good;
}

static void test_two_faults(void **state)
{
	struct sched_test test = {.threads = 2,
				  .preemptions_max = PREEMPTIONS,
				  .setup = two_faults_setup,
				  .body = two_faults_body,
				  .check = two_faults_check};

	(void)state;
	explore(&test, "fault and fault");
}

/* The host replaces the page under a faulting vCPU: after begin, no store reaches the old frame. */
static uint32_t old_frame;

static void host_replace_body(uint32_t thread, void *ctx)
{
	hva_t start_hva = sim_hva(1), end_hva = sim_hva(2);

	(void)ctx;
	if (thread == 0) {
		results[0] = machine_store(&machine, 0, GPA, 7);
		return;
	}
	quire_vm_host_invalidate_begin(machine.vm, start_hva, end_hva);
	old_frame = machine.host.pages[1].frame;
	sim_unmap(&machine.host, 1);
	sim_map(&machine.host, 1, SIM_WRITABLE);
	quire_vm_host_invalidate_end(machine.vm, start_hva, end_hva);
	results[1] = machine_load(&machine, 1, GPA, &loaded[1]);
}

static bool host_replace_check(void *ctx)
{
	const uint8_t *now = machine.host.frames[machine.host.pages[1].frame].bytes;
	/* The store came before the replacement and is gone with the old page, or after it and is
	 * in the new one; never in a frame that was freed. */
	bool good = results[0] == 0 && results[1] == 0 && (now[0] == 0 || now[0] == 7);

	(void)ctx;
	if (old_frame != machine.host.pages[1].frame)
		good &= machine.host.frames[old_frame].references > 0 ||
			machine.host.frames[old_frame].bytes[0] == 0xdb;
	return machine_stop(&machine) && good;
}

static void test_host_replace(void **state)
{
	struct sched_test test = {.threads = 2,
				  .preemptions_max = PREEMPTIONS,
				  .setup = two_faults_setup,
				  .body = host_replace_body,
				  .check = host_replace_check};

	(void)state;
	explore(&test, "fault and host invalidation");
}

/* Deleting the slot under a faulting vCPU: the store lands in the page, or the guest sees MMIO. */
static void delete_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		results[0] = machine_store(&machine, 0, GPA, 7);
	else
		results[1] = machine_add_slot(&machine, 0, 0, 0);
}

static bool delete_check(void *ctx)
{
	const uint8_t *bytes = machine.host.frames[machine.host.pages[1].frame].bytes;
	bool good = results[1] == 0 && ((results[0] == 0 && bytes[0] == 7) ||
					(results[0] == QUIRE_EMULATE && bytes[0] == 0));

	(void)ctx;
	good &= machine_store(&machine, 1, GPA, 9) == QUIRE_EMULATE && bytes[0] != 9;
	return machine_stop(&machine) && good;
}

static void test_delete(void **state)
{
	struct sched_test test = {.threads = 2,
				  .preemptions_max = PREEMPTIONS,
				  .setup = two_faults_setup,
				  .body = delete_body,
				  .check = delete_check};

	(void)state;
	explore(&test, "fault and slot deletion");
}

/* Punching a private page under a vCPU that stores: the old byte, or a fresh zero page. */
static void punch_setup(void *ctx)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	(void)ctx;
	start(QUIRE_VM_SW_PROTECTED);
	if (quire_gmem_create(machine.vm, region.size_bytes, 0, NULL, &gmem))
		fail();
	region.gmem = gmem;
	if (quire_vm_set_region(machine.vm, &region) ||
	    quire_vm_set_attributes(machine.vm, (gpa_t){0}, region.size_bytes,
				    QUIRE_ATTRIBUTE_PRIVATE))
		fail();
}

static void punch_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		results[0] = machine_store(&machine, 0, GPA, 7);
		return;
	}
	results[1] = quire_gmem_punch(gmem, GPA, QUIRE_PAGE_SIZE);
}

static bool punch_check(void *ctx)
{
	bool good = results[0] == 0 && results[1] == 0;

	(void)ctx;
	good &= machine_load(&machine, 1, GPA, &loaded[1]) == 0;
	good &= loaded[1] == 0 || loaded[1] == 7;
	quire_gmem_release(gmem);
	return machine_stop(&machine) && good;
}

static void test_punch(void **state)
{
	struct sched_test test = {.threads = 2,
				  .preemptions_max = PREEMPTIONS,
				  .setup = punch_setup,
				  .body = punch_body,
				  .check = punch_check};

	(void)state;
	explore(&test, "fault and punch");
}

/* A store against a harvest of the dirty log: what was written is in this harvest or the next. */
static int take_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)size_bytes;
	log_bits = *(const uint64_t *)src;
	return 0;
}

static void harvest_setup(void *ctx)
{
	(void)ctx;
	start(QUIRE_VM_DEFAULT);
	map_slot(QUIRE_SLOT_LOG_DIRTY);
	/* Written and harvested before: the entry is there, without W. */
	if (machine_store(&machine, 0, GPA, 1) ||
	    quire_vm_get_dirty_log(machine.vm, 0, take_log, NULL))
		fail();
	if (log_bits != 2)
		fail();
	log_bits = 0;
}

static uint8_t byte_at_harvest;

static void harvest_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		results[0] = machine_store(&machine, 0, GPA, 2);
		return;
	}
	results[1] = quire_vm_get_dirty_log(machine.vm, 0, take_log, NULL);
	byte_at_harvest = machine.host.frames[machine.host.pages[1].frame].bytes[0];
}

static bool harvest_check(void *ctx)
{
	uint64_t first = log_bits;
	bool good = results[0] == 0 && results[1] == 0;

	(void)ctx;
	log_bits = 0;
	good &= quire_vm_get_dirty_log(machine.vm, 0, take_log, NULL) == 0;
	/* A copy made after the first harvest is good unless the second names the page. */
	good &= (log_bits & 2) || ((first & 2) && byte_at_harvest == 2);
	return machine_stop(&machine) && good;
}

static void test_harvest(void **state)
{
	struct sched_test test = {.threads = 2,
				  .preemptions_max = PREEMPTIONS,
				  .setup = harvest_setup,
				  .body = harvest_body,
				  .check = harvest_check};

	(void)state;
	explore(&test, "store and dirty-log harvest");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_two_faults), cmocka_unit_test(test_host_replace),
	    cmocka_unit_test(test_delete),     cmocka_unit_test(test_punch),
	    cmocka_unit_test(test_harvest),
	};
	int failed;

	machine_init(&machine);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	machine_destroy(&machine);
	return failed;
}
