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

/* Real mode, at address 0. */
static const uint8_t spins[] = {0xeb, 0xfe};	    /* 1: jmp 1b */
static const uint8_t sleeps[] = {0xf4, 0xeb, 0xfd}; /* 1: hlt; jmp 1b */

static void *run_guest(void *opaque)
{
	struct vcpu *vcpu = opaque;
	int index = vcpu->run->padding1[0], interrupted = 0;

	for (int i = 0; i < STOPS; i++) {
		CHECK(write(entered[1], "", 1) == 1);
		if (ioctl(vcpu->fd, KVM_RUN, 0) == -1 && errno == EINTR)
			interrupted++;
	}
	results[index] = interrupted;
	return NULL;
}

static struct vcpu vcpus[VCPUS];
static struct vm vm;

/* A vCPU each for what spins and what sleeps. */
static void make_vcpus(uint32_t slot_flags)
{
	uint8_t *memory =
	    mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vm_open(&vm, 0);
	CHECK(!ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	memcpy(memory, spins, sizeof(spins));
	memcpy(memory + PAGE, sleeps, sizeof(sleeps));
	CHECK(!REGION1(&vm, .flags = slot_flags, .memory_size = 2 * PAGE,
		       .userspace_addr = (uintptr_t)memory));
	for (int i = 0; i < VCPUS; i++) {
		struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE};
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
		CHECK(!ioctl(vcpus[i].fd, KVM_SET_MP_STATE, &runnable));
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

	CHECK(write(entered[1], "", 1) == 1);
	if (ioctl(vcpus[1].fd, KVM_RUN, 0) == -1 && errno == EINTR)
		__atomic_store_n(&reader->has_ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *bring_late(void *opaque)
{
	struct reader *reader = opaque;
	uint64_t address = userfault_next(reader->userfault, NULL);

	CHECK(write(entered[1], "", 1) == 1);
	for (int i = 0; i < 500 && !reader->was_heard; i++) {
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

/* @notes come from the process before each of @stops. */
static int stop_and_go(int (*run)(void), int stops, int notes)
{
	int status;
	pid_t pid;

	CHECK(!pipe(entered));
	pid = fork();
	if (!pid) {
		alarm(40);
		_exit(run());
	}
	close(entered[1]);
	for (int i = 0; i < stops; i++) {
		char byte;

		for (int note = 0; note < notes; note++)
			CHECK(read(entered[0], &byte, 1) == 1);
		/* From the note to KVM_RUN is a moment. */
		usleep(200000);
		CHECK(!kill(pid, SIGSTOP));
		CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
		CHECK(!kill(pid, SIGCONT));
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	close(entered[0]);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("status %#x\n", status);
		return 1;
	}
	return 0;
}

int main(void)
{
	return stop_and_go(run_vcpus, STOPS, VCPUS) || stop_and_go(run_beside_a_call, 1, 2);
}
