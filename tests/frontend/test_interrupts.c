/* Interrupts from the client to a real-mode guest: PIC, messages, NMI, injection, and signals. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

#define EVENT_GSI 40u
/* Where main_code has come to its end, which sleeps. */
#define SLEEPS (CODE + sizeof(main_code) - 3)

/* Things to do to a guest that sleeps by then. */
struct poke {
	struct machine *machine;
	void (*act)(struct machine *machine);
	pid_t sleeper;
	pthread_t thread;
};

static bool is_asleep(pid_t thread)
{
	char path[64], line[512] = "";
	int file;
	bool was_read;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	file = open(path, O_RDONLY);
	was_read = read(file, line, sizeof(line) - 1) > 0;
	close(file);
	return was_read && strstr(line, ") S");
}

/* However slow the machine is, the other thread has come to sleep in KVM_RUN before this acts. */
static void *poke_thread(void *argument)
{
	struct poke *poke = argument;

	do
		usleep(50000);
	while (!is_asleep(poke->sleeper));
	poke->act(poke->machine);
	return NULL;
}

/* The caller sleeps next, in KVM_RUN. */
static void poke_start(struct poke *poke)
{
	poke->sleeper = gettid();
	CHECK(!pthread_create(&poke->thread, NULL, poke_thread, poke), "no thread");
}

static int report_after(struct machine *machine, void (*act)(struct machine *machine))
{
	struct poke poke = {.machine = machine, .act = act};
	int report;

	poke_start(&poke);
	report = next_report(machine);
	pthread_join(poke.thread, NULL);
	return report;
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* Runs until the guest has set the PIC up: an edge before that is lost. */
static void settle(const struct machine *machine)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct kvm_regs regs;

	sigaction(SIGALRM, &action, NULL);
	ualarm(50000, 50000);
	do {
		FAILS(ioctl(machine->vcpu, KVM_RUN, 0), EINTR);
		CHECK(machine->run->exit_reason == KVM_EXIT_INTR, "exit %u",
		      machine->run->exit_reason);
		WORKS(ioctl(machine->vcpu, KVM_GET_REGS, &regs));
	} while (regs.rip < SLEEPS && machine->run->exit_reason == KVM_EXIT_INTR);
	ualarm(0, 0);
}

static void machine_open_settled(struct machine *machine)
{
	machine_open(machine, MACHINE_IRQCHIP);
	settle(machine);
}

static void set_line(struct machine *machine, uint32_t level)
{
	struct kvm_irq_level line = {.irq = 0, .level = level};

	WORKS(ioctl(machine->vm, KVM_IRQ_LINE, &line));
}

static void pulse_line(struct machine *machine)
{
	set_line(machine, 1);
	set_line(machine, 0);
}

static void send_message(struct machine *machine)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = MESSAGE_VECTOR};

	CHECK(ioctl(machine->vm, KVM_SIGNAL_MSI, &msi) == 1, "no APIC took the message");
}

/* INIT leaves none of the events that were on their way. */
static void init_forgets_events(void)
{
	struct kvm_msi init = {.address_lo = 0xfee00000, .data = 0x500};
	struct kvm_vcpu_events events;
	struct kvm_mp_state state;
	struct machine machine;

	machine_open(&machine, MACHINE_IRQCHIP);
	WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
	events.nmi.injected = 1;
	events.exception.injected = 1;
	events.exception.nr = 13;
	WORKS(ioctl(machine.vcpu, KVM_SET_VCPU_EVENTS, &events));
	CHECK(ioctl(machine.vm, KVM_SIGNAL_MSI, &init) == 1, "no APIC took the INIT");
	WORKS(ioctl(machine.vcpu, KVM_GET_MP_STATE, &state));
	WORKS(ioctl(machine.vcpu, KVM_GET_VCPU_EVENTS, &events));
	CHECK(!events.nmi.injected && !events.exception.injected && !events.nmi.pending,
	      "NMI %u, exception %u", events.nmi.injected, events.exception.injected);
	machine_close(&machine);
}

static void sleeping_guests_wake(void)
{
	struct kvm_lapic_state lapic;
	struct kvm_mp_state state;
	struct machine machine;
	uint32_t in_service;

	machine_open_settled(&machine);
	CHECK(report_after(&machine, pulse_line) == SAW_PIC, "first edge");
	CHECK(report_after(&machine, pulse_line) == SAW_PIC, "second edge");
	WORKS(ioctl(machine.vcpu, KVM_NMI, 0));
	CHECK(next_report(&machine) == SAW_NMI, "NMI");
	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &lapic));
	lapic.regs[0xf1] |= 1; /* the spurious vector register's enable bit */
	WORKS(ioctl(machine.vcpu, KVM_SET_LAPIC, &lapic));
	CHECK(report_after(&machine, send_message) == SAW_MESSAGE, "message");
	WORKS(ioctl(machine.vcpu, KVM_GET_LAPIC, &lapic));
	memcpy(&in_service, &lapic.regs[0x100 + MESSAGE_VECTOR / 32 * 16], sizeof(in_service));
	CHECK(in_service == 1u << MESSAGE_VECTOR % 32, "in service: %#x", in_service);
	WORKS(ioctl(machine.vcpu, KVM_GET_MP_STATE, &state));
	CHECK(state.mp_state == KVM_MP_STATE_RUNNABLE, "state %u", state.mp_state);
	machine_close(&machine);
}

#define ASLEEP_US 300000
#define NANOSECONDS 1000000000l

static long cpu_time_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * NANOSECONDS + now.tv_nsec;
}

static void pulse_line_later(struct machine *machine)
{
	usleep(ASLEEP_US);
	pulse_line(machine);
}

/*
 * A vCPU that has halted sleeps in one system call: all threads of the process together use next to
 * no processor time meanwhile, and none of them wakes to look.
 */
static void halted_guests_cost_nothing(void)
{
	struct rusage before, after;
	struct machine machine;
	long used, woken;

	machine_open_settled(&machine);
	CHECK(report_after(&machine, pulse_line) == SAW_PIC, "first edge");
	getrusage(RUSAGE_SELF, &before);
	used = cpu_time_ns();
	CHECK(report_after(&machine, pulse_line_later) == SAW_PIC, "the edge after a long sleep");
	used = cpu_time_ns() - used;
	getrusage(RUSAGE_SELF, &after);
	woken = after.ru_nvcsw - before.ru_nvcsw;
	/* A thread that looks again and again takes all of it; what a host takes from its guest
	 * counts here, too. */
	CHECK(used < ASLEEP_US * 1000l / 5, "%ld ns of processor time for a sleep", used);
	CHECK(woken < 30, "threads went to sleep %ld times", woken);
	machine_close(&machine);
}

static int event_fd = -1;

static void signal_event(struct machine *machine)
{
	uint64_t one = 1;

	(void)machine;
	CHECK(write(event_fd, &one, sizeof(one)) == sizeof(one), "eventfd");
}

static void route_event(const struct machine *machine)
{
	struct {
		struct kvm_irq_routing header;
		struct kvm_irq_routing_entry entry;
	} table = {{.nr = 1}, {.gsi = EVENT_GSI, .type = KVM_IRQ_ROUTING_MSI}};

	table.entry.u.msi.address_lo = 0xfee00000;
	table.entry.u.msi.data = NMI_VECTOR | 4 << 8; /* as an NMI: no end of interrupt needed */
	WORKS(ioctl(machine->vm, KVM_SET_GSI_ROUTING, &table));
}

static void eventfds_interrupt(void)
{
	struct kvm_irqfd irqfd = {.gsi = EVENT_GSI};
	struct machine machine, other;
	uint64_t count;

	machine_open(&machine, MACHINE_IRQCHIP);
	machine_open(&other, 0);
	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	irqfd.fd = (uint32_t)event_fd;
	FAILS(ioctl(other.vm, KVM_IRQFD, &irqfd), EINVAL);
	machine_close(&other);
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EBUSY);
	irqfd.fd = (uint32_t)machine.vcpu;
	FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EINVAL);
	irqfd.fd = (uint32_t)-1;
	FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EBADF);
	irqfd.fd = (uint32_t)event_fd;
	route_event(&machine);
	for (int i = 0; i < 3; i++)
		CHECK(report_after(&machine, signal_event) == SAW_NMI, "event %d", i);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	/* No reader takes the count any more. */
	signal_event(&machine);
	usleep(20000);
	CHECK(read(event_fd, &count, sizeof(count)) == sizeof(count) && count == 1, "taken");
	close(event_fd);
	machine_close(&machine);
}

/* Whether one of many is assigned is asked by its duplicates, and taking one leaves the rest. */
static void many_eventfds(void)
{
	enum { COUNT = 400 };
	int fds[COUNT], others[COUNT];
	struct kvm_irqfd irqfd = {.gsi = EVENT_GSI};
	struct machine machine;

	machine_open(&machine, MACHINE_IRQCHIP);
	for (int i = 0; i < COUNT; i++) {
		fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		others[i] = dup(fds[i]);
		irqfd.fd = (uint32_t)fds[i];
		WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	}
	for (int i = 0; i < COUNT; i += 3) {
		irqfd.fd = (uint32_t)others[i];
		irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
		/* One of another line is not meant. */
		irqfd.gsi = EVENT_GSI + 1;
		WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
		irqfd.flags = 0;
		FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EBUSY);
		irqfd.gsi = EVENT_GSI;
		irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
		WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	}
	irqfd.flags = 0;
	for (int i = 0; i < COUNT; i++) {
		irqfd.fd = (uint32_t)others[i];
		if (i % 3)
			FAILS(ioctl(machine.vm, KVM_IRQFD, &irqfd), EBUSY);
		else
			WORKS(ioctl(machine.vm, KVM_IRQFD, &irqfd));
	}
	event_fd = fds[COUNT - 1];
	route_event(&machine);
	CHECK(report_after(&machine, signal_event) == SAW_NMI, "event of the last");
	for (int i = 0; i < COUNT; i++) {
		close(fds[i]);
		close(others[i]);
	}
	machine_close(&machine);
}

static pthread_t sleeper;

static void signals_end_the_sleep(void)
{
	struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct machine machine;

	machine_open_settled(&machine);
	/* On a busy machine the first alarms may come before the guest sleeps. */
	for (int tries = 0; tries < 40 && state.mp_state != KVM_MP_STATE_HALTED; tries++) {
		ualarm(50000, 50000);
		FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINTR);
		CHECK(machine.run->exit_reason == KVM_EXIT_INTR, "exit %u",
		      machine.run->exit_reason);
		WORKS(ioctl(machine.vcpu, KVM_GET_MP_STATE, &state));
	}
	ualarm(0, 0);
	CHECK(state.mp_state == KVM_MP_STATE_HALTED, "state %u", state.mp_state);
	CHECK(report_after(&machine, pulse_line) == SAW_PIC, "after the signal");
	machine_close(&machine);
}

static void send_term(struct machine *machine)
{
	(void)machine;
	pthread_kill(sleeper, SIGTERM);
}

static void send_usr2(struct machine *machine)
{
	(void)machine;
	pthread_kill(sleeper, SIGUSR2);
}

static void set_run_mask(const struct machine *machine, uint64_t bits)
{
	struct {
		struct kvm_signal_mask header;
		uint32_t bits[2];
	} mask = {{.len = 8}, {(uint32_t)bits, (uint32_t)(bits >> 32)}};

	WORKS(ioctl(machine->vcpu, KVM_SET_SIGNAL_MASK, &mask));
}

/* Sleeps until @act's @signal, which stays pending for sigtimedwait() alone. */
static void check_let_in(struct machine *machine, void (*act)(struct machine *), int signal)
{
	struct poke poke = {.machine = machine, .act = act};
	struct timespec now = {0};
	sigset_t one, pending;

	sleeper = pthread_self();
	poke_start(&poke);
	FAILS(ioctl(machine->vcpu, KVM_RUN, 0), EINTR);
	pthread_join(poke.thread, NULL);
	CHECK(machine->run->exit_reason == KVM_EXIT_INTR, "exit %u", machine->run->exit_reason);
	sigemptyset(&one);
	sigaddset(&one, signal);
	CHECK(!sigpending(&pending) && sigismember(&pending, signal) == 1, "pending %d", signal);
	CHECK(sigtimedwait(&one, NULL, &now) == signal, "taken %d", signal);
}

/* Signals that only KVM_RUN lets in end it, with the default action and ignored ones too. */
static void mask_lets_defaults_in(void)
{
	struct sigaction current;
	struct machine machine;
	sigset_t blocked;
	int status;
	pid_t child;

	machine_open(&machine, MACHINE_IRQCHIP);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	signal(SIGUSR2, SIG_IGN);
	set_run_mask(&machine, 0);
	for (int i = 0; i < 2; i++) {
		check_let_in(&machine, send_term, SIGTERM);
		check_let_in(&machine, send_usr2, SIGUSR2);
	}
	CHECK(!sigaction(SIGTERM, NULL, &current) && current.sa_handler == SIG_DFL, "default");
	CHECK(!sigaction(SIGUSR2, NULL, &current) && current.sa_handler == SIG_IGN, "ignored");
	pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
	raise(SIGUSR2);
	/* Outside of KVM_RUN the default action is what it was. */
	child = fork();
	if (!child) {
		raise(SIGTERM);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
		  WTERMSIG(status) == SIGTERM,
	      "status %#x", status);
	machine_close(&machine);
}

/* Without controllers inside the client injects when the guest is ready. */
#define MISSING 0x9000u
#define MISSING_BYTE 0x77

/* The same with a load of a page that is missing, and a report of it, in place of the sleep. */
static const uint8_t missing_code[] = {
    0xa0, MISSING & 0xff, MISSING >> 8, 0xe6, REPORT_PORT, /* mov al, [MISSING]; out */
    0xf4, 0xeb,		  0xfd,				   /* hlt; jmp back to it */
};

static int userfault_fd = -1;

static void give_page(struct machine *machine)
{
	static uint8_t page[4096] = {MISSING_BYTE};
	struct uffdio_copy copy = {.dst = (uintptr_t)machine->memory + MISSING,
				   .src = (uintptr_t)page,
				   .len = sizeof(page)};

	WORKS(ioctl(userfault_fd, UFFDIO_COPY, &copy));
}

/* A vCPU that waits for a page of the client's goes on waiting, but for interrupts. */
static void missing_pages_let_interrupts_in(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register request = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct machine machine;

	userfault_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (userfault_fd < 0 || ioctl(userfault_fd, UFFDIO_API, &api)) {
		printf("no userfaultfd: missing pages are not tried\n");
		return;
	}
	machine_open(&machine, MACHINE_IRQCHIP);
	memcpy(machine.memory + SLEEPS, missing_code, sizeof(missing_code));
	request.range = (struct uffdio_range){(uintptr_t)machine.memory + MISSING, 4096};
	WORKS(ioctl(userfault_fd, UFFDIO_REGISTER, &request));
	settle(&machine);
	CHECK(report_after(&machine, pulse_line) == SAW_PIC, "an interrupt of one that waits");
	CHECK(report_after(&machine, pulse_line) == SAW_PIC, "and another");
	CHECK(report_after(&machine, give_page) == MISSING_BYTE, "the page");
	machine_close(&machine);
	close(userfault_fd);
}

static void client_injects(void)
{
	struct kvm_interrupt interrupt = {.irq = PIC_VECTOR};
	struct machine machine;

	machine_open(&machine, MACHINE_NO_IRQCHIP);
	machine.run->request_interrupt_window = 1;
	CHECK(next_report(&machine) == -1, "a report out of nothing");
	CHECK(machine.run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN, "exit %u",
	      machine.run->exit_reason);
	CHECK(machine.run->ready_for_interrupt_injection && machine.run->if_flag, "not ready");
	machine.run->request_interrupt_window = 0;
	interrupt.irq = 256;
	FAILS(ioctl(machine.vcpu, KVM_INTERRUPT, &interrupt), EINVAL);
	interrupt.irq = PIC_VECTOR;
	WORKS(ioctl(machine.vcpu, KVM_INTERRUPT, &interrupt));
	CHECK(next_report(&machine) == SAW_PIC, "injected");
	CHECK(next_report(&machine) == -1 && machine.run->exit_reason == KVM_EXIT_HLT, "exit %u",
	      machine.run->exit_reason);
	machine_close(&machine);
}

static volatile sig_atomic_t usr1_count, usr2_count;

static void count_usr(int signal)
{
	if (signal == SIGUSR1)
		usr1_count++;
	else
		usr2_count++;
}

static void send_both(struct machine *machine)
{
	(void)machine;
	pthread_kill(sleeper, SIGUSR1);
	pthread_kill(sleeper, SIGUSR2);
}

/* The kernel begins both handlers before either of them runs. */
static void signals_come_at_once(void)
{
	struct sigaction action = {.sa_handler = count_usr};
	struct poke poke = {.act = send_both};
	struct machine machine;
	sigset_t both, pending;

	machine_open(&machine, MACHINE_IRQCHIP);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigemptyset(&both);
	sigaddset(&both, SIGUSR1);
	sigaddset(&both, SIGUSR2);
	sleeper = pthread_self();
	sigprocmask(SIG_BLOCK, &both, NULL);
	send_both(&machine);
	set_run_mask(&machine, 0);
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINTR);
	sigpending(&pending);
	CHECK(sigismember(&pending, SIGUSR1) == 1 && sigismember(&pending, SIGUSR2) == 1,
	      "pending %d %d", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2));
	sigprocmask(SIG_UNBLOCK, &both, NULL);
	CHECK(usr1_count == 1 && usr2_count == 1, "let in: %d %d", usr1_count, usr2_count);
	WORKS(ioctl(machine.vcpu, KVM_SET_SIGNAL_MASK, NULL));
	for (int i = 2; i < 6; i++) {
		poke_start(&poke);
		FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINTR);
		pthread_join(poke.thread, NULL);
		CHECK(usr1_count == i && usr2_count == i, "sent: %d %d of %d", usr1_count,
		      usr2_count, i);
	}
	machine_close(&machine);
}

static int handlers_vm;

static void make_call(int signal)
{
	(void)signal;
	(void)ioctl(handlers_vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY);
}

/* A handler that ran at the end of KVM_RUN, and called KVM, leaves the thread as it was. */
static void handlers_keep_cancellation(void)
{
	struct sigaction action = {.sa_handler = make_call};
	struct poke poke = {.act = send_usr2};
	struct machine machine;
	int state = -1;

	machine_open(&machine, MACHINE_IRQCHIP);
	handlers_vm = machine.vm;
	sigaction(SIGUSR2, &action, NULL);
	sleeper = pthread_self();
	poke_start(&poke);
	FAILS(ioctl(machine.vcpu, KVM_RUN, 0), EINTR);
	pthread_join(poke.thread, NULL);
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
	CHECK(state == PTHREAD_CANCEL_ENABLE, "cancellation %d", state);
	machine_close(&machine);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	init_forgets_events();
	sleeping_guests_wake();
	halted_guests_cost_nothing();
	eventfds_interrupt();
	many_eventfds();
	signals_end_the_sleep();
	mask_lets_defaults_in();
	signals_come_at_once();
	handlers_keep_cancellation();
	client_injects();
	missing_pages_let_interrupts_in();
	printf("%d failures\n", check_failures);
	return check_failures != 0;
}
