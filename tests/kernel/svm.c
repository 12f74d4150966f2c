/* AMD's way to run guests (SVM) on nested page tables. */
#include "tests/kernel/guest.h"
#include "tests/kernel/machine.h"

#define MSR_EFER 0xc0000080u
#define EFER_SVME (UINT64_C(1) << 12)
#define MSR_HSAVE 0xc0010117u
#define MSR_PAT 0x277u

#define INTERCEPT_HLT (1u << 24)
#define INTERCEPT_SHUTDOWN (1u << 31)
#define INTERCEPT_VMRUN (1u << 0)
#define EXIT_HLT 0x78u
#define EXIT_NPF 0x400u

struct segment {
	uint16_t selector, attributes;
	uint32_t limit;
	uint64_t base;
};

/* The control block (AMD's manual, volume 2, appendix B); what is not named stays zero. */
struct vmcb {
	uint32_t intercept_registers, intercept_debug, intercept_exceptions;
	uint32_t intercepts[2];
	uint8_t gap_0x14[0x58 - 0x14];
	uint32_t asid;
	uint32_t tlb_control;
	uint8_t gap_0x60[0x70 - 0x60];
	uint64_t exit_code, exit_info[2];
	uint8_t gap_0x88[0x90 - 0x88];
	uint64_t nested_control;
	uint8_t gap_0x98[0xb0 - 0x98];
	uint64_t nested_root;
	uint8_t gap_0xb8[0x400 - 0xb8];
	struct segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	uint8_t gap_0x4a0[0x4d0 - 0x4a0];
	uint64_t efer;
	uint8_t gap_0x4d8[0x548 - 0x4d8];
	uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
	uint8_t gap_0x580[0x5f8 - 0x580];
	uint64_t rax;
	uint8_t gap_0x600[0x668 - 0x600];
	uint64_t pat;
	uint8_t gap_0x670[0x1000 - 0x670];
};
_Static_assert(offsetof(struct vmcb, nested_root) == 0xb0, "the processor's layout");
_Static_assert(offsetof(struct vmcb, efer) == 0x4d0, "the processor's layout");
_Static_assert(offsetof(struct vmcb, rip) == 0x578, "the processor's layout");
_Static_assert(sizeof(struct vmcb) == 4096, "a page");

static struct vmcb *vmcb;

static int svm_start(void)
{
	const struct segment data = {8, 0xc93, 0xffffffff, 0};
	uint32_t registers[4];

	guest_cpuid(0x80000001, registers);
	if (!(registers[2] & 1u << 2))
		return 0;
	guest_cpuid(0x8000000a, registers);
	if (!(registers[3] & 1u))
		return 0;
	machine_write_msr(MSR_EFER, machine_read_msr(MSR_EFER) | EFER_SVME);
	machine_write_msr(MSR_HSAVE, physical_of(zeroed(4096, 4096)));
	vmcb = zeroed(4096, 4096);
	vmcb->intercept_exceptions = ~0u;
	vmcb->intercepts[0] = INTERCEPT_HLT | INTERCEPT_SHUTDOWN;
	vmcb->intercepts[1] = INTERCEPT_VMRUN;
	vmcb->asid = 1;
	vmcb->tlb_control = 1; /* all translations go at each entry */
	vmcb->nested_control = 1;
	vmcb->es = vmcb->ss = vmcb->ds = vmcb->fs = vmcb->gs = data;
	vmcb->cs = (struct segment){16, 0xc9b, 0xffffffff, 0};
	/* Protected mode and paging, with pages of 4 MiB: QEMU 8.2.2 walks no nested tables for a
	 * guest without paging. */
	vmcb->cr0 = 0x80000011;
	vmcb->cr3 = GUEST_DIRECTORY_GPA;
	vmcb->cr4 = 0x10;
	vmcb->dr7 = 0x400;
	vmcb->dr6 = 0xffff0ff0;
	vmcb->pat = machine_read_msr(MSR_PAT);
	return 1;
}

static void run_guest(uint64_t rbx)
{
	__asm__ volatile("vmrun %%rax"
			 : "+b"(rbx)
			 : "a"(physical_of(vmcb))
			 : "memory", "cc", "rcx", "rdx", "rsi", "rdi", "r8", "r9");
}

static struct guest_result svm_access(const struct guest_access *access)
{
	struct guest_result result = {.outcome = GUEST_BROKEN};

	vmcb->nested_root = access->root_physical;
	vmcb->efer = EFER_SVME;
	vmcb->rflags = 2;
	vmcb->rax = access->access & QUIRE_PFERR_WRITE ? access->value : 0;
	vmcb->rip = guest_rip(access);
	run_guest(access->gpa);
	result.value = (uint32_t)vmcb->rax;
	result.error_code = vmcb->exit_code;
	if (vmcb->exit_code == EXIT_HLT) {
		result.outcome = GUEST_DONE;
	} else if (vmcb->exit_code == EXIT_NPF) {
		result.outcome = GUEST_FAULT;
		result.error_code = vmcb->exit_info[0];
		result.gpa = vmcb->exit_info[1];
		/* QEMU leaves out PRESENT with RSVD; a processor has both. */
		if (result.error_code & QUIRE_PFERR_RSVD)
			result.error_code |= QUIRE_PFERR_PRESENT;
	}
	return result;
}

const struct guest_walker walker_svm = {"npt", QUIRE_FORMAT_NPT, svm_start, svm_access, 1, 1};
