/*
 * vCPUs sleep in HLT, or until SIPI, and each thing that ends such a sleep comes around the moment
 * it begins. A wake that is lost is a sleep for ever: then the stacks of all threads are printed.
 *
 * test_wake [SECONDS [VCPUS]]
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>

#include "machine.h"

#define SECONDS 3
#define VCPUS 4u
#define VCPUS_MAX 64u
/* How long a wake may take, and no machine is as busy. */
#define LOST_S 20
#define SAW_SIPI 0x53
#define SAW_SIGNAL (-1)
#define PAGE 4096u
#define SIPI_PAGE 2u
/* Where the guest begins, and where it goes to sleep: behind what sets up its PIC. */
#define FIRST 0x3000u
#define SLEEP (CODE + 20u)
#define APIC_SPURIOUS 0xf0u
#define APIC_LVT_TIMER 0x320u
#define APIC_TIMER_INITIAL 0x380u
#define APIC_TIMER_DIVIDE 0x3e0u

enum source { LINE, MESSAGE, EVENTFD, NMI, SIGNAL, LET_IN, PIT, APIC_TIMER, SIPI, SOURCES };

static const char *const source_names[SOURCES] = {
    "line", "message", "eventfd", "NMI", "signal", "let in", "PIT", "APIC timer", "SIPI"};

/* One vCPU of a VM of its own, the thread that runs it, and the one that wakes it. */
struct sleeper {
	struct machine machine;
	struct kvm_lapic_state lapic; /* as it is before each round */
	pthread_t runner, waker;
	int event;
	uint32_t seed;
	enum source source;
	uint32_t delay_ns;
	atomic_int has_ended;	  /* the runner */
	atomic_uint begun, woken; /* rounds */
	atomic_long since;	  /* when the round began, or it was woken, in seconds */
	atomic_uint rounds[SOURCES];
};

static struct sleeper sleepers[VCPUS_MAX];
static atomic_int is_over;
static _Thread_local struct kvm_run *own_run;

static long now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void spin_ns(uint32_t ns)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec < (long)ns);
}

static uint32_t draw(struct sleeper *sleeper, uint32_t below)
{
	sleeper->seed = sleeper->seed * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)sleeper->seed * below >> 32);
}

/* As clients do: a signal that comes before KVM_RUN ends it, too. */
static void on_signal(int signal)
{
	(void)signal;
	if (own_run)
		own_run->immediate_exit = 1;
}

static uint32_t *apic_register(struct kvm_lapic_state *lapic, unsigned int offset)
{
	return (uint32_t *)(void *)(lapic->regs + offset);
}

static void send(struct sleeper *sleeper, uint32_t data)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = data};

	CHECK(ioctl(sleeper->machine.vm, KVM_SIGNAL_MSI, &msi) == 1, "no APIC took %#x", data);
}

static void pulse(struct sleeper *sleeper)
{
	struct kvm_irq_level line = {.irq = 0, .level = 1};

	WORKS(ioctl(sleeper->machine.vm, KVM_IRQ_LINE, &line));
	line.level = 0;
	WORKS(ioctl(sleeper->machine.vm, KVM_IRQ_LINE, &line));
}

/* Channel 0 counts once, in mode 0. */
static void start_pit(struct sleeper *sleeper)
{
	struct kvm_pit_state2 pit;

	WORKS(ioctl(sleeper->machine.vm, KVM_GET_PIT2, &pit));
	pit.channels[0].mode = 0;
	pit.channels[0].rw_mode = 3;
	pit.channels[0].count = 1 + sleeper->delay_ns / 1000;
	WORKS(ioctl(sleeper->machine.vm, KVM_SET_PIT2, &pit));
}

static void wake(struct sleeper *sleeper)
{
	const uint64_t one = 1;

	switch (sleeper->source) {
	case LINE:
		pulse(sleeper);
		break;
	case MESSAGE:
		send(sleeper, MESSAGE_VECTOR);
		break;
	case EVENTFD:
		CHECK(write(sleeper->event, &one, sizeof(one)) == sizeof(one), "eventfd");
		break;
	case NMI:
		send(sleeper, 0x400);
		break;
	case SIGNAL:
		pthread_kill(sleeper->runner, SIGUSR1);
		break;
	case LET_IN:
		pthread_kill(sleeper->runner, SIGUSR2);
		break;
	case PIT:
		start_pit(sleeper);
		break;
	case SIPI:
		send(sleeper, 0x600 | SIPI_PAGE);
		break;
	default: /* The runner's own timer. */
		break;
	}
}

static int expected(enum source source)
{
	static const int reports[SOURCES] = {
	    [LINE] = SAW_PIC, [MESSAGE] = SAW_MESSAGE, [EVENTFD] = SAW_PIC,
	    [NMI] = SAW_NMI,  [SIGNAL] = SAW_SIGNAL,   [LET_IN] = SAW_SIGNAL,
	    [PIT] = SAW_PIC,  [SIPI] = SAW_SIPI,       [APIC_TIMER] = SAW_MESSAGE,
	};

	return reports[source];
}

static void *wake_rounds(void *opaque)
{
	struct sleeper *sleeper = opaque;

	/* Until the runner's last round, which may begin after is_over was set. */
	for (unsigned int round = 1;; round++) {
		while (sleeper->begun != round && !sleeper->has_ended)
			usleep(20);
		if (sleeper->begun != round)
			break;
		spin_ns(sleeper->delay_ns);
		wake(sleeper);
		sleeper->since = now_s();
		sleeper->woken = round;
	}
	return NULL;
}

/* The guest acknowledges nothing at its APIC, which is as before in each round. */
static void prepare(struct sleeper *sleeper)
{
	struct kvm_mp_state waits = {KVM_MP_STATE_INIT_RECEIVED};
	struct kvm_lapic_state lapic = sleeper->lapic;

	sleeper->source = draw(sleeper, SOURCES);
	/* About as long as it takes to fall asleep, or until long after. */
	sleeper->delay_ns = draw(sleeper, draw(sleeper, 4) ? 30000 : 1000000);
	if (sleeper->source == APIC_TIMER) {
		*apic_register(&lapic, APIC_LVT_TIMER) = MESSAGE_VECTOR;
		*apic_register(&lapic, APIC_TIMER_DIVIDE) = 11;
		*apic_register(&lapic, APIC_TIMER_INITIAL) = 1 + sleeper->delay_ns;
	}
	WORKS(ioctl(sleeper->machine.vcpu, KVM_SET_LAPIC, &lapic));
	if (sleeper->source == SIPI)
		WORKS(ioctl(sleeper->machine.vcpu, KVM_SET_MP_STATE, &waits));
}

static void *run_rounds(void *opaque)
{
	struct sleeper *sleeper = opaque;
	struct timespec none = {0};
	sigset_t let_in;

	own_run = sleeper->machine.run;
	sigemptyset(&let_in);
	sigaddset(&let_in, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &let_in, NULL);
	for (unsigned int round = 1; !is_over && !check_failures; round++) {
		int report;

		prepare(sleeper);
		sleeper->since = now_s();
		sleeper->begun = round;
		report = next_report(&sleeper->machine);
		CHECK(report == expected(sleeper->source), "%s: %d, errno %d",
		      source_names[sleeper->source], report, errno);
		while (sleeper->woken != round)
			usleep(20);
		if (sleeper->source == LET_IN)
			CHECK(sigtimedwait(&let_in, NULL, &none) == SIGUSR2, "it is not pending");
		own_run->immediate_exit = 0;
		sleeper->rounds[sleeper->source]++;
	}
	sleeper->since = 0;
	sleeper->has_ended = 1;
	return NULL;
}

/*
 * At its SIPI the guest may be in a handler, which it never ends: the stack begins anew, and IRET
 * lets NMIs in. The PIC is set up before the first round, for that forgets the edges it has seen.
 */
static void put_code(uint8_t *memory)
{
	static const uint8_t started[] = {0xb0, SAW_SIPI,     0xe6,	  REPORT_PORT, /* out */
					  0xbc, 0x00,	      0x80, /* mov sp, 0x8000 */
					  0x9c, 0x6a,	      0x00, /* pushf; push 0 */
					  0x68, SLEEP & 0xff, SLEEP >> 8, 0xcf}; /* push; iret */

	memcpy(memory + SIPI_PAGE * PAGE, started, sizeof(started));
	memcpy(memory + FIRST, main_code, SLEEP - CODE);
	memcpy(memory + FIRST + SLEEP - CODE, started, sizeof(started));
}

static void sleeper_open(struct sleeper *sleeper, uint32_t seed)
{
	struct kvm_regs regs = {.rip = FIRST, .rflags = 2, .rsp = 0x8000};
	struct kvm_signal_mask *mask = calloc(1, sizeof(*mask) + 8);
	struct machine *machine = &sleeper->machine;
	struct kvm_pit_config pit = {0};
	struct kvm_irqfd irqfd = {0};

	mask->len = 8;
	machine_open(machine, MACHINE_IRQCHIP);
	put_code(machine->memory);
	WORKS(ioctl(machine->vm, KVM_CREATE_PIT2, &pit));
	WORKS(ioctl(machine->vcpu, KVM_SET_SIGNAL_MASK, mask));
	free(mask);
	WORKS(ioctl(machine->vcpu, KVM_GET_LAPIC, &sleeper->lapic));
	*apic_register(&sleeper->lapic, APIC_SPURIOUS) |= 0x100;
	sleeper->event = eventfd(0, EFD_CLOEXEC);
	irqfd.fd = (uint32_t)sleeper->event;
	WORKS(ioctl(machine->vm, KVM_IRQFD, &irqfd));
	sleeper->seed = seed;
	WORKS(ioctl(machine->vcpu, KVM_SET_REGS, &regs));
	CHECK(next_report(machine) == SAW_SIPI, "the guest did not start");
}

/* Does not return: what the threads do is the answer, and they do it for ever. */
static void tell_lost(const struct sleeper *sleeper)
{
	char command[128];

	printf("lost: %s after %u ns, round %u, woken %u\n", source_names[sleeper->source],
	       sleeper->delay_ns, sleeper->begun, sleeper->woken);
	fflush(stdout);
	snprintf(command, sizeof(command),
		 "timeout 60 gdb -p %d -batch -ex 'thread apply all bt' 2>&1", (int)getpid());
	(void)!system(command);
	_exit(1);
}

/* One whose thread that wakes it has not got to it is not lost yet. */
static int is_lost(const struct sleeper *sleeper)
{
	long since = sleeper->since, limit = LOST_S;

	if (sleeper->woken != sleeper->begun)
		limit *= 2;
	return since && now_s() - since > limit;
}

static uint32_t rounds_of(unsigned int count, int source)
{
	uint32_t rounds = 0;

	for (unsigned int i = 0; i < count; i++)
		rounds += sleepers[i].rounds[source];
	return rounds;
}

/* A slow machine gets longer, until each source had its turn. */
static int is_time_left(unsigned int count, long end)
{
	int source = 0;

	while (source < SOURCES && rounds_of(count, source))
		source++;
	return now_s() < end + (source < SOURCES ? LOST_S : 0);
}

static void watch(unsigned int count, long seconds)
{
	for (long end = now_s() + seconds; is_time_left(count, end) && !check_failures;
	     usleep(50000))
		for (unsigned int i = 0; i < count; i++)
			if (is_lost(&sleepers[i]))
				tell_lost(&sleepers[i]);
	is_over = 1;
	for (unsigned int i = 0; i < count; i++)
		while (sleepers[i].since) {
			if (is_lost(&sleepers[i]))
				tell_lost(&sleepers[i]);
			usleep(1000);
		}
}

int main(int argc, char **argv)
{
	long seconds = argc > 1 ? atol(argv[1]) : SECONDS;
	unsigned int count = argc > 2 ? (unsigned int)atoi(argv[2]) : VCPUS;
	struct sigaction action = {.sa_handler = on_signal};

	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	if (count > VCPUS_MAX)
		count = VCPUS_MAX;
	for (unsigned int i = 0; i < count; i++) {
		sleeper_open(&sleepers[i], (uint32_t)time(NULL) * VCPUS_MAX + i);
		pthread_create(&sleepers[i].runner, NULL, run_rounds, &sleepers[i]);
		pthread_create(&sleepers[i].waker, NULL, wake_rounds, &sleepers[i]);
	}
	watch(count, seconds);
	for (int source = 0; source < SOURCES; source++) {
		uint32_t rounds = rounds_of(count, source);

		printf("%s: %u\n", source_names[source], rounds);
		CHECK(rounds, "%s woke no vCPU", source_names[source]);
	}
	for (unsigned int i = 0; i < count; i++) {
		pthread_join(sleepers[i].runner, NULL);
		pthread_join(sleepers[i].waker, NULL);
	}
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
