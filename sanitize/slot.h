/* The detector "slot": memory of a slot that the client unmaps, moves or replaces. */
#ifndef QUIRE_SANITIZE_SLOT_H
#define QUIRE_SANITIZE_SLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "sanitize/machine.h"

enum sanitize_loss_how {
	SANITIZE_KEPT, /* nothing was lost: the call failed */
	SANITIZE_UNMAPPED,
	SANITIZE_MOVED,	   /* mremap() took the memory elsewhere */
	SANITIZE_REPLACED, /* MAP_FIXED or its like put other memory there */
	SANITIZE_RESERVED, /* the same with memory that has no rights: nothing to use by mistake */
	SANITIZE_EMPTIED,  /* its pages went elsewhere, where nothing brings them back; else kept */
};

struct sanitize_loss;

/*
 * A call of the client's is about to take [start, end) away: does it hit a slot, what is mapped
 * there, and where does the call come from? For sanitize_slot_settle(); NULL while the detector is
 * off. Keeps errno.
 */
struct sanitize_loss *sanitize_slot_look(uint64_t start, uint64_t end);
/*
 * After the call, before the vCPUs are told of it. What was lost is reported when a guest touches
 * the range, or at the next KVM_RUN of the VM; not at all if the slot goes first. Takes NULL.
 */
void sanitize_slot_settle(struct sanitize_loss *loss, enum sanitize_loss_how how);

/* A vCPU of @vm enters KVM_RUN. */
void sanitize_slot_run(const void *vm);
/* A guest touches the page at @hva: in KVM_RUN, with no lock held. */
void sanitize_slot_touch(const void *vm, uint64_t hva);
/* It could not: if nothing is mapped there, no call was seen that took it away. Likewise. */
void sanitize_slot_missing(const void *vm, uint64_t hva);

/* ---- What machine.c calls, under its lock ---- */

/* The slot is deleted, or another: what was lost of it is forgotten. */
void slot_changes_locked(struct machine *machine, uint32_t id);
void slot_vm_ends_locked(struct machine *machine);
/* In the child of a fork. */
void slot_forked(void);

#endif
