/* The deterministic scheduler. */
#include "hosts/sim/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define STACK_BYTES (256u * 1024)

enum thread_state { THREAD_READY, THREAD_WAITING, THREAD_SPINNING, THREAD_ENDED };

struct virtual_thread {
	ucontext_t context;
	enum thread_state state;
	const uint32_t *word; /* waited for, while WAITING */
	struct quire_thread record;
	bool registered;
	char *stack;
};

static struct {
	struct sched_run *run;
	struct virtual_thread threads[SCHED_THREADS_MAX];
	struct virtual_thread outside; /* the caller, between runs */
	uint32_t next_preemption;
	const struct sched_observer *observer;
} sched;

uint32_t sched_running_thread = SCHED_THREADS_MAX;

static bool is_running(void)
{
	return sched_running_thread < SCHED_THREADS_MAX;
}

static struct virtual_thread *current_thread(void)
{
	return is_running() ? &sched.threads[sched_running_thread] : &sched.outside;
}

/* Only a wake lets a waiter go on, as with a futex: a change of its word does not. */
static bool can_run(const struct virtual_thread *thread)
{
	return thread->state == THREAD_READY;
}

/* The thread that goes on when the running one cannot: the next in turn; a spinner only if there is
 * no other. */
static bool pick_next(uint32_t *next)
{
	uint32_t n = sched.run->threads;

	for (uint32_t i = 1; i <= n; i++) {
		*next = (sched_running_thread + i) % n;
		if (can_run(&sched.threads[*next]))
			return true;
	}
	for (uint32_t i = 1; i <= n; i++) {
		*next = (sched_running_thread + i) % n;
		if (sched.threads[*next].state == THREAD_SPINNING)
			return true;
	}
	return false;
}

static void switch_to(uint32_t next)
{
	struct virtual_thread *from = current_thread();

	/* Spinners look again once another thread has had a turn. */
	for (uint32_t i = 0; i < sched.run->threads; i++)
		if (i != sched_running_thread && sched.threads[i].state == THREAD_SPINNING)
			sched.threads[i].state = THREAD_READY;
	if (sched.threads[next].state == THREAD_SPINNING)
		sched.threads[next].state = THREAD_READY;
	if (next == sched_running_thread)
		return;
	sched_running_thread = next;
	swapcontext(&from->context, &sched.threads[next].context);
}

/* Back to sched_execute(), for good. */
static void end_run(enum sched_result result)
{
	struct virtual_thread *from = current_thread();

	sched.run->result = result;
	sched_running_thread = SCHED_THREADS_MAX;
	swapcontext(&from->context, &sched.outside.context);
}

static void give_way(void)
{
	uint32_t next;

	if (pick_next(&next))
		switch_to(next);
	else
		end_run(SCHED_DEADLOCK);
}

/* Threads that a preemption could let go on now. */
static uint8_t choices_now(void)
{
	uint8_t choices = 0;

	for (uint32_t i = 0; i < sched.run->threads; i++)
		if (i != sched_running_thread && can_run(&sched.threads[i]))
			choices |= (uint8_t)(1u << i);
	return choices;
}

static bool planned(struct sched_run *run, uint32_t *thread)
{
	const struct sched_preemption *preemption = &run->plan.at[sched.next_preemption];

	if (run->preempt)
		return run->preempt(run->ctx, run->steps, thread);
	if (sched.next_preemption >= run->plan.count || run->steps != preemption->step)
		return false;
	sched.next_preemption++;
	*thread = preemption->thread;
	return true;
}

/* False: there were too many, and the run is over. */
static bool count_step(void)
{
	if (sched.run->steps >= SCHED_STEPS_MAX) {
		end_run(SCHED_ENDLESS);
		return false;
	}
	sched.run->steps++;
	return true;
}

static void take_step(void)
{
	struct sched_run *run = sched.run;
	uint32_t thread;

	if (!count_step())
		return;
	if (run->choices)
		run->choices[run->steps - 1] = choices_now();
	if (planned(run, &thread) && thread < run->threads && can_run(&sched.threads[thread]))
		switch_to(thread);
}

uint32_t sched_choose(uint8_t choices)
{
	struct sched_run *run = sched.run;
	uint32_t choice;

	if (!choices || !is_running() || !count_step())
		return 0;
	if (run->choices)
		run->choices[run->steps - 1] = choices;
	if (!(run->choose ? run->choose(run->ctx, run->steps, choices, &choice)
			  : planned(run, &choice)) ||
	    choice >= SCHED_THREADS_MAX || !(choices >> choice & 1))
		return 0;
	return choice;
}

void sched_fresh_memory(const void *start, uint64_t size_bytes)
{
	if (sched.observer)
		sched.observer->fresh(start, size_bytes);
}

void sched_observe(const struct sched_observer *observer)
{
	sched.observer = observer;
}

static void (*on_done)(void);

void sched_on_done(void (*told)(void))
{
	on_done = told;
}

void sched_operation_done(void)
{
	if (on_done && is_running())
		on_done();
}

void sched_yield_point(void)
{
	sched_operation_done();
	if (is_running())
		take_step();
}

static void (*on_point)(const char *what, const void *where);

void sched_on_point(void (*told)(const char *what, const void *where))
{
	on_point = told;
}

static void sched_point(const char *what, const void *where)
{
	if (on_point)
		on_point(what, where);
	if (is_running())
		take_step();
}

static void register_thread(struct virtual_thread *thread)
{
	if (!thread->registered)
		quire_thread_register(&thread->record);
	thread->registered = true;
}

static struct quire_thread *sched_self(void)
{
	struct virtual_thread *thread = current_thread();

	register_thread(thread);
	return &thread->record;
}

static void sched_wait(const uint32_t *word, uint32_t value)
{
	struct virtual_thread *thread = current_thread();

	if (!is_running() || *word != value)
		return;
	sched_operation_done();
	thread->state = THREAD_WAITING;
	thread->word = word;
	give_way();
}

static void sched_wake(const uint32_t *word, uint32_t count)
{
	for (uint32_t i = 0; is_running() && i < sched.run->threads && count; i++) {
		struct virtual_thread *thread = &sched.threads[i];

		if (thread->state != THREAD_WAITING || thread->word != word)
			continue;
		thread->state = THREAD_READY;
		count--;
	}
}

static void (*on_report)(const char *text);

void sched_on_report(void (*report)(const char *text))
{
	on_report = report;
}

static void sched_report(const char *text)
{
	if (on_report) {
		on_report(text);
		if (is_running())
			end_run(SCHED_BROKEN);
		return;
	}
	fprintf(stderr, "%s\n", text);
	abort();
}

/* Between two runs there is one thread, so that no other will ever end its wait. */
#define LONELY_TURNS_MAX 1000000u

static void sched_relax(unsigned int turn)
{
	if (!is_running()) {
		if (turn == LONELY_TURNS_MAX)
			sched_report("sched: a wait between two runs, for what an ended run left");
		return;
	}
	sched_operation_done();
	take_step();
	current_thread()->state = THREAD_SPINNING;
	give_way();
}

const struct quire_platform sched_platform = {
    .self = sched_self,
    .wait = sched_wait,
    .wake = sched_wake,
    .relax = sched_relax,
    .sched_point = sched_point,
    .report = sched_report,
};

static void thread_main(int index)
{
	uint32_t next;

	sched.run->body((uint32_t)index, sched.run->ctx);
	sched.threads[index].state = THREAD_ENDED;
	if (pick_next(&next))
		switch_to(next);
	for (uint32_t i = 0; i < sched.run->threads; i++)
		if (sched.threads[i].state != THREAD_ENDED)
			end_run(SCHED_DEADLOCK);
	end_run(SCHED_DONE);
}

static void thread_start(uint32_t index)
{
	struct virtual_thread *thread = &sched.threads[index];

	if (!thread->stack)
		thread->stack = malloc(STACK_BYTES);
	if (!thread->stack)
		abort();
	thread->state = THREAD_READY;
	thread->record.epoch = 0;
	thread->record.nesting = 0;
	thread->record.held_count = 0;
	getcontext(&thread->context);
	thread->context.uc_stack.ss_sp = thread->stack;
	thread->context.uc_stack.ss_size = STACK_BYTES;
	thread->context.uc_link = NULL;
	makecontext(&thread->context, (void (*)(void))thread_main, 1, (int)index);
}

void sched_execute(struct sched_run *run)
{
	/* All at once, so that no run has more steps than the next one of the same plan. */
	for (uint32_t i = 0; i < SCHED_THREADS_MAX; i++)
		register_thread(&sched.threads[i]);
	sched.run = run;
	sched.next_preemption = 0;
	run->steps = 0;
	for (uint32_t i = 0; i < run->threads; i++)
		thread_start(i);
	sched_running_thread = 0;
	if (sched.observer)
		sched.observer->start();
	swapcontext(&sched.outside.context, &sched.threads[0].context);
	if (sched.observer)
		sched.observer->end();
}

static bool explore_from(const struct sched_test *test, struct sched_verdict *verdict,
			 const struct sched_plan *plan);

/* One more preemption, at each step after the last, to each thread that could go on there. */
static bool explore_after(const struct sched_test *test, struct sched_verdict *verdict,
			  const struct sched_plan *plan, const struct sched_run *run)
{
	uint32_t first = plan->count ? plan->at[plan->count - 1].step + 1 : 1;

	for (uint32_t step = first; step <= run->steps; step++) {
		for (uint32_t thread = 0; thread < SCHED_THREADS_MAX; thread++) {
			struct sched_plan next = *plan;

			if (!(run->choices[step - 1] & (1u << thread)))
				continue;
			next.at[next.count++] = (struct sched_preemption){step, thread};
			if (!explore_from(test, verdict, &next))
				return false;
		}
	}
	return true;
}

static bool explore_from(const struct sched_test *test, struct sched_verdict *verdict,
			 const struct sched_plan *plan)
{
	static uint8_t choices[SCHED_PREEMPTIONS_MAX + 1][SCHED_STEPS_MAX];
	struct sched_run run = {
	    .threads = test->threads, .body = test->body, .ctx = test->ctx, .plan = *plan};

	if (plan->count < test->preemptions_max)
		run.choices = choices[plan->count];
	test->setup(test->ctx);
	sched_execute(&run);
	verdict->runs++;
	verdict->steps += run.steps;
	if (run.result != SCHED_DONE || !test->check(test->ctx)) {
		verdict->failed = true;
		verdict->result = run.result;
		verdict->plan = *plan;
		return false;
	}
	return !run.choices || explore_after(test, verdict, plan, &run);
}

struct sched_verdict sched_explore(const struct sched_test *test)
{
	const char *bound = getenv("QUIRE_PREEMPTIONS");
	struct sched_verdict verdict = {0};
	struct sched_plan none = {0};
	struct sched_test bounded = *test;

	if (bound && strtoul(bound, NULL, 10) < bounded.preemptions_max)
		bounded.preemptions_max = (uint32_t)strtoul(bound, NULL, 10);
	explore_from(&bounded, &verdict, &none);
	return verdict;
}
