/* Instructions that only 16-bit and 32-bit code has, by what they are for: decimal arithmetic. */
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "frontend/uapi.h"

#define MEMORY_BYTES 0x10000u
#define CODE 0x1000u
#define HANDLERS 0x2000u /* HLT, 16 bytes a vector */
#define BOUNDS 0x3000u
#define CF 0x01u
#define PF 0x04u
#define AF 0x10u
#define ZF 0x40u
#define VECTOR_DE 0u
#define VECTOR_BR 5u
#define VECTOR_UD 6u

static int vcpu;
static uint8_t *memory;
static struct kvm_run *run;
static struct kvm_regs regs;

static void open_machine(void)
{
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_sregs sregs;

	memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)memory;
	WORKS(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	for (unsigned int vector = 0; vector < 32; vector++) {
		uint16_t entry[2] = {(uint16_t)(HANDLERS + 16 * vector), 0};

		memcpy(memory + 4 * vector, entry, sizeof(entry));
		memory[entry[0]] = 0xf4;
	}
}

/* @insn, then HLT. The vector that was raised, or -1. */
static int run_insn(const char *insn, size_t bytes, uint16_t ax, uint32_t flags)
{
	memcpy(memory + CODE, insn, bytes);
	memory[CODE + bytes] = 0xf4;
	regs = (struct kvm_regs){.rip = CODE, .rax = ax, .rbx = BOUNDS, .rsp = 0x8000};
	regs.rflags = 2 | flags;
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_RUN, 0));
	CHECK(run->exit_reason == KVM_EXIT_HLT, "exit %u", run->exit_reason);
	WORKS(ioctl(vcpu, KVM_GET_REGS, &regs));
	if (regs.rip >= HANDLERS && regs.rip < HANDLERS + 16 * 32)
		return (int)((regs.rip - HANDLERS) / 16);
	return -1;
}
#define RUN(insn, ax, flags) run_insn(insn, sizeof(insn) - 1, ax, flags)

static uint8_t packed(unsigned int number)
{
	return (uint8_t)(number / 10 << 4 | number % 10);
}

/* Two packed numbers added in binary: AL and what the addition left in CF and AF. */
static void packed_numbers(void)
{
	for (unsigned int a = 0; a < 100; a++) {
		for (unsigned int b = 0; b < 100; b += 1 + a % 3) {
			unsigned int sum = packed(a) + packed(b), less = packed(a) - packed(b);
			unsigned int half = (packed(a) & 15) + (packed(b) & 15) > 15 ? AF : 0;
			unsigned int borrow = (packed(a) & 15) < (packed(b) & 15) ? AF : 0;

			RUN("\x27", sum & 0xff, half | (sum > 255 ? CF : 0)); /* daa */
			CHECK((regs.rax & 0xff) == packed((a + b) % 100), "%u + %u: %#llx", a, b,
			      regs.rax);
			CHECK((regs.rflags & CF) == (a + b > 99), "%u + %u: carry", a, b);
			CHECK(((regs.rflags & ZF) != 0) == ((a + b) % 100 == 0), "%u + %u: zero", a,
			      b);
			RUN("\x2f", less & 0xff, borrow | (a < b ? CF : 0)); /* das */
			CHECK((regs.rax & 0xff) == packed((a + 100 - b) % 100), "%u - %u: %#llx", a,
			      b, regs.rax);
			CHECK((regs.rflags & CF) == (a < b), "%u - %u: borrow", a, b);
		}
	}
}

static void single_digits(void)
{
	for (unsigned int a = 0; a < 10; a++) {
		for (unsigned int b = 0; b < 10; b++) {
			unsigned int less = (a - b) & 0xff;

			RUN("\x37", (uint16_t)(0x300 + a + b), a + b > 15 ? AF : 0); /* aaa */
			CHECK(regs.rax == 0x300 + (a + b) / 10 * 0x100 + (a + b) % 10,
			      "%u + %u: %#llx", a, b, regs.rax);
			CHECK((regs.rflags & CF) == (a + b > 9), "%u + %u: carry", a, b);
			RUN("\x3f", (uint16_t)(0x300 + less), a < b ? AF : 0); /* aas */
			CHECK((regs.rax & 0xff) == (a + 10 - b) % 10, "%u - %u: %#llx", a, b,
			      regs.rax);
			CHECK((regs.rflags & CF) == (a < b), "%u - %u: borrow", a, b);
		}
	}
	for (unsigned int n = 0; n < 256; n++) {
		RUN("\xd4\x0a", (uint16_t)n, 0); /* aam */
		CHECK(regs.rax == (n / 10 << 8 | n % 10), "aam %u: %#llx", n, regs.rax);
		RUN("\xd5\x0a", (uint16_t)regs.rax, 0); /* aad */
		CHECK(regs.rax == n, "aad %u: %#llx", n, regs.rax);
		CHECK(((regs.rflags & PF) == 0) == __builtin_parity(n), "parity of %u", n);
		RUN("\xd5\x07", (uint16_t)(n << 8 | 1), 0);
		CHECK(regs.rax == ((n * 7 + 1) & 0xff), "aad 7 of %u: %#llx", n, regs.rax);
	}
	CHECK(RUN("\xd4\x00", 5, 0) == VECTOR_DE, "aam by zero");
}

static void others(void)
{
	int16_t bounds[2] = {-5, 100};

	memcpy(memory + BOUNDS, bounds, sizeof(bounds));
	for (int index = -200; index < 200; index++) {
		int wanted = index < bounds[0] || index > bounds[1] ? (int)VECTOR_BR : -1;
		int got = RUN("\x62\x07", (uint16_t)index, 0); /* bound ax, [bx] */

		CHECK(got == wanted, "bound %d: %d", index, got);
	}
	RUN("\xd6", 0x1234, CF); /* salc */
	CHECK(regs.rax == 0x12ff, "salc: %#llx", regs.rax);
	RUN("\xd6", 0x1234, 0);
	CHECK(regs.rax == 0x1200, "salc: %#llx", regs.rax);
	/* arpl is of protected mode. */
	CHECK(RUN("\x63\xc8", 0, 0) == VECTOR_UD, "arpl");
}

int main(void)
{
	open_machine();
	packed_numbers();
	single_digits();
	others();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
