/* A machine in 64-bit mode, memory as it is: its client has it do one piece of code at a time. */
#ifndef TEST_FRONTEND_FLAT_H
#define TEST_FRONTEND_FLAT_H

#include "machine.h"

#define FLAT_ROOT 0xc000u
#define FLAT_DIRECTORY 0xd000u
#define FLAT_CODE 0x8000u
#define APIC_PAGE 0xfee00000u
#define IOAPIC_PAGE 0xfec00000u

static inline void flat_cpuid(int vcpu)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[100];
	} list = {{.nent = 100}, {{0}}};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &list));
	WORKS(ioctl(vcpu, KVM_SET_CPUID2, &list));
	close(kvm);
}

static inline void flat_mode(const struct machine *machine)
{
	const uint64_t root = FLAT_DIRECTORY | 3, low = 0x83, high = 0xc0000083;
	struct kvm_sregs sregs;

	memcpy(machine->memory + FLAT_ROOT, &root, sizeof(root));
	memcpy(machine->memory + FLAT_DIRECTORY, &low, sizeof(low));
	memcpy(machine->memory + FLAT_DIRECTORY + 24, &high, sizeof(high));
	WORKS(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cr0 = 0x80050033;
	sregs.cr3 = FLAT_ROOT;
	sregs.cr4 |= 0x620;
	sregs.efer |= 0x500;
	sregs.cs = (struct kvm_segment){
	    .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1, .limit = UINT32_MAX};
	WORKS(ioctl(machine->vcpu, KVM_SET_SREGS, &sregs));
}

static inline void flat_open(struct machine *machine, enum machine_irqchip irqchip)
{
	machine_open(machine, irqchip);
	flat_cpuid(machine->vcpu);
	flat_mode(machine);
}

/* Runs @code with @regs; what the registers are at its end, if that is not another exit. */
static inline struct kvm_regs flat_run(struct machine *machine, const char *code, size_t bytes,
				       struct kvm_regs regs)
{
	static const uint8_t report[] = {0xe6, REPORT_PORT};

	memcpy(machine->memory + FLAT_CODE, code, bytes);
	memcpy(machine->memory + FLAT_CODE + bytes, report, sizeof(report));
	regs.rip = FLAT_CODE;
	regs.rflags = 2;
	regs.rsp = 0xb000;
	WORKS(ioctl(machine->vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(machine->vcpu, KVM_RUN, 0));
	WORKS(ioctl(machine->vcpu, KVM_GET_REGS, &regs));
	return regs;
}

static inline int flat_has_reported(const struct machine *machine)
{
	return machine->run->exit_reason == KVM_EXIT_IO && machine->run->io.port == REPORT_PORT;
}

/* DOES(machine, "\xee", .rax = 1, .rdx = 0x20): the registers after the guest did it. */
#define DOES(machine, code, ...)                                                               \
	({                                                                                     \
		struct kvm_regs after_ =                                                       \
		    flat_run(machine, code, sizeof(code) - 1, (struct kvm_regs){__VA_ARGS__}); \
		CHECK(flat_has_reported(machine), "exit %u", (machine)->run->exit_reason);     \
		after_;                                                                        \
	})

static inline void guest_out(struct machine *machine, uint16_t port, uint8_t value)
{
	DOES(machine, "\xee", .rax = value, .rdx = port);
}

static inline uint8_t guest_in(struct machine *machine, uint16_t port)
{
	return (uint8_t)DOES(machine, "\xec", .rdx = port).rax;
}

static inline void guest_store(struct machine *machine, uint32_t address, uint32_t value)
{
	DOES(machine, "\x89\x03", .rbx = address, .rax = value);
}

static inline uint32_t guest_load(struct machine *machine, uint32_t address)
{
	return (uint32_t)DOES(machine, "\x8b\x03", .rbx = address).rax;
}

#endif
