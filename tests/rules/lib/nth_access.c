/* The hypervisor's own accesses: reads, writes, places, pages in its hands. */
#include "tests/rules/lib/nth.h"

/* From the middle of a page into the next one. */
#define ACROSS (GPA + QUIRE_PAGE_SIZE - 4)

static uint8_t bytes[8];

static int vm_read(void)
{
	return quire_vm_read(nth.vm, (gpa_t){GPA + 8}, bytes, sizeof(bytes));
}

static int vm_write(void)
{
	memset(bytes, 0x31, sizeof(bytes));
	return quire_vm_write(nth.vm, (gpa_t){GPA + 8}, bytes, sizeof(bytes));
}

static int vm_write_across(void)
{
	memset(bytes, 0x32, sizeof(bytes));
	return quire_vm_write(nth.vm, (gpa_t){ACROSS}, bytes, sizeof(bytes));
}

static int vcpu_read(void)
{
	return quire_vcpu_read(nth.vcpu, (gpa_t){GPA + 8}, bytes, sizeof(bytes));
}

static int vcpu_write(void)
{
	memset(bytes, 0x33, sizeof(bytes));
	return quire_vcpu_write(nth.vcpu, (gpa_t){GPA + 8}, bytes, sizeof(bytes));
}

static int vcpu_write_across(void)
{
	memset(bytes, 0x34, sizeof(bytes));
	return quire_vcpu_write(nth.vcpu, (gpa_t){ACROSS}, bytes, sizeof(bytes));
}

/* --- places --- */

static int create_place(void)
{
	return quire_place_create(nth.vcpu, &nth.place);
}

static void need_place(void)
{
	need_root();
	assert_int_equal(create_place(), 0);
}

static int destroy_place(void)
{
	quire_place_destroy(nth.place);
	nth.place = NULL;
	return 0;
}

static int set_place(void)
{
	return quire_place_set(nth.place, (gpa_t){GPA + 16}, sizeof(bytes));
}

static void need_set_place(void)
{
	need_place();
	assert_int_equal(set_place(), 0);
}

static void need_logged_place(void)
{
	need_log();
	assert_int_equal(create_place(), 0);
	assert_int_equal(set_place(), 0);
}

static int check_place(void)
{
	return quire_place_check(nth.place);
}

static int read_place(void)
{
	return quire_place_read(nth.place, 0, bytes, sizeof(bytes));
}

static int write_place(void)
{
	memset(bytes, 0x35, sizeof(bytes));
	return quire_place_write(nth.place, 0, bytes, sizeof(bytes));
}

/* It is to be looked for anew. */
static void need_stale_place(void)
{
	const hva_t start = nth.machine->hva(0), end = nth.machine->hva(1);

	need_set_place();
	assert_int_equal(write_place(), 0);
	quire_vm_host_invalidate_begin(nth.vm, start, end);
	quire_vm_host_invalidate_end(nth.vm, start, end);
}

/* --- pages in its hands --- */

static int map_for(enum quire_map_kind kind)
{
	int error = quire_vcpu_map(nth.vcpu, (gpa_t){GPA}, kind, &nth.map);

	nth.is_mapped = !error;
	return error;
}

static int unmap(void)
{
	nth.is_mapped = 0;
	quire_vcpu_unmap(nth.vcpu, &nth.map);
	return 0;
}

static int map_to_write(void)
{
	int error = map_for(QUIRE_MAP_WRITE);

	return error ? error : unmap();
}

static int map_to_read(void)
{
	int error = map_for(QUIRE_MAP_READ);

	return error ? error : unmap();
}

static void need_map(void)
{
	need_log();
	assert_int_equal(map_for(QUIRE_MAP_WRITE), 0);
}

static int read_map(void)
{
	return quire_map_read(nth.vcpu, &nth.map, 8, bytes, sizeof(bytes));
}

static int write_map(void)
{
	memset(bytes, 0x36, sizeof(bytes));
	return quire_map_write(nth.vcpu, &nth.map, 8, bytes, sizeof(bytes));
}

const struct operation nth_access_operations[] = {
    {"quire_vm_read", 0, need_slot, vm_read},
    {"quire_vm_write", 0, need_slot, vm_write},
    {"quire_vm_write", 0, need_log, vm_write},
    {"quire_vm_write", NTH_KEEPS_PART, need_log, vm_write_across},
    {"quire_vcpu_read", 0, need_slot, vcpu_read},
    {"quire_vcpu_write", 0, need_slot, vcpu_write},
    {"quire_vcpu_write", NTH_RINGS, need_log, vcpu_write},
    {"quire_vcpu_write", NTH_SHADOWED, need_mapped, vcpu_write},
    {"quire_vcpu_write", NTH_KEEPS_PART, need_log, vcpu_write_across},
    {"quire_place_create", 0, need_root, create_place},
    {"quire_place_destroy", 0, need_set_place, destroy_place},
    {"quire_place_set", 0, need_place, set_place},
    {"quire_place_check", 0, need_set_place, check_place},
    {"quire_place_read", 0, need_set_place, read_place},
    {"quire_place_write", 0, need_set_place, write_place},
    {"quire_place_write", 0, need_stale_place, write_place},
    {"quire_place_write", 0, need_logged_place, write_place},
    {"quire_place_write", NTH_RINGS, need_logged_place, write_place},
    {"quire_vcpu_map", 0, need_root, map_to_write},
    {"quire_vcpu_map", 0, need_root, map_to_read},
    {"quire_vcpu_map", NTH_RINGS, need_log, map_to_write},
    {"quire_vcpu_unmap", 0, need_map, unmap},
    {"quire_map_read", 0, need_map, read_map},
    {"quire_map_write", 0, need_map, write_map},
    {"quire_map_write", NTH_RINGS, need_map, write_map},
    {NULL, 0, NULL, NULL},
};

/* --- what has no VM, and so no host that could fail --- */

static int install_no_trace(void)
{
	quire_trace_install(NULL);
	return 0;
}

static int install_no_timed_trace(void)
{
	quire_trace_install_timed(NULL);
	return 0;
}

/* Without a call: those that a process may do once, before there is a VM. */
const struct operation nth_plain_operations[] = {
    {"quire_trace_install", 0, NULL, install_no_trace},
    {"quire_trace_install_timed", 0, NULL, install_no_timed_trace},
    {"quire_platform_install", 0, NULL, NULL},
    {"quire_platform_forked", 0, NULL, NULL},
    {"quire_thread_register", 0, NULL, NULL},
    {NULL, 0, NULL, NULL},
};
