/* A VM on the simulated host with vCPUs that load and store one byte at a time. */
#ifndef QUIRE_TESTS_SIM_MACHINE_H
#define QUIRE_TESTS_SIM_MACHINE_H

#include <quire/vm.h>

#include "hosts/sim/sched.h"
#include "hosts/sim/sim.h"

#define MACHINE_VCPUS 2u

struct machine {
	struct sim_host host;
	struct quire_vm *vm;
	struct quire_vcpu *vcpus[MACHINE_VCPUS];
};

/* The host once, then for each run a fresh VM with MACHINE_VCPUS vCPUs. */
void machine_init(struct machine *machine);
void machine_start(struct machine *machine, enum quire_vm_type type);
/* End the VM; true when every byte and every frame reference is back. */
bool machine_stop(struct machine *machine);
void machine_destroy(struct machine *machine);

/* Slot 0 from gfn 0: @npages pages at client page @page, which must be mapped by the test. */
int machine_add_slot(struct machine *machine, uint32_t page, uint32_t npages, uint32_t flags);

/*
 * One guest access of vCPU @index at @gpa: enter guest mode, walk the tables as the processor
 * would, fault until it works. Returns 0, or what the fault said (-errno, QUIRE_EMULATE).
 */
int machine_load(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t *value);
int machine_store(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t value);

#endif
