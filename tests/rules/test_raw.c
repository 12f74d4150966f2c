/*
 * A client that makes its system calls by an instruction of its own: all that a guest needs, and
 * what such calls do to signals, threads and processes. Run as a dynamic program and as a static
 * one.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

/* Inlined: a child of vfork() may not return from the function that made it. */
__attribute__((always_inline)) static inline long raw_six(long nr, const long args[6])
{
	register long fourth __asm__("r10") = args[3];
	register long fifth __asm__("r8") = args[4];
	register long sixth __asm__("r9") = args[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(nr), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(fourth),
			   "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
}
#define RAW(nr, ...) raw_six(nr, (const long[6]){__VA_ARGS__})
#define RAW_IOCTL(fd, command, argument) RAW(SYS_ioctl, fd, command, (long)(argument))

#define SHARED (MAP_SHARED | MAP_ANONYMOUS)
#define WRITABLE (PROT_READ | PROT_WRITE)

struct machine {
	int kvm, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
};

/* mov 0x2000, %al; out %al, $0x10; jmp to the first. In real mode. */
static const uint8_t guest[] = {0xa0, 0x00, 0x20, 0xe6, 0x10, 0xeb, 0xf9};

static void raw_machine(struct machine *machine)
{
	struct kvm_userspace_memory_region region = {.memory_size = 4 * PAGE};
	struct kvm_regs registers = {.rflags = 2};
	struct kvm_sregs system;
	long bytes;

	machine->kvm = (int)RAW(SYS_openat, AT_FDCWD, (long)"/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(machine->kvm >= 0);
	CHECK_EQ(RAW_IOCTL(machine->kvm, KVM_GET_API_VERSION, 0), 12);
	machine->vm = (int)RAW_IOCTL(machine->kvm, KVM_CREATE_VM, 0);
	CHECK(machine->vm >= 0);
	machine->memory = (uint8_t *)RAW(SYS_mmap, 0, 4 * PAGE, WRITABLE, SHARED, -1);
	memcpy(machine->memory, guest, sizeof(guest));
	region.userspace_addr = (uintptr_t)machine->memory;
	CHECK_EQ(RAW_IOCTL(machine->vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	machine->vcpu = (int)RAW_IOCTL(machine->vm, KVM_CREATE_VCPU, 0);
	bytes = RAW_IOCTL(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	machine->run =
	    (struct kvm_run *)RAW(SYS_mmap, 0, bytes, WRITABLE, MAP_SHARED, machine->vcpu);
	CHECK_EQ(RAW_IOCTL(machine->vcpu, KVM_GET_SREGS, &system), 0);
	system.cs.base = system.cs.selector = 0;
	CHECK_EQ(RAW_IOCTL(machine->vcpu, KVM_SET_SREGS, &system), 0);
	CHECK_EQ(RAW_IOCTL(machine->vcpu, KVM_SET_REGS, &registers), 0);
}

/* What the guest finds at 0x2000; -errno of KVM_RUN. */
static long guest_sees(const struct machine *machine)
{
	long result = RAW_IOCTL(machine->vcpu, KVM_RUN, 0);

	if (result)
		return result;
	CHECK_EQ(machine->run->exit_reason, KVM_EXIT_IO);
	return *((uint8_t *)machine->run + machine->run->io.data_offset);
}

static void test_a_guest(void)
{
	static struct machine machine;
	uint8_t *page;

	raw_machine(&machine);
	page = machine.memory + 2 * PAGE;
	*page = 7;
	CHECK_EQ(guest_sees(&machine), 7);
	CHECK_EQ(RAW(SYS_munmap, (long)page, PAGE), 0);
	CHECK_EQ(guest_sees(&machine), -EFAULT);
	CHECK_EQ(RAW(SYS_mmap, (long)page, PAGE, WRITABLE, SHARED | MAP_FIXED, -1), (long)page);
	*page = 8;
	CHECK_EQ(guest_sees(&machine), 8);
	CHECK_EQ(RAW(SYS_mprotect, (long)page, PAGE, PROT_NONE), 0);
	CHECK_EQ(guest_sees(&machine), -EFAULT);
	CHECK_EQ(RAW(SYS_mprotect, (long)page, PAGE, PROT_READ), 0);
	CHECK_EQ(guest_sees(&machine), 8);
}

static void test_descriptors(void)
{
	static struct machine machine;
	int fd;

	raw_machine(&machine);
	fd = (int)RAW(SYS_dup, machine.vm);
	CHECK(RAW_IOCTL(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0);
	CHECK_EQ(RAW(SYS_close, fd), 0);
	CHECK_EQ(RAW_IOCTL(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), -EBADF);
	CHECK_EQ(RAW(SYS_dup2, machine.vcpu, fd), fd);
	CHECK_EQ(RAW_IOCTL(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), -EINVAL);
	/* What was the vCPU is the VM now, and the other way round by libc's functions. */
	CHECK_EQ(RAW(SYS_dup3, machine.vm, fd, O_CLOEXEC), fd);
	CHECK(ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0);
	CHECK_EQ(RAW(SYS_close_range, fd, fd, 0), 0);
	CHECK(ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == -1 && errno == EBADF);
}

static int status_of(long child)
{
	int status;

	CHECK(child > 0);
	CHECK_EQ(waitpid((pid_t)child, &status, 0), child);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_processes(void)
{
	static char *const argv[] = {(char *)"sh", (char *)"-c", (char *)"exit 5", NULL};
	static char *const none[] = {NULL};
	static struct machine machine;
	long child;

	raw_machine(&machine);
	for (int number = 0; number < 3; number++) {
		static const long calls[] = {SYS_fork, SYS_clone, SYS_vfork};
		long answer;

		child = RAW(calls[number], number == 1 ? SIGCHLD : 0);
		if (!child) {
			answer = RAW_IOCTL(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY);
			RAW(SYS_exit_group, answer == -EIO ? 4 : answer > 0 ? 3 : 9);
		}
		/* The last has the memory of the VM's process. */
		CHECK_EQ(status_of(child), number == 2 ? 3 : 4);
	}
	child = RAW(SYS_vfork);
	if (!child) {
		RAW(SYS_execve, (long)"/bin/sh", (long)argv, (long)none);
		RAW(SYS_exit_group, 9);
	}
	CHECK_EQ(status_of(child), 5);
	CHECK_EQ(guest_sees(&machine), 0);
}

/* struct clone_args, by words. */
enum { CLONE3_FLAGS, CLONE3_SIGNAL = 4, CLONE3_STACK, CLONE3_STACK_BYTES, CLONE3_WORDS = 11 };

/* Containers' filters refuse clone3, for they cannot look at its flags. */
static bool has_clone3(void)
{
	const uint64_t words[CLONE3_WORDS] = {[CLONE3_FLAGS] = UINT64_C(1) << 60};

	return RAW(SYS_clone3, (long)words, sizeof(words)) != -ENOSYS;
}

/* clone3: what its size may be, and a child like that of fork(). */
static void test_clone3(void)
{
	static const struct {
		long bytes, answer;
	} rows[] = {{63, -EINVAL}, {0, -EINVAL}, {8192, -E2BIG}, {64, 0}, {88, 0}};
	uint64_t words[CLONE3_WORDS] = {[CLONE3_SIGNAL] = SIGCHLD};
	static struct machine machine;

	if (!has_clone3())
		check_skip("clone3 is refused");
	raw_machine(&machine);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		long child = RAW(SYS_clone3, (long)words, rows[i].bytes);

		if (!child) {
			long answer = RAW_IOCTL(machine.vm, KVM_CHECK_EXTENSION, 0);

			RAW(SYS_exit_group, answer == -EIO ? 4 : 9);
		}
		if (rows[i].answer)
			CHECK_EQ(child, rows[i].answer);
		else
			CHECK_EQ(status_of(child), 4);
	}
	CHECK_EQ(RAW(SYS_clone3, 8, 88), -EFAULT);
	words[CLONE3_FLAGS] = UINT64_C(1) << 60;
	CHECK_EQ(RAW(SYS_clone3, (long)words, 88), -EINVAL);
	CHECK_EQ(guest_sees(&machine), 0);
}

/* A thread without libc: it has its creator's memory, and ends itself. */
static uint32_t stranger_word;
__attribute__((used)) static void stranger(void)
{
	__atomic_store_n(&stranger_word, 1, __ATOMIC_RELEASE);
	for (;;)
		RAW(SYS_exit, 0);
}

__attribute__((noinline)) static long start_by(long number, long first, long second)
{
	register long fourth __asm__("r10") = 0;
	register long fifth __asm__("r8") = 0;
	long result;

	__asm__ volatile("syscall\n\t"
			 "testq %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "call *%4\n"
			 "1:"
			 : "=a"(result)
			 : "0"(number), "D"(first), "S"(second), "b"(stranger), "d"(0l),
			   "r"(fourth), "r"(fifth)
			 : "rcx", "r11", "memory");
	return result;
}

#define STACK_WORDS 8192u
static uint64_t stack[STACK_WORDS] __attribute__((aligned(16)));

static long start_stranger(long flags)
{
	return start_by(SYS_clone, flags, (long)(stack + STACK_WORDS - 64));
}

static long start_by_clone3(uint64_t flags)
{
	uint64_t words[CLONE3_WORDS] = {
	    [CLONE3_FLAGS] = flags,
	    [CLONE3_SIGNAL] = SIGCHLD,
	    [CLONE3_STACK] = (uintptr_t)stack,
	    [CLONE3_STACK_BYTES] = sizeof(stack) - 512,
	};

	return start_by(SYS_clone3, (long)words, sizeof(words));
}

/* Children on a stack of their own: with their parent's memory, and with a copy. */
static void test_children_on_other_stacks(void)
{
	CHECK_EQ(status_of(start_stranger(SIGCHLD)), 0);
	CHECK_EQ(stranger_word, 0);
	CHECK_EQ(status_of(start_stranger(SIGCHLD | CLONE_VM | CLONE_VFORK)), 0);
	CHECK_EQ(stranger_word, 1);
	if (!has_clone3())
		return;
	stranger_word = 0;
	CHECK_EQ(status_of(start_by_clone3(0)), 0);
	CHECK_EQ(stranger_word, 0);
	CHECK_EQ(status_of(start_by_clone3(CLONE_VM | CLONE_VFORK)), 0);
	CHECK_EQ(stranger_word, 1);
}

static void test_a_thread_without_libc(void)
{
	CHECK(start_stranger(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			     CLONE_SYSVSEM) > 0);
	for (int tries = 0; tries < 5000 && !__atomic_load_n(&stranger_word, __ATOMIC_ACQUIRE);
	     tries++)
		usleep(1000);
	CHECK_EQ(stranger_word, 1);
}

/* ---- Signals: a trap with SIGSYS blocked or ignored would kill ---- */

static volatile long handled;

static void on_signal(int signal)
{
	(void)signal;
	handled = RAW(SYS_getpid);
}

static void *blocks_all(void *unused)
{
	sigset_t all, now;

	(void)unused;
	sigfillset(&all);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &all, NULL), 0);
	CHECK_EQ(RAW(SYS_getpid), getpid());
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &now), 0);
	CHECK_EQ(sigismember(&now, SIGSYS), 1);
	CHECK_EQ(sigismember(&now, SIGUSR1), 1);
	return NULL;
}

static void test_masks(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	uint64_t all = ~UINT64_C(0), none = 0, now;
	sigset_t almost;
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, blocks_all, NULL), 0);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	/* By the instruction. */
	CHECK_EQ(RAW(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, 8), 0);
	CHECK_EQ(RAW(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&now, 8), 0);
	CHECK_EQ(now, all & ~(UINT64_C(1) << (SIGKILL - 1)) & ~(UINT64_C(1) << (SIGSTOP - 1)));
	CHECK_EQ(RAW(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, 8), 0);
	CHECK_EQ(RAW(SYS_rt_sigprocmask, SIG_SETMASK, 0, 0, 4), -EINVAL);
	/* In a handler, and in one that a wait lets in. */
	sigfillset(&action.sa_mask);
	CHECK_OK(sigaction(SIGUSR1, &action, NULL));
	raise(SIGUSR1);
	CHECK_EQ(handled, getpid());
	handled = 0;
	sigfillset(&almost);
	CHECK_OK(sigprocmask(SIG_SETMASK, &almost, NULL));
	raise(SIGUSR1);
	sigdelset(&almost, SIGUSR1);
	CHECK(sigsuspend(&almost) == -1 && errno == EINTR);
	CHECK_EQ(handled, getpid());
}

/* Waits that take a mask, by the instruction: it is in force meanwhile, with SIGSYS in it, too. */
static void test_waits_with_a_mask(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	const struct timespec none = {0};
	uint64_t mask = ~(UINT64_C(1) << (SIGUSR1 - 1));
	const struct {
		const void *mask;
		size_t bytes;
	} pair = {&mask, 8}, nothing = {NULL, 8}, nowhere = {(void *)8, 8}, short_one = {&mask, 4};
	sigset_t blocked;

	CHECK_OK(sigaction(SIGUSR1, &action, NULL));
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	CHECK_OK(sigprocmask(SIG_BLOCK, &blocked, NULL));
	raise(SIGUSR1);
	handled = 0;
	CHECK_EQ(RAW(SYS_pselect6, 0, 0, 0, 0, (long)&none, (long)&nothing), 0);
	CHECK_EQ(handled, 0);
	CHECK_EQ(RAW(SYS_pselect6, 0, 0, 0, 0, (long)&none, (long)&short_one), -EINVAL);
	CHECK_EQ(RAW(SYS_pselect6, 0, 0, 0, 0, (long)&none, (long)&nowhere), -EFAULT);
	CHECK_EQ(RAW(SYS_pselect6, 0, 0, 0, 0, (long)&none, 8), -EFAULT);
	CHECK_EQ(handled, 0);
	CHECK_EQ(RAW(SYS_pselect6, 0, 0, 0, 0, (long)&none, (long)&pair), -EINTR);
	CHECK_EQ(handled, getpid());
	raise(SIGUSR1);
	handled = 0;
	CHECK_EQ(RAW(SYS_ppoll, 0, 0, (long)&none, (long)&mask, 8), -EINTR);
	CHECK_EQ(handled, getpid());
	CHECK_EQ(RAW(SYS_ppoll, 0, 0, (long)&none, 8, 8), -EFAULT);
}

static volatile int seen_code;

static void on_sigsys(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	seen_code = info->si_code;
	handled = RAW(SYS_getpid);
}

/* The client's own SIGSYS: default, ignored, a handler. */
static void test_own_sigsys(void)
{
	struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO}, old;
	pid_t child = fork();
	int status;

	if (child == 0) {
		RAW(SYS_kill, getpid(), SIGSYS);
		_exit(1);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	CHECK(signal(SIGSYS, SIG_IGN) == SIG_DFL);
	CHECK_EQ(RAW(SYS_kill, getpid(), SIGSYS), 0);
	CHECK_OK(sigaction(SIGSYS, &action, &old));
	CHECK(old.sa_handler == SIG_IGN);
	seen_code = 1;
	CHECK_OK(raise(SIGSYS));
	CHECK_EQ(seen_code, SI_TKILL);
	CHECK_EQ(handled, getpid());
	CHECK_OK(sigaction(SIGSYS, NULL, &old));
	CHECK(old.sa_sigaction == on_sigsys);
}

/* An action with a return of the client's own, as a program without libc sets it. */
void raw_return(void);
__asm__(".pushsection .text\n"
	"raw_return:\n\tmovl $15, %eax\n\tsyscall\n\thlt\n"
	".popsection");

static void test_own_return(void)
{
	const struct {
		uint64_t handler, flags, restorer, mask;
	} action = {(uintptr_t)on_signal, 0x04000000 /* SA_RESTORER */, (uintptr_t)raw_return, 0};
	uint8_t room[16384];
	stack_t stack = {.ss_sp = room, .ss_size = sizeof(room)}, now;

	CHECK_EQ(RAW(SYS_rt_sigaction, SIGUSR2, (long)&action, 0, 8), 0);
	for (int times = 1; times <= 3; times++) {
		handled = 0;
		CHECK_EQ(RAW(SYS_tgkill, getpid(), getpid(), SIGUSR2), 0);
		CHECK_EQ(handled, getpid());
	}
	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 0), 0);
	CHECK_EQ(RAW(SYS_sigaltstack, 0, (long)&now), 0);
	CHECK(now.ss_sp == room && now.ss_size == sizeof(room));
	stack.ss_flags = SS_DISABLE;
	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 0), 0);
}

static uint8_t *closed;
static volatile long own_faults;

static void on_own_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	own_faults += info->si_addr == closed;
	if (RAW(SYS_mprotect, (long)closed, PAGE, PROT_READ))
		_exit(9);
}

/* By syscall(3): a guest's access is KVM_RUN's to answer, the client's own is its handler's. */
static void test_an_action_by_its_number(void)
{
	const struct {
		uint64_t handler, flags, restorer, mask;
	} action = {(uintptr_t)on_own_fault, 0x04000000 /* SA_RESTORER */ | SA_SIGINFO,
		    (uintptr_t)raw_return, 0};
	static struct machine machine;
	struct sigaction before;
	uint64_t old[4];

	raw_machine(&machine);
	closed = machine.memory + 2 * PAGE;
	*closed = 7;
	CHECK_OK(sigaction(SIGSEGV, NULL, &before));
	CHECK_ZERO(syscall(SYS_rt_sigaction, SIGSEGV, &action, old, 8));
	CHECK_EQ(old[0], (uintptr_t)before.sa_sigaction);
	CHECK_EQ(RAW(SYS_mprotect, (long)closed, PAGE, PROT_NONE), 0);
	CHECK_EQ(guest_sees(&machine), -EFAULT);
	CHECK_EQ(own_faults, 0);
	CHECK_EQ(*(volatile uint8_t *)closed, 7);
	CHECK_EQ(own_faults, 1);
	CHECK_EQ(guest_sees(&machine), 7);
	CHECK(syscall(SYS_rt_sigaction, SIGSEGV, NULL, NULL, 4) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_rt_sigaction, SIGSEGV, 8, NULL, 8) == -1 && errno == EFAULT);
}

/* A handler for once: the function goes, and the rest of the action stays. */
static void test_once(void)
{
	struct {
		uint64_t handler, flags, restorer, mask;
	} action = {(uintptr_t)on_signal, 0x84000000u /* SA_RESETHAND, SA_RESTORER */,
		    (uintptr_t)raw_return, 0x200};
	static struct machine machine;

	raw_machine(&machine);
	CHECK_EQ(RAW(SYS_rt_sigaction, SIGUSR2, (long)&action, 0, 8), 0);
	handled = 0;
	CHECK_EQ(RAW(SYS_tgkill, getpid(), getpid(), SIGUSR2), 0);
	CHECK_EQ(handled, getpid());
	memset(&action, 0xff, sizeof(action));
	CHECK_EQ(RAW(SYS_rt_sigaction, SIGUSR2, 0, (long)&action, 8), 0);
	CHECK_EQ(action.handler, 0);
	CHECK_EQ(action.flags & 0x80000000u, 0x80000000u);
	CHECK_EQ(action.mask, 0x200);
}

/* The new stack is in force before the kernel finds that it cannot tell the old one. */
static void test_stack_told_to_a_bad_place(void)
{
	uint8_t room[2][16384];
	stack_t stack = {.ss_sp = room[1], .ss_size = sizeof(room[0])}, now;

	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 0), 0);
	stack.ss_sp = room[0];
	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 8), -EFAULT);
	CHECK_EQ(RAW(SYS_sigaltstack, 0, (long)&now), 0);
	CHECK(now.ss_sp == room[0] && now.ss_size == sizeof(room[0]));
	stack.ss_sp = room[1];
	CHECK(sigaltstack(&stack, (stack_t *)8) == -1 && errno == EFAULT);
	CHECK_ZERO(sigaltstack(NULL, &now));
	CHECK(now.ss_sp == room[1]);
	CHECK_EQ(RAW(SYS_sigaltstack, 8, (long)&now), -EFAULT);
	stack.ss_size = 1;
	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 8), -ENOMEM);
	stack.ss_flags = 77;
	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 8), -EINVAL);
	CHECK_ZERO(sigaltstack(NULL, &now));
	CHECK(now.ss_sp == room[1] && now.ss_size == sizeof(room[1]));
	stack.ss_flags = SS_DISABLE;
	CHECK_EQ(RAW(SYS_sigaltstack, (long)&stack, 0), 0);
}

static int count_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	CHECK(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static int ends_at_once(void *argument)
{
	(void)argument;
	return 0;
}

/* A child that shares the descriptors, and not the memory, closes none of those that we hold. */
static void test_children_that_share_descriptors(void)
{
	const uint64_t clone3[11] = {CLONE_FILES, [4] = SIGCHLD};
	static uint8_t stack[65536] __attribute__((aligned(16)));
	static struct machine machine;
	int before, status;
	long child = 0;

	raw_machine(&machine);
	before = count_descriptors();
	for (int way = 0; way < 4; way++) {
		if (way == 0)
			child = RAW(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
		else if (way == 1)
			child = RAW(SYS_clone3, (long)clone3, sizeof(clone3));
		else if (way == 2)
			child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
		else
			child =
			    clone(ends_at_once, stack + sizeof(stack), CLONE_FILES | SIGCHLD, NULL);
		if (child == -ENOSYS)
			continue;
		if (!child)
			_exit(0);
		CHECK_EQ(waitpid((pid_t)child, &status, 0), child);
		CHECK_EQ(status, 0);
		CHECK_EQ(count_descriptors(), before);
	}
}

/* The kernel takes a word where libc's functions take an int, and refuses what it does not know. */
static void test_words_are_not_cut(void)
{
	const long high = 1l << 32, allowed = high | PROT_READ;
	static struct machine machine;
	long page;

	raw_machine(&machine);
	machine.memory[2 * PAGE] = 9;
	page = (long)machine.memory + 2 * PAGE;
	CHECK_EQ(RAW(SYS_mprotect, page, PAGE, allowed), -EINVAL);
	CHECK_EQ(RAW(SYS_mprotect, page, -PAGE, allowed), -ENOMEM);
	CHECK_EQ(RAW(SYS_mprotect, page, 0, allowed), 0);
	CHECK_EQ(RAW(SYS_pkey_mprotect, page, PAGE, allowed, -1), -EINVAL);
	CHECK_EQ(RAW(SYS_mremap, page, PAGE, PAGE, high | MREMAP_MAYMOVE), -EINVAL);
	CHECK_EQ(RAW(SYS_remap_file_pages, page, PAGE, high, 0, 0), -EINVAL);
	CHECK(syscall(SYS_mprotect, page, PAGE, allowed) == -1 && errno == EINVAL);
	CHECK_EQ(guest_sees(&machine), 9);
}

/*
 * A signal ends a wait that was entered by the instruction, and KVM_RUN. It comes again until the
 * wait is over: the first may come before it has begun.
 */
static uint32_t wait_is_over;

static void *kicks(void *opaque)
{
	pthread_t *thread = opaque;

	while (!__atomic_load_n(&wait_is_over, __ATOMIC_SEQ_CST)) {
		usleep(2000);
		pthread_kill(*thread, SIGUSR1);
	}
	return NULL;
}

static void kicks_begin(pthread_t *thread, pthread_t *self)
{
	handled = 0;
	wait_is_over = 0;
	CHECK_EQ(pthread_create(thread, NULL, kicks, self), 0);
}

static void kicks_end(pthread_t thread)
{
	__atomic_store_n(&wait_is_over, 1, __ATOMIC_SEQ_CST);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	CHECK_EQ(handled, getpid());
}

static void test_waits_end(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	pthread_t self = pthread_self(), thread;
	static struct machine machine;
	int pipes[2];
	char byte;

	raw_machine(&machine);
	memcpy(machine.memory, "\xeb\xfe", 2);
	CHECK_OK(sigaction(SIGUSR1, &action, NULL));
	CHECK_OK(pipe(pipes));
	kicks_begin(&thread, &self);
	CHECK_EQ(RAW(SYS_read, pipes[0], (long)&byte, 1), -EINTR);
	kicks_end(thread);
	kicks_begin(&thread, &self);
	CHECK_EQ(RAW_IOCTL(machine.vcpu, KVM_RUN, 0), -EINTR);
	kicks_end(thread);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_a_guest),
	    TEST(test_descriptors),
	    TEST(test_processes),
	    TEST(test_a_thread_without_libc),
	    TEST(test_masks),
	    TEST(test_own_sigsys),
	    TEST(test_own_return),
	    TEST(test_stack_told_to_a_bad_place),
	    TEST(test_words_are_not_cut),
	    TEST(test_children_that_share_descriptors),
	    TEST(test_waits_end),
	    TEST(test_clone3),
	    TEST(test_children_on_other_stacks),
	    TEST(test_waits_with_a_mask),
	    TEST(test_once),
	    TEST(test_an_action_by_its_number),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
