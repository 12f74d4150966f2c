/* quire-sim: random simulations of a VM, each of them told by one seed. */
#ifndef QUIRE_CLI_SIM_SIM_H
#define QUIRE_CLI_SIM_SIM_H

#include <stdio.h>

#include "hosts/sim/machine.h"

#define SIM_SLOTS 4u
#define SIM_GFNS 1024u
#define SIM_THREADS_MAX 4u
#define SIM_OPS_MAX 24u
#define SIM_HOST_PAGES 576u /* one block that the host may map huge, and 64 pages */
#define SIM_GMEM_PAGES 512u
/*
 * Of a VM on shadow pages: slots of one page, in blocks of 512 GiB of their own, beyond what the
 * model knows of. They show a page of the host that nothing happens to.
 */
#define SIM_FAR_SLOTS 3u
#define SIM_FAR_BLOCK (UINT64_C(1) << 27) /* in pages */
#define SIM_FAR_PAGE SIM_HOST_PAGES
/* Fewer shadow pages than a client may ask for: few are enough for all that can happen. */
#define SIM_LIMIT_MIN 6u
#define SIM_LIMIT_MAX 14u
#define SIM_LIMIT_SPACE 4u /* more for a second address space, which has a root of its own */

enum sim_op_kind {
	OP_LOAD,
	OP_STORE,
	OP_PREFAULT,
	OP_SLOT_CREATE,
	OP_SLOT_DELETE,
	OP_SLOT_MOVE,
	OP_SLOT_LOG, /* logging on or off */
	OP_ATTRIBUTES,
	OP_HOST_REPLACE,
	OP_KERNEL, /* what a kernel does by itself: flags says which */
	OP_AGE,	   /* the host asks which of its pages are in use; flags: 1 is without a trace */
	OP_PUNCH,
	OP_ALLOCATE,
	OP_POISON,
	OP_HARVEST,
	OP_ZAP_ALL,
	OP_EAGER_SPLIT,
	OP_FAR,	   /* a load of a far page, which takes shadow pages */
	OP_LIMIT,  /* on shadow pages */
	OP_OTHER,  /* an access of the second VM, to the file; flags: 1 is a store */
	OP_LINK,   /* the second VM's file goes, and comes again */
	OP_MAP,	   /* the hypervisor takes a page into its hands; flags: 1 is to write */
	OP_RIGHTS, /* the host lets a guest execute a page, or read it, or not; flags: the page's */
	OP_SPACE,  /* the vCPU goes to another address space */
	OP_COUNT
};

/* Of OP_KERNEL, as in hosts/sim/kernel.h. */
enum sim_kernel_op {
	KERNEL_SWAP_OUT,
	KERNEL_MIGRATE,
	KERNEL_MERGE,
	KERNEL_COLLAPSE,
	KERNEL_SPLIT,
	KERNEL_COUNT
};

/* Of OP_LOAD, OP_STORE. */
enum sim_access_flags {
	ACCESS_NOWAIT = 1u << 0, /* a page that is slow is left to the host */
	ACCESS_FETCH = 1u << 1,	 /* a load is an instruction's */
};

struct sim_op {
	enum sim_op_kind kind;
	uint32_t slot;	 /* of slot operations and harvests */
	uint64_t first;	 /* gfn, host page or index of the file */
	uint64_t npages; /* ditto; for switches the value; for pages in hand, how long */
	uint32_t page;	 /* slots: host page, and index of the file; attributes: the contents */
	uint32_t flags;	 /* slots: enum quire_slot_flags; attributes; replace: 1 is by nothing */
};

/* The owner of the attributes; of a file, what its pages are at first. */
enum sim_owner { OWNER_VM, OWNER_FILE_PRIVATE, OWNER_FILE_SHARED };

/* More than a run of random preemptions has; what comes after them is not kept. */
#define SIM_PREEMPTIONS_MAX 8192u

/* Which thread goes on at which step of a plan's run, and then of the VM's end. */
struct sim_preemptions {
	uint32_t count;
	struct sim_preemption {
		uint32_t part; /* 0: the operations; 1: the end */
		uint32_t step, thread;
	} at[SIM_PREEMPTIONS_MAX];
};

/* What a seed says: the VM, and what each thread does in it. */
struct sim_plan {
	uint64_t seed, preemption_seed;
	enum quire_vm_type type;
	enum quire_format_id format;
	enum quire_mmu mmu;
	uint32_t limit; /* on shadow pages, to begin with */
	int rings;
	uint32_t manual_protect;
	int zap_all, eager_split, host_huge, gmem_huge;
	int spaces;		 /* the upper half of the slots is of address space 1 */
	int linked;		 /* a second VM has a file of the same pages */
	int pool;		 /* these are one huge page of the host's pool */
	enum sim_owner owner;	 /* of the attributes */
	int rights;		 /* the host changes them */
	uint32_t vcpus, threads; /* the first threads are the vCPUs' */
	uint32_t preemption_odds;
	/* Under the memory model: one in so many loads that may see an older store does; or 0. */
	uint32_t order;
	const struct sim_preemptions *preemptions; /* NULL: at random */
	int trace;				   /* say when each operation begins and ends */
	uint32_t op_count[SIM_THREADS_MAX];
	struct sim_op ops[SIM_THREADS_MAX][SIM_OPS_MAX];
};

/* splitmix64: every bit of the state matters, and any seed is as good as another. */
struct sim_random {
	uint64_t state;
};
uint64_t sim_random(struct sim_random *random, uint64_t below);

void sim_plan_make(struct sim_plan *plan, uint64_t seed);
/* As text that sim_plan_read() takes. */
void sim_plan_print(const struct sim_plan *plan);
/*
 * The plan of the file at @path, its preemptions in @preemptions. False when it is none: says why,
 * with the line. Lines that begin with '#' say something to a reader alone.
 */
bool sim_plan_read(const char *path, struct sim_plan *plan, struct sim_preemptions *preemptions);
/* "store slot 0 first 5 ...". */
void sim_op_print(const struct sim_op *op, FILE *file);
/* The plan runs under the memory model, with odds that its seed says. */
void sim_plan_order(struct sim_plan *plan);
/* Run @plan; NULL when all went well, else the first thing that went wrong. With @plan->order only
 * a program with the memory model can (QUIRE_ORDER). */
const char *sim_run(const struct sim_plan *plan);
/* Keep there which preemptions a run without planned ones has; NULL: nowhere. */
void sim_record_to(struct sim_preemptions *preemptions);

/* A plan that fails, in memory that children share. */
struct sim_case {
	struct sim_plan plan;
	struct sim_preemptions planned;	 /* the plan's, unless they are random */
	struct sim_preemptions recorded; /* of the last run with random ones */
	char failure[256];
};
struct sim_case *sim_case_new(void);
/* Does the @status of waitpid() say that its run failed? A crash is a failure, too. */
bool sim_case_failed(struct sim_case *failed, int status);
/*
 * Take away as many operations and then as many preemptions as it fails in the same way without,
 * within @seconds. The process must have run no simulation itself.
 */
void sim_shrink(struct sim_case *failed, uint32_t seconds);
/* Run the plan and say all that is known of its failure; each line but the plan's begins with '#'.
 * False: it does not fail. */
bool sim_explain(const struct sim_plan *plan);

void sim_init(void);
void sim_destroy(void);

#endif
