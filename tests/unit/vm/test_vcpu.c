/* Making and ending vCPUs: their numbers, and what each refuses; and what is asked of one. */
#include "tests/unit/support.h"

static void test_numbers(void **state)
{
	struct quire_vcpu *vcpu, *again;

	vm_begin();
	assert_int_equal(quire_vcpu_create(machine.vm, 4096, NULL, &vcpu), -EINVAL);
	assert_int_equal(quire_vcpu_create(machine.vm, 4095, NULL, &vcpu), 0);
	assert_int_equal(quire_vcpu_id(vcpu), 4095);
	/* One that is there, of this call or of the machine's. */
	assert_int_equal(quire_vcpu_create(machine.vm, 4095, NULL, &again), -EEXIST);
	assert_int_equal(quire_vcpu_create(machine.vm, 0, NULL, &again), -EEXIST);
	quire_vcpu_destroy(vcpu);
	assert_int_equal(quire_vcpu_create(machine.vm, 4095, NULL, &again), 0);
	quire_vcpu_destroy(again);
	vm_end();
}

/* A request kicks its vCPU, and the first call that asks for it takes it. */
static void test_requests(void **state)
{
	const uint64_t first = UINT64_C(1) << 40, second = UINT64_C(1) << 41;
	struct quire_vcpu *vcpu;
	uint64_t kicks;

	(void)state;
	vm_begin();
	vcpu = machine.vcpus[0];
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), 0);
	kicks = machine.host.kicks;
	quire_vcpu_request(vcpu, first);
	assert_true(machine.host.kicks > kicks);
	quire_vcpu_request(vcpu, second);
	assert_int_equal(quire_vcpu_take_requests(machine.vcpus[1], UINT64_MAX), 0);
	assert_int_equal(quire_vcpu_take_requests(vcpu, second), second);
	assert_int_equal(quire_vcpu_take_requests(vcpu, second), 0);
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), first);
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), 0);
	vm_end();
}

/* A flush is counted when it is asked for, and when it is done; where nothing goes there is none.
 */
static void test_flushes_are_counted(void **state)
{
	uint64_t asked, done;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 1);
	asked = stat(QUIRE_VM_STAT_remote_tlb_flush_requests);
	done = stat(QUIRE_VM_STAT_remote_tlb_flush);
	for (uint32_t page = 3; page > 0; page--) {
		quire_vm_host_invalidate_begin(machine.vm, sim_hva(page), sim_hva(page + 1));
		quire_vm_host_invalidate_end(machine.vm, sim_hva(page), sim_hva(page + 1));
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush_requests),
				 asked + (page == 1));
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), done + (page == 1));
	}
	vm_end();
}

static struct quire_host_ops waiting_ops;
static uint32_t waits;

/* vCPU 1 is in the guest, so the flush waits until it takes the request: asked for, not done. */
static void kick_in_guest(void *ctx, void *cookie)
{
	(void)ctx;
	(void)cookie;
	if (quire_vcpu_take_requests(machine.vcpus[1], QUIRE_REQ_TLB_FLUSH)) {
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush_requests),
				 stat(QUIRE_VM_STAT_remote_tlb_flush) + 1);
		waits++;
	}
}

static void test_flush_under_way_is_not_done(void **state)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 1);
	waiting_ops = sim_host_ops;
	waiting_ops.kick = kick_in_guest;
	machine.vm->flush.host = &waiting_ops;
	waits = 0;
	assert_int_equal(quire_vcpu_enter(machine.vcpus[1], &requests, &stage2), 0);
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(1), sim_hva(2));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(1), sim_hva(2));
	quire_vcpu_leave(machine.vcpus[1]);
	assert_int_equal(waits, 1);
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush_requests),
			 stat(QUIRE_VM_STAT_remote_tlb_flush));
	vm_end();
}

static struct quire_platform counting;
static uint64_t leaves_least, leaves_most, leaves_looks;

/* As another thread does, asks for the VM's leaves wherever the library looks for its thread and
 * holds no lock. */
static struct quire_thread *self_asks(void)
{
	static bool asks;

	if (!asks && !sched_platform.self()->held_count) {
		uint64_t leaves;

		asks = true;
		leaves = stat(QUIRE_VM_STAT_pages_4k);
		asks = false;
		leaves_looks++;
		leaves_most = leaves > leaves_most ? leaves : leaves_most;
		leaves_least = leaves < leaves_least ? leaves : leaves_least;
	}
	return sched_platform.self();
}

/* What a vCPU mapped stays when it goes, and is never counted twice. */
static void test_leaves_of_a_vcpu_that_goes(void **state)
{
	struct quire_memory_fault told;
	struct quire_stage2 stage2;
	struct quire_vcpu *vcpu;
	uint64_t requests, before[QUIRE_VM_STAT_COUNT];

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	assert_int_equal(quire_vcpu_create(machine.vm, 77, NULL, &vcpu), 0);
	for (uint64_t gfn = 0; gfn < 3; gfn++) {
		assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(vcpu);
		assert_int_equal(
		    quire_vcpu_fault(vcpu, gpa_of((gfn_t){gfn}), QUIRE_PFERR_WRITE, &told),
		    QUIRE_FIXED);
	}
	leaves_are(0, 0, 3);
	counting = sched_platform;
	counting.self = self_asks;
	for (int i = 0; i < QUIRE_VCPU_STAT_COUNT; i++)
		vcpu->stats[i] = 9;
	memcpy(before, machine.vm->stats, sizeof(before));
	leaves_most = leaves_looks = 0;
	leaves_least = UINT64_MAX;
	quire_platform_install(&counting);
	quire_vcpu_destroy(vcpu);
	quire_platform_install(&sched_platform);
	assert_true(leaves_looks > 3);
	assert_int_equal(leaves_least, 3);
	assert_int_equal(leaves_most, 3);
	/* Its own counters go with it. */
	assert_memory_equal(before, machine.vm->stats, sizeof(before));
	leaves_are(0, 0, 3);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_flushes_are_counted),
	    cmocka_unit_test(test_flush_under_way_is_not_done),
	    cmocka_unit_test(test_leaves_of_a_vcpu_that_goes),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
