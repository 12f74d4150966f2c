/* What KVM itself does with accesses to devices: coalesced writes and ioeventfds. */
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define MMIO 0x20000000ul
#define PORT 0x3f8u
#define CAPACITY \
	((PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

static struct vm vm;
static struct vcpu vcpu;
static struct kvm_coalesced_mmio_ring *ring;

static void open_machine(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_COALESCED_MMIO), 2);
	CHECK_EQ(vm_cap(&vm, KVM_CAP_COALESCED_PIO), 1);
	CHECK_EQ(CAPACITY, 170);
	ring = (void *)((uint8_t *)vcpu.run + 2 * PAGE);
}

static int zone(unsigned long command, uint64_t addr, uint32_t size_bytes, uint32_t pio)
{
	struct kvm_coalesced_mmio_zone request = {.addr = addr, .size = size_bytes, .pio = pio};

	return ioctl(vm.fd, command, &request);
}

static int add_zone(uint64_t addr, uint32_t size_bytes, uint32_t pio)
{
	return zone(KVM_REGISTER_COALESCED_MMIO, addr, size_bytes, pio);
}

static int remove_zone(uint64_t addr, uint32_t size_bytes, uint32_t pio)
{
	return zone(KVM_UNREGISTER_COALESCED_MMIO, addr, size_bytes, pio);
}

static struct outcome store(uint64_t gpa, uint64_t value)
{
	return guest_try_store(&vcpu, gpa, value);
}

static void zones_are_refused(void)
{
	open_machine();
	REFUSED(&vm, ioctl(vm.fd, KVM_REGISTER_COALESCED_MMIO, NULL), EFAULT);
	REFUSED(&vm, ioctl(vm.fd, KVM_UNREGISTER_COALESCED_MMIO, NULL), EFAULT);
	REFUSED(&vm, add_zone(MMIO, 16, 2), EINVAL);
	REFUSED(&vm, add_zone(MMIO, 16, UINT32_MAX), EINVAL);
	REFUSED(&vm, remove_zone(MMIO, 16, 2), EINVAL);
	/* Nothing to remove is no error; nor is an odd zone. */
	CHECK_ZERO(remove_zone(MMIO, 16, 0));
	CHECK_ZERO(add_zone(MMIO, 0, 0));
	CHECK_ZERO(add_zone(UINT64_MAX, 16, 1));
}

static void zones_have_an_end(void)
{
	int added = 0;

	open_machine();
	while (add_zone(MMIO + (uint64_t)added * 16, 16, 0) == 0)
		added++;
	CHECK_EQ(errno, ENOSPC);
	/* One place may be KVM's own. */
	CHECK(added >= 990 && added <= 1000);
	REFUSED(&vm, add_zone(MMIO, 16, 0), ENOSPC);
	CHECK_ZERO(remove_zone(MMIO, 16, 0));
	CHECK_ZERO(add_zone(MMIO, 16, 0));
}

static void check_entry(uint32_t index, uint64_t addr, uint32_t bytes, uint64_t data)
{
	const struct kvm_coalesced_mmio *entry = &ring->coalesced_mmio[index % CAPACITY];
	uint64_t stored = 0;

	CHECK_EQ(entry->phys_addr, addr);
	CHECK_EQ(entry->len, bytes);
	memcpy(&stored, entry->data, bytes);
	CHECK_EQ(stored, data);
}

/* From each place of the ring: one less than its capacity fit, in order; the next one exits. */
static void ring_fills_in_order(void)
{
	open_machine();
	CHECK_ZERO(add_zone(MMIO, PAGE, 0));
	for (uint32_t start = 0; start < CAPACITY; start += start < 3 || start > 165 ? 1 : 27) {
		ring->first = ring->last = start;
		for (uint32_t i = 0; i < CAPACITY - 1; i++) {
			CHECK_END(GUEST(&vcpu, GUEST_STORE4, .rax = i + 1, .rbx = MMIO + 4 * i),
				  END_DONE);
			CHECK_EQ(ring->last, (start + i + 1) % CAPACITY);
		}
		for (uint32_t i = 0; i < CAPACITY - 1; i++)
			check_entry(start + i, MMIO + 4 * i, 4, i + 1);
		CHECK_END(store(MMIO, 7), END_MMIO);
		CHECK_EQ(ring->last, (start + CAPACITY - 1) % CAPACITY);
		/* One taken out, one goes in. */
		ring->first = (start + 1) % CAPACITY;
		CHECK_END(store(MMIO + 8, 9), END_DONE);
		check_entry(start + CAPACITY - 1, MMIO + 8, 8, 9);
	}
}

static void ring_spoilt_by_the_client(void)
{
	static const uint32_t wrong[] = {170, 171, 1u << 31, UINT32_MAX};

	open_machine();
	CHECK_ZERO(add_zone(MMIO, PAGE, 0));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ring->first = 0;
		ring->last = wrong[i];
		CHECK_END(store(MMIO, 1), END_MMIO);
		CHECK_EQ(ring->last, wrong[i]);
	}
	ring->last = 0;
	CHECK_END(store(MMIO, 1), END_DONE);
	CHECK_EQ(ring->last, 1);
}

static void only_writes_inside_a_zone(void)
{
	open_machine();
	CHECK_ZERO(add_zone(MMIO + 0x100, 0x10, 0));
	CHECK_END(store(MMIO + 0x0f8, 1), END_MMIO);
	CHECK_END(store(MMIO + 0x0fc, 1), END_MMIO);
	CHECK_END(store(MMIO + 0x100, 1), END_DONE);
	CHECK_END(store(MMIO + 0x108, 1), END_DONE);
	CHECK_END(store(MMIO + 0x109, 1), END_MMIO);
	CHECK_END(store(MMIO + 0x110, 1), END_MMIO);
	CHECK_END(guest_try_load(&vcpu, MMIO + 0x100), END_MMIO);
	CHECK_EQ(ring->last, 2);
	/* Ports are another bus. */
	CHECK_EQ(GUEST(&vcpu, GUEST_OUT, .rdx = 0x100).exit_reason, KVM_EXIT_IO);
	CHECK_EQ(vcpu.run->io.port, 0x100);
	CHECK_EQ(ring->last, 2);
}

/* Every zone that the range lies in goes, and no other. */
static void removal_by_range(void)
{
	open_machine();
	for (uint64_t i = 0; i < 4; i++)
		CHECK_ZERO(add_zone(MMIO + i * 16, 16, 0));
	/* A range that is more than a zone, or on the other bus. */
	CHECK_ZERO(remove_zone(MMIO, 32, 0));
	CHECK_ZERO(remove_zone(MMIO + 8, 16, 0));
	CHECK_ZERO(remove_zone(0, INT32_MAX, 0));
	CHECK_ZERO(remove_zone(MMIO, 16, 1));
	for (uint64_t i = 0; i < 4; i++)
		CHECK_END(store(MMIO + i * 16, 1), END_DONE);
	CHECK_ZERO(remove_zone(MMIO, 16, 0));
	CHECK_ZERO(remove_zone(MMIO + 20, 4, 0));
	CHECK_END(store(MMIO, 1), END_MMIO);
	CHECK_END(store(MMIO + 16, 1), END_MMIO);
	CHECK_END(store(MMIO + 32, 1), END_DONE);
	CHECK_END(store(MMIO + 48, 1), END_DONE);
	/* Zones over each other go together. */
	CHECK_ZERO(add_zone(MMIO + 32, PAGE, 0));
	CHECK_END(store(MMIO + 64, 1), END_DONE);
	CHECK_ZERO(remove_zone(MMIO + 32, 16, 0));
	CHECK_END(store(MMIO + 32, 1), END_MMIO);
	CHECK_END(store(MMIO + 64, 1), END_MMIO);
	CHECK_END(store(MMIO + 48, 1), END_DONE);
}

static void ports(void)
{
	open_machine();
	CHECK_ZERO(add_zone(PORT, 4, 1));
	CHECK_END(GUEST(&vcpu, GUEST_OUT, .rax = 0x11223344, .rdx = PORT), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_OUT1, .rax = 0x55, .rdx = PORT + 3), END_DONE);
	CHECK_EQ(ring->last, 2);
	check_entry(0, PORT, 4, 0x11223344);
	check_entry(1, PORT + 3, 1, 0x55);
	CHECK_EQ(ring->coalesced_mmio[0].pio, 1);
	CHECK_EQ(GUEST(&vcpu, GUEST_IN, .rdx = PORT).exit_reason, KVM_EXIT_IO);
	CHECK_EQ(vcpu.run->io.direction, KVM_EXIT_IO_IN);
	CHECK_EQ(GUEST(&vcpu, GUEST_OUT, .rdx = PORT + 1).exit_reason, KVM_EXIT_IO);
	CHECK_EQ(vcpu.run->io.port, PORT + 1);
	CHECK_ZERO(remove_zone(PORT, 4, 1));
	CHECK_EQ(GUEST(&vcpu, GUEST_OUT, .rdx = PORT).exit_reason, KVM_EXIT_IO);
	CHECK_EQ(vcpu.run->io.port, PORT);
}

struct event {
	uint64_t addr, datamatch;
	uint32_t bytes, flags;
	int fd;
};

static int send(const struct event *event)
{
	struct kvm_ioeventfd request = {
	    .addr = event->addr,
	    .datamatch = event->datamatch,
	    .len = event->bytes,
	    .flags = event->flags,
	    .fd = event->fd,
	};

	return ioctl(vm.fd, KVM_IOEVENTFD, &request);
}

#define EVENT(...) send(&(struct event){__VA_ARGS__})
#define MATCH KVM_IOEVENTFD_FLAG_DATAMATCH
#define REMOVE KVM_IOEVENTFD_FLAG_DEASSIGN
#define PIO KVM_IOEVENTFD_FLAG_PIO

static int open_event(void)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	CHECK(fd >= 0);
	return fd;
}

/* How often it was signalled since the last time. */
static uint64_t taken(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void events_are_refused(void)
{
	static const uint32_t lengths[] = {3, 5, 6, 7, 9, 16, UINT32_MAX};
	int fd;

	open_machine();
	fd = open_event();
	REFUSED(&vm, ioctl(vm.fd, KVM_IOEVENTFD, NULL), EFAULT);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		REFUSED(&vm, EVENT(.addr = MMIO, .bytes = lengths[i], .fd = fd), EINVAL);
	REFUSED(&vm, EVENT(.addr = UINT64_MAX - 2, .bytes = 4, .fd = fd), EINVAL);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = 1u << 31), EINVAL);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 0, .fd = fd, .flags = MATCH), EINVAL);
	/* The rest is looked at before the descriptor. */
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 3, .fd = -1), EINVAL);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = -1), EBADF);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = vm.fd), EINVAL);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = REMOVE), ENOENT);
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 4, .fd = fd));
}

static void events_in_conflict(void)
{
	int fd, other;

	open_machine();
	fd = open_event();
	other = open_event();
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = MATCH, .datamatch = 1));
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = other, .flags = MATCH, .datamatch = 1),
		EEXIST);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = other), EEXIST);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 0, .fd = other), EEXIST);
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 4, .fd = other, .flags = MATCH, .datamatch = 2));
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 8, .fd = other));
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 4, .fd = other, .flags = PIO));
	CHECK_ZERO(EVENT(.addr = MMIO + 4, .bytes = 0, .fd = other));
	REFUSED(&vm, EVENT(.addr = MMIO + 4, .bytes = 2, .fd = fd), EEXIST);
	/* Only what was assigned can go: same descriptor, address, length and value. */
	REFUSED(
	    &vm,
	    EVENT(.addr = MMIO, .bytes = 4, .fd = other, .flags = MATCH | REMOVE, .datamatch = 1),
	    ENOENT);
	REFUSED(&vm,
		EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = MATCH | REMOVE, .datamatch = 2),
		ENOENT);
	REFUSED(&vm, EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = REMOVE), ENOENT);
	CHECK_ZERO(
	    EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = MATCH | REMOVE, .datamatch = 1));
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 4, .fd = fd, .flags = MATCH, .datamatch = 1));
}

static void events_match(void)
{
	int any, four, one;

	open_machine();
	any = open_event();
	four = open_event();
	one = open_event();
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 0, .fd = any));
	CHECK_ZERO(EVENT(.addr = MMIO + 64, .bytes = 4, .fd = four));
	CHECK_ZERO(EVENT(.addr = MMIO + 128, .bytes = 8, .fd = one, .flags = MATCH,
			 .datamatch = 0x1122334455667788));
	CHECK_END(store(MMIO, 1), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_STORE1, .rbx = MMIO), END_DONE);
	CHECK_EQ(taken(any), 2);
	CHECK_END(store(MMIO + 1, 1), END_MMIO);
	CHECK_END(GUEST(&vcpu, GUEST_STORE4, .rbx = MMIO + 64), END_DONE);
	CHECK_EQ(taken(four), 1);
	CHECK_END(store(MMIO + 64, 1), END_MMIO);
	CHECK_END(GUEST(&vcpu, GUEST_STORE2, .rbx = MMIO + 64), END_MMIO);
	CHECK_END(GUEST(&vcpu, GUEST_STORE4, .rbx = MMIO + 60), END_MMIO);
	CHECK_END(guest_try_load(&vcpu, MMIO + 64), END_MMIO);
	CHECK_EQ(taken(four), 0);
	CHECK_END(store(MMIO + 128, 0x1122334455667788), END_DONE);
	CHECK_EQ(taken(one), 1);
	CHECK_END(store(MMIO + 128, 0x1122334455667789), END_MMIO);
	CHECK_END(store(MMIO + 128, 0x0122334455667788), END_MMIO);
	CHECK_EQ(taken(one), 0);
}

/* Values are compared by the bytes that were written, at any alignment. */
static void events_match_unaligned(void)
{
	int fd;

	open_machine();
	fd = open_event();
	CHECK_ZERO(EVENT(.addr = MMIO + 3, .bytes = 8, .fd = fd, .flags = MATCH,
			 .datamatch = 0x1122334455667788));
	CHECK_ZERO(
	    EVENT(.addr = PORT, .bytes = 1, .fd = fd, .flags = MATCH | PIO, .datamatch = 0x7f));
	CHECK_END(store(MMIO + 3, 0x1122334455667788), END_DONE);
	CHECK_EQ(taken(fd), 1);
	CHECK_END(GUEST(&vcpu, GUEST_OUT1, .rax = 0x7f, .rdx = PORT), END_DONE);
	CHECK_EQ(taken(fd), 1);
	CHECK_EQ(GUEST(&vcpu, GUEST_OUT1, .rax = 0x7e, .rdx = PORT).exit_reason, KVM_EXIT_IO);
	CHECK_EQ(GUEST(&vcpu, GUEST_OUT, .rax = 0x7f, .rdx = PORT).exit_reason, KVM_EXIT_IO);
	CHECK_EQ(taken(fd), 0);
}

/* Memory comes before devices, devices before the client. */
static void order_of_dispatch(void)
{
	uint8_t *memory;
	int fd;

	open_machine();
	fd = open_event();
	memory = memory_alloc(2 * PAGE);
	CHECK_ZERO(add_zone(MMIO, PAGE, 0));
	CHECK_ZERO(EVENT(.addr = MMIO + PAGE, .bytes = 8, .fd = fd));
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = MMIO, .memory_size = 2 * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	CHECK_END(store(MMIO + 8, 77), END_DONE);
	CHECK_END(store(MMIO + PAGE, 78), END_DONE);
	CHECK_EQ(*word_at(memory, 8), 77);
	CHECK_EQ(*word_at(memory, PAGE), 78);
	CHECK_EQ(taken(fd), 0);
	CHECK_EQ(ring->last, 0);
	CHECK_ZERO(REGION(&vm, .slot = 5));
	CHECK_END(store(MMIO + 8, 79), END_DONE);
	CHECK_EQ(ring->last, 1);
	CHECK_END(store(MMIO + PAGE, 80), END_DONE);
	CHECK_EQ(taken(fd), 1);
	CHECK_EQ(*word_at(memory, 8), 77);
	CHECK_ZERO(remove_zone(MMIO, PAGE, 0));
	CHECK_END(store(MMIO + 8, 81), END_MMIO);
	CHECK_END(store(MMIO + PAGE + 8, 82), END_MMIO);
}

/* A read-only slot's writes go where MMIO goes. */
static void events_under_a_read_only_slot(void)
{
	uint8_t *memory;
	int fd;

	open_machine();
	fd = open_event();
	memory = memory_alloc(PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 5, .flags = KVM_MEM_READONLY, .guest_phys_addr = MMIO,
			  .memory_size = PAGE, .userspace_addr = (uintptr_t)memory));
	CHECK_ZERO(EVENT(.addr = MMIO + 8, .bytes = 8, .fd = fd));
	CHECK_END(store(MMIO + 8, 77), END_DONE);
	CHECK_EQ(taken(fd), 1);
	CHECK_EQ(*word_at(memory, 8), 0);
}

/* A count at its top would make a write(2) to a blocking eventfd wait. KVM's signal never does. */
static void a_full_event(void)
{
	const uint64_t most = UINT64_MAX - 1;
	int fd = eventfd(0, 0), other;

	open_machine();
	other = open_event();
	CHECK_ZERO(EVENT(.addr = MMIO, .bytes = 4, .fd = fd));
	CHECK_ZERO(EVENT(.addr = MMIO + 64, .bytes = 4, .fd = other));
	CHECK_EQ(write(fd, &most, sizeof(most)), sizeof(most));
	alarm(50);
	CHECK_END(GUEST(&vcpu, GUEST_STORE4, .rbx = MMIO), END_DONE);
	CHECK_END(GUEST(&vcpu, GUEST_STORE4, .rbx = MMIO + 64), END_DONE);
	CHECK_EQ(taken(other), 1);
	CHECK(taken(fd) >= most);
	CHECK_END(GUEST(&vcpu, GUEST_STORE4, .rbx = MMIO), END_DONE);
	CHECK_EQ(taken(fd), 1);
	alarm(0);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(zones_are_refused),
	    TEST(zones_have_an_end),
	    TEST(ring_fills_in_order),
	    TEST(ring_spoilt_by_the_client),
	    TEST(only_writes_inside_a_zone),
	    TEST(removal_by_range),
	    TEST(ports),
	    TEST(events_are_refused),
	    TEST(events_in_conflict),
	    TEST(events_match),
	    TEST(events_match_unaligned),
	    TEST(order_of_dispatch),
	    TEST(events_under_a_read_only_slot),
	    TEST(a_full_event),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
