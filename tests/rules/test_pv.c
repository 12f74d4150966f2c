/* Pages that the guest hands to the hypervisor: the clock and steal time, and which logs hear of
 * writes.
 */
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client.h"

#define GPA 0x10000000ul
#define PAGES 8ul
#define BYTES (PAGES * PAGE)
#define SLOT 5
#define RING_BYTES 16384ul
#define RING_PAGE 64
/* Pages of the slot: the clock's, steal time's, and one to run on. */
#define CLOCK 1u
#define STEAL 2u
#define OTHER 5u

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory;

static int set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {{.nmsrs = 1}, {.index = index, .data = value}};

	return ioctl(vcpu.fd, KVM_SET_MSRS, &one);
}

static void set_slot(uint64_t gpa, uint64_t bytes)
{
	CHECK_ZERO(REGION(&vm, .slot = SLOT, .flags = bytes ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			  .guest_phys_addr = gpa, .memory_size = bytes,
			  .userspace_addr = (uintptr_t)memory));
}

static void open_machine(uint64_t ring_bytes)
{
	vm_open(&vm, KVM_X86_DEFAULT_VM);
	if (ring_bytes)
		CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_DIRTY_LOG_RING, ring_bytes));
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	memory = memory_alloc(BYTES);
	set_slot(GPA, BYTES);
}

static uint64_t get_log(void)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = SLOT, .dirty_bitmap = &bits};

	CHECK_ZERO(ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log));
	return bits;
}

static uint32_t steal_version(void)
{
	return ((volatile struct kvm_steal_time *)(memory + STEAL * PAGE))->version;
}

/* One that is not offered (a kernel without accounting) is no failure. */
static void turn_steal_on(uint64_t gpa)
{
	if (set_msr(MSR_KVM_STEAL_TIME, gpa | KVM_MSR_ENABLED) != 1)
		check_skip("no steal time");
}

static void run(void)
{
	guest_load(&vcpu, AGENT_GPA);
}

static void writes_are_in_the_bitmap(void)
{
	open_machine(0);
	CHECK_EQ(get_log(), 0);
	CHECK_EQ(set_msr(MSR_KVM_SYSTEM_TIME_NEW, (GPA + CLOCK * PAGE) | 1), 1);
	run();
	CHECK_EQ(get_log(), 1u << CLOCK);
	run();
	CHECK_EQ(get_log(), 0);
	CHECK_ZERO(ioctl(vcpu.fd, KVM_KVMCLOCK_CTRL, 0));
	run();
	CHECK_EQ(get_log(), 1u << CLOCK);
	CHECK_EQ(memory[CLOCK * PAGE + 29] & 2, 2);
	turn_steal_on(GPA + STEAL * PAGE);
	for (uint32_t round = 0; round < 3; round++) {
		uint32_t before = steal_version();

		run();
		CHECK_EQ(get_log(), 1u << STEAL);
		CHECK(steal_version() > before);
		CHECK_EQ(steal_version() & 1, 0);
	}
	CHECK_EQ(set_msr(MSR_KVM_STEAL_TIME, 0), 1);
	run();
	CHECK_EQ(get_log(), 0);
}

static void writes_are_in_the_ring(void)
{
	struct kvm_dirty_gfn *ring;
	uint32_t seen = 0;

	open_machine(RING_BYTES);
	ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd,
		    RING_PAGE * (off_t)PAGE);
	CHECK(ring != MAP_FAILED);
	CHECK_EQ(set_msr(MSR_KVM_SYSTEM_TIME_NEW, (GPA + CLOCK * PAGE) | 1), 1);
	turn_steal_on(GPA + STEAL * PAGE);
	run();
	for (uint32_t i = 0; i < RING_BYTES / sizeof(*ring) && ring[i].flags; i++) {
		CHECK_EQ(ring[i].flags, KVM_DIRTY_GFN_F_DIRTY);
		CHECK_EQ(ring[i].slot, SLOT);
		seen |= 1u << ring[i].offset;
	}
	CHECK_EQ(seen, 1u << CLOCK | 1u << STEAL);
}

static long set_many(const uint32_t index, uint64_t gpa, uint64_t step, uint32_t count)
{
	long done = 0;

	for (uint32_t i = 0; i < count; i++)
		done += set_msr(index, gpa + i * step) == 1;
	return done;
}

/* Its own writes never fill a ring that the guest has not filled: KVM_RUN that does not enter the
 * guest, and calls between two of it, any number of times. */
static void writes_leave_room_in_the_ring(void)
{
	struct kvm_dirty_gfn *ring;
	uint32_t entries = PAGE / sizeof(*ring), used = 0;

	open_machine(PAGE);
	ring =
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, RING_PAGE * (off_t)PAGE);
	CHECK(ring != MAP_FAILED);
	turn_steal_on(GPA + STEAL * PAGE);
	vcpu.run->immediate_exit = 1;
	for (uint32_t i = 0; i < 4 * entries; i++)
		CHECK_ERR(ioctl(vcpu.fd, KVM_RUN, 0), EINTR);
	vcpu.run->immediate_exit = 0;
	/* One page that is written again and again is one entry. */
	CHECK_EQ(set_many(MSR_KVM_WALL_CLOCK_NEW, GPA + OTHER * PAGE, 0, 4 * entries), 4 * entries);
	while (used < entries && ring[used].flags)
		used++;
	CHECK(used <= 3);
	run();
	/* Two by turns are more than there is room for: no write goes unlogged, and none kills. */
	for (uint32_t i = 0; i < 2 * entries; i++)
		set_many(MSR_KVM_WALL_CLOCK_NEW, GPA + OTHER * PAGE, PAGE, 2);
	CHECK_EQ(vcpu_run(&vcpu).exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	for (used = 0; used < entries && ring[used].flags; used++)
		ring[used].flags = KVM_DIRTY_GFN_F_RESET;
	CHECK(used >= entries - 64 && used < entries);
	CHECK_EQ(ioctl(vm.fd, KVM_RESET_DIRTY_RINGS, 0), used);
	run();
	CHECK_EQ(set_msr(MSR_KVM_WALL_CLOCK_NEW, GPA + OTHER * PAGE), 1);
}

/* Wherever the memory goes, the next write is there, and what was before is left alone. */
static void follow_the_memory(void)
{
	uint8_t *old;
	uint32_t version;

	open_machine(0);
	turn_steal_on(GPA + STEAL * PAGE);
	run();
	/* The client puts other pages there. */
	old = mremap(memory + STEAL * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
	CHECK(old != MAP_FAILED);
	CHECK_EQ(steal_version(), 0);
	version = ((struct kvm_steal_time *)old)->version;
	CHECK(version > 0);
	run();
	CHECK(steal_version() > 0);
	CHECK_EQ(((struct kvm_steal_time *)old)->version, version);
	/* The slot goes, comes back elsewhere, and comes back. */
	version = steal_version();
	set_slot(GPA, 0);
	run();
	CHECK_EQ(steal_version(), version);
	set_slot(GPA + BYTES, BYTES);
	run();
	CHECK_EQ(steal_version(), version);
	set_slot(GPA + BYTES, 0);
	set_slot(GPA, BYTES);
	run();
	CHECK(steal_version() > version);
	CHECK_EQ(get_log() >> STEAL & 1, 1);
}

static void refused_values(void)
{
	open_machine(0);
	turn_steal_on(GPA + STEAL * PAGE);
	for (uint32_t bit = 1; bit < 6; bit++)
		CHECK_EQ(set_msr(MSR_KVM_STEAL_TIME, (GPA | KVM_MSR_ENABLED) + (1u << bit)), 0);
	/* Across the end of a page a clock is never written. */
	memset(memory, 0x5a, BYTES);
	CHECK_EQ(set_msr(MSR_KVM_SYSTEM_TIME_NEW, (GPA + PAGE - 16) | 1), 1);
	run();
	for (uint32_t i = 0; i < 32; i++)
		CHECK_EQ(memory[PAGE - 16 + i], 0x5a);
}

/* A hypercall by the instruction of the other vendor's processors, then the end. */
static struct outcome wrong_hypercall(uint8_t *right)
{
	struct kvm_cpuid2 *cpuid = supported_cpuid(&vm);
	int is_amd = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (!cpuid->entries[i].function)
			is_amd = cpuid->entries[i].ecx == 0x444d4163; /* cAMD */
	free(cpuid);
	*right = is_amd ? 0xd9 : 0xc1;
	memcpy(memory + OTHER * PAGE, "\x0f\x01\x00\xe6\x80", 5);
	memory[OTHER * PAGE + 2] = is_amd ? 0xc1 : 0xd9;
	return GUEST(&vcpu, GUEST_CALL, .rax = KVM_HC_SCHED_YIELD, .rbx = GPA + OTHER * PAGE);
}

static void wrong_hypercalls_are_mended(void)
{
	struct outcome outcome;
	uint8_t right;

	open_machine(0);
	outcome = wrong_hypercall(&right);
	CHECK_END(outcome, END_DONE);
	CHECK_EQ(outcome.value, 0);
	CHECK_EQ(memory[OTHER * PAGE + 2], right);
	CHECK_EQ(get_log() >> OTHER & 1, 1);
}

static void wrong_hypercalls_are_undefined(void)
{
	struct kvm_sregs sregs;
	struct outcome outcome;
	uint8_t right;

	open_machine(0);
	CHECK_ZERO(vm_enable_cap(&vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	sregs.idt.limit = 0;
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	outcome = wrong_hypercall(&right);
	CHECK_EQ(outcome.exit_reason, KVM_EXIT_SHUTDOWN);
	CHECK(memory[OTHER * PAGE + 2] != right);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(writes_are_in_the_bitmap),
	    TEST(writes_are_in_the_ring),
	    TEST(writes_leave_room_in_the_ring),
	    TEST(follow_the_memory),
	    TEST(refused_values),
	    TEST(wrong_hypercalls_are_mended),
	    TEST(wrong_hypercalls_are_undefined),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
