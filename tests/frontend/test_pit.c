/* The interval timer: its state and errors, its counters as a guest reads them, its interrupts. */
#include <time.h>

#include "machine.h"

#define COUNT_2MS 2386u
#define COUNT_20MS 23864u

static void create_errors(void)
{
	struct kvm_pit_config config = {.flags = 0xff00};
	struct kvm_reinject_control control = {.pit_reinject = 1};
	struct kvm_pit_state2 state2;
	struct kvm_pit_state state;
	struct machine machine;

	machine_open(&machine, MACHINE_SPLIT);
	FAILS(ioctl(machine.vm, KVM_CREATE_PIT, 0), ENOENT);
	FAILS(ioctl(machine.vm, KVM_CREATE_PIT2, &config), ENOENT);
	machine_close(&machine);
	machine_open(&machine, MACHINE_IRQCHIP);
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_PIT) == 1, "no KVM_CAP_PIT");
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_PIT2) == 1, "no KVM_CAP_PIT2");
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_PIT_STATE2) == 1, "no PIT_STATE2");
	CHECK(ioctl(machine.vm, KVM_CHECK_EXTENSION, KVM_CAP_REINJECT_CONTROL) == 1, "no reinject");
	memset(&state, 0, sizeof(state));
	memset(&state2, 0, sizeof(state2));
	FAILS(ioctl(machine.vm, KVM_GET_PIT, &state), ENXIO);
	FAILS(ioctl(machine.vm, KVM_SET_PIT, &state), ENXIO);
	FAILS(ioctl(machine.vm, KVM_GET_PIT2, &state2), ENXIO);
	FAILS(ioctl(machine.vm, KVM_SET_PIT2, &state2), ENXIO);
	FAILS(ioctl(machine.vm, KVM_REINJECT_CONTROL, &control), ENXIO);
	FAILS(ioctl(machine.vm, KVM_REINJECT_CONTROL, 8), EFAULT);
	FAILS(ioctl(machine.vm, KVM_CREATE_PIT2, 8), EFAULT);
	WORKS(ioctl(machine.vm, KVM_CREATE_PIT2, &config));
	FAILS(ioctl(machine.vm, KVM_CREATE_PIT2, &config), EEXIST);
	FAILS(ioctl(machine.vm, KVM_CREATE_PIT, 0), EEXIST);
	WORKS(ioctl(machine.vm, KVM_REINJECT_CONTROL, &control));
	machine_close(&machine);
}

static void open_pit(struct machine *machine, uint32_t flags)
{
	struct kvm_pit_config config = {.flags = flags};

	machine_open(machine, MACHINE_IRQCHIP);
	WORKS(ioctl(machine->vm, KVM_CREATE_PIT2, &config));
}

static void state_round_trip(void)
{
	struct kvm_pit_state2 state, back;
	struct kvm_pit_state old;
	struct machine machine;

	open_pit(&machine, 0);
	WORKS(ioctl(machine.vm, KVM_GET_PIT2, &state));
	for (int i = 0; i < 3; i++) {
		CHECK(state.channels[i].mode == 0xff, "mode %u", state.channels[i].mode);
		CHECK(state.channels[i].count == 0x10000, "count %u", state.channels[i].count);
		CHECK(state.channels[i].gate == (i != 2), "gate %u", state.channels[i].gate);
	}
	state.channels[0].mode = 2;
	state.channels[0].count = 0x1234;
	state.channels[0].bcd = 1;
	state.channels[1].count = 0;
	state.channels[2].rw_mode = 3;
	state.channels[2].latched_count = 0xabcd;
	state.flags = KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	memset(state.reserved, 0xff, sizeof(state.reserved));
	WORKS(ioctl(machine.vm, KVM_SET_PIT2, &state));
	WORKS(ioctl(machine.vm, KVM_GET_PIT2, &back));
	CHECK(back.channels[0].mode == 2 && back.channels[0].count == 0x1234, "channel 0");
	CHECK(back.channels[0].bcd == 1 && back.channels[2].rw_mode == 3, "modes");
	CHECK(back.channels[1].count == 0x10000, "count 0 is %u", back.channels[1].count);
	CHECK(back.channels[2].latched_count == 0xabcd, "latch %x", back.channels[2].latched_count);
	CHECK(back.flags == KVM_PIT_FLAGS_SPEAKER_DATA_ON && !back.reserved[0], "flags");
	WORKS(ioctl(machine.vm, KVM_GET_PIT, &old));
	CHECK(!memcmp(old.channels, back.channels, sizeof(old.channels)), "the old form differs");
	/* The HPET takes over: the mode stays for later. */
	state.flags = KVM_PIT_FLAGS_HPET_LEGACY;
	WORKS(ioctl(machine.vm, KVM_SET_PIT2, &state));
	WORKS(ioctl(machine.vm, KVM_GET_PIT2, &back));
	CHECK(back.channels[0].mode == 2, "mode %u", back.channels[0].mode);
	machine_close(&machine);
}

/* Run @code with its last byte's report; it ends with OUT to the report port. */
static int run_code(struct machine *machine, const uint8_t *code, size_t size_bytes)
{
	memcpy(machine->memory + CODE, code, size_bytes);
	machine_set_registers(machine);
	return next_report(machine);
}

#define RUN(machine, ...)                                                 \
	({                                                                \
		const uint8_t code_[] = {__VA_ARGS__, 0xe6, REPORT_PORT}; \
		run_code(machine, code_, sizeof(code_));                  \
	})
/* MOV AL, value; OUT port, AL and IN AL, port */
#define OUT(port, value) 0xb0, value, 0xe6, port
#define IN(port) 0xe4, port

#define TICKS_A_SECOND 1193182.0
#define FIRST_COUNT 0xff00u
/* It takes a busy machine some time to run a piece of code: what took too long says nothing. */
#define TRIES 200

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* When something was done: not before @from, not after @to. */
struct moment {
	double from, to;
};

/* Latched once, and read byte by byte. */
static unsigned int latched_count(struct machine *machine, struct moment *when)
{
	unsigned int low, high;

	when->from = seconds();
	low = (unsigned int)RUN(machine, OUT(0x43, 0x80), OUT(0x43, 0x80), IN(0x42));
	when->to = seconds();
	high = (unsigned int)RUN(machine, IN(0x42));
	return high << 8 | low;
}

static void check_count(unsigned int count, const struct moment *loaded, const struct moment *read)
{
	double least = (read->from - loaded->to) * TICKS_A_SECOND - 1;
	double most = (read->to - loaded->from) * TICKS_A_SECOND + 1;
	double gone = (double)FIRST_COUNT - count;

	CHECK(gone >= least && gone <= most, "%f ticks gone, not %f to %f", gone, least, most);
}

/* False: too slow, the count may have gone around. */
static int count_down_once(struct machine *machine)
{
	unsigned int first, second;
	struct moment loaded, read[2];
	int status;

	loaded.from = seconds();
	RUN(machine, OUT(0x43, 0xb0), OUT(0x42, 0x00), OUT(0x42, 0xff));
	loaded.to = seconds();
	status = RUN(machine, OUT(0x43, 0xe8), IN(0x42));
	first = latched_count(machine, &read[0]);
	usleep(10000);
	second = latched_count(machine, &read[1]);
	if ((read[1].to - loaded.from) * TICKS_A_SECOND >= FIRST_COUNT)
		return 0;
	CHECK(status == 0x30, "status %#x", status);
	check_count(first, &loaded, &read[0]);
	check_count(second, &loaded, &read[1]);
	return 1;
}

/* Channel 2 counts down from 0xff00 in mode 0; a latch holds what it was. */
static void counters_are_read(void)
{
	struct machine machine;
	int status, high, tries = 0;

	open_pit(&machine, KVM_PIT_SPEAKER_DUMMY);
	while (!count_down_once(&machine) && ++tries < TRIES)
		;
	CHECK(tries < TRIES, "too slow %d times", tries);
	/* 65,280 ticks take 54.7 ms: OUT is high then. */
	usleep(60000);
	status = RUN(&machine, OUT(0x43, 0xe8), IN(0x42));
	CHECK(status == 0xb0, "status after the end %#x", status);
	CHECK(RUN(&machine, IN(0x43)) == 0, "the control port reads %d", 0);
	/* Mode 7 is mode 3; the high byte alone is loaded and read. */
	RUN(&machine, OUT(0x43, 0xae), OUT(0x42, 0x80));
	status = RUN(&machine, OUT(0x43, 0xe8), IN(0x42));
	CHECK((status & 0x7f) == 0x26, "status of mode 3 %#x", status);
	high = RUN(&machine, IN(0x42));
	CHECK(high <= 0x80, "high byte %x", high);
	machine_close(&machine);
}

static void speaker_port(void)
{
	struct kvm_pit_state2 state;
	struct machine machine;
	int value;

	open_pit(&machine, KVM_PIT_SPEAKER_DUMMY);
	RUN(&machine, OUT(0x43, 0xb0), OUT(0x42, 0x10), OUT(0x42, 0x00));
	value = RUN(&machine, OUT(0x61, 0x03), IN(0x61));
	CHECK((value & 0x03) == 0x03, "port 0x61 reads %#x", value);
	usleep(1000);
	value = RUN(&machine, IN(0x61));
	CHECK(value & 0x20, "the counter's output is low: %#x", value);
	WORKS(ioctl(machine.vm, KVM_GET_PIT2, &state));
	CHECK(state.channels[2].gate == 1, "gate %u", state.channels[2].gate);
	CHECK(state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON, "flags %x", state.flags);
	machine_close(&machine);
	/* Without the flag the port is the client's. */
	open_pit(&machine, 0);
	machine.memory[CODE] = 0xe4;
	machine.memory[CODE + 1] = 0x61;
	CHECK(!ioctl(machine.vcpu, KVM_RUN, 0) && machine.run->exit_reason == KVM_EXIT_IO &&
		  machine.run->io.port == 0x61,
	      "exit %u", machine.run->exit_reason);
	machine_close(&machine);
}

/* Mode 2, with a tick after each @count; then the usual set-up, which ends in HLT with interrupts
 * on.
 */
static void start_ticks(struct machine *machine, uint16_t count)
{
	const uint8_t code[] = {OUT(0x43, 0x34), OUT(0x40, count & 0xff), OUT(0x40, count >> 8)};

	memcpy(machine->memory + CODE, code, sizeof(code));
	memcpy(machine->memory + CODE + sizeof(code), main_code, sizeof(main_code));
}

static void ticks_interrupt(void)
{
	struct machine machine;
	double start = seconds(), took;

	open_pit(&machine, 0);
	start_ticks(&machine, COUNT_2MS);
	for (int i = 0; i < 50; i++)
		CHECK(next_report(&machine) == SAW_PIC, "tick %d", i);
	took = seconds() - start;
	CHECK(took > 0.095, "50 ticks of 2 ms took %f s", took);
	machine_close(&machine);
}

#define MISSED 100

/* Without reinjection what came in a pause is lost: as many ticks take as long as ever. */
static void lost_ticks(void)
{
	struct kvm_reinject_control control = {.pit_reinject = 0};
	struct machine machine;
	double start, took;

	open_pit(&machine, 0);
	WORKS(ioctl(machine.vm, KVM_REINJECT_CONTROL, &control));
	start_ticks(&machine, COUNT_2MS);
	CHECK(next_report(&machine) == SAW_PIC, "the first tick");
	usleep(MISSED * 2000);
	start = seconds();
	for (int ticks = 0; ticks < MISSED; ticks++)
		CHECK(next_report(&machine) == SAW_PIC, "tick %d", ticks);
	took = seconds() - start;
	/* One may be pending. */
	CHECK(took > (MISSED - 2) * 0.002, "%d ticks of 2 ms took %f s", MISSED, took);
	machine_close(&machine);
}

#define LATE 10
#define PERIOD_S 0.020

/*
 * Ticks that the guest did not serve are given later: it gets one after the other, until as many
 * have come as there were periods. Were they lost, it would be behind for ever.
 */
static void late_ticks(void)
{
	struct kvm_reinject_control control = {.pit_reinject = 1};
	struct machine machine;
	double start, behind;
	int ticks = 0;

	open_pit(&machine, 0);
	WORKS(ioctl(machine.vm, KVM_REINJECT_CONTROL, &control));
	start_ticks(&machine, COUNT_20MS);
	CHECK(next_report(&machine) == SAW_PIC, "the first tick");
	start = seconds();
	usleep((useconds_t)(LATE * PERIOD_S * 1e6));
	do {
		CHECK(next_report(&machine) == SAW_PIC, "tick %d", ticks);
		behind = (seconds() - start) / PERIOD_S - ++ticks;
	} while (behind > LATE / 2 && seconds() - start < PATIENCE_MS / 1000);
	CHECK(behind <= LATE / 2, "%f ticks of %f were lost", behind, behind + ticks);
	machine_close(&machine);
}

static int tick_waits(const struct machine *machine)
{
	struct kvm_irqchip chip = {.chip_id = 0};

	WORKS(ioctl(machine->vm, KVM_GET_IRQCHIP, &chip));
	return chip.chip.pic.irr & 1;
}

/* While its line is masked the timer sleeps, and ticks once the line is shown. */
static void unmasked_later(void)
{
	/* mask all; wait for the client; unmask; sleep with interrupts on */
	static const uint8_t later[] = {
	    OUT(0x21, 0xff), OUT(REPORT_PORT, 0x70), OUT(0x21, 0x00), 0xfb, 0xf4, 0xeb, 0xfd};
	struct machine machine;

	open_pit(&machine, 0);
	start_ticks(&machine, COUNT_2MS);
	/* In place of the set-up's STI. */
	memcpy(machine.memory + CODE + 12 + 20, later, sizeof(later));
	CHECK(next_report(&machine) == 0x70, "masked");
	COMES(tick_waits(&machine), "the masked line latched no tick");
	for (int i = 0; i < 10; i++)
		CHECK(next_report(&machine) == SAW_PIC, "tick %d", i);
	machine_close(&machine);
}

/* LINT0 of an APIC in NMI's mode: each tick is an NMI. */
static void ticks_as_nmis(void)
{
	struct kvm_lapic_state lapic;
	uint32_t spurious = 0x1ff, lint0 = 0x400;
	struct machine machine;

	open_pit(&machine, 0);
	start_ticks(&machine, COUNT_2MS);
	memcpy(machine.memory + CODE + 12 + 16, (uint8_t[]){OUT(0x21, 0xff)}, 4);
	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &lapic));
	memcpy(&lapic.regs[0xf0], &spurious, sizeof(spurious));
	memcpy(&lapic.regs[0x350], &lint0, sizeof(lint0));
	WORKS(ioctl(machine.vcpu, KVM_SET_LAPIC, &lapic));
	CHECK(next_report(&machine) == SAW_NMI, "exit %u", machine.run->exit_reason);
	machine_close(&machine);
}

/* Both forms of a state give the counters the same. */
static void old_form(void)
{
	struct kvm_pit_state2 state2;
	struct kvm_pit_state state;
	struct machine machine;

	open_pit(&machine, 0);
	WORKS(ioctl(machine.vm, KVM_GET_PIT, &state));
	state.channels[1].mode = 3;
	state.channels[1].count = 0;
	state.channels[2].count = 0x4321;
	WORKS(ioctl(machine.vm, KVM_SET_PIT, &state));
	WORKS(ioctl(machine.vm, KVM_GET_PIT2, &state2));
	CHECK(state2.channels[1].mode == 3 && state2.channels[1].count == 0x10000 &&
		  state2.channels[2].count == 0x4321 && !state2.flags,
	      "counts %x, %x", state2.channels[1].count, state2.channels[2].count);
	machine_close(&machine);
}

/* What a counter's output is long after it was loaded with 16, by its mode. */
static void outputs(void)
{
	static const struct {
		uint8_t control;
		int high;
	} rows[] = {{0xb0, 1}, {0xb2, 0}, {0xb8, 0}, {0xba, 0}};
	struct machine machine;

	open_pit(&machine, KVM_PIT_SPEAKER_DUMMY);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		RUN(&machine, OUT(0x43, rows[i].control), OUT(0x42, 0x10), OUT(0x42, 0));
		usleep(1000);
		CHECK((RUN(&machine, IN(0x61)) >> 5 & 1) == rows[i].high, "control %x",
		      rows[i].control);
	}
	/* In mode 2 it is low but for the tick at the end: here within the 55 ms of the first one.
	 */
	RUN(&machine, OUT(0x43, 0xb4), OUT(0x42, 0), OUT(0x42, 0));
	CHECK((RUN(&machine, IN(0x61)) >> 5 & 1) == 0, "mode 2");
	machine_close(&machine);
}

/* A counter of one byte; reads without a latch, of each form. */
static void bytes_of_counts(void)
{
	struct machine machine;
	double from = seconds();
	int low, high, latched;

	open_pit(&machine, KVM_PIT_SPEAKER_DUMMY);
	/* The low byte alone; mode 0 counts on past its end. */
	RUN(&machine, OUT(0x43, 0x90), OUT(0x42, 0x80));
	CHECK((RUN(&machine, OUT(0x43, 0xe8), IN(0x42)) & 0x30) == 0x10, "the form");
	(void)RUN(&machine, IN(0x42));
	/* Both, low and high in turn, of channel 0 in mode 2: the reads are 65,536 ticks apart at
	 * most. */
	for (int tries = 0; tries < TRIES; tries++) {
		from = seconds();
		RUN(&machine, OUT(0x43, 0x34), OUT(0x40, 0), OUT(0x40, 0));
		low = RUN(&machine, IN(0x40));
		high = RUN(&machine, IN(0x40));
		if ((seconds() - from) * TICKS_A_SECOND < 0x8000)
			break;
	}
	CHECK(high >= 0x80 && low >= 0, "%02x%02x after %f s", high, low, seconds() - from);
	/* Latched by the read-back command: the count stands still, both bytes of it. */
	for (int tries = 0; tries < TRIES; tries++) {
		from = seconds();
		RUN(&machine, OUT(0x43, 0xb0), OUT(0x42, 0x00), OUT(0x42, 0xff));
		RUN(&machine, OUT(0x43, 0xd8));
		usleep(2000);
		latched = RUN(&machine, OUT(0x43, 0xd8), IN(0x42));
		latched |= RUN(&machine, IN(0x42)) << 8;
		low = RUN(&machine, OUT(0x43, 0xd8), IN(0x42));
		low |= RUN(&machine, IN(0x42)) << 8;
		if ((seconds() - from) * TICKS_A_SECOND < FIRST_COUNT)
			break;
	}
	CHECK(latched - low >= 2386, "%x, and %x 2 ms later, after %f s", latched, low,
	      seconds() - from);
	machine_close(&machine);
}

/* False: too slow to tell a count from the gate's rise from one that goes on. */
static int raise_gate_once(struct machine *machine, uint8_t control, int restarts)
{
	struct moment loaded, raised, read;
	unsigned int count;

	loaded.from = seconds();
	RUN(machine, OUT(0x61, 0), OUT(0x43, control), OUT(0x42, 0), OUT(0x42, 0xff));
	loaded.to = seconds();
	usleep(20000); /* 23,863 ticks of 65,280 */
	raised.from = seconds();
	RUN(machine, OUT(0x61, 1));
	raised.to = seconds();
	count = latched_count(machine, &read);
	if ((read.to - loaded.from) * TICKS_A_SECOND >= FIRST_COUNT ||
	    read.to - raised.from >= read.from - loaded.to)
		return 0;
	check_count(count, restarts ? &raised : &loaded, &read);
	return 1;
}

/* The gate's rise starts the counts of modes 1, 2, 3 and 5 anew. */
static void gate_restarts(void)
{
	static const struct {
		uint8_t control;
		int restarts;
	} rows[] = {{0xb2, 1}, {0xb4, 1}, {0xba, 1}, {0xb0, 0}, {0xb8, 0}};
	struct machine machine;

	open_pit(&machine, KVM_PIT_SPEAKER_DUMMY);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int tries = 0;

		while (!raise_gate_once(&machine, rows[i].control, rows[i].restarts) &&
		       ++tries < TRIES)
			;
		CHECK(tries < TRIES, "control %x: too slow %d times", rows[i].control, tries);
	}
	machine_close(&machine);
}

/* Modes 0 and 1 of channel 0 tick once; a mode that counts nothing does not tick. */
static void one_tick(void)
{
	static const struct {
		uint8_t control;
		int ticks;
	} rows[] = {{0x30, 1}, {0x32, 1}, {0x38, 1}, {0x3a, 0}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvm_irqchip chip = {.chip_id = 0};
		struct machine machine;

		open_pit(&machine, 0);
		RUN(&machine, OUT(0x43, rows[i].control), OUT(0x40, COUNT_2MS & 0xff),
		    OUT(0x40, COUNT_2MS >> 8));
		if (rows[i].ticks)
			COMES(tick_waits(&machine), "control %x: no tick", rows[i].control);
		/* What comes after this is one too many. */
		WORKS(ioctl(machine.vm, KVM_GET_IRQCHIP, &chip));
		chip.chip.pic.irr = chip.chip.pic.last_irr = 0;
		WORKS(ioctl(machine.vm, KVM_SET_IRQCHIP, &chip));
		usleep(20000);
		CHECK(!tick_waits(&machine), "control %x: a tick too many", rows[i].control);
		machine_close(&machine);
	}
}

/* A period that is too short for a host's timer is lengthened to 200 us. */
static void shortest_period(void)
{
	struct kvm_reinject_control control = {.pit_reinject = 0};
	struct machine machine;
	double start;

	open_pit(&machine, 0);
	WORKS(ioctl(machine.vm, KVM_REINJECT_CONTROL, &control));
	memcpy(machine.memory + CODE, (uint8_t[]){OUT(0x43, 0x34), OUT(0x40, 10), OUT(0x40, 0)},
	       12);
	memcpy(machine.memory + CODE + 12, main_code, sizeof(main_code));
	CHECK(next_report(&machine) == SAW_PIC, "the first tick");
	start = seconds();
	for (int i = 0; i < 50; i++)
		CHECK(next_report(&machine) == SAW_PIC, "tick %d", i);
	/* One may have been pending. */
	CHECK(seconds() - start > 49 * 0.0002 - 0.0004, "50 ticks took %f s", seconds() - start);
	control.pit_reinject = 1;
	WORKS(ioctl(machine.vm, KVM_REINJECT_CONTROL, &control));
	CHECK(next_report(&machine) == SAW_PIC, "none with reinjection");
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	create_errors();
	state_round_trip();
	counters_are_read();
	speaker_port();
	ticks_interrupt();
	lost_ticks();
	late_ticks();
	unmasked_later();
	ticks_as_nmis();
	old_form();
	outputs();
	bytes_of_counts();
	gate_restarts();
	one_tick();
	shortest_period();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
