/* Pairs: leaves that were aged, which without A bits have lost their rights, against what uses,
 * changes and takes them. */
#include <errno.h>
#include <stdlib.h>

#include <quire/stats.h>

#include "tests/sim/pairs.h"
#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

static int age(uint32_t page)
{
	return quire_vm_age(pair.machine.vm, sim_hva(page), sim_hva(page + 1), QUIRE_AGE_CLEAR);
}

/* The leaf of @page as the tables have it, 0 without one. */
static uint64_t leaf_at(uint64_t page)
{
	const struct quire_vm *vm = pair.machine.vm;
	uint64_t entry;
	uint32_t level;

	if (!vm->roots.valid[0])
		return 0;
	reclaim_enter();
	entry = *tdp_find(pair.machine.vm, vm->roots.valid[0], (gfn_t){page}, &level);
	reclaim_leave();
	return entry_is_present(&vm->tdp_format, entry) ? entry : 0;
}

static uint64_t young; /* PAIR_PAGE's leaf after a store */

static void used_setup(uint32_t flags)
{
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(flags);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
	young = leaf_at(PAIR_PAGE);
}

/* Aged, and vCPU 0 looks at the tables at its next access. */
static void forget(uint32_t page)
{
	if (!age(page))
		abort();
	quire_vcpu_request(pair.machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
}

static void old_setup(void *ctx)
{
	(void)ctx;
	used_setup(0);
	forget(PAIR_PAGE);
}

/* The other direction: nothing is aged yet, and the vCPU must walk. */
static void flushed_setup(void *ctx)
{
	(void)ctx;
	used_setup(0);
	quire_vcpu_request(pair.machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
}

static void fetch_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = machine_fetch(&pair.machine, 0, PAIR_GPA, &pair.bytes[0]);
	else
		pair.results[1] = age(PAIR_PAGE) > 1;
}

/* What aging took is there again after a read and a write, all of it. */
static bool comes_back(void)
{
	uint64_t word;
	bool good = true;

	for (uint32_t i = 0; i < 2; i++) {
		good &= !pair_load(i, PAIR_PAGE, &pair.bytes[i]) && pair.bytes[i] == 1;
		quire_vcpu_request(pair.machine.vcpus[i], QUIRE_REQ_TLB_FLUSH);
		good &= !pair_load(i, PAIR_PAGE, &pair.bytes[i]) && pair.bytes[i] == 1;
	}
	quire_vcpu_request(pair.machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	word = leaf_at(PAIR_PAGE);
	return good && word == young && quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_4k) == 1;
}

static bool use_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair.bytes[0] == 1 && comes_back();

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* One vCPU reads an old page while another writes it. */
static void two_uses_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_load(0, PAIR_PAGE, &pair.bytes[0]);
	else
		pair.results[1] = machine_store(&pair.machine, 1, PAIR_GPA + 1, 2);
}

static bool two_uses_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair.bytes[0] == 1 &&
		    pair_byte(PAIR_PAGE)[1] == 2 && leaf_at(PAIR_PAGE) == young && comes_back();

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* The host takes the page of an old leaf that is just being used. */
static void replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.frame = pair_host_replace(PAIR_PAGE);
}

static bool replace_check(void *ctx)
{
	uint8_t now = pair_byte(PAIR_PAGE)[0];
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && (now == 0 || now == 7);

	(void)ctx;
	good &= pair_untouched(pair.frame);
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* The entry has no W any more, vCPU 0 has it: what it writes after a harvest is in the next. */
static void logged_setup(void *ctx)
{
	(void)ctx;
	used_setup(QUIRE_SLOT_LOG_DIRTY);
	if (!age(PAIR_PAGE))
		abort();
}

static void read_again_setup(void *ctx)
{
	logged_setup(ctx);
	if (pair_load(1, PAIR_PAGE, &pair.bytes[1]))
		abort();
}

static void harvest_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
		return;
	}
	pair.results[1] = pair_harvest();
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool harvest_check(void *ctx)
{
	bool first = pair_logged(PAIR_PAGE), good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= first && !pair_harvest();
	good &= pair_logged(PAIR_PAGE) || pair.bytes[1] == 2;
	good &= !pair_store(0, PAIR_PAGE, 4) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* An old huge leaf is used while logging splits it, and old small ones while its end joins them. */
static void huge_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	if (pair_store(0, 5, 1))
		abort();
	forget(5);
}

static void late_split_setup(void *ctx)
{
	pair.machine.tunables.eager_page_split = 0;
	huge_setup(ctx);
}

static void split_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, 5, 2);
	else
		pair.results[1] = pair_set_flags(SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
}

static bool split_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair_byte(5)[0] == 2;

	(void)ctx;
	good &= !pair_harvest() && !pair_store(0, 5, 3) && !pair_store(0, 6, 3);
	good &= !pair_harvest() && pair_logged(5) && pair_logged(6) && !pair_logged(7);
	return machine_stop(&pair.machine) && good;
}

static void join_setup(void *ctx)
{
	huge_setup(ctx);
	if (pair_set_flags(SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY))
		abort();
}

static void join_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, 5, 2);
	else
		pair.results[1] = pair_set_flags(SIM_BLOCK, 0);
}

static bool join_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair_byte(5)[0] == 2;

	(void)ctx;
	good &= quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_2m) == 1;
	good &= !pair_store(0, 6, 3) && pair_byte(6)[0] == 3;
	return machine_stop(&pair.machine) && good;
}

/* The NX workaround: a fetch splits a huge leaf while it is aged. */
static void nx_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	quire_vm_set_nx_huge_pages(pair.machine.vm, 1);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static bool nx_check(void *ctx)
{
	struct quire_vm *vm = pair.machine.vm;
	bool good = !pair.results[0] && !pair.results[1] && pair.bytes[0] == 1;

	(void)ctx;
	good &= quire_vm_stat(vm, QUIRE_VM_STAT_nx_lpage_splits) == 1;
	good &= entry_may_execute(&vm->tdp_format, leaf_at(7));
	good &= !machine_fetch(&pair.machine, 1, PAIR_GPA_OF(7), &pair.bytes[1]);
	return machine_stop(&pair.machine) && good;
}

const struct pair pairs_age[] = {
    {"aging and a fetch", 2, flushed_setup, fetch_body, use_check, 0},
    {"aging and a fetch of what is old", 2, old_setup, fetch_body, use_check, 0},
    {"two uses of an old page", 2, old_setup, two_uses_body, two_uses_check, 0},
    {"use of an old page and host invalidation", 2, old_setup, replace_body, replace_check, 0},
    {"store through a kept W and harvest", 2, logged_setup, harvest_body, harvest_check, 0},
    {"store after another's read and harvest", 2, read_again_setup, harvest_body, harvest_check, 0},
    {"use of an old huge page and split", 1, huge_setup, split_body, split_check, 0},
    {"use of an old huge page, which logging keeps", 1, late_split_setup, split_body, split_check,
     0},
    {"use of old pages and their recovery", 1, join_setup, join_body, join_check, 0},
    {"aging and the split for a fetch", 1, nx_setup, fetch_body, nx_check, 0},
    {.name = NULL},
};
