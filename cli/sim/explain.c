/* A run of a plan that fails, told for a bug report: what each thread did, where, and to which
 * word. */
#include <dlfcn.h>
#include <execinfo.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cli/sim/commit.h>

#include "cli/sim/world.h"
#include "hosts/sim/order.h"
#include "src/vm/check.h"
#include "src/vm/vcpu.h"

#define POINTS_MAX (2u * SCHED_STEPS_MAX)
#define FRAMES_MAX 24u
#define POINT_FRAMES 12u
/* Of the points of one thread between two switches: those before the switch. */
#define SHOWN_MAX 5u
#define SWITCHES_MAX 40u
#define HISTORY_MAX 30u

/* One atomic operation of the library, before it was done. */
struct point {
	uint32_t thread, op;
	const char *what;
	const void *where; /* NULL: a fence */
	uint64_t value;	   /* there */
	uint64_t written;  /* there once it was done */
	bool is_done;	   /* a write, whose thread went on */
	uint32_t time;	   /* order_time(), under the memory model */
	void *frames[POINT_FRAMES];
	uint32_t depth;
};

static struct {
	struct point *points;
	uint32_t count, failed_at;	     /* how many there were when it failed */
	struct point *last[SIM_THREADS_MAX]; /* each thread's, while it may not be done; NULL */
	uint32_t thread;		     /* that failed */
	void *frames[FRAMES_MAX];
	uint32_t depth;
	/* The entry that the checker of all tables looks at, between two points. */
	const struct quire_vm *checked_vm; /* NULL: no checker is at work */
	uint32_t checked_space;
	gfn_t checked;
} story;

static uint64_t value_at(const char *what, const void *where)
{
	if (where && strstr(what, "_u32"))
		return *(const uint32_t *)where;
	return where && !((uintptr_t)where % sizeof(uint64_t)) ? *(const uint64_t *)where : 0;
}

/* The thread that runs has done its last operation, and no other ran since. */
static void keep_written(void)
{
	uint32_t thread = sched_current();
	struct point *point = thread < SIM_THREADS_MAX ? story.last[thread] : NULL;

	if (!point || story.depth)
		return;
	story.last[thread] = NULL;
	point->is_done = point->where && !strstr(point->what, "_load_");
	point->written = value_at(point->what, point->where);
}

static void keep_point(const char *what, const void *where)
{
	struct point *point = &story.points[story.count];
	uint32_t thread = sched_current();

	keep_written();
	if (story.count == POINTS_MAX || story.depth || thread >= SIM_THREADS_MAX)
		return;
	story.checked_vm = NULL;
	*point = (struct point){.thread = thread, .what = what, .where = where};
	point->op = sim.at[thread];
#ifdef QUIRE_ORDER
	point->time = order_time();
#endif
	point->value = value_at(what, where);
	point->depth = (uint32_t)backtrace(point->frames, POINT_FRAMES);
	story.last[thread] = point;
	story.count++;
}

static void keep_visit(const struct quire_vm *vm, uint32_t as_id, gfn_t gfn)
{
	if (story.depth)
		return;
	story.checked_vm = vm;
	story.checked_space = as_id;
	story.checked = gfn;
}

static void keep_failure(void)
{
	keep_written();
	story.depth = (uint32_t)backtrace(story.frames, FRAMES_MAX);
	story.failed_at = story.count;
	story.thread = sched_current();
}

/* addr2line(1) of this program, which is asked for one address after the other. */
static FILE *to_names, *from_names;

static void start_names(void)
{
	char path[64];
	int in[2], out[2];

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)getpid());
	if (pipe(in) || pipe(out))
		return;
	fflush(NULL);
	if (fork() == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[0]);
		execlp("addr2line", "addr2line", "-a", "-i", "-f", "-p", "-e", path, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	/* Without the program the pipe breaks, and addresses stay without names. */
	signal(SIGPIPE, SIG_IGN);
	to_names = fdopen(in[1], "w");
	from_names = fdopen(out[0], "r");
}

/* "0x...: function at file:line" or " (inlined by) function at file:line". False: not of the tree.
 */
static bool print_name(char *line)
{
	/* Atomic operations themselves, and what tells of them, say nothing. */
	static const char *const means[] = {"src/base/atomic.h:", "src/base/platform.c:",
					    "hosts/sim/sched.c:", "cli/sim/explain.c:"};
	char *function = strstr(line, "0x") == line ? strchr(line, ' ') + 1 : line;
	char *file = strstr(line, " at ");
	const char *tree = file ? strstr(file, "../") : NULL;

	if (!file || strstr(file, "??"))
		return false;
	for (size_t i = 0; i < sizeof(means) / sizeof(means[0]); i++)
		if (strstr(file, means[i]))
			return false;
	if (!strncmp(function, " (inlined by) ", 14))
		function += 14;
	/* Paths count from the tree. */
	while (tree && !strncmp(tree, "../", 3))
		tree += 3;
	*file = '\0';
	printf("#       %s %s", function, tree ? tree : file + 4);
	return true;
}

/* @offset is of the program; functions that were inlined follow each other. Returns how many lines.
 */
static uint32_t print_names(unsigned long offset, uint32_t lines_max)
{
	static const char nothing[] = "0x0000000000000000: ";
	uint32_t lines = 0;
	char line[512];

	/* What is asked for after it ends the answer. */
	if (!from_names || fprintf(to_names, "%#lx\n0x0\n", offset) < 0 || fflush(to_names))
		return 0;
	while (fgets(line, sizeof(line), from_names) &&
	       strncmp(line, nothing, strlen(nothing)) != 0)
		if (lines < lines_max)
			lines += print_name(line);
	return lines;
}

static void print_frames(void *const *frames, uint32_t depth, uint32_t lines_max)
{
	Dl_info info, frame;

	if (!dladdr((void *)keep_point, &info))
		return;
	for (uint32_t i = 0, lines = 0; i < depth && lines < lines_max; i++)
		/* One byte before: it is where a call returns to. */
		if (dladdr(frames[i], &frame) && frame.dli_fbase == info.dli_fbase)
			lines += print_names(
			    (unsigned long)((char *)frames[i] - (char *)info.dli_fbase - 1),
			    lines_max - lines);
}

static void print_point(const struct point *point, uint32_t frames)
{
	printf("#     %s", point->what);
	if (point->where)
		printf(": %p held %#" PRIx64, point->where, point->value);
	if (point->is_done)
		printf(", then %#" PRIx64, point->written);
	printf("\n");
	print_frames(point->frames, point->depth, frames);
}

static void print_thread(uint32_t thread, uint32_t op)
{
	const struct sim_plan *plan = sim.plan;

	if (thread >= plan->threads || op >= plan->op_count[thread]) {
		printf("#   thread %u", thread);
		return;
	}
	printf("#   thread %u in operation %u: ", thread, op);
	sim_op_print(&plan->ops[thread][op], stdout);
}

/* The last turns of the threads, and before each change of thread what it was about to do. */
static void print_turns(void)
{
	uint32_t turns = 0, first = story.failed_at;

	while (first && turns <= SWITCHES_MAX) {
		const struct point *point = &story.points[--first];

		turns += !first || point->thread != point[-1].thread;
	}
	printf("# interleaving%s, with the last atomic operations of each turn:\n",
	       first ? " (its end)" : "");
	for (uint32_t at = first, begin = first; at < story.failed_at; at++) {
		const struct point *point = &story.points[at];

		if (at + 1 < story.failed_at && point[1].thread == point->thread)
			continue;
		print_thread(point->thread, point->op);
		printf(", %u points\n", at + 1 - begin);
		begin = at + 1 - begin > SHOWN_MAX ? at + 1 - SHOWN_MAX : begin;
		for (; begin <= at; begin++)
			print_point(&story.points[begin], 2);
	}
}

/* Where it failed, and where each other thread was. */
static void print_stacks(void)
{
	printf("# stack of the failure:\n");
	print_frames(story.frames, story.depth, FRAMES_MAX);
	for (uint32_t thread = 0; thread < sim.plan->threads; thread++) {
		uint32_t at = story.failed_at;

		while (at && story.points[at - 1].thread != thread)
			at--;
		if (!at || thread == story.thread)
			continue;
		printf("# stack at the last point of ");
		printf("thread %u:\n", thread);
		print_frames(story.points[at - 1].frames, story.points[at - 1].depth, FRAMES_MAX);
	}
}

#ifdef QUIRE_ORDER
/* A data race: the places of both accesses, and the stack of the thread that made the other. */
static void print_race(void)
{
	const struct order_race *race = order_race_last();
	uint32_t at = story.failed_at;

	if (!race)
		return;
	printf("# the two accesses, this one and that of thread %u:\n", race->other_thread);
	print_frames((void *const[]){(void *)race->site}, 1, 2);
	print_frames((void *const[]){(void *)race->other_site}, 1, 2);
	while (at && (story.points[at - 1].thread != race->other_thread ||
		      story.points[at - 1].time > race->other_time))
		at--;
	if (!at)
		return;
	printf("# stack at the last point before the other access:\n");
	print_frames(story.points[at - 1].frames, story.points[at - 1].depth, FRAMES_MAX);
}
#else
static void print_race(void)
{
}
#endif

/* The gfn that the checker found wrong, or that of the operation that failed, or of the last
 * access.
 */
static uint64_t gfn_concerned(void)
{
	const struct sim_op *op;

	if (story.checked_vm)
		return story.checked.v;
	if (story.thread >= sim.plan->vcpus)
		return sim.oracle.accessed;
	op = &sim.plan->ops[story.thread][sim.at[story.thread]];
	return op->kind == OP_FAR || op->kind == OP_OTHER || op->kind == OP_SPACE
		   ? sim.oracle.accessed
		   : op->first;
}

/* One that walks the tables concerned. */
static const struct quire_vcpu *vcpu_concerned(void)
{
	bool is_other = sim.plan->linked && story.checked_vm == sim.second.vm;
	const struct machine *machine = is_other ? &sim.second : &sim.machine;

	for (uint32_t i = 0; story.checked_vm && i < machine->vcpu_count; i++)
		if (machine->vcpus[i]->as_id == story.checked_space)
			return machine->vcpus[i];
	return machine->vcpus[0];
}

/* Each operation on the entry that translates the gfn, or that says that nothing does. */
static void print_history(uint64_t gfn)
{
	const uint64_t *entries[MACHINE_LEVELS_MAX];
	uint32_t shown = 0, first;
	int is_leaf;
	uint32_t count = machine_entries(vcpu_concerned(), gfn, entries, &is_leaf);

	printf("# entries of gfn %#" PRIx64 ", and what was done to the last:\n", gfn);
	for (uint32_t i = 0; i < count; i++)
		printf("#   %p = %#" PRIx64 "%s\n", (const void *)entries[i], *entries[i],
		       i + 1 == count && is_leaf ? ", a leaf" : "");
	if (!count)
		printf("#   no table leads there\n");
	for (first = story.failed_at; first && shown < HISTORY_MAX; first--)
		shown += count && story.points[first - 1].where == entries[count - 1];
	for (; first < story.failed_at; first++) {
		const struct point *point = &story.points[first];

		if (!count || point->where != entries[count - 1])
			continue;
		print_thread(point->thread, point->op);
		printf("\n");
		print_point(point, 3);
	}
}

/* What reads spoilt tables may crash, too. All before it is said by then. */
static void end_story(int number)
{
	static const char text[] = "#   the tables cannot be read\n";

	(void)number;
	_exit(write(1, text, sizeof(text) - 1) < 0 ? 2 : 1);
}

static void tell(const char *failure)
{
	start_names();
	printf("# failed: %s\n# commit %s\n", failure, SIM_COMMIT);
	sim_plan_print(sim.plan);
	if (sim.oracle.details[0])
		printf("# %s\n", sim.oracle.details);
	print_race();
	print_turns();
	print_stacks();
	fflush(stdout);
	signal(SIGSEGV, end_story);
	signal(SIGBUS, end_story);
	print_history(gfn_concerned());
	fflush(stdout);
	if (to_names)
		fclose(to_names);
}

/* The process ends here, so what the signal may have interrupted does not go on. */
static void tell_crash(int number)
{
	char failure[32];

	signal(number, SIG_DFL);
	if (!story.depth)
		keep_failure();
	snprintf(failure, sizeof(failure), "signal %d", number);
	tell(failure);
	_exit(1);
}

bool sim_explain(const struct sim_plan *plan)
{
	static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	const char *failure;

	story.points = calloc(POINTS_MAX, sizeof(*story.points));
	if (!story.points)
		abort();
	sim.on_failure = keep_failure;
	sched_on_point(keep_point);
	sched_on_done(keep_written);
	vm_check_visits = keep_visit;
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		signal(crashes[i], tell_crash);
	failure = sim_run(plan);
	sched_on_point(NULL);
	sched_on_done(NULL);
	if (failure)
		tell(failure);
	return failure != NULL;
}
