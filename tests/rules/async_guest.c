/* A guest that asks for asynchronous page faults, and pages that a userfaultfd keeps back. */
#include "async_guest.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * r15 is DATA_GPA, r14 the place, rbx the page to load. The handler of #PF waits until its own
 * token is among those that are ready; on the way it may touch a second page.
 */
asm(".pushsection .rodata\n"
    "apf_text:\n"
    "apf_main:\n"
    " movq (%rbx), %rax\n"
    " out %al, $0x80\n"
    "apf_store:\n"
    " movq %rsi, (%rbx)\n"
    " movq (%rbx), %rax\n"
    " out %al, $0x80\n"
    "apf_fault:\n"
    " push %rax\n push %rcx\n push %rdx\n"
    " movq %cr2, %rax\n"
    " movq (%r15), %rcx\n"
    " movq %rax, 0x50(%r15,%rcx,8)\n"
    " incq (%r15)\n"
    " movq %rax, 0x8(%r15)\n"
    " movl (%r14), %ecx\n"
    " movq %rcx, 0x10(%r15)\n"
    " movl $0, (%r14)\n"
    " sti\n"
    " xorl %ecx, %ecx\n"
    " xchgq %rcx, 0x40(%r15)\n"
    " testq %rcx, %rcx\n"
    " jz 1f\n"
    " movq (%rcx), %rcx\n"
    " movq %rcx, 0x48(%r15)\n"
    "1: incq 0x18(%r15)\n"
    " xorl %ecx, %ecx\n"
    "2: cmpq %rcx, 0x30(%r15)\n"
    " je 1b\n"
    " cmpq %rax, 0x70(%r15,%rcx,8)\n"
    " je 3f\n"
    " incq %rcx\n"
    " jmp 2b\n"
    "3: cli\n"
    " pop %rdx\n pop %rcx\n pop %rax\n"
    " addq $8, %rsp\n"
    " iretq\n"
    "apf_ready:\n"
    " push %rax\n push %rcx\n push %rdx\n"
    " movl 4(%r14), %eax\n"
    " movl $0, 4(%r14)\n"
    " cmpl $-1, %eax\n"
    " jne 1f\n"
    " incq 0x28(%r15)\n"
    " jmp 2f\n"
    "1: movq %rax, 0x20(%r15)\n"
    " movq 0x30(%r15), %rcx\n"
    " movq %rax, 0x70(%r15,%rcx,8)\n"
    " incq 0x30(%r15)\n"
    "2: movl $0x80b, %ecx\n xorl %eax, %eax\n xorl %edx, %edx\n wrmsr\n"
    " movl $0x4b564d07, %ecx\n movl $1, %eax\n xorl %edx, %edx\n wrmsr\n"
    " pop %rdx\n pop %rcx\n pop %rax\n"
    " iretq\n"
    "apf_other:\n"
    " push %rax\n push %rcx\n push %rdx\n"
    " incq 0x38(%r15)\n"
    " movl $0x80b, %ecx\n xorl %eax, %eax\n xorl %edx, %edx\n wrmsr\n"
    " pop %rdx\n pop %rcx\n pop %rax\n"
    " iretq\n"
    "apf_end:\n"
    ".popsection\n");
extern const uint8_t apf_text[], apf_main[], apf_store[], apf_fault[], apf_ready[], apf_other[],
    apf_end[];

struct vm vm;
struct vcpu vcpu;
uint8_t *memory, *slow;
volatile struct notes *notes;
volatile uint32_t *place;
int events;
pthread_t thread;
struct outcome outcome;

long set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index, .data = value}};

	return ioctl(vcpu.fd, KVM_SET_MSRS, &one);
}

uint64_t get_msr(uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index}};

	CHECK_EQ(ioctl(vcpu.fd, KVM_GET_MSRS, &one), 1);
	return one.entry.data;
}

static void set_gate(uint32_t vector, const uint8_t *handler)
{
	uint64_t at = GPA + CODE_PAGE * PAGE + (uint64_t)(handler - apf_text);
	uint64_t *gate = (uint64_t *)(memory + IDT_PAGE * PAGE) + 2ul * vector;

	gate[0] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at & 0xffff0000) << 32;
	gate[1] = at >> 32;
}

static void set_tables(void)
{
	uint64_t *gdt = (uint64_t *)(memory + GDT_PAGE * PAGE);
	struct kvm_sregs sregs;

	memcpy(memory + CODE_PAGE * PAGE, apf_text, (size_t)(apf_end - apf_text));
	set_gate(VECTOR_PF, apf_fault);
	set_gate(VECTOR_READY, apf_ready);
	set_gate(VECTOR_OTHER, apf_other);
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.idt = (struct kvm_dtable){.base = GPA + IDT_PAGE * PAGE, .limit = 4095};
	sregs.gdt = (struct kvm_dtable){.base = GPA + GDT_PAGE * PAGE, .limit = 23};
	sregs.apic_base |= 1u << 10;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	CHECK_EQ(set_msr(0x80f, 0x1ff), 1);
}

/* The pages that come late do so from now on. */
static void hold_back(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register watch = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	events = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (events < 0 || ioctl(events, UFFDIO_API, &api))
		check_skip("no userfaultfd here");
	watch.range.start = (uintptr_t)slow;
	watch.range.len = SLOW_PAGES * PAGE;
	CHECK_ZERO(ioctl(events, UFFDIO_REGISTER, &watch));
}

void open_machine_without_msrs(unsigned long id)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (vm_cap(&vm, KVM_CAP_ASYNC_PF_INT) <= 0)
		check_skip("no asynchronous page faults by interrupt");
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, id);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_MP_STATE,
			 &(struct kvm_mp_state){.mp_state = KVM_MP_STATE_RUNNABLE}));
	memory = memory_alloc(PAGES * PAGE);
	slow = memory_alloc(SLOW_PAGES * PAGE);
	notes = (volatile struct notes *)(memory + DATA_PAGE * PAGE);
	place = (volatile uint32_t *)(memory + PLACE_PAGE * PAGE + 64);
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = GPA, .memory_size = PAGES * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = SLOW_GPA,
			  .memory_size = SLOW_PAGES * PAGE, .userspace_addr = (uintptr_t)slow));
	set_tables();
	hold_back();
}

void open_machine(uint64_t how)
{
	open_machine_without_msrs(VCPU_ID);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | how), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, VECTOR_READY), 1);
}

void prepare(uint64_t page, uint64_t flags)
{
	struct kvm_regs regs = {
	    .rip = GPA + CODE_PAGE * PAGE + (uint64_t)(apf_main - apf_text),
	    .rsp = GPA + STACK_PAGE * PAGE,
	    .rflags = 2 | flags,
	    .rbx = SLOW_GPA + page * PAGE,
	    .r14 = PLACE_GPA,
	    .r15 = DATA_GPA,
	};

	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
}

void prepare_store(uint64_t page, uint64_t value)
{
	struct kvm_regs regs;

	prepare(page, FLAG_IF);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	regs.rip = GPA + CODE_PAGE * PAGE + (uint64_t)(apf_store - apf_text);
	regs.rsi = value;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
}

void *runner(void *argument)
{
	*(struct outcome *)argument = vcpu_run(&vcpu);
	return argument;
}

void start(uint64_t page, uint64_t flags)
{
	prepare(page, flags);
	CHECK_ZERO(pthread_create(&thread, NULL, runner, &outcome));
}

void finish(uint64_t value)
{
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, value);
}

uint64_t next_wanted(void)
{
	struct pollfd ready = {.fd = events, .events = POLLIN};
	struct uffd_msg message;

	CHECK_EQ(poll(&ready, 1, WAIT_MS), 1);
	CHECK_EQ(read(events, &message, sizeof(message)), sizeof(message));
	CHECK_EQ(message.event, UFFD_EVENT_PAGEFAULT);
	return (message.arg.pagefault.address - (uintptr_t)slow) / PAGE;
}

void start_and_miss(uint64_t flags)
{
	start(0, flags);
	CHECK_EQ(next_wanted(), 0);
}

void start_and_miss_two(uint64_t second)
{
	uint64_t first_asked, then_asked;

	notes->second = SLOW_GPA + second * PAGE;
	start(0, FLAG_IF);
	first_asked = next_wanted();
	then_asked = next_wanted();
	CHECK_EQ(first_asked + then_asked, second);
	CHECK(first_asked == 0 || first_asked == second);
}

void bring(uint64_t page)
{
	static uint64_t source[512] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {
	    .dst = (uintptr_t)slow + page * PAGE, .src = (uintptr_t)source, .len = PAGE};

	source[0] = 0x1000 + page;
	CHECK_ZERO(ioctl(events, UFFDIO_COPY, &copy));
}

int grows_beyond(volatile uint64_t *count, uint64_t value)
{
	for (int i = 0; i < WAIT_MS && *count <= value; i++)
		usleep(1000);
	return *count > value;
}

static void no_work(int number)
{
	(void)number;
}

int async_main(int argc, char **argv, const struct check_test *tests, size_t count)
{
	struct sigaction action = {.sa_handler = no_work};

	sigaction(SIGUSR1, &action, NULL);
	return check_main(argc, argv, tests, count);
}
