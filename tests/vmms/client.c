/*
 * A KVM client for another C library, without the kernel's headers: four vCPUs in threads, memory
 * that goes away under a slot, and a child process that opens /dev/kvm, too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GET_API_VERSION 0xAE00
#define CREATE_VM 0xAE01
#define GET_VCPU_MMAP_SIZE 0xAE04
#define CREATE_VCPU 0xAE41
#define SET_USER_MEMORY_REGION 0x4020AE46
#define RUN 0xAE80
#define SET_REGS 0x4090AE82
#define GET_SREGS 0x8138AE83
#define SET_SREGS 0x4138AE84
#define EXIT_IO 2
#define EXIT_HLT 5
#define SREGS_BYTES 312
#define DS_AT 24
#define SELECTOR_AT 12

#define PAGE 4096u
#define MEMORY (16 * PAGE)
#define VCPUS 4
#define PORT 0x3F8
#define LOST_PAGE 0x80000u

#define CHECK(condition) check((condition) != 0, #condition, __LINE__)

struct region {
	uint32_t slot, flags;
	uint64_t guest_address, bytes, address;
};

struct registers {
	uint64_t ax_bx_cx_dx[4], si_di_sp_bp[4], r8_to_r15[8], ip, flags;
};

/* What a vCPU is to write: @count words from its own page on, in a segment at @segment. */
struct work {
	int vcpu, id;
	uint32_t count, segment;
};

static int kvm, vm;
static uint8_t *memory;

static void check(int ok, const char *what, int line)
{
	if (ok)
		return;
	fprintf(stderr, "line %d: %s: %s\n", line, what, strerror(errno));
	exit(1);
}

static int call(int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, (int)request, argument);

	CHECK(result >= 0);
	return result;
}

static void add_slot(uint32_t slot, uint64_t at, void *address, uint64_t bytes)
{
	struct region region = {slot, 0, at, bytes, (uint64_t)(uintptr_t)address};

	call(vm, SET_USER_MEMORY_REGION, &region);
}

static void *map(size_t bytes, int flags, int fd)
{
	void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	CHECK(mapped != MAP_FAILED);
	return mapped;
}

static void set_up(const struct work *work)
{
	struct registers registers = {
	    .ax_bx_cx_dx = {0x1100u + (uint32_t)work->id, 0, work->count, 0},
	    .si_di_sp_bp = {0, ((uint32_t)work->id + 1) * PAGE, 0, 0},
	    .flags = 2,
	};
	uint8_t special[SREGS_BYTES];
	uint64_t base = work->segment;
	uint16_t selector = (uint16_t)(work->segment >> 4);

	call(work->vcpu, GET_SREGS, special);
	memset(special, 0, sizeof(base));
	memset(special + SELECTOR_AT, 0, sizeof(selector));
	memcpy(special + DS_AT, &base, sizeof(base));
	memcpy(special + DS_AT + SELECTOR_AT, &selector, sizeof(selector));
	call(work->vcpu, SET_SREGS, special);
	call(work->vcpu, SET_REGS, &registers);
}

static void *run_one(void *argument)
{
	const struct work *work = argument;
	size_t bytes = (size_t)call(kvm, GET_VCPU_MMAP_SIZE, NULL);
	const volatile uint32_t *run = map(bytes, MAP_SHARED, work->vcpu);

	set_up(work);
	call(work->vcpu, RUN, NULL);
	CHECK(run[2] == EXIT_IO && run[8] >> 16 == PORT);
	CHECK(((const volatile uint8_t *)run)[run[10]] == work->id);
	call(work->vcpu, RUN, NULL);
	CHECK(run[2] == EXIT_HLT);
	CHECK(!munmap((void *)(uintptr_t)run, bytes));
	return NULL;
}

/* The guest writes to memory that its slot no longer has. */
static void lose_memory(int vcpu)
{
	const struct work work = {vcpu, 0, 1, LOST_PAGE - PAGE};
	uint8_t *lost = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	add_slot(1, LOST_PAGE, lost, PAGE);
	set_up(&work);
	call(vcpu, RUN, NULL);
	CHECK(lost[0] == 0 && lost[1] == 0x11);
	CHECK(!munmap(lost, PAGE));
	set_up(&work);
	CHECK(ioctl(vcpu, RUN, 0) == -1 && errno == EFAULT);
}

static void run_all(void)
{
	struct work works[VCPUS];
	pthread_t threads[VCPUS];

	for (int id = 0; id < VCPUS; id++) {
		works[id] =
		    (struct work){call(vm, CREATE_VCPU, (void *)(intptr_t)id), id, PAGE / 2, 0};
		CHECK(!pthread_create(&threads[id], NULL, run_one, &works[id]));
	}
	for (int id = 0; id < VCPUS; id++)
		CHECK(!pthread_join(threads[id], NULL));
	for (uint32_t at = PAGE; at < (VCPUS + 1) * PAGE; at += 2)
		CHECK(memory[at] == at / PAGE - 1 && memory[at + 1] == 0x11);
	lose_memory(works[0].vcpu);
}

static void run_child(const char *self)
{
	int status;
	pid_t child = fork();

	if (!child) {
		execl(self, self, "child", (char *)NULL);
		_exit(1);
	}
	CHECK(child > 0 && waitpid(child, &status, 0) == child && !status);
}

int main(int argc, char **argv)
{
	/* mov [di], ax; add di, 2; dec cx; jnz -7; mov dx, PORT; out dx, al; hlt */
	static const uint8_t code[] = {0x89, 0x05, 0x83, 0xC7, 0x02, 0x49, 0x75,
				       0xF8, 0xBA, 0xF8, 0x03, 0xEE, 0xF4};
	struct stat about;

	CHECK(!stat("/dev/kvm", &about) && S_ISCHR(about.st_mode));
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0 && call(kvm, GET_API_VERSION, NULL) == 12);
	if (argc > 1)
		return 0;
	vm = call(kvm, CREATE_VM, NULL);
	memory = map(MEMORY, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(memory, code, sizeof(code));
	add_slot(0, 0, memory, MEMORY);
	run_all();
	run_child(argv[0]);
	printf("%d vCPUs in threads wrote %d pages, a child has /dev/kvm\n", VCPUS, VCPUS);
	return 0;
}
