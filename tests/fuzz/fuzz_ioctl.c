/*
 * Whatever a client passes gets an errno: any number on any descriptor, with any argument, from two
 * threads, while both vCPUs run, and from a child now and then. After each input what a vCPU has
 * can be read and set again, and a fresh VM has to run its guest correctly.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fuzz/ioctl_typed.h"
#include "tests/fuzz/target.h"
#include "frontend/uapi.h"

#define PAGE 4096ul
#define DESCRIPTORS 10
/* Of a step: calls that KVM takes are many, and are done at once. */
#define TYPED_CALLS 16
#define ARENA_BYTES (64 * PAGE)
#define MEMORY_BYTES (16 * PAGE)
/* Reserved behind the memory, for the slots that are larger: no mapping of ours is under them. */
#define WINDOW_BYTES (8ul << 30)

/* Each descriptor's numbers are the client's; both threads close and replace them. */
struct client {
	_Atomic int fd[DESCRIPTORS];
	/* A written page at its front, then read-only, unmapped and ordinary ones in turn. */
	uint8_t *arena;
	uint8_t *memory;
	int lowest; /* the first descriptor of an input */
	int eventfd;
	int has_irqchip;
};

/* A step, for one of the two threads. */
struct call {
	unsigned int kind;
	struct fuzz_random random;
};

struct caller {
	struct client *client;
	struct call calls[FUZZ_RECORDS_MAX];
	unsigned int count;
	/* Of the call being made. */
	struct fuzz_random random;
	atomic_int has_ended;
};

static const unsigned long requests[] = {
    KVM_GET_API_VERSION,
    KVM_CREATE_VM,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_EMULATED_CPUID,
    KVM_GET_MSR_INDEX_LIST,
    KVM_GET_MSR_FEATURE_INDEX_LIST,
    KVM_X86_GET_MCE_CAP_SUPPORTED,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
    KVM_SET_MEMORY_ATTRIBUTES,
    KVM_CREATE_GUEST_MEMFD,
    KVM_GET_DIRTY_LOG,
    KVM_CLEAR_DIRTY_LOG,
    KVM_RESET_DIRTY_RINGS,
    KVM_SET_NR_MMU_PAGES,
    KVM_REGISTER_COALESCED_MMIO,
    KVM_UNREGISTER_COALESCED_MMIO,
    KVM_IOEVENTFD,
    KVM_IRQFD,
    KVM_CREATE_IRQCHIP,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_IRQ_LINE,
    KVM_IRQ_LINE_STATUS,
    KVM_SET_GSI_ROUTING,
    KVM_SIGNAL_MSI,
    KVM_X86_SET_MSR_FILTER,
    KVM_SET_BOOT_CPU_ID,
    KVM_SET_TSS_ADDR,
    KVM_SET_IDENTITY_MAP_ADDR,
    KVM_GET_CLOCK,
    KVM_SET_CLOCK,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_GET_STATS_FD,
    KVM_RUN,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_FPU,
    KVM_SET_FPU,
    KVM_GET_XSAVE,
    KVM_SET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_SET_CPUID,
    KVM_SET_CPUID2,
    KVM_GET_CPUID2,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_INTERRUPT,
    KVM_NMI,
    KVM_TRANSLATE,

    KVM_SET_GUEST_DEBUG,
    KVM_PRE_FAULT_MEMORY,
    KVM_KVMCLOCK_CTRL,
    KVM_X86_SETUP_MCE,
    KVM_X86_SET_MCE,
    KVM_TPR_ACCESS_REPORTING,
    KVM_SET_VAPIC_ADDR,
    KVM_GET_NESTED_STATE,
    KVM_SET_NESTED_STATE,
    KVM_GET_SREGS2,
    KVM_SET_SREGS2,
    KVM_CREATE_PIT2,
    KVM_GET_PIT2,
    KVM_SET_PIT2,
    KVM_CREATE_DEVICE,
    KVM_GET_DEVICE_ATTR,
    KVM_SET_DEVICE_ATTR,
    KVM_HAS_DEVICE_ATTR,
    KVM_REINJECT_CONTROL,
    KVM_XEN_HVM_CONFIG,
    KVM_SMI,
    KVM_GET_ONE_REG,
    KVM_SET_ONE_REG,
    KVM_HYPERV_EVENTFD,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SET_PMU_EVENT_FILTER,
};

static void on_signal(int signal)
{
	(void)signal;
}

static uint8_t *make_arena(void)
{
	uint8_t *arena =
	    mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (arena == MAP_FAILED)
		fuzz_fail("no memory");
	for (size_t page = 4; page < 64; page += 4) {
		mprotect(arena + page * PAGE, PAGE, PROT_READ);
		mprotect(arena + (page + 2) * PAGE, PAGE, PROT_NONE);
	}
	/* An answer that is longer than what is left must not go on into memory behind it. */
	mprotect(arena + ARENA_BYTES - PAGE, PAGE, PROT_NONE);
	return arena;
}

/* A word of an argument: a number, a descriptor of ours, or a pointer that may be good. */
static uint64_t field(struct caller *caller)
{
	struct fuzz_random *random = &caller->random;

	switch (random_below(random, 6)) {
	case 0:
		return (uintptr_t)caller->client->memory + random_below(random, 16) * PAGE;
	case 1:
		return random_below(random, 20) * PAGE;
	case 2:
		return (uint32_t)caller->client->fd[random_below(random, DESCRIPTORS)];
	case 3:
		return random_edge(random);
	default:
		return random_below(random, 3);
	}
}

static void *argument(struct caller *caller)
{
	struct fuzz_random *random = &caller->random;
	uint8_t *arena = caller->client->arena;
	uint8_t *at;

	switch (random_below(random, 8)) {
	case 0:
		return (void *)(uintptr_t)random_edge(random);
	case 1:
		return arena + random_below(random, ARENA_BYTES);
	case 2:
		at = arena + random_below(random, 15) * 4 * PAGE + 2 * PAGE -
		     random_below(random, 256);
		break;
	default:
		at = arena + random_below(random, PAGE / 8) * 8;
	}
	/* The page-crossing ones end in a page without access: write no further than it. */
	for (size_t i = 0; i < 24; i++) {
		uint64_t value = field(caller);
		uint8_t *to = at + 4 * i;

		if ((size_t)(to - arena) / PAGE % 4 <= 1 &&
		    (size_t)(to + 7 - arena) / PAGE % 4 <= 1 && (size_t)(to + 7 - arena) < 4 * PAGE)
			memcpy(to, &value, random_below(random, 2) ? 8 : 4);
	}
	return at;
}

static unsigned long request(struct caller *caller)
{
	struct fuzz_random *random = &caller->random;
	unsigned long known = requests[random_below(random, ARRAY_SIZE(requests))];

	switch (random_below(random, 12)) {
	case 0:
		return random_word(random) & 0xffffffff;
	case 1:
		return (KVMIO << 8) | random_below(random, 256);
	case 2:
		return known ^ (1ul << random_below(random, 32));
	default:
		return known;
	}
}

static int is_region(unsigned long number)
{
	return _IOC_NR(number) == _IOC_NR(KVM_SET_USER_MEMORY_REGION) ||
	       _IOC_NR(number) == _IOC_NR(KVM_SET_USER_MEMORY_REGION2);
}

/* The argument may be no memory. */
static int peek(struct kvm_userspace_memory_region *region, void *at)
{
	struct iovec from = {at, sizeof(*region)}, to = {region, sizeof(*region)};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == sizeof(*region);
}

/* Would a guest write to memory of this process that is no memory of the guest's? */
static int reaches_elsewhere(const struct caller *caller, unsigned long number, void *at)
{
	struct kvm_userspace_memory_region region;
	uint64_t window = (uintptr_t)caller->client->memory;

	if (!is_region(number) || !peek(&region, at))
		return 0;
	return region.userspace_addr >= PAGE && region.userspace_addr < 1ull << 47 &&
	       region.userspace_addr - window >= WINDOW_BYTES;
}

/* A log of terabytes takes seconds each time it is asked for; what is larger is refused. */
static int takes_long(unsigned long number, void *at)
{
	struct kvm_userspace_memory_region region;

	return is_region(number) && peek(&region, at) && region.memory_size > WINDOW_BYTES &&
	       region.memory_size <= 1ull << 47;
}

/* What makes a descriptor takes the place of another one, which is closed under any call. */
static void keep_descriptor(struct caller *caller, int fd)
{
	unsigned int slot = 2 + (unsigned int)random_below(&caller->random, DESCRIPTORS - 2);
	int old = atomic_exchange(&caller->client->fd[slot], fd);

	if (old > 2)
		close(old);
}

static void one_ioctl(struct caller *caller)
{
	int fd = caller->client->fd[random_below(&caller->random, DESCRIPTORS)], result;
	unsigned long number = request(caller);
	void *at = argument(caller);

	/* Not the process's own descriptors, and no mask that keeps KVM_RUN from ending. */
	if (fd <= 2 || _IOC_NR(number) == _IOC_NR(KVM_SET_SIGNAL_MASK) ||
	    reaches_elsewhere(caller, number, at) || takes_long(number, at))
		return;
	result = ioctl(fd, number, at);
	if (result > 2 && (number == KVM_CREATE_VM || number == KVM_CREATE_VCPU ||
			   number == KVM_CREATE_GUEST_MEMFD || number == KVM_GET_STATS_FD))
		keep_descriptor(caller, result);
}

static void one_child(struct caller *caller)
{
	pid_t child = fork(), ended;
	int status;

	if (child == 0) {
		for (int i = 0; i < 5; i++)
			one_ioctl(caller);
		_exit(0);
	}
	if (child < 0)
		return;
	while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR)
		;
	if (ended != child || !WIFEXITED(status))
		fuzz_fail("a child died: %#x", (unsigned int)status);
}

static void one_mapping(struct caller *caller, int fd)
{
	size_t size = PAGE * (1 + random_below(&caller->random, 4));
	off_t offset = (off_t)(PAGE * random_below(&caller->random, 5));
	void *at = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offset);

	if (at != MAP_FAILED)
		munmap(at, size);
}

static void one_read(int fd)
{
	char bytes[300];

	errno = 0;
	if (read(fd, bytes, sizeof(bytes)) < 0 && errno == 0)
		fuzz_fail("read failed without an errno");
}

/* A call whose argument is right, but for up to two words. */
static void one_typed(struct caller *caller)
{
	struct client *client = caller->client;
	struct typed_call call;

	typed_draw(&caller->random, client->eventfd, client->arena, &call);
	for (uint64_t changes = random_below(&caller->random, 3); changes; changes--)
		call.words[random_below(&caller->random, call.used + 1)] = (uint32_t)field(caller);
	(void)ioctl(client->fd[call.on_vcpu ? 2 : 1], call.number, call.words);
}

enum kind { IOCTL, IOCTL_SECOND, IOCTL_AGAIN, READ, MAP, CHILD, TYPED, LIST, KINDS };

static void one_call(struct caller *caller, const struct call *call)
{
	int fd;

	caller->random = call->random;
	switch (call->kind) {
	case READ:
	case MAP:
		fd = caller->client->fd[random_below(&caller->random, DESCRIPTORS)];
		if (fd > 2 && call->kind == READ)
			one_read(fd);
		if (fd > 2 && call->kind == MAP)
			one_mapping(caller, fd);
		break;
	case CHILD:
		/* A child takes a millisecond: make one in a quarter of these steps. */
		if (random_once_in(&caller->random, 4))
			one_child(caller);
		break;
	case TYPED:
		for (int i = 0; i < TYPED_CALLS; i++)
			one_typed(caller);
		break;
	case LIST:
		for (int i = 0; i < TYPED_CALLS; i++)
			typed_list(&caller->random, caller->client->fd[0], caller->client->fd[2]);
		break;
	default:
		one_ioctl(caller);
	}
}

static void *make_calls(void *opaque)
{
	struct caller *caller = opaque;

	for (unsigned int i = 0; i < caller->count; i++)
		one_call(caller, &caller->calls[i]);
	caller->has_ended = 1;
	return NULL;
}

/* One VM that adds 2 and 3: what it answers shows whether the library still works. */
static void check_guest(void)
{
	static const uint8_t code[] = {0xb0, 0x02, 0x04, 0x03, 0xe6, 0x80, 0xf4};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), result;
	uint8_t *memory =
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {.memory_size = PAGE,
						     .userspace_addr = (uintptr_t)memory};
	struct kvm_run *run;
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rflags = 2};

	if (kvm < 0 || vm < 0 || vcpu < 0 || size < 0)
		fuzz_fail("no VM after the calls: %s", strerror(errno));
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	memcpy(memory, code, sizeof(code));
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		fuzz_fail("no slot after the calls: %s", strerror(errno));
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		fuzz_fail("no registers after the calls: %s", strerror(errno));
	do {
		result = ioctl(vcpu, KVM_RUN, 0);
	} while (result < 0 && errno == EINTR);
	if (result || run->exit_reason != KVM_EXIT_IO || run->io.port != 0x80 ||
	    ((uint8_t *)run)[run->io.data_offset] != 5)
		fuzz_fail("the guest ran wrong after the calls: %d, exit %u", result,
			  run->exit_reason);
	munmap(run, (size_t)size);
	munmap(memory, PAGE);
	close(vcpu);
	close(vm);
	close(kvm);
}

/* The guest of both vCPUs: it writes to each of its pages but the first, round and round. */
static void write_guest(uint8_t *memory)
{
	/* 1: add $0x100, %bx; inc word (%bx); cmp $0x10, %bh; jb 1b; xor %bx, %bx; jmp 1b */
	static const uint8_t code[] = {0x81, 0xc3, 0x00, 0x01, 0xff, 0x87, 0x00, 0x10, 0x80,
				       0xff, 0xe0, 0x72, 0xf3, 0x31, 0xdb, 0xeb, 0xef};

	memcpy(memory, code, sizeof(code));
}

static int open_vcpu(int vm, unsigned long id)
{
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, id);
	struct kvm_regs regs = {.rflags = 2};
	/* With an interrupt controller the second would wait for a SIPI. */
	struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE};
	struct kvm_sregs sregs;

	if (vcpu < 0 || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		fuzz_fail("no vCPU at the start: %s", strerror(errno));
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		fuzz_fail("no registers at the start: %s", strerror(errno));
	if (ioctl(vcpu, KVM_SET_MP_STATE, &runnable))
		fuzz_fail("a vCPU does not start: %s", strerror(errno));
	return vcpu;
}

static void open_all(struct client *client)
{
	struct kvm_create_guest_memfd create = {.size = MEMORY_BYTES};
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 1);

	client->lowest = kvm;
	client->arena = make_arena();
	client->memory =
	    mmap(NULL, WINDOW_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (client->memory == MAP_FAILED ||
	    mprotect(client->memory, MEMORY_BYTES, PROT_READ | PROT_WRITE))
		fuzz_fail("no memory");
	region.userspace_addr = (uintptr_t)client->memory;
	if (kvm < 0 || vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		fuzz_fail("no VM at the start: %s", strerror(errno));
	client->fd[0] = kvm;
	client->fd[1] = vm;
	/* Before there are vCPUs, or never. */
	if (client->has_irqchip && ioctl(vm, KVM_CREATE_IRQCHIP, NULL))
		fuzz_fail("no interrupt controller at the start: %s", strerror(errno));
	client->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	write_guest(client->memory);
	client->fd[2] = open_vcpu(vm, 0);
	client->fd[3] = open_vcpu(vm, 1);
	client->fd[4] = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	client->fd[5] = ioctl(vm, KVM_GET_STATS_FD, 0);
	client->fd[6] = ioctl(client->fd[2], KVM_GET_STATS_FD, 0);
	client->fd[7] = memfd_create("fuzz", MFD_CLOEXEC);
	client->fd[8] = dup(client->fd[2]);
	client->fd[9] = dup(vm);
	/* A number that was ours and is closed. */
	if (client->fd[6] > 2)
		close(client->fd[6]);
}

static struct client client;
static struct caller callers[2];
static pthread_t main_thread, second_thread, vcpu_threads[2], signal_thread;
static atomic_int is_over, vcpus_ended;

static void close_all(void)
{
	for (size_t i = 0; i < DESCRIPTORS; i++)
		if (client.fd[i] > 2)
			close(client.fd[i]);
	/* Calls may have made descriptors that are in no list. Those of quire run are hidden. */
	close_range((unsigned int)client.lowest, ~0u, 0);
	munmap(client.arena, ARENA_BYTES);
	munmap(client.memory, WINDOW_BYTES);
}

/* KVM_RUN on the descriptor at @opaque, with pauses in which other threads reach the vCPU. */
static void *run_vcpu(void *opaque)
{
	_Atomic int *fd = opaque;

	while (!is_over) {
		(void)ioctl(*fd, KVM_RUN, NULL);
		usleep(50);
	}
	vcpus_ended++;
	return NULL;
}

/* KVM_RUN ends by it. Threads are joined after this one, so that each is there to be sent to. */
static void *send_signals(void *opaque)
{
	(void)opaque;
	while (!callers[0].has_ended || !callers[1].has_ended || vcpus_ended < 2) {
		is_over = callers[0].has_ended && callers[1].has_ended;
		usleep(1000);
		pthread_kill(main_thread, SIGRTMIN);
		pthread_kill(second_thread, SIGRTMIN);
		pthread_kill(vcpu_threads[0], SIGRTMIN);
		pthread_kill(vcpu_threads[1], SIGRTMIN);
	}
	return NULL;
}

static void start(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	sigaction(SIGRTMIN, &action, NULL);
}

static void begin(void)
{
	for (size_t i = 0; i < 2; i++) {
		callers[i].count = 0;
		callers[i].has_ended = 0;
	}
}

static int step(unsigned int kind, struct fuzz_random *random)
{
	struct caller *caller = &callers[kind == IOCTL_SECOND || kind == MAP];
	struct fuzz_random other = *random;

	/* No draw of the step's own. */
	other.left = 0;
	if (!callers[0].count && !callers[1].count)
		client.has_irqchip = random_once_in(&other, 2);
	caller->calls[caller->count++] = (struct call){kind, *random};
	return 1;
}

/* The steps have noted the calls of both threads; make them now, side by side. */
static void end(void)
{
	int failed = 0;

	open_all(&client);
	callers[0].client = callers[1].client = &client;
	main_thread = pthread_self();
	is_over = vcpus_ended = 0;
	failed |= pthread_create(&vcpu_threads[0], NULL, run_vcpu, &client.fd[2]);
	failed |= pthread_create(&vcpu_threads[1], NULL, run_vcpu, &client.fd[3]);
	failed |= pthread_create(&second_thread, NULL, make_calls, &callers[1]);
	failed |= pthread_create(&signal_thread, NULL, send_signals, NULL);
	if (failed)
		fuzz_fail("no thread");
	make_calls(&callers[0]);
	pthread_join(signal_thread, NULL);
	pthread_join(second_thread, NULL);
	pthread_join(vcpu_threads[0], NULL);
	pthread_join(vcpu_threads[1], NULL);
	typed_check_saved(client.fd[2]);
	typed_check_saved(client.fd[3]);
	close_all();
	check_guest();
}

const struct fuzz_target fuzz_target = {
    .kinds = KINDS,
    .needs_kvm = 1,
    .start = start,
    .begin = begin,
    .step = step,
    .end = end,
};
