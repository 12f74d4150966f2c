/* KVM_PRE_FAULT_MEMORY: its checks in order, its progress, and what it maps. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 513ul
#define BYTES (PAGES * PAGE)
#define SLOT 5

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static struct kvm_pre_fault_memory range;

static int prefault(uint64_t gpa, uint64_t size_bytes, uint64_t flags)
{
	range = (struct kvm_pre_fault_memory){.gpa = gpa, .size = size_bytes, .flags = flags};
	return ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range);
}

static void open_machine(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_PRE_FAULT_MEMORY))
		check_skip("no KVM_PRE_FAULT_MEMORY");
	memory = memory_alloc(BYTES);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
}

/* Calls until nothing is left. */
static void prefault_all(uint64_t gpa, uint64_t size_bytes)
{
	range = (struct kvm_pre_fault_memory){.gpa = gpa, .size = size_bytes};
	while (range.size) {
		uint64_t before = range.size;

		CHECK_ZERO(ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range));
		CHECK(range.size < before);
		CHECK_EQ(range.gpa + range.size, gpa + size_bytes);
	}
}

static uint64_t small_pages(void)
{
	return stat_get(vm.fd, "pages_4k");
}

static void refused_requests(void)
{
	static const uint64_t bad[][3] = {
	    {GPA, PAGE, 1},	  {GPA, PAGE, 1ul << 63},
	    {GPA + 1, PAGE, 0},	  {GPA, PAGE + 1, 0},
	    {GPA, 1, 0},	  {GPA, 0, 0},
	    {-PAGE, 2 * PAGE, 0}, {GPA, -PAGE, 0},
	};

	open_machine();
	REFUSED(&vm, ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, NULL), EFAULT);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		REFUSED(&vm, prefault(bad[i][0], bad[i][1], bad[i][2]), EINVAL);
		CHECK_EQ(range.gpa, bad[i][0]);
		CHECK_EQ(range.size, bad[i][1]);
	}
}

static void padding_is_ignored(void)
{
	open_machine();
	range = (struct kvm_pre_fault_memory){.gpa = GPA, .size = PAGE};
	memset(range.padding, 0xff, sizeof(range.padding));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range));
	CHECK_EQ(range.size, 0);
}

static void whole_slot(void)
{
	uint64_t before, faults, fast;

	open_machine();
	before = small_pages();
	faults = stat_get(vcpu.fd, "pf_taken");
	prefault_all(GPA, BYTES);
	CHECK_EQ(range.size, 0);
	CHECK(small_pages() >= before + PAGES);
	/* None of it counts as a fault of the guest, and the guest finds all of it. */
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
	guest_load(&vcpu, GPA);
	faults = stat_get(vcpu.fd, "pf_taken");
	fast = stat_get(vcpu.fd, "pf_fast");
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = PAGES, .rdx = PAGE), END_DONE);
	/* Without A bits the first use of a page is a fault, and the mapping needs no lookup. */
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken") - faults, stat_get(vcpu.fd, "pf_fast") - fast);
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken") != faults, !marks_accesses());
	faults = stat_get(vcpu.fd, "pf_taken");
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = PAGES, .rdx = PAGE), END_DONE);
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
	/* Again: all there already. */
	prefault_all(GPA, BYTES);
}

static void past_the_end(void)
{
	open_machine();
	CHECK_ZERO(prefault(GPA + BYTES - PAGE, 2 * PAGE, 0));
	CHECK_EQ(range.size, PAGE);
	CHECK_EQ(range.gpa, GPA + BYTES);
	CHECK_ERR(ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range), ENOENT);
	CHECK_EQ(range.size, PAGE);
	CHECK_EQ(range.gpa, GPA + BYTES);
	CHECK_ERR(prefault(GPA + BYTES, PAGE, 0), ENOENT);
	CHECK_EQ(range.size, PAGE);
	CHECK_ERR(prefault(GPA - PAGE, PAGE, 0), ENOENT);
}

static void without_memory_at_the_address(void)
{
	open_machine();
	CHECK_ZERO(munmap(memory + 4 * PAGE, PAGE));
	CHECK_ERR(prefault(GPA + 4 * PAGE, PAGE, 0), EFAULT);
	CHECK_ZERO(prefault(GPA + 3 * PAGE, 2 * PAGE, 0));
	CHECK_EQ(range.size, PAGE);
}

/* It reads: memory that may not be written is fine, and a later write has its own fault. */
static void it_is_a_read(void)
{
	open_machine();
	*word_at(memory, 0) = 5;
	CHECK_ZERO(mprotect(memory, PAGE, PROT_READ));
	CHECK_ZERO(prefault(GPA, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA), 5);
	CHECK_END(guest_try_store(&vcpu, GPA, 6), END_FAULT);
	CHECK_ZERO(mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
	guest_store(&vcpu, GPA, 6);
	CHECK_EQ(*word_at(memory, 0), 6);
}

static void read_only_slot(void)
{
	open_machine();
	*word_at(memory, 0) = 5;
	CHECK_ZERO(REGION(&vm, .slot = 6, .flags = KVM_MEM_READONLY, .guest_phys_addr = 2 * GPA,
			  .memory_size = PAGE, .userspace_addr = (uintptr_t)memory));
	CHECK_ZERO(prefault(2 * GPA, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 5);
	CHECK_END(guest_try_store(&vcpu, 2 * GPA, 6), END_MMIO);
}

/* What is private comes from the file. */
static void private_pages(void)
{
	int file;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	if (!vm_cap(&vm, KVM_CAP_PRE_FAULT_MEMORY))
		check_skip("no KVM_PRE_FAULT_MEMORY");
	memory = memory_alloc(BYTES);
	memset(memory, 1, BYTES);
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)file));
	CHECK_ZERO(vm_set_attributes(&vm, GPA, 4 * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	prefault_all(GPA, BYTES);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 4 * PAGE), 0x0101010101010101);
	close(file);
	CHECK_ERR(prefault(GPA, PAGE, 0), EFAULT);
}

static void pending_signal(void)
{
	open_machine();
	/* A signal that is due when the call begins: some progress, or EINTR without any. */
	CHECK_ZERO(pthread_kill(pthread_self(), SIGUSR1));
	prefault_all(GPA, BYTES);
}

static void *churn(void *stop)
{
	while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
		CHECK_ZERO(REGION(&vm, .slot = SLOT));
		CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = BYTES,
				  .userspace_addr = (uintptr_t)memory));
	}
	return NULL;
}

/* While the slot comes and goes each call makes progress or fails without any. */
static void deletion_meanwhile(void)
{
	pthread_t thread;
	int stop = 0;

	open_machine();
	CHECK_ZERO(pthread_create(&thread, NULL, churn, &stop));
	for (int round = 0; round < 2000; round++) {
		int result = prefault(GPA + 8 * PAGE, 4 * PAGE, 0);

		if (result == 0) {
			CHECK(range.size < 4 * PAGE);
			continue;
		}
		CHECK(errno == EAGAIN || errno == ENOENT);
		CHECK_EQ(range.size, 4 * PAGE);
		CHECK_EQ(range.gpa, GPA + 8 * PAGE);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	CHECK_ZERO(pthread_join(thread, NULL));
	prefault_all(GPA, BYTES);
}

/* A logged slot reports a page that was mapped writable though it was not written; never the other
 * way round. */
static void logged_slot(void)
{
	uint64_t bitmap[16] = {0};
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = bitmap};

	open_machine();
	memset(memory, 1, BYTES);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	prefault_all(GPA, 4 * PAGE);
	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	CHECK_EQ(bitmap[0] & ~0xful, 0);
	guest_store(&vcpu, GPA, 1);
	memset(bitmap, 0, sizeof(bitmap));
	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	CHECK_EQ(bitmap[0] & 1, 1);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(refused_requests),   TEST(padding_is_ignored), TEST(whole_slot),
	    TEST(past_the_end),	      TEST(it_is_a_read),	TEST(without_memory_at_the_address),
	    TEST(read_only_slot),     TEST(private_pages),	TEST(pending_signal),
	    TEST(deletion_meanwhile), TEST(logged_slot),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
