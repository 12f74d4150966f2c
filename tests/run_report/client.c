/* What the reports of a run are made of: faults, logged writes and exits, before and after a pause.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/rules/client.h"

/* test_report.py counts these. */
#define GPA 0x10000000ul
#define PAGES 64ul
#define NOWHERE 0x20000000ul
#define SLOT 5
/* test_view.py, too. */
#define ROM_GPA 0x30000000ul
#define ROM_PAGES 32ul
#define LARGE_GPA 0x10000000000ul
#define LARGE_PAGES (1ul << 28)
#define LARGE_TOUCHED 16ul
#define MANY_SLOTS 30000u
/* test_page.py, too. */
#define HUGE_GPA 0x40000000ul
#define HUGE_PAGES 4ul

static struct vm vm;
static struct vcpu vcpu;

static void store_each(void)
{
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rax = 1, .rbx = GPA, .rcx = PAGES, .rdx = PAGE),
		  END_DONE);
}

static void harvest(void)
{
	uint64_t bitmap[PAGES / 64] = {0};
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = bitmap};

	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	CHECK_EQ(bitmap[0], UINT64_MAX);
}

static void one_vm(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(PAGES * PAGE)));
	store_each();
}

/* How many texts of this process have been begun: see struct report_stats. */
static uint32_t texts_begun(void)
{
	uint32_t count = 0;
	char path[300];
	int file;

	snprintf(path, sizeof(path), "%s/stats.%d", getenv("QUIRE_RUN_DIR"), (int)getpid());
	file = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(file >= 0);
	CHECK_EQ(pread(file, &count, sizeof(count), sizeof(uint32_t)), sizeof(count));
	CHECK_ZERO(close(file));
	return count;
}

/* With --stats one is written each second, on a machine without other work. */
static void wait_for_a_text(void)
{
	uint32_t begun = texts_begun();

	/* One that has begun by now may not have it all; when the next but one begins, it is whole.
	 */
	for (int i = 0; i < 25000 && texts_begun() < begun + 2; i++)
		usleep(1000);
	CHECK(texts_begun() >= begun + 2);
}

/* What a process may do about its VM: become another program, have a child with a VM, end somehow.
 */
static int do_otherwise(const char *what)
{
	int status;

	one_vm();
	if (!strcmp(what, "exec"))
		return execl("/proc/self/exe", "client", "quietly", NULL);
	if (!strcmp(what, "fork") && !fork()) {
		one_vm();
		_exit(0);
	}
	if (!strcmp(what, "fork"))
		return wait(&status) < 0 || status;
	if (!strcmp(what, "exit_group"))
		syscall(SYS_exit_group, 0);
	if (!strcmp(what, "quick_exit"))
		quick_exit(0);
	if (!strcmp(what, "kill")) {
		wait_for_a_text();
		raise(SIGKILL);
	}
	return 0;
}

/* Exits and harvests without end, until standard input has something to say. */
static int be_busy(void)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};

	one_vm();
	puts("ready");
	fflush(stdout);
	while (!poll(&input, 1, 0)) {
		store_each();
		harvest();
		for (int i = 0; i < 100; i++)
			CHECK_END(guest_try_store(&vcpu, NOWHERE, 1), END_MMIO);
	}
	return 0;
}

/* A ROM, a hole, and a slot of 1 TiB with a page here and there. */
static int be_large(void)
{
	void *large = mmap(NULL, LARGE_PAGES * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char byte;

	one_vm();
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .flags = KVM_MEM_READONLY,
			  .guest_phys_addr = ROM_GPA, .memory_size = ROM_PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(ROM_PAGES * PAGE)));
	CHECK(large != MAP_FAILED);
	CHECK_ZERO(madvise(large, LARGE_PAGES * PAGE, MADV_NOHUGEPAGE));
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 2, .guest_phys_addr = LARGE_GPA,
			  .memory_size = LARGE_PAGES * PAGE, .userspace_addr = (uintptr_t)large));
	for (uint64_t i = 0; i < LARGE_TOUCHED; i++) {
		struct kvm_pre_fault_memory request = {
		    .gpa = LARGE_GPA + LARGE_PAGES / LARGE_TOUCHED * i * PAGE, .size = PAGE};

		CHECK_ZERO(ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &request));
	}
	puts("ready");
	fflush(stdout);
	return read(STDIN_FILENO, &byte, 1) != 1;
}

/* A name that is cut within a character, with a tag of HTML and what terminals obey. */
static int have_a_name(void)
{
	char byte;

	CHECK_ZERO(prctl(PR_SET_NAME, "<b>\033[7m\xc2\x9bq\"\\\xe2\x82"));
	one_vm();
	puts("ready");
	fflush(stdout);
	return read(STDIN_FILENO, &byte, 1) != 1;
}

static void set_huge(void *memory, uint32_t flags)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .flags = flags, .guest_phys_addr = HUGE_GPA,
			  .memory_size = HUGE_PAGES * HUGE_PAGE,
			  .userspace_addr = (uintptr_t)memory));
}

/* Huge pages that logging splits, and that come back after it, in one VM. */
static int have_huge_pages(void)
{
	uint8_t *memory = memory_alloc(HUGE_PAGES * HUGE_PAGE);
	char byte;

	one_vm();
	(void)madvise(memory, HUGE_PAGES * HUGE_PAGE, MADV_HUGEPAGE);
	memset(memory, 1, HUGE_PAGES * HUGE_PAGE);
	set_huge(memory, 0);
	CHECK_END(
	    GUEST(&vcpu, GUEST_STORE_EACH, .rbx = HUGE_GPA, .rcx = HUGE_PAGES * 512, .rdx = PAGE),
	    END_DONE);
	set_huge(memory, KVM_MEM_LOG_DIRTY_PAGES);
	set_huge(memory, 0);
	puts("ready");
	fflush(stdout);
	return read(STDIN_FILENO, &byte, 1) != 1;
}

static void *exit_often(void *times)
{
	for (uintptr_t i = 0; i < (uintptr_t)times; i++)
		CHECK_END(guest_try_store(&vcpu, NOWHERE, 1), END_MMIO);
	return NULL;
}

/* One thread after the other runs the vCPU: @count of them, each with so many exits. */
static int run_in_threads(uint32_t count, uintptr_t exits)
{
	pthread_t thread;

	one_vm();
	for (uint32_t i = 0; i < count; i++) {
		CHECK_ZERO(pthread_create(&thread, NULL, exit_often, (void *)exits));
		CHECK_ZERO(pthread_join(thread, NULL));
	}
	return 0;
}

/* So many slots, each of a page, that a look at them takes a while. */
static int have_many_slots(void)
{
	uint8_t *page = memory_alloc(PAGE);
	char byte;

	one_vm();
	for (uint32_t i = 0; i < MANY_SLOTS; i++)
		CHECK_ZERO(REGION(&vm, .slot = SLOT + 1 + i,
				  .guest_phys_addr = LARGE_GPA + 2 * i * PAGE, .memory_size = PAGE,
				  .userspace_addr = (uintptr_t)page));
	puts("ready");
	fflush(stdout);
	return read(STDIN_FILENO, &byte, 1) != 1;
}

/* A child with a VM was killed, and its name looks like a state; no wait() has been for it. */
static int have_a_zombie(void)
{
	siginfo_t info;
	pid_t child = fork();
	char byte;

	if (!child) {
		CHECK_ZERO(prctl(PR_SET_NAME, "a) R"));
		one_vm();
		wait_for_a_text();
		raise(SIGKILL);
	}
	CHECK_ZERO(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
	puts("ready");
	fflush(stdout);
	return read(STDIN_FILENO, &byte, 1) != 1;
}

/* /dev/kvm is open, and there is no VM. */
static int have_no_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	char byte;

	CHECK_EQ(ioctl(kvm, KVM_GET_API_VERSION, 0), 12);
	puts("ready");
	fflush(stdout);
	return read(STDIN_FILENO, &byte, 1) != 1;
}

int main(int argc, char **argv)
{
	char byte;

	if (argc > 1 && !strcmp(argv[1], "busy"))
		return be_busy();
	if (argc > 1 && !strcmp(argv[1], "large"))
		return be_large();
	if (argc > 1 && !strcmp(argv[1], "named"))
		return have_a_name();
	if (argc > 1 && !strcmp(argv[1], "thread"))
		return run_in_threads(1, 2000);
	if (argc > 1 && !strcmp(argv[1], "threads"))
		return run_in_threads(40, 1);
	if (argc > 1 && !strcmp(argv[1], "huge"))
		return have_huge_pages();
	if (argc > 1 && !strcmp(argv[1], "slots"))
		return have_many_slots();
	if (argc > 1 && !strcmp(argv[1], "zombie"))
		return have_a_zombie();
	if (argc > 1 && !strcmp(argv[1], "no-vm"))
		return have_no_vm();
	if (argc > 1 && !strcmp(argv[1], "much")) {
		one_vm();
		for (int i = 0; i < 2000; i++)
			CHECK_END(guest_try_store(&vcpu, NOWHERE, 1), END_MMIO);
		return 0;
	}
	if (argc > 1)
		return do_otherwise(argv[1]);
	one_vm();
	CHECK_END(guest_try_store(&vcpu, NOWHERE, 1), END_MMIO);
	puts("ready");
	fflush(stdout);
	/* The test asks for a report meanwhile. */
	if (read(STDIN_FILENO, &byte, 1) != 1)
		return 1;
	harvest();
	store_each();
	return 0;
}
