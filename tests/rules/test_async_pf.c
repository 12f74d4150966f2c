/*
 * Asynchronous page faults: while a userfaultfd keeps a page back, the guest is told so by #PF and
 * runs something else, until an interrupt says that the page has come.
 */
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

/* The guest's slot: what it runs and writes; and the pages that come late. */
#define GPA 0x10000000ul
#define SLOW_GPA 0x20000000ul
#define SLOW_PAGES 8ul
#define PAGES 8ul
#define CODE_PAGE 0
#define IDT_PAGE 1
#define GDT_PAGE 2
#define DATA_PAGE 3
#define PLACE_PAGE 4
#define STACK_PAGE 6 /* its end */
#define TSS_PAGE 7
#define DATA_GPA (GPA + DATA_PAGE * PAGE)
#define PLACE_GPA (GPA + PLACE_PAGE * PAGE + 64)

#define VECTOR_PF 14
#define VECTOR_READY 0x60
#define VECTOR_OTHER 0x61
#define VCPU_ID 5ul
#define ALWAYS (KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT | KVM_ASYNC_PF_SEND_ALWAYS)
#define USER_ONLY (KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define FLAG_IF 0x200u
#define FLAG_IOPL 0x3000u
#define ENOUGH 1000u
#define WAIT_MS 5000

/* What the guest notes, at DATA_GPA. Offsets are in the code below, too. */
struct notes {
	uint64_t faults;	/* 0x00: #PF that it took */
	uint64_t fault_token;	/* 0x08: CR2 of the last one */
	uint64_t reason;	/* 0x10: the place's first word at that time */
	uint64_t other_work;	/* 0x18: what it did meanwhile */
	uint64_t ready_token;	/* 0x20: of the last page that came */
	uint64_t broadcasts;	/* 0x28: tokens that mean all */
	uint64_t readies;	/* 0x30: pages that came */
	uint64_t others;	/* 0x38: interrupts with another meaning */
	uint64_t second;	/* 0x40: a page to touch while the first is missing; 0: none */
	uint64_t second_value;	/* 0x48 */
	uint64_t tokens[4];	/* 0x50: of each fault */
	uint64_t ready_list[4]; /* 0x70: of each page that came */
};

/*
 * r15 is DATA_GPA, r14 the place, rbx the page to load. The handler of #PF waits until its own
 * token is among those that are ready; on the way it may touch a second page.
 */
asm(".pushsection .rodata\n"
    "apf_text:\n"
    "apf_main:\n"
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
extern const uint8_t apf_text[], apf_main[], apf_fault[], apf_ready[], apf_other[], apf_end[];

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory, *slow;
static volatile struct notes *notes;
static volatile uint32_t *place;
static int events;
static char *cold_name;

static long set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index, .data = value}};

	return ioctl(vcpu.fd, KVM_SET_MSRS, &one);
}

static uint64_t get_msr(uint32_t index)
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

static void open_machine_without_msrs(unsigned long id)
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

static void open_machine(uint64_t how)
{
	open_machine_without_msrs(VCPU_ID);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | how), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, VECTOR_READY), 1);
}

/* The guest loads the slow page @page, with or without interrupts. */
static void prepare(uint64_t page, uint64_t flags)
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

static void *runner(void *argument)
{
	*(struct outcome *)argument = vcpu_run(&vcpu);
	return argument;
}

static pthread_t thread;
static struct outcome outcome;

static void start(uint64_t page, uint64_t flags)
{
	prepare(page, flags);
	CHECK_ZERO(pthread_create(&thread, NULL, runner, &outcome));
}

/* It has loaded @value. */
static void finish(uint64_t value)
{
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, value);
}

/* The next page that is asked for. */
static uint64_t next_wanted(void)
{
	struct pollfd ready = {.fd = events, .events = POLLIN};
	struct uffd_msg message;

	CHECK_EQ(poll(&ready, 1, WAIT_MS), 1);
	CHECK_EQ(read(events, &message, sizeof(message)), sizeof(message));
	CHECK_EQ(message.event, UFFD_EVENT_PAGEFAULT);
	return (message.arg.pagefault.address - (uintptr_t)slow) / PAGE;
}

static void bring(uint64_t page)
{
	static uint64_t source[512] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {
	    .dst = (uintptr_t)slow + page * PAGE, .src = (uintptr_t)source, .len = PAGE};

	source[0] = 0x1000 + page;
	CHECK_ZERO(ioctl(events, UFFDIO_COPY, &copy));
}

static int grows_beyond(volatile uint64_t *count, uint64_t value)
{
	for (int i = 0; i < WAIT_MS && *count <= value; i++)
		usleep(1000);
	return *count > value;
}

/* The guest's tables let user mode in, and the processor finds a stack for its way back. */
static void allow_user_mode(void)
{
	uint64_t *gdt = (uint64_t *)(memory + GDT_PAGE * PAGE);
	uint64_t *tss = (uint64_t *)(memory + TSS_PAGE * PAGE);
	struct kvm_sregs sregs;
	uint64_t *entry, *end = (uint64_t *)(vm.agent + AGENT_BYTES);

	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	for (entry = (uint64_t *)(vm.agent + sregs.cr3 - AGENT_GPA); entry < end; entry++)
		if (*entry & 1)
			*entry |= 4;
	gdt[3] = 0x00cff3000000ffff;
	gdt[4] = 0x00affb000000ffff;
	/* RSP0 is at 4, across two words. */
	tss[0] = (GPA + STACK_PAGE * PAGE) << 32;
	tss[1] = (GPA + STACK_PAGE * PAGE) >> 32;
	sregs.tr = (struct kvm_segment){
	    .base = GPA + TSS_PAGE * PAGE, .limit = 103, .selector = 40, .type = 11, .present = 1};
	sregs.gdt.limit = 39;
	sregs.cs = (struct kvm_segment){.limit = UINT32_MAX,
					.selector = 35,
					.type = 11,
					.present = 1,
					.dpl = 3,
					.s = 1,
					.l = 1,
					.g = 1};
	sregs.ss = (struct kvm_segment){.limit = UINT32_MAX,
					.selector = 27,
					.type = 3,
					.present = 1,
					.dpl = 3,
					.db = 1,
					.s = 1,
					.g = 1};
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
}

/* What a guest wants that asks for no more: its user's tasks are put aside, its kernel is not. */
static void a_task_in_user_mode_is_put_aside(void)
{
	open_machine(USER_ONLY);
	allow_user_mode();
	start(3, FLAG_IF | FLAG_IOPL);
	CHECK_EQ(next_wanted(), 3);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	bring(3);
	finish(0x1003);
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->ready_token, notes->fault_token);
	CHECK(stat_get(vcpu.fd, "pf_guest") >= 1);
}

static void something_else_runs_meanwhile(void)
{
	open_machine(ALWAYS);
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->reason, KVM_PV_REASON_PAGE_NOT_PRESENT);
	CHECK_EQ(notes->readies, 0);
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->readies, 1);
	CHECK_EQ(notes->ready_token, notes->fault_token);
	/* Turning it on has woken whatever may have waited before. */
	CHECK_EQ(notes->broadcasts, 1);
	/* The page is mapped: nothing is told of it a second time. */
	start(0, FLAG_IF);
	finish(0x1000);
	CHECK_EQ(notes->faults, 1);
}

static void tokens_name_the_vcpu_and_are_never_zero(void)
{
	open_machine_without_msrs(0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | ALWAYS), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, VECTOR_READY), 1);
	for (uint64_t page = 0; page < 3; page++) {
		start(page, FLAG_IF);
		CHECK_EQ(next_wanted(), page);
		CHECK(grows_beyond(&notes->other_work, 0));
		notes->other_work = 0;
		bring(page);
		finish(0x1000 + page);
		CHECK_EQ(notes->fault_token, (page + 1) << 12);
		CHECK_EQ(notes->ready_token, (page + 1) << 12);
	}
}

static void the_number_of_the_vcpu_is_in_the_token(void)
{
	open_machine(ALWAYS);
	start(1, FLAG_IF);
	CHECK_EQ(next_wanted(), 1);
	bring(1);
	finish(0x1001);
	CHECK_EQ(notes->fault_token, 1ul << 12 | VCPU_ID);
}

/* The second page comes first, and no page waits for another. */
static void pages_come_in_any_order(void)
{
	open_machine(ALWAYS);
	notes->second = SLOW_GPA + 2 * PAGE;
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK_EQ(next_wanted(), 2);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK_EQ(notes->faults, 2);
	bring(2);
	CHECK(grows_beyond(&notes->second_value, 0));
	CHECK_EQ(notes->second_value, 0x1002);
	CHECK_EQ(notes->ready_list[0], notes->tokens[1]);
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->ready_list[1], notes->tokens[0]);
}

/* A token stands until it was read: the next one comes with the acknowledgement. */
static void one_token_at_a_time(void)
{
	open_machine(ALWAYS);
	notes->second = SLOW_GPA + 2 * PAGE;
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK_EQ(next_wanted(), 2);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	place[1] = 0x7777;
	bring(2);
	bring(0);
	usleep(50000);
	CHECK_EQ(notes->readies, 0);
	CHECK_EQ(place[1], 0x7777);
	place[1] = 0;
	CHECK_EQ(ioctl(vm.fd, KVM_SIGNAL_MSI,
		       &(struct kvm_msi){.address_lo = 0xfee00000 | VCPU_ID << 12,
					 .data = VECTOR_OTHER}),
		 1);
	finish(0x1000);
	CHECK_EQ(notes->readies, 2);
}

static void without_it_the_vcpu_waits(void)
{
	open_machine_without_msrs(VCPU_ID);
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	usleep(20000);
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->faults, 0);
	CHECK_EQ(notes->broadcasts, 0);
	CHECK_EQ(place[0], 0);
}

static void without_interrupts_the_vcpu_waits(void)
{
	open_machine(ALWAYS);
	start(0, 0);
	CHECK_EQ(next_wanted(), 0);
	usleep(20000);
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->faults, 0);
	CHECK_EQ(place[0], 0);
}

/* The kernel is not told, unless it asked to be: the vCPU halts, and takes interrupts. */
static void a_kernel_halts_and_takes_interrupts(void)
{
	struct kvm_mp_state state;

	open_machine(USER_ONLY);
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	for (uint64_t i = 0; i < 3; i++) {
		CHECK_EQ(ioctl(vm.fd, KVM_SIGNAL_MSI,
			       &(struct kvm_msi){.address_lo = 0xfee00000 | VCPU_ID << 12,
						 .data = VECTOR_OTHER}),
			 1);
		CHECK(grows_beyond(&notes->others, i));
	}
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->faults, 0);
	CHECK_EQ(notes->readies, 0);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_MP_STATE, &state));
	CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
}

/* Turned off while a page is missing: nothing comes of it, and the vCPU is not held up. */
static void turned_off_it_is_forgotten(void)
{
	struct kvm_mp_state state;

	open_machine(USER_ONLY);
	vcpu.run->immediate_exit = 0;
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	usleep(20000);
	vcpu.run->immediate_exit = 1;
	CHECK_ZERO(pthread_kill(thread, SIGUSR1));
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_END(outcome, END_SIGNAL);
	vcpu.run->immediate_exit = 0;
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, 0), 1);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_MP_STATE, &state));
	CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
	CHECK_ZERO(pthread_create(&thread, NULL, runner, &outcome));
	usleep(20000);
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->readies, 0);
	CHECK_EQ(place[1], 0);
}

/* A vCPU that INIT reaches knows of no page, and the one that was on its way says nothing. */
static void init_forgets(void)
{
	open_machine(ALWAYS);
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK_EQ(ioctl(vm.fd, KVM_SIGNAL_MSI,
		       &(struct kvm_msi){.address_lo = 0xfee00000 | VCPU_ID << 12,
					 .data = 5u << 8 | 1u << 14}),
		 1);
	usleep(50000);
	vcpu.run->immediate_exit = 1;
	CHECK_ZERO(pthread_kill(thread, SIGUSR1));
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_EN), 0);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_INT), 0);
	bring(0);
	usleep(50000);
	CHECK_EQ(notes->readies, 0);
	CHECK_EQ(place[1], 0);
}

/* Another machine goes on with the state of the first one: tasks that wait there are woken. */
static void a_restored_guest_wakes_all(void)
{
	uint64_t en, vector;

	open_machine(ALWAYS);
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	bring(0);
	finish(0x1000);
	en = get_msr(MSR_KVM_ASYNC_PF_EN);
	vector = get_msr(MSR_KVM_ASYNC_PF_INT);
	CHECK_EQ(en, PLACE_GPA | ALWAYS);
	CHECK_EQ(vector, VECTOR_READY);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_ACK), 0);
	CHECK_EQ(notes->broadcasts, 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, en), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, vector), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_ACK, 0), 1);
	start(0, FLAG_IF);
	finish(0x1000);
	for (int i = 0; i < 100 && notes->broadcasts < 2; i++) {
		start(0, FLAG_IF);
		finish(0x1000);
	}
	CHECK_EQ(notes->broadcasts, 2);
}

/* A VM may end while pages are missing; so may its memory, and the process goes on. */
static void ends_with_pages_missing(void)
{
	open_machine(ALWAYS);
	vcpu.run->immediate_exit = 0;
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, 0));
	vcpu.run->immediate_exit = 1;
	CHECK_ZERO(pthread_kill(thread, SIGUSR1));
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_END(outcome, END_SIGNAL);
	CHECK_ZERO(close(vcpu.fd));
	CHECK_ZERO(close(vm.fd));
	CHECK_ZERO(munmap(slow, SLOW_PAGES * PAGE));
}

static void a_fork_with_pages_missing(void)
{
	pid_t child;
	int status;

	open_machine(ALWAYS);
	start(0, FLAG_IF);
	CHECK_EQ(next_wanted(), 0);
	CHECK(grows_beyond(&notes->other_work, 0));
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		int kvm = open("/dev/kvm", O_RDWR), other = ioctl(kvm, KVM_CREATE_VM, 0);

		_exit(other < 0 || ioctl(vcpu.fd, KVM_RUN, 0) != -1 || errno != EIO);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_ZERO(status);
	bring(0);
	finish(0x1000);
	CHECK_EQ(notes->ready_token, notes->fault_token);
}

/* What is not missing is not left to the host: memory that was never touched is made at once. */
static void new_memory_is_no_wait(void)
{
	uint8_t *fresh;

	open_machine(ALWAYS);
	fresh = memory_alloc(4 * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)fresh));
	for (uint64_t page = 0; page < 4; page++) {
		start(SLOW_PAGES + page, FLAG_IF);
		finish(0);
	}
	CHECK_EQ(notes->faults, 0);
}

/* A file of four pages that are on the disk and not in memory: its mapping. */
static uint8_t *map_cold_file(int is_deleted)
{
	char name[] = "./async_pf.XXXXXX";
	unsigned char resident[4];
	uint64_t words[512] = {0};
	struct statfs status;
	int fd = mkstemp(name);
	uint8_t *mapped;

	CHECK(fd >= 0);
	for (uint64_t i = 0; i < 4; i++) {
		words[0] = 0x2000 + i;
		CHECK_EQ(write(fd, words, PAGE), PAGE);
	}
	CHECK_ZERO(fsync(fd));
	CHECK_ZERO(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	CHECK_ZERO(fstatfs(fd, &status));
	mapped = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED);
	if (is_deleted)
		CHECK_ZERO(unlink(name));
	CHECK_ZERO(mincore(mapped, 4 * PAGE, resident));
	/* The name is needed while the machine asks where the file is. */
	cold_name = is_deleted ? NULL : strdup(name);
	if (status.f_type == TMPFS_MAGIC || (resident[0] & 1)) {
		(void)unlink(name);
		check_skip("no file here that is not in memory");
	}
	return mapped;
}

static void load_cold_file(int is_deleted)
{
	uint8_t *mapped;

	open_machine(ALWAYS);
	mapped = map_cold_file(is_deleted);
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)mapped));
	start(SLOW_PAGES, FLAG_IF);
	finish(0x2000);
	if (cold_name)
		CHECK_ZERO(unlink(cold_name));
	CHECK_EQ(notes->faults, 1);
	CHECK_EQ(notes->ready_token, notes->fault_token);
}

static void a_page_on_a_disk_is_left_to_the_host(void)
{
	load_cold_file(0);
}

static void so_is_one_of_a_file_without_a_name(void)
{
	load_cold_file(1);
}

/* A file that is memory is none to wait for. */
static void a_hole_in_a_memfd_is_no_wait(void)
{
	int fd = memfd_create("async_pf", 0);
	uint8_t *mapped;

	open_machine(ALWAYS);
	CHECK_ZERO(ftruncate(fd, 4 * PAGE));
	mapped = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED);
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = SLOW_GPA + SLOW_PAGES * PAGE,
			  .memory_size = 4 * PAGE, .userspace_addr = (uintptr_t)mapped));
	start(SLOW_PAGES, FLAG_IF);
	finish(0);
	CHECK_EQ(notes->faults, 0);
}

static void refused_values(void)
{
	struct kvm_enable_cap enforce = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
	struct kvm_cpuid2 *cpuid;

	open_machine_without_msrs(VCPU_ID);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | ALWAYS | 0x10), 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | ALWAYS | 0x20), 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, 0x70000000 | ALWAYS), 0);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_EN), 0);
	/* Without the interrupt it is off, and the place does not matter. */
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, 0x70000000 | KVM_ASYNC_PF_ENABLED), 1);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_EN), 0x70000000 | KVM_ASYNC_PF_ENABLED);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | ALWAYS), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, 0x70000000 | ALWAYS), 0);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_EN), PLACE_GPA | ALWAYS);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, 0x100), 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, 0xff), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_ACK, UINT64_MAX), 1);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_ENABLE_CAP, &enforce));
	cpuid = supported_cpuid(&vm);
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == KVM_CPUID_FEATURES)
			cpuid->entries[i].eax = 1u << KVM_FEATURE_ASYNC_PF;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_CPUID2, cpuid));
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | KVM_ASYNC_PF_ENABLED), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | USER_ONLY), 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, PLACE_GPA | 1 | KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT),
		 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, 0x60), 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_ACK, 1), 0);
	free(cpuid);
}

static void needs_a_local_apic(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (vm_cap(&vm, KVM_CAP_ASYNC_PF_INT) <= 0)
		check_skip("no asynchronous page faults by interrupt");
	CHECK_EQ(vm_cap(&vm, KVM_CAP_ASYNC_PF), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, AGENT_GPA | ALWAYS), 0);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_EN, 0), 1);
	CHECK_EQ(set_msr(MSR_KVM_ASYNC_PF_INT, VECTOR_READY), 0);
}

static void offered_and_saved(void)
{
	struct {
		struct kvm_msr_list header;
		uint32_t room[200];
	} list = {.header.nmsrs = 200};
	uint32_t found = 0, bits = 0;
	struct kvm_cpuid2 *cpuid;

	open_machine_without_msrs(0);
	CHECK_ZERO(ioctl(vm.kvm, KVM_GET_MSR_INDEX_LIST, &list));
	for (uint32_t i = 0; i < list.header.nmsrs; i++)
		found += list.room[i] == MSR_KVM_ASYNC_PF_EN ||
			 list.room[i] == MSR_KVM_ASYNC_PF_INT ||
			 list.room[i] == MSR_KVM_ASYNC_PF_ACK;
	CHECK_EQ(found, 3);
	cpuid = supported_cpuid(&vm);
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == KVM_CPUID_FEATURES)
			bits = cpuid->entries[i].eax;
	CHECK_EQ(bits >> KVM_FEATURE_ASYNC_PF & 1, 1);
	CHECK_EQ(bits >> KVM_FEATURE_ASYNC_PF_VMEXIT & 1, 1);
	CHECK_EQ(bits >> KVM_FEATURE_ASYNC_PF_INT & 1, 1);
	free(cpuid);
}

static void no_work(int number)
{
	(void)number;
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(something_else_runs_meanwhile),
	    TEST(a_task_in_user_mode_is_put_aside),
	    TEST(tokens_name_the_vcpu_and_are_never_zero),
	    TEST(the_number_of_the_vcpu_is_in_the_token),
	    TEST(pages_come_in_any_order),
	    TEST(one_token_at_a_time),
	    TEST(without_it_the_vcpu_waits),
	    TEST(without_interrupts_the_vcpu_waits),
	    TEST(a_kernel_halts_and_takes_interrupts),
	    TEST(turned_off_it_is_forgotten),
	    TEST(init_forgets),
	    TEST(a_restored_guest_wakes_all),
	    TEST(ends_with_pages_missing),
	    TEST(a_fork_with_pages_missing),
	    TEST(new_memory_is_no_wait),
	    TEST(a_page_on_a_disk_is_left_to_the_host),
	    TEST(so_is_one_of_a_file_without_a_name),
	    TEST(a_hole_in_a_memfd_is_no_wait),
	    TEST(refused_values),
	    TEST(needs_a_local_apic),
	    TEST(offered_and_saved),
	};
	struct sigaction action = {.sa_handler = no_work};

	sigaction(SIGUSR1, &action, NULL);
	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
