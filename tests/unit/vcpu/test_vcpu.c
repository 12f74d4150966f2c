/* The CPU on small programs: arithmetic, faults, devices, events, changing code, threads. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/vcpu/fake_vcpu.h"

/* A program: machine code between two labels, run at GUEST_CODE. */
#define PROGRAM(name, code)                                                          \
	__asm__(".pushsection .rodata\n" #name "_start:\n" code "\n" #name "_end:\n" \
		".popsection\n");                                                    \
	extern const uint8_t name##_start[], name##_end[]

#define LOAD(vcpu, name) load(vcpu, name##_start, name##_end)

static void load(struct quire_vcpu *vcpu, const uint8_t *start, const uint8_t *end)
{
	memcpy(vcpu->vm->ram + GUEST_CODE, start, end - start);
}

static int setup(void **state)
{
	*state = fake_vcpu_create(fake_vm_create());
	return 0;
}

static enum cpu_exit run(struct quire_vcpu *vcpu, struct cpu_exit_info *info)
{
	enum cpu_exit reason = cpu_run(vcpu->cpu, 0, info);

	assert_int_equal(vcpu->in_guest, 0);
	return reason;
}

static void run_to_halt(struct quire_vcpu *vcpu)
{
	struct cpu_exit_info info;

	assert_int_equal(run(vcpu, &info), CPU_EXIT_HLT);
}

static uint64_t guest64(struct quire_vcpu *vcpu, uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, vcpu->vm->ram + gpa, sizeof(value));
	return value;
}

static void set_guest64(struct quire_vcpu *vcpu, uint64_t gpa, uint64_t value)
{
	memcpy(vcpu->vm->ram + gpa, &value, sizeof(value));
}

/* The CPU stands behind the HLT of a handler: which? */
static unsigned int vector_of(struct quire_vcpu *vcpu)
{
	uint64_t rip = cpu_state(vcpu->cpu)->rip;

	assert_in_range(rip, GUEST_HANDLERS + 1, GUEST_HANDLERS + 32 * 16);
	return (rip - 1 - GUEST_HANDLERS) / 16;
}

/* A word of the frame a handler sees, 0 the deepest in memory. */
static uint64_t frame_word(struct quire_vcpu *vcpu, unsigned int index)
{
	return guest64(vcpu, cpu_state(vcpu->cpu)->gpr[CPU_RSP] + index * 8);
}

PROGRAM(sum, "mov $100000, %ecx; xor %eax, %eax; 1: add %rcx, %rax; dec %ecx; jnz 1b; hlt");

static void test_loop(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, sum);
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], UINT64_C(100000) * 100001 / 2);
	assert_int_equal(cpu_state(vcpu->cpu)->rflags, 0x46);
	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_CODE + (sum_end - sum_start));
}

PROGRAM(calls, "mov $20, %edi; call 2f; hlt;"
	       "2: cmp $2, %edi; jae 3f; mov %edi, %eax; ret;"
	       "3: push %rdi; dec %edi; call 2b; pop %rdi; push %rax; sub $2, %edi; call 2b;"
	       "pop %rcx; add %ecx, %eax; ret");

static void test_calls(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, calls);
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], 6765);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], GUEST_STACK);
}

PROGRAM(store_paged, "mov $0x400ff8, %rbx; mov $7, %eax; 1: mov %rax, 4(%rbx); hlt");

static void expect_page_fault(struct quire_vcpu *vcpu, uint64_t cr2, uint64_t error)
{
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 14);
	assert_int_equal(cpu_state(vcpu->cpu)->cr2, cr2);
	assert_int_equal(frame_word(vcpu, 0), error);
	assert_int_equal(frame_word(vcpu, 1), GUEST_CODE + 12);
	assert_int_equal(frame_word(vcpu, 2), SELECTOR_CODE);
	assert_int_equal(frame_word(vcpu, 4), GUEST_STACK);
}

/* A store over two pages of which the second is not there changes nothing. */
static void test_page_fault_crossing(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, store_paged);
	set_guest64(vcpu, GUEST_PT + 8, 0);
	expect_page_fault(vcpu, 0x401000, 2);
	assert_int_equal(guest64(vcpu, 0x400ff8), 0);
}

static void test_page_fault_write_protected(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, store_paged);
	set_guest64(vcpu, GUEST_PT, PAGED_LINEAR | 5);
	expect_page_fault(vcpu, 0x400ffc, 3);
}

static void test_page_fault_reserved(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, store_paged);
	set_guest64(vcpu, GUEST_PT, PAGED_LINEAR | 7 | UINT64_C(1) << 50);
	expect_page_fault(vcpu, 0x400ffc, 0xb);
}

static void test_smap(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, store_paged);
	/* All other pages must be the supervisor's. */
	for (unsigned int i = 0; i < 4; i++)
		set_guest64(vcpu, GUEST_PD + i * 8, guest64(vcpu, GUEST_PD + i * 8) & ~UINT64_C(4));
	set_guest64(vcpu, GUEST_PD + 16, guest64(vcpu, GUEST_PD + 16) | 4);
	cpu_state(vcpu->cpu)->cr4 |= UINT64_C(1) << 21;
	cpu_state_changed(vcpu->cpu);
	expect_page_fault(vcpu, 0x400ffc, 3);
}

/* Accessed and dirty bits appear in the guest's entries exactly when they should. */
static void test_accessed_dirty(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, store_paged);
	run_to_halt(vcpu);
	assert_int_equal(guest64(vcpu, GUEST_PT) & 0x60, 0x60);
	assert_int_equal(guest64(vcpu, GUEST_PT + 8) & 0x60, 0x60);
	assert_int_equal(guest64(vcpu, GUEST_PT + 16) & 0x60, 0);
	assert_int_equal(guest64(vcpu, GUEST_PD + 16) & 0x60, 0x20);
	assert_int_equal(guest64(vcpu, 0x400ffc), 7);
}

PROGRAM(remap, "mov $0x400000, %rbx; mov (%rbx), %rax; movq $0x405007, 0x4000; mov (%rbx), %rcx;"
	       "invlpg (%rbx); mov (%rbx), %rdx; hlt");

/* INVLPG, and only it, makes a changed entry visible. */
static void test_invlpg(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, remap);
	set_guest64(vcpu, 0x400000, 11);
	set_guest64(vcpu, 0x405000, 22);
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], 11);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], 11);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RDX], 22);
}

PROGRAM(mmio_rmw, "mov $0x40000ffc, %rbx; mov $5, %ecx; add %rcx, (%rbx); hlt");

static void answer(struct quire_vcpu *vcpu, uint64_t value, uint32_t size_bytes)
{
	assert_true(cpu_is_pending(vcpu->cpu));
	cpu_answer(vcpu->cpu, &value, size_bytes, false);
}

/* A read-modify-write over two pages of a device: two reads, then two writes. */
static void test_mmio_rmw(void **state)
{
	static const struct {
		uint64_t gpa;
		int is_write;
		uint32_t data;
	} want[] = {{0x40000ffc, 0, 0xfffffffe},
		    {0x40001000, 0, 0x10},
		    {0x40000ffc, 1, 3},
		    {0x40001000, 1, 0x11}};
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, mmio_rmw);
	for (unsigned int i = 0; i < 4; i++) {
		uint32_t data;

		assert_int_equal(run(vcpu, &info), CPU_EXIT_MMIO);
		assert_int_equal(info.io.address, want[i].gpa);
		assert_int_equal(info.io.size_bytes, 4);
		assert_int_equal(info.io.is_write, want[i].is_write);
		memcpy(&data, info.io.data, sizeof(data));
		if (want[i].is_write)
			assert_int_equal(data, want[i].data);
		assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_CODE + 12);
		answer(vcpu, want[i].data, want[i].is_write ? 0 : 4);
	}
	run_to_halt(vcpu);
	assert_false(cpu_is_pending(vcpu->cpu));
	assert_int_equal(cpu_state(vcpu->cpu)->rflags & 0x8d5, 0x04 | 0x10);
}

PROGRAM(mmio_load, "mov $0x40000000, %rbx; mov (%rbx), %eax; hlt");

/* Completion only: the instruction retires, the next one does not run. */
static void test_complete(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, mmio_load);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_MMIO);
	answer(vcpu, 0x55, 4);
	vcpu->doorbell = UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT;
	assert_int_equal(cpu_run(vcpu->cpu, CPU_RUN_COMPLETE, &info), CPU_EXIT_STEPPED);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], 0x55);
	assert_int_equal(cpu_state(vcpu->cpu)->rip,
			 GUEST_CODE + mmio_load_end - mmio_load_start - 1);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_INTR);
	run_to_halt(vcpu);
}

/* The client moves RIP away: the answer is forgotten. */
static void test_pending_dropped(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, mmio_load);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_MMIO);
	answer(vcpu, 0x55, 4);
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state_changed(vcpu->cpu);
	assert_false(cpu_is_pending(vcpu->cpu));
	assert_int_equal(run(vcpu, &info), CPU_EXIT_MMIO);
}

PROGRAM(rom_rmw, "lock incl 0x30000; mov 0x30000, %eax; hlt");

/* Read-only memory is read as memory and written as a device. */
static void test_read_only_memory(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, rom_rmw);
	vcpu->read_only_gpa = GUEST_DATA;
	set_guest64(vcpu, GUEST_DATA, 41);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_MMIO);
	assert_true(info.io.is_write);
	assert_int_equal(info.io.data[0], 42);
	answer(vcpu, 0, 0);
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX], 41);
}

PROGRAM(outs, "mov $0x30000, %esi; mov $3, %ecx; mov $0x3f8, %edx; rep outsb; hlt");

static void test_string_out(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, outs);
	memcpy(vcpu->vm->ram + GUEST_DATA, "abc", 3);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(run(vcpu, &info), CPU_EXIT_IO);
		assert_int_equal(info.io.address, 0x3f8);
		assert_int_equal(info.io.data[0], 'a' + i);
		assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], 3 - i);
		answer(vcpu, 0, 0);
	}
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSI], GUEST_DATA + 3);
}

PROGRAM(ins, "mov $0x30000, %edi; mov $1000, %ecx; mov $0x1f0, %edx; rep insw; hlt");

static void test_string_in_kernel(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, ins);
	vcpu->device_in_kernel = 1;
	vcpu->device_value = 0xbeef;
	run_to_halt(vcpu);
	assert_int_equal(vcpu->device_calls, 1000);
	assert_int_equal(guest64(vcpu, GUEST_DATA + 1992), UINT64_C(0xbeefbeefbeefbeef));
	assert_int_equal(guest64(vcpu, GUEST_DATA + 2000), 0);
}

PROGRAM(copy, "mov $0x400000, %esi; mov $0x480003, %edi; mov $0x20000, %ecx; rep movsb;"
	      "mov $0x5a, %al; mov $0x480803, %edi; mov $0x10000, %ecx; rep stosb; hlt");

static void test_string_bulk(void **state)
{
	struct quire_vcpu *vcpu = *state;
	uint8_t *ram = vcpu->vm->ram;

	LOAD(vcpu, copy);
	for (unsigned int i = 0; i < 0x20000; i++)
		ram[0x400000 + i] = i * 7 + (i >> 8);
	run_to_halt(vcpu);
	assert_memory_equal(ram + 0x480003, ram + 0x400000, 0x800);
	for (unsigned int i = 0; i < 0x10000; i++)
		assert_int_equal(ram[0x480803 + i], 0x5a);
	assert_memory_equal(ram + 0x490803, ram + 0x410800, 0x20000 - 0x10800);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], 0);
}

/* A string that meets a missing page stops at the element. */
static void test_string_fault(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, copy);
	set_guest64(vcpu, GUEST_PT + 0x81 * 8, 0);
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 14);
	assert_int_equal(cpu_state(vcpu->cpu)->cr2, 0x481000);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RDI], 0x481000);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RCX], 0x20000 - 0xffd);
}

PROGRAM(modify, "xor %eax, %eax; lea 1f(%rip), %rbx; mov $3, %ecx;"
		"2: incb 1(%rbx); 1: mov $0x10, %al; add %al, %dl; dec %ecx; jnz 2b; hlt");

/* The instruction right behind the store, in the same block. */
static void test_self_modifying(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, modify);
	cpu_state(vcpu->cpu)->gpr[CPU_RDX] = 0;
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RDX], 0x11 + 0x12 + 0x13);
}

/* The client writes code between two runs. */
static void test_client_changes_code(void **state)
{
	struct quire_vcpu *vcpu = *state;

	vcpu->vm->ram[GUEST_CODE] = 0xb0; /* mov $1, %al; hlt */
	vcpu->vm->ram[GUEST_CODE + 1] = 1;
	vcpu->vm->ram[GUEST_CODE + 2] = 0xf4;
	run_to_halt(vcpu);
	vcpu->vm->ram[GUEST_CODE + 1] = 9;
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state(vcpu->cpu)->halted = 0;
	run_to_halt(vcpu);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RAX] & 0xff, 9);
}

PROGRAM(divide, "xor %edx, %edx; xor %ecx, %ecx; mov $1, %eax; stc; div %ecx; hlt");

static void test_divide_error(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, divide);
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 0);
	assert_int_equal(frame_word(vcpu, 0), GUEST_CODE + 10);
	assert_int_equal(frame_word(vcpu, 2) & 1, 1);
}

PROGRAM(user, "push $0x1b; push $0x30000; pushf; push $0x23; lea 1f(%rip), %rax; push %rax; iretq;"
	      "1: mov $1, %ebx; int $17; hlt");

/* To user mode and back: stack switch, selectors, return address. */
static void test_user_mode(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, user);
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 17);
	assert_int_equal(frame_word(vcpu, 1), SELECTOR_USER_CODE);
	assert_int_equal(frame_word(vcpu, 3), 0x30000);
	assert_int_equal(frame_word(vcpu, 4), SELECTOR_USER_DATA);
	assert_int_equal(cpu_state(vcpu->cpu)->seg[CPU_SS].selector, 0);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RSP], GUEST_STACK - 40);
}

PROGRAM(wait_if, "sti; nop; 1: jmp 1b");

static void test_interrupt(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, wait_if);
	vcpu->interrupt = 20;
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 20);
	assert_int_equal(frame_word(vcpu, 0), GUEST_CODE + 2); /* behind the shadow */
	assert_int_equal(frame_word(vcpu, 2) & 0x200, 0x200);
	assert_int_equal(cpu_state(vcpu->cpu)->rflags & 0x200, 0);
}

static void test_irq_window(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, wait_if);
	assert_int_equal(cpu_run(vcpu->cpu, CPU_RUN_IRQ_WINDOW, &info), CPU_EXIT_IRQ_WINDOW);
	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_CODE + 2);
}

static void *ring_later(void *argument)
{
	struct timespec delay = {.tv_nsec = 20000000};

	nanosleep(&delay, NULL);
	quire_vcpu_request(argument, UINT64_C(1) << (QUIRE_REQ_CLIENT_SHIFT + 3));
	return NULL;
}

static void test_doorbell(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;
	pthread_t thread;

	LOAD(vcpu, wait_if);
	pthread_create(&thread, NULL, ring_later, vcpu);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_INTR);
	pthread_join(thread, NULL);
	assert_int_equal(vcpu->doorbell, 0);
}

PROGRAM(triple, "lidt 1f(%rip); ud2; 1: .quad 0; .quad 0");

static void test_shutdown(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, triple);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_SHUTDOWN);
}

static void test_double_fault(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, store_paged);
	set_guest64(vcpu, GUEST_PT, 0);
	set_guest64(vcpu, GUEST_IDT + 14 * 16, 0); /* #PF cannot be delivered: #NP or #GP */
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 8);
	assert_int_equal(frame_word(vcpu, 0), 0);
	assert_int_equal(frame_word(vcpu, 1), GUEST_CODE + 12);
}

PROGRAM(idt_device, "lidt 1f(%rip); ud2; 1: .word 0xfff; .quad 0x40000000");

static void test_idt_in_device(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, idt_device);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_DELIVERY);
	assert_int_equal(info.gpa, 0x40000000 + 6 * 16);
	assert_int_equal(info.vector_info, UINT64_C(0x80000306));
}

/* Reset, and no memory at all: the first fetch ends the run. */
static void test_reset_without_memory(void **state)
{
	struct quire_vcpu *vcpu = *state, *fresh = fake_vcpu_create(vcpu->vm);
	struct cpu_exit_info info;
	struct cpu_state *s;

	s = cpu_state(fresh->cpu);
	s->cr0 = 0x60000010;
	s->cr4 = s->efer = 0;
	s->seg[CPU_CS] = (struct cpu_segment){.base = 0xffff0000,
					      .limit = 0xffff,
					      .selector = 0xf000,
					      .type = 11,
					      .s = 1,
					      .present = 1};
	s->rip = 0xfff0;
	cpu_state_changed(fresh->cpu);
	assert_int_equal(run(fresh, &info), CPU_EXIT_EMULATION);
	assert_int_equal(info.insn_size_bytes, 0);
	assert_int_equal(fresh->last_fault_gpa, 0xfffffff0);
	assert_true(fresh->last_fault_error & QUIRE_PFERR_FETCH);
	fake_vcpu_destroy(fresh);
}

PROGRAM(unknown, "aesenc %xmm1, %xmm2; hlt");

static void test_unknown_instruction(void **state)
{
	struct quire_vcpu *vcpu = *state;

	LOAD(vcpu, unknown);
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 6);
}

PROGRAM(msrs, "mov $0x1234, %ecx; rdmsr; mov %eax, %ebx; mov $0x4321, %ecx; rdmsr; hlt");

static void test_msr(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, msrs);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_MSR_READ);
	assert_int_equal(info.msr_index, 0x4321);
	assert_int_equal(cpu_state(vcpu->cpu)->gpr[CPU_RBX], 0x1234);
	cpu_answer(vcpu->cpu, NULL, 0, true);
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 13);
}

/* The host takes the page away for good: the run ends, it does not spin. */
static void test_host_page_lost(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	fake_signals_install(); /* cmocka has put its own there */
	LOAD(vcpu, store_paged);
	mprotect(vcpu->vm->ram + PAGED_LINEAR, 4096, PROT_NONE);
	assert_int_equal(run(vcpu, &info), CPU_EXIT_ERROR);
	assert_int_equal(info.error, -EFAULT);
	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_CODE + 12);
	mprotect(vcpu->vm->ram + PAGED_LINEAR, 4096, PROT_READ | PROT_WRITE);
	run_to_halt(vcpu);
	assert_int_equal(guest64(vcpu, 0x400ffc), 7);
}

/* A memory failure under an access: the library is told of the frame, then asked about the page. */
static void test_memory_failure(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	fake_signals_install();
	LOAD(vcpu, store_paged);
	mprotect(vcpu->vm->ram + PAGED_LINEAR, 4096, PROT_NONE);
	fake_memory_failure = 1;
	assert_int_equal(run(vcpu, &info), CPU_EXIT_ERROR);
	fake_memory_failure = 0;
	assert_int_equal(info.error, -EHWPOISON);
	assert_true(vcpu->lost_pfn == (uint64_t)(uintptr_t)(vcpu->vm->ram + PAGED_LINEAR) >> 12);
	assert_int_equal(cpu_state(vcpu->cpu)->rip, GUEST_CODE + 12);
	vcpu->lost_pfn = 0;
	mprotect(vcpu->vm->ram + PAGED_LINEAR, 4096, PROT_READ | PROT_WRITE);
	run_to_halt(vcpu);
	assert_int_equal(guest64(vcpu, 0x400ffc), 7);
	assert_true(!vcpu->lost_pfn);
	/* And memory that changes for longer than an access that fails is tried. */
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state(vcpu->cpu)->halted = 0;
	mprotect(vcpu->vm->ram + PAGED_LINEAR, 4096, PROT_NONE);
	vcpu->retries = 1000;
	run_to_halt(vcpu);
	assert_int_equal(vcpu->retries, 0);
}

/* A flush request drops what was cached. */
static void test_flush_request(void **state)
{
	struct quire_vcpu *vcpu = *state;
	unsigned int faults;

	LOAD(vcpu, store_paged);
	run_to_halt(vcpu);
	faults = vcpu->faults;
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state(vcpu->cpu)->halted = 0;
	run_to_halt(vcpu);
	assert_int_equal(vcpu->faults, faults);
	fake_vm_zap(vcpu->vm, vcpu);
	cpu_state(vcpu->cpu)->rip = GUEST_CODE;
	cpu_state(vcpu->cpu)->halted = 0;
	run_to_halt(vcpu);
	assert_true(vcpu->faults > faults);
}

PROGRAM(step_code, "mov $1, %eax; mov $2, %ebx; hlt");

static void test_single_step(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;

	LOAD(vcpu, step_code);
	assert_int_equal(cpu_run(vcpu->cpu, CPU_RUN_STEP, &info), CPU_EXIT_DEBUG);
	assert_int_equal(info.debug_pc, GUEST_CODE + 5);
	assert_int_equal(info.debug_dr6 & 0x4000, 0x4000);
	cpu_state(vcpu->cpu)->rflags |= 0x100;
	run_to_halt(vcpu);
	assert_int_equal(vector_of(vcpu), 1);
	assert_int_equal(frame_word(vcpu, 0), GUEST_CODE + 10);
}

PROGRAM(atomics, "mov $100000, %ecx; mov $0x30000, %ebx; 1: lock incq (%rbx); mov $1, %eax;"
		 "lock xadd %eax, 8(%rbx); lock btcq $0, 16(%rbx); 2: mov 24(%rbx), %rax;"
		 "lea 3(%rax), %rdx; lock cmpxchg %rdx, 24(%rbx); jne 2b; dec %ecx; jnz 1b; hlt");

static void *run_thread(void *argument)
{
	struct cpu_exit_info info;
	struct quire_vcpu *vcpu = argument;

	return (void *)(uintptr_t)(cpu_run(vcpu->cpu, 0, &info) != CPU_EXIT_HLT);
}

static void test_atomics(void **state)
{
	struct quire_vcpu *vcpu = *state, *other = fake_vcpu_create(vcpu->vm);
	pthread_t threads[2];
	void *failed[2];

	LOAD(vcpu, atomics);
	pthread_create(&threads[0], NULL, run_thread, vcpu);
	pthread_create(&threads[1], NULL, run_thread, other);
	for (unsigned int i = 0; i < 2; i++) {
		pthread_join(threads[i], &failed[i]);
		assert_null(failed[i]);
	}
	assert_int_equal(guest64(vcpu, GUEST_DATA), 200000);
	assert_int_equal(guest64(vcpu, GUEST_DATA + 8), 200000);
	assert_int_equal(guest64(vcpu, GUEST_DATA + 16), 0);
	assert_int_equal(guest64(vcpu, GUEST_DATA + 24), 600000);
	fake_vcpu_destroy(other);
}

PROGRAM(real_mode, ".code16; mov $0x3f8, %dx; add %bl, %al; add $0x30, %al; out %al, (%dx);"
		   "mov $0x3000, %ax; mov %ax, %ds; movb $7, 5; push %ax; int $0x21; hlt; .code64");
PROGRAM(to_protected, ".code16; lgdtl %cs:2f-to_protected_start; mov %cr0, %eax; or $1, %al;"
		      "mov %eax, %cr0; ljmpl $8, $0x10000 + 1f - to_protected_start;"
		      ".code32; 1: mov $16, %eax; mov %eax, %ds; mov %eax, %ss;"
		      "mov $0x20000, %esp; movl $0x12345678, 0x30000; push $5; pop %ebx;"
		      "lcall $8, $0x10000 + 3f - to_protected_start; hlt; 3: inc %ebx; lret;"
		      "2: .word 23; .long 0x10000 + 4f - to_protected_start;"
		      "4: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff; .code64");

static void enter_real_mode(struct quire_vcpu *vcpu)
{
	struct cpu_state *s = cpu_state(vcpu->cpu);
	struct cpu_segment segment = {.limit = 0xffff, .type = 3, .s = 1, .present = 1};

	s->cr0 = 0x10;
	s->cr4 = s->efer = 0;
	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] = segment;
	s->seg[CPU_CS].type = 11;
	s->seg[CPU_CS].selector = GUEST_CODE >> 4;
	s->seg[CPU_CS].base = GUEST_CODE;
	s->idt = (struct cpu_table){0, 0x3ff};
	s->rip = 0;
	s->gpr[CPU_RSP] = 0x8000;
	s->gpr[CPU_RAX] = 2;
	s->gpr[CPU_RBX] = 3;
	cpu_state_changed(vcpu->cpu);
}

static void test_real_mode(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_exit_info info;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	LOAD(vcpu, real_mode);
	enter_real_mode(vcpu);
	set_guest64(vcpu, 0x21 * 4, 0x10001234);
	vcpu->vm->ram[GUEST_CODE + 0x1234] = 0xf4;
	assert_int_equal(run(vcpu, &info), CPU_EXIT_IO);
	assert_int_equal(info.io.data[0], '5');
	answer(vcpu, 0, 0);
	run_to_halt(vcpu);
	assert_int_equal(vcpu->vm->ram[0x30005], 7);
	assert_int_equal(s->rip, 0x1235);
	assert_int_equal(s->gpr[CPU_RSP], 0x8000 - 2 - 6);
	assert_int_equal(guest64(vcpu, 0x8000 - 8) & 0xffffffff,
			 (uint64_t)(GUEST_CODE >> 4) << 16 | (real_mode_end - real_mode_start - 1));
}

/* From real to 32-bit protected mode, with a far call there. */
static void test_protected_mode(void **state)
{
	struct quire_vcpu *vcpu = *state;
	struct cpu_state *s = cpu_state(vcpu->cpu);

	LOAD(vcpu, to_protected);
	enter_real_mode(vcpu);
	run_to_halt(vcpu);
	assert_int_equal(guest64(vcpu, GUEST_DATA) & 0xffffffff, 0x12345678);
	assert_int_equal(s->gpr[CPU_RBX], 6);
	assert_int_equal(s->gpr[CPU_RSP], 0x20000);
	assert_int_equal(s->seg[CPU_CS].selector, 8);
	assert_int_equal(s->seg[CPU_CS].limit, 0xffffffff);
}

static void test_translate(void **state)
{
	struct quire_vcpu *vcpu = *state;
	gpa_t gpa;

	set_guest64(vcpu, GUEST_PT + 8, 0x405007);
	set_guest64(vcpu, GUEST_PT + 16, 0);
	assert_true(cpu_translate(vcpu->cpu, PAGED_LINEAR + 0x1234, &gpa));
	assert_int_equal(gpa.v, 0x405234);
	assert_false(cpu_translate(vcpu->cpu, PAGED_LINEAR + 0x2000, &gpa));
	/* As KVM: no look at the bits above those that index tables. */
	assert_true(cpu_translate(vcpu->cpu, UINT64_C(1) << 60 | (PAGED_LINEAR + 0x1234), &gpa));
	assert_int_equal(gpa.v, 0x405234);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fake_vcpu_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_loop),
	    TEST(test_calls),
	    TEST(test_page_fault_crossing),
	    TEST(test_page_fault_write_protected),
	    TEST(test_page_fault_reserved),
	    TEST(test_smap),
	    TEST(test_accessed_dirty),
	    TEST(test_invlpg),
	    TEST(test_mmio_rmw),
	    TEST(test_complete),
	    TEST(test_pending_dropped),
	    TEST(test_read_only_memory),
	    TEST(test_string_out),
	    TEST(test_string_in_kernel),
	    TEST(test_string_bulk),
	    TEST(test_string_fault),
	    TEST(test_self_modifying),
	    TEST(test_client_changes_code),
	    TEST(test_divide_error),
	    TEST(test_user_mode),
	    TEST(test_interrupt),
	    TEST(test_irq_window),
	    TEST(test_doorbell),
	    TEST(test_shutdown),
	    TEST(test_double_fault),
	    TEST(test_idt_in_device),
	    TEST(test_reset_without_memory),
	    TEST(test_unknown_instruction),
	    TEST(test_msr),
	    TEST(test_host_page_lost),
	    TEST(test_memory_failure),
	    TEST(test_flush_request),
	    TEST(test_single_step),
	    TEST(test_atomics),
	    TEST(test_real_mode),
	    TEST(test_protected_mode),
	    TEST(test_translate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
