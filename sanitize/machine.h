/* The VMs of this process and their slots, as detectors know them. */
#ifndef QUIRE_SANITIZE_MACHINE_H
#define QUIRE_SANITIZE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "sanitize/report.h"

/* A VM is named by an address that is its own while it lives. */
struct sanitize_slot {
	const void *vm;
	uint32_t id;	  /* address space << 16 | slot */
	bool has_private; /* a guest_memfd serves its private pages */
	uint64_t gpa, size_bytes, hva;
};

/* The slot is so from now on; size 0: it is deleted. Does nothing while no detector needs it. */
void sanitize_slot_set(const struct sanitize_slot *slot);
/* Where the client has @gpa, by the slots as they are; 0: nowhere. Goes through all of them. */
uint64_t sanitize_slot_find(const void *vm, uint32_t address_space, uint64_t gpa);
/* What sanitize_slot_find() says holds for as long as this says the same. One load. */
uint32_t sanitize_slot_turn(void);
/* The VM ends. */
void sanitize_forget_vm(const void *vm);
/*
 * Before a call of the client's that changes what is mapped in [start, end), or its rights. The
 * caller tells the detectors of what comes of it.
 */
void sanitize_before_change(uint64_t start, uint64_t end);

/* ---- For detectors ---- */

struct machine_slot {
	struct sanitize_slot slot;
	struct machine_slot *next;
};

/* Clients have up to 65,528 slots, and change them one by one. */
#define MACHINE_BUCKETS 1024u

struct machine {
	const void *vm;
	bool has_run;
	struct machine_slot *slots[MACHINE_BUCKETS]; /* by id */
	struct machine *next;
	struct loss_note *losses;	/* slot.c's */
	bool has_told;			/* of one of them */
	struct private_range *privates; /* private.c's */
};

/*
 * Guards the machines and what detectors keep there. No lock is taken under it but that of memory;
 * no call of the client's and no report is made.
 */
void machines_acquire(void);
void machines_release(void);

struct machine *machines_first_locked(void);
/* NULL: nothing is known of it. */
struct machine *machine_find_locked(const void *vm);
/* Made if there is none; NULL: no memory. */
struct machine *machine_have_locked(const void *vm);

/* The slot after @slot, in no order; of NULL, the first. NULL: there is none. */
struct machine_slot *machine_slot_next_locked(const struct machine *machine,
					      const struct machine_slot *slot);

/* Clip [*@start, *@end) to the slot's host addresses. False: nothing is left. */
bool machine_slot_clip(const struct sanitize_slot *slot, uint64_t *start, uint64_t *end);

#endif
