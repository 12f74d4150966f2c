/* The detector "dirty": pages of a logged slot that no guest wrote, and that the copy leaves out.
 */
#ifndef QUIRE_SANITIZE_DIRTY_H
#define QUIRE_SANITIZE_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "sanitize/report.h"

/*
 * A log of KVM's names the pages that guests wrote. What the client's threads and its system calls
 * write it must note by itself, and it copies these pages, too; likewise what another mapping, the
 * memory's file, another process or another VM's guest wrote. Its notes cannot be seen; what it
 * copies can: by the system calls to which it hands guest memory. So, a page at a time:
 *
 * 1. The reference is what the page was like when the log began, or when it was last handed to a
 *    system call that reads it.
 * 2. At a harvest a page that is not as its reference says, and that neither this harvest nor the
 *    log names, was written by what this log does not name: it is a candidate, until it is
 *    handed out. Which system call was to write there is known, if the call named the slot's own
 *    addresses.
 * 3. A harvest counts only if something of the slot is handed out after it, before the next one:
 *    a display reads its log, and copies nothing.
 * 4. The log ends: it is turned off, or the slot, the VM or the process ends. If all that KVM named
 *    was handed out or is zero (clients have short words for such pages), the copy is complete, and
 *    candidates that are not zero are missing from it.
 *
 * Several slots may show one memory, as those of system management mode do. What the log of one
 * names is named for all of them, and a copy is complete if it is for all.
 *
 * A client that copies by its own instructions, compresses or encrypts leaves pages that KVM named,
 * so nothing is said of it.
 */
struct sanitize_log {
	const void *vm; /* an address that is its own while it lives */
	uint32_t slot;	/* address space << 16 | slot */
	uint64_t gpa, hva, npages;
};

/* All but the functions about transfers do nothing while the detector is off. */

/* The slot logs from now on; if it did before, it has moved. */
void sanitize_log_begin(const struct sanitize_log *log);
void sanitize_log_end(const void *vm, uint32_t slot);
void sanitize_log_end_vm(const void *vm);
/* The process ends. */
void sanitize_log_end_all(void);

struct sanitize_harvest {
	const void *vm;
	uint32_t slot;
	uint64_t npages;
	const uint64_t *named; /* a bit a page: what the client was told */
	/* Set the bits of pages that the log has now. May be asked of any log of @vm. */
	void (*add_logged)(const struct sanitize_log *log, uint64_t *bits);
};

/* The client has harvested the slot's log. Reads all of the slot; out of KVM's locks. */
void sanitize_log_harvest(const struct sanitize_harvest *harvest);

/*
 * The client has taken these pages out of the log, by KVM_CLEAR_DIRTY_LOG. What was copied before,
 * and has changed since, is a candidate as if that call had written it.
 */
void sanitize_log_cleared(const struct sanitize_harvest *cleared);

/* Pages of the slot @vm logs as @slot; 0: it does not. */
uint64_t sanitize_log_pages(const void *vm, uint32_t slot);

/*
 * The client's thread is about to have a system call read, or write, [hva, hva + size). Only while
 * the detector is on; inside a client call.
 */
void sanitize_log_read(uint64_t hva, uint64_t size_bytes);
void sanitize_log_write(uint64_t hva, uint64_t size_bytes);

#endif
