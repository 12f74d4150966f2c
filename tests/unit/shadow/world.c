/* L1, L2 and the oracle. */
#include "tests/unit/shadow/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "src/entry/format.h"
#include "src/shadow/shadow.h"

#define ADDRESS UINT64_C(0x000ffffffffff000)

enum quire_mmu world_mmu;
enum quire_vm_type world_type;

static void broken(const char *text)
{
	print_error("%s\n", text);
	fail();
}

uint8_t *world_page(struct world *world, uint64_t gfn)
{
	return world->host.frames[world->host.pages[gfn].frame].bytes;
}

int world_slot(struct world *world, uint32_t id, uint32_t flags)
{
	struct quire_region region = {
	    .slot = id,
	    .flags = flags,
	    .gpa = {id * WORLD_SLOT_PAGES * QUIRE_PAGE_SIZE},
	    .size_bytes = flags == UINT32_MAX ? 0 : WORLD_SLOT_PAGES * QUIRE_PAGE_SIZE,
	    .hva = sim_hva(id * WORLD_SLOT_PAGES),
	};

	if (flags == UINT32_MAX)
		region.flags = 0;
	world->slot_there[id] = flags != UINT32_MAX;
	world->slot_flags[id] = region.flags;
	memset(world->written + id * WORLD_SLOT_PAGES, 0, WORLD_SLOT_PAGES);
	return quire_vm_set_region(world->vm, &region);
}

void world_start_vm(struct world *world)
{
	struct quire_vm_config config = {
	    .type = world_type,
	    .format = QUIRE_FORMAT_NPT,
	    .maxphyaddr = 48,
	    .mmu = world_mmu,
	    .mmio_caching = 1,
	    .host = &world->ops,
	    .host_ctx = &world->host,
	    .tunables = &world->tunables,
	};

	memset(world->cpus, 0, sizeof(world->cpus));
	memset(world->written, 0, sizeof(world->written));
	assert_int_equal(quire_vm_create(&config, &world->vm), 0);
	assert_int_equal(quire_vcpu_create(world->vm, 0, NULL, &world->vcpu), 0);
	world->cpus[0].vcpu = world->vcpu;
	assert_int_equal(world_slot(world, 0, 0), 0);
	assert_int_equal(world_slot(world, 1, 0), 0);
}

void world_start(struct world *world)
{
	memset(world, 0, sizeof(*world));
	world->ops = sim_host_ops;
	world->tunables.eager_page_split = 1;
	quire_platform_install(&sched_platform);
	sched_on_report(broken);
	assert_true(sim_host_init(&world->host));
	sim_map_huge(&world->host, WORLD_SLOT_PAGES, SIM_WRITABLE);
	for (uint32_t page = 0; page < WORLD_SLOT_PAGES; page++)
		sim_map(&world->host, page, SIM_WRITABLE);
	for (uint32_t page = 0; page < WORLD_PAGES; page++)
		memset(world_page(world, page), 0, QUIRE_PAGE_SIZE);
	world_start_vm(world);
}

void world_stop_vm(struct world *world)
{
	assert_false(quire_vm_is_dead(world->vm));
	for (uint32_t cpu = 0; cpu < WORLD_CPUS; cpu++)
		if (world->cpus[cpu].vcpu)
			quire_vcpu_destroy(world->cpus[cpu].vcpu);
	quire_vm_put(world->vm);
	assert_int_equal(world->host.allocated_bytes, 0);
	assert_int_equal(world->host.chunks, 0);
}

void world_stop(struct world *world)
{
	world_stop_vm(world);
	for (uint32_t page = 0; page < WORLD_PAGES; page++)
		sim_unmap(&world->host, page);
	for (uint32_t frame = 0; frame < SIM_FRAMES; frame++)
		assert_int_equal(world->host.frames[frame].references, 0);
	sim_host_destroy(&world->host);
	sched_on_report(NULL);
}

void world_add_cpu(struct world *world)
{
	assert_int_equal(quire_vcpu_create(world->vm, 1, NULL, &world->cpus[1].vcpu), 0);
}

int world_teardown(void **state)
{
	quire_trace_install(NULL);
	world_stop(*state);
	return 0;
}

int world_teardown_l2(void **state)
{
	world_nested(*state, 0);
	return world_teardown(state);
}

struct shadow_change world_change_begin(struct world *world, struct flush_debt *debt)
{
	assert_int_equal(shadow_reserve(world->vcpu), 0);
	flush_debt_init(debt, &world->vm->flush);
	biglock_write_lock(&world->vm->mmu_lock);
	return shadow_change_of(world->vcpu, debt);
}

void world_change_end(struct world *world, struct flush_debt *debt)
{
	shadow_commit(world->vm, debt);
	shadow_unlock(world->vm);
}

uint64_t world_stat(const struct world *world, enum quire_vm_stat which)
{
	return quire_vm_stat(world->vm, which);
}

void world_nested_on(struct world *world, uint32_t cpu, int nested)
{
	struct quire_nested tables = {
	    .root = {WORLD_ROOT * QUIRE_PAGE_SIZE}, .levels = 4, .nx = 1, .wp = 1};
	struct world_cpu *on = &world->cpus[cpu];

	if (on->nested == nested)
		return;
	on->nested = nested;
	assert_int_equal(quire_vcpu_set_nested(on->vcpu, nested ? &tables : NULL), 0);
}

void world_nested(struct world *world, int nested)
{
	world_nested_on(world, 0, nested);
}

static uint64_t error_code(enum world_access access)
{
	uint64_t error = QUIRE_PFERR_USER;

	if (access == WORLD_WRITE)
		error |= QUIRE_PFERR_WRITE;
	return access == WORLD_FETCH ? error | QUIRE_PFERR_FETCH : error;
}

/* The processor's walk of what the library hands out; sets A and D. */
static uint64_t hardware_walk(const struct quire_stage2 *stage2, uint64_t gpa,
			      enum world_access access, struct world_translation *found)
{
	uint64_t *table = stage2->root, error = error_code(access);

	found->writable = found->executable = 1;
	for (uint32_t level = 4;; level--) {
		uint32_t shift = 12 + 9 * (level - 1);
		uint64_t *entry = &table[gpa >> shift & 511], span = UINT64_C(1) << shift;

		if (!(*entry & NPT_P))
			return error;
		if (*entry >> 48 & 0xf)
			return error | QUIRE_PFERR_RSVD | QUIRE_PFERR_PRESENT;
		found->writable &= (*entry & NPT_W) != 0;
		found->executable &= !(*entry & NPT_NX);
		if (!(*entry & NPT_U) || (access == WORLD_WRITE && !found->writable) ||
		    (access == WORLD_FETCH && !found->executable))
			return error | QUIRE_PFERR_PRESENT;
		*entry |= NPT_A;
		if (level > 1 && !(*entry & NPT_PS)) {
			table = (uint64_t *)(uintptr_t)(*entry & ADDRESS);
			continue;
		}
		if (access == WORLD_WRITE)
			*entry |= NPT_D;
		/* A translation is writable once D is set. */
		found->writable &= (*entry & NPT_D) != 0;
		found->page = (gpa >> 12) + 1;
		found->host = (uint8_t *)(uintptr_t)((*entry & ADDRESS & ~(span - 1)) |
						     (gpa & (span - 1) & ~UINT64_C(0xfff)));
		return 0;
	}
}

static struct world_translation *cached(struct world_cpu *cpu, uint64_t gpa,
					enum world_access access)
{
	struct world_translation *entry = &cpu->tlb[(gpa >> 12) % WORLD_TLB];

	if (entry->page != (gpa >> 12) + 1 || (access == WORLD_WRITE && !entry->writable) ||
	    (access == WORLD_FETCH && !entry->executable))
		return NULL;
	return entry;
}

/* A store to the very table that maps it: by the hypervisor, for the processor cannot. */
static struct world_result emulate_store(struct world *world, uint64_t gpa)
{
	struct world_result result = {.host = world_page(world, gpa >> 12) + (gpa & 0xfff)};
	uint8_t same = *result.host;

	result.outcome = quire_vcpu_write(world->vcpu, (gpa_t){gpa}, &same, 1);
	return result;
}

struct world_result world_access_on(struct world *world, uint32_t index, uint64_t gpa,
				    enum world_access access)
{
	struct world_cpu *cpu = &world->cpus[index];
	struct world_result result = {0};

	for (uint32_t tries = 0; tries < 64; tries++) {
		struct quire_memory_fault fault = {0};
		struct world_translation *hit, found = {0};
		struct quire_stage2 stage2;
		uint64_t requests, error = 0;

		assert_int_equal(quire_vcpu_enter(cpu->vcpu, &requests, &stage2), 0);
		if (requests & QUIRE_REQ_TLB_FLUSH)
			memset(cpu->tlb, 0, sizeof(cpu->tlb));
		hit = cached(cpu, gpa, access);
		if (!hit) {
			error = hardware_walk(&stage2, gpa, access, &found);
			hit = &cpu->tlb[(gpa >> 12) % WORLD_TLB];
			if (!error)
				*hit = found;
		}
		/* The access itself, while the vCPU is in guest mode. */
		if (!error && world->on_access)
			world->on_access(hit->host + (gpa & 0xfff));
		quire_vcpu_leave(cpu->vcpu);
		if (!error) {
			result.outcome = 0;
			result.host = hit->host + (gpa & 0xfff);
			return result;
		}
		cpu->faults++;
		result.outcome = quire_vcpu_fault(cpu->vcpu, (gpa_t){gpa}, error, &fault);
		result.error = fault.flags;
		if (result.outcome < 0 || result.outcome == QUIRE_EMULATE ||
		    result.outcome == QUIRE_NESTED_FAULT)
			return result;
		if (result.outcome == QUIRE_WRITE_PROTECTED)
			return emulate_store(world, fault.gpa.v);
		/* The thread in the way gets a turn. */
		if (result.outcome == QUIRE_RETRY)
			sched_platform.relax(0);
	}
	result.outcome = -1000;
	return result;
}

struct world_result world_access(struct world *world, uint64_t gpa, enum world_access access)
{
	return world_access_on(world, 0, gpa, access);
}

void world_set_entry(struct world *world, uint64_t table_gfn, uint32_t index, uint64_t entry)
{
	uint64_t gpa = table_gfn * QUIRE_PAGE_SIZE + index * sizeof(entry);
	int nested = world->cpus[0].nested;
	struct world_result result;

	world_nested(world, 0);
	result = world_access(world, gpa, WORLD_WRITE);
	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(world, table_gfn) + index * sizeof(entry));
	memcpy(result.host, &entry, sizeof(entry));
	world->written[table_gfn] = 1;
	world_nested(world, nested);
}

void world_set_path(struct world *world)
{
	world_set_entry(world, WORLD_ROOT, 0, PAGE(TABLE_1G) | NPT_ALL);
	world_set_entry(world, TABLE_1G, 0, PAGE(TABLE_2M) | NPT_ALL);
	world_set_entry(world, TABLE_2M, 0, PAGE(TABLE_4K) | NPT_ALL);
}

void world_start_two(struct world *world)
{
	world_start(world);
	world_add_cpu(world);
	world_set_path(world);
}

void world_put_entry(struct world *world, uint64_t table_gfn, uint32_t index, uint64_t entry)
{
	memcpy(world_page(world, table_gfn) + index * sizeof(entry), &entry, sizeof(entry));
}

static int slot_of(const struct world *world, uint64_t gfn)
{
	if (gfn >= WORLD_PAGES || !world->slot_there[gfn / WORLD_SLOT_PAGES])
		return -1;
	return (int)(gfn / WORLD_SLOT_PAGES);
}

static struct world_result refused(enum world_access access, uint64_t why)
{
	return (struct world_result){.outcome = QUIRE_NESTED_FAULT,
				     .error = error_code(access) | why};
}

struct world_result world_oracle(struct world *world, uint64_t gpa, enum world_access access,
				 uint64_t *gfn)
{
	uint64_t table = WORLD_ROOT, all = NPT_W | NPT_U, nx = 0;

	for (uint32_t level = 4;; level--) {
		uint32_t shift = 12 + 9 * (level - 1);
		uint64_t entry, reserved = UINT64_C(0xf) << 48;

		if (slot_of(world, table) < 0)
			return refused(access, 0);
		memcpy(&entry, world_page(world, table) + (gpa >> shift & 511) * 8, 8);
		if (!(entry & NPT_P))
			return refused(access, 0);
		if (level == 4)
			reserved |= 0x180;
		else if (level > 1 && (entry & NPT_PS))
			reserved |= ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff);
		if (entry & reserved)
			return refused(access, QUIRE_PFERR_RSVD | QUIRE_PFERR_PRESENT);
		all &= entry;
		nx |= entry & NPT_NX;
		table = (entry & ADDRESS) >> 12;
		if (level > 1 && !(entry & NPT_PS))
			continue;
		*gfn = (table & ~((UINT64_C(1) << (shift - 12)) - 1)) |
		       (gpa >> 12 & ((UINT64_C(1) << (shift - 12)) - 1));
		break;
	}
	if (!(all & NPT_U) || (access == WORLD_WRITE && !(all & NPT_W)) ||
	    (access == WORLD_FETCH && nx))
		return refused(access, QUIRE_PFERR_PRESENT);
	if (slot_of(world, *gfn) < 0)
		return (struct world_result){.outcome = QUIRE_EMULATE};
	return (struct world_result){.host = world_page(world, *gfn) + (gpa & 0xfff)};
}

/* L1's entries for an address, from the root down; 0 below the leaf. */
struct path {
	uint64_t tables[5], entries[5];
};

static void read_path(struct world *world, uint64_t gpa, struct path *path)
{
	uint64_t table = WORLD_ROOT;

	memset(path, 0, sizeof(*path));
	for (uint32_t level = 4; level && slot_of(world, table) >= 0; level--) {
		uint64_t entry;

		memcpy(&entry, world_page(world, table) + (gpa >> (3 + 9 * level) & 511) * 8, 8);
		path->tables[level] = table;
		path->entries[level] = entry;
		if (level == 1 || (entry & NPT_PS) || !(entry & NPT_P))
			return;
		table = (entry & ADDRESS) >> 12;
	}
}

/* A on the whole path, D in the leaf after a write; a table where they were set was written. */
static void check_marks(struct world *world, uint64_t gpa, enum world_access access,
			const struct path *before)
{
	struct path after;

	read_path(world, gpa, &after);
	for (uint32_t level = 4; level && after.entries[level]; level--) {
		uint64_t entry = after.entries[level];

		assert_int_equal(entry & ~(NPT_A | NPT_D),
				 before->entries[level] & ~(NPT_A | NPT_D));
		assert_true(entry & NPT_A);
		if (level == 1 || (entry & NPT_PS))
			assert_true(access != WORLD_WRITE || (entry & NPT_D));
		if (entry != before->entries[level])
			world->written[after.tables[level]] = 1;
	}
}

struct world_result world_check(struct world *world, uint64_t gpa, enum world_access access)
{
	uint64_t gfn = 0;
	struct world_result result, wanted;
	struct path before;

	world_nested(world, 1);
	wanted = world_oracle(world, gpa, access, &gfn);
	read_path(world, gpa, &before);
	result = world_access(world, gpa, access);
	/* What lost its last parent goes with the lock under which it did. */
	assert_int_equal(shadow_of(world->vm)->orphans, 0);
	if (result.outcome != wanted.outcome || result.host != wanted.host)
		print_error("L2 %llx access %d: outcome %d, wanted %d; error %llx, wanted %llx\n",
			    (unsigned long long)gpa, access, result.outcome, wanted.outcome,
			    (unsigned long long)result.error, (unsigned long long)wanted.error);
	assert_int_equal(result.outcome, wanted.outcome);
	assert_ptr_equal(result.host, wanted.host);
	if (result.outcome == QUIRE_NESTED_FAULT)
		assert_int_equal(result.error, wanted.error);
	if (result.outcome)
		return result;
	check_marks(world, gpa, access, &before);
	if (access == WORLD_WRITE)
		world->written[gfn] = 1;
	return result;
}

static int take_log(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

int world_harvest(struct world *world, uint32_t id)
{
	uint64_t bits[WORLD_SLOT_PAGES / 64] = {0};
	uint8_t *written = world->written + id * WORLD_SLOT_PAGES;
	int missing = 0;

	if (quire_vm_get_dirty_log(world->vm, id, take_log, bits))
		return 1;
	for (uint32_t page = 0; page < WORLD_SLOT_PAGES; page++)
		if (written[page] && !(bits[page / 64] >> page % 64 & 1)) {
			print_error("slot %u page %u is missing in the log\n", id, page);
			missing = 1;
		}
	memset(written, 0, WORLD_SLOT_PAGES);
	return missing;
}

void world_migrate(struct world *world, uint64_t gfn)
{
	hva_t start = sim_hva((uint32_t)gfn), end = sim_hva((uint32_t)gfn + 1);
	uint8_t bytes[QUIRE_PAGE_SIZE];

	quire_vm_host_invalidate_begin(world->vm, start, end);
	memcpy(bytes, world_page(world, gfn), sizeof(bytes));
	sim_unmap(&world->host, (uint32_t)gfn);
	sim_map(&world->host, (uint32_t)gfn, SIM_WRITABLE);
	memcpy(world_page(world, gfn), bytes, sizeof(bytes));
	quire_vm_host_invalidate_end(world->vm, start, end);
}
