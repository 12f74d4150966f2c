/* A VM with one real-mode vCPU whose interrupt handlers report through a port. */
#ifndef TEST_FRONTEND_MACHINE_H
#define TEST_FRONTEND_MACHINE_H

#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "frontend/uapi.h"

#define MEMORY_BYTES 0x10000u
#define CODE 0x1000u
#define REPORT_PORT 0x10
#define PIC_VECTOR 0x20
#define MESSAGE_VECTOR 0x31
#define NMI_VECTOR 2
/* What each handler reports. */
#define SAW_PIC 0x50
#define SAW_MESSAGE 0x51
#define SAW_NMI 0x52

/* Set the PIC up for vectors from 0x20 on, then sleep for ever with interrupts on. */
static const uint8_t main_code[] = {
    0xb0, 0x11, 0xe6, 0x20, /* mov al, 0x11; out 0x20, al */
    0xb0, 0x20, 0xe6, 0x21, /* first vector */
    0xb0, 0x04, 0xe6, 0x21, /* the second chip's line */
    0xb0, 0x01, 0xe6, 0x21, /* 8086 mode */
    0xb0, 0x00, 0xe6, 0x21, /* nothing masked */
    0xfb, 0x90,		    /* sti; nop: the next boundary takes interrupts */
    0xf4, 0xeb, 0xfd,	    /* hlt; jmp back to it */
};

struct machine {
	int vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
};

/* push ax; end of interrupt; report; pop ax; iret */
static inline void machine_put_handler(struct machine *machine, unsigned int vector, uint8_t report)
{
	uint16_t at = (uint16_t)(0x1100 + 16 * vector);
	const uint8_t code[] = {0x50,	0xb0, 0x20,	   0xe6, 0x20, 0xb0,
				report, 0xe6, REPORT_PORT, 0x58, 0xcf};
	uint16_t entry[2] = {at, 0};

	memcpy(machine->memory + 4 * vector, entry, sizeof(entry));
	memcpy(machine->memory + at, code, sizeof(code));
}

static inline void machine_set_registers(const struct machine *machine)
{
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsp = 0x8000};
	struct kvm_sregs sregs;

	WORKS(ioctl(machine->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	WORKS(ioctl(machine->vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(machine->vcpu, KVM_SET_REGS, &regs));
}

enum machine_irqchip { MACHINE_NO_IRQCHIP, MACHINE_IRQCHIP, MACHINE_SPLIT };

static inline void machine_open(struct machine *machine, enum machine_irqchip irqchip)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES};

	machine->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (irqchip == MACHINE_IRQCHIP)
		WORKS(ioctl(machine->vm, KVM_CREATE_IRQCHIP, 0));
	if (irqchip == MACHINE_SPLIT)
		WORKS(ioctl(machine->vm, KVM_ENABLE_CAP, &split));
	machine->memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)machine->memory;
	WORKS(ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region));
	memcpy(machine->memory + CODE, main_code, sizeof(main_code));
	machine_put_handler(machine, PIC_VECTOR, SAW_PIC);
	machine_put_handler(machine, MESSAGE_VECTOR, SAW_MESSAGE);
	machine_put_handler(machine, NMI_VECTOR, SAW_NMI);
	machine->vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, 0);
	machine->run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
			    PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpu, 0);
	CHECK(machine->run != MAP_FAILED, "run page");
	machine_set_registers(machine);
	close(kvm);
}

static inline void machine_close(struct machine *machine)
{
	close(machine->vm);
	close(machine->vcpu);
}

/* Run to the next report; other port writes are ignored. -1: another exit, or an error. */
static inline int next_report(struct machine *machine)
{
	for (;;) {
		if (ioctl(machine->vcpu, KVM_RUN, 0) || machine->run->exit_reason != KVM_EXIT_IO)
			return -1;
		if (machine->run->io.port == REPORT_PORT)
			return *((uint8_t *)machine->run + machine->run->io.data_offset);
	}
}

#endif
