/* The VM's clock, a vCPU's TSC and its offset, as the client sets them and the guest sees them. */
#include <time.h>

#include "flat.h"

#define PAGE_AT 0x2000u
#define MSR_TSC 0x10u
#define MSR_TSC_ADJUST 0x3bu
#define MSR_SYSTEM_TIME 0x4b564d01u
#define SECOND UINT64_C(1000000000)
/* The host's clocks do not go at quite the same rate. */
#define SLACK (SECOND / 1000)

static uint64_t time_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t realtime_ns(void)
{
	return time_ns(CLOCK_REALTIME);
}

static uint64_t now_ns(void)
{
	return time_ns(CLOCK_MONOTONIC);
}

static struct kvm_clock_data get_clock(const struct machine *machine)
{
	struct kvm_clock_data data;

	WORKS(ioctl(machine->vm, KVM_GET_CLOCK, &data));
	return data;
}

/* @value is @base, or later by at most what went by since @from. */
#define IS_AFTER(value, base, from)                                                      \
	do {                                                                             \
		uint64_t late_ = (uint64_t)(value) - (uint64_t)(base);                   \
		CHECK(late_ <= now_ns() - (from) + SLACK, "%s is %lld after %s", #value, \
		      (long long)late_, #base);                                          \
	} while (0)

static void clock_is_set(void)
{
	struct kvm_clock_data data;
	struct machine machine;
	uint64_t from = now_ns();

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	data = get_clock(&machine);
	CHECK(data.flags == (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC),
	      "flags %x", data.flags);
	IS_AFTER(realtime_ns(), data.realtime, from);
	data = (struct kvm_clock_data){.clock = 1000 * SECOND};
	from = now_ns();
	WORKS(ioctl(machine.vm, KVM_SET_CLOCK, &data));
	IS_AFTER(get_clock(&machine).clock, 1000 * SECOND, from);
	/* With the time it was read at, what went by since is added; time that is to come is not.
	 */
	from = now_ns();
	data = (struct kvm_clock_data){.clock = 2000 * SECOND,
				       .flags = KVM_CLOCK_REALTIME,
				       .realtime = realtime_ns() - 50 * SECOND};
	WORKS(ioctl(machine.vm, KVM_SET_CLOCK, &data));
	IS_AFTER(get_clock(&machine).clock, 2050 * SECOND, from);
	from = now_ns();
	data.realtime = realtime_ns() + 50 * SECOND;
	WORKS(ioctl(machine.vm, KVM_SET_CLOCK, &data));
	IS_AFTER(get_clock(&machine).clock, 2000 * SECOND, from);
	data.flags = 1;
	FAILS(ioctl(machine.vm, KVM_SET_CLOCK, &data), EINVAL);
	IS_AFTER(get_clock(&machine).clock, 2000 * SECOND, from);
	machine_close(&machine);
}

struct clock_page {
	uint32_t version, pad;
	uint64_t tsc, time_ns;
	uint32_t multiplier;
	int8_t shift;
	uint8_t flags, pad2[2];
};

static void set_msr(const struct machine *machine, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index, .data = value}};

	CHECK(ioctl(machine->vcpu, KVM_SET_MSRS, &list) == 1, "MSR %x", index);
}

static uint64_t get_msr(const struct machine *machine, uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} list = {{.nmsrs = 1}, {.index = index}};

	CHECK(ioctl(machine->vcpu, KVM_GET_MSRS, &list) == 1, "MSR %x", index);
	return list.entry.data;
}

/* The guest's page follows the clock that the client sets, at the next entry. */
static void page_follows(void)
{
	struct kvm_clock_data data = {.clock = 3000 * SECOND};
	struct clock_page page;
	struct machine machine;
	uint32_t version;
	uint64_t from;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	set_msr(&machine, MSR_SYSTEM_TIME, PAGE_AT | 1);
	memcpy(&page, machine.memory + PAGE_AT, sizeof(page));
	version = page.version;
	CHECK(version && !(version & 1) && (page.flags & 1), "version %u, flags %x", version,
	      page.flags);
	from = now_ns();
	WORKS(ioctl(machine.vm, KVM_SET_CLOCK, &data));
	DOES(&machine, "\x90");
	memcpy(&page, machine.memory + PAGE_AT, sizeof(page));
	CHECK(page.version > version && !(page.version & 1), "version %u", page.version);
	IS_AFTER(page.time_ns, 3000 * SECOND, from);
	/* The client stops the guest: the page says so until the guest clears it. */
	WORKS(ioctl(machine.vcpu, KVM_KVMCLOCK_CTRL, 0));
	memcpy(&page, machine.memory + PAGE_AT, sizeof(page));
	CHECK(page.flags & 2, "flags %x", page.flags);
	machine_close(&machine);
}

/* The offset of a vCPU's TSC; IA32_TSC_ADJUST does not tell of it. */
static void tsc_offset(void)
{
	uint64_t offset = 0, back = 0;
	struct kvm_device_attr attr = {
	    .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&back};
	struct kvm_device_attr bad = attr;
	struct clock_page page;
	struct machine machine;
	uint64_t tsc;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	set_msr(&machine, MSR_SYSTEM_TIME, PAGE_AT | 1);
	WORKS(ioctl(machine.vcpu, KVM_HAS_DEVICE_ATTR, &attr));
	WORKS(ioctl(machine.vcpu, KVM_GET_DEVICE_ATTR, &attr));
	offset = back + (UINT64_C(1) << 50);
	attr.addr = (uintptr_t)&offset;
	WORKS(ioctl(machine.vcpu, KVM_SET_DEVICE_ATTR, &attr));
	attr.addr = (uintptr_t)&back;
	WORKS(ioctl(machine.vcpu, KVM_GET_DEVICE_ATTR, &attr));
	CHECK(back == offset, "offset %llx", (unsigned long long)back);
	CHECK(get_msr(&machine, MSR_TSC_ADJUST) == 0, "adjusted");
	tsc = get_msr(&machine, MSR_TSC);
	CHECK(tsc - get_clock(&machine).host_tsc - offset < UINT64_C(1) << 40 ||
		  get_clock(&machine).host_tsc + offset - tsc < UINT64_C(1) << 40,
	      "TSC %llx", (unsigned long long)tsc);
	memcpy(&page, machine.memory + PAGE_AT, sizeof(page));
	CHECK(page.tsc - offset < UINT64_C(1) << 62 && page.tsc <= tsc, "the page's TSC %llx",
	      (unsigned long long)page.tsc);
	for (int i = 0; i < 4; i++) {
		bad = attr;
		bad.group += i == 0;
		bad.attr += i == 1;
		bad.addr = i >= 2 ? 8 : bad.addr;
		FAILS(ioctl(machine.vcpu, i % 2 ? KVM_GET_DEVICE_ATTR : KVM_SET_DEVICE_ATTR, &bad),
		      i < 2 ? ENXIO : EFAULT);
	}
	machine_close(&machine);
}

/* The TSC by its MSRs, from either side: what moves, and what IA32_TSC_ADJUST says of it. */
static void tsc_by_msrs(void)
{
	const uint64_t far = UINT64_C(1) << 52;
	struct machine machine;
	uint64_t before;

	flat_open(&machine, MACHINE_NO_IRQCHIP);
	/* The guest's write shows. */
	before = get_msr(&machine, MSR_TSC);
	DOES(&machine, "\x0f\x30", .rcx = MSR_TSC, .rdx = far >> 32);
	CHECK(get_msr(&machine, MSR_TSC) - far < UINT64_C(1) << 40, "not written");
	CHECK(get_msr(&machine, MSR_TSC_ADJUST) - (far - before) + (UINT64_C(1) << 40) < UINT64_C(1)
											     << 41,
	      "adjust %llx", (unsigned long long)get_msr(&machine, MSR_TSC_ADJUST));
	/* And an adjustment of its own moves the TSC back. */
	DOES(&machine, "\x0f\x30", .rcx = MSR_TSC_ADJUST);
	CHECK(get_msr(&machine, MSR_TSC) - before < UINT64_C(1) << 40, "not moved back");
	CHECK(get_msr(&machine, MSR_TSC_ADJUST) == 0, "adjust");
	/* The client's jump does not show; nearly what is counted anyway is no jump. */
	set_msr(&machine, MSR_TSC, far);
	CHECK(get_msr(&machine, MSR_TSC) - far < UINT64_C(1) << 40, "the client's");
	CHECK(get_msr(&machine, MSR_TSC_ADJUST) == 0, "adjust of the client's");
	before = get_msr(&machine, MSR_TSC);
	set_msr(&machine, MSR_TSC, before - 1000);
	CHECK(get_msr(&machine, MSR_TSC) >= before, "moved by a little");
	/* What the client restores as the adjustment moves nothing. */
	set_msr(&machine, MSR_TSC_ADJUST, 12345);
	CHECK(get_msr(&machine, MSR_TSC_ADJUST) == 12345, "not restored");
	CHECK(get_msr(&machine, MSR_TSC) - before < UINT64_C(1) << 40, "moved");
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_is_set();
	page_follows();
	tsc_offset();
	tsc_by_msrs();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
