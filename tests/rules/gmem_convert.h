/* Files that are converted in place, for the tests of it. */
#ifndef QUIRE_TESTS_RULES_GMEM_CONVERT_H
#define QUIRE_TESTS_RULES_GMEM_CONVERT_H

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 8ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define MMAP GUEST_MEMFD_FLAG_MMAP
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define PRIVATE KVM_MEMORY_ATTRIBUTE_PRIVATE

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *seen; /* the client's mapping */
static int file;

static inline int convert(int fd, uint64_t offset, uint64_t size_bytes, uint64_t attributes)
{
	struct kvm_memory_attributes2 request = {
	    .offset = offset, .size = size_bytes, .attributes = attributes, .error_offset = 77};
	int result = ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, &request);

	/* Nothing of a request that is wrong comes back, nor of one that worked. */
	CHECK_EQ(request.error_offset, 77);
	return result;
}

static inline void make(uint64_t page, uint64_t npages, uint64_t attributes)
{
	CHECK_ZERO(convert(file, page * PAGE, npages * PAGE, attributes));
}

static inline uint8_t *map(int fd)
{
	uint8_t *mapped = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(mapped != MAP_FAILED);
	return mapped;
}

static inline void show(struct vm *at, int fd, uint64_t gpa, uint64_t size_bytes, void *address)
{
	CHECK_ZERO(REGION(at, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = gpa,
			  .memory_size = size_bytes, .userspace_addr = (uintptr_t)address,
			  .guest_memfd = (uint32_t)fd));
}

static inline void open_vm(unsigned long type)
{
	machine_open(&vm, &vcpu, type);
	if (!(ioctl(vm.kvm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	      (int)PRIVATE))
		check_skip("no conversion in place");
}

static inline void open_shown(uint64_t flags)
{
	open_vm(KVM_X86_SW_PROTECTED_VM);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, flags));
	seen = flags & MMAP ? map(file) : memory_alloc(HUGE_PAGE);
	show(&vm, file, GPA, BYTES, seen);
}

static inline int touch(uint64_t page)
{
	return touch_byte(seen + page * PAGE).number;
}

/* What processes and threads of a test tell each other. */
static struct {
	uint32_t is_traced, is_stopped, is_replaced;
} * steps;

static inline int comes(const uint32_t *step, unsigned int milliseconds)
{
	for (unsigned int i = 0; i < milliseconds && !__atomic_load_n(step, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	return (int)__atomic_load_n(step, __ATOMIC_SEQ_CST);
}

static inline void steps_open(void)
{
	steps = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(steps != MAP_FAILED);
}

#endif
