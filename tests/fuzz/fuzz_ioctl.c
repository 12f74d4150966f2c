/*
 * Whatever a client passes gets an errno: any number on any descriptor, with any argument, from two
 * threads and a child now and then. For minutes: quire run -- fuzz_ioctl --seconds 600 --seed 1,
 * beside './dev soak'. After each seed a fresh VM has to run its guest correctly.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "frontend/uapi.h"

#define PAGE 4096ul
#define CALLS 300
#define DESCRIPTORS 10
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
};

struct caller {
	struct client *client;
	struct fuzz_random random;
	int timed;
	atomic_int done;
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

static void on_alarm(int signal)
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

static int one_ioctl(struct caller *caller, int fd)
{
	unsigned long number = request(caller);
	void *at = argument(caller);
	int result;

	/* Not the process's own descriptors, and no mask that keeps KVM_RUN from ending. */
	if (fd <= 2 || _IOC_NR(number) == _IOC_NR(KVM_SET_SIGNAL_MASK))
		return -1;
	if (caller->timed) {
		fuzz_progress->step = number;
		call_begin();
	}
	result = ioctl(fd, number, at);
	if (caller->timed)
		call_end();
	/* What makes a descriptor takes the place of another one, which is closed under any call.
	 */
	if (result > 2 && (number == KVM_CREATE_VM || number == KVM_CREATE_VCPU ||
			   number == KVM_CREATE_GUEST_MEMFD || number == KVM_GET_STATS_FD)) {
		unsigned int slot =
		    2 + (unsigned int)random_below(&caller->random, DESCRIPTORS - 2);
		int old = atomic_exchange(&caller->client->fd[slot], result);

		if (old > 2)
			close(old);
	}
	return result;
}

static void one_child(struct caller *caller)
{
	pid_t child = fork(), ended;
	int status;

	if (child == 0) {
		for (int i = 0; i < 5; i++)
			one_ioctl(caller,
				  caller->client->fd[random_below(&caller->random, DESCRIPTORS)]);
		_exit(0);
	}
	if (child < 0)
		return;
	call_begin();
	while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR)
		;
	call_end();
	if (ended != child || !WIFEXITED(status))
		fuzz_fail("a child died");
}

static void *call_at_random(void *opaque)
{
	struct caller *caller = opaque;
	char bytes[300];

	for (int i = 0; i < CALLS; i++) {
		int fd = caller->client->fd[random_below(&caller->random, DESCRIPTORS)];

		switch (random_below(&caller->random, 40)) {
		case 0:
			if (read(fd > 2 ? fd : -1, bytes, sizeof(bytes)) < 0 && errno == 0)
				fuzz_fail("read failed without an errno");
			break;
		case 1:
			munmap(mmap(NULL, PAGE * (1 + random_below(&caller->random, 4)), PROT_READ,
				    MAP_SHARED, fd,
				    (off_t)(PAGE * random_below(&caller->random, 5))),
			       PAGE);
			break;
		case 2:
			if (caller->timed && random_once_in(&caller->random, 8))
				one_child(caller);
			break;
		default:
			one_ioctl(caller, fd);
		}
	}
	caller->done = 1;
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

static void open_all(struct client *client)
{
	struct kvm_create_guest_memfd create = {.size = MEMORY_BYTES};
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 1);

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
	client->fd[2] = ioctl(vm, KVM_CREATE_VCPU, 0);
	client->fd[3] = ioctl(vm, KVM_CREATE_VCPU, 1);
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

static void close_all(struct client *client)
{
	for (size_t i = 0; i < DESCRIPTORS; i++)
		if (client->fd[i] > 2)
			close(client->fd[i]);
	munmap(client->arena, ARENA_BYTES);
	munmap(client->memory, WINDOW_BYTES);
}

/* Both callers, and what sends them a signal every few milliseconds: KVM_RUN ends by it. */
struct alarm {
	pthread_t callers[2];
	atomic_int stop;
};

static void *send_signals(void *opaque)
{
	struct alarm *alarm = opaque;

	while (!alarm->stop) {
		usleep(5000);
		for (size_t i = 0; i < 2; i++)
			pthread_kill(alarm->callers[i], SIGALRM);
	}
	return NULL;
}

static void run_seed(uint64_t seed)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct client client = {0};
	struct caller first = {.client = &client, .timed = 1}, second = {.client = &client};
	struct alarm alarm = {.callers[0] = pthread_self()};
	pthread_t signals;

	random_seed(&first.random, seed);
	random_seed(&second.random, ~seed);
	sigaction(SIGALRM, &action, NULL);
	open_all(&client);
	if (pthread_create(&alarm.callers[1], NULL, call_at_random, &second) ||
	    pthread_create(&signals, NULL, send_signals, &alarm))
		fuzz_fail("no thread");
	call_at_random(&first);
	/* The other one has as many calls to make: only now and then much longer. */
	call_begin();
	while (!second.done)
		usleep(1000);
	alarm.stop = 1;
	pthread_join(signals, NULL);
	pthread_join(alarm.callers[1], NULL);
	close_all(&client);
	check_guest();
	call_end();
}

int main(int argc, char **argv)
{
	return fuzz_main(argc, argv, run_seed);
}
