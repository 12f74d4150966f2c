/*
 * A guest keeps a secret in private memory while its own process, or a child that inherited them,
 * makes system calls on the descriptors of KVM, by libc's syscall() and by the instruction. No call
 * hands out the secret, none takes it from the guest, and no process dies of one. What statistics
 * give is known to the byte. A guest_memfd goes with its last descriptor, whatever was asked of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fuzz/target.h"
#include "tests/rules/client.h"

#define SECRET 0x5ec2e75ec2e75ec2ull
#define GPA 0x10000000ull
#define PAGES 8
/* The secret is in the first of them; the child's holes and allocations are in the others. */
#define SECRET_PAGES 2
#define SHORT_GPA 0x20000000ull /* of the guest_memfd of one input */
#define STATS_BYTES (16 * PAGE)
/* A vCPU is not among them: its pages are any holder's to write. */
enum {
	OBJECT_KVM,
	OBJECT_VM,
	OBJECT_GMEM,
	OBJECT_STATS,
	OBJECT_SHORT,
	OBJECT_SHORT_STATS,
	ATTACKED
};
#define FILE_BYTES (1ul << 20)
/* Of a step: the first is the draws' own, the others come from a digest of them. */
#define CALLS 8

struct attacker {
	int objects[ATTACKED];
	int pipes[2], scratch;
	size_t stats_bytes;
	/* Each in pages of its own, with none behind: a call may write more than it was asked. */
	uint8_t (*room)[PAGE];
	struct iovec *part;
	struct fuzz_random *random;
};

#define ROOM_BYTES (2 * PAGE)

/* Each takes one of KVM's descriptors where choose() puts it, and cannot end the process. */
static const short numbers[] = {
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_lseek,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_sendfile,
    SYS_splice,
    SYS_tee,
    SYS_vmsplice,
    SYS_fsync,
    SYS_readahead,
    SYS_copy_file_range,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fcntl,
    SYS_flock,
    SYS_fchmod,
    SYS_fsetxattr,
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_fadvise64,
    SYS_sync_file_range,
    SYS_dup,
    SYS_ioctl,
    SYS_getdents64,
    SYS_mmap,
    SYS_openat,
    SYS_epoll_ctl,
    SYS_statx,
    SYS_readlinkat,
    SYS_utimensat,
    SYS_name_to_handle_at,
    SYS_io_uring_enter,
    SYS_syncfs,
    SYS_fdatasync,
    SYS_newfstatat,
    SYS_fremovexattr,
};

static long raw_call(long number, const long args[6])
{
	register long fourth __asm__("r10") = args[3];
	register long fifth __asm__("r8") = args[4];
	register long sixth __asm__("r9") = args[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(fourth),
			   "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
}

static int has_secret(const void *bytes, size_t size)
{
	const uint64_t secret = SECRET;

	return memmem(bytes, size, &secret, sizeof(secret)) != NULL;
}

/* A descriptor of KVM's, or one of the child's own. */
static int some_descriptor(struct attacker *attacker)
{
	switch (random_below(attacker->random, 8)) {
	case 0:
		return attacker->pipes[0];
	case 1:
		return attacker->pipes[1];
	case 2:
		return attacker->scratch;
	default:
		return attacker->objects[random_below(attacker->random, ATTACKED)];
	}
}

/* Memory of this process that is not the call's to write: an allocator's, a sanitizer's. */
static int is_ours(uint64_t address)
{
	uint8_t byte;
	struct iovec from = {(void *)address, 1}, to = {&byte, 1};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

static uint64_t no_address_of_ours(uint64_t value)
{
	return is_ours(value) ? value | 1ull << 63 : value;
}

static long some_argument(struct attacker *attacker)
{
	switch (random_below(attacker->random, 6)) {
	case 0:
		return (long)attacker->room[random_below(attacker->random, 2)];
	case 1:
		return (long)attacker->part;
	case 2:
		return some_descriptor(attacker);
	case 3:
		return (long)random_below(attacker->random, 64);
	case 4:
		return (long)(random_below(attacker->random, PAGES) * PAGE);
	default:
		return (long)no_address_of_ours(random_edge(attacker->random));
	}
}

static void fit_transfer(long number, long args[6], struct attacker *attacker)
{
	int is_sendfile = number == SYS_sendfile;

	args[is_sendfile ? 1 : 2] = some_descriptor(attacker);
	args[is_sendfile ? 3 : 4] &= 0xffff;
	/* Else a bad offset or flag is mostly what is found wrong first. */
	if (random_once_in(attacker->random, 2))
		return;
	args[random_once_in(attacker->random, 2) ? 0
	     : is_sendfile			 ? 1
						 : 2] = attacker->objects[OBJECT_SHORT];
	args[is_sendfile ? 2 : 1] = 0;
	if (!is_sendfile)
		args[3] = 0;
	args[5] = number == SYS_splice ? args[5] & 0xf : 0;
}

/* Of statistics into room: what comes is known. */
static void fit_read(long args[6], struct attacker *attacker)
{
	if (random_once_in(attacker->random, 2))
		return;
	args[0] = attacker->objects[OBJECT_SHORT_STATS];
	args[1] = (long)attacker->room[0];
	args[2] = (long)random_below(attacker->random, ROOM_BYTES + 1);
	args[3] = (long)random_below(attacker->random, attacker->stats_bytes + 64);
}

/* The arguments that a call cannot be without, or must not be with. */
static void fit(long number, long args[6], struct attacker *attacker)
{
	static char path[64];
	int fd = attacker->objects[random_below(attacker->random, ATTACKED)];

	args[0] = some_descriptor(attacker);
	switch (number) {
	case SYS_ftruncate:
		args[0] = fd;
		break;
	case SYS_fallocate:
		/* A hole in the secret would be the guest's loss by right. */
		args[0] = fd;
		args[3] = (long)(random_below(attacker->random, PAGES) * PAGE);
		args[2] = (long)((SECRET_PAGES + random_below(attacker->random, PAGES)) * PAGE);
		break;
	case SYS_mmap:
		args[0] = 0;
		args[1] = (long)PAGE;
		args[3] = random_once_in(attacker->random, 2) ? MAP_SHARED : MAP_PRIVATE;
		args[4] = fd;
		args[5] = (long)(random_below(attacker->random, PAGES) * PAGE);
		break;
	case SYS_openat:
	case SYS_readlinkat:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		args[0] = AT_FDCWD;
		args[1] = (long)path;
		args[2] = number == SYS_openat ? O_RDWR | O_NONBLOCK : (long)attacker->room[0];
		args[3] = 64;
		break;
	case SYS_sendfile:
	case SYS_splice:
	case SYS_copy_file_range:
		fit_transfer(number, args, attacker);
		break;
	case SYS_pread64:
		fit_read(args, attacker);
		break;
	case SYS_ioctl:
		/* KVM's own are fuzz_ioctl's. */
		args[1] &= 0xffff00ff;
		args[2] = (long)attacker->room[0];
		break;
	case SYS_fcntl:
		/* No lock is waited for, no signal asked for, no lease taken. */
		args[1] = (long[]){F_GETFL, F_GETFD, F_ADD_SEALS, F_GET_SEALS,
				   F_GETLK}[random_below(attacker->random, 5)];
		break;
	case SYS_flock:
		args[1] |= 4;
		break;
	case SYS_vmsplice:
		/* It waits for a pipe that is not to be waited for. */
		args[3] |= SPLICE_F_NONBLOCK;
		break;
	default:
		break;
	}
}

/* Of the statistics: all that there is from the offset on, and never more. */
static void check_stats(const long args[6], long result, const struct attacker *attacker)
{
	size_t size = (size_t)args[2], offset = (size_t)args[3];
	size_t left = offset < attacker->stats_bytes ? attacker->stats_bytes - offset : 0;

	if (args[0] != attacker->objects[OBJECT_SHORT_STATS] || size > ROOM_BYTES ||
	    args[1] != (long)attacker->room[0] || args[3] < 0)
		return;
	if (result != (long)(left < size ? left : size))
		fuzz_fail("%zu bytes from %zu on of %zu: %ld were read", size, offset,
			  attacker->stats_bytes, result);
}

/* Whatever the call gave: what it wrote, mapped or opened. */
static int look(long number, long result, struct attacker *attacker)
{
	int found = has_secret(attacker->room, ROOM_BYTES);
	ssize_t got;

	if ((number == SYS_openat || number == SYS_dup) && result >= 0) {
		got = pread((int)result, attacker->room[1], PAGE, 0);
		close((int)result);
	}
	got = pread(attacker->scratch, attacker->room[0], PAGE, 0);
	found |= has_secret(attacker->room, ROOM_BYTES);
	got = read(attacker->pipes[0], attacker->room[0], PAGE);
	(void)got;
	return found || has_secret(attacker->room, ROOM_BYTES);
}

static void *pages_alone(size_t size)
{
	uint8_t *pages = mmap(NULL, size + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED || mprotect(pages, size, PROT_READ | PROT_WRITE))
		fuzz_fail("no memory");
	return pages;
}

/* One call, with its arguments out of the draws. */
static void one_call(struct attacker *attacker, int by_instruction)
{
	long number = numbers[random_below(attacker->random, ARRAY_SIZE(numbers))];
	long args[6], result;

	memset(attacker->room, 0, ROOM_BYTES);
	*attacker->part = (struct iovec){attacker->room[0], PAGE};
	for (int i = 0; i < 6; i++)
		args[i] = some_argument(attacker);
	fit(number, args, attacker);
	if (by_instruction)
		result = raw_call(number, args);
	else
		result = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
	if (number == SYS_mmap && (unsigned long)result < -4095ul)
		fuzz_fail("an object that no process may map was mapped");
	if (number == SYS_pread64)
		check_stats(args, result, attacker);
	if (look(number, result, attacker))
		fuzz_fail("call %ld gave the secret away", number);
}

static void some_calls(struct attacker *attacker, int by_instruction)
{
	for (int i = 0; i < CALLS; i++)
		one_call(attacker, by_instruction);
}

enum kind { CALL, INSTRUCTION, CALL_IN_CHILD, INSTRUCTION_IN_CHILD, KINDS };

struct call {
	enum kind kind;
	struct fuzz_random random;
};

static struct vm vm;
static struct vcpu vcpu;
static struct attacker attacker;
static uint8_t *short_memory; /* the shared side of SHORT_GPA, which nothing uses */
static struct call calls[FUZZ_RECORDS_MAX];
static unsigned int call_count;

/* A step of a child's waits for the end, when the child makes all of its calls. */
static int step(unsigned int kind, struct fuzz_random *random)
{
	if (kind >= CALL_IN_CHILD) {
		calls[call_count++] = (struct call){kind, *random};
		return 1;
	}
	attacker.random = random;
	some_calls(&attacker, kind == INSTRUCTION);
	return 1;
}

static size_t stats_size(int fd)
{
	static uint8_t image[STATS_BYTES];
	ssize_t size = pread(fd, image, sizeof(image), 0);

	if (size <= 0 || size == sizeof(image))
		fuzz_fail("no statistics");
	return (size_t)size;
}

/* Slot 2 for as long as the input lasts. */
static void open_short(void)
{
	int fd = vm_gmem(&vm, PAGE, 0);

	attacker.objects[OBJECT_SHORT] = fd;
	attacker.objects[OBJECT_SHORT_STATS] = ioctl(vm.fd, KVM_GET_STATS_FD, NULL);
	if (REGION(&vm, .slot = 2, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = SHORT_GPA,
		   .memory_size = PAGE, .userspace_addr = (uintptr_t)short_memory,
		   .guest_memfd = (uint32_t)fd))
		fuzz_fail("no guest_memfd for this input");
	guest_store(&vcpu, SHORT_GPA, SECRET);
}

/* No call has kept the file, and none has let it go too early. */
static void close_short(void)
{
	const struct guest_op load = {GUEST_LOAD8, .rbx = SHORT_GPA};

	if (guest_load(&vcpu, SHORT_GPA) != SECRET)
		fuzz_fail("the guest lost the secret in a file that is open");
	close(attacker.objects[OBJECT_SHORT]);
	close(attacker.objects[OBJECT_SHORT_STATS]);
	vcpu_prepare(&vcpu, &load);
	if (vcpu_run(&vcpu).end == END_DONE)
		fuzz_fail("a guest_memfd has outlived its last descriptor");
	if (REGION(&vm, .slot = 2))
		fuzz_fail("the slot does not go: %s", strerror(errno));
}

static void check_secret(uint64_t gpa)
{
	if (guest_load(&vcpu, gpa) != SECRET)
		fuzz_fail("the guest lost its secret at %#lx", gpa);
}

static void start(void)
{
	const struct rlimit small = {FILE_BYTES, FILE_BYTES};
	sigset_t alarm;

	/* libFuzzer's clock would end the guest's turns, which the test wants done. */
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm, NULL);
	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	attacker.room = pages_alone(ROOM_BYTES);
	attacker.part = pages_alone(PAGE);
	attacker.objects[OBJECT_KVM] = vm.kvm;
	attacker.objects[OBJECT_VM] = vm.fd;
	attacker.objects[OBJECT_GMEM] = vm_gmem(&vm, PAGES * PAGE, 0);
	attacker.objects[OBJECT_STATS] = ioctl(vm.fd, KVM_GET_STATS_FD, NULL);
	if (REGION(&vm, .slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
		   .memory_size = PAGES * PAGE,
		   .userspace_addr = (uintptr_t)memory_alloc(PAGES * PAGE),
		   .guest_memfd = (uint32_t)attacker.objects[OBJECT_GMEM]) ||
	    vm_set_attributes(&vm, GPA, PAGES * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE))
		fuzz_fail("no private memory");
	guest_store(&vcpu, GPA, SECRET);
	guest_store(&vcpu, GPA + PAGE, SECRET);
	short_memory = memory_alloc(PAGE);
	attacker.stats_bytes = stats_size(attacker.objects[OBJECT_STATS]);
	if (vm_set_attributes(&vm, SHORT_GPA, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE))
		fuzz_fail("no private memory");
	/* What the calls write to files stays small. */
	if (setrlimit(RLIMIT_FSIZE, &small))
		fuzz_fail("no limit");
}

static void begin(void)
{
	call_count = 0;
	/* Not before: libFuzzer takes the signal when it has started, for its own files. */
	if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
		fuzz_fail("no signal: %s", strerror(errno));
	if (pipe2(attacker.pipes, O_NONBLOCK))
		fuzz_fail("no pipe: %s", strerror(errno));
	attacker.scratch = memfd_create("scratch", 0);
	open_short();
}

static void run_child(void)
{
	pid_t child = fork();
	int status;

	for (unsigned int i = 0; child == 0 && i < call_count; i++) {
		attacker.random = &calls[i].random;
		some_calls(&attacker, calls[i].kind == INSTRUCTION_IN_CHILD);
	}
	if (child == 0)
		_exit(0);
	while (waitpid(child, &status, WNOHANG) == 0)
		check_secret(GPA);
	if (status)
		fuzz_fail("the child ended with status %#x", (unsigned int)status);
}

static void end(void)
{
	check_secret(GPA);
	if (call_count)
		run_child();
	check_secret(GPA + PAGE);
	close_short();
	close(attacker.pipes[0]);
	close(attacker.pipes[1]);
	close(attacker.scratch);
}

const struct fuzz_target fuzz_target = {
    .kinds = KINDS,
    .needs_kvm = 1,
    .start = start,
    .begin = begin,
    .step = step,
    .end = end,
};
