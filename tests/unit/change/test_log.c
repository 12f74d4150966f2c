/* Eager splitting and recovery of huge pages: contents, order, counters, events, and no memory. */
#include <quire/trace.h>

#include "src/tdp/tdp.h"
#include "tests/unit/support.h"

#define SLOT_PAGES (2 * SIM_BLOCK)
#define MANUAL 1u
#define INITIALLY_SET 3u

/* What kvm_mmu_split_huge_page said. */
static struct {
	unsigned int done, failed;
	uint64_t last_gfn, last_level;
	int64_t last_errno;
} seen;

static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event != QUIRE_TRACE_kvm_mmu_split_huge_page)
		return;
	seen.last_gfn = args[0];
	seen.last_level = args[2];
	seen.last_errno = (int64_t)args[3];
	if (seen.last_errno)
		seen.failed++;
	else
		seen.done++;
}

static int set_flags(uint32_t flags)
{
	return machine_add_slot(&machine, 0, SLOT_PAGES, flags);
}

/* Two huge pages, both written, so that the guest has huge leaves with A and D. */
static void begin(uint32_t manual)
{
	vm_begin();
	memset(&seen, 0, sizeof(seen));
	quire_trace_install(record);
	if (manual)
		assert_int_equal(quire_vm_set_manual_protect(machine.vm, manual), 0);
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, 0);
	for (uint64_t gfn = 5; gfn < SLOT_PAGES; gfn += SIM_BLOCK)
		assert_int_equal(machine_store(&machine, 0, gfn << QUIRE_PAGE_SHIFT, 1), 0);
	leaves_are(0, 2, 0);
}

static void end(void)
{
	quire_trace_install(NULL);
	machine.tunables.eager_page_split = 1;
	vm_end();
}

static int give_bits(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	memcpy(dst, (uint8_t *)ctx + offset_bytes, size_bytes);
	return 0;
}

static void clear_words(uint64_t first, uint32_t npages, uint64_t *words)
{
	struct quire_clear_log request = {
	    .npages = npages, .first_page = first, .copy_in = give_bits, .ctx = words};

	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), 0);
}

static void test_start_splits_and_protects(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	leaves_are(0, 0, SLOT_PAGES);
	assert_int_equal(seen.done, 2);
	assert_int_equal(seen.failed, 0);
	assert_int_equal(seen.last_gfn, SIM_BLOCK);
	assert_int_equal(seen.last_level, QUIRE_LEVEL_2M);
	for (uint64_t gfn = 0; gfn < SLOT_PAGES; gfn++) {
		assert_int_equal(level_at(gfn), QUIRE_LEVEL_4K);
		assert_false(writable_at(gfn));
	}
	/* The first write needs no table and no lookup: W comes back. */
	store(700, 2);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast), 1);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(700));
	end();
}

/* The children map what the huge leaf did, page by page, with its rights, A and D; without flush.
 */
static void test_children(void **state)
{
	const struct entry_format *f;
	struct table_cache tables = {0};
	uint64_t huge, flushes;
	gfn_t start = {0};
	uint32_t level;

	(void)state;
	begin(0);
	f = &machine.vm->tdp_format;
	huge = leaf_at(0, &level);
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 1), 0);
	biglock_write_lock(&machine.vm->mmu_lock);
	assert_int_equal(tdp_split_range(machine.vm, 0, &start, (gfn_t){SIM_BLOCK}, &tables), 0);
	assert_int_equal(start.v, SIM_BLOCK);
	biglock_write_unlock(&machine.vm->mmu_lock);
	table_cache_drain(&tables, &machine.vm->arena);
	for (uint64_t gfn = 0; gfn < SIM_BLOCK; gfn++) {
		uint64_t child = leaf_at(gfn, &level);

		assert_int_equal(level, QUIRE_LEVEL_4K);
		assert_int_equal(entry_pfn(&machine.vm->tdp_format, child).v,
				 entry_pfn(&machine.vm->tdp_format, huge).v + gfn);
		assert_int_equal(child & (f->writable | f->host_writable | f->mmu_writable |
					  f->accessed | f->dirty),
				 huge & (f->writable | f->host_writable | f->mmu_writable |
					 f->accessed | f->dirty));
	}
	leaves_are(0, 1, SIM_BLOCK);
	/* But for the one between break and make. */
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes + f->breaks);
	end();
}

/* Stopping brings the huge leaves back in place, in one flush, and the counters with them. */
static void test_stop_recovers(void **state)
{
	uint64_t flushes;

	(void)state;
	begin(0);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
		store(700, 2);
		flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
		assert_int_equal(set_flags(0), 0);
		/* Of a format that breaks before it makes, each leaf has one of its own, too. */
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush),
				 flushes + 1 + 2 * machine.vm->tdp_format.breaks);
		assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 2);
		assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 0);
		assert_true(writable_at(0) && writable_at(SIM_BLOCK));
		store(3, 2);
	}
	end();
}

/* What comes back is no more writable than it was: the host's memory may be read-only. */
static void test_stop_adds_no_rights(void **state)
{
	uint8_t value;

	(void)state;
	begin(0);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	sim_unmap_range(&machine.host, 0, SIM_BLOCK);
	sim_map_huge(&machine.host, 0, 0);
	add_slot(0, SLOT_PAGES, 0);
	assert_int_equal(machine_load(&machine, 0, 9 << QUIRE_PAGE_SHIFT, &value), 0);
	assert_int_equal(level_at(9), QUIRE_LEVEL_2M);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(level_at(9), QUIRE_LEVEL_4K);
	assert_int_equal(set_flags(0), 0);
	assert_int_equal(level_at(9), QUIRE_LEVEL_2M);
	assert_false(writable_at(9));
	end();
}

/* A block whose memory is not huge any more stays small. */
static void test_stop_asks_the_host(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(9), sim_hva(10));
	sim_unmap(&machine.host, 9);
	sim_map(&machine.host, 9, SIM_WRITABLE);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(9), sim_hva(10));
	assert_int_equal(set_flags(0), 0);
	leaves_are(0, 1, SIM_BLOCK - 1);
	end();
}

/* The parameter is looked at each time. Without it a huge leaf is protected, and goes at a write.
 */
static void test_parameter(void **state)
{
	uint8_t value;

	(void)state;
	machine.tunables.eager_page_split = 0;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(seen.done + seen.failed, 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 2);
	assert_false(writable_at(0) || writable_at(SIM_BLOCK));
	/* Reading leaves it huge, writing does not. */
	assert_int_equal(machine_load(&machine, 0, 9 << QUIRE_PAGE_SHIFT, &value), 0);
	assert_int_equal(level_at(9), QUIRE_LEVEL_2M);
	store(9, 2);
	assert_int_equal(level_at(9), QUIRE_LEVEL_4K);
	assert_int_equal(log_harvest(0), 1);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 1);
	assert_int_equal(set_flags(0), 0);
	machine.tunables.eager_page_split = 1;
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 0);
	assert_int_equal(seen.done, 2);
	end();
}

/* With all bits set from the start, CLEAR splits what it names and protects it. */
static void test_clear_splits(void **state)
{
	(void)state;
	begin(INITIALLY_SET);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(seen.done, 0);
	assert_true(writable_at(0) && writable_at(SIM_BLOCK));
	assert_int_equal(log_harvest(0), SLOT_PAGES);
	log_clear(SIM_BLOCK, 64, 2);
	assert_int_equal(seen.done, 1);
	assert_int_equal(seen.last_gfn, SIM_BLOCK);
	assert_int_equal(level_at(0), QUIRE_LEVEL_2M);
	assert_int_equal(level_at(SIM_BLOCK + 1), QUIRE_LEVEL_4K);
	assert_false(writable_at(SIM_BLOCK + 1));
	assert_true(writable_at(SIM_BLOCK + 2));
	assert_int_equal(log_harvest(0), SLOT_PAGES - 1);
	log_clear(0, SLOT_PAGES, UINT64_MAX);
	leaves_are(0, 0, SLOT_PAGES);
	assert_int_equal(log_harvest(0), 0);
	end();
}

/* A CLEAR of the whole slot splits what has a bit named that is set, and leaves the rest huge. */
static void test_clear_splits_what_it_names(void **state)
{
	uint64_t words[SLOT_PAGES / 64] = {0};

	(void)state;
	begin(INITIALLY_SET);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	clear_words(0, SLOT_PAGES, words);
	assert_int_equal(seen.done, 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 2);
	words[SIM_BLOCK / 64 + 1] = 4;
	clear_words(0, SLOT_PAGES, words);
	assert_int_equal(seen.done, 1);
	assert_int_equal(seen.last_gfn, SIM_BLOCK);
	assert_int_equal(level_at(0), QUIRE_LEVEL_2M);
	assert_true(writable_at(0));
	assert_int_equal(log_harvest(0), SLOT_PAGES - 1);
	/* Bits at both ends of the other block, named by one CLEAR, split it once. */
	memset(words, 0, sizeof(words));
	words[0] = 1;
	words[SIM_BLOCK / 64 - 1] = UINT64_C(1) << 63;
	clear_words(0, SLOT_PAGES, words);
	assert_int_equal(seen.done, 2);
	assert_int_equal(log_harvest(0), SLOT_PAGES - 3);
	assert_false(writable_at(0) || writable_at(SIM_BLOCK - 1));
	assert_true(writable_at(1));
	end();
}

/* A CLEAR that names a block's last page, or its first, leaves the block beside it huge. */
static void test_clear_splits_up_to_the_edge(void **state)
{
	static const uint64_t pages[] = {SIM_BLOCK - 1, SIM_BLOCK};

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t words[SLOT_PAGES / 64] = {0};

		begin(INITIALLY_SET);
		assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
		words[pages[i] / 64] = UINT64_C(1) << pages[i] % 64;
		clear_words(0, SLOT_PAGES, words);
		leaves_are(0, 1, SIM_BLOCK);
		assert_int_equal(level_at(pages[i]), QUIRE_LEVEL_4K);
		assert_int_equal(level_at(pages[!i]), QUIRE_LEVEL_2M);
		assert_true(writable_at(pages[!i]) && !writable_at(pages[i]));
		assert_int_equal(log_harvest(0), SLOT_PAGES - 1);
		end();
	}
}

/* A huge page between two pages that a CLEAR names stays huge. The last one is not mapped. */
static void test_clear_splits_nothing_between(void **state)
{
	uint64_t words[3 * SIM_BLOCK / 64] = {0};

	(void)state;
	begin(INITIALLY_SET);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, 3 * SIM_BLOCK, 0);
	store(5, 1);
	store(SIM_BLOCK + 5, 1);
	assert_int_equal(machine_add_slot(&machine, 0, 3 * SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY), 0);
	words[SIM_BLOCK / 64 - 1] = UINT64_C(1) << 63;
	words[2 * SIM_BLOCK / 64] = 1;
	clear_words(0, 3 * SIM_BLOCK, words);
	leaves_are(0, 1, SIM_BLOCK);
	assert_int_equal(level_at(SIM_BLOCK), QUIRE_LEVEL_2M);
	assert_true(writable_at(SIM_BLOCK) && !writable_at(SIM_BLOCK - 1));
	assert_int_equal(log_harvest(0), 3 * SIM_BLOCK - 2);
	end();
}

/* Bits that are clear already arm nothing, and so split nothing. */
static void test_clear_of_clear_bits_splits_nothing(void **state)
{
	(void)state;
	machine.tunables.eager_page_split = 0;
	begin(INITIALLY_SET);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	log_clear(0, SLOT_PAGES, UINT64_MAX);
	machine.tunables.eager_page_split = 1;
	log_clear(0, SLOT_PAGES, UINT64_MAX);
	assert_int_equal(seen.done + seen.failed, 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 2);
	end();
}

/* Without INITIALLY_SET a CLEAR splits nothing; nor does a slot that is born with its log. */
static void test_what_does_not_split(void **state)
{
	(void)state;
	machine.tunables.eager_page_split = 0;
	begin(MANUAL);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	machine.tunables.eager_page_split = 1;
	log_clear(0, SLOT_PAGES, UINT64_MAX);
	assert_int_equal(seen.done + seen.failed, 0);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, SLOT_PAGES, QUIRE_SLOT_LOG_DIRTY);
	store(9, 2);
	/* A logged slot gets no huge leaf, so there is nothing to split. */
	assert_int_equal(level_at(9), QUIRE_LEVEL_4K);
	assert_int_equal(seen.done + seen.failed, 0);
	end();
}

/* The last word of a slot may be a part of one: a clear reaches its last page. */
static void test_clear_of_an_odd_end(void **state)
{
	const uint32_t npages = 200;

	(void)state;
	vm_begin();
	map_pages(0, npages, SIM_WRITABLE);
	add_slot(0, npages, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, MANUAL), 0);
	for (uint64_t gfn = 192; gfn < npages; gfn++)
		store(gfn, 1);
	log_clear(128, npages - 128, UINT64_MAX);
	assert_int_equal(log_harvest(0), 0);
	for (uint64_t gfn = 192; gfn < npages; gfn++)
		assert_false(writable_at(gfn));
	vm_end();
}

/* One harvest after another needs no memory, and takes no bit twice. */
static void test_harvests_without_memory(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 64, SIM_WRITABLE);
	add_slot(0, 64, QUIRE_SLOT_LOG_DIRTY);
	store(0, 1);
	machine.host.fail_at = machine.host.allocations + 1;
	for (uint64_t round = 1; round < 4; round++) {
		assert_int_equal(log_harvest(0), 1);
		assert_int_equal(log_harvest(0), 0);
		store(round, 1);
	}
	machine.host.fail_at = 0;
	vm_end();
}

/* Pages of two blocks of 1 GiB follow each other, each with tables of its own. */
static void test_slot_across_a_gigabyte(void **state)
{
	const uint64_t border = SIM_GIGANTIC, first = border - 64;
	const struct quire_region across = {.slot = 1,
					    .flags = QUIRE_SLOT_LOG_DIRTY,
					    .gpa = gpa_of((gfn_t){first}),
					    .size_bytes = PAGES(128),
					    .hva = sim_hva(64)};

	(void)state;
	vm_begin();
	map_pages(0, 192, SIM_WRITABLE);
	add_slot(0, 64, 0);
	assert_int_equal(quire_vm_set_region(machine.vm, &across), 0);
	for (uint64_t gfn = 0; gfn < 64; gfn += 9) {
		store(gfn, 1);
		store(first + gfn, 2);
		store(border + gfn, 3);
	}
	assert_int_equal(log_harvest(1), 16);
	for (uint64_t gfn = 0; gfn < 64; gfn += 9) {
		assert_true(writable_at(gfn));
		assert_false(writable_at(first + gfn));
		assert_false(writable_at(border + gfn));
	}
	store(border + 9, 4);
	assert_int_equal(log_harvest(1), 1);
	assert_true(log_has(64 + 9));
	vm_end();
}

static int no_bits(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	(void)src;
	(void)size_bytes;
	return 0;
}

/* The log of @slot is refused with @error, whether it is asked for or cleared. */
static void log_is_refused(uint32_t slot, int error)
{
	const struct quire_clear_log request = {.slot = slot, .npages = 64, .copy_in = give_bits};

	assert_int_equal(quire_vm_get_dirty_log(machine.vm, slot, no_bits, NULL), error);
	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), error);
}

static void test_no_such_log(void **state)
{
	uint32_t space;

	(void)state;
	vm_begin();
	space = quire_vm_address_spaces(machine.vm) << 16;
	map_pages(0, 64, SIM_WRITABLE);
	add_slot(0, 64, 0);
	log_is_refused(0, -ENOENT);
	log_is_refused(1, -ENOENT);
	log_is_refused(QUIRE_USER_SLOTS - 1, -ENOENT);
	log_is_refused(QUIRE_USER_SLOTS, -EINVAL);
	log_is_refused(space, -EINVAL);
	vm_end();
	/* Where rings log, no slot has a log: KVM says so first. */
	machine.rings = 1;
	vm_begin();
	log_is_refused(0, -ENXIO);
	log_is_refused(QUIRE_USER_SLOTS, -ENXIO);
	log_is_refused(space, -ENXIO);
	vm_end();
	machine.rings = 0;
}

static void test_readonly_slots_are_left_alone(void **state)
{
	uint8_t value;

	(void)state;
	begin(0);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	add_slot(0, SLOT_PAGES, QUIRE_SLOT_READONLY);
	assert_int_equal(machine_load(&machine, 0, 9 << QUIRE_PAGE_SHIFT, &value), 0);
	assert_int_equal(level_at(9), QUIRE_LEVEL_2M);
	assert_int_equal(set_flags(QUIRE_SLOT_READONLY | QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(seen.done + seen.failed, 0);
	assert_int_equal(level_at(9), QUIRE_LEVEL_2M);
	end();
}

/* Take every table that is free, so that the next one needs memory. */
static void take_free_tables(struct table_cache *hog)
{
	struct arena *arena = &machine.vm->arena;
	uint32_t want = hog->count + (uint32_t)arena->free_count;

	assert_int_equal(table_cache_fill(hog, arena, want), 0);
	assert_int_equal(arena->free_count, 0);
}

/* Leave @spare tables of those taken for the call to come. */
static int start_without_memory(uint64_t fail_number, uint32_t spare, uint64_t *calls)
{
	struct table_cache hog = {0}, back = {0};
	uint64_t before = machine.host.allocations;
	int err;

	take_free_tables(&hog);
	for (uint32_t i = 0; i < spare; i++)
		table_cache_put(&back, table_cache_take(&hog));
	table_cache_drain(&back, &machine.vm->arena);
	machine.host.fail_at = before + fail_number;
	err = set_flags(QUIRE_SLOT_LOG_DIRTY);
	machine.host.fail_at = 0;
	*calls = machine.host.allocations - before;
	table_cache_drain(&hog, &machine.vm->arena);
	return err;
}

/* Huge or split, no leaf may be written without a fault; and writes are told page by page. */
static void check_armed(void)
{
	for (uint64_t gfn = 0; gfn < SLOT_PAGES; gfn++)
		assert_false(writable_at(gfn));
	store(6, 2);
	store(SIM_BLOCK + 6, 2);
	assert_int_equal(level_at(6), QUIRE_LEVEL_4K);
	assert_int_equal(level_at(SIM_BLOCK + 6), QUIRE_LEVEL_4K);
	assert_int_equal(log_harvest(0), 2);
	assert_true(log_has(6) && log_has(SIM_BLOCK + 6));
}

/* Each allocation of the call fails once: the call is refused, or splits as far as it gets. */
static void test_no_memory(void **state)
{
	unsigned int refused = 0, best_effort = 0;
	uint64_t calls;

	(void)state;
	for (uint32_t spare = 0; spare < 2; spare++) {
		calls = UINT64_MAX;
		/* Until the call makes fewer than that. */
		for (uint64_t number = 1; calls >= number - 1; number++) {
			int err;

			begin(0);
			err = start_without_memory(number, spare, &calls);
			if (err) {
				assert_int_equal(err, -ENOMEM);
				assert_int_equal(seen.done + seen.failed, 0);
				assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 2);
				assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
				refused++;
			} else if (seen.failed) {
				assert_int_equal(seen.failed, 1);
				assert_int_equal(seen.last_errno, -ENOMEM);
				assert_int_equal(seen.done, spare);
				assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 2 - spare);
				best_effort++;
			}
			check_armed();
			end();
		}
	}
	assert_true(refused > 0);
	assert_int_equal(best_effort, 2);
}

/* What the client calls while its buffer is being copied. */
static struct {
	void (*call)(void);
	int result;
} copying;

static int copy_out_and_call(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	void (*call)(void) = copying.call;

	copying.call = NULL;
	if (call)
		call();
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return copying.result;
}

static int copy_in_and_call(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	return copy_out_and_call(dst, offset_bytes, ctx, size_bytes);
}

static void harvest_again(void)
{
	store(9, 1);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(9));
	store(70, 1);
}

static void delete_slot(void)
{
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
}

static void stop_and_start(void)
{
	assert_int_equal(set_flags(0), 0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	store(3, 1);
}

static int get_with(void (*call)(void), int result, uint64_t *words)
{
	copying.call = call;
	copying.result = result;
	return quire_vm_get_dirty_log(machine.vm, 0, copy_out_and_call, words);
}

/* No lock is held over a copy, and what the client calls meanwhile sees a whole log. */
static void test_calls_while_a_log_is_copied(void **state)
{
	uint64_t words[SLOT_PAGES / 64];

	(void)state;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	store(7, 1);
	assert_int_equal(get_with(harvest_again, 0, words), 0);
	assert_int_equal(words[0], 1 << 7);
	/* It fails after others have harvested: its bits come back beside theirs. */
	assert_int_equal(get_with(harvest_again, -EFAULT, words), -EFAULT);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(70));
	store(7, 1);
	assert_int_equal(get_with(harvest_again, -EFAULT, words), -EFAULT);
	assert_int_equal(log_harvest(0), 2);
	assert_true(log_has(7) && log_has(70));
	/* The bits of a log that has ended are not those of the next. */
	store(7, 1);
	assert_int_equal(get_with(stop_and_start, -EFAULT, words), -EFAULT);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(3));
	store(7, 1);
	assert_int_equal(get_with(delete_slot, 0, words), 0);
	assert_int_equal(words[0], 1 << 7);
	assert_int_equal(get_with(NULL, 0, words), -ENOENT);
	end();
}

/* With manual protection a copy takes nothing out of the log: one that fails has nothing to undo.
 */
static void test_copy_fails_with_manual_protection(void **state)
{
	uint64_t words[SLOT_PAGES / 64];

	(void)state;
	begin(MANUAL);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	store(7, 1);
	assert_int_equal(get_with(NULL, -EFAULT, words), -EFAULT);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(7) && writable_at(7));
	end();
}

static void test_calls_while_a_clear_is_copied(void **state)
{
	uint64_t words[SLOT_PAGES / 64] = {1 << 3 | 1 << 7};
	struct quire_clear_log request = {
	    .npages = SLOT_PAGES, .copy_in = copy_in_and_call, .ctx = words};

	(void)state;
	begin(MANUAL);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	store(3, 1);
	store(7, 1);
	copying.result = -EFAULT;
	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), -EFAULT);
	assert_int_equal(log_harvest(0), 2);
	/* Another log by then: it is cleared. */
	copying.result = 0;
	copying.call = stop_and_start;
	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), 0);
	assert_int_equal(log_harvest(0), 0);
	copying.call = delete_slot;
	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), -ENOENT);
	end();
}

/* What was told of each kind: how often it began and ended, and the last value. */
static struct {
	unsigned int begun, ended;
	uint64_t value;
} timed[QUIRE_TIMED_COUNT];

static void take_edge(enum quire_timed what, enum quire_timed_edge edge, uint64_t value)
{
	if (edge == QUIRE_TIMED_BEGINS) {
		timed[what].begun++;
		return;
	}
	timed[what].ended++;
	timed[what].value = value;
}

/* A clear takes, and tells of, what is set in the log, whatever else the client names. */
static void test_clear_tells_what_it_took(void **state)
{
	(void)state;
	begin(MANUAL);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	store(3, 1);
	store(70, 1);
	memset(timed, 0, sizeof(timed));
	quire_trace_install_timed(take_edge);
	log_clear(0, 128, UINT64_MAX);
	quire_trace_install_timed(NULL);
	assert_int_equal(timed[QUIRE_TIMED_HARVEST].ended, 1);
	assert_int_equal(timed[QUIRE_TIMED_HARVEST].value, 2);
	end();
}

/* A harvest says how many pages it took; faults and holds of the lock end as they began. */
static void test_what_takes_time_is_told(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	memset(timed, 0, sizeof(timed));
	quire_trace_install_timed(take_edge);
	for (uint64_t gfn = 0; gfn < 130; gfn += 13)
		store(gfn, 1);
	assert_int_equal(timed[QUIRE_TIMED_FAULT].begun, timed[QUIRE_TIMED_FAULT].ended);
	assert_true(timed[QUIRE_TIMED_FAULT].ended >= 10);
	assert_int_equal(timed[QUIRE_TIMED_FAULT].value, QUIRE_FIXED);
	assert_int_equal(timed[QUIRE_TIMED_HARVEST].begun, 0);
	assert_int_equal(log_harvest(0), 10);
	assert_int_equal(timed[QUIRE_TIMED_HARVEST].ended, 1);
	assert_int_equal(timed[QUIRE_TIMED_HARVEST].value, 10);
	assert_int_equal(set_flags(0), 0);
	assert_true(timed[QUIRE_TIMED_MMU_LOCK].ended > 0);
	assert_int_equal(timed[QUIRE_TIMED_MMU_LOCK].begun, timed[QUIRE_TIMED_MMU_LOCK].ended);
	quire_trace_install_timed(NULL);
	store(5, 1);
	assert_int_equal(timed[QUIRE_TIMED_HARVEST].begun, 1);
	end();
}

/* A move that is refused late, once its successor has been made, leaves the slot its log. */
static void test_refused_move(void **state)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_LOG_DIRTY, .size_bytes = PAGES(4), .hva = sim_hva(0)};

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, QUIRE_SLOT_LOG_DIRTY);
	store(1, 1);
	region.gpa.v = UINT64_C(1) << 51;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EINVAL);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(1));
	store(2, 1);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(2));
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refused_move),
	    cmocka_unit_test(test_clear_tells_what_it_took),
	    cmocka_unit_test(test_start_splits_and_protects),
	    cmocka_unit_test(test_children),
	    cmocka_unit_test(test_stop_recovers),
	    cmocka_unit_test(test_stop_adds_no_rights),
	    cmocka_unit_test(test_stop_asks_the_host),
	    cmocka_unit_test(test_parameter),
	    cmocka_unit_test(test_clear_splits),
	    cmocka_unit_test(test_clear_splits_what_it_names),
	    cmocka_unit_test(test_clear_splits_nothing_between),
	    cmocka_unit_test(test_clear_of_clear_bits_splits_nothing),
	    cmocka_unit_test(test_what_does_not_split),
	    cmocka_unit_test(test_clear_of_an_odd_end),
	    cmocka_unit_test(test_clear_splits_up_to_the_edge),
	    cmocka_unit_test(test_harvests_without_memory),
	    cmocka_unit_test(test_slot_across_a_gigabyte),
	    cmocka_unit_test(test_no_such_log),
	    cmocka_unit_test(test_readonly_slots_are_left_alone),
	    cmocka_unit_test(test_no_memory),
	    cmocka_unit_test(test_calls_while_a_log_is_copied),
	    cmocka_unit_test(test_copy_fails_with_manual_protection),
	    cmocka_unit_test(test_calls_while_a_clear_is_copied),
	    cmocka_unit_test(test_what_takes_time_is_told),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
