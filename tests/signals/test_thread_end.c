/*
 * A thread ends, and a signal handler of its client's makes a KVM call meanwhile. The thread steps
 * from the client's own destructor of thread-specific data to its next turn, with the destructors
 * of the library between; one thread for each instruction of these makes the call there.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/rules/client.h"

#define PATIENCE_S 50
#define FLAG_TF "0x100"
#define STEPS_MAX 4096

static struct vm vm;
static struct vcpu vcpu;
static pthread_key_t key;
/* Which steps of a thread are the library's. */
static unsigned int inside[STEPS_MAX], inside_count;
static unsigned int turns, steps, chosen;

/* A call that needs what the library remembers of the thread. */
static void call(void)
{
	struct kvm_pre_fault_memory range = {.gpa = AGENT_GPA, .size = PAGE};

	CHECK(!ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range));
}

static int is_inside(uint64_t address)
{
	Dl_info info;

	return dladdr((const void *)(uintptr_t)address, &info) &&
	       strstr(info.dli_fname, "libquire_preload");
}

static void on_step(int signal, siginfo_t *info, void *context)
{
	const ucontext_t *thread = context;

	(void)signal;
	(void)info;
	steps++;
	if (!chosen && inside_count < STEPS_MAX && is_inside(thread->uc_mcontext.gregs[REG_RIP]))
		inside[inside_count++] = steps;
	if (steps == chosen)
		call();
}

static void destroy(void *value)
{
	if (turns++) {
		__asm__ volatile("pushfq; andq $~" FLAG_TF ", (%%rsp); popfq" ::: "memory", "cc");
		return;
	}
	call();
	CHECK(!pthread_setspecific(key, value));
	__asm__ volatile("pushfq; orq $" FLAG_TF ", (%%rsp); popfq" ::: "memory", "cc");
}

static void *live(void *value)
{
	CHECK(!pthread_setspecific(key, value));
	call();
	return NULL;
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
	pthread_t thread;

	alarm(PATIENCE_S);
	machine_open(&vm, &vcpu, 0);
	CHECK(!sigaction(SIGTRAP, &action, NULL));
	CHECK(!pthread_key_create(&key, destroy));
	for (unsigned int i = 0; i <= inside_count; i++) {
		chosen = i ? inside[i - 1] : 0;
		turns = steps = 0;
		CHECK(!pthread_create(&thread, NULL, live, &key));
		CHECK(!pthread_join(thread, NULL));
		CHECK(turns == 2 && steps >= chosen);
	}
	CHECK(inside_count > 10);
	return 0;
}
