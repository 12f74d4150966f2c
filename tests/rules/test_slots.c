/* Memslots: every check of KVM_SET_USER_MEMORY_REGION, in its order. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define BYTES (2 * PAGE)
#define EIGHT_TIB (1ul << 43)

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

/* A request with one thing wrong: all of these are EINVAL. */
struct defect {
	const char *name;
	uint32_t slot, flags;
	uint64_t gpa, size_bytes, hva, offset;
};

static const struct defect defects[] = {
    {.name = "id past the last", .slot = 32764},
    {.name = "highest id", .slot = 0xffff},
    {.name = "address space 2", .slot = 2u << 16},
    {.name = "address space 0xffff", .slot = 0xffffu << 16},
    {.name = "flag 8", .flags = 8},
    {.name = "KVM's own flag", .flags = 1u << 16},
    {.name = "highest flag", .flags = 1u << 31},
    {.name = "size of a page and a byte", .size_bytes = PAGE + 1},
    {.name = "size below a page", .size_bytes = 1},
    {.name = "gpa in a page", .gpa = GPA + 1},
    {.name = "gpa in the middle", .gpa = GPA + 2048},
    {.name = "hva in a page", .hva = 0x10001},
    {.name = "hva of the kernel", .hva = 0xffff800000000000},
    {.name = "hva with a tag", .hva = 0x0100000000010000},
    {.name = "hva range that leaves user space", .hva = 0x7ffffffff000},
    {.name = "gpa range that wraps", .gpa = 0xfffffffffffff000},
    {.name = "2^31 pages", .size_bytes = EIGHT_TIB, .hva = PAGE},
};
#define DEFECTS (sizeof(defects) / sizeof(defects[0]))

static struct kvm_userspace_memory_region2 good_request(void)
{
	return (struct kvm_userspace_memory_region2){
	    .slot = 5,
	    .guest_phys_addr = GPA,
	    .memory_size = BYTES,
	    .userspace_addr = (uintptr_t)memory,
	};
}

static struct kvm_userspace_memory_region2 bad_request(const struct defect *defect)
{
	struct kvm_userspace_memory_region2 request = good_request();

	request.slot |= defect->slot;
	request.flags = defect->flags;
	if (defect->gpa)
		request.guest_phys_addr = defect->gpa;
	if (defect->size_bytes)
		request.memory_size = defect->size_bytes;
	if (defect->hva)
		request.userspace_addr = defect->hva;
	request.guest_memfd_offset = defect->offset;
	return request;
}

static int send(const struct kvm_userspace_memory_region2 *request)
{
	return ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION2, request);
}

static void check_defects(uint32_t more_flags)
{
	for (size_t i = 0; i < DEFECTS; i++) {
		struct kvm_userspace_memory_region2 request = bad_request(&defects[i]);
		int result;

		request.flags |= more_flags;
		request.guest_memfd = (uint32_t)-1;
		errno = 0;
		result = send(&request);
		if (result != -1 || errno != EINVAL)
			FAIL("%s: %d, errno %d", defects[i].name, result, errno);
	}
}

static void open_bare(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(HUGE_PAGE);
}

static void open_machine(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(HUGE_PAGE);
}

static void each_defect_is_refused(void)
{
	struct kvm_userspace_memory_region2 request;
	static struct snapshot before;

	open_bare();
	snapshot_take(&vm, &before);
	check_defects(0);
	snapshot_check(&vm, &before, __FILE__, __LINE__);
	/* None of them left a slot behind. */
	request = good_request();
	request.memory_size = 0;
	REFUSED(&vm, send(&request), EINVAL);
	request = good_request();
	CHECK_ZERO(send(&request));
}

static void each_defect_comes_before_overlap(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	check_defects(0);
	request = good_request();
	REFUSED(&vm, send(&request), EEXIST);
}

static void each_defect_comes_before_the_descriptor(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	check_defects(KVM_MEM_GUEST_MEMFD);
	request = good_request();
	request.flags = KVM_MEM_GUEST_MEMFD;
	request.guest_memfd = (uint32_t)-1;
	REFUSED(&vm, send(&request), EBADF);
	/* What is wrong with the offset alone comes first, too. */
	request.guest_memfd_offset = 1;
	REFUSED(&vm, send(&request), EINVAL);
	request.guest_memfd_offset = 2048;
	REFUSED(&vm, send(&request), EINVAL);
	request.guest_memfd_offset = 0xfffffffffffff000;
	REFUSED(&vm, send(&request), EINVAL);
}

static void overlap_comes_before_the_descriptor(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = GPA + PAGE, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	request = good_request();
	request.flags = KVM_MEM_GUEST_MEMFD;
	request.guest_memfd = (uint32_t)-1;
	REFUSED(&vm, send(&request), EEXIST);
}

/* Of version 2, all 160 bytes are read before any is looked at; of version 1, 32 and no more. */
static void argument_is_copied_first(void)
{
	struct kvm_userspace_memory_region2 *request;
	uint8_t *pages;

	open_bare();
	pages = memory_alloc(2 * PAGE);
	CHECK_ZERO(mprotect(pages + PAGE, PAGE, PROT_NONE));
	request = (void *)(pages + PAGE - 32);
	request->slot = 5;
	request->flags = 8;
	REFUSED(&vm, send(request), EFAULT);
	REFUSED(&vm, ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, request), EINVAL);
	request->flags = 0;
	request->guest_phys_addr = GPA;
	request->memory_size = PAGE;
	request->userspace_addr = (uintptr_t)memory;
	REFUSED(&vm, send(request), EFAULT);
	CHECK_ZERO(ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, request));
	REFUSED(&vm, ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, NULL), EFAULT);
	REFUSED(&vm, ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION2, PAGE), EFAULT);
}

static void version_1_takes_two_flags(void)
{
	open_bare();
	for (unsigned int bit = 0; bit < 32; bit++) {
		struct kvm_userspace_memory_region request = {
		    .slot = bit,
		    .flags = 1u << bit,
		    .guest_phys_addr = GPA + bit * BYTES,
		    .memory_size = BYTES,
		    .userspace_addr = (uintptr_t)memory,
		};

		if (bit < 2)
			CHECK_ZERO(ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &request));
		else
			REFUSED(&vm, ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &request), EINVAL);
	}
}

static void version_2_flags_by_bit(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	for (unsigned int bit = 3; bit < 32; bit++) {
		request = good_request();
		request.flags = 1u << bit;
		REFUSED(&vm, send(&request), EINVAL);
	}
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	request = good_request();
	request.guest_memfd = (uint32_t)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	request.flags = KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES;
	REFUSED(&vm, send(&request), EINVAL);
	request.flags = KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY;
	REFUSED(&vm, send(&request), EINVAL);
	request.flags = KVM_MEM_GUEST_MEMFD;
	CHECK_ZERO(send(&request));
}

static void padding_is_ignored(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	request = good_request();
	request.pad1 = UINT32_MAX;
	memset(request.pad2, 0xff, sizeof(request.pad2));
	/* Nor does a slot without the flag look at the descriptor or the offset. */
	request.guest_memfd = 77;
	request.guest_memfd_offset = 1;
	CHECK_ZERO(send(&request));
}

/* A size of 0 passes the checks of the size and of wrapping, and fails all the others. */
static void delete_is_checked_like_the_rest(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	request = good_request();
	CHECK_ZERO(send(&request));
	request.memory_size = 0;
	request.guest_phys_addr = GPA + 1;
	REFUSED(&vm, send(&request), EINVAL);
	request.guest_phys_addr = GPA;
	request.userspace_addr = 1;
	REFUSED(&vm, send(&request), EINVAL);
	request.userspace_addr = 0;
	request.flags = 8;
	REFUSED(&vm, send(&request), EINVAL);
	request.flags = 0;
	request.slot = 7;
	REFUSED(&vm, send(&request), EINVAL);
	request.slot = 5 | 1u << 16;
	REFUSED(&vm, send(&request), EINVAL);
	request.slot = 5;
	request.guest_phys_addr = 0xfffffffffffff000;
	CHECK_ZERO(send(&request));
	REFUSED(&vm, send(&request), EINVAL);
}

/* What may not change in a slot that exists, whatever else the request says. */
static void immutable_parts(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	request = good_request();
	CHECK_ZERO(send(&request));
	request.userspace_addr += PAGE;
	REFUSED(&vm, send(&request), EINVAL);
	request = good_request();
	request.memory_size -= PAGE;
	REFUSED(&vm, send(&request), EINVAL);
	request.memory_size += 2 * PAGE;
	REFUSED(&vm, send(&request), EINVAL);
	request = good_request();
	request.flags = KVM_MEM_READONLY;
	REFUSED(&vm, send(&request), EINVAL);
	/* A move is refused for the same reasons, and before an overlap. */
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = GPA + 4 * PAGE, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	request.guest_phys_addr = GPA + 4 * PAGE;
	REFUSED(&vm, send(&request), EINVAL);
	request = good_request();
	request.guest_phys_addr = GPA + 4 * PAGE;
	REFUSED(&vm, send(&request), EEXIST);
	request.guest_phys_addr = GPA + 3 * PAGE;
	REFUSED(&vm, send(&request), EEXIST);
	request.guest_phys_addr = GPA + 2 * PAGE;
	CHECK_ZERO(send(&request));
}

static void gmem_slot_is_immutable(void)
{
	struct kvm_userspace_memory_region2 request;
	int file;

	open_bare();
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	request = good_request();
	request.flags = KVM_MEM_GUEST_MEMFD;
	request.guest_memfd = (uint32_t)file;
	CHECK_ZERO(send(&request));
	/* Not even the same request again. */
	REFUSED(&vm, send(&request), EINVAL);
	request.guest_phys_addr += 16 * PAGE;
	REFUSED(&vm, send(&request), EINVAL);
	request.flags = 0;
	REFUSED(&vm, send(&request), EINVAL);
	/* And an ordinary slot does not become one. */
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = GPA + 4 * PAGE, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	REFUSED(&vm,
		REGION(&vm, .slot = 6, .flags = KVM_MEM_GUEST_MEMFD,
		       .guest_phys_addr = GPA + 4 * PAGE, .memory_size = BYTES,
		       .userspace_addr = (uintptr_t)memory, .guest_memfd = (uint32_t)file),
		EINVAL);
	/* To be deleted it needs no descriptor. */
	CHECK_ZERO(
	    REGION(&vm, .slot = 5, .flags = KVM_MEM_GUEST_MEMFD, .guest_memfd = (uint32_t)-1));
}

static void all_slots(void)
{
	open_bare();
	CHECK_EQ(vm_cap(&vm, KVM_CAP_NR_MEMSLOTS), 32764);
	for (uint32_t id = 0; id < 32764; id++)
		CHECK_ZERO(REGION(&vm, .slot = id, .guest_phys_addr = id * HUGE_PAGE,
				  .memory_size = HUGE_PAGE, .userspace_addr = (uintptr_t)memory));
	REFUSED(&vm,
		REGION(&vm, .slot = 32764, .guest_phys_addr = 32764 * HUGE_PAGE,
		       .memory_size = HUGE_PAGE, .userspace_addr = (uintptr_t)memory),
		EINVAL);
	/* One more in the gap of one that goes. */
	CHECK_ZERO(REGION(&vm, .slot = 777));
	CHECK_ZERO(REGION(&vm, .slot = 777, .guest_phys_addr = 40000 * HUGE_PAGE,
			  .memory_size = HUGE_PAGE, .userspace_addr = (uintptr_t)memory));
}

static void address_spaces_are_apart(void)
{
	struct kvm_userspace_memory_region2 request;

	open_bare();
	if (vm_cap(&vm, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		check_skip("one address space");
	request = good_request();
	CHECK_ZERO(send(&request));
	request.slot |= 1u << 16;
	CHECK_ZERO(send(&request));
	request.slot = 6 | 1u << 16;
	REFUSED(&vm, send(&request), EEXIST);
	CHECK_ZERO(REGION(&vm, .slot = 5 | 1u << 16));
	CHECK_ZERO(send(&request));
	/* The other one is still there. */
	request.slot = 7;
	REFUSED(&vm, send(&request), EEXIST);
	CHECK_ZERO(REGION(&vm, .slot = 5));
}

static unsigned int maxphyaddr(void)
{
	struct kvm_cpuid2 *cpuid = supported_cpuid(&vm);
	unsigned int bits = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000008)
			bits = cpuid->entries[i].eax & 0xff;
	CHECK(bits);
	free(cpuid);
	return bits;
}

/* Whatever the processor can address, and no more; a move that fails so keeps the old slot. */
static void last_gfn(void)
{
	struct kvm_userspace_memory_region2 request;
	uint64_t limit;

	open_machine();
	limit = 1ul << maxphyaddr();
	request = good_request();
	request.guest_phys_addr = limit - PAGE;
	if (send(&request) == 0)
		check_skip("this KVM shadows page tables: 52 bits for every guest");
	CHECK_EQ(errno, EINVAL);
	request.guest_phys_addr = limit;
	CHECK_ERR(send(&request), EINVAL);
	request.guest_phys_addr = 1ul << 52;
	CHECK_ERR(send(&request), EINVAL);
	request.guest_phys_addr = GPA;
	CHECK_ZERO(send(&request));
	guest_store(&vcpu, GPA, 0x1111);
	request.guest_phys_addr = limit - PAGE;
	CHECK_ERR(send(&request), EINVAL);
	CHECK_EQ(guest_load(&vcpu, GPA), 0x1111);
	request.guest_phys_addr = limit - BYTES;
	CHECK_ZERO(send(&request));
	CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
}

/* The descriptor is looked at before the last gfn, and that before what is bound already. */
static void late_checks_in_order(void)
{
	struct kvm_userspace_memory_region2 request;
	uint64_t limit;

	open_bare();
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	limit = 1ul << maxphyaddr();
	request = good_request();
	request.guest_phys_addr = limit;
	if (send(&request) == 0)
		check_skip("this KVM shadows page tables: 52 bits for every guest");
	request.flags = KVM_MEM_GUEST_MEMFD;
	request.guest_memfd = (uint32_t)-1;
	REFUSED(&vm, send(&request), EBADF);
	request.guest_memfd = (uint32_t)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	CHECK_ERR(send(&request), EINVAL);
	request.guest_phys_addr = GPA;
	CHECK_ZERO(send(&request));
	request.slot = 6;
	request.guest_phys_addr = limit;
	CHECK_ERR(send(&request), EINVAL);
	/* Each refusal gave back what it took: the same range binds again. */
	request.slot = 5;
	request.memory_size = 0;
	CHECK_ZERO(send(&request));
	request.memory_size = BYTES;
	request.guest_phys_addr = GPA;
	CHECK_ZERO(send(&request));
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(each_defect_is_refused),
	    TEST(each_defect_comes_before_overlap),
	    TEST(each_defect_comes_before_the_descriptor),
	    TEST(overlap_comes_before_the_descriptor),
	    TEST(argument_is_copied_first),
	    TEST(version_1_takes_two_flags),
	    TEST(version_2_flags_by_bit),
	    TEST(padding_is_ignored),
	    TEST(delete_is_checked_like_the_rest),
	    TEST(immutable_parts),
	    TEST(gmem_slot_is_immutable),
	    TEST(all_slots),
	    TEST(address_spaces_are_apart),
	    TEST(last_gfn),
	    TEST(late_checks_in_order),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
