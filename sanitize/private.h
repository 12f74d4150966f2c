/* The detector "private": the client's own access to memory that its guest holds private. */
#ifndef QUIRE_SANITIZE_PRIVATE_H
#define QUIRE_SANITIZE_PRIVATE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "sanitize/machine.h"

/* Guest memory of a VM, in bytes. */
struct sanitize_range {
	uint64_t start, size_bytes;
};

/* The range is private from now on: after the change. From where the client's call came is kept. */
void sanitize_private_begin(const void *vm, const struct sanitize_range *range);
/* It is about to be shared: the client has its rights back, for a guest may use them. */
void sanitize_private_end(const void *vm, const struct sanitize_range *range);
/* The client changes what is mapped in [start, end) or its rights: they are its own again. */
void sanitize_private_leave(uint64_t start, uint64_t end);

/*
 * A handler of SIGSEGV and SIGBUS: true when the access may be tried again. If it was the client's,
 * it is reported, with the instruction that @ucontext names.
 */
bool sanitize_private_fault(const siginfo_t *info, void *ucontext);
/*
 * The client is about to have a system call read or write [address, address + size): reported, and
 * its rights come back, since the kernel would answer EFAULT. Inside a client call.
 */
void sanitize_private_touch(uint64_t address, uint64_t size_bytes);

/* ---- What machine.c calls, under its lock ---- */

void private_slot_comes_locked(struct machine *machine, const struct sanitize_slot *slot);
void private_slot_goes_locked(struct machine *machine, uint32_t id);
void private_vm_ends_locked(struct machine *machine);
/* In the child of a fork. */
void private_forked(void);

#endif
