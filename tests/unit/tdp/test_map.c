/* What mappings of the TDP MMU say to a listener, and what goes with them. */
#include "tests/unit/support.h"

#include <quire/trace.h>

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

static uint64_t requests, request[4];

static void record(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_spte_requested)
		return;
	requests++;
	memcpy(request, args, sizeof(request));
}

static void test_requests_are_traced(void **state)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 5);
	requests = 0;
	quire_trace_install(record);
	store(2, 5);
	quire_trace_install(NULL);
	assert_int_equal(requests, 1);
	assert_int_equal(request[0], 2);
	assert_int_equal(request[1] << QUIRE_PAGE_SHIFT, (uintptr_t)frame_of(2)->bytes);
	assert_int_equal(request[2], QUIRE_LEVEL_4K);
	assert_int_equal(request[3], 0xf); /* read, write, user, execute */
	store(3, 5);
	assert_int_equal(requests, 1);
	vm_end();
}

static uint64_t sets, set[7];

/* In the instant in which the entry is there. */
static void record_set(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_set_spte)
		return;
	sets++;
	memcpy(set, args, sizeof(set));
	assert_int_equal(*(const uint64_t *)(uintptr_t)args[2], args[1]);
}

static void expect_set(uint64_t gfn, uint32_t level, int executable)
{
	assert_int_equal(sets, 1);
	assert_int_equal(set[0], gfn);
	assert_int_equal(set[3], level);
	assert_int_equal(set[4], 1);
	assert_int_equal(set[5], executable);
	assert_int_equal(set[6], 1);
	sets = 0;
}

/* A leaf is told of once, as it is: huge ones cannot be executed while the NX workaround is on. */
static void test_leaves_are_traced(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	sets = 0;
	quire_trace_install(record_set);
	store(3, 5);
	expect_set(3, QUIRE_LEVEL_4K, 1);
	store(SIM_BLOCK + 7, 5);
	expect_set(SIM_BLOCK + 7, QUIRE_LEVEL_2M, 0);
	/* What is there already is not put there again. */
	assert_int_equal(fault_at(3, QUIRE_PFERR_WRITE), QUIRE_SPURIOUS);
	assert_int_equal(sets, 0);
	quire_trace_install(NULL);
	vm_end();
}

static uint64_t gone; /* the gfns of leaves that went, a bit each */

static void record_gone(enum quire_trace_event which, const uint64_t *args)
{
	const struct entry_format *f = &machine.vm->tdp_format;

	if (which != QUIRE_TRACE_kvm_tdp_mmu_spte_changed || args[3] != QUIRE_LEVEL_4K ||
	    !entry_is_present(f, args[1]) || entry_is_present(f, args[2]))
		return;
	assert_in_range(args[0], 0, 63);
	gone |= UINT64_C(1) << args[0];
}

/* Each leaf of tables that go as a whole is told as one that goes alone is. */
static void test_each_leaf_that_goes_is_traced(void **state)
{
	(void)state;
	vm_begin();
	quire_vm_set_slot_zap_all(machine.vm, 1);
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(0, 5);
	store(1, 5);
	store(3, 5);
	gone = 0;
	quire_trace_install(record_gone);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	quire_trace_install(NULL);
	assert_int_equal(gone, 1u << 0 | 1u << 1 | 1u << 3);
	leaves_are(0, 0, 0);
	vm_end();
}

/* The client says whether a slot that goes takes the others' mappings with it. */
static void test_what_goes_with_a_slot(void **state)
{
	const struct quire_region other = {
	    .slot = 1, .gpa = gpa_of((gfn_t){1000}), .size_bytes = PAGES(4), .hva = sim_hva(4)};
	struct quire_region none = {.slot = 1};

	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 4, 0);
	for (int all = 0; all < 2; all++) {
		quire_vm_set_slot_zap_all(machine.vm, all);
		assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
		store(1, 5);
		store(1001, 6);
		assert_int_equal(quire_vm_set_region(machine.vm, &none), 0);
		assert_int_equal(level_at(1), all ? 0 : QUIRE_LEVEL_4K);
		assert_int_equal(level_at(1001), 0);
	}
	vm_end();
}

/* A chunk has 511 tables at most, and each round needs a root, so that a leak shows. */
#define ROUNDS 520u

/* Tables that went are those that come: the VM needs no more memory for it. */
static void test_tables_are_used_again(void **state)
{
	uint64_t chunks = 0;

	(void)state;
	vm_begin();
	quire_vm_set_slot_zap_all(machine.vm, 1);
	map_pages(0, 4, SIM_WRITABLE);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		add_slot(0, 4, 0);
		store(round % 4, 5);
		assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
		chunks = round ? chunks : machine.host.chunks;
		assert_int_equal(machine.host.chunks, chunks);
	}
	vm_end();
}

/* The host lets the guest execute a page later: the leaf gets the right with the next fetch. */
static void test_executable_later(void **state)
{
	const struct entry_format *f;
	uint32_t level;

	(void)state;
	vm_begin();
	f = &machine.vm->tdp_format;
	map_pages(0, 4, SIM_WRITABLE | SIM_NOEXEC);
	add_slot(0, 4, 0);
	store(2, 5);
	assert_false(entry_is_executable(f, leaf_at(2, &level)));
	assert_int_equal(fault_at(2, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRESENT), -EFAULT);
	machine.host.pages[2].flags &= ~(uint32_t)SIM_NOEXEC;
	assert_int_equal(fault_at(2, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRESENT), QUIRE_FIXED);
	assert_true(entry_is_executable(f, leaf_at(2, &level)));
	assert_int_equal(load(2), 5);
	vm_end();
}

/* mmu_lock as a fault has it, and what the fault leaves behind. */
static struct flush_debt debt;

static struct table *map_begin(void)
{
	struct quire_vcpu *vcpu = machine.vcpus[0];
	struct table *root;

	assert_int_equal(table_cache_fill(&vcpu->tables, &machine.vm->arena, TDP_WALK_TABLES), 0);
	root = tdp_root_get(machine.vm, &vcpu->tables, 0);
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_read_lock(&machine.vm->mmu_lock, NULL);
	reclaim_enter();
	return root;
}

static void map_end(void)
{
	reclaim_leave();
	biglock_read_unlock(&machine.vm->mmu_lock, NULL);
	tdp_debt_settle(machine.vm, &debt);
}

static enum tdp_result map_mmio(uint64_t gfn, uint64_t generation)
{
	struct table *root = map_begin();
	enum tdp_result result =
	    tdp_map_mmio(machine.vcpus[0], root, (gfn_t){gfn}, generation, &debt);

	assert_false(debt.owed);
	map_end();
	return result;
}

static uint64_t *entry_at(uint64_t gfn, uint32_t *level)
{
	uint64_t *entry;

	reclaim_enter();
	entry = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){gfn}, level);
	reclaim_leave();
	return entry;
}

/* Every table on the way to @gfn says whether MMIO may be below it. */
static void tables_have_mmio(uint64_t gfn, bool has)
{
	uint32_t level;
	const uint64_t *entry = entry_at(gfn, &level);

	for (const struct table *table = table_of(entry);; table = table_of(table->parent)) {
		assert_int_equal(table->has_mmio, has);
		if (!table->parent)
			break;
	}
}

/* A page without memory is remembered where its leaf would be, and newer findings replace older. */
static void test_mmio_entries(void **state)
{
	const struct entry_format *f;
	uint32_t level;
	uint64_t *entry;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 5);
	f = &machine.vm->tdp_format;
	tables_have_mmio(1, false);
	for (uint64_t generation = 3; generation < 6; generation++) {
		assert_int_equal(map_mmio(7, generation), TDP_DONE);
		entry = entry_at(7, &level);
		assert_int_equal(level, QUIRE_LEVEL_4K);
		assert_int_equal(*entry, entry_make_mmio(f, (gfn_t){7}, generation));
	}
	tables_have_mmio(7, true);
	/* Tables that it needs are made, and no others. */
	assert_int_equal(map_mmio(SIM_GIGANTIC + SIM_BLOCK + 3, 9), TDP_DONE);
	entry = entry_at(SIM_GIGANTIC + SIM_BLOCK + 3, &level);
	assert_int_equal(level, QUIRE_LEVEL_4K);
	assert_int_equal(*entry, entry_make_mmio(f, (gfn_t){SIM_GIGANTIC + SIM_BLOCK + 3}, 9));
	assert_int_equal(table_of(entry)->gfn.v, SIM_GIGANTIC + SIM_BLOCK);
	tables_have_mmio(SIM_GIGANTIC + SIM_BLOCK + 3, true);
	/* Memory that is there meanwhile stays, and so does what another thread changes. */
	assert_int_equal(map_mmio(1, 9), TDP_LOST);
	assert_int_equal(level_at(1), QUIRE_LEVEL_4K);
	assert_true(writable_at(1));
	entry = entry_at(2, &level);
	*entry = f->frozen;
	assert_int_equal(map_mmio(2, 9), TDP_LOST);
	assert_int_equal(*entry, f->frozen);
	*entry = f->nonpresent;
	leaves_are(0, 0, 1);
	vm_end();
}

/* A huge leaf that is there meanwhile stays whole, and so does an entry that is being changed. */
static void test_mmio_below_a_huge_leaf(void **state)
{
	uint32_t level;
	uint64_t *entry, was;

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	store(1, 5);
	leaves_are(0, 1, 0);
	entry = entry_at(3, &level);
	was = *entry;
	assert_int_equal(map_mmio(3, 9), TDP_LOST);
	assert_int_equal(*entry, was);
	leaves_are(0, 1, 0);
	*entry = machine.vm->tdp_format.frozen;
	assert_int_equal(map_mmio(3, 9), TDP_LOST);
	assert_int_equal(*entry, machine.vm->tdp_format.frozen);
	*entry = was;
	vm_end();
}

static struct tdp_mapping mapping_of(uint64_t gfn, uint64_t error)
{
	const bool write = error & QUIRE_PFERR_WRITE;

	return (struct tdp_mapping){
	    .gfn = {gfn},
	    .leaf = {.pfn = {((uintptr_t)frame_of((uint32_t)gfn)->bytes) >> QUIRE_PAGE_SHIFT},
		     .level = QUIRE_LEVEL_4K,
		     .writable = write,
		     .host_writable = true,
		     .mmu_writable = true,
		     .executable = true,
		     .accessed = true},
	    .wanted_level = QUIRE_LEVEL_4K,
	    .error_code = error,
	};
}

static enum quire_outcome map(const struct tdp_mapping *mapping)
{
	struct table *root = map_begin();
	enum quire_outcome outcome = tdp_map(machine.vcpus[0], root, mapping, &debt);

	assert_false(debt.owed);
	map_end();
	return outcome;
}

/* What a mapping comes to, by what is there already. */
static void test_outcomes(void **state)
{
	struct tdp_mapping mapping;
	uint64_t *entry, word;
	uint32_t level;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	mapping = mapping_of(2, 0);
	assert_int_equal(map(&mapping), QUIRE_FIXED);
	entry = entry_at(2, &level);
	word = *entry;
	assert_int_equal(word, entry_make_leaf(&machine.vm->tdp_format, &mapping.leaf));
	/* It is there. */
	assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
	mapping.error_code = QUIRE_PFERR_FETCH;
	assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
	/* A prefault is content with less. */
	mapping = mapping_of(2, QUIRE_PFERR_WRITE);
	mapping.prefault = true;
	assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
	assert_int_equal(*entry, word);
	/* A right is added; then it is there. */
	mapping.prefault = false;
	assert_int_equal(map(&mapping), QUIRE_FIXED);
	assert_int_equal(*entry, entry_make_leaf(&machine.vm->tdp_format, &mapping.leaf));
	assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
	/* A write that may not be made as yet: a leaf without W comes, and the write is emulated.
	 */
	mapping = mapping_of(3, QUIRE_PFERR_WRITE);
	mapping.leaf.writable = false;
	assert_int_equal(map(&mapping), QUIRE_WRITE_PROTECTED);
	assert_false(writable_at(3));
	assert_int_equal(level_at(3), QUIRE_LEVEL_4K);
	leaves_are(0, 0, 2);
	/* Another thread has the entry in hand. */
	word = *entry;
	*entry = machine.vm->tdp_format.frozen;
	mapping = mapping_of(2, 0);
	assert_int_equal(map(&mapping), QUIRE_RETRY);
	assert_int_equal(*entry, machine.vm->tdp_format.frozen);
	*entry = word;
	vm_end();
}

/* An entry on the way that another thread has in hand is waited for by the fault's next try. */
static void test_frozen_on_the_way(void **state)
{
	struct tdp_mapping mapping;
	uint64_t *entry, word;
	uint32_t level;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 5);
	entry = table_of(entry_at(1, &level))->parent;
	word = *entry;
	*entry = machine.vm->tdp_format.frozen;
	mapping = mapping_of(2, 0);
	assert_int_equal(map(&mapping), QUIRE_RETRY);
	assert_int_equal(*entry, machine.vm->tdp_format.frozen);
	*entry = word;
	assert_int_equal(map(&mapping), QUIRE_FIXED);
	leaves_are(0, 0, 2);
	vm_end();
}

static struct quire_platform racing;
static struct table_cache other_tables;
static struct table *other_root;
static uint32_t looks;

/* Just before it takes a lock another thread makes the root. */
static struct quire_thread *self_after_another(void)
{
	struct quire_thread *self = sched_platform.self();

	if (!looks || self->held_count || --looks)
		return self;
	other_root = tdp_root_make(machine.vm, &other_tables, 0);
	return self;
}

/* Of two that make the root one is the root; the other one's tables are free again. */
static void test_two_make_the_root(void **state)
{
	uint32_t when = 0, raced = 0;

	(void)state;
	do {
		struct quire_vcpu *vcpu;
		struct table *root;
		uint64_t used;

		vm_begin();
		vcpu = machine.vcpus[0];
		racing = sched_platform;
		racing.self = self_after_another;
		other_root = NULL;
		looks = ++when;
		quire_platform_install(&racing);
		root = tdp_root_make(machine.vm, &vcpu->tables, 0);
		quire_platform_install(&sched_platform);
		assert_ptr_equal(root, machine.vm->roots.valid[0]);
		assert_true(!other_root || other_root == root);
		raced += other_root != NULL;
		/* What is not in a cache is the root. */
		used = arena_used(&machine.vm->arena) - vcpu->tables.count - other_tables.count;
		assert_int_equal(used, entry_root_tables(&machine.vm->tdp_format));
		table_cache_drain(&other_tables, &machine.vm->arena);
		vm_end();
	} while (!looks);
	looks = 0;
	assert_true(raced > 1);
}

/* A fetch needs a leaf that can be executed, and a read one that can be read. */
static void test_outcomes_of_fetches(void **state)
{
	struct tdp_mapping mapping;
	const struct entry_format *f;
	uint64_t *entry, word;
	uint32_t level;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	f = &machine.vm->tdp_format;
	mapping = mapping_of(2, 0);
	mapping.leaf.executable = false;
	assert_int_equal(map(&mapping), QUIRE_FIXED);
	assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
	entry = entry_at(2, &level);
	assert_false(entry_is_executable(f, *entry));
	mapping = mapping_of(2, 0);
	/* A read is content. */
	word = *entry;
	assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
	assert_int_equal(*entry, word);
	mapping.error_code = QUIRE_PFERR_FETCH;
	assert_int_equal(map(&mapping), QUIRE_FIXED);
	assert_true(entry_is_executable(f, *entry));
	/* A was set, and stays. */
	mapping.error_code = QUIRE_PFERR_WRITE;
	mapping.leaf.writable = true;
	mapping.leaf.accessed = false;
	assert_int_equal(map(&mapping), QUIRE_FIXED);
	assert_int_equal(*entry & f->accessed, f->accessed);
	if (f->unreadable) {
		mapping = mapping_of(3, QUIRE_PFERR_FETCH);
		mapping.leaf.host_writable = mapping.leaf.mmu_writable = false;
		mapping.leaf.lacks = f->unreadable;
		assert_int_equal(map(&mapping), QUIRE_FIXED);
		entry = entry_at(3, &level);
		word = *entry;
		assert_false(entry_is_readable(f, word));
		/* It does for a fetch, whatever else could be had; and not for a read. */
		mapping = mapping_of(3, QUIRE_PFERR_FETCH);
		assert_int_equal(map(&mapping), QUIRE_SPURIOUS);
		assert_int_equal(*entry, word);
		mapping = mapping_of(3, 0);
		assert_int_equal(map(&mapping), QUIRE_FIXED);
		assert_true(entry_is_readable(f, *entry));
	}
	vm_end();
}

/* The root's tables had another use before: nothing of it stays, and enough is left for a walk. */
static void test_root_begins_anew(void **state)
{
	const struct entry_format *f;
	uint32_t count;
	struct table_cache cache = {0};
	struct table *root;

	(void)state;
	vm_begin();
	f = &machine.vm->tdp_format;
	count = entry_root_tables(f);
	assert_int_equal(table_cache_fill(&cache, &machine.vm->arena, TDP_WALK_TABLES), 0);
	while (cache.count > TDP_WALK_TABLES) {
		struct table *table = table_cache_take(&cache);

		table->next = NULL;
		arena_free_list(&machine.vm->arena, table, 1);
	}
	root = count > 1 ? arena_take_root(&machine.vm->arena) : cache.tables;
	for (uint32_t i = 0; i < count; i++) {
		root[i].parent = table_entries(root);
		root[i].gfn.v = 77;
		root[i].level = root[i].as_id = 9;
		root[i].has_mmio = root[i].nx_disallowed = 1;
	}
	if (count > 1) {
		root->root_index = 1;
		arena_free_root(&machine.vm->arena, root);
	}
	for (uint32_t as = 0; as < QUIRE_AS_MAX; as++) {
		root = tdp_root_make(machine.vm, &cache, as);
		assert_in_range(cache.count, TDP_WALK_TABLES, 64);
		for (uint32_t i = 0; i < count; i++) {
			assert_null(root[i].parent);
			assert_int_equal(root[i].gfn.v, (uint64_t)i << (9 * f->root_level));
			assert_int_equal(root[i].level, f->root_level);
			assert_int_equal(root[i].as_id, as);
			assert_int_equal(root[i].root_index, count > 1 ? i + 1 : 0);
			assert_int_equal(root[i].has_mmio, 0);
			assert_int_equal(root[i].nx_disallowed, 0);
			for (uint32_t at = 0; at < QUIRE_TABLE_ENTRIES; at++)
				assert_int_equal(table_entries(&root[i])[at], f->nonpresent);
		}
	}
	table_cache_drain(&cache, &machine.vm->arena);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_requests_are_traced),
	    cmocka_unit_test(test_leaves_are_traced),
	    cmocka_unit_test(test_each_leaf_that_goes_is_traced),
	    cmocka_unit_test(test_what_goes_with_a_slot),
	    cmocka_unit_test(test_tables_are_used_again),
	    cmocka_unit_test(test_executable_later),
	    cmocka_unit_test(test_mmio_entries),
	    cmocka_unit_test(test_mmio_below_a_huge_leaf),
	    cmocka_unit_test(test_outcomes),
	    cmocka_unit_test(test_frozen_on_the_way),
	    cmocka_unit_test(test_two_make_the_root),
	    cmocka_unit_test(test_outcomes_of_fetches),
	    cmocka_unit_test(test_root_begins_anew),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
