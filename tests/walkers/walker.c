/*
 * The accesses of a walker, on every bare machine: what came of each goes to the serial line, and
 * then which words of the tables the processor changed. tests/walkers/test_walkers.py compares.
 */
#include "tests/walkers/walker.h"

static void say_hex(uint64_t value, char end)
{
	int shift = 60;

	while (shift && !(value >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		walker_say("0123456789abcdef"[value >> shift & 15]);
	walker_say(end);
}

static void begin_line(char kind)
{
	walker_say(kind);
	walker_say(' ');
}

/* Each place says where it is. */
static void mark_places(const struct probe_set *set)
{
	for (uint64_t i = 0; i < set->count; i++)
		if (set->probes[i].address)
			*(volatile uint64_t *)set->probes[i].address = set->probes[i].address;
}

static void say_probes(const struct probe_set *set)
{
	for (uint64_t i = 0; i < set->count; i++) {
		uint64_t value, cause = walker_touch(&set->probes[i], i, &value);

		begin_line('P');
		say_hex(i, ' ');
		say_hex(cause, ' ');
		say_hex(value, '\n');
	}
}

/* A and D that the walks have set. */
static void say_changes(const struct probe_set *set)
{
	const uint64_t *before = (const void *)TABLES_COPY_AT;
	const volatile uint64_t *after = (const void *)TABLES_AT;

	for (uint64_t i = 0; i < set->table_bytes / 8; i++) {
		if (before[i] == after[i])
			continue;
		begin_line('T');
		say_hex(i, ' ');
		say_hex(after[i], '\n');
	}
}

void walker_main(void)
{
	const struct probe_set *set = (const void *)PROBES_AT;

	/* First: a machine may put code of its own into a page. */
	mark_places(set);
	walker_prepare(set);
	say_probes(set);
	say_changes(set);
	walker_say('E');
	walker_say('\n');
	walker_stop();
}
