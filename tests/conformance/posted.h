/*
 * Included before guest_memfd_conversions_test, a program of the kernel's that was posted with
 * conversion in place: what that posting adds to the library of the selftests, in ours.
 */
#ifndef CONFORMANCE_POSTED_H
#define CONFORMANCE_POSTED_H

#include <kvm_util.h>

#ifndef KVM_SET_MEMORY_ATTRIBUTES2
struct kvm_memory_attributes2 {
	__u64 offset;
	__u64 size;
	__u64 attributes;
	__u64 flags;
	__u64 error_offset;
	__u64 reserved[11];
};
#define KVM_SET_MEMORY_ATTRIBUTES2 _IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)
#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES 250
#endif

static inline int posted_convert(int fd, u64 wanted, const u64 part[2], u64 *error_offset)
{
	struct kvm_memory_attributes2 request = {.offset = part[0],
						 .size = part[1],
						 .attributes = wanted,
						 .error_offset = *error_offset};
	int result = ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, &request);

	*error_offset = request.error_offset;
	return result;
}

static inline int __gmem_set_private(int fd, u64 offset, u64 size, u64 *error_offset)
{
	return posted_convert(fd, KVM_MEMORY_ATTRIBUTE_PRIVATE, (u64[]){offset, size},
			      error_offset);
}

static inline void gmem_set_private(int fd, u64 offset, u64 size)
{
	u64 where = 0;
	int result = __gmem_set_private(fd, offset, size, &where);

	TEST_ASSERT(!result, "not made private: errno %d at %lx", errno, where);
}

static inline void gmem_set_shared(int fd, u64 offset, u64 size)
{
	u64 where = 0;
	int result = posted_convert(fd, 0, (u64[]){offset, size}, &where);

	TEST_ASSERT(!result, "not made shared: errno %d at %lx", errno, where);
}

static inline int kvm_slot_to_fd(struct kvm_vm *vm, u32 slot)
{
	return (int)memslot2region(vm, slot)->region.guest_memfd;
}

/* The file is what the client has at the slot's address, too. */
static inline void posted_mem_add(struct kvm_vm *vm, u64 gpa, u32 slot, u64 npages, u64 gmem_flags)
{
	u64 size = npages * vm->page_size;
	int fd = vm_create_guest_memfd(vm, size, gmem_flags);
	void *mapped;

	vm_mem_add(vm, VM_MEM_SRC_ANONYMOUS, gpa, slot, npages, KVM_MEM_GUEST_MEMFD, fd, 0);
	mapped = mmap(addr_gpa2hva(vm, gpa), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		      fd, 0);
	TEST_ASSERT(mapped != MAP_FAILED, "a guest_memfd that cannot be mapped");
	close(fd);
}
#define vm_mem_add(vm, source, gpa, slot, npages, flags, fd, offset, gmem_flags) \
	posted_mem_add(vm, gpa, slot, npages, gmem_flags)

/* By a module of the kernel's for its own tests. tests/rules/test_gmem_convert.c has pages that a
 * vCPU holds. */
static inline void pin_pages(void *address, u64 size)
{
	TEST_REQUIRE(!access("/sys/kernel/debug/gup_test", R_OK | W_OK));
	TEST_FAIL("this kernel can pin pages at %p, %lu bytes: teach us", address, size);
}

static inline void unpin_pages(void)
{
}

#endif
