/* What detectors find: each thing once, as text for a reader and as a record for the command. */
#include "sanitize/report.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hosts/process/fork.h"
#include "hosts/process/lock.h"
#include "hosts/process/map.h"
#include "hosts/process/maps.h"
#include "hosts/process/room.h"
#include "hosts/process/sys.h"
#include "sanitize/rules.h"
#include "sanitize/symbol.h"

#define KERNEL_SET_BYTES 8

uint32_t sanitize_kinds;
/* NULL: the run looks for nothing. */
static struct sanitize_control *control;
/* One report at a time: it guards the text, the symbols' buffer and @scratch. */
static struct process_lock findings_lock;
static struct sanitize_record scratch;

static void fork_child(void)
{
	(void)process_lock_start_anew(&findings_lock);
}
FORK_CHILD(FORK_FINDINGS, findings_lock, fork_child);

void sanitize_attach(const char *directory)
{
	if (!directory)
		return;
	control = process_map_shared(directory, SANITIZE_CONTROL, sizeof(*control));
	if (control)
		sanitize_kinds = control->kinds;
}

/* Findings that were reported already, by addresses: for those that come again and again. */
#define SEEN_SETS 256u
static uint64_t seen_keys[SEEN_SETS];

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
	return hash ^ hash >> 29;
}

static uint64_t mix_place(uint64_t hash, const struct sanitize_places *places)
{
	for (uint32_t i = 0; i < places->count && i < places->place_frames; i++) {
		for (const char *at = places->list[i].module; *at; at++)
			hash = mix(hash, (unsigned char)*at);
		hash = mix(hash, places->list[i].offset);
	}
	return mix(hash, places->count != 0);
}

/* By what stays the same from one process of the run to the next; never 0. */
static uint64_t key_of(const struct sanitize_record *record)
{
	uint64_t hash = mix_place(mix(1, record->kind), &record->used);

	hash = mix(hash, record->detail);
	return mix_place(mix(hash, 2), &record->changed) | 1;
}

/* The record that is this thread's to fill; NULL: the thing was found before, or there is no room.
 */
static struct sanitize_record *claim(uint64_t key)
{
	for (uint32_t i = 0; i < SANITIZE_RECORDS; i++) {
		struct sanitize_record *record = &control->records[i];
		uint64_t seen = 0;

		if (__atomic_compare_exchange_n(&record->key, &seen, key, false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return record;
		if (seen == key)
			return NULL;
	}
	__atomic_store_n(&control->is_full, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void name_stack(struct sanitize_places *places, const struct sanitize_stack *stack)
{
	places->count = stack ? stack->count : 0;
	places->tid = stack ? stack->tid : 0;
	places->place_frames = stack ? stack->place_frames : 0;
	for (uint32_t i = 0; i < places->count; i++) {
		places->list[i].address = stack->frames[i];
		symbol_find(&places->list[i]);
	}
}

static void copy_words(char words[SANITIZE_WORDS_BYTES], const char *text)
{
	size_t length = text ? strnlen(text, SANITIZE_WORDS_BYTES - 1) : 0;

	if (length)
		memcpy(words, text, length);
	words[length] = '\0';
}

static void fill_in(struct sanitize_record *record, const struct sanitize_finding *finding)
{
	record->kind = finding->kind;
	record->pid = (uint32_t)sys_call(SYS_getpid, 0);
	record->slot = finding->slot;
	record->detail = finding->detail;
	record->guest_start = finding->guest_start;
	record->guest_end = finding->guest_end;
	record->host_start = finding->host_start;
	record->host_end = finding->host_end;
	copy_words(record->what, finding->what);
	copy_words(record->mapped, finding->mapped);
	name_stack(&record->used, finding->used);
	name_stack(&record->changed, finding->changed);
}

/* A line is one write, so that the lines of several processes stay whole. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[640];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (length >= (int)sizeof(line))
		length = (int)sizeof(line) - 1;
	if (length > 0)
		sys_call(SYS_write, STDERR_FILENO, sys_address(line), (uint64_t)length);
}

static void say_stack(const char *words, const struct sanitize_places *places)
{
	if (!places->count) {
		say("  %s: not known\n", words);
		return;
	}
	say("  %s, by thread %" PRIu32 ":\n", words, places->tid);
	for (uint32_t i = 0; i < places->count; i++) {
		const struct sanitize_place *place = &places->list[i];

		say("    #%" PRIu32 " 0x%" PRIx64 "%s%s (%s+0x%" PRIx64 ")\n", i, place->address,
		    *place->function ? " in " : "", place->function,
		    *place->module ? place->module : "[not mapped]", place->offset);
	}
}

static void say_all(const struct sanitize_record *record)
{
	say("==%" PRIu32 "== quire: sanitize: %s: %s\n", record->pid,
	    sanitize_kind_names[record->kind], record->what);
	if (record->guest_start < record->guest_end)
		say("  guest memory 0x%" PRIx64 "-0x%" PRIx64 "\n", record->guest_start,
		    record->guest_end);
	if (record->host_start < record->host_end)
		say("  host memory 0x%" PRIx64 "-0x%" PRIx64 "\n", record->host_start,
		    record->host_end);
	if (record->slot != SANITIZE_NO_SLOT)
		say("  slot %" PRIu32 " of address space %" PRIu32 "\n", record->slot & 0xffff,
		    record->slot >> 16);
	if (*record->mapped)
		say("  mapped there: %s\n", record->mapped);
	say_stack("used", &record->used);
	say_stack("changed", &record->changed);
}

static void report_locked(const struct sanitize_finding *finding)
{
	struct sanitize_record *record;
	uint64_t key;
	uint32_t state;

	fill_in(&scratch, finding);
	key = key_of(&scratch);
	record = claim(key);
	if (!record)
		return;
	state = sanitize_rules_fit(control, &scratch) ? SANITIZE_SUPPRESSED : SANITIZE_FOUND;
	scratch.key = key;
	scratch.state = SANITIZE_UNFINISHED;
	*record = scratch;
	__atomic_store_n(&record->state, state, __ATOMIC_RELEASE);
	if (state == SANITIZE_FOUND)
		say_all(&scratch);
}

static uint64_t mix_frames(uint64_t hash, const struct sanitize_stack *stack)
{
	for (uint32_t i = 0; stack && i < stack->count && i < stack->place_frames; i++)
		hash = mix(hash, stack->frames[i]);
	return mix(hash, stack && stack->count);
}

/* Has this process said it a moment ago? What two findings say that race is found by their names.
 */
static bool was_seen(const struct sanitize_finding *finding)
{
	uint64_t key = mix_frames(mix(mix(1, finding->kind), finding->detail), finding->used);
	uint64_t *seen;

	key = mix_frames(key, finding->changed) | 1;
	seen = &seen_keys[(key >> 1) % SEEN_SETS];
	return __atomic_exchange_n(seen, key, __ATOMIC_RELAXED) == key;
}

static void run_report(void *argument)
{
	process_lock_acquire(&findings_lock);
	report_locked(argument);
	process_lock_release(&findings_lock);
}

void sanitize_report(const struct sanitize_finding *finding)
{
	uint64_t all = UINT64_MAX, before = 0;
	struct sanitize_finding copy = *finding;

	if (!control || was_seen(finding))
		return;
	/* A handler of the client's could find something, too, and wait for our lock. */
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, sys_address(&all), sys_address(&before),
		 KERNEL_SET_BYTES);
	process_with_room(run_report, &copy);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&before), 0, KERNEL_SET_BYTES);
}

void sanitize_describe(uint64_t address, char words[SANITIZE_WORDS_BYTES])
{
	struct process_mapping mapping;
	struct maps_name name;

	if (maps_find(address, &mapping, &name)) {
		copy_words(words, "nothing");
		return;
	}
	snprintf(words, SANITIZE_WORDS_BYTES, "%c%c%c%c %.200s",
		 mapping.prot & PROT_READ ? 'r' : '-', mapping.prot & PROT_WRITE ? 'w' : '-',
		 mapping.prot & PROT_EXEC ? 'x' : '-', mapping.shared ? 's' : 'p',
		 *name.text ? name.text : "anonymous memory");
}
