/*
 * A frontend of a few commands, to test files, signals and memory events without any VM: what
 * `preload` needs of frontend/ and of the library, and nothing more.
 */
#include "tests/preload/fake_frontend.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <quire/gmem.h>
#include <quire/platform.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "frontend/file/file.h"
#include "frontend/object/failure.h"
#include "frontend/object/mm_events.h"
#include "frontend/param/params.h"
#include "frontend/report/report.h"
#include "frontend/run/signals.h"
#include "hosts/process/guard.h"

struct quire_vcpu {
	uint64_t doorbell;
};

struct quire_vm {
	int unused;
};

static struct fake_counts counts;
static struct quire_vm only_vm;

uint64_t const *quire_vcpu_doorbell(const struct quire_vcpu *vcpu)
{
	return &vcpu->doorbell;
}

void quire_vcpu_request(struct quire_vcpu *vcpu, uint64_t request)
{
	__atomic_fetch_or(&vcpu->doorbell, request, __ATOMIC_SEQ_CST);
}

void quire_vm_host_invalidate_begin(struct quire_vm *vm, hva_t start, hva_t end)
{
	(void)vm;
	counts.last_start = start.v;
	counts.last_end = end.v;
	counts.begins++;
}

int quire_vm_lose_frame(struct quire_vm *vm, pfn_t pfn)
{
	(void)vm;
	counts.last_lost = pfn.v << 12;
	counts.losses++;
	return 0;
}

void quire_vm_host_invalidate_end(struct quire_vm *vm, hva_t start, hva_t end)
{
	(void)vm;
	if (counts.last_start == start.v && counts.last_end == end.v)
		counts.ends++;
}

/* No VM, so no map of private frames. */
void quire_platform_forked(void)
{
}

/* Guest code that never ends: spin or sleep until something asks for the thread. */
static long run(const struct fake_run *request)
{
	struct quire_vcpu vcpu = {0};
	struct run_stop stop = {.vcpu = &vcpu};
	sigset_t mask;
	long result = 0;

	sigemptyset(&mask);
	memcpy(&mask, &request->mask, sizeof(request->mask));
	run_signals_enter(&stop, request->has_mask ? &mask : NULL);
	__atomic_add_fetch(&counts.runs, 1, __ATOMIC_RELAXED);
	while (!run_signals_pending() && !(vcpu.doorbell & RUN_REQ_SIGNAL)) {
		uint64_t value;

		if (request->touch && guard_load_u64((const void *)(uintptr_t)request->touch,
						     &value) == GUARD_FAULT) {
			result = -EFAULT;
			break;
		}
		if (request->sleeps)
			run_signals_wait(&vcpu);
	}
	if (run_signals_pending())
		result = -EINTR;
	run_signals_leave();
	return result;
}

static unsigned int slow_us; /* of the last one that was made */
static uint32_t is_held;     /* the release of those that wait for FAKE_LET_GO */
static const struct file_ops plain_ops, slow_ops, held_ops, memory_ops, dead_memory_ops, stats_ops;

static int create(const struct file_ops *ops, uint64_t size_bytes)
{
	struct file_config config = {
	    .ops = ops,
	    .size_bytes = size_bytes,
	    .cloexec = true,
	    .memory = size_bytes ? FILE_MEMORY_MAPPABLE : FILE_NO_MEMORY,
	};

	return file_create(&config);
}

/* Where the machine has a node of its own, the device has no file of ours. */
static long serve(unsigned long command, unsigned long argument)
{
	switch (command) {
	case FAKE_CREATE:
		return create(&plain_ops, argument);
	case FAKE_CREATE_SLOW:
		slow_us = (unsigned int)argument;
		return create(&slow_ops, 0);
	case FAKE_CREATE_HELD:
		__atomic_store_n(&is_held, 1, __ATOMIC_RELEASE);
		return create(&held_ops, 0);
	case FAKE_LET_GO:
		__atomic_store_n(&is_held, 0, __ATOMIC_RELEASE);
		return 0;
	case FAKE_CREATE_MEMORY:
		return create(&memory_ops, argument);
	case FAKE_CREATE_DEAD_MEMORY:
		return create(&dead_memory_ops, argument);
	case FAKE_CREATE_STATS:
		return create(&stats_ops, 4096);
	case FAKE_COUNTS:
		memcpy((void *)argument, &counts, sizeof(counts));
		return 0;
	case FAKE_RUN:
		return run((const struct fake_run *)argument);
	case FAKE_WATCH:
		failure_watch_start();
		return mm_events_register_vm(&only_vm);
	case FAKE_UNWATCH:
		mm_events_unregister_vm(&only_vm);
		return 0;
	case FAKE_SPLIT:
		return params_tunables()->eager_page_split;
	default:
		return -ENOTTY;
	}
}

static long fake_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	if (!file_is_own(file))
		return -EIO;
	if (command != FAKE_PEEK)
		return serve(command, argument);
	memcpy((void *)argument, file_memory(file), 1);
	return 0;
}

static int map_shared(struct file *file, const struct file_map_request *request)
{
	(void)file;
	return (request->flags & MAP_TYPE) == MAP_SHARED ? 0 : -EINVAL;
}

static int map_dead(struct file *file, const struct file_map_request *request)
{
	(void)file;
	(void)request;
	return 1;
}

static ssize_t stats_read(struct file *file, void *dst, size_t size_bytes, off_t offset)
{
	static const char text[] = "0123456789";
	size_t left = (size_t)offset < sizeof(text) - 1 ? sizeof(text) - 1 - (size_t)offset : 0;

	(void)file;
	if (size_bytes > left)
		size_bytes = left;
	memcpy(dst, text + offset, size_bytes);
	return (ssize_t)size_bytes;
}

static void release(struct file *file)
{
	(void)file;
	__atomic_add_fetch(&counts.releases, 1, __ATOMIC_RELAXED);
}

static void release_slowly(struct file *file)
{
	__atomic_add_fetch(&counts.slow_starts, 1, __ATOMIC_RELAXED);
	usleep(slow_us + 200);
	release(file);
}

static void release_held(struct file *file)
{
	__atomic_add_fetch(&counts.slow_starts, 1, __ATOMIC_RELAXED);
	while (__atomic_load_n(&is_held, __ATOMIC_ACQUIRE))
		usleep(1000);
	release(file);
}

static const struct file_ops plain_ops = {
    .kind = FILE_VM, .name = "fake", .ioctl = fake_ioctl, .map = map_shared, .release = release};
static const struct file_ops slow_ops = {.kind = FILE_VM,
					 .name = "slow",
					 .ioctl = fake_ioctl,
					 .map = map_shared,
					 .release = release_slowly};
static const struct file_ops held_ops = {.kind = FILE_VM,
					 .name = "held",
					 .ioctl = fake_ioctl,
					 .map = map_shared,
					 .release = release_held};
static const struct file_ops memory_ops = {.kind = FILE_GMEM,
					   .name = "[kvm-gmem]",
					   .ioctl = fake_ioctl,
					   .map = map_shared,
					   .release = release};
static const struct file_ops dead_memory_ops = {.kind = FILE_GMEM,
						.name = "[kvm-gmem]",
						.ioctl = fake_ioctl,
						.map = map_dead,
						.release = release};
static const struct file_ops stats_ops = {.kind = FILE_STATS,
					  .name = "stats",
					  .ioctl = fake_ioctl,
					  .read_at = stats_read,
					  .release = release};

long system_use(unsigned int command, unsigned long argument)
{
	return command == 0xae00 ? 12 : serve(command, argument);
}

static const struct file_ops device_ops = {
    .kind = FILE_KVM, .name = SYSTEM_FILE_NAME, .ioctl = fake_ioctl, .release = release};

int system_open(int flags)
{
	struct file_config config = {
	    .ops = &device_ops, .size_bytes = 0, .cloexec = (flags & O_CLOEXEC) != 0};

	return file_create(&config);
}

/* This frontend has no VM to report on. */
void report_attach(const char *directory)
{
	(void)directory;
}

void report_last(enum report_end end)
{
	(void)end;
}
