/* Which pages are left to the host by an asynchronous page fault, and what becomes of them. */
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "async_guest.h"

static char *cold_name;

/* What is not missing is not left to the host: memory that was never touched is made at once. */
static void new_memory_is_no_wait(void)
{
	uint8_t *fresh;

	open_machine(ALWAYS);
	fresh = memory_alloc(4 * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)fresh));
	for (uint64_t page = 0; page < 4; page++) {
		start(SLOW_PAGES + page, FLAG_IF);
		finish(0);
	}
	CHECK_EQ(notes->faults, 0);
}

/* The slot gets other memory while its page is on the way: the guest finds what is there then. */
static void other_memory_meanwhile(void)
{
	uint8_t *other;

	open_machine(ALWAYS);
	other = memory_alloc(SLOW_PAGES * PAGE);
	*word_at(other, 0) = 0x3000;
	start_and_miss(FLAG_IF);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = SLOW_GPA, .memory_size = 0));
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = SLOW_GPA,
			  .memory_size = SLOW_PAGES * PAGE, .userspace_addr = (uintptr_t)other));
	bring(0);
	finish(0x3000);
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->readies, 1);
}

/* The page that is on its way is given up, with the memory around it, and mapped anew. */
static void unmapped_meanwhile(void)
{
	open_machine(ALWAYS);
	start_and_miss(FLAG_IF);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK(mmap(slow, SLOW_PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == slow);
	CHECK_ZERO(close(events));
	finish(0);
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->readies, 1);
}

/* A slot of @mapped behind the slow one, whose pages @mode and @features of a userfaultfd hold. */
static void watch_slot(uint8_t *mapped, uint64_t mode, uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	struct uffdio_register watch = {.range = {.start = (uintptr_t)mapped, .len = 4 * PAGE},
					.mode = mode};

	CHECK_ZERO(close(events));
	events = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	CHECK(events >= 0);
	if (ioctl(events, UFFDIO_API, &api))
		check_skip("a userfaultfd that cannot");
	CHECK_ZERO(ioctl(events, UFFDIO_REGISTER, &watch));
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)mapped));
	slow = mapped;
}

/* A page that exists, and has no entry in the client's tables. */
static void a_minor_fault_is_left_to_the_host(void)
{
	struct uffdio_continue go_on = {.range.len = PAGE};
	int fd = memfd_create("async_pf", 0);
	uint64_t value = 0x4000;

	open_machine(ALWAYS);
	CHECK_ZERO(ftruncate(fd, 4 * PAGE));
	CHECK_EQ(pwrite(fd, &value, sizeof(value), 0), sizeof(value));
	watch_slot(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
		   UFFDIO_REGISTER_MODE_MINOR, UFFD_FEATURE_MINOR_SHMEM);
	start(SLOW_PAGES, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	go_on.range.start = (uintptr_t)slow;
	CHECK_ZERO(ioctl(events, UFFDIO_CONTINUE, &go_on));
	finish(0x4000);
	CHECK_EQ(notes->faults, 1);
}

/* A page that may be read, but not written. */
static void a_protected_page_is_left_to_the_host(void)
{
	struct uffdio_writeprotect protect = {.range.len = PAGE,
					      .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	uint8_t *mapped = memory_alloc(4 * PAGE);

	open_machine(ALWAYS);
	*word_at(mapped, 0) = 0x5000;
	watch_slot(mapped, UFFDIO_REGISTER_MODE_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	protect.range.start = (uintptr_t)mapped;
	CHECK_ZERO(ioctl(events, UFFDIO_WRITEPROTECT, &protect));
	prepare_store(SLOW_PAGES, 0x6000);
	CHECK_ZERO(pthread_create(&thread, NULL, runner, &outcome));
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK_EQ(*word_at(mapped, 0), 0x5000);
	protect.mode = 0;
	CHECK_ZERO(ioctl(events, UFFDIO_WRITEPROTECT, &protect));
	finish(0x6000);
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(*word_at(mapped, 0), 0x6000);
}

/* The client may not write there, nor does the guest. */
static void a_page_to_read_is_left_to_the_host(void)
{
	uint8_t *mapped = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(mapped != MAP_FAILED);
	open_machine(ALWAYS);
	watch_slot(mapped, UFFDIO_REGISTER_MODE_MISSING, 0);
	start(SLOW_PAGES, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, notes->other_work + ENOUGH));
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->faults, 1);
}

/* What is waited for and never comes is the client's to hear of, as without asynchronous faults. */
static void a_page_that_cannot_come_ends_the_run(void)
{
	uint8_t *mapped = memory_alloc(4 * PAGE);
	struct timespec until;

	open_machine(ALWAYS);
	watch_slot(mapped, UFFDIO_REGISTER_MODE_MISSING, 0);
	CHECK_ZERO(mprotect(mapped, 4 * PAGE, PROT_NONE));
	start(SLOW_PAGES, FLAG_IF);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_MS / 1000;
	CHECK_ZERO(pthread_timedjoin_np(thread, NULL, &until));
	CHECK_END(outcome, END_FAULT);
}

/* A file of four pages that are on the disk and not in memory: its mapping. */
static uint8_t *map_cold_file(int is_deleted)
{
	char name[] = "./async_pf.XXXXXX";
	unsigned char resident[4];
	uint64_t words[512] = {0};
	struct statfs status;
	int fd = mkstemp(name);
	uint8_t *mapped;

	CHECK(fd >= 0);
	for (uint64_t i = 0; i < 4; i++) {
		words[0] = 0x2000 + i;
		CHECK_EQ(write(fd, words, PAGE), PAGE);
	}
	CHECK_ZERO(fsync(fd));
	CHECK_ZERO(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	CHECK_ZERO(fstatfs(fd, &status));
	mapped = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED);
	if (is_deleted)
		CHECK_ZERO(unlink(name));
	CHECK_ZERO(mincore(mapped, 4 * PAGE, resident));
	/* The name is needed while the machine asks where the file is. */
	cold_name = is_deleted ? NULL : strdup(name);
	if (status.f_type == TMPFS_MAGIC || (resident[0] & 1)) {
		(void)unlink(name);
		check_skip("no file here that is not in memory");
	}
	return mapped;
}

static void load_cold_file(int is_deleted)
{
	uint8_t *mapped;

	open_machine(ALWAYS);
	mapped = map_cold_file(is_deleted);
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)mapped));
	start(SLOW_PAGES, FLAG_IF);
	finish(0x2000);
	if (cold_name)
		CHECK_ZERO(unlink(cold_name));
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->ready_token, notes->fault_token);
}

static void a_page_on_a_disk_is_left_to_the_host(void)
{
	load_cold_file(0);
}

static void so_is_one_of_a_file_without_a_name(void)
{
	load_cold_file(1);
}

/* A file that is memory is none to wait for. */
static void a_hole_in_a_memfd_is_no_wait(void)
{
	int fd = memfd_create("async_pf", 0);
	uint8_t *mapped;

	open_machine(ALWAYS);
	CHECK_ZERO(ftruncate(fd, 4 * PAGE));
	mapped = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED);
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)mapped));
	start(SLOW_PAGES, FLAG_IF);
	finish(0);
	CHECK_EQ(notes->faults, 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(new_memory_is_no_wait),
	    TEST(other_memory_meanwhile),
	    TEST(unmapped_meanwhile),
	    TEST(a_minor_fault_is_left_to_the_host),
	    TEST(a_protected_page_is_left_to_the_host),
	    TEST(a_page_to_read_is_left_to_the_host),
	    TEST(a_page_that_cannot_come_ends_the_run),
	    TEST(a_page_on_a_disk_is_left_to_the_host),
	    TEST(so_is_one_of_a_file_without_a_name),
	    TEST(a_hole_in_a_memfd_is_no_wait),
	};

	return async_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
