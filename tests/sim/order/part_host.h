/* A host for parts of the library: its memory comes and goes by plain stores, which races show. */
#ifndef QUIRE_TESTS_SIM_ORDER_PART_HOST_H
#define QUIRE_TESTS_SIM_ORDER_PART_HOST_H

#include <quire/vm.h>

#include "hosts/sim/sched.h"
#include "tests/sim/order/primitives.h"

#define PART_FRAME UINT64_C(0x1000)  /* of page 0 of the store */
#define PART_PAGES 1024u	     /* of the store: two blocks */
#define PART_SETUP SCHED_THREADS_MAX /* what runs outside a run */

extern const struct quire_host_ops part_host;

struct part_store {
	uint32_t starved;   /* thread + 1 that gets no memory, or 0 */
	uint32_t scattered; /* frames are not consecutive */
	uint32_t pages[PART_PAGES];
};
extern struct part_store part_store;

/* All memory is the host's again, and the store is empty. */
void part_host_start(void);
/* A VM of @type on it, which is never ended: its memory goes with the next start. */
struct quire_vm *part_vm_start(enum quire_vm_type type, const struct quire_confidential_ops *ops);
/* Notes that a thread of the pair saw what it must not, and the check of a pair that asks for it.
 */
void part_expect(bool holds);
bool part_is_good(void *ctx);
/* A plain look at @word, and a plain store. */
uint32_t part_look(const uint32_t *word);
void part_touch(uint32_t *word);

#endif
