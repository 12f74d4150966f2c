/* Pairs: guest stores against what a kernel does to pages that go on showing the same bytes. */
#include <stdlib.h>

#include "hosts/sim/kernel.h"
#include "tests/sim/pairs.h"

#define TWIN (PAIR_PAGE + 1)

static void kernel_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
	pair.results[0] = pair_store(0, PAIR_PAGE, 1);
}

/* A vCPU stores twice, and the second store is what everybody sees afterwards. */
static int store_twice(void)
{
	return pair_store(0, PAIR_PAGE, 7) | pair_store(0, PAIR_PAGE, 8);
}

static void swap_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = store_twice();
		return;
	}
	(void)sim_swap_out(&pair.machine.host, PAIR_PAGE);
	pair.results[1] = pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

static void migrate_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = store_twice();
		return;
	}
	(void)sim_migrate(&pair.machine.host, PAIR_PAGE);
	pair.results[1] = pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

static bool kernel_check(void *ctx)
{
	uint8_t seen = pair.bytes[1], last = 0;
	bool good = !pair.results[0] && !pair.results[1] && (seen == 1 || seen == 7 || seen == 8);

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &last) && last == 8;
	return machine_stop(&pair.machine) && good;
}

/* Logging goes on meanwhile: the store is in the log, whatever became of the page. */
static void logged_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	pair.results[0] = pair_store(0, PAIR_PAGE, 1) | pair_harvest();
}

static bool logged_check(void *ctx)
{
	bool good = !pair_harvest() && pair_logged(PAIR_PAGE);

	return kernel_check(ctx) && good;
}

/* Small pages of one block become a huge one under the store. */
static void collapse_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	for (uint32_t page = 0; page < SIM_BLOCK; page++)
		sim_map(&pair.machine.host, page, SIM_WRITABLE | SIM_SMALL);
	pair.results[0] = pair_set_flags(SIM_BLOCK, 0) | pair_store(0, PAIR_PAGE, 1);
}

static void collapse_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = store_twice();
		return;
	}
	(void)sim_collapse(&pair.machine.host, 0);
	pair.results[1] = pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

/* And a huge one is mapped small again. */
static void split_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	pair.results[0] = pair_store(0, PAIR_PAGE, 1);
}

static void split_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = store_twice();
		return;
	}
	(void)sim_split(&pair.machine.host, 0);
	pair.results[1] = pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

/* Two pages alike get one frame while one of them is written. */
static void merge_setup(void *ctx)
{
	kernel_setup(ctx);
	pair.results[0] |= pair_store(0, TWIN, 1);
}

static void merge_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 8);
		return;
	}
	(void)sim_merge(&pair.machine.host, PAIR_PAGE, TWIN);
	pair.results[1] = pair_load(1, TWIN, &pair.bytes[1]);
}

/* Both are written at once: one gets a copy, the other the frame, or a copy too. */
static void copies_setup(void *ctx)
{
	merge_setup(ctx);
	if (!sim_merge(&pair.machine.host, PAIR_PAGE, TWIN))
		abort();
}

static void copies_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	pair.results[thread] = pair_store(thread, thread ? TWIN : PAIR_PAGE, (uint8_t)(8 + thread));
}

static bool copies_check(void *ctx)
{
	uint8_t first = 0, second = 0;
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &first) && !pair_load(0, TWIN, &second);
	return machine_stop(&pair.machine) && good && first == 8 && second == 9;
}

static bool merge_check(void *ctx)
{
	uint8_t first = 0, second = 0;
	bool good = !pair.results[0] && !pair.results[1] && pair.bytes[1] == 1;

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &first) && !pair_load(0, TWIN, &second);
	return machine_stop(&pair.machine) && good && first == 8 && second == 1;
}

const struct pair pairs_kernel[] = {
    {"store and swap-out", 2, kernel_setup, swap_body, kernel_check, 0},
    {"store and swap-out of a logged page", 2, logged_setup, swap_body, logged_check, 0},
    {"store and migration", 2, kernel_setup, migrate_body, kernel_check, 0},
    {"store and migration of a logged page", 2, logged_setup, migrate_body, logged_check, 0},
    {"store and collapse to a huge page", 2, collapse_setup, collapse_body, kernel_check, 0},
    {"store and split of a huge page", 2, split_setup, split_body, kernel_check, 0},
    {"store and merge of pages", 2, merge_setup, merge_body, merge_check, 0},
    {"store and store to merged pages", 2, copies_setup, copies_body, copies_check, 0},
    {.name = NULL},
};
