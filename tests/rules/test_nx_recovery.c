/*
 * The workaround of NX on large pages: one that the guest executes is split, and large again after
 * a while. Run with --param kvm.nx_huge_pages=force, and a period of recovery; with the argument
 * "never" the test expects that what is split stays so.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
/* out AGENT_PORT, al: the end of what the guest executes. */
static const uint8_t code[] = {0xe6, AGENT_PORT};

static struct vm vm;
static struct vcpu vcpu;

static uint64_t splits(void)
{
	return stat_get(vm.fd, "nx_lpage_splits");
}

/* Does the count come to @wanted within @milliseconds? */
static int comes_to(uint64_t wanted, int milliseconds)
{
	for (int i = 0; i < milliseconds; i += 5) {
		if (splits() == wanted)
			return 1;
		usleep(5000);
	}
	return 0;
}

/* A slot of 2 MiB pages, with code at the start of each. */
static void open_huge(void)
{
	uint8_t *memory = memory_alloc(4 * HUGE_PAGE);

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (madvise(memory, 4 * HUGE_PAGE, MADV_HUGEPAGE))
		check_skip("no huge pages");
	memset(memory, 1, 4 * HUGE_PAGE);
	for (unsigned long page = 0; page < 4; page++)
		memcpy(memory + page * HUGE_PAGE, code, sizeof(code));
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = 4 * HUGE_PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = 4 * 512, .rdx = PAGE), END_DONE);
	/* A machine whose memory is in pieces may have some and not all. */
	if (stat_get(vm.fd, "pages_2m") < 4)
		check_skip("no huge pages");
}

static void execute(uint64_t gpa)
{
	CHECK_END(GUEST(&vcpu, GUEST_CALL, .rbx = gpa), END_DONE);
	/* The instruction of its exit is over, too. */
	(void)guest_load(&vcpu, GPA);
}

static void recovered(void)
{
	uint64_t before, after;

	open_huge();
	before = stat_get(vm.fd, "pages_2m");
	CHECK_EQ(splits(), 0);
	execute(GPA + HUGE_PAGE);
	after = stat_get(vm.fd, "pages_2m");
	CHECK_EQ(after, before - 1);
	/* It may be gone again. */
	CHECK(splits() <= 1);
	CHECK(comes_to(0, 20000));
	/* Read again, it is large; executed again, split. */
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = 4 * 512, .rdx = PAGE), END_DONE);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), before);
	execute(GPA + HUGE_PAGE);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), before - 1);
}

static void kept(void)
{
	open_huge();
	execute(GPA + HUGE_PAGE);
	execute(GPA + 2 * HUGE_PAGE);
	CHECK_EQ(splits(), 2);
	CHECK(!comes_to(0, 300));
	CHECK_EQ(splits(), 2);
}

static void *make_vm_without_threads(void *argument)
{
	CHECK(client_refuse_threads());
	CHECK_ERR(ioctl(vm.kvm, KVM_CREATE_VM, 0), ENOMEM);
	return argument;
}

/* The workaround's thread is part of making a VM. */
static void no_thread(void)
{
	pthread_t thread;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(pthread_create(&thread, NULL, make_vm_without_threads, NULL));
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_OK(ioctl(vm.kvm, KVM_CREATE_VM, 0));
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {TEST(recovered), TEST(kept), TEST(no_thread)};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
