/* The steps of a fault and their order: the host is watched, and changes come in the middle. */
#include "tests/unit/support.h"

#include <quire/gmem.h>

#include "src/tdp/tdp.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)
#define SLOT_PAGES 8u

static struct quire_host_ops ops;
static unsigned int lookups, puts, puts_unlocked;
static enum quire_page_use last_use;
static void (*meanwhile)(void), (*before_lookup)(void);
static int refusal; /* what the host says instead of looking; 0: it looks */

/* The page is looked up: no lock is held, and anything may happen before the answer is used. */
static int watched_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int ret;

	if (before_lookup)
		before_lookup();
	if (refusal)
		return refusal;
	ret = sim_host_ops.page_get(ctx, hva, flags, page);
	lookups++;
	assert_int_equal(machine.vcpus[0]->line.busy, 0);
	if (meanwhile)
		meanwhile();
	return ret;
}

static void watched_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	puts++;
	puts_unlocked += !machine.vcpus[0]->line.busy;
	last_use = use;
	sim_host_ops.page_put(ctx, page, use);
}

static void begin(uint32_t flags)
{
	vm_begin();
	ops = sim_host_ops;
	ops.page_get = watched_get;
	ops.page_put = watched_put;
	machine.vm->host = &ops;
	lookups = puts = puts_unlocked = 0;
	meanwhile = before_lookup = NULL;
	refusal = 0;
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, flags);
}

static void enter(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(machine.vcpus[0], &requests, &stage2), 0);
	quire_vcpu_leave(machine.vcpus[0]);
}

static struct quire_memory_fault told;

/* One attempt. */
static int fault_once(uint64_t gfn, uint64_t error)
{
	memset(&told, 0, sizeof(told));
	return quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){gfn}), error, &told);
}

static void host_begin(uint32_t page)
{
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(page), sim_hva(page + 1));
}

static void host_end(uint32_t page)
{
	quire_vm_host_invalidate_end(machine.vm, sim_hva(page), sim_hva(page + 1));
}

static void invalidate_this(void)
{
	host_begin(1);
	host_end(1);
}

static void invalidate_other(void)
{
	host_begin(5);
	host_end(5);
}

static void begin_this(void)
{
	host_begin(1);
}

static void begin_other(void)
{
	host_begin(5);
}

static void replace_roots(void)
{
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	quire_vm_set_nx_huge_pages(machine.vm, 0);
}

static void delete_slot(void)
{
	add_slot(0, 0, 0);
}

static void create_slot(void)
{
	struct quire_region other = {.slot = 1,
				     .gpa = gpa_of((gfn_t){100}),
				     .size_bytes = QUIRE_PAGE_SIZE,
				     .hva = sim_hva(5)};

	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
}

static void end_this(void)
{
	host_end(1);
}

static void end_other(void)
{
	host_end(5);
}

/* What happens between the lookup and the lock, and whether the fault may still go on. */
static const struct {
	void (*happens)(void);
	void (*afterwards)(void);
	int outcome;
} changes[] = {
    {invalidate_this, NULL, QUIRE_RETRY},
    /* The sequence is one for all gfns; what is in progress has a range. */
    {invalidate_other, NULL, QUIRE_RETRY},
    {begin_this, end_this, QUIRE_RETRY},
    {begin_other, end_other, QUIRE_FIXED},
    {replace_roots, NULL, QUIRE_RETRY},
    {delete_slot, NULL, QUIRE_RETRY},
    {create_slot, NULL, QUIRE_RETRY},
};

static void test_changes_meanwhile(void **state)
{
	uint32_t level;

	(void)state;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		begin(0);
		enter();
		meanwhile = changes[i].happens;
		assert_int_equal(fault_once(1, WRITE), changes[i].outcome);
		assert_int_equal(lookups, 1);
		assert_int_equal(leaf_at(1, &level) != 0, changes[i].outcome == QUIRE_FIXED);
		/* What was looked up for nothing is given back as it was. */
		assert_int_equal(puts, 1);
		assert_int_equal(last_use, changes[i].outcome == QUIRE_FIXED ? QUIRE_PAGE_DIRTY
									     : QUIRE_PAGE_UNUSED);
		assert_int_equal(frame_of(1)->references, 1);
		meanwhile = NULL;
		if (changes[i].afterwards)
			changes[i].afterwards();
		vm_end();
	}
}

/* The client deletes the slot and then frees its memory, as it may, or loses the page. */
static void free_slot_memory(void)
{
	delete_slot();
	sim_unmap(&machine.host, 1);
}

static void lose_slot_memory(void)
{
	delete_slot();
	frame_of(1)->poisoned = true;
}

/* A fault that still looks for that memory says nothing about it: the guest finds no slot. */
static void test_memory_goes_with_its_slot(void **state)
{
	(void)state;
	begin(0);
	enter();
	before_lookup = free_slot_memory;
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(lookups, 1);
	before_lookup = NULL;
	enter();
	assert_int_equal(fault_once(1, WRITE), QUIRE_EMULATE);
	vm_end();

	begin(0);
	enter();
	before_lookup = lose_slot_memory;
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(told.hva.v, 0);
	frame_of(1)->poisoned = false;
	vm_end();
}

/* Any error of the host's is handed on as it is, of a fault and of a prefault. */
static void test_errors_of_the_host(void **state)
{
	static const int errors[] = {-EPERM, -ENOENT, -EINTR, -ENOMEM, -EFAULT};
	uint64_t done = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		begin(0);
		enter();
		quire_vcpu_request(machine.vcpus[0], UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
		refusal = errors[i];
		assert_int_equal(fault_once(1, WRITE), errors[i]);
		assert_int_equal(
		    quire_vcpu_prefault(machine.vcpus[0], gpa_of((gfn_t){1}), PAGES(1), &done),
		    errors[i]);
		assert_int_equal(done, 0);
		/* Of a slot that has gone meanwhile it says nothing; but the client's wish to end
		 * the run is none of the slot's. */
		before_lookup = delete_slot;
		assert_int_equal(fault_once(1, WRITE), errors[i] == -EINTR ? -EINTR : QUIRE_RETRY);
		assert_int_equal(puts, 0);
		vm_end();
	}
	refusal = 0;
	before_lookup = NULL;
}

static unsigned int turns_left;

/* The sequence moves under each lookup, and in the end the VM breaks. */
static void never_settles(void)
{
	if (lookups > 100)
		return;
	invalidate_other();
	if (!turns_left--)
		vm_poison(machine.vm);
}

/* A prefault that starts over again and again ends with its VM. */
static void test_prefault_ends_with_the_vm(void **state)
{
	uint64_t done = 0;

	(void)state;
	begin(0);
	turns_left = 3;
	meanwhile = never_settles;
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){0}, QUIRE_PAGE_SIZE, &done),
			 -EIO);
	assert_int_equal(lookups, 4);
	machine.vm->dead = 0;
	vm_end();
}

/* A wait for the page that a flusher ended is begun again; one that the client ended is not. */
static void test_interrupted_lookup(void **state)
{
	(void)state;
	begin(0);
	machine.host.pages[1].flags |= SIM_SLOW;
	machine.host.interrupted = true;
	enter();
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(lookups, 1);
	quire_vcpu_request(machine.vcpus[0], UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
	assert_int_equal(fault_once(1, WRITE), -EINTR);
	assert_int_equal(told.size_bytes, 0);
	machine.host.interrupted = false;
	assert_int_equal(fault_once(1, WRITE), QUIRE_FIXED);
	vm_end();
}

static void end_it_at_last(void)
{
	invalidate_other();
	if (lookups > 100)
		meanwhile = NULL;
}

/* A prefault that starts over hears the client. */
static void test_prefault_hears_the_client(void **state)
{
	uint64_t done = 0;

	(void)state;
	begin(0);
	meanwhile = end_it_at_last;
	quire_vcpu_request(machine.vcpus[0], UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT);
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){0}, QUIRE_PAGE_SIZE, &done),
			 -EINTR);
	assert_int_equal(done, 0);
	/* What needs no second attempt is done all the same: the caller looks before each step. */
	meanwhile = NULL;
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){0}, QUIRE_PAGE_SIZE, &done),
			 0);
	assert_int_equal(done, QUIRE_PAGE_SIZE);
	vm_end();
}

/* The host hears of the use while the lock still keeps the page there. */
static void test_page_is_put_under_the_lock(void **state)
{
	(void)state;
	begin(0);
	enter();
	assert_int_equal(fault_once(1, 0), QUIRE_FIXED);
	assert_int_equal(last_use, QUIRE_PAGE_DIRTY);
	assert_int_equal(fault_once(1, WRITE), QUIRE_SPURIOUS);
	/* Where a use of what was aged faults the fast path has seen it first. */
	assert_int_equal(puts, entry_ages_by_faults(&machine.vm->tdp_format) ? 1 : 2);
	assert_int_equal(puts_unlocked, 0);
	vm_end();

	begin(QUIRE_SLOT_READONLY);
	enter();
	assert_int_equal(fault_once(1, 0), QUIRE_FIXED);
	assert_int_equal(last_use, QUIRE_PAGE_ACCESSED);
	assert_int_equal(puts_unlocked, 0);
	vm_end();
}

/* A gfn that is being invalidated is not looked up; others are. */
static void test_no_lookup_for_nothing(void **state)
{
	(void)state;
	begin(0);
	enter();
	host_begin(1);
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(lookups, 0);
	assert_int_equal(fault_once(2, WRITE), QUIRE_FIXED);
	assert_int_equal(lookups, 1);
	/* A second one makes one range of both. */
	host_begin(5);
	assert_int_equal(fault_once(3, WRITE), QUIRE_RETRY);
	assert_int_equal(fault_once(6, WRITE), QUIRE_FIXED);
	host_end(1);
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	host_end(5);
	assert_int_equal(fault_once(1, WRITE), QUIRE_FIXED);
	vm_end();
}

/* Tables are taken before the page is looked up: without any, nothing else is done. */
static void test_tables_come_first(void **state)
{
	struct table_cache all = {0};
	struct arena *arena;
	uint64_t left;

	(void)state;
	begin(0);
	enter();
	arena = &machine.vm->arena;
	table_cache_drain(&machine.vcpus[0]->tables, arena);
	left = arena->free_count;
	/* A batch more than was asked for is what a cache takes. */
	while (arena->free_count)
		assert_int_equal(table_cache_fill(&all, arena, all.count + 1), 0);
	assert_int_equal(all.count, left);
	machine.host.fail_at = machine.host.allocations + 1;
	assert_int_equal(fault_once(1, WRITE), -ENOMEM);
	assert_int_equal(told.size_bytes, 0);
	assert_int_equal(lookups, 0);
	table_cache_drain(&all, arena);
	assert_int_equal(fault_once(1, WRITE), QUIRE_FIXED);
	vm_end();
}

/* While a slot goes away faults wait for what comes, and the library's own accesses fail. */
static void test_placeholder(void **state)
{
	struct quire_vm *vm;
	struct memslot_update update = {.change = MEMSLOT_DELETE};
	uint64_t done;
	uint8_t byte;

	(void)state;
	begin(0);
	enter();
	vm = machine.vm;
	mutex_lock(&vm->slots_lock);
	update.old_slot = memslot_by_id(vm, 0, 0);
	assert_int_equal(memslot_update_prepare(vm, &update), 0);
	memslot_update_begin(vm, &update);
	mutex_unlock(&vm->slots_lock);
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){0}, QUIRE_PAGE_SIZE, &done),
			 -EAGAIN);
	assert_int_equal(quire_vm_read(vm, (gpa_t){0}, &byte, 1), -EFAULT);
	assert_int_equal(lookups, 0);
	mutex_lock(&vm->slots_lock);
	memslot_update_abort(vm, &update);
	mutex_unlock(&vm->slots_lock);
	assert_int_equal(fault_once(1, WRITE), QUIRE_FIXED);
	vm_end();
}

/* Slot and privacy: what is refused, what is emulated, and what the exit says. */
static void test_slot_cases(void **state)
{
	(void)state;
	begin(0);
	enter();
	assert_int_equal(fault_once(SLOT_PAGES, WRITE), QUIRE_EMULATE);
	/* This VM has no private pages. */
	assert_int_equal(fault_once(1, WRITE | QUIRE_PFERR_PRIVATE), -EFAULT);
	assert_int_equal(told.flags, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(told.gpa.v, QUIRE_PAGE_SIZE);
	assert_int_equal(told.size_bytes, QUIRE_PAGE_SIZE);
	assert_int_equal(fault_once(SLOT_PAGES, QUIRE_PFERR_PRIVATE), -EFAULT);
	assert_int_equal(lookups, 0);
	/* Nor where the vCPU remembers the slot of a fault before. */
	assert_int_equal(fault_once(4, WRITE), QUIRE_FIXED);
	assert_int_equal(fault_once(1, WRITE | QUIRE_PFERR_PRIVATE), -EFAULT);
	assert_int_equal(lookups, 1);
	/* A page that the client cannot reach is no memory fault. */
	sim_unmap(&machine.host, 2);
	assert_int_equal(fault_once(2, 0), -EFAULT);
	assert_int_equal(told.size_bytes, 0);
	/* Nor is one that is lost: the client is told which. */
	frame_of(3)->poisoned = true;
	assert_int_equal(fault_once(3, 0), -EHWPOISON);
	assert_int_equal(told.size_bytes, 0);
	assert_int_equal(told.hva.v, sim_hva(3).v);
	frame_of(3)->poisoned = false;
	vm_end();
}

static void make_private(uint64_t gfn, uint64_t attributes)
{
	assert_int_equal(
	    quire_vm_set_attributes(machine.vm, gpa_of((gfn_t){gfn}), QUIRE_PAGE_SIZE, attributes),
	    0);
}

static void hide_page(void)
{
	make_private(1, QUIRE_ATTRIBUTE_PRIVATE);
}

/* In a VM with private memory the attribute says what an access means. */
static void test_private_cases(void **state)
{
	struct quire_region region = {.slot = 1, .size_bytes = QUIRE_PAGE_SIZE};
	uint32_t level;

	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	ops = sim_host_ops;
	ops.page_get = watched_get;
	machine.vm->host = &ops;
	lookups = 0;
	map_pages(0, SLOT_PAGES, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, 0);
	enter();
	/* It turns private while the shared page is looked up: no mapping, and no refusal yet. */
	meanwhile = hide_page;
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(leaf_at(1, &level), 0);
	meanwhile = NULL;
	assert_int_equal(fault_once(1, WRITE), -EFAULT);
	assert_int_equal(told.flags, QUIRE_ATTRIBUTE_PRIVATE);
	/* The error code's own word does not count here. */
	assert_int_equal(fault_once(2, WRITE | QUIRE_PFERR_PRIVATE), QUIRE_FIXED);
	make_private(SLOT_PAGES, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(fault_once(SLOT_PAGES, WRITE), -EFAULT);
	assert_int_equal(told.flags, QUIRE_ATTRIBUTE_PRIVATE);
	/* What is emulated is shared. */
	assert_int_equal(fault_at(SLOT_PAGES + 1, 0), QUIRE_EMULATE);
	make_private(SLOT_PAGES + 1, QUIRE_ATTRIBUTE_PRIVATE);
	region.gpa = gpa_of((gfn_t){SLOT_PAGES + 2});
	region.hva = sim_hva(0);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_int_equal(fault_once(SLOT_PAGES + 1, PRESENT | QUIRE_PFERR_RSVD), -EFAULT);
	assert_int_equal(told.flags, 0);
	vm_end();
}

static struct quire_platform watching;
static uint32_t instants; /* until the page turns private */

/* Between two steps of a fault, outside of its sections and locks. */
static struct quire_thread *self_after_a_change(void)
{
	struct quire_thread *self = sched_platform.self();

	if (!instants || self->nesting || self->held_count || --instants)
		return self;
	make_private(1, QUIRE_ATTRIBUTE_PRIVATE);
	return self;
}

/* Whenever the page turns private, the fault maps no shared page that stays, and refuses nothing
 * that was right when it came. The vCPU remembers the slot, and no page was private before. */
static void test_private_at_any_time(void **state)
{
	uint32_t when = 0, retried = 0, fixed = 0;

	(void)state;
	do {
		int ret;

		vm_begin_type(QUIRE_VM_SW_PROTECTED);
		map_pages(0, SLOT_PAGES, SIM_WRITABLE);
		add_slot(0, SLOT_PAGES, 0);
		assert_int_equal(fault_at(2, WRITE), QUIRE_FIXED);
		watching = sched_platform;
		watching.self = self_after_a_change;
		instants = ++when;
		quire_platform_install(&watching);
		ret = fault_once(1, WRITE);
		quire_platform_install(&sched_platform);
		retried += ret == QUIRE_RETRY;
		fixed += ret == QUIRE_FIXED;
		if (!instants)
			assert_int_equal(level_at(1), 0);
		assert_true(ret == QUIRE_RETRY || ret == QUIRE_FIXED ||
			    (ret == -EFAULT && !instants));
		vm_end();
	} while (!instants);
	instants = 0;
	assert_true(retried && fixed);
}

static uint64_t covered;

/* The host takes the huge page back between two steps of a prefault. */
static struct quire_thread *self_after_a_loss(void)
{
	struct quire_thread *self = sched_platform.self();

	if (!instants || self->nesting || self->held_count || --instants)
		return self;
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(0), sim_hva(SIM_BLOCK));
	sim_unmap(&machine.host, 0);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(0), sim_hva(SIM_BLOCK));
	return self;
}

static int prefault_until(uint32_t instant)
{
	int ret;

	watching = sched_platform;
	watching.self = self_after_a_loss;
	instants = instant;
	covered = 0;
	quire_platform_install(&watching);
	ret = quire_vcpu_prefault(machine.vcpus[0], (gpa_t){PAGES(3)}, PAGES(SIM_BLOCK), &covered);
	quire_platform_install(&sched_platform);
	return ret;
}

/* What has gone when a prefault counts what it mapped is the page that was asked for, and says
 * nothing about its neighbours. */
static void test_prefaulted_page_goes(void **state)
{
	uint32_t when = 0, gone = 0, whole = 0;

	(void)state;
	do {
		int ret;

		vm_begin();
		sim_map_huge(&machine.host, 0, SIM_WRITABLE);
		add_slot(0, SIM_BLOCK, 0);
		ret = prefault_until(++when);
		if (!ret && !level_at(3)) {
			assert_int_equal(covered, PAGES(1));
			gone++;
		} else if (!ret && level_at(3) == QUIRE_LEVEL_2M) {
			assert_int_equal(covered, PAGES(SIM_BLOCK - 3));
			whole++;
		}
		vm_end();
	} while (!instants);
	instants = 0;
	assert_true(gone && whole);
}

/* A fault whose root has gone goes back to where roots are loaded. */
static void test_root_is_gone(void **state)
{
	uint64_t requests;
	struct quire_stage2 stage2;
	struct table *root;

	(void)state;
	begin(0);
	enter();
	assert_int_equal(fault_once(1, WRITE), QUIRE_FIXED);
	root = machine.vm->roots.valid[0];
	assert_ptr_equal(machine.vcpus[0]->root, root);
	replace_roots();
	assert_null(machine.vm->roots.valid[0]);
	assert_int_equal(fault_once(1, WRITE), QUIRE_RETRY);
	assert_int_equal(fault_once(1, WRITE | PRESENT), QUIRE_RETRY);
	assert_int_equal(fault_once(1, PRESENT | QUIRE_PFERR_RSVD), QUIRE_RETRY);
	/* Loading the next one is a flush. */
	assert_int_equal(quire_vcpu_enter(machine.vcpus[0], &requests, &stage2), 0);
	assert_true(requests & QUIRE_REQ_TLB_FLUSH);
	quire_vcpu_leave(machine.vcpus[0]);
	assert_int_equal(fault_once(1, WRITE), QUIRE_FIXED);
	vm_end();
}

/* The numbers are the hardware's, and of the upper half KVM's. */
static void test_error_code(void **state)
{
	(void)state;
	assert_int_equal(QUIRE_PFERR_PRESENT, 1 << 0);
	assert_int_equal(QUIRE_PFERR_WRITE, 1 << 1);
	assert_int_equal(QUIRE_PFERR_USER, 1 << 2);
	assert_int_equal(QUIRE_PFERR_RSVD, 1 << 3);
	assert_int_equal(QUIRE_PFERR_FETCH, 1 << 4);
	assert_int_equal(QUIRE_PFERR_GUEST_FINAL, UINT64_C(1) << 32);
	assert_int_equal(QUIRE_PFERR_GUEST_PAGE, UINT64_C(1) << 33);
	assert_int_equal(QUIRE_PFERR_PRIVATE, UINT64_C(1) << 49);
	/* Bits that a fault does not ask for change nothing. */
	begin(0);
	enter();
	assert_int_equal(fault_once(1, WRITE | QUIRE_PFERR_USER | QUIRE_PFERR_GUEST_FINAL),
			 QUIRE_FIXED);
	assert_int_equal(fault_once(1, WRITE | QUIRE_PFERR_GUEST_PAGE), QUIRE_SPURIOUS);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_changes_meanwhile),
	    cmocka_unit_test(test_memory_goes_with_its_slot),
	    cmocka_unit_test(test_prefault_ends_with_the_vm),
	    cmocka_unit_test(test_interrupted_lookup),
	    cmocka_unit_test(test_prefault_hears_the_client),
	    cmocka_unit_test(test_page_is_put_under_the_lock),
	    cmocka_unit_test(test_no_lookup_for_nothing),
	    cmocka_unit_test(test_tables_come_first),
	    cmocka_unit_test(test_placeholder),
	    cmocka_unit_test(test_slot_cases),
	    cmocka_unit_test(test_private_cases),
	    cmocka_unit_test(test_private_at_any_time),
	    cmocka_unit_test(test_errors_of_the_host),
	    cmocka_unit_test(test_prefaulted_page_goes),
	    cmocka_unit_test(test_root_is_gone),
	    cmocka_unit_test(test_error_code),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
