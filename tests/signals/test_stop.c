/*
 * A process that is stopped and goes on finds its KVM_RUN ended with EINTR, in every thread;
 * source: the exit to user mode that the kernel makes of any pending signal.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/rules/client.h"

#define VCPUS 2
#define STOPS 3

static int results[VCPUS];
static int entered[2];

/* What each guest says of itself, in its memory: it runs. */
#define RUNS 0x800
/* The guests' memory, which the process that stops them sees. */
static volatile uint8_t *memory;

/* Real mode: 1: movb $1, RUNS; jmp 1b. And 1: movb $1, RUNS + 1; hlt; jmp 1b. */
static const uint8_t spins[] = {0xc6, 0x06, 0x00, 0x08, 0x01, 0xeb, 0xf9};
static const uint8_t sleeps[] = {0xc6, 0x06, 0x01, 0x08, 0x01, 0xf4, 0xeb, 0xf8};

/* KVM_RUN from the guest's beginning: a note, and later what the guest says. True: ended by EINTR.
 */
static int run_until_stopped(const struct vcpu *vcpu, int index)
{
	struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE};

	CHECK(!ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable));
	memory[RUNS + index] = 0;
	CHECK(write(entered[1], "", 1) == 1);
	return ioctl(vcpu->fd, KVM_RUN, 0) == -1 && errno == EINTR;
}

static void *run_guest(void *opaque)
{
	struct vcpu *vcpu = opaque;
	int index = vcpu->run->padding1[0], interrupted = 0;

	for (int i = 0; i < STOPS; i++)
		interrupted += run_until_stopped(vcpu, index);
	results[index] = interrupted;
	return NULL;
}

static struct vcpu vcpus[VCPUS];
static struct vm vm;

/* A vCPU each for what spins and what sleeps. */
static void make_vcpus(uint32_t slot_flags)
{
	vm_open(&vm, 0);
	CHECK(!ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	memcpy((void *)memory, spins, sizeof(spins));
	memcpy((void *)(memory + PAGE), sleeps, sizeof(sleeps));
	CHECK(!REGION1(&vm, .flags = slot_flags, .memory_size = 2 * PAGE,
		       .userspace_addr = (uintptr_t)memory));
	for (int i = 0; i < VCPUS; i++) {
		struct kvm_regs regs = {.rflags = 2, .rip = i ? PAGE : 0};
		struct kvm_sregs sregs;

		vcpus[i].fd = ioctl(vm.fd, KVM_CREATE_VCPU, i);
		vcpus[i].run = mmap(NULL, ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
				    PROT_READ | PROT_WRITE, MAP_SHARED, vcpus[i].fd, 0);
		CHECK(vcpus[i].run != MAP_FAILED);
		vcpus[i].run->padding1[0] = (uint8_t)i;
		CHECK(!ioctl(vcpus[i].fd, KVM_GET_SREGS, &sregs));
		sregs.cs.base = sregs.cs.selector = 0;
		CHECK(!ioctl(vcpus[i].fd, KVM_SET_SREGS, &sregs));
		CHECK(!ioctl(vcpus[i].fd, KVM_SET_REGS, &regs));
	}
}

/* The process under test: 0 when each stop ended KVM_RUN of both vCPUs. */
static int run_vcpus(void)
{
	pthread_t threads[VCPUS];

	make_vcpus(0);
	for (int i = 0; i < VCPUS; i++)
		CHECK(!pthread_create(&threads[i], NULL, run_guest, &vcpus[i]));
	for (int i = 0; i < VCPUS; i++)
		pthread_join(threads[i], NULL);
	return results[0] == STOPS && results[1] == STOPS ? 0 : 1;
}

/* The thread that takes SIGCONT is in another call of KVM's, which waits for a page. */
struct reader {
	int userfault;
	uint64_t *log;
	uint32_t has_ended; /* KVM_RUN, once */
	int was_heard;	    /* before the call ended */
};

static void *sleep_once(void *opaque)
{
	struct reader *reader = opaque;

	if (run_until_stopped(&vcpus[1], 1))
		__atomic_store_n(&reader->has_ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *bring_late(void *opaque)
{
	struct reader *reader = opaque;
	uint64_t address = userfault_next(reader->userfault, NULL);

	CHECK(write(entered[1], "", 1) == 1);
	for (int i = 0; i < 2000 && !reader->was_heard; i++) {
		usleep(10000);
		reader->was_heard = (int)__atomic_load_n(&reader->has_ended, __ATOMIC_SEQ_CST);
	}
	userfault_give(reader->userfault, address, 0);
	return NULL;
}

static int run_beside_a_call(void)
{
	struct kvm_dirty_log request = {0};
	struct reader reader = {
	    .log = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
	pthread_t sleeper, bringer;
	sigset_t one;

	make_vcpus(KVM_MEM_LOG_DIRTY_PAGES);
	reader.userfault = userfault_open(reader.log, PAGE, UFFDIO_REGISTER_MODE_MISSING);
	request.dirty_bitmap = reader.log;
	sigemptyset(&one);
	sigaddset(&one, SIGCONT);
	CHECK(!pthread_sigmask(SIG_BLOCK, &one, NULL));
	CHECK(!pthread_create(&sleeper, NULL, sleep_once, &reader));
	CHECK(!pthread_create(&bringer, NULL, bring_late, &reader));
	CHECK(!pthread_sigmask(SIG_UNBLOCK, &one, NULL));
	CHECK(!ioctl(vm.fd, KVM_GET_DIRTY_LOG, &request));
	pthread_join(bringer, NULL);
	pthread_join(sleeper, NULL);
	return reader.was_heard ? 0 : 1;
}

/* A stop that came before KVM_RUN would not end it. */
static void wait_for_guests(int first)
{
	for (int i = first; i < VCPUS; i++) {
		for (int turn = 0; turn < 30000 && !memory[RUNS + i]; turn++)
			usleep(1000);
		CHECK(memory[RUNS + i]);
	}
	/* One of them halts in a moment. */
	usleep(20000);
}

/* Two notes come from the process before each of @stops; the guests from @first on run then. */
static int stop_and_go(int (*run)(void), int stops, int first)
{
	int status;
	pid_t pid;

	CHECK(!pipe(entered));
	memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	pid = fork();
	if (!pid) {
		alarm(40);
		_exit(run());
	}
	close(entered[1]);
	for (int i = 0; i < stops; i++) {
		char byte;

		for (int note = 0; note < 2; note++)
			CHECK(read(entered[0], &byte, 1) == 1);
		wait_for_guests(first);
		CHECK(!kill(pid, SIGSTOP));
		CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
		CHECK(!kill(pid, SIGCONT));
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	close(entered[0]);
	munmap((void *)memory, 2 * PAGE);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("status %#x\n", status);
		return 1;
	}
	return 0;
}

int main(void)
{
	return stop_and_go(run_vcpus, STOPS, 0) || stop_and_go(run_beside_a_call, 1, 1);
}
