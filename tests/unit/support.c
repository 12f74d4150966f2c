/* What the tests of the fault path share: a machine, in every table format. */
#include "tests/unit/support.h"

#include <stdlib.h>

#include <quire/dirty.h>

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"
#include "src/vm/check.h"

struct machine machine;

#ifdef QUIRE_CHECK
static uint32_t holds;

static void count_hold(const struct quire_vm *vm)
{
	(void)vm;
	holds++;
}

void holds_begin(void)
{
	holds = 0;
	vm_check_also = count_hold;
}

uint32_t holds_end(void)
{
	vm_check_also = NULL;
	return holds;
}
#endif

static int run_format(const struct CMUnitTest *tests, size_t count, enum quire_format_id format)
{
	machine.format = format;
	return _cmocka_run_group_tests(entry_formats[format]->name, tests, count, NULL, NULL);
}

/* QUIRE_FORMATS in the environment: the first so many, where a test of gigabytes takes too long. */
static int formats_wanted(int all)
{
	const char *text = getenv("QUIRE_FORMATS");
	long first = text ? strtol(text, NULL, 10) : all;

	return first > 0 && first < all ? (int)first : all;
}

static int run_all(const struct CMUnitTest *tests, size_t count, uint32_t rows, int end)
{
	int failed = 0;

	machine_init_rows(&machine, rows);
	for (int format = 0; format < formats_wanted(end); format++)
		failed += run_format(tests, count, (enum quire_format_id)format);
	machine_destroy(&machine);
	return failed;
}

int run_formats_kinds(const struct CMUnitTest *tests, size_t count, uint32_t rows)
{
	static const enum quire_format_id kinds[] = {QUIRE_FORMAT_NPT, QUIRE_FORMAT_EPT_NO_AD,
						     QUIRE_FORMAT_SV39X4, QUIRE_FORMAT_ARM64_4,
						     QUIRE_FORMAT_POWER};
	int failed = 0;

	machine_init_rows(&machine, rows);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		failed += run_format(tests, count, kinds[i]);
	machine_destroy(&machine);
	return failed;
}

int run_formats_rows(const struct CMUnitTest *tests, size_t count, uint32_t rows)
{
	return run_all(tests, count, rows, ENTRY_FORMATS);
}

int run_formats_x86(const struct CMUnitTest *tests, size_t count, uint32_t rows)
{
	return run_all(tests, count, rows, QUIRE_FORMAT_EPT_NO_AD + 1);
}

int run_formats(const struct CMUnitTest *tests, size_t count)
{
	return run_formats_rows(tests, count, 0);
}

void vm_begin(void)
{
	vm_begin_type(QUIRE_VM_DEFAULT);
}

void vm_begin_type(enum quire_vm_type type)
{
	machine.host.violations = 0;
	machine.host.interrupted = false;
	machine_start(&machine, type);
}

void vm_end(void)
{
	assert_false(quire_vm_is_dead(machine.vm));
	assert_true(machine_stop(&machine));
	assert_int_equal(machine.host.violations, 0);
}

void map_pages(uint32_t page, uint32_t npages, uint32_t flags)
{
	for (uint32_t i = 0; i < npages; i++)
		sim_map(&machine.host, page + i, flags);
}

void add_slot(uint32_t page, uint32_t npages, uint32_t flags)
{
	assert_int_equal(machine_add_slot(&machine, page, npages, flags), 0);
}

uint8_t load(uint64_t gfn)
{
	uint8_t byte = 0xff;

	assert_int_equal(machine_load(&machine, 0, PAGES(gfn), &byte), 0);
	return byte;
}

void store(uint64_t gfn, uint8_t byte)
{
	assert_int_equal(machine_store(&machine, 0, PAGES(gfn), byte), 0);
}

void store_backed(uint64_t gfn, uint8_t byte)
{
	store(gfn, byte);
	assert_int_equal(frame_of((uint32_t)gfn)->bytes[0], byte);
}

int fault_at(uint64_t gfn, uint64_t error)
{
	int ret;

	do {
		struct quire_memory_fault fault;
		struct quire_stage2 stage2;
		uint64_t requests;

		/* Guest mode is where the root is loaded. */
		ret = quire_vcpu_enter(machine.vcpus[0], &requests, &stage2);
		assert_int_equal(ret, 0);
		if (requests & QUIRE_REQ_TLB_FLUSH)
			memset(machine.cpus[0].tlb, 0, sizeof(machine.cpus[0].tlb));
		quire_vcpu_leave(machine.vcpus[0]);
		ret = quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){gfn}), error, &fault);
	} while (ret == QUIRE_RETRY);
	return ret;
}

uint64_t leaf_at(uint64_t gfn, uint32_t *level)
{
	struct table *root = machine.vm->roots.valid[0];
	const struct entry_format *f = &machine.vm->tdp_format;
	uint64_t entry;

	if (!root)
		return 0;
	reclaim_enter();
	entry = *tdp_find(machine.vm, root, (gfn_t){gfn}, level);
	reclaim_leave();
	return entry_is_present(f, entry) && entry_is_leaf(f, entry, *level) ? entry : 0;
}

uint32_t level_at(uint64_t gfn)
{
	uint32_t level = 0;

	return leaf_at(gfn, &level) ? level : 0;
}

bool writable_at(uint64_t gfn)
{
	uint32_t level;

	return entry_is_writable(&machine.vm->tdp_format, leaf_at(gfn, &level));
}

void leaves_are(uint64_t gigantic, uint64_t huge, uint64_t small)
{
	assert_int_equal(stat(QUIRE_VM_STAT_pages_1g), gigantic);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), huge);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), small);
}

uint64_t log_bits[SIM_GIGANTIC / 64];

static int take_bits(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	(void)ctx;
	assert_in_range(offset_bytes + size_bytes, 0, sizeof(log_bits));
	memcpy((uint8_t *)log_bits + offset_bytes, src, size_bytes);
	return 0;
}

uint64_t log_harvest(uint32_t slot)
{
	uint64_t count = 0;

	memset(log_bits, 0, sizeof(log_bits));
	assert_int_equal(quire_vm_get_dirty_log(machine.vm, slot, take_bits, NULL), 0);
	for (size_t i = 0; i < sizeof(log_bits) / sizeof(log_bits[0]); i++)
		count += (uint64_t)__builtin_popcountll(log_bits[i]);
	return count;
}

bool log_has(uint64_t page)
{
	return log_bits[page / 64] >> page % 64 & 1;
}

static int give_word(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	(void)offset_bytes;
	for (uint64_t i = 0; i < size_bytes / 8; i++)
		((uint64_t *)dst)[i] = *(uint64_t *)ctx;
	return 0;
}

void log_clear(uint64_t first, uint32_t npages, uint64_t word)
{
	struct quire_clear_log request = {
	    .npages = npages, .first_page = first, .copy_in = give_word, .ctx = &word};

	assert_int_equal(quire_vm_clear_dirty_log(machine.vm, &request), 0);
}
