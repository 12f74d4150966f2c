/*
 * Hypervisors in each way of paging: the nested tables that VMRUN takes have the format of L1's
 * own. L1 is one VMRUN, L2 a load or a store without paging, and the client writes all tables.
 */
#include <string.h>

#include "tests/rules/client.h"
#include "vcpu/svm/vmcb.h"

#define GPA 0x10000000ul
#define SLOT 3
#define PAGES 32
#define AT(page) (GPA + (uint64_t)(page)*PAGE)

/* Pages of L1's memory. */
enum page {
	P_L1_CODE,
	P_L2_CODE,
	P_VMCB,
	P_SAVE_AREA,
	P_IOPM,	       /* three pages */
	P_OWN = 8,     /* L1's tables, from the root on */
	P_NESTED = 16, /* those for L2 */
	P_DATA = 28,
	P_OTHER,
};

/* L2's physical addresses; its last gigabyte is in another of PAE's directories. */
#define L2_CODE 0x1000ul
#define L2_DATA 0xc0005000ul

#define P 1ul
#define W 2ul
#define U 4ul
#define A 0x20ul
#define D 0x40ul
#define PS 0x80ul
#define OPEN (P | W | U)

#define CR0_PE 1ul
#define CR0_PG (1ul << 31)
#define CR4_PSE (1ul << 4)
#define CR4_PAE (1ul << 5)
#define CR4_LA57 (1ul << 12)
#define EFER_LME (1ul << 8)
#define EFER_LMA (1ul << 10)
#define EFER_SVME (1ul << 12)

#define EXIT_VMMCALL (VMCB_EXIT_INTR + INTERCEPT_VMMCALL)
#define ERROR_FINAL (1ul << 32)

static const uint8_t l1_code[] = {0x0f, 0x01, 0xd8, 0xe6, 0x80}; /* vmrun; out %al, $0x80 */
/* mov ADDRESS, %eax, or the other way; vmmcall */
#define L2_LOAD 0xa1
#define L2_STORE 0xa3
static const uint8_t l2_code[] = {0, 0, 0, 0, 0, 0x0f, 0x01, 0xd9};

struct way {
	unsigned int levels, entry_bytes;
	uint64_t cr4, efer;
};

static const struct way ways[] = {
    {2, 4, CR4_PSE, 0},
    {3, 8, CR4_PAE, 0},
    {4, 8, CR4_PAE, EFER_LME | EFER_LMA},
    {5, 8, CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA},
};

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static const struct way *way;

static uint64_t span_bits(unsigned int level)
{
	return 12 + (way->entry_bytes == 4 ? 10 : 9) * (level - 1);
}

static void *entry_in(unsigned int table, unsigned int level, uint64_t address)
{
	uint64_t count = PAGE / way->entry_bytes, index = address >> span_bits(level);

	return memory + table * PAGE + index % count * way->entry_bytes;
}

/*
 * @address leads to @target, through tables from page @root on: one a level, and others below level
 * 3 for addresses above the first gigabyte. Returns the leaf.
 */
static void *lead(unsigned int root, uint64_t address, unsigned int leaf, uint64_t target)
{
	unsigned int table = root;

	for (unsigned int level = way->levels;; level--) {
		void *entry = entry_in(table, level, address);
		int is_directory = way->levels == 3 && level == 3;
		uint64_t value = target;

		if (level > leaf) {
			table = root + way->levels - (level - 1);
			table += level <= 3 && address >> 30 ? 4 : 0;
			value = AT(table) | (is_directory ? P : OPEN);
		}
		memcpy(entry, &value, way->entry_bytes);
		if (level == leaf)
			return entry;
	}
}

static struct vmcb_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vmcb_segment){
	    .selector = selector, .attributes = attributes, .limit = UINT32_MAX};
}

static struct vmcb *vmcb(void)
{
	return (struct vmcb *)(void *)(memory + P_VMCB * PAGE);
}

static void set_vmcb(void)
{
	struct vmcb *v = vmcb();

	memset(v, 0, sizeof(*v));
	v->control.intercept =
	    1ul << INTERCEPT_VMRUN | 1ul << INTERCEPT_VMMCALL | 1ul << INTERCEPT_SHUTDOWN;
	v->control.asid = 1;
	v->control.tlb_control = 1;
	v->control.iopm_gpa = v->control.msrpm_gpa = AT(P_IOPM);
	v->control.misc = VMCB_NESTED_PAGING;
	v->control.nested_cr3 = AT(P_NESTED);
	v->save.cs = flat(8, 0xc9b);
	v->save.ss = v->save.ds = v->save.es = flat(16, 0xc93);
	v->save.efer = EFER_SVME;
	v->save.cr0 = CR0_PE | 1u << 4;
	v->save.dr6 = 0xffff0ff0;
	v->save.dr7 = 0x400;
	v->save.rflags = 2;
	v->save.rip = L2_CODE;
	v->save.rax = 77;
}

static void set_l1(void)
{
	struct kvm_sregs sregs;

	CHECK_OK(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.cr0 |= CR0_PE | CR0_PG;
	sregs.cr3 = AT(P_OWN);
	sregs.cr4 = way->cr4;
	sregs.efer = way->efer | EFER_SVME;
	sregs.cs.l = (way->efer & EFER_LMA) != 0;
	sregs.cs.db = !sregs.cs.l;
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	vcpu_set_host_save_area(vcpu.fd);
}

static void open_way(const struct way *chosen)
{
	way = chosen;
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_NESTED_STATE))
		check_skip("this KVM has no nested guests");
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	memory = memory_alloc(PAGES * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	memcpy(memory, l1_code, sizeof(l1_code));
	memset(memory + P_IOPM * PAGE, 0xff, 3 * PAGE);
	*(uint32_t *)(void *)(memory + P_DATA * PAGE) = 33;
	*(uint32_t *)(void *)(memory + P_OTHER * PAGE) = 44;
	(void)lead(P_OWN, GPA, 2, (GPA & ~((1ul << span_bits(2)) - 1)) | OPEN | PS);
	(void)lead(P_NESTED, L2_CODE, 1, AT(P_L2_CODE) | OPEN);
	set_l1();
}

/* L1 runs L2, whose code and VMCB are set, and which ends with @exit. */
static void run_l1(uint64_t exit)
{
	struct kvm_regs regs = {.rip = GPA, .rflags = 2, .rax = AT(P_VMCB)};

	CHECK_OK(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	CHECK_OK(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_IO);
	CHECK_EQ(vmcb()->control.exit_code, exit);
}

/* L2 loads from or stores to @address and ends with @exit. */
static void run_l2(uint8_t opcode, uint64_t address, uint64_t exit)
{
	uint8_t *code = memory + P_L2_CODE * PAGE;

	memcpy(code, l2_code, sizeof(l2_code));
	code[0] = opcode;
	memcpy(code + 1, &address, 4);
	set_vmcb();
	run_l1(exit);
}

static uint64_t read_leaf(const void *leaf)
{
	uint64_t entry = 0;

	memcpy(&entry, leaf, way->entry_bytes);
	return entry;
}

static void check_refused(uint8_t opcode, uint64_t address, uint64_t error)
{
	run_l2(opcode, address, VMCB_EXIT_NPF);
	CHECK_EQ(vmcb()->control.exit_info1, ERROR_FINAL | U | error);
	CHECK_EQ(vmcb()->control.exit_info2, address);
}

static void try_way(const struct way *chosen)
{
	uint64_t read_only = L2_DATA + PAGE;
	void *leaf;

	open_way(chosen);
	check_refused(L2_LOAD, L2_DATA, 0);
	check_refused(L2_STORE, L2_DATA, W);
	leaf = lead(P_NESTED, L2_DATA, 1, AT(P_DATA) | OPEN);
	(void)lead(P_NESTED, read_only, 1, AT(P_OTHER) | P | U);
	run_l2(L2_LOAD, L2_DATA, EXIT_VMMCALL);
	CHECK_EQ((uint32_t)vmcb()->save.rax, 33);
	CHECK_EQ(read_leaf(leaf), AT(P_DATA) | OPEN | A);
	run_l2(L2_STORE, L2_DATA, EXIT_VMMCALL);
	CHECK_EQ(*(uint32_t *)(void *)(memory + P_DATA * PAGE), 77);
	CHECK_EQ(read_leaf(leaf), AT(P_DATA) | OPEN | A | D);
	run_l2(L2_LOAD, read_only, EXIT_VMMCALL);
	CHECK_EQ((uint32_t)vmcb()->save.rax, 44);
	check_refused(L2_STORE, read_only, P | W);
}

static void tables_of_32_bits(void)
{
	try_way(&ways[0]);
}

static void tables_of_pae(void)
{
	try_way(&ways[1]);
}

static void tables_of_4_levels(void)
{
	try_way(&ways[2]);
}

static void tables_of_5_levels(void)
{
	try_way(&ways[3]);
}

/* The upper half of L2's TSC, as L2 reads it by RDMSR. */
static uint32_t tsc_of_l2(uint64_t offset)
{
	/* mov $0x10, %ecx; rdmsr; vmmcall */
	static const uint8_t code[] = {0xb9, 0x10, 0, 0, 0, 0x0f, 0x32, 0x0f, 0x01, 0xd9};
	struct kvm_regs regs;

	memcpy(memory + P_L2_CODE * PAGE, code, sizeof(code));
	set_vmcb();
	vmcb()->control.tsc_offset = offset;
	run_l1(EXIT_VMMCALL);
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	return (uint32_t)regs.rdx;
}

/* A filter of MSRs, whichever they are, changes nothing of that. */
static void l2_reads_its_own_tsc(void)
{
	static uint8_t denied;
	struct kvm_msr_filter filter = {
	    .ranges[0] = {
		.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = 0x35, .bitmap = &denied}};

	open_way(&ways[2]);
	CHECK_EQ(tsc_of_l2(0x5555ul << 48) >> 16, 0x5555);
	CHECK_ZERO(ioctl(vm.fd, KVM_X86_SET_MSR_FILTER, &filter));
	CHECK_EQ(tsc_of_l2(0x5555ul << 48) >> 16, 0x5555);
	CHECK_EQ(tsc_of_l2(0) >> 16, 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(tables_of_32_bits),  TEST(tables_of_pae),	  TEST(tables_of_4_levels),
	    TEST(tables_of_5_levels), TEST(l2_reads_its_own_tsc),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
