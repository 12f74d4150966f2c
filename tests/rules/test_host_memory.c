/* What the client does to its own memory while a guest uses it: one test for each way. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 16ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
/* The guest counts in one page until another says stop. */
#define COUNTER (GPA + PAGE)
#define STOP (GPA + 15 * PAGE)

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static struct guest_thread thread;

static void add_slot(uint8_t *host)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)host));
}

static void open_over(uint8_t *host)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = host;
	add_slot(memory);
}

static void open_machine(void)
{
	open_over(memory_alloc(BYTES));
}

static uint64_t counter(void)
{
	return __atomic_load_n(word_at(memory, PAGE), __ATOMIC_RELAXED);
}

static void start_counting(void)
{
	thread_start(&thread, &vcpu,
		     &(struct guest_op){.code = GUEST_COUNT, .rbx = COUNTER, .rcx = STOP});
	for (int i = 0; i < 5000 && !counter(); i++)
		usleep(1000);
	CHECK(counter() > 0);
}

static void stop_counting(void)
{
	__atomic_store_n(word_at(memory, 15 * PAGE), 1, __ATOMIC_RELAXED);
	CHECK_END(thread_join(&thread), END_DONE);
}

/* The thread has ended by EFAULT. */
static void check_fault(void)
{
	CHECK_END(thread_join(&thread), END_FAULT);
}

/* And runs on from the instruction that it stopped at. */
static void resume(void)
{
	struct outcome outcome;

	*word_at(memory, 15 * PAGE) = 1;
	outcome = vcpu_run(&vcpu);
	CHECK_END(outcome, END_DONE);
}

static void unmapped(void)
{
	open_machine();
	start_counting();
	CHECK_ZERO(munmap(memory + PAGE, PAGE));
	check_fault();
	CHECK_END(vcpu_run(&vcpu), END_FAULT);
	CHECK(mmap(memory + PAGE, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + PAGE);
	resume();
	CHECK_EQ(counter(), 1);
}

static void made_read_only(void)
{
	uint64_t before;

	open_machine();
	start_counting();
	CHECK_ZERO(mprotect(memory + PAGE, PAGE, PROT_READ));
	before = counter();
	check_fault();
	CHECK_EQ(counter(), before);
	CHECK_EQ(guest_load(&vcpu, COUNTER), before);
	CHECK_END(guest_try_store(&vcpu, COUNTER, 1), END_FAULT);
	CHECK_ZERO(mprotect(memory + PAGE, PAGE, PROT_READ | PROT_WRITE));
	*word_at(memory, 15 * PAGE) = 1;
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	CHECK_EQ(counter(), 1);
}

static void whole_slot_made_read_only_under_two(void)
{
	struct guest_thread threads[2];
	struct vcpu second;
	uint64_t before[2];

	open_machine();
	vcpu_open(&vm, &second, 1);
	for (int i = 0; i < 2; i++)
		thread_start(&threads[i], i ? &second : &vcpu,
			     &(struct guest_op){.code = GUEST_COUNT,
						.rbx = COUNTER + (uint64_t)i * PAGE,
						.rcx = STOP});
	usleep(20000);
	CHECK_ZERO(mprotect(memory, BYTES, PROT_READ));
	for (uint64_t i = 0; i < 2; i++)
		before[i] = *word_at(memory, (1 + i) * PAGE);
	for (uint64_t i = 0; i < 2; i++) {
		CHECK_END(thread_join(&threads[i]), END_FAULT);
		CHECK_EQ(*word_at(memory, (1 + i) * PAGE), before[i]);
	}
	CHECK_ZERO(mprotect(memory, BYTES, PROT_READ | PROT_WRITE));
	*word_at(memory, 15 * PAGE) = 1;
	for (uint64_t i = 0; i < 2; i++) {
		CHECK_END(vcpu_run(i ? &second : &vcpu), END_DONE);
		CHECK_EQ(*word_at(memory, (1 + i) * PAGE), before[i] + 1);
	}
}

static void made_inaccessible(void)
{
	open_machine();
	start_counting();
	CHECK_ZERO(mprotect(memory + PAGE, PAGE, PROT_NONE));
	check_fault();
	CHECK_END(guest_try_load(&vcpu, COUNTER), END_FAULT);
	CHECK_ZERO(mprotect(memory + PAGE, PAGE, PROT_READ | PROT_WRITE));
	CHECK(guest_load(&vcpu, COUNTER) > 0);
}

static void given_back(void)
{
	open_machine();
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
	CHECK_ZERO(madvise(memory + 2 * PAGE, 3 * PAGE, MADV_DONTNEED));
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE),
			 page >= 2 && page < 5 ? 0 : page + 1);
	guest_store(&vcpu, GPA + 2 * PAGE, 9);
	CHECK_EQ(*word_at(memory, 2 * PAGE), 9);
}

static void given_back_under_a_writer(void)
{
	open_machine();
	start_counting();
	for (int round = 0; round < 200; round++)
		CHECK_ZERO(madvise(memory, 8 * PAGE, MADV_DONTNEED));
	/* It counts on, in the page that is there now. */
	CHECK_ZERO(madvise(memory, 8 * PAGE, MADV_DONTNEED));
	for (int i = 0; i < 5000 && !counter(); i++)
		usleep(1000);
	CHECK(counter() > 0);
	stop_counting();
}

static void replaced(void)
{
	open_machine();
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
	CHECK(mmap(memory + 3 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + 3 * PAGE);
	*word_at(memory, 4 * PAGE) = 44;
	CHECK_EQ(guest_load(&vcpu, GPA + 2 * PAGE), 3);
	CHECK_EQ(guest_load(&vcpu, GPA + 3 * PAGE), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 4 * PAGE), 44);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 6);
	guest_store(&vcpu, GPA + 3 * PAGE, 33);
	CHECK_EQ(*word_at(memory, 3 * PAGE), 33);
}

/* Once mmap() has returned, not one more store goes to what was there before. */
static void replaced_under_a_writer(void)
{
	int file = memfd_create("old", 0);
	uint8_t *other, *host = memory_alloc(BYTES);

	CHECK_ZERO(ftruncate(file, BYTES));
	CHECK(mmap(host, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == host);
	other = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(other != MAP_FAILED);
	open_over(host);
	start_counting();
	for (int round = 0; round < 50; round++) {
		uint64_t after;

		CHECK(mmap(host + PAGE, PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == host + PAGE);
		after = __atomic_load_n(word_at(other, PAGE), __ATOMIC_RELAXED);
		usleep(200);
		CHECK_EQ(__atomic_load_n(word_at(other, PAGE), __ATOMIC_RELAXED), after);
		CHECK(mmap(host + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
			   (off_t)PAGE) == host + PAGE);
	}
	stop_counting();
}

static void moved_away(void)
{
	uint8_t *elsewhere;

	open_machine();
	guest_store(&vcpu, COUNTER, 7);
	elsewhere = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(elsewhere != MAP_FAILED);
	CHECK(mremap(memory + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere) ==
	      elsewhere);
	CHECK_EQ(*word_at(elsewhere, 0), 7);
	CHECK_END(guest_try_load(&vcpu, COUNTER), END_FAULT);
	CHECK_END(guest_try_store(&vcpu, COUNTER, 8), END_FAULT);
	CHECK_EQ(*word_at(elsewhere, 0), 7);
	/* And back: the page is found under its address again. */
	CHECK(mremap(elsewhere, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + PAGE) ==
	      memory + PAGE);
	CHECK_EQ(guest_load(&vcpu, COUNTER), 7);
}

/* The child keeps what was there at the fork; the parent's guest writes on. */
static void forked(void)
{
	int to_child[2], status = 0;
	pid_t child;

	open_machine();
	guest_store(&vcpu, GPA, 1);
	CHECK_ZERO(pipe(to_child));
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		char byte;

		if (read(to_child[0], &byte, 1) != 1)
			_exit(2);
		_exit(*word_at(memory, 0) == 1 ? 0 : 1);
	}
	guest_store(&vcpu, GPA, 2);
	CHECK_EQ(*word_at(memory, 0), 2);
	CHECK_EQ(guest_load(&vcpu, GPA), 2);
	CHECK_EQ(write(to_child[1], "x", 1), 1);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 2);
}

static void forked_under_a_writer(void)
{
	open_machine();
	start_counting();
	for (int round = 0; round < 20; round++) {
		int status = 0;
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0) {
			uint64_t before = counter();

			usleep(1000);
			_exit(counter() == before ? 0 : 1);
		}
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(status, 0);
	}
	stop_counting();
}

static uint8_t *map_memfd(int *file)
{
	uint8_t *host = memory_alloc(BYTES);

	*file = memfd_create("memory", 0);
	CHECK(*file >= 0);
	CHECK_ZERO(ftruncate(*file, BYTES));
	CHECK(mmap(host, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, *file, 0) == host);
	return host;
}

static void hole_in_a_file(void)
{
	int file;

	open_over(map_memfd(&file));
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
	CHECK_ZERO(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, 2 * PAGE));
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE),
			 page == 2 || page == 3 ? 0 : page + 1);
	guest_store(&vcpu, GPA + 3 * PAGE, 5);
	CHECK_EQ(*word_at(memory, 3 * PAGE), 5);
}

/* A file that becomes shorter takes its pages along. */
static void truncated_file(void)
{
	struct outcome outcome;
	int file;

	open_over(map_memfd(&file));
	guest_store(&vcpu, GPA + 8 * PAGE, 1);
	CHECK_ZERO(ftruncate(file, 4 * PAGE));
	outcome = guest_try_load(&vcpu, GPA + 8 * PAGE);
	CHECK_EQ(outcome.error, EFAULT);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_ZERO(ftruncate(file, BYTES));
	CHECK_EQ(guest_load(&vcpu, GPA + 8 * PAGE), 0);
}

static void locked(void)
{
	open_machine();
	guest_store(&vcpu, GPA, 1);
	if (mlock(memory, BYTES))
		check_skip("nothing may be locked");
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	CHECK_ZERO(munlock(memory, BYTES));
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
}

static int open_userfaultfd(uint64_t mode)
{
	return userfault_open(memory, BYTES, mode);
}

/* Newer than some headers: pages that raise the signal of a memory failure when touched. */
#define POISON_FEATURE (1ul << 14)
struct poison_request {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define POISON_IOCTL _IOWR(UFFDIO, 0x08, struct poison_request)

static volatile sig_atomic_t lost_code;
static void *volatile lost_address;
static sigjmp_buf touch_end;
static volatile sig_atomic_t touching;

static void note_lost(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	lost_code = info->si_code;
	lost_address = info->si_addr;
	if (touching)
		siglongjmp(touch_end, 1);
}

static void lose_page(uint8_t *page)
{
	struct uffdio_api api = {.api = UFFD_API, .features = POISON_FEATURE};
	struct uffdio_register request = {.range = {(uintptr_t)memory, BYTES},
					  .mode = UFFDIO_REGISTER_MODE_MISSING};
	struct poison_request poison = {.range = {(uintptr_t)page, PAGE}};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &request) ||
	    ioctl(fd, POISON_IOCTL, &poison))
		check_skip("this kernel cannot make pages that look lost");
	/* The others are ordinary memory. */
	CHECK_ZERO(ioctl(fd, UFFDIO_UNREGISTER, &request.range));
	touching = 1;
	if (!sigsetjmp(touch_end, 1))
		(void)*(volatile uint8_t *)page;
	touching = 0;
	if (lost_code != BUS_MCEERR_AR)
		check_skip("this kernel knows no lost pages");
}

/* The client's thread gets the signal, with the client's address; the run ends by it. */
static void lost_page(void)
{
	struct sigaction action = {.sa_sigaction = note_lost, .sa_flags = SA_SIGINFO};
	uint8_t *page;

	open_machine();
	page = memory + PAGE;
	CHECK_ZERO(sigaction(SIGBUS, &action, NULL));
	lose_page(page);
	for (int round = 0; round < 2; round++) {
		lost_code = 0;
		lost_address = NULL;
		CHECK_END(guest_try_load(&vcpu, COUNTER), END_SIGNAL);
		CHECK_EQ(lost_code, BUS_MCEERR_AR);
		CHECK_EQ((uintptr_t)lost_address & ~(PAGE - 1), (uintptr_t)page);
	}
	/* Another page in its place, and the same instruction goes on. */
	CHECK(mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == page);
	*word_at(page, 0) = 5;
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	CHECK_EQ(guest_load(&vcpu, COUNTER), 5);
}

static void missing_pages(void)
{
	struct outcome outcome;
	int fd;

	open_machine();
	fd = open_userfaultfd(UFFDIO_REGISTER_MODE_MISSING);
	thread_start(&thread, &vcpu, &(struct guest_op){.code = GUEST_LOAD8, .rbx = COUNTER});
	CHECK_EQ(userfault_next(fd, NULL), (uintptr_t)memory + PAGE);
	CHECK(!thread_ended_within(&thread, 20));
	userfault_give(fd, (uintptr_t)memory + PAGE, 0x1234);
	outcome = thread_join(&thread);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0x1234);
}

/* A signal ends the wait for a page; later the instruction runs again. */
static void missing_page_and_a_signal(void)
{
	struct outcome outcome;
	int fd;

	open_machine();
	fd = open_userfaultfd(UFFDIO_REGISTER_MODE_MISSING);
	thread_start(&thread, &vcpu, &(struct guest_op){.code = GUEST_LOAD8, .rbx = COUNTER});
	CHECK_EQ(userfault_next(fd, NULL), (uintptr_t)memory + PAGE);
	CHECK(!thread_ended_within(&thread, 20));
	thread_kick(&thread);
	outcome = thread_join(&thread);
	CHECK_END(outcome, END_SIGNAL);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_INTR);
	userfault_give(fd, (uintptr_t)memory + PAGE, 0x77);
	outcome = vcpu_run(&vcpu);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0x77);
}

static void missing_page_for_two(void)
{
	struct guest_thread threads[2];
	struct vcpu second;
	int fd;

	open_machine();
	vcpu_open(&vm, &second, 1);
	fd = open_userfaultfd(UFFDIO_REGISTER_MODE_MISSING);
	for (int i = 0; i < 2; i++)
		thread_start(&threads[i], i ? &second : &vcpu,
			     &(struct guest_op){.code = GUEST_LOAD8, .rbx = COUNTER});
	CHECK_EQ(userfault_next(fd, NULL), (uintptr_t)memory + PAGE);
	CHECK(!thread_ended_within(&threads[0], 20));
	CHECK(!thread_ended_within(&threads[1], 20));
	/* The thread that serves the faults may change other memory meanwhile. */
	CHECK_ZERO(munmap(memory + 8 * PAGE, PAGE));
	userfault_give(fd, (uintptr_t)memory + PAGE, 5);
	for (int i = 0; i < 2; i++) {
		struct outcome outcome = thread_join(&threads[i]);

		CHECK_END(outcome, END_DONE);
		CHECK_EQ(outcome.value, 5);
	}
}

/* Memory of a device that only its own table of pages knows. */
static void device_memory(void)
{
	int file = open("/dev/mem", O_RDONLY);
	uint8_t *page;

	if (file < 0)
		check_skip("no memory of a device to map");
	page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0xf0000);
	if (page == MAP_FAILED)
		check_skip("no memory of a device to map");
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)page));
	CHECK_EQ(guest_load(&vcpu, GPA), *word_at(page, 0));
	CHECK_END(guest_try_store(&vcpu, GPA, 1), END_MMIO);
}

/* A store that the device's entry refuses, though the mapping allows it, is the client's to
 * emulate. */
static void check_emulated(uint64_t gpa)
{
	uint64_t before = *word_at(memory, gpa - GPA);
	struct outcome outcome = guest_try_store(&vcpu, gpa, 7);

	CHECK_END(outcome, END_MMIO);
	CHECK_EQ(outcome.mmio.gpa, gpa);
	CHECK_EQ(outcome.mmio.data, 7);
	CHECK(outcome.mmio.is_write);
	vcpu_complete(&vcpu);
	CHECK_EQ(*word_at(memory, gpa - GPA), before);
}

/* Are there bare frames behind the address, which no page objects count? */
static bool is_frames(const void *address)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	bool is_inside = false, found = false;
	unsigned long start, end;
	char line[512];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			is_inside = (uintptr_t)address - start < end - start;
		else if (is_inside && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, " pf ");
	}
	return found;
}

/* A driver's buffer that a program may map for writing, with read-only entries but for its first.
 * To older kernels they are ordinary pages, and a refused write is an error. */
static uint8_t *driver_buffer(size_t size_bytes)
{
	struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE,
					.size = sizeof(event),
					.config = PERF_COUNT_SW_CPU_CLOCK,
					.disabled = 1};
	int file = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
	uint8_t *buffer = MAP_FAILED;

	if (file >= 0)
		buffer = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (buffer == MAP_FAILED)
		check_skip("no performance counters");
	if (!is_frames(buffer))
		check_skip("this kernel's performance counters have ordinary pages");
	return buffer;
}

static void device_memory_that_its_driver_protects(void)
{
	uint8_t *buffer = driver_buffer(3 * PAGE);
	/* In the first page, a word that the driver leaves alone. */
	const uint64_t own = GPA + 1032;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = buffer;
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = 3 * PAGE,
			  .userspace_addr = (uintptr_t)buffer));
	guest_store(&vcpu, own, 3);
	CHECK_EQ(*word_at(memory, own - GPA), 3);
	/* Written first, and read first. */
	check_emulated(GPA + PAGE);
	CHECK_EQ(guest_load(&vcpu, GPA + 2 * PAGE), 0);
	check_emulated(GPA + 2 * PAGE);
	CHECK_END(GUEST(&vcpu, GUEST_INCREMENT, .rbx = own), END_DONE);
	CHECK_EQ(*word_at(memory, own - GPA), 4);
}

/*
 * F-058. What the hypervisor takes into its own hands it must be able to keep: a VMCB in a driver's
 * frames, which nothing counts, is none, unless the parameter allows it.
 */
static void frames_in_the_hypervisors_hands(void)
{
	struct outcome outcome;
	uint8_t *buffer = driver_buffer(3 * PAGE);

	open_machine();
	vcpu_enable_svm(&vcpu);
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .guest_phys_addr = 2 * GPA,
			  .memory_size = 3 * PAGE, .userspace_addr = (uintptr_t)buffer));
	CHECK_END(GUEST(&vcpu, GUEST_VMLOAD, .rbx = GPA + PAGE), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_VMLOAD, .rbx = GPA + 2 * PAGE), END_DONE);
	outcome = GUEST(&vcpu, GUEST_VMLOAD, .rbx = 2 * GPA);
	if (parameter_is_on("kvm", "allow_unsafe_mappings")) {
		CHECK_EQ(outcome.end, END_DONE);
		return;
	}
	CHECK_EQ(outcome.end, END_OTHER);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_INTERNAL_ERROR);
	/* To the guest's own accesses it is memory as any other. */
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + 1032), *word_at(buffer, 1032));
}

/* Private pages do not come from the address, so what happens there is nothing to them. */
static void private_pages_do_not_mind(void)
{
	int file;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	memory = memory_alloc(BYTES);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)file));
	CHECK_ZERO(vm_set_attributes(&vm, GPA, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	guest_store(&vcpu, GPA, 5);
	guest_store(&vcpu, GPA + PAGE, 6);
	CHECK_ZERO(munmap(memory, 2 * PAGE));
	CHECK_EQ(guest_load(&vcpu, GPA), 5);
	CHECK_END(guest_try_load(&vcpu, GPA + PAGE), END_FAULT);
}

static uint32_t enough;

static void *unmap_all_the_while(void *count)
{
	for (uint64_t done = 0; !__atomic_load_n(&enough, __ATOMIC_RELAXED);) {
		uint8_t *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(page != MAP_FAILED);
		CHECK_ZERO(munmap(page, PAGE));
		__atomic_store_n((uint64_t *)count, ++done, __ATOMIC_RELAXED);
	}
	return count;
}

/* Threads that unmap memory one after the other keep nothing else from going on. */
static void a_stream_of_unmappings(void)
{
	pthread_t threads[2];
	uint64_t counts[2] = {0}, before[2];
	pid_t child;
	int made;

	alarm(60);
	open_machine();
	for (int i = 0; i < 2; i++)
		CHECK_ZERO(pthread_create(&threads[i], NULL, unmap_all_the_while, &counts[i]));
	for (int turn = 0; turn < 15; turn++) {
		for (int i = 0; i < 2; i++)
			before[i] = __atomic_load_n(&counts[i], __ATOMIC_RELAXED);
		made = (int)CHECK_OK(ioctl(vm.kvm, KVM_CREATE_VM, 0));
		CHECK_OK(ioctl(made, KVM_CREATE_VCPU, 0));
		CHECK_ZERO(close(made));
		CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .guest_phys_addr = 2 * GPA,
				  .memory_size = PAGE, .userspace_addr = (uintptr_t)memory));
		CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .guest_phys_addr = 2 * GPA));
		child = fork();
		CHECK(child >= 0);
		if (!child)
			_exit(0);
		CHECK_EQ(waitpid(child, NULL, 0), child);
		guest_store(&vcpu, GPA, (uint64_t)turn);
		/* The stream goes on beside it. */
		for (int i = 0; i < 2; i++)
			while (__atomic_load_n(&counts[i], __ATOMIC_RELAXED) == before[i])
				usleep(100);
	}
	__atomic_store_n(&enough, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		CHECK_ZERO(pthread_join(threads[i], NULL));
	alarm(0);
}

/* Only slots over the range lose anything. */
static void other_memory_does_not_mind(void)
{
	uint8_t *other;
	uint64_t faults;

	open_machine();
	other = memory_alloc(BYTES);
	guest_store(&vcpu, GPA, 5);
	other[0] = 1;
	faults = stat_get(vcpu.fd, "pf_taken");
	CHECK_ZERO(mprotect(other, BYTES, PROT_NONE));
	CHECK_ZERO(munmap(other, BYTES));
	CHECK_EQ(guest_load(&vcpu, GPA), 5);
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
}

/* Half a page is a whole one: the range is widened to pages at both ends. */
static void ranges_are_widened_to_pages(void)
{
	open_machine();
	guest_store(&vcpu, COUNTER, 5);
	CHECK_ZERO(munmap(memory + PAGE, 1));
	CHECK_END(guest_try_load(&vcpu, COUNTER), END_FAULT);
	CHECK_EQ(guest_load(&vcpu, COUNTER + PAGE), 0);
}

static void seen_in_every_address_of_a_slot(void)
{
	open_machine();
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)memory + PAGE));
	guest_store(&vcpu, COUNTER, 5);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 5);
	CHECK_ZERO(munmap(memory + PAGE, PAGE));
	CHECK_END(guest_try_load(&vcpu, COUNTER), END_FAULT);
	CHECK_END(guest_try_load(&vcpu, 2 * GPA), END_FAULT);
}

#define HEAP_HOLE (256ul << 20) /* as libc has a heap of a thread's */

/*
 * The client makes holes of 1 to 512 pages and a large one, and calls what takes memory of Quire's
 * own. None of it lies in a hole afterwards: a guest with a slot over one would read and write it
 * there.
 */
static void holes_stay_empty(void)
{
	enum { HOLES = 10 };
	uint8_t *holes[HOLES], *next = memory_alloc((HOLES + 1 + (1ul << HOLES)) * PAGE);
	uint8_t *large = mmap(NULL, HEAP_HOLE + 2 * PAGE, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, 0), .gsi = 5};
	int other;

	open_machine();
	for (int i = 0; i < HOLES; i++) {
		holes[i] = next + PAGE;
		next = holes[i] + (PAGE << i);
		CHECK_ZERO(munmap(holes[i], PAGE << i));
	}
	CHECK(large != MAP_FAILED);
	CHECK_ZERO(munmap(large + PAGE, HEAP_HOLE));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(guest_load(&vcpu, COUNTER), 0);
	other = (int)CHECK_OK(ioctl(vm.kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM));
	CHECK_ZERO(ioctl(other, KVM_CREATE_IRQCHIP, 0));
	CHECK_ZERO(ioctl(other, KVM_IRQFD, &irqfd));
	CHECK_OK(ioctl(other, KVM_CREATE_VCPU, 0ul));
	if (vm_cap(&(struct vm){.fd = other}, KVM_CAP_GUEST_MEMFD))
		CHECK_OK(vm_gmem(&(struct vm){.fd = other}, 16 * PAGE, 0));
	CHECK_ZERO(REGION(&(struct vm){.fd = other}, .slot = SLOT, .flags = KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	for (int i = 0; i < HOLES; i++)
		CHECK(mmap(holes[i], PAGE << i, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == holes[i]);
	CHECK(mmap(large + PAGE, HEAP_HOLE, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == large + PAGE);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(unmapped),
	    TEST(made_read_only),
	    TEST(whole_slot_made_read_only_under_two),
	    TEST(made_inaccessible),
	    TEST(given_back),
	    TEST(given_back_under_a_writer),
	    TEST(replaced),
	    TEST(replaced_under_a_writer),
	    TEST(moved_away),
	    TEST(forked),
	    TEST(forked_under_a_writer),
	    TEST(hole_in_a_file),
	    TEST(truncated_file),
	    TEST(locked),
	    TEST(missing_pages),
	    TEST(lost_page),
	    TEST(missing_page_and_a_signal),
	    TEST(missing_page_for_two),
	    TEST(device_memory),
	    TEST(device_memory_that_its_driver_protects),
	    TEST(frames_in_the_hypervisors_hands),
	    TEST(private_pages_do_not_mind),
	    TEST(other_memory_does_not_mind),
	    TEST(a_stream_of_unmappings),
	    TEST(ranges_are_widened_to_pages),
	    TEST(seen_in_every_address_of_a_slot),
	    TEST(holes_stay_empty),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
