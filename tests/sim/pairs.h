/* Pairs of operations that race, and what must hold however they interleave. */
#ifndef QUIRE_TESTS_SIM_PAIRS_H
#define QUIRE_TESTS_SIM_PAIRS_H

#include <quire/gmem.h>
#include <quire/vcpu.h>

#include "hosts/sim/machine.h"

/* @threads threads, 2 if 0, run @body in every interleaving with up to @preemptions preemptions. */
struct pair {
	const char *name;
	uint32_t preemptions;
	void (*setup)(void *ctx);
	void (*body)(uint32_t thread, void *ctx);
	bool (*check)(void *ctx);
	uint32_t threads;
};

/* Each list ends with an entry without name. */
extern const struct pair pairs_fault[];
extern const struct pair pairs_slots[];
extern const struct pair pairs_log[];
extern const struct pair pairs_gmem[];
extern const struct pair pairs_link[];
extern const struct pair pairs_convert[];
extern const struct pair pairs_access[];
extern const struct pair pairs_kernel[];
extern const struct pair pairs_quota[];
extern const struct pair pairs_end[];
extern const struct pair pairs_age[];

/* What the two threads share; the parts of a pair may use it as they like. */
struct pair_state {
	struct machine machine;
	int results[2];
	uint8_t bytes[2];
	uint32_t frame; /* that the host took away */
	struct quire_gmem *gmem;
	uint64_t log[16]; /* harvested: bits of up to 1024 pages */
};
extern struct pair_state pair;

#define PAIR_PAGE UINT64_C(1) /* the page that is fought for */
#define PAIR_GPA (PAIR_PAGE << QUIRE_PAGE_SHIFT)
#define PAIR_GPA_OF(page) ((uint64_t)(page) << QUIRE_PAGE_SHIFT)

void pairs_init(void);
void pairs_destroy(void);
/* Run one pair; false when an interleaving fails. @runs says how many there were. */
bool pair_explore(const struct pair *test, struct sched_verdict *verdict);

/* Start a VM of @type without slots. */
void pair_start(enum quire_vm_type type);
/* A VM whose slot 0 has four private pages of pair.gmem, none of them there yet. */
void pair_start_private(void);
/* Four pages of the host, mapped at gfn 0 by slot 0 with @flags. */
void pair_map(uint32_t flags);
/* The same with 512 pages that the host maps by one huge entry. */
void pair_map_huge(uint32_t flags);
/* Slot 0 with other flags: its 4 or 512 pages. */
int pair_set_flags(uint32_t npages, uint32_t flags);
/* As a kernel does it: begin, another frame for host page @page, end. Returns the old frame. */
uint32_t pair_host_replace(uint32_t page);
/* First byte of the frame that host page @page shows now. */
uint8_t *pair_byte(uint32_t page);
/* Has @frame its poison still, if it is free? (I-51) */
bool pair_untouched(uint32_t frame);
/* No store of the byte 7 has reached a frame that is free. */
bool pair_frees_unwritten(void);
/* GET_DIRTY_LOG of slot 0 into pair.log; and a test of a bit there. */
int pair_harvest(void);
bool pair_logged(uint64_t page);
int pair_clear(uint64_t first, uint32_t npages, const uint64_t *words);
int pair_store(uint32_t vcpu, uint64_t page, uint8_t value);
int pair_load(uint32_t vcpu, uint64_t page, uint8_t *value);

#endif
