/*
 * A process that is stopped and goes on finds its KVM_RUN ended with EINTR, in every thread;
 * source: the exit to user mode that the kernel makes of any pending signal.
 */
#include <errno.h>
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

/* The process under test: 0 when each stop ended KVM_RUN of both vCPUs. */
static int run_vcpus(void)
{
	static struct vcpu vcpus[VCPUS];
	pthread_t threads[VCPUS];
	struct vm vm;
	uint8_t *memory;

	vm_open(&vm, 0);
	CHECK(!ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(memory, spins, sizeof(spins));
	memcpy(memory + PAGE, sleeps, sizeof(sleeps));
	CHECK(!REGION1(&vm, .memory_size = 2 * PAGE, .userspace_addr = (uintptr_t)memory));
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
		CHECK(!pthread_create(&threads[i], NULL, run_guest, &vcpus[i]));
	}
	for (int i = 0; i < VCPUS; i++)
		pthread_join(threads[i], NULL);
	return results[0] == STOPS && results[1] == STOPS ? 0 : 1;
}

int main(void)
{
	int status;
	pid_t pid;

	CHECK(!pipe(entered));
	pid = fork();
	if (!pid) {
		alarm(40);
		_exit(run_vcpus());
	}
	close(entered[1]);
	for (int i = 0; i < STOPS; i++) {
		char byte;

		for (int vcpu = 0; vcpu < VCPUS; vcpu++)
			CHECK(read(entered[0], &byte, 1) == 1);
		/* From the note to KVM_RUN is a moment. */
		usleep(200000);
		CHECK(!kill(pid, SIGSTOP));
		CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
		CHECK(!kill(pid, SIGCONT));
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("status %#x\n", status);
		return 1;
	}
	return 0;
}
