/* Guests under the limits of a process, and behind filters of system calls. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <linux/audit.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 64ul
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

static void slot_make(void)
{
	memory = memory_alloc(PAGES * PAGE);
	CHECK_OK(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			.userspace_addr = (uintptr_t)memory));
}

static void guest_works(void)
{
	for (unsigned long page = 0; page < PAGES; page++) {
		guest_store(&vcpu, GPA + page * PAGE, page + 7);
		CHECK_EQ(*word_at(memory, page * PAGE), page + 7);
	}
	CHECK_OK(munmap(memory + PAGE, PAGE));
	CHECK(guest_try_load(&vcpu, GPA + PAGE).end != END_DONE);
	CHECK_EQ(guest_load(&vcpu, GPA + 2 * PAGE), 9);
}

static void machine_works(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	slot_make();
	guest_works();
}

/* A file system over /proc, in a mount namespace of the child's own. */
static void cover_proc(void)
{
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/proc", "tmpfs", 0, NULL))
		check_skip("no mount namespace of its own");
	CHECK_ERR(access("/proc/self", F_OK), ENOENT);
}

static void use_devices(void)
{
	struct kvm_irqfd request = {.fd = (uint32_t)CHECK_OK(eventfd(0, 0)), .gsi = 5};

	CHECK_OK(ioctl(vm.fd, KVM_IRQFD, &request));
	vm_add_agent(&vm);
	slot_make();
	guest_works();
}

/* What covers /proc later takes nothing from KVM, nor does what covered it before. */
static void test_proc_covered_later(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	vcpu_open(&vm, &vcpu, 0);
	cover_proc();
	use_devices();
}

static void test_proc_covered_before(void)
{
	cover_proc();
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	vcpu_open(&vm, &vcpu, 0);
	use_devices();
}

static void become_nobody(void)
{
	if (geteuid())
		check_skip("this takes root");
	CHECK_OK(setgroups(0, NULL));
	CHECK_OK(setresgid(65534, 65534, 65534));
	CHECK_OK(setresuid(65534, 65534, 65534));
}

/* Numbers of descriptors end where the client's limit says, and it may not raise it. */
static void test_few_descriptors(void)
{
	const struct rlimit few = {16, 16};

	become_nobody();
	CHECK_OK(setrlimit(RLIMIT_NOFILE, &few));
	machine_works();
	CHECK_EQ(open("/dev/null", O_RDONLY), 6);
	/* Nearly all of the rest are the client's. */
	for (int id = 1; id < 6; id++)
		CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, id));
}

/* Before the first open, and by a user that may not see what root's command has made. */
static void test_no_file_sizes(void)
{
	const struct rlimit none = {0, 0};

	become_nobody();
	CHECK_OK(setrlimit(RLIMIT_FSIZE, &none));
	machine_works();
}

static void test_no_file_sizes_of_root(void)
{
	const struct rlimit none = {0, 0};

	CHECK_OK(setrlimit(RLIMIT_FSIZE, &none));
	machine_works();
}

/* A limit that the client may raise is passed for the time of an object's making, and stays. */
static void test_no_file_sizes_for_now(void)
{
	struct rlimit before, none, after;

	CHECK_OK(getrlimit(RLIMIT_FSIZE, &before));
	none = before;
	none.rlim_cur = 0;
	CHECK_OK(setrlimit(RLIMIT_FSIZE, &none));
	machine_works();
	CHECK(vm_gmem(&vm, 4 * PAGE, 0) >= 0);
	CHECK_OK(getrlimit(RLIMIT_FSIZE, &after));
	CHECK_EQ(after.rlim_cur, 0);
	CHECK_EQ(after.rlim_max, before.rlim_max);
	CHECK_OK(setrlimit(RLIMIT_FSIZE, &before));
}

/* The first thread has ended: what /proc/self says of it is nothing. */
static void *last_thread(void *unused)
{
	char path[64], line[512];

	(void)unused;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)getpid());
	do {
		int file = open(path, O_RDONLY);

		CHECK(file >= 0);
		memset(line, 0, sizeof(line));
		CHECK(read(file, line, sizeof(line) - 1) > 0);
		CHECK_OK(close(file));
		usleep(1000);
	} while (!strstr(line, ") Z"));
	machine_works();
	exit(0);
}

static void test_first_thread_gone(void)
{
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, last_thread, NULL), 0);
	pthread_exit(NULL);
}

static void test_little_room(void)
{
	const struct rlimit room = {UINT64_C(1) << 30, UINT64_C(1) << 30};

	CHECK_OK(setrlimit(RLIMIT_AS, &room));
	machine_works();
}

/* Memory of KVM's is none of the client's data. */
static void test_little_data(void)
{
	const struct rlimit room = {UINT64_C(64) << 20, UINT64_C(64) << 20};
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, 0), .gsi = 5};
	void *mine;

	CHECK_OK(setrlimit(RLIMIT_DATA, &room));
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&vm);
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	vcpu_open(&vm, &vcpu, 0);
	for (int id = 1; id < 32; id++)
		CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, id));
	CHECK_ZERO(ioctl(vm.fd, KVM_IRQFD, &irqfd));
	slot_make();
	guest_works();
	/* Most of it is still the client's. */
	mine = mmap(NULL, room.rlim_cur / 4 * 3, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(mine != MAP_FAILED);
}

/* The limit is reached before /dev/kvm is opened: a VM and a vCPU take nothing of it. */
static void test_no_data(void)
{
	struct rlimit room, little;

	CHECK_OK(getrlimit(RLIMIT_DATA, &room));
	little = (struct rlimit){.rlim_cur = PAGE, .rlim_max = room.rlim_max};
	CHECK_OK(setrlimit(RLIMIT_DATA, &little));
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, 1));
	/* What the guest and its slot take is the client's. */
	CHECK_OK(setrlimit(RLIMIT_DATA, &room));
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	slot_make();
	guest_works();
}

/* A call that may find no memory: -1 then, and no other error. */
static long may_lack(long result, const char *call)
{
	if (result < 0 && errno != ENOMEM)
		FAIL("%s: errno %d", call, errno);
	return result;
}
#define MAY_LACK(call) may_lack(call, #call)

static void run_once(int fd)
{
	const size_t bytes = 3 * PAGE;
	struct kvm_run *run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct kvm_regs regs = {.rflags = 2};
	struct kvm_sregs sregs;

	if (run == MAP_FAILED)
		return;
	CHECK_OK(ioctl(fd, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	CHECK_OK(ioctl(fd, KVM_SET_SREGS, &sregs));
	CHECK_OK(ioctl(fd, KVM_SET_REGS, &regs));
	if (!MAY_LACK(ioctl(fd, KVM_RUN, 0)))
		CHECK_EQ(run->exit_reason, KVM_EXIT_IO);
	CHECK_OK(munmap(run, bytes));
}

/* A whole VM, as far as it gets, and its end. */
static void life(int kvm, const uint8_t *code)
{
	struct kvm_create_guest_memfd create = {.size = 64 * PAGE};
	struct kvm_userspace_memory_region region = {
	    .slot = 1, .memory_size = 16 * PAGE, .userspace_addr = (uintptr_t)code};
	struct kvm_irq_routing none = {0};
	int own = (int)MAY_LACK(ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM)), made[3];

	if (own < 0)
		return;
	if (!MAY_LACK(ioctl(own, KVM_CREATE_IRQCHIP, 0)))
		MAY_LACK(ioctl(own, KVM_SET_GSI_ROUTING, &none));
	made[0] = (int)MAY_LACK(ioctl(own, KVM_CREATE_VCPU, 0));
	made[1] = (int)MAY_LACK(ioctl(own, KVM_CREATE_GUEST_MEMFD, &create));
	made[2] = (int)MAY_LACK(ioctl(own, KVM_GET_STATS_FD, 0));
	MAY_LACK(ioctl(own, KVM_SET_USER_MEMORY_REGION, &region));
	region.flags = KVM_MEM_LOG_DIRTY_PAGES;
	MAY_LACK(ioctl(own, KVM_SET_USER_MEMORY_REGION, &region));
	if (made[0] >= 0)
		run_once(made[0]);
	for (int i = 0; i < 3; i++)
		if (made[i] >= 0)
			CHECK_OK(close(made[i]));
	CHECK_OK(close(own));
}

/* Bytes of the process's address space. */
static unsigned long size_now(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long pages = 0;

	CHECK(file != NULL);
	CHECK_EQ(fscanf(file, "%lu", &pages), 1);
	fclose(file);
	return pages * PAGE;
}

/* With any room for memory, from none up: a call works or says so, and nothing is left behind. */
static void test_any_room(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), lowest;
	uint8_t *code = memory_alloc(16 * PAGE);
	struct rlimit before, room;
	unsigned long size;

	for (unsigned long i = 0; i < 16 * PAGE; i += 2)
		memcpy(code + i, "\xe6\x10", 2); /* out 0x10, al */
	life(kvm, code);
	life(kvm, code);
	lowest = dup(0);
	CHECK_OK(close(lowest));
	CHECK_OK(getrlimit(RLIMIT_AS, &before));
	size = size_now();
	for (unsigned long bytes = 0; bytes < 128ul << 20;
	     bytes += bytes < 1 << 20 ? PAGE : 1 << 20) {
		room = before;
		room.rlim_cur = size + bytes;
		CHECK_OK(setrlimit(RLIMIT_AS, &room));
		life(kvm, code);
		CHECK_OK(setrlimit(RLIMIT_AS, &before));
	}
	CHECK_EQ(dup(0), lowest);
	CHECK_EQ(size_now(), size);
	machine_works();
}

static void test_all_locked(void)
{
	int fd;

	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		check_skip("mlockall is refused");
	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	fd = vm_gmem(&vm, 4 * PAGE, 0);
	CHECK_OK(REGION(&vm, .slot = 2, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 2 * GPA,
			.memory_size = 4 * PAGE,
			.userspace_addr = (uintptr_t)memory_alloc(4 * PAGE),
			.guest_memfd = (uint32_t)fd));
	CHECK_OK(vm_set_attributes(&vm, 2 * GPA, 4 * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	guest_store(&vcpu, 2 * GPA, 7);
	CHECK_OK(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, PAGE));
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 0);
	slot_make();
	guest_works();
}

/* Only these calls; all others kill. As Solo5's tender has it. */
static void allow_alone(const int *calls, size_t count, unsigned int flags)
{
	struct sock_filter code[64];
	struct sock_fprog program = {.filter = code};
	size_t length = 0;

	code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						      offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < count; i++) {
		code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							      (uint32_t)calls[i], 0, 1);
		code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	program.len = (unsigned short)length;
	CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

static void test_a_tenders_filter(void)
{
	static const int calls[] = {SYS_ioctl, SYS_write,  SYS_exit_group,
				    SYS_ppoll, SYS_munmap, SYS_clock_gettime};

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	slot_make();
	allow_alone(calls, COUNT(calls), 0);
	guest_works();
	_exit(0);
}

/*
 * A guest that makes KVM do, in KVM_RUN, what we need threads, files and locks for: its steal time,
 * a periodic timer of its APIC whose count it reads while it fires, HLT, an eventfd. Its second
 * page is the steal page.
 */
asm(".pushsection .rodata\n"
    "busy_guest:\n"
    "mov $0x4b564d03, %ecx\n mov $0x10001001, %eax\n xor %edx, %edx\n wrmsr\n" /* steal time */
    "mov $0x1b, %ecx\n rdmsr\n or $0xc00, %eax\n wrmsr\n"		       /* x2APIC */
    "xor %edx, %edx\n"
    "mov $0x80f, %ecx\n mov $0x1ff, %eax\n wrmsr\n"
    "mov $0x832, %ecx\n mov $0x20040, %eax\n wrmsr\n" /* periodic, vector 0x40 */
    "mov $0x83e, %ecx\n mov $0xb, %eax\n wrmsr\n"
    "mov $0x838, %ecx\n mov $200000, %eax\n wrmsr\n"
    "mov $60000, %edi\n"
    "1: mov $0x839, %ecx\n rdmsr\n dec %edi\n jnz 1b\n"
    "mov $0x822, %ecx\n rdmsr\n mov %eax, %esi\n"
    "mov $0x200, %dx\n mov $7, %eax\n out %al, %dx\n"
    "mov $11, %eax\n xor %ebx, %ebx\n vmmcall\n" /* KVM_HC_SCHED_YIELD */
    "mov %esi, %eax\n out %al, $0x80\n"
    "busy_guest_end:\n"
    ".popsection\n");
extern const uint8_t busy_guest[], busy_guest_end[];

static void test_devices_behind_a_tenders_filter(void)
{
	static const int calls[] = {SYS_ioctl, SYS_write, SYS_exit_group, SYS_read};
	struct kvm_ioeventfd event = {
	    .addr = 0x200, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO, .fd = eventfd(0, 0)};
	uint64_t count = 0;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&vm);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	CHECK_OK(ioctl(vm.fd, KVM_IOEVENTFD, &event));
	vcpu_open(&vm, &vcpu, 0);
	slot_make();
	memcpy(memory, busy_guest, (size_t)(busy_guest_end - busy_guest));
	allow_alone(calls, COUNT(calls), 0);
	CHECK_EQ(GUEST(&vcpu, GUEST_CALL, .rbx = GPA).value & 1, 1);
	CHECK_EQ(read(event.fd, &count, sizeof(count)), sizeof(count));
	CHECK_EQ(count, 1);
	_exit(0);
}

/* Do all other threads of the process sleep? */
static bool others_sleep(void)
{
	DIR *tasks = opendir("/proc/self/task");
	bool asleep = true;
	struct dirent *task;

	CHECK(tasks != NULL);
	while ((task = readdir(tasks)) != NULL) {
		char path[300], line[512] = "";
		int file;

		if (task->d_name[0] == '.' || atoi(task->d_name) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/stat", task->d_name);
		file = open(path, O_RDONLY);
		if (file < 0)
			continue;
		asleep = asleep && read(file, line, sizeof(line) - 1) > 0 && strstr(line, ") S");
		CHECK_OK(close(file));
	}
	closedir(tasks);
	return asleep;
}

/* One for every thread, those of KVM's side too: they work on, and a file of memory ends. */
static void test_a_filter_of_all_threads(void)
{
	static const int calls[] = {SYS_ioctl, SYS_write, SYS_close, SYS_exit_group,
				    SYS_clock_nanosleep};
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, 0), .gsi = 5};
	const uint64_t one = 1;
	int memory_fd, copy;

	vm_open(&vm, KVM_X86_SW_PROTECTED_VM);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	CHECK_OK(ioctl(vm.fd, KVM_IRQFD, &irqfd));
	memory_fd = vm_gmem(&vm, 4 * PAGE, 0);
	copy = dup(memory_fd);
	CHECK(copy >= 0);
	/* What libc calls in a thread that begins is not to be judged. */
	do
		usleep(100000);
	while (!others_sleep());
	allow_alone(calls, COUNT(calls), SECCOMP_FILTER_FLAG_TSYNC);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(write((int)irqfd.fd, &one, sizeof(one)), sizeof(one));
		usleep(10000);
	}
	CHECK_OK(close(memory_fd));
	CHECK_OK(close(copy));
	usleep(10000);
	_exit(0);
}

/* Each thread has a copy of it, on its stack. */
static _Thread_local volatile uint8_t own_room[3 << 20];

static void test_large_thread_variables(void)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, 0), .gsi = 5};

	own_room[getpid() % 9] = 1;
	CHECK_EQ(own_room[getpid() % 9], 1);
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	CHECK_OK(ioctl(vm.fd, KVM_IRQFD, &irqfd));
}

/* A filter that answers what it does not like, and threads that begin behind it. */
static void *thread_main(void *unused)
{
	guest_works();
	return unused;
}

static void test_threads_behind_a_filter(void)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = COUNT(code), .filter = code};
	pthread_t thread;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	slot_make();
	CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
	CHECK_EQ(pthread_create(&thread, NULL, thread_main, NULL), 0);
	CHECK_EQ(pthread_join(thread, NULL), 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_proc_covered_later),
	    TEST(test_proc_covered_before),
	    TEST(test_few_descriptors),
	    TEST(test_no_file_sizes),
	    TEST(test_no_file_sizes_of_root),
	    TEST(test_no_file_sizes_for_now),
	    TEST(test_first_thread_gone),
	    TEST(test_little_room),
	    TEST(test_any_room),
	    TEST(test_little_data),
	    TEST(test_no_data),
	    TEST(test_all_locked),
	    TEST(test_a_tenders_filter),
	    TEST(test_devices_behind_a_tenders_filter),
	    TEST(test_a_filter_of_all_threads),
	    TEST(test_large_thread_variables),
	    TEST(test_threads_behind_a_filter),
	};

	return check_main(argc, argv, tests, COUNT(tests));
}
