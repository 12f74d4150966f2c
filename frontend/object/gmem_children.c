/* What a forked child's mappings of a file that is converted show: its kernel's list is its own. */
#include "frontend/object/gmem_children.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "frontend/file/client_call.h"
#include "frontend/object/timers.h"
#include "hosts/process/fork.h"
#include "hosts/process/helper.h"
#include "hosts/process/lock.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#define CHILDREN 64u
#define NOTES 64u
/* A child that is told answers in microseconds, unless it is stopped. */
#define WAIT_NS UINT64_C(2000000000)
#define STEP_NS 20000000

struct note {
	struct gmem_view view;
	struct gmem_view_part part;
	uint32_t shown;
};

/*
 * A child's place. While @state is the child's pid, the child has not returned from its fork, and
 * looks at the board before it does. While it is -pid, the thread that answers holds @alive; the
 * kernel gives that back when the thread ends, by exec too. No other process takes it: libc would
 * follow pointers in it, and the child may be one that its maker does not trust.
 */
#define PLACE_FREE 0
struct child {
	pthread_mutex_t alive; /* robust */
	_Atomic int32_t state;
	_Atomic uint32_t seen;	 /* notes that it has dealt with */
	_Atomic uint32_t failed; /* one of them it could not */
};

/* Of one maker: the ring of its last notes. */
struct board {
	_Atomic uint32_t written; /* notes ever; children sleep on it */
	_Atomic uint32_t answers; /* the maker sleeps on it */
	struct child children[CHILDREN];
	struct note notes[NOTES];
};
#define BOARD_BYTES ((sizeof(struct board) + 4095) & ~UINT64_C(4095))

/* By generation: this process's own is the last, those of its ancestors before it. */
#define GENERATIONS 8u
static struct board *_Atomic boards[GENERATIONS];
static uint32_t dealt_with[GENERATIONS]; /* [A] notes whose change this process's memory has */
static uint32_t generation;

/* Guards what is written to the own board, and how many changes are not made here yet. */
static struct process_lock children_lock;
static uint32_t pending;

static void futex_wait(_Atomic uint32_t *word, uint32_t seen, const struct timespec *timeout)
{
	sys_call(SYS_futex, sys_address(word), FUTEX_WAIT, seen, sys_address(timeout));
}

static void futex_wake(_Atomic uint32_t *word)
{
	sys_call(SYS_futex, sys_address(word), FUTEX_WAKE, INT_MAX);
}

int gmem_children_begin(void)
{
	struct board *none = NULL, *board;
	long memory;

	if (generation >= GENERATIONS || atomic_load(&boards[generation]))
		return 0;
	memory = process_map(BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	if (sys_failed(memory))
		return -ENOMEM;
	board = (struct board *)memory;
	if (!atomic_compare_exchange_strong(&boards[generation], &none, board))
		sys_call(SYS_munmap, (uint64_t)memory, BOARD_BYTES);
	return 0;
}

/* Has the thread that answered ended? The kernel says so in the lock's word. */
static bool is_dead(struct child *child)
{
	const uint32_t *word = (const uint32_t *)&child->alive.__data.__lock;

	return (__atomic_load_n(word, __ATOMIC_ACQUIRE) & FUTEX_OWNER_DIED) != 0;
}

/* Has the child dealt with @wanted notes, and with all of them well? One that is gone has. */
static bool wait_for(struct board *board, struct child *child, uint32_t wanted, uint64_t until_ns)
{
	const struct timespec step = {.tv_nsec = STEP_NS};
	int32_t state = atomic_load(&child->state);

	for (;;) {
		uint32_t answers = atomic_load(&board->answers);

		/* Another that has the place has not returned from its fork, or had not. */
		if (state >= PLACE_FREE || atomic_load(&child->state) != state || is_dead(child))
			return true;
		if ((int32_t)(atomic_load(&child->seen) - wanted) >= 0)
			return !atomic_exchange(&child->failed, 0);
		if (timers_now_ns() >= until_ns)
			return false;
		futex_wait(&board->answers, answers, &step);
	}
}

int gmem_children_show(const struct gmem_view *view, const struct gmem_view_part *part, bool shown)
{
	struct board *board = generation < GENERATIONS ? atomic_load(&boards[generation]) : NULL;
	uint64_t until_ns = timers_now_ns() + WAIT_NS;
	bool all = true;
	uint32_t at;

	if (!board)
		return 0;
	process_lock_acquire(&children_lock);
	pending++;
	at = atomic_load(&board->written);
	board->notes[at % NOTES] = (struct note){*view, *part, shown};
	atomic_store(&board->written, at + 1);
	futex_wake(&board->written);
	for (uint32_t i = 0; i < CHILDREN; i++)
		all &= wait_for(board, &board->children[i], at + 1, until_ns);
	process_lock_release(&children_lock);
	return all || shown ? 0 : -EAGAIN;
}

void gmem_children_shown(void)
{
	struct board *board = generation < GENERATIONS ? atomic_load(&boards[generation]) : NULL;

	if (!board)
		return;
	process_lock_acquire(&children_lock);
	/* None were written before the board was there. */
	pending -= pending != 0;
	if (!pending)
		__atomic_store_n(&dealt_with[generation], atomic_load(&board->written),
				 __ATOMIC_SEQ_CST);
	process_lock_release(&children_lock);
}

/* In a child. Of what it missed the files alone are known: nothing of them is shown. */
static bool make_change(const struct board *board, uint32_t at, uint32_t written)
{
	struct note note = board->notes[at % NOTES];

	if (written - at > NOTES) {
		note.part = (struct gmem_view_part){0, UINT64_MAX / 2, 0, UINT64_MAX};
		note.shown = 0;
	}
	return !gmem_view_show(&note.view, &note.part, note.shown != 0);
}

/* A child's thread, for one of its ancestors. */
struct listening {
	struct board *board;
	struct child *child;
	uint32_t *dealt_with;
	struct process_event began;
};
static struct listening listenings[GENERATIONS];

static void catch_up(const struct listening *listening)
{
	const struct board *board = listening->board;
	struct child *child = listening->child;
	uint32_t written = atomic_load(&board->written);
	uint32_t at = atomic_load(&child->seen);

	if (written - at > 2 * NOTES)
		at = written - 2 * NOTES;
	for (; at != written; at++)
		if (!make_change(board, at, written))
			atomic_store(&child->failed, 1);
	__atomic_store_n(listening->dealt_with, written, __ATOMIC_SEQ_CST);
	atomic_store(&child->seen, written);
}

static void *listen_to(void *opaque)
{
	struct listening *listening = opaque;
	struct board *board = listening->board;
	struct child *child = listening->child;
	uint32_t seen;

	pthread_mutex_lock(&child->alive);
	client_call_begin();
	atomic_store(&child->state, -atomic_load(&child->state));
	catch_up(listening);
	process_event_happen(&listening->began);
	for (;;) {
		seen = atomic_load(&child->seen);
		if (seen == atomic_load(&board->written)) {
			futex_wait(&board->written, seen, NULL);
			continue;
		}
		catch_up(listening);
		atomic_fetch_add(&board->answers, 1);
		futex_wake(&board->answers);
	}
	return NULL;
}

static void alive_init(struct child *child)
{
	pthread_mutexattr_t attributes;

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&child->alive, &attributes);
	pthread_mutexattr_destroy(&attributes);
}

/* One of a child that ended while no file was converted is as good as one that is free. */
static struct child *place_take(struct board *board)
{
	int32_t self = (int32_t)sys_call(SYS_getpid, 0);

	for (uint32_t i = 0; i < CHILDREN; i++) {
		struct child *child = &board->children[i];
		int32_t state = atomic_load(&child->state);

		/* One that was killed before it listened. */
		if (state > 0 && sys_call(SYS_kill, (uint64_t)state, 0) != -ESRCH)
			continue;
		if (state < 0 && !is_dead(child))
			continue;
		if (!atomic_compare_exchange_strong(&child->state, &state, self))
			continue;
		alive_init(child);
		return child;
	}
	return NULL;
}

/*
 * Where no thread can be had, no file is shown to this child: it would not hear of a conversion.
 * The board knows only those that were converted of late.
 */
static void listen_begin(uint32_t of)
{
	struct listening *listening = &listenings[of];

	*listening =
	    (struct listening){.board = atomic_load(&boards[of]), .dealt_with = &dealt_with[of]};
	if (!listening->board)
		return;
	listening->child = process_fork_is_libcs() ? place_take(listening->board) : NULL;
	if (listening->child) {
		atomic_store(&listening->child->failed, 0);
		atomic_store(&listening->child->seen,
			     __atomic_load_n(&dealt_with[of], __ATOMIC_SEQ_CST));
	}
	if (listening->child && !helper_start(NULL, listen_to, listening)) {
		process_event_wait(&listening->began, 0, PROCESS_EVENT_FOREVER);
		return;
	}
	gmem_view_hide_all();
	if (listening->child)
		atomic_store(&listening->child->state, PLACE_FREE);
}

/* Last of all, when every lock is free: what the client's code finds is as it should be. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&children_lock);
	pending = 0;
	client_call_begin();
	for (uint32_t of = 0; of <= generation && of < GENERATIONS; of++)
		listen_begin(of);
	generation++;
	client_call_end();
}
FORK_CHILD(FORK_CHILDREN, children_lock, fork_child);
