/* guest_memfd with real threads: guests that write while the file is punched, filled, bound
 * elsewhere and closed. Nothing may break, and no page may show what was there before. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <quire/gmem.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "hosts/process/process.h"
#include "src/base/atomic.h"
#include "src/entry/format.h"
#include "src/walk/range.h"

#define VCPUS 2u
#define FILE_PAGES UINT64_C(64)
#define GUEST_PAGES (2 * FILE_PAGES) /* the slot is at gfn 0, or at gfn FILE_PAGES */
#define SLOT 1u
#define FILES_MAX 2000u
#define PATIENCE_MS 30000
#define GARBAGE UINT64_C(0xa5a5a5a5a5a5a5a5)
#define BYTES(pages) ((pages) << QUIRE_PAGE_SHIFT)

static struct {
	struct quire_vm *vm;
	struct quire_vcpu *vcpus[VCPUS];
	struct process_runner runners[VCPUS];
	struct process_host host_ctx;
	struct process_store stores[FILES_MAX];
	uint32_t files, stores_gone;
	struct quire_gmem *gmem;
	pthread_rwlock_t gmem_lock; /* held while @gmem is used: the client's reference */
	uint32_t stop, failures;
	uint64_t accesses, punches, binds, fills;
} race = {.gmem_lock = PTHREAD_RWLOCK_INITIALIZER};

static int stopped(void)
{
	return (int)atomic_load_relaxed_u32(&race.stop);
}

static void check(int good, const char *what, long value)
{
	if (good)
		return;
	fprintf(stderr, "race_gmem: %s: %ld\n", what, value);
	(void)atomic_fetch_add_u32(&race.failures, 1);
	atomic_store_relaxed_u32(&race.stop, 1);
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 33;
}

/* The walk of a processor, for a write: the page, or NULL with the error code. */
static uint64_t *walk(const struct quire_stage2 *stage2, uint64_t gfn, uint64_t *error)
{
	struct quire_translation found;
	uint64_t *page = NULL;

	if (quire_walk(stage2, gpa_of((gfn_t){gfn}), QUIRE_PFERR_WRITE, &found))
		page = (uint64_t *)(uintptr_t)found.address;
	*error = found.error_code;
	return page;
}

/* One increment of the page's first word; what the fault said, if it did not work out. */
static int guest_increment(struct quire_vcpu *vcpu, uint64_t gfn)
{
	while (!stopped()) {
		struct quire_memory_fault exit;
		struct quire_stage2 stage2;
		uint64_t requests, error = 0, *word, seen = 0;
		int ret = quire_vcpu_enter(vcpu, &requests, &stage2);

		if (ret)
			return ret;
		word = walk(&stage2, gfn, &error);
		if (word)
			seen = atomic_fetch_add_u64(word, 1);
		quire_vcpu_leave(vcpu);
		check(seen < UINT64_C(1) << 32, "a page shows what was there before", (long)seen);
		if (word)
			return 0;
		ret = quire_vcpu_fault(vcpu, gpa_of((gfn_t){gfn}), error, &exit);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* No thread kicks: guest mode is a few loads here, and ThreadSanitizer's own locks bear no handler.
 */
static void *vcpu_main(void *ctx)
{
	uint32_t index = (uint32_t)(uintptr_t)ctx;
	uint64_t random = index + 1;

	while (!stopped()) {
		int ret = guest_increment(race.vcpus[index], next_random(&random) % GUEST_PAGES);

		/* Where the slot is not, or its file is gone. */
		check(!ret || ret == -EFAULT, "an access failed", ret);
		(void)atomic_fetch_add_u64(&race.accesses, !ret);
	}
	return NULL;
}

static int64_t fill_page(void *ctx, const struct quire_gmem_unit *unit)
{
	(void)ctx;
	atomic_store_relaxed_u64((uint64_t *)(uintptr_t)(unit->pfn.v << QUIRE_PAGE_SHIFT), 0);
	return 1;
}

static void fill_some(uint64_t *random)
{
	struct quire_gmem_fill fill = {
	    .gfn = {next_random(random) % GUEST_PAGES}, .npages = 3, .fill = fill_page};
	int64_t done = quire_gmem_populate(race.vm, &fill);

	check(done > 0 || done == -EINVAL || done == -EFAULT || done == -EEXIST, "populate",
	      (long)done);
	(void)atomic_fetch_add_u64(&race.fills, done > 0);
}

static void *puncher_main(void *ctx)
{
	uint64_t random = 77;

	(void)ctx;
	while (!stopped()) {
		uint64_t first = next_random(&random) % FILE_PAGES;
		uint64_t npages = 1 + next_random(&random) % 8;
		int error = 0;

		pthread_rwlock_rdlock(&race.gmem_lock);
		if (first + npages <= FILE_PAGES && next_random(&random) % 4 == 0)
			error = quire_gmem_allocate(race.gmem, BYTES(first), BYTES(npages), NULL);
		check(!error, "allocate", error);
		error = quire_gmem_punch(race.gmem, BYTES(first), BYTES(npages));
		pthread_rwlock_unlock(&race.gmem_lock);
		check(!error, "punch", error);
		(void)atomic_fetch_add_u64(&race.punches, 1);
		fill_some(&random);
	}
	return NULL;
}

/* The slot comes and goes, now here, now there. */
static void *binder_main(void *ctx)
{
	(void)ctx;
	for (uint64_t round = 0; !stopped(); round++) {
		struct quire_region region = {
		    .slot = SLOT,
		    .flags = QUIRE_SLOT_GMEM,
		    .gpa = gpa_of((gfn_t){round % 2 * FILE_PAGES}),
		    .size_bytes = BYTES(FILE_PAGES),
		    .hva = {UINT64_C(1) << 30},
		};
		int error;

		pthread_rwlock_rdlock(&race.gmem_lock);
		region.gmem = race.gmem;
		error = quire_vm_set_region(race.vm, &region);
		pthread_rwlock_unlock(&race.gmem_lock);
		check(!error, "bind", error);
		usleep(300);
		error = quire_vm_set_region(race.vm, &(struct quire_region){.slot = SLOT});
		check(!error, "unbind", error);
		(void)atomic_fetch_add_u64(&race.binds, 1);
	}
	return NULL;
}

/* The next file's memory will be here: what the library still did with it would be found out. */
static void store_destroyed(struct process_store *store)
{
	if (munmap(store->base, store->size_bytes))
		abort();
	(void)atomic_fetch_add_u32(&race.stores_gone, 1);
}

/* A file over fresh memory that holds garbage, so that a page not zeroed is seen. */
static struct quire_gmem *file_make(void)
{
	struct process_store *store = &race.stores[atomic_fetch_add_u32(&race.files, 1)];
	uint64_t *memory = mmap(NULL, BYTES(FILE_PAGES), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct quire_gmem *gmem = NULL;

	if (memory == MAP_FAILED)
		abort();
	for (uint64_t page = 0; page < FILE_PAGES; page++)
		memory[page * (QUIRE_PAGE_SIZE / sizeof(*memory))] = GARBAGE;
	*store = (struct process_store){
	    .base = memory, .size_bytes = BYTES(FILE_PAGES), .destroyed = store_destroyed};
	if (quire_gmem_create(race.vm, BYTES(FILE_PAGES), 0, store, &gmem))
		abort();
	return gmem;
}

/* The client closes its file, bound or not, and has another. */
static void *closer_main(void *ctx)
{
	(void)ctx;
	while (!stopped() && race.files < FILES_MAX) {
		struct quire_gmem *fresh = file_make(), *old;

		pthread_rwlock_wrlock(&race.gmem_lock);
		old = race.gmem;
		race.gmem = fresh;
		pthread_rwlock_unlock(&race.gmem_lock);
		quire_gmem_release(old);
		usleep(2000);
	}
	return NULL;
}

static void begin(void)
{
	struct quire_vm_config config = {
	    .type = QUIRE_VM_SW_PROTECTED,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &process_host_ops,
	    .host_ctx = &race.host_ctx,
	};

	quire_platform_install(&process_platform);
	if (process_signals_install() || quire_vm_create(&config, &race.vm))
		abort();
	for (uint32_t i = 0; i < VCPUS; i++)
		if (quire_vcpu_create(race.vm, i, &race.runners[i], &race.vcpus[i]))
			abort();
	if (quire_vm_set_attributes(race.vm, (gpa_t){0}, BYTES(GUEST_PAGES),
				    QUIRE_ATTRIBUTE_PRIVATE))
		abort();
	race.gmem = file_make();
}

static bool is_enough(void)
{
	return atomic_load_relaxed_u64(&race.accesses) && atomic_load_relaxed_u64(&race.punches) &&
	       atomic_load_relaxed_u64(&race.binds) && atomic_load_relaxed_u64(&race.fills) &&
	       atomic_load_relaxed_u32(&race.files) > 1;
}

static void end(uint64_t bytes_before)
{
	check(!quire_vm_is_dead(race.vm), "an invariant broke", 0);
	quire_gmem_release(race.gmem);
	for (uint32_t i = 0; i < VCPUS; i++)
		quire_vcpu_destroy(race.vcpus[i]);
	quire_vm_put(race.vm);
	check(process_bytes_allocated() == bytes_before, "memory was lost",
	      (long)(process_bytes_allocated() - bytes_before));
	check(race.stores_gone == race.files, "a store was kept", race.stores_gone);
	check(is_enough(), "a thread did nothing", 0);
}

int main(int argc, char **argv)
{
	void *(*const mains[])(void *) = {vcpu_main, vcpu_main, puncher_main, binder_main,
					  closer_main};
	pthread_t threads[sizeof(mains) / sizeof(mains[0])];
	int milliseconds = argc > 1 ? atoi(argv[1]) : 3000;
	uint64_t bytes_before = process_bytes_allocated();
	size_t count = sizeof(mains) / sizeof(mains[0]);

	begin();
	for (size_t i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, mains[i], (void *)(uintptr_t)i))
			abort();
	/* A slow machine gets longer. */
	for (int i = 0; (i < milliseconds || (i < PATIENCE_MS && !is_enough())) && !stopped();
	     i += 10)
		usleep(10000);
	atomic_store_relaxed_u32(&race.stop, 1);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	end(bytes_before);
	printf("%lu accesses, %lu punches, %lu fills, %lu binds, %u files\n",
	       (unsigned long)race.accesses, (unsigned long)race.punches, (unsigned long)race.fills,
	       (unsigned long)race.binds, race.files);
	return race.failures != 0;
}
