/* The state calls of a vCPU: what KVM takes, what it refuses, and what it says afterwards. */
#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"
#include "frontend/uapi.h"

#define CR0_LONG 0x80050033u
#define CR4_PAE 0x20u
#define EFER_LONG 0x500u
#define MEMORY_BYTES 0x10000u

static int kvm, vm, vcpu;
static uint8_t *memory;

static void machine_open(int has_irqchip)
{
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES};

	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (has_irqchip)
		WORKS(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	CHECK(vcpu >= 0, "no vCPU");
	memory =
	    mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)memory;
	WORKS(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
}

static void machine_close(void)
{
	close(vcpu);
	close(vm);
	munmap(memory, MEMORY_BYTES);
}

static void cpuid_set(void)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 room[100];
	} cpuid = {.header.nent = 100};

	WORKS(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	WORKS(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
}

/* A call that is refused leaves the registers as they were. */
static void sregs_refused(const struct kvm_sregs *sregs, const char *what)
{
	struct kvm_sregs before, after;

	WORKS(ioctl(vcpu, KVM_GET_SREGS, &before));
	errno = 0;
	CHECK(ioctl(vcpu, KVM_SET_SREGS, sregs) == -1 && errno == EINVAL, "%s: taken", what);
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &after));
	CHECK(!memcmp(&before, &after, sizeof(before)), "%s: something changed", what);
}

#define REFUSED_SREGS(base, change)                \
	do {                                       \
		struct kvm_sregs sregs_ = *(base); \
		sregs_.change;                     \
		sregs_refused(&sregs_, #change);   \
	} while (0)

static void sregs_long(struct kvm_sregs *sregs)
{
	WORKS(ioctl(vcpu, KVM_GET_SREGS, sregs));
	sregs->cr0 = CR0_LONG;
	sregs->cr3 = 0x2000;
	sregs->cr4 = CR4_PAE;
	sregs->efer = EFER_LONG;
	sregs->cs.l = 1;
	sregs->cs.db = 0;
}

/* Small clients enter long mode and never set a CPUID. */
static void sregs_without_cpuid(void)
{
	struct kvm_sregs real, sregs;

	machine_open(0);
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &real));
	REFUSED_SREGS(&real, efer = 0x100);
	REFUSED_SREGS(&real, efer = 0x800);
	REFUSED_SREGS(&real, efer = 0x1000);
	REFUSED_SREGS(&real, cr4 = 1u << 18);
	sregs_long(&sregs);
	REFUSED_SREGS(&sregs, cr3 = UINT64_C(1) << 36);
	REFUSED_SREGS(&sregs, efer = EFER_LONG | 0x1000);
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &real));
	CHECK(real.efer == EFER_LONG && real.cr0 == CR0_LONG, "not in long mode");
	machine_close();
}

static void sregs_with_cpuid(void)
{
	struct kvm_sregs sregs, after;

	machine_open(0);
	cpuid_set();
	sregs_long(&sregs);
	REFUSED_SREGS(&sregs, cr3 = UINT64_C(1) << 60);
	REFUSED_SREGS(&sregs, cr4 = 0);
	REFUSED_SREGS(&sregs, efer = 0x100);
	REFUSED_SREGS(&sregs, efer = EFER_LONG | 0x200);
	REFUSED_SREGS(&sregs, cr0 = 0x80000010);
	REFUSED_SREGS(&sregs, cr0 = 0xa0050033);
	REFUSED_SREGS(&sregs, cr0 = CR0_LONG | UINT64_C(1) << 32);
	/* The base of the APIC is the processor's, with an APIC of ours or without. */
	REFUSED_SREGS(&sregs, apic_base = 0xfee00901);
	REFUSED_SREGS(&sregs, apic_base = 0xfee00400);
	REFUSED_SREGS(&sregs, apic_base |= UINT64_C(1) << 60);
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	/* A priority that there is not changes nothing, and the call has worked. */
	sregs.cr8 = 3;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	sregs.cr8 = 16;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &after));
	CHECK(after.cr8 == 3, "CR8 is %llu", after.cr8);
	machine_close();
}

static void sregs2(void)
{
	static const uint64_t table[4] = {0x1001, 0x2001, 0, 0x3001}, other[4] = {0x5001};
	struct kvm_sregs2 sregs, after;

	CHECK(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) == 1, "no KVM_CAP_SREGS2");
	machine_open(0);
	cpuid_set();
	memcpy(memory + 0x20, table, sizeof(table));
	WORKS(ioctl(vcpu, KVM_GET_SREGS2, &sregs));
	CHECK(!sregs.flags, "entries without PAE");
	sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	FAILS(ioctl(vcpu, KVM_SET_SREGS2, &sregs), EINVAL);
	sregs.flags = 2;
	FAILS(ioctl(vcpu, KVM_SET_SREGS2, &sregs), EINVAL);
	sregs.flags = 0;
	sregs.cr0 = CR0_LONG;
	sregs.cr3 = 0x20;
	sregs.cr4 = CR4_PAE;
	WORKS(ioctl(vcpu, KVM_SET_SREGS2, &sregs));
	WORKS(ioctl(vcpu, KVM_GET_SREGS2, &after));
	CHECK(after.flags == KVM_SREGS2_FLAGS_PDPTRS_VALID, "no entries with PAE");
	CHECK(!memcmp(after.pdptrs, table, sizeof(table)), "not those in memory");
	sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	memcpy(sregs.pdptrs, other, sizeof(other));
	WORKS(ioctl(vcpu, KVM_SET_SREGS2, &sregs));
	WORKS(ioctl(vcpu, KVM_GET_SREGS2, &after));
	CHECK(!memcmp(after.pdptrs, other, sizeof(other)), "not those that were set");
	machine_close();
}

static void xsave(void)
{
	struct kvm_xsave *image = calloc(1, sizeof(*image)), *after = calloc(1, sizeof(*after));
	uint64_t *header = (uint64_t *)((uint8_t *)image + 512);

	CHECK(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) == 4096, "KVM_CAP_XSAVE2");
	machine_open(0);
	WORKS(ioctl(vcpu, KVM_GET_XSAVE2, image));
	memset((uint8_t *)image + 160, 0x5a, 256);
	header[0] = 2;
	image->region[6] = 0x1fa0;
	WORKS(ioctl(vcpu, KVM_SET_XSAVE, image));
	image->region[6] = UINT32_C(1) << 16;
	FAILS(ioctl(vcpu, KVM_SET_XSAVE, image), EINVAL);
	/* Where nothing comes that MXCSR belongs to, it is not looked at and stays. */
	header[0] = 0;
	WORKS(ioctl(vcpu, KVM_SET_XSAVE, image));
	WORKS(ioctl(vcpu, KVM_GET_XSAVE, after));
	CHECK(after->region[6] == 0x1fa0, "MXCSR is %x", after->region[6]);
	CHECK(!after->region[40], "a component that was not there is not as after a reset");
	image->region[6] = 0x1f80;
	for (int word = 0; word < 8; word++) {
		/* Unknown components, the compact form, what is reserved. */
		header[0] = word ? 3 : UINT64_C(1) << 40;
		if (word)
			header[word] = 1;
		FAILS(ioctl(vcpu, KVM_SET_XSAVE, image), EINVAL);
		header[word] = 0;
	}
	machine_close();
	free(image);
	free(after);
}

/* 0: the machine has no protection keys, and so no guest. */
static uint32_t pkru_offset(void)
{
	uint32_t a = 0, b = 0, c = 0, d = 0;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & 8) ||
	    !__get_cpuid_count(0xd, 9, &a, &b, &c, &d))
		return 0;
	return b;
}

static void without_keys(void)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 0x203}}};

	machine_open(0);
	cpuid_set();
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	machine_close();
}

/* PKRU is a component that a CPUID with keys has. */
static void xsave_keys(void)
{
	struct kvm_xsave *image = calloc(1, sizeof(*image)), *after = calloc(1, sizeof(*after));
	uint64_t *header = (uint64_t *)((uint8_t *)image + 512);
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 0x203}}};
	const uint32_t word = pkru_offset() / 4;

	machine_open(0);
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	cpuid_set();
	WORKS(ioctl(vcpu, KVM_SET_XCRS, &xcrs));
	WORKS(ioctl(vcpu, KVM_GET_XSAVE, image));
	CHECK((header[0] & ~UINT64_C(4)) == 0x203 && !image->region[word],
	      "a new vCPU has components %llx", (unsigned long long)header[0]);
	image->region[word] = 0x55555554;
	WORKS(ioctl(vcpu, KVM_SET_XSAVE, image));
	WORKS(ioctl(vcpu, KVM_GET_XSAVE, after));
	CHECK(after->region[word] == 0x55555554, "PKRU is %x", after->region[word]);
	header[0] = 3;
	WORKS(ioctl(vcpu, KVM_SET_XSAVE, image));
	WORKS(ioctl(vcpu, KVM_GET_XSAVE, after));
	CHECK(!after->region[word], "PKRU was not there, and is %x", after->region[word]);
	machine_close();
	free(image);
	free(after);
}

static void xcrs(void)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 3}}};

	machine_open(0);
	/* SSE comes with a leaf of CPUID. */
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	xcrs.xcrs[0].value = 1;
	WORKS(ioctl(vcpu, KVM_SET_XCRS, &xcrs));
	cpuid_set();
	xcrs.xcrs[0].value = 3;
	WORKS(ioctl(vcpu, KVM_SET_XCRS, &xcrs));
	xcrs.xcrs[0].value = 2;
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	xcrs.xcrs[0].value = 0xe7;
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	/* Other registers are passed over. */
	xcrs.xcrs[0].xcr = 1;
	WORKS(ioctl(vcpu, KVM_SET_XCRS, &xcrs));
	xcrs.nr_xcrs = 0;
	WORKS(ioctl(vcpu, KVM_SET_XCRS, &xcrs));
	xcrs.nr_xcrs = KVM_MAX_XCRS + 1;
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	xcrs.nr_xcrs = 0;
	xcrs.flags = 1;
	FAILS(ioctl(vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	WORKS(ioctl(vcpu, KVM_GET_XCRS, &xcrs));
	CHECK(xcrs.nr_xcrs == 1 && !xcrs.flags && xcrs.xcrs[0].value == 3, "XCR0");
	machine_close();
}

/* MXCSR has a place in struct kvm_fpu that KVM does not use. */
static void fpu_without_mxcsr(void)
{
	struct kvm_fpu fpu, after;
	struct kvm_xsave *image = calloc(1, sizeof(*image));

	machine_open(0);
	WORKS(ioctl(vcpu, KVM_GET_XSAVE, image));
	WORKS(ioctl(vcpu, KVM_GET_FPU, &fpu));
	CHECK(!fpu.mxcsr, "MXCSR is %x", fpu.mxcsr);
	fpu.mxcsr = 0x1fc0;
	WORKS(ioctl(vcpu, KVM_SET_FPU, &fpu));
	WORKS(ioctl(vcpu, KVM_GET_XSAVE, image));
	CHECK(image->region[6] == 0x1f80, "MXCSR is %x", image->region[6]);
	WORKS(ioctl(vcpu, KVM_GET_FPU, &after));
	CHECK(!after.mxcsr, "MXCSR is %x", after.mxcsr);
	machine_close();
	free(image);
}

static uint32_t mp_state(void)
{
	struct kvm_mp_state state = {.mp_state = 99};

	WORKS(ioctl(vcpu, KVM_GET_MP_STATE, &state));
	return state.mp_state;
}

static void mp_states(void)
{
	for (int has_irqchip = 0; has_irqchip < 2; has_irqchip++) {
		machine_open(has_irqchip);
		for (uint32_t i = 0; i < 12; i++) {
			struct kvm_mp_state state = {.mp_state = i};

			/* A SIPI that came finds the vCPU waiting for it at the next look. */
			if (!i || (has_irqchip && (i <= 4 || i == KVM_MP_STATE_AP_RESET_HOLD))) {
				WORKS(ioctl(vcpu, KVM_SET_MP_STATE, &state));
				CHECK(mp_state() == (i == 4 ? 0 : i), "state %u is %u", i,
				      mp_state());
			} else {
				FAILS(ioctl(vcpu, KVM_SET_MP_STATE, &state), EINVAL);
			}
		}
		machine_close();
	}
}

#define EVENTS(change)                                      \
	({                                                  \
		struct kvm_vcpu_events events_ = clean;     \
		events_.change;                             \
		ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events_); \
	})

/* Without the capability of payloads "pending" is not looked at, and told as "injected". */
static void events_exceptions(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events clean, after;

	machine_open(1);
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &clean));
	CHECK(clean.flags & KVM_VCPUEVENT_VALID_SMM, "flags are %x", clean.flags);
	WORKS(EVENTS(exception = ((typeof(clean.exception)){.pending = 1, .nr = 6})));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.exception.injected && !after.exception.pending, "an exception is there");
	WORKS(EVENTS(exception = ((typeof(clean.exception)){.pending = 1, .nr = 99})));
	FAILS(EVENTS(exception = ((typeof(clean.exception)){.injected = 1, .nr = 32})), EINVAL);
	FAILS(EVENTS(exception = ((typeof(clean.exception)){.injected = 1, .nr = 2})), EINVAL);
	FAILS(EVENTS(flags |= KVM_VCPUEVENT_VALID_PAYLOAD), EINVAL);
	FAILS(EVENTS(flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT), EINVAL);
	/* INT3 comes again by itself. */
	WORKS(EVENTS(exception = ((typeof(clean.exception)){.injected = 1, .nr = 3})));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.exception.injected && after.exception.nr == 3, "a soft exception is told of");
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	WORKS(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &clean));
	clean.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	WORKS(
	    EVENTS(exception = ((typeof(clean.exception)){.pending = 1, .injected = 1, .nr = 6})));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.exception.injected && after.exception.pending, "pending goes first");
	machine_close();
}

static void events_others(void)
{
	struct kvm_vcpu_events clean, after;

	machine_open(1);
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &clean));
	WORKS(EVENTS(interrupt = ((typeof(clean.interrupt)){.injected = 1, .nr = 3, .soft = 1})));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.interrupt.injected && !after.interrupt.soft, "a soft interrupt is told of");
	WORKS(EVENTS(sipi_vector = 7));
	WORKS(EVENTS(flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.sipi_vector, "the SIPI's vector is told");
	WORKS(EVENTS(smi.smm_inside_nmi = 1));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.smi.smm && !after.smi.smm_inside_nmi, "inside an NMI and no SMI");
	FAILS(EVENTS(flags |= UINT32_C(1) << 31), EINVAL);
	/* Two NMIs may wait, one while another is being handled. */
	WORKS(EVENTS(nmi.pending = 5));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(after.nmi.pending == 2, "%u NMIs", after.nmi.pending);
	WORKS(EVENTS(nmi = ((typeof(clean.nmi)){.pending = 5, .masked = 1})));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(after.nmi.pending == 1 && after.nmi.masked, "%u NMIs", after.nmi.pending);
	WORKS(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &clean));
	WORKS(ioctl(vcpu, KVM_NMI, 0));
	WORKS(ioctl(vcpu, KVM_NMI, 0));
	WORKS(ioctl(vcpu, KVM_NMI, 0));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(after.nmi.pending == 2, "%u NMIs", after.nmi.pending);
	machine_close();
}

/* SET_REGS takes back what waits, not what is on its way. */
static void regs_and_exceptions(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events clean, after;
	struct kvm_regs regs;

	machine_open(0);
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	WORKS(ioctl(vcpu, KVM_GET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &clean));
	WORKS(EVENTS(exception = ((typeof(clean.exception)){.pending = 1, .nr = 6})));
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(!after.exception.pending, "still pending");
	WORKS(EVENTS(exception = ((typeof(clean.exception)){.injected = 1, .nr = 6})));
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	WORKS(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &after));
	CHECK(after.exception.injected, "no longer injected");
	machine_close();
}

static long eventfd_call(int fd, uint64_t address, uint32_t length, uint32_t flags)
{
	struct kvm_ioeventfd call = {.addr = address, .len = length, .fd = fd, .flags = flags};

	return ioctl(vm, KVM_IOEVENTFD, &call);
}

static void eventfds(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	machine_open(0);
	WORKS(eventfd_call(fd, 0x1000, 4, 1u << 4));
	FAILS(eventfd_call(fd, 0x1000, 4, 0), EEXIST);
	/* virtio-ccw's bus is a bus of its own, also where no guest has it. */
	WORKS(eventfd_call(fd, 0x1000, 4, KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY));
	FAILS(eventfd_call(fd, 0x1000, 4, KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY), EEXIST);
	FAILS(eventfd_call(fd, 0x2000, 4, 1u << 5), EINVAL);
	/* To take away, only the eventfd must be one. */
	FAILS(eventfd_call(fd, 0x2000, 3, KVM_IOEVENTFD_FLAG_DEASSIGN), ENOENT);
	FAILS(eventfd_call(fd, UINT64_MAX, 8, KVM_IOEVENTFD_FLAG_DEASSIGN), ENOENT);
	FAILS(eventfd_call(fd, 0x2000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN | 1u << 30), ENOENT);
	FAILS(eventfd_call(vm, 0x2000, 3, KVM_IOEVENTFD_FLAG_DEASSIGN), EINVAL);
	FAILS(eventfd_call(12345, 0x2000, 3, KVM_IOEVENTFD_FLAG_DEASSIGN), EBADF);
	WORKS(eventfd_call(fd, 0x1000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN | 1u << 30));
	machine_close();
	close(fd);
}

/* The components of XSAVE that a guest may have, asked of the system. */
static void system_attributes(void)
{
	uint64_t components = 0;
	struct kvm_device_attr attr = {.addr = (uintptr_t)&components};

	WORKS(ioctl(kvm, KVM_HAS_DEVICE_ATTR, &attr));
	WORKS(ioctl(kvm, KVM_GET_DEVICE_ATTR, &attr));
	CHECK((components & ~UINT64_C(4)) == (pkru_offset() ? 0x203 : 3), "components %llx",
	      (unsigned long long)components);
	attr.addr = 8;
	FAILS(ioctl(kvm, KVM_GET_DEVICE_ATTR, &attr), EFAULT);
	attr.attr = 1;
	FAILS(ioctl(kvm, KVM_HAS_DEVICE_ATTR, &attr), ENXIO);
	attr.group = 1;
	FAILS(ioctl(kvm, KVM_GET_DEVICE_ATTR, &attr), ENXIO);
}

static void alarm_handler(int number)
{
	(void)number;
}

/*
 * KVM_RUN for at most 50 ms: 0, or the errno. On a busy machine the first alarm may come before the
 * guest sleeps.
 */
static int run_briefly(void)
{
	struct itimerval soon = {{.tv_usec = 50000}, {.tv_usec = 50000}}, never = {0};
	int error;

	setitimer(ITIMER_REAL, &soon, NULL);
	error = ioctl(vcpu, KVM_RUN, 0) ? errno : 0;
	setitimer(ITIMER_REAL, &never, NULL);
	return error;
}

/* A guest whose HLT does not exit sleeps in KVM_RUN; the client sees a vCPU that runs. */
static void halt_inside(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_DISABLE_EXITS};
	struct sigaction action = {.sa_handler = alarm_handler};
	struct kvm_interrupt interrupt = {.irq = 32};
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 0x202, .rsp = 0x800};
	int all = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_X86_DISABLE_EXITS);
	struct kvm_sregs sregs;
	struct kvm_run *run;

	CHECK((all & 0xf) == 0xf, "exits that can be disabled: %x", all);
	sigaction(SIGALRM, &action, NULL);
	machine_open(0);
	cap.args[0] = 1;
	FAILS(ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL); /* there is a vCPU */
	close(vcpu);
	close(vm);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	cap.args[0] = 1u << 20;
	FAILS(ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = (unsigned int)all;
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	WORKS(ioctl(vm, KVM_SET_USER_MEMORY_REGION,
		    &(struct kvm_userspace_memory_region){.memory_size = MEMORY_BYTES,
							  .userspace_addr = (uintptr_t)memory}));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, 0x3000, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	/* hlt; out 0x80. The interrupt's handler is another out. */
	memcpy(memory + 0x1000, "\xf4\xe6\x80", 3);
	memcpy(memory + 0x1100, "\xe6\x81", 2);
	memcpy(memory + 4 * 32, "\x00\x11\x00\x00", 4);
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	CHECK(run_briefly() == EINTR, "did not sleep: exit %u", run->exit_reason);
	CHECK(mp_state() == KVM_MP_STATE_RUNNABLE, "state %u", mp_state());
	CHECK(run_briefly() == EINTR, "did not sleep on: exit %u", run->exit_reason);
	WORKS(ioctl(vcpu, KVM_INTERRUPT, &interrupt));
	CHECK(!run_briefly() && run->exit_reason == KVM_EXIT_IO && run->io.port == 0x81, "exit %u",
	      run->exit_reason);
	/* Asleep with interrupts let through is a window for one. */
	WORKS(ioctl(vcpu, KVM_SET_REGS, &regs));
	CHECK(run_briefly() == EINTR, "did not sleep: exit %u", run->exit_reason);
	run->request_interrupt_window = 1;
	CHECK(!run_briefly() && run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN, "exit %u",
	      run->exit_reason);
	munmap(run, 0x3000);
	machine_close();
}

/* The machine's frequency, as near as the parameter allows; KVM looks at 32 bits. */
static void tsc_frequencies(void)
{
	long own, near;

	machine_open(0);
	own = ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
	near = own + own / 10000;
	CHECK(own > 100000, "%ld kHz", own);
	FAILS(ioctl(vcpu, KVM_SET_TSC_KHZ, own - own / 100), EINVAL);
	WORKS(ioctl(vcpu, KVM_SET_TSC_KHZ, near));
	CHECK(ioctl(vcpu, KVM_GET_TSC_KHZ, 0) == near, "not what was set");
	WORKS(ioctl(vcpu, KVM_SET_TSC_KHZ, UINT64_C(1) << 32));
	CHECK(ioctl(vcpu, KVM_GET_TSC_KHZ, 0) == own, "not the machine's");
	FAILS(ioctl(vm, KVM_SET_TSC_KHZ, own), EINVAL);
	close(vcpu);
	close(vm);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	WORKS(ioctl(vm, KVM_SET_TSC_KHZ, near));
	CHECK(ioctl(vm, KVM_GET_TSC_KHZ, 0) == near, "not what was set");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	CHECK(ioctl(vcpu, KVM_GET_TSC_KHZ, 0) == near, "the vCPU has another");
	machine_close();
}

/* KVM_TRANSLATE of @linear must give @physical; UINT64_MAX: nothing. */
static void translates(uint64_t linear, uint64_t physical)
{
	struct kvm_translation translation = {.linear_address = linear, .usermode = 1};

	WORKS(ioctl(vcpu, KVM_TRANSLATE, &translation));
	CHECK(translation.physical_address == physical, "%llx is at %llx",
	      (unsigned long long)linear, translation.physical_address);
	CHECK(translation.valid == (physical != UINT64_MAX), "%llx: valid is %u",
	      (unsigned long long)linear, translation.valid);
	CHECK(translation.writeable == 1 && !translation.usermode, "writeable, usermode");
}

static void table_entry(uint32_t table, uint32_t index, uint64_t entry, size_t size_bytes)
{
	memcpy(memory + table + index * size_bytes, &entry, size_bytes);
}

/* In each paging mode by the bits that index tables: KVM looks at no other. */
static void translations(void)
{
	struct kvm_sregs real, sregs;

	machine_open(0);
	cpuid_set();
	WORKS(ioctl(vcpu, KVM_GET_SREGS, &real));
	translates(UINT64_C(0x123456789a), UINT64_C(0x123456789a));
	table_entry(0x2000, 0, 0x3003, 8);
	table_entry(0x3000, 0, 0x4003, 8);
	table_entry(0x4000, 0, 0x83, 8);
	table_entry(0x5000, 0, 0x83, 4);
	table_entry(0x6000, 0, 0x4001, 8);
	sregs_long(&sregs);
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	translates(0x1234, 0x1234);
	translates(UINT64_C(0x1000000000001234), 0x1234);
	translates(0x40000000, UINT64_MAX);
	sregs = real;
	sregs.cr0 = 0x80000031;
	sregs.cr3 = 0x5000;
	sregs.cr4 = 0x10;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	translates(0x1234, 0x1234);
	translates(0x400000, UINT64_MAX);
	sregs.cr3 = 0x6000;
	sregs.cr4 = CR4_PAE;
	WORKS(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	translates(0x1234, 0x1234);
	translates(0x200000, UINT64_MAX);
	machine_close();
}

/* Is a kick of sleeping vCPUs among the features, which begin at @base after @signature? */
static unsigned int sees_unhalt(uint32_t base, const char signature[12])
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[2];
	} list = {{.nent = 2},
		  {{.function = base, .eax = base + 1},
		   {.function = base + 1, .eax = 1u << KVM_FEATURE_PV_UNHALT}}};

	memcpy(&list.entries[0].ebx, signature, 4);
	memcpy(&list.entries[0].ecx, signature + 4, 4);
	memcpy(&list.entries[0].edx, signature + 8, 4);
	WORKS(ioctl(vcpu, KVM_SET_CPUID2, &list));
	WORKS(ioctl(vcpu, KVM_GET_CPUID2, &list));
	return list.entries[1].eax >> KVM_FEATURE_PV_UNHALT & 1;
}

/* A kick wakes no vCPU whose HLT does not exit: the guest is not told that it does. */
static void no_kick_without_hlt_exits(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_DISABLE_EXITS,
				     .args = {KVM_X86_DISABLE_EXITS_HLT}};

	machine_open(0);
	CHECK(sees_unhalt(0x40000000, "KVMKVMKVM\0\0"), "hidden");
	close(vcpu);
	close(vm);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	WORKS(ioctl(vm, KVM_ENABLE_CAP, &cap));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	CHECK(!sees_unhalt(0x40000000, "KVMKVMKVM\0\0"), "shown");
	CHECK(!sees_unhalt(0x40000100, "KVMKVMKVM\0\0"), "shown after another hypervisor's");
	/* It is KVM's by the signature alone. */
	CHECK(sees_unhalt(0x40000000, "XenVMMXenVMM"), "hidden from another's guest");
	CHECK(sees_unhalt(0x40000080, "KVMKVMKVM\0\0"), "hidden where no guest looks");
	machine_close();
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0, "no /dev/kvm");
	sregs_without_cpuid();
	sregs_with_cpuid();
	sregs2();
	xsave();
	if (pkru_offset())
		xsave_keys();
	else
		without_keys();
	xcrs();
	fpu_without_mxcsr();
	mp_states();
	events_exceptions();
	events_others();
	regs_and_exceptions();
	eventfds();
	halt_inside();
	no_kick_without_hlt_exits();
	translations();
	tsc_frequencies();
	system_attributes();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
