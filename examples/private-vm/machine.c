/* Building the machine: capabilities, memory slots, the vCPU's first state. */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* The image made from guest.c; the linker names it after its path in the build folder. */
extern const uint8_t guest_image[] __asm__("_binary_examples_private_vm_guest_bin_start");
extern const uint8_t guest_image_end[] __asm__("_binary_examples_private_vm_guest_bin_end");

#define HUGE_BYTES (2ul << 20)
#define ENTRY_TABLE 0x3ul  /* present, writable */
#define ENTRY_LARGE 0x83ul /* and a 2 MiB page */
#define CPUID_ENTRIES 256

int complain(const char *what)
{
	fprintf(stderr, "private-vm: %s: %s\n", what, strerror(errno));
	return -1;
}

/* Zeroed memory at a 2 MiB boundary, so that it can have huge pages. */
static uint8_t *allocate(size_t size_bytes)
{
	size_t reserved = size_bytes + HUGE_BYTES;
	uint8_t *mem = mmap(NULL, reserved, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	mem += -(uintptr_t)mem & (HUGE_BYTES - 1);
	/* Advice: where the kernel has no huge pages, small ones do. */
	(void)madvise(mem, size_bytes, MADV_HUGEPAGE);
	return mem;
}

int machine_set_slot(struct machine *machine, enum slot slot, uint32_t flags)
{
	const struct memory *memory = &machine->memory[slot];
	struct kvm_userspace_memory_region2 region = {
	    .slot = slot,
	    .flags = flags,
	    .guest_phys_addr = memory->gpa,
	    .memory_size = memory->size_bytes,
	    .userspace_addr = (uintptr_t)memory->host,
	};

	if (flags & KVM_MEM_GUEST_MEMFD)
		region.guest_memfd = machine->secret_fd;
	return ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

int machine_convert(struct machine *machine, uint64_t gpa, uint64_t size_bytes,
		    enum visibility visibility)
{
	struct kvm_memory_attributes attributes = {
	    .address = gpa,
	    .size = size_bytes,
	    .attributes = visibility == VISIBLE_PRIVATE ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	return ioctl(machine->vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

/* Opens KVM and asks for all that this program needs. */
static enum created open_kvm(struct machine *machine)
{
	machine->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm < 0) {
		complain("/dev/kvm");
		return MACHINE_UNSUPPORTED;
	}
	if (ioctl(machine->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		fprintf(stderr, "private-vm: /dev/kvm speaks another version of the interface\n");
		return MACHINE_UNSUPPORTED;
	}

	int types = ioctl(machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);
	int hypercalls = ioctl(machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_EXIT_HYPERCALL);

	if (types < 0 || !(types & 1 << KVM_X86_SW_PROTECTED_VM)) {
		fprintf(stderr, "private-vm: this KVM has no software-protected VMs "
				"(a kernel built with CONFIG_KVM_SW_PROTECTED_VM has them)\n");
		return MACHINE_UNSUPPORTED;
	}
	if (hypercalls < 0 || !(hypercalls & 1 << KVM_HC_MAP_GPA_RANGE)) {
		fprintf(stderr, "private-vm: this KVM does not pass on KVM_HC_MAP_GPA_RANGE\n");
		return MACHINE_UNSUPPORTED;
	}
	return MACHINE_READY;
}

static int create_memory(struct machine *machine)
{
	struct kvm_create_guest_memfd secret = {.size = SECRET_PAGES * PAGE_BYTES};

	machine->memory[SLOT_LOW] = (struct memory){0, LOW_BYTES, NULL};
	machine->memory[SLOT_SECRET] = (struct memory){SECRET_GPA, SECRET_PAGES * PAGE_BYTES, NULL};
	machine->memory[SLOT_BUSY] = (struct memory){BUSY_GPA, BUSY_PAGES * PAGE_BYTES, NULL};
	machine->secret_fd = ioctl(machine->vm, KVM_CREATE_GUEST_MEMFD, &secret);
	if (machine->secret_fd < 0)
		return complain("KVM_CREATE_GUEST_MEMFD");
	for (int slot = 0; slot < SLOT_COUNT; slot++) {
		struct memory *memory = &machine->memory[slot];

		memory->host = allocate(memory->size_bytes);
		if (!memory->host)
			return complain("memory for the guest");
		if (machine_set_slot(machine, slot, slot == SLOT_SECRET ? KVM_MEM_GUEST_MEMFD : 0))
			return complain("KVM_SET_USER_MEMORY_REGION2");
	}
	return 0;
}

/* Tables that map the low 4 GiB to themselves in pages of 2 MiB, then the image. */
static int load_guest(struct machine *machine)
{
	uint8_t *low = machine->memory[SLOT_LOW].host;
	uint64_t *top = (uint64_t *)(low + GUEST_TABLES);
	uint64_t *middle = top + 512, *leaves = top + 1024;
	size_t image_bytes = (size_t)(guest_image_end - guest_image);

	if (image_bytes > GUEST_STACK_TOP - GUEST_CODE) {
		fprintf(stderr, "private-vm: the guest's image is too large\n");
		return -1;
	}
	top[0] = (GUEST_TABLES + PAGE_BYTES) | ENTRY_TABLE;
	for (uint64_t gib = 0; gib < 4; gib++)
		middle[gib] = (GUEST_TABLES + (2 + gib) * PAGE_BYTES) | ENTRY_TABLE;
	for (uint64_t i = 0; i < 4 * 512; i++)
		leaves[i] = i * HUGE_BYTES | ENTRY_LARGE;
	memcpy(low + GUEST_CODE, guest_image, image_bytes);
	machine->mailbox = (volatile struct mailbox *)(low + GUEST_MAILBOX);
	return 0;
}

/* The guest gets every feature that this KVM has. */
static int give_cpuid(struct machine *machine)
{
	struct kvm_cpuid2 *cpuid =
	    calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));
	int result = 0;

	if (!cpuid)
		return complain("memory for CPUID");
	cpuid->nent = CPUID_ENTRIES;
	if (ioctl(machine->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		result = complain("KVM_GET_SUPPORTED_CPUID");
	else if (ioctl(machine->vcpu, KVM_SET_CPUID2, cpuid) < 0)
		result = complain("KVM_SET_CPUID2");
	free(cpuid);
	return result;
}

/* The state in which a boot loader would leave the CPU: 64-bit mode, flat segments. */
static int enter_long_mode(struct machine *machine)
{
	struct kvm_regs regs = {.rip = GUEST_CODE, .rsp = GUEST_STACK_TOP - 8, .rflags = 2};
	struct kvm_segment code = {
	    .limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
	    .limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_sregs sregs;

	if (ioctl(machine->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return complain("KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = GUEST_TABLES;
	sregs.cr4 = 1u << 5;					  /* PAE */
	sregs.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u; /* PG WP NE ET PE */
	sregs.efer = 1u << 10 | 1u << 8;			  /* LMA LME */
	if (ioctl(machine->vcpu, KVM_SET_SREGS, &sregs) < 0)
		return complain("KVM_SET_SREGS");
	if (ioctl(machine->vcpu, KVM_SET_REGS, &regs) < 0)
		return complain("KVM_SET_REGS");
	return 0;
}

static int create_vcpu(struct machine *machine)
{
	int run_bytes = ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (run_bytes < 0)
		return complain("KVM_GET_VCPU_MMAP_SIZE");
	machine->vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, 0);
	if (machine->vcpu < 0)
		return complain("KVM_CREATE_VCPU");
	machine->run_bytes = (size_t)run_bytes;
	machine->run =
	    mmap(NULL, machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpu, 0);
	if (machine->run == MAP_FAILED)
		return complain("mmap of the vCPU");
	if (give_cpuid(machine) || enter_long_mode(machine))
		return -1;
	return 0;
}

enum created machine_create(struct machine *machine)
{
	struct kvm_enable_cap hypercalls = {
	    .cap = KVM_CAP_EXIT_HYPERCALL,
	    .args = {1 << KVM_HC_MAP_GPA_RANGE},
	};
	enum created found = open_kvm(machine);

	if (found != MACHINE_READY)
		return found;
	machine->vm = ioctl(machine->kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (machine->vm < 0) {
		complain("KVM_CREATE_VM");
		return MACHINE_FAILED;
	}
	if (ioctl(machine->vm, KVM_ENABLE_CAP, &hypercalls) < 0) {
		complain("KVM_ENABLE_CAP(KVM_CAP_EXIT_HYPERCALL)");
		return MACHINE_FAILED;
	}
	if (create_memory(machine) || load_guest(machine) || create_vcpu(machine))
		return MACHINE_FAILED;
	return MACHINE_READY;
}
