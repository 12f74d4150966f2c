/*
 * A change of a slot's memory may wait for the reader of a userfaultfd, and the reader may make any
 * call of KVM's or about memory before it goes on: nothing of ours is held over the change.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
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
#define PAGES 64ul
#define SECONDS 20

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory, *own;
static int events;
static int spare; /* of a VM that no call needs */

/* What waits. Each touches pages of "memory" that the userfaultfd watches. */
static void change_advise(void)
{
	CHECK_ZERO(madvise(memory + PAGE, PAGE, MADV_DONTNEED));
}

static void change_unmap(void)
{
	CHECK_ZERO(munmap(memory + 2 * PAGE, PAGE));
}

static void change_map_over(void)
{
	CHECK(mmap(memory + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

static void change_move(void)
{
	CHECK(mremap(memory + 2 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     own + 4 * PAGE) != MAP_FAILED);
}

static void change_fork(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (!child)
		_exit(0);
	CHECK_EQ(waitpid(child, NULL, 0), child);
}

/* What the reader calls meanwhile. */
static void call_map(void)
{
	CHECK(memory_alloc(PAGE) != NULL);
}

static void call_unmap(void)
{
	CHECK_ZERO(munmap(own, PAGE));
}

static void call_protect(void)
{
	CHECK_ZERO(mprotect(own + PAGE, PAGE, PROT_READ));
}

static void call_move(void)
{
	CHECK(mremap(own + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE) != MAP_FAILED);
}

static void call_slot(void)
{
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = 2 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)own + 6 * PAGE));
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = 2 * GPA, .memory_size = 0));
}

static void call_delete_slot(void)
{
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = 0));
}

static void call_log(void)
{
	uint64_t bits[PAGES / 64];
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};

	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
}

static void call_clear(void)
{
	uint64_t bits[PAGES / 64] = {1};
	struct kvm_clear_dirty_log clear = {.slot = 1, .num_pages = PAGES, .dirty_bitmap = bits};

	CHECK_ZERO(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear));
}

/* While it is being copied: the slot and its log end, and others begin. */
static void call_delete_log(void)
{
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = 0));
}

static void call_run(void)
{
	guest_store(&vcpu, GPA + 32 * PAGE, 0x1234);
	CHECK_EQ(guest_load(&vcpu, GPA + 32 * PAGE), 0x1234);
}

static void call_create_vm(void)
{
	int fd = ioctl(vm.kvm, KVM_CREATE_VM, 0);

	CHECK(fd >= 0);
	CHECK_ZERO(close(fd));
}

static void call_create_vcpu(void)
{
	CHECK(ioctl(vm.fd, KVM_CREATE_VCPU, 7) >= 0);
}

static void call_fork(void)
{
	change_fork();
}

static void call_malloc(void)
{
	free(malloc(1 << 20));
}

static void call_open(void)
{
	int fd = open("/dev/kvm", O_RDWR);

	CHECK(fd >= 0);
	CHECK_ZERO(close(fd));
}

/* What fork() has copied meanwhile: the last descriptor is the child's. */
static void call_close(void)
{
	CHECK_ZERO(close(spare));
}

struct change {
	const char *name;
	void (*make)(void);
	uint64_t feature;
	uint32_t event;
};

static const struct change changes[] = {
    {"madvise", change_advise, UFFD_FEATURE_EVENT_REMOVE, UFFD_EVENT_REMOVE},
    {"munmap", change_unmap, UFFD_FEATURE_EVENT_UNMAP, UFFD_EVENT_UNMAP},
    {"mmap over", change_map_over, UFFD_FEATURE_EVENT_UNMAP, UFFD_EVENT_UNMAP},
    {"mremap", change_move, UFFD_FEATURE_EVENT_REMAP, UFFD_EVENT_REMAP},
    {"fork", change_fork, UFFD_FEATURE_EVENT_FORK, UFFD_EVENT_FORK},
};

struct call {
	const char *name;
	void (*make)(void);
	/* libc holds locks of its own over fork(), without us, too. */
	int is_libcs_in_fork;
};

static const struct call calls[] = {
    {"mmap", call_map, 0},
    {"munmap", call_unmap, 0},
    {"mprotect", call_protect, 0},
    {"mremap", call_move, 0},
    {"KVM_SET_USER_MEMORY_REGION", call_slot, 0},
    {"deletion of the slot", call_delete_slot, 0},
    {"KVM_GET_DIRTY_LOG", call_log, 0},
    {"KVM_RUN", call_run, 0},
    {"KVM_CREATE_VM", call_create_vm, 0},
    {"KVM_CREATE_VCPU", call_create_vcpu, 0},
    {"fork", call_fork, 1},
    {"malloc", call_malloc, 1},
    {"open", call_open, 0},
    {"close", call_close, 0},
};

static const struct call *reader_call;
static const struct change *reader_change;

/* Wait for a message: the change waits from then on until it is read. */
static void wait_for_message(void)
{
	struct pollfd ready = {.fd = events, .events = POLLIN};

	CHECK_EQ(poll(&ready, 1, -1), 1);
	CHECK_EQ(ready.revents, POLLIN);
}

static void read_message(struct uffd_msg *message)
{
	wait_for_message();
	CHECK_EQ(read(events, message, sizeof(*message)), sizeof(*message));
}

static void *reader(void *unused)
{
	struct uffd_msg message;

	wait_for_message();
	reader_call->make();
	do
		read_message(&message);
	while (message.event != reader_change->event);
	return unused;
}

/* 0, or the test is to be skipped. */
static int userfaultfd_open(uint64_t feature)
{
	struct uffdio_api api = {.api = UFFD_API, .features = feature};

	/* The kernel lets poll() wait for one that does not block alone. */
	events = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return events < 0 || ioctl(events, UFFDIO_API, &api);
}

static void try_pair(void)
{
	struct uffdio_register watch = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	pthread_t thread;

	alarm(SECONDS);
	CHECK_ZERO(userfaultfd_open(reader_change->feature));
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	spare = ioctl(vm.kvm, KVM_CREATE_VM, 0);
	CHECK(spare >= 0);
	memory = memory_alloc(PAGES * PAGE);
	own = memory_alloc(8 * PAGE);
	memset(memory, 1, PAGES * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 1, .flags = KVM_MEM_LOG_DIRTY_PAGES, .guest_phys_addr = GPA,
			  .memory_size = PAGES * PAGE, .userspace_addr = (uintptr_t)memory));
	watch.range.start = (uintptr_t)memory;
	watch.range.len = PAGES * PAGE;
	CHECK_ZERO(ioctl(events, UFFDIO_REGISTER, &watch));
	CHECK_ZERO(pthread_create(&thread, NULL, reader, NULL));
	reader_change->make();
	CHECK_ZERO(pthread_join(thread, NULL));
	_exit(0);
}

static void nothing_is_held_over_a_change(void)
{
	unsigned int failed = 0;

	if (userfaultfd_open(0))
		check_skip("no userfaultfd here");
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		for (size_t j = 0; j < sizeof(calls) / sizeof(calls[0]); j++) {
			pid_t child;
			int status;

			if (changes[i].make == change_fork && calls[j].is_libcs_in_fork)
				continue;
			reader_change = &changes[i];
			reader_call = &calls[j];
			child = fork();
			CHECK(child >= 0);
			if (!child)
				try_pair();
			CHECK_EQ(waitpid(child, &status, 0), child);
			if (!status)
				continue;
			printf("# %s waits for a reader that calls %s: %s\n", changes[i].name,
			       calls[j].name, WIFSIGNALED(status) ? "for ever" : "fails");
			fflush(stdout);
			failed++;
		}
	}
	CHECK_EQ(failed, 0);
}

/*
 * The first KVM_IRQFD begins a thread of ours, and that waits for the fork in libc. Nothing is held
 * meanwhile that another VM needs.
 */
static int irq_vm, go[2];

static void *first_irqfd(void *unused)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, EFD_CLOEXEC), .gsi = 3};
	char byte;

	CHECK_EQ(read(go[0], &byte, 1), 1);
	CHECK_ZERO(ioctl(irq_vm, KVM_IRQFD, &irqfd));
	return unused;
}

static void call_create_vm_beside_irqfd(void)
{
	CHECK_EQ(write(go[1], "", 1), 1);
	usleep(100000);
	call_create_vm();
}

static void fork_beside_the_first_irqfd(void)
{
	static const struct call beside = {"KVM_CREATE_VM", call_create_vm_beside_irqfd, 0};
	pthread_t thread;
	pid_t child;
	int status;

	if (userfaultfd_open(0))
		check_skip("no userfaultfd here");
	reader_call = &beside;
	reader_change = &changes[sizeof(changes) / sizeof(changes[0]) - 1];
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		int kvm = open("/dev/kvm", O_RDWR);

		irq_vm = ioctl(kvm, KVM_CREATE_VM, 0);
		CHECK_ZERO(ioctl(irq_vm, KVM_CREATE_IRQCHIP));
		CHECK_ZERO(pipe(go));
		CHECK_ZERO(pthread_create(&thread, NULL, first_irqfd, NULL));
		try_pair();
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
}

static pthread_t slot_thread;

static void *change_slots(void *unused)
{
	call_slot();
	return unused;
}

/* The change of slots waits for the hypervisor's access, as in KVM; the new vCPU for neither. */
static void call_create_beside_a_change(void)
{
	CHECK_ZERO(pthread_create(&slot_thread, NULL, change_slots, NULL));
	usleep(100000);
	call_create_vcpu();
}

/* The memory of the very page changes meanwhile, which every VM is told of. */
static void *change_page(void *unused)
{
	CHECK_ZERO(mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
	return unused;
}

static void call_create_beside_a_telling(void)
{
	CHECK_ZERO(pthread_create(&slot_thread, NULL, change_page, NULL));
	usleep(100000);
	call_create_vm();
}

/* A page of the hypervisor's own that comes from a userfaultfd, whose reader unmaps something. */
static void *page_server(void *unused)
{
	struct uffd_msg message;
	struct uffdio_zeropage zero = {.range.len = PAGE};

	read_message(&message);
	reader_call->make();
	zero.range.start = message.arg.pagefault.address & ~(PAGE - 1);
	CHECK_ZERO(ioctl(events, UFFDIO_ZEROPAGE, &zero));
	return unused;
}

static void steal_time_page_from_a_reader(void)
{
	static const struct call beside = {"KVM_CREATE_VCPU", call_create_beside_a_change, 0};
	static const struct call telling = {"KVM_CREATE_VM", call_create_beside_a_telling, 0};
	const struct call *const served[] = {&calls[0], &calls[1], &calls[2],
					     &calls[3], &beside,   &telling};
	struct uffdio_register watch = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msr = {.header = {.nmsrs = 1}, .entry = {.index = MSR_KVM_STEAL_TIME, .data = GPA | 1}};
	pthread_t thread;

	if (userfaultfd_open(0))
		check_skip("no userfaultfd here");
	alarm(SECONDS);
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(PAGES * PAGE);
	own = memory_alloc(8 * PAGE);
	memset(memory, 0, PAGES * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	if (ioctl(vcpu.fd, KVM_SET_MSRS, &msr) != 1)
		check_skip("no steal time here");
	guest_store(&vcpu, GPA + 32 * PAGE, 1);
	watch.range.start = (uintptr_t)memory;
	watch.range.len = PAGE;
	CHECK_ZERO(ioctl(events, UFFDIO_REGISTER, &watch));
	for (size_t i = 0; i < sizeof(served) / sizeof(served[0]); i++) {
		reader_call = served[i];
		guest_store(&vcpu, GPA + 32 * PAGE, 1);
		CHECK_ZERO(madvise(memory, PAGE, MADV_DONTNEED));
		CHECK_ZERO(pthread_create(&thread, NULL, page_server, NULL));
		guest_store(&vcpu, GPA + 32 * PAGE, 2);
		CHECK_ZERO(pthread_join(thread, NULL));
		if (served[i] == &beside || served[i] == &telling)
			CHECK_ZERO(pthread_join(slot_thread, NULL));
	}
	alarm(0);
}

static uint8_t *log_bits; /* its page comes from the reader, by page_server() */

static void call_get_log(void)
{
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = log_bits};

	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	CHECK(log_bits[0] & 8);
}

static void call_clear_log(void)
{
	struct kvm_clear_dirty_log clear = {
	    .slot = 1, .num_pages = PAGES, .dirty_bitmap = log_bits};

	/* The slot may be gone, or without a log, by the time that the bits are there. */
	if (ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear))
		CHECK(reader_call->make == call_delete_log && errno == ENOENT);
}

/*
 * Neither call holds anything over its copy, so whatever the reader calls goes on, changes of that
 * very slot and calls about its log included.
 */
static void log_and_a_page_from_a_reader(void (*log_call)(void))
{
	static const struct call own_calls[] = {
	    {"KVM_CLEAR_DIRTY_LOG", call_clear, 0},
	    {"deletion of the logged slot", call_delete_log, 0},
	};
	struct uffdio_register watch = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	const size_t count = sizeof(calls) / sizeof(calls[0]);
	pthread_t thread;

	if (userfaultfd_open(0))
		check_skip("no userfaultfd here");
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(PAGES * PAGE);
	spare = ioctl(vm.kvm, KVM_CREATE_VM, 0);
	CHECK(spare >= 0);
	own = memory_alloc(8 * PAGE);
	log_bits = memory_alloc(PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 1, .flags = KVM_MEM_LOG_DIRTY_PAGES, .guest_phys_addr = GPA,
			  .memory_size = PAGES * PAGE, .userspace_addr = (uintptr_t)memory));
	watch.range = (struct uffdio_range){(uintptr_t)log_bits, PAGE};
	CHECK_ZERO(ioctl(events, UFFDIO_REGISTER, &watch));
	for (size_t i = 0; i < count + sizeof(own_calls) / sizeof(own_calls[0]); i++) {
		reader_call = i < count ? &calls[i] : &own_calls[i - count];
		if (reader_call->make == call_delete_slot)
			continue;
		printf("# the reader calls %s\n", reader_call->name);
		alarm(SECONDS);
		call_log();
		guest_store(&vcpu, GPA + 3 * PAGE, 1);
		CHECK_ZERO(madvise(log_bits, PAGE, MADV_DONTNEED));
		CHECK_ZERO(pthread_create(&thread, NULL, page_server, NULL));
		log_call();
		CHECK_ZERO(pthread_join(thread, NULL));
	}
	alarm(0);
}

static void log_into_a_page_from_a_reader(void)
{
	log_and_a_page_from_a_reader(call_get_log);
}

static void clear_from_a_page_from_a_reader(void)
{
	log_and_a_page_from_a_reader(call_clear_log);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(nothing_is_held_over_a_change),   TEST(fork_beside_the_first_irqfd),
	    TEST(steal_time_page_from_a_reader),   TEST(log_into_a_page_from_a_reader),
	    TEST(clear_from_a_page_from_a_reader),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
