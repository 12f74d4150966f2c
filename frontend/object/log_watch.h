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
 * Room for a copy of the bits that a harvest of @slot hands out: NULL where the slot is not
 * watched. What log_watch_harvested() takes, and frees.
 */
uint64_t *log_watch_bits(struct vm *vm, uint32_t slot);
/* The harvest is done, with @error, and handed out @bits; NULL: not watched. */
void log_watch_harvested(struct vm *vm, uint32_t slot, uint64_t *bits, long error);

/*
 * KVM_RESET_DIRTY_RINGS begins: what the rings have until then, the client was told. It ends, and
 * has taken so many entries: the harvest is over.
 */
struct log_watch_rings;
struct log_watch_rings *log_watch_rings_begin(struct vm *vm);
void log_watch_rings_end(struct log_watch_rings *rings, long taken);

#endif
