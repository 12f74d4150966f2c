/* CPUID: the lists, their old and new form, what the guest sees, and what stays once it has run. */
#include <linux/kvm_para.h>

#include "flat.h"

#define ENTRIES 100u
#define APIC_BIT (1u << 9)
#define OSXSAVE_BIT (1u << 27)
#define XSAVE_BIT (1u << 26)

struct list {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[ENTRIES];
};

static void supported(struct list *list)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	memset(list, 0, sizeof(*list));
	list->header.nent = ENTRIES;
	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list));
	close(kvm);
}

static struct kvm_cpuid_entry2 *find(struct list *list, uint32_t function)
{
	for (uint32_t i = 0; i < list->header.nent; i++)
		if (list->entries[i].function == function)
			return &list->entries[i];
	CHECK(0, "no leaf %x", function);
	return &list->entries[0];
}

/* What KVM executes in the guest's place where the processor does not. */
static void emulated(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct list list = {{.nent = 0}, {{0}}};

	FAILS(ioctl(kvm, KVM_GET_EMULATED_CPUID, &list), E2BIG);
	list.header.nent = 2;
	FAILS(ioctl(kvm, KVM_GET_EMULATED_CPUID, &list), E2BIG);
	list.header.nent = ENTRIES;
	list.entries[ENTRIES - 1].padding[2] = 1;
	FAILS(ioctl(kvm, KVM_GET_EMULATED_CPUID, &list), EINVAL);
	list.header.nent = ENTRIES - 1;
	WORKS(ioctl(kvm, KVM_GET_EMULATED_CPUID, &list));
	CHECK(list.header.nent == 3, "%u entries", list.header.nent);
	CHECK(find(&list, 0)->eax == 7, "the last leaf: %u", find(&list, 0)->eax);
	CHECK(find(&list, 1)->ecx == 1u << 22, "MOVBE: %x", find(&list, 1)->ecx);
	CHECK(find(&list, 7)->ecx == 1u << 22 && find(&list, 7)->flags == 1, "RDPID: %x",
	      find(&list, 7)->ecx);
	close(kvm);
}

/* The old form: no subleaf, no flags. */
static void old_form(void)
{
	struct {
		struct kvm_cpuid header;
		struct kvm_cpuid_entry entries[2];
	} old = {{.nent = 2},
		 {{.function = 0, .eax = 1, .ebx = 2, .ecx = 3, .edx = 4},
		  {.function = 4, .eax = 5, .edx = 6}}};
	struct list back = {{.nent = ENTRIES}, {{0}}};
	struct machine machine;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	WORKS(ioctl(machine.vcpu, KVM_SET_CPUID, &old));
	WORKS(ioctl(machine.vcpu, KVM_GET_CPUID2, &back));
	CHECK(back.header.nent == 2, "%u entries", back.header.nent);
	for (uint32_t i = 0; i < 2; i++) {
		const struct kvm_cpuid_entry2 *got = &back.entries[i];
		const struct kvm_cpuid_entry *set = &old.entries[i];

		CHECK(got->function == set->function && !got->index && !got->flags &&
			  got->eax == set->eax && got->ebx == set->ebx && got->ecx == set->ecx &&
			  got->edx == set->edx,
		      "entry %u", i);
	}
	old.header.nent = 257;
	FAILS(ioctl(machine.vcpu, KVM_SET_CPUID, &old), E2BIG);
	machine_close(&machine);
}

/* A list that ends where memory does. */
static void lists_out_of_reach(void)
{
	uint8_t *pages =
	    mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_cpuid2 *header = (void *)(pages + 0x1000 - sizeof(*header));
	struct machine machine;

	munmap(pages + 0x1000, 0x1000);
	header->nent = 1;
	header->padding = 0;
	machine_open(&machine, MACHINE_NO_IRQCHIP);
	FAILS(ioctl(machine.vcpu, KVM_SET_CPUID, header), EFAULT);
	FAILS(ioctl(machine.vcpu, KVM_SET_CPUID2, header), EFAULT);
	header->nent = ENTRIES;
	FAILS(ioctl(open("/dev/kvm", O_RDWR), KVM_GET_SUPPORTED_CPUID, header), EFAULT);
	machine_close(&machine);
	munmap(pages, 0x1000);
}

/* No width of addresses but 48 and 57 bits, and none. */
static void widths(void)
{
	static const struct {
		uint32_t bits;
		int error;
	} rows[] = {{48, 0}, {57, 0}, {0, 0}, {47, EINVAL}, {64, EINVAL}};
	struct machine machine;
	struct list list;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		supported(&list);
		find(&list, 0x80000008)->eax = rows[i].bits << 8 | 48;
		errno = 0;
		(void)!ioctl(machine.vcpu, KVM_SET_CPUID2, &list);
		CHECK(errno == rows[i].error, "%u bits: %s", rows[i].bits, strerrorname_np(errno));
	}
	machine_close(&machine);
}

/* Once the guest has run: the same list and no other; of the padding nothing is read. */
static void fixed_after_a_run(void)
{
	struct machine machine;
	struct list list;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	DOES(&machine, "\x90");
	supported(&list);
	list.entries[0].padding[0] = 1;
	WORKS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list));
	/* What follows the vCPU's state does not count. */
	find(&list, 1)->edx ^= APIC_BIT;
	WORKS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list));
	find(&list, 1)->ebx ^= 1u << 24;
	FAILS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list), EINVAL);
	find(&list, 1)->ebx ^= 1u << 24;
	list.header.nent--;
	FAILS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list), EINVAL);
	machine_close(&machine);
}

static struct kvm_regs guest_cpuid(struct machine *machine, uint32_t leaf, uint32_t subleaf)
{
	return DOES(machine, "\x0f\xa2", .rax = leaf, .rcx = subleaf);
}

#define INTEL 0x756e6547u
#define AMD 0x68747541u

/* Past the last leaf: Intel's processors repeat the last basic one, AMD's say nothing. */
static void past_the_last(void)
{
	static const struct {
		uint32_t vendor, leaf, subleaf, eax, ecx;
	} rows[] = {
	    {INTEL, 0x20, 0, 0x77, 0},
	    {AMD, 0x20, 0, 0, 0},
	    {INTEL, 0x80000020, 0, 0x77, 0},
	    {AMD, 0x80000020, 0, 0, 0},
	    {INTEL, 0x40000020, 0, 0x77, 0},
	    {INTEL, 0x40000001, 0, 0x66, 0},
	    {INTEL, 0x40000101, 0, 0x77, 0},
	    {INTEL, 0xd, 0, 0x77, 0},
	    /* Within, and not there. */
	    {INTEL, 0x5, 0, 0, 0},
	    {AMD, 0x5, 0, 0, 0},
	    /* Levels of the topology end with the number of the level, and the APIC's id. */
	    {INTEL, 0xb, 5, 0, 5},
	    {AMD, 0xb, 7, 0, 7},
	};
	struct kvm_cpuid_entry2 entries[] = {
	    {.function = 0, .eax = 0xd},
	    {.function = 1, .eax = 0x11},
	    {.function = 0xb, .index = 0, .flags = 1, .edx = 0x99},
	    {.function = 0xb, .index = 1, .flags = 1, .ecx = 1, .edx = 0x99},
	    {.function = 0xd, .index = 0, .flags = 1, .eax = 0x77},
	    {.function = 0x40000000, .eax = 0x40000001},
	    {.function = 0x40000001, .eax = 0x66},
	    {.function = 0x80000000, .eax = 0x80000001},
	    {.function = 0x80000001, .edx = 1u << 29 | 1u << 26},
	};
	struct list list = {{.nent = sizeof(entries) / sizeof(entries[0])}, {{0}}};
	struct machine machine;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_regs regs;

		machine_open(&machine, MACHINE_NO_IRQCHIP);
		entries[0].ebx = rows[i].vendor;
		memcpy(list.entries, entries, sizeof(entries));
		WORKS(ioctl(machine.vcpu, KVM_SET_CPUID2, &list));
		flat_mode(&machine);
		regs = guest_cpuid(&machine, rows[i].leaf, rows[i].subleaf);
		CHECK(regs.rax == rows[i].eax && regs.rcx == rows[i].ecx,
		      "row %zu, leaf %x: eax %llx, ecx %llx", i, rows[i].leaf, regs.rax, regs.rcx);
		CHECK(regs.rdx == (rows[i].leaf == 0xb ? 0x99 : 0), "row %zu: edx %llx", i,
		      regs.rdx);
		machine_close(&machine);
	}
}

/* Bits that are the vCPU's own state: the APIC's, OSXSAVE. */
static void state_in_leaf_1(void)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} base = {{.nmsrs = 1}, {.index = 0x1b, .data = APIC_PAGE | 0x100}};
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	regs = guest_cpuid(&machine, 1, 0);
	CHECK((regs.rdx & APIC_BIT) && (regs.rcx & XSAVE_BIT) && !(regs.rcx & OSXSAVE_BIT),
	      "ecx %llx, edx %llx", regs.rcx, regs.rdx);
	WORKS(ioctl(machine.vcpu, KVM_GET_SREGS, &sregs));
	sregs.cr4 |= 1u << 18;
	WORKS(ioctl(machine.vcpu, KVM_SET_SREGS, &sregs));
	CHECK(ioctl(machine.vcpu, KVM_SET_MSRS, &base) == 1, "the APIC cannot be switched off");
	regs = guest_cpuid(&machine, 1, 0);
	CHECK(!(regs.rdx & APIC_BIT) && (regs.rcx & OSXSAVE_BIT), "ecx %llx, edx %llx", regs.rcx,
	      regs.rdx);
	machine_close(&machine);
}

static void pcids(void)
{
	struct list list;

	supported(&list);
	CHECK(find(&list, 1)->ecx & 1u << 17, "no PCID");
	CHECK(find(&list, 7)->ebx & 1u << 10, "no INVPCID");
}

/* What x86-64-v3 has without AVX: MOVBE, BMI1, BMI2, LZCNT. */
static void integer_part_of_v3(void)
{
	struct list list;

	supported(&list);
	CHECK(find(&list, 1)->ecx & 1u << 22, "no MOVBE");
	CHECK((find(&list, 7)->ebx & 0x108) == 0x108, "leaf 7: ebx %x", find(&list, 7)->ebx);
	CHECK(find(&list, 0x80000001)->ecx & 1u << 5, "no LZCNT");
}

/* OSPKE follows CR4.PKE, and the size of an XSAVE image XCR0. */
static void state_of_keys(void)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 0x203}}};
	uint64_t offset, without_keys = __builtin_cpu_supports("avx") ? 832 : 576;
	int has_keys;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct machine machine;

	flat_open(&machine, MACHINE_IRQCHIP);
	regs = guest_cpuid(&machine, 7, 0);
	has_keys = (regs.rcx & 8) != 0;
	CHECK(!(regs.rcx & 0x10), "ecx %llx", regs.rcx);
	regs = guest_cpuid(&machine, 0xd, 9);
	offset = regs.rbx;
	CHECK(has_keys ? regs.rax == 8 && offset >= 576 : !regs.rax, "eax %llu, ebx %llu", regs.rax,
	      regs.rbx);
	regs = guest_cpuid(&machine, 0xd, 0);
	CHECK(regs.rbx == 576 && regs.rcx == (has_keys ? offset + 8 : without_keys),
	      "ebx %llu, ecx %llu", regs.rbx, regs.rcx);
	if (!has_keys) {
		/* The machine has none. */
		machine_close(&machine);
		return;
	}
	WORKS(ioctl(machine.vcpu, KVM_GET_SREGS, &sregs));
	sregs.cr4 |= 1u << 22;
	WORKS(ioctl(machine.vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(machine.vcpu, KVM_SET_XCRS, &xcrs));
	regs = guest_cpuid(&machine, 7, 0);
	CHECK((regs.rcx & 0x18) == 0x18, "ecx %llx", regs.rcx);
	regs = guest_cpuid(&machine, 0xd, 0);
	CHECK(regs.rbx == offset + 8, "ebx %llu", regs.rbx);
	machine_close(&machine);
}

/* A guest whose HLT does not exit is not told of kicks that end it. */
static void without_unhalt(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_DISABLE_EXITS,
				     .args = {KVM_X86_DISABLE_EXITS_HLT}};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct machine machine;
	struct list list;

	for (int disabled = 0; disabled < 2; disabled++) {
		machine.vm = ioctl(kvm, KVM_CREATE_VM, 0);
		if (disabled)
			WORKS(ioctl(machine.vm, KVM_ENABLE_CAP, &cap));
		machine.vcpu = ioctl(machine.vm, KVM_CREATE_VCPU, 0);
		flat_cpuid(machine.vcpu);
		list.header.nent = ENTRIES;
		WORKS(ioctl(machine.vcpu, KVM_GET_CPUID2, &list));
		CHECK((find(&list, 0x40000001)->eax >> KVM_FEATURE_PV_UNHALT & 1) == !disabled,
		      "HLT does not exit: %d", disabled);
		machine_close(&machine);
	}
	close(kvm);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	emulated();
	old_form();
	lists_out_of_reach();
	widths();
	fixed_after_a_run();
	past_the_last();
	state_in_leaf_1();
	state_of_keys();
	integer_part_of_v3();
	pcids();
	without_unhalt();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
