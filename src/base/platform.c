/* The installed platform, the list of threads, and how broken invariants are reported. */
#include "src/base/platform.h"

#include "src/base/assert.h"
#include "src/base/atomic.h"

const struct quire_platform *base_platform;

static struct quire_thread *thread_list;

void quire_platform_install(const struct quire_platform *platform)
{
	base_platform = platform;
}

/* Push; the compare-exchange releases @thread->next, and all records below, to base_threads(). */
void quire_thread_register(struct quire_thread *thread)
{
	struct quire_thread *head = atomic_load_relaxed_ptr(&thread_list);

	do {
		thread->next = head;
	} while (!atomic_cmpxchg_ptr(&thread_list, &head, thread));
}

struct quire_thread *base_threads(void)
{
	return atomic_load_acquire_ptr(&thread_list);
}

#ifdef QUIRE_SCHED
/* The scheduler runs all virtual threads on one real one. */
u32 base_sched_paused;

/* The memory model (hosts/sim/order.h) is not told of the harness's own accesses. */
#define HARNESS __attribute__((no_sanitize("thread")))

HARNESS void base_sched_pause(void)
{
	base_sched_paused++;
}

HARNESS void base_sched_resume(void)
{
	base_sched_paused--;
}

HARNESS void base_sched_point(const char *what, const void *where)
{
	if (base_platform && base_platform->sched_point && !base_sched_paused)
		base_platform->sched_point(what, where);
}
#endif

static char *append(char *at, const char *end, const char *text)
{
	while (*text && at < end)
		*at++ = *text++;
	return at;
}

int base_report_broken(const char *condition, const char *file, int line)
{
	char text[256], digits[12];
	char *at = text, *digit = digits + sizeof(digits) - 1;
	const char *end = text + sizeof(text) - 1;

	*digit = '\0';
	do {
		*--digit = (char)('0' + line % 10);
		line /= 10;
	} while (line > 0);
	at = append(at, end, "quire: broken: ");
	at = append(at, end, condition);
	at = append(at, end, " at ");
	at = append(at, end, file);
	at = append(at, end, ":");
	at = append(at, end, digit);
	*at = '\0';
	if (base_platform && base_platform->report)
		base_platform->report(text);
	return 1;
}
