/* What --sanitize=dirty is told of a VM's slots and their logs. */
#ifndef QUIRE_FRONTEND_OBJECT_LOG_WATCH_H
#define QUIRE_FRONTEND_OBJECT_LOG_WATCH_H

#include <stdint.h>

#include <quire/vm.h>

struct vm;

/* All of it does nothing while the detector is off. Called with no lock held. */

/* quire_vm_set_region() took the region. */
void log_watch_region(struct vm *vm, const struct quire_region *region);

/*
 * A copy of the bits that a harvest of a slot hands out, or that a clear has. What a slot has that
 * is longer, since the client's threads race, is left out.
 */
struct log_watch_bits {
	uint64_t npages;
	uint64_t *bits; /* NULL: the slot is not watched */
};

struct log_watch_bits log_watch_begin(struct vm *vm, uint32_t slot);
/* So much of the log, in bytes, goes to the client, or comes from it. */
void log_watch_copy(const struct log_watch_bits *to, uint64_t offset_bytes, const void *src,
		    uint64_t size_bytes);
/* The harvest is done, with @error. Frees the copy. */
void log_watch_harvested(struct vm *vm, uint32_t slot, const struct log_watch_bits *bits,
			 long error);
/* The same for a clear. */
void log_watch_cleared(struct vm *vm, uint32_t slot, const struct log_watch_bits *bits, long error);

/*
 * KVM_RESET_DIRTY_RINGS begins: what the rings have until then, the client was told. It ends, and
 * has taken so many entries: the harvest is over.
 */
struct log_watch_rings;
struct log_watch_rings *log_watch_rings_begin(struct vm *vm);
void log_watch_rings_end(struct log_watch_rings *rings, long taken);

#endif
