/* Conversion in place: the attributes are the file's, and what is converted stays where it is. */
#include "tests/unit/gmem/support.h"

#include <quire/confidential.h>
#include <quire/place.h>

#include "src/base/reclaim.h"
#include "src/gmem/privacy.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 1100u
#define GFN 1024u
#define PINNED_GFN 512u /* where the slot has client pages that the simulated host has */
#define OTHER 4096u	/* where a second VM has the file's pages */
#define PRIVATE QUIRE_ATTRIBUTE_PRIVATE
#define MAPPABLE (QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED)

static struct machine second; /* beside @machine, on its host */
static struct quire_gmem *linked;

static int try_contents(uint64_t index, uint64_t npages, uint64_t attributes, uint64_t contents,
			uint64_t *where)
{
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = PAGES(index),
	    .size_bytes = PAGES(npages),
	    .attributes = attributes,
	    .contents = contents,
	    .error_offset_bytes = 1,
	};
	int error = quire_gmem_set_attributes(gmem, &conversion);

	*where = conversion.error_offset_bytes;
	return error;
}

static int try(uint64_t index, uint64_t npages, uint64_t attributes)
{
	uint64_t where;

	return try_contents(index, npages, attributes, 0, &where);
}

static void make(uint64_t index, uint64_t npages, uint64_t attributes)
{
	assert_int_equal(try(index, npages, attributes), 0);
}

static void begin_at(uint64_t flags, uint64_t gfn)
{
	machine.in_place = 1;
	gmem_begin(QUIRE_VM_SW_PROTECTED, flags, gfn, FILE_PAGES);
}

static void begin(uint64_t flags)
{
	begin_at(flags, GFN);
}

static void end(void)
{
	gmem_end();
	machine.in_place = 0;
}

static bool is_private(uint64_t index)
{
	return quire_vm_get_attributes(machine.vm, (gfn_t){GFN + index}) == PRIVATE;
}

static enum sim_view view(uint64_t index)
{
	return sim_store_view(quire_gmem_store(gmem), index);
}

static bool is_owned(uint64_t index)
{
	struct gmem_page page;

	gmem_page_read(&gmem->inode->pages, index, &page);
	return !rmp_is_free(machine.vm->rmp, page.pfn);
}

/* The owner of the fact is one: the VM's own call knows no attribute, the file's does. */
static void test_owner(void **state)
{
	(void)state;
	begin(MAPPABLE);
	assert_int_equal(quire_vm_attributes(machine.vm), 0);
	assert_int_equal(quire_gmem_attributes(machine.vm), PRIVATE);
	assert_int_equal(quire_vm_set_attributes(machine.vm, (gpa_t){0}, PAGES(1), PRIVATE),
			 -EINVAL);
	assert_int_equal(quire_vm_set_attributes(machine.vm, (gpa_t){0}, PAGES(1), 0), 0);
	assert_false(is_private(0));
	make(1, 2, PRIVATE);
	assert_false(is_private(0));
	assert_true(is_private(1));
	assert_true(is_private(2));
	assert_false(is_private(3));
	assert_int_equal(view(0), SIM_VIEW_UNTOLD);
	assert_int_equal(view(1), SIM_VIEW_HIDDEN);
	/* A gfn without a slot is shared. */
	assert_int_equal(quire_vm_get_attributes(machine.vm, (gfn_t){GFN - 1}), 0);
	end();

	begin(0);
	assert_true(is_private(0));
	assert_true(is_private(FILE_PAGES - 1));
	end();
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	assert_int_equal(quire_gmem_attributes(machine.vm), 0);
	assert_int_equal(try(0, 1, 0), -EINVAL);
	assert_int_equal(try(0, 1, PRIVATE), -EINVAL);
	gmem_end();
}

static void test_refused(void **state)
{
	struct quire_gmem_conversion wraps = {.offset_bytes = PAGES(1), .size_bytes = -PAGES(1)};
	uint64_t where;

	(void)state;
	begin(MAPPABLE);
	for (unsigned int bit = 0; bit < 64; bit++) {
		if (bit != 3)
			assert_int_equal(try(0, 1, UINT64_C(1) << bit), -EINVAL);
		if (bit > 1)
			assert_int_equal(try_contents(0, 1, 0, UINT64_C(1) << bit, &where),
					 -EINVAL);
	}
	assert_int_equal(try_contents(0, 1, 0, QUIRE_GMEM_ZERO | QUIRE_GMEM_PRESERVE, &where),
			 -EINVAL);
	assert_int_equal(where, 1);
	assert_int_equal(try_contents(2, 1, PRIVATE, QUIRE_GMEM_ZERO, &where), -EOPNOTSUPP);
	assert_int_equal(where, PAGES(2));
	assert_int_equal(try(0, 0, PRIVATE), -EINVAL);
	assert_int_equal(try(0, FILE_PAGES + 1, PRIVATE), -EINVAL);
	assert_int_equal(try(FILE_PAGES, 1, PRIVATE), -EINVAL);
	assert_int_equal(try(FILE_PAGES - 1, 2, PRIVATE), -EINVAL);
	assert_int_equal(quire_gmem_set_attributes(gmem, &wraps), -EINVAL);
	wraps = (struct quire_gmem_conversion){.offset_bytes = 1, .size_bytes = PAGES(1)};
	assert_int_equal(quire_gmem_set_attributes(gmem, &wraps), -EINVAL);
	wraps = (struct quire_gmem_conversion){.size_bytes = PAGES(1) - 1};
	assert_int_equal(quire_gmem_set_attributes(gmem, &wraps), -EINVAL);
	assert_false(is_private(0));
	make(0, FILE_PAGES, PRIVATE);
	end();
}

/* A host that cannot zero what the client alone has used. */
static void test_host_without_zeros(void **state)
{
	struct quire_host_ops ops = sim_host_ops;
	uint64_t where;

	(void)state;
	ops.store_clear = NULL;
	begin(MAPPABLE);
	make(0, 4, PRIVATE);
	machine.vm->host = &ops;
	assert_int_equal(try_contents(2, 1, 0, QUIRE_GMEM_ZERO, &where), -EOPNOTSUPP);
	assert_int_equal(where, PAGES(2));
	assert_true(is_private(2));
	make(2, 1, 0);
	machine.vm->host = &sim_host_ops;
	end();
}

/* The page stays, with what it holds; its owner in the reverse map comes and goes. */
static void test_bytes_stay(void **state)
{
	uint32_t frame;

	(void)state;
	begin(MAPPABLE);
	store(GFN + 5, 7);
	frame = sim_store_frame(quire_gmem_store(gmem), 5);
	assert_false(is_owned(5));
	make(5, 1, PRIVATE);
	assert_int_equal(level_at(GFN + 5), 0);
	assert_int_equal(load(GFN + 5), 7);
	assert_true(is_owned(5));
	store(GFN + 5, 8);
	make(5, 1, 0);
	assert_int_equal(view(5), SIM_VIEW_SHOWN);
	assert_false(is_owned(5));
	assert_int_equal(load(GFN + 5), 8);
	assert_int_equal(sim_store_frame(quire_gmem_store(gmem), 5), frame);
	end();
}

static void test_zeroed(void **state)
{
	uint64_t where;

	(void)state;
	begin(0);
	store(GFN + 5, 7);
	store(GFN + 6, 8);
	assert_int_equal(try_contents(5, 1, 0, QUIRE_GMEM_ZERO, &where), 0);
	assert_int_equal(load(GFN + 5), 0);
	assert_int_equal(load(GFN + 6), 8);
	/* Of the whole range, what is shared already included. */
	store(GFN + 5, 9);
	assert_int_equal(try_contents(5, 1, 0, QUIRE_GMEM_PRESERVE, &where), 0);
	assert_int_equal(load(GFN + 5), 9);
	assert_int_equal(try_contents(5, 2, 0, QUIRE_GMEM_ZERO, &where), 0);
	assert_int_equal(load(GFN + 5), 0);
	assert_int_equal(load(GFN + 6), 0);
	end();
}

/* Two 2M mappings; a part of one splits that one's, and the reunion restores it. */
static void test_huge(void **state)
{
	(void)state;
	begin(0);
	store(GFN + 5, 7);
	store(GFN + 517, 9);
	assert_int_equal(level_at(GFN), QUIRE_LEVEL_2M);
	assert_int_equal(level_at(GFN + 512), QUIRE_LEVEL_2M);
	make(5, 1, 0);
	assert_int_equal(level_at(GFN), 0);
	assert_int_equal(load(GFN + 5), 7);
	assert_int_equal(load(GFN + 6), 0);
	assert_int_equal(level_at(GFN + 5), QUIRE_LEVEL_4K);
	assert_int_equal(level_at(GFN + 6), QUIRE_LEVEL_4K);
	assert_int_equal(level_at(GFN + 512), QUIRE_LEVEL_2M);
	assert_false(is_owned(5));
	assert_true(is_owned(6));
	make(5, 1, PRIVATE);
	assert_int_equal(load(GFN + 5), 7);
	assert_int_equal(level_at(GFN + 6), QUIRE_LEVEL_2M);
	assert_true(is_owned(5));
	end();
}

/* A vCPU has a shared page in its hands: it does not become private before it is given back. */
static void test_pinned(void **state)
{
	struct quire_vcpu *vcpu;
	struct quire_map map, other;
	uint64_t where = 0;

	(void)state;
	begin_at(MAPPABLE, PINNED_GFN);
	vcpu = machine.vcpus[0];
	for (uint32_t page = 0; page < 8; page++)
		(void)sim_map(&machine.host, PINNED_GFN + page, SIM_WRITABLE);
	assert_int_equal(
	    quire_vcpu_map(vcpu, gpa_of((gfn_t){PINNED_GFN + 5}), QUIRE_MAP_READ, &map), 0);
	assert_int_equal(
	    quire_vcpu_map(vcpu, gpa_of((gfn_t){PINNED_GFN + 3}), QUIRE_MAP_WRITE, &other), 0);
	store(PINNED_GFN + 4, 1);
	assert_int_equal(try_contents(0, 8, PRIVATE, 0, &where), -EAGAIN);
	assert_int_equal(where, PAGES(3));
	/* Nothing has changed: not the guest's mapping, nor the client's view. */
	assert_int_not_equal(level_at(PINNED_GFN + 4), 0);
	assert_int_equal(view(4), SIM_VIEW_UNTOLD);
	assert_int_equal(quire_vm_get_attributes(machine.vm, (gfn_t){PINNED_GFN + 4}), 0);
	make(4, 1, PRIVATE);
	make(3, 1, 0);
	quire_vcpu_unmap(vcpu, &other);
	assert_int_equal(try_contents(0, 8, PRIVATE, 0, &where), -EAGAIN);
	assert_int_equal(where, PAGES(5));
	quire_vcpu_unmap(vcpu, &map);
	make(0, 8, PRIVATE);
	assert_int_equal(
	    quire_vcpu_map(vcpu, gpa_of((gfn_t){PINNED_GFN + 5}), QUIRE_MAP_READ, &map), -EFAULT);
	make(0, 8, 0);
	assert_int_equal(
	    quire_vcpu_map(vcpu, gpa_of((gfn_t){PINNED_GFN + 5}), QUIRE_MAP_READ, &map), 0);
	quire_vcpu_unmap(vcpu, &map);
	/* Given back in the order in which they were taken: the later one still counts. */
	assert_int_equal(
	    quire_vcpu_map(vcpu, gpa_of((gfn_t){PINNED_GFN + 5}), QUIRE_MAP_READ, &map), 0);
	assert_int_equal(
	    quire_vcpu_map(vcpu, gpa_of((gfn_t){PINNED_GFN + 3}), QUIRE_MAP_READ, &other), 0);
	quire_vcpu_unmap(vcpu, &map);
	assert_int_equal(try_contents(0, 8, PRIVATE, 0, &where), -EAGAIN);
	assert_int_equal(where, PAGES(3));
	/* Though it is the first page of the range, or the last. */
	assert_int_equal(try_contents(3, 2, PRIVATE, 0, &where), -EAGAIN);
	assert_int_equal(try_contents(2, 2, PRIVATE, 0, &where), -EAGAIN);
	assert_int_equal(where, PAGES(3));
	make(4, 2, PRIVATE);
	make(2, 1, PRIVATE);
	quire_vcpu_unmap(vcpu, &other);
	make(0, 8, PRIVATE);
	end();
}

/* One fact for all VMs that show the page: each is told. */
static void test_linked(void **state)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){OTHER}),
	    .size_bytes = PAGES(FILE_PAGES),
	    .hva = {SIM_HVA_BASE},
	};
	struct quire_vm_config config;
	struct quire_vm *owner;
	uint8_t byte = 0;

	(void)state;
	begin(MAPPABLE);
	machine_start_second(&second, &machine);
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), 0);
	region.gmem = linked;
	assert_int_equal(quire_vm_set_region(second.vm, &region), 0);
	store(GFN + 3, 3);
	assert_int_equal(machine_load(&second, 0, gpa_of((gfn_t){OTHER + 3}).v, &byte), 0);
	assert_int_equal(byte, 3);
	assert_int_equal(quire_vm_stat(second.vm, QUIRE_VM_STAT_pages_2m), 1);
	make(3, 1, PRIVATE);
	assert_int_equal(quire_vm_stat(second.vm, QUIRE_VM_STAT_pages_2m), 0);
	assert_int_equal(quire_vm_get_attributes(second.vm, (gfn_t){OTHER + 3}), PRIVATE);
	assert_int_equal(machine_load(&second, 0, gpa_of((gfn_t){OTHER + 3}).v, &byte), 0);
	assert_int_equal(byte, 3);
	quire_gmem_release(linked);
	assert_true(machine_is_sound(&second));
	machine_end_vm(&second);
	end();

	/* The owner of the attributes cannot differ. */
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	config = machine.vm->config;
	config.gmem_in_place_conversion = 1;
	assert_int_equal(quire_vm_create(&config, &owner), 0);
	assert_int_equal(quire_gmem_link(gmem, owner, &linked), -EINVAL);
	quire_vm_put(owner);
	gmem_end();
}

struct runs {
	uint64_t first[8], npages[8];
	uint32_t count;
	int answer;
};

static int note_run(void *ctx, uint64_t offset_bytes, uint64_t size_bytes)
{
	struct runs *runs = ctx;

	runs->first[runs->count] = offset_bytes / QUIRE_PAGE_SIZE;
	runs->npages[runs->count++] = size_bytes / QUIRE_PAGE_SIZE;
	return runs->answer;
}

static void test_runs(void **state)
{
	struct runs runs = {0};

	(void)state;
	begin(MAPPABLE);
	make(2, 3, PRIVATE);
	make(9, 1, PRIVATE);
	assert_int_equal(quire_gmem_each_shared(gmem, 0, -PAGES(1), note_run, &runs), 0);
	assert_int_equal(runs.count, 3);
	assert_int_equal(runs.first[0], 0);
	assert_int_equal(runs.npages[0], 2);
	assert_int_equal(runs.first[1], 5);
	assert_int_equal(runs.npages[1], 4);
	assert_int_equal(runs.first[2], 10);
	assert_int_equal(runs.npages[2], FILE_PAGES - 10);
	runs = (struct runs){.answer = 5};
	assert_int_equal(quire_gmem_each_shared(gmem, PAGES(3), PAGES(3), note_run, &runs), 5);
	assert_int_equal(runs.count, 1);
	assert_int_equal(runs.first[0], 5);
	assert_int_equal(runs.npages[0], 1);
	/* It ends where it is told to, and at the file's end. */
	runs = (struct runs){.answer = 5};
	assert_int_equal(quire_gmem_each_shared(gmem, PAGES(3), PAGES(10), note_run, &runs), 5);
	assert_int_equal(runs.count, 1);
	assert_int_equal(runs.npages[0], 4);
	runs = (struct runs){0};
	assert_int_equal(
	    quire_gmem_each_shared(gmem, PAGES(12), PAGES(FILE_PAGES), note_run, &runs), 0);
	assert_int_equal(runs.count, 1);
	assert_int_equal(runs.first[0], 12);
	assert_int_equal(runs.npages[0], FILE_PAGES - 12);
	/* The first answer that is not 0 ends it, though there is more. */
	runs = (struct runs){.answer = -EINTR};
	assert_int_equal(quire_gmem_each_shared(gmem, 0, PAGES(FILE_PAGES), note_run, &runs),
			 -EINTR);
	assert_int_equal(runs.count, 1);
	/* Behind the file there is nothing. */
	runs = (struct runs){0};
	assert_int_equal(quire_gmem_each_shared(gmem, PAGES(FILE_PAGES), PAGES(1), note_run, &runs),
			 0);
	assert_int_equal(runs.count, 0);
	assert_int_equal(quire_gmem_each_shared(gmem, 1, PAGES(3), note_run, &runs), -EINVAL);
	end();
}

/* Memory runs out at each step: the attributes and the view are as before. */
static void test_memory_fails(void **state)
{
	uint64_t where;
	int error;

	(void)state;
	for (int shared = 0; shared < 2; shared++) {
		begin(shared ? MAPPABLE : 0);
		store(GFN + 5, 7);
		for (uint64_t fail = 1;; fail++) {
			machine.host.fail_at = machine.host.allocations + fail;
			error = try_contents(5, 1, shared ? PRIVATE : 0, 0, &where);
			machine.host.fail_at = 0;
			if (!error)
				break;
			assert_int_equal(error, -ENOMEM);
			assert_int_equal(where, PAGES(5));
			assert_int_equal(is_private(5), !shared);
			assert_int_equal(view(5), SIM_VIEW_UNTOLD);
			assert_int_equal(load(GFN + 5), 7);
			assert_true(fail < 20);
		}
		assert_int_equal(is_private(5), shared);
		assert_int_equal(load(GFN + 5), 7);
		end();
	}
}

/* A file is made as a whole or not at all. */
static void test_memory_fails_at_first(void **state)
{
	struct quire_gmem *file;
	int error = -ENOMEM;

	(void)state;
	begin(0);
	for (uint64_t fail = 1; error; fail++) {
		uint64_t at = machine.host.allocations + fail;

		machine.host.fail_at = at;
		error = quire_gmem_create(machine.vm, PAGES(8), 0, NULL, &file);
		machine.host.fail_at = 0;
		if (error)
			assert_int_equal(error, -ENOMEM);
		else
			assert_true(fail > 2 && machine.host.allocations < at);
	}
	quire_gmem_release(file);
	end();
}

/* What the hardware saw when it gave the frames up. */
static struct {
	uint32_t count;
	uint8_t byte;
	enum sim_view view;
} given_up;

static void give_up(void *ctx, pfn_t pfn, uint64_t npages)
{
	(void)ctx;
	assert_int_equal(npages, 1);
	given_up.count++;
	given_up.byte = *(const uint8_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT);
	given_up.view = view(5);
}

/* The hardware gives a frame up before the host writes it, and before the client sees it. */
static void test_confidential(void **state)
{
	static const struct quire_confidential_ops ops = {.make_shared = give_up};
	uint64_t where;

	(void)state;
	memset(&given_up, 0, sizeof(given_up));
	machine.confidential = &ops;
	begin(0);
	store(GFN + 5, 7);
	assert_int_equal(try_contents(5, 1, 0, QUIRE_GMEM_ZERO, &where), 0);
	assert_int_equal(given_up.count, 1);
	assert_int_equal(given_up.byte, 7);
	assert_int_equal(given_up.view, SIM_VIEW_UNTOLD);
	assert_int_equal(view(5), SIM_VIEW_SHOWN);
	assert_false(is_owned(5));
	assert_int_equal(load(GFN + 5), 0);
	end();
	machine.confidential = NULL;
}

/* What a guest meant by its access: in a VM whose accesses say so, both must agree. */
static void test_memory_fault(void **state)
{
	struct quire_memory_fault told = {0};

	(void)state;
	machine.in_place = 1;
	gmem_begin(QUIRE_VM_DEFAULT, 0, GFN, FILE_PAGES);
	/* Private from the start, and the VM has no private memory: it may not use the page. */
	assert_int_equal(quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){GFN}), 0, &told),
			 -EFAULT);
	assert_int_equal(told.flags, 0);
	assert_int_equal(told.gpa.v, PAGES(GFN));
	assert_int_equal(told.size_bytes, PAGES(1));
	assert_int_equal(try(0, 1, 0), -EINVAL);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_owner),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_host_without_zeros),
	    cmocka_unit_test(test_bytes_stay),
	    cmocka_unit_test(test_zeroed),
	    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_pinned),
	    cmocka_unit_test(test_linked),
	    cmocka_unit_test(test_runs),
	    cmocka_unit_test(test_memory_fails_at_first),
	    cmocka_unit_test(test_memory_fails),
	    cmocka_unit_test(test_confidential),
	    cmocka_unit_test(test_memory_fault),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
