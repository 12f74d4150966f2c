/* What an instruction asked of devices and of the client, so that it can run again from its start.
 */
#ifndef QUIRE_VCPU_RUN_REPLAY_H
#define QUIRE_VCPU_RUN_REPLAY_H

#include "vcpu/inside.h"

/*
 * The k-th question of a run of an instruction is answered from entry k of the log when it is
 * there (@entry gets it); else STEP_ABORT: the question is put to the surroundings and the
 * instruction starts again.
 */
enum step replay_ask(struct cpu *cpu, enum replay_kind kind, const struct cpu_io *io,
		     const struct replay_entry **entry);

/* The instruction, or one element of a string, has retired: forget its log. */
void replay_retire(struct cpu *cpu);

/*
 * The hypervisor should write memory for the guest, a table, and cannot do what the guest does
 * there. The library gives the table's shadow up when the same write faults again: nonzero for the
 * first attempt, which may come on then, and 0 until an instruction has retired. KVM does so, too.
 */
int replay_tries_again(struct cpu *cpu);

/* Does the next instruction have a history? */
static inline int replay_is_active(const struct cpu *cpu)
{
	return cpu->replay.count || cpu->replay.emulated_count;
}

/* Put the question of entry[count] to cpu->ops, out of guest mode. Nonzero: the client must
 * answer; cpu->exit_reason and cpu->info say what. */
int replay_perform(struct cpu *cpu);

#endif
