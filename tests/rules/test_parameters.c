/*
 * Each module parameter that may be written acts when the write returns, on a guest inside one long
 * KVM_RUN, too; and by whatever call it is written.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define GPA 0x10000000ul
#define HUGE_PAGES 4ul
/* Words that host and guest share: a counter, and the flag that ends the guest's loop. */
#define WORDS_GPA 0x20000000ul
#define COUNT_GPA WORDS_GPA
#define STOP_GPA (WORDS_GPA + 8)

static struct vm vm;
static struct vcpu vcpu;
static uint8_t *memory, *words;

static int parameter_open(const char *name, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	return (int)CHECK_OK(open(path, flags | O_CLOEXEC));
}

static void parameter_set(const char *name, const char *text)
{
	int fd = parameter_open(name, O_WRONLY);

	CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static uint64_t count(void)
{
	return __atomic_load_n(word_at(words, 0), __ATOMIC_SEQ_CST);
}

/* The guest is in the loop, and stays in it without an exit to us. */
static void check_runs(struct guest_thread *thread)
{
	uint64_t before = count();

	for (int i = 0; count() == before && i < 20000; i++)
		usleep(1000);
	CHECK(count() != before);
	CHECK(!thread_ended_within(thread, 0));
}

static void stop(struct guest_thread *thread)
{
	__atomic_store_n(word_at(words, 8), 1, __ATOMIC_SEQ_CST);
	CHECK_END(thread_join(thread), END_DONE);
	__atomic_store_n(word_at(words, 8), 0, __ATOMIC_SEQ_CST);
}

static void open_memory(void)
{
	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	words = memory_alloc(PAGE);
	memset(words, 0, PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 2, .guest_phys_addr = WORDS_GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)words));
}

static void slot_set(uint32_t flags)
{
	CHECK_ZERO(REGION(&vm, .slot = 1, .flags = flags, .guest_phys_addr = GPA,
			  .memory_size = HUGE_PAGES * HUGE_PAGE,
			  .userspace_addr = (uintptr_t)memory));
}

/* Every page of the slot, as far as it is not logged, is one of 2 MiB in the guest's tables. */
static void map_huge(void)
{
	CHECK_END(GUEST(&vcpu, GUEST_LOAD_EACH, .rbx = GPA, .rcx = HUGE_PAGES * 512, .rdx = PAGE),
		  END_DONE);
	if (stat_get(vm.fd, "pages_2m") < HUGE_PAGES)
		check_skip("no huge pages");
}

static void open_huge(void)
{
	open_memory();
	memory = memory_alloc(HUGE_PAGES * HUGE_PAGE);
	if (madvise(memory, HUGE_PAGES * HUGE_PAGE, MADV_HUGEPAGE))
		check_skip("no huge pages");
	memset(memory, 1, HUGE_PAGES * HUGE_PAGE);
	slot_set(0);
}

static void start_counting(struct guest_thread *thread)
{
	thread_start(thread, &vcpu,
		     &(struct guest_op){.code = GUEST_COUNT, .rbx = COUNT_GPA, .rcx = STOP_GPA});
	check_runs(thread);
}

/* The start of a log splits, or leaves it to the first write. */
static void eager_page_split(void)
{
	struct guest_thread thread;

	if (!parameter_is_on("kvm", "tdp_mmu") || !has_second_stage())
		check_skip("what shadow pages map is split by the fault that writes it");
	open_huge();
	map_huge();
	start_counting(&thread);
	parameter_set("eager_page_split", "N");
	slot_set(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), HUGE_PAGES);
	slot_set(0);
	parameter_set("eager_page_split", "Y");
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), HUGE_PAGES);
	slot_set(KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 0);
	check_runs(&thread);
	stop(&thread);
}

/* With a log that begins full, each CLEAR decides anew. */
static void eager_page_split_at_clear(void)
{
	static uint64_t bitmap[HUGE_PAGES * 512 / 64];
	struct kvm_clear_dirty_log request = {.slot = 1, .num_pages = 512};
	struct guest_thread thread;

	if (!parameter_is_on("kvm", "tdp_mmu") || !has_second_stage())
		check_skip("what shadow pages map is split by the fault that writes it");
	memset(bitmap, 0xff, sizeof(bitmap));
	request.dirty_bitmap = bitmap;
	open_huge();
	CHECK_ZERO(
	    vm_enable_cap(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET));
	map_huge();
	start_counting(&thread);
	slot_set(KVM_MEM_LOG_DIRTY_PAGES);
	parameter_set("eager_page_split", "N");
	CHECK_ZERO(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &request));
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), HUGE_PAGES);
	parameter_set("eager_page_split", "Y");
	request.first_page = 512;
	CHECK_ZERO(ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &request));
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), HUGE_PAGES - 1);
	check_runs(&thread);
	stop(&thread);
}

/* incq COUNT_GPA; testb $1, STOP_GPA; jz back; out %al, $AGENT_PORT */
static const uint8_t loop[] = {0x48, 0xff, 0x04, 0x25, 0,    0,	   0,	 0x20, 0xf6, 0x04,
			       0x25, 8,	   0,	 0,    0x20, 0x01, 0x74, 0xee, 0xe6, AGENT_PORT};

static void start_at(struct guest_thread *thread, uint64_t gpa)
{
	thread_start(thread, &vcpu, &(struct guest_op){.code = GUEST_CALL, .rbx = gpa});
	check_runs(thread);
}

static int splits_come_to(uint64_t wanted)
{
	for (int i = 0; i < 2000; i++) {
		if (stat_get(vm.fd, "nx_lpage_splits") == wanted)
			return 1;
		usleep(5000);
	}
	return 0;
}

/* The page that the guest runs from is split at once; another is given back, once a period says so.
 */
static void nx_huge_pages(void)
{
	struct guest_thread thread;

	open_huge();
	for (uint64_t page = 0; page < HUGE_PAGES; page++)
		memcpy(memory + page * HUGE_PAGE, loop, sizeof(loop));
	map_huge();
	parameter_set("nx_huge_pages_recovery_ratio", "0");
	start_at(&thread, GPA);
	parameter_set("nx_huge_pages", "force");
	CHECK(splits_come_to(1));
	check_runs(&thread);
	stop(&thread);
	/* Now it runs from another, and the first may be large again. */
	start_at(&thread, GPA + HUGE_PAGE);
	CHECK_EQ(stat_get(vm.fd, "nx_lpage_splits"), 2);
	parameter_set("nx_huge_pages_recovery_period_ms", "20");
	usleep(200000);
	CHECK_EQ(stat_get(vm.fd, "nx_lpage_splits"), 2);
	parameter_set("nx_huge_pages_recovery_ratio", "1");
	CHECK(splits_come_to(0) || splits_come_to(1));
	check_runs(&thread);
	parameter_set("nx_huge_pages", "N");
	CHECK_EQ(stat_get(vm.fd, "nx_lpage_splits"), 0);
	check_runs(&thread);
	CHECK(stat_get(vm.fd, "pages_2m") >= 1);
	stop(&thread);
	parameter_set("nx_huge_pages_recovery_ratio", "60");
	parameter_set("nx_huge_pages_recovery_period_ms", "0");
}

/* The same loop, and RDMSR of a number that no MSR has before its end. */
static void unknown_msr(const char *ignore, enum end wanted)
{
	static const uint8_t rdmsr[] = {0xb9, 0x34, 0x12, 0x00, 0x00, 0x0f, 0x32, 0xe6, AGENT_PORT};
	struct guest_thread thread;

	memcpy(memory, loop, sizeof(loop) - 2);
	memcpy(memory + sizeof(loop) - 2, rdmsr, sizeof(rdmsr));
	start_at(&thread, GPA);
	parameter_set("ignore_msrs", ignore);
	__atomic_store_n(word_at(words, 8), 1, __ATOMIC_SEQ_CST);
	CHECK_END(thread_join(&thread), wanted);
	__atomic_store_n(word_at(words, 8), 0, __ATOMIC_SEQ_CST);
}

static void open_small(void)
{
	open_memory();
	memory = memory_alloc(PAGE);
	CHECK_ZERO(REGION(&vm, .slot = 1, .guest_phys_addr = GPA, .memory_size = PAGE,
			  .userspace_addr = (uintptr_t)memory));
}

static void ignore_msrs(void)
{
	open_small();
	parameter_set("report_ignored_msrs", "N");
	unknown_msr("Y", END_DONE);
	/* #GP, for which the guest has no handler. */
	unknown_msr("N", END_OTHER);
	parameter_set("report_ignored_msrs", "Y");
}

static void report_ignored_msrs(void)
{
	int before = dup(2), ends[2];
	char line[256];

	open_small();
	CHECK_ZERO(pipe2(ends, O_NONBLOCK | O_CLOEXEC));
	CHECK_EQ(dup2(ends[1], 2), 2);
	parameter_set("report_ignored_msrs", "N");
	unknown_msr("Y", END_DONE);
	CHECK_ERR(read(ends[0], line, sizeof(line)), EAGAIN);
	parameter_set("report_ignored_msrs", "Y");
	unknown_msr("Y", END_DONE);
	CHECK_EQ(dup2(before, 2), 2);
	CHECK(read(ends[0], line, sizeof(line)) > 0);
	parameter_set("ignore_msrs", "N");
}

/* What is left of a timer's count, which was set to one tick. */
static uint32_t current_count(void)
{
	const uint32_t periodic = 1u << 17 | 1u << 16 | 0x20, initial = 1, enabled = 0x1ff,
		       none = 0;
	struct kvm_lapic_state state;
	uint32_t current;

	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_LAPIC, &state));
	memcpy(state.regs + 0xf0, &enabled, sizeof(enabled));
	memcpy(state.regs + 0x320, &periodic, sizeof(periodic));
	memcpy(state.regs + 0x380, &initial, sizeof(initial));
	memcpy(state.regs + 0x390, &none, sizeof(none));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_LAPIC, &state));
	CHECK_ZERO(ioctl(vcpu.fd, KVM_GET_LAPIC, &state));
	memcpy(&current, state.regs + 0x390, sizeof(current));
	return current;
}

static void min_timer_period_us(void)
{
	struct kvm_cpuid2 *cpuid;

	vm_open(&vm, KVM_X86_DEFAULT_VM);
	cpuid = supported_cpuid(&vm);
	CHECK_ZERO(ioctl(vm.fd, KVM_CREATE_IRQCHIP));
	vcpu.fd = (int)CHECK_OK(ioctl(vm.fd, KVM_CREATE_VCPU, 0));
	/* Without CPUID a timer has one mode. */
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_CPUID2, cpuid));
	free(cpuid);
	CHECK(current_count() <= 200000);
	/* 4 s, in counts of 2 ns: more than passes here on a busy machine. */
	parameter_set("min_timer_period_us", "4000000");
	CHECK(current_count() > 1000000);
	parameter_set("min_timer_period_us", "200");
	CHECK(current_count() <= 200000);
}

static void tsc_tolerance_ppm(void)
{
	unsigned long khz, other;

	machine_open(&vm, &vcpu, KVM_X86_DEFAULT_VM);
	khz = (unsigned long)CHECK_OK(ioctl(vcpu.fd, KVM_GET_TSC_KHZ, 0));
	other = khz + khz / 100;
	if (ioctl(vm.kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0)
		check_skip("this KVM scales time stamps");
	CHECK_ERR(ioctl(vcpu.fd, KVM_SET_TSC_KHZ, other), EINVAL);
	parameter_set("tsc_tolerance_ppm", "20000");
	CHECK_ZERO(ioctl(vcpu.fd, KVM_SET_TSC_KHZ, other));
	parameter_set("tsc_tolerance_ppm", "250");
	CHECK_ERR(ioctl(vcpu.fd, KVM_SET_TSC_KHZ, other), EINVAL);
}

static int split_is(char wanted)
{
	char value = 0;
	int fd = parameter_open("eager_page_split", O_RDONLY);

	CHECK_EQ(read(fd, &value, 1), 1);
	close(fd);
	return value == wanted;
}

/* Every call that writes is looked at as write() is: what makes no sense is refused at once. */
static void each_way_to_write(void)
{
	struct iovec parts[] = {{"n", 1}, {"\n", 1}}, bad[] = {{"b", 1}, {"ad", 2}};
	int fd = parameter_open("eager_page_split", O_WRONLY);

	CHECK_EQ(pwrite(fd, "N", 1, 0), 1);
	CHECK(split_is('N'));
	CHECK_ERR(pwrite(fd, "bad", 3, 0), EINVAL);
	CHECK_ERR(pwrite(fd, "Y", 1, -1), EINVAL);
	CHECK(split_is('N'));
	CHECK_EQ(pwrite(fd, "Y", 1, 7), 1);
	CHECK(split_is('Y'));
	CHECK_EQ(writev(fd, parts, 2), 2);
	CHECK(split_is('N'));
	CHECK_ERR(writev(fd, bad, 2), EINVAL);
	CHECK_EQ(write(fd, "Y", 1), 1);
	CHECK_EQ(pwritev(fd, parts, 2, 0), 2);
	CHECK(split_is('N'));
	CHECK_EQ(pwritev2(fd, &(struct iovec){"Y", 1}, 1, -1, 0), 1);
	CHECK(split_is('Y'));
	CHECK_EQ(dprintf(fd, "N\n"), 2);
	CHECK(split_is('N'));
	CHECK_ERR(dprintf(fd, "bad\n"), EINVAL);
	CHECK(split_is('N'));
	/* Nothing is no value, as sysfs has it. */
	CHECK_ZERO(write(fd, "", 0));
	CHECK_ZERO(writev(fd, parts, 0));
	CHECK(split_is('N'));
	CHECK_EQ(write(fd, "Y", 1), 1);
	close(fd);
	fd = parameter_open("eager_page_split", O_RDONLY);
	CHECK_ERR(write(fd, "bad", 3), EBADF);
	close(fd);
}

/* The huge pages of a guest that runs are gone as soon as the stream is flushed. */
static void by_a_stream(void)
{
	FILE *stream = fopen("/sys/module/kvm/parameters/nx_huge_pages", "w");

	CHECK(stream);
	open_huge();
	map_huge();
	CHECK(fputs("force\n", stream) >= 0);
	CHECK_ZERO(fflush(stream));
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 0);
	CHECK(fputs("bad\n", stream) < 0 || fflush(stream) == EOF);
	CHECK_EQ(errno, EINVAL);
	(void)fclose(stream);
	parameter_set("nx_huge_pages", "N");
}

/* A shell's own "echo", whose stream libc made before there was a parameter behind it. */
static void by_a_standard_stream(void)
{
	int before = dup(1);

	open_huge();
	map_huge();
	fflush(stdout);
	CHECK_EQ(dup2(parameter_open("nx_huge_pages", O_WRONLY), 1), 1);
	CHECK(fputs("force\n", stdout) >= 0);
	CHECK_ZERO(fflush(stdout));
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 0);
	CHECK(fputs("bad\n", stdout) >= 0);
	CHECK_EQ(fflush(stdout), EOF);
	CHECK_EQ(errno, EINVAL);
	CHECK_EQ(dup2(before, 1), 1);
	CHECK(!parameter_is_on("kvm", "eager_page_split") || split_is('Y'));
	parameter_set("nx_huge_pages", "N");
}

/* A program that finds the parameter behind its standard output when it begins. */
static void by_another_program(void)
{
	int status = 0;
	pid_t child;

	open_huge();
	map_huge();
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		CHECK_EQ(dup2(parameter_open("nx_huge_pages", O_WRONLY), 1), 1);
		execl("/bin/echo", "echo", "force", (char *)NULL);
		_exit(1);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(stat_get(vm.fd, "pages_2m"), 0);
	parameter_set("nx_huge_pages", "N");
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(eager_page_split),	TEST(eager_page_split_at_clear), TEST(nx_huge_pages),
	    TEST(ignore_msrs),		TEST(report_ignored_msrs),	 TEST(min_timer_period_us),
	    TEST(tsc_tolerance_ppm),	TEST(each_way_to_write),	 TEST(by_a_stream),
	    TEST(by_a_standard_stream), TEST(by_another_program),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
