/*
 * Takes one of the walks of docs/ARCHITECTURE.md over the simulated host, with the library built to
 * tell of each call, and prints the calls: 'depth address', one a line, in the order of entry.
 * Usage: walk-trace fault | invalidation | clear | nested-fault | conversion | in-place
 */
#include <stdio.h>

#include "tests/unit/gmem/support.h"

#define CALLS_MAX 65536u

static struct {
	void *function;
	unsigned int depth;
} calls[CALLS_MAX];
static unsigned int call_count, depth;
static bool records;

/* Where the program begins: addresses are printed as its symbols have them. */
extern const char __executable_start[];

/* The compiler calls these two around each function of the library. */
void __cyg_profile_func_enter(void *function, void *caller);
void __cyg_profile_func_exit(void *function, void *caller);

void __cyg_profile_func_enter(void *function, void *caller)
{
	if (!records)
		return;
	if (call_count < CALLS_MAX) {
		calls[call_count].function = function;
		calls[call_count].depth = depth;
	}
	call_count++;
	depth++;
}

void __cyg_profile_func_exit(void *function, void *caller)
{
	if (records)
		depth--;
}

/* The guest's first write to a page. */
static void take_fault(void)
{
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, 0);
	records = true;
	store(3, 1);
	records = false;
	vm_end();
}

/* The host takes a page that the guest uses. */
static void take_invalidation(void)
{
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, 0);
	store(3, 1);
	records = true;
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(3), sim_hva(4));
	records = false;
	sim_unmap(&machine.host, 3);
	records = true;
	quire_vm_host_invalidate_end(machine.vm, sim_hva(3), sim_hva(4));
	records = false;
	vm_end();
}

/* The client clears the bits of pages that the guest has written. */
static void take_clear(void)
{
	vm_begin();
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, 1), 0);
	map_pages(0, 64, SIM_WRITABLE);
	add_slot(0, 64, QUIRE_SLOT_LOG_DIRTY);
	store(3, 1);
	store(40, 1);
	store(60, 1);
	records = true;
	log_clear(0, 64, UINT64_MAX);
	records = false;
	vm_end();
}

#define TABLE_PAGES 4u
#define ENTRY_ALL UINT64_C(0x27) /* present, writable, user, accessed */

static void set_entry(uint32_t page, uint64_t entry)
{
	memcpy(frame_of(page)->bytes, &entry, sizeof(entry));
}

/* L2 writes where L1's tables, in gfns 0 to 3, lead: to gfn 5. */
static void take_nested_fault(void)
{
	const struct quire_nested tables = {.levels = 4, .nx = 1, .wp = 1};

	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, 0);
	for (uint32_t page = 0; page < TABLE_PAGES; page++)
		memset(frame_of(page)->bytes, 0, QUIRE_PAGE_SIZE);
	for (uint32_t page = 0; page < TABLE_PAGES - 1; page++)
		set_entry(page, PAGES(page + 1) | ENTRY_ALL);
	set_entry(TABLE_PAGES - 1, PAGES(5) | ENTRY_ALL);
	assert_int_equal(quire_vcpu_set_nested(machine.vcpus[0], &tables), 0);
	records = true;
	store(0, 1);
	records = false;
	assert_int_equal(frame_of(5)->bytes[0], 1);
	assert_int_equal(quire_vcpu_set_nested(machine.vcpus[0], NULL), 0);
	assert_int_equal(quire_vm_set_region(machine.vm, &(struct quire_region){.slot = 0}), 0);
	vm_end();
}

/* A private page that the guest uses becomes shared. */
static void take_conversion(void)
{
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, 0, 8);
	store(3, 1);
	records = true;
	convert(3, 1, 0);
	records = false;
	gmem_end();
}

/* A private page that the guest uses becomes shared, in a file that owns its attributes. */
static void take_in_place(void)
{
	struct quire_gmem_conversion request = {
	    .offset_bytes = PAGES(3),
	    .size_bytes = QUIRE_PAGE_SIZE,
	};

	machine.in_place = 1;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, 0, 8);
	store(3, 1);
	records = true;
	assert_int_equal(quire_gmem_set_attributes(gmem, &request), 0);
	records = false;
	gmem_end();
	machine.in_place = 0;
}

/* A page that the guest uses is punched out of its file. */
static void take_punch(void)
{
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, 0, 8);
	store(3, 1);
	records = true;
	punch(3, 1);
	records = false;
	gmem_end();
}

static const struct {
	const char *name;
	void (*take)(void);
} walks[] = {
    {"fault", take_fault},	     {"invalidation", take_invalidation},
    {"clear", take_clear},	     {"nested-fault", take_nested_fault},
    {"conversion", take_conversion}, {"in-place", take_in_place},
    {"punch", take_punch},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < sizeof(walks) / sizeof(walks[0]); i++) {
		if (strcmp(argv[1], walks[i].name))
			continue;
		machine_init(&machine);
		walks[i].take();
		machine_destroy(&machine);
		for (unsigned int at = 0; at < call_count && at < CALLS_MAX; at++)
			printf("%u %#tx\n", calls[at].depth,
			       (const char *)calls[at].function - __executable_start);
		return call_count > CALLS_MAX;
	}
	fprintf(stderr, "usage: walk-trace "
			"fault|invalidation|clear|nested-fault|conversion|in-place|punch\n");
	return 2;
}
