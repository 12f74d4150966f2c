/*
 * Small VMMs that take memory away from their guests, and their mended twins: what
 * `quire run --sanitize=slot` reports, and what it does not (test_sanitize.py).
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#include "boundary/userfault.h"
#include "tests/sanitize/scenario.h"

#define GPA 0x10000000ul
#define PAGES 16ul
#define HALF (PAGES / 2 * PAGE)
#define SLOT 5

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

static void slot_set(uint64_t size_bytes)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = size_bytes,
			  .userspace_addr = (uintptr_t)memory));
}

/* The slot without its second half. */
static void slot_shrink(void)
{
	slot_set(0);
	slot_set(HALF);
}

static void begin(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(PAGES * PAGE);
	slot_set(PAGES * PAGE);
}

/* Not inlined: the reports name these. */
__attribute__((noinline)) static void run_guest(void)
{
	guest_store(&vcpu, GPA, 1);
}

__attribute__((noinline)) static void drop_half(void)
{
	CHECK_ZERO(munmap(memory + HALF, HALF));
}

__attribute__((noinline)) static void replace_half(void)
{
	CHECK(mmap(memory + HALF, HALF, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

__attribute__((noinline)) static void reserve_half(void)
{
	CHECK(mmap(memory + HALF, HALF, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) != MAP_FAILED);
}

__attribute__((noinline)) static void detach(void)
{
	CHECK_ZERO(shmdt(memory));
}

__attribute__((noinline)) static void move_half(void)
{
	CHECK(mremap(memory + HALF, HALF, 2 * HALF, MREMAP_MAYMOVE) != memory + HALF);
}

/* Memory goes while no guest runs. Mended: the slot goes first. */
static void unmapped(void)
{
	begin();
	run_guest();
	if (is_mended)
		slot_shrink();
	drop_half();
	run_guest();
	run_guest();
}

/* Two VMs have the memory, and one of them loses its slot in time. Mended: both do. */
static void two_vms(void)
{
	struct vm second;
	struct vcpu second_vcpu;

	begin();
	machine_open(&second, &second_vcpu, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(REGION(&second, .slot = SLOT + 1, .guest_phys_addr = GPA,
			  .memory_size = PAGES * PAGE, .userspace_addr = (uintptr_t)memory));
	run_guest();
	guest_store(&second_vcpu, GPA, 1);
	slot_shrink();
	if (is_mended)
		CHECK_ZERO(REGION(&second, .slot = SLOT + 1));
	drop_half();
	run_guest();
	if (!is_mended)
		guest_store(&second_vcpu, GPA, 1);
}

/* Also clean: the slot goes after the memory, and no guest runs between. */
static void unmapped_in_time(void)
{
	begin();
	run_guest();
	drop_half();
	if (is_mended)
		slot_shrink();
	run_guest();
}

__attribute__((noinline)) static void replace_again(void)
{
	replace_half();
	CHECK(mmap(memory + HALF, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

/* Two places, many times: the compiler is not to write the loop out. */
static void twice(void)
{
	begin();
	run_guest();
	for (volatile int i = 0; i < 5; i++) {
		replace_again();
		run_guest();
	}
}

/* Mended: the memory is put together before the guest runs. */
static void replaced(void)
{
	begin();
	if (is_mended) {
		replace_half();
		drop_half();
		replace_half();
	}
	run_guest();
	if (!is_mended)
		replace_half();
	run_guest();
}

static void moved(void)
{
	begin();
	run_guest();
	/* What is behind it is taken, so it moves. */
	CHECK(mmap(memory + PAGES * PAGE, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		   -1, 0) != MAP_FAILED);
	if (is_mended)
		CHECK(mremap(memory + HALF, HALF, HALF, 0) == memory + HALF);
	else
		move_half();
	run_guest();
}

__attribute__((noinline)) static void take_pages(void)
{
	void *there = mremap(memory + HALF, HALF, HALF, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);

	if (there == MAP_FAILED)
		check_skip("no such move");
	CHECK(there != memory + HALF);
}

/* A VM whose memory is a file's; the file. */
static int begin_file(void)
{
	int file = (int)CHECK_OK(memfd_create("guest", MFD_CLOEXEC));

	CHECK_ZERO(ftruncate(file, PAGES * PAGE));
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);
	slot_set(PAGES * PAGE);
	return file;
}

/* The mapping stays, and its pages go. Mended: a file has them, and shows them in both places. */
static void emptied(void)
{
	if (is_mended)
		begin_file();
	else
		begin();
	guest_store(&vcpu, GPA + HALF, 5);
	take_pages();
	CHECK_EQ(guest_load(&vcpu, GPA + HALF), is_mended ? 5 : 0);
}

/* A userfaultfd is to bring them back: that is how a client follows what its guest touches. */
static void emptied_and_watched(void)
{
	struct uffdio_copy copy = {.dst = 0, .len = PAGE};
	struct guest_op op = {.code = GUEST_LOAD8, .rbx = GPA + HALF};
	struct guest_thread thread;
	void *there;
	int fd;

	begin();
	guest_store(&vcpu, GPA + HALF, 5);
	fd = userfault_open(memory + HALF, HALF, UFFDIO_REGISTER_MODE_MISSING);
	there = mremap(memory + HALF, HALF, HALF, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
	CHECK(there != MAP_FAILED);
	thread_start(&thread, &vcpu, &op);
	copy.dst = userfault_next(fd, NULL);
	copy.src = (uintptr_t)there;
	CHECK_ZERO(ioctl(fd, UFFDIO_COPY, &copy));
	CHECK_END(thread_join(&thread), END_DONE);
}

__attribute__((noinline)) static void move_pages_to(void *there)
{
	int fd = userfault_open(there, HALF, UFFDIO_REGISTER_MODE_MISSING);
	struct uffdio_move move = {
	    .dst = (uintptr_t)there, .src = (uintptr_t)memory + HALF, .len = HALF};

	if (ioctl(fd, UFFDIO_MOVE, &move))
		check_skip("no UFFDIO_MOVE");
}

/* The same by a userfaultfd of the place where they go. Mended: the slot goes first. */
static void emptied_by_move(void)
{
	begin();
	memset(memory, 1, PAGES * PAGE);
	run_guest();
	if (is_mended)
		slot_shrink();
	move_pages_to(memory_alloc(HALF));
	run_guest();
}

/* The file becomes shorter. Mended: it has a hole where it had bytes, as a balloon makes it. */
static void truncated(void)
{
	int file = begin_file();

	guest_store(&vcpu, GPA + HALF, 5);
	if (is_mended)
		CHECK_ZERO(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HALF, HALF));
	else
		CHECK_ZERO(ftruncate(file, HALF));
	run_guest();
	if (is_mended)
		CHECK_EQ(guest_load(&vcpu, GPA + HALF), 0);
	else
		(void)guest_try_load(&vcpu, GPA + HALF);
	(void)guest_try_load(&vcpu, GPA + (is_mended ? HALF : HALF + PAGE));
}

static void shared_segment(void)
{
	int id = (int)CHECK_OK(shmget(IPC_PRIVATE, PAGES * PAGE, 0600));

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	slot_set(PAGES * PAGE);
	run_guest();
	if (is_mended)
		slot_set(0);
	detach();
	if (!is_mended)
		(void)guest_try_load(&vcpu, GPA);
}

/* The memory is libc's, which unmaps as much as that inside free(3). */
static void freed(void)
{
	void *allocated = NULL;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(posix_memalign(&allocated, PAGE, 64 * PAGES * PAGE));
	memory = allocated;
	slot_set(PAGES * PAGE);
	run_guest();
	if (is_mended)
		slot_set(0);
	free(allocated);
	if (!is_mended)
		(void)guest_try_load(&vcpu, GPA);
}

/* The guest's next store: what it had known of the page before a change is forgotten by then. */
static void wait_store(void)
{
	uint64_t *word = word_at(memory, HALF);

	__atomic_store_n(word, 0, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
		usleep(1000);
}

/*
 * A guest goes on with other memory, within one KVM_RUN. Mended: with the same, given back by
 * advice, which is a balloon's way.
 */
static void touched(void)
{
	const struct guest_op op = {
	    .code = GUEST_STORE_LOOP, .rax = 1, .rbx = GPA + HALF, .rcx = 1, .rdx = GPA};
	struct guest_thread thread;

	begin();
	thread_start(&thread, &vcpu, &op);
	wait_store();
	if (is_mended)
		CHECK_ZERO(madvise(memory + HALF, HALF, MADV_DONTNEED));
	else
		replace_half();
	wait_store();
	*word_at(memory, 0) = 1;
	CHECK_END(thread_join(&thread), END_DONE);
}

/* A window for a device's memory: reserved, and mapped and reserved again under a running guest. */
static void window(void)
{
	begin();
	reserve_half();
	run_guest();
	for (int i = 0; i < 3; i++) {
		replace_half();
		guest_store(&vcpu, GPA + HALF, 1);
		reserve_half();
		run_guest();
	}
	if (!is_mended)
		(void)guest_try_load(&vcpu, GPA + HALF);
}

/* A child's memory is its own. */
static void forked(void)
{
	pid_t child;

	begin();
	run_guest();
	child = (pid_t)CHECK_OK(fork());
	if (!child && is_mended) {
		drop_half();
		_exit(0);
	}
	if (!child) {
		begin();
		run_guest();
		drop_half();
		run_guest();
		_exit(0);
	}
	child_wait(child);
	run_guest();
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A VM ends, and the memory of its slots goes first: one by one, as they came. */
static void many(void)
{
	const uint64_t count = 16384;
	uint64_t start, came_ns, went_ns;

	begin();
	run_guest();
	/* Every other page: the slots do not touch. */
	memory = memory_alloc(2 * count * PAGE);
	start = now_ns();
	for (uint64_t i = 0; i < count; i++)
		CHECK_ZERO(REGION(&vm, .slot = (uint32_t)(SLOT + 1 + i),
				  .guest_phys_addr = 2 * GPA + 2 * i * PAGE, .memory_size = PAGE,
				  .userspace_addr = (uintptr_t)memory + 2 * i * PAGE));
	came_ns = now_ns() - start;
	start = now_ns();
	for (uint64_t i = 0; i < count; i++)
		CHECK_ZERO(munmap(memory + 2 * i * PAGE, PAGE));
	went_ns = now_ns() - start;
	CHECK(went_ns < 20 * came_ns);
}

static const struct check_test scenarios[] = {
    TEST(twice),
    TEST(unmapped),
    TEST(unmapped_in_time),
    TEST(two_vms),
    TEST(replaced),
    TEST(moved),
    TEST(emptied),
    TEST(emptied_and_watched),
    TEST(emptied_by_move),
    TEST(truncated),
    TEST(shared_segment),
    TEST(touched),
    TEST(window),
    TEST(forked),
    TEST(freed),
    TEST(many),
};

int main(int argc, char **argv)
{
	(void)argc;
	return scenario_main(argv, scenarios, sizeof(scenarios) / sizeof(scenarios[0]));
}
