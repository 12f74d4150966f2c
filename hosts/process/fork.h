/* What a child of fork() starts anew: every lock of the whole process, and what it guards. */
#ifndef QUIRE_HOSTS_PROCESS_FORK_H
#define QUIRE_HOSTS_PROCESS_FORK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * fork() copies memory as it is at one instant, and of the threads only the one that calls. A lock
 * that another thread holds at that instant stays held in the child for ever. Two things follow.
 *
 * No lock is taken over a fork. The kernel may wait in fork() for the reader of a userfaultfd
 * (UFFD_FEATURE_EVENT_FORK), and that reader may make any call of KVM's. Instead
 *
 * - a client's signal handler waits, so the forking thread itself holds no lock;
 * - the child makes every lock of the registry free again, the innermost first;
 * - what such a lock guards can be used after any prefix of its writer's stores, in program order:
 *   a list is linked by one store, a record that is rewritten has two copies. What cannot be
 *   made so is put back to empty by the entry's child(), which may be told by the lock itself
 *   whether its holder was interrupted.
 *
 * Locks inside a VM, a vCPU or a guest_memfd are not here: a child never takes them, since these
 * objects are its parent's and answer EIO.
 */

/* The order in which a thread takes the locks of the whole process, outermost first. */
enum fork_rank {
	FORK_SIGNALS,	/* no lock: the forking thread's own signals. First before, last after */
	FORK_CHILDREN,	/* children_lock: what children's mappings show */
	FORK_ACTIONS,	/* actions_lock: the client's signal actions */
	FORK_FILES,	/* table_lock: file objects */
	FORK_ENDS,	/* ends_lock: files that wait for their release */
	FORK_HOLDER,	/* holder_lock: second descriptions */
	FORK_PARAMS,	/* nx_vms_lock: VMs that hear of parameters */
	FORK_VMS,	/* vms_lock: VMs that hear of memory calls */
	FORK_REPLACING, /* replacing_lock: calls that take mappings away */
	FORK_IRQFDS,	/* irqfds_lock */
	FORK_KEYS,	/* keys_lock: irqfds by what the kernel calls them */
	FORK_LIMITS,	/* limit_lock: RLIMIT_NOFILE and the hidden descriptors */
	FORK_MARKS,	/* marks_lock: which processes of a run have VMs */
	FORK_REPORT,	/* report_lock: statistics of this process */
	FORK_LOGS,	/* log_lock: logs that a sanitizer looks at */
	FORK_MACHINES,	/* machines_lock: VMs and slots that sanitizers know */
	FORK_FINDINGS,	/* findings_lock: what a sanitizer reports */
	FORK_PAGES,	/* async_lock: pages that the host waits for */
	FORK_STOPS,	/* stops_lock: vCPUs that SIGCONT reaches */
	FORK_WAITERS,	/* waiters_lock: vCPUs that sleep */
	FORK_SPLIT,	/* crossing_lock: locked accesses over two pages */
	FORK_WATCHED,	/* watched_lock: memory that a userfaultfd brings in */
	FORK_CORE,	/* locks of the library: quire_platform_forked() */
	FORK_RECORDS,	/* pool_lock: records of threads */
	FORK_MEMORY,	/* alloc_lock */
	FORK_TRAPS,	/* no lock: the kernel's dispatch of the forking thread's calls */
	FORK_RANKS
};

struct fork_entry {
	uint32_t rank;
	void (*before)(void); /* in the forking thread, outermost first; NULL: nothing to do */
	void (*parent)(void); /* after it, innermost first */
	void (*child)(void);  /* the same in the child */
};

/*
 * Register the lock @lock of the whole process, which stands in the same file. @child_function
 * makes it free again. './dev tidy' fails on a static lock that is not registered.
 */
#define FORK_CHILD(rank_of_lock, lock, child_function)                                  \
	static const struct fork_entry fork_entry_##lock                                \
	    __attribute__((section("quire_fork"), used)) = {.rank = (rank_of_lock),     \
							    .child = (child_function)}; \
	/* A lock that is gone takes its entry with it. */                              \
	_Static_assert(sizeof(lock) > 0, "")

/*
 * Called by the atfork triple; a program that forks by a raw system call calls them itself.
 * @clone_flags are those of clone or clone3; 0: of a plain fork.
 */
void process_fork_before(void);
void process_fork_parent(void);
void process_fork_child(uint64_t clone_flags);

/* In the child, inside of fork(3), where the caller makes the system call for libc: what the
 * triple, which libc runs next, takes for @clone_flags. */
void process_fork_note_flags(uint64_t clone_flags);
/* For an entry's child(): CLONE_FILES. What the child closes is closed in its parent, too. */
bool process_fork_shares_descriptors(void);

/*
 * For an entry's child(): was this fork(3), which has made libc's own locks free in the child?
 * After _Fork() and a raw system call one of them may be held for ever, and no thread can be made.
 */
bool process_fork_is_libcs(void);

#endif
