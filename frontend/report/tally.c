/* How often each event happens and how long exits take, counted while a `quire stat` looks. */
#include "frontend/report/tally.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include <quire/vcpu.h>

#include "frontend/report/json.h"
#include "frontend/report/svm_exits.h"

struct duration_tally {
	_Atomic uint64_t count, total_ns, min_ns, max_ns;
};

#define S(code, name)      \
	{                  \
		code, name \
	}
/* The last counts what has no name. */
static const struct {
	uint32_t code;
	const char *name;
} exit_names[] = {SVM_EXITS, {0, "other"}};
#undef S
#define EXITS (sizeof(exit_names) / sizeof(exit_names[0]))

static const char *const event_names[] = {
#define EVENT_NAME(group, name, fields) #name,
    QUIRE_TRACE_EVENTS(EVENT_NAME, QUIRE_TRACE_FIELD)
#undef EVENT_NAME
};

static struct duration_tally exits[EXITS];
/* By the answer of quire_vcpu_fault(); the last counts errors. */
static const char *const outcome_names[] = {
    [QUIRE_RETRY] = "retried",
    [QUIRE_EMULATE] = "emulated",
    [QUIRE_WRITE_PROTECTED] = "write-protected",
    [QUIRE_FIXED] = "fixed",
    [QUIRE_SPURIOUS] = "spurious",
    [QUIRE_NESTED_FAULT] = "for the guest hypervisor",
    [QUIRE_NESTED_FAULT + 1] = "failed",
};
#define OUTCOMES (sizeof(outcome_names) / sizeof(outcome_names[0]))
static struct duration_tally faults[OUTCOMES], lock_holds, harvests;
static _Atomic uint64_t harvested_pages;
static _Atomic uint64_t events[QUIRE_TRACE_COUNT];
/* Huge leaves that came in the place of a table. */
static _Atomic uint64_t recovered;
/* Grows with each beginning: an exit that was left before it does not count. */
static atomic_uint turn;

/* The running thread's last exit. */
static _Thread_local struct {
	uint64_t time_ns;
	uint32_t which; /* index into exits */
	uint32_t turn;	/* 0: none */
} last_exit __attribute__((tls_model("initial-exec")));

/* Where what takes time began in the running thread; 0: it did not. */
static _Thread_local uint64_t begun_ns[QUIRE_TIMED_COUNT]
    __attribute__((tls_model("initial-exec")));

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void clear(struct duration_tally *tally)
{
	atomic_store(&tally->count, 0);
	atomic_store(&tally->total_ns, 0);
	atomic_store(&tally->min_ns, UINT64_MAX);
	atomic_store(&tally->max_ns, 0);
}

void tally_begin(void)
{
	atomic_fetch_add(&turn, 1);
	for (uint32_t i = 0; i < QUIRE_TRACE_COUNT; i++)
		atomic_store(&events[i], 0);
	for (uint32_t i = 0; i < EXITS; i++)
		clear(&exits[i]);
	for (uint32_t i = 0; i < OUTCOMES; i++)
		clear(&faults[i]);
	clear(&lock_holds);
	clear(&harvests);
	atomic_store(&harvested_pages, 0);
	atomic_store(&recovered, 0);
}

static void add(_Atomic uint64_t *sum, uint64_t value)
{
	atomic_fetch_add_explicit(sum, value, memory_order_relaxed);
}

static uint64_t value_of(_Atomic uint64_t *number)
{
	return atomic_load_explicit(number, memory_order_relaxed);
}

static void add_duration(struct duration_tally *tally, uint64_t ns)
{
	uint64_t seen = value_of(&tally->min_ns);

	while (ns < seen && !atomic_compare_exchange_weak(&tally->min_ns, &seen, ns))
		;
	seen = value_of(&tally->max_ns);
	while (ns > seen && !atomic_compare_exchange_weak(&tally->max_ns, &seen, ns))
		;
	add(&tally->total_ns, ns);
	add(&tally->count, 1);
}

static uint32_t find_exit(uint64_t code)
{
	uint32_t which = 0;

	while (which < EXITS - 1 && exit_names[which].code != code)
		which++;
	return which;
}

/* In NPT and EPT alike: a present entry has one of these, and above 4K a leaf has that. */
#define ENTRY_RIGHTS UINT64_C(7)
#define ENTRY_LARGE (UINT64_C(1) << 7)

/* Of kvm_tdp_mmu_spte_changed, whose fields are gfn, old, new and level: KVM has no event for it.
 */
static bool is_recovery(const uint64_t *args)
{
	return args[3] > QUIRE_LEVEL_4K && (args[1] & ENTRY_RIGHTS) && !(args[1] & ENTRY_LARGE) &&
	       (args[2] & ENTRY_RIGHTS) && (args[2] & ENTRY_LARGE);
}

void tally_event(enum quire_trace_event event, const uint64_t *args)
{
	add(&events[event], 1);
	if (event == QUIRE_TRACE_kvm_exit) {
		last_exit.turn = atomic_load_explicit(&turn, memory_order_relaxed);
		last_exit.which = find_exit(args[0]);
		last_exit.time_ns = now_ns();
	} else if (event == QUIRE_TRACE_kvm_entry) {
		if (last_exit.turn && last_exit.turn == atomic_load(&turn))
			add_duration(&exits[last_exit.which], now_ns() - last_exit.time_ns);
		last_exit.turn = 0;
	} else if (event == QUIRE_TRACE_kvm_tdp_mmu_spte_changed && is_recovery(args)) {
		add(&recovered, 1);
	}
}

static struct duration_tally *find_outcome(uint64_t answer)
{
	return &faults[answer && answer < OUTCOMES && outcome_names[answer] ? answer
									    : OUTCOMES - 1];
}

void tally_timed(enum quire_timed what, enum quire_timed_edge edge, uint64_t value)
{
	uint64_t begun = begun_ns[what];

	if (edge == QUIRE_TIMED_BEGINS) {
		begun_ns[what] = now_ns();
		return;
	}
	begun_ns[what] = 0;
	if (!begun)
		return;
	if (what == QUIRE_TIMED_HARVEST)
		add(&harvested_pages, value);
	add_duration(what == QUIRE_TIMED_FAULT	    ? find_outcome(value)
		     : what == QUIRE_TIMED_MMU_LOCK ? &lock_holds
						    : &harvests,
		     now_ns() - begun);
}

static void print_duration(struct json *json, const char *name, struct duration_tally *tally)
{
	uint64_t count = value_of(&tally->count);

	if (!count)
		return;
	json_object(json, NULL);
	json_string(json, "reason", name);
	json_unsigned(json, "count", count);
	json_unsigned(json, "time_ns", value_of(&tally->total_ns));
	json_unsigned(json, "min_ns", value_of(&tally->min_ns));
	json_unsigned(json, "max_ns", value_of(&tally->max_ns));
	if (tally == &harvests)
		json_unsigned(json, "pages", value_of(&harvested_pages));
	json_end(json);
}

void tally_print(struct json *json)
{
	json_object(json, "events");
	for (uint32_t i = 0; i < QUIRE_TRACE_COUNT; i++)
		if (value_of(&events[i]))
			json_unsigned(json, event_names[i], value_of(&events[i]));
	json_end(json);
	json_object(json, "huge_pages");
	json_unsigned(json, "split", value_of(&events[QUIRE_TRACE_kvm_mmu_split_huge_page]));
	json_unsigned(json, "recovered", value_of(&recovered));
	json_end(json);
	json_array(json, "exits");
	for (uint32_t i = 0; i < EXITS; i++)
		print_duration(json, exit_names[i].name, &exits[i]);
	json_end(json);
	json_array(json, "faults");
	for (uint32_t i = 0; i < OUTCOMES; i++)
		print_duration(json, outcome_names[i], &faults[i]);
	json_end(json);
	json_array(json, "locks");
	print_duration(json, "mmu_lock, exclusive", &lock_holds);
	json_end(json);
	json_array(json, "harvests");
	print_duration(json, "dirty log", &harvests);
	json_end(json);
}

void tally_forget_thread(void)
{
	last_exit.turn = 0;
	memset(begun_ns, 0, sizeof(begun_ns));
}
