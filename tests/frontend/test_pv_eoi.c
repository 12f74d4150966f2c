/* Paravirtual ends of interrupts: what the guest sees in its byte, and what its APIC holds then. */
#include <linux/kvm_para.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

#include "machine.h"

#define APIC_BASE_X2APIC 0xfee00d00u /* the boot processor's, in x2APIC mode */
#define MSR_APIC_BASE 0x1bu
#define REG_SPURIOUS 0xf0
#define REG_ISR 0x100
#define REG_LINT0 0x350
#define VECTOR 0x41
#define LOWER 0x31
#define IN_HANDLER 0x77

/* Addresses of the guest's. */
#define HANDLER 0x3000u
#define EOI_BYTE 0x5000u
#define SEEN 0x5010u	   /* EOI_BYTE at the handler's end, before it is cleared */
#define SEEN_FIRST 0x5012u /* and at its start */

#define PUSH_AX 0x50
#define POP_AX 0x58
#define IRET 0xcf
#define LOAD(at) 0xa0, (at)&0xff, (at) >> 8  /* mov al, [at] */
#define STORE(at) 0xa2, (at)&0xff, (at) >> 8 /* mov [at], al */
#define REPORT(value) 0xb0, value, 0xe6, REPORT_PORT
#define CLEAR_BYTE 0xc6, 0x06, EOI_BYTE & 0xff, EOI_BYTE >> 8, 0
/* mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr */
#define END_OF_INTERRUPT \
	0x66, 0xb9, 0x0b, 0x08, 0, 0, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30

/* sti; hlt; report SEEN; back to hlt */
static const uint8_t idle_code[] = {0xfb, 0xf4, LOAD(SEEN), 0xe6, REPORT_PORT, 0xeb, 0xf8};
static const uint8_t skips_the_end[] = {PUSH_AX,    LOAD(EOI_BYTE), STORE(SEEN),
					CLEAR_BYTE, POP_AX,	    IRET};
/* Leaves to the client before the end. */
static const uint8_t leaves_first[] = {PUSH_AX,
				       LOAD(EOI_BYTE),
				       STORE(SEEN_FIRST),
				       REPORT(IN_HANDLER),
				       LOAD(EOI_BYTE),
				       STORE(SEEN),
				       END_OF_INTERRUPT,
				       POP_AX,
				       IRET};
/* cmp byte [EOI_BYTE], 0; jne to itself: until the offer is taken back. */
static const uint8_t waits_for_zero[] = {
    PUSH_AX, LOAD(EOI_BYTE), STORE(SEEN_FIRST), 0x80,	0x3e, EOI_BYTE & 0xff, EOI_BYTE >> 8, 0,
    0x75,    0xf9,	     END_OF_INTERRUPT,	POP_AX, IRET};

static struct machine machine;

static long set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index, .data = value}};

	return ioctl(machine.vcpu, KVM_SET_MSRS, &list);
}

static uint64_t get_msr(uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index}};

	CHECK(ioctl(machine.vcpu, KVM_GET_MSRS, &list) == 1, "no MSR %x", index);
	return list.entry.data;
}

static void put_handler(unsigned int vector, const uint8_t *code, size_t size_bytes)
{
	uint16_t at = (uint16_t)(HANDLER + 64 * (vector == LOWER)), entry[2] = {at, 0};

	memcpy(machine.memory + 4 * vector, entry, sizeof(entry));
	memcpy(machine.memory + at, code, size_bytes);
}
#define PUT_HANDLER(vector, code) put_handler(vector, code, sizeof(code))

static void open_guest(enum machine_irqchip irqchip)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[128];
	} list = {{.nent = 128}, {{0}}};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct kvm_lapic_state state;
	bool shown = false;

	machine_open(&machine, irqchip);
	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &list));
	for (uint32_t i = 0; i < list.header.nent; i++)
		if (list.entries[i].function == KVM_CPUID_FEATURES)
			shown = list.entries[i].eax >> KVM_FEATURE_PV_EOI & 1;
	CHECK(shown, "CPUID hides it");
	WORKS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list));
	close(kvm);
	CHECK(set_msr(MSR_APIC_BASE, APIC_BASE_X2APIC) == 1, "x2APIC");
	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &state));
	memcpy(&state.regs[REG_SPURIOUS], &(uint32_t){0x1ff}, 4);
	memcpy(&state.regs[REG_LINT0], &(uint32_t){0x10000}, 4);
	WORKS(ioctl(machine.vcpu, KVM_SET_LAPIC, &state));
	memcpy(machine.memory + CODE, idle_code, sizeof(idle_code));
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, EOI_BYTE | KVM_MSR_ENABLED) == 1, "turned on");
}

static void raise_vector(uint32_t vector)
{
	struct kvm_msi message = {.address_lo = 0xfee00000, .data = vector};

	CHECK(ioctl(machine.vm, KVM_SIGNAL_MSI, &message) == 1, "no APIC took %x", vector);
}

static bool in_service(unsigned int vector)
{
	struct kvm_lapic_state state;
	uint32_t row;

	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &state));
	memcpy(&row, &state.regs[REG_ISR + 16 * (vector / 32)], sizeof(row));
	return row >> vector % 32 & 1;
}

/* The guest starts anew, and takes it in its HLT. */
static void start_with(uint32_t vector)
{
	machine_set_registers(&machine);
	raise_vector(vector);
}

/* A guest that finds the bit set clears it: the interrupt has ended, and the next one comes. */
static void end_is_skipped(enum machine_irqchip irqchip)
{
	open_guest(irqchip);
	PUT_HANDLER(VECTOR, skips_the_end);
	for (int round = 0; round < 3; round++) {
		int seen;

		start_with(VECTOR);
		seen = next_report(&machine);
		CHECK(seen == KVM_PV_EOI_ENABLED, "round %d: the guest saw %d", round, seen);
		CHECK(!in_service(VECTOR), "round %d: in service", round);
	}
	machine_close(&machine);
}

/* An exit takes the offer back: the guest writes to its APIC, and only that ends the interrupt. */
static void exit_takes_it_back(void)
{
	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, leaves_first);
	for (int round = 0; round < 2; round++) {
		start_with(VECTOR);
		CHECK(next_report(&machine) == IN_HANDLER, "no handler");
		CHECK(machine.memory[SEEN_FIRST] == 1, "it was not offered");
		CHECK(!machine.memory[EOI_BYTE] && in_service(VECTOR), "it was not taken back");
		CHECK(next_report(&machine) == 0, "the bit came back");
		CHECK(!in_service(VECTOR), "no end");
	}
	machine_close(&machine);
}

/* Where another interrupt waits its turn the APIC must hear of the end. */
static void other_is_pending(void)
{
	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, leaves_first);
	PUT_HANDLER(LOWER, skips_the_end);
	raise_vector(LOWER);
	raise_vector(VECTOR);
	CHECK(next_report(&machine) == IN_HANDLER, "no handler");
	CHECK(machine.memory[SEEN_FIRST] == 0, "offered while another is pending");
	/* The lower one comes before the idle code reports. */
	CHECK(next_report(&machine) == 1, "not offered for the last");
	CHECK(!in_service(VECTOR) && !in_service(LOWER), "no end");
	machine_close(&machine);
}

static void *raise_lower(void *unused)
{
	volatile uint8_t *seen = &machine.memory[SEEN_FIRST];

	while (!*seen)
		sched_yield();
	raise_vector(LOWER);
	return unused;
}

/* One that comes during the handler takes the offer back, though it cannot be taken yet. */
static void other_comes(void)
{
	pthread_t thread;

	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, waits_for_zero);
	PUT_HANDLER(LOWER, skips_the_end);
	raise_vector(VECTOR);
	CHECK(!pthread_create(&thread, NULL, raise_lower, NULL), "thread");
	CHECK(next_report(&machine) == 1, "the lower one");
	pthread_join(thread, NULL);
	CHECK(!in_service(VECTOR) && !in_service(LOWER), "no end");
	machine_close(&machine);
}

/* The I/O APIC has to hear of the end of a level-triggered interrupt. */
static void level_line(void)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_irq_level line = {.irq = 10, .level = 1};

	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, leaves_first);
	WORKS(ioctl(machine.vm, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[line.irq].bits = VECTOR | 1u << 15;
	WORKS(ioctl(machine.vm, KVM_SET_IRQCHIP, &chip));
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE, &line));
	CHECK(next_report(&machine) == IN_HANDLER, "no handler");
	CHECK(machine.memory[SEEN_FIRST] == 0, "offered for a level");
	line.level = 0;
	WORKS(ioctl(machine.vm, KVM_IRQ_LINE, &line));
	CHECK(next_report(&machine) == 0, "offered");
	machine_close(&machine);
}

/* Off, the byte is left alone. */
static void turned_off(void)
{
	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, leaves_first);
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, 0) == 1, "turned off");
	raise_vector(VECTOR);
	CHECK(next_report(&machine) == IN_HANDLER && !machine.memory[SEEN_FIRST], "offered");
	CHECK(next_report(&machine) == 0, "offered");
	machine_close(&machine);
}

/* On a page of their own, unlike SEEN. */
#define SEEN_APART 0x6010u
#define GO_ON 0x6012u

static void protect_byte(int prot)
{
	WORKS(mprotect(machine.memory + EOI_BYTE, 4096, prot));
}

/* What the client may read alone: nothing is offered, the guest ends its interrupts. */
static void page_is_read_only(void)
{
	static const uint8_t code[] = {PUSH_AX,
				       LOAD(EOI_BYTE),
				       STORE(SEEN_APART),
				       REPORT(IN_HANDLER),
				       POP_AX,
				       END_OF_INTERRUPT,
				       IRET};

	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, code);
	protect_byte(PROT_READ);
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, EOI_BYTE | KVM_MSR_ENABLED) == 1, "refused");
	raise_vector(VECTOR);
	CHECK(next_report(&machine) == IN_HANDLER, "no handler");
	CHECK(!machine.memory[SEEN_APART] && in_service(VECTOR), "offered");
	machine_close(&machine);
}

static void *take_page(void *unused)
{
	volatile uint8_t *memory = machine.memory;

	while (!memory[SEEN_APART])
		sched_yield();
	protect_byte(PROT_NONE);
	memory[GO_ON] = 1;
	return unused;
}

/* Out of reach while the offer stands: it counts as taken then, and at each exit until it is back.
 */
static void page_goes(void)
{
	static const uint8_t waits[] = {
	    PUSH_AX, LOAD(EOI_BYTE), STORE(SEEN_APART),	 0x80,	 0x3e, GO_ON & 0xff, GO_ON >> 8, 0,
	    0x74,    0xf9,	     REPORT(IN_HANDLER), POP_AX, IRET};
	static const uint8_t reports[] = {PUSH_AX, REPORT(IN_HANDLER), POP_AX, IRET};
	pthread_t thread;

	open_guest(MACHINE_IRQCHIP);
	PUT_HANDLER(VECTOR, waits);
	PUT_HANDLER(LOWER, reports);
	raise_vector(VECTOR);
	CHECK(!pthread_create(&thread, NULL, take_page, NULL), "thread");
	CHECK(next_report(&machine) == IN_HANDLER && machine.memory[SEEN_APART], "no offer");
	pthread_join(thread, NULL);
	CHECK(!in_service(VECTOR), "not ended");
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, EOI_BYTE | KVM_MSR_ENABLED) == 1, "memory was looked at");
	start_with(LOWER);
	CHECK(next_report(&machine) == IN_HANDLER && !in_service(LOWER), "the offer went");
	/* The bit is still in the page: nothing was skipped, and the offer is taken back. */
	protect_byte(PROT_READ | PROT_WRITE);
	start_with(LOWER);
	CHECK(next_report(&machine) == IN_HANDLER && in_service(LOWER), "ended with the bit set");
	CHECK(!machine.memory[EOI_BYTE], "the bit stays");
	machine_close(&machine);
}

static void slot_is_read_only(void)
{
	struct kvm_userspace_memory_region region = {.slot = 1,
						     .flags = KVM_MEM_READONLY,
						     .guest_phys_addr = MEMORY_BYTES,
						     .memory_size = 4096};

	open_guest(MACHINE_IRQCHIP);
	region.userspace_addr =
	    (uintptr_t)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	WORKS(ioctl(machine.vm, KVM_SET_USER_MEMORY_REGION, &region));
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, MEMORY_BYTES | KVM_MSR_ENABLED) == 0, "taken");
	CHECK(get_msr(MSR_KVM_PV_EOI_EN) == (EOI_BYTE | KVM_MSR_ENABLED), "value was changed");
	/* The old place is in use as before. */
	PUT_HANDLER(VECTOR, skips_the_end);
	start_with(VECTOR);
	CHECK(next_report(&machine) == 1 && !in_service(VECTOR), "no offer any more");
	machine_close(&machine);
}

static void register_rules(void)
{
	open_guest(MACHINE_IRQCHIP);
	CHECK(get_msr(MSR_KVM_PV_EOI_EN) == (EOI_BYTE | KVM_MSR_ENABLED), "value");
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, EOI_BYTE | 3) == 0, "bit 1");
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, EOI_BYTE + 2) == 0, "alignment");
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, MEMORY_BYTES | KVM_MSR_ENABLED) == 0, "no memory there");
	CHECK(get_msr(MSR_KVM_PV_EOI_EN) == (EOI_BYTE | KVM_MSR_ENABLED), "value was changed");
	/* Off, the address is only kept. */
	CHECK(set_msr(MSR_KVM_PV_EOI_EN, MEMORY_BYTES) == 1, "an address");
	CHECK(get_msr(MSR_KVM_PV_EOI_EN) == MEMORY_BYTES, "value");
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	end_is_skipped(MACHINE_IRQCHIP);
	end_is_skipped(MACHINE_SPLIT);
	exit_takes_it_back();
	other_is_pending();
	other_comes();
	level_line();
	turned_off();
	page_is_read_only();
	page_goes();
	slot_is_read_only();
	register_rules();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
