/* Which of the client's memory a userfaultfd brings in: a few ranges, told when they change. */
#include "hosts/process/watched.h"

#include <stdbool.h>
#include <stddef.h>

#include "hosts/process/fork.h"
#include "hosts/process/lock.h"

#define RANGES 64u

struct watched {
	uint64_t start, end;
	uint32_t modes;
};

static struct process_lock watched_lock;
static struct watched ranges[RANGES];
static uint32_t range_count; /* read without the lock to learn that there is none */

/* A child's memory is watched by nothing, unless its parent's reader asked for that. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&watched_lock);
	range_count = 0;
}
FORK_CHILD(FORK_WATCHED, watched_lock, fork_child);

static void set_count(uint32_t count)
{
	__atomic_store_n(&range_count, count, __ATOMIC_RELEASE);
}

/* Where there is no room the last range grows over what it does not cover: some pages too many. */
static void add_locked(const struct watched *range)
{
	struct watched *last = &ranges[RANGES - 1];

	if (range_count < RANGES) {
		ranges[range_count] = *range;
		set_count(range_count + 1);
		return;
	}
	if (range->start < last->start)
		last->start = range->start;
	if (range->end > last->end)
		last->end = range->end;
	last->modes |= range->modes;
}

static void remove_locked(uint64_t start, uint64_t end)
{
	for (uint32_t i = 0; i < range_count; i++) {
		struct watched *range = &ranges[i];
		const struct watched rest = {end, range->end, range->modes};

		if (start >= range->end || end <= range->start)
			continue;
		if (start <= range->start && end >= range->end) {
			*range = ranges[range_count - 1];
			set_count(range_count - 1);
			i--;
		} else if (start <= range->start) {
			range->start = end;
		} else if (end >= range->end) {
			range->end = start;
		} else if (range_count < RANGES) {
			range->end = start;
			add_locked(&rest);
		}
	}
}

void watched_set(uint64_t start, uint64_t end, uint32_t modes)
{
	const struct watched range = {start, end, modes};

	if (start >= end)
		return;
	process_lock_acquire(&watched_lock);
	remove_locked(start, end);
	if (modes)
		add_locked(&range);
	process_lock_release(&watched_lock);
}

uint32_t watched_modes(uint64_t address)
{
	uint32_t modes = 0;

	if (!__atomic_load_n(&range_count, __ATOMIC_ACQUIRE))
		return 0;
	process_lock_acquire(&watched_lock);
	for (uint32_t i = 0; i < range_count; i++)
		if (address >= ranges[i].start && address < ranges[i].end)
			modes |= ranges[i].modes;
	process_lock_release(&watched_lock);
	return modes;
}
