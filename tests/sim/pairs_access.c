/* Pairs: the hypervisor's own accesses, aging and the NX workaround against what changes memory. */
#include <errno.h>
#include <stdlib.h>

#include <quire/place.h>
#include <quire/stats.h>

#include "src/access/pfn_cache.h"
#include "src/base/reclaim.h"
#include "src/base/section.h"
#include "src/tdp/tdp.h"
#include "tests/sim/pairs.h"

static struct pfn_cache cache;

static void start(void)
{
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
}

static void cache_setup(void *ctx)
{
	(void)ctx;
	start();
	pfn_cache_init(&cache, pair.machine.vm);
	if (pfn_cache_activate_gpa(&cache, (gpa_t){PAIR_GPA}, 8))
		abort();
}

static void cold_cache_setup(void *ctx)
{
	(void)ctx;
	start();
	pfn_cache_init(&cache, pair.machine.vm);
}

/* Use what the cache shows, or make it show something first: a store through its frame. */
static int store_through_cache(uint8_t value)
{
	uint32_t offset;
	pfn_t pfn;
	int err;

	while (!pfn_cache_lock(&cache, 8, &pfn, &offset)) {
		err = cache.active ? pfn_cache_refresh(&cache, 8)
				   : pfn_cache_activate_gpa(&cache, (gpa_t){PAIR_GPA}, 8);
		if (err)
			return err;
	}
	sched_yield_point();
	((uint8_t *)(uintptr_t)(pfn.v << QUIRE_PAGE_SHIFT))[offset] = value;
	pfn_cache_unlock(&cache);
	return 0;
}

static void cache_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = store_through_cache(7);
	else
		pair.frame = pair_host_replace(PAIR_PAGE);
}

/* Nothing was stored in the frame that the host took, and the cache shows the new one. */
static bool cache_check(void *ctx)
{
	/* While the page is away there is none to show. */
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && pair_untouched(pair.frame);

	(void)ctx;
	good &= !store_through_cache(9) && pair_byte(PAIR_PAGE)[0] == 9;
	pfn_cache_deactivate(&cache);
	return machine_stop(&pair.machine) && good;
}

/* The slot is deleted, or another comes: the cache notices by the generation. */
static void cache_slot_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = store_through_cache(7);
	else
		pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
}

static bool cache_slot_check(void *ctx)
{
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && !pair.results[1];

	(void)ctx;
	good &= store_through_cache(9) == -EFAULT && pair_byte(PAIR_PAGE)[0] != 9;
	pfn_cache_deactivate(&cache);
	return machine_stop(&pair.machine) && good;
}

/* The library writes a page while its log is harvested: as a guest's write, it is in one harvest
 * or the next. */
static void own_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(QUIRE_SLOT_LOG_DIRTY);
	if (pair_store(0, PAIR_PAGE, 1) || pair_harvest())
		abort();
}

static int own_write(uint64_t gpa, uint8_t value)
{
	return quire_vm_write(pair.machine.vm, (gpa_t){gpa}, &value, 1);
}

static void own_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = own_write(PAIR_GPA, 2);
		return;
	}
	pair.results[1] = pair_harvest();
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

/*
 * The same while another page of the same word is named, and no vCPU is in guest mode: the harvest
 * takes whole words with plain stores, and must not take our mark with them.
 */
static struct quire_map own_map;

static void own_alone_setup(void *ctx)
{
	own_setup(ctx);
	if (pair_store(0, 2, 1))
		abort();
}

static void own_mapped_setup(void *ctx)
{
	own_alone_setup(ctx);
	if (quire_vcpu_map(pair.machine.vcpus[0], gpa_of((gfn_t){PAIR_PAGE}), QUIRE_MAP_WRITE,
			   &own_map))
		abort();
}

static void own_vcpu_body(uint32_t thread, void *ctx)
{
	const uint8_t value = 2;

	if (thread)
		own_body(thread, ctx);
	else
		pair.results[0] =
		    quire_vcpu_write(pair.machine.vcpus[0], (gpa_t){PAIR_GPA}, &value, 1);
}

static void own_mapped_body(uint32_t thread, void *ctx)
{
	if (thread) {
		own_body(thread, ctx);
		return;
	}
	*(uint8_t *)(uintptr_t)(own_map.page.pfn.v << QUIRE_PAGE_SHIFT) = 2;
	quire_vcpu_unmap(pair.machine.vcpus[0], &own_map);
	pair.results[0] = 0;
}

/* CLEAR that names the other page, and the whole range. */
static void own_clear_setup(void *ctx)
{
	own_alone_setup(ctx);
	if (quire_vm_set_manual_protect(pair.machine.vm, 1))
		abort();
}

static void own_clear_body(uint32_t thread, void *ctx)
{
	const uint64_t words[] = {UINT64_C(1) << 2};

	if (thread)
		pair.results[1] = pair_clear(0, 4, words);
	else
		own_body(thread, ctx);
}

static bool own_clear_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_harvest();

	(void)ctx;
	good &= pair_logged(PAIR_PAGE) && !pair_logged(2);
	return machine_stop(&pair.machine) && good;
}

/* A vCPU that is in guest mode is waited for with mmu_lock held, and not for ever. */
static void own_replace_body(uint32_t thread, void *ctx)
{
	if (thread == 0)
		own_vcpu_body(0, ctx);
	else if (thread == 1)
		pair.results[1] = pair_store(1, 2, 3);
	else
		pair.frame = pair_host_replace(PAIR_PAGE);
}

static bool own_replace_check(void *ctx)
{
	/* While the page is away there is nowhere to write. */
	bool good = !pair.results[0] || pair.results[0] == -EFAULT;

	(void)ctx;
	good &= !pair.results[1] && pair_untouched(pair.frame) && !pair_harvest();
	good &= pair_logged(2) && (pair.results[0] || pair_logged(PAIR_PAGE));
	return machine_stop(&pair.machine) && good;
}

static bool own_check(void *ctx)
{
	bool first = pair_logged(PAIR_PAGE), good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= pair_harvest() == 0;
	good &= pair_logged(PAIR_PAGE) || (first && pair.bytes[1] == 2);
	return machine_stop(&pair.machine) && good;
}

/* And while its slot goes: it is done and in the page, or refused. */
static void own_slot_setup(void *ctx)
{
	(void)ctx;
	start();
}

static void own_slot_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = own_write(PAIR_GPA, 7);
		return;
	}
	pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool own_slot_check(void *ctx)
{
	bool good = !pair.results[1] && pair_byte(PAIR_PAGE)[0] == (pair.results[0] ? 0 : 7);

	(void)ctx;
	/* What was the slot's is the client's again, for whatever it likes. */
	good &= pair_byte(PAIR_PAGE)[0] == pair.bytes[1];
	good &=
	    (!pair.results[0] || pair.results[0] == -EFAULT) && own_write(PAIR_GPA, 9) == -EFAULT;
	return machine_stop(&pair.machine) && good;
}

/* And while the slot moves, with its log: the log hears of it. */
static void own_move_body(uint32_t thread, void *ctx)
{
	struct quire_region there = {.flags = QUIRE_SLOT_LOG_DIRTY,
				     .gpa = {PAIR_GPA_OF(16)},
				     .size_bytes = 4 * QUIRE_PAGE_SIZE,
				     .hva = sim_hva(0)};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = own_write(PAIR_GPA, 2);
	else
		pair.results[1] = quire_vm_set_region(pair.machine.vm, &there);
}

static bool own_move_check(void *ctx)
{
	bool good = !pair.results[1] && pair_harvest() == 0;

	(void)ctx;
	good &= pair_byte(PAIR_PAGE)[0] == (pair.results[0] ? 1 : 2);
	good &= pair_logged(PAIR_PAGE) == !pair.results[0];
	return machine_stop(&pair.machine) && good;
}

/* The same through a shared place of hypervisor and guest. */
static struct quire_place *place;

static void place_setup(void *ctx)
{
	uint8_t byte = 0;

	(void)ctx;
	start();
	if (quire_place_create(pair.machine.vcpus[0], &place) ||
	    quire_place_set(place, (gpa_t){PAIR_GPA}, 1) || quire_place_write(place, 0, &byte, 1))
		abort();
}

static void place_body(uint32_t thread, void *ctx)
{
	uint8_t byte = 7;

	(void)ctx;
	if (thread == 0) {
		pair.results[0] = quire_place_write(place, 0, &byte, 1);
		return;
	}
	pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool place_check(void *ctx)
{
	uint8_t byte = 9;
	bool good = !pair.results[1] && pair_byte(PAIR_PAGE)[0] == (pair.results[0] ? 0 : 7);

	(void)ctx;
	good &= pair_byte(PAIR_PAGE)[0] == pair.bytes[1];
	good &= !pair.results[0] || pair.results[0] == -EFAULT;
	good &= quire_place_write(place, 0, &byte, 1) == -EFAULT;
	quire_place_destroy(place);
	return machine_stop(&pair.machine) && good;
}

/* A section that may sleep, and a thread that waits twice: what is unlinked before the second wait
 * is free after it, even if the section began while the first went on. */
static struct long_sections sections;
static uint32_t object, freed, used_freed;

static void section_setup(void *ctx)
{
	(void)ctx;
	start();
	sections = (struct long_sections){0};
	object = 1;
	freed = used_freed = 0;
}

/* The section has read the turn before the first wait, and joins late. */
static void section_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 1) {
		uint32_t seen;

		(void)atomic_fetch_add_u32(&sections.inside[0], 1);
		seen = object;
		sched_yield_point();
		used_freed = seen && freed;
		long_section_leave(&sections, 0);
		return;
	}
	long_sections_wait(&sections);
	object = 0;
	long_sections_wait(&sections);
	freed = 1;
}

static bool section_check(void *ctx)
{
	(void)ctx;
	return machine_stop(&pair.machine) && !used_freed && !sections.inside[0] &&
	       !sections.inside[1];
}

/* Aging while the host takes the page away: what is gone does not come back. */
static void age_setup(void *ctx)
{
	(void)ctx;
	start();
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static int age(enum quire_age kind)
{
	return quire_vm_age(pair.machine.vm, sim_hva(PAIR_PAGE), sim_hva(PAIR_PAGE + 1), kind);
}

static void age_replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = age(QUIRE_AGE_CLEAR);
	else
		pair.frame = pair_host_replace(PAIR_PAGE);
}

static bool age_replace_check(void *ctx)
{
	bool good = pair_untouched(pair.frame) && age(QUIRE_AGE_TEST) == 0;

	(void)ctx;
	good &= quire_vm_stat(pair.machine.vm, QUIRE_VM_STAT_pages_4k) == 0;
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	return machine_stop(&pair.machine) && good;
}

/* Aging while all roots go: no table is walked after its end. */
static void age_slot_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = age(QUIRE_AGE_CLEAR);
	else
		pair.results[1] = machine_add_slot(&pair.machine, 0, 0, 0);
}

static bool age_slot_check(void *ctx)
{
	bool good = !pair.results[1] && age(QUIRE_AGE_TEST) == 0;

	(void)ctx;
	return machine_stop(&pair.machine) && good;
}

/* Aging while a vCPU writes: A may be lost, D and the write may not. */
static void age_store_setup(void *ctx)
{
	(void)ctx;
	own_setup(ctx);
}

static void age_store_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 2);
	else
		pair.results[1] = age(QUIRE_AGE_CLEAR);
}

static bool age_store_check(void *ctx)
{
	bool good = !pair.results[0] && pair_byte(PAIR_PAGE)[0] == 2 && !pair_harvest();

	(void)ctx;
	good &= pair_logged(PAIR_PAGE);
	good &= !pair_store(0, PAIR_PAGE, 3) && !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* The NX workaround: a vCPU executes in a huge page while recovery takes its small ones away, and
 * while the workaround itself comes and goes. */
static void nx_setup(void *ctx)
{
	uint8_t byte;

	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	quire_vm_set_nx_huge_pages(pair.machine.vm, 1);
	if (machine_fetch(&pair.machine, 0, PAIR_GPA, &byte))
		abort();
}

static void nx_off_setup(void *ctx)
{
	uint8_t byte;

	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	if (machine_fetch(&pair.machine, 0, PAIR_GPA, &byte))
		abort();
}

static void fetch(uint32_t thread, uint64_t page)
{
	pair.results[thread] =
	    machine_fetch(&pair.machine, thread, PAIR_GPA_OF(page), &pair.bytes[thread]);
}

static void nx_recover_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		fetch(0, 5);
	else
		pair.results[1] = quire_vm_recover_nx_pages(pair.machine.vm, 1) > 1;
}

static void nx_switch_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		fetch(0, 5);
	else
		quire_vm_set_nx_huge_pages(pair.machine.vm, 1);
}

/* While it is on, nothing huge is executable, and the list is the tables that keep it so. */
static bool nx_check(void *ctx)
{
	struct quire_vm *vm = pair.machine.vm;
	const struct entry_format *f = &vm->tdp_format;
	bool good = !pair.results[0] && pair.results[1] != 1;
	uint64_t splits = quire_vm_stat(vm, QUIRE_VM_STAT_nx_lpage_splits);
	uint32_t level;
	uint64_t entry = f->nonpresent;

	(void)ctx;
	reclaim_enter();
	if (vm->roots.valid[0])
		entry = *tdp_find(vm, vm->roots.valid[0], (gfn_t){5}, &level);
	reclaim_leave();
	if (entry_is_present(f, entry) && entry_is_leaf(f, entry, level))
		good &= level == QUIRE_LEVEL_4K || !entry_is_executable(f, entry);
	good &= splits <= 1;
	fetch(0, 6);
	good &= !pair.results[0] && quire_vm_stat(vm, QUIRE_VM_STAT_pages_2m) == 0;
	good &= quire_vm_stat(vm, QUIRE_VM_STAT_nx_lpage_splits) == 1;
	good &= quire_vm_recover_nx_pages(vm, 1) == 1;
	return machine_stop(&pair.machine) && good;
}

/* The block starts to log: its tables stay, or go before they are protected. */
static void nx_log_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = quire_vm_recover_nx_pages(pair.machine.vm, 1) > 1;
	else
		pair.results[1] = pair_set_flags(SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
}

static bool nx_log_check(void *ctx)
{
	struct quire_vm *vm = pair.machine.vm;
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= quire_vm_stat(vm, QUIRE_VM_STAT_pages_2m) == 0;
	good &= !pair_harvest() && !pair_store(0, 5, 7) && !pair_store(1, PAIR_PAGE, 7);
	good &= !pair_harvest() && pair_logged(5) && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* Reading and executing in one block at once: small pages for both, or huge ones cut. */
static void nx_read_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		fetch(0, 5);
	else
		pair.results[1] = pair_load(1, 9, &pair.bytes[1]);
}

static void nx_cold_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map_huge(0);
	quire_vm_set_nx_huge_pages(pair.machine.vm, 1);
}

/* A fast fault while the page goes: W does not come back. */
static void fast_replace_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.frame = pair_host_replace(PAIR_PAGE);
}

static bool fast_replace_check(void *ctx)
{
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && pair_untouched(pair.frame);

	(void)ctx;
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	good &= !pair_harvest() && pair_logged(PAIR_PAGE);
	return machine_stop(&pair.machine) && good;
}

/* Private pages are filled before the guest runs, while a punch takes them away: whole pages, in
 * either order, and what is punched afterwards is gone. */
static void fill_setup(void *ctx)
{
	(void)ctx;
	pair_start_private();
}

static int64_t fill_page(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	sched_yield_point();
	*(uint8_t *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT) = 7;
	return 1;
}

static void fill_body(uint32_t thread, void *ctx)
{
	struct quire_gmem_fill request = {.gfn = {PAIR_PAGE}, .npages = 1, .fill = fill_page};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = (int)quire_gmem_populate(pair.machine.vm, &request);
	else
		pair.results[1] = quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
}

static bool fill_check(void *ctx)
{
	bool good = pair.results[0] == 1 && !pair.results[1];

	(void)ctx;
	for (uint32_t frame = 0; frame < 16; frame++)
		good &= pair.machine.host.frames[frame].references || pair_untouched(frame) ||
			!pair.machine.host.frames[frame].bytes[0];
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]);
	good &= pair.bytes[0] == 0 || pair.bytes[0] == 7;
	good &= !quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
	good &= !pair_load(1, PAIR_PAGE, &pair.bytes[1]) && pair.bytes[1] == 0;
	quire_gmem_release(pair.gmem);
	return machine_stop(&pair.machine) && good;
}

const struct pair pairs_access[] = {
    {"pfn cache and host invalidation", 2, cache_setup, cache_body, cache_check, 0},
    {"activation of a pfn cache and host invalidation", 2, cold_cache_setup, cache_body,
     cache_check, 0},
    {"pfn cache and slot deletion", 2, cache_setup, cache_slot_body, cache_slot_check, 0},
    {"own write and harvest", 2, own_setup, own_body, own_check, 0},
    {"own write and harvest of its word", 2, own_alone_setup, own_body, own_check, 0},
    {"own write of a vCPU and harvest of its word", 2, own_alone_setup, own_vcpu_body, own_check,
     0},
    {"mapped page given back and harvest of its word", 2, own_mapped_setup, own_mapped_body,
     own_check, 0},
    {"own write and CLEAR of its neighbour", 2, own_clear_setup, own_clear_body, own_clear_check,
     0},
    {"own write, store and host invalidation", 2, own_setup, own_replace_body, own_replace_check,
     3},
    {"own write and slot deletion", 2, own_slot_setup, own_slot_body, own_slot_check, 0},
    {"own write and slot move", 2, own_setup, own_move_body, own_move_check, 0},
    {"write of a shared place and slot deletion", 2, place_setup, place_body, place_check, 0},
    {"long section and two waits", 2, section_setup, section_body, section_check, 0},
    {"aging and host invalidation", 2, age_setup, age_replace_body, age_replace_check, 0},
    {"aging and slot deletion", 2, age_setup, age_slot_body, age_slot_check, 0},
    {"aging and fast fault", 2, age_store_setup, age_store_body, age_store_check, 0},
    {"fetch and NX recovery", 2, nx_setup, nx_recover_body, nx_check, 0},
    {"fetch and NX switched on", 2, nx_off_setup, nx_switch_body, nx_check, 0},
    {"NX recovery and start of logging", 2, nx_setup, nx_log_body, nx_log_check, 0},
    {"fetch and load of one huge page", 2, nx_cold_setup, nx_read_body, nx_check, 0},
    {"populate and punch", 2, fill_setup, fill_body, fill_check, 0},
    {"fast fault and host invalidation", 2, own_setup, fast_replace_body, fast_replace_check, 0},
    {.name = NULL},
};
