/*
 * KVM_RUN and memory calls on a thread with the smallest stack that libc makes: the kernel has a
 * stack of its own, so under KVM any guest runs there.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/rules/client.h"

#define MEMORY_GPA 0x100000ul
#define MEMORY_BYTES (16ul << 20)
#define CODE_GPA 0x8000ul

/* 64-bit: fill a page, touch 1,000, read 4 KiB away of the end, x87, CPUID, MMIO, HLT. */
static const uint8_t code[] = {
    0xbf, 0x00, 0x00, 0x10, 0x00,		       /* mov $0x100000, %edi */
    0xb9, 0x00, 0x10, 0x00, 0x00,		       /* mov $4096, %ecx */
    0xf3, 0xaa,					       /* rep stosb */
    0xbf, 0x00, 0x00, 0x10, 0x00,		       /* mov $0x100000, %edi */
    0xb9, 0xe8, 0x03, 0x00, 0x00,		       /* mov $1000, %ecx */
    0xc7, 0x07, 0x01, 0x02, 0x03, 0x04,		       /* 1: movl $..., (%rdi) */
    0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,		       /* add $4096, %edi */
    0xe2, 0xf2,					       /* loop 1b */
    0xdb, 0xe3, 0xd9, 0xeb, 0xd9, 0xfe, 0xdd, 0x1f,    /* fninit; fldpi; fsin; fstpl (%rdi) */
    0x0f, 0xa2,					       /* cpuid */
    0xa1, 0,	0,    0,    0x3f, 0,	0,    0,    0, /* mov 0x3f000000, %eax */
    0xf4,
};

static struct vcpu vcpu;
static uint8_t *memory;
static const char *failure;

static void nothing(int signal)
{
	(void)signal;
}

static void *small_thread(void *unused)
{
	if (ioctl(vcpu.fd, KVM_RUN, 0) || vcpu.run->exit_reason != KVM_EXIT_MMIO)
		failure = "the guest did not come to its MMIO";
	else if (munmap(memory + (8 << 20), 1 << 20))
		failure = "munmap";
	else if (ioctl(vcpu.fd, KVM_RUN, 0) || vcpu.run->exit_reason != KVM_EXIT_HLT)
		failure = "the guest did not come to its end";
	return unused;
}

int main(void)
{
	struct kvm_regs regs = {.rflags = 2, .rip = CODE_GPA};
	pthread_attr_t attributes;
	uint8_t *low;
	struct vm vm;

	signal(SIGUSR1, nothing);
	machine_open(&vm, &vcpu, 0);
	low = mmap(NULL, MEMORY_GPA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(low != MAP_FAILED && memory != MAP_FAILED);
	memcpy(low + CODE_GPA, code, sizeof(code));
	CHECK(
	    !REGION1(&vm, .slot = 1, .memory_size = MEMORY_GPA, .userspace_addr = (uintptr_t)low));
	CHECK(!REGION1(&vm, .slot = 2, .guest_phys_addr = MEMORY_GPA, .memory_size = MEMORY_BYTES,
		       .flags = KVM_MEM_LOG_DIRTY_PAGES, .userspace_addr = (uintptr_t)memory));
	CHECK(!pthread_attr_init(&attributes));
	CHECK(!pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN));
	for (int i = 0; i < 2; i++) {
		pthread_t thread;

		CHECK(!ioctl(vcpu.fd, KVM_SET_REGS, &regs));
		CHECK(!pthread_create(&thread, &attributes, small_thread, NULL));
		CHECK(!pthread_join(thread, NULL));
	}
	if (failure)
		puts(failure);
	return failure != NULL;
}
