/*
 * Asynchronous page faults: while a userfaultfd keeps a page back, the guest is told so by #PF and
 * runs something else, until an interrupt says that the page has come.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "async_guest.h"

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
	start_and_miss(FLAG_IF);
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
	start_and_miss_two(2);
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
	start_and_miss_two(2);
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
	start_and_miss(FLAG_IF);
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
	start_and_miss(0);
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
	start_and_miss(FLAG_IF);
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
	start_and_miss(FLAG_IF);
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
	struct kvm_mp_state state;

	open_machine(ALWAYS);
	start_and_miss(FLAG_IF);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	CHECK_EQ(ioctl(vm.fd, KVM_SIGNAL_MSI,
		       &(struct kvm_msi){.address_lo = 0xfee00000 | VCPU_ID << 12,
					 .data = 5u << 8 | 1u << 14}),
		 1);
	usleep(50000);
	vcpu.run->immediate_exit = 1;
	CHECK_ZERO(pthread_kill(thread, SIGUSR1));
	CHECK_ZERO(pthread_join(thread, NULL));
	/* A vCPU that the host gave no time has not taken it yet: this call makes it. */
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_MP_STATE, &state));
	CHECK_EQ(state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_EN), 0);
	CHECK_EQ(get_msr(MSR_KVM_ASYNC_PF_INT), 0);
	bring(0);
	usleep(50000);
	CHECK_EQ(notes->readies, 0);
	CHECK_EQ(place[1], 0);
}

/*
 * CR0.PG off and on, by way of a segment of 32 bits, for only there long mode can end. rcx is where
 * the code of 64 bits goes on.
 */
asm(".pushsection .rodata\n"
    "turn_paging: pushq $24\n leaq 1f(%rip), %rax\n pushq %rax\n lretq\n"
    ".code32\n"
    "1: movl %cr0, %eax\n andl $0x7fffffff, %eax\n movl %eax, %cr0\n"
    " orl $0x80000000, %eax\n movl %eax, %cr0\n pushl $8\n pushl %ecx\n lretl\n"
    ".code64\n"
    "turn_paging_back: out %al, $0x80\n"
    "turn_paging_end:\n.popsection\n");
extern const uint8_t turn_paging[], turn_paging_back[], turn_paging_end[];

static void turn_paging_off_and_on(void)
{
	const uint64_t code = GPA + CODE_PAGE * PAGE + PAGE / 2;
	struct kvm_regs regs = {.rip = code,
				.rsp = GPA + STACK_PAGE * PAGE,
				.rflags = 2,
				.rcx = code + (uint64_t)(turn_paging_back - turn_paging)};
	struct kvm_sregs sregs;

	memcpy(memory + (code - GPA), turn_paging, (size_t)(turn_paging_end - turn_paging));
	((uint64_t *)(memory + GDT_PAGE * PAGE))[3] = 0x00cf9b000000ffff;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.gdt.limit = 31;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	CHECK_EQ(sregs.efer & 1u << 10, 1u << 10);
}

/* A guest that changes CR0.PG is another one, which knows of no page: the one on its way says
 * nothing. */
static void another_guest_after_paging_was_off(void)
{
	open_machine(ALWAYS);
	start_and_miss(FLAG_IF);
	CHECK(grows_beyond(&notes->other_work, ENOUGH));
	vcpu.run->immediate_exit = 1;
	CHECK_ZERO(pthread_kill(thread, SIGUSR1));
	CHECK_ZERO(pthread_join(thread, NULL));
	CHECK_END(outcome, END_SIGNAL);
	vcpu.run->immediate_exit = 0;
	turn_paging_off_and_on();
	bring(0);
	/* It asked for what comes from here on. */
	start(1, FLAG_IF);
	CHECK_EQ(next_wanted(), 1);
	CHECK(grows_beyond(&notes->other_work, notes->other_work + ENOUGH));
	usleep(50000);
	CHECK_EQ(notes->faults, 2);
	CHECK_EQ(notes->readies, 0);
	bring(1);
	finish(0x1001);
	CHECK_EQ(notes->readies, 1);
	CHECK_EQ(notes->ready_list[0], notes->tokens[1]);
}

/* Another machine goes on with the state of the first one: tasks that wait there are woken. */
static void a_restored_guest_wakes_all(void)
{
	uint64_t en, vector;

	open_machine(ALWAYS);
	start_and_miss(FLAG_IF);
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
	start_and_miss(FLAG_IF);
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
	start_and_miss(FLAG_IF);
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
	    TEST(another_guest_after_paging_was_off),
	    TEST(a_restored_guest_wakes_all),
	    TEST(ends_with_pages_missing),
	    TEST(a_fork_with_pages_missing),
	    TEST(refused_values),
	    TEST(needs_a_local_apic),
	    TEST(offered_and_saved),
	};

	return async_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
