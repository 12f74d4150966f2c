/* INIT and the global interrupt flag: held back while it is clear, taken when it is set. */
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "tests/rules/client.h"

#define CODE_GPA (AGENT_GPA + 12 * PAGE)
#define MSI_ADDRESS 0xfee00000u
#define DELIVERY_INIT (5u << 8)
#define VCPU_ID 1u
#define TURNS_MAX 100 /* of 0.2 s */

/* clgi; three times out to the port, the last one behind stgi; then for ever. */
static const uint8_t code[] = {
    0x0f, 0x01,	      0xdd,		/* clgi */
    0xe6, AGENT_PORT,			/* out */
    0x90, 0xe6,	      AGENT_PORT,	/* nop; out */
    0x90, 0x0f,	      0x01,	  0xdc, /* nop; stgi */
    0xe6, AGENT_PORT,			/* out */
    0xeb, 0xfe,				/* jmp */
};

static struct vm vm;
static struct vcpu vcpu;

static void on_alarm(int number)
{
	(void)number;
}

static void open_machine(void)
{
	struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct sigaction action = {.sa_handler = on_alarm};
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2};
	struct kvm_sregs sregs;

	CHECK_ZERO(sigaction(SIGALRM, &action, NULL));
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_NESTED_STATE))
		check_skip("this KVM has no nested guests");
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP));
	vm_add_agent(&vm);
	memcpy(vm.agent + (CODE_GPA - AGENT_GPA), code, sizeof(code));
	vcpu_open(&vm, &vcpu, VCPU_ID);
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.efer |= 1ul << 12;
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	vcpu_set_host_save_area(vcpu.fd);
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_MP_STATE, &runnable));
}

static uint32_t mp_state(void)
{
	struct kvm_mp_state state;

	CHECK_OK(ioctl(vcpu.fd, KVM_GET_MP_STATE, &state));
	return state.mp_state;
}

static void send_init(void)
{
	struct kvm_msi message = {.address_lo = MSI_ADDRESS | VCPU_ID << 12, .data = DELIVERY_INIT};

	CHECK_OK(ioctl(vm.fd, KVM_SIGNAL_MSI, &message));
}

/*
 * KVM_RUN until an alarm ends it, again until the vCPU waits for its start: on a slow machine an
 * alarm may come before KVM_RUN, or before the guest has got on.
 */
static void run_until_init(void)
{
	const struct itimerval often = {{.tv_usec = 200000}, {.tv_usec = 200000}}, never = {0};
	int turns = 0;

	CHECK_ZERO(setitimer(ITIMER_REAL, &often, NULL));
	do
		CHECK_END(vcpu_run(&vcpu), END_SIGNAL);
	while (mp_state() != KVM_MP_STATE_INIT_RECEIVED && ++turns < TURNS_MAX);
	CHECK_ZERO(setitimer(ITIMER_REAL, &never, NULL));
	CHECK(turns < TURNS_MAX);
}

static void init_waits_for_the_flag(void)
{
	open_machine();
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	send_init();
	/* The flag is clear: the next instructions run. */
	CHECK_END(vcpu_run(&vcpu), END_DONE);
	CHECK_EQ(mp_state(), KVM_MP_STATE_RUNNABLE);
	/* Right behind STGI it is taken, and the vCPU waits for its start. */
	run_until_init();
}

static void init_comes_at_once(void)
{
	open_machine();
	send_init();
	run_until_init();
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(init_waits_for_the_flag),
	    TEST(init_comes_at_once),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
