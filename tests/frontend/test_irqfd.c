/* Eventfds that raise interrupts: which are taken, which are dropped, and level-triggered lines. */
#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "machine.h"

#define PIC_GSI 5u
#define APIC_GSI 20u /* of the I/O APIC alone */
#define APIC_VECTOR 0x41
#define SAW_APIC 0x54
#define SET_UP 0x70
#define VCPU_MMAP_BYTES (3 * 4096)

/* After @first, the usual set-up of the PIC, and a report that it is done. */
static void run_set_up(struct machine *machine, const uint8_t *first, size_t size_bytes)
{
	static const uint8_t report[] = {0xb0, SET_UP, 0xe6, REPORT_PORT};
	uint8_t *at = machine->memory + CODE;

	if (size_bytes)
		memcpy(at, first, size_bytes);
	at += size_bytes;
	memcpy(at, main_code, 20);
	memcpy(at + 20, report, sizeof(report));
	memcpy(at + 20 + sizeof(report), main_code + 20, sizeof(main_code) - 20);
	CHECK(next_report(machine) == SET_UP, "exit %u", machine->run->exit_reason);
}

static int new_eventfd(void)
{
	return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void signal_fd(int fd)
{
	uint64_t one = 1;

	CHECK(write(fd, &one, sizeof(one)) == sizeof(one), "eventfd");
}

/* The count of @fd, once there is one; 0 after a second without. */
static uint64_t wait_count(int fd)
{
	struct pollfd entry = {fd, POLLIN, 0};
	uint64_t count = 0;

	if (poll(&entry, 1, PATIENCE_MS) == 1)
		CHECK(read(fd, &count, sizeof(count)) == sizeof(count), "count");
	return count;
}

static void what_is_taken(void)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)new_eventfd(), .gsi = UINT32_MAX};
	struct machine machine, split;

	machine_open(&machine, MACHINE_IRQCHIP);
	machine_open(&split, MACHINE_SPLIT);
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQFD_RESAMPLE) == 1, "no resample");
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	FAILS(ioctl(split.vm, KVM_IRQFD, &irqfd), EBUSY);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE;
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
	irqfd.resamplefd = UINT32_MAX;
	FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EBADF);
	irqfd.resamplefd = 0;
	FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EINVAL);
	irqfd.resamplefd = (uint32_t)new_eventfd();
	FAILS(ioctl(split.vm, KVM_IRQFD, &irqfd), EINVAL);
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	irqfd.flags = 4;
	FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EINVAL);
	munmap(machine.run, VCPU_MMAP_BYTES);
	machine_close(&machine);
	/* With the VM went what was assigned to it. */
	irqfd.flags = 0;
	WORKS(ioctl(split.vm, KVM_IRQFD, &irqfd));
	machine_close(&split);
	close((int)irqfd.fd);
	close((int)irqfd.resamplefd);
}

static int count_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

/* An eventfd that the client closes is dropped: nothing of it is kept for long. */
static void closed_ones_are_dropped(void)
{
	struct machine machine;
	int before;

	machine_open(&machine, MACHINE_IRQCHIP);
	before = count_descriptors();
	for (int i = 0; i < 500; i++) {
		struct kvm_irqfd irqfd = {.fd = (uint32_t)new_eventfd(), .gsi = PIC_GSI};

		WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
		close((int)irqfd.fd);
	}
	CHECK(count_descriptors() - before < 50, "%d descriptors more",
	      count_descriptors() - before);
	machine_close(&machine);
}

/* The eventfd lives under another number, and its own number is another eventfd's. */
static void number_given_away(void)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)new_eventfd(), .gsi = 0};
	struct machine machine;
	int again = dup((int)irqfd.fd), other = new_eventfd();

	machine_open(&machine, MACHINE_IRQCHIP);
	run_set_up(&machine, NULL, 0);
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	CHECK(dup2(other, (int)irqfd.fd) == (int)irqfd.fd, "dup2");
	signal_fd(other);
	for (int i = 0; i < 3; i++) {
		signal_fd(again);
		CHECK(next_report(&machine) == SAW_PIC, "interrupt %d", i);
	}
	CHECK(wait_count(other) == 1, "a stranger's count was taken");
	/* Deassigned by its other number. */
	irqfd.fd = (uint32_t)again;
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	irqfd.flags = 0;
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	machine_close(&machine);
	close(again);
	close(other);
	close((int)irqfd.fd);
}

/*
 * A VM ends whose eventfd lives on, under another number than at its assignment, and the other VM's
 * interrupts go on. The eventfd then raises that one's.
 */
static void eventfd_of_a_vm_that_ended(void)
{
	struct kvm_irqfd first = {.fd = (uint32_t)new_eventfd(), .gsi = 3};
	struct kvm_irqfd other = {.fd = (uint32_t)new_eventfd(), .gsi = 0};
	struct machine ended, machine;
	int again = dup((int)first.fd);

	machine_open(&ended, MACHINE_IRQCHIP);
	machine_open(&machine, MACHINE_IRQCHIP);
	run_set_up(&machine, NULL, 0);
	WORKS(ioctl(ended.vm, KVM_IRQFD, &first));
	WORKS(ioctl(machine.vm, KVM_IRQFD, &other));
	close((int)first.fd);
	munmap(ended.run, VCPU_MMAP_BYTES);
	machine_close(&ended);
	signal_fd(again);
	signal_fd((int)other.fd);
	CHECK(next_report(&machine) == SAW_PIC, "the other VM");
	other.flags = KVM_IRQFD_FLAG_DEASSIGN;
	WORKS(ioctl(machine.vm, KVM_IRQFD, &other));
	for (int i = 0; i < 3; i++) {
		first = (struct kvm_irqfd){.fd = (uint32_t)again, .gsi = 0};
		WORKS(ioctl(machine.vm, KVM_IRQFD, &first));
		signal_fd(again);
		CHECK(next_report(&machine) == SAW_PIC, "interrupt %d", i);
		first.flags = KVM_IRQFD_FLAG_DEASSIGN;
		WORKS(ioctl(machine.vm, KVM_IRQFD, &first));
	}
	machine_close(&machine);
	close(again);
	close((int)other.fd);
}

/* Of all descriptors in the process none is there for a VM or a vCPU but the client's. */
static void an_object_is_one_descriptor(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vms[8], vcpus[8], before;

	vms[0] = ioctl(kvm, KVM_CREATE_VM, 0);
	before = count_descriptors();
	for (int i = 0; i < 8; i++) {
		if (i)
			vms[i] = ioctl(kvm, KVM_CREATE_VM, 0);
		WORKS(ioctl(vms[i], KVM_CREATE_IRQCHIP, 0));
		vcpus[i] = ioctl(vms[i], KVM_CREATE_VCPU, 0);
		CHECK(vcpus[i] >= 0, "vCPU %d", i);
	}
	CHECK(count_descriptors() == before + 15, "%d for 15", count_descriptors() - before);
	for (int i = 0; i < 8; i++) {
		close(vms[i]);
		close(vcpus[i]);
	}
	close(kvm);
}

/* mov dx, 0x4d0; mov al, 0x20; out dx, al; then the usual set-up */
static const uint8_t level_code[] = {0xba, 0xd0, 0x04, 0xb0, 1u << PIC_GSI, 0xee};

static struct kvm_pic_state pic_of(const struct machine *machine)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

	WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &chip));
	return chip.chip.pic;
}

/* Through the PIC: the line stays high until the end of interrupt, which all sharers hear of. */
static void resampled_by_the_pic(void)
{
	struct kvm_irqfd irqfds[2];
	struct machine machine;

	machine_open(&machine, MACHINE_IRQCHIP);
	machine_put_handler(&machine, PIC_VECTOR + PIC_GSI, SAW_PIC + 1);
	run_set_up(&machine, level_code, sizeof(level_code));
	for (int i = 0; i < 2; i++) {
		irqfds[i] = (struct kvm_irqfd){
		    .fd = (uint32_t)new_eventfd(),
		    .gsi = PIC_GSI,
		    .flags = KVM_IRQFD_FLAG_RESAMPLE,
		    .resamplefd = (uint32_t)new_eventfd(),
		};
		WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfds[i]));
	}
	for (int round = 0; round < 3; round++) {
		signal_fd((int)irqfds[round & 1].fd);
		CHECK(next_report(&machine) == SAW_PIC + 1, "exit %u", machine.run->exit_reason);
		CHECK(wait_count((int)irqfds[0].resamplefd) == 1, "the first was not told");
		CHECK(wait_count((int)irqfds[1].resamplefd) == 1, "the second was not told");
		CHECK(!(pic_of(&machine).irr >> PIC_GSI & 1), "the line is still high");
	}
	/* The line falls with the last of them. */
	signal_fd((int)irqfds[0].fd);
	COMES(pic_of(&machine).irr >> PIC_GSI & 1, "the line is low");
	for (int i = 0; i < 2; i++) {
		irqfds[i].flags = KVM_IRQFD_FLAG_DEASSIGN;
		WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfds[i]));
	}
	CHECK(!(pic_of(&machine).irr >> PIC_GSI & 1), "the line outlived its irqfds");
	machine_close(&machine);
}

/* push eax, ecx, edx; mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr; pop; report; iret */
static const uint8_t apic_handler[] = {
    0x66, 0x50,	       0x66, 0x51, 0x66, 0x52, 0x66, 0xb9, 0x0b, 0x08, 0,
    0,	  0x66,	       0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0xb0, SAW_APIC,
    0xe6, REPORT_PORT, 0x66, 0x5a, 0x66, 0x59, 0x66, 0x58, 0xcf,
};

/* APIC_GSI is level-triggered, to the only vCPU, which sleeps with its APIC in x2APIC mode. */
static void open_apic_machine(struct machine *machine)
{
	static const uint8_t code[] = {0xfb, 0xf4, 0xeb, 0xfc}; /* sti; hlt; again */
	uint16_t entry[2] = {0x6000, 0};
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} base = {{.nmsrs = 1}, {.index = 0x1b, .data = 0xfee00d00}};
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[128];
	} list = {{.nent = 128}, {{0}}};
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_lapic_state lapic;
	uint32_t spurious = 0x1ff;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	machine_open(machine, MACHINE_IRQCHIP);
	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &list));
	WORKS(ioctl(machine->vcpu, KVM_SET_CPUID2, &list));
	close(kvm);
	memcpy(machine->memory + CODE, code, sizeof(code));
	memcpy(machine->memory + 0x6000, apic_handler, sizeof(apic_handler));
	memcpy(machine->memory + 4 * APIC_VECTOR, entry, sizeof(entry));
	CHECK(ioctl(machine->vcpu, KVM_SET_MSRS, &base) == 1, "x2APIC");
	WORKS(ioctl(machine->vcpu, KVM_GET_LAPIC, &lapic));
	memcpy(&lapic.regs[0xf0], &spurious, sizeof(spurious));
	WORKS(ioctl(machine->vcpu, KVM_SET_LAPIC, &lapic));
	WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[APIC_GSI].bits = 0x8000 | APIC_VECTOR;
	WORKS(ioctl(machine->vm, KVM_SET_IRQCHIP, &chip));
}

static struct kvm_ioapic_state ioapic_of(const struct machine *machine)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &chip));
	return chip.chip.ioapic;
}

static void resampled_by_the_apic(void)
{
	struct kvm_irqfd irqfd = {
	    .fd = (uint32_t)new_eventfd(),
	    .gsi = APIC_GSI,
	    .flags = KVM_IRQFD_FLAG_RESAMPLE,
	    .resamplefd = (uint32_t)new_eventfd(),
	};
	struct machine machine;

	open_apic_machine(&machine);
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	for (int i = 0; i < 3; i++) {
		signal_fd((int)irqfd.fd);
		CHECK(next_report(&machine) == SAW_APIC, "exit %u", machine.run->exit_reason);
		CHECK(wait_count((int)irqfd.resamplefd) == 1, "not told");
		CHECK(!ioapic_of(&machine).redirtbl[APIC_GSI].fields.remote_irr, "not ended");
		CHECK(!(ioapic_of(&machine).irr >> APIC_GSI & 1), "the line is still high");
	}
	machine_close(&machine);
}

/* A level line that stays high interrupts again and again; waiting for its end, it does not. */
static void level_lines(void)
{
	struct kvm_irq_level line = {.irq = APIC_GSI, .level = 1};
	struct machine machine;

	open_apic_machine(&machine);
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE_STATUS, &line));
	CHECK(line.status == 1, "status %d", line.status);
	CHECK(ioapic_of(&machine).redirtbl[APIC_GSI].fields.remote_irr, "no remote IRR");
	line.irq = APIC_GSI;
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE_STATUS, &line));
	CHECK(line.status == -1, "status while it waits for the end: %d", line.status);
	for (int i = 0; i < 5; i++)
		CHECK(next_report(&machine) == SAW_APIC, "round %d: exit %u", i,
		      machine.run->exit_reason);
	line.irq = APIC_GSI;
	line.level = 0;
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE, &line));
	CHECK(!(ioapic_of(&machine).irr >> APIC_GSI & 1), "the line is high");
	machine_close(&machine);
}

static void no_devices(void)
{
	struct kvm_create_device device = {.type = KVM_DEV_TYPE_VFIO};
	struct machine machine;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	FAILS(ioctl(machine.vm, KVM_CREATE_DEVICE, &device), ENODEV);
	device.flags = KVM_CREATE_DEVICE_TEST;
	FAILS(ioctl(machine.vm, KVM_CREATE_DEVICE, &device), ENODEV);
	device.type = 1000;
	FAILS(ioctl(machine.vm, KVM_CREATE_DEVICE, &device), ENODEV);
	FAILS(ioctl(machine.vm, KVM_CREATE_DEVICE, NULL), EFAULT);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	what_is_taken();
	closed_ones_are_dropped();
	number_given_away();
	eventfd_of_a_vm_that_ended();
	an_object_is_one_descriptor();
	resampled_by_the_pic();
	resampled_by_the_apic();
	level_lines();
	no_devices();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
