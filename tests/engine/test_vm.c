/*
 * A static program's VM by raw system calls: mapped vCPU, exits, signals, memory that goes away
 * under a slot, a fork, threads. What passes here passes on KVM.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define PAGE 4096ul
#define CODE_GPA 0x1000
#define DATA_GPA 0x8000
#define PORT 0x10

static int kvm, vm, vcpu;
static struct kvm_run *run;
static uint8_t *memory;
static volatile sig_atomic_t handled;

static long call(int fd, unsigned long command, const void *argument)
{
	return syscall(SYS_ioctl, fd, command, argument);
}

/* Real mode, from CODE_GPA. */
static void set_code(const uint8_t *code, size_t bytes)
{
	struct kvm_regs registers = {.rip = CODE_GPA, .rsp = 0x4000, .rflags = 2};
	struct kvm_sregs segments;

	memcpy(memory + CODE_GPA, code, bytes);
	CHECK(!call(vcpu, KVM_GET_SREGS, &segments));
	segments.cs.base = segments.cs.selector = 0;
	CHECK(!call(vcpu, KVM_SET_SREGS, &segments));
	CHECK(!call(vcpu, KVM_SET_REGS, &registers));
}

static void open_machine(void)
{
	struct kvm_userspace_memory_region region = {.memory_size = 16 * PAGE};
	long bytes;

	kvm = (int)syscall(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0);
	CHECK(call(kvm, KVM_GET_API_VERSION, NULL) == 12);
	vm = (int)call(kvm, KVM_CREATE_VM, NULL);
	CHECK(vm >= 0);
	memory = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	region.userspace_addr = (uintptr_t)memory;
	CHECK(!call(vm, KVM_SET_USER_MEMORY_REGION, &region));
	vcpu = (int)call(vm, KVM_CREATE_VCPU, NULL);
	bytes = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	CHECK(vcpu >= 0 && bytes > 0);
	run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	CHECK(run != MAP_FAILED);
}

static void test_exits(void)
{
	static const uint8_t code[] = {0xb0, 0x5a, 0xe6,
				       PORT, 0xeb, 0xfc}; /* mov; 1: out; jmp 1b */

	set_code(code, sizeof(code));
	for (int i = 0; i < 100; i++) {
		CHECK(!call(vcpu, KVM_RUN, NULL));
		CHECK(run->exit_reason == KVM_EXIT_IO && run->io.port == PORT);
		CHECK(((uint8_t *)run)[run->io.data_offset] == 0x5a);
	}
}

static void on_alarm(int signal)
{

	(void)signal;
	handled++;
	/* A call of KVM's from a handler. */
	CHECK(call(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_USER_MEMORY) == 1);
	CHECK(open("/nonexistent/file", O_RDONLY) == -1 && errno == ENOENT);
}

/* A signal ends KVM_RUN, and its handler has run by then; blocked, it does not. */
static void test_signals(void)
{
	static const uint8_t forever[] = {0xeb, 0xfe};
	const struct itimerval soon = {.it_value.tv_usec = 20000}, never = {0};
	/* On a busy machine the first alarm may come before the guest runs. */
	const struct itimerval often = {{.tv_usec = 20000}, {.tv_usec = 20000}};
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct {
		struct kvm_signal_mask head;
		uint64_t bits;
	} inner = {{.len = 8}, 0};
	sigset_t blocked, none;

	CHECK(!sigaction(SIGALRM, &action, NULL));
	set_code(forever, sizeof(forever));
	for (int i = 0; i < 20; i++) {
		handled = 0;
		CHECK(!setitimer(ITIMER_REAL, &often, NULL));
		CHECK(call(vcpu, KVM_RUN, NULL) == -1 && errno == EINTR);
		CHECK(run->exit_reason == KVM_EXIT_INTR && handled > 0);
		CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	}
	/* Let in by KVM_SET_SIGNAL_MASK alone: it stays pending. */
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	handled = 0;
	CHECK(!sigprocmask(SIG_SETMASK, &blocked, NULL));
	CHECK(!call(vcpu, KVM_SET_SIGNAL_MASK, &inner));
	CHECK(!setitimer(ITIMER_REAL, &soon, NULL));
	CHECK(call(vcpu, KVM_RUN, NULL) == -1 && errno == EINTR && !handled);
	CHECK(!sigprocmask(SIG_SETMASK, &none, NULL) && handled == 1);
	CHECK(!call(vcpu, KVM_SET_SIGNAL_MASK, NULL));
}

/* Memory that goes away under the slot is gone for the guest. */
static void test_memory(void)
{
	/* mov al, [DATA_GPA]; out; jmp */
	static const uint8_t code[] = {0xa0, 0x00, 0x80, 0xe6, PORT, 0xeb, 0xf9};

	memory[DATA_GPA] = 0x11;
	set_code(code, sizeof(code));
	CHECK(!call(vcpu, KVM_RUN, NULL) && ((uint8_t *)run)[run->io.data_offset] == 0x11);
	memory[DATA_GPA] = 0x22;
	CHECK(!call(vcpu, KVM_RUN, NULL) && ((uint8_t *)run)[run->io.data_offset] == 0x22);
	CHECK(!syscall(SYS_munmap, memory + DATA_GPA, PAGE));
	CHECK(call(vcpu, KVM_RUN, NULL) == -1 && errno == EFAULT);
	CHECK(mmap(memory + DATA_GPA, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + DATA_GPA);
	memory[DATA_GPA] = 0x33;
	CHECK(!call(vcpu, KVM_RUN, NULL) && ((uint8_t *)run)[run->io.data_offset] == 0x33);
}

/* A child has EIO from what it inherited, and a KVM of its own. */
static void test_fork(void)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		CHECK(call(vcpu, KVM_RUN, NULL) == -1 && errno == EIO);
		CHECK(call(vm, KVM_CREATE_VCPU, (void *)1) == -1 && errno == EIO);
		open_machine();
		test_exits();
		test_memory();
		_exit(42);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	test_exits();
}

#define ALLOW(number)                                            \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##number, 0, 1), \
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* The client's own filter knows the client's calls alone; the next ones end the process. */
static void test_filter(void)
{
	static const struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    ALLOW(ioctl),
	    ALLOW(mmap),
	    ALLOW(munmap),
	    ALLOW(write),
	    ALLOW(exit_group),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]),
				     (struct sock_filter *)(uintptr_t)filter};
	int status;
	pid_t child = fork();

	if (child == 0) {
		open_machine();
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
		test_exits();
		test_memory();
		_exit(42);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	child = fork();
	if (child == 0) {
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		CHECK(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0L, &program));
		getpid();
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static void *thread_main(void *argument)
{
	test_exits();
	return argument;
}

static void test_thread(void)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, thread_main, NULL));
	CHECK(!pthread_join(thread, NULL));
}

/* What is not KVM's has none. */
static void test_others(void)
{
	int pipe_ends[2];

	CHECK(!pipe(pipe_ends));
	CHECK(call(pipe_ends[0], KVM_GET_API_VERSION, NULL) == -1 && errno == ENOTTY);
	CHECK(call(-1, KVM_GET_API_VERSION, NULL) == -1 && errno == EBADF);
	CHECK(call(vm, 0xabcd, NULL) == -1 && errno == ENOTTY);
	close(pipe_ends[0]);
	CHECK(!close(vcpu) && close(vcpu) == -1 && errno == EBADF);
	CHECK(!close(vm) && !close(kvm));
}

int main(void)
{
	open_machine();
	test_exits();
	test_signals();
	test_memory();
	test_fork();
	test_filter();
	test_thread();
	test_others();
	return 0;
}
