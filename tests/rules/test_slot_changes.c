/* What creating, moving and deleting memslots does to the guest that uses them. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 16ul
#define BYTES (PAGES * PAGE)
#define SLOT 5

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

static void open_machine(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memory = memory_alloc(HUGE_PAGE);
}

static void add(uint64_t gpa, uint8_t *host)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .guest_phys_addr = gpa, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)host));
}

static void delete (void)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT));
}

static void disable_zap_all(void)
{
	if (!(vm_cap(&vm, KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_SLOT_ZAP_ALL))
		check_skip("no quirk SLOT_ZAP_ALL");
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL));
}

static void aliases_show_the_same_memory(void)
{
	open_machine();
	add(GPA, memory);
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)memory + PAGE));
	guest_store(&vcpu, GPA + PAGE + 8, 0x1234);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + 8), 0x1234);
	guest_store(&vcpu, 2 * GPA + 8, 0x5678);
	CHECK_EQ(guest_load(&vcpu, GPA + PAGE + 8), 0x5678);
	CHECK_EQ(*word_at(memory, PAGE + 8), 0x5678);
	/* Each goes without the other. */
	delete ();
	CHECK_EQ(guest_load(&vcpu, 2 * GPA + 8), 0x5678);
	CHECK_END(guest_try_load(&vcpu, GPA + PAGE), END_MMIO);
}

/* A new slot covers what was MMIO a moment ago, cached or not. */
static void create_over_mmio(void)
{
	open_machine();
	for (int round = 0; round < 3; round++) {
		CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
		CHECK_END(guest_try_store(&vcpu, GPA, 1), END_MMIO);
		*word_at(memory, 0) = 40 + (uint64_t)round;
		add(GPA, memory);
		CHECK_EQ(guest_load(&vcpu, GPA), 40 + (uint64_t)round);
		delete ();
	}
}

/* The generation does not move when nothing changes: what the guest knows of MMIO stays good. */
static void same_request_again_changes_nothing(void)
{
	uint64_t created;

	open_machine();
	add(GPA, memory);
	CHECK_END(guest_try_load(&vcpu, 2 * GPA), END_MMIO);
	created = stat_get(vcpu.fd, "pf_mmio_spte_created");
	if (!created)
		check_skip("no MMIO entries");
	add(GPA, memory);
	CHECK_END(guest_try_load(&vcpu, 2 * GPA), END_MMIO);
	CHECK_EQ(stat_get(vcpu.fd, "pf_mmio_spte_created"), created);
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 3 * GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(guest_try_load(&vcpu, 2 * GPA), END_MMIO);
	CHECK_EQ(stat_get(vcpu.fd, "pf_mmio_spte_created"), created + 1);
}

#define ROUND (1ul << 18) /* generations that MMIO entries tell apart */
#define NEAR 4ul
#define HOLES 64ul

/*
 * What the guest knows of a hole is old when memory comes there, and stays so when the numbers of
 * generations come round. A slot's creation and deletion take two of them, or a few more.
 */
static void generations_come_round(void)
{
	static const uint64_t taken[] = {2, 3, 4, 6, 8};
	uint8_t *late = memory_alloc(HOLES * PAGE);
	uint64_t hole = 0;

	open_machine();
	disable_zap_all();
	for (uint64_t page = 0; page < HOLES; page++) {
		CHECK_END(guest_try_load(&vcpu, 4 * GPA + page * PAGE), END_MMIO);
		*word_at(late, page * PAGE) = page + 1;
	}
	CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = 4 * GPA, .memory_size = HOLES * PAGE,
			  .userspace_addr = (uintptr_t)late));
	for (uint64_t pair = 1; pair < ROUND / 2 + NEAR; pair++) {
		add(GPA, memory);
		delete ();
		for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
			if (pair + NEAR < ROUND / taken[i] || pair >= ROUND / taken[i] + NEAR)
				continue;
			CHECK_EQ(guest_load(&vcpu, 4 * GPA + hole * PAGE), hole + 1);
			hole++;
		}
	}
	CHECK_EQ(hole, 2 * NEAR * sizeof(taken) / sizeof(taken[0]));
}

static void check_delete_under_a_reader(void)
{
	struct guest_thread thread;
	struct outcome outcome;

	add(GPA, memory);
	*word_at(memory, 64) = 7;
	thread_start(&thread, &vcpu,
		     &(struct guest_op){.code = GUEST_WAIT_WHILE, .rax = 7, .rbx = GPA + 64});
	CHECK(!thread_ended_within(&thread, 20));
	delete ();
	outcome = thread_join(&thread);
	CHECK_END(outcome, END_MMIO);
	CHECK_EQ(outcome.mmio.gpa, GPA + 64);
	CHECK_EQ(outcome.mmio.bytes, 8);
	CHECK_EQ(outcome.mmio.is_write, 0);
	/* The answer is the word it waits by; then it finds the new memory, which is empty. */
	memcpy(vcpu.run->mmio.data, &(uint64_t){7}, 8);
	add(GPA, memory_alloc(BYTES));
	outcome = vcpu_run(&vcpu);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0);
	delete ();
}

static void delete_under_a_reader(void)
{
	open_machine();
	check_delete_under_a_reader();
}

static void delete_under_a_reader_without_the_quirk(void)
{
	open_machine();
	disable_zap_all();
	check_delete_under_a_reader();
}

static void check_move(void)
{
	add(GPA + PAGE, memory);
	for (uint64_t page = 0; page < PAGES; page++)
		guest_store(&vcpu, GPA + (1 + page) * PAGE, page + 1);
	/* Down by one page, over its own old place. */
	add(GPA, memory);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(guest_load(&vcpu, GPA + page * PAGE), page + 1);
	CHECK_END(guest_try_load(&vcpu, GPA + BYTES), END_MMIO);
	add(2 * GPA, memory);
	CHECK_END(guest_try_load(&vcpu, GPA), END_MMIO);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 1);
	delete ();
}

static void move_over_itself(void)
{
	open_machine();
	check_move();
}

static void move_over_itself_without_the_quirk(void)
{
	open_machine();
	disable_zap_all();
	check_move();
}

static void check_delete_of_code(void)
{
	struct guest_thread thread;
	struct outcome outcome;

	add(GPA, memory);
	thread_start(&thread, &vcpu, &(struct guest_op){.code = GUEST_WAIT_WHILE, .rbx = GPA});
	CHECK(!thread_ended_within(&thread, 20));
	CHECK_ZERO(REGION(&vm, .slot = AGENT_SLOT));
	outcome = thread_join(&thread);
	CHECK_EQ(outcome.error, 0);
	CHECK(outcome.exit_reason == KVM_EXIT_SHUTDOWN ||
	      outcome.exit_reason == KVM_EXIT_INTERNAL_ERROR);
}

static void delete_code_and_tables(void)
{
	open_machine();
	check_delete_of_code();
}

static void delete_code_and_tables_without_the_quirk(void)
{
	open_machine();
	disable_zap_all();
	check_delete_of_code();
}

static uint64_t small_pages(void)
{
	return stat_get(vm.fd, "pages_4k");
}

/* With the quirk every mapping of the VM goes, without it those of the slot. */
static void extent_of_a_deletion(void)
{
	uint64_t both;

	open_machine();
	add(GPA, memory);
	CHECK_ZERO(REGION(&vm, .slot = 6, .guest_phys_addr = 2 * GPA, .memory_size = BYTES,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = PAGES, .rdx = PAGE), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = 2 * GPA, .rcx = PAGES, .rdx = PAGE),
		  END_DONE);
	CHECK(small_pages() >= 2 * PAGES);
	delete ();
	CHECK_EQ(small_pages(), 0);
	CHECK_EQ(guest_load(&vcpu, 2 * GPA), 0);

	disable_zap_all();
	add(GPA, memory);
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = PAGES, .rdx = PAGE), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = 2 * GPA, .rcx = PAGES, .rdx = PAGE),
		  END_DONE);
	both = small_pages();
	CHECK(both >= 2 * PAGES);
	delete ();
	CHECK_EQ(small_pages(), both - PAGES);
}

static void mmio_cannot_hold_the_interrupt_table(void)
{
	struct kvm_sregs sregs;
	struct outcome outcome;
	int seen = 0;

	open_machine();
	CHECK_OK(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.idt.base = 2 * GPA;
	sregs.idt.limit = 0xfff;
	CHECK_OK(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	outcome = GUEST(&vcpu, GUEST_BREAKPOINT);
	CHECK_EQ(outcome.error, 0);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_INTERNAL_ERROR);
	CHECK_EQ(vcpu.run->internal.suberror, KVM_INTERNAL_ERROR_DELIVERY_EV);
	for (uint32_t i = 0; i < vcpu.run->internal.ndata; i++)
		seen |= (vcpu.run->internal.data[i] & ~0xffful) == 2 * GPA;
	CHECK(seen);
}

/* Others' slots come and go while a guest writes its own memory: it notices nothing. */
static void churn_beside_a_writer(void)
{
	struct guest_thread thread;
	struct outcome outcome;
	uint64_t last = 0;

	open_machine();
	add(GPA, memory);
	thread_start(&thread, &vcpu,
		     &(struct guest_op){.code = GUEST_COUNT, .rbx = GPA, .rcx = GPA + PAGE});
	for (int round = 0; round < 200; round++) {
		uint64_t now;

		CHECK_ZERO(REGION(&vm, .slot = 7, .guest_phys_addr = 2 * GPA, .memory_size = BYTES,
				  .userspace_addr = (uintptr_t)memory));
		CHECK_ZERO(REGION(&vm, .slot = 7));
		now = __atomic_load_n(word_at(memory, 0), __ATOMIC_RELAXED);
		CHECK(now >= last);
		last = now;
	}
	CHECK(!thread.is_done);
	__atomic_store_n(word_at(memory, PAGE), 1, __ATOMIC_RELAXED);
	outcome = thread_join(&thread);
	CHECK_END(outcome, END_DONE);
	CHECK(*word_at(memory, 0) > 0);
	CHECK_EQ(guest_load(&vcpu, GPA), *word_at(memory, 0));
}

/* Once a deletion returned, not one more store reaches the memory. */
static void no_store_after_deletion(void)
{
	open_machine();
	for (int round = 0; round < 50; round++) {
		struct guest_thread thread;
		struct outcome outcome;
		uint64_t after;

		memset(memory, 0, 2 * PAGE);
		add(GPA, memory);
		thread_start(
		    &thread, &vcpu,
		    &(struct guest_op){.code = GUEST_COUNT, .rbx = GPA, .rcx = GPA + PAGE});
		while (!__atomic_load_n(word_at(memory, 0), __ATOMIC_RELAXED) &&
		       !thread_ended_within(&thread, 1))
			;
		delete ();
		after = __atomic_load_n(word_at(memory, 0), __ATOMIC_RELAXED);
		usleep(500);
		CHECK_EQ(__atomic_load_n(word_at(memory, 0), __ATOMIC_RELAXED), after);
		outcome = thread_join(&thread);
		CHECK_END(outcome, END_MMIO);
	}
}

/* While a slot moves up and down, the guest sees its own words or nothing, never another's. */
static void move_under_a_reader(void)
{
	struct guest_thread thread;
	struct outcome outcome;

	open_machine();
	for (uint64_t page = 0; page < PAGES; page++)
		*word_at(memory, page * PAGE) = 7;
	add(GPA, memory);
	thread_start(&thread, &vcpu,
		     &(struct guest_op){.code = GUEST_WAIT_WHILE, .rax = 7, .rbx = GPA + 4 * PAGE});
	for (int round = 0; round < 200; round++) {
		add(GPA + (round & 1 ? 0 : PAGE), memory);
		while (__atomic_load_n(&thread.is_done, __ATOMIC_ACQUIRE)) {
			/* An exit for MMIO in the window is allowed; its answer is ours. */
			outcome = thread_join(&thread);
			CHECK_END(outcome, END_MMIO);
			thread_start(&thread, &vcpu,
				     &(struct guest_op){.code = GUEST_WAIT_WHILE,
							.rax = 7,
							.rbx = GPA + 4 * PAGE});
		}
	}
	for (uint64_t page = 0; page < PAGES; page++)
		__atomic_store_n(word_at(memory, page * PAGE), 9, __ATOMIC_RELAXED);
	outcome = thread_join(&thread);
	if (outcome.end != END_MMIO) {
		CHECK_END(outcome, END_DONE);
		CHECK_EQ(outcome.value, 9);
	}
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(aliases_show_the_same_memory),
	    TEST(create_over_mmio),
	    TEST(same_request_again_changes_nothing),
	    TEST(generations_come_round),
	    TEST(delete_under_a_reader),
	    TEST(delete_under_a_reader_without_the_quirk),
	    TEST(move_over_itself),
	    TEST(move_over_itself_without_the_quirk),
	    TEST(delete_code_and_tables),
	    TEST(delete_code_and_tables_without_the_quirk),
	    TEST(extent_of_a_deletion),
	    TEST(mmio_cannot_hold_the_interrupt_table),
	    TEST(churn_beside_a_writer),
	    TEST(no_store_after_deletion),
	    TEST(move_under_a_reader),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
