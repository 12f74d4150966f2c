/* What a descriptor's number means, whichever way it came to mean it, and what a call costs. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 64ul
#define BLOCKS 2ul /* of 2 MiB, in which they may lie */
#define CALLS 1000

static struct vm vm;
static struct vcpu vcpu;

static void open_default(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
}

static uint64_t rax_of(int fd)
{
	struct kvm_regs registers;

	CHECK_ZERO(ioctl(fd, KVM_GET_REGS, &registers));
	return registers.rax;
}

static void rax_set(int fd, uint64_t value)
{
	struct kvm_regs registers;

	CHECK_ZERO(ioctl(fd, KVM_GET_REGS, &registers));
	registers.rax = value;
	CHECK_ZERO(ioctl(fd, KVM_SET_REGS, &registers));
}

/* A number follows what is behind it through each call that replaces it. */
static void numbers_are_replaced(void)
{
	struct vcpu other;
	int number;

	open_default();
	vcpu_open(&vm, &other, 1);
	rax_set(vcpu.fd, 0x11);
	rax_set(other.fd, 0x22);
	number = dup(vcpu.fd);
	CHECK_EQ(rax_of(number), 0x11);
	CHECK_EQ(dup2(other.fd, number), number);
	CHECK_EQ(rax_of(number), 0x22);
	CHECK_EQ(dup3(vcpu.fd, number, O_CLOEXEC), number);
	CHECK_EQ(rax_of(number), 0x11);
	CHECK_ZERO(close(number));
	CHECK_ERR(ioctl(number, KVM_GET_REGS, NULL), EBADF);
	CHECK_EQ(open("/dev/null", O_RDWR), number);
	CHECK_ERR(ioctl(number, KVM_GET_REGS, NULL), ENOTTY);
	CHECK_EQ(write(number, "x", 1), 1);
	CHECK_ZERO(close(number));
	CHECK_EQ(fcntl(other.fd, F_DUPFD, number), number);
	CHECK_EQ(rax_of(number), 0x22);
	CHECK_ERR(write(number, "x", 1), EINVAL);
	CHECK_ZERO(close_range((unsigned int)number, (unsigned int)number, 0));
	CHECK_ERR(ioctl(number, KVM_RUN, 0), EBADF);
}

/* Closed where only the kernel sees it: inside libc, and by the system call itself. */
static void numbers_are_closed_unseen(void)
{
	struct kvm_stats_header header;
	FILE *stream;
	int stats, again;

	open_default();
	stats = ioctl(vm.fd, KVM_GET_STATS_FD, 0);
	CHECK(stats >= 0);
	CHECK_EQ(read(stats, &header, sizeof(header)), sizeof(header));
	stream = fdopen(stats, "r");
	CHECK(stream != NULL);
	CHECK_ZERO(fclose(stream));
	CHECK_EQ(open("/dev/null", O_RDWR), stats);
	CHECK_ZERO(read(stats, &header, sizeof(header)));
	CHECK_EQ(write(stats, "x", 1), 1);
	CHECK_ZERO(syscall(SYS_close, stats));
	again = ioctl(vm.fd, KVM_GET_STATS_FD, 0);
	CHECK_EQ(again, stats);
	CHECK_EQ(read(again, &header, sizeof(header)), sizeof(header));
	/* A number that was something else, and becomes a duplicate. */
	CHECK_EQ(open("/dev/zero", O_RDWR), again + 1);
	CHECK_EQ(write(again + 1, "x", 1), 1);
	CHECK_ZERO(syscall(SYS_close, again + 1));
	CHECK_EQ(dup(again), again + 1);
	memset(&header, 0, sizeof(header));
	CHECK_EQ(pread(again + 1, &header, sizeof(header), 0), sizeof(header));
	CHECK(header.num_desc != 0);
	CHECK_ERR(write(again + 1, "x", 1), EBADF);
}

/* An object belongs to an address space, however its copy was made. */
static void address_spaces(void)
{
	pid_t child;
	int status;

	open_default();
	child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	CHECK(child >= 0);
	if (!child)
		_exit(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) != -1 || errno != EIO);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	child = vfork();
	CHECK(child >= 0);
	if (!child)
		_exit(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) != 1);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
}

/* A child of the system call itself makes a machine of its own, also after its parent made one. */
static void children_of_calls_use_kvm(void)
{
	const uint64_t clone3[11] = {[4] = SIGCHLD};
	const struct {
		long number, first, second;
	} calls[] = {
	    {SYS_fork, 0, 0}, {SYS_clone, SIGCHLD, 0}, {SYS_clone3, (long)clone3, sizeof(clone3)}};

	open_default();
	rax_set(vcpu.fd, 0x11);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		pid_t child =
		    (pid_t)syscall(calls[i].number, calls[i].first, calls[i].second, 0, 0, 0);
		int status;

		if (child < 0 && errno == ENOSYS)
			continue;
		CHECK(child >= 0);
		if (!child) {
			alarm(60);
			CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EIO);
			open_default();
			rax_set(vcpu.fd, 0x22);
			_exit(rax_of(vcpu.fd) != 0x22);
		}
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(status, 0);
	}
	CHECK_EQ(rax_of(vcpu.fd), 0x11);
}

/* From one of these to the next the calls are counted. */
static void mark(void)
{
	raise(SIGSTOP);
}

static void run_calls(void)
{
	const struct guest_op op = {.code = GUEST_OUT, .rdx = 0x10};

	for (int i = 0; i < CALLS + 10; i++) {
		/* The first ones find out what the rest know. */
		if (i == 10)
			mark();
		vcpu_prepare(&vcpu, &op);
		CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	}
	mark();
}

static void write_calls(void)
{
	int null = open("/dev/null", O_WRONLY), pipes[2];

	CHECK_ZERO(pipe(pipes));
	CHECK_EQ(write(null, "x", 1), 1);
	CHECK_EQ(write(pipes[1], "x", 1), 1);
	mark();
	for (int i = 0; i < CALLS / 2; i++) {
		CHECK_EQ(write(null, "x", 1), 1);
		CHECK_EQ(write(pipes[1], "x", 1), 1);
	}
	mark();
}

/* Each page is faulted anew: its slot was deleted, its memory has not changed. */
static void fault_calls(void)
{
	uint8_t *memory = memory_alloc(PAGES * PAGE);

	for (int i = 0; i < 4; i++) {
		if (i == 3)
			mark();
		CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA,
				  .memory_size = PAGES * PAGE,
				  .userspace_addr = (uintptr_t)memory));
		CHECK_END(
		    GUEST(&vcpu, GUEST_STORE_EACH, .rax = 1, .rbx = GPA, .rcx = PAGES, .rdx = PAGE),
		    END_DONE);
		CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = 0));
	}
	mark();
}

static void traced(void (*calls)(void))
{
	open_default();
	CHECK_ZERO(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	calls();
	_exit(0);
}

/* What the kernel saw between the two marks. */
struct seen {
	uint64_t ioctls, writes, others;
	long last_other;
};

static void count_call(pid_t child, struct seen *seen)
{
	struct user_regs_struct registers;

	CHECK_ZERO(ptrace(PTRACE_GETREGS, child, NULL, &registers));
	switch (registers.orig_rax) {
	case SYS_ioctl:
		seen->ioctls++;
		break;
	case SYS_write:
		seen->writes++;
		break;
	default:
		seen->others++;
		seen->last_other = (long)registers.orig_rax;
		break;
	}
}

static int wait_child(pid_t child)
{
	int status;

	CHECK_EQ(waitpid(child, &status, 0), child);
	if (WIFSTOPPED(status))
		return WSTOPSIG(status);
	CHECK_EQ(status, 0);
	return 0;
}

static struct seen count(void (*calls)(void))
{
	struct seen seen = {0};
	pid_t child = fork();
	int signal = 0, is_entry = 1;

	CHECK(child >= 0);
	if (!child)
		traced(calls);
	/* Up to the first mark without a stop at each call. */
	while ((signal = wait_child(child)) != SIGSTOP)
		CHECK_ZERO(ptrace(PTRACE_CONT, child, NULL, (void *)(long)signal));
	CHECK_ZERO(ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)PTRACE_O_TRACESYSGOOD));
	signal = 0;
	for (;;) {
		CHECK_ZERO(ptrace(PTRACE_SYSCALL, child, NULL, (void *)(long)signal));
		signal = wait_child(child);
		if (signal == SIGSTOP)
			break;
		if (signal != (SIGTRAP | 0x80))
			continue;
		signal = 0;
		if (is_entry)
			count_call(child, &seen);
		is_entry = !is_entry;
	}
	/* The rest of raise(), its end and the next one's beginning. */
	CHECK_ZERO(ptrace(PTRACE_CONT, child, NULL, NULL));
	while ((signal = wait_child(child)))
		CHECK_ZERO(ptrace(PTRACE_CONT, child, NULL, (void *)(long)signal));
	return seen;
}

static void empty_calls(void)
{
	mark();
	mark();
}

/*
 * KVM_RUN asks the kernel for nothing but itself, nor do a warm fault and a write() elsewhere. A
 * shadow MMU asks which pages of a block of 2 MiB are there: for a group of pages, and once for
 * all.
 */
static void calls_are_not_multiplied(void)
{
	struct seen none = count(empty_calls);
	struct seen runs = count(run_calls);
	struct seen writes = count(write_calls);
	struct seen faults = count(fault_calls);

	printf("# KVM_RUN: %lu ioctl, %lu others (last %ld); write: %lu, %lu others (last %ld); "
	       "faults: %lu others (last %ld)\n",
	       runs.ioctls, runs.others - none.others, runs.last_other, writes.writes,
	       writes.others - none.others, writes.last_other, faults.others - none.others,
	       faults.last_other);
	CHECK_EQ(runs.others, none.others);
	CHECK(runs.ioctls <= 3 * CALLS);
	CHECK_EQ(writes.writes, CALLS);
	CHECK_EQ(writes.others, none.others);
	if (parameter_is_on("kvm", "tdp_mmu") && has_second_stage())
		CHECK_EQ(faults.others, none.others);
	else
		CHECK(faults.others - none.others <= 2 * BLOCKS);
}

/*
 * What KVM's calls do to the numbers of other threads: those that make a descriptor take one, the
 * others none, not even for a moment. A thread takes the lowest number over and over.
 */
struct taker {
	pthread_t thread;
	int free[3]; /* the lowest numbers before anything began */
	int highest; /* that it may get in this phase */
	uint32_t is_over, wrong, turns;
	const char *phase, *wrong_phase;
};

static void *taker_main(void *argument)
{
	struct taker *taker = argument;

	while (!__atomic_load_n(&taker->is_over, __ATOMIC_RELAXED)) {
		int number = (int)syscall(SYS_dup, 0);

		if (number > __atomic_load_n(&taker->highest, __ATOMIC_RELAXED)) {
			taker->wrong++;
			taker->wrong_phase = __atomic_load_n(&taker->phase, __ATOMIC_RELAXED);
		}
		CHECK_ZERO(close(number));
		__atomic_store_n(&taker->turns, taker->turns + 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* From here on calls of @name are made, of which each may hold @room numbers. */
static void phase_begin(struct taker *taker, const char *name, int room)
{
	uint32_t turns = __atomic_load_n(&taker->turns, __ATOMIC_RELAXED);

	__atomic_store_n(&taker->phase, name, __ATOMIC_RELAXED);
	__atomic_store_n(&taker->highest, taker->free[room], __ATOMIC_RELAXED);
	while (__atomic_load_n(&taker->turns, __ATOMIC_RELAXED) < turns + 2)
		sched_yield();
}

static void phase_end(struct taker *taker)
{
	uint32_t turns = __atomic_load_n(&taker->turns, __ATOMIC_RELAXED);

	while (__atomic_load_n(&taker->turns, __ATOMIC_RELAXED) < turns + 2)
		sched_yield();
	if (taker->wrong)
		FAIL("%u numbers were taken by: %s", taker->wrong, taker->wrong_phase);
}

/* Wrong only with luck: so often. */
#define TURNS 200

static void take_irqfds(struct taker *taker, const int *events)
{
	struct kvm_irqfd irqfd = {.gsi = 5};
	struct kvm_ioeventfd io = {.addr = 0x500, .len = 2, .flags = KVM_IOEVENTFD_FLAG_PIO};

	phase_begin(taker, "KVM_IRQFD", 0);
	for (int i = 0; i < TURNS; i++) {
		irqfd.fd = (uint32_t)events[i & 1];
		irqfd.flags = 0;
		CHECK_ZERO(ioctl(vm.fd, KVM_IRQFD, &irqfd));
		CHECK_ERR(ioctl(vm.fd, KVM_IRQFD, &irqfd), EBUSY);
		eventfd_write((int)irqfd.fd, 1);
		irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
		CHECK_ZERO(ioctl(vm.fd, KVM_IRQFD, &irqfd));
	}
	phase_begin(taker, "KVM_IOEVENTFD", 0);
	for (int i = 0; i < TURNS; i++) {
		io.fd = events[i & 1];
		io.flags = KVM_IOEVENTFD_FLAG_PIO;
		CHECK_ZERO(ioctl(vm.fd, KVM_IOEVENTFD, &io));
		io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
		CHECK_ZERO(ioctl(vm.fd, KVM_IOEVENTFD, &io));
	}
	phase_end(taker);
}

/* New memory each time: Quire asks the kernel about each mapping. */
static void take_memory(struct taker *taker)
{
	phase_begin(taker, "KVM_RUN on new memory", 0);
	for (int i = 0; i < TURNS; i++) {
		uint8_t *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(memory != MAP_FAILED);
		CHECK_OK(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
				.userspace_addr = (uintptr_t)memory));
		guest_store(&vcpu, GPA, 7);
		CHECK_OK(REGION(&vm, .slot = 1, .memory_size = 0));
		CHECK_ZERO(munmap(memory, PAGES * PAGE));
	}
	phase_end(taker);
}

static void take_objects(struct taker *taker)
{
	phase_begin(taker, "KVM_CREATE_VM, KVM_CREATE_VCPU", 2);
	for (int i = 0; i < TURNS; i++) {
		int machine, cpu;

		machine = (int)CHECK_OK(ioctl(vm.kvm, KVM_CREATE_VM, 0));
		CHECK(machine <= taker->free[1]);
		CHECK_ZERO(ioctl(machine, KVM_CREATE_IRQCHIP, 0));
		cpu = (int)CHECK_OK(ioctl(machine, KVM_CREATE_VCPU, 0));
		CHECK(cpu <= taker->free[2]);
		CHECK_ZERO(close(cpu));
		CHECK_ZERO(close(machine));
	}
	phase_end(taker);
}

static void others_numbers_are_left_alone(void)
{
	struct taker taker = {.phase = "none"};
	const int events[] = {eventfd(0, 0), eventfd(0, 0)};

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&vm);
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	vcpu_open(&vm, &vcpu, 0);
	for (int i = 0; i < 3; i++)
		taker.free[i] = dup(0);
	for (int i = 0; i < 3; i++)
		CHECK_ZERO(close(taker.free[i]));
	taker.highest = taker.free[0];
	CHECK_ZERO(pthread_create(&taker.thread, NULL, taker_main, &taker));
	take_irqfds(&taker, events);
	take_memory(&taker);
	take_objects(&taker);
	taker.is_over = 1;
	CHECK_ZERO(pthread_join(taker.thread, NULL));
}

/* The program that has them now is another address space. */
static void kept_over_exec(void)
{
	static const char *const names[] = {"another", "kvm-vm", "kvm-vcpu:0"};
	const char *kept = getenv("KEPT");
	char numbers[32];
	int fds[2], status;
	pid_t child;

	if (kept) {
		CHECK_EQ(sscanf(kept, "%d %d", &fds[0], &fds[1]), 2);
		for (int i = 0; i < 2; i++) {
			CHECK_ERR(ioctl(fds[i], KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EIO);
			CHECK_ERR(ioctl(fds[i], KVM_GET_REGS, NULL), EIO);
		}
		for (int i = 0; i < 3; i++) {
			/* Whatever a file is called. */
			fds[0] = memfd_create(names[i], 0);
			CHECK_ERR(ioctl(fds[0], KVM_GET_REGS, NULL), ENOTTY);
		}
		return;
	}
	open_default();
	fds[0] = dup(vm.fd);
	fds[1] = dup(vcpu.fd);
	snprintf(numbers, sizeof(numbers), "%d %d", fds[0], fds[1]);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		setenv("KEPT", numbers, 1);
		execl("/proc/self/exe", "test", "kept_over_exec", (char *)NULL);
		_exit(1);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
}

static const struct check_test tests[] = {
    TEST(numbers_are_replaced),	    TEST(numbers_are_closed_unseen),
    TEST(address_spaces),	    TEST(children_of_calls_use_kvm),
    TEST(calls_are_not_multiplied), TEST(others_numbers_are_left_alone),
    TEST(kept_over_exec),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
