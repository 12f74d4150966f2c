/* Calls by other names than the usual: C's threads, System V's signals and memory, by number. */
#include <aio.h>
#include <poll.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

/* Old programs have these. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

#define GPA 0x10000000ul
#define PAGES 16ul

pid_t _Fork(void);

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static volatile sig_atomic_t handled;

static void slot_make(uint8_t *at)
{
	memory = at;
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_OK(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			.userspace_addr = (uintptr_t)memory));
	for (unsigned long page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
}

/* A call by its instruction, which libc makes none of. */
static long raw(long number, const long arguments[5])
{
	register long fourth __asm__("r10") = arguments[3];
	register long fifth __asm__("r8") = arguments[4];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(arguments[0]), "S"(arguments[1]), "d"(arguments[2]),
			   "r"(fourth), "r"(fifth)
			 : "rcx", "r11", "memory");
	return result;
}
#define RAW(number, ...) raw(number, (const long[5]){__VA_ARGS__})

static int in_thread(void *argument)
{
	guest_store(&vcpu, GPA, 77);
	return argument == &vm ? 5 : 6;
}

static void test_threads_of_c(void)
{
	thrd_t thread;
	int result = 0;

	slot_make(memory_alloc(PAGES * PAGE));
	CHECK_EQ(thrd_create(&thread, in_thread, &vm), thrd_success);
	CHECK_EQ(thrd_join(thread, &result), thrd_success);
	CHECK_EQ(result, 5);
	CHECK_EQ(*word_at(memory, 0), 77);
}

static void count_signal(int signal)
{
	(void)signal;
	handled++;
}

/* System V's functions mean the client's actions and masks, once KVM is in use, too. */
static void test_signals_of_system_v(void)
{
	sigset_t pending, empty;

	slot_make(memory_alloc(PAGES * PAGE));
	CHECK(sigset(SIGWINCH, count_signal) == SIG_DFL);
	CHECK_OK(raise(SIGWINCH));
	CHECK_EQ(handled, 1);
	CHECK(sigset(SIGWINCH, SIG_HOLD) == count_signal);
	CHECK_OK(raise(SIGWINCH));
	CHECK_EQ(handled, 1);
	CHECK_OK(sigpending(&pending));
	CHECK_EQ(sigismember(&pending, SIGWINCH), 1);
	sigemptyset(&empty);
	CHECK_ERR(sigsuspend(&empty), EINTR);
	CHECK_EQ(handled, 2);
	CHECK(sigset(SIGWINCH, count_signal) == SIG_HOLD);
	CHECK_OK(raise(SIGWINCH));
	CHECK_EQ(handled, 3);
	CHECK_OK(sigignore(SIGWINCH));
	CHECK_OK(raise(SIGWINCH));
	CHECK_EQ(handled, 3);
	CHECK_ERR(sigignore(SIGKILL), EINVAL);
	CHECK(signal(SIGKILL, count_signal) == SIG_ERR);
	CHECK(sigset(65, count_signal) == SIG_ERR);
	guest_store(&vcpu, GPA, 3);
	CHECK_EQ(guest_load(&vcpu, GPA), 3);
}

static void *never_run(void *argument)
{
	return argument;
}

/* A handler for once; a signal that there is not; a thread that cannot be. */
static void test_refusals(void)
{
	struct sigaction action;
	pthread_attr_t attributes;
	pthread_t thread;

	slot_make(memory_alloc(PAGES * PAGE));
	handled = 0;
	CHECK(sysv_signal(SIGUSR2, count_signal) == SIG_DFL);
	CHECK_OK(raise(SIGUSR2));
	CHECK_EQ(handled, 1);
	/* The function is gone, what else was asked for stays. */
	CHECK_OK(sigaction(SIGUSR2, NULL, &action));
	CHECK(action.sa_handler == SIG_DFL);
	CHECK_EQ((unsigned int)action.sa_flags & (SA_RESETHAND | SA_NODEFER),
		 SA_RESETHAND | SA_NODEFER);
	CHECK(sysv_signal(SIGUSR2, count_signal) == SIG_DFL);
	CHECK(sysv_signal(0, count_signal) == SIG_ERR && errno == EINVAL);
	CHECK(sigset(0, count_signal) == SIG_ERR && errno == EINVAL);
	CHECK(sigset(SIGKILL, count_signal) == SIG_ERR && errno == EINVAL);
	CHECK(sigset(65, SIG_HOLD) == SIG_ERR && errno == EINVAL);
	CHECK_EQ(pthread_attr_init(&attributes), 0);
	CHECK_EQ(pthread_attr_setstacksize(&attributes, 1ul << 46), 0);
	CHECK_EQ(pthread_create(&thread, &attributes, never_run, NULL), EAGAIN);
	guest_store(&vcpu, GPA, 3);
}

/* Waits with a mask let the handler in, and end by it. */
static void test_waits_with_a_mask(void)
{
	const struct timespec second = {.tv_sec = 1};
	struct sigaction action = {.sa_handler = count_signal};
	struct epoll_event event = {.events = EPOLLIN};
	int fd = eventfd(0, 0), set = epoll_create1(0);
	struct pollfd one = {.fd = fd, .events = POLLIN};
	sigset_t blocked, empty;
	fd_set readable;

	slot_make(memory_alloc(PAGES * PAGE));
	CHECK_OK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
	CHECK_OK(sigaction(SIGUSR1, &action, NULL));
	sigemptyset(&empty);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	CHECK_OK(sigprocmask(SIG_BLOCK, &blocked, NULL));
	FD_ZERO(&readable);
	FD_SET(fd, &readable);
	CHECK_OK(raise(SIGUSR1));
	CHECK_ERR(ppoll(&one, 1, &second, &empty), EINTR);
	CHECK_OK(raise(SIGUSR1));
	CHECK_ERR(pselect(fd + 1, &readable, NULL, NULL, &second, &empty), EINTR);
	CHECK_OK(raise(SIGUSR1));
	CHECK_ERR(epoll_pwait(set, &event, 1, 1000, &empty), EINTR);
	CHECK_OK(raise(SIGUSR1));
	CHECK_ERR(epoll_pwait2(set, &event, 1, &second, &empty), EINTR);
	CHECK_EQ(handled, 4);
	CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &empty));
	CHECK_EQ(sigismember(&empty, SIGUSR1), 1);
}

/* Memory that comes and goes by System V's calls is the guest's as other memory is. */
static void test_shared_segments(void)
{
	int id = shmget(IPC_PRIVATE, PAGES * PAGE, IPC_CREAT | 0600);
	int other = shmget(IPC_PRIVATE, PAGES * PAGE, IPC_CREAT | 0600);
	uint8_t *at = shmat(id, NULL, 0);

	CHECK(id >= 0 && other >= 0 && at != (void *)-1);
	slot_make(at);
	CHECK(shmat(other, at, SHM_REMAP) == at);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	guest_store(&vcpu, GPA, 9);
	CHECK_EQ(*word_at(at, 0), 9);
	CHECK_OK(RAW(SYS_shmdt, (long)at, 0, 0, 0, 0));
	CHECK(guest_try_load(&vcpu, GPA).end != END_DONE);
	CHECK_EQ(RAW(SYS_shmat, id, (long)at, 0, 0, 0), (long)at);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	CHECK_OK(shmdt(at));
	CHECK(guest_try_load(&vcpu, GPA).end != END_DONE);
	CHECK_EQ(RAW(SYS_shmdt, 8, 0, 0, 0, 0), -EINVAL);
	CHECK_OK(shmctl(id, IPC_RMID, NULL));
	CHECK_OK(shmctl(other, IPC_RMID, NULL));
}

/* The program break is memory of a slot. */
static void test_break(void)
{
	uint8_t *start = (uint8_t *)(((uintptr_t)sbrk(0) + PAGE - 1) & -PAGE);

	CHECK_EQ(brk(start + PAGES * PAGE), 0);
	slot_make(start);
	CHECK(sbrk(-(intptr_t)PAGE) != (void *)-1);
	CHECK(guest_try_load(&vcpu, GPA + (PAGES - 1) * PAGE).end != END_DONE);
	CHECK_EQ(brk(start + PAGES * PAGE), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + (PAGES - 1) * PAGE), 0);
	CHECK_EQ(RAW(SYS_brk, (long)(start + PAGE), 0, 0, 0, 0), (long)(start + PAGE));
	CHECK(guest_try_load(&vcpu, GPA + PAGE).end != END_DONE);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	CHECK_EQ(brk(start), 0);
	CHECK(guest_try_load(&vcpu, GPA).end != END_DONE);
}

static void test_memory_by_number(void)
{
	long at;

	slot_make(memory_alloc(PAGES * PAGE));
	at = (long)memory;
	CHECK_EQ(RAW(SYS_madvise, at, PAGE, MADV_DONTNEED, 0, 0), 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(RAW(SYS_mprotect, at, PAGE, PROT_NONE, 0, 0), 0);
	CHECK(guest_try_load(&vcpu, GPA).end != END_DONE);
	CHECK_EQ(RAW(SYS_pkey_mprotect, at, PAGE, PROT_READ | PROT_WRITE, -1, 0), 0);
	guest_store(&vcpu, GPA, 4);
	CHECK_EQ(RAW(SYS_mremap, at + (long)PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at),
		 at);
	CHECK_EQ(guest_load(&vcpu, GPA), 2);
	CHECK(guest_try_load(&vcpu, GPA + PAGE).end != END_DONE);
	CHECK_EQ(RAW(SYS_mprotect, at + 1, PAGE, PROT_READ, 0, 0), -EINVAL);
	CHECK_OK(syscall(SYS_munmap, at, PAGE));
	CHECK(guest_try_load(&vcpu, GPA).end != END_DONE);
}

/* Pages that a userfaultfd puts under a slot by an instruction are the guest's. */
static void test_userfault_by_number(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register whole = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	uint8_t *source = memory_alloc(PAGE);
	struct uffdio_zeropage zero;
	struct uffdio_copy copy;
	long fd = RAW(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0);

	if (fd < 0)
		check_skip("no userfaultfd");
	slot_make(memory_alloc(PAGES * PAGE));
	CHECK_EQ(RAW(SYS_ioctl, fd, (long)UFFDIO_API, (long)&api, 0, 0), 0);
	whole.range.start = (uintptr_t)memory;
	whole.range.len = PAGES * PAGE;
	CHECK_EQ(RAW(SYS_ioctl, fd, (long)UFFDIO_REGISTER, (long)&whole, 0, 0), 0);
	CHECK_OK(madvise(memory, 2 * PAGE, MADV_DONTNEED));
	zero = (struct uffdio_zeropage){.range = {(uintptr_t)memory, PAGE}};
	CHECK_EQ(RAW(SYS_ioctl, fd, (long)UFFDIO_ZEROPAGE, (long)&zero, 0, 0), 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(RAW(SYS_ioctl, fd, (long)UFFDIO_ZEROPAGE, (long)&zero, 0, 0), -EEXIST);
	*word_at(source, 0) = 77;
	copy = (struct uffdio_copy){
	    .dst = (uintptr_t)memory + PAGE, .src = (uintptr_t)source, .len = PAGE};
	CHECK_EQ(RAW(SYS_ioctl, fd, (long)UFFDIO_COPY, (long)&copy, 0, 0), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 77);
	CHECK_EQ(RAW(SYS_ioctl, fd, (long)UFFDIO_COPY, 8, 0, 0), -EFAULT);
	CHECK_OK(close((int)fd));
}

static void test_descriptors_by_number(void)
{
	int fd = open("/dev/null", 0), other;

	slot_make(memory_alloc(PAGES * PAGE));
	other = vm.fd + 100;
	CHECK_EQ(RAW(SYS_dup2, vm.fd, other, 0, 0, 0), other);
	CHECK_EQ(ioctl(other, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	CHECK_EQ(RAW(SYS_dup3, fd, other, 0, 0, 0), other);
	CHECK_ERR(ioctl(other, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), ENOTTY);
	CHECK_EQ(RAW(SYS_dup3, fd, fd, 0, 0, 0), -EINVAL);
	other = (int)CHECK_OK(RAW(SYS_dup, vm.fd, 0, 0, 0, 0));
	CHECK_EQ(ioctl(other, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	CHECK_OK(RAW(SYS_close, other, 0, 0, 0, 0));
	CHECK_EQ(RAW(SYS_close, other, 0, 0, 0, 0), -EBADF);
	CHECK_OK(RAW(SYS_close_range, vcpu.fd, vcpu.fd, 0, 0, 0));
	CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EBADF);
	CHECK_EQ(syscall(SYS_fcntl, vm.fd, F_GETFD), 1);
}

/* Descriptors that the kernel would count among the client's are not there for it. */
static void in_few_numbers(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), taken[64], count = 0;
	struct stat status;

	slot_make(memory_alloc(PAGES * PAGE));
	for (int fd = 32; fd < 64; fd++) {
		if (!fstat(fd, &status))
			continue;
		CHECK_ERR(close(fd), EBADF);
		CHECK_ERR(dup2(fd, 20), EBADF);
		CHECK_EQ(dup2(null, fd), fd);
		taken[count++] = fd;
	}
	CHECK(count > 0);
	/* What was there has moved: a slot's memory, KVM_RUN, the end of a VM. */
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	CHECK_OK(munmap(memory, PAGE));
	CHECK(guest_try_load(&vcpu, GPA).end != END_DONE);
	CHECK_OK(close(vcpu.fd));
	CHECK_OK(close(vm.fd));
	while (count > 0)
		CHECK_OK(close(taken[--count]));
}

static void test_numbers_that_are_taken(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	const struct rlimit few = {64, 64};
	pid_t child;
	int status;

	/* Without the right to pass it there is no number past the limit. */
	CHECK_OK(setrlimit(RLIMIT_NOFILE, &few));
	child = fork();
	if (!child) {
		CHECK_OK(syscall(SYS_capget, &header, data));
		data[0].effective &= ~(1u << CAP_SYS_RESOURCE);
		data[0].permitted &= ~(1u << CAP_SYS_RESOURCE);
		CHECK_OK(syscall(SYS_capset, &header, data));
		in_few_numbers();
		exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
}

/* All from a number on, ours left out: KVM is there anew. */
static void test_all_closed(void)
{
	struct vm own;

	slot_make(memory_alloc(PAGES * PAGE));
	closefrom(3);
	CHECK_ERR(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EBADF);
	vm_open(&own, KVM_X86_DEFAULT_VM);
	CHECK_EQ(ioctl(own.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
}

/* libc's functions beside the calls that they make: one answer for an object, and for a file. */
static void test_functions_and_calls(void)
{
	int files[4];

	slot_make(memory_alloc(PAGES * PAGE));
	files[0] = vm.fd;
	files[1] = vcpu.fd;
	files[2] = vm_gmem(&vm, 4 * PAGE, 0);
	files[3] = memfd_create("a file", 0);
	CHECK_OK(ftruncate(files[3], 4 * PAGE));
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		int fd = files[i];
		const long calls[] = {
		    RAW(SYS_fdatasync, fd, 0, 0, 0, 0),
		    RAW(SYS_fsync, fd, 0, 0, 0, 0),
		    RAW(SYS_sync_file_range, fd, 0, PAGE, 0, 0),
		    RAW(SYS_readahead, fd, 0, PAGE, 0, 0),
		    RAW(SYS_setns, fd, 0, 0, 0, 0),
		    RAW(SYS_fallocate, fd, 0, 0, PAGE, 0),
		};
		const long functions[] = {
		    fdatasync(fd) ? -errno : 0,
		    fsync(fd) ? -errno : 0,
		    sync_file_range(fd, 0, PAGE, 0) ? -errno : 0,
		    readahead(fd, 0, PAGE) ? -errno : 0,
		    setns(fd, 0) ? -errno : 0,
		    -posix_fallocate(fd, 0, PAGE),
		};

		for (size_t c = 0; c < sizeof(calls) / sizeof(calls[0]); c++)
			if (calls[c] != functions[c])
				FAIL("file %zu, call %zu: %ld, function %ld", i, c, calls[c],
				     functions[c]);
	}
	CHECK_EQ(posix_fallocate(files[0], 0, PAGE), ENODEV);
	CHECK_EQ(posix_fallocate(files[2], 0, PAGE), EOPNOTSUPP);
	CHECK_ERR(fsync(files[0]), EINVAL);
}

/* Ways to the device that libc has no functions for any more, and paths of each form. */
static void test_paths_by_number(void)
{
	static const char *const paths[] = {"/dev/kvm", "//dev/./kvm", "kvm", "./kvm",
					    "/dev/../dev/kvm"};
	struct {
		uint64_t flags, mode, resolve;
	} how = {.flags = O_RDWR | O_CLOEXEC};
	struct stat status;
	long fd;

	CHECK_OK(chdir("/dev"));
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		const char *path = paths[i];
		const long opened[] = {
		    syscall(SYS_open, path, O_RDWR),
		    syscall(SYS_open, path, O_RDWR | O_TRUNC),
		    syscall(SYS_creat, path, 0600),
		    syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_NOFOLLOW),
		    syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how)),
		};

		for (size_t o = 0; o < sizeof(opened) / sizeof(opened[0]); o++) {
			if (opened[o] < 0)
				FAIL("%s, way %zu: errno %d", path, o, errno);
			CHECK_EQ(ioctl((int)opened[o], KVM_GET_API_VERSION, 0), 12);
			CHECK_OK(close((int)opened[o]));
		}
		memset(&status, 0, sizeof(status));
		CHECK_OK(syscall(SYS_stat, path, &status));
		CHECK(S_ISCHR(status.st_mode) && status.st_rdev == makedev(10, 232));
		memset(&status, 0, sizeof(status));
		CHECK_OK(syscall(SYS_lstat, path, &status));
		CHECK(S_ISCHR(status.st_mode) && status.st_rdev == makedev(10, 232));
		CHECK_ERR(syscall(SYS_stat, path, 8), EFAULT);
		CHECK_OK(syscall(SYS_access, path, R_OK));
		CHECK_ERR(syscall(SYS_access, path, X_OK), EACCES);
		CHECK_OK(syscall(SYS_faccessat, AT_FDCWD, path, R_OK | W_OK));
		CHECK_ERR(syscall(SYS_faccessat, AT_FDCWD, path, X_OK), EACCES);
		CHECK_OK(syscall(SYS_faccessat2, AT_FDCWD, path, F_OK, 0));
	}
	CHECK_ERR(syscall(SYS_openat2, AT_FDCWD, "kvm", &how, 8), EINVAL);
	CHECK_ERR(syscall(SYS_openat2, AT_FDCWD, "kvm", 8, sizeof(how)), EFAULT);
	CHECK_ERR(syscall(SYS_stat, "/kvm", &status), ENOENT);
	CHECK_OK(chdir("/"));
	CHECK_ERR(syscall(SYS_stat, "kvm", &status), ENOENT);
	fd = CHECK_OK(syscall(SYS_open, "dev/kvm", O_RDWR));
	CHECK_EQ(ioctl((int)fd, KVM_GET_API_VERSION, 0), 12);
}

/* An object by its link in /proc: the status of its descriptor, and nothing to hang attributes on.
 */
static void test_links_by_number(void)
{
	char path[32];
	struct stat by_fd, by_path;
	struct statx extended;
	int files[3];

	slot_make(memory_alloc(PAGES * PAGE));
	files[0] = vm.fd;
	files[1] = vcpu.fd;
	files[2] = vm_gmem(&vm, 4 * PAGE, 0);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		int error;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", files[i]);
		CHECK_OK(fstat(files[i], &by_fd));
		CHECK_OK(syscall(SYS_stat, path, &by_path));
		CHECK_EQ(by_path.st_mode, by_fd.st_mode);
		CHECK_EQ(by_path.st_size, by_fd.st_size);
		CHECK_EQ(by_path.st_nlink, by_fd.st_nlink);
		CHECK_OK(syscall(SYS_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, &extended));
		CHECK_EQ(extended.stx_mode, by_fd.st_mode);
		CHECK_EQ(extended.stx_size, by_fd.st_size);
		error = fsetxattr(files[i], "user.x", "y", 1, 0) ? errno : 0;
		CHECK_EQ(syscall(SYS_setxattr, path, "user.x", "y", 1, 0) ? errno : 0, error);
		error = fremovexattr(files[i], "user.x") ? errno : 0;
		CHECK_EQ(syscall(SYS_removexattr, path, "user.x") ? errno : 0, error);
	}
}

/* Signals by syscall(3): masks and stacks. */
static void test_signals_by_number(void)
{
	const uint64_t mask = UINT64_C(1) << (SIGUSR1 - 1);
	uint64_t now = 0;
	uint8_t room[16384];
	stack_t stack = {.ss_sp = room, .ss_size = sizeof(room)}, seen;
	sigset_t blocked;

	slot_make(memory_alloc(PAGES * PAGE));
	CHECK_EQ(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &now, 8), 0);
	CHECK_EQ(now, 0);
	CHECK_OK(sigprocmask(SIG_BLOCK, NULL, &blocked));
	CHECK_EQ(sigismember(&blocked, SIGUSR1), 1);
	CHECK_EQ(sigismember(&blocked, SIGUSR2), 0);
	CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 4), EINVAL);
	CHECK_ERR(syscall(SYS_rt_sigprocmask, 77, &mask, NULL, 8), EINVAL);
	CHECK_EQ(syscall(SYS_sigaltstack, &stack, NULL), 0);
	CHECK_OK(sigaltstack(NULL, &seen));
	CHECK(seen.ss_sp == room && seen.ss_size == sizeof(room));
	stack.ss_size = 1;
	CHECK_ERR(syscall(SYS_sigaltstack, &stack, NULL), ENOMEM);
}

static int status_of(pid_t child)
{
	int status = -1;

	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

static int child_main(void *argument)
{
	struct vm own;

	(void)argument;
	if (ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) != -1 || errno != EIO)
		return 1;
	vm_open(&own, KVM_X86_DEFAULT_VM);
	return ioctl(own.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) != 1;
}

/* Children past fork(): theirs is EIO, and KVM anew. */
static void test_children(void)
{
	static uint8_t stack[256 << 10] __attribute__((aligned(16)));
	char *const arguments[] = {(char *)"true", NULL};
	pid_t child;

	slot_make(memory_alloc(PAGES * PAGE));
	child = _Fork();
	if (!child)
		_exit(child_main(NULL));
	CHECK_EQ(status_of(child), 0);
	CHECK_EQ(status_of(clone(child_main, stack + sizeof(stack), SIGCHLD, NULL)), 0);
	child = (pid_t)RAW(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!child)
		_exit(child_main(NULL));
	CHECK_EQ(status_of(child), 0);
	child = fork();
	if (!child) {
		syscall(SYS_execve, "/bin/true", arguments, environ);
		_exit(9);
	}
	CHECK_EQ(status_of(child), 0);
	child = fork();
	if (!child) {
		syscall(SYS_execveat, AT_FDCWD, "/bin/true", arguments, environ, 0);
		_exit(9);
	}
	CHECK_EQ(status_of(child), 0);
	guest_store(&vcpu, GPA, 8);
	CHECK_EQ(guest_load(&vcpu, GPA), 8);
}

static sem_t told;

static void tell(union sigval value)
{
	if (value.sival_int == 3)
		sem_post(&told);
}

/* A request on an object ends at once, with KVM's error, and tells by the way that was asked for.
 */
static void test_requests_that_tell(void)
{
	struct sigaction action = {.sa_handler = count_signal};
	char byte;
	struct aiocb request = {.aio_buf = &byte, .aio_nbytes = 1};
	struct aiocb *const list[] = {&request};

	slot_make(memory_alloc(PAGES * PAGE));
	CHECK_OK(sem_init(&told, 0, 0));
	CHECK_OK(sigaction(SIGUSR2, &action, NULL));
	request.aio_fildes = vm.fd;
	request.aio_sigevent = (struct sigevent){.sigev_notify = SIGEV_THREAD,
						 .sigev_notify_function = tell,
						 .sigev_value.sival_int = 3};
	CHECK_OK(aio_read(&request));
	CHECK_OK(sem_wait(&told));
	CHECK_EQ(aio_error(&request), EINVAL);
	CHECK_EQ(aio_return(&request), -1);
	request.aio_sigevent =
	    (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	request.aio_lio_opcode = LIO_WRITE;
	CHECK(lio_listio(LIO_WAIT, list, 1, NULL) == -1 && errno == EIO);
	for (int i = 0; i < 20000 && !handled; i++)
		usleep(1000);
	CHECK_EQ(handled, 1);
	CHECK_EQ(aio_error(&request), EINVAL);
	CHECK_OK(aio_fsync(O_SYNC, &request));
	CHECK_EQ(aio_error(&request), EINVAL);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_threads_of_c),
	    TEST(test_signals_of_system_v),
	    TEST(test_refusals),
	    TEST(test_waits_with_a_mask),
	    TEST(test_shared_segments),
	    TEST(test_break),
	    TEST(test_memory_by_number),
	    TEST(test_children),
	    TEST(test_descriptors_by_number),
	    TEST(test_userfault_by_number),
	    TEST(test_requests_that_tell),
	    TEST(test_numbers_that_are_taken),
	    TEST(test_all_closed),
	    TEST(test_functions_and_calls),
	    TEST(test_signals_by_number),
	    TEST(test_paths_by_number),
	    TEST(test_links_by_number),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
