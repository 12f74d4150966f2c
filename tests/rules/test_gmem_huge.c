/* guest_memfd of 2 MiB and 1 GiB pages, which the parameter quire_gmem_huge_pages switches on for
 * new files. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define PARAMETER "/sys/module/kvm/parameters/quire_gmem_huge_pages"
#define GPA 0x10000000ul
#define GIB 0x40000000ul
#define SLOT 5
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static struct vm vm;
static struct vcpu vcpu;
static int file;

#define NX_PARAMETER "/sys/module/kvm/parameters/nx_huge_pages"
#define FLAG_GPA (GPA + 0x1000000ul)
/* cmpq $0, (rcx); je back to it; outb to AGENT_PORT. */
#define LOOP_CODE 0x80e6fa7400398348ul

static void parameter_write(const char *path, const char *value)
{
	int parameter = open(path, O_WRONLY);

	if (parameter < 0)
		check_skip("no such parameter");
	CHECK_EQ(write(parameter, value, 1), 1);
	close(parameter);
}

static void parameter_set(const char *value)
{
	parameter_write(PARAMETER, value);
}

/* A private slot of two blocks, from the file's second page on when @skew is 1. */
static void open_private(const char *huge, uint64_t skew)
{
	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	parameter_set(huge);
	file = (int)CHECK_OK(vm_gmem(&vm, 2 * HUGE_PAGE + PAGE, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GPA,
			  .memory_size = 2 * HUGE_PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(2 * HUGE_PAGE),
			  .guest_memfd = (uint32_t)file, .guest_memfd_offset = skew * PAGE));
	CHECK_ZERO(vm_set_attributes(&vm, GPA, 2 * HUGE_PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

static uint64_t huge_leaves(void)
{
	return stat_get(vm.fd, "pages_2m");
}

/* Does the statistic come to be @wanted, within 20 s on a machine with other work? */
static void stat_becomes(const char *name, uint64_t wanted)
{
	for (int i = 0; i < 4000 && stat_get(vm.fd, name) != wanted; i++)
		usleep(5000);
	CHECK_EQ(stat_get(vm.fd, name), wanted);
}

/* A guest that executes in a huge page and stays in one KVM_RUN: NX is there when write() returns,
 * also when another process writes. */
static void nx_acts_at_once(void)
{
	struct guest_op op = {.code = GUEST_CALL, .rbx = GPA, .rcx = FLAG_GPA};
	uint8_t *flag = memory_alloc(PAGE);
	struct guest_thread thread;

	open_private("Y", 0);
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .guest_phys_addr = FLAG_GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)flag));
	guest_store(&vcpu, GPA, LOOP_CODE);
	CHECK_EQ(huge_leaves(), 1);
	thread_start(&thread, &vcpu, &op);
	CHECK(!thread_ended_within(&thread, 50));
	CHECK_EQ(huge_leaves(), 1);
	parameter_write(NX_PARAMETER, "Y");
	CHECK_EQ(huge_leaves(), 0);
	stat_becomes("nx_lpage_splits", 1);
	CHECK_ZERO(system("echo N > " NX_PARAMETER));
	CHECK_EQ(stat_get(vm.fd, "nx_lpage_splits"), 0);
	stat_becomes("pages_2m", 1);
	*word_at(flag, 0) = 1;
	CHECK_END(thread_join(&thread), END_DONE);
}

/* Linux's guest_memfd has small pages only, and so has ours unless asked. */
static void off_is_small(void)
{
	open_private("N", 0);
	guest_store(&vcpu, GPA, 1);
	CHECK_EQ(huge_leaves(), 0);
}

static void a_touched_block_is_huge(void)
{
	uint64_t before;

	open_private("Y", 0);
	before = huge_leaves();
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	CHECK_EQ(huge_leaves(), before + 1);
	CHECK_EQ(guest_load(&vcpu, GPA + 511 * PAGE), 0);
	CHECK_EQ(huge_leaves(), before + 1);
	guest_store(&vcpu, GPA + HUGE_PAGE, 2);
	CHECK_EQ(huge_leaves(), before + 2);
}

static void a_punched_block_is_refilled(void)
{
	open_private("Y", 0);
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	guest_store(&vcpu, GPA + 9 * PAGE, 2);
	CHECK_EQ(huge_leaves(), 1);
	CHECK_ZERO(fallocate(file, PUNCH, 5 * PAGE, PAGE));
	CHECK_EQ(huge_leaves(), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 9 * PAGE), 2);
	CHECK_EQ(huge_leaves(), 0);
	/* The hole is filled: the block is whole again. */
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 0);
	CHECK_EQ(huge_leaves(), 1);
	CHECK_EQ(guest_load(&vcpu, GPA + 9 * PAGE), 2);
}

static void a_conversion_splits(void)
{
	open_private("Y", 0);
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	CHECK_ZERO(vm_set_attributes(&vm, GPA + 6 * PAGE, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 1);
	CHECK_EQ(huge_leaves(), 0);
	CHECK_ZERO(vm_set_attributes(&vm, GPA + 6 * PAGE, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	CHECK_EQ(guest_load(&vcpu, GPA + 6 * PAGE), 0);
	CHECK_EQ(huge_leaves(), 1);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 1);
}

static void misaligned_is_small(void)
{
	open_private("Y", 1);
	guest_store(&vcpu, GPA + 5 * PAGE, 1);
	CHECK_EQ(huge_leaves(), 0);
	CHECK_EQ(guest_load(&vcpu, GPA + 5 * PAGE), 1);
}

/* A private slot of 1 GiB at 1 GiB. The client's addresses are never touched. */
static void open_gigantic(void)
{
	uint8_t *reserved;

	/* The first touch of 1 GiB takes 1 GiB. */
	if (memory_available() < 3 * GIB)
		check_skip("too little memory");
	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	if (!vm_cap(&vm, KVM_CAP_GUEST_MEMFD))
		check_skip("no guest_memfd");
	parameter_set("Y");
	reserved =
	    mmap(NULL, 2 * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(reserved != MAP_FAILED);
	reserved += -(uintptr_t)reserved & (GIB - 1);
	file = (int)CHECK_OK(vm_gmem(&vm, GIB + PAGE, 0));
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = GIB,
			  .memory_size = GIB, .userspace_addr = (uintptr_t)reserved,
			  .guest_memfd = (uint32_t)file));
	CHECK_ZERO(vm_set_attributes(&vm, GIB, GIB, KVM_MEMORY_ATTRIBUTE_PRIVATE));
}

static void leaves_are(uint64_t gigantic, uint64_t huge)
{
	CHECK_EQ(stat_get(vm.fd, "pages_1g"), gigantic);
	CHECK_EQ(huge_leaves(), huge);
}

/* One leaf for 1 GiB; what takes a page of it away leaves blocks of 2 MiB; and it comes back. */
static void a_touched_gigabyte_is_one_leaf(void)
{
	uint64_t huge;

	open_gigantic();
	huge = huge_leaves();
	guest_store(&vcpu, GIB + 5 * PAGE, 1);
	leaves_are(1, huge);
	CHECK_EQ(guest_load(&vcpu, GIB + GIB - PAGE), 0);
	guest_store(&vcpu, GIB + GIB - PAGE, 2);
	leaves_are(1, huge);
	CHECK_ZERO(vm_set_attributes(&vm, GIB + 6 * PAGE, PAGE, 0));
	CHECK_EQ(guest_load(&vcpu, GIB + GIB - PAGE), 2);
	leaves_are(0, huge + 1);
	CHECK_ZERO(vm_set_attributes(&vm, GIB + 6 * PAGE, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	CHECK_EQ(guest_load(&vcpu, GIB + 5 * PAGE), 1);
	leaves_are(1, huge);
	CHECK_ZERO(fallocate(file, PUNCH, 5 * PAGE, PAGE));
	CHECK_EQ(guest_load(&vcpu, GIB + GIB - PAGE), 2);
	leaves_are(0, huge + 1);
	/* The hole is filled. */
	CHECK_EQ(guest_load(&vcpu, GIB + 5 * PAGE), 0);
	leaves_are(1, huge);
	CHECK_EQ(guest_load(&vcpu, GIB + GIB - PAGE), 2);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(nx_acts_at_once),
	    TEST(off_is_small),
	    TEST(a_touched_block_is_huge),
	    TEST(a_punched_block_is_refilled),
	    TEST(a_conversion_splits),
	    TEST(misaligned_is_small),
	    TEST(a_touched_gigabyte_is_one_leaf),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
