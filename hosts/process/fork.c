/* The one atfork triple of the process, over the entries of the registry. */
#include "hosts/process/fork.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

#include "hosts/process/internal.h"

/* Bounds of the section, from the linker; weak so that a program without an entry links. */
extern const struct fork_entry __start_quire_fork[] __attribute__((weak, visibility("hidden")));
extern const struct fork_entry __stop_quire_fork[] __attribute__((weak, visibility("hidden")));

enum fork_step { STEP_BEFORE, STEP_PARENT, STEP_CHILD };

static void entry_run(const struct fork_entry *entry, enum fork_step step)
{
	void (*function)(void) = step == STEP_BEFORE   ? entry->before
				 : step == STEP_PARENT ? entry->parent
						       : entry->child;

	if (function)
		function();
}

static void rank_run(uint32_t rank, enum fork_step step)
{
	const struct fork_entry *entry;

	for (entry = __start_quire_fork; entry < __stop_quire_fork; entry++)
		if (entry->rank == rank)
			entry_run(entry, step);
}

/* In a child, of the fork that made it. Its one thread writes them before the entries are run, and
 * resets them behind. */
static uint64_t flags;
static bool is_libcs;

void process_fork_note_flags(uint64_t clone_flags)
{
	flags = clone_flags;
}

bool process_fork_shares_descriptors(void)
{
	return flags & CLONE_FILES;
}

void process_fork_before(void)
{
	for (uint32_t rank = 0; rank < FORK_RANKS; rank++)
		rank_run(rank, STEP_BEFORE);
}

static void run_after(enum fork_step step)
{
	for (uint32_t rank = FORK_RANKS; rank-- > 0;)
		rank_run(rank, step);
}

void process_fork_parent(void)
{
	run_after(STEP_PARENT);
}

void process_fork_child(uint64_t clone_flags)
{
	flags = clone_flags;
	run_after(STEP_CHILD);
	flags = 0;
}

static void libcs_child(void)
{
	is_libcs = true;
	process_fork_child(flags);
	is_libcs = false;
}

bool process_fork_is_libcs(void)
{
	return is_libcs;
}

void process_fork_install(void)
{
	pthread_atfork(process_fork_before, process_fork_parent, libcs_child);
}
