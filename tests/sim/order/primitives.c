/*
 * The library's locks, read sections and waits, each around a plain word: where one order too few
 * lets two threads at it, the model reports a data race. They are short, so that more choices can
 * be tried.
 */
#include "tests/sim/order/primitives.h"

#include <string.h>

#include "src/base/lock.h"
#include "src/base/reclaim.h"
#include "src/base/section.h"

struct object {
	uint32_t value;
};

static struct {
	struct mutex mutex;
	struct rwlock rwlock;
	struct biglock biglock;
	struct biglock_line line;
	struct long_sections sections;
	struct object object, *shown;
	uint32_t guarded; /* under the lock at hand */
	uint32_t gate;
} world;

static void setup(void *ctx)
{
	(void)ctx;
	memset(&world, 0, sizeof(world));
	mutex_init(&world.mutex, RANK_MMU);
	rwlock_init(&world.rwlock, RANK_MMU);
	biglock_init(&world.biglock, RANK_MMU);
	biglock_line_add(&world.biglock, &world.line);
	world.object.value = 1;
	world.shown = &world.object;
}

static bool counted_two(void *ctx)
{
	(void)ctx;
	return world.guarded == 2;
}

static bool no_race(void *ctx)
{
	(void)ctx;
	return true;
}

static void two_owners(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	mutex_lock(&world.mutex);
	world.guarded++;
	mutex_unlock(&world.mutex);
}

static void two_writers(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	rwlock_write_lock(&world.rwlock);
	world.guarded++;
	rwlock_write_unlock(&world.rwlock);
}

static uint32_t look(void)
{
	return *(volatile uint32_t *)&world.guarded;
}

static void reader_and_writer(uint32_t thread, void *ctx)
{
	if (thread) {
		two_writers(thread, ctx);
		return;
	}
	rwlock_read_lock(&world.rwlock);
	(void)look();
	rwlock_read_unlock(&world.rwlock);
}

static void write_big(void)
{
	biglock_write_lock(&world.biglock);
	world.guarded++;
	biglock_write_unlock(&world.biglock);
}

static void two_big_writers(uint32_t thread, void *ctx)
{
	(void)thread;
	(void)ctx;
	write_big();
}

static void read_big(struct biglock_line *line)
{
	biglock_read_lock(&world.biglock, line);
	(void)look();
	biglock_read_unlock(&world.biglock, line);
}

static void big_reader(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		write_big();
	else
		read_big(&world.line);
}

static void big_reader_without_line(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread)
		write_big();
	else
		read_big(NULL);
}

static void look_at_object(void)
{
	struct object *found = atomic_load_acquire_ptr(&world.shown);

	if (found)
		(void)*(volatile uint32_t *)&found->value;
}

/* A reader in a read section, too, and what it reads there is taken away under the lock. */
static void big_reader_in_section(uint32_t thread, void *ctx)
{
	struct quire_thread *self;

	(void)ctx;
	if (thread) {
		atomic_store_relaxed_ptr(&world.shown, NULL);
		reclaim_synchronize();
		world.object.value = 0;
		write_big();
		return;
	}
	self = biglock_read_enter(&world.biglock, &world.line);
	(void)look();
	look_at_object();
	biglock_read_exit(&world.biglock, &world.line, self);
}

/* Its next section says nothing of this one: each is released by itself. */
static void big_reader_in_sections(uint32_t thread, void *ctx)
{
	big_reader_in_section(thread, ctx);
	if (!thread) {
		struct quire_thread *self = biglock_read_enter(&world.biglock, &world.line);

		biglock_read_exit(&world.biglock, &world.line, self);
	}
}

static void read_section(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		atomic_store_relaxed_ptr(&world.shown, NULL);
		reclaim_synchronize();
		world.object.value = 0;
		return;
	}
	reclaim_enter();
	look_at_object();
	reclaim_leave();
}

/* A section that began after the unlink is not waited for, and the one before it is over. */
static void read_sections(uint32_t thread, void *ctx)
{
	if (!thread) {
		read_section(thread, ctx);
		reclaim_enter();
		reclaim_leave();
		return;
	}
	read_section(thread, ctx);
}

static void long_section(uint32_t thread, void *ctx)
{
	uint32_t turn;

	(void)ctx;
	if (thread) {
		atomic_store_relaxed_ptr(&world.shown, NULL);
		long_sections_wait(&world.sections);
		world.object.value = 0;
		return;
	}
	turn = long_section_enter(&world.sections);
	look_at_object();
	long_section_leave(&world.sections, turn);
}

/* The one that waits at a gate sees what was done before it opened. */
static void gate(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread) {
		world.guarded++;
		gate_open(&world.gate);
		return;
	}
	gate_wait(&world.gate);
	(void)look();
}

static void closed_gate(void *ctx)
{
	setup(ctx);
	world.gate = GATE_CLOSED;
}

const struct pair pairs_primitive[] = {
    {"mutex", 3, setup, two_owners, counted_two, 0},
    {"rwlock, two writers", 3, setup, two_writers, counted_two, 0},
    {"rwlock", 3, setup, reader_and_writer, no_race, 0},
    {"biglock, two writers", 3, setup, two_big_writers, counted_two, 0},
    {"biglock", 3, setup, big_reader, no_race, 0},
    {"biglock, reader without a line", 3, setup, big_reader_without_line, no_race, 0},
    {"biglock, reader in a section", 3, setup, big_reader_in_section, no_race, 0},
    {"biglock, reader in two sections", 3, setup, big_reader_in_sections, no_race, 0},
    {"read section", 3, setup, read_section, no_race, 0},
    {"read section, and the next", 3, setup, read_sections, no_race, 0},
    {"long section", 3, setup, long_section, no_race, 0},
    {"gate", 3, closed_gate, gate, no_race, 0},
    {.name = NULL},
};
