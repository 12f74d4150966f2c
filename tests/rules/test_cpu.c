/* Instructions whose meaning KVM's settings change: MONITOR and MWAIT; MMX, which CPUID shows. */
#include <stdlib.h>
#include <string.h>

#include "client.h"

#define GPA 0x10000000ul
#define MISC_ENABLE 0x1a0u
#define MISC_ENABLE_MWAIT (1ul << 18)
#define CPUID_MWAIT (1u << 3)
#define CPUID_SSE3 (1u << 0)

#define CODE(name, text)                                                                  \
	asm(".pushsection .rodata\n" #name ": " text "; out %al, $0x80\n" #name "_end:\n" \
	    ".popsection\n");                                                             \
	extern const uint8_t name[], name##_end[]
#define RUN(name) run_code(name, (size_t)(name##_end - name))

CODE(monitor, "xor %ecx, %ecx; xor %edx, %edx; mov %rbx, %rax; monitor");
CODE(mwait, "xor %ecx, %ecx; xor %eax, %eax; mwait");
CODE(mmx, "movq %rbx, %mm3; paddw %mm3, %mm3; movq %mm3, %rax; emms");
CODE(leaf1, "mov $1, %eax; xor %ecx, %ecx; cpuid; mov %ecx, %eax");
/* RBX is the value. */
CODE(write_misc, "mov $0x1a0, %ecx; mov %ebx, %eax; xor %edx, %edx; wrmsr");

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

/* A machine whose leaf 1 shows in ECX also @set and not @clear, and whose exceptions end it. */
static void open_machine(uint64_t quirks, uint32_t set, uint32_t clear)
{
	struct kvm_cpuid2 *cpuid;
	struct kvm_sregs sregs;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (quirks && (vm_cap(&vm, KVM_CAP_DISABLE_QUIRKS2) & (int)quirks) != (int)quirks)
		check_skip("this KVM has not the quirks");
	if (quirks)
		CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_DISABLE_QUIRKS2, quirks));
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	memory = memory_alloc(PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)memory));
	cpuid = supported_cpuid(&vm);
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx = (cpuid->entries[i].ecx | set) & ~clear;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_CPUID2, cpuid));
	free(cpuid);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.idt.limit = 0;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
}

static struct outcome run_code(const uint8_t *code, size_t size)
{
	struct kvm_regs regs;

	memcpy(memory, code, size);
	vcpu_prepare(&vcpu, &(struct guest_op){.code = GUEST_CALL, .rbx = GPA});
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	regs.rip = GPA;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	return vcpu_run(&vcpu);
}

static struct outcome write_misc_enable(uint64_t value)
{
	struct kvm_regs regs;

	memcpy(memory, write_misc, (size_t)(write_misc_end - write_misc));
	vcpu_prepare(&vcpu, &(struct guest_op){.code = GUEST_CALL, .rbx = value});
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	regs.rip = GPA;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	return vcpu_run(&vcpu);
}

/* Without a table of handlers #UD and #GP end the guest. */
static void check_ended(struct outcome outcome)
{
	CHECK_EQ(outcome.end, END_OTHER);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_SHUTDOWN);
}

/* By default both do nothing, whatever CPUID shows. */
static void mwait_is_nop(void)
{
	open_machine(0, 0, CPUID_MWAIT);
	CHECK_END(RUN(monitor), END_DONE);
	CHECK_END(RUN(mwait), END_DONE);
}

static void mwait_hidden(void)
{
	open_machine(KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, 0, CPUID_MWAIT);
	check_ended(RUN(mwait));
}

static void monitor_hidden(void)
{
	open_machine(KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, 0, CPUID_MWAIT);
	check_ended(RUN(monitor));
}

static void mwait_shown(void)
{
	open_machine(KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, CPUID_MWAIT, 0);
	CHECK_END(RUN(monitor), END_DONE);
	CHECK_END(RUN(mwait), END_DONE);
	/* While the quirk stands, MISC_ENABLE does not change what CPUID shows. */
	CHECK_END(write_misc_enable(0x1800), END_DONE);
	CHECK(RUN(leaf1).value & CPUID_MWAIT);
	CHECK_END(RUN(mwait), END_DONE);
}

/* Without its quirk MISC_ENABLE turns the bit of CPUID, and with it the instructions, on and off.
 */
static void misc_enable_decides(void)
{
	open_machine(KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT,
		     CPUID_MWAIT, 0);
	CHECK(!(RUN(leaf1).value & CPUID_MWAIT));
	CHECK_END(write_misc_enable(0x1800 | MISC_ENABLE_MWAIT), END_DONE);
	CHECK(RUN(leaf1).value & CPUID_MWAIT);
	CHECK_END(RUN(mwait), END_DONE);
	CHECK_END(RUN(monitor), END_DONE);
	CHECK_END(write_misc_enable(0x1800), END_DONE);
	CHECK(!(RUN(leaf1).value & CPUID_MWAIT));
	check_ended(RUN(mwait));
}

/* A guest without SSE3 may not turn it. */
static void misc_enable_needs_sse3(void)
{
	open_machine(KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT, 0, CPUID_SSE3);
	check_ended(write_misc_enable(0x1800 | MISC_ENABLE_MWAIT));
}

/* "EMON" is written in vain, what says that there are no counters not at all. */
static void misc_enable_bits(void)
{
	open_machine(0, 0, 0);
	CHECK_END(write_misc_enable(0x1880), END_DONE);
	check_ended(write_misc_enable(0));
}

static void mmx_works(void)
{
	open_machine(0, 0, 0);
	CHECK_EQ(RUN(mmx).value, 2 * GPA);
}

/* ---- PAE's directories ---- */

#define PAE_TABLE 0x800u /* in the page of the code */
#define PDPTE_RESERVED 0x1e6ul

asm(".pushsection .rodata\n.code32\n"
    "pae_code: mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n"
    "mov $1, %eax\n out %al, $0x80\n"
    "mov %cr4, %eax\n xor $0x200, %eax\n mov %eax, %cr4\n" /* OSFXSR: none is read */
    "mov $2, %eax\n out %al, $0x80\n"
    "mov %cr4, %eax\n xor $0x80, %eax\n mov %eax, %cr4\n" /* PGE: all four are */
    "mov $3, %eax\n out %al, $0x80\n"
    "pae_code_end:\n.code64\n.popsection\n");
extern const uint8_t pae_code[], pae_code_end[];

static void open_pae(void)
{
	struct kvm_regs regs = {.rip = GPA, .rflags = 2};
	struct kvm_sregs sregs;
	uint64_t *table;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	memory = memory_alloc(4 * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = 4 * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	memcpy(memory, pae_code, (size_t)(pae_code_end - pae_code));
	table = (uint64_t *)(memory + PAE_TABLE);
	table[0] = (GPA + PAGE) | 1;
	table[3] = PDPTE_RESERVED; /* not present: what else is in it says nothing */
	((uint64_t *)(memory + PAGE))[GPA >> 21] = GPA | 0x83;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.cs.l = 0;
	sregs.cs.db = 1;
	sregs.cr0 = (sregs.cr0 & ~0x80000000ul) | 1;
	sregs.cr4 = 1u << 5;
	sregs.cr3 = GPA + PAE_TABLE;
	sregs.efer = 0;
	sregs.idt.limit = 0;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
}

static void check_reports(uint64_t value)
{
	struct kvm_regs regs;

	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_IO);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	CHECK_EQ(regs.rax, value);
}

static void check_shuts_down(void)
{
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_SHUTDOWN);
}

static void directories_are_read(void)
{
	open_pae();
	check_reports(1);
	/* One that no access of the guest's needs. */
	((uint64_t *)(memory + PAE_TABLE))[3] = PDPTE_RESERVED | 1;
	check_reports(2);
	check_shuts_down();
}

static void directories_at_paging(void)
{
	open_pae();
	((uint64_t *)(memory + PAE_TABLE))[3] = PDPTE_RESERVED | 1;
	check_shuts_down();
	open_pae();
	((uint64_t *)(memory + PAE_TABLE))[2] = UINT64_C(1) << 60 | 1;
	check_shuts_down();
}

/* Where directory 1 leads through the other two pages: to one block of memory, or to another. */
#define HIGH 0x40000000u
#define OTHER_GPA (GPA + 0x200000)
#define WORD 0xff8u

asm(".pushsection .rodata\n.code32\n"
    "pae_load: mov (%ebx), %eax\n out %al, $0x80\n"
    "mov %cr3, %eax\n mov %eax, %cr3\n mov (%ebx), %eax\n out %al, $0x80\n"
    "pae_load_end:\n.code64\n.popsection\n");
extern const uint8_t pae_load[], pae_load_end[];

static void lead_to(uint64_t page)
{
	((uint64_t *)(memory + PAE_TABLE))[1] = (GPA + page * PAGE) | 1;
}

static uint64_t run_load(void)
{
	struct kvm_regs regs = {.rip = GPA, .rflags = 2, .rbx = HIGH + GPA + WORD};

	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_RUN, 0));
	CHECK_EQ(vcpu.run->exit_reason, KVM_EXIT_IO);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	return regs.rax;
}

static void open_loads(void)
{
	uint8_t *other = memory_alloc(PAGE);

	open_pae();
	CHECK_ZERO(REGION(&vm, .slot = 2, .guest_phys_addr = OTHER_GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)other));
	*(uint32_t *)(memory + WORD) = 11;
	*(uint32_t *)(other + WORD) = 22;
	((uint64_t *)(memory + 2 * PAGE))[GPA >> 21] = GPA | 0x83;
	((uint64_t *)(memory + 3 * PAGE))[GPA >> 21] = OTHER_GPA | 0x83;
	lead_to(2);
	/* The code turns paging on, and goes on below once it has. */
	check_reports(1);
	memcpy(memory, pae_load, (size_t)(pae_load_end - pae_load));
}

/* Without a second stage directories are what was loaded last, by the guest or by its client. */
static void directories_are_loaded(void)
{
	struct kvm_sregs2 sregs2;

	open_loads();
	CHECK_EQ(run_load(), 11);
	lead_to(3);
	CHECK(run_load() == 11 || has_second_stage());
	check_reports(22);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS2, &sregs2));
	CHECK_EQ(sregs2.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	CHECK_EQ(sregs2.pdptrs[1], (GPA + 3 * PAGE) | 1);
	sregs2.pdptrs[1] = (GPA + 2 * PAGE) | 1;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS2, &sregs2));
	if (has_second_stage())
		return;
	CHECK_EQ(run_load(), 11);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS2, &sregs2));
	CHECK_EQ(sregs2.pdptrs[1], (GPA + 2 * PAGE) | 1);
	check_reports(22);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(mwait_is_nop),		  TEST(mwait_hidden),
	    TEST(monitor_hidden),	  TEST(mwait_shown),
	    TEST(misc_enable_decides),	  TEST(misc_enable_needs_sse3),
	    TEST(misc_enable_bits),	  TEST(mmx_works),
	    TEST(directories_are_read),	  TEST(directories_at_paging),
	    TEST(directories_are_loaded),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
