/* Copying memory while the guest changes it, round by round, as live migration does. */
#ifndef PRIVATE_VM_COPY_H
#define PRIVATE_VM_COPY_H

#include "machine.h"

#define COPY_MAX_ROUNDS 60

struct copy_round {
	unsigned int pages;
	unsigned long guest_writes; /* made while the round lasted */
	double milliseconds;
};

struct copy {
	struct machine *machine;
	uint8_t *target;
	unsigned int rounds;
	int converged;
	struct copy_round round[COPY_MAX_ROUNDS + 1]; /* the last: after the guest stopped */
};

/* Turns dirty logging on for SLOT_BUSY and copies it until few pages change. 0 or -1. */
int copy_while_running(struct copy *copy, struct machine *machine);

/* With the guest stopped: copies the rest and turns logging off. 0 or -1. */
int copy_rest(struct copy *copy);

/* Bytes that differ between the memory and its copy. */
size_t copy_differences(const struct copy *copy);

#endif
