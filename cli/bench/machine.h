/* A VM with resident memory and vCPUs, and the steps that rows are made of. */
#ifndef QUIRE_CLI_BENCH_MACHINE_H
#define QUIRE_CLI_BENCH_MACHINE_H

#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/vm.h>

#include "cli/bench/bench.h"
#include "hosts/process/process.h"
#include "src/vm/vcpu.h"
#include "vcpu/cpu.h"

#define GIB (UINT64_C(1) << 30)
#define GIB_PAGES (GIB / QUIRE_PAGE_SIZE)

/* How the machine maps the guest's memory. */
enum memory_kind { MEMORY_SMALL, MEMORY_HUGE, MEMORY_KINDS };

/*
 * @size_bytes of resident anonymous memory, aligned to 1 GiB, the same at each call: kept until the
 * program ends, since memory given back may be slow to come again. NULL without memory, or when
 * huge pages were asked for and the machine gave none.
 */
uint8_t *memory_get(enum memory_kind kind, u64 size_bytes);

/* A memfd mapped shared, the memory that a guest_memfd is made of. */
int memfd_memory(u64 size_bytes, uint8_t **memory);

/* Levels that the host claims: its own, or the largest that is asked for. */
enum machine_level { LEVEL_REAL, LEVEL_CLAIM_1G };

struct machine {
	struct quire_vm *vm;
	struct quire_vcpu *vcpus[BENCH_THREADS_MAX];
	struct process_runner runners[BENCH_THREADS_MAX];
	struct process_host host_ctx;
	struct quire_host_ops host;
	struct quire_tunables tunables; /* the defaults; may be changed */
	uint8_t *memory;
	u64 npages; /* of the guest */
};

/* A VM of @type with @vcpus vCPUs and no slots. */
int machine_init(struct machine *machine, enum quire_vm_type type, unsigned int vcpus,
		 enum machine_level level);
/* A VM with 1 GiB in slot 0 at address 0. */
int machine_init_1g(struct machine *machine, enum memory_kind kind, unsigned int vcpus,
		    enum machine_level level);
void machine_destroy(struct machine *machine);

/* Registers of a vCPU in 64-bit mode with paging by the tables at @cr3, flat segments, ring 0. */
void machine_long_mode(struct cpu_state *s, u64 cr3);

/* Slot 0 again with these flags. */
int machine_set_flags(struct machine *machine, u32 flags);
/* The slot at @slot times the machine's memory shows all of it, or goes (@size_bytes 0). */
int machine_set_slot(struct machine *machine, u32 slot, u32 flags, u64 size_bytes);
/* All mappings go. */
void machine_zap(struct machine *machine);

/* What a vCPU is made to fault on. */
struct faults {
	u64 first, npages; /* gfns */
	u64 stride;	   /* in pages */
	u64 error_code;
	bool walks; /* as a processor: a page that the tables show by now is no fault */
};
#define FAULTS_MISSING ((u64)QUIRE_PFERR_WRITE | QUIRE_PFERR_USER)
#define FAULTS_PROTECTED (FAULTS_MISSING | QUIRE_PFERR_PRESENT)

/*
 * As a vCPU takes them: leave guest mode, fault, enter. Returns the CPU time, or negative when
 * one was not fixed.
 */
double machine_fault(struct machine *machine, unsigned int vcpu, const struct faults *faults);
/* All of the guest's memory, 4K by 4K, a part by each of BENCH_THREADS_MAX vCPUs at once. */
double machine_fault_parts(struct machine *machine, u64 error_code);
/* Map all of the guest's memory for writing, 4K by 4K. */
double machine_populate(struct machine *machine);

/* As a processor walks: does it find W? */
bool machine_may_write(const struct quire_stage2 *stage2, gfn_t gfn);

/* CLEAR of all of slot 0 with the bits in @words. */
int machine_clear_log(struct machine *machine, const u64 *words);
/*
 * The time to split all huge pages of a machine of 1 GiB into @small_pages of 4K, or negative. All
 * bits are set from the start of the log, so it is CLEAR of one page in each 2 MiB that splits, and
 * arms next to nothing. The log is off before and after.
 */
double machine_split(struct machine *machine, u64 small_pages);

#endif
