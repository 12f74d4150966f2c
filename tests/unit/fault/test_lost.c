/* The fast path, and what another thread stores between its look at an entry and its exchange. */
#include "tests/unit/support.h"

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)
/* What it tries before the slow path takes over. */
#define TRIES 4u

static struct quire_platform meddling;
static uint64_t *raced; /* the entry */
static uint64_t stored; /* what the other thread stores there, and its bit A at each turn */
static uint32_t exchanges, lost; /* tried so far; and so many of the first ones are too late */

static void store_first(const char *what, const void *where)
{
	if (where != raced || !strstr(what, "cmpxchg"))
		return;
	if (exchanges++ >= lost)
		return;
	stored ^= machine.vm->tdp_format.accessed;
	*raced = stored;
}

/* Page 1 has lost W to the log; false where no processor changes A under the library's hands. */
static bool begin(void)
{
	const struct entry_format *f;
	uint32_t level;

	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(fault_at(1, WRITE), QUIRE_FIXED);
	(void)log_harvest(0);
	assert_false(writable_at(1));
	f = &machine.vm->tdp_format;
	reclaim_enter();
	raced = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){1}, &level);
	reclaim_leave();
	stored = *raced;
	exchanges = 0;
	return f->accessed && !entry_ages_by_faults(f);
}

/* One fault, of which so many exchanges come too late. */
static int write_after(uint32_t too_late)
{
	struct quire_memory_fault told;
	int ret;

	lost = too_late;
	meddling = sched_platform;
	meddling.sched_point = store_first;
	quire_platform_install(&meddling);
	ret = quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){1}), WRITE | PRESENT, &told);
	quire_platform_install(&sched_platform);
	return ret;
}

static uint64_t fast_faults(void)
{
	return quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast);
}

/* The entry is looked at again, and keeps what the other thread has stored. */
static void test_lost_and_won(void **state)
{
	(void)state;
	for (uint32_t too_late = 0; begin() && too_late < TRIES; too_late++) {
		assert_int_equal(write_after(too_late), QUIRE_FIXED);
		assert_int_equal(exchanges, too_late + 1);
		assert_int_equal(fast_faults(), 1);
		assert_true(writable_at(1));
		assert_int_equal(*raced & machine.vm->tdp_format.accessed,
				 stored & machine.vm->tdp_format.accessed);
		(void)log_harvest(0);
		assert_true(log_has(1));
		vm_end();
	}
	vm_end();
}

/* So many times is enough: the slow path does it, with one exchange. */
static void test_given_up(void **state)
{
	(void)state;
	if (begin()) {
		assert_int_equal(write_after(TRIES), QUIRE_FIXED);
		assert_int_equal(exchanges, TRIES + 1);
		assert_int_equal(fast_faults(), 0);
		assert_true(writable_at(1));
		(void)log_harvest(0);
		assert_true(log_has(1));
	}
	vm_end();
}

/* The other thread's fault has given W back: there is nothing left to do. */
static void test_other_was_faster(void **state)
{
	const struct entry_format *f;

	(void)state;
	if (begin()) {
		f = &machine.vm->tdp_format;
		stored |= f->writable | f->dirty;
		assert_int_equal(write_after(1), QUIRE_SPURIOUS);
		assert_int_equal(exchanges, 1);
		assert_int_equal(fast_faults(), 0);
		assert_int_equal(*raced, stored);
	}
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lost_and_won),
	    cmocka_unit_test(test_given_up),
	    cmocka_unit_test(test_other_was_faster),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
