/*
 * io_uring reaches files past every call that is seen: what it finds behind KVM's descriptors is
 * nothing. KVM's files answer most with an error; no operation may show what private memory holds,
 * change it, or put an object out of order.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 16ul
#define SECRET 0x5ec2e75ec2e75ec2ul
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct vm vm;
static struct vcpu vcpu;
static int gmem;

/* A ring of one operation at a time. */
static struct {
	int fd;
	struct io_uring_params params;
	uint8_t *rings;
	struct io_uring_sqe *entries;
} ring;

static volatile uint32_t *ring_word(uint32_t offset)
{
	return (volatile uint32_t *)(void *)(ring.rings + offset);
}

static void ring_open(void)
{
	size_t bytes;

	ring.fd = (int)syscall(SYS_io_uring_setup, 4, &ring.params);
	if (ring.fd < 0 || !(ring.params.features & IORING_FEAT_SINGLE_MMAP))
		check_skip("no io_uring");
	bytes = ring.params.cq_off.cqes + ring.params.cq_entries * sizeof(struct io_uring_cqe);
	if (bytes < ring.params.sq_off.array + ring.params.sq_entries * sizeof(uint32_t))
		bytes = ring.params.sq_off.array + ring.params.sq_entries * sizeof(uint32_t);
	ring.rings = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd,
			  IORING_OFF_SQ_RING);
	ring.entries =
	    mmap(NULL, ring.params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	CHECK(ring.rings != MAP_FAILED && (void *)ring.entries != MAP_FAILED);
}

/* The operation's result. */
static long ring_run(const struct io_uring_sqe *entry)
{
	uint32_t tail = *ring_word(ring.params.sq_off.tail);
	uint32_t head = *ring_word(ring.params.cq_off.head);
	uint32_t slot = tail & *ring_word(ring.params.sq_off.ring_mask);
	const struct io_uring_cqe *done;
	long result;

	ring.entries[slot] = *entry;
	ring_word(ring.params.sq_off.array)[slot] = slot;
	__atomic_store_n(ring_word(ring.params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	CHECK_EQ(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), 1);
	CHECK(__atomic_load_n(ring_word(ring.params.cq_off.tail), __ATOMIC_ACQUIRE) != head);
	done = (const struct io_uring_cqe *)(void *)(ring.rings + ring.params.cq_off.cqes);
	result = done[head & *ring_word(ring.params.cq_off.ring_mask)].res;
	__atomic_store_n(ring_word(ring.params.cq_off.head), head + 1, __ATOMIC_RELEASE);
	return result;
}

/* A VM whose guest keeps a secret in private memory. */
static void secret_make(void)
{
	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	gmem = (int)CHECK_OK(vm_gmem(&vm, PAGES * PAGE, 0));
	CHECK_OK(REGION(&vm, .slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			.memory_size = PAGES * PAGE,
			.userspace_addr = (uintptr_t)memory_alloc(PAGES * PAGE),
			.guest_memfd = (uint32_t)gmem));
	CHECK_OK(vm_set_attributes(&vm, GPA, PAGES * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	for (unsigned long page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, SECRET);
}

static void secret_is_kept(const char *name, const uint64_t *buffer, size_t words)
{
	for (size_t i = 0; i < words; i++)
		if (buffer[i] == SECRET)
			FAIL("%s shows the secret", name);
	for (unsigned long page = 0; page < PAGES; page++)
		if (guest_load(&vcpu, GPA + page * PAGE) != SECRET)
			FAIL("%s changed private memory", name);
}

static uint64_t buffer[2 * PAGE / 8];

static const struct {
	const char *name;
	struct io_uring_sqe entry;
} operations[] = {
    {"read", {.opcode = IORING_OP_READ, .addr = (uintptr_t)buffer, .len = sizeof(buffer)}},
    {"read at", {.opcode = IORING_OP_READ, .addr = (uintptr_t)buffer, .len = 64, .off = PAGE}},
    {"write", {.opcode = IORING_OP_WRITE, .addr = (uintptr_t)buffer, .len = sizeof(buffer)}},
    {"write at", {.opcode = IORING_OP_WRITE, .addr = (uintptr_t)buffer, .len = 64, .off = PAGE}},
    {"fsync", {.opcode = IORING_OP_FSYNC}},
    {"allocate", {.opcode = IORING_OP_FALLOCATE, .addr = PAGE}},
    {"punch",
     {.opcode = IORING_OP_FALLOCATE,
      .addr = PAGE,
      .len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE}},
    {"zero range", {.opcode = IORING_OP_FALLOCATE, .addr = PAGE, .len = FALLOC_FL_ZERO_RANGE}},
    {"sync range", {.opcode = IORING_OP_SYNC_FILE_RANGE, .len = PAGE}},
    {"advice", {.opcode = IORING_OP_FADVISE, .len = PAGE, .fadvise_advice = POSIX_FADV_DONTNEED}},
    {"command", {.opcode = IORING_OP_URING_CMD, .off = KVM_GET_API_VERSION}},
    {"poll", {.opcode = IORING_OP_POLL_ADD, .poll32_events = 1}},
    {"no such", {.opcode = 200}},
};

/* What the descriptor's own write puts there does not matter; what comes out of it does. */
static void test_operations(void)
{
	ring_open();
	secret_make();
	for (size_t i = 0; i < COUNT(operations); i++) {
		const int fds[] = {vm.kvm, vm.fd, vcpu.fd, gmem};

		for (size_t object = 0; object < COUNT(fds); object++) {
			struct io_uring_sqe entry = operations[i].entry;
			long result;

			/* A vCPU's pages are the client's own by mmap(). */
			if (fds[object] == vcpu.fd && entry.opcode == IORING_OP_WRITE)
				continue;
			/* Readiness may never come. */
			if (entry.opcode == IORING_OP_POLL_ADD && fds[object] == gmem)
				continue;
			memset(buffer, 0x55, sizeof(buffer));
			entry.fd = fds[object];
			result = ring_run(&entry);
			if (getenv("SHOW"))
				printf("     %s, object %zu: %ld\n", operations[i].name, object,
				       result);
			secret_is_kept(operations[i].name, buffer, COUNT(buffer));
			/* KVM says so by EINVAL. */
			if (entry.opcode == IORING_OP_WRITE)
				CHECK(result < 0);
			/* What KVM would do to the memory is not done: then it must not seem so. */
			if (entry.opcode == IORING_OP_FALLOCATE && entry.len && fds[object] == gmem)
				CHECK(result < 0);
		}
	}
	CHECK_EQ(ioctl(vm.kvm, KVM_GET_API_VERSION, 0), KVM_API_VERSION);
}

/* The same descriptor by another way: no second guest_memfd comes of it. */
static void test_open_again(void)
{
	char path[32];
	struct io_uring_sqe entry = {.opcode = IORING_OP_OPENAT,
				     .fd = AT_FDCWD,
				     .addr = (uintptr_t)path,
				     .open_flags = O_RDWR};
	long again;

	ring_open();
	secret_make();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", gmem);
	again = ring_run(&entry);
	if (again < 0)
		return;
	memset(buffer, 0, sizeof(buffer));
	(void)!pread((int)again, buffer, sizeof(buffer), 0);
	secret_is_kept("a second open", buffer, COUNT(buffer));
	entry = (struct io_uring_sqe){.opcode = IORING_OP_READ,
				      .fd = (int)again,
				      .addr = (uintptr_t)buffer,
				      .len = sizeof(buffer)};
	(void)ring_run(&entry);
	secret_is_kept("a read of a second open", buffer, COUNT(buffer));
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, (int)again, 0) == MAP_FAILED);
}

/* The memory of a slot goes by io_uring's own madvise(): the guest finds new pages. */
static void test_advice_on_memory(void)
{
	uint8_t *memory = memory_alloc(PAGES * PAGE);
	struct io_uring_sqe entry = {.opcode = IORING_OP_MADVISE,
				     .fd = -1,
				     .addr = (uintptr_t)memory,
				     .len = PAGE,
				     .fadvise_advice = MADV_DONTNEED};

	ring_open();
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_OK(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			.userspace_addr = (uintptr_t)memory));
	guest_store(&vcpu, GPA, 7);
	CHECK_EQ(ring_run(&entry), 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	guest_store(&vcpu, GPA, 8);
	CHECK_EQ(*word_at(memory, 0), 8);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_operations),
	    TEST(test_open_again),
	    TEST(test_advice_on_memory),
	};

	return check_main(argc, argv, tests, COUNT(tests));
}
