/*
 * Handlers on an alternate signal stack of the least size make calls: the kernel needs none of it
 * for them.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 64ul
/* What is left for a handler of its own: as case by case, runtimes add it to the least size. */
#define OWN_BYTES 256ul
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct vm vm, other;
static struct vcpu vcpu;
static uint8_t *memory;
static volatile long result;
static volatile int has_run;

static void slot_make(void)
{
	memory = memory_alloc(PAGES * PAGE);
	CHECK_OK(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			.userspace_addr = (uintptr_t)memory, .flags = KVM_MEM_LOG_DIRTY_PAGES));
	for (unsigned long page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
}

/* One page, whose end is the stack's and before which is nothing. */
static void stack_make(void)
{
	size_t size_bytes = getauxval(AT_MINSIGSTKSZ) + OWN_BYTES;
	size_t room_bytes = (size_bytes + PAGE - 1) & -PAGE;
	uint8_t *room =
	    mmap(NULL, room_bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t stack = {.ss_sp = room + PAGE, .ss_size = size_bytes};

	CHECK(room != MAP_FAILED && getauxval(AT_MINSIGSTKSZ));
	CHECK_OK(mprotect(room + PAGE, room_bytes, PROT_READ | PROT_WRITE));
	CHECK_OK(sigaltstack(&stack, NULL));
}

static void call_mprotect(void)
{
	result = mprotect(memory, PAGE, PROT_READ);
}

static void call_munmap(void)
{
	result = munmap(memory + PAGE, PAGE);
}

static void call_mmap(void)
{
	result =
	    mmap(memory, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != memory
		? -1
		: 0;
}

static void call_madvise(void)
{
	result = madvise(memory, PAGE, MADV_DONTNEED);
}

static void call_dirty_log(void)
{
	static uint64_t bitmap[PAGES / 64];
	static struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bitmap};

	result = ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log);
}

static void call_delete(void)
{
	static struct kvm_userspace_memory_region region = {.slot = 1, .guest_phys_addr = GPA};

	result = ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static void call_create(void)
{
	result = ioctl(vm.kvm, KVM_CREATE_VM, 0) < 0;
}

static void call_open(void)
{
	result = open("/dev/kvm", O_RDWR) < 0;
}

static void call_close(void)
{
	result = close(other.fd);
}

static void call_dup(void)
{
	result = dup2(0, other.fd) != other.fd;
}

static void call_fstat(void)
{
	static struct stat status;

	result = fstat(vm.fd, &status);
}

static void call_read(void)
{
	static char byte;

	result = read(vm.fd, &byte, 1) != -1;
}

static void call_run(void)
{
	result = ioctl(vcpu.fd, KVM_RUN, 0);
}

static void call_raw(void)
{
	result = syscall(SYS_mprotect, memory, PAGE, PROT_READ);
}

static const struct {
	const char *name;
	void (*make)(void);
} calls[] = {
    {"mprotect", call_mprotect},
    {"munmap", call_munmap},
    {"mmap", call_mmap},
    {"madvise", call_madvise},
    {"KVM_GET_DIRTY_LOG", call_dirty_log},
    {"a slot's deletion", call_delete},
    {"KVM_CREATE_VM", call_create},
    {"open", call_open},
    {"close", call_close},
    {"dup2", call_dup},
    {"fstat", call_fstat},
    {"read", call_read},
    {"KVM_RUN", call_run},
    {"syscall(3)", call_raw},
};

static unsigned long chosen;

static void on_signal(int signal)
{
	(void)signal;
	calls[chosen].make();
	has_run++;
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	calls[chosen].make();
	mprotect((void *)((uintptr_t)info->si_addr & -PAGE), PAGE, PROT_READ | PROT_WRITE);
	has_run++;
}

/* Twice: what a first call of ours leaves behind is the second one's to live with. */
static void *thread_main(void *unused)
{
	struct sigaction sent = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
	struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_ONSTACK | SA_SIGINFO};
	volatile uint8_t *own = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t now;

	CHECK_OK(sigaction(SIGUSR1, &sent, NULL));
	CHECK_OK(sigaction(SIGSEGV, &fault, NULL));
	stack_make();
	alarm(50);
	result = 77;
	CHECK_OK(raise(SIGUSR1));
	CHECK_EQ(has_run, 1);
	CHECK_EQ(result, 0);
	*own = 1;
	CHECK_EQ(has_run, 2);
	CHECK_OK(sigaltstack(NULL, &now));
	CHECK_EQ(now.ss_flags, 0);
	CHECK_EQ(now.ss_size, getauxval(AT_MINSIGSTKSZ) + OWN_BYTES);
	return unused;
}

static void test_one_call(void)
{
	pthread_t thread;

	vm_open(&other, KVM_X86_DEFAULT_VM);
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	slot_make();
	CHECK_EQ(pthread_create(&thread, NULL, thread_main, NULL), 0);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	guest_load(&vcpu, AGENT_GPA);
}

int main(int argc, char **argv)
{
	struct check_test tests[COUNT(calls)];
	int failed = 0;

	for (chosen = 0; chosen < COUNT(calls); chosen++) {
		tests[chosen] = (struct check_test){calls[chosen].name, test_one_call};
		failed |= check_main(argc, argv, &tests[chosen], 1);
	}
	return failed;
}
