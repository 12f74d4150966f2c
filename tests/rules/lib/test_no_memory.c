/* Every public operation with every allocation, and every call of the host that may want memory,
 * failing once: nothing has changed, and again works. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/place.h>
#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "hosts/process/process.h"
#include "hosts/sim/frames.h"

#define PAGES 16u
#define BYTES (PAGES * QUIRE_PAGE_SIZE)
#define GPA 0x100000u
#define ELSEWHERE 0x4000000u
#define FAILURES_MAX 1000u

static struct sim_host host;
static struct quire_vm *vm;
static struct quire_vcpu *vcpu;
static struct quire_gmem *gmem;

/* The host's calls that may say -ENOMEM count among its allocations. */
static int get_page(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	return sim_alloc_fails(ctx) ? -ENOMEM : sim_host_ops.page_get(ctx, hva, flags, page);
}

static int get_stored(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	return sim_alloc_fails(ctx) ? -ENOMEM : sim_store_get(ctx, store, index, order, pfn);
}

static int zero_stored(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	return sim_alloc_fails(ctx) ? -ENOMEM : sim_store_zero(ctx, store, index, npages);
}

static int clear_stored(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	return sim_alloc_fails(ctx) ? -ENOMEM : sim_store_clear(ctx, store, index, npages);
}

static int show_stored(void *ctx, void *store, uint64_t index, uint64_t npages, int shown)
{
	return sim_alloc_fails(ctx) ? -ENOMEM : sim_store_show(ctx, store, index, npages, shown);
}

static struct quire_host_ops host_ops;

/* One operation: what must be there first, the call, what the VM is like (the same before and
 * after a refused call), and its undoing. */
struct operation {
	enum quire_vm_type type;
	void (*setup)(void);
	int (*call)(void);
	uint64_t (*state)(void);
	void (*undo)(void);
};

static struct quire_region region_at(uint64_t gpa)
{
	return (struct quire_region){
	    .slot = 1, .gpa = {gpa}, .size_bytes = BYTES, .hva = sim_hva(0)};
}

static int set_region(const struct quire_region *region)
{
	return quire_vm_set_region(vm, region);
}

static int delete_slot(void)
{
	struct quire_region region = {.slot = 1};

	return set_region(&region);
}

static void drop_slot(void)
{
	assert_int_equal(delete_slot(), 0);
}

static int create_slot(void)
{
	struct quire_region region = region_at(GPA);

	return set_region(&region);
}

static void need_slot(void)
{
	assert_int_equal(create_slot(), 0);
}

static int move_slot(void)
{
	struct quire_region region = region_at(ELSEWHERE);

	return set_region(&region);
}

static int start_logging(void)
{
	struct quire_region region = region_at(GPA);

	region.flags = QUIRE_SLOT_LOG_DIRTY;
	return set_region(&region);
}

static int is_readable(uint64_t gpa)
{
	uint8_t byte;

	return quire_vm_read(vm, (gpa_t){gpa}, &byte, 1) == 0;
}

static int ignore_bits(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)src;
	(void)size_bytes;
	return 0;
}

/* Which pages there are, and whether they are logged. */
static uint64_t slot_state(void)
{
	uint64_t state = 0;

	for (unsigned int page = 0; page < PAGES; page++) {
		state = state << 1 | (uint64_t)is_readable(GPA + page * QUIRE_PAGE_SIZE);
		state = state << 1 | (uint64_t)is_readable(ELSEWHERE + page * QUIRE_PAGE_SIZE);
	}
	return state << 1 | (quire_vm_get_dirty_log(vm, 1, ignore_bits, NULL) == 0);
}

/* Makes the table that faults need. */
static int enter_guest(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;
	int error = quire_vcpu_enter(vcpu, &requests, &stage2);

	if (!error)
		quire_vcpu_leave(vcpu);
	return error;
}

static void need_gmem(void)
{
	assert_int_equal(quire_gmem_create(vm, BYTES, 0, NULL, &gmem), 0);
}

static void drop_gmem(void)
{
	quire_gmem_release(gmem);
	gmem = NULL;
}

static int create_gmem(void)
{
	return quire_gmem_create(vm, BYTES, 0, NULL, &gmem);
}

static int bind_gmem(void)
{
	struct quire_region region = region_at(GPA);

	region.flags = QUIRE_SLOT_GMEM;
	region.gmem = gmem;
	return set_region(&region);
}

static void drop_slot_and_gmem(void)
{
	drop_slot();
	drop_gmem();
}

static int allocate_gmem(void)
{
	return quire_gmem_allocate(gmem, 0, BYTES, NULL);
}

static int set_private(void)
{
	return quire_vm_set_attributes(vm, (gpa_t){GPA + QUIRE_PAGE_SIZE}, 5 * QUIRE_PAGE_SIZE,
				       QUIRE_ATTRIBUTE_PRIVATE);
}

static void set_shared(void)
{
	assert_int_equal(quire_vm_set_attributes(vm, (gpa_t){GPA}, BYTES, 0), 0);
}

static uint64_t attribute_state(void)
{
	uint64_t state = 0;

	for (unsigned int page = 0; page < PAGES; page++)
		state = state << 4 |
			quire_vm_get_attributes(vm, (gfn_t){GPA / QUIRE_PAGE_SIZE + page}) >> 3;
	return state;
}

static void need_private_pages(void)
{
	need_gmem();
	assert_int_equal(bind_gmem(), 0);
	assert_int_equal(set_private(), 0);
	assert_int_equal(enter_guest(), 0);
}

/* Tables and the page itself: both may be missing. */
static int fault_at(uint64_t gpa)
{
	struct quire_memory_fault fault;
	int result = quire_vcpu_fault(vcpu, (gpa_t){gpa}, QUIRE_PFERR_WRITE, &fault);

	return result < 0 ? result : 0;
}

static void need_slot_and_root(void)
{
	need_slot();
	assert_int_equal(enter_guest(), 0);
}

static int fault_shared(void)
{
	return fault_at(GPA);
}

static int fault_private(void)
{
	return fault_at(GPA + QUIRE_PAGE_SIZE);
}

static int prefault(void)
{
	uint64_t done = 0;

	return quire_vcpu_prefault(vcpu, (gpa_t){GPA}, QUIRE_PAGE_SIZE, &done);
}

static uint64_t mapped_state(void)
{
	return quire_vm_stat(vm, QUIRE_VM_STAT_pages_4k) << 32 | slot_state();
}

/* The hypervisor's own hold of a page, for as long as one call. */
static int hold_page(void)
{
	struct quire_map map;
	int error = quire_vcpu_map(vcpu, (gpa_t){GPA}, QUIRE_MAP_WRITE, &map);

	if (!error)
		quire_vcpu_unmap(vcpu, &map);
	return error;
}

/* A file that owns its pages' attributes, all private, and all there. */
static void need_owner(void)
{
	need_gmem();
	assert_int_equal(bind_gmem(), 0);
	assert_int_equal(allocate_gmem(), 0);
}

static int convert(uint64_t attributes, uint64_t contents)
{
	struct quire_gmem_conversion conversion = {.size_bytes = BYTES / 2,
						   .offset_bytes = QUIRE_PAGE_SIZE,
						   .attributes = attributes,
						   .contents = contents};

	return quire_gmem_set_attributes(gmem, &conversion);
}

static int convert_to_shared(void)
{
	return convert(0, QUIRE_GMEM_PRESERVE);
}

static int convert_to_zeroes(void)
{
	return convert(0, QUIRE_GMEM_ZERO);
}

static int convert_to_private(void)
{
	return convert(QUIRE_ATTRIBUTE_PRIVATE, QUIRE_GMEM_PRESERVE);
}

static void need_shared_pages(void)
{
	uint64_t before;

	need_owner();
	before = attribute_state();
	assert_int_equal(convert_to_shared(), 0);
	/* The state tells a conversion. */
	assert_true(attribute_state() != before);
}

static int create_vcpu(void)
{
	struct quire_vcpu *other;
	int error = quire_vcpu_create(vm, 7, NULL, &other);

	if (!error)
		quire_vcpu_destroy(other);
	return error;
}

static void nothing(void)
{
}

static int in_place; /* files own the attributes */

static int make_vm(enum quire_vm_type type)
{
	struct quire_vm_config config = {
	    .type = type,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .gmem_in_place_conversion = in_place,
	    .host = &host_ops,
	    .host_ctx = &host,
	};

	return quire_vm_create(&config, &vm);
}

static void start(const struct operation *operation)
{
	sim_host_reset(&host);
	for (uint32_t page = 0; page < PAGES; page++)
		sim_map(&host, page, SIM_MAPPED | SIM_WRITABLE);
	assert_int_equal(make_vm(operation->type), 0);
	assert_int_equal(quire_vcpu_create(vm, 0, NULL, &vcpu), 0);
	operation->setup();
}

static void stop(void)
{
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
	assert_int_equal(host.allocated_bytes, 0);
}

/* The allocation of that number fails. True when the call needed no more than were before it. */
static int fails_at(const struct operation *operation, unsigned int number)
{
	uint64_t before, made;
	int result;

	start(operation);
	before = operation->state();
	made = host.allocations;
	host.fail_at = made + number;
	result = operation->call();
	host.fail_at = 0;
	if (result) {
		assert_int_equal(result, -ENOMEM);
		assert_int_equal(operation->state(), before);
		assert_false(quire_vm_is_dead(vm));
		assert_int_equal(operation->call(), 0);
	}
	operation->undo();
	made = host.allocations - made;
	stop();
	return !result && made < number;
}

/* How many allocations could fail; at least @least, or nothing was tested. */
static void explore(const struct operation *operation, unsigned int least)
{
	unsigned int number = 1;

	assert_true(sim_host_init(&host));
	while (!fails_at(operation, number))
		assert_true(number++ < FAILURES_MAX);
	assert_true(number > least);
	sim_host_destroy(&host);
}

static void test_slots(void **state)
{
	static const struct operation operations[] = {
	    {QUIRE_VM_DEFAULT, nothing, create_slot, slot_state, drop_slot},
	    {QUIRE_VM_DEFAULT, need_slot, move_slot, slot_state, drop_slot},
	    {QUIRE_VM_DEFAULT, need_slot, start_logging, slot_state, drop_slot},
	    {QUIRE_VM_DEFAULT, need_slot, delete_slot, slot_state, nothing},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		explore(&operations[i], 1);
}

static void test_gmem(void **state)
{
	static const struct operation operations[] = {
	    {QUIRE_VM_SW_PROTECTED, nothing, create_gmem, slot_state, drop_gmem},
	    {QUIRE_VM_SW_PROTECTED, need_gmem, bind_gmem, slot_state, drop_slot_and_gmem},
	    {QUIRE_VM_SW_PROTECTED, need_gmem, allocate_gmem, slot_state, drop_gmem},
	    {QUIRE_VM_SW_PROTECTED, need_private_pages, fault_private, mapped_state,
	     drop_slot_and_gmem},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		explore(&operations[i], 1);
}

static void test_conversions(void **state)
{
	static const struct operation operations[] = {
	    {QUIRE_VM_SW_PROTECTED, need_owner, convert_to_shared, attribute_state,
	     drop_slot_and_gmem},
	    {QUIRE_VM_SW_PROTECTED, need_owner, convert_to_zeroes, attribute_state,
	     drop_slot_and_gmem},
	    {QUIRE_VM_SW_PROTECTED, need_shared_pages, convert_to_private, attribute_state,
	     drop_slot_and_gmem},
	};

	(void)state;
	in_place = 1;
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		explore(&operations[i], 1);
	in_place = 0;
}

static void test_attributes(void **state)
{
	static const struct operation operation = {QUIRE_VM_SW_PROTECTED, nothing, set_private,
						   attribute_state, set_shared};

	(void)state;
	explore(&operation, 1);
}

static void test_faults(void **state)
{
	static const struct operation operations[] = {
	    {QUIRE_VM_DEFAULT, need_slot_and_root, fault_shared, mapped_state, drop_slot},
	    {QUIRE_VM_DEFAULT, need_slot, enter_guest, slot_state, drop_slot},
	    {QUIRE_VM_DEFAULT, need_slot, prefault, mapped_state, drop_slot},
	    {QUIRE_VM_DEFAULT, need_slot, hold_page, slot_state, drop_slot},
	    {QUIRE_VM_DEFAULT, nothing, create_vcpu, slot_state, nothing},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		explore(&operations[i], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_slots),	cmocka_unit_test(test_gmem),
	    cmocka_unit_test(test_conversions), cmocka_unit_test(test_attributes),
	    cmocka_unit_test(test_faults),
	};

	quire_platform_install(&process_platform);
	host_ops = sim_host_ops;
	host_ops.page_get = get_page;
	host_ops.store_get = get_stored;
	host_ops.store_zero = zero_stored;
	host_ops.store_clear = clear_stored;
	host_ops.store_show = show_stored;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
