/* `quire stat`: rates of counters and events, and how long exits take, of running programs. */
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <quire/stats.h>

#include "cli/look/json_read.h"
#include "cli/look/processes.h"
#include "cli/quire.h"
#include "frontend/report/json.h"

#define NS_PER_S 1000000000u
#define INTERVAL_MAX_S 86400
/* Processes go on counting so much longer than the next look should take. */
#define GRACE_NS (2ull * NS_PER_S)
#define NUMBERS_MAX 160

/* Counters and events of one process; a counter of all its VMs and vCPUs together. */
struct number {
	const char *name;
	uint64_t value;
	bool is_event;
	bool is_level; /* goes up and down: a rate says nothing */
};

struct numbers {
	struct number list[NUMBERS_MAX];
	size_t count;
};

struct stat {
	uint64_t interval_ns;
	unsigned long count; /* 0: until it is interrupted */
	bool is_json, repeats;
	const char *target;
};

/* What one look shows of a process: against an earlier one, or against nothing. */
struct period {
	const struct process *now, *before;
	double seconds;
};

static bool is_level(const char *name)
{
#define LEVEL_NAME(stat, kind) ((kind) == QUIRE_STAT_CUMULATIVE ? "" : #stat),
	static const char *const names[] = {QUIRE_VM_STATS(LEVEL_NAME) "blocking", "guest_mode"};
#undef LEVEL_NAME

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

static void add_number(struct numbers *numbers, const struct json_value *from, bool is_event)
{
	size_t at = 0;

	while (at < numbers->count && (strcmp(numbers->list[at].name, from->key) ||
				       numbers->list[at].is_event != is_event))
		at++;
	if (at == NUMBERS_MAX)
		return;
	if (at == numbers->count)
		numbers->list[numbers->count++] = (struct number){
		    .name = from->key, .is_event = is_event, .is_level = is_level(from->key)};
	numbers->list[at].value += from->number;
}

static void add_all(struct numbers *numbers, const struct json_value *object, bool is_event)
{
	const struct json_value *member;

	if (!object || object->kind != JSON_OBJECT)
		return;
	json_each(member, object) add_number(numbers, member, is_event);
}

static void collect(struct numbers *numbers, const struct process *process)
{
	const struct json_value *vm, *vcpu;

	numbers->count = 0;
	if (!process)
		return;
	json_each(vm, json_member(process->said, "vms"))
	{
		add_all(numbers, json_member(vm, "stats"), false);
		json_each(vcpu, json_member(vm, "vcpus"))
		    add_all(numbers, json_member(vcpu, "stats"), false);
	}
	add_all(numbers, json_member(process->said, "events"), true);
}

static uint64_t value_of(const struct numbers *numbers, const struct number *wanted)
{
	for (size_t i = 0; i < numbers->count; i++)
		if (!strcmp(numbers->list[i].name, wanted->name) &&
		    numbers->list[i].is_event == wanted->is_event)
			return numbers->list[i].value;
	return 0;
}

/* Events a second. A process that was not there before has no rate yet. */
static double rate_of(const struct period *period, const struct number *number,
		      const struct numbers *before)
{
	uint64_t earlier = value_of(before, number);

	if (!period->before || number->value < earlier || period->seconds <= 0)
		return 0;
	return (double)(number->value - earlier) / period->seconds;
}

static const struct json_value *find_exit(const struct process *process, const char *reason)
{
	const struct json_value *exit;

	json_each(exit, process ? json_member(process->said, "exits")
				: NULL) if (!strcmp(json_member_text(exit, "reason"),
						    reason)) return exit;
	return NULL;
}

/* One reason, in the period; the shortest and the longest since the first look. */
struct exits {
	const char *reason;
	uint64_t count, time_ns, min_ns, max_ns;
};

static struct exits exits_of(const struct period *period, const struct json_value *now)
{
	const char *reason = json_member_text(now, "reason");
	const struct json_value *before = find_exit(period->before, reason);
	uint64_t earlier = json_member_number(before, "count");
	struct exits exits = {
	    .reason = reason,
	    .count = json_member_number(now, "count"),
	    .time_ns = json_member_number(now, "time_ns"),
	    .min_ns = json_member_number(now, "min_ns"),
	    .max_ns = json_member_number(now, "max_ns"),
	};

	/* A smaller one before is of an earlier counting. */
	if (earlier <= exits.count) {
		exits.count -= earlier;
		exits.time_ns -= json_member_number(before, "time_ns");
	}
	return exits;
}

static double mean_ns(const struct exits *exits)
{
	return exits->count ? (double)exits->time_ns / (double)exits->count : 0;
}

static void print_json(struct json *json, const struct period *period)
{
	static struct numbers now, before;
	const struct json_value *exit;

	collect(&now, period->now);
	collect(&before, period->before);
	json_object(json, NULL);
	json_signed(json, "pid", period->now->pid);
	json_string(json, "command", json_member_text(period->now->said, "command"));
	for (int is_event = 0; is_event < 2; is_event++) {
		json_object(json, is_event ? "events" : "counters");
		for (size_t i = 0; i < now.count; i++) {
			if (now.list[i].is_event != is_event)
				continue;
			json_object(json, now.list[i].name);
			json_unsigned(json, "value", now.list[i].value);
			if (!now.list[i].is_level)
				json_real(json, "per_second",
					  rate_of(period, &now.list[i], &before), 1);
			json_end(json);
		}
		json_end(json);
	}
	json_array(json, "exits");
	json_each(exit, json_member(period->now->said, "exits"))
	{
		struct exits exits = exits_of(period, exit);

		json_object(json, NULL);
		json_string(json, "reason", exits.reason);
		json_unsigned(json, "count", exits.count);
		json_unsigned(json, "time_ns", exits.time_ns);
		json_unsigned(json, "min_ns", exits.min_ns);
		json_unsigned(json, "max_ns", exits.max_ns);
		json_real(json, "mean_ns", mean_ns(&exits), 1);
		json_end(json);
	}
	json_end(json);
	json_end(json);
}

/* With a comma after each three digits. */
static const char *grouped(uint64_t value, char room[32])
{
	char digits[24], *to = room;
	int length = snprintf(digits, sizeof(digits), "%" PRIu64, value);

	for (int i = 0; i < length; i++) {
		if (i && (length - i) % 3 == 0)
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return room;
}

static void print_numbers(const struct period *period, bool is_event)
{
	static struct numbers now, before;
	char value[32], rate[32];
	bool any = false;

	collect(&now, period->now);
	collect(&before, period->before);
	for (size_t i = 0; i < now.count; i++) {
		const struct number *number = &now.list[i];

		if (!number->value || number->is_event != is_event)
			continue;
		if (!any)
			printf("\n  %-32s %16s %14s\n", is_event ? "event" : "counter", "total",
			       "per second");
		any = true;
		grouped((uint64_t)(rate_of(period, number, &before) + 0.5), rate);
		printf("  %-32s %16s %14s\n", number->name, grouped(number->value, value),
		       number->is_level ? "" : rate);
	}
}

static void print_exits(const struct period *period)
{
	const struct json_value *list = json_member(period->now->said, "exits"), *exit;
	uint64_t total_ns = 0;
	char count[32];

	json_each(exit, list) total_ns += exits_of(period, exit).time_ns;
	if (!list || !list->first)
		return;
	printf("\n  %-16s %12s %7s %12s %11s %11s %11s\n", "exit", "count", "time %", "time ms",
	       "min us", "max us", "mean us");
	json_each(exit, list)
	{
		struct exits exits = exits_of(period, exit);
		double share = total_ns ? 100.0 * (double)exits.time_ns / (double)total_ns : 0;

		printf("  %-16s %12s %7.2f %12.3f %11.2f %11.2f %11.2f\n", exits.reason,
		       grouped(exits.count, count), share, (double)exits.time_ns / 1e6,
		       (double)exits.min_ns / 1e3, (double)exits.max_ns / 1e3,
		       mean_ns(&exits) / 1e3);
	}
}

static void print_text(const struct period *period)
{
	const struct json_value *vm, *vcpu;
	unsigned int vms = 0, vcpus = 0;

	json_each(vm, json_member(period->now->said, "vms"))
	{
		vms += !strcmp(json_member_text(vm, "state"), "alive");
		json_each(vcpu, json_member(vm, "vcpus")) vcpus++;
	}
	printf("process %d (%s): VMs alive %u, vCPUs ever %u; in %.1f s\n", period->now->pid,
	       json_member_text(period->now->said, "command"), vms, vcpus, period->seconds);
	print_numbers(period, false);
	print_numbers(period, true);
	print_exits(period);
	putchar('\n');
}

static void print_all(const struct stat *stat, const struct processes *now,
		      const struct processes *before)
{
	struct json json = {.file = stdout, .lined_depth = 4};
	struct period period = {.seconds = (double)(now->time_ns - before->time_ns) / NS_PER_S};

	if (stat->is_json) {
		json_object(&json, NULL);
		json_real(&json, "seconds", period.seconds, 3);
		json_array(&json, "processes");
	} else if (stat->repeats && isatty(STDOUT_FILENO)) {
		fputs("\033[H\033[2J", stdout);
	}
	for (size_t i = 0; i < now->count; i++) {
		period.now = &now->list[i];
		period.before = processes_find(before, now->list[i].pid);
		if (stat->is_json)
			print_json(&json, &period);
		else
			print_text(&period);
	}
	if (stat->is_json) {
		json_end(&json);
		json_end(&json);
	}
	fflush(stdout);
}

enum { STAT_JSON, STAT_INTERVAL, STAT_COUNT };

static int take_option(void *ctx, int key, const char *value)
{
	struct stat *stat = ctx;
	char *end;
	double seconds;

	switch (key) {
	case STAT_JSON:
		stat->is_json = true;
		return 0;
	case STAT_INTERVAL:
		seconds = strtod(value, &end);
		if (*end || !(seconds >= 0.001 && seconds <= INTERVAL_MAX_S))
			return -1;
		stat->interval_ns = (uint64_t)(seconds * NS_PER_S);
		stat->repeats = true;
		return 0;
	default:
		stat->count = strtoul(value, &end, 10);
		stat->repeats = true;
		return *end || !stat->count || *value == '-' ? -1 : 0;
	}
}

static const struct cli_option stat_options[] = {
    {"interval", "SECONDS", "show figures again and again, each time of so long a period",
     STAT_INTERVAL},
    {"count", "N", "so often, and end", STAT_COUNT},
    {"json", NULL, "in JSON", STAT_JSON},
    {0},
};

const struct cli_command stat_command = {
    .name = "quire stat",
    .operand = "[PID|NAME]",
    .about = "Show what programs under `quire run` do: counters, events, exits and their times.\n"
	     "Once, over a second; with --interval until it is interrupted.",
    .options = stat_options,
    .take = take_option,
};

static int run_stat(const struct stat *stat)
{
	const struct timespec pause = {(time_t)(stat->interval_ns / NS_PER_S),
				       (long)(stat->interval_ns % NS_PER_S)};
	const struct question question = {.target = stat->target,
					  .count_for_ns = stat->interval_ns + GRACE_NS};
	struct processes before = processes_ask(&question);

	if (!before.count) {
		processes_complain(stat_command.name, stat->target);
		return EXIT_FAILURE;
	}
	for (unsigned long i = 0; !stat->count || i < stat->count; i++) {
		struct processes now;

		nanosleep(&pause, NULL);
		now = processes_ask(&question);
		print_all(stat, &now, &before);
		processes_free(&before);
		before = now;
		if (!now.count)
			break;
	}
	processes_free(&before);
	return EXIT_SUCCESS;
}

int command_stat(int argc, char **argv)
{
	struct stat stat = {.interval_ns = NS_PER_S};
	int rest, status = cli_parse(&stat_command, argc, argv, &stat, &rest);

	if (status != CLI_GO_ON)
		return status;
	if (argc - rest > 1) {
		fprintf(stderr,
			"quire stat: one PID or NAME at most; quire stat --help says more\n");
		return EXIT_USAGE;
	}
	stat.target = rest < argc ? argv[rest] : NULL;
	if (!stat.repeats)
		stat.count = 1;
	return run_stat(&stat);
}
