/*
 * Whatever a guest does ends in an exit: its code, page tables, registers, memory, VMCB and nested
 * state are the input's. The process lives, each call returns, nothing beside the slots is read or
 * written, and a nested state that was read can be set again and changes nothing. What one VMRUN
 * comes to is compared with what AMD's manual says (nested_verdict.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/fuzz/guest_code.h"
#include "tests/fuzz/nested_area.h"
#include "tests/fuzz/nested_verdict.h"
#include "tests/fuzz/nested_vmcb.h"
#include "tests/fuzz/target.h"
#include "frontend/uapi.h"

#define SECOND_GPA 0x100000ull
#define CODE_GPA 0x8000ull
#define CODE_BYTES 0x8000ull
#define TABLES_GPA 0x1000ull
#define CPUID_ENTRIES 128
#define CR4_OSXSAVE (1u << 18)
#define SMM_SPACE (1u << 16) /* in a slot's number: of the address space that has SMRAM */
#define MSR_SMBASE 0x9eu
#define SMRAM_STATE 0xfe00u
#define SMRAM_ENTRY 0x8000u
#define SMRAM_BYTES 512u
#define HANDLER_BYTES 128
#define L2_CODE_GPA (CODE_GPA + CODE_BYTES / 2)
/* At the end of L1's code. */
#define LOOP_GPA (L2_CODE_GPA - 64)
#define VMCB_GPA 0x10000ull
#define MAPS_GPA 0x12000ull
#define MSR_HSAVE 0xc0010117u
#define HSAVE_GPA 0x11000ull
#define TICK_NS 1000000

struct machine {
	struct area area;
	size_t code_used, l2_code_used;
	int kvm, vm, vcpu, gmem;
	unsigned int bits;
	int may_die; /* an SMI that finds no SMRAM is the end of a VM: EIO */
	struct kvm_run *run;
	size_t run_bytes;
};

/* Of the step that is being made. */
static struct fuzz_random *rnd;
static timer_t timer;

static void on_tick(int signal)
{
	(void)signal;
}

/* Any call but KVM_RUN; what it answers is the fuzzed library's business. */
static int try_call(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument);
}

static int need(int result, const char *what)
{
	if (result < 0)
		fuzz_fail("%s: %s", what, strerror(errno));
	return result;
}

static void check_registers(struct machine *machine)
{
	struct kvm_regs regs;
	struct kvm_fpu fpu;
	uint64_t words[sizeof(fpu) / 8];

	need(try_call(machine->vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
	memcpy(words, &regs, sizeof(regs));
	for (size_t i = 0; i < sizeof(regs) / 8; i++)
		area_check_secret(&machine->area, words[i]);
	need(try_call(machine->vcpu, KVM_GET_FPU, &fpu), "KVM_GET_FPU");
	memcpy(words, &fpu, sizeof(words));
	for (size_t i = 0; i < sizeof(fpu) / 8; i++)
		area_check_secret(&machine->area, words[i]);
}

static void set_slot(struct machine *machine, unsigned int slot, uint64_t gpa)
{
	int is_second = slot == 1;
	struct kvm_userspace_memory_region2 region = {
	    .slot = slot,
	    .flags = random_once_in(rnd, 4) ? KVM_MEM_LOG_DIRTY_PAGES : 0,
	    .guest_phys_addr = gpa,
	    .memory_size = is_second ? SECOND_BYTES : MEMORY_BYTES,
	    .userspace_addr = (uintptr_t)(is_second ? machine->area.second : machine->area.memory),
	};

	if (is_second && random_once_in(rnd, 3))
		region.flags = KVM_MEM_READONLY;
	if (is_second && machine->gmem >= 0) {
		region.flags = KVM_MEM_GUEST_MEMFD;
		region.guest_memfd = (__u32)machine->gmem;
	}
	try_call(machine->vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

static void set_cpuid(struct machine *machine)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
	} all = {.head.nent = CPUID_ENTRIES};

	need(try_call(machine->kvm, KVM_GET_SUPPORTED_CPUID, &all), "KVM_GET_SUPPORTED_CPUID");
	for (size_t flips = random_below(rnd, 6); flips > 1; flips--) {
		struct kvm_cpuid_entry2 *entry = &all.entries[random_below(rnd, all.head.nent)];
		__u32 *reg = &(&entry->eax)[random_below(rnd, 4)];

		*reg &= (__u32)random_word(rnd);
	}
	if (!random_once_in(rnd, 8))
		try_call(machine->vcpu, KVM_SET_CPUID2, &all);
}

/* The guest's memory may be gone by now: the kernel refuses then, and the handler is noise. */
static void put_memory(struct machine *machine, uint64_t gpa, const void *bytes, size_t size)
{
	struct iovec from = {(void *)bytes, size}, to = {machine->area.memory + gpa, size};

	(void)!process_vm_writev(getpid(), &from, 1, &to, 1, 0);
}

static void get_memory(struct machine *machine, uint64_t gpa, void *bytes, size_t size)
{
	struct iovec to = {bytes, size}, from = {machine->area.memory + gpa, size};

	memset(bytes, 0, size);
	(void)!process_vm_readv(getpid(), &to, 1, &from, 1, 0);
}

/* Tables for 64-bit mode, or the like of them: identity, then some entries broken. */
static void write_tables(struct machine *machine)
{
	uint64_t *tables = (uint64_t *)(machine->area.memory + TABLES_GPA);

	for (size_t level = 0; level < 3; level++)
		tables[level * 512] = (TABLES_GPA + (level + 1) * PAGE) | 7;
	/* PAE and 32-bit tables read the same page: the first entries serve all of them. */
	for (size_t i = 0; i < 512; i++)
		tables[3 * 512 + i] = (i * PAGE) | 0x67;
	for (size_t i = 1; i < 8; i++)
		tables[2 * 512 + i] = (i << 21) | 0xe7;
}

/* The tables may have gone with their page by now: see put_memory(). */
static void break_tables(struct machine *machine)
{
	uint64_t at = TABLES_GPA + (random_below(rnd, 4) * 512 + random_below(rnd, 70)) * 8;
	uint64_t entry;

	get_memory(machine, at, &entry, sizeof(entry));
	if (random_once_in(rnd, 2))
		entry ^= 1ull << random_below(rnd, 64);
	else
		entry = guest_code_address(rnd, MEMORY_BYTES) | random_below(rnd, 512);
	put_memory(machine, at, &entry, sizeof(entry));
}

/* A field of the VMCB: any bit, or a number that breaks things. */
static void change_vmcb(struct machine *machine)
{
	struct vmcb_field field = vmcb_field(random_below(rnd, VMCB_FIELDS));
	uint64_t value = 0, at = VMCB_GPA + field.offset;

	get_memory(machine, at, &value, field.bytes);
	switch (random_below(rnd, 4)) {
	case 0:
		value = random_edge(rnd);
		break;
	case 1:
		value = guest_code_address(rnd, MEMORY_BYTES);
		break;
	default:
		value ^= 1ull << random_below(rnd, 8u * field.bytes);
	}
	put_memory(machine, at, &value, field.bytes);
}

static struct kvm_segment make_segment(unsigned int selector, unsigned int type, unsigned int bits)
{
	return (struct kvm_segment){
	    .limit = bits == 16 ? 0xffff : ~0u,
	    .selector = (__u16)selector,
	    .type = (__u8)type,
	    .present = 1,
	    .db = bits == 32,
	    .s = 1,
	    .l = bits == 64 && (type & 8),
	    .g = bits != 16,
	};
}

static void set_sregs(struct machine *machine)
{
	static const uint16_t efer[] = {0, 0x500, 0x1500, 0xd01, 0x1d01};
	unsigned int bits = machine->bits;
	struct kvm_segment data = make_segment(bits == 16 ? 0 : 0x10, 3, bits);
	struct kvm_sregs sregs;

	need(try_call(machine->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = make_segment(bits == 16 ? 0 : 8, 11, bits);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = TABLES_GPA;
	sregs.cr0 = 0x10 | (bits != 16) | random_below(rnd, 2) << 1;
	sregs.cr4 = random_once_in(rnd, 2) ? 0x620 : 0x620 | random_below(rnd, 1 << 22);
	if (!random_once_in(rnd, 4))
		sregs.cr4 |= CR4_OSXSAVE;
	sregs.efer = random_once_in(rnd, 3) ? 0x1000 : 0;
	if (bits == 32 && random_once_in(rnd, 2))
		sregs.cr0 |= 0x80000000;
	if (bits == 64) {
		sregs.cr0 |= 0x80000000 | random_below(rnd, 2) << 16;
		sregs.efer = efer[1 + random_below(rnd, 4)];
	}
	sregs.idt.base = random_below(rnd, MEMORY_BYTES);
	sregs.idt.limit = (__u16)random_edge(rnd);
	sregs.gdt.base = random_below(rnd, MEMORY_BYTES);
	sregs.gdt.limit = (__u16)random_edge(rnd);
	if (random_once_in(rnd, 4))
		((uint8_t *)&sregs)[random_below(rnd, sizeof(sregs))] ^= (uint8_t)random_word(rnd);
	try_call(machine->vcpu, KVM_SET_SREGS, &sregs);
}

static void set_regs(struct machine *machine)
{
	struct kvm_regs regs;
	__u64 *general = &regs.rax;

	for (size_t i = 0; i < 16; i++)
		general[i] = guest_code_address(rnd, MEMORY_BYTES);
	regs.rip = CODE_GPA + random_below(rnd, CODE_BYTES);
	if (random_once_in(rnd, 16))
		regs.rip = guest_code_address(rnd, MEMORY_BYTES);
	regs.rflags = random_once_in(rnd, 3) ? random_word(rnd) & 0x3fffff : 2;
	try_call(machine->vcpu, KVM_SET_REGS, &regs);
}

/* Without YMM registers in XCR0 each instruction with a VEX prefix is #UD. */
static void set_xcrs(struct machine *machine)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1};

	xcrs.xcrs[0].value = random_once_in(rnd, 4) ? random_below(rnd, 8) : 7;
	try_call(machine->vcpu, KVM_SET_XCRS, &xcrs);
}

/* A handler that changes some words of what the SMI saved, and returns to that. */
static size_t make_handler(uint8_t code[HANDLER_BYTES])
{
	size_t size = 0;

	for (size_t stores = random_below(rnd, 8); stores; stores--) {
		uint16_t at = (uint16_t)(SMRAM_STATE + random_below(rnd, SMRAM_BYTES / 4) * 4);
		uint32_t value =
		    (uint32_t)(random_once_in(rnd, 2) ? random_edge(rnd)
						      : guest_code_address(rnd, MEMORY_BYTES));

		/* movl $value, %cs:at */
		memcpy(code + size, "\x66\x2e\xc7\x06", 4);
		memcpy(code + size + 4, &at, 2);
		memcpy(code + size + 6, &value, 4);
		size += 10;
	}
	memcpy(code + size, "\x0f\xaa", 2);
	return size + 2;
}

static void disturb_smm(struct machine *machine)
{
	uint64_t smbase = random_below(rnd, 4) * 0x10000;
	uint8_t code[HANDLER_BYTES];
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head.nmsrs = 1, .entry = {.index = MSR_SMBASE, .data = smbase}};

	try_call(machine->vcpu, KVM_SET_MSRS, &msrs);
	put_memory(machine, smbase + SMRAM_ENTRY, code, make_handler(code));
	machine->may_die = 1;
	try_call(machine->vcpu, KVM_SMI, NULL);
}

static void set_msrs(struct machine *machine)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[4];
	} msrs = {.head.nmsrs = 4};

	for (size_t i = 0; i < 4; i++) {
		msrs.entries[i].index = guest_code_msr(rnd);
		msrs.entries[i].data = random_once_in(rnd, 2)
					   ? random_edge(rnd)
					   : guest_code_address(rnd, MEMORY_BYTES);
	}
	try_call(machine->vcpu, KVM_SET_MSRS, &msrs);
}

static void set_attributes(struct machine *machine, uint64_t gpa, uint64_t size)
{
	struct kvm_memory_attributes attributes = {
	    .address = gpa & ~(PAGE - 1),
	    .size = (size + PAGE - 1) & ~(PAGE - 1),
	    .attributes = random_below(rnd, 2) ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	try_call(machine->vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

/* The client's own memory changes under the slots. Never a hole: another mapping could move in. */
static void disturb_memory(struct machine *machine)
{
	uint8_t *page = machine->area.second + random_below(rnd, 16) * PAGE;

	if (random_once_in(rnd, 2))
		page = machine->area.memory + random_below(rnd, 64) * PAGE;
	switch (random_below(rnd, 4)) {
	case 0:
		mprotect(page, PAGE, (int)random_below(rnd, 4));
		break;
	case 1:
		madvise(page, PAGE, MADV_DONTNEED);
		break;
	case 2:
		mmap(page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	default:
		mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		     -1, 0);
	}
}

static void disturb_events(struct machine *machine)
{
	struct kvm_vcpu_events events;
	struct kvm_interrupt interrupt = {(__u32)random_below(rnd, 256)};
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE |
						   ((__u32)random_word(rnd) & 0x1f0002)};

	switch (random_below(rnd, 4)) {
	case 0:
		try_call(machine->vcpu, KVM_INTERRUPT, &interrupt);
		break;
	case 1:
		try_call(machine->vcpu, KVM_NMI, NULL);
		break;
	case 2:
		for (size_t i = 0; i < 4; i++)
			debug.arch.debugreg[i] = guest_code_address(rnd, MEMORY_BYTES);
		debug.arch.debugreg[7] = random_once_in(rnd, 2) ? random_edge(rnd) : 0x9d0402ff;
		try_call(machine->vcpu, KVM_SET_GUEST_DEBUG, &debug);
		break;
	default:
		need(try_call(machine->vcpu, KVM_GET_VCPU_EVENTS, &events), "KVM_GET_VCPU_EVENTS");
		((uint8_t *)&events)[random_below(rnd, sizeof(events))] = (uint8_t)random_word(rnd);
		machine->may_die |= events.smi.pending;
		try_call(machine->vcpu, KVM_SET_VCPU_EVENTS, &events);
	}
}

union nested {
	struct kvm_nested_state state;
	uint8_t bytes[2 * 4096 + sizeof(struct kvm_nested_state)];
};

static int get_nested(struct machine *machine, union nested *nested)
{
	memset(nested, 0, sizeof(*nested));
	nested->state.size = sizeof(*nested);
	return try_call(machine->vcpu, KVM_GET_NESTED_STATE, nested);
}

/* What was read can be set again, and is read the same then. */
static void check_nested(struct machine *machine)
{
	static union nested before, after;

	if (get_nested(machine, &before) < 0)
		return;
	after = before;
	if (try_call(machine->vcpu, KVM_SET_NESTED_STATE, &after) < 0) {
		if (errno != EIO)
			fuzz_fail("the nested state cannot be set again: %s", strerror(errno));
		return;
	}
	if (get_nested(machine, &after) < 0)
		fuzz_fail("the nested state cannot be read again: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(before); i++)
		if (before.bytes[i] != after.bytes[i])
			fuzz_fail("byte %zu of the nested state: %#x, then %#x", i, before.bytes[i],
				  after.bytes[i]);
}

static void disturb_nested(struct machine *machine)
{
	static union nested nested;

	if (get_nested(machine, &nested) < 0)
		return;
	for (size_t changes = random_below(rnd, 6); changes; changes--)
		nested.bytes[random_below(rnd, sizeof(nested))] ^= 1u << random_below(rnd, 8);
	/* L2, with the VMCB that is in memory. */
	if (random_once_in(rnd, 2)) {
		nested.state.flags |= KVM_STATE_NESTED_GUEST_MODE;
		nested.state.hdr.svm.vmcb_pa = VMCB_GPA;
		nested.state.size = sizeof(nested);
		get_memory(machine, VMCB_GPA, &nested.state.data.svm[0].vmcb12,
			   sizeof(nested.state.data.svm[0].vmcb12));
		if (random_once_in(rnd, 4)) {
			nested_refuses_short(rnd, machine->vcpu, &nested.state);
			return;
		}
	}
	try_call(machine->vcpu, KVM_SET_NESTED_STATE, &nested);
}

/* Answers an exit; 0 when the seed should end. */
static int answer(struct machine *machine)
{
	struct kvm_run *run = machine->run;
	struct uapi_memory_fault fault;
	size_t bytes;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		bytes = (size_t)run->io.size * run->io.count;
		if (run->io.data_offset + bytes > machine->run_bytes)
			fuzz_fail("KVM_EXIT_IO's data stands outside the run area");
		if (run->io.direction == KVM_EXIT_IO_IN)
			random_bytes(rnd, (uint8_t *)run + run->io.data_offset, bytes);
		break;
	case KVM_EXIT_MMIO:
		if (run->mmio.len == 0 || run->mmio.len > 8)
			fuzz_fail("KVM_EXIT_MMIO of %u bytes", run->mmio.len);
		if (!run->mmio.is_write)
			random_bytes(rnd, run->mmio.data, 8);
		break;
	case KVM_EXIT_MEMORY_FAULT:
		memcpy(&fault, &run->mmio, sizeof(fault));
		set_attributes(machine, fault.gpa, fault.size);
		break;
	case KVM_EXIT_SHUTDOWN:
	case KVM_EXIT_FAIL_ENTRY:
	case KVM_EXIT_INTERNAL_ERROR:
		set_sregs(machine);
		set_regs(machine);
		return !random_once_in(rnd, 4);
	case KVM_EXIT_HLT:
		disturb_events(machine);
		break;
	}
	return 1;
}

static int run_once(struct machine *machine)
{
	int result;

	result = try_call(machine->vcpu, KVM_RUN, NULL);
	if (result == 0)
		return answer(machine);
	if (result > 0)
		fuzz_fail("KVM_RUN returned %d", result);
	if (errno == EFAULT && machine->run->exit_reason == KVM_EXIT_MEMORY_FAULT)
		return answer(machine);
	if (errno == EIO && machine->may_die)
		return 0;
	if (errno != EINTR && errno != EAGAIN && errno != EFAULT && errno != EINVAL && errno != EIO)
		fuzz_fail("KVM_RUN: %s", strerror(errno));
	/* The VM is lost: an SMI found no memory to save the registers in. */
	if (errno == EIO)
		return 0;
	if (errno == EFAULT || errno == EINVAL)
		set_regs(machine);
	return 1;
}

static void machine_create(struct machine *machine)
{
	struct kvm_create_guest_memfd create = {.size = SECOND_BYTES};
	int protected = random_once_in(rnd, 3);
	struct fuzz_random other = *rnd;

	/* No draw of the input's: stored ones mean what they meant. */
	other.left = 0;
	area_create(&machine->area);
	machine->gmem = -1;
	machine->kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	/* Without a second stage there are none. */
	if (!(ioctl(machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) >> 1 & 1))
	protected = 0;
	machine->vm = need(ioctl(machine->kvm, KVM_CREATE_VM, protected), "KVM_CREATE_VM");
	if (protected)
		machine->gmem = need(ioctl(machine->vm, KVM_CREATE_GUEST_MEMFD, &create), "gmem");
	if (random_once_in(&other, 2))
		nested_separate_pat(machine->vm);
	/* A guest with a local APIC sends itself SMIs. */
	machine->may_die = random_once_in(rnd, 3);
	if (machine->may_die)
		need(ioctl(machine->vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	machine->vcpu = need(ioctl(machine->vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	machine->run_bytes = (size_t)need(ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "size");
	machine->run =
	    mmap(NULL, machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpu, 0);
	if (machine->run == MAP_FAILED)
		fuzz_fail("no run area");
}

/* One more piece of code, for L1 or for the guest that its VMCB starts. */
static void add_code(struct machine *machine)
{
	int is_l2 = random_once_in(rnd, 3);
	size_t *used = is_l2 ? &machine->l2_code_used : &machine->code_used, made;
	uint8_t bytes[GUEST_CODE_LONGEST];
	struct guest_code code = {
	    .bytes = bytes,
	    .size = sizeof(bytes),
	    .memory_bytes = MEMORY_BYTES,
	    .bits = machine->bits,
	};

	made = guest_code_one(rnd, &code);
	if (*used + made > LOOP_GPA - CODE_GPA)
		return;
	put_memory(machine, (is_l2 ? L2_CODE_GPA : CODE_GPA) + *used, bytes, made);
	*used += made;
}

/* Either starts the guest of the VMCB, or does something else to it. */
static void add_nested_code(struct machine *machine)
{
	static const uint8_t operations[] = {0xd8, 0xd8, 0xd8, 0xda, 0xdb, 0xdc, 0xdd, 0xdf};
	/* mov $VMCB_GPA, %eax */
	uint8_t bytes[] = {0xb8, 0, 0, 1, 0, 0x0f, 0x01, 0};

	bytes[7] = operations[random_below(rnd, sizeof(operations))];
	if (machine->code_used + sizeof(bytes) > LOOP_GPA - CODE_GPA)
		return;
	put_memory(machine, CODE_GPA + machine->code_used, bytes, sizeof(bytes));
	machine->code_used += sizeof(bytes);
}

static void put_vmcb(struct machine *machine, uint64_t nested_paging)
{
	static const struct vmcb_places places = {
	    .rip = L2_CODE_GPA, .tables = TABLES_GPA, .maps = MAPS_GPA, .stack = CODE_GPA};
	static struct vmcb vmcb;

	vmcb_reset(&vmcb, places);
	vmcb.control.misc = nested_paging ? VMCB_NESTED_PAGING : 0;
	put_memory(machine, VMCB_GPA, &vmcb, sizeof(vmcb));
}

/* 64-bit mode with flat segments and SVM, whatever was before. */
static void set_l1_mode(struct machine *machine)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head.nmsrs = 1, .entry = {.index = MSR_HSAVE, .data = HSAVE_GPA}};
	struct kvm_sregs sregs;

	need(try_call(machine->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = make_segment(8, 11, 64);
	sregs.ds = sregs.es = sregs.ss = make_segment(0x10, 3, 64);
	sregs.cr0 = 0x80050033;
	sregs.cr3 = TABLES_GPA;
	sregs.cr4 = 0x620;
	sregs.efer = 0x1d01;
	try_call(machine->vcpu, KVM_SET_SREGS, &sregs);
	try_call(machine->vcpu, KVM_SET_MSRS, &msrs);
}

/* L1 has just come to a loop of VMRUN, for it takes the fuzzer long to get there. */
static void start_nested(struct machine *machine)
{
	/* mov $VMCB_GPA, %eax; stgi; 1: vmload; vmrun; vmsave; dec %r15d; jnz 1b; hlt */
	uint8_t code[] = {0xb8, 0,    0,    1,	  0,	0x0f, 0x01, 0xdc, 0x0f, 0x01, 0xda, 0x0f,
			  0x01, 0xd8, 0x0f, 0x01, 0xdb, 0x41, 0xff, 0xcf, 0x75, 0xf2, 0xf4};
	struct kvm_regs regs = {.rip = LOOP_GPA, .rsp = CODE_GPA, .rflags = 2};
	uint64_t nested_paging = random_below(rnd, 2);

	/* Its VMCB may be what other steps have made of it. */
	if (random_once_in(rnd, 2))
		put_vmcb(machine, nested_paging);
	/* CLGI */
	if (random_once_in(rnd, 4))
		code[7] = 0xdd;
	regs.r15 = random_below(rnd, 8);
	put_memory(machine, LOOP_GPA, code, sizeof(code));
	set_l1_mode(machine);
	try_call(machine->vcpu, KVM_SET_REGS, &regs);
}

static void fill_memory(struct machine *machine)
{
	static const size_t random_code[] = {0, 64, 512, CODE_BYTES / 2};
	struct guest_code code = {
	    .bytes = machine->area.memory + CODE_GPA,
	    .size = random_code[random_below(rnd, ARRAY_SIZE(random_code))],
	    .memory_bytes = MEMORY_BYTES,
	    .bits = machine->bits,
	};

	/* HLT wherever there is nothing else. */
	memset(machine->area.memory + CODE_GPA, 0xf4, CODE_BYTES);
	guest_code_fill(rnd, &code);
	write_tables(machine);
	/* Tables of descriptors, gates and VMCBs are wherever the guest says: noise in a part of
	 * it. */
	for (size_t page = 32; page < 64; page += 1 + random_below(rnd, 3))
		random_bytes(rnd, machine->area.memory + page * PAGE, PAGE / 4);
	put_vmcb(machine, 0);
}

static void machine_fill(struct machine *machine)
{
	static const unsigned int widths[] = {64, 64, 32, 16};

	machine->bits = widths[random_below(rnd, 4)];
	fill_memory(machine);
	set_slot(machine, 0, 0);
	set_slot(machine, 1, SECOND_GPA);
	if (!random_once_in(rnd, 4))
		set_slot(machine, SMM_SPACE, 0);
	if (machine->gmem >= 0)
		set_attributes(machine, SECOND_GPA, SECOND_BYTES / 2);
	set_cpuid(machine);
	set_xcrs(machine);
	set_sregs(machine);
	set_regs(machine);
}

static void machine_destroy(struct machine *machine)
{
	munmap(machine->run, machine->run_bytes);
	close(machine->vcpu);
	close(machine->vm);
	close(machine->kvm);
	if (machine->gmem >= 0)
		close(machine->gmem);
	munmap(machine->area.base, machine->area.bytes);
}

static void set_timer(long interval_ns)
{
	struct itimerspec each = {{0, interval_ns}, {0, interval_ns}};

	timer_settime(timer, 0, &each, NULL);
}

static void start(void)
{
	struct sigaction action = {.sa_handler = on_tick};
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};

	event._sigev_un._tid = gettid();
	sigaction(SIGRTMIN, &action, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer))
		fuzz_fail("no timer: %s", strerror(errno));
}

static struct machine machine;
static int is_made;

static void begin(void)
{
	machine = (struct machine){0};
	is_made = 0;
}

/* Until the guest has run for some time, or needs what this step does not give. */
static int run(void)
{
	int goes_on = 1;

	machine.run->immediate_exit = random_once_in(rnd, 32);
	machine.run->request_interrupt_window = random_once_in(rnd, 8);
	set_timer(TICK_NS);
	for (uint64_t runs = 1 + random_below(rnd, 8); runs && goes_on; runs--) {
		goes_on = run_once(&machine);
		machine.run->immediate_exit = 0;
		/* Where the VM is lost there are none. */
		if (goes_on)
			check_registers(&machine);
	}
	set_timer(0);
	area_check(&machine.area);
	return goes_on;
}

enum kind {
	RUN,
	CODE,
	NESTED_CODE,
	START_NESTED,
	VMCB,
	NESTED_STATE,
	NESTED_AGAIN,
	REGS,
	SREGS,
	MSRS,
	MEMORY,
	EVENTS,
	ATTRIBUTES,
	SLOT,
	SMM,
	TABLES,
	VERDICT,
	KINDS
};

static void disturb(enum kind kind)
{
	static void (*const steps[KINDS])(struct machine *) = {
	    [CODE] = add_code,
	    [NESTED_CODE] = add_nested_code,
	    [START_NESTED] = start_nested,
	    [NESTED_STATE] = disturb_nested,
	    [NESTED_AGAIN] = check_nested,
	    [REGS] = set_regs,
	    [SREGS] = set_sregs,
	    [MSRS] = set_msrs,
	    [MEMORY] = disturb_memory,
	    [EVENTS] = disturb_events,
	    [SMM] = disturb_smm,
	    [TABLES] = break_tables,
	};

	switch (kind) {
	case VMCB:
		change_vmcb(&machine);
		break;
	case ATTRIBUTES:
		set_attributes(&machine, random_below(rnd, 80) * PAGE, PAGE);
		break;
	case VERDICT:
		nested_verdict(rnd);
		break;
	case SLOT:
		set_slot(&machine, 1, SECOND_GPA + random_below(rnd, 4) * PAGE);
		break;
	default:
		steps[kind](&machine);
	}
}

/* The first step says what the machine is like. */
static int step(unsigned int kind, struct fuzz_random *random)
{
	rnd = random;
	if (!is_made) {
		machine_create(&machine);
		machine_fill(&machine);
		is_made = 1;
		return 1;
	}
	if (kind == RUN)
		return run();
	disturb((enum kind)kind);
	return 1;
}

static void end(void)
{
	if (!is_made)
		return;
	area_check(&machine.area);
	machine_destroy(&machine);
}

const struct fuzz_target fuzz_target = {
    .kinds = KINDS,
    .needs_kvm = 1,
    .start = start,
    .begin = begin,
    .step = step,
    .end = end,
};
