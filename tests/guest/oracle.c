/* Composing L1's tables with the slots. */
#include "oracle.h"

#include <stddef.h>
#include <string.h>

#include "tests/rules/check.h"

/* One way down, with the entries that it has taken. */
struct way {
	const struct oracle *oracle;
	struct oracle_set *set;
	enum oracle_access access;
	uint64_t gpa;
	uint32_t from; /* the first change that counts */
	/* When the entry above was read, in changes: those below are read later, or at once. */
	uint32_t time;
	uint64_t rights, nx;
};

static const struct oracle_memory *find(const struct oracle *oracle, uint64_t gpa)
{
	for (uint32_t i = 0; i < oracle->memories; i++)
		if (gpa - oracle->memory[i].gpa < oracle->memory[i].bytes)
			return &oracle->memory[i];
	return NULL;
}

uint8_t *oracle_host(const struct oracle *oracle, uint64_t gpa)
{
	const struct oracle_memory *memory = find(oracle, gpa);

	return memory ? memory->host + (gpa - memory->gpa) : NULL;
}

static void add(const struct way *way, const struct oracle_seen *seen)
{
	if (way->set->count == ORACLE_SEEN)
		way->set->is_full = 1;
	else
		way->set->seen[way->set->count++] = *seen;
}

static void refuse(const struct way *way, uint64_t why)
{
	uint64_t error = ORACLE_FINAL | 4 | why;

	if (way->access == ORACLE_WRITE)
		error |= 2;
	if (way->access == ORACLE_FETCH)
		error |= 16;
	add(way, &(struct oracle_seen){.kind = ORACLE_FAULT, .error = error});
}

static void arrive(const struct way *way, uint64_t gpa, uint64_t leaf)
{
	const struct oracle_memory *memory = find(way->oracle, gpa);
	struct oracle_seen seen = {.kind = ORACLE_MEMORY, .gpa = gpa, .leaf = leaf};

	if (!(way->rights & ORACLE_U) ||
	    (way->access == ORACLE_WRITE && !(way->rights & ORACLE_W)) ||
	    (way->access == ORACLE_FETCH && way->nx)) {
		refuse(way, 1);
		return;
	}
	if (!memory || (way->access == ORACLE_WRITE && memory->is_rom))
		seen.kind = ORACLE_DEVICE;
	add(way, &seen);
}

static uint64_t reserved_of(uint64_t entry, uint32_t level)
{
	uint64_t reserved = 0xful << 48;

	if (level == 4)
		return reserved | 0x180;
	if (level > 1 && (entry & ORACLE_PS))
		reserved |= ((1ul << (12 + 9 * (level - 1))) - 1) & ~0x1ffful;
	return reserved;
}

static void walk(const struct way *way, uint64_t table, uint32_t level);

static void take(const struct way *above, uint64_t at, uint64_t entry, uint32_t level)
{
	uint64_t span = 1ul << (12 + 9 * (level - 1));
	struct way way = *above;

	if (!(entry & ORACLE_P)) {
		refuse(&way, 0);
		return;
	}
	if (entry & reserved_of(entry, level)) {
		refuse(&way, 9);
		return;
	}
	way.rights &= entry;
	way.nx |= entry & ORACLE_NX;
	if (level > 1 && !(entry & ORACLE_PS))
		walk(&way, entry & ORACLE_ADDRESS, level - 1);
	else
		arrive(&way, (entry & ORACLE_ADDRESS & ~(span - 1)) | (way.gpa & (span - 1)), at);
}

/* A value that an entry had, from the change @since to @until. */
struct reading {
	uint64_t at, entry;
	uint32_t since, until;
};

/*
 * A processor keeps what it has read of the upper levels, and reads those below later. The other
 * way round, an old entry below one that leads there only since, is never seen.
 */
static void take_at(const struct way *above, const struct reading *reading, uint32_t level)
{
	struct way way = *above;

	if (way.time > reading->until)
		return;
	if (way.time < reading->since)
		way.time = reading->since;
	take(&way, reading->at, reading->entry, level);
}

static void walk(const struct way *way, uint64_t table, uint32_t level)
{
	const struct oracle *oracle = way->oracle;
	uint64_t at = table + (way->gpa >> (12 + 9 * (level - 1)) & 511) * 8, entry;
	const uint8_t *host = oracle_host(oracle, at);
	uint32_t since = 0;

	if (!host) {
		refuse(way, 0);
		return;
	}
	memcpy(&entry, host, sizeof(entry));
	for (uint32_t i = way->from; i < oracle->change_count; i++)
		if (oracle->changes[i].at == at)
			since = i + 1;
	take_at(way, &(struct reading){at, entry, since, oracle->change_count}, level);
	since = 0;
	for (uint32_t i = way->from; i < oracle->change_count; i++) {
		if (oracle->changes[i].at != at)
			continue;
		take_at(way, &(struct reading){at, oracle->changes[i].old, since, i}, level);
		since = i + 1;
	}
}

void oracle_look(const struct oracle *oracle, uint64_t gpa, enum oracle_access access,
		 struct oracle_set *set)
{
	struct way way = {
	    .oracle = oracle, .set = set, .access = access, .gpa = gpa, .rights = UINT64_MAX};

	set->count = set->is_full = 0;
	for (uint32_t i = 0; i < oracle->exact_count; i++)
		if (oracle->exact[i].page == gpa >> 12)
			way.from = oracle->exact[i].from;
	walk(&way, oracle->root, 4);
	CHECK(set->count);
}

int oracle_note_change(struct oracle *oracle, uint64_t at)
{
	struct oracle_change *change = &oracle->changes[oracle->change_count];

	if (oracle->change_count == ORACLE_CHANGES)
		return 0;
	change->at = at;
	memcpy(&change->old, oracle_host(oracle, at), sizeof(change->old));
	oracle->change_count++;
	return 1;
}

void oracle_note_flush(struct oracle *oracle)
{
	oracle->change_count = 0;
	oracle->exact_count = 0;
}

void oracle_note_page_flush(struct oracle *oracle, uint64_t gpa)
{
	if (oracle->exact_count == ORACLE_EXACT)
		return;
	oracle->exact[oracle->exact_count].page = gpa >> 12;
	oracle->exact[oracle->exact_count++].from = oracle->change_count;
}
