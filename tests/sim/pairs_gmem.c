/* Pairs: faults on private memory against punches, conversions and the end of the file. */
#include <errno.h>
#include <stdlib.h>

#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
#include "tests/sim/pairs.h"

static void gmem_start(uint32_t npages, uint64_t attributes)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = npages * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	pair_start(QUIRE_VM_SW_PROTECTED);
	if (npages == SIM_BLOCK)
		sim_map_huge(&pair.machine.host, 0, SIM_WRITABLE);
	else
		for (uint32_t page = 0; page < npages; page++)
			sim_map(&pair.machine.host, page, SIM_WRITABLE);
	if (quire_gmem_create(pair.machine.vm, region.size_bytes, 0, NULL, &pair.gmem))
		abort();
	region.gmem = pair.gmem;
	if (quire_vm_set_region(pair.machine.vm, &region))
		abort();
	if (attributes && quire_vm_set_attributes(pair.machine.vm, (gpa_t){0}, region.size_bytes,
						  QUIRE_ATTRIBUTE_PRIVATE))
		abort();
}

static bool gmem_stop(void)
{
	quire_gmem_release(pair.gmem);
	return machine_stop(&pair.machine);
}

static void private_setup(void *ctx)
{
	(void)ctx;
	gmem_start(4, QUIRE_ATTRIBUTE_PRIVATE);
}

static void private_warm_setup(void *ctx)
{
	private_setup(ctx);
	if (pair_store(0, PAIR_PAGE, 1))
		abort();
}

/* Punching a private page under a vCPU that stores: the old byte, or a fresh zero page. */
static void punch_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		pair.results[1] = quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
}

static bool punch_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair_frees_unwritten();

	(void)ctx;
	good &= !pair_load(1, PAIR_PAGE, &pair.bytes[1]);
	good &= pair.bytes[1] == 0 || pair.bytes[1] == 7;
	/* The vCPU that stored sees what the other sees. */
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == pair.bytes[1];
	good &= pair_byte(PAIR_PAGE)[0] == 0;
	return gmem_stop() && good;
}

/* The file goes away under a vCPU. */
static void release_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		quire_gmem_release(pair.gmem);
}

static bool release_check(void *ctx)
{
	bool good = !pair.results[0] || pair.results[0] == -EFAULT;

	(void)ctx;
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++)
		good &= pair_load(vcpu, PAIR_PAGE, &pair.bytes[vcpu]) == -EFAULT;
	good &= pair_frees_unwritten() && pair_byte(PAIR_PAGE)[0] == 0;
	return machine_stop(&pair.machine) && good;
}

/* Does the reverse map give page PAIR_PAGE of the file to no VM? */
static bool nobody_owns(void)
{
	uint32_t frame = sim_store_frame(quire_gmem_store(pair.gmem), PAIR_PAGE);
	uintptr_t address;

	if (frame == SIM_NO_FRAME)
		return true;
	address = (uintptr_t)pair.machine.host.frames[frame].bytes;
	return rmp_is_free(pair.machine.vm->rmp, (pfn_t){address >> QUIRE_PAGE_SHIFT});
}

/* The page turns shared under a vCPU: the store is in the private or in the shared page, never a
 * refusal; afterwards every access is to the shared one. */
static void share_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] =
	    quire_vm_set_attributes(pair.machine.vm, (gpa_t){PAIR_GPA}, QUIRE_PAGE_SIZE, 0);
	pair.results[1] |= pair_load(1, PAIR_PAGE, &pair.bytes[1]);
}

static bool share_check(void *ctx)
{
	uint8_t shared = pair_byte(PAIR_PAGE)[0];
	bool good = !pair.results[0] && !pair.results[1] && (shared == 0 || shared == 7) &&
		    (pair.bytes[1] == 0 || pair.bytes[1] == shared);

	(void)ctx;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == shared;
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == 9;
	good &= nobody_owns();
	return gmem_stop() && good;
}

/* The other way: the store is in the one page or the other, and later ones are in the private. */
static void shared_setup(void *ctx)
{
	(void)ctx;
	gmem_start(4, 0);
}

static void hide_page_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] = quire_vm_set_attributes(pair.machine.vm, (gpa_t){PAIR_GPA},
						  QUIRE_PAGE_SIZE, QUIRE_ATTRIBUTE_PRIVATE);
	pair.bytes[1] = pair_byte(PAIR_PAGE)[0];
}

static bool hide_page_check(void *ctx)
{
	uint8_t shared = pair_byte(PAIR_PAGE)[0];
	bool good = !pair.results[0] && !pair.results[1] && shared == pair.bytes[1];

	(void)ctx;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] + shared == 7;
	good &= !pair_store(0, PAIR_PAGE, 9) && pair_byte(PAIR_PAGE)[0] == shared;
	return gmem_stop() && good;
}

/* A page of a huge shared block turns private while a vCPU maps the block by its neighbour. */
static void shared_huge_setup(void *ctx)
{
	(void)ctx;
	gmem_start(SIM_BLOCK, 0);
}

static void hide_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, 6, 7);
	else
		pair.results[1] = quire_vm_set_attributes(pair.machine.vm, (gpa_t){PAIR_GPA_OF(5)},
							  QUIRE_PAGE_SIZE, QUIRE_ATTRIBUTE_PRIVATE);
}

static bool hide_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && pair_byte(6)[0] == 7;

	(void)ctx;
	/* What the guest writes now is private: the host's page does not show it. */
	good &= !pair_store(0, 5, 9) && pair_byte(5)[0] == 0;
	return gmem_stop() && good;
}

/* The page is lost. */
static void poison_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
	else
		quire_gmem_poison(pair.gmem, PAIR_PAGE);
}

static bool poison_check(void *ctx)
{
	bool good = !pair.results[0] || pair.results[0] == -EHWPOISON;

	(void)ctx;
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++)
		good &= pair_load(vcpu, PAIR_PAGE, &pair.bytes[vcpu]) == -EHWPOISON;
	good &= !quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 0;
	return gmem_stop() && good;
}

/* The host lost the frame of a page, and the library does not know as yet. */
static void lost_setup(void *ctx)
{
	private_warm_setup(ctx);
	pair.frame = sim_store_frame(quire_gmem_store(pair.gmem), PAIR_PAGE);
	if (pair.frame == SIM_NO_FRAME)
		abort();
	pair.machine.host.frames[pair.frame].poisoned = true;
}

/* The news come while the page is punched and made anew, in the same frame, which is good again. */
static void lose_body(uint32_t thread, void *ctx)
{
	struct sim_host *host = &pair.machine.host;
	uint64_t address = (uintptr_t)host->frames[pair.frame].bytes;

	(void)ctx;
	if (thread == 0) {
		pair.results[0] =
		    quire_vm_lose_frame(pair.machine.vm, (pfn_t){address >> QUIRE_PAGE_SHIFT});
		return;
	}
	pair.results[1] = quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
	host->next_frame = pair.frame - host->rows_end;
	pair.results[1] |= pair_store(0, PAIR_PAGE, 7);
}

static bool lose_check(void *ctx)
{
	bool good = (pair.results[0] == 0 || pair.results[0] == 1) && !pair.results[1];

	(void)ctx;
	good &= sim_store_frame(quire_gmem_store(pair.gmem), PAIR_PAGE) == pair.frame;
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++)
		good &= !pair_load(vcpu, PAIR_PAGE, &pair.bytes[vcpu]) && pair.bytes[vcpu] == 7;
	return gmem_stop() && good;
}

/* The pages are made ahead while a punch takes them away: whole pages, in either order. */
static void allocate_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		pair.results[0] = quire_gmem_allocate(pair.gmem, 0, 4 * QUIRE_PAGE_SIZE, NULL);
	else
		pair.results[1] = quire_gmem_punch(pair.gmem, 0, 4 * QUIRE_PAGE_SIZE);
}

static bool allocate_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1];

	(void)ctx;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 0;
	return gmem_stop() && good;
}

/* The slot moves to gfn 8 under a vCPU that stores at its old place, and is used there. */
#define REBOUND 8u

static void rebind_body(uint32_t thread, void *ctx)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = {PAIR_GPA_OF(REBOUND)},
	    .size_bytes = 4 * QUIRE_PAGE_SIZE,
	    .hva = sim_hva(0),
	    .gmem = pair.gmem,
	};

	(void)ctx;
	if (thread == 0) {
		pair.results[0] = pair_store(0, PAIR_PAGE, 7);
		return;
	}
	pair.results[1] = quire_vm_set_region(pair.machine.vm, &(struct quire_region){0});
	pair.results[1] |= quire_vm_set_attributes(pair.machine.vm, region.gpa, region.size_bytes,
						   QUIRE_ATTRIBUTE_PRIVATE);
	pair.results[1] |= quire_vm_set_region(pair.machine.vm, &region);
	pair.results[1] |= pair_load(1, REBOUND + PAIR_PAGE, &pair.bytes[1]);
}

/* The page was found at the old gfn, or there was no slot for it: no conflict may be reported. */
static bool rebind_check(void *ctx)
{
	bool good = !pair.results[0] || pair.results[0] == -EFAULT;

	(void)ctx;
	good &= !pair.results[1] && pair.bytes[1] == (pair.results[0] ? 0 : 7);
	good &= pair_load(0, PAIR_PAGE, &pair.bytes[0]) == -EFAULT;
	good &= !pair_load(0, REBOUND + PAIR_PAGE, &pair.bytes[0]);
	return gmem_stop() && good && pair.bytes[0] == pair.bytes[1];
}

static int64_t fill_seven(void *ctx, const struct quire_gmem_unit *unit)
{
	uint64_t *page = (uint64_t *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT);

	(void)ctx;
	/* Each is a point at which the other may run. */
	for (uint32_t i = 0; i < SIM_FRAME_BYTES / sizeof(*page); i++)
		atomic_store_relaxed_u64(&page[i], UINT64_C(0x0707070707070707));
	return 1;
}

/* A page is filled while it is punched: all of it is there, or nothing, and no freed frame is. */
static void populate_body(uint32_t thread, void *ctx)
{
	struct quire_gmem_fill fill = {.gfn = {PAIR_PAGE}, .npages = 1, .fill = fill_seven};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = (int)quire_gmem_populate(pair.machine.vm, &fill) - 1;
	else
		pair.results[1] = quire_gmem_punch(pair.gmem, PAIR_GPA, QUIRE_PAGE_SIZE);
}

/* A page in use is refused, unless the punch came first. */
static bool populate_used_check(void *ctx)
{
	if (pair.results[0] == -EEXIST - 1)
		pair.results[0] = 0;
	return punch_check(ctx);
}

/* A page is filled while a vCPU stores to it: what is filled in is never over the store, and the
 * vCPU never finds half of it. */
static void populate_store_body(uint32_t thread, void *ctx)
{
	struct quire_gmem_fill fill = {.gfn = {PAIR_PAGE}, .npages = 1, .fill = fill_seven};

	(void)ctx;
	if (thread == 0)
		pair.results[0] = (int)quire_gmem_populate(pair.machine.vm, &fill);
	else
		pair.results[1] = pair_store(0, PAIR_PAGE, 9);
}

static bool populate_store_check(void *ctx)
{
	bool filled = pair.results[0] == 1, good = filled || pair.results[0] == -EEXIST;
	gpa_t second = {PAIR_GPA + 1};
	uint8_t byte = 0;

	(void)ctx;
	good &= !pair.results[1] && !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 9;
	good &= !machine_load(&pair.machine, 1, second.v, &byte) && byte == (filled ? 7 : 0);
	return gmem_stop() && good;
}

/* Two vCPUs are the first to use a page that no hardware is told of: both find the same one. */
static void shared_file_setup(void *ctx)
{
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM, .size_bytes = 4 * QUIRE_PAGE_SIZE, .hva = sim_hva(0)};

	(void)ctx;
	pair_start(QUIRE_VM_DEFAULT);
	if (quire_gmem_create(pair.machine.vm, region.size_bytes,
			      QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, NULL, &pair.gmem))
		abort();
	region.gmem = pair.gmem;
	if (quire_vm_set_region(pair.machine.vm, &region))
		abort();
}

static void first_use_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	pair.results[thread] = pair_store(thread, PAIR_PAGE, 7);
}

static bool first_use_check(void *ctx)
{
	bool good = !pair.results[0] && !pair.results[1] && !pair_store(1, PAIR_PAGE, 9);

	(void)ctx;
	good &= !pair_load(0, PAIR_PAGE, &pair.bytes[0]) && pair.bytes[0] == 9;
	return gmem_stop() && good;
}

const struct pair pairs_gmem[] = {
    {"first use by two vCPUs", 2, shared_file_setup, first_use_body, first_use_check, 0},
    {"fault and punch", 2, private_setup, punch_body, punch_check, 0},
    {"store and punch", 2, private_warm_setup, punch_body, punch_check, 0},
    {"fault and release", 2, private_setup, release_body, release_check, 0},
    {"store and release", 2, private_warm_setup, release_body, release_check, 0},
    {"fault and conversion", 2, private_setup, share_body, share_check, 0},
    {"store and conversion", 2, private_warm_setup, share_body, share_check, 0},
    {"fault and conversion to private", 2, shared_setup, hide_page_body, hide_page_check, 0},
    {"huge fault and conversion of a neighbour", 2, shared_huge_setup, hide_body, hide_check, 0},
    {"fault and rebind", 2, private_setup, rebind_body, rebind_check, 0},
    {"population and punch", 2, private_setup, populate_body, punch_check, 0},
    {"population and punch of a page in use", 2, private_warm_setup, populate_body,
     populate_used_check, 0},
    {"population and store", 2, private_setup, populate_store_body, populate_store_check, 0},
    {"store and poison", 2, private_warm_setup, poison_body, poison_check, 0},
    {"loss of a frame and punch", 2, lost_setup, lose_body, lose_check, 0},
    {"allocation and punch", 2, private_warm_setup, allocate_body, allocate_check, 0},
    {.name = NULL},
};
