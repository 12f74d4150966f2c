/* Logs of many words: harvests go in pieces, each one hold of mmu_lock, and forget no page. */
#include <quire/trace.h>

#include "src/vm/vm.h"
#include "tests/unit/support.h"

#define INITIALLY_SET 3u
/* More words than a piece names; their last pages are those that the client has memory for. */
#define WORDS 400u
#define SLOT_PAGES (64 * WORDS)
#define BACKED (SIM_PAGES / 2)
#define FIRST_BACKED (SLOT_PAGES - BACKED)
/* Words that are not empty in one piece, and words of any kind. */
#define PIECE_NAMED 128u
#define PIECE_WORDS 1024u

static void slot_of(uint64_t npages, uint64_t backed, uint32_t flags)
{
	const struct quire_region region = {.flags = flags,
					    .size_bytes = PAGES(npages),
					    .hva = {SIM_HVA_BASE - PAGES(npages - backed)}};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

static void begin(uint64_t npages, uint64_t backed)
{
	vm_begin();
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, INITIALLY_SET), 0);
	map_pages(0, (uint32_t)backed, SIM_WRITABLE);
	slot_of(npages, backed, QUIRE_SLOT_LOG_DIRTY);
}

/* What the client gives, and the bytes that it was asked for. */
static struct {
	uint64_t words[2 * PIECE_WORDS];
	uint64_t size_bytes;
} given;

static int give(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	(void)ctx;
	assert_int_equal(offset_bytes, 0);
	assert_in_range(size_bytes, 0, sizeof(given.words));
	given.size_bytes = size_bytes;
	memcpy(dst, given.words, size_bytes);
	return 0;
}

/* Clear what the given words name of [first, first + npages); returns how many holds of the lock it
 * took. */
static uint32_t clear(uint64_t first, uint64_t npages)
{
	const struct quire_clear_log request = {
	    .first_page = first, .npages = (uint32_t)npages, .copy_in = give};

	given.size_bytes = 0;
	holds_begin();
	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), 0);
	return holds_end();
}

static void name_words(uint32_t first, uint32_t count)
{
	memset(given.words, 0, sizeof(given.words));
	for (uint32_t word = first; word < first + count; word++)
		given.words[word] = UINT64_MAX;
}

/* A piece ends with the last word that it has room for, and an empty one takes no lock. */
static void test_holds(void **state)
{
	(void)state;
	begin(SLOT_PAGES, BACKED);
	name_words(0, 0);
	assert_int_equal(clear(0, SLOT_PAGES), 0);
	name_words(7, 1);
	assert_int_equal(clear(0, SLOT_PAGES), 1);
	name_words(0, PIECE_NAMED);
	assert_int_equal(clear(0, SLOT_PAGES), 1);
	name_words(WORDS - PIECE_NAMED, PIECE_NAMED);
	assert_int_equal(clear(0, SLOT_PAGES), 1);
	name_words(0, PIECE_NAMED + 1);
	assert_int_equal(clear(0, SLOT_PAGES), 2);
	name_words(0, WORDS);
	assert_int_equal(clear(0, SLOT_PAGES), 4);
	vm_end();
	/* However empty they are. */
	begin(64 * (PIECE_WORDS + 2), BACKED);
	name_words(PIECE_WORDS, 1);
	given.words[0] = 1;
	assert_int_equal(clear(0, 64 * (PIECE_WORDS + 2)), 2);
	given.words[0] = 0;
	given.words[PIECE_WORDS - 1] = 1;
	assert_int_equal(clear(0, 64 * (PIECE_WORDS + 2)), 2);
	given.words[PIECE_WORDS - 1] = 0;
	assert_int_equal(clear(0, 64 * (PIECE_WORDS + 2)), 1);
	vm_end();
}

/* Each page is armed, whichever piece it is in, and its next write is told. */
static void test_all_are_armed(void **state)
{
	(void)state;
	begin(SLOT_PAGES, BACKED);
	for (uint64_t gfn = FIRST_BACKED; gfn < SLOT_PAGES; gfn += 7)
		store(gfn, 1);
	name_words(0, WORDS);
	(void)clear(0, SLOT_PAGES);
	assert_int_equal(given.size_bytes, WORDS * sizeof(uint64_t));
	for (uint64_t gfn = FIRST_BACKED; gfn < SLOT_PAGES; gfn += 7)
		assert_false(writable_at(gfn));
	assert_int_equal(log_harvest(0), 0);
	store(FIRST_BACKED, 2);
	store(SLOT_PAGES - 64, 2);
	assert_int_equal(log_harvest(0), 2);
	assert_true(log_has(FIRST_BACKED) && log_has(SLOT_PAGES - 64));
	/* Those that are not named keep their bits, and stay writable. */
	name_words(WORDS - 1, 1);
	(void)clear(0, SLOT_PAGES);
	assert_true(writable_at(FIRST_BACKED) && !writable_at(SLOT_PAGES - 64));
	assert_int_equal(log_harvest(0), 1);
	vm_end();
}

/* A range has the words that its pages need, and no other. */
static void test_words_of_a_range(void **state)
{
	static const struct {
		uint64_t first, npages, words;
	} ranges[] = {{0, 64, 1}, {0, 128, 2}, {64, 64, 1}, {0, 129, 3}, {64, 65, 2}, {128, 1, 1}};

	(void)state;
	begin(129, 129);
	for (uint32_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		memset(&given, 0, sizeof(given));
		(void)clear(ranges[i].first, ranges[i].npages);
		assert_int_equal(given.size_bytes, 8 * ranges[i].words);
	}
	/* None at all is no error, not even behind the last page. */
	(void)clear(0, 0);
	(void)clear(128, 0);
	assert_int_equal(given.size_bytes, 0);
	slot_of(0, 0, 0);
	slot_of(128, 128, QUIRE_SLOT_LOG_DIRTY);
	(void)clear(128, 0);
	assert_int_equal(given.size_bytes, 0);
	slot_of(0, 0, 0);
	slot_of(SLOT_PAGES, BACKED, QUIRE_SLOT_LOG_DIRTY);
	(void)clear(0, SLOT_PAGES);
	assert_int_equal(given.size_bytes, 8 * WORDS);
	vm_end();
}

/* What a log that starts, and one that stops, holds where no guest is nested and nothing is mapped.
 */
static void test_start_and_stop(void **state)
{
	uint64_t flushes;

	(void)state;
	vm_begin();
	map_pages(0, BACKED, SIM_WRITABLE);
	add_slot(0, BACKED, 0);
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	holds_begin();
	add_slot(0, BACKED, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(holds_end(), 1);
	/* What another change has write-protected may not have been flushed yet. */
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes + 1);
	holds_begin();
	add_slot(0, BACKED, 0);
	assert_int_equal(holds_end(), 0);
	vm_end();
}

/* Behind the range that is cleared there are older words: they split nothing. */
static void test_words_behind_a_range(void **state)
{
	(void)state;
	vm_begin();
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, INITIALLY_SET), 0);
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	store(5, 1);
	store(SIM_BLOCK + 5, 1);
	add_slot(0, 2 * SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(log_harvest(0), 2 * SIM_BLOCK);
	log_clear(0, SIM_BLOCK, UINT64_MAX);
	leaves_are(0, 1, SIM_BLOCK);
	assert_int_equal(level_at(SIM_BLOCK), QUIRE_LEVEL_2M);
	assert_true(writable_at(SIM_BLOCK));
	vm_end();
}

/* Pages that lie at another offset in their blocks for the client never become one leaf; nor do
 * those that an invalidation has taken, before it ends. */
static void test_no_huge_page_comes_back(void **state)
{
	const struct quire_region region = {.size_bytes = PAGES(SIM_BLOCK), .hva = sim_hva(1)};
	struct quire_region logged = region;

	(void)state;
	logged.flags = QUIRE_SLOT_LOG_DIRTY;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	assert_int_equal(quire_vm_set_region(machine.vm, &logged), 0);
	store(5, 1);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	leaves_are(0, 0, 1);
	vm_end();

	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	store(5, 1);
	biglock_write_lock(&machine.vm->mmu_lock);
	invalidation_begin(machine.vm);
	invalidation_add_range(machine.vm, (gfn_t){SIM_BLOCK - 1}, (gfn_t){SIM_BLOCK});
	biglock_write_unlock(&machine.vm->mmu_lock);
	add_slot(0, SIM_BLOCK, 0);
	leaves_are(0, 0, 1);
	biglock_write_lock(&machine.vm->mmu_lock);
	invalidation_end(machine.vm);
	biglock_write_unlock(&machine.vm->mmu_lock);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	add_slot(0, SIM_BLOCK, 0);
	leaves_are(0, 1, 0);
	vm_end();
}

/* Whether guest mode is closed, seen where a leaf loses W. */
static struct {
	uint32_t seen, closed;
} piece;

static void look_at_change(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	if (event != QUIRE_TRACE_kvm_tdp_mmu_spte_changed)
		return;
	piece.seen++;
	piece.closed += flush_domain_is_closed(&machine.vm->flush);
}

/* The vCPU in guest mode hears of the flush, and drops its translations there. */
static void take_request(void *ctx, void *cookie)
{
	(void)ctx;
	(void)cookie;
	(void)atomic_fetch_and_u64(&machine.vcpus[0]->mode.doorbell, ~(u64)QUIRE_REQ_TLB_FLUSH);
}

/* No vCPU is kept out of guest mode where one is in it; where none is, all are. */
static void test_guest_mode(void **state)
{
	struct quire_host_ops ops = sim_host_ops;
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	begin(BACKED, BACKED);
	ops.kick = take_request;
	machine.vm->flush.host = &ops;
	name_words(0, 1);
	for (uint32_t inside = 0; inside < 2; inside++) {
		store(3, 1);
		memset(&piece, 0, sizeof(piece));
		if (inside)
			assert_int_equal(quire_vcpu_enter(machine.vcpus[0], &requests, &stage2), 0);
		quire_trace_install(look_at_change);
		(void)clear(0, 64);
		quire_trace_install(NULL);
		if (inside)
			quire_vcpu_leave(machine.vcpus[0]);
		memset(machine.cpus[0].tlb, 0, sizeof(machine.cpus[0].tlb));
		assert_int_equal(piece.seen, 1);
		assert_int_equal(piece.closed, !inside);
		assert_false(flush_domain_is_closed(&machine.vm->flush));
	}
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_holds),
	    cmocka_unit_test(test_all_are_armed),
	    cmocka_unit_test(test_words_of_a_range),
	    cmocka_unit_test(test_start_and_stop),
	    cmocka_unit_test(test_words_behind_a_range),
	    cmocka_unit_test(test_no_huge_page_comes_back),
	    cmocka_unit_test(test_guest_mode),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 0);
}
