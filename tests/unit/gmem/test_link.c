/* A second file of the same pages, for another VM: a view of its own, and pages that stay. */
#include "tests/unit/gmem/support.h"

#include <quire/confidential.h>

#include "src/base/reclaim.h"
#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 600u
#define GFN 1024u
#define OTHER 4096u /* where the second VM has the file's pages */

static struct machine second; /* beside @machine, on its host */
static struct quire_gmem *linked;

static void show(struct quire_vm *vm, struct quire_gmem *file, uint64_t gfn)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){gfn}),
	    .size_bytes = PAGES(FILE_PAGES),
	    .hva = {SIM_HVA_BASE + PAGES(gfn % SIM_GIGANTIC)},
	    .gmem = file,
	};

	assert_int_equal(quire_vm_set_region(vm, &region), 0);
	if (quire_vm_attributes(vm))
		assert_int_equal(quire_vm_set_attributes(vm, region.gpa, region.size_bytes,
							 QUIRE_ATTRIBUTE_PRIVATE),
				 0);
}

static void link_begin(enum quire_vm_type type, uint64_t flags)
{
	gmem_begin(type, flags, GFN, FILE_PAGES);
	machine_start_second(&second, &machine);
}

/* The same with a file that the second VM shows. */
static void linked_begin(enum quire_vm_type type, uint64_t flags)
{
	link_begin(type, flags);
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), 0);
	show(second.vm, linked, OTHER);
}

static void link_end(void)
{
	assert_true(machine_is_sound(&second));
	machine_end_vm(&second);
	gmem_end();
}

static void linked_end(void)
{
	quire_gmem_release(linked);
	link_end();
}

static void other_store(uint64_t index, uint8_t byte)
{
	assert_int_equal(machine_store(&second, 0, gpa_of((gfn_t){OTHER + index}).v, byte), 0);
}

static uint8_t other_load(uint64_t index)
{
	uint8_t byte = 0xee;

	assert_int_equal(machine_load(&second, 1, gpa_of((gfn_t){OTHER + index}).v, &byte), 0);
	return byte;
}

static uint64_t pages_mapped(const struct quire_vm *vm)
{
	return quire_vm_stat(vm, QUIRE_VM_STAT_pages_4k) +
	       512 * quire_vm_stat(vm, QUIRE_VM_STAT_pages_2m);
}

static void test_refused(void **state)
{
	static const struct quire_confidential_ops ops;
	struct quire_vm_config config;
	struct quire_vm *vm;
	uint64_t fail = 1;

	(void)state;
	link_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED);
	assert_int_equal(quire_gmem_link(gmem, machine.vm, &linked), -EINVAL);
	config = second.vm->config;
	config.type = QUIRE_VM_SW_PROTECTED;
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	assert_int_equal(quire_gmem_link(gmem, vm, &linked), -EINVAL);
	quire_vm_put(vm);
	link_end();

	link_begin(QUIRE_VM_SW_PROTECTED, 0);
	config = second.vm->config;
	config.confidential = &ops;
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	assert_int_equal(quire_gmem_link(gmem, vm, &linked), -EINVAL);
	quire_vm_put(vm);
	store(GFN, 5);
	machine.host.fail_at = machine.host.allocations + fail;
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), -ENOMEM);
	machine.host.fail_at = 0;
	/* What was refused changed nothing: the page is still the VM's. */
	assert_ptr_equal(gmem->inode->arch, gmem_arch(gmem->inode));
	link_end();
}

/* A VM of @config, if it can show the file of a VM of @type. */
static int link_to(enum quire_vm_type type, uint64_t flags, const struct quire_vm_config *config)
{
	struct quire_vm *vm;
	int error;

	link_begin(type, flags);
	assert_int_equal(quire_vm_create(config, &vm), 0);
	error = quire_gmem_link(gmem, vm, &linked);
	if (!error)
		quire_gmem_release(linked);
	quire_vm_put(vm);
	link_end();
	return error;
}

/* Pages of one host are no other's, and both VMs must keep attributes in the same place. */
static void test_refused_pairs(void **state)
{
	static const struct quire_confidential_ops ops;
	struct quire_host_ops other_host = sim_host_ops;
	struct quire_vm_config plain, config;

	(void)state;
	link_begin(QUIRE_VM_SW_PROTECTED, 0);
	plain = machine.vm->config;
	link_end();
	assert_int_equal(link_to(QUIRE_VM_SW_PROTECTED, 0, &plain), 0);
	config = plain;
	config.host = &other_host;
	assert_int_equal(link_to(QUIRE_VM_SW_PROTECTED, 0, &config), -EINVAL);
	config = plain;
	config.gmem_in_place_conversion = 1;
	assert_int_equal(link_to(QUIRE_VM_SW_PROTECTED, 0, &config), -EINVAL);
	machine.in_place = 1;
	assert_int_equal(link_to(QUIRE_VM_SW_PROTECTED, 0, &config), 0);
	assert_int_equal(link_to(QUIRE_VM_SW_PROTECTED, 0, &plain), -EINVAL);
	machine.in_place = 0;
	machine.confidential = &ops;
	assert_int_equal(link_to(QUIRE_VM_SW_PROTECTED, 0, &plain), -EINVAL);
	machine.confidential = NULL;
}

/* Each file binds in its own VM, and there alone. */
static void test_bound(void **state)
{
	struct quire_region region = {
	    .slot = 2,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){8192}),
	    .size_bytes = PAGES(1),
	    .hva = {SIM_HVA_BASE},
	};

	(void)state;
	linked_begin(QUIRE_VM_SW_PROTECTED, 0);
	assert_int_equal(quire_gmem_size_bytes(linked), PAGES(FILE_PAGES));
	assert_int_equal(quire_gmem_flags(linked), 0);
	assert_ptr_equal(quire_gmem_store(linked), quire_gmem_store(gmem));
	region.gmem = linked;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EINVAL);
	/* What one file binds is free in the other, and no index is bound twice in one. */
	assert_int_equal(quire_vm_set_region(second.vm, &region), -EEXIST);
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(second.vm, &region), -EINVAL);
	linked_end();
}

/* One memory: what one VM stores the other loads, in pages and in huge pages. */
static void one_memory(void)
{
	store(GFN + 3, 3);
	assert_int_equal(other_load(3), 3);
	other_store(4, 4);
	assert_int_equal(load(GFN + 4), 4);
	other_store(520, 5);
	assert_int_equal(load(GFN + 520), 5);
	assert_int_equal(pages_mapped(machine.vm), 513);
	assert_int_equal(pages_mapped(second.vm), 513);
	/* A punch by either file reaches both. */
	assert_int_equal(quire_gmem_punch(linked, 0, PAGES(512)), 0);
	assert_int_equal(pages_mapped(machine.vm), 1);
	assert_int_equal(pages_mapped(second.vm), 1);
	assert_int_equal(load(GFN + 3), 0);
	assert_int_equal(other_load(4), 0);
	punch(520, 1);
	assert_int_equal(pages_mapped(machine.vm), 512);
	assert_int_equal(pages_mapped(second.vm), 512);
	assert_int_equal(other_load(520), 0);
}

/* Where the one VM has the file's pages, the other may have memory of its own: a punch leaves it.
 */
static void test_punch_elsewhere(void **state)
{
	struct quire_region region = {
	    .slot = 2,
	    .gpa = gpa_of((gfn_t){OTHER}),
	    .size_bytes = PAGES(4),
	    .hva = sim_hva(0),
	};

	(void)state;
	linked_begin(QUIRE_VM_SW_PROTECTED, 0);
	map_pages(0, 4, SIM_WRITABLE);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	store(OTHER + 1, 1);
	store(GFN + 1, 2);
	other_store(2, 3);
	assert_true(level_at(OTHER + 1));
	punch(0, 4);
	assert_true(level_at(OTHER + 1));
	assert_false(level_at(GFN + 1));
	assert_int_equal(pages_mapped(second.vm), 0);
	linked_end();
}

static void test_one_memory(void **state)
{
	(void)state;
	linked_begin(QUIRE_VM_SW_PROTECTED, 0);
	one_memory();
	linked_end();
	linked_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED);
	one_memory();
	linked_end();
}

/* A lost page is lost to both, until one punches it. */
static void test_lost(void **state)
{
	uint8_t byte;

	(void)state;
	linked_begin(QUIRE_VM_SW_PROTECTED, 0);
	store(GFN + 520, 1);
	assert_int_equal(other_load(520), 1);
	quire_gmem_poison(linked, 520);
	assert_int_equal(fault_at(GFN + 520, QUIRE_PFERR_WRITE), -EHWPOISON);
	assert_int_equal(machine_load(&second, 0, gpa_of((gfn_t){OTHER + 520}).v, &byte),
			 -EHWPOISON);
	punch(520, 1);
	assert_int_equal(other_load(520), 0);
	linked_end();
}

/* The first file goes, its VM, too: the second VM notices nothing, and makes new pages. */
static void test_first_goes(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	machine_start_second(&second, &machine);
	store(GFN + 520, 7);
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), 0);
	show(second.vm, linked, OTHER);
	assert_int_equal(other_load(520), 7);
	quire_gmem_release(gmem);
	assert_int_equal(pages_mapped(machine.vm), 0);
	assert_int_equal(fault_at(GFN + 520, QUIRE_PFERR_WRITE), -EFAULT);
	/* Its own view went, and not the other's. */
	assert_int_equal(pages_mapped(second.vm), 1);
	assert_int_equal(other_load(520), 7);
	other_store(521, 8);
	machine_end_vm(&machine);
	assert_int_equal(other_load(520), 7);
	other_store(3, 9);
	assert_int_equal(quire_gmem_punch(linked, PAGES(520), PAGES(1)), 0);
	assert_int_equal(other_load(520), 0);
	assert_int_equal(other_load(521), 8);
	assert_int_equal(other_load(3), 9);
	assert_true(machine_is_sound(&second));
	quire_gmem_release(linked);
	assert_int_equal(pages_mapped(second.vm), 0);
	machine_end_vm(&second);
	/* With the last file the store: every frame and byte is back. */
	assert_true(machine_is_empty(&machine));
	machine.tunables.gmem_huge_pages = 0;
}

/* The second goes, and comes again; a file of the second is one of the first's memory, too. */
static void test_second_goes(void **state)
{
	struct quire_gmem *back;

	(void)state;
	linked_begin(QUIRE_VM_SW_PROTECTED, 0);
	other_store(520, 7);
	assert_int_equal(load(GFN + 520), 7);
	quire_gmem_release(linked);
	assert_int_equal(pages_mapped(machine.vm), 1);
	assert_int_equal(load(GFN + 520), 7);
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), 0);
	assert_int_equal(quire_vm_set_region(second.vm, &(struct quire_region){.slot = 1}), 0);
	show(second.vm, linked, OTHER);
	assert_int_equal(other_load(520), 7);
	assert_int_equal(quire_gmem_link(linked, machine.vm, &back), 0);
	quire_gmem_release(back);
	assert_int_equal(other_load(520), 7);
	linked_end();
}

/* Pages of several VMs are none's in the reverse map, from the link on; mappings stay. */
static void test_given_up(void **state)
{
	struct gmem_lookup late;
	struct gmem_page page;
	int error;

	(void)state;
	link_begin(QUIRE_VM_SW_PROTECTED, 0);
	store(GFN + 520, 7);
	gmem_page_read(&gmem->inode->pages, 520, &page);
	assert_true(rmp_allows(machine.vm->rmp, (gfn_t){GFN + 520}, page.pfn));
	reclaim_enter();
	error = gmem_lookup_begin(memslot_lookup(machine.vm, 0, (gfn_t){GFN + 521}, NULL),
				  (gfn_t){GFN + 521}, GMEM_PRIVATE, &late);
	reclaim_leave();
	assert_int_equal(error, 0);
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), 0);
	assert_true(rmp_is_free(machine.vm->rmp, page.pfn));
	assert_int_equal(pages_mapped(machine.vm), 1);
	/* A lookup that was on its way takes nothing. */
	assert_int_equal(gmem_lookup_finish(&late), 0);
	assert_true(rmp_is_free(machine.vm->rmp, late.pfn));
	show(second.vm, linked, OTHER);
	assert_int_equal(other_load(520), 7);
	/* A conversion in one VM is that VM's alone. */
	convert(GFN + 520, 1, 0);
	assert_int_equal(other_load(520), 7);
	convert(GFN + 520, 1, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(load(GFN + 520), 7);
	linked_end();
}

static int private_always(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)gfn;
	(void)pfn;
	(void)order;
	return 0;
}

/* Hardware that takes nothing back is told nothing by the link. */
static void test_nothing_to_give_up(void **state)
{
	static const struct gmem_arch_ops ops = {.make_private = private_always};
	static const struct gmem_arch arch = {.ops = &ops};
	struct gmem_page page;

	(void)state;
	link_begin(QUIRE_VM_SW_PROTECTED, 0);
	machine.vm->gmem_arch = &arch;
	gmem->inode->arch = &arch;
	store(GFN + 520, 7);
	assert_int_equal(quire_gmem_link(gmem, second.vm, &linked), 0);
	gmem_page_read(&gmem->inode->pages, 520, &page);
	assert_true(page.state & GMEM_PAGE_PREPARED);
	assert_int_equal(pages_mapped(machine.vm), 1);
	show(second.vm, linked, OTHER);
	assert_int_equal(other_load(520), 7);
	linked_end();
}

static int64_t fill_byte(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	*(uint8_t *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT) = 77;
	return 1;
}

static void test_populated(void **state)
{
	struct quire_gmem_fill fill = {.gfn = {OTHER + 520}, .npages = 1, .fill = fill_byte};

	(void)state;
	linked_begin(QUIRE_VM_SW_PROTECTED, 0);
	assert_int_equal(quire_gmem_populate(second.vm, &fill), 1);
	assert_int_equal(load(GFN + 520), 77);
	linked_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_one_memory),
	    cmocka_unit_test(test_lost),
	    cmocka_unit_test(test_first_goes),
	    cmocka_unit_test(test_second_goes),
	    cmocka_unit_test(test_given_up),
	    cmocka_unit_test(test_populated),
	    cmocka_unit_test(test_refused_pairs),
	    cmocka_unit_test(test_punch_elsewhere),
	    cmocka_unit_test(test_nothing_to_give_up),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
