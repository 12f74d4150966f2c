/* Everything at once with real threads: guests that write, slots that change, logs that are read,
 * memory that is taken away. At the end no write may be missing. Made for ThreadSanitizer. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "hosts/process/process.h"
#include "src/base/atomic.h"
#include "src/entry/format.h"
#include "src/walk/range.h"

#define VCPUS 2u
#define LOGGED_PAGES 192u /* slot 0, at gfn 0 */
#define OTHER_PAGES 512u  /* slot 1, at gfn 512 */
#define GUEST_PAGES (512u + OTHER_PAGES)

static struct {
	struct quire_vm *vm;
	enum quire_format_id format;
	struct quire_vcpu *vcpus[VCPUS];
	struct process_runner runners[VCPUS];
	struct process_host host_ctx;
	struct quire_gmem *gmem;
	uint64_t *memory;
	uint64_t copy[LOGGED_PAGES]; /* first words, as the harvests led to them */
	atomic_int stop;
	atomic_int failures;
	atomic_ulong accesses;
} stress;

static void check(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "stress: %s\n", what);
	atomic_fetch_add(&stress.failures, 1);
	atomic_store(&stress.stop, 1);
}

static uint64_t *first_word(uint64_t gfn)
{
	return stress.memory + gfn * (QUIRE_PAGE_SIZE / sizeof(uint64_t));
}

/* The walk of a processor: the address of the page, or NULL with the error code. */
static uint64_t *walk(const struct quire_stage2 *stage2, uint64_t gfn, uint64_t *error)
{
	const struct entry_format *f = stage2->format;
	uint64_t *table = stage2->root;

	*error = QUIRE_PFERR_WRITE;
	for (uint32_t level = stage2->root_level;; level--) {
		uint64_t value = atomic_load_acquire_u64(&table[walk_index((gfn_t){gfn}, level)]);
		uint64_t below = level_pages((enum quire_level)level) - 1;

		if (!(value & f->hw_present))
			return NULL;
		*error |= QUIRE_PFERR_PRESENT;
		if (entry_is_mmio(f, value)) {
			*error |= QUIRE_PFERR_RSVD;
			return NULL;
		}
		if (!(value & f->writable))
			return NULL;
		if (entry_is_leaf(f, value, level))
			return (
			    uint64_t *)(uintptr_t)(((entry_pfn(value).v & ~below) + (gfn & below))
						   << QUIRE_PAGE_SHIFT);
		*error &= ~(uint64_t)QUIRE_PFERR_PRESENT;
		table = entry_table(value);
	}
}

/* Add one to the first word of @gfn. */
static int guest_increment(uint32_t index, uint64_t gfn)
{
	struct quire_vcpu *vcpu = stress.vcpus[index];

	while (!atomic_load(&stress.stop)) {
		struct quire_stage2 stage2;
		struct quire_memory_fault exit;
		uint64_t requests, error, *word;
		int ret = quire_vcpu_enter(vcpu, &requests, &stage2);

		if (ret)
			return ret;
		word = walk(&stage2, gfn, &error);
		if (word)
			(void)atomic_fetch_add_u64(word, 1);
		quire_vcpu_leave(vcpu);
		if (word)
			return 0;
		ret = quire_vcpu_fault(vcpu, (gpa_t){gfn << QUIRE_PAGE_SHIFT}, error, &exit);
		if (ret < 0 || ret == QUIRE_EMULATE)
			return ret;
	}
	return 0;
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 33;
}

static void *vcpu_main(void *ctx)
{
	uint32_t index = (uint32_t)(uintptr_t)ctx;
	uint64_t random = index + 1, done = 0, size;

	process_runner_enter(&stress.runners[index]);
	for (; !atomic_load(&stress.stop); done++) {
		uint64_t gfn = next_random(&random) % 4 ? next_random(&random) % LOGGED_PAGES
							: 512 + next_random(&random) % OTHER_PAGES;
		int ret = guest_increment(index, gfn);

		check(!ret || ret == QUIRE_EMULATE || ret == -EFAULT, "an access failed");
		if (done % 64 == 0)
			(void)!quire_vcpu_prefault(stress.vcpus[index],
						   (gpa_t){gfn << QUIRE_PAGE_SHIFT},
						   QUIRE_PAGE_SIZE, &size);
	}
	process_runner_leave(&stress.runners[index]);
	atomic_fetch_add(&stress.accesses, done);
	return NULL;
}

static int take_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

static void harvest(void)
{
	uint64_t bits[LOGGED_PAGES / 64];

	check(!quire_vm_get_dirty_log(stress.vm, 0, take_log, bits), "a harvest failed");
	for (uint64_t page = 0; page < LOGGED_PAGES; page++)
		if (bits[page / 64] >> (page % 64) & 1)
			stress.copy[page] = atomic_load_relaxed_u64(first_word(page));
}

static void *harvest_main(void *ctx)
{
	(void)ctx;
	while (!atomic_load(&stress.stop))
		harvest();
	return NULL;
}

static int set_slot(uint32_t id, uint64_t npages, uint32_t flags)
{
	struct quire_region region = {
	    .slot = id,
	    .flags = flags,
	    .gpa = {(uint64_t)id * 512 << QUIRE_PAGE_SHIFT},
	    .size_bytes = npages << QUIRE_PAGE_SHIFT,
	    .hva = {(uint64_t)(uintptr_t)first_word(id * 512)},
	    .gmem = flags & QUIRE_SLOT_GMEM ? stress.gmem : NULL,
	};

	return quire_vm_set_region(stress.vm, &region);
}

/* Slot 1 logs, stops, goes away with all roots or by range, and is back. */
static void *slots_main(void *ctx)
{
	(void)ctx;
	for (int turn = 0; !atomic_load(&stress.stop); turn++) {
		check(!set_slot(1, OTHER_PAGES, QUIRE_SLOT_LOG_DIRTY), "logging did not start");
		check(!set_slot(1, OTHER_PAGES, 0), "logging did not stop");
		quire_vm_set_slot_zap_all(stress.vm, turn & 1);
		check(!set_slot(1, 0, 0), "the slot did not go");
		check(!set_slot(1, OTHER_PAGES, 0), "the slot did not come");
	}
	return NULL;
}

static void *notifier_main(void *ctx)
{
	uint64_t random = 7 + (uint64_t)(uintptr_t)ctx;

	while (!atomic_load(&stress.stop)) {
		uint64_t page = next_random(&random) % (GUEST_PAGES - 8);
		hva_t start = {(uint64_t)(uintptr_t)first_word(page)};
		hva_t end = {start.v + (1 + next_random(&random) % 8) * QUIRE_PAGE_SIZE};

		quire_vm_host_invalidate_begin(stress.vm, start, end);
		quire_vm_host_invalidate_end(stress.vm, start, end);
	}
	return NULL;
}

/* What a kernel asks and does now and then: ages, NX recovery, the workaround on and off; and the
 * hypervisor's own accesses, to the second word of pages that nobody else writes. */
static void *keeper_main(void *ctx)
{
	uint64_t random = 17, word;

	(void)ctx;
	for (unsigned int turn = 0; !atomic_load(&stress.stop); turn++) {
		uint64_t gfn = 512 + next_random(&random) % OTHER_PAGES;
		hva_t start = {(uint64_t)(uintptr_t)first_word(gfn)};
		gpa_t gpa = {(gfn << QUIRE_PAGE_SHIFT) + 8};
		int ret;

		(void)!quire_vm_age(stress.vm, start, (hva_t){start.v + 4 * QUIRE_PAGE_SIZE},
				    turn & 1 ? QUIRE_AGE_CLEAR : QUIRE_AGE_TEST);
		ret = quire_vm_read(stress.vm, gpa, &word, sizeof(word));
		check(!ret || ret == -EFAULT, "a read of the library's failed");
		ret = quire_vm_write(stress.vm, gpa, &word, sizeof(word));
		check(!ret || ret == -EFAULT, "a write of the library's failed");
		(void)quire_vm_recover_nx_pages(stress.vm, 2);
		if (turn % 64 == 0)
			quire_vm_set_nx_huge_pages(stress.vm, turn / 64 & 1);
	}
	return NULL;
}

static void *convert_main(void *ctx)
{
	uint64_t random = 11;

	(void)ctx;
	while (!atomic_load(&stress.stop)) {
		gpa_t gpa = {next_random(&random) % LOGGED_PAGES << QUIRE_PAGE_SHIFT};
		uint64_t attributes = next_random(&random) % 2 ? QUIRE_ATTRIBUTE_PRIVATE : 0;

		check(!quire_vm_set_attributes(stress.vm, gpa, 4 * QUIRE_PAGE_SIZE, attributes),
		      "attributes were refused");
	}
	return NULL;
}

static void *punch_main(void *ctx)
{
	uint64_t random = 13;

	(void)ctx;
	while (!atomic_load(&stress.stop)) {
		uint64_t offset = next_random(&random) % (LOGGED_PAGES - 8) << QUIRE_PAGE_SHIFT;

		check(!quire_gmem_punch(stress.gmem, offset, 8 * QUIRE_PAGE_SIZE), "no punch");
		check(!quire_gmem_allocate(stress.gmem, offset, 4 * QUIRE_PAGE_SIZE, NULL),
		      "no allocation");
	}
	return NULL;
}

/* The slot is bound and unbound, so that the file's bindings change under punches. */
static void *bind_main(void *ctx)
{
	(void)ctx;
	while (!atomic_load(&stress.stop)) {
		check(!set_slot(0, 0, 0), "the slot did not go");
		check(!set_slot(0, LOGGED_PAGES, QUIRE_SLOT_GMEM), "the slot was not bound");
	}
	return NULL;
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_KICKS 1
#endif
#endif

/* The kick's handler would run inside the sanitizer's own locks; no stay in guest mode of these
 * vCPUs is long enough to need one. */
static void no_kick(void *ctx, void *cookie)
{
	(void)ctx;
	(void)cookie;
}

static const struct quire_host_ops *host_ops(void)
{
	static struct quire_host_ops ops;

	ops = process_host_ops;
#ifdef NO_KICKS
	ops.kick = no_kick;
#else
	(void)no_kick;
#endif
	return &ops;
}

static void start_vm(enum quire_vm_type type)
{
	struct quire_vm_config config = {
	    .type = type,
	    .format = stress.format,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = host_ops(),
	    .host_ctx = &stress.host_ctx,
	};

	atomic_store(&stress.stop, 0);
	memset(stress.memory, 0, GUEST_PAGES * QUIRE_PAGE_SIZE);
	memset(stress.copy, 0, sizeof(stress.copy));
	if (quire_vm_create(&config, &stress.vm))
		abort();
	for (uint32_t i = 0; i < VCPUS; i++)
		if (quire_vcpu_create(stress.vm, i, &stress.runners[i], &stress.vcpus[i]))
			abort();
}

static void end_vm(void)
{
	check(!quire_vm_is_dead(stress.vm), "the VM is dead");
	for (uint32_t i = 0; i < VCPUS; i++)
		quire_vcpu_destroy(stress.vcpus[i]);
	quire_vm_put(stress.vm);
	check(process_bytes_allocated() == 0, "memory is not given back");
}

/* The vCPUs and @others, up to a NULL, for a while. */
static void run_threads(unsigned int seconds, void *(*const *others)(void *))
{
	pthread_t threads[VCPUS + 8];
	unsigned int count = 0;

	for (; count < VCPUS; count++)
		if (pthread_create(&threads[count], NULL, vcpu_main, (void *)(uintptr_t)count))
			abort();
	for (; others[count - VCPUS]; count++)
		if (pthread_create(&threads[count], NULL, others[count - VCPUS],
				   (void *)(uintptr_t)count))
			abort();
	for (unsigned int tenth = 0; tenth < seconds * 10 && !atomic_load(&stress.stop); tenth++)
		nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	atomic_store(&stress.stop, 1);
	while (count-- > 0)
		pthread_join(threads[count], NULL);
}

static void log_phase(unsigned int seconds)
{
	static void *(*const others[])(void *) = {harvest_main,	 slots_main,  notifier_main,
						  notifier_main, keeper_main, NULL};

	start_vm(QUIRE_VM_DEFAULT);
	check(!set_slot(0, LOGGED_PAGES, QUIRE_SLOT_LOG_DIRTY), "no slot 0");
	check(!set_slot(1, OTHER_PAGES, 0), "no slot 1");
	run_threads(seconds, others);
	harvest();
	for (uint64_t page = 0; page < LOGGED_PAGES; page++)
		check(stress.copy[page] == *first_word(page), "a write that no harvest names");
	end_vm();
}

static void private_phase(unsigned int seconds)
{
	static void *(*const others[])(void *) = {convert_main, punch_main, bind_main,
						  notifier_main, NULL};
	struct process_store store = {.size_bytes = LOGGED_PAGES * QUIRE_PAGE_SIZE};
	int fd = memfd_create("stress", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)store.size_bytes))
		abort();
	store.base = mmap(NULL, store.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (store.base == MAP_FAILED)
		abort();
	close(fd);
	start_vm(QUIRE_VM_SW_PROTECTED);
	if (quire_gmem_create(stress.vm, store.size_bytes, 0, &store, &stress.gmem))
		abort();
	check(!set_slot(0, LOGGED_PAGES, QUIRE_SLOT_GMEM), "no slot 0");
	run_threads(seconds, others);
	quire_gmem_release(stress.gmem);
	end_vm();
	munmap(store.base, store.size_bytes);
}

int main(int argc, char **argv)
{
	unsigned int seconds = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 10) : 10;

	stress.memory = mmap(NULL, GUEST_PAGES * QUIRE_PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stress.memory == MAP_FAILED)
		return 2;
	quire_platform_install(&process_platform);
	if (process_signals_install())
		return 2;
	log_phase((seconds + 1) / 2);
	stress.format = QUIRE_FORMAT_EPT;
	private_phase((seconds + 1) / 2);
	printf("%lu accesses, %d failures\n", atomic_load(&stress.accesses),
	       atomic_load(&stress.failures));
	/* Nothing done is nothing tested. */
	return atomic_load(&stress.failures) || !atomic_load(&stress.accesses);
}
