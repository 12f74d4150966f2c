/*
 * Restores a snapshot page by page, as VMMs do: guest memory is empty at first, each page that the
 * guest touches faults, and a thread copies it from the snapshot through userfaultfd. Checks all
 * pages, and says how many faults a second were served. usage: restore [MIB]
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096UL
#define CODE_GPA 0x1000UL
#define DATA_GPA 0x200000UL
#define TABLES_GPA 0x10000UL
#define DATA_SLOT 1
#define EXIT_SKIPPED 77

/* add (%rdi), %rax; add $4096, %rdi; dec %rcx; jnz -15; hlt */
static const uint8_t guest_code[] = {0x48, 0x03, 0x07, 0x48, 0x81, 0xc7, 0x00, 0x10,
				     0x00, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xf1, 0xf4};

struct restore {
	char *memory, *snapshot;
	size_t bytes;
	int uffd, end[2];
	uint64_t faults;
};

static void fail(const char *what)
{
	fprintf(stderr, "restore: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *map(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	return at;
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The thread that serves faults until the pipe says that the guest is done. */
static void *serve(void *context)
{
	struct restore *restore = context;
	struct pollfd waits[2] = {{.fd = restore->uffd, .events = POLLIN},
				  {.fd = restore->end[0], .events = POLLIN}};
	struct uffd_msg message;

	while (poll(waits, 2, -1) > 0 && !waits[1].revents) {
		if (read(restore->uffd, &message, sizeof(message)) != sizeof(message))
			continue;
		uint64_t offset = (message.arg.pagefault.address & ~(PAGE_BYTES - 1)) -
				  (uintptr_t)restore->memory;
		struct uffdio_copy copy = {.dst = (uintptr_t)restore->memory + offset,
					   .src = (uintptr_t)restore->snapshot + offset,
					   .len = PAGE_BYTES};

		if (ioctl(restore->uffd, UFFDIO_COPY, &copy) && errno != EEXIST)
			fail("UFFDIO_COPY");
		restore->faults++;
	}
	return NULL;
}

static void start_faults(struct restore *restore)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register area = {.range = {(uintptr_t)restore->memory, restore->bytes},
				       .mode = UFFDIO_REGISTER_MODE_MISSING};

	restore->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (restore->uffd < 0 && errno == EPERM) {
		printf("this user may not use userfaultfd\n");
		exit(EXIT_SKIPPED);
	}
	if (restore->uffd < 0)
		fail("userfaultfd");
	if (ioctl(restore->uffd, UFFDIO_API, &api) || ioctl(restore->uffd, UFFDIO_REGISTER, &area))
		fail("UFFDIO_REGISTER");
}

static void add_slot(int vm, uint32_t slot, uint64_t gpa, void *memory, size_t bytes)
{
	struct kvm_userspace_memory_region region = {.slot = slot,
						     .guest_phys_addr = gpa,
						     .memory_size = bytes,
						     .userspace_addr = (uintptr_t)memory};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		fail("KVM_SET_USER_MEMORY_REGION");
}

/* The first gigabyte at its own addresses, in pages of 2 MiB. */
static void make_tables(char *low)
{
	uint64_t *table = (uint64_t *)(low + TABLES_GPA);

	table[0] = (TABLES_GPA + PAGE_BYTES) | 3;
	table[512] = (TABLES_GPA + 2 * PAGE_BYTES) | 3;
	for (uint64_t i = 0; i < 512; i++)
		table[1024 + i] = i << 21 | 0x83;
}

static void set_registers(int vcpu, uint64_t pages)
{
	struct kvm_segment code = {
	    .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
	    .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2, .rdi = DATA_GPA, .rcx = pages};
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		fail("KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.cr3 = TABLES_GPA;
	sregs.cr4 = 0x20;
	sregs.cr0 = 0x80000011;
	sregs.efer = 0x500;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		fail("KVM_SET_REGS");
}

/* Runs the guest to its HLT; the sum that it made of all pages. */
static uint64_t run_guest(int vm, int kvm, uint64_t pages)
{
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct kvm_regs regs;

	if (vcpu < 0 || run == MAP_FAILED)
		fail("KVM_CREATE_VCPU");
	set_registers(vcpu, pages);
	if (ioctl(vcpu, KVM_RUN, 0))
		fail("KVM_RUN");
	if (run->exit_reason != KVM_EXIT_HLT) {
		fprintf(stderr, "restore: exit %u\n", run->exit_reason);
		exit(1);
	}
	if (ioctl(vcpu, KVM_GET_REGS, &regs))
		fail("KVM_GET_REGS");
	return regs.rax;
}

int main(int argc, char **argv)
{
	struct restore restore = {.bytes = (argc > 1 ? strtoul(argv[1], NULL, 10) : 64) << 20};
	uint64_t pages = restore.bytes / PAGE_BYTES, wanted = 0, sum;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	char *low = map(DATA_GPA);
	pthread_t thread;
	double start;

	if (vm < 0)
		fail("KVM_CREATE_VM");
	restore.memory = map(restore.bytes);
	restore.snapshot = map(restore.bytes);
	for (uint64_t i = 0; i < pages; i++) {
		*(uint64_t *)(restore.snapshot + i * PAGE_BYTES) = i * i + 7;
		wanted += i * i + 7;
	}
	memcpy(low + CODE_GPA, guest_code, sizeof(guest_code));
	make_tables(low);
	add_slot(vm, 0, 0, low, DATA_GPA);
	add_slot(vm, DATA_SLOT, DATA_GPA, restore.memory, restore.bytes);
	start_faults(&restore);
	if (pipe(restore.end) || pthread_create(&thread, NULL, serve, &restore))
		fail("pthread_create");
	start = seconds_now();
	sum = run_guest(vm, kvm, pages);
	start = seconds_now() - start;
	if (write(restore.end[1], "", 1) != 1)
		fail("write");
	pthread_join(thread, NULL);
	if (sum != wanted || restore.faults < pages) {
		fprintf(stderr, "restore: sum %lu of %lu, %lu faults of %lu\n", sum, wanted,
			restore.faults, pages);
		return 1;
	}
	printf("%lu pages by userfaultfd, %.0f faults a second\n", restore.faults,
	       (double)restore.faults / start);
	return 0;
}
