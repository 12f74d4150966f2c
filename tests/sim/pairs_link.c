/* Pairs: two VMs, each with a file of the same guest_memfd pages. */
#include <errno.h>
#include <stdlib.h>

#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
#include "tests/sim/pairs.h"

static struct machine second; /* beside pair.machine, on its host */
static struct quire_gmem *linked;

static int link_file(void)
{
	return quire_gmem_link(pair.gmem, second.vm, &linked);
}

/* The second VM shows the pages where the first does. */
static int show_link(void)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM,
	    .size_bytes = 4 * QUIRE_PAGE_SIZE,
	    .hva = sim_hva(0),
	    .gmem = linked,
	};
	int error = quire_vm_set_region(second.vm, &region);

	return error ? error
		     : quire_vm_set_attributes(second.vm, (gpa_t){0}, region.size_bytes,
					       QUIRE_ATTRIBUTE_PRIVATE);
}

static int other_store(uint8_t byte)
{
	return machine_store(&second, 0, PAIR_GPA, byte);
}

static int other_load(uint8_t *byte)
{
	return machine_load(&second, 1, PAIR_GPA, byte);
}

static void unlinked_setup(void *ctx)
{
	(void)ctx;
	pair_start_private();
	machine_start_second(&second, &pair.machine);
	linked = NULL;
}

static void linked_setup(void *ctx)
{
	unlinked_setup(ctx);
	if (link_file() || show_link())
		abort();
}

/* Both VMs have mapped the page. */
static void mapped_setup(void *ctx)
{
	uint8_t byte;

	linked_setup(ctx);
	if (pair_store(0, PAIR_PAGE, 1) || other_load(&byte) || byte != 1)
		abort();
}

static bool link_stop(bool good)
{
	if (pair.gmem)
		quire_gmem_release(pair.gmem);
	if (linked)
		quire_gmem_release(linked);
	good &= machine_is_sound(&second);
	machine_end_vm(&second);
	return machine_stop(&pair.machine) && good;
}

/* A punch by one VM's file, under the other VM's store. */
static void punch_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = other_store(7);
	else
		pair.results[1] = quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
}

static bool punch_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair_frees_unwritten();

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &pair.bytes[0]) && !other_load(&pair.bytes[1]);
	good &= pair.bytes[0] == pair.bytes[1] && (pair.bytes[0] == 0 || pair.bytes[0] == 7);
	return link_stop(good);
}

/* Both VMs are the first to use the page. */
static void both_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	pair.results[thread] = thread ? other_store(7) : pair_store(0, PAIR_PAGE, 7);
}

static bool both_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 7;
	good &= !other_store(9) && !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 9;
	return link_stop(good);
}

/* The first file goes under the second VM's store, and takes its own view alone. */
static void release_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = other_store(7);
	else
		quire_gmem_release(pair.gmem);
}

static bool release_check(void *ctx)
{
	bool good = !pair.results[0] && pair_frees_unwritten();

	(void)ctx;
	pair.gmem = NULL;
	good &= pair_load(0, PAIR_PAGE, &pair.bytes[0]) == -EFAULT;
	good &= !other_load(&pair.bytes[1]) && pair.bytes[1] == 7;
	return link_stop(good);
}

/* Both files go at once: the pages go once, with the last. */
static void release_both_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	quire_gmem_release(thread ? linked : pair.gmem);
}

static bool release_both_check(void *ctx)
{
	(void)ctx;
	pair.gmem = linked = NULL;
	return link_stop(pair_load(0, PAIR_PAGE, &pair.bytes[0]) == -EFAULT);
}

/* The page is linked while the first VM makes it private: afterwards it is no VM's. */
static void link_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.results[1] = link_file();
}

static bool link_check(void *ctx)
{
	uint32_t frame = sim_store_frame(quire_gmem_store(pair.gmem), PAIR_PAGE);
	uintptr_t address = (uintptr_t)pair.machine.host.frames[frame].bytes;
	bool good = !pair.results[0] && !pair.results[1] &&
		    rmp_is_free(pair.machine.vm->rmp, (pfn_t){address >> QUIRE_PAGE_SHIFT});

	(void)ctx;
	good &= !show_link() && !other_load(&pair.bytes[1]) && pair.bytes[1] == 7;
	return link_stop(good);
}

/* The page is lost under both. */
static void poison_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = other_store(7);
	else
		quire_gmem_poison(pair.gmem, PAIR_PAGE);
}

static bool poison_check(void *ctx)
{
	bool good = !pair.results[0] || pair.results[0] == -EHWPOISON;

	(void)ctx;
	good &= pair_load(0, PAIR_PAGE, &pair.bytes[0]) == -EHWPOISON;
	good &= other_load(&pair.bytes[1]) == -EHWPOISON;
	return link_stop(good);
}

const struct pair pairs_link[] = {
    {"fault and another file's punch", 2, linked_setup, punch_body, punch_check, 0},
    {"store and another file's punch", 2, mapped_setup, punch_body, punch_check, 0},
    {"first use by two VMs", 2, linked_setup, both_body, both_check, 0},
    {"store and another file's release", 2, mapped_setup, release_body, release_check, 0},
    {"release of both files", 2, mapped_setup, release_both_body, release_both_check, 0},
    {"fault and link", 2, unlinked_setup, link_body, link_check, 0},
    {"store and another file's poison", 2, mapped_setup, poison_body, poison_check, 0},
    {.name = NULL},
};
