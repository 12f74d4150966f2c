/* Which stores a load may see: histories of atomic locations, and clocks of threads. */
#include "hosts/sim/order.h"

#include <stdio.h>
#include <string.h>

#include "hosts/sim/order_model.h"

/* A location keeps its last stores, and a load sees none before them. */
#define STORES_MAX 4u
#define SITES_MAX 4096u /* a power of two, and more than there are */

struct store {
	uint64_t value;
	struct order_view released; /* what a thread that acquires it learns */
	uint32_t thread, time;
	uint32_t seen[ORDER_THREADS_MAX]; /* when each thread saw it first; 0: it did not */
};

struct location {
	uint32_t size_bytes, count;	 /* size_bytes 0: it has no history */
	struct store stores[STORES_MAX]; /* the newest is the last */
};

struct order_model order_model;

static struct {
	struct order_clock fences; /* what all fences so far saw */
	struct order_site sites[SITES_MAX];
} order;

static struct order_index met;
static struct location locations[ORDER_ADDRESSES_MAX]; /* of those that @met knows */

uint32_t order_index_find(struct order_index *index, uintptr_t address, bool *is_new)
{
	uint32_t slot = (uint32_t)(address * UINT64_C(0x9e3779b97f4a7c15) >> 40);

	for (;; slot++) {
		uint32_t number = index->slots[slot %= ORDER_SLOTS];

		if (number >= index->count || index->known[number].slot != slot)
			break;
		if (index->known[number].address == address) {
			*is_new = false;
			return number;
		}
	}
	if (index->count == ORDER_ADDRESSES_MAX)
		index->count = 0;
	index->slots[slot] = index->count;
	index->known[index->count].address = address;
	index->known[index->count].slot = slot;
	*is_new = true;
	return index->count++;
}

static struct order_thread *self(void)
{
	return &order_model.threads[sched_current()];
}

static void join(struct order_clock *to, const struct order_clock *from)
{
	for (uint32_t i = 0; i < ORDER_THREADS_MAX; i++)
		if (to->of[i] < from->of[i])
			to->of[i] = from->of[i];
}

static void join_view(struct order_view *to, const struct order_view *from)
{
	join(&to->known, &from->known);
	join(&to->seen, &from->seen);
}

uint32_t order_time(void)
{
	return order_now();
}

/* An atomic access takes place: the running thread's time goes on, and is the access's own. */
static uint32_t tick(void)
{
	struct order_view *now = &self()->now;

	return now->seen.of[sched_current()] = ++now->known.of[sched_current()];
}

static bool sees(uint32_t thread, uint32_t time)
{
	return thread == sched_current() || time <= self()->now.seen.of[thread];
}

/* What stood there is forgotten: the next access begins a history. */
static void fresh(const void *start, uint64_t size_bytes)
{
	uintptr_t from = (uintptr_t)start;

	if (!order_model.runs)
		return;
	for (uint32_t i = 0; i < met.count; i++)
		if (met.known[i].address - from < size_bytes)
			locations[i].size_bytes = 0;
	order_race_forget(from, size_bytes);
}

static void start(void)
{
	order_model.runs = true;
	met.count = 0;
	memset(order_model.threads, 0, sizeof(order_model.threads));
	memset(&order.fences, 0, sizeof(order.fences));
	order_race_start();
}

static void end(void)
{
	order_model.runs = false;
	order_race_end();
}

void order_enable(bool is_on)
{
	static const struct sched_observer observer = {start, end, fresh};

	sched_observe(is_on ? &observer : NULL);
}

const struct order_site *order_sites(uint32_t *count)
{
	*count = SITES_MAX;
	return order.sites;
}

extern const char __executable_start[];

uintptr_t order_code(uint64_t offset)
{
	return (uintptr_t)__executable_start + offset;
}

void order_print_sites(void)
{
	static const char *const kinds[] = {"acquire", "release", "rmw", "fence"};

	for (uint32_t i = 0; i < SITES_MAX; i++)
		if (order.sites[i].at)
			printf("%#lx %s\n", (unsigned long)(order.sites[i].at - order_code(0)),
			       kinds[order.sites[i].kind]);
}

static struct order_site *site_at(uintptr_t at)
{
	uint32_t slot = (uint32_t)(at * UINT64_C(0x9e3779b97f4a7c15) >> 40) % SITES_MAX;

	while (order.sites[slot].at && order.sites[slot].at != at)
		slot = (slot + 1) % SITES_MAX;
	return &order.sites[slot];
}

void order_weaken(uintptr_t site, bool is_weak)
{
	struct order_site *entry = site_at(site);

	entry->at = site;
	entry->is_weak = is_weak;
}

struct order_access order_noted(struct order_access access, enum order_kind kind)
{
	struct order_site *site;

	if (!access.acquires && !access.releases)
		return access;
	site = site_at(access.site);
	site->at = access.site;
	site->kind = kind;
	if (site->is_weak)
		access.acquires = access.releases = access.is_full = false;
	return access;
}

static uint64_t in_memory(const struct order_access *access)
{
	uint64_t value = 0;

	memcpy(&value, access->to, access->size_bytes);
	return value;
}

static struct store *newest(struct location *at)
{
	return &at->stores[at->count - 1];
}

/* From here on it has one store, which all know of. */
static void begin_history(struct location *at, const struct order_access *access)
{
	memset(&at->stores[0], 0, sizeof(at->stores[0]));
	at->size_bytes = access->size_bytes;
	at->count = 1;
	at->stores[0].value = in_memory(access);
}

/* After histories were dropped: every thread has seen every store, so that no race is reported that
 * a dropped history would have ruled out. */
static void tell_all(void)
{
	for (uint32_t i = 0; i < ORDER_THREADS_MAX; i++)
		join_view(&order_model.threads[0].now, &order_model.threads[i].now);
	for (uint32_t i = 1; i < ORDER_THREADS_MAX; i++)
		order_model.threads[i].now = order_model.threads[0].now;
}

static struct location *location_of(const struct order_access *access)
{
	bool is_new;
	struct location *at = &locations[order_index_of(&met, (uintptr_t)access->to, &is_new)];

	if (is_new && at == locations)
		tell_all();
	/* A plain store, or code that is not looked at, may have been here. */
	if (is_new || at->size_bytes != access->size_bytes ||
	    newest(at)->value != in_memory(access))
		begin_history(at, access);
	return at;
}

/* Does this store, known to the running thread, hide all before it? */
static bool is_known(const struct store *store)
{
	if (sees(store->thread, store->time))
		return true;
	for (uint32_t i = 0; i < ORDER_THREADS_MAX; i++)
		if (store->seen[i] && sees(i, store->seen[i]))
			return true;
	return false;
}

/* Bit K: the load may see the store that is K older than the newest, and that would make a
 * difference. */
static uint8_t older_choices(struct location *at)
{
	uint8_t choices = 0;

	for (uint32_t k = 0; k + 1 < at->count && !is_known(newest(at) - k); k++)
		if ((newest(at) - k - 1)->value != newest(at)->value)
			choices |= (uint8_t)(2u << k);
	return choices;
}

static void learn(const struct store *store, bool acquires)
{
	join_view(acquires ? &self()->now : &self()->acquired, &store->released);
}

static void push(struct location *at, const struct order_access *access, uint64_t value,
		 const struct order_view *also)
{
	struct store store = {
	    .value = value,
	    .released = access->releases ? self()->now : self()->fenced,
	    .thread = sched_current(),
	    .time = self()->now.known.of[sched_current()],
	};

	if (also)
		join_view(&store.released, also);
	if (at->count == STORES_MAX)
		memmove(&at->stores[0], &at->stores[1], sizeof(store) * --at->count);
	at->stores[at->count++] = store;
}

uint64_t order_load(const struct order_access *access)
{
	struct location *at = location_of(access);
	uint32_t older = sched_choose(older_choices(at)), now;
	struct store *store = newest(at) - older;

	order_race_check(access);
	now = tick();
	if (!store->seen[sched_current()])
		store->seen[sched_current()] = now;
	learn(store, access->acquires);
	return store->value;
}

void order_store(const struct order_access *access, uint64_t value)
{
	struct location *at = location_of(access);

	order_race_check(access);
	tick();
	push(at, access, value, NULL);
}

static void fence(void)
{
	struct order_thread *thread = self();

	tick();
	join_view(&thread->now, &thread->acquired);
	join(&thread->now.seen, &order.fences);
	order.fences = thread->now.seen;
	thread->fenced = thread->now;
}

void order_rmw(const struct order_access *access, uint64_t value)
{
	struct location *at = location_of(access);

	order_race_check(access);
	tick();
	learn(newest(at), access->acquires);
	push(at, access, value, &newest(at)->released);
	if (access->is_full)
		fence();
}

void order_rmw_failed(const struct order_access *access)
{
	order_race_check(access);
	tick();
	learn(newest(location_of(access)), access->acquires);
}

void order_fence(uintptr_t site)
{
	struct order_access access = {.site = site, .acquires = true, .releases = true};

	access = order_noted(access, ORDER_FENCE);
	if (access.acquires)
		fence();
}
