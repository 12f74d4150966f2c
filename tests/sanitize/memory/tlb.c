/*
 * A small VMM whose guest uses an address, has the tables changed, and uses it again. The first
 * argument says how: by which a translation goes stale, or does not.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vcpu/svm/vmcb.h"

#define SLOT_BYTES (4ul << 20)
#define PAGE 4096ul
#define TABLES 0x2000ul /* one page a level, and behind them another lowest table */
#define DIRECTORY (TABLES + 2 * PAGE)
#define LOWEST (TABLES + 3 * PAGE)
#define OTHER_LOWEST (TABLES + 4 * PAGE)
#define CODE 0x10000ul
#define HYPERVISOR (CODE + 2 * PAGE) /* L1's code, where the guest is L2 */
#define IDLE_CODE (CODE + 3 * PAGE)
#define DATA 0x20000ul
#define VMCB 0x30000ul
#define HOST_SAVE 0x31000ul
#define MAPS 0x32000ul		/* of ports and MSRs, three pages of zeros */
#define NESTED_TABLES 0x38000ul /* one page a level, and behind them another lowest table */
#define NESTED_DIRECTORY (NESTED_TABLES + 2 * PAGE)
#define NESTED_LOWEST (NESTED_TABLES + 3 * PAGE)
#define OTHER_NESTED_LOWEST (NESTED_TABLES + 4 * PAGE)
#define L1_TABLES 0x40000ul /* of L1 alone, where it is to have its own */
#define PRESENT 1ul
#define WRITABLE 2ul
#define LARGE 0x80ul
#define GLOBAL 0x100ul
#define NESTED (PRESENT | WRITABLE | 4ul) /* L2's accesses are a user's */

/* What RCX tells the guest. */
enum guest_flags {
	FLUSH = 1,
	WRITE_LAST = 2,
	CLIENT_EDITS = 4,
	WRITE_FIRST = 8,
	CR3_FLUSH = 16,
	NEXT_PAGE = 32, /* the last use is of the page behind, not used before */
	CR3_KEEP = 64,	/* CR3 is written, and keeps the translations of its PCID */
	L1_EDITS = 128, /* L1 does what L2 would do alone, and enters it again */
	/* Not the guest's. */
	OTHER_EDITS = 0x100, /* where the client would, another vCPU does */
	LATER = 0x200,	     /* and a while passes, in which the guest does other things */
	/* L1's. */
	L1_FLUSHES = 0x400,
	L1_TAKES_ASID = 0x800, /* another one for L2 */
	L1_INVLPGA = 0x1000,
	L1_READS = 0x2000, /* in the end, by its own tables */
	/* The client's. */
	RESTORES = 0x4000, /* where L2's OUT led to it, it leaves L2 and puts L2 back */
	STOPS = 0x8000,	   /* the while of LATER it stops the guest */
};

extern const char guest_code[], guest_code_end[], idle_code[], idle_code_end[];
__asm__(".pushsection .rodata\n"
	"guest_code:\n"
	"	mov (%rdx), %rax\n"
	"	test $8, %cl\n"
	"	jz 1f\n"
	"	mov %rax, (%rdx)\n"
	"1:	test $128, %cl\n"
	"	jz 9f\n"
	"	hlt\n"
	"	jmp 3f\n"
	"9:	test $4, %cl\n"
	"	jz 2f\n"
	"	out %al, $0x80\n"
	"	jmp 3f\n"
	"2:	mov %rsi, (%rdi)\n"
	"3:	test $1, %cl\n"
	"	jz 4f\n"
	"	invlpg (%rdx)\n"
	"4:	test $80, %cl\n"
	"	jz 5f\n"
	"	mov %cr3, %rbx\n"
	"	test $64, %cl\n"
	"	jz 8f\n"
	"	bts $63, %rbx\n"
	"8:	mov %rbx, %cr3\n"
	"5:	test $32, %cl\n"
	"	jz 6f\n"
	"	add $4096, %rdx\n"
	"6:	test $2, %cl\n"
	"	jz 7f\n"
	"	mov %rax, (%rdx)\n"
	"	hlt\n"
	"7:	mov (%rdx), %rbx\n"
	"	hlt\n"
	"guest_code_end:\n"
	/* For some ten milliseconds the guest does nothing. */
	"idle_code:\n"
	"	mov $500000, %ebx\n"
	"1:	dec %ebx\n"
	"	jnz 1b\n"
	"	out %al, $0x80\n"
	"	hlt\n"
	"idle_code_end:\n"
	".popsection\n");

/* L1: the VMCB is at 0x30000, its ASID 0x58 behind that, TLB_CONTROL 0x5c, and L2's RIP 0x578. */
extern const char hypervisor_code[], hypervisor_code_end[];
__asm__(".pushsection .rodata\n"
	"hypervisor_code:\n"
	"	mov $0x30000, %eax\n"
	"	.byte 0x0f, 0x01, 0xd8\n" /* vmrun */
	"	btr $7, %ecx\n"
	"	jnc 2f\n"
	"	mov %rsi, (%rdi)\n"
	"	bt $10, %ecx\n"
	"	jnc 1f\n"
	"	movb $1, 0x3005c\n"
	"1:	bt $11, %ecx\n"
	"	jnc 3f\n"
	"	incl 0x30058\n"
	"3:	bt $12, %ecx\n"
	"	jnc 4f\n"
	"	mov %ecx, %r8d\n"
	"	mov %rdx, %rax\n"
	"	mov 0x30058, %ecx\n"
	"	.byte 0x0f, 0x01, 0xdf\n" /* invlpga */
	"	mov %r8d, %ecx\n"
	"4:	incq 0x30578\n"
	"	jmp hypervisor_code\n"
	"2:	bt $13, %ecx\n"
	"	jnc 5f\n"
	"	mov 0x43100, %rbx\n" /* of L1_TABLES: a store that changes nothing */
	"	mov %rbx, 0x43100\n"
	"	mov (%rdx), %rbx\n"
	"5:	hlt\n"
	"hypervisor_code_end:\n"
	".popsection\n");

struct scenario {
	const char *name;
	uint64_t entry;	 /* which is changed */
	uint64_t before; /* 0: the table's own */
	uint64_t after;
	uint64_t linear;
	uint64_t flags;
};

#define LEAF_OF(linear) (LOWEST + (linear) / PAGE * 8)
#define DATA_AT (DATA | PRESENT)
#define ELSEWHERE ((DATA + PAGE) | PRESENT | WRITABLE)
#define HIGH 0x200000ul /* by the second entry of the directory */
#define NESTED_LEAF_OF(gpa) (NESTED_LOWEST + (gpa) / PAGE * 8)
#define NESTED_ELSEWHERE ((DATA + PAGE) | NESTED)
#define NESTED_DATA_AT (DATA | (NESTED & ~WRITABLE))

static const struct scenario scenarios[] = {
    /* Faulty. */
    {"moved", LEAF_OF(DATA), 0, ELSEWHERE, DATA, 0},
    {"gone", LEAF_OF(DATA), 0, 0, DATA, 0},
    {"protected", LEAF_OF(DATA), 0, DATA_AT, DATA, WRITE_FIRST | WRITE_LAST},
    {"global", LEAF_OF(DATA), DATA_AT | WRITABLE | GLOBAL, ELSEWHERE, DATA, CR3_FLUSH},
    {"large", DIRECTORY + 8, LARGE | PRESENT | WRITABLE, HIGH | LARGE | PRESENT | WRITABLE,
     HIGH + DATA, 0},
    {"table", DIRECTORY + 8, 0, LOWEST | PRESENT | WRITABLE, HIGH, NEXT_PAGE},
    {"client", LEAF_OF(DATA), 0, ELSEWHERE, DATA, CLIENT_EDITS},
    {"kept", LEAF_OF(DATA), 0, ELSEWHERE, DATA, CR3_KEEP},
    {"other-late", LEAF_OF(DATA), 0, ELSEWHERE, DATA, CLIENT_EDITS | OTHER_EDITS | LATER},
    {"hypervisor", LEAF_OF(DATA), 0, ELSEWHERE, DATA, L1_EDITS},
    {"npt-moved", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA, L1_EDITS},
    {"npt-gone", NESTED_LEAF_OF(DATA), 0, 0, DATA, L1_EDITS},
    {"npt-protected", NESTED_LEAF_OF(DATA), 0, NESTED_DATA_AT, DATA,
     L1_EDITS | WRITE_FIRST | WRITE_LAST},
    {"npt-table", NESTED_DIRECTORY, 0, OTHER_NESTED_LOWEST | NESTED, DATA, L1_EDITS | NEXT_PAGE},
    {"npt-of-table", NESTED_LEAF_OF(LOWEST), 0, OTHER_LOWEST | NESTED, DATA, L1_EDITS},
    {"npt-l2-flushed", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA, L1_EDITS | FLUSH},
    {"npt-client", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA, CLIENT_EDITS},
    {"npt-other-late", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA,
     CLIENT_EDITS | OTHER_EDITS | LATER},
    /* Mended. */
    {"hypervisor-flushed", LEAF_OF(DATA), 0, ELSEWHERE, DATA, L1_EDITS | L1_FLUSHES},
    {"hypervisor-l2-flushed", LEAF_OF(DATA), 0, ELSEWHERE, DATA, L1_EDITS | FLUSH},
    {"npt-flushed", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA, L1_EDITS | L1_FLUSHES},
    {"npt-asid", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA, L1_EDITS | L1_TAKES_ASID},
    {"npt-invlpga", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA, L1_EDITS | L1_INVLPGA},
    {"npt-gone-flushed", NESTED_LEAF_OF(DATA), 0, 0, DATA, L1_EDITS | L1_FLUSHES},
    {"npt-protected-flushed", NESTED_LEAF_OF(DATA), 0, NESTED_DATA_AT, DATA,
     L1_EDITS | L1_FLUSHES | WRITE_FIRST | WRITE_LAST},
    {"npt-table-flushed", NESTED_DIRECTORY, 0, OTHER_NESTED_LOWEST | NESTED, DATA,
     L1_EDITS | L1_FLUSHES | NEXT_PAGE},
    {"moved-flushed", LEAF_OF(DATA), 0, ELSEWHERE, DATA, FLUSH},
    {"gone-flushed", LEAF_OF(DATA), 0, 0, DATA, FLUSH},
    {"protected-flushed", LEAF_OF(DATA), 0, DATA_AT, DATA, WRITE_FIRST | WRITE_LAST | FLUSH},
    {"global-flushed", LEAF_OF(DATA), DATA_AT | WRITABLE | GLOBAL, ELSEWHERE, DATA, FLUSH},
    {"large-flushed", DIRECTORY + 8, LARGE | PRESENT | WRITABLE, HIGH | LARGE | PRESENT | WRITABLE,
     HIGH + DATA, FLUSH},
    {"table-flushed", DIRECTORY + 8, 0, LOWEST | PRESENT | WRITABLE, HIGH, NEXT_PAGE | CR3_FLUSH},
    {"client-flushed", LEAF_OF(DATA), 0, ELSEWHERE, DATA, CLIENT_EDITS | FLUSH},
    {"kept-flushed", LEAF_OF(DATA), 0, ELSEWHERE, DATA, CR3_FLUSH},
    /* The flush may be on its way. */
    {"other-soon", LEAF_OF(DATA), 0, ELSEWHERE, DATA, CLIENT_EDITS | OTHER_EDITS},
    {"other-stopped", LEAF_OF(DATA), 0, ELSEWHERE, DATA,
     CLIENT_EDITS | OTHER_EDITS | LATER | STOPS},
    {"npt-other-stopped", NESTED_LEAF_OF(DATA), 0, NESTED_ELSEWHERE, DATA,
     CLIENT_EDITS | OTHER_EDITS | LATER | STOPS},
    /* Right as they are: more rights, a clean page, an entry that was absent. */
    {"grown", LEAF_OF(DATA), DATA_AT, DATA_AT | WRITABLE, DATA, WRITE_LAST},
    {"clean", LEAF_OF(DATA), 0, DATA_AT, DATA, WRITE_LAST},
    {"npt-clean", NESTED_LEAF_OF(DATA), 0, NESTED_DATA_AT, DATA, L1_EDITS | WRITE_LAST},
    {"npt-same", NESTED_LEAF_OF(DATA), 0, DATA | NESTED | GLOBAL, DATA, L1_EDITS},
    /* L1 has the address elsewhere: what L2 held is not L1's. */
    {"restored", LEAF_OF(DATA), 0, DATA_AT | WRITABLE, DATA, CLIENT_EDITS | RESTORES | L1_READS},
    {"same", LEAF_OF(DATA), 0, DATA_AT | WRITABLE | GLOBAL, DATA, 0},
};

static int make(int fd, unsigned long command, unsigned long argument)
{
	int result = ioctl(fd, command, argument);

	if (result < 0)
		err(1, "ioctl %#lx", command);
	return result;
}

static uint64_t *word(uint8_t *memory, uint64_t gpa)
{
	return (uint64_t *)(memory + gpa);
}

/* The lowest 2 MiB are mapped as they are, and once more behind them. */
static void make_tables(uint8_t *memory)
{
	uint64_t rights = PRESENT | WRITABLE;

	*word(memory, TABLES) = (TABLES + PAGE) | rights;
	*word(memory, TABLES + PAGE) = DIRECTORY | rights;
	*word(memory, DIRECTORY) = LOWEST | rights;
	*word(memory, DIRECTORY + 8) = OTHER_LOWEST | rights;
	for (uint64_t i = 0; i < 512; i++) {
		*word(memory, LOWEST + i * 8) = i * PAGE | rights;
		*word(memory, OTHER_LOWEST + i * 8) = i * PAGE | rights;
	}
}

/* All that KVM has, PCIDs among it where there is a second stage. */
static int has_pcid, has_nested_paging;

static void set_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));

	if (!cpuid)
		err(1, "CPUID");
	cpuid->nent = 256;
	make(kvm, KVM_GET_SUPPORTED_CPUID, (unsigned long)cpuid);
	for (unsigned int i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == 1)
			has_pcid = cpuid->entries[i].ecx >> 17 & 1;
		if (cpuid->entries[i].function == 0x8000000a)
			has_nested_paging = cpuid->entries[i].edx & 1;
	}
	make(vcpu, KVM_SET_CPUID2, (unsigned long)cpuid);
	free(cpuid);
}

static void set_registers(int vcpu, const struct scenario *scenario)
{
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rdi = scenario->entry};
	struct kvm_segment flat = {.present = 1, .s = 1, .type = 3, .limit = ~0u, .g = 1, .db = 1};
	struct kvm_sregs sregs;

	make(vcpu, KVM_GET_SREGS, (unsigned long)&sregs);
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat;
	sregs.cs = flat;
	sregs.cs.type = 11;
	sregs.cs.l = 1;
	sregs.cs.db = 0;
	sregs.cr0 = 0x80050033;
	sregs.cr3 = TABLES;
	sregs.cr4 = has_pcid ? 0x200a0 : 0xa0; /* PAE, PGE, PCIDE */
	sregs.efer = 0x500;
	make(vcpu, KVM_SET_SREGS, (unsigned long)&sregs);
	regs.rsi = scenario->after;
	regs.rdx = scenario->linear;
	regs.rcx = scenario->flags;
	make(vcpu, KVM_SET_REGS, (unsigned long)&regs);
}

static struct machine {
	int kvm, vm;
	uint8_t *memory;
	size_t run_bytes;
} machine;

static int vcpu_open(unsigned long id, struct kvm_run **run)
{
	int vcpu = make(machine.vm, KVM_CREATE_VCPU, id);

	set_cpuid(machine.kvm, vcpu);
	*run = mmap(NULL, machine.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (*run == MAP_FAILED)
		err(1, "the vCPU's page");
	return vcpu;
}

/* vCPU 1 does what the guest of vCPU 0 does alone otherwise, in front of its last use. */
static void edit_by_other(const struct scenario *scenario)
{
	static const uint8_t code[] = {0x48, 0x89, 0x37, 0xf4}; /* mov %rsi, (%rdi); hlt */
	struct kvm_run *run;
	struct kvm_regs regs;
	int vcpu = vcpu_open(1, &run);

	memcpy(machine.memory + CODE + PAGE, code, sizeof(code));
	set_registers(vcpu, scenario);
	make(vcpu, KVM_GET_REGS, (unsigned long)&regs);
	regs.rip = CODE + PAGE;
	make(vcpu, KVM_SET_REGS, (unsigned long)&regs);
	make(vcpu, KVM_SET_MP_STATE, (unsigned long)&(struct kvm_mp_state){KVM_MP_STATE_RUNNABLE});
	make(vcpu, KVM_RUN, 0);
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(1, "exit %u of vCPU 1", run->exit_reason);
}

/* The OUT that led to the client is done before the vCPU's state is looked at. */
static void finish_out(int vcpu, struct kvm_run *shared)
{
	shared->immediate_exit = 1;
	if (!ioctl(vcpu, KVM_RUN, 0))
		errx(1, "KVM_RUN did not stop");
	shared->immediate_exit = 0;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* More than a flush takes passes: the guest is stopped, or runs and does not use the address. */
static void spend_a_while(int vcpu, struct kvm_run *shared, const struct scenario *scenario)
{
	uint64_t end = now_ms() + 1300;
	struct kvm_regs regs, idle;

	if (scenario->flags & STOPS) {
		usleep(1300000);
		return;
	}
	make(vcpu, KVM_GET_REGS, (unsigned long)&regs);
	idle = regs;
	idle.rip = IDLE_CODE;
	while (now_ms() < end) {
		make(vcpu, KVM_SET_REGS, (unsigned long)&idle);
		make(vcpu, KVM_RUN, 0);
		if (shared->exit_reason != KVM_EXIT_IO)
			errx(1, "exit %u of an idle guest", shared->exit_reason);
		finish_out(vcpu, shared);
	}
	make(vcpu, KVM_SET_REGS, (unsigned long)&regs);
}

/* As a client that is restored does, with a vCPU that was not in L2. */
static void restore(int vcpu)
{
	static struct {
		struct kvm_nested_state head;
		uint8_t vmcb[4096];
	} state = {.head.size = sizeof(state)};
	struct kvm_nested_state none = {.size = sizeof(none),
					.format = KVM_STATE_NESTED_FORMAT_SVM};
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	make(vcpu, KVM_GET_NESTED_STATE, (unsigned long)&state);
	make(vcpu, KVM_GET_SREGS, (unsigned long)&sregs);
	make(vcpu, KVM_GET_REGS, (unsigned long)&regs);
	if (!(state.head.flags & KVM_STATE_NESTED_GUEST_MODE))
		errx(1, "not in L2");
	make(vcpu, KVM_SET_NESTED_STATE, (unsigned long)&none);
	make(vcpu, KVM_SET_SREGS, (unsigned long)&sregs);
	make(vcpu, KVM_SET_NESTED_STATE, (unsigned long)&state);
	make(vcpu, KVM_SET_REGS, (unsigned long)&regs);
}

/* The guest's tables are written between two KVM_RUN: by the client's instruction. */
static void edit_tables(int vcpu, const struct scenario *scenario)
{
	if (scenario->flags & RESTORES)
		restore(vcpu);
	else if (scenario->flags & OTHER_EDITS)
		edit_by_other(scenario);
	else
		*word(machine.memory, scenario->entry) = scenario->after;
}

__attribute__((noinline)) static void run_guest(int vcpu, struct kvm_run *shared,
						const struct scenario *scenario)
{
	for (;;) {
		make(vcpu, KVM_RUN, 0);
		switch (shared->exit_reason) {
		case KVM_EXIT_IO:
			finish_out(vcpu, shared);
			edit_tables(vcpu, scenario);
			if (scenario->flags & LATER)
				spend_a_while(vcpu, shared, scenario);
			continue;
		case KVM_EXIT_HLT:
		case KVM_EXIT_SHUTDOWN: /* its page fault finds no handler */
			return;
		default:
			errx(1, "exit %u", shared->exit_reason);
		}
	}
}

static const struct scenario *find(const char *name)
{
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		if (!strcmp(scenarios[i].name, name))
			return &scenarios[i];
	errx(1, "no scenario %s", name);
}

static void machine_open(void)
{
	struct kvm_userspace_memory_region region = {.memory_size = SLOT_BYTES};

	machine.kvm = open("/dev/kvm", O_RDWR);
	machine.memory =
	    mmap(NULL, SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (machine.kvm < 0 || machine.memory == MAP_FAILED)
		err(1, "/dev/kvm or memory");
	region.userspace_addr = (uintptr_t)machine.memory;
	machine.vm = make(machine.kvm, KVM_CREATE_VM, 0);
	machine.run_bytes = (size_t)make(machine.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	make(machine.vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
	memcpy(machine.memory + CODE, guest_code, (size_t)(guest_code_end - guest_code));
	memcpy(machine.memory + IDLE_CODE, idle_code, (size_t)(idle_code_end - idle_code));
	make_tables(machine.memory);
}

static void set_msr(int vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index, .data = value}};

	if (make(vcpu, KVM_SET_MSRS, (unsigned long)&one) != 1)
		err(1, "MSR %#x", index);
}

static struct vmcb_segment segment_of(const struct kvm_segment *from)
{
	return (struct vmcb_segment){
	    .selector = from->selector,
	    .attributes =
		(uint16_t)(from->type | from->s << 4 | from->dpl << 5 | from->present << 7 |
			   from->l << 9 | from->db << 10 | from->g << 11),
	    .limit = from->limit,
	    .base = from->base,
	};
}

/* L1's own tables, which have the scenario's page elsewhere; returns their root. */
static uint64_t make_l1_tables(void)
{
	memcpy(machine.memory + L1_TABLES, machine.memory + TABLES, 4 * PAGE);
	for (uint64_t level = 0; level < 3; level++)
		*word(machine.memory, L1_TABLES + level * PAGE) += L1_TABLES - TABLES;
	*word(machine.memory, L1_TABLES + LEAF_OF(DATA) - TABLES) = ELSEWHERE;
	return L1_TABLES;
}

/* What the vCPU would run becomes L2, in L1's memory as it is; L1 runs it once. */
static void nest(int vcpu, const struct scenario *scenario)
{
	struct vmcb *vmcb = (void *)(machine.memory + VMCB);
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	make(vcpu, KVM_GET_SREGS, (unsigned long)&sregs);
	make(vcpu, KVM_GET_REGS, (unsigned long)&regs);
	sregs.efer |= 1 << 12; /* SVME */
	vmcb->control.intercept =
	    1ull << INTERCEPT_VMRUN | 1ull << INTERCEPT_HLT | 1ull << INTERCEPT_SHUTDOWN;
	vmcb->control.asid = 1;
	vmcb->control.iopm_gpa = vmcb->control.msrpm_gpa = MAPS;
	vmcb->control.misc = has_nested_paging ? VMCB_NESTED_PAGING : 0;
	vmcb->control.nested_cr3 = NESTED_TABLES;
	*word(machine.memory, NESTED_TABLES) = (NESTED_TABLES + PAGE) | NESTED;
	*word(machine.memory, NESTED_TABLES + PAGE) = NESTED_DIRECTORY | NESTED;
	*word(machine.memory, NESTED_DIRECTORY) = NESTED_LOWEST | NESTED;
	for (uint64_t i = 1; i < SLOT_BYTES >> 21; i++)
		*word(machine.memory, NESTED_DIRECTORY + i * 8) = i << 21 | LARGE | NESTED;
	for (uint64_t i = 0; i < 512; i++) {
		*word(machine.memory, NESTED_LOWEST + i * 8) = i * PAGE | NESTED;
		*word(machine.memory, OTHER_NESTED_LOWEST + i * 8) = i * PAGE | NESTED;
	}
	vmcb->save.cs = segment_of(&sregs.cs);
	vmcb->save.ds = vmcb->save.es = vmcb->save.ss = segment_of(&sregs.ds);
	vmcb->save.efer = sregs.efer;
	vmcb->save.cr0 = sregs.cr0;
	vmcb->save.cr3 = sregs.cr3;
	vmcb->save.cr4 = sregs.cr4;
	vmcb->save.dr6 = 0xffff0ff0;
	vmcb->save.dr7 = 0x400;
	vmcb->save.rflags = 2;
	vmcb->save.rip = CODE;
	memcpy(machine.memory + HYPERVISOR, hypervisor_code,
	       (size_t)(hypervisor_code_end - hypervisor_code));
	if (scenario->flags & L1_READS)
		sregs.cr3 = make_l1_tables();
	regs.rip = HYPERVISOR;
	make(vcpu, KVM_SET_SREGS, (unsigned long)&sregs);
	make(vcpu, KVM_SET_REGS, (unsigned long)&regs);
	set_msr(vcpu, 0xc0010117, HOST_SAVE);
}

/* The scenario, and "nested" where the guest is to be L2. */
int main(int argc, char **argv)
{
	const struct scenario *scenario = find(argc > 1 ? argv[1] : "");
	struct kvm_run *shared;
	struct timespec start, end;
	int vcpu;

	machine_open();
	if (scenario->before)
		*word(machine.memory, scenario->entry) = scenario->before;
	vcpu = vcpu_open(0, &shared);
	set_registers(vcpu, scenario);
	if (argc > 2 && !strcmp(argv[2], "nested"))
		nest(vcpu, scenario);
	clock_gettime(CLOCK_MONOTONIC, &start);
	run_guest(vcpu, shared, scenario);
	clock_gettime(CLOCK_MONOTONIC, &end);
	/* How long it took, for what depends on that. */
	printf("%ld\n",
	       (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000);
	return 0;
}
