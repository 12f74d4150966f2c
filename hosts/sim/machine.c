/* A VM on the simulated host, and its vCPUs. */
#include "hosts/sim/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <quire/stats.h>
#include <quire/vcpu.h>

#include "src/base/assert.h"
#include "src/vm/check.h"
#include "src/shadow/shadow.h"
#include "src/vm/vm.h"
#include "src/walk/range.h"

/* Of a function: the memory model does not look at its accesses. */
#if defined(__clang__)
#define UNSEEN __attribute__((no_sanitize("thread")))
#else
#define UNSEEN
#endif

/* Set by the library's configuration as the frontend sets it. */
static struct quire_vm_config config_of(struct machine *machine, enum quire_vm_type type)
{
	return (struct quire_vm_config){
	    .type = type,
	    .format = machine->format,
	    .mmu = machine->mmu,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &sim_host_ops,
	    .host_ctx = &machine->host,
	    /* So that a pointer where a physical address belongs leads nowhere, and the reverse. */
	    .table_offset = 0x12345 * QUIRE_PAGE_SIZE,
	    .tunables = &machine->tunables,
	    .confidential = type == QUIRE_VM_SW_PROTECTED ? machine->confidential : NULL,
	    .confidential_ctx = machine->confidential_ctx,
	    .gmem_in_place_conversion = machine->in_place,
	};
}

void machine_init_rows(struct machine *machine, uint32_t rows)
{
	quire_platform_install(&sched_platform);
	memset(machine, 0, sizeof(*machine));
	machine->vcpu_count = 2;
	machine->tunables.eager_page_split = 1;
	if (!sim_host_init_rows(&machine->host, rows))
		abort();
}

void machine_init(struct machine *machine)
{
	machine_init_rows(machine, 0);
}

static void notify_begin(void *vm, hva_t start, hva_t end)
{
	quire_vm_host_invalidate_begin(vm, start, end);
}

static void notify_end(void *vm, hva_t start, hva_t end)
{
	quire_vm_host_invalidate_end(vm, start, end);
}

#ifdef QUIRE_CHECK
static const struct machine *judged;

uint32_t machine_entries(const struct quire_vcpu *vcpu, uint64_t gfn,
			 const uint64_t *entries[MACHINE_LEVELS_MAX], int *is_leaf)
{
	const struct quire_vm *vm = vcpu->vm;
	const struct entry_format *f = &vm->tdp_format;
	const struct table *root = vm->roots.valid[vcpu->as_id];
	const uint64_t *table =
	    root ? entry_root_table(f, table_entries(root), (gfn_t){gfn}) : NULL;
	uint32_t level = f->root_level, count = 0;

	if (vm_is_shadowed(vm)) {
		f = &vm->shadow_format;
		table = shadow_of(vm) && shadow_root_is_valid(vcpu) ? vcpu->shadow.entries : NULL;
		level = QUIRE_LEVEL_512G;
	}
	for (*is_leaf = 0; table && !*is_leaf; level--) {
		const uint64_t *entry = &table[walk_index((gfn_t){gfn}, level)];

		entries[count++] = entry;
		if (!entry_is_present(f, *entry))
			break;
		*is_leaf = entry_is_leaf(f, *entry, level);
		table = *is_leaf ? NULL : entry_table(f, *entry);
	}
	return count;
}

/* The page that the tables show @vcpu at @gfn, whatever its rights; NULL without one. */
static const uint8_t *page_now(const struct quire_vcpu *vcpu, uint64_t gfn)
{
	const struct quire_vm *vm = vcpu->vm;
	bool is_shadowed = vm_is_shadowed(vm);
	const struct entry_format *f = is_shadowed ? &vm->shadow_format : &vm->tdp_format;
	const uint64_t *entries[MACHINE_LEVELS_MAX];
	int is_leaf;
	uint32_t count = machine_entries(vcpu, gfn, entries, &is_leaf);
	uint32_t level = (is_shadowed ? QUIRE_LEVEL_512G : f->root_level) + 1 - count;

	if (!is_leaf)
		return NULL;
	return (const uint8_t *)(uintptr_t)((entry_pfn(f, *entries[count - 1]).v +
					     (gfn & (level_pages((enum quire_level)level) - 1)))
					    << QUIRE_PAGE_SHIFT);
}

/*
 * I-50: a translation that the tables no longer have is in no TLB, but in one that its vCPU drops
 * on its way into guest mode.
 */
static void judge_tlbs(const struct quire_vm *vm)
{
	const uint64_t dropping = QUIRE_REQ_TLB_FLUSH | QUIRE_REQ_RELOAD;

	for (uint32_t i = 0; judged && judged->vm == vm && i < judged->vcpu_count; i++) {
		const struct quire_vcpu *vcpu = judged->vcpus[i];
		const struct machine_cpu *cpu = &judged->cpus[i];

		if (!vcpu || cpu->mode == MACHINE_ENTERING ||
		    (cpu->mode == MACHINE_OUT && (vcpu->mode.doorbell & dropping)))
			continue;
		for (uint32_t at = 0; at < MACHINE_TLB; at++)
			CHECK(!cpu->tlb[at].page ||
			      page_now(vcpu, cpu->tlb[at].gfn) == cpu->tlb[at].page);
	}
}

static void judge_from_now_on(const struct machine *machine)
{
	judged = machine->judges ? machine : NULL;
	vm_check_also = machine->judges ? judge_tlbs : NULL;
}
#else
static void judge_from_now_on(const struct machine *machine)
{
	(void)machine;
}
#endif

static void start_vm(struct machine *machine, const struct quire_vm_config *config)
{
	memset(machine->cpus, 0, sizeof(machine->cpus));
	machine->conflicts = 0;
	if (quire_vm_create(config, &machine->vm))
		abort();
	if (machine->rings && quire_vm_enable_dirty_ring(machine->vm, MACHINE_RING_BYTES))
		abort();
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct quire_vcpu **vcpu = &machine->vcpus[i];

		if (quire_vcpu_create(machine->vm, i, NULL, vcpu))
			abort();
		if (machine->rings && quire_vcpu_set_dirty_ring(*vcpu, machine->cpus[i].ring))
			abort();
	}
}

void machine_start(struct machine *machine, enum quire_vm_type type)
{
	struct quire_vm_config config = config_of(machine, type);

	judge_from_now_on(machine);
	sim_host_reset(&machine->host);
	start_vm(machine, &config);
	machine->host.notifier =
	    (struct sim_notifier){.begin = notify_begin, .end = notify_end, .ctx = machine->vm};
}

void machine_start_second(struct machine *second, const struct machine *first)
{
	struct quire_vm_config config = first->vm->config;

	second->vcpu_count = first->vcpu_count;
	second->rings = first->rings;
	start_vm(second, &config);
}

static void count_leaves(const struct entry_format *f, const uint64_t *table, uint32_t level,
			 uint64_t leaves[5])
{
	for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		if (!(table[i] & f->present))
			continue;
		if (entry_is_leaf(f, table[i], level))
			leaves[level]++;
		else
			count_leaves(f, entry_table(f, table[i]), level - 1, leaves);
	}
}

static void count_root(const struct entry_format *f, const struct table *root, uint64_t leaves[5])
{
	for (uint32_t i = 0; i < entry_root_tables(f); i++)
		count_leaves(f, table_entries(&root[i]), f->root_level, leaves);
}

/* The pages are all on one list, whatever points to them. */
static void count_shadow_leaves(const struct shadow *shadow, uint64_t leaves[5])
{
	for (const struct shadow_page *page = shadow->newest; page; page = page->older) {
		const uint64_t *entries = table_entries(page->table);
		uint32_t level = role_level(page->role);

		for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++)
			leaves[level] += entry_is_present(&entry_npt, entries[i]) &&
					 entry_is_leaf(&entry_npt, entries[i], level);
	}
}

bool machine_is_sound(struct machine *machine)
{
	const struct quire_vm *vm = machine->vm;
	uint64_t leaves[5] = {0};

	if (vm->shadow)
		count_shadow_leaves(vm->shadow, leaves);
	for (uint32_t as = 0; as < QUIRE_AS_MAX; as++)
		if (vm->roots.valid[as])
			count_root(&vm->tdp_format, vm->roots.valid[as], leaves);
	return !machine->conflicts && !vm->dead && !vm->invalidation.in_progress &&
	       !vm->accesses.inside[0] && !vm->accesses.inside[1] && !vm->invalidation.active &&
	       leaves[1] == quire_vm_stat(vm, QUIRE_VM_STAT_pages_4k) &&
	       leaves[2] == quire_vm_stat(vm, QUIRE_VM_STAT_pages_2m) &&
	       leaves[3] == quire_vm_stat(vm, QUIRE_VM_STAT_pages_1g);
}

void machine_end_vm(struct machine *machine)
{
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct quire_vcpu *vcpu = machine->vcpus[i];

		machine->vcpus[i] = NULL;
		quire_vcpu_destroy(vcpu);
	}
	quire_vm_put(machine->vm);
	machine->host.notifier.ctx = NULL;
}

bool machine_is_empty(struct machine *machine)
{
	struct sim_host *host = &machine->host;

	sim_unmap_range(host, 0, host->page_count);
	if (host->zero_frame != SIM_NO_FRAME)
		sim_frames_put(host, host->zero_frame, 1);
	for (uint32_t frame = 0; frame < host->frame_count; frame++)
		if (host->frames[frame].references)
			return false;
	return host->allocated_bytes == 0 && host->chunks == 0;
}

bool machine_stop(struct machine *machine)
{
	bool sound = machine_is_sound(machine);

	machine_end_vm(machine);
	return machine_is_empty(machine) && sound;
}

void machine_destroy(struct machine *machine)
{
	sim_host_destroy(&machine->host);
}

int machine_add_slot(struct machine *machine, uint32_t page, uint32_t npages, uint32_t flags)
{
	struct quire_region region = {
	    .flags = flags,
	    .size_bytes = npages * QUIRE_PAGE_SIZE,
	    .hva = sim_hva(page),
	};

	return quire_vm_set_region(machine->vm, &region);
}

/* The walker's A, and D for a write: true when the entry is as it was read. */
static bool set_accessed(const struct quire_format *f, uint64_t *entry, uint64_t value, bool write)
{
	uint64_t new = value | f->accessed | (write ? f->dirty : 0);

	return new == value || atomic_cmpxchg_u64(entry, &value, new);
}

/* What the processor does with a gpa: true with the translation, or the violation's error. */
static bool walk(const struct quire_stage2 *stage2, const struct machine_access *access,
		 struct machine_translation *translation, uint64_t *error)
{
	const struct quire_format *f = stage2->format;
	gfn_t gfn = {access->gpa >> QUIRE_PAGE_SHIFT};
	uint64_t *entry;

	*error = access->write ? QUIRE_PFERR_WRITE : access->fetch ? QUIRE_PFERR_FETCH : 0;
	if (access->gpa / quire_level_bytes(stage2->root_level) >= f->root_entries)
		return false;
	entry = quire_root_entry(stage2, (gpa_t){access->gpa});
	for (uint32_t level = stage2->root_level;; level--) {
		uint64_t value = atomic_load_acquire_u64(entry);
		uint64_t mask = (level_pages((enum quire_level)level) << QUIRE_PAGE_SHIFT) - 1;
		uint64_t host, bad = quire_entry_error(f, value);
		bool leaf = quire_entry_is_leaf(f, value, level);

		*error |= bad;
		if (bad || !quire_entry_is_present(f, value))
			return false;
		if ((leaf || f->table_rights) && !quire_entry_allows(f, value, *error)) {
			*error |= QUIRE_PFERR_PRESENT;
			return false;
		}
		if (!leaf) {
			entry = &quire_entry_table(f, value)[walk_index(gfn, level - 1)];
			continue;
		}
		if (!set_accessed(f, entry, value, access->write)) {
			level++; /* the same entry again */
			continue;
		}
		host = (quire_entry_address(f, value) & ~mask) + (access->gpa & mask);
		*translation = (struct machine_translation){
		    .gfn = gfn.v,
		    .page = (uint8_t *)(uintptr_t)(host & QUIRE_PAGE_MASK),
		    .level = level,
		    .readable = quire_entry_allows(f, value, 0),
		    .writable = access->write,
		    .executable = quire_entry_is_executable(f, value),
		};
		return true;
	}
}

/* Does another translation of the TLB, of another size, translate a part of the same block? */
static bool has_conflict(const struct machine_cpu *cpu, const struct machine_translation *added)
{
	for (uint32_t i = 0; i < MACHINE_TLB; i++) {
		const struct machine_translation *other = &cpu->tlb[i];
		uint32_t larger = other->level > added->level ? other->level : added->level;

		if (other->page && other->level != added->level &&
		    !((other->gfn ^ added->gfn) / level_pages((enum quire_level)larger)))
			return true;
	}
	return false;
}

/* The guest's own bytes: whether its vCPUs race for them is no matter of the library's. */
UNSEEN static void copy_guest(struct machine_access *access, uint8_t *place)
{
	if (access->write)
		memcpy(place, &access->value, access->size_bytes);
	else
		memcpy(&access->value, place, access->size_bytes);
}

/* In guest mode: one access, or false with the error code. */
static bool guest_access(struct machine *machine, uint32_t index, const struct quire_stage2 *stage2,
			 struct machine_access *access, uint64_t *error)
{
	uint64_t gfn = access->gpa >> QUIRE_PAGE_SHIFT;
	struct machine_translation *translation = &machine->cpus[index].tlb[gfn % MACHINE_TLB];
	uint8_t *place;

	if (!translation->page || translation->gfn != gfn ||
	    (!access->fetch && !translation->readable) ||
	    (access->write && !translation->writable) ||
	    (access->fetch && !translation->executable)) {
		translation->page = NULL;
		if (!walk(stage2, access, translation, error))
			return false;
		if (machine->vm->tdp_format.breaks)
			atomic_add_relaxed_u32(&machine->conflicts,
					       has_conflict(&machine->cpus[index], translation));
	}
	/* Other threads run between the translation and the access, as on a machine. */
	sched_yield_point();
	place = &translation->page[access->gpa & ~QUIRE_PAGE_MASK];
	copy_guest(access, place);
	if (machine->on_access)
		machine->on_access(machine->on_access_ctx, access, translation->page);
	return true;
}

int machine_access(struct machine *machine, uint32_t index, struct machine_access *access)
{
	struct quire_vcpu *vcpu = machine->vcpus[index];
	struct machine_cpu *cpu = &machine->cpus[index];
	struct quire_memory_fault fault;

	access->error = 0;
	access->space = vcpu->as_id;
	for (;;) {
		struct quire_stage2 stage2;
		uint64_t requests, error;
		bool done;
		int ret;

		cpu->mode = MACHINE_ENTERING;
		ret = quire_vcpu_enter(vcpu, &requests, &stage2);
		if (!ret && (requests & QUIRE_REQ_TLB_FLUSH))
			memset(cpu->tlb, 0, sizeof(cpu->tlb));
		cpu->mode = ret ? MACHINE_OUT : MACHINE_IN_GUEST;
		if (ret)
			return ret;
		done = guest_access(machine, index, &stage2, access, &error);
		cpu->mode = MACHINE_OUT;
		quire_vcpu_leave(vcpu);
		if (done)
			return 0;
		access->error = error;
		if (access->nowait)
			error |= QUIRE_PFERR_NOWAIT;
		ret = quire_vcpu_fault(vcpu, (gpa_t){access->gpa}, error, &fault);
		if (ret == -EAGAIN)
			access->hva = fault.hva;
		if (ret < 0 || ret == QUIRE_EMULATE)
			return ret;
		/* The thread in the way must get a turn: the scheduler is not fair by itself. */
		if (ret == QUIRE_RETRY)
			sched_platform.relax(0);
	}
}

int machine_load(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t *value)
{
	struct machine_access access = {.gpa = gpa, .size_bytes = 1};
	int ret = machine_access(machine, index, &access);

	*value = (uint8_t)access.value;
	return ret;
}

int machine_fetch(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t *value)
{
	struct machine_access access = {.gpa = gpa, .size_bytes = 1, .fetch = 1};
	int ret = machine_access(machine, index, &access);

	*value = (uint8_t)access.value;
	return ret;
}

int machine_store(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t value)
{
	struct machine_access access = {.gpa = gpa, .size_bytes = 1, .write = 1, .value = value};

	return machine_access(machine, index, &access);
}

bool machine_try(uint32_t *busy)
{
	return !__atomic_exchange_n(busy, 1, __ATOMIC_ACQ_REL);
}

void machine_done(uint32_t *busy)
{
	__atomic_store_n(busy, 0, __ATOMIC_RELEASE);
}

void machine_read_ring(struct machine *machine, uint32_t index,
		       void (*seen)(void *ctx, uint32_t slot, uint64_t offset), void *ctx)
{
	struct machine_cpu *cpu = &machine->cpus[index];

	for (;;) {
		struct quire_ring_entry *entry = &cpu->ring[cpu->ring_read % MACHINE_RING_ENTRIES];

		if (atomic_load_acquire_u32(&entry->flags) != 1)
			return;
		seen(ctx, entry->slot, entry->offset);
		atomic_store_release_u32(&entry->flags, 2);
		cpu->ring_read++;
	}
}
