/*
 * Neighbours that are mapped ahead (F-107), by hand: which pages the host is asked for, which of
 * those that are there come into the tables and with what, what they are given back for, and what
 * happens in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/by_hand.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define GROUP SHADOW_GROUP_PAGES
#define ALL ((1u << GROUP) - 1)
#define FIRST 72u /* a group of L1's own begins there, too */
#define ADDRESS UINT64_C(0x000ffffffffff000)
#define NO_SLOT 5000u

/* One call of the host's. */
struct asked {
	uint64_t page;
	uint32_t npages;
};

static struct asked asked[GROUP];
static uint32_t calls;
static uint32_t present;	/* bit i: page FIRST + i is there; others always are */
static uint32_t strange;	/* those that no leaf can map, for they are of no known type */
static void (*meanwhile)(void); /* once, when the first call has found its pages */
/* Of page FIRST + i: how often it was found and given back, and what for at last. */
static uint32_t found[GROUP], put[GROUP];
static enum quire_page_use use[GROUP];

static uint64_t pages_there(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages)
{
	uint64_t there = sim_host_ops.pages_there(ctx, hva, npages, pages);
	uint64_t page = (hva.v - sim_hva(0).v) / QUIRE_PAGE_SIZE;
	void (*now)(void) = meanwhile;

	assert_true(calls < GROUP);
	asked[calls++] = (struct asked){page, npages};
	for (uint32_t i = 0; i < npages; i++) {
		uint64_t index = page + i - FIRST;

		if (index >= GROUP || !(there >> i & 1))
			continue;
		if (present >> index & 1) {
			found[index]++;
			if (strange >> index & 1)
				pages[i].memtype = QUIRE_MEMTYPE_WC + 1;
			continue;
		}
		sim_host_ops.page_put(ctx, &pages[i], QUIRE_PAGE_UNUSED);
		there &= ~(UINT64_C(1) << i);
	}
	meanwhile = NULL;
	if (now)
		now();
	return there;
}

static void page_put(void *ctx, const struct quire_page *page, enum quire_page_use used)
{
	for (uint32_t i = 0; i < GROUP; i++)
		if (page->pfn.v << QUIRE_PAGE_SHIFT == (uintptr_t)world_page(&world, FIRST + i)) {
			put[i]++;
			use[i] = used;
		}
	sim_host_ops.page_put(ctx, page, used);
}

static void forget(void)
{
	calls = 0;
	memset(found, 0, sizeof(found));
	memset(put, 0, sizeof(put));
}

static int fault_once(uint64_t gpa, uint64_t error)
{
	struct quire_memory_fault told = {0};
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(world.vcpu);
	forget();
	return quire_vcpu_fault(world.vcpu, (gpa_t){gpa}, QUIRE_PFERR_USER | error, &told);
}

/* What the shadow of the table for @gpa holds, from the first entry of its group on. */
static const uint64_t *group_at(uint64_t gpa)
{
	struct quire_stage2 stage2;
	uint64_t requests;
	const uint64_t *table;

	assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(world.vcpu);
	table = stage2.root;
	for (uint32_t shift = 39; shift > 12; shift -= 9) {
		uint64_t entry = table[gpa >> shift & 511];

		assert_true(entry & NPT_P);
		assert_false(entry & NPT_PS);
		table = (const uint64_t *)(uintptr_t)(entry & ADDRESS);
	}
	return &table[gpa >> 12 & 511 & ~(GROUP - 1)];
}

/* The entries of the group that map something. */
static uint32_t mapped_at(uint64_t gpa)
{
	const uint64_t *entries = group_at(gpa);
	uint32_t mapped = 0;

	for (uint32_t i = 0; i < GROUP; i++)
		if (entries[i] & NPT_P)
			mapped |= 1u << i;
	return mapped;
}

/* The host takes its pages back, so that nothing maps them. */
static void empty(void)
{
	quire_vm_host_invalidate_begin(world.vm, sim_hva(FIRST), sim_hva(FIRST + GROUP));
	quire_vm_host_invalidate_end(world.vm, sim_hva(FIRST), sim_hva(FIRST + GROUP));
}

static void hook(void)
{
	world.ops.pages_there = pages_there;
	world.ops.page_put = page_put;
	present = ALL;
	strange = 0;
	meanwhile = NULL;
	forget();
}

/* L2's pages 0 to 7 are FIRST and behind; its tables are shadowed. */
static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	/* No row of frames any more, so that L1's own mappings are small, too. */
	world_migrate(&world, 200);
	for (uint32_t i = 0; i < GROUP; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(FIRST + i) | NPT_USED);
	world_set_entry(&world, TABLE_4K, 16, PAGE(300) | NPT_USED);
	world_nested(&world, 1);
	assert_int_equal(world_access(&world, PAGE(16), WORLD_WRITE).outcome, 0);
	hook();
	return 0;
}

/* L1 itself, without the TDP MMU. */
static int setup_direct(void **state)
{
	*state = &world;
	world_start_two(&world);
	world_stop_vm(&world);
	world_mmu = QUIRE_MMU_SHADOW;
	world_start_vm(&world);
	world_mmu = QUIRE_MMU_TDP;
	world_add_cpu(&world);
	world_migrate(&world, 200);
	assert_int_equal(world_access(&world, PAGE(300), WORLD_WRITE).outcome, 0);
	hook();
	return 0;
}

/* A fault at @index maps @mapped of the group, beside what was mapped @before. Each page that the
 * host has named is given back once: with W when it was mapped, and else as it was. */
static void check_fault(uint64_t base, uint32_t index, uint32_t before, uint32_t mapped)
{
	assert_int_equal(mapped_at(base) & before, before);
	assert_int_equal(fault_once(base + PAGE(index), WRITE), QUIRE_FIXED);
	assert_int_equal(mapped_at(base), before | 1u << index | mapped);
	for (uint32_t i = 0; i < GROUP; i++) {
		/* The fault's own page was looked up by itself. */
		assert_int_equal(put[i], found[i] + (i == index));
		if (found[i])
			assert_int_equal(use[i],
					 mapped >> i & 1 ? QUIRE_PAGE_DIRTY : QUIRE_PAGE_UNUSED);
		assert_int_equal(world.host.frames[world.host.pages[FIRST + i].frame].references,
				 1);
	}
}

/* Which pages L1's table maps, where L2 faults, and what the host is asked for. */
static const struct {
	uint32_t index;
	uint32_t pages[GROUP]; /* 0: the entry is empty */
	struct asked asked[GROUP];
} layouts[] = {
    {0, {72, 73, 74, 75, 76, 77, 78, 79}, {{73, 7}}},
    {3, {72, 73, 74, 75, 76, 77, 78, 79}, {{72, 3}, {76, 4}}},
    {7, {72, 73, 74, 75, 76, 77, 78, 79}, {{72, 7}}},
    {0, {72, 80, 81, 82, 90, 92, 93, 60}, {{80, 3}, {90, 1}, {92, 2}, {60, 1}}},
    {0, {72, 84, 83, 82, 81, 81, 82, 70}, {{84, 1}, {83, 1}, {82, 1}, {81, 1}, {81, 2}, {70, 1}}},
    /* What is in no slot has no page. The read of the table ends at an empty entry. */
    {1, {72, 73, 74, NO_SLOT, 76, 77, 0, 79}, {{72, 1}, {74, 1}, {76, 2}}},
    {1, {0, 73, 74, 75, 76, 77, 78, 79}, {{0}}},
};

static void test_which_pages_are_asked_for(void **state)
{
	(void)state;
	for (uint32_t layout = 0; layout < sizeof(layouts) / sizeof(layouts[0]); layout++) {
		uint64_t base = PAGE(32 + GROUP * layout);
		uint32_t count = 0;

		for (uint32_t i = 0; i < GROUP; i++) {
			uint64_t page = layouts[layout].pages[i];

			world_put_entry(&world, TABLE_4K, 32 + GROUP * layout + i,
					page ? PAGE(page) | NPT_USED : 0);
		}
		assert_int_equal(fault_once(base + PAGE(layouts[layout].index), WRITE),
				 QUIRE_FIXED);
		while (count < GROUP && layouts[layout].asked[count].npages)
			count++;
		assert_int_equal(calls, count);
		assert_memory_equal(asked, layouts[layout].asked, count * sizeof(asked[0]));
	}
}

/* A host that does not say which pages are there gets a fault for each. */
static void check_silent(uint64_t base)
{
	world.ops.pages_there = NULL;
	check_fault(base, 3, 0, 0);
	check_fault(base, 4, 1u << 3, 0);
}

static void test_silent_host(void **state)
{
	(void)state;
	check_silent(0);
}

static void test_silent_host_direct(void **state)
{
	(void)state;
	check_silent(PAGE(FIRST));
}

/* Of a table of the guest's the entries before the first without a page. */
static void test_pages_of_a_table(void **state)
{
	(void)state;
	for (uint32_t index = 0; index < GROUP; index += 3)
		for (present = 0; present <= ALL; present++) {
			uint32_t mapped = 0;

			for (uint32_t i = 0; i < GROUP && (i == index || (present >> i & 1)); i++)
				mapped |= 1u << i;
			check_fault(0, index, 0, mapped & ~(1u << index));
			assert_int_equal(calls, index ? 2 : 1);
			empty();
		}
}

/* A page that no leaf can map is as good as none. */
static void test_strange_pages(void **state)
{
	(void)state;
	for (strange = 1; strange <= ALL; strange += 2) {
		uint32_t first = (uint32_t)__builtin_ctz((strange & ~1u) | 1u << GROUP);

		check_fault(0, 0, 0, ((1u << first) - 1) & ~1u);
		empty();
	}
	for (strange = 1; strange <= ALL; strange <<= 1) {
		check_fault(0, GROUP - 1, 0, (strange - 1) & (ALL >> 1));
		empty();
	}
}

/* What is mapped ahead: of entry 1, which L1 lets be written, and 2 and 3, which it does not. */
static void test_leaves(void **state)
{
	const uint64_t rights = NPT_P | NPT_W | NPT_U | NPT_A | NPT_D | NPT_PS | NPT_NX;
	const uint64_t *entries;

	(void)state;
	world_put_entry(&world, TABLE_4K, 2, PAGE(FIRST + 2) | NPT_P | NPT_U | NPT_A | NPT_D);
	world_put_entry(&world, TABLE_4K, 3, PAGE(FIRST + 3) | NPT_ALL | NPT_A | NPT_NX);
	check_fault(0, 0, 0, ALL & ~1u);
	entries = group_at(0);
	for (uint32_t i = 0; i < GROUP; i++)
		assert_int_equal(entries[i] & ADDRESS, (uintptr_t)world_page(&world, FIRST + i));
	/* The guest has used the first alone. */
	assert_int_equal(entries[0] & rights, NPT_ALL | NPT_A | NPT_D);
	assert_int_equal(entries[1] & rights & ~NPT_D, NPT_ALL);
	assert_int_equal(entries[2] & rights, NPT_P | NPT_U);
	assert_int_equal(entries[3] & rights, NPT_P | NPT_U | NPT_NX);
}

/* The rest of the group, as KVM's direct prefetch: of each run of empty entries what comes before
 * the first page that is missing; a run whose first page is missing ends it. */
static uint32_t kept_of(uint32_t wanted)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < GROUP;) {
		uint32_t there = 0, length = 0;

		while (i + length < GROUP && (wanted >> (i + length) & 1))
			length++;
		while (there < length && (present >> (i + there) & 1))
			kept |= 1u << (i + there++);
		if (length && !there)
			break;
		i += length + 1;
	}
	return kept;
}

static void test_pages_of_runs(void **state)
{
	/* Mapped before the others are there, by a fault each. */
	static const uint32_t before[] = {0, 1u << 0, 1u << 1, 1u << 2 | 1u << 5, 1u << 7};

	(void)state;
	for (uint32_t i = 0; i < sizeof(before) / sizeof(before[0]); i++)
		for (uint32_t there = 0; there <= ALL; there++) {
			present = 0;
			for (uint32_t index = 0; index < GROUP; index++)
				if (before[i] >> index & 1)
					assert_int_equal(fault_once(PAGE(FIRST + index), WRITE),
							 QUIRE_FIXED);
			present = there;
			check_fault(PAGE(FIRST), 4, before[i],
				    kept_of(ALL & ~before[i] & ~(1u << 4)));
			empty();
		}
}

static void touch(uint32_t page)
{
	quire_vm_host_invalidate_begin(world.vm, sim_hva(page), sim_hva(page + 1));
}

static void leave(uint32_t page)
{
	quire_vm_host_invalidate_end(world.vm, sim_hva(page), sim_hva(page + 1));
}

static void begin_one(void)
{
	touch(FIRST + 5);
}

static void end_one(void)
{
	leave(FIRST + 5);
}

static void begin_other(void)
{
	touch(200);
}

static void end_other(void)
{
	leave(200);
}

static void invalidate_other(void)
{
	begin_other();
	end_other();
}

static void begin_table(void)
{
	touch(TABLE_4K);
}

static void end_table(void)
{
	leave(TABLE_4K);
}

/* The gfn of a direct page is that of the first page that it may map. */
static void begin_first(void)
{
	touch(0);
}

static void end_first(void)
{
	leave(0);
}

static void add_slot(void)
{
	const struct quire_region region = {
	    .slot = 2, .gpa = {PAGE(NO_SLOT)}, .size_bytes = PAGE(1), .hva = sim_hva(200)};

	assert_int_equal(quire_vm_set_region(world.vm, &region), 0);
}

static void drop_slot(void)
{
	const struct quire_region region = {.slot = 2};

	assert_int_equal(quire_vm_set_region(world.vm, &region), 0);
}

/* The library writes an entry of L1's table that has nothing to do with it. */
static void write_table(void)
{
	uint64_t entry = PAGE(301) | NPT_USED;

	assert_int_equal(quire_vm_write(world.vm, (gpa_t){PAGE(TABLE_4K) + 17 * sizeof(entry)},
					&entry, sizeof(entry)),
			 0);
}

/* Another vCPU uses entry 5 while the first one has its page in hand: no page but that is there. */
static void use_one(void)
{
	uint32_t before = present;

	present = 0;
	world_nested_on(&world, 1, world.cpus[0].nested);
	assert_int_equal(
	    world_access_on(&world, 1, PAGE(world.cpus[0].nested ? 5 : FIRST + 5), WORLD_WRITE)
		.outcome,
	    0);
	world_nested_on(&world, 1, 0);
	present = before;
}

static const struct {
	void (*happens)(void), (*afterwards)(void);
	uint32_t mapped;
} changes[] = {
    {begin_one, end_one, ALL & ~(1u << 5)},
    {begin_other, end_other, ALL},
    {invalidate_other, NULL, 0},
    {begin_first, end_first, ALL},
    {add_slot, drop_slot, 0},
};

static void check_changes(uint64_t base, uint32_t index)
{
	for (uint32_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		meanwhile = changes[i].happens;
		check_fault(base, index, 0, changes[i].mapped & ~(1u << index));
		assert_null(meanwhile);
		if (changes[i].afterwards)
			changes[i].afterwards();
		empty();
		/* Paths that a slot took along are made again. */
		assert_int_equal(world_access(&world, base + PAGE(16), WORLD_WRITE).outcome, 0);
	}
}

/* What was found for entries, and is old now, is not mapped; what is not meant by it is. */
static void test_changes_meanwhile(void **state)
{
	(void)state;
	check_changes(0, 0);
	check_changes(0, 3);
	/* The same of what leads to them. */
	meanwhile = write_table;
	check_fault(0, 0, 0, 0);
	empty();
	meanwhile = begin_table;
	assert_int_equal(fault_once(0, WRITE), QUIRE_FIXED);
	end_table();
	for (uint32_t i = 1; i < GROUP; i++) {
		assert_int_equal(found[i], 1);
		assert_int_equal(put[i], 1);
		assert_int_equal(use[i], QUIRE_PAGE_UNUSED);
	}
}

static void test_changes_meanwhile_direct(void **state)
{
	(void)state;
	check_changes(PAGE(FIRST), 0);
	check_changes(PAGE(FIRST), 3);
}

/* What another vCPU has mapped by then stays as it is, and the page is given back unused. */
static void check_filled(uint64_t base)
{
	meanwhile = use_one;
	assert_int_equal(fault_once(base, WRITE), QUIRE_FIXED);
	assert_int_equal(mapped_at(base), ALL);
	assert_true(group_at(base)[5] & NPT_A);
	assert_false(group_at(base)[4] & NPT_A);
	for (uint32_t i = 1; i < GROUP; i++) {
		assert_int_equal(found[i], 1);
		assert_int_equal(put[i], 1 + (i == 5));
		assert_int_equal(use[i], i == 5 ? QUIRE_PAGE_UNUSED : QUIRE_PAGE_DIRTY);
	}
}

static void test_filled_meanwhile(void **state)
{
	(void)state;
	check_filled(0);
}

static void test_filled_meanwhile_direct(void **state)
{
	(void)state;
	check_filled(PAGE(FIRST));
}

#define AHEAD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown_l2)
#define DIRECT_TEST(name) cmocka_unit_test_setup_teardown(name, setup_direct, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    AHEAD_TEST(test_which_pages_are_asked_for),
	    AHEAD_TEST(test_silent_host),
	    AHEAD_TEST(test_pages_of_a_table),
	    AHEAD_TEST(test_leaves),
	    AHEAD_TEST(test_strange_pages),
	    AHEAD_TEST(test_changes_meanwhile),
	    AHEAD_TEST(test_filled_meanwhile),
	    DIRECT_TEST(test_silent_host_direct),
	    DIRECT_TEST(test_pages_of_runs),
	    DIRECT_TEST(test_changes_meanwhile_direct),
	    DIRECT_TEST(test_filled_meanwhile_direct),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
