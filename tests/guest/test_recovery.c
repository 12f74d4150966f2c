/*
 * Huge pages of a nested guest come back when logging stops: L1 maps 1 GiB by one leaf, of which
 * the host has pieces of 2 MiB and small pages.
 */
#include <string.h>
#include <sys/mman.h>

#include "nest.h"

#define GIB 0x40000000ul
#define SLOT 5u
#define ENTRY_OPEN 0x67ul /* P W U A D */
#define ENTRY_PS 0x80ul
#define EXIT_VMMCALL (VMCB_EXIT_INTR + INTERCEPT_VMMCALL)
/*
 * L1's pages: tables of either stage, which map the first 2 GiB to themselves, and L2's code. A
 * walk through L2's is a write to them, so they are none of those that are followed.
 */
#define NESTED_TABLES NEST_FREE
#define L2_TABLES (NEST_FREE + 2 * PAGE)
#define CODE (NEST_FREE + 4 * PAGE)

/* Blocks of 2 MiB of the GiB that the host has as one page each, and one of small pages. */
static const uint64_t large[] = {0, 7, 511};
#define LARGE (sizeof(large) / sizeof(large[0]))
#define SMALL 9ul

static struct vm vm;
static struct nest nest;
static uint8_t *data;

static void set_flags(uint32_t flags)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = flags, .guest_phys_addr = GIB,
			  .memory_size = GIB, .userspace_addr = (uintptr_t)data));
}

/* A GiB of address space, aligned to it. */
static void reserve(void)
{
	data = mmap(NULL, 2 * GIB, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(data != MAP_FAILED);
	data += -(uintptr_t)data & (GIB - 1);
	for (size_t i = 0; i < LARGE; i++) {
		if (madvise(data + large[i] * HUGE_PAGE, HUGE_PAGE, MADV_HUGEPAGE))
			check_skip("no huge pages");
		data[large[i] * HUGE_PAGE] = 1;
	}
	CHECK_ZERO(madvise(data + SMALL * HUGE_PAGE, HUGE_PAGE, MADV_NOHUGEPAGE));
	memset(data + SMALL * HUGE_PAGE, 1, HUGE_PAGE);
}

/* L2 loads or stores a word of block @block. */
static void l2_do(enum l2_code code, uint64_t block)
{
	nest_reset(&nest, nest.gpa + CODE + l2_entry(code));
	nest.vmcb->control.misc = VMCB_NESTED_PAGING;
	nest.vmcb->control.nested_cr3 = nest.gpa + NESTED_TABLES;
	nest.vmcb->save.cr3 = nest.gpa + L2_TABLES;
	nest.box->vmcb = nest.gpa + NEST_VMCB;
	nest.box->rbx = GIB + block * HUGE_PAGE + 5 * PAGE;
	nest.box->rdx = block + 1;
	CHECK_EQ(nest_turn(&nest), NEST_DONE);
	CHECK_EQ(nest.vmcb->control.exit_code, EXIT_VMMCALL);
	CHECK_EQ(nest.box->rdx, block + 1);
}

static void store_everywhere(void)
{
	for (size_t i = 0; i < LARGE; i++)
		l2_do(L2_STORE, large[i]);
	l2_do(L2_STORE, SMALL);
}

static void make_tables(uint64_t at)
{
	word_at(nest.memory, at)[0] = (nest.gpa + at + PAGE) | ENTRY_OPEN;
	word_at(nest.memory, at + PAGE)[0] = ENTRY_OPEN | ENTRY_PS;
	word_at(nest.memory, at + PAGE)[1] = GIB | ENTRY_OPEN | ENTRY_PS;
}

static void open_machine(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&vm);
	nest_open(&nest, &vm, 0);
	reserve();
	set_flags(0);
	l2_copy(nest.memory + CODE);
	make_tables(NESTED_TABLES);
	make_tables(L2_TABLES);
	store_everywhere();
	if (stat_get(vm.fd, "pages_2m") != LARGE)
		check_skip("no huge pages");
}

/* What can be larger goes when logging stops, and comes back large; what cannot stays. */
static void pieces_of_a_gigabyte(void)
{
	int is_eager = parameter_is_on("kvm", "eager_page_split");
	uint64_t faults;

	open_machine();
	set_flags(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), is_eager ? 0 : LARGE);
	l2_do(L2_STORE, large[1]);
	l2_do(L2_STORE, SMALL);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), is_eager ? 0 : LARGE - 1);
	set_flags(0);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), is_eager ? 0 : LARGE - 1);
	faults = stat_get(nest.vcpu.fd, "pf_taken");
	l2_do(L2_STORE, SMALL);
	if (!is_eager)
		l2_do(L2_LOAD, large[2]);
	CHECK_EQ(stat_get(nest.vcpu.fd, "pf_taken"), faults);
	store_everywhere();
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), LARGE);
	for (size_t i = 0; i < LARGE; i++)
		l2_do(L2_LOAD, large[i]);
	l2_do(L2_LOAD, SMALL);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(pieces_of_a_gigabyte),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
