/* libquire-process: this folder as <quire/process.h> offers it to programs. */
#include <quire/process.h>

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "hosts/process/guard.h"
#include "hosts/process/internal.h"
#include "hosts/process/map.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

_Static_assert(sizeof(struct quire_process_vm) == sizeof(struct process_host) &&
		   offsetof(struct quire_process_vm, pinned_pages) ==
		       offsetof(struct process_host, pinned),
	       "one struct under two names");
_Static_assert(sizeof(struct quire_process_vcpu) == sizeof(struct process_runner) &&
		   offsetof(struct quire_process_vcpu, thread) ==
		       offsetof(struct process_runner, tid),
	       "one struct under two names");

int quire_process_start(void)
{
	quire_platform_install(&process_platform);
	return process_signals_install();
}

const struct quire_host_ops *quire_process_host(void)
{
	return &process_host_ops;
}

void quire_process_vcpu_begin(struct quire_process_vcpu *vcpu)
{
	process_runner_enter((struct process_runner *)vcpu);
}

void quire_process_vcpu_end(struct quire_process_vcpu *vcpu)
{
	process_runner_leave((struct process_runner *)vcpu);
}

static int copy(void *to, const void *from, size_t size_bytes)
{
	size_t done;

	return guard_error(guard_copy(to, from, size_bytes, &done));
}

int quire_process_load(uint64_t physical, void *to, size_t size_bytes)
{
	if (!to && size_bytes)
		return -EINVAL;
	return copy(to, (const void *)(uintptr_t)physical, size_bytes);
}

int quire_process_store(uint64_t physical, const void *from, size_t size_bytes)
{
	if (!from && size_bytes)
		return -EINVAL;
	return copy((void *)(uintptr_t)physical, from, size_bytes);
}

void quire_process_mappings_changed(void)
{
	process_mappings_changed();
}

int quire_process_kick_signal(void)
{
	return process_kick_signal();
}

/* In any thread. */
static void memory_destroyed(struct process_store *store)
{
	sys_call(SYS_munmap, sys_address(store->base), store->size_bytes);
	if (store->units)
		process_free(NULL, store->units, store->size_bytes / store->huge_bytes);
	process_free(NULL, store, sizeof(*store));
}

/* A store of what was mapped at @base, which goes where there is no memory for that. */
static int make_store(long base, uint64_t size_bytes, struct process_store **store)
{
	if (sys_failed(base))
		return -ENOMEM;
	sys_call(SYS_madvise, (uint64_t)base, size_bytes, MADV_DONTFORK);
	*store = process_alloc(NULL, sizeof(**store));
	if (!*store) {
		sys_call(SYS_munmap, (uint64_t)base, size_bytes);
		return -ENOMEM;
	}
	(*store)->base = (void *)base;
	(*store)->size_bytes = size_bytes;
	(*store)->destroyed = memory_destroyed;
	return 0;
}

int quire_process_memory_create(uint64_t size_bytes, void **cookie)
{
	struct process_store *store;
	int error;

	if (!cookie || !size_bytes || size_bytes % QUIRE_PAGE_SIZE)
		return -EINVAL;
	/* Shared with no process: such memory has holes. */
	error = make_store(
	    process_map(size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1),
	    size_bytes, &store);
	if (!error)
		*cookie = store;
	return error;
}

int quire_process_memory_create_huge(uint64_t size_bytes, uint64_t page_bytes, void **cookie)
{
	int log2 = page_bytes ? __builtin_ctzll(page_bytes) : 0;
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;
	struct process_store *store;
	int error;

	if (!cookie || (log2 != 21 && log2 != 30) || page_bytes != UINT64_C(1) << log2 ||
	    !size_bytes || size_bytes % page_bytes)
		return -EINVAL;
	flags |= log2 << MAP_HUGE_SHIFT;
	/* The kernel aligns what it chooses for huge pages. */
	error = make_store(
	    sys_call(SYS_mmap, 0, size_bytes, PROT_READ | PROT_WRITE, (uint64_t)flags, UINT64_MAX),
	    size_bytes, &store);
	if (error)
		return error;
	store->huge_bytes = page_bytes;
	store->born_zero = true;
	store->units = process_alloc(NULL, size_bytes / page_bytes);
	if (!store->units) {
		memory_destroyed(store);
		return -ENOMEM;
	}
	*cookie = store;
	return 0;
}

void quire_process_memory_free(void *cookie)
{
	memory_destroyed(cookie);
}
