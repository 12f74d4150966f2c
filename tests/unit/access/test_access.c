/* The library's own reads and writes of guest memory. */
#include "tests/unit/support.h"

#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/place.h>

/* Only the first bytes of a simulated frame count; accesses stay there, or begin at a page's end
 * where nothing else looks. */
#define SLOT_PAGES 4u
#define END ((uint64_t)SLOT_PAGES * QUIRE_PAGE_SIZE)

static uint64_t harvested(void)
{
	(void)log_harvest(0);
	return log_bits[0];
}

static void begin(uint32_t flags)
{
	vm_begin();
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, flags);
}

static int read_at(uint64_t gpa, void *dst, size_t size_bytes)
{
	return quire_vcpu_read(machine.vcpus[0], (gpa_t){gpa}, dst, size_bytes);
}

static int write_at(uint64_t gpa, const void *src, size_t size_bytes)
{
	return quire_vcpu_write(machine.vcpus[0], (gpa_t){gpa}, src, size_bytes);
}

/* Page by page; what lies before the page out of reach is done. */
static void test_pages(void **state)
{
	uint8_t data[3 * QUIRE_PAGE_SIZE], back[3 * QUIRE_PAGE_SIZE];

	(void)state;
	begin(0);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 4096);
	for (size_t size = 1; size < sizeof(data); size = size * 5 + 3) {
		memset(back, 0, sizeof(back));
		assert_int_equal(write_at(100, data, size), 0);
		assert_int_equal(read_at(100, back, size), 0);
		assert_memory_equal(back, data, size);
		assert_int_equal(quire_vm_read(machine.vm, (gpa_t){100}, back, size), 0);
		assert_memory_equal(back, data, size);
	}
	memset(back, 0, sizeof(back));
	assert_int_equal(quire_vm_write(machine.vm, (gpa_t){END - 8}, data, 16), -EFAULT);
	assert_int_equal(read_at(END - 8, back, 16), -EFAULT);
	assert_memory_equal(back, data, 8);
	assert_int_equal(back[8], 0);
	assert_int_equal(read_at(END, back, 1), -EFAULT);
	/* Nothing at all is no access. */
	assert_int_equal(read_at(END, back, 0), 0);
	vm_end();
}

static void test_client_memory_is_gone(void **state)
{
	uint8_t byte = 1;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	sim_unmap(&machine.host, 2);
	assert_int_equal(read_at(2 * QUIRE_PAGE_SIZE, &byte, 1), -EFAULT);
	assert_int_equal(write_at(2 * QUIRE_PAGE_SIZE, &byte, 1), -EFAULT);
	/* What was not written is not logged. */
	assert_int_equal(harvested(), 0);
	vm_end();
}

/* Each page of a write, and no page of a read, is in the log. */
static void test_log(void **state)
{
	uint8_t data[32] = {1};

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(read_at(QUIRE_PAGE_SIZE - 8, data, 16), 0);
	assert_int_equal(harvested(), 0);
	assert_int_equal(write_at(QUIRE_PAGE_SIZE - 8, data, 16), 0);
	assert_int_equal(harvested(), 3);
	assert_int_equal(quire_vm_write(machine.vm, (gpa_t){3 * QUIRE_PAGE_SIZE}, data, 1), 0);
	assert_int_equal(harvested(), 8);
	/* The part that was done before the end. */
	assert_int_equal(write_at(END - 8, data, 16), -EFAULT);
	assert_int_equal(harvested(), 8);
	vm_end();
}

/* With rings it is the writing vCPU's ring that names the page. */
static void note_entry(void *ctx, uint32_t slot, uint64_t offset)
{
	assert_int_equal(slot, 0);
	*(uint64_t *)ctx |= UINT64_C(1) << offset;
}

static void test_ring(void **state)
{
	uint64_t first = 0, second = 0;
	uint8_t byte = 1;

	(void)state;
	machine.rings = 1;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(write_at(QUIRE_PAGE_SIZE, &byte, 1), 0);
	assert_int_equal(quire_vcpu_write(machine.vcpus[1], (gpa_t){2 * QUIRE_PAGE_SIZE}, &byte, 1),
			 0);
	machine_read_ring(&machine, 0, note_entry, &first);
	machine_read_ring(&machine, 1, note_entry, &second);
	assert_int_equal(first, 2);
	assert_int_equal(second, 4);
	machine.rings = 0;
	vm_end();
}

static void count_entry(void *ctx, uint32_t slot, uint64_t offset)
{
	(void)slot;
	(void)offset;
	++*(uint32_t *)ctx;
}

/* A page that is the ring's newest entry gets no second one; that of another slot does. */
static void test_ring_names_a_page_once(void **state)
{
	const struct quire_region other = {.slot = 1,
					   .flags = QUIRE_SLOT_LOG_DIRTY,
					   .gpa = {END},
					   .size_bytes = QUIRE_PAGE_SIZE,
					   .hva = sim_hva(0)};
	static const uint64_t gpas[] = {0, 8, 0, END, END, 0, PAGES(1), 0};
	uint32_t entries = 0;
	uint8_t byte = 1;

	(void)state;
	machine.rings = 1;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	for (size_t i = 0; i < sizeof(gpas) / sizeof(gpas[0]); i++)
		assert_int_equal(write_at(gpas[i], &byte, 1), 0);
	machine_read_ring(&machine, 0, count_entry, &entries);
	assert_int_equal(entries, 5);
	machine.rings = 0;
	vm_end();
}

/* A ring takes the library's own writes up to its spare entries, and no right to write after it. */
static void test_ring_is_full(void **state)
{
	struct quire_map map;
	uint8_t byte = 1;
	uint32_t count = 0;

	(void)state;
	machine.rings = 1;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(write_at(PAGES(1), &byte, 1), 0);
	assert_false(machine.vcpus[0]->mode.doorbell & QUIRE_REQ_DIRTY_RING_FULL);
	count++;
	/* Pages in turn, since a page that is the newest entry has no second one. */
	while (count < MACHINE_RING_ENTRIES && !write_at(PAGES(1 + count % 2), &byte, 1))
		count++;
	assert_int_equal(count, MACHINE_RING_ENTRIES - DIRTY_RING_SPARE);
	assert_true(quire_vcpu_dirty_ring_is_full(machine.vcpus[0]));
	/* The vCPU hears of it before it runs again. */
	assert_true(machine.vcpus[0]->mode.doorbell & QUIRE_REQ_DIRTY_RING_FULL);
	assert_false(quire_vcpu_dirty_ring_is_full(machine.vcpus[1]));
	assert_int_equal(write_at(PAGES(2), &byte, 1), -ENOSPC);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_WRITE, &map),
			 -ENOSPC);
	assert_int_equal(quire_vcpu_map(machine.vcpus[0], (gpa_t){0}, QUIRE_MAP_READ, &map), 0);
	assert_int_equal(quire_map_read(machine.vcpus[0], &map, 0, &byte, 1), 0);
	quire_vcpu_unmap(machine.vcpus[0], &map);
	machine.rings = 0;
	vm_end();
}

/* A write for no vCPU is refused where only rings log: no ring would tell of it. */
static void test_ring_needs_a_vcpu(void **state)
{
	uint8_t byte = 5, seen = 0;

	(void)state;
	machine.rings = 1;
	begin(QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_vm_write(machine.vm, (gpa_t){0}, &byte, 1), -ENXIO);
	assert_int_equal(quire_vm_read(machine.vm, (gpa_t){0}, &seen, 1), 0);
	assert_int_equal(seen, 0);
	assert_int_equal(machine_add_slot(&machine, 0, SLOT_PAGES, 0), 0);
	assert_int_equal(quire_vm_write(machine.vm, (gpa_t){0}, &byte, 1), 0);
	machine.rings = 0;
	vm_end();
}

/* Without rings none is full. */
static void test_no_ring(void **state)
{
	(void)state;
	begin(0);
	assert_false(quire_vcpu_dirty_ring_is_full(machine.vcpus[0]));
	vm_end();
}

/* What the client itself may not write, no mapping writes. */
static void test_client_may_not_write(void **state)
{
	struct quire_vcpu *vcpu;
	struct quire_map map;
	uint8_t byte;

	(void)state;
	vm_begin();
	vcpu = machine.vcpus[0];
	map_pages(0, SLOT_PAGES, 0);
	add_slot(0, SLOT_PAGES, 0);
	assert_int_equal(quire_vcpu_map(vcpu, (gpa_t){0}, QUIRE_MAP_WRITE, &map), -EFAULT);
	assert_int_equal(quire_vcpu_map(vcpu, (gpa_t){END}, QUIRE_MAP_READ, &map), -EFAULT);
	/* What was refused holds up no change of slots. */
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, SLOT_PAGES, 0);
	assert_int_equal(quire_vcpu_map(vcpu, (gpa_t){0}, QUIRE_MAP_READ, &map), 0);
	assert_int_equal(quire_map_read(vcpu, &map, 0, &byte, 1), 0);
	quire_vcpu_unmap(vcpu, &map);
	vm_end();
}

/* All of a page can be read and written through it, and not a byte more. */
static void test_map_whole(void **state)
{
	static const struct {
		uint64_t offset_bytes, size_bytes;
		int answer;
	} rows[] = {
	    {0, QUIRE_PAGE_SIZE, 0},	   {QUIRE_PAGE_SIZE - 1, 1, 0},
	    {QUIRE_PAGE_SIZE, 0, 0},	   {0, QUIRE_PAGE_SIZE + 1, -EINVAL},
	    {1, QUIRE_PAGE_SIZE, -EINVAL}, {QUIRE_PAGE_SIZE, 1, -EINVAL},
	    {UINT64_MAX, 1, -EINVAL},	   {1, UINT64_MAX, -EINVAL},
	};
	uint8_t data[QUIRE_PAGE_SIZE] = {0};
	struct quire_vcpu *vcpu;
	struct quire_map map;

	(void)state;
	begin(0);
	vcpu = machine.vcpus[0];
	assert_int_equal(quire_vcpu_map(vcpu, (gpa_t){PAGES(1)}, QUIRE_MAP_WRITE, &map), 0);
	for (uint32_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(
		    quire_map_read(vcpu, &map, rows[i].offset_bytes, data, rows[i].size_bytes),
		    rows[i].answer);
		assert_int_equal(
		    quire_map_write(vcpu, &map, rows[i].offset_bytes, data, rows[i].size_bytes),
		    rows[i].answer);
	}
	quire_vcpu_unmap(vcpu, &map);
	vm_end();
}

/* A page that was in hand to be written is in the log and dirty, whatever was written how. */
static void test_map_tells_the_log(void **state)
{
	static const enum quire_map_kind kinds[] = {QUIRE_MAP_READ, QUIRE_MAP_WRITE};
	struct quire_map map;
	uint8_t byte = 3;

	(void)state;
	begin(QUIRE_SLOT_LOG_DIRTY);
	for (uint32_t i = 0; i < 2; i++) {
		bool written = kinds[i] == QUIRE_MAP_WRITE;

		frame_of(2)->dirty = false;
		assert_int_equal(
		    quire_vcpu_map(machine.vcpus[0], (gpa_t){PAGES(2)}, kinds[i], &map), 0);
		assert_int_equal(frame_of(2)->references, 2);
		/* A harvest need not wait for the end of the mapping. */
		assert_int_equal(quire_map_write(machine.vcpus[0], &map, 0, &byte, 1),
				 written ? 0 : -EINVAL);
		assert_int_equal(harvested(), written ? 4 : 0);
		quire_vcpu_unmap(machine.vcpus[0], &map);
		assert_int_equal(frame_of(2)->references, 1);
		assert_int_equal(frame_of(2)->dirty, written);
		assert_int_equal(harvested(), written ? 4 : 0);
		/* It is no page of the caller's any more. */
		assert_false(map.page.refcounted);
	}
	vm_end();
}

static void test_read_only(void **state)
{
	uint8_t byte = 9;

	(void)state;
	begin(QUIRE_SLOT_READONLY);
	frame_of(1)->bytes[0] = 5;
	assert_int_equal(write_at(QUIRE_PAGE_SIZE, &byte, 1), -EFAULT);
	assert_int_equal(frame_of(1)->bytes[0], 5);
	assert_int_equal(read_at(QUIRE_PAGE_SIZE, &byte, 1), 0);
	assert_int_equal(byte, 5);
	vm_end();
}

/* The client's page, whatever attributes and file say, and without any table. */
static void test_shared_view(void **state)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = END, .hva = sim_hva(0)};
	struct quire_gmem *gmem;
	uint8_t byte = 3;

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	assert_int_equal(quire_gmem_create(machine.vm, END, 0, NULL, &gmem), 0);
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_int_equal(
	    quire_vm_set_attributes(machine.vm, (gpa_t){0}, END, QUIRE_ATTRIBUTE_PRIVATE), 0);
	assert_int_equal(machine_store(&machine, 0, QUIRE_PAGE_SIZE, 7), 0);
	assert_int_equal(write_at(QUIRE_PAGE_SIZE, &byte, 1), 0);
	assert_int_equal(frame_of(1)->bytes[0], 3);
	assert_int_equal(machine_load(&machine, 0, QUIRE_PAGE_SIZE, &byte), 0);
	assert_int_equal(byte, 7);
	quire_gmem_release(gmem);
	vm_end();
}

/* A VM's own access is to address space 0. */
static void test_address_spaces(void **state)
{
	struct quire_region other = {
	    .slot = 1u << 16, .gpa = {END}, .size_bytes = QUIRE_PAGE_SIZE, .hva = sim_hva(3)};
	uint8_t byte;

	(void)state;
	begin(0);
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	assert_int_equal(quire_vm_read(machine.vm, (gpa_t){END}, &byte, 1), -EFAULT);
	machine.vcpus[0]->as_id = 1;
	assert_int_equal(read_at(END, &byte, 1), 0);
	assert_int_equal(read_at(0, &byte, 1), -EFAULT);
	machine.vcpus[0]->as_id = 0;
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_pages),
	    cmocka_unit_test(test_client_memory_is_gone),
	    cmocka_unit_test(test_log),
	    cmocka_unit_test(test_ring),
	    cmocka_unit_test(test_ring_names_a_page_once),
	    cmocka_unit_test(test_ring_is_full),
	    cmocka_unit_test(test_ring_needs_a_vcpu),
	    cmocka_unit_test(test_no_ring),
	    cmocka_unit_test(test_client_may_not_write),
	    cmocka_unit_test(test_map_whole),
	    cmocka_unit_test(test_map_tells_the_log),
	    cmocka_unit_test(test_read_only),
	    cmocka_unit_test(test_shared_view),
	    cmocka_unit_test(test_address_spaces),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
