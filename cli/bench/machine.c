/* A VM with resident memory and vCPUs, and the steps that rows are made of. */
#include "cli/bench/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vcpu/arch.h"

struct memory {
	uint8_t *base;
	u64 size_bytes;
};

static struct memory memories[MEMORY_KINDS];

static uint8_t *map_aligned(u64 size_bytes)
{
	uint8_t *mem = mmap(NULL, size_bytes + GIB, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u64 skip;

	if (mem == MAP_FAILED)
		return NULL;
	skip = -(u64)(uintptr_t)mem & (GIB - 1);
	if (skip)
		munmap(mem, skip);
	if (GIB - skip)
		munmap(mem + skip + size_bytes, GIB - skip);
	return mem + skip;
}

/* Does the machine map all of it as @kind says? */
static bool is_of_kind(const struct memory *memory, enum memory_kind kind)
{
	u64 address = (u64)(uintptr_t)memory->base;
	u64 step = level_pages(QUIRE_LEVEL_2M) * QUIRE_PAGE_SIZE;

	for (u64 at = 0; at < memory->size_bytes; at += step) {
		enum quire_level level =
		    process_host_ops.page_level(NULL, (hva_t){address + at}, QUIRE_LEVEL_2M);

		if ((level == QUIRE_LEVEL_2M) != (kind == MEMORY_HUGE))
			return false;
	}
	return true;
}

uint8_t *memory_get(enum memory_kind kind, u64 size_bytes)
{
	struct memory *memory = &memories[kind];

	if (memory->base && memory->size_bytes >= size_bytes)
		return memory->base;
	if (memory->base)
		munmap(memory->base, memory->size_bytes);
	memory->size_bytes = size_bytes;
	memory->base = map_aligned(size_bytes);
	if (!memory->base)
		return NULL;
	madvise(memory->base, size_bytes, kind == MEMORY_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(memory->base, 1, size_bytes);
	process_mappings_changed();
	if (is_of_kind(memory, kind))
		return memory->base;
	munmap(memory->base, size_bytes);
	memory->base = NULL;
	return NULL;
}

int memfd_memory(u64 size_bytes, uint8_t **memory)
{
	int fd = memfd_create("quire-bench", MFD_CLOEXEC), error = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size_bytes))
		error = -errno;
	if (!error)
		*memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!error && *memory == MAP_FAILED)
		error = -errno;
	close(fd);
	return error;
}

static enum quire_level claim_level(void *ctx, hva_t hva, enum quire_level max)
{
	return max;
}

int machine_init(struct machine *machine, enum quire_vm_type type, unsigned int vcpus,
		 enum machine_level level)
{
	struct quire_vm_config config = {
	    .type = type,
	    .format = QUIRE_FORMAT_NPT,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &machine->host,
	    .host_ctx = &machine->host_ctx,
	    .tunables = &machine->tunables,
	};
	int error;

	memset(machine, 0, sizeof(*machine));
	machine->tunables.eager_page_split = 1;
	machine->host = process_host_ops;
	if (level == LEVEL_CLAIM_1G)
		machine->host.page_level = claim_level;
	error = quire_vm_create(&config, &machine->vm);
	for (unsigned int i = 0; i < vcpus && !error; i++)
		error = quire_vcpu_create(machine->vm, i, &machine->runners[i], &machine->vcpus[i]);
	return error;
}

static int set_region(struct machine *machine, u32 flags)
{
	struct quire_region region = {
	    .flags = flags,
	    .size_bytes = machine->npages * QUIRE_PAGE_SIZE,
	    .hva = {(u64)(uintptr_t)machine->memory},
	};

	return quire_vm_set_region(machine->vm, &region);
}

int machine_init_1g(struct machine *machine, enum memory_kind kind, unsigned int vcpus,
		    enum machine_level level)
{
	uint8_t *memory = memory_get(kind, GIB);
	int error;

	if (!memory)
		return -ENOMEM;
	error = machine_init(machine, QUIRE_VM_DEFAULT, vcpus, level);
	machine->memory = memory;
	machine->npages = GIB_PAGES;
	return error ? error : set_region(machine, 0);
}

void machine_destroy(struct machine *machine)
{
	for (unsigned int i = 0; i < BENCH_THREADS_MAX; i++)
		if (machine->vcpus[i])
			quire_vcpu_destroy(machine->vcpus[i]);
	if (machine->vm)
		quire_vm_put(machine->vm);
}

void machine_long_mode(struct cpu_state *s, u64 cr3)
{
	static const struct cpu_segment code = {
	    .limit = UINT32_MAX, .type = 11, .s = 1, .present = 1, .l = 1, .g = 1};
	static const struct cpu_segment data = {
	    .limit = UINT32_MAX, .type = 3, .s = 1, .present = 1, .db = 1, .g = 1};

	for (int i = 0; i < CPU_TR; i++)
		s->seg[i] = i == CPU_CS ? code : data;
	s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr4 = CR4_PAE | CR4_OSFXSR;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE;
	s->cr3 = cr3;
}

int machine_set_flags(struct machine *machine, u32 flags)
{
	return set_region(machine, flags);
}

int machine_set_slot(struct machine *machine, u32 slot, u32 flags, u64 size_bytes)
{
	struct quire_region region = {
	    .slot = slot,
	    .flags = flags,
	    .gpa = {slot * machine->npages * QUIRE_PAGE_SIZE},
	    .size_bytes = size_bytes,
	    .hva = {(u64)(uintptr_t)machine->memory},
	};

	return quire_vm_set_region(machine->vm, &region);
}

void machine_zap(struct machine *machine)
{
	hva_t start = {(u64)(uintptr_t)machine->memory};
	hva_t end = {start.v + machine->npages * QUIRE_PAGE_SIZE};

	quire_vm_host_invalidate_begin(machine->vm, start, end);
	quire_vm_host_invalidate_end(machine->vm, start, end);
}

/*
 * One access of a guest, from guest mode back to it. A retry is no error: two vCPUs that put the
 * same upper table in place both fault, and the one that came second runs its access again.
 */
#define TRIES_MAX 1000u
static bool fault_once(struct quire_vcpu *self, gfn_t gfn, u64 error_code,
		       struct quire_stage2 *stage2)
{
	struct quire_memory_fault exit;
	u64 requests;
	int outcome = QUIRE_RETRY;

	for (u32 i = 0; i < TRIES_MAX && outcome == QUIRE_RETRY; i++) {
		quire_vcpu_leave(self);
		outcome = quire_vcpu_fault(self, gpa_of(gfn), error_code, &exit);
		if (quire_vcpu_enter(self, &requests, stage2))
			return false;
	}
	return outcome == QUIRE_FIXED;
}

/* The leaf that the processor's walk finds; 0: none. */
static u64 find_leaf(const struct quire_stage2 *stage2, gfn_t gfn)
{
	const u64 *table = stage2->root;

	for (u32 level = stage2->root_level;; level--) {
		u64 entry = atomic_load_relaxed_u64(&table[walk_index(gfn, level)]);

		if (!quire_entry_is_present(stage2->format, entry))
			return 0;
		if (level == QUIRE_LEVEL_4K || quire_entry_is_leaf(stage2->format, entry, level))
			return entry;
		table = quire_entry_table(stage2->format, entry);
	}
}

bool machine_may_write(const struct quire_stage2 *stage2, gfn_t gfn)
{
	return find_leaf(stage2, gfn) & stage2->format->writable;
}

double machine_fault(struct machine *machine, unsigned int vcpu, const struct faults *faults)
{
	struct quire_vcpu *self = machine->vcpus[vcpu];
	struct quire_stage2 stage2;
	u64 requests, fixed = 0;
	double start;

	if (quire_vcpu_enter(self, &requests, &stage2))
		return -1;
	start = bench_now();
	for (u64 gfn = faults->first; gfn < faults->first + faults->npages; gfn += faults->stride)
		fixed += (faults->walks && find_leaf(&stage2, (gfn_t){gfn})) ||
			 fault_once(self, (gfn_t){gfn}, faults->error_code, &stage2);
	start = bench_now() - start;
	quire_vcpu_leave(self);
	return fixed == faults->npages / faults->stride ? start : -1;
}

struct parts {
	struct machine *machine;
	u64 error_code;
};

static double fault_part(void *ctx, unsigned int index)
{
	const struct parts *parts = ctx;
	u64 npages = parts->machine->npages / BENCH_THREADS_MAX;
	struct faults faults = {
	    .first = index * npages,
	    .npages = npages,
	    .stride = 1,
	    .error_code = parts->error_code,
	};

	return machine_fault(parts->machine, index, &faults);
}

double machine_fault_parts(struct machine *machine, u64 error_code)
{
	struct parts parts = {machine, error_code};

	return bench_parallel(BENCH_THREADS_MAX, fault_part, &parts);
}

double machine_populate(struct machine *machine)
{
	struct faults faults = {
	    .npages = machine->npages, .stride = 1, .error_code = FAULTS_MISSING};

	return machine_fault(machine, 0, &faults);
}

static int copy_words(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	memcpy(dst, (const uint8_t *)ctx + offset_bytes, size_bytes);
	return 0;
}

int machine_clear_log(struct machine *machine, const u64 *words)
{
	struct quire_clear_log request = {
	    .npages = (u32)machine->npages, .copy_in = copy_words, .ctx = (void *)(uintptr_t)words};

	return quire_vm_clear_dirty_log(machine->vm, &request);
}

double machine_split(struct machine *machine, u64 small_pages)
{
	static u64 words[GIB_PAGES / 64];
	double start;

	for (u64 page = 0; page < GIB_PAGES; page += QUIRE_TABLE_ENTRIES)
		words[page / 64] = 1;
	if (machine_set_flags(machine, QUIRE_SLOT_LOG_DIRTY))
		return -1;
	start = bench_now();
	if (machine_clear_log(machine, words))
		return -1;
	start = bench_now() - start;
	if (quire_vm_stat(machine->vm, QUIRE_VM_STAT_pages_4k) != small_pages ||
	    machine_set_flags(machine, 0))
		return -1;
	return start;
}
