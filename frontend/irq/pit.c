/*
 * The 8254 interval timer, as KVM has it: BCD is kept and not counted in, the gate of channel 2 is
 * the speaker port's bit 0, and channel 0 goes without a gate.
 */
#include "frontend/irq/pit.h"

#include <errno.h>
#include <string.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/vm.h"
#include "hosts/process/lock.h"

#define PIT_HZ 1193182u
#define PIT_PORT 0x40u
#define SPEAKER_PORT 0x61u
#define SPEAKER_PORTS 4u
#define CHANNELS 3u
#define MODE_NONE 0xff
/* Memory refresh, which the speaker's port shows, toggles about every 15 us: 2^14 ns here. */
#define REFRESH_SHIFT 14u

/* Which byte of a count is next: also the access mode, as the control word has it. */
enum byte_state { BYTE_LOW = 1, BYTE_HIGH = 2, BYTE_WORD_LOW = 3, BYTE_WORD_HIGH = 4 };

static struct pit *pit_of(struct vm *vm)
{
	return &vm->irqchip.pit;
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * 1000000000u / PIT_HZ);
}

/* How long channel 0 has counted since it was loaded, or since its last tick. */
static uint64_t elapsed_ns(const struct pit *pit, unsigned int channel)
{
	uint64_t now_ns = timers_now_ns();

	if (channel)
		return now_ns - pit->loaded_ns[channel];
	if (!pit->period_ns)
		return 0;
	if (pit->periodic && pit->counting && now_ns >= pit->due_ns)
		return (now_ns - pit->due_ns) % pit->period_ns;
	return now_ns + pit->period_ns - pit->due_ns;
}

static uint64_t elapsed_ticks(const struct pit *pit, unsigned int channel)
{
	return (uint64_t)((unsigned __int128)elapsed_ns(pit, channel) * PIT_HZ / 1000000000u);
}

static uint16_t read_count(const struct pit *pit, unsigned int channel)
{
	const struct kvm_pit_channel_state *state = &pit->state.channels[channel];
	uint64_t ticks = elapsed_ticks(pit, channel);

	switch (state->mode) {
	case 0:
	case 1:
	case 4:
	case 5:
		return (uint16_t)(state->count - ticks);
	case 3:
		return (uint16_t)(state->count - 2 * ticks % state->count);
	default:
		return (uint16_t)(state->count - ticks % state->count);
	}
}

static bool read_output(const struct pit *pit, unsigned int channel)
{
	const struct kvm_pit_channel_state *state = &pit->state.channels[channel];
	uint64_t ticks = elapsed_ticks(pit, channel);

	switch (state->mode) {
	case 1:
		return ticks < state->count;
	case 2:
		return ticks && ticks % state->count == 0;
	case 3:
		return ticks % state->count < ((uint64_t)state->count + 1) / 2;
	case 4:
	case 5:
		return ticks == state->count;
	default:
		return ticks >= state->count;
	}
}

/* No tick would change anything: the line is masked, and has latched one there. */
static bool may_sleep(struct vm *vm)
{
	const struct pit *pit = pit_of(vm);

	if (!pit->periodic || !pit->latched || (pit->reinject && pit->acked) ||
	    irqchip_watchdog_listens(&vm->irqchip))
		return false;
	return irqchip_gsi_is_masked_locked(vm, PIT_GSI);
}

static void arm(struct vm *vm)
{
	struct pit *pit = pit_of(vm);

	pit->asleep = pit->counting && may_sleep(vm);
	vm_timer_arm(&vm->timers, &pit->timer, pit->counting && !pit->asleep ? pit->due_ns : 0);
}

/* A tick reaches the line, unless the last one is not served and must not be lost. */
static void raise_line(struct vm *vm)
{
	struct pit *pit = pit_of(vm);

	pit->latched = true;
	if (pit->reinject && !pit->acked)
		return;
	pit->acked = false;
	irqchip_pulse_locked(vm, PIT_GSI, IRQ_SOURCE_PIT);
	irqchip_watchdog_locked(vm);
}

/* Count the ticks up to now; how many there were. */
static uint64_t take_ticks(struct pit *pit)
{
	uint64_t now_ns = timers_now_ns(), ticks;

	if (!pit->counting || now_ns < pit->due_ns)
		return 0;
	if (!pit->periodic) {
		pit->counting = false;
		ticks = 1;
	} else {
		ticks = 1 + (now_ns - pit->due_ns) / pit->period_ns;
		pit->due_ns += ticks * pit->period_ns;
	}
	if (pit->reinject)
		pit->pending =
		    ticks < INT32_MAX - pit->pending ? pit->pending + (uint32_t)ticks : INT32_MAX;
	return ticks;
}

static void pit_fire(struct vm_timer *timer)
{
	struct vm *vm = (struct vm *)((char *)timer - offsetof(struct vm, irqchip.pit.timer));

	process_lock_acquire(&vm->irqchip.lock);
	if (take_ticks(pit_of(vm)))
		raise_line(vm);
	/* It may have been moved while it was about to fire. */
	arm(vm);
	process_lock_release(&vm->irqchip.lock);
}

void pit_wake_locked(struct vm *vm)
{
	struct pit *pit = pit_of(vm);

	pit->latched = false;
	if (!pit->asleep)
		return;
	(void)take_ticks(pit);
	arm(vm);
}

static void reset_reinject(struct pit *pit)
{
	pit->pending = 0;
	pit->acked = true;
}

void pit_acked_locked(struct vm *vm)
{
	struct pit *pit = pit_of(vm);

	if (!pit->present || !pit->reinject)
		return;
	pit_wake_locked(vm);
	pit->acked = true;
	if (pit->pending && --pit->pending)
		raise_line(vm);
}

void pit_mask_changed_locked(struct vm *vm, bool masked)
{
	struct pit *pit = pit_of(vm);

	if (!pit->present)
		return;
	pit_wake_locked(vm);
	if (!masked && pit->reinject)
		reset_reinject(pit);
}

/* Channel 0 begins to count; the first tick comes after @count, the others after the period. */
static void start_timer(struct vm *vm, uint32_t count, bool periodic)
{
	struct pit *pit = pit_of(vm);
	uint64_t interval_ns = ticks_to_ns(count), shortest_ns = timers_shortest_period_ns();

	/* The HPET ticks in its place. */
	if (pit->state.flags & KVM_PIT_FLAGS_HPET_LEGACY)
		return;
	pit->periodic = periodic;
	pit->period_ns = interval_ns;
	if (periodic && interval_ns < shortest_ns)
		pit->period_ns = shortest_ns;
	reset_reinject(pit);
	pit->due_ns = timers_now_ns() + interval_ns;
	pit->counting = true;
	arm(vm);
}

static void load_count(struct vm *vm, unsigned int channel, uint32_t count)
{
	struct pit *pit = pit_of(vm);
	struct kvm_pit_channel_state *state = &pit->state.channels[channel];

	state->count = count ? count : 0x10000;
	if (channel) {
		pit->loaded_ns[channel] = timers_now_ns();
		state->count_load_time = (__s64)pit->loaded_ns[channel];
		return;
	}
	switch (state->mode) {
	case 0:
	case 1:
	case 4:
		start_timer(vm, state->count, false);
		break;
	case 2:
	case 3:
		start_timer(vm, state->count, true);
		break;
	default:
		pit->counting = false;
		arm(vm);
	}
}

static void latch_count(struct pit *pit, unsigned int channel)
{
	struct kvm_pit_channel_state *state = &pit->state.channels[channel];

	if (state->count_latched)
		return;
	state->latched_count = read_count(pit, channel);
	state->count_latched = state->rw_mode;
}

static void latch_status(struct pit *pit, unsigned int channel)
{
	struct kvm_pit_channel_state *state = &pit->state.channels[channel];

	if (state->status_latched)
		return;
	state->status = (uint8_t)(read_output(pit, channel) << 7 | state->rw_mode << 4 |
				  state->mode << 1 | state->bcd);
	state->status_latched = 1;
}

static void write_control(struct pit *pit, uint8_t value)
{
	struct kvm_pit_channel_state *state = &pit->state.channels[value >> 6 & 3];
	uint8_t access = value >> 4 & 3;

	if (value >> 6 == 3) {
		/* Read back: bits 1 to 3 name channels, 0x20 and 0x10 leave something out. */
		for (unsigned int channel = 0; channel < CHANNELS; channel++) {
			if (!(value >> (channel + 1) & 1))
				continue;
			if (!(value & 0x20))
				latch_count(pit, channel);
			if (!(value & 0x10))
				latch_status(pit, channel);
		}
		return;
	}
	if (!access) {
		latch_count(pit, value >> 6);
		return;
	}
	state->rw_mode = state->read_state = state->write_state = access;
	state->mode = value >> 1 & 7;
	if (state->mode > 5)
		state->mode -= 4;
	state->bcd = value & 1;
}

static void write_channel(struct vm *vm, unsigned int channel, uint8_t value)
{
	struct kvm_pit_channel_state *state = &pit_of(vm)->state.channels[channel];

	switch (state->write_state) {
	case BYTE_HIGH:
		load_count(vm, channel, (uint32_t)value << 8);
		break;
	case BYTE_WORD_LOW:
		state->write_latch = value;
		state->write_state = BYTE_WORD_HIGH;
		break;
	case BYTE_WORD_HIGH:
		load_count(vm, channel, state->write_latch | (uint32_t)value << 8);
		state->write_state = BYTE_WORD_LOW;
		break;
	default:
		load_count(vm, channel, value);
	}
}

/* What was latched: the status first, then the count, a byte or both. */
static uint8_t read_latch(struct kvm_pit_channel_state *state)
{
	uint8_t which = state->count_latched;

	if (state->status_latched) {
		state->status_latched = 0;
		return state->status;
	}
	state->count_latched = which == BYTE_WORD_LOW ? BYTE_HIGH : 0;
	return (uint8_t)(which == BYTE_HIGH ? state->latched_count >> 8 : state->latched_count);
}

static uint8_t read_channel(struct pit *pit, unsigned int channel)
{
	struct kvm_pit_channel_state *state = &pit->state.channels[channel];
	uint16_t count;

	if (state->status_latched || state->count_latched)
		return read_latch(state);
	count = read_count(pit, channel);
	switch (state->read_state) {
	case BYTE_HIGH:
		return (uint8_t)(count >> 8);
	case BYTE_WORD_LOW:
		state->read_state = BYTE_WORD_HIGH;
		return (uint8_t)count;
	case BYTE_WORD_HIGH:
		state->read_state = BYTE_WORD_LOW;
		return (uint8_t)(count >> 8);
	default:
		return (uint8_t)count;
	}
}

static void write_speaker(struct pit *pit, uint8_t value)
{
	struct kvm_pit_channel_state *state = &pit->state.channels[2];
	uint8_t gate = value & 1;

	pit->state.flags &= ~(uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	if (value & 2)
		pit->state.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	/* In the other modes the gate does not stop the count here. */
	if (gate > state->gate && state->mode <= 5 && state->mode != 0 && state->mode != 4) {
		pit->loaded_ns[2] = timers_now_ns();
		state->count_load_time = (__s64)pit->loaded_ns[2];
	}
	state->gate = gate;
}

static uint8_t read_speaker(const struct pit *pit)
{
	uint8_t data = pit->state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0;
	uint8_t refresh = timers_now_ns() >> REFRESH_SHIFT & 1;

	return (uint8_t)(data | pit->state.channels[2].gate | read_output(pit, 2) << 5 |
			 refresh << 4);
}

/* KVM's buses hand a device what lies inside its range; the data of wider accesses is zero. */
bool pit_pio_locked(struct vm *vm, struct cpu_io *io)
{
	struct pit *pit = pit_of(vm);
	uint64_t port = io->address - PIT_PORT;
	uint8_t value = 0;

	if (!pit->present)
		return false;
	if (pit->has_speaker && io->address == SPEAKER_PORT && io->size_bytes <= SPEAKER_PORTS) {
		if (io->is_write)
			write_speaker(pit, io->data[0]);
		else
			value = read_speaker(pit);
	} else if (port + io->size_bytes > CHANNELS + 1) {
		return false;
	} else if (io->is_write) {
		if (port == CHANNELS)
			write_control(pit, io->data[0]);
		else
			write_channel(vm, (unsigned int)port, io->data[0]);
	} else if (port != CHANNELS) {
		value = read_channel(pit, (unsigned int)port);
	}
	if (!io->is_write) {
		memset(io->data, 0, sizeof(io->data));
		io->data[0] = value;
	}
	return true;
}

static long create(struct vm *vm, uint32_t flags)
{
	struct pit *pit = pit_of(vm);

	if (pit->present)
		return -EEXIST;
	if (!irqchip_has_pic(&vm->irqchip))
		return -ENOENT;
	pit->has_speaker = flags & KVM_PIT_SPEAKER_DUMMY;
	vm_timer_add(&vm->timers, &pit->timer, pit_fire);
	for (unsigned int channel = 0; channel < CHANNELS; channel++) {
		pit->state.channels[channel].mode = MODE_NONE;
		pit->state.channels[channel].gate = channel != 2;
		load_count(vm, channel, 0);
	}
	reset_reinject(pit);
	pit->reinject = true;
	pit->present = true;
	ioapic_scan(vm);
	return 0;
}

static long create_pit(struct vm *vm, uint32_t flags)
{
	long result;

	process_lock_acquire(&vm->irqchip.lock);
	result = create(vm, flags);
	process_lock_release(&vm->irqchip.lock);
	return result;
}

long vm_create_pit(struct ioctl_call *call)
{
	return create_pit(call->object, KVM_PIT_SPEAKER_DUMMY);
}

/* Unknown flags are no error to KVM. */
long vm_create_pit2(struct ioctl_call *call)
{
	const struct kvm_pit_config *config = call->data;

	return create_pit(call->object, config->flags);
}

/* The VM's PIT with irqchip.lock held, NULL with nothing held when it has none. */
static struct pit *lock_pit(struct vm *vm)
{
	process_lock_acquire(&vm->irqchip.lock);
	if (pit_of(vm)->present)
		return pit_of(vm);
	process_lock_release(&vm->irqchip.lock);
	return NULL;
}

long vm_get_pit2(struct ioctl_call *call)
{
	struct kvm_pit_state2 *state = call->data;
	struct vm *vm = call->object;
	const struct pit *pit = lock_pit(vm);

	if (!pit)
		return -ENXIO;
	*state = pit->state;
	memset(state->reserved, 0, sizeof(state->reserved));
	process_lock_release(&vm->irqchip.lock);
	return 0;
}

/* @starts_legacy: the HPET takes over, and channel 0 keeps its mode for later. */
static void set_state(struct vm *vm, const struct kvm_pit_channel_state *channels,
		      bool starts_legacy)
{
	struct pit *pit = pit_of(vm);
	uint8_t mode = channels[0].mode;

	memcpy(pit->state.channels, channels, sizeof(pit->state.channels));
	if (starts_legacy)
		pit->state.channels[0].mode = MODE_NONE;
	for (unsigned int channel = 0; channel < CHANNELS; channel++)
		load_count(vm, channel, channels[channel].count);
	pit->state.channels[0].mode = mode;
}

long vm_set_pit2(struct ioctl_call *call)
{
	const struct kvm_pit_state2 *state = call->data;
	struct vm *vm = call->object;
	struct pit *pit = lock_pit(vm);
	uint32_t started;

	if (!pit)
		return -ENXIO;
	started = state->flags & ~pit->state.flags & KVM_PIT_FLAGS_HPET_LEGACY;
	pit->state.flags = state->flags;
	set_state(vm, state->channels, started != 0);
	process_lock_release(&vm->irqchip.lock);
	return 0;
}

long vm_get_pit(struct ioctl_call *call)
{
	struct kvm_pit_state *state = call->data;
	struct vm *vm = call->object;
	const struct pit *pit = lock_pit(vm);

	if (!pit)
		return -ENXIO;
	memcpy(state->channels, pit->state.channels, sizeof(state->channels));
	process_lock_release(&vm->irqchip.lock);
	return 0;
}

long vm_set_pit(struct ioctl_call *call)
{
	const struct kvm_pit_state *state = call->data;
	struct vm *vm = call->object;

	if (!lock_pit(vm))
		return -ENXIO;
	set_state(vm, state->channels, false);
	process_lock_release(&vm->irqchip.lock);
	return 0;
}

/* The command's number says nothing of its argument. */
long vm_reinject_control(struct ioctl_call *call)
{
	struct kvm_reinject_control control;
	struct vm *vm = call->object;
	struct pit *pit;
	bool reinject;

	if (user_copy_in(&control, call->argument, sizeof(control)))
		return -EFAULT;
	reinject = control.pit_reinject != 0;
	pit = lock_pit(vm);
	if (!pit)
		return -ENXIO;
	if (pit->reinject != reinject) {
		pit_wake_locked(vm);
		if (reinject)
			reset_reinject(pit);
		pit->reinject = reinject;
		ioapic_scan(vm);
	}
	process_lock_release(&vm->irqchip.lock);
	return 0;
}
