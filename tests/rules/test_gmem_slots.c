/* guest_memfd behind memslots: binding, what the guest sees, punching, and every order of closing.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 8ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define SHARED (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory; /* what the slot's userspace_addr shows */
static int file;

/* A slot that shows "file"; its userspace_addr is other memory. */
static int bind_at(uint32_t slot, uint64_t gpa, uint64_t size_bytes, uint64_t offset_bytes)
{
	return REGION(&vm, .slot = slot, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = gpa,
		      .memory_size = size_bytes, .userspace_addr = (uintptr_t)memory,
		      .guest_memfd = (uint32_t)file, .guest_memfd_offset = offset_bytes);
}

static void open_machine(unsigned long type, uint64_t flags)
{
	machine_open(&vm, &vcpu, type);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	if (flags & ~(uint64_t)vm_cap(&vm, KVM_CAP_GUEST_MEMFD_FLAGS))
		check_skip("no mapping of guest_memfd");
	memory = memory_alloc(HUGE_PAGE);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, flags));
}

static void open_private(void)
{
	open_machine(KVM_X86_SW_PROTECTED_VM, 0);
	CHECK_ZERO(bind_at(SLOT, GPA, BYTES, 0));
	CHECK_ZERO(vm_set_attributes(&vm, GPA, BYTES, KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

static void open_shared(void)
{
	open_machine(KVM_X86_DEFAULT_VM, SHARED);
	CHECK_ZERO(bind_at(SLOT, GPA, BYTES, 0));
}

static uint8_t *map_file(void)
{
	uint8_t *mapped = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	CHECK(mapped != MAP_FAILED);
	return mapped;
}

static void which_descriptors_bind(void)
{
	struct vm other;
	int gmem;

	open_machine(KVM_X86_DEFAULT_VM, 0);
	gmem = file;
	vm_open(&other, KVM_X86_DEFAULT_VM);
	file = -1;
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, 0), EBADF);
	file = 1000;
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, 0), EBADF);
	file = vm.kvm;
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, 0), EINVAL);
	file = vm.fd;
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, 0), EINVAL);
	file = memfd_create("plain", 0);
	CHECK_ZERO(ftruncate(file, BYTES));
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, 0), EINVAL);
	file = (int)CHECK_OK(vm_gmem(&other, BYTES, 0));
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, 0), EINVAL);
	file = gmem;
	CHECK_ZERO(bind_at(SLOT, GPA, BYTES, 0));
}

static void which_ranges_bind(void)
{
	open_machine(KVM_X86_DEFAULT_VM, 0);
	for (uint64_t part = 1; part < PAGE; part = part * 3 + 1)
		REFUSED(&vm, bind_at(SLOT, GPA, PAGE, part), EINVAL);
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES, PAGE), EINVAL);
	REFUSED(&vm, bind_at(SLOT, GPA, PAGE, BYTES), EINVAL);
	REFUSED(&vm, bind_at(SLOT, GPA, BYTES + PAGE, 0), EINVAL);
	REFUSED(&vm, bind_at(SLOT, GPA, PAGE, 0x7ffffffffffff000), EINVAL);
	REFUSED(&vm, bind_at(SLOT, GPA, PAGE, 0xfffffffffffff000), EINVAL);
	CHECK_ZERO(bind_at(SLOT, GPA, PAGE, BYTES - PAGE));
}

/* KVM before 7 says EINVAL to an overlap in the file. */
static void check_binding_overlap(int result)
{
	CHECK_EQ(result, -1);
	CHECK(errno == EEXIST || errno == EINVAL);
}

static void overlap_in_the_file(void)
{
	open_machine(KVM_X86_DEFAULT_VM, 0);
	CHECK_ZERO(bind_at(SLOT, GPA, 4 * PAGE, 2 * PAGE));
	check_binding_overlap(bind_at(6, 2 * GPA, BYTES, 0));
	check_binding_overlap(bind_at(6, 2 * GPA, PAGE, 5 * PAGE));
	check_binding_overlap(bind_at(6, 2 * GPA, 3 * PAGE, 0));
	/* Beside it there is room, and the refusals took none of it. */
	CHECK_ZERO(bind_at(6, 2 * GPA, 2 * PAGE, 0));
	CHECK_ZERO(bind_at(7, 3 * GPA, 2 * PAGE, 6 * PAGE));
	/* Overlap in gpa alone. */
	CHECK_ZERO(REGION(&vm, .slot = 7));
	REFUSED(&vm, bind_at(7, GPA, 2 * PAGE, 6 * PAGE), EEXIST);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_ZERO(bind_at(7, GPA, 6 * PAGE, 2 * PAGE));
}

static void one_range_in_one_address_space(void)
{
	open_machine(KVM_X86_DEFAULT_VM, 0);
	if (vm_cap(&vm, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		check_skip("one address space");
	CHECK_ZERO(bind_at(SLOT, GPA, BYTES, 0));
	check_binding_overlap(bind_at(SLOT | 1u << 16, GPA, BYTES, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_ZERO(bind_at(SLOT | 1u << 16, GPA, BYTES, 0));
}

/* Without private memory and without MMAP the file stands behind the slot and is not used. */
static void unmappable_file_in_an_ordinary_vm(void)
{
	open_machine(KVM_X86_DEFAULT_VM, 0);
	CHECK_ZERO(bind_at(SLOT, GPA, BYTES, 0));
	*word_at(memory, 8) = 0x1234;
	CHECK_EQ(guest_load(&vcpu, GPA + 8), 0x1234);
	guest_store(&vcpu, GPA + PAGE, 0x5678);
	CHECK_EQ(*word_at(memory, PAGE), 0x5678);
	CHECK_ZERO(fallocate(file, PUNCH, 0, BYTES));
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 0x5678);
}

/* With MMAP the guest's memory is the file, whatever the address shows. */
static void mappable_file_is_the_memory(void)
{
	uint8_t *mapped;

	open_shared();
	mapped = map_file();
	memset(mapped, 0xaa, BYTES);
	memset(memory, 0x11, BYTES);
	for (uint64_t page = 0; page < PAGES; page++) {
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), 0xaaaaaaaaaaaaaaaa);
		guest_store(&vcpu, GPA + page * PAGE + 8, ~page);
		CHECK_EQ(*word_at(mapped, page * PAGE + 8), ~page);
	}
	CHECK_EQ(*word_at(memory, 8), 0x1111111111111111);
	*word_at(mapped, 16) = 99;
	CHECK_EQ(guest_load(&vcpu, GPA + 16), 99);
}

static void offset_selects_the_pages(void)
{
	uint8_t *mapped;

	open_machine(KVM_X86_DEFAULT_VM, SHARED);
	mapped = map_file();
	CHECK_ZERO(bind_at(SLOT, GPA, 2 * PAGE, 5 * PAGE));
	CHECK_ZERO(bind_at(6, 2 * GPA, 2 * PAGE, PAGE));
	guest_store(&vcpu, GPA, 5);
	guest_store(&vcpu, GPA + PAGE, 6);
	guest_store(&vcpu, 2 * GPA, 1);
	CHECK_EQ(*word_at(mapped, 5 * PAGE), 5);
	CHECK_EQ(*word_at(mapped, 6 * PAGE), 6);
	CHECK_EQ(*word_at(mapped, PAGE), 1);
	/* One punch over pages of both slots. */
	CHECK_ZERO(fallocate(file, PUNCH, 2 * PAGE, 4 * PAGE));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 6);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 1);
}

static void punch_empties_the_guest(void)
{
	open_shared();
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
	CHECK_ZERO(fallocate(file, PUNCH, 2 * PAGE, 3 * PAGE));
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE),
			 page >= 2 && page < 5 ? 0 : page + 1);
	guest_store(&vcpu, GPA + 3 * PAGE, 33);
	CHECK_EQ(*word_at(map_file(), 3 * PAGE), 33);
}

static void punch_empties_private_pages(void)
{
	open_private();
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + page * PAGE, page + 1);
	CHECK_ZERO(fallocate(file, PUNCH, 0, 3 * PAGE));
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page < 3 ? 0 : page + 1);
}

/* Allocation from the host side is no content: what the guest finds is zero. */
static void allocated_pages_are_zero(void)
{
	open_private();
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE, 0, BYTES));
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), 0);
	guest_store(&vcpu, GPA, 1);
	CHECK_ZERO(fallocate(file, FALLOC_FL_KEEP_SIZE, 0, BYTES));
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
}

static void private_from_the_file_shared_from_the_address(void)
{
	open_private();
	*word_at(memory, 0) = 0x5ead;
	*word_at(memory, PAGE) = 0x5eae;
	guest_store(&vcpu, GPA, 0x1234);
	CHECK_EQ(*word_at(memory, 0), 0x5ead);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 0x5ead);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 0);
}

static void check_file_is_gone(uint64_t gpa, uint64_t flags)
{
	struct outcome outcome = guest_try_load(&vcpu, gpa);

	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.error, EFAULT);
	CHECK_EQ(outcome.fault.gpa, gpa & ~(PAGE - 1));
	CHECK_EQ(outcome.fault.size, PAGE);
	CHECK_EQ(outcome.fault.flags, flags);
}

static void close_before_the_slot(void)
{
	open_shared();
	guest_store(&vcpu, GPA, 1);
	close(file);
	check_file_is_gone(GPA + 8, 0);
	check_file_is_gone(GPA + 3 * PAGE, 0);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
}

static void close_a_private_file(void)
{
	open_private();
	guest_store(&vcpu, GPA, 1);
	close(file);
	check_file_is_gone(GPA, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, BYTES, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
}

static void delete_before_the_close(void)
{
	open_shared();
	guest_store(&vcpu, GPA, 77);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
	/* The data is the file's: another slot finds it. */
	CHECK_ZERO(bind_at(6, 2 * GPA, BYTES, 0));
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 77);
	close(file);
	check_file_is_gone(2 * GPA, 0);
}

/* A mapping and a copy of the descriptor each keep the file. */
static void last_reference(void)
{
	uint8_t *mapped;
	int copy;

	open_shared();
	copy = dup(file);
	close(file);
	guest_store(&vcpu, GPA, 1);
	file = copy;
	mapped = map_file();
	close(copy);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	guest_store(&vcpu, GPA + PAGE, 2);
	CHECK_EQ(*word_at(mapped, PAGE), 2);
	CHECK_ZERO(munmap(mapped, BYTES));
	check_file_is_gone(GPA, 0);
}

static void vm_before_the_file(void)
{
	uint8_t *mapped;

	open_shared();
	guest_store(&vcpu, GPA, 5);
	mapped = map_file();
	close(vm.fd);
	CHECK_ZERO(munmap(vcpu.run, (size_t)ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0)));
	close(vcpu.fd);
	CHECK_EQ(*word_at(mapped, 0), 5);
	CHECK_ZERO(fallocate(file, PUNCH, 0, PAGE));
	CHECK_EQ(*word_at(mapped, 0), 0);
	close(file);
	*word_at(mapped, PAGE) = 6;
	CHECK_ZERO(munmap(mapped, BYTES));
}

static void vcpu_keeps_the_vm(void)
{
	open_shared();
	close(vm.fd);
	close(vm.kvm);
	guest_store(&vcpu, GPA, 5);
	CHECK_EQ(guest_load(&vcpu, GPA), 5);
	close(file);
	check_file_is_gone(GPA, 0);
}

/* A guest that writes while pages are punched away finds its own words or zero. */
static void punch_under_a_writer(void)
{
	struct guest_thread thread;
	struct guest_op loop = {.code = GUEST_STORE_LOOP,
				.rax = 0x5a5a5a5a5a5a5a5a,
				.rbx = GPA,
				.rcx = PAGES,
				.rdx = 2 * GPA};
	uint8_t *stop;

	open_shared();
	stop = memory_alloc(PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)stop));
	thread_start(&thread, &vcpu, &loop);
	for (int round = 0; round < 300; round++) {
		uint64_t page = (uint64_t)round % PAGES;

		CHECK_ZERO(fallocate(file, PUNCH, (off_t)(page * PAGE), PAGE));
	}
	__atomic_store_n(word_at(stop, 0), 1, __ATOMIC_RELAXED);
	CHECK_END(thread_join(&thread), END_DONE);
	for (uint64_t page = 0; page < PAGES; page++) {
		uint64_t word = guest_load(&vcpu, GPA + page * PAGE);

		CHECK(word == 0 || word == loop.rax);
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE + 8), 0);
	}
}

static void *bind_and_unbind(void *stop)
{
	while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
		CHECK_ZERO(bind_at(6, 4 * GPA, 2 * PAGE, 4 * PAGE));
		CHECK_ZERO(REGION(&vm, .slot = 6));
	}
	return NULL;
}

/* Slots over other pages of the file come and go while some are punched. */
static void punch_against_bind(void)
{
	pthread_t thread;
	int stop = 0;

	open_machine(KVM_X86_DEFAULT_VM, SHARED);
	CHECK_ZERO(bind_at(SLOT, GPA, 4 * PAGE, 0));
	CHECK_ZERO(pthread_create(&thread, NULL, bind_and_unbind, &stop));
	for (uint64_t round = 1; round < 300; round++) {
		guest_store(&vcpu, GPA + PAGE, round);
		CHECK_ZERO(fallocate(file, PUNCH, 0, BYTES));
		CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	CHECK_ZERO(pthread_join(thread, NULL));
}

static void *close_file(void *argument)
{
	(void)argument;
	close(file);
	return NULL;
}

/* The last close and the deletion of the slot at the same time: each must find the other's work. */
static void close_against_delete(void)
{
	open_machine(KVM_X86_DEFAULT_VM, SHARED);
	close(file);
	for (int round = 0; round < 100; round++) {
		pthread_t thread;

		file = (int)CHECK_OK(vm_gmem(&vm, BYTES, SHARED));
		CHECK_ZERO(bind_at(SLOT, GPA, BYTES, 0));
		guest_store(&vcpu, GPA, 1);
		CHECK_ZERO(pthread_create(&thread, NULL, close_file, NULL));
		CHECK_ZERO(REGION(&vm, .slot = SLOT));
		CHECK_ZERO(pthread_join(thread, NULL));
		CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
	}
}

/* A file that is closed while it is being bound is bound or gone, and the slot goes either way. */
static void close_against_bind(void)
{
	open_machine(KVM_X86_DEFAULT_VM, SHARED);
	close(file);
	for (int round = 0; round < 100; round++) {
		pthread_t thread;
		int bound;

		file = (int)CHECK_OK(vm_gmem(&vm, BYTES, SHARED));
		CHECK_ZERO(pthread_create(&thread, NULL, close_file, NULL));
		bound = bind_at(SLOT, GPA, BYTES, 0);
		CHECK(bound == 0 || errno == EBADF);
		CHECK_ZERO(pthread_join(thread, NULL));
		if (bound == 0) {
			check_file_is_gone(GPA, 0);
			CHECK_ZERO(REGION(&vm, .slot = SLOT));
		}
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(which_descriptors_bind),
	    TEST(which_ranges_bind),
	    TEST(overlap_in_the_file),
	    TEST(one_range_in_one_address_space),
	    TEST(unmappable_file_in_an_ordinary_vm),
	    TEST(mappable_file_is_the_memory),
	    TEST(offset_selects_the_pages),
	    TEST(punch_empties_the_guest),
	    TEST(punch_empties_private_pages),
	    TEST(allocated_pages_are_zero),
	    TEST(private_from_the_file_shared_from_the_address),
	    TEST(close_before_the_slot),
	    TEST(close_a_private_file),
	    TEST(delete_before_the_close),
	    TEST(last_reference),
	    TEST(vm_before_the_file),
	    TEST(vcpu_keeps_the_vm),
	    TEST(punch_under_a_writer),
	    TEST(punch_against_bind),
	    TEST(close_against_delete),
	    TEST(close_against_bind),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
