/* Time: the host's TSC, kvmclock, and the guest's clock page. */
#include "frontend/state/clock.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

#include <quire/place.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/uapi.h"
#include "hosts/process/lock.h"

#define CLOCK_FLAGS (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)

/* The guest's clock page, KVM's paravirtual interface. */
struct clock_page {
	uint32_t version; /* odd while it is written */
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time_ns;
	uint32_t tsc_to_system_mul; /* 0.32 fixed point */
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

#define TSC_STABLE 1u	 /* the same on all vCPUs */
#define GUEST_STOPPED 2u /* the client stopped the guest: its watchdogs forgive */

struct wall_clock {
	uint32_t version;
	uint32_t seconds;
	uint32_t nanoseconds;
};

static uint32_t measured_khz;

uint64_t clock_tsc(void)
{
	return __rdtsc();
}

static uint64_t realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A TSC value and the time it was read at: the pair with the shortest gap of a few. */
static uint64_t read_pair(uint64_t *ns)
{
	uint64_t best_gap = UINT64_MAX, best_tsc = 0;

	*ns = 0;
	for (int i = 0; i < 8; i++) {
		uint64_t before = __rdtsc(), now = timers_now_ns(), after = __rdtsc();

		if (after - before >= best_gap)
			continue;
		best_gap = after - before;
		best_tsc = before + (after - before) / 2;
		*ns = now;
	}
	return best_tsc;
}

static void measure(void)
{
	uint64_t ns0, ns1, tsc0, tsc1;
	unsigned int a, b, c, d;

	/* The processor's own word, where it gives one: crystal times ratio. */
	if (__get_cpuid(0x15, &a, &b, &c, &d) && a && b && c) {
		measured_khz = (uint32_t)((uint64_t)c * b / a / 1000);
		return;
	}
	tsc0 = read_pair(&ns0);
	do
		tsc1 = read_pair(&ns1);
	while (ns1 - ns0 < 10 * 1000 * 1000);
	measured_khz = (uint32_t)((tsc1 - tsc0) * 1000000 / (ns1 - ns0));
}

uint32_t clock_tsc_khz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, measure);
	return measured_khz;
}

uint64_t clock_ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * 1000000 / clock_tsc_khz());
}

uint64_t clock_now_ns(const struct vm *vm)
{
	return timers_now_ns() + (uint64_t)atomic_load(&vm->clock_offset_ns);
}

/* ns = (ticks << shift) * mul >> 32, with mul's top bit set. */
static void clock_scale(uint32_t khz, uint32_t *mul, int8_t *shift)
{
	uint64_t hz = (uint64_t)khz * 1000, base = 1000000000;
	int8_t by = 0;

	while (hz > base * 2) {
		hz >>= 1;
		by--;
	}
	while (hz <= base) {
		hz <<= 1;
		by++;
	}
	*mul = (uint32_t)((base << 32) / hz);
	*shift = by;
}

static void fill_page(struct vcpu *vcpu, struct clock_page *page)
{
	uint64_t tsc, now_ns;

	tsc = read_pair(&now_ns);
	page->tsc_timestamp = tsc + cpu_state(vcpu->cpu)->tsc_offset;
	page->system_time_ns = now_ns + (uint64_t)atomic_load(&vcpu->vm->clock_offset_ns);
	clock_scale(clock_tsc_khz(), &page->tsc_to_system_mul, &page->tsc_shift);
	/* That the client stopped it is the guest's to clear. */
	page->flags = (page->flags & GUEST_STOPPED) | TSC_STABLE;
}

void clock_set_page(struct vcpu *vcpu, uint64_t value)
{
	gpa_t gpa = {value & ~UINT64_C(1)};

	vcpu->msrs.system_time = value;
	/* One that is not within a page is never written, as on KVM. */
	if (quire_place_set(vcpu->clock_place, gpa, value & 1 ? sizeof(struct clock_page) : 0))
		return;
	clock_update_page(vcpu);
}

static int write_version(struct vcpu *vcpu, uint32_t version)
{
	return quire_place_write(vcpu->clock_place, 0, &version, sizeof(version));
}

void clock_update_page(struct vcpu *vcpu)
{
	struct clock_page page;

	if (!(vcpu->msrs.system_time & 1))
		return;
	/* A page out of reach is the guest's own loss, as on KVM. */
	if (quire_place_read(vcpu->clock_place, 0, &page, sizeof(page)))
		return;
	page.version |= 1;
	if (write_version(vcpu, page.version))
		return;
	fill_page(vcpu, &page);
	if (quire_place_write(vcpu->clock_place, 0, &page, sizeof(page)))
		return;
	if (write_version(vcpu, page.version + 1))
		return;
}

void clock_write_wall(struct vcpu *vcpu, uint64_t gpa)
{
	uint64_t boot_ns = realtime_ns() - clock_now_ns(vcpu->vm);
	struct wall_clock wall;

	if (!gpa || quire_vcpu_read(vcpu->memory, (gpa_t){gpa}, &wall, sizeof(wall)))
		return;
	wall.version = (wall.version | 1) + 1;
	wall.seconds = (uint32_t)(boot_ns / 1000000000u);
	wall.nanoseconds = (uint32_t)(boot_ns % 1000000000u);
	if (quire_vcpu_write(vcpu->memory, (gpa_t){gpa}, &wall, sizeof(wall)))
		return;
}

long vm_get_clock(struct ioctl_call *call)
{
	struct kvm_clock_data *data = call->data;

	data->clock = clock_now_ns(call->object);
	data->flags = CLOCK_FLAGS;
	data->realtime = realtime_ns();
	data->host_tsc = clock_tsc();
	return 0;
}

long vm_set_clock(struct ioctl_call *call)
{
	const struct kvm_clock_data *data = call->data;
	struct vm *vm = call->object;
	uint64_t clock_ns = data->clock;

	if (data->flags & ~(uint32_t)CLOCK_FLAGS)
		return -EINVAL;
	if (data->flags & KVM_CLOCK_REALTIME) {
		uint64_t now = realtime_ns();

		if (now > data->realtime)
			clock_ns += now - data->realtime;
	}
	atomic_store(&vm->clock_offset_ns, (int64_t)(clock_ns - timers_now_ns()));
	for (uint32_t i = 0; i < atomic_load(&vm->vcpu_count); i++)
		vcpu_raise(vm->vcpus[i], VCPU_EVENT_CLOCK);
	return 0;
}

/*
 * There is no scaling: a frequency is accepted when it is the machine's, as near as the parameter
 * says, and 0 means the machine's. What it is then, or -EINVAL.
 */
static long accept_khz(uint32_t khz)
{
	int64_t own = clock_tsc_khz(), slack;

	slack = own * params_get_int("kvm.tsc_tolerance_ppm") / 1000000;
	if (!khz)
		return own;
	return khz < own - slack || khz > own + slack ? -EINVAL : (long)khz;
}

long vm_get_tsc_khz(struct ioctl_call *call)
{
	const struct vm *vm = call->object;
	uint32_t khz = atomic_load(&vm->tsc_khz);

	return khz ? khz : clock_tsc_khz();
}

/* Of vCPUs made from now on, if they can have it. KVM looks at the lower half of the argument. */
long vm_set_tsc_khz(struct ioctl_call *call)
{
	struct vm *vm = call->object;
	long result = -EINVAL;

	process_lock_acquire(&vm->lock);
	if (!atomic_load(&vm->vcpu_count)) {
		atomic_store(&vm->tsc_khz, (uint32_t)call->argument);
		result = 0;
	}
	process_lock_release(&vm->lock);
	return result;
}

void clock_init_vcpu(struct vcpu *vcpu)
{
	long khz = accept_khz(atomic_load(&vcpu->vm->tsc_khz));

	vcpu->tsc_khz = khz < 0 ? clock_tsc_khz() : (uint32_t)khz;
}

long vcpu_get_tsc_khz(struct ioctl_call *call)
{
	const struct vcpu *vcpu = call->object;

	return vcpu->tsc_khz;
}

long vcpu_set_tsc_khz(struct ioctl_call *call)
{
	long khz = accept_khz((uint32_t)call->argument);
	struct vcpu *vcpu = call->object;

	if (khz < 0)
		return khz;
	vcpu->tsc_khz = (uint32_t)khz;
	return 0;
}

long vcpu_has_attr(struct ioctl_call *call)
{
	const struct kvm_device_attr *attr = call->data;

	if (attr->group != KVM_VCPU_TSC_CTRL || attr->attr != KVM_VCPU_TSC_OFFSET)
		return -ENXIO;
	return 0;
}

long vcpu_get_attr(struct ioctl_call *call)
{
	const struct kvm_device_attr *attr = call->data;
	struct vcpu *vcpu = call->object;
	long error = vcpu_has_attr(call);

	if (error)
		return error;
	return user_copy_out(attr->addr, &cpu_state(vcpu->cpu)->tsc_offset, sizeof(uint64_t));
}

/* The TSC jumps, and IA32_TSC_ADJUST does not tell. */
long vcpu_set_attr(struct ioctl_call *call)
{
	const struct kvm_device_attr *attr = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);
	long error = vcpu_has_attr(call);
	uint64_t offset;

	if (!error)
		error = user_copy_in(&offset, attr->addr, sizeof(offset));
	if (error)
		return error;
	vcpu->msrs.tsc_base += offset - state->tsc_offset;
	state->tsc_offset = offset;
	cpu_state_changed(vcpu->cpu);
	clock_update_page(vcpu);
	return 0;
}

long vcpu_kvmclock_ctrl(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct clock_page page;

	if (!(vcpu->msrs.system_time & 1))
		return -EINVAL;
	if (quire_place_read(vcpu->clock_place, 0, &page, sizeof(page)))
		return 0;
	page.flags |= GUEST_STOPPED;
	if (quire_place_write(vcpu->clock_place, 0, &page, sizeof(page)))
		return 0;
	return 0;
}
