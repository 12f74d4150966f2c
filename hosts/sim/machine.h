/* A VM on the simulated host with vCPUs that load and store one byte at a time. */
#ifndef QUIRE_HOSTS_SIM_MACHINE_H
#define QUIRE_HOSTS_SIM_MACHINE_H

#include <quire/dirty.h>
#include <quire/vm.h>

#include "hosts/sim/sched.h"
#include "hosts/sim/sim.h"

#define MACHINE_VCPUS_MAX 4u
#define MACHINE_TLB 16u
#define MACHINE_RING_BYTES 4096u
#define MACHINE_RING_ENTRIES (MACHINE_RING_BYTES / sizeof(struct quire_ring_entry))

/* A translation that a vCPU keeps until it is told to flush. */
struct machine_translation {
	uint64_t gfn;
	uint8_t *page; /* NULL: none */
	uint32_t level;
	int readable;
	int writable;
	int executable;
};

/* Where a processor is. While it enters, it may have taken a request and not acted upon it yet. */
enum machine_mode { MACHINE_OUT, MACHINE_ENTERING, MACHINE_IN_GUEST };

/* One vCPU's processor, and the client's end of its ring. */
struct machine_cpu {
	enum machine_mode mode;
	struct machine_translation tlb[MACHINE_TLB];
	struct quire_ring_entry ring[MACHINE_RING_ENTRIES];
	uint32_t ring_read; /* entries the client has seen */
};

/* One access of the guest, of 1 to 8 bytes of one page. */
struct machine_access {
	uint64_t gpa;
	uint64_t value; /* stored, or loaded */
	uint32_t size_bytes;
	int write;
	int fetch;	/* of an instruction: a load that needs the right to execute */
	int nowait;	/* a page that is slow is left to the host: -EAGAIN */
	hva_t hva;	/* out, with -EAGAIN: the page */
	uint32_t space; /* out: the address space that it was in */
	uint64_t error; /* out: code of the last violation; 0: there was none */
};

struct machine {
	struct sim_host host;
	struct quire_vm *vm;
	struct quire_vcpu *vcpus[MACHINE_VCPUS_MAX];
	struct machine_cpu cpus[MACHINE_VCPUS_MAX];
	/* Read by machine_start(). */
	uint32_t vcpu_count;
	enum quire_format_id format;
	enum quire_mmu mmu;
	int rings;
	struct quire_tunables tunables;
	int in_place; /* files own the attributes */
	const struct quire_confidential_ops *confidential;
	void *confidential_ctx;
	/*
	 * In check builds: compare the TLBs with the tables whenever mmu_lock is released after
	 * exclusive use (I-50). Not for tests that change entries by hand.
	 */
	int judges;
	/* When set: told of each access in the instant in which it has happened in @page. */
	void (*on_access)(void *ctx, const struct machine_access *access, const uint8_t *page);
	void *on_access_ctx;
	/* How often a TLB got translations of two sizes for one address, in formats that break
	 * before they make: such a processor may take any mix of the two. */
	uint32_t conflicts;
};

/* The host once, then for each run a fresh VM with vcpu_count vCPUs. */
void machine_init(struct machine *machine);
/* The same with @rows rows of 1 GiB. */
void machine_init_rows(struct machine *machine, uint32_t rows);
void machine_start(struct machine *machine, enum quire_vm_type type);
/*
 * A second VM with vcpu_count vCPUs on the host of @first, whose @second->host is not used. It ends
 * by machine_end_vm(), before @first does.
 */
void machine_start_second(struct machine *second, const struct machine *first);
/* Outside a run: is the VM alive, does nothing invalidate, has each access to memory ended, are
 * leaves counted right, and did no TLB have a conflict? */
bool machine_is_sound(struct machine *machine);
/* End the VM; true when it was sound and every byte and every frame reference is back. */
bool machine_stop(struct machine *machine);
/* The same in two steps: vCPUs and VM go; then the host's mappings, and is everything back? (I-54)
 */
void machine_end_vm(struct machine *machine);
bool machine_is_empty(struct machine *machine);
void machine_destroy(struct machine *machine);

/* Slot 0 from gfn 0: @npages pages at client page @page, which must be mapped by the test. */
int machine_add_slot(struct machine *machine, uint32_t page, uint32_t npages, uint32_t flags);

/*
 * One guest access of vCPU @index at @gpa: enter guest mode, use the translation that the TLB
 * keeps or walk the tables as the processor would, fault until it works. Returns 0, or what the
 * fault said (-errno, QUIRE_EMULATE).
 */
int machine_access(struct machine *machine, uint32_t index, struct machine_access *access);
/* The same for one byte. */
int machine_load(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t *value);
int machine_store(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t value);
int machine_fetch(struct machine *machine, uint32_t index, uint64_t gpa, uint8_t *value);

#ifdef QUIRE_CHECK
/* The entries that the tables have for @gfn, from the root's down to a leaf or one that is not
 * present: at most MACHINE_LEVELS_MAX. Returns how many; *@is_leaf says whether the last is one. */
#define MACHINE_LEVELS_MAX 5u
uint32_t machine_entries(const struct quire_vcpu *vcpu, uint64_t gfn,
			 const uint64_t *entries[MACHINE_LEVELS_MAX], int *is_leaf);
#endif

/* A lock of the client's, 0 at first, that the memory model knows of. False: another thread has it.
 * No scheduling point. */
bool machine_try(uint32_t *busy);
void machine_done(uint32_t *busy);

/* The client takes new entries of the ring of vCPU @index: calls @seen for each, and gives them
 * back for the next reset. */
void machine_read_ring(struct machine *machine, uint32_t index,
		       void (*seen)(void *ctx, uint32_t slot, uint64_t offset), void *ctx);

#endif
