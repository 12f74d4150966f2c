/*
 * Small VMMs that touch memory which their guests hold private, and their mended twins: what
 * `quire run --sanitize=private` reports, and what it does not (test_sanitize.py). Each goes on as
 * without a sanitizer.
 */
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/sanitize/scenario.h"

#define GPA 0x10000000ul
#define PAGES 16ul
#define HALF (PAGES / 2 * PAGE)
#define SLOT 5
#define MARK 0x1122334455667788ul

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

/* A VM whose second half of memory is private. The client left MARK in each page before. */
static void begin(void)
{
	int gmem;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	memory = memory_alloc(PAGES * PAGE);
	for (uint64_t page = 0; page < PAGES; page++)
		*word_at(memory, page * PAGE) = MARK;
	gmem = vm_gmem(&vm, PAGES * PAGE, 0);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = PAGES * PAGE, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)gmem));
}

/* Not inlined: the reports name these. */
__attribute__((noinline)) static void make_private(void)
{
	CHECK_ZERO(vm_set_attributes(&vm, GPA + HALF, HALF, KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

__attribute__((noinline)) static void make_shared(void)
{
	CHECK_ZERO(vm_set_attributes(&vm, GPA + HALF, HALF, 0));
}

__attribute__((noinline)) static uint64_t read_word(uint64_t offset_bytes)
{
	return *(volatile uint64_t *)word_at(memory, offset_bytes);
}

__attribute__((noinline)) static void write_word(uint64_t offset_bytes, uint64_t value)
{
	*(volatile uint64_t *)word_at(memory, offset_bytes) = value;
}

static void reads(void)
{
	begin();
	make_private();
	guest_store(&vcpu, GPA + HALF, 5);
	CHECK_EQ(read_word(0), MARK);
	if (is_mended)
		make_shared();
	/* The guest's word is elsewhere. */
	for (uint64_t page = PAGES / 2; page < PAGES; page++)
		CHECK_EQ(read_word(page * PAGE), MARK);
}

static void writes(void)
{
	begin();
	make_private();
	guest_store(&vcpu, GPA + HALF, 5);
	write_word(is_mended ? 0 : HALF, 7);
	CHECK_EQ(guest_load(&vcpu, GPA + HALF), 5);
	make_shared();
	CHECK_EQ(guest_load(&vcpu, GPA + (is_mended ? 0 : HALF)), 7);
	write_word(HALF, 8);
	CHECK_EQ(guest_load(&vcpu, GPA + HALF), 8);
}

/* The attribute comes before the slot. */
static void slot_later(void)
{
	int gmem;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	memory = memory_alloc(PAGES * PAGE);
	make_private();
	gmem = vm_gmem(&vm, PAGES * PAGE, 0);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = PAGES * PAGE, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)gmem));
	if (is_mended)
		CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD,
				  .guest_memfd = (uint32_t)gmem));
	CHECK_EQ(read_word(HALF), 0);
}

/* The kernel touches it for the client, by calls that would be refused with EFAULT. */
static void by_the_kernel(void)
{
	struct iovec parts[2];
	int pipes[2];

	begin();
	CHECK_ZERO(pipe(pipes));
	make_private();
	parts[0] = (struct iovec){memory, 8};
	parts[1] = (struct iovec){memory + (is_mended ? PAGE : HALF), 8};
	CHECK_EQ(writev(pipes[1], parts, 2), 16);
	CHECK_EQ(read(pipes[0], memory + (is_mended ? 0 : HALF + 2 * PAGE), 16), 16);
	if (is_mended)
		make_shared();
	CHECK_EQ(read_word(is_mended ? 8 : HALF + 2 * PAGE + 8), MARK);
}

static volatile sig_atomic_t is_over;

static void *read_on(void *unused)
{
	(void)unused;
	while (!is_over)
		CHECK_EQ(read_word(HALF + PAGE), MARK);
	return NULL;
}

static void *fork_on(void *unused)
{
	(void)unused;
	while (!is_over) {
		pid_t child = (pid_t)CHECK_OK(fork());

		if (!child)
			_exit(read_word(HALF + 2 * PAGE) != MARK);
		child_wait(child);
	}
	return NULL;
}

/* Conversions, while threads and children touch the memory: every access is made. */
static void races(void)
{
	pthread_t threads[2];

	begin();
	CHECK_ZERO(pthread_create(&threads[0], NULL, read_on, NULL));
	CHECK_ZERO(pthread_create(&threads[1], NULL, fork_on, NULL));
	for (int i = 0; i < 1000; i++) {
		make_private();
		make_shared();
	}
	is_over = 1;
	for (int i = 0; i < 2; i++)
		CHECK_ZERO(pthread_join(threads[i], NULL));
}

/* The client has as many mappings as the kernel allows: there is none for a part of the memory. */
static void many_mappings(void)
{
	begin();
	make_private();
	for (int i = 0; i < 70000; i++) {
		int protection = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;

		if (mmap(NULL, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			 0) == MAP_FAILED)
			break;
	}
	CHECK_EQ(read_word(is_mended ? 0 : HALF + 3 * PAGE), MARK);
}

/* The same by calls about sockets, pipes and processes, and by one for random bytes. */
static void by_sockets(void)
{
	uint8_t *used;
	struct iovec part;
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	int sockets[2], pipes[2];

	begin();
	CHECK_ZERO(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	CHECK_ZERO(pipe(pipes));
	make_private();
	used = memory + (is_mended ? 0 : HALF);
	part = (struct iovec){used + 2 * PAGE, 8};
	CHECK_EQ(send(sockets[0], used, 8, 0), 8);
	CHECK_EQ(sendmsg(sockets[0], &message, 0), 8);
	CHECK_EQ(recv(sockets[1], used + 4 * PAGE, 16, 0), 16);
	part.iov_base = used + 7 * PAGE;
	CHECK_EQ(vmsplice(pipes[1], &part, 1, 0), 8);
	CHECK_EQ(getrandom(used + PAGE, 8, 0), 8);
	part.iov_base = used + 3 * PAGE;
	CHECK_EQ(process_vm_writev(getpid(), &(struct iovec){&used, 8}, 1, &part, 1, 0), 8);
	CHECK_EQ(read_word((is_mended ? 0 : HALF) + 4 * PAGE + 8), MARK);
}

/* A page is restored where the guest holds memory private. */
__attribute__((noinline)) static void bring_page(int fd, uint8_t *page)
{
	struct uffdio_copy copy = {
	    .dst = (uintptr_t)page, .src = (uintptr_t)memory_alloc(PAGE), .len = PAGE};

	CHECK_ZERO(ioctl(fd, UFFDIO_COPY, &copy));
}

static void by_userfaultfd(void)
{
	int fd;

	begin();
	fd = userfault_open(memory, PAGES * PAGE, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_ZERO(madvise(memory, PAGES * PAGE, MADV_DONTNEED));
	make_private();
	bring_page(fd, memory);
	bring_page(fd, memory + (is_mended ? PAGE : HALF));
}

/*
 * Another process's call is refused where the memory has no rights, but for a debugger's way, and
 * none is reported.
 */
static void by_another_process(void)
{
	const size_t offset_bytes = is_mended ? 0 : HALF;
	struct iovec there;
	uint64_t value = 0;
	struct iovec here = {&value, sizeof(value)};
	pid_t parent = getpid(), child;
	char path[32];
	int status, mem;

	begin();
	there = (struct iovec){memory + offset_bytes, sizeof(value)};
	make_private();
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	child = (pid_t)CHECK_OK(fork());
	if (!child) {
		ssize_t done = process_vm_readv(parent, &here, 1, &there, 1, 0);

		if (done < 0 && errno != EFAULT)
			check_skip("no process_vm_readv");
		CHECK_EQ(done, is_mended ? 8 : -1);
		snprintf(path, sizeof(path), "/proc/%d/mem", parent);
		mem = open(path, O_RDONLY | O_CLOEXEC);
		CHECK_EQ(pread(mem, &value, sizeof(value), (off_t)(uintptr_t)there.iov_base), 8);
		CHECK_EQ(value, MARK);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		check_skip("no process_vm_readv");
	CHECK_EQ(status, 0);
}

/* A handler of the client's own hears nothing of it, and of its own faults all. */
static volatile sig_atomic_t faults;

static void on_fault(int signal)
{
	faults++;
	CHECK_ZERO(mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
}

static void with_a_handler(void)
{
	begin();
	signal(SIGSEGV, on_fault);
	make_private();
	CHECK_ZERO(mprotect(memory, PAGE, PROT_NONE));
	CHECK_EQ(read_word(0), MARK);
	if (!is_mended)
		CHECK_EQ(read_word(HALF), MARK);
	CHECK_EQ(faults, 1);
}

/* What is left over is given back, and mapped anew: the client's own business. */
static void given_back(void)
{
	begin();
	make_private();
	CHECK_ZERO(madvise(memory + HALF, HALF, MADV_DONTNEED));
	guest_store(&vcpu, GPA + HALF, 5);
	if (!is_mended)
		CHECK_EQ(read_word(HALF), 0);
	CHECK(mmap(memory + HALF, HALF, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	write_word(HALF, 6);
	CHECK_EQ(guest_load(&vcpu, GPA + HALF), 5);
}

/* The end of the VM ends it. A child's memory is a copy. */
static void ended(void)
{
	pid_t child;

	begin();
	make_private();
	child = (pid_t)CHECK_OK(fork());
	if (!child)
		_exit(read_word(HALF) != MARK);
	child_wait(child);
	if (!is_mended)
		CHECK_EQ(read_word(HALF), MARK);
	munmap(vcpu.run, (size_t)ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	close(vcpu.fd);
	close(vm.fd);
	closefrom(vm.fd);
	CHECK_EQ(read_word(HALF + PAGE), MARK);
}

/* A jump to a page without the right to execute is a fault of the client's own for good. */
static sigjmp_buf back;

static void on_jump(int signal)
{
	faults++;
	siglongjmp(back, 1);
}

static void jumps(void)
{
	void (*code)(void);

	begin();
	signal(SIGSEGV, on_jump);
	make_private();
	memcpy(&code, &(void *){memory}, sizeof(code));
	if (!sigsetjmp(back, 1))
		code();
	CHECK_EQ(faults, 1);
	CHECK_EQ(read_word(is_mended ? 0 : HALF), MARK);
}

/* What a handler finds on its stack: where that begins, and what a signal's frame takes of it. */
static struct {
	uint8_t *start, *top;
	size_t frame_bytes;
} small;

__attribute__((noinline)) static void read_in(size_t left_bytes)
{
	uint8_t here;
	volatile uint8_t *filled = alloca((size_t)(&here - small.start) - left_bytes);

	*filled = 1;
	CHECK_EQ(read_word(is_mended ? 0 : HALF), MARK);
}

static void on_small_stack(int signal)
{
	uint8_t here;

	small.frame_bytes = (size_t)(small.top - &here);
	if (signal == SIGUSR2)
		read_in(small.frame_bytes + PAGE / 2);
}

/* With little room for signal handlers, and all signals blocked. */
static void cramped(void)
{
	const size_t bytes = 3 * (size_t)sysconf(_SC_MINSIGSTKSZ), below = 8 * PAGE;
	struct sigaction action = {.sa_handler = on_small_stack, .sa_flags = SA_ONSTACK};
	uint8_t *stack = malloc(below + bytes);

	begin();
	CHECK(stack != NULL);
	memset(stack, 0x5a, below);
	small.start = stack + below;
	small.top = small.start + bytes;
	sigfillset(&action.sa_mask);
	CHECK_ZERO(sigaltstack(&(stack_t){.ss_sp = small.start, .ss_size = bytes}, NULL));
	CHECK_ZERO(sigaction(SIGUSR1, &action, NULL));
	CHECK_ZERO(sigaction(SIGUSR2, &action, NULL));
	make_private();
	CHECK_ZERO(raise(SIGUSR1));
	CHECK_ZERO(raise(SIGUSR2));
	for (size_t i = 0; i < below; i++)
		CHECK_EQ(stack[i], 0x5a);
	free(stack);
}

/* The frame pointer is a number like others, and points nowhere. */
__attribute__((noinline)) static uint64_t read_without_frame(uint64_t offset_bytes)
{
	uint64_t value;

	__asm__ volatile("push %%rbp\n\t"
			 "mov $0x7ffffffff000, %%rbp\n\t"
			 "sub $8, %%rbp\n\t"
			 "mov (%1), %0\n\t"
			 "pop %%rbp"
			 : "=&r"(value)
			 : "r"(word_at(memory, offset_bytes))
			 : "memory");
	return value;
}

static void without_frame(void)
{
	begin();
	make_private();
	CHECK_EQ(read_without_frame(is_mended ? 0 : HALF), MARK);
}

static const struct check_test scenarios[] = {
    TEST(reads),	 TEST(writes),	       TEST(slot_later),
    TEST(by_the_kernel), TEST(with_a_handler), TEST(given_back),
    TEST(ended),	 TEST(jumps),	       TEST(cramped),
    TEST(without_frame), TEST(by_sockets),     TEST(many_mappings),
    TEST(races),	 TEST(by_userfaultfd), TEST(by_another_process),
};

int main(int argc, char **argv)
{
	(void)argc;
	return scenario_main(argv, scenarios, sizeof(scenarios) / sizeof(scenarios[0]));
}
