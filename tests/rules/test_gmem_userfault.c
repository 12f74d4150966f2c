/* A userfaultfd that watches a mapping of a guest_memfd, as it was posted. The parameter
 * quire_gmem_userfault switches it on for new files; a KVM without it skips. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 64ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define MINOR UFFDIO_REGISTER_MODE_MINOR

static struct vm vm;
static struct vcpu vcpu;
static struct guest_thread guest;
static uint8_t *mapped;
static int file, events;

static void parameter_set(const char *value)
{
	int parameter = open("/sys/module/kvm/parameters/quire_gmem_userfault", O_WRONLY);

	if (parameter < 0)
		check_skip("no userfaultfd on guest_memfd");
	CHECK_EQ(write(parameter, value, 1), 1);
	close(parameter);
}

static uint8_t *map_file(void)
{
	uint8_t *address = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	CHECK(address != MAP_FAILED);
	return address;
}

static void open_file(const char *value, uint64_t flags)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	parameter_set(value);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, flags));
	mapped = map_file();
}

/* The guest's memory is the file's, or what is mapped at the client's addresses. */
static void open_watched(uint64_t mode, int by_address)
{
	open_file("Y", SHARED);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = by_address ? 0 : KVM_MEM_GUEST_MEMFD,
			  .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)mapped,
			  .guest_memfd = by_address ? 0 : (uint32_t)file));
	events = userfault_open(mapped, BYTES, mode);
}

static int try_register(void *address, uint64_t size_bytes, uint64_t mode)
{
	struct uffdio_register request = {.range = {(uintptr_t)address, size_bytes}, .mode = mode};

	return ioctl(events, UFFDIO_REGISTER, &request);
}

/* A thread of the client's that reads a word. */
struct reader {
	pthread_t thread;
	const volatile uint64_t *word;
	uint64_t value;
};

static void *read_word(void *opaque)
{
	struct reader *reader = opaque;

	reader->value = *reader->word;
	return NULL;
}

static void start_reader(struct reader *reader, uint64_t page)
{
	reader->word = word_at(mapped, page * PAGE);
	CHECK_ZERO(pthread_create(&reader->thread, NULL, read_word, reader));
}

static uint64_t end_reader(struct reader *reader)
{
	CHECK_ZERO(pthread_join(reader->thread, NULL));
	return reader->value;
}

/* The next fault is of this page; is it there already? */
static void expect(uint64_t page, int minor)
{
	int is_minor;

	CHECK_EQ(userfault_next(events, &is_minor), (uintptr_t)mapped + page * PAGE);
	CHECK_EQ(is_minor, minor);
}

static void give(uint64_t page, uint64_t word)
{
	userfault_give(events, (uintptr_t)mapped + page * PAGE, word);
}

static void go_on(uint64_t page)
{
	userfault_continue(events, (uintptr_t)mapped + page * PAGE);
}

static void start_guest(enum guest_code code, uint64_t page, uint64_t value)
{
	thread_start(&guest, &vcpu,
		     &(struct guest_op){.code = code, .rax = value, .rbx = GPA + page * PAGE});
}

static void refused_while_it_is_off(void)
{
	open_file("N", SHARED);
	events = userfault_open(memory_alloc(PAGE), PAGE, MISSING);
	CHECK_ERR(try_register(mapped, BYTES, MISSING), EINVAL);
	CHECK_ERR(try_register(mapped + PAGE, PAGE, MISSING | MINOR), EINVAL);
	CHECK_ERR(try_register(mapped, PAGE, MINOR), EINVAL);
	/* Nor of a file that is made by then. */
	parameter_set("Y");
	CHECK_ERR(try_register(mapped, BYTES, MISSING), EINVAL);
	*word_at(mapped, 0) = 1;
	/* Nothing of KVM's else is memory of that kind. */
	CHECK_ERR(try_register(vcpu.run, PAGE, MISSING), EINVAL);
}

static void not_without_init_shared(void)
{
	open_file("Y", GUEST_MEMFD_FLAG_MMAP);
	events = userfault_open(memory_alloc(PAGE), PAGE, MISSING);
	CHECK_ERR(try_register(mapped, BYTES, MISSING), EINVAL);
	CHECK_ERR(try_register(mapped, BYTES, MINOR), EINVAL);
}

static void missing_for_the_client(void)
{
	struct uffdio_zeropage zero = {.range = {0, PAGE}};
	struct uffdio_copy again = {.len = PAGE, .src = (uintptr_t)memory_alloc(PAGE)};
	struct reader reader;

	open_watched(MISSING, 0);
	start_reader(&reader, 3);
	expect(3, 0);
	give(3, 0x33);
	CHECK_EQ(end_reader(&reader), 0x33);
	CHECK_EQ(guest_load(&vcpu, GPA + 3 * PAGE), 0x33);
	start_reader(&reader, 4);
	expect(4, 0);
	zero.range.start = (uintptr_t)mapped + 4 * PAGE;
	CHECK_ZERO(ioctl(events, UFFDIO_ZEROPAGE, &zero));
	CHECK_EQ(end_reader(&reader), 0);
	again.dst = (uintptr_t)mapped + 3 * PAGE;
	CHECK_ERR(ioctl(events, UFFDIO_COPY, &again), EEXIST);
	/* What was punched is missing again. */
	CHECK_ZERO(fallocate(file, PUNCH, 3 * PAGE, PAGE));
	start_reader(&reader, 3);
	expect(3, 0);
	give(3, 0x34);
	CHECK_EQ(end_reader(&reader), 0x34);
	CHECK_EQ(guest_load(&vcpu, GPA + 3 * PAGE), 0x34);
	CHECK(userfault_is_quiet(events));
}

static void minor_for_the_client(void)
{
	struct uffdio_continue absent = {.range = {0, PAGE}};
	uint8_t *second;
	struct reader reader;

	open_watched(MINOR, 0);
	second = map_file();
	guest_store(&vcpu, GPA + 2 * PAGE, 1);
	start_reader(&reader, 2);
	expect(2, 1);
	/* The other mapping is not watched: by that the page gets what it is to hold. */
	CHECK_EQ(*word_at(second, 2 * PAGE), 1);
	*word_at(second, 2 * PAGE) = 2;
	go_on(2);
	CHECK_EQ(end_reader(&reader), 2);
	absent.range.start = (uintptr_t)mapped + 5 * PAGE;
	CHECK_ERR(ioctl(events, UFFDIO_CONTINUE, &absent), EFAULT);
	/* A page that does not exist is made, unless MISSING is asked for. */
	CHECK_EQ(*word_at(mapped, 5 * PAGE), 0);
	CHECK(userfault_is_quiet(events));
}

/* A fault of the guest's asks the file, as KVM's does, and no userfaultfd. */
static void the_guest_of_a_file_does_not_wait(void)
{
	struct reader reader;

	open_watched(MISSING | MINOR, 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 7 * PAGE), 0);
	guest_store(&vcpu, GPA + 8 * PAGE, 8);
	CHECK(userfault_is_quiet(events));
	start_reader(&reader, 8);
	expect(8, 1);
	go_on(8);
	CHECK_EQ(end_reader(&reader), 8);
}

/* A guest that touches page after page makes these alone: the next one is missing to the client. */
static void the_guest_makes_no_page_ahead(void)
{
	struct reader reader;

	open_watched(MISSING, 0);
	for (uint64_t page = 0; page < 36; page++)
		guest_store(&vcpu, GPA + page * PAGE, page);
	for (uint64_t page = 36; page < PAGES; page++) {
		start_reader(&reader, page);
		expect(page, 0);
		give(page, page + 1);
		CHECK_EQ(end_reader(&reader), page + 1);
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page + 1);
	}
}

/* What quire_gmem_huge_pages makes of a block does not concern such a file. */
static void no_huge_pages(void)
{
	int parameter = open("/sys/module/kvm/parameters/quire_gmem_huge_pages", O_WRONLY);
	struct reader reader;

	if (parameter < 0)
		check_skip("no huge pages");
	CHECK_EQ(write(parameter, "Y", 1), 1);
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	parameter_set("Y");
	file = (int)CHECK_OK(vm_gmem(&vm, HUGE_PAGE, SHARED));
	mapped = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(mapped != MAP_FAILED);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = HUGE_PAGE, .userspace_addr = (uintptr_t)mapped,
			  .guest_memfd = (uint32_t)file));
	events = userfault_open(mapped, HUGE_PAGE, MISSING);
	guest_store(&vcpu, GPA, 1);
	start_reader(&reader, 9);
	expect(9, 0);
	give(9, 9);
	CHECK_EQ(end_reader(&reader), 9);
	CHECK_EQ(guest_load(&vcpu, GPA + 9 * PAGE), 9);
}

/* A slot of the client's addresses waits as the client does. */
static void the_guest_of_a_mapping_waits(void)
{
	struct outcome outcome;

	open_watched(MISSING | MINOR, 1);
	start_guest(GUEST_LOAD8, 3, 0);
	expect(3, 0);
	CHECK(!thread_ended_within(&guest, 20));
	give(3, 0x33);
	outcome = thread_join(&guest);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0x33);
	/* It exists, and is not in this mapping's tables. */
	*word_at(map_file(), 4 * PAGE) = 0x44;
	start_guest(GUEST_STORE8, 4, 0x45);
	expect(4, 1);
	CHECK(!thread_ended_within(&guest, 20));
	go_on(4);
	CHECK_END(thread_join(&guest), END_DONE);
	CHECK_EQ(*word_at(mapped, 4 * PAGE), 0x45);
	/* From here on the guest has the page, until the client's tables lose it. */
	CHECK_EQ(guest_load(&vcpu, GPA + 4 * PAGE), 0x45);
	CHECK_ZERO(madvise(mapped + 4 * PAGE, PAGE, MADV_DONTNEED));
	start_guest(GUEST_LOAD8, 4, 0);
	expect(4, 1);
	go_on(4);
	CHECK_EQ(thread_join(&guest).value, 0x45);
	CHECK_ZERO(fallocate(file, PUNCH, 4 * PAGE, PAGE));
	start_guest(GUEST_LOAD8, 4, 0);
	expect(4, 0);
	give(4, 0x46);
	CHECK_EQ(thread_join(&guest).value, 0x46);
}

static void a_signal_ends_the_wait(void)
{
	open_watched(MISSING, 1);
	start_guest(GUEST_LOAD8, 3, 0);
	expect(3, 0);
	CHECK(!thread_ended_within(&guest, 20));
	thread_kick(&guest);
	CHECK_END(thread_join(&guest), END_SIGNAL);
	give(3, 0x77);
	CHECK_EQ(vcpu_run(&vcpu).value, 0x77);
}

/* The last close takes the file away; the mapping keeps it until then, and its registration. */
static void the_mapping_outlives_the_descriptor(void)
{
	struct reader reader;

	open_watched(MISSING, 0);
	CHECK_ZERO(close(file));
	start_reader(&reader, 1);
	expect(1, 0);
	give(1, 11);
	CHECK_EQ(end_reader(&reader), 11);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 11);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(refused_while_it_is_off),
	    TEST(not_without_init_shared),
	    TEST(missing_for_the_client),
	    TEST(minor_for_the_client),
	    TEST(the_guest_of_a_file_does_not_wait),
	    TEST(the_guest_makes_no_page_ahead),
	    TEST(no_huge_pages),
	    TEST(the_guest_of_a_mapping_waits),
	    TEST(a_signal_ends_the_wait),
	    TEST(the_mapping_outlives_the_descriptor),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
