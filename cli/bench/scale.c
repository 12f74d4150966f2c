/*
 * quire-scale: what a very large guest costs against one of a 256th of it, in one run. The host is
 * made up: every page of the client's is there, mapped by 2 MiB, and none has bytes. So what is
 * measured is the library alone, and 16 TiB need no more memory than its tables and bitmaps.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <quire/dirty.h>
#include <quire/platform.h>
#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "cli/bench/bench.h"
#include "cli/options.h"
#include "hosts/process/process.h"

#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)
#define BLOCK (UINT64_C(2) << 20)
#define SLOT_BYTES TIB /* KVM's largest slot is a page short of 8 TiB */
#define SMALLER 256u
#define HVA_BASE (UINT64_C(1) << 44)
#define WRITE (QUIRE_PFERR_WRITE | QUIRE_PFERR_USER)

enum step {
	STEP_CREATE,
	STEP_MAP,
	STEP_LOG_START,
	STEP_WRITE,
	STEP_HARVEST,
	STEP_CLEAR,
	STEP_LOG_STOP,
	STEP_CONVERT,
	STEP_DESTROY,
	STEPS,
};

/* @unit_bytes of the guest are one unit of work, or a vCPU is. */
static const struct {
	const char *text, *unit;
	uint64_t unit_bytes;
} steps[STEPS] = {
    [STEP_CREATE] = {"slots and vCPUs", "vCPU", 0},
    [STEP_MAP] = {"a first write to each 2 MiB", "2 MiB", BLOCK},
    [STEP_LOG_START] = {"start of logging", "2 MiB", BLOCK},
    [STEP_WRITE] = {"a logged write in each GiB", "GiB", GIB},
    [STEP_HARVEST] = {"GET_DIRTY_LOG", "GiB", GIB},
    [STEP_CLEAR] = {"CLEAR_DIRTY_LOG of it", "GiB", GIB},
    [STEP_LOG_STOP] = {"end of logging", "GiB", GIB},
    [STEP_CONVERT] = {"all becomes private", "2 MiB", BLOCK},
    [STEP_DESTROY] = {"destruction", "2 MiB", BLOCK},
};

struct measure {
	double ns;
	uint64_t bytes; /* allocated when the step is over */
};

struct guest {
	uint64_t size_bytes, slot_bytes;
	unsigned int vcpu_count;
	struct quire_vm *vm;
	struct quire_vcpu **vcpus;
	struct process_runner *runners;
	uint64_t *bitmap; /* of all slots */
	uint64_t dirty;	  /* pages that harvests found */
	struct measure measures[STEPS];
};

static struct quire_host_ops host;
static struct process_host host_ctx;
static const struct quire_tunables tunables = {.eager_page_split = 0};

static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	*page = (struct quire_page){.pfn = {hva.v / QUIRE_PAGE_SIZE}, .writable = 1};
	return 0;
}

static enum quire_level page_level(void *ctx, hva_t hva, enum quire_level max)
{
	return max < QUIRE_LEVEL_2M ? max : QUIRE_LEVEL_2M;
}

static uint64_t slot_count(const struct guest *guest)
{
	return guest->size_bytes / guest->slot_bytes;
}

static int set_slots(struct guest *guest, uint32_t flags)
{
	int error = 0;

	for (uint32_t i = 0; i < slot_count(guest) && !error; i++) {
		uint64_t start = i * guest->slot_bytes;
		struct quire_region region = {.slot = i,
					      .flags = flags,
					      .gpa = {start},
					      .size_bytes = guest->slot_bytes,
					      .hva = {HVA_BASE + start}};

		error = quire_vm_set_region(guest->vm, &region);
	}
	return error;
}

static int create(struct guest *guest)
{
	struct quire_vm_config config = {.type = QUIRE_VM_SW_PROTECTED,
					 .format = QUIRE_FORMAT_NPT,
					 .maxphyaddr = 48,
					 .mmio_caching = 1,
					 .host = &host,
					 .host_ctx = &host_ctx,
					 .tunables = &tunables};
	int error = quire_vm_create(&config, &guest->vm);

	for (unsigned int i = 0; i < guest->vcpu_count && !error; i++)
		error = quire_vcpu_create(guest->vm, i, &guest->runners[i], &guest->vcpus[i]);
	return error ? error : set_slots(guest, 0);
}

/* vCPU 0 writes one page in each @stride_bytes. */
static int write_each(struct guest *guest, uint64_t stride_bytes)
{
	struct quire_vcpu *vcpu = guest->vcpus[0];
	struct quire_memory_fault exit;
	struct quire_stage2 stage2;
	uint64_t requests;
	int error = 0;

	/* A vCPU gets its root on the way in. */
	for (uint64_t at = 0; at < guest->size_bytes && !error; at += stride_bytes) {
		int outcome = QUIRE_RETRY;

		while (outcome == QUIRE_RETRY && !error) {
			error = quire_vcpu_enter(vcpu, &requests, &stage2);
			quire_vcpu_leave(vcpu);
			outcome = quire_vcpu_fault(vcpu, (gpa_t){at}, WRITE, &exit);
		}
		if (outcome != QUIRE_FIXED)
			error = -EIO;
	}
	return error;
}

static int copy_out(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

static int copy_in(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	memcpy(dst, (const uint8_t *)ctx + offset_bytes, size_bytes);
	return 0;
}

static uint64_t *slot_bitmap(const struct guest *guest, uint32_t slot)
{
	return guest->bitmap + slot * (guest->slot_bytes / QUIRE_PAGE_SIZE / 64);
}

static int harvest(struct guest *guest)
{
	int error = 0;

	for (uint32_t i = 0; i < slot_count(guest) && !error; i++)
		error = quire_vm_get_dirty_log(guest->vm, i, copy_out, slot_bitmap(guest, i));
	return error;
}

static int clear(struct guest *guest)
{
	int error = 0;

	for (uint32_t i = 0; i < slot_count(guest) && !error; i++) {
		struct quire_clear_log request = {
		    .slot = i,
		    .npages = (uint32_t)(guest->slot_bytes / QUIRE_PAGE_SIZE),
		    .copy_in = copy_in,
		    .ctx = slot_bitmap(guest, i)};

		error = quire_vm_clear_dirty_log(guest->vm, &request);
	}
	return error;
}

static void destroy(struct guest *guest)
{
	for (unsigned int i = 0; i < guest->vcpu_count; i++) {
		if (guest->vcpus[i])
			quire_vcpu_destroy(guest->vcpus[i]);
		guest->vcpus[i] = NULL;
	}
	if (guest->vm)
		quire_vm_put(guest->vm);
	guest->vm = NULL;
}

static int run_step(struct guest *guest, enum step step)
{
	switch (step) {
	case STEP_CREATE:
		return create(guest);
	case STEP_MAP:
		return write_each(guest, BLOCK);
	case STEP_LOG_START:
		return set_slots(guest, QUIRE_SLOT_LOG_DIRTY);
	case STEP_WRITE:
		return write_each(guest, GIB);
	case STEP_HARVEST:
		return harvest(guest);
	case STEP_CLEAR:
		return clear(guest);
	case STEP_LOG_STOP:
		return set_slots(guest, 0);
	case STEP_CONVERT:
		return quire_vm_set_attributes(guest->vm, (gpa_t){0}, guest->size_bytes,
					       QUIRE_ATTRIBUTE_PRIVATE);
	default:
		destroy(guest);
		return 0;
	}
}

/* What must have come of @step: a run that does nothing is fast. */
static int has_happened(struct guest *guest, enum step step)
{
	uint64_t small, huge;

	if (step == STEP_DESTROY)
		return process_bytes_allocated() == 0;
	small = quire_vm_stat(guest->vm, QUIRE_VM_STAT_pages_4k);
	huge = quire_vm_stat(guest->vm, QUIRE_VM_STAT_pages_2m);
	switch (step) {
	case STEP_MAP:
		return huge == guest->size_bytes / BLOCK && !small;
	case STEP_WRITE:
		return small >= guest->size_bytes / GIB;
	case STEP_HARVEST:
		for (uint64_t i = 0; i < guest->size_bytes / QUIRE_PAGE_SIZE / 64; i++)
			guest->dirty += (uint64_t)__builtin_popcountll(guest->bitmap[i]);
		return guest->dirty == guest->size_bytes / GIB;
	case STEP_CONVERT:
		return !small && !huge;
	default:
		return 1;
	}
}

static int run(struct guest *guest)
{
	int error = 0;

	for (enum step step = 0; step < STEPS && !error; step++) {
		struct measure *measure = &guest->measures[step];
		double start = bench_now();

		error = step == STEP_LOG_START ? quire_vm_set_manual_protect(guest->vm, 1) : 0;
		if (!error)
			error = run_step(guest, step);
		measure->ns = bench_now() - start;
		measure->bytes = process_bytes_allocated();
		if (!error && !has_happened(guest, step))
			error = -EIO;
		if (error)
			fprintf(stderr, "quire-scale: %s: %s\n", steps[step].text,
				strerror(-error));
	}
	destroy(guest);
	return error;
}

static int guest_init(struct guest *guest, uint64_t size_bytes, unsigned int vcpu_count)
{
	*guest = (struct guest){.size_bytes = size_bytes,
				.slot_bytes = size_bytes < SLOT_BYTES ? size_bytes : SLOT_BYTES,
				.vcpu_count = vcpu_count};
	guest->vcpus = calloc(vcpu_count, sizeof(struct quire_vcpu *));
	guest->runners = calloc(vcpu_count, sizeof(*guest->runners));
	guest->bitmap = calloc(size_bytes / QUIRE_PAGE_SIZE / 64, sizeof(*guest->bitmap));
	return guest->vcpus && guest->runners && guest->bitmap ? 0 : -ENOMEM;
}

static void guest_free(struct guest *guest)
{
	free(guest->bitmap);
	free(guest->runners);
	free(guest->vcpus);
}

static double unit_ns(const struct guest *guest, enum step step)
{
	uint64_t unit_bytes = steps[step].unit_bytes;
	uint64_t units = unit_bytes ? guest->size_bytes / unit_bytes : guest->vcpu_count;

	return guest->measures[step].ns / (double)units;
}

static void print(const struct guest *small, const struct guest *large)
{
	printf("%-28s %10s %12s %12s %8s %10s\n", "", "CPU time", "ns, large", "ns, small", "ratio",
	       "held");
	for (enum step step = 0; step < STEPS; step++)
		printf("%-28s %7.1f ms %12.1f %12.1f %8.2f %6llu MiB  a %s\n", steps[step].text,
		       large->measures[step].ns / 1e6, unit_ns(large, step), unit_ns(small, step),
		       unit_ns(large, step) / unit_ns(small, step),
		       (unsigned long long)(large->measures[step].bytes >> 20), steps[step].unit);
}

struct options {
	uint64_t gibs, vcpus;
};

enum { SCALE_GIBS, SCALE_VCPUS };

static const struct cli_option scale_options[] = {
    {"gib", "N", "the large guest's size, a multiple of 1024 (16384)", SCALE_GIBS},
    {"vcpus", "N", "its vCPUs, a multiple of 256 up to 4096 (1024)", SCALE_VCPUS},
    {0},
};

static int take_option(void *ctx, int key, const char *value)
{
	struct options *options = ctx;
	uint64_t number = strtoull(value, NULL, 10), unit = key == SCALE_GIBS ? 1024 : SMALLER;

	if (!number || number % unit || number > (key == SCALE_GIBS ? 65536 : 4096))
		return -EINVAL;
	*(key == SCALE_GIBS ? &options->gibs : &options->vcpus) = number;
	return 0;
}

static const struct cli_command scale_command = {
    .name = "quire-scale",
    .operand = NULL,
    .about = "What a very large guest costs, and one of a 256th of it, in a host that is made up.\n"
	     "'ns' is CPU time of a unit; 'held', what the library has allocated after the step.",
    .options = scale_options,
    .take = take_option,
};

int main(int argc, char **argv)
{
	struct options options = {.gibs = 16384, .vcpus = 1024};
	struct guest small, large;
	int rest, error, status;

	status = cli_parse(&scale_command, argc, argv, &options, &rest);
	if (status != CLI_GO_ON)
		return status;
	quire_platform_install(&process_platform);
	host = process_host_ops;
	host.page_get = page_get;
	host.page_level = page_level;
	error = guest_init(&small, options.gibs * GIB / SMALLER,
			   (unsigned int)(options.vcpus / SMALLER));
	if (!error)
		error = run(&small);
	if (!error)
		error = guest_init(&large, options.gibs * GIB, (unsigned int)options.vcpus);
	if (!error)
		error = run(&large);
	if (!error) {
		print(&small, &large);
		guest_free(&large);
	}
	guest_free(&small);
	return error ? 1 : 0;
}
