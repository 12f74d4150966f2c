/* YMM registers: what CPUID offers of them, XCR0, XSAVE images in memory and of KVM's calls. */
#include <cpuid.h>
#include <stdlib.h>

#include "flat.h"

#define LEAF1_BITS (1u << 12 | 1u << 28 | 1u << 29) /* FMA, AVX, F16C */
#define LEAF7_AVX2 (1u << 5)
#define CR4_OSXSAVE (1u << 18)
#define IMAGE 0x2000u

struct list {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[100];
};

static const struct kvm_cpuid_entry2 *offered(uint32_t leaf, uint32_t subleaf)
{
	static const struct kvm_cpuid_entry2 none;
	static struct list list;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	list.header.nent = 100;
	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &list));
	close(kvm);
	for (uint32_t i = 0; i < list.header.nent; i++)
		if (list.entries[i].function == leaf && list.entries[i].index == subleaf)
			return &list.entries[i];
	return &none;
}

static void machine_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

/* As much as the machine has, and nothing without the components that its system saves. */
static void offers_what_the_machine_has(int has_avx)
{
	uint32_t leaf1[4], leaf7[4], leafd[4];

	machine_cpuid(1, 0, leaf1);
	machine_cpuid(7, 0, leaf7);
	machine_cpuid(0xd, 1, leafd);
	CHECK((offered(1, 0)->ecx & LEAF1_BITS) == (has_avx ? leaf1[2] & LEAF1_BITS : 0),
	      "leaf 1: ecx %x", offered(1, 0)->ecx);
	CHECK((offered(7, 0)->ebx & LEAF7_AVX2) == (has_avx ? leaf7[1] & LEAF7_AVX2 : 0),
	      "leaf 7: ebx %x", offered(7, 0)->ebx);
	CHECK((offered(0xd, 0)->eax & 7) == (has_avx ? 7 : 3), "leaf d: eax %x",
	      offered(0xd, 0)->eax);
	CHECK(offered(0xd, 0)->ebx == offered(0xd, 0)->ecx, "sizes %u and %u", offered(0xd, 0)->ebx,
	      offered(0xd, 0)->ecx);
	/* XSAVEOPT, XSAVEC and XGETBV with 1, no XSAVES. */
	CHECK(offered(0xd, 1)->eax == (leafd[0] & 7), "subleaf 1: eax %x", offered(0xd, 1)->eax);
	CHECK(offered(0xd, 2)->eax == (has_avx ? 256 : 0) &&
		  offered(0xd, 2)->ebx == (has_avx ? 576 : 0) && !offered(0xd, 2)->ecx,
	      "subleaf 2: %u bytes at %u", offered(0xd, 2)->eax, offered(0xd, 2)->ebx);
}

static struct machine open_with(uint64_t xcr0)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = xcr0}}};
	struct kvm_sregs sregs;
	struct machine machine;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	WORKS(ioctl(machine.vcpu, KVM_GET_SREGS, &sregs));
	sregs.cr4 |= CR4_OSXSAVE;
	WORKS(ioctl(machine.vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(machine.vcpu, KVM_SET_XCRS, &xcrs));
	return machine;
}

static struct kvm_regs guest_cpuid(struct machine *machine, uint32_t leaf, uint32_t subleaf)
{
	return DOES(machine, "\x0f\xa2", .rax = leaf, .rcx = subleaf);
}

/* The upper half needs the lower one; sizes follow XCR0. */
static void xcr0(void)
{
	static const struct {
		uint64_t value;
		int error;
	} rows[] = {{7, 0}, {3, 0}, {1, 0}, {5, EINVAL}, {4, EINVAL}, {6, EINVAL}, {0xe7, EINVAL}};
	struct machine machine = open_with(1);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.value = rows[i].value}}};
		struct kvm_regs regs;
		uint32_t size = rows[i].value & 4 ? 832 : 576;

		errno = 0;
		(void)!ioctl(machine.vcpu, KVM_SET_XCRS, &xcrs);
		CHECK(errno == rows[i].error, "%llx: %s", (unsigned long long)rows[i].value,
		      strerrorname_np(errno));
		if (rows[i].error)
			continue;
		regs = guest_cpuid(&machine, 0xd, 0);
		CHECK(regs.rbx == size, "XCR0 %llx: %llu bytes", (unsigned long long)rows[i].value,
		      regs.rbx);
		regs = guest_cpuid(&machine, 0xd, 1);
		CHECK(regs.rbx == (regs.rax & 2 ? size : 0), "XCR0 %llx, compacted: %llu bytes",
		      (unsigned long long)rows[i].value, regs.rbx);
		/* XGETBV */
		regs = DOES(&machine, "\x0f\x01\xd0", .rcx = 0);
		CHECK(regs.rax == rows[i].value, "XGETBV: %llx", regs.rax);
	}
	machine_close(&machine);
}

/* XSETBV by the guest, under the same rule; XGETBV with 1 says what is in use. */
static void in_use(void)
{
	struct machine machine = open_with(1);
	struct kvm_regs regs;

	regs = DOES(&machine, "\x0f\x01\xd1\x0f\x01\xd0", .rax = 7, .rcx = 0);
	CHECK(regs.rax == 7, "XCR0 is %llx", regs.rax);
	if (offered(0xd, 1)->eax & 4) {
		/* vzeroall; xgetbv */
		regs = DOES(&machine, "\xc5\xfc\x77\x0f\x01\xd0", .rcx = 1);
		CHECK(!(regs.rax & 6), "%llx in use after VZEROALL", regs.rax);
		/* mov $IMAGE, %rsi; vbroadcastss (%rsi), %ymm3; xgetbv */
		memset(machine.memory + IMAGE, 0x77, 4);
		regs = DOES(&machine, "\xc4\xe2\x7d\x18\x1e\x0f\x01\xd0", .rcx = 1, .rsi = IMAGE);
		CHECK((regs.rax & 6) == 6, "%llx in use", regs.rax);
	}
	machine_close(&machine);
}

static uint64_t *component(struct kvm_xsave *image, unsigned int offset)
{
	return (uint64_t *)((uint8_t *)image->region + offset);
}

/* KVM_SET_XSAVE and KVM_GET_XSAVE(2), and what the guest sees of it. */
static void kvm_images(void)
{
	struct kvm_xsave *image = calloc(1, sizeof(*image)), *after = calloc(1, sizeof(*after));
	struct machine machine = open_with(7);
	uint64_t half[2];

	WORKS(ioctl(machine.vcpu, KVM_GET_XSAVE, image));
	CHECK((*component(image, 512) & 7) == 7, "components %llx",
	      (unsigned long long)*component(image, 512));
	for (unsigned int i = 0; i < 32; i++) {
		component(image, 160)[i] = 0x1000 + i;
		component(image, 576)[i] = 0x2000 + i;
	}
	*component(image, 512) = 7;
	WORKS(ioctl(machine.vcpu, KVM_SET_XSAVE, image));
	/* vextractf128 $1, %ymm9, (%rsi) */
	(void)DOES(&machine, "\xc4\x63\x7d\x19\x0e\x01", .rsi = IMAGE);
	memcpy(half, machine.memory + IMAGE, sizeof(half));
	CHECK(half[0] == 0x2012 && half[1] == 0x2013, "YMM9's upper half is %llx, %llx",
	      (unsigned long long)half[0], (unsigned long long)half[1]);
	/* vpxor %xmm4, %xmm4, %xmm4: the upper half goes; pxor %xmm5, %xmm5: it stays. */
	(void)DOES(&machine, "\xc5\xd9\xef\xe4\x66\x0f\xef\xed", .rax = 0);
	WORKS(ioctl(machine.vcpu, KVM_GET_XSAVE2, after));
	CHECK(!component(after, 160)[8] && !component(after, 576)[8] && !component(after, 576)[9],
	      "VPXOR leaves something");
	CHECK(!component(after, 160)[10] && component(after, 576)[10] == 0x200a, "PXOR does not");
	CHECK(component(after, 576)[31] == 0x201f, "YMM15's upper half is %llx",
	      (unsigned long long)component(after, 576)[31]);
	/* A component that does not come is as after a reset. */
	*component(image, 512) = 3;
	WORKS(ioctl(machine.vcpu, KVM_SET_XSAVE, image));
	WORKS(ioctl(machine.vcpu, KVM_GET_XSAVE, after));
	CHECK(component(after, 160)[2] == 0x1002, "XMM1 is %llx",
	      (unsigned long long)component(after, 160)[2]);
	for (unsigned int i = 0; i < 32; i++)
		CHECK(!component(after, 576)[i], "upper halves stay: %u", i);
	machine_close(&machine);
	free(image);
	free(after);
}

/* The old call has XMM registers alone. */
static void old_call(void)
{
	struct kvm_xsave *image = calloc(1, sizeof(*image));
	struct machine machine = open_with(7);
	struct kvm_fpu fpu;

	*component(image, 0) = 0x37f;
	component(image, 24)[0] = 0x1f80;
	*component(image, 512) = 7;
	component(image, 576)[0] = 0x55;
	WORKS(ioctl(machine.vcpu, KVM_SET_XSAVE, image));
	WORKS(ioctl(machine.vcpu, KVM_GET_FPU, &fpu));
	memset(fpu.xmm, 0x11, sizeof(fpu.xmm));
	WORKS(ioctl(machine.vcpu, KVM_SET_FPU, &fpu));
	WORKS(ioctl(machine.vcpu, KVM_GET_XSAVE, image));
	CHECK(component(image, 160)[0] == 0x1111111111111111 && component(image, 576)[0] == 0x55,
	      "XMM0 is %llx, above it %llx", (unsigned long long)component(image, 160)[0],
	      (unsigned long long)component(image, 576)[0]);
	machine_close(&machine);
	free(image);
}

int main(void)
{
	int has_avx = __builtin_cpu_supports("avx") != 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	offers_what_the_machine_has(has_avx);
	if (has_avx) {
		xcr0();
		in_use();
		kvm_images();
		old_call();
	} else {
		printf("this machine has no AVX, and offers none\n");
	}
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
