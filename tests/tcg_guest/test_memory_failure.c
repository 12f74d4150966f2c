/*
 * Memory that fails (MADV_HWPOISON) while a guest uses it. For a machine of its own (the guest of
 * tests/tcg_guest): what fails stays lost to the kernel until it ends.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/rules/client.h"

#define GPA 0x10000000ul
#define SLOT 5
#define PAGES 16ul
#define BYTES (PAGES * PAGE)
/* The page that is lost, and the one that tells a counting guest to stop. */
#define LOST 3ul
#define STOP 15ul
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
/* News of a failure come within that time. */
#define NEWS_MILLISECONDS 5000

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static struct guest_thread thread;

/* The last SIGBUS of this process. */
static volatile sig_atomic_t seen_code, seen_count;
static void *volatile seen_address;
static volatile pid_t seen_thread;

static void on_bus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	seen_code = info->si_code;
	seen_address = info->si_addr;
	seen_thread = (pid_t)syscall(SYS_gettid);
	seen_count++;
}

static void forget_signals(void)
{
	seen_code = 0;
	seen_count = 0;
	seen_address = NULL;
}

static void watch_signals(void)
{
	struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};

	forget_signals();
	CHECK_ZERO(sigaction(SIGBUS, &action, NULL));
}

static void lose(uint8_t *page)
{
	if (madvise(page, PAGE, MADV_HWPOISON))
		FAIL("MADV_HWPOISON: errno %d", errno);
}

/* Every page says which it is. */
static void fill(uint8_t *host, unsigned long pages)
{
	for (unsigned long page = 0; page < pages; page++)
		*word_at(host, page * PAGE) = 0x1000 + page;
}

static void add_slot(uint8_t *host, unsigned long pages)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = pages * PAGE,
			  .userspace_addr = (uintptr_t)host));
}

static void open_over(uint8_t *host, unsigned long pages)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = host;
	fill(memory, pages);
	add_slot(memory, pages);
	watch_signals();
}

/* The guest has all of its pages mapped. */
static void use_pages(unsigned long pages)
{
	for (unsigned long page = 0; page < pages; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), 0x1000 + page);
}

/* The run ends by the signal, at the client's address, on this thread; and every time. */
static void check_lost(const struct outcome *outcome, const uint8_t *page, pid_t on_thread)
{
	CHECK_END(*outcome, END_SIGNAL);
	CHECK_EQ(seen_code, BUS_MCEERR_AR);
	CHECK_EQ((uintptr_t)seen_address, (uintptr_t)page);
	CHECK_EQ(seen_thread, on_thread);
}

static void load_lost(const uint8_t *page)
{
	for (int round = 0; round < 2; round++) {
		struct outcome outcome;

		forget_signals();
		outcome = guest_try_load(&vcpu, GPA + LOST * PAGE);
		check_lost(&outcome, page, (pid_t)syscall(SYS_gettid));
		CHECK_EQ(seen_count, 1);
	}
}

static void check_others(unsigned long pages)
{
	for (unsigned long page = 0; page < pages; page++)
		if (page != LOST)
			CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), 0x1000 + page);
}

/* Another page in its place, and the instruction goes on. */
static void replace(uint8_t *page)
{
	CHECK(mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == page);
	*word_at(page, 0) = 0x77;
	CHECK_EQ(guest_load(&vcpu, GPA + LOST * PAGE), 0x77);
	guest_store(&vcpu, GPA + LOST * PAGE, 0x78);
	CHECK_EQ(*word_at(page, 0), 0x78);
}

static void anonymous_memory(void)
{
	open_over(memory_alloc(BYTES), PAGES);
	use_pages(PAGES);
	lose(memory + LOST * PAGE);
	CHECK_EQ(seen_count, 0);
	load_lost(memory + LOST * PAGE);
	check_others(PAGES);
	replace(memory + LOST * PAGE);
}

/* The huge page is split by the kernel, and one small page of it is lost. */
static void huge_page(void)
{
	uint8_t *host = memory_alloc(HUGE_PAGE);

	CHECK_ZERO(madvise(host, HUGE_PAGE, MADV_HUGEPAGE));
	open_over(host, HUGE_PAGE / PAGE);
	use_pages(HUGE_PAGE / PAGE);
	lose(memory + LOST * PAGE);
	load_lost(memory + LOST * PAGE);
	check_others(HUGE_PAGE / PAGE);
	replace(memory + LOST * PAGE);
}

/* It is lost under another mapping of the file than the slot's. */
static void file_mapping(void)
{
	int file = memfd_create("memory", MFD_CLOEXEC);
	uint8_t *host, *other;

	CHECK(file >= 0);
	CHECK_ZERO(ftruncate(file, BYTES));
	host = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	other = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(host != MAP_FAILED && other != MAP_FAILED);
	open_over(host, PAGES);
	use_pages(PAGES);
	lose(other + LOST * PAGE);
	load_lost(memory + LOST * PAGE);
	check_others(PAGES);
	replace(memory + LOST * PAGE);
}

/* The signal is the vCPU's thread's. */
static void under_a_running_guest(void)
{
	const struct guest_op count = {
	    .code = GUEST_COUNT, .rbx = GPA + LOST * PAGE, .rcx = GPA + STOP * PAGE};
	struct outcome outcome;

	open_over(memory_alloc(BYTES), PAGES);
	*word_at(memory, STOP * PAGE) = 0;
	thread_start(&thread, &vcpu, &count);
	while (__atomic_load_n(word_at(memory, LOST * PAGE), __ATOMIC_RELAXED) < 0x2000)
		usleep(1000);
	lose(memory + LOST * PAGE);
	outcome = thread_join(&thread);
	CHECK(seen_thread != (pid_t)syscall(SYS_gettid));
	check_lost(&outcome, memory + LOST * PAGE, seen_thread);
	replace(memory + LOST * PAGE);
}

static sigjmp_buf way_out;

static void leave(int number)
{
	(void)number;
	siglongjmp(way_out, 1);
}

/* KVM_RUN is over when the handler runs, which need not return. */
static void a_handler_that_does_not_return(void)
{
	open_over(memory_alloc(BYTES), PAGES);
	use_pages(PAGES);
	lose(memory + LOST * PAGE);
	for (volatile int round = 0; round < 3; round++) {
		CHECK(signal(SIGBUS, leave) != SIG_ERR);
		if (!sigsetjmp(way_out, 1)) {
			(void)guest_try_load(&vcpu, GPA + LOST * PAGE);
			FAIL("no signal");
		}
		CHECK_EQ(guest_load(&vcpu, GPA), 0x1000);
	}
	/* And the client's own accesses raise it as before. */
	CHECK_EQ(touch_byte(memory + LOST * PAGE).code, BUS_MCEERR_AR);
	replace(memory + LOST * PAGE);
}

static void no_handler(void)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (!child) {
		open_over(memory_alloc(BYTES), PAGES);
		use_pages(PAGES);
		CHECK(signal(SIGBUS, SIG_DFL) != SIG_ERR);
		lose(memory + LOST * PAGE);
		(void)guest_try_load(&vcpu, GPA + LOST * PAGE);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status));
	CHECK_EQ(WTERMSIG(status), SIGBUS);
}

static void add_file_slot(int file, unsigned long pages)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = pages * PAGE, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)file));
	watch_signals();
}

static int open_file_slot_of(unsigned long pages)
{
	int file;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	file = (int)CHECK_OK(vm_gmem(&vm, pages * PAGE, SHARED));
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);
	fill(memory, pages);
	add_file_slot(file, pages);
	use_pages(pages);
	return file;
}

static int open_file_slot(void)
{
	return open_file_slot_of(PAGES);
}

/* How the guest's accesses to the lost page of a guest_memfd end. */
static void load_lost_with(uint64_t flags)
{
	for (int round = 0; round < 2; round++) {
		struct outcome outcome = guest_try_load(&vcpu, GPA + LOST * PAGE);

		CHECK_END(outcome, END_MEMORY_FAULT);
		CHECK_EQ(outcome.error, EHWPOISON);
		CHECK_EQ(outcome.fault.gpa, GPA + LOST * PAGE);
		CHECK_EQ(outcome.fault.size, PAGE);
		CHECK_EQ(outcome.fault.flags, flags);
	}
	/* No signal: the vCPU's thread did not touch the client's mapping. */
	CHECK_EQ(seen_count, 0);
}

static void load_lost_of_file(void)
{
	load_lost_with(0);
}

/* Lost to the client and the guest, until it is punched; then there is a new page of zeros. */
static void guest_memfd(void)
{
	int file = open_file_slot();
	struct signal_seen seen;
	uint8_t *again;

	lose(memory + LOST * PAGE);
	load_lost_of_file();
	check_others(PAGES);
	seen = touch_byte(memory + LOST * PAGE);
	CHECK_EQ(seen.number, SIGBUS);
	CHECK_EQ(seen.code, BUS_MCEERR_AR);
	/* To allocate it again brings nothing back. */
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE, LOST * PAGE, PAGE));
	load_lost_of_file();
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, LOST * PAGE, PAGE));
	CHECK_EQ(guest_load(&vcpu, GPA + LOST * PAGE), 0);
	guest_store(&vcpu, GPA + LOST * PAGE, 0x99);
	again = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(again != MAP_FAILED);
	CHECK_EQ(*word_at(again, LOST * PAGE), 0x99);
	check_others(PAGES);
}

/* News that our thread hears late: the page was punched, and another is in its place. */
static void late_news(void)
{
	int file = open_file_slot();
	siginfo_t news = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AO};

	lose(memory + LOST * PAGE);
	load_lost_of_file();
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, LOST * PAGE, PAGE));
	guest_store(&vcpu, GPA + LOST * PAGE, 0x99);
	news.si_addr = memory + LOST * PAGE;
	news.si_addr_lsb = 12;
	CHECK_ZERO(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &news));
	CHECK_EQ(seen_code, BUS_MCEERR_AO);
	for (int i = 0; i < 50; i++) {
		CHECK_EQ(guest_load(&vcpu, GPA + LOST * PAGE), 0x99);
		usleep(10000);
	}
	check_others(LOST);
}

static uint64_t small_pages(void)
{
	return stat_get(vm.fd, "pages_4k");
}

/* Is it so within the time that news take? */
static int comes_true(int (*check)(uint64_t), uint64_t value)
{
	for (int i = 0; i < NEWS_MILLISECONDS && !check(value); i++)
		usleep(1000);
	return check(value);
}

static int pages_are(uint64_t count)
{
	return small_pages() == count;
}

/* The guest's mapping of the page goes, though the guest does not touch it. */
static void lose_at_once(uint8_t *page)
{
	uint64_t before = small_pages();

	lose(page);
	CHECK(comes_true(pages_are, before - 1));
}

static int prefault(void)
{
	struct kvm_pre_fault_memory range = {.gpa = GPA + LOST * PAGE, .size = PAGE};

	return ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range);
}

static void anonymous_memory_at_once(void)
{
	open_over(memory_alloc(BYTES), PAGES);
	use_pages(PAGES);
	lose_at_once(memory + LOST * PAGE);
	CHECK_EQ(seen_count, 0);
	CHECK_ERR(prefault(), EINTR);
	CHECK_EQ(seen_count, 1);
	CHECK_EQ(seen_code, BUS_MCEERR_AR);
	CHECK_EQ((uintptr_t)seen_address, (uintptr_t)(memory + LOST * PAGE));
	replace(memory + LOST * PAGE);
}

static void guest_memfd_at_once(void)
{
	open_file_slot();
	lose_at_once(memory + LOST * PAGE);
	CHECK_ERR(prefault(), EHWPOISON);
	load_lost_of_file();
	check_others(PAGES);
}

/* One page of 2 MiB, which the host may have given as one. */
static void guest_memfd_of_two_mebibytes(void)
{
	open_file_slot_of(HUGE_PAGE / PAGE);
	lose(memory + LOST * PAGE);
	load_lost_of_file();
	check_others(HUGE_PAGE / PAGE);
}

/* The number of the frame at the address, for which a program needs rights; or 0. */
static uint64_t frame_at(uintptr_t address)
{
	int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	CHECK_EQ(pread(file, &entry, sizeof(entry), (off_t)(address / PAGE * sizeof(entry))),
		 sizeof(entry));
	close(file);
	return entry & ((1ul << 55) - 1);
}

/*
 * Where the private pages of a file of BYTES are, in a KVM that has them in this process; or 0. Its
 * mapping has no name before Linux 6.2.
 */
static uintptr_t private_pages(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long start, end, found = 0;
	char line[512];

	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx rw-s", &start, &end) == 2 && end - start == BYTES &&
		    (strstr(line, "quire guest_memfd") || strstr(line, "/dev/zero (deleted)")))
			found = start;
	fclose(maps);
	return found;
}

/* The machine loses a frame, and no thread of the client's has a mapping of it. */
static void private_page_at_once(void)
{
	int file, offline, length;
	uintptr_t pages;
	uint64_t before;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	memory = memory_alloc(BYTES);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	add_file_slot(file, PAGES);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, BYTES, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	for (unsigned long page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, 0x1000 + page);
	pages = private_pages();
	if (!pages)
		check_skip("private pages are elsewhere");
	before = small_pages();
	offline = open("/sys/devices/system/memory/hard_offline_page", O_WRONLY | O_CLOEXEC);
	CHECK(offline >= 0);
	length = dprintf(offline, "0x%lx", frame_at(pages + LOST * PAGE) * PAGE);
	CHECK(length > 0);
	CHECK(comes_true(pages_are, before - 1));
	CHECK_ERR(prefault(), EHWPOISON);
	load_lost_with(KVM_MEMORY_EXIT_FLAG_PRIVATE);
	check_others(PAGES);
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, LOST * PAGE, PAGE));
	CHECK_EQ(guest_load(&vcpu, GPA + LOST * PAGE), 0);
}

/* Two mappings of a file, each under a slot; it is lost under a third. */
static void every_mapping_at_once(void)
{
	int file = memfd_create("memory", MFD_CLOEXEC);
	uint8_t *host[3];
	uint64_t before;

	CHECK_ZERO(ftruncate(file, BYTES));
	for (int i = 0; i < 3; i++) {
		host[i] = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		CHECK(host[i] != MAP_FAILED);
	}
	open_over(host[0], PAGES);
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .guest_phys_addr = 2 * GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)host[1]));
	use_pages(PAGES);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + LOST * PAGE), 0x1000 + LOST);
	before = small_pages();
	lose(host[2] + LOST * PAGE);
	CHECK(comes_true(pages_are, before - 2));
	CHECK_END(guest_try_load(&vcpu, 2 * GPA + LOST * PAGE), END_SIGNAL);
	CHECK_EQ((uintptr_t)seen_address, (uintptr_t)(host[1] + LOST * PAGE));
}

/* A loop without a memory access, in the page that is lost. */
static void code_at_once(void)
{
	static const uint8_t loop[] = {0xeb, 0xfe};
	const struct guest_op run = {.code = GUEST_CALL, .rbx = GPA + LOST * PAGE};
	struct outcome outcome;

	open_over(memory_alloc(BYTES), PAGES);
	memcpy(memory + LOST * PAGE, loop, sizeof(loop));
	thread_start(&thread, &vcpu, &run);
	CHECK(!thread_ended_within(&thread, 100));
	lose(memory + LOST * PAGE);
	CHECK(thread_ended_within(&thread, NEWS_MILLISECONDS));
	outcome = thread_join(&thread);
	check_lost(&outcome, memory + LOST * PAGE, seen_thread);
}

/* The client hears of it first, by a thread that asked: ours does, too. */
static void early_news_for_the_first_thread(void)
{
	CHECK_ZERO(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	open_over(memory_alloc(BYTES), PAGES);
	use_pages(PAGES);
	lose_at_once(memory + LOST * PAGE);
	CHECK_EQ(seen_count, 1);
	CHECK_EQ(seen_code, BUS_MCEERR_AO);
	CHECK_EQ((uintptr_t)seen_address, (uintptr_t)(memory + LOST * PAGE));
	CHECK_EQ(seen_thread, getpid());
}

static void *wait_for_news(void *number)
{
	CHECK_ZERO(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	__atomic_store_n((pid_t *)number, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

static int is_seen(uint64_t count)
{
	return (uint64_t)seen_count == count;
}

/* A thread that began after ours, whose news the kernel gave to ours. */
static void early_news_for_a_later_thread(void)
{
	pthread_t later;
	pid_t number = 0;

	open_over(memory_alloc(BYTES), PAGES);
	use_pages(PAGES);
	CHECK_ZERO(pthread_create(&later, NULL, wait_for_news, &number));
	while (!__atomic_load_n(&number, __ATOMIC_ACQUIRE))
		usleep(1000);
	lose_at_once(memory + LOST * PAGE);
	CHECK(comes_true(is_seen, 1));
	CHECK_EQ(seen_code, BUS_MCEERR_AO);
	CHECK_EQ((uintptr_t)seen_address, (uintptr_t)(memory + LOST * PAGE));
	CHECK_EQ(seen_thread, number);
}

/* A SIGBUS of the process's that no thread takes is left to the client. */
static void signals_of_the_process(void)
{
	const struct timespec now = {0};
	siginfo_t info;
	sigset_t bus;

	open_over(memory_alloc(BYTES), PAGES);
	use_pages(PAGES);
	sigemptyset(&bus);
	sigaddset(&bus, SIGBUS);
	CHECK_ZERO(pthread_sigmask(SIG_BLOCK, &bus, NULL));
	CHECK_ZERO(kill(getpid(), SIGBUS));
	lose_at_once(memory + LOST * PAGE);
	CHECK_EQ(sigtimedwait(&bus, &info, &now), SIGBUS);
	CHECK_EQ(info.si_code, SI_USER);
	CHECK_EQ(seen_count, 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(anonymous_memory),
	    TEST(huge_page),
	    TEST(file_mapping),
	    TEST(under_a_running_guest),
	    TEST(a_handler_that_does_not_return),
	    TEST(no_handler),
	    TEST(guest_memfd),
	    TEST(late_news),
	    TEST(anonymous_memory_at_once),
	    TEST(guest_memfd_at_once),
	    TEST(guest_memfd_of_two_mebibytes),
	    TEST(private_page_at_once),
	    TEST(every_mapping_at_once),
	    TEST(code_at_once),
	    TEST(early_news_for_the_first_thread),
	    TEST(early_news_for_a_later_thread),
	    TEST(signals_of_the_process),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
