/* Descriptors of ours behave as the kernel's: numbers, lifetimes, fork, errors of each call. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/preload/check.h"
#include "tests/preload/fake_frontend.h"

static int kvm;

static struct fake_counts counts(void)
{
	struct fake_counts now;

	CHECK(!ioctl(kvm, FAKE_COUNTS, &now));
	return now;
}

static int create(enum fake_command kind, unsigned long size_bytes)
{
	int fd = ioctl(kvm, kind, size_bytes);

	CHECK(fd >= 0);
	return fd;
}

static void test_device(void)
{
	struct stat status;
	int fd, lowest = dup(0);

	close(lowest);
	CHECK(!stat("/dev/kvm", &status) && S_ISCHR(status.st_mode));
	CHECK(major(status.st_rdev) == 10 && minor(status.st_rdev) == 232);
	CHECK(!access("/dev/kvm", R_OK | W_OK));
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(fd == lowest);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK(!close(fd));
	fd = open("/dev/kvm", O_RDWR);
	CHECK(fd == lowest && fcntl(fd, F_GETFD) == 0);
	CHECK_FAILS(ioctl(fd, 0xaeff, 0), ENOTTY);
	CHECK(!close(fd));
	CHECK_FAILS(close(fd), EBADF);
}

static void test_lifetime(void)
{
	uint64_t before = counts().releases;
	int fd = create(FAKE_CREATE, 4096), other;
	void *mapping;

	other = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	CHECK(!close(fd) && counts().releases == before);
	CHECK(ioctl(other, FAKE_SPLIT, 0) == 1);
	CHECK(!close(other) && counts().releases == before + 1);

	fd = create(FAKE_CREATE, 4096);
	mapping = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapping != MAP_FAILED);
	CHECK(!close(fd) && counts().releases == before + 1);
	mapping = mremap(mapping, 4096, 8192, MREMAP_MAYMOVE);
	CHECK(mapping != MAP_FAILED && counts().releases == before + 1);
	CHECK(!munmap(mapping, 8192) && counts().releases == before + 2);

	fd = create(FAKE_CREATE, 4096);
	other = open("/dev/null", O_RDONLY);
	CHECK(dup2(other, fd) == fd && counts().releases == before + 3);
	CHECK(!close(fd) && !close(other));
}

static void test_own_mapping(void)
{
	uint64_t before = counts().releases;
	int fd = create(FAKE_CREATE_MEMORY, 8192);
	char *mapping = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), seen = 0;

	CHECK(mapping != MAP_FAILED);
	mapping[0] = 'q';
	CHECK(!ioctl(fd, FAKE_PEEK, &seen) && seen == 'q');
	CHECK(!munmap(mapping, 8192) && counts().releases == before);
	CHECK(!close(fd) && counts().releases == before + 1);
}

static void in_child(int fd)
{
	int own, status;

	CHECK_FAILS(ioctl(fd, FAKE_SPLIT, 0), EIO);
	close(fd);
	own = open("/dev/kvm", O_RDWR);
	CHECK(own >= 0 && ioctl(own, FAKE_SPLIT, 0) == 1);
	status = ioctl(own, FAKE_CREATE, 4096);
	CHECK(status >= 0 && !close(status));
}

static void test_fork(void)
{
	uint64_t before = counts().releases;
	int fd = create(FAKE_CREATE, 4096), gate[2], status;
	char byte;
	pid_t child;

	CHECK(!pipe(gate));
	child = fork();
	if (child == 0) {
		in_child(fd);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(counts().releases == before);
	CHECK(ioctl(fd, FAKE_SPLIT, 0) == 1);
	/* A child that still holds it keeps it, as the kernel would. */
	child = fork();
	if (child == 0) {
		close(gate[1]);
		(void)!read(gate[0], &byte, 1);
		_exit(0);
	}
	CHECK(!close(fd) && counts().releases == before);
	close(gate[1]);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	close(create(FAKE_CREATE, 4096));
	CHECK(counts().releases == before + 2);
	close(gate[0]);
}

static void test_close_range(void)
{
	uint64_t before = counts().releases;
	int fd[3];

	for (int i = 0; i < 3; i++)
		fd[i] = create(FAKE_CREATE, 4096);
	CHECK(!close_range((unsigned int)fd[1], ~0u, 0));
	CHECK(counts().releases == before + 2);
	CHECK(ioctl(fd[0], FAKE_SPLIT, 0) == 1);
	CHECK(!close(fd[0]) && counts().releases == before + 3);
}

#define ENDING_FILES 300

/* What ends all of them: mapped one behind the other, or numbered so. True: the call was made. */
struct many_ends {
	char *mapped;
	int first, last;
};

static bool end_by_close_range(const struct many_ends *files)
{
	return !close_range((unsigned int)files->first, (unsigned int)files->last, 0);
}

static bool end_by_munmap(const struct many_ends *files)
{
	return !munmap(files->mapped, ENDING_FILES * 4096ul);
}

static bool end_by_mmap(const struct many_ends *files)
{
	return mmap(files->mapped, ENDING_FILES * 4096ul, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == files->mapped;
}

static bool end_by_mremap(const struct many_ends *files)
{
	size_t bytes = ENDING_FILES * 4096ul;
	void *other = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mremap(other, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, files->mapped) ==
	       files->mapped;
}

static bool end_by_shmat(const struct many_ends *files)
{
	int segment = shmget(IPC_PRIVATE, ENDING_FILES * 4096ul, IPC_CREAT | 0600);
	bool attached = shmat(segment, files->mapped, SHM_REMAP) == files->mapped;

	return !shmctl(segment, IPC_RMID, NULL) && attached;
}

static struct many_ends create_many(void)
{
	struct many_ends files = {.last = -1};

	files.mapped =
	    mmap(NULL, ENDING_FILES * 4096ul, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(files.mapped != MAP_FAILED);
	files.first = create(FAKE_CREATE_SLOW, 0);
	for (int i = 1; i < ENDING_FILES; i++)
		files.last = create(FAKE_CREATE_SLOW, 0);
	CHECK(files.last == files.first + ENDING_FILES - 1);
	return files;
}

/* The mappings are the last references. */
static void leave_mappings(const struct many_ends *files)
{
	for (int i = 0; i < ENDING_FILES; i++) {
		char *place = files->mapped + i * 4096l;

		CHECK(mmap(place, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, files->first + i, 0) ==
		      place);
		CHECK(!close(files->first + i));
	}
}

static void test_ends_beside_a_collector(bool (*end)(const struct many_ends *files))
{
	enum { ROUNDS = 4 };
	int late = 0;

	for (int round = 0; round < ROUNDS; round++) {
		struct many_ends files = create_many();
		uint64_t released = counts().releases;

		if (end != end_by_close_range)
			leave_mappings(&files);
		CHECK(counts().releases == released);
		CHECK(end(&files));
		late += counts().releases != released + ENDING_FILES;
		for (int i = 0; counts().releases != released + ENDING_FILES && i < 2000; i++)
			usleep(1000);
		if (end == end_by_shmat)
			CHECK(!shmdt(files.mapped));
		else
			CHECK(!munmap(files.mapped, ENDING_FILES * 4096ul));
	}
	CHECK(late == 0);
}

/* A thread of ours waits for the end of a file that a child has, and so notices other ends, too. */
static void test_ends_beside_a_child(void)
{
	static bool (*const ways[])(const struct many_ends *files) = {
	    end_by_close_range, end_by_munmap, end_by_mmap, end_by_mremap, end_by_shmat};
	int other = create(FAKE_CREATE, 0), status;
	pid_t child = fork();
	uint64_t released;

	if (child == 0) {
		pause();
		_exit(0);
	}
	CHECK(!close(other));
	for (unsigned int i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		test_ends_beside_a_collector(ways[i]);
	released = counts().releases;
	CHECK(!kill(child, SIGKILL) && waitpid(child, &status, 0) == child);
	for (int i = 0; counts().releases == released && i < 2000; i++)
		usleep(1000);
}

static pid_t wait_by_wait(pid_t child)
{
	(void)child;
	return wait(NULL);
}

static pid_t wait_by_waitpid(pid_t child)
{
	return waitpid(child, NULL, 0);
}

static pid_t wait_by_waitid(pid_t child)
{
	siginfo_t info;

	return waitid(P_PID, (id_t)child, &info, WEXITED) ? -1 : info.si_pid;
}

static pid_t wait_while_ignored(pid_t child)
{
	CHECK_FAILS(waitpid(child, NULL, 0), ECHILD);
	return child;
}

/* A child's descriptor is the last reference: a parent that has heard of its end finds the file
 * released. */
static void test_ends_with_a_child(void)
{
	static pid_t (*const ways[])(pid_t child) = {wait_by_wait, wait_by_waitpid, wait_by_waitid,
						     wait_while_ignored};

	for (int round = 0; round < 16; round++) {
		uint64_t before = counts().releases;
		int fd = create(FAKE_CREATE_SLOW, 0), gate[2];
		char byte;
		pid_t child;

		CHECK(!pipe(gate));
		CHECK(signal(SIGCHLD, round % 4 == 3 ? SIG_IGN : SIG_DFL) != SIG_ERR);
		child = fork();
		if (child == 0) {
			close(gate[1]);
			(void)!read(gate[0], &byte, 1);
			_exit(0);
		}
		CHECK(!close(fd) && counts().releases == before && !close(gate[1]));
		CHECK(ways[round % 4](child) == child);
		CHECK(counts().releases == before + 1);
		CHECK(!close(gate[0]));
	}
	CHECK(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
}

struct shell {
	int fd, begun[2], gate[2];
};

/* Once the shell runs, its descriptor is the last; then it may end. */
static void *leave_to_shell(void *opaque)
{
	const struct shell *shell = opaque;
	char byte;

	CHECK(read(shell->begun[0], &byte, 1) == 1);
	CHECK(!close(shell->fd) && !close(shell->gate[1]));
	return NULL;
}

static int wait_by_pclose(const char *command)
{
	return pclose(popen(command, "w"));
}

static int wait_by_fclose(const char *command)
{
	/* gcc says that pclose() is meant. */
	FILE *volatile stream = popen(command, "w");

	return fclose(stream);
}

/* The same where libc waits inside of a function of its own. */
static void test_ends_with_a_shell(void)
{
	static int (*const ways[])(const char *command) = {system, wait_by_pclose, wait_by_fclose};

	for (int round = 0; round < 6; round++) {
		struct shell shell = {.fd = create(FAKE_CREATE_SLOW, 0)};
		uint64_t before = counts().releases;
		char command[80];
		pthread_t thread;

		CHECK(!pipe2(shell.begun, O_CLOEXEC) && !pipe2(shell.gate, O_CLOEXEC));
		CHECK(!fcntl(shell.fd, F_SETFD, 0) && !fcntl(shell.begun[1], F_SETFD, 0) &&
		      !fcntl(shell.gate[0], F_SETFD, 0));
		snprintf(command, sizeof(command),
			 "echo >/proc/self/fd/%d; read x </proc/self/fd/%d; true", shell.begun[1],
			 shell.gate[0]);
		CHECK(!pthread_create(&thread, NULL, leave_to_shell, &shell));
		CHECK(ways[round % 3](command) == 0);
		CHECK(counts().releases == before + 1);
		CHECK(!pthread_join(thread, NULL));
		CHECK(!close(shell.begun[0]) && !close(shell.begun[1]) && !close(shell.gate[0]));
	}
}

/* The same where the child ended before, and a thread of ours is about the release when the
 * parent begins to wait. */
static void test_ends_before_the_wait(void)
{
	uint64_t before = counts().releases, started = counts().slow_starts;
	int fd = create(FAKE_CREATE_SLOW, 200000 /* us */), gate[2];
	char byte;
	pid_t child;

	CHECK(!pipe(gate));
	child = fork();
	if (child == 0) {
		close(gate[1]);
		(void)!read(gate[0], &byte, 1);
		_exit(0);
	}
	CHECK(!close(fd) && counts().releases == before && !close(gate[0]));
	CHECK(syscall(SYS_close, gate[1]) == 0);
	for (int i = 0; counts().slow_starts == started && i < 10000; i++)
		usleep(1000);
	CHECK(counts().slow_starts == started + 1);
	CHECK(waitpid(child, NULL, 0) == child);
	CHECK(counts().releases == before + 1);
}

static void *close_held(void *opaque)
{
	CHECK(!close(*(const int *)opaque));
	return NULL;
}

/* A stream that is no shell's has nothing to do with what another thread releases: its close does
 * not wait for that, which takes seconds. */
static void test_a_stream_waits_for_no_release(void)
{
	uint64_t before = counts().releases, started = counts().slow_starts;
	FILE *shell = popen("true", "r"), *stream = fopen("/dev/null", "r");
	int fd = create(FAKE_CREATE_HELD, 0);
	struct timespec begun, ended;
	pthread_t thread;

	CHECK(shell && stream && !pthread_create(&thread, NULL, close_held, &fd));
	while (counts().slow_starts == started)
		usleep(1000);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	CHECK(!fclose(stream));
	clock_gettime(CLOCK_MONOTONIC, &ended);
	CHECK(ended.tv_sec - begun.tv_sec < 5 && counts().releases == before);
	CHECK(!ioctl(kvm, FAKE_LET_GO, 0) && !pthread_join(thread, NULL));
	CHECK(counts().releases == before + 1 && pclose(shell) == 0);
}

static void send_fd(int socket, int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec byte = {"", 1};
	struct msghdr message = {.msg_iov = &byte,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

/* A message that was sent and not received may hold the last reference: its sockets end it. */
static void test_ends_in_a_message(void)
{
	for (int round = 0; round < 20; round++) {
		uint64_t before = counts().releases;
		int fd = create(FAKE_CREATE_SLOW, 0), pair[2], null = open("/dev/null", O_RDONLY);

		CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		send_fd(pair[0], fd);
		CHECK(!close(fd));
		CHECK(counts().releases == before);
		CHECK(!close(pair[0]));
		CHECK(counts().releases == before);
		CHECK(round % 2 ? !close(pair[1]) : dup2(null, pair[1]) == pair[1]);
		CHECK(counts().releases == before + 1);
		CHECK(!close(null) && (round % 2 || !close(pair[1])));
	}
}

static void many(rlim_t hard)
{
	struct rlimit before, limit;
	static int fd[2048];
	int first = create(FAKE_CREATE, 0), extra, last;
	uint64_t released;

	close(first);
	CHECK(!getrlimit(RLIMIT_NOFILE, &before));
	limit.rlim_cur = 2148;
	limit.rlim_max = hard ? hard : before.rlim_max;
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 0; i < 2048; i++) {
		fd[i] = create(i & 1 ? FAKE_CREATE_STATS : FAKE_CREATE, 12288);
		CHECK(fd[i] == first + i);
	}
	/* None of ours is below the limit: the client can use every number that is left. */
	for (last = -1; (extra = open("/dev/null", O_RDONLY)) >= 0; last = extra)
		;
	CHECK(errno == EMFILE && last == 2147);
	CHECK_FAILS(ioctl(kvm, FAKE_CREATE, 0), EMFILE);
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur == 2148);
	released = counts().releases;
	CHECK(!close_range((unsigned int)first, ~0u, 0));
	CHECK(counts().releases == released + 2048);
	CHECK(!setrlimit(RLIMIT_NOFILE, &before));
}

static void test_limit(void)
{
	struct rlimit limit;
	pid_t child;
	int status;

	many(0);
	/* With no room above the limit it takes a privilege, which root may lack. */
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_max++;
	child = fork();
	if (child == 0)
		_exit(setrlimit(RLIMIT_NOFILE, &limit) ? 1 : 0);
	CHECK(waitpid(child, &status, 0) == child);
	if (status == 0)
		many(2148);
	else
		printf("  without the privilege to raise the hard limit\n");
}

/* More ends at once than the kernel keeps for a reader: each file is released all the same. */
static void test_lost_events(void)
{
	enum { FILES = 17000 };
	struct rlimit before, limit;
	uint64_t released;
	int first, last = -1;

	CHECK(!getrlimit(RLIMIT_NOFILE, &before));
	limit = before;
	limit.rlim_cur = FILES + 1000;
	if (limit.rlim_cur > limit.rlim_max) {
		printf("  without so many descriptors\n");
		return;
	}
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	first = create(FAKE_CREATE, 0);
	for (int i = 1; i < FILES; i++)
		last = create(FAKE_CREATE, 0);
	CHECK(last == first + FILES - 1);
	released = counts().releases;
	CHECK(!close_range((unsigned int)first, (unsigned int)last, 0));
	CHECK(counts().releases == released + FILES);
	/* The numbers are free, and new files are told of again. */
	CHECK(create(FAKE_CREATE, 0) == first);
	CHECK(!syscall(SYS_close, first));
	CHECK(counts().releases == released + FILES + 1);
	CHECK(!setrlimit(RLIMIT_NOFILE, &before));
}

/* KVM's objects are no files of the kind that a client's limit is for. */
static void test_file_size_limit(void)
{
	const struct rlimit none = {0, 0};
	pid_t child = fork();
	int status;

	if (child == 0) {
		int fd;

		if (setrlimit(RLIMIT_FSIZE, &none))
			_exit(1);
		fd = ioctl(open("/dev/kvm", O_RDWR), FAKE_CREATE_MEMORY, 8192);
		/* A build that counts what was run would write files at an exit. */
		if (fd >= 0 &&
		    mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
			raise(SIGKILL);
		_exit(1);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_churn(void)
{
	struct timespec start, end;
	uint64_t before = counts().releases;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	for (int i = 0; i < 20000; i++)
		CHECK(!close(create(FAKE_CREATE, 4096)));
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	CHECK(counts().releases == before + 20000);
	printf("  20000 files in %.2f s\n",
	       (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
	CHECK(end.tv_sec - start.tv_sec < 20);
}

static void test_contents(void)
{
	int fd = create(FAKE_CREATE_STATS, 0), memory = create(FAKE_CREATE_MEMORY, 8192);
	char text[16];

	CHECK(read(fd, text, 4) == 4 && !memcmp(text, "0123", 4));
	CHECK(lseek(fd, 0, SEEK_SET) >= 0);
	CHECK(read(fd, text, 4) == 4 && !memcmp(text, "4567", 4));
	CHECK(pread(fd, text, 3, 1) == 3 && !memcmp(text, "123", 3));
	CHECK(read(fd, text, 16) == 2 && read(fd, text, 16) == 0);
	CHECK_FAILS(read(memory, text, 1), EINVAL);
	CHECK_FAILS(write(memory, text, 1), EINVAL);
	CHECK_FAILS(pread(memory, text, 1, 0), ESPIPE);
	CHECK_FAILS(pwrite(memory, text, 1, 0), ESPIPE);
	CHECK_FAILS(lseek(memory, 0, SEEK_SET), ESPIPE);
	CHECK_FAILS(ftruncate(memory, 0), EINVAL);
	CHECK_FAILS(fchmod(memory, 0600), EINVAL);
	CHECK_FAILS(fallocate(memory, 0, -1, 4096), EINVAL);
	CHECK_FAILS(fallocate(memory, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP);
	close(fd);
	close(memory);
}

static sigjmp_buf landing;

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(landing, 1);
}

static void test_dead_mapping(void)
{
	int fd = create(FAKE_CREATE_DEAD_MEMORY, 8192);
	volatile char *mapping = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct sigaction act = {.sa_handler = on_bus}, old;

	CHECK(mapping != MAP_FAILED);
	CHECK(!sigaction(SIGBUS, &act, &old) && old.sa_handler == SIG_DFL);
	for (int i = 0; i < 3; i++) {
		if (!sigsetjmp(landing, 1)) {
			mapping[i * 2048] = 1;
			CHECK(!"a touch must raise SIGBUS");
		}
	}
	CHECK(!sigaction(SIGBUS, &old, &act) && act.sa_handler == on_bus);
	munmap((void *)mapping, 8192);
	close(fd);
}

static void test_advice(void)
{
	int fd = create(FAKE_CREATE_MEMORY, 8192);
	char *mapping = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	mapping[0] = 7;
	CHECK(!madvise(mapping, 8192, MADV_HUGEPAGE));
	CHECK_FAILS(madvise(mapping, 8192, 25 /* MADV_COLLAPSE */), EINVAL);
	CHECK(!madvise(mapping, 8192, MADV_DONTNEED) && mapping[0] == 7);
	munmap(mapping, 8192);
	close(fd);
}

static void expect_change(uint64_t *events, const void *start, size_t size_bytes)
{
	struct fake_counts now = counts();

	CHECK(now.begins == *events + 1 && now.ends == now.begins);
	CHECK(now.last_start == (uintptr_t)start);
	CHECK(now.last_end == (uintptr_t)start + size_bytes);
	*events = now.begins;
}

static void test_memory_events(void)
{
	uint64_t events = counts().begins;
	char *room = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* A VM has a file, and the device need not have one. */
	int vm = create(FAKE_CREATE, 0);

	CHECK(!ioctl(kvm, FAKE_WATCH, 0) && counts().begins == events);
	CHECK(!mprotect(room, 4096, PROT_READ));
	expect_change(&events, room, 4096);
	CHECK(mmap(room + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      room + 4096);
	expect_change(&events, room + 4096, 4096);
	CHECK(!madvise(room, 4096, MADV_DONTNEED) && counts().begins == events);
	CHECK(mremap(room + 8192, 4096, 8192, MREMAP_MAYMOVE) != MAP_FAILED);
	expect_change(&events, room + 8192, 8192);
	CHECK(!munmap(room, 65536));
	expect_change(&events, room, 65536);
	CHECK_FAILS(munmap((void *)1, 4096), EINVAL);
	CHECK(counts().begins == counts().ends);
	CHECK(!ioctl(kvm, FAKE_UNWATCH, 0));
	events = counts().begins;
	CHECK(!munmap(room, 4096) && counts().begins == events);
	CHECK(!close(vm));
}

static volatile sig_atomic_t news_count;
static void *volatile news_address;

static void on_news(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	CHECK(info->si_code == BUS_MCEERR_AO && !info->si_errno);
	news_address = info->si_addr;
	news_count++;
}

/* As the kernel tells a thread that asked; until a thread of ours has heard of it, too. */
static void tell_of_failure(void *address, short shift, uint64_t losses)
{
	siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AO};

	info.si_addr = address;
	info.si_addr_lsb = shift;
	for (int i = 0; i < 500 && counts().losses < losses; i++) {
		int before = news_count;

		CHECK(
		    !syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info));
		CHECK(news_count == before + 1 && news_address == address);
		usleep(10000);
	}
}

/* Two pages fail at once, and the mapping that is found last has the second alone. */
static void test_partial_failure(int file)
{
	char *area = mmap(NULL, 32768, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t losses = counts().losses;

	CHECK(mmap(area, 8192, PROT_READ, MAP_SHARED | MAP_FIXED, file, 32768) == area);
	CHECK(mmap(area + 16384, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, file, 36864) ==
	      area + 16384);
	tell_of_failure(area + 4096, 13, losses + 3);
	CHECK(counts().last_start == (uintptr_t)area + 16384);
	CHECK(counts().last_end == (uintptr_t)area + 20480);
	munmap(area, 32768);
}

/* The news are the client's, and every mapping of the page hears of them. */
static void test_failures(void)
{
	struct sigaction action = {.sa_sigaction = on_news, .sa_flags = SA_SIGINFO};
	char *room = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int file = memfd_create("two mappings", 0);
	char *mapping[2];

	CHECK(!ioctl(kvm, FAKE_WATCH, 0) && !sigaction(SIGBUS, &action, NULL));
	tell_of_failure(room + 4096, 12, 1);
	CHECK(counts().last_lost == (uintptr_t)room + 4096);
	CHECK(counts().last_start == (uintptr_t)room + 4096);
	CHECK(counts().last_end == (uintptr_t)room + 8192);
	CHECK(!ftruncate(file, 65536));
	for (int i = 0; i < 2; i++)
		mapping[i] = mmap(NULL, 65536 - 4096 * i, PROT_READ, MAP_SHARED, file, 4096 * i);
	for (int i = 0; i < 2; i++) {
		uint64_t losses = counts().losses;

		tell_of_failure(mapping[i] + 8192 - 4096 * i, 12, losses + 2);
		CHECK(counts().losses >= losses + 2);
	}
	for (int i = 0; i < 2; i++)
		CHECK(!munmap(mapping[i], 65536 - 4096 * i));
	test_partial_failure(file);
	CHECK(!ioctl(kvm, FAKE_UNWATCH, 0));
	signal(SIGBUS, SIG_DFL);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
	    {"device", test_device},
	    {"lifetime", test_lifetime},
	    {"own mapping", test_own_mapping},
	    {"fork", test_fork},
	    {"close_range", test_close_range},
	    {"ends beside a child", test_ends_beside_a_child},
	    {"a stream waits for no release", test_a_stream_waits_for_no_release},
	    {"ends in a message", test_ends_in_a_message},
	    {"ends with a child", test_ends_with_a_child},
	    {"ends with a shell", test_ends_with_a_shell},
	    {"ends before the wait", test_ends_before_the_wait},
	    {"limit", test_limit},
	    {"lost events", test_lost_events},
	    {"file size limit", test_file_size_limit},
	    {"churn", test_churn},
	    {"contents", test_contents},
	    {"dead mapping", test_dead_mapping},
	    {"advice", test_advice},
	    {"memory events", test_memory_events},
	    {"failures", test_failures},
	};

	/* What the shell left open would take numbers that the tests count. */
	close_range(3, ~0u, 0);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0);
	run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc > 1 ? argv[1] : NULL);
	return 0;
}
