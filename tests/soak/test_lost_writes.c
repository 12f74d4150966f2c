/*
 * No write is lost: vCPUs count in pages of huge memory while a harvester copies what the log
 * names, and slots change. Whenever the vCPUs stop, what was copied must be what is there.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/rules/client.h"

#define GPA 0x40000000ul
#define PAGES 2048ul /* a power of two; four huge pages */
#define BYTES (PAGES * PAGE)
#define WORDS (PAGES / 64)
#define SLOT 7
#define OTHER_SLOT 8
#define OTHER_GPA 0x60000000ul
/* The guest's code and parameters. */
#define CODE_SLOT 9
#define CODE_GPA 0x20000000ul
#define MAX_VCPUS 4
#define RING_ENTRIES 1024u
#define RING_PAGE 64
#define EXIT_RING_FULL 31

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

/* Count in words of pages drawn by a linear congruential generator. rdx: struct counter. */
asm(".pushsection .rodata\n"
    "counter_text:\n"
    "movq (%rdx), %rsi\n movq 8(%rdx), %r8\n movq 16(%rdx), %r9\n"
    "movabsq $6364136223846793005, %r10\n movabsq $1442695040888963407, %r11\n"
    "1: imulq %r10, %r9\n addq %r11, %r9\n"
    "movq %r9, %rax\n shrq $33, %rax\n andq %r8, %rax\n shlq $12, %rax\n"
    "incq (%rsi,%rax)\n"
    "cmpq $0, 24(%rdx)\n je 1b\n"
    "movq %r9, 16(%rdx)\n out %al, $0x80\n"
    "counter_text_end:\n"
    ".popsection\n");
extern const uint8_t counter_text[], counter_text_end[];

struct counter {
	uint64_t base; /* gpa of the vCPU's word in page 0 */
	uint64_t mask;
	uint64_t seed;
	uint64_t stop;
};

struct ring_entry {
	uint32_t flags, slot;
	uint64_t offset;
};

#define MSR_WALL_CLOCK 0x4b564d00u
/* So few that writers and harvests meet in a word of the log, and seldom wait for else. */
#define OWN_PAGES 256ul
#define OWN_HARVESTS 64u

/* MODE_OWN: it is the hypervisor that writes, and no vCPU runs. */
enum mode { MODE_GET, MODE_MANUAL, MODE_INITIALLY_SET, MODE_RING, MODE_OWN };

struct worker {
	struct vcpu vcpu;
	pthread_t thread;
	struct counter *counter;
	uint64_t counter_gpa;
	struct ring_entry *ring;
	uint32_t fetch_index;
	uint64_t full_exits;
};

static struct {
	struct vm vm;
	enum mode mode;
	unsigned int count;
	struct worker workers[MAX_VCPUS];
	uint8_t *memory, *code, *other;
	uint64_t pages; /* that are written, of PAGES */
	uint64_t harvests, named, rounds, huge_seen;
	unsigned int seed;
} run;
/* What the harvester copied. */
static uint64_t copies[PAGES][MAX_VCPUS];
static uint64_t bitmap[WORDS];
static unsigned int seconds = 5;

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Where in a page vCPU @i counts up. A wall clock is longer than a word, and begins with one. */
static uint64_t offset_of(unsigned int i)
{
	return i * (run.mode == MODE_OWN ? 2 : 1) * sizeof(uint64_t);
}

static uint64_t count_in(uint64_t page, unsigned int i)
{
	const void *place = run.memory + page * PAGE + offset_of(i);

	return run.mode == MODE_OWN ? *(const volatile uint32_t *)place
				    : *(const volatile uint64_t *)place;
}

static void copy_page(uint64_t page)
{
	for (unsigned int i = 0; i < run.count; i++)
		copies[page][i] = count_in(page, i);
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct outcome outcome;

	do {
		outcome = vcpu_run(&worker->vcpu);
		if (outcome.end != END_OTHER || outcome.exit_reason != EXIT_RING_FULL)
			break;
		worker->full_exits++;
		sched_yield();
	} while (!__atomic_load_n(&worker->counter->stop, __ATOMIC_RELAXED));
	/* Stopped with a full ring: the guest stays where it is, and goes on from there. */
	CHECK(outcome.end == END_DONE || outcome.exit_reason == EXIT_RING_FULL);
	return NULL;
}

/* Each wall clock that is asked for has a version higher than what was there. */
static void *write_clocks(void *argument)
{
	struct worker *worker = argument;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head.nmsrs = 1, .entry.index = MSR_WALL_CLOCK};
	unsigned int i = (unsigned int)(worker - run.workers), seed = i;

	while (!__atomic_load_n(&worker->counter->stop, __ATOMIC_RELAXED)) {
		uint64_t page = (uint64_t)rand_r(&seed) % run.pages;

		msrs.entry.data = GPA + page * PAGE + offset_of(i);
		CHECK_EQ(ioctl(worker->vcpu.fd, KVM_SET_MSRS, &msrs), 1);
	}
	return NULL;
}

static void start_workers(void)
{
	for (unsigned int i = 0; i < run.count; i++) {
		struct worker *worker = &run.workers[i];

		worker->counter->stop = 0;
		if (run.mode == MODE_OWN) {
			CHECK_ZERO(pthread_create(&worker->thread, NULL, write_clocks, worker));
			continue;
		}
		vcpu_prepare(&worker->vcpu, &(struct guest_op){.code = GUEST_CALL,
							       .rbx = CODE_GPA,
							       .rdx = worker->counter_gpa});
		CHECK_ZERO(pthread_create(&worker->thread, NULL, work, worker));
	}
}

static void stop_workers(void)
{
	for (unsigned int i = 0; i < run.count; i++)
		__atomic_store_n(&run.workers[i].counter->stop, 1, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < run.count; i++)
		CHECK_ZERO(pthread_join(run.workers[i].thread, NULL));
}

static int set_flags(uint32_t flags)
{
	return REGION(&run.vm, .slot = SLOT, .flags = flags, .guest_phys_addr = GPA,
		      .memory_size = BYTES, .userspace_addr = (uintptr_t)run.memory);
}

static void copy_named(void)
{
	for (uint64_t page = 0; page < run.pages; page++)
		if (bitmap[page / 64] >> page % 64 & 1) {
			copy_page(page);
			run.named++;
		}
}

/* Bits of one ring's entries, which are given back. */
static int64_t collect(struct worker *worker)
{
	int64_t count = 0;

	for (;; worker->fetch_index++, count++) {
		struct ring_entry *entry = &worker->ring[worker->fetch_index % RING_ENTRIES];

		if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != 1)
			return count;
		CHECK_EQ(entry->slot, SLOT);
		CHECK(entry->offset < PAGES);
		bitmap[entry->offset / 64] |= 1ul << entry->offset % 64;
		__atomic_store_n(&entry->flags, 2, __ATOMIC_RELEASE);
	}
}

/* Pages are armed again before they are copied: what is written later is named again. */
static void harvest(void)
{
	struct kvm_dirty_log get = {.slot = SLOT, .dirty_bitmap = bitmap};
	struct kvm_clear_dirty_log clear = {
	    .slot = SLOT, .num_pages = (uint32_t)run.pages, .dirty_bitmap = bitmap};
	int64_t collected = 0;

	memset(bitmap, 0, sizeof(bitmap));
	if (run.mode == MODE_RING) {
		for (unsigned int i = 0; i < run.count; i++)
			collected += collect(&run.workers[i]);
		CHECK_EQ(CHECK_OK(ioctl(run.vm.fd, KVM_RESET_DIRTY_RINGS, 0)), collected);
	} else {
		CHECK_ZERO(ioctl(run.vm.fd, KVM_GET_DIRTY_LOG, &get));
		if (run.mode != MODE_GET)
			CHECK_ZERO(ioctl(run.vm.fd, KVM_CLEAR_DIRTY_LOG, &clear));
	}
	copy_named();
	run.harvests++;
}

/* Logging stops, huge pages come back; what is written meanwhile is in no log. */
static void toggle_logging(void)
{
	CHECK_ZERO(set_flags(0));
	if (rand_r(&run.seed) % 2)
		sched_yield();
	run.huge_seen += stat_get(run.vm.fd, "pages_2m");
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	for (uint64_t page = 0; page < PAGES; page++)
		copy_page(page);
}

/* Another slot comes and goes: with KVM's quirk that takes every mapping of the VM away. */
static void change_slots(void)
{
	struct kvm_userspace_memory_region2 region = {.slot = OTHER_SLOT,
						      .guest_phys_addr = OTHER_GPA,
						      .memory_size = PAGE,
						      .userspace_addr = (uintptr_t)run.other};

	CHECK_ZERO(ioctl(run.vm.fd, KVM_SET_USER_MEMORY_REGION2, &region));
	region.memory_size = 0;
	CHECK_ZERO(ioctl(run.vm.fd, KVM_SET_USER_MEMORY_REGION2, &region));
}

/* The host drops its mappings of a part and finds the same pages again. */
static void disturb_host(void)
{
	uint64_t first = (uint64_t)rand_r(&run.seed) % PAGES;

	CHECK_ZERO(mprotect(run.memory + first * PAGE, PAGE, PROT_READ | PROT_WRITE));
}

static void check_copies(void)
{
	for (uint64_t page = 0; page < PAGES; page++)
		for (unsigned int i = 0; i < run.count; i++)
			if (copies[page][i] != count_in(page, i))
				FAIL("page %lu, vCPU %u: copied %lu, is %lu, after %lu harvests",
				     page, i, copies[page][i], count_in(page, i), run.harvests);
}

static void one_round(void)
{
	uint64_t end = now_ms() + 40;

	start_workers();
	while (now_ms() < end) {
		harvest();
		for (unsigned int i = 0; run.mode == MODE_OWN && i < OWN_HARVESTS; i++)
			harvest();
		switch (rand_r(&run.seed) % 8) {
		case 0:
			toggle_logging();
			break;
		case 1:
			change_slots();
			break;
		case 2:
			disturb_host();
			break;
		}
	}
	stop_workers();
	harvest();
	check_copies();
	run.rounds++;
}

static void open_memory(void)
{
	uint8_t *room = mmap(NULL, BYTES + HUGE_PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(room != MAP_FAILED);
	run.memory = room + (HUGE_PAGE - (uintptr_t)room % HUGE_PAGE) % HUGE_PAGE;
	/* Without huge pages the test is a weaker one. */
	(void)!madvise(run.memory, BYTES, MADV_HUGEPAGE);
	memset(run.memory, 0, BYTES);
	memset(copies, 0, sizeof(copies));
	run.other = memory_alloc(PAGE);
	run.code = memory_alloc(PAGE * 2);
	memcpy(run.code, counter_text, (size_t)(counter_text_end - counter_text));
	CHECK_ZERO(REGION(&run.vm, .slot = CODE_SLOT, .guest_phys_addr = CODE_GPA,
			  .memory_size = PAGE * 2, .userspace_addr = (uintptr_t)run.code));
	CHECK_ZERO(set_flags(0));
}

static void open_worker(unsigned int i)
{
	struct worker *worker = &run.workers[i];
	uint64_t offset = PAGE + i * sizeof(struct counter);

	vcpu_open(&run.vm, &worker->vcpu, i);
	worker->counter = (struct counter *)(void *)(run.code + offset);
	worker->counter_gpa = CODE_GPA + offset;
	*worker->counter =
	    (struct counter){.base = GPA + i * sizeof(uint64_t), .mask = PAGES - 1, .seed = i + 1};
	if (run.mode != MODE_RING)
		return;
	worker->ring = mmap(NULL, RING_ENTRIES * sizeof(struct ring_entry), PROT_READ | PROT_WRITE,
			    MAP_SHARED, worker->vcpu.fd, RING_PAGE * PAGE);
	CHECK(worker->ring != MAP_FAILED);
}

static void lose_nothing(enum mode mode, unsigned int count)
{
	uint64_t end;

	memset(&run, 0, sizeof(run));
	run.mode = mode;
	run.count = count;
	run.seed = count;
	run.pages = mode == MODE_OWN ? OWN_PAGES : PAGES;
	vm_open(&run.vm, KVM_X86_DEFAULT_VM);
	vm_add_agent(&run.vm);
	if (mode == MODE_RING)
		CHECK_ZERO(vm_enable_cap(&run.vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
					 RING_ENTRIES * sizeof(struct ring_entry)));
	else if (mode != MODE_GET)
		CHECK_ZERO(vm_enable_cap(&run.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					 mode == MODE_INITIALLY_SET ? 3 : 1));
	open_memory();
	for (unsigned int i = 0; i < count; i++)
		open_worker(i);
	CHECK_ZERO(set_flags(KVM_MEM_LOG_DIRTY_PAGES));
	end = now_ms() + seconds * 1000 / 3;
	while (now_ms() < end)
		one_round();
	printf("  %u vCPUs: %lu rounds, %lu harvests, %lu pages named, %lu huge pages recovered\n",
	       count, run.rounds, run.harvests, run.named, run.huge_seen);
	CHECK(run.named > 0);
}

static void with_one_two_four(enum mode mode)
{
	lose_nothing(mode, 1);
	lose_nothing(mode, 2);
	lose_nothing(mode, 4);
}

static void get_loses_nothing(void)
{
	with_one_two_four(MODE_GET);
}

static void clear_loses_nothing(void)
{
	with_one_two_four(MODE_MANUAL);
}

static void initially_set_loses_nothing(void)
{
	with_one_two_four(MODE_INITIALLY_SET);
}

static void rings_lose_nothing(void)
{
	with_one_two_four(MODE_RING);
}

static void own_writes_are_not_lost(void)
{
	with_one_two_four(MODE_OWN);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(get_loses_nothing),	       TEST(clear_loses_nothing),
	    TEST(initially_set_loses_nothing), TEST(rings_lose_nothing),
	    TEST(own_writes_are_not_lost),
	};

	/* -s SECONDS for each test, up to the minute that one may take. */
	if (argc > 2 && !strcmp(argv[1], "-s")) {
		seconds = (unsigned int)strtoul(argv[2], NULL, 10);
		argv[2] = argv[0];
		argv += 2;
		argc -= 2;
	}
	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
