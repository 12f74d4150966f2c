/* The dirty ring: enabling it, the life of its entries, the limit, resetting. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 1500ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define RING_BYTES 16384ul
#define ENTRIES (RING_BYTES / sizeof(struct kvm_dirty_gfn))
#define RING_PAGE 64

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;
static struct kvm_dirty_gfn *ring;
static uint32_t next; /* entry to look at */

static int enable(uint64_t bytes)
{
	return vm_enable_cap(&vm, KVM_CAP_DIRTY_LOG_RING, bytes);
}

static void open_vm(void)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (!vm_cap(&vm, KVM_CAP_DIRTY_LOG_RING))
		check_skip("no dirty ring");
}

static struct kvm_dirty_gfn *map_ring(const struct vcpu *of)
{
	void *mapped = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, of->fd,
			    RING_PAGE * (off_t)PAGE);

	CHECK(mapped != MAP_FAILED);
	return mapped;
}

static void set_slot(uint32_t flags)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = flags, .guest_phys_addr = GPA,
			  .memory_size = BYTES, .userspace_addr = (uintptr_t)memory));
}

static void open_machine(void)
{
	open_vm();
	CHECK_ZERO(enable(RING_BYTES));
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	ring = map_ring(&vcpu);
	memory = memory_alloc(BYTES);
	set_slot(KVM_MEM_LOG_DIRTY_PAGES);
}

static uint32_t flags_of(uint32_t index)
{
	return __atomic_load_n(&ring[index % ENTRIES].flags, __ATOMIC_ACQUIRE);
}

static void give_back(uint32_t index)
{
	__atomic_store_n(&ring[index % ENTRIES].flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
}

/* Takes every entry that is there; marks in @dirty; how many there were. */
static uint32_t collect(uint8_t *dirty)
{
	uint32_t count = 0;

	for (; flags_of(next) == KVM_DIRTY_GFN_F_DIRTY; next++, count++) {
		const struct kvm_dirty_gfn *entry = &ring[next % ENTRIES];

		CHECK_EQ(entry->slot, SLOT);
		CHECK(entry->offset < PAGES);
		dirty[entry->offset] = 1;
		give_back(next);
	}
	return count;
}

static int reset(void)
{
	return ioctl(vm.fd, KVM_RESET_DIRTY_RINGS, 0);
}

static struct outcome write_pages(uint64_t first, uint64_t count, uint64_t value)
{
	return GUEST(&vcpu, GUEST_STORE_EACH, .rax = value, .rbx = GPA + first * PAGE, .rcx = count,
		     .rdx = PAGE);
}

static void enabling(void)
{
	int largest;

	open_vm();
	largest = vm_cap(&vm, KVM_CAP_DIRTY_LOG_RING);
	CHECK_EQ(largest, 1 << 20);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL), largest);
	CHECK_ERR(reset(), EINVAL);
	REFUSED(&vm, enable(0), EINVAL);
	REFUSED(&vm, enable(RING_BYTES - 16), EINVAL);
	REFUSED(&vm, enable(3 * PAGE), EINVAL);
	REFUSED(&vm, enable(512), EINVAL);
	REFUSED(&vm, enable(2048), EINVAL);
	REFUSED(&vm, enable(2ul << 20), E2BIG);
	CHECK_ZERO(enable(RING_BYTES));
	REFUSED(&vm, enable(RING_BYTES), EINVAL);
	/* The size is looked at before that. */
	REFUSED(&vm, enable(2ul << 20), E2BIG);
}

/* Of the argument KVM looks at the low 32 bits. */
static void enabling_takes_32_bits(void)
{
	open_vm();
	REFUSED(&vm, enable(1ul << 32), EINVAL);
	CHECK_ZERO(enable(1ul << 32 | RING_BYTES));
}

static void enabling_comes_before_vcpus(void)
{
	open_vm();
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, 0));
	REFUSED(&vm, enable(RING_BYTES), EINVAL);
}

static void mapping(void)
{
	off_t offset = RING_PAGE * (off_t)PAGE;

	open_machine();
	CHECK_ERR((intptr_t)mmap(NULL, RING_BYTES, PROT_READ, MAP_PRIVATE, vcpu.fd, offset),
		  EINVAL);
	/* A kernel may refuse code in such a file before it asks KVM. */
	CHECK(mmap(NULL, RING_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, vcpu.fd, offset) ==
	      MAP_FAILED);
	CHECK(errno == EINVAL || errno == EPERM);
	for (uint32_t i = 0; i < ENTRIES; i++)
		CHECK_EQ(flags_of(i), 0);
}

/* The run page's three, nothing, the ring, nothing: in one mapping as in several. */
static void nothing_between(void)
{
	volatile uint8_t *all;

	open_machine();
	all = mmap(NULL, RING_PAGE * PAGE + RING_BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   vcpu.fd, 0);
	CHECK(all != MAP_FAILED);
	for (uint64_t page = 0; page < RING_PAGE + RING_BYTES / PAGE + 1; page++) {
		int is_ring = page >= RING_PAGE && page < RING_PAGE + RING_BYTES / PAGE;

		CHECK_EQ(touch_byte(all + page * PAGE).number, page < 3 || is_ring ? 0 : SIGBUS);
	}
	all = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, vcpu.fd, (RING_PAGE - 1) * (off_t)PAGE);
	CHECK(all != MAP_FAILED);
	CHECK_EQ(touch_byte(all).number, SIGBUS);
}

static void bitmap_calls_are_refused(void)
{
	uint64_t bitmap[PAGES / 64 + 1];
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = bitmap};
	struct kvm_clear_dirty_log clear = {.slot = SLOT, .num_pages = 64, .dirty_bitmap = bitmap};

	open_machine();
	CHECK_ERR(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log), ENXIO);
	CHECK_ERR(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear), ENXIO);
	log.slot = 40000;
	clear.first_page = 1;
	CHECK_ERR(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log), ENXIO);
	CHECK_ERR(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear), ENXIO);
}

static void life_of_an_entry(void)
{
	static uint8_t dirty[PAGES];
	uint32_t count;

	open_machine();
	CHECK_END(write_pages(3, 1, 1), END_DONE);
	CHECK_END(write_pages(130, 2, 1), END_DONE);
	CHECK_END(write_pages(3, 1, 2), END_DONE);
	/* More than was written may be there, never less. */
	count = collect(dirty);
	CHECK(count >= 3);
	CHECK(dirty[3] && dirty[130] && dirty[131]);
	CHECK_EQ(reset(), count);
	for (uint32_t i = 0; i <= count; i++)
		CHECK_EQ(flags_of(i), 0);
	CHECK_EQ(reset(), 0);
	/* Written again, reported again. */
	memset(dirty, 0, sizeof(dirty));
	CHECK_END(write_pages(3, 1, 3), END_DONE);
	CHECK(collect(dirty) >= 1);
	CHECK(dirty[3]);
	CHECK(reset() >= 1);
}

/* Only from the oldest entry on without a gap. */
static void reset_stops_at_the_first_gap(void)
{
	open_machine();
	CHECK_END(write_pages(0, 4, 1), END_DONE);
	give_back(1);
	give_back(2);
	CHECK_EQ(reset(), 0);
	CHECK_EQ(flags_of(0), KVM_DIRTY_GFN_F_DIRTY);
	give_back(0);
	CHECK_EQ(reset(), 3);
	/* DIRTY may stay set beside RESET. */
	__atomic_store_n(&ring[3].flags, KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET,
			 __ATOMIC_RELEASE);
	CHECK_EQ(reset(), 1);
	CHECK_EQ(flags_of(3), 0);
}

/* SIGUSR2 to this thread, every few microseconds. */
static struct {
	timer_t timer;
	long interval_ns;
	volatile sig_atomic_t without_progress; /* signals since a reset got on */
} storm = {.interval_ns = 20000};

static void storm_set(void)
{
	const struct itimerspec often = {.it_value.tv_nsec = storm.interval_ns,
					 .it_interval.tv_nsec = storm.interval_ns};

	CHECK_ZERO(timer_settime(storm.timer, 0, &often, NULL));
}

/* Where a machine takes as long for a signal, the thread would do nothing else. */
static void on_storm(int signal)
{
	(void)signal;
	if (++storm.without_progress < 200)
		return;
	storm.without_progress = 0;
	storm.interval_ns *= 2;
	storm_set();
}

static void storm_start(void)
{
	struct sigaction action = {.sa_handler = on_storm};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};

	sigaction(SIGUSR2, &action, NULL);
	CHECK_ZERO(timer_create(CLOCK_MONOTONIC, &event, &storm.timer));
	storm_set();
}

/* However often a signal cuts it short, the results add up, and what was reset is armed again. */
static void reset_under_signals(void)
{
	static uint8_t dirty[PAGES];
	uint32_t short_calls = 0;
	sigset_t blocked;

	open_machine();
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	CHECK_END(write_pages(0, 400, 1), END_DONE);
	next = 0;
	CHECK_EQ(collect(dirty), 400);
	CHECK_EQ(reset(), 400);
	storm_start();
	for (uint32_t round = 2; round < 1000 && short_calls < 20; round++) {
		uint32_t count = 0;

		pthread_sigmask(SIG_BLOCK, &blocked, NULL);
		CHECK_END(write_pages(0, 400, round), END_DONE);
		pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
		CHECK_EQ(collect(dirty), 400);
		while (count < 400) {
			uint32_t more = (uint32_t)CHECK_OK(reset());

			if (more)
				storm.without_progress = 0;
			count += more;
			short_calls += count < 400;
		}
		CHECK_EQ(count, 400);
	}
	CHECK(short_calls > 0);
}

/* What they name is out of the slot, and no other slot's page is armed for it. */
static void spoilt_entries(void)
{
	uint64_t faults;

	open_machine();
	CHECK_ZERO(REGION(&vm, .slot = SLOT + 1, .guest_phys_addr = GPA + BYTES,
			  .memory_size = 64 * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(64 * PAGE)));
	CHECK_END(write_pages(PAGES, 64, 1), END_DONE);
	CHECK_END(write_pages(0, 5, 1), END_DONE);
	ring[0].slot = 12345;
	ring[1].offset = UINT64_MAX;
	ring[2].slot = 0xffffu << 16 | SLOT;
	ring[3].offset = PAGES;
	ring[4].offset = PAGES + 63;
	for (uint32_t i = 0; i < 5; i++)
		give_back(i);
	CHECK_EQ(reset(), 5);
	faults = stat_get(vcpu.fd, "pf_taken");
	CHECK_END(write_pages(PAGES, 64, 1), END_DONE);
	CHECK_EQ(stat_get(vcpu.fd, "pf_taken"), faults);
	CHECK_END(write_pages(0, 4, 2), END_DONE);
}

/* Entries that no vCPU has written are not there, whatever the client makes of them. */
static void invented_entries(void)
{
	static uint8_t dirty[PAGES];

	open_machine();
	for (uint32_t i = 0; i < ENTRIES; i++)
		give_back(i);
	CHECK_EQ(reset(), 0);
	CHECK_END(write_pages(3, 1, 1), END_DONE);
	CHECK_EQ(collect(dirty), 1);
	CHECK_EQ(reset(), 1);
}

/* A ring has no bits that could all be set: what was writable is armed when logging starts. */
static void initially_set_means_nothing(void)
{
	static uint8_t dirty[PAGES];

	open_machine();
	set_slot(0);
	CHECK_END(write_pages(0, 8, 1), END_DONE);
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3));
	set_slot(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_END(write_pages(0, 8, 2), END_DONE);
	CHECK_EQ(collect(dirty), 8);
}

/* Mapping memory ahead writes nothing: however much it is, the ring has room for it. */
static void prefault_fills_no_ring(void)
{
	struct kvm_pre_fault_memory range = {.gpa = GPA, .size = BYTES};

	open_machine();
	if (!vm_cap(&vm, KVM_CAP_PRE_FAULT_MEMORY))
		check_skip("no KVM_PRE_FAULT_MEMORY");
	while (range.size)
		CHECK_ZERO(ioctl(vcpu.fd, KVM_PRE_FAULT_MEMORY, &range));
	CHECK_END(write_pages(0, 8, 1), END_DONE);
	for (uint32_t i = 0; i < 8; i++)
		CHECK_EQ(flags_of(i), KVM_DIRTY_GFN_F_DIRTY);
}

/* The vCPU stops before its ring is full, and stays there until there is room. */
static void full_ring(void)
{
	static uint8_t dirty[PAGES];
	struct outcome outcome;
	uint32_t count = 0;

	open_machine();
	outcome = write_pages(0, PAGES, 7);
	while (outcome.end != END_DONE) {
		CHECK_EQ(outcome.error, 0);
		CHECK_EQ(outcome.exit_reason, KVM_EXIT_DIRTY_RING_FULL);
		for (int i = 0; i < 3; i++) {
			outcome = vcpu_run(&vcpu);
			CHECK_EQ(outcome.error, 0);
			CHECK_EQ(outcome.exit_reason, KVM_EXIT_DIRTY_RING_FULL);
		}
		count = collect(dirty);
		CHECK(count > 64);
		CHECK_EQ(reset(), count);
		outcome = vcpu_run(&vcpu);
	}
	CHECK(count > 0);
	collect(dirty);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK(dirty[page]);
}

/* The slot's flag is the switch, with a ring as with a bitmap. */
static void the_flag_is_the_switch(void)
{
	static uint8_t dirty[PAGES];

	open_machine();
	set_slot(0);
	CHECK_END(write_pages(0, 8, 1), END_DONE);
	CHECK_EQ(collect(dirty), 0);
	set_slot(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_END(write_pages(0, 8, 1), END_DONE);
	CHECK_EQ(collect(dirty), 8);
}

/* A ring each; the same page may be in both. */
static void two_vcpus(void)
{
	static uint8_t dirty[PAGES];
	struct vcpu second;
	struct kvm_dirty_gfn *first_ring;

	open_machine();
	vcpu_open(&vm, &second, 1);
	CHECK_END(write_pages(0, 4, 1), END_DONE);
	CHECK_EQ(collect(dirty), 4);
	CHECK_EQ(reset(), 4);
	CHECK_END(write_pages(0, 2, 1), END_DONE);
	CHECK_END(GUEST(&second, GUEST_STORE_EACH, .rbx = GPA + 2 * PAGE, .rcx = 3, .rdx = PAGE),
		  END_DONE);
	CHECK_EQ(collect(dirty), 2);
	first_ring = ring;
	ring = map_ring(&second);
	next = 0;
	memset(dirty, 0, sizeof(dirty));
	CHECK_EQ(collect(dirty), 3);
	CHECK(dirty[2] && dirty[3] && dirty[4]);
	CHECK_EQ(reset(), 5);
	ring = first_ring;
}

/* Collected while the guest writes, and once more when it has stopped, the copy is the memory. */
static void harvest_under_a_writer(void)
{
	static uint64_t copy[PAGES];
	static uint8_t dirty[PAGES];
	struct guest_thread thread;
	struct outcome outcome;
	uint8_t *stop = memory_alloc(PAGE);

	open_machine();
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)stop));
	for (uint64_t round = 1; round <= 60; round++) {
		struct guest_op loop = {.code = GUEST_STORE_LOOP,
					.rax = round,
					.rbx = GPA,
					.rcx = 100 + round % 3,
					.rdx = 2 * GPA};

		__atomic_store_n(word_at(stop, 0), 0, __ATOMIC_RELAXED);
		thread_start(&thread, &vcpu, &loop);
		do {
			memset(dirty, 0, sizeof(dirty));
			if (round % 4 == 0)
				__atomic_store_n(word_at(stop, 0), 1, __ATOMIC_RELAXED);
			collect(dirty);
			CHECK_OK(reset());
			for (uint64_t page = 0; page < PAGES; page++)
				if (dirty[page])
					copy[page] = __atomic_load_n(word_at(memory, page * PAGE),
								     __ATOMIC_RELAXED);
			__atomic_store_n(word_at(stop, 0), 1, __ATOMIC_RELAXED);
		} while (!thread_ended_within(&thread, 2));
		outcome = thread_join(&thread);
		while (outcome.exit_reason == KVM_EXIT_DIRTY_RING_FULL || collect(dirty)) {
			CHECK_OK(reset());
			if (outcome.end != END_DONE)
				outcome = vcpu_run(&vcpu);
			collect(dirty);
		}
		CHECK_END(outcome, END_DONE);
		CHECK_OK(reset());
		for (uint64_t page = 0; page < PAGES; page++)
			if (dirty[page])
				copy[page] = *word_at(memory, page * PAGE);
		for (uint64_t page = 0; page < PAGES; page++)
			CHECK_EQ(copy[page], *word_at(memory, page * PAGE));
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(enabling),
	    TEST(enabling_takes_32_bits),
	    TEST(enabling_comes_before_vcpus),
	    TEST(mapping),
	    TEST(nothing_between),
	    TEST(bitmap_calls_are_refused),
	    TEST(life_of_an_entry),
	    TEST(reset_stops_at_the_first_gap),
	    TEST(reset_under_signals),
	    TEST(spoilt_entries),
	    TEST(invented_entries),
	    TEST(initially_set_means_nothing),
	    TEST(prefault_fills_no_ring),
	    TEST(full_ring),
	    TEST(the_flag_is_the_switch),
	    TEST(two_vcpus),
	    TEST(harvest_under_a_writer),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
