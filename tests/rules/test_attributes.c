/* KVM_SET_MEMORY_ATTRIBUTES: its checks in order, and which memory a page is after it. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 1024ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define PRIVATE KVM_MEMORY_ATTRIBUTE_PRIVATE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define TIB (1ul << 40)

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static int file;

static void add_slot(void)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)file));
}

static void open_machine(void)
{
	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	memory = memory_alloc(BYTES);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	add_slot();
}

static int send(uint64_t address, uint64_t size_bytes, uint64_t attributes, uint64_t flags)
{
	struct kvm_memory_attributes request = {address, size_bytes, attributes, flags};

	return ioctl(vm.fd, KVM_SET_MEMORY_ATTRIBUTES, &request);
}

static void refused_requests(void)
{
	static const struct kvm_memory_attributes bad[] = {
	    {GPA, PAGE, PRIVATE, 1},
	    {GPA, PAGE, PRIVATE, 1ul << 63},
	    {GPA, PAGE, 1, 0},
	    {GPA, PAGE, 2, 0},
	    {GPA, PAGE, 4, 0},
	    {GPA, PAGE, PRIVATE | 16, 0},
	    {GPA, PAGE, 1ul << 63, 0},
	    {GPA, 0, PRIVATE, 0},
	    {-PAGE, 2 * PAGE, PRIVATE, 0},
	    {GPA, -PAGE, PRIVATE, 0},
	    {GPA + 1, PAGE, PRIVATE, 0},
	    {GPA, PAGE + 1, PRIVATE, 0},
	    {GPA, 1, PRIVATE, 0},
	    {GPA + 2048, PAGE, PRIVATE, 0},
	};

	open_machine();
	*word_at(memory, 0) = 7;
	CHECK_EQ(guest_load(&vcpu, GPA), 7);
	REFUSED(&vm, ioctl(vm.fd, KVM_SET_MEMORY_ATTRIBUTES, NULL), EFAULT);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		REFUSED(&vm, ioctl(vm.fd, KVM_SET_MEMORY_ATTRIBUTES, &bad[i]), EINVAL);
		CHECK_EQ(guest_load(&vcpu, GPA), 7);
	}
}

/* The argument is read whole before any of it is looked at. */
static void argument_is_copied_first(void)
{
	struct kvm_memory_attributes *request;
	uint8_t *pages;

	open_machine();
	pages = memory_alloc(2 * PAGE);
	CHECK_ZERO(mprotect(pages + PAGE, PAGE, PROT_NONE));
	request = (void *)(pages + PAGE - 24);
	request->address = 1;
	REFUSED(&vm, ioctl(vm.fd, KVM_SET_MEMORY_ATTRIBUTES, request), EFAULT);
}

static void an_ordinary_vm_has_none(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	if (send(GPA, PAGE, 0, 0) && errno == ENOTTY)
		check_skip("no attributes in this KVM");
	CHECK_ZERO(send(GPA, PAGE, 0, 0));
	REFUSED(&vm, send(GPA, PAGE, PRIVATE, 0), EINVAL);
}

/* The same attributes again: no mapping is lost, nothing is invalidated. */
static void same_value_changes_nothing(void)
{
	uint64_t faults;

	open_machine();
	guest_store(&vcpu, GPA, 1);
	faults = stat_get(vcpu.fd, "pf_taken");
	CHECK_ZERO(send(GPA, BYTES, 0, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
	CHECK_ZERO(send(GPA, BYTES, PRIVATE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	faults = stat_get(vcpu.fd, "pf_taken");
	CHECK_ZERO(send(GPA + PAGE, 2 * PAGE, PRIVATE, 0));
	CHECK_ZERO(send(GPA, PAGE, PRIVATE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
}

static uint64_t resident_bytes(void)
{
	FILE *status = fopen("/proc/self/statm", "r");
	unsigned long total, resident;

	CHECK(status);
	CHECK_EQ(fscanf(status, "%lu %lu", &total, &resident), 2);
	fclose(status);
	return resident * PAGE;
}

/* No slots needed, and no memory per page either. */
static void a_tebibyte_without_slots(void)
{
	uint64_t before;

	open_machine();
	CHECK_ZERO(send(4 * TIB, PAGE, PRIVATE, 0));
	before = resident_bytes();
	CHECK_ZERO(send(TIB, TIB, PRIVATE, 0));
	CHECK_ZERO(send(TIB + PAGE, TIB / 2, 0, 0));
	CHECK(resident_bytes() < before + (1ul << 20));
	CHECK_ZERO(send(TIB, TIB, 0, 0));
}

static void attributes_outlive_slots(void)
{
	open_machine();
	CHECK_ZERO(send(GPA + PAGE, PAGE, PRIVATE, 0));
	guest_store(&vcpu, GPA, 1);
	guest_store(&vcpu, GPA + PAGE, 2);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
	CHECK_END(guest_try_load(&vcpu, GPA + PAGE), END_MEMORY_FAULT);
	add_slot();
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 2);
	CHECK_EQ(*word_at(memory, PAGE), 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 1);
	/* Set before there is a slot, they count for the one that comes. */
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	CHECK_ZERO(send(GPA, PAGE, PRIVATE, 0));
	add_slot();
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(*word_at(memory, 0), 1);
}

/* Nothing is copied and nothing is freed: both sides keep what they had. */
static void conversion_keeps_both_sides(void)
{
	open_machine();
	for (uint64_t page = 0; page < 4; page++)
		guest_store(&vcpu, GPA + page * PAGE, 100 + page);
	CHECK_ZERO(send(GPA, 4 * PAGE, PRIVATE, 0));
	for (uint64_t page = 0; page < 4; page++) {
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), 0);
		guest_store(&vcpu, GPA + page * PAGE, 200 + page);
		CHECK_EQ(*word_at(memory, page * PAGE), 100 + page);
	}
	CHECK_ZERO(send(GPA, 2 * PAGE, 0, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 100);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE), 101);
	CHECK_EQ(guest_load(&vcpu, GPA + 2 * PAGE), 202);
	CHECK_ZERO(send(GPA, 2 * PAGE, PRIVATE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 200);
	CHECK_ZERO(fallocate(file, PUNCH, 0, BYTES));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 2 * PAGE), 0);
}

static uint64_t large_pages(void)
{
	return stat_get(vm.fd, "pages_2m");
}

/* A block of 2 MiB with pages of both kinds is never mapped as one. */
static void mixed_blocks_are_mapped_small(void)
{
	open_machine();
	memory = mmap(NULL, BYTES + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(memory != MAP_FAILED);
	memory += -(uintptr_t)memory & (HUGE_PAGE - 1);
	if (madvise(memory, BYTES, MADV_HUGEPAGE))
		check_skip("no huge pages");
	memset(memory, 1, BYTES);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	add_slot();
	guest_load(&vcpu, GPA);
	guest_load(&vcpu, GPA + HUGE_PAGE);
	if (large_pages() != 2)
		check_skip("no huge pages");
	CHECK_ZERO(send(GPA + 7 * PAGE, PAGE, PRIVATE, 0));
	CHECK_EQ(large_pages(), 1);
	guest_load(&vcpu, GPA);
	CHECK_EQ(guest_load(&vcpu, GPA + 7 * PAGE), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 8 * PAGE), 0x0101010101010101);
	CHECK_EQ(large_pages(), 1);
	CHECK_ZERO(send(GPA + 7 * PAGE, PAGE, 0, 0));
	CHECK_EQ(guest_load(&vcpu, GPA + 7 * PAGE), 0x0101010101010101);
	CHECK_EQ(large_pages(), 2);
	/* Private as a whole it is not mixed; the other block was never touched. */
	CHECK_ZERO(send(GPA, HUGE_PAGE, PRIVATE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(large_pages(), 1);
}

/* After the call no store reaches the side that was left. */
static void conversion_under_a_writer(void)
{
	struct guest_thread thread;
	struct guest_op loop = {
	    .code = GUEST_STORE_LOOP, .rax = 0x77, .rbx = GPA, .rcx = 4, .rdx = GPA + 8 * PAGE};

	open_machine();
	thread_start(&thread, &vcpu, &loop);
	for (int round = 0; round < 200; round++) {
		CHECK_ZERO(send(GPA, 4 * PAGE, PRIVATE, 0));
		for (uint64_t page = 0; page < 4; page++)
			__atomic_store_n(word_at(memory, page * PAGE), 0, __ATOMIC_RELAXED);
		usleep(100);
		for (uint64_t page = 0; page < 4; page++)
			CHECK_EQ(__atomic_load_n(word_at(memory, page * PAGE), __ATOMIC_RELAXED),
				 0);
		CHECK_ZERO(send(GPA, 4 * PAGE, 0, 0));
	}
	__atomic_store_n(word_at(memory, 8 * PAGE), 1, __ATOMIC_RELAXED);
	CHECK_END(thread_join(&thread), END_DONE);
}

/* There is no call that reads attributes back: KVM_GET-like numbers beside it are unknown. */
static void no_reading_back(void)
{
	struct kvm_memory_attributes request = {GPA, PAGE, 0, 0};

	open_machine();
	REFUSED(&vm, ioctl(vm.fd, _IOR(KVMIO, 0xd2, struct kvm_memory_attributes), &request),
		ENOTTY);
	REFUSED(&vm, ioctl(vm.fd, _IOW(KVMIO, 0xd3, struct kvm_memory_attributes), &request),
		ENOTTY);
}

static void private_without_a_file(void)
{
	struct outcome outcome;

	open_machine();
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = 4 * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_ZERO(send(2 * GPA, 2 * PAGE, PRIVATE, 0));
	for (int is_write = 0; is_write < 2; is_write++) {
		outcome = is_write ? guest_try_store(&vcpu, 2 * GPA + PAGE + 16, 1)
				   : guest_try_load(&vcpu, 2 * GPA + PAGE + 16);
		CHECK_END(outcome, END_MEMORY_FAULT);
		CHECK_EQ(outcome.error, EFAULT);
		CHECK_EQ(outcome.fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
		CHECK_EQ(outcome.fault.gpa, 2 * GPA + PAGE);
		CHECK_EQ(outcome.fault.size, PAGE);
	}
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + 2 * PAGE), 0);
}

static void private_slot_goes_under_a_reader(void)
{
	struct guest_thread thread;
	struct outcome outcome;

	open_machine();
	CHECK_ZERO(send(GPA, PAGE, PRIVATE, 0));
	thread_start(&thread, &vcpu, &(struct guest_op){.code = GUEST_WAIT_WHILE, .rbx = GPA + 8});
	CHECK(!thread_ended_within(&thread, 20));
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	outcome = thread_join(&thread);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.error, EFAULT);
	CHECK_EQ(outcome.fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	CHECK_EQ(outcome.fault.gpa, GPA);
	CHECK_EQ(outcome.fault.size, PAGE);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(refused_requests),
	    TEST(argument_is_copied_first),
	    TEST(an_ordinary_vm_has_none),
	    TEST(same_value_changes_nothing),
	    TEST(a_tebibyte_without_slots),
	    TEST(attributes_outlive_slots),
	    TEST(conversion_keeps_both_sides),
	    TEST(mixed_blocks_are_mapped_small),
	    TEST(conversion_under_a_writer),
	    TEST(no_reading_back),
	    TEST(private_without_a_file),
	    TEST(private_slot_goes_under_a_reader),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
