/* Files that ended and are not released yet: which thread releases which, or waits for that. */
#ifndef QUIRE_FRONTEND_FILE_ENDS_H
#define QUIRE_FRONTEND_FILE_ENDS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "frontend/file/file.h"

enum end_state { END_WAITS, END_IN_WORK };

/* Part of a file. Guarded by ends_lock. */
struct file_end {
	dev_t device;
	ino_t inode;
	uint64_t number; /* of ends, with this one */
	enum end_state state;
	struct file_end *next, **link;
};

/* What a thread sees to. The two halves may overlap. */
struct end_duty {
	/* Ends that it noticed, by number. It releases those that still wait. */
	uint64_t after, to;
	/* Ends that its client's call may have made: it releases those that wait, and waits for
	 * those that another thread releases. NULL: none. */
	const struct file_ending *call;
};

/*
 * Around a file's way out of the table, with its lock held. ends_begin() comes before the file is
 * out, so that it is never in neither place. Then ends_add(), or ends_finish() where another call
 * releases the file.
 */
void ends_begin(void);
void ends_finish(void);
/* Is a file between ends_begin() and its release? Acquires the releases that came before. */
bool ends_any(void);
/* With the lock of the table held, in the hold in which the file has left it. */
void ends_add(struct file_end *end, dev_t device, ino_t inode);
/* How many were added, ever. Acquires what came before. */
uint64_t ends_count(void);
/*
 * The next file to release, which is the caller's until ends_remove(); NULL when all are released
 * that @duty names. Waits for other threads with no lock held, and only when there is nothing left
 * to do: a thread that waits has nothing in work. Waits five seconds at most.
 */
struct file_end *ends_take(const struct end_duty *duty);
/* It is released: wakes threads that wait for that. Its memory is the caller's again. */
void ends_remove(struct file_end *end);

#endif
