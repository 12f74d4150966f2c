/* The host asks which pages the guest has used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <quire/vcpu.h>
#include <quire/vm.h>

#include "hosts/process/process.h"
#include "hosts/sim/sim.h"

#define PAGES 8u
#define PAGE QUIRE_PAGE_SIZE

static struct sim_host host;
static struct quire_vm *vm;
static struct quire_vcpu *vcpu;

static void start(void)
{
	struct quire_vm_config config = {
	    .maxphyaddr = 48, .mmio_caching = 1, .host = &sim_host_ops, .host_ctx = &host};
	struct quire_region region = {.size_bytes = PAGES * PAGE, .hva = sim_hva(0)};

	assert_true(sim_host_init(&host));
	for (uint32_t page = 0; page < PAGES; page++)
		sim_map(&host, page, SIM_MAPPED | SIM_WRITABLE);
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	assert_int_equal(quire_vcpu_create(vm, 0, NULL, &vcpu), 0);
	assert_int_equal(quire_vm_set_region(vm, &region), 0);
	/* The same client memory in another place. */
	region.slot = 1;
	region.gpa.v = 64 * PAGE;
	assert_int_equal(quire_vm_set_region(vm, &region), 0);
}

static void stop(void)
{
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
	sim_host_destroy(&host);
}

static void use(uint64_t gpa)
{
	struct quire_memory_fault fault;
	struct quire_stage2 stage2;
	uint64_t requests;

	/* Entering makes the table that a fault needs. */
	assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(vcpu);
	assert_int_equal(quire_vcpu_fault(vcpu, (gpa_t){gpa}, 0, &fault), QUIRE_FIXED);
}

static int age(uint32_t first, uint32_t end, enum quire_age kind)
{
	return quire_vm_age(vm, sim_hva(first), sim_hva(end), kind);
}

static void test_used_pages(void **state)
{
	(void)state;
	start();
	assert_int_equal(age(0, PAGES, QUIRE_AGE_TEST), 0);
	use(3 * PAGE);
	assert_int_equal(age(0, PAGES, QUIRE_AGE_TEST), 1);
	assert_int_equal(age(3, 4, QUIRE_AGE_TEST), 1);
	assert_int_equal(age(0, 3, QUIRE_AGE_CLEAR), 0);
	assert_int_equal(age(4, PAGES, QUIRE_AGE_CLEAR), 0);
	/* Asking does not change the answer, forgetting does. */
	assert_int_equal(age(0, PAGES, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(age(0, PAGES, QUIRE_AGE_TEST), 0);
	assert_int_equal(age(0, PAGES, QUIRE_AGE_CLEAR), 0);
	stop();
}

static void test_every_slot(void **state)
{
	(void)state;
	start();
	use((64 + 5) * PAGE);
	assert_int_equal(age(5, 6, QUIRE_AGE_TEST), 1);
	use(5 * PAGE);
	assert_int_equal(age(5, 6, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(age(5, 6, QUIRE_AGE_TEST), 0);
	stop();
}

/* What was never touched is not used, though it is mapped. */
static void test_prefaulted_pages(void **state)
{
	uint64_t done = 0;

	(void)state;
	start();
	use(5 * PAGE);
	assert_int_equal(age(5, 6, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(quire_vcpu_prefault(vcpu, (gpa_t){2 * PAGE}, PAGE, &done), 0);
	assert_int_equal(done, PAGE);
	assert_int_equal(age(0, PAGES, QUIRE_AGE_TEST), 0);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_used_pages),
	    cmocka_unit_test(test_every_slot),
	    cmocka_unit_test(test_prefaulted_pages),
	};

	quire_platform_install(&process_platform);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
