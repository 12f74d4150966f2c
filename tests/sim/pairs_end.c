/* Pairs: the end of a VM against threads that still use it. */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/pairs.h"

/* A notifier of the host's changes has a reference to the VM of its own. */
static void notifier_setup(void *ctx)
{
	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	pair_map(0);
	if (pair_store(0, PAIR_PAGE, 1) || pair_store(1, PAIR_PAGE, 1))
		abort();
	quire_vm_get(pair.machine.vm);
}

/* The vCPUs store once more and go, and the VM with them; or with the end of the invalidation. */
static void notifier_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		machine_end_vm(&pair.machine);
		return;
	}
	pair.frame = pair_host_replace(PAIR_PAGE);
	quire_vm_put(pair.machine.vm);
}

static bool notifier_check(void *ctx)
{
	uint8_t now = pair_byte(PAIR_PAGE)[0];
	/* Between begin and end there is no page: the store may be refused. */
	bool good = (!pair.results[0] || pair.results[0] == -EFAULT) && (now == 0 || now == 7) &&
		    pair_untouched(pair.frame);

	(void)ctx;
	return machine_is_empty(&pair.machine) && good;
}

/* A guest_memfd holds its VM: whichever goes last takes the rest with it. */
static void file_setup(void *ctx)
{
	(void)ctx;
	pair_start_private();
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

static void file_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		machine_end_vm(&pair.machine);
	} else {
		quire_gmem_release(pair.gmem);
	}
}

static bool file_check(void *ctx)
{
	bool good = !pair.results[0] || pair.results[0] == -EFAULT;

	(void)ctx;
	return machine_is_empty(&pair.machine) && good;
}

const struct pair pairs_end[] = {
    {"end of the VM and host invalidation", 2, notifier_setup, notifier_body, notifier_check, 0},
    {"end of the VM and release of guest_memfd", 2, file_setup, file_body, file_check, 0},
    {.name = NULL},
};
