/* A machine without a second stage: the library shadows the guest's page tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <quire/stats.h>
#include <quire/vm.h>

#include "hosts/process/process.h"
#include "tests/unit/vcpu/machine.h"

struct shadowed {
	struct quire_vm *vm;
	struct quire_vcpu *vcpu;
	struct process_host host;
	struct process_runner runner;
};

static void need(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s failed\n", what);
	abort();
}

/* Nothing is hidden but protection keys, which shadow pages have not. */
static void cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	(void)ctx;
	(void)subleaf;
	memset(out, 0, 4 * sizeof(*out));
	if (leaf == 7)
		out[1] = 1u << 7 | 1u << 20; /* SMEP, SMAP */
	if (leaf == 0x80000000)
		out[0] = 0x80000008;
	if (leaf == 0x80000008)
		out[0] = 0x3030; /* address widths */
}

static int no_interrupt(void *ctx)
{
	(void)ctx;
	return -1;
}

static bool none_waits(void *ctx)
{
	(void)ctx;
	return false;
}

static const struct cpu_ops ops = {
    .cpuid = cpuid,
    .interrupt_take = no_interrupt,
    .interrupt_waiting = none_waits,
};

void machines_start(void)
{
	quire_platform_install(&process_platform);
	need(!process_signals_install(), "process_signals_install()");
}

static void create_memory(struct machine *machine, struct shadowed *shadowed)
{
	struct quire_vm_config config = {
	    .type = QUIRE_VM_DEFAULT,
	    .format = QUIRE_FORMAT_NPT,
	    .mmu = QUIRE_MMU_SHADOW,
	    .maxphyaddr = 48,
	    .host = &process_host_ops,
	    .host_ctx = &shadowed->host,
	};
	struct quire_region region = {.size_bytes = RAM_BYTES};

	machine->ram =
	    mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(machine->ram != MAP_FAILED, "mmap()");
	need(!quire_vm_create(&config, &shadowed->vm), "quire_vm_create()");
	region.hva.v = (uintptr_t)machine->ram;
	need(!quire_vm_set_region(shadowed->vm, &region), "quire_vm_set_region()");
}

void machine_create(struct machine *machine)
{
	struct shadowed *shadowed = calloc(1, sizeof(*shadowed));

	*machine = (struct machine){.private = shadowed};
	create_memory(machine, shadowed);
	need(!quire_vcpu_create(shadowed->vm, 0, &shadowed->runner, &shadowed->vcpu),
	     "quire_vcpu_create()");
	machine->cpu = cpu_create(shadowed->vcpu, &ops, shadowed);
	need(machine->cpu != NULL, "cpu_create()");
	cpu_set_single_stage(machine->cpu);
	guest_build_events(machine->ram);
	guest_enter_long_mode(cpu_state(machine->cpu));
	cpu_state_changed(machine->cpu);
	if (getenv("TEST_TRANSLATE") && cpu_translate_after(machine->cpu, 0))
		exit(77);
}

void machine_destroy(struct machine *machine)
{
	struct shadowed *shadowed = machine->private;

	/* The library refused what the guest's tables refuse: the CPU has not walked them. */
	need(quire_vcpu_stat(shadowed->vcpu, QUIRE_VCPU_STAT_pf_guest) > 0, "shadowing");
	cpu_destroy(machine->cpu);
	quire_vcpu_destroy(shadowed->vcpu);
	quire_vm_put(shadowed->vm);
	munmap(machine->ram, RAM_BYTES);
	free(shadowed);
}

void machine_write(struct machine *machine, uint64_t gpa, const void *bytes, size_t size_bytes)
{
	struct shadowed *shadowed = machine->private;

	need(!quire_vcpu_write(shadowed->vcpu, (gpa_t){gpa}, bytes, size_bytes),
	     "quire_vcpu_write()");
}
