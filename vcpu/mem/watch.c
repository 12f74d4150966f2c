/* For --sanitize=tlb: what a processor could still hold of the guest's tables. */
#include "vcpu/mem/watch.h"

#include <errno.h>
#include <time.h>

#include "hosts/process/heap.h"
#include "vcpu/mem/pte.h"

/* Each remembered thing has one place; another one there takes it. */
#define HELD_SETS 32768u
#define PCIDS 4096u
/* Global translations are of no PCID. */
#define PCID_GLOBAL PCIDS
/* Nor are those of L1's nested tables. */
#define PCID_OF_L1 (PCIDS + 1)
#define TOLD_MAX 8u
/* How long another vCPU may take to flush. */
#define SHOOTDOWN_NS UINT64_C(1000000000)
/* Out of KVM_RUN for longer, a vCPU was stopped, as by a client that stops its VM. */
#define STOPPED_NS UINT64_C(100000000)
/* What of a table's entry counts. */
#define TABLE_BITS (PTE_ADDRESS | PTE_P)

enum held_kind { HELD_NONE, HELD_PAGE, HELD_TABLE };

/* A page's translation, or where the table is for a region of the linear addresses. */
struct held {
	uint64_t number; /* linear >> shift */
	uint64_t target; /* the page's frame, or the table's entry */
	uint64_t rights;
	uint64_t stores; /* how many stores to tables there had been */
	uint64_t host_flushes;
	uint64_t flushes; /* sum of what may flush it: as long as it is the same, it is held */
	uint32_t asid;	  /* 0: of L1 */
	uint16_t pcid;
	uint8_t shift;
	uint8_t kind; /* enum held_kind */
	uint8_t is_dirty;
};

#define HOST_SETS 1024u

/* Where a page of guest memory is, without a second stage. */
struct host_page {
	uint64_t key; /* the guest's address, and of which address space; 0: none */
	uint64_t host;
	uint32_t turn; /* of cpu_ops.memory_turn() */
};

#define AGAIN_SETS 2048u

/* What the last walk for a page of 4 KiB read, and came to. */
struct again {
	uint64_t linear; /* of the page; it is one of @held's */
	uint64_t epoch;	 /* of tlb_watch.epoch */
	const struct held *held;
	struct mmu_result result; /* for the page's first byte */
	uint8_t served;		  /* a bit for each access that the second stage permitted */
	uint8_t count;
	uint64_t host_of[WATCH_LEVELS], entry[WATCH_LEVELS];
};

/* What L2's tables are, when it is left. */
struct nested_space {
	uint64_t cr0, cr3, cr4, efer, nested_cr3;
	uint32_t asid;
};

/* Flushes drop what they are about of all ASIDs. */
struct tlb_watch {
	uint32_t asid; /* now */
	struct nested_space left;
	uint64_t all, local, pages[PCIDS + 1]; /* flushes of each kind */
	uint64_t tables[PCIDS];		       /* flushes of a page drop all of the PCID's tables */
	uint64_t of_l1, tables_of_l1;	       /* the same of L1's nested tables */
	uint64_t shifts; /* which sizes of pages there have been, a bit each */
	uint64_t host_flushes;
	uint64_t epoch;		      /* what the second stage translates is as it was */
	uint64_t left_ns, resumed_ns; /* the vCPU has left KVM_RUN; it goes on after a stop */
	unsigned int told_count;
	struct cpu_stale told[TOLD_MAX];
	struct again again[AGAIN_SETS];
	struct host_page hosts[HOST_SETS];
	struct held held[HELD_SETS];
};

/* ---- Stores to tables, of all vCPUs ---- */

#define STORE_SETS 16384u
#define TABLE_PAGES 65536u

/* Racing stores may mix two vCPUs' fields: then the report names the wrong one of two. */
static struct store {
	uint64_t host; /* of the eight bytes */
	uint64_t rip, number, time_ns;
	uint32_t vcpu;
} stores[STORE_SETS];
static uint64_t store_count;
static uint64_t table_pages[TABLE_PAGES / 64]; /* host pages that walks met; some share a bit */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* High bits count, too: what differs in its kind alone is to have another place. */
static uint64_t mix(uint64_t value)
{
	value ^= value >> 29;
	value *= UINT64_C(0x9e3779b97f4a7c15);
	return value ^ value >> 32;
}

#define GET(place) __atomic_load_n((place), __ATOMIC_RELAXED)
#define SET(place, value) __atomic_store_n((place), (value), __ATOMIC_RELAXED)

static void note_table(uint64_t host)
{
	uint64_t bit = mix(host >> QUIRE_PAGE_SHIFT) % TABLE_PAGES, mask = UINT64_C(1) << bit % 64;

	if (!(GET(&table_pages[bit / 64]) & mask))
		__atomic_fetch_or(&table_pages[bit / 64], mask, __ATOMIC_RELAXED);
}

static int may_be_table(uint64_t host)
{
	uint64_t bit = mix(host >> QUIRE_PAGE_SHIFT) % TABLE_PAGES;

	return GET(&table_pages[bit / 64]) >> bit % 64 & 1;
}

void tlb_watch_store(const struct cpu *cpu, uint64_t host)
{
	struct store *entry = &stores[mix(host >> 3) % STORE_SETS];

	if (!may_be_table(host))
		return;
	SET(&entry->host, host & ~UINT64_C(7));
	SET(&entry->rip, cpu->s.rip);
	SET(&entry->vcpu, quire_vcpu_id(cpu->vcpu));
	SET(&entry->time_ns, now_ns());
	SET(&entry->number, __atomic_add_fetch(&store_count, 1, __ATOMIC_RELAXED));
}

uint64_t tlb_watch_host(const struct cpu *cpu, uint64_t gpa)
{
	uint64_t page = gpa & PAGE_NUMBER_MASK, key = page | 1 | (uint64_t)cpu->s.smm << 1;
	struct host_page *known = &cpu->watch->hosts[gpa >> QUIRE_PAGE_SHIFT & (HOST_SETS - 1)];
	uint32_t turn = cpu->ops->memory_turn(cpu->ctx);

	if (known->key != key || known->turn != turn) {
		known->key = key;
		known->turn = turn;
		known->host = cpu->ops->memory(cpu->ctx, cpu->s.smm, page);
	}
	return known->host ? known->host | (gpa & PAGE_OFFSET_MASK) : 0;
}

void tlb_watch_wrote(const struct cpu *cpu, uint64_t gpa)
{
	uint64_t host = cpu->watch ? tlb_watch_host(cpu, gpa) : 0;

	if (host)
		tlb_watch_store(cpu, host);
}

/* The last store to the entry at @host, if that was after @stores_before. */
static const struct store *store_find(uint64_t host, uint64_t stores_before)
{
	const struct store *entry = &stores[mix(host >> 3) % STORE_SETS];

	return GET(&entry->host) == (host & ~UINT64_C(7)) && GET(&entry->number) > stores_before
		   ? entry
		   : NULL;
}

/* ---- What is held ---- */

static uint16_t pcid_now(const struct cpu *cpu)
{
	return cpu->s.cr4 & CR4_PCIDE ? cpu->s.cr3 & CR3_PCID : 0;
}

static uint16_t pcid_of(const struct cpu *cpu, const struct watch_walk *walk)
{
	return walk->is_of_l1 ? PCID_OF_L1 : pcid_now(cpu);
}

static uint64_t flushes_of(const struct tlb_watch *watch, enum held_kind kind, uint16_t pcid)
{
	if (pcid == PCID_OF_L1)
		return watch->of_l1 + (kind == HELD_TABLE ? watch->tables_of_l1 : 0);
	if (pcid == PCID_GLOBAL)
		return watch->all;
	return watch->all + watch->local + watch->pages[pcid] +
	       (kind == HELD_TABLE ? watch->tables[pcid] : 0);
}

static struct held *place_of(struct tlb_watch *watch, const struct held *wanted)
{
	uint64_t salt = (uint64_t)wanted->kind << 58 ^ (uint64_t)wanted->shift << 52;

	salt ^= (uint64_t)wanted->pcid << 38 ^ (uint64_t)watch->asid << 20;
	return &watch->held[mix(wanted->number ^ salt) % HELD_SETS];
}

/* The one that is like @wanted, or NULL. */
static struct held *held_find(struct tlb_watch *watch, const struct held *wanted)
{
	struct held *held = place_of(watch, wanted);

	if (held->kind != wanted->kind || held->number != wanted->number ||
	    held->shift != wanted->shift || held->pcid != wanted->pcid ||
	    held->asid != watch->asid ||
	    held->flushes != flushes_of(watch, wanted->kind, wanted->pcid))
		return NULL;
	return held;
}

static void held_put(struct tlb_watch *watch, struct held fresh)
{
	fresh.asid = watch->asid;
	fresh.flushes = flushes_of(watch, fresh.kind, fresh.pcid);
	fresh.stores = GET(&store_count);
	fresh.host_flushes = watch->host_flushes;
	*place_of(watch, &fresh) = fresh;
}

/* Of a page of any size: of this PCID, or of PCID_GLOBAL. */
static struct held *page_find_of(struct tlb_watch *watch, uint64_t linear, uint16_t pcid)
{
	struct held *held = NULL;

	for (uint64_t bits = watch->shifts; bits && !held; bits &= bits - 1) {
		struct held wanted = {.kind = HELD_PAGE, .pcid = pcid};

		wanted.shift = (uint8_t)__builtin_ctzll(bits);
		wanted.number = linear >> wanted.shift;
		held = held_find(watch, &wanted);
	}
	return held;
}

static struct held *page_find(struct tlb_watch *watch, uint64_t linear, uint16_t pcid)
{
	struct held *held = page_find_of(watch, linear, pcid);

	return held || pcid == PCID_OF_L1 ? held : page_find_of(watch, linear, PCID_GLOBAL);
}

static void page_drop(struct tlb_watch *watch, uint64_t linear, uint16_t pcid)
{
	struct held *held;

	while ((held = page_find_of(watch, linear, pcid)))
		held->kind = HELD_NONE;
}

static struct held *table_find(struct tlb_watch *watch, const struct watch_walk *walk,
			       unsigned int level, uint16_t pcid)
{
	struct held wanted = {.kind = HELD_TABLE, .pcid = pcid};

	wanted.shift = (uint8_t)(QUIRE_PAGE_SHIFT + walk->index_bits * (level - 1));
	wanted.number = walk->linear >> wanted.shift;
	return held_find(watch, &wanted);
}

/* ---- Comparing ---- */

/* The guest's store to an entry of @walk's since @held was remembered. NULL: there was none. */
static const struct store *changer_of(const struct watch_walk *walk, const struct held *held,
				      uint64_t *gpa)
{
	*gpa = walk->gpa_of[walk->level];
	for (unsigned int level = walk->level; level <= walk->top; level++) {
		const struct store *found = store_find(walk->host_of[level], held->stores);

		if (!found)
			continue;
		*gpa = walk->gpa_of[level];
		return found;
	}
	return NULL;
}

static uint64_t held_gpa(const struct held *held, uint64_t linear)
{
	if (held->kind == HELD_TABLE)
		return held->target & PTE_ADDRESS;
	return held->target | (linear & ((UINT64_C(1) << held->shift) - 1));
}

void cpu_watch_run_begins(struct cpu *cpu)
{
	struct tlb_watch *watch = cpu->watch;
	uint64_t now;

	if (!watch)
		return;
	now = now_ns();
	if (now - watch->left_ns > STOPPED_NS)
		watch->resumed_ns = now;
}

void cpu_watch_run_ends(struct cpu *cpu)
{
	if (cpu->watch)
		cpu->watch->left_ns = now_ns();
}

/* May the flush for another vCPU's store be on its way? What the vCPU was stopped does not count.
 */
static int flush_may_come(const struct tlb_watch *watch, const struct store *changer)
{
	uint64_t since_ns = GET(&changer->time_ns);

	if (since_ns < watch->resumed_ns)
		since_ns = watch->resumed_ns;
	return now_ns() - since_ns < SHOOTDOWN_NS;
}

/* What @held says is not so any more. 0: the flush may be on its way. */
static int suspect(struct cpu *cpu, const struct watch_walk *walk, const struct held *held)
{
	struct tlb_watch *watch = cpu->watch;
	struct cpu_stale stale = {
	    .rip = cpu->s.rip,
	    .linear = walk->linear,
	    .is_nested = cpu->svm.in_guest_mode != 0,
	    .is_of_l1 = walk->is_of_l1 != 0,
	    .is_write = walk->access == MMU_WRITE,
	    .is_fetch = walk->access == MMU_FETCH,
	    .is_table = held->kind == HELD_TABLE,
	    .held_gpa = held_gpa(held, walk->linear),
	    .held_rights = held->rights,
	    .is_mapped = walk->is_found,
	    .gpa = walk->gpa,
	    .rights = walk->rights,
	};
	const struct store *changer = changer_of(walk, held, &stale.entry_gpa);

	if (changer) {
		stale.is_guests = 1;
		stale.changer_rip = GET(&changer->rip);
		stale.changer_vcpu = GET(&changer->vcpu);
		if (stale.changer_vcpu != quire_vcpu_id(cpu->vcpu) &&
		    flush_may_come(watch, changer))
			return 0;
	}
	/* The client's: KVM has flushed meanwhile, as for the slot that the tables are in. */
	if (!changer && held->host_flushes != watch->host_flushes)
		return 1;
	if (watch->told_count < TOLD_MAX)
		watch->told[watch->told_count++] = stale;
	return 1;
}

/* A write through a clean entry walks, to set D. */
static int held_permits(const struct cpu *cpu, const struct held *held, enum mmu_access access)
{
	if (access == MMU_WRITE && !held->is_dirty)
		return 0;
	return held->pcid == PCID_OF_L1 ? tlb_watch_nested_permits(access, held->rights)
					: mmu_rights_permit(cpu, access, held->rights);
}

static void page_put(struct cpu *cpu, const struct watch_walk *walk, uint16_t pcid)
{
	uint64_t span = (UINT64_C(1) << walk->shift) - 1;

	cpu->watch->shifts |= UINT64_C(1) << walk->shift;
	held_put(cpu->watch, (struct held){
				 .kind = HELD_PAGE,
				 .number = walk->linear >> walk->shift,
				 .target = walk->gpa & ~span,
				 .rights = walk->rights,
				 .pcid = walk->is_global ? PCID_GLOBAL : pcid,
				 .shift = walk->shift,
				 .is_dirty = walk->is_dirty,
			     });
}

/*
 * The levels above the leaf: a processor that holds one of them does not read those above it.
 * Remembers those that lead on.
 */
static void tables_compare(struct cpu *cpu, const struct watch_walk *walk, uint16_t pcid)
{
	struct tlb_watch *watch = cpu->watch;
	unsigned int lowest = walk->level + (walk->is_found || walk->level == 1);

	for (unsigned int level = walk->top; level >= lowest; level--) {
		struct held *held = table_find(watch, walk, level, pcid);
		uint64_t entry = walk->entry[level] & TABLE_BITS;

		if (held && held->target == entry)
			continue;
		if (held && !suspect(cpu, walk, held))
			return;
		if (held)
			held->kind = HELD_NONE;
		if ((entry & PTE_P) && level > walk->level)
			held_put(watch,
				 (struct held){
				     .kind = HELD_TABLE,
				     .number = walk->linear >>
					       (QUIRE_PAGE_SHIFT + walk->index_bits * (level - 1)),
				     .target = entry,
				     .pcid = pcid,
				     .shift = (uint8_t)(QUIRE_PAGE_SHIFT +
							walk->index_bits * (level - 1)),
				 });
	}
}

/* A page fault drops what led to it. */
static void drop_fault(struct cpu *cpu, const struct watch_walk *walk)
{
	if (!walk->is_of_l1) {
		tlb_watch_flush_page(cpu, walk->linear);
		return;
	}
	page_drop(cpu->watch, walk->linear, PCID_OF_L1);
	cpu->watch->tables_of_l1++;
}

void tlb_watch_walked(struct cpu *cpu, const struct watch_walk *walk)
{
	uint16_t pcid = pcid_of(cpu, walk);
	struct held *held = page_find(cpu->watch, walk->linear, pcid);

	for (unsigned int level = walk->level; level <= walk->top; level++)
		note_table(walk->host_of[level]);
	if (held && held_permits(cpu, held, walk->access)) {
		if (walk->is_found && held_gpa(held, walk->linear) == walk->gpa)
			return;
		if (!suspect(cpu, walk, held))
			return;
	} else {
		tables_compare(cpu, walk, pcid);
	}
	if (held)
		held->kind = HELD_NONE;
	if (walk->is_found)
		page_put(cpu, walk, pcid);
	else
		drop_fault(cpu, walk);
}

/* ---- The same walk again ---- */

static struct again *again_of(struct tlb_watch *watch, uint64_t linear)
{
	return &watch->again[linear >> QUIRE_PAGE_SHIFT & (AGAIN_SETS - 1)];
}

void tlb_watch_served(struct cpu *cpu, const struct mmu_request *request,
		      const struct watch_walk *walk, const struct mmu_result *result)
{
	struct tlb_watch *watch = cpu->watch;
	struct again *again = again_of(watch, walk->linear);
	const struct held *held = page_find(watch, walk->linear, pcid_now(cpu));
	uint64_t page = walk->linear & PAGE_NUMBER_MASK, offset = walk->linear & PAGE_OFFSET_MASK;

	if (!held || held_gpa(held, walk->linear) != walk->gpa)
		return;
	if (again->linear != page || again->held != held || again->epoch != watch->epoch)
		again->served = 0;
	again->linear = page;
	again->epoch = watch->epoch;
	again->held = held;
	again->result = *result;
	again->result.gpa -= offset;
	again->result.host -= offset;
	again->served |= (uint8_t)(1u << request->stage2);
	again->count = 0;
	for (unsigned int level = walk->level; level <= walk->top; level++) {
		again->host_of[again->count] = walk->host_of[level];
		again->entry[again->count++] = walk->entry[level];
	}
}

static int entries_are_same(const struct again *again)
{
	for (unsigned int i = 0; i < again->count; i++) {
		const void *host = (const void *)(uintptr_t)again->host_of[i];
		uint64_t entry = 0;

		if (guard_load_u64(host, &entry) != GUARD_OK || entry != again->entry[i])
			return 0;
	}
	return 1;
}

int tlb_watch_again(struct cpu *cpu, const struct mmu_request *request, struct mmu_result *result)
{
	struct tlb_watch *watch = cpu->watch;
	const struct again *again = again_of(watch, request->linear);
	const struct held *held = again->held;
	uint64_t offset = request->linear & PAGE_OFFSET_MASK;

	if (again->linear != (request->linear & PAGE_NUMBER_MASK) || again->epoch != watch->epoch ||
	    !(again->served >> request->stage2 & 1) || cpu->replay.emulated_count)
		return 0;
	if (held->kind != HELD_PAGE || held->number != request->linear >> held->shift ||
	    (held->pcid != PCID_GLOBAL && held->pcid != pcid_now(cpu)) ||
	    held->asid != watch->asid ||
	    held->flushes != flushes_of(watch, HELD_PAGE, held->pcid) ||
	    !held_permits(cpu, held, request->access) || !entries_are_same(again))
		return 0;
	*result = again->result;
	result->gpa += offset;
	result->host += offset;
	return 1;
}

void tlb_watch_forget_hosts(struct cpu *cpu)
{
	if (cpu->watch)
		cpu->watch->epoch++;
}

void tlb_watch_flush_hosts(struct cpu *cpu)
{
	tlb_watch_forget_hosts(cpu);
	if (cpu->watch)
		cpu->watch->host_flushes++;
}

void tlb_watch_tell(struct cpu *cpu)
{
	struct tlb_watch *watch = cpu->watch;

	for (unsigned int i = 0; i < watch->told_count; i++)
		cpu->ops->stale(cpu->ctx, &watch->told[i]);
	watch->told_count = 0;
}

/* ---- Flushes ---- */

void tlb_watch_flush_all(struct cpu *cpu)
{
	if (!cpu->watch)
		return;
	cpu->watch->all++;
	/* L2's own flushes are not about L1's nested tables. */
	if (!cpu->watch->asid)
		cpu->watch->of_l1++;
}

void tlb_watch_flush_local(struct cpu *cpu)
{
	if (cpu->watch)
		cpu->watch->local++;
}

void tlb_watch_flush_pcid(struct cpu *cpu, uint64_t pcid)
{
	if (cpu->watch)
		cpu->watch->pages[pcid]++;
}

void tlb_watch_flush_page_of(struct cpu *cpu, uint64_t pcid, uint64_t linear)
{
	if (!cpu->watch)
		return;
	page_drop(cpu->watch, linear, (uint16_t)pcid);
	cpu->watch->tables[pcid]++;
}

void tlb_watch_flush_page(struct cpu *cpu, uint64_t linear)
{
	uint16_t pcid = pcid_now(cpu);
	if (!cpu->watch)
		return;
	page_drop(cpu->watch, linear, pcid);
	page_drop(cpu->watch, linear, PCID_GLOBAL);
	cpu->watch->tables[pcid]++;
}

/* ---- L2 ---- */

static struct nested_space space_now(const struct cpu *cpu, uint32_t asid)
{
	struct nested_space space;

	/* Compared as bytes. */
	memset(&space, 0, sizeof(space));
	space.cr0 = cpu->s.cr0;
	space.cr3 = cpu->s.cr3;
	space.cr4 = cpu->s.cr4;
	space.efer = cpu->s.efer;
	space.nested_cr3 = cpu->svm.control.nested_cr3;
	space.asid = asid;
	return space;
}

void tlb_watch_leave_nested(struct cpu *cpu)
{
	if (cpu->watch)
		cpu->watch->left = space_now(cpu, cpu->watch->asid);
}

void tlb_watch_enter_nested(struct cpu *cpu, uint32_t asid, int flushes)
{
	struct tlb_watch *watch = cpu->watch;
	struct nested_space space;

	if (!watch)
		return;
	space = space_now(cpu, asid);
	if (flushes || memcmp(&space, &watch->left, sizeof(space)) != 0)
		watch->all++;
	if (flushes || space.asid != watch->left.asid || space.nested_cr3 != watch->left.nested_cr3)
		watch->of_l1++;
	watch->asid = asid;
}

void tlb_watch_enter_host(struct cpu *cpu)
{
	if (cpu->watch)
		cpu->watch->asid = 0;
}

/* ---- Birth and end ---- */

int cpu_watch_tlb(struct cpu *cpu)
{
	cpu->watch = process_heap_alloc(sizeof(*cpu->watch));
	if (!cpu->watch)
		return -ENOMEM;
	cpu->watch->epoch = 1;
	return 0;
}

void tlb_watch_destroy(struct cpu *cpu)
{
	process_heap_free(cpu->watch);
}
