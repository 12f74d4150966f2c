/* The machine: one software-protected VM with one vCPU and three memory slots. */
#ifndef PRIVATE_VM_MACHINE_H
#define PRIVATE_VM_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "guest.h"
#include "kvm_new.h"

enum slot { SLOT_LOW, SLOT_SECRET, SLOT_BUSY, SLOT_COUNT };

struct memory {
	uint64_t gpa;
	size_t size_bytes;
	uint8_t *host; /* the shared pages */
};

struct machine {
	int kvm, vm, vcpu;
	int secret_fd; /* the guest_memfd: the private pages of SLOT_SECRET */
	struct kvm_run *run;
	size_t run_bytes;
	struct memory memory[SLOT_COUNT];
	volatile struct mailbox *mailbox;
};

/* What machine_create() found out. */
enum created { MACHINE_READY, MACHINE_UNSUPPORTED, MACHINE_FAILED };

/* Builds the machine and loads the guest; says on stderr what is missing or failed. */
enum created machine_create(struct machine *machine);

/* Creates a slot, or changes its flags. 0 or -1 with errno. */
int machine_set_slot(struct machine *machine, enum slot slot, uint32_t flags);

/* Makes [gpa, gpa + size) private or shared. 0 or -1 with errno. */
enum visibility { VISIBLE_SHARED, VISIBLE_PRIVATE };
int machine_convert(struct machine *machine, uint64_t gpa, uint64_t size_bytes,
		    enum visibility visibility);

/* Prints "private-vm: @what: errno's text" and returns -1. */
int complain(const char *what);

#endif
