/* The statistics files: their format, what may be done with them, and what the numbers mean. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define NAME_BYTES 48

static struct vm vm;
static struct vcpu vcpu;
static struct kvm_stats_header header;

/* struct kvm_stats_desc, and the name that follows it. */
struct descriptor {
	uint32_t flags;
	int16_t exponent;
	uint16_t size;
	uint32_t offset;
	uint32_t bucket_size;
	char name[NAME_BYTES];
};
_Static_assert(sizeof(struct descriptor) == 64, "as KVM lays it out");

static int open_stats(int fd)
{
	int file = (int)CHECK_OK(ioctl(fd, KVM_GET_STATS_FD, NULL));

	CHECK_EQ(pread(file, &header, sizeof(header), 0), sizeof(header));
	return file;
}

static struct descriptor *read_descriptors(int file)
{
	size_t bytes = header.num_desc * sizeof(struct descriptor);
	struct descriptor *descriptors = malloc(bytes);

	CHECK(descriptors);
	CHECK_EQ(pread(file, descriptors, bytes, header.desc_offset), bytes);
	return descriptors;
}

static void check_header(int file)
{
	CHECK_EQ(header.flags, 0);
	CHECK_EQ(header.name_size, NAME_BYTES);
	CHECK_EQ(header.id_offset, 24);
	CHECK_EQ(header.desc_offset, 72);
	CHECK_EQ(header.data_offset, 72 + header.num_desc * 64);
	CHECK(header.num_desc > 10);
	CHECK(fcntl(file, F_GETFD) & FD_CLOEXEC);
	CHECK_EQ(fcntl(file, F_GETFL) & O_ACCMODE, O_RDONLY);
}

static void check_id(int file, const char *wanted)
{
	char id[NAME_BYTES + 1] = {0};

	CHECK_EQ(pread(file, id, NAME_BYTES, header.id_offset), NAME_BYTES);
	if (strcmp(id, wanted))
		FAIL("id is '%s', not '%s'", id, wanted);
}

static void check_descriptor(const struct descriptor *descriptor)
{
	uint32_t type = descriptor->flags & KVM_STATS_TYPE_MASK;
	uint32_t unit = descriptor->flags & KVM_STATS_UNIT_MASK;
	uint32_t base = descriptor->flags & KVM_STATS_BASE_MASK;

	CHECK_EQ(descriptor->flags & ~0xfffu, 0);
	CHECK(type <= KVM_STATS_TYPE_MAX);
	CHECK(unit <= (4u << KVM_STATS_UNIT_SHIFT));
	CHECK(base <= KVM_STATS_BASE_MAX);
	CHECK(descriptor->size >= 1);
	CHECK(strnlen(descriptor->name, NAME_BYTES) < NAME_BYTES);
	CHECK(descriptor->name[0]);
	if (unit == KVM_STATS_UNIT_SECONDS)
		CHECK(descriptor->exponent <= 0);
	else
		CHECK(descriptor->exponent >= 0);
	if (type == KVM_STATS_TYPE_LINEAR_HIST)
		CHECK(descriptor->bucket_size > 0);
	else
		CHECK_EQ(descriptor->bucket_size, 0);
	if (type == KVM_STATS_TYPE_CUMULATIVE || type == KVM_STATS_TYPE_INSTANT ||
	    type == KVM_STATS_TYPE_PEAK)
		CHECK_EQ(descriptor->size, 1);
}

static void check_file(int file)
{
	struct descriptor *descriptors = read_descriptors(file);
	uint64_t values = 0, data[1024];
	uint8_t *used;

	for (uint32_t i = 0; i < header.num_desc; i++)
		values += descriptors[i].size;
	CHECK(values < 1024);
	CHECK_EQ(pread(file, data, sizeof(data), header.data_offset), values * 8);
	used = calloc(values, 1);
	CHECK(used);
	for (uint32_t i = 0; i < header.num_desc; i++) {
		const struct descriptor *desc = &descriptors[i];

		check_descriptor(&descriptors[i]);
		CHECK_EQ(desc->offset % 8, 0);
		for (uint32_t value = 0; value < desc->size; value++) {
			CHECK(desc->offset / 8 + value < values);
			CHECK(!used[desc->offset / 8 + value]++);
		}
		CHECK_EQ(pread(file, data, desc->size * 8ul, header.data_offset + desc->offset),
			 desc->size * 8ul);
	}
	/* At the end there is nothing, past it neither. */
	CHECK_EQ(pread(file, data, 8, (off_t)(header.data_offset + values * 8)), 0);
}

static void format_of_a_vm(void)
{
	char id[NAME_BYTES];
	int file;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	file = open_stats(vm.fd);
	snprintf(id, sizeof(id), "kvm-%d", (int)getpid());
	check_header(file);
	check_id(file, id);
	check_file(file);
}

static void format_of_a_vcpu(void)
{
	char id[NAME_BYTES];
	int file;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	file = open_stats(vcpu.fd);
	snprintf(id, sizeof(id), "kvm-%d/vcpu-0", (int)getpid());
	check_header(file);
	check_id(file, id);
	check_file(file);
	vcpu_open(&vm, &vcpu, 7);
	snprintf(id, sizeof(id), "kvm-%d/vcpu-7", (int)getpid());
	check_id(open_stats(vcpu.fd), id);
}

static const char *const names_of_vm[] = {
    "remote_tlb_flush",
    "remote_tlb_flush_requests",
    "mmu_shadow_zapped",
    "mmu_pte_write",
    "mmu_pde_zapped",
    "mmu_flooded",
    "mmu_recycled",
    "mmu_cache_miss",
    "mmu_unsync",
    "pages_4k",
    "pages_2m",
    "pages_1g",
    "nx_lpage_splits",
    "max_mmu_rmap_size",
    "max_mmu_page_hash_collisions",
};
static const char *const names_of_vcpu[] = {
    "pf_taken",
    "pf_fixed",
    "pf_emulate",
    "pf_spurious",
    "pf_fast",
    "pf_mmio_spte_created",
    "pf_guest",
    "tlb_flush",
    "invlpg",
    "exits",
    "io_exits",
    "mmio_exits",
    "signal_exits",
    "halt_successful_poll",
    "halt_attempted_poll",
    "halt_poll_invalid",
    "halt_wakeup",
    "halt_poll_success_ns",
    "halt_poll_fail_ns",
    "halt_wait_ns",
    "halt_poll_success_hist",
    "halt_poll_fail_hist",
    "halt_wait_hist",
    "blocking",
    "irq_window_exits",
    "nmi_window_exits",
    "l1d_flush",
    "halt_exits",
    "request_irq_exits",
    "irq_exits",
    "host_state_reload",
    "fpu_reload",
    "insn_emulation",
    "insn_emulation_fail",
    "hypercalls",
    "irq_injections",
    "nmi_injections",
    "req_event",
    "nested_run",
    "directed_yield_attempted",
    "directed_yield_successful",
    "preemption_reported",
    "preemption_other",
    "guest_mode",
    "notify_window_exits",
};

static void names(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	for (size_t i = 0; i < sizeof(names_of_vm) / sizeof(names_of_vm[0]); i++)
		stat_get(vm.fd, names_of_vm[i]);
	for (size_t i = 0; i < sizeof(names_of_vcpu) / sizeof(names_of_vcpu[0]); i++)
		stat_get(vcpu.fd, names_of_vcpu[i]);
}

#define NAP_MS 60u

/* Opening statistics waits for the vCPU; reading them does not. */
static uint64_t value_in(int file, const char *name)
{
	struct descriptor *descriptors = read_descriptors(file);
	uint64_t value = UINT64_MAX;

	for (uint32_t i = 0; i < header.num_desc; i++)
		if (!strcmp(descriptors[i].name, name))
			CHECK_EQ(pread(file, &value, 8, header.data_offset + descriptors[i].offset),
				 8);
	free(descriptors);
	return value;
}

/* The buckets of a histogram add up to @wanted naps, none shorter than the test's. */
static void check_naps(uint64_t wanted)
{
	int file = open_stats(vcpu.fd);
	struct descriptor *descriptors = read_descriptors(file);
	uint64_t sum = 0, data[64];

	for (uint32_t i = 0; i < header.num_desc; i++) {
		const struct descriptor *desc = &descriptors[i];

		if (strcmp(desc->name, "halt_wait_hist"))
			continue;
		CHECK_EQ(desc->flags, KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS);
		CHECK_EQ(desc->exponent, -9);
		CHECK(desc->size <= 64);
		CHECK_EQ(pread(file, data, desc->size * 8ul, header.data_offset + desc->offset),
			 desc->size * 8ul);
		/* 2^25 ns is 34 ms. */
		for (uint32_t bucket = 0; bucket < desc->size; bucket++) {
			CHECK(!data[bucket] || bucket > 25);
			sum += data[bucket];
		}
	}
	CHECK_EQ(sum, wanted);
	free(descriptors);
	close(file);
}

/* How long a halted vCPU sleeps is counted, and that it does so now. */
static void halting(void)
{
	static const uint8_t halt[] = {0xf4, 0xe6, AGENT_PORT}; /* hlt; out */
	struct guest_thread thread;
	struct guest_op op = {.code = GUEST_CALL, .rbx = GPA};
	uint8_t *memory = memory_alloc(PAGE);
	int file;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	CHECK_OK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0));
	vm_add_agent(&vm);
	vcpu_open(&vm, &vcpu, 0);
	memcpy(memory, halt, sizeof(halt));
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)memory));
	file = open_stats(vcpu.fd);
	CHECK_EQ(value_in(file, "halt_wait_ns"), 0);
	for (uint64_t nap = 1; nap <= 2; nap++) {
		thread_start(&thread, &vcpu, &op);
		/* Its nap begins when the machine lets it. */
		for (int i = 0; i < 20000 && !value_in(file, "blocking"); i++)
			usleep(1000);
		CHECK_EQ(value_in(file, "blocking"), 1);
		CHECK(!thread_ended_within(&thread, NAP_MS));
		thread_kick(&thread);
		CHECK_END(thread_join(&thread), END_SIGNAL);
		CHECK_EQ(stat_get(vcpu.fd, "blocking"), 0);
		CHECK_EQ(stat_get(vcpu.fd, "halt_exits"), nap);
		CHECK(stat_get(vcpu.fd, "halt_wait_ns") >= nap * (NAP_MS - 20) * 1000000);
		check_naps(nap);
		/* Out of HLT, for the next. */
		CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_MP_STATE,
				 &(struct kvm_mp_state){KVM_MP_STATE_RUNNABLE}));
	}
	CHECK_EQ(stat_get(vcpu.fd, "halt_attempted_poll"), 0);
}

/* Read in small pieces it says the same. */
static void reading(void)
{
	struct kvm_stats_header again;
	uint8_t *nowhere = memory_alloc(PAGE);
	char bytes[8];
	int file;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	file = open_stats(vm.fd);
	for (size_t i = 0; i < sizeof(again); i++)
		CHECK_EQ(read(file, (char *)&again + i, 1), 1);
	CHECK_EQ(memcmp(&again, &header, sizeof(header)), 0);
	CHECK_OK(lseek(file, 0, SEEK_SET));
	CHECK_ERR(write(file, bytes, sizeof(bytes)), EBADF);
	CHECK_EQ(pread(file, bytes, sizeof(bytes), 1l << 40), 0);
	CHECK_ZERO(mprotect(nowhere, PAGE, PROT_NONE));
	CHECK_ERR(pread(file, nowhere, 8, 0), EFAULT);
}

/* The file keeps what it is about. */
static void outlives_its_descriptor(void)
{
	long run_bytes;
	int of_vm, of_vcpu;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	of_vcpu = open_stats(vcpu.fd);
	of_vm = open_stats(vm.fd);
	run_bytes = CHECK_OK(ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	CHECK_ZERO(munmap(vcpu.run, (size_t)run_bytes));
	close(vcpu.fd);
	close(vm.fd);
	close(vm.kvm);
	CHECK_EQ(pread(of_vm, &header, sizeof(header), 0), sizeof(header));
	check_file(of_vm);
	CHECK_ZERO(close(of_vm));
	CHECK_EQ(pread(of_vcpu, &header, sizeof(header), 0), sizeof(header));
	check_file(of_vcpu);
	CHECK_ZERO(close(of_vcpu));
}

static void counting(void)
{
	uint64_t pages, taken, fixed, exits, devices;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = GPA, .memory_size = 64 * PAGE,
			  .userspace_addr = (uintptr_t)memory_alloc(64 * PAGE)));
	guest_load(&vcpu, AGENT_GPA);
	pages = stat_get(vm.fd, "pages_4k");
	taken = stat_get(vcpu.fd, "pf_taken");
	fixed = stat_get(vcpu.fd, "pf_fixed");
	exits = stat_get(vcpu.fd, "exits");
	devices = stat_get(vcpu.fd, "mmio_exits");
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rbx = GPA, .rcx = 64, .rdx = PAGE), END_DONE);
	CHECK(stat_get(vm.fd, "pages_4k") >= pages + 64);
	CHECK(stat_get(vcpu.fd, "pf_taken") >= taken + 64);
	CHECK(stat_get(vcpu.fd, "pf_fixed") >= fixed + 64);
	CHECK(stat_get(vcpu.fd, "exits") > exits);
	CHECK_END(guest_try_load(&vcpu, 2 * GPA), END_MMIO);
	CHECK(stat_get(vcpu.fd, "mmio_exits") > devices);
	CHECK_ZERO(REGION(&vm, .slot = 5));
	CHECK_EQ(stat_get(vm.fd, "pages_4k"), 0);
}

/*
 * F-107. One fault of a VM that shadow pages serve fills the seven entries beside its own, where
 * the client has the pages; the TDP MMU, and a page that would have to be brought, take a fault
 * each.
 */
static void neighbours(void)
{
	uint8_t *memory = memory_alloc(64 * PAGE);
	uint64_t fixed, missing, present;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	memset(memory + 32 * PAGE, 1, 32 * PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 5, .guest_phys_addr = GPA, .memory_size = 64 * PAGE,
			  .userspace_addr = (uintptr_t)memory));
	guest_load(&vcpu, AGENT_GPA);
	fixed = stat_get(vcpu.fd, "pf_fixed");
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rbx = GPA, .rcx = 32, .rdx = PAGE), END_DONE);
	missing = stat_get(vcpu.fd, "pf_fixed") - fixed;
	CHECK_END(GUEST(&vcpu, GUEST_STORE_EACH, .rbx = GPA + 32 * PAGE, .rcx = 32, .rdx = PAGE),
		  END_DONE);
	present = stat_get(vcpu.fd, "pf_fixed") - fixed - missing;
	CHECK(missing >= 32);
	if (parameter_is_on("kvm", "tdp_mmu") && has_second_stage())
		CHECK(present >= 32);
	else
		CHECK(present >= 4 && present < 8);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(format_of_a_vm), TEST(format_of_a_vcpu),	 TEST(names),	 TEST(halting),
	    TEST(reading),	  TEST(outlives_its_descriptor), TEST(counting), TEST(neighbours),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
