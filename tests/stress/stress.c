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
#define TABLE_PAGES 5u /* slot 2, at gfn 1024: nested tables of all that is below */
#define FAR_SLOTS 80u  /* from slot 3 on, a page each in a block of 2 MiB of its own */
#define MEMORY_PAGES (GUEST_PAGES + TABLE_PAGES + FAR_SLOTS)
#define TLB_ENTRIES 64u

/* Where a vCPU's writes to a page go, until it is told to forget. */
struct translation {
	uint64_t gfn;
	uint64_t *page; /* NULL: not known */
};

static struct {
	struct quire_vm *vm;
	enum quire_format_id format;
	enum quire_mmu mmu;
	uint32_t far_slots;
	int has_tlbs; /* vCPUs do not look at the tables again for what they have found there */
	int in_place; /* the file owns the attributes */
	int nested;   /* the guests are L2, which L1's tables at gfn 1024 map to themselves */
	struct quire_vcpu *vcpus[VCPUS];
	struct process_runner runners[VCPUS];
	struct translation tlbs[VCPUS][TLB_ENTRIES];
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
	struct quire_translation found;
	uint64_t *page = NULL;

	if (quire_walk(stage2, gpa_of((gfn_t){gfn}), QUIRE_PFERR_WRITE | QUIRE_PFERR_USER, &found))
		page = (uint64_t *)(uintptr_t)found.address;
	*error = found.error_code;
	return page;
}

/* walk(), by way of the TLB if the vCPU has one. */
static uint64_t *look_up(uint32_t index, const struct quire_stage2 *stage2, uint64_t requests,
			 uint64_t gfn, uint64_t *error)
{
	struct translation *known = &stress.tlbs[index][gfn % TLB_ENTRIES];

	if (!stress.has_tlbs)
		return walk(stage2, gfn, error);
	if (requests & QUIRE_REQ_TLB_FLUSH)
		memset(stress.tlbs[index], 0, sizeof(stress.tlbs[index]));
	if (!known->page || known->gfn != gfn)
		*known = (struct translation){gfn, walk(stage2, gfn, error)};
	return known->page;
}

/* What a guest does to a word of its memory. */
struct store {
	uint64_t gfn, word;
	uint64_t value; /* 0: add one to what is there */
};

static void carry_out(const struct store *store, uint64_t *page)
{
	if (store->value)
		atomic_store_release_u64(&page[store->word], store->value);
	else
		(void)atomic_fetch_add_u64(&page[store->word], 1);
}

/* An outcome that is the end of it, or an error. */
static int guest_store(uint32_t index, const struct store *store)
{
	struct quire_vcpu *vcpu = stress.vcpus[index];

	while (!atomic_load(&stress.stop)) {
		struct quire_stage2 stage2;
		struct quire_memory_fault exit;
		uint64_t requests, error = 0, *page;
		int ret = quire_vcpu_enter(vcpu, &requests, &stage2);

		if (ret)
			return ret;
		page = look_up(index, &stage2, requests, store->gfn, &error);
		if (page)
			carry_out(store, page);
		quire_vcpu_leave(vcpu);
		if (page)
			return 0;
		ret = quire_vcpu_fault(vcpu, (gpa_t){store->gfn << QUIRE_PAGE_SHIFT}, error, &exit);
		if (ret < 0 || ret == QUIRE_EMULATE || ret == QUIRE_NESTED_FAULT)
			return ret;
	}
	return 0;
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 33;
}

static uint64_t choose_gfn(uint64_t *random)
{
	if (stress.far_slots && next_random(random) % 4 == 0)
		return (3 + next_random(random) % stress.far_slots) * 512;
	if (next_random(random) % 4)
		return next_random(random) % LOGGED_PAGES;
	return 512 + next_random(random) % OTHER_PAGES;
}

#define TABLE_GFN GUEST_PAGES
#define L1_ENTRY UINT64_C(7) /* present, writable, the user's */
#define L1_USED UINT64_C(0x60)

/* L1's entry for L2's @gfn: in one of the two tables of the lowest level. */
static struct store entry_store(uint64_t gfn, uint64_t random)
{
	uint64_t entry = gfn << QUIRE_PAGE_SHIFT | L1_USED | L1_ENTRY;

	/* Often as it was, else without a right. */
	if (random % 4 == 0)
		entry &= ~(random & 8 ? UINT64_C(2) : UINT64_C(1));
	return (struct store){TABLE_GFN + 3 + gfn / 512, gfn % 512, entry};
}

static void nested_tables_make(void)
{
	for (uint64_t level = 0; level < 3; level++)
		first_word(TABLE_GFN + level)[0] =
		    (TABLE_GFN + level + 1) << QUIRE_PAGE_SHIFT | L1_USED | L1_ENTRY;
	first_word(TABLE_GFN + 2)[1] = (TABLE_GFN + 4) << QUIRE_PAGE_SHIFT | L1_USED | L1_ENTRY;
	for (uint64_t gfn = 0; gfn < GUEST_PAGES; gfn++) {
		struct store store = entry_store(gfn, 1);

		first_word(store.gfn)[store.word] = store.value;
	}
}

static void set_nested(uint32_t index, int on)
{
	const struct quire_nested tables = {
	    .root = {TABLE_GFN << QUIRE_PAGE_SHIFT}, .levels = 4, .nx = 1, .wp = 1};

	check(!quire_vcpu_set_nested(stress.vcpus[index], on ? &tables : NULL), "no nested guest");
}

/* L1 runs, changes an entry, flushes, and goes back to L2. */
static void run_l1(uint32_t index, uint64_t gfn, uint64_t random)
{
	const struct store store = entry_store(gfn, random);

	set_nested(index, 0);
	check(!guest_store(index, &store), "L1 could not write its table");
	set_nested(index, 1);
	quire_vcpu_flush_nested(stress.vcpus[index]);
}

static void check_outcome(int ret)
{
	check(!ret || ret == QUIRE_EMULATE || ret == -EFAULT ||
		  (stress.nested && ret == QUIRE_NESTED_FAULT),
	      "an access failed");
}

static void *vcpu_main(void *ctx)
{
	uint32_t index = (uint32_t)(uintptr_t)ctx;
	uint64_t random = index + 1, done = 0, size;

	process_runner_enter(&stress.runners[index]);
	if (stress.nested)
		set_nested(index, 1);
	for (; !atomic_load(&stress.stop); done++) {
		const struct store store = {.gfn = choose_gfn(&random)};

		check_outcome(guest_store(index, &store));
		if (stress.nested && done % 16 == 0)
			run_l1(index, store.gfn, next_random(&random));
		if (done % 64 == 0 && !stress.nested)
			(void)!quire_vcpu_prefault(stress.vcpus[index],
						   (gpa_t){store.gfn << QUIRE_PAGE_SHIFT},
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

/* The slot @id, at a gfn of its own, shows memory from @page on. */
static int set_slot_at(uint32_t id, uint64_t npages, uint32_t flags, uint64_t page)
{
	struct quire_region region = {
	    .slot = id,
	    .flags = flags,
	    .gpa = {(uint64_t)id * 512 << QUIRE_PAGE_SHIFT},
	    .size_bytes = npages << QUIRE_PAGE_SHIFT,
	    .hva = {(uint64_t)(uintptr_t)first_word(page)},
	    .gmem = flags & QUIRE_SLOT_GMEM ? stress.gmem : NULL,
	};

	return quire_vm_set_region(stress.vm, &region);
}

static int set_slot(uint32_t id, uint64_t npages, uint32_t flags)
{
	return set_slot_at(id, npages, flags, id * 512);
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

/* Splits what is huge ahead of the logs, and passes holes over. */
static void *splitter_main(void *ctx)
{
	const uint64_t end = GUEST_PAGES * QUIRE_PAGE_SIZE;
	uint64_t at = 0, done = 0;

	(void)ctx;
	for (; !atomic_load(&stress.stop); at = (at + done) % end) {
		int err = quire_vm_split(stress.vm, 0, (gpa_t){at}, end - at, &done);

		check(!err || err == -ENOENT, "a split failed");
	}
	return NULL;
}

static void *notifier_main(void *ctx)
{
	uint64_t random = 7 + (uint64_t)(uintptr_t)ctx;

	while (!atomic_load(&stress.stop)) {
		uint64_t page = next_random(&random) % (MEMORY_PAGES - 8);
		hva_t start = {(uint64_t)(uintptr_t)first_word(page)};
		hva_t end = {start.v + (1 + next_random(&random) % 8) * QUIRE_PAGE_SIZE};

		quire_vm_host_invalidate_begin(stress.vm, start, end);
		quire_vm_host_invalidate_end(stress.vm, start, end);
	}
	return NULL;
}

/* What a kernel asks and does now and then: ages, NX recovery, the workaround on and off; and the
 * hypervisor's own accesses, to the second word of pages without another writer. */
static void *keeper_main(void *ctx)
{
	uint64_t random = 17, word;

	(void)ctx;
	for (unsigned int turn = 0; !atomic_load(&stress.stop); turn++) {
		uint64_t gfn = 512 + next_random(&random) % OTHER_PAGES;
		uint64_t aged = next_random(&random) % (GUEST_PAGES - 4);
		hva_t start = {(uint64_t)(uintptr_t)first_word(aged)};
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

/* The limit on shadow pages goes up and down: at its lowest some are always in the way. */
static void *quota_main(void *ctx)
{
	(void)ctx;
	for (unsigned int turn = 0; !atomic_load(&stress.stop); turn++)
		check(!quire_vm_set_nr_mmu_pages(stress.vm, turn & 1 ? 64 : 256), "no limit");
	return NULL;
}

/* The hypervisor of L1 writes its tables for it, as when it emulates an instruction. */
static void *l1_tables_main(void *ctx)
{
	uint64_t random = 19;

	(void)ctx;
	while (!atomic_load(&stress.stop)) {
		uint64_t gfn = choose_gfn(&random);
		struct store store = entry_store(gfn, next_random(&random));
		gpa_t gpa = {(store.gfn << QUIRE_PAGE_SHIFT) + store.word * sizeof(uint64_t)};

		check(!quire_vm_write(stress.vm, gpa, &store.value, sizeof(store.value)),
		      "a nested table was not written");
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	return NULL;
}

static void convert_in_place(uint64_t offset_bytes, uint64_t attributes)
{
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = offset_bytes,
	    .size_bytes = 4 * QUIRE_PAGE_SIZE,
	    .attributes = attributes,
	};

	check(!quire_gmem_set_attributes(stress.gmem, &conversion), "a conversion was refused");
}

static void *convert_main(void *ctx)
{
	uint64_t random = 11;

	(void)ctx;
	while (!atomic_load(&stress.stop)) {
		gpa_t gpa = {next_random(&random) % LOGGED_PAGES << QUIRE_PAGE_SHIFT};
		uint64_t attributes = next_random(&random) % 2 ? QUIRE_ATTRIBUTE_PRIVATE : 0;

		if (stress.in_place)
			convert_in_place(gpa.v % ((LOGGED_PAGES - 4) * QUIRE_PAGE_SIZE),
					 attributes);
		else
			check(!quire_vm_set_attributes(stress.vm, gpa, 4 * QUIRE_PAGE_SIZE,
						       attributes),
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

/* Filled in before any thread begins: VMs that come and go read it side by side. */
static struct quire_host_ops host_ops;

static void host_ops_init(void)
{
	host_ops = process_host_ops;
#ifdef NO_KICKS
	host_ops.kick = no_kick;
#else
	(void)no_kick;
#endif
}

static struct quire_vm *make_vm(enum quire_vm_type type)
{
	struct quire_vm_config config = {
	    .type = type,
	    .format = stress.format,
	    .mmu = stress.mmu,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &host_ops,
	    .host_ctx = &stress.host_ctx,
	    .gmem_in_place_conversion = stress.in_place,
	};
	struct quire_vm *vm;

	if (quire_vm_create(&config, &vm))
		abort();
	return vm;
}

/* The pages are another VM's, too, for as long as that lives: what takes them takes them there. */
static void share_once(struct process_runner *runner)
{
	struct quire_vm *vm = make_vm(QUIRE_VM_SW_PROTECTED);
	struct quire_region region = {
	    .flags = QUIRE_SLOT_GMEM,
	    .size_bytes = LOGGED_PAGES << QUIRE_PAGE_SHIFT,
	    .hva = {(uint64_t)(uintptr_t)first_word(0)},
	};
	struct quire_vcpu *vcpu;
	uint64_t done;

	check(!quire_gmem_link(stress.gmem, vm, &region.gmem), "no link");
	if (quire_vcpu_create(vm, 0, runner, &vcpu))
		abort();
	if (!stress.in_place)
		check(!quire_vm_set_attributes(vm, region.gpa, region.size_bytes,
					       QUIRE_ATTRIBUTE_PRIVATE),
		      "attributes of a link were refused");
	check(!quire_vm_set_region(vm, &region), "a link was not bound");
	for (uint64_t gpa = 0; gpa < region.size_bytes && !atomic_load(&stress.stop); gpa += done)
		if (quire_vcpu_prefault(vcpu, (gpa_t){gpa}, QUIRE_PAGE_SIZE, &done))
			done = QUIRE_PAGE_SIZE; /* it was converted or punched just then */
	check(!quire_gmem_punch(region.gmem, 0, 4 * QUIRE_PAGE_SIZE), "no punch by a link");
	quire_gmem_release(region.gmem);
	quire_vcpu_destroy(vcpu);
	quire_vm_put(vm);
}

static void *share_main(void *ctx)
{
	static struct process_runner runner;

	(void)ctx;
	while (!atomic_load(&stress.stop))
		share_once(&runner);
	return NULL;
}

static void start_vm(enum quire_vm_type type)
{
	atomic_store(&stress.stop, 0);
	memset(stress.memory, 0, MEMORY_PAGES * QUIRE_PAGE_SIZE);
	memset(stress.copy, 0, sizeof(stress.copy));
	memset(stress.tlbs, 0, sizeof(stress.tlbs));
	stress.vm = make_vm(type);
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
	check(stress.host_ctx.pinned == 0, "a page is kept for ever");
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

/* Guests that write a logged slot, with @others: the harvests must lead to every write. */
static void log_phase(unsigned int seconds, void *(*const *others)(void *))
{
	start_vm(QUIRE_VM_DEFAULT);
	check(!set_slot(0, LOGGED_PAGES, QUIRE_SLOT_LOG_DIRTY), "no slot 0");
	check(!set_slot(1, OTHER_PAGES, 0), "no slot 1");
	check(!set_slot(2, TABLE_PAGES, 0), "no slot 2");
	for (uint32_t slot = 0; slot < stress.far_slots; slot++)
		check(!set_slot_at(3 + slot, 1, 0, GUEST_PAGES + TABLE_PAGES + slot),
		      "no far slot");
	if (stress.nested)
		nested_tables_make();
	run_threads(seconds, others);
	harvest();
	for (uint64_t page = 0; page < LOGGED_PAGES; page++)
		check(stress.copy[page] == *first_word(page), "a write that no harvest names");
	end_vm();
}

static void tdp_phase(unsigned int seconds)
{
	static void *(*const others[])(void *) = {harvest_main,	 slots_main,	notifier_main,
						  splitter_main, notifier_main, keeper_main,
						  NULL};

	log_phase(seconds, others);
}

/* Aging takes W from what the TLBs keep, and few but the harvests flush them. */
static void aging_phase(unsigned int seconds)
{
	static void *(*const others[])(void *) = {harvest_main, keeper_main, NULL};

	stress.format = QUIRE_FORMAT_EPT_NO_AD;
	stress.has_tlbs = 1;
	log_phase(seconds, others);
	stress.has_tlbs = 0;
}

/* Shadow pages serve the guest itself, and there are never enough of them. */
static void shadow_phase(unsigned int seconds)
{
	static void *(*const others[])(void *) = {harvest_main, slots_main, notifier_main,
						  keeper_main,	quota_main, NULL};

	stress.mmu = QUIRE_MMU_SHADOW;
	stress.far_slots = FAR_SLOTS;
	log_phase(seconds, others);
	stress.mmu = QUIRE_MMU_TDP;
	stress.far_slots = 0;
}

static void nested_phase(unsigned int seconds)
{
	static void *(*const others[])(void *) = {harvest_main,	 slots_main,  notifier_main,
						  splitter_main, keeper_main, l1_tables_main,
						  NULL};

	stress.nested = 1;
	log_phase(seconds, others);
	stress.nested = 0;
}

static void private_phase(unsigned int seconds, int in_place)
{
	static void *(*const others[])(void *) = {convert_main, punch_main,    bind_main,
						  share_main,	notifier_main, NULL};
	struct process_store store = {.size_bytes = LOGGED_PAGES * QUIRE_PAGE_SIZE};
	int fd = memfd_create("stress", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)store.size_bytes))
		abort();
	store.base = mmap(NULL, store.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (store.base == MAP_FAILED)
		abort();
	close(fd);
	stress.in_place = in_place;
	start_vm(QUIRE_VM_SW_PROTECTED);
	if (quire_gmem_create(stress.vm, store.size_bytes, 0, &store, &stress.gmem))
		abort();
	check(!set_slot(0, LOGGED_PAGES, QUIRE_SLOT_GMEM), "no slot 0");
	run_threads(seconds, others);
	quire_gmem_release(stress.gmem);
	end_vm();
	munmap(store.base, store.size_bytes);
	stress.in_place = 0;
}

int main(int argc, char **argv)
{
	unsigned int seconds = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 10) : 10;

	stress.memory = mmap(NULL, MEMORY_PAGES * QUIRE_PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stress.memory == MAP_FAILED)
		return 2;
	quire_platform_install(&process_platform);
	if (process_signals_install())
		return 2;
	host_ops_init();
	seconds = (seconds + 5) / 6;
	tdp_phase(seconds);
	shadow_phase(seconds);
	nested_phase(seconds);
	stress.format = QUIRE_FORMAT_EPT;
	private_phase(seconds, 0);
	private_phase(seconds, 1);
	aging_phase(seconds);
	printf("%lu accesses, %d failures\n", atomic_load(&stress.accesses),
	       atomic_load(&stress.failures));
	/* Nothing done is nothing tested. */
	return atomic_load(&stress.failures) || !atomic_load(&stress.accesses);
}
