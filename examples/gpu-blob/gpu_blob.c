/*
 * A blob of virtio-gpu: a buffer that a graphics driver made of one large block of pages. Only the
 * block's first page has a reference count, so no user may take references to the others; the guest
 * is shown all of them, both sides write, and the driver takes the buffer back while the guest is
 * writing. What keeps this safe is the invalidation alone: it returns when the guest is out.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <quire/vm.h>

#include "examples/gpu-blob/guest.h"
#include "hosts/sim/sched.h"
#include "hosts/sim/sim.h"

#define BLOB_PAGE 64u
#define BLOB_PAGES 16u
#define BLOB_GPA UINT64_C(0x80000000)
#define SEEDS 200u
#define STORES 400u
#define NEXT_OWNER 0x55

static struct sim_host host;
static struct quire_vm *vm;
static struct guest guest;
static uint32_t blob_frames[BLOB_PAGES];
static int last_store;
static uint32_t stores_done, seed, taken_under_way;

static void check(int truth, const char *what)
{
	if (truth)
		return;
	fprintf(stderr, "gpu-blob: seed %u: not so: %s\n", seed, what);
	exit(1);
}

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 16;
}

static uint8_t *blob_bytes(uint32_t page)
{
	return host.frames[blob_frames[page]].bytes;
}

/* The driver allocates the buffer, and the client maps it. */
static void make_blob(void)
{
	for (uint32_t i = 0; i < BLOB_PAGES; i++) {
		blob_frames[i] = sim_map(&host, BLOB_PAGE + i, SIM_WRITABLE);
		host.frames[blob_frames[i]].counted = i == 0;
	}
}

static int set_blob_slot(uint64_t size_bytes)
{
	struct quire_region region = {
	    .slot = 1,
	    .gpa = {BLOB_GPA},
	    .size_bytes = size_bytes,
	    .hva = sim_hva(BLOB_PAGE),
	};

	return quire_vm_set_region(vm, &region);
}

static void start(enum quire_format_id format)
{
	struct quire_vm_config config = {
	    .type = QUIRE_VM_DEFAULT,
	    .format = format,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &sim_host_ops,
	    .host_ctx = &host,
	};

	sim_host_reset(&host);
	host.violations = 0;
	check(quire_vm_create(&config, &vm) == 0, "a VM is made");
	memset(&guest, 0, sizeof(guest));
	check(quire_vcpu_create(vm, 0, NULL, &guest.vcpu) == 0, "a vCPU is made");
	make_blob();
	check(set_blob_slot(BLOB_PAGES * QUIRE_PAGE_SIZE) == 0, "the blob is shown to the guest");
}

static void stop(void)
{
	quire_vcpu_destroy(guest.vcpu);
	quire_vm_put(vm);
	check(host.allocated_bytes == 0, "the library gives everything back");
}

/* Both sides see what the other wrote, and no count was touched. */
static void write_from_both_sides(void)
{
	for (uint32_t i = 0; i < BLOB_PAGES; i++) {
		uint64_t gpa = BLOB_GPA + i * QUIRE_PAGE_SIZE;
		uint8_t value;

		blob_bytes(i)[0] = (uint8_t)(i + 1);
		check(guest_load(&guest, gpa, &value) == 0 && value == i + 1,
		      "the guest reads what the device wrote");
		check(guest_store(&guest, gpa + 1, (uint8_t)(i + 100)) == 0, "the guest writes");
		check(blob_bytes(i)[1] == i + 100, "the device reads what the guest wrote");
		check(host.frames[blob_frames[i]].references == 1, "no reference is held");
		check(i == 0 || !host.frames[blob_frames[i]].dirty,
		      "a page without a count is not touched");
	}
	check(host.violations == 0, "the host's counts are the host's");
}

/* Virtual thread 0: the guest draws until it may no longer. */
static void draw(void)
{
	last_store = 0;
	for (stores_done = 0; !last_store && stores_done < STORES; stores_done++) {
		uint64_t at = BLOB_GPA + stores_done % BLOB_PAGES * QUIRE_PAGE_SIZE + 2;

		last_store = guest_store(&guest, at, 0xaa);
	}
}

/* Virtual thread 1: the driver takes the buffer away and gives its frames to another user. */
static void take_away(void)
{
	hva_t start = sim_hva(BLOB_PAGE), end = sim_hva(BLOB_PAGE + BLOB_PAGES);

	taken_under_way += stores_done && !last_store && stores_done < STORES;
	quire_vm_host_invalidate_begin(vm, start, end);
	for (uint32_t i = 0; i < BLOB_PAGES; i++) {
		sim_unmap(&host, BLOB_PAGE + i);
		memset(blob_bytes(i), NEXT_OWNER, SIM_FRAME_BYTES);
	}
	quire_vm_host_invalidate_end(vm, start, end);
}

static void body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0)
		draw();
	else
		take_away();
}

static int preempt(void *ctx, uint32_t step, uint32_t *thread)
{
	uint32_t random = next_random(ctx);

	(void)step;
	*thread = random & 1;
	return random % 64 < 2;
}

static void race(void)
{
	uint32_t state = seed;
	struct sched_run run = {.threads = 2, .body = body, .ctx = &state, .preempt = preempt};

	sched_execute(&run);
	check(run.result == SCHED_DONE, "both sides end");
	for (uint32_t i = 0; i < BLOB_PAGES; i++)
		for (uint32_t byte = 0; byte < SIM_FRAME_BYTES; byte++)
			check(blob_bytes(i)[byte] == NEXT_OWNER,
			      "no store reaches the next owner of a page");
	check(last_store == 0 || last_store == -EFAULT, "the guest hears of it as an error");
	check(guest_store(&guest, BLOB_GPA, 1) == -EFAULT, "nothing is left to write to");
	check(set_blob_slot(0) == 0, "the client takes the slot away, too");
	check(guest_store(&guest, BLOB_GPA, 1) == QUIRE_EMULATE, "an address without memory");
}

int main(void)
{
	quire_platform_install(&sched_platform);
	if (!sim_host_init(&host))
		return 1;
	for (seed = 1; seed <= SEEDS; seed++) {
		start(seed % 2 ? QUIRE_FORMAT_NPT : QUIRE_FORMAT_EPT);
		write_from_both_sides();
		race();
		stop();
	}
	check(taken_under_way > SEEDS / 4, "the guest was drawing when the buffer went");
	sim_host_destroy(&host);
	printf("the blob was taken from a drawing guest %u times; no store was lost or misled\n",
	       taken_under_way);
	return 0;
}
