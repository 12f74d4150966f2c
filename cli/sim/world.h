/* The run that goes on: its machines, what the model knows of them, and the plan. */
#ifndef QUIRE_CLI_SIM_WORLD_H
#define QUIRE_CLI_SIM_WORLD_H

#include "cli/sim/oracle.h"

struct sim_world {
	struct machine machine;
	struct oracle oracle;
	const struct sim_plan *plan;
	struct sim_random preemptions;
	struct sim_preemptions *recorded; /* NULL: they are not kept */
	uint32_t part, next_planned;	  /* of the run: as struct sim_preemption has it */
	uint32_t at[SIM_THREADS_MAX];	  /* the operation that each thread is in */
	void (*on_failure)(void);	  /* when set: called at the first of a run */
	char broken[256];		  /* what an assertion said */
	struct quire_gmem *gmem;
	struct machine second; /* another VM, with a file of the same pages from gfn 0 on */
	struct quire_gmem *linked;
	uint32_t link_busy;
	uint64_t stores;
	uint64_t ring_bits[SIM_SLOTS][SIM_BLOCK / 64]; /* entries that were read */
};
extern struct sim_world sim;

/* The number that the library knows slot @id by. */
uint32_t sim_slot_number(uint32_t id);
/* The client harvests, with rings of all slots, with bitmaps of @id. */
void sim_harvest(uint32_t id);
/* After the run: a last harvest names every page that was written since the one before. */
void sim_check_logs(void);

#endif
