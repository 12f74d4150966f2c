/* guest_memfd as a file: creation, sizes, fallocate, mapping, and every call that it refuses. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define PAGES 8ul
#define BYTES (PAGES * PAGE)
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static struct vm vm;

static void open_vm(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
}

static uint64_t offered_flags(void)
{
	return (uint64_t)vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS);
}

static int open_file(uint64_t flags)
{
	open_vm();
	if (flags & ~offered_flags())
		check_skip("no mapping of guest_memfd");
	return (int)CHECK_OK(vm_gmem(&vm, BYTES, flags));
}

static uint8_t *map(int file, size_t size_bytes)
{
	uint8_t *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

static void flags_by_bit(void)
{
	open_vm();
	for (unsigned int bit = 0; bit < 64; bit++) {
		uint64_t flag = 1ul << bit;

		if (offered_flags() & flag)
			close((int)CHECK_OK(vm_gmem(&vm, BYTES, flag)));
		else
			REFUSED(&vm, vm_gmem(&vm, BYTES, flag), EINVAL);
	}
}

static void sizes(void)
{
	static const uint64_t bad[] = {0,     1,	 2048,	     PAGE - 1,		PAGE + 1,
				       -PAGE, 1ul << 63, UINT64_MAX, (1ul << 63) + PAGE};

	open_vm();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		REFUSED(&vm, vm_gmem(&vm, bad[i], 0), EINVAL);
	/* Nothing is reserved: a file may be far larger than the machine. */
	close((int)CHECK_OK(vm_gmem(&vm, 1ul << 42, 0)));
}

/* EFAULT, then flags and size, then the descriptor. */
static void creation_order(void)
{
	struct kvm_create_guest_memfd request = {.size = BYTES};
	struct rlimit none = {0, 0};

	open_vm();
	REFUSED(&vm, ioctl(vm.fd, KVM_CREATE_GUEST_MEMFD, NULL), EFAULT);
	memset(request.reserved, 0xff, sizeof(request.reserved));
	close((int)CHECK_OK(ioctl(vm.fd, KVM_CREATE_GUEST_MEMFD, &request)));
	CHECK_ZERO(getrlimit(RLIMIT_NOFILE, &none));
	none.rlim_cur = 3;
	CHECK_ZERO(setrlimit(RLIMIT_NOFILE, &none));
	CHECK_ERR(vm_gmem(&vm, BYTES, 1ul << 40), EINVAL);
	CHECK_ERR(vm_gmem(&vm, 1, 0), EINVAL);
	CHECK_ERR(vm_gmem(&vm, BYTES, 0), EMFILE);
}

static void init_shared_needs_a_vm_without_private_memory(void)
{
	vm_open(&vm, KVM_X86_SW_PROTECTED_VM);
	CHECK_EQ(offered_flags() & GUEST_MEMFD_FLAG_INIT_SHARED, 0);
	REFUSED(&vm, vm_gmem(&vm, BYTES, GUEST_MEMFD_FLAG_INIT_SHARED), EINVAL);
	REFUSED(&vm, vm_gmem(&vm, BYTES, SHARED), EINVAL);
	CHECK_OK(vm_gmem(&vm, BYTES, GUEST_MEMFD_FLAG_MMAP));
}

static void the_descriptor(void)
{
	char path[64], name[128] = {0};
	int file = open_file(0);

	CHECK_EQ(fcntl(file, F_GETFL) & (O_ACCMODE | O_APPEND), O_RDWR);
	CHECK_EQ(fcntl(file, F_GETFD), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	CHECK_OK(readlink(path, name, sizeof(name) - 1));
	CHECK(strstr(name, "[kvm-gmem]"));
}

static void two_files(void)
{
	struct stat first, second;
	int file = open_file(0), other = (int)CHECK_OK(vm_gmem(&vm, 2 * BYTES, 0));

	CHECK_ZERO(fstat(file, &first));
	CHECK_ZERO(fstat(other, &second));
	CHECK(first.st_ino != second.st_ino);
	CHECK_EQ(first.st_size, BYTES);
	CHECK_EQ(second.st_size, 2 * BYTES);
	CHECK_EQ(first.st_blksize, PAGE);
	CHECK(S_ISREG(first.st_mode));
}

static void no_reading_and_no_writing(void)
{
	char bytes[16] = {0};
	int file = open_file(0), null = open("/dev/null", O_RDWR);
	int pipes[2];

	CHECK_ERR(read(file, bytes, sizeof(bytes)), EINVAL);
	CHECK_ERR(write(file, bytes, sizeof(bytes)), EINVAL);
	CHECK_ERR(pread(file, bytes, sizeof(bytes), 0), ESPIPE);
	CHECK_ERR(pwrite(file, bytes, sizeof(bytes), 0), ESPIPE);
	CHECK_ERR(lseek(file, 0, SEEK_SET), ESPIPE);
	CHECK_ERR(lseek(file, 0, SEEK_END), ESPIPE);
	CHECK_ZERO(pipe(pipes));
	CHECK_ERR(splice(file, NULL, pipes[1], NULL, PAGE, 0), EINVAL);
	CHECK_ERR(sendfile(null, file, NULL, PAGE), EINVAL);
}

static void the_size_is_for_ever(void)
{
	struct stat status;
	int file = open_file(0);

	CHECK_ERR(ftruncate(file, 0), EINVAL);
	CHECK_ERR(ftruncate(file, BYTES), EINVAL);
	CHECK_ERR(ftruncate(file, 2 * BYTES), EINVAL);
	CHECK_ERR(fchmod(file, 0600), EINVAL);
	CHECK_ERR(fchown(file, getuid(), getgid()), EINVAL);
	CHECK_ERR(futimens(file, NULL), EINVAL);
	CHECK_ZERO(fstat(file, &status));
	CHECK_EQ(status.st_size, BYTES);
}

static void fallocate_modes(void)
{
	static const int refused[] = {0,
				      FALLOC_FL_ZERO_RANGE,
				      FALLOC_FL_ZERO_RANGE | KEEP,
				      FALLOC_FL_COLLAPSE_RANGE,
				      FALLOC_FL_INSERT_RANGE,
				      FALLOC_FL_UNSHARE_RANGE,
				      FALLOC_FL_UNSHARE_RANGE | KEEP,
				      FALLOC_FL_PUNCH_HOLE};
	int file = open_file(0);

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		CHECK_ERR(fallocate(file, refused[i], 0, PAGE), EOPNOTSUPP);
	/* The mode comes before the alignment, the sign before the mode. */
	CHECK_ERR(fallocate(file, 0, 1, PAGE), EOPNOTSUPP);
	CHECK_ERR(fallocate(file, 0, -PAGE, PAGE), EINVAL);
	CHECK_ERR(fallocate(file, 0, 0, 0), EINVAL);
	CHECK_ERR(fallocate(file, PUNCH, 0, 0), EINVAL);
	CHECK_ERR(fallocate(file, PUNCH, 0, -PAGE), EINVAL);
	CHECK_ERR(fallocate(file, KEEP, 0x7ffffffffffff000, PAGE), EFBIG);
}

static void fallocate_ranges(void)
{
	int file = open_file(0);

	for (off_t part = 1; part < (off_t)PAGE; part = part * 3 + 1) {
		CHECK_ERR(fallocate(file, PUNCH, part, PAGE), EINVAL);
		CHECK_ERR(fallocate(file, PUNCH, 0, part), EINVAL);
		CHECK_ERR(fallocate(file, KEEP, part, PAGE), EINVAL);
		CHECK_ERR(fallocate(file, KEEP, 0, part), EINVAL);
	}
	CHECK_ZERO(fallocate(file, KEEP, 0, BYTES));
	CHECK_ZERO(fallocate(file, KEEP, BYTES - PAGE, PAGE));
	CHECK_ERR(fallocate(file, KEEP, BYTES, PAGE), EINVAL);
	CHECK_ERR(fallocate(file, KEEP, BYTES - PAGE, 2 * PAGE), EINVAL);
	CHECK_ERR(fallocate(file, KEEP, 2 * BYTES, PAGE), EINVAL);
	CHECK_ZERO(fallocate(file, PUNCH, BYTES, PAGE));
	CHECK_ZERO(fallocate(file, PUNCH, 2 * BYTES, BYTES));
	CHECK_ZERO(fallocate(file, PUNCH, 0, 2 * BYTES));
	CHECK_ZERO(fallocate(file, PUNCH, 0, BYTES));
}

static int is_later(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

static struct stat status_after(int file)
{
	struct stat status;

	usleep(20000);
	CHECK_ZERO(fstat(file, &status));
	return status;
}

static void fallocate_moves_the_times(void)
{
	int file = open_file(0);
	struct stat before = status_after(file), after;

	CHECK_ERR(fallocate(file, KEEP, BYTES - PAGE, 2 * PAGE), EINVAL);
	CHECK_ERR(fallocate(file, KEEP, 1, PAGE), EINVAL);
	after = status_after(file);
	CHECK(!is_later(after.st_mtim, before.st_mtim));
	CHECK_ZERO(fallocate(file, KEEP, 0, PAGE));
	after = status_after(file);
	CHECK(is_later(after.st_mtim, before.st_mtim));
	CHECK(is_later(after.st_ctim, before.st_ctim));
	before = after;
	CHECK_ZERO(fallocate(file, PUNCH, 0, PAGE));
	after = status_after(file);
	CHECK(is_later(after.st_mtim, before.st_mtim));
	CHECK(is_later(after.st_ctim, before.st_ctim));
}

static void mapping_without_the_flag(void)
{
	int file = open_file(0);

	CHECK_ERR((intptr_t)mmap(NULL, BYTES, PROT_READ, MAP_SHARED, file, 0), ENODEV);
	CHECK_ERR((intptr_t)mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), ENODEV);
}

static void mapping_must_be_shared(void)
{
	int file = open_file(SHARED);

	CHECK_ERR((intptr_t)mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, file, 0), EINVAL);
	map(file, BYTES);
}

static void mapping_without_init_shared(void)
{
	uint8_t *memory = map(open_file(GUEST_MEMFD_FLAG_MMAP), BYTES);

	for (size_t page = 0; page < PAGES; page++) {
		struct signal_seen seen = touch_byte(memory + page * PAGE + 5);

		CHECK_EQ(seen.number, SIGBUS);
	}
	CHECK_ZERO(remap_file_pages(memory, 2 * PAGE, 0, 1, 0));
	CHECK_EQ(touch_byte(memory).number, SIGBUS);
}

static void mapping_past_the_end(void)
{
	uint8_t *memory = map(open_file(SHARED), 4 * BYTES);

	memset(memory, 0xaa, BYTES);
	for (size_t offset = BYTES; offset < 4 * BYTES; offset += PAGE)
		CHECK_EQ(touch_byte(memory + offset).number, SIGBUS);
	for (size_t i = 0; i < BYTES; i++)
		CHECK_EQ(memory[i], 0xaa);
}

static void mapping_obeys_protection(void)
{
	uint8_t *memory = map(open_file(SHARED), BYTES);

	memory[0] = 1;
	CHECK_ZERO(mprotect(memory, PAGE, PROT_NONE));
	CHECK_EQ(touch_byte(memory).number, SIGSEGV);
	CHECK_ZERO(mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
	CHECK_EQ(memory[0], 1);
}

static void punch_empties(void)
{
	int file = open_file(SHARED);
	uint8_t *memory = map(file, BYTES);

	memset(memory, 0xaa, BYTES);
	CHECK_ZERO(fallocate(file, PUNCH, 0, PAGE));
	for (size_t i = 0; i < BYTES; i++)
		CHECK_EQ(memory[i], i < PAGE ? 0 : 0xaa);
	memset(memory, 0x55, PAGE);
	CHECK_EQ(memory[PAGE - 1], 0x55);
	/* Allocation leaves what is there. */
	CHECK_ZERO(fallocate(file, KEEP, 0, BYTES));
	CHECK_EQ(memory[0], 0x55);
	CHECK_EQ(memory[BYTES - 1], 0xaa);
	CHECK_ZERO(fallocate(file, PUNCH, 0, BYTES));
	for (size_t i = 0; i < BYTES; i++)
		CHECK_EQ(memory[i], 0);
}

static void descriptors_share_one_file(void)
{
	int file = open_file(SHARED), copy = dup(file);
	uint8_t *memory = map(file, BYTES), *other = map(copy, BYTES);

	memory[3] = 7;
	CHECK_EQ(other[3], 7);
	close(file);
	CHECK_ZERO(fallocate(copy, PUNCH, 0, PAGE));
	CHECK_EQ(memory[3], 0);
}

static void fork_shares_the_pages(void)
{
	int file = open_file(SHARED), status = 0;
	uint8_t *memory = map(file, BYTES);
	pid_t child;

	memory[0] = 1;
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		int refused = vm_gmem(&vm, BYTES, 0) == -1 && errno == EIO;

		memory[1] = memory[0] + 1;
		_exit(refused ? 0 : 1);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(memory[1], 2);
}

/* Asks twice for a page of a file that its parent made: while that lives, and when it is dead. */
static void ask_a_maker(int file, int from_test, int to_test)
{
	int errors[2], rc = fallocate(file, KEEP, 0, PAGE);
	char word = 0;

	errors[0] = rc ? errno : 0;
	(void)!write(to_test, errors, sizeof(errors[0]));
	(void)!read(from_test, &word, 1);
	errors[1] = fallocate(file, KEEP, PAGE, PAGE) ? errno : 0;
	(void)!write(to_test, &errors[1], sizeof(errors[1]));
	_exit(0);
}

static void a_maker_may_die(void)
{
	int to_child[2], to_test[2], error = -1;
	struct pollfd answer;
	pid_t maker;

	open_vm();
	CHECK_ZERO(pipe(to_child) | pipe(to_test));
	maker = fork();
	CHECK(maker >= 0);
	if (maker == 0) {
		int file;

		vm_open(&vm, KVM_X86_DEFAULT_VM);
		file = vm_gmem(&vm, BYTES, 0);
		if (fork() == 0)
			ask_a_maker(file, to_child[0], to_test[1]);
		pause();
	}
	CHECK_EQ(read(to_test[0], &error, sizeof(error)), (ssize_t)sizeof(error));
	CHECK_EQ(error, 0);
	CHECK_ZERO(kill(maker, SIGKILL));
	CHECK_EQ(waitpid(maker, NULL, 0), maker);
	CHECK_EQ(write(to_child[1], "x", 1), 1);
	answer = (struct pollfd){.fd = to_test[0], .events = POLLIN};
	CHECK_EQ(poll(&answer, 1, 20000), 1);
	CHECK_EQ(read(to_test[0], &error, sizeof(error)), (ssize_t)sizeof(error));
	CHECK_EQ(error, EIO);
}

static void advice(void)
{
	uint8_t *memory = map(open_file(SHARED), BYTES);
	int result;

	memset(memory, 0xaa, BYTES);
	result = madvise(memory, BYTES, MADV_HUGEPAGE);
	/* A kernel without huge pages does not know the advice. */
	CHECK(result == 0 || errno == EINVAL);
	CHECK_ERR(madvise(memory, BYTES, 25 /* MADV_COLLAPSE */), EINVAL);
	CHECK_ZERO(madvise(memory, BYTES, MADV_DONTNEED));
	for (size_t i = 0; i < BYTES; i++)
		CHECK_EQ(memory[i], 0xaa);
}

static void policy(void)
{
	uint8_t *memory = map(open_file(SHARED), BYTES);
	unsigned long node = 1;
	int mode = -1;

	if (syscall(SYS_mbind, memory, BYTES, MPOL_BIND, &node, 64, 0))
		check_skip("no NUMA policies");
	CHECK_ZERO(syscall(SYS_get_mempolicy, &mode, NULL, 0, memory, MPOL_F_ADDR));
	CHECK_EQ(mode, MPOL_BIND);
	CHECK_ZERO(syscall(SYS_mbind, memory, BYTES, MPOL_INTERLEAVE, &node, 64, 0));
	CHECK_ZERO(syscall(SYS_get_mempolicy, &mode, NULL, 0, memory, MPOL_F_ADDR));
	CHECK_EQ(mode, MPOL_INTERLEAVE);
	CHECK_ERR(syscall(SYS_mbind, memory, BYTES, 99, &node, 64, 0), EINVAL);
	CHECK_ZERO(syscall(SYS_mbind, memory, BYTES, MPOL_DEFAULT, NULL, 0, 0));
	memset(memory, 1, BYTES);
}

static int node_of(void *page)
{
	int node = -1;

	CHECK_ZERO(syscall(SYS_move_pages, 0, 1, &page, NULL, &node, 0));
	return node;
}

static long move_to(int node, void **pages, int *statuses)
{
	int nodes[2] = {node, node};

	return syscall(SYS_move_pages, 0, 2, pages, nodes, statuses, MPOL_MF_MOVE);
}

/* A client that asks for another node moves only memory of its own. */
static void pages_stay_on_their_node(void)
{
	uint8_t *memory = map(open_file(SHARED), BYTES), *own = memory_alloc(PAGE);
	void *pages[2] = {memory, memory + PAGE};
	int statuses[2] = {-1, -1}, here, other;
	unsigned long mask;

	memset(memory, 5, BYTES);
	own[0] = 1;
	if (syscall(SYS_move_pages, 0, 1, pages, NULL, statuses, 0))
		check_skip("no NUMA nodes");
	here = statuses[0];
	CHECK_ERR(move_to(900, pages, statuses), ENODEV);
	CHECK_ZERO(move_to(here, pages, statuses));
	CHECK_EQ(statuses[0], here);
	CHECK_EQ(statuses[1], here);
	other = !here;
	mask = 1ul << other;
	if (move_to(other, (void *[]){own, own}, statuses) < 0)
		return; /* there is one node */
	CHECK_EQ(move_to(other, pages, statuses), 2);
	pages[1] = own;
	CHECK_EQ(node_of(own), other);
	CHECK_ZERO(move_to(here, (void *[]){own, own}, statuses));
	CHECK_EQ(move_to(other, pages, statuses), 1);
	CHECK_EQ(node_of(own), other);
	CHECK_ZERO(syscall(SYS_mbind, memory, BYTES, MPOL_BIND, &mask, 64, MPOL_MF_MOVE));
	CHECK_EQ(node_of(memory), here);
	CHECK_ERR(
	    syscall(SYS_mbind, memory, BYTES, MPOL_BIND, &mask, 64, MPOL_MF_MOVE | MPOL_MF_STRICT),
	    EIO);
	CHECK_EQ(node_of(memory), here);
	CHECK_EQ(memory[0], 5);
}

/* A page that is there once is not charged to the file a second time, and goes by punching. */
static void pages_come_and_go(void)
{
	int file = open_file(0);

	for (int round = 0; round < 64; round++) {
		CHECK_ZERO(fallocate(file, KEEP, 0, BYTES));
		CHECK_ZERO(fallocate(file, KEEP, PAGE, PAGE));
		CHECK_ZERO(fallocate(file, PUNCH, PAGE, 2 * PAGE));
		CHECK_ZERO(fallocate(file, PUNCH, PAGE, 2 * PAGE));
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(flags_by_bit),
	    TEST(sizes),
	    TEST(creation_order),
	    TEST(init_shared_needs_a_vm_without_private_memory),
	    TEST(the_descriptor),
	    TEST(two_files),
	    TEST(no_reading_and_no_writing),
	    TEST(the_size_is_for_ever),
	    TEST(fallocate_modes),
	    TEST(fallocate_ranges),
	    TEST(fallocate_moves_the_times),
	    TEST(mapping_without_the_flag),
	    TEST(mapping_must_be_shared),
	    TEST(mapping_without_init_shared),
	    TEST(mapping_past_the_end),
	    TEST(mapping_obeys_protection),
	    TEST(punch_empties),
	    TEST(descriptors_share_one_file),
	    TEST(fork_shares_the_pages),
	    TEST(a_maker_may_die),
	    TEST(advice),
	    TEST(policy),
	    TEST(pages_stay_on_their_node),
	    TEST(pages_come_and_go),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
