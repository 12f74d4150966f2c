/* What a guest may see: a model of slots, attributes and pages, told of each change. */
#ifndef QUIRE_CLI_SIM_ORACLE_H
#define QUIRE_CLI_SIM_ORACLE_H

#include "cli/sim/sim.h"

/* A slot's place and backing. npages 0: there is none. */
struct oracle_view {
	uint64_t gfn, npages;
	uint32_t page; /* of the host, and of the file */
	uint32_t flags;
};

/* While a change runs, both views are right; before and after it only the current one. */
struct oracle_slot {
	struct oracle_view current, other;
	bool busy;
	bool harvesting; /* no change may begin */
	/* Pages written since they were last in a harvest; counted only while the slot logs and
	 * no change of it runs. */
	uint8_t pending[SIM_BLOCK];
};

struct oracle {
	struct machine *machine;
	void *store;   /* of the guest_memfd; NULL without one */
	bool in_place; /* it owns the attributes, and slots that show it show nothing else */
	struct oracle_slot slots[SIM_SLOTS];
	uint8_t attributes[SIM_GFNS], attributes_other[SIM_GFNS];   /* 1: private */
	uint8_t kinds[SIM_GMEM_PAGES], kinds_other[SIM_GMEM_PAGES]; /* the same, in place */
	bool attributes_busy, file_busy, rings_busy;
	/* Host pages between the return of begin and the call of end: out of reach. Counted. */
	uint8_t page_blocked[SIM_HOST_PAGES], page_busy[SIM_HOST_PAGES];
	uint64_t swapped[SIM_HOST_PAGES];   /* what pages show that are on the disk */
	uint8_t index_lost[SIM_GMEM_PAGES]; /* 1: poisoned; 2: being poisoned */
	/* What was stored in each frame since it was handed out. */
	uint64_t value[SIM_FRAMES];
	uint32_t generation[SIM_FRAMES];
	const char *failure;
};

void oracle_init(struct oracle *oracle, struct machine *machine);
void oracle_fail(struct oracle *oracle, const char *failure);
/* machine.on_access: is the access right, here and now? */
void oracle_access(void *ctx, const struct machine_access *access, const uint8_t *page);
/* The same of a second VM, whose gfns are indices of the file. */
void oracle_other_access(void *ctx, const struct machine_access *access, const uint8_t *page);

/* host.on_copy: what a page shows is in another place now. */
void oracle_copied(void *ctx, uint32_t page, uint32_t from, uint32_t to);

/* A change of slot @id from now on, until it is over with the view it has got. False: another
 * change of the slot is going on. */
bool oracle_slot_begin(struct oracle *oracle, uint32_t id, const struct oracle_view *next);
void oracle_slot_end(struct oracle *oracle, uint32_t id, const struct oracle_view *now);

/* The pages of slot @id in @bits were in a harvest, and copied at this instant. */
void oracle_harvested(struct oracle *oracle, uint32_t id, const uint64_t *bits);
/* A page that was written and that @bits, the last harvest, does not name? */
void oracle_check_last(struct oracle *oracle, uint32_t id, const uint64_t *bits);

/* Is @gfn private when nothing is going on? */
bool oracle_is_private(const struct oracle *oracle, uint64_t gfn);
/* What a load of @gfn gives when nothing is going on: 0 and *@value, or the expected outcome. */
int oracle_expect(const struct oracle *oracle, uint64_t gfn, uint64_t *value);

#endif
