/* A VM on a host of which one call fails: the Nth. */
#ifndef QUIRE_TESTS_RULES_LIB_NTH_H
#define QUIRE_TESTS_RULES_LIB_NTH_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <quire/confidential.h>
#include <quire/dirty.h>
#include <quire/gmem.h>
#include <quire/place.h>
#include <quire/stats.h>
#include <quire/trace.h>
#include <quire/vcpu.h>
#include <quire/view.h>
#include <quire/vm.h>

#include "hosts/sim/sim.h"
#include "src/walk/table.h"

/* The client's memory: small pages, which slot 1 shows, and a huge one, which slot 2 shows. */
#define PAGES 16u
#define BYTES (PAGES * QUIRE_PAGE_SIZE)
#define GPA UINT64_C(0x100000)
#define ELSEWHERE UINT64_C(0x4000000)
#define HUGE_PAGE SIM_BLOCK
#define HUGE_BYTES (SIM_BLOCK * QUIRE_PAGE_SIZE)
#define NTH_RING_BYTES 4096u
#define NTH_RING_ENTRIES (NTH_RING_BYTES / sizeof(struct quire_ring_entry))
#define HUGE_GPA UINT64_C(0x40000000)

/* What an operation's VM is like. */
enum nth_vm {
	NTH_PRIVATE = 1u << 0,	/* QUIRE_VM_SW_PROTECTED */
	NTH_IN_PLACE = 1u << 1, /* files own the attributes; with NTH_PRIVATE */
	NTH_RINGS = 1u << 2,
	NTH_SHADOWED = 1u << 3,	    /* shadow pages serve the guest */
	NTH_SPLITS_LATE = 1u << 4,  /* eager_page_split is off */
	NTH_CONFIDENTIAL = 1u << 7, /* hardware is told of private pages; with NTH_PRIVATE */
	NTH_HUGE_GMEM = 1u << 8,    /* files give blocks of 2 MiB */
	/* Of the operation: what it had done before the failure stays, as its contract says. */
	NTH_KEEPS_PART = 1u << 5,
	/* Of the operation: the simulated machine alone has what it is about. */
	NTH_SIM_ONLY = 1u << 6,
};

struct operation {
	const char *function; /* the public one that it is a call of */
	uint32_t vm;	      /* enum nth_vm */
	void (*setup)(void);  /* what must be there first; NULL: nothing */
	/* 0 or more, or -errno. Called again after an error, it succeeds. */
	int (*call)(void);
};

/* Rows of one part of the interface, in nth_*.c. */
extern const struct operation nth_vm_operations[], nth_vcpu_operations[], nth_gmem_operations[],
    nth_log_operations[], nth_access_operations[], nth_plain_operations[];
/* Each ends with a row without a function. */

/* What another thread does meanwhile; NULL ends them. */
extern void (*const nth_meanwhile[])(void);
/* Three of them, which change slots. */
void nth_move_memory(void);
void nth_replace_slots(void);
void nth_change_other_slot(void);

/* A call that is refused, by this error, whatever the host does. */
struct refusal {
	struct operation operation;
	int error;
};

extern const struct refusal nth_refusals[], nth_nulls[];

/* The machine whose calls fail. */
struct nth_machine {
	const char *name;
	const struct quire_host_ops *ops;
	void (*begin)(void); /* fresh pages of the client's */
	void (*end)(void);   /* they go; asserts that no page is held */
	void *(*context)(void);
	hva_t (*hva)(uint32_t page);
	int (*cookie)(uint64_t size_bytes, void **cookie); /* for a file; -ENOMEM */
	void (*cookie_free)(void *cookie);		   /* which no file took */
	void *(*vcpu_cookie)(void);
	/* The system calls below the host's calls fail, and not these. */
	int fails_below;
	/* The host has no memory in hand from here on; NULL: it may have. */
	void (*use_memory_up)(void);
};

extern const struct nth_machine nth_sim, nth_process, nth_kernel;

struct nth {
	const struct nth_machine *machine;
	struct quire_host_ops ops;
	uint32_t vm_kind;
	int is_armed;		 /* calls count, and fail */
	uint64_t calls;		 /* while armed */
	uint64_t fail_at;	 /* the call of this number fails; 0: none */
	uint32_t variant;	 /* with which of its errors */
	uint32_t variants;	 /* how many errors that call has */
	int has_ended;		 /* each system call after it fails, too */
	void (*meanwhile)(void); /* it does not fail: that is done while it is under way */
	int has_happened;	 /* it was done */
	int error;		 /* that it answered; 0: none failed */
	const char *failing;	 /* its name */
	/* Given out and not given back. */
	int64_t bytes, chunks, stores, pages;
	struct quire_tunables tunables;
	struct quire_vm *vm, *second;
	struct quire_vcpu *vcpu, *other_vcpu;
	struct quire_gmem *gmem, *linked;
	struct quire_place *place;
	struct quire_map map;
	int is_mapped;
	void *cookie;
	struct table_cache taken; /* tables that are used up */
	struct quire_ring_entry ring[NTH_RING_ENTRIES];
};

extern struct nth nth;

/*
 * A machine with a VM for @operation, and its setup. Tables used up: an operation that wants one
 * more asks the host for memory, which has room for hundreds otherwise.
 */
void nth_begin(const struct nth_machine *machine, const struct operation *operation,
	       int are_tables_used_up);
/* Its end: what was not given back, or NULL. */
const char *nth_end(void);
/* Calls the operation, with call @number of the host failing (0: none) with its error @variant. */
int nth_call(const struct operation *operation, uint64_t number, uint32_t variant);
/*
 * What the guest and the hypervisor see of the VM: slots, attributes, logs, and for each page
 * whether it can be read and written, and what is in it. It takes the logs and maps pages, so it
 * comes last.
 */
uint64_t nth_digest(void);

/* Things that operations need; each must succeed. */
int nth_make_vm(struct quire_vm **vm);
int nth_make_vcpu(uint32_t id, struct quire_vcpu **vcpu);
int nth_enter(void);
int nth_fault(uint64_t gpa, uint64_t access);
int nth_set_slot(uint32_t slot, uint64_t gpa, uint32_t flags);
void need_slot(void);
void need_root(void);	 /* and the slot */
void need_mapped(void);	 /* pages of the slot, to be written */
void need_huge(void);	 /* slot 2, mapped */
void need_log(void);	 /* a page of the slot is in its log */
void need_gmem(void);	 /* a file */
void need_bound(void);	 /* slot 1 shows it */
void need_block(void);	 /* slot 2 shows a file of 2 MiB, all of it private */
void need_private(void); /* and some of its pages are private */
int nth_set_private(void);
int nth_create_gmem(uint64_t flags);

#endif
