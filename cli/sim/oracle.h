/* What a guest may see: a model of slots, attributes and pages, told of each change. */
#ifndef QUIRE_CLI_SIM_ORACLE_H
#define QUIRE_CLI_SIM_ORACLE_H

#include <quire/gmem.h>
#include <quire/place.h>

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

/* A conversion in place, and what its pages were when it began. */
struct oracle_conversion {
	uint64_t first, end;
	bool to_private, zeroes;
	bool file_busy;
	uint32_t punches, maps;
	struct {
		uint32_t frame, generation, holds;
		uint64_t value;
		bool is_held;
	} before[SIM_GMEM_PAGES];
};

/* A page in the hypervisor's hands. */
struct oracle_hold {
	uint32_t frame, generation;
	uint32_t index; /* of the file, which keeps it shared; SIM_GMEM_PAGES: none */
};

struct oracle {
	struct machine *machine;
	uint64_t accessed;	  /* the gfn of the last access that was judged */
	void (*on_failure)(void); /* when set: called at the first */
	char details[256];	  /* more about the failure */
	void *store;		  /* of the guest_memfd; NULL without one */
	bool spaces;		  /* slots of the upper half are of address space 1 */
	bool in_place; /* it owns the attributes, and slots that show it show nothing else */
	bool is_pool;  /* the file is a huge page, whose bytes a conversion may move */
	bool is_shown; /* the client sees the file, but for what is hidden from it */
	struct oracle_slot slots[SIM_SLOTS];
	uint8_t attributes[SIM_GFNS], attributes_other[SIM_GFNS];   /* 1: private */
	uint8_t kinds[SIM_GMEM_PAGES], kinds_other[SIM_GMEM_PAGES]; /* the same, in place */
	bool attributes_busy, file_busy;
	uint32_t rings_busy;
	/* Host pages between the return of begin and the call of end: out of reach. Counted. */
	uint8_t page_blocked[SIM_HOST_PAGES], page_busy[SIM_HOST_PAGES];
	uint64_t swapped[SIM_HOST_PAGES];   /* what pages show that are on the disk */
	uint8_t index_lost[SIM_GMEM_PAGES]; /* 1: poisoned; 2: being poisoned */
	/* What was stored in each frame since it was handed out. */
	uint64_t value[SIM_FRAMES];
	uint32_t generation[SIM_FRAMES];
	struct oracle_conversion conversion;
	/* By the conversion that goes on: 1: to be zeroed; 2: was. */
	uint8_t zeroing[SIM_GMEM_PAGES];
	/* How many vCPUs certainly have a page of the file in their hands, and how many had one. */
	uint32_t held[SIM_GMEM_PAGES], holds[SIM_GMEM_PAGES];
	uint32_t maps_active, maps_begun, punches_begun;
	bool nowait[SIM_THREADS_MAX]; /* the thread's access leaves slow pages to the host */
	const char *failure;
};

void oracle_init(struct oracle *oracle, struct machine *machine);
void oracle_fail(struct oracle *oracle, const char *failure);
/* machine.on_access: is the access right, here and now? */
void oracle_access(void *ctx, const struct machine_access *access, const uint8_t *page);
/* The same of a second VM, whose gfns are indices of the file. */
void oracle_other_access(void *ctx, const struct machine_access *access, const uint8_t *page);

/* What the host tells of frames (struct sim_watcher). */
void oracle_watch(struct oracle *oracle);

/* Pages [first, end) of the file are converted from now on, until the library has answered. */
void oracle_convert_begin(struct oracle *oracle, const struct quire_gmem_conversion *request);
void oracle_convert_end(struct oracle *oracle, int result);

/* A vCPU takes the page at @gfn into its hands; has it; gives it back. */
void oracle_hold_begin(struct oracle *oracle);
void oracle_hold(struct oracle *oracle, uint64_t gfn, const struct quire_map *map,
		 struct oracle_hold *hold);
void oracle_hold_check(struct oracle *oracle, const struct oracle_hold *hold);
/* Before it is unmapped: from here on a conversion may have the page. */
void oracle_hold_let_go(struct oracle *oracle, const struct oracle_hold *hold);
/* After it is unmapped: until then a conversion may be refused for it. */
void oracle_hold_end(struct oracle *oracle);
/* The hypervisor has written the page that it has in its hands. */
void oracle_wrote(struct oracle *oracle, uint32_t space, uint64_t gfn);

/* Does a slot show page @page of the host at @gfn, or will one? */
bool oracle_shows(const struct oracle *oracle, uint64_t gfn, uint64_t page);
/* What is stored in the frame now. */
uint64_t oracle_value(const struct oracle *oracle, uint32_t frame);

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
/* The address space of slot @id. */
uint32_t oracle_space(const struct oracle *oracle, uint32_t id);
/*
 * What @load, whose gpa and space are set, gives when nothing is going on, or the fetch that it is:
 * 0 and *@value, or the expected outcome.
 */
int oracle_expect(const struct oracle *oracle, const struct machine_access *load, uint64_t *value);

#endif
