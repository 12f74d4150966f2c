/* Breakpoints: the client's through KVM_SET_GUEST_DEBUG, and the guest's own debug registers. */
#include <string.h>

#include "client.h"

#define GPA 0x10000000ul
#define DATA (GPA + 2 * PAGE)
#define BREAKPOINT_VECTOR 3
#define DEBUG_VECTOR 1
#define DR6_INIT 0xffff0ff0ul
/* DR7: breakpoint 1, of 4 bytes: executed, written, read or written. */
#define EXECUTED (0x400ul | 1ul << 3)
#define WRITTEN (EXECUTED | 0xdul << 20)
#define ACCESSED (EXECUTED | 0xful << 20)

/* mov (%rcx), %rax; mov %eax, (%rdx); nop; int3; out */
static const uint8_t code[] = {0x48, 0x8b, 0x01, 0x89, 0x02, 0x90, 0xcc, 0xe6, AGENT_PORT};
enum { AT_LOAD = 0, AT_STORE = 3, AT_NOP = 5, AT_INT3 = 6, AT_OUT = 7 };

static struct vm vm;
static struct vcpu vcpu;

static void open_machine(void)
{
	uint8_t *memory = memory_alloc(4 * PAGE);

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_SET_GUEST_DEBUG))
		check_skip("no guest debugging");
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = 4 * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	memcpy(memory, code, sizeof(code));
}

static void set_debug(uint32_t control, uint64_t address, uint64_t dr7)
{
	struct kvm_guest_debug debug = {.control = control ? KVM_GUESTDBG_ENABLE | control : 0};

	debug.arch.debugreg[1] = address;
	debug.arch.debugreg[7] = dr7;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_GUEST_DEBUG, &debug));
}

/* The code from its beginning, with loads and stores at these addresses. */
static struct outcome run_code(uint64_t load, uint64_t store)
{
	struct kvm_regs regs;

	vcpu_prepare(&vcpu, &(struct guest_op){.code = GUEST_CALL, .rbx = GPA});
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_REGS, &regs));
	regs.rip = GPA;
	regs.rcx = load;
	regs.rdx = store;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	return vcpu_run(&vcpu);
}

static void check_stop(struct outcome outcome, uint32_t exception, uint64_t pc, uint64_t dr6)
{
	CHECK_EQ(outcome.error, 0);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_DEBUG);
	CHECK_EQ(vcpu.run->debug.arch.exception, exception);
	CHECK_EQ(vcpu.run->debug.arch.pc, pc);
	if (exception == DEBUG_VECTOR)
		CHECK_EQ(vcpu.run->debug.arch.dr6, dr6);
}

static void clients_breakpoints(void)
{
	const uint32_t hardware = KVM_GUESTDBG_USE_HW_BP;

	open_machine();
	/* A TLB that knows the page already. */
	set_debug(KVM_GUESTDBG_USE_SW_BP, 0, 0);
	check_stop(run_code(DATA, DATA + 64), BREAKPOINT_VECTOR, GPA + AT_INT3, 0);
	set_debug(hardware, GPA + AT_NOP, EXECUTED);
	check_stop(run_code(DATA, DATA + 64), DEBUG_VECTOR, GPA + AT_NOP, DR6_INIT | 2);
	set_debug(hardware, DATA + 64, WRITTEN);
	check_stop(run_code(DATA, DATA + 64), DEBUG_VECTOR, GPA + AT_NOP, DR6_INIT | 2);
	/* One byte of it is enough, a neighbour's is not, nor is reading it. */
	check_stop(run_code(DATA, DATA + 61), DEBUG_VECTOR, GPA + AT_NOP, DR6_INIT | 2);
	set_debug(hardware | KVM_GUESTDBG_USE_SW_BP, DATA + 64, WRITTEN);
	check_stop(run_code(DATA + 64, DATA + 60), BREAKPOINT_VECTOR, GPA + AT_INT3, 0);
	check_stop(run_code(DATA, DATA + 68), BREAKPOINT_VECTOR, GPA + AT_INT3, 0);
	set_debug(hardware, DATA + 64, ACCESSED);
	check_stop(run_code(DATA + 57, DATA), DEBUG_VECTOR, GPA + AT_STORE, DR6_INIT | 2);
	/* Across two pages. */
	set_debug(hardware, DATA + PAGE, WRITTEN);
	check_stop(run_code(DATA, DATA + PAGE - 1), DEBUG_VECTOR, GPA + AT_NOP, DR6_INIT | 2);
}

static void clients_steps(void)
{
	static const uint8_t ends[] = {AT_STORE, AT_NOP, AT_INT3};
	struct outcome outcome;

	open_machine();
	set_debug(KVM_GUESTDBG_SINGLESTEP, 0, 0x400);
	for (uint32_t i = 0; i < sizeof(ends); i++) {
		outcome = i ? vcpu_run(&vcpu) : run_code(DATA, DATA + 8);
		check_stop(outcome, DEBUG_VECTOR, GPA + ends[i], DR6_INIT | 1u << 14);
	}
}

/* Without a table of handlers #DB ends the guest, and DR6 has said why. */
static void guests_own(uint64_t address, uint64_t dr7, uint64_t store, int hits)
{
	struct kvm_debugregs regs = {.db = {0, address}, .dr6 = DR6_INIT, .dr7 = dr7};
	struct kvm_sregs sregs;
	struct outcome outcome;

	open_machine();
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.idt.limit = 0;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_DEBUGREGS, &regs));
	outcome = run_code(DATA, store);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_SHUTDOWN);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_DEBUGREGS, &regs));
	CHECK_EQ(regs.dr6 & 15, hits ? 2 : 0);
}

static void guests_instruction(void)
{
	guests_own(GPA + AT_STORE, EXECUTED, DATA + 8, 1);
}

static void guests_data(void)
{
	guests_own(DATA + 8, WRITTEN, DATA + 8, 1);
}

/* It is int3 that ends the guest then. */
static void guests_miss(void)
{
	guests_own(DATA + 16, WRITTEN, DATA + 8, 0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(clients_breakpoints), TEST(clients_steps), TEST(guests_instruction),
	    TEST(guests_data),	       TEST(guests_miss),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
