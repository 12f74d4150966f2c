/* A VM on the simulated host, and its vCPUs. */
#include "tests/sim/machine.h"

#include <stdlib.h>
#include <string.h>

#include <quire/vcpu.h>

#include "src/base/atomic.h"
#include "src/walk/range.h"

/* Set by the library's configuration as the frontend sets it. */
static struct quire_vm_config config_of(struct machine *machine, enum quire_vm_type type)
{
	return (struct quire_vm_config){
	    .type = type,
	    .format = QUIRE_FORMAT_NPT,
	    .maxphyaddr = 48,
	    .mmio_caching = 1,
	    .host = &sim_host_ops,
	    .host_ctx = &machine->host,
	};
}

void machine_init(struct machine *machine)
{
	quire_platform_install(&sched_platform);
	if (!sim_host_init(&machine->host))
		abort();
}

void machine_start(struct machine *machine, enum quire_vm_type type)
{
	struct quire_vm_config config = config_of(machine, type);

	sim_host_reset(&machine->host);
	if (quire_vm_create(&config, &machine->vm))
		abort();
	for (uint32_t i = 0; i < MACHINE_VCPUS; i++)
		if (quire_vcpu_create(machine->vm, i, NULL, &machine->vcpus[i]))
			abort();
}

bool machine_stop(struct machine *machine)
{
	struct sim_host *host = &machine->host;

	for (uint32_t i = 0; i < MACHINE_VCPUS; i++)
		quire_vcpu_destroy(machine->vcpus[i]);
	quire_vm_put(machine->vm);
	for (uint32_t page = 0; page < SIM_PAGES; page++)
		sim_unmap(host, page);
	for (uint32_t frame = 0; frame < SIM_FRAMES; frame++)
		if (host->frames[frame].references)
			return false;
	return host->allocated_bytes == 0 && host->chunks == 0;
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

/* What the processor does with a gpa: the frame's bytes, or the error code of a violation. */
static uint8_t *walk(const struct quire_stage2 *stage2, uint64_t gpa, bool write, uint64_t *error)
{
	const struct entry_format *f = stage2->format;
	gfn_t gfn = {gpa >> QUIRE_PAGE_SHIFT};
	uint64_t *table = stage2->root;

	*error = write ? QUIRE_PFERR_WRITE : 0;
	for (uint32_t level = stage2->root_level;; level--) {
		uint64_t *entry = &table[walk_index(gfn, level)];
		uint64_t value = atomic_load_acquire_u64(entry);

		if (!(value & f->hw_present))
			return NULL;
		if (value & (UINT64_C(1) << 51)) {
			*error |= QUIRE_PFERR_RSVD | QUIRE_PFERR_PRESENT;
			return NULL;
		}
		if (write && !(value & f->writable)) {
			*error |= QUIRE_PFERR_PRESENT;
			return NULL;
		}
		if (!entry_is_leaf(f, value, level)) {
			table = entry_table(value);
			continue;
		}
		uint64_t mask = (level_pages((enum quire_level)level) << QUIRE_PAGE_SHIFT) - 1;

		return (uint8_t *)(uintptr_t)((value & ENTRY_ADDRESS_MASK & ~mask) + (gpa & mask));
	}
}

struct access {
	uint64_t gpa;
	bool write;
	uint8_t value;
};

static int access_memory(struct machine *machine, uint32_t index, struct access *access)
{
	struct quire_vcpu *vcpu = machine->vcpus[index];
	struct quire_memory_fault fault;

	for (;;) {
		struct quire_stage2 stage2;
		uint64_t requests, error;
		uint8_t *byte;
		int ret = quire_vcpu_enter(vcpu, &requests, &stage2);

		if (ret)
			return ret;
		byte = walk(&stage2, access->gpa, access->write, &error);
		/* Other threads run between the walk and the access, as on a machine. */
		(void)atomic_load_relaxed_u64(quire_vcpu_doorbell(vcpu));
		if (byte && access->write)
			*byte = access->value;
		else if (byte)
			access->value = *byte;
		quire_vcpu_leave(vcpu);
		if (byte)
			return 0;
		ret = quire_vcpu_fault(vcpu, (gpa_t){access->gpa}, error, &fault);
		if (ret < 0 || ret == QUIRE_EMULATE)
			return ret;
		/* Whoever is in the way must get a turn: the scheduler is not fair by itself. */
		if (ret == QUIRE_RETRY)
			sched_platform.relax(0);
	}
}

int machine_load(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t *value)
{
	struct access access = {.gpa = gpa};
	int ret = access_memory(machine, index, &access);

	*value = access.value;
	return ret;
}

int machine_store(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t value)
{
	struct access access = {.gpa = gpa, .write = true, .value = value};

	return access_memory(machine, index, &access);
}
