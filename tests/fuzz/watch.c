/* The thread that watches the one that runs inputs. */
#include "tests/fuzz/watch.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SECONDS_TO_TELL 10u /* libFuzzer writes the input down */

static pthread_t runner;
static uint64_t deadline; /* of the monotonic clock, in seconds; 0: no input is running */

static uint64_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

static void *watch(void *nothing)
{
	(void)nothing;
	for (;;) {
		uint64_t until = __atomic_load_n(&deadline, __ATOMIC_RELAXED);

		if (until && now_seconds() > until)
			break;
		sleep(1);
	}
	fprintf(stderr, "this input has no end\n");
	pthread_kill(runner, SIGABRT);
	sleep(SECONDS_TO_TELL);
	fprintf(stderr, "its thread takes no signals\n");
	abort();
}

/* Signals that come to the process are the runner's, as without us. */
static void watch_start(void)
{
	pthread_t thread;
	sigset_t all, before;

	runner = pthread_self();
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, watch, NULL)) {
		fprintf(stderr, "no thread to watch inputs\n");
		abort();
	}
	pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void watch_begin(unsigned int seconds)
{
	static int is_started;

	if (!is_started)
		watch_start();
	is_started = 1;
	__atomic_store_n(&deadline, now_seconds() + seconds, __ATOMIC_RELAXED);
}

void watch_end(void)
{
	__atomic_store_n(&deadline, 0, __ATOMIC_RELAXED);
}
