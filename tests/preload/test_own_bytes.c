/*
 * A program with memcpy() and its kin of its own, as the kernel's selftests are: KVM's calls make
 * none of them. Volatile: the compiler must not make a call of itself out of a loop.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/preload/check.h"

#define BYTES 0x100000u

static volatile unsigned int calls;

void *memcpy(void *restrict to, const void *restrict from, size_t size_bytes)
{
	const volatile char *source = from;
	volatile char *target = to;

	calls++;
	while (size_bytes--)
		*target++ = *source++;
	return to;
}

void *memmove(void *to, const void *from, size_t size_bytes)
{
	const volatile char *source = from;
	volatile char *target = to;

	calls++;
	if (target < source)
		for (size_t i = 0; i < size_bytes; i++)
			target[i] = source[i];
	else
		while (size_bytes--)
			target[size_bytes] = source[size_bytes];
	return to;
}

void *memset(void *to, int value, size_t size_bytes)
{
	volatile char *target = to;

	calls++;
	while (size_bytes--)
		*target++ = (char)value;
	return to;
}

int memcmp(const void *first, const void *second, size_t size_bytes)
{
	const volatile unsigned char *a = first, *b = second;

	calls++;
	for (; size_bytes; size_bytes--, a++, b++)
		if (*a != *b)
			return *a - *b;
	return 0;
}

static uint64_t bitmap[BYTES / 4096 / 64];
static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[256];
} cpuid;

int main(void)
{
	struct kvm_userspace_memory_region region = {.flags = KVM_MEM_LOG_DIRTY_PAGES,
						     .memory_size = BYTES};
	struct kvm_dirty_log log = {.dirty_bitmap = bitmap};
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	int kvm, vm, vcpu;
	uint8_t *memory;

	/* They are what the dynamic linker finds first. */
	calls = 0;
	CHECK(memcpy(bitmap, bitmap + 1, 8) == bitmap && calls == 1);
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	memory[0] = 0xf4; /* HLT */
	region.userspace_addr = (uintptr_t)memory;
	cpuid.head.nent = 256;
	calls = 0;
	kvm = open("/dev/kvm", O_RDWR);
	CHECK(kvm >= 0);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	CHECK(vm >= 0);
	CHECK(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	CHECK(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	CHECK(vcpu >= 0);
	CHECK(!ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	CHECK(!ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	CHECK(!ioctl(vcpu, KVM_SET_SREGS, &sregs));
	CHECK(!ioctl(vcpu, KVM_GET_REGS, &regs));
	regs.rip = 0;
	CHECK(!ioctl(vcpu, KVM_SET_REGS, &regs));
	CHECK(!ioctl(vcpu, KVM_RUN, 0));
	CHECK(!ioctl(vm, KVM_GET_DIRTY_LOG, &log));
	CHECK(calls == 0);
	return 0;
}
