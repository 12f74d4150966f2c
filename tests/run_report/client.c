/* What the reports of a run are made of: faults, logged writes and exits, before and after a pause.
 */
#include <stdio.h>
#include <unistd.h>

#include "tests/rules/client.h"

/* test_report.py counts these. */
#define GPA 0x10000000ul
#define PAGES 64ul
#define NOWHERE 0x20000000ul
#define SLOT 5

static struct vm vm;
static struct vcpu vcpu;

static void store_each(void)
{
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rax = 1, .rbx = GPA, .rcx = PAGES, .rdx = PAGE),
		  END_DONE);
}

static void harvest(void)
{
	uint64_t bitmap[PAGES / 64] = {0};
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = bitmap};

	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	CHECK_EQ(bitmap[0], UINT64_MAX);
}

int main(void)
{
	char byte;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_LOG_DIRTY_PAGES,
			  .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(PAGES * PAGE)));
	store_each();
	CHECK_END(guest_try_store(&vcpu, NOWHERE, 1), END_MMIO);
	puts("ready");
	fflush(stdout);
	/* The test asks for a report meanwhile. */
	if (read(STDIN_FILENO, &byte, 1) != 1)
		return 1;
	harvest();
	store_each();
	return 0;
}
