/* The pages a fault may meet: counted or not, read-only, poisoned, slow; and pages kept at hand. */
#include <quire/place.h>

#include "tests/unit/support.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)

static int may_write(uint64_t gfn)
{
	uint32_t level;
	uint64_t leaf = leaf_at(gfn, &level);

	assert_true(leaf != 0);
	return (leaf & machine.vm->tdp_format.writable) != 0;
}

static void begin_one(uint32_t flags, uint32_t slot_flags)
{
	vm_begin();
	map_pages(0, 1, flags);
	add_slot(0, 1, slot_flags);
}

/* No reference stays; the host hears of the use, and of a right to write as of a write. */
static void test_counted(void **state)
{
	(void)state;
	begin_one(SIM_WRITABLE, 0);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	assert_true(may_write(0));
	assert_int_equal(frame_of(0)->references, 1);
	assert_true(frame_of(0)->accessed && frame_of(0)->dirty);
	vm_end();

	begin_one(0, 0);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	assert_false(may_write(0));
	assert_int_equal(frame_of(0)->references, 1);
	assert_true(frame_of(0)->accessed && !frame_of(0)->dirty);
	vm_end();
}

/* Tail pages of a driver's buffer, reserved memory, raw frames: mapped, and never touched. */
static void test_uncounted(void **state)
{
	(void)state;
	for (int kind = 0; kind < 3; kind++) {
		begin_one(SIM_WRITABLE | (kind == 2 ? SIM_DEVICE : 0), 0);
		frame_of(0)->counted = kind != 0;
		frame_of(0)->reserved = kind == 1;
		assert_int_equal(fault_at(0, WRITE), QUIRE_FIXED);
		assert_true(may_write(0));
		assert_int_equal(frame_of(0)->references, 1);
		assert_false(frame_of(0)->accessed || frame_of(0)->dirty);
		vm_end();
	}
}

static void test_huge_uncounted(void **state)
{
	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE | SIM_DEVICE);
	add_slot(0, SIM_BLOCK, 0);
	assert_int_equal(fault_at(77, WRITE), QUIRE_FIXED);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 1);
	vm_end();
}

static void test_read_only(void **state)
{
	(void)state;
	/* A device's read-only entry: reads are mapped, writes are emulated. */
	begin_one(SIM_DEVICE, 0);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	assert_int_equal(fault_at(0, WRITE | PRESENT), QUIRE_EMULATE);
	vm_end();
	/* Ordinary memory that the client cannot write either: an error. */
	begin_one(0, 0);
	assert_int_equal(fault_at(0, WRITE), -EFAULT);
	vm_end();
	/* A read-only slot over writable memory. */
	begin_one(SIM_WRITABLE, QUIRE_SLOT_READONLY);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	assert_false(may_write(0));
	assert_false(frame_of(0)->dirty);
	assert_int_equal(fault_at(0, WRITE | PRESENT), QUIRE_EMULATE);
	vm_end();
}

static void test_bad(void **state)
{
	(void)state;
	begin_one(SIM_WRITABLE, 0);
	frame_of(0)->poisoned = true;
	assert_int_equal(fault_at(0, 0), -EHWPOISON);
	frame_of(0)->poisoned = false;
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	vm_end();

	begin_one(SIM_WRITABLE, 0);
	sim_unmap(&machine.host, 0);
	assert_int_equal(fault_at(0, 0), -EFAULT);
	vm_end();

	begin_one(SIM_WRITABLE | SIM_SLOW, 0);
	machine.host.interrupted = true;
	/* Only what the client raised ends the run. */
	quire_vcpu_request(machine.vcpus[0], UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
	assert_int_equal(fault_at(0, 0), -EINTR);
	machine.host.interrupted = false;
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	vm_end();
}

/* A vCPU that has something else to do is told which page the host waits for. */
static void test_not_now(void **state)
{
	const uint64_t nowait = QUIRE_PFERR_NOWAIT | WRITE;
	struct quire_memory_fault told = {0};
	struct quire_vcpu *vcpu;
	uint32_t level;

	(void)state;
	begin_one(SIM_WRITABLE | SIM_SLOW, 0);
	vcpu = machine.vcpus[0];
	assert_int_equal(quire_vcpu_fault(vcpu, (gpa_t){0x123}, nowait, &told), -EAGAIN);
	assert_int_equal(told.hva.v, sim_hva(0).v);
	assert_int_equal(told.gpa.v, 0);
	assert_int_equal(told.size_bytes, 0);
	assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_taken), 1);
	assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_fixed), 0);
	machine.host.pages[0].flags &= ~SIM_SLOW;
	assert_int_equal(leaf_at(0, &level), 0);
	quire_vcpu_page_ready(vcpu, (gpa_t){0x123}, WRITE);
	assert_int_not_equal(leaf_at(0, &level), 0);
	assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_taken), 1);
	assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_fixed), 1);
	/* It is mapped already. */
	quire_vcpu_page_ready(vcpu, (gpa_t){0x123}, WRITE);
	assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_fixed), 1);
	vm_end();

	begin_one(SIM_WRITABLE, 0);
	assert_int_equal(fault_at(0, nowait), QUIRE_FIXED);
	vm_end();

	/* The guest has not written yet: a logged page gets no right to it. */
	begin_one(SIM_WRITABLE, QUIRE_SLOT_LOG_DIRTY);
	quire_vcpu_page_ready(machine.vcpus[0], (gpa_t){0x123}, WRITE);
	assert_false(may_write(0));
	assert_int_equal(log_harvest(0), 0);
	vm_end();

	/* Nothing comes of it where there is nothing. */
	begin_one(SIM_WRITABLE, 0);
	quire_vcpu_page_ready(machine.vcpus[0], (gpa_t){0x100000}, 0);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fixed), 0);
	vm_end();
}

static void test_map(void **state)
{
	struct quire_map map;

	(void)state;
	begin_one(SIM_WRITABLE, 0);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_WRITE, &map), 0);
	/* Pinned while it is held: the host may unmap it, and the frame stays. */
	assert_int_equal(frame_of(0)->references, 2);
	assert_int_equal(map.page.pfn.v << QUIRE_PAGE_SHIFT, (uintptr_t)frame_of(0)->bytes);
	assert_int_equal(quire_map_write(machine.vcpus[0], &map, 8, "", 0), 0);
	assert_int_equal(quire_map_write(machine.vcpus[0], &map, QUIRE_PAGE_SIZE, "", 1), -EINVAL);
	quire_vcpu_unmap(machine.vcpus[0], &map);
	assert_int_equal(frame_of(0)->references, 1);
	assert_true(frame_of(0)->dirty);
	assert_int_equal(
	    quire_vcpu_map(machine.vcpus[0], (gpa_t){QUIRE_PAGE_SIZE}, QUIRE_MAP_READ, &map),
	    -EFAULT);
	vm_end();

	begin_one(SIM_WRITABLE, QUIRE_SLOT_READONLY);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_WRITE, &map),
			 -EFAULT);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_READ, &map), 0);
	quire_vcpu_unmap(machine.vcpus[0], &map);
	assert_false(frame_of(0)->dirty);
	vm_end();
}

static void test_map_unsafe(void **state)
{
	struct quire_map map;

	(void)state;
	begin_one(SIM_WRITABLE | SIM_DEVICE, 0);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_WRITE, &map),
			 -EINVAL);
	machine.tunables.allow_unsafe_mappings = 1;
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_WRITE, &map), 0);
	assert_int_equal(frame_of(0)->references, 1);
	quire_vcpu_unmap(machine.vcpus[0], &map);
	machine.tunables.allow_unsafe_mappings = 0;
	vm_end();
}

/* A page that is private has its memory in a file: a slot without one has none for it. */
static void test_private_without_a_file(void **state)
{
	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	map_pages(0, 1, SIM_WRITABLE);
	add_slot(0, 1, 0);
	store_backed(0, 1);
	assert_int_equal(quire_vm_set_attributes(machine.vm, (gpa_t){0}, QUIRE_PAGE_SIZE,
						 QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	assert_int_equal(fault_at(0, QUIRE_PFERR_WRITE), -EFAULT);
	assert_int_equal(level_at(0), 0);
	assert_int_equal(quire_vm_set_attributes(machine.vm, (gpa_t){0}, QUIRE_PAGE_SIZE, 0), 0);
	store_backed(0, 2);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_private_without_a_file),
	    cmocka_unit_test(test_counted),
	    cmocka_unit_test(test_uncounted),
	    cmocka_unit_test(test_huge_uncounted),
	    cmocka_unit_test(test_read_only),
	    cmocka_unit_test(test_bad),
	    cmocka_unit_test(test_not_now),
	    cmocka_unit_test(test_map),
	    cmocka_unit_test(test_map_unsafe),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
