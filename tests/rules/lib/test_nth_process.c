/* Every function of <quire/process.h> with every system call that it makes failing once, and with
 * it every allocation: an error or success, what was before, nothing left over, and again it
 * works. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include <quire/process.h>

#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

#define PAGES 4u
#define BYTES (PAGES * QUIRE_PAGE_SIZE)
#define MAPPINGS_MAX 8u
#define SMALL_BITS_MIN 6
#define SMALL_BITS_MAX 15
#define FUNCTIONS 11u
#define EVERY_CALL UINT32_MAX

/* What stands between the library and the kernel. */
static struct {
	int is_armed;
	uint32_t calls, fail_at; /* EVERY_CALL: all fail */
	int error;
	long failed; /* the number of the call that did; -1: none */
	/* Memory that is shared: files', and no allocation of the library's own. */
	struct mapping {
		uint64_t start, size_bytes;
	} shared[MAPPINGS_MAX];
} gate;

/* How the library makes each of its calls: the registers are a system call's. */
void gate_enter(void);
__asm__(".pushsection .text\n\t"
	".type gate_enter, @function\n"
	"gate_enter:\n\t"
	"subq $8, %rsp\n\t"
	"pushq %r9\n\t"
	"pushq %r8\n\t"
	"pushq %r10\n\t"
	"pushq %rdx\n\t"
	"pushq %rsi\n\t"
	"pushq %rdi\n\t"
	"movq %rax, %rdi\n\t"
	"movq %rsp, %rsi\n\t"
	"call gate_call\n\t"
	"addq $56, %rsp\n\t"
	"ret\n\t"
	".size gate_enter, . - gate_enter\n\t"
	".popsection");

static long call_kernel(long number, const uint64_t args[6])
{
	register uint64_t r10 __asm__("r10") = args[3];
	register uint64_t r8 __asm__("r8") = args[4];
	register uint64_t r9 __asm__("r9") = args[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8),
			   "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void note_mapping(uint64_t start, uint64_t size_bytes)
{
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		if (!gate.shared[i].size_bytes) {
			gate.shared[i] = (struct mapping){start, size_bytes};
			return;
		}
	fail_msg("more mappings than a function can need");
}

static void note_unmapping(uint64_t start, uint64_t size_bytes)
{
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		if (gate.shared[i].start == start && gate.shared[i].size_bytes == size_bytes)
			gate.shared[i] = (struct mapping){0};
}

/* The machine's pool may have no huge page: addresses without memory do, for nothing is put there.
 */
static long map_as_if_huge(uint64_t size_bytes)
{
	return call_kernel(SYS_mmap,
			   (const uint64_t[6]){0, size_bytes, PROT_NONE,
					       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
					       UINT64_MAX, 0});
}

long gate_call(long number, const uint64_t args[6]);
long gate_call(long number, const uint64_t args[6])
{
	long result;

	/* A whole mapping can always go. */
	if (gate.is_armed && number != SYS_munmap &&
	    (++gate.calls == gate.fail_at || gate.fail_at == EVERY_CALL)) {
		gate.failed = number;
		return gate.error;
	}
	if (number == SYS_mmap && (args[3] & MAP_HUGETLB))
		result = map_as_if_huge(args[1]);
	else
		result = call_kernel(number, args);
	if (number == SYS_mmap && (args[3] & MAP_SHARED) && !sys_failed(result))
		note_mapping((uint64_t)result, args[1]);
	if (number == SYS_munmap && !result)
		note_unmapping(args[0], args[1]);
	return result;
}

static uint64_t shared_bytes(void)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		bytes += gate.shared[i].size_bytes;
	return bytes;
}

/* Blocks that are taken, linked by their first words. */
static void *taken[SMALL_BITS_MAX + 1];

/* All memory that the library has in hand is: its next allocation asks the kernel. */
static void use_memory_up(void)
{
	gate.fail_at = EVERY_CALL;
	gate.error = -ENOMEM;
	gate.is_armed = 1;
	for (int bits = SMALL_BITS_MAX; bits >= SMALL_BITS_MIN; bits--) {
		void **block;

		while ((block = process_alloc(NULL, (size_t)1 << bits))) {
			*block = taken[bits];
			taken[bits] = block;
		}
	}
	gate.is_armed = 0;
}

static void give_memory_back(void)
{
	for (int bits = SMALL_BITS_MIN; bits <= SMALL_BITS_MAX; bits++)
		while (taken[bits]) {
			void *block = taken[bits];

			taken[bits] = *(void **)block;
			process_free(NULL, block, (size_t)1 << bits);
		}
}

/* --- the functions --- */

static void *cookie;
static struct quire_process_vcpu vcpu;

static int signals_handled(void)
{
	const int signals[] = {SIGSEGV, SIGBUS, quire_process_kick_signal()};
	int count = 0;

	for (uint32_t i = 0; i < 3; i++) {
		struct sigaction action;

		assert_int_equal(sigaction(signals[i], NULL, &action), 0);
		count += action.sa_handler != SIG_DFL;
	}
	return count;
}

static void handlers_go(void)
{
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	signal(quire_process_kick_signal(), SIG_DFL);
}

static uint64_t handlers_state(void)
{
	return (uint64_t)signals_handled();
}

static int create(void)
{
	return quire_process_memory_create(BYTES, &cookie);
}

static int create_huge(void)
{
	return quire_process_memory_create_huge(UINT64_C(4) << 21, UINT64_C(1) << 21, &cookie);
}

static int create_gigantic(void)
{
	return quire_process_memory_create_huge(UINT64_C(1) << 30, UINT64_C(1) << 30, &cookie);
}

/* So many pages that what is kept of each is a mapping of its own. */
static int create_many_huge(void)
{
	return quire_process_memory_create_huge(UINT64_C(1) << 38, UINT64_C(1) << 21, &cookie);
}

static int free_memory(void)
{
	quire_process_memory_free(cookie);
	cookie = NULL;
	return 0;
}

static void need_memory(void)
{
	assert_int_equal(create_huge(), 0);
}

static void memory_goes(void)
{
	if (cookie)
		free_memory();
}

static uint64_t memory_state(void)
{
	return shared_bytes() + process_bytes_allocated();
}

static int begin(void)
{
	quire_process_vcpu_begin(&vcpu);
	return vcpu.thread != (uint32_t)gettid();
}

static int end(void)
{
	quire_process_vcpu_end(&vcpu);
	return vcpu.thread != 0;
}

static void need_vcpu(void)
{
	assert_int_equal(begin(), 0);
}

static uint64_t vcpu_state(void)
{
	return vcpu.thread;
}

static int tell_changed(void)
{
	quire_process_mappings_changed();
	return 0;
}

static int ask_signal(void)
{
	return quire_process_kick_signal() != SIGRTMAX - 1;
}

static int ask_host(void)
{
	return quire_process_host() != &process_host_ops;
}

static uint64_t no_state(void)
{
	return 0;
}

static const struct row {
	const char *function;
	void (*setup)(void); /* NULL: nothing need be there */
	int (*call)(void);
	uint64_t (*state)(void);
	void (*undo)(void);
	uint32_t calls_least; /* of the kernel */
} rows[] = {
    {"quire_process_start", handlers_go, quire_process_start, handlers_state, handlers_go, 3},
    {"quire_process_memory_create", NULL, create, memory_state, memory_goes, 3},
    {"quire_process_memory_create_huge", NULL, create_huge, memory_state, memory_goes, 3},
    {"quire_process_memory_create_huge", NULL, create_gigantic, memory_state, memory_goes, 3},
    {"quire_process_memory_create_huge", NULL, create_many_huge, memory_state, memory_goes, 4},
    {"quire_process_memory_free", need_memory, free_memory, memory_state, memory_goes, 0},
    {"quire_process_vcpu_begin", NULL, begin, vcpu_state, NULL, 0},
    {"quire_process_vcpu_end", need_vcpu, end, vcpu_state, NULL, 0},
    {"quire_process_mappings_changed", NULL, tell_changed, no_state, NULL, 0},
    {"quire_process_kick_signal", NULL, ask_signal, no_state, NULL, 0},
    {"quire_process_host", NULL, ask_host, no_state, NULL, 0},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static int call_with(const struct row *row, uint32_t fail_at, int error)
{
	int result;

	gate.calls = 0;
	gate.fail_at = fail_at;
	gate.error = error;
	gate.failed = -1;
	gate.is_armed = 1;
	result = row->call();
	gate.is_armed = 0;
	return result;
}

static void told(const struct row *row, uint32_t number, const char *what)
{
	fail_msg("%s, call %u (of system call %ld): %s", row->function, number, gate.failed, what);
}

/* Error: what was before. Again: as if nothing had failed. At the end nothing is left. */
static void fail_one(const struct row *row, uint32_t number, int error)
{
	uint64_t first = row->state(), before;
	int result;

	if (row->setup)
		row->setup();
	before = row->state();
	result = call_with(row, number, error);
	if (number != EVERY_CALL && gate.failed < 0)
		told(row, number, "made fewer calls than before");
	if (result > 0 || (result < 0 && result != error && result != -ENOMEM))
		told(row, number, "an answer that nothing explains");
	if (result && row->state() != before)
		told(row, number, "an error that changed the state");
	if (result && call_with(row, 0, 0))
		told(row, number, "fails again, without a failure");
	if (row->undo) {
		row->undo();
		if (row->state() != first)
			told(row, number, "something is left over");
	}
}

static uint32_t count_calls(const struct row *row)
{
	use_memory_up();
	if (row->setup)
		row->setup();
	if (call_with(row, 0, 0))
		told(row, 0, "fails by itself");
	if (row->undo)
		row->undo();
	return gate.calls;
}

static void explore(const struct row *row)
{
	static const int errors[] = {-ENOMEM, -EINVAL, -EPERM};
	uint32_t calls = count_calls(row);

	if (calls < row->calls_least || (calls && !row->calls_least))
		told(row, calls, "made another number of calls than it should");
	for (uint32_t number = 1; number <= calls; number++)
		for (uint32_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
			use_memory_up();
			fail_one(row, number, errors[i]);
		}
	use_memory_up();
	fail_one(row, EVERY_CALL, -ENOMEM);
}

static void test_calls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ROWS; i++)
		explore(&rows[i]);
	give_memory_back();
	assert_int_equal(shared_bytes(), 0);
}

/* A new thread asks the kernel for nothing that it may refuse. */
static void *begin_in_thread(void *arg)
{
	*(int *)arg = call_with(&(const struct row){.call = begin}, EVERY_CALL, -EPERM);
	return NULL;
}

static void test_vcpu_in_a_new_thread(void **state)
{
	pthread_t thread;
	int result = -1;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, begin_in_thread, &result), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(result, 0);
}

/* Page @gone is not there: what comes before it was copied, and nothing else. */
static void copy_without(uint8_t *memory, uint32_t gone, int stores)
{
	static uint8_t own[BYTES];
	uint8_t *from = stores ? own : memory, *to = stores ? memory : own;
	uint64_t copied = gone * QUIRE_PAGE_SIZE, physical = (uint64_t)(uintptr_t)memory;
	int error;

	memset(from, 1, BYTES);
	memset(to, 2, BYTES);
	assert_int_equal(mprotect(memory + copied, QUIRE_PAGE_SIZE, PROT_NONE), 0);
	gate.fail_at = EVERY_CALL;
	gate.is_armed = 1;
	error = stores ? quire_process_store(physical, own, BYTES)
		       : quire_process_load(physical, own, BYTES);
	gate.is_armed = 0;
	assert_int_equal(error, -EFAULT);
	assert_int_equal(mprotect(memory + copied, QUIRE_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	for (uint64_t at = 0; at < BYTES; at++)
		assert_int_equal(to[at], at < copied ? 1 : 2);
	assert_int_equal(stores ? quire_process_store(physical, own, BYTES)
				: quire_process_load(physical, own, BYTES),
			 0);
	assert_memory_equal(to, from, BYTES);
}

static void test_load_and_store(void **state)
{
	uint8_t *memory =
	    mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(memory != MAP_FAILED);
	assert_int_equal(quire_process_start(), 0);
	for (uint32_t gone = 0; gone < PAGES; gone++) {
		copy_without(memory, gone, 0);
		copy_without(memory, gone, 1);
	}
	handlers_go();
	assert_int_equal(munmap(memory, BYTES), 0);
}

static int is_tried(const char *function)
{
	for (size_t i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].function, function))
			return 1;
	/* By test_load_and_store(). */
	return !strcmp(function, "quire_process_load") || !strcmp(function, "quire_process_store");
}

static void test_every_public_function(void **state)
{
	const char *path = getenv("QUIRE_PROCESS_MAP");
	FILE *file = path ? fopen(path, "r") : NULL;
	uint32_t count = 0;
	char line[200];

	(void)state;
	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		char name[100];

		if (sscanf(line, " %99[a-z0-9_];", name) != 1 || strncmp(name, "quire_", 6) != 0)
			continue;
		count++;
		if (!is_tried(name))
			fail_msg("%s is not tried", name);
	}
	assert_int_equal(fclose(file), 0);
	assert_true(count >= FUNCTIONS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_calls),
	    cmocka_unit_test(test_vcpu_in_a_new_thread),
	    cmocka_unit_test(test_load_and_store),
	    cmocka_unit_test(test_every_public_function),
	};

	sys_gate = gate_enter;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
