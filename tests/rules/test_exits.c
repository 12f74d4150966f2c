/* Exits of KVM_RUN for memory: MMIO, memory faults, hypercalls. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define MMIO 0x20000000ul
#define BYTES (8 * PAGE)
#define SLOT 5

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

static void open_machine(unsigned long type)
{
	machine_open(&vm, &vcpu, type);
	memory = memory_alloc(BYTES);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
}

static void open_default(void)
{
	open_machine(KVM_X86_DEFAULT_VM);
}

static void check_mmio(struct outcome outcome, uint64_t gpa, uint32_t bytes, uint8_t is_write)
{
	CHECK_END(outcome, END_MMIO);
	CHECK_EQ(outcome.mmio.gpa, gpa);
	CHECK_EQ(outcome.mmio.bytes, bytes);
	CHECK_EQ(outcome.mmio.is_write, is_write);
}

static struct outcome answer(uint64_t data)
{
	memcpy(vcpu.run->mmio.data, &data, 8);
	return vcpu_run(&vcpu);
}

static void reads_of_each_size(void)
{
	static const enum guest_code codes[] = {GUEST_LOAD1, GUEST_LOAD2, GUEST_LOAD4, GUEST_LOAD8};
	static const uint64_t masks[] = {0xff, 0xffff, 0xffffffff, UINT64_MAX};

	open_default();
	for (unsigned int i = 0; i < 4; i++) {
		struct outcome outcome = GUEST(&vcpu, codes[i], .rbx = MMIO + 16);

		check_mmio(outcome, MMIO + 16, 1u << i, 0);
		outcome = answer(0x8877665544332211);
		CHECK_END(outcome, END_DONE);
		CHECK_EQ(outcome.value, 0x8877665544332211 & masks[i]);
	}
}

static void writes_of_each_size(void)
{
	static const enum guest_code codes[] = {GUEST_STORE1, GUEST_STORE2, GUEST_STORE4,
						GUEST_STORE8};
	static const uint64_t masks[] = {0xff, 0xffff, 0xffffffff, UINT64_MAX};

	open_default();
	for (unsigned int i = 0; i < 4; i++) {
		struct outcome outcome =
		    GUEST(&vcpu, codes[i], .rax = 0x8877665544332211, .rbx = MMIO + 24);

		check_mmio(outcome, MMIO + 24, 1u << i, 1);
		CHECK_EQ(outcome.mmio.data & masks[i], 0x8877665544332211 & masks[i]);
		CHECK_END(vcpu_run(&vcpu), END_DONE);
	}
}

/* Eight bytes over the end of a page are two exits, the lower first. */
static void access_over_two_pages(void)
{
	struct outcome outcome;

	open_default();
	outcome = GUEST(&vcpu, GUEST_STORE8, .rax = 0x8877665544332211, .rbx = MMIO + PAGE - 3);
	check_mmio(outcome, MMIO + PAGE - 3, 3, 1);
	CHECK_EQ(outcome.mmio.data & 0xffffff, 0x332211);
	outcome = vcpu_run(&vcpu);
	check_mmio(outcome, MMIO + PAGE, 5, 1);
	CHECK_EQ(outcome.mmio.data & 0xffffffffff, 0x8877665544);
	CHECK_END(vcpu_run(&vcpu), END_DONE);

	check_mmio(GUEST(&vcpu, GUEST_LOAD8, .rbx = MMIO + PAGE - 3), MMIO + PAGE - 3, 3, 0);
	check_mmio(answer(0x332211), MMIO + PAGE, 5, 0);
	outcome = answer(0x8877665544);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0x8877665544332211);
}

/* Half of it memory, half of it not. */
static void access_over_the_end_of_a_slot(void)
{
	struct outcome outcome;

	open_default();
	memset(memory, 0x5a, BYTES);
	check_mmio(GUEST(&vcpu, GUEST_LOAD8, .rbx = GPA + BYTES - 4), GPA + BYTES, 4, 0);
	outcome = answer(0x11111111);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0x111111115a5a5a5a);
	check_mmio(GUEST(&vcpu, GUEST_STORE8, .rax = 0x2222222233333333, .rbx = GPA + BYTES - 4),
		   GPA + BYTES, 4, 1);
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	CHECK_EQ(*word_at(memory, BYTES - 8), 0x333333335a5a5a5a);
}

/* The instruction ends at the next KVM_RUN, which immediate_exit keeps from running on. */
static void immediate_exit_completes(void)
{
	struct kvm_regs before, after;

	open_default();
	check_mmio(GUEST(&vcpu, GUEST_LOAD8, .rbx = MMIO), MMIO, 8, 0);
	memcpy(vcpu.run->mmio.data, &(uint64_t){0x1234}, 8);
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_REGS, &before));
	vcpu_complete(&vcpu);
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_REGS, &after));
	CHECK_EQ(after.rax, 0x1234);
	CHECK(after.rip > before.rip);
	CHECK_END(vcpu_run(&vcpu), END_DONE);
}

static void read_only_slot(void)
{
	open_default();
	*word_at(memory, 8) = 0x1234;
	CHECK_ZERO(REGION(&vm, .slot = 6, .flags = KVM_MEM_READONLY, .guest_phys_addr = 2 * GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory));
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + 8), 0x1234);
	for (int round = 0; round < 3; round++) {
		check_mmio(guest_try_store(&vcpu, 2 * GPA + 8, 5), 2 * GPA + 8, 8, 1);
		CHECK_EQ(*word_at(memory, 8), 0x1234);
		CHECK_EQ(guest_load(&vcpu, 2 * GPA + 8), 0x1234);
	}
	/* Code may lie there. */
	memcpy(memory + PAGE, "\xb8\x2a\x00\x00\x00\xe6\x80", 7); /* mov $42, %eax; out */
	CHECK_EQ(GUEST(&vcpu, GUEST_CALL, .rbx = 2 * GPA + PAGE).value, 42);
	/* Through an ordinary slot the same memory can be written. */
	guest_store(&vcpu, GPA + 8, 6);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + 8), 6);
}

static void read_modify_write_of_a_read_only_slot(void)
{
	open_default();
	*word_at(memory, 0) = 41;
	CHECK_ZERO(REGION(&vm, .slot = 6, .flags = KVM_MEM_READONLY, .guest_phys_addr = 2 * GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory));
	for (int round = 0; round < 2; round++) {
		struct outcome outcome = GUEST(&vcpu, GUEST_INCREMENT, .rbx = 2 * GPA);

		check_mmio(outcome, 2 * GPA, 8, 1);
		CHECK_EQ(outcome.mmio.data, 42);
		CHECK_EQ(*word_at(memory, 0), 41);
	}
}

static struct outcome increment(uint64_t gpa)
{
	return GUEST(&vcpu, GUEST_INCREMENT, .rbx = gpa);
}

/* The emulator reads what the client can read; what it cannot is a device's. */
static void read_modify_write_of_what_cannot_be_read(void)
{
	uint8_t *lost;

	open_default();
	lost = memory_alloc(BYTES);
	CHECK_ZERO(REGION(&vm, .slot = 6, .flags = KVM_MEM_READONLY, .guest_phys_addr = 3 * GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)lost));
	CHECK_EQ(guest_load(&vcpu, 3 * GPA), 0);
	CHECK_ZERO(munmap(lost + PAGE, PAGE));
	CHECK_ZERO(mprotect(lost, PAGE, PROT_NONE));
	for (uint64_t at = 0; at <= PAGE; at += PAGE) {
		check_mmio(increment(3 * GPA + at), 3 * GPA + at, 8, 0);
		check_mmio(answer(41), 3 * GPA + at, 8, 1);
		CHECK_EQ(vcpu.run->mmio.data[0], 42);
		CHECK_END(vcpu_run(&vcpu), END_DONE);
		/* A mere load is no emulator's. */
		CHECK_END(guest_try_load(&vcpu, 3 * GPA + at), END_FAULT);
	}
	/* Nor is the increment of a slot that can be written. */
	CHECK_ZERO(mprotect(memory, PAGE, PROT_NONE));
	CHECK_END(increment(GPA), END_FAULT);
}

static void code_without_memory(void)
{
	struct outcome outcome;

	open_default();
	outcome = GUEST(&vcpu, GUEST_CALL, .rbx = MMIO);
	CHECK_EQ(outcome.error, 0);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_INTERNAL_ERROR);
	CHECK_EQ(vcpu.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
}

/* No memory at the slot's address: EFAULT, and nothing about a memory fault. */
static void address_without_memory(void)
{
	struct outcome outcome;

	open_default();
	CHECK_ZERO(munmap(memory + PAGE, PAGE));
	for (int is_write = 0; is_write < 2; is_write++) {
		outcome = is_write ? guest_try_store(&vcpu, GPA + PAGE, 1)
				   : guest_try_load(&vcpu, GPA + PAGE);
		CHECK_END(outcome, END_FAULT);
		CHECK_EQ(outcome.exit_reason, KVM_EXIT_UNKNOWN);
	}
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
}

static void memory_faults(void)
{
	struct outcome outcome;
	int file;

	open_machine(KVM_X86_SW_PROTECTED_VM);
	CHECK_ZERO(vm_set_attributes(&vm, 0, GPA + 2 * BYTES, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	/* Private without a slot, in a slot without a file, and with a file that is gone. */
	outcome = GUEST(&vcpu, GUEST_LOAD1, .rbx = GPA - PAGE + 77);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.error, EFAULT);
	CHECK_EQ(outcome.fault.gpa, GPA - PAGE);
	CHECK_EQ(outcome.fault.size, PAGE);
	CHECK_EQ(outcome.fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	outcome = guest_try_store(&vcpu, GPA + PAGE + 8, 1);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.fault.gpa, GPA + PAGE);
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)file));
	guest_store(&vcpu, GPA, 1);
	close(file);
	outcome = guest_try_load(&vcpu, GPA + 5);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.fault.gpa, GPA);
	CHECK_EQ(outcome.fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	/* The instruction is not over: what was missing can be brought and it runs again. */
	CHECK_ZERO(vm_set_attributes(&vm, GPA, BYTES, 0));
	*word_at(memory, 0) = 0x99;
	outcome = vcpu_run(&vcpu);
	CHECK_END(outcome, END_DONE);
}

/*
 * Only shared addresses are emulated, so what the guest does through a stale MMIO entry is a shared
 * access, whatever the attribute says by now.
 */
static void private_where_mmio_was_known(void)
{
	struct outcome outcome;

	open_machine(KVM_X86_SW_PROTECTED_VM);
	check_mmio(guest_try_load(&vcpu, MMIO), MMIO, 8, 0);
	if (!stat_get(vcpu.fd, "pf_mmio_spte_created"))
		check_skip("no MMIO entries");
	CHECK_ZERO(vm_set_attributes(&vm, MMIO, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	/* The entry is good as long as the slots are. */
	check_mmio(guest_try_load(&vcpu, MMIO), MMIO, 8, 0);
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 3 * GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	for (int is_write = 0; is_write < 2; is_write++) {
		outcome = is_write ? guest_try_store(&vcpu, MMIO + 8, 1)
				   : guest_try_load(&vcpu, MMIO + 8);
		CHECK_END(outcome, END_MEMORY_FAULT);
		CHECK_EQ(outcome.error, EFAULT);
		CHECK_EQ(outcome.fault.gpa, MMIO);
		CHECK_EQ(outcome.fault.flags, 0);
	}
	/* The client does as it was told. */
	CHECK_ZERO(vm_set_attributes(&vm, MMIO, PAGE, 0));
	check_mmio(vcpu_run(&vcpu), MMIO + 8, 8, 1);
}

/* The same where a slot and its file have come, and the attribute of all around it was set. */
static void private_memory_where_mmio_was_known(void)
{
	struct outcome outcome;
	int file;

	open_machine(KVM_X86_SW_PROTECTED_VM);
	check_mmio(guest_try_load(&vcpu, MMIO), MMIO, 8, 0);
	if (!stat_get(vcpu.fd, "pf_mmio_spte_created"))
		check_skip("no MMIO entries");
	file = (int)CHECK_OK(vm_gmem(&vm, HUGE_PAGE, 0));
	CHECK_ZERO(REGION(&vm, .slot = 6, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = MMIO,
			  .memory_size = HUGE_PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(HUGE_PAGE),
			  .guest_memfd = (uint32_t)file));
	CHECK_ZERO(vm_set_attributes(&vm, MMIO, HUGE_PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	outcome = guest_try_store(&vcpu, MMIO, 1);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.fault.flags, 0);
	/* Of the next page nothing was known. */
	guest_store(&vcpu, MMIO + PAGE, 1);
	CHECK_ZERO(vm_set_attributes(&vm, MMIO, HUGE_PAGE, 0));
	guest_store(&vcpu, MMIO, 1);
}

/* Private memory cannot be emulated: an access over into it ends in its fault. */
static void code_in_private_memory(void)
{
	struct outcome outcome;

	open_machine(KVM_X86_SW_PROTECTED_VM);
	CHECK_ZERO(vm_set_attributes(&vm, GPA + PAGE, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	outcome = GUEST(&vcpu, GUEST_CALL, .rbx = GPA + PAGE);
	CHECK_END(outcome, END_MEMORY_FAULT);
	CHECK_EQ(outcome.fault.gpa, GPA + PAGE);
}

static void enable_hypercall(void)
{
	CHECK_EQ(vm_cap(&vm, KVM_CAP_EXIT_HYPERCALL), 1 << KVM_HC_MAP_GPA_RANGE);
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE));
}

static void hypercall_mask(void)
{
	open_default();
	REFUSED(&vm, vm_enable_cap(&vm, KVM_CAP_EXIT_HYPERCALL, 1), EINVAL);
	REFUSED(&vm, vm_enable_cap(&vm, KVM_CAP_EXIT_HYPERCALL, UINT64_MAX), EINVAL);
	enable_hypercall();
	/* The mask is replaced, not added to. */
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_EXIT_HYPERCALL, 0));
	CHECK_EQ(
	    GUEST(&vcpu, GUEST_HYPERCALL, .rax = KVM_HC_MAP_GPA_RANGE, .rbx = GPA, .rcx = 1).value,
	    -1000l /* KVM_ENOSYS */);
}

static void hypercall_exit(void)
{
	struct outcome outcome;

	open_default();
	enable_hypercall();
	outcome = GUEST(&vcpu, GUEST_HYPERCALL, .rax = KVM_HC_MAP_GPA_RANGE, .rbx = GPA + PAGE,
			.rcx = 3, .rdx = 0x10);
	CHECK_EQ(outcome.error, 0);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_HYPERCALL);
	CHECK_EQ(vcpu.run->hypercall.nr, KVM_HC_MAP_GPA_RANGE);
	CHECK_EQ(vcpu.run->hypercall.args[0], GPA + PAGE);
	CHECK_EQ(vcpu.run->hypercall.args[1], 3);
	CHECK_EQ(vcpu.run->hypercall.args[2], 0x10);
	CHECK_EQ(vcpu.run->hypercall.ret, 0);
	vcpu.run->hypercall.ret = 0x5555;
	outcome = vcpu_run(&vcpu);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0x5555);
}

static void hypercall_refused_to_the_guest(void)
{
	static const uint64_t bad[][2] = {
	    {GPA + 1, 1}, {GPA, 0}, {GPA, UINT64_MAX}, {GPA, -(GPA / PAGE)}};

	open_default();
	enable_hypercall();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct outcome outcome = GUEST(&vcpu, GUEST_HYPERCALL, .rax = KVM_HC_MAP_GPA_RANGE,
					       .rbx = bad[i][0], .rcx = bad[i][1]);

		CHECK_END(outcome, END_DONE);
		CHECK_EQ(outcome.value, -22l /* KVM_EINVAL */);
	}
}

/* Pages of the agent for user mode, and a selector of that privilege. */
static void enter_user_mode(void)
{
	struct kvm_sregs sregs;
	uint64_t *tables = word_at(vm.agent, 4 * PAGE);

	for (uint64_t i = 0; i < 6 * 512; i++)
		if (tables[i])
			tables[i] |= 4;
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.cs.dpl = sregs.ss.dpl = 3;
	sregs.cs.selector |= 3;
	sregs.ss.selector |= 3;
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
}

static void hypercall_of_user_mode(void)
{
	struct kvm_regs regs;
	struct outcome outcome;

	open_default();
	enable_hypercall();
	enter_user_mode();
	vcpu_prepare(
	    &vcpu, &(struct guest_op){
		       .code = GUEST_HYPERCALL, .rax = KVM_HC_MAP_GPA_RANGE, .rbx = GPA, .rcx = 1});
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	regs.rflags = 0x3002; /* it may use ports, to say that it is done */
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	outcome = vcpu_run(&vcpu);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, -1l /* KVM_EPERM */);
}

/* The whole of a conversion: the guest asks, the client changes, the guest goes on. */
static void implicit_and_explicit_conversion(void)
{
	struct outcome outcome;
	int file;

	open_machine(KVM_X86_SW_PROTECTED_VM);
	enable_hypercall();
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
	file = (int)CHECK_OK(vm_gmem(&vm, BYTES, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory,
			  .guest_memfd = (uint32_t)file));
	guest_store(&vcpu, GPA, 1);
	outcome = GUEST(&vcpu, GUEST_HYPERCALL, .rax = KVM_HC_MAP_GPA_RANGE, .rbx = GPA, .rcx = 1,
			.rdx = 0x10);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_HYPERCALL);
	/* KVM itself changes nothing: that is the client's part. */
	CHECK_EQ(*word_at(memory, 0), 1);
	CHECK_ZERO(vm_set_attributes(&vm, GPA, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	CHECK_EQ(vcpu_run(&vcpu).value, 0);
	CHECK_EQ(guest_load(&vcpu, GPA), 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(reads_of_each_size),
	    TEST(writes_of_each_size),
	    TEST(access_over_two_pages),
	    TEST(access_over_the_end_of_a_slot),
	    TEST(immediate_exit_completes),
	    TEST(read_only_slot),
	    TEST(read_modify_write_of_a_read_only_slot),
	    TEST(read_modify_write_of_what_cannot_be_read),
	    TEST(code_without_memory),
	    TEST(address_without_memory),
	    TEST(memory_faults),
	    TEST(private_where_mmio_was_known),
	    TEST(private_memory_where_mmio_was_known),
	    TEST(code_in_private_memory),
	    TEST(hypercall_mask),
	    TEST(hypercall_exit),
	    TEST(hypercall_refused_to_the_guest),
	    TEST(hypercall_of_user_mode),
	    TEST(implicit_and_explicit_conversion),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
