/* One VMRUN whose outcome is known beforehand, on a machine of its own. */
#include "tests/fuzz/nested_verdict.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frontend/uapi.h"
#include "tests/fuzz/nested_vmcb.h"
#include "tests/fuzz/target.h"

#define PAGE 4096ull
#define TABLES_GPA 0x1000ull
#define L1_GPA 0x8000ull
#define L2_GPA 0x9000ull
#define STACK_GPA 0xa800ull
#define L2_STACK_GPA 0xb800ull
#define VMCB_GPA 0xc000ull
#define HSAVE_GPA 0xd000ull
#define OTHER_GPA 0xe000ull /* L2 loads and saves a VMCB here */
#define OPEN_GPA 0x10000ull /* maps of permissions: nothing is intercepted */
#define SHUT_GPA 0x14000ull /* everything is */
#define MEMORY_BYTES 0x18000ull
#define CPUID_ENTRIES 128
#define MSR_PAT 0x277u
#define MSR_HSAVE 0xc0010117u
#define EFER_L1 0x1d00u
#define CR4_L1 0x620u
#define RUNS_MAX 8
/* A machine takes as long to make as some of these: a rule is about one bit of one field. */
#define TRIALS 16
#define L1_CODE "\x0f\x01\xdc\x0f\x01\xd8\xf4" /* stgi; vmrun; hlt */
#define NO_CODE 0xdeadull

#define EXIT(which) (VMCB_EXIT_INTR + INTERCEPT_##which)
#define ANY_INTERCEPT (((1ull << 46) - 1) & ~0x2full & ~(0xfull << 27))

struct trial {
	struct fuzz_random *random;
	int kvm, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_bytes;
	struct vmcb *vmcb;
	struct kvm_sregs sregs; /* L1's */
	int separate, nested_paging;
	/* What has to come. */
	uint64_t code;
	uint64_t l1_pat, l2_pat;
	uint64_t l1_pat_after, saved_pat_after;
	int reads_pat;
};

/* Where a bit of the VMCB asks for an exit. */
enum place { BY_CR_READ, BY_CR_WRITE, BY_DR_READ, BY_DR_WRITE, BY_INTERCEPT, BY_EXCEPTION };

struct instruction {
	const char *bytes;
	uint8_t size;
	uint8_t place;
	uint8_t bit;
	uint64_t code;
	uint64_t else_code; /* without the bit */
};

#define GOES_ON EXIT(HLT)
#define IS_LOST EXIT(SHUTDOWN)
#define INSTRUCTION(text, which)                                                              \
	{                                                                                     \
		text, sizeof(text) - 1, BY_INTERCEPT, INTERCEPT_##which, EXIT(which), GOES_ON \
	}
#define LOST(text, which)                                                                     \
	{                                                                                     \
		text, sizeof(text) - 1, BY_INTERCEPT, INTERCEPT_##which, EXIT(which), IS_LOST \
	}
#define REGISTER(text, where, number)                                                             \
	{                                                                                         \
		text, sizeof(text) - 1, BY_##where, number, VMCB_EXIT_##where + (number), GOES_ON \
	}
#define FAULT(text, vector)                                                                   \
	{                                                                                     \
		text, sizeof(text) - 1, BY_EXCEPTION, vector, VMCB_EXIT_EXCEPTION + (vector), \
		    IS_LOST                                                                   \
	}

/* RAX is OTHER_GPA. The last two are those of PAT. */
static const struct instruction instructions[] = {
    INSTRUCTION("\x0f\x01\x0c\x24", SIDT),
    INSTRUCTION("\x0f\x01\x04\x24", SGDT),
    INSTRUCTION("\x0f\x00\xc0", SLDT),
    INSTRUCTION("\x0f\x00\xc8", STR),
    INSTRUCTION("\x0f\x01\x1c\x24", LIDT),
    INSTRUCTION("\x0f\x01\x14\x24", LGDT),
    INSTRUCTION("\x31\xc0\x0f\x00\xd0", LLDT),
    INSTRUCTION("\x0f\x31", RDTSC),
    INSTRUCTION("\x9c", PUSHF),
    INSTRUCTION("\x9d", POPF),
    INSTRUCTION("\x0f\xa2", CPUID),
    INSTRUCTION("\x0f\x08", INVD),
    INSTRUCTION("\xf3\x90", PAUSE),
    INSTRUCTION("\x0f\x01\x3c\x24", INVLPG),
    INSTRUCTION("\x0f\x01\xdf", INVLPGA),
    INSTRUCTION("\xe4\x80", IOIO),
    INSTRUCTION("\x0f\x01\xda", VMLOAD),
    INSTRUCTION("\x0f\x01\xdb", VMSAVE),
    INSTRUCTION("\x0f\x01\xdc", STGI),
    INSTRUCTION("\x0f\x09", WBINVD),
    LOST("\xcd\x20", INTN),
    LOST("\xf1", ICEBP),
    REGISTER("\x0f\x20\xc0", CR_READ, 0),
    REGISTER("\x0f\x01\xe0", CR_READ, 0), /* smsw */
    REGISTER("\x0f\x20\xd8", CR_READ, 3),
    REGISTER("\x0f\x20\xe0", CR_READ, 4),
    REGISTER("\x44\x0f\x20\xc0", CR_READ, 8),
    REGISTER("\x0f\x20\xc0\x0f\x22\xc0", CR_WRITE, 0),
    REGISTER("\x0f\x06", CR_WRITE, 0), /* clts */
    REGISTER("\x0f\x20\xd8\x0f\x22\xd8", CR_WRITE, 3),
    REGISTER("\x0f\x20\xe0\x0f\x22\xe0", CR_WRITE, 4),
    REGISTER("\x31\xc0\x44\x0f\x22\xc0", CR_WRITE, 8),
    REGISTER("\x0f\x21\xc0", DR_READ, 0),
    REGISTER("\x0f\x21\xd8", DR_READ, 3),
    REGISTER("\x0f\x21\xf0", DR_READ, 6),
    REGISTER("\x0f\x21\xf8", DR_READ, 7),
    REGISTER("\x0f\x23\xc8", DR_WRITE, 1),
    REGISTER("\x0f\x23\xd0", DR_WRITE, 2),
    REGISTER("\x31\xc0\x0f\x23\xf0", DR_WRITE, 6),
    REGISTER("\x31\xc0\x0f\x23\xf8", DR_WRITE, 7),
    FAULT("\x0f\x0b", 6),
    FAULT("\xcc", 3),
    FAULT("\x31\xc9\xf7\xf1", 0),
    /* mov $MSR_PAT, %ecx; rdmsr */
    INSTRUCTION("\xb9\x77\x02\x00\x00\x0f\x32", MSR),
    /* mov $MSR_PAT, %ecx; mov $0x00060106, %eax; mov $0x05000604, %edx; wrmsr */
    INSTRUCTION("\xb9\x77\x02\x00\x00\xb8\x06\x01\x06\x00\xba\x04\x06\x00\x05\x0f\x30", MSR),
};
#define READ_PAT (ARRAY_SIZE(instructions) - 2)
#define WRITE_PAT (ARRAY_SIZE(instructions) - 1)
#define WRITTEN_PAT 0x0500060400060106ull

static int need(int result, const char *what)
{
	if (result < 0)
		fuzz_fail("%s: %s", what, strerror(errno));
	return result;
}

int nested_separate_pat(int vm)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DISABLE_QUIRKS2,
				     .args = {KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT}};

	return !ioctl(vm, KVM_ENABLE_CAP, &cap);
}

void nested_refuses_short(struct fuzz_random *random, int vcpu, struct kvm_nested_state *state)
{
	static const uint32_t sizes[] = {0, 8, 127, 128, 129, 4096, 4223};

	state->size = sizes[random_below(random, ARRAY_SIZE(sizes))];
	if (!ioctl(vcpu, KVM_SET_NESTED_STATE, state))
		fuzz_fail("a nested state of %u bytes was set", state->size);
}

static void set_msr(const struct trial *trial, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};

	if (ioctl(trial->vcpu, KVM_SET_MSRS, &msrs) != 1)
		fuzz_fail("MSR %#x cannot be set", index);
}

static uint64_t get_msr(const struct trial *trial, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head.nmsrs = 1, .entry = {.index = index}};

	if (ioctl(trial->vcpu, KVM_GET_MSRS, &msrs) != 1)
		fuzz_fail("MSR %#x cannot be read", index);
	return msrs.entry.data;
}

static void set_cpuid(const struct trial *trial)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
	} cpuid = {.head.nent = CPUID_ENTRIES};

	need(ioctl(trial->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	need(ioctl(trial->vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
}

static void choose_l1(struct trial *trial)
{
	struct kvm_segment code = {
	    .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
	    .limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_sregs *sregs = &trial->sregs;

	need(ioctl(trial->vcpu, KVM_GET_SREGS, sregs), "KVM_GET_SREGS");
	sregs->cs = code;
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->gdt.base = L1_GPA;
	sregs->gdt.limit = 0x17;
	sregs->idt.base = OTHER_GPA;
	sregs->idt.limit = 0xff;
	sregs->cr0 = 0x80050033;
	sregs->cr3 = TABLES_GPA;
	sregs->cr4 = CR4_L1;
	sregs->efer = EFER_L1;
}

static void set_l1(const struct trial *trial)
{
	struct kvm_regs regs = {.rax = VMCB_GPA, .rip = L1_GPA, .rsp = STACK_GPA, .rflags = 2};

	need(ioctl(trial->vcpu, KVM_SET_SREGS, &trial->sregs), "KVM_SET_SREGS");
	need(ioctl(trial->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	set_msr(trial, MSR_HSAVE, HSAVE_GPA);
}

static void fill_memory(struct trial *trial)
{
	uint64_t *tables = (uint64_t *)(trial->memory + TABLES_GPA);

	memset(trial->memory, 0, SHUT_GPA);
	tables[0] = (TABLES_GPA + PAGE) | 7;
	tables[512] = (TABLES_GPA + 2 * PAGE) | 7;
	tables[1024] = 0xe7; /* 2 MiB */
	memcpy(trial->memory + L1_GPA, L1_CODE, sizeof(L1_CODE) - 1);
	memset(trial->memory + L2_GPA, 0xf4, PAGE);
	memset(trial->memory + SHUT_GPA, 0xff, 3 * PAGE);
}

static void open_trial(struct trial *trial)
{
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES};

	trial->memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (trial->memory == MAP_FAILED)
		fuzz_fail("no memory");
	trial->vmcb = (struct vmcb *)(trial->memory + VMCB_GPA);
	region.userspace_addr = (uintptr_t)trial->memory;
	trial->kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	trial->vm = need(ioctl(trial->kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	trial->vcpu = need(ioctl(trial->vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	need(ioctl(trial->vm, KVM_SET_USER_MEMORY_REGION, &region), "a slot");
	trial->run_bytes = (size_t)need(ioctl(trial->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "a size");
	trial->run =
	    mmap(NULL, trial->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, trial->vcpu, 0);
	if (trial->run == MAP_FAILED)
		fuzz_fail("no run area");
	trial->separate = random_once_in(trial->random, 2) && nested_separate_pat(trial->vm);
	set_cpuid(trial);
	choose_l1(trial);
}

static void close_trial(struct trial *trial)
{
	munmap(trial->run, trial->run_bytes);
	close(trial->vcpu);
	close(trial->vm);
	close(trial->kvm);
	munmap(trial->memory, MEMORY_BYTES);
}

static uint64_t any_pat(struct fuzz_random *random)
{
	static const uint8_t types[] = {6, 0, 1, 4, 5, 7};
	uint64_t pat = 0;

	for (unsigned int i = 0; i < 8; i += 4)
		pat |= (uint64_t)types[random_below(random, 6)] << (8 * i);
	return pat;
}

static uint64_t bit_from(struct trial *trial, unsigned int first, unsigned int end)
{
	return 1ull << (first + random_below(trial->random, end - first));
}

/* One thing of the registers that VMRUN looks at. Does it refuse? */
static int spoil_registers(struct trial *trial)
{
	struct vmcb_save *save = &trial->vmcb->save;

	switch (random_below(trial->random, 13)) {
	case 0:
		save->efer &= ~0x1000ull;
		break;
	case 1:
		save->efer |= bit_from(trial, 16, 64);
		break;
	case 2:
		save->cr0 |= 1ull << 29; /* NW without CD */
		break;
	case 3:
		save->cr0 |= 3ull << 29;
		return 0;
	case 4:
		save->cr0 |= bit_from(trial, 32, 64);
		break;
	case 5:
		save->cr3 |= bit_from(trial, 52, 63);
		break;
	case 6:
		save->cr4 |= bit_from(trial, 32, 64);
		break;
	case 7:
		save->dr6 |= bit_from(trial, 32, 64);
		break;
	case 8:
		save->dr7 |= bit_from(trial, 32, 64);
		break;
	case 9:
		save->cr4 &= ~0x20ull; /* long mode without PAE */
		break;
	case 10:
		save->cr0 &= ~1ull; /* paging without PE */
		break;
	case 11:
		save->cs.attributes |= 1u << 10; /* L and D */
		break;
	default:
		/* One type or all of them are 2 or 3. */
		save->pat |= 2ull << (8 * random_below(trial->random, 8));
		save->pat &= ~0x404040404040404ull;
		trial->l2_pat = trial->saved_pat_after = save->pat;
		return trial->separate && trial->nested_paging;
	}
	return 1;
}

/* The same of the control area. */
static int spoil_control(struct trial *trial)
{
	static const uint8_t no_types[] = {1, 5, 6, 7}, no_vectors[] = {2, 9, 15, 31, 32, 255};
	struct vmcb_control *control = &trial->vmcb->control;

	switch (random_below(trial->random, 7)) {
	case 0:
		control->asid = 0;
		break;
	case 1:
		control->intercept &= ~(1ull << INTERCEPT_VMRUN);
		break;
	case 2:
		control->iopm_gpa |= bit_from(trial, 52, 64);
		break;
	case 3:
		control->msrpm_gpa |= bit_from(trial, 52, 64);
		break;
	case 4:
		control->event_inj =
		    VMCB_EVENT_VALID | (uint64_t)no_types[random_below(trial->random, 4)] << 8;
		break;
	case 5:
		control->event_inj =
		    VMCB_EVENT_VALID | 3u << 8 | no_vectors[random_below(trial->random, 6)];
		break;
	default:
		control->nested_cr3 |= bit_from(trial, 52, 64);
		return trial->nested_paging;
	}
	return 1;
}

/* The bit that asks for an exit by this instruction. */
static void ask(struct vmcb_control *control, const struct instruction *one, unsigned int asks)
{
	uint16_t registers[4];

	switch (one->place) {
	case BY_INTERCEPT:
		control->intercept &= ~(1ull << one->bit);
		control->intercept |= (uint64_t)asks << one->bit;
		break;
	case BY_EXCEPTION:
		control->exceptions = asks << one->bit;
		break;
	default:
		/* In this order they stand at the VMCB's front. */
		memcpy(registers, control, sizeof(registers));
		registers[one->place] &= (uint16_t) ~(1u << one->bit);
		registers[one->place] |= (uint16_t)(asks << one->bit);
		memcpy(control, registers, sizeof(registers));
	}
}

static int has_map(const struct instruction *one)
{
	return one->place == BY_INTERCEPT &&
	       (one->bit == INTERCEPT_IOIO || one->bit == INTERCEPT_MSR);
}

/* The instruction, the bits that ask for an exit by it, and others. */
static void put_instruction(struct trial *trial)
{
	size_t index = random_below(trial->random, ARRAY_SIZE(instructions));
	const struct instruction *one = &instructions[index];
	struct vmcb_control *control = &trial->vmcb->control;
	unsigned int asks = !random_once_in(trial->random, 3);

	memcpy(trial->memory + L2_GPA, one->bytes, one->size);
	if (random_once_in(trial->random, 4)) {
		control->intercept |= random_bits(trial->random) & ANY_INTERCEPT;
		control->dr_reads = control->dr_writes = (uint16_t)random_bits(trial->random);
	}
	ask(control, one, asks);
	/* What a map says counts only where it is asked. */
	if (random_once_in(trial->random, 2))
		control->iopm_gpa = control->msrpm_gpa = SHUT_GPA;
	else if (has_map(one))
		asks = 0;
	trial->code = asks ? one->code : one->else_code;
	trial->reads_pat = index == READ_PAT && !asks;
	if (index != WRITE_PAT || asks)
		return;
	if (trial->separate && trial->nested_paging)
		trial->saved_pat_after = WRITTEN_PAT;
	else
		trial->l1_pat_after = WRITTEN_PAT;
}

static void put_vmcb(struct trial *trial)
{
	static const struct vmcb_places places = {
	    .rip = L2_GPA, .tables = TABLES_GPA, .maps = OPEN_GPA, .stack = L2_STACK_GPA};
	struct vmcb *vmcb = trial->vmcb;

	trial->l1_pat = trial->l1_pat_after = any_pat(trial->random);
	trial->l2_pat = trial->saved_pat_after = any_pat(trial->random);
	trial->nested_paging = random_once_in(trial->random, 2);
	set_msr(trial, MSR_PAT, trial->l1_pat);
	vmcb_reset(vmcb, places);
	vmcb->control.exceptions = 0;
	vmcb->control.misc = trial->nested_paging ? VMCB_NESTED_PAGING : 0;
	vmcb->control.exit_code = NO_CODE;
	/* All that is L1's is something else in L2. */
	vmcb->save.cr4 |= 0x80;
	vmcb->save.cr0 |= 0x2;
	vmcb->save.ds.selector = vmcb->save.es.selector = 0x20;
	vmcb->save.gdtr.limit = 0xfff;
	vmcb->save.rax = OTHER_GPA;
	vmcb->save.pat = trial->l2_pat;
}

static int is_refused(struct trial *trial)
{
	switch (random_below(trial->random, 4)) {
	case 1:
		return spoil_control(trial);
	case 2:
		return spoil_registers(trial);
	default:
		return 0;
	}
}

static void spoil_or_not(struct trial *trial)
{
	if (!is_refused(trial))
		return;
	trial->code = VMCB_EXIT_INVALID;
	trial->l1_pat_after = trial->l1_pat;
	trial->saved_pat_after = trial->l2_pat;
	trial->reads_pat = 0;
}

/* Until L1 halts behind its VMRUN. */
static void run_trial(const struct trial *trial)
{
	for (int runs = 0; runs < RUNS_MAX; runs++) {
		int result = ioctl(trial->vcpu, KVM_RUN, NULL);

		if (result && errno == EINTR)
			continue;
		if (result)
			fuzz_fail("KVM_RUN of a plain L2: %s", strerror(errno));
		if (trial->run->exit_reason == KVM_EXIT_HLT)
			return;
		if (trial->run->exit_reason != KVM_EXIT_IO)
			fuzz_fail("a plain L2 ends in exit %u", trial->run->exit_reason);
	}
	fuzz_fail("a plain L2 does not end");
}

static void same(const char *what, uint64_t found, uint64_t wanted)
{
	if (found != wanted)
		fuzz_fail("VMRUN and back: %s is %#lx, not %#lx", what, found, wanted);
}

static void check_pat(const struct trial *trial)
{
	const struct vmcb_save *save = &trial->vmcb->save;
	uint64_t seen = trial->separate && trial->nested_paging ? trial->l2_pat : trial->l1_pat;

	same("L1's PAT", get_msr(trial, MSR_PAT), trial->l1_pat_after);
	same("the VMCB's PAT", save->pat, trial->saved_pat_after);
	if (trial->reads_pat)
		same("what L2 reads of PAT", save->rax & 0xffffffff, seen & 0xffffffff);
}

static void check_l1(const struct trial *trial)
{
	const struct kvm_sregs *before = &trial->sregs;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	need(ioctl(trial->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	need(ioctl(trial->vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
	same("RIP", regs.rip, L1_GPA + sizeof(L1_CODE) - 1);
	same("RSP", regs.rsp, STACK_GPA);
	same("RAX", regs.rax, VMCB_GPA);
	same("CR0", sregs.cr0, before->cr0);
	same("CR3", sregs.cr3, before->cr3);
	same("CR4", sregs.cr4, before->cr4);
	same("EFER", sregs.efer, before->efer);
	same("CS", sregs.cs.selector, before->cs.selector);
	same("DS", sregs.ds.selector, before->ds.selector);
	same("ES", sregs.es.selector, before->es.selector);
	same("SS", sregs.ss.selector, before->ss.selector);
	same("GDTR's base", sregs.gdt.base, before->gdt.base);
	same("GDTR's limit", sregs.gdt.limit, before->gdt.limit);
	same("IDTR's base", sregs.idt.base, before->idt.base);
	same("IDTR's limit", sregs.idt.limit, before->idt.limit);
}

static void one_trial(struct trial *trial)
{
	fill_memory(trial);
	set_l1(trial);
	put_vmcb(trial);
	put_instruction(trial);
	spoil_or_not(trial);
	run_trial(trial);
	same("the exit code", trial->vmcb->control.exit_code, trial->code);
	check_pat(trial);
	check_l1(trial);
}

void nested_verdict(struct fuzz_random *random)
{
	struct trial trial = {.random = random};

	open_trial(&trial);
	for (int i = 0; i < TRIALS; i++)
		one_trial(&trial);
	close_trial(&trial);
}
