/* Guarded accesses: each way to fail, what is left behind, and whose signals are taken. */
#include "tests/unit/process/support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* Memory that answers every access with a reason, and one byte-addressable page that works. */
struct bad_memory {
	const char *name;
	uint8_t *address;
	enum guard_reason load, store;
};

#define BAD_KINDS 5

static void bad_memory_make(struct bad_memory *bad)
{
	uint8_t *hole = map_anonymous(PAGE, PROT_READ);

	unmap(hole, PAGE);
	bad[0] = (struct bad_memory){"unmapped", hole, GUARD_FAULT, GUARD_FAULT};
	bad[1] = (struct bad_memory){"no access", map_anonymous(PAGE, PROT_NONE), GUARD_FAULT,
				     GUARD_FAULT};
	bad[2] =
	    (struct bad_memory){"read-only", map_anonymous(PAGE, PROT_READ), GUARD_OK, GUARD_FAULT};
	bad[3] = (struct bad_memory){
	    "beyond the end", map_file(PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED) + PAGE,
	    GUARD_BUS, GUARD_BUS};
	bad[4] = (struct bad_memory){"not canonical", (uint8_t *)(UINT64_C(1) << 62), GUARD_FAULT,
				     GUARD_FAULT};
}

static void loads_and_stores_fail(void **state)
{
	struct bad_memory bad[BAD_KINDS];
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64 = 77;
	bool swapped = true;

	handle_signals();
	bad_memory_make(bad);
	for (int i = 0; i < BAD_KINDS; i++) {
		uint8_t *at = bad[i].address;

		print_message("%s\n", bad[i].name);
		assert_int_equal(guard_load_u8(at, &u8), bad[i].load);
		assert_int_equal(guard_load_u16(at, &u16), bad[i].load);
		assert_int_equal(guard_load_u32(at, &u32), bad[i].load);
		assert_int_equal(guard_store_u8(at, 1), bad[i].store);
		assert_int_equal(guard_store_u16(at, 1), bad[i].store);
		assert_int_equal(guard_store_u32(at, 1), bad[i].store);
		assert_int_equal(guard_store_u64(at, 1), bad[i].store);
		assert_int_equal(guard_cmpxchg_u64(at, &u64, 1, &swapped), bad[i].store);
		assert_int_equal(u64, 77);
		assert_int_equal(guard_load_u64(at, &u64), bad[i].load);
		assert_int_equal(guard_touch(address_of(at), false), bad[i].load);
		assert_int_equal(guard_touch(address_of(at), true), bad[i].store);
		u64 = 77;
	}
}

static void loads_and_stores_work(void **state)
{
	uint64_t word = UINT64_C(0x1122334455667788), got64, expected = 5;
	uint32_t got32;
	uint16_t got16, expected16 = 0xbeef;
	uint8_t got8;
	bool swapped;

	handle_signals();
	assert_int_equal(guard_load_u8(&word, &got8), GUARD_OK);
	assert_int_equal(got8, 0x88);
	assert_int_equal(guard_load_u16(&word, &got16), GUARD_OK);
	assert_int_equal(got16, 0x7788);
	assert_int_equal(guard_load_u32(&word, &got32), GUARD_OK);
	assert_int_equal(got32, 0x55667788);
	assert_int_equal(guard_load_u64(&word, &got64), GUARD_OK);
	assert_true(got64 == word);
	assert_int_equal(guard_cmpxchg_u64(&word, &expected, 9, &swapped), GUARD_OK);
	assert_false(swapped);
	assert_true(expected == word);
	assert_int_equal(guard_cmpxchg_u64(&word, &expected, 9, &swapped), GUARD_OK);
	assert_true(swapped);
	assert_int_equal(word, 9);
	assert_int_equal(guard_store_u16(&word, 0xbeef), GUARD_OK);
	assert_int_equal(guard_store_u8((uint8_t *)&word + 7, 0xaa), GUARD_OK);
	assert_true(word == UINT64_C(0xaa0000000000beef));
	assert_int_equal(guard_cmpxchg_u16(&word, &expected16, 1, &swapped), GUARD_OK);
	assert_true(swapped);
	assert_int_equal(guard_touch(address_of(&word), true), GUARD_OK);
	assert_true(word == UINT64_C(0xaa00000000000001));
}

static void copies_stop_at_either_side(void **state)
{
	static uint8_t ours[3 * PAGE];
	uint8_t *mem = map_anonymous(2 * PAGE, PROT_READ | PROT_WRITE);
	uint8_t *file = map_file(PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	size_t done = 99;

	handle_signals();
	unmap(mem + PAGE, PAGE);
	memset(ours, 0x5a, sizeof(ours));
	assert_int_equal(guard_copy(mem + 100, ours, 2 * PAGE, &done), GUARD_FAULT);
	assert_int_equal(done, PAGE - 100);
	assert_memory_equal(mem + 100, ours, PAGE - 100);
	assert_int_equal(mem[99], 0);
	memset(mem, 0xc3, PAGE);
	assert_int_equal(guard_copy(ours, mem + PAGE - 7, 20, &done), GUARD_FAULT);
	assert_int_equal(done, 7);
	assert_int_equal(ours[6], 0xc3);
	assert_int_equal(ours[7], 0x5a);
	assert_int_equal(guard_copy(file + PAGE - 1, ours, 2, &done), GUARD_BUS);
	assert_int_equal(done, 1);
	assert_int_equal(guard_copy(mem + PAGE, ours, 1, &done), GUARD_FAULT);
	assert_int_equal(done, 0);
	assert_int_equal(guard_copy(mem, ours, PAGE, &done), GUARD_OK);
	assert_int_equal(done, PAGE);
	assert_int_equal(guard_copy(mem + PAGE, ours, 0, &done), GUARD_OK);
	assert_int_equal(done, 0);
	unmap(mem, PAGE);
	unmap(file, 2 * PAGE);
}

/* Elements of each size; the last one that the page has no room for is not counted. */
static void fills_stop_where_memory_does(void **state)
{
	const uint64_t value = UINT64_C(0x1122334455667788);
	uint8_t *mem = map_anonymous(2 * PAGE, PROT_READ | PROT_WRITE);
	size_t done;

	handle_signals();
	unmap(mem + PAGE, PAGE);
	for (unsigned int size = 1; size <= 8; size *= 2) {
		struct guard_filling filling = {mem + PAGE - 4 * size, value, 4, size};

		memset(mem, 0, PAGE);
		assert_int_equal(guard_fill(&filling, &done), GUARD_OK);
		assert_int_equal(done, 4);
		for (unsigned int i = 0; i < 4; i++)
			assert_memory_equal(mem + PAGE - 4 * size + i * size, &value, size);
		assert_int_equal(mem[PAGE - 4 * size - 1], 0);
		filling.count = 9;
		assert_int_equal(guard_fill(&filling, &done), GUARD_FAULT);
		assert_int_equal(done, 4);
	}
	unmap(mem, PAGE);
}

static ucontext_t caught_context;

static void catch_context(int signal, siginfo_t *info, void *ucontext)
{
	caught_context = *(ucontext_t *)ucontext;
	guard_handle_signal(signal, info, ucontext);
}

/* Give the handler every kind of signal at an instruction that is known to be guarded. */
static void signals_have_their_reasons(void **state)
{
	static const struct {
		int signal, code;
		bool taken;
		enum guard_reason reason;
	} cases[] = {
	    {SIGSEGV, SEGV_ACCERR, true, GUARD_FAULT},	 {SIGSEGV, SI_USER, false, GUARD_OK},
	    {SIGSEGV, SI_TKILL, false, GUARD_OK},	 {SIGBUS, BUS_ADRERR, true, GUARD_BUS},
	    {SIGBUS, BUS_MCEERR_AR, true, GUARD_POISON}, {SIGBUS, BUS_MCEERR_AO, false, GUARD_OK},
	    {SIGBUS, SI_QUEUE, false, GUARD_OK},	 {SIGBUS, SI_KERNEL, true, GUARD_FAULT},
	    {SIGUSR1, SI_USER, true, GUARD_ABORT},	 {SIGALRM, SI_KERNEL, true, GUARD_ABORT},
	};
	struct sigaction action = {.sa_sigaction = catch_context, .sa_flags = SA_SIGINFO}, old;
	uint8_t value;

	handle_signals();
	assert_int_equal(sigaction(SIGSEGV, &action, &old), 0);
	assert_int_equal(guard_load_u8(NULL, &value), GUARD_FAULT);
	assert_int_equal(sigaction(SIGSEGV, &old, NULL), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		siginfo_t info = {.si_signo = cases[i].signal,
				  .si_code = cases[i].code,
				  .si_addr = (void *)(0x123000 + i)};
		ucontext_t context = caught_context;
		greg_t *rip = &context.uc_mcontext.gregs[REG_RIP];

		guard_last_reason = GUARD_OK;
		assert_int_equal(guard_handle_signal(cases[i].signal, &info, &context),
				 cases[i].taken);
		assert_int_equal(guard_last_reason, cases[i].reason);
		if (cases[i].reason == GUARD_POISON)
			assert_int_equal(guard_poison_address, 0x123000 + i);
		assert_int_equal(*rip != caught_context.uc_mcontext.gregs[REG_RIP], cases[i].taken);
		/* One byte on there is no guarded instruction. */
		*rip = caught_context.uc_mcontext.gregs[REG_RIP] + 1;
		assert_false(guard_handle_signal(cases[i].signal, &info, &context));
	}
}

static sigjmp_buf foreign_fault;

static void client_handler(int signal, siginfo_t *info, void *ucontext)
{
	siglongjmp(foreign_fault, 1);
}

/* In a child: its handlers end with it. */
static int foreign_fault_child(void)
{
	struct sigaction action = {.sa_sigaction = client_handler, .sa_flags = SA_SIGINFO};
	volatile uint8_t *hole = map_anonymous(PAGE, PROT_NONE);
	uint8_t value;

	sigaction(SIGSEGV, &action, NULL);
	if (process_signals_install())
		return 1;
	if (guard_load_u8((const void *)hole, &value) != GUARD_FAULT)
		return 2;
	if (!sigsetjmp(foreign_fault, 1)) {
		*hole = 1;
		return 3;
	}
	return 0;
}

static void other_faults_reach_the_client(void **state)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(foreign_fault_child());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	child = fork();
	if (!child) {
		signal(SIGSEGV, SIG_DFL);
		handle_signals();
		*(volatile uint8_t *)map_anonymous(PAGE, PROT_NONE) = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSEGV);
}

/* News of a page that failed, to a program that ignores SIGBUS; and a guarded access after them. */
static int ignored_news_child(void)
{
	siginfo_t news = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AO};
	const uint8_t *file = map_file(PAGE, 2 * PAGE, PROT_READ, MAP_SHARED);
	uint8_t value;

	signal(SIGBUS, SIG_IGN);
	if (process_signals_install())
		return 1;
	if (syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &news))
		return 2;
	return guard_load_u8(file + PAGE, &value) == GUARD_BUS ? 0 : 3;
}

/* And to one without a handler, which they end. */
static int deadly_news_child(void)
{
	siginfo_t news = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AO};

	signal(SIGBUS, SIG_DFL);
	if (!process_signals_install())
		syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &news);
	return 0;
}

static void news_are_no_faults(void **state)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(ignored_news_child());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	child = fork();
	if (!child)
		_exit(deadly_news_child());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
}

/* A page that never comes: only a kick gets a thread out of waiting for it. */
struct blocked {
	struct process_runner runner;
	uint8_t *address;
	uint32_t finished;
	enum guard_reason touch, copy;
	size_t done;
};

static void *blocked_thread(void *argument)
{
	struct blocked *blocked = argument;
	uint8_t ours[16];

	process_runner_enter(&blocked->runner);
	blocked->touch = guard_touch(address_of(blocked->address), true);
	__atomic_store_n(&blocked->finished, 1, __ATOMIC_RELEASE);
	/* Half of it is on the page before, which is there. */
	blocked->copy = guard_copy(ours, blocked->address - 8, 16, &blocked->done);
	__atomic_store_n(&blocked->finished, 2, __ATOMIC_RELEASE);
	process_runner_leave(&blocked->runner);
	return NULL;
}

static int userfault_on(uint8_t *mem, size_t size_bytes)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {
	    .range = {.start = address_of(mem), .len = size_bytes},
	    .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (fd < 0)
		return -1;
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &range), 0);
	return fd;
}

static void kick_ends_the_wait(void **state)
{
	uint8_t *mem = map_anonymous(2 * PAGE, PROT_READ | PROT_WRITE);
	struct blocked blocked = {.address = mem + PAGE};
	int fd = userfault_on(mem + PAGE, PAGE), kicks = 0;
	pthread_t thread;

	handle_signals();
	if (fd < 0)
		skip();
	mem[PAGE - 8] = 1;
	assert_int_equal(pthread_create(&thread, NULL, blocked_thread, &blocked), 0);
	usleep(20000);
	assert_int_equal(__atomic_load_n(&blocked.finished, __ATOMIC_ACQUIRE), 0);
	/* A kick too many for the first access may come to the second one, at any time. */
	for (; __atomic_load_n(&blocked.finished, __ATOMIC_ACQUIRE) < 2; kicks++) {
		process_host_ops.kick(NULL, &blocked.runner);
		usleep(1000);
	}
	assert_true(kicks >= 2);
	pthread_join(thread, NULL);
	assert_int_equal(blocked.touch, GUARD_ABORT);
	assert_int_equal(blocked.copy, GUARD_ABORT);
	assert_int_equal(blocked.done, 8);
	assert_int_equal(blocked.runner.tid, 0);
	process_host_ops.kick(NULL, &blocked.runner);
	close(fd);
	unmap(mem, 2 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(loads_and_stores_fail),
	    cmocka_unit_test(loads_and_stores_work),
	    cmocka_unit_test(copies_stop_at_either_side),
	    cmocka_unit_test(fills_stop_where_memory_does),
	    cmocka_unit_test(signals_have_their_reasons),
	    cmocka_unit_test(other_faults_reach_the_client),
	    cmocka_unit_test(news_are_no_faults),
	    cmocka_unit_test(kick_ends_the_wait),
	};

	return cmocka_run_group_tests(tests, install_platform, NULL);
}
