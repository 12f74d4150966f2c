/* The walk over a range of gfns, against a model; and what a range operation takes away. */
#include "tests/unit/support.h"

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"
#include "src/walk/range.h"

#define LIMIT_MAX (UINT64_C(1) << 38)
#define VISITS_MAX 4096u

/* Blocks that have a table in the test's VM, by level of the table's entries, in gfn order. */
static const uint64_t pages[] = {0, 511, 512, 1 << 18, (1 << 18) + 3, (1 << 20) - 1};
#define PAGE_COUNT (sizeof(pages) / sizeof(pages[0]))

/* What the tables translate, in pages. */
static uint64_t limit(void)
{
	return UINT64_C(1) << (machine.vm->tdp_format.gpa_bits - QUIRE_PAGE_SHIFT);
}

struct visit {
	uint32_t level;
	uint64_t gfn, count, start, end;
};

static struct visit visits[VISITS_MAX];
static unsigned int visit_count;

static void note_run(const struct walk_run *run, void *ctx)
{
	(void)ctx;
	assert_true(visit_count < VISITS_MAX);
	visits[visit_count++] =
	    (struct visit){run->level, run->gfn.v, run->count, run->start.v, run->end.v};
}

static void begin(void)
{
	struct quire_region region = {.size_bytes = QUIRE_PAGE_SIZE};

	vm_begin();
	map_pages(0, PAGE_COUNT, SIM_WRITABLE);
	for (uint32_t i = 0; i < PAGE_COUNT; i++) {
		region.slot = i;
		region.gpa = gpa_of((gfn_t){pages[i]});
		region.hva = sim_hva(i);
		assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	}
	for (uint32_t i = 0; i < PAGE_COUNT; i++)
		assert_int_equal(fault_at(pages[i], 0), QUIRE_FIXED);
}

/* Is there a table whose entries are at @level around @gfn? */
static bool has_table(uint64_t gfn, uint32_t level)
{
	for (size_t i = 0; i < PAGE_COUNT; i++)
		if (gfn >> (9 * level) == pages[i] >> (9 * level))
			return true;
	return level == machine.vm->tdp_format.root_level;
}

/* The model: every table that the range touches, top first, from low to high. */
static unsigned int expected;

static void expect_table(uint64_t base, uint32_t level, uint64_t start, uint64_t end,
			 uint32_t lowest)
{
	uint64_t entry = UINT64_C(1) << (9 * (level - 1)), first = start / entry * entry;
	uint64_t count = (end - 1) / entry - start / entry + 1;
	const struct visit *seen = &visits[expected++];

	assert_true(expected <= visit_count);
	assert_int_equal(seen->level, level);
	assert_int_equal(seen->gfn, first);
	assert_int_equal(seen->count, count);
	assert_int_equal(seen->start, start);
	assert_int_equal(seen->end, end);
	assert_true(first >= base && count <= 512);
	if (level <= lowest)
		return;
	for (size_t i = 0; i < PAGE_COUNT; i++) {
		uint64_t block = pages[i] / entry * entry;
		uint64_t from = start > block ? start : block;
		uint64_t to = end < block + entry ? end : block + entry;

		/* Each table once, by the first page in it. */
		if (from >= to || (i && pages[i - 1] / entry * entry == block) ||
		    block / (entry * 512) != base / (entry * 512))
			continue;
		if (has_table(block, level - 1))
			expect_table(block, level - 1, from, to, lowest);
	}
}

static void check_walk(uint64_t start, uint64_t end, uint32_t lowest)
{
	const uint32_t level = machine.vm->tdp_format.root_level;
	const uint64_t pages_max = UINT64_C(1) << (9 * level);
	struct walk walk = {.format = &machine.vm->tdp_format,
			    .root = table_entries(machine.vm->roots.valid[0]),
			    .lowest = lowest,
			    .visit = note_run};

	visit_count = expected = 0;
	walk_range(&walk, (gfn_t){start}, (gfn_t){end});
	/* The end is cut to what the tables can name. */
	end = end < limit() ? end : limit();
	/* Each table of the root by itself. */
	for (uint64_t base = 0; base < end; base += pages_max) {
		uint64_t from = start > base ? start : base;
		uint64_t to = end < base + pages_max ? end : base + pages_max;

		if (from < to)
			expect_table(base, level, from, to, lowest);
	}
	assert_int_equal(visit_count, expected);
}

static void test_order(void **state)
{
	uint64_t edges[] = {0,
			    1,
			    511,
			    512,
			    513,
			    1 << 18,
			    (1 << 18) + 4,
			    1 << 20,
			    (1 << 27) + 1,
			    UINT64_C(1) << 36,
			    0,
			    0,
			    0,
			    UINT64_MAX};
	const size_t count = sizeof(edges) / sizeof(edges[0]);

	(void)state;
	begin();
	for (size_t i = 0; i < 3; i++)
		edges[count - 4 + i] = limit() - 1 + i;
	for (size_t i = 0; i < count * count * 4; i++)
		check_walk(edges[i % count], edges[i / count % count],
			   1 + (uint32_t)(i / count / count));
	vm_end();
}

/* Upper entries behind the place where a hold ends are not looked at in each hold before it. */
#define SHOWN_AT_ONCE 16u

/* A walk in pieces visits each lowest table once, in the same order, and no piece too many entries.
 */
static void test_budget(void **state)
{
	u64 budget = 0;
	struct walk walk = {.lowest = QUIRE_LEVEL_4K, .visit = note_run};
	uint64_t lowest[PAGE_COUNT], count = 0, pieces = 0;
	gfn_t gfn = {0}, end = {LIMIT_MAX + 5};

	(void)state;
	begin();
	walk.format = &machine.vm->tdp_format;
	walk.root = table_entries(machine.vm->roots.valid[0]);
	visit_count = 0;
	assert_int_equal(walk_range(&walk, gfn, end).v, end.v);
	for (unsigned int i = 0; i < visit_count; i++)
		if (visits[i].level == QUIRE_LEVEL_4K)
			lowest[count++] = visits[i].gfn;
	walk.budget = &budget;
	for (uint64_t at = 0; gfn.v < end.v; pieces++) {
		uint64_t entries = 0;

		visit_count = 0;
		budget = WALK_BUDGET_MIN;
		gfn = walk_range(&walk, gfn, end);
		assert_true(visit_count);
		for (unsigned int i = 0; i < visit_count; i++) {
			entries += visits[i].count;
			if (visits[i].level == QUIRE_LEVEL_4K)
				assert_int_equal(visits[i].gfn, lowest[at++]);
			else
				assert_true(visits[i].count <= SHOWN_AT_ONCE);
		}
		assert_true(entries <= WALK_BUDGET_MIN);
		assert_int_equal(entries + budget, WALK_BUDGET_MIN);
		assert_true(gfn.v < end.v || at == count);
	}
	assert_true(pieces > 1);
	/* One that is just enough is used up, and gets to the end. */
	budget = UINT32_MAX;
	visit_count = 0;
	assert_int_equal(walk_range(&walk, (gfn_t){0}, end).v, end.v);
	budget = UINT32_MAX - budget;
	visit_count = 0;
	assert_int_equal(walk_range(&walk, (gfn_t){0}, end).v, end.v);
	assert_int_equal(budget, 0);
	vm_end();
}

/* Zapping takes what lies in the range, whole tables at once, and nothing else. */
static void test_zap(void **state)
{
	(void)state;
	for (size_t first = 0; first < PAGE_COUNT; first++)
		for (size_t last = first; last <= PAGE_COUNT; last++) {
			uint64_t start = pages[first],
				 end = last < PAGE_COUNT ? pages[last] : LIMIT_MAX;
			struct flush_debt debt;
			uint32_t level;

			begin();
			flush_debt_init(&debt, &machine.vm->flush);
			biglock_write_lock(&machine.vm->mmu_lock);
			tdp_zap_range(machine.vm, 1, (gfn_t){start}, (gfn_t){end}, &debt);
			assert_int_equal(debt.owed, first != last);
			biglock_write_unlock(&machine.vm->mmu_lock);
			tdp_debt_settle(machine.vm, &debt);
			for (size_t i = 0; i < PAGE_COUNT; i++)
				assert_int_equal(leaf_at(pages[i], &level) != 0,
						 pages[i] < start || pages[i] >= end);
			assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), PAGE_COUNT - (last - first));
			vm_end();
		}
}

/* What is known of MMIO stays, also where all around it goes: it maps nothing. */
static void test_zap_leaves_mmio(void **state)
{
	const struct entry_format *f;
	struct flush_debt debt;
	struct table *root;
	uint32_t level;

	(void)state;
	begin();
	f = &machine.vm->tdp_format;
	root = machine.vm->roots.valid[0];
	/* Beside the page 511, in the same table. */
	assert_int_equal(fault_at(510, 0), QUIRE_EMULATE);
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	tdp_zap_range(machine.vm, 1, (gfn_t){0}, (gfn_t){LIMIT_MAX}, &debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
	tdp_debt_settle(machine.vm, &debt);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 0);
	reclaim_enter();
	assert_true(entry_is_mmio(f, *tdp_find(machine.vm, root, (gfn_t){510}, &level)));
	reclaim_leave();
	/* It goes with its root. */
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	assert_null(machine.vm->roots.valid[0]);
	vm_end();
}

/* An address space that the mask leaves out keeps its leaves, and so does one without a root. */
static void test_zap_address_spaces(void **state)
{
	struct flush_debt debt;
	uint32_t level;

	(void)state;
	begin();
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	tdp_zap_range(machine.vm, 2, (gfn_t){0}, (gfn_t){UINT64_MAX}, &debt);
	assert_false(debt.owed);
	assert_true(leaf_at(0, &level));
	tdp_zap_range(machine.vm, 3, (gfn_t){0}, (gfn_t){UINT64_MAX}, &debt);
	assert_true(debt.owed);
	biglock_write_unlock(&machine.vm->mmu_lock);
	tdp_debt_settle(machine.vm, &debt);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 0);
	vm_end();
}

/* All but the root goes back to where tables come from, and at the end that too. */
static void test_tables_come_back(void **state)
{
	uint64_t used;
	uint32_t root_tables, root_level;

	(void)state;
	begin();
	root_tables = entry_root_tables(&machine.vm->tdp_format);
	root_level = machine.vm->tdp_format.root_level;
	used = machine.vm->arena.used;
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(0), sim_hva(PAGE_COUNT));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(0), sim_hva(PAGE_COUNT));
	/* Single pages were zapped: the tables stay, for they may be filled again. */
	assert_int_equal(machine.vm->arena.used, used);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	/* The root, and below it: pages lie in one 512G, three 1G, four 2M. */
	assert_int_equal(machine.vm->arena.used,
			 used - root_tables - (root_level == QUIRE_LEVEL_512G) - 3 - 4);
	vm_end();
}

/* One root an address space, for all vCPUs and beyond their end; a new one after invalidation. */
static void test_roots(void **state)
{
	struct quire_vm *vm;
	struct table *root;

	(void)state;
	begin();
	vm = machine.vm;
	root = vm->roots.valid[0];
	assert_null(vm->roots.valid[1]);
	for (uint32_t as = 0; as < 2; as++)
		for (uint32_t i = 0; i < 2; i++) {
			struct table *got = tdp_root_get(vm, &machine.vcpus[i]->tables, as);

			/* The call makes the root: which argument comes first is the compiler's. */
			assert_ptr_equal(got, vm->roots.valid[as]);
		}
	assert_ptr_equal(vm->roots.valid[0], root);
	assert_ptr_not_equal(vm->roots.valid[1], root);
	quire_vcpu_destroy(machine.vcpus[0]);
	quire_vcpu_destroy(machine.vcpus[1]);
	assert_ptr_equal(vm->roots.valid[0], root);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), PAGE_COUNT);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(quire_vcpu_create(vm, i, NULL, &machine.vcpus[i]), 0);
	assert_int_equal(fault_at(pages[0], 0), QUIRE_SPURIOUS);

	/* All of them go at once; the next user makes the next. */
	quire_vm_set_nx_huge_pages(vm, 1);
	assert_null(vm->roots.valid[0]);
	assert_null(vm->roots.valid[1]);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 0);
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t requests;
		struct quire_stage2 stage2;

		assert_true(*quire_vcpu_doorbell(machine.vcpus[i]) & QUIRE_REQ_RELOAD);
		assert_int_equal(quire_vcpu_enter(machine.vcpus[i], &requests, &stage2), 0);
		assert_true(requests & QUIRE_REQ_TLB_FLUSH);
		assert_ptr_equal(stage2.root, table_entries(vm->roots.valid[0]));
		quire_vcpu_leave(machine.vcpus[i]);
	}
	vm_end();
}

/*
 * A root of several tables is in one piece, aligned to its size, and is used again as one: roots
 * that come and go take no more memory.
 */
static void test_roots_are_used_again(void **state)
{
	const struct entry_format *f;
	struct quire_stage2 stage2;
	uint64_t requests, chunks = 0, bytes;

	(void)state;
	begin();
	f = &machine.vm->tdp_format;
	bytes = entry_root_tables(f) * QUIRE_PAGE_SIZE;
	for (int i = 0; i < 64; i++) {
		const struct table *root;

		quire_vm_set_nx_huge_pages(machine.vm, !(i % 2));
		assert_int_equal(quire_vcpu_enter(machine.vcpus[0], &requests, &stage2), 0);
		quire_vcpu_leave(machine.vcpus[0]);
		assert_int_equal(stage2.root_physical % bytes, 0);
		assert_int_equal(stage2.root_level, f->root_level);
		root = machine.vm->roots.valid[0];
		for (uint64_t page = 0; page * QUIRE_PAGE_SIZE < bytes; page++)
			assert_ptr_equal(table_entries(&root[page]), stage2.root + page * 512);
		for (uint64_t at = 0; at < bytes / 8; at++)
			assert_int_equal(stage2.root[at], f->nonpresent);
		if (!chunks)
			chunks = machine.vm->arena.chunk_count;
		assert_int_equal(machine.vm->arena.chunk_count, chunks);
		/* It is not empty when it comes back. */
		assert_int_equal(fault_at(pages[PAGE_COUNT - 1], 0), QUIRE_FIXED);
	}
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_order),
	    cmocka_unit_test(test_budget),
	    cmocka_unit_test(test_zap),
	    cmocka_unit_test(test_zap_leaves_mmio),
	    cmocka_unit_test(test_zap_address_spaces),
	    cmocka_unit_test(test_tables_come_back),
	    cmocka_unit_test(test_roots),
	    cmocka_unit_test(test_roots_are_used_again),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
