/* Rules common to all calls, VM types, capabilities, limits, and the smaller calls. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul

static struct vm vm;
static struct vcpu vcpu;

static void open_default(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
}

static int is_refused(int result, int number)
{
	return result == -1 && errno == number;
}

/* A child has another address space: EIO, before anything of the argument is looked at. */
static void another_process(void)
{
	int status = 0;
	pid_t child;

	open_default();
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		int ok = is_refused(ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, NULL), EIO) &&
			 is_refused(ioctl(vm.fd, KVM_CREATE_GUEST_MEMFD, NULL), EIO) &&
			 is_refused(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EIO) &&
			 is_refused(ioctl(vm.fd, KVM_CREATE_VCPU, 1), EIO) &&
			 is_refused(ioctl(vm.fd, 0xabcd, 1), EIO) &&
			 is_refused(ioctl(vcpu.fd, KVM_RUN, 0), EIO) &&
			 is_refused(ioctl(vcpu.fd, KVM_GET_REGS, NULL), EIO);

		_exit(ok ? 0 : 1);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	/* The creator's own go on. */
	CHECK_ERR(ioctl(vcpu.fd, KVM_GET_REGS, NULL), EFAULT);
}

static int threads_of_this_process(void)
{
	DIR *listing = opendir("/proc/self/task");
	struct dirent *entry;
	int count = 0;

	CHECK(listing);
	while ((entry = readdir(listing)))
		count += entry->d_name[0] != '.';
	CHECK_ZERO(closedir(listing));
	return count;
}

/* A client that looks at /dev/kvm is a process of one thread, and may enter a user namespace. */
static void no_thread_before_the_first_vm(void)
{
	int kvm = (int)CHECK_OK(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	CHECK_EQ(ioctl(kvm, KVM_GET_API_VERSION, 0), 12);
	CHECK_OK(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY));
	CHECK_ERR(ioctl(kvm, KVM_CREATE_VM, 31), EINVAL);
	CHECK_EQ(threads_of_this_process(), 1);
	/* Where the machine refuses, it does so for another reason than EINVAL: the threads. */
	if (unshare(CLONE_NEWUSER))
		CHECK(errno != EINVAL);
	CHECK_OK(ioctl(kvm, KVM_CREATE_VM, 0));
}

static void *call_from_a_thread(void *result)
{
	*(int *)result = ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY);
	return NULL;
}

static void threads_are_the_same_process(void)
{
	pthread_t thread;
	int result = -1;

	open_default();
	CHECK_ZERO(pthread_create(&thread, NULL, call_from_a_thread, &result));
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_EQ(result, 1);
}

static void unknown_calls(void)
{
	open_default();
	CHECK_ERR(ioctl(vm.fd, _IO(KVMIO, 0xff), 0), ENOTTY);
	CHECK_ERR(ioctl(vm.fd, _IO('x', 0x41), 0), ENOTTY);
	CHECK_ERR(ioctl(vm.fd, KVM_GET_REGS, NULL), ENOTTY);
	CHECK_ERR(ioctl(vcpu.fd, _IO(KVMIO, 0xff), 0), EINVAL);
	CHECK_ERR(ioctl(vcpu.fd, _IO('x', 0x41), 0), EINVAL);
	CHECK_ERR(ioctl(vcpu.fd, KVM_CREATE_VCPU, 0), EINVAL);
	CHECK_ERR(ioctl(vm.fd, KVM_GET_NR_MMU_PAGES, 0), ENOTTY);
}

/* Another call on a vCPU that runs waits for it; a kick lets it in. */
static void *read_registers(void *argument)
{
	struct kvm_regs regs;

	(void)argument;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	CHECK(regs.rip >= AGENT_GPA && regs.rip < AGENT_GPA + PAGE);
	return NULL;
}

static void one_call_at_a_time_on_a_vcpu(void)
{
	struct guest_thread runner;
	pthread_t reader;

	open_default();
	thread_start(&runner, &vcpu,
		     &(struct guest_op){.code = GUEST_WAIT_WHILE, .rbx = AGENT_GPA + 15 * PAGE});
	CHECK(!thread_ended_within(&runner, 20));
	CHECK_ZERO(pthread_create(&reader, NULL, read_registers, NULL));
	CHECK(!thread_ended_within(&runner, 20));
	thread_kick(&runner);
	CHECK_END(thread_join(&runner), END_SIGNAL);
	CHECK_ZERO(pthread_join(reader, NULL));
}

/* Timers of ours need a thread where KVM's need memory: where there is none, no device comes. */
static void *make_chips_without_threads(void *argument)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

	if (!client_refuse_threads())
		return argument;
	REFUSED(&vm, ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0), ENOMEM);
	REFUSED(&vm, ioctl(vm.fd, KVM_ENABLE_CAP, &split), ENOMEM);
	CHECK_ERR(ioctl(vm.fd, KVM_CREATE_PIT2, &(struct kvm_pit_config){0}), ENOENT);
	return argument;
}

static void no_thread_for_timers(void)
{
	pthread_t thread;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(pthread_create(&thread, NULL, make_chips_without_threads, NULL));
	CHECK_ZERO(pthread_join(thread, NULL));
	/* Nothing is left of the attempts. */
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_PIT2, &(struct kvm_pit_config){0}));
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, 0));
}

/* A sandboxed vCPU thread: monitors allow KVM_RUN and hardly anything else. */
static void *run_without_gettid(void *argument)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettid, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

	CHECK_ZERO(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_ZERO(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	CHECK_EQ(guest_load(&vcpu, AGENT_GPA + 15 * PAGE), 0);
	return argument;
}

static void a_thread_that_may_not_ask_for_its_number(void)
{
	pthread_t thread;

	open_default();
	CHECK_ZERO(pthread_create(&thread, NULL, run_without_gettid, NULL));
	CHECK_ZERO(pthread_join(thread, NULL));
}

static int bad_pointer(unsigned long command)
{
	return ioctl(vm.fd, command, (void *)16);
}

static void bad_pointers(void)
{
	open_default();
	REFUSED(&vm, bad_pointer(KVM_SET_USER_MEMORY_REGION), EFAULT);
	REFUSED(&vm, bad_pointer(KVM_SET_USER_MEMORY_REGION2), EFAULT);
	REFUSED(&vm, bad_pointer(KVM_CREATE_GUEST_MEMFD), EFAULT);
	REFUSED(&vm, bad_pointer(KVM_GET_DIRTY_LOG), EFAULT);
	REFUSED(&vm, bad_pointer(KVM_CLEAR_DIRTY_LOG), EFAULT);
	REFUSED(&vm, bad_pointer(KVM_ENABLE_CAP), EFAULT);
	REFUSED(&vm, bad_pointer(KVM_IOEVENTFD), EFAULT);
	REFUSED(&vm, ioctl(vcpu.fd, KVM_SET_REGS, (void *)16), EFAULT);
	REFUSED(&vm, ioctl(vcpu.fd, KVM_TRANSLATE, (void *)16), EFAULT);
}

static void vm_types(void)
{
	unsigned int types;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	types = (unsigned int)CHECK_OK(ioctl(vm.kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES));
	CHECK(types & 1);
	for (unsigned long type = 0; type < 64; type++) {
		int fd = ioctl(vm.kvm, KVM_CREATE_VM, type);

		if (type < 32 && types >> type & 1) {
			CHECK(fd >= 0);
			close(fd);
		} else {
			CHECK(is_refused(fd, EINVAL));
		}
	}
	CHECK_ERR(ioctl(vm.kvm, KVM_CREATE_VM, UINT64_MAX), EINVAL);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_VM_TYPES), types);
}

struct cap_value {
	unsigned int cap;
	int value;
};

static void check_caps(const struct cap_value *caps, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (vm_cap(&vm, caps[i].cap) != caps[i].value)
			FAIL("capability %u is %d, not %d", caps[i].cap, vm_cap(&vm, caps[i].cap),
			     caps[i].value);
}
#define CHECK_CAPS(caps) check_caps(caps, sizeof(caps) / sizeof((caps)[0]))

static const struct cap_value every_vm[] = {
    {KVM_CAP_USER_MEMORY, 1},
    {KVM_CAP_USER_MEMORY2, 1},
    {KVM_CAP_SYNC_MMU, 1},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1},
    {KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1},
    {KVM_CAP_INTERNAL_ERROR_DATA, 1},
    {KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1},
    {KVM_CAP_NR_MEMSLOTS, 32764},
    {KVM_CAP_READONLY_MEM, 1},
    {KVM_CAP_COALESCED_MMIO, 2},
    {KVM_CAP_COALESCED_PIO, 1},
    {KVM_CAP_IOEVENTFD, 1},
    {KVM_CAP_IOEVENTFD_NO_LENGTH, 1},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, 1},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3},
    {KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0},
    {KVM_CAP_EXIT_HYPERCALL, 1 << 12},
    {KVM_CAP_BINARY_STATS_FD, 1},
    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 1},
    {KVM_CAP_MEMORY_FAULT_INFO, 1},
    {KVM_CAP_GUEST_MEMFD, 1},
};

static void capabilities_of_an_ordinary_vm(void)
{
	static const struct cap_value own[] = {
	    {KVM_CAP_MULTI_ADDRESS_SPACE, 2},
	    {KVM_CAP_MEMORY_ATTRIBUTES, 0},
	    {KVM_CAP_GUEST_MEMFD_FLAGS, 3},
	};

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_CAPS(every_vm);
	CHECK_CAPS(own);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_PRE_FAULT_MEMORY), has_second_stage());
	CHECK(vm_cap(&vm, KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_SLOT_ZAP_ALL);
	CHECK_EQ(vm_cap(&vm, 0xffff), 0);
}

static void capabilities_of_a_protected_vm(void)
{
	static const struct cap_value own[] = {
	    {KVM_CAP_MULTI_ADDRESS_SPACE, 1},
	    {KVM_CAP_MEMORY_ATTRIBUTES, 8},
	    {KVM_CAP_GUEST_MEMFD_FLAGS, 1},
	};

	vm_open(&vm, KVM_X86_SW_PROTECTED_VM);
	CHECK_CAPS(every_vm);
	CHECK_CAPS(own);
	CHECK_EQ(CHECK_OK(ioctl(vm.kvm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES)), 8);
	CHECK_ERR(REGION(&vm, .slot = 5 | 1u << 16, .guest_phys_addr = GPA, .memory_size = PAGE,
			 .userspace_addr = (uintptr_t)memory_alloc(PAGE)),
		  EINVAL);
	/* Its memory is still ordinary where nothing is private: read-only slots included. */
	CHECK_ZERO(REGION(&vm, .slot = 5, .flags = KVM_MEM_READONLY, .guest_phys_addr = GPA,
			  .memory_size = PAGE, .userspace_addr = (uintptr_t)memory_alloc(PAGE)));
}

/* Slots come and go from many threads; each call is whole. */
static void *use_one_slot(void *argument)
{
	uint32_t slot = *(uint32_t *)argument;
	uint8_t *memory = memory_alloc(PAGE);

	for (int round = 0; round < 100; round++) {
		CHECK_ZERO(REGION(&vm, .slot = slot, .guest_phys_addr = slot * PAGE,
				  .memory_size = PAGE, .userspace_addr = (uintptr_t)memory));
		CHECK_ERR(REGION(&vm, .slot = slot + 100, .guest_phys_addr = slot * PAGE,
				 .memory_size = PAGE, .userspace_addr = (uintptr_t)memory),
			  EEXIST);
		CHECK_ZERO(REGION(&vm, .slot = slot));
	}
	return NULL;
}

static void slot_calls_from_many_threads(void)
{
	pthread_t threads[4];
	uint32_t slots[4];

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	for (uint32_t i = 0; i < 4; i++) {
		slots[i] = i + 1;
		CHECK_ZERO(pthread_create(&threads[i], NULL, use_one_slot, &slots[i]));
	}
	for (uint32_t i = 0; i < 4; i++)
		CHECK_ZERO(pthread_join(threads[i], NULL));
}

static void number_of_mmu_pages(void)
{
	uint64_t before;

	open_default();
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = GPA, .memory_size = 512 * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(512 * PAGE)));
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = 512, .rdx = PAGE), END_DONE);
	before = stat_get(vm.fd, "pages_4k");
	for (unsigned long pages = 0; pages < 64; pages += 9)
		REFUSED(&vm, ioctl(vm.fd, KVM_SET_NR_MMU_PAGES, pages), EINVAL);
	/* Of two-dimensional paging nothing is taken away. */
	CHECK_ZERO(ioctl(vm.fd, KVM_SET_NR_MMU_PAGES, 64));
	CHECK_EQ(stat_get(vm.fd, "pages_4k"), before);
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = 512, .rdx = PAGE), END_DONE);
}

/* What the hypervisor had in its hands is given back: a VM that ends with pages pinned says so. */
static void nothing_is_kept_at_the_end(void)
{
	uint8_t *memory = memory_alloc(2 * PAGE);
	int ends[2], errors;
	char said[256];

	open_default();
	vcpu_enable_svm(&vcpu);
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = GPA, .memory_size = 2 * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(GUEST(&vcpu, GUEST_VMLOAD, .rbx = GPA), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_VMLOAD, .rbx = GPA + PAGE), END_DONE);
	CHECK_ZERO(pipe(ends));
	errors = (int)CHECK_OK(dup(2));
	CHECK_OK(dup2(ends[1], 2));
	munmap(vcpu.run, (size_t)ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	close(vcpu.fd);
	close(vm.fd);
	CHECK_OK(dup2(errors, 2));
	CHECK_ZERO(close(ends[1]));
	CHECK_EQ(read(ends[0], said, sizeof(said)), 0);
}

/* Nothing at all in the VM: the first instruction cannot be fetched, and that is no error. */
static void no_memory_at_all(void)
{
	long run_bytes;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	run_bytes = CHECK_OK(ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	vcpu.fd = (int)CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, 0));
	vcpu.run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);
	CHECK(vcpu.run != MAP_FAILED);
	CHECK_ZERO(ioctl(vm.fd, KVM_SET_NR_MMU_PAGES, 64));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
}

static struct kvm_translation translate(uint64_t address)
{
	struct kvm_translation translation = {.linear_address = address};

	memset(translation.pad, 0x77, sizeof(translation.pad));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_TRANSLATE, &translation));
	return translation;
}

static void translation_of_addresses(void)
{
	struct kvm_translation translation;

	open_default();
	translation = translate(GPA + 0x123456);
	CHECK_EQ(translation.valid, 1);
	CHECK_EQ(translation.physical_address, GPA + 0x123456);
	CHECK_EQ(translation.writeable, 1);
	CHECK_EQ(translation.usermode, 0);
	translation = translate(1ul << 40);
	CHECK_EQ(translation.valid, 0);
	CHECK_EQ(translation.physical_address, UINT64_MAX);
}

static int disable_nx(uint32_t flags, uint64_t argument)
{
	struct kvm_enable_cap request = {
	    .cap = KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, .flags = flags, .args = {argument}};

	return ioctl(vm.fd, KVM_ENABLE_CAP, &request);
}

static void nx_workaround(void)
{
	int status = 0;
	pid_t child;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_ERR(disable_nx(1, 0), EINVAL);
	if (disable_nx(0, 1) == -1 && errno == EPERM)
		check_skip("this takes CAP_SYS_BOOT");
	CHECK_ERR(disable_nx(0, 1), EINVAL);
	CHECK_ZERO(disable_nx(0, 0));
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, 0));
	CHECK_ERR(disable_nx(0, 0), EINVAL);
	/* Without the right to reboot: EPERM before the argument, EINVAL for the flags before it.
	 */
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		CHECK_ZERO(setuid(65534));
		/* /dev/kvm may be root's alone, so it stays open. */
		vm.fd = (int)CHECK_OK(ioctl(vm.kvm, KVM_CREATE_VM, 0));
		CHECK_ERR(disable_nx(1, 1), EINVAL);
		CHECK_ERR(disable_nx(0, 1), EPERM);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(another_process),
	    TEST(threads_are_the_same_process),
	    TEST(no_thread_before_the_first_vm),
	    TEST(unknown_calls),
	    TEST(one_call_at_a_time_on_a_vcpu),
	    TEST(no_thread_for_timers),
	    TEST(a_thread_that_may_not_ask_for_its_number),
	    TEST(bad_pointers),
	    TEST(vm_types),
	    TEST(capabilities_of_an_ordinary_vm),
	    TEST(capabilities_of_a_protected_vm),
	    TEST(slot_calls_from_many_threads),
	    TEST(number_of_mmu_pages),
	    TEST(nothing_is_kept_at_the_end),
	    TEST(no_memory_at_all),
	    TEST(translation_of_addresses),
	    TEST(nx_workaround),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
