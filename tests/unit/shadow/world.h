/* A guest hypervisor (L1) and its guest (L2) on the simulated host, with an oracle for both. */
#ifndef QUIRE_TESTS_SHADOW_WORLD_H
#define QUIRE_TESTS_SHADOW_WORLD_H

#include <quire/dirty.h>
#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "hosts/sim/sched.h"
#include "hosts/sim/sim.h"

struct flush_debt;
struct shadow_change;

/*
 * Slot 0 shows client pages from 0 on at gfns from 0 on, in 4K frames; slot 1 the pages from 512
 * on at gfn 512, huge at the host. L1's tables are at gfns below WORLD_DATA; the root is at
 * WORLD_ROOT.
 */
#define WORLD_SLOT_PAGES 512u
#define WORLD_PAGES (2 * WORLD_SLOT_PAGES)
#define WORLD_ROOT 1u
#define WORLD_DATA 64u
#define WORLD_TLB 64u

/* Addresses of guest pages, and of blocks of 2 MiB. */
#define PAGE(n) ((uint64_t)(n)*QUIRE_PAGE_SIZE)
#define BLOCK(n) ((uint64_t)(n) << 21)

/* Where L1's tables below the root are, but for tests that lay them out another way. */
#define TABLE_1G 2u
#define TABLE_2M 3u
#define TABLE_4K 4u

#define NPT_P UINT64_C(1)
#define NPT_W UINT64_C(2)
#define NPT_U UINT64_C(4)
#define NPT_A UINT64_C(0x20)
#define NPT_D UINT64_C(0x40)
#define NPT_PS UINT64_C(0x80)
#define NPT_NX (UINT64_C(1) << 63)
#define NPT_ALL (NPT_P | NPT_W | NPT_U)
#define NPT_USED (NPT_ALL | NPT_A | NPT_D)

struct world_translation {
	uint64_t page; /* guest physical page + 1; 0: none */
	uint8_t *host;
	int writable, executable;
};

struct world_cpu {
	struct quire_vcpu *vcpu;
	struct world_translation tlb[WORLD_TLB];
	int nested;
	uint64_t faults; /* calls of quire_vcpu_fault() */
};

/* The second processor is there after world_add_cpu(); what names none is about the first. */
#define WORLD_CPUS 2u

struct world {
	struct sim_host host;
	struct quire_host_ops ops; /* the simulated host's; may be changed between VMs */
	struct quire_vm *vm;
	struct quire_vcpu *vcpu; /* the first processor's */
	struct world_cpu cpus[WORLD_CPUS];
	struct quire_tunables tunables;
	uint32_t slot_flags[2];
	uint8_t slot_there[2];
	uint8_t written[WORLD_PAGES];	  /* since the last harvest */
	void (*on_access)(uint8_t *host); /* in guest mode; NULL: nothing */
};

enum world_access { WORLD_READ, WORLD_WRITE, WORLD_FETCH };

/* What an access came to. */
struct world_result {
	int outcome;	/* 0: done; or what the fault said */
	uint8_t *host;	/* the byte, when done */
	uint64_t error; /* QUIRE_NESTED_FAULT: L1's error code */
};

/* Which MMU serves L1 in VMs made from now on. */
extern enum quire_mmu world_mmu;
/* Their type, but that of a VM with private memory where shadow pages serve L1. */
extern enum quire_vm_type world_type;
/* The host and a VM; or another VM on the same host. */
void world_start(struct world *world);
void world_stop(struct world *world);
/* world_start() with a second processor and L1's tables down to TABLE_4K. */
void world_start_two(struct world *world);
/* Of a test whose setup() put its world into *@state: nothing listens to events any more. */
int world_teardown(void **state);
/* The same where the first processor is in L2. */
int world_teardown_l2(void **state);
/* What a fault of the first processor's does to shadow pages, by hand, and what comes behind it. */
struct shadow_change world_change_begin(struct world *world, struct flush_debt *debt);
void world_change_end(struct world *world, struct flush_debt *debt);
uint64_t world_stat(const struct world *world, enum quire_vm_stat which);
void world_start_vm(struct world *world);
void world_stop_vm(struct world *world);
/* The bytes of a guest page, as the host keeps them now. */
uint8_t *world_page(struct world *world, uint64_t gfn);
int world_slot(struct world *world, uint32_t id, uint32_t flags);
void world_add_cpu(struct world *world);
/* Go over to L2, or back to L1. */
void world_nested(struct world *world, int nested);
void world_nested_on(struct world *world, uint32_t cpu, int nested);
/* One access at @gpa, of L2 or L1. */
struct world_result world_access(struct world *world, uint64_t gpa, enum world_access access);
struct world_result world_access_on(struct world *world, uint32_t cpu, uint64_t gpa,
				    enum world_access access);
/* L1 stores an entry into one of its tables, with a store of its own. */
void world_set_entry(struct world *world, uint64_t table_gfn, uint32_t index, uint64_t entry);
/* From the root's first entry down to TABLE_4K, likewise. */
void world_set_path(struct world *world);
/* An entry that is there before L1 runs: the library does not hear of it. */
void world_put_entry(struct world *world, uint64_t table_gfn, uint32_t index, uint64_t entry);

/* What L1's tables and the slots say, by definition. */
struct world_result world_oracle(struct world *world, uint64_t gpa, enum world_access access,
				 uint64_t *gfn);
/* world_access() in L2, compared with the oracle. */
struct world_result world_check(struct world *world, uint64_t gpa, enum world_access access);
/* Harvest the log of slot @id: nonzero when a page that was written is missing. */
int world_harvest(struct world *world, uint32_t id);
/* The host moves the page of @gfn to another frame. */
void world_migrate(struct world *world, uint64_t gfn);

#endif
